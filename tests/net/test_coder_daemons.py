"""Provisioner daemons and waiting jobs in real tables, as servers of several ages and grants have them."""

from __future__ import annotations

import csv
import json
import re
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from exporter.demo.fault_proxy import Delay, FaultProxy
from exporter.demo.postgres import PostgresServer
from exporter.errors import AuthError, ConnectError, DeadlineError, ProtocolError
from exporter.health.provisioner_daemons import OrganizationDaemons
from exporter.net import coder_daemons
from exporter.net.coder_daemons import DaemonTables, ListedDaemons
from tests.support.postgres import INSTALLATIONS, PATIENCE_SECONDS, make_session, name_installation, run_server

DATA = Path(__file__).parents[1] / "data" / "coder"
DEFAULT = "c7b58c7d-e615-412e-987b-21182b096a39"
OTHER = "0e4a4d4e-5f9d-4b06-9a43-9a2a8e7f3b11"
KEY = "00000000-0000-0000-0000-000000000001"
UNTAGGED = {"scope": "organization", "owner": ""}


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
async def tables(server: PostgresServer) -> AsyncIterator[DaemonTables]:
    """Reads with the exporter's role."""
    made = DaemonTables(make_session(server.exporter_url))
    yield made
    await made.close()


async def put_daemon(
    server: PostgresServer,
    name: str,
    *,
    age_seconds: float | None = 0.0,
    organization_id: str = DEFAULT,
    version: str = "v2.26.0",
    tags: dict[str, str] | None = None,
) -> None:
    await server.execute(
        "INSERT INTO provisioner_daemons (id, name, provisioners, tags, last_seen_at, version, api_version,"
        " organization_id, key_id) VALUES ($1::text::uuid, $2, '{terraform}', $3::text::jsonb,"
        " clock_timestamp() - $4::float8 * interval '1 second', $5, '1.9', $6::text::uuid, $7::text::uuid)",
        *(str(uuid.uuid4()), name, json.dumps(UNTAGGED if tags is None else tags), age_seconds, version),
        *(organization_id, KEY),
    )


async def put_job(
    server: PostgresServer,
    *,
    tags: dict[str, str] | None = None,
    ended: str = "",
    age_seconds: float = 0.0,
    kind: str = "terraform",
    organization_id: str = DEFAULT,
) -> None:
    more = f", {ended}" if ended else ""
    value = ", now()" if ended else ""
    await server.execute(
        "INSERT INTO provisioner_jobs (id, organization_id, initiator_id, provisioner, storage_method, type, file_id,"
        f" tags, created_at{more}) VALUES (gen_random_uuid(), '{organization_id}', gen_random_uuid(),"
        " $1::text::provisioner_type, 'file', 'workspace_build', gen_random_uuid(), $2::text::jsonb,"
        f" clock_timestamp() - $3::float8 * interval '1 second'{value})",
        *(kind, json.dumps(UNTAGGED if tags is None else tags), age_seconds),
    )


async def read(tables: DaemonTables, stale_after_seconds: float = 90.0) -> ListedDaemons:
    listed = await tables.read(stale_after_seconds=stale_after_seconds, timeout_seconds=PATIENCE_SECONDS)
    assert listed is not None
    return listed


async def test_daemons_are_counted_by_when_they_were_seen(server: PostgresServer, tables: DaemonTables) -> None:
    """By the database's clock; who was seen in the future was seen now; who is stale is only counted."""
    await put_daemon(server, "here", age_seconds=60.0)
    await put_daemon(server, "future", age_seconds=-3600.0)
    await put_daemon(server, "gone", age_seconds=91.0)
    await put_daemon(server, "never", age_seconds=None)
    listed = await read(tables)
    assert (OrganizationDaemons(organization="coder", recent=2, stale=1, never=1),) == listed.organizations
    assert ["future", "here"] == [daemon.name for daemon in listed.recent]
    assert 0.0 == listed.recent[0].age_seconds
    assert 60.0 <= listed.recent[1].age_seconds <= 90.0
    assert (True, False) == (listed.liveness_known, listed.cut)
    assert [3] == [one.recent for one in (await read(tables, stale_after_seconds=300.0)).organizations]


