"""The table of scenarios."""

from __future__ import annotations

import pytest

from exporter.demo.scenario import HEALTHY, Scenario, probed
from exporter.demo.scenarios import (
    access_url,
    database,
    derp,
    direct_connections,
    exporter,
    provisioner_daemons,
    report,
    table,
    websocket,
    workspace_proxy,
)
from exporter.demo.scenarios.table import SCENARIOS
from exporter.health import codes
from exporter.health.model import UNCODED, Section, Severity, Witness

ALL = list(SCENARIOS.values())
# those that are named after a code; the others are the healthy state and stories
CODED = [known for known in ALL if known.name.isupper()]


def test_every_code_has_a_scenario() -> None:
    """All codes that there are, and no other."""
    known = {code.value for section in codes.CODES.values() for code in section}
    assert known == {played.name for played in CODED}


def test_a_module_holds_its_section() -> None:
    """Scenarios that are named after a code stand in the module of that code's section."""
    modules = {
        "access_url": access_url, "websocket": websocket, "database": database, "workspace_proxy": workspace_proxy,
        "derp": derp, "direct_connections": direct_connections, "provisioner_daemons": provisioner_daemons,
        "report": report, "exporter": exporter,
    }  # fmt: skip
    strangers = [
        (name, played.name)
        for name, module in modules.items()
        for played in module.SCENARIOS
        if played.name not in {code.value for code in codes.CODES[Section(name)]}
    ]
    assert [] == strangers


def test_stories_have_names_that_are_no_codes() -> None:
    """They are in small letters, break something, and have no sentence of a code."""
    stories = [known for known in ALL if known not in CODED and known.name != HEALTHY]
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
    foreseen = [observed for section in sections for observed in [played.foreseen.get(probed(section), ())]]
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


def test_names_are_found_in_any_letter_case() -> None:
    """People type codes as they like."""
    assert SCENARIOS["XWP03"] is table.find("xwp03")
    assert SCENARIOS[HEALTHY] is table.find("Healthy")
    assert table.find("EWP03") is None
