"""What is probed: one value for each entry of the schedule."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from exporter.health.model import Section, Witness
from exporter.health.workspace_proxy import ListedProxy
from exporter.secret import Secret


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class SectionKey:
    """One verdict in the metrics. `coder_replica` is empty for what is seen through the access URL."""

    deployment: str
    section: Section
    witness: Witness = Witness.PROBE
    coder_replica: str = ""


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class TargetKey:
    """One thing that was probed. `name` is the label `target`: a host, a proxy's name, `primary`;
    empty for a round over many (the list of workspace proxies)."""

    section_key: SectionKey
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessURL:
    """Where the access URL is taken from: written in the configuration, or a file that is read
    again before each run. Exactly one of both is set."""

    url: str | None = None
    url_file: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One entry of the schedule: what the ticker runs, once an interval, never twice at a time."""

    deployment: str
    section: Section
    interval_seconds: float
    timeout_seconds: float

    @property
    def section_key(self) -> SectionKey:
        return SectionKey(deployment=self.deployment, section=self.section)

    @property
    def run_limit_seconds(self) -> float:
        """How long a whole run may take: the timeout, unless a run has several steps."""
        return self.timeout_seconds

    @property
    def schedule_name(self) -> str:
        """The stable name that seeds the first delay and that logs show."""
        return f"{self.deployment}/{self.section}"


@dataclass(frozen=True, slots=True, kw_only=True)
class HTTPTarget(Target):
    """A target behind the access URL. `ca_file` is None for the system's certificates."""

    access_url: AccessURL
    session_token: Secret | None = None
    ca_file: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessURLTarget(HTTPTarget):
    """`deployment_id` is the one the configuration expects; None: the first one seen counts."""

    deployment_id: str | None = None
    certificate_warning_seconds: float = 14 * 86400.0
    certificate_error_seconds: float = 2 * 86400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class WebSocketTarget(HTTPTarget):
    """With a token the echo is tried, and then perhaps the open socket: each has the timeout."""

    @property
    def run_limit_seconds(self) -> float:
        return 2 * self.timeout_seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class DatabaseTarget(Target):
    """`fresh_connection_interval_seconds`: how often a new connection is opened just to measure it."""

    url: Secret
    latency_threshold_seconds: float = 0.015
    fresh_connection_interval_seconds: float = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkspaceProxiesTarget(HTTPTarget):
    """All proxies of a deployment: one round. The list comes from the configuration, from the API
    (with a session token) and from the tables (with a database URL). The timeout is that of the
    list, and then that of each proxy; a list of hundreds is probed in two parts."""

    static: tuple[ListedProxy, ...] = ()
    database_url: Secret | None = None

    @property
    def run_limit_seconds(self) -> float:
        return 3 * self.timeout_seconds
