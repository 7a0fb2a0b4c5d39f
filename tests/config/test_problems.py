"""How problems are written."""

from __future__ import annotations

import pytest

from exporter.config.problems import Problem, format_path, quote


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("f.yaml:12: a[0].b: is wrong", Problem(path=("a", 0, "b"), line=12, text="is wrong")),
        ("f.yaml: a: is wrong", Problem(path=("a",), text="is wrong")),
        ("f.yaml: is wrong", Problem(text="is wrong")),
    ],
)
def test_render(text: str, problem: Problem) -> None:
    """A problem is file and line, key path, and what is wrong."""
    assert text == problem.render("f.yaml")


@pytest.mark.parametrize(
    "key", ["postgres://u:p@h/d", "0123456789-abcdefghijklmnopqrstuv", "two words", "x" * 33, "a\nb", "S3cret"]
)
def test_a_key_that_may_be_a_secret_is_not_shown(key: str) -> None:
    """A misplaced value that YAML takes for a key stays hidden."""
    assert "database.(a key that is not a plain word)" == format_path(("database", key))


@pytest.mark.parametrize(
    ("quoted", "text"),
    [
        ('"30"', "30"),
        ('"-1.5 h"', "-1.5 h"),
        ('""', ""),
        ('"yes"', "yes"),
        ('"5\\nb"', "5\nb"),
        ("this text", "hunter2"),
        ("this text", "1" * 21),
    ],
)
def test_quote(quoted: str, text: str) -> None:
    """What looks like a number or a short word is quoted on one line; anything else may be a secret."""
    assert quoted == quote(text)
