"""The relay's probe, against the simulated relay and servers that stand where one should be."""

from __future__ import annotations

import asyncio
import base64
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from exporter.clock import SystemClock
from exporter.demo.relay import RelayClient, RelayFaults, SimulatedRelay, Stall
from exporter.errors import Phase, Reason
from exporter.health.derp import RelayResult, TransportResult
from exporter.probes.derp import probe
from exporter.targets.model import LossMode
from exporter.wire.derp_frames import encode_ping, encode_server_key
from exporter.wire.url import Origin
from tests.support.certificates import Authority
from tests.support.relay_targets import RelayServer, relay_target
from tests.support.scripted_server import Reader, Script, answer, hang, reset, serve

BOTH = ("derp", "websocket")
SHORT_SECONDS = 1.0  # a timeout that is meant to pass, though not before what comes ahead of it is done
PATIENCE_SECONDS = 10.0  # and one that is not


async def run(origin: Origin, **more: Any) -> RelayResult:
    return await probe(relay_target(origin, **more), clock=SystemClock())


async def until_clients(server: RelayServer, count: int) -> None:
    """Return once so many clients are logged in: the relay hears of an end a little later than we."""
    async with asyncio.timeout(10):
        while True:
            if count == len(server.relay.clients):
                return
            await asyncio.sleep(0.01)


def choose_timeout(reason: Reason) -> float:
    """Return a short timeout only for what ends by it: a busy machine may need longer to see the rest."""
    return SHORT_SECONDS if reason is Reason.TIMEOUT else PATIENCE_SECONDS


def both(result: RelayResult) -> tuple[TransportResult, TransportResult]:
    raw, websocket = result.transports
    assert BOTH == (raw.transport, websocket.transport)
    return raw, websocket


@pytest.fixture
async def server() -> AsyncIterator[RelayServer]:
    async with RelayServer() as running:
        yield running


# ---- a relay that works


async def test_messages_pass_both_ways_over_both_transports(server: RelayServer) -> None:
    """Of a good relay each transport tells phases, login, a round trip each way, and a ping."""
    for seen in both(await run(server.origin)):
        assert seen.up
        assert ("127.0.0.1", None, None, None) == (seen.address, seen.status, seen.location, seen.server)
        assert {Phase.CONNECT, Phase.PROCESSING, Phase.TRANSFER} == set(seen.phase_seconds)
        assert 2 == seen.messages_sent == len(seen.round_trip_seconds)
        assert all(seconds > 0 for seconds in seen.round_trip_seconds)
        assert seen.ping_round_trip_seconds is not None
        assert seen.login_seconds is not None
        # of two logins, side by side, the longer; the phase goes on from the first client's
        assert 0 < seen.login_seconds < seen.duration_seconds
        assert sum(seen.round_trip_seconds) < seen.phase_seconds[Phase.TRANSFER] < seen.duration_seconds
        assert (1, False, "", None, None) == (
            seen.relay_processes,
            seen.key_mismatch,
            seen.health_problem,
            seen.loss,
            seen.certificate,
        )
    assert 4 == server.relay.logins
    await until_clients(server, 0)


async def test_a_name_is_looked_up_once(server: RelayServer) -> None:
    """The time of the one lookup stands at both transports."""
    result = await run(Origin(scheme="http", host="localhost", port=server.port), address=None)
    raw, websocket = both(result)
    assert (True, True) == (raw.up, websocket.up)
    assert raw.phase_seconds[Phase.RESOLVE] == websocket.phase_seconds[Phase.RESOLVE]


async def test_what_the_target_says_stands_in_the_result(server: RelayServer) -> None:
    """A relay that left the map, and a deployment that forces WebSocket, are told to who judges."""
    result = await run(server.origin, listed=False, expect_websocket=True)
    assert (False, True, "1/1a") == (result.listed, result.expect_websocket, result.name.target)


async def test_tls_shows_the_certificate(tmp_path: Path) -> None:
    """Over TLS with an own authority both transports work and tell when the certificate ends."""
    authority = Authority(tmp_path)
    authority.write_server_files(tmp_path / "relay.pem", "relay.test")
    async with RelayServer(certificate=tmp_path / "relay.pem") as server:
        origin = Origin(scheme="https", host="relay.test", port=server.port)
        for seen in both(await run(origin, ca_file=authority.ca_file)):
            assert seen.up
            assert Phase.TLS in seen.phase_seconds
            assert seen.certificate is not None
            assert seen.certificate.leaf_timestamp_seconds is not None


