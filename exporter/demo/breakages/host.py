"""The network of the exporter's own host."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

from exporter.demo import fault_proxy
from exporter.demo.breakages.stun import change_stun
from exporter.demo.scenario import Breakage

if TYPE_CHECKING:
    from exporter.demo.simulation import Simulation


def lose_network() -> Breakage:
    """Nobody answers any more, neither the deployment nor the reference address: packets get lost."""

    @asynccontextmanager
    async def broken(simulation: Simulation) -> AsyncIterator[None]:
        servers = (
            simulation.coder,
            *simulation.cluster.replicas.values(),
            *simulation.proxies.values(),
            *simulation.network.relays.values(),
        )
        reference = simulation.network.reference
        async with AsyncExitStack() as stack:
            for server in servers:
                stack.push_async_callback(server.accept_connections)
                server.swallow_connections()
            await stack.enter_async_context(change_stun(silent=True)(simulation))
            if simulation.has_database:
                line = simulation.database.line
                stack.push_async_callback(line.heal)
                await line.break_with(fault_proxy.Lost())
            stack.push_async_callback(reference.open, "ipv4")
            reference.silence("ipv4")
            yield

    return broken
