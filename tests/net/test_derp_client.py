"""The DERP client against scripted relays, good and hostile, and against Tailscale's own."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.server import Server, ServerConnection
from websockets.asyncio.server import serve as serve_websockets

from exporter.clock import SystemClock
from exporter.errors import ConnectError, DeadlineError, Phase, ProtocolError, TLSError, WireError
from exporter.net.derp_client import DerpConnection, open_derp
from exporter.net.http import Exchange
from exporter.net.tls import load_ssl_context
from exporter.wire import derp_frames
from exporter.wire.derp_frames import (
    FROM_CLIENT,
    MAX_FRAME_BYTES,
    FrameReader,
    FrameType,
    GoneReason,
    PeerGone,
    Restarting,
    Transport,
)
from exporter.wire.derp_handshake import ClientInfo, KeyPair, ServerInfo, open_client_info, seal_server_info
from exporter.wire.url import Origin
from tests.support.certificates import Authority, serve_self_signed
from tests.support.clock import FakeClock
from tests.support.derper import Derper, run_derper
from tests.support.scripted_server import Reader, Script, answer, hang, reset, serve

CLOCK = SystemClock()
RELAY = KeyPair.generate()
PEER = KeyPair.generate().public_key
HEAD = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: DERP\r\nConnection: Upgrade\r\nDerp-Version: 2\r\n"
KEY_HEADER = f"Derp-Public-Key: {RELAY.public_key.hex()}\r\n".encode()
GREETING = derp_frames.encode_server_key(RELAY.public_key)

NeedTool = Callable[[str], str]


async def open_at(port: int, *, seconds: float = 10.0, **more: Any) -> DerpConnection | Exchange:
    clock = more.pop("clock", CLOCK)
    return await open_derp(
        more.pop("origin", None) or Origin(scheme=more.pop("scheme", "http"), host="127.0.0.1", port=port),
        address="127.0.0.1",
        transport=more.pop("transport", Transport.DERP),
        deadline_seconds=clock.monotonic() + seconds,
        clock=clock,
        ssl_context=more.pop("ssl_context", None),
        **more,
    )


async def log_in(port: int, **more: Any) -> DerpConnection:
    opened = await open_at(port, **more)
    assert isinstance(opened, DerpConnection), opened
    return opened


async def fail(port: int, **more: Any) -> Exchange:
    failed = await open_at(port, **more)
    assert isinstance(failed, Exchange)
    return failed


class Frames:
    """What a client sends after its request."""

    def __init__(self, read: Callable[[], Awaitable[bytes]]) -> None:
        self._read = read
        self._reader = FrameReader(FROM_CLIENT)
        self._frames: list[tuple[int, bytes]] = []

    async def next(self) -> tuple[int, bytes]:
        while not self._frames:
            data = await self._read()
            assert data, "the client has gone"
            self._frames += self._reader.read(data)
        return self._frames.pop(0)

    async def expect(self, kind: FrameType) -> bytes:
        found, payload = await self.next()
        assert kind == found
        return payload


async def admit(
    reader: Reader, writer: asyncio.StreamWriter, *, head: bytes = HEAD + KEY_HEADER + b"\r\n", **more: Any
) -> tuple[ClientInfo, Frames]:
    """Let a client in, as a relay does; `more` goes to the ServerInfo."""
    await reader.read_request()
    writer.write(head + GREETING)
    frames = Frames(lambda: reader.read(65536))
    client = open_client_info(await frames.expect(FrameType.CLIENT_INFO), RELAY)
    writer.write(seal_server_info(client.box_key, more.pop("info", None), **more))
    return client, frames


def after_login(*pieces: bytes, end: Script | None = None) -> Script:
    """Return a relay that admits its client, writes, and waits until it goes."""

    async def script(reader: Reader, writer: asyncio.StreamWriter) -> None:
        await admit(reader, writer)
        for piece in pieces:
            writer.write(piece)
        await writer.drain()
        await (end or hang())(reader, writer)

    return script


def after_head(*pieces: bytes, head: bytes = HEAD + b"\r\n", end: Script | None = None) -> Script:
    """Return a relay that switches protocols, writes, and waits until its client goes."""

    async def script(reader: Reader, writer: asyncio.StreamWriter) -> None:
        await reader.read_request()
        writer.write(head + b"".join(pieces))
        await writer.drain()
        await (end or hang())(reader, writer)

    return script


def accept_websocket(*frames: bytes, end: Script | None = None) -> Script:
    """Return a server that takes the websocket and writes frames in the same segment as its answer."""

    async def script(reader: Reader, writer: asyncio.StreamWriter) -> None:
        request = (await reader.read_request()).decode()
        key = next(
            line.split(": ")[1] for line in request.split("\r\n") if line.lower().startswith("sec-websocket-key")
        )
        digest = hashlib.sha1((key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").encode()).digest()
        writer.write(
            b"HTTP/1.1 101 X\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "
            + base64.b64encode(digest)
            + b"\r\n\r\n"
            + b"".join(frames)
        )
        await writer.drain()
        await (end or hang())(reader, writer)

    return script


def in_message(data: bytes) -> bytes:
    """Return a binary message of less than 126 bytes, in its frame."""
    return bytes((0x82, len(data))) + data


async def leave(reader: Reader, writer: asyncio.StreamWriter) -> None:
    """End without a word."""


async def leave_after_client_info(reader: Reader, writer: asyncio.StreamWriter) -> None:
    await Frames(lambda: reader.read(65536)).expect(FrameType.CLIENT_INFO)


def packet(payload: bytes, source: bytes = PEER) -> bytes:
    return derp_frames.encode_recv_packet(source, payload)


# ---- login


async def test_a_login_gives_everything_that_the_relay_tells() -> None:
    """Keys, limits, the answer and its phases; the request is the one that relays know, without fast start."""
    seen: list[ClientInfo] = []
    info = ServerInfo(token_bucket_bytes_per_second=65568, token_bucket_burst_bytes=70000)

    async def script(reader: Reader, writer: asyncio.StreamWriter) -> None:
        client, _ = await admit(reader, writer, info=info)
        seen.append(client)
        await hang()(reader, writer)

    async with serve(script) as server, await log_in(server.port, headers={"X-Who": "me"}) as relay:
        assert RELAY.public_key == relay.server_key == relay.header_key
        assert info == relay.server_info
        assert (relay.own_key, True, False, 2) == (
            seen[0].public_key,
            seen[0].is_prober,
            seen[0].can_ack_pings,
            seen[0].version,
        )
        assert 101 == relay.exchange.status
        assert {Phase.CONNECT, Phase.PROCESSING, Phase.TRANSFER} == relay.phase_seconds.keys()
        assert relay.login_seconds > 0
        assert ("127.0.0.1", f"127.0.0.1:{server.port}") == (relay.address, relay.peer)
        assert (None, "", None, 0, []) == (
            relay.error,
            relay.health,
            relay.restarting,
            relay.keep_alives,
            list(relay.peers_gone),
        )
    request = server.requests[0].decode()
    assert request.startswith("GET /derp HTTP/1.1\r\n")
    for line in ("Upgrade: DERP", "Connection: Upgrade", f"Host: 127.0.0.1:{server.port}", "X-Who: me"):
        assert f"\r\n{line}\r\n" in request
    assert "fast-start" not in request.lower()


async def test_every_login_has_a_key_of_its_own() -> None:
    """Two connections are two clients."""
    async with (
        serve(after_login()) as server,
        await log_in(server.port) as one,
        await log_in(server.port) as other,
    ):
        assert one.own_key != other.own_key


async def test_a_login_survives_any_cut_of_the_stream() -> None:
    """Head, greeting and ServerInfo come byte by byte, and two packets and more in one piece with it."""

    async def script(reader: Reader, writer: asyncio.StreamWriter) -> None:
        await reader.read_request()
        for byte in HEAD + b"\r\n" + GREETING:
            writer.write(bytes((byte,)))
            await writer.drain()
            await asyncio.sleep(0)
        frames = Frames(lambda: reader.read(65536))
        client = open_client_info(await frames.expect(FrameType.CLIENT_INFO), RELAY)
        writer.write(seal_server_info(client.box_key) + packet(b"1") + packet(b"2") + packet(b"3")[:20])
        await writer.drain()
        await frames.expect(FrameType.PING)
        writer.write(packet(b"3")[20:])
        await hang()(reader, writer)

    async with serve(script) as server, await log_in(server.port) as relay:
        assert [b"1", b"2"] == [(await relay.receive_packet()).payload for _ in range(2)]
        with pytest.raises(DeadlineError):
            await relay.ping(deadline_seconds=CLOCK.monotonic() + 0.05)
        assert b"3" == (await relay.receive_packet()).payload


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (b"", None),
        (b"Derp-Public-Key: " + b"ab" * 32 + b"\r\n", b"\xab" * 32),
        (b"Derp-Public-Key: " + b"ab" * 31 + b"\r\n", None),
        (b"Derp-Public-Key: none of your business\r\n", None),
    ],
)
async def test_the_key_in_the_header_is_a_fact_beside_the_greetings(header: bytes, expected: bytes | None) -> None:
    """Absent, another, or junk: the login goes by the greeting."""

    async def script(reader: Reader, writer: asyncio.StreamWriter) -> None:
        await admit(reader, writer, head=HEAD + header + b"\r\n")
        await hang()(reader, writer)

    async with serve(script) as server, await log_in(server.port) as relay:
        assert (expected, RELAY.public_key) == (relay.header_key, relay.server_key)


# ---- no login


@pytest.mark.parametrize("status", [200, 301, 302, 307, 400, 401, 403, 404, 405, 426, 429, 500, 502, 503])
async def test_a_refused_upgrade_keeps_who_answered_and_how(status: int) -> None:
    """Status, Location, Server and the beginning of the body; nothing is followed, and it is no error of ours."""
    head = f"HTTP/1.1 {status} Whatever\r\nServer: nginx\r\nLocation: /login\r\nContent-Length: 4\r\n\r\n".encode()
    async with serve(answer(head + b"oops")) as server:
        refused = await fail(server.port)
    assert (status, "/login", "nginx", b"oops", None) == (
        refused.status,
        refused.headers["location"],
        refused.headers["server"],
        refused.body,
        refused.error,
    )
    assert 1 == server.connections


@pytest.mark.parametrize(
    ("head", "words"),
    [
        (b"HTTP/1.1 101 X\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n", "not to DERP: to 'websocket'"),
        (b"HTTP/1.1 101 X\r\nUpgrade: DERP, h2c\r\nConnection: Upgrade\r\n\r\n", "not to DERP: to 'DERP, h2c'"),
        (b"HTTP/1.1 101 X\r\nConnection: Upgrade\r\n\r\n", "not to DERP: to none"),
    ],
)
async def test_a_switch_to_something_else_is_no_derp(head: bytes, words: str) -> None:
    """A 101 of another protocol is a protocol error, with the answer kept."""
    async with serve(after_head(head=head)) as server:
        failed = await fail(server.port)
        await server.script_done.wait()
    assert isinstance(failed.error, ProtocolError)
    assert words in failed.error.message
    assert (Phase.PROCESSING, 101) == (failed.error.phase, failed.status)


async def test_the_upgrade_is_compared_in_any_case() -> None:
    """`Upgrade: derp` is as good."""

    async def script(reader: Reader, writer: asyncio.StreamWriter) -> None:
        await admit(reader, writer, head=b"HTTP/1.1 101 X\r\nUPGRADE: derp\r\nConnection: upgrade\r\n\r\n")
        await hang()(reader, writer)

    async with serve(script) as server, await log_in(server.port) as relay:
        assert relay.exchange.status == 101


def deny(**more: Any) -> Script:
    """Return a relay whose ServerInfo is not what it should be."""

    async def script(reader: Reader, writer: asyncio.StreamWriter) -> None:
        await admit(reader, writer, **more)
        await hang()(reader, writer)

    return script


async def deny_with_another_key(reader: Reader, writer: asyncio.StreamWriter) -> None:
    await reader.read_request()
    writer.write(HEAD + b"\r\n" + GREETING)
    await Frames(lambda: reader.read(65536)).expect(FrameType.CLIENT_INFO)
    writer.write(seal_server_info(bytes(range(32))))
    await hang()(reader, writer)


@pytest.mark.parametrize(
    ("script", "words"),
    [
        (after_head(derp_frames.encode_server_key(RELAY.public_key, magic=b"DERP\0\0\0\0")), "invalid greeting"),
        (after_head(derp_frames.encode_server_key(bytes(32))), "no secret can be shared"),
        (after_head(b"\1\0\0\0\x27" + bytes(39)), "invalid greeting: ServerKey with 39 bytes"),
        (after_head(b"\1\0\0\x04\x01"), "invalid greeting: ServerKey with 1025 bytes"),
        (after_head(derp_frames.encode_keep_alive()), "invalid greeting: KeepAlive"),
        (after_head(b"HTTP/1.1 400 Bad Request\r\n\r\n"), "not DERP: HTTP"),
        (after_head(b"\x16\3\1\2\0\1\0\1\xfc\3\3"), "not DERP"),
        (after_head(end=leave), "closed the connection before its greeting"),
        (after_head(GREETING[:20], end=leave), "closed the connection before its greeting was complete"),
        (after_head(GREETING, end=leave_after_client_info), "after our login: it refuses this client"),
        (deny(corrupt=True), "the box does not open"),
        (deny_with_another_key, "the box does not open"),
        (deny(info=b"[]"), "JSON that is no object"),
        (after_head(GREETING, b"\6\0\x20\0\0"), "KeepAlive with 2097152 bytes"),
    ],
)
async def test_a_login_that_fails_says_why(script: Script, words: str) -> None:
    """Each is a protocol error in the exchange of the upgrade, and the connection is closed."""
    async with serve(script) as server:
        failed = await fail(server.port)
        async with asyncio.timeout(10):
            await server.script_done.wait()
    assert isinstance(failed.error, ProtocolError)
    assert words in failed.error.message
    assert failed.error.message.startswith(f"127.0.0.1:{server.port} ")
    assert (Phase.TRANSFER, 101) == (failed.error.phase, failed.status)


async def test_a_reset_within_the_login_is_told() -> None:
    """The connection breaks after the greeting."""
    async with serve(reset(HEAD + b"\r\n" + GREETING)) as server:
        failed = await fail(server.port)
    assert isinstance(failed.error, ProtocolError)
    assert "ECONNRESET" in failed.error.message


@pytest.mark.parametrize(
    ("script", "words"),
    [
        (after_head(), "out of time while waiting for the relay's greeting"),
        (after_head(GREETING[:20]), "out of time while waiting for the relay's greeting"),
        (after_head(GREETING), "out of time while waiting for the answer to our login"),
    ],
)
async def test_a_silent_relay_ends_at_the_deadline(script: Script, words: str) -> None:
    """A 101 and nothing more, or no ServerInfo: no login, and the connection is closed."""
    async with serve(script) as server:
        failed = await fail(server.port, seconds=1.0)
        async with asyncio.timeout(10):
            await server.script_done.wait()
    assert isinstance(failed.error, DeadlineError)
    assert words in failed.error.message
    assert (Phase.TRANSFER, 101) == (failed.error.phase, failed.status)
    assert {Phase.CONNECT, Phase.PROCESSING, Phase.TRANSFER} == failed.phase_seconds.keys()


@pytest.mark.parametrize("transport", Transport)
async def test_no_answer_is_an_exchange_with_an_error(transport: Transport) -> None:
    """A closed port, silence before the answer, and a certificate that nobody trusts."""
    async with serve(hang()) as server:
        silent = await fail(server.port, seconds=0.2, transport=transport)
    closed = await fail(server.port, transport=transport)
    async with serve(hang(), ssl_context=serve_self_signed("127.0.0.1")) as server:
        untrusted = await fail(server.port, scheme="https", ssl_context=await load_ssl_context(), transport=transport)
    assert isinstance(silent.error, DeadlineError)
    assert Phase.PROCESSING == silent.error.phase
    assert isinstance(closed.error, ConnectError)
    assert isinstance(untrusted.error, TLSError)
    assert [None] * 3 == [exchange.status for exchange in (silent, closed, untrusted)]


@pytest.mark.parametrize("stage", ["request", "head", "greeting"])
@pytest.mark.parametrize("transport", Transport)
async def test_a_cancelled_login_leaves_no_connection(stage: str, transport: Transport) -> None:
    """Cancelled before the answer, before the greeting or before the ServerInfo: the relay sees the end."""
    reached = asyncio.Event()

    async def wait(reader: Reader, writer: asyncio.StreamWriter) -> None:
        if stage == "greeting":
            await reader.read(1)  # of the ClientInfo
        reached.set()
        await hang()(reader, writer)

    async def hear_request(reader: Reader, writer: asyncio.StreamWriter) -> None:
        await reader.read_request()
        await wait(reader, writer)

    greeting = GREETING if transport is Transport.DERP else in_message(GREETING)
    switch = after_head if transport is Transport.DERP else accept_websocket
    scripts = {"request": hear_request, "head": switch(end=wait), "greeting": switch(greeting, end=wait)}
    async with serve(scripts[stage]) as server, asyncio.timeout(10):
        task = asyncio.get_running_loop().create_task(open_at(server.port, transport=transport))
        await reached.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await server.script_done.wait()


# ---- after the login


async def test_a_message_goes_there_and_back_with_its_times() -> None:
    """What is sent names its destination; what comes names its source, and is stamped at arrival."""

    async def script(reader: Reader, writer: asyncio.StreamWriter) -> None:
        client, frames = await admit(reader, writer)
        destination, data = derp_frames.parse_packet(await frames.expect(FrameType.SEND_PACKET))
        writer.write(packet(data, destination) + packet(b"", client.public_key))
        await hang()(reader, writer)

    async with serve(script) as server, await log_in(server.port) as relay:
        before = CLOCK.monotonic()
        sent_seconds = relay.send(PEER, b"hello")
        first, second = await relay.receive_packet(), await relay.receive_packet()
        assert before <= sent_seconds <= first.received_seconds <= CLOCK.monotonic()
        assert [(PEER, b"hello"), (relay.own_key, b"")] == [(p.source, p.payload) for p in (first, second)]


async def test_packets_keep_their_arrival_while_nobody_asks() -> None:
    """The stamp is the time of arrival, not that of the question."""

    async def script(reader: Reader, writer: asyncio.StreamWriter) -> None:
        _, frames = await admit(reader, writer)
        writer.write(packet(b"x") + derp_frames.encode_pong(await frames.expect(FrameType.PING)))
        await hang()(reader, writer)

    async with serve(script) as server, await log_in(server.port) as relay:
        await relay.ping()
        asked_seconds = CLOCK.monotonic()
        assert (await relay.receive_packet()).received_seconds <= asked_seconds


async def test_what_the_relay_says_beside_packets_is_kept() -> None:
    """Keep-alives, peers that are gone, health and a coming restart; what is too short or unknown is dropped."""
    frames = [
        derp_frames.encode_keep_alive(),
        derp_frames.encode_peer_gone(PEER, GoneReason.NOT_HERE),
        derp_frames.encode_frame(FrameType.PEER_GONE, PEER),
        derp_frames.encode_frame(FrameType.PEER_GONE, PEER[:31]),
        derp_frames.encode_health("over"),
        derp_frames.encode_health(""),
        derp_frames.encode_health("dup\n" + "x" * 1000),
        derp_frames.encode_restarting(reconnect_seconds=1.5, try_for_seconds=5),
        derp_frames.encode_frame(FrameType.RESTARTING, bytes(7)),
        derp_frames.encode_frame(FrameType.RECV_PACKET, PEER[:31]),
        derp_frames.encode_frame(FrameType.PING, bytes(7)),
        derp_frames.encode_frame(FrameType.PONG, bytes(7)),
        derp_frames.encode_pong(bytes(8)),
        derp_frames.encode_peer_present(PEER),
        derp_frames.encode_frame(0x42, b"future"),
        derp_frames.encode_keep_alive(),
        packet(b"last"),
    ]
    async with serve(after_login(*frames)) as server, await log_in(server.port) as relay:
        assert b"last" == (await relay.receive_packet()).payload
        assert 2 == relay.keep_alives
        assert [PeerGone(PEER, 1), PeerGone(PEER, 0)] == list(relay.peers_gone)
        assert "dup?" + "x" * 196 == relay.health
        assert Restarting(1.5, 5.0) == relay.restarting
        assert relay.error is None


async def test_only_the_latest_notices_are_kept() -> None:
    """A relay that tells of a thousand peers does not fill our memory."""
    frames = [derp_frames.encode_peer_gone(number.to_bytes(32, "big")) for number in range(1000)]
    async with serve(after_login(*frames, packet(b"last"))) as server, await log_in(server.port) as relay:
        await relay.receive_packet()
        assert (64, 999) == (len(relay.peers_gone), int.from_bytes(relay.peers_gone[-1].key, "big"))


async def test_a_relays_ping_is_answered() -> None:
    """The pong has the first 8 bytes."""
    pongs: list[bytes] = []

    async def script(reader: Reader, writer: asyncio.StreamWriter) -> None:
        await admit(reader, writer)
        writer.write(derp_frames.encode_frame(FrameType.PING, b"01234567 and more"))
        pongs.append(await reader.readexactly(13))
        writer.write(packet(b"seen"))
        await hang()(reader, writer)

    async with serve(script) as server, await log_in(server.port) as relay:
        await relay.receive_packet()
    assert [derp_frames.encode_pong(b"01234567")] == pongs


async def test_our_ping_is_measured_and_only_its_own_pong_counts() -> None:
    """A pong to somebody else's ping is no answer."""

    async def script(reader: Reader, writer: asyncio.StreamWriter) -> None:
        _, frames = await admit(reader, writer)
        data = derp_frames.parse_ping(await frames.expect(FrameType.PING))
        writer.write(derp_frames.encode_pong(b"another!") + derp_frames.encode_pong(data) * 2)
        await frames.expect(FrameType.PING)
        writer.write(derp_frames.encode_pong(data))
        await hang()(reader, writer)

    async with serve(script) as server, await log_in(server.port) as relay:
        assert 0 < await relay.ping() < 10
        with pytest.raises(DeadlineError, match="out of time while waiting for the answer to a ping"):
            await relay.ping(deadline_seconds=CLOCK.monotonic() + 0.05)


