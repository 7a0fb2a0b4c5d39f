"""The STUN servers, and whether the map names them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from exporter.demo.scenario import Breakage

if TYPE_CHECKING:
    from exporter.demo.simulation import Simulation


def change_stun(*numbers: int, **faults: Any) -> Breakage:
    """STUN servers play faults of `StunFaults`: those of these numbers, or all."""

    @asynccontextmanager
    async def broken(simulation: Simulation) -> AsyncIterator[None]:
        servers = [simulation.network.stun[number] for number in numbers or range(len(simulation.network.stun))]
        before = [server.faults for server in servers]
        for server in servers:
            server.faults = replace(server.faults, **faults)
        try:
            yield
        finally:
            for server, usual in zip(servers, before, strict=True):
                server.faults = usual

    return broken


def leave_stun_out() -> Breakage:
    """The map names no STUN server."""

    @asynccontextmanager
    async def broken(simulation: Simulation) -> AsyncIterator[None]:
        simulation.network.names_stun = False
        try:
            yield
        finally:
            simulation.network.names_stun = True

    return broken


def disable_direct_connections() -> Breakage:
    """The deployment disables direct connections."""

    @asynccontextmanager
    async def broken(simulation: Simulation) -> AsyncIterator[None]:
        simulation.coder.direct_disabled = True
        try:
            yield
        finally:
            simulation.coder.direct_disabled = False

    return broken
