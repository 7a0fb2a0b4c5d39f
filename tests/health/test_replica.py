"""One replica that fails while others answer."""

from __future__ import annotations

import pytest

from exporter.errors import Phase, Reason
from exporter.health.model import Failure, Finding, Report, Section, Severity
from exporter.health.replica import ReplicaResult, assess

REFUSED = Failure(reason=Reason.REFUSED, phase=Phase.CONNECT, message="connecting to 10.0.0.1:8080: connection refused")


@pytest.mark.parametrize("others_answer", [True, False])
def test_a_replica_that_answers(others_answer: bool) -> None:
    """Nothing is wrong, whoever else answers."""
    result = ReplicaResult(name="coderd-0", status=200, others_answer=others_answer)
    assert result.up
    assert Report(section=Section.ACCESS_URL) == assess(result)


def test_a_replica_that_fails_alone() -> None:
    """XACS08 says who, where and of what."""
    result = ReplicaResult(name="coderd-0", url="http://c0:8080", failure=REFUSED, others_answer=True)
    message = f"the replica coderd-0 at http://c0:8080 fails while others answer: {REFUSED.message}"
    finding = Finding(code="XACS08", severity=Severity.WARNING, message=message)
    assert Report(section=Section.ACCESS_URL, findings=(finding,), failure=REFUSED) == assess(result)


def test_an_address_is_said_once() -> None:
    """Where the failure names it already, it is not repeated."""
    url = "http://10.0.0.1:8080"
    failure = Failure(reason=Reason.STATUS, message=f"GET /healthz of {url} answered status 503")
    (finding,) = assess(ReplicaResult(name="c", url=url, failure=failure, others_answer=True)).findings
    assert f"the replica c fails while others answer: {failure.message}" == finding.message


def test_a_replica_that_fails_with_all_others() -> None:
    """That is the access URL's to tell; the run has failed all the same."""
    result = ReplicaResult(name="coderd-0", failure=REFUSED)
    assert Report(section=Section.ACCESS_URL, failure=REFUSED) == assess(result)