async def test_connecting_and_asking_share_one_limit(server: PostgresServer) -> None:
    """Of a slow line too: what the login has taken, the questions do not have."""
    async with FaultProxy(server.host, server.port) as line:
        await line.break_with(Delay(to_client_seconds=0.8))
        url = server.make_url(user="coder", password=server.superuser_password, port=line.port, query="sslmode=disable")
        tables = DaemonTables(make_session(url))
        with pytest.raises(DeadlineError) as caught:
            await tables.read(stale_after_seconds=90.0, timeout_seconds=5.0)
        await tables.close()
    told = re.search(r"asking PostgreSQL at \S+: no answer within ([\d.]+) s", caught.value.message)
    assert told is not None, caught.value.message
    assert 5.0 - 0.8 >= float(told[1])


async def test_the_row_of_a_real_daemon(server: PostgresServer, tables: DaemonTables) -> None:
    """All that is judged comes out as it stands in the row."""
    (row,) = csv.DictReader((DATA / "provisioner_daemons-rows.csv").read_text().splitlines())
    await server.execute(
        "INSERT INTO provisioner_daemons (id, name, provisioners, tags, last_seen_at, version, api_version,"
        " organization_id, key_id) VALUES ($1::text::uuid, $2, $3::text::provisioner_type[], $4::text::jsonb, now(),"
        " $5, $6, $7::text::uuid, $8::text::uuid)",
        *(row["id"], row["name"], row["provisioners"], row["tags"], row["version"], row["api_version"]),
        *(row["organization_id"], row["key_id"]),
    )
    (daemon,) = (await read(tables)).recent
    assert (row["id"], "vm-0", "v2.26.0", "1.9") == (daemon.id, daemon.name, daemon.version, daemon.api_version)
    assert (DEFAULT, "coder") == (daemon.organization_id, daemon.organization)
    assert (UNTAGGED, ("echo",)) == (daemon.tags, daemon.provisioners)


async def test_organizations(server: PostgresServer, tables: DaemonTables) -> None:
    """By name; one without daemons has zeros, a deleted one is there only while it has daemons."""
    await server.execute(
        f"INSERT INTO organizations (id, name, deleted) VALUES ('{OTHER}', 'apart', false),"
        f" ('{uuid.uuid4()}', 'deleted', true)"
    )
    await put_daemon(server, "one")
    listed = await read(tables)
    assert [("apart", 0), ("coder", 1)] == [(one.organization, one.total) for one in listed.organizations]
    await server.execute("UPDATE organizations SET deleted = true")
    await put_daemon(server, "two", organization_id=OTHER)
    assert [("apart", 1), ("coder", 1)] == [(one.organization, one.total) for one in (await read(tables)).organizations]