async def test_a_later_server_info_replaces_the_first() -> None:
    """A relay may change its limits; one that does not open ends the connection."""

    async def script(reader: Reader, writer: asyncio.StreamWriter) -> None:
        client, frames = await admit(reader, writer)
        writer.write(seal_server_info(client.box_key, ServerInfo(token_bucket_burst_bytes=5)) + packet(b"1"))
        await frames.expect(FrameType.SEND_PACKET)
        writer.write(seal_server_info(client.box_key, corrupt=True))
        await hang()(reader, writer)

    async with serve(script) as server, await log_in(server.port) as relay:
        await relay.receive_packet()
        assert 5 == relay.server_info.token_bucket_burst_bytes
        relay.send(PEER, b"")
        with pytest.raises(ProtocolError, match="the box does not open"):
            await relay.receive_packet()


# ---- its end


async def test_waiting_ends_at_the_deadline_and_may_go_on() -> None:
    """A wait has its own deadline, else that of the opening."""
    async with serve(after_login()) as server, await log_in(server.port, seconds=1.5) as relay:
        with pytest.raises(DeadlineError, match="out of time while waiting for a packet") as caught:
            await relay.receive_packet(deadline_seconds=CLOCK.monotonic() + 0.02)
        assert Phase.TRANSFER == caught.value.phase
        with pytest.raises(DeadlineError):
            await relay.receive_packet()
        assert relay.error is None


