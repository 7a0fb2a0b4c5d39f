"""Websockets against a real server, and against scripted ones that break the rules."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.server import Server, ServerConnection
from websockets.asyncio.server import serve as serve_websockets

from exporter.clock import SystemClock
from exporter.errors import ConnectError, DeadlineError, Phase, ProtocolError, TLSError
from exporter.net.http import Exchange
from exporter.net.tls import load_ssl_context
from exporter.net.websocket import WebSocket, open_websocket
from exporter.wire.url import Origin
from tests.support.certificates import Authority, serve_self_signed
from tests.support.scripted_server import Reader, Script, answer, flood, hang, reset, serve

CLOCK = SystemClock()


async def open_at(port: int, *, seconds: float = 10.0, scheme: str = "http", **more: Any) -> WebSocket | Exchange:
    return await open_websocket(
        Origin(scheme=scheme, host="127.0.0.1", port=port),
        "/api/v2/debug/ws",
        address="127.0.0.1",
        deadline_seconds=CLOCK.monotonic() + seconds,
        clock=CLOCK,
        ssl_context=more.pop("ssl_context", None),
        **more,
    )


async def open_socket(port: int, **more: Any) -> WebSocket:
    opened = await open_at(port, **more)
    assert isinstance(opened, WebSocket), opened
    return opened


async def be_refused(port: int, **more: Any) -> Exchange:
    refused = await open_at(port, **more)
    assert isinstance(refused, Exchange)
    return refused


@asynccontextmanager
async def real_server(handler: Callable[[ServerConnection], Awaitable[None]], **more: Any) -> AsyncIterator[int]:
    server: Server
    async with serve_websockets(handler, "127.0.0.1", 0, **more) as server:
        yield next(iter(server.sockets)).getsockname()[1]


async def echo(connection: ServerConnection) -> None:
    async for message in connection:
        await connection.send(message)


# ---- a real server


async def test_text_comes_back_as_text_and_bytes_as_bytes() -> None:
    """Messages keep their kind; phases and address are those of the handshake."""
    async with real_server(echo) as port, await open_socket(port) as opened:
        await opened.send_text("grüße")
        assert "grüße" == await opened.receive()
        await opened.send_bytes(b"\x00\xff")
        assert b"\x00\xff" == await opened.receive()
        assert {Phase.CONNECT, Phase.PROCESSING, Phase.TRANSFER} == opened.phase_seconds.keys()
        assert "127.0.0.1" == opened.address
        assert 101 == opened.exchange.status


async def test_headers_and_subprotocol_reach_the_server() -> None:
    """Extra headers are sent; the chosen subprotocol is told; the Host is that of the origin."""
    seen: dict[str, str] = {}

    async def handler(connection: ServerConnection) -> None:
        assert connection.request is not None
        seen.update(connection.request.headers.raw_items())

    async with real_server(handler, subprotocols=["derp"]) as port:
        opened = await open_socket(port, headers={"Coder-Session-Token": "secret"}, subprotocols=["derp"])
        await opened.close()
        assert "derp" == opened.subprotocol
    assert "secret" == seen["Coder-Session-Token"]
    assert f"127.0.0.1:{port}" == seen["Host"]
    assert seen["User-Agent"].startswith("coder-health-exporter/")
    assert "Sec-WebSocket-Extensions" not in seen


async def test_a_message_that_comes_with_the_handshake_is_not_lost() -> None:
    """A server that sends at once is heard."""

    async def handler(connection: ServerConnection) -> None:
        await connection.send(b"map")
        await connection.wait_closed()

    async with real_server(handler) as port, await open_socket(port) as opened:
        assert b"map" == await opened.receive()


async def test_leaving_says_goodbye_with_1001() -> None:
    """The server sees a proper closing handshake with Coder's own code."""
    codes: list[int | None] = []

    async def handler(connection: ServerConnection) -> None:
        await connection.wait_closed()
        codes.append(connection.close_code)

    async with real_server(handler) as port, await open_socket(port):
        pass
    assert [1001] == codes


