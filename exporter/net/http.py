"""HTTP/1.1 for measuring: one request on one fresh connection, each phase with its own time.

In: an origin, a path, one address, an absolute deadline. Out: an `Exchange`, in which trouble is
data. Nothing is followed, reused, decompressed or kept beyond a cap, so that what is reported is
what the first answer of that address was.
"""

from __future__ import annotations

import contextlib
import functools
import ssl
from asyncio import Future, get_running_loop
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import httptools

from exporter import __version__
from exporter.clock import Clock
from exporter.errors import Phase, ProbeError, ProtocolError
from exporter.net.connection import Connection, NoRouteError, Receiver, describe_timeout
from exporter.net.deadline import until
from exporter.net.tls import PeerCertificates
from exporter.wire.url import Origin

USER_AGENT = f"coder-health-exporter/{__version__}"

MAX_BODY_BYTES = 1 << 20
MAX_REFUSAL_BODY_BYTES = 4096
MAX_HEADER_BYTES = 64 << 10  # of all answers to one request, interim ones too
MAX_HEADERS = 128
_MAX_FRAMING_BYTES = 64 << 10  # bytes in a row that are not body: chunk extensions, trailers
_EXCERPT_BYTES = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """What came of one request.

    `phase_seconds` holds the phases that were finished: one that failed would look like a fast
    success. Processing ends, and transfer begins, with the first byte of the answer.
    `status` is None without an answer. `headers` has lower-case names and the first value of each;
    `header_list` has all. `body_truncated`: it was longer than the cap, which is no error.
    `error` is the trouble that ended it early; status, headers and the body so far stay.
    """

    address: str
    phase_seconds: Mapping[Phase, float]
    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    header_list: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    body_truncated: bool = False
    certificates: PeerCertificates | None = None
    error: ProbeError | None = None

    @property
    def no_route(self) -> bool:
        """This host has no way to the address family at all."""
        return isinstance(self.error, NoRouteError)

    def header_values(self, name: str) -> tuple[str, ...]:
        """Return every value of a repeated header; the name in lower case."""
        return tuple(value for key, value in self.header_list if key == name)


class HTTP2Error(ProtocolError):
    """The answer is HTTP/2, which was not offered and on which no protocol can be switched."""


class Upgraded:
    """A connection on which the server switched protocols.

    Bytes that came after the answer wait in `leftover` until `hand_over` gives them, and all that
    follows, to who speaks the new protocol. Whoever gets this closes `connection`.
    """

    __slots__ = ("_reception", "connection", "exchange")

    def __init__(self, exchange: Exchange, connection: Connection, reception: _Reception) -> None:
        self.exchange = exchange
        self.connection = connection
        self._reception = reception

    @property
    def leftover(self) -> bytes:
        return bytes(self._reception.leftover)

    def hand_over(self, receiver: Receiver) -> None:
        """Let `receiver` hear the connection from here on; what waited comes at once."""
        reception, connection = self._reception, self.connection
        connection.receiver = receiver
        receiver.connected(connection)
        if reception.leftover:
            receiver.bytes_received(bytes(reception.leftover))
            reception.leftover.clear()
        if reception.over:
            receiver.ended(reception.error)
        connection.resume_reading()
        reception.release()


async def get(
    origin: Origin,
    path: str,
    *,
    address: str,
    deadline_seconds: float,
    connect_deadline_seconds: float | None = None,
    clock: Clock,
    ssl_context: ssl.SSLContext | None,
    certificate_name: str | None = None,
    host_header: str | None = None,
    headers: Mapping[str, str] | None = None,
    max_body_bytes: int = MAX_BODY_BYTES,
) -> Exchange:
    """GET a path from one address of an origin, on a connection of its own.

    Never raises a ProbeError: trouble is the exchange's `error`.

    Args:
        path: With its query, as it goes on the wire.
        deadline_seconds: When all must be over, on `clock.monotonic()`.
        connect_deadline_seconds: An earlier end for the TCP connection alone, so that a dead
            address leaves time for the next one.
        ssl_context: From `tls.load_ssl_context`; needed for https only.
        certificate_name: What the certificate must name instead of the origin's host, or a pin of it.
        host_header: What the Host header says instead of the origin's own host and port.
        max_body_bytes: What of the body is read and kept.
    """
    reception = _Reception(max_body_bytes=max_body_bytes)
    connection = Connection(
        reception,
        origin=origin,
        address=address,
        clock=clock,
        ssl_context=ssl_context,
        certificate_name=certificate_name,
    )
    error = await _run(
        reception,
        connection,
        path,
        headers or {},
        "close",
        deadline_seconds,
        connect_deadline_seconds,
        clock,
        host_header=host_header,
    )
    if error is None:
        connection.close()
    else:
        connection.abort()
    reception.release()
    if error is None and reception.status == 101:
        error = ProtocolError(f"{connection.peer} switched protocols unasked (status 101)", phase=Phase.PROCESSING)
    return _build_exchange(reception, connection, error)


