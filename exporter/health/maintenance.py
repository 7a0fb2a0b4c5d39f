"""Maintenance windows: the windows of a deployment and a moment in; whether one is open, and until
when, out. Zones are handed in, loaded: nothing here reads a file or knows the time.

A weekly window opens when the clocks of its zone show its time, and stays open for its duration of
elapsed time, whatever the clocks do meanwhile. When clocks are set it still opens exactly once a week:
a time that is skipped counts by the offset from before (02:30 becomes 03:30), one that comes twice is
taken the first time. Source: RFC 5545, section 3.3.5, local time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, time, timedelta, tzinfo

MAX_WINDOW_SECONDS = 7 * 86400.0
# How far ahead weekly windows are looked at: windows that join without a gap for longer than this
# have no end that anybody would plan by.
HORIZON_SECONDS = 35 * 86400.0

# The week before the last opening too, as clocks that are set may make a whole week overlap.
_WEEKS_BACK = 1
_WEEKS_AHEAD = int(HORIZON_SECONDS // MAX_WINDOW_SECONDS) + 2


@dataclass(frozen=True, slots=True, kw_only=True)
class WeeklyWindow:
    """Opens each week. `weekday` counts from 0, Monday; `hour` and `minute` are those of the zone.
    `duration_seconds` is above 0 and at most MAX_WINDOW_SECONDS."""

    weekday: int
    hour: int
    minute: int
    zone: tzinfo
    duration_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class OnceWindow:
    """Opens once. `start` knows its offset; `duration_seconds` as of WeeklyWindow."""

    start: datetime
    duration_seconds: float

    @property
    def end_timestamp_seconds(self) -> float:
        return self.start.timestamp() + self.duration_seconds


Window = WeeklyWindow | OnceWindow


@dataclass(frozen=True, slots=True, kw_only=True)
class Maintenance:
    """Whether any window is open at a moment.

    `next_change_timestamp_seconds`: when the last of the open ones closes, or the next one opens.
    None: no window opens any more, or one is open throughout the horizon.
    """

    open: bool
    next_change_timestamp_seconds: float | None


CLOSED = Maintenance(open=False, next_change_timestamp_seconds=None)


def judge(windows: Iterable[Window], now: float) -> Maintenance:
    """Return what holds at a moment, in seconds since 1970. A window is open from its start on, and
    no longer so at its end; windows that overlap or touch are one."""
    spans = sorted(span for window in windows for span in _spans(window, now) if span[1] > now)
    until = now
    for start, end in spans:
        if start > until:
            if until == now:
                return Maintenance(open=False, next_change_timestamp_seconds=start)
            break
        until = max(until, end)
    if until == now:
        return CLOSED
    return Maintenance(open=True, next_change_timestamp_seconds=until if until <= now + HORIZON_SECONDS else None)


def _spans(window: Window, now: float) -> Iterator[tuple[float, float]]:
    """Give start and end of every opening that may still be open, or comes within the horizon."""
    if isinstance(window, OnceWindow):
        yield window.start.timestamp(), window.end_timestamp_seconds
        return
    today = datetime.fromtimestamp(now, window.zone).date()
    last = today - timedelta(days=(today.weekday() - window.weekday) % 7)
    clock_time = time(window.hour, window.minute, tzinfo=window.zone)
    for week in range(-_WEEKS_BACK, _WEEKS_AHEAD + 1):
        # fold 0: skipped times by the offset from before, doubled ones the first time
        start = datetime.combine(last + timedelta(weeks=week), clock_time).timestamp()
        yield start, start + window.duration_seconds
