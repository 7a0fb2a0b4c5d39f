"""Ready pieces of exposition text: what a run renders goes in, what a scrape sends comes out.

A piece is the sample lines of one owner (a target, a section) in one family, complete with line
feeds; the same text is right in both formats. A scrape joins pieces: its cost is that of a list of
references, and no piece is rendered, encoded or copied for it. Pieces are immutable, so what a
scrape took stays whole while later runs go on.

Who owns what is the caller's affair; that no two owners bring the same series is too.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping

from exporter.metrics.families import Family
from exporter.metrics.negotiation import Format


class Exposition:
    """Pieces by family, then by owner; both in a stable order.

    Args:
        families: Those that have pieces, in the order shown.
    """

    def __init__(self, families: Iterable[Family]) -> None:
        self._pieces: dict[str, dict[Hashable, bytes]] = {}
        self._headers: dict[str, dict[Format, bytes]] = {}
        self._families_of: dict[Hashable, tuple[str, ...]] = {}
        for family in families:
            self._pieces[family.name] = {}
            self._headers[family.name] = {wanted: header(family, wanted) for wanted in Format}

    def replace(self, owner: Hashable, pieces: Mapping[str, str]) -> None:
        """Make these the pieces of an owner, by family name. What it had in others is gone.

        An owner keeps its place among the others, so series do not wander between scrapes.

        Raises:
            KeyError: There is no such family.
        """
        families = tuple(family for family, text in pieces.items() if text)
        before = self._families_of.get(owner, ())
        if families != before:
            for family in set(before).difference(families):
                del self._pieces[family][owner]
        for family in families:
            self._pieces[family][owner] = pieces[family].encode()
        self._families_of[owner] = families

    def remove(self, owner: Hashable) -> None:
        """Forget everything of an owner; nothing happens when there is nothing."""
        for family in self._families_of.pop(owner, ()):
            del self._pieces[family][owner]

    def render(self, wanted: Format) -> list[bytes]:
        """Return the parts of the body, to be joined; without an end mark.

        A family without samples is not shown.
        """
        parts: list[bytes] = []
        for name, pieces in self._pieces.items():
            if pieces:
                parts.append(self._headers[name][wanted])
                parts.extend(pieces.values())
        return parts


def header(family: Family, wanted: Format) -> bytes:
    """Return the HELP and TYPE lines. OpenMetrics names a counter without its `_total`."""
    name = family.name
    text = family.help.replace("\\", "\\\\").replace("\n", "\\n")
    if wanted is Format.OPENMETRICS:
        text = text.replace('"', '\\"')
        if family.kind == "counter":
            name = name.removesuffix("_total")
    return f"# HELP {name} {text}\n# TYPE {name} {family.kind}\n".encode()
