"""Accept and Accept-Encoding: who gets what."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.metrics.negotiation import Format, choose, wants_gzip

TEXT, OPENMETRICS = Format.TEXT, Format.OPENMETRICS

# What Prometheus of Debian 12 (2.42) and Prometheus 3 send.
PROMETHEUS_2 = (
    "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
    "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
)
PROMETHEUS_3 = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
    "application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,"
    "text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)
PROMETHEUS_NATIVE = (
    "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited;q=0.6,"
    "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.1"
)
BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8"


@pytest.mark.parametrize(
    ("accept", "wanted"),
    [
        pytest.param(None, TEXT, id="nothing asked"),
        pytest.param("", TEXT, id="empty"),
        pytest.param("*/*", TEXT, id="anything"),
        pytest.param(BROWSER, TEXT, id="browser"),
        pytest.param(PROMETHEUS_2, OPENMETRICS, id="prometheus 2"),
        pytest.param(PROMETHEUS_3, OPENMETRICS, id="prometheus 3"),
        pytest.param(PROMETHEUS_NATIVE, OPENMETRICS, id="protobuf first falls through"),
        pytest.param("application/vnd.google.protobuf", TEXT, id="protobuf only"),
        pytest.param("application/openmetrics-text", OPENMETRICS, id="no version"),
        pytest.param("Application/OpenMetrics-Text; Version=1.0.0", OPENMETRICS, id="letter case"),
        pytest.param('application/openmetrics-text; version="1.0.0"', OPENMETRICS, id="quoted"),
        pytest.param("application/openmetrics-text;version=1.0.0;charset=utf-8", OPENMETRICS, id="charset"),
        pytest.param("application/openmetrics-text;version=0.0.1", TEXT, id="draft"),
        pytest.param("application/openmetrics-text;version=abc", TEXT, id="nonsense version"),
        pytest.param("application/openmetrics-text;version=99.7", TEXT, id="future version"),
        pytest.param("application/openmetrics-text;version=2.0.0,application/openmetrics-text;version=1.0.0;q=0.1",
                     OPENMETRICS, id="future version, then ours"),
        pytest.param("text/plain;version=x", TEXT, id="nonsense version of text"),
        pytest.param("text/plain;version=x, application/openmetrics-text;q=0.1", OPENMETRICS, id="only the other"),
        pytest.param("application/openmetrics-text;q=0.3, text/plain;q=0.4", TEXT, id="q decides"),
        pytest.param("text/plain;q=0.3, application/openmetrics-text;q=0.4", OPENMETRICS, id="q against the order"),
        pytest.param("text/plain, application/openmetrics-text", TEXT, id="equal: first named"),
        pytest.param("application/openmetrics-text, text/plain", OPENMETRICS, id="equal: first named, the other"),
        pytest.param("text/plain, application/openmetrics-text;version=1.0.0", OPENMETRICS, id="equal: more exact"),
        pytest.param("*/*, text/plain", TEXT, id="named beats wildcard"),
        pytest.param("*/*, application/openmetrics-text", OPENMETRICS, id="named beats wildcard, the other"),
        pytest.param("application/*", OPENMETRICS, id="type wildcard"),
        pytest.param("text/*;q=0.9, application/*;q=0.8", TEXT, id="type wildcards by q"),
        pytest.param("text/plain;q=0.5, */*", OPENMETRICS, id="wildcard with the higher q"),
        pytest.param("application/openmetrics-text;q=0, */*", TEXT, id="refused by name"),
        pytest.param("application/openmetrics-text;q=0.0, application/*;q=1", TEXT, id="the specific one counts"),
        pytest.param("text/plain;q=0, application/openmetrics-text;q=0", TEXT, id="all refused"),
        pytest.param("*/*;q=0", TEXT, id="everything refused"),
        pytest.param("application/openmetrics-text;q=2, text/plain;q=0.1", TEXT, id="q above 1 is nonsense"),
        pytest.param("application/openmetrics-text;q=-1", TEXT, id="negative q"),
        pytest.param("application/openmetrics-text;q=nan, text/plain;q=0.1", TEXT, id="q is no number"),
        pytest.param("application/openmetrics-text;q=", TEXT, id="empty q"),
        pytest.param("application/openmetrics-text;q=0.0001, text/plain;q=0.001", TEXT, id="four digits are nonsense"),
        pytest.param('x/y;note="a, application/openmetrics-text", text/plain;q=0.1', TEXT, id="comma in quotes"),
        pytest.param('text/plain;q=0.5;x="unclosed, application/openmetrics-text', OPENMETRICS, id="unclosed quote"),
        pytest.param(",,;;=,application/openmetrics-text;;", OPENMETRICS, id="empty elements"),
    ],
)  # fmt: skip
def test_the_format_is_what_the_header_asks_for(accept: str | None, wanted: Format) -> None:
    """By q-value, then by how exactly a format is named, then by order; text for all else."""
    assert wanted is choose(accept)


def test_content_types_are_exact() -> None:
    """The versions are those that we write, never those that were asked for."""
    assert choose(None).content_type == "text/plain; version=0.0.4; charset=utf-8"
    assert choose("application/openmetrics-text").content_type == (
        "application/openmetrics-text; version=1.0.0; charset=utf-8"
    )


@pytest.mark.parametrize(
    ("accept_encoding", "wanted"),
    [
        (None, False),
        ("", False),
        ("gzip", True),
        ("GZIP", True),
        ("x-gzip", True),
        ("deflate, br", False),
        ("gzip, deflate, br", True),
        ("gzip;q=0", False),
        ("gzip;q=0.0", False),
        ("gzip; q=0.001", True),
        ("*", True),
        ("*;q=0", False),
        ("gzip;q=0, *", False),
        ("*;q=0, gzip", True),
        ("identity", False),
        ("identity;q=1, gzip;q=0.5", False),
        ("identity;q=0.5, gzip;q=0.5", True),
        ("gzip;q=five", False),
        ("gzipped", False),
    ],
)
def test_gzip_is_sent_only_when_it_is_wanted(accept_encoding: str | None, wanted: bool) -> None:
    """A q-value of 0 refuses, whoever it stands for; identity may be preferred."""
    assert wanted is wants_gzip(accept_encoding)


_PIECES = st.sampled_from(
    ["application/openmetrics-text", "text/plain", "*/*", "application/*", ";", ",", "q=", "version=", '"', "\\", "=",
     "0.5", "0", "1.0.0", "0.0.4", "abc", " ", "\t", "gzip", "identity", "*"]
)  # fmt: skip


@given(st.text() | st.lists(_PIECES, max_size=30).map("".join))
def test_no_header_breaks_it(header: str) -> None:
    """Any text gives one of the formats, and an answer about gzip."""
    assert choose(header) in Format
    assert wants_gzip(header) in (True, False)


@given(st.integers(0, 1000), st.integers(0, 1000), st.booleans())
def test_the_higher_q_value_always_wins(openmetrics: int, text: int, openmetrics_first: bool) -> None:
    """Whatever the order, the format with the higher q-value is chosen, when it is not 0."""
    elements = [
        f"application/openmetrics-text;version=1.0.0;q={openmetrics / 1000:.3f}",
        f"text/plain;version=0.0.4;q={text / 1000:.3f}",
    ]
    chosen = choose(",".join(elements if openmetrics_first else reversed(elements)))
    if openmetrics > text:
        assert chosen is OPENMETRICS
    elif text > openmetrics or text == 0:
        assert chosen is TEXT
    else:
        assert chosen is (OPENMETRICS if openmetrics_first else TEXT)
