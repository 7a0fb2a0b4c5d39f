"""Coder's report as a witness: the answers of a real server (tests/data/coder) and reports made by hand,
with the exact findings expected.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.errors import Phase, Reason
from exporter.health.coder_report import (
    CodedMessage,
    CoderReport,
    ReportedDaemon,
    ReportedNode,
    ReportedProxy,
    ReportedRegion,
    ReportedSection,
)
from exporter.health.codes import section_codes
from exporter.health.model import REPORT_SECTIONS, Failure, OffReason, Report, Section, Severity, Witness
from exporter.health.report import (
    Refusal,
    ReplicaView,
    ReportResult,
    ReportsResult,
    assess,
    assess_reports,
)
from exporter.health.report_sections import MAX_FOREIGN_CODES
from exporter.health.report_whole import MAX_FOREIGN_SECTIONS
from exporter.net.coder_report import parse_report

DATA = Path(__file__).parent.parent / "data" / "coder"
OK, WARNING, ERROR = Severity
SILENCE = Failure(reason=Reason.TIMEOUT, phase=Phase.PROCESSING, message="no answer within 80 s")

Found = dict[str, list[tuple[str, Severity]]]


def poll(report: CoderReport | None = None, **facts: Any) -> ReportResult:
    return ReportResult(
        **{"name": "coder-0", "report": report, "age_seconds": None if report is None else 1.0, **facts}
    )


def section(name: str = "database", severity: Severity | None = OK, *messages: tuple[str, str], **facts: Any) -> Any:
    told = tuple(CodedMessage(code=code, message=message) for code, message in messages)
    return ReportedSection(name=name, severity=severity, messages=told, **facts)


def report(*sections: ReportedSection, **facts: Any) -> CoderReport:
    return CoderReport(sections=sections, version="v2.26.0", **facts)


def judge(one: ReportedSection, **facts: Any) -> Report:
    return assess(poll(report(one, **facts))).sections[one.name]


def found(told: Report) -> list[tuple[str, Severity]]:
    return [(finding.code, finding.severity) for finding in told.findings]


def found_by_section(result: ReportResult) -> Found:
    return {name: found(told) for name, told in assess(result).sections.items() if told.findings}


def poll_codes(result: ReportResult) -> list[tuple[str, Severity]]:
    return found(assess(result).poll)


DERP_ERROR = [("XDERP01", ERROR)]
WS_ERROR = [("EWS01", ERROR)]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("debug-health-ok", {}),
        ("debug-health-force", {}),
        ("trouble-baseline", {}),
        ("proxies-up-health", {"workspace_proxy": [("", WARNING)]}),
        ("proxies-one-down-health", {"workspace_proxy": [("EWP04", WARNING)]}),
        ("proxies-all-down-health", {"workspace_proxy": [("EWP04", WARNING)]}),
        (
            "trouble-EACS03",
            {"access_url": [("EACS03", ERROR)], "websocket": WS_ERROR, "derp": DERP_ERROR},
        ),
        ("trouble-EACS04", {"access_url": [("EACS04", WARNING)]}),
        ("trouble-EDB02", {"database": [("EDB02", WARNING)]}),
        ("trouble-EDERP01", {"derp": [("EDERP01", WARNING)]}),
        ("trouble-dismissed-EDERP01", {"derp": [("EDERP01", WARNING)]}),
        ("trouble-EPD01", {"provisioner_daemons": [("EPD01", ERROR)]}),
        ("trouble-EPD02", {"provisioner_daemons": [("EPD02", WARNING)]}),
        ("trouble-EPD03", {"provisioner_daemons": [("EPD03", WARNING)]}),
        ("trouble-EUNKNOWN-daemon", {"provisioner_daemons": [("EUNKNOWN", ERROR)]}),
        ("trouble-EWS01", {"websocket": WS_ERROR}),
        ("trouble-ESTUN-silent-reread", {"derp": [("ESTUN01", WARNING), ("", ERROR)]}),
        ("trouble-relay-dead-no-upgrade", {"derp": [("EDERP01", WARNING), *DERP_ERROR], "websocket": WS_ERROR}),
        (
            "trouble-front-500",
            {"access_url": [("EACS04", WARNING)], "websocket": WS_ERROR, "derp": DERP_ERROR},
        ),
        ("trouble-front-login-page", {"websocket": WS_ERROR, "derp": DERP_ERROR}),
        (
            "trouble-front-redirect",
            {"access_url": [("EACS03", ERROR)], "websocket": WS_ERROR, "derp": DERP_ERROR},
        ),
    ],
)
async def test_answers_of_a_real_server(name: str, expected: Found) -> None:
    """Every report of Coder v2.26 has exactly these codes, and none of them leaves an error unnamed."""
    result = poll(await parse_report((DATA / f"{name}.json").read_bytes()))
    assert expected == found_by_section(result)
    assert [] == poll_codes(result)
    assert set(REPORT_SECTIONS) == set(assess(result).sections)


@pytest.mark.parametrize("name", REPORT_SECTIONS)
async def test_a_section_without_its_severity_is_a_crash(name: Section) -> None:
    """Where all others have one, whatever else it says; a newer section that we do not know may have none."""
    known = (ReportedSection(name=name, severity=None, healthy=True), ReportedSection(name="pubsub", severity=OK))
    assert {name: [("", ERROR)]} == found_by_section(poll(CoderReport(sections=known)))
    assert [("XRPT03", ERROR)] == poll_codes(poll(CoderReport(sections=known)))
    assert [("XRPT03", ERROR)] == poll_codes(poll(CoderReport(sections=known[:1], severity=OK, healthy=True)))
    foreign = (ReportedSection(name=name, severity=OK), ReportedSection(name="pubsub", severity=None, healthy=True))
    assert {} == found_by_section(poll(CoderReport(sections=foreign)))
    assert [] == poll_codes(poll(CoderReport(sections=foreign)))


async def test_texts_of_versions_name_both_sides() -> None:
    """EPD03 says the daemon's API version and the server's, of which Coder's text has only the latter."""
    told = assess(poll(await parse_report((DATA / "trouble-EPD03.json").read_bytes()))).sections
    finding = told["provisioner_daemons"].findings[0]
    assert "API version 2.0" in finding.message
    assert "the server has v2.26.0, API major 1" in finding.message
    assert finding.skew


