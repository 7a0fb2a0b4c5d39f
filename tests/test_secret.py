"""A string that never shows itself."""

from __future__ import annotations

import copy
import json
import pickle
import traceback

import pytest

from exporter.secret import Secret, mask, mask_within

TOKEN = "AbCdEfGhIj-0123456789abcdefghijkl"


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


@pytest.mark.parametrize(
    ("masked", "text"),
    [
        ("a <secret> b", f"a {TOKEN} b"),
        ("?token=<secret>&x", f"?token={TOKEN}&x"),
        ("0123456789-abcdefghijklmnopqrstuvw", "0123456789-abcdefghijklmnopqrstuvw"),
        ("6f0c1a52-7f4e-4b53-9d0a-0c8de5f5a3b1", "6f0c1a52-7f4e-4b53-9d0a-0c8de5f5a3b1"),
        # right behind an escape, in a body that was not read as what it is
        (r'{"x":"a\n<secret>"}', rf'{{"x":"a\n{TOKEN}"}}'),
        (r'{"x":"\u003d<secret>"}', rf'{{"x":"\u003d{TOKEN}"}}'),
        ("/login?redirect=%2Fx%3D<secret>", f"/login?redirect=%2Fx%3D{TOKEN}"),
        ("postgres://u:<secret>@h/d", "postgres://u:p@h/d"),
        ("postgres://u:<secret>@h/d", "postgres://u:p@s:s/w@h/d"),
        ("postgres://:<secret>@h", "postgres://:p@h"),
        ("https://h:8443/x and a@b", "https://h:8443/x and a@b"),
        ("https://u@h/x", "https://u@h/x"),
        ("host=h password=<secret> user=u", "host=h password=p user=u"),
        ("PASSWORD = <secret>", r"PASSWORD = 'a \' b'"),
        ("sslpassword=<secret>", "sslpassword=x"),
        ("password authentication failed for user u", "password authentication failed for user u"),
        ("session_token: is missing", "session_token: is missing"),
        ("", ""),
    ],
)
def test_mask(masked: str, text: str) -> None:
    """Tokens and passwords in connection strings are masked, and nothing else."""
    assert masked == mask(text)


def test_mask_within_values_of_json() -> None:
    """Texts at any depth, and names of members; what is no text stays as it is."""
    assert {"<secret>": [1, None, True, {"a": ["x <secret>", 2.5]}]} == mask_within(
        {TOKEN: (1, None, True, {"a": [f"x {TOKEN}", 2.5]})}
    )
