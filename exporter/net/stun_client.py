"""STUN over UDP: is a server there, what does it see of us, and what size of packet passes to it.

In: IP addresses and ports, a deadline on the clock's monotonic seconds. Out: round trips and mapped
addresses, or a ProbeError. Each request has a transaction id of its own, so that a round trip is that
of the request that was answered, also after a repeat.

Sockets are read by `add_reader`, since uvloop's datagram endpoint crashes the interpreter where a
socket keeps an error queue (uvloop 0.23, IP_RECVERR), which is what makes an unreachable host heard.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import os
import secrets
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from exporter.clock import Clock
from exporter.errors import ConnectError, DeadlineError, Phase, ProbeError, ProtocolError, Reason
from exporter.net.connection import NoRouteError
from exporter.net.deadline import until
from exporter.wire import stun

# Waits between the seven sends: RTO, doubled each time. Source: RFC 8489, section 6.2.1.
RETRANSMISSION_SECONDS = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)

_MAX_DATAGRAM_BYTES = 2048  # a response has 32 to some 200 bytes

# Linux has them, Python's socket module does not. Source: linux/in.h, linux/in6.h
_IP_MTU_DISCOVER, _IPV6_MTU_DISCOVER = 10, 23
_IP_RECVERR, _IPV6_RECVERR = 11, 25
_IP_MTU, _IPV6_MTU = 14, 24
_PMTUDISC_PROBE = 3  # set don't-fragment, and let no earlier guess of the path's MTU limit us

_UDP_HEADER_BYTES = 8
_IP_HEADER_BYTES = {socket.AF_INET: 20, socket.AF_INET6: 40}

_NO_ROUTE = {errno.ENETUNREACH, errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}
_FORBIDDEN_HERE = {errno.EACCES, errno.EPERM}
_EXHAUSTED_HERE = {errno.EMFILE, errno.ENFILE, errno.ENOMEM}
# The datagram was dropped on its way out, as any router may do: the repeat is the cure.
_LOST_HERE = {errno.EAGAIN, errno.ENOBUFS}


@dataclass(frozen=True, slots=True, kw_only=True)
class StunAnswer:
    """A server's answer. `attempts` counts the requests that were sent, the answered one included."""

    round_trip_seconds: float
    mapped_address: str
    mapped_port: int
    attempts: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MappingReply:
    """What one of several servers saw of the one socket that asked them all. `server_address` is
    written as the asker wrote it."""

    server_address: str
    server_port: int
    mapped_address: str
    mapped_port: int
    round_trip_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class OneSocketAnswers:
    """What came back to one socket.

    Args:
        replies: In the order in which they came; a server that answered a repeat too is there twice.
        sent: Datagrams that the kernel took.
        can_send: It took one, or a filter of this host dropped it, which counts as sent for
            Coder's netcheck also.
    """

    replies: tuple[MappingReply, ...]
    sent: int
    can_send: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class PathMTU:
    """What size of IP packet passes, with its headers, unfragmented, to a server.

    Args:
        passed_bytes: The largest that was answered.
        failed_bytes: The smallest above it that was not; None when all passed.
        kernel_bytes: What the kernel believes at the end, with what routers told it by ICMP; None
            when it does not say.
    """

    passed_bytes: int
    failed_bytes: int | None
    kernel_bytes: int | None


