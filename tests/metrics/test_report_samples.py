"""What /metrics shows of one of Coder's own reports."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from exporter.health.coder_report import CoderReport, ReportedDaemon, ReportedDatabase, ReportedProxy
from exporter.health.report import ReportResult
from exporter.metrics.labels import escape_target
from exporter.metrics.report_samples import (
    FAMILIES,
    MAX_ORGANIZATIONS,
    MAX_PROXIES,
    MAX_VERSIONS,
    ONCE_FAMILIES,
    render_report,
)
from exporter.targets.model import SectionKey, TargetKey
from tests.support.exposition import START, Series, headed, pick, poll, read

DATABASE = "coder_health_database_latency"
STATUS = "coder_health_workspace_proxy_status"
WARNINGS = "coder_health_workspace_proxy_warnings"
DAEMONS = "coder_health_provisioner_daemons"
MISMATCHES = "coder_health_provisioner_daemon_version_mismatches"


def show(result: ReportResult, replica: str = "coderd-0") -> Mapping[Series, float]:
    key = TargetKey(
        section_key=SectionKey(deployment="prod", section="report", coder_replica=replica), name=result.name
    )
    pieces: dict[str, str] = {}
    for family, line in render_report(result, escape_target(key)):
        pieces[family] = pieces.get(family, "") + line
    assert pieces.keys() <= FAMILIES
    return read(headed(pieces))


def told(**facts: Any) -> Mapping[Series, float]:
    return show(poll(report=CoderReport(**facts)))


def proxy(id_: str, status: str = "ok", warnings: tuple[str, ...] | None = ()) -> ReportedProxy:
    return ReportedProxy(id=id_, name=id_, status=status, warnings=warnings)


def daemon(version: str = "v2.26.0", organization: str = "o1") -> ReportedDaemon:
    return ReportedDaemon(id="1", name="a", organization_id=organization, version=version, api_version="1.9")


def test_a_whole_report() -> None:
    """Each fact once, of the replica that told it; what our probes measure too has the witness `report`."""
    values = show(poll())
    labels = ("deployment", "coder_replica")
    assert {("prod", "coderd-0"): START - 30.0} == pick(values, "coder_health_report_timestamp_seconds", *labels)
    assert {("prod", "coderd-0"): 30.0} == pick(values, "coder_health_report_age_seconds", *labels)
    assert {("prod", "coderd-0"): 1.0} == pick(values, "coder_health_report_healthy", *labels)
    assert {("report", "coderd-0"): 0.0123} == pick(values, f"{DATABASE}_median_seconds", "witness", "coder_replica")
    assert {("report", "coderd-0"): 0.015} == pick(values, f"{DATABASE}_threshold_seconds", "witness", "coder_replica")
    assert {("p1", "report", "coderd-0"): 1.0} == pick(values, WARNINGS, "proxy_id", "witness", "coder_replica")
    assert {"ok"} == {status for status, value in pick(values, STATUS, "status").items() if value}
    assert {("coder", "report", "recent"): 2.0} == pick(values, DAEMONS, "organization", "witness", "status")
    assert {("coder", "v2.25.0"): 1.0} == pick(values, MISMATCHES, "organization", "version")
    assert {family for family, _ in values} == FAMILIES
    assert set(ONCE_FAMILIES) < FAMILIES


def test_a_poll_without_a_report_has_no_sample() -> None:
    """Not even its age: what is held of the report before is the board's."""
    assert {} == show(replace(poll(), report=None))


def test_what_a_report_leaves_out_has_no_sample() -> None:
    """Neither 0 nor healthy: it is not known."""
    assert {} == show(poll(report=CoderReport(), age_seconds=None))
    facts = told(database=ReportedDatabase(reachable=False))
    assert {"coder_health_report_age_seconds"} == {family for family, _ in facts}
    assert {} == pick(told(proxies=(), daemons=()), STATUS, "proxy_id")


def test_a_report_that_is_not_healthy_says_so() -> None:
    """0 is what Coder says, and not that it says nothing."""
    assert {"coderd-0": 0.0} == pick(told(healthy=False), "coder_health_report_healthy", "coder_replica")


def test_statuses_of_proxies() -> None:
    """One of five is at 1, none where Coder uses a word of its own; warnings only where it tells of some."""
    values = told(proxies=(proxy("a", "unreachable", None), proxy("b", "on fire"), proxy("c", warnings=("x", "y"))))
    at_one = {key for key, value in pick(values, STATUS, "proxy_id", "status").items() if value}
    assert {("a", "unreachable"), ("c", "ok")} == at_one
    assert 3 * 5 == len(pick(values, STATUS, "proxy_id", "status"))
    assert {"b": 0.0, "c": 2.0} == pick(values, WARNINGS, "proxy_id")


def test_a_proxy_that_is_told_twice_is_shown_once() -> None:
    """The first one; also where ids are equal only once they are cut."""
    values = told(proxies=(proxy("a"), proxy("a", "unreachable"), proxy("x" * 200 + "1"), proxy("x" * 200 + "2")))
    assert {("a", "ok"), ("x" * 128, "ok")} == {
        key for key, value in pick(values, STATUS, "proxy_id", "status").items() if value
    }


def test_organizations_go_by_their_names_where_they_are_known() -> None:
    """An id stands for itself until somebody knows its name; two of one name are added up."""
    report = CoderReport(version="v2.26.0", daemons=(daemon(), daemon(organization="o2"), daemon(organization="o3")))
    result = poll(report=report, organizations={"o1": "coder", "o2": "coder"})
    assert {"coder": 2.0, "o3": 1.0} == pick(show(result), DAEMONS, "organization")


@pytest.mark.parametrize(
    ("server", "daemon_version", "differs"),
    [
        ("v2.26.0", "v2.26.1", False),
        ("v2.26.0", "v2.25.9", True),
        ("v2.26.0+abc", "v2.26.0", False),
        ("", "v2.25.0", False),
    ],
)
def test_versions_differ_by_coders_rule(server: str, daemon_version: str, differs: bool) -> None:
    """Patches do not count; and without the server's version nobody can tell."""
    values = told(version=server, daemons=(daemon(daemon_version),))
    assert differs == bool(pick(values, MISMATCHES, "version"))


def test_what_people_name_is_bounded() -> None:
    """Only so many proxies, organizations and versions have series of their own."""
    values = told(
        version="v2.26.0",
        proxies=tuple(proxy(f"p{number:04}") for number in range(MAX_PROXIES + 5)),
        daemons=tuple(daemon(f"v1.{number}.0", f"o{number:04}") for number in range(MAX_ORGANIZATIONS + 5)),
    )
    assert MAX_PROXIES == len(pick(values, WARNINGS, "proxy_id"))
    assert MAX_ORGANIZATIONS == len(pick(values, DAEMONS, "organization"))
    assert MAX_VERSIONS == len(pick(values, MISMATCHES, "version"))
    (version,) = pick(told(version="v2.26.0", daemons=(daemon("v1.0.0-" + "x" * 100),)), MISMATCHES, "version")
    assert 64 == len(version)


def test_odd_names_are_escaped() -> None:
    """Quotes, backslashes and line breaks stay within their label."""
    odd = 'a"b\\c\nd'
    values = show(poll(report=CoderReport(daemons=(daemon(organization=odd),), proxies=(proxy(odd),))), replica=odd)
    assert {odd: 1.0} == pick(values, DAEMONS, "organization")
    assert {(odd, odd): 0.0} == pick(values, WARNINGS, "proxy_id", "coder_replica")
