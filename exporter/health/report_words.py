"""Words of sentences about Coder's report: texts of strangers in, short ones out. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

MAX_SENTENCE_CHARS = 1000
MAX_DETAIL_CHARS = 250
MAX_NAME_CHARS = 64
# No sentence lists more than so many things.
MAX_LISTED = 5


def cut(text: str, max_chars: int = MAX_SENTENCE_CHARS) -> str:
    """Return a text on one line, and not longer than that."""
    text = " ".join(text.split())
    return text if len(text) <= max_chars else text[:max_chars] + "..."


def list_few(texts: Iterable[str]) -> str:
    """Return the first few, and how many more there are."""
    every = list(texts)
    return _join([cut(text, MAX_DETAIL_CHARS) for text in every[:MAX_LISTED]], of=len(every))


def tally(texts: Iterable[str]) -> str:
    """Say each distinct text once, with how often it came where that is more than once: the most
    frequent first, else by the alphabet, since Coder tells them in random order."""
    counts = sorted(Counter(texts).items(), key=lambda item: (-item[1], item[0]))
    told = [
        cut(text, MAX_DETAIL_CHARS) + (f" ({count} times)" if count > 1 else "") for text, count in counts[:MAX_LISTED]
    ]
    return _join(told, of=len(counts))


def _join(texts: Sequence[str], *, of: int) -> str:
    return "; ".join(texts) + (f"; and {of - len(texts)} more" if of > len(texts) else "")
