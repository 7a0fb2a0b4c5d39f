"""Ways to break the simulated deployment, each as an async context manager that mends it at its end.

Nothing here touches the exporter: what breaks is a server, a port, a certificate, a row, a role or
a file that somebody else would own.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from exporter.demo import fault_proxy, faults

if TYPE_CHECKING:
    from exporter.demo.simulation import Simulation

Breakage = Callable[["Simulation"], AbstractAsyncContextManager[None]]


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
            await simulation.database.hide_proxies()
        simulation.coder.break_with(fault)
        try:
            yield
        finally:
            simulation.coder.heal(fault)
            if simulation.has_database:
                await simulation.database.restore_role()

    return broken


def break_line(fault: fault_proxy.Fault) -> Breakage:
    """The line to PostgreSQL has a fault, for connections that stand too."""

    @asynccontextmanager
    async def broken(simulation: Simulation) -> AsyncIterator[None]:
        line = simulation.database.line
        await line.break_with(fault)
        try:
            yield
        finally:
            await line.heal()

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
