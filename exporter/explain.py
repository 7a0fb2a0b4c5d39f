"""What a health code means and what to do about it: the texts of `exporter/health/texts`, for a terminal.

In: a code, or the name of an alert. Out: the same words as its runbook section. The Markdown files
are the only source; `alerts/runbooks` holds copies of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from functools import cache
from importlib.resources import files

from exporter.errors import ExporterError
from exporter.health import codes

_ANCHOR = re.compile(r'<a id="[^"]+"></a>')
_HEADING = re.compile(r"^## (?P<key>\w+) - (?P<title>.+)$")
_MARKUP = (
    (re.compile(r"^#+ +"), ""),
    (re.compile(r"\*\*(.+?)\*\*"), r"\1"),
    (re.compile(r"(?<![`\w])`([^`\n]+)`(?![`\w])"), r"\1"),
)


def explain(code: str) -> str:
    """Return the section of a code as plain text, lines as they stand in the source.

    Args:
        code: A code in any letter case, or the name of an alert.

    Raises:
        ExporterError: Nothing is known by that name; the message names what comes near.
    """
    known = _sections()
    wanted = code.strip().casefold()
    for key, text in known.items():
        if wanted == key.casefold() or wanted in _alerts(key):
            return _plain(text)
    near = get_close_matches(code.strip().upper(), known, n=3, cutoff=0.5)
    hint = f"; did you mean {', '.join(near)}?" if near else f"; known are {', '.join(sections())}"
    raise ExporterError(f"no health code is called {code.strip()[:64]!r}{hint}")


def sections() -> Mapping[str, str]:
    """Return every code with its section in Markdown, without the anchor, in the order of the files."""
    return {key: text for key, text in _sections().items() if codes.find(key) is not None}


def _alerts(key: str) -> set[str]:
    known = codes.find(key)
    return {alert.casefold() for alert in known.alerts.values()} if known is not None else set()


@cache
def _sections() -> dict[str, str]:
    return {key: text for source in _sources() for key, text in _split(source)}


def _sources() -> Iterator[str]:
    folder = files("exporter.health").joinpath("texts")
    for name in codes.CODES:
        yield folder.joinpath(f"{name}.md").read_text(encoding="utf-8")


def _split(source: str) -> Iterator[tuple[str, str]]:
    key, lines = "", list[str]()
    for line in source.splitlines():
        heading = _HEADING.match(line)
        if heading is not None:
            if key:
                yield key, "\n".join(lines).strip()
            key, lines = heading["key"], []
        if not _ANCHOR.fullmatch(line):
            lines.append(line)
    if key:
        yield key, "\n".join(lines).strip()


def _plain(markdown: str) -> str:
    """Markdown as plain text: fences fall away, what they held is indented, headings are underlined."""
    lines: list[str] = []
    fenced = False
    for line in markdown.splitlines():
        if line.lstrip().startswith("```"):
            fenced = not fenced
        elif fenced:
            lines.append(f"    {line}" if line else "")
        else:
            text = line
            for pattern, replacement in _MARKUP:
                text = pattern.sub(replacement, text)
            lines.append(text)
            if line.startswith("#"):
                lines.append(("=" if line.startswith("## ") else "-") * len(text))
    return "\n".join(lines) + "\n"
