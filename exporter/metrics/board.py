"""Everything that /metrics shows: the way from commits of the snapshot to a body.

In: declared sections and each commit. Out: the parts of a body. A commit renders what it changed
and nothing else, so its cost does not grow with the number of targets; a scrape only joins.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass
from typing import NamedTuple

from exporter.health.database import DatabaseResult
from exporter.health.derp import MeshResult, TransportResult
from exporter.health.model import OffReason, Section, Witness
from exporter.health.report import ReportResult
from exporter.health.root_cause import Layer
from exporter.health.stun import StunResult
from exporter.health.workspace_proxy import ProxyResult, RoundResult
from exporter.metrics import relay_samples, report_samples, samples, sections
from exporter.metrics.exposition import Exposition
from exporter.metrics.families import FAMILIES
from exporter.metrics.labels import escape, escape_target, label_text
from exporter.metrics.negotiation import Format
from exporter.metrics.own import OwnMetrics
from exporter.metrics.relay_series import RelaySeries
from exporter.metrics.series import Histogram, TargetSeries
from exporter.snapshot import Commit, Entry, Snapshot
from exporter.targets.model import SectionKey, TargetKey

_PINGS = "coder_health_database_ping_duration_seconds"
_PROXY_ROUNDS = "coderd_proxyhealth_health_check_duration_seconds"
_PROXY_FAMILIES = (samples.PROXY_INFO, samples.PROXY_STATUS, samples.PROXY_WARNINGS)

_END = b"# EOF\n"
# The label of a claim that anybody may have: whoever comes second is silent, and nothing is wrong.
_ANY = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Clash:
    """Two targets want the same series; the one that was first has it.

    `label` and `value` are what they share: the same `proxy_id` in two deployments, the same node
    in two regions of one name, or names that are equal once they are cut.
    """

    label: str
    value: str
    shown: TargetKey
    hidden: TargetKey


class _Claim(NamedTuple):
    """A right to series that may exist once: `scope` is where, `value` the label's text."""

    label: str
    scope: tuple[str, ...]
    value: str


class _Shown:
    """A target that is shown: owner of its pieces and holder of its claims, by identity."""

    __slots__ = ("_held", "claims", "key", "pieces", "pings", "series", "values")

    def __init__(self, key: TargetKey) -> None:
        self.key = key
        self.values = escape_target(key)
        self.series = TargetSeries(self.values, timed=not _only_judges(key))
        self.pings: Histogram | None = None
        self.claims: dict[_Claim, tuple[str, ...]] = {}
        self._held: dict[str, str] = {}
        self.pieces: dict[str, str] = {}

    def hold(self, pieces: dict[str, str], result: ReportResult) -> dict[str, str]:
        """Return the pieces of a poll. One that fails leaves what the report before it said, as long
        as that is held to be good: its time tells how old it is."""
        if result.report is not None:
            self._held = {family: piece for family, piece in pieces.items() if family in report_samples.FAMILIES}
            return pieces
        if result.expired:
            self._held = {}
        return self._held | pieces


