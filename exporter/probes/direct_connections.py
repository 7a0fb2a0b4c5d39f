"""This host's network on the way to a deployment: what `coder netcheck` looks at, as far as it can
be measured honestly without root.

In: a target, and what is known of the deployment's map. Out: a `DirectConnectionsResult`. Never
judges.

Source: derp-stun, sections 5 and 7
"""

from __future__ import annotations

import asyncio
import fnmatch
import socket
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from exporter.clock import Clock
from exporter.errors import Phase, ProbeError
from exporter.health.derp import NodeName
from exporter.health.direct_connections import (
    DirectConnectionsResult,
    InterfaceFacts,
    MappedReply,
    Netcheck,
    PathMTUFacts,
)
from exporter.health.model import OffReason
from exporter.health.nat import judge_mapping
from exporter.net import http, interfaces, reach, stun_client
from exporter.net.interfaces import Interface
from exporter.net.reach import Lookup
from exporter.net.relay import find_relay
from exporter.net.stun_client import OneSocketAnswers
from exporter.probes.stun import Family, choose_addresses, needs_lookup
from exporter.targets.model import DerpRelayTarget, DirectConnectionsTarget, StunTarget
from exporter.wire.derp_map import DerpMap
from exporter.wire.url import Origin

FAMILIES: tuple[Family, ...] = ("ipv4", "ipv6")
# Sizes of IP packets that are tried: what WireGuard's least needs, what Coder wants, usual tunnels,
# Ethernet. Source: derp-stun, section 7
MTU_SIZES_BYTES = (1280, 1376, 1380, 1420, 1440, 1460, 1480, 1500)
# STUN servers are mostly somebody else's: a few tell as much as many.
MAX_STUN_SERVERS = 8
MAX_RELAYS = 20
STUN_SECONDS = 5.0
LATENCY_SECONDS = 3.0
_LOOKUP_SHARE = 0.3  # of the time that there is
LATENCY_PATH = "/derp/latency-check"
_LATENCY_BODY_BYTES = 8192


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What is known of the deployment: its map, the relays and STUN servers that may be asked.

    `disabled`: it disables direct connections; None: nobody could tell. `off`: the map is refused.
    """

    derp_map: DerpMap | None
    disabled: bool | None
    off: OffReason | None
    access_origin: Origin | None
    relays: Sequence[DerpRelayTarget]
    stun: Sequence[StunTarget]


async def probe(
    target: DirectConnectionsTarget, *, surroundings: Surroundings, clock: Clock
) -> DirectConnectionsResult:
    """Measure the way to relays and STUN servers, within the target's timeout."""
    began = clock.monotonic()
    deadline = began + target.timeout_seconds
    servers = surroundings.stun[:MAX_STUN_SERVERS]
    relays = _choose_relays(surroundings.relays)
    async with asyncio.TaskGroup() as group:
        listing = group.create_task(_list_interfaces())
        # a name server that is silent must not eat the time of what has an address
        looking = group.create_task(
            _look_up_all(
                _name_hosts(surroundings.access_origin, relays, servers),
                began + target.timeout_seconds * _LOOKUP_SHARE,
                clock,
            )
        )
    lookups = looking.result()
    addresses = {server: choose_addresses(server, lookups.get(server.host)) for server in servers}
    stun_deadline = min(deadline, clock.monotonic() + STUN_SECONDS)
    async with asyncio.TaskGroup() as group:
        asking = group.create_task(_ask_all(addresses, stun_deadline, clock))
        sizing = group.create_task(_measure_path_mtu(addresses, stun_deadline, clock))
    # when the answers are in: what latencies cost the event loop would stand in the round trips
    latencies = await _measure_latencies(relays, lookups, min(deadline, clock.monotonic() + LATENCY_SECONDS), clock)
    best = {
        region: min(family[region] for family in latencies.values() if region in family)
        for region in sorted(set().union(*latencies.values()))
    }
    return DirectConnectionsResult(
        disabled=surroundings.disabled,
        map_known=surroundings.derp_map is not None,
        map_has_stun=bool(surroundings.stun),
        netcheck=replace(
            asking.result(),
            os_has_ipv6=_can_bind_ipv6(),
            region_latency_seconds=best,
            region_ipv4_latency_seconds=latencies["ipv4"],
            region_ipv6_latency_seconds=latencies["ipv6"],
            preferred_region=_prefer(best, surroundings.derp_map),
        ),
        interfaces=_mark_ways(
            listing.result(),
            _find_ways(surroundings.access_origin, relays, addresses, lookups),
            target.tunnel_interfaces,
        ),
        path_mtu=sizing.result(),
        off=surroundings.off,
    )


# who is asked, and where they are


def _choose_relays(relays: Sequence[DerpRelayTarget]) -> list[DerpRelayTarget]:
    """Return the first relay of each region, which is measured, and then others, up to a number."""
    first: dict[int, DerpRelayTarget] = {}
    for relay in relays:
        first.setdefault(relay.name.region_id, relay)
    return [*first.values(), *(relay for relay in relays if relay is not first[relay.name.region_id])][:MAX_RELAYS]