@pytest.mark.parametrize("of_map", [{"certificate_name": "relay.test"}, {"insecure": True}])
async def test_the_map_says_how_to_verify(tmp_path: Path, of_map: dict[str, Any]) -> None:
    """CertName replaces the host's name, and InsecureForTests takes any certificate."""
    authority = Authority(tmp_path)
    authority.write_server_files(tmp_path / "relay.pem", "relay.test")
    async with RelayServer(certificate=tmp_path / "relay.pem") as server:
        origin = Origin(scheme="https", host="other.test", port=server.port)
        for seen in both(await run(origin, ca_file=authority.ca_file, **of_map)):
            assert seen.up
        for seen in both(await run(origin, ca_file=authority.ca_file)):
            assert (True, Reason.TLS) == (seen.certificate_refused, seen.failure and seen.failure.reason)
            assert {Phase.CONNECT} == set(seen.phase_seconds)


async def test_an_unknown_authority_is_a_wrong_certificate(tmp_path: Path) -> None:
    """A certificate that nobody vouches for is refused, and shown all the same where Python can."""
    authority = Authority(tmp_path)
    authority.write_server_files(tmp_path / "relay.pem", "relay.test")
    async with RelayServer(certificate=tmp_path / "relay.pem") as server:
        for seen in both(await run(Origin(scheme="https", host="relay.test", port=server.port))):
            assert seen.certificate_refused
            assert seen.failure is not None
            assert (Reason.TLS, Phase.TLS) == (seen.failure.reason, seen.failure.phase)


# ---- no relay at all


async def test_no_address(tmp_path: Path) -> None:
    """A name that does not exist, or a CA file that cannot be read, fails both transports the same."""
    for host, more, reason in (
        ("relay.invalid", {}, Reason.RESOLVE),
        ("127.0.0.1", {"ca_file": tmp_path / "none.pem"}, Reason.TLS),
    ):
        result = await run(Origin(scheme="https", host=host, port=443), address=None, timeout_seconds=30.0, **more)
        for seen in both(result):
            assert seen.failure is not None
            assert (reason, {}, None) == (seen.failure.reason, seen.phase_seconds, seen.address)


async def test_a_closed_port_is_refused(server: RelayServer) -> None:
    """Where nothing listens, connecting is what failed."""
    server.refuse_connections()
    for seen in both(await run(server.origin)):
        assert seen.failure is not None
        assert (Reason.REFUSED, Phase.CONNECT) == (seen.failure.reason, seen.failure.phase)
        assert ({}, "127.0.0.1") == (seen.phase_seconds, seen.address)


# ---- what answers instead of the relay


def say(status: str, *headers: str, body: str = "") -> Script:
    lines = [f"HTTP/1.1 {status}", *headers, f"Content-Length: {len(body)}", "", body]
    return answer("\r\n".join(lines).encode())


