"""A client of PostgreSQL for measuring: opens connections, times each step, keeps one for pings.

In: a connection string as `wire.postgres_url` reads it. Out: seconds, small answers, and our own
errors. Everything works through pgbouncer in transaction mode too: no prepared statement is kept,
several statements that belong together run in one transaction, and settings that a pooler refuses
at the start are left out from then on.
"""

from __future__ import annotations

import asyncio
import getpass
import os
import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar, cast

import asyncpg
from asyncpg.connect_utils import SessionAttribute

from exporter.clock import Clock
from exporter.errors import AuthError, ConnectError, DeadlineError, Phase, ProbeError, TLSError
from exporter.net.postgres_dialer import Dialer, build_tls_context
from exporter.net.postgres_errors import (
    FOREIGN_ERRORS,
    PARSER_ERRORS,
    chainable,
    is_refused_without_tls,
    is_startup_parameter_refused,
    translate,
)
from exporter.wire.postgres_url import Endpoint, PostgresURL, SessionAttributes, TLSMode

APPLICATION_NAME = "coder-health-exporter"
# Where a server without a named host may be. Source: libpq's and pgx's defaults
_SOCKET_DIRECTORIES = ("/run/postgresql", "/var/run/postgresql", "/tmp")
# Coder's driver pings with an empty statement, at the answer to which asyncpg breaks; this costs the
# server next to nothing more. Source: coder-interfaces, sections 2.3 and 5.2
_PING = "SELECT 1"
# Through the simple protocol only the number of rows comes back, which is all that is asked
_ASK_STANDBY = "SELECT 1 WHERE pg_catalog.pg_is_in_recovery()"
_GOODBYE_SECONDS = 0.5

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """A connection that stands, and what opening it took.

    `phase_seconds`: resolve (absent for an address), connect, tls (absent without), processing,
    which is the login: from the startup packet to the server's readiness.
    """

    connection: asyncpg.Connection
    endpoint: Endpoint
    address: str
    server_version: str
    phase_seconds: Mapping[Phase, float]

    @property
    def connect_seconds(self) -> float:
        """Until the server could be logged in to, TLS included."""
        return sum(seconds for phase, seconds in self.phase_seconds.items() if phase is not Phase.PROCESSING)

    @property
    def login_seconds(self) -> float:
        return self.phase_seconds[Phase.PROCESSING]

    async def close(self) -> None:
        """Say goodbye to the server; drop the connection when that takes long."""
        try:
            await self.connection.close(timeout=_GOODBYE_SECONDS)
        except FOREIGN_ERRORS:
            self.connection.terminate()


