"""Coder's tables, read as far as this server has them and our role may see them.

In: a session with Coder's database. Out: the workspace proxies that the tables list. Tolerant of
older schemas and of missing grants: what is there is asked first, and then named column by column.

Source: coder-interfaces, sections 4.2 to 4.5
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import asyncpg

from exporter.errors import AuthError, ConnectError, Phase, ProbeError
from exporter.health.workspace_proxy import ListedProxy
from exporter.net.postgres import Session

MAX_PROXIES = 500
# Proxies write their row every 15 s; three beats. Source: coder-interfaces, section 4.5
REPLICA_RECENT_SECONDS = 45.0
# A proxy's relay has the number: highest region of the base map, plus 2000, rounded up to a
# multiple of 10 000, plus the proxy's own region_id. Source: coder-interfaces, section 2.5
_REGION_STEP = 10_000

# What is wanted of each table; what a server without the column would have in it. Columns without
# such a value are those that make no sense to leave out. Source: coder-interfaces, section 4.4
_WANTED: Mapping[str, Mapping[str, str | None]] = {
    "workspace_proxies": {
        "id": None,
        "name": None,
        "url": None,
        "deleted": "false",
        "version": "''",
        "updated_at": "''",
        "region_id": "NULL",
    },
    "replicas": {"region_id": None, "primary": None, "stopped_at": None, "updated_at": None},
    "schema_migrations": {"version": None},
}
_CHANGED = (asyncpg.UndefinedColumnError, asyncpg.UndefinedTableError, asyncpg.InsufficientPrivilegeError)
_EXISTS_SQL = "SELECT pg_catalog.to_regclass('public.' || $1::text) IS NOT NULL"
_COLUMNS_SQL = (
    "SELECT table_name::text AS t, column_name::text AS c FROM information_schema.columns"
    " WHERE table_schema = 'public' AND table_name = ANY($1::text[])"
)
_VERSION_SQL = "SELECT max(version)::bigint FROM public.schema_migrations"
# By proxy region: how many replicas are known, how many were stopped, how many run and are recent.
# Ages by the database's own clock, so that skew between hosts does not matter.
_REPLICAS_SQL = f"""
SELECT region_id::bigint AS region, count(*)::bigint AS known, count(stopped_at)::bigint AS stopped,
    count(*) FILTER (WHERE stopped_at IS NULL
        AND updated_at >= clock_timestamp() - interval '{REPLICA_RECENT_SECONDS} seconds')::bigint AS recent
FROM public.replicas WHERE NOT "primary" GROUP BY region_id
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Columns:
    """Which wanted columns can be read. `version` is that of the schema, None when not readable."""

    version: int | None
    readable: frozenset[tuple[str, str]]
    proxies_exist: bool

    def has(self, table: str) -> bool:
        """Whether everything that cannot be left out of a table is there."""
        return all((table, name) in self.readable for name, other in _WANTED[table].items() if other is None)


class CoderTables:
    """Reads the tables through a session of its own, opened when it is needed.

    `cut` is whether the last list held more proxies than are returned.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._columns: _Columns | None = None
        self.cut = False

    async def read_workspace_proxies(self, *, timeout_seconds: float) -> tuple[ListedProxy, ...]:
        """Return the proxies that are not deleted, by name, at most 500; none where this server has
        no such table.

        Raises:
            AuthError: The table is there, but our role may not read it; or no login.
            ProbeError: The database cannot be reached, or broke off.
        """
        kept = self._session.connected
        await self._session.connect(timeout_seconds=timeout_seconds)
        try:
            return await self._session.run(self._read, timeout_seconds=timeout_seconds)
        except ProbeError as error:
            # either the columns are not what they were (a migration, a grant that went), or the kept
            # connection broke while nobody looked: once more, with a fresh eye
            if not isinstance(error.__cause__, _CHANGED) and not (kept and isinstance(error, ConnectError)):
                raise
            self._columns = None
        await self._session.connect(timeout_seconds=timeout_seconds)
        return await self._session.run(self._read, timeout_seconds=timeout_seconds)

    async def close(self) -> None:
        """Close the session."""
        await self._session.close()

    async def _read(self, connection: asyncpg.Connection) -> tuple[ListedProxy, ...]:
        # one transaction: through a pooler, statements outside one may go to different servers
        async with connection.transaction(readonly=True):
            columns = self._columns = await self._ask_columns(connection)
            if not columns.proxies_exist:
                self.cut = False
                return ()
            if not columns.has("workspace_proxies"):
                # a right that is granted later moves no schema version: ask again next time
                self._columns = None
                raise AuthError(
                    "reading the list of workspace proxies: permission denied for the table workspace_proxies; "
                    "run deploy/postgres-role.sql again",
                    phase=Phase.PROCESSING,
                )
            rows = await connection.fetch(_select_proxies(columns.readable))
            replicas = await connection.fetch(_REPLICAS_SQL) if columns.has("replicas") else []
        self.cut = len(rows) > MAX_PROXIES
        return tuple(_build(row, _judge_stopped(row["region_id"], replicas)) for row in rows[:MAX_PROXIES])

    async def _ask_columns(self, connection: asyncpg.Connection) -> _Columns:
        known = self._columns
        if known is not None and known.version is not None:
            version = await connection.fetchval(_VERSION_SQL)
            if version == known.version:
                return known
        found = await connection.fetch(_COLUMNS_SQL, list(_WANTED))
        readable = frozenset((row["t"], row["c"]) for row in found)
        version = None
        if ("schema_migrations", "version") in readable:
            version = await connection.fetchval(_VERSION_SQL)
        return _Columns(
            version=version,
            readable=readable,
            proxies_exist=bool(await connection.fetchval(_EXISTS_SQL, "workspace_proxies")),
        )


def _select_proxies(readable: frozenset[tuple[str, str]]) -> str:
    casts = {"region_id": "bigint", "deleted": "boolean"}
    selected = ", ".join(
        f"({name if ('workspace_proxies', name) in readable else other})::{casts.get(name, 'text')} AS {name}"
        for name, other in _WANTED["workspace_proxies"].items()
    )
    where = "WHERE NOT deleted" if ("workspace_proxies", "deleted") in readable else ""
    return f"SELECT {selected} FROM public.workspace_proxies {where} ORDER BY 2, 1 LIMIT {MAX_PROXIES + 1}"


def _build(row: Any, stopped: bool | None) -> ListedProxy:
    return ListedProxy(
        id=row["id"],
        name=row["name"],
        url=row["url"],
        version=row["version"],
        updated_at=row["updated_at"],
        region_id=row["region_id"],
        stopped=stopped,
        source="tables",
    )


def _judge_stopped(region_id: int | None, replicas: list[Any]) -> bool | None:
    """Tell whether a proxy was stopped on purpose: it has rows, and each says so. A row that is
    neither stopped nor recent is a proxy that died, about which nothing is known."""
    if region_id is None:
        return None
    mine = [
        row
        for row in replicas
        if row["region"] - region_id >= _REGION_STEP and (row["region"] - region_id) % _REGION_STEP == 0
    ]
    if any(row["recent"] for row in mine):
        return False
    known = sum(row["known"] for row in mine)
    return True if known and known == sum(row["stopped"] for row in mine) else None
