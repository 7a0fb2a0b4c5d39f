"""Coder's own report as a witness: how it is to be had, and what it says of each section.

In: one poll of one replica (`ReportResult`), and all polls of a deployment together (`ReportsResult`).
Out: reports for the section `report` (XRPT01 to XRPT07), and for each section of the report as the
witness tells it. Pure.

Source: contract, sections 5, 6 and 8; coder-interfaces, sections 2 and 8.2
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import partial
from types import MappingProxyType

from exporter.errors import Reason
from exporter.health import codes
from exporter.health.coder_report import CoderReport
from exporter.health.model import REPORT_SECTIONS, Failure, Finding, OffReason, Report, Section, Severity
from exporter.health.report_whole import ReportVerdict, judge_report
from exporter.health.report_words import cut, list_few

# How old a report out of Coder's cache may be. Source: --health-check-refresh, default.
DEFAULT_REFRESH_SECONDS = 600.0
# How much older a report may be than the cache lets it become, since a run takes its time.
_STALE_SLACK_SECONDS = 60.0


class Refusal(StrEnum):
    """Why Coder keeps its report from us."""

    SIGNED_OUT = "signed_out"  # 401: the token is none, expired or revoked, or its user is not let in
    FORBIDDEN = "forbidden"  # 403: not an Owner's, or of a narrow scope


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportResult:
    """One poll of one replica.

    Args:
        name: The label `target`: the replica's name, or the host of the access URL.
        by_name: A name has to be looked up for it.
        status: Of the last answer; None without one.
        refusal: Coder answered in good order that this token may not read it.
        off: There is nothing to poll here: the server does not know the route, or the token's file has no
            token (then `failure` says what is wrong with it).
        internal_error: Coder itself is in trouble (its 401 when the database is gone, a 5xx of its own).
        failure: Why there is no report now; set beside `refusal`, too.
        report: What was read now; None when nothing was.
        distinct: Its time is newer than any that was seen from this replica; of a report that tells no
            time, that it is another text than the one before.
        outdated: A newer one was seen before: replicas behind one name each give their own.
        observation: Its time, else a digest of it; None without a report.
        age_seconds: How old the report was when it came, by the replica's own clock where its answer
            tells the time; at least 0. None without a report or a time.
        refresh_seconds: How old it may be: what Coder's configuration says, or its default.
        held_seconds: How old the last report of this replica is by now; None when there never was one.
        hold_limit_seconds: How old it may become before nothing is told by it any more.
        organizations: Names by id, as far as known, for the label `organization`.
        expected: The sections of Coder's that earlier reports of this replica had, of the same version.
        shown: The sections that were shown of the report before.
        attempts: How many requests it took (a 503 is asked again).
    """

    name: str
    by_name: bool = False
    status: int | None = None
    refusal: Refusal | None = None
    off: OffReason | None = None
    internal_error: bool = False
    failure: Failure | None = None
    report: CoderReport | None = None
    distinct: bool = True
    outdated: bool = False
    observation: Hashable | None = None
    age_seconds: float | None = None
    refresh_seconds: float = DEFAULT_REFRESH_SECONDS
    held_seconds: float | None = None
    hold_limit_seconds: float = DEFAULT_REFRESH_SECONDS + 360.0
    organizations: Mapping[str, str] = field(default_factory=dict)
    attempts: int = 1
    expected: tuple[str, ...] = ()
    shown: tuple[str, ...] = ()

    @property
    def expired(self) -> bool:
        """Whether nothing may be told by an earlier report: there is none, it is too old, or this
        token may not read it."""
        if self.refusal is not None or self.off is not None or self.held_seconds is None:
            return True
        return self.held_seconds > self.hold_limit_seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class PollVerdict:
    """What one poll comes to: `poll`, how the report is to be had, and `sections`, each section as the
    report tells it, by its name. No section is there when the poll brought nothing to tell: what was told
    before stays."""

    poll: Report
    sections: Mapping[str, Report]


@dataclass(frozen=True, slots=True, kw_only=True)
class CoderSettings:
    """What Coder's deployment configuration says that matters to us; None: it does not say.

    `refresh_seconds` is `healthcheck.refresh`, `latency_threshold_seconds` is
    `healthcheck.threshold_database`, `proxy_interval_seconds` is `proxy_health_status_interval`.
    """

    refresh_seconds: float | None = None
    latency_threshold_seconds: float | None = None
    proxy_interval_seconds: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaView:
    """The settled severity of each section as one replica reports it. `section` may be foreign."""

    coder_replica: str
    severities: Mapping[str, Severity]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportsResult:
    """All polls of a deployment together, and what Coder says beside its reports.

    Args:
        off: There is nothing to ask with: the token's file has none.
        dismissed: The sections that are muted in Coder, as keys of the report (`derp`); an unknown name
            in lower case with underscores. None: not known.
        dismissed_failure: Why the mutes could not be read; None when they could, or are not asked.
        settings: None: not known.
        settings_failure: As `dismissed_failure`, for the configuration. What was read before goes on for a while.
        views: Of each replica whose report is fresh.
        versions: Version of the server by replica, from the access URL and from each replica.
        skew: Sentences about differing versions that are observed now, worst first.
        skew_seconds: For how long some skew has been observed without a break; None without skew.
        skew_limit_seconds: The version grace, after which a roll-out is stuck.
    """

    off: OffReason | None = None
    dismissed: tuple[str, ...] | None = None
    dismissed_failure: Failure | None = None
    settings: CoderSettings | None = None
    settings_failure: Failure | None = None
    views: tuple[ReplicaView, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    skew: tuple[str, ...] = ()
    skew_seconds: float | None = None
    skew_limit_seconds: float = 300.0


def assess(result: ReportResult, *, elsewhere: Mapping[str, Collection[str]] = MappingProxyType({})) -> PollVerdict:
    """Judge one poll, and each section as its report tells it; the report is looked at once for both.

    Args:
        elsewhere: As of `judge_report`.
    """
    if result.report is None:
        verdict = ReportVerdict(sections={})
    else:
        verdict = judge_report(result.report, expected=result.expected, shown=result.shown, elsewhere=elsewhere)
    return PollVerdict(poll=_judge_poll(result, verdict), sections=_tell_sections(result, verdict))


def assess_reports(result: ReportsResult) -> Report:
    """Judge what only all reports together tell: that replicas disagree (XRPT05), that a roll-out is
    stuck (XRPT06)."""
    if result.off is not None:
        return Report(section=Section.REPORT, off=result.off)
    findings = []
    disputes = [sentence for sentence in map(partial(_tell_dispute, result.views), _sections_of(result)) if sentence]
    if disputes:
        findings.append(_warning("XRPT05", f"replicas of coderd disagree: {list_few(disputes)}"))
    if result.skew_seconds is not None and result.skew_seconds > result.skew_limit_seconds:
        told = list_few(result.skew) or "versions differ"
        sentence = f"for {result.skew_seconds:.0f} s, longer than the {result.skew_limit_seconds:.0f} s of a roll-out"
        findings.append(_warning("XRPT06", f"{sentence}: {told}"))
    return Report(section=Section.REPORT, findings=tuple(findings), failure=result.dismissed_failure)


def _judge_poll(result: ReportResult, verdict: ReportVerdict) -> Report:
    """XRPT01, 02 and 04, and what names nothing (XRPT03, XRPT07; EUNKNOWN for what only warns). It counts
    each time, as a refusal or an outage does; a report that was seen before clears nothing of what it could
    not say better now (XRPT03, XRPT07). Source: contract, sections 6 and 8
    """
    if result.off is not None:
        return Report(section=Section.REPORT, off=result.off)
    if result.report is None:
        return _judge_absence(result)
    findings = [*_judge_age(result), *_judge_content(verdict)]
    found = {finding.code for finding in findings}
    not_judged = {"XRPT02"} if result.age_seconds is None else set()
    if not result.distinct:
        not_judged |= {"XRPT03", "XRPT07"} - found
    worst = next((finding for finding in findings if finding.severity is Severity.ERROR), None)
    return Report(
        section=Section.REPORT,
        findings=tuple(findings),
        failure=None if worst is None else Failure(reason=Reason.BODY, message=worst.message),
        not_judged=frozenset(not_judged),
    )


def _tell_sections(result: ReportResult, verdict: ReportVerdict) -> Mapping[str, Report]:
    """A token that may not read the report switches all sections of Coder's off, as does a server without
    one; a server that is older than a section only that one. Source: contract, section 5
    """
    off = OffReason.FORBIDDEN if result.refusal is not None and not result.internal_error else result.off
    if off is not None:
        return {section: Report(section=section, off=off) for section in REPORT_SECTIONS}
    if result.report is None:
        return {}
    told = {
        name: Report(
            section=one.section,
            findings=tuple(
                replace(finding, message=cut(f"{result.name or 'Coder'} reports: {finding.message}"))
                for finding in one.findings
            ),
            not_judged=one.not_judged,
            observation=result.observation,
            counts=not result.outdated,
        )
        for name, one in verdict.sections.items()
    }
    lacking = (section for section in REPORT_SECTIONS if section not in told)
    older = {
        one.value: Report(
            section=one,
            off=OffReason.NOT_SUPPORTED,
            observation=result.observation,
            counts=not result.outdated,
        )
        for one in lacking
    }
    return told | older


def _judge_absence(result: ReportResult) -> Report:
    """An earlier report may still be told by; once it is too old, nothing is left of it."""
    kept = frozenset() if result.expired else frozenset({"XRPT02", "XRPT03", "XRPT07"})
    if result.refusal is not None and not result.internal_error:
        told = {
            Refusal.SIGNED_OUT: "the session token is none, expired or revoked, or its user is not active",
            Refusal.FORBIDDEN: "the session token is not an Owner's, or of a narrow scope",
        }[result.refusal]
        status = "" if result.status is None else f" with status {result.status}"
        finding = _warning("XRPT01", f"{result.name or 'Coder'} refuses its health report{status}: {told}")
        failure = result.failure or Failure(reason=Reason.AUTH, message=finding.message)
        return Report(section=Section.REPORT, findings=(finding,), failure=failure, not_judged=kept)
    if result.failure is not None:
        told = result.failure.message
    elif result.internal_error:
        told = "Coder itself failed"
    else:
        told = "no report came" if result.status is None else f"status {result.status}"
    attempts = f" after {result.attempts} requests" if result.attempts > 1 else ""
    finding = _warning("XRPT04", f"the health report of {result.name or 'Coder'} is not to be had{attempts}: {told}")
    failure = result.failure or Failure(reason=Reason.STATUS, message=finding.message)
    # whether the token is good is not known: nobody said anything about it
    return Report(section=Section.REPORT, findings=(finding,), failure=failure, not_judged=kept | {"XRPT01"})


def _judge_age(result: ReportResult) -> Iterable[Finding]:
    limit_seconds, age_seconds = result.refresh_seconds + _STALE_SLACK_SECONDS, result.age_seconds
    if age_seconds is not None and age_seconds > limit_seconds:
        yield _warning(
            "XRPT02",
            f"the health report of {result.name or 'Coder'} was {age_seconds:.0f} s old, "
            f"{limit_seconds:.0f} s are allowed",
        )


def _judge_content(verdict: ReportVerdict) -> Iterable[Finding]:
    sections = verdict.sections.values()
    crashes = [f"{one.section}: {one.crash}" for one in sections if one.crash is not None]
    if crashes:
        yield _error("XRPT03", f"sections of Coder's report crashed or have no severity: {list_few(crashes)}")
    unnamed = [*verdict.unnamed, *(sentence for one in sections for sentence in one.unnamed)]
    if unnamed:
        yield _error("XRPT07", f"Coder's report has errors that no code names: {list_few(unnamed)}")
    if verdict.unshown:
        yield _warning(codes.UNKNOWN, f"more sections of Coder's report warn: {list_few(verdict.unshown)}")


def _sections_of(result: ReportsResult) -> Iterable[str]:
    return sorted({section for view in result.views for section in view.severities})


def _tell_dispute(views: Iterable[ReplicaView], section: str) -> str:
    """Say which replicas see a section otherwise than most; of two groups of the same size, those that
    see it worse. Empty while they agree, or while none sees an error."""
    replicas: dict[Severity, list[str]] = {}
    for view in views:
        if section in view.severities:
            replicas.setdefault(view.severities[section], []).append(view.coder_replica)
    if len(replicas) < 2 or Severity.ERROR not in replicas:
        return ""
    groups = sorted(replicas.items(), key=lambda group: (len(group[1]), -group[0]))
    return f"{section} is " + ", but ".join(f"{severity.label} to {_name_few(names)}" for severity, names in groups)


def _name_few(names: Sequence[str]) -> str:
    ordered = sorted(names)
    more = f" and {len(ordered) - 3} more" if len(ordered) > 3 else ""
    return ", ".join(ordered[:3]) + more


def _warning(code: str, message: str) -> Finding:
    return Finding(code=code, severity=Severity.WARNING, message=cut(message))


def _error(code: str, message: str) -> Finding:
    return Finding(code=code, severity=Severity.ERROR, message=cut(message))
