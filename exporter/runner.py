"""One run of one target: deadline, probe, judgement. Catches what nobody expected.

In: a target. Out: the `TargetHealth` of everything that the run was about, to be committed at once.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from exporter.clock import Clock
from exporter.errors import Phase, Reason
from exporter.health import codes
from exporter.health.model import Failure, Finding, Report, Section, Severity
from exporter.log import get_logger
from exporter.net.deadline import Until
from exporter.snapshot import TargetHealth
from exporter.targets.model import SectionKey, Target, TargetKey

# Probes keep their own time (the target's timeout) and say what was slow. This much later the
# runner ends a run that did not: then it is a bug of ours.
OVERRUN_SECONDS = 2.0

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What a run says about one thing that it probed.

    `started_timestamp_seconds` and `duration_seconds` are None for those of the whole run.
    `section_key` is None for the target's own; what Coder's report says belongs to other sections.
    """

    name: str
    report: Report
    result: object
    section_key: SectionKey | None = None
    phase_seconds: Mapping[Phase, float] = field(default_factory=dict)
    started_timestamp_seconds: float | None = None
    duration_seconds: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """How a section is probed and judged; bound once, in rooms/table.py.

    `name` gives the label `target` when a run could not tell it. `is_complete` says of a result
    whether what it does not tell of is gone, and not only untold this time. `is_long` says of a result
    whether to judge it takes long enough to hold up others: then that is done in a thread.
    """

    probe: Callable[[Any], Awaitable[Any]]
    judge: Callable[[Any, Any], Sequence[Judgement]]
    name: Callable[[Any], str]
    is_complete: Callable[[Any], bool] = lambda _result: True
    is_long: Callable[[Any], bool] = lambda _result: False


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """The outcome of a run. `complete` is False when the run broke, or says so: what is not in it is
    unknown, not gone."""

    healths: tuple[TargetHealth, ...]
    complete: bool = True


class Runner:
    """Runs targets by the table of rooms, and numbers the runs."""

    def __init__(self, *, rooms: Mapping[Section, Room], clock: Clock) -> None:
        self._rooms = rooms
        self._clock = clock
        self._numbers = itertools.count(1)

    async def run(self, target: Target) -> Round:
        """Run a target once. Raises nothing but CancelledError."""
        room = self._rooms[target.section]
        number = next(self._numbers)
        started_timestamp = self._clock.now()
        started = self._clock.monotonic()
        complete = True
        try:
            # a host that stood still (a busy one, a machine that was suspended) finds the probe's own end past
            # as well: it has to be given the time to say what was slow
            async with Until(target.run_limit_seconds, grace_seconds=OVERRUN_SECONDS):
                result = await room.probe(target)
            # without a deadline: a thread cannot be ended, and that a busy host comes to it late is no bug
            if room.is_long(result):
                judgements = await asyncio.to_thread(room.judge, target, result)
            else:
                judgements = room.judge(target, result)
            complete = room.is_complete(result)
        except (Exception, asyncio.CancelledError) as error:
            if isinstance(error, asyncio.CancelledError) and _cancelled_from_outside():
                raise
            # the one place for what nobody expected: the other targets go on
            _log.exception("probe.broke", target=target.schedule_name)
            judgements = (_broke(target, room.name(target), error),)
            complete = False
        duration = self._clock.monotonic() - started
        return Round(
            healths=tuple(
                TargetHealth(
                    key=TargetKey(
                        section_key=judgement.section_key or target.section_key,
                        name=judgement.name or room.name(target),
                    ),
                    run=number,
                    interval_seconds=target.interval_seconds,
                    started_timestamp_seconds=(
                        started_timestamp
                        if judgement.started_timestamp_seconds is None
                        else judgement.started_timestamp_seconds
                    ),
                    duration_seconds=(duration if judgement.duration_seconds is None else judgement.duration_seconds),
                    result=judgement.result,
                    report=judgement.report,
                    phase_seconds=judgement.phase_seconds,
                )
                for judgement in judgements
            ),
            complete=complete,
        )


def _cancelled_from_outside() -> bool:
    """Whether somebody cancelled this run; else a CancelledError got loose inside it, which is a bug."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _broke(target: Target, name: str, error: BaseException) -> Judgement:
    sentence = f"the probe of {target.section} broke: {type(error).__name__}; the log has the details"
    return Judgement(
        name=name,
        report=Report(
            section=target.section,
            findings=(Finding(code=codes.UNKNOWN, severity=Severity.ERROR, message=sentence),),
            failure=Failure(reason=Reason.INTERNAL, message=sentence),
            not_judged=frozenset(codes.section_codes(target.section)) - {codes.UNKNOWN},
        ),
        result=None,
    )
