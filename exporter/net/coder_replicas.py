"""The table `replicas`, as far as this server has it and our role may see it.

In: a session with Coder's database. Out: every row, of coderd and of workspace proxies, with what is
running told by the database's own clock, so that skew between hosts does not matter.

Source: coder-interfaces, sections 4.2 to 4.5
"""

from __future__ import annotations

from typing import Any

import asyncpg

from exporter.health.replica import ListedReplica
from exporter.net.coder_columns import CoderReader, Columns, Wanted, refuse
from exporter.net.postgres import Session

# Ten times what Coder advises, with the rows of half an hour that were not cleaned up yet.
MAX_ROWS = 500
# A coderd writes its row every 5 s, a workspace proxy every 15 s; three beats.
PRIMARY_RECENT_SECONDS = 15.0
PROXY_RECENT_SECONDS = 45.0
MAX_TEXT_CHARACTERS = 300
MAX_URL_CHARACTERS = 2048

_REPLICAS = "replicas"
_WANTED: Wanted = {
    _REPLICAS: {
        "id": None,
        "hostname": None,
        "relay_address": None,
        "stopped_at": None,
        "updated_at": None,
        "created_at": "NULL",
        "version": "''",
        "error": "''",
        "database_latency": "NULL",
        "primary": None,
    },
}
_NEEDED = [name for name, other in _WANTED[_REPLICAS].items() if other is None]


class ReplicaTable:
    """Reads the table through a session of its own, opened when it is needed."""

    def __init__(self, session: Session) -> None:
        self._reader = CoderReader(session, _WANTED, needed=frozenset({_REPLICAS}))

    async def read(self, *, timeout_seconds: float) -> tuple[ListedReplica, ...] | None:
        """Return at most 500 rows, those that run and the newest first; None where this server has no
        such table.

        Raises:
            AuthError: The table is there, but our role may not read it; or no login.
            ProbeError: The database cannot be reached, or broke off.
        """
        return await self._reader.converse(self._read, timeout_seconds=timeout_seconds)

    async def close(self) -> None:
        """Close the session."""
        await self._reader.close()

    async def _read(self, connection: asyncpg.Connection) -> tuple[ListedReplica, ...] | None:
        # one transaction: through a pooler, statements outside one may go to different servers
        async with connection.transaction(readonly=True):
            columns = await self._reader.ask_columns(connection)
            if _REPLICAS not in columns.tables:
                return None
            hidden = {name for name in _NEEDED if not columns.has_column(_REPLICAS, name)}
            # older than July 2023 there are rows of coderd only; but who may not see which rows are
            # proxies' must not take all for coderd's
            old = hidden == {"primary"} and not columns.hides(_REPLICAS, "primary")
            if hidden and not old:
                raise refuse("reading the list of replicas", _REPLICAS)
            rows = await connection.fetch(_select(columns, primary="true" if old else '"primary"'))
        return tuple(_build(row) for row in rows)


def _select(columns: Columns, *, primary: str) -> str:
    def pick(name: str) -> str:
        return f"({columns.pick(_REPLICAS, name)})"

    def text(name: str, characters: int = MAX_TEXT_CHARACTERS) -> str:
        return f"coalesce(left({pick(name)}::text, {characters}), '') AS {name}"

    # none of them is ever null today; what says nothing is no primary, and does not run
    return (
        f"SELECT {text('id')}, {text('hostname')}, {text('relay_address', MAX_URL_CHARACTERS)}, {text('version')},"
        f" {text('error')}, coalesce({primary}, false) AS is_primary, stopped_at IS NOT NULL AS stopped,"
        f" {pick('database_latency')}::bigint AS latency_microseconds,"
        f" extract(epoch FROM {pick('created_at')}::timestamptz)::float8 AS created,"
        " extract(epoch FROM updated_at)::float8 AS updated,"
        " greatest(0, extract(epoch FROM clock_timestamp())::float8 - extract(epoch FROM updated_at)::float8)"
        " AS silent_seconds,"
        f" coalesce(stopped_at IS NULL AND updated_at >= clock_timestamp() - CASE WHEN {primary}"
        f" THEN interval '{PRIMARY_RECENT_SECONDS} seconds' ELSE interval '{PROXY_RECENT_SECONDS} seconds' END, false)"
        f" AS running FROM public.replicas ORDER BY running DESC, created DESC NULLS LAST, 1 LIMIT {MAX_ROWS}"
    )


def _build(row: Any) -> ListedReplica:
    latency = row["latency_microseconds"]
    return ListedReplica(
        id=row["id"],
        hostname=row["hostname"],
        relay_address=row["relay_address"],
        primary=row["is_primary"],
        running=row["running"],
        error=row["error"],
        version=row["version"],
        # a replica that has not pinged yet writes 0
        database_latency_seconds=latency / 1e6 if latency else None,
        created_timestamp_seconds=row["created"] or 0.0,
        stopped=row["stopped"],
        updated_timestamp_seconds=row["updated"],
        silent_seconds=row["silent_seconds"],
    )
