"""A client of a DERP relay: the upgrade, the login, then packets, each stamped as it arrives.

In: an origin, one address, what carries the frames, an absolute deadline. Out: a `DerpConnection`
that the relay has admitted, or the exchange that tells who refused and how. Everything that comes
is worked on in the callback that brings it, so that neither login nor round trip waits for a task.
"""

from __future__ import annotations

import asyncio
import os
import ssl
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import TracebackType
from typing import NamedTuple, Self

from exporter.clock import Clock
from exporter.errors import DeadlineError, Phase, ProbeError, ProtocolError, WireError
from exporter.net import http
from exporter.net.connection import Connection
from exporter.net.deadline import until
from exporter.net.http import Exchange, Upgraded
from exporter.net.websocket import ClosedError, WebSocket, open_websocket
from exporter.wire import derp_frames
from exporter.wire.derp_frames import (
    FROM_SERVER,
    KEY_BYTES,
    MAX_FRAME_BYTES,
    MAX_WEBSOCKET_MESSAGE_BYTES,
    PING_BYTES,
    FloodError,
    FrameReader,
    FrameType,
    PeerGone,
    Restarting,
    ShortFrameError,
    Transport,
)
from exporter.wire.derp_handshake import ClientLogin, KeyPair, ServerInfo
from exporter.wire.url import Origin

_MAX_QUEUED_PACKETS = 1024
_MAX_QUEUED_BYTES = 1 << 20
_MAX_UNSENT_BYTES = 1 << 20
_MAX_NOTICES = 64
_MAX_HEALTH_CHARS = 200
# Of keep-alives, notices, pings and what we do not know. A relay sends a keep-alive a minute and a
# notice for each peer that leaves; working on so many at once must not hold up the event loop.
_MAX_SPARE_FRAMES = 4000
_SPARE_FRAMES_SECONDS = 10.0
# a frame of the greatest length and what a relay may pack before and after it
_MAX_MESSAGE_BYTES = 2 * MAX_FRAME_BYTES

_UPGRADE = {"Upgrade": "DERP"}

_RECV_PACKET = int(FrameType.RECV_PACKET)


class Packet(NamedTuple):
    """What a peer sent. `received_seconds` is the clock's monotonic time at its arrival."""

    source: bytes
    payload: bytes
    received_seconds: float


async def open_derp(
    origin: Origin,
    *,
    address: str,
    transport: Transport,
    deadline_seconds: float,
    connect_deadline_seconds: float | None = None,
    clock: Clock,
    ssl_context: ssl.SSLContext | None,
    certificate_name: str | None = None,
    path: str = "/derp",
    headers: Mapping[str, str] | None = None,
) -> DerpConnection | Exchange:
    """Log in at one address of a relay with a fresh key, on a connection of its own.

    Never raises a ProbeError. Without a login the exchange says why: `error` None is a refused
    upgrade with status, headers and the beginning of the body; else no answer, or an upgrade
    (status 101) after which the login failed.

    Args:
        deadline_seconds: When the login, and by default every later wait, must be over, on
            `clock.monotonic()`.
        connect_deadline_seconds: An earlier end for the TCP connection alone.
        certificate_name: What the certificate must name instead of the origin's host, or a pin of it.
        headers: Sent besides our own, for proxies that want to know who asks.
    """
    relay = DerpConnection(transport=transport, deadline_seconds=deadline_seconds, clock=clock)
    try:
        if transport is Transport.DERP:
            answer: Upgraded | WebSocket | Exchange = await http.upgrade(
                origin,
                path,
                address=address,
                deadline_seconds=deadline_seconds,
                connect_deadline_seconds=connect_deadline_seconds,
                clock=clock,
                ssl_context=ssl_context,
                certificate_name=certificate_name,
                headers={"Upgrade": "DERP", **headers} if headers else _UPGRADE,
                take_over=relay.take_over,
            )
        else:
            answer = await open_websocket(
                origin,
                path,
                address=address,
                deadline_seconds=deadline_seconds,
                connect_deadline_seconds=connect_deadline_seconds,
                clock=clock,
                ssl_context=ssl_context,
                certificate_name=certificate_name,
                headers=headers,
                subprotocols=["derp"],
                max_message_bytes=_MAX_MESSAGE_BYTES,
                listener=relay,
            )
            if not isinstance(answer, Exchange):
                await relay.finish_login()
        if isinstance(answer, Exchange) and not relay.begun:
            return answer
        relay.require_login(in_time=not isinstance(answer, Exchange))
    except ProbeError as error:
        relay.abort()
        # as data it must not hold the frames of this call, and with them its sockets and buffers
        return replace(relay.exchange, error=error.with_traceback(None))
    except BaseException:
        relay.abort()
        raise
    return relay


