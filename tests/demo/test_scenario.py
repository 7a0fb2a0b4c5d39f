"""The table of scenarios."""

from __future__ import annotations

import pytest

from exporter.demo import scenario
from exporter.demo.scenario import SCENARIOS, Scenario
from exporter.health import codes
from exporter.health.model import Section, Severity

ALL = list(SCENARIOS.values())
# those that are named after a code; the others are the healthy state and stories
CODED = [known for known in ALL if known.name.isupper()]


def test_every_code_has_a_scenario() -> None:
    """All codes of the sections that the demo has, but EUNKNOWN, which would be a bug of ours."""
    known = {code.value for section in scenario.SIMULATED for code in codes.CODES[section]}
    assert known - {codes.UNKNOWN} == {played.name for played in CODED}


def test_stories_have_names_that_are_no_codes() -> None:
    """They are in small letters, break something, and have no sentence of a code."""
    stories = [known for known in ALL if known not in CODED and known.name != scenario.HEALTHY]
    assert "half-dead-region" in {story.name for story in stories}
    assert [] == [story.name for story in stories if not story.breaks or story.summary or not story.name.islower()]


def test_what_is_played_changes_something() -> None:
    """Each one breaks something, or says what the configuration says besides."""
    assert [] == [played.name for played in CODED if not played.breaks and not played.settings]


@pytest.mark.parametrize("played", CODED, ids=lambda played: played.name)
def test_a_scenario_foresees_its_own_code(played: Scenario) -> None:
    """The code that names it is among those that are foreseen, in its section."""
    code = codes.find(played.name)
    assert code is not None
    assert played.name in {value for value, _severity in played.foreseen[code.section]}


@pytest.mark.parametrize("played", ALL, ids=lambda played: played.name)
def test_what_is_foreseen_can_be(played: Scenario) -> None:
    """Each foreseen code exists in that section and can have that severity."""
    for foreseen in (played.foreseen, played.without_database or {}):
        for section, observed in foreseen.items():
            allowed = {code.value: code.severities for code in codes.CODES[section]}
            assert observed == {(code, severity) for code, severity in observed if severity in allowed[code]}


@pytest.mark.parametrize("played", ALL, ids=lambda played: played.name)
def test_without_a_database_its_section_is_off(played: Scenario) -> None:
    """With a database all sections are judged that the demo has, without one all but that."""
    assert set(scenario.SIMULATED) == set(played.expected(database=True))
    assert set(scenario.SIMULATED) - {Section.DATABASE} == set(played.expected(database=False))


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