async def upgrade(
    origin: Origin,
    path: str,
    *,
    address: str,
    deadline_seconds: float,
    connect_deadline_seconds: float | None = None,
    clock: Clock,
    ssl_context: ssl.SSLContext | None,
    certificate_name: str | None = None,
    headers: Mapping[str, str],
    max_body_bytes: int = MAX_REFUSAL_BODY_BYTES,
    take_over: Callable[[Upgraded, Future[None]], None] | None = None,
) -> Upgraded | Exchange:
    """Ask one address of an origin to switch protocols; `headers` say to which (`Upgrade`).

    Returns an `Upgraded` when the status was 101, which the caller judges further and closes;
    else the exchange, with the beginning of the refusal's body or an error. Never raises a
    ProbeError.

    Args:
        take_over: Is called with the `Upgraded` as soon as its answer is there, on the event loop,
            where no task has to be woken first. It must not raise. The new protocol may begin at
            once; this returns when the future is resolved, still within the deadline.
    """
    reception = _Reception(max_body_bytes=max_body_bytes)
    connection = Connection(
        reception,
        origin=origin,
        address=address,
        clock=clock,
        ssl_context=ssl_context,
        certificate_name=certificate_name,
    )
    upgraded: Upgraded | None = None

    def switch() -> None:
        nonlocal upgraded
        assert take_over is not None
        upgraded = Upgraded(_build_exchange(reception, connection, None), connection, reception)
        take_over(upgraded, reception.done)

    if take_over is not None:
        reception.switch = switch
    error = await _run(
        reception, connection, path, headers, "Upgrade", deadline_seconds, connect_deadline_seconds, clock
    )
    if error is None and upgraded is not None:
        return upgraded
    exchange = _build_exchange(reception, connection, error)
    if error is None and reception.status == 101:
        return Upgraded(exchange, connection, reception)
    if error is None:
        connection.close()
    else:
        connection.abort()
    return exchange


async def _run(
    reception: _Reception,
    connection: Connection,
    path: str,
    headers: Mapping[str, str],
    connection_header: str,
    deadline_seconds: float,
    connect_deadline_seconds: float | None,
    clock: Clock,
    *,
    host_header: str | None = None,
) -> ProbeError | None:
    """Open, ask, hear the answer; return the trouble. Any other exception closes the socket."""
    try:
        host = connection.origin.host_header if host_header is None else host_header
        reception.request = _build_request(host, path, headers, connection_header)
        reception.done = get_running_loop().create_future()
        async with until(deadline_seconds, clock):
            await connection.open(connect_deadline_seconds=connect_deadline_seconds)
            await reception.done
    except TimeoutError:
        return describe_timeout(connection.phase, connection.peer)
    except ProbeError as error:
        # as data it must not hold the frames of this call, and with them its sockets and buffers
        return error.with_traceback(None)
    except BaseException:
        connection.abort()
        raise
    return reception.error


