"""DERP relays: what the probes of a deployment's relays found, and what to think of it.

Three things are judged apart: each transport of each relay, each region on the latest results of
its relays, and the section (the map, and what only all STUN servers together tell). STUN never
makes a relay or a region bad. Source: contract, section 8, derp; derp-stun, sections 3.5 and 3.6.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import combinations_with_replacement

from exporter.errors import Phase, Reason
from exporter.health.model import Failure, Finding, OffReason, Report, Section, Severity
from exporter.health.stun import StunResult

# The transports, as the label `transport` names them: raw `Upgrade: DERP`, and the fallback.
RAW = "derp"
WEBSOCKET = "websocket"


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeName:
    """A node of the DERP map by its names. `region_name` is what the label derp_region shows."""

    region_id: int
    region_name: str
    node: str

    @property
    def target(self) -> str:
        """`REGION/NODE`: how targets of this node begin."""
        return f"{self.region_id}/{self.node}"


@dataclass(frozen=True, slots=True, kw_only=True)
class PacketLoss:
    """A low-rate stream of messages. `jitter_seconds` is the mean difference of successive round
    trips (RFC 3550 in spirit); None with fewer than two."""

    sent: int
    received: int
    jitter_seconds: float | None

    @property
    def loss_ratio(self) -> float:
        return 1.0 - self.received / self.sent if self.sent else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateEnds:
    """When the leaf, and the earliest of the rest of the chain, end; None when not known."""

    leaf_timestamp_seconds: float | None
    chain_timestamp_seconds: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TransportResult:
    """One complete check over one transport: two connections, two logins, a message each way.

    Args:
        name: The relay's.
        transport: `derp` (raw upgrade) or `websocket`.
        status: What answered the upgrade, when it was not the relay's 101; `location` and `server`
            are its headers. None when the upgrade was accepted, or no answer came.
        http2: The answer was HTTP/2, over which a relay cannot be reached.
        certificate_refused: The TLS handshake failed of the relay's name or certificate, and not of
            a port that does not speak TLS or the like.
        round_trip_seconds: Of each message that arrived, from its own send; one way through the
            relay and back to this host.
        ping_round_trip_seconds: Client to relay and back (DERP ping), when it was answered.
        messages_sent: Counts repeats; above two, messages were lost or late.
        relay_processes: Distinct server keys of both connections: 2 means two replicas behind one
            name, and that the message crossed their mesh.
        key_mismatch: The header `Derp-Public-Key` and the ServerKey frame differed.
        failure: Why the check is not complete; None when messages passed both ways.
    """

    name: NodeName
    transport: str
    address: str | None = None
    phase_seconds: Mapping[Phase, float]
    status: int | None = None
    location: str | None = None
    server: str | None = None
    http2: bool = False
    certificate: CertificateEnds | None = None
    certificate_refused: bool = False
    login_seconds: float | None = None
    round_trip_seconds: tuple[float, ...] = ()
    ping_round_trip_seconds: float | None = None
    messages_sent: int = 0
    relay_processes: int = 0
    key_mismatch: bool = False
    health_problem: str = ""
    loss: PacketLoss | None = None
    failure: Failure | None = None
    started_timestamp_seconds: float
    duration_seconds: float

    @property
    def up(self) -> bool:
        return self.failure is None

    @property
    def lets_fall_back(self) -> bool:
        """Whether Coder's clients go on to WebSocket after this: status 4xx or HTTP/2. After all
        else (5xx, a redirect, a page, silence) they try the same again. Source: derp-stun, 1.6."""
        return not self.up and (self.http2 or (self.status is not None and 400 <= self.status < 500))


class RelayState(StrEnum):
    """What clients have of a relay."""

    WORKS = "works"
    WEBSOCKET_ONLY = "websocket_only"  # works, by the fallback that nobody expects here
    DOWN = "down"


@dataclass(frozen=True, slots=True, kw_only=True)
class RelayResult:
    """Both transports of one relay node, probed side by side.

    `listed`: the node is in the map. A relay of a proxy that still exists stays when it leaves it.
    `expect_websocket`: the deployment forces its clients to WebSocket.
    """

    name: NodeName
    listed: bool = True
    expect_websocket: bool = False
    transports: tuple[TransportResult, ...]

    def transport(self, name: str) -> TransportResult | None:
        return next((result for result in self.transports if result.transport == name), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class MeshPath:
    """One ordered pair. `failure` None when the message arrived."""

    source: str
    destination: str
    round_trip_seconds: float | None = None
    failure: Failure | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MeshResult:
    """Every ordered pair of a region's relays, of those that let both clients in.

    `unreached`: nodes that could not be logged in to; they are down, which is not the mesh's fault.
    """

    region_id: int
    region_name: str
    paths: tuple[MeshPath, ...]
    unreached: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Skipped:
    """A node of the map that is not probed. `reason`: `host_not_allowed`, `too_many` or `invalid`."""

    region_id: int
    node: str
    host: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RegionResult:
    """The latest results of one region.

    `node_count` is that of the map, with STUN-only nodes and those that are skipped.
    `pending`: relays that are in the schedule and have no result yet.
    `skipped`: relays of the map that are not probed; nobody knows whether they work.
    """

    region_id: int
    name: str
    code: str = ""
    embedded: bool = False
    node_count: int
    relays: tuple[RelayResult, ...] = ()
    stun: tuple[StunResult, ...] = ()
    mesh: MeshResult | None = None
    pending: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class DerpResult:
    """The section as a whole, on the latest results.

    Args:
        source: Where the map came from: `socket`, `connection` (with a token), `file`; empty
            without a map.
        map_failure: Why no map could be had this time; an earlier one goes on being used.
        map_age_seconds: Since the map in use was last confirmed; None without a map.
        map_changes: How often the map has changed since the exporter started.
        off: There is no map to be had for us, in good order, and why.
        invalid_nodes: How many nodes of the map could not be read; not in `skipped`.
        problems: What is wrong with the map, in sentences.
        stun_pending: STUN servers without a result yet.
        mapping_varies: What the mapping test of `direct_connections` found last; None: not known.
    """

    source: str = ""
    map_failure: Failure | None = None
    map_age_seconds: float | None = None
    map_changes: int = 0
    off: OffReason | None = None
    regions: tuple[RegionResult, ...] = ()
    skipped: tuple[Skipped, ...] = ()
    invalid_nodes: int = 0
    problems: tuple[str, ...] = ()
    stun_pending: tuple[str, ...] = ()
    mapping_varies: bool | None = None


def judge_relay(relay: RelayResult) -> RelayState:
    """Return what clients have of a relay.

    A relay that works but left the map is down: no client is told of it any more.
    Source: contract, section 8, derp.
    """
    raw, websocket = relay.transport(RAW), relay.transport(WEBSOCKET)
    websocket_up = websocket is not None and websocket.up
    if not relay.listed:
        return RelayState.DOWN
    if relay.expect_websocket:
        return RelayState.WORKS if websocket_up else RelayState.DOWN
    if raw is not None and raw.up:
        return RelayState.WORKS
    if raw is not None and raw.lets_fall_back and websocket_up:
        return RelayState.WEBSOCKET_ONLY
    return RelayState.DOWN


def relay_works(relay: RelayResult) -> bool:
    """Return whether clients can use the relay, be it by the WebSocket fallback."""
    return judge_relay(relay) is not RelayState.DOWN


def assess_transport(relay: RelayResult, transport: str) -> Report:
    """Judge one transport of a relay, target `REGION/NODE/TRANSPORT`.

    That a relay is down is said by its region (XDERP01, EDERP02, XDERP02): here it is a failure
    without a code. What no client needs does not fail, though `coder_health_derp_node_up` shows it
    as 0: the raw transport where clients are forced to WebSocket; the WebSocket where the raw one
    works; the raw one that is refused so that clients go on to a WebSocket that works, which is
    EDERP01, a warning, and `probe_success` is 0 only for an error (contract, section 8, Values). A
    wrong certificate (XDERP05) is an error on whichever transport showed it: it is the host's.
    """
    result = relay.transport(transport)
    if result is None:
        return _report(not_judged={"EDERP01", "XDERP05"})
    findings = []
    not_judged = set()
    if transport == RAW and judge_relay(relay) is RelayState.WEBSOCKET_ONLY:
        sentence = (
            f"relay {_cut(relay.name.node, _MAX_NAME_CHARS)} works only by its WebSocket fallback, "
            f"the raw upgrade fails: {_tell_transport(result)}"
        )
        findings.append(_warning("EDERP01", sentence))
    elif transport == RAW and result.lets_fall_back and relay.transport(WEBSOCKET) is None:
        not_judged.add("EDERP01")
    if result.failure is not None and result.certificate_refused:
        findings.append(_error("XDERP05", _cut(result.failure.message)))
    elif not result.up and not _showed_certificate(result):
        not_judged.add("XDERP05")  # a certificate that was wrong still is
    return _report(findings, _judge_failure(relay, result), not_judged)


def assess_mesh(result: MeshResult) -> Report:
    """Judge the paths between a region's relays, target `REGION/mesh`. A relay that lets nobody in
    is down, which is not the mesh's fault; what its paths do then is not known."""
    unreached = frozenset(result.unreached)
    reached = [path for path in result.paths if unreached.isdisjoint((path.source, path.destination))]
    broken = [path for path in reached if path.failure is not None]
    if broken:
        where = _name_region(result.region_id, result.region_name)
        paths = _list(
            f"{_cut(path.source, _MAX_NAME_CHARS)} to {_cut(path.destination, _MAX_NAME_CHARS)}: "
            f"{_tell_failure(path.failure)}"
            for path in broken
        )
        sentence = f"{len(broken)} of {len(reached)} paths between relays of {where} fail: {paths}"
        return _report([_warning("XDERP04", _cut(sentence))])
    return _report(not_judged={"XDERP04"} if unreached or not reached else set())


