"""The recorder: takes finished rounds into the snapshot, and what they changed into metrics and log.

In: rounds, as the runner brings them. Out: the commit of each, shown.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from exporter.clock import Clock
from exporter.cut_off import CutOff, Hold
from exporter.declared import Declared
from exporter.health.model import OffReason, Witness
from exporter.log import get_logger
from exporter.metrics.board import Board
from exporter.rollouts import RolloutWatch
from exporter.runner import Round
from exporter.snapshot import CodeChange, Commit, Snapshot
from exporter.targets.model import SectionKey, Target, TargetKey

_log = get_logger(__name__)

OnChange = Callable[[CodeChange], None]


class Recorder:
    """Keeps snapshot, board and log of one mind.

    Args:
        cut_off: Says whether a round may settle.
        declared: The sections that are known.
        on_change: Told of each settled code that comes or goes.
    """

    def __init__(
        self,
        *,
        snapshot: Snapshot,
        board: Board,
        cut_off: CutOff,
        declared: Declared,
        clock: Clock,
        on_change: OnChange | None = None,
    ) -> None:
        self._snapshot = snapshot
        self._board = board
        self._cut_off = cut_off
        self._declared = declared
        self._clock = clock
        self._on_change = on_change
        self._rollouts = RolloutWatch(clock)
        self._started = clock.monotonic()
        # asked once: most exporters do not log their runs, and each run would pay for the question
        self._logs_runs: bool = _log.is_enabled_for(logging.DEBUG)

    @property
    def elapsed_seconds(self) -> float:
        """How long ago the exporter started."""
        return self._clock.monotonic() - self._started

    def take(self, target: Target, outcome: Round) -> Commit:
        """Take in a finished round."""
        if self._rollouts.see(target.deployment, outcome.healths):
            self._snapshot.version_changed(target.deployment, elapsed_seconds=self.elapsed_seconds)
        for health in outcome.healths:
            if health.key.section_key not in self._snapshot.sections:
                # a section of Coder's report that we do not know
                self._declared.add(health.key.section_key, target.schedule_name)
        hold = self._cut_off.note(outcome.healths)
        commit = self._snapshot.commit(
            target.schedule_name,
            outcome.healths,
            now=self._clock.now(),
            elapsed_seconds=self.elapsed_seconds,
            complete=outcome.complete,
            frozen=hold is Hold.FROZEN,
            deferred=hold is Hold.DEFERRED,
        )
        self._show(commit)
        if self._logs_runs:
            _log_runs(outcome)
        return commit

    def retire(self, schedule_name: str) -> None:
        """Let go of a schedule entry, with its series and the sections that only it told of."""
        self._show(self._snapshot.retire(schedule_name))
        self._declared.remove_target(schedule_name)

    def thaw(self, settles: bool) -> None:
        """Take what waited while this host was suspected: it settles now, or never."""
        self._show(self._snapshot.thaw(settles=settles, now=self._clock.now()))

    def _show(self, commit: Commit) -> None:
        if commit.removed:
            self._rollouts.forget(commit.removed)
            self._cut_off.forget(commit.removed)
        before = {key: self._board.off.get(key) for key in commit.sections}
        for clash in self._board.show(commit):
            _log.error(
                "series.clashed",
                label=clash.label,
                value=clash.value,
                **{
                    f"{role}_{name}": value
                    for role, key in (("shown", clash.shown), ("hidden", clash.hidden))
                    for name, value in (("deployment", key.section_key.deployment), ("target", key.name))
                },
            )
        for key, reason in before.items():
            now_off = self._board.off.get(key)
            if now_off is not reason:
                _log_off(key, now_off)
        for change in commit.changes:
            _log_change(change)
            if self._on_change is not None:
                self._on_change(change)
        self._declared.forget_unreported(commit.sections)


def _log_runs(outcome: Round) -> None:
    for health in outcome.healths:
        _log.debug(
            "run.finished",
            **_name(health.key),
            severity=health.report.severity.label,
            codes=[finding.code for finding in health.report.findings],
            duration_seconds=round(health.duration_seconds, 6),
            address=getattr(health.result, "address", None),
        )


def _log_off(key: SectionKey, reason: OffReason | None) -> None:
    """Nobody is paged for a missing right, so it must at least stand in the log."""
    log = _log.info if reason is None else _log.warning
    log(
        "section.enabled" if reason is None else "section.disabled",
        deployment=key.deployment,
        section=str(key.section),
        **_name_view(key),
        reason=str(reason or ""),
    )


def _log_change(change: CodeChange) -> None:
    log = _log.warning if change.active and change.severity > 0 else _log.info
    log(
        "code.activated" if change.active else "code.cleared",
        **_name(change.key),
        code=change.code,
        severity=change.severity.label,
        reason=change.message,
    )


def _name(key: TargetKey) -> dict[str, str]:
    """Return what a line of the log says of a target: its witness and replica only where there are some."""
    section_key = key.section_key
    named = {"deployment": section_key.deployment, "section": str(section_key.section), "target": key.name}
    return named | _name_view(section_key)


def _name_view(key: SectionKey) -> dict[str, str]:
    named = {}
    if key.witness is Witness.REPORT:
        named["witness"] = key.witness.value
    if key.coder_replica:
        named["coder_replica"] = key.coder_replica
    return named
