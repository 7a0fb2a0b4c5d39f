"""The room of Coder's own report: each poll of a replica, and what all polls of a deployment say together.

In: targets of `report`. Out: what a run says of the poll, of each section as the report tells it, and of
the deployment.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set

from exporter import witnesses
from exporter.clock import Clock
from exporter.health import report
from exporter.health.model import REPORT_SECTIONS, Report, Section, Witness, find_section
from exporter.health.report import DEFAULT_REFRESH_SECONDS, CoderSettings, ReportResult, ReportsResult
from exporter.health.report_sections import is_foreign
from exporter.probes import report as report_probe
from exporter.probes import reports as reports_probe
from exporter.probes.report import ReportMemory
from exporter.probes.reports import ReportsMemory
from exporter.runner import Judgement
from exporter.snapshot import Snapshot
from exporter.targets.model import ReportsTarget, ReportTarget, SectionKey, Target
from exporter.witnesses import SkewWatch


class ReportRoom:
    """What polls keep, and how they are judged.

    Args:
        settings: What Coder's configuration says, by deployment, as far as it could be read.
    """

    def __init__(self, settings: Mapping[str, CoderSettings], *, snapshot: Snapshot, clock: Clock) -> None:
        self._settings = settings
        self._snapshot = snapshot
        self._clock = clock
        self._polls: dict[str, ReportMemory] = {}
        self._reports: dict[str, ReportsMemory] = {}
        self._skew = SkewWatch()
        self._foreign: dict[str, dict[str, Mapping[str, Set[str]]]] = {}

    @property
    def remembered(self) -> frozenset[str]:
        """The schedule entries of whose reports something is kept."""
        return frozenset(self._polls)

    async def probe(self, target: Target) -> object:
        """One poll, or what all polls of the deployment say together."""
        if isinstance(target, ReportTarget):
            memory = self.remember_polls(target)
            settings = self._settings.get(target.deployment)
            refresh = None if settings is None else settings.refresh_seconds
            return await report_probe.probe(
                target, memory=memory, clock=self._clock, refresh_seconds=refresh or DEFAULT_REFRESH_SECONDS
            )
        assert isinstance(target, ReportsTarget)
        kept = self._reports.setdefault(target.schedule_name, ReportsMemory())
        result = await reports_probe.probe(target, memory=kept, clock=self._clock)
        return witnesses.complete(
            result,
            self._snapshot,
            target.deployment,
            watch=self._skew,
            skew_limit_seconds=self._snapshot.sections[target.section_key].policy.version_grace_seconds,
            now=self._clock.now(),
            monotonic_seconds=self._clock.monotonic(),
        )

    def judge(self, target: Target, result: ReportResult | ReportsResult) -> Sequence[Judgement]:
        """One poll, or what all polls say together: nothing, where no replica has a report for us."""
        if isinstance(result, ReportResult):
            return self._judge_poll(target, result)
        polls = [
            entry.health.result
            for key, rollup in self._snapshot.sections_of(target.deployment).items()
            if key.section is Section.REPORT and key.witness is Witness.PROBE
            for entry in rollup.entries.values()
            if isinstance(entry.health.result, ReportResult)
        ]
        verdict = report.assess_reports(result)
        if polls and all(poll.off is not None for poll in polls):
            verdict = Report(section=Section.REPORT, off=polls[0].off)
        return (Judgement(name="", report=verdict, result=result),)

    def remember_polls(self, target: Target) -> ReportMemory:
        """Return what is kept of a replica's reports."""
        return self._polls.setdefault(target.schedule_name, ReportMemory())

    def forget(self, schedule_name: str) -> None:
        """Forget what is kept of a replica that left."""
        self._polls.pop(schedule_name, None)
        self._reports.pop(schedule_name, None)
        for shown in self._foreign.values():
            shown.pop(schedule_name, None)

    def _gather_foreign(self, target: Target) -> Mapping[str, Set[str]]:
        """Return the codes that we do not know, by section, as the other replicas of a deployment show them."""
        gathered: dict[str, set[str]] = {}
        # copied: reports are judged in threads
        for schedule_name, shown in list(self._foreign.get(target.deployment, {}).items()):
            if schedule_name != target.schedule_name:
                for section, codes in shown.items():
                    gathered.setdefault(section, set()).update(codes)
        return gathered

    def _judge_poll(self, target: Target, result: ReportResult) -> Sequence[Judgement]:
        """The poll itself, and each section as the report tells it; those are remembered for the next one."""
        verdict = report.assess(result, elsewhere=self._gather_foreign(target))
        if result.report is not None:
            self.remember_polls(target).shown = tuple(verdict.sections)
        if is_complete(result):
            self._foreign.setdefault(target.deployment, {})[target.schedule_name] = _find_foreign(verdict.sections)
        return (
            Judgement(name=result.name, report=verdict.poll, result=result),
            *(
                Judgement(
                    name=result.name,
                    report=told,
                    result=None if result.report is None else result.report.section(name),
                    section_key=SectionKey(
                        deployment=target.deployment,
                        section=find_section(name),
                        witness=Witness.REPORT,
                        coder_replica=target.coder_replica,
                    ),
                )
                for name, told in verdict.sections.items()
            ),
        )


def _find_foreign(sections: Mapping[str, Report]) -> Mapping[str, Set[str]]:
    foreign = {
        name: {finding.code for finding in told.findings if is_foreign(name, finding.code)}
        for name, told in sections.items()
    }
    return {name: codes for name, codes in foreign.items() if codes or name not in REPORT_SECTIONS}


def is_complete(result: ReportResult | ReportsResult) -> bool:
    """A poll that failed leaves what the report before it said, as long as that is any good."""
    return isinstance(result, ReportsResult) or result.report is not None or result.expired


def is_long(result: ReportResult | ReportsResult) -> bool:
    """A report of many relays or daemons, all in trouble, takes some tens of milliseconds."""
    return isinstance(result, ReportResult) and result.report is not None