async def ask(address: str, port: int, *, deadline_seconds: float, clock: Clock) -> StunAnswer:
    """Ask one server for its answer, with repeats.

    Datagrams that are no answer to us are ignored as long as a better one may come.

    Args:
        address: IP address, normal or IPv4-mapped.

    Raises:
        ConnectError: ICMP said that the port is closed (refused) or the host unreachable, or this
            host forbids it; `NoRouteError` when this host has no way to the address family.
        ProtocolError: The server answered with an error or with broken STUN; or what came until the
            deadline was no answer to us.
        DeadlineError: Silence.
        ProbeError: This host has run out of sockets or memory.
    """
    peer = _Peer.parse(address, port)
    began_seconds = clock.monotonic()
    with contextlib.closing(_open_connected(peer)) as sock:
        _hear_all_icmp(sock)
        asking = _Asking(sock, peer, clock)
        with _Inbox(sock, received=asking.received, failed=asking.failed, clock=clock):
            await _send_and_repeat(asking.send, asking.decided, deadline_seconds=deadline_seconds, clock=clock)
    if not asking.decided.done():
        raise asking.describe_end(clock.monotonic() - began_seconds)
    outcome = asking.decided.result()
    if isinstance(outcome, ProbeError):
        raise outcome
    return outcome


async def ask_from_one_socket(
    servers: Sequence[tuple[str, int]],
    *,
    family: Literal["ipv4", "ipv6"],
    deadline_seconds: float,
    clock: Clock,
) -> OneSocketAnswers:
    """Ask several servers from one socket that is connected to none, so that the mappings compare.

    Ends when all have answered, at the deadline, or when this host can send to none of them. What
    goes wrong towards one server is only a reply that is missing.

    Args:
        servers: IP addresses, normal or IPv4-mapped, and ports. A server named twice is asked once,
            one whose address is not of that family (a map may hold anything) not at all.

    Raises:
        ProbeError: This host has run out of sockets or memory.
    """
    wanted = socket.AF_INET if family == "ipv4" else socket.AF_INET6
    peers: dict[_Peer, str] = {}
    for address, port in servers:
        peer = _Peer.parse(address, port)
        if peer.family == wanted:
            peers.setdefault(peer, address)
    if not peers:
        return OneSocketAnswers(replies=(), sent=0, can_send=False)
    try:
        sock = _open(wanted)
    except OSError as error:
        if error.errno in _EXHAUSTED_HERE:
            raise _translate(error, f"asking {len(peers)} servers by STUN", wanted, local=True) from error
        return OneSocketAnswers(replies=(), sent=0, can_send=False)
    with contextlib.closing(sock):
        survey = _Survey(sock, peers, clock)
        with _Inbox(sock, received=survey.received, failed=survey.failed, clock=clock):
            await _send_and_repeat(survey.send, survey.decided, deadline_seconds=deadline_seconds, clock=clock)
    return OneSocketAnswers(replies=tuple(survey.replies), sent=survey.sent, can_send=survey.can_send)


async def measure_path_mtu(
    address: str, port: int, *, sizes_bytes: Sequence[int], deadline_seconds: float, clock: Clock
) -> PathMTU | None:
    """Send requests of several sizes with don't-fragment set, and see which of them are answered.

    Only the way there is measured, for the answers are small. What drops large requests may also be
    a server that does not take them.

    Args:
        address: IP address, normal or IPv4-mapped.
        sizes_bytes: Of whole IP packets: multiples of 4, from 76 (IPv4) or 96 (IPv6) on.

    Returns:
        None when not even the smallest was answered, or the port is closed, or this host has no
        way there, or it is not Linux, or one that cannot set don't-fragment: nothing is known then.
    """
    if sys.platform != "linux":
        return None
    peer = _Peer.parse(address, port)
    try:
        sock = _open_connected(peer)
    except ProbeError:
        return None
    with contextlib.closing(sock):
        level, discover, mtu = (
            (socket.IPPROTO_IP, _IP_MTU_DISCOVER, _IP_MTU)
            if peer.family == socket.AF_INET
            else (socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER, _IPV6_MTU)
        )
        try:
            sock.setsockopt(level, discover, _PMTUDISC_PROBE)
        except OSError:
            return None  # some sandboxes lack it: large packets would be cut, and all would pass
        sizing = _Sizing(sock, peer, sizes_bytes)
        with _Inbox(sock, received=sizing.received, failed=sizing.failed, clock=clock):
            await _send_and_repeat(sizing.send, sizing.decided, deadline_seconds=deadline_seconds, clock=clock)
        if sizing.refused or not sizing.passed_bytes:
            return None
        kernel_bytes = None
        with contextlib.suppress(OSError):
            kernel_bytes = sock.getsockopt(level, mtu)
    return PathMTU(passed_bytes=sizing.passed_bytes, failed_bytes=sizing.failed_bytes, kernel_bytes=kernel_bytes)


