"""Versions that change step by step."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from exporter.demo.breakages import rollout
from exporter.demo.simulation import Simulation

USUAL, NEW = "v2.26.0", "v2.27.0"


@pytest.fixture
async def running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Simulation]:
    """The simulation without a database, which rolls out as fast as it can."""
    monkeypatch.setattr(rollout, "ROLL_OUT_STEP_SECONDS", 0.0)
    async with Simulation(directory=tmp_path, database=False) as started:
        yield started


def read_versions(simulation: Simulation) -> dict[str, str]:
    """Return what each part of the deployment says of its version."""
    parts = {**simulation.cluster.replicas, **simulation.proxies, **simulation.cluster.daemons}
    return {"front": simulation.coder.version} | {name: part.version for name, part in parts.items()}


async def until_all_have(simulation: Simulation, version: str) -> list[dict[str, str]]:
    """Wait until every part has this version, and return the states on the way."""
    seen = [read_versions(simulation)]
    while set(seen[-1].values()) != {version}:
        await asyncio.sleep(0)
        if (now := read_versions(simulation)) != seen[-1]:
            seen.append(now)
    return seen


async def test_a_roll_out_changes_one_after_another(running: Simulation) -> None:
    """First the replicas, then the proxies, then the daemons, none of which goes back; afterwards all is as before."""
    async with rollout.roll_out(NEW)(running), asyncio.timeout(30):
        seen = await until_all_have(running, NEW)
    order = [{name for name in before if before[name] != after[name]} for before, after in itertools.pairwise(seen)]
    assert set(read_versions(running)) == set.union(*order)
    assert sum(map(len, order)) == len(set.union(*order))
    when = {name: number for number, names in enumerate(order) for name in names}
    replicas, daemons = running.cluster.replicas, running.cluster.daemons
    assert max(when[name] for name in replicas) < min(when[name] for name in running.proxies)
    assert max(when[name] for name in running.proxies) < min(when[name] for name in daemons)
    assert {USUAL} == set(read_versions(running).values())


async def test_a_roll_out_that_ends_early_leaves_nothing(running: Simulation) -> None:
    """Whatever it had changed has its usual version again."""
    async with rollout.roll_out(NEW)(running):
        pass
    assert {USUAL} == set(read_versions(running).values())


async def test_one_replica_is_stuck(running: Simulation) -> None:
    """It alone has another version until it is over."""
    async with rollout.roll_out_stuck("coderd-2", version="v2.25.0")(running):
        odd = {name for name, version in read_versions(running).items() if version != USUAL}
        assert {"coderd-2"} == odd
        assert "v2.25.0" == running.cluster.replicas["coderd-2"].version
    assert {USUAL} == set(read_versions(running).values())
