"""The latest result of each target, what has settled of it, and the roll-up by section.

In: what the runner finished (`TargetHealth`), one call a round. Out: the entries and sections that
changed, for the metrics and the log. Everything happens on the event loop and each entry is
replaced in one assignment, so a scrape never sees half a round; the cost of a commit does not grow
with the number of targets.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from exporter.errors import Phase
from exporter.health import settle
from exporter.health.model import Failure, Report, Severity
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
class Owed:
    """A run whose report was taken in but has not settled: it waits for what is found out of this host."""

    report: Report
    timestamp_seconds: float
    elapsed_seconds: float


# How many runs of a target can wait; nobody waits for longer than a few seconds.
MAX_OWED = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """What is known of one target. `settled` holds active codes and those on their way; `judged` is
    the latest run that settled, and `last_failure` that of the latest of those that failed, each None when
    there was none; `owed` runs wait for `Snapshot.thaw`;
    `observation` is the one that settled last, None when it was none that could come again."""

    health: TargetHealth
    settled: Mapping[str, settle.Settled]
    last_success_timestamp_seconds: float | None
    judged: TargetHealth | None = None
    last_failure: Failure | None = None
    owed: tuple[Owed, ...] = ()
    observation: Hashable | None = None

    @property
    def active(self) -> dict[str, settle.Settled]:
        return {code: state for code, state in self.settled.items() if state.active}


class SectionRollup:
    """What all targets of a section say together, kept up to date by differences.

    `measured` is False until the first run; then the severity series show nothing at 1. `entries` are
    those of its targets, `raising` those with an active code, `off_count` how many say that there is
    nothing to do. `last_run_timestamp_seconds` is when the latest run of any target began, and
    `interval_seconds` that target's; `settled_changed_timestamp_seconds` when the settled severity was
    last another, or first known. All three are None before the first run.
    """

    def __init__(self, codes: Iterable[str], policy: settle.Policy) -> None:
        self.codes = tuple(codes)
        self.policy = policy
        self.measured = False
        self.entry_count = 0
        self.observed: Counter[str] = Counter()
        self.active: Counter[str] = Counter()
        self.since_timestamp_seconds: dict[str, float] = {}
        self.entries: dict[TargetKey, Entry] = {}
        self.raising: dict[TargetKey, Entry] = {}
        self.off_count = 0
        self.last_run_timestamp_seconds: float | None = None
        self.interval_seconds: float | None = None
        self.settled_changed_timestamp_seconds: float | None = None
        self.observed_severity = Severity.OK
        self.settled_severity = Severity.OK
        self._observed_severities: Counter[Severity] = Counter()
        self._settled_severities: Counter[Severity] = Counter()

    def swap(self, old: Entry | None, new: Entry | None, now: float) -> None:
        """Take `old` out of the sums and put `new` in."""
        severity = self.settled_severity
        for entry, step in ((old, -1), (new, 1)):
            if entry is None:
                continue
            self.entry_count += step
            if entry.health.report.off is not None:
                self.off_count += step
            for finding in entry.health.report.findings:
                self.observed[finding.code] += step
                self._observed_severities[finding.severity] += step
            for code, state in entry.settled.items():
                if state.active:
                    self.active[code] += step
                    self._settled_severities[state.severity] += step
        self.observed_severity = _find_worst(self._observed_severities)
        self.settled_severity = _find_worst(self._settled_severities)
        states = new.settled if new is not None else {}
        for entry in (old, new):
            for code in entry.settled if entry is not None else ():
                if self.active[code] > 0:
                    # what waited to settle did so as if at its own time
                    began = states[code].since_timestamp_seconds if code in states else None
                    self.since_timestamp_seconds.setdefault(code, now if began is None else began)
                else:
                    self.since_timestamp_seconds.pop(code, None)
                    del self.active[code]
        for finding in old.health.report.findings if old is not None else ():
            # servers may make codes up: those that are over leave nothing
            if not self.observed[finding.code]:
                del self.observed[finding.code]
        self._keep(old, new, now)
        changed = self.settled_changed_timestamp_seconds
        # a target that leaves tells no time; what is later than now was told by a clock set back since
        if changed is None or (now and (changed > now or self.settled_severity is not severity)):
            self.settled_changed_timestamp_seconds = now

    def _keep(self, old: Entry | None, new: Entry | None, now: float) -> None:
        if old is not None and (new is None or old.health.key != new.health.key):
            self.entries.pop(old.health.key, None)
            self.raising.pop(old.health.key, None)
        if new is None:
            return
        self.entries[new.health.key] = new
        if any(state.active for state in new.settled.values()):
            self.raising[new.health.key] = new
        else:
            self.raising.pop(new.health.key, None)
        started = new.health.started_timestamp_seconds
        last = self.last_run_timestamp_seconds
        if last is None or started >= last or last > now:  # a clock that is set back makes no run the last one
            self.last_run_timestamp_seconds = started
            self.interval_seconds = new.health.interval_seconds


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
    """What one finished round changed. `new_runs` False: its runs were told before, and only what has
    settled of them is new."""

    entries: tuple[Entry, ...]
    removed: tuple[TargetKey, ...]
    sections: tuple[SectionKey, ...]
    changes: tuple[CodeChange, ...]
    new_runs: bool = True


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
        self._by_deployment: dict[str, dict[SectionKey, SectionRollup]] = {}
        self._owing: dict[TargetKey, None] = {}
        self._version_changed: dict[str, float] = {}

    @property
    def entries(self) -> Mapping[TargetKey, Entry]:
        return self._entries

    @property
    def sections(self) -> Mapping[SectionKey, SectionRollup]:
        return self._sections

    def declare(self, key: SectionKey, codes: Iterable[str], policy: settle.Policy) -> None:
        """Make a section known, so that its codes are there before its first run."""
        rollup = SectionRollup(codes, policy)
        self._sections[key] = rollup
        self._by_deployment.setdefault(key.deployment, {})[key] = rollup

    def sections_of(self, deployment: str) -> Mapping[SectionKey, SectionRollup]:
        """Return what is known of one deployment; empty for one that nobody declared."""
        return self._by_deployment.get(deployment, {})

    def forget_section(self, key: SectionKey) -> None:
        """Make a section unknown again, once none of its targets is left."""
        self._sections.pop(key, None)
        self._by_deployment.get(key.deployment, {}).pop(key, None)

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
        frozen: bool = False,
        deferred: bool = False,
    ) -> Commit:
        """Replace everything that this schedule entry brought before by one finished round.

        A run that is older than what is there (P6) changes nothing. Of a round that is not
        `complete` only what it holds is replaced; the rest of the round before stays. While `frozen`
        nothing settles, in neither direction: this host is cut off, and what it sees says nothing. What
        is `deferred` settles later, as if at its own time, or never: `thaw` says which.
        """
        run = max((health.run for health in healths), default=0)
        if healths and run <= self._last_run.get(schedule_name, 0):
            return Commit(entries=(), removed=(), sections=(), changes=())
        self._last_run[schedule_name] = run
        return self._replace(
            schedule_name, healths, now, elapsed_seconds, complete=complete, frozen=frozen, deferred=deferred
        )

    def thaw(self, *, settles: bool, now: float) -> Commit:
        """End the waiting of all deferred runs: they settle now, in their order, or are forgotten."""
        entries, changes = [], []
        touched: dict[SectionKey, None] = {}
        for key in self._owing:
            old = self._entries[key]
            rollup = self._sections[key.section_key]
            entry = replace(old, owed=())
            if settles:
                settled, observation = self._settle(old.settled, old.observation, old.owed, key, rollup.policy)
                entry = replace(
                    entry,
                    settled=settled,
                    observation=observation,
                    judged=old.health,
                    last_failure=_find_last_failure(old.owed) or old.last_failure,
                )
            self._entries[key] = entry
            rollup.swap(old, entry, now)
            touched[key.section_key] = None
            changes += _changes(old, entry, now)
            entries.append(entry)
        self._owing.clear()
        return Commit(
            entries=tuple(entries),
            removed=(),
            sections=tuple(touched),
            changes=tuple(changes),
            new_runs=False,
        )

    def _replace(
        self,
        schedule_name: str,
        healths: Sequence[TargetHealth],
        now: float,
        elapsed_seconds: float,
        *,
        complete: bool = True,
        frozen: bool = False,
        deferred: bool = False,
    ) -> Commit:
        keys = dict.fromkeys(health.key for health in healths)
        others = tuple(key for key in self._round_of.get(schedule_name, ()) if key not in keys)
        gone = others if complete else ()
        changes: list[CodeChange] = []
        touched: dict[SectionKey, None] = {}
        for key in gone:
            old = self._entries.pop(key)
            self._owing.pop(key, None)
            self._sections[key.section_key].swap(old, None, now)
            touched[key.section_key] = None
            changes += _changes(old, None, now)
        entries = []
        for health in healths:
            old_entry = self._entries.get(health.key)
            rollup = self._sections[health.key.section_key]
            entry = self._build(old_entry, health, rollup.policy, now, elapsed_seconds, frozen, deferred)
            self._entries[health.key] = entry
            if entry.owed:
                self._owing[health.key] = None
            else:
                self._owing.pop(health.key, None)
            rollup.swap(old_entry, entry, now)
            touched[health.key.section_key] = None
            changes += _changes(old_entry, entry, now)
            entries.append(entry)
        for section_key in touched:
            # a section that nobody tells of any more is not well: it is unknown
            rollup = self._sections[section_key]
            rollup.measured = rollup.entry_count > 0
        if not complete:
            keys |= dict.fromkeys(others)
        if keys:
            self._round_of[schedule_name] = tuple(keys)
        else:
            self._round_of.pop(schedule_name, None)
        return Commit(entries=tuple(entries), removed=gone, sections=tuple(touched), changes=tuple(changes))

    def _build(
        self,
        old: Entry | None,
        health: TargetHealth,
        policy: settle.Policy,
        now: float,
        elapsed_seconds: float,
        frozen: bool,
        deferred: bool,
    ) -> Entry:
        settled = old.settled if old is not None else {}
        observation = old.observation if old is not None else None
        judged = old.judged if old is not None else None
        last_failure = old.last_failure if old is not None else None
        waiting = old.owed if old is not None else ()
        failure = health.report.failure
        owed = Owed(report=health.report, timestamp_seconds=now, elapsed_seconds=elapsed_seconds)
        if deferred:
            waiting = (*waiting, owed)[-MAX_OWED:]
        else:
            if not frozen:
                settled, observation = self._settle(settled, observation, (*waiting, owed), health.key, policy)
                judged = health
                last_failure = failure or _find_last_failure(waiting) or last_failure
            waiting = ()
        last_success = health.started_timestamp_seconds
        return Entry(
            health=health,
            settled=settled,
            last_success_timestamp_seconds=(
                last_success if failure is None else (old.last_success_timestamp_seconds if old is not None else None)
            ),
            judged=judged,
            last_failure=last_failure,
            owed=waiting,
            observation=observation,
        )

    def _settle(
        self,
        before: Mapping[str, settle.Settled],
        observation: Hashable | None,
        runs: Iterable[Owed],
        key: TargetKey,
        policy: settle.Policy,
    ) -> tuple[Mapping[str, settle.Settled], Hashable | None]:
        for run in runs:
            new = run.report.observation
            # what was seen before is no news only if it has settled, too
            counts = observation is None or new is None or (run.report.counts and new != observation)
            before = self._advance(before, run, key, policy, counts)
            observation = new if counts else observation
        return before, observation

    def _advance(
        self, before: Mapping[str, settle.Settled], run: Owed, key: TargetKey, policy: settle.Policy, counts: bool
    ) -> Mapping[str, settle.Settled]:
        report, elapsed_seconds = run.report, run.elapsed_seconds
        if not report.findings and not before:
            return before
        findings = {finding.code: finding for finding in report.findings}
        starting = elapsed_seconds < policy.startup_grace_seconds
        changed = self._version_changed.get(key.section_key.deployment)
        rolling_out = changed is not None and elapsed_seconds < changed + policy.version_grace_seconds
        settled: dict[str, settle.Settled] = {}
        for code in findings.keys() | before.keys():
            state = before.get(code, settle.INITIAL)
            finding = findings.get(code)
            if finding is not None or code not in report.not_judged:
                at_once = code in settle.AT_ONCE_CODES
                held = not at_once and (starting or (rolling_out and finding is not None and finding.skew))
                state = settle.advance(
                    state,
                    finding,
                    policy=settle.AT_ONCE if at_once else policy,
                    now=run.timestamp_seconds,
                    held=held,
                    counts=counts,
                )
            if state is not settle.INITIAL:
                settled[code] = state
        return settled


def _find_last_failure(runs: Sequence[Owed]) -> Failure | None:
    return next((run.report.failure for run in reversed(runs) if run.report.failure is not None), None)


def _find_worst(counts: Counter[Severity]) -> Severity:
    if not counts:
        return Severity.OK
    if counts[Severity.ERROR] > 0:
        return Severity.ERROR
    return Severity.WARNING if counts[Severity.WARNING] > 0 else Severity.OK


def _changes(old: Entry | None, new: Entry | None, now: float) -> list[CodeChange]:
    before = old.active if old is not None and old.settled else {}
    after = new.active if new is not None and new.settled else {}
    if before.keys() == after.keys():
        return []
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
