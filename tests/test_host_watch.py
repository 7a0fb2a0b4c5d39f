"""The exporter looks at itself: late once is no news, late twice is."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from exporter.cut_off import CutOff
from exporter.errors import Phase, Reason
from exporter.health.model import Failure, Section
from exporter.health.websocket import Mode, WebSocketResult
from exporter.host_watch import HostWatch
from exporter.targets.model import AccessURL, ExporterTarget, WebSocketTarget
from tests.support.clock import FakeClock
from tests.support.exposition import health

TIMES: dict[str, Any] = {"interval_seconds": 15.0, "timeout_seconds": 5.0}
EXPORTER = ExporterTarget(deployment="", section=Section.EXPORTER, **TIMES)
SOCKET = WebSocketTarget(
    deployment="prod", section=Section.WEBSOCKET, access_url=AccessURL(url="https://coder.example.com"), **TIMES
)


class Watched:
    """A host watch, and how late its ticker is."""

    def __init__(self) -> None:
        clock = FakeClock()
        self.late_seconds = 0.0
        self.cut_off = CutOff(clock=clock)
        self.watch = HostWatch(
            self.cut_off,
            behind_seconds=lambda: self.late_seconds,
            scheduled=lambda: (SOCKET.schedule_name,),
            clock=clock,
        )

    async def look(self) -> tuple[int, float, tuple[str, ...]]:
        result = await self.watch.look(EXPORTER)
        assert "" == result.cut_off
        return result.ticks_skipped, result.overdue_seconds, result.slow


async def test_ticks_that_are_skipped_at_two_looks_in_a_row_are_told() -> None:
    """Those since the look before, and no more once a look finds none."""
    watched = Watched()
    told = []
    for count in (1, 2, 3, 0, 1):
        if count:
            watched.watch.ticks_skipped(SOCKET, count)
        watched.watch.run_started(SOCKET)
        watched.watch.run_started(SOCKET)
        told.append(await watched.look())
    assert [(0, 0.0, ()), (2, 0.0, ()), (3, 0.0, ()), (0, 0.0, ()), (0, 0.0, ())] == told


async def test_a_schedule_that_stays_behind_is_told() -> None:
    """How late it is at the second look."""
    watched = Watched()
    watched.late_seconds = 40.0
    assert (0, 0.0, ()) == await watched.look()
    watched.late_seconds = 55.0
    assert (0, 55.0, ()) == await watched.look()
    watched.late_seconds = 0.0
    assert (0, 0.0, ()) == await watched.look()


async def test_a_target_that_is_slow_twice_is_named() -> None:
    """Also where not every look falls into one of its skipped ticks."""
    watched = Watched()
    for _ in range(2):
        watched.watch.run_started(SOCKET)
        watched.watch.ticks_skipped(SOCKET, 1)
        assert 0 == (await watched.look())[0]
        last = await watched.look()
    assert (0, 0.0, (SOCKET.schedule_name,)) == last


async def test_who_was_waited_for_in_vain_was_not_slow() -> None:
    """What ran too long between the last look at a host that was cut off and the end of that says nothing."""
    watched = Watched()
    lost = Failure(reason=Reason.TIMEOUT, phase=Phase.CONNECT, message="out of time while connecting")
    for run, failure in ((1, lost), (2, None)):
        result = WebSocketResult(host="c", mode=Mode.DERP_MAP, failure=failure, phase_seconds={})
        watched.cut_off.note([health("prod", Section.WEBSOCKET, "c", result, run=run)])
        if failure is not None:
            # nobody can tell who that is
            seen = await watched.watch.look(replace(EXPORTER, reference="reference.invalid:443"))
            assert "reference.invalid" in seen.cut_off
        for _ in range(2):
            watched.watch.run_started(SOCKET)
            watched.watch.ticks_skipped(SOCKET, 1)
    assert [(0, 0.0, ())] * 2 == [await watched.look(), await watched.look()]


async def test_its_own_looks_out_of_turn_are_not_late() -> None:
    """They skip the tick that comes meanwhile."""
    watched = Watched()
    for _ in range(3):
        watched.watch.ticks_skipped(EXPORTER, 1)
        assert (0, 0.0, ()) == await watched.look()
