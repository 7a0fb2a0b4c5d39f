"""One round now, for people and scripts: what was observed, as a table, JSON or JUnit XML.

In: an application whose targets were just run. Out: text, and the worst severity. It shows observed
codes: a single round settles nothing.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

from exporter import check_json, check_words
from exporter.app import Application
from exporter.config.durations import format_duration
from exporter.health.model import Finding, OffReason, Section, Severity, Witness
from exporter.health.workspace_proxy import RoundResult
from exporter.secret import mask, mask_within
from exporter.snapshot import TargetHealth
from exporter.targets.model import SectionKey
from exporter.wire.derp_map import DerpMap

FORMATS = ("table", "json", "junit")
# A line about what is being waited for names no more targets than this.
_MAX_AWAITED = 5
# Grows when a member changes its meaning or goes away; new members may come at any time.
JSON_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class SectionOutcome:
    """A section of a deployment after one round, as one witness tells it. `off` is None when it was
    probed. `derp_map` is the map that the section `derp` went by; None without one, and for other
    sections. `disagreement` says where both witnesses differ, and what that usually means."""

    key: SectionKey
    off: OffReason | None
    healths: tuple[TargetHealth, ...]
    derp_map: DerpMap | None = None
    disagreement: str = ""

    @property
    def deployment(self) -> str:
        return self.key.deployment

    @property
    def section(self) -> Section | str:
        return self.key.section

    @property
    def reported(self) -> bool:
        """Coder's own report says so."""
        return self.key.witness is Witness.REPORT

    @property
    def severity(self) -> Severity:
        return max((health.report.severity for health in self.healths), default=Severity.OK)


def collect(application: Application) -> tuple[SectionOutcome, ...]:
    """Return what the latest run of each target found, in the order of the configuration."""
    disagreements = {
        SectionKey(
            deployment=deployment, section=one.section, witness=Witness.REPORT, coder_replica=one.coder_replica
        ): one.sentence
        for deployment, compared in application.comparing.compare_single_round().items()
        for one in compared
        if one.differs
    }
    by_section: dict[object, list[TargetHealth]] = {}
    for key, entry in sorted(application.snapshot.entries.items()):
        by_section.setdefault(key.section_key, []).append(entry.health)
    return tuple(
        SectionOutcome(
            key=key,
            off=off,
            healths=() if off is not None else tuple(by_section.get(key, ())),
            derp_map=application.derp_map(key.deployment)
            if key.section is Section.DERP and key.witness is Witness.PROBE
            else None,
            disagreement=disagreements.get(key, ""),
        )
        # the exporter itself last
        for key, off in sorted(application.board.off.items(), key=lambda item: not item[0].deployment)
    )


def describe_waiting(application: Application) -> str:
    """Say what a round waits for, and for how long at most; empty when no target is under way."""
    left = sorted(application.awaited_seconds.items(), key=lambda item: (-item[1], item[0]))
    if not left:
        return ""
    names = ", ".join(_line(f"{key.deployment}/{key.section}".removeprefix("/")) for key, _ in left[:_MAX_AWAITED])
    more = f" and {len(left) - _MAX_AWAITED} more" if len(left) > _MAX_AWAITED else ""
    return f"waiting for {names}{more}, for {format_duration(math.ceil(left[0][1]))} at most"


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
        key = outcome.key
        deployments.setdefault(outcome.deployment, []).append(
            {
                "section": str(outcome.section),
                "witness": str(outcome.key.witness),
                "coder_replica": outcome.key.coder_replica,
                "enabled": outcome.off is None,
                "reason": "" if outcome.off is None else str(outcome.off),
                "severity": None if outcome.off is not None else outcome.severity.label,
                "targets": [check_json.tell_target(health) for health in outcome.healths],
                "disagreement": outcome.disagreement,
                **({} if outcome.reported else check_json.tell_section(key.section, outcome.healths, outcome.derp_map)),
            }
        )
    own = deployments.pop("", [])
    told: dict[str, Any] = {
        "version": JSON_VERSION,
        "severity": worst(outcomes).label,
        "exporter": {"sections": own},
        "deployments": [{"name": name, "sections": sections} for name, sections in deployments.items()],
    }
    masked: dict[str, Any] = mask_within(told)  # servers say much of this
    return masked


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
    where = (_line(outcome.deployment) or "-", _line(_tell_section(outcome.key)))
    if outcome.off is not None:
        if outcome.reported:
            return  # why there is no report stands once, at the section `report`
        yield (*where, "-", "off", "-", _OFF[outcome.off])
        return
    shown = False
    for health in outcome.healths:
        for cells in _target_rows(health, alone=len(outcome.healths) == 1):
            yield (*where, *cells)
            shown = True
    if outcome.disagreement:
        yield (*where, "-", "differs", "-", _line(outcome.disagreement))
    if not shown and not outcome.reported:
        yield (*where, "-", Severity.OK.label, "-", "nothing to probe")


def _tell_section(key: SectionKey) -> str:
    told = " ".join(filter(None, ("report" if key.witness is Witness.REPORT else "", key.coder_replica)))
    return f"{key.section} ({told})" if told else str(key.section)


def _target_rows(health: TargetHealth, *, alone: bool) -> Iterator[tuple[str, str, str, str]]:
    """Every finding, else what was seen; then notes. A run may fail without a code of its own: what
    it means is said by another target (a relay's region) or by nobody."""
    target = _line(health.key.name) or "-"
    findings = sorted(health.report.findings, key=_by_severity)
    for finding in findings:
        yield target, finding.severity.label, finding.code or "-", _line(finding.message)
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
    terminal; what looks like a secret is masked."""
    text = " ".join(mask(text)[:4096].split())
    text = "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)
    return text if len(text) <= 400 else text[:400] + "..."


def _junit(outcomes: Sequence[SectionOutcome]) -> str:
    root = ElementTree.Element("testsuites", name="coder-health-exporter")
    for outcome in outcomes:
        suite = ElementTree.SubElement(
            root, "testsuite", name=f"{_line(outcome.deployment)}/{_line(_tell_section(outcome.key))}"
        )
        cases = failures = skipped = 0
        if outcome.off is not None:
            case = ElementTree.SubElement(suite, "testcase", classname=_line(outcome.section), name="-")
            ElementTree.SubElement(case, "skipped", message=_OFF[outcome.off])
            cases, skipped = 1, 1
        for health in outcome.healths:
            cases += 1
            case = ElementTree.SubElement(
                suite,
                "testcase",
                classname=_line(outcome.section),
                name=_line(health.key.name) or "-",
                time=f"{health.duration_seconds:.6f}",
            )
            bad = [finding for finding in health.report.findings if finding.severity > Severity.OK]
            failures += bool(bad)
            for finding in sorted(bad, key=_by_severity)[:1]:
                said = (finding.code, _line(finding.message))
                failure = ElementTree.SubElement(
                    case, "failure", type=finding.code or "uncoded", message=": ".join(filter(None, said))
                )
                failure.text = "\n".join(
                    f"{' '.join(filter(None, (each.code, each.severity.label)))}: {_line(each.message)}" for each in bad
                )
        if outcome.disagreement:
            ElementTree.SubElement(suite, "system-out").text = _line(outcome.disagreement)
        suite.attrib |= {"tests": str(cases), "failures": str(failures), "skipped": str(skipped), "errors": "0"}
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"
