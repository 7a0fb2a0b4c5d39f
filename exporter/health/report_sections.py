"""The sections of Coder's report as that witness tells them: a section of a report of one replica in,
a verdict out, also of one that we do not know. Pure.

Coder's word about the severity is never made better. What its codes do not explain stands beside them
without a code, and what it calls healthy while its own node reports say otherwise is judged by
`report_derp.py`.

Source: coder-interfaces, sections 1, 2.5 to 2.9 and 8.2; contract, sections 6 and 8
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType

from exporter.health import codes
from exporter.health.coder_report import CoderReport, ReportedDaemon, ReportedSection
from exporter.health.model import REPORT_SECTIONS, UNCODED, Finding, Section, Severity, Witness
from exporter.health.report_derp import OWN_CODES, RegionsVerdict, judge_regions
from exporter.health.report_words import MAX_DETAIL_CHARS, MAX_SENTENCE_CHARS, cut, list_few, tally

# Bound of what a newer Coder may bring. Source: contract, section 8, Values.
MAX_FOREIGN_CODES = 32
_FOREIGN_CODE = re.compile(r"E[A-Z]{1,10}[0-9]{0,3}")

# What Coder does not look at any more once it found the first. Source: coder-interfaces, 2.6
_ENDS_BEFORE = {"EWP01": {"EWP02", "EWP04"}, "EWP02": {"EWP04"}}
_PROXY_NAME = re.compile(r"^[^ :]{1,64}: ")
_API_MAJOR = re.compile(r"\bversion ([0-9]{1,9})\b")


@dataclass(frozen=True, slots=True, kw_only=True)
class SectionVerdict:
    """What one section comes to.

    Args:
        crash: What the section says in place of a severity (XRPT03); None when it has one, or is well.
        unnamed: Its errors that neither a code of Coder's nor one of ours names (XRPT07), one sentence each.
    """

    section: Section | str
    findings: tuple[Finding, ...] = ()
    not_judged: frozenset[str] = frozenset()
    crash: str | None = None
    unnamed: tuple[str, ...] = ()

    @property
    def severity(self) -> Severity:
        return max((finding.severity for finding in self.findings), default=Severity.OK)


def is_foreign(section: str, code: str) -> bool:
    """Whether a code is one of Coder's that our table does not have for a section."""
    return code != codes.UNKNOWN and code not in _own_severities(section) and _FOREIGN_CODE.fullmatch(code) is not None


class ForeignCodes:
    """Codes that our table does not have for a section: so many pass, each for each section.

    Args:
        elsewhere: Those that passed in the reports of other replicas, by section: they count, and pass.
    """

    def __init__(self, elsewhere: Mapping[str, Collection[str]] = MappingProxyType({})) -> None:
        self._passed = {(section, code) for section, passed in elsewhere.items() for code in passed}

    def admit(self, section: str, code: str) -> str:
        """Return the code, or EUNKNOWN in place of one that is none, or is one too many."""
        if code in _own_severities(section):
            return code
        if _FOREIGN_CODE.fullmatch(code) is None:
            return codes.UNKNOWN
        if (section, code) not in self._passed:
            if len(self._passed) >= MAX_FOREIGN_CODES:
                return codes.UNKNOWN
            self._passed.add((section, code))
        return code


@dataclass(slots=True)
class _Told:
    """What a section says under one code."""

    severity: Severity
    messages: list[str]


def rate_section(section: ReportedSection) -> Severity:
    """Return how bad `judge_section` will find a section that we do not know."""
    coded = (_rate(section, message.code) for message in section.messages if message.code)
    return max(_read_severity(section, _tell_crash(section, graded=False)), *coded, Severity.OK)


