"""The replicas of coderd, and their ways from inside to the access URL."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from exporter.demo import fault_proxy
from exporter.demo.breakages.lines import faulty_lines
from exporter.demo.scenario import Breakage

if TYPE_CHECKING:
    from exporter.demo.simulation import Simulation


def close_replica(name: str) -> Breakage:
    """The port of a replica is closed; it goes on beating in the table."""

    @asynccontextmanager
    async def broken(simulation: Simulation) -> AsyncIterator[None]:
        replica = simulation.cluster.replicas[name]
        replica.refuse_connections()
        try:
            yield
        finally:
            await replica.accept_connections()

    return broken


def break_hairpins(fault: fault_proxy.Fault, *names: str) -> Breakage:
    """The way from these replicas to the access URL has a fault, or that of all."""

    @asynccontextmanager
    async def broken(simulation: Simulation) -> AsyncIterator[None]:
        async with faulty_lines(_hairpins(simulation, *names), fault, simulation):
            yield

    return broken


def lead_hairpins_past_front() -> Breakage:
    """The name of the access URL leads each replica to the first one's own port, past the front."""

    @asynccontextmanager
    async def broken(simulation: Simulation) -> AsyncIterator[None]:
        hairpins = _hairpins(simulation)
        first = next(iter(simulation.cluster.replicas.values()))
        for hairpin in hairpins:
            hairpin.retarget("127.0.0.1", first.port)
        simulation.cluster.forget_reports()
        try:
            yield
        finally:
            for hairpin in hairpins:
                hairpin.retarget("127.0.0.1", simulation.coder.port)
            simulation.cluster.forget_reports()

    return broken


def _hairpins(simulation: Simulation, *names: str) -> tuple[fault_proxy.FaultProxy, ...]:
    replicas = simulation.cluster.replicas
    return tuple(replicas[name].inside.hairpin for name in names or replicas)