def assess_region(region: RegionResult) -> Report:
    """Judge one region on the latest results of its relays, target `REGION`.

    Exactly one of three codes, or none. XDERP01: relays are probed and none works. EDERP02, by
    Coder's rule: of two nodes or more exactly one is not well, be it that it works by WebSocket
    only. XDERP02: relays are down otherwise. Where relays are skipped, none of those that are
    probed may work and the region still be fine: that is XDERP02, since nobody shall be paged for
    an outage that is not known. While results are pending, a code is judged only if it is the same
    whatever they will be.

    Source: contract, sections 6 and 8; derp-stun, section 3.5, G1, G2, G15.
    """
    states = [judge_relay(relay) for relay in region.relays]
    # what three pending relays can change, two can: nothing, one that is not well, several, none works
    completions = combinations_with_replacement(RelayState, min(len(region.pending), 2))
    outcomes = {_choose_code(Counter([*states, *completion]), region) for completion in completions}
    if len(outcomes) > 1:
        return _report(not_judged={code for code in outcomes if code is not None})
    code = outcomes.pop()
    if code is None:
        return _report()
    bad = [relay for relay, state in zip(region.relays, states, strict=True) if state is not RelayState.WORKS]
    down = states.count(RelayState.DOWN)
    seen = _list(f"{_cut(relay.name.node, _MAX_NAME_CHARS)}: {_tell_relay(relay)}" for relay in bad)
    where = _name_region(region.region_id, region.name)
    if code == "XDERP01":
        sentence = _cut(f"{where} has no working relay: {seen}")
        return _report([_error(code, sentence)], _region_failure(bad, sentence))
    if down == len(states):
        sentence = f"no relay of {where} that is probed works, but {len(region.skipped)} are not probed: {seen}"
    elif code == "EDERP02":
        sentence = f"{where} works, but one of its relays is not well: {seen}"
    else:
        also = f", {len(bad) - down} only by WebSocket" if len(bad) > down else ""
        sentence = f"{where} works, but of its {len(states)} relays {down} down{also}: {seen}"
    return _report([_warning(code, _cut(sentence))])


