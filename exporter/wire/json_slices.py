"""JSON that is read in slices, so that who reads a long text can do other things in between.

In: the whole text as bytes, of anybody. Out: what `json.loads` would give, less what nobody asked for,
by way of a generator that pauses after each slice of some KiB. The standard library decodes a text at
one go and lets nobody in meanwhile, not even from another thread: some 25 ms for 3 MB. So
the containers that are longer than a slice are walked here, and only those within a slice are left
to the library.

What is meant to hurt is refused before it is built: nesting, masses of tiny values, endless numbers
and white space. Long texts are cut. Of a member that is left out only brackets, quotes and nesting are
looked at.

Source: RFC 8259
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Generator
from typing import Any

from exporter.errors import WireError

# What is decoded between two pauses: a fraction of a millisecond, some milliseconds at worst.
SLICE_BYTES = 16 * 1024
# Coder's report has 9 levels.
MAX_DEPTH = 32
# A report of 2000 nodes and 5000 daemons has some 200000, and to let go of more takes too long.
MAX_VALUES = 300_000

# Each looks at a byte once or twice, whatever comes: what repeats is possessive where it is a single set of
# bytes, and has only one way to match where it is a group. (Possessive groups lose their place when they run
# into the end, in the Python 3.11.2 of Debian 12.)
_SPACE = re.compile(rb"[ \t\n\r]*+")
_TO_BRACKET = re.compile(rb'[^"\[\]{}]*+(?:"[^"\\]*+(?:\\.[^"\\]*+)*"[^"\[\]{}]*+)*([\[\]{}])', re.DOTALL)
_TEXT = re.compile(rb'[^"\\]*+(?:\\(?:u[0-9a-fA-F]{4}|["\\/bfnrt])[^"\\]*+)*')
_WORD = re.compile(rb'[^ \t\n\r,:"\[\]{}]*+')
_QUOTE = b'"'
_CLOSING = {b"[": b"]", b"{": b"}"}
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
# Longer ones are no number that anybody means, and reading them takes time by the square of their length.
_MAX_INTEGER_CHARS = 20
_STEP_BYTES = 32  # what a member costs beside its bytes

Steps = Generator[None, None, Any]


def read_slices(data: bytes, *, leave_out: frozenset[str] = frozenset(), slice_bytes: int = SLICE_BYTES) -> Steps:
    """Read one JSON value; a pause is a `yield`, and the value is what the generator returns.

    Of members of the same name the last one counts. Integers of more than 20 characters become floats,
    perhaps infinite; NaN and Infinity, which are no JSON, become null. Texts may hold lone surrogates;
    those that are longer than a slice are cut.

    Args:
        leave_out: Names of members that are passed over, at any depth.
        slice_bytes: What is decoded between two pauses, and how long a text, a number or white space may be.

    Raises:
        WireError: No JSON, something after it, or a text that is meant to hurt.
    """
    return _Walk(data, leave_out, slice_bytes).read()


def read_json(data: bytes, *, leave_out: frozenset[str] = frozenset()) -> Any:
    """Read one JSON value at one go, by the rules of `read_slices`."""
    steps = read_slices(data, leave_out=leave_out)
    while True:
        try:
            next(steps)
        except StopIteration as done:
            return done.value


class _Walk:
    """One text, and how far it is read."""

    def __init__(self, data: bytes, leave_out: frozenset[str], slice_bytes: int) -> None:
        self._data = data
        self._slice_bytes = slice_bytes
        self._leave_out = leave_out
        self._position = len(_BYTE_ORDER_MARK) if data.startswith(_BYTE_ORDER_MARK) else 0
        self._spent_bytes = 0
        self._values = 0
        # where containers begin of which it is known that they do not end soon
        self._long: set[int] = set()

    def read(self) -> Steps:
        self._pass_space()
        value = yield from self._read_value(depth=0, wanted=True)
        self._pass_space()
        if self._position < len(self._data):
            raise self._complain("something follows the JSON")
        return value

    def _read_value(self, *, depth: int, wanted: bool) -> Steps:
        start, first = self._position, self._peek()
        if first == _QUOTE:
            return (yield from self._read_text(wanted=wanted))
        if first not in _CLOSING:
            return self._read_word()
        end = self._find_end(depth)
        if end is None:
            self._spent_bytes = 0
            yield  # a slice was looked at for nothing
            walk = self._walk_object if first == b"{" else self._walk_list
            return (yield from walk(depth=depth, wanted=wanted))
        self._position = end
        value = self._trim(self._decode(start, end)) if wanted else None
        if self._spend(end - start):
            yield
        return value

    def _walk_object(self, *, depth: int, wanted: bool) -> Steps:
        members: dict[str, Any] = {}
        self._position += 1
        self._pass_space()
        if self._take(b"}"):
            return members
        while True:
            if self._peek() != _QUOTE:
                raise self._complain("a member without a name")
            name = yield from self._read_text(wanted=True)
            self._pass_space()
            if not self._take(b":"):
                raise self._complain("a member without a value")
            self._pass_space()
            kept = wanted and name not in self._leave_out
            value = yield from self._read_value(depth=depth + 1, wanted=kept)
            self._count(1)
            if kept:
                members[name] = value
            if self._spend(_STEP_BYTES):
                yield
            if not self._goes_on(b"}"):
                return members

    def _walk_list(self, *, depth: int, wanted: bool) -> Steps:
        entries: list[Any] = []
        self._position += 1
        self._pass_space()
        if self._take(b"]"):
            return entries
        while True:
            value = yield from self._read_value(depth=depth + 1, wanted=wanted)
            self._count(1)
            if wanted:
                entries.append(value)
            if self._spend(_STEP_BYTES):
                yield
            if not self._goes_on(b"]"):
                return entries

    def _goes_on(self, closing: bytes) -> bool:
        """Pass over the comma before a further entry, or the bracket after the last one."""
        self._pass_space()
        if self._take(closing):
            return False
        if not self._take(b","):
            raise self._complain(f"neither a comma nor {closing.decode()}")
        self._pass_space()
        return True

    def _read_text(self, *, wanted: bool) -> Steps:
        start = self._position + 1
        head_end = end = self._match(_TEXT, start)
        while self._data[end : end + 1] != _QUOTE:
            begin, end = end, self._match(_TEXT, end)
            if begin == end:
                self._position = end
                raise self._complain("a text that does not end, or a wrong escape in it")
            if self._spend(end - begin):
                yield
        self._position = end + 1
        if self._spend(min(end, head_end) - start):
            yield
        if not wanted:
            return None
        return self._decode(start - 1, end + 1) if head_end == end else self._decode_head(start, head_end)

    def _read_word(self) -> Any:
        """Read a number, true, false or null."""
        start = self._position
        end = self._match(_WORD, start)
        if end - start == self._slice_bytes:
            raise self._complain("a number without an end")
        if end == start:
            raise self._complain("no value")
        self._position = end
        self._spent_bytes += end - start  # whose container pauses
        return self._decode(start, end)

    def _find_end(self, depth: int) -> int | None:
        """Return where the container ends that begins here; None when not within a slice."""
        begin = self._position
        if begin in self._long:
            return None
        data, position, limit = self._data, begin, begin + self._slice_bytes
        begun: list[int] = []
        while (match := _TO_BRACKET.match(data, position, limit)) is not None:
            position = match.end()
            bracket = match[1]
            if bracket in _CLOSING:
                begun.append(position - 1)
                if depth + len(begun) > MAX_DEPTH:
                    raise self._complain("it is nested too deeply")
                continue
            opened = begun.pop()
            if _CLOSING[data[opened : opened + 1]] != bracket:
                self._position = position - 1
                raise self._complain("a bracket that closes another one")
            if not begun:
                return position
        self._long.update(begun)
        return None

    def _decode(self, start: int, end: int) -> Any:
        try:
            return _DECODER.decode(self._data[start:end].decode())
        except UnicodeDecodeError:
            raise WireError("the body is not UTF-8") from None
        except ValueError:
            self._position = start
            raise self._complain("not JSON") from None

    def _decode_head(self, start: int, end: int) -> Any:
        try:
            head, _ = codecs.utf_8_decode(self._data[start:end], "strict", False)
        except UnicodeDecodeError:
            raise WireError("the body is not UTF-8") from None
        return _DECODER.decode(f'"{head}"')

    def _trim(self, value: dict[str, Any] | list[Any]) -> Any:
        """Take what is to be left out of a container that was decoded whole, and count the rest."""
        if isinstance(value, dict):
            for name in self._leave_out.intersection(value):
                del value[name]
            self._count(len(value))
            for member in value.values():
                if isinstance(member, dict | list):
                    self._trim(member)
        else:
            self._count(len(value))
            for entry in value:
                if isinstance(entry, dict | list):
                    self._trim(entry)
        return value

    def _count(self, values: int) -> None:
        self._values += values
        if self._values > MAX_VALUES:
            raise WireError(f"the body is JSON of more than {MAX_VALUES} values")

    def _spend(self, count_bytes: int) -> bool:
        """Return whether it is time for a pause."""
        self._spent_bytes += count_bytes
        if self._spent_bytes < self._slice_bytes:
            return False
        self._spent_bytes = 0
        return True

    def _match(self, pattern: re.Pattern[bytes], start: int) -> int:
        """Return how far a pattern reaches that also matches nothing, at most a slice."""
        match = pattern.match(self._data, start, start + self._slice_bytes)
        assert match is not None
        return match.end()

    def _pass_space(self) -> None:
        end = self._match(_SPACE, self._position)
        if end - self._position == self._slice_bytes:
            raise self._complain("white space without an end")
        self._position = end

    def _peek(self) -> bytes:
        return self._data[self._position : self._position + 1]

    def _take(self, byte: bytes) -> bool:
        if self._peek() != byte:
            return False
        self._position += 1
        return True

    def _complain(self, what: str) -> WireError:
        return WireError(f"the body is not JSON that can be used: {what}, at byte {self._position}")


def _read_integer(text: str) -> int | float:
    return int(text) if len(text) <= _MAX_INTEGER_CHARS else float(text)


def _read_constant(_: str) -> None:
    """NaN and the infinities say nothing."""


_DECODER = json.JSONDecoder(strict=False, parse_int=_read_integer, parse_constant=_read_constant)
