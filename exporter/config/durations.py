"""Durations as people write them: text in, seconds out, and back."""

from __future__ import annotations

import re
from collections.abc import Iterator

WANTED = "write it like 30s, 5m or 1h30m"
MAX_SECONDS = 366 * 86400.0

# Longest unit first: that is also the order in which they may be written.
_UNIT_SECONDS = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
_NUMBER = r"[0-9]{1,12}(?:\.[0-9]{1,9})?"
_DURATION = re.compile("".join(rf"(?:({_NUMBER}){unit})?" for unit in _UNIT_SECONDS))


def parse_duration(text: str) -> float | None:
    """Return seconds, or None when the text is not a duration.

    A duration is one or more numbers with the units d, h, m, s, ms, each unit at most once, the
    longest first. How long it may be is not judged here.
    """
    match = _DURATION.fullmatch(text)
    if match is None or not text:
        return None
    parts = zip(match.groups(), _UNIT_SECONDS.values(), strict=True)
    # rounded to nanoseconds, so that 15ms is the same float as the literal 0.015
    return round(sum(float(number) * unit for number, unit in parts if number is not None), 9)


def format_duration(seconds: float) -> str:
    """Write seconds so that parse_duration reads the same value; finer than a nanosecond is lost."""
    return "".join(_format_parts(seconds)) or "0s"


def _format_parts(seconds: float) -> Iterator[str]:
    nanoseconds = round(seconds * 1e9)
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        count, nanoseconds = divmod(nanoseconds, size * 10**9)
        if count:
            yield f"{count}{unit}"
    if nanoseconds:
        milliseconds, rest = divmod(nanoseconds, 10**6)
        fraction = f".{rest:06d}".rstrip("0") if rest else ""
        yield f"{milliseconds}{fraction}ms"
