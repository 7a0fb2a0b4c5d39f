"""The keys of the configuration file: names, forms, defaults and meanings, as pydantic models.

In: the tree of yaml_nodes. Out: `Document`, where a key that was left out is None. What a scalar may
be stands in values.py; what is inherited and what keys say about one another is settled in resolve.py
and sections.py. The reference (show.py) is made from
these models too; the defaults come from model.py, so neither can drift.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from exporter.config import model
from exporter.config.durations import format_duration
from exporter.config.values import (
    MAX_PACKETS_PER_SECOND,
    URL,
    Boolean,
    Count,
    DNSName,
    Duration,
    FilePath,
    Grace,
    Hosts,
    InterfacePatterns,
    Interval,
    LatencyThreshold,
    LossWindow,
    Name,
    PacketRate,
    Port,
    Reference,
    Scheme,
    SecretText,
    TimeZone,
    UUIDText,
    WindowDuration,
    WindowStart,
    name_kind,
    read_url,
    refuse,
)
from exporter.config.windows import DEFAULT_ZONE
from exporter.health.database import DEFAULT_LATENCY_THRESHOLD_SECONDS
from exporter.health.model import Section
from exporter.health.settle import Policy


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """What a person should know of a key.

    `default` is written as in the file; empty when there is none. `inherited`: the default is not a
    value but the words that tell where it comes from; `own`: it has a default of its own, though the mapping
    that it stands in inherits. `example` is written, as a comment, where no
    default can. `optional`: a mapping that means something by being there.
    """

    meaning: str
    form: str = ""
    default: str = ""
    inherited: bool = False
    own: bool = False
    example: str = ""
    optional: bool = False


_DURATION, _COUNT, _BOOLEAN, _PATH = "duration", "number, 1 to 100", "true or false", "path"
_POLICY = Policy()


def _write_boolean(value: bool) -> str:
    return "true" if value else "false"


def _timeout(section: Section | None = None, what: str = "one run") -> Key:
    seconds = model.DEFAULT_TIMEOUT_SECONDS if section is None else model.SECTION_TIMEOUT_SECONDS[section]
    default = format_duration(seconds)
    # only an example in a file of defaults: what is written does not give way to a shorter interval
    return Key(
        meaning=f"Deadline of {what}; when left out, a shorter interval lowers it.",
        form=_DURATION,
        default=default,
        example=default,
    )


def _interval(section: Section) -> Key:
    """The interval of a section that has a default of its own, whatever global.interval says."""
    default = format_duration(model.SECTION_INTERVAL_SECONDS[section])
    return Key(meaning="Time between the starts of two runs.", form=_DURATION, default=default)


class Keys(BaseModel):
    """A mapping of the file. `not_built` are keys that are promised but not there yet."""

    model_config = ConfigDict(
        strict=True,
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
        allow_inf_nan=False,
        arbitrary_types_allowed=True,
    )
    not_built: ClassVar[frozenset[str]] = frozenset()


class Settle(Keys):
    raise_: Annotated[
        Count | None,
        Key(
            meaning="A code becomes active after so many runs in a row that observed it.",
            form=_COUNT,
            default=str(_POLICY.raise_after),
        ),
    ] = Field(default=None, alias="raise")
    clear: Annotated[
        Count | None,
        Key(
            meaning="A code is over after so many runs in a row that did not observe it.",
            form=_COUNT,
            default=str(_POLICY.clear_after),
        ),
    ] = None
    startup_grace: Annotated[
        Grace | None,
        Key(
            meaning="So long after the exporter's start no code becomes active; 0s for none.",
            form=_DURATION,
            default=format_duration(_POLICY.startup_grace_seconds),
        ),
    ] = None
    version_grace: Annotated[
        Grace | None,
        Key(
            meaning="So long after a version change codes about differing versions wait; 0s for none.",
            form=_DURATION,
            default=format_duration(_POLICY.version_grace_seconds),
        ),
    ] = None


class Global(Keys):
    interval: Annotated[
        Interval | None,
        Key(
            meaning="Time between two runs in sections without a default of their own; at least 1s.",
            form=_DURATION,
            default=format_duration(model.DEFAULT_INTERVAL_SECONDS),
        ),
    ] = None
    timeout: Annotated[
        Duration | None,
        Key(
            meaning="Deadline of one run in sections without a default of their own; at most the interval.",
            form=_DURATION,
            default=format_duration(model.DEFAULT_TIMEOUT_SECONDS),
        ),
    ] = None
    settle: Annotated[Settle | None, Key(meaning="When an observed code becomes active, and when it is over.")] = None
    reference: Annotated[
        Reference | None,
        Key(
            meaning="What answers whenever this host is not cut off (XEXP01); asked only while no target answers.",
            form="host and port",
            example='"192.0.2.1:443"',
        ),
    ] = None


class SectionKeys(Keys):
    enabled: Annotated[Boolean | None, Key(meaning="Whether the section is probed.", form=_BOOLEAN, default="true")] = (
        None
    )
    interval: Annotated[
        Interval | None,
        Key(
            meaning="Time between the starts of two runs.",
            form=_DURATION,
            default="global.interval",
            inherited=True,
            example=format_duration(model.DEFAULT_INTERVAL_SECONDS),
        ),
    ] = None
    timeout: Annotated[Duration | None, _timeout()] = None
    settle: Annotated[
        Settle | None, Key(meaning="Single keys of global.settle, for this section.", inherited=True, optional=True)
    ] = None


_DERP = model.DerpSectionConfig()
_CERTIFICATES = model.AccessURLSectionConfig()


class AccessURLKeys(SectionKeys):
    timeout: Annotated[Duration | None, _timeout(Section.ACCESS_URL)] = None
    certificate_warning: Annotated[
        Duration | None,
        Key(
            meaning="XACS03 warns so long before the certificate ends, at most a third of its lifetime.",
            form=_DURATION,
            default=format_duration(_CERTIFICATES.certificate_warning_seconds),
        ),
    ] = None
    certificate_error: Annotated[
        Duration | None,
        Key(
            meaning="XACS03 is an error so long before the end, at most a tenth of its lifetime.",
            form=_DURATION,
            default=format_duration(_CERTIFICATES.certificate_error_seconds),
        ),
    ] = None


class WebSocketKeys(SectionKeys):
    timeout: Annotated[Duration | None, _timeout(Section.WEBSOCKET)] = None


class DatabaseSectionKeys(SectionKeys):
    timeout: Annotated[Duration | None, _timeout(Section.DATABASE)] = None


class DerpMap(Keys):
    file: Annotated[
        FilePath | None,
        Key(meaning="A DERP map as JSON, as Coder serves it; required.", form=_PATH, example="derp-map.json"),
    ] = None


_LOSS = model.LossConfig()


class Loss(Keys):
    enabled: Annotated[
        Boolean | None,
        Key(
            meaning="Whether messages are sent at a low rate through each relay, to see loss and jitter.",
            form=_BOOLEAN,
            default=_write_boolean(_LOSS.enabled),
        ),
    ] = None
    packets_per_second: Annotated[
        PacketRate | None,
        Key(
            meaning="How many messages a second.",
            form=f"number, 1 to {MAX_PACKETS_PER_SECOND}",
            default=str(_LOSS.packets_per_second),
        ),
    ] = None
    window: Annotated[
        LossWindow | None,
        Key(
            meaning="How long one run sends, 1s to 30s; at most half of the interval, to which it falls when left out.",
            form=_DURATION,
            default=format_duration(_LOSS.window_seconds),
            example=format_duration(_LOSS.window_seconds),
        ),
    ] = None


class DerpKeys(SectionKeys):
    interval: Annotated[Interval | None, _interval(Section.DERP)] = None
    timeout: Annotated[Duration | None, _timeout(Section.DERP, "one relay or STUN server")] = None
    expect_websocket: Annotated[
        Boolean | None,
        Key(
            meaning="Whether clients are forced to WebSocket, so that it is no fault; left out: as the server says.",
            form=_BOOLEAN,
            example="false",
        ),
    ] = None
    mesh: Annotated[
        Boolean | None,
        Key(
            meaning="Whether the relays of a region are probed for reaching one another (XDERP04).",
            form=_BOOLEAN,
            default=_write_boolean(_DERP.mesh),
        ),
    ] = None
    map: Annotated[DerpMap | None, Key(meaning="A DERP map instead of the server's.", optional=True)] = None
    allow_hosts: Annotated[
        Hosts | None,
        Key(
            meaning="Relay hosts that may be probed besides those of Coder and its workspace proxies; at most 100.",
            form="host name or IP address",
            example="[derp.example.com]",
        ),
    ] = None
    loss: Annotated[Loss | None, Key(meaning="Loss and jitter of each relay.")] = None


class WorkspaceProxyKeys(SectionKeys):
    timeout: Annotated[Duration | None, _timeout(Section.WORKSPACE_PROXY)] = None


_DAEMONS = model.ProvisionerDaemonsSectionConfig()


class ProvisionerDaemonsKeys(SectionKeys):
    stale_after: Annotated[
        Duration | None,
        Key(
            meaning="A daemon that was not seen for longer is not counted on (EPD01); heartbeats come every 60s.",
            form=_DURATION,
            default=format_duration(_DAEMONS.stale_after_seconds),
        ),
    ] = None


class DirectConnectionsKeys(SectionKeys):
    interval: Annotated[Interval | None, _interval(Section.DIRECT_CONNECTIONS)] = None
    timeout: Annotated[Duration | None, _timeout(Section.DIRECT_CONNECTIONS)] = None
    tunnel_interfaces: Annotated[
        InterfacePatterns | None,
        Key(
            meaning="Interfaces by whose name one knows a tunnel (XNET05), besides those that the kernel calls so.",
            form="shell pattern",
            default=f"[{', '.join(model.TUNNEL_INTERFACES)}]",
        ),
    ] = None


class ReportSettle(Settle):
    raise_: Annotated[
        Count | None,
        Key(
            meaning="A code becomes active after so many distinct reports in a row that told it.",
            form=_COUNT,
            default=str(model.REPORT_RAISE_AFTER),
            own=True,
        ),
    ] = Field(default=None, alias="raise")


class ReportKeys(SectionKeys):
    interval: Annotated[
        Interval | None,
        Key(
            meaning="Time between the starts of two polls; at least "
            f"{format_duration(model.MIN_REPORT_INTERVAL_SECONDS)}, unless Coder runs on this host.",
            form=_DURATION,
            default=format_duration(model.SECTION_INTERVAL_SECONDS[Section.REPORT]),
        ),
    ] = None
    timeout: Annotated[Duration | None, _timeout(Section.REPORT, "one poll with all its repetitions")] = None
    settle: Annotated[
        ReportSettle | None,
        Key(meaning="Single keys of global.settle, for all that Coder's report tells.", inherited=True, optional=True),
    ] = None


class Sections(Keys):
    not_built = frozenset({"workspaces"})

    access_url: Annotated[AccessURLKeys | None, Key(meaning="GET /healthz and /api/v2/buildinfo.")] = None
    websocket: Annotated[WebSocketKeys | None, Key(meaning="A websocket through the access URL.")] = None
    database: Annotated[DatabaseSectionKeys | None, Key(meaning="Pings of Coder's database; needs `database`.")] = None
    derp: Annotated[DerpKeys | None, Key(meaning="DERP relays and STUN servers of the deployment's map.")] = None
    workspace_proxy: Annotated[WorkspaceProxyKeys | None, Key(meaning="Every workspace proxy, in one round.")] = None
    provisioner_daemons: Annotated[
        ProvisionerDaemonsKeys | None, Key(meaning="Provisioner daemons; needs `database` or a session token.")
    ] = None
    direct_connections: Annotated[
        DirectConnectionsKeys | None, Key(meaning="What this host's network lets through: NAT, UDP, MTU.")
    ] = None
    report: Annotated[ReportKeys | None, Key(meaning="Coder's own health report; needs an Owner's token.")] = None


class TLS(Keys):
    ca_file: Annotated[
        FilePath | None,
        Key(
            meaning="PEM certificates that are trusted besides the system's.",
            form=_PATH,
            example="/etc/ssl/private-ca.pem",
        ),
    ] = None


_DATABASE = {name: field.default for name, field in model.DatabaseConfig.__dataclass_fields__.items()}


class Database(Keys):
    url: Annotated[
        SecretText | None,
        Key(
            meaning="What CODER_PG_CONNECTION_URL holds, for a read-only role; better in url_file.",
            form="URL, secret",
            example='"postgres://health@db.example.com/coder"',
        ),
    ] = None
    url_file: Annotated[
        FilePath | None,
        Key(meaning="A file that holds the URL; instead of url.", form=_PATH, example="/run/secrets/pg-url"),
    ] = None
    latency_threshold: Annotated[
        LatencyThreshold | None,
        Key(
            meaning="EDB02 is raised from this median latency on, in whole milliseconds; left out: as Coder says, else "
            f"{format_duration(DEFAULT_LATENCY_THRESHOLD_SECONDS)}.",
            form=_DURATION,
            example=format_duration(DEFAULT_LATENCY_THRESHOLD_SECONDS),
        ),
    ] = None
    fresh_connection_interval: Annotated[
        Interval | None,
        Key(
            meaning="How often a new connection is opened just to measure connect and login.",
            form=_DURATION,
            default=format_duration(_DATABASE["fresh_connection_interval_seconds"]),
        ),
    ] = None


class StaticProxy(Keys):
    name: Annotated[
        Name | None, Key(meaning="Label of the proxy, unique in its deployment; required.", form="text", example="eu")
    ] = None
    url: Annotated[
        URL | None,
        Key(meaning="Access URL of the proxy; required.", form="URL", example="https://eu.coder.example.com"),
    ] = None
    id: Annotated[
        UUIDText | None,
        Key(
            meaning="Label proxy_id; when left out, made from deployment and name.",
            form="UUID",
            example="6f0c1a52-7f4e-4b53-9d0a-0c8de5f5a3b1",
        ),
    ] = None


class WorkspaceProxies(Keys):
    static: Annotated[
        list[StaticProxy] | None, Key(meaning="Proxies that are probed beside those of Coder's own list.")
    ] = None


class Replica(Keys):
    name: Annotated[
        Name | None,
        Key(
            meaning="Name of the replica, unique; host and port of its URL when left out.",
            form="text",
            example="coderd-0",
        ),
    ] = None
    url: Annotated[
        URL | None,
        Key(
            meaning="Where the replica answers; may stand in the list alone, without a name; required.",
            form="URL",
            example="https://10.0.0.1:8080",
        ),
    ] = None


def _read_replica(value: object) -> object:
    """Let a URL alone stand for a replica."""
    if isinstance(value, list):
        refuse(f"is {name_kind(value)}; a URL, or a mapping with name and url, is wanted")
    return value if isinstance(value, dict) else {"url": read_url(value)}


_DEPLOYMENT = {name: field.default for name, field in model.DeploymentConfig.__dataclass_fields__.items()}


class Replicas(Keys):
    dns: Annotated[
        DNSName | None,
        Key(
            meaning="A name with the addresses of all replicas, like a headless service; with _ in front it is an SRV.",
            form="DNS name",
            example="coder-headless.coder.svc",
        ),
    ] = None
    port: Annotated[
        Port | None,
        Key(
            meaning="Where each replica answers at the addresses of dns; required with it, unless SRV tells the port.",
            form="number, 1 to 65535",
            example="8080",
        ),
    ] = None
    scheme: Annotated[
        Scheme | None,
        Key(
            meaning="What replicas of dns speak there; whatever the access URL speaks, and whatever the port.",
            form="http or https",
            default=model.REPLICA_SCHEME,
            example=model.REPLICA_SCHEME,
        ),
    ] = None
    urls: Annotated[
        list[Annotated[Replica, BeforeValidator(_read_replica)]] | None,
        Key(meaning="Each replica of coderd by its own URL, instead of dns; at most 50."),
    ] = None
    discover: Annotated[
        Boolean | None,
        Key(
            meaning="Whether replicas, and names for those of dns or urls, are read from Coder's table or its API.",
            form=_BOOLEAN,
            default=_write_boolean(_DEPLOYMENT["discover_replicas"]),
        ),
    ] = None


class MaintenanceWindow(Keys):
    start: Annotated[
        WindowStart | None,
        Key(
            meaning="When it opens: each week, by the clocks of its zone, or once, at an RFC 3339 time; required.",
            form="day and time",
            example='"Sat 02:00"',
        ),
    ] = None
    duration: Annotated[
        WindowDuration | None,
        Key(meaning="How long it is open, at most 7d; required.", form=_DURATION, example="2h"),
    ] = None
    timezone: Annotated[
        TimeZone | None,
        Key(
            meaning="The zone of a weekly start, like Europe/Berlin.",
            form="IANA time zone",
            default=DEFAULT_ZONE,
        ),
    ] = None


class Deployment(Keys):
    name: Annotated[
        Name | None,
        Key(meaning="Label deployment, unique, at most 64 characters; required.", form="text", example="prod"),
    ] = None
    url: Annotated[
        URL | None,
        Key(meaning="The access URL; it or url_file is required.", form="URL", example="https://coder.example.com"),
    ] = None
    url_file: Annotated[
        FilePath | None,
        Key(meaning="A file that holds the access URL, read again before each run.", form=_PATH, example="access-url"),
    ] = None
    session_token: Annotated[
        SecretText | None,
        Key(
            meaning="Coder session token; better in session_token_file.",
            form="text, secret",
            example='"<token>"',
        ),
    ] = None
    session_token_file: Annotated[
        FilePath | None,
        Key(
            meaning="A file that holds the token; instead of session_token.",
            form=_PATH,
            example="/run/secrets/coder-token",
        ),
    ] = None
    deployment_id: Annotated[
        UUIDText | None,
        Key(
            meaning="The deployment that must answer (XACS05); when left out, the first one seen.",
            form="UUID",
            example="c1a7e9a2-4c1f-4d0a-8b1e-2f6f0a9d5e77",
        ),
    ] = None
    tls: Annotated[TLS | None, Key(meaning="How servers are verified.", optional=True)] = None
    database: Annotated[
        Database | None, Key(meaning="Coder's PostgreSQL; without it the section database is off.", optional=True)
    ] = None
    replicas: Annotated[
        Replicas | None, Key(meaning="The replicas of coderd behind the access URL.", optional=True)
    ] = None
    sections: Annotated[Sections | None, Key(meaning="What is probed, and how.")] = None
    workspace_proxies: Annotated[
        WorkspaceProxies | None, Key(meaning="Workspace proxies that you name yourself.", optional=True)
    ] = None
    maintenance: Annotated[
        list[MaintenanceWindow] | None,
        Key(meaning="Windows in which no rule alerts for the deployment; at most 100.", optional=True),
    ] = None


class Document(Keys):
    global_: Annotated[Global | None, Key(meaning="What holds for every deployment and section.")] = Field(
        default=None, alias="global"
    )
    deployments: Annotated[list[Deployment] | None, Key(meaning="The Coder deployments; at least one.")] = None
