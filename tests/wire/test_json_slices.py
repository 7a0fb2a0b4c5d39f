"""JSON in slices: as the standard library reads it, and nothing that hurts."""

from __future__ import annotations

import contextlib
import json
import math
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from exporter.errors import WireError
from exporter.wire.json_slices import MAX_DEPTH, MAX_VALUES, SLICE_BYTES, read_json, read_slices
from tests.support.coder_reports import make_report

_SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(min_value=-(10**18), max_value=10**18)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=4)
)
_VALUES = st.recursive(
    _SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4)
)
LONG = "x" * (SLICE_BYTES - 100)


def read_shortly(data: bytes, slice_bytes: int) -> Any:
    steps = read_slices(data, slice_bytes=slice_bytes)
    while True:
        try:
            next(steps)
        except StopIteration as done:
            return done.value


def cut(text: str) -> str:
    """A text as it is read outside of a slice: as much as its first slice holds of whole characters."""
    head = json.dumps(text)[1:-1][:SLICE_BYTES]
    unfinished = (len(head) - len(head.rstrip("\\"))) % 2
    return json.loads(f'"{head[: len(head) - unfinished]}"')  # type: ignore[no-any-return]


def cut_all(value: Any) -> Any:
    if isinstance(value, str):
        return cut(value)
    if isinstance(value, list):
        return [cut_all(entry) for entry in value]
    return value


def names(value: Any) -> set[str]:
    """The names of all members, at any depth."""
    if isinstance(value, dict):
        return value.keys() | names(list(value.values()))
    return set().union(*map(names, value)) if isinstance(value, list) else set()


def load_and_cut(text: str) -> Any:
    def cut_members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        return {cut(name): cut_all(value) for name, value in pairs}

    return cut_all(json.loads(text, object_pairs_hook=cut_members))


def count_pauses(data: bytes, **options: Any) -> int:
    return sum(1 for _ in read_slices(data, **options))


@given(_VALUES)
def test_short_values_are_as_the_library_reads_them(value: Any) -> None:
    """What is written by the library comes back, in each of its ways of writing."""
    for text in (json.dumps(value), json.dumps(value, indent=1, ensure_ascii=False)):
        assert value == read_json(text.encode())


@given(_VALUES, _VALUES)
def test_long_values_are_as_the_library_reads_them(first: Any, second: Any) -> None:
    """Containers of several slices, which are walked, give what the library gives."""
    value = {"a": [first, LONG, {"b": [LONG, second], "": first}], "c": {"d": LONG, "e": [[first, LONG], second]}}
    for text in (json.dumps(value), json.dumps(value, indent="\t", ensure_ascii=False)):
        assert value == read_json(text.encode())


@given(_VALUES, st.sampled_from([60, 61, 67, 80, 150]))
def test_any_slice_gives_the_same(value: Any, slice_bytes: int) -> None:
    """However short the slices are, the value is that of the library, as long as no text is cut."""
    text = json.dumps({"a": value, "b": [value, 1, value], "": {"c": value}})
    assert json.loads(text) == read_shortly(text.encode(), slice_bytes)


@given(st.lists(st.sampled_from(["[", "]", "{", "}", '"', '"a":', ",", "1", "\\", "null", " "]), max_size=30))
def test_short_slices_read_what_the_library_reads(tokens: list[str]) -> None:
    """Of tokens in any order only JSON is read when everything is walked, and it gives the same value."""
    text = "".join(tokens)
    try:
        value = read_shortly(text.encode(), 33)
    except WireError:
        with pytest.raises(ValueError):
            json.loads(text, strict=False)
    else:
        assert json.loads(text) == value


def test_report_of_many_relays_is_read_with_pauses() -> None:
    """A report of half a MiB gives what the library gives, with a pause each slice or two."""
    body = make_report(regions=40, nodes=3, log_lines=24, daemons=10)
    assert json.loads(body) == read_json(body)
    assert 30 * SLICE_BYTES < len(body)
    assert len(body) // SLICE_BYTES // 2 <= count_pauses(body)


