"""The rooms bound together: how each section is probed and judged, and what its probes keep.

In: targets. Out: the table that the runner goes by, section -> probe, assess. What is kept from run
to run (connections, lists, memories) lives here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping, Sequence
from functools import partial

from exporter.clock import Clock
from exporter.health import (
    access_url,
    database,
    derp,
    direct_connections,
    provisioner_daemons,
    stun,
    websocket,
    workspace_proxy,
)
from exporter.health.access_url import AccessURLResult
from exporter.health.database import DatabaseResult
from exporter.health.derp import DerpResult, MeshResult, RelayResult
from exporter.health.direct_connections import DirectConnectionsResult
from exporter.health.model import Section
from exporter.health.provisioner_daemons import ProvisionerDaemonsResult
from exporter.health.stun import StunResult
from exporter.health.websocket import WebSocketResult
from exporter.health.workspace_proxy import RoundResult
from exporter.net.coder_daemons import DaemonTables
from exporter.net.coder_tables import CoderTables
from exporter.net.postgres import Session
from exporter.probes import access_url as access_url_probe
from exporter.probes import database as database_probe
from exporter.probes import derp as derp_probe
from exporter.probes import derp_mesh as derp_mesh_probe
from exporter.probes import direct_connections as direct_connections_probe
from exporter.probes import provisioner_daemons as provisioner_daemons_probe
from exporter.probes import stun as stun_probe
from exporter.probes import websocket as websocket_probe
from exporter.probes import workspace_proxy as workspace_proxy_probe
from exporter.probes.identity import IdentityMemory
from exporter.relays import Relays
from exporter.runner import Judgement, Room
from exporter.secret import Secret
from exporter.snapshot import Snapshot
from exporter.targets.discovery import ProxyDiscovery, ReadTables
from exporter.targets.model import (
    AccessURLTarget,
    DatabaseTarget,
    DerpMeshTarget,
    DerpRelayTarget,
    DirectConnectionsTarget,
    HTTPTarget,
    ProvisionerDaemonsTarget,
    StunTarget,
    Target,
    WebSocketTarget,
    WorkspaceProxiesTarget,
)
from exporter.wire.derp_frames import Transport
from exporter.wire.postgres_url import parse_postgres_url

# The label `target` of the database. Source: contract, section 5.
DATABASE_TARGET = "primary"


class Rooms:
    """The table of rooms, with what probes keep.

    Args:
        relays: By deployment, where its DERP map is watched.
    """

    def __init__(self, *, relays: Mapping[str, Relays], snapshot: Snapshot, clock: Clock) -> None:
        self._relays = relays
        self._snapshot = snapshot
        self._clock = clock
        self._sessions: dict[str, Session] = {}
        self._discoveries: dict[str, ProxyDiscovery] = {}
        self._daemon_tables: dict[str, DaemonTables] = {}
        self._memories: dict[str, IdentityMemory] = {}

    def table(self) -> Mapping[Section, Room]:
        """Return how each section is probed and judged."""
        return {
            Section.ACCESS_URL: Room(probe=self._probe_access_url, judge=_judge_access_url, name=self._host),
            Section.WEBSOCKET: Room(
                probe=partial(websocket_probe.probe, clock=self._clock),
                judge=_judge_websocket,
                name=self._host,
            ),
            Section.DATABASE: Room(
                probe=self._probe_database, judge=_judge_database, name=lambda target: DATABASE_TARGET
            ),
            Section.WORKSPACE_PROXY: Room(
                probe=self._probe_workspace_proxies, judge=_judge_workspace_proxies, name=lambda target: ""
            ),
            Section.PROVISIONER_DAEMONS: Room(
                probe=self._probe_provisioner_daemons, judge=_judge_provisioner_daemons, name=lambda target: ""
            ),
            Section.DERP: Room(probe=self._probe_derp, judge=self._judge_derp, name=_name_derp),
            Section.DIRECT_CONNECTIONS: Room(
                probe=self._probe_direct_connections, judge=_judge_direct_connections, name=lambda target: ""
            ),
        }

    async def _probe_derp(self, target: Target) -> object:
        """The kinds of targets of the section: relays, STUN servers, meshes, and their judgement."""
        match target:
            case DerpRelayTarget():
                return await derp_probe.probe(target, clock=self._clock)
            case StunTarget():
                result = await stun_probe.probe(target, clock=self._clock)
                return self._relays[target.deployment].see_others(result)
            case DerpMeshTarget():
                return await derp_mesh_probe.probe(target, clock=self._clock)
            case _:
                relays = self._relays[target.deployment]
                await relays.replan()
                return relays.gather(self._snapshot)

    def _judge_derp(self, target: Target, result: object) -> Sequence[Judgement]:
        match result:
            case RelayResult():
                return tuple(
                    Judgement(
                        name=f"{result.name.target}/{transport.transport}",
                        report=derp.assess_transport(result, transport.transport),
                        result=transport,
                        phase_seconds=transport.phase_seconds,
                        started_timestamp_seconds=transport.started_timestamp_seconds,
                        duration_seconds=transport.duration_seconds,
                    )
                    for transport in result.transports
                )
            case StunResult():
                return (Judgement(name=_name_derp(target), report=stun.assess_stun(result), result=result),)
            case MeshResult():
                return (Judgement(name=_name_derp(target), report=derp.assess_mesh(result), result=result),)
            case DerpResult():
                regions = (
                    Judgement(name=str(region.region_id), report=derp.assess_region(region), result=region)
                    for region in result.regions
                    if region.relays or region.pending
                )
                return (Judgement(name="", report=derp.assess_section(result), result=result), *regions)
            case _:
                raise TypeError(f"no judgement of a {type(result).__name__}")

    def _probe_direct_connections(self, target: DirectConnectionsTarget) -> Awaitable[DirectConnectionsResult]:
        relays = self._relays[target.deployment]
        plan = relays.plan
        surroundings = direct_connections_probe.Surroundings(
            derp_map=relays.state.derp_map,
            disabled=relays.state.direct_disabled,
            off=relays.state.off if relays.state.derp_map is None else None,
            access_origin=relays.access_origin,
            relays=() if plan is None else plan.relays,
            stun=() if plan is None else plan.stun,
        )
        return direct_connections_probe.probe(target, surroundings=surroundings, clock=self._clock)

    async def close(self) -> None:
        """Give back what runs kept open, side by side: each may take its time to say goodbye."""
        sessions = list(self._sessions.values())
        self._sessions.clear()
        async with asyncio.TaskGroup() as group:
            for session in sessions:
                group.create_task(session.close())

    def _probe_access_url(self, target: AccessURLTarget) -> Awaitable[AccessURLResult]:
        memory = self._memories.setdefault(target.schedule_name, IdentityMemory())
        return access_url_probe.probe(target, clock=self._clock, memory=memory)

    def _probe_database(self, target: DatabaseTarget) -> Awaitable[DatabaseResult]:
        session = self._session(
            target, target.url, fresh_connection_interval_seconds=target.fresh_connection_interval_seconds
        )
        return database_probe.probe(target, session=session, clock=self._clock)

    def _probe_workspace_proxies(self, target: WorkspaceProxiesTarget) -> Awaitable[RoundResult]:
        return workspace_proxy_probe.probe(target, discovery=self.discovery(target), clock=self._clock)

    def discovery(self, target: WorkspaceProxiesTarget) -> ProxyDiscovery:
        """Return what keeps the list of a deployment's workspace proxies."""
        discovery = self._discoveries.get(target.schedule_name)
        if discovery is None:
            discovery = ProxyDiscovery(target, clock=self._clock, read_tables=self._tables_of(target))
            self._discoveries[target.schedule_name] = discovery
        return discovery

    def _tables_of(self, target: WorkspaceProxiesTarget) -> ReadTables | None:
        if target.database_url is None:
            return None
        tables = CoderTables(self._session(target, target.database_url))
        return lambda timeout_seconds: tables.read_workspace_proxies(timeout_seconds=timeout_seconds)

    def _probe_provisioner_daemons(self, target: ProvisionerDaemonsTarget) -> Awaitable[ProvisionerDaemonsResult]:
        tables = self._daemon_tables.get(target.schedule_name)
        if tables is None and target.database_url is not None:
            tables = DaemonTables(self._session(target, target.database_url))
            self._daemon_tables[target.schedule_name] = tables
        return provisioner_daemons_probe.probe(target, tables=tables, clock=self._clock)

    def _session(self, target: Target, url: Secret, **options: float) -> Session:
        """Return the kept connection of a schedule entry. Each has its own: two conversations on
        one would wait for each other, and be measured."""
        session = self._sessions.get(target.schedule_name)
        if session is None:
            session = Session(
                parse_postgres_url(url.reveal()), clock=self._clock, timeout_seconds=target.timeout_seconds, **options
            )
            self._sessions[target.schedule_name] = session
        return session

    def _host(self, target: HTTPTarget) -> str:
        """Return the label `target` when a run broke before it could tell: that of the run before."""
        for key in self._snapshot.entries:
            if key.section_key == target.section_key:
                return key.name
        return ""


