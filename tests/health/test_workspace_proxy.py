"""The judgement of workspace proxies, as tables."""

from __future__ import annotations

from typing import Any

import pytest

from exporter.errors import Phase, Reason
from exporter.health.model import Failure, OffReason, Report
from exporter.health.workspace_proxy import (
    ListedProxy,
    ProxyResult,
    ProxyStatus,
    RoundResult,
    assess_proxy,
    assess_round,
)

TIMEOUT = Failure(reason=Reason.TIMEOUT, phase=Phase.PROCESSING, message="no answer in time")
REFUSED = Failure(reason=Reason.REFUSED, phase=Phase.CONNECT, message="connection refused")


def proxy(status: ProxyStatus = ProxyStatus.OK, name: str = "eu", **facts: Any) -> ProxyResult:
    return ProxyResult(
        proxy=ListedProxy(id=f"id-{name}", name=name, url="https://eu.example.com"),
        status=status,
        phase_seconds={},
        started_timestamp_seconds=1.0,
        duration_seconds=0.1,
        **facts,
    )


def down(name: str = "eu", **facts: Any) -> ProxyResult:
    facts = {"errors": ("the request failed: connection refused",), "failure": REFUSED} | facts
    return proxy(ProxyStatus.UNREACHABLE, name, **facts)


def seen(report: Report) -> dict[str, str]:
    return {finding.code: finding.severity.label for finding in report.findings}


@pytest.mark.parametrize(
    ("given", "expected", "fails"),
    [
        (proxy(), {}, False),
        (proxy(warnings=("version v2.25.0 differs",)), {"EWP04": "warning"}, False),
        (down(), {"EWP04": "warning"}, True),
        (down(stopped=True), {"XWP03": "ok"}, False),
        (proxy(stopped=True), {}, False),  # the rows are older than what we see
        (proxy(ProxyStatus.UNREGISTERED), {"XWP01": "warning"}, False),
        (down(failure=TIMEOUT, healthz_ok=True), {"EWP04": "warning", "XWP04": "warning"}, True),
        (down(failure=TIMEOUT, healthz_ok=False), {"EWP04": "warning"}, True),
        (
            proxy(ProxyStatus.UNHEALTHY, errors=("cannot reach primary",), primary_unreachable=True, failure=REFUSED),
            {"EWP04": "warning", "XWP04": "warning"},
            True,
        ),
    ],
)
def test_one_proxy(given: ProxyResult, expected: dict[str, str], fails: bool) -> None:
    """Each state of a proxy has its codes; one that is down has failed, though EWP04 is a warning."""
    report = assess_proxy(given)
    assert expected == seen(report)
    assert fails == (report.failure is not None)


def test_warnings_about_versions_only_wait_for_a_roll_out() -> None:
    """EWP04 is version skew only when there is nothing else in it."""
    only = proxy(warnings=("version v2.25.0 differs",), version_warnings_only=True)
    both = down(warnings=("version v2.25.0 differs",), version_warnings_only=True)
    assert [True, False] == [assess_proxy(given).findings[0].skew for given in (only, both)]


@pytest.mark.parametrize(
    ("proxies", "expected"),
    [
        ((), {}),
        ((proxy(), down("us")), {}),
        ((down(), down("us")), {"XWP02": "error"}),
        ((down(), down("us", stopped=True)), {"XWP02": "error"}),
        ((down(stopped=True),), {}),  # stopped on purpose is no outage
        ((proxy(ProxyStatus.UNREGISTERED),), {}),
        ((down(), proxy(ProxyStatus.UNREGISTERED, "us")), {"XWP02": "error"}),
    ],
)
def test_every_proxy_down(proxies: tuple[ProxyResult, ...], expected: dict[str, str]) -> None:
    """XWP02 counts registered proxies that were not stopped, and never the primary."""
    report = assess_round(RoundResult(proxies=proxies, list_age_seconds=0.0, phase_seconds={}))
    assert expected == seen(report)
    assert bool(expected) == (report.failure is not None)


@pytest.mark.parametrize(("age", "expected"), [(30.0, {"EWP01": "warning"}), (None, {"EWP02": "error"})])
def test_a_list_that_cannot_be_read(age: float | None, expected: dict[str, str]) -> None:
    """With an earlier list at hand it is EWP01, without one EWP02."""
    report = assess_round(RoundResult(list_failure=REFUSED, list_age_seconds=age, phase_seconds={}))
    assert expected == seen(report)


def test_no_list_to_be_had_turns_the_section_off() -> None:
    """A deployment without the license has no proxies to judge."""
    assert OffReason.NOT_LICENSED is assess_round(RoundResult(off=OffReason.NOT_LICENSED, phase_seconds={})).off


def test_gauge_values_are_those_of_the_ported_ticker() -> None:
    """Existing alerts go by these numbers."""
    assert {"ok": 1, "unregistered": 0, "unhealthy": -1, "unreachable": -2, "unknown": -3} == {
        str(status): status.gauge_value for status in ProxyStatus
    }
