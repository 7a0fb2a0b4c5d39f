"""The table `replicas`, as servers of several ages and grants have it."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Iterator

import pytest

from exporter.demo.postgres import PostgresServer
from exporter.errors import AuthError, ConnectError
from exporter.health.replica import ListedReplica
from exporter.net.coder_replicas import MAX_ROWS, ReplicaTable
from tests.support.postgres import INSTALLATIONS, PATIENCE_SECONDS, make_session, name_installation, run_server


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
async def table(server: PostgresServer) -> AsyncIterator[ReplicaTable]:
    """Reads with the exporter's role."""
    made = ReplicaTable(make_session(server.exporter_url))
    yield made
    await made.close()


async def _read(table: ReplicaTable) -> tuple[ListedReplica, ...]:
    rows = await table.read(timeout_seconds=PATIENCE_SECONDS)
    assert rows is not None
    return rows


async def _put(
    server: PostgresServer, name: str, *, primary: bool = True, stopped: bool = False, age_seconds: float = 0.0
) -> str:
    replica_id = str(uuid.uuid5(uuid.NAMESPACE_URL, name))
    await server.execute(
        'INSERT INTO replicas (id, region_id, hostname, relay_address, "primary", stopped_at, updated_at, version,'
        " error, database_latency, created_at) VALUES ($1::text::uuid, 999, $2, $3, $4,"
        " CASE WHEN $5 THEN now() END, now() - make_interval(secs => $6), 'v2.26.0', 'peer', 43,"
        " timestamptz '2026-11-21 05:27:24+00')",
        *(replica_id, name, f"http://{name}:8080", primary, stopped, age_seconds),
    )
    return replica_id


async def test_a_row_is_told_whole(server: PostgresServer, table: ReplicaTable) -> None:
    """Hostname, relay address, what it says of itself, and its ping in seconds."""
    assert () == await _read(table)
    replica_id = await _put(server, "coderd-0")
    assert (
        ListedReplica(
            id=replica_id,
            hostname="coderd-0",
            relay_address="http://coderd-0:8080",
            primary=True,
            running=True,
            error="peer",
            version="v2.26.0",
            database_latency_seconds=43e-6,
            created_timestamp_seconds=1795238844.0,
        ),
    ) == await _read(table)


@pytest.mark.parametrize(
    ("expected", "primary", "stopped", "age_seconds"),
    [
        (True, True, False, 8.0),
        (False, True, False, 16.0),
        (False, True, True, 0.0),
        # a proxy writes three times as seldom
        (True, False, False, 30.0),
        (False, False, False, 46.0),
        (False, False, True, 0.0),
    ],
)
async def test_who_runs(
    server: PostgresServer, table: ReplicaTable, expected: bool, primary: bool, stopped: bool, age_seconds: float
) -> None:
    """Who was not stopped, and wrote the row lately by the database's own clock."""
    await _put(server, "r", primary=primary, stopped=stopped, age_seconds=age_seconds)
    (row,) = await _read(table)
    assert (expected, primary) == (row.running, row.primary)


async def test_an_older_schema(server: PostgresServer, table: ReplicaTable) -> None:
    """What a server does not have yet reads as if it were not set; without `primary` all are coderd's."""
    await server.execute(
        'ALTER TABLE replicas DROP COLUMN "primary", DROP COLUMN version, DROP COLUMN error,'
        " DROP COLUMN database_latency, DROP COLUMN created_at;"
        " INSERT INTO replicas (id, region_id, hostname) VALUES (gen_random_uuid(), 1, 'old')"
    )
    (row,) = await _read(table)
    assert ("old", True, True, "", "") == (row.hostname, row.primary, row.running, row.version, row.error)
    assert (None, 0.0) == (row.database_latency_seconds, row.created_timestamp_seconds)


async def test_a_replica_that_has_not_pinged_yet(server: PostgresServer, table: ReplicaTable) -> None:
    """Zero is no latency."""
    await server.execute("INSERT INTO replicas (id, region_id) VALUES (gen_random_uuid(), 1)")
    (row,) = await _read(table)
    assert row.database_latency_seconds is None


