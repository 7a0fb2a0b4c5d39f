"""What is known at a moment, in the form in which people and scripts are shown it: the snapshot in,
views out. The landing page and the JSON of `/api/v1/health` tell the same, since both are made of these.
Whatever servers said is masked here, so that none of them can show a secret.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from exporter.health.codes import CODES, Code
from exporter.health.derp import DerpResult, Skipped
from exporter.health.maintenance import CLOSED, Maintenance
from exporter.health.model import UNCODED, OffReason, Section, Severity, Witness
from exporter.health.root_cause import RootCause
from exporter.secret import mask
from exporter.snapshot import Entry, SectionRollup, Snapshot
from exporter.targets.model import SectionKey

# More nodes that are skipped for one reason are only counted.
_MAX_SKIPPED = 5
# More targets of one code are only counted: the first of them are evidence enough.
MAX_EVIDENCE = 20

_CODES: dict[tuple[str, str], Code] = {
    (section, code.value): code for section, codes in CODES.items() for code in codes
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What one target shows of a code."""

    target: str
    severity: Severity
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CodeView:
    """A code that is active or was observed by the last runs; `value` is empty for trouble of Coder's
    report that bears no code. `summary` and `docs_url` are empty for one that the table does not know.

    `since_timestamp_seconds` is None while it is not active. `target_count` is that of all targets,
    `evidence` has the first of them.
    """

    value: str
    severity: Severity
    summary: str = ""
    docs_url: str = ""
    observed: bool = True
    since_timestamp_seconds: float | None = None
    evidence: tuple[Evidence, ...] = ()
    target_count: int = 0

    @property
    def active(self) -> bool:
        return self.since_timestamp_seconds is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class SkippedView:
    """Nodes of the DERP map that are not probed for one reason, as `REGION/NODE (host)`. `count` is
    that of all, `nodes` has the first of them."""

    reason: str
    nodes: tuple[str, ...]
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WitnessView:
    """What one witness says of a section: our probe, of one replica or through the access URL, or
    Coder's report of one replica.

    `severity` is the settled one, None before the first run, and when it is off.
    `last_run_timestamp_seconds` is when the latest run of any of its targets began.
    """

    witness: Witness = Witness.PROBE
    coder_replica: str = ""
    off: OffReason | None = None
    severity: Severity | None = None
    observed_severity: Severity | None = None
    codes: tuple[CodeView, ...] = ()
    last_run_timestamp_seconds: float | None = None

    @property
    def active_codes(self) -> tuple[CodeView, ...]:
        return tuple(code for code in self.codes if code.active)


