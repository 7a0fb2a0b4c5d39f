"""STUN over real sockets on loopback: answers, repeats, refusals, strangers, and sizes that pass."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import socket
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import AsyncExitStack, closing, contextmanager
from pathlib import Path

import pytest

from exporter.clock import SystemClock
from exporter.errors import ConnectError, DeadlineError, Phase, ProbeError, ProtocolError, Reason
from exporter.net.connection import NoRouteError
from exporter.net.stun_client import (
    OneSocketAnswers,
    PathMTU,
    StunAnswer,
    ask,
    ask_from_one_socket,
    measure_path_mtu,
)
from exporter.wire.stun import build_binding_response, parse_binding_request
from tests.conftest import skip_or_fail
from tests.support.derper import run_derper
from tests.support.udp_server import Client, Script, UDPServer, serve_udp

CLOCK = SystemClock()
PATIENCE_SECONDS = 10.0  # long enough for everything that is answered; only a fault waits so long
SHORT_SECONDS = 0.3  # a deadline that is meant to pass


async def ask_at(address: str, port: int, *, seconds: float = PATIENCE_SECONDS) -> StunAnswer:
    return await ask(address, port, deadline_seconds=CLOCK.monotonic() + seconds, clock=CLOCK)


async def survey(*servers: tuple[str, int], seconds: float = PATIENCE_SECONDS) -> OneSocketAnswers:
    family = "ipv6" if servers and ":" in servers[0][0] else "ipv4"
    deadline = CLOCK.monotonic() + seconds
    return await ask_from_one_socket(servers, family=family, deadline_seconds=deadline, clock=CLOCK)  # type: ignore[arg-type]


async def size_up(
    address: str, port: int, sizes_bytes: tuple[int, ...], *, seconds: float = PATIENCE_SECONDS
) -> PathMTU | None:
    deadline = CLOCK.monotonic() + seconds
    return await measure_path_mtu(address, port, sizes_bytes=sizes_bytes, deadline_seconds=deadline, clock=CLOCK)


# scripts


def right_answer(request: bytes, client: Client) -> bytes:
    return build_binding_response(parse_binding_request(request), client[0], client[1])


def answer(_server: UDPServer, request: bytes, client: Client) -> Iterable[bytes]:
    yield right_answer(request, client)


def stay_silent(_server: UDPServer, _request: bytes, _client: Client) -> Iterable[bytes]:
    return ()


def answer_from(number: int) -> Script:
    """Leave what comes before the request of that number without an answer."""

    def script(server: UDPServer, request: bytes, client: Client) -> Iterable[bytes]:
        if len(server.requests) >= number:
            yield right_answer(request, client)

    return script


def say(make: Callable[[bytes], bytes], *, then_answer: bool = False) -> Script:
    """Send what `make` makes of the request."""

    def script(_server: UDPServer, request: bytes, client: Client) -> Iterable[bytes]:
        yield make(request)
        if then_answer:
            yield right_answer(request, client)

    return script


def foreign_id(request: bytes) -> bytes:
    return build_binding_response(bytes(12), "192.0.2.1", 7)


def error_response(request: bytes) -> bytes:
    return b"\x01\x11\x00\x08" + request[4:20] + bytes.fromhex("0009000400000400")


def without_address(request: bytes) -> bytes:
    return b"\x01\x01\x00\x00" + request[4:20]


@contextmanager
def closed_port(address: str = "127.0.0.1") -> Iterator[int]:
    """A UDP port that was free a moment ago."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with closing(socket.socket(family, socket.SOCK_DGRAM)) as sock:
        sock.bind((address, 0))
        port = sock.getsockname()[1]
    yield port


@pytest.fixture
def ipv6_loopback() -> str:
    """The IPv6 address of this host, or the test is skipped."""
    try:
        with closing(socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)) as sock:
            sock.bind(("::1", 0))
    except OSError as error:
        pytest.skip(f"this host has no IPv6 loopback: {error}")
    return "::1"


