"""Facts as samples: what was measured is there, what was not is absent."""

from __future__ import annotations

from typing import Any

import pytest

from exporter.errors import Reason
from exporter.health.access_url import Identity
from exporter.health.model import Failure, Section, Witness
from exporter.health.workspace_proxy import ListedProxy, ProxyResult, ProxyStatus
from exporter.metrics.labels import escape_target
from exporter.metrics.samples import render_facts
from exporter.snapshot import TargetHealth
from exporter.targets.model import SectionKey, TargetKey
from tests.support.exposition import (
    START,
    access_url,
    attempt,
    database,
    dates,
    headed,
    health,
    pick,
    proxy,
    proxy_round,
    read,
    unanswered,
    websocket,
)

FAILURE = Failure(reason=Reason.TIMEOUT, message="late")


def pieces_of(seen: TargetHealth, threshold_seconds: float | None = None) -> dict[str, str]:
    return render_facts(seen, escape_target(seen.key), threshold_seconds=threshold_seconds)


def facts(section: Section, result: object, name: str = "coder.example.com", **more: Any) -> dict[Any, float]:
    """Samples of one result."""
    return read(headed(pieces_of(health("prod", section, name, result), **more)))


def names(values: dict[Any, float]) -> set[str]:
    return {name.removeprefix("coder_health_") for name, _ in values}


def test_an_access_url_that_answers_shows_status_version_and_dates() -> None:
    """One family: no comparison of families; leaf and chain dates with the target's name."""
    result = access_url(attempt(certificate=dates(START + 100), chain_certificate=dates(START + 50)))
    values = facts(Section.ACCESS_URL, result)
    assert pick(values, "coder_health_access_url_status_code", "coder_replica") == {"": 200.0}
    assert pick(values, "coder_health_build_info", "coder_replica", "version") == {("", "v2.24.1+abc"): 1.0}
    assert pick(values, "coder_health_tls_certificate_not_after_timestamp_seconds", "target", "position") == {
        ("coder.example.com", "leaf"): START + 100,
        ("coder.example.com", "chain"): START + 50,
    }
    assert names(values) == {"access_url_status_code", "build_info", "tls_certificate_not_after_timestamp_seconds"}


def test_an_access_url_without_an_answer_shows_nothing_of_it() -> None:
    """No address, no answer: neither status nor version nor dates."""
    assert facts(Section.ACCESS_URL, access_url()) == {}
    assert facts(Section.ACCESS_URL, access_url(unanswered())) == {}


def test_dates_are_shown_although_verification_failed() -> None:
    """A certificate that was served counts, also when the attempt that saw it failed."""
    values = facts(Section.ACCESS_URL, access_url(unanswered(), unanswered("ipv6", certificate=dates(START - 5))))
    assert pick(values, "coder_health_tls_certificate_not_after_timestamp_seconds", "position") == {"leaf": START - 5}


@pytest.mark.parametrize(
    ("attempts", "wanted"),
    [
        ((attempt(), attempt("ipv6")), {"ipv4": 1.0, "ipv6": 1.0}),
        ((attempt(), unanswered("ipv6")), {"ipv4": 1.0, "ipv6": 0.0}),
        ((attempt(), attempt("ipv6", status=502, body_ok=False)), {"ipv4": 1.0, "ipv6": 0.0}),
        ((attempt(), unanswered("ipv6", no_route=True)), {"ipv4": 1.0}),
        ((attempt("ipv6"),), {}),
    ],
)
def test_families_are_told_apart_where_the_name_has_both(attempts: tuple[Any, ...], wanted: dict[str, float]) -> None:
    """A family that this host has no route to was not measured."""
    values = facts(Section.ACCESS_URL, access_url(*attempts))
    assert wanted == pick(values, "coder_health_access_url_family_up", "family")


def test_the_version_falls_back_to_build_info_and_is_cut() -> None:
    """Without the header, what /api/v2/buildinfo said; never more than 64 characters."""
    identity = Identity(deployment_id=None, access_url_host=None, version="v" * 99, workspace_proxy=False)
    values = facts(Section.ACCESS_URL, access_url(attempt(coder_version=None), identity=identity))
    assert pick(values, "coder_health_build_info", "version") == {"v" * 64: 1.0}
    assert "build_info" not in names(facts(Section.ACCESS_URL, access_url(attempt(coder_version=None))))


def test_the_websocket_shows_the_median_of_a_whole_exchange() -> None:
    """Three echoes give their median; none, or an exchange that broke off, gives nothing."""
    name = "coder_health_websocket_round_trip_seconds"
    assert pick(facts(Section.WEBSOCKET, websocket(0.3, 0.1, 0.2)), name, "deployment") == {"prod": 0.2}
    assert facts(Section.WEBSOCKET, websocket()) == {}
    assert facts(Section.WEBSOCKET, websocket(0.3, failure=FAILURE)) == {}


