"""The workspace proxies, their ports, and the list of them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from exporter.demo import faults
from exporter.demo.scenario import Breakage

if TYPE_CHECKING:
    from exporter.demo.simulation import Simulation


def break_proxy(name: str, make: Callable[[], faults.Fault]) -> Breakage:
    """A workspace proxy plays a fault."""

    @asynccontextmanager
    async def broken(simulation: Simulation) -> AsyncIterator[None]:
        fault = make()
        simulation.proxies[name].break_with(fault)
        try:
            yield
        finally:
            simulation.proxies[name].heal(fault)

    return broken


def close_proxy(name: str) -> Breakage:
    """The port of a workspace proxy is closed, and the tables do not know why."""

    @asynccontextmanager
    async def broken(simulation: Simulation) -> AsyncIterator[None]:
        simulation.proxies[name].refuse_connections()
        try:
            yield
        finally:
            await simulation.proxies[name].accept_connections()
            await simulation.register(name)

    return broken


def stop_proxy(name: str) -> Breakage:
    """A workspace proxy is stopped in an orderly way: its replica's row gets its end."""

    @asynccontextmanager
    async def broken(simulation: Simulation) -> AsyncIterator[None]:
        simulation.proxies[name].refuse_connections()
        await simulation.mark_stopped(name)
        try:
            yield
        finally:
            await simulation.proxies[name].accept_connections()
            await simulation.register(name)

    return broken


def create_proxy(name: str) -> Breakage:
    """A workspace proxy is created that never registers."""

    @asynccontextmanager
    async def broken(simulation: Simulation) -> AsyncIterator[None]:
        await simulation.create_proxy(name)
        try:
            yield
        finally:
            await simulation.delete_proxy(name)

    return broken


def hide_proxy_list() -> Breakage:
    """The API fails at the list of proxies, and the exporter's role may not read their table."""

    @asynccontextmanager
    async def broken(simulation: Simulation) -> AsyncIterator[None]:
        fault = faults.Answer(
            path="/api/v2/workspaceproxies",
            status=500,
            body='{"message": "Internal server error.", "detail": "fetch workspace proxies: timeout"}',
            content_type="application/json",
        )
        if simulation.has_database:
            await simulation.database.hide_table("workspace_proxies")
        simulation.coder.break_with(fault)
        simulation.coder.state.proxies_failure = "fetch workspace proxies: timeout"
        simulation.cluster.forget_reports()
        try:
            yield
        finally:
            simulation.coder.state.proxies_failure = ""
            simulation.cluster.forget_reports()
            simulation.coder.heal(fault)
            if simulation.has_database:
                await simulation.database.restore_role()

    return broken