@pytest.fixture(autouse=True)
def _every_socket_is_closed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Whoever opens closes: no socket that the client made outlives its test."""
    made: list[socket.socket] = []
    real_open = socket.socket.__init__

    def watch(self: socket.socket, *arguments: object, **named: object) -> None:
        real_open(self, *arguments, **named)  # type: ignore[arg-type]
        made.append(self)

    monkeypatch.setattr(socket.socket, "__init__", watch)
    yield
    left = [sock for sock in made if sock.fileno() != -1 and sock.type & socket.SOCK_DGRAM == socket.SOCK_DGRAM]
    assert [] == left


# ask


async def test_a_server_tells_our_own_address() -> None:
    """The answer holds the address and port that the request came from, and the time that it took."""
    async with serve_udp(answer) as server:
        got = await ask_at(*server.pair)
    assert (*server.clients[0][:2], 1) == (got.mapped_address, got.mapped_port, got.attempts)
    assert 0 < got.round_trip_seconds < PATIENCE_SECONDS
    assert 40 == len(server.requests[0])


async def test_ipv6_is_asked_like_ipv4(ipv6_loopback: str) -> None:
    """An IPv6 server sees an IPv6 client."""
    async with serve_udp(answer, address=ipv6_loopback) as server:
        got = await ask_at(*server.pair)
    assert (ipv6_loopback, server.clients[0][1]) == (got.mapped_address, got.mapped_port)


async def test_a_mapped_address_is_ipv4() -> None:
    """An IPv4 server that is written as IPv4-mapped IPv6 is asked over IPv4."""
    async with serve_udp(answer) as server:
        got = await ask_at("::ffff:127.0.0.1", server.port)
    assert "127.0.0.1" == got.mapped_address


async def test_a_lost_request_is_repeated_with_another_id() -> None:
    """A server that misses the first request gets a second one; the round trip is that of the second."""
    async with serve_udp(answer_from(2)) as server:
        started = CLOCK.monotonic()
        got = await ask_at(*server.pair)
        elapsed = CLOCK.monotonic() - started
    assert 2 == got.attempts
    first, second = map(parse_binding_request, server.requests)
    assert first != second
    assert got.round_trip_seconds < elapsed - 0.4  # the wait before the repeat is not in it


async def test_a_late_answer_has_the_whole_round_trip() -> None:
    """An answer to the first request that comes after the second counts from the first."""
    held: list[bytes] = []

    def script(_server: UDPServer, request: bytes, client: Client) -> Iterable[bytes]:
        held.append(right_answer(request, client))
        if len(held) == 2:
            yield held[0]

    async with serve_udp(script) as server:
        got = await ask_at(*server.pair)
    assert 2 == got.attempts
    assert got.round_trip_seconds > 0.4  # the wait before the repeat is in it


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
async def test_a_closed_port_is_a_refusal(address: str, request: pytest.FixtureRequest) -> None:
    """What ICMP says is told at once, and apart from silence."""
    if ":" in address:
        request.getfixturevalue("ipv6_loopback")
    with closed_port(address) as port, pytest.raises(ConnectError, match="nothing listens on that UDP port") as caught:
        await ask_at(address, port)
    assert (Reason.REFUSED, Phase.CONNECT) == (caught.value.reason, caught.value.phase)
    assert str(port) in caught.value.message


async def test_a_port_that_closes_meanwhile_is_a_refusal() -> None:
    """A server that goes away after a silent first request is refused at the repeat."""
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(serve_udp(stay_silent))
        asking = asyncio.create_task(ask_at(*server.pair))
        await server.wait_until_asked()
        await stack.aclose()
        with pytest.raises(ConnectError) as caught:
            await asking
    assert Reason.REFUSED is caught.value.reason


async def test_silence_ends_at_the_deadline() -> None:
    """A silent server is a timeout that says how often it was asked."""
    async with serve_udp(stay_silent) as server:
        started = CLOCK.monotonic()
        with pytest.raises(DeadlineError, match=r"no answer to 1 request within 0\.3\d* s") as caught:
            await ask_at(*server.pair, seconds=SHORT_SECONDS)
    assert SHORT_SECONDS <= CLOCK.monotonic() - started < 5 * SHORT_SECONDS
    assert (Reason.TIMEOUT, Phase.PROCESSING) == (caught.value.reason, caught.value.phase)
    assert 1 == len(server.requests)


async def test_a_deadline_that_has_passed() -> None:
    """No time left is a timeout, not a hang."""
    async with serve_udp(stay_silent) as server:
        with pytest.raises(DeadlineError):
            await ask_at(*server.pair, seconds=-1.0)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (error_response, "the server answered with an error response, code 400"),
        (without_address, "the success response says no mapped address"),
        (lambda request: request, "the message has type 0001, which is no success response"),
    ],
)
async def test_a_bad_answer_to_our_request_ends_it(make: Callable[[bytes], bytes], words: str) -> None:
    """An answer that carries our transaction id and is none is told at once."""
    async with serve_udp(say(make)) as server:
        with pytest.raises(ProtocolError, match=f"by STUN: {words}$") as caught:
            await ask_at(*server.pair)
    assert (Reason.PROTOCOL, Phase.PROCESSING) == (caught.value.reason, caught.value.phase)
    assert f"127.0.0.1:{server.port}" in caught.value.message


STRAYS = [
    (lambda request: b"hello", "5 bytes are no STUN message"),
    (lambda request: bytes(19), "19 bytes are no STUN message"),
    (lambda request: bytes(65000), "where STUN has its magic cookie"),
    (foreign_id, "a transaction id that was not sent"),
    (lambda request: error_response(bytes.fromhex("000100002112a442") + bytes(12)), "an error response, code 400"),
]


@pytest.mark.parametrize(("make", "words"), STRAYS)
async def test_strays_do_not_hide_the_answer(make: Callable[[bytes], bytes], words: str) -> None:
    """Datagrams that are no answer to us are passed over when one comes that is."""
    async with serve_udp(say(make, then_answer=True)) as server:
        got = await ask_at(*server.pair)
    assert (server.clients[0][1], 1) == (got.mapped_port, got.attempts)


@pytest.mark.parametrize(("make", "words"), STRAYS)
async def test_nothing_but_strays_is_not_silence(make: Callable[[bytes], bytes], words: str) -> None:
    """When the deadline comes, the error says that something came, and what was wrong with the last."""
    async with serve_udp(say(make)) as server:
        with pytest.raises(ProtocolError, match=f"1 request brought no answer but 1 datagram that is none: .*{words}"):
            await ask_at(*server.pair, seconds=SHORT_SECONDS)


async def test_another_socket_cannot_answer() -> None:
    """The right transaction id from another port is not heard."""
    async with serve_udp(stay_silent) as other:

        def script(_server: UDPServer, request: bytes, client: Client) -> Iterable[bytes]:
            other.send(right_answer(request, client), client)
            return ()

        async with serve_udp(script) as server:
            with pytest.raises(DeadlineError):
                await ask_at(*server.pair, seconds=SHORT_SECONDS)
    assert 1 == len(server.requests)


async def test_cancelling_goes_through() -> None:
    """A question that is cancelled ends at once and leaves no socket."""
    async with serve_udp(stay_silent) as server:
        task = asyncio.create_task(ask_at(*server.pair))
        await server.wait_until_asked()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_a_broadcast_address_is_forbidden() -> None:
    """The kernel's own no is told as such."""
    with pytest.raises(ConnectError, match=r"this host forbids it: EACCES \(Permission denied\)") as caught:
        await ask_at("127.255.255.255", 3478)
    assert Reason.UNREACHABLE is caught.value.reason


