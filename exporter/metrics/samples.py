"""Facts of one run as samples: the last result of a target in, pieces of exposition text out.

What a run did not measure has no sample. What every target has, whatever its section, is in
series.py; what sections have is in sections.py; what is about relays is in relay_samples.py.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from statistics import median

from exporter.health.access_url import AccessURLResult, FamilyAttempt
from exporter.health.database import DatabaseResult
from exporter.health.derp import DerpResult, MeshResult, TransportResult
from exporter.health.direct_connections import DirectConnectionsResult
from exporter.health.exporter import TokenResult
from exporter.health.model import UNCODED, Witness
from exporter.health.provisioner_daemons import DaemonStatus, ProvisionerDaemonsResult, find_mismatches
from exporter.health.replica import ReplicaResult
from exporter.health.report import ReportResult
from exporter.health.stun import StunResult
from exporter.health.websocket import WebSocketResult
from exporter.health.workspace_proxy import ProxyResult, ProxyStatus, RoundResult
from exporter.metrics import relay_samples, report_samples
from exporter.metrics.labels import MAX_VERSION_CHARS, escape, extend, sample
from exporter.snapshot import Entry, TargetHealth

CODE_TARGET = "coder_health_code_target"
_TOKEN_EXPIRY = "coder_health_exporter_token_expiry_timestamp_seconds"
PORTED_RESULTS = "coderd_proxyhealth_health_check_results"
PROXY_INFO = "coder_health_workspace_proxy_info"
PROXY_STATUS = "coder_health_workspace_proxy_status"
PROXY_WARNINGS = "coder_health_workspace_proxy_warnings"

# Organizations, by name, and versions, the most frequent, that get series of their own.
MAX_ORGANIZATIONS = 100
MAX_VERSIONS = 100

# Statuses that come with a report of the proxy, so that its warnings are known.
_REPORTED = frozenset({ProxyStatus.OK, ProxyStatus.UNHEALTHY})

_Samples = Iterator[tuple[str, str]]


def render_facts(
    health: TargetHealth,
    values: Mapping[str, str],
    *,
    threshold_seconds: float | None,
) -> dict[str, str]:
    """Return the pieces of a result by family.

    Args:
        values: The escaped values of the target's labels.
        threshold_seconds: The latency threshold in force, for results of the database; None when
            there is none.
    """
    pieces: dict[str, str] = {}
    for family, line in _facts(health, values, threshold_seconds):
        pieces[family] = pieces.get(family, "") + line
    return pieces


def render_code_targets(entry: Entry, values: Mapping[str, str]) -> dict[str, str]:
    """Return the piece that says which active codes this target raises."""
    if not entry.settled:
        return {}
    lines = [
        sample(CODE_TARGET, extend(values, code=code, severity=state.severity.label), 1)
        for code, state in sorted(entry.settled.items())
        if state.active and code != UNCODED
    ]
    return {CODE_TARGET: "".join(lines)} if lines else {}


def _facts(
    health: TargetHealth,
    values: Mapping[str, str],
    threshold_seconds: float | None,
) -> _Samples:
    match health.result:
        case AccessURLResult() as result:
            return _access_url(result, values)
        case WebSocketResult() as result:
            return _websocket(result, values)
        case DatabaseResult() as result:
            return _database(result, values, threshold_seconds)
        case ProxyResult() as result:
            return _workspace_proxy(result, values, health.key.section_key.witness)
        case RoundResult() as result:
            return _proxy_list(result, values, health.started_timestamp_seconds)
        case TransportResult() as result:
            return relay_samples.render_transport(result, values)
        case StunResult() as result:
            return relay_samples.render_stun(result, values)
        case MeshResult() as result:
            return relay_samples.render_mesh(result, values)
        case DerpResult() as result:
            return relay_samples.render_derp(result, values, health.started_timestamp_seconds)
        case ProvisionerDaemonsResult() as result:
            return _provisioner_daemons(result, values)
        case DirectConnectionsResult() as result:
            return relay_samples.render_direct_connections(result, values)
        case ReplicaResult() as result:
            return _replica(result, values)
        case ReportResult() as result:
            return report_samples.render_report(result, values)
        case TokenResult(expires_timestamp_seconds=float(expires)):
            return iter([(_TOKEN_EXPIRY, sample(_TOKEN_EXPIRY, values, expires))])
        case _:  # a region, which only judges; or the probe itself broke: nothing was measured
            return iter(())


def _access_url(result: AccessURLResult, values: Mapping[str, str]) -> _Samples:
    best = result.best
    if best is not None and best.status is not None:
        family = "coder_health_access_url_status_code"
        yield family, sample(family, values, best.status)
        version = best.coder_version or (result.identity.version if result.identity is not None else None)
        if version:
            family = "coder_health_build_info"
            yield family, sample(family, extend(values, version=version), 1)
    if len(result.attempts) > 1:
        family = "coder_health_access_url_family_up"
        for attempt in result.attempts:
            if not attempt.no_route:
                yield family, sample(family, extend(values, family=attempt.family), attempt.up)
    yield from _certificates(result, best, values)


def _replica(result: ReplicaResult, values: Mapping[str, str]) -> _Samples:
    if result.status is not None:
        family = "coder_health_access_url_status_code"
        yield family, sample(family, values, result.status)
    if result.coder_version:
        family = "coder_health_build_info"
        yield family, sample(family, extend(values, version=result.coder_version), 1)


def _certificates(result: AccessURLResult, best: FamilyAttempt | None, values: Mapping[str, str]) -> _Samples:
    """The dates that the best attempt was served, else those of any attempt that was served some."""
    family = "coder_health_tls_certificate_not_after_timestamp_seconds"
    attempts = ([best] if best is not None else []) + list(result.attempts)
    for attempt in attempts:
        if attempt.certificate is None and attempt.chain_certificate is None:
            continue
        for position, dates in (("leaf", attempt.certificate), ("chain", attempt.chain_certificate)):
            if dates is not None:
                yield family, sample(family, extend(values, position=position), dates.not_after_timestamp_seconds)
        return


def _websocket(result: WebSocketResult, values: Mapping[str, str]) -> _Samples:
    family = "coder_health_websocket_round_trip_seconds"
    # of an exchange that broke off, the median would be one of fewer messages
    if result.echo_round_trip_seconds and result.failure is None:
        yield family, sample(family, values, median(result.echo_round_trip_seconds))


def _database(result: DatabaseResult, values: Mapping[str, str], threshold_seconds: float | None) -> _Samples:
    facts = {
        "coder_health_database_latency_median_seconds": result.median_ping_seconds,
        "coder_health_database_latency_threshold_seconds": threshold_seconds,
        "coder_health_database_connect_duration_seconds": result.connect_seconds,
        "coder_health_database_login_duration_seconds": result.login_seconds,
    }
    for family, value in facts.items():
        if value is not None:
            yield family, sample(family, values, value)


def _workspace_proxy(result: ProxyResult, values: Mapping[str, str], witness: Witness) -> _Samples:
    values = extend(values, proxy_id=result.proxy.id)
    if witness is Witness.PROBE:
        yield PORTED_RESULTS, sample(PORTED_RESULTS, values, result.status.gauge_value)
        about = extend(values, proxy=result.proxy.name, version=result.version or result.proxy.version)
        yield PROXY_INFO, sample(PROXY_INFO, about, 1)
    for status in ProxyStatus:
        values["status"] = status.value
        yield PROXY_STATUS, sample(PROXY_STATUS, values, status is result.status)
    if result.status in _REPORTED:
        yield PROXY_WARNINGS, sample(PROXY_WARNINGS, values, len(result.warnings))


def _proxy_list(result: RoundResult, values: Mapping[str, str], started: float) -> _Samples:
    if result.list_age_seconds is not None:
        family = "coder_health_workspace_proxy_list_last_success_timestamp_seconds"
        yield family, sample(family, values, started - result.list_age_seconds)


def _provisioner_daemons(result: ProvisionerDaemonsResult, values: Mapping[str, str]) -> _Samples:
    family = "coder_health_provisioner_daemons"
    if result.liveness_known:
        counts: Counter[tuple[str, DaemonStatus]] = Counter()
        for one in result.organizations or ():
            # an organization that was deleted may have had the same name
            counts.update({(escape(one.organization), status): one.count(status) for status in DaemonStatus})
        for organization in sorted({organization for organization, _ in counts})[:MAX_ORGANIZATIONS]:
            for status in DaemonStatus:
                labels = dict(values, organization=organization, status=status.value)
                yield family, sample(family, labels, counts[organization, status])
    family = "coder_health_provisioner_daemon_version_mismatches"
    versions = Counter(
        (escape(daemon.organization), escape(daemon.version, MAX_VERSION_CHARS)) for daemon in find_mismatches(result)
    )
    for (organization, version), count in sorted(versions.most_common(MAX_VERSIONS)):
        yield family, sample(family, dict(values, organization=organization, version=version), count)