def _name_host(relay: DerpRelayTarget) -> str:
    return relay.endpoint.address or relay.endpoint.origin.host


def _name_hosts(
    access_origin: Origin | None, relays: Iterable[DerpRelayTarget], servers: Iterable[StunTarget]
) -> set[str]:
    """Each host once, however many relays and servers are on it."""
    hosts = {_name_host(relay) for relay in relays} | {server.host for server in servers if needs_lookup(server)}
    if access_origin is not None:
        hosts.add(access_origin.host)
    return hosts


async def _look_up_all(hosts: Iterable[str], deadline: float, clock: Clock) -> dict[str, Lookup]:
    """Return what is known of each host; one that has no address, or of which nobody says so, is left out."""
    async with asyncio.TaskGroup() as group:
        looking = {host: group.create_task(_look_up(host, deadline, clock)) for host in hosts}
    return {host: lookup for host, task in looking.items() if (lookup := task.result()) is not None}


async def _look_up(host: str, deadline: float, clock: Clock) -> Lookup | None:
    try:
        return await reach.look_up(host, deadline_seconds=deadline, clock=clock)
    except ProbeError:
        return None  # which the target of whoever it is tells


def _find_ways(
    access_origin: Origin | None,
    relays: Iterable[DerpRelayTarget],
    servers: Mapping[StunTarget, Mapping[Family, str]],
    lookups: Mapping[str, Lookup],
) -> list[tuple[str, str]]:
    """Return where Coder, its relays and the STUN servers are: what, and an address of each family."""
    hosts = [("relay", _name_host(relay)) for relay in relays]
    if access_origin is not None:
        hosts.append(("coder", access_origin.host))
    ways = [
        (what, address)
        for what, host in hosts
        if (lookup := lookups.get(host)) is not None
        for address in (*lookup.ipv4[:1], *lookup.ipv6[:1])
    ]
    return ways + [("stun", address) for addresses in servers.values() for address in addresses.values()]


# STUN


async def _ask_all(servers: Mapping[StunTarget, Mapping[Family, str]], deadline: float, clock: Clock) -> Netcheck:
    """One socket a family asks every server: only so do the mappings compare."""
    by_endpoint: dict[tuple[str, int], list[NodeName]] = {}
    asked: dict[Family, list[tuple[str, int]]] = {}
    for server, addresses in servers.items():
        for family, address in addresses.items():
            by_endpoint.setdefault((address, server.port), []).append(server.name)
            asked.setdefault(family, []).append((address, server.port))
    async with asyncio.TaskGroup() as group:
        asking = {
            family: group.create_task(_ask_family(family, endpoints, deadline, clock))
            for family, endpoints in asked.items()
        }
    answers = {family: answer for family, task in asking.items() if (answer := task.result()) is not None}
    replies = [reply for answer in answers.values() for reply in answer.replies]
    ipv4, ipv6 = answers.get("ipv4"), answers.get("ipv6")
    mapping = judge_mapping(
        (reply.server_address, reply.mapped_address, reply.mapped_port) for reply in (ipv4.replies if ipv4 else ())
    )
    return Netcheck(
        udp=bool(replies) if answers else None,
        stun_servers=len({name for family in answers for endpoint in asked[family] for name in by_endpoint[endpoint]}),
        stun_answers=len({name for reply in replies for name in by_endpoint[reply.server_address, reply.server_port]}),
        ipv4=None if ipv4 is None else bool(ipv4.replies),
        ipv6=None if ipv6 is None else bool(ipv6.replies),
        ipv4_can_send=None if ipv4 is None else ipv4.can_send,
        ipv6_can_send=None if ipv6 is None else ipv6.can_send,
        mapping_varies=mapping.varies,
        mapping_unstable=mapping.unstable,
        global_ipv4=_show_first(ipv4),
        global_ipv6=_show_first(ipv6),
        replies=tuple(
            MappedReply(
                region_id=(name := by_endpoint[reply.server_address, reply.server_port][0]).region_id,
                node=name.node,
                server_address=reply.server_address,
                mapped_address=reply.mapped_address,
                mapped_port=reply.mapped_port,
                round_trip_seconds=reply.round_trip_seconds,
            )
            for reply in replies
        ),
    )


async def _ask_family(
    family: Family, endpoints: Sequence[tuple[str, int]], deadline: float, clock: Clock
) -> OneSocketAnswers | None:
    try:
        return await stun_client.ask_from_one_socket(endpoints, family=family, deadline_seconds=deadline, clock=clock)
    except ProbeError:
        return None  # this host has run out, which says nothing about the way


