"""Results of relays, STUN servers and this host's network, as probes hand them over."""

from __future__ import annotations

from typing import Any

from exporter.errors import Reason
from exporter.health.derp import (
    CertificateEnds,
    DerpResult,
    MeshPath,
    MeshResult,
    NodeName,
    PacketLoss,
    RegionResult,
    RelayResult,
    TransportResult,
)
from exporter.health.direct_connections import (
    DirectConnectionsResult,
    InterfaceFacts,
    MappedReply,
    Netcheck,
    PathMTUFacts,
)
from exporter.health.model import Failure
from exporter.health.stun import StunAttempt, StunResult
from tests.support.exposition import START

REFUSED = Failure(reason=Reason.REFUSED, message="connecting to 192.0.2.7 port 443: refused")


def node(name: str = "1a", region_name: str = "Region 1", region_id: int = 1) -> NodeName:
    return NodeName(region_id=region_id, region_name=region_name, node=name)


def transport(*round_trips: float, kind: str = "derp", name: NodeName | None = None, **more: Any) -> TransportResult:
    """One that went well, save for what is said."""
    good: dict[str, Any] = {
        "address": "192.0.2.7",
        "phase_seconds": {},
        "login_seconds": 0.004,
        "messages_sent": 2,
        "relay_processes": 1,
        "started_timestamp_seconds": START,
        "duration_seconds": 0.05,
    }
    return TransportResult(name=name or node(), transport=kind, round_trip_seconds=round_trips, **(good | more))


def dead(kind: str = "derp", name: NodeName | None = None, **more: Any) -> TransportResult:
    """One to which there was no connection."""
    nothing = {"login_seconds": None, "messages_sent": 0, "relay_processes": 0, "failure": REFUSED}
    return transport(kind=kind, name=name, **(nothing | more))


def both(name: NodeName, *round_trips: float, **more: Any) -> dict[str, TransportResult]:
    """Both transports of a relay, by their targets."""
    return {
        f"{name.target}/{kind}": transport(*round_trips, kind=kind, name=name, **more) for kind in ("derp", "websocket")
    }


def ends(leaf: float | None, chain: float | None = None) -> CertificateEnds:
    return CertificateEnds(leaf_timestamp_seconds=leaf, chain_timestamp_seconds=chain)


def loss(sent: int, received: int, jitter_seconds: float | None = None) -> PacketLoss:
    return PacketLoss(sent=sent, received=received, jitter_seconds=jitter_seconds)


def stun_attempt(round_trip: float | None, family: str = "ipv4", **more: Any) -> StunAttempt:
    return StunAttempt(family=family, address="192.0.2.9", round_trip_seconds=round_trip, attempts=1, **more)


def stun(*attempts: StunAttempt, name: str = "1stun0", region_name: str = "Region 1", **more: Any) -> StunResult:
    return StunResult(
        **({"region_id": 1, "host": "stun.example.com", "port": 3478} | more),
        region_name=region_name,
        node=name,
        attempts=attempts,
    )


def path(source: str, destination: str, *, failed: bool = False) -> MeshPath:
    return MeshPath(
        source=source,
        destination=destination,
        round_trip_seconds=None if failed else 0.002,
        failure=Failure(reason=Reason.TIMEOUT, message="no message came") if failed else None,
    )


def mesh(*paths: MeshPath, region_name: str = "Region 1", region_id: int = 1, **more: Any) -> MeshResult:
    return MeshResult(region_id=region_id, region_name=region_name, paths=paths, **more)


def region(*relays: RelayResult, region_id: int = 1, name: str = "Region 1", **more: Any) -> RegionResult:
    return RegionResult(region_id=region_id, name=name, relays=relays, **({"node_count": len(relays)} | more))


def relay(*transports: TransportResult, **more: Any) -> RelayResult:
    return RelayResult(name=transports[0].name, transports=transports, **more)


def derp(*regions: RegionResult, **more: Any) -> DerpResult:
    return DerpResult(regions=regions, **({"source": "socket", "map_age_seconds": 0.0} | more))


def interface(name: str = "eth0", mtu_bytes: int = 1500, **more: Any) -> InterfaceFacts:
    return InterfaceFacts(name=name, mtu_bytes=mtu_bytes, **({"addresses": ("192.0.2.2/24",)} | more))


def path_mtu(passed_bytes: int, failed_bytes: int | None = None, **more: Any) -> PathMTUFacts:
    about = {"region_id": 1, "region_name": "Region 1", "node": "1stun0", "family": "ipv4"} | more
    return PathMTUFacts(passed_bytes=passed_bytes, failed_bytes=failed_bytes, **about)


def reply(mapped_port: int = 40000, **more: Any) -> MappedReply:
    about = {"region_id": 1, "node": "1stun0", "server_address": "192.0.2.9"} | more
    return MappedReply(mapped_address="198.51.100.3", mapped_port=mapped_port, round_trip_seconds=0.003, **about)


def network(netcheck: Netcheck | None = None, *interfaces: InterfaceFacts, **more: Any) -> DirectConnectionsResult:
    return DirectConnectionsResult(
        **({"map_known": True, "map_has_stun": True} | more), netcheck=netcheck or Netcheck(), interfaces=interfaces
    )