async def test_leaving_with_an_exception_goes_at_once() -> None:
    """With trouble under way nobody waits for goodbyes."""
    closed = asyncio.Event()

    async def handler(connection: ServerConnection) -> None:
        await connection.wait_closed()
        closed.set()

    async with real_server(handler) as port:
        with pytest.raises(RuntimeError, match="trouble"):
            async with await open_socket(port):
                raise RuntimeError("trouble")
        async with asyncio.timeout(5):
            await closed.wait()


async def test_pings_are_answered() -> None:
    """A ping from the server gets its pong while we wait for a message."""

    async def handler(connection: ServerConnection) -> None:
        await (await connection.ping())
        await connection.send("after the pong")
        await connection.wait_closed()

    async with real_server(handler, ping_interval=None) as port, await open_socket(port) as opened:
        assert "after the pong" == await opened.receive()


async def test_a_message_in_fragments_is_one_message() -> None:
    """Fragments are put together, control frames between them do not disturb."""

    async def handler(connection: ServerConnection) -> None:
        async def pieces() -> AsyncIterator[str]:
            for piece in ("one ", "two ", "three"):
                yield piece
                await connection.ping()

        await connection.send(pieces())
        await connection.wait_closed()

    async with real_server(handler, ping_interval=None) as port, await open_socket(port) as opened:
        assert "one two three" == await opened.receive()


async def test_the_peers_close_is_told_with_its_code() -> None:
    """A server that closes gives what was sent before, then an error with code and reason."""

    async def handler(connection: ServerConnection) -> None:
        await connection.send("last")
        await connection.close(1011, "no more")

    async with real_server(handler) as port, await open_socket(port) as opened:
        assert "last" == await opened.receive()
        with pytest.raises(ProtocolError, match="1011 'no more'"):
            await opened.receive()
        with pytest.raises(ProtocolError, match="1011"):
            await opened.send_text("too late")


async def test_over_tls(tmp_path: Path) -> None:
    """A websocket over TLS works alike and has the handshake's phase and certificates."""
    authority = Authority(tmp_path)
    context = await load_ssl_context(authority.ca_file)
    async with (
        real_server(echo, ssl=authority.serve("127.0.0.1")) as port,
        await open_socket(port, scheme="https", ssl_context=context) as opened,
    ):
        await opened.send_text("0")
        assert "0" == await opened.receive()
        assert Phase.TLS in opened.phase_seconds
        assert opened.exchange.certificates is not None


# ---- time


async def test_waiting_for_a_message_ends_at_the_deadline() -> None:
    """The deadline of the opening holds for messages too; another one can be given."""

    async def handler(connection: ServerConnection) -> None:
        await connection.wait_closed()

    async with real_server(handler) as port, await open_socket(port, seconds=5.0) as opened:
        started = CLOCK.monotonic()
        with pytest.raises(DeadlineError) as caught:
            await opened.receive(deadline_seconds=started + 0.3)
        assert CLOCK.monotonic() - started < 1.5
        assert Phase.TRANSFER is caught.value.phase


async def test_cancelling_a_wait_closes_the_socket() -> None:
    """A cancelled reader leaves the context at once, and the server sees it."""
    closed, waiting = asyncio.Event(), asyncio.Event()

    async def handler(connection: ServerConnection) -> None:
        waiting.set()
        await connection.wait_closed()
        closed.set()

    async def read(port: int) -> None:
        async with await open_socket(port) as opened:
            await opened.receive()

    async with real_server(handler) as port:
        task = asyncio.create_task(read(port))
        await waiting.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        async with asyncio.timeout(5):
            await closed.wait()


# ---- refusals


