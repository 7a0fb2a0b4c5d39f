"""Simulated relays on servers of their own, and targets for the probes that look at them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from aiohttp import web

from exporter.demo.relay import SimulatedRelay
from exporter.demo.server import SimulatedServer
from exporter.health.derp import NodeName
from exporter.health.model import Section
from exporter.targets.model import DerpMeshTarget, DerpRelayTarget, MeshNode, RelayEndpoint, StunTarget
from exporter.wire.url import Origin, parse_origin


class RelayServer(SimulatedServer):
    """One relay and nothing else, on 127.0.0.1."""

    def __init__(self, relay: SimulatedRelay | None = None, *, certificate: Path | None = None) -> None:
        super().__init__(certificate=certificate, families=("ipv4",), relay=relay or SimulatedRelay())

    @property
    def origin(self) -> Origin:
        return parse_origin(self.url)

    def routes(self) -> list[web.RouteDef]:
        return []


def name(node: str = "1a", region_id: int = 1) -> NodeName:
    return NodeName(region_id=region_id, region_name=f"Region {region_id}", node=node)


def endpoint(origin: Origin, *, address: str | None = "127.0.0.1", **more: Any) -> RelayEndpoint:
    return RelayEndpoint(origin=origin, address=address, **more)


def relay_target(origin: Origin, *, timeout_seconds: float = 10.0, **more: Any) -> DerpRelayTarget:
    """A target; what it says of the endpoint may be among the rest."""
    of_endpoint = {key: more.pop(key) for key in ("address", "certificate_name", "insecure") if key in more}
    return DerpRelayTarget(
        deployment="prod",
        section=Section.DERP,
        interval_seconds=60.0,
        timeout_seconds=timeout_seconds,
        endpoint=endpoint(origin, **of_endpoint),
        **({"name": name()} | more),
    )


def mesh_target(*origins: Origin, timeout_seconds: float = 10.0, **more: Any) -> DerpMeshTarget:
    """A region of these relays, named a, b, c and so on."""
    return DerpMeshTarget(
        deployment="prod",
        section=Section.DERP,
        interval_seconds=60.0,
        timeout_seconds=timeout_seconds,
        region_id=1,
        region_name="Region 1",
        nodes=tuple(
            MeshNode(name=chr(ord("a") + index), endpoint=endpoint(origin)) for index, origin in enumerate(origins)
        ),
        **more,
    )


def stun_target(host: str, port: int, *, timeout_seconds: float = 5.0, **more: Any) -> StunTarget:
    return StunTarget(
        deployment="prod",
        section=Section.DERP,
        interval_seconds=60.0,
        timeout_seconds=timeout_seconds,
        host=host,
        port=port,
        **({"name": name("1stun0")} | more),
    )
