"""One section of Coder's report: what it says, what its codes explain, and what is left to say in words."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given

from exporter.health.coder_report import CodedMessage, CoderReport, ReportedDaemon, ReportedProxy, ReportedSection
from exporter.health.codes import section_codes
from exporter.health.model import REPORT_SECTIONS, Section, Severity, Witness
from exporter.health.report_sections import (
    MAX_FOREIGN_CODES,
    ForeignCodes,
    SectionVerdict,
    judge_section,
    rate_section,
)
from exporter.net.coder_report import parse_report
from tests.support.reported import ERROR, OK, SECTIONS, WARNING, found, report, section

DATA = Path(__file__).parent.parent / "data" / "coder"


def judge(one: ReportedSection, **facts: Any) -> SectionVerdict:
    """Judge the only section of a report."""
    return judge_section(one, report(one, **facts), ForeignCodes())


async def judge_recorded(name: str, wanted: Section) -> SectionVerdict:
    """Judge a section of what a real server answered."""
    told = await parse_report((DATA / f"{name}.json").read_bytes())
    one = told.section(wanted)
    assert one is not None
    return judge_section(one, told, ForeignCodes())


@pytest.mark.parametrize(
    ("one", "expected", "beside"),
    [
        pytest.param(section(), [], {}, id="well"),
        pytest.param(section("database", ERROR, ("EDB01", "x"), error="EDB01: x"), [("EDB01", ERROR)], {}, id="error"),
        pytest.param(section("database", ERROR, ("EDB02", "x"), error="EDB02: x"), [("EDB02", ERROR)], {}, id="worse"),
        pytest.param(
            section("database", None, ("EUNKNOWN", "panic"), error="EUNKNOWN: panic"),
            [("EUNKNOWN", ERROR)],
            {"crash": "no severity, EUNKNOWN: panic"},
            id="panic",
        ),
        pytest.param(
            section("derp", None, error="boom"), [("", ERROR)], {"crash": "no severity, boom"}, id="panic-uncoded"
        ),
        pytest.param(
            section("database", None, severity_text="fatal"),
            [("", ERROR)],
            {"crash": "severity 'fatal'"},
            id="unknown-word",
        ),
        pytest.param(section("database", None, severity_text="info", healthy=True), [], {}, id="unknown-word-healthy"),
        pytest.param(
            section("database", None, healthy=False),
            [("", ERROR)],
            {"crash": "no severity, not healthy"},
            id="unhealthy",
        ),
        pytest.param(section("database", None, healthy=True), [], {}, id="no-severity-healthy"),
        pytest.param(section("database", None), [], {}, id="no-severity"),
        pytest.param(section("database", None, ("", "slow")), [], {}, id="plain-text-alone"),
        pytest.param(section("database", WARNING, ("", "slow")), [("", WARNING)], {}, id="plain-text-warning"),
        pytest.param(
            section("database", WARNING, ("", "slow"), ("EDB02", "x")), [("EDB02", WARNING)], {}, id="text-beside-code"
        ),
        pytest.param(section("database", None, ("EDB02", "x")), [("EDB02", WARNING)], {}, id="old-server-coded"),
        pytest.param(
            section("database", ERROR, error="gone"),
            [("", ERROR)],
            {"unnamed": ("database: gone",)},
            id="error-uncoded",
        ),
        pytest.param(
            section("database", ERROR),
            [("", ERROR)],
            {"unnamed": ("database: error without a reason",)},
            id="error-without-reason",
        ),
        pytest.param(
            section("database", ERROR, ("EDB02", "x"), error="gone"),
            [("EDB02", WARNING), ("", ERROR)],
            {"unnamed": ("database: gone",)},
            id="error-beside-code",
        ),
        pytest.param(
            section("database", OK, error="gone"), [("", ERROR)], {"unnamed": ("database: gone",)}, id="ok-with-error"
        ),
        pytest.param(
            section("database", ERROR, ("EDB02", "x")), [("EDB02", WARNING), ("", ERROR)], {}, id="error-with-code"
        ),
        pytest.param(
            section("provisioner_daemons", ERROR, ("EPD01", "none")), [("EPD01", ERROR)], {}, id="error-as-warning"
        ),
        pytest.param(section("derp", OK, ("ESTUN02", "hard NAT")), [("ESTUN02", OK)], {}, id="no-severity-of-code"),
        pytest.param(section("workspace_proxy", WARNING, ("EWP04", "x")), [("EWP04", WARNING)], {}, id="EWP04"),
        pytest.param(
            section("workspace_proxy", ERROR, ("EWP04", "x"), error="EWP04: x"),
            [("EWP04", ERROR)],
            {},
            id="EWP04-error",
        ),
        pytest.param(
            section("workspace_proxy", ERROR, ("EWP03", "x"), error="EWP03: x"), [("EWP03", ERROR)], {}, id="retired"
        ),
        pytest.param(section("pubsub", WARNING, ("EPUB01", "x")), [("EPUB01", WARNING)], {}, id="foreign"),
        pytest.param(section("database", WARNING, ("EDB77", "x")), [("EDB77", WARNING)], {}, id="foreign-code"),
        pytest.param(section("database", WARNING, ("<b>", "x")), [("EUNKNOWN", WARNING)], {}, id="no-code-at-all"),
        pytest.param(section("derp", WARNING, ("XDERP01", "x")), [("EUNKNOWN", WARNING)], {}, id="ours-from-them"),
    ],
)
def test_findings_of_one_section(
    one: ReportedSection, expected: list[tuple[str, Severity]], beside: dict[str, Any]
) -> None:
    """Codes keep their severity by table and place; what no code explains stands without one, and is told
    in words beside: as a crash (XRPT03) or as an error without a name (XRPT07)."""
    told = judge(one)
    assert expected == found(told)
    assert {"crash": None, "unnamed": ()} | beside == {"crash": told.crash, "unnamed": told.unnamed}


@pytest.mark.parametrize("name", REPORT_SECTIONS)
def test_a_section_without_its_severity_is_a_crash(name: Section) -> None:
    """Where all others have one, whatever else it says; a newer section that we do not know may have none."""
    known, pubsub = section(name, None, healthy=True), section("pubsub")
    for others in (CoderReport(sections=(known, pubsub)), CoderReport(sections=(known,), severity=OK, healthy=True)):
        told = judge_section(known, others, ForeignCodes())
        assert ([("", ERROR)], "no severity") == (found(told), told.crash)
    foreign = section("pubsub", None, healthy=True)
    told = judge_section(foreign, CoderReport(sections=(section(name), foreign)), ForeignCodes())
    assert ([], None, ()) == (found(told), told.crash, told.unnamed)


@pytest.mark.parametrize("instead", ["null", "a text", "a list"])
@pytest.mark.parametrize("name", REPORT_SECTIONS)
def test_what_is_no_section_is_a_crash(name: Section, instead: str) -> None:
    """In place of a section stands something else: an error, and none of its codes is over."""
    told = judge(section(name, None, instead=instead))
    assert [("", ERROR)] == found(told)
    assert f"error that no code explains: no severity, there is {instead}" == told.findings[0].message
    assert set(section_codes(name, Witness.REPORT)) == told.not_judged
    assert (f"no severity, there is {instead}", ()) == (told.crash, told.unnamed)


def test_broken_off_section_leaves_codes_as_they_are() -> None:
    """A section that panicked says nothing about its codes; a warning in good order says all."""
    assert {"EDB01", "EDB02"} == judge(
        section("database", None, ("EUNKNOWN", "panic"), error="EUNKNOWN: panic")
    ).not_judged
    assert frozenset() == judge(section("database", WARNING, ("EDB02", "x"))).not_judged
    assert {"EWP02", "EWP04"} == judge(section("workspace_proxy", WARNING, ("EWP01", "x"))).not_judged


def test_derp_without_regions_is_not_judged_by_us() -> None:
    """Without node reports our own codes stay as they are."""
    assert {"XDERP01", "XDERP02", "XSTUN01"} == judge(section("derp")).not_judged
    assert frozenset() == judge(section("derp"), regions=()).not_judged


async def test_section_that_warns_silently_is_explained() -> None:
    """A proxy that never registered makes Coder's section a warning without any message."""
    finding = (await judge_recorded("proxies-up-health", Section.WORKSPACE_PROXY)).findings[0]
    assert "proxy never is unregistered" in finding.message