def test_the_database_shows_median_threshold_and_connection_times() -> None:
    """The third of five pings, not truncated; the threshold in force beside it."""
    result = database(0.005, 0.0012345, 0.002, 0.004, 0.003, connect_seconds=0.01, login_seconds=0.02)
    values = facts(Section.DATABASE, result, "primary", threshold_seconds=0.015)
    labels = ("witness", "coder_replica")
    assert pick(values, "coder_health_database_latency_median_seconds", *labels) == {("probe", ""): 0.003}
    assert pick(values, "coder_health_database_latency_threshold_seconds", *labels) == {("probe", ""): 0.015}
    assert pick(values, "coder_health_database_connect_duration_seconds", "deployment") == {"prod": 0.01}
    assert pick(values, "coder_health_database_login_duration_seconds", "deployment") == {"prod": 0.02}


def test_a_database_that_broke_off_has_no_median_but_its_threshold() -> None:
    """Four pings are no five: the median is absent, the threshold is there from the first run on."""
    values = facts(Section.DATABASE, database(0.1, 0.1, 0.1, 0.1, failure=FAILURE), threshold_seconds=0.015)
    assert names(values) == {"database_latency_threshold_seconds"}


@pytest.mark.parametrize(
    ("status", "gauge"),
    [("ok", 1.0), ("unregistered", 0.0), ("unhealthy", -1.0), ("unreachable", -2.0), ("unknown", -3.0)],
)
def test_a_proxy_shows_its_status_in_both_forms(status: str, gauge: float) -> None:
    """The ported gauge with its values, and a stateset with one 1."""
    values = facts(Section.WORKSPACE_PROXY, proxy("id-1", "eu", ProxyStatus(status)), "eu")
    assert pick(values, "coderd_proxyhealth_health_check_results", "proxy_id") == {"id-1": gauge}
    stateset = pick(values, "coder_health_workspace_proxy_status", "status")
    assert {str(known): float(known == status) for known in ProxyStatus} == stateset


def test_the_ported_gauge_has_proxy_id_and_no_other_label() -> None:
    """Alerts written for Coder's own ticker go on."""
    pieces = pieces_of(health("prod", Section.WORKSPACE_PROXY, "eu", proxy("6f0c", "eu")))
    wanted = 'coderd_proxyhealth_health_check_results{proxy_id="6f0c"} 1.0\n'
    assert wanted == pieces["coderd_proxyhealth_health_check_results"]


def test_warnings_are_counted_only_where_a_report_came() -> None:
    """A proxy that is not reached has no warnings, which is not the same as none."""
    name = "coder_health_workspace_proxy_warnings"
    values = facts(Section.WORKSPACE_PROXY, proxy("i", warnings=("a", "b")))
    assert pick(values, name, "proxy_id") == {"i": 2.0}
    assert pick(facts(Section.WORKSPACE_PROXY, proxy("i")), name, "proxy_id") == {"i": 0.0}
    unreached = proxy("i", status=ProxyStatus.UNREACHABLE, warnings=("ours",), failure=FAILURE)
    assert pick(facts(Section.WORKSPACE_PROXY, unreached), name, "proxy_id") == {}


def test_proxy_info_joins_the_id_to_name_and_version() -> None:
    """The proxy's own version, else the listed one."""
    labels = ("proxy_id", "proxy", "version")
    own = facts(Section.WORKSPACE_PROXY, proxy("i", "eu", version="v2"))
    assert pick(own, "coder_health_workspace_proxy_info", *labels) == {("i", "eu", "v2"): 1.0}
    listed = ProxyResult(
        proxy=ListedProxy(id="i", name="eu", url="", version="v1"),
        status=ProxyStatus.UNREGISTERED,
        phase_seconds={},
        started_timestamp_seconds=START,
        duration_seconds=0.0,
    )
    values = facts(Section.WORKSPACE_PROXY, listed)
    assert pick(values, "coder_health_workspace_proxy_info", *labels) == {("i", "eu", "v1"): 1.0}


def test_what_a_report_says_of_a_proxy_is_told_apart_by_the_witness() -> None:
    """The report's witness shows status and warnings; info and the ported gauge are the probe's."""
    key = SectionKey(deployment="prod", section=Section.WORKSPACE_PROXY, witness=Witness.REPORT, coder_replica="a")
    seen = health("prod", Section.WORKSPACE_PROXY, "eu", proxy("i"))
    told = TargetHealth(
        key=TargetKey(section_key=key, name="eu"),
        run=1,
        interval_seconds=30.0,
        started_timestamp_seconds=START,
        duration_seconds=0.1,
        result=seen.result,
        report=seen.report,
    )
    values = read(headed(pieces_of(told)))
    assert names(values) == {"workspace_proxy_status", "workspace_proxy_warnings"}
    assert pick(values, "coder_health_workspace_proxy_warnings", "witness", "coder_replica") == {("report", "a"): 0.0}


def test_the_list_of_proxies_shows_its_age() -> None:
    """When the list in use was read: the run's start less its age; absent when none was ever read."""
    name = "coder_health_workspace_proxy_list_last_success_timestamp_seconds"
    values = facts(Section.WORKSPACE_PROXY, proxy_round(list_failure=FAILURE, list_age_seconds=60.0), "")
    assert pick(values, name, "deployment") == {"prod": START + 29.0 - 60.0}
    assert facts(Section.WORKSPACE_PROXY, proxy_round(list_failure=FAILURE), "") == {}


def test_a_probe_that_broke_has_no_facts() -> None:
    """No result, no samples."""
    assert facts(Section.DATABASE, None, threshold_seconds=0.015) == {}