@pytest.mark.parametrize(
    ("pieces", "words"),
    [
        ([packet(b"1")], "closed the connection"),
        ([packet(b"1"), packet(b"2")[:30]], "closed the connection within a frame"),
        ([packet(b"1"), b"\5" + (MAX_FRAME_BYTES + 1).to_bytes(4, "big")], "RecvPacket with 1048577 bytes"),
    ],
)
async def test_what_came_before_the_end_is_given_first(pieces: list[bytes], words: str) -> None:
    """Packets in front of an end or an offence are not lost; then every use says why it is over."""
    async with serve(after_login(*pieces, end=leave)) as server, await log_in(server.port) as relay:
        assert b"1" == (await relay.receive_packet()).payload
        with pytest.raises(ProtocolError, match=words):
            await relay.receive_packet()
        with pytest.raises(ProtocolError, match=words):
            relay.send(PEER, b"")
        with pytest.raises(ProtocolError, match=words):
            await relay.ping()
        assert isinstance(relay.error, ProtocolError)


async def test_who_waits_hears_of_the_end() -> None:
    """A ping and a packet that are waited for end with the connection."""

    async def script(reader: Reader, writer: asyncio.StreamWriter) -> None:
        _, frames = await admit(reader, writer)
        await frames.expect(FrameType.PING)

    async with serve(script) as server, await log_in(server.port) as relay:
        results = await asyncio.gather(relay.receive_packet(), relay.ping(), return_exceptions=True)
    assert ["closed the connection"] * 2 == [str(result).partition(" ")[2] for result in results]


