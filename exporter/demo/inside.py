"""What a replica of coderd sees from where it stands: the access URL and a websocket through its own
hairpin, its database over its own line, the relays and STUN servers of the map, the workspace proxies.

In: where things are. Out: facts for its report, measured by real requests. What does not depend on the
replica is measured once for all of them (`Surroundings`).

The limits are shorter than Coder's (5 s, and 30 s for the relays), so that whoever waits for a report of
something silent need not wait so long.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from exporter.clock import Clock
from exporter.demo.answers import ProxyFacts
from exporter.demo.coder_report import AccessFacts, DatabaseFacts, DerpFacts, WebsocketFacts
from exporter.demo.fault_proxy import FaultProxy
from exporter.demo.replica_database import ReplicaDatabase
from exporter.errors import ProbeError
from exporter.health import nat
from exporter.health.coder_derp import judge_as_coder
from exporter.health.derp import RAW, WEBSOCKET, NodeName, RegionResult, RelayResult, TransportResult
from exporter.health.model import Failure, Section
from exporter.health.stun import StunResult
from exporter.net.derp_client import DerpConnection
from exporter.net.http import HTTP2Error
from exporter.net.relay import find_relay, log_in
from exporter.net.stun_client import ask_from_one_socket
from exporter.probes import stun as stun_probe
from exporter.probes.derp_messages import Messenger
from exporter.targets.model import StunTarget
from exporter.wire.derp_frames import Transport
from exporter.wire.derp_map import DerpMap, DerpNode, DerpRegion
from exporter.wire.url import parse_origin

LIMIT_SECONDS = 1.5
# Pings are repeated, see ReplicaDatabase.
_PINGS_SECONDS = 1.0
_ECHOES = ("0", "1", "2")
_HTTP_GONE = (aiohttp.ClientError, TimeoutError, OSError)


@dataclass(slots=True)
class _Relays:
    """The regions of a map, measured."""

    regions: list[RegionResult] = field(default_factory=list)
    errors: dict[tuple[int, str], str] = field(default_factory=dict)


class Surroundings:
    """What all replicas see alike: the relays of the map but their own, STUN servers, workspace proxies.

    Args:
        read_map: Gives the map of now.
        list_proxies: Gives the proxies as Coder's tables have them.
        trust, ca_file: What relays and proxies are trusted by.
        good_for_seconds: How long a measurement is shared.
    """

    def __init__(
        self,
        *,
        read_map: Callable[[], DerpMap],
        list_proxies: Callable[[], Sequence[ProxyFacts]],
        trust: ssl.SSLContext,
        ca_file: Path,
        clock: Clock,
        good_for_seconds: Callable[[], float],
    ) -> None:
        self._read_map = read_map
        self._list_proxies = list_proxies
        self._trust = trust
        self._ca_file = ca_file
        self._clock = clock
        self._good_for_seconds = good_for_seconds
        self._lock = asyncio.Lock()
        self._measured_seconds = float("-inf")
        self._map = DerpMap()
        self._relays = _Relays()
        self._varies: bool | None = None
        self._proxies: tuple[ProxyFacts, ...] = ()

    async def look(self) -> tuple[DerpMap, _Relays, bool | None, tuple[ProxyFacts, ...]]:
        """Return the map, its regions without Coder's own, whether the address mapping varies by
        destination, and the proxies with their states."""
        async with self._lock:
            if self._clock.monotonic() - self._measured_seconds >= self._good_for_seconds():
                self._map = self._read_map()
                async with asyncio.TaskGroup() as group:
                    relays = group.create_task(
                        self.measure_regions(region for region in self._map.regions if not region.embedded)
                    )
                    varies = group.create_task(self._judge_mapping())
                    proxies = group.create_task(self._ask_proxies())
                self._relays, self._varies, self._proxies = relays.result(), varies.result(), proxies.result()
                # from its end on, so that those who waited for it take it too
                self._measured_seconds = self._clock.monotonic()
        return self._map, self._relays, self._varies, self._proxies

    def forget(self) -> None:
        """Measure anew when somebody looks."""
        self._measured_seconds = float("-inf")

    async def measure_regions(self, regions: Iterable[DerpRegion], *, port: int | None = None) -> _Relays:
        """Pass messages through every relay, and ask every STUN server.

        Args:
            port: Where the relays are instead of the map's port: the way there is another one.
        """
        known = list(regions)
        found = _Relays()
        async with asyncio.TaskGroup() as group:
            measuring = [group.create_task(self._measure_region(region, port, found)) for region in known]
        found.regions = [task.result() for task in measuring]
        return found

    async def _measure_region(self, region: DerpRegion, port: int | None, found: _Relays) -> RegionResult:
        async with asyncio.TaskGroup() as group:
            relays = [
                group.create_task(self._measure_relay(region, node, port, found)) for node in region.nodes if node.relay
            ]
            servers = [group.create_task(self._ask_stun(region, node)) for node in region.nodes if node.stun_port >= 0]
        stun = tuple(task.result() for task in servers)
        for server in stun:
            if not server.up:
                found.errors[region.region_id, server.node] = (
                    server.failure.message if server.failure is not None else "i/o timeout"
                )
        return RegionResult(
            region_id=region.region_id,
            name=region.name,
            code=region.code,
            embedded=region.embedded,
            node_count=len(region.nodes),
            relays=tuple(task.result() for task in relays),
            stun=stun,
        )

    async def _measure_relay(self, region: DerpRegion, node: DerpNode, port: int | None, found: _Relays) -> RelayResult:
        """Go as Coder's client does: WebSocket only where the raw upgrade was refused."""
        name = NodeName(region_id=region.region_id, region_name=region.name, node=node.name)
        transports = [await self._exchange(name, node, port, Transport.DERP)]
        if transports[0].lets_fall_back:
            transports.append(await self._exchange(name, node, port, Transport.WEBSOCKET))
        failure = transports[-1].failure
        if failure is not None:
            found.errors[region.region_id, node.name] = failure.message
        return RelayResult(name=name, transports=tuple(transports))

    async def _exchange(
        self, name: NodeName, node: DerpNode, port: int | None, transport: Transport
    ) -> TransportResult:
        clock = self._clock
        began = clock.monotonic()
        deadline = began + LIMIT_SECONDS
        host = f"[{node.host_name}]" if ":" in node.host_name else node.host_name
        scheme = "http" if node.force_http else "https"
        origin = parse_origin(f"{scheme}://{'127.0.0.1' if port is not None else host}:{port or node.derp_port}")
        status: int | None = None
        http2 = False
        failure: Failure | None = None
        seconds: tuple[float, ...] = ()
        with ExitStack() as stack:
            try:
                relay = await find_relay(origin, ca_file=self._ca_file, deadline_seconds=deadline, clock=clock)
                clients = []
                for _ in range(2):
                    opened = await log_in(relay, transport, deadline_seconds=deadline, clock=clock)
                    if not isinstance(opened, DerpConnection):
                        status = opened.status if opened.status != 101 else None
                        http2 = isinstance(opened.error, HTTP2Error)
                        raise opened.error or ProbeError(f"{origin}/derp answered status {status}")
                    stack.callback(opened.abort)
                    clients.append(opened)
                seconds = (await Messenger(clients[0], clients[1], clock=clock).pass_one(deadline),)
            except ProbeError as error:
                failure = Failure.of(error)
        return TransportResult(
            name=name,
            transport=RAW if transport is Transport.DERP else WEBSOCKET,
            phase_seconds={},
            status=status,
            http2=http2,
            round_trip_seconds=seconds,
            failure=failure,
            started_timestamp_seconds=clock.now(),
            duration_seconds=clock.monotonic() - began,
        )

    async def _ask_stun(self, region: DerpRegion, node: DerpNode) -> StunResult:
        target = StunTarget(
            deployment="",
            section=Section.DERP,
            interval_seconds=LIMIT_SECONDS,
            timeout_seconds=LIMIT_SECONDS,
            name=NodeName(region_id=region.region_id, region_name=region.name, node=node.name),
            host=node.host_name,
            port=node.stun_port or 3478,
            ipv4=node.ipv4,
            ipv6=node.ipv6,
        )
        return await stun_probe.probe(target, clock=self._clock)

    async def _judge_mapping(self) -> bool | None:
        servers = [
            (node.ipv4, node.stun_port)
            for region in self._map.regions
            for node in region.nodes
            if node.ipv4 and node.stun_port > 0
        ]
        answers = await ask_from_one_socket(
            servers, family="ipv4", deadline_seconds=self._clock.monotonic() + LIMIT_SECONDS, clock=self._clock
        )
        replies = [(reply.server_address, reply.mapped_address, reply.mapped_port) for reply in answers.replies]
        return nat.judge_mapping(replies).varies

    async def _ask_proxies(self) -> tuple[ProxyFacts, ...]:
        async with asyncio.TaskGroup() as group:
            asked = [group.create_task(self._ask_proxy(proxy)) for proxy in self._list_proxies()]
        return tuple(task.result() for task in asked)

    async def _ask_proxy(self, proxy: ProxyFacts) -> ProxyFacts:
        """Ask a proxy for its report. Source: coder-interfaces, section 3.2"""
        if not proxy.url:
            return replace(proxy, status="unregistered")
        try:
            async with (
                _open_session() as session,
                session.get(f"{proxy.url}/healthz-report", ssl=self._trust) as answer,
            ):
                if answer.status != 200:
                    text = f"unexpected status code {answer.status}."
                    return replace(proxy, status="unhealthy", errors=(text,))
                told = await answer.json()
        except _HTTP_GONE as error:
            return replace(proxy, status="unreachable", errors=(f"request to proxy failed: {_say(error)}",))
        except ValueError:
            return replace(proxy, status="unhealthy", errors=("the answer is no JSON",))
        errors = tuple(map(str, told.get("errors") or ()))
        warnings = tuple(map(str, told.get("warnings") or ()))
        return replace(proxy, status="unhealthy" if errors else "ok", errors=errors, warnings=warnings)


