"""Counters and histograms of a target: what a run adds, and that nothing falls."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from prometheus_client import Histogram as Oracle

from exporter.errors import Phase, Reason
from exporter.health.model import Section
from exporter.metrics.families import BUCKETS_SECONDS
from exporter.metrics.labels import escape_target
from exporter.metrics.series import Histogram, TargetSeries
from exporter.snapshot import Entry
from exporter.targets.model import SectionKey, TargetKey
from tests.support.exposition import headed, health, pick, read

VALUES = escape_target(TargetKey(section_key=SectionKey(deployment="prod", section=Section.DATABASE), name="primary"))
PINGS = "coder_health_database_ping_duration_seconds"


def observe(series: TargetSeries, last_success: float | None = None, **more: object) -> dict[str, str]:
    run = health("prod", Section.DATABASE, "primary", **more)  # type: ignore[arg-type]
    return series.observe(Entry(health=run, settled={}, last_success_timestamp_seconds=last_success))


def test_the_first_run_shows_every_reason_at_zero() -> None:
    """A run that went well counts one run, no failure of any reason, and leaves no phase."""
    values = read(headed(observe(TargetSeries(VALUES), last_success=5.0)))
    assert pick(values, "coder_health_probe_runs_total", "deployment", "section", "target") == {
        ("prod", "database", "primary"): 1.0
    }
    assert {str(reason): 0.0 for reason in Reason} == pick(values, "coder_health_probe_failures_total", "reason")
    assert pick(values, "coder_health_probe_success", "target") == {"primary": 1.0}
    assert pick(values, "coder_health_probe_interval_seconds", "target") == {"primary": 30.0}
    assert pick(values, "coder_health_probe_last_success_timestamp_seconds", "target") == {"primary": 5.0}
    assert pick(values, "coder_health_probe_phase_duration_seconds", "phase") == {}


def test_a_target_that_never_answered_has_no_last_success() -> None:
    """A failed first run shows 0, its reason and its run time; the last success is absent, not 0."""
    values = read(headed(observe(TargetSeries(VALUES), reason=Reason.REFUSED, duration_seconds=0.3)))
    assert pick(values, "coder_health_probe_success", "target") == {"primary": 0.0}
    assert pick(values, "coder_health_probe_failures_total", "reason")["refused"] == 1.0
    assert pick(values, "coder_health_probe_last_success_timestamp_seconds", "target") == {}
    assert pick(values, "coder_health_probe_duration_seconds_count", "target") == {"primary": 1.0}


def test_only_phases_that_were_reached_are_shown() -> None:
    """Phases stand in their own order; one that was not reached is absent."""
    pieces = observe(TargetSeries(VALUES), phase_seconds={Phase.CONNECT: 0.002, Phase.RESOLVE: 0.001})
    labels = 'deployment="prod",section="database",target="primary"'
    wanted = "".join(
        f'coder_health_probe_phase_duration_seconds{{{labels},phase="{phase}"}} {seconds}\n'
        for phase, seconds in (("resolve", "0.001"), ("connect", "0.002"))
    )
    assert wanted == pieces["coder_health_probe_phase_duration_seconds"]


@given(st.lists(st.tuples(st.none() | st.sampled_from(Reason), st.floats(-1, 100)), min_size=1, max_size=20))
def test_counters_never_fall(runs: list[tuple[Reason | None, float]]) -> None:
    """Runs, failures and every bucket only rise, whatever the runs bring; runs equal the count."""
    series = TargetSeries(VALUES)
    before: dict[object, float] = {}
    for number, (reason, duration) in enumerate(runs, start=1):
        values = read(headed(observe(series, reason=reason, duration_seconds=duration)))
        counters = {
            key: value for key, value in values.items() if key[0].endswith(("_total", "_bucket", "_count", "_sum"))
        }
        assert all(value >= before.get(key, 0.0) for key, value in counters.items())
        assert pick(values, "coder_health_probe_runs_total", "target") == {"primary": float(number)}
        assert pick(values, "coder_health_probe_duration_seconds_bucket", "le")["+Inf"] == float(number)
        before = dict(counters)


@given(st.lists(st.sampled_from(BUCKETS_SECONDS) | st.floats(0, 100), max_size=30))
def test_the_histogram_counts_as_prometheus_client_does(observations: list[float]) -> None:
    """Buckets, count and sum are those of its histogram, also on the bounds themselves."""
    registry = CollectorRegistry()
    oracle = Oracle(PINGS, "x", ("deployment",), buckets=BUCKETS_SECONDS, registry=registry)
    ours = Histogram(PINGS, 'deployment="prod"')
    for seconds in observations:
        oracle.labels("prod").observe(seconds)
        ours.observe(seconds)
    oracle.labels("prod")
    wanted = {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in registry.collect()
        for sample in family.samples
        if not sample.name.endswith("_created")
    }
    assert wanted == pytest.approx(read(headed({PINGS: ours.render()})))


def test_the_histogram_has_the_ported_buckets() -> None:
    """Bounds and order of the text, without labels."""
    histogram = Histogram("coderd_proxyhealth_health_check_duration_seconds")
    histogram.observe(0.05)
    wanted = ["0.001", "0.005", "0.01", "0.025", "0.05", "0.1", "0.5", "1.0", "5.0", "10.0", "30.0", "+Inf"]
    lines = histogram.render().splitlines()
    name = "coderd_proxyhealth_health_check_duration_seconds"
    assert [f'{name}_bucket{{le="{le}"}} {float(i >= 4)}' for i, le in enumerate(wanted)] == lines[:12]
    assert [f"{name}_count 1.0", f"{name}_sum 0.05"] == lines[12:]
