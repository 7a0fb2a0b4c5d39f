"""Members of JSON objects of Coder's, read so that nothing that stands in them can hurt: null and a
missing member are the same, and what has another shape is left out and counted.

In: values as JSON gives them. Out: texts, numbers and lists of bounded size.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence
from itertools import islice
from typing import Any, TypeVar

from exporter.errors import WireError
from exporter.health.model import REPORT_SECTIONS, Section
from exporter.secret import mask
from exporter.wire.go_time import parse_go_duration, parse_go_time

# As in coder_json.py, so that ids and names agree.
MAX_NAME_CHARS = 64
MAX_TEXT_CHARS = 2000
_SURROGATE = re.compile(r"[\ud800-\udfff]")

# How Coder writes the keys of its report, and what we take as a label.
_KEY = re.compile(r"[a-z][a-z0-9_]{0,63}")
_NOT_IN_KEYS = re.compile(r"[^a-z0-9]+")
# Where a word begins: an upper-case letter after another one or a digit, or the last of several before a word.
_WORD_BEGINS = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
# What is ours, and may not be somebody else's: Coder's own section of such a name gets the prefix.
_OURS = frozenset(Section) - frozenset(REPORT_SECTIONS) | {"workspaces"}
_PREFIX = "coder_"

Object = Mapping[str, Any]
_T = TypeVar("_T")


class Members:
    """Reads members, and counts in `dropped` what it left out."""

    def __init__(self) -> None:
        self.dropped = 0

    def text(self, holder: Object, member: str, *, max_chars: int = MAX_TEXT_CHARS) -> str:
        """Return a text that can be encoded, cut; empty for null."""
        found = self._of_type(holder.get(member), str)
        return "" if found is None else cut_text(found, max_chars)

    def name(self, holder: Object, member: str) -> str:
        """Return an id, a name or a version: cut at 64 characters, without dots."""
        return self.text(holder, member, max_chars=MAX_TEXT_CHARS)[:MAX_NAME_CHARS]

    def flag(self, holder: Object, member: str) -> bool | None:
        """Return true or false, and None for null."""
        found: bool | None = self._of_type(holder.get(member), bool)
        return found

    def number(self, holder: Object, member: str) -> float | None:
        """Return a finite number, and None for null."""
        return self._finite(holder.get(member))

    def whole(self, holder: Object, member: str) -> int | None:
        """Return a whole number of 64 bits, and None for null."""
        found = self._finite(holder.get(member))
        if isinstance(found, int) and abs(found) < 1 << 63:
            return found
        return None if found is None else self._drop()

    def duration(self, holder: Object, member: str) -> float | None:
        """Return the seconds of a duration of Go's, as text or as nanoseconds; None for null and for
        an empty text."""
        found = holder.get(member)
        if not isinstance(found, str):
            nanoseconds = self._finite(found)
            return None if nanoseconds is None else nanoseconds / 1e9
        try:
            return parse_go_duration(found) if found else None
        except WireError:
            return self._drop()

    def time(self, holder: Object, member: str) -> float | None:
        """Return seconds since 1970; None for null, for an empty text, and for Go's time that was never set."""
        found = self._of_type(holder.get(member), str)
        try:
            return parse_go_time(found) if found else None
        except WireError:
            return self._drop()

    def object(self, holder: Object, member: str) -> Object | None:
        """Return an object, and None for null."""
        found: Object | None = self._of_type(holder.get(member), dict)
        return found

    def entries(self, holder: Object, member: str, *, most: int) -> Sequence[Any] | None:
        """Return the entries of a list that are not null, of its first so many; None for null."""
        found = self._of_type(holder.get(member), list)
        return None if found is None else [entry for entry in self.limit(found, most=most) if entry is not None]

    def objects(self, holder: Object, member: str, *, most: int) -> Sequence[Object] | None:
        """Return the objects of a list, at most so many; None for null."""
        entries = self.entries(holder, member, most=most)
        return None if entries is None else self._all_of_type(entries, dict)

    def texts(self, holder: Object, member: str, *, most: int) -> tuple[str, ...] | None:
        """Return the texts of a list, cut, at most so many; None for null."""
        entries = self.entries(holder, member, most=most)
        return None if entries is None else tuple(cut_text(entry) for entry in self._all_of_type(entries, str))

    def limit(self, entries: Collection[_T], *, most: int) -> list[_T]:
        """Return the first entries, and count the rest as dropped."""
        self.dropped += max(0, len(entries) - most)
        return [*islice(entries, most)]

    def drop(self) -> None:
        """Count one that the caller leaves out."""
        self.dropped += 1

    _drop = drop

    def _all_of_type(self, entries: Sequence[Any], kind: type) -> list[Any]:
        kept = [entry for entry in entries if isinstance(entry, kind)]
        self.dropped += len(entries) - len(kept)
        return kept

    def _of_type(self, found: Any, kind: type) -> Any:
        return found if found is None or isinstance(found, kind) else self._drop()

    def _finite(self, found: Any) -> float | None:
        if found is None:
            return None
        if isinstance(found, bool) or not isinstance(found, int | float) or not math.isfinite(found):
            return self._drop()
        return found


def make_key(name: str) -> str:
    """Return a name as Coder writes keys: `^[a-z][a-z0-9_]{0,63}$`. One that is such a key stays as it is,
    any other one becomes one, in words with underscores between them; several may become the same. What
    is ours (`report`) gets a prefix."""
    key = name
    if _KEY.fullmatch(key) is None:
        words = _WORD_BEGINS.sub("_", mask(name)[: 4 * MAX_NAME_CHARS]).lower()
        key = _NOT_IN_KEYS.sub("_", words).strip("_") or "unnamed"
        key = key if key[0].isalpha() else f"section_{key}"
    key = _PREFIX + key if key in _OURS else key
    return key[:MAX_NAME_CHARS].rstrip("_") if len(key) > MAX_NAME_CHARS else key


def cut_text(text: str, max_chars: int = MAX_TEXT_CHARS) -> str:
    """Return a text that can be encoded: lone surrogates replaced; where it was cut, three dots say so.

    Secrets are masked before, since half of one is no longer known as such.
    """
    text = mask(text)
    shorter = text if len(text) <= max_chars else text[:max_chars] + "..."
    return _SURROGATE.sub("\ufffd", shorter)
