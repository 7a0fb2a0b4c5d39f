"""Judging one run of the database probe."""

from __future__ import annotations

from typing import Any

import pytest

from exporter.errors import Phase, Reason
from exporter.health.codes import CODES
from exporter.health.database import DatabaseResult, assess, find_threshold
from exporter.health.model import Failure, Section, Severity

_REFUSED = Failure(reason=Reason.REFUSED, phase=Phase.CONNECT, message="connecting to it: connection refused")
_AUTH = Failure(reason=Reason.AUTH, phase=Phase.PROCESSING, message="connecting to it: wrong password")
_SLOW = Failure(reason=Reason.TIMEOUT, phase=Phase.PROCESSING, message="asking it: no answer within 5 s")


def _result(*, pings: tuple[float, ...] = (0.001,) * 5, **facts: Any) -> DatabaseResult:
    return DatabaseResult(ping_seconds=pings, phase_seconds={}, **({"standby": False} | facts))


def _codes(result: DatabaseResult, *, threshold_seconds: float = 0.015) -> dict[str, Severity]:
    report = assess(result, threshold_seconds=threshold_seconds)
    return {finding.code: finding.severity for finding in report.findings}


@pytest.mark.parametrize(
    ("median_seconds", "threshold_seconds", "warns"),
    [
        (0.001, 0.015, False),
        (0.014999, 0.015, False),
        (0.015, 0.015, True),
        (0.015999, 0.015, True),
        (0.016, 0.015, True),
        (0.015, 0.0159, True),  # both are cut to whole milliseconds
        (0.029, 0.029, True),
        (0.0289999, 0.029, False),
        (1.001, 1.001, True),
        (0.001, 0.001, True),
        (0.014, 0.0009, False),  # below one millisecond the threshold means 15
        (0.015, 0.0009, True),
        (0.015, 0.0, True),
        (0.014, -1.0, False),
        (0.0, 0.001, False),
    ],
)
def test_a_median_at_the_threshold_warns_with_edb02(
    median_seconds: float, threshold_seconds: float, warns: bool
) -> None:
    """Whole milliseconds are compared, and reaching the threshold is enough."""
    result = _result(pings=(9.0, 0.0, median_seconds, 9.0, 0.0))
    expected = {"EDB02": Severity.WARNING} if warns else {}
    assert expected == _codes(result, threshold_seconds=threshold_seconds)


@pytest.mark.parametrize(
    ("in_force_seconds", "written_seconds"),
    [(0.015, 0.015), (0.015, 0.0159), (0.029, 0.029), (0.001, 0.001), (0.015, 0.0009), (0.015, 0.0), (0.015, -1.0)],
)
def test_the_threshold_in_force(in_force_seconds: float, written_seconds: float) -> None:
    """What the verdict goes by: whole milliseconds, and Coder's default for less than one."""
    assert in_force_seconds == find_threshold(written_seconds) == find_threshold(find_threshold(written_seconds))
    at_it = _result(pings=(in_force_seconds,) * 5)
    assert {"EDB02"} == _codes(at_it, threshold_seconds=written_seconds).keys()


def test_the_median_is_told_with_its_threshold() -> None:
    """The message of EDB02 has the figure, not truncated to whole milliseconds."""
    report = assess(_result(pings=(0.0214,) * 5), threshold_seconds=0.015)
    assert [finding.message for finding in report.findings] == ["median of five pings 21.4 ms, threshold 15 ms"]


@pytest.mark.parametrize(
    ("facts", "codes", "failed"),
    [
        ({}, {}, False),
        ({"pings": (), "failure": _REFUSED, "standby": None}, {"EDB01": Severity.ERROR}, True),
        ({"pings": (0.9,) * 4, "failure": _SLOW, "standby": None}, {"EDB01": Severity.ERROR}, True),
        ({"pings": (), "failure": _AUTH, "refused": True, "standby": None}, {"XDB01": Severity.WARNING}, False),
        (
            {"pings": (0.9,) * 5, "failure": _AUTH, "refused": True},
            {"XDB01": Severity.WARNING, "EDB02": Severity.WARNING},
            False,
        ),
        ({"standby": True}, {"XDB02": Severity.WARNING}, False),
        ({"pings": (0.1,) * 5, "standby": True}, {"EDB02": Severity.WARNING, "XDB02": Severity.WARNING}, False),
    ],
)
def test_codes_and_failure(facts: dict[str, Any], codes: dict[str, Severity], failed: bool) -> None:
    """Only an outage fails the probe: a role that is refused and a standby are warnings."""
    result = _result(**facts)
    assert codes == _codes(result)
    assert (facts["failure"] if failed else None) == assess(result, threshold_seconds=0.015).failure


@pytest.mark.parametrize(
    ("facts", "not_judged"),
    [
        ({}, set()),
        ({"standby": None}, {"XDB02"}),
        ({"pings": (), "failure": _REFUSED, "standby": None}, {"XDB02"}),
        ({"pings": (), "failure": _AUTH, "refused": True, "standby": None}, {"XDB02", "EDB02"}),
    ],
)
def test_what_was_not_seen_is_not_judged(facts: dict[str, Any], not_judged: set[str]) -> None:
    """A standby is not ruled out by a run that could not ask."""
    assert frozenset(not_judged) == assess(_result(**facts), threshold_seconds=0.015).not_judged


def test_a_ping_that_failed_is_numbered() -> None:
    """The message of EDB01 says how far the pings came."""
    report = assess(_result(pings=(0.1, 0.1), failure=_SLOW, standby=None), threshold_seconds=0.015)
    assert [finding.message for finding in report.findings] == ["ping 3 of 5 failed: asking it: no answer within 5 s"]


def test_every_code_raised_belongs_to_the_section() -> None:
    """Codes and severities are those of the table."""
    known = {code.value: code.severities for code in CODES[Section.DATABASE]}
    results = [
        _result(pings=(0.1,) * 5, standby=True),
        _result(pings=(), failure=_REFUSED, standby=None),
        _result(pings=(), failure=_AUTH, refused=True, standby=None),
    ]
    seen = {code: severity for result in results for code, severity in _codes(result).items()}
    assert {"EDB01", "EDB02", "XDB01", "XDB02"} == seen.keys()
    assert all(severity in known[code] for code, severity in seen.items())