@dataclass(frozen=True, slots=True, kw_only=True)
class Disagreement:
    """Where the witnesses differ; `sentence` says what that usually means."""

    coder_replica: str
    sentence: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SectionView:
    """A section of a deployment, as every witness tells it; that of our probe through the access URL,
    if there is one, comes first.

    Args:
        dismissed: Whether it is muted in Coder; None: not known.
        dismissed_since_timestamp_seconds: Since when it has been seen muted.
        consequence: Its trouble is only a consequence of the root cause.
    """

    section: Section | str
    witnesses: tuple[WitnessView, ...] = ()
    skipped: tuple[SkippedView, ...] = ()
    dismissed: bool | None = None
    dismissed_since_timestamp_seconds: float | None = None
    disagreements: tuple[Disagreement, ...] = ()
    consequence: bool = False

    @property
    def own(self) -> WitnessView | None:
        """What our probe says through the access URL; None for sections that only Coder's report has."""
        return next((one for one in self.witnesses if one.witness is Witness.PROBE and not one.coder_replica), None)

    @property
    def verdict(self) -> WitnessView | None:
        """Who is believed when one has to be: our probe where it says something, else the worst report.
        None when nobody does. Of how reports are to be had, it is the worst of all replicas: only there is
        nothing else that would tell. Source: contract, section 8, Commands."""
        own = self.own
        if self.section == Section.REPORT:
            probes = [one for one in self.witnesses if one.witness is Witness.PROBE and one.severity is not None]
            own = max(probes, key=lambda one: one.severity or Severity.OK, default=own)
        if own is not None and own.severity is not None:
            return own
        reports = [one for one in self.witnesses if one.witness is Witness.REPORT and one.severity is not None]
        return max(reports, key=lambda one: one.severity or Severity.OK, default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeploymentView:
    """`name` is empty for the exporter itself."""

    name: str
    sections: tuple[SectionView, ...]
    maintenance: Maintenance = CLOSED
    root_cause: RootCause | None = None

    @property
    def severity(self) -> Severity | None:
        """The worst that anybody says, be it of a single replica; None: nothing yet."""
        known = [one.severity for section in self.sections for one in section.witnesses if one.severity is not None]
        return max(known, default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Background:
    """What is known of deployments beside the snapshot.

    Args:
        off: Every section of the snapshot that is shown; why it is off, None when it is on.
        maintenance: Of deployments that have windows.
        root_causes: Of deployments where something is broken.
        dismissed: By deployment and section, since when it has been seen muted, None when it is not;
            deployments of which it is not known are left out.
        disagreements: By deployment and section.
    """

    off: Mapping[SectionKey, OffReason | None]
    maintenance: Mapping[str, Maintenance] = field(default_factory=dict)
    root_causes: Mapping[str, RootCause | None] = field(default_factory=dict)
    dismissed: Mapping[str, Mapping[str, float | None]] = field(default_factory=dict)
    disagreements: Mapping[str, Mapping[str, tuple[Disagreement, ...]]] = field(default_factory=dict)


def survey(snapshot: Snapshot, background: Background, *, only: str | None = None) -> tuple[DeploymentView, ...]:
    """Return what is known of every declared section; of those of one deployment, when it is named."""
    return tuple(survey_in_turn(snapshot, background, only=only))


def survey_in_turn(snapshot: Snapshot, background: Background, *, only: str | None = None) -> Iterator[DeploymentView]:
    """Yield the same one deployment after another, each as it is known when it is asked for: with many of
    them, others may have their turn in between."""
    wanted = dict.fromkeys(key.deployment for key in background.off) if only is None else (only,)
    for name in wanted:
        sections: dict[str, list[SectionKey]] = {}
        for key in snapshot.sections_of(name):
            if key in background.off:
                sections.setdefault(key.section, []).append(key)
        if sections:
            yield DeploymentView(
                name=name,
                sections=tuple(_section(name, keys, snapshot, background) for keys in sections.values()),
                maintenance=background.maintenance.get(name, CLOSED),
                root_cause=_mask_cause(background.root_causes.get(name)),
            )


def _section(
    deployment: str,
    keys: list[SectionKey],
    snapshot: Snapshot,
    background: Background,
) -> SectionView:
    section = keys[0].section
    ordered = sorted(keys, key=lambda key: (key.witness is Witness.REPORT, key.coder_replica))
    listed = (
        entry
        for key in ordered
        if key.witness is Witness.PROBE and section == Section.DERP
        for entry in snapshot.sections[key].entries.values()
    )
    skipped = next((e.health.result.skipped for e in listed if isinstance(e.health.result, DerpResult)), ())
    muted = background.dismissed.get(deployment)
    root_cause = background.root_causes.get(deployment)
    return SectionView(
        section=section if isinstance(section, Section) else mask(section),
        witnesses=tuple(_witness(key, background.off.get(key), snapshot.sections[key]) for key in ordered),
        skipped=_group(skipped) if background.off.get(ordered[0]) is None else (),
        dismissed=None if muted is None or section not in muted else muted[section] is not None,
        dismissed_since_timestamp_seconds=None if muted is None else muted.get(section),
        disagreements=tuple(
            Disagreement(coder_replica=mask(one.coder_replica), sentence=mask(one.sentence))
            for one in background.disagreements.get(deployment, {}).get(section, ())
        ),
        consequence=root_cause is not None and section in root_cause.consequences,
    )


def _witness(key: SectionKey, off: OffReason | None, rollup: SectionRollup) -> WitnessView:
    listed = rollup.entries.values()
    last_run = max((entry.health.started_timestamp_seconds for entry in listed), default=None)
    measured = off is None and rollup.measured
    return WitnessView(
        witness=key.witness,
        coder_replica=mask(key.coder_replica),
        off=off,
        severity=rollup.settled_severity if measured else None,
        observed_severity=rollup.observed_severity if measured else None,
        codes=tuple(_codes(key.section, rollup, listed)) if measured else (),
        last_run_timestamp_seconds=last_run,
    )


def _codes(section: str, rollup: SectionRollup, entries: Iterable[Entry]) -> Iterable[CodeView]:
    """The active codes and the observed ones, the worst first. One that is active has the severity that has
    settled, whatever else was observed of it."""
    evidence: dict[str, list[Evidence]] = {}
    settled: dict[str, Severity] = {}
    observed: set[str] = set()
    for entry in entries:
        target = mask(entry.health.key.name)
        for finding in entry.health.report.findings:
            observed.add(finding.code)
            evidence.setdefault(finding.code, []).append(
                Evidence(target=target, severity=finding.severity, message=mask(finding.message))
            )
        seen = {finding.code for finding in entry.health.report.findings}
        for active, state in entry.active.items():
            settled[active] = max(state.severity, settled.get(active, state.severity))
            if active not in seen:
                evidence.setdefault(active, []).append(
                    Evidence(target=target, severity=state.severity, message=mask(state.message))
                )
    views = []
    for value, found in evidence.items():
        code = _CODES.get((section, value))
        found.sort(key=lambda one: (-one.severity, one.target))
        views.append(
            CodeView(
                value=value,
                severity=settled.get(value, found[0].severity),
                summary=_summarize(value, code),
                docs_url=code.docs_url if code is not None else "",
                observed=value in observed,
                since_timestamp_seconds=rollup.since_timestamp_seconds.get(value),
                evidence=tuple(found[:MAX_EVIDENCE]),
                target_count=len(found),
            )
        )
    return sorted(views, key=lambda view: (-view.severity, view.value))


def _mask_cause(cause: RootCause | None) -> RootCause | None:
    return None if cause is None else replace(cause, sentence=mask(cause.sentence))


def _summarize(value: str, code: Code | None) -> str:
    if code is not None:
        return code.summary
    return "Coder's report tells trouble without a code." if value == UNCODED else ""


def _group(skipped: Iterable[Skipped]) -> tuple[SkippedView, ...]:
    nodes: dict[str, list[str]] = {}
    for node in skipped:
        host = f" ({node.host})" if node.host else ""
        nodes.setdefault(node.reason, []).append(mask(f"{node.region_id}/{node.node}{host}"))
    return tuple(
        SkippedView(reason=reason, nodes=tuple(names[:_MAX_SKIPPED]), count=len(names))
        for reason, names in sorted(nodes.items())
    )
