"""Maintenance windows: weekly by the clocks of a zone, or once; against a minute by minute oracle."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from datetime import UTC, date, datetime, time, timedelta
from functools import cache
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.health.maintenance import (
    CLOSED,
    HORIZON_SECONDS,
    MAX_WINDOW_SECONDS,
    Maintenance,
    OnceWindow,
    WeeklyWindow,
    judge,
)

HOUR = 3600.0
WEEK = 7 * 24 * HOUR
DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
BERLIN = "Europe/Berlin"
NEW_YORK = "America/New_York"


def weekly(start: str, hours: float, zone: str = "UTC") -> WeeklyWindow:
    day, clock_time = start.split()
    hour, minute = map(int, clock_time.split(":"))
    return WeeklyWindow(
        weekday=DAYS.index(day), hour=hour, minute=minute, zone=ZoneInfo(zone), duration_seconds=hours * HOUR
    )


def once(start: str, hours: float) -> OnceWindow:
    return OnceWindow(start=datetime.fromisoformat(start), duration_seconds=hours * HOUR)


def at(text: str) -> float:
    """A moment written in UTC."""
    return datetime.fromisoformat(f"{text}+00:00").timestamp()


def show(maintenance: Maintenance) -> tuple[bool, str | None]:
    change = maintenance.next_change_timestamp_seconds
    return maintenance.open, None if change is None else f"{datetime.fromtimestamp(change, UTC):%Y-%m-%dT%H:%M:%S}"


@pytest.mark.parametrize(
    ("start", "hours", "zone", "opens", "closes", "opens_again"),
    [
        ("Sat 02:00", 2, "UTC", "2026-11-21T02:00:00", "2026-11-21T04:00:00", "2026-11-28T02:00:00"),
        ("Sat 02:00", 2, BERLIN, "2026-11-21T01:00:00", "2026-11-21T03:00:00", "2026-11-28T01:00:00"),
        ("Sat 02:00", 2, NEW_YORK, "2026-11-21T07:00:00", "2026-11-21T09:00:00", "2026-11-28T07:00:00"),
        # the days of the zone and of UTC differ
        ("Sat 00:30", 1, BERLIN, "2026-11-20T23:30:00", "2026-11-21T00:30:00", "2026-11-27T23:30:00"),
        ("Sun 23:00", 1, NEW_YORK, "2026-11-23T04:00:00", "2026-11-23T05:00:00", "2026-11-30T04:00:00"),
        ("Mon 01:00", 1, "Pacific/Kiritimati", "2026-11-22T11:00:00", "2026-11-22T12:00:00", "2026-11-29T11:00:00"),
        # over the end of the week, and over that of the year
        ("Sun 23:00", 4, "UTC", "2026-11-22T23:00:00", "2026-11-23T03:00:00", "2026-11-29T23:00:00"),
        ("Thu 23:00", 4, BERLIN, "2026-12-31T22:00:00", "2027-01-01T02:00:00", "2027-01-07T22:00:00"),
        ("Thu 23:30", 1, "UTC", "2026-12-31T23:30:00", "2027-01-01T00:30:00", "2027-01-07T23:30:00"),
        # clocks go forward: 02:30 does not exist, and counts as 03:30; durations are elapsed time
        ("Sun 02:30", 2, BERLIN, "2026-03-29T01:30:00", "2026-03-29T03:30:00", "2026-04-05T00:30:00"),
        ("Sun 02:30", 2, NEW_YORK, "2026-03-08T07:30:00", "2026-03-08T09:30:00", "2026-03-15T06:30:00"),
        ("Sun 01:00", 3, BERLIN, "2026-03-29T00:00:00", "2026-03-29T03:00:00", "2026-04-04T23:00:00"),
        ("Sat 22:00", 6, NEW_YORK, "2026-03-08T03:00:00", "2026-03-08T09:00:00", "2026-03-15T02:00:00"),
        # clocks go back: 02:30 comes twice, and counts once
        ("Sun 02:30", 0.5, BERLIN, "2026-10-25T00:30:00", "2026-10-25T01:00:00", "2026-11-01T01:30:00"),
        ("Sun 01:30", 0.5, NEW_YORK, "2026-11-01T05:30:00", "2026-11-01T06:00:00", "2026-11-08T06:30:00"),
        ("Sun 01:00", 3, BERLIN, "2026-10-24T23:00:00", "2026-10-25T02:00:00", "2026-11-01T00:00:00"),
        ("Sat 02:00", 167, "UTC", "2026-11-21T02:00:00", "2026-11-28T01:00:00", "2026-11-28T02:00:00"),
        # a whole week is open, but for the hour by which it is longer in autumn
        ("Mon 00:00", 168, BERLIN, "2026-10-26T00:00:00", None, None),
        ("Mon 00:00", 168, BERLIN, "2026-10-18T22:00:00", "2026-10-25T22:00:00", "2026-10-25T23:00:00"),
    ],
)
def test_a_weekly_window_opens_and_closes(
    start: str, hours: float, zone: str, opens: str, closes: str | None, opens_again: str | None
) -> None:
    """By the clocks of its zone it opens, by elapsed time it closes: open at its start, closed at its end."""
    windows = [weekly(start, hours, zone)]
    assert (True, closes) == show(judge(windows, at(opens)))
    if closes is not None:
        assert (True, closes) == show(judge(windows, at(closes) - 1))
        assert (False, opens_again) == show(judge(windows, at(closes)))
    if hours < 168:
        assert (False, opens) == show(judge(windows, at(opens) - 1))


def test_a_single_window_never_comes_again() -> None:
    """Before its start it is awaited, whenever that is; after its end there is nothing to wait for."""
    windows = [once("2030-12-31T23:00:00-05:00", 2)]
    assert (False, "2031-01-01T04:00:00") == show(judge(windows, at("2026-11-21T00:00:00")))
    assert (True, "2031-01-01T06:00:00") == show(judge(windows, at("2031-01-01T04:00:00")))
    assert CLOSED == judge(windows, at("2031-01-01T06:00:00"))


def test_without_windows_nothing_is_open_or_awaited() -> None:
    """A deployment without windows is never in maintenance."""
    assert CLOSED == judge([], at("2026-11-21T00:00:00"))


@pytest.mark.parametrize("turned", [False, True])
def test_windows_that_overlap_or_touch_are_one(turned: bool) -> None:
    """The change that is told is the end of the last one, whatever the order; one within another adds nothing."""
    windows = [
        weekly("Sat 02:00", 2),
        weekly("Sat 03:00", 2),
        once("2026-11-21T05:00:00+00:00", 1),
        once("2026-11-21T02:30:00+00:00", 0.5),
        once("2026-11-21T08:00:00+00:00", 1),
    ]
    if turned:
        windows.reverse()
    assert (False, "2026-11-21T02:00:00") == show(judge(windows, at("2026-11-21T01:00:00")))
    for moment in ("2026-11-21T02:00:00", "2026-11-21T03:30:00", "2026-11-21T05:00:00"):
        assert (True, "2026-11-21T06:00:00") == show(judge(windows, at(moment)))
    assert (False, "2026-11-21T08:00:00") == show(judge(windows, at("2026-11-21T06:00:00")))


def test_an_end_beyond_the_horizon_is_none() -> None:
    """What is open for longer than anybody plans ahead has no end that is told."""
    assert (True, None) == show(judge([weekly("Mon 00:00", 168)], at("2026-11-21T00:00:00")))
    far = once("2029-01-01T00:00:00+00:00", 1)
    assert (True, None) == show(judge([weekly("Mon 00:00", 168), far], at("2026-11-21T00:00:00")))
    assert HORIZON_SECONDS > 4 * MAX_WINDOW_SECONDS


MINUTE = 60
# the day before clocks are set, or before the year ends
PLACES = (
    (BERLIN, "2026-03-28"),
    (BERLIN, "2026-10-24"),
    (NEW_YORK, "2026-03-07"),
    (NEW_YORK, "2026-10-31"),
    ("Australia/Lord_Howe", "2026-04-04"),
    ("Australia/Lord_Howe", "2026-10-03"),
    ("Africa/Casablanca", "2026-02-14"),
    ("Africa/Casablanca", "2026-03-21"),
    ("Asia/Kathmandu", "2026-12-30"),
    ("UTC", "2026-12-30"),
)


@cache
def walk(zone: str, first: int, last: int) -> Mapping[tuple[int, int, int], list[int]]:
    """Go through the minutes from `first` to `last`: at which of them is it that weekday, hour and minute?"""
    place = ZoneInfo(zone)
    found: dict[tuple[int, int, int], list[int]] = defaultdict(list)
    offset = datetime.fromtimestamp(first, place).utcoffset() or timedelta()
    skipped_until, doubled_until, before = first, first, offset
    for minute in range(first, last, MINUTE):
        local = datetime.fromtimestamp(minute, place)
        current = local.utcoffset() or timedelta()
        if current != offset:
            moved = int((current - offset).total_seconds())
            skipped_until, doubled_until, before = minute + max(moved, 0), minute + max(-moved, 0), offset
            offset = current
        shown = [local] if minute >= doubled_until else []
        if minute < skipped_until:  # what the clocks would show had they not been set
            shown.append(datetime.fromtimestamp(minute, UTC) + before)
        for wall in shown:
            found[wall.weekday(), wall.hour, wall.minute].append(minute)
    return found


@st.composite
def weekly_windows(draw: st.DrawFn, zone: str, day: date) -> WeeklyWindow:
    # where clocks are set and a little around more often than elsewhere
    hour = draw(st.one_of(st.sampled_from([0, 1, 2, 3, 23]), st.integers(0, 23)))
    minutes = draw(st.one_of(st.integers(1, 300), st.integers(1, 7 * 24 * 60), st.just(7 * 24 * 60)))
    return WeeklyWindow(
        weekday=(day.weekday() + draw(st.one_of(st.just(1), st.integers(0, 6)))) % 7,
        hour=hour,
        minute=draw(st.sampled_from([0, 15, 30, 59])),
        zone=ZoneInfo(zone),
        duration_seconds=minutes * 60.0,
    )


@given(data=st.data(), place=st.sampled_from(PLACES))
def test_every_minute_is_as_the_oracle_says(data: st.DataObject, place: tuple[str, str]) -> None:
    """Around every setting of clocks: open in the minutes that a walk through all of them finds open,
    and the change that is told is the next one."""
    zone, day = place[0], date.fromisoformat(place[1])
    windows = data.draw(st.lists(weekly_windows(zone, day), min_size=1, max_size=3))
    middle = int(datetime.combine(day, time(), UTC).timestamp())
    # the openings of the week before still count, and the next change may be a week away
    first, last = middle - 10 * 86400, middle + 13 * 86400
    count = (last - first) // MINUTE
    is_open = bytearray(count)
    for window in windows:
        length = int(window.duration_seconds) // MINUTE
        for start in walk(zone, first, last).get((window.weekday, window.hour, window.minute), []):
            index = (start - first) // MINUTE
            is_open[index : index + length] = b"\1" * len(is_open[index : index + length])
    begin, end = (middle - first) // MINUTE, (middle - first) // MINUTE + 4 * 24 * 60
    changes = [index for index in range(begin, end) if is_open[index] != is_open[index - 1]]
    anywhere = data.draw(st.lists(st.integers(begin, end), max_size=5))
    for index in {begin, end, *anywhere, *changes, *(index - 1 for index in changes)}:
        maintenance = judge(windows, first + index * 60.0)
        assert bool(is_open[index]) is maintenance.open
        change = is_open.find(not is_open[index], index)
        if change >= 0:
            assert first + change * 60.0 == maintenance.next_change_timestamp_seconds
