"""Texts of strangers, made fit for a sentence: on one line, short, and each said once."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.health.report_words import MAX_DETAIL_CHARS, MAX_SENTENCE_CHARS, cut, list_few, tally


@pytest.mark.parametrize(
    ("text", "max_chars", "expected"),
    [
        pytest.param("", 10, "", id="nothing"),
        pytest.param("short", 10, "short", id="short"),
        pytest.param("0123456789", 10, "0123456789", id="just fits"),
        pytest.param("0123456789x", 10, "0123456789...", id="one too many"),
        pytest.param(" a\n\tb\u2028c\r\n ", 10, "a b c", id="lines"),
        pytest.param("a    b    c    d", 10, "a b c d", id="fits without its spaces"),
        pytest.param("a" + " " * 30 + "b", 10, "a b", id="many spaces"),
        pytest.param("\u6570" * 11, 10, "\u6570" * 10 + "...", id="counts characters"),
        pytest.param("x" * 1_000_000, 10, "x" * 10 + "...", id="huge"),
    ],
)
def test_a_text_is_cut(text: str, max_chars: int, expected: str) -> None:
    """It stands on one line, and where something is missing, that shows."""
    assert expected == cut(text, max_chars)


def test_a_sentence_is_the_default() -> None:
    """Nothing that is told is longer, wherever it came from."""
    assert "x" * MAX_SENTENCE_CHARS == cut("x" * MAX_SENTENCE_CHARS)
    assert "x" * MAX_SENTENCE_CHARS + "..." == cut("x" * (MAX_SENTENCE_CHARS + 1))


@given(st.text(alphabet=st.sampled_from("ab \n\t\x0b\x1c\x85\u2029\u3000"), max_size=60), st.integers(1, 20))
def test_whatever_is_cut_is_one_short_line(text: str, max_chars: int) -> None:
    """No kind of line break passes, and what is left is the beginning."""
    told = cut(text, max_chars)
    assert [told] == (told.splitlines() or [""])
    assert len(told) <= max_chars + len("...")
    assert " ".join(text.split()).startswith(told.removesuffix("..."))


@pytest.mark.parametrize(
    ("count", "expected"),
    [(0, ""), (1, "p0"), (5, "p0; p1; p2; p3; p4"), (6, "p0; p1; p2; p3; p4; and 1 more")],
)
def test_few_are_listed(count: int, expected: str) -> None:
    """Five as they come, and how many more there are."""
    assert expected == list_few(f"p{number}" for number in range(count))


def test_each_of_few_is_cut() -> None:
    """So that none of them leaves no room for the others."""
    assert "x" * MAX_DETAIL_CHARS + "...; y" == list_few(["x" * 2 * MAX_DETAIL_CHARS, "y"])


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        pytest.param([], "", id="none"),
        pytest.param(["a"], "a", id="one"),
        pytest.param(["b", "a"], "a; b", id="by the alphabet"),
        pytest.param(["a", "b", "b"], "b (2 times); a", id="most frequent first"),
        pytest.param(["c", "b", "c", "a", "b"], "b (2 times); c (2 times); a", id="equally often"),
    ],
)
def test_texts_are_tallied(texts: list[str], expected: str) -> None:
    """Each once, with how often it came."""
    assert expected == tally(texts)


def test_few_are_tallied() -> None:
    """The most frequent ones are listed, the others counted, each text once."""
    texts = [f"p{number}" for number in range(9) for _ in range(number + 1)]
    assert "p8 (9 times); p7 (8 times); p6 (7 times); p5 (6 times); p4 (5 times); and 4 more" == tally(texts)


@given(st.lists(st.sampled_from("abcdefg"), max_size=20), st.randoms(use_true_random=False))
def test_a_tally_is_the_same_in_any_order(texts: list[str], chance: Random) -> None:
    """Coder tells them in random order, which is no news."""
    shuffled = list(texts)
    chance.shuffle(shuffled)
    assert tally(texts) == tally(shuffled)


def test_a_long_text_keeps_its_count() -> None:
    """How often it came stands behind what is left of it."""
    assert "x" * MAX_DETAIL_CHARS + "... (3 times)" == tally(["x" * 300] * 3)