async def test_a_refusal_has_everything_that_names_the_refuser() -> None:
    """Status, Location, Server, Coder's header and the beginning of the body."""
    said = (
        b"HTTP/1.1 403 Forbidden\r\nServer: proxy\r\nLocation: /login\r\nX-Coder-Build-Version: v2.26.0\r\n"
        b"Content-Length: 9000\r\n\r\n" + b"n" * 9000
    )
    async with serve(answer(said)) as server:
        refused = await be_refused(server.port)
    assert (403, None) == (refused.status, refused.error)
    assert "proxy" == refused.headers["server"]
    assert "/login" == refused.headers["location"]
    assert "v2.26.0" == refused.headers["x-coder-build-version"]
    assert (4096, True) == (len(refused.body), refused.body_truncated)


@pytest.mark.parametrize(
    ("script", "words"),
    [
        (answer(b"HTTP/1.1 101 Switching\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"), "Accept"),
        (
            answer(
                b"HTTP/1.1 101 Switching\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                b"Sec-WebSocket-Accept: bm90IHRoZSByaWdodCBvbmUgISE=\r\n\r\n"
            ),
            "Accept",
        ),
        (answer(b"HTTP/1.1 101 Switching\r\n\r\n"), "not to a valid websocket"),
        (answer(b"HTTP/1.1 101 Switching\r\nUpgrade: DERP\r\nConnection: Upgrade\r\n\r\n"), "not to a valid websocket"),
    ],
    ids=["no-accept", "wrong-accept", "nothing", "other-protocol"],
)
async def test_a_switch_to_something_else_is_no_websocket(script: Script, words: str) -> None:
    """A 101 that does not keep the rules is an error with its status."""
    async with serve(script) as server:
        refused = await be_refused(server.port)
    assert 101 == refused.status
    assert isinstance(refused.error, ProtocolError)
    assert words in refused.error.message


async def test_no_answer_is_an_exchange_with_an_error() -> None:
    """Reset, silence, a closed port and a bad certificate: each an exchange with its error."""
    async with serve(reset()) as server:
        assert isinstance((await be_refused(server.port)).error, ProtocolError)
        port = server.port
    async with serve(hang()) as server:
        assert isinstance((await be_refused(server.port, seconds=0.3)).error, DeadlineError)
    assert isinstance((await be_refused(port)).error, ConnectError)
    async with serve(hang(), ssl_context=serve_self_signed("127.0.0.1")) as server:
        refused = await be_refused(server.port, scheme="https", ssl_context=await load_ssl_context())
    assert isinstance(refused.error, TLSError)
    assert refused.certificates is not None


# ---- after the handshake, a server that breaks the rules


