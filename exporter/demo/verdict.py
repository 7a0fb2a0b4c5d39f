"""What the exporter saw, next to what the scenario foresees."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from exporter.check import SectionOutcome
from exporter.demo.scenario import Foreseen, Observed, worst
from exporter.health.model import Section, Severity


def observe(outcomes: Sequence[SectionOutcome]) -> dict[Section, Observed]:
    """Return the codes of the last runs with their severities, for every section that was probed."""
    return {
        outcome.section: frozenset(
            (finding.code, finding.severity) for health in outcome.healths for finding in health.report.findings
        )
        for outcome in outcomes
        if outcome.off is None and outcome.healths
    }


def write_codes(observed: Observed) -> str:
    """Write `EDB02 (warning)`, the worst first; a dash for none."""
    ordered = sorted(observed, key=_worst_first)
    return ", ".join(f"{code} ({severity.label})" for code, severity in ordered) or "-"


def compare(seen: Foreseen, foreseen: Foreseen) -> Iterator[str]:
    """Write the verdict, and for each section what differs from what was foreseen."""
    if seen == foreseen:
        yield f"as foreseen: {worst(seen).label}"
        return
    yield f"not as foreseen: {worst(seen).label} instead of {worst(foreseen).label}"
    for section in Section:
        found, wanted = seen.get(section), foreseen.get(section)
        if found != wanted:
            yield f"  {section}: {_write_section(found)} instead of {_write_section(wanted)}"


def _write_section(observed: Observed | None) -> str:
    return "nothing probed" if observed is None else write_codes(observed)


def _worst_first(found: tuple[str, Severity]) -> tuple[int, str]:
    code, severity = found
    return -severity, code