async def test_section_that_warns_silently_is_explained() -> None:
    """A proxy that never registered makes Coder's section a warning without any message."""
    told = assess(poll(await parse_report((DATA / "proxies-up-health.json").read_bytes()))).sections
    assert "proxy never is unregistered" in told["workspace_proxy"].findings[0].message


@pytest.mark.parametrize(
    ("one", "expected", "of_poll"),
    [
        pytest.param(section(), [], [], id="well"),
        pytest.param(section("database", ERROR, ("EDB01", "x"), error="EDB01: x"), [("EDB01", ERROR)], [], id="error"),
        pytest.param(section("database", ERROR, ("EDB02", "x"), error="EDB02: x"), [("EDB02", ERROR)], [], id="worse"),
        pytest.param(
            section("database", None, ("EUNKNOWN", "panic"), error="EUNKNOWN: panic"),
            [("EUNKNOWN", ERROR)],
            [("XRPT03", ERROR)],
            id="panic",
        ),
        pytest.param(section("derp", None, error="boom"), [("", ERROR)], [("XRPT03", ERROR)], id="panic-uncoded"),
        pytest.param(
            section("database", None, severity_text="fatal"), [("", ERROR)], [("XRPT03", ERROR)], id="unknown-word"
        ),
        pytest.param(section("database", None, severity_text="info", healthy=True), [], [], id="unknown-word-healthy"),
        pytest.param(section("database", None, healthy=False), [("", ERROR)], [("XRPT03", ERROR)], id="unhealthy"),
        pytest.param(section("database", None, healthy=True), [], [], id="no-severity-healthy"),
        pytest.param(section("database", None), [], [], id="no-severity"),
        pytest.param(section("database", None, ("", "slow")), [], [], id="plain-text-alone"),
        pytest.param(section("database", WARNING, ("", "slow")), [("", WARNING)], [], id="plain-text-warning"),
        pytest.param(
            section("database", WARNING, ("", "slow"), ("EDB02", "x")), [("EDB02", WARNING)], [], id="text-beside-code"
        ),
        pytest.param(section("database", None, ("EDB02", "x")), [("EDB02", WARNING)], [], id="old-server-coded"),
        pytest.param(section("database", ERROR, error="gone"), [("", ERROR)], [("XRPT07", ERROR)], id="error-uncoded"),
        pytest.param(section("database", ERROR), [("", ERROR)], [("XRPT07", ERROR)], id="error-without-reason"),
        pytest.param(
            section("database", ERROR, ("EDB02", "x"), error="gone"),
            [("EDB02", WARNING), ("", ERROR)],
            [("XRPT07", ERROR)],
            id="error-beside-code",
        ),
        pytest.param(section("database", OK, error="gone"), [("", ERROR)], [("XRPT07", ERROR)], id="ok-with-error"),
        pytest.param(
            section("database", ERROR, ("EDB02", "x")), [("EDB02", WARNING), ("", ERROR)], [], id="error-with-code"
        ),
        pytest.param(
            section("provisioner_daemons", ERROR, ("EPD01", "none")), [("EPD01", ERROR)], [], id="error-as-warning"
        ),
        pytest.param(section("derp", OK, ("ESTUN02", "hard NAT")), [("ESTUN02", OK)], [], id="no-severity-of-code"),
        pytest.param(section("workspace_proxy", WARNING, ("EWP04", "x")), [("EWP04", WARNING)], [], id="EWP04"),
        pytest.param(
            section("workspace_proxy", ERROR, ("EWP04", "x"), error="EWP04: x"),
            [("EWP04", ERROR)],
            [],
            id="EWP04-error",
        ),
        pytest.param(
            section("workspace_proxy", ERROR, ("EWP03", "x"), error="EWP03: x"), [("EWP03", ERROR)], [], id="retired"
        ),
        pytest.param(section("pubsub", WARNING, ("EPUB01", "x")), [("EPUB01", WARNING)], [], id="foreign"),
        pytest.param(section("database", WARNING, ("EDB77", "x")), [("EDB77", WARNING)], [], id="foreign-code"),
        pytest.param(section("database", WARNING, ("<b>", "x")), [("EUNKNOWN", WARNING)], [], id="no-code-at-all"),
        pytest.param(section("derp", WARNING, ("XDERP01", "x")), [("EUNKNOWN", WARNING)], [], id="ours-from-them"),
    ],
)
def test_findings_of_one_section(
    one: ReportedSection, expected: list[tuple[str, Severity]], of_poll: list[tuple[str, Severity]]
) -> None:
    """Codes keep their severity by table and place; what no code explains stands without one."""
    assert expected == found(judge(one))
    assert of_poll == poll_codes(poll(report(one)))


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
    assert [
        "coder-0 reports: mismatched (3 times); 3 of 3 recent daemons have version v2.20.1 (3); the server has v2.26.0"
    ] == [finding.message for finding in told.findings]


