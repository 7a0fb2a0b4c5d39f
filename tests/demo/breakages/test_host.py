"""The exporter's host loses its network."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from exporter.demo.listener import have_silent_ports
from exporter.demo.scenarios.table import SCENARIOS
from exporter.demo.simulation import Simulation
from tests.support.postgres import INSTALLATIONS, need_installation

pytestmark = pytest.mark.skipif(not have_silent_ports(), reason="only tried on Linux")


def list_ports(simulation: Simulation) -> Iterator[int]:
    """Return every TCP port that the exporter talks to."""
    yield simulation.coder.port
    for servers in (simulation.cluster.replicas, simulation.proxies, simulation.network.relays):
        yield from (server.port for server in servers.values())
    yield simulation.network.reference.port
    if simulation.has_database:
        yield simulation.database.line.port


async def takes_connections(port: int) -> bool:
    """Whether somebody takes a connection; a refused one would be an error."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as tried:
        tried.setblocking(False)
        try:
            async with asyncio.timeout(0.1):
                await asyncio.get_running_loop().sock_connect(tried, ("127.0.0.1", port))
        except TimeoutError:
            return False
    return True


@pytest.mark.parametrize("database", [False, True])
async def test_nobody_answers_until_it_is_over(database: bool, tmp_path: Path) -> None:
    """Every port swallows what comes, the reference address too; no port is closed. Afterwards all is as before."""
    if database:
        need_installation(INSTALLATIONS[0])
    async with Simulation(directory=tmp_path, database=database) as simulation:
        ports = list(list_ports(simulation))
        seen = []
        for step in (simulation.apply, simulation.revert):
            await step(SCENARIOS["XEXP01"])
            seen.append({await takes_connections(port) for port in ports})
            seen.append({server.faults.silent for server in simulation.network.stun})
        assert 10 + database == len(ports)
    assert [{False}, {True}, {True}, {False}] == seen
