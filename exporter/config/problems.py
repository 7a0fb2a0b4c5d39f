"""What is wrong with a configuration, where, and how to say it without giving secrets away."""

from __future__ import annotations

import re
from dataclasses import dataclass

from exporter.secret import mask

KeyPath = tuple[str | int, ...]

# A value in the wrong place may be a secret. What is quoted is short and begins like a number, or is
# a word like "yes"; a key that is shown is made of letters, as all keys are.
_QUOTED = re.compile(r"[-+.]?(?:[0-9].{0,18}|[A-Za-z]{1,5})|", re.DOTALL)
_KEY = re.compile(r"[A-Za-z_.-]{1,32}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing that is wrong. `line` counts from 1; None when the whole file is meant.

    `text` says what is wrong and the wanted form, and reads on after the key path.
    """

    path: KeyPath = ()
    line: int | None = None
    text: str

    def render(self, source: str) -> str:
        where = f"{source}:{self.line}" if self.line is not None else source
        return ": ".join(part for part in (where, format_path(self.path), self.text) if part)


def format_path(path: KeyPath) -> str:
    """Write a key path like `deployments[0].sections.database.interval`."""
    text = ""
    for step in path:
        if isinstance(step, int):
            text += f"[{step}]"
        else:
            text += ("." if text else "") + format_key(step)
    return text


def format_key(key: str) -> str:
    """Write a key of the file; one that does not look like a key may be a secret, and is not shown."""
    return mask(key) if _KEY.fullmatch(key) else "(a key that is not a plain word)"


def quote(text: str) -> str:
    """Quote a text of the file where that is safe; another one is only called so."""
    if not _QUOTED.fullmatch(text):
        return "this text"
    return f'"{mask(escape(text))}"'


def escape(text: str) -> str:
    """Keep a text on one line and without control characters."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text)
