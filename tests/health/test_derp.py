"""The judgement of relays, regions, meshes and the section, as tables."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations_with_replacement
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.errors import Phase, Reason
from exporter.health import codes
from exporter.health.derp import (
    RAW,
    WEBSOCKET,
    DerpResult,
    MeshPath,
    MeshResult,
    NodeName,
    RegionResult,
    RelayResult,
    RelayState,
    TransportResult,
    assess_mesh,
    assess_region,
    assess_section,
    assess_transport,
    judge_relay,
    relay_works,
)
from exporter.health.model import Failure, OffReason, Report, Section
from exporter.health.stun import StunAttempt, StunResult

UP: dict[str, Any] = {}


def answered(status: int, **facts: Any) -> dict[str, Any]:
    failure = Failure(reason=Reason.STATUS, phase=Phase.PROCESSING, message=f"answered status {status}")
    return {"status": status, "failure": failure} | facts


def failed(reason: Reason, phase: Phase | None, **facts: Any) -> dict[str, Any]:
    return {"failure": Failure(reason=reason, phase=phase, message=f"trouble: {reason}")} | facts


REFUSED = answered(403)
BROKEN = answered(502)
HTTP2 = failed(Reason.PROTOCOL, Phase.PROCESSING, http2=True)
SILENT = failed(Reason.TIMEOUT, Phase.TRANSFER)
NO_PORT = failed(Reason.REFUSED, Phase.CONNECT)
NO_NAME = failed(Reason.RESOLVE, Phase.RESOLVE)
NOT_TLS = failed(Reason.TLS, Phase.TLS)
WRONG_CERTIFICATE = failed(Reason.TLS, Phase.TLS, certificate_refused=True)
OUTCOMES = (UP, REFUSED, BROKEN, HTTP2, SILENT, NO_PORT, NO_NAME, NOT_TLS, WRONG_CERTIFICATE)


def transport(name: str, outcome: dict[str, Any], node: str = "1a") -> TransportResult:
    return TransportResult(
        name=NodeName(region_id=1, region_name="Berlin", node=node),
        transport=name,
        phase_seconds={},
        started_timestamp_seconds=1.0,
        duration_seconds=0.1,
        **outcome,
    )


def relay(raw: dict[str, Any] = UP, websocket: dict[str, Any] = UP, node: str = "1a", **facts: Any) -> RelayResult:
    return RelayResult(
        name=NodeName(region_id=1, region_name="Berlin", node=node),
        transports=(transport(RAW, raw, node), transport(WEBSOCKET, websocket, node)),
        **facts,
    )


def region(*relays: RelayResult, **facts: Any) -> RegionResult:
    facts = {"node_count": len(relays) + len(facts.get("pending", ())) + len(facts.get("skipped", ()))} | facts
    return RegionResult(region_id=1, name="Berlin", relays=relays, **facts)


WELL = relay()
FALLBACK = relay(REFUSED, UP, "1b")
DOWN = relay(BROKEN, BROKEN, "1c")
OF_STATE = {RelayState.WORKS: WELL, RelayState.WEBSOCKET_ONLY: FALLBACK, RelayState.DOWN: DOWN}


def seen(report: Report) -> dict[str, str]:
    return {finding.code: finding.severity.label for finding in report.findings}


def messages(report: Report) -> dict[str, str]:
    return {finding.code: finding.message for finding in report.findings}


# one relay


@pytest.mark.parametrize(
    ("status", "falls_back"), [(200, False), (302, False), (399, False), (400, True), (499, True), (500, False)]
)
def test_only_4xx_and_http2_lead_to_the_fallback(status: int, falls_back: bool) -> None:
    """Coder's clients go on to WebSocket after a 4xx or HTTP/2, and after nothing else."""
    assert falls_back == transport(RAW, answered(status)).lets_fall_back
    expected = RelayState.WEBSOCKET_ONLY if falls_back else RelayState.DOWN
    assert expected is judge_relay(relay(answered(status), UP))
    assert transport(RAW, HTTP2).lets_fall_back
    assert not transport(RAW, UP).lets_fall_back
    assert not transport(RAW, SILENT).lets_fall_back


