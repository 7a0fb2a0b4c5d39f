"""What the exporter saw, next to what the scenario foresees."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from exporter.check import SectionOutcome
from exporter.demo.scenario import Foreseen, Observed, Place, worst
from exporter.health.model import UNCODED, Severity, Witness


def observe(outcomes: Sequence[SectionOutcome]) -> dict[Place, Observed]:
    """Return the codes of the last runs with their severities, for every section that was probed, by
    witness; all replicas together."""
    seen: dict[Place, Observed] = {}
    for outcome in outcomes:
        if outcome.off is None and outcome.healths:
            place = (outcome.key.section, outcome.key.witness)
            seen[place] = seen.get(place, frozenset()) | {
                (finding.code, finding.severity) for health in outcome.healths for finding in health.report.findings
            }
    return seen


def write_codes(observed: Observed) -> str:
    """Write `EDB02 (warning)`, the worst first; a dash for none."""
    ordered = sorted(observed, key=_worst_first)
    return ", ".join(f"{_write_code(code)} ({severity.label})" for code, severity in ordered) or "-"


def write_place(place: Place) -> str:
    """Write `database`, or `database, in Coder's report`."""
    section, witness = place
    return str(section) if witness is Witness.PROBE else f"{section}, in Coder's report"


def compare(seen: Foreseen, foreseen: Foreseen) -> Iterator[str]:
    """Write the verdict, and for each section what differs from what was foreseen."""
    if seen == foreseen:
        yield f"as foreseen: {worst(seen).label}"
        return
    yield f"not as foreseen: {worst(seen).label} instead of {worst(foreseen).label}"
    # in the order of what is foreseen; what nobody has foreseen comes last
    for place in dict.fromkeys((*foreseen, *seen)):
        found, wanted = seen.get(place), foreseen.get(place)
        if found != wanted:
            yield f"  {write_place(place)}: {_write_section(found)} instead of {_write_section(wanted)}"


def _write_code(code: str) -> str:
    return code if code != UNCODED else "no code"


def _write_section(observed: Observed | None) -> str:
    return "nothing probed" if observed is None else write_codes(observed)


def _worst_first(found: tuple[str, Severity]) -> tuple[int, str]:
    code, severity = found
    return -severity, code