class DerpConnection:
    """A login at a relay. Leaving its context closes it, at once when with an exception.

    One task waits for packets at a time. What the relay says beside them is kept as facts:

    Attributes:
        exchange: The answer to the upgrade.
        login_seconds: From the upgrade's answer until the relay's ServerInfo opened.
        peers_gone: The latest notices, oldest first.
        health: The problem that the relay tells; empty when none, or none any more.
        restarting: The relay's latest advice before a restart; None without any.
        keep_alives: How many have come.
    """

    __slots__ = (
        "_began_seconds",
        "_begun",
        "_clock",
        "_closed",
        "_connection",
        "_deadline_seconds",
        "_error",
        "_login",
        "_packets",
        "_pings",
        "_queued_bytes",
        "_reader",
        "_spare_until_seconds",
        "_waiter",
        "_websocket",
        "_write",
        "exchange",
        "health",
        "keep_alives",
        "login_seconds",
        "peers_gone",
        "restarting",
        "transport",
    )

    def __init__(self, *, transport: Transport, deadline_seconds: float, clock: Clock) -> None:
        self.exchange: Exchange
        self.transport = transport
        self.login_seconds = 0.0
        self.peers_gone: deque[PeerGone] = deque(maxlen=_MAX_NOTICES)
        self.health = ""
        self.restarting: Restarting | None = None
        self.keep_alives = 0
        self._deadline_seconds = deadline_seconds
        self._clock = clock
        self._login = ClientLogin(KeyPair.generate())
        self._reader = FrameReader(FROM_SERVER)
        self._spare_until_seconds = float("-inf")
        self._connection: Connection
        self._begun = False
        self._websocket: WebSocket | None = None
        self._write: Callable[[bytes], None]
        self._began_seconds = 0.0
        self._packets: deque[Packet] = deque()
        self._queued_bytes = 0
        self._pings: dict[bytes, asyncio.Future[float | None]] = {}
        self._waiter: asyncio.Future[None] | None = None
        self._error: ProbeError | None = None
        self._closed = False

    # facts

    @property
    def address(self) -> str:
        return self.exchange.address

    @property
    def peer(self) -> str:
        """Address and port, as messages show them."""
        return self._connection.peer

    @property
    def phase_seconds(self) -> Mapping[Phase, float]:
        """Of the upgrade, until its answer was complete."""
        return self.exchange.phase_seconds

    @property
    def own_key(self) -> bytes:
        """Our public key: what a peer sends to."""
        return self._login.own_key.public_key

    @property
    def server_key(self) -> bytes:
        """The public key in the relay's greeting: one process of a relay has one."""
        assert self._login.server_key is not None
        return self._login.server_key

    @property
    def header_key(self) -> bytes | None:
        """The public key in the answer's header; None where there is none, or what is no key."""
        try:
            key = bytes.fromhex(self.exchange.headers.get("derp-public-key", ""))
        except ValueError:
            return None
        return key if len(key) == KEY_BYTES else None

    @property
    def server_info(self) -> ServerInfo:
        assert self._login.server_info is not None
        return self._login.server_info

    @property
    def error(self) -> ProbeError | None:
        """Why the relay's side is over; None while it is not, and when only we have closed."""
        return self._error

    # use

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if exc_type is None:
            await self.close()
        else:
            self.abort()

    def send(self, destination_key: bytes, payload: bytes) -> float:
        """Send a packet; return the clock's monotonic seconds just before it was written.

        Raises:
            ProtocolError: The connection is over, or the relay takes no bytes.
            WireError: The payload has more than 65536 bytes.
        """
        frame = derp_frames.encode_send_packet(destination_key, payload)
        self._require_open()
        sent_seconds = self._clock.monotonic()
        self._write(frame)
        return sent_seconds

    async def receive_packet(self, *, deadline_seconds: float | None = None) -> Packet:
        """Return the next packet.

        Args:
            deadline_seconds: Instead of the one it was opened with.

        Raises:
            DeadlineError: None came in time.
            ProtocolError: The relay closed, or broke the rules.
        """
        while not self._packets:
            await self._wait(deadline_seconds, "waiting for a packet")
        packet = self._packets.popleft()
        self._queued_bytes -= len(packet.payload)
        if not self._has_too_much():
            self._connection.resume_reading()
        return packet

    async def ping(self, *, deadline_seconds: float | None = None) -> float:
        """Return the seconds that the relay took to answer a ping. Raises like `receive_packet`."""
        self._require_open()
        data = os.urandom(PING_BYTES)
        pong = self._pings[data] = asyncio.get_running_loop().create_future()
        try:
            sent_seconds = self._clock.monotonic()
            self._write(derp_frames.encode_ping(data))
            async with until(self._choose_deadline(deadline_seconds), self._clock):
                arrived_seconds: float | None = await pong
        except TimeoutError:
            raise self._describe_timeout("waiting for the answer to a ping") from None
        finally:
            del self._pings[data]
        if arrived_seconds is None:
            raise self._describe_over()
        return arrived_seconds - sent_seconds

    async def close(self) -> None:
        """Close: what was written is sent; a websocket waits a moment for the relay's goodbye."""
        self._closed = True
        try:
            if self._websocket is not None:
                await self._websocket.close()
            else:
                self._connection.close()
        finally:
            self._release()

    def abort(self) -> None:
        """Close at once."""
        if self._begun:
            self._connection.abort()
        self._release()

    # login

    @property
    def begun(self) -> bool:
        """The relay has switched to DERP: the rest is between it and us."""
        return self._begun

    def take_over(self, upgraded: Upgraded, done: asyncio.Future[None]) -> None:
        """Begin with the login; resolve the future when it is over, well or not."""
        self.exchange = upgraded.exchange
        self._begin(upgraded.connection)
        self._waiter = done
        if _switched_to_derp(upgraded.exchange):
            upgraded.hand_over(self)
        else:
            self._fail(_describe_other_protocol(upgraded.exchange), phase=Phase.PROCESSING)

    async def finish_login(self) -> None:
        """Return when the login is over, well or not."""
        while not self._login.complete and self._error is None:
            await self._wait(None, "logging in")

    def require_login(self, *, in_time: bool) -> None:
        """Raise what went wrong with the login, if something did."""
        if self._error is not None and not self._login.complete:
            raise self._error
        if not in_time:
            raise self._describe_timeout("logging in")

    # called by the connection, or by the websocket on it

    def connected(self, connection: Connection) -> None:
        self._write = connection.write

    def opened(self, websocket: WebSocket, connection: Connection) -> None:
        self.exchange = websocket.exchange
        self._begin(connection)
        self._websocket = websocket
        self._write = self._write_messages

    def message_received(self, message: str | bytes) -> None:
        if isinstance(message, bytes):
            self.bytes_received(message)
        else:
            self._fail("sent a text message, where DERP has binary ones")

    def bytes_received(self, data: bytes) -> None:
        if self._error is not None or self._closed:
            return
        arrived_seconds = self._clock.monotonic()
        if arrived_seconds >= self._spare_until_seconds:
            self._spare_until_seconds = arrived_seconds + _SPARE_FRAMES_SECONDS
            self._reader.spare_frames = _MAX_SPARE_FRAMES
        try:
            for kind, payload in self._reader.read(data):
                if kind == _RECV_PACKET:
                    self._take_packet(payload, arrived_seconds)
                else:
                    self._take(kind, payload, arrived_seconds)
                    if self._closed:
                        return
        except FloodError as error:
            self._fail(
                f"floods this client: more than {_MAX_SPARE_FRAMES} frames that carry no packet"
                f" within {_SPARE_FRAMES_SECONDS:.0f} s",
                cause=error,
            )
        except WireError as error:
            self._fail(f"does not speak DERP as it should: {error}", cause=error)

    def ended(self, error: ProbeError | None) -> None:
        if error is None or isinstance(error, ClosedError):
            error = self._describe_end(error)
        self._end(error)

    # inside

    def _begin(self, connection: Connection) -> None:
        self._begun = True
        self._connection = connection
        self._began_seconds = self._clock.monotonic()
        # for the messages of what breaks from here on; never ended, so the exchange keeps its times
        connection.begin(Phase.TRANSFER)

    def _take_packet(self, payload: bytes, arrived_seconds: float) -> None:
        if len(payload) < KEY_BYTES:
            return
        self._packets.append(Packet(payload[:KEY_BYTES], payload[KEY_BYTES:], arrived_seconds))
        self._queued_bytes += len(payload) - KEY_BYTES
        if self._has_too_much():
            self._connection.pause_reading()
        if self._login.server_info is not None:
            self._wake()

    def _has_too_much(self) -> bool:
        return self._queued_bytes > _MAX_QUEUED_BYTES or len(self._packets) > _MAX_QUEUED_PACKETS

    def _take(self, kind: int, payload: bytes, arrived_seconds: float) -> None:
        """Work on a frame that is no packet; what is too short to be one is dropped."""
        try:
            match kind:
                case FrameType.SERVER_KEY:
                    self._write(self._login.answer(payload))
                case FrameType.SERVER_INFO:
                    self._take_server_info(payload)
                case FrameType.KEEP_ALIVE:
                    self.keep_alives += 1
                case FrameType.PING:
                    self._answer_ping(payload)
                case FrameType.PONG:
                    pong = self._pings.get(derp_frames.parse_ping(payload))
                    if pong is not None and not pong.done():
                        pong.set_result(arrived_seconds)
                case FrameType.PEER_GONE:
                    self.peers_gone.append(derp_frames.parse_peer_gone(payload))
                case FrameType.HEALTH:
                    problem = derp_frames.parse_health(payload)[:_MAX_HEALTH_CHARS]
                    self.health = "".join(char if char.isprintable() else "?" for char in problem)
                case FrameType.RESTARTING:
                    self.restarting = derp_frames.parse_restarting(payload)
        except ShortFrameError:
            pass

    def _take_server_info(self, payload: bytes) -> None:
        first = not self._login.complete
        self._login.finish(payload)
        if first:
            self.login_seconds = self._clock.monotonic() - self._began_seconds
            self._wake()

    def _answer_ping(self, payload: bytes) -> None:
        pong = derp_frames.encode_pong(payload)
        if self._connection.write_buffer_bytes > _MAX_UNSENT_BYTES:
            # somebody who pings without reading the answers
            self._fail("sends but takes no bytes")
        else:
            self._write(pong)

    def _write_messages(self, data: bytes) -> None:
        assert self._websocket is not None
        for start in range(0, len(data), MAX_WEBSOCKET_MESSAGE_BYTES):
            self._websocket.write_bytes(data[start : start + MAX_WEBSOCKET_MESSAGE_BYTES])

    def _require_open(self) -> None:
        if self._error is not None or self._closed:
            raise self._describe_over()
        if self._connection.write_buffer_bytes > _MAX_UNSENT_BYTES:
            raise ProtocolError(f"{self._connection.peer} takes no more bytes", phase=Phase.TRANSFER)

    async def _wait(self, deadline_seconds: float | None, doing: str) -> None:
        """Return when something has come, which need not be what is waited for."""
        if self._error is not None or self._closed:
            raise self._describe_over()
        loop = asyncio.get_running_loop()
        waiter = self._waiter = loop.create_future()
        seconds = self._choose_deadline(deadline_seconds) - self._clock.monotonic()
        # by hand: asyncio.timeout costs more than all else on the way of a packet
        timer = loop.call_later(max(0.0, seconds), _expire, waiter)
        try:
            await waiter
        except TimeoutError:
            raise self._describe_timeout(doing) from None
        finally:
            timer.cancel()
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _choose_deadline(self, deadline_seconds: float | None) -> float:
        return self._deadline_seconds if deadline_seconds is None else deadline_seconds

    # endings

    def _fail(self, what: str, *, cause: WireError | None = None, phase: Phase = Phase.TRANSFER) -> None:
        error = ProtocolError(f"{self._connection.peer} {what}", phase=phase)
        # as data it must not hold frames of calls, and with them sockets and buffers
        error.__cause__ = cause.with_traceback(None) if cause is not None else None
        self._end(error)
        self.abort()

    def _end(self, error: ProbeError) -> None:
        if self._error is None and not self._closed:
            self._error = error
            self._wake_all()

    def _release(self) -> None:
        """Nothing more is heard: let go of what points back here, so that nothing is left to the garbage collector."""
        self._closed = True
        self._wake_all()
        if self._begun:
            self._connection.receiver = _NOBODY

    def _wake_all(self) -> None:
        self._wake()
        for pong in self._pings.values():
            if not pong.done():
                pong.set_result(None)

    def _describe_over(self) -> ProbeError:
        return self._error or ProtocolError(f"{self._connection.peer}: we have closed the connection")

    def _describe_timeout(self, doing: str) -> DeadlineError:
        if doing == "logging in":
            stage = "the relay's greeting" if self._login.server_key is None else "the answer to our login"
            doing = f"waiting for {stage}"
        return DeadlineError(f"{self._connection.peer}: out of time while {doing}", phase=Phase.TRANSFER)

    def _describe_end(self, closed: ClosedError | None) -> ProtocolError:
        if self._login.complete:
            when = " within a frame" if self._reader.within_frame else ""
        elif self._login.server_key is None:
            when = " before its greeting" + (" was complete" if self._reader.within_frame else "")
        else:
            when = " after our login: it refuses this client"
        code = closed.code if closed is not None else None
        # 1000 and 1001 say no more than the end of a stream does
        detail = "" if code in (None, 1000, 1001) else f" (websocket closed with {code})"
        return ProtocolError(f"{self._connection.peer} closed the connection{when}{detail}", phase=Phase.TRANSFER)


def _expire(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_exception(TimeoutError())


class _Nobody:
    """Hears what comes after we have closed."""

    def connected(self, connection: Connection) -> None:
        pass

    def bytes_received(self, data: bytes) -> None:
        pass

    def ended(self, error: ProbeError | None) -> None:
        pass


_NOBODY = _Nobody()


def _switched_to_derp(exchange: Exchange) -> bool:
    # repeated headers are of no interest: Go's client looks at the first as well
    return exchange.headers.get("upgrade", "").strip().lower() == "derp"


def _describe_other_protocol(exchange: Exchange) -> str:
    other = exchange.headers.get("upgrade")
    return f"switched protocols, but not to DERP: {'to none' if other is None else f'to {other[:40]!r}'}"
