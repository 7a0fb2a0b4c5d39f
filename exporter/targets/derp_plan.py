"""What a DERP map asks for: which relays, STUN servers and meshes of it are probed, and which not.

In: the map, the section's target, where Coder and its workspace proxies are, the plan before. Out: a
`DerpPlan`. Pure. The map is untrusted: whoever runs the server, or writes a file, decides what
stands in it, so relays are probed only on hosts that belong to the deployment or were allowed, under
the name by which they are allowed.

Source: contract, section 8, derp; derp-stun, sections 1.1, 3.5 (G16), 6, 10 (P13)
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from exporter.errors import WireError
from exporter.health.derp import NodeName, Skipped
from exporter.targets.model import (
    DerpMeshTarget,
    DerpRelayTarget,
    DerpTarget,
    MeshNode,
    RelayEndpoint,
    StunTarget,
)
from exporter.wire.derp_map import MAX_NODES, DerpMap, DerpNode, DerpRegion
from exporter.wire.url import Origin, parse_origin

MAX_MESH_NODES = 10  # of a region. Source: contract, section 8, Values
MAX_STUN_SECONDS = 5.0

HOST_NOT_ALLOWED = "host_not_allowed"
TOO_MANY = "too_many"
INVALID = "invalid"


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedRegion:
    """A region of the map, or one that left it and still has a relay to be probed. `node_count` is
    the map's, with STUN-only nodes and those that are skipped."""

    region_id: int
    name: str
    code: str
    embedded: bool
    node_count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DerpPlan:
    """What is probed of a map. `regions` are by ascending id; `skipped` tells what is not probed."""

    relays: tuple[DerpRelayTarget, ...] = ()
    stun: tuple[StunTarget, ...] = ()
    meshes: tuple[DerpMeshTarget, ...] = ()
    skipped: tuple[Skipped, ...] = ()
    regions: tuple[PlannedRegion, ...] = ()


def plan_derp(
    derp_map: DerpMap,
    target: DerpTarget,
    *,
    access_origin: Origin | None,
    proxies: Mapping[str, Origin],
    before: DerpPlan | None,
    force_websockets: bool | None,
) -> DerpPlan:
    """Return what to probe. What a new map leaves as it was gives targets that are equal.

    Args:
        access_origin: Where Coder is; None while nobody knows.
        proxies: Workspace proxies that exist, are not stopped and may have a relay, by name.
        before: The plan of the map before. A proxy's relay that was in it and is not in the map any
            more stays, as one that is not listed: Coder drops it when the proxy is unwell (G16).
        force_websockets: Whether the deployment forces its clients to WebSocket; None: not known.
    """
    planner = _Planner(target, access_origin, proxies, force_websockets)
    for region in derp_map.regions:
        planner.take_region(region)
    if before is not None:
        planner.keep_unlisted(before)
    return planner.finish()