def assess_section(result: DerpResult) -> Report:
    """Judge the map, and what only all STUN servers together tell; the section's own target.

    ESTUN01 by Coder's rule: there are STUN servers and none answers. A server that this host has no
    route to says nothing. As with Coder, ESTUN02 leaves the severity alone: XNET04 is the warning about it.
    """
    if result.off is not None:
        return _report(off=result.off)
    findings = []
    not_judged = set()
    if result.map_failure is not None:
        findings.append(_error("XDERP03", _tell_map_failure(result, result.map_failure)))
    elif result.map_age_seconds is None:
        not_judged.add("XDERP03")  # the first map is still on its way
    elif not any(region.node_count for region in result.regions):
        # an empty map is as good as none, though Coder calls it healthy (9.4, 0 nodes)
        unread = f", {result.invalid_nodes} could not be read" if result.invalid_nodes else ""
        findings.append(_error("XDERP03", f"the DERP map names no node{unread}: clients have no relay"))
    asked = [server for region in result.regions for server in region.stun]
    reachable = [server for server in asked if not server.no_route]
    if any(server.up for server in asked):
        pass  # whatever the pending ones will say
    elif result.stun_pending or (asked and not reachable) or (not asked and result.map_age_seconds is None):
        not_judged.add("ESTUN01")
    elif reachable:
        servers = _list(f"{server.host}:{server.port}: {_tell_failure(server.failure)}" for server in reachable)
        findings.append(_warning("ESTUN01", _cut(f"no STUN server answers, of {len(reachable)}: {servers}")))
    if result.mapping_varies is None:
        not_judged.add("ESTUN02")
    elif result.mapping_varies:
        sentence = "the address mapping of this host varies by destination (hard NAT): peers may not connect directly"
        findings.append(Finding(code="ESTUN02", severity=Severity.OK, message=sentence))
    return _report(findings, result.map_failure, not_judged)


_MAX_NAME_CHARS = 64
_MAX_LISTED = 5
_MAX_DETAIL_CHARS = 250


