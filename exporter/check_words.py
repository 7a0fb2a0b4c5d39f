"""What a run found, in the few words that the table of `check` has room for.

In: the result of a target. Out: a sentence that says the one or two things that are asked first,
and notes about what is seen beside it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from exporter.config.durations import format_duration
from exporter.health.access_url import AccessURLResult
from exporter.health.coder_report import CoderReport, ReportedSection
from exporter.health.database import DatabaseResult
from exporter.health.derp import DerpResult, MeshResult, RegionResult, Skipped, TransportResult, relay_works
from exporter.health.direct_connections import DirectConnectionsResult, InterfaceFacts, Netcheck
from exporter.health.exporter import ExporterResult, TokenResult
from exporter.health.provisioner_daemons import ProvisionerDaemonsResult
from exporter.health.replica import ReplicaResult
from exporter.health.report import ReportResult, ReportsResult
from exporter.health.stun import StunAttempt, StunResult
from exporter.health.websocket import Mode, WebSocketResult
from exporter.health.workspace_proxy import ProxyResult, RoundResult

# More notes of one target are only counted.
MAX_NOTES = 10

_SKIPPED = {
    "host_not_allowed": "neither Coder's host nor a workspace proxy's, nor in sections.derp.allow_hosts",
    "too_many": "the map has more nodes than are probed",
    "invalid": "its entry in the map cannot be used",
}


def describe(result: object) -> str:
    """Return the facts of a run that raised nothing, in a few words; empty when there are none."""
    match result:
        case AccessURLResult():
            return _describe_access_url(result)
        case WebSocketResult():
            return _describe_websocket(result)
        case DatabaseResult():
            median = result.median_ping_seconds
            return f"median of five pings {_ms(median)}" if median is not None else "not pinged"
        case ProxyResult():
            version = f", version {result.version}" if result.version else ""
            return f"{result.status} from {result.address}{version}"
        case RoundResult():
            return "no workspace proxies"
        case TransportResult():
            return f"{result.name.region_name}: {_describe_transport(result)}"
        case StunResult():
            attempts = ", ".join(map(_describe_attempt, result.attempts))
            return f"{result.region_name}: STUN {result.host}:{result.port}, {attempts or 'no address to ask'}"
        case MeshResult():
            return f"{result.region_name}: {_describe_mesh(result)}"
        case RegionResult():
            return f"{result.name}: {_describe_region(result)}"
        case DerpResult():
            return _describe_derp(result)
        case ProvisionerDaemonsResult():
            return _describe_daemons(result)
        case DirectConnectionsResult():
            return ", ".join(_describe_network(result))
        case ReplicaResult():
            version = f", Coder {result.coder_version}" if result.coder_version else ""
            return f"{result.status} from {result.address}{version}"
        case ReportResult():
            return _describe_report(result)
        case ReportedSection():
            return f"Coder says {result.severity_text or 'nothing'}{', muted' if result.dismissed else ''}"
        case ReportsResult():
            return _describe_reports(result)
        case TokenResult():
            return _describe_token(result)
        case ExporterResult():
            return f"{result.failing} of {result.targets} targets fail"
    return ""


def note(result: object, *, judged: bool) -> Iterator[tuple[str, str, str]]:
    """Yield what else the table says, as (target, kind, sentence): relays of the map that are not
    probed and why, what is wrong with the map, and the network where findings took its place.

    Args:
        judged: There are findings, so that the facts themselves are not shown.
    """
    match result:
        case DerpResult():
            yield from _cut(
                [
                    *(("", "note", f"DERP map: {problem}") for problem in result.problems),
                    *((f"{node.region_id}/{node.node}", "skipped", _tell_skipped(node)) for node in result.skipped),
                ]
            )
        case ProvisionerDaemonsResult():
            if result.refused:
                yield "", "note", f"not visible to our token: organization {_join(result.refused[:MAX_NOTES])}"
            if judged and result.organizations is not None:
                yield "", "note", describe(result)
        case ReportResult(report=CoderReport(dropped=dropped)) if dropped:
            yield "", "note", f"left out of Coder's report, since it cannot be read: {_count(dropped, 'part')}"
        case DirectConnectionsResult() if judged:
            yield "", "note", describe(result)


def _cut(notes: list[tuple[str, str, str]]) -> Iterator[tuple[str, str, str]]:
    yield from notes[:MAX_NOTES]
    if len(notes) > MAX_NOTES:
        yield "", "note", f"and {len(notes) - MAX_NOTES} more, which the JSON has"


def _tell_skipped(node: Skipped) -> str:
    return f"relay {node.host or '(no host)'} is not probed: {_SKIPPED.get(node.reason, node.reason)}"


def _describe_report(result: ReportResult) -> str:
    report = result.report
    if report is None:
        return "no report"
    age = "" if result.age_seconds is None else f", {format_duration(round(result.age_seconds))} old"
    version = f" of Coder {report.version}" if report.version else ""
    return f"report{version}{age}"


def _describe_reports(result: ReportsResult) -> str:
    muted = "mutes not known" if result.dismissed is None else f"muted in Coder: {_join(result.dismissed) or 'nothing'}"
    return f"{len(result.views)} reports, {muted}" if len(result.views) > 1 else muted


def _describe_token(result: TokenResult) -> str:
    if result.remaining_seconds is None:
        return "when the token expires is not known"
    return f"the token expires in {format_duration(max(0, round(result.remaining_seconds)))}"


def _describe_access_url(result: AccessURLResult) -> str:
    parts = [
        f"{attempt.status} from {attempt.address} in {_ms(sum(attempt.phase_seconds.values()))}"
        for attempt in result.attempts
        if attempt.status is not None
    ]
    version = result.best.coder_version if result.best is not None else None
    return ", ".join([*parts, *([f"Coder {version}"] if version else [])])


def _describe_websocket(result: WebSocketResult) -> str:
    if result.mode is Mode.ECHO:
        slowest = max(result.echo_round_trip_seconds, default=0.0)
        count = len(result.echo_round_trip_seconds)
        return f"{count} messages echoed by {result.address}, the slowest in {_ms(slowest)}"
    why = f" (no echo: {result.echo_fallback})" if result.echo_fallback else ""
    return f"DERP map received from {result.address}{why}"


def _describe_transport(result: TransportResult) -> str:
    if result.failure is not None:
        return f"not up, which no client needs now: {result.failure.message}"
    parts = []
    if result.round_trip_seconds:
        parts.append(f"round trip {_ms(result.round_trip_seconds[-1])}")
    if result.login_seconds is not None:
        parts.append(f"login {_ms(result.login_seconds)}")
    if result.address is not None:
        parts.append(result.address)
    if result.relay_processes > 1:
        parts.append(f"{result.relay_processes} processes behind the name")
    if result.loss is not None and result.loss.sent:
        parts.append(f"{result.loss.sent - result.loss.received} of {result.loss.sent} messages lost")
    if result.health_problem:
        parts.append(f"the relay says: {result.health_problem}")
    return ", ".join(parts)


def _describe_attempt(attempt: StunAttempt) -> str:
    if attempt.round_trip_seconds is not None:
        return f"{attempt.family} {_ms(attempt.round_trip_seconds)}"
    return f"{attempt.family} {'no route' if attempt.no_route else 'no answer'}"


def _describe_mesh(result: MeshResult) -> str:
    times = [path.round_trip_seconds for path in result.paths if path.round_trip_seconds is not None]
    parts = [f"{sum(path.failure is None for path in result.paths)} of {len(result.paths)} paths between relays pass"]
    if times:
        parts.append(f"the slowest in {_ms(max(times))}")
    if result.unreached:
        parts.append(f"not reached: {_join(result.unreached)}")
    return ", ".join(parts)


def _describe_region(result: RegionResult) -> str:
    working = sum(relay_works(relay) for relay in result.relays)
    parts = [f"{working} of {len(result.relays)} relays work"]
    if result.pending:
        parts.append(f"no result yet: {_join(result.pending)}")
    if result.skipped:
        parts.append(f"not probed: {_join(result.skipped)}")
    return ", ".join(parts)


def _describe_derp(result: DerpResult) -> str:
    if result.map_age_seconds is None:
        return "no DERP map"
    relays = sum(len(region.relays) + len(region.pending) for region in result.regions)
    servers = sum(len(region.stun) for region in result.regions) + len(result.stun_pending)
    parts = [
        f"map of {_count(len(result.regions), 'region')} from the {result.source or 'server'}",
        f"{_count(relays, 'relay')} and {_count(servers, 'STUN server')} probed",
    ]
    if result.skipped:
        parts.append(f"{_count(len(result.skipped), 'node')} skipped")
    return ", ".join(parts)


def _describe_daemons(result: ProvisionerDaemonsResult) -> str:
    if result.organizations is None:
        return "no list"
    versions = sorted({daemon.version for daemon in result.recent})
    parts = [f"{len(result.recent)} of {_count(result.total, 'provisioner daemon')} seen lately"]
    if not result.liveness_known:
        parts = [f"{_count(result.total, 'provisioner daemon')}, of which this server does not say when it saw them"]
    if versions:
        more = f" and {len(versions) - 3} more" if len(versions) > 3 else ""
        parts.append(f"version {_join(versions[:3])}{more}")
    if result.jobs is not None:
        parts.append(f"{_count(sum(jobs.count for jobs in result.jobs), 'job')} waiting")
    elif result.source == "tables":
        parts.append("waiting jobs cannot be read")
    return ", ".join([*parts, f"from the {'API' if result.source == 'api' else result.source}"])


def _describe_network(result: DirectConnectionsResult) -> Iterator[str]:
    """This host's network: UDP, NAT, the interfaces on the way, what size of packet passes."""
    if result.disabled:
        yield "direct connections disabled"
    netcheck = result.netcheck
    if not result.map_known:
        yield "no DERP map"
    elif netcheck.stun_servers:
        udp = {True: "UDP is blocked", False: "UDP passes", None: "UDP not known"}[netcheck.udp_blocked]
        yield f"{udp} ({netcheck.stun_answers} of {netcheck.stun_servers} STUN servers answered)"
        yield _describe_nat(netcheck)
    yield from (_describe_interface(interface) for interface in result.interfaces if interface.on_the_way)
    passed = [path.passed_bytes for path in result.path_mtu or () if path.passed_bytes > 0]
    if passed:
        yield f"packets of {min(passed)} bytes pass"
    if netcheck.preferred_region is not None:
        latency = netcheck.region_latency_seconds.get(netcheck.preferred_region)
        yield f"nearest region {netcheck.preferred_region}" + ("" if latency is None else f" in {_ms(latency)}")


def _describe_nat(netcheck: Netcheck) -> str:
    if netcheck.mapping_varies is None:
        return "kind of NAT not known"
    return "hard NAT" if netcheck.mapping_varies else "no hard NAT"


def _describe_interface(interface: InterfaceFacts) -> str:
    kind = " (tunnel)" if interface.tunnel else ""
    towards = f" towards {_join(interface.towards)}" if interface.towards else ""
    return f"{interface.name}{kind} MTU {interface.mtu_bytes}{towards}"


def _join(names: Iterable[str]) -> str:
    return ", ".join(names)


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms"