async def test_texts_of_versions_name_both_sides() -> None:
    """EPD03 says the daemon's API version and the server's, of which Coder's text has only the latter."""
    finding = (await judge_recorded("trouble-EPD03", Section.PROVISIONER_DAEMONS)).findings[0]
    assert "API version 2.0" in finding.message
    assert "the server has v2.26.0, API major 1" in finding.message
    assert finding.skew


def test_repeated_messages_are_counted() -> None:
    """Coder says the same once a daemon: one finding says how often, and which versions there are."""
    daemons = tuple(
        ReportedDaemon(
            id=str(number),
            name=f"d{number}",
            organization_id="o",
            version="v2.20.1",
            api_version="1.0",
            messages=(CodedMessage(code="EPD02", message=f"Mismatched version {number}"),),
        )
        for number in range(3)
    )
    told = judge(section("provisioner_daemons", WARNING, *[("EPD02", "mismatched")] * 3), daemons=daemons)
    assert ["mismatched (3 times); 3 of 3 recent daemons have version v2.20.1 (3); the server has v2.26.0"] == [
        finding.message for finding in told.findings
    ]


def test_message_lists_five_distinct() -> None:
    """One code with many messages joins the first five of them and counts the others."""
    told = judge(section("workspace_proxy", WARNING, *[("EWP04", f"p{n}: bad") for n in range(9)]))
    assert ["p0: bad; p1: bad; p2: bad; p3: bad; p4: bad; and 4 more"] == [finding.message for finding in told.findings]


