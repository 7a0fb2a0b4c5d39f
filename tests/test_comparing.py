"""Root causes and comparisons kept up to date: at once where something changed, a few at a time for all."""

from __future__ import annotations

import asyncio

import pytest
import structlog

from exporter.comparing import MAX_AT_ONCE, Comparing
from exporter.errors import Phase, Reason
from exporter.health.model import Section
from exporter.health.root_cause import Layer
from tests.support.clock import FakeClock
from tests.support.exposition import START, World, pick

NAMES = tuple(f"d{number:02}" for number in range(2 * MAX_AT_ONCE + 1))


@pytest.fixture
def world() -> World:
    return World(NAMES, sections=(Section.DATABASE,))


@pytest.fixture
def comparing(world: World) -> Comparing:
    return Comparing(NAMES, snapshot=world.snapshot, board=world.board, clock=FakeClock(now=START))


def broken_layers(world: World, deployment: str) -> list[str]:
    shown = pick(world.read(), "coder_health_root_cause", "deployment", "layer")
    return [layer for (name, layer), value in shown.items() if name == deployment and value == 1.0]


def test_before_anything_is_broken_every_layer_is_shown_at_0(world: World, comparing: Comparing) -> None:
    """From the start on, so that no alert is lost to "no data"."""
    shown = pick(world.read(), "coder_health_root_cause", "deployment", "layer")
    assert {(name, layer.value): 0.0 for name in NAMES for layer in Layer} == shown
    assert {} == comparing.root_causes


def test_a_root_cause_comes_and_goes_with_a_line_in_the_log(world: World, comparing: Comparing) -> None:
    """One layer, of that deployment alone, told once."""
    with structlog.testing.capture_logs() as lines:
        world.run(NAMES[0], Section.DATABASE, {"primary": None}, codes=["EDB01"], reason=Reason.REFUSED)
        for _ in range(2):
            comparing.look_at(NAMES[0])
        assert ["database"] == broken_layers(world, NAMES[0])
        assert [] == broken_layers(world, NAMES[1])
        world.run(NAMES[0], Section.DATABASE, {"primary": None}, phase_seconds={Phase.CONNECT: 0.1})
        comparing.look_at(NAMES[0])
    assert [] == broken_layers(world, NAMES[0])
    assert None is comparing.root_causes[NAMES[0]]
    told = [(line["event"], line["deployment"]) for line in lines if line["event"].startswith("root_cause.")]
    assert [("root_cause.found", NAMES[0]), ("root_cause.cleared", NAMES[0])] == told


async def test_all_are_looked_at_a_few_at_a_time(comparing: Comparing) -> None:
    """Those that wait come in the turns after it, and whoever was looked at meanwhile waits no more."""
    assert comparing.idle
    comparing.look_at_all()
    assert list(NAMES[:MAX_AT_ONCE]) == list(comparing.root_causes)
    assert not comparing.idle
    comparing.look_at(NAMES[-1])
    async with asyncio.TaskGroup() as group:
        serving = group.create_task(comparing.serve())
        async with asyncio.timeout(30):
            while not comparing.idle:  # noqa: ASYNC110 - each turn is what is tested
                await asyncio.sleep(0)
        serving.cancel()
    assert set(NAMES) == set(comparing.root_causes)
    assert [*NAMES[:MAX_AT_ONCE], NAMES[-1], *NAMES[MAX_AT_ONCE:-1]] == list(comparing.root_causes)
