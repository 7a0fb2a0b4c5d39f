"""The simulated relay: it answers what real clients wrote as real relays did, and plays its faults
so that our own client meets them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from exporter.clock import SystemClock
from exporter.demo import relay as relay_module
from exporter.demo.certificates import Authority
from exporter.demo.relay import RelayFaults, SimulatedRelay, Stall
from exporter.demo.server import SimulatedServer
from exporter.net.derp_client import DerpConnection
from exporter.net.http import Exchange
from exporter.net.relay import find_relay, log_in
from exporter.wire.derp_frames import FROM_SERVER, FrameReader, FrameType, Transport
from exporter.wire.derp_handshake import KeyPair, compute_box_key, open_sealed
from exporter.wire.url import parse_origin
from tests.support.captures import DATA, Piece, cut_derp_pieces, read_capture

CLOCK = SystemClock()
PATIENCE_SECONDS = 5.0
# captures of relays whose private key is known: what they wrote can be opened
RAW = [
    f"{relay}-derp-{what}"
    for relay in ("derper-main-2026-08", "fork-derper-2026-05")
    for what in (
        "bad-box",
        "bad-json",
        "exchange",
        "fast-start",
        "keepalive",
        "login-timeout",
        "oversized-packet",
        "peer-not-here",
        "version-1",
        "version-3",
        "watchconns-refused",
    )
]
WEBSOCKET = [
    f"{relay}-websocket-{what}"
    for relay in ("derper-main-2026-08", "fork-derper-2026-05")
    for what in ("bad-box", "exchange", "peer-not-here")
]


class RelayOnly(SimulatedServer):
    """A server that has a relay and nothing else."""

    def routes(self) -> list[web.RouteDef]:
        return []


def deadline() -> float:
    return CLOCK.monotonic() + PATIENCE_SECONDS


async def open_client(
    server: SimulatedServer, transport: Transport, *, ca_file: Path | None = None, seconds: float = PATIENCE_SECONDS
) -> DerpConnection | Exchange:
    until = CLOCK.monotonic() + seconds
    relay = await find_relay(parse_origin(server.url), ca_file=ca_file, deadline_seconds=until, clock=CLOCK)
    return await log_in(relay, transport, deadline_seconds=until, clock=CLOCK)


async def admitted(server: SimulatedServer, transport: Transport, *, ca_file: Path | None = None) -> DerpConnection:
    opened = await open_client(server, transport, ca_file=ca_file)
    assert isinstance(opened, DerpConnection), opened.error or opened.status
    return opened


def read_frames(data: bytes, box_key: bytes) -> list[tuple[int, bytes]]:
    """Return frames with what their boxes hold, for a nonce comes only once."""
    return [
        (kind, open_sealed(payload, box_key) if kind == FrameType.SERVER_INFO else payload)
        for kind, payload in FrameReader(FROM_SERVER).read(data)
    ]


# ---- against our own client


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("transport", Transport)
async def test_a_message_passes_both_ways(
    transport: Transport, tls: bool, authority: Authority, certificates: Mapping[str, Path]
) -> None:
    """Two clients log in, each hears the other, a ping is answered, and nobody is left afterwards."""
    certificate = certificates["good"] if tls else None
    async with (
        RelayOnly(relay=SimulatedRelay(), certificate=certificate, host="localhost") as server,
        await admitted(server, transport, ca_file=authority.ca_file) as first,
        await admitted(server, transport, ca_file=authority.ca_file) as second,
    ):
        assert {first.own_key, second.own_key} == set(server.relay.clients)
        for sender, receiver in ((first, second), (second, first)):
            sender.send(receiver.own_key, b"hello")
            packet = await receiver.receive_packet(deadline_seconds=deadline())
            assert (sender.own_key, b"hello") == (packet.source, packet.payload)
        assert await first.ping(deadline_seconds=deadline()) > 0
        assert server.relay.key.public_key == first.server_key
    assert (set(), {}) == (server.relay.connected, server.relay.clients)
    assert 2 == server.relay.logins


async def test_clients_of_either_transport_reach_one_another() -> None:
    """A relay does not care how its clients came."""
    async with (
        RelayOnly(relay=SimulatedRelay()) as server,
        await admitted(server, Transport.DERP) as raw,
        await admitted(server, Transport.WEBSOCKET) as websocket,
    ):
        raw.send(websocket.own_key, b"x" * 60000)
        packet = await websocket.receive_packet(deadline_seconds=deadline())
        assert (raw.own_key, 60000) == (packet.source, len(packet.payload))


async def test_a_mesh_passes_on_until_it_is_cut() -> None:
    """Clients at different relays of one mesh hear one another; across the cut nothing passes, beside it all does."""
    mesh: list[SimulatedRelay] = []
    async with (
        RelayOnly(relay=SimulatedRelay(mesh=mesh)) as one,
        RelayOnly(relay=SimulatedRelay(mesh=mesh)) as other,
        await admitted(one, Transport.DERP) as first,
        await admitted(other, Transport.DERP) as second,
        await admitted(one, Transport.DERP) as neighbour,
    ):
        first.send(second.own_key, b"before")
        assert b"before" == (await second.receive_packet(deadline_seconds=deadline())).payload
        other.relay.faults.mesh_cut = True
        first.send(second.own_key, b"lost")
        first.send(neighbour.own_key, b"beside it")
        assert b"beside it" == (await neighbour.receive_packet(deadline_seconds=deadline())).payload
        other.relay.faults.mesh_cut = False
        first.send(second.own_key, b"after")
        assert b"after" == (await second.receive_packet(deadline_seconds=deadline())).payload


async def test_relays_without_a_mesh_know_only_their_own() -> None:
    """What is sent to a client of another relay is lost."""
    async with (
        RelayOnly(relay=SimulatedRelay()) as one,
        RelayOnly(relay=SimulatedRelay()) as other,
        await admitted(one, Transport.DERP) as first,
        await admitted(other, Transport.DERP) as second,
    ):
        assert one.relay.find(second.own_key) is None
        first.send(second.own_key, b"lost")
        await first.ping(deadline_seconds=deadline())
        assert one.relay.find(first.own_key) is not None


@pytest.mark.parametrize(
    ("transport", "faults", "status", "words"),
    [
        (Transport.DERP, RelayFaults(raw_status=403, page="no"), 403, None),
        (Transport.DERP, RelayFaults(raw_status=302, location="https://login.example.com/"), 302, None),
        (Transport.WEBSOCKET, RelayFaults(websocket_status=502), 502, None),
        (Transport.DERP, RelayFaults(wrong_magic=True), 101, "invalid greeting"),
        (Transport.DERP, RelayFaults(huge_frame=True), 101, "greeting|DERP"),
        (Transport.WEBSOCKET, RelayFaults(huge_frame=True), 101, "greeting|DERP"),
        (Transport.DERP, RelayFaults(corrupt_login=True), 101, "box"),
        (Transport.DERP, RelayFaults(refuse_clients=True), 101, "closed|ended|hung up"),
        (Transport.WEBSOCKET, RelayFaults(refuse_clients=True), 101, "closed|ended|hung up"),
        (Transport.DERP, RelayFaults(stall=Stall.BEFORE_ANSWER), None, "out of time"),
        (Transport.DERP, RelayFaults(stall=Stall.AFTER_UPGRADE), 101, "in time|out of time"),
        (Transport.DERP, RelayFaults(stall=Stall.AFTER_GREETING), 101, "in time|out of time"),
        (Transport.WEBSOCKET, RelayFaults(stall=Stall.AFTER_LOGIN), 101, "in time|out of time"),
    ],
    ids=lambda value: None if isinstance(value, RelayFaults) else value,
)
async def test_what_keeps_clients_out(
    transport: Transport, faults: RelayFaults, status: int | None, words: str | None
) -> None:
    """Each fault is met by our client where it is played."""
    async with RelayOnly(relay=SimulatedRelay()) as server:
        server.relay.faults = faults
        refused = await open_client(server, transport, seconds=1.0 if faults.stall is not None else PATIENCE_SECONDS)
        assert isinstance(refused, Exchange)
        assert status == refused.status
        if words is None:
            assert (None, faults.location) == (refused.error, refused.headers.get("location"))
        else:
            with pytest.raises(type(refused.error or AssertionError()), match=words):
                raise refused.error or AssertionError()


async def test_each_transport_has_its_own_status() -> None:
    """A relay that refuses the raw upgrade may be reached by WebSocket, and says who refuses."""
    async with RelayOnly(relay=SimulatedRelay()) as server:
        server.relay.faults = RelayFaults(raw_status=426, foreign=True)
        refused = await open_client(server, Transport.DERP)
        assert isinstance(refused, Exchange)
        assert (426, "nginx") == (refused.status, refused.headers.get("server"))
        (await admitted(server, Transport.WEBSOCKET)).abort()


async def test_what_befalls_messages() -> None:
    """The first ones are lost, one is late, one comes from a stranger; and a header shows another key."""
    async with RelayOnly(relay=SimulatedRelay()) as server:
        server.relay.faults = RelayFaults(drop_first=2, delay_seconds=0.05, header_key=True)
        async with await admitted(server, Transport.DERP) as first, await admitted(server, Transport.DERP) as second:
            assert first.header_key not in (None, first.server_key)
            for text in (b"1", b"2", b"3"):
                sent_seconds = first.send(second.own_key, text)
            packet = await second.receive_packet(deadline_seconds=deadline())
            assert b"3" == packet.payload
            assert 0.04 < packet.received_seconds - sent_seconds
            server.relay.faults = RelayFaults(foreign_source=True)
            first.send(second.own_key, b"4")
            assert first.own_key != (await second.receive_packet(deadline_seconds=deadline())).source
            server.relay.faults = RelayFaults(drop_first=None)
            first.send(second.own_key, b"5")
            await first.ping(deadline_seconds=deadline())
            server.relay.faults = RelayFaults(cut_within_frame=True)
            first.send(second.own_key, b"6")
            with pytest.raises(Exception, match=r"closed|ended|frame"):
                await second.receive_packet(deadline_seconds=deadline())


async def test_boundaries_of_websocket_messages_mean_nothing() -> None:
    """A relay that cuts its frames into single bytes is understood all the same."""
    async with RelayOnly(relay=SimulatedRelay()) as server:
        server.relay.faults = RelayFaults(piece_bytes=1, token_bucket=True)
        async with (
            await admitted(server, Transport.WEBSOCKET) as first,
            await admitted(server, Transport.DERP) as second,
        ):
            second.send(first.own_key, b"in pieces")
            assert b"in pieces" == (await first.receive_packet(deadline_seconds=deadline())).payload
            assert first.server_info.token_bucket_bytes_per_second is not None


async def test_what_stands_can_be_cut() -> None:
    """Whoever is connected, by either transport or by a fast start, hears the end of it."""
    async with RelayOnly(relay=SimulatedRelay(), families=("ipv4",)) as server:
        raw = await admitted(server, Transport.DERP)
        websocket = await admitted(server, Transport.WEBSOCKET)
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"GET /derp HTTP/1.1\r\nHost: x\r\nUpgrade: DERP\r\nDerp-Fast-Start: 1\r\n\r\n")
        assert FrameType.SERVER_KEY == (await reader.readexactly(45))[0]
        server.cut_connections("ipv6")
        await raw.ping(deadline_seconds=deadline())
        server.refuse_connections()
        for client in (raw, websocket):
            with pytest.raises(Exception, match=r"closed|ended|reset"):
                await client.receive_packet(deadline_seconds=deadline())
            client.abort()
        assert b"" == await reader.read()
        writer.close()


# ---- against what real clients wrote


@pytest.mark.parametrize("name", RAW)
async def test_real_clients_bytes_get_a_real_relays_answer(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Played again, a capture gives the same answer: head, frames, what the boxes hold, and the end."""
    monkeypatch.setattr(relay_module, "KEEP_ALIVE_SECONDS", 0.02)
    monkeypatch.setattr(relay_module, "KEEP_ALIVE_SPREAD_SECONDS", 0.0)
    if name.endswith("login-timeout"):
        monkeypatch.setattr(relay_module, "LOGIN_SECONDS", 0.05)
    if not name.endswith("keepalive"):
        monkeypatch.setattr(relay_module, "KEEP_ALIVE_SECONDS", 60.0)
    capture = read_capture(DATA / "derp" / f"{name}.hex")
    key = KeyPair.from_private(capture.private_keys["server"])
    streams: dict[str, tuple[asyncio.StreamReader, asyncio.StreamWriter]] = {}
    answers: dict[str, bytes] = dict.fromkeys(capture.connections, b"")
    pieces = [piece for piece in capture.pieces if isinstance(piece, Piece)]
    async with RelayOnly(relay=SimulatedRelay(key=key), families=("ipv4",)) as server, asyncio.timeout(20):
        for number, piece in enumerate(pieces):
            if piece.connection not in streams:
                streams[piece.connection] = await asyncio.open_connection("127.0.0.1", server.port)
            reader, writer = streams[piece.connection]
            if piece.from_client:
                writer.write(piece.data)
            else:
                answers[piece.connection] += await reader.readexactly(len(piece.data))
            ended_by_relay = any("by the relay" in ending for ending in capture.endings(piece.connection))
            if all(piece.connection != later.connection for later in pieces[number + 1 :]) and not ended_by_relay:
                writer.close()
        for connection, (reader, writer) in streams.items():
            if any("by the relay" in ending for ending in capture.endings(connection)):
                assert b"" == await reader.read()
            writer.close()
    for connection, answer in answers.items():
        recorded = b"".join(capture.sent(connection, from_client=False))
        assert compare(recorded, connection, capture, key) == compare(answer, connection, capture, key)


