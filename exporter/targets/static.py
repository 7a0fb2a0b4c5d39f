"""From the configuration to what is probed, and to what is off and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from exporter.config.model import (
    DEFAULT_TIMEOUT_SECONDS,
    TOKEN_INTERVAL_SECONDS,
    Config,
    DeploymentConfig,
    LossConfig,
    SectionConfig,
)
from exporter.health.model import REPORT_SECTIONS, OffReason, Section, Witness
from exporter.health.settle import Policy
from exporter.health.workspace_proxy import ListedProxy
from exporter.secret import Secret
from exporter.targets.model import (
    AccessURL,
    AccessURLTarget,
    DatabaseTarget,
    DerpMapSource,
    DerpTarget,
    DirectConnectionsTarget,
    ExporterTarget,
    LossMode,
    ProvisionerDaemonsTarget,
    Replica,
    ReplicaDNS,
    ReplicaSource,
    ReportsTarget,
    ReportTarget,
    SectionKey,
    SessionToken,
    Target,
    TokenTarget,
    WebSocketTarget,
    WorkspaceProxiesTarget,
)

# How often this host and the schedule are looked at: before a second failed run can settle.
EXPORTER_INTERVAL_SECONDS = 15.0
EXPORTER_TIMEOUT_SECONDS = 3.0
EXPORTER_SCHEDULE_NAME = f"/{Section.EXPORTER}"
# The host itself says that it is cut off: that is not a guess that needs a second look.
EXPORTER_POLICY = Policy(raise_after=1, clear_after=1, startup_grace_seconds=0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Every section of every deployment: with a target when it is on, with a reason when it is off.

    Args:
        map_sources: Where DERP maps come from, by deployment: of those that need one, since one of the
            sections `derp` and `direct_connections` is on.
        derp_targets: The section `derp` of each deployment, also where it is off: what
            `direct_connections` may look at is found by it. One that is on is among `targets`, too.
        static_proxies: The workspace proxies that the configuration names, by deployment.
        reports: Coder's report through the access URL, by deployment, of those where it is read; of
            replicas, targets are made like it.
        report_policies: How all that Coder's reports tell settles, by deployment.
        replica_sources: Where replicas of coderd are looked for, by deployment, of those where they are
            probed, or asked for their reports.
        databases: The database that Coder's tables are in, by deployment, of those that have one.
    """

    targets: tuple[Target, ...]
    off: Mapping[SectionKey, OffReason]
    policies: Mapping[SectionKey, Policy]
    map_sources: Mapping[str, DerpMapSource]
    derp_targets: Mapping[str, DerpTarget]
    static_proxies: Mapping[str, tuple[ListedProxy, ...]]
    reports: Mapping[str, ReportTarget]
    report_policies: Mapping[str, Policy]
    replica_sources: Mapping[str, ReplicaSource]
    databases: Mapping[str, Secret]


def plan(config: Config) -> Plan:
    """Return what a configuration asks for."""
    targets: list[Target] = []
    off: dict[SectionKey, OffReason] = {}
    policies: dict[SectionKey, Policy] = {}
    derp_targets = {deployment.name: _derp(deployment) for deployment in config.deployments}
    for deployment in config.deployments:
        for section, section_config, planned in _sections(deployment, derp_targets[deployment.name]):
            key = SectionKey(deployment=deployment.name, section=section)
            policies[key] = section_config.settle
            if not section_config.enabled:
                off[key] = OffReason.DISABLED
            elif isinstance(planned, OffReason):
                off[key] = planned
            else:
                targets.append(planned)
        key = SectionKey(deployment=deployment.name, section=Section.EXPORTER)
        policies[key] = deployment.report.settle
        if _session_token(deployment) is None:
            off[key] = OffReason.NO_TOKEN
        else:
            targets.append(_token(deployment))
        report_off = off.get(SectionKey(deployment=deployment.name, section=Section.REPORT))
        if report_off is not None:
            for section in REPORT_SECTIONS:
                key = SectionKey(deployment=deployment.name, section=section, witness=Witness.REPORT)
                policies[key], off[key] = deployment.report.settle, report_off
    key = SectionKey(deployment="", section=Section.EXPORTER)
    policies[key] = EXPORTER_POLICY
    targets.append(
        ExporterTarget(
            deployment="",
            section=Section.EXPORTER,
            interval_seconds=EXPORTER_INTERVAL_SECONDS,
            timeout_seconds=EXPORTER_TIMEOUT_SECONDS,
            reference=config.reference,
        )
    )
    return Plan(
        targets=tuple(targets),
        off=off,
        policies=policies,
        map_sources={
            deployment.name: _map_source(deployment)
            for deployment in config.deployments
            if deployment.derp.enabled or deployment.direct_connections.enabled
        },
        derp_targets=derp_targets,
        static_proxies={deployment.name: _static_proxies(deployment) for deployment in config.deployments},
        reports={
            deployment.name: _report(deployment)
            for deployment in config.deployments
            if deployment.report.enabled and _session_token(deployment) is not None
        },
        report_policies={deployment.name: deployment.report.settle for deployment in config.deployments},
        replica_sources={
            deployment.name: _replica_source(deployment)
            for deployment in config.deployments
            if _looks_for_replicas(deployment)
        },
        databases={
            deployment.name: deployment.database.url
            for deployment in config.deployments
            if deployment.database is not None
        },
    )