def _build_exchange(reception: _Reception, connection: Connection, error: ProbeError | None) -> Exchange:
    header_list = [(name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in reception.raw_headers]
    return Exchange(
        address=connection.address,
        phase_seconds=connection.phase_seconds,
        status=reception.status,
        headers=dict(reversed(header_list)),
        header_list=tuple(header_list),
        body=bytes(reception.body),
        body_truncated=reception.body_truncated,
        certificates=connection.certificates,
        error=error,
    )


def _build_request(host: str, path: str, headers: Mapping[str, str], connection_header: str) -> bytes:
    request = _build_request_head(host, path, connection_header)
    if not headers:
        return request + b"\r\n"
    lines = [f"{name}: {value}" for name, value in headers.items()]
    # a token with a line break would smuggle in another header; it is never quoted
    if any(not line.isprintable() for line in lines):
        raise ProbeError("a request header holds a line break or another control character")
    try:
        return request + "".join(f"{line}\r\n" for line in lines).encode("latin-1") + b"\r\n"
    except UnicodeEncodeError:
        raise ProbeError("a request header holds a character that HTTP cannot carry") from None


@functools.lru_cache(maxsize=4096)
def _build_request_head(host: str, path: str, connection_header: str) -> bytes:
    if not path.startswith("/") or not path.isascii() or not path.isprintable() or " " in path:
        raise ProbeError(f"{path!r} is not a path of a request")
    return (
        f"GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: {USER_AGENT}\r\n"
        f"Accept: */*\r\nConnection: {connection_header}\r\n"
    ).encode("ascii")


class _Reception:
    """Hears one answer: a receiver of the connection and the protocol of its parser in one."""

    __slots__ = (
        "_begun",
        "_complete",
        "_connection",
        "_first_bytes",
        "_framing_bytes",
        "_headers_complete",
        "_max_body_bytes",
        "_max_wire_bytes",
        "_parser",
        "_too_many_headers",
        "_wire_bytes",
        "body",
        "body_truncated",
        "done",
        "error",
        "leftover",
        "over",
        "raw_headers",
        "request",
        "status",
        "switch",
    )

    def __init__(self, *, max_body_bytes: int) -> None:
        self.request = b""
        self.done: Future[None]
        self.status: int | None = None
        self.raw_headers: list[tuple[bytes, bytes]] = []
        self.body = bytearray()
        self.body_truncated = False
        self.leftover = bytearray()
        self.error: ProbeError | None = None
        self.over = False  # the peer will send no more
        self.switch: Callable[[], None] | None = None  # called with status 101, instead of resolving `done`
        self._connection: Connection
        self._parser = httptools.HttpResponseParser(self)
        self._max_body_bytes = max_body_bytes
        # a body in chunks of one byte takes six on the wire
        self._max_wire_bytes = MAX_HEADER_BYTES + _MAX_FRAMING_BYTES + 8 * max_body_bytes
        self._first_bytes = b""
        self._wire_bytes = 0
        self._framing_bytes = 0
        self._begun = False
        self._headers_complete = False
        self._too_many_headers = False
        self._complete = False

    # what the connection tells

    def connected(self, connection: Connection) -> None:
        self._connection = connection
        connection.begin(Phase.PROCESSING)
        connection.write(self.request)

    def bytes_received(self, data: bytes) -> None:
        if self._complete:
            self._keep_leftover(data)
            return
        if not self._begun:
            self._begun = True
            self._first_bytes = data[:_EXCERPT_BYTES]
            self._connection.begin(Phase.TRANSFER)
        self._wire_bytes += len(data)
        self._framing_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._finish()
            self._keep_leftover(data[upgrade.args[0] :])
        except httptools.HttpParserError as error:
            if not self._complete:
                self._fail(self._describe_parser_error(error))
                return
        if not self._complete:
            self._check_limits()
        elif self.switch is not None and not self.done.done():
            self.switch()

    def ended(self, error: ProbeError | None) -> None:
        self.over = True
        if self._complete:
            self.error = error
        elif error is not None:
            self._fail(error)
        elif self._headers_complete and not _has_length(self.raw_headers):
            self._finish()
        elif not self._begun:
            self._fail(
                ProtocolError(
                    f"{self._connection.peer} closed the connection without an answer", phase=Phase.PROCESSING
                )
            )
        else:
            where = "body" if self._headers_complete else "headers"
            self._fail(
                ProtocolError(
                    f"{self._connection.peer} closed the connection within the {where} of its answer",
                    phase=Phase.TRANSFER,
                )
            )

    def release(self) -> None:
        """Let go of what points back here, so that nothing is left to the garbage collector."""
        self.switch = None
        del self._parser
        with contextlib.suppress(AttributeError):  # never connected
            del self._connection

    # what the parser tells

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._headers_complete and len(self.raw_headers) <= MAX_HEADERS:
            self.raw_headers.append((name, value))

    def on_headers_complete(self) -> None:
        self.status = self._parser.get_status_code()
        self._headers_complete = True
        # one chunk may hold much more than the cap, so it is counted where it can matter
        if len(self.raw_headers) > MAX_HEADERS or (
            self._wire_bytes > MAX_HEADER_BYTES
            and sum(len(name) + len(value) + 4 for name, value in self.raw_headers) > MAX_HEADER_BYTES
        ):
            self._too_many_headers = True

    def on_body(self, data: bytes) -> None:
        self._framing_bytes = 0
        room = self._max_body_bytes - len(self.body)
        if len(data) <= room:
            self.body += data
        else:
            self.body += data[:room]
            self.body_truncated = True

    def on_message_complete(self) -> None:
        if self._complete:
            return
        if self.status is not None and 100 <= self.status < 200 and self.status != 101:
            # an interim answer: the true one is still to come
            self.status = None
            self.raw_headers.clear()
            self._headers_complete = False
            return
        if not self._too_many_headers:
            self._finish()

    # endings

    def _finish(self) -> None:
        self._complete = True
        if self.done.done():
            return
        if self.error is not None:
            self._connection.abort()
        else:
            self._connection.end()
            if self.status == 101 and self.switch is not None:
                return  # until what comes with it is kept
            if self.status == 101:
                # what follows belongs to somebody else, who has not been handed the connection yet
                self._connection.pause_reading()
            else:
                # here, not where it is awaited: one pass of the event loop less
                self._connection.close()
        self.done.set_result(None)

    def _fail(self, error: ProbeError) -> None:
        self.error = error
        self._finish()

    def _keep_leftover(self, data: bytes) -> None:
        if self.status == 101:
            self.leftover += data

    def _check_limits(self) -> None:
        if self._too_many_headers or (not self._headers_complete and self._wire_bytes > MAX_HEADER_BYTES):
            limits = f"{MAX_HEADER_BYTES >> 10} KiB or {MAX_HEADERS} headers"
            self._fail(ProtocolError(f"{self._connection.peer} sent more than {limits}", phase=Phase.TRANSFER))
        elif self.body_truncated:
            self._finish()
        elif self._wire_bytes > self._max_wire_bytes or (
            self._headers_complete and self._framing_bytes > MAX_HEADER_BYTES + _MAX_FRAMING_BYTES
        ):
            self._fail(
                ProtocolError(
                    f"{self._connection.peer} sent an answer that is more framing than body", phase=Phase.TRANSFER
                )
            )

    def _describe_parser_error(self, error: Exception) -> ProtocolError:
        peer = self._connection.peer
        if self._first_bytes[:2] in (b"\x15\x03", b"\x16\x03"):
            return ProtocolError(
                f"{peer} answered with TLS: is the URL http where it should be https?", phase=Phase.PROCESSING
            )
        if _is_http2(self._first_bytes):
            return HTTP2Error(f"{peer} answered in HTTP/2 where HTTP/1.1 was asked", phase=Phase.PROCESSING)
        phase = Phase.TRANSFER if self._headers_complete else Phase.PROCESSING
        where = "a malformed body" if self._headers_complete else "what is not an HTTP answer"
        return ProtocolError(f"{peer} sent {where} ({error}); it began with {self._first_bytes!r}", phase=phase)


def _has_length(headers: list[tuple[bytes, bytes]]) -> bool:
    """Tell whether the end of a body shows in the answer; if not, the end of the connection is it.

    Source: RFC 9112, section 6.3.
    """
    length = False
    for name, value in headers:
        lower = name.lower()
        if lower == b"transfer-encoding":
            return value.lower().rstrip().endswith(b"chunked")
        length = length or lower == b"content-length"
    return length


def _is_http2(data: bytes) -> bool:
    """Tell whether bytes begin as every HTTP/2 server does: with a SETTINGS frame of stream 0.

    A server that chose h2 by itself sends it unasked. Source: RFC 9113, sections 3.4, 4.1 and 6.5.
    """
    return data[3:9] == b"\x04\x00\x00\x00\x00\x00" and int.from_bytes(data[:3], "big") % 6 == 0
