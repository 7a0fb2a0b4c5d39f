"""Foreign errors of the database, translated."""

from __future__ import annotations

import asyncpg
import pytest

from exporter.errors import AuthError, ConnectError, ProbeError
from exporter.net.postgres_errors import chainable, translate
from exporter.secret import Secret


def say(error: BaseException, password: str = "hunter2hunter2") -> ProbeError:
    return translate(error, doing="logging in", phase=None, secrets=(Secret(password),))


def raised_by(function: str, words: str) -> asyncpg.TooManyConnectionsError:
    """Return an error as a server with translated texts sends it."""
    error = asyncpg.TooManyConnectionsError(words)
    error.server_source_function = function
    return error


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (asyncpg.InvalidPasswordError("no"), AuthError),
        (asyncpg.InvalidCatalogNameError("no"), AuthError),
        (asyncpg.InsufficientPrivilegeError("no"), AuthError),
        (asyncpg.CannotConnectNowError("starting up"), ConnectError),
        (asyncpg.TooManyConnectionsError("sorry, too many clients already"), ConnectError),
        (raised_by("InitializeSessionUserId", "zu viele Verbindungen"), AuthError),  # our role's limit
        (raised_by("CheckMyDatabase", "zu viele Verbindungen"), AuthError),  # the database's
        (raised_by("ProcArrayAdd", "zu viele Verbindungen"), ConnectError),  # the server is full
    ],
)
def test_what_is_our_role_is_told_from_what_is_the_server(error: Exception, kind: type[ProbeError]) -> None:
    """Only what the server says of our own role is a refusal."""
    assert kind is type(say(error))


def test_a_password_in_the_servers_words_is_masked() -> None:
    """The error that holds it is no cause either, since a traceback would show it."""
    error = asyncpg.InvalidPasswordError("not hunter2hunter2")
    assert "hunter2" not in say(error).message
    assert "<secret>" in say(error).message
    assert chainable(error, (Secret("hunter2hunter2"),)) is None
    assert chainable(error, (Secret("another one"),)) is error


def test_a_short_password_cannot_be_guessed_from_the_gaps() -> None:
    """The server's words go when replacing would spell out a secret of a letter."""
    message = say(asyncpg.InvalidCatalogNameError('database "nox" does not exist'), "x").message
    assert "nox" not in message
    assert "does not e" not in message
