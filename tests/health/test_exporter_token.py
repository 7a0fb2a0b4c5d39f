"""XEXP03: when our session token is about to expire."""

from __future__ import annotations

import pytest

from exporter.errors import Reason
from exporter.health.exporter import TokenResult, assess_token
from exporter.health.model import Failure, Finding, Report, Section, Severity

DAY = 86400.0
HOUR = 3600.0
EXPIRES = 1795324720.0  # 2026-11-22 05:18:40 UTC


@pytest.mark.parametrize(
    ("expected", "lifetime_seconds", "remaining_seconds", "unmoved_seconds"),
    [
        (True, 7 * DAY, DAY, 2 * HOUR),
        (False, 7 * DAY, DAY + 1, 2 * HOUR),
        (False, 7 * DAY, DAY, 2 * HOUR - 1),
        (True, 2 * DAY, DAY / 2, 3 * HOUR),
        (False, 2 * DAY, DAY / 2 + 1, 3 * HOUR),
        (True, None, DAY, 2 * HOUR),
        (False, None, DAY + 1, 2 * HOUR),
        (True, 7 * DAY, 0.0, 2 * HOUR),
        (True, 7 * DAY, -HOUR, 2 * HOUR),
        (False, 7 * DAY, None, 2 * HOUR),
    ],
)
def test_when_it_is_about_to_expire(
    expected: bool, lifetime_seconds: float | None, remaining_seconds: float | None, unmoved_seconds: float
) -> None:
    """Within a day, or a quarter of its lifetime, and only when use does not move its end."""
    report = assess_token(
        TokenResult(
            expires_timestamp_seconds=EXPIRES,
            lifetime_seconds=lifetime_seconds,
            remaining_seconds=remaining_seconds,
            unmoved_seconds=unmoved_seconds,
        )
    )
    assert (["XEXP03"] if expected else []) == [finding.code for finding in report.findings]
    assert (Section.EXPORTER, None, frozenset()) == (report.section, report.failure, report.not_judged)


@pytest.mark.parametrize(
    ("expires", "remaining_seconds", "told"),
    [
        (EXPIRES, 5.5 * HOUR, "in 5.5 hours (2026-11-22 05:18 UTC)"),
        (EXPIRES, 90 * 60.0, "in 90 minutes (2026-11-22 05:18 UTC)"),
        (EXPIRES, -1.0, "now (2026-11-22 05:18 UTC)"),
        (1e300, 60.0, "in 1 minutes"),
    ],
)
def test_the_sentence_says_when_and_what_to_do(expires: float, remaining_seconds: float, told: str) -> None:
    """For who is woken by it; a time beyond every calendar is left out."""
    report = assess_token(
        TokenResult(expires_timestamp_seconds=expires, remaining_seconds=remaining_seconds, unmoved_seconds=9000.0)
    )
    message = f"our session token expires {told}, and 2.5 hours of use have not moved its end; make another one in time"
    assert (Finding(code="XEXP03", severity=Severity.WARNING, message=message),) == report.findings


def test_what_is_not_known_is_not_judged() -> None:
    """A lost answer neither raises nor clears it; a refused token clears it, and the report tells of that."""
    failure = Failure(reason=Reason.TIMEOUT, message="x")
    assert Report(section=Section.EXPORTER, failure=failure, not_judged=frozenset({"XEXP03"})) == assess_token(
        TokenResult(failure=failure)
    )
    refused = TokenResult(
        failure=failure, refused=True, expires_timestamp_seconds=EXPIRES, remaining_seconds=1.0, unmoved_seconds=1e6
    )
    assert Report(section=Section.EXPORTER, failure=failure) == assess_token(refused)
    assert Report(section=Section.EXPORTER) == assess_token(TokenResult())
