"""What is broken first, and where both witnesses differ, kept up to date for each deployment.

In: word that something has changed about a deployment, or that time has passed for all. Out: the same as
series, and a line in the log when another layer is the first broken one.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterable, Mapping

from exporter.clock import Clock
from exporter.health.root_cause import RootCause
from exporter.log import get_logger
from exporter.metrics.board import Board
from exporter.snapshot import Snapshot
from exporter.witnesses import Comparison, compare, find_root_cause

# How many in one turn of the event loop: some ms at worst. All of many at once would hold up every run.
MAX_AT_ONCE = 8

_log = get_logger(__name__)


class Comparing:
    """The root cause and the comparisons of each deployment, as last found."""

    def __init__(self, deployments: Iterable[str], *, snapshot: Snapshot, board: Board, clock: Clock) -> None:
        self._deployments = tuple(deployments)
        self._snapshot = snapshot
        self._board = board
        self._clock = clock
        self._root_causes: dict[str, RootCause | None] = {}
        self._comparisons: dict[str, tuple[Comparison, ...]] = {}
        self._due: dict[str, None] = {}
        self._wanted = asyncio.Event()
        for deployment in self._deployments:
            board.show_root_cause(deployment, None)

    @property
    def root_causes(self) -> Mapping[str, RootCause | None]:
        """By deployment; None, or no entry yet, while nothing is broken."""
        return self._root_causes

    @property
    def comparisons(self) -> Mapping[str, tuple[Comparison, ...]]:
        """By deployment, wherever both witnesses can be compared."""
        return self._comparisons

    @property
    def idle(self) -> bool:
        """Whether nobody waits to be compared."""
        return not self._due

    def look_at_all(self) -> None:
        """Compare every deployment anew, since what is not fresh any more is only known by the time: a few
        now, the rest in the turns of the event loop after this (`serve`)."""
        self._due |= dict.fromkeys(self._deployments)
        self._take_some()

    async def serve(self) -> None:
        """Take those that wait, a few each turn of the event loop, until cancelled."""
        while True:
            await self._wanted.wait()
            await asyncio.sleep(0)
            self._take_some()

    def look_at(self, deployment: str) -> None:
        """Compare a deployment anew, now: something has changed about it."""
        self._due.pop(deployment, None)
        cause = find_root_cause(self._snapshot, deployment)
        before = self._root_causes.get(deployment)
        self._root_causes[deployment] = cause
        if (cause and cause.layer) is not (before and before.layer):
            self._board.show_root_cause(deployment, cause.layer if cause is not None else None)
            _tell(deployment, cause)
        comparisons = compare(self._snapshot, deployment, self._clock.now())
        if comparisons != self._comparisons.get(deployment, ()):
            self._comparisons[deployment] = comparisons
            differs = [(one.section, one.coder_replica, one.differs) for one in comparisons]
            self._board.show_disagreements(deployment, differs)

    def compare_single_round(self) -> Mapping[str, tuple[Comparison, ...]]:
        """Return the comparisons by what the last runs observed: after a single round nothing has settled."""
        now = self._clock.now()
        return {name: compare(self._snapshot, name, now, settled=False) for name in self._deployments}

    def _take_some(self) -> None:
        for deployment in list(itertools.islice(self._due, MAX_AT_ONCE)):
            self.look_at(deployment)
        if self._due:
            self._wanted.set()
        else:
            self._wanted.clear()


def _tell(deployment: str, cause: RootCause | None) -> None:
    if cause is None:
        _log.info("root_cause.cleared", deployment=deployment)
    else:
        _log.warning("root_cause.found", deployment=deployment, layer=cause.layer.value, detail=cause.sentence)
