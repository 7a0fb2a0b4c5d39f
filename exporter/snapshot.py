"""The latest result of each target, what has settled of it, and the roll-up by section.

In: what the runner finished (`TargetHealth`), one call a round. Out: the entries and sections that
changed, for the metrics and the log. Everything happens on the event loop and each entry is
replaced in one assignment, so a scrape never sees half a round; the cost of a commit does not grow
with the number of targets.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from exporter.errors import Phase
from exporter.health import settle
from exporter.health.model import Report, Severity
from exporter.targets.model import SectionKey, TargetKey


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetHealth:
    """One run of one target, measured and judged.

    `result` is the dataclass of the section's module in `health/`, None when the probe itself
    broke. `phase_seconds` holds only phases that were reached.
    """

    key: TargetKey
    run: int
    interval_seconds: float
    started_timestamp_seconds: float
    duration_seconds: float
    result: object | None
    report: Report
    phase_seconds: Mapping[Phase, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """What is known of one target. `settled` holds active codes and those on their way."""

    health: TargetHealth
    settled: Mapping[str, settle.Settled]
    last_success_timestamp_seconds: float | None

    @property
    def active(self) -> dict[str, settle.Settled]:
        return {code: state for code, state in self.settled.items() if state.active}


class SectionRollup:
    """What all targets of a section say together, kept up to date by differences.

    `measured` is False until the first run; then the severity series show nothing at 1.
    """

    def __init__(self, codes: Iterable[str], policy: settle.Policy) -> None:
        self.codes = tuple(codes)
        self.policy = policy
        self.measured = False
        self.observed: Counter[str] = Counter()
        self.active: Counter[str] = Counter()
        self.since_timestamp_seconds: dict[str, float] = {}
        self._observed_severities: Counter[Severity] = Counter()
        self._settled_severities: Counter[Severity] = Counter()

    @property
    def observed_severity(self) -> Severity:
        return max((s for s, n in self._observed_severities.items() if n > 0), default=Severity.OK)

    @property
    def settled_severity(self) -> Severity:
        return max((s for s, n in self._settled_severities.items() if n > 0), default=Severity.OK)

    def swap(self, old: Entry | None, new: Entry | None, now: float) -> None:
        """Take `old` out of the sums and put `new` in."""
        for entry, step in ((old, -1), (new, 1)):
            if entry is None:
                continue
            for finding in entry.health.report.findings:
                self.observed[finding.code] += step
                self._observed_severities[finding.severity] += step
            for code, state in entry.settled.items():
                if state.active:
                    self.active[code] += step
                    self._settled_severities[state.severity] += step
        for entry in (old, new):
            for code in entry.settled if entry is not None else ():
                if self.active[code] > 0:
                    self.since_timestamp_seconds.setdefault(code, now)
                else:
                    self.since_timestamp_seconds.pop(code, None)


@dataclass(frozen=True, slots=True, kw_only=True)
class CodeChange:
    """A settled code of one target that became active or was over."""

    key: TargetKey
    code: str
    active: bool
    severity: Severity
    message: str
    timestamp_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """What one finished round changed."""

    entries: tuple[Entry, ...]
    removed: tuple[TargetKey, ...]
    sections: tuple[SectionKey, ...]
    changes: tuple[CodeChange, ...]


class Snapshot:
    """All entries and roll-ups.

    Graces are measured in `elapsed_seconds`: since the exporter started, on the monotonic clock,
    so that a wall clock that is set back holds up nothing.
    """

    def __init__(self) -> None:
        self._entries: dict[TargetKey, Entry] = {}
        self._round_of: dict[str, tuple[TargetKey, ...]] = {}
        self._last_run: dict[str, int] = {}
        self._sections: dict[SectionKey, SectionRollup] = {}
        self._version_changed: dict[str, float] = {}

    @property
    def entries(self) -> Mapping[TargetKey, Entry]:
        return self._entries

    @property
    def sections(self) -> Mapping[SectionKey, SectionRollup]:
        return self._sections

    def declare(self, key: SectionKey, codes: Iterable[str], policy: settle.Policy) -> None:
        """Make a section known, so that its codes are there before its first run."""
        self._sections[key] = SectionRollup(codes, policy)

    def retire(self, schedule_name: str) -> Commit:
        """Forget everything that a schedule entry ever brought."""
        self._last_run.pop(schedule_name, None)
        return self._replace(schedule_name, (), 0.0, 0.0)

    def version_changed(self, deployment: str, *, elapsed_seconds: float) -> None:
        """Note that a server or proxy of the deployment changed its version: skew codes wait."""
        self._version_changed[deployment] = elapsed_seconds

    def commit(
        self,
        schedule_name: str,
        healths: Sequence[TargetHealth],
        *,
        now: float,
        elapsed_seconds: float,
        complete: bool = True,
    ) -> Commit:
        """Replace everything that this schedule entry brought before by one finished round.

        A run that is older than what is there (P6) changes nothing. Of a round that is not
        `complete` only what it holds is replaced; the rest of the round before stays.
        """
        run = max((health.run for health in healths), default=0)
        if healths and run <= self._last_run.get(schedule_name, 0):
            return Commit(entries=(), removed=(), sections=(), changes=())
        self._last_run[schedule_name] = run
        return self._replace(schedule_name, healths, now, elapsed_seconds, complete=complete)

    def _replace(
        self,
        schedule_name: str,
        healths: Sequence[TargetHealth],
        now: float,
        elapsed_seconds: float,
        *,
        complete: bool = True,
    ) -> Commit:
        keys = dict.fromkeys(health.key for health in healths)
        others = tuple(key for key in self._round_of.get(schedule_name, ()) if key not in keys)
        gone = others if complete else ()
        changes: list[CodeChange] = []
        touched: dict[SectionKey, None] = {}
        for key in gone:
            old = self._entries.pop(key)
            self._sections[key.section_key].swap(old, None, now)
            touched[key.section_key] = None
            changes += _changes(old, None, now)
        entries = []
        for health in healths:
            old_entry = self._entries.get(health.key)
            rollup = self._sections[health.key.section_key]
            entry = self._settle(old_entry, health, rollup.policy, now, elapsed_seconds)
            self._entries[health.key] = entry
            rollup.swap(old_entry, entry, now)
            rollup.measured = True
            touched[health.key.section_key] = None
            changes += _changes(old_entry, entry, now)
            entries.append(entry)
        if not complete:
            keys |= dict.fromkeys(others)
        if keys:
            self._round_of[schedule_name] = tuple(keys)
        else:
            self._round_of.pop(schedule_name, None)
        return Commit(entries=tuple(entries), removed=gone, sections=tuple(touched), changes=tuple(changes))

    def _settle(
        self, old: Entry | None, health: TargetHealth, policy: settle.Policy, now: float, elapsed_seconds: float
    ) -> Entry:
        before = old.settled if old is not None else {}
        findings = {finding.code: finding for finding in health.report.findings}
        starting = elapsed_seconds < policy.startup_grace_seconds
        changed = self._version_changed.get(health.key.section_key.deployment)
        rolling_out = changed is not None and elapsed_seconds < changed + policy.version_grace_seconds
        settled: dict[str, settle.Settled] = {}
        for code in findings.keys() | before.keys():
            state = before.get(code, settle.INITIAL)
            finding = findings.get(code)
            if finding is None and code in health.report.not_judged:
                settled[code] = state
                continue
            held = starting or (rolling_out and finding is not None and finding.skew)
            state = settle.advance(state, finding, policy=policy, now=now, held=held)
            if state is not settle.INITIAL:
                settled[code] = state
        success = health.report.failure is None
        last_success = (
            health.started_timestamp_seconds
            if success
            else (old.last_success_timestamp_seconds if old is not None else None)
        )
        return Entry(health=health, settled=settled, last_success_timestamp_seconds=last_success)


def _changes(old: Entry | None, new: Entry | None, now: float) -> list[CodeChange]:
    before = old.active if old is not None else {}
    after = new.active if new is not None else {}
    entry = new or old
    if entry is None:
        return []
    return [
        CodeChange(
            key=entry.health.key,
            code=code,
            active=code in after,
            severity=state.severity,
            message=state.message,
            timestamp_seconds=now,
        )
        for code in sorted(before.keys() ^ after.keys())
        for state in (after.get(code) or before[code],)
    ]
