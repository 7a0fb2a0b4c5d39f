"""A single round: each target once, and those that judge after those whom they judge."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import Any

from exporter.health.model import Section
from exporter.secret import Secret
from exporter.single_round import SingleRound
from exporter.snapshot import Snapshot
from exporter.targets.model import (
    AccessURL,
    AccessURLTarget,
    DatabaseTarget,
    ExporterTarget,
    ReportsTarget,
    Target,
    WorkspaceProxiesTarget,
)

TIMES: dict[str, Any] = {"deployment": "prod", "interval_seconds": 30.0, "timeout_seconds": 5.0}
URL = AccessURL(url="https://coder.example.com")
TARGETS = (
    ExporterTarget(section=Section.EXPORTER, **TIMES | {"deployment": ""}),
    ReportsTarget(section=Section.REPORT, access_url=URL, **TIMES),
    AccessURLTarget(section=Section.ACCESS_URL, access_url=URL, **TIMES),
    DatabaseTarget(section=Section.DATABASE, url=Secret("postgres://localhost/coder"), **TIMES),
    WorkspaceProxiesTarget(section=Section.WORKSPACE_PROXY, access_url=URL, **TIMES),
)
FIRST = {Section.ACCESS_URL, Section.DATABASE, Section.WORKSPACE_PROXY}


async def run(sections: Collection[Section]) -> list[tuple[str, Section]]:
    """Return when runs began and ended. Those that run side by side all begin before one of them ends."""
    events: list[tuple[str, Section]] = []
    first = len(FIRST.intersection(sections))
    all_begun = asyncio.Event()

    async def run_target(target: Target) -> None:
        events.append(("begins", target.section))
        if target.section in FIRST:
            if sum(event == "begins" for event, _ in events) == first:
                all_begun.set()
            await all_begun.wait()
        events.append(("ends", target.section))

    async def list_proxies(_target: WorkspaceProxiesTarget) -> None:
        raise AssertionError("nobody asked for relays")

    once = SingleRound(
        targets=TARGETS,
        relays={},
        replicas={},
        snapshot=Snapshot(),
        run=run_target,
        list_proxies=list_proxies,
        reschedule=lambda: None,
    )
    async with asyncio.timeout(30):
        await once.run_sections(sections)
    return events


async def test_who_judges_others_comes_last() -> None:
    """All that measure run side by side; report and exporter tell what those found."""
    events = await run(tuple(Section))
    assert FIRST == {section for event, section in events[:3] if event == "begins"}
    assert FIRST == {section for event, section in events[3:6] if event == "ends"}
    assert {Section.REPORT, Section.EXPORTER} == {section for _, section in events[6:]}
    assert 2 * len(TARGETS) == len(events)


async def test_only_the_sections_that_are_asked_for_are_run() -> None:
    """Nothing else is asked."""
    assert {Section.DATABASE} == {section for _, section in await run([Section.DATABASE])}
