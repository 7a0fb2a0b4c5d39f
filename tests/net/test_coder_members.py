"""Members of Coder's objects, in any shape."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.net.coder_members import MAX_TEXT_CHARS, Members, cut_text, make_key


@pytest.mark.parametrize(
    ("method", "found", "value"),
    [
        ("text", "a", "a"),
        ("text", "x" * 3000, "x" * MAX_TEXT_CHARS + "..."),
        ("text", "a\udc00b", "a\ufffdb"),
        ("name", "x" * 3000, "x" * 64),
        ("flag", True, True),
        ("flag", False, False),
        ("number", 1.5, 1.5),
        ("number", -7, -7),
        ("whole", 200, 200),
        ("duration", "1.5ms", 0.0015),
        ("duration", 1500000, 0.0015),
        ("duration", "", None),
        ("time", "2026-11-21T05:18:40Z", 1795238320.0),
        ("time", "0001-01-01T00:00:00Z", None),
        ("time", "", None),
        ("object", {"a": 1}, {"a": 1}),
    ],
)
def test_good_member_is_read(method: str, found: Any, value: Any) -> None:
    """What has the shape is read, and nothing is dropped."""
    members = Members()
    assert value == getattr(members, method)({"m": found}, "m")
    assert 0 == members.dropped


@given(st.text(max_size=100) | st.sampled_from(["report", "coder_" + "x" * 80, "X_" * 60, "_", "\u0130"]))
def test_any_name_becomes_a_key(name: str) -> None:
    """Whatever a name is, it is fit for a label afterwards, and stays as it is from then on."""
    key = make_key(name)
    assert re.fullmatch(r"[a-z][a-z0-9_]{0,63}", key) is not None
    assert key == make_key(key)


@pytest.mark.parametrize("name", ["pubsub", "usage_publishing", "a", "a__1_", "x" * 64])
def test_a_key_stays_as_it_is(name: str) -> None:
    """Names as Coder writes them are not touched."""
    assert name == make_key(name)


@pytest.mark.parametrize(
    ("method", "nothing"),
    [("text", ""), ("name", ""), *((name, None) for name in ("flag", "number", "whole", "duration", "time", "object"))],
)
def test_null_and_missing_members_are_the_same(method: str, nothing: Any) -> None:
    """Both are read as nothing and not counted."""
    members = Members()
    assert [nothing, nothing] == [getattr(members, method)(holder, "m") for holder in ({}, {"m": None})]
    assert 0 == members.dropped


@pytest.mark.parametrize(
    ("method", "found"),
    [
        ("text", 1),
        ("name", ["a"]),
        ("flag", 1),
        ("flag", "true"),
        ("number", True),
        ("number", "1"),
        ("number", float("inf")),
        ("whole", 1.5),
        ("whole", 1 << 63),
        ("duration", "soon"),
        ("duration", float("nan")),
        ("duration", {}),
        ("time", 1795238320),
        ("time", "soon"),
        ("object", []),
    ],
)
def test_member_of_another_shape_is_dropped(method: str, found: Any) -> None:
    """It is read as nothing, and counted."""
    members = Members()
    assert not getattr(members, method)({"m": found}, "m")
    assert 1 == members.dropped


@pytest.mark.parametrize(
    ("method", "found", "value", "dropped"),
    [
        ("entries", [1, None, "a"], [1, "a"], 0),
        ("entries", [1, 2, 3, 4, 5], [1, 2, 3], 2),
        ("entries", {}, None, 1),
        ("objects", [{"a": 1}, 7, None], [{"a": 1}], 1),
        ("objects", None, None, 0),
        ("texts", ["a", 7, "b", "c"], ("a", "b"), 2),
        ("texts", ["\ud800"], ("\ufffd",), 0),
    ],
)
def test_lists_are_bounded(method: str, found: Any, value: Any, dropped: int) -> None:
    """Entries beyond the bound and of another shape are dropped, null ones are not counted."""
    members = Members()
    assert value == getattr(members, method)({"m": found}, "m", most=3)
    assert dropped == members.dropped


@given(st.text(st.characters(categories=("L", "Cs", "Cc"))), st.integers(min_value=0, max_value=20))
def test_cut_text_can_be_encoded(text: str, max_chars: int) -> None:
    """Any text gives one that can be encoded, no longer than what was asked for and three dots."""
    cut = cut_text(text, max_chars)
    cut.encode()
    assert len(cut) <= max_chars + 3
