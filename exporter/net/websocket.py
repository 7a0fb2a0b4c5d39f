"""Websockets for measuring: one upgrade on one fresh connection, then messages.

In: an origin, a path, one address, an absolute deadline. Out: an open `WebSocket`, or the exchange
that tells who refused and how. The handshake's answer is read by `http`, with its caps; the rules
of RFC 6455 come from the part of the `websockets` library that does no I/O.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Protocol, Self

from websockets.client import ClientProtocol
from websockets.datastructures import Headers
from websockets.exceptions import InvalidHandshake, PayloadTooBig, WebSocketException
from websockets.frames import CloseCode, Frame, Opcode
from websockets.http11 import Response
from websockets.protocol import SEND_EOF, Side, State
from websockets.protocol import Protocol as Framing
from websockets.typing import Subprotocol
from websockets.uri import WebSocketURI

from exporter.clock import Clock
from exporter.errors import DeadlineError, Phase, ProbeError, ProtocolError
from exporter.net import http
from exporter.net.connection import Connection
from exporter.net.deadline import until
from exporter.net.http import Exchange, Upgraded
from exporter.wire.url import Origin

MAX_MESSAGE_BYTES = 4 << 20
_MAX_QUEUED_MESSAGES = 16
_MAX_UNSENT_BYTES = 1 << 20
_CLOSE_SECONDS = 1.0  # for the peer's half of the closing handshake


class ClosedError(ProtocolError):
    """The peer ended the websocket, with a goodbye or without; `code` is what its goodbye gave."""

    code: int | None = None


class Listener(Protocol):
    """Who is told at once what comes, instead of asking `receive`. Must not raise."""

    def opened(self, websocket: WebSocket, connection: Connection) -> None:
        """The websocket stands on this connection: time to write."""

    def message_received(self, message: str | bytes) -> None:
        """A whole message came."""

    def ended(self, error: ProbeError) -> None:
        """No more messages will come. Called at most once."""


# The library logs each frame at debug, and our messages already say what matters.
_SILENT = logging.Logger("exporter.net.websocket", level=logging.CRITICAL + 1)


async def open_websocket(
    origin: Origin,
    path: str,
    *,
    address: str,
    deadline_seconds: float,
    connect_deadline_seconds: float | None = None,
    clock: Clock,
    ssl_context: ssl.SSLContext | None,
    certificate_name: str | None = None,
    headers: Mapping[str, str] | None = None,
    subprotocols: Sequence[str] = (),
    max_message_bytes: int = MAX_MESSAGE_BYTES,
    listener: Listener | None = None,
) -> WebSocket | Exchange:
    """Open a websocket at one address of an origin, on a connection of its own.

    Never raises a ProbeError. Without a websocket the exchange says why: `error` None is a refusal
    with status, headers and the beginning of the body; else no answer, or one that breaks the
    rules (status 101 with an `error`).

    Args:
        deadline_seconds: When the handshake, and by default every later wait, must be over, on
            `clock.monotonic()`.
        connect_deadline_seconds: An earlier end for the TCP connection alone.
        certificate_name: What the certificate must name instead of the origin's host, or a pin of it.
        subprotocols: What to offer; `WebSocket.subprotocol` is what was chosen.
        max_message_bytes: A longer message is a ProtocolError.
        listener: Is told each message as it arrives; `receive` is of no use then.
    """
    handshake = ClientProtocol(
        WebSocketURI(origin.tls, origin.host, origin.port, path, ""),
        subprotocols=[Subprotocol(name) for name in subprotocols] or None,
        logger=_SILENT,
    )
    ours = {
        name: value for name, value in handshake.connect().headers.raw_items() if name not in ("Host", "Connection")
    }
    answer = await http.upgrade(
        origin,
        path,
        address=address,
        deadline_seconds=deadline_seconds,
        connect_deadline_seconds=connect_deadline_seconds,
        clock=clock,
        ssl_context=ssl_context,
        certificate_name=certificate_name,
        headers={**ours, **(headers or {})},
    )
    if isinstance(answer, Exchange):
        return answer
    try:
        handshake.process_response(Response(101, "", Headers(answer.exchange.header_list)))
    except InvalidHandshake as error:
        answer.connection.abort()
        message = f"{answer.connection.peer} switched protocols, but not to a valid websocket: {error}"
        return replace(answer.exchange, error=ProtocolError(message, phase=Phase.PROCESSING))
    return WebSocket(
        answer,
        subprotocol=handshake.subprotocol,
        deadline_seconds=deadline_seconds,
        clock=clock,
        max_message_bytes=max_message_bytes,
        listener=listener,
    )


class WebSocket:
    """An open websocket. Leaving its context closes it, at once when with an exception.

    `exchange` is the answer to the upgrade. Pings are answered; one reader at a time. `heard_seconds`
    is when bytes last came, be it a ping, on `clock.monotonic()`.
    """

    def __init__(
        self,
        upgraded: Upgraded,
        *,
        subprotocol: str | None,
        deadline_seconds: float,
        clock: Clock,
        max_message_bytes: int,
        listener: Listener | None = None,
    ) -> None:
        self.exchange = upgraded.exchange
        self.subprotocol = subprotocol
        self.heard_seconds = clock.monotonic()
        self._deadline_seconds = deadline_seconds
        self._clock = clock
        self._max_message_bytes = max_message_bytes
        self._protocol = Framing(Side.CLIENT, state=State.OPEN, max_size=max_message_bytes, logger=_SILENT)
        self._messages: deque[str | bytes] = deque()
        self._fragments = bytearray()
        self._opcode = Opcode.TEXT
        self._error: ProbeError | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._listener = listener
        self._connection: Connection = upgraded.connection
        upgraded.hand_over(self)

    @property
    def address(self) -> str:
        return self.exchange.address

    @property
    def phase_seconds(self) -> Mapping[Phase, float]:
        """Of the handshake, until the answer to the upgrade was complete."""
        return self.exchange.phase_seconds

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if exc_type is None:
            await self.close()
        else:
            self.abort()

    async def send_text(self, text: str) -> None:
        """Send one text message.

        Raises:
            ProtocolError: The websocket is over, or the peer takes no bytes.
        """
        self._require_open()
        self._protocol.send_text(text.encode())
        self._flush()

    async def send_bytes(self, data: bytes) -> None:
        """Send one binary message. Raises like `send_text`."""
        self._require_open()
        self.write_bytes(data)

    def write_bytes(self, data: bytes) -> None:
        """Send one binary message, as a listener may. Nothing happens when the websocket is over:
        `ended` has told or will."""
        if self._error is None and self._protocol.state is State.OPEN:
            self._protocol.send_binary(data)
            self._flush()

    async def receive(self, *, deadline_seconds: float | None = None) -> str | bytes:
        """Return the next message.

        Args:
            deadline_seconds: Instead of the one it was opened with.

        Raises:
            DeadlineError: None came in time.
            ProtocolError: The peer closed, broke the rules, or sent more than the cap.
        """
        if not self._messages:
            deadline = self._deadline_seconds if deadline_seconds is None else deadline_seconds
            try:
                async with until(deadline, self._clock):
                    await self._wait()
            except TimeoutError:
                message = f"{self._connection.peer}: out of time while waiting for a websocket message"
                raise DeadlineError(message, phase=Phase.TRANSFER) from None
        if not self._messages:
            assert self._error is not None
            raise self._error
        self._connection.resume_reading()
        return self._messages.popleft()

    async def close(self, code: int = CloseCode.GOING_AWAY) -> None:
        """Say goodbye, wait a moment for the peer's, and close the socket."""
        try:
            if self._error is None and self._protocol.state is State.OPEN:
                self._protocol.send_close(code)
                self._flush()
                deadline = min(self._deadline_seconds, self._clock.monotonic() + _CLOSE_SECONDS)
                async with until(deadline, self._clock):
                    while self._error is None:
                        # messages that are still on their way are of no interest any more
                        self._messages.clear()
                        self._connection.resume_reading()
                        await self._wait()
        except TimeoutError:
            pass  # the peer does not say goodbye, which is none of our troubles
        except BaseException:
            self.abort()
            raise
        self._connection.close()

    def abort(self) -> None:
        """Close the socket at once."""
        self._connection.abort()

    # called by the connection

    def connected(self, connection: Connection) -> None:
        if self._listener is not None:
            self._listener.opened(self, connection)

    def bytes_received(self, data: bytes) -> None:
        if self._error is not None:
            return
        self.heard_seconds = self._clock.monotonic()
        self._protocol.receive_data(data)
        for event in self._protocol.events_received():
            if isinstance(event, Frame) and self._error is None:
                self._take(event)
        self._flush()
        if self._protocol.parser_exc is not None:
            self._fail(self._describe(self._protocol.parser_exc))
        if len(self._messages) >= _MAX_QUEUED_MESSAGES:
            self._connection.pause_reading()

    def ended(self, error: ProbeError | None) -> None:
        if error is None:
            message = f"{self._connection.peer} closed the connection without closing the websocket"
            error = ClosedError(message, phase=Phase.TRANSFER)
        self._fail(error)

    # inside

    def _take(self, frame: Frame) -> None:
        if frame.opcode is Opcode.CLOSE:
            close = self._protocol.close_rcvd
            said = f"{close.code} {close.reason[:100]!r}" if close is not None else "without a code"
            closed = ClosedError(f"{self._connection.peer} closed the websocket: {said}", phase=Phase.TRANSFER)
            closed.code = close.code if close is not None else None
            self._fail(closed)
            return
        if frame.opcode in (Opcode.PING, Opcode.PONG):
            return
        if frame.opcode is not Opcode.CONT:
            self._opcode = frame.opcode
            self._fragments.clear()
        self._fragments += frame.data
        if not frame.fin:
            return
        data, self._fragments = bytes(self._fragments), bytearray()
        if self._opcode is Opcode.BINARY:
            self._add(data)
            return
        try:
            self._add(data.decode())
        except UnicodeDecodeError:
            self._protocol.fail(CloseCode.INVALID_DATA)
            message = f"{self._connection.peer} sent a websocket text message that is not UTF-8"
            self._fail(ProtocolError(message, phase=Phase.TRANSFER))

    def _add(self, message: str | bytes) -> None:
        if self._listener is not None:
            self._listener.message_received(message)
            return
        self._messages.append(message)
        self._wake()

    def _describe(self, error: Exception) -> ProtocolError:
        peer = self._connection.peer
        if isinstance(error, PayloadTooBig):
            detail = f"{peer} sent a websocket message above {self._max_message_bytes} bytes"
        elif isinstance(error, WebSocketException):
            detail = f"{peer} broke the websocket protocol: {error}"
        else:
            detail = f"{peer} sent what cannot be read as websocket frames"
        return ProtocolError(detail, phase=Phase.TRANSFER)

    def _require_open(self) -> None:
        if self._error is not None:
            raise self._error
        if self._connection.write_buffer_bytes > _MAX_UNSENT_BYTES:
            raise ProtocolError(f"{self._connection.peer} takes no more bytes", phase=Phase.TRANSFER)

    def _flush(self) -> None:
        for data in self._protocol.data_to_send():
            if data != SEND_EOF:  # closing the socket is ours to time
                self._connection.write(data)
        if self._connection.write_buffer_bytes > _MAX_UNSENT_BYTES:
            # somebody who pings without reading the answers
            self._fail(ProtocolError(f"{self._connection.peer} sends but takes no bytes", phase=Phase.TRANSFER))
            self._connection.abort()

    def _fail(self, error: ProbeError) -> None:
        if self._error is None:
            self._error = error
            self._wake()
            if self._listener is not None:
                self._listener.ended(error)

    async def _wait(self) -> None:
        """Return when a message or the end is there."""
        if self._messages or self._error is not None:
            return
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