def judge_section(section: ReportedSection, report: CoderReport, passing: ForeignCodes) -> SectionVerdict:
    """Judge one section of a report.

    Args:
        report: Which the section belongs to.
        passing: The same for all sections of a report, the worst ones first.
    """
    name: Section | str = Section(section.name) if section.name in REPORT_SECTIONS else section.name
    told = _gather(section, passing)
    regions = _judge_regions(name, report, told)
    findings = _merge(name, [_find(code, one, report) for code, one in sorted(told.items())], regions)
    crash = _tell_crash(section, graded=report.tells_severities and section.name in REPORT_SECTIONS)
    said = max(_read_severity(section, crash), _worst_region(name, report))
    coded = max((finding.severity for finding in findings), default=Severity.OK)
    if said > coded:
        findings.append(
            Finding(code=UNCODED, severity=said, message=_tell_uncoded(section, said, report, regions, crash))
        )
    unnamed = list(regions.unnamed)
    if crash is None and said is Severity.ERROR and not unnamed:
        coded_error = any(message.code and _stands_in_error(section, message.code) for message in section.messages)
        if (section.error is not None and not coded_error) or (len(findings) == 1 and not findings[0].code):
            unnamed.append(f"{section.name}: {section.error or 'error without a reason'}")
    return SectionVerdict(
        section=name,
        findings=tuple(findings),
        not_judged=_find_not_judged(name, section, crash, {finding.code for finding in findings}, regions),
        crash=crash,
        unnamed=tuple(cut(sentence, MAX_DETAIL_CHARS) for sentence in unnamed),
    )


def _gather(section: ReportedSection, passing: ForeignCodes) -> dict[str, _Told]:
    told: dict[str, _Told] = {}
    for message in section.messages:
        if not message.code:
            continue
        code = passing.admit(section.name, message.code)
        severity = _rate(section, message.code)
        one = told.setdefault(code, _Told(severity=severity, messages=[]))
        one.severity = max(one.severity, severity)
        text = message.message if code == message.code else f"{cut(message.code, 40)}: {message.message}"
        one.messages.append(text)
    return told


def _rate(section: ReportedSection, code: str) -> Severity:
    """Return how bad a code is: an error when it stands in `error`; else what our table says for this
    section, and a warning where that says nothing (EPD01 comes as a warning and is an error)."""
    if _stands_in_error(section, code):
        return Severity.ERROR
    return _own_severities(section.name).get(code, Severity.WARNING)


@cache
def _severities() -> Mapping[str, Mapping[str, Severity]]:
    return {
        section: {code.value: code.severities[0] for code in codes.CODES[section] if code.coder}
        for section in REPORT_SECTIONS
    }


def _own_severities(section: str) -> Mapping[str, Severity]:
    """Return Coder's codes of a section and how bad our table calls them; none of one that we do not know."""
    return _severities().get(section, {})


def _stands_in_error(section: ReportedSection, code: str) -> bool:
    return section.error is not None and any(line.startswith(f"{code}: ") for line in section.error.split("\n"))


def _tell_crash(section: ReportedSection, *, graded: bool) -> str | None:
    """Return what a section says that has no severity: it panicked, or is none at all. Older servers tell no
    severities of any section, which says nothing as long as they are well: such a section that is healthy and
    has no error is ok.

    Args:
        graded: The server knows severities, and this is a section that has one.
    """
    if section.instead:
        return f"no severity, there is {section.instead}"
    if section.severity is not None:
        return None
    word = f"severity {cut(section.severity_text, 40)!r}" if section.severity_text else "no severity"
    if section.error is not None:
        return f"{word}, {section.error}"
    if section.healthy is False:
        return f"{word}, not healthy"
    if section.severity_text:
        return word if section.healthy is None else None
    return word if graded else None


def _read_severity(section: ReportedSection, crash: str | None) -> Severity:
    if crash is not None or section.error is not None:
        return Severity.ERROR
    return section.severity or Severity.OK


def _worst_region(name: Section | str, report: CoderReport) -> Severity:
    if name is not Section.DERP:
        return Severity.OK
    regions = report.regions or ()
    if any(region.error is not None for region in regions):
        return Severity.ERROR
    return max((region.severity or Severity.OK for region in regions), default=Severity.OK)


def _judge_regions(name: Section | str, report: CoderReport, told: Mapping[str, _Told]) -> RegionsVerdict:
    if name is not Section.DERP:
        return RegionsVerdict()
    if report.regions is None:
        return RegionsVerdict(not_judged=OWN_CODES)
    return judge_regions(report.regions, said=told.keys())


