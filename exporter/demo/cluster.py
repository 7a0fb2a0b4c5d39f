"""The replicas of coderd behind the access URL, and the provisioner daemons of their organization: rows
that beat in the tables, versions that can be rolled out.
"""

from __future__ import annotations

import asyncio
import ssl
import uuid
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from exporter.clock import Clock
from exporter.demo.coderd import SimulatedCoder
from exporter.demo.database import SimulatedDatabase
from exporter.demo.fault_proxy import FaultProxy
from exporter.demo.inside import Inside, Surroundings
from exporter.demo.relay import SimulatedRelay
from exporter.demo.replica import SimulatedReplica
from exporter.demo.replica_database import ReplicaDatabase
from exporter.demo.state import DaemonFacts

REPLICAS = ("coderd-0", "coderd-1", "coderd-2")
# Source: coder-interfaces, section 4.5
BEAT_SECONDS = 5.0
_IDS = uuid.UUID("7c1b6f6e-6d0e-4f0a-9b58-3f1d2f6f9a10")
# Some of them take every job, one only those that say so.
_DAEMONS = {
    "builder-0": {"owner": "", "scope": "organization"},
    "builder-1": {"owner": "", "scope": "organization"},
    "builder-eu": {"owner": "", "scope": "organization", "region": "eu"},
}
_DAEMON_AGE_SECONDS = 3 * 86400.0


class Cluster:
    """Three replicas and three provisioner daemons, that run while it is entered.

    Args:
        front: What answers at the access URL. Its reports are those of the first replica that is up.
        mesh: The relays that those of the replicas form a mesh with.
        database: None: the simulation has none.

    Attributes:
        replicas: By name.
        held: Daemons that show no sign of life any more.
    """

    def __init__(
        self,
        front: SimulatedCoder,
        *,
        surroundings: Surroundings,
        mesh: list[SimulatedRelay],
        database: SimulatedDatabase | None,
        certificate: Path,
        trust: ssl.SSLContext,
        clock: Clock,
    ) -> None:
        self._front = front
        self._surroundings = surroundings
        self._mesh = mesh
        self._database = database
        self._certificate = certificate
        self._trust = trust
        self._clock = clock
        self._stack = AsyncExitStack()
        self.replicas: dict[str, SimulatedReplica] = {}
        self.held: set[str] = set()

    @property
    def daemons(self) -> dict[str, DaemonFacts]:
        """The daemons as Coder's tables have them."""
        return self._front.state.daemons

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            for name in REPLICAS:
                self.replicas[name] = await self._start_replica(stack, name)
            now = self._clock.now()
            for name, tags in _DAEMONS.items():
                self.daemons[name] = DaemonFacts(
                    id=str(uuid.uuid5(_IDS, name)),
                    name=name,
                    version=self._front.version,
                    tags=tags,
                    created_timestamp_seconds=now - _DAEMON_AGE_SECONDS,
                    last_seen_timestamp_seconds=now,
                )
            await self.beat()
            self._front.read_report = self._read_report
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def _start_replica(self, stack: AsyncExitStack, name: str) -> SimulatedReplica:
        hairpin = await stack.enter_async_context(FaultProxy("127.0.0.1", self._front.port))
        own: ReplicaDatabase | None = None
        if self._database is not None:
            line = await stack.enter_async_context(self._database.make_line())
            own = ReplicaDatabase(line, password=self._database.server.superuser_password)
            stack.callback(own.close)
        inside = Inside(self._surroundings, hairpin=hairpin, trust=self._trust, database=own)
        return await stack.enter_async_context(
            SimulatedReplica(
                self._front,
                name=name,
                id=str(uuid.uuid5(_IDS, name)),
                clock=self._clock,
                mesh=self._mesh,
                inside=inside,
                database=own,
                certificate=self._certificate,
            )
        )

    async def keep_beating(self) -> None:
        """Show signs of life until cancelled."""
        while True:
            await self._clock.sleep(BEAT_SECONDS)
            await self.beat()

    async def beat(self) -> None:
        """Let every replica and every daemon that lives show that it does."""
        now = self._clock.now()
        async with asyncio.TaskGroup() as group:
            for replica in self.replicas.values():
                group.create_task(replica.beat())
            for name in self.daemons.keys() - self.held:
                group.create_task(self.change_daemon(name, last_seen_timestamp_seconds=now))

    async def change_daemon(self, name: str, **facts: Any) -> None:
        """Write other facts of a daemon; reports that were made before stay as they are."""
        self.daemons[name] = replace(self.daemons[name], **facts)
        if self._database is not None:
            await self._database.write_daemon(self.daemons[name])

    async def change_version(self, name: str, version: str) -> None:
        """Let a replica restart with another version. The front shows that of the first one."""
        replica = self.replicas[name]
        replica.version = version
        replica.forget_report()
        if name == REPLICAS[0]:
            self._front.version = version
        await replica.beat()

    def forget_reports(self) -> None:
        """Let all replicas find out anew."""
        self._surroundings.forget()
        for replica in self.replicas.values():
            replica.forget_report()

    async def _read_report(self, force: bool) -> dict[str, Any]:
        up = (replica for replica in self.replicas.values() if replica.listener.listening)
        return await next(up, self.replicas[REPLICAS[0]]).report(force)
