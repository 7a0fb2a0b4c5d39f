"""The provisioner daemons, their list, and the jobs that wait for them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from exporter.demo import faults
from exporter.demo.scenario import Breakage
from exporter.demo.state import ORGANIZATION_ID

if TYPE_CHECKING:
    from exporter.demo.simulation import Simulation


def change_daemon(name: str, **facts: Any) -> Breakage:
    """A provisioner daemon has other facts, as its row tells them."""

    @asynccontextmanager
    async def broken(simulation: Simulation) -> AsyncIterator[None]:
        cluster = simulation.cluster
        usual = {fact: getattr(cluster.daemons[name], fact) for fact in facts}
        await cluster.change_daemon(name, **facts)
        try:
            yield
        finally:
            await cluster.change_daemon(name, **usual)

    return broken


def silence_daemons(age_seconds: float = 180.0) -> Breakage:
    """No provisioner daemon has shown a sign of life for so long."""

    @asynccontextmanager
    async def broken(simulation: Simulation) -> AsyncIterator[None]:
        cluster = simulation.cluster
        cluster.held |= cluster.daemons.keys()
        for name in tuple(cluster.daemons):
            await cluster.change_daemon(name, last_seen_timestamp_seconds=simulation.now() - age_seconds)
        try:
            yield
        finally:
            cluster.held.clear()
            await cluster.beat()

    return broken


def hide_daemon_list() -> Breakage:
    """The API fails at the list of provisioner daemons, and the exporter's role may not read their table."""

    @asynccontextmanager
    async def broken(simulation: Simulation) -> AsyncIterator[None]:
        fault = faults.Answer(
            path=f"/api/v2/organizations/{ORGANIZATION_ID}/provisionerdaemons",
            status=500,
            body='{"message": "Internal error fetching provisioner daemons.", "detail": "timeout"}',
            content_type="application/json",
        )
        if simulation.has_database:
            await simulation.database.hide_table("provisioner_daemons")
        simulation.coder.break_with(fault)
        try:
            yield
        finally:
            simulation.coder.heal(fault)
            if simulation.has_database:
                await simulation.database.restore_role()

    return broken


def let_job_wait(tags: Mapping[str, str], age_seconds: float = 600.0) -> Breakage:
    """A workspace build waits for a provisioner daemon with these tags."""

    @asynccontextmanager
    async def broken(simulation: Simulation) -> AsyncIterator[None]:
        job_id = await simulation.database.add_waiting_job(tags=tags, age_seconds=age_seconds)
        try:
            yield
        finally:
            await simulation.database.delete_job(job_id)

    return broken
