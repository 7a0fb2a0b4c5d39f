"""What the simulated deployment has of DERP and STUN besides the relays inside its servers: a region
of three relays that form a mesh, and STUN servers on several addresses of loopback. And what stands for
the network of the exporter's own host: an address that answers as long as there is one.

Out: regions of the DERP map, numbered and named as Coder does it.

Source: derp-stun, section 6.2
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from aiohttp import web

from exporter.demo.listener import Listener, have_ipv6_loopback
from exporter.demo.proxies import SimulatedProxy
from exporter.demo.relay import SimulatedRelay
from exporter.demo.server import SimulatedServer
from exporter.demo.stun import SimulatedStun
from exporter.wire.derp_map import STUN_OFF, DerpNode, DerpRegion

MESH_REGION_ID = 1
MESH_REGION_NAME = "Demo Mesh"
MESH_NODES = ("1a", "1b", "1c")
FIRST_STUN_REGION_ID = 1000
_STUN_ADDRESSES = ("127.0.0.1", "127.0.0.2", "127.0.0.3")
_PAGE = "<html><body><h1>DERP</h1><p>This is a relay.</p></body></html>"


class RelayServer(SimulatedServer):
    """A relay that is nothing else."""

    def routes(self) -> list[web.RouteDef]:
        return [web.get("/", self._page)]

    def bears_version(self, path: str) -> bool:
        return False

    async def _page(self, _request: web.Request) -> web.Response:
        return web.Response(text=_PAGE, content_type="text/html")


class Network:
    """The relays of the mesh and the STUN servers.

    Args:
        certificate: What the relays show.

    Attributes:
        relays: By the names of their nodes.
        stun: The STUN servers, in the order of their regions; the last one on ::1, where this host
            has it.
        names_stun: Whether the STUN servers are in the map.
        reference: Takes connections and says nothing, like a gateway.
    """

    def __init__(self, *, certificate: Path) -> None:
        mesh: list[SimulatedRelay] = []
        self.relays: Mapping[str, RelayServer] = {
            name: RelayServer(host="localhost", certificate=certificate, relay=SimulatedRelay(mesh=mesh))
            for name in MESH_NODES
        }
        self.stun: list[SimulatedStun] = []
        self.names_stun = True
        self.reference = Listener(asyncio.Protocol, families=("ipv4",))
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self.reference.stop)
            await self.reference.start()
            for server in self.relays.values():
                await stack.enter_async_context(server)
            addresses = _STUN_ADDRESSES if have_several_addresses() else _STUN_ADDRESSES[:1] * len(_STUN_ADDRESSES)
            if have_ipv6_loopback():
                addresses = (*addresses, "::1")
            self.stun = [await stack.enter_async_context(SimulatedStun(address)) for address in addresses]
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    @property
    def reference_address(self) -> str:
        """Host and port of what answers as long as the exporter's host has a network."""
        return f"127.0.0.1:{self.reference.port}"

    def regions(self) -> Iterator[DerpRegion]:
        """Return the regions of the map."""
        yield DerpRegion(
            region_id=MESH_REGION_ID,
            code="demo",
            name=MESH_REGION_NAME,
            nodes=tuple(_relay_node(name, MESH_REGION_ID, server) for name, server in self.relays.items()),
        )
        for region_id, server in enumerate(self.stun if self.names_stun else (), start=FIRST_STUN_REGION_ID):
            yield DerpRegion(
                region_id=region_id,
                code=f"coder_stun_{region_id}",
                name=f"Coder STUN {region_id}",
                nodes=(
                    DerpNode(
                        name=f"{region_id}stun0",
                        region_id=region_id,
                        host_name=server.address,
                        ipv4=None if ":" in server.address else server.address,
                        ipv6=server.address if ":" in server.address else None,
                        stun_port=server.port,
                        stun_only=True,
                    ),
                ),
            )


def proxy_region(proxy: SimulatedProxy, *, highest_region_id: int) -> DerpRegion:
    """Return the region of a workspace proxy's relay.

    Args:
        highest_region_id: Of all other regions.
    """
    region_id = -(-(highest_region_id + 2000) // 10_000) * 10_000 + proxy.region_id
    return DerpRegion(
        region_id=region_id,
        code=f"coder_{proxy.name}",
        name=proxy.name,
        nodes=(_relay_node(f"{region_id}a", region_id, proxy),),
    )


def have_several_addresses() -> bool:
    """Tell whether this host has all of 127.0.0.0/8, as Linux has."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as tried:
            tried.bind((_STUN_ADDRESSES[1], 0))
    except OSError:
        return False
    return True


def _relay_node(name: str, region_id: int, server: SimulatedServer) -> DerpNode:
    return DerpNode(
        name=name,
        region_id=region_id,
        host_name=server.host,
        stun_port=STUN_OFF,
        derp_port=server.port,
        force_http=server.url.startswith("http:"),
    )
