"""The simulated relay over HTTP, as real relays answer: the upgrade, fast start, WebSocket, and other requests."""

from __future__ import annotations

import asyncio

import aiohttp
import pytest
from aiohttp import WSMsgType, web

from exporter.demo.relay import SimulatedRelay
from exporter.demo.server import SimulatedServer
from exporter.wire import derp_frames
from exporter.wire.derp_frames import FrameType


class RelayOnly(SimulatedServer):
    """A server that has a relay and nothing else."""

    def routes(self) -> list[web.RouteDef]:
        return []


async def test_without_an_upgrade_it_is_426(http: aiohttp.ClientSession) -> None:
    """As real relays say it; the latency check is an empty 200."""
    async with RelayOnly(relay=SimulatedRelay()) as server:
        for path in ("/derp", "/derp/"):
            async with http.get(server.url + path) as answer:
                assert (426, "DERP requires connection upgrade\n") == (answer.status, await answer.text())
        async with http.get(f"{server.url}/derp/latency-check") as answer:
            assert (200, b"") == (answer.status, await answer.read())


async def test_a_websocket_without_the_subprotocol_gets_a_raw_answer(http: aiohttp.ClientSession) -> None:
    """Such a request falls through to the raw upgrade, as with real relays."""
    async with RelayOnly(relay=SimulatedRelay(), families=("ipv4",)) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(
            b"GET /derp HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
        )
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: DERP\r\n")
        assert FrameType.SERVER_KEY == (await reader.readexactly(45))[0]
        writer.close()


@pytest.mark.parametrize(("length", "code"), [(32768, None), (32769, 1009)])
async def test_websocket_messages_have_a_limit(length: int, code: int | None, http: aiohttp.ClientSession) -> None:
    """Tailscale's relay closes with 1009 above 32768 bytes; so does this one, and text is 1003."""
    async with RelayOnly(relay=SimulatedRelay()) as server:
        async with http.ws_connect(f"{server.url}/derp", protocols=("derp",)) as socket:
            assert "derp" == socket.protocol
            await socket.receive_bytes()
            login = derp_frames.encode_frame(FrameType.CLIENT_INFO, bytes(length - 5))
            await socket.send_bytes(login)
            message = await socket.receive()
            # the login is nonsense: one that is read ends the connection without a reason
            assert (WSMsgType.CLOSE, code or 1000) == (message.type, message.data)
        async with http.ws_connect(f"{server.url}/derp", protocols=("derp",)) as socket:
            await socket.receive_bytes()
            await socket.send_str("hello")
            assert 1003 == (await socket.receive()).data


async def test_requests_in_pieces_find_their_way(http: aiohttp.ClientSession) -> None:
    """However the bytes of a request come, the HTTP server or the relay gets them whole."""
    async with RelayOnly(relay=SimulatedRelay(), families=("ipv4",)) as server:
        for request, first in (
            (b"GET /derp/latency-check HTTP/1.1\r\nHost: x\r\n\r\n", b"H"),
            (b"POST /derp HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n", b"H"),
            (b"GET /derp HTTP/1.1\r\nHost: x\r\nUpgrade: DERP\r\nDerp-Fast-Start: 1\r\n\r\n", b"\x01"),
        ):
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            for index in range(len(request)):
                writer.write(request[index : index + 1])
                await writer.drain()
            assert first == await reader.readexactly(1)
            writer.close()