async def test_waiting_jobs(server: PostgresServer, tables: DaemonTables) -> None:
    """Those that nobody has begun and nobody called off, by organization, kind and tags, the oldest first."""
    big = UNTAGGED | {"size": "big"}
    await put_job(server, age_seconds=10.0)
    await put_job(server, age_seconds=300.0)
    await put_job(server, tags=big, age_seconds=600.0)
    await put_job(server, tags=big, kind="echo", age_seconds=-5.0)
    for ended in ("started_at", "canceled_at", "completed_at"):
        await put_job(server, ended=ended, tags={"done": ended})
    jobs = (await read(tables)).jobs
    assert jobs is not None
    assert [(big, "terraform", 1), (UNTAGGED, "terraform", 2), (big, "echo", 1)] == [
        (one.tags, one.provisioner, one.count) for one in jobs
    ]
    assert (600.0, 300.0, 0.0) == tuple(one.oldest_seconds // 100 * 100 for one in jobs)
    assert {(DEFAULT, "coder")} == {(one.organization_id, one.organization) for one in jobs}


async def test_an_empty_deployment(tables: DaemonTables) -> None:
    """No daemon and no job are known as such."""
    listed = await read(tables)
    assert (0, (), ()) == (sum(one.total for one in listed.organizations), listed.recent, listed.jobs)


async def test_a_server_without_the_table(server: PostgresServer, tables: DaemonTables) -> None:
    """It is told apart from a table without rows, and from one that is hidden."""
    await server.execute("DROP TABLE provisioner_daemons")
    assert await tables.read(stale_after_seconds=90.0, timeout_seconds=PATIENCE_SECONDS) is None


# older schemas


async def test_a_schema_before_daemons_were_seen(server: PostgresServer, tables: DaemonTables) -> None:
    """Before December 2023: how many there are is known, and nothing else of them is judged."""
    await put_daemon(server, "old")
    await server.execute(
        "ALTER TABLE provisioner_daemons DROP COLUMN last_seen_at, DROP COLUMN version, DROP COLUMN api_version,"
        " DROP COLUMN organization_id, DROP COLUMN key_id"
    )
    listed = await read(tables)
    assert (False, ()) == (listed.liveness_known, listed.recent)
    assert (OrganizationDaemons(organization="coder", never=1),) == listed.organizations


async def test_a_schema_before_api_versions_and_organizations(server: PostgresServer, tables: DaemonTables) -> None:
    """What is missing has the default that the migration gives it; the organization is the default one."""
    await put_daemon(server, "old")
    await server.execute(
        "ALTER TABLE provisioner_daemons DROP COLUMN api_version, DROP COLUMN organization_id;"
        " ALTER TABLE organizations DROP COLUMN deleted"
    )
    (daemon,) = (await read(tables)).recent
    assert ("v2.26.0", "1.0") == (daemon.version, daemon.api_version)
    assert (DEFAULT, "coder") == (daemon.organization_id, daemon.organization)


@pytest.mark.parametrize(("migration", "expected"), [(183, "1.0"), (184, "v1.0"), (362, "v1.0")])
async def test_the_one_schema_with_prefixed_api_versions(
    server: PostgresServer, tables: DaemonTables, migration: int, expected: str
) -> None:
    """For one step they had a v, which is no fault there and one ever after."""
    await put_daemon(server, "old")
    await server.execute(
        f"UPDATE schema_migrations SET version = {migration}; UPDATE provisioner_daemons SET api_version = 'v1.0'"
    )
    assert [expected] == [daemon.api_version for daemon in (await read(tables)).recent]


# grants


@pytest.mark.parametrize(
    "statement",
    [
        "REVOKE SELECT (id) ON provisioner_daemons FROM coder_exporter",
        # a migration that dropped the table and created it anew
        "ALTER TABLE provisioner_daemons RENAME TO before; CREATE TABLE provisioner_daemons (LIKE before INCLUDING"
        " ALL); DROP TABLE before; UPDATE schema_migrations SET version = version + 1",
    ],
)
async def test_a_missing_grant_is_told_apart(server: PostgresServer, tables: DaemonTables, statement: str) -> None:
    """Permission denied names what to do; once granted anew, it reads again."""
    await read(tables)
    await server.execute(statement)
    with pytest.raises(AuthError, match=r"provisioner_daemons; run deploy/postgres-role\.sql"):
        await read(tables)
    await server.create_role()
    assert () == (await read(tables)).recent


async def test_reads_without_the_optional_grants(server: PostgresServer, tables: DaemonTables) -> None:
    """An organization is called by its id, and jobs are not known; a grant that comes later is noticed."""
    await put_daemon(server, "one")
    await put_job(server)
    await server.execute(
        "REVOKE SELECT (name) ON organizations FROM coder_exporter;"
        " REVOKE SELECT (tags) ON provisioner_jobs FROM coder_exporter;"
        " REVOKE SELECT (version, dirty) ON schema_migrations FROM coder_exporter"
    )
    for _ in range(2):
        listed = await read(tables)
        assert ([DEFAULT], None) == ([one.organization for one in listed.organizations], listed.jobs)
    await server.create_role()
    listed = await read(tables)
    assert listed.jobs is not None
    assert (["coder"], 1) == ([one.organization for one in listed.organizations], len(listed.jobs))


@pytest.mark.parametrize("column", ["tags", "provisioners", "version", "api_version", "organization_id"])
async def test_a_column_that_is_hidden_is_no_column_that_is_missing(
    server: PostgresServer, tables: DaemonTables, column: str
) -> None:
    """What stands for it says nothing of a daemon, and nobody knows who takes a job without its tags or its
    organization; once granted, it is read."""
    await put_daemon(server, "one")
    await put_job(server)
    assert frozenset() == (await read(tables)).hidden
    await server.execute(f"REVOKE SELECT ({column}) ON provisioner_daemons FROM coder_exporter")
    for _ in range(2):
        listed = await read(tables)
        assert ({column}, 1) == (listed.hidden, len(listed.recent))
        assert (column in ("tags", "organization_id")) is (listed.jobs is None)
    await server.create_role()
    listed = await read(tables)
    assert (frozenset(), True) == (listed.hidden, listed.jobs is not None)


async def test_the_kind_of_a_job_is_optional(server: PostgresServer, tables: DaemonTables) -> None:
    """A role that was made before it was granted still tells what waits."""
    await put_job(server)
    await server.execute("REVOKE SELECT (provisioner) ON provisioner_jobs FROM coder_exporter")
    jobs = (await read(tables)).jobs
    assert jobs is not None
    assert [None] == [one.provisioner for one in jobs]


# limits and trouble


async def test_what_is_too_much_is_cut(
    server: PostgresServer, tables: DaemonTables, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counts stay whole; that daemons were left out is told."""
    monkeypatch.setattr(coder_daemons, "MAX_RECENT", 2)
    for name in ("a", "b", "c"):
        await put_daemon(server, name)
    listed = await read(tables)
    assert (["a", "b"], True, 3) == (
        [daemon.name for daemon in listed.recent],
        listed.cut,
        sum(one.recent for one in listed.organizations),
    )


async def test_what_no_coder_writes(server: PostgresServer, tables: DaemonTables) -> None:
    """Null where it is never null is what a server without the column would have, and times may have no end."""
    of_daemons = ("name", "provisioners", "tags", "version", "api_version", "organization_id", "key_id")
    columns = {"provisioner_daemons": of_daemons, "provisioner_jobs": ("tags",), "organizations": ("name",)}
    await server.execute(
        "".join(
            f"ALTER TABLE {table} ALTER COLUMN {column} DROP NOT NULL;"
            for table, names in columns.items()
            for column in names
        )
        + "INSERT INTO provisioner_daemons (id, name, provisioners, tags, last_seen_at, version, api_version,"
        " organization_id) SELECT gen_random_uuid(), NULL, NULL, NULL, when_seen::timestamptz, NULL, NULL, NULL"
        " FROM unnest(ARRAY['infinity', '-infinity', NULL]) AS when_seen;"
    )
    await put_job(server)
    await server.execute("UPDATE provisioner_jobs SET tags = NULL, created_at = '-infinity'")
    await server.execute(f"INSERT INTO organizations (id, name) VALUES ('{OTHER}', NULL)")
    listed = await read(tables)
    (daemon,) = listed.recent
    assert ("", {}, (), "", "1.0", DEFAULT, 0.0) == (
        daemon.name,
        daemon.tags,
        daemon.provisioners,
        daemon.version,
        daemon.api_version,
        daemon.organization_id,
        daemon.age_seconds,
    )
    assert {"": (0, 0, 0), "coder": (1, 1, 1)} == {
        one.organization: (one.recent, one.stale, one.never) for one in listed.organizations
    }
    assert listed.jobs is not None
    assert [{}] == [one.tags for one in listed.jobs]


async def test_jobs_of_a_deleted_organization(server: PostgresServer, tables: DaemonTables) -> None:
    """They wait for ever, and for nobody."""
    await server.execute(f"INSERT INTO organizations (id, name, deleted) VALUES ('{OTHER}', 'gone', true)")
    await put_job(server, organization_id=OTHER)
    await put_job(server)
    jobs = (await read(tables)).jobs
    assert jobs is not None
    assert ["coder"] == [one.organization for one in jobs]


async def test_tags_that_are_none(server: PostgresServer, tables: DaemonTables) -> None:
    """A row that no Coder writes is a trouble with words, not a crash."""
    await put_daemon(server, "odd")
    await server.execute("UPDATE provisioner_daemons SET tags = '[1]'")
    with pytest.raises(ProtocolError, match="tags"):
        await read(tables)


async def test_a_connection_that_broke_is_opened_anew(server: PostgresServer, tables: DaemonTables) -> None:
    """The read after a lost connection works; without a server it is an outage."""
    await read(tables)
    await server.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'coder_exporter'")
    await read(tables)
    await server.stop()
    try:
        with pytest.raises(ConnectError):
            await read(tables)
    finally:
        await server.start()
