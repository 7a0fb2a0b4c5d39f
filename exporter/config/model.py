"""The configuration as frozen values: each default stands beside its field.

Durations are seconds. Where a default is Coder's own, its source stands beside it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from exporter.health.maintenance import Window
from exporter.health.model import Section
from exporter.health.provisioner_daemons import DEFAULT_STALE_AFTER_SECONDS
from exporter.health.settle import Policy
from exporter.secret import Secret

DEFAULT_INTERVAL_SECONDS = 30.0
DEFAULT_TIMEOUT_SECONDS = 10.0
# Coder gives these four sections 5 s each. Source: coder-interfaces, section 1, time limits.
SECTION_TIMEOUT_SECONDS: Mapping[Section, float] = {
    Section.ACCESS_URL: 5.0,
    Section.WEBSOCKET: 5.0,
    Section.DATABASE: 5.0,
    Section.WORKSPACE_PROXY: 5.0,
    # of a DERP node, when no caller sets another
    Section.DERP: 10.0,
    Section.DIRECT_CONNECTIONS: 10.0,
    # Coder lets the request that makes a report wait for 30 s, and then it is asked again
    Section.REPORT: 80.0,
}
# A check of a relay is four logins, and STUN servers may be somebody else's.
# Source: derp-stun, P14.
SECTION_INTERVAL_SECONDS: Mapping[Section, float] = {
    Section.DERP: 60.0,
    Section.DIRECT_CONNECTIONS: 60.0,
    # each may cost Coder a whole round of its own checks
    Section.REPORT: 120.0,
}
# Of the report: what is asked more often is a load for Coder. A deployment on this host itself is one
# that somebody tries things out with.
MIN_REPORT_INTERVAL_SECONDS = 90.0
# Coder's report counts once for each time it was made, and that is seldom.
# Source: contract, section 8, Settling
REPORT_RAISE_AFTER = 1
# What coderd speaks on its own port; TLS most often ends before it.
REPLICA_SCHEME = "http"
# How long a token is good changes slowly. Reading it is a use of the token, and moves its end.
TOKEN_INTERVAL_SECONDS = 60.0
# Names of tunnel interfaces, for those that the kernel's kind does not tell.
TUNNEL_INTERFACES = ("tun*", "tap*", "utun*", "wg*", "ppp*", "ipsec*", "tailscale*", "zt*", "nordlynx*", "coder*")


@dataclass(frozen=True, slots=True, kw_only=True)
class SectionConfig:
    """How a section of one deployment is probed; everything inherited is already filled in."""

    enabled: bool = True
    interval_seconds: float = DEFAULT_INTERVAL_SECONDS
    timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS
    settle: Policy = field(default_factory=Policy)


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessURLSectionConfig(SectionConfig):
    certificate_warning_seconds: float = 14 * 86400.0  # XACS03, warning
    certificate_error_seconds: float = 2 * 86400.0  # XACS03, error


@dataclass(frozen=True, slots=True, kw_only=True)
class LossConfig:
    """A low-rate stream of messages through each relay, to see loss and jitter. Off by default."""

    enabled: bool = False
    packets_per_second: int = 2
    window_seconds: float = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class DerpSectionConfig(SectionConfig):
    """`expect_websocket`: clients are forced to WebSocket; None: as the server says."""

    expect_websocket: bool | None = None
    mesh: bool = True
    map_file: Path | None = None
    allow_hosts: tuple[str, ...] = ()
    loss: LossConfig = field(default_factory=LossConfig)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProvisionerDaemonsSectionConfig(SectionConfig):
    """`stale_after_seconds`: a daemon that was not seen for longer is not counted on."""

    stale_after_seconds: float = DEFAULT_STALE_AFTER_SECONDS  # Coder's own


@dataclass(frozen=True, slots=True, kw_only=True)
class DirectConnectionsSectionConfig(SectionConfig):
    """`tunnel_interfaces`: name patterns that count as a tunnel, whatever the interface's kind."""

    tunnel_interfaces: tuple[str, ...] = TUNNEL_INTERFACES


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaConfig:
    """A replica of coderd by its label and its URL."""

    name: str
    url: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaDNSConfig:
    """A name that has the addresses of all replicas. `port` is None for a service (SRV), which tells it."""

    name: str
    port: int | None
    scheme: str = REPLICA_SCHEME


@dataclass(frozen=True, slots=True, kw_only=True)
class DatabaseConfig:
    """`url` is what `CODER_PG_CONNECTION_URL` holds: a URL or a keyword string."""

    url: Secret
    latency_threshold_seconds: float | None = None  # as Coder's configuration says, else its default
    fresh_connection_interval_seconds: float = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxyConfig:
    """A statically listed workspace proxy. `id` is filled in when the file leaves it out."""

    id: str
    name: str
    url: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DeploymentConfig:
    """One Coder deployment. Exactly one of `url` and `url_file` is set, and at most one of `session_token`
    and `session_token_file`, whose content may change while the exporter runs.

    `ca_file`: PEM file of additional trusted certificates (`tls: {ca_file: ...}`).
    """

    name: str
    url: str | None = None
    url_file: Path | None = None
    session_token: Secret | None = None
    session_token_file: Path | None = None
    deployment_id: str | None = None
    ca_file: Path | None = None
    database: DatabaseConfig | None = None
    access_url: AccessURLSectionConfig = field(default_factory=AccessURLSectionConfig)
    websocket: SectionConfig = field(default_factory=SectionConfig)
    database_section: SectionConfig = field(default_factory=SectionConfig)
    derp: DerpSectionConfig = field(default_factory=DerpSectionConfig)
    workspace_proxy: SectionConfig = field(default_factory=SectionConfig)
    provisioner_daemons: ProvisionerDaemonsSectionConfig = field(default_factory=ProvisionerDaemonsSectionConfig)
    direct_connections: DirectConnectionsSectionConfig = field(default_factory=DirectConnectionsSectionConfig)
    report: SectionConfig = field(default_factory=SectionConfig)
    static_proxies: tuple[ProxyConfig, ...] = ()
    replicas: tuple[ReplicaConfig, ...] = ()
    replica_dns: ReplicaDNSConfig | None = None
    discover_replicas: bool = True
    maintenance: tuple[Window, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Everything that a run of the exporter is told.

    `warnings` are sentences about things that work but should be mended; they are logged.
    `source` names where it came from: a path, or "environment". `reference` is an address (host:port)
    that answers whenever this host is not cut off.
    """

    deployments: tuple[DeploymentConfig, ...]
    reference: str | None = None
    warnings: tuple[str, ...] = ()
    source: str = "environment"
