"""The way to one PostgreSQL server: lookup, TCP, TLS, each with its time.

asyncpg opens connections through the event loop that it is handed. A `Dialer` stands in that place:
it passes everything on to the real loop, but dials itself, so that each phase is timed on the very
connection that is then used, and a server never sees a connection that says nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct
from collections.abc import Callable, Iterator
from typing import Any, cast

from exporter.clock import Clock
from exporter.errors import ConnectError, DeadlineError, Phase, ProbeError, ProtocolError, Reason, TLSError, WireError
from exporter.net import resolver
from exporter.net.postgres_errors import PARSER_ERRORS
from exporter.wire.postgres_frames import FrameGuard
from exporter.wire.postgres_url import Endpoint, TLSMode, TLSOptions

# Length 8, then the number that asks for TLS. Source: PostgreSQL manual, "Message Formats", SSLRequest
_SSL_REQUEST = struct.pack("!II", 8, 80877103)
_ALPN = "postgresql"  # Source: libpq-int.h, PG_ALPN_PROTOCOL

# A kept connection whose peer has vanished is found dead between two runs of the default interval.
_KEEPALIVE_OPTIONS = (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 2))

_Factory = Callable[[], asyncio.Protocol]


class Dialer:
    """Stands in for the event loop while asyncpg opens one connection to one server.

    Args:
        deadline_seconds: When to give up, on the clock. Several addresses share what is left.
        context: For TLS; None to speak without.
        advisory: Go on without TLS when the server has none.

    `phase` is the phase that is under way, `phase_seconds` what is behind; `address` is where the
    connection goes, None until it stands.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        clock: Clock,
        deadline_seconds: float,
        context: ssl.SSLContext | None,
        advisory: bool,
        direct: bool,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._endpoint = endpoint
        self._clock = clock
        self._deadline = deadline_seconds
        self._context = context
        self._advisory = advisory
        self._direct = direct
        self._transport: asyncio.BaseTransport | None = None
        self._mark = clock.monotonic()
        self.phase = Phase.CONNECT if endpoint.is_socket else Phase.RESOLVE
        self.phase_seconds: dict[Phase, float] = {}
        self.address: str | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loop, name)

    def finish(self, phase: Phase, following: Phase | None = None) -> None:
        """Stamp the end of a phase."""
        now = self._clock.monotonic()
        self.phase_seconds[phase] = now - self._mark
        self._mark = now
        if following is not None:
            self.phase = following

    def abort(self) -> None:
        """Drop the connection at once, however far it came."""
        if self._transport is not None:
            _abort(self._transport)

    async def create_connection(self, factory: _Factory, *_host_and_port: object, **_options: object) -> Any:
        """Dial the server over TCP and TLS. The signature is the event loop's."""
        sock = await self._connect()
        guarded = _Guarded(factory)
        try:
            encrypted = self._context is not None and (self._direct or await self._ask_for_tls(sock))
        except BaseException:
            sock.close()
            raise
        # the transport owns the socket from here on, also when the handshake fails
        if encrypted:
            self._transport, _guard = await self._loop.create_connection(
                lambda: guarded, sock=sock, ssl=self._context, server_hostname=self._endpoint.host
            )
            self.finish(Phase.TLS, Phase.PROCESSING)
        else:
            self.phase = Phase.PROCESSING
            self._transport, _guard = await self._loop.create_connection(lambda: guarded, sock=sock)
        return self._transport, guarded.inner

    async def create_unix_connection(self, factory: _Factory, path: str, **_options: object) -> Any:
        """Dial the server's unix socket."""
        guarded = _Guarded(factory)
        self._transport, _guard = await self._loop.create_unix_connection(lambda: guarded, path)
        self.address = path
        self.finish(Phase.CONNECT, Phase.PROCESSING)
        return self._transport, guarded.inner

    async def _connect(self) -> socket.socket:
        host = self._endpoint.address or self._endpoint.host
        found = await resolver.resolve(host, timeout_seconds=max(0.0, self._deadline - self._clock.monotonic()))
        if (host,) in (found.ipv4, found.ipv6):
            self.phase = Phase.CONNECT  # an address: nobody was asked
        else:
            self.finish(Phase.RESOLVE, Phase.CONNECT)
        addresses = found.ipv6 + found.ipv4
        failure: ProbeError | None = None
        for index, address in enumerate(addresses):
            self._mark = self._clock.monotonic()
            share = (self._deadline - self._mark) / (len(addresses) - index)
            try:
                return await self._connect_to(address, share)
            except ProbeError as error:
                failure = error
        raise failure or ConnectError(f"connecting to PostgreSQL at {self._endpoint}: it has no address")

    async def _connect_to(self, address: str, timeout_seconds: float) -> socket.socket:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        where = f"[{address}]:{self._endpoint.port}" if ":" in address else f"{address}:{self._endpoint.port}"
        doing = f"connecting to PostgreSQL at {self._endpoint}"
        if not where.startswith(str(self._endpoint)):
            doing += f" ({where})"
        try:
            sock = socket.socket(family, socket.SOCK_STREAM)
        except OSError as error:  # an address family that this host does not have
            raise ConnectError(f"{doing}: {error.strerror}", phase=Phase.CONNECT) from error
        try:
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for name, value in _KEEPALIVE_OPTIONS:
                with contextlib.suppress(AttributeError):  # not named by every system
                    sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
            async with asyncio.timeout(timeout_seconds):
                await self._loop.sock_connect(sock, (address, self._endpoint.port))
        except TimeoutError as error:
            sock.close()
            message = f"{doing}: no answer within {timeout_seconds:.3g} s"
            raise DeadlineError(message, phase=Phase.CONNECT) from error
        except OSError as error:
            sock.close()
            reason = Reason.REFUSED if isinstance(error, ConnectionRefusedError) else Reason.UNREACHABLE
            # asyncio's own text would name the address again
            words = error.strerror or str(error)
            if isinstance(error, ConnectionRefusedError):
                words = "connection refused"
            raise ConnectError(f"{doing}: {words}", phase=Phase.CONNECT, reason=reason) from error
        except BaseException:
            sock.close()
            raise
        self.address = where
        self.finish(Phase.CONNECT, Phase.TLS)
        return sock

    async def _ask_for_tls(self, sock: socket.socket) -> bool:
        await self._loop.sock_sendall(sock, _SSL_REQUEST)
        # exactly one byte: whatever came with it in the clear must not be read as encrypted
        answer = await self._loop.sock_recv(sock, 1)
        if answer == b"S":
            return True
        doing = f"asking PostgreSQL at {self._endpoint} for TLS"
        if answer == b"N":
            if self._advisory:
                # it was part of the way to the login, though no handshake came of it
                before = self.phase_seconds[Phase.CONNECT]
                self.finish(Phase.CONNECT)
                self.phase_seconds[Phase.CONNECT] += before
                return False
            raise TLSError(f"{doing}: the server has no TLS", phase=Phase.TLS)
        if answer == b"":
            raise ConnectError(f"{doing}: the connection was closed", phase=Phase.TLS)
        # an error text that comes before TLS may be anybody's, so it is not read
        raise ProtocolError(f"{doing}: the answer is not PostgreSQL's protocol", phase=Phase.TLS)


