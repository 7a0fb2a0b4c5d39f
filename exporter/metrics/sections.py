"""What a section says: its roll-up in, pieces of exposition text out.

Before the first run every code is at 0 and no severity at 1. The text up to the value is made once
for each section.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set

from exporter.health.model import UNCODED, OffReason, Section, Severity
from exporter.health.root_cause import Layer
from exporter.metrics.labels import escape, escape_section, label_text, number, sample
from exporter.snapshot import SectionRollup
from exporter.targets.model import SectionKey

_SETTLED = "coder_health_section_severity"
_OBSERVED = "coder_health_section_observed_severity"
_CODE_ACTIVE = "coder_health_code_active"
_CODE_OBSERVED = "coder_health_code_observed"
_CODE_SINCE = "coder_health_code_since_timestamp_seconds"
_ENABLED = "coder_health_section_enabled"
_MAINTENANCE = "coder_health_maintenance"
_DISMISSED = "coder_health_section_dismissed"
_DISMISSED_SINCE = "coder_health_section_dismissed_since_timestamp_seconds"
_ROOT_CAUSE = "coder_health_root_cause"
_DISAGREEMENT = "coder_health_witness_disagreement"

_TRUTHS = (number(False), number(True))


def render_enabled(key: SectionKey, off: OffReason | None) -> dict[str, str]:
    """Return the piece that says whether a section is probed, and why it is not. Of replicas it says
    the same once for all."""
    values = escape_section(key) | {"reason": "" if off is None else off.value}
    return {_ENABLED: sample(_ENABLED, values, off is None)}


def render_dismissed(deployment: str, since_timestamp_seconds: Mapping[str, float | None]) -> dict[str, str]:
    """Return the pieces that say which sections are muted in Coder.

    Args:
        since_timestamp_seconds: By section, since when it has been seen muted; None: it is not.
    """
    pieces = {_DISMISSED: "", _DISMISSED_SINCE: ""}
    for section, since in since_timestamp_seconds.items():
        values = {"deployment": escape(deployment), "section": escape(section)}
        pieces[_DISMISSED] += sample(_DISMISSED, values, since is not None)
        if since is not None:
            pieces[_DISMISSED_SINCE] += sample(_DISMISSED_SINCE, values, since)
    return {family: piece for family, piece in pieces.items() if piece}


def render_root_cause(deployment: str, broken: Layer | None) -> dict[str, str]:
    """Return the piece that names the first broken layer of a deployment."""
    lines = (
        sample(_ROOT_CAUSE, {"deployment": escape(deployment), "layer": layer.value}, layer is broken)
        for layer in Layer
    )
    return {_ROOT_CAUSE: "".join(lines)}


def render_disagreements(deployment: str, differs: Iterable[tuple[Section | str, str, bool]]) -> dict[str, str]:
    """Return the piece that says, for each section and replica that can be compared, whether the
    witnesses differ."""
    lines = (
        sample(
            _DISAGREEMENT,
            {"deployment": escape(deployment), "section": escape(section), "coder_replica": escape(replica)},
            value,
        )
        for section, replica, value in differs
    )
    piece = "".join(lines)
    return {_DISAGREEMENT: piece} if piece else {}


def render_maintenance(deployment: str, *, is_open: bool) -> dict[str, str]:
    """Return the piece that says whether a maintenance window of a deployment is open."""
    return {_MAINTENANCE: sample(_MAINTENANCE, {"deployment": escape(deployment)}, is_open)}


class SectionSeries:
    """Severities and codes of one section. Most runs change nothing about them."""

    __slots__ = ("_code_labels", "_said", "_severity_labels", "_values")

    def __init__(self, key: SectionKey) -> None:
        self._values = escape_section(key)
        self._severity_labels = {
            severity: label_text(_SETTLED, self._values | {"severity": severity.label}) for severity in Severity
        }
        self._code_labels: dict[str, str] = {}
        self._said: object = None

    def render(self, rollup: SectionRollup) -> dict[str, str] | None:
        """Return the pieces of the section by family; None when they are those of the last call.

        Every declared code has a sample; one that was not declared has, while it is observed or
        active.
        """
        settled = rollup.settled_severity if rollup.measured else None
        observed = rollup.observed_severity if rollup.measured else None
        active_codes = {code for code, count in rollup.active.items() if count > 0 and code != UNCODED}
        observed_codes = {code for code, count in rollup.observed.items() if count > 0 and code != UNCODED}
        since = {code: when for code, when in rollup.since_timestamp_seconds.items() if code != UNCODED}
        says = (settled, observed, active_codes, observed_codes, since)
        if says == self._said:
            return None
        self._said = says
        codes = (*rollup.codes, *sorted((active_codes | observed_codes).difference(rollup.codes)))
        for code in self._code_labels.keys() - set(codes):
            del self._code_labels[code]
        return {
            _SETTLED: self._severities(_SETTLED, settled),
            _OBSERVED: self._severities(_OBSERVED, observed),
            _CODE_ACTIVE: self._codes(_CODE_ACTIVE, codes, active_codes),
            _CODE_OBSERVED: self._codes(_CODE_OBSERVED, codes, observed_codes),
            _CODE_SINCE: "".join(
                f"{_CODE_SINCE}{{{self._label_text(code)}}} {number(since[code])}\n" for code in codes if code in since
            ),
        }

    def _severities(self, family: str, current: Severity | None) -> str:
        return "".join(
            f"{family}{{{labels}}} {_TRUTHS[severity is current]}\n"
            for severity, labels in self._severity_labels.items()
        )

    def _codes(self, family: str, codes: Iterable[str], true_of: Set[str]) -> str:
        return "".join(f"{family}{{{self._label_text(code)}}} {_TRUTHS[code in true_of]}\n" for code in codes)

    def _label_text(self, code: str) -> str:
        # the three families of codes have the same labels
        text = self._code_labels.get(code)
        if text is None:
            text = self._code_labels[code] = label_text(_CODE_ACTIVE, self._values | {"code": escape(code)})
        return text