@pytest.mark.parametrize(
    ("given", "state", "codes_of_raw", "fails"),
    [
        (relay(), RelayState.WORKS, {}, ()),
        (relay(UP, BROKEN), RelayState.WORKS, {}, ()),  # a fallback that nobody needs
        (relay(REFUSED, UP), RelayState.WEBSOCKET_ONLY, {"EDERP01": "warning"}, ()),
        (relay(HTTP2, UP), RelayState.WEBSOCKET_ONLY, {"EDERP01": "warning"}, ()),
        (relay(REFUSED, REFUSED), RelayState.DOWN, {}, (RAW, WEBSOCKET)),  # G1
        (relay(BROKEN, UP), RelayState.DOWN, {}, (RAW,)),  # clients do not fall back after 5xx
        (relay(SILENT, UP), RelayState.DOWN, {}, (RAW,)),
        (relay(BROKEN, BROKEN), RelayState.DOWN, {}, (RAW, WEBSOCKET)),
        # clients are forced to WebSocket
        (relay(expect_websocket=True), RelayState.WORKS, {}, ()),
        (relay(REFUSED, UP, expect_websocket=True), RelayState.WORKS, {}, ()),
        (relay(BROKEN, UP, expect_websocket=True), RelayState.WORKS, {}, ()),
        (relay(UP, BROKEN, expect_websocket=True), RelayState.DOWN, {}, (WEBSOCKET,)),
        (relay(REFUSED, BROKEN, expect_websocket=True), RelayState.DOWN, {}, (WEBSOCKET,)),
        # not in the map any more
        (relay(listed=False), RelayState.DOWN, {}, (RAW, WEBSOCKET)),
        (relay(REFUSED, UP, listed=False), RelayState.DOWN, {}, (RAW, WEBSOCKET)),
        (relay(expect_websocket=True, listed=False), RelayState.DOWN, {}, (RAW, WEBSOCKET)),
    ],
)
def test_both_transports_of_a_relay(
    given: RelayResult, state: RelayState, codes_of_raw: dict[str, str], fails: tuple[str, ...]
) -> None:
    """A transport fails when clients need it and it does not work; EDERP01 is on the raw one alone."""
    assert state is judge_relay(given)
    assert (state is not RelayState.DOWN) == relay_works(given)
    reports = {name: assess_transport(given, name) for name in (RAW, WEBSOCKET)}
    assert codes_of_raw == seen(reports[RAW])
    assert {} == seen(reports[WEBSOCKET])
    assert fails == tuple(name for name, report in reports.items() if report.failure is not None)


def test_the_failure_of_a_transport_is_passed_on() -> None:
    """Its reason and phase feed the counters."""
    assert BROKEN["failure"] == assess_transport(DOWN, RAW).failure


def test_a_relay_that_left_the_map_says_so() -> None:
    """Whether it works or not, its failure begins with the map, and keeps what else it failed of."""
    works = assess_transport(relay(listed=False), RAW).failure
    fails = assess_transport(relay(NO_PORT, listed=False), RAW).failure
    assert Failure(reason=Reason.BODY, message="not in the DERP map: no client is told of relay 1a") == works
    assert fails == Failure(
        reason=Reason.REFUSED,
        phase=Phase.CONNECT,
        message="not in the DERP map: no client is told of relay 1a; besides, trouble: refused",
    )


def test_ederp01_says_who_refused() -> None:
    """An operator reads which relay it is, the status, who answered, and where it sent us."""
    refusal = answered(403, server="nginx/1.22", location="https://login.example.com/")
    assert {
        "EDERP01": "relay 1a works only by its WebSocket fallback, the raw upgrade fails: answered with status 403 "
        "from nginx/1.22, Location https://login.example.com/"
    } == messages(assess_transport(relay(refusal, UP), RAW))


