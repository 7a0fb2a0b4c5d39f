"""Coder's reports as they were read, made by hand for those that judge them; and any at all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from hypothesis import strategies as st

from exporter.health.coder_report import (
    CodedMessage,
    CoderReport,
    ReportedDaemon,
    ReportedNode,
    ReportedProxy,
    ReportedRegion,
    ReportedSection,
)
from exporter.health.model import Finding, Section, Severity

OK, WARNING, ERROR = Severity


class Judged(Protocol):
    """A report or a verdict."""

    @property
    def findings(self) -> Sequence[Finding]: ...


def section(
    name: str = "database", severity: Severity | None = OK, *messages: tuple[str, str], **facts: Any
) -> ReportedSection:
    told = tuple(CodedMessage(code=code, message=message) for code, message in messages)
    return ReportedSection(name=name, severity=severity, messages=told, **facts)


def report(*sections: ReportedSection, **facts: Any) -> CoderReport:
    return CoderReport(sections=sections, version="v2.26.0", **facts)


def found(told: Judged) -> list[tuple[str, Severity]]:
    """Return its codes, and how bad each is."""
    return [(finding.code, finding.severity) for finding in told.findings]


TEXTS = st.text(max_size=30) | st.sampled_from(["EDB01: x", "EUNKNOWN: panic", "a\nEWP04: b\nc", ""])
CODES = st.sampled_from(["", "EDB01", "EDB02", "EPD01", "EPD03", "ESTUN02", "EWP04", "EUNKNOWN", "ENEW01", "x"]) | TEXTS
MESSAGES = st.lists(st.builds(CodedMessage, code=CODES, message=TEXTS), max_size=5).map(tuple)
SEVERITIES = st.none() | st.sampled_from(Severity)
NAMES = st.sampled_from([*(one.value for one in Section), "pubsub"]) | st.text(max_size=5)
SECTIONS = st.builds(
    ReportedSection,
    name=NAMES,
    severity=SEVERITIES,
    severity_text=st.sampled_from(["", "ok", "fatal"]),
    healthy=st.none() | st.booleans(),
    instead=st.sampled_from(["", "", "null"]),
    error=st.none() | TEXTS,
    messages=MESSAGES,
)
REPORTS = st.builds(
    CoderReport,
    version=TEXTS,
    sections=st.lists(SECTIONS, max_size=12).map(tuple),
    severity=SEVERITIES,
    healthy=st.none() | st.booleans(),
    proxies=st.none() | st.lists(st.builds(ReportedProxy, id=TEXTS, name=TEXTS, status=TEXTS), max_size=2).map(tuple),
    daemons=st.none()
    | st.lists(
        st.builds(
            ReportedDaemon,
            id=TEXTS,
            name=TEXTS,
            organization_id=TEXTS,
            version=TEXTS,
            api_version=TEXTS,
            messages=MESSAGES,
        ),
        max_size=3,
    ).map(tuple),
    regions=st.none()
    | st.lists(
        st.builds(
            ReportedRegion,
            region_id=st.integers(0, 9),
            node_count=st.integers(0, 5),
            severity=SEVERITIES,
            error=st.none() | TEXTS,
            messages=MESSAGES,
            nodes=st.lists(
                st.builds(ReportedNode, name=TEXTS, can_exchange_messages=st.booleans(), severity=SEVERITIES),
                max_size=3,
            ).map(tuple),
        ),
        max_size=3,
    ).map(tuple),
)