def _judge_access_url(target: AccessURLTarget, result: AccessURLResult) -> Sequence[Judgement]:
    report = access_url.assess(
        result,
        certificate_warning_seconds=target.certificate_warning_seconds,
        certificate_error_seconds=target.certificate_error_seconds,
    )
    return (Judgement(name=result.host, report=report, result=result, phase_seconds=result.phase_seconds),)


def _judge_websocket(target: WebSocketTarget, result: WebSocketResult) -> Sequence[Judgement]:
    report = websocket.assess(result)
    return (Judgement(name=result.host, report=report, result=result, phase_seconds=result.phase_seconds),)


def _judge_database(target: DatabaseTarget, result: DatabaseResult) -> Sequence[Judgement]:
    report = database.assess(result, threshold_seconds=target.latency_threshold_seconds)
    return (Judgement(name=DATABASE_TARGET, report=report, result=result, phase_seconds=result.phase_seconds),)


def _name_derp(target: Target) -> str:
    """Return the label `target` of what the section schedules; a relay has one for each transport."""
    match target:
        case DerpRelayTarget():
            return f"{target.name.target}/{Transport.DERP}"
        case StunTarget():
            return f"{target.name.target}/stun"
        case DerpMeshTarget():
            return f"{target.region_id}/mesh"
        case _:
            return ""


def _judge_direct_connections(_target: DirectConnectionsTarget, result: DirectConnectionsResult) -> Sequence[Judgement]:
    return (Judgement(name="", report=direct_connections.assess(result), result=result),)


def _judge_provisioner_daemons(
    _target: ProvisionerDaemonsTarget, result: ProvisionerDaemonsResult
) -> Sequence[Judgement]:
    return (Judgement(name="", report=provisioner_daemons.assess(result), result=result),)


def _judge_workspace_proxies(target: WorkspaceProxiesTarget, result: RoundResult) -> Sequence[Judgement]:
    """The round itself, under an empty name, and each proxy under its own."""
    own = Judgement(name="", report=workspace_proxy.assess_round(result), result=result)
    return (
        own,
        *(
            Judgement(
                name=proxy.proxy.name,
                report=workspace_proxy.assess_proxy(proxy),
                result=proxy,
                phase_seconds=proxy.phase_seconds,
                started_timestamp_seconds=proxy.started_timestamp_seconds,
                duration_seconds=proxy.duration_seconds,
            )
            for proxy in result.proxies
        ),
    )
