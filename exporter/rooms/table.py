"""The rooms bound together: how each section is probed and judged, and what its probes keep.

In: targets. Out: the table that the runner goes by, section -> probe, assess. What is kept from run
to run (connections, lists, memories) lives here.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from exporter.clock import Clock
from exporter.health import (
    access_url,
    database,
    provisioner_daemons,
    replica,
    websocket,
    workspace_proxy,
)
from exporter.health import exporter as exporter_health
from exporter.health.access_url import AccessURLResult
from exporter.health.database import DatabaseResult
from exporter.health.exporter import ExporterResult, TokenResult
from exporter.health.model import Section
from exporter.health.provisioner_daemons import ProvisionerDaemonsResult
from exporter.health.replica import ReplicaResult
from exporter.health.report import CoderSettings
from exporter.health.websocket import WebSocketResult
from exporter.health.workspace_proxy import RoundResult
from exporter.probes import access_url as access_url_probe
from exporter.probes import provisioner_daemons as provisioner_daemons_probe
from exporter.probes import replica as replica_probe
from exporter.probes import token as token_probe
from exporter.probes import websocket as websocket_probe
from exporter.probes import workspace_proxy as workspace_proxy_probe
from exporter.probes.identity import IdentityMemory
from exporter.probes.token import TokenMemory
from exporter.relays import Relays
from exporter.replicas import Replicas
from exporter.rooms.derp import DerpRoom, judge_direct_connections, name_derp
from exporter.rooms.report import ReportRoom, is_complete, is_long
from exporter.runner import Judgement, Room
from exporter.snapshot import Snapshot
from exporter.targets.discovery import ProxyDiscovery
from exporter.targets.model import (
    AccessURLTarget,
    DatabaseTarget,
    ExporterTarget,
    HTTPTarget,
    ProvisionerDaemonsTarget,
    ReplicaTarget,
    ReportTarget,
    Target,
    TokenTarget,
    WebSocketTarget,
    WorkspaceProxiesTarget,
)
from exporter.wire.url import parse_origin

if TYPE_CHECKING:
    from exporter.rooms.databases import Databases

# The label `target` of the database. Source: contract, section 5.
DATABASE_TARGET = "primary"


class Rooms:
    """The table of rooms, with what probes keep.

    Args:
        relays: By deployment, where its DERP map is watched.
        replicas: By deployment, where replicas of coderd are looked for.
        look_at_host: Finds whether this host is cut off, and whether the schedule is kept.
        has_database: Any target has a connection string.
    """

    def __init__(
        self,
        *,
        relays: Mapping[str, Relays],
        replicas: Mapping[str, Replicas],
        look_at_host: Callable[[ExporterTarget], Awaitable[ExporterResult]],
        snapshot: Snapshot,
        clock: Clock,
        has_database: bool = False,
    ) -> None:
        self._replicas = replicas
        self._look_at_host = look_at_host
        self._snapshot = snapshot
        self._clock = clock
        self._databases = _load_databases(clock) if has_database else None
        self._discoveries: dict[str, ProxyDiscovery] = {}
        self._memories: dict[str, IdentityMemory] = {}
        self._tokens: dict[str, TokenMemory] = {}
        self.settings: dict[str, CoderSettings] = {}
        """What Coder's configuration says, by deployment, as far as it could be read."""
        self._derp = DerpRoom(relays, snapshot=snapshot, clock=clock)
        self.reports = ReportRoom(self.settings, snapshot=snapshot, clock=clock)

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
                probe=self._probe_database, judge=self._judge_database, name=lambda target: DATABASE_TARGET
            ),
            Section.WORKSPACE_PROXY: Room(
                probe=self._probe_workspace_proxies, judge=_judge_workspace_proxies, name=lambda target: ""
            ),
            Section.PROVISIONER_DAEMONS: Room(
                probe=self._probe_provisioner_daemons, judge=_judge_provisioner_daemons, name=lambda target: ""
            ),
            Section.DERP: Room(probe=self._derp.probe, judge=self._derp.judge, name=name_derp),
            Section.REPORT: Room(
                probe=self.reports.probe,
                judge=self.reports.judge,
                name=self._name_report,
                is_complete=is_complete,
                is_long=is_long,
            ),
            Section.EXPORTER: Room(probe=self._probe_exporter, judge=_judge_exporter, name=lambda target: ""),
            Section.DIRECT_CONNECTIONS: Room(
                probe=self._derp.probe_direct_connections, judge=judge_direct_connections, name=lambda target: ""
            ),
        }

    @property
    def databases(self) -> Databases:
        """What is kept of databases; only where there is one."""
        assert self._databases is not None
        return self._databases

    async def close(self) -> None:
        """Give back what runs kept open."""
        if self._databases is not None:
            await self._databases.close()

    async def _probe_access_url(self, target: Target) -> object:
        """What everybody uses, or one replica behind it."""
        replicas = self._replicas.get(target.deployment)
        if isinstance(target, ReplicaTarget):
            result = await replica_probe.probe(target, clock=self._clock)
            return result if replicas is None else replicas.see(result)
        assert isinstance(target, AccessURLTarget)
        memory = self._memories.setdefault(target.schedule_name, IdentityMemory())
        answer = await access_url_probe.probe(target, clock=self._clock, memory=memory)
        if replicas is not None:
            replicas.set_access_url_answers(answer.best is not None and answer.best.up)
        return answer

    async def _probe_exporter(self, target: Target) -> object:
        """Our token of a deployment, or this exporter and its host."""
        if isinstance(target, TokenTarget):
            memory = self._tokens.setdefault(target.schedule_name, TokenMemory())
            return await token_probe.probe(target, memory=memory, clock=self._clock)
        assert isinstance(target, ExporterTarget)
        return await self._look_at_host(target)

    def _probe_database(self, target: DatabaseTarget) -> Awaitable[DatabaseResult]:
        return self.databases.probe(target)

    def _judge_database(self, target: DatabaseTarget, result: DatabaseResult) -> Sequence[Judgement]:
        report = database.assess(result, threshold_seconds=self.latency_threshold_seconds(target))
        return (Judgement(name=DATABASE_TARGET, report=report, result=result, phase_seconds=result.phase_seconds),)

    def latency_threshold_seconds(self, target: DatabaseTarget) -> float:
        """Return the threshold in force: as written, else as Coder's configuration says, else its default;
        of each of them what the verdict goes by."""
        if target.latency_threshold_seconds is not None:
            return database.find_threshold(target.latency_threshold_seconds)
        learned = self.settings.get(target.deployment)
        if learned is None or learned.latency_threshold_seconds is None:
            return database.DEFAULT_LATENCY_THRESHOLD_SECONDS
        return database.find_threshold(learned.latency_threshold_seconds)

    def _probe_workspace_proxies(self, target: WorkspaceProxiesTarget) -> Awaitable[RoundResult]:
        return workspace_proxy_probe.probe(target, discovery=self.discovery(target), clock=self._clock)

    def discovery(self, target: WorkspaceProxiesTarget) -> ProxyDiscovery:
        """Return what keeps the list of a deployment's workspace proxies."""
        discovery = self._discoveries.get(target.schedule_name)
        if discovery is None:
            read_tables = None if self._databases is None else self._databases.read_proxies(target)
            discovery = ProxyDiscovery(target, clock=self._clock, read_tables=read_tables)
            self._discoveries[target.schedule_name] = discovery
        return discovery

    def _probe_provisioner_daemons(self, target: ProvisionerDaemonsTarget) -> Awaitable[ProvisionerDaemonsResult]:
        tables = None if self._databases is None else self._databases.daemon_tables(target)
        return provisioner_daemons_probe.probe(target, tables=tables, clock=self._clock)

    def forget(self, schedule_name: str) -> None:
        """Forget what runs of a target that left the schedule kept. A connection to a database is kept by none
        that leaves."""
        self.reports.forget(schedule_name)
        self._memories.pop(schedule_name, None)
        self._tokens.pop(schedule_name, None)

    def _name_report(self, target: HTTPTarget) -> str:
        """Return the label of a poll that could not read the URL: never empty, which is what all polls
        together are called."""
        if not isinstance(target, ReportTarget):
            return ""
        url = target.access_url.url
        written = "" if url is None else parse_origin(url).host
        return self._host(target) or written or target.deployment

    def _host(self, target: HTTPTarget) -> str:
        """Return the label `target` when a run broke before it could tell: that of the run before."""
        rollup = self._snapshot.sections.get(target.section_key)
        for key in rollup.entries if rollup is not None else ():
            if key.name:
                return key.name
        return target.coder_replica