@pytest.mark.parametrize(
    ("texts", "errors", "expected"),
    [
        (["eu: version v2.25.0 differs"], (), True),
        (["eu: version v2.25.0 differs", "us: slow"], (), False),
        (["version-eu: slow"], (), False),
        (["eu: version v2.25.0 differs"], ("unexpected version",), False),
    ],
)
def test_proxy_warnings_wait_only_when_all_are_about_versions(
    texts: list[str], errors: tuple[str, ...], expected: bool
) -> None:
    """EWP04 is skew when every message warns of versions; a proxy's name and an error say nothing of it."""
    proxies = (ReportedProxy(id="1", name="eu", status="ok", errors=errors),)
    told = judge(section("workspace_proxy", WARNING, *[("EWP04", text) for text in texts]), proxies=proxies)
    assert [expected] == [finding.skew for finding in told.findings]


def test_foreign_codes_are_bounded() -> None:
    """So many codes that we do not know pass; further ones become EUNKNOWN, and say what they were."""
    told = judge(section("new", WARNING, *[(f"ENEW{number:03}", "x") for number in range(50)]))
    assert MAX_FOREIGN_CODES + 1 == len(told.findings)
    assert ("EUNKNOWN", WARNING) in found(told)
    (unknown,) = (finding for finding in told.findings if finding.code == "EUNKNOWN")
    assert f"ENEW{MAX_FOREIGN_CODES:03}: x; " in unknown.message


def test_what_passes_takes_one_place() -> None:
    """A code that passed for a section passes again; our own take no place, and what is no code never passes."""
    passing = ForeignCodes()
    assert "EDB01" == passing.admit("database", "EDB01")
    codes = [f"ENEW{number:03}" for number in range(MAX_FOREIGN_CODES)]
    for _ in range(2):
        assert codes == [passing.admit("new", code) for code in codes]
    assert "EUNKNOWN" == passing.admit("new", "EDB01")
    assert ("EUNKNOWN", "EDB02") == (passing.admit("database", codes[0]), passing.admit("database", "EDB02"))
    assert ["EUNKNOWN"] * 4 == [ForeignCodes().admit("new", code) for code in ("", "enew01", "ENEW0001", "XNEW01")]


@given(SECTIONS)
def test_an_unknown_section_is_rated_as_it_is_judged(one: ReportedSection) -> None:
    """Which of them are shown goes by how bad they will be found."""
    foreign = replace(one, name="pubsub")
    assert judge(foreign).severity is rate_section(foreign)