@pytest.mark.parametrize(
    ("number", "wanted", "reason", "words"),
    [
        (errno.ENETUNREACH, NoRouteError, Reason.UNREACHABLE, "this host has no way to that IPv4 address"),
        (errno.EADDRNOTAVAIL, NoRouteError, Reason.UNREACHABLE, "this host has no way to that IPv4 address"),
        (errno.EAFNOSUPPORT, NoRouteError, Reason.UNREACHABLE, "this host has no way to that IPv4 address"),
        (errno.EHOSTUNREACH, ConnectError, Reason.UNREACHABLE, "127.0.0.1:9 by STUN: unreachable: EHOSTUNREACH"),
        (errno.EPERM, ConnectError, Reason.UNREACHABLE, "this host forbids it: EPERM"),
        (errno.EMFILE, ProbeError, Reason.INTERNAL, "this host has run out: EMFILE"),
    ],
)
@pytest.mark.parametrize("call", ["connect", "send"])
async def test_what_the_operating_system_says_has_a_name(
    monkeypatch: pytest.MonkeyPatch, call: str, number: int, wanted: type[ProbeError], reason: Reason, words: str
) -> None:
    """Each errno of connecting and sending becomes one error of ours, with the errno in its words."""

    def refuse(*_arguments: object) -> None:
        raise OSError(number, "whatever")

    monkeypatch.setattr(socket.socket, call, refuse)
    with pytest.raises(ProbeError, match=words) as caught:
        await ask_at("127.0.0.1", 9)
    assert wanted is type(caught.value)
    assert (reason, Phase.CONNECT) == (caught.value.reason, caught.value.phase)


