"""Which exposition format a scraper wants, and whether packed: header texts in, a choice out.

Nothing here raises: a header that makes no sense is a header that asks for nothing, and the
answer to that is the text format. There is no 406, since a scraper that gets text can read it.

prometheus_client's own negotiation is not used: it takes the first match whatever its q-value,
echoes any version from 1.0 on, and fails on one that is not a number.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum


class Format(Enum):
    """The two formats. The value is the exact Content-Type."""

    TEXT = "text/plain; version=0.0.4; charset=utf-8"
    OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"

    @property
    def content_type(self) -> str:
        return self.value


# Each format's media type, and the `version` parameters that mean exactly it. No version asks for
# ours. OpenMetrics 0.0.1, a draft that Prometheus asked for until 2.4x, is not spoken: whoever knows
# no newer one gets text, which it reads as well.
_MEDIA: dict[Format, tuple[str, frozenset[str]]] = {
    Format.TEXT: ("text/plain", frozenset({"", "0.0.4"})),
    Format.OPENMETRICS: ("application/openmetrics-text", frozenset({"", "1.0.0"})),
}

# Source: RFC 9110, section 12.4.2
_QUALITY = re.compile(r"0(\.[0-9]{0,3})?|1(\.0{0,3})?", re.ASCII)
# quoted strings without their escapes, which no parameter of ours needs: so both take linear time
_ELEMENT = re.compile(r'(?:[^,"]|"[^"]*"|")+')
_PARAMETER = re.compile(r';\s*([^\s;,="]+)\s*=\s*("[^"]*"|[^\s;,"]*)', re.ASCII)


@dataclass(frozen=True, slots=True)
class _Wish:
    """One element of an Accept header. `rank`: how exactly it names a format."""

    rank: int
    quality: float
    order: int


def choose(accept: str | None) -> Format:
    """Return the format to answer in.

    Of the elements that match a format the most specific one gives its q-value (RFC 9110, section
    12.5.1). The higher q-value wins; then the format that was named more exactly, then the one
    named first; text when both were only asked for by the same wildcard. Parameters other than
    `q` and `version` (`charset`, `escaping`) are not looked at: our names need no escaping.
    """
    wishes = {wanted: wish for wanted in Format if (wish := _wish(accept or "", wanted)) is not None}
    best = max(
        (wanted for wanted, wish in wishes.items() if wish.quality > 0),
        key=lambda wanted: (wishes[wanted].quality, wishes[wanted].rank, -wishes[wanted].order),
        default=Format.TEXT,
    )
    return best


def _wish(accept: str, wanted: Format) -> _Wish | None:
    """Return the most specific element that matches the format; the first of equals."""
    name, versions = _MEDIA[wanted]
    best: _Wish | None = None
    for order, (media, parameters) in enumerate(_elements(accept)):
        if media == name:
            version = parameters.get("version", "")
            if version not in versions:
                continue
            rank = 3 if version else 2
        elif media == f"{name.partition('/')[0]}/*":
            rank = 1
        elif media == "*/*":
            rank = 0
        else:
            continue
        quality = _quality(parameters)
        if quality is not None and (best is None or rank > best.rank):
            best = _Wish(rank, quality, order)
    return best


def wants_gzip(accept_encoding: str | None) -> bool:
    """Return whether the answer may be packed: gzip is named (or `*` stands for it) with a
    q-value above 0 that is not below that of `identity`."""
    qualities: dict[str, float] = {}
    for coding, parameters in _elements(accept_encoding or ""):
        quality = _quality(parameters)
        if quality is not None:
            qualities.setdefault("gzip" if coding == "x-gzip" else coding, quality)
    gzip = qualities.get("gzip", qualities.get("*", 0.0))
    return gzip > 0 and gzip >= qualities.get("identity", 0.0)


def _elements(header: str) -> list[tuple[str, dict[str, str]]]:
    """Split a header into its elements: name and parameters, in lower case and without quotes."""
    elements = []
    for element in _ELEMENT.findall(header):
        name = element.partition(";")[0].strip().lower()
        parameters: dict[str, str] = {}
        for key, value in _PARAMETER.findall(element):
            parameters.setdefault(key.lower(), value.strip('"'))
        if name:
            elements.append((name, parameters))
    return elements


def _quality(parameters: dict[str, str]) -> float | None:
    """Return the q-value, 1 without one; None for what is no q-value: that element is nonsense."""
    text = parameters.get("q", "1")
    return float(text) if _QUALITY.fullmatch(text) else None
