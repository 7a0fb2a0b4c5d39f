"""Coder's own health report, made by Coder's rules of what one simulated replica has measured.

In: facts. Out: the JSON of `/api/v2/debug/health`, in the shapes of the recordings. Pure. Also Coder's
gaps are here: the body of /healthz is not looked at, proxies that are down are a warning at most, and
a DERP region without nodes makes the section panic.

Source: coder-interfaces, sections 1, 2.1 to 2.9; derp-stun, section 3
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from exporter.demo import answers
from exporter.demo.answers import ProxyFacts, write_time
from exporter.demo.state import DaemonFacts
from exporter.health.coder_derp import CoderDerpVerdict, CoderNodeVerdict
from exporter.health.model import Severity
from exporter.health.provisioner_daemons import (
    DEFAULT_STALE_AFTER_SECONDS,
    is_valid_version,
    parse_api_major,
    versions_match,
)
from exporter.wire.derp_map import DerpMap, dump_derp_map

# The names of the settings, by section. Coder takes the last one and never shows it (2.10).
DISMISSALS = {
    "derp": "DERP",
    "access_url": "AccessURL",
    "websocket": "Websocket",
    "database": "Database",
    "workspace_proxy": "WorkspaceProxy",
}
_TEXTS = {
    "EDERP01": 'Node uses WebSockets because the "Upgrade: DERP" header may be blocked on the load balancer.',
    "EDERP02": "Region is operational, but performance might be degraded as one node is unhealthy.",
    "ESTUN01": "No STUN servers are available.",
    "ESTUN02": "STUN returned different addresses; you may be behind a hard NAT.",
}
_API_MAJOR = 1
_PANIC = "runtime error: integer divide by zero"


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessFacts:
    """A request of the access URL's /healthz. `status` is None without an answer, which `error` tells."""

    status: int | None = None
    body: str = ""
    error: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class WebsocketFacts:
    """An echo over the access URL. `status` is 0 without an answer; `code` and `error` say what failed."""

    status: int = 0
    body: str = ""
    code: str = ""
    error: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class DatabaseFacts:
    """Five pings. `error` says what failed."""

    ping_seconds: tuple[float, ...] = ()
    error: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class DerpFacts:
    """The relays as the replica reached them.

    Args:
        verdict: By Coder's own rules.
        round_trip_seconds: By region and node, of those that passed a message.
        errors: What a node's client, or its STUN client, met, by region and node.
    """

    derp_map: DerpMap
    verdict: CoderDerpVerdict
    mapping_varies: bool | None = None
    round_trip_seconds: Mapping[tuple[int, str], float] = field(default_factory=dict)
    errors: Mapping[tuple[int, str], str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportFacts:
    """What one replica found out in one run.

    Args:
        proxies, proxies_failure: A failure leaves nothing to be said of the proxies; likewise `daemons`.
        dismissed: Names of the settings.
    """

    timestamp_seconds: float
    version: str
    access_url: str
    deployment_id: str
    access: AccessFacts
    websocket: WebsocketFacts
    database: DatabaseFacts
    latency_threshold_seconds: float
    derp: DerpFacts
    proxies: Sequence[ProxyFacts] = ()
    proxies_failure: str = ""
    daemons: Sequence[DaemonFacts] = ()
    daemons_failure: str = ""
    dismissed: Iterable[str] = ()


def make_report(facts: ReportFacts) -> dict[str, Any]:
    """Return the report of one run."""
    sections = {
        "derp": _tell_derp(facts.derp),
        "access_url": _tell_access_url(facts),
        "websocket": _tell_websocket(facts.websocket),
        "database": _tell_database(facts.database, facts.latency_threshold_seconds),
        "workspace_proxy": _tell_proxies(facts),
        "provisioner_daemons": _tell_daemons(facts),
    }
    for name, section in sections.items():
        section["dismissed"] = DISMISSALS.get(name, "") in facts.dismissed
    ranks = {name: Severity[section["severity"].upper()] for name, section in sections.items() if section["severity"]}
    failing = [
        name
        for name, rank in ranks.items()
        # of the access URL a warning is enough. Source: coder-interfaces, section 2.7
        if rank is Severity.ERROR or (name == "access_url" and rank is Severity.WARNING)
    ]
    return {
        "time": write_time(facts.timestamp_seconds),
        "healthy": not failing,
        "severity": max(ranks.values(), default=Severity.OK).label,
        **sections,
        "coder_version": facts.version,
    }


def panic(report: dict[str, Any], section: str) -> dict[str, Any]:
    """Return a report in which one section has panicked: it says so, and has no severity."""
    told = report | {section: _panicked(section, "runtime error: invalid memory address or nil pointer dereference")}
    ranks = [Severity[part["severity"].upper()] for part in told.values() if _has_severity(part)]
    return told | {"severity": max(ranks, default=Severity.OK).label}


def write_go_duration(seconds: float) -> str:
    """Write a duration as Go does, `22.664µs`, `7.67ms`, `1.5s`; up to a minute."""
    nanoseconds = round(seconds * 1e9)
    if nanoseconds == 0:
        return "0s"
    for unit, size in (("s", 10**9), ("ms", 10**6), ("µs", 10**3)):
        if nanoseconds >= size:
            whole, rest = divmod(nanoseconds, size)
            tail = f"{rest:0{len(str(size)) - 1}d}".rstrip("0")
            return f"{whole}.{tail}{unit}" if tail else f"{whole}{unit}"
    return f"{nanoseconds}ns"


def _has_severity(part: object) -> bool:
    return isinstance(part, dict) and bool(part.get("severity"))


def _panicked(section: str, words: str) -> dict[str, Any]:
    pattern: dict[str, Any] = answers.recorded("debug-health")[section]
    return pattern | {
        "error": f"EUNKNOWN: {section} report panic: {words}",
        "severity": "",
        "warnings": None,
        "dismissed": False,
        **({"regions": None} if section == "derp" else {}),
    }


def _tell_access_url(facts: ReportFacts) -> dict[str, Any]:
    access = facts.access
    told: dict[str, Any] = {
        "severity": "ok",
        "warnings": [],
        "healthy": access.status == 200,
        "access_url": facts.access_url,
        "reachable": access.status is not None,
        "status_code": access.status or 0,
        "healthz_response": access.body,
    }
    if access.status is None:
        told |= {"error": f"EACS03: get healthz endpoint: {access.error}", "severity": "error"}
    elif access.status != 200:
        told |= {"warnings": [_warn("EACS04", "/healthz did not return 200 OK")], "severity": "warning"}
    return told


def _tell_websocket(websocket: WebsocketFacts) -> dict[str, Any]:
    told: dict[str, Any] = {
        "healthy": not websocket.code,
        "severity": "error" if websocket.code else "ok",
        "warnings": [],
        "body": websocket.body,
        "code": websocket.status,
    }
    return told | ({"error": f"{websocket.code}: {websocket.error}"} if websocket.code else {})


def _tell_database(database: DatabaseFacts, threshold_seconds: float) -> dict[str, Any]:
    threshold_ms = int(threshold_seconds * 1000) or 15
    if database.error:
        return {
            "error": f"EDB01: ping database: {database.error}",
            "severity": "error",
            "warnings": [],
            "healthy": False,
            "reachable": False,
            "latency": "",
            "latency_ms": 0,
            "threshold_ms": threshold_ms,
        }
    median_seconds = statistics.median(database.ping_seconds)
    slow = int(median_seconds * 1000) >= threshold_ms
    return {
        "severity": "warning" if slow else "ok",
        "warnings": [_warn("EDB02", "median database ping above threshold")] if slow else [],
        "healthy": True,
        "reachable": True,
        "latency": write_go_duration(median_seconds),
        "latency_ms": int(median_seconds * 1000),
        "threshold_ms": threshold_ms,
    }


def _tell_derp(derp: DerpFacts) -> dict[str, Any]:
    if derp.verdict.crashed:
        return _panicked("derp", _PANIC)
    mapped = dump_derp_map(derp.derp_map)["Regions"]
    netcheck = answers.recorded("debug-health")["derp"]["netcheck"] | {
        "UDP": any(node.can_stun for region in derp.verdict.regions for node in region.nodes),
        "MappingVariesByDestIP": derp.mapping_varies,
    }
    regions = {}
    for region in derp.verdict.regions:
        written = mapped[str(region.region_id)]
        nodes = {node["Name"]: node for node in written["Nodes"]}
        regions[str(region.region_id)] = {
            "healthy": region.healthy,
            "severity": region.severity,
            "warnings": [_warn(finding.code) for finding in region.warnings],
            "region": written,
            "node_reports": [_tell_node(node, nodes[node.node], region.region_id, derp) for node in region.nodes],
        }
    return {
        "severity": derp.verdict.severity,
        "warnings": [_warn(finding.code) for finding in derp.verdict.warnings],
        "healthy": derp.verdict.healthy,
        "regions": regions,
        "netcheck": netcheck,
        "netcheck_logs": [],
    }


def _tell_node(node: CoderNodeVerdict, written: object, region_id: int, derp: DerpFacts) -> dict[str, Any]:
    seconds = derp.round_trip_seconds.get((region_id, node.node))
    error = derp.errors.get((region_id, node.node))
    stun_failed = node.stun_enabled and not node.can_stun
    return {
        "healthy": node.healthy,
        "severity": node.severity,
        "warnings": [_warn(finding.code) for finding in node.warnings],
        "node": written,
        "node_info": {"TokenBucketBytesPerSecond": 0, "TokenBucketBytesBurst": 0},
        "can_exchange_messages": node.can_exchange_messages,
        "round_trip_ping": "" if seconds is None else write_go_duration(seconds),
        "round_trip_ping_ms": int((seconds or 0.0) * 1000),
        "uses_websocket": node.uses_websocket,
        "client_logs": [],
        "client_errs": [[error]] if error and not stun_failed else [],
        "stun": {
            "Enabled": node.stun_enabled,
            "CanSTUN": node.can_stun,
            "Error": f"probe stun: {error or 'timeout'}" if stun_failed else None,
        },
    }


def _tell_proxies(facts: ReportFacts) -> dict[str, Any]:
    if facts.proxies_failure:
        return {
            "healthy": True,
            "severity": "warning",
            "warnings": [_warn("EWP01", facts.proxies_failure)],
            "workspace_proxies": {"regions": None},
        }
    listed = answers.workspace_proxies(
        facts.proxies,
        access_url=facts.access_url,
        deployment_id=facts.deployment_id,
        now=facts.timestamp_seconds,
    )
    # the synthetic primary counts as a healthy one, so no outage of proxies is an error here
    fine = all(proxy.status == "ok" and not proxy.warnings for proxy in facts.proxies)
    warnings = [
        _warn("EWP04", f"{proxy.name}: {text}") for proxy in facts.proxies for text in (*proxy.warnings, *proxy.errors)
    ]
    return {
        "healthy": True,
        "severity": "ok" if fine else "warning",
        "warnings": warnings,
        "workspace_proxies": listed,
    }


def _tell_daemons(facts: ReportFacts) -> dict[str, Any]:
    if facts.daemons_failure:
        error = f"error fetching provisioner daemons: {facts.daemons_failure}"
        return {"error": error, "severity": "error", "warnings": [], "items": []}
    recent = [
        daemon
        for daemon in sorted(facts.daemons, key=lambda daemon: daemon.name)
        if daemon.last_seen_timestamp_seconds is not None
        and facts.timestamp_seconds - daemon.last_seen_timestamp_seconds <= DEFAULT_STALE_AFTER_SECONDS
    ]
    if not recent:
        warning = _warn("EPD01", "No active provisioner daemons found!")
        return {"severity": "error", "warnings": [warning], "items": []}
    severity = Severity.OK
    warnings: list[dict[str, str]] = []
    items = []
    for daemon in recent:
        own = []
        for rank, general, particular in _judge_daemon(daemon, facts.version):
            severity = max(severity, rank)
            warnings.append(general)
            own.append(particular)
        items.append({"provisioner_daemon": answers.daemon(daemon, status=None), "warnings": own})
    return {"severity": severity.label, "warnings": warnings, "items": items}


def _judge_daemon(daemon: DaemonFacts, version: str) -> Iterable[tuple[Severity, dict[str, str], dict[str, str]]]:
    """Give the rank of each thing that is wrong, what the section says of it and what the item does."""
    if not is_valid_version(daemon.version):
        yield (
            Severity.ERROR,
            _warn("EUNKNOWN", "Some provisioner daemons report invalid version information."),
            _warn("EUNKNOWN", f'Invalid version "{daemon.version}"'),
        )
    elif not versions_match(version, daemon.version):
        yield (
            Severity.WARNING,
            _warn("EPD02", "Some provisioner daemons report mismatched versions."),
            _warn("EPD02", f'Mismatched version "{daemon.version}"'),
        )
    major = parse_api_major(daemon.api_version)
    if major is None:
        yield (
            Severity.ERROR,
            _warn("EUNKNOWN", "Some provisioner daemons report invalid API version information."),
            _warn("EUNKNOWN", f"Invalid API version: invalid version string: {daemon.api_version}"),
        )
    elif major != _API_MAJOR:
        yield (
            Severity.WARNING,
            _warn(
                "EPD03",
                "Some provisioner daemons report deprecated major API versions. Consider upgrading!",
            ),
            # Coder names its own major here, not the daemon's
            _warn("EPD03", f"Deprecated major API version {_API_MAJOR}."),
        )


def _warn(code: str, message: str = "") -> dict[str, str]:
    return {"code": code, "message": message or _TEXTS[code]}
