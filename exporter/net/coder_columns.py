"""Which columns of Coder's tables this server has and our role may read.

In: a session and the wanted columns. Out: what is readable, asked first and kept until the schema's
version moves; and conversations that are begun anew, once, when the columns are not what they were.

Source: coder-interfaces, section 4.4
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import asyncpg

from exporter.errors import AuthError, ConnectError, Phase, ProbeError
from exporter.net.postgres import Session

T = TypeVar("T")

# By table, what is wanted of it, and the SQL of what a server without the column would have in it;
# None for columns that make no sense to leave out.
Wanted = Mapping[str, Mapping[str, str | None]]

_VERSION_TABLE = "schema_migrations"
_CHANGED = (asyncpg.UndefinedColumnError, asyncpg.UndefinedTableError, asyncpg.InsufficientPrivilegeError)
_COLUMNS_SQL = (
    "SELECT table_name::text AS t, column_name::text AS c FROM information_schema.columns"
    " WHERE table_schema = 'public' AND table_name = ANY($1::text[])"
)
# The catalogue tells of columns that our role may not read, too.
_THERE_SQL = (
    "SELECT t, attname::text AS c FROM unnest($1::text[]) AS t JOIN pg_catalog.pg_attribute"
    " ON attrelid = pg_catalog.to_regclass('public.' || pg_catalog.quote_ident(t)) AND attnum > 0 AND NOT attisdropped"
)
_TABLES_SQL = (
    "SELECT t FROM unnest($1::text[]) AS t WHERE pg_catalog.to_regclass('public.' || pg_catalog.quote_ident(t))"
    " IS NOT NULL"
)
_VERSION_SQL = "SELECT max(version)::bigint FROM public.schema_migrations"


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """What can be read. `version` is that of the schema, None when it is not readable; `tables` are
    those that exist, readable or not; `hidden` are columns that are there, but not for our role."""

    version: int | None
    readable: frozenset[tuple[str, str]]
    hidden: frozenset[tuple[str, str]]
    tables: frozenset[str]
    wanted: Wanted

    def has(self, table: str) -> bool:
        """Whether everything that cannot be left out of a table is readable."""
        return all((table, name) in self.readable for name, other in self.wanted[table].items() if other is None)

    def has_column(self, table: str, name: str) -> bool:
        return (table, name) in self.readable

    def hides(self, table: str, *names: str) -> bool:
        """Whether one of these columns is there, but not for us: nothing can stand for it."""
        return any((table, name) in self.hidden for name in names)

    def pick(self, table: str, name: str) -> str:
        """Return the SQL of a wanted column: its name, else what stands for it."""
        other = self.wanted[table][name]
        return f'"{name}"' if other is None or self.has_column(table, name) else other


class CoderReader:
    """Conversations with Coder's database about columns that may differ from server to server.

    Args:
        wanted: What the conversations are about.
        needed: Tables that are looked at anew each time until all of them that there is can be read: a
            right that is granted later moves no schema version.
    """

    def __init__(self, session: Session, wanted: Wanted, *, needed: frozenset[str]) -> None:
        self._session = session
        self._wanted: Wanted = {**wanted, _VERSION_TABLE: {"version": None}}
        self._needed = needed
        self._columns: Columns | None = None

    async def converse(
        self, conversation: Callable[[asyncpg.Connection], Awaitable[T]], *, timeout_seconds: float
    ) -> T:
        """Connect where that is needed, and have a conversation, all of it within a time limit.

        Raises:
            ProbeError: The database cannot be reached, refuses us, or broke off.
        """
        kept, session = self._session.connected, self._session
        deadline = session.now() + timeout_seconds
        await session.connect(timeout_seconds=timeout_seconds)
        try:
            return await session.run(conversation, timeout_seconds=deadline - session.now())
        except ProbeError as error:
            # either the columns are not what they were (a migration, a grant that went), or the kept
            # connection broke while nobody looked: once more, with a fresh eye
            if not isinstance(error.__cause__, _CHANGED) and not (kept and isinstance(error, ConnectError)):
                raise
            self._columns = None
            if session.now() >= deadline:
                raise
        await session.connect(timeout_seconds=deadline - session.now())
        return await session.run(conversation, timeout_seconds=deadline - session.now())

    async def ask_columns(self, connection: asyncpg.Connection) -> Columns:
        """Return what can be read now; within a transaction of the conversation."""
        known = self._columns
        if known is not None and known.version is not None:
            version = await connection.fetchval(_VERSION_SQL)
            if version == known.version:
                return known
        found = await connection.fetch(_COLUMNS_SQL, list(self._wanted))
        readable = frozenset((row["t"], row["c"]) for row in found)
        version = None
        if (_VERSION_TABLE, "version") in readable:
            version = await connection.fetchval(_VERSION_SQL)
        tables = await connection.fetch(_TABLES_SQL, list(self._wanted))
        there = await connection.fetch(_THERE_SQL, list(self._wanted))
        columns = Columns(
            version=version,
            readable=readable,
            hidden=frozenset((row["t"], row["c"]) for row in there) - readable,
            tables=frozenset(row["t"] for row in tables),
            wanted=self._wanted,
        )
        complete = all(columns.has(table) and not columns.hides(table, *self._wanted[table]) for table in self._needed)
        self._columns = columns if complete else None
        return columns

    async def close(self) -> None:
        """Close the session."""
        await self._session.close()


def refuse(doing: str, table: str) -> AuthError:
    """Return the error of a table that is there and that our role may not read."""
    return AuthError(
        f"{doing}: permission denied for the table {table}; run deploy/postgres-role.sql again",
        phase=Phase.PROCESSING,
    )
