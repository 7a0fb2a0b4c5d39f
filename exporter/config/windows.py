"""When a maintenance window opens, as people write it: texts in, a weekly or single start and a time
zone out. A zone is looked up in the system's database, else in the package tzdata.
"""

from __future__ import annotations

import difflib
import re
import zoneinfo
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo

from exporter.config.problems import quote
from exporter.health.maintenance import OnceWindow, Window

WANTED = 'write it like "Sat 02:00", or once, like "2026-12-05T02:00:00+01:00"'
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
DEFAULT_ZONE = "UTC"

_BY_DAY = {name: index for index, day in enumerate(DAYS) for name in (day.lower(), day[:3].lower())}
_CLOCK_TIME = re.compile(r"([01][0-9]|2[0-3]):([0-5][0-9])")
_BEGINS_LIKE_A_DATE = re.compile(r"[0-9]{4}-")
# Source: RFC 3339, section 5.6; a blank may stand for the T. A leap second is not taken.
_RFC_3339 = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]+)?(?P<offset>[Zz]|[+-][0-9]{2}:[0-9]{2})?"
)


class WindowError(ValueError):
    """A text is no start, or names no time zone; the sentence reads on after the key path."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WeeklyStart:
    """`weekday` counts from 0, Monday."""

    weekday: int
    hour: int
    minute: int


def parse_start(text: str) -> WeeklyStart | datetime:
    """Return a weekly start, or the moment of a single one, which knows its offset.

    Raises:
        WindowError: It is neither.
    """
    text = text.strip()
    return _parse_moment(text) if _BEGINS_LIKE_A_DATE.match(text) else _parse_weekly(text)


def load_zone(name: str) -> tzinfo:
    """Return the time zone of an IANA name. UTC needs no database.

    Raises:
        WindowError: There is no such zone, or no database.
    """
    if name.upper() == DEFAULT_ZONE:
        return UTC
    try:
        return zoneinfo.ZoneInfo(name)
    except (KeyError, ValueError, OSError):  # not found, not a name, a folder
        known = zoneinfo.available_timezones()
    if not known:
        raise WindowError(
            "cannot be looked up, as this host has no time zone database; install the package tzdata, "
            "or write the start in UTC and remove the key"
        )
    near = _find_near(name, known)
    hint = f"did you mean {' or '.join(near)}?" if near else "write an IANA name, like Europe/Berlin"
    raise WindowError(f"{quote(name)} is not a known time zone; {hint}")


def format_start(window: Window) -> str:
    """Write the start of a window so that parse_start reads the same."""
    if isinstance(window, OnceWindow):
        return window.start.isoformat()
    return f"{DAYS[window.weekday][:3]} {window.hour:02}:{window.minute:02}"


def _parse_weekly(text: str) -> WeeklyStart:
    words = text.split()
    if len(words) != 2:
        if len(words) == 1 and _CLOCK_TIME.fullmatch(words[0]):
            raise WindowError(f"has no day of the week; {WANTED}")
        if len(words) == 1 and words[0].lower() in _BY_DAY:
            raise WindowError(f"has no time of day; {WANTED}")
        raise WindowError(f"is not a day of the week and a time; {WANTED}")
    day, clock_time = words
    weekday = _BY_DAY.get(day.lower())
    if weekday is None:
        near = difflib.get_close_matches(day[:64].lower(), _BY_DAY, n=1, cutoff=0.7)
        hint = f"did you mean {DAYS[_BY_DAY[near[0]]]}?" if near else WANTED
        raise WindowError(f"{quote(day)} is not a day of the week in English; {hint}")
    match = _CLOCK_TIME.fullmatch(clock_time)
    if match is None:
        raise WindowError(f"{quote(clock_time)} is not a time from 00:00 to 23:59; {WANTED}")
    return WeeklyStart(weekday=weekday, hour=int(match[1]), minute=int(match[2]))


def _parse_moment(text: str) -> datetime:
    match = _RFC_3339.fullmatch(text)
    if match is None:
        raise WindowError(f"is not a time as in RFC 3339, with seconds and offset; {WANTED}")
    if match["offset"] is None:
        raise WindowError(f"has no offset from UTC; add Z or one like +01:00 at its end; {WANTED}")
    try:
        moment = datetime.fromisoformat(text.upper())
        moment.timestamp()
    except ValueError:
        pass
    else:
        return moment
    raise WindowError(f"is a date or time that does not exist; {WANTED}")


def _find_near(name: str, known: set[str]) -> list[str]:
    """Return the closest names, at most three: first those that differ only in case or end so, as in Berlin."""
    wanted = name[:64].strip().lower().replace(" ", "_")
    # what has no place in it are old abbreviations, and names for this host's own zone
    by_lower = {zone.lower(): zone for zone in sorted(known) if "/" in zone}
    same = [zone for lower, zone in by_lower.items() if f"/{lower}".endswith(f"/{wanted}")]
    close = [by_lower[lower] for lower in difflib.get_close_matches(wanted, by_lower, n=3, cutoff=0.75)]
    return (same or close)[:3]
