"""The verdict that Coder's own check would give on what we measured, bug for bug, so that users can
compare with Coder's page. Ours is in `derp.py`.

In: the latest results of the regions. Out: a `CoderDerpVerdict`. What differs from ours are Coder's
gaps: a 4xx hides a dead relay behind EDERP01 (G1), a region is fine with one bad node whatever it is
(G2), STUN makes nodes bad (G3, G4), `healthy` and `severity` contradict each other (G15), a region
without nodes crashes the section (G5), forced WebSocket is not known (G10), ESTUN02 leaves the
severity alone (G14), and a relay that left the map is not seen (G16).

Source: derp-stun, sections 3.1 to 3.3 and 9.4
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from exporter.health import codes
from exporter.health.derp import RAW, WEBSOCKET, RegionResult, RelayResult
from exporter.health.model import Finding, Severity
from exporter.health.stun import StunResult


@dataclass(frozen=True, slots=True, kw_only=True)
class CoderNodeVerdict:
    """A node as Coder's page shows it. `stun_enabled` False: no STUN server is asked there."""

    node: str
    healthy: bool
    severity: str
    warnings: tuple[Finding, ...] = ()
    can_exchange_messages: bool
    uses_websocket: bool
    stun_enabled: bool
    can_stun: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class CoderRegionVerdict:
    """A region as Coder's page shows it. `unmeasured`: relays without a result (pending or not
    probed); the verdict takes them for well."""

    region_id: int
    healthy: bool
    severity: str
    warnings: tuple[Finding, ...] = ()
    nodes: tuple[CoderNodeVerdict, ...] = ()
    unmeasured: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class CoderDerpVerdict:
    """The section as Coder's page shows it.

    `crashed`: a region without nodes, over which Coder's netcheck divides by zero. Its section then
    has severity "", no warnings and no regions (G5); here the regions are what its rules give.
    """

    healthy: bool
    severity: str
    warnings: tuple[Finding, ...] = ()
    regions: tuple[CoderRegionVerdict, ...] = ()
    crashed: bool = False


def judge_as_coder(regions: Sequence[RegionResult], *, mapping_varies: bool | None) -> CoderDerpVerdict:
    """Judge regions by Coder's rules. Those of which nothing is in the map any more are left out.

    Args:
        mapping_varies: What netcheck's MappingVariesByDestIP is; None counts as False.
    """
    mapped = [region for region in regions if not _left_the_map(region)]
    verdicts = tuple(_judge_region(region) for region in mapped)
    if any(region.node_count == 0 for region in mapped):
        return CoderDerpVerdict(healthy=False, severity="", regions=verdicts, crashed=True)
    warnings = [warning for verdict in verdicts for warning in verdict.warnings]
    severity = max((_rank(verdict.severity) for verdict in verdicts), default=Severity.OK)
    if mapping_varies:
        warnings.append(_warn("ESTUN02"))
    asked = [node for verdict in verdicts for node in verdict.nodes if node.stun_enabled]
    if asked and not any(node.can_stun for node in asked):
        warnings.append(_warn("ESTUN01"))
        severity = max(severity, Severity.WARNING)
    return CoderDerpVerdict(
        healthy=all(verdict.healthy for verdict in verdicts),
        severity=severity.label,
        warnings=tuple(warnings),
        regions=verdicts,
    )


def _judge_region(region: RegionResult) -> CoderRegionVerdict:
    nodes = tuple(_judge_nodes(region))
    warnings = [warning for node in nodes for warning in node.warnings]
    bad = [_rank(node.severity) for node in nodes if node.severity != Severity.OK.label]
    healthy, severity = True, Severity.OK
    if bad and region.node_count == 1:
        healthy, severity = bad[0] is not Severity.ERROR, bad[0]
    elif len(bad) == 1:
        severity = Severity.WARNING
        warnings.append(_warn("EDERP02"))
    elif bad:
        healthy, severity = False, max(bad)
    return CoderRegionVerdict(
        region_id=region.region_id,
        healthy=healthy,
        severity=severity.label,
        warnings=tuple(warnings),
        nodes=nodes,
        unmeasured=(*region.pending, *region.skipped),
    )


def _judge_nodes(region: RegionResult) -> Iterable[CoderNodeVerdict]:
    """Judge the nodes that are in the map and measured, sorted by name as Coder's are."""
    relays = {relay.name.node: relay for relay in region.relays if relay.listed}
    servers = {server.node: server for server in region.stun}
    unmeasured = {*region.pending, *region.skipped}
    for name in sorted(relays.keys() | servers.keys()):
        if name not in unmeasured:
            yield _judge_node(name, relays.get(name), servers.get(name))


def _judge_node(name: str, relay: RelayResult | None, server: StunResult | None) -> CoderNodeVerdict:
    exchanges, uses_websocket = _follow_client(relay) if relay is not None else (False, False)
    can_stun = server is not None and server.up
    failed = (relay is not None and not exchanges) or (server is not None and not can_stun)
    severity = Severity.ERROR if failed else Severity.OK
    if uses_websocket:
        severity = Severity.WARNING  # an error too is overwritten (G1)
    return CoderNodeVerdict(
        node=name,
        healthy=not failed,
        severity=severity.label,
        warnings=(_warn("EDERP01"),) if uses_websocket else (),
        can_exchange_messages=exchanges,
        uses_websocket=uses_websocket,
        stun_enabled=server is not None,
        can_stun=can_stun,
    )


def _follow_client(relay: RelayResult) -> tuple[bool, bool]:
    """Return whether Coder's client passes messages, and whether it says that it uses WebSocket: it
    tries the raw upgrade first, and says so as soon as that is refused."""
    raw, websocket = relay.transport(RAW), relay.transport(WEBSOCKET)
    if raw is None or not raw.lets_fall_back:
        return raw is not None and raw.up, False
    return websocket is not None and websocket.up, True


def _left_the_map(region: RegionResult) -> bool:
    known = region.stun or region.pending or region.skipped or any(relay.listed for relay in region.relays)
    return bool(region.relays) and not known


def _rank(label: str) -> Severity:
    return Severity[label.upper()]


def _warn(code: str) -> Finding:
    known = codes.find(code)
    assert known is not None
    return Finding(code=code, severity=Severity.WARNING, message=known.summary)