async def test_after_closing_nothing_goes() -> None:
    """Closed by us: who waits is woken, and sending is refused."""
    async with serve(after_login()) as server:
        relay = await log_in(server.port)
        waiting = asyncio.gather(relay.receive_packet(), relay.ping(), return_exceptions=True)
        await asyncio.sleep(0)
        relay.abort()
        results = await waiting
        assert ["we have closed the connection"] * 2 == [str(result).partition(": ")[2] for result in results]
        with pytest.raises(ProtocolError, match="we have closed"):
            relay.send(PEER, b"")
        assert relay.error is None
        async with asyncio.timeout(10):
            await server.script_done.wait()


@pytest.mark.parametrize("transport", Transport)
async def test_leaving_the_context_closes(transport: Transport) -> None:
    """With and without an exception, and after a cancelled wait, the relay sees the end."""

    async def wait(port: int) -> None:
        async with await log_in(port, transport=transport) as relay:
            await relay.receive_packet()

    async with scripted_relay(transport) as relay:
        async with await log_in(relay.port, transport=transport):
            pass
        await relay.ended.acquire()
        with pytest.raises(ZeroDivisionError):
            async with await log_in(relay.port, transport=transport):
                raise ZeroDivisionError
        await relay.ended.acquire()
        task = asyncio.get_running_loop().create_task(wait(relay.port))
        await relay.admitted.acquire()
        await relay.admitted.acquire()
        await relay.admitted.acquire()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await relay.ended.acquire()


