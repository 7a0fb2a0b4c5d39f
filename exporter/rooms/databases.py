"""Coder's databases as rooms use them: the connections that are kept, and what reads tables through them.

In: targets with a connection string. Out: measurements, and what reads lists. Loaded only where a
configuration has a database: the driver costs some 3 MB.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

from exporter.clock import Clock
from exporter.health.database import DatabaseResult
from exporter.net.coder_daemons import DaemonTables
from exporter.net.coder_replicas import ReplicaTable
from exporter.net.coder_tables import CoderTables
from exporter.net.postgres import Session
from exporter.probes import database as database_probe
from exporter.secret import Secret
from exporter.targets.discovery import ReadTables
from exporter.targets.model import DatabaseTarget, ProvisionerDaemonsTarget, Target, WorkspaceProxiesTarget
from exporter.targets.replica_watch import ReadTable
from exporter.wire.postgres_url import parse_postgres_url


class Databases:
    """The connections, one of its own for each schedule entry: two conversations on one would wait for each
    other, and be measured."""

    def __init__(self, *, clock: Clock) -> None:
        self._clock = clock
        self._sessions: dict[str, Session] = {}
        self._daemon_tables: dict[str, DaemonTables] = {}

    async def close(self) -> None:
        """Give back what is kept open, side by side: each may take its time to say goodbye."""
        sessions = list(self._sessions.values())
        self._sessions.clear()
        async with asyncio.TaskGroup() as group:
            for session in sessions:
                group.create_task(session.close())

    def probe(self, target: DatabaseTarget) -> Awaitable[DatabaseResult]:
        """Measure a database."""
        session = self._session(
            target, target.url, fresh_connection_interval_seconds=target.fresh_connection_interval_seconds
        )
        return database_probe.probe(target, session=session, clock=self._clock)

    def read_proxies(self, target: WorkspaceProxiesTarget) -> ReadTables | None:
        """Return what reads the workspace proxies; None without a connection string."""
        if target.database_url is None:
            return None
        tables = CoderTables(self._session(target, target.database_url))
        return lambda timeout_seconds: tables.read_workspace_proxies(timeout_seconds=timeout_seconds)

    def daemon_tables(self, target: ProvisionerDaemonsTarget) -> DaemonTables | None:
        """Return what reads the provisioner daemons, kept from run to run; None without a connection string."""
        tables = self._daemon_tables.get(target.schedule_name)
        if tables is None and target.database_url is not None:
            tables = DaemonTables(self._session(target, target.database_url))
            self._daemon_tables[target.schedule_name] = tables
        return tables

    def read_replicas(self, deployment: str, url: Secret) -> ReadTable:
        """Return what reads the table of the replicas, on a connection of its own."""
        name = f"{deployment}/replicas"
        self._sessions[name] = Session(parse_postgres_url(url.reveal()), clock=self._clock, timeout_seconds=5.0)
        table = ReplicaTable(self._sessions[name])
        return lambda timeout_seconds: table.read(timeout_seconds=timeout_seconds)

    def _session(self, target: Target, url: Secret, **options: float) -> Session:
        session = self._sessions.get(target.schedule_name)
        if session is None:
            session = Session(
                parse_postgres_url(url.reveal()), clock=self._clock, timeout_seconds=target.timeout_seconds, **options
            )
            self._sessions[target.schedule_name] = session
        return session
