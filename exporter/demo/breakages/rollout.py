"""Versions that change step by step, and one that gets stuck."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from exporter.demo.scenario import Breakage

if TYPE_CHECKING:
    from exporter.demo.simulation import Simulation

# How long a roll-out stays at each step.
ROLL_OUT_STEP_SECONDS = 0.8


def roll_out_stuck(name: str, *, version: str) -> Breakage:
    """One replica has another version than the rest."""

    @asynccontextmanager
    async def broken(simulation: Simulation) -> AsyncIterator[None]:
        usual = simulation.cluster.replicas[name].version
        await simulation.cluster.change_version(name, version)
        try:
            yield
        finally:
            await simulation.cluster.change_version(name, usual)

    return broken


def roll_out(version: str) -> Breakage:
    """A version is rolled out step by step, in the background."""

    @asynccontextmanager
    async def broken(simulation: Simulation) -> AsyncIterator[None]:
        usual = simulation.coder.version
        rolling = simulation.tell(_roll_out(simulation, version))
        try:
            yield
        finally:
            rolling.cancel()
            await asyncio.wait({rolling})
            async for _ in _change_versions(simulation, usual):
                pass

    return broken


async def _roll_out(simulation: Simulation, version: str) -> None:
    async for _ in _change_versions(simulation, version):
        await asyncio.sleep(ROLL_OUT_STEP_SECONDS)


async def _change_versions(simulation: Simulation, version: str) -> AsyncIterator[None]:
    cluster = simulation.cluster
    for name in cluster.replicas:
        await cluster.change_version(name, version)
        yield
    for name, proxy in simulation.proxies.items():
        proxy.version = version
        await simulation.register(name)
    yield
    for name in tuple(cluster.daemons):
        await cluster.change_daemon(name, version=version)
    cluster.forget_reports()
    yield
