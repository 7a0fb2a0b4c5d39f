"""The ticker, on a clock that the tests move by hand."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace

import pytest

from exporter.health.model import Section
from exporter.targets.model import Target
from exporter.ticker import Ticker, first_delay_seconds
from tests.support.clock import FakeClock


@dataclass
class Recorder:
    """Runs take `durations[target]` seconds (0 by default); everything that happens is noted."""

    clock: FakeClock
    durations: dict[str, float] = field(default_factory=dict)
    begun: list[tuple[str, float]] = field(default_factory=list)
    finished: list[tuple[str, float]] = field(default_factory=list)
    delays: list[float] = field(default_factory=list)
    skipped: dict[str, int] = field(default_factory=dict)
    going: dict[str, int] = field(default_factory=dict)
    overlaps: int = 0

    async def run(self, target: Target) -> str:
        name = target.deployment
        self.begun.append((name, self.clock.monotonic()))
        self.going[name] = self.going.get(name, 0) + 1
        self.overlaps += self.going[name] > 1
        try:
            await self.clock.sleep(self.durations.get(name, 0.0))
        finally:
            self.going[name] -= 1
        return f"{name} at {self.clock.monotonic():g}"

    def run_started(self, target: Target, delay_seconds: float) -> None:
        self.delays.append(delay_seconds)

    def ticks_skipped(self, target: Target, count: int) -> None:
        self.skipped[target.deployment] = self.skipped.get(target.deployment, 0) + count

    def run_finished(self, target: Target, outcome: str) -> None:
        self.finished.append((target.deployment, self.clock.monotonic()))

    def starts(self, name: str) -> list[float]:
        return [at for who, at in self.begun if who == name]


def make_target(name: str, interval_seconds: float = 10.0) -> Target:
    return Target(deployment=name, section=Section.ACCESS_URL, interval_seconds=interval_seconds, timeout_seconds=5.0)


def delay_of(name: str, interval_seconds: float = 10.0) -> float:
    return first_delay_seconds(make_target(name).schedule_name, interval_seconds)


@contextlib.asynccontextmanager
async def serving(ticker: Ticker[str], *targets: Target) -> AsyncIterator[None]:
    task = asyncio.ensure_future(ticker.serve(targets))
    await asyncio.sleep(0)
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def recorder(clock: FakeClock) -> Recorder:
    return Recorder(clock)


@pytest.fixture
def ticker(clock: FakeClock, recorder: Recorder) -> Ticker[str]:
    return Ticker(run=recorder.run, observer=recorder, clock=clock)


async def test_ticks_do_not_drift(clock: FakeClock, recorder: Recorder, ticker: Ticker[str]) -> None:
    """The n-th run begins at start + n * interval, however long the runs before took."""
    recorder.durations["a"] = 3.7
    async with serving(ticker, make_target("a")):
        await clock.advance(50)
    first = delay_of("a")
    assert [pytest.approx(first + n * 10) for n in range(len(recorder.starts("a")))] == recorder.starts("a")
    assert len(recorder.starts("a")) in (4, 5)


async def test_a_long_run_skips_ticks_and_never_overlaps(
    clock: FakeClock, recorder: Recorder, ticker: Ticker[str]
) -> None:
    """A run of two and a half intervals costs two ticks, and the next run is back in the rhythm."""
    recorder.durations["a"] = 25.0
    async with serving(ticker, make_target("a")):
        await clock.advance(delay_of("a") + 31)
    first = delay_of("a")
    assert [pytest.approx(first), pytest.approx(first + 30)] == recorder.starts("a")
    assert {"a": 2} == recorder.skipped
    assert 0 == recorder.overlaps


async def test_a_run_that_ends_on_a_tick_skips_nothing(
    clock: FakeClock, recorder: Recorder, ticker: Ticker[str]
) -> None:
    """A run that ends just when the next tick comes lets that tick run."""
    recorder.durations["a"] = 10.0
    target = make_target("a")
    async with serving(ticker, target):
        await clock.advance(delay_of("a") + 20.5)
    assert 0 == recorder.overlaps
    assert recorder.skipped.get("a", 0) <= 1  # floating point may put the end a hair after the tick
    assert len(recorder.starts("a")) >= 2


async def test_first_runs_are_spread_by_name() -> None:
    """The first delay is below the interval, differs by name, and is the same after a restart."""
    delays = [first_delay_seconds(f"prod-{n}/access_url", 10.0) for n in range(1000)]
    assert all(0 <= delay < 10 for delay in delays)
    assert delays == [first_delay_seconds(f"prod-{n}/access_url", 10.0) for n in range(1000)]
    by_second = [sum(1 for delay in delays if int(delay) == second) for second in range(10)]
    assert all(60 <= count <= 140 for count in by_second)


async def test_a_forced_run_joins_the_one_that_is_going(
    clock: FakeClock, recorder: Recorder, ticker: Ticker[str]
) -> None:
    """Two forced runs and a tick at the same time are one run."""
    recorder.durations["a"] = 2.0
    target = make_target("a")
    async with serving(ticker, target):
        await clock.advance(delay_of("a") + 0.5)
        one = asyncio.ensure_future(ticker.force(target.schedule_name))
        two = asyncio.ensure_future(ticker.force(target.schedule_name))
        await clock.advance(2)
        assert await one == await two
    assert 1 == len(recorder.begun)
    assert 1 == len(recorder.finished)


async def test_a_tick_during_a_forced_run_is_skipped(clock: FakeClock, recorder: Recorder, ticker: Ticker[str]) -> None:
    """A tick that comes while a forced run is going is counted and does not run again."""
    target = make_target("a")
    recorder.durations["a"] = 1.0
    async with serving(ticker, target):
        await clock.advance(delay_of("a") - 0.5)
        forced = asyncio.ensure_future(ticker.force(target.schedule_name))
        await clock.advance(1.0)
        assert (await forced).startswith("a at")
    assert {"a": 1} == recorder.skipped
    assert 1 == len(recorder.begun)


async def test_a_forced_run_outlives_its_caller(clock: FakeClock, recorder: Recorder, ticker: Ticker[str]) -> None:
    """A caller that goes away takes no run along that others wait for."""
    recorder.durations["a"] = 1.0
    target = make_target("a")
    async with serving(ticker, target):
        leaver = asyncio.ensure_future(ticker.force(target.schedule_name))
        stayer = asyncio.ensure_future(ticker.force(target.schedule_name))
        await clock.settle()
        leaver.cancel()
        await clock.advance(1.0)
        assert "a at 1" == await stayer
    assert [("a", 1.0)] == recorder.finished


async def test_who_joins_a_run_of_the_schedule_is_told_when_its_target_leaves(
    clock: FakeClock, recorder: Recorder, ticker: Ticker[str]
) -> None:
    """A run that is dropped has no outcome: not for who joined it, nor for who forced it just now."""
    recorder.durations["a"] = 1e9
    running, idle = make_target("a"), make_target("b")
    async with serving(ticker, running, idle):
        await clock.advance(delay_of("a"))
        joined = asyncio.ensure_future(ticker.force(running.schedule_name))
        await clock.settle()
        forced = asyncio.ensure_future(ticker.force(idle.schedule_name))
        await asyncio.sleep(0)  # it is asked for, and has not begun
        ticker.set_targets([])
        for waiting in (joined, forced):
            with pytest.raises(KeyError):
                await waiting
    assert 0 == recorder.going["a"]


async def test_a_run_that_leaves_its_task_cancelled_ends_no_schedule(clock: FakeClock, recorder: Recorder) -> None:
    """Whoever cancels the task and swallows that, as timeouts of libraries do, spoils no later run."""
    left = []

    async def run(target: Target) -> str:
        task = asyncio.current_task()
        assert task is not None
        left.append(task.cancelling())
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(0)
        return await recorder.run(target)

    ticker = Ticker(run=run, observer=recorder, clock=clock)
    async with serving(ticker, make_target("a")):
        await clock.advance(delay_of("a") + 30.0)
    assert [0] * 4 == left
    assert 4 == len(recorder.finished)


async def test_a_run_that_cancels_itself_ends_no_schedule(clock: FakeClock, recorder: Recorder) -> None:
    """A CancelledError that gets loose in a run ends that run, for who joined it too; the next one comes."""

    async def run(target: Target) -> str:
        name = await recorder.run(target)
        if len(recorder.begun) == 1:
            raise asyncio.CancelledError
        return name

    recorder.durations["a"] = 1.0
    target = make_target("a")
    ticker = Ticker(run=run, observer=recorder, clock=clock)
    async with serving(ticker, target):
        await clock.advance(delay_of("a") + 0.5)
        joined = asyncio.ensure_future(ticker.force(target.schedule_name))
        await clock.advance(1.0)
        with pytest.raises(KeyError):
            await joined
        await clock.advance(20.0)
    assert [pytest.approx(delay_of("a") + n * 10) for n in range(3)] == recorder.starts("a")
    assert 2 == len(recorder.finished)


async def test_hanging_targets_do_not_delay_others(clock: FakeClock, recorder: Recorder, ticker: Ticker[str]) -> None:
    """Forty targets that hang leave the rhythm of one that works untouched (P22)."""
    hanging = [make_target(f"hanging-{n}") for n in range(40)]
    recorder.durations |= {target.deployment: 1e9 for target in hanging}
    async with serving(ticker, make_target("good"), *hanging):
        await clock.advance(delay_of("good") + 30.5)
    first = delay_of("good")
    assert [pytest.approx(first + n * 10) for n in range(4)] == recorder.starts("good")


async def test_targets_come_and_go(clock: FakeClock, recorder: Recorder, ticker: Ticker[str]) -> None:
    """A new target starts, one that is gone stops in the middle of its run, others keep their rhythm."""
    recorder.durations["leaving"] = 1e9
    kept, leaving, new = make_target("kept"), make_target("leaving"), make_target("new")
    async with serving(ticker, kept, leaving):
        await clock.advance(11)
        ticker.set_targets([kept, new])
        assert {kept.schedule_name, new.schedule_name} == set(ticker.targets)
        await clock.advance(20)
    first = delay_of("kept")
    assert [pytest.approx(first + n * 10) for n in range(4) if first + n * 10 <= 31] == recorder.starts("kept")
    assert 1 == len(recorder.starts("leaving"))
    assert [] == [name for name, _ in recorder.finished if name == "leaving"]
    assert pytest.approx(11 + delay_of("new")) == recorder.starts("new")[0]
    assert 0 == recorder.going["leaving"]


async def test_a_target_that_changes_keeps_its_turn(clock: FakeClock, recorder: Recorder, ticker: Ticker[str]) -> None:
    """Also one that changes more often than it runs is run each interval; another interval begins anew."""
    variants = [replace(make_target("a"), timeout_seconds=timeout) for timeout in (4.0, 5.0)]
    async with serving(ticker, variants[0]):
        for step in range(20):
            ticker.set_targets([variants[step % 2]])
            await clock.advance(3)
        starts = recorder.starts("a")
        first = delay_of("a")
        assert [first + 10 * number for number in range(len(starts))] == pytest.approx(starts)
        assert 5 <= len(starts)
        ticker.set_targets([make_target("a", interval_seconds=40.0)])
        begun = clock.monotonic()
        await clock.advance(40)
        assert [begun + delay_of("a", 40.0)] == pytest.approx(recorder.starts("a")[len(starts) :])


async def test_forcing_an_unknown_target_is_an_error(clock: FakeClock, recorder: Recorder, ticker: Ticker[str]) -> None:
    """A run can only be forced for targets in the schedule."""
    async with serving(ticker, make_target("a")):
        with pytest.raises(KeyError):
            await ticker.force("nobody/access_url")


async def test_stopping_cancels_runs(clock: FakeClock, recorder: Recorder, ticker: Ticker[str]) -> None:
    """Ending the ticker ends runs that hang."""
    recorder.durations["a"] = 1e9
    async with serving(ticker, make_target("a")):
        await clock.advance(10)
        assert 1 == recorder.going["a"]
    assert 0 == recorder.going["a"]


async def test_overdue_tells_a_stalled_prober(clock: FakeClock, recorder: Recorder, ticker: Ticker[str]) -> None:
    """A run that outlives its limit, and a tick that did not begin, show as overdue."""
    recorder.durations["a"] = 1e9
    async with serving(ticker, make_target("a")):
        await clock.advance(delay_of("a") + 4)
        assert 0.0 == ticker.overdue_seconds()
        await clock.advance(6)
        assert pytest.approx(5.0) == ticker.overdue_seconds()


async def test_a_jump_of_the_wall_clock_moves_no_tick(
    clock: FakeClock, recorder: Recorder, ticker: Ticker[str]
) -> None:
    """The schedule goes by the monotonic clock (P13)."""
    async with serving(ticker, make_target("a")):
        await clock.advance(delay_of("a") + 1)
        clock.jump_wall_clock(-3600)
        await clock.advance(20)
    first = delay_of("a")
    assert [pytest.approx(first + n * 10) for n in range(3)] == recorder.starts("a")


async def test_behind_tells_what_exceeds_the_interval(
    clock: FakeClock, recorder: Recorder, ticker: Ticker[str]
) -> None:
    """A run is behind once it is later than its limit by more than its own interval."""
    recorder.durations["a"] = 1e9
    async with serving(ticker, make_target("a")):
        await clock.advance(delay_of("a") + 14)  # the limit is 5 s, the interval 10 s
        assert 0.0 == ticker.behind_seconds()
        await clock.advance(4)
        assert pytest.approx(3.0) == ticker.behind_seconds()
