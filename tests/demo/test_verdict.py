"""Observed and foreseen, side by side."""

from __future__ import annotations

from exporter.check import SectionOutcome
from exporter.demo import verdict
from exporter.demo.scenario import probed, reported
from exporter.errors import Reason
from exporter.health.model import UNCODED, Failure, Finding, OffReason, Report, Section, Severity, Witness
from exporter.snapshot import TargetHealth
from exporter.targets.model import SectionKey, TargetKey

DOWN = Failure(reason=Reason.REFUSED, message="refused")


def outcome(
    section: Section,
    *codes: tuple[str, Severity],
    off: OffReason | None = None,
    witness: Witness = Witness.PROBE,
    replica: str = "",
) -> SectionOutcome:
    findings = tuple(Finding(code=code, severity=severity, message="seen") for code, severity in codes)
    key = SectionKey(deployment="demo", section=section, witness=witness, coder_replica=replica)
    health = TargetHealth(
        key=TargetKey(section_key=key, name="x"),
        run=1,
        interval_seconds=2.0,
        started_timestamp_seconds=0.0,
        duration_seconds=0.0,
        result=None,
        report=Report(section=section, findings=findings, failure=DOWN if findings else None),
    )
    return SectionOutcome(key=key, off=off, healths=() if off else (health,))


def test_sections_that_are_off_are_not_observed() -> None:
    """What was not probed is absent; a section without codes is there, and empty."""
    outcomes = [
        outcome(Section.ACCESS_URL, ("EACS04", Severity.WARNING), ("XACS06", Severity.ERROR)),
        outcome(Section.WEBSOCKET),
        outcome(Section.DATABASE, off=OffReason.NO_DATABASE),
    ]
    assert {
        probed(Section.ACCESS_URL): frozenset({("EACS04", Severity.WARNING), ("XACS06", Severity.ERROR)}),
        probed(Section.WEBSOCKET): frozenset(),
    } == verdict.observe(outcomes)


def test_witnesses_are_told_apart_and_replicas_are_not() -> None:
    """Coder's report is a place of its own, in which a code stands that one replica reports."""
    slow = ("EDB02", Severity.WARNING)
    outcomes = [
        outcome(Section.DATABASE),
        outcome(Section.DATABASE, witness=Witness.REPORT, replica="coderd-0"),
        outcome(Section.DATABASE, slow, witness=Witness.REPORT, replica="coderd-1"),
        outcome(Section.DERP, off=OffReason.FORBIDDEN, witness=Witness.REPORT, replica="coderd-0"),
    ]
    expected = {probed(Section.DATABASE): frozenset(), reported(Section.DATABASE): frozenset({slow})}
    assert expected == verdict.observe(outcomes)


def test_codes_are_written_worst_first() -> None:
    """Errors come before warnings, and a dash stands for none."""
    observed = frozenset({("EACS04", Severity.WARNING), ("XACS06", Severity.ERROR)})
    assert "XACS06 (error), EACS04 (warning)" == verdict.write_codes(observed)
    assert "-" == verdict.write_codes(frozenset())


def test_the_same_is_as_foreseen() -> None:
    """One line says so, with the severity."""
    seen = {probed(Section.WEBSOCKET): frozenset({("EWS02", Severity.ERROR)})}
    assert ["as foreseen: error"] == list(verdict.compare(seen, seen))


def test_each_difference_is_told() -> None:
    """Another code, another severity and a section that was not probed are named."""
    seen = {
        probed(Section.ACCESS_URL): frozenset({("XACS03", Severity.WARNING)}),
        probed(Section.WEBSOCKET): frozenset({("EWS01", Severity.ERROR)}),
        reported(Section.DERP): frozenset({(UNCODED, Severity.ERROR)}),
    }
    foreseen = {
        probed(Section.ACCESS_URL): frozenset({("XACS03", Severity.ERROR)}),
        probed(Section.WEBSOCKET): frozenset({("EWS01", Severity.ERROR)}),
        probed(Section.DATABASE): frozenset(),
        reported(Section.DERP): frozenset(),
    }
    assert [
        "not as foreseen: error instead of error",
        "  access_url: XACS03 (warning) instead of XACS03 (error)",
        "  database: nothing probed instead of -",
        "  derp, in Coder's report: no code (error) instead of -",
    ] == list(verdict.compare(seen, foreseen))
