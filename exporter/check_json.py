"""The JSON of `check`: what scripts may rely on.

In: what one round found. Out: JSON's own types. Each target has its `facts`, the result of its
probe with the names and units of the types in `exporter/health/`. Two sections have a member more:

`derp` has `coder`: what Coder's own check would say of the same measurements, gaps and all, region
by region and node by node; and `map`: the DERP map in use, as we read it. Both are null without one.

`direct_connections` has `netcheck`: all that `coder netcheck` tells of this host's network, under
our names and in seconds; null without a result. Members, null where nobody knows:

    udp, ipv4, ipv6                    a STUN answer came at all, over the family
    ipv4_can_send, ipv6_can_send       the kernel took a datagram
    os_has_ipv6                        a socket can be bound to ::1
    mapping_varies, mapping_unstable   hard NAT; two mappings towards one destination
    icmpv4, hair_pinning, upnp, pmp, pcp, captive_portal
                                       always null: not measured
    stun_servers, stun_answers         how many were asked, how many answered
    replies                            each answer: region_id, node, server_address,
                                       mapped_address, mapped_port, round_trip_seconds
    global_ipv4, global_ipv6           this host as servers see it, `address:port`
    preferred_region                   the id of the nearest region
    region_latency_seconds, region_ipv4_latency_seconds, region_ipv6_latency_seconds
                                       by region id
    interfaces                         severity, warnings (EIF01 by Coder's rule, on the way or
                                       not), dismissed (null: Coder's mutes are not asked), and
                                       interfaces: name, mtu_bytes, addresses, tunnel, on_the_way,
                                       towards
    path_mtu                           by server and family: passed_bytes, failed_bytes
    direct_connections_disabled        by the deployment
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from typing import Any

from exporter.health import codes
from exporter.health.coder_derp import judge_as_coder
from exporter.health.derp import DerpResult, RegionResult, RelayResult
from exporter.health.direct_connections import DirectConnectionsResult, coder_interface_warnings
from exporter.health.model import Finding, Section, Severity
from exporter.health.workspace_proxy import RoundResult
from exporter.snapshot import TargetHealth
from exporter.wire.derp_map import DerpMap

# What `coder netcheck` tells and we do not measure. Source: derp-stun, section 5.1.
_NOT_MEASURED = ("icmpv4", "hair_pinning", "upnp", "pmp", "pcp", "captive_portal")

# Results inside results that stand on their own, as targets.
_ELSEWHERE: Mapping[type, frozenset[str]] = {
    RoundResult: frozenset({"proxies"}),
    RegionResult: frozenset({"stun", "mesh"}),
    RelayResult: frozenset({"transports"}),
}


def tell_target(health: TargetHealth) -> dict[str, Any]:
    """Return one target: verdict, codes, times, facts."""
    failure = health.report.failure
    return {
        "target": health.key.name,
        "severity": health.report.severity.label,
        "success": failure is None,
        "failure": None if failure is None else _plain(failure),
        "codes": _tell_codes(health.report.findings),
        "started_timestamp_seconds": health.started_timestamp_seconds,
        "duration_seconds": health.duration_seconds,
        "phase_seconds": {str(phase): seconds for phase, seconds in health.phase_seconds.items()},
        "facts": _plain(health.result),
    }


def tell_section(section: Section | str, healths: Sequence[TargetHealth], derp_map: DerpMap | None) -> dict[str, Any]:
    """Return the members that only some sections have."""
    results = [health.result for health in healths]
    if section is Section.DERP:
        found = next((result for result in results if isinstance(result, DerpResult)), None)
        # without a map Coder would have nothing to judge
        known = found is not None and found.map_age_seconds is not None
        return {"coder": _tell_coder(found) if found is not None and known else None, "map": _plain(derp_map)}
    if section is Section.DIRECT_CONNECTIONS:
        network = next((result for result in results if isinstance(result, DirectConnectionsResult)), None)
        return {"netcheck": None if network is None else _tell_netcheck(network)}
    return {}


def _tell_coder(result: DerpResult) -> dict[str, Any]:
    """Coder's own verdict. It is asked for neither its mutes nor, of a relay, its rate limits."""
    verdict: dict[str, Any] = _plain(judge_as_coder(result.regions, mapping_varies=result.mapping_varies))
    for region in verdict["regions"]:
        if not region["nodes"] and region["unmeasured"]:
            region |= {"healthy": None, "severity": None}
        for node in region["nodes"]:
            node |= {"token_bucket_bytes_per_second": None, "token_bucket_bytes_burst": None}
    return verdict | {"dismissed": None}


def _tell_netcheck(result: DirectConnectionsResult) -> dict[str, Any]:
    warnings = coder_interface_warnings(result.interfaces)
    return {
        **_plain(result.netcheck),
        **dict.fromkeys(_NOT_MEASURED),
        "interfaces": {
            "severity": (Severity.WARNING if warnings else Severity.OK).label,
            "warnings": _tell_codes(warnings),
            "dismissed": None,
            "interfaces": _plain(result.interfaces),
        },
        "path_mtu": _plain(result.path_mtu),
        "direct_connections_disabled": result.disabled,
    }


def _tell_codes(findings: Iterable[Finding]) -> list[dict[str, Any]]:
    return [
        {
            "code": finding.code,
            "severity": finding.severity.label,
            "message": finding.message,
            "docs_url": code.docs_url if (code := codes.find(finding.code)) is not None else codes.DOCS_URL,
        }
        for finding in findings
    ]


def _plain(value: object) -> Any:
    """Return a frozen value as JSON's own types."""
    if isinstance(value, Severity):
        return value.label
    if isinstance(value, Enum):
        return value.value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        elsewhere = _ELSEWHERE.get(type(value), frozenset())
        return {
            field.name: _plain(getattr(value, field.name))
            for field in dataclasses.fields(value)
            if field.name not in elsewhere
        }
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if isinstance(value, str | int | float | bool) or value is None:
        return value
    return str(value)
