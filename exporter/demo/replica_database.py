"""The connection of one simulated replica to the deployment's PostgreSQL, over a line of its own that can
be broken by itself. The replica measures its latency there, and writes its row there.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from typing import Any

import asyncpg

from exporter.demo.coder_report import DatabaseFacts
from exporter.demo.fault_proxy import FaultProxy
from exporter.demo.postgres import DATABASE, SUPERUSER
from exporter.demo.state import ReplicaFacts
from exporter.secret import Secret

PINGS = 5
_ROUNDS = 4
_FAST_SECONDS = 0.005
_CONNECT_SECONDS = 2.0
_GONE = (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError)


class ReplicaDatabase:
    """Keeps one connection and opens it again when it has broken. `line` is the way to PostgreSQL."""

    def __init__(self, line: FaultProxy, *, password: Secret) -> None:
        self.line = line
        self._password = password
        self._connection: Any = None
        self._lock = asyncio.Lock()
        self.latency_seconds = 0.0
        """Median of the last five pings."""

    async def ping(self, *, limit_seconds: float) -> DatabaseFacts:
        """Ping five times.

        All of the simulation shares one event loop, and what keeps that busy is no latency of the line: slow
        pings are repeated, and the best round counts.
        """
        best: tuple[float, ...] = ()
        try:
            async with asyncio.timeout(limit_seconds), self._lock:
                connection = await self._connect()
                for _ in range(_ROUNDS):
                    seconds = [await _ping(connection) for _ in range(PINGS)]
                    best = min(filter(None, (best, tuple(seconds))), key=statistics.median)
                    if statistics.median(best) < _FAST_SECONDS:
                        break
        except _GONE as error:
            # what was measured before the time was over is good
            if not best:
                self._drop()
                return DatabaseFacts(error=_say(error))
        self.latency_seconds = statistics.median(best)
        return DatabaseFacts(ping_seconds=best)

    async def write_replica(self, facts: ReplicaFacts, *, region_id: int) -> bool:
        """Write the replica's row, as it does every few seconds; return whether that went well."""
        try:
            async with asyncio.timeout(_CONNECT_SECONDS), self._lock:
                connection = await self._connect()
                await connection.execute(
                    'INSERT INTO replicas (id, region_id, "primary", hostname, relay_address, version,'
                    " database_latency)"
                    " VALUES ($1::text::uuid, $2, true, $3, $4, $5, $6) ON CONFLICT (id) DO UPDATE SET hostname = $3,"
                    " relay_address = $4, version = $5, database_latency = $6, stopped_at = NULL, updated_at = now()",
                    facts.id,
                    region_id,
                    facts.name,
                    facts.relay_address,
                    facts.version,
                    round(self.latency_seconds * 1e6),
                )
        except _GONE:
            self._drop()
            return False
        return True

    def close(self) -> None:
        """Close the connection."""
        self._drop()

    async def _connect(self) -> Any:
        if self._connection is None or self._connection.is_closed():
            self._connection = await asyncpg.connect(
                host=self.line.host,
                port=self.line.port,
                user=SUPERUSER,
                password=self._password.reveal(),
                database=DATABASE,
                ssl=False,
                timeout=_CONNECT_SECONDS,
            )
        return self._connection

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.terminate()


async def _ping(connection: Any) -> float:
    began = time.monotonic()
    await connection.execute("SELECT 1")
    return time.monotonic() - began


def _say(error: BaseException) -> str:
    return "context deadline exceeded" if isinstance(error, TimeoutError) else str(error) or type(error).__name__
