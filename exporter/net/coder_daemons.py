"""Provisioner daemons and waiting jobs in Coder's tables, as far as this server has them and our role
may see them.

In: a session with Coder's database. Out: counts by organization, the daemons seen lately, and the jobs
that nobody has begun. Ages are by the database's own clock, so that skew between hosts does not matter.

Source: coder-interfaces, sections 4.2 to 4.5; coderd/database/queries/provisionerjobs.sql
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import asyncpg

from exporter.errors import ProtocolError, WireError
from exporter.health.provisioner_daemons import MAX_RECENT, OrganizationDaemons, ProvisionerDaemon, WaitingJobs
from exporter.net import coder_json
from exporter.net.coder_columns import CoderReader, Columns, Wanted, refuse
from exporter.net.postgres import Session

# Kinds of waiting jobs: by organization, provisioner and tags.
MAX_WAITING = 200

# With this migration, and until the next, API versions were written with a v before them.
# Source: coder-interfaces, section 4.4
_PREFIXED_MIGRATION = 183

_DAEMONS, _ORGANIZATIONS, _JOBS = "provisioner_daemons", "organizations", "provisioner_jobs"
_WANTED: Wanted = {
    _DAEMONS: {
        "id": None,
        "name": None,
        "tags": "'{}'",
        "provisioners": "'{}'",
        "last_seen_at": "NULL",
        "version": "''",
        "api_version": "'1.0'",
        "organization_id": "NULL",
    },
    _ORGANIZATIONS: {"id": None, "name": None, "is_default": "false", "deleted": "false"},
    _JOBS: {
        "organization_id": None,
        "created_at": None,
        "started_at": None,
        "canceled_at": None,
        "completed_at": None,
        "tags": None,
        "provisioner": "NULL",
    },
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedDaemons:
    """What the tables say. `organizations` is by name; `liveness_known` False on servers that do not
    write down when a daemon was seen; `jobs` is None where they, or what tells who takes them, cannot be
    read; `cut`: more daemons were seen lately than are returned; `hidden`: what of a daemon is there, but
    not for our role, so that what stands for it says nothing."""

    organizations: tuple[OrganizationDaemons, ...]
    recent: tuple[ProvisionerDaemon, ...]
    liveness_known: bool
    jobs: tuple[WaitingJobs, ...] | None
    cut: bool
    hidden: frozenset[str] = frozenset()


class DaemonTables:
    """Reads the tables through a session of its own, opened when it is needed."""

    def __init__(self, session: Session) -> None:
        self._reader = CoderReader(session, _WANTED, needed=frozenset(_WANTED))

    async def read(self, *, stale_after_seconds: float, timeout_seconds: float) -> ListedDaemons | None:
        """Return what is there; None where this server has no such table.

        Args:
            stale_after_seconds: Who was seen at most so long ago is recent.

        Raises:
            AuthError: The table is there, but our role may not read it; or no login.
            ProbeError: The database cannot be reached, or broke off.
        """

        async def read(connection: asyncpg.Connection) -> ListedDaemons | None:
            # one view of the data for all questions, and through a pooler one server
            async with connection.transaction(isolation="repeatable_read", readonly=True):
                return await self._read(connection, stale_after_seconds)

        return await self._reader.converse(read, timeout_seconds=timeout_seconds)

    async def close(self) -> None:
        """Close the session."""
        await self._reader.close()

    async def _read(self, connection: asyncpg.Connection, stale_after_seconds: float) -> ListedDaemons | None:
        columns = await self._reader.ask_columns(connection)
        if _DAEMONS not in columns.tables:
            return None
        if not columns.has(_DAEMONS):
            raise refuse("reading the list of provisioner daemons", _DAEMONS)
        names = _Names(await connection.fetch(_select_organizations(columns)) if columns.has(_ORGANIZATIONS) else [])
        now = await connection.fetchval("SELECT clock_timestamp()")
        counts = await connection.fetch(_count_daemons(columns), stale_after_seconds, now)
        rows = await connection.fetch(_select_recent(columns), stale_after_seconds, now)
        takers_known = not columns.hides(_DAEMONS, "tags", "organization_id")
        jobs = await connection.fetch(_select_jobs(columns)) if takers_known and columns.has(_JOBS) else None
        prefixed = columns.version == _PREFIXED_MIGRATION
        try:
            return ListedDaemons(
                organizations=names.count(counts),
                recent=tuple(_build_daemon(row, names, prefixed=prefixed) for row in rows[:MAX_RECENT]),
                liveness_known=columns.has_column(_DAEMONS, "last_seen_at"),
                jobs=None if jobs is None else tuple(_build_jobs(row, names) for row in jobs if names.is_there(row)),
                cut=len(rows) > MAX_RECENT,
                hidden=frozenset(name for name in _WANTED[_DAEMONS] if columns.hides(_DAEMONS, name)),
            )
        except WireError as error:
            raise ProtocolError(f"reading the list of provisioner daemons: {error}") from error


class _Names:
    """Organizations by id. One whose name cannot be read is called by its id; a row of a server
    without organizations belongs to the default one."""

    def __init__(self, rows: list[Any]) -> None:
        self._names: dict[str, str] = {row["id"]: row["name"] for row in rows}
        self._deleted = {row["id"] for row in rows if row["deleted"]}
        self._shown = self._names.keys() - self._deleted
        self._default = next((row["id"] for row in rows if row["is_default"]), "")

    def id_of(self, row: Any) -> str:
        organization_id: str | None = row["organization_id"]
        return organization_id or self._default

    def name_of(self, row: Any) -> str:
        organization_id = self.id_of(row)
        return self._names.get(organization_id, organization_id)

    def is_there(self, row: Any) -> bool:
        """Whether the organization of a row was not deleted: what waits there waits for ever, for nobody."""
        return self.id_of(row) not in self._deleted

    def count(self, rows: list[Any]) -> tuple[OrganizationDaemons, ...]:
        """Return the counts by name; an organization that has no daemons has zeros."""
        counted = {
            self.id_of(row): OrganizationDaemons(
                organization=self.name_of(row), recent=row["recent"], stale=row["stale"], never=row["never"]
            )
            for row in rows
        }
        empty = (OrganizationDaemons(organization=self._names[one]) for one in self._shown - counted.keys())
        return tuple(sorted((*counted.values(), *empty), key=lambda one: one.organization))


def _aged(columns: Columns) -> str:
    """The daemons with their ages in seconds at the moment $2: null for who was never seen, 0 for who
    was seen in the future. Columns are named, since `*` needs a right to all of them."""
    selected = ", ".join(
        _select_as(columns, _DAEMONS, name, "text[]" if name == "provisioners" else "text")
        for name in _WANTED[_DAEMONS]
        if name != "last_seen_at"
    )
    seen = f"({columns.pick(_DAEMONS, 'last_seen_at')})::timestamptz"
    # `greatest` passes over null, hence the case; times may be infinite, which subtracts only as a number
    age = f"extract(epoch FROM $2::timestamptz)::float8 - extract(epoch FROM {seen})::float8"
    age = f"CASE WHEN {seen} IS NOT NULL THEN greatest(0, {age}) END"
    return f"(SELECT {selected}, {age} AS age_seconds FROM public.{_DAEMONS}) AS aged"


def _select_as(columns: Columns, table: str, name: str, kind: str) -> str:
    """What stands for a column that a server lacks stands for a null, too: today none of them is ever null."""
    other = _WANTED[table][name] or "''"
    return f"coalesce(({columns.pick(table, name)})::{kind}, ({other})::{kind}) AS {name}"


def _count_daemons(columns: Columns) -> str:
    return (
        "SELECT organization_id,"
        " count(*) FILTER (WHERE age_seconds <= $1::float8)::bigint AS recent,"
        " count(*) FILTER (WHERE age_seconds > $1::float8)::bigint AS stale,"
        " count(*) FILTER (WHERE age_seconds IS NULL)::bigint AS never"
        f" FROM {_aged(columns)} GROUP BY 1"
    )


def _select_recent(columns: Columns) -> str:
    return (
        f"SELECT * FROM {_aged(columns)} WHERE age_seconds <= $1::float8"
        f" ORDER BY organization_id, name, id LIMIT {MAX_RECENT + 1}"
    )


def _select_organizations(columns: Columns) -> str:
    casts = {"is_default": "boolean", "deleted": "boolean"}
    selected = ", ".join(
        _select_as(columns, _ORGANIZATIONS, name, casts.get(name, "text")) for name in _WANTED[_ORGANIZATIONS]
    )
    return f"SELECT {selected} FROM public.{_ORGANIZATIONS} ORDER BY name, id LIMIT {MAX_RECENT}"


def _select_jobs(columns: Columns) -> str:
    # what a daemon looks for when it asks for work; an index of Coder's has exactly these rows
    return (
        "SELECT organization_id::text AS organization_id, coalesce(tags::text, '{}') AS tags,"
        f" ({columns.pick(_JOBS, 'provisioner')})::text AS kind, count(*)::bigint AS count,"
        " greatest(0, extract(epoch FROM clock_timestamp())::float8 - extract(epoch FROM min(created_at))::float8)"
        " AS oldest_seconds"
        f" FROM public.{_JOBS} WHERE started_at IS NULL AND canceled_at IS NULL AND completed_at IS NULL"
        f" GROUP BY 1, 2, 3 ORDER BY oldest_seconds DESC, 1, 2, 3 LIMIT {MAX_WAITING}"
    )


def _build_daemon(row: Any, names: _Names, *, prefixed: bool) -> ProvisionerDaemon:
    api_version = row["api_version"]
    return ProvisionerDaemon(
        id=row["id"],
        name=row["name"],
        organization_id=names.id_of(row),
        organization=names.name_of(row),
        version=row["version"],
        api_version=api_version.removeprefix("v") if prefixed else api_version,
        tags=_read_tags(row["tags"]),
        provisioners=tuple(row["provisioners"]),
        age_seconds=row["age_seconds"],
    )


def _build_jobs(row: Any, names: _Names) -> WaitingJobs:
    return WaitingJobs(
        organization_id=names.id_of(row),
        organization=names.name_of(row),
        tags=_read_tags(row["tags"]),
        provisioner=row["kind"],
        count=row["count"],
        oldest_seconds=row["oldest_seconds"],
    )


def _read_tags(text: str) -> Mapping[str, str]:
    return coder_json.read_tags(coder_json.decode(text.encode()))
