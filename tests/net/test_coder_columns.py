"""What can be read of a table that may be of any age and grant, asked of a real PostgreSQL."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import asyncpg
import pytest

from exporter.demo.postgres import PostgresServer
from exporter.errors import AuthError, ConnectError, DeadlineError, Phase, ProbeError
from exporter.net.coder_columns import CoderReader, Columns, Wanted, refuse
from tests.support.postgres import INSTALLATIONS, PATIENCE_SECONDS, make_session, name_installation, run_server

WANTED: Wanted = {"widgets": {"name": None, "size": "7", "odd name": "NULL::text"}, "extras": {"note": None}}
ALL = {("widgets", "name"), ("widgets", "size"), ("widgets", "odd name"), ("extras", "note")}


@pytest.fixture(scope="module", params=INSTALLATIONS[:1], ids=name_installation)
def running(request: pytest.FixtureRequest) -> Iterator[PostgresServer]:
    """A running server."""
    yield from run_server(request.param)


@pytest.fixture
async def server(running: PostgresServer) -> PostgresServer:
    """That server with fresh tables, all of which the exporter's role may read."""
    await running.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    await running.create_schema()
    await running.create_role()
    await running.execute(
        'CREATE TABLE widgets (name text, size int DEFAULT 1, "odd name" text, secret text);'
        " CREATE TABLE extras (note text); INSERT INTO widgets (name, size) VALUES ('a', 3);"
        ' GRANT SELECT (name, size, "odd name") ON widgets TO coder_exporter; GRANT SELECT ON extras TO coder_exporter'
    )
    return running


@pytest.fixture
async def reader(server: PostgresServer) -> AsyncIterator[CoderReader]:
    """Talks with the exporter's role about both tables, of which one is needed."""
    made = CoderReader(make_session(server.exporter_url), WANTED, needed=frozenset({"widgets"}))
    yield made
    await made.close()


async def look(reader: CoderReader) -> Columns:
    return await reader.converse(reader.ask_columns, timeout_seconds=PATIENCE_SECONDS)


async def count_statements(reader: CoderReader) -> int:
    """Return how many questions a look takes: one alone when the columns are known."""
    asked: list[str] = []

    async def talk(connection: asyncpg.Connection) -> None:
        with connection.query_logger(lambda record: asked.append(record.query)):
            await reader.ask_columns(connection)
            await asyncio.sleep(0)  # loggers are called by the loop

    await reader.converse(talk, timeout_seconds=PATIENCE_SECONDS)
    return len(asked)


async def read_sizes(reader: CoderReader) -> list[int]:
    """Have a conversation that goes by the columns, as the readers of Coder's tables have it."""

    async def talk(connection: asyncpg.Connection) -> list[int]:
        columns = await reader.ask_columns(connection)
        rows = await connection.fetch(f"SELECT {columns.pick('widgets', 'size')} AS size FROM public.widgets")
        return [row["size"] for row in rows]

    return await reader.converse(talk, timeout_seconds=PATIENCE_SECONDS)


async def test_what_can_be_read(reader: CoderReader) -> None:
    """Wanted columns that are there stand by their quoted names; what was not wanted is not told by them."""
    columns = await look(reader)
    assert columns.readable >= ALL
    assert {"widgets", "extras", "schema_migrations"} == columns.tables
    assert columns.version is not None
    assert (True, True) == (columns.has("widgets"), columns.has("extras"))
    assert ['"name"', '"size"', '"odd name"'] == [columns.pick("widgets", name) for name in WANTED["widgets"]]


async def test_a_column_that_is_not_there_is_replaced(server: PostgresServer, reader: CoderReader) -> None:
    """What an older server lacks has a value of its own; what nothing can stand for makes the table useless."""
    await server.execute('ALTER TABLE widgets DROP COLUMN size, DROP COLUMN "odd name"')
    columns = await look(reader)
    assert (True, False) == (columns.has("widgets"), columns.has_column("widgets", "size"))
    assert ["7", "NULL::text"] == [columns.pick("widgets", name) for name in ("size", "odd name")]
    assert [7] == await read_sizes(reader)
    await server.execute("ALTER TABLE widgets DROP COLUMN name; UPDATE schema_migrations SET version = version + 1")
    assert not (await look(reader)).has("widgets")


async def test_a_column_without_a_grant_is_not_readable(server: PostgresServer, reader: CoderReader) -> None:
    """It is there all the same, which is told apart from one that is not."""
    await server.execute("REVOKE SELECT (size) ON widgets FROM coder_exporter; DROP TABLE extras")
    columns = await look(reader)
    assert (False, True) == (columns.has_column("widgets", "size"), columns.hides("widgets", "name", "size"))
    assert (False, False) == (columns.hides("widgets", "name"), columns.hides("extras", "note"))
    assert {"widgets", "schema_migrations"} == columns.tables
    await server.execute(
        "REVOKE SELECT ON widgets FROM coder_exporter; REVOKE ALL (name) ON widgets FROM coder_exporter"
    )
    columns = await look(reader)
    assert (False, True) == (columns.has("widgets"), "widgets" in columns.tables)