def after_handshake(*frames: bytes, repeat: bytes = b"", more: bytes = b"") -> Script:
    """Return a script that accepts the websocket and sends raw bytes; `repeat` without end."""

    async def script(reader: Reader, writer: asyncio.StreamWriter) -> None:
        head = await reader.read_request()
        key = next(line for line in head.split(b"\r\n") if line.lower().startswith(b"sec-websocket-key:"))
        digest = hashlib.sha1(key.split(b":")[1].strip() + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()
        writer.write(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: " + base64.b64encode(digest) + b"\r\n" + more + b"\r\n"
        )
        for piece in frames:
            writer.write(piece)
        while repeat:
            writer.write(repeat)
            await writer.drain()
            await asyncio.sleep(0)
        await hang()(reader, writer)

    return script


def frame(opcode: int, payload: bytes, *, fin: bool = True) -> bytes:
    first = bytes([(0x80 if fin else 0) | opcode])
    if len(payload) < 126:
        return first + bytes([len(payload)]) + payload
    return first + b"\x7f" + struct.pack("!Q", len(payload)) + payload


TEXT, BINARY, CONT, PING = 1, 2, 0, 9


@pytest.mark.parametrize(
    ("script", "words"),
    [
        (after_handshake(b"\xff\xff\xff\xff"), "broke the websocket protocol"),
        (after_handshake(b"\x81\x85aaaahello"), "broke the websocket protocol"),
        (after_handshake(frame(TEXT, b"\xff\xfe")), "not UTF-8"),
        (after_handshake(b"\x82\x7f" + struct.pack("!Q", 1 << 40)), "above 1000 bytes"),
        (after_handshake(*[frame(BINARY, b"x" * 600, fin=False), frame(CONT, b"x" * 600)]), "above 1000 bytes"),
        (after_handshake(frame(CONT, b"x")), "broke the websocket protocol"),
        (after_handshake(frame(BINARY, b"x", fin=False), repeat=frame(CONT, b"x" * 90, fin=False)), "above 1000 bytes"),
    ],
    ids=["garbage", "masked", "utf8", "huge", "fragments", "continuation", "endless-fragments"],
)
async def test_broken_rules_are_protocol_errors(script: Script, words: str) -> None:
    """Whatever breaks the rules or the cap is a protocol error in words."""
    async with serve(script) as server, await open_socket(server.port, max_message_bytes=1000) as opened:
        with pytest.raises(ProtocolError) as caught:
            await opened.receive()
        assert words in caught.value.message
        assert len(caught.value.message) < 250


async def test_a_vanished_server_is_told() -> None:
    """The end of the connection without a closing handshake is an error."""

    async def script(reader: Reader, writer: asyncio.StreamWriter) -> None:
        inner = after_handshake(frame(TEXT, b"one"))
        task = asyncio.create_task(inner(reader, writer))
        await asyncio.sleep(0.05)
        task.cancel()

    async with serve(script) as server, await open_socket(server.port) as opened:
        assert "one" == await opened.receive()
        with pytest.raises(ProtocolError, match="without closing the websocket"):
            await opened.receive()


async def test_a_flood_of_messages_waits_at_the_server() -> None:
    """Messages that nobody reads are not taken without bound, and reading goes on in order."""
    script = after_handshake(*[frame(BINARY, bytes([n])) for n in range(100)], repeat=frame(BINARY, b"x" * 900_000))
    async with serve(script) as server, await open_socket(server.port) as opened:
        for _ in range(300):
            await asyncio.sleep(0)
        assert len(opened._messages) <= 300
        assert [bytes([n]) for n in range(100)] == [await opened.receive() for _ in range(100)]
        assert 900_000 == len(await opened.receive())


async def test_a_flood_of_pings_ends() -> None:
    """A server that pings without end and reads no pong does not fill our memory."""

    script = after_handshake(repeat=frame(PING, b"x" * 125) * 500)
    async with serve(script) as server, await open_socket(server.port) as opened:
        with pytest.raises(ProtocolError, match="sends but takes no bytes"):
            await opened.receive()


async def test_a_server_that_never_says_goodbye_does_not_hold_us() -> None:
    """Closing waits for the peer's goodbye only a moment."""
    async with serve(after_handshake()) as server:
        opened = await open_socket(server.port, seconds=30.0)
        started = CLOCK.monotonic()
        await opened.close()
        assert CLOCK.monotonic() - started < 5.0
        async with asyncio.timeout(5):
            await server.script_done.wait()


async def test_an_extension_that_was_not_offered_is_refused() -> None:
    """A server that compresses unasked does not speak our websocket."""
    async with serve(after_handshake(more=b"Sec-WebSocket-Extensions: permessage-deflate\r\n")) as server:
        refused = await be_refused(server.port)
    assert isinstance(refused.error, ProtocolError)


async def test_an_endless_refusal_is_cut() -> None:
    """A refusal's body is read up to its cap only."""
    async with serve(flood(b"HTTP/1.1 502 Bad Gateway\r\n\r\n", repeat=b"x" * 65536)) as server:
        refused = await be_refused(server.port)
    assert (502, 4096, True, None) == (refused.status, len(refused.body), refused.body_truncated, refused.error)