async def test_how_and_when_it_ended(server: PostgresServer, table: ReplicaTable) -> None:
    """Who was stopped is told from who only fell silent, and for how long, by the database's own clock."""
    await _put(server, "stopped", stopped=True, age_seconds=20.0)
    await _put(server, "silent", age_seconds=100.0)
    rows = {row.hostname: row for row in await _read(table)}
    assert (True, False) == (rows["stopped"].stopped, rows["silent"].stopped)
    silent, updated = rows["silent"].silent_seconds, rows["silent"].updated_timestamp_seconds
    assert silent is not None
    assert updated is not None
    assert 100.0 <= silent <= 100.0 + PATIENCE_SECONDS
    assert 80.0 == pytest.approx((rows["stopped"].updated_timestamp_seconds or 0.0) - updated, abs=PATIENCE_SECONDS)


async def test_what_no_coder_writes(server: PostgresServer, table: ReplicaTable) -> None:
    """Null where it is never null, and times without end: such a row does not run, and breaks nothing."""
    columns = ("hostname", "relay_address", "version", "error", '"primary"', "updated_at", "created_at")
    await server.execute(
        "".join(f"ALTER TABLE replicas ALTER COLUMN {column} DROP NOT NULL;" for column in columns)
        + 'INSERT INTO replicas (id, region_id, hostname, relay_address, version, error, "primary", updated_at,'
        " created_at) SELECT gen_random_uuid(), 1, NULL, NULL, NULL, NULL, NULL, NULL, NULL;"
        " INSERT INTO replicas (id, region_id, hostname, updated_at, created_at)"
        " SELECT gen_random_uuid(), 1, when_seen, when_seen::timestamptz, when_seen::timestamptz"
        " FROM unnest(ARRAY['infinity', '-infinity']) AS when_seen"
    )
    rows = {row.hostname: row for row in await _read(table)}
    assert ("", "", "", False, False, None) == (
        rows[""].relay_address,
        rows[""].version,
        rows[""].error,
        rows[""].primary,
        rows[""].running,
        rows[""].updated_timestamp_seconds,
    )
    assert {"infinity": True, "-infinity": False, "": False} == {name: row.running for name, row in rows.items()}


async def test_a_server_without_the_table(server: PostgresServer, table: ReplicaTable) -> None:
    """It has none to tell of, which is not the same as an empty one."""
    await server.execute("DROP TABLE replicas")
    assert await table.read(timeout_seconds=PATIENCE_SECONDS) is None


@pytest.mark.parametrize("column", ["hostname", "relay_address", "stopped_at", "updated_at", "primary"])
async def test_a_missing_grant_is_told_apart(server: PostgresServer, table: ReplicaTable, column: str) -> None:
    """Permission denied names what to do. Who may not see which rows are proxies' takes none for a
    replica of coderd."""
    await _put(server, "proxy", primary=False)
    await _read(table)
    await server.execute(f'REVOKE SELECT ("{column}") ON replicas FROM coder_exporter')
    for _ in range(2):
        with pytest.raises(AuthError) as caught:
            await _read(table)
        assert "deploy/postgres-role.sql" in caught.value.message
    await server.create_role()
    assert ["proxy"] == [row.hostname for row in await _read(table)]


async def test_reads_without_the_optional_grants(server: PostgresServer, table: ReplicaTable) -> None:
    """Where it answers and who it is are enough."""
    await _put(server, "coderd-0")
    await server.execute(
        "REVOKE SELECT (version, dirty) ON schema_migrations FROM coder_exporter;"
        " REVOKE SELECT (version, error, database_latency, created_at) ON replicas FROM coder_exporter"
    )
    for _ in range(2):
        (row,) = await _read(table)
        assert ("coderd-0", "", True) == (row.hostname, row.version, row.running)


async def test_a_long_list_is_cut(server: PostgresServer, table: ReplicaTable) -> None:
    """Those that run come first, so that rows not cleaned up hide none of them; texts have a bound."""
    await server.execute(
        "INSERT INTO replicas (id, region_id, hostname, stopped_at)"
        f" SELECT gen_random_uuid(), 1, repeat('x', 5000), now() FROM generate_series(1, {MAX_ROWS})"
    )
    await _put(server, "alive", age_seconds=5.0)
    rows = await _read(table)
    assert (MAX_ROWS, "alive", 300) == (len(rows), rows[0].hostname, len(rows[1].hostname))


async def test_a_connection_that_broke_is_opened_anew(server: PostgresServer, table: ReplicaTable) -> None:
    """The read after a lost connection works; without a server it is an outage."""
    await _read(table)
    await server.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'coder_exporter'")
    assert () == await _read(table)
    await server.stop()
    try:
        with pytest.raises(ConnectError):
            await _read(table)
    finally:
        await server.start()