@pytest.mark.parametrize("filling", [LONG[:50], LONG])
def test_members_are_left_out_at_any_depth(filling: str) -> None:
    """A member to be left out is gone, whether its holder is decoded whole or walked."""
    value = {"a": {"logs": [filling, {"b": 1}], "b": [{"logs": {"c": filling * 2}, "c": 1}]}, "logs": 3, "d": filling}
    wanted = {"a": {"b": [{"c": 1}]}, "d": filling}
    assert wanted == read_json(json.dumps(value).encode(), leave_out=frozenset({"logs"}))


def test_last_of_two_members_counts() -> None:
    """Members of one name: the last one wins, in short and in long containers."""
    assert {"a": 2} == read_json(b'{"a":1,"a":2}')
    assert {"a": 2, "b": LONG} == read_json(f'{{"a":[1],"b":["{LONG}","x"],"b":"{LONG}","a":2}}'.encode())


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (b" \t\r\n1 \n", 1),
        (b'"\\u00e9\\ud83d\\ude00\\n"', "\u00e9\U0001f600\n"),
        (b'"\\ud800"', "\ud800"),
        (b'"\x01"', "\x01"),
        (b"\xef\xbb\xbf[]", []),
        (b"[NaN,Infinity,-Infinity]", [None, None, None]),
        (b"-0.5e3", -500.0),
        (b"[1e999]", [math.inf]),
        (b"12345678901234567890", 12345678901234567890),
        (b"123456789012345678901", 1.2345678901234568e20),
        (b"[" + b"9" * 5000 + b"]", [math.inf]),
    ],
)
def test_odd_values_are_read(text: bytes, value: Any) -> None:
    """A byte order mark, lone surrogates, control characters, what is no number and what is too great."""
    assert value == read_json(text)


@pytest.mark.parametrize("character", ["x", '\\"', "\\u00e9", "\u65e5", "\\\\", "\\ud83d\\ude00"])
@pytest.mark.parametrize("shift", range(7))
def test_long_text_is_cut(character: str, shift: int) -> None:
    """A text of several slices gives its beginning, wherever the cut falls."""
    whole = json.loads('"' + "y" * shift + character * SLICE_BYTES + '"')
    text = f'{{"a": "{"y" * shift}{character * SLICE_BYTES}{LONG}", "b": [1]}}'
    value = read_json(text.encode())
    assert [1] == value["b"]
    assert SLICE_BYTES // 12 <= len(value["a"]) <= SLICE_BYTES
    assert whole.startswith(value["a"].rstrip("\ud83d"))


@pytest.mark.parametrize(
    "text",
    [
        *(
            b"",
            b" ",
            b"{",
            b"[",
            b'"',
            b'"\\',
            b"[1",
            b"[1,",
            b"[1,]",
            b"[,1]",
            b'{"a"',
            b'{"a":',
            b'{"a":1',
            b'{"a":1,}',
        ),
        *(
            b"{1:2}",
            b"{a:1}",
            b'{"a" 1}',
            b"[1 2]",
            b"tru",
            b"nul",
            b"01",
            b"1.",
            b"+1",
            b"'a'",
            b"1 2",
            b"{} x",
            b"[]]",
        ),
        *(
            b"[}",
            b'{"a":[}]',
            b'"\\x"',
            b'"\\u12"',
            b"<html>",
            b"\xff\xfe[\x00]\x00",
            b'"\xff"',
            b'{"a":"\xc3"}',
            b"\x00",
        ),
    ],
)
def test_what_is_no_json_is_refused(text: bytes) -> None:
    """Truncated, malformed and followed by something: a WireError, also inside a container that is walked."""
    with pytest.raises(WireError):
        read_json(text)
    if text.strip():
        with pytest.raises(WireError):
            read_json(b'{"long": ["' + LONG.encode() * 2 + b'"], "here": [' + text + b"], ")


def test_long_text_that_is_no_utf_8_is_refused() -> None:
    """Where its beginning is kept, that is checked."""
    with pytest.raises(WireError, match="not UTF-8"):
        read_json(b'["\xff' + LONG.encode() * 2 + b'"]')