def _sections(
    deployment: DeploymentConfig, derp: DerpTarget
) -> list[tuple[Section, SectionConfig, Target | OffReason]]:
    return [
        (Section.ACCESS_URL, deployment.access_url, _access_url(deployment)),
        (Section.WEBSOCKET, deployment.websocket, _websocket(deployment)),
        (Section.DATABASE, deployment.database_section, _database(deployment)),
        (Section.DERP, deployment.derp, derp),
        (Section.WORKSPACE_PROXY, deployment.workspace_proxy, _workspace_proxies(deployment)),
        (Section.PROVISIONER_DAEMONS, deployment.provisioner_daemons, _provisioner_daemons(deployment)),
        (Section.DIRECT_CONNECTIONS, deployment.direct_connections, _direct_connections(deployment)),
        (Section.REPORT, deployment.report, _reports(deployment)),
    ]


def _access_url(deployment: DeploymentConfig) -> Target:
    config = deployment.access_url
    return AccessURLTarget(
        deployment=deployment.name,
        section=Section.ACCESS_URL,
        interval_seconds=config.interval_seconds,
        timeout_seconds=config.timeout_seconds,
        access_url=_source(deployment),
        ca_file=deployment.ca_file,
        deployment_id=deployment.deployment_id,
        certificate_warning_seconds=config.certificate_warning_seconds,
        certificate_error_seconds=config.certificate_error_seconds,
    )


def _websocket(deployment: DeploymentConfig) -> Target:
    return WebSocketTarget(
        deployment=deployment.name,
        section=Section.WEBSOCKET,
        interval_seconds=deployment.websocket.interval_seconds,
        timeout_seconds=deployment.websocket.timeout_seconds,
        access_url=_source(deployment),
        session_token=_session_token(deployment),
        ca_file=deployment.ca_file,
    )


def _database(deployment: DeploymentConfig) -> Target | OffReason:
    database = deployment.database
    if database is None:
        return OffReason.NO_DATABASE
    return DatabaseTarget(
        deployment=deployment.name,
        section=Section.DATABASE,
        interval_seconds=deployment.database_section.interval_seconds,
        timeout_seconds=deployment.database_section.timeout_seconds,
        url=database.url,
        latency_threshold_seconds=database.latency_threshold_seconds,
        fresh_connection_interval_seconds=database.fresh_connection_interval_seconds,
    )


def _derp(deployment: DeploymentConfig) -> DerpTarget:
    # without the token: it asks for the map only, and no relay may ever see it
    config = deployment.derp
    return DerpTarget(
        deployment=deployment.name,
        section=Section.DERP,
        interval_seconds=config.interval_seconds,
        timeout_seconds=config.timeout_seconds,
        access_url=_source(deployment),
        ca_file=deployment.ca_file,
        allow_hosts=config.allow_hosts,
        expect_websocket=config.expect_websocket,
        mesh=config.mesh,
        loss=_loss(config.loss),
        replicas=_replicas(deployment),
    )


def _loss(config: LossConfig) -> LossMode | None:
    if not config.enabled:
        return None
    return LossMode(packets_per_second=config.packets_per_second, window_seconds=config.window_seconds)


def _map_source(deployment: DeploymentConfig) -> DerpMapSource:
    section = deployment.derp if deployment.derp.enabled else deployment.direct_connections
    return DerpMapSource(
        deployment=deployment.name,
        access_url=_source(deployment),
        session_token=_session_token(deployment),
        ca_file=deployment.ca_file,
        map_file=deployment.derp.map_file,
        interval_seconds=section.interval_seconds,
        timeout_seconds=section.timeout_seconds,
    )


def _direct_connections(deployment: DeploymentConfig) -> DirectConnectionsTarget:
    config = deployment.direct_connections
    return DirectConnectionsTarget(
        deployment=deployment.name,
        section=Section.DIRECT_CONNECTIONS,
        interval_seconds=config.interval_seconds,
        timeout_seconds=config.timeout_seconds,
        access_url=_source(deployment),
        ca_file=deployment.ca_file,
        tunnel_interfaces=config.tunnel_interfaces,
    )


