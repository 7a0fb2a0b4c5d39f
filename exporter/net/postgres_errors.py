"""What asyncpg, sockets and TLS raise, translated once into our own error tree.

In: a foreign exception, what was being done, and how far it came. Out: a ProbeError whose message
holds no secret, whatever the server put into its own words.
"""

from __future__ import annotations

import socket
import ssl
import struct

import asyncpg
from asyncpg.pgproto import pgproto

from exporter.errors import (
    AuthError,
    ConnectError,
    DeadlineError,
    Phase,
    ProbeError,
    ProtocolError,
    Reason,
    ResolveError,
    StatusError,
    TLSError,
    WireError,
)
from exporter.secret import Secret

# What a conversation with a server ends in, when it does not end well.
FOREIGN_ERRORS = (
    OSError,
    WireError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    pgproto.BufferError,
)
# What asyncpg's own code lets out besides when messages are well-formed but make no sense. Only to
# be caught where nothing but asyncpg runs, or it would hide our own mistakes.
PARSER_ERRORS = (
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    pgproto.BufferError,
    AttributeError,
    BufferError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
    struct.error,
)
_MAX_MESSAGE_CHARACTERS = 300

# Source: PostgreSQL manual, appendix A. The server knows us and says no, or does not know us.
_REFUSED_STATES = frozenset(
    {
        "28P01",  # wrong password
        "28000",  # no such role, or pg_hba.conf says no
        "3D000",  # no such database
        "42501",  # permission denied
    }
)
# 53300 has three meanings, told apart by who raised it, since texts are translated: the limit of
# our role or of the database is about us, a full server is not. Source: utils/init/miscinit.c,
# postinit.c
_LIMIT_FUNCTIONS = frozenset({"InitializeSessionUserId", "CheckMyDatabase"})
# pgbouncer has one code for everything and its own English words. Source: pgbouncer client.c, objects.c
_POOLER_REFUSALS = (
    "no such user",
    "no such database",
    "no such role",
    "auth failed",
    "login failed",
    "authentication failed",
    "not allowed",
    "password required",
    "SASL authentication failed",
)

_TELLING_LENGTH = 6


def translate(error: BaseException, *, doing: str, phase: Phase | None, secrets: tuple[Secret, ...]) -> ProbeError:
    """Return our error for a foreign one. To be raised `from` what `chainable` returns."""
    words = _say(error)
    for secret in secrets:
        if len(secret.reveal()) < _TELLING_LENGTH and secret.reveal() in words:
            # replaced, the gaps would spell out a secret of a letter or two
            words = type(error).__name__
        words = words.replace(secret.reveal(), "<secret>")
    kind, reason = _classify(error)
    return kind(f"{doing}: {words}", phase=phase, reason=reason)


def chainable(error: BaseException, secrets: tuple[Secret, ...]) -> BaseException | None:
    """Return the error itself as a cause, or None when its own words would give a secret away."""
    told = f"{error!r} {error}"
    return None if any(secret.reveal() in told for secret in secrets) else error


def is_refused_without_tls(error: BaseException | None) -> bool:
    """Tell whether pg_hba.conf turned us away, which it may do only with or only without TLS."""
    return isinstance(error, asyncpg.InvalidAuthorizationSpecificationError) and not isinstance(
        error, asyncpg.InvalidPasswordError
    )


def is_startup_parameter_refused(error: BaseException | None) -> bool:
    """Tell whether a pooler refuses the settings that we sent along. Source: pgbouncer client.c."""
    return isinstance(error, asyncpg.ProtocolViolationError) and "startup parameter" in str(error)


def _classify(error: BaseException) -> tuple[type[ProbeError], Reason | None]:
    if isinstance(error, asyncpg.ConnectionDoesNotExistError) and isinstance(error.__cause__, WireError | ssl.SSLError):
        return _classify(error.__cause__)
    if isinstance(error, asyncpg.PostgresError):
        return _classify_answer(error)
    if isinstance(error, TimeoutError):
        return DeadlineError, None
    if isinstance(error, socket.gaierror | UnicodeError):
        return ResolveError, None
    if isinstance(error, ssl.SSLError | ssl.CertificateError):
        return TLSError, None
    if isinstance(error, ConnectionRefusedError | FileNotFoundError):
        return ConnectError, Reason.REFUSED
    if isinstance(error, OSError):
        return ConnectError, Reason.UNREACHABLE
    if isinstance(error, asyncpg.InterfaceError) and "auth" in str(error):
        return AuthError, None  # the server wants a way of login that the driver does not have
    return ProtocolError, None


def _classify_answer(error: asyncpg.PostgresError) -> tuple[type[ProbeError], Reason | None]:
    state = error.sqlstate or ""
    if state in _REFUSED_STATES:
        return AuthError, None
    if state == "53300" and getattr(error, "server_source_function", None) in _LIMIT_FUNCTIONS:
        return AuthError, Reason.REFUSED  # which passes, unlike a right that is missing
    if state == "57014":
        return DeadlineError, None  # the server's own statement_timeout
    if state == "08P01":
        if any(words in str(error) for words in _POOLER_REFUSALS):
            return AuthError, None
        return ProtocolError, None
    if state.startswith("08") or state in {"57P01", "57P02"}:
        return ConnectError, Reason.UNREACHABLE  # the connection was lost, or cut by the server
    if state.startswith(("53", "57")):
        return ConnectError, Reason.REFUSED  # full, starting up, shutting down
    return StatusError, None


def _say(error: BaseException) -> str:
    if isinstance(error, asyncpg.ConnectionDoesNotExistError):
        # asyncpg's own words for a lost connection; the cause tells what the server said before
        cause = error.__cause__
        words = "the connection was closed" if cause is None else f"the connection was lost: {_say(cause)}"
    elif isinstance(error, ssl.SSLCertVerificationError):
        words = f"the certificate is not accepted: {error.verify_message}"
    elif isinstance(error, ssl.SSLError):
        words = f"TLS failed: {error.reason or error}"
    elif isinstance(error, asyncpg.PostgresError):
        words = f"the server says: {error}"
        if error.sqlstate:
            words += f" ({error.sqlstate})"
    elif isinstance(error, OSError):
        words = error.strerror or str(error) or type(error).__name__
    elif isinstance(error, asyncpg.InterfaceError | WireError):
        words = str(error)
    else:
        words = f"the answer is not PostgreSQL's protocol ({type(error).__name__})"
    line = " ".join("".join(char if char.isprintable() else " " for char in words).split())
    return line if len(line) <= _MAX_MESSAGE_CHARACTERS else f"{line[:_MAX_MESSAGE_CHARACTERS]}..."
