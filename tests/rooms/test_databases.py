"""The kept connections to databases, on a real server."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from exporter.clock import SystemClock
from exporter.demo.postgres import PostgresServer
from exporter.health.model import Section
from exporter.rooms.databases import Databases
from exporter.secret import Secret
from exporter.targets.model import AccessURL, DatabaseTarget, ProvisionerDaemonsTarget, WorkspaceProxiesTarget
from tests.support.postgres import INSTALLATIONS, need_installation, run_server

TIMES = {"interval_seconds": 30.0, "timeout_seconds": 5.0}
ACCESS = AccessURL(url="http://127.0.0.1:1")


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """A server for all tests."""
    need_installation(INSTALLATIONS[0])
    yield from run_server(INSTALLATIONS[0])


def make_target(server: PostgresServer, deployment: str) -> DatabaseTarget:
    return DatabaseTarget(deployment=deployment, section=Section.DATABASE, url=server.exporter_url, **TIMES)


async def wait_for_connections(server: PostgresServer, count: int) -> int:
    """Return how many connections the exporter's role has, once they are so many; the server notices a moment
    later that one was closed."""
    found = -1
    async with server.connect() as connection:
        for _ in range(600):
            found = await connection.fetchval(
                "SELECT count(*)::int FROM pg_stat_activity WHERE usename = 'coder_exporter'"
            )
            if found == count:
                break
            await asyncio.sleep(0.05)
    return found


async def test_each_entry_keeps_one_connection_until_all_are_closed(server: PostgresServer) -> None:
    """Runs of one target share it, two targets share none."""
    databases = Databases(clock=SystemClock())
    for deployment, count in (("prod", 1), ("prod", 1), ("test", 2)):
        assert (await databases.probe(make_target(server, deployment))).failure is None
        assert count == await wait_for_connections(server, count)
    await databases.close()
    assert 0 == await wait_for_connections(server, 0)


def test_without_a_connection_string_nothing_reads_tables() -> None:
    """Also beside deployments that have one."""
    databases = Databases(clock=SystemClock())
    proxies = WorkspaceProxiesTarget(
        deployment="prod", section=Section.WORKSPACE_PROXY, access_url=ACCESS, database_url=None, **TIMES
    )
    daemons = ProvisionerDaemonsTarget(
        deployment="prod", section=Section.PROVISIONER_DAEMONS, access_url=ACCESS, database_url=None, **TIMES
    )
    assert databases.read_proxies(proxies) is None
    assert databases.daemon_tables(daemons) is None


def test_the_tables_of_daemons_are_kept_from_run_to_run() -> None:
    """Those of another deployment are others."""
    databases = Databases(clock=SystemClock())
    first, again, other = (
        databases.daemon_tables(
            ProvisionerDaemonsTarget(
                deployment=deployment,
                section=Section.PROVISIONER_DAEMONS,
                access_url=ACCESS,
                database_url=Secret("postgres://coder@127.0.0.1:1/coder"),
                **TIMES,
            )
        )
        for deployment in ("prod", "prod", "test")
    )
    assert first is not None
    assert first is again
    assert first is not other