class _Guarded(asyncio.Protocol):
    """Lets asyncpg's own protocol see only what has the form of PostgreSQL's messages."""

    def __init__(self, factory: _Factory) -> None:
        self.inner = factory()
        self._guard = FrameGuard()
        self._transport: asyncio.BaseTransport | None = None
        self._violation: WireError | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self.inner.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        if self._violation is not None:
            return
        try:
            self._guard.feed(data)
            self.inner.data_received(data)
        except WireError as error:
            self._violate(error)
        except PARSER_ERRORS:
            self._violate(WireError("messages of PostgreSQL came out of turn, or with other content than theirs"))

    def _violate(self, error: WireError) -> None:
        self._violation = error
        if self._transport is not None:
            _abort(self._transport)

    def eof_received(self) -> bool | None:
        return self.inner.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self.inner.connection_lost(self._violation or exc)

    def pause_writing(self) -> None:
        self.inner.pause_writing()

    def resume_writing(self) -> None:
        self.inner.resume_writing()


def _abort(transport: asyncio.BaseTransport) -> None:
    # those of uvloop are instances of none of asyncio's types; one over TLS that asyncpg has closed already
    # bears no abort in the Python 3.11.2 of Debian 12, and is over
    with contextlib.suppress(AttributeError):
        cast(asyncio.WriteTransport, transport).abort()


def build_tls_context(options: TLSOptions) -> ssl.SSLContext:
    """Build the context for a mode other than `disable`. Reads files: not for the event loop.

    Without a root certificate the system's certificates count. libpq would want
    ~/.postgresql/root.crt; the Go drivers do as we do.

    Raises:
        TLSError: A file cannot be read or used.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = options.mode is TLSMode.VERIFY_FULL
    context.verify_mode = ssl.CERT_REQUIRED if options.verifies else ssl.CERT_NONE
    with _names_parameter("sslrootcert", options.root_certificate):
        if options.root_certificate not in (None, "system"):
            context.load_verify_locations(cafile=options.root_certificate)
        elif options.verifies:
            context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    if options.revocation_list is not None:
        with _names_parameter("sslcrl", options.revocation_list):
            context.load_verify_locations(cafile=options.revocation_list)
            context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
    if options.certificate is not None:
        key_password = options.key_password.reveal() if options.key_password is not None else ""
        with _names_parameter("sslcert", options.certificate):
            # a function, since without any password OpenSSL would ask for one on the terminal
            context.load_cert_chain(options.certificate, keyfile=options.key, password=lambda: key_password)
    if options.minimum_version == "TLSv1.3":
        context.minimum_version = ssl.TLSVersion.TLSv1_3
    if options.maximum_version == "TLSv1.2":
        context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols([_ALPN])
    return context


@contextlib.contextmanager
def _names_parameter(name: str, path: str | None) -> Iterator[None]:
    try:
        yield
    except ssl.SSLError as error:
        raise TLSError(f"reading {name} {path}: {error.reason or 'it cannot be used'}", phase=Phase.TLS) from error
    except OSError as error:
        raise TLSError(f"reading {name} {path}: {error.strerror}", phase=Phase.TLS) from error
