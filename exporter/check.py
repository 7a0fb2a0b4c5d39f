"""One round now, for people and scripts: what was observed, as a table, JSON or JUnit XML.

In: an application whose targets were just run. Out: text, and the worst severity. It shows observed
codes: a single round settles nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

from exporter import check_json, check_words
from exporter.app import Application
from exporter.health.model import Finding, OffReason, Section, Severity
from exporter.health.workspace_proxy import RoundResult
from exporter.snapshot import TargetHealth
from exporter.wire.derp_map import DerpMap

FORMATS = ("table", "json", "junit")
# Grows when a member changes its meaning or goes away; new members may come at any time.
JSON_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class SectionOutcome:
    """A section of a deployment after one round. `off` is None when it was probed. `derp_map` is
    the map that the section `derp` went by; None without one, and for other sections."""

    deployment: str
    section: Section
    off: OffReason | None
    healths: tuple[TargetHealth, ...]
    derp_map: DerpMap | None = None

    @property
    def severity(self) -> Severity:
        return max((health.report.severity for health in self.healths), default=Severity.OK)


def collect(application: Application) -> tuple[SectionOutcome, ...]:
    """Return what the latest run of each target found, in the order of the configuration."""
    by_section: dict[object, list[TargetHealth]] = {}
    for key, entry in sorted(application.snapshot.entries.items()):
        by_section.setdefault(key.section_key, []).append(entry.health)
    return tuple(
        SectionOutcome(
            deployment=key.deployment,
            section=key.section,
            off=off,
            healths=() if off is not None else tuple(by_section.get(key, ())),
            derp_map=application.derp_map(key.deployment) if key.section is Section.DERP else None,
        )
        for key, off in application.board.off.items()
    )


def worst(outcomes: Sequence[SectionOutcome]) -> Severity:
    """Return the worst severity of all, which is also the exit code of `check`."""
    return max((outcome.severity for outcome in outcomes), default=Severity.OK)


def render(outcomes: Sequence[SectionOutcome], wanted: str) -> str:
    """Return the outcomes in one of FORMATS, ending in a newline."""
    if wanted == "json":
        return json.dumps(to_json(outcomes), indent=2, allow_nan=False) + "\n"
    if wanted == "junit":
        return _junit(outcomes)
    return _table(outcomes)


def to_json(outcomes: Sequence[SectionOutcome]) -> dict[str, Any]:
    """Return the versioned form that scripts may rely on."""
    deployments: dict[str, list[dict[str, Any]]] = {}
    for outcome in outcomes:
        deployments.setdefault(outcome.deployment, []).append(
            {
                "section": str(outcome.section),
                "enabled": outcome.off is None,
                "reason": "" if outcome.off is None else str(outcome.off),
                "severity": None if outcome.off is not None else outcome.severity.label,
                "targets": [check_json.tell_target(health) for health in outcome.healths],
                **check_json.tell_section(outcome.section, outcome.healths, outcome.derp_map),
            }
        )
    return {
        "version": JSON_VERSION,
        "severity": worst(outcomes).label,
        "deployments": [{"name": name, "sections": sections} for name, sections in deployments.items()],
    }


def _table(outcomes: Sequence[SectionOutcome]) -> str:
    rows = [("DEPLOYMENT", "SECTION", "TARGET", "SEVERITY", "CODE", "WHAT WAS SEEN")]
    for outcome in outcomes:
        rows += _rows(outcome)
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    lines = (
        "  ".join([*(cell.ljust(width) for cell, width in zip(row[:5], widths, strict=True)), row[5]]).rstrip()
        for row in rows
    )
    return "\n".join(lines) + "\n"


def _rows(outcome: SectionOutcome) -> Iterator[tuple[str, str, str, str, str, str]]:
    where = (_line(outcome.deployment), str(outcome.section))
    if outcome.off is not None:
        yield (*where, "-", "off", "-", _OFF[outcome.off])
        return
    shown = False
    for health in outcome.healths:
        for cells in _target_rows(health, alone=len(outcome.healths) == 1):
            yield (*where, *cells)
            shown = True
    if not shown:
        yield (*where, "-", Severity.OK.label, "-", "nothing to probe")


def _target_rows(health: TargetHealth, *, alone: bool) -> Iterator[tuple[str, str, str, str]]:
    """Every finding, else what was seen; then notes. A run may fail without a code of its own: what
    it means is said by another target (a relay's region) or by nobody."""
    target = _line(health.key.name) or "-"
    findings = sorted(health.report.findings, key=_by_severity)
    for finding in findings:
        yield target, finding.severity.label, finding.code, _line(finding.message)
    failure = health.report.failure
    if not findings and failure is not None:
        yield target, "failed", "-", _line(failure.message)
    elif not findings and (alone or not isinstance(health.result, RoundResult)):
        yield target, Severity.OK.label, "-", _line(check_words.describe(health.result))
    for name, kind, sentence in check_words.note(health.result, judged=bool(findings)):
        yield _line(name) or target, kind, "-", _line(sentence)


def _by_severity(finding: Finding) -> int:
    return -finding.severity


_OFF = {
    OffReason.DISABLED: "disabled in the configuration",
    OffReason.NO_TOKEN: "needs a session token, a database URL or static proxies",
    OffReason.FORBIDDEN: "the server does not let us: the token is missing, refused, or lacks the right",
    OffReason.NOT_LICENSED: "the deployment has no license for it",
    OffReason.NOT_SUPPORTED: "the server does not know it",
    OffReason.NO_DATABASE: "needs a database URL",
    OffReason.NOT_CONFIGURED: "not configured",
}


def _line(text: str) -> str:
    """What servers and files say stays on its line, in bounded length, and sends nothing to the
    terminal."""
    text = " ".join(text[:4096].split())
    text = "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)
    return text if len(text) <= 400 else text[:400] + "..."


def _junit(outcomes: Sequence[SectionOutcome]) -> str:
    root = ElementTree.Element("testsuites", name="coder-health-exporter")
    for outcome in outcomes:
        suite = ElementTree.SubElement(root, "testsuite", name=f"{_line(outcome.deployment)}/{outcome.section}")
        cases = failures = skipped = 0
        if outcome.off is not None:
            case = ElementTree.SubElement(suite, "testcase", classname=str(outcome.section), name="-")
            ElementTree.SubElement(case, "skipped", message=_OFF[outcome.off])
            cases, skipped = 1, 1
        for health in outcome.healths:
            cases += 1
            case = ElementTree.SubElement(
                suite,
                "testcase",
                classname=str(outcome.section),
                name=_line(health.key.name) or "-",
                time=f"{health.duration_seconds:.6f}",
            )
            bad = [finding for finding in health.report.findings if finding.severity > Severity.OK]
            failures += bool(bad)
            for finding in sorted(bad, key=_by_severity)[:1]:
                failure = ElementTree.SubElement(
                    case, "failure", type=finding.code, message=f"{finding.code}: {_line(finding.message)}"
                )
                failure.text = "\n".join(f"{each.code} {each.severity.label}: {_line(each.message)}" for each in bad)
        suite.attrib |= {"tests": str(cases), "failures": str(failures), "skipped": str(skipped), "errors": "0"}
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"
