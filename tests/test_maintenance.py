"""Maintenance in operation: windows open and close by time alone, and everybody is told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
from aiohttp.test_utils import TestClient, TestServer
from structlog.testing import capture_logs

from exporter.app import Application
from exporter.clock import Clock, SystemClock
from exporter.config.load import load_config, reference
from exporter.health.maintenance import CLOSED, Maintenance, OnceWindow, Window
from exporter.maintenance import LOOK_AGAIN_SECONDS, MaintenanceWatch
from exporter.metrics.negotiation import Format
from exporter.web.views import Background, survey
from tests.support.clock import FakeClock
from tests.support.exposition import pick, read

MakeApplication = Callable[[str, Clock], Application]

FRIDAY = datetime(2026, 11, 20, 23, 59, 50, tzinfo=UTC).timestamp()
GAUGE = "coder_health_maintenance"


def window(start: float, seconds: float) -> OnceWindow:
    return OnceWindow(start=datetime.fromtimestamp(start, UTC), duration_seconds=seconds)


@pytest.fixture
def make_application(tmp_path: Path) -> MakeApplication:
    """Two deployments with nothing to probe; the windows are those of the first."""
    keys = (row.key.split(".") for row in reference())
    sections = [key[2] for key in keys if key[1:2] == ["sections"] and key[3:] == ["enabled"]]
    off = "{" + ", ".join(f"{section}: {{enabled: false}}" for section in sections) + "}"

    def make(windows: str, clock: Clock) -> Application:
        path = tmp_path / "c.yaml"
        path.write_text(
            f"deployments:\n- {{name: prod, url: 'http://127.0.0.1:9', sections: {off}, maintenance: [{windows}]}}\n"
            f"- {{name: staging, url: 'http://127.0.0.1:9', sections: {off}}}\n"
        )
        return Application(load_config(path, {}, clock=clock), clock=clock)

    return make


def shown(application: Application) -> dict[str, float]:
    return pick(read(b"".join(application.board.render(Format.TEXT)), Format.TEXT), GAUGE, "deployment")


@asynccontextmanager
async def serving(watch: MaintenanceWatch) -> AsyncIterator[None]:
    task = asyncio.ensure_future(watch.serve())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_the_gauge_follows_the_window_though_nothing_runs(make_application: MakeApplication) -> None:
    """No target, no run: the scrape shows 1 from the start of the window to its end, for that deployment alone."""
    clock = FakeClock(now=FRIDAY)
    application = await asyncio.to_thread(make_application, "{start: Sat 00:00, duration: 1m}", clock)
    assert {"prod": 0.0, "staging": 0.0} == shown(application)
    seen = []
    with capture_logs() as lines:
        serving = asyncio.ensure_future(application.serve())
        for seconds in (9.0, 1.0, 59.0, 1.0):
            await clock.advance(seconds)
            seen.append(shown(application))
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)
    assert [0.0, 1.0, 1.0, 0.0] == [values["prod"] for values in seen]
    assert {0.0} == {values["staging"] for values in seen}
    assert [
        {
            "event": "maintenance.opened",
            "log_level": "info",
            "deployment": "prod",
            "until": "2026-11-21T00:01:00+00:00",
        },
        {"event": "maintenance.closed", "log_level": "info", "deployment": "prod"},
    ] == [line for line in lines if line["event"].startswith("maintenance.")]


async def test_a_window_that_is_open_at_the_start_is_shown_at_once(make_application: MakeApplication) -> None:
    """Before anything runs the gauge is 1, the page says until when, and the log tells it once it serves."""
    clock = FakeClock(now=FRIDAY)
    application = await asyncio.to_thread(make_application, "{start: fri 23:00, duration: 2h}", clock)
    assert {"prod": 1.0, "staging": 0.0} == shown(application)
    background = Background(off=application.board.off, maintenance=application.maintenance)
    prod, staging, _exporter = survey(application.snapshot, background)
    end = datetime(2026, 11, 21, 1, tzinfo=UTC).timestamp()
    assert Maintenance(open=True, next_change_timestamp_seconds=end) == prod.maintenance
    assert CLOSED == staging.maintenance
    with capture_logs() as lines:
        serving = asyncio.ensure_future(application.serve())
        await clock.advance(60.0)
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)
    assert ["maintenance.opened"] == [line["event"] for line in lines if line["event"].startswith("maintenance.")]


class Told:
    """Changes with the time at which they were told."""

    def __init__(self, *windows: Window, clock: FakeClock) -> None:
        self.changes: list[tuple[float, bool]] = []
        self._clock = clock
        self.watch = MaintenanceWatch({"prod": windows, "idle": ()}, clock=clock, on_change=self._note)

    def _note(self, deployment: str, maintenance: Maintenance) -> None:
        assert "prod" == deployment
        self.changes.append((self._clock.now() - FRIDAY, maintenance.open))


async def test_windows_that_overlap_open_and_close_once() -> None:
    """Each change is told on time, however far it is from when anybody would look anyway."""
    clock = FakeClock(now=FRIDAY)
    told = Told(window(FRIDAY + 100.5, 50.0), window(FRIDAY + 120.0, 60.25), window(FRIDAY + 180.75, 0.25), clock=clock)
    async with serving(told.watch):
        await clock.advance(3600.0)
    assert [(100.5, True), (180.25, False), (180.75, True), (181.0, False)] == told.changes
    assert not told.watch.now["prod"].open
    assert CLOSED == told.watch.now["idle"]


@pytest.mark.parametrize(("jump", "expected"), [(3600.0, True), (-7200.0, False)])
async def test_a_wall_clock_that_is_set_is_noticed(jump: float, expected: bool) -> None:
    """A window is about the wall clock: it opens or closes with it, forward and back, within one look."""
    clock = FakeClock(now=FRIDAY)
    told = Told(window(FRIDAY + 3600.0, 3600.0) if expected else window(FRIDAY - 3600.0, 7200.0), clock=clock)
    async with serving(told.watch):
        await clock.advance(1.0)
        assert [] == told.changes
        clock.jump_wall_clock(jump)
        await clock.advance(LOOK_AGAIN_SECONDS)
        assert [expected] == [is_open for _, is_open in told.changes]
        assert expected is told.watch.now["prod"].open


async def test_without_windows_there_is_nothing_to_do() -> None:
    """The watch is over at once and the exporter goes on."""
    clock = FakeClock(now=FRIDAY)
    watch = MaintenanceWatch({"prod": ()}, clock=clock, on_change=lambda *_: None)
    await watch.serve()
    assert {"prod": CLOSED} == watch.now


async def test_the_page_tells_of_the_window(make_application: MakeApplication) -> None:
    """From the configuration to the page, by the clock of this host."""
    start = datetime.now(UTC).isoformat(timespec="seconds")
    windows = f"{{start: '{start}', duration: 1h}}"
    application = await asyncio.to_thread(make_application, windows, SystemClock())
    async with TestClient(TestServer(application.web())) as client, client.get("/") as answer:
        page = await answer.text()
    assert 1 == page.count("A maintenance window is open until")
