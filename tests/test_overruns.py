"""Runs that take longer than their interval, again and again."""

from __future__ import annotations

import pytest

from exporter.overruns import Overruns

KNOWN = ("a", "b")


@pytest.mark.parametrize(
    ("runs", "expected"),
    [
        ("", ()),
        ("x", ()),  # a single one is no news
        ("xx", ("a",)),
        ("x.x", ()),
        ("xx.", ("a",)),  # until the next one has begun in time
        ("xx..", ()),
        ("..xxx", ("a",)),
    ],
)
def test_two_in_a_row_are_slow(runs: str, expected: tuple[str, ...]) -> None:
    """Each run begins, and either runs into its next tick (x) or does not; one in time ends it."""
    overruns = Overruns()
    for run in runs:
        overruns.started("a")
        if run == "x":
            overruns.skipped("a")
    assert expected == overruns.list_slow(KNOWN)


def test_many_skipped_ticks_of_one_run_count_once() -> None:
    """However long a run was, it was one."""
    overruns = Overruns()
    overruns.started("a")
    overruns.skipped("a")
    overruns.skipped("a")
    assert () == overruns.list_slow(KNOWN)


def test_who_is_gone_is_forgotten() -> None:
    """Also when a target of that name comes again later."""
    overruns = Overruns()
    for _ in range(2):
        overruns.started("a")
        overruns.skipped("a")
    assert () == overruns.list_slow(("b",))
    assert () == overruns.list_slow(KNOWN)


def test_all_can_be_forgotten() -> None:
    """After that it takes two runs again."""
    overruns = Overruns()
    for _ in range(2):
        overruns.started("a")
        overruns.skipped("a")
    overruns.forget()
    overruns.started("a")
    overruns.skipped("a")
    assert () == overruns.list_slow(KNOWN)
