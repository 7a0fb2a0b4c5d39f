"""A string that never shows itself."""

from __future__ import annotations

import copy
import json
import pickle
import traceback

import pytest

from exporter.secret import Secret


@pytest.mark.parametrize(
    "shown",
    [
        repr(Secret("hunter2")),
        str(Secret("hunter2")),
        f"{Secret('hunter2')}",
        "%s" % Secret("hunter2"),  # noqa: UP031
        "%r" % [Secret("hunter2")],
        f"{Secret('hunter2')!r}",
        repr({"a": (Secret("hunter2"),)}),
        json.dumps(Secret("hunter2"), default=str),
    ],
)
def test_no_way_of_formatting_shows_it(shown: str) -> None:
    """Every way to make a text of it gives the mask."""
    assert "<secret>" in shown
    assert "hunter2" not in shown


def test_reveal_is_the_only_way_out() -> None:
    """What was put in comes out where it is asked for by name."""
    assert "hunter2" == Secret("hunter2").reveal()
    assert "hunter2" == copy.deepcopy(Secret("hunter2")).reveal()
    assert Secret("hunter2") == pickle.loads(pickle.dumps(Secret("hunter2")))


def test_equality_is_that_of_the_value() -> None:
    """Equal values are equal secrets, and a text is none."""
    assert Secret("a") == Secret("a")
    assert Secret("a") != Secret("b")
    assert Secret("a") != "a"
    assert 1 == len({Secret("a"), Secret("a")})


def test_a_traceback_with_local_variables_does_not_show_it() -> None:
    """Even where local variables are captured, the mask stands."""

    def fail(secret: Secret) -> None:
        raise ValueError(f"cannot use {secret}")

    with pytest.raises(ValueError) as caught:
        fail(Secret("hunt" + "er2"))
    text = "".join(traceback.TracebackException.from_exception(caught.value, capture_locals=True).format())
    assert "secret = <secret>" in text
    assert "hunter2" not in text
