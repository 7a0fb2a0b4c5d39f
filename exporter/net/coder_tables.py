"""Coder's tables, read as far as this server has them and our role may see them.

In: a session with Coder's database. Out: the workspace proxies that the tables list. Tolerant of
older schemas and of missing grants: what is there is asked first, and then named column by column.

Source: coder-interfaces, sections 4.2 to 4.5
"""

from __future__ import annotations

from typing import Any

import asyncpg

from exporter.health.workspace_proxy import ListedProxy
from exporter.net.coder_columns import CoderReader, Columns, Wanted, refuse
from exporter.net.postgres import Session

MAX_PROXIES = 500
# Proxies write their row every 15 s; three beats. Source: coder-interfaces, section 4.5
REPLICA_RECENT_SECONDS = 45.0
# A proxy's relay has the number: highest region of the base map, plus 2000, rounded up to a
# multiple of 10 000, plus the proxy's own region_id. Source: coder-interfaces, section 2.5
_REGION_STEP = 10_000

# What is wanted of each table; what a server without the column would have in it. Columns without
# such a value are those that make no sense to leave out. Source: coder-interfaces, section 4.4
_WANTED: Wanted = {
    "workspace_proxies": {
        "id": None,
        "name": None,
        "url": None,
        "deleted": "false",
        "version": "''",
        "updated_at": "''",
        "region_id": "NULL",
        "derp_enabled": "NULL",
    },
    "replicas": {"region_id": None, "primary": None, "stopped_at": None, "updated_at": None},
}
# By proxy region: how many replicas are known, how many were stopped, how many run and are recent.
# Ages by the database's own clock, so that skew between hosts does not matter.
_REPLICAS_SQL = f"""
SELECT region_id::bigint AS region, count(*)::bigint AS known, count(stopped_at)::bigint AS stopped,
    count(*) FILTER (WHERE stopped_at IS NULL
        AND updated_at >= clock_timestamp() - interval '{REPLICA_RECENT_SECONDS} seconds')::bigint AS recent
FROM public.replicas WHERE NOT "primary" GROUP BY region_id
"""


class CoderTables:
    """Reads the tables through a session of its own, opened when it is needed.

    `cut` is whether the last list held more proxies than are returned.
    """

    def __init__(self, session: Session) -> None:
        self._reader = CoderReader(session, _WANTED, needed=frozenset({"workspace_proxies"}))
        self.cut = False

    async def read_workspace_proxies(self, *, timeout_seconds: float) -> tuple[ListedProxy, ...]:
        """Return the proxies that are not deleted, by name, at most 500; none where this server has
        no such table.

        Raises:
            AuthError: The table is there, but our role may not read it; or no login.
            ProbeError: The database cannot be reached, or broke off.
        """
        return await self._reader.converse(self._read, timeout_seconds=timeout_seconds)

    async def close(self) -> None:
        """Close the session."""
        await self._reader.close()

    async def _read(self, connection: asyncpg.Connection) -> tuple[ListedProxy, ...]:
        # one transaction: through a pooler, statements outside one may go to different servers
        async with connection.transaction(readonly=True):
            columns = await self._reader.ask_columns(connection)
            if "workspace_proxies" not in columns.tables:
                self.cut = False
                return ()
            # who was deleted must not be taken for one that is down
            if not columns.has("workspace_proxies") or columns.hides("workspace_proxies", "deleted"):
                raise refuse("reading the list of workspace proxies", "workspace_proxies")
            rows = await connection.fetch(_select_proxies(columns))
            replicas = await connection.fetch(_REPLICAS_SQL) if columns.has("replicas") else []
        self.cut = len(rows) > MAX_PROXIES
        return tuple(_build(row, _judge_stopped(row["region_id"], replicas)) for row in rows[:MAX_PROXIES])


def _select_proxies(columns: Columns) -> str:
    casts = {"region_id": "bigint", "deleted": "boolean", "derp_enabled": "boolean"}
    selected = ", ".join(
        f"({columns.pick('workspace_proxies', name)})::{casts.get(name, 'text')} AS {name}"
        for name in _WANTED["workspace_proxies"]
    )
    where = "WHERE NOT deleted" if columns.has_column("workspace_proxies", "deleted") else ""
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
        derp_enabled=row["derp_enabled"],
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
