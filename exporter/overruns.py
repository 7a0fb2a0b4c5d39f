"""Whose runs take longer than their interval, again and again.

In: what the ticker tells of starts and skipped ticks. Out: the names of those whose latest two runs both ran
into their next tick. One such run is no news: a slow answer, a busy moment.
"""

from __future__ import annotations

from collections.abc import Collection

# So many runs in a row are too long before a target counts as slow.
SLOW_AFTER_RUNS = 2


class Overruns:
    """Counts, for each target by its schedule name, the runs in a row that were too long."""

    def __init__(self) -> None:
        self._overran: set[str] = set()
        self._in_a_row: dict[str, int] = {}

    def skipped(self, name: str) -> None:
        """A tick came while a run was still going."""
        if name not in self._overran:
            self._overran.add(name)
            self._in_a_row[name] = self._in_a_row.get(name, 0) + 1

    def started(self, name: str) -> None:
        """The next run begins."""
        if name in self._overran:
            self._overran.discard(name)
        else:
            self._in_a_row.pop(name, None)

    def list_slow(self, known: Collection[str]) -> tuple[str, ...]:
        """Return who is slow, in the order of names. Who is not known any more is forgotten."""
        for name in self._in_a_row.keys() - set(known):
            del self._in_a_row[name]
            self._overran.discard(name)
        return tuple(sorted(name for name, runs in self._in_a_row.items() if runs >= SLOW_AFTER_RUNS))

    def forget(self) -> None:
        """Begin anew: what was too long had another cause."""
        self._overran.clear()
        self._in_a_row.clear()
