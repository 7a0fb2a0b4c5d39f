"""The exporter looks at itself: is its host cut off, and does it keep its schedule?

In: what the ticker tells of starts and skipped ticks, the verdict of the cut-off guard, how late the ticker
is. Out: an `ExporterResult` each time somebody looks.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from exporter.clock import Clock
from exporter.cut_off import CutOff
from exporter.health.exporter import ExporterResult
from exporter.health.model import Section
from exporter.overruns import Overruns
from exporter.probes import exporter as exporter_probe
from exporter.targets.model import ExporterTarget, Target


class HostWatch:
    """What was late since the last look, and in how many looks in a row.

    Args:
        behind_seconds: How late the ticker is now.
        scheduled: The names of the targets in the schedule.
    """

    def __init__(
        self,
        cut_off: CutOff,
        *,
        behind_seconds: Callable[[], float],
        scheduled: Callable[[], Collection[str]],
        clock: Clock,
    ) -> None:
        self._cut_off = cut_off
        self._behind_seconds = behind_seconds
        self._scheduled = scheduled
        self._clock = clock
        self._overruns = Overruns()
        self._skipped = self._late_looks = 0
        self._was_cut_off = False

    def run_started(self, target: Target) -> None:
        self._overruns.started(target.schedule_name)

    def ticks_skipped(self, target: Target, count: int) -> None:
        if target.section is not Section.EXPORTER:  # which is looked at out of turn, too
            self._skipped += count
            self._overruns.skipped(target.schedule_name)

    async def look(self, target: ExporterTarget) -> ExporterResult:
        """Look at the host and at the schedule."""
        check = await exporter_probe.probe(
            target, clock=self._clock, suspects=self._cut_off.suspects, addresses=self._cut_off.addresses
        )
        cut_off = self._cut_off.judge(check)
        behind_seconds = self._behind_seconds()
        skipped, self._skipped = self._skipped, 0
        was_cut_off, self._was_cut_off = self._was_cut_off, bool(cut_off)
        if cut_off or was_cut_off:
            # everybody is, or was since the last look, waited for in vain, which makes nobody slow
            self._overruns.forget()
            self._late_looks = 0
        else:
            self._late_looks = self._late_looks + 1 if skipped or behind_seconds else 0
        # a single tick that was missed is no news: only what is so at two looks in a row
        late = self._late_looks > 1
        return ExporterResult(
            cut_off=cut_off,
            failing=self._cut_off.failing,
            targets=self._cut_off.targets,
            ticks_skipped=skipped if late else 0,
            overdue_seconds=behind_seconds if late else 0.0,
            slow=self._overruns.list_slow(self._scheduled()),
        )
