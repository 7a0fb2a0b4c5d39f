"""Coder's report as a witness, from one poll to its verdict: the answers of a real server (tests/data/coder)
and reports made by hand, with the exact findings expected.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.errors import Phase, Reason
from exporter.health.coder_report import CoderReport, ReportedRegion
from exporter.health.model import REPORT_SECTIONS, Failure, OffReason, Report, Section, Severity
from exporter.health.report import (
    Refusal,
    ReplicaView,
    ReportResult,
    ReportsResult,
    assess,
    assess_reports,
)
from exporter.health.report_whole import MAX_FOREIGN_SECTIONS
from exporter.net.coder_report import parse_report
from tests.support.reported import ERROR, OK, REPORTS, WARNING, found, report, section

DATA = Path(__file__).parent.parent / "data" / "coder"
SILENCE = Failure(reason=Reason.TIMEOUT, phase=Phase.PROCESSING, message="no answer within 80 s")

Found = dict[str, list[tuple[str, Severity]]]


def poll(report: CoderReport | None = None, **facts: Any) -> ReportResult:
    return ReportResult(
        **{"name": "coder-0", "report": report, "age_seconds": None if report is None else 1.0, **facts}
    )


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


def test_a_section_that_is_missing_now_is_a_crash() -> None:
    """The poll knows what an earlier report of this version had: it is an error, not off, and none of its
    codes is over."""
    result = poll(report(section("derp")), expected=("database", "derp"))
    told = assess(result).sections
    assert [("", ERROR)] == found(told["database"])
    assert {"EDB01", "EDB02", "EUNKNOWN"} == told["database"].not_judged
    assert (None, []) == (told["derp"].off, found(told["derp"]))
    assert OffReason.NOT_SUPPORTED is told["websocket"].off
    assert [("XRPT03", ERROR)] == poll_codes(result)


@pytest.mark.parametrize("name", REPORT_SECTIONS)
def test_a_section_that_crashed_is_named_by_the_poll(name: Section) -> None:
    """It is XRPT03 with what stands there, and the run has failed for that reason."""
    result = poll(report(section(name, None, instead="null"), section("pubsub")))
    assert {name: [("", ERROR)]} == found_by_section(result)
    told = assess(result).poll
    assert [("XRPT03", ERROR)] == found(told)
    message = told.findings[0].message
    assert f"sections of Coder's report crashed or have no severity: {name}: no severity, there is null" == message
    assert Failure(reason=Reason.BODY, message=message) == told.failure


EIGHT_IN_ERROR = [section(f"new{number}", ERROR, ("ENEW01", "x"), error="ENEW01: x") for number in range(8)]


@pytest.mark.parametrize(
    ("told", "expected", "message"),
    [
        pytest.param(
            report(section("database", ERROR, error="gone")),
            ("XRPT07", ERROR),
            "Coder's report has errors that no code names: database: gone",
            id="of a section",
        ),
        pytest.param(
            report(section(), severity=ERROR),
            ("XRPT07", ERROR),
            "Coder's report has errors that no code names: Coder calls itself an error, but no section says why",
            id="of the whole",
        ),
        pytest.param(
            report(*EIGHT_IN_ERROR, section("new8", ERROR, error="gone")),
            ("XRPT07", ERROR),
            "Coder's report has errors that no code names: new8, not shown beside worse ones: gone",
            id="not shown",
        ),
        pytest.param(
            report(*EIGHT_IN_ERROR, section("new8", WARNING, ("ENEW01", "slow"))),
            ("EUNKNOWN", WARNING),
            "more sections of Coder's report warn: new8 with ENEW01, not shown beside worse ones: slow",
            id="not shown, warns",
        ),
    ],
)
def test_what_has_no_name_of_its_own_is_told_by_the_poll(
    told: CoderReport, expected: tuple[str, Severity], message: str
) -> None:
    """An error is XRPT07, and fails the run; a warning is EUNKNOWN, and does not."""
    judged = assess(poll(told)).poll
    assert [expected] == found(judged)
    assert message == judged.findings[0].message
    assert (Failure(reason=Reason.BODY, message=message) if expected[1] is ERROR else None) == judged.failure


@pytest.mark.parametrize(("name", "expected"), [("coder-0", "coder-0 reports: x"), ("", "Coder reports: x")])
def test_findings_say_whose_report_it_is(name: str, expected: str) -> None:
    """Each replica tells its own."""
    told = assess(poll(report(section("database", WARNING, ("EDB02", "x"))), name=name)).sections
    assert [expected] == [finding.message for finding in told["database"].findings]


def test_foreign_sections_that_were_shown_before_stay() -> None:
    """A poll says which; the others have to be worse."""
    many = report(*[section(f"new{number}") for number in range(9)])
    foreign = [name for name in assess(poll(many, shown=("new8",))).sections if name not in REPORT_SECTIONS]
    assert ["new8", *(f"new{number}" for number in range(7))] == foreign


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
