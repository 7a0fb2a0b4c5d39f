"""The probe of this host's network, against simulated STUN servers and relays on loopback."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from exporter.clock import SystemClock
from exporter.demo.relay import SimulatedRelay
from exporter.demo.stun import SimulatedStun
from exporter.health.direct_connections import DirectConnectionsResult, assess
from exporter.health.model import OffReason, Section
from exporter.net import resolver
from exporter.net.interfaces import Interface
from exporter.probes.direct_connections import Surroundings, probe
from exporter.targets.model import AccessURL, DerpRelayTarget, DirectConnectionsTarget, StunTarget
from exporter.wire.derp_map import DerpMap, parse_derp_map
from exporter.wire.url import Origin
from tests.support.certificates import Authority
from tests.support.relay_targets import RelayServer, name, relay_target, stun_target
from tests.support.scripted_server import answer, serve


def surroundings(stun: Sequence[StunTarget] = (), relays: Sequence[DerpRelayTarget] = (), **more: Any) -> Surroundings:
    known: dict[str, Any] = {"derp_map": read_map(), "disabled": False, "off": None, "access_origin": None}
    return Surroundings(stun=stun, relays=relays, **(known | more))


def read_map(text: bytes = b'{"Regions": {}}') -> DerpMap:
    return parse_derp_map(text)


async def run(around: Surroundings, *, timeout_seconds: float = 10.0, **more: Any) -> DirectConnectionsResult:
    target = DirectConnectionsTarget(
        deployment="prod",
        section=Section.DIRECT_CONNECTIONS,
        interval_seconds=60.0,
        timeout_seconds=timeout_seconds,
        access_url=AccessURL(url="http://127.0.0.1"),
        **more,
    )
    return await probe(target, surroundings=around, clock=SystemClock())


@pytest.fixture
async def servers() -> AsyncIterator[list[SimulatedStun]]:
    """Two STUN servers, on two addresses of this host."""
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(SimulatedStun(address)) for address in ("127.0.0.1", "127.0.0.2")]


def asked(servers: Sequence[SimulatedStun]) -> list[StunTarget]:
    return [
        stun_target(server.address, server.port, name=name(f"{index}stun0", index))
        for index, server in enumerate(servers, start=1)
    ]


def codes(result: DirectConnectionsResult) -> set[str]:
    return {finding.code for finding in assess(result).findings}


# ---- STUN


async def test_two_servers_agree_on_the_mapping(servers: list[SimulatedStun]) -> None:
    """Two servers on different addresses that see the same port: no hard NAT, UDP is fine."""
    result = await run(surroundings(asked(servers)))
    netcheck = result.netcheck
    assert (True, 2, 2, True, False, False) == (
        netcheck.udp,
        netcheck.stun_servers,
        netcheck.stun_answers,
        netcheck.ipv4_can_send,
        netcheck.mapping_varies,
        netcheck.mapping_unstable,
    )
    assert (True, None, None, None) == (netcheck.ipv4, netcheck.ipv6, netcheck.ipv6_can_send, netcheck.global_ipv6)
    assert netcheck.global_ipv4 is not None
    assert netcheck.global_ipv4.startswith("127.0.0.1:")
    assert {1: "127.0.0.1", 2: "127.0.0.2"} == {reply.region_id: reply.server_address for reply in netcheck.replies}
    assert set() == codes(result)


async def test_a_mapping_that_varies(servers: list[SimulatedStun]) -> None:
    """A server that sees another port than the first: hard NAT."""
    servers[1].faults.port_offset = 7
    result = await run(surroundings(asked(servers)))
    assert (True, {"XNET04"}) == (result.netcheck.mapping_varies, codes(result))


async def test_one_server_says_nothing_about_the_mapping(servers: list[SimulatedStun]) -> None:
    """With a single destination it is not known whether the mapping varies."""
    result = await run(surroundings(asked(servers[:1])))
    assert (True, None) == (result.netcheck.udp, result.netcheck.mapping_varies)


async def test_nobody_answers(servers: list[SimulatedStun]) -> None:
    """Several servers and no answer: UDP is blocked, and nothing is known of mapping and sizes."""
    for server in servers:
        server.faults.silent = True
    result = await run(surroundings(asked(servers)), timeout_seconds=0.5)
    netcheck = result.netcheck
    assert (False, False, True, 2, 0) == (
        netcheck.udp,
        netcheck.ipv4,
        netcheck.ipv4_can_send,
        netcheck.stun_servers,
        netcheck.stun_answers,
    )
    assert (None, None, None) == (netcheck.mapping_varies, netcheck.global_ipv4, result.path_mtu)
    assert {"XNET03"} == codes(result)


async def test_two_names_of_one_server_have_both_answered(servers: list[SimulatedStun]) -> None:
    """A server that the map names twice is asked once, and has answered for both."""
    twice = [*asked(servers[:1]), stun_target("127.0.0.1", servers[0].port, name=name("9stun0", 9))]
    netcheck = (await run(surroundings(twice))).netcheck
    assert (2, 2, 1) == (netcheck.stun_servers, netcheck.stun_answers, len(netcheck.replies))


async def test_a_server_without_address_was_not_asked() -> None:
    """Where no server has an address nothing was sent, so nothing is known of UDP."""
    netcheck = (await run(surroundings([stun_target("stun.invalid", 3478)]))).netcheck
    assert (None, None, None, 0) == (netcheck.udp, netcheck.ipv4, netcheck.ipv4_can_send, netcheck.stun_servers)


async def test_the_largest_packet_that_passes(servers: list[SimulatedStun]) -> None:
    """What size passes is told of each server; one that takes all shows that the way is wide."""
    servers[0].faults.largest_bytes = 1376
    result = await run(surroundings(asked(servers)), timeout_seconds=3.0)
    assert result.path_mtu is not None
    assert [(1, 1376, 1380), (2, 1500, None)] == [
        (path.region_id, path.passed_bytes, path.failed_bytes) for path in result.path_mtu
    ]
    assert "EIF01" not in codes(result)


async def test_a_narrow_path(servers: list[SimulatedStun]) -> None:
    """No server gets a packet of the wanted size: EIF01."""
    for server in servers:
        server.faults.largest_bytes = 1300
    result = await run(surroundings(asked(servers)), timeout_seconds=3.0)
    assert {"EIF01"} == codes(result)


# ---- relays


async def test_latencies_choose_a_region() -> None:
    """The first relay of each region is timed; scores weigh, regions to avoid do not count."""
    async with RelayServer() as one, RelayServer() as other:
        relays = [relay_target(one.origin, name=name("1a", 1)), relay_target(other.origin, name=name("2a", 2))]
        regions = b'"Regions": {"1": {"RegionID": 1, "Avoid": false}, "2": {"RegionID": 2}}}'
        for of_map, preferred in (
            (b'{"HomeParams": {"RegionScore": {"1": 1e-6}}, ' + regions, 1),
            (b'{"HomeParams": {"RegionScore": {"2": 1e-6}}, ' + regions, 2),
            (b"{" + regions.replace(b'1, "Avoid": false', b'1, "Avoid": true'), 2),
        ):
            netcheck = (await run(surroundings(relays=relays, derp_map=read_map(of_map)))).netcheck
            assert {1, 2} == set(netcheck.region_latency_seconds) == set(netcheck.region_ipv4_latency_seconds)
            assert all(seconds > 0 for seconds in netcheck.region_latency_seconds.values())
            assert ({}, preferred) == (netcheck.region_ipv6_latency_seconds, netcheck.preferred_region)
        assert 3 == one.requests["/derp/latency-check"]


@pytest.mark.parametrize(
    "said",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>",
        b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\n\r\n",
        b"",
    ],
)
async def test_what_is_no_relay_has_no_latency(said: bytes) -> None:
    """A page, a refusal, a redirect or none at all is not measured, so no region is preferred."""
    async with serve(answer(said)) as server:
        netcheck = (await run(surroundings(relays=[relay_target(server.origin())]))).netcheck
    assert ({}, None) == (netcheck.region_latency_seconds, netcheck.preferred_region)


async def test_the_map_says_how_to_verify(tmp_path: Path) -> None:
    """A relay that the map says not to verify is measured all the same."""
    authority = Authority(tmp_path)
    authority.write_server_files(tmp_path / "relay.pem", "relay.test")
    async with RelayServer(certificate=tmp_path / "relay.pem") as server:
        origin = Origin(scheme="https", host="relay.test", port=server.port)
        unverified = relay_target(origin, insecure=True, name=name("1a", 1))
        verified = relay_target(origin, name=name("2a", 2))
        netcheck = (await run(surroundings(relays=[unverified, verified]))).netcheck
    assert {1} == set(netcheck.region_latency_seconds)


async def test_each_host_is_looked_up_once(monkeypatch: pytest.MonkeyPatch, servers: list[SimulatedStun]) -> None:
    """However many relays and servers are on a host, name servers are asked once a run."""
    asked_for: list[str] = []
    resolve = resolver.resolve

    async def counting(host: str, **more: Any) -> resolver.Addresses:
        asked_for.append(host)
        return await resolve(host, **more)

    monkeypatch.setattr(resolver, "resolve", counting)
    async with RelayServer(SimulatedRelay()) as server:
        origin = Origin(scheme="http", host="localhost", port=server.port)
        relays = [relay_target(origin, address=None, name=name(f"{index}a", index)) for index in (1, 2)]
        stun = [stun_target("localhost", servers[0].port, ipv6="")]
        result = await run(surroundings(stun, relays, access_origin=origin))
    assert ["localhost"] == asked_for
    assert ({1, 2}, 1) == (set(result.netcheck.region_ipv4_latency_seconds), result.netcheck.stun_answers)


# ---- interfaces, and what is known of the deployment


async def test_the_interface_on_the_way_is_marked(servers: list[SimulatedStun]) -> None:
    """Loopback is on the way to what is on this host, and told towards what."""
    async with RelayServer() as server:
        relays = [relay_target(server.origin)]
        result = await run(surroundings(asked(servers), relays, access_origin=server.origin))
    ways = {interface.name: interface for interface in result.interfaces if interface.on_the_way}
    assert {"lo"} == set(ways)
    assert ("coder", "relay", "stun") == ways["lo"].towards
    assert not ways["lo"].tunnel
    assert any(address.startswith("127.0.0.1/") for address in ways["lo"].addresses)


async def test_a_name_pattern_makes_a_tunnel(servers: list[SimulatedStun]) -> None:
    """An interface of a configured name counts as a tunnel whatever its kind."""
    result = await run(surroundings(asked(servers)), tunnel_interfaces=("wg*", "l?"))
    assert {"XNET05"} == codes(result)


async def test_interfaces_that_cannot_be_listed_are_not_known(
    monkeypatch: pytest.MonkeyPatch, servers: list[SimulatedStun]
) -> None:
    """Where the system does not tell its interfaces the rest is measured all the same."""

    def refuse() -> tuple[Interface, ...]:
        raise PermissionError("not for you")

    monkeypatch.setattr("exporter.net.interfaces._read_interfaces", refuse)
    result = await run(surroundings(asked(servers)))
    assert ((), True) == (result.interfaces, result.netcheck.udp)


async def test_without_a_map_nothing_is_known() -> None:
    """Before there is a map all is None, but for the interfaces and what the system says of itself."""
    result = await run(surroundings(derp_map=None, disabled=None))
    netcheck = result.netcheck
    assert (None, False, False) == (result.disabled, result.map_known, result.map_has_stun)
    assert (None, None, None, None, None, None) == (
        netcheck.udp,
        netcheck.ipv4,
        netcheck.ipv6,
        netcheck.mapping_varies,
        netcheck.preferred_region,
        result.path_mtu,
    )
    assert result.interfaces
    assert set() == codes(result)


async def test_what_the_deployment_says_is_handed_on() -> None:
    """A map that is refused, and direct connections that are disabled, stand in the result."""
    result = await run(surroundings(derp_map=None, disabled=True, off=OffReason.FORBIDDEN))
    assert (True, OffReason.FORBIDDEN) == (result.disabled, result.off)
