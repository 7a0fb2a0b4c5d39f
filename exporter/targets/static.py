"""From the configuration to what is probed, and to what is off and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from exporter.config.model import Config, DeploymentConfig, SectionConfig
from exporter.health.model import OffReason, Section
from exporter.health.settle import Policy
from exporter.health.workspace_proxy import ListedProxy
from exporter.targets.model import (
    AccessURL,
    AccessURLTarget,
    DatabaseTarget,
    SectionKey,
    Target,
    WebSocketTarget,
    WorkspaceProxiesTarget,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Every section of every deployment: with a target when it is on, with a reason when it is off."""

    targets: tuple[Target, ...]
    off: Mapping[SectionKey, OffReason]
    policies: Mapping[SectionKey, Policy]


def plan(config: Config) -> Plan:
    """Return what a configuration asks for."""
    targets: list[Target] = []
    off: dict[SectionKey, OffReason] = {}
    policies: dict[SectionKey, Policy] = {}
    for deployment in config.deployments:
        for section, section_config, planned in _sections(deployment):
            key = SectionKey(deployment=deployment.name, section=section)
            policies[key] = section_config.settle
            if not section_config.enabled:
                off[key] = OffReason.DISABLED
            elif isinstance(planned, OffReason):
                off[key] = planned
            else:
                targets.append(planned)
    return Plan(targets=tuple(targets), off=off, policies=policies)


def _sections(deployment: DeploymentConfig) -> list[tuple[Section, SectionConfig, Target | OffReason]]:
    return [
        (Section.ACCESS_URL, deployment.access_url, _access_url(deployment)),
        (Section.WEBSOCKET, deployment.websocket, _websocket(deployment)),
        (Section.DATABASE, deployment.database_section, _database(deployment)),
        (Section.WORKSPACE_PROXY, deployment.workspace_proxy, _workspace_proxies(deployment)),
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
        static=tuple(ListedProxy(id=proxy.id, name=proxy.name, url=proxy.url) for proxy in deployment.static_proxies),
        database_url=database_url,
    )


def _source(deployment: DeploymentConfig) -> AccessURL:
    return AccessURL(url=deployment.url, url_file=deployment.url_file)
