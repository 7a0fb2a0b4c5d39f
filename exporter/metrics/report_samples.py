"""What one of Coder's own reports measured, as samples with the witness `report`: a poll in, pieces of
exposition text out. What the report left out has no sample.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

from exporter.health.coder_report import CoderReport
from exporter.health.model import Witness
from exporter.health.provisioner_daemons import DaemonStatus, versions_match
from exporter.health.report import ReportResult
from exporter.health.workspace_proxy import ProxyStatus
from exporter.metrics.labels import MAX_VERSION_CHARS, escape, extend, sample

_TIMESTAMP = "coder_health_report_timestamp_seconds"
_AGE = "coder_health_report_age_seconds"
_HEALTHY = "coder_health_report_healthy"
_LATENCY = "coder_health_database_latency_median_seconds"
_THRESHOLD = "coder_health_database_latency_threshold_seconds"
_PROXY_STATUS = "coder_health_workspace_proxy_status"
_PROXY_WARNINGS = "coder_health_workspace_proxy_warnings"
_DAEMONS = "coder_health_provisioner_daemons"
_MISMATCHES = "coder_health_provisioner_daemon_version_mismatches"

# Families that have no label for the replica: all replicas read the same table, so one of them tells.
ONCE_FAMILIES = (_DAEMONS, _MISMATCHES)
FAMILIES = frozenset(
    {_TIMESTAMP, _AGE, _HEALTHY, _LATENCY, _THRESHOLD, _PROXY_STATUS, _PROXY_WARNINGS, _DAEMONS, _MISMATCHES}
)

MAX_PROXIES = 500
MAX_ORGANIZATIONS = 100
MAX_VERSIONS = 100

_Samples = Iterator[tuple[str, str]]


def render_report(result: ReportResult, values: Mapping[str, str]) -> _Samples:
    """Return the samples of a poll that brought a report; none of one that did not.

    Args:
        values: The escaped values of the poll's labels.
    """
    report = result.report
    if report is None:
        return
    if report.timestamp_seconds is not None:
        yield _TIMESTAMP, sample(_TIMESTAMP, values, report.timestamp_seconds)
    if result.age_seconds is not None:
        yield _AGE, sample(_AGE, values, result.age_seconds)
    if report.healthy is not None:
        yield _HEALTHY, sample(_HEALTHY, values, report.healthy)
    said = dict(values, witness=Witness.REPORT.value)
    if report.database is not None:
        for family, seconds in (
            (_LATENCY, report.database.latency_seconds),
            (_THRESHOLD, report.database.threshold_seconds),
        ):
            if seconds is not None:
                yield family, sample(family, said, seconds)
    yield from _proxies(report, said)
    yield from _daemons(result, report, said)


def _proxies(report: CoderReport, said: dict[str, str]) -> _Samples:
    shown: set[str] = set()
    for proxy in (report.proxies or ())[:MAX_PROXIES]:
        values = extend(said, proxy_id=proxy.id)
        if values["proxy_id"] in shown:
            continue
        shown.add(values["proxy_id"])
        for status in ProxyStatus:
            yield _PROXY_STATUS, sample(_PROXY_STATUS, dict(values, status=status.value), status.value == proxy.status)
        if proxy.warnings is not None:
            yield _PROXY_WARNINGS, sample(_PROXY_WARNINGS, values, len(proxy.warnings))


def _daemons(result: ReportResult, report: CoderReport, said: dict[str, str]) -> _Samples:
    """Of the daemons that Coder counts as recent; it tells of no others."""
    if report.daemons is None:
        return
    named = [
        (escape(result.organizations.get(daemon.organization_id, daemon.organization_id)), daemon)
        for daemon in report.daemons
    ]
    counts = Counter(organization for organization, _ in named)
    for organization in sorted(counts)[:MAX_ORGANIZATIONS]:
        values = dict(said, organization=organization, status=DaemonStatus.RECENT.value)
        yield _DAEMONS, sample(_DAEMONS, values, counts[organization])
    versions = Counter(
        (organization, escape(daemon.version, MAX_VERSION_CHARS))
        for organization, daemon in named
        if report.version and not versions_match(daemon.version, report.version)
    )
    for (organization, version), count in sorted(versions.most_common(MAX_VERSIONS)):
        yield _MISMATCHES, sample(_MISMATCHES, dict(said, organization=organization, version=version), count)
