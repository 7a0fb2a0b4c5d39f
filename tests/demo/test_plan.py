"""Plans: which scenario begins when."""

from __future__ import annotations

import itertools

import pytest

from exporter.demo import plan
from exporter.demo.scenarios.table import SCENARIOS
from exporter.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("EDB02", ("EDB02", 0.0, None)),
        ("edb02", ("EDB02", 0.0, None)),
        ("healthy", ("healthy", 0.0, None)),
        ("EDB02@30s", ("EDB02", 30.0, None)),
        ("EDB02@30s:2m", ("EDB02", 30.0, 120.0)),
        ("EDB02@1h30m:500ms", ("EDB02", 5400.0, 0.5)),
        ("EDB02@0s:1s", ("EDB02", 0.0, 1.0)),
    ],
)
def test_a_scenario_may_have_a_start_and_a_length(text: str, expected: tuple[str, float, float | None]) -> None:
    """NAME, NAME@START and NAME@START:LENGTH are read, names in any letter case."""
    (entry,) = plan.parse_plan([text])
    assert expected == (entry.scenario.name, entry.start_seconds, entry.duration_seconds)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("EDB99", "there is no scenario 'EDB99'; there are healthy, EACS01"),
        ("", "there is no scenario ''"),
        ("EWP03", "there is no scenario 'EWP03'"),
        ("EDB02@soon", "its start 'soon' is not a duration; write NAME, NAME@30s"),
        ("EDB02@30", "its start '30' is not a duration"),
        ("EDB02@-5s", "its start '-5s' is not a duration"),
        ("EDB02@", "its start '' is not a duration"),
        ("EDB02@30s:", "its length '' is not a duration above 0"),
        ("EDB02@30s:0s", "its length '0s' is not a duration above 0"),
        ("EDB02@30s:later", "its length 'later' is not a duration above 0"),
        ("XNET05@5s", "it is a matter of configuration, so it has no start and no length"),
        ("XNET05@0s:5s", "it is a matter of configuration, so it has no start and no length"),
        ("tour@1s:5s", "the tour has lengths of its own"),
    ],
)
def test_what_is_wrong_is_said(text: str, words: str) -> None:
    """The text, the wrong part and the wanted form stand in the error."""
    with pytest.raises(ConfigError) as raised:
        plan.parse_plan([text])
    assert words in str(raised.value)
    assert repr(text) in str(raised.value)


def test_all_problems_are_said_at_once() -> None:
    """Each wrong scenario has its own line."""
    with pytest.raises(ConfigError) as raised:
        plan.parse_plan(["EDB99@x:y", "EACS03", "nonsense"])
    assert 4 == len(raised.value.problems)


@pytest.mark.parametrize(
    ("texts", "reason"),
    [
        (["EDB02", "EDB02@10s"], "a scenario is played once at a time"),
        (["EDB02@5s:10s", "EDB01@10s"], "both change the way to the database"),
        (["EACS02@1s", "EACS01"], "both change the file of the access URL"),
        (["EDERP01", "websocket-only-fleet@5s"], "both change the relays"),
        (["ESTUN01@1s", "XNET02"], "both change the STUN servers"),
    ],
)
def test_scenarios_in_each_others_way_are_refused(texts: list[str], reason: str) -> None:
    """Two that change the same thing at the same time are an error."""
    with pytest.raises(ConfigError, match="overlap") as raised:
        plan.parse_plan(texts)
    assert reason in str(raised.value)


def test_others_may_overlap() -> None:
    """What has nothing to do with each other can be broken together, or one after the other."""
    entries = plan.parse_plan(["EDB02@20s", "EWP04", "EDB01@5s:15s"])
    assert ["EWP04", "EDB01", "EDB02"] == [entry.scenario.name for entry in entries]


def test_the_time_line_ends_before_it_begins() -> None:
    """At the same moment what ends comes before what begins; what never ends has no end."""
    moments = plan.timeline(plan.parse_plan(["EDB02@20s", "EDB01@5s:15s"]))
    assert [(5.0, True, "EDB01"), (20.0, False, "EDB01"), (20.0, True, "EDB02")] == [
        (moment.at_seconds, moment.begins, moment.scenario.name) for moment in moments
    ]


def test_the_tour_breaks_everything_once() -> None:
    """Every scenario that breaks something comes once, none at the same time as another."""
    entries = plan.parse_plan(["tour@10s"])
    assert [known.name for known in SCENARIOS.values() if known.breaks] == [entry.scenario.name for entry in entries]
    assert 10.0 + plan.TOUR_FIRST_SECONDS == entries[0].start_seconds
    assert all(first.end_seconds < second.start_seconds for first, second in itertools.pairwise(entries))


def test_the_tour_waits_for_what_takes_longer() -> None:
    """A scenario whose code needs more time than the others is given it, and the rest the usual time."""
    lengths = {entry.scenario.name: entry.end_seconds - entry.start_seconds for entry in plan.tour()}
    assert SCENARIOS["XEXP02"].lasts_seconds == pytest.approx(lengths.pop("XEXP02"))
    assert SCENARIOS["XEXP02"].lasts_seconds > plan.TOUR_LENGTH_SECONDS
    assert {plan.TOUR_LENGTH_SECONDS} == {round(length, 6) for length in lengths.values()}
