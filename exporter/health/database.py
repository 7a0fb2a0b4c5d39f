"""Database: what one run found, and what we think of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from exporter.errors import Phase
from exporter.health.model import Failure, Finding, Report, Section, Severity

# Source: --health-check-threshold-database, coder-interfaces, section 1
DEFAULT_THRESHOLD_MILLISECONDS = 15
DEFAULT_LATENCY_THRESHOLD_SECONDS = DEFAULT_THRESHOLD_MILLISECONDS / 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class DatabaseResult:
    """One run: up to five pings on the kept connection.

    `ping_seconds` in the order of sending; it ends at the first ping that failed. `refused`: the
    server answered and said no to our role (login, permission), so nothing is known of Coder's
    own access. `standby` is None when it was not asked. `connect_seconds` and `login_seconds` are
    those of the last fresh connection; None until one succeeded.
    """

    ping_seconds: tuple[float, ...] = ()
    failure: Failure | None = None
    refused: bool = False
    standby: bool | None = None
    connect_seconds: float | None = None
    login_seconds: float | None = None
    server_version: str | None = None
    address: str | None = None
    phase_seconds: Mapping[Phase, float]

    @property
    def median_ping_seconds(self) -> float | None:
        """The third of five, sorted. Source: coderd/healthcheck/database.go."""
        if len(self.ping_seconds) < 5:
            return None
        return sorted(self.ping_seconds)[2]


def find_threshold(seconds: float) -> float:
    """Return the threshold that the verdict goes by: whole milliseconds, and Coder's default of 15 ms
    where that is less than one."""
    return _find_threshold_milliseconds(seconds) / 1000


def assess(result: DatabaseResult, *, threshold_seconds: float) -> Report:
    """Judge one run by Coder's rules (EDB01, EDB02), and say what those do not tell: that only our
    own role is turned away (XDB01), or that a standby answers (XDB02).

    Args:
        threshold_seconds: As it was written; see `find_threshold`.

    Source: coder-interfaces, sections 1 and 2.3; contract, section 6.
    """
    findings = []
    if result.failure is not None:
        if result.refused:
            findings.append(_warning("XDB01", f"the database answers but refuses our role: {result.failure.message}"))
        else:
            findings.append(
                Finding(code="EDB01", severity=Severity.ERROR, message=_tell_outage(result, result.failure))
            )
    median_seconds = result.median_ping_seconds
    if median_seconds is not None:
        threshold = _find_threshold_milliseconds(threshold_seconds)
        if _whole_milliseconds(median_seconds) >= threshold:
            sentence = f"median of five pings {median_seconds * 1000:.1f} ms, threshold {threshold} ms"
            findings.append(_warning("EDB02", sentence))
    if result.standby:
        findings.append(_warning("XDB02", _tell_standby(result)))
    unknown = {"XDB02"} if result.standby is None else set()
    if result.refused and median_seconds is None:
        unknown.add("EDB02")  # nothing is known of what Coder's own role sees
    return Report(
        section=Section.DATABASE,
        findings=tuple(findings),
        failure=None if result.refused else result.failure,
        not_judged=frozenset(unknown),
    )


def _warning(code: str, message: str) -> Finding:
    return Finding(code=code, severity=Severity.WARNING, message=message)


def _find_threshold_milliseconds(seconds: float) -> int:
    milliseconds = _whole_milliseconds(seconds)
    return milliseconds if milliseconds >= 1 else DEFAULT_THRESHOLD_MILLISECONDS


def _whole_milliseconds(seconds: float) -> int:
    """Cut to whole milliseconds, as Coder does; by way of nanoseconds, so that 0.029 s is 29 ms."""
    return round(seconds * 1e9) // 1_000_000


def _tell_outage(result: DatabaseResult, failure: Failure) -> str:
    if not result.ping_seconds:
        return failure.message
    return f"ping {len(result.ping_seconds) + 1} of 5 failed: {failure.message}"


def _tell_standby(result: DatabaseResult) -> str:
    where = f" at {result.address}" if result.address else ""
    return f"the server{where} is a standby, on which Coder cannot write"
