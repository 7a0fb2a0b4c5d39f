"""Pieces in, a body out: order, headers, what an owner replaces and takes along."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.metrics.exposition import Exposition, header
from exporter.metrics.families import Family
from exporter.metrics.negotiation import Format

UP = Family(name="coder_health_up", kind="gauge", labels=("target",), help="1 when up.")
RUNS = Family(name="coder_health_runs_total", kind="counter", labels=("target",), help="Runs.")


def make_exposition() -> Exposition:
    return Exposition((UP, RUNS))


def body(exposition: Exposition, wanted: Format = Format.TEXT) -> str:
    return b"".join(exposition.render(wanted)).decode()


def test_families_without_samples_are_not_shown() -> None:
    """An empty exposition is an empty text."""
    assert body(make_exposition()) == ""


def test_samples_of_a_family_stand_together_under_one_header() -> None:
    """Two owners with two families each give two blocks, in the order of the table."""
    exposition = make_exposition()
    exposition.replace("a", {RUNS.name: 'coder_health_runs_total{target="a"} 1.0\n', UP.name: "a 1.0\n"})
    exposition.replace("b", {RUNS.name: 'coder_health_runs_total{target="b"} 2.0\n', UP.name: "b 0.0\n"})
    assert (
        "# HELP coder_health_up 1 when up.\n"
        "# TYPE coder_health_up gauge\n"
        "a 1.0\n"
        "b 0.0\n"
        "# HELP coder_health_runs_total Runs.\n"
        "# TYPE coder_health_runs_total counter\n"
        'coder_health_runs_total{target="a"} 1.0\n'
        'coder_health_runs_total{target="b"} 2.0\n'
    ) == body(exposition)


def test_openmetrics_names_a_counter_without_total() -> None:
    """The header of a counter differs between the formats; its samples do not."""
    assert header(RUNS, Format.OPENMETRICS) == b"# HELP coder_health_runs Runs.\n# TYPE coder_health_runs counter\n"
    assert header(RUNS, Format.TEXT) == (
        b"# HELP coder_health_runs_total Runs.\n# TYPE coder_health_runs_total counter\n"
    )


def test_help_is_escaped_as_each_format_wants() -> None:
    """Backslash and line feed always, a quote in OpenMetrics only."""
    family = Family(name="x", kind="gauge", labels=(), help='a\\b\nc"d')
    assert header(family, Format.TEXT) == b'# HELP x a\\\\b\\nc"d\n# TYPE x gauge\n'
    assert header(family, Format.OPENMETRICS) == b'# HELP x a\\\\b\\nc\\"d\n# TYPE x gauge\n'


def test_replacing_keeps_the_place_and_drops_what_is_no_longer_there() -> None:
    """New text of an owner stands where the old one stood; a family it has left shows nothing of it."""
    exposition = make_exposition()
    exposition.replace("a", {UP.name: "a 1.0\n", RUNS.name: "a_runs 1.0\n"})
    exposition.replace("b", {UP.name: "b 1.0\n"})
    exposition.replace("a", {UP.name: "a 0.0\n", RUNS.name: ""})
    assert "# HELP coder_health_up 1 when up.\n# TYPE coder_health_up gauge\na 0.0\nb 1.0\n" == body(exposition)


def test_removing_takes_everything_along_and_may_be_done_twice() -> None:
    """An owner that is gone leaves nothing, and removing a stranger changes nothing."""
    exposition = make_exposition()
    exposition.replace("a", {UP.name: "a 1.0\n", RUNS.name: "a_runs 1.0\n"})
    exposition.remove("a")
    exposition.remove("a")
    assert body(exposition) == ""


def test_an_unknown_family_is_a_mistake() -> None:
    """A name that is not in the table cannot be shown."""
    with pytest.raises(KeyError, match="coder_health_typo"):
        make_exposition().replace("a", {"coder_health_typo": "x 1.0\n"})


def test_parts_that_were_taken_do_not_change() -> None:
    """What a scrape took stays whole while later runs go on."""
    exposition = make_exposition()
    exposition.replace("a", {UP.name: "a 1.0\n"})
    taken = exposition.render(Format.TEXT)
    exposition.replace("a", {UP.name: "a 0.0\n"})
    exposition.remove("a")
    assert b"".join(taken).endswith(b"a 1.0\n")


@given(
    st.lists(
        st.tuples(
            st.integers(0, 4), st.none() | st.dictionaries(st.sampled_from((UP.name, RUNS.name)), st.integers(0, 9))
        )
    )
)
def test_any_sequence_shows_the_last_pieces_of_each_owner(steps: list[tuple[int, dict[str, int] | None]]) -> None:
    """However owners come, change and go, the body is that of a fresh exposition of what is left."""
    exposition = make_exposition()
    left: dict[int, dict[str, str]] = {}
    for owner, values in steps:
        if values is None:
            exposition.remove(owner)
            left.pop(owner, None)
        else:
            pieces = {family: f"{family}_{owner} {value}\n" for family, value in values.items()}
            exposition.replace(owner, pieces)
            left[owner] = pieces
    shown = sorted(line for line in body(exposition).splitlines(keepends=True) if not line.startswith("#"))
    assert sorted(text for pieces in left.values() for text in pieces.values()) == shown
