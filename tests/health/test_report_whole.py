"""Coder's report as a whole: which sections are shown, and what is told that stands in none of them."""

from __future__ import annotations

from typing import Any

import pytest

from exporter.health.coder_report import ReportedSection
from exporter.health.model import REPORT_SECTIONS
from exporter.health.report_sections import MAX_FOREIGN_CODES
from exporter.health.report_whole import MAX_FOREIGN_SECTIONS, judge_report
from tests.support.reported import ERROR, OK, WARNING, found, report, section


def test_sections_that_we_know_are_all_shown() -> None:
    """They take no place of others, and one that never was there is not told of."""
    foreign = [section(f"new{number}", ERROR, error="gone") for number in range(MAX_FOREIGN_SECTIONS)]
    told = judge_report(report(*foreign, *map(section, REPORT_SECTIONS)))
    assert {*REPORT_SECTIONS, *(one.name for one in foreign)} == set(told.sections)
    assert {} == judge_report(report()).sections


def test_a_section_that_is_missing_now_is_a_crash() -> None:
    """An earlier report of this version had it: it is an error, and none of its codes is over; of one that we
    do not know it says nothing."""
    told = judge_report(report(section("derp")), expected=("database", "derp", "pubsub"))
    assert {"database", "derp"} == set(told.sections)
    missing = told.sections["database"]
    assert [("", ERROR)] == found(missing)
    assert {"EDB01", "EDB02", "EUNKNOWN"} == missing.not_judged
    crash = "no severity, there is no such section any more, though an earlier report of this version had it"
    assert (crash, None) == (missing.crash, told.sections["derp"].crash)


def test_foreign_sections_are_bounded() -> None:
    """So many pass; of those that are well nothing more is told."""
    many = [section(f"new{number:02}", OK) for number in range(20)]
    told = judge_report(report(*many))
    assert [f"new{number:02}" for number in range(MAX_FOREIGN_SECTIONS)] == list(told.sections)
    assert ((), ()) == (told.unnamed, told.unshown)


def test_the_worst_foreign_sections_are_shown() -> None:
    """What is well gives way to what is not, whatever their names; of equals who was shown before stays."""
    well = [section(f"a{number}") for number in range(8)]
    worse = [section("y", WARNING, ("EY1", "x")), section("z", ERROR, error="gone")]
    told = judge_report(report(*well, *worse))
    assert ["a0", "a1", "a2", "a3", "a4", "a5", "y", "z"] == sorted(told.sections)
    assert [("", ERROR)] == found(told.sections["z"])
    before = ("a2", "a3", "a4", "a5", "a6", "a7", "y", "z")
    assert sorted(before) == sorted(judge_report(report(*well, section("y"), section("z")), shown=before).sections)
    assert ["a2", "a3", "a4", "a5", "a6", "y", "z", "zz"] == sorted(
        judge_report(report(*well, *worse, section("zz", WARNING, ("EZ1", "x"))), shown=before).sections
    )


def test_errors_of_sections_that_are_not_shown_are_told() -> None:
    """The ninth section with an error is XRPT07, by its name and its codes."""
    many = [section(f"new{number}", ERROR, ("ENEW01", "x"), error="ENEW01: x") for number in range(9)]
    told = judge_report(report(*many, severity=ERROR, healthy=False))
    assert ("new8 with ENEW01, not shown beside worse ones: ENEW01: x",) == told.unnamed
    assert () == told.unshown


def test_warnings_of_sections_that_are_not_shown_are_told() -> None:
    """The ninth section that warns is EUNKNOWN, as a warning: its own codes have no place."""
    many = [section(f"new{number}", WARNING, ("ENEW01", "slow")) for number in range(9)]
    told = judge_report(report(*many, severity=WARNING))
    assert ("new8 with ENEW01, not shown beside worse ones: slow",) == told.unshown
    assert () == told.unnamed


def test_left_out_sections_take_no_place_of_codes() -> None:
    """The worst sections come first where codes are bounded, too."""
    codes = [(f"ENEW{number:03}", "x") for number in range(MAX_FOREIGN_CODES)]
    told = judge_report(report(section("a", WARNING, *codes), section("b", ERROR, ("EB1", "x"), error="EB1: x")))
    assert [("EB1", ERROR)] == found(told.sections["b"])
    assert ("EUNKNOWN", WARNING) in found(told.sections["a"])


