"""STUN servers of the simulation, on several addresses of loopback, and their faults.

Source: derp-stun, section 4
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from exporter.errors import WireError
from exporter.wire import stun


@dataclass(slots=True, kw_only=True)
class StunFaults:
    """What goes wrong at a STUN server; changed at any time.

    Args:
        silent: It answers nothing.
        ignore_next: So many requests are not answered, and then all.
        garbage: It answers with bytes that are no STUN.
        error: It answers with an error response.
        port_offset: It tells clients another port: as a hard NAT would make them appear.
        largest_bytes: Longer IP packets get lost on the way.
    """

    silent: bool = False
    ignore_next: int = 0
    garbage: bool = False
    error: bool = False
    port_offset: int = 0
    largest_bytes: int | None = None


class SimulatedStun(asyncio.DatagramProtocol):
    """One STUN server, that answers what Tailscale's answers.

    Args:
        address: An address of loopback.
    """

    def __init__(self, address: str = "127.0.0.1") -> None:
        self.address = address
        self.port = 0
        self.faults = StunFaults()
        self.requests = 0
        self._transport: asyncio.DatagramTransport | None = None
        self._closed = asyncio.Event()
        self._closed.set()

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
        await self.closed()

    @property
    def host_and_port(self) -> str:
        """Where it answers, as URLs write it."""
        return f"[{self.address}]:{self.port}" if ":" in self.address else f"{self.address}:{self.port}"

    async def open(self) -> None:
        """Answer, at the same port as before."""
        if self._transport is None:
            await self.closed()
            loop = asyncio.get_running_loop()
            self._transport, _ = await loop.create_datagram_endpoint(lambda: self, local_addr=(self.address, self.port))
            self._closed.clear()
            self.port = self._transport.get_extra_info("sockname")[1]

    def close(self) -> None:
        """Close the port: who asks is told so by the system."""
        if self._transport is not None:
            self._transport.abort()
            self._transport = None

    async def closed(self) -> None:
        """Wait until the system has the port back."""
        await self._closed.wait()

    def connection_lost(self, exc: Exception | None) -> None:
        self._closed.set()

    def datagram_received(self, data: bytes, addr: tuple[str | Any, int]) -> None:
        faults = self.faults
        self.requests += 1
        header_bytes = 48 if ":" in self.address else 28
        if faults.ignore_next > 0:
            faults.ignore_next -= 1
            return
        if faults.silent or self._transport is None:
            return
        if faults.largest_bytes is not None and len(data) + header_bytes > faults.largest_bytes:
            return
        try:
            transaction_id = stun.parse_binding_request(data)
        except WireError:
            return
        if faults.garbage:
            answer = b"\xff" * 32
        elif faults.error:
            answer = b"\x01\x11\x00\x08" + data[4:20] + b"\x00\x09\x00\x04\x00\x00\x05\x00"
        else:
            port = (addr[1] + faults.port_offset) % 65536
            answer = stun.build_binding_response(transaction_id, addr[0], port)
        self._transport.sendto(answer, addr)