@pytest.mark.parametrize("number", [errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EACCES])
async def test_what_icmp_says_of_the_host(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """A router's word is an unreachable server, and no lack of this host."""

    def hear(*_arguments: object) -> None:
        raise OSError(number, "whatever")

    monkeypatch.setattr(socket.socket, "recvfrom", hear)
    with closed_port() as port, pytest.raises(ConnectError, match="unreachable, as ICMP says: E") as caught:
        await ask_at("127.0.0.1", port)
    assert (ConnectError, Reason.UNREACHABLE) == (type(caught.value), caught.value.reason)


@pytest.mark.parametrize("number", [errno.EAGAIN, errno.ENOBUFS])
async def test_a_request_that_is_lost_here_is_repeated(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """A full queue of this host is a lost datagram like any other."""
    real_send = socket.socket.send
    tries: list[bytes] = []

    def lose_first(sock: socket.socket, data: bytes) -> int:
        tries.append(data)
        if len(tries) == 1:
            raise OSError(number, "whatever")
        return real_send(sock, data)

    async with serve_udp(answer) as server:
        monkeypatch.setattr(socket.socket, "send", lose_first)
        got = await ask_at(*server.pair)
    assert 2 == got.attempts
    assert tries[1:] == server.requests


@pytest.mark.parametrize(("address", "port"), [("stun.test", 3478), ("", 3478), ("127.0.0.1", 0), ("::1", 65536)])
async def test_only_addresses_and_ports_are_taken(address: str, port: int) -> None:
    """A name would be looked up in the event loop: it is refused before there is a socket."""
    with pytest.raises(ValueError):
        await ask_at(address, port)
    with pytest.raises(ValueError):
        await survey((address, port))


# one socket


async def test_one_socket_asks_all() -> None:
    """Every server sees the same port of ours, and the answers come with the server that gave them."""
    async with serve_udp(answer) as one, serve_udp(answer, address="127.0.0.2") as two, serve_udp(answer) as three:
        got = await survey(one.pair, two.pair, three.pair)
    assert 1 == len({server.clients[0][1] for server in (one, two, three)})
    assert {one.pair, two.pair, three.pair} == {(reply.server_address, reply.server_port) for reply in got.replies}
    assert {("127.0.0.1", one.clients[0][1])} == {(reply.mapped_address, reply.mapped_port) for reply in got.replies}
    assert (3, 3, True) == (len(got.replies), got.sent, got.can_send)
    assert all(0 < reply.round_trip_seconds < PATIENCE_SECONDS for reply in got.replies)


async def test_one_ipv6_socket_asks_all(ipv6_loopback: str) -> None:
    """The same over IPv6; the server's address stays as it was written."""
    async with serve_udp(answer, address=ipv6_loopback) as one, serve_udp(answer, address=ipv6_loopback) as two:
        got = await survey(one.pair, ("0:0:0:0:0:0:0:1", two.port))
    assert {one.pair, ("0:0:0:0:0:0:0:1", two.port)} == {
        (reply.server_address, reply.server_port) for reply in got.replies
    }
    assert {ipv6_loopback} == {reply.mapped_address for reply in got.replies}


async def test_only_who_was_silent_is_asked_again() -> None:
    """A server that answered is left alone, one that did not gets a repeat."""
    async with serve_udp(answer) as quick, serve_udp(answer_from(2)) as slow:
        got = await survey(quick.pair, slow.pair)
    assert (1, 2) == (len(quick.requests), len(slow.requests))
    assert [quick.pair, slow.pair] == [(reply.server_address, reply.server_port) for reply in got.replies]
    assert 3 == got.sent


async def test_a_silent_and_a_closed_server_hold_up_nobody() -> None:
    """At the deadline there is what came; a refusal towards one server does not end the others."""
    async with serve_udp(stay_silent) as silent, serve_udp(answer) as good:
        with closed_port() as port:
            got = await survey(silent.pair, ("127.0.0.1", port), good.pair, seconds=SHORT_SECONDS)
    assert [good.pair] == [(reply.server_address, reply.server_port) for reply in got.replies]
    assert (3, True) == (got.sent, got.can_send)


async def test_a_server_answers_only_for_itself() -> None:
    """The answer to another server's request, an answer from a stranger and a made-up id do not count."""
    async with serve_udp(stay_silent) as stranger, serve_udp(stay_silent) as asked:

        def script(server: UDPServer, request: bytes, client: Client) -> Iterable[bytes]:
            stranger.send(right_answer(request, client), client)
            asked.send(right_answer(request, client), client)
            yield foreign_id(request)
            yield b"hello"
            yield without_address(request)

        async with serve_udp(script) as server:
            got = await survey(asked.pair, server.pair, seconds=SHORT_SECONDS)
    assert ((), 2) == (got.replies, got.sent)


async def test_a_doubled_answer_counts_once() -> None:
    """The network may double a datagram: that is no second opinion."""

    def script(_server: UDPServer, request: bytes, client: Client) -> Iterable[bytes]:
        return [right_answer(request, client)] * 3

    async with serve_udp(script) as server, serve_udp(stay_silent) as silent:
        got = await survey(server.pair, silent.pair, seconds=SHORT_SECONDS)
    assert 1 == len(got.replies)


async def test_a_server_named_twice_is_asked_once() -> None:
    """Two nodes at one address and port are one server; the first way of writing it is kept."""
    async with serve_udp(answer) as server:
        got = await survey(server.pair, ("::ffff:127.0.0.1", server.port), server.pair)
    assert 1 == len(server.requests)
    assert ["127.0.0.1"] == [reply.server_address for reply in got.replies]


async def test_nobody_to_ask() -> None:
    """Without servers nothing is sent, and nothing is waited for."""
    assert OneSocketAnswers(replies=(), sent=0, can_send=False) == await survey()


async def test_a_server_of_the_other_family_is_not_asked() -> None:
    """One socket has one family; what a map says of the others does not disturb it."""
    async with serve_udp(answer) as server:
        got = await survey(server.pair, ("::1", server.port))
    assert (["127.0.0.1"], 1) == ([reply.server_address for reply in got.replies], got.sent)


async def test_a_mapped_address_is_no_ipv6_server() -> None:
    """Where only such are asked for IPv6, nothing is sent, and nothing is waited for."""
    assert OneSocketAnswers(replies=(), sent=0, can_send=False) == await survey(("::ffff:127.0.0.1", 9))


@pytest.mark.parametrize(
    ("number", "can_send"),
    [(errno.ENETUNREACH, False), (errno.EINVAL, False), (errno.EPERM, True), (errno.ENOBUFS, True)],
)
async def test_what_cannot_be_sent_is_told(monkeypatch: pytest.MonkeyPatch, number: int, can_send: bool) -> None:
    """No way out ends it at once; what a filter or a full queue of this host dropped counts as sent."""

    def refuse(*_arguments: object) -> None:
        raise OSError(number, "whatever")

    started = CLOCK.monotonic()
    with monkeypatch.context() as patch:
        patch.setattr(socket.socket, "sendto", refuse)
        got = await survey(("127.0.0.1", 9), seconds=SHORT_SECONDS if can_send else 60.0)
    assert OneSocketAnswers(replies=(), sent=0, can_send=can_send) == got
    assert CLOCK.monotonic() - started < 5.0


async def test_a_host_without_the_family_cannot_send(monkeypatch: pytest.MonkeyPatch) -> None:
    """No socket of that family is no sending; no socket left at all is this host's own trouble."""

    def refuse_with(number: int) -> Callable[..., None]:
        def refuse(*_arguments: object) -> None:
            raise OSError(number, "whatever")

        return refuse

    with monkeypatch.context() as patch:
        patch.setattr(socket.socket, "setblocking", refuse_with(errno.EAFNOSUPPORT))
        assert OneSocketAnswers(replies=(), sent=0, can_send=False) == await survey(("127.0.0.1", 9))
        patch.setattr(socket.socket, "setblocking", refuse_with(errno.EMFILE))
        with pytest.raises(ProbeError, match="this host has run out: EMFILE") as caught:
            await survey(("127.0.0.1", 9))
    assert Reason.INTERNAL is caught.value.reason


# path MTU


def answer_up_to(packet_bytes: int, *, header_bytes: int = 28) -> Script:
    """Lose what a path with that MTU would."""

    def script(_server: UDPServer, request: bytes, client: Client) -> Iterable[bytes]:
        if len(request) + header_bytes <= packet_bytes:
            yield right_answer(request, client)

    return script


async def test_the_largest_size_that_passes() -> None:
    """Between the largest answered and the smallest unanswered lies the path's MTU."""
    async with serve_udp(answer_up_to(1400)) as server:
        got = await size_up(*server.pair, (1500, 576, 1280, 1400, 1404, 1280), seconds=SHORT_SECONDS)
    assert got is not None
    assert (1400, 1404) == (got.passed_bytes, got.failed_bytes)
    assert {576 - 28, 1280 - 28, 1400 - 28, 1404 - 28, 1500 - 28} == {len(request) for request in server.requests}


async def test_the_largest_ipv6_size_that_passes(ipv6_loopback: str) -> None:
    """IPv6 headers have 40 bytes."""
    async with serve_udp(answer_up_to(1400, header_bytes=48), address=ipv6_loopback) as server:
        got = await size_up(*server.pair, (1280, 1400, 1404), seconds=SHORT_SECONDS)
    assert got is not None
    assert (1400, 1404) == (got.passed_bytes, got.failed_bytes)
    assert {1280 - 48, 1400 - 48, 1404 - 48} == {len(request) for request in server.requests}


async def test_all_sizes_pass() -> None:
    """It ends as soon as the largest is answered; loopback takes anything."""
    async with serve_udp(answer) as server:
        got = await size_up(*server.pair, (576, 1280, 9000))
    assert got is not None
    assert (9000, None) == (got.passed_bytes, got.failed_bytes)
    assert got.kernel_bytes is not None
    assert got.kernel_bytes >= 9000


async def test_a_size_that_this_host_cannot_send_has_failed() -> None:
    """EMSGSIZE is an answer: nothing is waited for."""
    async with serve_udp(answer) as server:
        started = CLOCK.monotonic()
        got = await size_up(*server.pair, (576, 65536))
    assert CLOCK.monotonic() - started < PATIENCE_SECONDS / 2
    assert got is not None
    assert (576, 65536) == (got.passed_bytes, got.failed_bytes)


async def test_a_lost_size_is_repeated() -> None:
    """What got lost once passes at the repeat; what has passed is not sent again."""
    counts: dict[int, int] = {}

    def script(_server: UDPServer, request: bytes, client: Client) -> Iterable[bytes]:
        counts[len(request)] = counts.get(len(request), 0) + 1
        if len(request) < 1000 or counts[len(request)] > 1:
            yield right_answer(request, client)

    async with serve_udp(script) as server:
        got = await size_up(*server.pair, (576, 1280, 1500))
    assert got is not None
    assert (1500, None) == (got.passed_bytes, got.failed_bytes)
    assert {576 - 28: 1, 1280 - 28: 2, 1500 - 28: 2} == counts


async def test_a_smaller_size_that_got_lost_is_no_matter() -> None:
    """A larger one passed, so the smaller one would."""

    def script(_server: UDPServer, request: bytes, client: Client) -> Iterable[bytes]:
        if len(request) != 1280 - 28:
            yield right_answer(request, client)

    async with serve_udp(script) as server:
        got = await size_up(*server.pair, (576, 1280, 1500))
    assert got is not None
    assert (1500, None) == (got.passed_bytes, got.failed_bytes)


async def test_a_router_that_says_too_long_does_not_disturb(monkeypatch: pytest.MonkeyPatch) -> None:
    """What ICMP said of an earlier packet comes up at a later send, and is no fact about that one."""
    real_send = socket.socket.send
    sends: list[int] = []

    def send(sock: socket.socket, data: bytes) -> int:
        sends.append(len(data))
        if len(sends) == 2:
            raise OSError(errno.EMSGSIZE, "whatever")
        return real_send(sock, data)

    async with serve_udp(answer_up_to(1400)) as server:
        monkeypatch.setattr(socket.socket, "send", send)
        got = await size_up(*server.pair, (576, 1400, 1404), seconds=SHORT_SECONDS)
    assert got is not None
    assert (1400, 1404) == (got.passed_bytes, got.failed_bytes)
    assert [576 - 28, 1400 - 28, 1400 - 28, 1404 - 28] == sends


async def test_the_socket_hears_on_after_icmp(monkeypatch: pytest.MonkeyPatch) -> None:
    """libuv stops to watch a socket that had an error; the answer after it is heard all the same.

    The error is a real refusal, renamed to what a router says, which loopback has none to say.
    """
    real_receive = socket.socket.recvfrom
    heard = asyncio.Event()

    def receive(sock: socket.socket, size: int) -> object:
        try:
            return real_receive(sock, size)
        except ConnectionRefusedError:
            heard.set()
            raise OSError(errno.EMSGSIZE, "whatever") from None

    monkeypatch.setattr(socket.socket, "recvfrom", receive)
    with closed_port() as port:
        sizing = asyncio.create_task(size_up("127.0.0.1", port, (576, 1280)))
        async with asyncio.timeout(PATIENCE_SECONDS):
            await heard.wait()
        async with serve_udp(answer, port=port):
            got = await sizing
    assert got is not None
    assert (1280, None) == (got.passed_bytes, got.failed_bytes)


async def test_strays_say_nothing_about_the_path() -> None:
    """Rubbish and foreign ids let no size pass."""
    async with serve_udp(say(foreign_id)) as server:
        assert await size_up(*server.pair, (576, 1280), seconds=SHORT_SECONDS) is None
    async with serve_udp(say(error_response)) as server:
        assert await size_up(*server.pair, (576, 1280), seconds=SHORT_SECONDS) is None


async def test_nothing_is_known_of_a_path_without_an_answer() -> None:
    """A silent server, a closed port and an address that cannot be sent to tell no size."""
    async with serve_udp(stay_silent) as server:
        assert await size_up(*server.pair, (576, 1280), seconds=SHORT_SECONDS) is None
    with closed_port() as port:
        assert await size_up("127.0.0.1", port, (576, 1280)) is None
    assert await size_up("127.255.255.255", 3478, (576, 1280)) is None


async def test_a_server_that_goes_away_leaves_nothing_known() -> None:
    """What is refused in the middle has not failed for its size."""
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(serve_udp(answer_up_to(600)))
        sizing = asyncio.create_task(size_up(*server.pair, (576, 1280)))
        await server.wait_until_asked()
        await stack.aclose()
        assert await sizing is None


@pytest.mark.parametrize("size_bytes", [72, 1402])
async def test_a_size_that_no_request_has_is_a_mistake(size_bytes: int) -> None:
    """Too small for the padding, or no multiple of 4."""
    async with serve_udp(answer) as server:
        with pytest.raises(ValueError, match="a multiple of 4 bytes"):
            await size_up(*server.pair, (576, size_bytes))


async def test_the_path_to_a_mapped_address_is_that_of_ipv4() -> None:
    """IPv4 headers have 20 bytes, however the address is written."""
    async with serve_udp(answer) as server:
        assert await size_up("::ffff:127.0.0.1", server.port, (576,)) is not None
        assert [576 - 28] == [len(request) for request in server.requests]


async def test_a_sandbox_without_socket_options(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server is asked without them; of the path nothing is known, since large packets might be cut."""

    def refuse(*_arguments: object) -> None:
        raise OSError(errno.ENOPROTOOPT, "Protocol not available")

    async with serve_udp(answer) as server:
        with monkeypatch.context() as patch:
            patch.setattr(socket.socket, "setsockopt", refuse)
            assert "127.0.0.1" == (await ask_at(*server.pair)).mapped_address
            assert await size_up(*server.pair, (576,)) is None
        assert 1 == len(server.requests)


async def test_only_linux_can_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    """Elsewhere there is no answer rather than a wrong one."""
    async with serve_udp(answer) as server:
        monkeypatch.setattr("exporter.net.stun_client.sys.platform", "darwin")
        assert await size_up(*server.pair, (576, 1280)) is None
    assert [] == server.requests


# a network of our own: this host, a router, and a server behind a link of 1400 bytes

_BUILD = """
set -e
unshare --net sleep 60 & router=$!
unshare --net sleep 60 & server=$!
while [ "$(readlink /proc/self/ns/net)" = "$(readlink /proc/$router/ns/net)" ]; do sleep 0.01; done
while [ "$(readlink /proc/self/ns/net)" = "$(readlink /proc/$server/ns/net)" ]; do sleep 0.01; done
on_router() { nsenter --target $router --net "$@"; }
on_server() { nsenter --target $server --net "$@"; }
link() {  # who, device, IPv4 address, IPv6 address, MTU
  $1 ip address add $3/24 dev $2
  $1 ip -6 address add $4/64 dev $2 nodad
  $1 ip link set $2 mtu $5 up
}
ip link add near type veth peer name toclient netns $router
on_router ip link add toserver type veth peer name far netns $server
link "" near 192.0.2.1 fd00:1::1 1500
link on_router toclient 192.0.2.254 fd00:1::fe 1500
link on_router toserver 198.51.100.254 fd00:2::fe 1400
link on_server far 198.51.100.2 fd00:2::2 1400
on_router sh -c 'cd /proc/sys/net
  echo 1 > ipv4/ip_forward; echo 1 > ipv6/conf/all/forwarding
  echo 0 > ipv4/icmp_ratelimit; echo 0 > ipv6/icmp/ratelimit'
on_router ip route add unreachable 203.0.113.9/32
on_router ip route add prohibit 203.0.113.10/32
on_router ip -6 route add unreachable fd00:3::/64
ip route add 198.51.100.0/24 via 192.0.2.254
ip route add 203.0.113.0/24 via 192.0.2.254
ip -6 route add fd00:2::/64 via fd00:1::fe
ip -6 route add fd00:3::/64 via fd00:1::fe
on_server ip route add default via 198.51.100.254
on_server ip -6 route add default via fd00:2::fe
"""
_SERVE = """
import select, socket
from exporter.wire.stun import build_binding_response, parse_binding_request
socks = [socket.socket(family, socket.SOCK_DGRAM) for family in (socket.AF_INET, socket.AF_INET6)]
for sock, address in zip(socks, ("198.51.100.2", "fd00:2::2")):
    sock.bind((address, 3478))
print("ready", flush=True)
while True:
    for sock in select.select(socks, [], [])[0]:
        request, client = sock.recvfrom(65536)
        sock.sendto(build_binding_response(parse_binding_request(request), client[0], client[1]), client)
"""
_LOOK = """
import asyncio, json
import uvloop
from exporter.clock import SystemClock
from exporter.errors import ProbeError
from exporter.net.stun_client import ask, ask_from_one_socket, measure_path_mtu
clock = SystemClock()
sizes = (576, 1280, 1396, 1400, 1404, 1500, 1504)

async def try_ask(address, port=3478):
    try:
        return (await ask(address, port, deadline_seconds=clock.monotonic() + 10, clock=clock)).mapped_address
    except ProbeError as error:
        return [type(error).__name__, error.reason]

async def size_up(address):
    end = clock.monotonic() + 0.8
    path = await measure_path_mtu(address, 3478, sizes_bytes=sizes, deadline_seconds=end, clock=clock)
    return path and [path.passed_bytes, path.failed_bytes, path.kernel_bytes]

async def survey(*addresses):
    servers = [(address, 3478) for address in addresses]
    end = clock.monotonic() + 0.8
    got = await ask_from_one_socket(servers, family="ipv4", deadline_seconds=end, clock=clock)
    return [[reply.server_address for reply in got.replies], got.can_send]

async def look():
    await try_ask("fd00:2::2")  # the links of IPv6 take a second or two until they are ready
    waits = {
        "server": try_ask("198.51.100.2"), "server, IPv6": try_ask("fd00:2::2"),
        "closed": try_ask("198.51.100.2", 9), "closed, IPv6": try_ask("fd00:2::2", 9),
        "unreachable": try_ask("203.0.113.9"), "unreachable, IPv6": try_ask("fd00:3::9"),
        "prohibited": try_ask("203.0.113.10"), "no network": try_ask("203.0.113.99"),
        "no route": try_ask("233.252.0.1"), "no route, IPv6": try_ask("2001:db8::1"),
        "sizes": size_up("198.51.100.2"), "sizes, IPv6": size_up("fd00:2::2"),
        "sizes, unreachable": size_up("203.0.113.9"), "sizes, no route": size_up("233.252.0.1"),
        "survey": survey("203.0.113.9", "233.252.0.1", "198.51.100.2"), "survey, no route": survey("233.252.0.1"),
    }
    return dict(zip(waits, await asyncio.gather(*waits.values())))

loops = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
found = {}
for name, factory in loops.items():
    with asyncio.Runner(loop_factory=factory) as runner:
        found[name] = runner.run(look())
print(json.dumps(found))
"""


async def look_from_a_network_of_our_own(need_tool: Callable[[str], str]) -> dict[str, dict[str, object]]:
    unshare, ip = need_tool("unshare"), need_tool("ip")
    # the first process of a process namespace takes all others with it when it ends
    namespaces = ("--map-root-user", "--net", "--pid", "--fork", "--kill-child", "--mount-proc")
    script = f"""{_BUILD}
      mkfifo "$DIRECTORY/ready"
      on_server {sys.executable} -c "$SERVE" > "$DIRECTORY/ready" &
      read -r _ < "$DIRECTORY/ready"
      {sys.executable} -c "$LOOK"
    """
    with tempfile.TemporaryDirectory() as directory:
        process = await asyncio.create_subprocess_exec(
            *(unshare, *namespaces, "sh", "-c", script),
            env=os.environ
            | {
                "SERVE": _SERVE,
                "LOOK": _LOOK,
                "DIRECTORY": directory,
                "PATH": f"{Path(ip).parent}:{os.environ['PATH']}",
            },
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            async with asyncio.timeout(60):
                stdout, stderr = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
    if not stdout:
        assert b"Traceback" not in stderr
        skip_or_fail(f"no network namespace to be had here: {stderr.decode(errors='replace').strip()[-200:]}")
    found: dict[str, dict[str, object]] = json.loads(stdout)
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="network namespaces are Linux's")
async def test_what_a_router_says(need_tool: Callable[[str], str]) -> None:
    """Behind a router each way to fail has its name, and the MTU of a link that is not ours is found,
    over both families and on both event loops."""
    unreachable = ["ConnectError", "unreachable"]
    wanted = {
        "server": "192.0.2.1",
        "server, IPv6": "fd00:1::1",
        "closed": ["ConnectError", "refused"],
        "closed, IPv6": ["ConnectError", "refused"],
        "unreachable": unreachable,
        "unreachable, IPv6": unreachable,
        "prohibited": unreachable,
        "no network": unreachable,  # the router's lack, not this host's
        "no route": ["NoRouteError", "unreachable"],
        "no route, IPv6": ["NoRouteError", "unreachable"],
        "sizes": [1400, 1404, 1400],
        "sizes, IPv6": [1400, 1404, 1400],
        "sizes, unreachable": None,
        "sizes, no route": None,
        "survey": [["198.51.100.2"], True],
        "survey, no route": [[], False],
    }
    found = await look_from_a_network_of_our_own(need_tool)
    assert ["asyncio", "uvloop"] == list(found)
    other = {(loop, case): got[case] for loop, got in found.items() for case in wanted if wanted[case] != got[case]}
    assert {} == other


# real servers


async def test_derper_answers(need_tool: Callable[[str], str]) -> None:
    """Tailscale's relay answers each way of asking, also padded requests."""
    async with run_derper(need_tool("derper")) as relay:
        assert relay.stun_port is not None
        got = await ask_at("127.0.0.1", relay.stun_port)
        several = await survey(("127.0.0.1", relay.stun_port))
        path = await size_up("127.0.0.1", relay.stun_port, (576, 1280, 1500))
    assert ("127.0.0.1", 1) == (got.mapped_address, got.attempts)
    assert ["127.0.0.1"] == [reply.mapped_address for reply in several.replies]
    assert path is not None
    assert (1500, None) == (path.passed_bytes, path.failed_bytes)


async def test_coturn_answers(need_tool: Callable[[str], str], tmp_path: Path) -> None:
    """coturn, another server altogether, answers each way of asking."""
    program = need_tool("turnserver")
    with closed_port() as port:
        process = await asyncio.create_subprocess_exec(
            program,
            *("-n", "--stun-only", "--listening-ip", "127.0.0.1", "--listening-port", str(port)),
            *("--no-tls", "--no-dtls", "--no-tcp", "--no-cli", "--log-file", "stdout"),
            *("--pidfile", str(tmp_path / "pid"), "--db", str(tmp_path / "db")),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
    try:
        got = await ask_until_up(port)
        several = await survey(("127.0.0.1", port))
        path = await size_up("127.0.0.1", port, (576, 1280, 1500))
    finally:
        process.kill()
        await process.wait()
    assert "127.0.0.1" == got.mapped_address
    assert ["127.0.0.1"] == [reply.mapped_address for reply in several.replies]
    assert path is not None
    assert (1500, None) == (path.passed_bytes, path.failed_bytes)


async def ask_until_up(port: int) -> StunAnswer:
    """A port is refused until its server listens."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            try:
                return await ask_at("127.0.0.1", port)
            except ConnectError as error:
                if error.reason is not Reason.REFUSED:
                    raise
            await asyncio.sleep(0.02)
