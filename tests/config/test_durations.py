"""Durations: text to seconds and back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.config.durations import MAX_SECONDS, format_duration, parse_duration


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.5, "500ms"),
        (0.015, "15ms"),
        (30.0, "30s"),
        (300.0, "5m"),
        (5400.0, "1h30m"),
        (172800.0, "2d"),
        (90061.001, "1d1h1m1s1ms"),
        (1.5, "1.5s"),
        (0.0005, "0.5ms"),
        (0.0, "0s"),
    ],
)
def test_reads_every_unit(seconds: float, text: str) -> None:
    """Units add up, the longest first, and the value is the float one would write."""
    assert seconds == parse_duration(text)


@pytest.mark.parametrize(
    "text",
    ["", " ", "30", "s", "30 s", " 30s", "30s ", "30S", "1m1h", "1s1s", "-1s", "+1s", "1e3s", ".5s", "1.s", "1:30",
     "30sec", "inf", "nans", "٣s", "1" * 13 + "s", "1s\n", "1w", "1y"],
)  # fmt: skip
def test_refuses_everything_else(text: str) -> None:
    """Bare numbers, other units, another order, signs and blanks are no durations."""
    assert parse_duration(text) is None


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("15ms", 0.015), ("1m30s", 90.0), ("14d", 14 * 86400.0), ("0s", 0.0), ("1s500ms", 1.5), ("0.25ms", 0.00025)],
)
def test_writes_the_shortest_form(text: str, seconds: float) -> None:
    """Seconds are written in the units that they fill."""
    assert text == format_duration(seconds)


@given(st.integers(min_value=0, max_value=int(MAX_SECONDS) * 10**6))
def test_round_trip(microseconds: int) -> None:
    """What is written is read as the same value."""
    seconds = microseconds / 1e6
    assert seconds == pytest.approx(parse_duration(format_duration(seconds)), abs=1e-9)


@given(st.text())
def test_any_text_gives_seconds_or_none(text: str) -> None:
    """No text makes the reader fail, and what it reads is finite and not negative."""
    seconds = parse_duration(text)
    assert seconds is None or 0 <= seconds < float("inf")