class Board:
    """What is shown, kept up to date commit by commit. On the event loop only.

    Args:
        snapshot: Where the commits come from; a section is declared there before it is here.
        own: The exporter's own families, shown last.
        thresholds: Database latency threshold in seconds by deployment.
    """

    def __init__(self, *, snapshot: Snapshot, own: OwnMetrics, thresholds: Mapping[str, float]) -> None:
        self._snapshot = snapshot
        self._own = own
        self._thresholds = dict(thresholds)
        self._exposition = Exposition(family for family in FAMILIES if not family.own)
        self._declared: dict[SectionKey, OffReason | None] = {}
        self._off: dict[SectionKey, OffReason | None] = {}
        # the same by section and witness, over all replicas
        self._alike: dict[SectionKey, dict[SectionKey, OffReason | None]] = {}
        self._sections: dict[SectionKey, sections.SectionSeries] = {}
        self._targets: dict[TargetKey, _Shown] = {}
        self._proxy_rounds = Histogram(_PROXY_ROUNDS)
        self._relays = RelaySeries(self._exposition)
        self._holders: dict[_Claim, _Shown] = {}
        self._clashes: set[tuple[_Claim, _Shown]] = set()

    @property
    def off(self) -> Mapping[SectionKey, OffReason | None]:
        """Every declared section, and why it is off: as declared, or as its last run found; None
        when it is on."""
        return self._off

    def declare(self, key: SectionKey, off_reason: OffReason | None = None) -> None:
        """Show a section, as one witness tells it: with its codes at 0 when it is on, else only that it is
        off and why."""
        self._declared[key] = off_reason
        self._show_section(key, off_reason)

    def forget_section(self, key: SectionKey) -> None:
        """Show nothing more of a section: its replica is gone, or its report."""
        self._declared.pop(key, None)
        self._off.pop(key, None)
        self._sections.pop(key, None)
        self._exposition.remove(key)
        self._show_enabled(key)

    def show_dismissed(self, deployment: str, since_timestamp_seconds: Mapping[str, float | None]) -> None:
        """Show which sections are muted in Coder, by section; nothing when that is not known."""
        pieces = sections.render_dismissed(deployment, since_timestamp_seconds)
        self._exposition.replace(("dismissed", deployment), pieces)

    def show_root_cause(self, deployment: str, broken: Layer | None) -> None:
        """Show the first broken layer of a deployment; None: nothing is broken."""
        self._exposition.replace(("root_cause", deployment), sections.render_root_cause(deployment, broken))

    def show_disagreements(self, deployment: str, differs: Iterable[tuple[Section | str, str, bool]]) -> None:
        """Show, by section and replica, whether the witnesses that can be compared differ."""
        pieces = sections.render_disagreements(deployment, differs)
        self._exposition.replace(("disagreement", deployment), pieces)

    def set_threshold(self, deployment: str, seconds: float) -> None:
        """Take the database latency threshold that is in force, for results from now on."""
        self._thresholds[deployment] = seconds

    def show_maintenance(self, deployment: str, *, is_open: bool) -> None:
        """Show whether a maintenance window of a deployment is open."""
        self._exposition.replace(("maintenance", deployment), sections.render_maintenance(deployment, is_open=is_open))

    def show(self, commit: Commit) -> tuple[Clash, ...]:
        """Show what a commit changed; return the clashes that it brought, each reported once."""
        for key in commit.removed:
            self._forget(key)
        clashes: list[Clash] = []
        found: dict[SectionKey, OffReason | None] = {}
        for entry in commit.entries if not commit.new_runs else ():
            self._show_settled(entry)
        for entry in commit.entries if commit.new_runs else ():
            key, off = entry.health.key, entry.health.report.off
            found[key.section_key] = found.get(key.section_key) or off
            if off is not None:
                # the run had nothing to measure: nothing of it is shown
                self._forget(key)
            else:
                clashes += self._show_target(entry)
        for section_key in commit.sections:
            # where targets only left, nobody learned anything new
            off = found[section_key] if section_key in found else self._off.get(section_key)
            self._show_section(section_key, self._declared.get(section_key) or off)
        return tuple(clashes)

    def render(self, wanted: Format) -> list[bytes]:
        """Return the parts of the body, to be joined."""
        parts = self._exposition.render(wanted)
        parts.append(self._own.render(wanted))
        if wanted is Format.OPENMETRICS:
            parts.append(_END)
        return parts

    def _show_section(self, key: SectionKey, off: OffReason | None) -> None:
        if key not in self._off or self._off[key] is not off:
            self._off[key] = off
            self._show_enabled(key)
        if off is not None:
            self._sections.pop(key, None)
            self._exposition.remove(key)
            return
        series = self._sections.get(key)
        if series is None:
            series = self._sections[key] = sections.SectionSeries(key)
        pieces = series.render(self._snapshot.sections[key])
        if pieces is not None:
            self._exposition.replace(key, pieces)

    def _show_enabled(self, key: SectionKey) -> None:
        """The family has no label for the replica: a section is on when it is for any of them."""
        like = key._replace(coder_replica="") if key.coder_replica else key
        alike = self._alike.setdefault(like, {})
        if key in self._off:
            alike[key] = self._off[key]
        else:
            alike.pop(key, None)
        if not alike:
            del self._alike[like]
            self._exposition.remove(("enabled", like))
            return
        off = None if None in alike.values() else next(iter(alike.values()))
        self._exposition.replace(("enabled", like), sections.render_enabled(like, off))

    def _show_target(self, entry: Entry) -> list[Clash]:
        key, result = entry.health.key, entry.health.result
        shown = self._targets.get(key)
        if shown is None:
            shown = self._targets[key] = _Shown(key)
        threshold = self._thresholds.get(key.section_key.deployment)
        # what Coder's report says of a section was not probed: only the poll has a duration and the like
        pieces = {} if key.section_key.witness is Witness.REPORT else shown.series.observe(entry)
        pieces |= samples.render_facts(entry.health, shown.values, threshold_seconds=threshold)
        pieces |= samples.render_code_targets(entry, shown.values)
        if isinstance(result, ReportResult):
            pieces = shown.hold(pieces, result)
        if isinstance(result, DatabaseResult):
            pieces[_PINGS] = _observe_pings(shown, result.ping_seconds)
        elif isinstance(result, RoundResult):
            self._proxy_rounds.observe(entry.health.duration_seconds)
            self._exposition.replace(_PROXY_ROUNDS, {_PROXY_ROUNDS: self._proxy_rounds.render()})
        clashes = self._claim(shown, _claims(shown, result))
        hidden = self._leave_out_lost(shown, pieces)
        shown.pieces = pieces
        self._exposition.replace(shown, pieces)
        if isinstance(result, TransportResult):
            self._relays.observe(shown, result, shown.values, hidden=hidden)
        elif key.section_key.section is Section.DERP:
            self._relays.observe(shown, None, shown.values, hidden=False)
        return clashes

    def _show_settled(self, entry: Entry) -> None:
        """Show what has settled of a run that was shown, and counted, before."""
        shown = self._targets.get(entry.health.key)
        if shown is not None:
            pieces = {family: piece for family, piece in shown.pieces.items() if family != samples.CODE_TARGET}
            pieces |= samples.render_code_targets(entry, shown.values)
            self._leave_out_lost(shown, pieces)
            shown.pieces = pieces
            self._exposition.replace(shown, pieces)

    def _leave_out_lost(self, shown: _Shown, pieces: dict[str, str]) -> bool:
        """Take out what hangs on claims that are others'; return whether there are any."""
        lost = [claim for claim in shown.claims if self._holders.get(claim) is not shown]
        for claim in lost:
            for family in shown.claims[claim] or tuple(pieces):
                pieces.pop(family, None)
        return bool(lost)

    def _claim(self, shown: _Shown, claims: dict[_Claim, tuple[str, ...]]) -> list[Clash]:
        """Take what is free, leave to others what is theirs, give back what is no longer wanted."""
        self._release(shown, shown.claims.keys() - claims.keys())
        shown.claims = claims
        clashes = []
        for claim in claims:
            holder = self._holders.setdefault(claim, shown)
            if holder is shown:
                self._clashes.discard((claim, shown))
            elif claim.label != _ANY and (claim, shown) not in self._clashes:
                self._clashes.add((claim, shown))
                clashes.append(Clash(label=claim.label, value=claim.value, shown=holder.key, hidden=shown.key))
        return clashes

    def _release(self, shown: _Shown, claims: Set[_Claim]) -> None:
        for claim in claims:
            if self._holders.get(claim) is shown:
                del self._holders[claim]
            self._clashes.discard((claim, shown))

    def _forget(self, key: TargetKey) -> None:
        shown = self._targets.pop(key, None)
        if shown is not None:
            self._exposition.remove(shown)
            self._relays.forget(shown)
            self._release(shown, shown.claims.keys())


