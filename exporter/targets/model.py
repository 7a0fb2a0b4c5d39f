"""What is probed: one value for each entry of the schedule."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from exporter.health.derp import NodeName
from exporter.health.model import Section, Witness
from exporter.health.provisioner_daemons import DEFAULT_STALE_AFTER_SECONDS
from exporter.health.workspace_proxy import ListedProxy
from exporter.secret import Secret
from exporter.wire.url import Origin


class SectionKey(NamedTuple):
    """One verdict in the metrics. `coder_replica` is empty for what is seen through the access URL,
    `deployment` for what is about the exporter itself. A tuple, since a run looks it up some thirty times."""

    deployment: str
    section: Section | str
    witness: Witness = Witness.PROBE
    coder_replica: str = ""


class TargetKey(NamedTuple):
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
class SessionToken:
    """Where the session token is taken from: written in the configuration, or a file that is read again
    at each use. Exactly one of both is set."""

    token: Secret | None = None
    token_file: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One entry of the schedule: what the ticker runs, once an interval, never twice at a time.

    `coder_replica` is the replica that it asks; empty for everything else.
    """

    deployment: str
    section: Section
    coder_replica: str = ""
    interval_seconds: float
    timeout_seconds: float

    @property
    def section_key(self) -> SectionKey:
        return SectionKey(deployment=self.deployment, section=self.section, coder_replica=self.coder_replica)

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
    session_token: SessionToken | None = None
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
    """`fresh_connection_interval_seconds`: how often a new connection is opened just to measure it.
    `latency_threshold_seconds` is None for the one that Coder's configuration says, else its default."""

    url: Secret
    latency_threshold_seconds: float | None = None
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


