"""A simulated relay on an HTTP server: the raw upgrade, fast start, and WebSocket.

In: requests for /derp of a simulated server. Out: the connection, handed to the relay's client.

Source: derp-stun, sections 1.2 to 1.6
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import cast

from aiohttp import WSCloseCode, WSMsgType, web

from exporter.demo.faults import FOREIGN, wants_websocket
from exporter.demo.relay import RelayClient, SimulatedRelay, Stall
from exporter.wire.derp_frames import MAX_WEBSOCKET_MESSAGE_BYTES

_MAX_HEAD_BYTES = 65536
_UPGRADE_NEEDED = "DERP requires connection upgrade\n"


def routes(relay: SimulatedRelay) -> list[web.RouteDef]:
    """Return what a server answers that has this relay."""
    front = _Front(relay)
    return [
        web.get("/derp", front.answer),
        web.get("/derp/", front.answer),
        web.get("/derp/latency-check", front.answer_latency_check),
    ]


class _Front:
    def __init__(self, relay: SimulatedRelay) -> None:
        self._relay = relay

    async def answer_latency_check(self, _request: web.Request) -> web.Response:
        return web.Response()

    async def answer(self, request: web.Request) -> web.StreamResponse:
        faults = self._relay.faults
        if faults.stall is Stall.BEFORE_ANSWER:
            await asyncio.Event().wait()
        by_websocket = wants_websocket(request)
        raw = request.headers.get("Upgrade", "").lower() == "derp"
        status = faults.websocket_status if by_websocket else faults.raw_status
        if status is not None and (raw or by_websocket):
            if faults.foreign:
                request[FOREIGN] = True
            headers = {} if faults.location is None else {"Location": faults.location}
            return web.Response(status=status, text=faults.page, headers=headers)
        if by_websocket and "derp" in request.headers.get("Sec-WebSocket-Protocol", ""):
            return await self._serve_websocket(request)
        if raw or by_websocket:
            return await self._serve_raw(request)
        return web.Response(status=426, text=_UPGRADE_NEEDED, headers={"Upgrade": "DERP", "Connection": "Upgrade"})

    async def _serve_raw(self, request: web.Request) -> web.StreamResponse:
        """Take the connection from the HTTP server. It is told when the connection ends, and that
        ends this handler."""
        transport = request.transport
        if transport is None:
            raise ConnectionResetError  # it went away meanwhile
        protocol = RawConnection(self._relay, over=request.protocol.connection_lost)
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        protocol.accept()
        await asyncio.Event().wait()
        return web.Response()

    async def _serve_websocket(self, request: web.Request) -> web.StreamResponse:
        # the limit of aiohttp is the first size that it does not take
        socket = web.WebSocketResponse(
            protocols=("derp",), compress=False, max_msg_size=MAX_WEBSOCKET_MESSAGE_BYTES + 1, autoping=True
        )
        await socket.prepare(request)
        outgoing: asyncio.Queue[bytes | None] = asyncio.Queue()
        client = RelayClient(self._relay, write=outgoing.put_nowait, close=lambda: outgoing.put_nowait(None))
        async with asyncio.TaskGroup() as group:
            writing = group.create_task(self._write(socket, outgoing))
            outgoing.put_nowait(client.begin())
            try:
                async for message in socket:
                    if message.type is not WSMsgType.BINARY:
                        await socket.close(code=WSCloseCode.UNSUPPORTED_DATA)
                        break
                    client.bytes_received(message.data)
            finally:
                client.ended()
                writing.cancel()
        return socket

    async def _write(self, socket: web.WebSocketResponse, outgoing: asyncio.Queue[bytes | None]) -> None:
        """Send what is there in messages whose boundaries mean nothing, until None comes."""
        last = False
        with contextlib.suppress(ConnectionError):
            while not last:
                waiting = [await outgoing.get()]
                while not outgoing.empty():
                    waiting.append(outgoing.get_nowait())
                last = None in waiting
                data = b"".join(piece for piece in waiting if piece is not None)
                step = self._relay.faults.piece_bytes or max(1, len(data))
                for start in range(0, len(data), step):
                    await socket.send_bytes(data[start : start + step])
            await socket.close()


class RawConnection(asyncio.Protocol):
    """A connection that speaks frames from now on.

    Args:
        over: Told when it ends.
    """

    def __init__(self, relay: SimulatedRelay, *, over: Callable[[Exception | None], None] | None = None) -> None:
        self._relay = relay
        self._told = over
        self._transport: asyncio.Transport
        self._client: RelayClient

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transport for TLS is one in all but its class
        self._transport = cast(asyncio.Transport, transport)
        self._client = RelayClient(
            self._relay, write=self._transport.write, close=self._transport.close, transport=self._transport
        )

    def accept(self, *, fast_start: bool = False) -> None:
        """Answer the upgrade, in one write with the greeting as real relays do; with a fast start
        there is no answer."""
        head = b"" if fast_start else self._answer()
        self._transport.write(head + self._client.begin())

    def _answer(self) -> bytes:
        return (
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: DERP\r\nConnection: Upgrade\r\nDerp-Version: 2\r\n"
            b"Derp-Public-Key: " + self._relay.header_key.hex().encode() + b"\r\n\r\n"
        )

    def data_received(self, data: bytes) -> None:
        self._client.bytes_received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._client.ended()
        if self._told is not None:
            self._told(exc)


class Gate(asyncio.Protocol):
    """What a connection meets first: a fast start goes to the relay, all else to the HTTP server.

    Real clients send their login right behind the request of a fast start, which no HTTP parser
    would understand. Source: derp-stun, section 1.4
    """

    def __init__(self, relay: SimulatedRelay, http: Callable[[], asyncio.Protocol]) -> None:
        self._relay = relay
        self._http = http
        self._head = bytearray()
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transport for TLS is one in all but its class
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._head += data
        head, end, rest = bytes(self._head).partition(b"\r\n\r\n")
        if not end and len(self._head) <= _MAX_HEAD_BYTES and b"GET /derp".startswith(head[:9]):
            return  # it may become one
        if end and _is_fast_start(head):
            relay = RawConnection(self._relay)
            self._transport.set_protocol(relay)
            relay.connection_made(self._transport)
            relay.accept(fast_start=True)
            if rest:
                relay.data_received(rest)
            return
        http = self._http()
        self._transport.set_protocol(http)
        http.connection_made(self._transport)
        http.data_received(bytes(self._head))


def _is_fast_start(head: bytes) -> bool:
    request, *headers = head.lower().split(b"\r\n")
    return (
        request.split(b" ")[1:2] in ([b"/derp"], [b"/derp/"])
        and b"upgrade: derp" in headers
        and b"derp-fast-start: 1" in headers
    )