async def test_only_the_schema_public_counts(server: PostgresServer, reader: CoderReader) -> None:
    """Tables of the same name elsewhere are somebody else's."""
    await server.execute(
        "DROP TABLE extras; CREATE SCHEMA other; CREATE TABLE other.extras (note text);"
        " GRANT USAGE ON SCHEMA other TO coder_exporter; GRANT SELECT ON other.extras TO coder_exporter"
    )
    try:
        columns = await look(reader)
        assert (False, False) == (columns.has("extras"), "extras" in columns.tables)
    finally:
        await server.execute("DROP SCHEMA other CASCADE")


async def test_columns_are_asked_for_once(server: PostgresServer, reader: CoderReader) -> None:
    """Until the schema's version moves: then they are looked at again, and so is a grant that came with it."""
    first = await count_statements(reader)
    assert (1, 1) == (await count_statements(reader), await count_statements(reader))
    await server.execute("ALTER TABLE extras ADD COLUMN more text")
    assert ("extras", "more") not in (await look(reader)).readable
    await server.execute("UPDATE schema_migrations SET version = version + 1")
    assert first + 1 == await count_statements(reader)
    assert ("extras", "more") in (await look(reader)).readable


async def test_what_is_missing_is_looked_at_each_time(server: PostgresServer, reader: CoderReader) -> None:
    """A right that is granted later moves no version; of tables that are not needed nobody waits for it."""
    await server.execute("REVOKE SELECT ON extras FROM coder_exporter")
    await look(reader)
    assert 1 == await count_statements(reader)
    await server.execute(
        "REVOKE SELECT (name) ON widgets FROM coder_exporter; UPDATE schema_migrations SET version = version + 1"
    )
    assert not (await look(reader)).has("widgets")
    assert 1 < await count_statements(reader)
    await server.execute("GRANT SELECT (name) ON widgets TO coder_exporter")
    assert (await look(reader)).has("widgets")


async def test_without_a_version_columns_are_not_kept(server: PostgresServer, reader: CoderReader) -> None:
    """Where the version cannot be read, nobody could tell that they have changed."""
    await server.execute("REVOKE ALL ON schema_migrations FROM coder_exporter")
    await server.execute("REVOKE ALL (version, dirty) ON schema_migrations FROM coder_exporter")
    columns = await look(reader)
    assert (None, True) == (columns.version, columns.has("widgets"))
    assert 1 < await count_statements(reader)
    await server.execute("ALTER TABLE widgets DROP COLUMN size")
    assert [7] == await read_sizes(reader)


@pytest.mark.parametrize(
    ("statement", "sizes"),
    [
        ("ALTER TABLE widgets DROP COLUMN size", [7]),
        ("REVOKE SELECT (size) ON widgets FROM coder_exporter", [7]),
        ("UPDATE widgets SET size = 5", [5]),
    ],
)
async def test_a_change_without_a_new_version(
    server: PostgresServer, reader: CoderReader, statement: str, sizes: list[int]
) -> None:
    """The conversation that meets it is begun once more, with a fresh look at the columns."""
    assert [3] == await read_sizes(reader)
    await server.execute(statement)
    assert sizes == await read_sizes(reader)


async def test_a_conversation_is_begun_anew_only_once(server: PostgresServer, reader: CoderReader) -> None:
    """What cannot be read then either is an error, which says what the server said."""
    begun = 0

    async def talk(connection: asyncpg.Connection) -> None:
        nonlocal begun
        begun += 1
        await connection.fetch("SELECT secret FROM public.widgets")

    with pytest.raises(AuthError, match="permission denied"):
        await reader.converse(talk, timeout_seconds=PATIENCE_SECONDS)
    assert 2 == begun


async def test_other_errors_are_not_asked_again(reader: CoderReader) -> None:
    """A statement that is wrong, or that takes too long, was no matter of columns."""
    begun = 0

    async def talk(connection: asyncpg.Connection) -> None:
        nonlocal begun
        begun += 1
        await connection.fetch(statement)

    statement = "SELECT 1 / 0"
    with pytest.raises(ProbeError, match="division by zero"):
        await reader.converse(talk, timeout_seconds=PATIENCE_SECONDS)
    assert 1 == begun
    statement = "SELECT pg_sleep(20)"
    with pytest.raises(DeadlineError):
        await reader.converse(talk, timeout_seconds=0.5)
    assert 2 == begun


async def test_a_kept_connection_that_broke_is_opened_anew(server: PostgresServer, reader: CoderReader) -> None:
    """While nobody looked; without a server it is an outage."""
    assert [3] == await read_sizes(reader)
    await server.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'coder_exporter'")
    assert [3] == await read_sizes(reader)
    await server.stop()
    try:
        with pytest.raises(ConnectError):
            await read_sizes(reader)
    finally:
        await server.start()
    assert [3] == await read_sizes(reader)


def test_a_table_that_is_refused_is_told_with_what_to_do() -> None:
    """It is our role, not an outage."""
    error = refuse("reading the list", "widgets")
    assert Phase.PROCESSING is error.phase
    assert "reading the list: permission denied for the table widgets" in error.message
    assert "deploy/postgres-role.sql" in error.message