@dataclass(frozen=True, slots=True)
class _Peer:
    """An IP address as the kernel writes it, and a port."""

    address: str
    port: int

    @classmethod
    def parse(cls, address: str, port: int) -> _Peer:
        """A name would be looked up by the socket, which blocks: only IP addresses are taken."""
        if not 1 <= port <= 0xFFFF:
            raise ValueError(f"a port is from 1 to 65535, and not {port}")
        parsed = ipaddress.ip_address(address)
        if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is not None:
            parsed = parsed.ipv4_mapped
        return cls(str(parsed), port)

    @property
    def family(self) -> socket.AddressFamily:
        return socket.AF_INET6 if ":" in self.address else socket.AF_INET

    def __str__(self) -> str:
        return f"[{self.address}]:{self.port}" if ":" in self.address else f"{self.address}:{self.port}"


class _Inbox:
    """Hands on what comes to a socket, stamped, while it is entered."""

    def __init__(
        self,
        sock: socket.socket,
        *,
        received: Callable[[bytes, _Peer, float], None],
        failed: Callable[[OSError], None],
        clock: Clock,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._sock = sock
        self._received = received
        self._failed = failed
        self._clock = clock

    def __enter__(self) -> None:
        self._loop.add_reader(self._sock, self._read)

    def __exit__(self, *_: object) -> None:
        self._loop.remove_reader(self._sock)

    def _read(self) -> None:
        try:
            data, source = self._sock.recvfrom(_MAX_DATAGRAM_BYTES)
        except OSError as error:
            # libuv watches a socket no longer that had an error: uvloop would be deaf from here on
            self._loop.remove_reader(self._sock)
            self._loop.add_reader(self._sock, self._read)
            if not isinstance(error, BlockingIOError):
                self._failed(error)
            return
        self._received(data, _Peer(source[0], source[1]), self._clock.monotonic())


class _Asking:
    """One server, asked until something decides: an answer, or an error that ends it."""

    def __init__(self, sock: socket.socket, peer: _Peer, clock: Clock) -> None:
        self.decided: asyncio.Future[StunAnswer | ProbeError] = asyncio.get_running_loop().create_future()
        self._sock = sock
        self._clock = clock
        self._peer = peer
        self._doing = f"asking {peer} by STUN"
        self._sent_seconds: dict[bytes, float] = {}
        self._useless = 0
        self._useless_because = ""

    def send(self) -> None:
        transaction_id = secrets.token_bytes(stun.TRANSACTION_ID_BYTES)
        request = stun.build_binding_request(transaction_id)
        self._sent_seconds[transaction_id] = self._clock.monotonic()
        try:
            self._sock.send(request)
        except OSError as error:
            if error.errno not in _LOST_HERE:
                self._decide(_translate(error, self._doing, self._peer.family, local=True))

    def received(self, data: bytes, _source: _Peer, received_seconds: float) -> None:
        try:
            response = stun.parse_binding_response(data)
        except stun.StunError as error:
            if error.transaction_id in self._sent_seconds:
                self._decide(ProtocolError(f"{self._doing}: {error}", phase=Phase.PROCESSING))
            else:
                self._ignore(str(error))
            return
        sent_seconds = self._sent_seconds.get(response.transaction_id)
        if sent_seconds is None:
            self._ignore("the response has a transaction id that was not sent")
            return
        self._decide(
            StunAnswer(
                round_trip_seconds=received_seconds - sent_seconds,
                mapped_address=response.address,
                mapped_port=response.port,
                attempts=len(self._sent_seconds),
            )
        )

    def failed(self, error: OSError) -> None:
        self._decide(_translate(error, self._doing, self._peer.family, local=False))

    def describe_end(self, elapsed_seconds: float) -> ProbeError:
        """Say what there was instead of an answer."""
        count = len(self._sent_seconds)
        requests = f"{count} request{'' if count == 1 else 's'}"
        if not self._useless:
            return DeadlineError(
                f"{self._doing}: no answer to {requests} within {elapsed_seconds:.3g} s", phase=Phase.PROCESSING
            )
        return ProtocolError(
            f"{self._doing}: {requests} brought no answer but {self._useless} "
            f"{'datagram that is' if self._useless == 1 else 'datagrams that are'} none: {self._useless_because}",
            phase=Phase.PROCESSING,
        )

    def _ignore(self, because: str) -> None:
        self._useless += 1
        self._useless_because = because

    def _decide(self, outcome: StunAnswer | ProbeError) -> None:
        if not self.decided.done():
            self.decided.set_result(outcome)


class _Survey:
    """Several servers, asked until all have answered."""

    def __init__(self, sock: socket.socket, peers: Mapping[_Peer, str], clock: Clock) -> None:
        self.decided: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.replies: list[MappingReply] = []
        self.sent = 0
        self.can_send = False
        self._sock = sock
        self._clock = clock
        self._asked_as = peers
        self._waiting = set(peers)
        self._questions: dict[bytes, tuple[_Peer, float]] = {}

    def send(self) -> None:
        for peer in [peer for peer in self._asked_as if peer in self._waiting]:
            transaction_id = secrets.token_bytes(stun.TRANSACTION_ID_BYTES)
            self._questions[transaction_id] = (peer, self._clock.monotonic())
            try:
                self._sock.sendto(stun.build_binding_request(transaction_id), (peer.address, peer.port))
            except OSError as error:
                self.can_send |= error.errno in _LOST_HERE or error.errno == errno.EPERM
            else:
                self.sent += 1
                self.can_send = True
        if not self.can_send and not self.decided.done():
            self.decided.set_result(None)

    def received(self, data: bytes, source: _Peer, received_seconds: float) -> None:
        try:
            response = stun.parse_binding_response(data)
        except stun.StunError:
            return
        peer, sent_seconds = self._questions.get(response.transaction_id, (None, 0.0))
        if peer is None or peer != source:
            return
        del self._questions[response.transaction_id]  # a datagram may come twice
        self._waiting.discard(peer)
        self.replies.append(
            MappingReply(
                server_address=self._asked_as[peer],
                server_port=peer.port,
                mapped_address=response.address,
                mapped_port=response.port,
                round_trip_seconds=received_seconds - sent_seconds,
            )
        )
        if not self._waiting and not self.decided.done():
            self.decided.set_result(None)

    def failed(self, error: OSError) -> None:
        """An error of this socket says nothing about which of the servers it was."""


class _Sizing:
    """One server, asked with several sizes until each has passed, or a larger one, or cannot."""

    def __init__(self, sock: socket.socket, peer: _Peer, sizes_bytes: Sequence[int]) -> None:
        self.decided: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.passed_bytes = 0
        self.refused = False
        self._sock = sock
        self._overhead_bytes = _IP_HEADER_BYTES[peer.family] + _UDP_HEADER_BYTES
        self._sizes_bytes = sorted(set(sizes_bytes))
        self._too_long_here: set[int] = set()
        self._size_of: dict[bytes, int] = {}

    @property
    def failed_bytes(self) -> int | None:
        return next((size for size in self._sizes_bytes if size > self.passed_bytes), None)

    def send(self) -> None:
        for size in self._waiting():
            transaction_id = secrets.token_bytes(stun.TRANSACTION_ID_BYTES)
            request = stun.build_binding_request(transaction_id, size_bytes=size - self._overhead_bytes)
            self._size_of[transaction_id] = size
            self._send(request, size)
        self._look_for_end()

    def received(self, data: bytes, _source: _Peer, _received_seconds: float) -> None:
        try:
            response = stun.parse_binding_response(data)
        except stun.StunError:
            return
        self.passed_bytes = max(self.passed_bytes, self._size_of.get(response.transaction_id, 0))
        self._look_for_end()

    def failed(self, error: OSError) -> None:
        """A router's word that a packet was too long (EMSGSIZE) does not say which: silence will."""
        if error.errno == errno.ECONNREFUSED:
            self.refused = True
            self._look_for_end()

    def _send(self, request: bytes, size: int) -> None:
        # a send tells first what ICMP said of an earlier packet, with the same errno, and sends nothing
        for _ in range(3):
            try:
                self._sock.send(request)
            except OSError as error:
                last = error
            else:
                return
        if last.errno == errno.EMSGSIZE:
            self._too_long_here.add(size)
        else:
            self.failed(last)

    def _waiting(self) -> list[int]:
        return [size for size in self._sizes_bytes if size > self.passed_bytes and size not in self._too_long_here]

    def _look_for_end(self) -> None:
        if (self.refused or not self._waiting()) and not self.decided.done():
            self.decided.set_result(None)


async def _send_and_repeat(
    send: Callable[[], None],
    decided: asyncio.Future[StunAnswer | ProbeError] | asyncio.Future[None],
    *,
    deadline_seconds: float,
    clock: Clock,
) -> None:
    """Return once it is decided, or at the deadline."""
    with contextlib.suppress(TimeoutError):
        async with until(deadline_seconds, clock):
            for wait_seconds in (*RETRANSMISSION_SECONDS, None):
                send()
                await asyncio.wait([decided], timeout=wait_seconds)
                if decided.done():
                    return


def _open(family: socket.AddressFamily) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_DGRAM)
    try:
        sock.setblocking(False)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    except BaseException:
        sock.close()
        raise
    return sock


