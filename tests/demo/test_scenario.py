"""What a scenario foresees."""

from __future__ import annotations

import pytest

from exporter.demo.scenario import PLACES, Scenario, probed, worst
from exporter.demo.scenarios.table import SCENARIOS
from exporter.health.model import REPORT_SECTIONS, Section, Severity, Witness


@pytest.mark.parametrize("played", SCENARIOS.values(), ids=lambda played: played.name)
def test_without_a_database_its_section_is_off(played: Scenario) -> None:
    """With a database all sections of both witnesses are judged that are on, without one all but that."""
    on = set(PLACES) - played.off
    assert on == set(played.expected(database=True))
    without = on - played.off_without_database - {probed(Section.DATABASE)}
    assert without == set(played.expected(database=False))


def test_both_witnesses_are_judged() -> None:
    """Every section by our probes, and those of Coder's report as it tells them."""
    by_probe = {section for section, witness in PLACES if witness is Witness.PROBE}
    assert set(Section) == by_probe
    assert {*REPORT_SECTIONS} == {section for section, witness in PLACES if witness is Witness.REPORT}


def test_what_may_be_gone_need_not_be_seen() -> None:
    """A report that is not to be had any more is told by for a while: both are as foreseen."""
    played = SCENARIOS["XRPT04"]
    there = played.expected(database=True)
    gone = {place: observed for place, observed in there.items() if place not in played.fading}
    assert gone != there
    assert [there, there] == [played.complete(seen, database=True) for seen in (there, gone)]


@pytest.mark.parametrize(
    ("name", "expected"),
    [("healthy", Severity.OK), ("EDB02", Severity.WARNING), ("XACS06", Severity.ERROR), ("XWP03", Severity.OK)],
)
def test_the_verdict_is_the_worst_that_is_foreseen(name: str, expected: Severity) -> None:
    """One error is enough."""
    assert expected is worst(SCENARIOS[name].foreseen)