def test_replicas_share_the_bounds() -> None:
    """What others of the deployment show passes here, too; of the rest only as many as there is room for."""
    elsewhere: dict[str, set[str]] = {f"new{number}": set() for number in range(MAX_FOREIGN_SECTIONS - 1)}
    elsewhere["derp"] = {f"ENEW{number:03}" for number in range(MAX_FOREIGN_CODES - 1)}
    sections = [section("a", WARNING, ("EA1", "x"), ("EA2", "x")), section("b", ERROR, error="gone"), section("new0")]
    told = judge_report(
        report(*sections, section("derp", WARNING, ("ENEW000", "x"), ("EA3", "x"))), elsewhere=elsewhere
    )
    assert {"b", "new0", "derp"} == set(told.sections)
    assert ("a with EA1, EA2, not shown beside worse ones: x",) == told.unshown
    assert ["EA3", "ENEW000"] == sorted(code for code, _ in found(told.sections["derp"]))
    del elsewhere["new6"]
    told = judge_report(report(*sections), elsewhere=elsewhere)
    assert {"a", "b", "new0"} == set(told.sections)
    assert ["EA1", "EUNKNOWN"] == sorted(code for code, _ in found(told.sections["a"]))


@pytest.mark.parametrize(
    ("sections", "overall", "expected"),
    [
        pytest.param([section()], {"severity": OK, "healthy": True}, None, id="well"),
        pytest.param([section()], {"severity": ERROR}, "an error, but no section says why", id="error"),
        pytest.param(
            [section("database", WARNING, ("EDB02", "x"))],
            {"severity": ERROR},
            "an error, but no section says why",
            id="only-warns",
        ),
        pytest.param(
            [section("database", ERROR, ("EDB01", "x"), error="EDB01: x")],
            {"severity": ERROR, "healthy": False},
            None,
            id="explained",
        ),
        pytest.param(
            [section()], {"severity": OK, "healthy": False}, "unhealthy, but no section says why", id="unhealthy"
        ),
        pytest.param(
            [section("database", OK, healthy=False)],
            {"severity": OK, "healthy": False},
            "unhealthy, but no section says why (database: not healthy, but no trouble)",
            id="unhealthy-section",
        ),
        pytest.param(
            [section("database", WARNING, ("EDB02", "x"))],
            {"severity": WARNING, "healthy": False},
            "unhealthy, but no section says why",
            id="unhealthy-though-other-warns",
        ),
        pytest.param(
            [section("database", WARNING, ("EDB02", "x"), healthy=False)],
            {"severity": WARNING, "healthy": False},
            None,
            id="unhealthy-as-its-section",
        ),
        pytest.param(
            [section("access_url", WARNING, ("EACS04", "x"))],
            {"severity": WARNING, "healthy": False},
            None,
            id="access-url-warns",
        ),
        pytest.param([section("pubsub", ERROR, ("EP1", "x"), error="EP1: x")], {"severity": ERROR}, None, id="foreign"),
        pytest.param([section("database", None)], {"healthy": None}, None, id="says-nothing"),
    ],
)
def test_coders_overall_word_is_explained(
    sections: list[ReportedSection], overall: dict[str, Any], expected: str | None
) -> None:
    """When Coder calls the whole bad, and nothing in it explains that, it is an error without a code."""
    told = judge_report(report(*sections, **overall))
    assert (() if expected is None else (f"Coder calls itself {expected}",)) == told.unnamed


def test_few_codes_of_a_section_that_is_not_shown_are_named() -> None:
    """Five of them, by the alphabet, with how many more there are."""
    errors = [section(f"new{number}", ERROR, error="gone") for number in range(MAX_FOREIGN_SECTIONS)]
    codes = [(f"EZ{number}", "") for number in (7, 6, 5, 4, 3, 2, 1)]
    assert ("z with EZ1, EZ2, EZ3, EZ4, EZ5 and 2 more, not shown beside worse ones: no reason",) == judge_report(
        report(*errors, section("z", WARNING, *codes))
    ).unshown