def test_message_lists_five_distinct() -> None:
    """One code with many messages joins the first five of them and counts the others."""
    told = judge(section("workspace_proxy", WARNING, *[("EWP04", f"p{n}: bad") for n in range(9)]))
    assert ["coder-0 reports: p0: bad; p1: bad; p2: bad; p3: bad; p4: bad; and 4 more"] == [
        finding.message for finding in told.findings
    ]


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


def test_region_without_reason_is_named_by_the_poll() -> None:
    """A region whose node reports are missing is an error without code: uncoded, and XRPT07."""
    regions = (ReportedRegion(region_id=5, node_count=1, severity=ERROR, error="missing node report"),)
    told = report(section("derp", ERROR), regions=regions)
    assert {"derp": [("", ERROR)]} == found_by_section(poll(told))
    assert "region 5: missing node report" in assess(poll(told)).poll.findings[0].message
    assert [("XRPT07", ERROR)] == poll_codes(poll(told))


def test_sections_that_the_report_lacks_are_not_supported() -> None:
    """An older server has fewer sections: no verdict is made up for the others, which are off."""
    told = assess(poll(report(section()))).sections
    assert {*REPORT_SECTIONS} == set(told)
    assert {"database"} == {name for name, one in told.items() if one.off is None}
    assert {None, OffReason.NOT_SUPPORTED} == {one.off for one in told.values()}
    assert [] == poll_codes(poll(report(section())))


