"""deploy/postgres-role.sql, run by psql on a real server."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from exporter.demo.postgres import PostgresServer
from exporter.errors import ExporterError
from tests.support.postgres import INSTALLATIONS, name_installation, run_server

_SCRIPT = Path(__file__).parents[2] / "deploy" / "postgres-role.sql"

_READABLE = {
    "workspace_proxies": "id name display_name url wildcard_hostname created_at updated_at deleted region_id"
    " derp_enabled derp_only version",
    "provisioner_daemons": "id created_at name provisioners tags last_seen_at version api_version organization_id"
    " key_id",
    "provisioner_jobs": "id organization_id created_at started_at completed_at canceled_at worker_id tags job_status"
    " provisioner",
    "provisioner_keys": "id name organization_id",
    "organizations": "id name display_name is_default deleted",
    "replicas": "id created_at started_at stopped_at updated_at hostname region_id relay_address database_latency"
    " version error primary",
    "tailnet_coordinators": "id heartbeat_at",
    "schema_migrations": "version dirty",
}


@pytest.fixture(scope="module", params=INSTALLATIONS, ids=name_installation)
def server(request: pytest.FixtureRequest) -> Iterator[PostgresServer]:
    """A running server of each installation, on which the script ran."""
    yield from run_server(request.param)


@pytest.fixture
async def connection(server: PostgresServer) -> AsyncIterator[Any]:
    """A connection of the exporter's role."""
    opened = await asyncpg.connect(server.exporter_url.reveal(), ssl=False)
    yield opened
    opened.terminate()


async def test_the_role_reads_what_the_exporter_reads(connection: Any) -> None:
    """Column by column, and the exporter's own question finds exactly these."""
    for table, columns in _READABLE.items():
        names = ", ".join(f'"{name}"' for name in columns.split())
        await connection.fetch(f"SELECT {names} FROM public.{table}")
    found = await connection.fetch(
        "SELECT table_name::text AS t, column_name::text AS c FROM information_schema.columns"
        " WHERE table_schema = 'public'"
    )
    expected = {(table, name) for table, columns in _READABLE.items() for name in columns.split()}
    assert expected == {(row["t"], row["c"]) for row in found}


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT * FROM workspace_proxies",
        "SELECT token_hashed_secret FROM workspace_proxies",
        "SELECT to_json(p) FROM workspace_proxies AS p",
        "SELECT hashed_secret FROM provisioner_keys",
        "SELECT input FROM provisioner_jobs",
        "SELECT * FROM pg_authid",
        "SELECT * FROM secrets_of_others",
        "BEGIN READ WRITE; UPDATE workspace_proxies SET deleted = true",
        "BEGIN READ WRITE; DELETE FROM replicas",
        "BEGIN READ WRITE; INSERT INTO tailnet_coordinators VALUES (gen_random_uuid())",
        "BEGIN READ WRITE; CREATE TABLE public.mine (id integer)",
        "COPY workspace_proxies TO PROGRAM 'cat'",
    ],
)
async def test_the_role_is_refused_everything_else(server: PostgresServer, connection: Any, statement: str) -> None:
    """Secrets, whole rows, other tables and writes: permission denied."""
    await server.execute("CREATE TABLE IF NOT EXISTS secrets_of_others (id integer)")
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await connection.execute(statement)


async def test_the_role_has_its_limits(server: PostgresServer, connection: Any) -> None:
    """Read-only by default, five seconds a statement, twelve connections, no powers."""
    assert await connection.fetchval("SHOW default_transaction_read_only") == "on"
    assert await connection.fetchval("SHOW statement_timeout") == "5s"
    async with server.connect() as superuser:
        role = await superuser.fetchrow(
            "SELECT rolconnlimit, rolsuper, rolcreatedb, rolcreaterole, rolinherit, rolreplication, rolbypassrls"
            " FROM pg_roles WHERE rolname = 'coder_exporter'"
        )
        assert tuple(role) == (12, False, False, False, False, False, False)
        assert await superuser.fetchval("SELECT count(*) FROM pg_views WHERE schemaname = 'public'") == 0


async def test_it_can_be_run_again(server: PostgresServer) -> None:
    """A second run changes the password and keeps the grants."""
    script = _SCRIPT.read_text()
    await server.run_psql(f"\\set password 'it''s new'\n\\set role second\n{script}")
    await server.run_psql(f"\\set password 'newer'\n\\set role second\n{script}")
    opened = await asyncpg.connect(
        host=server.host, port=server.port, user="second", password="newer", database="coder", ssl=False
    )
    assert await opened.fetchval("SELECT count(name) FROM workspace_proxies") == 0
    opened.terminate()


async def test_tables_that_are_not_there_are_left_out(server: PostgresServer) -> None:
    """On an older Coder the script grants what it finds, and it is all or nothing."""
    script = _SCRIPT.read_text()
    await server.execute("ALTER TABLE tailnet_coordinators RENAME TO elsewhere")
    try:
        await server.run_psql(f"\\set password 'x'\n\\set role third\n{script}")
    finally:
        await server.execute("ALTER TABLE elsewhere RENAME TO tailnet_coordinators")
    async with server.connect() as superuser:
        assert await superuser.fetchval("SELECT has_column_privilege('third', 'replicas', 'stopped_at', 'SELECT')")
    with pytest.raises(ExporterError):
        await server.run_psql(f"\\set password 'x'\n\\set role pg_not_allowed\n{script}")


def test_no_password_stands_in_the_script() -> None:
    """The password comes from a variable, or psql asks for it."""
    code = "\n".join(line for line in _SCRIPT.read_text().splitlines() if not line.startswith("--"))
    assert code.count("PASSWORD :'password'") == 1
    assert code.count("PASSWORD") == 1