async def _measure_path_mtu(
    servers: Mapping[StunTarget, Mapping[Family, str]], deadline: float, clock: Clock
) -> tuple[PathMTUFacts, ...] | None:
    """Ask the first two servers of each family: what is narrow near this host shows at any of them,
    and one that drops large datagrams by itself is told apart by the other."""
    chosen = [
        (server, family, address)
        for family in FAMILIES
        for server, address in [
            (server, addresses[family]) for server, addresses in servers.items() if family in addresses
        ][:2]
    ]
    async with asyncio.TaskGroup() as group:
        measuring = [
            group.create_task(
                stun_client.measure_path_mtu(
                    address, server.port, sizes_bytes=MTU_SIZES_BYTES, deadline_seconds=deadline, clock=clock
                )
            )
            for server, _family, address in chosen
        ]
    facts = [
        PathMTUFacts(
            region_id=server.name.region_id,
            region_name=server.name.region_name,
            node=server.name.node,
            family=family,
            passed_bytes=found.passed_bytes,
            failed_bytes=found.failed_bytes,
        )
        for (server, family, _address), found in zip(chosen, (task.result() for task in measuring), strict=True)
        if found is not None
    ]
    return tuple(facts) if facts else None


# relays


async def _measure_latencies(
    relays: Iterable[DerpRelayTarget], lookups: Mapping[str, Lookup], deadline: float, clock: Clock
) -> dict[Family, dict[int, float]]:
    """Time a small request at the first relay of each region, over each family; the connection
    stands before the clock starts."""
    chosen: dict[int, DerpRelayTarget] = {}
    for relay in relays:
        chosen.setdefault(relay.name.region_id, relay)
    async with asyncio.TaskGroup() as group:
        timing: dict[tuple[Family, int], asyncio.Task[float | None]] = {}
        for region_id, relay in chosen.items():
            lookup = lookups.get(_name_host(relay))
            if lookup is not None:
                found: dict[Family, tuple[str, ...]] = {"ipv4": lookup.ipv4, "ipv6": lookup.ipv6}
                for family, addresses in found.items():
                    for address in addresses[:1]:
                        measuring = _measure_latency(relay, address, lookup, deadline, clock)
                        timing[family, region_id] = group.create_task(measuring)
    latencies: dict[Family, dict[int, float]] = {"ipv4": {}, "ipv6": {}}
    for (family, region_id), task in timing.items():
        seconds = task.result()
        if seconds is not None:
            latencies[family][region_id] = seconds
    return latencies


async def _measure_latency(
    target: DerpRelayTarget, address: str, lookup: Lookup, deadline: float, clock: Clock
) -> float | None:
    endpoint = target.endpoint
    try:
        relay = await find_relay(
            endpoint.origin,
            lookup=lookup,
            certificate_name=endpoint.certificate_name,
            insecure=endpoint.insecure,
            ca_file=target.ca_file,
            deadline_seconds=deadline,
            clock=clock,
        )
    except ProbeError:
        return None  # which the relay's own target tells
    exchange = await http.get(
        relay.origin,
        LATENCY_PATH,
        address=address,
        deadline_seconds=deadline,
        clock=clock,
        ssl_context=relay.ssl_context,
        certificate_name=relay.certificate_name,
        max_body_bytes=_LATENCY_BODY_BYTES,
    )
    # a page with a body is no relay's answer: Coder with its relay off shows its dashboard there
    if exchange.error is None and exchange.status == 200 and not exchange.body:
        return exchange.phase_seconds[Phase.PROCESSING]
    return None


def _prefer(latencies: Mapping[int, float], derp_map: DerpMap | None) -> int | None:
    """Return the region of least latency, weighed by the map's scores; those to avoid do not count.

    Source: derp-stun, section 5.1, PreferredDERP
    """
    if derp_map is None:
        return None
    avoided = {region.region_id for region in derp_map.regions if region.avoid}
    weighed = {
        region: seconds * derp_map.region_scores.get(region, 1.0)
        for region, seconds in latencies.items()
        if region not in avoided
    }
    return min(weighed, key=weighed.__getitem__, default=None)


# interfaces


async def _list_interfaces() -> Sequence[Interface]:
    try:
        return await interfaces.read_interfaces()
    except ProbeError:
        return ()


def _mark_ways(
    found: Sequence[Interface], ways: Iterable[tuple[str, str]], tunnel_patterns: Sequence[str]
) -> tuple[InterfaceFacts, ...]:
    """Mark the interfaces that the kernel uses towards these addresses."""
    towards: dict[str, set[str]] = {}
    for what, address in ways:
        route = interfaces.find_route_interface(address, found)
        if route is not None:
            towards.setdefault(route.name, set()).add(what)
    return tuple(
        InterfaceFacts(
            name=interface.name,
            mtu_bytes=interface.mtu_bytes,
            addresses=interface.addresses,
            tunnel=interface.tunnel or any(fnmatch.fnmatchcase(interface.name, name) for name in tunnel_patterns),
            on_the_way=interface.name in towards,
            towards=tuple(sorted(towards.get(interface.name, ()))),
        )
        for interface in found
        if interface.up and (interface.name in towards or interfaces.has_usable_address(interface))
    )


def _can_bind_ipv6() -> bool:
    """Source: derp-stun, section 5.1, OSHasIPv6"""
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe_socket:
            probe_socket.bind(("::1", 0))
    except OSError:
        return False
    return True


def _show_first(answers: OneSocketAnswers | None) -> str | None:
    if answers is None or not answers.replies:
        return None
    address, port = answers.replies[0].mapped_address, answers.replies[0].mapped_port
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