@pytest.mark.parametrize("instead", ["null", "a text", "a list"])
@pytest.mark.parametrize("name", REPORT_SECTIONS)
def test_what_is_no_section_is_a_crash(name: Section, instead: str) -> None:
    """In place of a section stands something else: an error, and none of its codes is over."""
    result = poll(report(section(name, None, instead=instead)))
    told = assess(result).sections[name]
    assert [("", ERROR)] == found(told)
    assert f"no severity, there is {instead}" in told.findings[0].message
    assert set(section_codes(name, Witness.REPORT)) == told.not_judged
    assert [("XRPT03", ERROR)] == poll_codes(result)
    assert f"{name}: no severity, there is {instead}" in assess(result).poll.findings[0].message


def test_a_section_that_is_missing_now_is_a_crash() -> None:
    """An earlier report of this version had it: it is an error, and none of its codes is over."""
    result = poll(report(section("derp")), expected=("database", "derp"))
    told = assess(result).sections
    assert [("", ERROR)] == found(told["database"])
    assert {"EDB01", "EDB02", "EUNKNOWN"} == told["database"].not_judged
    assert (None, []) == (told["derp"].off, found(told["derp"]))
    assert OffReason.NOT_SUPPORTED is told["websocket"].off
    assert [("XRPT03", ERROR)] == poll_codes(result)


def test_foreign_sections_and_codes_are_bounded() -> None:
    """Eight foreign sections and 32 foreign codes pass; further codes become EUNKNOWN."""
    many = [section(f"new{number:02}", OK) for number in range(20)]
    told = assess(poll(report(*many))).sections
    assert [f"new{number:02}" for number in range(MAX_FOREIGN_SECTIONS)] == [
        name for name in told if name not in REPORT_SECTIONS
    ]
    assert [] == poll_codes(poll(report(*many)))
    codes = [(f"ENEW{number:03}", "x") for number in range(50)]
    told = judge(section("new", WARNING, *codes))
    assert MAX_FOREIGN_CODES + 1 == len(told.findings)
    assert ("EUNKNOWN", WARNING) in found(told)


def shown_of(result: ReportResult) -> list[str]:
    return sorted(name for name in assess(result).sections if name not in REPORT_SECTIONS)


def test_the_worst_foreign_sections_are_shown() -> None:
    """What is well gives way to what is not, whatever their names; of equals who was shown before stays."""
    well = [section(f"a{number}") for number in range(8)]
    worse = [section("y", WARNING, ("EY1", "x")), section("z", ERROR, error="gone")]
    result = poll(report(*well, *worse))
    assert ["a0", "a1", "a2", "a3", "a4", "a5", "y", "z"] == shown_of(result)
    assert [("", ERROR)] == found(assess(result).sections["z"])
    before = ("a2", "a3", "a4", "a5", "a6", "a7", "y", "z")
    assert sorted(before) == shown_of(poll(report(*well, section("y"), section("z")), shown=before))
    assert ["a2", "a3", "a4", "a5", "a6", "y", "z", "zz"] == shown_of(
        poll(report(*well, *worse, section("zz", WARNING, ("EZ1", "x"))), shown=before)
    )


def test_errors_of_sections_that_are_not_shown_are_told() -> None:
    """The ninth section with an error is XRPT07, by its name and its codes."""
    many = [section(f"new{number}", ERROR, ("ENEW01", "x"), error="ENEW01: x") for number in range(9)]
    (finding,) = assess(poll(report(*many, severity=ERROR, healthy=False))).poll.findings
    assert ("XRPT07", ERROR) == (finding.code, finding.severity)
    assert "new8 with ENEW01, not shown beside worse ones: ENEW01: x" in finding.message