class _Planner:
    """Makes one plan, region by region."""

    def __init__(
        self,
        target: DerpTarget,
        access_origin: Origin | None,
        proxies: Mapping[str, Origin],
        force_websockets: bool | None,
    ) -> None:
        self._target = target
        self._access_origin = access_origin
        self._owners = _Owners(access_origin, proxies)
        hosts = [*target.allow_hosts, *(origin.host for origin in proxies.values())]
        if access_origin is not None:
            hosts.append(access_origin.host)
        self._allowed = frozenset(_normalise(host) for host in hosts)
        forced = force_websockets is True
        self._expect_websocket = forced if target.expect_websocket is None else target.expect_websocket
        self._relays: list[DerpRelayTarget] = []
        self._stun: list[StunTarget] = []
        self._meshes: list[DerpMeshTarget] = []
        self._skipped: list[Skipped] = []
        self._regions: dict[int, PlannedRegion] = {}
        self._names: set[tuple[int, str]] = set()  # of every node of the map
        self._node_count = 0  # of those that are probed
        self._replicas_meshed = False

    def take_region(self, region: DerpRegion) -> None:
        self._regions[region.region_id] = PlannedRegion(
            region_id=region.region_id,
            name=region.name,
            code=region.code,
            embedded=region.embedded,
            node_count=len(region.nodes),
        )
        first = len(self._relays)
        for node in region.nodes:
            self._take_node(region, self._rewrite(region, node))
        self._plan_mesh(region, self._relays[first:])

    def keep_unlisted(self, before: DerpPlan) -> None:
        """Keep relays of proxies that have none in the map any more."""
        listed = {self._owners.proxy_of(relay.endpoint.origin) for relay in self._relays}
        regions = {region.region_id: region for region in before.regions}
        for relay in before.relays:
            name = relay.name
            proxy = self._owners.proxy_of(relay.endpoint.origin)
            region = self._regions.get(name.region_id) or regions.get(name.region_id)
            if proxy is None or proxy in listed or region is None or region.embedded:
                continue
            # the map may give the name to another relay: two of one name cannot be told apart
            if (name.region_id, name.node) in self._names or not self._make_room(name, relay.endpoint.origin.host):
                continue
            self._regions.setdefault(region.region_id, region)
            self._relays.append(self._plan_relay(replace(name, region_name=region.name), relay.endpoint, listed=False))

    def finish(self) -> DerpPlan:
        return DerpPlan(
            relays=tuple(self._relays),
            stun=tuple(self._stun),
            meshes=tuple(self._meshes),
            skipped=tuple(self._skipped),
            regions=tuple(self._regions[region_id] for region_id in sorted(self._regions)),
        )

    def _rewrite(self, region: DerpRegion, node: DerpNode) -> DerpNode:
        """Put the relay inside coderd where we reach coderd, as Coder's clients do."""
        origin = self._access_origin
        if not region.embedded or node.stun_only or origin is None:
            return node
        return replace(node, host_name=origin.host, derp_port=origin.port, force_http=not origin.tls)

    def _take_node(self, region: DerpRegion, node: DerpNode) -> None:
        if (region.region_id, node.name) in self._names:
            return
        self._names.add((region.region_id, node.name))
        name = NodeName(region_id=region.region_id, region_name=region.name, node=node.name)
        host = node.host_name or node.ipv4 or node.ipv6 or ""
        reason = None
        if node.relay:
            reason = INVALID if not host else HOST_NOT_ALLOWED if _normalise(host) not in self._allowed else None
        if reason is not None:
            self._skip(name, host, reason)
        relay = node.relay and reason is None
        if not (relay or node.stun) or not self._make_room(name, host or node.stun_test_ip):
            return
        if relay:
            self._relays.append(self._plan_relay(name, _find_endpoint(node, host), listed=True))
        if node.stun:
            self._stun.append(self._plan_stun(name, node, host))

    def _make_room(self, name: NodeName, host: str) -> bool:
        """Return whether one node more may be probed: count it, or note that it is skipped."""
        if self._node_count >= MAX_NODES:
            self._skip(name, host, TOO_MANY)
            return False
        self._node_count += 1
        return True

    def _skip(self, name: NodeName, host: str, reason: str) -> None:
        self._skipped.append(Skipped(region_id=name.region_id, node=name.node, host=host, reason=reason))

    def _plan_relay(self, name: NodeName, endpoint: RelayEndpoint, *, listed: bool) -> DerpRelayTarget:
        target = self._target
        return DerpRelayTarget(
            deployment=target.deployment,
            section=target.section,
            interval_seconds=target.interval_seconds,
            timeout_seconds=target.timeout_seconds,
            name=name,
            endpoint=endpoint,
            ca_file=target.ca_file,
            listed=listed,
            expect_websocket=self._expect_websocket,
            loss=target.loss,
        )

    def _plan_stun(self, name: NodeName, node: DerpNode, host: str) -> StunTarget:
        target = self._target
        ipv4, ipv6 = _find_addresses(node)
        return StunTarget(
            deployment=target.deployment,
            section=target.section,
            interval_seconds=target.interval_seconds,
            timeout_seconds=min(target.timeout_seconds, MAX_STUN_SECONDS),
            name=name,
            host=host or node.stun_test_ip,
            port=node.stun_port_number or 0,
            ipv4=ipv4,
            ipv6=ipv6,
        )

    def _plan_mesh(self, region: DerpRegion, relays: list[DerpRelayTarget]) -> None:
        target = self._target
        if not target.mesh or not relays:
            return
        nodes = [MeshNode(name=relay.name.node, endpoint=relay.endpoint) for relay in relays]
        replicas = list(self._find_replicas())
        # coderd has one relay, whatever the map says
        if region.embedded and len(replicas) > 1 and not self._replicas_meshed:
            self._replicas_meshed = True
            nodes = replicas
        if len(nodes) < 2:
            return
        self._meshes.append(
            DerpMeshTarget(
                deployment=target.deployment,
                section=target.section,
                interval_seconds=target.interval_seconds,
                timeout_seconds=target.timeout_seconds,
                region_id=region.region_id,
                region_name=region.name,
                nodes=tuple(nodes[:MAX_MESH_NODES]),
                ca_file=target.ca_file,
            )
        )

    def _find_replicas(self) -> Iterator[MeshNode]:
        for replica in self._target.replicas:
            try:
                origin = parse_origin(replica.url)
            except WireError:
                continue  # which the configuration refuses
            yield MeshNode(name=replica.name, endpoint=_find_replica(origin, self._access_origin))