@pytest.mark.parametrize(
    ("outcome", "observed", "not_judged"),
    [
        (UP, False, False),
        (REFUSED, False, False),
        (HTTP2, False, False),
        (failed(Reason.PROTOCOL, Phase.TLS, http2=True), False, False),  # agreed on in a handshake that was fine
        (SILENT, False, False),
        (NO_NAME, False, True),
        (NO_PORT, False, True),
        (NOT_TLS, False, True),
        (failed(Reason.TIMEOUT, Phase.TLS), False, True),
        (failed(Reason.TLS, None), False, True),  # our own file of authorities cannot be read
        (WRONG_CERTIFICATE, True, False),
    ],
)
@pytest.mark.parametrize("name", [RAW, WEBSOCKET])
@pytest.mark.parametrize("expect_websocket", [True, False])
def test_a_wrong_certificate_is_told_from_other_trouble_of_tls(
    outcome: dict[str, Any], observed: bool, not_judged: bool, name: str, expect_websocket: bool
) -> None:
    """XDERP05 stands on the transport that saw it, needed or not; who never saw one does not judge."""
    given = relay(*((outcome, UP) if name == RAW else (UP, outcome)), expect_websocket=expect_websocket)
    report = assess_transport(given, name)
    assert observed == ("XDERP05" in seen(report))
    assert not_judged == ("XDERP05" in report.not_judged)
    if observed:
        assert "error" == seen(report)["XDERP05"]
        assert outcome["failure"] == report.failure


def test_a_transport_without_a_result_is_not_judged() -> None:
    """Nor is the fallback, as long as nobody knows whether the WebSocket works."""
    only_raw = RelayResult(name=WELL.name, transports=(transport(RAW, REFUSED),))
    assert {"EDERP01", "XDERP05"} == assess_transport(only_raw, WEBSOCKET).not_judged
    assert {"EDERP01"} == assess_transport(only_raw, RAW).not_judged
    assert RelayState.DOWN is judge_relay(only_raw)


def test_a_relay_of_one_transport_is_told_all_the_same() -> None:
    """A region tells of such a relay what there is, and still has a reason to fail of."""
    without = RelayResult(name=WELL.name, transports=())
    only_raw = RelayResult(name=DOWN.name, transports=(transport(RAW, BROKEN),))
    report = assess_region(region(without, only_raw))
    assert {
        "XDERP01": "region 1 (Berlin) has no working relay: 1a: no result; 1c: raw upgrade answered with status 502"
    } == messages(report)
    failure = assess_region(region(without)).failure
    assert failure is not None
    assert Reason.PROTOCOL is failure.reason


# a region


