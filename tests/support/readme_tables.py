"""The README's tables, made from the code: configuration keys, metrics and health codes.

In: the code's own tables. Out: Markdown. The README is compared with them by
tests/contract/test_readme.py; after a change, at the top of the tree:

    python -m tests.support.readme_tables

writes them anew between their marks, `<!-- begin NAME -->` and `<!-- end NAME -->`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from exporter.config.load import reference
from exporter.health.codes import CODES, UNKNOWN
from exporter.health.model import Section
from exporter.metrics.families import FAMILIES

README = Path(__file__).parents[2] / "README.md"
_SECTION_KEY = re.compile(rf"(?<=\.sections\.)({'|'.join(Section)})(?=\.)")
_ANY_SECTION = "SECTION"
# The section of the exporter itself has no keys, and one more may have a row of its own.
_ALIKE = len(Section) - 2


def configuration() -> str:
    """Every key that takes a value. What all sections but one have alike is one row with SECTION in it."""
    rows = [(row.key, row.form, row.default, row.meaning) for row in reference()]
    general = [(_SECTION_KEY.sub(_ANY_SECTION, key), *rest) for key, *rest in rows]
    shared = {row for row in general if general.count(row) >= _ALIKE}
    shown = (wide if wide in shared else row for row, wide in zip(rows, general, strict=True))
    lines = ((f"`{key}`", form, f"`{default}`" if default else "", meaning) for key, form, default, meaning in shown)
    return _table(("key", "form", "default", "meaning"), dict.fromkeys(lines))


def metrics() -> str:
    """Every family, in the order of /metrics."""
    rows = [
        (f"`{family.name}`", family.kind, ", ".join(f"`{label}`" for label in family.labels), family.help)
        for family in FAMILIES
    ]
    return _table(("family", "type", "labels", "meaning"), rows)


def health_codes() -> str:
    """Every code; EUNKNOWN, which each section has, once."""
    rows = [
        (
            f"`{code.value}`",
            f"`{code.section}`",
            " or ".join(severity.label for severity in code.severities),
            code.summary,
        )
        for codes in CODES.values()
        for code in codes
        if code.value != UNKNOWN
    ]
    unknown = next(code for codes in CODES.values() for code in codes if code.value == UNKNOWN)
    last = (f"`{UNKNOWN}`", "any", unknown.severities[0].label, unknown.summary)
    return _table(("code", "section", "severity", "meaning"), [*rows, last])


TABLES: Mapping[str, Callable[[], str]] = {
    "configuration": configuration,
    "metrics": metrics,
    "codes": health_codes,
}


def find_table(text: str, name: str) -> str:
    """Return the table that stands between its marks, with the first of them."""
    return text[text.index(_begin(name)) : text.index(f"<!-- end {name} -->\n")]


def write_tables(text: str) -> str:
    """Return the text with every table made anew."""
    for name, make in TABLES.items():
        text = text.replace(find_table(text, name), f"{_begin(name)}{make()}")
    return text


def _begin(name: str) -> str:
    return f"<!-- begin {name} -->\n"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    cells = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |\n" for row in cells)


if __name__ == "__main__":
    README.write_text(write_tables(README.read_text()))
