"""The judgement of the websocket, as a table."""

from __future__ import annotations

from typing import Any

import pytest

from exporter.errors import Phase, Reason
from exporter.health.model import Failure, OffReason
from exporter.health.websocket import Mode, WebSocketResult, assess

RESET = Failure(reason=Reason.PROTOCOL, phase=Phase.TRANSFER, message="the connection broke off")
REFUSED = Failure(reason=Reason.REFUSED, phase=Phase.CONNECT, message="connection refused")


def result(**facts: Any) -> WebSocketResult:
    return WebSocketResult(host="h", mode=Mode.ECHO, phase_seconds={}, **facts)


@pytest.mark.parametrize(
    ("given", "expected", "reason"),
    [
        (result(upgraded=True, status=101), set(), None),
        (result(failure=REFUSED), {"EWS01"}, Reason.REFUSED),
        (result(status=500, from_coder=True), {"EWS01"}, Reason.STATUS),
        (result(status=502), {"EWS01", "XWS01"}, Reason.STATUS),
        (result(status=302, location="https://sso.example.org/"), {"EWS01", "XWS01"}, Reason.STATUS),
        (result(upgraded=True, status=101, failure=RESET), {"EWS02"}, Reason.PROTOCOL),
        (result(upgraded=True, status=101, echo_mismatch="sent '0', text '9' came back"), {"EWS03"}, Reason.BODY),
    ],
)
def test_one_run(given: WebSocketResult, expected: set[str], reason: Reason | None) -> None:
    """Each way to fail has its codes, all of them errors."""
    report = assess(given)
    assert expected == {finding.code for finding in report.findings}
    assert {"error"} >= {finding.severity.label for finding in report.findings}
    assert reason == (report.failure.reason if report.failure else None)


def test_who_answered_instead_is_told() -> None:
    """XWS01 names the server, the status and where it wanted us to go."""
    report = assess(result(status=302, location="https://sso.example.org/", server="nginx"))
    assert (
        "(nginx) answered the upgrade with status 302, Location https://sso.example.org/" in report.findings[1].message
    )


def test_a_stripped_upgrade_is_told() -> None:
    """Coder's own 426 means that something on the way took the upgrade out."""
    report = assess(result(status=426, from_coder=True))
    assert ["EWS01"] == [finding.code for finding in report.findings]
    assert "takes it out" in report.findings[0].message


def test_a_socket_that_needs_a_login_turns_the_section_off() -> None:
    """Without a token, 401 and 403 on the open socket are no outage."""
    report = assess(result(status=401, from_coder=True, forbidden=True))
    assert () == report.findings
    assert OffReason.FORBIDDEN is report.off
