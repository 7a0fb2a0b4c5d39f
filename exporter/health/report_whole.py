"""Coder's report as a whole: which of its sections are shown, and what it tells that stands in none of
them. One report of one replica in, a verdict out. Pure.

Nothing that the report calls bad gets lost on the way, whatever has no place of its own:

- Of sections that we do not know so many are shown: the worst ones, of equally bad ones those that were
  shown before, then by name. One that is left out and is an error is XRPT07, with its codes; one that is
  left out and warns is EUNKNOWN, as a warning of the section `report`.
- A section that we know, that an earlier report of the same version had, and that is missing now is
  XRPT03, as one is in whose place something else stands. One that never was there is not told of.
- Coder's own overall verdict is XRPT07 when nothing in the report explains it: `severity` error without a
  section in error; `healthy` false without one, without a warning of the access URL (which makes it
  false), and without a warning of another section that calls itself unhealthy.

Source: coder-interfaces, sections 2.7 and 8.2; contract, sections 6 and 8
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from exporter.health.coder_report import CoderReport, ReportedSection
from exporter.health.model import REPORT_SECTIONS, Section, Severity
from exporter.health.report_sections import ForeignCodes, SectionVerdict, judge_section, rate_section
from exporter.health.report_words import MAX_DETAIL_CHARS, MAX_LISTED, cut

# Bound of what a newer Coder may bring. Source: contract, section 8, Values.
MAX_FOREIGN_SECTIONS = 8
_GONE = "no such section any more, though an earlier report of this version had it"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportVerdict:
    """What one report comes to.

    Args:
        sections: By name, each that is shown.
        unnamed: Errors that no section and no code names (XRPT07), one sentence each.
        unshown: Sections that only warn and are not shown (EUNKNOWN), one sentence each.
    """

    sections: Mapping[str, SectionVerdict]
    unnamed: tuple[str, ...] = ()
    unshown: tuple[str, ...] = ()


def judge_report(
    report: CoderReport,
    *,
    expected: Collection[str] = (),
    shown: Collection[str] = (),
    elsewhere: Mapping[str, Collection[str]] = MappingProxyType({}),
) -> ReportVerdict:
    """Judge a report.

    Args:
        expected: The sections of earlier reports of the same replica and version.
        shown: The sections that were shown of the report before.
        elsewhere: Codes that we do not know, by section, in reports of other replicas; of sections that we do
            not know each that is shown. A deployment has one bound for all its replicas.
    """
    known = {}
    for name in REPORT_SECTIONS:
        found = report.section(name)
        if found is None and name in expected:
            found = ReportedSection(name=name, severity=None, instead=_GONE)
        if found is not None:
            known[name.value] = found
    others = {section.name: section for section in reversed(report.sections) if section.name not in REPORT_SECTIONS}
    ranked = _rank(list(others.values()), shown)
    admitted = _admit([section.name for section, _ in ranked], elsewhere)
    passing = ForeignCodes(elsewhere)
    verdicts = {
        section.name: judge_section(section, report, passing)
        for section in (*known.values(), *(section for section, _ in ranked if section.name in admitted))
    }
    left_out = [(one, severity) for one, severity in ranked if one.name not in admitted and severity is not Severity.OK]
    errors = [_tell_left_out(one) for one, severity in left_out if severity is Severity.ERROR]
    return ReportVerdict(
        sections=verdicts,
        unnamed=(*errors, *_tell_overall(report, verdicts)),
        unshown=tuple(_tell_left_out(one) for one, severity in left_out if severity is Severity.WARNING),
    )


def _rank(sections: Sequence[ReportedSection], shown: Collection[str]) -> list[tuple[ReportedSection, Severity]]:
    """Sort sections by how much they want to be shown."""
    rated = [(section, rate_section(section)) for section in sections]
    return sorted(rated, key=lambda one: (-one[1], one[0].name not in shown, one[0].name))


def _admit(names: Iterable[str], elsewhere: Collection[str]) -> set[str]:
    """Return which sections are shown: those that other replicas show, and as many more as there is room for."""
    shared = {name for name in elsewhere if name not in REPORT_SECTIONS}
    admitted: set[str] = set()
    for name in names:
        if name in shared or len(shared | admitted) < MAX_FOREIGN_SECTIONS:
            admitted.add(name)
    return admitted


def _tell_left_out(section: ReportedSection) -> str:
    codes = sorted({cut(message.code, 20) for message in section.messages if message.code})
    told = ", ".join(codes[:MAX_LISTED]) + (f" and {len(codes) - MAX_LISTED} more" if len(codes) > MAX_LISTED else "")
    reason = section.error or next((message.message for message in section.messages), "")
    said = " with " + told if told else ""
    return cut(f"{section.name}{said}, not shown beside worse ones: {reason or 'no reason'}", MAX_DETAIL_CHARS)


def _tell_overall(report: CoderReport, verdicts: Mapping[str, SectionVerdict]) -> Iterator[str]:
    # none that is left out is worse than all that are shown
    worst = max((verdict.severity for verdict in verdicts.values()), default=Severity.OK)
    if worst is Severity.ERROR:
        return
    if report.severity is Severity.ERROR:
        yield "Coder calls itself an error, but no section says why"
    elif report.healthy is False and not _explains_unhealthy(report, verdicts):
        unhealthy = [section.name for section in report.sections if section.healthy is False]
        beside = f" ({', '.join(unhealthy[:MAX_LISTED])}: not healthy, but no trouble)" if unhealthy else ""
        yield f"Coder calls itself unhealthy, but no section says why{beside}"


def _explains_unhealthy(report: CoderReport, verdicts: Mapping[str, SectionVerdict]) -> bool:
    """Whether a warning makes the whole unhealthy: that of the access URL does, and in other versions
    that of a section that says so itself."""
    unhealthy = {section.name for section in report.sections if section.healthy is False} | {Section.ACCESS_URL.value}
    return any(verdict.severity is not Severity.OK for name, verdict in verdicts.items() if name in unhealthy)
