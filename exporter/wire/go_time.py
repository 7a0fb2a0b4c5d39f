"""How Go writes times and durations as text. In: a text. Out: seconds.

Source: Go, package time: ParseDuration, and RFC3339Nano of Time.MarshalJSON
"""

from __future__ import annotations

import re
from datetime import UTC, datetime

from exporter.errors import WireError

_MAX_CHARS = 64
_UNIT_SECONDS = {
    "ns": 1e-9,
    "us": 1e-6,
    "\u00b5s": 1e-6,  # the micro sign, which Go writes
    "\u03bcs": 1e-6,  # the Greek letter, which it reads, too
    "ms": 1e-3,
    "s": 1.0,
    "m": 60.0,
    "h": 3600.0,
}
_PART = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(ns|us|\u00b5s|\u03bcs|ms|s|m|h)")
_DURATION = re.compile(rf"[-+]?(?:0|(?:{_PART.pattern})+)")


def parse_go_duration(text: str) -> float:
    """Return the seconds of a duration such as `1m7.67s` or `413.049µs`; it may be negative.

    Raises:
        WireError: Not such a text; the empty one is none.
    """
    if len(text) > _MAX_CHARS or _DURATION.fullmatch(text) is None:
        raise WireError("the text is no duration of Go's")
    seconds = sum(float(amount) * _UNIT_SECONDS[unit] for amount, unit in _PART.findall(text))
    return -seconds if text.startswith("-") else seconds


def parse_go_time(text: str) -> float | None:
    """Return seconds since 1970, to the microsecond; None for Go's time that was never set. A time
    without a zone is one of UTC.

    Raises:
        WireError: Not a time of RFC 3339.
    """
    try:
        moment = datetime.fromisoformat(text[:_MAX_CHARS])
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        return None if moment.year <= 1 else moment.timestamp()
    except (ValueError, OverflowError):
        raise WireError("the text is no time of RFC 3339") from None