def test_warnings_of_sections_that_are_not_shown_are_told() -> None:
    """The ninth section that warns is EUNKNOWN, as a warning: its own codes have no place."""
    many = [section(f"new{number}", WARNING, ("ENEW01", "slow")) for number in range(9)]
    (finding,) = assess(poll(report(*many, severity=WARNING))).poll.findings
    assert ("EUNKNOWN", WARNING) == (finding.code, finding.severity)
    assert "new8 with ENEW01, not shown beside worse ones: slow" in finding.message


def test_left_out_sections_take_no_place_of_codes() -> None:
    """The worst sections come first where codes are bounded, too."""
    codes = [(f"ENEW{number:03}", "x") for number in range(MAX_FOREIGN_CODES)]
    told = assess(poll(report(section("a", WARNING, *codes), section("b", ERROR, ("EB1", "x"), error="EB1: x"))))
    assert [("EB1", ERROR)] == found(told.sections["b"])
    assert ("EUNKNOWN", WARNING) in found(told.sections["a"])


@pytest.mark.parametrize(
    ("sections", "overall", "expected"),
    [
        pytest.param([section()], {"severity": OK, "healthy": True}, None, id="well"),
        pytest.param([section()], {"severity": ERROR}, "an error", id="error"),
        pytest.param([section("database", WARNING, ("EDB02", "x"))], {"severity": ERROR}, "an error", id="only-warns"),
        pytest.param(
            [section("database", ERROR, ("EDB01", "x"), error="EDB01: x")],
            {"severity": ERROR, "healthy": False},
            None,
            id="explained",
        ),
        pytest.param([section()], {"severity": OK, "healthy": False}, "unhealthy", id="unhealthy"),
        pytest.param(
            [section("database", OK, healthy=False)],
            {"severity": OK, "healthy": False},
            "unhealthy, but no section says why (database: not healthy, but no trouble)",
            id="unhealthy-section",
        ),
        pytest.param(
            [section("database", WARNING, ("EDB02", "x"))],
            {"severity": WARNING, "healthy": False},
            "unhealthy",
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
    told = assess(poll(report(*sections, **overall))).poll
    assert ([] if expected is None else [("XRPT07", ERROR)]) == found(told)
    assert expected is None or f"Coder calls itself {expected}" in told.findings[0].message


def test_report_seen_before_counts_nothing() -> None:
    """Each section bears the report's own mark, so that a cached one counts once; an outdated one never does.
    The poll itself counts each time."""
    told = report(section("database", WARNING, ("EDB02", "x")), section("derp", None, error="boom"))
    outdated = assess(poll(told, outdated=True, observation=5.0)).sections
    assert {(5.0, False)} == {(one.observation, one.counts) for one in outdated.values()}
    assert {(6.0, True)} == {
        (one.observation, one.counts) for one in assess(poll(told, observation=6.0)).sections.values()
    }
    assert (None, True) == (assess(poll(told, observation=6.0)).poll.observation, assess(poll(told)).poll.counts)
    assert assess(poll(told, distinct=False)).poll.counts
    assert {"XRPT07"} == assess(poll(told, distinct=False)).poll.not_judged


@pytest.mark.parametrize(("refusal", "status"), [(Refusal.SIGNED_OUT, 401), (Refusal.FORBIDDEN, 403)])
def test_refused_token(refusal: Refusal, status: int) -> None:
    """A refusal is XRPT01, and switches all six sections off as forbidden."""
    failure = Failure(reason=Reason.AUTH, phase=Phase.PROCESSING, message="refused")
    result = poll(refusal=refusal, status=status, failure=failure, held_seconds=5.0)
    told = assess(result).poll
    assert [("XRPT01", WARNING)] == found(told)
    assert failure == told.failure
    assert frozenset() == told.not_judged
    assert {name: Report(section=name, off=OffReason.FORBIDDEN) for name in REPORT_SECTIONS} == assess(result).sections


@pytest.mark.parametrize("off", [OffReason.NOT_SUPPORTED, OffReason.NO_TOKEN])
def test_nothing_to_poll(off: OffReason) -> None:
    """A server without the route, or no token: the section report and all six are off for that reason."""
    assert Report(section=Section.REPORT, off=off) == assess(poll(off=off)).poll
    assert {off} == {told.off for told in assess(poll(off=off)).sections.values()}


def test_failed_poll_keeps_what_was_told() -> None:
    """A timeout is XRPT04; it says nothing of the token, nor of the report in hand while that may be told by."""
    result = poll(failure=SILENCE, held_seconds=30.0, attempts=3)
    told = assess(result).poll
    assert [("XRPT04", WARNING)] == found(told)
    assert "after 3 requests: no answer within 80 s" in told.findings[0].message
    assert SILENCE == told.failure
    assert {"XRPT01", "XRPT02", "XRPT03", "XRPT07"} == told.not_judged
    assert {} == assess(result).sections


@pytest.mark.parametrize("held_seconds", [None, 961.0])
def test_nothing_is_kept_of_an_expired_report(held_seconds: float | None) -> None:
    """Once the report in hand is too old, or there never was one, its codes are over."""
    assert {"XRPT01"} == assess(poll(failure=SILENCE, held_seconds=held_seconds)).poll.not_judged


def test_coders_own_failure_is_no_refusal() -> None:
    """Coder's 401 when its database is gone is XRPT04 and switches nothing off."""
    result = poll(internal_error=True, refusal=Refusal.SIGNED_OUT, status=401)
    assert [("XRPT04", WARNING)] == poll_codes(result)
    assert {} == assess(result).sections


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ({"internal_error": True, "status": 500}, "coder-0 is not to be had: Coder itself failed"),
        ({"status": 429}, "coder-0 is not to be had: status 429"),
        ({"name": ""}, "Coder is not to be had: no report came"),
    ],
)
def test_failed_poll_that_does_not_say_why(facts: dict[str, Any], expected: str) -> None:
    """XRPT04 says what little is known, and the run has failed."""
    told = assess(poll(**facts)).poll
    assert [f"the health report of {expected}"] == [finding.message for finding in told.findings]
    assert told.failure is not None


@pytest.mark.parametrize(("age_seconds", "expected"), [(660.0, []), (660.1, [("XRPT02", WARNING)])])
def test_stale_report(age_seconds: float, expected: list[tuple[str, Severity]]) -> None:
    """A report may be as old as the cache lets it become, and a minute."""
    assert expected == poll_codes(poll(report(section()), age_seconds=age_seconds))


def test_age_that_is_not_known() -> None:
    """A report without a time is neither stale nor fresh."""
    assert {"XRPT02"} == assess(poll(report(section()), age_seconds=None)).poll.not_judged


def views(**severities: Severity) -> tuple[ReplicaView, ...]:
    return tuple(ReplicaView(coder_replica=name, severities={"database": one}) for name, one in severities.items())


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        (views(a=OK, b=OK, c=ERROR), "replicas of coderd disagree: database is error to c, but ok to a, b"),
        (views(a=ERROR, b=ERROR, c=OK), "replicas of coderd disagree: database is ok to c, but error to a, b"),
        (views(a=OK, b=ERROR), "replicas of coderd disagree: database is error to b, but ok to a"),
        (views(a=OK, b=WARNING), None),
        (views(a=ERROR, b=ERROR), None),
        (views(a=ERROR), None),
        ((*views(a=ERROR), ReplicaView(coder_replica="b", severities={"derp": OK})), None),
        ((), None),
    ],
)
def test_replicas_that_disagree(seen: tuple[ReplicaView, ...], expected: str | None) -> None:
    """XRPT05 names the odd replica and what it sees, when one of at least two sees an error."""
    told = assess_reports(ReportsResult(views=seen))
    assert ([] if expected is None else [expected]) == [finding.message for finding in told.findings]
    assert {"XRPT05"}.issuperset(finding.code for finding in told.findings)