def _judge_failure(relay: RelayResult, result: TransportResult) -> Failure | None:
    """Return what the target failed of; None where no client needs the transport."""
    if not relay.listed:
        sentence = f"not in the DERP map: no client is told of relay {_cut(relay.name.node, _MAX_NAME_CHARS)}"
        if result.failure is None:
            # the map is the body of an answer, and it is not what was wanted
            return Failure(reason=Reason.BODY, message=sentence)
        return replace(result.failure, message=f"{sentence}; besides, {result.failure.message}")
    if result.certificate_refused:
        return result.failure
    if result.transport == RAW:
        needed = not relay.expect_websocket and judge_relay(relay) is not RelayState.WEBSOCKET_ONLY
    else:
        raw = relay.transport(RAW)
        needed = relay.expect_websocket or raw is None or not raw.up
    return result.failure if needed else None


def _showed_certificate(result: TransportResult) -> bool:
    """Whether the run came so far that a wrong certificate would have been seen."""
    if result.status is not None or result.http2:
        return True
    return result.failure is not None and result.failure.phase in (Phase.PROCESSING, Phase.TRANSFER)


def _choose_code(states: Counter[RelayState], region: RegionResult) -> str | None:
    down = states[RelayState.DOWN]
    not_well = down + states[RelayState.WEBSOCKET_ONLY]
    if down and down == states.total():
        return "XDERP02" if region.skipped else "XDERP01"
    if not_well == 1 and region.node_count >= 2:
        return "EDERP02"
    return "XDERP02" if down else None


def _region_failure(down: Iterable[RelayResult], sentence: str) -> Failure:
    reasons = (
        failure.reason
        for relay in down
        for result in relay.transports
        if (failure := _judge_failure(relay, result)) is not None
    )
    return Failure(reason=next(reasons, Reason.PROTOCOL), message=sentence)


def _tell_relay(relay: RelayResult) -> str:
    raw, websocket = relay.transport(RAW), relay.transport(WEBSOCKET)
    if not relay.listed:
        return "not in the DERP map"
    if relay.expect_websocket or raw is None:
        return "no result" if websocket is None else f"WebSocket {_tell_transport(websocket)}"
    told = f"raw upgrade {_tell_transport(raw)}"
    if websocket is None:
        return told
    if not websocket.up:
        return f"{told}, WebSocket {_tell_transport(websocket)}"
    if raw.lets_fall_back:
        return f"{told}, works only by WebSocket"
    return f"{told}, after which clients do not fall back to the WebSocket that works"


def _tell_transport(result: TransportResult) -> str:
    """What came instead of the relay: its status and who answered, else what failed."""
    if result.up:
        return "works"
    if result.http2 and result.status is None:
        return "answered by HTTP/2"
    if result.status is None:
        return f"failed ({_tell_failure(result.failure)})"
    told = f"answered with status {result.status}"
    if result.http2:
        told += " by HTTP/2"
    if result.server:
        told += f" from {_cut(result.server, 80)}"
    if result.location:
        told += f", Location {_cut(result.location, 200)}"
    return told


def _tell_map_failure(result: DerpResult, failure: Failure) -> str:
    if result.map_age_seconds is None:
        return _cut(f"no DERP map is to be had: {failure.message}")
    return _cut(
        f"the DERP map is not to be had, one confirmed {result.map_age_seconds:.0f} s ago is still used: "
        f"{failure.message}"
    )


def _tell_failure(failure: Failure | None) -> str:
    return "no answer" if failure is None else _cut(failure.message, _MAX_DETAIL_CHARS)


def _name_region(region_id: int, name: str) -> str:
    return f"region {region_id} ({_cut(name, _MAX_NAME_CHARS)})" if name else f"region {region_id}"


def _list(told: Iterable[str]) -> str:
    """A few of them: a map may name hundreds."""
    every = list(told)
    more = len(every) - _MAX_LISTED
    return "; ".join(every[:_MAX_LISTED]) + (f"; and {more} more" if more > 0 else "")


def _cut(sentence: str, max_chars: int = 1000) -> str:
    return sentence if len(sentence) <= max_chars else sentence[:max_chars] + "..."


def _report(
    findings: Iterable[Finding] = (),
    failure: Failure | None = None,
    not_judged: Iterable[str] = (),
    *,
    off: OffReason | None = None,
) -> Report:
    return Report(
        section=Section.DERP, findings=tuple(findings), failure=failure, not_judged=frozenset(not_judged), off=off
    )


def _warning(code: str, message: str) -> Finding:
    return Finding(code=code, severity=Severity.WARNING, message=message)


def _error(code: str, message: str) -> Finding:
    return Finding(code=code, severity=Severity.ERROR, message=message)
