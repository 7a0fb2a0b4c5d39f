"""A string that never shows itself, and secrets masked in what others say.

What servers send may hold our own session token, or a password of theirs: whatever leaves this process
(log, metrics, pages, JSON, tables) passes `mask` on its way out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

MASKED = "<secret>"
# A Coder session token: ten characters, a hyphen, 22 characters; also right behind an escape, as of a
# line feed in JSON or of a letter in a URL. Source: coder-interfaces, section 2.8.
_TOKEN = re.compile(
    r"(?:(?<![A-Za-z0-9])|(?<=\\[bfnrt])|(?<=%[0-9A-Fa-f]{2})|(?<=\\u[0-9A-Fa-f]{4}))"
    r"[A-Za-z0-9]{10}-[A-Za-z0-9]{22}(?![A-Za-z0-9])"
)
_TOKEN_CHARS = 33
# Greedy up to the last @: a password that was not percent-encoded may hold : / and @ itself.
# Bounded, since what others send may be made to cost quadratic time.
_URL_PASSWORD = re.compile(r"(://[^\s:/?#@]{0,256}:)[^\s\"]{0,512}@")
_KEYWORD_PASSWORD = re.compile(
    r"(?i)((?:password|passwd|session_token)\s*=\s*)('(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"|[^\s&,;'\"]+)"
)


def mask(text: str) -> str:
    """Replace what looks like a session token, or a password in a connection string, by `<secret>`."""
    # looks first for what each form needs: most texts are short, and made often
    if len(text) >= _TOKEN_CHARS and "-" in text:
        text = _TOKEN.sub(MASKED, text)
    if "://" in text:
        text = _URL_PASSWORD.sub(rf"\g<1>{MASKED}@", text)
    if "=" in text:
        text = _KEYWORD_PASSWORD.sub(rf"\g<1>{MASKED}", text)
    return text


def mask_within(value: Any) -> Any:
    """Return JSON's own types with every text in them masked, names of members too."""
    if isinstance(value, str):
        return mask(value)
    if isinstance(value, Mapping):
        return {mask_within(name): mask_within(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [mask_within(inner) for inner in value]
    return value


class Secret:
    """A value that never shows itself: not in a repr, an error or a format string."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        return self._value

    def __repr__(self) -> str:
        return MASKED

    __str__ = __repr__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._value == self._value

    def __hash__(self) -> int:
        return hash(self._value)
