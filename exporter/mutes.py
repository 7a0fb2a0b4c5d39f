"""Coder's mutes over time: which sections are muted, and since when that has been seen.

Coder does not tell when somebody muted a section, so the age is that of our knowledge: at least so old.
"""

from __future__ import annotations

from collections.abc import Mapping

from exporter.health.model import REPORT_SECTIONS
from exporter.health.report import ReportsResult


class Mutes:
    """Mutes by deployment, as last read."""

    def __init__(self) -> None:
        self._since: dict[str, Mapping[str, float | None]] = {}

    @property
    def since_timestamp_seconds(self) -> Mapping[str, Mapping[str, float | None]]:
        """By deployment and section: since when it has been seen muted, None when it is not. A
        deployment whose mutes are not known is left out."""
        return self._since

    def see(self, deployment: str, result: ReportsResult, now: float) -> bool:
        """Take what was read; return whether anything is different.

        Who read them has held on to them while an answer or two were lost: what it does not tell any more,
        nobody knows.
        """
        before = self._since.get(deployment)
        if result.dismissed is not None:
            known = before or {}
            # also names that are new to us: Coder's sections first, in their order
            sections = dict.fromkeys((*map(str, REPORT_SECTIONS), *result.dismissed))
            self._since[deployment] = {
                section: (known.get(section) or now) if section in result.dismissed else None for section in sections
            }
        else:
            self._since.pop(deployment, None)
        return self._since.get(deployment) != before
