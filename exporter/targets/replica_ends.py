"""How replicas of coderd ended, by their rows: stopped in good order, begun anew elsewhere, or crashed. Pure.

In: the rows of the table. Out: who crashed and is missed, and who was followed by another one of its name.

A coderd that is stopped says so in its row. One that crashes, is killed, or loses its host leaves a row that
nobody writes any more, until the others clean it up within half an hour. So a crash can be told from a
replica that was scaled down, whose end is nobody's concern, and so can one whose place another one took.

Source: coder-interfaces, sections 4.2, 4.5 and 9
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from exporter.errors import WireError
from exporter.health.replica import ListedReplica
from exporter.targets.replica_names import Place, find_place
from exporter.wire.url import parse_origin

# A crashed replica is missed for so long: two failures, the five minutes of the alert on XACS08, and some more.
MISSED_SECONDS = 600.0
# Who wrote its row less than a beat and a half ago may well be alive.
ALIVE_SECONDS = 7.5
# In a roll-out the new replica is there before the old one ends, which may take the minute until it is killed.
REPLACED_BEFORE_SECONDS = 180.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Ends:
    """Ids of rows. `crashed`: ended without a word, and nobody took over. `succeeded`: the same replica
    runs, or ran, at another address since."""

    crashed: frozenset[str]
    succeeded: frozenset[str]


def find_ends(rows: Sequence[ListedReplica], *, missed_seconds: float = MISSED_SECONDS) -> Ends:
    """Tell who ended, and how.

    Args:
        missed_seconds: How long after its last beat a replica counts as crashed; then as gone.
    """
    places = dict(_read_places(rows))
    comers = sorted(_find_comers(rows, places), key=lambda row: (row.created_timestamp_seconds, row.id))
    namesakes: dict[str, list[ListedReplica]] = {}
    for row in comers:
        namesakes.setdefault(row.hostname, []).append(row)
    succeeded, free = set(), {row.id: row for row in comers if row.running and row.primary}
    ended = sorted(filter(_may_have_ended, rows), key=lambda row: (row.updated_timestamp_seconds or 0.0, row.id))
    for row in ended:
        if not row.hostname:
            continue
        successor = next((one for one in namesakes.get(row.hostname, ()) if _succeeds(one, row, places)), None)
        if successor is not None:
            succeeded.add(row.id)
            free.pop(successor.id, None)
    crashed = set()
    # also who was stopped is replaced, one by one: of a roll-out in good order nobody is left over
    for row in ended:
        if row.running or row.id in succeeded or row.id not in places:
            continue
        replacement = next((one for one in free.values() if _replaces(one, row)), None)
        if replacement is not None:
            del free[replacement.id]
        elif row.primary and not row.stopped and (row.silent_seconds or 0.0) <= missed_seconds:
            crashed.add(row.id)
    return Ends(crashed=frozenset(crashed), succeeded=frozenset(succeeded))


def _read_places(rows: Iterable[ListedReplica]) -> Iterator[tuple[str, Place]]:
    for row in rows:
        try:
            yield row.id, find_place(parse_origin(row.relay_address))
        except WireError:
            continue


def _find_comers(rows: Iterable[ListedReplica], places: Mapping[str, Place]) -> Iterator[ListedReplica]:
    """Those that are the first of their address. A process that was started again takes nobody else's place."""
    seen = set()
    for row in sorted(rows, key=lambda row: (row.created_timestamp_seconds, row.id)):
        place = places.get(row.id)
        if place is not None and place not in seen:
            seen.add(place)
            yield row


def _may_have_ended(row: ListedReplica) -> bool:
    """Rows that do not tell when they were written tell nothing here."""
    silent = row.silent_seconds
    return row.updated_timestamp_seconds is not None and silent is not None and (row.stopped or silent > ALIVE_SECONDS)


def _succeeds(comer: ListedReplica, row: ListedReplica, places: Mapping[str, Place]) -> bool:
    """Whether one of the same name is the same replica, begun anew elsewhere. While both run they are two."""
    return places.get(comer.id) != places.get(row.id) and _began(comer) > (row.updated_timestamp_seconds or 0.0)


def _replaces(comer: ListedReplica, row: ListedReplica) -> bool:
    """Whether one that runs came in the stead of a replica that ended."""
    began, updated = _began(comer), row.updated_timestamp_seconds or 0.0
    return began > max(_began(row), updated - REPLACED_BEFORE_SECONDS)


def _began(row: ListedReplica) -> float:
    return row.created_timestamp_seconds
