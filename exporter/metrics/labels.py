"""From label values to the text of a sample line.

Values may come from servers that nobody vouches for (names and versions of proxies): they are cut,
and what a terminal or a browser would obey instead of show is written as an escape, and what looks like a
secret (a server may send our own token back) is masked.
"""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client.utils import floatToGoString

from exporter.metrics.families import BY_NAME, FAMILIES, Family
from exporter.secret import mask
from exporter.targets.model import SectionKey, TargetKey

MAX_VALUE_CHARS = 128
# Source: contract, section 8, Values
MAX_VERSION_CHARS = 64


def _line(family: Family) -> str:
    labels = ",".join(f'{label}="%s"' for label in family.labels)
    return f"{family.name}{{{labels}}} %s\n" if labels else f"{family.name} %s\n"


# Each family's line, with a place for every label's value and for its own.
_LINES = {family.name: _line(family) for family in FAMILIES}


def number(value: float) -> str:
    """Return a value as prometheus_client writes it, so that its encoder can be the tests' oracle."""
    if isinstance(value, int) and 0 <= value < 1_000_000:
        # the same text for a quarter of the time; most values are small counts
        return f"{int(value)}.0"
    if isinstance(value, float) and 0.0 <= value < 1_000_000.0:
        # here, too: Go and Python differ in what is larger, negative or no number at all
        return repr(value)
    text: str = floatToGoString(value)  # type: ignore[no-untyped-call]
    return text


def escape(value: str, max_chars: int = MAX_VALUE_CHARS) -> str:
    """Return a label value as it stands between the quotes.

    Source: OpenMetrics 1.0, section "ABNF", escaped-string; the text format 0.0.4 agrees.
    """
    value = mask(value)  # whole: of what was cut, a part of it could be left
    if len(value) > max_chars or not value.isprintable():
        value = "".join(map(_show, value[:max_chars]))[:max_chars]
    if "\\" in value or '"' in value or "\n" in value:
        value = value.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
    return value


def escape_section(key: SectionKey) -> dict[str, str]:
    """Return the escaped values of the labels that name a section."""
    return {
        "deployment": escape(key.deployment),
        "section": escape(key.section),
        "witness": key.witness.value,
        "coder_replica": escape(key.coder_replica),
    }


def escape_target(key: TargetKey) -> dict[str, str]:
    """Return the escaped values of the labels that name a target; families take those they have."""
    values = escape_section(key.section_key)
    values["target"] = escape(key.name)
    return values


def extend(values: Mapping[str, str], **more: str) -> dict[str, str]:
    """Return escaped label values with more, which may come from anywhere and are escaped here."""
    added = dict(values)
    for label, value in more.items():
        added[label] = escape(value, MAX_VERSION_CHARS if label == "version" else MAX_VALUE_CHARS)
    return added


def _show(char: str) -> str:
    if char.isprintable() or char == "\n":
        return char
    # also lone surrogates, which JSON can bring and UTF-8 cannot hold
    return char.encode("unicode_escape").decode("ascii")


def label_text(family: str, values: Mapping[str, str]) -> str:
    """Return the labels of a family's samples, in the order of the table, without the braces.

    Args:
        values: Escaped; those of other families' labels are left out.

    Raises:
        KeyError: A label of the family has no value.
    """
    return ",".join(f'{label}="{values[label]}"' for label in BY_NAME[family].labels)


def sample(family: str, values: Mapping[str, str], value: float) -> str:
    """Return a complete sample line; labels as `label_text`."""
    labels = BY_NAME[family].labels
    return _LINES[family] % (*map(values.__getitem__, labels), number(value))
