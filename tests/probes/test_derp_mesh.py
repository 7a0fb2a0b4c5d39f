"""The mesh's probe, against simulated relays that form one or do not."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace

import pytest

from exporter.clock import SystemClock
from exporter.demo.relay import RelayFaults, SimulatedRelay, Stall
from exporter.errors import Reason
from exporter.health.derp import MeshResult, assess_mesh
from exporter.probes.derp_mesh import probe
from exporter.wire.url import Origin
from tests.support.relay_targets import RelayServer, mesh_target


@pytest.fixture
async def servers() -> AsyncIterator[list[RelayServer]]:
    """Three relays of one mesh."""
    mesh: list[SimulatedRelay] = []
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(RelayServer(SimulatedRelay(mesh=mesh))) for _ in range(3)]


async def run(*servers: RelayServer, timeout_seconds: float = 10.0) -> MeshResult:
    return await probe(
        mesh_target(*(server.origin for server in servers), timeout_seconds=timeout_seconds), clock=SystemClock()
    )


def ways(result: MeshResult, *, up: bool) -> set[str]:
    return {path.source + path.destination for path in result.paths if (path.failure is None) == up}


def seen(result: MeshResult) -> set[str]:
    return {finding.code for finding in assess_mesh(result).findings}


async def test_every_ordered_pair_is_tried(servers: list[RelayServer]) -> None:
    """In a whole mesh a message goes over each of the six ways, with one login a relay."""
    result = await run(*servers)
    assert ({"ab", "ac", "ba", "bc", "ca", "cb"}, set(), ()) == (
        ways(result, up=True),
        ways(result, up=False),
        result.unreached,
    )
    assert all(path.round_trip_seconds is not None and path.round_trip_seconds > 0 for path in result.paths)
    assert [1, 1, 1] == [server.relay.logins for server in servers]
    assert set() == seen(result)


async def test_relays_that_do_not_know_one_another() -> None:
    """Without a mesh every way fails in words, and XDERP04 says so."""
    async with RelayServer() as one, RelayServer() as other:
        result = await run(one, other)
    assert ({"ab", "ba"}, {"XDERP04"}) == (ways(result, up=False), seen(result))
    failures = {path.source: path.failure for path in result.paths}
    assert failures["a"] is not None
    assert Reason.TIMEOUT is failures["a"].reason
    assert f"from 127.0.0.1:{one.port} to 127.0.0.1:{other.port}" in failures["a"].message


async def test_one_relay_that_is_cut_off(servers: list[RelayServer]) -> None:
    """Only the ways from and to the relay that is cut off the mesh fail."""
    servers[0].relay.faults.mesh_cut = True
    result = await run(*servers)
    assert ({"bc", "cb"}, {"ab", "ac", "ba", "ca"}) == (ways(result, up=True), ways(result, up=False))
    assert {"XDERP04"} == seen(result)


async def test_messages_that_get_lost_at_first(servers: list[RelayServer]) -> None:
    """A mesh that learns a client late works after a repeat."""
    for server in servers:
        server.relay.faults.drop_first = 2
    result = await run(*servers)
    assert (6, set()) == (len(ways(result, up=True)), seen(result))


async def test_a_relay_that_lets_nobody_in_has_no_ways(servers: list[RelayServer]) -> None:
    """A dead relay is named and has no ways to judge; the others have theirs."""
    servers[1].refuse_connections()
    result = await run(*servers)
    assert (("b",), {"ac", "ca"}, 2) == (result.unreached, ways(result, up=True), len(result.paths))
    assert set() == seen(result)


async def test_a_silent_relay_leaves_time_for_the_others(servers: list[RelayServer]) -> None:
    """A relay that hangs eats half of the time at most."""
    servers[2].relay.faults = RelayFaults(stall=Stall.BEFORE_ANSWER)
    result = await run(*servers, timeout_seconds=1.0)
    assert (("c",), {"ab", "ba"}) == (result.unreached, ways(result, up=True))


async def test_a_relay_that_works_by_websocket_only(servers: list[RelayServer]) -> None:
    """It has its place in the mesh all the same."""
    servers[0].relay.faults = RelayFaults(raw_status=403)
    result = await run(*servers)
    assert (6, ()) == (len(ways(result, up=True)), result.unreached)


async def test_a_relay_that_goes_meanwhile_is_down(servers: list[RelayServer]) -> None:
    """A relay that cuts its clients off in the middle is unreached, which is not the mesh's fault."""
    servers[0].relay.faults = RelayFaults(cut_within_frame=True)
    servers[1].relay.faults = RelayFaults(cut_within_frame=True)
    result = await run(*servers[:2])
    # whose message came first decides who was cut off
    assert (True, ()) == (set(result.unreached) in ({"a"}, {"b"}, {"a", "b"}), result.paths)
    assert set() == seen(result)


async def test_a_name_without_address_is_unreached(servers: list[RelayServer]) -> None:
    """A relay whose name has no address is left out, and nothing can be said of a mesh of one."""
    target = mesh_target(servers[0].origin, servers[1].origin)
    nowhere = replace(
        target.nodes[1].endpoint, origin=Origin(scheme="http", host="relay.invalid", port=80), address=None
    )
    nodes = (target.nodes[0], replace(target.nodes[1], endpoint=nowhere))
    result = await probe(replace(target, nodes=nodes, timeout_seconds=60.0), clock=SystemClock())
    assert ((), ("b",)) == (result.paths, result.unreached)
