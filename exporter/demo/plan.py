"""A plan: which scenario begins when, and how long it lasts.

In: what people write, `NAME`, `NAME@30s` or `NAME@30s:2m`. Out: entries, and the moments at which
something begins or ends.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from exporter.config.durations import parse_duration
from exporter.demo.scenario import TOUR, Scenario
from exporter.demo.scenarios import table
from exporter.errors import ConfigError

WANTED = "write NAME, NAME@30s (starts after 30 s) or NAME@30s:2m (and lasts 2 min)"
# The tour: long enough for a code to become active, then for it to be over.
TOUR_FIRST_SECONDS = 12.0
TOUR_LENGTH_SECONDS = 22.0
TOUR_PAUSE_SECONDS = 14.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One scenario of a plan. Seconds count from the start; `duration_seconds` None lasts to the end."""

    scenario: Scenario
    start_seconds: float = 0.0
    duration_seconds: float | None = None

    @property
    def end_seconds(self) -> float:
        return float("inf") if self.duration_seconds is None else self.start_seconds + self.duration_seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """Something begins or ends."""

    at_seconds: float
    begins: bool
    scenario: Scenario


def parse_plan(texts: Sequence[str]) -> tuple[Entry, ...]:
    """Read what was asked for, in the order of its beginning.

    Raises:
        ConfigError: A name or a duration is wrong, or two scenarios are in each other's way; all
            problems at once.
    """
    problems: list[str] = []
    entries: list[Entry] = []
    for text in texts:
        try:
            entries += _parse(text)
        except ConfigError as error:
            problems += error.problems
    entries.sort(key=lambda entry: entry.start_seconds)
    for first, second in itertools.combinations(entries, 2):
        if second.start_seconds < first.end_seconds and (reason := _conflict(first.scenario, second.scenario)):
            problems.append(f"{first.scenario.name} and {second.scenario.name} overlap, but {reason}")
    if problems:
        raise ConfigError(problems)
    return tuple(entries)


def timeline(entries: Sequence[Entry]) -> tuple[Moment, ...]:
    """Return every beginning and end in order; at one time what ends comes first."""
    moments = [Moment(at_seconds=entry.start_seconds, begins=True, scenario=entry.scenario) for entry in entries]
    moments += [
        Moment(at_seconds=entry.end_seconds, begins=False, scenario=entry.scenario)
        for entry in entries
        if entry.duration_seconds is not None
    ]
    return tuple(sorted(moments, key=lambda moment: (moment.at_seconds, moment.begins)))


def tour(start_seconds: float = 0.0) -> tuple[Entry, ...]:
    """Return the story that breaks everything once, one after the other."""
    entries: list[Entry] = []
    begin = start_seconds + TOUR_FIRST_SECONDS
    for known in table.SCENARIOS.values():
        if known.breaks:
            length = max(TOUR_LENGTH_SECONDS, known.lasts_seconds)
            entries.append(entry := Entry(scenario=known, start_seconds=begin, duration_seconds=length))
            begin = entry.end_seconds + TOUR_PAUSE_SECONDS
    return tuple(entries)


def _parse(text: str) -> tuple[Entry, ...]:
    name, at, when = text.partition("@")
    start_text, colon, duration_text = when.partition(":")
    start = parse_duration(start_text) if at else 0.0
    duration = parse_duration(duration_text) if colon else None
    problems = []
    if at and start is None:
        problems.append(f"scenario {text!r}: its start {start_text!r} is not a duration; {WANTED}")
    if colon and not duration:
        problems.append(f"scenario {text!r}: its length {duration_text!r} is not a duration above 0; {WANTED}")
    if name.casefold() == TOUR:
        if colon:
            problems.append(f"scenario {text!r}: the tour has lengths of its own; write tour or tour@30s")
        if not problems:
            return tour(start or 0.0)
        raise ConfigError(problems)
    known = table.find(name)
    if known is None:
        names = ", ".join((*table.SCENARIOS, TOUR))
        problems.append(f"scenario {text!r}: there is no scenario {name!r}; there are {names}")
    if problems or known is None:
        raise ConfigError(problems)
    if known.of_configuration and (start or duration):
        raise ConfigError([f"scenario {text!r}: it is a matter of configuration, so it has no start and no length"])
    return (Entry(scenario=known, start_seconds=start or 0.0, duration_seconds=duration),)


def _conflict(first: Scenario, second: Scenario) -> str:
    """Return why two scenarios cannot be played at the same time; empty when they can."""
    if first.name == second.name:
        return "a scenario is played once at a time"
    if first.resource and first.resource == second.resource:
        return f"both change {first.resource}"
    return ""
