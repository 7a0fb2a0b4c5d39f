"""The judgement of the access URL, as tables."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from exporter.errors import Phase, Reason
from exporter.health.access_url import (
    AccessURLResult,
    CertificateDates,
    FamilyAttempt,
    Identity,
    URLProblem,
    assess,
)
from exporter.health.model import Failure, Report

DAY = 86400.0
NOW = 1_795_000_000.0
CODER = Identity(deployment_id="d0b4", access_url_host="coder.example.com", version="v2.26.0", workspace_proxy=False)


def attempt(family: str = "ipv4", **facts: Any) -> FamilyAttempt:
    good = {"status": 200, "body_ok": True, "coder_version": "v2.26.0"}
    return FamilyAttempt(family=family, address="192.0.2.1", phase_seconds={Phase.CONNECT: 0.001}, **(good | facts))


def lost(family: str = "ipv4", reason: Reason = Reason.REFUSED, **facts: Any) -> FamilyAttempt:
    return attempt(
        family,
        status=None,
        body_ok=False,
        coder_version=None,
        failure=Failure(reason=reason, phase=Phase.CONNECT, message="connection refused"),
        **facts,
    )


def redirect(location: str, host: str | None) -> FamilyAttempt:
    return attempt(status=302, body_ok=False, location=location, redirect_host=host)


def judge(*attempts: FamilyAttempt, **facts: Any) -> Report:
    defaults = {
        "host": "coder.example.com",
        "attempts": attempts,
        "says_coder": True,
        "identity": CODER,
        "expected_deployment_id": "d0b4",
        "phase_seconds": {},
        "measured_timestamp_seconds": NOW,
    }
    result = AccessURLResult(**(defaults | facts))
    return assess(result, certificate_warning_seconds=14 * DAY, certificate_error_seconds=2 * DAY)


def seen(report: Report) -> dict[str, str]:
    return {finding.code: finding.severity.label for finding in report.findings}


@pytest.mark.parametrize(
    ("given", "expected", "reason"),
    [
        (attempt(), {}, None),
        (lost(), {"EACS03": "error"}, Reason.REFUSED),
        (lost(reason=Reason.TLS), {"EACS03": "error"}, Reason.TLS),
        (attempt(status=204, body_ok=False), {"EACS04": "warning"}, None),
        (attempt(status=404, body_ok=False), {"EACS04": "warning", "XACS06": "error"}, Reason.STATUS),
        (attempt(status=503, body_ok=False), {"EACS04": "warning", "XACS06": "error"}, Reason.STATUS),
        (attempt(body_ok=False), {"XACS01": "error"}, Reason.BODY),
        (redirect("/login", None), {"XACS02": "warning"}, None),
        (
            attempt(
                status=301, body_ok=False, location="https://coder.example.com/x", redirect_host="coder.example.com"
            ),
            {"XACS02": "warning"},
            None,
        ),
        (
            attempt(status=302, body_ok=False, location="https://sso.example.org/", redirect_host="sso.example.org"),
            {"XACS02": "error"},
            Reason.STATUS,
        ),
        (attempt(status=304, body_ok=False), {"EACS04": "warning"}, None),
        (
            attempt(body_ok=False, failure=Failure(reason=Reason.PROTOCOL, message="the body broke off")),
            {"EACS03": "error"},
            Reason.PROTOCOL,
        ),
    ],
)
def test_one_answer(given: FamilyAttempt, expected: dict[str, str], reason: Reason | None) -> None:
    """Each kind of answer has its codes, and fails the run when one of them is an error."""
    report = judge(given)
    assert expected == seen(report)
    assert reason == (report.failure.reason if report.failure else None)


@pytest.mark.parametrize(
    ("problem", "code"), [(URLProblem.MISSING, "EACS01"), (URLProblem.INVALID, "EACS02"), (None, "EACS03")]
)
def test_trouble_before_any_connection(problem: URLProblem | None, code: str) -> None:
    """No URL, an invalid one, and a name without addresses are three codes."""
    failure = Failure(reason=Reason.RESOLVE, phase=Phase.RESOLVE, message="nothing to connect to")
    report = judge(url_problem=problem, failure=failure)
    assert {code: "error"} == seen(report)
    assert {"XACS03", "XACS05", "XACS07"} == report.not_judged


def test_a_foreign_server_is_not_coder() -> None:
    """A 200 with which nothing says Coder is XACS04, beside XACS01 when the body is wrong."""
    assert {"XACS01", "XACS04"} == set(seen(judge(attempt(body_ok=False, coder_version=None), says_coder=False)))
    assert {"XACS04"} == set(seen(judge(attempt(coder_version=None), says_coder=False)))
    assert set() == set(seen(judge(attempt(coder_version=None), says_coder=None)))


@pytest.mark.parametrize(
    ("attempts", "expected"),
    [
        ((attempt("ipv6"), attempt("ipv4")), set()),
        ((lost("ipv6"), attempt("ipv4")), {"XACS07"}),
        ((attempt("ipv6"), lost("ipv4")), {"XACS07"}),
        ((attempt("ipv6", status=502, body_ok=False), attempt("ipv4")), {"XACS07"}),
        ((lost("ipv6"), lost("ipv4")), {"EACS03"}),
        ((lost("ipv6", no_route=True), attempt("ipv4")), set()),  # our own network lacks IPv6
        ((lost("ipv6", no_route=True), lost("ipv4")), {"EACS03"}),
        ((lost("ipv6"), attempt("ipv4", status=500, body_ok=False)), {"EACS04", "XACS06"}),
    ],
)
def test_two_families(attempts: tuple[FamilyAttempt, ...], expected: set[str]) -> None:
    """One of two families down is XACS07; EACS03 only when all fail."""
    assert expected == set(seen(judge(*attempts)))


@pytest.mark.parametrize("refused", ["ipv4", "ipv6"])
def test_the_family_that_came_furthest_tells_of_the_outage(refused: str) -> None:
    """A name also has an address where nobody ever listened: when the other family breaks at TLS, that is
    what broke, whichever family is asked first."""
    other = "ipv6" if refused == "ipv4" else "ipv4"
    at_tls = replace(
        lost(other), failure=Failure(reason=Reason.TLS, phase=Phase.TLS, message="the certificate has expired")
    )
    for attempts in ((lost(refused), at_tls), (at_tls, lost(refused))):
        report = judge(*attempts, says_coder=None, identity=None)
        assert Phase.TLS == (report.failure and report.failure.phase)
        assert ["the certificate has expired"] == [
            finding.message for finding in report.findings if finding.code == "EACS03"
        ]


@pytest.mark.parametrize(
    ("lifetime", "left", "expected"),
    [
        (90 * DAY, 15 * DAY, None),
        (90 * DAY, 14 * DAY, "warning"),
        (90 * DAY, 2 * DAY + 1, "warning"),
        (90 * DAY, 2 * DAY, "error"),
        (90 * DAY, -1.0, "error"),
        (6 * DAY, 2 * DAY + 1, None),  # a third of six days
        (6 * DAY, 2 * DAY, "warning"),
        (6 * DAY, 0.6 * DAY, "error"),  # a tenth
    ],
)
def test_certificates_end(lifetime: float, left: float, expected: str | None) -> None:
    """Limits are 14 and 2 days, or a third and a tenth of a shorter lifetime."""
    dates = CertificateDates(not_before_timestamp_seconds=NOW + left - lifetime, not_after_timestamp_seconds=NOW + left)
    assert expected == seen(judge(attempt(certificate=dates))).get("XACS03")
    long = CertificateDates(not_before_timestamp_seconds=NOW, not_after_timestamp_seconds=NOW + 1000 * DAY)
    chain = judge(attempt(certificate=long, chain_certificate=dates))
    assert expected == seen(chain).get("XACS03")


def test_an_expired_certificate_stands_beside_the_failed_handshake() -> None:
    """The dates are judged also when verification failed."""
    dates = CertificateDates(not_before_timestamp_seconds=NOW - 90 * DAY, not_after_timestamp_seconds=NOW - DAY)
    report = judge(lost(reason=Reason.TLS, certificate=dates))
    assert {"EACS03": "error", "XACS03": "error"} == seen(report)
    assert "expired 24.0 hours ago" in report.findings[1].message


@pytest.mark.parametrize(
    ("identity", "words"),
    [
        (CODER, None),
        (replace(CODER, deployment_id="ffff"), "ffff"),
        (replace(CODER, access_url_host="other.example.com"), "other"),
        (replace(CODER, access_url_host="primary.example.com", workspace_proxy=True), "workspace proxy"),
        (replace(CODER, deployment_id=None, access_url_host=None), None),
    ],
)
def test_another_deployment_answers(identity: Identity, words: str | None) -> None:
    """Another deployment id, another access URL and a proxy are XACS05, with words that say which."""
    report = judge(attempt(), identity=identity)
    assert ({"XACS05": "warning"} if words else {}) == seen(report)
    assert words is None or words in report.findings[0].message


def test_the_facts_shown_are_those_of_the_better_family() -> None:
    """A good answer stands for the run before one that failed."""
    result = AccessURLResult(
        host="h", attempts=(lost("ipv6"), attempt("ipv4")), phase_seconds={}, measured_timestamp_seconds=NOW
    )
    assert result.best is not None
    assert "ipv4" == result.best.family


def test_plain_http_has_no_certificate_to_judge() -> None:
    """Without TLS a certificate that was about to end is over; with TLS it is only not seen."""
    assert "XACS03" not in judge(attempt(), tls=False).not_judged
    assert "XACS03" in judge(lost(), tls=True).not_judged


def test_nobody_knows_who_it_is_while_nobody_can_be_asked() -> None:
    """XACS04 stays as it is while build info gives no answer in good order."""
    assert "XACS04" in judge(attempt(coder_version=None), says_coder=None).not_judged
    assert "XACS04" not in judge(attempt()).not_judged


def test_the_dot_of_the_root_makes_no_other_host() -> None:
    """A trailing dot in the URL is no other name."""
    assert {} == seen(judge(attempt(), host="coder.example.com."))
