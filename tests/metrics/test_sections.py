"""Sections: severities and codes before, while and after something is wrong."""

from __future__ import annotations

import pytest

from exporter.health.codes import section_codes
from exporter.health.model import OffReason, Section, Severity
from exporter.health.settle import Policy
from exporter.metrics.sections import render_enabled
from exporter.targets.model import SectionKey
from tests.support.exposition import AT_ONCE, START, World, health, pick

KEY = SectionKey(deployment="prod", section=Section.DATABASE)
NONE = {"ok": 0.0, "warning": 0.0, "error": 0.0}


def make_world(policy: Policy = AT_ONCE) -> World:
    return World(sections=(Section.DATABASE,), policy=policy)


def test_before_the_first_run_codes_are_zero_and_no_severity_is_one() -> None:
    """Every code of the section is there, nothing is measured, nothing claims to be ok."""
    values = make_world().read()
    for name in ("coder_health_code_active", "coder_health_code_observed"):
        assert dict.fromkeys(section_codes(Section.DATABASE), 0.0) == pick(values, name, "code")
    for name in ("coder_health_section_severity", "coder_health_section_observed_severity"):
        assert NONE == pick(values, name, "severity")
    assert pick(values, "coder_health_code_since_timestamp_seconds", "code") == {}
    assert pick(values, "coder_health_section_enabled", "section", "witness", "reason") == {
        ("database", "probe", ""): 1.0
    }


def test_after_a_good_run_the_section_is_ok() -> None:
    """Both severities say ok, settled and raw."""
    world = make_world()
    world.run("prod", Section.DATABASE, {"primary": None})
    for name in ("coder_health_section_severity", "coder_health_section_observed_severity"):
        assert pick(world.read(), name, "severity") == NONE | {"ok": 1.0}


def test_observed_comes_at_once_and_active_when_it_has_settled() -> None:
    """The raw series follow each run; the settled ones, since and target wait for the second."""
    world = make_world(Policy(raise_after=2, clear_after=2, startup_grace_seconds=0.0))
    seen = []
    for codes in (["EDB01"], ["EDB01"], [], []):
        world.run("prod", Section.DATABASE, {"primary": None}, codes=codes)
        values = world.read()
        seen.append(
            (
                pick(values, "coder_health_code_observed", "code")["EDB01"],
                pick(values, "coder_health_code_active", "code")["EDB01"],
                pick(values, "coder_health_section_observed_severity", "severity")["error"],
                pick(values, "coder_health_section_severity", "severity")["error"],
                pick(values, "coder_health_code_since_timestamp_seconds", "code"),
                pick(values, "coder_health_code_target", "code", "target", "severity"),
            )
        )
    since, target = {"EDB01": START + 60.0}, {("EDB01", "primary", "error"): 1.0}
    assert [
        (1.0, 0.0, 1.0, 0.0, {}, {}),
        (1.0, 1.0, 1.0, 1.0, since, target),
        (0.0, 1.0, 0.0, 1.0, since, target),
        (0.0, 0.0, 0.0, 0.0, {}, {}),
    ] == seen


def test_the_worst_target_gives_the_severity_and_each_is_named() -> None:
    """Two targets with the same code in two severities: the section is error, both are named."""
    world = make_world()
    healths = [
        health("prod", Section.DATABASE, "a", codes=["EDB01"], severity=Severity.ERROR),
        health("prod", Section.DATABASE, "b", codes=["EDB02"], severity=Severity.WARNING),
    ]
    world.board.show(world.snapshot.commit("prod/database", healths, now=START, elapsed_seconds=0.0))
    values = world.read()
    assert pick(values, "coder_health_section_severity", "severity") == NONE | {"error": 1.0}
    assert pick(values, "coder_health_code_target", "code", "target", "severity") == {
        ("EDB01", "a", "error"): 1.0,
        ("EDB02", "b", "warning"): 1.0,
    }


def test_a_code_that_was_not_declared_is_shown_while_it_is_there() -> None:
    """A code from elsewhere has its series while it is observed or active, and none after."""
    world = make_world()
    world.run("prod", Section.DATABASE, {"primary": None}, codes=["EXYZ01"])
    values = world.read()
    assert pick(values, "coder_health_code_active", "code")["EXYZ01"] == 1.0
    assert pick(values, "coder_health_code_observed", "code")["EXYZ01"] == 1.0
    world.run("prod", Section.DATABASE, {"primary": None})
    assert "EXYZ01" not in pick(world.read(), "coder_health_code_active", "code")


@pytest.mark.parametrize("reason", list(OffReason))
def test_a_section_that_is_off_says_so_and_why(reason: OffReason) -> None:
    """0 with the reason: one series a section and witness."""
    wanted = (
        'coder_health_section_enabled{deployment="prod",section="database",witness="probe",'
        f'reason="{reason.value}"}} 0.0\n'
    )
    assert wanted == render_enabled(KEY, reason)["coder_health_section_enabled"]
