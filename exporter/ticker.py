"""When: every target at its interval, spread by its name, never twice at a time.

In: targets and a coroutine that runs one of them. Out: calls to an observer. It knows neither
probes nor metrics. A port of the ticker in Coder's proxyhealth.go, without its bugs; the list of
those (P1-P24) stands in the docstring of the tests' package.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from exporter.clock import Clock
from exporter.targets.model import Target

Outcome = TypeVar("Outcome")
OutcomeIn = TypeVar("OutcomeIn", contravariant=True)


class Observer(Protocol[OutcomeIn]):
    """Who is told what the ticker does. Calls come on the event loop and must not block."""

    def run_started(self, target: Target, delay_seconds: float) -> None:
        """A scheduled run begins, so many seconds after its tick."""

    def ticks_skipped(self, target: Target, count: int) -> None:
        """So many ticks came while a run was still going."""

    def run_finished(self, target: Target, outcome: OutcomeIn) -> None:
        """A run, scheduled or forced, is over."""


def first_delay_seconds(name: str, interval_seconds: float) -> float:
    """Return a delay below the interval that spreads targets and is the same after a restart."""
    digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64 * interval_seconds


@dataclass(slots=True)
class _Scheduled:
    """`running`: a run is going: a tick's in `loop`, a forced one in the task `forced`. `outcome`: of that
    run, where somebody waits for it."""

    target: Target
    loop: asyncio.Task[None]
    due_monotonic_seconds: float
    running: bool = False
    forced: asyncio.Task[None] | None = None
    outcome: asyncio.Future[Any] | None = None


class Ticker(Generic[Outcome]):
    """The schedule.

    Args:
        run: One run of one target. It must not raise: what it raises ends the ticker.
    """

    def __init__(
        self, *, run: Callable[[Target], Awaitable[Outcome]], observer: Observer[Outcome], clock: Clock
    ) -> None:
        self._run = run
        self._observer = observer
        self._clock = clock
        self._group: asyncio.TaskGroup | None = None
        self._scheduled: dict[str, _Scheduled] = {}
        self.serving = asyncio.Event()
        """Set while the schedule is kept: only then can targets be set and runs be forced."""

    @property
    def targets(self) -> Mapping[str, Target]:
        """Targets in the schedule by their schedule name."""
        return {name: scheduled.target for name, scheduled in self._scheduled.items()}

    def overdue_seconds(self) -> float:
        """Return how long the most delayed tick has been due without having begun: 0 when none is.

        A run that is going counts from the end of its target's timeout on.
        """
        now = self._clock.monotonic()
        late = (
            now - scheduled.due_monotonic_seconds - (scheduled.target.run_limit_seconds if scheduled.running else 0.0)
            for scheduled in self._scheduled.values()
        )
        return max(0.0, max(late, default=0.0))

    def behind_seconds(self) -> float:
        """Return how much later than its own interval allows the most delayed run is: 0 when none is.

        A run that is going counts from the end of its target's timeout on.
        """
        now = self._clock.monotonic()
        late = (
            now
            - scheduled.due_monotonic_seconds
            - scheduled.target.interval_seconds
            - (scheduled.target.run_limit_seconds if scheduled.running else 0.0)
            for scheduled in self._scheduled.values()
        )
        return max(0.0, max(late, default=0.0))

    async def serve(self, targets: Iterable[Target]) -> None:
        """Keep the schedule until cancelled; then every run is cancelled too."""
        async with asyncio.TaskGroup() as group:
            self._group = group
            try:
                self.set_targets(targets)
                self.serving.set()
                await asyncio.Event().wait()
            finally:
                self.serving.clear()
                self._group = None
                for name in list(self._scheduled):
                    self._drop(name)

    def set_targets(self, targets: Iterable[Target]) -> None:
        """Take up new targets, drop those that are gone, leave unchanged ones in their rhythm."""
        wanted = {target.schedule_name: target for target in targets}
        due: dict[str, float] = {}
        for name, scheduled in list(self._scheduled.items()):
            target = wanted.get(name)
            if target == scheduled.target:
                continue
            if target is not None and target.interval_seconds == scheduled.target.interval_seconds:
                # one that only changes keeps its turn: else one that changes often would never run
                due[name] = max(scheduled.due_monotonic_seconds, self._clock.monotonic())
            self._drop(name)
        for name, target in wanted.items():
            if name not in self._scheduled:
                self._add(name, target, due.get(name))

    async def force(self, schedule_name: str) -> Outcome:
        """Run a target now, or join the run that is going; return its outcome.

        The run goes on when the caller is cancelled: others may wait for it too.

        Raises:
            KeyError: There is no such target, or it left the schedule meanwhile.
        """
        outcome = self._await_outcome(self._scheduled[schedule_name])
        try:
            return await asyncio.shield(outcome)
        except asyncio.CancelledError:
            _raise_if_cancelled()
            raise KeyError(schedule_name) from None

    def _add(self, name: str, target: Target, due_monotonic_seconds: float | None = None) -> None:
        if self._group is None:
            raise RuntimeError("the ticker is not serving")
        start = due_monotonic_seconds
        if start is None:
            start = self._clock.monotonic() + first_delay_seconds(name, target.interval_seconds)
        loop = self._group.create_task(self._keep(name, start), name=f"tick {name}")
        self._scheduled[name] = _Scheduled(target=target, loop=loop, due_monotonic_seconds=start)

    def _drop(self, name: str) -> None:
        scheduled = self._scheduled.pop(name)
        scheduled.loop.cancel()
        if scheduled.forced is not None:
            scheduled.forced.cancel()
        if scheduled.outcome is not None:
            scheduled.outcome.cancel()  # a forced run that has not begun yet would not

    async def _keep(self, name: str, start: float) -> None:
        """Tick at start + n * interval, however long runs take."""
        scheduled = self._scheduled[name]
        interval = scheduled.target.interval_seconds
        tick = 0
        while True:
            due = start + tick * interval
            scheduled.due_monotonic_seconds = due
            await self._clock.sleep(due - self._clock.monotonic())
            if scheduled.running:  # a forced run is going
                self._observer.ticks_skipped(scheduled.target, 1)
            else:
                self._observer.run_started(scheduled.target, max(0.0, self._clock.monotonic() - due))
                # in this task: one of its own would cost each run a twentieth
                with suppress(asyncio.CancelledError):
                    await self._run_once(scheduled)
                if self._scheduled.get(name) is not scheduled:
                    return
                _forget_cancellations()
            behind = (self._clock.monotonic() - start) / interval
            upcoming = max(tick + 1, math.ceil(behind))
            if upcoming > tick + 1:
                self._observer.ticks_skipped(scheduled.target, upcoming - tick - 1)
            tick = upcoming

    def _await_outcome(self, scheduled: _Scheduled) -> asyncio.Future[Outcome]:
        """Single flight: join the run that is going, else begin one."""
        if self._group is None:
            raise RuntimeError("the ticker is not serving")
        if scheduled.outcome is None:
            scheduled.outcome = asyncio.get_running_loop().create_future()
        if not scheduled.running:
            scheduled.running = True
            scheduled.forced = self._group.create_task(self._run_once(scheduled))
        return scheduled.outcome

    async def _run_once(self, scheduled: _Scheduled) -> None:
        scheduled.running = True
        awaited: asyncio.Future[Outcome] | None = None
        try:
            try:
                outcome = await self._run(scheduled.target)
            finally:
                scheduled.running = False
                scheduled.forced = None
                awaited, scheduled.outcome = scheduled.outcome, None
            if self._scheduled.get(scheduled.target.schedule_name) is scheduled:
                self._observer.run_finished(scheduled.target, outcome)
            if awaited is not None and not awaited.done():
                awaited.set_result(outcome)
        finally:
            if awaited is not None:
                awaited.cancel()  # has no effect on one that has its result


def _forget_cancellations() -> None:
    """Take back what a run did to this task and did not take back itself: else each run after it would
    think that it is to end."""
    task = asyncio.current_task()
    while task is not None and task.cancelling():
        task.uncancel()


def _raise_if_cancelled() -> None:
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError
