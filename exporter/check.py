"""One round now, for people and scripts: what was observed, as a table, JSON or JUnit XML.

In: an application whose targets were just run. Out: text, and the worst severity. It shows observed
codes: a single round settles nothing.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any
from xml.etree import ElementTree

from exporter.app import Application
from exporter.health import codes
from exporter.health.access_url import AccessURLResult
from exporter.health.database import DatabaseResult
from exporter.health.model import Finding, OffReason, Section, Severity
from exporter.health.websocket import Mode, WebSocketResult
from exporter.health.workspace_proxy import ProxyResult, RoundResult
from exporter.snapshot import TargetHealth

FORMATS = ("table", "json", "junit")
# Grows when a member changes its meaning or goes away; new members may come at any time.
JSON_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class SectionOutcome:
    """A section of a deployment after one round. `off` is None when it was probed."""

    deployment: str
    section: Section
    off: OffReason | None
    healths: tuple[TargetHealth, ...]

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
                "targets": [_target_json(health) for health in outcome.healths],
            }
        )
    return {
        "version": JSON_VERSION,
        "severity": worst(outcomes).label,
        "deployments": [{"name": name, "sections": sections} for name, sections in deployments.items()],
    }


def _target_json(health: TargetHealth) -> dict[str, Any]:
    failure = health.report.failure
    return {
        "target": health.key.name,
        "severity": health.report.severity.label,
        "success": failure is None,
        "failure": None if failure is None else _plain(failure),
        "codes": [
            {
                "code": finding.code,
                "severity": finding.severity.label,
                "message": finding.message,
                "docs_url": code.docs_url if (code := codes.find(finding.code)) is not None else codes.DOCS_URL,
            }
            for finding in health.report.findings
        ],
        "started_timestamp_seconds": health.started_timestamp_seconds,
        "duration_seconds": health.duration_seconds,
        "phase_seconds": {str(phase): seconds for phase, seconds in health.phase_seconds.items()},
        "facts": _plain(health.result),
    }


def _plain(value: object) -> Any:
    """Return a frozen value as JSON's own types; a result's nested targets stand on their own."""
    if isinstance(value, Severity):
        return value.label
    if isinstance(value, Enum):
        return value.value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            field.name: _plain(getattr(value, field.name))
            for field in dataclasses.fields(value)
            if not (isinstance(value, RoundResult) and field.name == "proxies")
        }
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if isinstance(value, str | int | float | bool) or value is None:
        return value
    return str(value)


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
        target = (*where, _line(health.key.name) or "-")
        for finding in sorted(health.report.findings, key=_by_severity):
            yield (*target, finding.severity.label, finding.code, _line(finding.message))
            shown = True
        if not health.report.findings and not (isinstance(health.result, RoundResult) and len(outcome.healths) > 1):
            yield (*target, Severity.OK.label, "-", _line(describe(health.result)))
            shown = True
    if not shown:
        yield (*where, "-", Severity.OK.label, "-", "nothing to probe")


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


def describe(result: object) -> str:
    """Return the facts of a good run in a few words."""
    match result:
        case AccessURLResult():
            parts = [
                f"{attempt.status} from {attempt.address} in {_ms(sum(attempt.phase_seconds.values()))}"
                for attempt in result.attempts
                if attempt.status is not None
            ]
            version = result.best.coder_version if result.best is not None else None
            return ", ".join([*parts, *([f"Coder {version}"] if version else [])])
        case WebSocketResult(mode=Mode.ECHO):
            slowest = max(result.echo_round_trip_seconds, default=0.0)
            count = len(result.echo_round_trip_seconds)
            return f"{count} messages echoed by {result.address}, the slowest in {_ms(slowest)}"
        case WebSocketResult():
            why = f" (no echo: {result.echo_fallback})" if result.echo_fallback else ""
            return f"DERP map received from {result.address}{why}"
        case DatabaseResult():
            median = result.median_ping_seconds
            return f"median of five pings {_ms(median)}" if median is not None else "not pinged"
        case ProxyResult():
            version = f", version {_line(result.version)}" if result.version else ""
            return f"{result.status} from {result.address}{version}"
        case RoundResult():
            return "no workspace proxies"
    return ""


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms"


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
