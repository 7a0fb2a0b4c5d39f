"""One fresh connection: TCP, and TLS on top of it, each phase with its own time.

In: an origin, one address, a receiver that is told what comes. Out: a `Connection` that writes,
and the seconds of each phase. TLS is done here, on memory buffers over a plain transport: so both
event loops behave alike, the handshake has a time of its own, and the peer's certificates are at
hand also when they do not verify.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import ssl
from typing import Protocol

from exporter.clock import Clock
from exporter.errors import ConnectError, DeadlineError, Phase, ProbeError, ProtocolError, Reason, TLSError
from exporter.net import tls
from exporter.net.deadline import until
from exporter.net.tls import PeerCertificates
from exporter.wire.url import Origin

_READ_BYTES = 65536

# This host lacks a way to the address family, or a local address of it.
_NO_ROUTE = {errno.ENETUNREACH, errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}
_FORBIDDEN_HERE = {errno.EACCES, errno.EPERM}
_EXHAUSTED_HERE = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}

_DOING = {
    Phase.CONNECT: "connecting",
    Phase.TLS: "during the TLS handshake",
    Phase.PROCESSING: "waiting for the answer",
    Phase.TRANSFER: "reading the answer",
}


class NoRouteError(ConnectError):
    """This host has no way to the address family at all, which says nothing about the target."""

    no_route = True


class Receiver(Protocol):
    """Who is told what happens on a connection. Called on the event loop; must not raise."""

    def connected(self, connection: Connection) -> None:
        """The connection, with its TLS, stands: time to write."""

    def bytes_received(self, data: bytes) -> None:
        """Bytes came, decrypted."""

    def ended(self, error: ProbeError | None) -> None:
        """No more bytes will come: the peer closed its side (None), or the connection broke.

        Called at most once, never after `close` or `abort`."""


class Connection(asyncio.Protocol):
    """A connection that is opened once, for one receiver at a time.

    The opener sets the deadline (`until`) and closes or aborts. `phase` is the one that runs now
    and `phase_seconds` holds those that were finished; whoever speaks on top goes on with
    `begin(Phase.PROCESSING)`.

    Args:
        address: IP address to connect to; the origin's host goes into SNI and is what the
            certificate must name.
        ssl_context: Needed when the origin is https.
        certificate_name: What the certificate must name instead of the origin's host, or a pin of it
            (`sha256-raw:<hex>`); the context must have been loaded for it.
    """

    __slots__ = (
        "_began_seconds",
        "_certificate_name",
        "_clock",
        "_closed",
        "_context",
        "_ended",
        "_handshaking",
        "_incoming",
        "_outgoing",
        "_paused",
        "_ready",
        "_tls",
        "_transport",
        "address",
        "certificates",
        "origin",
        "phase",
        "phase_seconds",
        "receiver",
    )

    def __init__(
        self,
        receiver: Receiver,
        *,
        origin: Origin,
        address: str,
        clock: Clock,
        ssl_context: ssl.SSLContext | None,
        certificate_name: str | None = None,
    ) -> None:
        if origin.tls and ssl_context is None:
            raise ValueError("an https origin needs an SSL context")
        if (
            ssl_context is not None
            and ssl_context.verify_mode is ssl.CERT_REQUIRED
            and ssl_context.check_hostname == (certificate_name is not None)
        ):
            # either OpenSSL verifies the name or we do: never both, and never nobody
            raise ValueError("the SSL context was not loaded for this certificate name")
        self.receiver = receiver
        self.origin = origin
        self.address = address
        self.phase: Phase | None = None
        self.phase_seconds: dict[Phase, float] = {}
        self.certificates: PeerCertificates | None = None
        self._clock = clock
        self._context = ssl_context if origin.tls else None
        self._certificate_name = certificate_name
        self._transport: asyncio.Transport | None = None
        self._tls: ssl.SSLObject | None = None
        self._ready: asyncio.Future[None] | None = None
        self._handshaking = False
        self._paused = False
        self._ended = False
        self._closed = False
        self._began_seconds = 0.0

    @property
    def peer(self) -> str:
        """Address and port, as messages show them."""
        return f"[{self.address}]:{self.origin.port}" if ":" in self.address else f"{self.address}:{self.origin.port}"

    @property
    def write_buffer_bytes(self) -> int:
        """Bytes that were written and that the peer has not taken."""
        return self._transport.get_write_buffer_size() if self._transport is not None else 0

    async def open(self, *, connect_deadline_seconds: float | None = None) -> None:
        """Connect, and shake hands; the receiver is told before this returns.

        Args:
            connect_deadline_seconds: An earlier end for TCP alone.

        Raises:
            ConnectError: Refused, unreachable (`NoRouteError` when it is this host's lack).
            TLSError: The handshake failed; `certificates` holds what was shown so far.
            DeadlineError: TCP was not there in time, or the operating system gave up.
        """
        loop = asyncio.get_running_loop()
        try:
            if self._context is not None:
                self._prepare_tls(self._context)
                self._ready = loop.create_future()
            self.begin(Phase.CONNECT)
            connecting = loop.create_connection(lambda: self, self.address, self.origin.port)
            try:
                if connect_deadline_seconds is None:
                    await connecting
                else:
                    async with until(connect_deadline_seconds, self._clock):
                        await connecting
            except OSError as error:
                raise self._translate_connect(error) from error
            if self._ready is not None:
                await self._ready
        except BaseException:
            self.abort()
            if self._ready is not None and not self._ready.cancel() and not self._ready.cancelled():
                self._ready.exception()  # nobody waits for it any more: asyncio would log what it failed of
            raise

    def begin(self, phase: Phase) -> None:
        """End the running phase and start another."""
        now = self._clock.monotonic()
        if self.phase is not None:
            self.phase_seconds[self.phase] = now - self._began_seconds
        self.phase = phase
        self._began_seconds = now

    def end(self) -> None:
        """End the running phase with success. One that fails is never ended, so it has no time."""
        if self.phase is not None:
            self.phase_seconds[self.phase] = self._clock.monotonic() - self._began_seconds
            self.phase = None

    def write(self, data: bytes) -> None:
        """Send bytes. Nothing happens when the connection is over: `ended` has told or will."""
        transport = self._transport
        if transport is None or self._closed or self._ended:
            return
        if self._tls is None:
            transport.write(data)
            return
        try:
            self._tls.write(data)
        except ssl.SSLError as error:
            self._end(self._translate_broken_tls(error))
            return
        self._flush()

    def pause_reading(self) -> None:
        """Take no more bytes from the peer for now; a few that are here already may still come."""
        if self._transport is not None and not self._paused and not self._closed:
            self._paused = True
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        if self._transport is not None and self._paused and not self._closed:
            self._paused = False
            self._transport.resume_reading()

    def close(self) -> None:
        """Close in good manners: what was written is sent, TLS says goodbye. Does not wait."""
        if self._closed or self._transport is None:
            self._closed = True
            return
        if self._tls is not None and not self._handshaking and not self._ended:
            # it wants to hear the peer's goodbye, for which we do not wait
            with contextlib.suppress(ssl.SSLError):
                self._tls.unwrap()
            self._flush()
        self._closed = True
        # a peer that does not read would keep the socket open for ever
        if self._transport.get_write_buffer_size() > 0:
            self._transport.abort()
        else:
            self._transport.close()

    def abort(self) -> None:
        """Close at once."""
        self._closed = True
        if self._transport is not None:
            self._transport.abort()

    # called by the event loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]
        if self._closed:
            self.abort()
            return
        if self._tls is None:
            self.receiver.connected(self)
            return
        self.begin(Phase.TLS)
        self._step_handshake(self._tls)

    def data_received(self, data: bytes) -> None:
        if self._closed:
            return
        if self._tls is None:
            self.receiver.bytes_received(data)
            return
        self._incoming.write(data)
        if self._handshaking:
            self._step_handshake(self._tls)
        else:
            self._read_tls(self._tls)

    def eof_received(self) -> bool:
        if self._handshaking:
            self._fail_handshake(self._closed_in_handshake())
        else:
            self._end(None)
        # keep our side open: bytes may still be on their way out, and whoever opened closes
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        error = None
        if exc is not None:
            doing = _DOING.get(self.phase, "") if self.phase is not None else ""
            error = ProtocolError(f"{self.peer} broke the connection while {doing}: {_say(exc)}", phase=self.phase)
        if self._handshaking:
            self._fail_handshake(self._closed_in_handshake())
        else:
            self._end(error)

    # TLS

    def _prepare_tls(self, context: ssl.SSLContext) -> None:
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        host = self.origin.host.rstrip(".")
        try:
            # an IP address is verified against the certificate but not sent as a name
            self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=host)
        except ValueError as error:
            raise TLSError(f"{host} cannot be a name in a certificate: {error}", phase=Phase.TLS) from error
        self._handshaking = True

    def _step_handshake(self, session: ssl.SSLObject) -> None:
        try:
            session.do_handshake()
        except ssl.SSLWantReadError:
            self._flush()
            return
        except ssl.SSLError as error:
            self._flush()  # the alert that tells the peer why
            self.certificates = tls.read_peer_certificates(session, verified=False)
            self._fail_handshake(
                tls.translate(error, peer=self.peer, host=self.origin.host, certificates=self.certificates)
            )
            return
        self._flush()
        verified = session.context.verify_mode is ssl.CERT_REQUIRED
        if self._certificate_name is not None:
            objection = tls.find_objection(
                session,
                peer=self.peer,
                host=self.origin.host,
                certificate_name=self._certificate_name,
                clock=self._clock,
            )
            if objection is not None:
                self.certificates = tls.read_peer_certificates(session, verified=verified)
                self._fail_handshake(objection)
                return
        self._handshaking = False
        self.end()
        self.certificates = tls.read_peer_certificates(session, verified=verified)
        self.receiver.connected(self)
        if self._ready is not None and not self._ready.done():
            self._ready.set_result(None)
        self._read_tls(session)

    def _fail_handshake(self, error: TLSError) -> None:
        self._handshaking = False
        self._ended = True
        if self._ready is not None and not self._ready.done():
            self._ready.set_exception(error)

    def _closed_in_handshake(self) -> TLSError:
        return TLSError(
            f"TLS handshake with {self.peer} for {self.origin.host}: the server closed the connection", phase=Phase.TLS
        )

    def _read_tls(self, session: ssl.SSLObject) -> None:
        while not self._closed and not self._ended:
            try:
                data = session.read(_READ_BYTES)
            except ssl.SSLWantReadError:
                break
            except ssl.SSLZeroReturnError:
                data = b""
            except ssl.SSLError as error:
                self._end(self._translate_broken_tls(error))
                break
            if not data:
                self._end(None)
                break
            self.receiver.bytes_received(data)
        self._flush()

    def _flush(self) -> None:
        if self._outgoing.pending and self._transport is not None and not self._transport.is_closing():
            self._transport.write(self._outgoing.read())

    # endings

    def _end(self, error: ProbeError | None) -> None:
        if not self._ended and not self._closed:
            self._ended = True
            self.receiver.ended(error)

    def _translate_broken_tls(self, error: ssl.SSLError) -> TLSError:
        reason = (error.reason or "an unknown error").lower().replace("_", " ")
        return TLSError(f"the TLS connection with {self.peer} broke: {reason}", phase=self.phase)

    def _translate_connect(self, error: OSError) -> ProbeError:
        number, phase = error.errno, Phase.CONNECT
        if number is None and isinstance(error, TimeoutError):
            return describe_timeout(phase, self.peer)
        doing = f"connecting to {self.peer}"
        if number == errno.ECONNREFUSED:
            return ConnectError(f"{doing}: the connection was refused", phase=phase, reason=Reason.REFUSED)
        if number in _NO_ROUTE:
            family = "IPv6" if ":" in self.address else "IPv4"
            return NoRouteError(f"{doing}: this host has no way to that {family} address: {_say(error)}", phase=phase)
        if number == errno.ETIMEDOUT:
            return DeadlineError(f"{doing}: the operating system gave up", phase=phase)
        if number in _EXHAUSTED_HERE:
            return ProbeError(f"{doing}: this host has run out: {_say(error)}", phase=phase, reason=Reason.INTERNAL)
        where = "this host forbids it" if number in _FORBIDDEN_HERE else "unreachable"
        return ConnectError(f"{doing}: {where}: {_say(error)}", phase=phase)


def describe_timeout(phase: Phase | None, peer: str) -> DeadlineError:
    """Say what was not finished when the time was over."""
    doing = _DOING[phase] if phase is not None else "preparing"
    return DeadlineError(f"{peer}: out of time while {doing}", phase=phase)


def _say(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno is not None:
        # not its own text: asyncio writes the address into it, which the sentence has already
        return f"{errno.errorcode.get(error.errno, error.errno)} ({os.strerror(error.errno)})"
    return str(error) or type(error).__name__
