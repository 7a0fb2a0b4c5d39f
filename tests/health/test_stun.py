"""The judgement of STUN servers, as tables."""

from __future__ import annotations

from typing import Any

import pytest

from exporter.errors import Phase, Reason
from exporter.health import codes
from exporter.health.model import Failure, Section
from exporter.health.stun import StunAttempt, StunResult, assess_stun

SILENT = Failure(reason=Reason.TIMEOUT, phase=Phase.PROCESSING, message="no answer in 3.0 s")
REFUSED = Failure(reason=Reason.REFUSED, phase=Phase.PROCESSING, message="the port is closed")
NO_NAME = Failure(reason=Reason.RESOLVE, phase=Phase.RESOLVE, message="no such name")
NO_ROUTE = Failure(reason=Reason.UNREACHABLE, phase=Phase.CONNECT, message="network is unreachable")

ANSWERED = StunAttempt(family="ipv4", address="198.51.100.1", round_trip_seconds=0.02, attempts=1)
UNANSWERED = StunAttempt(family="ipv4", address="198.51.100.1", attempts=4, failure=SILENT)
CLOSED = StunAttempt(family="ipv6", address="2001:db8::1", attempts=1, failure=REFUSED)
UNROUTED = StunAttempt(family="ipv6", address="2001:db8::1", no_route=True, failure=NO_ROUTE)


def server(*attempts: StunAttempt, **facts: Any) -> StunResult:
    return StunResult(
        region_id=1000,
        region_name="STUN",
        node="1000stun0",
        host="stun.example.com",
        port=3478,
        attempts=attempts,
        **facts,
    )


@pytest.mark.parametrize("others_answer", [True, False])
@pytest.mark.parametrize(
    ("attempts", "lookup", "failure"),
    [
        ((ANSWERED,), None, None),
        ((ANSWERED, UNROUTED), None, None),
        ((ANSWERED, CLOSED), None, None),  # one family is enough
        ((UNANSWERED,), None, SILENT),
        ((CLOSED,), None, REFUSED),
        ((UNANSWERED, CLOSED), None, SILENT),
        ((UNROUTED, UNANSWERED), None, SILENT),  # what this host lacks is not told of the server
        ((), NO_NAME, NO_NAME),
    ],
)
def test_a_server_fails_when_no_family_is_answered(
    attempts: tuple[StunAttempt, ...], lookup: Failure | None, failure: Failure | None, others_answer: bool
) -> None:
    """It has failed in any case, and has XSTUN01 only while another server answers."""
    report = assess_stun(server(*attempts, failure=lookup, others_answer=others_answer))
    assert Section.DERP is report.section
    assert failure == report.failure
    expected = ["XSTUN01"] if failure is not None and others_answer else []
    assert expected == [finding.code for finding in report.findings]
    assert frozenset() == report.not_judged


@pytest.mark.parametrize("given", [server(UNROUTED, failure=NO_ROUTE, others_answer=True), server(others_answer=True)])
def test_nothing_is_said_of_a_server_that_could_not_be_asked(given: StunResult) -> None:
    """Without a route to any of its addresses, or with both families off, it neither fails nor is judged."""
    report = assess_stun(given)
    assert (None, (), frozenset({"XSTUN01"})) == (report.failure, report.findings, report.not_judged)


def test_the_message_names_the_server_and_what_came() -> None:
    """A person reads which server it is and why; the severity is the code's own."""
    (finding,) = assess_stun(server(CLOSED, others_answer=True)).findings
    assert "STUN server stun.example.com:3478 does not answer while others do: the port is closed" == finding.message
    code = codes.find("XSTUN01")
    assert code is not None
    assert (finding.severity,) == code.severities


def test_an_unanswered_attempt_without_a_reason_is_silence() -> None:
    """A server that did not answer has failed even where nobody said of what."""
    bare = StunAttempt(family="ipv4", address="198.51.100.1", attempts=4)
    report = assess_stun(server(bare))
    assert report.failure is not None
    assert Reason.TIMEOUT is report.failure.reason
