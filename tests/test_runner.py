"""One run: what is expected, what nobody expected, and time that runs out."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from exporter.clock import SystemClock
from exporter.errors import Reason
from exporter.health.model import Report, Section, Witness
from exporter.runner import Judgement, Room, Round, Runner
from exporter.targets.model import SectionKey, Target

TARGET = Target(deployment="prod", section=Section.DATABASE, interval_seconds=30.0, timeout_seconds=0.05)


def make_runner(probe: Callable[[Any], Any]) -> Runner:
    def judge(target: Target, result: object) -> list[Judgement]:
        return [Judgement(name="primary", report=Report(section=target.section), result=result)]

    return Runner(
        rooms={Section.DATABASE: Room(probe=probe, judge=judge, name=lambda target: "primary")}, clock=SystemClock()
    )


async def run(probe: Callable[[Any], Any]) -> Round:
    return await make_runner(probe).run(TARGET)


async def test_a_run_is_measured_and_judged() -> None:
    """The result of the probe ends in the health of the target."""

    async def probe(target: Target) -> str:
        return "fine"

    outcome = await run(probe)
    (health,) = outcome.healths
    assert outcome.complete
    assert ("fine", "primary", 30.0) == (health.result, health.key.name, health.interval_seconds)
    assert health.duration_seconds >= 0


async def test_runs_are_numbered() -> None:
    """Later runs have greater numbers (P6)."""

    async def probe(target: Target) -> str:
        return "fine"

    runner = make_runner(probe)
    numbers = [(await runner.run(TARGET)).healths[0].run for _ in range(3)]
    assert sorted(set(numbers)) == numbers


@pytest.mark.parametrize("is_long", [False, True])
async def test_what_is_long_to_judge_is_judged_in_a_thread(is_long: bool) -> None:
    """So that it holds up nobody; all the rest is judged at once."""
    threads = []

    async def probe(target: Target) -> str:
        return "fine"

    def judge(target: Target, result: object) -> list[Judgement]:
        threads.append(threading.get_ident())
        return [Judgement(name="primary", report=Report(section=target.section), result=result)]

    room = Room(probe=probe, judge=judge, name=lambda target: "primary", is_long=lambda result: is_long)
    outcome = await Runner(rooms={Section.DATABASE: room}, clock=SystemClock()).run(TARGET)
    assert (["fine"], True) == ([health.result for health in outcome.healths], outcome.complete)
    assert [is_long] == [thread != threading.get_ident() for thread in threads]


@pytest.mark.parametrize("complete", [False, True])
async def test_a_result_may_say_that_it_does_not_tell_everything(complete: bool) -> None:
    """Then what it leaves out is not gone; and what belongs to another section bears its key."""
    key = SectionKey(deployment="prod", section=Section.DERP, witness=Witness.REPORT, coder_replica="a")

    async def probe(target: Target) -> str:
        return "fine"

    def judge(target: Target, result: object) -> list[Judgement]:
        return [Judgement(name="x", report=Report(section=Section.DERP), result=result, section_key=key)]

    room = Room(probe=probe, judge=judge, name=lambda target: "", is_complete=lambda result: complete)
    outcome = await Runner(rooms={Section.DATABASE: room}, clock=SystemClock()).run(TARGET)
    assert (complete, [key]) == (outcome.complete, [health.key.section_key for health in outcome.healths])


async def test_a_bug_is_eunknown_for_that_target_only() -> None:
    """An exception becomes EUNKNOWN, tells its kind, and hides what it said."""

    async def probe(target: Target) -> str:
        raise RuntimeError("postgres://coder:hunter2@db")

    outcome = await run(probe)
    (health,) = outcome.healths
    (finding,) = health.report.findings
    assert "EUNKNOWN" == finding.code
    assert "RuntimeError" in finding.message
    assert "hunter2" not in finding.message
    assert health.report.failure is not None
    assert Reason.INTERNAL is health.report.failure.reason
    assert not outcome.complete
    assert "EDB01" in health.report.not_judged


async def test_a_probe_that_forgets_its_time_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """The runner ends a probe some time after its limit."""
    monkeypatch.setattr("exporter.runner.OVERRUN_SECONDS", 0.05)

    async def probe(target: Target) -> None:
        await asyncio.Event().wait()

    (health,) = (await run(probe)).healths
    assert ["EUNKNOWN"] == [finding.code for finding in health.report.findings]
    assert "TimeoutError" in health.report.findings[0].message


async def test_a_host_that_stood_still_leaves_the_probe_time_to_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that was suspended, or starved, past both ends has a slow target at most, and no bug of ours."""
    monkeypatch.setattr("exporter.runner.OVERRUN_SECONDS", 0.2)

    async def probe(target: Target) -> str:
        try:
            async with asyncio.timeout(target.timeout_seconds):
                asyncio.get_running_loop().call_soon(time.sleep, 0.5)
                await asyncio.Event().wait()
        except TimeoutError:
            return "out of time"
        return ""

    (health,) = (await run(probe)).healths
    assert "out of time" == health.result
    assert () == health.report.findings


async def test_a_judgement_in_a_thread_has_no_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy host comes to it late; the probe kept its time."""
    monkeypatch.setattr("exporter.runner.OVERRUN_SECONDS", 0.05)

    async def probe(target: Target) -> str:
        return "fine"

    def judge(target: Target, result: object) -> list[Judgement]:
        time.sleep(0.5)
        return [Judgement(name="primary", report=Report(section=target.section), result=result)]

    room = Room(probe=probe, judge=judge, name=lambda target: "primary", is_long=lambda _result: True)
    (health,) = (await Runner(rooms={Section.DATABASE: room}, clock=SystemClock()).run(TARGET)).healths
    assert "fine" == health.result
    assert () == health.report.findings


async def test_cancelling_is_no_result() -> None:
    """A run that is cancelled from outside says nothing of its target (P5)."""

    async def probe(target: Target) -> None:
        await asyncio.Event().wait()

    task = asyncio.ensure_future(run(probe))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_cancellation_that_got_loose_is_a_bug() -> None:
    """A CancelledError that nobody asked for ends in EUNKNOWN, not in silence."""

    async def probe(target: Target) -> None:
        raise asyncio.CancelledError

    (health,) = (await run(probe)).healths
    assert ["EUNKNOWN"] == [finding.code for finding in health.report.findings]