@pytest.mark.parametrize(
    ("given", "expected", "not_judged"),
    [
        (region(WELL), {}, ()),
        (region(DOWN), {"XDERP01": "error"}, ()),
        (region(FALLBACK), {}, ()),  # which EDERP01 on the relay says
        (region(), {}, ()),  # STUN-only, or no nodes
        (region(WELL, WELL), {}, ()),
        (region(WELL, DOWN), {"EDERP02": "warning"}, ()),
        (region(WELL, FALLBACK), {"EDERP02": "warning"}, ()),
        (region(FALLBACK, DOWN), {"XDERP02": "warning"}, ()),
        (region(FALLBACK, FALLBACK), {}, ()),  # G15
        (region(DOWN, DOWN), {"XDERP01": "error"}, ()),
        (region(WELL, DOWN, DOWN), {"XDERP02": "warning"}, ()),
        (region(WELL, WELL, DOWN), {"EDERP02": "warning"}, ()),
        (region(WELL, FALLBACK, DOWN), {"XDERP02": "warning"}, ()),
        (region(WELL, FALLBACK, FALLBACK), {}, ()),
        # beside a STUN-only node
        (region(DOWN, node_count=2), {"XDERP01": "error"}, ()),  # G2
        (region(FALLBACK, node_count=2), {"EDERP02": "warning"}, ()),
        # not in the map any more: the map's own count does not have it
        (region(relay(listed=False), node_count=0), {"XDERP01": "error"}, ()),
        (region(WELL, relay(listed=False), node_count=1), {"XDERP02": "warning"}, ()),
        # clients are forced to WebSocket
        (region(WELL, relay(REFUSED, UP, expect_websocket=True)), {}, ()),
        # pending
        (region(pending=("1a",)), {}, ("XDERP01",)),
        (region(WELL, pending=("1b",)), {}, ("EDERP02",)),
        (region(DOWN, pending=("1a",)), {}, ("XDERP01", "EDERP02", "XDERP02")),
        (region(WELL, DOWN, pending=("1b",)), {}, ("EDERP02", "XDERP02")),
        (region(WELL, DOWN, DOWN, pending=("1d",)), {"XDERP02": "warning"}, ()),
        (region(FALLBACK, DOWN, pending=("1d", "1e", "1f")), {"XDERP02": "warning"}, ()),
        # skipped
        (region(DOWN, skipped=("1b",)), {"XDERP02": "warning"}, ()),
        (region(DOWN, DOWN, skipped=("1b",)), {"XDERP02": "warning"}, ()),
        (region(DOWN, DOWN, skipped=("1b",), pending=("1d",)), {"XDERP02": "warning"}, ()),
        (region(WELL, DOWN, skipped=("1b",)), {"EDERP02": "warning"}, ()),
        (region(skipped=("1b",)), {}, ()),
    ],
)
def test_a_region(given: RegionResult, expected: dict[str, str], not_judged: tuple[str, ...]) -> None:
    """An outage is XDERP01, one relay of several EDERP02, more XDERP02; only the outage has failed."""
    report = assess_region(given)
    assert expected == seen(report)
    assert frozenset(not_judged) == report.not_judged
    assert ("XDERP01" in expected) == (report.failure is not None)


def test_stun_makes_no_region_bad() -> None:
    """A dead STUN server leaves its node and its region well (G3, G4)."""
    dead = StunResult(region_id=1, region_name="Berlin", node="1a", host="stun", port=3478, failure=SILENT["failure"])
    assert Report(section=Section.DERP) == assess_region(region(WELL, stun=(dead,)))
    assert Report(section=Section.DERP) == assess_region(region(stun=(dead,), node_count=1))


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (
            region(relay(answered(502, server="nginx"), NO_PORT), relay(UP, REFUSED, "1b", expect_websocket=True)),
            "region 1 (Berlin) has no working relay: 1a: raw upgrade answered with status 502 from nginx, "
            "WebSocket failed (trouble: refused); 1b: WebSocket answered with status 403",
        ),
        (
            region(relay(SILENT, UP), relay(listed=False, node="1b")),
            "region 1 (Berlin) has no working relay: 1a: raw upgrade failed (trouble: timeout), after which clients do "
            "not fall back to the WebSocket that works; 1b: not in the DERP map",
        ),
        (
            region(relay(HTTP2, BROKEN), relay(answered(426, http2=True), BROKEN, "1b")),
            "region 1 (Berlin) has no working relay: 1a: raw upgrade answered by HTTP/2, WebSocket answered with "
            "status 502; 1b: raw upgrade answered with status 426 by HTTP/2, WebSocket answered with status 502",
        ),
        (
            region(WELL, FALLBACK),
            "region 1 (Berlin) works, but one of its relays is not well: "
            "1b: raw upgrade answered with status 403, works only by WebSocket",
        ),
        (
            region(WELL, FALLBACK, DOWN),
            "region 1 (Berlin) works, but of its 3 relays 1 down, 1 only by WebSocket: "
            "1b: raw upgrade answered with status 403, "
            "works only by WebSocket; 1c: raw upgrade answered with status 502, WebSocket answered with status 502",
        ),
        (
            region(DOWN, skipped=("1x", "1y")),
            "no relay of region 1 (Berlin) that is probed works, but 2 are not probed: "
            "1c: raw upgrade answered with status 502, WebSocket answered with status 502",
        ),
    ],
)
def test_a_region_tells_what_was_seen(given: RegionResult, sentence: str) -> None:
    """The message names the region and each relay that is not well, with what answered."""
    assert [sentence] == list(messages(assess_region(given)).values())