@pytest.mark.parametrize("name", WEBSOCKET)
async def test_real_clients_frames_get_a_real_relays_answer_by_websocket(
    name: str, http: aiohttp.ClientSession
) -> None:
    """The frames of a capture, sent by WebSocket, are answered as they were."""
    capture = read_capture(DATA / "derp" / f"{name}.hex")
    key = KeyPair.from_private(capture.private_keys["server"])
    async with RelayOnly(relay=SimulatedRelay(key=key)) as server, asyncio.timeout(20):
        sockets: dict[str, Any] = {}
        answers = dict.fromkeys(capture.connections, b"")
        for connection in capture.connections:
            sockets[connection] = await http.ws_connect(f"{server.url}/derp", protocols=("derp",))
        left = {
            connection: {side: cut_derp_pieces(capture, connection, from_client=side) for side in (True, False)}
            for connection in capture.connections
        }
        for piece in (piece for piece in capture.pieces if isinstance(piece, Piece)):
            mine = left[piece.connection]
            data = b"".join(mine[piece.from_client])
            if piece.data.startswith((b"GET ", b"HTTP/")) or not data:
                continue
            if piece.from_client:
                await sockets[piece.connection].send_bytes(mine[True].pop(0))
            else:
                wanted = len(mine[False].pop(0)) + len(answers[piece.connection])
                while len(answers[piece.connection]) < wanted:
                    answers[piece.connection] += await sockets[piece.connection].receive_bytes()
            if not mine[True] and not mine[False]:
                await sockets[piece.connection].close()
        for socket in sockets.values():
            await socket.close()
    for connection, answer in answers.items():
        recorded = b"".join(cut_derp_pieces(capture, connection, from_client=False))
        assert compare(recorded, connection, capture, key) == compare(answer, connection, capture, key)


def compare(answer: bytes, connection: str, capture: Any, key: KeyPair) -> tuple[bytes, list[tuple[int, bytes]]]:
    """Return the head and the frames of an answer, in a form that two of them share."""
    head, _, rest = answer.partition(b"\r\n\r\n") if answer.startswith(b"HTTP/") else (b"", b"", answer)
    own_key = KeyPair.from_private(capture.private_keys[f"client {connection}"])
    return head, read_frames(rest, compute_box_key(own_key.public_key, key.private_key))
