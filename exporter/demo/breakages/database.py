"""PostgreSQL: the ways there, the rights of the exporter's role, and which server answers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from exporter.demo import fault_proxy
from exporter.demo.breakages.lines import faulty_lines
from exporter.demo.scenario import Breakage

if TYPE_CHECKING:
    from exporter.demo.simulation import Simulation


def break_lines(fault: fault_proxy.Fault) -> Breakage:
    """Every line to PostgreSQL has a fault, the exporter's and that of each replica."""

    @asynccontextmanager
    async def broken(simulation: Simulation) -> AsyncIterator[None]:
        async with faulty_lines((simulation.database.line, *_lines(simulation)), fault, simulation):
            yield

    return broken


def break_lines_of(*names: str, fault: fault_proxy.Fault) -> Breakage:
    """The lines of these replicas to PostgreSQL have a fault."""

    @asynccontextmanager
    async def broken(simulation: Simulation) -> AsyncIterator[None]:
        async with faulty_lines(_lines(simulation, *names), fault, simulation):
            yield

    return broken


def lock_table(table: str) -> Breakage:
    """A table is locked, as by a migration that has got stuck: whoever reads it waits."""

    @asynccontextmanager
    async def broken(simulation: Simulation) -> AsyncIterator[None]:
        async with simulation.database.lock_table(table):
            yield

    return broken


def change_password() -> Breakage:
    """The exporter's role gets another password, and its sessions are ended."""

    @asynccontextmanager
    async def broken(simulation: Simulation) -> AsyncIterator[None]:
        await simulation.database.lock_out()
        try:
            yield
        finally:
            await simulation.database.restore_role()

    return broken


def use_standby() -> Breakage:
    """Connections lead to a standby instead of the primary."""

    @asynccontextmanager
    async def broken(simulation: Simulation) -> AsyncIterator[None]:
        simulation.database.lead_to_standby()
        try:
            yield
        finally:
            simulation.database.lead_to_primary()

    return broken


def _lines(simulation: Simulation, *names: str) -> tuple[fault_proxy.FaultProxy, ...]:
    replicas = simulation.cluster.replicas
    databases = (replicas[name].database for name in names or replicas)
    return tuple(database.line for database in databases if database is not None)
