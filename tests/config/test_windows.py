"""Starts and time zones as people write them, and what is said when they are wrong."""

from __future__ import annotations

import sys
import zoneinfo
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest

from exporter.config.load import load_config
from exporter.config.model import Config
from exporter.config.windows import DAYS, WeeklyStart, WindowError, format_start, load_zone, parse_start
from exporter.health.maintenance import OnceWindow, WeeklyWindow
from tests.support.clock import FakeClock

_FORM = 'write it like "Sat 02:00", or once, like "2026-12-05T02:00:00+01:00"'
_DURATION = "write it like 30s, 5m or 1h30m"


def _one(windows: str) -> str:
    return f"deployments: [{{name: a, url: 'http://h', maintenance: [{windows}]}}]"


@pytest.mark.parametrize(
    ("weekday", "hour", "minute", "text"),
    [
        (5, 2, 0, "Sat 02:00"),
        (5, 2, 0, "saturday 02:00"),
        (0, 0, 0, "MON  00:00"),
        (6, 23, 59, " Sunday 23:59 "),
        *((index, 12, 30, f"{day[:3]} 12:30") for index, day in enumerate(DAYS)),
    ],
)
def test_a_weekly_start(weekday: int, hour: int, minute: int, text: str) -> None:
    """Days by three letters or in full, in any case; times on 24 hours."""
    assert WeeklyStart(weekday=weekday, hour=hour, minute=minute) == parse_start(text)


@pytest.mark.parametrize(
    ("moment", "text"),
    [
        (datetime(2026, 12, 5, 1, tzinfo=UTC), "2026-12-05T02:00:00+01:00"),
        (datetime(2026, 12, 5, 2, tzinfo=UTC), "2026-12-05t02:00:00z"),
        (datetime(2026, 12, 5, 2, 0, 0, 500_000, tzinfo=UTC), "2026-12-05 02:00:00.5Z"),
        (datetime(2024, 2, 29, 2, tzinfo=timezone(timedelta(hours=-5))), "2024-02-29T02:00:00-05:00"),
    ],
)
def test_a_single_start(moment: datetime, text: str) -> None:
    """As in RFC 3339, with any offset."""
    assert moment == parse_start(text)


@pytest.mark.parametrize(
    ("said", "value"),
    [
        (f"has no day of the week; {_FORM}", '"02:00"'),
        (f"has no day of the week; {_FORM}", "12:00"),  # a number in YAML 1.1
        (f"has no time of day; {_FORM}", "Sat"),
        (f"is not a day of the week and a time; {_FORM}", "every Sat 02:00"),
        (f"is not a day of the week and a time; {_FORM}", "tomorrow"),
        ("this text is not a day of the week in English; did you mean Saturday?", "Satrday 02:00"),
        (f'"Foo" is not a day of the week in English; {_FORM}', "Foo 02:00"),
        (f'"24:00" is not a time from 00:00 to 23:59; {_FORM}', "Sat 24:00"),
        (f'"02:60" is not a time from 00:00 to 23:59; {_FORM}', "Sat 02:60"),
        (f'"2:00" is not a time from 00:00 to 23:59; {_FORM}', "Sat 2:00"),
        (f'"02:00:00" is not a time from 00:00 to 23:59; {_FORM}', "Sat 02:00:00"),
        (f'"2am" is not a time from 00:00 to 23:59; {_FORM}', "Sat 2am"),
        (f"this text is not a time from 00:00 to 23:59; {_FORM}", "Sat \u0660\u0662:\u0660\u0660"),
        (f"has no offset from UTC; add Z or one like +01:00 at its end; {_FORM}", "2026-12-05T02:00:00"),
        (f"is not a time as in RFC 3339, with seconds and offset; {_FORM}", "2026-12-05"),
        (f"is not a time as in RFC 3339, with seconds and offset; {_FORM}", "2026-12-05T02:00Z"),
        (f"is not a time as in RFC 3339, with seconds and offset; {_FORM}", "2026-W49-6"),
        (f"is a date or time that does not exist; {_FORM}", "2026-02-29T02:00:00Z"),
        (f"is a date or time that does not exist; {_FORM}", '"2026-12-05T24:01:00Z"'),
        (f"is a date or time that does not exist; {_FORM}", '"2026-12-05T02:00:00+24:00"'),
        (f"is a number; {_FORM}", "2"),
        (f"is true; {_FORM}", "true"),
        (f"is a list; {_FORM}", "[Sat]"),
        ("is empty; give it a value, or remove the key", '""'),
    ],
)
def test_what_is_no_start(problems: Callable[[str], list[str]], said: str, value: str) -> None:
    """Each way to get it wrong is told with its place and the wanted form."""
    assert [f"1: D0.maintenance[0].start: {said}"] == problems(_one(f"{{start: {value}, duration: 2h}}"))