@pytest.mark.parametrize(("skew_seconds", "expected"), [(None, []), (300.0, []), (301.0, [("XRPT06", WARNING)])])
def test_roll_out_that_is_stuck(skew_seconds: float | None, expected: list[tuple[str, Severity]]) -> None:
    """Skew is a roll-out until the version grace is over."""
    assert expected == found(assess_reports(ReportsResult(skew=("versions differ",), skew_seconds=skew_seconds)))


def test_mutes_that_cannot_be_read_fail_the_run() -> None:
    """Without the mutes the run has failed, though no code is about it."""
    told = assess_reports(ReportsResult(dismissed_failure=SILENCE))
    assert (SILENCE, ()) == (told.failure, told.findings)


TEXTS = st.text(max_size=30) | st.sampled_from(["EDB01: x", "EUNKNOWN: panic", "a\nEWP04: b\nc", ""])
CODES = st.sampled_from(["", "EDB01", "EDB02", "EPD01", "EPD03", "ESTUN02", "EWP04", "EUNKNOWN", "ENEW01", "x"]) | TEXTS
MESSAGES = st.lists(st.builds(CodedMessage, code=CODES, message=TEXTS), max_size=5).map(tuple)
SEVERITIES = st.none() | st.sampled_from(Severity)
NAMES = st.sampled_from([*(one.value for one in Section), "pubsub"]) | st.text(max_size=5)
SECTIONS = st.builds(
    ReportedSection,
    name=NAMES,
    severity=SEVERITIES,
    severity_text=st.sampled_from(["", "ok", "fatal"]),
    healthy=st.none() | st.booleans(),
    instead=st.sampled_from(["", "", "null"]),
    error=st.none() | TEXTS,
    messages=MESSAGES,
)
REPORTS = st.builds(
    CoderReport,
    version=TEXTS,
    sections=st.lists(SECTIONS, max_size=12).map(tuple),
    severity=SEVERITIES,
    healthy=st.none() | st.booleans(),
    proxies=st.none() | st.lists(st.builds(ReportedProxy, id=TEXTS, name=TEXTS, status=TEXTS), max_size=2).map(tuple),
    daemons=st.none()
    | st.lists(
        st.builds(
            ReportedDaemon,
            id=TEXTS,
            name=TEXTS,
            organization_id=TEXTS,
            version=TEXTS,
            api_version=TEXTS,
            messages=MESSAGES,
        ),
        max_size=3,
    ).map(tuple),
    regions=st.none()
    | st.lists(
        st.builds(
            ReportedRegion,
            region_id=st.integers(0, 9),
            node_count=st.integers(0, 5),
            severity=SEVERITIES,
            error=st.none() | TEXTS,
            messages=MESSAGES,
            nodes=st.lists(
                st.builds(ReportedNode, name=TEXTS, can_exchange_messages=st.booleans(), severity=SEVERITIES),
                max_size=3,
            ).map(tuple),
        ),
        max_size=3,
    ).map(tuple),
)