def _looks_for_replicas(deployment: DeploymentConfig) -> bool:
    polled = deployment.report.enabled and _session_token(deployment) is not None
    named = bool(deployment.replicas) or deployment.replica_dns is not None
    listed = deployment.discover_replicas and (
        _session_token(deployment) is not None or deployment.database is not None
    )
    return polled or (deployment.access_url.enabled and (named or listed))


def _replica_source(deployment: DeploymentConfig) -> ReplicaSource:
    dns = deployment.replica_dns
    return ReplicaSource(
        deployment=deployment.name,
        access_url=_source(deployment),
        session_token=_session_token(deployment),
        ca_file=deployment.ca_file,
        static=_replicas(deployment),
        dns=None if dns is None else ReplicaDNS(name=dns.name, port=dns.port, scheme=dns.scheme),
        discover=deployment.discover_replicas,
        deployment_id=deployment.deployment_id,
        interval_seconds=deployment.access_url.interval_seconds,
        timeout_seconds=deployment.access_url.timeout_seconds,
    )


def _replicas(deployment: DeploymentConfig) -> tuple[Replica, ...]:
    return tuple(Replica(name=replica.name, url=replica.url) for replica in deployment.replicas)


def _report(deployment: DeploymentConfig) -> ReportTarget:
    return ReportTarget(
        deployment=deployment.name,
        section=Section.REPORT,
        interval_seconds=deployment.report.interval_seconds,
        timeout_seconds=deployment.report.timeout_seconds,
        access_url=_source(deployment),
        session_token=_session_token(deployment),
        ca_file=deployment.ca_file,
    )


def _reports(deployment: DeploymentConfig) -> Target | OffReason:
    if _session_token(deployment) is None:
        return OffReason.NO_TOKEN
    return ReportsTarget(
        deployment=deployment.name,
        section=Section.REPORT,
        interval_seconds=deployment.report.interval_seconds,
        # only the mutes and the configuration are asked: plain answers, as of any other route
        timeout_seconds=min(deployment.report.timeout_seconds, DEFAULT_TIMEOUT_SECONDS),
        access_url=_source(deployment),
        session_token=_session_token(deployment),
        ca_file=deployment.ca_file,
    )


def _token(deployment: DeploymentConfig) -> Target:
    return TokenTarget(
        deployment=deployment.name,
        section=Section.EXPORTER,
        interval_seconds=TOKEN_INTERVAL_SECONDS,
        timeout_seconds=DEFAULT_TIMEOUT_SECONDS,
        access_url=_source(deployment),
        session_token=_session_token(deployment),
        ca_file=deployment.ca_file,
    )


def _workspace_proxies(deployment: DeploymentConfig) -> Target | OffReason:
    database_url = deployment.database.url if deployment.database is not None else None
    if _session_token(deployment) is None and database_url is None and not deployment.static_proxies:
        return OffReason.NO_TOKEN
    return WorkspaceProxiesTarget(
        deployment=deployment.name,
        section=Section.WORKSPACE_PROXY,
        interval_seconds=deployment.workspace_proxy.interval_seconds,
        timeout_seconds=deployment.workspace_proxy.timeout_seconds,
        access_url=_source(deployment),
        session_token=_session_token(deployment),
        ca_file=deployment.ca_file,
        static=_static_proxies(deployment),
        database_url=database_url,
    )


def _provisioner_daemons(deployment: DeploymentConfig) -> Target | OffReason:
    config = deployment.provisioner_daemons
    database_url = deployment.database.url if deployment.database is not None else None
    if _session_token(deployment) is None and database_url is None:
        return OffReason.NO_TOKEN
    return ProvisionerDaemonsTarget(
        deployment=deployment.name,
        section=Section.PROVISIONER_DAEMONS,
        interval_seconds=config.interval_seconds,
        timeout_seconds=config.timeout_seconds,
        access_url=_source(deployment),
        session_token=_session_token(deployment),
        ca_file=deployment.ca_file,
        database_url=database_url,
        stale_after_seconds=config.stale_after_seconds,
    )


def _static_proxies(deployment: DeploymentConfig) -> tuple[ListedProxy, ...]:
    return tuple(ListedProxy(id=proxy.id, name=proxy.name, url=proxy.url) for proxy in deployment.static_proxies)


def _source(deployment: DeploymentConfig) -> AccessURL:
    return AccessURL(url=deployment.url, url_file=deployment.url_file)


def _session_token(deployment: DeploymentConfig) -> SessionToken | None:
    if deployment.session_token is None and deployment.session_token_file is None:
        return None
    return SessionToken(token=deployment.session_token, token_file=deployment.session_token_file)
