"""A UDP server on loopback whose every answer is scripted, well-behaved or hostile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any

Client = tuple[Any, ...]
Script = Callable[["UDPServer", bytes, Client], Iterable[bytes]]


class UDPServer(asyncio.DatagramProtocol):
    """Sends what `script` gives for each datagram. `requests` has every datagram that came."""

    def __init__(self, script: Script) -> None:
        self.requests: list[bytes] = []
        self.clients: list[Client] = []
        self.address = ""
        self.port = 0
        self._script = script
        self._asked = asyncio.Event()

    @property
    def pair(self) -> tuple[str, int]:
        return self.address, self.port

    async def wait_until_asked(self) -> None:
        """Return once a datagram has come."""
        async with asyncio.timeout(10):
            await self._asked.wait()

    def send(self, data: bytes, client: Client) -> None:
        self._transport.sendto(data, client)

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]
        self._transport = transport
        self.address, self.port = transport.get_extra_info("sockname")[:2]

    def datagram_received(self, data: bytes, addr: Client) -> None:
        self.requests.append(data)
        self.clients.append(addr)
        self._asked.set()
        for answer in self._script(self, data, addr):
            self.send(answer, addr)


@asynccontextmanager
async def serve_udp(script: Script, *, address: str = "127.0.0.1", port: int = 0) -> AsyncIterator[UDPServer]:
    """Run a server, by default on a free port."""
    loop = asyncio.get_running_loop()
    transport, server = await loop.create_datagram_endpoint(lambda: UDPServer(script), local_addr=(address, port))
    try:
        yield server
    finally:
        transport.close()
