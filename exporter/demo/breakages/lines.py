"""Lines that can be broken (`fault_proxy`), several of them at once."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from exporter.demo import fault_proxy

if TYPE_CHECKING:
    from exporter.demo.simulation import Simulation


@asynccontextmanager
async def faulty_lines(
    lines: Sequence[fault_proxy.FaultProxy], fault: fault_proxy.Fault, simulation: Simulation
) -> AsyncIterator[None]:
    """Put a fault on all of these lines; reports that were made before are forgotten."""
    for line in lines:
        await line.break_with(fault)
    simulation.cluster.forget_reports()
    try:
        yield
    finally:
        for line in lines:
            await line.heal()
        simulation.cluster.forget_reports()