class Inside:
    """One replica's own view.

    Args:
        hairpin: The way from the replica to the access URL.
        tls: Whether the access URL is https.
        database: None: the simulation has none, and a replica says what a good one would be like.
    """

    def __init__(
        self,
        surroundings: Surroundings,
        *,
        hairpin: FaultProxy,
        trust: ssl.SSLContext,
        database: ReplicaDatabase | None,
    ) -> None:
        self.hairpin = hairpin
        self._surroundings = surroundings
        self._trust = trust
        self._database = database

    @property
    def _origin(self) -> str:
        return f"{self.hairpin.host}:{self.hairpin.port}"

    async def ask_access_url(self) -> AccessFacts:
        """Get /healthz; redirects are followed, and nobody looks at the body."""
        try:
            async with (
                _open_session() as session,
                session.get(f"https://{self._origin}/healthz", ssl=self._trust) as answer,
            ):
                return AccessFacts(status=answer.status, body=await answer.text())
        except _HTTP_GONE as error:
            return AccessFacts(error=_say(error))

    async def try_websocket(self, token: str) -> WebsocketFacts:
        """Send three texts, each of which must come back."""
        status = 0
        try:
            async with (
                _open_session() as session,
                session.ws_connect(
                    f"wss://{self._origin}/api/v2/debug/ws",
                    headers={"Coder-Session-Token": token},
                    ssl=self._trust,
                ) as socket,
            ):
                status = 101
                for text in _ECHOES:
                    await socket.send_str(text)
                    answer = await socket.receive(timeout=LIMIT_SECONDS)
                    if answer.type is not aiohttp.WSMsgType.TEXT:
                        return WebsocketFacts(status=status, code="EWS02", error="read message: the socket was closed")
                    if answer.data != text:
                        return WebsocketFacts(status=status, code="EWS03", error="another message came back")
        except aiohttp.WSServerHandshakeError as error:
            said = f"expected handshake response status code 101 but got {error.status}"
            return WebsocketFacts(status=error.status, code="EWS01", error=f"websocket dial: {said}")
        except _HTTP_GONE as error:
            if status:
                return WebsocketFacts(status=status, code="EWS02", error=f"write message: {_say(error)}")
            return WebsocketFacts(code="EWS01", error=f"websocket dial: {_say(error)}")
        return WebsocketFacts(status=status)

    async def ping_database(self) -> DatabaseFacts:
        if self._database is None:
            return DatabaseFacts(ping_seconds=(0.0004,) * 5)
        return await self._database.ping(limit_seconds=_PINGS_SECONDS)

    async def look_around(self) -> tuple[DerpFacts, tuple[ProxyFacts, ...]]:
        """Return the relays with Coder's own, that this replica reaches through its hairpin, and the proxies."""
        derp_map, shared, varies, proxies = await self._surroundings.look()
        own = await self._surroundings.measure_regions(
            (region for region in derp_map.regions if region.embedded), port=self.hairpin.port
        )
        results = sorted((*shared.regions, *own.regions), key=lambda region: region.region_id)
        return (
            DerpFacts(
                derp_map=derp_map,
                verdict=judge_as_coder(results, mapping_varies=varies),
                mapping_varies=varies,
                round_trip_seconds=dict(_round_trips(results)),
                errors=shared.errors | own.errors,
            ),
            proxies,
        )


def _round_trips(regions: Iterable[RegionResult]) -> Iterable[tuple[tuple[int, str], float]]:
    for region in regions:
        for relay in region.relays:
            for transport in relay.transports:
                if transport.round_trip_seconds:
                    yield (region.region_id, relay.name.node), transport.round_trip_seconds[-1]


def _open_session() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(force_close=True, resolver=_Loopback()),
        timeout=aiohttp.ClientTimeout(total=LIMIT_SECONDS),
    )


class _Loopback(AbstractResolver):
    """Knows this host alone: where a redirect leads elsewhere, nobody is asked for it."""

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        if host != "localhost":
            raise OSError(f"lookup {host}: no such host")
        found: ResolveResult = {
            "hostname": host,
            "host": "127.0.0.1",
            "port": port,
            "family": socket.AF_INET,
            "proto": 0,
            "flags": socket.AI_NUMERICHOST,
        }
        return [found]

    async def close(self) -> None:
        return


def _say(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return "context deadline exceeded"
    if isinstance(error, aiohttp.ClientConnectorError):
        return f"dial tcp: {os.strerror(error.errno) if error.errno else error.os_error}".lower()
    return " ".join(str(error).split()) or type(error).__name__