def _observe_pings(shown: _Shown, pings: tuple[float, ...]) -> str:
    if shown.pings is None:
        shown.pings = Histogram(_PINGS, label_text(_PINGS, shown.values))
    for seconds in pings:
        shown.pings.observe(seconds)
    return shown.pings.render()


def _only_judges(key: TargetKey) -> bool:
    """Whether a target is a judgement on what others measured: that of a DERP region, by its id, and
    that of the whole section."""
    return key.section_key.section is Section.DERP and "/" not in key.name


def _claims(shown: _Shown, result: object) -> dict[_Claim, tuple[str, ...]]:
    """Return what may exist once, each with the families that hang on it; none for all of them."""
    values = shown.values
    section = (values["deployment"], values["section"])
    about = (*section, values["witness"], values["coder_replica"]) if values["witness"] == "report" else section
    claims: dict[_Claim, tuple[str, ...]] = {_Claim("target", about, values["target"]): ()}
    if isinstance(result, ProxyResult):
        proxy_id = escape(result.proxy.id)
        witness = (*section, values["witness"], values["coder_replica"])
        claims[_Claim("proxy_id", witness, proxy_id)] = _PROXY_FAMILIES
        # the ported family has no other label
        claims[_Claim("proxy_id", (), proxy_id)] = (samples.PORTED_RESULTS,)
    elif isinstance(result, TransportResult):
        scope = (*section, escape(result.name.region_name), result.transport)
        claims[_Claim("derp_node", scope, escape(result.name.node))] = relay_samples.RELAY_FAMILIES
    elif isinstance(result, StunResult):
        scope = (*section, escape(result.region_name), "stun")
        claims[_Claim("derp_node", scope, escape(result.node))] = relay_samples.STUN_FAMILIES
    elif isinstance(result, ReportResult):
        claims[_Claim(_ANY, section, "provisioner_daemons")] = report_samples.ONCE_FAMILIES
    elif isinstance(result, MeshResult):
        # all pairs of a region or none: half a mesh would be misread
        claims[_Claim("derp_region", (*section, "mesh"), escape(result.region_name))] = (relay_samples.MESH_PATH_UP,)
    return claims
