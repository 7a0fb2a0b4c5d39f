"""Both witnesses side by side: our probes' settled verdicts and those of Coder's reports.

In: the snapshot. Out: what each replica says (XRPT05), where inside and outside differ, versions that
differ (XRPT06), and the first broken layer. Nothing is measured here, and nothing kept but since when
versions differ. Only the sections of one deployment are read; single targets only where a code of them
is active.

Source: contract, sections 5 and 8; field, section 6, ideas 2, 4, 6 and 11
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from exporter.health.access_url import AccessURLResult
from exporter.health.derp import DerpResult, RegionResult, TransportResult
from exporter.health.disagreement import Disagreement, DisagreementKind, View, find_disagreement, is_blind
from exporter.health.model import REPORT_SECTIONS, Section, Severity, Witness
from exporter.health.provisioner_daemons import versions_match
from exporter.health.replica import ReplicaResult
from exporter.health.report import ReplicaView, ReportResult, ReportsResult
from exporter.health.root_cause import Relies, RootCause, Trouble
from exporter.health.root_cause import find_root_cause as find_first_broken
from exporter.health.settle import Settled
from exporter.health.websocket import WebSocketResult
from exporter.health.workspace_proxy import ProxyResult, ProxyStatus
from exporter.snapshot import Entry, SectionRollup, Snapshot
from exporter.targets.model import SectionKey

# A last run or poll that is older than so many intervals tells of a past time.
FRESH_INTERVALS = 3
# What ran so much later than now did so before the clock was set back: it tells of a past time, too.
CLOCK_TOLERANCE_SECONDS = 60.0
# How Coder calls the region of a workspace proxy. Source: derp-stun, section 6
_PROXY_REGION = "coder_"
# No sentence lists more than so many versions.
_LISTED = 5
# One look without skew between two with it is a reading that was missed, not the end of a roll-out.
_LOOKS_WITHOUT_SKEW = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Both witnesses of one section, both measured, fresh and settled.

    `kind` is None and `sentence` empty unless they differ.
    """

    section: Section
    coder_replica: str
    differs: bool
    kind: DisagreementKind | None = None
    sentence: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Reading:
    """The report in hand of one replica. `made_timestamp_seconds` is by our clock, and no later than
    it really was."""

    made_timestamp_seconds: float
    fresh: bool


def gather_views(snapshot: Snapshot, deployment: str, now: float) -> tuple[ReplicaView, ...]:
    """Return what each replica with a fresh report says of each section, by the replica's name."""
    sections = snapshot.sections_of(deployment)
    severities: dict[str, dict[str, Severity]] = {}
    for key, rollup in sections.items():
        if key.witness is Witness.REPORT and _tells(rollup):
            severities.setdefault(key.coder_replica, {})[str(key.section)] = rollup.settled_severity
    return tuple(
        ReplicaView(coder_replica=replica, severities=severities[replica])
        for replica in sorted(severities)
        if (reading := _read(sections, deployment, replica, now)) is not None and reading.fresh
    )


