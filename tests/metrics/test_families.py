"""The table of families."""

from __future__ import annotations

import pytest

from exporter.metrics.families import BUCKETS_SECONDS, BY_NAME, FAMILIES, Family


def test_names_are_unique_and_have_our_prefix() -> None:
    """Two families alone keep the names of Coder's own ticker."""
    assert len(FAMILIES) == len(BY_NAME)
    assert {
        "coderd_proxyhealth_health_check_results",
        "coderd_proxyhealth_health_check_duration_seconds",
    } == {name for name in BY_NAME if not name.startswith("coder_health_")}


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_each_follows_the_rules_of_names(family: Family) -> None:
    """Counters alone end in _total, histograms carry their unit, help is a sentence, labels differ."""
    assert (family.kind == "counter") == family.name.endswith("_total")
    assert family.kind != "histogram" or family.name.endswith("_seconds")
    assert family.help.endswith(".")
    assert len(family.labels) == len(set(family.labels))
    assert not {"le", "quantile", "type", "replica", "address"} & set(family.labels)
    # what is about one deployment's token comes and goes with it
    about_itself = family.name.startswith("coder_health_exporter_") and "deployment" not in family.labels
    assert family.own == about_itself


def test_buckets_are_those_of_the_ported_histogram() -> None:
    """Existing alerts go by them."""
    assert (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0) == BUCKETS_SECONDS