async def test_a_payload_that_relays_refuse_is_not_sent() -> None:
    """65536 bytes go, one more does not, and the connection lives."""
    async with serve(after_login()) as server, await log_in(server.port) as relay:
        relay.send(PEER, bytes(65536))
        with pytest.raises(WireError):
            relay.send(PEER, bytes(65537))
        assert relay.error is None


async def test_a_relay_that_takes_nothing_is_told() -> None:
    """What we send is not kept without end."""

    async def script(reader: Reader, writer: asyncio.StreamWriter) -> None:
        await admit(reader, writer)
        await asyncio.Event().wait()

    def send_much(relay: DerpConnection) -> None:
        for _ in range(1000):
            relay.send(PEER, bytes(65536))

    async with serve(script) as server, await log_in(server.port) as relay:
        with pytest.raises(ProtocolError, match="takes no more bytes"):
            send_much(relay)


@pytest.mark.parametrize(
    "frame",
    [
        derp_frames.encode_ping(bytes(8)),
        derp_frames.encode_keep_alive(),
        derp_frames.encode_peer_gone(PEER),
        derp_frames.encode_frame(0x63),
        derp_frames.encode_frame(FrameType.RECV_PACKET, bytes(31)),
    ],
    ids=["ping", "keep_alive", "peer_gone", "unknown", "cut_packet"],
)
async def test_a_flood_of_frames_that_are_no_packets_ends(frame: bytes) -> None:
    """A relay that sends thousands of them at once is cut off, whether it knows their type or we do."""

    async def script(reader: Reader, writer: asyncio.StreamWriter) -> None:
        await admit(reader, writer)
        while True:
            writer.write(frame * 10_000)
            await writer.drain()

    async with serve(script) as server, await log_in(server.port, seconds=60) as relay:
        with pytest.raises(ProtocolError, match="floods this client: more than 4000 frames that carry no packet"):
            await relay.receive_packet()


