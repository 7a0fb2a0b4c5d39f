"""Workspace proxies: what one round found, and what to think of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from exporter.errors import Phase, Reason
from exporter.health import codes
from exporter.health.model import Failure, Finding, OffReason, Report, Section, Severity


class ProxyStatus(StrEnum):
    """Source: enterprise/coderd/proxyhealth/proxyhealth.go."""

    OK = "ok"
    UNREGISTERED = "unregistered"
    UNHEALTHY = "unhealthy"
    UNREACHABLE = "unreachable"
    UNKNOWN = "unknown"

    @property
    def gauge_value(self) -> int:
        """The value in `coderd_proxyhealth_health_check_results`."""
        return _GAUGE[self]


_GAUGE = {
    ProxyStatus.OK: 1,
    ProxyStatus.UNREGISTERED: 0,
    ProxyStatus.UNHEALTHY: -1,
    ProxyStatus.UNREACHABLE: -2,
    ProxyStatus.UNKNOWN: -3,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedProxy:
    """A proxy as the API, the tables or the configuration name it. `url` is empty when it was
    created but never registered. `stopped` is None when the tables cannot tell, `derp_enabled` when
    the list does not say."""

    id: str
    name: str
    url: str
    version: str = ""
    updated_at: str = ""
    region_id: int | None = None
    stopped: bool | None = None
    derp_enabled: bool | None = None
    source: str = "static"


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxyResult:
    """One proxy in one round.

    `errors` and `warnings` are its report's, or ours about it. `healthz_ok`: its /healthz answered
    200 with OK, None when it was not asked. `failure` is why no valid report came, or that it came
    with errors. `stopped`: the tables say that it was stopped on purpose.
    `version` is what it answered (`answered_version`), else what the list says.
    `primary_unreachable`: its report says that it cannot read the primary's build info.
    `version_warnings_only`: all that it warns of is that versions differ.
    """

    proxy: ListedProxy
    status: ProxyStatus
    errors: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    version: str = ""
    answered_version: str = ""
    stopped: bool = False
    healthz_ok: bool | None = None
    primary_unreachable: bool = False
    version_warnings_only: bool = False
    failure: Failure | None = None
    address: str | None = None
    phase_seconds: Mapping[Phase, float]
    started_timestamp_seconds: float
    duration_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundResult:
    """All proxies of a deployment, side by side.

    `list_failure`: the list could not be refreshed; then the proxies are those of an earlier list,
    or none when there is no earlier one (`list_age_seconds` None). `off`: there is no list to be
    had, and why.
    """

    proxies: tuple[ProxyResult, ...] = ()
    list_failure: Failure | None = None
    list_age_seconds: float | None = None
    off: OffReason | None = None
    phase_seconds: Mapping[Phase, float]


def assess_proxy(result: ProxyResult) -> Report:
    """Judge one proxy: EWP04 by Coder's rule, and what it leaves without a code (XWP01, 03, 04).

    A proxy that is down has failed, while EWP04 is a warning about the section.
    Source: coder-interfaces, sections 2.6 and 3.2; contract, sections 6 and 8.
    """
    name = result.proxy.name
    if result.status is ProxyStatus.UNKNOWN and result.failure is not None:
        return _report([_error(codes.UNKNOWN, f"workspace proxy {name}: {result.failure.message}")], result.failure)
    if result.status is ProxyStatus.UNREGISTERED:
        sentence = f"workspace proxy {name} was created but never registered with the primary"
        return _report([_warning("XWP01", sentence)], None)
    if result.stopped and result.status is not ProxyStatus.OK:
        sentence = f"workspace proxy {name} was stopped on purpose, as its rows in the database say"
        return _report([Finding(code="XWP03", severity=Severity.OK, message=sentence)], None)
    findings = []
    texts = (*result.errors, *result.warnings)
    if texts:
        findings.append(
            Finding(
                code="EWP04",
                severity=Severity.WARNING,
                message=_cut(f"workspace proxy {name} is {_seen(result)}: " + "; ".join(texts)),
                skew=not result.errors and result.version_warnings_only,
            )
        )
    if result.status is not ProxyStatus.OK and result.healthz_ok and _timed_out(result):
        sentence = f"workspace proxy {name} itself answers, but its report hangs: the primary is slow from there"
        findings.append(_warning("XWP04", sentence))
    elif result.primary_unreachable:
        findings.append(_warning("XWP04", f"workspace proxy {name} itself answers, but cannot reach the primary"))
    return _report(findings, result.failure)


def assess_round(result: RoundResult) -> Report:
    """Judge what no single proxy can tell: the list (EWP01, EWP02), and that every proxy is down
    (XWP02). The primary is no proxy: counting it would hide that."""
    if result.off is not None:
        return Report(section=Section.WORKSPACE_PROXY, off=result.off)
    findings = []
    failure = None
    if result.list_failure is not None:
        if result.list_age_seconds is None:
            findings.append(
                _error("EWP02", f"the list of workspace proxies cannot be read: {result.list_failure.message}")
            )
            failure = result.list_failure
        else:
            findings.append(
                _warning(
                    "EWP01",
                    f"the list of workspace proxies could not be refreshed, an earlier one is used: "
                    f"{result.list_failure.message}",
                )
            )
    expected = [proxy for proxy in result.proxies if proxy.status is not ProxyStatus.UNREGISTERED and not proxy.stopped]
    if expected and not any(proxy.status is ProxyStatus.OK for proxy in expected):
        names = ", ".join(sorted(proxy.proxy.name for proxy in expected)[:10])
        sentence = f"every workspace proxy is down: {names}"
        findings.append(_error("XWP02", sentence))
        failure = failure or Failure(
            reason=next((proxy.failure.reason for proxy in expected if proxy.failure is not None), Reason.STATUS),
            message=sentence,
        )
    return _report(findings, failure)


def _cut(sentence: str, max_chars: int = 1000) -> str:
    return sentence if len(sentence) <= max_chars else sentence[:max_chars] + "..."


def _seen(result: ProxyResult) -> str:
    return "ok, but warns" if result.status is ProxyStatus.OK else str(result.status)


def _timed_out(result: ProxyResult) -> bool:
    return result.failure is not None and result.failure.reason is Reason.TIMEOUT


def _report(findings: list[Finding], failure: Failure | None) -> Report:
    return Report(section=Section.WORKSPACE_PROXY, findings=tuple(findings), failure=failure)


def _warning(code: str, message: str) -> Finding:
    return Finding(code=code, severity=Severity.WARNING, message=message)


def _error(code: str, message: str) -> Finding:
    return Finding(code=code, severity=Severity.ERROR, message=message)
