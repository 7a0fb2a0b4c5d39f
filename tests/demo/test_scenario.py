"""The table of scenarios."""

from __future__ import annotations

import pytest

from exporter.demo import scenario
from exporter.demo.scenario import SCENARIOS, Scenario
from exporter.health import codes
from exporter.health.model import REPORT_SECTIONS, UNCODED, Section, Severity, Witness

ALL = list(SCENARIOS.values())
# those that are named after a code; the others are the healthy state and stories
CODED = [known for known in ALL if known.name.isupper()]


def test_every_code_has_a_scenario() -> None:
    """All codes that there are, but those of which it is said why not."""
    known = {code.value for section in codes.CODES.values() for code in section}
    assert known - scenario.NOT_SIMULATED.keys() == {played.name for played in CODED}


def test_what_is_not_simulated_has_a_reason() -> None:
    """Each such code exists, and a sentence says why it cannot be played."""
    assert [] == [code for code, why in scenario.NOT_SIMULATED.items() if codes.find(code) is None or len(why) < 20]


def test_stories_have_names_that_are_no_codes() -> None:
    """They are in small letters, break something, and have no sentence of a code."""
    stories = [known for known in ALL if known not in CODED and known.name != scenario.HEALTHY]
    assert "half-dead-region" in {story.name for story in stories}
    broken = [story for story in stories if story.breaks or story.of_configuration]
    assert stories == broken
    assert [] == [story.name for story in stories if story.summary or not story.name.islower()]


def test_what_is_played_changes_something() -> None:
    """Each one breaks something, or says what the configuration says besides."""
    assert [] == [played.name for played in CODED if not played.breaks and not played.settings]


@pytest.mark.parametrize("played", CODED, ids=lambda played: played.name)
def test_a_scenario_foresees_its_own_code(played: Scenario) -> None:
    """The code that names it is among those that are foreseen, in its section."""
    sections = [section for section, known in codes.CODES.items() if played.name in {code.value for code in known}]
    foreseen = [observed for section in sections for observed in [played.foreseen.get(scenario.probed(section), ())]]
    assert played.name in {value for observed in foreseen for value, _severity in observed}


@pytest.mark.parametrize("played", ALL, ids=lambda played: played.name)
def test_what_is_foreseen_can_be(played: Scenario) -> None:
    """Each foreseen code exists in that section for that witness and can have that severity."""
    for foreseen in (played.foreseen, played.without_database or {}, played.inside):
        for (section, witness), observed in foreseen.items():
            allowed = {code.value: code.severities for code in codes.CODES[Section(section)]}
            if witness is Witness.REPORT:
                allowed = {code: allowed[code] for code in codes.section_codes(Section(section), witness)}
                allowed[UNCODED] = (Severity.WARNING, Severity.ERROR)
            assert observed == {(code, severity) for code, severity in observed if severity in allowed[code]}


@pytest.mark.parametrize("played", ALL, ids=lambda played: played.name)
def test_the_reports_own_troubles_are_our_probes(played: Scenario) -> None:
    """What Coder reports is foreseen as its own witness's, and nothing else is."""
    assert {Witness.PROBE} >= {witness for _section, witness in {**played.foreseen, **(played.without_database or {})}}
    assert {Witness.REPORT} >= {witness for _section, witness in played.inside}


@pytest.mark.parametrize("played", ALL, ids=lambda played: played.name)
def test_without_a_database_its_section_is_off(played: Scenario) -> None:
    """With a database all sections of both witnesses are judged that are on, without one all but that."""
    on = set(scenario.PLACES) - played.off
    assert on == set(played.expected(database=True))
    without = on - played.off_without_database - {scenario.probed(Section.DATABASE)}
    assert without == set(played.expected(database=False))


def test_both_witnesses_are_judged() -> None:
    """Every section by our probes, and those of Coder's report as it tells them."""
    by_probe = {section for section, witness in scenario.PLACES if witness is Witness.PROBE}
    assert set(Section) == by_probe
    assert {*REPORT_SECTIONS} == {section for section, witness in scenario.PLACES if witness is Witness.REPORT}


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
    assert expected is scenario.worst(SCENARIOS[name].foreseen)


def test_names_are_found_in_any_letter_case() -> None:
    """People type codes as they like."""
    assert SCENARIOS["XWP03"] is scenario.find("xwp03")
    assert SCENARIOS[scenario.HEALTHY] is scenario.find("Healthy")
    assert scenario.find("EWP03") is None
