"""From the configuration to what is probed, and to what is off and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from exporter.config.model import Config, DeploymentConfig, LossConfig, SectionConfig
from exporter.health.model import OffReason, Section
from exporter.health.settle import Policy
from exporter.health.workspace_proxy import ListedProxy
from exporter.targets.model import (
    AccessURL,
    AccessURLTarget,
    DatabaseTarget,
    DerpMapSource,
    DerpTarget,
    DirectConnectionsTarget,
    LossMode,
    ProvisionerDaemonsTarget,
    Replica,
    SectionKey,
    Target,
    WebSocketTarget,
    WorkspaceProxiesTarget,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Every section of every deployment: with a target when it is on, with a reason when it is off.

    Args:
        map_sources: Where DERP maps come from, by deployment: of those that need one, since one of the
            sections `derp` and `direct_connections` is on.
        derp_targets: The section `derp` of each deployment, also where it is off: what
            `direct_connections` may look at is found by it. One that is on is among `targets`, too.
        static_proxies: The workspace proxies that the configuration names, by deployment.
    """

    targets: tuple[Target, ...]
    off: Mapping[SectionKey, OffReason]
    policies: Mapping[SectionKey, Policy]
    map_sources: Mapping[str, DerpMapSource]
    derp_targets: Mapping[str, DerpTarget]
    static_proxies: Mapping[str, tuple[ListedProxy, ...]]


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
        session_token=deployment.session_token,
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
        replicas=tuple(Replica(name=replica.name, url=replica.url) for replica in deployment.replicas),
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
        session_token=deployment.session_token,
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


def _workspace_proxies(deployment: DeploymentConfig) -> Target | OffReason:
    database_url = deployment.database.url if deployment.database is not None else None
    if deployment.session_token is None and database_url is None and not deployment.static_proxies:
        return OffReason.NO_TOKEN
    return WorkspaceProxiesTarget(
        deployment=deployment.name,
        section=Section.WORKSPACE_PROXY,
        interval_seconds=deployment.workspace_proxy.interval_seconds,
        timeout_seconds=deployment.workspace_proxy.timeout_seconds,
        access_url=_source(deployment),
        session_token=deployment.session_token,
        ca_file=deployment.ca_file,
        static=_static_proxies(deployment),
        database_url=database_url,
    )


def _provisioner_daemons(deployment: DeploymentConfig) -> Target | OffReason:
    config = deployment.provisioner_daemons
    database_url = deployment.database.url if deployment.database is not None else None
    if deployment.session_token is None and database_url is None:
        return OffReason.NO_TOKEN
    return ProvisionerDaemonsTarget(
        deployment=deployment.name,
        section=Section.PROVISIONER_DAEMONS,
        interval_seconds=config.interval_seconds,
        timeout_seconds=config.timeout_seconds,
        access_url=_source(deployment),
        session_token=deployment.session_token,
        ca_file=deployment.ca_file,
        database_url=database_url,
        stale_after_seconds=config.stale_after_seconds,
    )


def _static_proxies(deployment: DeploymentConfig) -> tuple[ListedProxy, ...]:
    return tuple(ListedProxy(id=proxy.id, name=proxy.name, url=proxy.url) for proxy in deployment.static_proxies)


def _source(deployment: DeploymentConfig) -> AccessURL:
    return AccessURL(url=deployment.url, url_file=deployment.url_file)
