"""Coder's tables, as servers of several ages and grants have them."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Iterator

import pytest

from exporter.demo.postgres import PostgresServer
from exporter.errors import AuthError, ConnectError
from exporter.health.workspace_proxy import ListedProxy
from exporter.net.coder_tables import MAX_PROXIES, CoderTables
from tests.support.postgres import INSTALLATIONS, PATIENCE_SECONDS, make_session, name_installation, run_server

_EU, _US, _OLD = (str(uuid.uuid5(uuid.NAMESPACE_URL, name)) for name in ("eu", "us", "old"))


@pytest.fixture(scope="module", params=INSTALLATIONS, ids=name_installation)
def running(request: pytest.FixtureRequest) -> Iterator[PostgresServer]:
    """A running server of each installation."""
    yield from run_server(request.param)


@pytest.fixture
async def server(running: PostgresServer) -> PostgresServer:
    """That server with fresh tables."""
    await running.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    await running.create_schema()
    await running.create_role()
    return running


@pytest.fixture
async def tables(server: PostgresServer) -> AsyncIterator[CoderTables]:
    """Reads with the exporter's role."""
    made = CoderTables(make_session(server.exporter_url))
    yield made
    await made.close()


async def _read(tables: CoderTables) -> tuple[ListedProxy, ...]:
    return await tables.read_workspace_proxies(timeout_seconds=PATIENCE_SECONDS)


async def test_lists_proxies_by_name(server: PostgresServer, tables: CoderTables) -> None:
    """Deleted ones are left out; one that never registered has no URL."""
    assert await _read(tables) == ()
    await server.put_workspace_proxy(id=_US, name="us", url="", region_id=2, version="")
    await server.put_workspace_proxy(id=_EU, name="eu", url="https://eu.example.com", region_id=1)
    await server.put_workspace_proxy(id=_OLD, name="old", url="https://old.example.com", region_id=3, deleted=True)
    eu, us = await _read(tables)
    assert (eu.id, eu.name, eu.url, eu.version) == (_EU, "eu", "https://eu.example.com", "v2.26.0")
    assert (us.id, us.url, us.version, us.region_id) == (_US, "", "", 2)
    assert (eu.source, eu.stopped) == ("tables", None)
    assert not tables.cut


async def test_registering_again_moves_updated_at(server: PostgresServer, tables: CoderTables) -> None:
    """The text of updated_at changes with each registration, and only then."""
    await server.put_workspace_proxy(id=_EU, name="eu", url="https://eu.example.com", region_id=1)
    first, again = (await _read(tables))[0], (await _read(tables))[0]
    assert first.updated_at == again.updated_at != ""
    await server.put_workspace_proxy(id=_EU, name="eu", url="https://eu.example.com", region_id=1)
    assert (await _read(tables))[0].updated_at != first.updated_at


@pytest.mark.parametrize(
    ("replicas", "stopped"),
    [
        ([], None),
        ([(10001, False, True, 0.0)], True),
        ([(20001, False, True, 3600.0), (10001, False, True, 0.0)], True),
        ([(10001, False, False, 0.0)], False),
        ([(10001, False, False, 44.0)], False),
        ([(10001, False, True, 0.0), (10001, False, False, 0.0)], False),
        ([(10001, False, False, 50.0)], None),  # died without a word
        ([(10001, False, True, 0.0), (10001, False, False, 50.0)], None),
        ([(10002, False, True, 0.0)], None),  # another proxy's
        ([(1, False, True, 0.0)], None),  # no relay of a proxy has such a number
        ([(10001, True, True, 0.0)], None),  # a primary's
    ],
)
async def test_tells_stopped_from_broken(
    server: PostgresServer,
    tables: CoderTables,
    replicas: list[tuple[int, bool, bool, float]],
    stopped: bool | None,
) -> None:
    """A proxy is stopped when all its replicas say so, runs when one is recent, and is unknown else."""
    await server.put_workspace_proxy(id=_EU, name="eu", url="https://eu.example.com", region_id=1)
    for region_id, primary, is_stopped, age_seconds in replicas:
        await server.put_replica(
            id=str(uuid.uuid4()), region_id=region_id, primary=primary, stopped=is_stopped, age_seconds=age_seconds
        )
    (proxy,) = await _read(tables)
    assert stopped is proxy.stopped


