"""Label values: escaping, cutting, and what hostile servers send as names."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from prometheus_client.utils import floatToGoString

from exporter.health.model import Section
from exporter.metrics.labels import escape, escape_target, label_text, number, sample
from exporter.metrics.negotiation import Format
from exporter.targets.model import SectionKey, TargetKey
from tests.support.exposition import read


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        ("", ""),
        ("plain", "plain"),
        ("Zürich ☃", "Zürich ☃"),
        ('say "hi"', 'say \\"hi\\"'),
        ("back\\slash", "back\\\\slash"),
        ("two\nlines", "two\\nlines"),
        ("\x1b[31mred", "\\\\x1b[31mred"),
        ("nul\0", "nul\\\\x00"),
        ("turned\u202eback", "turned\\\\u202eback"),
        ("half \ud800", "half \\\\ud800"),
        ("x" * 200, "x" * 128),
    ],
)
def test_values_are_escaped_and_tamed(value: str, wanted: str) -> None:
    """Quotes, backslashes and line feeds are escaped; what would act on a terminal is shown as text."""
    assert wanted == escape(value)


def test_labels_stand_in_the_order_of_the_table() -> None:
    """Whatever the order of the values, and whatever other families need."""
    values = {"version": "2", "section": "x", "coder_replica": "", "deployment": "d"}
    assert label_text("coder_health_build_info", values) == 'deployment="d",coder_replica="",version="2"'
    assert sample("coder_health_build_info", values, 1) == (
        'coder_health_build_info{deployment="d",coder_replica="",version="2"} 1.0\n'
    )


def test_a_sample_without_labels_has_no_braces() -> None:
    """A family without labels is its bare name."""
    assert sample("coderd_proxyhealth_health_check_duration_seconds", {}, 1) == (
        "coderd_proxyhealth_health_check_duration_seconds 1.0\n"
    )


def test_a_missing_label_is_a_mistake() -> None:
    """Every label of the table has to be given."""
    for render in (label_text, lambda family, values: sample(family, values, 1)):
        with pytest.raises(KeyError, match="family"):
            render("coder_health_access_url_family_up", {"deployment": "d"})


def test_the_labels_of_a_target_are_escaped() -> None:
    """Names come from configuration and from servers: none gets into the text as it is."""
    section_key = SectionKey(deployment='a"b', section=Section.DATABASE, coder_replica="c\\")
    assert escape_target(TargetKey(section_key=section_key, name="x\ny")) == {
        "deployment": 'a\\"b',
        "section": "database",
        "witness": "probe",
        "coder_replica": "c\\\\",
        "target": "x\\ny",
    }


@given(st.floats() | st.integers(-10, 10**12) | st.booleans())
def test_numbers_are_written_as_prometheus_client_does(value: float) -> None:
    """Counts, times, infinities and what is no number."""
    assert floatToGoString(value) == number(value)


@given(st.text(st.characters(), max_size=300))
@example("\ud800")
@example('\\"\n\x7f')
def test_any_value_comes_back_the_same_from_both_formats(value: str) -> None:
    """What stands in the text is read back alike by both parsers, whatever was put in."""
    line = sample("coder_health_access_url_family_up", {"deployment": escape(value), "family": "ipv4"}, 1)
    name = "coder_health_access_url_family_up"
    text = f"# HELP {name} x\n# TYPE {name} gauge\n{line}".encode()
    values = read(text)
    assert values == read(text + b"# EOF\n", Format.OPENMETRICS)
    ((_, labels),) = values
    shown = dict(labels)["deployment"]
    assert len(shown) <= 128
    if value.isprintable() and len(value) <= 128:
        assert value == shown
