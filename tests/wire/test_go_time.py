"""Go's times and durations."""

from __future__ import annotations

import contextlib
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.errors import WireError
from exporter.wire.go_time import parse_go_duration, parse_go_time


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("413.049\u00b5s", 413.049e-6),
        ("413.049\u03bcs", 413.049e-6),
        ("413.049us", 413.049e-6),
        ("7.67ms", 7.67e-3),
        ("1ns", 1e-9),
        ("0s", 0.0),
        ("0", 0.0),
        ("1.5s", 1.5),
        (".5s", 0.5),
        ("5.s", 5.0),
        ("10m0s", 600.0),
        ("2h45m30.5s", 9930.5),
        ("-1m1s", -61.0),
        ("+3s", 3.0),
    ],
)
def test_duration_is_read(text: str, seconds: float) -> None:
    """Every unit counts, alone and together, and both letters for micro."""
    assert pytest.approx(seconds) == parse_go_duration(text)


@pytest.mark.parametrize("text", ["", "s", "1", "1.5", "1 s", "1d", ".s", "--1s", "1s ", "\u0661s", "1e3s", "1h" * 40])
def test_other_text_is_no_duration(text: str) -> None:
    """What Go does not read as a duration is refused, and so is what nobody writes."""
    with pytest.raises(WireError, match="no duration"):
        parse_go_duration(text)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("2026-11-21T05:18:40.530417029Z", 1795238320.530417),
        ("2026-11-21T05:18:40Z", 1795238320.0),
        ("2026-11-21T05:18:40", 1795238320.0),
        ("2026-11-21T01:48:40.1-03:30", 1795238320.1),
        ("0001-01-01T00:00:00Z", None),
        ("0001-01-01T00:00:00+05:00", None),
    ],
)
def test_time_is_read(text: str, seconds: float | None) -> None:
    """Nanoseconds, zones and none of them; Go's zero time was never set."""
    assert seconds == parse_go_time(text)


@pytest.mark.parametrize("text", ["", "now", "2026-13-01T00:00:00Z", "1795238320", "2026-11-21T05:18:40Z" * 10])
def test_other_text_is_no_time(text: str) -> None:
    """What is no time of RFC 3339 is refused."""
    with pytest.raises(WireError, match="no time"):
        parse_go_time(text)


@given(st.text())
def test_any_text_is_read_or_refused(text: str) -> None:
    """No text raises anything but a WireError."""
    for parse in (parse_go_duration, parse_go_time):
        with contextlib.suppress(WireError):
            assert math.isfinite(parse(text) or 0.0)


@given(st.integers(min_value=-(10**17), max_value=10**17))
def test_duration_round_trip(nanoseconds: int) -> None:
    """A duration in nanoseconds comes back in seconds."""
    assert pytest.approx(nanoseconds / 1e9) == parse_go_duration(f"{nanoseconds}ns")