async def test_a_relay_that_pings_without_reading_ends() -> None:
    """Answers are not kept without end, though the relay pings no more often than it may."""

    async def script(reader: Reader, writer: asyncio.StreamWriter) -> None:
        _, frames = await admit(reader, writer)
        await frames.expect(FrameType.SEND_PACKET)
        writer.write(derp_frames.encode_ping(bytes(8)))
        await asyncio.Event().wait()

    def send_until_full(relay: DerpConnection) -> None:
        for _ in range(1000):
            relay.send(PEER, bytes(65536))

    async with serve(script) as server, await log_in(server.port, seconds=60) as relay:
        with pytest.raises(ProtocolError, match="takes no more bytes"):
            send_until_full(relay)
        with pytest.raises(ProtocolError, match="sends but takes no bytes"):
            await relay.receive_packet()


async def test_a_long_life_is_no_flood() -> None:
    """What is counted begins anew as time passes: keep-alives of days do not end a connection."""
    clock = FakeClock()
    rounds = 3

    async def script(reader: Reader, writer: asyncio.StreamWriter) -> None:
        _, frames = await admit(reader, writer)
        for _ in range(rounds):
            await frames.expect(FrameType.SEND_PACKET)
            writer.write(derp_frames.encode_keep_alive() * 3000 + packet(b"x"))
        await hang()(reader, writer)

    async with serve(script) as server, await log_in(server.port, clock=clock, seconds=1000) as relay:
        for _ in range(rounds):
            await clock.advance(60)
            relay.send(PEER, b"next")
            await relay.receive_packet()
        assert 3000 * rounds == relay.keep_alives


async def test_a_flood_of_packets_waits_at_the_relay() -> None:
    """Nobody asks: a bounded number is kept, the rest comes when somebody does, in order."""
    written = 0

    async def script(reader: Reader, writer: asyncio.StreamWriter) -> None:
        nonlocal written
        await admit(reader, writer)
        for number in range(400):
            writer.write(packet(number.to_bytes(4, "big") + bytes(65532)))
            await writer.drain()
            written += 1
        await hang()(reader, writer)

    async with serve(script) as server, await log_in(server.port, seconds=60) as relay:
        before = -1
        while written != before:
            before = written
            await asyncio.sleep(0.1)
        assert written < 400
        received = [int.from_bytes((await relay.receive_packet()).payload[:4], "big") for _ in range(400)]
        assert list(range(400)) == received


# ---- websocket


class ScriptedRelay:
    """`admitted` and `ended` are released once a client."""

    def __init__(self) -> None:
        self.port = 0
        self.admitted = asyncio.Semaphore(0)
        self.ended = asyncio.Semaphore(0)


@asynccontextmanager
async def scripted_relay(transport: Transport) -> AsyncIterator[ScriptedRelay]:
    """Run a relay that admits its clients and says nothing more."""
    state = ScriptedRelay()

    async def raw(reader: Reader, writer: asyncio.StreamWriter) -> None:
        await admit(reader, writer)
        state.admitted.release()
        await hang()(reader, writer)
        state.ended.release()

    async def by_websocket(connection: ServerConnection) -> None:
        await admit_by_websocket(connection)
        state.admitted.release()
        await connection.wait_closed()
        state.ended.release()

    if transport is Transport.DERP:
        async with serve(raw) as server, asyncio.timeout(20):
            state.port = server.port
            yield state
    else:
        async with websocket_relay(by_websocket) as state.port, asyncio.timeout(20):
            yield state


@asynccontextmanager
async def websocket_relay(handler: Callable[[ServerConnection], Awaitable[None]], **more: Any) -> AsyncIterator[int]:
    server: Server
    more.setdefault("subprotocols", ["derp"])
    async with serve_websockets(handler, "127.0.0.1", 0, compression=None, **more) as server:
        yield next(iter(server.sockets)).getsockname()[1]


def frames_of(connection: ServerConnection) -> Frames:
    async def receive() -> bytes:
        message = await connection.recv()
        assert isinstance(message, bytes)
        return message

    return Frames(receive)


async def admit_by_websocket(connection: ServerConnection, *more: bytes) -> Frames:
    await connection.send(GREETING)
    frames = frames_of(connection)
    client = open_client_info(await frames.expect(FrameType.CLIENT_INFO), RELAY)
    await connection.send(seal_server_info(client.box_key) + b"".join(more))
    return frames


async def log_in_by_websocket(port: int, **more: Any) -> DerpConnection:
    return await log_in(port, transport=Transport.WEBSOCKET, **more)


async def test_a_login_by_websocket_gives_the_same() -> None:
    """The subprotocol derp is offered; messages are one stream of bytes, wherever they are cut."""
    paths: list[tuple[str, str]] = []

    async def handler(connection: ServerConnection) -> None:
        assert connection.request is not None
        paths.append((connection.request.path, connection.request.headers["Sec-WebSocket-Protocol"]))
        await connection.send(GREETING[:3])
        await connection.send(GREETING[3:])
        frames = frames_of(connection)
        client = open_client_info(await frames.expect(FrameType.CLIENT_INFO), RELAY)
        await connection.send(seal_server_info(client.box_key) + packet(b"1") + packet(b"2")[:9])
        await connection.send(packet(b"2")[9:])
        await connection.send(derp_frames.encode_pong(derp_frames.parse_ping(await frames.expect(FrameType.PING))))
        await connection.wait_closed()

    async with websocket_relay(handler) as port, await log_in_by_websocket(port) as relay:
        assert [b"1", b"2"] == [(await relay.receive_packet()).payload for _ in range(2)]
        assert 0 < await relay.ping() < 10
        assert (RELAY.public_key, None) == (relay.server_key, relay.header_key)
        assert (101, Transport.WEBSOCKET) == (relay.exchange.status, relay.transport)
        assert relay.login_seconds > 0
    assert [("/derp", "derp")] == paths
    assert relay.error is None


