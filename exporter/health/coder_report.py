"""Coder's own health report, as one reading of `/api/v2/debug/health` told it: what is said, unjudged.

Frozen values that a parser fills (`net/coder_report.py`) and `health/report.py` judges. Everything may
be missing, null or unknown in some version of Coder; nothing here is trusted.

Source: coder-interfaces, sections 1, 2 and 2.9
"""

from __future__ import annotations

from dataclasses import dataclass

from exporter.health.model import Severity


@dataclass(frozen=True, slots=True, kw_only=True)
class CodedMessage:
    """A message of the report; `code` is empty when it bears none."""

    code: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportedSection:
    """What every section has, also one that we do not know.

    Args:
        name: The key in the report; of a section that we do not know, as `coder_members.make_key` writes it.
        severity: None when it is empty, missing or a word that we do not know: with an `error`, the
            section has crashed.
        severity_text: The word itself, cut.
        healthy: None when the section does not say.
        dismissed: Muted in Coder. `provisioner_daemons` never is, whatever the settings say.
        error: The text of `error`; None when there is none.
        messages: Of `warnings` and of the coded lines of `error`, in that order; a code may stand in
            several. Messages of an `error` come only here when they bear a code.
        instead: What stands in its place (`null`, `a text`); empty when it is a section. Only of those
            that we know.
    """

    name: str
    severity: Severity | None
    severity_text: str = ""
    healthy: bool | None = None
    dismissed: bool = False
    error: str | None = None
    messages: tuple[CodedMessage, ...] = ()
    instead: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportedAccessURL:
    """What the replica itself sees of its access URL. `status_code` is None without an answer."""

    access_url: str = ""
    reachable: bool | None = None
    status_code: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportedDatabase:
    """`latency_seconds` is the median, from the duration text where it can be read, else from the
    truncated milliseconds; None when the pings failed or nothing was said."""

    reachable: bool | None = None
    latency_seconds: float | None = None
    threshold_seconds: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportedProxy:
    """A workspace proxy as the replica sees it; the synthetic `primary` is not among them.

    `status` is one of ok, unregistered, unhealthy, unreachable, unknown. `warnings` is None where no
    report of the proxy is told.
    """

    id: str
    name: str
    status: str
    version: str = ""
    errors: tuple[str, ...] = ()
    warnings: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportedDaemon:
    """A provisioner daemon that the replica counts as recent; older ones are not in the report."""

    id: str
    name: str
    organization_id: str
    version: str
    api_version: str
    messages: tuple[CodedMessage, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportedNode:
    """A node of a DERP region.

    `stun_enabled` False: no STUN server is asked there. `round_trip_seconds` is Coder's, measured from
    the last send: None when nothing was exchanged.
    """

    name: str
    host: str = ""
    healthy: bool | None = None
    severity: Severity | None = None
    error: str | None = None
    messages: tuple[CodedMessage, ...] = ()
    stun_only: bool = False
    can_exchange_messages: bool = False
    uses_websocket: bool = False
    round_trip_seconds: float | None = None
    stun_enabled: bool = False
    can_stun: bool = False
    stun_error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportedRegion:
    """A DERP region. `node_count` is that of the map: fewer `nodes` means reports are missing."""

    region_id: int
    name: str = ""
    code: str = ""
    embedded: bool = False
    node_count: int = 0
    healthy: bool | None = None
    severity: Severity | None = None
    error: str | None = None
    messages: tuple[CodedMessage, ...] = ()
    nodes: tuple[ReportedNode, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class CoderReport:
    """One report.

    Args:
        timestamp_seconds: Its `time`, by the replica's clock; None when it tells none.
        healthy: Coder's own overall verdict; None when it says none.
        version: Of the replica that answered.
        severity: The worst of the sections, as Coder sees it; None as `ReportedSection.severity`.
        sections: Every section, each name once, in the order of the report; also those that we do not know.
        access_url, database, proxies, daemons, regions: What the known sections measured. None when the
            report lacks the section or the list (null), which is not the same as an empty one.
        dropped: How many entries were left out, since they had another shape or there were too many.
    """

    timestamp_seconds: float | None = None
    healthy: bool | None = None
    severity: Severity | None = None
    version: str = ""
    sections: tuple[ReportedSection, ...] = ()
    access_url: ReportedAccessURL | None = None
    database: ReportedDatabase | None = None
    proxies: tuple[ReportedProxy, ...] | None = None
    daemons: tuple[ReportedDaemon, ...] | None = None
    regions: tuple[ReportedRegion, ...] | None = None
    dropped: int = 0

    @property
    def tells_severities(self) -> bool:
        """Whether its server knows severities: older ones have none, of any section."""
        return self.severity is not None or any(section.severity is not None for section in self.sections)

    def section(self, name: str) -> ReportedSection | None:
        return next((section for section in self.sections if section.name == name), None)
