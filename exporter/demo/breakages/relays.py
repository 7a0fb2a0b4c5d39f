"""The DERP relays, and what clients are told about them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from exporter.demo.scenario import Breakage

if TYPE_CHECKING:
    from exporter.demo.simulation import Simulation


def change_relay(name: str, **faults: Any) -> Breakage:
    """A relay plays faults of `RelayFaults`: `coder`, a proxy, or a node of the mesh."""

    @asynccontextmanager
    async def broken(simulation: Simulation) -> AsyncIterator[None]:
        relay = simulation.relay(name).relay
        before = relay.faults
        relay.faults = replace(before, **faults)
        try:
            yield
        finally:
            relay.faults = before

    return broken


def close_relay(node: str) -> Breakage:
    """The port of a relay of the mesh is closed."""

    @asynccontextmanager
    async def broken(simulation: Simulation) -> AsyncIterator[None]:
        server = simulation.network.relays[node]
        server.refuse_connections()
        try:
            yield
        finally:
            await server.accept_connections()

    return broken


def show_relay_certificate(node: str, name: str) -> Breakage:
    """A relay of the mesh shows another of the simulation's certificates."""

    @asynccontextmanager
    async def broken(simulation: Simulation) -> AsyncIterator[None]:
        server = simulation.network.relays[node]
        await server.show_certificate(simulation.certificates[name])
        try:
            yield
        finally:
            await server.show_certificate(simulation.certificates["good"])

    return broken


def force_websockets() -> Breakage:
    """The deployment forces its clients to WebSocket."""

    @asynccontextmanager
    async def broken(simulation: Simulation) -> AsyncIterator[None]:
        simulation.coder.force_websockets = True
        try:
            yield
        finally:
            simulation.coder.force_websockets = False

    return broken