def _find(code: str, told: _Told, report: CoderReport) -> Finding:
    sentence = tally(told.messages) or "no message"
    detail = _tell_daemons(code, report)
    warned = told.severity is Severity.WARNING
    return Finding(
        code=code,
        severity=told.severity,
        message=cut(f"{sentence}; {detail}" if detail else sentence),
        skew=warned and (code in ("EPD02", "EPD03") or (code == "EWP04" and _only_versions(told, report))),
    )


def _only_versions(told: _Told, report: CoderReport) -> bool:
    """Whether proxies only warn that versions differ, as `workspace_proxy.py` wants it. A message
    begins with the name of its proxy, which may be anything."""
    if any(proxy.errors for proxy in report.proxies or ()):
        return False
    return all("version" in _PROXY_NAME.sub("", text, count=1).lower() for text in told.messages)


def _tell_daemons(code: str, report: CoderReport) -> str:
    """Say which versions the daemons have that bear a code, and which the server has: Coder's texts name
    only one of both (that of EPD03 the server's)."""
    bearing = [
        (daemon, message) for daemon in report.daemons or () for message in daemon.messages if message.code == code
    ]
    if code not in ("EPD02", "EPD03", codes.UNKNOWN) or not bearing:
        return ""
    versions: Counter[str] = Counter(_tell_version(code, daemon) for daemon, _ in dict(bearing).items())
    server = f"{report.version or 'an unknown version'}"
    if code == "EPD03":
        majors = {match[1] for _, message in bearing if (match := _API_MAJOR.search(message.message))}
        server += f", API major {majors.pop()}" if len(majors) == 1 else ""
    count, total = versions.total(), len(report.daemons or ())
    told = list_few(f"{version} ({n})" for version, n in sorted(versions.items(), key=lambda item: (-item[1], item[0])))
    return f"{count} of {total} recent daemons {'has' if count == 1 else 'have'} {told}; the server has {server}"


def _tell_version(code: str, daemon: ReportedDaemon) -> str:
    told = {"EPD02": f"version {daemon.version}", "EPD03": f"API version {daemon.api_version}"}
    return told.get(code, f"version {daemon.version!r}, API version {daemon.api_version!r}")


def _merge(name: Section | str, said: Sequence[Finding], regions: RegionsVerdict) -> list[Finding]:
    """Put our findings beside Coder's; under one code, ours says where."""
    findings = {finding.code: finding for finding in said}
    for ours in regions.findings:
        theirs = findings.get(ours.code)
        if theirs is not None:
            ours = Finding(
                code=ours.code,
                severity=max(ours.severity, theirs.severity),
                message=cut(f"{ours.message}; Coder says: {theirs.message}"),
            )
        findings[ours.code] = ours
    return list(findings.values())


def _tell_uncoded(
    section: ReportedSection, said: Severity, report: CoderReport, regions: RegionsVerdict, crash: str | None
) -> str:
    """Say why a section is worse than its codes tell, as far as anything in the report does."""
    uncoded = [message.message for message in section.messages if not message.code]
    unwell = [f"proxy {proxy.name} is {proxy.status}" for proxy in report.proxies or () if proxy.status != "ok"]
    if section.error is not None:
        reason = section.error
    elif uncoded:
        reason = tally(uncoded)
    elif section.name == Section.WORKSPACE_PROXY and unwell:
        reason = list_few(unwell)
    elif section.name == Section.DERP and (regions.unnamed or regions.findings):
        reason = list_few(regions.unnamed or (finding.message for finding in regions.findings))
    else:
        reason = crash or "it does not say why"
    return cut(f"{said.label} that no code explains: {reason}", MAX_SENTENCE_CHARS)


def _find_not_judged(
    name: Section | str, section: ReportedSection, crash: str | None, found: Set[str], regions: RegionsVerdict
) -> frozenset[str]:
    """A section that broke off says nothing about the codes that it did not come to."""
    every = frozenset(codes.section_codes(name, Witness.REPORT))
    real = found - {codes.UNKNOWN, UNCODED}
    if not real and (crash is not None or section.error is not None):
        return every - found
    unseen = set(regions.not_judged).union(*(_ENDS_BEFORE.get(code, set()) for code in found))
    return (frozenset(unseen) & every) - found
