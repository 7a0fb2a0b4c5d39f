"""What stands at the access URL: the Coder server as everybody outside meets it, its port, its certificate, and the
file that names it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from exporter.demo import faults
from exporter.demo.scenario import Breakage

if TYPE_CHECKING:
    from exporter.demo.simulation import Simulation


def break_coder(make: Callable[[Simulation], faults.Fault], *, cut: bool = False) -> Breakage:
    """The Coder server plays a fault.

    Args:
        cut: Connections that stand are cut, so that sockets that were opened before meet it too.
    """

    @asynccontextmanager
    async def broken(simulation: Simulation) -> AsyncIterator[None]:
        fault = make(simulation)
        simulation.coder.break_with(fault)
        if cut:
            simulation.coder.cut_connections()
        try:
            yield
        finally:
            simulation.coder.heal(fault)

    return broken


def close_coder(*families: str) -> Breakage:
    """The port of the access URL is closed, of these address families or of all."""

    @asynccontextmanager
    async def broken(simulation: Simulation) -> AsyncIterator[None]:
        simulation.coder.refuse_connections(*families)
        try:
            yield
        finally:
            await simulation.coder.accept_connections(*families)

    return broken


def show_certificate(name: str) -> Breakage:
    """The access URL shows another of the simulation's certificates."""

    @asynccontextmanager
    async def broken(simulation: Simulation) -> AsyncIterator[None]:
        await simulation.coder.show_certificate(simulation.certificates[name])
        try:
            yield
        finally:
            await simulation.coder.show_certificate(simulation.certificates["good"])

    return broken


def write_access_url(text: str) -> Breakage:
    """The file that names the access URL holds this text."""

    @asynccontextmanager
    async def broken(simulation: Simulation) -> AsyncIterator[None]:
        await asyncio.to_thread(simulation.url_file.write_text, text)
        try:
            yield
        finally:
            await asyncio.to_thread(simulation.url_file.write_text, simulation.coder.url + "\n")

    return broken


def break_everywhere(make: Callable[[], faults.Fault]) -> Breakage:
    """The front and every replica play a fault: it is Coder itself that has it."""

    @asynccontextmanager
    async def broken(simulation: Simulation) -> AsyncIterator[None]:
        fault = make()
        servers = (simulation.coder, *simulation.cluster.replicas.values())
        for server in servers:
            server.break_with(fault)
        try:
            yield
        finally:
            for server in servers:
                server.heal(fault)

    return broken