def compare(snapshot: Snapshot, deployment: str, now: float, *, settled: bool = True) -> tuple[Comparison, ...]:
    """Compare both witnesses wherever both are measured, fresh and settled, and the report was made
    after the probe's verdict was last another. What cannot be compared is absent.

    Args:
        settled: False for a single round, in which nothing settles: what the last runs observed.
    """
    sections = snapshot.sections_of(deployment)
    replicas = sorted({key.coder_replica for key in sections if key.witness is Witness.REPORT})
    if not replicas:
        return ()
    readings = {replica: _read(sections, deployment, replica, now) for replica in replicas}
    found = []
    for section in REPORT_SECTIONS:
        outside = sections.get(SectionKey(deployment=deployment, section=section))
        if outside is None or not _is_fresh(outside, now) or not (_is_settled(outside) or not settled):
            continue
        ours = _view(outside, settled=settled)
        if is_blind(section, ours):
            continue
        reports = {
            replica: (rollup, _view(rollup, settled=settled))
            for replica, reading in readings.items()
            if reading is not None
            and reading.fresh
            and (rollup := sections.get(_key(deployment, section, Witness.REPORT, replica))) is not None
            and _tells(rollup)
        }
        for replica, (rollup, theirs) in reports.items():
            reading = readings[replica]
            changed = outside.settled_changed_timestamp_seconds
            if reading is None or (settled and not _is_settled(rollup)):
                continue
            if settled and (changed is None or reading.made_timestamp_seconds < changed):
                continue  # made before what our probe sees now: the next report will tell
            others = [view for name, (_, view) in reports.items() if name != replica]
            disagreement = find_disagreement(
                section,
                inside=theirs,
                outside=ours,
                coder_replica=replica,
                alone=bool(others) and all(other.severity is Severity.OK for other in others),
                report_age_seconds=max(0.0, now - reading.made_timestamp_seconds),
            )
            found.append(_compared(section, replica, disagreement))
    return tuple(found)


def find_root_cause(snapshot: Snapshot, deployment: str) -> RootCause | None:
    """Return the first broken layer of a deployment by what our probes have settled; None while
    nothing is broken. What single replicas show does not count."""
    sections = snapshot.sections_of(deployment)
    raising = {
        key.section: rollup
        for key, rollup in sections.items()
        if rollup.raising and key.witness is Witness.PROBE and not key.coder_replica
    }
    if not any(rollup.settled_severity is Severity.ERROR for rollup in raising.values()):
        return None
    access_url = sections.get(SectionKey(deployment=deployment, section=Section.ACCESS_URL))
    regions = _Regions(sections, deployment)
    troubles = [
        _tell_trouble(key.section_key.section, code, state, entry, regions)
        for section in sorted(raising)
        for key, entry in raising[section].raising.items()
        for code, state in entry.settled.items()
        if state.active
    ]
    return find_first_broken(troubles, access_url_known=access_url is not None and _tells(access_url))


class SkewWatch:
    """Since when versions differ without a break, by deployment."""

    def __init__(self) -> None:
        self._since: dict[str, float] = {}
        self._missed: dict[str, int] = {}

    def see(self, deployment: str, *, skew: bool, monotonic_seconds: float) -> float | None:
        """Note one look; return for how many seconds there has been skew, None without any now."""
        if skew:
            self._missed[deployment] = 0
            return monotonic_seconds - self._since.setdefault(deployment, monotonic_seconds)
        self._missed[deployment] = self._missed.get(deployment, 0) + 1
        if self._missed[deployment] >= _LOOKS_WITHOUT_SKEW:
            self._since.pop(deployment, None)
        return None


def gather_versions(snapshot: Snapshot, deployment: str) -> dict[str, str]:
    """Return the version of the server by replica: of the access URL, under its host, and of each
    replica, as the replica itself answered, else as its report says."""
    versions: dict[str, str] = {}
    for key, rollup in snapshot.sections_of(deployment).items():
        if key.witness is not Witness.PROBE or key.section not in (Section.ACCESS_URL, Section.REPORT):
            continue
        for entry in rollup.entries.values():
            version = _find_version(entry.health.result)
            if version:
                name = key.coder_replica or entry.health.key.name
                if key.section is Section.ACCESS_URL:
                    versions[name] = version
                else:
                    versions.setdefault(name, version)
    return dict(sorted(versions.items()))


def gather_skew(snapshot: Snapshot, deployment: str) -> tuple[str, ...]:
    """Return sentences about versions that differ now, worst first: what the latest runs and reports
    observed, and replicas of several versions."""
    seen: dict[str, Severity] = {}
    for key, rollup in snapshot.sections_of(deployment).items():
        if rollup.observed_severity is Severity.OK:
            continue
        for entry in rollup.entries.values():
            for finding in entry.health.report.findings:
                if finding.skew:
                    sentence = f"{_tell_witness(key)}{finding.message}"
                    seen[sentence] = max(finding.severity, seen.get(sentence, finding.severity))
    sentences = sorted(seen, key=lambda sentence: (-seen[sentence], sentence))
    return (*_tell_replicas(gather_versions(snapshot, deployment)), *sentences)