class Connector:
    """Opens connections as one connection string says.

    Args:
        statement_timeout_seconds: What the server is asked to stop a statement after.

    `phase_seconds` are the phases that the last attempt left behind, also when it failed.
    """

    def __init__(self, url: PostgresURL, *, clock: Clock, statement_timeout_seconds: float) -> None:
        self._url = url
        self._clock = clock
        self._settings = {
            "application_name": APPLICATION_NAME,
            "statement_timeout": str(max(1, round(statement_timeout_seconds * 1000))),
            **url.settings,
        }
        self._secrets = tuple(secret for secret in (url.password, url.tls.key_password) if secret is not None)
        self._pooler_refuses_settings = False
        self.phase_seconds: Mapping[Phase, float] = {}

    async def open(self, *, timeout_seconds: float) -> Opened:
        """Open a connection to the first server that takes us and is what the URL asks for.

        Several servers share the time, each up to the URL's own `connect_timeout`. As in libpq, a
        server that refuses our login ends the search.

        Raises:
            ResolveError, ConnectError, TLSError, DeadlineError, ProtocolError, AuthError
        """
        deadline = self._clock.monotonic() + timeout_seconds
        user, endpoints, context = await asyncio.to_thread(self._prepare)
        failures: list[ProbeError] = []
        for wanted in _passes(self._url.session_attributes):
            for index, endpoint in enumerate(endpoints):
                share = (deadline - self._clock.monotonic()) / (len(endpoints) - index)
                limit = self._url.connect_timeout_seconds
                try:
                    return await self._open_endpoint(
                        endpoint,
                        user=user,
                        context=context,
                        wanted=wanted,
                        timeout_seconds=share if limit is None else min(share, limit),
                    )
                except AuthError:
                    raise
                except ProbeError as error:
                    failures.append(error)
        last = failures[-1]
        if len(failures) == 1:
            raise last
        message = "; ".join(dict.fromkeys(failure.message for failure in failures))
        raise type(last)(message, phase=last.phase, reason=last.reason) from last

    def _prepare(self) -> tuple[str, tuple[Endpoint, ...], ssl.SSLContext | None]:
        """Read what is in files and in the system. Certificates are read each time: they rotate."""
        user = self._url.user or getpass.getuser()
        context = None
        if self._url.tls.mode is not TLSMode.DISABLE and any(not each.is_socket for each in self._url.endpoints):
            context = build_tls_context(self._url.tls)
        return user, tuple(_find_default(endpoint) for endpoint in self._url.endpoints), context

    async def _open_endpoint(
        self,
        endpoint: Endpoint,
        *,
        user: str,
        context: ssl.SSLContext | None,
        wanted: SessionAttributes,
        timeout_seconds: float,
    ) -> Opened:
        deadline = self._clock.monotonic() + timeout_seconds
        ways = _ways(self._url.tls.mode, None if endpoint.is_socket else context)
        for way in ways:
            try:
                opened = await self._open_way(endpoint, user=user, context=way, deadline_seconds=deadline)
                break
            except ProbeError as error:
                # the other way may do where TLS itself, or its absence, is what is wrong
                if way is ways[-1] or not (isinstance(error, TLSError) or is_refused_without_tls(error.__cause__)):
                    raise
        try:
            await self._check(opened, wanted, deadline_seconds=deadline)
        except BaseException:
            opened.connection.terminate()
            raise
        return opened

    async def _open_way(
        self, endpoint: Endpoint, *, user: str, context: ssl.SSLContext | None, deadline_seconds: float
    ) -> Opened:
        if not self._pooler_refuses_settings:
            try:
                return await self._dial(endpoint, user, context, self._settings, deadline_seconds)
            except ProbeError as error:
                if not is_startup_parameter_refused(error.__cause__):
                    raise
                self._pooler_refuses_settings = True
        bare = {"application_name": self._settings["application_name"]}
        return await self._dial(endpoint, user, context, bare, deadline_seconds)

    async def _dial(
        self,
        endpoint: Endpoint,
        user: str,
        context: ssl.SSLContext | None,
        settings: dict[str, str],
        deadline_seconds: float,
    ) -> Opened:
        dialer = Dialer(
            endpoint,
            clock=self._clock,
            deadline_seconds=deadline_seconds,
            context=context,
            advisory=self._url.tls.mode is TLSMode.PREFER,
            direct=self._url.tls.direct,
        )
        password = self._url.password
        left = deadline_seconds - self._clock.monotonic()
        doing = f"connecting to PostgreSQL at {endpoint}"
        try:
            connection = await asyncpg.connect(
                host=endpoint.address or endpoint.host,
                port=endpoint.port,
                user=user,
                # a function, since for a missing password asyncpg would ask the environment
                password=lambda: password.reveal() if password is not None else "",
                database=self._url.database or user,
                ssl=False,  # the dialer does it
                direct_tls=False,
                target_session_attrs=SessionAttribute.any,
                server_settings=settings,
                statement_cache_size=0,
                timeout=left,
                loop=cast(asyncio.AbstractEventLoop, dialer),
            )
        except ProbeError:
            dialer.abort()
            raise
        except TimeoutError as error:
            dialer.abort()
            message = f"{doing}: {_WAITING[dialer.phase]} within {max(left, 0.0):.3g} s"
            raise DeadlineError(message, phase=dialer.phase) from error
        except (*FOREIGN_ERRORS, *PARSER_ERRORS) as error:
            dialer.abort()
            translated = translate(error, doing=doing, phase=dialer.phase, secrets=self._secrets)
            raise translated from chainable(error, self._secrets)
        except BaseException:
            dialer.abort()
            raise
        finally:
            self.phase_seconds = dialer.phase_seconds
        dialer.finish(Phase.PROCESSING)
        return Opened(
            connection=connection,
            endpoint=endpoint,
            address=dialer.address or str(endpoint),
            server_version=str(connection.get_settings().server_version),
            phase_seconds=dialer.phase_seconds,
        )

    async def _check(self, opened: Opened, wanted: SessionAttributes, *, deadline_seconds: float) -> None:
        if wanted is SessionAttributes.ANY:
            return
        timeout_seconds = deadline_seconds - self._clock.monotonic()
        standby = await self.run(opened, _ask_standby, timeout_seconds=timeout_seconds)
        # Our role is read-only by design, which libpq takes for a server that cannot be written to.
        # What the one who wrote the URL means is: the primary, or a standby.
        if standby is not (wanted in (SessionAttributes.STANDBY, SessionAttributes.READ_ONLY)):
            found = "a standby" if standby else "the primary"
            raise ConnectError(
                f"connecting to PostgreSQL at {opened.endpoint}: it is {found}, the URL asks for {wanted}",
                phase=Phase.PROCESSING,
            )

    async def run(
        self,
        opened: Opened,
        conversation: Callable[[asyncpg.Connection], Awaitable[T]],
        *,
        timeout_seconds: float,
    ) -> T:
        """Run a conversation on a connection, within a time limit.

        The connection is dropped when the conversation was cut short: what would be left of it is
        not worth a second connection just to cancel it.

        Raises:
            ConnectError, DeadlineError, ProtocolError, StatusError, AuthError
        """
        doing = f"asking PostgreSQL at {opened.endpoint}"
        # Before the conversation is cancelled: one that is within a transaction would tell the server its
        # end, and wait for the answer to that, on a line that is silent.
        hanging_up = asyncio.get_running_loop().call_later(max(timeout_seconds, 0.0), opened.connection.terminate)
        try:
            async with asyncio.timeout(timeout_seconds) as limit:
                try:
                    return await conversation(opened.connection)
                except (asyncpg.InterfaceError, asyncpg.InternalClientError, asyncpg.PostgresError) as error:
                    # what comes of hanging up, and not of what the server says
                    if limit.expired() or hanging_up.when() <= asyncio.get_running_loop().time():
                        raise TimeoutError from error
                    raise
        except TimeoutError as error:
            opened.connection.terminate()
            message = f"{doing}: no answer within {max(timeout_seconds, 0.0):.3g} s"
            raise DeadlineError(message, phase=Phase.PROCESSING) from error
        except asyncpg.InternalClientError as error:
            # the server has said goodbye (FATAL), but the end of the connection is not here yet
            opened.connection.terminate()
            raise ConnectError(f"{doing}: the connection was lost", phase=Phase.PROCESSING) from error
        except FOREIGN_ERRORS as error:
            if not (isinstance(error, asyncpg.PostgresError) and not opened.connection.is_closed()):
                opened.connection.terminate()
            translated = translate(error, doing=doing, phase=Phase.PROCESSING, secrets=self._secrets)
            raise translated from chainable(error, self._secrets)
        except BaseException:
            opened.connection.terminate()
            raise
        finally:
            hanging_up.cancel()