def test_an_outage_fails_of_what_the_first_relay_failed_of() -> None:
    """The counters get a reason of the closed set, the message is the region's."""
    failure = assess_region(region(relay(NO_NAME, NO_NAME), DOWN)).failure
    assert failure is not None
    assert Reason.RESOLVE is failure.reason
    assert failure.message.startswith("region 1 (Berlin) has no working relay: ")


def test_messages_are_bounded() -> None:
    """A hostile map and a hostile relay cannot make them long."""
    flood = answered(403, server="s" * 9000, location="l" * 9000) | {
        "failure": Failure(reason=Reason.STATUS, message="m" * 9000)
    }
    relays = [relay(flood, BROKEN | {"status": None}, "n" * 9000) for _ in range(200)]
    found = replace(region(*relays), name="r" * 9000)
    paths = tuple(
        MeshPath(source="a" * 9000, destination=str(number), failure=flood["failure"]) for number in range(200)
    )
    stun = tuple(
        StunResult(region_id=1, region_name="", node="a", host="h" * 9000, port=1, failure=flood["failure"])
        for _ in range(200)
    )
    section = DerpResult(regions=(replace(found, stun=stun),), map_age_seconds=1.0, map_failure=flood["failure"])
    reports = [
        assess_region(found),
        assess_transport(relay(flood, UP, "n" * 9000), RAW),
        assess_transport(relay(flood | {"status": None, "certificate_refused": True}), RAW),
        assess_mesh(MeshResult(region_id=1, region_name="r" * 9000, paths=paths)),
        assess_section(section),
    ]
    assert ["XDERP01", "EDERP01", "XDERP05", "XDERP04", "XDERP03", "ESTUN01"] == [
        code for report in reports for code in seen(report)
    ]
    for report in reports:
        assert max(len(finding.message) for finding in report.findings) <= 1003


def test_many_relays_are_counted() -> None:
    """A few are named, the rest are a number."""
    (message,) = messages(
        assess_region(region(*(relay(NO_PORT, NO_PORT, str(number)) for number in range(40))))
    ).values()
    assert message.endswith("; and 35 more")


# the mesh


BROKEN_PATH = Failure(reason=Reason.TIMEOUT, phase=Phase.TRANSFER, message="no message in 3.0 s")


def mesh(broken: str = "", *, nodes: str = "abc", unreached: str = "") -> MeshResult:
    pairs = [(source, destination) for source in nodes for destination in nodes if source != destination]
    return MeshResult(
        region_id=1,
        region_name="Berlin",
        paths=tuple(
            MeshPath(source=source, destination=destination, failure=BROKEN_PATH)
            if f"{source}{destination}" in broken.split()
            else MeshPath(source=source, destination=destination, round_trip_seconds=0.01)
            for source, destination in pairs
        ),
        unreached=tuple(unreached),
    )


@pytest.mark.parametrize(
    ("given", "observed", "judged"),
    [
        (mesh(), False, True),
        (mesh("ab"), True, True),
        (mesh("ab ba"), True, True),
        (mesh("ab ba", unreached="b"), False, False),  # a relay that is down is not the mesh's fault
        (mesh("ab ac", unreached="b"), True, True),
        (mesh(unreached="d"), False, False),
        (mesh(nodes="a"), False, False),
        (mesh(nodes="", unreached="abc"), False, False),
    ],
)
def test_a_mesh(given: MeshResult, observed: bool, judged: bool) -> None:
    """XDERP04 needs one broken path between two relays that let both clients in, and fails nothing."""
    report = assess_mesh(given)
    assert ({"XDERP04": "warning"} if observed else {}) == seen(report)
    assert judged == ("XDERP04" not in report.not_judged)
    assert report.failure is None