def complete(
    result: ReportsResult,
    snapshot: Snapshot,
    deployment: str,
    *,
    watch: SkewWatch,
    skew_limit_seconds: float,
    now: float,
    monotonic_seconds: float,
) -> ReportsResult:
    """Return the result with what all reports and runs of the deployment say together."""
    skew = gather_skew(snapshot, deployment)
    return replace(
        result,
        views=gather_views(snapshot, deployment, now),
        versions=gather_versions(snapshot, deployment),
        skew=skew,
        skew_seconds=watch.see(deployment, skew=bool(skew), monotonic_seconds=monotonic_seconds),
        skew_limit_seconds=skew_limit_seconds,
    )


# what a section tells


def _key(deployment: str, section: Section, witness: Witness, coder_replica: str) -> SectionKey:
    return SectionKey(deployment=deployment, section=section, witness=witness, coder_replica=coder_replica)


def _tells(rollup: SectionRollup) -> bool:
    return rollup.measured and rollup.entry_count > 0 and rollup.off_count == 0


def _is_settled(rollup: SectionRollup) -> bool:
    return rollup.observed_severity is rollup.settled_severity


def _is_fresh(rollup: SectionRollup, now: float) -> bool:
    last, interval = rollup.last_run_timestamp_seconds, rollup.interval_seconds
    if last is None or interval is None or not _tells(rollup):
        return False
    return -CLOCK_TOLERANCE_SECONDS <= now - last < FRESH_INTERVALS * interval


def _view(rollup: SectionRollup, *, settled: bool) -> View:
    seen = _list_settled(rollup) if settled else _list_observed(rollup)
    codes: dict[str, Severity] = {}
    for code, severity in seen:
        codes[code] = max(severity, codes.get(code, severity))
    return View(codes=codes)


def _list_settled(rollup: SectionRollup) -> Iterator[tuple[str, Severity]]:
    for entry in rollup.raising.values():
        for code, state in entry.active.items():
            yield code, state.severity


def _list_observed(rollup: SectionRollup) -> Iterator[tuple[str, Severity]]:
    for entry in rollup.entries.values():
        for finding in entry.health.report.findings:
            yield finding.code, finding.severity


def _compared(section: Section, coder_replica: str, disagreement: Disagreement | None) -> Comparison:
    if disagreement is None:
        return Comparison(section=section, coder_replica=coder_replica, differs=False)
    return Comparison(
        section=section,
        coder_replica=coder_replica,
        differs=True,
        kind=disagreement.kind,
        sentence=disagreement.sentence,
    )


def _read(
    sections: Mapping[SectionKey, SectionRollup], deployment: str, coder_replica: str, now: float
) -> _Reading | None:
    """Return the report in hand of a replica; None when there is none that may still be told of."""
    rollup = sections.get(_key(deployment, Section.REPORT, Witness.PROBE, coder_replica))
    for entry in rollup.entries.values() if rollup is not None else ():
        health, result = entry.health, entry.health.result
        if not isinstance(result, ReportResult):
            continue
        if result.expired or result.held_seconds is None:
            return None
        made = health.started_timestamp_seconds + health.duration_seconds - result.held_seconds
        fresh = -CLOCK_TOLERANCE_SECONDS <= now - made <= result.hold_limit_seconds
        if result.report is not None and result.age_seconds is None:
            made -= result.refresh_seconds  # it tells no time: perhaps it lay in the cache until now
        return _Reading(made_timestamp_seconds=made, fresh=fresh)
    return None


# troubles