async def test_a_missing_subprotocol_is_accepted() -> None:
    """An intermediary may have dropped it from the answer."""

    async def handler(connection: ServerConnection) -> None:
        await admit_by_websocket(connection)
        await connection.wait_closed()

    async with websocket_relay(handler, subprotocols=None) as port, await log_in_by_websocket(port) as relay:
        assert "sec-websocket-protocol" not in relay.exchange.headers


async def test_no_message_is_longer_than_relays_take() -> None:
    """A packet of the greatest size goes in messages of at most 32768 bytes, and arrives whole."""
    arrived: list[bytes] = []
    payload = os.urandom(65536)

    async def handler(connection: ServerConnection) -> None:
        frames = await admit_by_websocket(connection)
        arrived.append(await frames.expect(FrameType.SEND_PACKET))
        await connection.send(packet(b"thanks"))
        await connection.wait_closed()

    async with websocket_relay(handler, max_size=32768) as port, await log_in_by_websocket(port) as relay:
        relay.send(PEER, payload)
        assert b"thanks" == (await relay.receive_packet()).payload
    assert [PEER + payload] == arrived


async def test_a_packet_of_the_greatest_size_comes_through() -> None:
    """In messages of any length, also in one that holds more than a frame of the greatest length."""
    payload = os.urandom(MAX_FRAME_BYTES - 32)

    async def handler(connection: ServerConnection) -> None:
        frame = derp_frames.encode_frame(FrameType.RECV_PACKET, PEER + payload)
        await admit_by_websocket(connection)
        await connection.send(frame[:4096])
        await connection.send(frame[4096:] + frame[:7])
        await connection.send(frame[7:])
        await connection.wait_closed()

    async with websocket_relay(handler) as port, await log_in_by_websocket(port) as relay:
        assert [payload] * 2 == [(await relay.receive_packet()).payload for _ in range(2)]


async def test_a_text_message_is_an_offence() -> None:
    """DERP has binary messages only, within the login and after it."""

    async def greet_in_text(connection: ServerConnection) -> None:
        await connection.send("hello")
        await connection.wait_closed()

    async def speak(connection: ServerConnection) -> None:
        await admit_by_websocket(connection)
        await connection.send("hello")
        await connection.wait_closed()

    async with websocket_relay(greet_in_text) as port:
        failed = await fail(port, transport=Transport.WEBSOCKET)
    assert "sent a text message" in str(failed.error)
    async with websocket_relay(speak) as port, await log_in_by_websocket(port) as relay:
        with pytest.raises(ProtocolError, match="sent a text message"):
            await relay.receive_packet()


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (1000, "closed the connection after our login: it refuses this client"),
        (1001, "closed the connection after our login: it refuses this client"),
        (1008, "it refuses this client (websocket closed with 1008)"),
        (None, "closed the connection after our login: it refuses this client"),
    ],
)
async def test_a_refused_login_by_websocket_reads_as_without(code: int | None, words: str) -> None:
    """A goodbye, one with another code, and an end without: the same sentence."""

    async def handler(connection: ServerConnection) -> None:
        await connection.send(GREETING)
        await frames_of(connection).expect(FrameType.CLIENT_INFO)
        if code is None:
            connection.transport.abort()
        else:
            await connection.close(code)

    async with websocket_relay(handler) as port:
        failed = await fail(port, transport=Transport.WEBSOCKET)
    assert isinstance(failed.error, ProtocolError)
    assert failed.error.message.endswith(words) or "ECONNRESET" in failed.error.message
    assert 101 == failed.status


async def test_the_end_of_a_websocket_is_the_end_of_the_stream() -> None:
    """Packets in front of the goodbye are given first; the relay's limit on messages is told by its code."""

    async def handler(connection: ServerConnection) -> None:
        await admit_by_websocket(connection, packet(b"1"))
        await connection.close(1009)

    async with websocket_relay(handler) as port, await log_in_by_websocket(port) as relay:
        assert b"1" == (await relay.receive_packet()).payload
        with pytest.raises(ProtocolError, match=r"closed the connection \(websocket closed with 1009\)"):
            await relay.receive_packet()


@pytest.mark.parametrize(
    ("frames", "words"),
    [
        ([in_message(GREETING), b"\x88\2\3\xe8"], "after our login"),
        ([in_message(GREETING), b"\x83\0"], "broke the websocket protocol"),
        ([b"\x88\2\3\xe8"], "before its greeting"),
        ([in_message(b"HTTP/1.")], "not DERP: HTTP"),
    ],
)
async def test_greeting_and_end_in_one_segment_are_no_trouble(frames: list[bytes], words: str) -> None:
    """There is nobody left to answer, which is no crash."""
    async with serve(accept_websocket(*frames)) as server:
        failed = await fail(server.port, transport=Transport.WEBSOCKET)
        async with asyncio.timeout(10):
            await server.script_done.wait()
    assert isinstance(failed.error, ProtocolError)
    assert words in failed.error.message
    assert 101 == failed.status


@pytest.mark.parametrize(
    ("script", "words"),
    [
        (accept_websocket(), "waiting for the relay's greeting"),
        (accept_websocket(in_message(GREETING)), "waiting for the answer to our login"),
    ],
)
async def test_a_silent_relay_behind_a_websocket_ends_at_the_deadline(script: Script, words: str) -> None:
    """No login, and the connection is closed."""
    async with serve(script) as server:
        failed = await fail(server.port, seconds=1.0, transport=Transport.WEBSOCKET)
        async with asyncio.timeout(10):
            await server.script_done.wait()
    assert isinstance(failed.error, DeadlineError)
    assert words in failed.error.message


async def test_a_raw_answer_to_a_websocket_is_told() -> None:
    """A relay that did not see the subprotocol switches to raw DERP."""
    async with serve(after_head(GREETING)) as server:
        failed = await fail(server.port, transport=Transport.WEBSOCKET)
    assert isinstance(failed.error, ProtocolError)
    assert "not to a valid websocket" in failed.error.message