@pytest.mark.parametrize(
    ("script", "status", "location", "falls_back"),
    [
        (say("426 Upgrade Required", "Upgrade: DERP", body="DERP requires connection upgrade\n"), 426, None, True),
        (say("400 Bad Request", body='{"message": "DERP is disabled"}'), 400, None, True),
        (say("401 Unauthorized"), 401, None, True),
        (say("403 Forbidden", body="blocked"), 403, None, True),
        (say("404 Not Found"), 404, None, True),
        (say("405 Method Not Allowed"), 405, None, True),
        (say("429 Too Many Requests"), 429, None, True),
        (say("200 OK", "Content-Type: text/html", body="<html>Coder</html>"), 200, None, False),
        (say("301 Moved Permanently", "Location: https://127.0.0.1/derp"), 301, "https://127.0.0.1/derp", False),
        (say("302 Found", "Location: /login?state=hidden"), 302, "/login", False),
        (say("303 See Other", "Location: /login"), 303, "/login", False),
        (say("307 Temporary Redirect", "Location: /login"), 307, "/login", False),
        (say("500 Internal Server Error"), 500, None, False),
        (say("502 Bad Gateway"), 502, None, False),
        (say("503 Service Unavailable"), 503, None, False),
        (say("504 Gateway Timeout"), 504, None, False),
        # the status is what counts, even if the body never comes
        (hang(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 9\r\n\r\n"), 403, None, True),
    ],
)
async def test_a_refused_upgrade_keeps_its_answer(
    script: Script, status: int, location: str | None, falls_back: bool
) -> None:
    """A refusal is told by its status, with where it points; only after 4xx do clients fall back."""
    async with serve(script) as server:
        for seen in both(await run(server.origin(), timeout_seconds=SHORT_SECONDS if status == 403 else 10.0)):
            assert (status, location, falls_back) == (seen.status, seen.location, seen.lets_fall_back)
            assert seen.failure is not None
            assert (Reason.STATUS, Phase.PROCESSING) == (seen.failure.reason, seen.failure.phase)
            assert f"answered status {status}" in seen.failure.message
            assert {Phase.CONNECT, Phase.PROCESSING} <= set(seen.phase_seconds)
            assert (None, 0, ()) == (seen.login_seconds, seen.messages_sent, seen.round_trip_seconds)


async def test_a_refusal_names_its_server() -> None:
    """Who answered is told, cut to a decent length."""
    async with serve(say("403 Forbidden", f"Server: nginx/{'9' * 200}")) as server:
        for seen in both(await run(server.origin())):
            assert seen.server is not None
            assert (80, "nginx/99") == (len(seen.server), seen.server[:8])


DERP_101 = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: DERP\r\nConnection: Upgrade\r\n\r\n"
SETTINGS = bytes.fromhex("000012040000000000000300000064000400ffffff000500ffffff")


@pytest.mark.parametrize(
    ("script", "reason", "phase", "words"),
    [
        (hang(), Reason.TIMEOUT, Phase.PROCESSING, "out of time"),
        (answer(), Reason.PROTOCOL, Phase.PROCESSING, "without an answer"),
        (reset(), Reason.PROTOCOL, Phase.PROCESSING, "reset"),
        (answer(b"SSH-2.0-OpenSSH_9.2\r\n"), Reason.PROTOCOL, Phase.PROCESSING, "not an HTTP answer"),
        (answer(b"\x15\x03\x01\x00\x02\x02\x46"), Reason.PROTOCOL, Phase.PROCESSING, "https"),
        (hang(SETTINGS), Reason.PROTOCOL, Phase.PROCESSING, "HTTP/2"),
    ],
)
async def test_no_answer_to_the_upgrade(script: Script, reason: Reason, phase: Phase, words: str) -> None:
    """What is no HTTP answer has no status, and says what it was."""
    async with serve(script) as server:
        for seen in both(await run(server.origin(), timeout_seconds=choose_timeout(reason))):
            assert seen.failure is not None
            assert (reason, phase, None) == (seen.failure.reason, seen.failure.phase, seen.status)
            assert words in seen.failure.message
            assert {Phase.CONNECT} == set(seen.phase_seconds)
            assert (words == "HTTP/2") == seen.http2 == seen.lets_fall_back


@pytest.mark.parametrize(
    ("script", "reason", "phase", "words"),
    [
        (hang(DERP_101), Reason.TIMEOUT, Phase.TRANSFER, "the relay's greeting"),
        (answer(DERP_101), Reason.PROTOCOL, Phase.TRANSFER, "before its greeting"),
        (hang(DERP_101 + b"HTTP/1.1 400 Bad Request\r\n"), Reason.PROTOCOL, Phase.TRANSFER, "not DERP"),
        (hang(DERP_101 + b"\x01\xff\xff\xff\xff"), Reason.PROTOCOL, Phase.TRANSFER, "not DERP"),
        (hang(DERP_101 + b"\x01\x00\x00\x00\x27" + bytes(39)), Reason.PROTOCOL, Phase.TRANSFER, "greeting"),
        (hang(DERP_101 + encode_ping(bytes(8))), Reason.PROTOCOL, Phase.TRANSFER, "greeting"),
        (hang(DERP_101 + encode_server_key(bytes(32), magic=bytes(8))), Reason.PROTOCOL, Phase.TRANSFER, "greeting"),
        # the key of a relay that cannot be a key
        (hang(DERP_101 + encode_server_key(bytes(32))), Reason.PROTOCOL, Phase.TRANSFER, "key"),
        (
            hang(DERP_101.replace(b"DERP", b"h2c")),
            Reason.PROTOCOL,
            Phase.PROCESSING,
            "not to DERP",
        ),
    ],
)
async def test_an_accepted_raw_upgrade_that_leads_nowhere(
    script: Script, reason: Reason, phase: Phase, words: str
) -> None:
    """After a 101 there is no status to tell, and clients do not fall back; nor is it a websocket."""
    async with serve(script) as server:
        raw, websocket = both(await run(server.origin(), timeout_seconds=choose_timeout(reason)))
    assert raw.failure is not None
    assert (reason, phase) == (raw.failure.reason, raw.failure.phase)
    assert words in raw.failure.message
    assert websocket.failure is not None
    assert (Reason.PROTOCOL, Phase.PROCESSING) == (websocket.failure.reason, websocket.failure.phase)
    for seen in (raw, websocket):
        assert (None, False, None) == (seen.status, seen.lets_fall_back, seen.login_seconds)
        assert Phase.CONNECT in seen.phase_seconds
        assert seen.failure is not None
        assert seen.failure.phase not in seen.phase_seconds


def accept_websocket(*frames: bytes) -> Script:
    """Return a script that opens the websocket and sends these frames in one write."""

    async def script(reader: Reader, writer: asyncio.StreamWriter) -> None:
        head = await reader.read_request()
        if b"upgrade: websocket" not in head.lower():
            writer.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
            return
        key = head.lower().split(b"sec-websocket-key: ")[1].split(b"\r\n")[0]
        key = head[head.lower().index(key) :][: len(key)]
        proof = base64.b64encode(hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
        writer.write(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Protocol: derp\r\nSec-WebSocket-Accept: " + proof + b"\r\n\r\n" + b"".join(frames)
        )
        while await reader.read(65536):
            pass

    return script


@pytest.mark.parametrize(
    ("frames", "reason", "words"),
    [
        ((), Reason.TIMEOUT, "the relay's greeting"),
        ((b"\x82\x05HTTP/",), Reason.PROTOCOL, "not DERP"),
        ((b"\x82\x05\x01\xff\xff\xff\xff",), Reason.PROTOCOL, "not DERP"),
        ((b"\x81\x05hello",), Reason.PROTOCOL, "text message"),
        ((b"\x88\x02\x03\xf1",), Reason.PROTOCOL, "closed with 1009"),
        ((b"\x88\x02\x03\xe8",), Reason.PROTOCOL, "before its greeting"),
        ((b"\xff\xff",), Reason.PROTOCOL, "websocket protocol"),
    ],
)
async def test_an_accepted_websocket_that_leads_nowhere(frames: tuple[bytes, ...], reason: Reason, words: str) -> None:
    """A websocket over which no DERP comes has neither a status nor a login."""
    async with serve(accept_websocket(*frames)) as server:
        _, seen = both(await run(server.origin(), timeout_seconds=choose_timeout(reason)))
    assert seen.failure is not None
    assert (reason, Phase.TRANSFER, None) == (seen.failure.reason, seen.failure.phase, seen.status)
    assert words in seen.failure.message
    assert {Phase.CONNECT, Phase.PROCESSING} == set(seen.phase_seconds)


# ---- faults of the relay itself


@pytest.mark.parametrize(
    ("faults", "reason", "words"),
    [
        ({"stall": Stall.BEFORE_ANSWER}, Reason.TIMEOUT, "waiting for the answer"),
        ({"stall": Stall.AFTER_UPGRADE}, Reason.TIMEOUT, "the relay's greeting"),
        ({"stall": Stall.AFTER_GREETING}, Reason.TIMEOUT, "the answer to our login"),
        ({"stall": Stall.AFTER_LOGIN}, Reason.TIMEOUT, "the answer to our login"),
        ({"wrong_magic": True}, Reason.PROTOCOL, "invalid greeting"),
        ({"huge_frame": True}, Reason.PROTOCOL, "not DERP"),
        ({"corrupt_login": True}, Reason.PROTOCOL, "box"),
        ({"refuse_clients": True}, Reason.PROTOCOL, "refuses this client"),
        ({"drop_first": None}, Reason.TIMEOUT, "did not arrive"),
        ({"foreign_source": True}, Reason.TIMEOUT, "did not arrive"),
        ({"cut_within_frame": True}, Reason.PROTOCOL, "closed the connection"),
    ],
)
async def test_a_relay_with_a_fault(server: RelayServer, faults: dict[str, Any], reason: Reason, words: str) -> None:
    """Each way to fail ends in time with its reason, over both transports, and leaves nothing open."""
    server.relay.faults = RelayFaults(**faults)
    seconds = choose_timeout(reason)
    for seen in both(await run(server.origin, timeout_seconds=seconds)):
        assert seen.failure is not None
        assert reason is seen.failure.reason
        assert words in seen.failure.message
        assert (None, None) == (seen.status, seen.ping_round_trip_seconds)
        assert Phase.TRANSFER not in seen.phase_seconds
        assert SHORT_SECONDS * 5 > seen.duration_seconds


async def test_a_lost_message_is_sent_again(server: RelayServer) -> None:
    """A message that is lost costs a repeat, which is counted; each has its own round trip."""
    server.relay.faults.drop_first = 1
    for seen in both(await run(server.origin)):
        assert (True, 4, 2) == (seen.up, seen.messages_sent, len(seen.round_trip_seconds))
        assert all(seconds < 0.9 for seconds in seen.round_trip_seconds)


async def test_a_header_with_another_key(server: RelayServer) -> None:
    """The raw answer's header may lie about the key, which is told; the websocket's has none."""
    server.relay.faults.header_key = True
    raw, websocket = both(await run(server.origin))
    assert (True, True) == (raw.up, raw.key_mismatch)
    assert (True, False) == (websocket.up, websocket.key_mismatch)


async def test_only_the_websocket_works(server: RelayServer) -> None:
    """A refused raw upgrade says nothing about the WebSocket beside it."""
    server.relay.faults = RelayFaults(raw_status=403)
    raw, websocket = both(await run(server.origin))
    assert (403, True, True) == (raw.status, raw.lets_fall_back, websocket.up)


async def test_a_raw_transport_that_hangs_holds_up_nobody() -> None:
    """While the raw transport waits for its deadline, the WebSocket has long told what it saw."""

    async def script(reader: Reader, writer: asyncio.StreamWriter) -> None:
        head = await reader.read_request()
        if b"Upgrade: DERP" in head:
            while await reader.read(65536):
                pass
        writer.write(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n")

    async with serve(script) as server:
        raw, websocket = both(await run(server.origin(), timeout_seconds=2.0))
    assert Reason.TIMEOUT is (raw.failure and raw.failure.reason)
    assert 503 == websocket.status
    assert websocket.started_timestamp_seconds + websocket.duration_seconds < (
        raw.started_timestamp_seconds + raw.duration_seconds
    )


async def test_cancelling_goes_through(server: RelayServer) -> None:
    """A run that is cancelled leaves no connection behind."""
    server.relay.faults.drop_first = None
    running = asyncio.ensure_future(run(server.origin))
    await until_clients(server, 4)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await until_clients(server, 0)


# ---- loss and jitter


class FirstClient(dict[bytes, RelayClient]):
    """The clients of a relay that lets one in, and then falls silent at every login."""

    def __init__(self, relay: SimulatedRelay) -> None:
        super().__init__()
        self._relay = relay
        self.came = asyncio.Event()

    def __setitem__(self, key: bytes, client: RelayClient) -> None:
        super().__setitem__(key, client)
        self._relay.faults = RelayFaults(stall=Stall.AFTER_GREETING)
        self.came.set()


async def test_a_run_that_is_cancelled_between_two_logins_leaves_no_client(server: RelayServer) -> None:
    """One client is in, the other one hangs: whoever drops the target takes both along."""
    clients = server.relay.clients = FirstClient(server.relay)
    running = asyncio.ensure_future(run(server.origin))
    async with asyncio.timeout(10):
        await clients.came.wait()
    assert 1 == len(clients)
    # until our side has heard of its login too: the other transport begins only then
    await asyncio.wait([running], timeout=0.2)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await until_clients(server, 0)


async def test_a_stream_of_messages_tells_loss_and_jitter(server: RelayServer) -> None:
    """The stream counts by itself, and its round trips stand with the others."""
    result = await run(server.origin, loss=LossMode(packets_per_second=50, window_seconds=0.2))
    for seen in both(result):
        assert seen.loss is not None
        assert (10, 10, 0.0) == (seen.loss.sent, seen.loss.received, seen.loss.loss_ratio)
        assert seen.loss.jitter_seconds is not None
        assert (2, 12) == (seen.messages_sent, len(seen.round_trip_seconds))