class _Owners:
    """Which proxy a relay belongs to, by where it is."""

    def __init__(self, access_origin: Origin | None, proxies: Mapping[str, Origin]) -> None:
        self._access_host = None if access_origin is None else _normalise(access_origin.host)
        self._by_host: dict[str, dict[str, int]] = {}
        for name, origin in proxies.items():
            self._by_host.setdefault(_normalise(origin.host), {})[name] = origin.port

    def proxy_of(self, origin: Origin) -> str | None:
        """Return the proxy whose relay is there. Only where several servers share one host, the port
        tells them apart: behind a proxy's name the relay may have a port of its own."""
        host = _normalise(origin.host)
        ports = self._by_host.get(host, {})
        for name, port in ports.items():
            if port == origin.port:
                return name
        if len(ports) == 1 and host != self._access_host:
            return next(iter(ports))
        return None


def _find_endpoint(node: DerpNode, host: str) -> RelayEndpoint:
    """Return where a relay is: at its host, looked up by us. What the map says of its addresses is not
    used, else it could send us anywhere under an allowed name."""
    return RelayEndpoint(
        origin=Origin(scheme="http" if node.force_http else "https", host=host, port=node.relay_port),
        certificate_name=node.cert_name or None,
        insecure=node.insecure,
    )


def _find_replica(origin: Origin, access_origin: Origin | None) -> RelayEndpoint:
    """Return where a replica's relay is. Its certificate is that of the access URL, by which replicas
    are reached through whatever stands before them."""
    if not origin.tls or access_origin is None or not access_origin.tls or origin.host == access_origin.host:
        return RelayEndpoint(origin=origin)
    return RelayEndpoint(origin=replace(origin, host=access_origin.host), address=origin.host)


def _find_addresses(node: DerpNode) -> tuple[str | None, str | None]:
    """Return the addresses of a STUN server, as `StunTarget` has them. A map means by an empty text
    that the host is to be looked up; here that is None, and an empty text means: not to be used."""
    if node.stun_test_ip:
        return ("", node.stun_test_ip) if ":" in node.stun_test_ip else (node.stun_test_ip, "")
    unknown = None if node.host_name else ""
    ipv4 = "" if node.ipv4 is None else node.ipv4 or unknown
    ipv6 = "" if node.ipv6 is None else node.ipv6 or unknown
    return ipv4, ipv6


def _normalise(host: str) -> str:
    """Return a host as it is compared."""
    address = _parse_address(host)
    if address is None:
        return host.lower().removesuffix(".")
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)


def _parse_address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
    except ValueError:
        return None