def test_a_broken_mesh_names_its_paths() -> None:
    """The direction is told, since a mesh may be broken one way."""
    assert {
        "XDERP04": "2 of 6 paths between relays of region 1 (Berlin) fail: a to b: no message in 3.0 s; "
        "c to a: no message in 3.0 s"
    } == messages(assess_mesh(mesh("ab ca")))


# the section


NO_MAP = Failure(reason=Reason.UNREACHABLE, phase=Phase.CONNECT, message="coder.example.com: no route")
V4 = StunAttempt(family="ipv4", address="198.51.100.1")
ANSWERING = replace(V4, round_trip_seconds=0.02)
SILENT_STUN = replace(V4, failure=SILENT["failure"])
UNROUTED = replace(V4, no_route=True, failure=SILENT["failure"])


def stun(*attempts: StunAttempt, failure: Failure | None = None) -> StunResult:
    return StunResult(
        region_id=1,
        region_name="Berlin",
        node="1s",
        host="stun.example.com",
        port=3478,
        attempts=attempts,
        failure=failure or (SILENT["failure"] if attempts else None),
    )


def section(*servers: StunResult, **facts: Any) -> DerpResult:
    facts = {"source": "socket", "map_age_seconds": 1.0, "mapping_varies": False} | facts
    return DerpResult(regions=(region(WELL), region(stun=servers, node_count=len(servers))), **facts)


@pytest.mark.parametrize(
    ("given", "expected", "not_judged"),
    [
        (section(stun(ANSWERING)), {}, ()),
        # the map
        (section(stun(ANSWERING), map_failure=NO_MAP), {"XDERP03": "error"}, ()),
        (DerpResult(map_failure=NO_MAP), {"XDERP03": "error"}, ("ESTUN01", "ESTUN02")),
        (DerpResult(), {}, ("XDERP03", "ESTUN01", "ESTUN02")),
        # STUN
        (section(), {}, ()),  # a map without STUN, by Coder's rule
        (section(stun(SILENT_STUN)), {"ESTUN01": "warning"}, ()),
        (section(stun(failure=NO_NAME["failure"])), {"ESTUN01": "warning"}, ()),
        (section(stun(SILENT_STUN), stun(SILENT_STUN)), {"ESTUN01": "warning"}, ()),
        (section(stun(SILENT_STUN), stun(UNROUTED)), {"ESTUN01": "warning"}, ()),
        (section(stun(SILENT_STUN), stun(ANSWERING)), {}, ()),
        (section(stun(UNROUTED), stun(UNROUTED)), {}, ("ESTUN01",)),
        (section(stun()), {}, ("ESTUN01",)),  # both families off
        (section(stun(SILENT_STUN), stun_pending=("1/b",)), {}, ("ESTUN01",)),
        (section(stun(ANSWERING), stun_pending=("1/b",)), {}, ()),
        (section(stun_pending=("1/b",)), {}, ("ESTUN01",)),
        # NAT
        (section(stun(ANSWERING), mapping_varies=True), {"ESTUN02": "ok"}, ()),
        (section(stun(ANSWERING), mapping_varies=None), {}, ("ESTUN02",)),
    ],
)
def test_the_section(given: DerpResult, expected: dict[str, str], not_judged: tuple[str, ...]) -> None:
    """The map, all STUN servers together, and the NAT; only a missing map has failed."""
    report = assess_section(given)
    assert expected == seen(report)
    assert frozenset(not_judged) == report.not_judged
    assert given.map_failure == report.failure


def test_a_missing_map_says_whether_an_earlier_one_is_used() -> None:
    """An operator reads whether the probes go on."""
    told = [
        messages(assess_section(DerpResult(map_failure=NO_MAP, map_age_seconds=age)))["XDERP03"] for age in (None, 90.4)
    ]
    assert [
        "no DERP map is to be had: coder.example.com: no route",
        "the DERP map is not to be had, one confirmed 90 s ago is still used: coder.example.com: no route",
    ] == told