class _Regions:
    """What the DERP regions of a deployment rely on. Asked only while a relay is in trouble."""

    def __init__(self, sections: Mapping[SectionKey, SectionRollup], deployment: str) -> None:
        self._derp = sections.get(SectionKey(deployment=deployment, section=Section.DERP))
        self._proxies = sections.get(SectionKey(deployment=deployment, section=Section.WORKSPACE_PROXY))
        self._relies: dict[int, Relies] | None = None

    def relies(self, region_id: int) -> Relies | None:
        if self._relies is None:
            lost = {name.lower() for name in self._find_lost_proxies()}
            self._relies = dict(self._sort(lost))
        return self._relies.get(region_id)

    def _sort(self, lost: set[str]) -> Iterator[tuple[int, Relies]]:
        for region in self._list():
            if region.embedded:
                yield region.region_id, Relies.CODER
            elif region.code.startswith(_PROXY_REGION) and region.code.removeprefix(_PROXY_REGION).lower() in lost:
                yield region.region_id, Relies.LOST_PROXY

    def _list(self) -> Iterable[RegionResult]:
        for entry in self._derp.entries.values() if self._derp is not None else ():
            if isinstance(entry.health.result, DerpResult):
                return entry.health.result.regions
        return ()

    def _find_lost_proxies(self) -> Iterator[str]:
        for entry in self._proxies.raising.values() if self._proxies is not None else ():
            result, state = entry.health.result, entry.active.get("EWP04")
            if not isinstance(result, ProxyResult) or state is None:
                continue
            # one good run does not bring it back: the code is still active then
            if result.status is not ProxyStatus.OK or state.streak > 0:
                yield result.proxy.name


def _tell_trouble(section: Section | str, code: str, state: Settled, entry: Entry, regions: _Regions) -> Trouble:
    # what was seen while this host was cut off says nothing of why a code is active
    judged = entry.judged or entry.health
    failure = judged.report.failure or entry.last_failure
    relies = None
    if section == Section.DERP:
        region_id = _find_region(judged.result)
        relies = None if region_id is None else regions.relies(region_id)
    return Trouble(
        section=section,
        code=code,
        severity=state.severity,
        message=state.message,
        phase=None if failure is None else failure.phase,
        reason=None if failure is None else failure.reason,
        # a good run that does not end it yet tells nothing of what it was
        coder_in_trouble=state.streak > 0 or _is_coder_in_trouble(judged.result),
        relies=relies,
    )


def _find_region(result: object) -> int | None:
    match result:
        case RegionResult():
            return result.region_id
        case TransportResult():
            return result.name.region_id
    return None


def _is_coder_in_trouble(result: object) -> bool:
    match result:
        case AccessURLResult(best=best) if best is not None:
            return best.status is not None and best.status >= 500
        case WebSocketResult():
            return result.internal_error or (result.from_coder and result.status is not None and result.status >= 500)
    return False


# versions


def _find_version(result: object) -> str:
    match result:
        case AccessURLResult():
            if result.best is not None and result.best.coder_version:
                return result.best.coder_version
            return (result.identity.version if result.identity is not None else None) or ""
        case ReplicaResult():
            return result.coder_version
        case ReportResult() if result.report is not None:
            return result.report.version
    return ""


def _tell_replicas(versions: Mapping[str, str]) -> tuple[str, ...]:
    first = next(iter(versions.values()), "")
    if all(versions_match(first, version) for version in versions.values()):
        return ()
    told = [f"{name} {version}" for name, version in versions.items()]
    more = f" and {len(told) - _LISTED} more" if len(told) > _LISTED else ""
    return (f"replicas of coderd have different versions: {', '.join(told[:_LISTED])}{more}",)


def _tell_witness(key: SectionKey) -> str:
    if key.witness is Witness.PROBE:
        return ""
    return f"the report of replica {key.coder_replica} says: " if key.coder_replica else "Coder's report says: "