async def test_an_older_schema(server: PostgresServer, tables: CoderTables) -> None:
    """Columns that a server does not have yet read as if they were not set."""
    await server.execute(
        "ALTER TABLE workspace_proxies DROP COLUMN region_id, DROP COLUMN version, DROP COLUMN derp_only;"
        ' ALTER TABLE replicas DROP COLUMN "primary";'
        f" INSERT INTO workspace_proxies (id, name, url) VALUES ('{_EU}', 'eu', 'https://eu.example.com')"
    )
    (proxy,) = await _read(tables)
    assert (proxy.url, proxy.version, proxy.region_id, proxy.stopped) == ("https://eu.example.com", "", None, None)


async def test_a_server_without_the_table_has_no_proxies(server: PostgresServer, tables: CoderTables) -> None:
    """Older than April 2023: nothing to read, and no error."""
    await server.execute("DROP TABLE workspace_proxies")
    assert await _read(tables) == ()


@pytest.mark.parametrize(
    "statement",
    [
        "REVOKE ALL ON workspace_proxies FROM coder_exporter; REVOKE ALL (id, name, url, version, deleted, updated_at,"
        " region_id) ON workspace_proxies FROM coder_exporter",
        # a deleted proxy must not be taken for one that is down
        "REVOKE SELECT (deleted) ON workspace_proxies FROM coder_exporter",
        # a migration that dropped the table and created it anew
        "ALTER TABLE workspace_proxies RENAME TO before; CREATE TABLE workspace_proxies (LIKE before INCLUDING ALL);"
        " DROP TABLE before; UPDATE schema_migrations SET version = version + 1",
    ],
)
async def test_a_missing_grant_is_told_apart(server: PostgresServer, tables: CoderTables, statement: str) -> None:
    """Permission denied names what to do; once granted anew, it reads again."""
    await _read(tables)
    await server.execute(statement)
    with pytest.raises(AuthError) as caught:
        await _read(tables)
    assert "deploy/postgres-role.sql" in caught.value.message
    await server.create_role()
    assert await _read(tables) == ()


async def test_a_migration_is_noticed(server: PostgresServer, tables: CoderTables) -> None:
    """A new schema version, and a column that goes without one, lead to another look at the columns."""
    await server.put_workspace_proxy(id=_EU, name="eu", url="https://eu.example.com", region_id=1)
    await _read(tables)
    await server.execute("ALTER TABLE workspace_proxies DROP COLUMN version")
    assert [proxy.version for proxy in await _read(tables)] == [""]
    await server.execute(
        "ALTER TABLE workspace_proxies ADD COLUMN version text NOT NULL DEFAULT 'v9.9.9';"
        " UPDATE schema_migrations SET version = version + 1"
    )
    await server.create_role()
    assert [proxy.version for proxy in await _read(tables)] == ["v9.9.9"]


async def test_reads_without_the_optional_grants(server: PostgresServer, tables: CoderTables) -> None:
    """With the list of proxies alone, all but `stopped` is known."""
    await server.put_workspace_proxy(id=_EU, name="eu", url="https://eu.example.com", region_id=1)
    await server.put_replica(id=str(uuid.uuid4()), region_id=10001, primary=False, stopped=True)
    await server.execute(
        "REVOKE SELECT (version, dirty) ON schema_migrations FROM coder_exporter;"
        ' REVOKE SELECT (region_id, "primary") ON replicas FROM coder_exporter'
    )
    for _ in range(2):
        (proxy,) = await _read(tables)
        assert (proxy.name, proxy.stopped) == ("eu", None)


async def test_a_long_list_is_cut(server: PostgresServer, tables: CoderTables) -> None:
    """No more than 500 are returned, and that is told."""
    await server.execute(
        "INSERT INTO workspace_proxies (id, name, region_id)"
        f" SELECT gen_random_uuid(), to_char(n, '0000'), n FROM generate_series(1, {MAX_PROXIES + 1}) AS n"
    )
    assert len(await _read(tables)) == MAX_PROXIES
    assert tables.cut
    await server.execute("DELETE FROM workspace_proxies WHERE region_id = 1")
    assert len(await _read(tables)) == MAX_PROXIES
    assert not tables.cut


async def test_a_connection_that_broke_is_opened_anew(server: PostgresServer, tables: CoderTables) -> None:
    """The read after a lost connection works; without a server it is an outage."""
    await _read(tables)
    await server.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'coder_exporter'")
    assert await _read(tables) == ()
    await server.stop()
    try:
        with pytest.raises(ConnectError):
            await _read(tables)
    finally:
        await server.start()
