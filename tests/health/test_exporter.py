"""The exporter's verdict about itself: cut off, or behind its schedule."""

from __future__ import annotations

import pytest

from exporter.health.exporter import ExporterResult, assess_exporter
from exporter.health.model import Section, Severity


def test_all_is_well() -> None:
    """Nothing is found, and nothing has failed, also while single targets fail."""
    report = assess_exporter(ExporterResult(failing=3, targets=9))
    assert (Section.EXPORTER, (), None) == (report.section, report.findings, report.failure)


@pytest.mark.parametrize(
    ("sentence", "targets"),
    [
        ("this exporter's host is cut off: the only target fails, and there is no default route", 1),
        ("this exporter's host is cut off: all 7 targets fail, and there is no default route", 7),
    ],
)
def test_a_host_that_is_cut_off(sentence: str, targets: int) -> None:
    """XEXP01 is an error and says by what this host shows it."""
    report = assess_exporter(ExporterResult(cut_off="there is no default route", failing=targets, targets=targets))
    (finding,) = report.findings
    assert ("XEXP01", Severity.ERROR, sentence) == (finding.code, finding.severity, finding.message)
    assert report.failure is not None
    assert sentence == report.failure.message


@pytest.mark.parametrize(
    ("words", "skipped", "overdue"),
    [
        (("2 ticks were skipped",), 2, 0.0),
        (("a run is 3.5 s later than its interval allows",), 0, 3.5),
        (("a tick was skipped", "a run is 3.5 s later"), 1, 3.5),
    ],
)
def test_a_schedule_that_is_not_kept(words: tuple[str, ...], skipped: int, overdue: float) -> None:
    """XEXP02 is a warning, fails nothing, and says how it is seen."""
    report = assess_exporter(ExporterResult(ticks_skipped=skipped, overdue_seconds=overdue))
    (finding,) = report.findings
    assert ("XEXP02", Severity.WARNING, None) == (finding.code, finding.severity, report.failure)
    assert all(word in finding.message for word in words)


def test_slow_targets_are_named() -> None:
    """A few of them, the rest as a number."""
    names = tuple(f"prod/section-{number}" for number in range(7))
    messages = [assess_exporter(ExporterResult(slow=slow)).findings[0].message for slow in (names[:1], names)]
    assert [
        "probing falls behind its schedule: runs of prod/section-0 take longer than their interval",
        "probing falls behind its schedule: runs of prod/section-0, prod/section-1, prod/section-2, prod/section-3, "
        "prod/section-4 and 2 more take longer than their interval",
    ] == messages


def test_both_at_once() -> None:
    """A host that is cut off may fall behind, too: runs end late."""
    report = assess_exporter(ExporterResult(cut_off="x", failing=1, targets=1, ticks_skipped=1))
    assert ["XEXP01", "XEXP02"] == [finding.code for finding in report.findings]
