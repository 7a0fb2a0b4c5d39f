"""The STUN server's probe: families apart, refusal told from silence, what the map switches off."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from exporter.clock import SystemClock
from exporter.demo.listener import have_ipv6_loopback
from exporter.demo.stun import SimulatedStun, StunFaults
from exporter.errors import Phase, Reason
from exporter.health.stun import StunResult, assess_stun
from exporter.net.reach import Lookup
from exporter.probes.stun import choose_addresses, probe
from tests.conftest import skip_or_fail
from tests.support.relay_targets import stun_target


@pytest.fixture
async def server() -> AsyncIterator[SimulatedStun]:
    async with SimulatedStun() as running:
        yield running


async def run(host: str, port: int, **more: Any) -> StunResult:
    return await probe(stun_target(host, port, **more), clock=SystemClock())


async def test_an_answer_tells_round_trip_and_mapping(server: SimulatedStun) -> None:
    """A server that answers is up over its family, after one request, and has seen our address."""
    result = await run("127.0.0.1", server.port)
    (attempt,) = result.attempts
    assert (True, "ipv4", "127.0.0.1", "127.0.0.1", 1) == (
        attempt.up,
        attempt.family,
        attempt.address,
        attempt.mapped_address,
        attempt.attempts,
    )
    assert attempt.round_trip_seconds is not None
    assert attempt.round_trip_seconds > 0
    assert (1, "Region 1", "1stun0", None) == (result.region_id, result.region_name, result.node, result.failure)


async def test_a_lost_request_is_repeated(server: SimulatedStun) -> None:
    """A request that gets lost costs a repeat, which is counted."""
    server.faults.ignore_next = 1
    (attempt,) = (await run("127.0.0.1", server.port)).attempts
    assert (True, 2) == (attempt.up, attempt.attempts)


@pytest.mark.parametrize(
    ("faults", "reason"),
    [
        ({"silent": True}, Reason.TIMEOUT),
        ({"garbage": True}, Reason.PROTOCOL),
        ({"error": True}, Reason.PROTOCOL),
    ],
)
async def test_a_server_with_a_fault(server: SimulatedStun, faults: dict[str, bool], reason: Reason) -> None:
    """Silence, nonsense and an error are told apart, in time."""
    server.faults = StunFaults(**faults)
    result = await run("127.0.0.1", server.port, timeout_seconds=0.3 if reason is Reason.TIMEOUT else 1.0)
    assert result.failure is not None
    assert (reason, False) == (result.failure.reason, result.up)
    assert result.failure == assess_stun(result).failure


async def test_a_closed_port_is_a_refusal(server: SimulatedStun) -> None:
    """A port that nobody has open is told by ICMP, and not waited for."""
    server.close()
    result = await run("127.0.0.1", server.port, timeout_seconds=60.0)
    assert Reason.REFUSED is (result.failure and result.failure.reason)


async def test_the_families_are_told_apart(server: SimulatedStun) -> None:
    """Of a name with both families each has its own verdict, and one that answers is enough."""
    if not have_ipv6_loopback():
        skip_or_fail("this host has no ::1")
    result = await run("stun.test", server.port, ipv4="127.0.0.1", ipv6="::1", timeout_seconds=1.0)
    assert {"ipv4": True, "ipv6": False} == {attempt.family: attempt.up for attempt in result.attempts}
    assert (True, None) == (result.up, result.failure)


async def test_a_name_without_address() -> None:
    """A name that does not exist is the lookup's failure, and nobody was asked."""
    result = await run("stun.invalid", 3478, timeout_seconds=30.0)
    assert result.failure is not None
    assert (Reason.RESOLVE, Phase.RESOLVE, ()) == (result.failure.reason, result.failure.phase, result.attempts)
    assert not result.no_route


async def test_a_written_address_does_without_the_name(server: SimulatedStun) -> None:
    """Where the map writes one address, a name without any does not matter."""
    result = await run("stun.invalid", server.port, ipv4="127.0.0.1", timeout_seconds=30.0)
    assert (True, ["ipv4"]) == (result.up, [attempt.family for attempt in result.attempts])


async def test_who_needs_its_name_is_told_from_who_has_an_address(server: SimulatedStun) -> None:
    """When name servers fall silent the first one is lost, too."""
    servers: tuple[tuple[str, dict[str, str]], ...] = (
        ("localhost", {}),
        ("127.0.0.1", {}),
        ("a", {"ipv4": "127.0.0.1"}),
    )
    asked = [await run(host, server.port, **more) for host, more in servers]
    assert [True, False, False] == [result.by_name for result in asked]


async def test_a_server_without_families_is_not_judged() -> None:
    """A map that switches both families off says nothing about the server."""
    result = await run("stun.invalid", 3478, ipv4="", ipv6="")
    assert ((), None, True) == (result.attempts, result.failure, result.no_route)
    assert frozenset({"XSTUN01"}) == assess_stun(result).not_judged


async def test_no_way_to_a_family_says_nothing() -> None:
    """An address to which this host has no route is no failure of the server."""
    # of the documentation's network, to which nobody has a route unless there is a default one
    result = await run("stun.test", 3478, ipv4="", ipv6="2001:db8::1", timeout_seconds=0.2)
    (attempt,) = result.attempts
    assert not attempt.up
    assert attempt.no_route == result.no_route
    assert attempt.no_route == (result.failure is None)


@pytest.mark.parametrize(
    ("of_map", "looked_up", "expected"),
    [
        ({}, (("192.0.2.1", "192.0.2.2"), ("2001:db8::1",)), {"ipv4": "192.0.2.1", "ipv6": "2001:db8::1"}),
        ({"ipv4": "198.51.100.1"}, (("192.0.2.1",), ("2001:db8::1",)), {"ipv4": "198.51.100.1", "ipv6": "2001:db8::1"}),
        ({"ipv4": ""}, (("192.0.2.1",), ("2001:db8::1",)), {"ipv6": "2001:db8::1"}),
        ({"ipv6": ""}, ((), ("2001:db8::1",)), {}),
        ({}, (("192.0.2.1",), ()), {"ipv4": "192.0.2.1"}),
        ({"ipv4": "198.51.100.1"}, None, {"ipv4": "198.51.100.1"}),
        ({}, None, {}),
    ],
)
def test_what_is_written_goes_before_what_is_looked_up(
    of_map: dict[str, str], looked_up: tuple[tuple[str, ...], tuple[str, ...]] | None, expected: dict[str, str]
) -> None:
    """One address a family: the map's, else the name's first; none where the map switches it off."""
    lookup = None if looked_up is None else Lookup(ipv4=looked_up[0], ipv6=looked_up[1], seconds=0.001)
    assert expected == choose_addresses(stun_target("stun.test", 3478, **of_map), lookup)
