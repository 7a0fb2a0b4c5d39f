"""Pieces of Markdown, and quantities as the report writes them."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence


def prose(text: str) -> list[str]:
    """Return a paragraph in lines, and an empty one."""
    return [*textwrap.wrap(" ".join(text.split()), width=110, break_long_words=False, break_on_hyphens=False), ""]


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = [head, ["---"] * len(head), *rows]
    return [*(f"| {' | '.join(line)} |" for line in lines), ""]


def ms(seconds: float) -> str:
    milliseconds = seconds * 1000
    return f"{milliseconds:.2f} ms" if milliseconds < 10 else f"{milliseconds:.0f} ms"


def signed(seconds: float) -> str:
    return f"{seconds * 1000:+.2f} ms"


def mb(size: float) -> str:
    return f"{size / 1e6:.0f} MB"