def _load_databases(clock: Clock) -> Databases:
    # only here: the driver would cost every exporter without a database some 3 MB
    from exporter.rooms.databases import Databases

    return Databases(clock=clock)


def _judge_access_url(target: Target, result: AccessURLResult | ReplicaResult) -> Sequence[Judgement]:
    if isinstance(result, ReplicaResult):
        verdict = replica.assess(result)
        return (Judgement(name=result.name, report=verdict, result=result, phase_seconds=result.phase_seconds),)
    assert isinstance(target, AccessURLTarget)
    report = access_url.assess(
        result,
        certificate_warning_seconds=target.certificate_warning_seconds,
        certificate_error_seconds=target.certificate_error_seconds,
    )
    return (Judgement(name=result.host, report=report, result=result, phase_seconds=result.phase_seconds),)


def _judge_websocket(target: WebSocketTarget, result: WebSocketResult) -> Sequence[Judgement]:
    report = websocket.assess(result)
    return (Judgement(name=result.host, report=report, result=result, phase_seconds=result.phase_seconds),)


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


def _judge_exporter(_target: Target, result: TokenResult | ExporterResult) -> Sequence[Judgement]:
    if isinstance(result, TokenResult):
        return (Judgement(name="", report=exporter_health.assess_token(result), result=result),)
    return (Judgement(name="", report=exporter_health.assess_exporter(result), result=result),)