def test_off_says_nothing_else() -> None:
    """A map that is refused in good order switches the section off."""
    report = assess_section(section(stun(SILENT_STUN), off=OffReason.FORBIDDEN, mapping_varies=True))
    assert Report(section=Section.DERP, off=OffReason.FORBIDDEN) == report


# all there is


_RELAYS = st.builds(
    relay,
    st.sampled_from(OUTCOMES),
    st.sampled_from(OUTCOMES),
    st.sampled_from(["1a", "1b", "1c"]),
    listed=st.sampled_from([True, True, True, False]),
    expect_websocket=st.booleans(),
)
_REGIONS = st.builds(
    lambda relays, extra, pending, skipped: region(
        *relays, node_count=len(relays) + extra, pending=("p",) * pending, skipped=("s",) * skipped
    ),
    st.lists(_RELAYS, max_size=4),
    st.integers(0, 2),
    st.integers(0, 3),
    st.integers(0, 1),
)


@given(_REGIONS)
def test_an_outage_is_a_region_of_which_no_relay_works(given: RegionResult) -> None:
    """XDERP01 stands exactly where all relays have a result, none is skipped, and none works."""
    dead = bool(given.relays) and not any(map(relay_works, given.relays))
    report = assess_region(given)
    assert (dead and not given.pending and not given.skipped) == ("XDERP01" in seen(report))
    assert len(report.findings) <= 1
    assert report.not_judged.isdisjoint(seen(report))


@given(_REGIONS)
def test_what_is_pending_changes_no_verdict(given: RegionResult) -> None:
    """A code is observed only when every outcome of the pending relays gives it, and what is judged to
    be absent is absent in all."""
    completed = []
    for states in combinations_with_replacement(RelayState, len(given.pending)):
        relays = given.relays + tuple(OF_STATE[state] for state in states)
        completed.append(set(seen(assess_region(replace(given, relays=relays, pending=())))))
    report = assess_region(given)
    assert set.intersection(*completed) == set(seen(report))
    assert set.union(*completed) - set.intersection(*completed) == set(report.not_judged)


@given(_RELAYS)
def test_ederp01_never_stands_on_a_relay_that_does_not_work(given: RelayResult) -> None:
    """Nor where WebSocket is expected, nor on the WebSocket transport."""
    raw, websocket = assess_transport(given, RAW), assess_transport(given, WEBSOCKET)
    assert "EDERP01" not in seen(websocket)
    if "EDERP01" in seen(raw):
        assert relay_works(given)
        assert not given.expect_websocket
        assert raw.failure is None


@given(_RELAYS)
def test_a_relay_works_exactly_when_no_transport_fails(given: RelayResult) -> None:
    """But for a certificate, which is wrong even where nobody needs the transport."""
    reports = [assess_transport(given, name) for name in (RAW, WEBSOCKET)]
    failures = [report.failure for report in reports if report.failure is not None and "XDERP05" not in seen(report)]
    if relay_works(given):
        assert [] == failures
    else:
        assert any(report.failure is not None for report in reports)


@given(_REGIONS, _RELAYS, st.sampled_from([None, NO_MAP]), st.sampled_from([None, False, True]))
def test_every_code_is_used_as_the_table_of_codes_says(
    given: RegionResult, one: RelayResult, map_failure: Failure | None, mapping_varies: bool | None
) -> None:
    """Severities are those of the table, and no code is both observed and not judged."""
    found = DerpResult(
        regions=(replace(given, stun=(stun(SILENT_STUN),)),), map_failure=map_failure, mapping_varies=mapping_varies
    )
    reports = [
        assess_region(given),
        assess_transport(one, RAW),
        assess_transport(one, WEBSOCKET),
        assess_section(found),
        assess_mesh(mesh("ab")),
    ]
    for report in reports:
        assert report.not_judged.isdisjoint(seen(report))
        for finding in report.findings:
            code = codes.find(finding.code)
            assert code is not None
            assert Section.DERP is code.section
            assert (finding.severity,) == code.severities