class Session:
    """One kept connection, and beside it now and then a fresh one that is only measured.

    Not for several conversations at a time: each section has its own.

    Args:
        timeout_seconds: What the server is asked to stop a statement after.
        fresh_connection_interval_seconds: How long a measured connection counts as recent.

    `opened` is the last connection that was opened and measured, kept or fresh; None before the
    first one stands.
    """

    def __init__(
        self,
        url: PostgresURL,
        *,
        clock: Clock,
        timeout_seconds: float = 5.0,
        fresh_connection_interval_seconds: float = 300.0,
    ) -> None:
        self._connector = Connector(url, clock=clock, statement_timeout_seconds=timeout_seconds)
        self._clock = clock
        self._interval = fresh_connection_interval_seconds
        self._kept: Opened | None = None
        self._measured_at: float | None = None
        self.opened: Opened | None = None

    @property
    def connected(self) -> bool:
        """Whether the kept connection stands, as far as this side can see."""
        return self._kept is not None and not self._kept.connection.is_closed()

    @property
    def phase_seconds(self) -> Mapping[Phase, float]:
        """The phases of the last attempt to open a connection, as far as it came."""
        return self._connector.phase_seconds

    @property
    def fresh_connection_due(self) -> bool:
        """Whether the last measured connection is older than the interval."""
        return self._measured_at is None or self._clock.monotonic() - self._measured_at >= self._interval

    def now(self) -> float:
        """Return the monotonic time, for a limit that several calls share."""
        return self._clock.monotonic()

    async def connect(self, *, timeout_seconds: float) -> None:
        """Open the kept connection, unless it stands."""
        if self.connected:
            return
        self.drop()
        self._kept = await self._open(timeout_seconds)

    def drop(self) -> None:
        """Forget the kept connection at once."""
        if self._kept is not None:
            self._kept.connection.terminate()
            self._kept = None

    async def ping(self, *, timeout_seconds: float) -> float:
        """Ask for nothing on the kept connection, and return how many seconds that took."""
        started = self._clock.monotonic()
        await self.run(_ping, timeout_seconds=timeout_seconds)
        return self._clock.monotonic() - started

    async def ask_standby(self, *, timeout_seconds: float) -> bool:
        """Return whether the server is in recovery, that is a standby."""
        return await self.run(_ask_standby, timeout_seconds=timeout_seconds)

    async def run(self, conversation: Callable[[asyncpg.Connection], Awaitable[T]], *, timeout_seconds: float) -> T:
        """Run a conversation on the kept connection, which must have been opened."""
        if self._kept is None:
            raise ConnectError("asking PostgreSQL: no connection is open", phase=Phase.CONNECT)
        return await self._connector.run(self._kept, conversation, timeout_seconds=timeout_seconds)

    async def measure_fresh_connection(self, *, timeout_seconds: float) -> None:
        """Open a connection beside the kept one, keep its times in `opened`, and close it."""
        fresh = await self._open(timeout_seconds)
        await fresh.close()

    async def close(self) -> None:
        """Close the kept connection. The session can be used again afterwards."""
        kept, self._kept = self._kept, None
        if kept is not None:
            await kept.close()

    async def _open(self, timeout_seconds: float) -> Opened:
        # a failed attempt counts too, or a full server would be asked again by every run
        self._measured_at = self._clock.monotonic()
        self.opened = await self._connector.open(timeout_seconds=timeout_seconds)
        return self.opened


