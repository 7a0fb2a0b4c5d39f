"""From observed to settled, as a table of runs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.health.model import Finding, Severity
from exporter.health.settle import INITIAL, Policy, Settled, advance

SEEN = Finding(code="EDB02", severity=Severity.WARNING, message="slow")


def play(pattern: str, policy: Policy) -> str:
    """Return `A` for each run after which the code is active. Runs: `x` observed, `.` not observed,
    `h` observed while a grace is open."""
    state = INITIAL
    shown = ""
    for index, run in enumerate(pattern):
        state = advance(state, None if run == "." else SEEN, policy=policy, now=100.0 + index, held=run == "h")
        shown += "A" if state.active else "-"
    return shown


@pytest.mark.parametrize(
    ("raise_after", "clear_after", "runs", "expected"),
    [
        (2, 2, "..x..", "-----"),  # one bad run is none
        (2, 2, "xx...", "-AA--"),
        (2, 2, "xx.xx", "-AAAA"),  # one good run does not end it
        (2, 2, "x.x.x.", "------"),  # never twice in a row
        (2, 2, "xx.x.x..", "-AAAAAA-"),
        (1, 1, "x.x", "A-A"),
        (3, 1, "xxx.xx", "--A---"),
        (1, 3, "x..x...", "AAAAAA-"),
        (2, 2, "hhhx", "---A"),  # outlives the grace: active with the first run after it
        (2, 2, "hhh.x", "-----"),
        (2, 2, "xxh", "-AA"),  # a grace ends nothing
        (2, 2, "", ""),
    ],
)
def test_runs_in_a_row_decide(raise_after: int, clear_after: int, runs: str, expected: str) -> None:
    """A code becomes active after so many observations in a row, and clears the same way."""
    assert expected == play(runs, Policy(raise_after=raise_after, clear_after=clear_after))


def test_since_is_the_run_that_made_it_active() -> None:
    """`since` is set once, and not moved by later runs."""
    policy = Policy(raise_after=2, clear_after=2)
    state = INITIAL
    for now, finding in ((1.0, SEEN), (2.0, SEEN), (3.0, None), (4.0, SEEN)):
        state = advance(state, finding, policy=policy, now=now, held=False)
    assert 2.0 == state.since_timestamp_seconds


def test_a_worse_severity_shows_at_once() -> None:
    """An active code takes the severity and the words of the latest observation."""
    worse = Finding(code="XACS03", severity=Severity.ERROR, message="expires in 1 hour")
    state = advance(
        Settled(active=True, since_timestamp_seconds=1.0, severity=Severity.WARNING, message="expires soon"),
        worse,
        policy=Policy(),
        now=9.0,
        held=False,
    )
    assert (Severity.ERROR, "expires in 1 hour", 1.0) == (state.severity, state.message, state.since_timestamp_seconds)


@given(
    runs=st.text(alphabet="x.", max_size=60),
    raise_after=st.integers(1, 5),
    clear_after=st.integers(1, 5),
)
def test_an_outage_long_enough_always_settles_and_one_bad_run_never_does(
    runs: str, raise_after: int, clear_after: int
) -> None:
    """Whatever came before: enough bad runs settle it, enough good runs end it."""
    policy = Policy(raise_after=raise_after, clear_after=clear_after)
    assert play(runs + "x" * raise_after, policy).endswith("A")
    assert play(runs + "." * clear_after, policy).endswith("-")
    if raise_after > 1:
        assert "A" not in play("x".join("." * len(runs)), policy)