@given(REPORTS, st.booleans())
def test_any_report_is_judged(told: CoderReport, outdated: bool) -> None:
    """Whatever a report says: Coder's word is never made better, a crash is an error, each code comes
    once, and an outdated report counts nothing."""
    result = poll(told, outdated=outdated)
    judged = assess(result).sections
    for name, one in judged.items():
        said = told.section(name)
        if said is None:
            assert OffReason.NOT_SUPPORTED is one.off
            continue
        assert name == one.section
        assert one.severity >= (said.severity or OK)
        if said.severity is None and said.error is not None:
            assert ERROR is one.severity
        codes = [finding.code for finding in one.findings]
        assert sorted(set(codes)) == sorted(codes)
        assert one.not_judged.isdisjoint(codes)
        assert outdated is not one.counts
    assert len(set(judged) - set(REPORT_SECTIONS)) <= MAX_FOREIGN_SECTIONS
    of_poll = [finding.code for finding in assess(result).poll.findings]
    crashed = any(
        one is not None and one.severity is None and one.error is not None for one in map(told.section, judged)
    )
    worst = max((one.severity for one in judged.values()), default=OK)
    assert told.severity is not ERROR or worst is ERROR or "XRPT07" in of_poll
    assert not crashed or "XRPT03" in of_poll
    assert sorted(set(of_poll)) == sorted(of_poll)
