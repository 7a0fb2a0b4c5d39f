"""Connections of ours to scripted servers."""

from __future__ import annotations

import asyncio
import ssl

from exporter.clock import SystemClock
from exporter.errors import ProbeError
from exporter.net.connection import Connection
from exporter.net.deadline import until
from exporter.wire.url import Origin
from tests.support.scripted_server import ScriptedServer


class Listener:
    """A receiver that keeps what it hears."""

    def __init__(self) -> None:
        self.heard = bytearray()
        self.ready = False
        self.over = asyncio.Event()
        self.error: ProbeError | None = None
        self._wanted_bytes = 0
        self._enough = asyncio.Event()

    async def hear(self, count: int) -> bytes:
        """Return everything once so many bytes have come."""
        self._wanted_bytes = count
        self._enough.clear()
        self._check()
        async with asyncio.timeout(10):
            await self._enough.wait()
        return bytes(self.heard)

    def _check(self) -> None:
        if len(self.heard) >= self._wanted_bytes:
            self._enough.set()

    def connected(self, connection: Connection) -> None:
        self.ready = True

    def bytes_received(self, data: bytes) -> None:
        self.heard += data
        self._check()

    def ended(self, error: ProbeError | None) -> None:
        assert not self.over.is_set()
        self.error = error
        self.over.set()


def connect_to(
    server: ScriptedServer,
    *,
    listener: Listener | None = None,
    host: str | None = None,
    scheme: str | None = None,
    ssl_context: ssl.SSLContext | None = None,
    certificate_name: str | None = None,
) -> Connection:
    """Return a connection that is not yet opened."""
    origin = Origin(scheme=scheme or ("https" if server.tls else "http"), host=host or server.address, port=server.port)
    return Connection(
        listener or Listener(),
        origin=origin,
        address=server.address,
        clock=SystemClock(),
        ssl_context=ssl_context,
        certificate_name=certificate_name,
    )


async def open_connection(connection: Connection, *, seconds: float = 10.0) -> None:
    """Open it within a budget; the caller closes."""
    clock = SystemClock()
    async with until(clock.monotonic() + seconds, clock):
        await connection.open()