def _open_connected(peer: _Peer) -> socket.socket:
    """A connected socket hears ICMP, and nobody but the peer."""
    doing = f"asking {peer} by STUN"
    try:
        sock = _open(peer.family)
        try:
            sock.connect((peer.address, peer.port))
        except BaseException:
            sock.close()
            raise
    except OSError as error:
        raise _translate(error, doing, peer.family, local=True) from error
    return sock


def _hear_all_icmp(sock: socket.socket) -> None:
    """Linux tells a socket of a closed port anyway, but of an unreachable host only when asked to.

    Where a sandbox lacks that option, an unreachable host is silence.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            if sock.family == socket.AF_INET:
                sock.setsockopt(socket.IPPROTO_IP, _IP_RECVERR, 1)
            else:
                sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVERR, 1)


def _translate(error: OSError, doing: str, family: socket.AddressFamily, *, local: bool) -> ProbeError:
    """Say what failed.

    Args:
        local: The kernel refused by itself; else it passes on what a router or the peer said by ICMP.
    """
    number, phase = error.errno, Phase.CONNECT
    said = f"{errno.errorcode.get(number or 0, number)} ({os.strerror(number or 0)})"
    if number == errno.ECONNREFUSED:
        return ConnectError(
            f"{doing}: refused, nothing listens on that UDP port (ICMP says so)", phase=phase, reason=Reason.REFUSED
        )
    if number in _EXHAUSTED_HERE:
        return ProbeError(f"{doing}: this host has run out: {said}", phase=phase, reason=Reason.INTERNAL)
    if not local:
        return ConnectError(f"{doing}: unreachable, as ICMP says: {said}", phase=phase)
    if number in _NO_ROUTE:
        name = "IPv6" if family == socket.AF_INET6 else "IPv4"
        return NoRouteError(f"{doing}: this host has no way to that {name} address: {said}", phase=phase)
    where = "this host forbids it" if number in _FORBIDDEN_HERE else "unreachable"
    return ConnectError(f"{doing}: {where}: {said}", phase=phase)