_WAITING = {
    Phase.RESOLVE: "the name was not resolved",
    Phase.CONNECT: "no connection",
    Phase.TLS: "the TLS handshake was not over",
    Phase.PROCESSING: "the login was not over",
}


async def _ping(connection: asyncpg.Connection) -> None:
    await connection.execute(_PING)


async def _ask_standby(connection: asyncpg.Connection) -> bool:
    return (await connection.execute(_ASK_STANDBY)) == "SELECT 1"


def _passes(wanted: SessionAttributes) -> Sequence[SessionAttributes]:
    if wanted is SessionAttributes.PREFER_STANDBY:
        return (SessionAttributes.STANDBY, SessionAttributes.ANY)
    return (wanted,)


def _ways(mode: TLSMode, context: ssl.SSLContext | None) -> Sequence[ssl.SSLContext | None]:
    """Return the contexts to try in turn; None is without TLS."""
    if context is None:
        return (None,)
    return {TLSMode.ALLOW: (None, context), TLSMode.PREFER: (context, None)}.get(mode, (context,))


def _find_default(endpoint: Endpoint) -> Endpoint:
    """Return where a server is when no host is named: a socket of this host, else its loopback."""
    if endpoint.host:
        return endpoint
    for directory in _SOCKET_DIRECTORIES:
        if os.path.exists(f"{directory}/.s.PGSQL.{endpoint.port}"):
            return Endpoint(host=directory, port=endpoint.port)
    return Endpoint(host="localhost", port=endpoint.port)