def test_long_container_within_a_deep_one_is_bounded_too() -> None:
    """Containers that are known to be long are refused at the same depth as others."""
    text = b"[" * (MAX_DEPTH + 1) + (b'"' + LONG.encode() + b'",') * 3 + b"0" + b"]" * (MAX_DEPTH + 1)
    with pytest.raises(WireError, match="nested too deeply"):
        read_json(text)


@pytest.mark.parametrize("leave_out", [frozenset[str](), frozenset({"a"})])
def test_truncated_text_is_refused_wherever_it_ends(leave_out: frozenset[str]) -> None:
    """Every beginning of a text that is walked is refused."""
    text = json.dumps({"a": [LONG, {"b": LONG + '"\\'}], "c": 1}).encode()
    for length in (*range(0, 40), *range(SLICE_BYTES - 120, SLICE_BYTES + 40), *range(len(text) - 130, len(text))):
        with pytest.raises(WireError):
            read_json(text[:length], leave_out=leave_out)


def test_nesting_is_bounded() -> None:
    """The deepest allowed container is read, one more is refused, also where the outer ones are walked."""
    for filling in (b"1", b'"' + LONG.encode() + b'","' + LONG.encode() + b'"'):
        deepest = b"[" * MAX_DEPTH + filling + b"]" * MAX_DEPTH
        assert json.loads(deepest) == read_json(deepest)
        with pytest.raises(WireError, match="nested too deeply"):
            read_json(b"[" + deepest + b"]")


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"[" * (1 << 20), "nested too deeply"),
        (b'{"a":' * (1 << 18), "nested too deeply"),
        (b"[" + b"0," * MAX_VALUES + b"0]", "more than"),
        (b"[" + b"{}," * MAX_VALUES + b"0]", "more than"),
        (b'{"logs":[' + b"[]," * MAX_VALUES + b"0]}", "more than"),
        (b"[" + b"1" * (1 << 20) + b"]", "a number without an end"),
        (b"[" + b" " * (1 << 20) + b"]", "white space without an end"),
        (b'["' + b"a" * (1 << 20), "a text that does not end"),
        (b'["' + b"\\" * ((1 << 20) + 1) + b'"]', "a text that does not end"),
        (b'{"' + b"a" * (1 << 20) + b'" 1}', "a member without a value"),
    ],
    ids=range(10),
)
def test_what_is_meant_to_hurt_is_refused(body: bytes, words: str) -> None:
    """Nesting, masses of values, and what never ends."""
    with pytest.raises(WireError, match=words):
        read_json(body, leave_out=frozenset({"logs"}))


def test_masses_in_short_containers_count_too() -> None:
    """Values are counted where the library decoded them, also the innermost."""
    body = b"[" + b",".join([b"[" + b"0," * 999 + b"0]"] * (MAX_VALUES // 1000)) + b"]"
    with pytest.raises(WireError, match="more than"):
        read_json(body)


@given(st.binary(max_size=64))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    """No bytes raise anything but a WireError, alone or inside what is walked."""
    for body in (data, b"[" + data + b"]", b'{"a":["' + LONG.encode() * 2 + b'",' + data + b"]}"):
        with contextlib.suppress(WireError):
            assert "b" not in names(read_json(body, leave_out=frozenset({"b"})))


@example(['"', "LONG", "LONG", '"'])
@example(["{", '"', "LONG", "LONG", "\\", '"a":', '"', "LONG", *["1"] * 99, "\\", "\\", '"', "}"])
@given(st.lists(st.sampled_from(["[", "]", "{", "}", '"', '"a":', ",", "1", "\\", "null", " ", "LONG"]), max_size=20))
def test_whatever_is_read_is_what_the_library_reads(tokens: list[str]) -> None:
    """Of tokens in any order only JSON is read, and it gives the same value with its long texts cut."""
    text = "".join(tokens).replace("LONG", LONG)
    try:
        value = read_json(text.encode())
    except WireError:
        with pytest.raises(ValueError):
            json.loads(text, strict=False)
    else:
        assert load_and_cut(text) == value