@dataclass(frozen=True, slots=True, kw_only=True)
class ProvisionerDaemonsTarget(HTTPTarget):
    """All provisioner daemons of a deployment, from the tables (with a database URL), else from the API
    (with a session token). Each of the two may take the timeout.

    `stale_after_seconds`: who was not seen for longer is not counted on.
    """

    database_url: Secret | None = None
    stale_after_seconds: float = DEFAULT_STALE_AFTER_SECONDS

    @property
    def run_limit_seconds(self) -> float:
        return 2 * self.timeout_seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class DerpMapSource:
    """Where the DERP map of a deployment comes from: a file, else Coder's open socket, and with a
    token what Coder tells to workspaces and clients.

    `interval_seconds`: how often what no socket tells is read again, and how long a failed source
    may stay unasked at most. `timeout_seconds`: of one attempt.
    """

    deployment: str
    access_url: AccessURL
    session_token: SessionToken | None = None
    ca_file: Path | None = None
    map_file: Path | None = None
    interval_seconds: float
    timeout_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class DerpTarget(HTTPTarget):
    """The section `derp` as a whole: the map, and every region judged on the latest results.

    Args:
        allow_hosts: Relay hosts that may be probed beside those of Coder and its proxies.
        expect_websocket: The deployment forces WebSocket; None: as the server says.
        mesh: Whether ordered pairs of a region's relays are probed.
        loss: The low-rate stream of messages; None: off.
        replicas: URLs of the replicas of coderd, whose relays form a mesh.
    """

    allow_hosts: tuple[str, ...] = ()
    expect_websocket: bool | None = None
    mesh: bool = True
    loss: LossMode | None = None
    replicas: tuple[Replica, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Replica:
    """A replica of coderd by its label and where it answers. It is asked for the access URL's host,
    whose name its certificate bears."""

    name: str
    url: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaDNS:
    """A name whose addresses are those of all replicas. One that begins with an underscore is looked up
    as a service (SRV), which tells the ports too: then `port` is None."""

    name: str
    port: int | None
    scheme: str = "http"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaSource:
    """Where the replicas of a deployment are found: in a written list, by DNS, else in Coder's table or
    API; these two tell the names of all.

    Args:
        session_token: For the API; only the access URL is asked with it.
        static: The written list; their names are those of the file. Never beside `dns`.
        discover: Whether table and API are asked at all.
        deployment_id: Who has another one is no replica; None: the one that the access URL tells.
        interval_seconds: How often all of it is looked at again.
        timeout_seconds: Of each question.
    """

    deployment: str
    access_url: AccessURL
    session_token: SessionToken | None = None
    ca_file: Path | None = None
    static: tuple[Replica, ...] = ()
    dns: ReplicaDNS | None = None
    discover: bool = True
    deployment_id: str | None = None
    interval_seconds: float
    timeout_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaTarget(HTTPTarget):
    """One replica by itself, in the section `access_url`. Never with a token."""

    replica: Replica

    @property
    def schedule_name(self) -> str:
        return f"{self.deployment}/{self.section}/{self.coder_replica}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportTarget(HTTPTarget):
    """Coder's own report, from one replica; through the access URL when `replica` is None.

    The timeout is that of all attempts together. `deployment_id`: what a replica has to say it is of
    before it gets the token; empty for a deployment whose servers tell none. `reread_after_seconds`: how
    long after a 503 the report is asked for again. Source: coder-interfaces, section 2.8
    """

    replica: Replica | None = None
    deployment_id: str = ""
    reread_after_seconds: float = 4.0

    @property
    def schedule_name(self) -> str:
        return f"{self.deployment}/{self.section}/poll/{self.coder_replica}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportsTarget(HTTPTarget):
    """What all reports of a deployment say together, with Coder's mutes and configuration."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenTarget(HTTPTarget):
    """Our own session token: how long it is good."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExporterTarget(Target):
    """This exporter and its host. `reference` is an address (host:port) that answers whenever this
    host is not cut off; None: there is none."""

    reference: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LossMode:
    """A stream of messages through each relay, to see loss and jitter. `window_seconds` is how long
    one run sends."""

    packets_per_second: float
    window_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RelayEndpoint:
    """Where a relay answers, and how it is verified.

    Args:
        address: An IP address, or a name to look up, instead of the origin's host, which still is
            what is asked for (Host, SNI) and verified; None: the host itself.
        certificate_name: The name that the certificate must bear, when it is not the host's; or a
            pin, `sha256-raw:<hex>`.
        insecure: The map says not to verify (InsecureForTests).
    """

    origin: Origin
    address: str | None = None
    certificate_name: str | None = None
    insecure: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class DerpRelayTarget(Target):
    """One relay node, both transports side by side. The timeout is that of both together."""

    name: NodeName
    endpoint: RelayEndpoint
    ca_file: Path | None = None
    listed: bool = True
    expect_websocket: bool = False
    loss: LossMode | None = None

    @property
    def schedule_name(self) -> str:
        return f"{self.deployment}/{self.section}/{self.name.target}/relay"

    @property
    def run_limit_seconds(self) -> float:
        return self.timeout_seconds + (self.loss.window_seconds if self.loss is not None else 0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class StunTarget(Target):
    """One STUN server of the map.

    `ipv4` and `ipv6` are addresses by which it is asked; None: look the host up for that family,
    and an empty text: the map switches the family off.
    """

    name: NodeName
    host: str
    port: int
    ipv4: str | None = None
    ipv6: str | None = None

    @property
    def schedule_name(self) -> str:
        return f"{self.deployment}/{self.section}/{self.name.target}/stun"


@dataclass(frozen=True, slots=True, kw_only=True)
class MeshNode:
    """A relay as the mesh probe knows it."""

    name: str
    endpoint: RelayEndpoint


@dataclass(frozen=True, slots=True, kw_only=True)
class DerpMeshTarget(Target):
    """Every ordered pair of a region's relays."""

    region_id: int
    region_name: str
    nodes: tuple[MeshNode, ...]
    ca_file: Path | None = None

    @property
    def schedule_name(self) -> str:
        return f"{self.deployment}/{self.section}/{self.region_id}/mesh"


@dataclass(frozen=True, slots=True, kw_only=True)
class DirectConnectionsTarget(HTTPTarget):
    """This host's network on the way to a deployment.

    `tunnel_interfaces`: name patterns (as of the shell) of interfaces that count as a tunnel
    whatever their kind.
    """

    tunnel_interfaces: tuple[str, ...] = ()