async def test_a_refused_websocket_keeps_who_answered() -> None:
    """Status and headers, as with the raw upgrade."""
    async with serve(answer(b"HTTP/1.1 403 X\r\nServer: gateway\r\nContent-Length: 0\r\n\r\n")) as server:
        refused = await fail(server.port, transport=Transport.WEBSOCKET)
    assert (403, "gateway", None) == (refused.status, refused.headers["server"], refused.error)


# ---- Tailscale's relay

WAYS = [(False, Transport.DERP), (False, Transport.WEBSOCKET), (True, Transport.DERP), (True, Transport.WEBSOCKET)]


@asynccontextmanager
async def two_clients(
    need_tool: NeedTool, tmp_path: Path, tls: bool, transport: Transport, **more: Any
) -> AsyncIterator[tuple[Derper, DerpConnection, DerpConnection]]:
    authority = Authority(tmp_path) if tls else None
    context = await load_ssl_context(authority.ca_file) if authority is not None else None
    async with run_derper(need_tool("derper"), tls=authority, **more) as derper:
        how = {"origin": derper.origin, "transport": transport, "ssl_context": context, "seconds": 20.0}
        async with await log_in(derper.port, **how) as one, await log_in(derper.port, **how) as other:
            yield derper, one, other


@pytest.mark.parametrize(("tls", "transport"), WAYS)
async def test_the_real_relay_carries_messages(
    need_tool: NeedTool, tmp_path: Path, tls: bool, transport: Transport
) -> None:
    """Two logins, messages both ways up to the greatest size, a ping; then the relay is killed."""
    async with two_clients(need_tool, tmp_path, tls, transport, private_key=RELAY.private_key) as (derper, one, other):
        assert {RELAY.public_key} == {one.server_key, other.server_key}
        assert (RELAY.public_key if transport is Transport.DERP else None) == one.header_key
        assert ServerInfo(version=2) == one.server_info
        assert (one.exchange.certificates is not None) == tls
        for sender, receiver in ((one, other), (other, one)):
            for payload in (b"", b"hello", os.urandom(65536)):
                sent_seconds = sender.send(receiver.own_key, payload)
                packet = await receiver.receive_packet()
                assert (sender.own_key, payload) == (packet.source, packet.payload)
                assert packet.received_seconds > sent_seconds
        assert await one.ping() > 0
        await derper.stop(signal.SIGKILL)
        for client in (one, other):
            with pytest.raises(ProtocolError, match=r"(closed|broke) the connection"):
                await client.receive_packet()
    gone = await fail(derper.port, origin=derper.origin, transport=transport, ssl_context=await load_ssl_context())
    assert isinstance(gone.error, ConnectError)


@pytest.mark.parametrize("transport", Transport)
async def test_the_real_relay_tells_who_is_gone(need_tool: NeedTool, tmp_path: Path, transport: Transport) -> None:
    """A packet like disco's to nobody comes back as a notice; so does the end of who has written to us."""
    async with two_clients(need_tool, tmp_path, False, transport) as (_, one, other):
        async with asyncio.timeout(10):
            one.send(PEER, bytes.fromhex("5453f09f92ac") + bytes(56))
            while len(one.peers_gone) < 1:
                await one.ping()
            other.send(one.own_key, b"hello")
            await one.receive_packet()
            await other.close()
            while len(one.peers_gone) < 2:
                await one.ping()
        assert [PeerGone(PEER, GoneReason.NOT_HERE), PeerGone(other.own_key, GoneReason.DISCONNECTED)] == list(
            one.peers_gone
        )


@pytest.mark.parametrize("transport", Transport)
async def test_a_paused_real_relay_is_silence(need_tool: NeedTool, transport: Transport) -> None:
    """Its kernel still takes connections, but nobody answers; when it goes on, so do we."""
    async with (
        run_derper(need_tool("derper"), stun=False) as derper,
        await log_in(derper.port, transport=transport, seconds=20) as relay,
    ):
        await derper.pause()
        silent = await fail(derper.port, transport=transport, seconds=0.3)
        assert isinstance(silent.error, DeadlineError)
        assert Phase.PROCESSING == silent.error.phase
        with pytest.raises(DeadlineError):
            await relay.ping(deadline_seconds=CLOCK.monotonic() + 0.1)
        derper.resume()
        # no ping: a relay drops a pong while the one before it, here of the ping that it slept over, waits
        relay.send(relay.own_key, b"awake")
        assert b"awake" == (await relay.receive_packet()).payload


async def test_a_real_relay_with_an_unknown_authority_is_not_trusted(need_tool: NeedTool, tmp_path: Path) -> None:
    """Its certificate is that of another authority; what it showed is kept."""
    async with run_derper(need_tool("derper"), tls=Authority(tmp_path), stun=False) as derper:
        failed = await fail(derper.port, origin=derper.origin, ssl_context=await load_ssl_context())
    assert isinstance(failed.error, TLSError)
    assert failed.certificates is not None


async def test_a_real_relay_refuses_other_paths_and_upgrades(need_tool: NeedTool) -> None:
    """Not its path: a page with status 200; a client that its admission refuses: an end after our login."""
    nobody = "http://127.0.0.1:9/"
    flags = ["-verify-client-url", nobody, "-verify-client-url-fail-open=false"]
    async with run_derper(need_tool("derper"), stun=False, arguments=flags) as derper:
        page = await fail(derper.port, path="/")
        refused = [await fail(derper.port, transport=transport) for transport in Transport]
    assert (200, None) == (page.status, page.error)
    for exchange in refused:
        assert isinstance(exchange.error, ProtocolError)
        assert "after our login: it refuses this client" in exchange.error.message


async def test_a_real_relay_has_its_stun_server_beside_it(need_tool: NeedTool) -> None:
    """The port is known, for tests that need both."""
    async with run_derper(need_tool("derper")) as derper:
        assert derper.stun_port is not None
        assert derper.process.returncode is None
    assert derper.process.returncode is not None
