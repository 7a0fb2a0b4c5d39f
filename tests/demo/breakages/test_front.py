"""What is done to what stands at the access URL, as a client meets it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from exporter.demo import faults
from exporter.demo.breakages import front
from exporter.demo.scenario import Breakage
from exporter.demo.simulation import Simulation

BUILD_INFO = "/api/v2/buildinfo"


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Simulation]:
    """The simulation without a database."""
    async with Simulation(directory=tmp_path, database=False) as started:
        yield started


async def ask(simulation: Simulation, http: aiohttp.ClientSession, url: str) -> int | str:
    """Return the status of an answer, or the kind of error."""
    try:
        async with http.get(url + BUILD_INFO, ssl=simulation.trust) as answer:
            return answer.status
    except aiohttp.ClientConnectorCertificateError:
        return "certificate"
    except aiohttp.ClientConnectionError:
        return "connection"


@pytest.mark.parametrize(
    ("breakage", "met"),
    [
        pytest.param(front.break_coder(lambda _: faults.BadGateway()), 502, id="fault"),
        pytest.param(front.close_coder(), "connection", id="closed"),
        pytest.param(front.show_certificate("expired"), "certificate", id="expired"),
        pytest.param(front.show_certificate("other-name"), "certificate", id="foreign name"),
    ],
)
async def test_the_front_alone_is_broken(
    breakage: Breakage, met: int | str, running: Simulation, http: aiohttp.ClientSession
) -> None:
    """A client meets it there until it is over; the replicas behind answer all the time."""
    seen = []
    inside = running.cluster.replicas["coderd-1"].url
    async with breakage(running):
        seen.append((await ask(running, http, running.coder.url), await ask(running, http, inside)))
    seen.append((await ask(running, http, running.coder.url), await ask(running, http, inside)))
    assert [(met, 200), (200, 200)] == seen


async def test_a_family_alone_is_refused(running: Simulation) -> None:
    """The port is open by the other one, where there is one, and by all afterwards."""
    hosts = {"ipv4": "127.0.0.1", "ipv6": "::1"}
    families = set(running.coder.listener.families)

    async def find_open() -> set[str]:
        found = set()
        for family in families:
            try:
                _, writer = await asyncio.open_connection(hosts[family], running.coder.port)
            except ConnectionRefusedError:
                continue
            writer.close()
            found.add(family)
        return found

    for family in families:
        async with front.close_coder(family)(running):
            assert families - {family} == await find_open()
        assert families == await find_open()


@pytest.mark.parametrize("cut", [False, True])
async def test_connections_that_stand_are_cut_if_wanted(cut: bool, running: Simulation) -> None:
    """A client that is connected notices the fault at once, or only by its next connection."""
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", running.coder.port, ssl=running.trust, server_hostname="localhost"
    )
    request = f"GET {BUILD_INFO} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
    writer.write(request)
    assert b"HTTP/1.1 200 OK\r\n" == await reader.readline()
    await reader.readuntil(b"}")
    async with front.break_coder(lambda _: faults.BadGateway(), cut=cut)(running):
        if cut:
            with pytest.raises((asyncio.IncompleteReadError, ConnectionResetError)):
                await reader.readexactly(1 << 20)
        else:
            writer.write(request)
            while not (line := await reader.readline()).startswith(b"HTTP/1.1"):
                pass
            assert b"HTTP/1.1 502 Bad Gateway\r\n" == line
    writer.close()


async def test_the_file_of_the_access_url_is_written_and_restored(running: Simulation) -> None:
    """The exporter reads it anew at each run."""
    before = running.url_file.read_text()
    async with front.write_access_url("not a url")(running):
        assert "not a url" == running.url_file.read_text()
    assert before == running.url_file.read_text() == running.coder.url + "\n"


async def test_a_fault_everywhere_is_that_of_the_replicas_too(running: Simulation, http: aiohttp.ClientSession) -> None:
    """Nobody answers otherwise; afterwards all are well."""
    servers = (running.coder, *running.cluster.replicas.values())
    async with front.break_everywhere(faults.BadGateway)(running):
        assert {502} == {await ask(running, http, server.url) for server in servers}
    assert {200} == {await ask(running, http, server.url) for server in servers}