@pytest.mark.parametrize(
    ("said", "keys"),
    [
        (f"start: is missing; {_FORM}", "duration: 2h"),
        (f"duration: is missing; {_DURATION}", "start: Sat 02:00"),
        ('duration: "0s" is no time at all; a duration above 0s is wanted', "start: Sat 02:00, duration: 0s"),
        ('duration: "7d1ms" is too long; at most 7d', "start: Sat 02:00, duration: 7d1ms"),
        (f'duration: "2" is not a duration; {_DURATION}', "start: Sat 02:00, duration: 2"),
        ("time_zone: unknown key; did you mean timezone?", "start: Sat 02:00, duration: 2h, time_zone: UTC"),
        (
            "timezone: this text is not a known time zone; did you mean Europe/Berlin?",
            "start: Sat 02:00, duration: 2h, timezone: europe/berlin",
        ),
        ("timezone: is a list; a text is wanted", "start: Sat 02:00, duration: 2h, timezone: [UTC]"),
    ],
)
def test_what_is_no_window(problems: Callable[[str], list[str]], said: str, keys: str) -> None:
    """Start and duration are required, and unknown keys and zones are refused."""
    assert [f"1: D0.maintenance[0].{said}"] == problems(_one(f"{{{keys}}}"))


def test_every_problem_of_every_window_is_told_at_once(problems: Callable[[str], list[str]]) -> None:
    """A broken window does not hide the next one, nor a key of the same."""
    found = problems(_one("7, {start: Sat, duration: 8d, timezone: Mars/Base}, {start: Sun 00:00}"))
    assert [
        "1: D0.maintenance[0]: is a number; a mapping is wanted",
        f"1: D0.maintenance[1].start: has no time of day; {_FORM}",
        'D0.maintenance[1].duration: "8d" is too long; at most 7d',
        f"D0.maintenance[2].duration: is missing; {_DURATION}",
    ] == [line.removeprefix("1: ") if "duration" in line else line for line in found if "timezone" not in line]
    assert 1 == sum("D0.maintenance[1].timezone: this text is not a known time zone" in line for line in found)


def test_a_hundred_windows_are_enough(problems: Callable[[str], list[str]], load: Callable[[str], Config]) -> None:
    """A list that has no end is refused."""
    window = "{start: Sat 02:00, duration: 2h}"
    assert 100 == len(load(_one(", ".join([window] * 100))).deployments[0].maintenance)
    assert ["1: D0.maintenance: lists 101 windows; at most 100"] == problems(_one(", ".join([window] * 101)))


def test_windows_of_a_file(load: Callable[[str], Config]) -> None:
    """As in the contract; the zone is UTC when nobody says another, and a date needs no quotes."""
    (deployment,) = load(
        _one(
            '{start: "Sat 02:00", duration: 2h, timezone: Europe/Berlin}, {start: sunday 23:00, duration: 7d}, '
            "{start: 2999-12-05T02:00:00+01:00, duration: 90m}"
        )
    ).deployments
    assert (
        WeeklyWindow(weekday=5, hour=2, minute=0, zone=zoneinfo.ZoneInfo("Europe/Berlin"), duration_seconds=7200.0),
        WeeklyWindow(weekday=6, hour=23, minute=0, zone=UTC, duration_seconds=7 * 86400.0),
        OnceWindow(start=datetime(2999, 12, 5, 1, tzinfo=UTC), duration_seconds=5400.0),
    ) == deployment.maintenance
    assert () == load("deployments: [{name: a, url: 'http://h'}]").deployments[0].maintenance


