"""Recorded reports of a real server in which anything stands in place of anything, from bytes to verdict:
what Coder calls an error is told as one, and what is foreign stays out of the names."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.health.coder_report import CoderReport
from exporter.health.codes import CODES
from exporter.health.model import REPORT_SECTIONS, UNCODED, Severity
from exporter.health.report import PollVerdict, ReportResult, assess
from exporter.metrics.report_samples import render_report
from exporter.net.coder_report import ReportSteps, read_report

DATA = Path(__file__).parents[1] / "data" / "coder"
RECORDED = [
    json.loads((DATA / f"{name}.json").read_text())
    for name in ("debug-health-ok", "proxies-one-down-health", "trouble-ESTUN-silent-reread", "trouble-EPD02")
]
SECRET = "Abcdefghij-ABCDEFGHIJKLMNOPQRSTUV"
WORDS = {severity.label: severity for severity in Severity}
KEY = re.compile(r"[a-z][a-z0-9_]{0,63}")
FOREIGN_CODE = re.compile(r"E[A-Z]{1,10}[0-9]{0,3}")
KNOWN_CODES = {code.value for codes in CODES.values() for code in codes}
NAMES = ("report", "exporter", "AccessURL", "DERP", "pubsub", "\u6570\u636e", "", "9x", "error", "severity", SECRET)
VALUES: tuple[Any, ...] = (
    None,
    {},
    [],
    "",
    *WORDS,
    "ERROR",
    True,
    False,
    0,
    -1,
    3.7,
    10**30,
    [None],
    "EDB01: no ping",
    "EUNKNOWN: panic\nstack",
    "no code",
    {"code": "EDB01", "message": "no ping"},
    {"severity": "error"},
    {"severity": "warning", "warnings": [{"code": "eodd\n", "message": "\u202e\x1b[31m"}]},
    [{"code": "ENEW01", "message": "x"}, "EWP03: old", {"code": None}, 7],
    "0001-01-01T00:00:00Z",
    "9999-12-31T23:59:59.999999999-23:59",
    "7.67ms",
    "x" * 3000,
    SECRET,
)


def find_members(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, entry in entries:
        yield (*path, key)
        if key not in ("netcheck", "netcheck_logs", "client_logs"):
            yield from find_members(entry, (*path, key))


@st.composite
def mutated(draw: st.DrawFn) -> dict[str, Any]:
    """One of the recorded reports with up to four members that are other, gone or new."""
    report: dict[str, Any] = copy.deepcopy(draw(st.sampled_from(RECORDED)))
    for _ in range(draw(st.integers(1, 4))):
        *way, last = draw(st.sampled_from(list(find_members(report)) or [("derp",)]))
        holder: Any = report
        for step in way:
            holder = holder[step]
        change = draw(st.sampled_from(("replace", "replace", "leave out", "add")))
        if change == "leave out" and last in (holder if isinstance(holder, dict) else ()):
            del holder[last]
        else:
            key = draw(st.sampled_from(NAMES)) if change == "add" and isinstance(holder, dict) else last
            holder[key] = copy.deepcopy(draw(st.sampled_from(VALUES)))
    return report


def has_error(value: Any) -> bool:
    return isinstance(value, dict) and value.get("error") not in (None, "", [], 0, False)


def read_word(value: Any) -> Severity:
    word = value.get("severity") if isinstance(value, dict) else None
    return WORDS.get(word, Severity.OK) if isinstance(word, str) else Severity.OK


def expect(section: Any) -> Severity:
    """Return how bad a section is at least, by what Coder says in it."""
    if not isinstance(section, dict) or not section or has_error(section):
        return Severity.ERROR
    if section.get("severity") in (None, "") and section.get("healthy") is False:
        return Severity.ERROR
    regions = section.get("regions")
    inner = [region for key, region in regions.items() if key.isdigit()] if isinstance(regions, dict) else []
    if any(has_error(region) for region in inner):
        return Severity.ERROR
    return max(map(read_word, (section, *inner)))


def drain(steps: ReportSteps) -> CoderReport:
    while True:
        try:
            next(steps)
        except StopIteration as done:
            told: CoderReport = done.value
            return told


def judge(report: dict[str, Any]) -> tuple[PollVerdict, list[str]]:
    """Return the verdict, and the samples of what was measured."""
    told = drain(read_report(json.dumps(report).encode()))
    result = ReportResult(name="coder-0", status=200, report=told, observation=1, expected=tuple(REPORT_SECTIONS))
    return assess(result), [line for _, line in render_report(result, {"deployment": "prod", "coder_replica": ""})]


@given(mutated())
def test_no_trouble_of_coders_gets_lost(report: dict[str, Any]) -> None:
    """Each section is at least as bad as Coder says, one that is none or gone is an error, and so is the
    whole when Coder calls it one."""
    verdict, _ = judge(report)
    for name in REPORT_SECTIONS:
        assert verdict.sections[name].severity >= expect(report.get(name)), name
    worst = max(verdict.poll.severity, *(section.severity for section in verdict.sections.values()))
    others = [value for name, value in report.items() if name not in REPORT_SECTIONS and isinstance(value, dict)]
    assert worst >= max(map(read_word, (report, *others)))
    assert worst is Severity.ERROR or not any(map(has_error, others))
    assert worst is not Severity.OK or report.get("healthy") is not False


@given(mutated())
def test_names_codes_and_samples_stay_in_bounds(report: dict[str, Any]) -> None:
    """Whatever foreign text comes, names fit into labels, sentences are short lines, and no secret is told."""
    verdict, lines = judge(report)
    for name, section in verdict.sections.items():
        assert KEY.fullmatch(name)
        codes = [finding.code for finding in section.findings]
        assert sorted(set(codes)) == sorted(codes)
        assert section.not_judged.isdisjoint(codes)
        for finding in section.findings:
            assert finding.code in KNOWN_CODES | {UNCODED} or FOREIGN_CODE.fullmatch(finding.code)
            assert len(finding.message.splitlines()) <= 1
            assert len(finding.message.encode()) < 4100
    assert SECRET[11:] not in repr(verdict)
    assert SECRET[11:] not in "".join(lines)
    assert [] == [line for line in lines if len(line.splitlines()) != 1 or "nan" in line.rsplit(" ", 1)[1].lower()]


@pytest.mark.parametrize("report", RECORDED, ids=lambda report: str(report["severity"]))
def test_the_expectation_holds_for_what_was_recorded(report: dict[str, Any]) -> None:
    """What is expected of a section is what it says."""
    assert {name: expect(report[name]) for name in REPORT_SECTIONS} == {
        name: WORDS[report[name]["severity"]] for name in REPORT_SECTIONS
    }