@pytest.mark.parametrize(("warned", "duration"), [(True, "59m"), (True, "1h"), (False, "61m")])
def test_a_single_window_that_is_over_is_warned_about(tmp_path: Path, warned: bool, duration: str) -> None:
    """It works, but means nothing any more; one that is still open does."""
    path = tmp_path / "c.yaml"
    path.write_text(_one(f'{{start: "2026-12-05T02:00:00Z", duration: {duration}}}'))
    clock = FakeClock(now=datetime(2026, 12, 5, 3, tzinfo=UTC).timestamp())
    config = load_config(path, {}, clock=clock)
    assert warned is any("maintenance[0]: is over and does not come again; remove it" in w for w in config.warnings)
    assert int(warned) == len(config.warnings)


def test_a_zone_beside_an_offset_is_warned_about(load: Callable[[str], Config]) -> None:
    """The offset of a single start says all."""
    config = load(_one("{start: 2999-12-05T02:00:00Z, duration: 1h, timezone: Europe/Berlin}"))
    (warning,) = config.warnings
    assert "maintenance[0].timezone: means nothing beside a start that has its own offset; remove it" in warning


@pytest.mark.parametrize("text", ["Sat 02:00", "Mon 23:59", "2026-12-05T02:00:00+01:00", "2026-12-05T02:00:00.250000Z"])
def test_what_is_written_reads_the_same(text: str) -> None:
    """Starts go through /config without a change of meaning."""
    start = parse_start(text)
    window = (
        OnceWindow(start=start, duration_seconds=1.0)
        if isinstance(start, datetime)
        else WeeklyWindow(weekday=start.weekday, hour=start.hour, minute=start.minute, zone=UTC, duration_seconds=1.0)
    )
    assert start == parse_start(format_start(window))


@pytest.mark.parametrize(
    ("hint", "name"),
    [
        ("did you mean Europe/Berlin?", "Berlin"),
        ("did you mean Europe/Berlin?", "europe/berlin "),
        ("did you mean America/New_York?", "new york"),
        ("did you mean Europe/Berlin", "Europe/Berln"),
        ("write an IANA name, like Europe/Berlin", "Mittelerde"),
        ("write an IANA name, like Europe/Berlin", "../../etc/passwd"),
        ("write an IANA name, like Europe/Berlin", "/etc/localtime"),
        ("is not a known time zone", "Europe"),
        ("is not a known time zone", "zone.tab"),
        ("is not a known time zone", "x" * 5000),
        ("is not a known time zone", "Zürich"),
    ],
)
def test_an_unknown_zone_names_the_closest(hint: str, name: str) -> None:
    """By the last part or by its letters; what is no name at all is refused like any other."""
    with pytest.raises(WindowError) as caught:
        load_zone(name)
    assert hint in str(caught.value)


def test_a_host_without_a_database_is_told_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """UTC works without one; else the package that brings it is named."""
    before = zoneinfo.TZPATH
    for module in ("tzdata", "tzdata.zoneinfo", "tzdata.zoneinfo.Europe"):
        monkeypatch.setitem(sys.modules, module, None)
    try:
        zoneinfo.reset_tzpath(to=())
        zoneinfo.ZoneInfo.clear_cache()
        assert UTC is load_zone("UTC")
        with pytest.raises(WindowError, match="this host has no time zone database; install the package tzdata"):
            load_zone("Europe/Berlin")
    finally:
        zoneinfo.reset_tzpath(to=before)
