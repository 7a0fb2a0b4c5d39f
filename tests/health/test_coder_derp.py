"""Coder's own verdict on what we measured, beside ours: the table of derp-stun, section 9.4, and the
reports of a real Coder v2.26 over relays that answer in every way (tests/data/derp, captured
November 2026 on loopback; the region's code says what its nodes answered).
"""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from exporter.errors import Phase, Reason
from exporter.health.coder_derp import CoderDerpVerdict, CoderRegionVerdict, judge_as_coder
from exporter.health.derp import (
    RAW,
    WEBSOCKET,
    DerpResult,
    NodeName,
    RegionResult,
    RelayResult,
    TransportResult,
    assess_region,
    assess_section,
    assess_transport,
    relay_works,
)
from exporter.health.model import Failure, Finding, Severity
from exporter.health.stun import StunAttempt, StunResult, assess_stun

DATA = Path(__file__).parent.parent / "data" / "derp"
SILENCE = Failure(reason=Reason.TIMEOUT, phase=Phase.PROCESSING, message="no answer")


def transport(name: str, answer: str, node: str) -> TransportResult:
    """`answer` is `ok`, a status, or what else happened."""
    facts: dict[str, Any] = {} if answer == "ok" else {"failure": SILENCE}
    if answer.isdigit():
        facts["status"] = int(answer)
    if answer == "http2":
        facts["http2"] = True
    return TransportResult(
        name=NodeName(region_id=1, region_name="", node=node),
        transport=name,
        phase_seconds={},
        started_timestamp_seconds=1.0,
        duration_seconds=0.1,
        **facts,
    )


def relay(node: str, raw: str, websocket: str = "ok", **facts: Any) -> RelayResult:
    return RelayResult(
        name=NodeName(region_id=1, region_name="", node=node),
        transports=(transport(RAW, raw, node), transport(WEBSOCKET, websocket, node)),
        **facts,
    )


def stun(node: str, up: bool) -> StunResult:
    """A server of which others answer, as another region has one."""
    attempt = StunAttempt(
        family="ipv4",
        address="192.0.2.1",
        round_trip_seconds=0.01 if up else None,
        failure=None if up else SILENCE,
    )
    return StunResult(
        region_id=1, region_name="", node=node, host="stun", port=3478, attempts=(attempt,), others_answer=True
    )


def region(*nodes: RelayResult | StunResult, region_id: int = 1, **facts: Any) -> RegionResult:
    relays = tuple(node for node in nodes if isinstance(node, RelayResult))
    servers = tuple(node for node in nodes if isinstance(node, StunResult))
    names = {relay.name.node for relay in relays if relay.listed} | {server.node for server in servers}
    facts = {"node_count": len(names) + len(facts.get("pending", ())) + len(facts.get("skipped", ()))} | facts
    return RegionResult(region_id=region_id, name="", relays=relays, stun=servers, **facts)


WORKS = relay("a", "ok")
WORKS_TOO = relay("b", "ok")
FALLBACK = relay("a", "403")
FALLBACK_TOO = relay("b", "403")
REFUSED = relay("b", "403", "403")
DEAD = relay("b", "502", "502")


def codes_of(findings: tuple[Finding, ...]) -> list[str]:
    return [finding.code for finding in findings]


def judge_region(given: RegionResult) -> CoderRegionVerdict:
    (verdict,) = judge_as_coder([given], mapping_varies=False).regions
    return verdict


def our_codes(given: RegionResult) -> list[str]:
    """All codes of a region, its relays and its STUN servers under our judgement."""
    reports = [assess_region(given)]
    reports += [assess_transport(one, transport) for one in given.relays for transport in (RAW, WEBSOCKET)]
    reports += [assess_stun(server) for server in given.stun]
    return sorted(finding.code for report in reports for finding in report.findings)


# derp-stun, section 9.4: the region, Coder's verdict on it, and ours with its gaps closed
ROWS = {
    "1 relay works": (region(WORKS), (True, "ok", []), []),
    "1 relay, WebSocket only": (region(FALLBACK), (True, "warning", ["EDERP01"]), ["EDERP01"]),
    "1 relay is dead": (region(DEAD), (False, "error", []), ["XDERP01"]),
    "G1: 1 relay, 403 on both": (region(REFUSED), (True, "warning", ["EDERP01"]), ["XDERP01"]),
    "G4: 1 relay works, STUN bad": (region(WORKS, stun("a", False)), (False, "error", []), ["XSTUN01"]),
    "G3: 1 STUN-only, bad": (region(stun("s", False)), (False, "error", []), ["XSTUN01"]),
    "1 of 2 dead": (region(WORKS, DEAD), (True, "warning", ["EDERP02"]), ["EDERP02"]),
    "2 of 2 dead": (region(relay("a", "502", "502"), DEAD), (False, "error", []), ["XDERP01"]),
    "G15: 2 of 2 WebSocket only": (
        region(FALLBACK, FALLBACK_TOO),
        (False, "warning", ["EDERP01", "EDERP01"]),
        ["EDERP01", "EDERP01"],
    ),
    "1 of 2 WebSocket only": (
        region(WORKS, FALLBACK_TOO),
        (True, "warning", ["EDERP01", "EDERP02"]),
        ["EDERP01", "EDERP02"],
    ),
    "G1: 1 of 2 WebSocket only, the other 403 on both": (
        region(FALLBACK, REFUSED),
        (False, "warning", ["EDERP01", "EDERP01"]),
        ["EDERP01", "XDERP02"],
    ),
    "G1: 1 relay WebSocket only, STUN bad": (
        region(FALLBACK, stun("a", False)),
        (True, "warning", ["EDERP01"]),
        ["EDERP01", "XSTUN01"],
    ),
    "G2: the only relay dead beside STUN-only": (
        region(DEAD, stun("s", True)),
        (True, "warning", ["EDERP02"]),
        ["XDERP01"],
    ),
    "0 nodes": (region(), (True, "ok", []), []),
    # beyond the table
    "HTTP/2": (region(relay("a", "http2")), (True, "warning", ["EDERP01"]), ["EDERP01"]),
    "G10: WebSocket is expected": (
        region(relay("a", "403", expect_websocket=True)),
        (True, "warning", ["EDERP01"]),
        [],
    ),
    "G11: WebSocket is expected, 502 to the raw upgrade": (
        region(relay("a", "502", expect_websocket=True)),
        (False, "error", []),
        [],
    ),
    "3 of 3 not well, one is dead": (
        region(FALLBACK, FALLBACK_TOO, relay("c", "502", "502")),
        (False, "error", ["EDERP01", "EDERP01"]),
        ["EDERP01", "EDERP01", "XDERP02"],
    ),
    "G4: 1 of 2 with STUN bad": (
        region(WORKS, WORKS_TOO, stun("b", False)),
        (True, "warning", ["EDERP02"]),
        ["XSTUN01"],
    ),
    "STUN well": (region(WORKS, stun("a", True), stun("s", True)), (True, "ok", []), []),
    "G16: one of two left the map": (
        region(WORKS, relay("b", "502", "502", listed=False)),
        (True, "ok", []),
        ["XDERP02"],
    ),
}


@pytest.mark.parametrize(("given", "coder", "ours"), ROWS.values(), ids=ROWS)
def test_a_region_by_both_rules(given: RegionResult, coder: tuple[bool, str, list[str]], ours: list[str]) -> None:
    """Coder's verdict is kept bug for bug; ours differs where its gaps hide or invent an outage."""
    verdict = judge_region(given)
    assert coder == (verdict.healthy, verdict.severity, codes_of(verdict.warnings))
    assert ours == our_codes(given)


def test_a_relay_without_a_result_is_not_a_crashed_check() -> None:
    """Coder says error when a node's report is missing; here the result is still to come: Coder's
    verdict takes the relay for well and names it, ours waits."""
    given = region(WORKS, DEAD, pending=("c",))
    verdict = judge_region(given)
    assert (True, "warning", ["EDERP02"]) == (verdict.healthy, verdict.severity, codes_of(verdict.warnings))
    assert ("c",) == verdict.unmeasured
    report = assess_region(given)
    assert ((), {"EDERP02", "XDERP02"}) == (report.findings, report.not_judged)


def test_what_is_skipped_is_named() -> None:
    """A relay that is not probed has no node of its own, even when its STUN server is asked."""
    verdict = judge_region(region(WORKS, stun("b", False), skipped=("b",), node_count=2))
    assert (["a"], ("b",), "ok") == ([node.node for node in verdict.nodes], verdict.unmeasured, verdict.severity)


def test_a_node_shows_what_coders_page_shows() -> None:
    """An error that EDERP01 overwrites leaves `healthy` false (G1)."""
    (node,) = judge_region(region(REFUSED, stun("b", False))).nodes
    assert (False, "warning", ["EDERP01"]) == (node.healthy, node.severity, codes_of(node.warnings))
    assert (False, True, True, False) == (
        node.can_exchange_messages,
        node.uses_websocket,
        node.stun_enabled,
        node.can_stun,
    )


def judge_section(*regions: RegionResult, mapping_varies: bool | None = False) -> tuple[bool, str, list[str]]:
    verdict = judge_as_coder(regions, mapping_varies=mapping_varies)
    return verdict.healthy, verdict.severity, codes_of(verdict.warnings)


@pytest.mark.parametrize(
    ("regions", "mapping_varies", "coder", "ours"),
    [
        ((region(WORKS),), False, (True, "ok", []), []),
        # G3: one dead STUN server makes the section error
        ((region(WORKS), region(stun("s", False), region_id=2)), False, (False, "error", ["ESTUN01"]), ["ESTUN01"]),
        (
            (region(stun("s", False)), region(stun("s", True), region_id=2)),
            False,
            (False, "error", []),
            [],
        ),
        # ESTUN01 alone is a warning: EDERP01 has overwritten the node's error
        ((region(FALLBACK, stun("a", False)),), False, (True, "warning", ["EDERP01", "ESTUN01"]), ["ESTUN01"]),
        # G14
        ((region(WORKS),), True, (True, "ok", ["ESTUN02"]), ["ESTUN02"]),
        ((region(WORKS),), None, (True, "ok", []), []),
        # nothing was looked at
        ((), False, (True, "ok", []), ["XDERP03"]),
    ],
)
def test_the_section_by_both_rules(
    regions: tuple[RegionResult, ...], mapping_varies: bool | None, coder: tuple[bool, str, list[str]], ours: list[str]
) -> None:
    """The section's own codes are the same, but for an empty map, which Coder calls healthy."""
    assert coder == judge_section(*regions, mapping_varies=mapping_varies)
    report = assess_section(DerpResult(regions=regions, map_age_seconds=1.0, mapping_varies=mapping_varies))
    assert ours == codes_of(report.findings)
    severities = {"ESTUN01": Severity.WARNING, "ESTUN02": Severity.OK, "XDERP03": Severity.ERROR}
    assert [severities[code] for code in ours] == [finding.severity for finding in report.findings]


def test_a_region_without_nodes_crashes_coders_check() -> None:
    """The severity is then empty, as on its page, where nothing else is to be seen (G5)."""
    verdict = judge_as_coder([region(DEAD), region(region_id=2)], mapping_varies=True)
    assert (True, False, "", ()) == (verdict.crashed, verdict.healthy, verdict.severity, verdict.warnings)
    assert ["error", "ok"] == [one.severity for one in verdict.regions]


def test_a_region_that_left_the_map_is_not_seen_by_coder() -> None:
    """A lost proxy relay disappears from its page instead of failing (G16)."""
    lost = region(relay("a", "ok", listed=False))
    assert CoderDerpVerdict(healthy=True, severity="ok") == judge_as_coder([lost], mapping_varies=False)
    assert ["XDERP01"] == our_codes(lost)


# what a real Coder said

_OF_WORD = {
    "good": ("ok", "ok"),
    "bad": ("502", "502"),
    "ws": ("403", "ok"),
    "403": ("403", "403"),
    "silence": ("silence", "silence"),
    "101silence": ("silence", "silence"),
}


def read_answers(region_code: str) -> list[tuple[str, str]]:
    """What the relays of a captured region answered: to the raw upgrade, and to WebSocket."""
    single = re.fullmatch(r"raw (\S+) ws (\S+)", region_code)
    if single:
        return [(single[1], single[2])]
    return [_OF_WORD[word] for word in re.split("[/+]", region_code) if not word.startswith("stun")]


def rebuild(reported: dict[str, Any]) -> RegionResult:
    """Make of a captured region what our probes would have found."""
    answers = iter(read_answers(reported["region"]["RegionCode"]))
    nodes: list[RelayResult | StunResult] = []
    for report in reported["node_reports"]:
        name = report["node"]["Name"]
        if not report["node"].get("STUNOnly"):
            nodes.append(relay(name, *next(answers)))
        if report["stun"]["Enabled"]:
            nodes.append(stun(name, report["stun"]["CanSTUN"]))
    return region(*nodes, region_id=reported["region"]["RegionID"])


def read_report(name: str) -> dict[str, Any]:
    section: dict[str, Any] = json.loads((DATA / name).read_text())["derp"]
    return section


CAPTURES = {name: read_report(name) for name in ("coder-v2.26-check-faults.json", "coder-v2.26-check-faults-slow.json")}
REGIONS = {
    f"{reported['region']['RegionCode']} ({name})": reported
    for name, section in CAPTURES.items()
    for reported in section["regions"].values()
}


def test_the_captures_are_whole() -> None:
    """39 regions that answer at once, and 7 of silence."""
    assert [39, 7] == [len(section["regions"]) for section in CAPTURES.values()]


@pytest.mark.parametrize("reported", REGIONS.values(), ids=REGIONS)
def test_a_real_coder_says_the_same_of_a_region(reported: dict[str, Any]) -> None:
    """Region and nodes agree in health, severity, codes and facts with what Coder v2.26 reported."""
    verdict = judge_region(rebuild(reported))
    assert (reported["healthy"], reported["severity"], [warning["code"] for warning in reported["warnings"]]) == (
        verdict.healthy,
        verdict.severity,
        codes_of(verdict.warnings),
    )
    assert [
        (
            node["node"]["Name"],
            node["healthy"],
            node["severity"],
            [warning["code"] for warning in node["warnings"]],
            node["can_exchange_messages"],
            node["uses_websocket"],
            node["stun"]["Enabled"],
            node["stun"]["CanSTUN"],
        )
        for node in reported["node_reports"]
    ] == [
        (
            node.node,
            node.healthy,
            node.severity,
            codes_of(node.warnings),
            node.can_exchange_messages,
            node.uses_websocket,
            node.stun_enabled,
            node.can_stun,
        )
        for node in verdict.nodes
    ]


@pytest.mark.parametrize("section", CAPTURES.values(), ids=CAPTURES)
def test_a_real_coder_says_the_same_of_the_section(section: dict[str, Any]) -> None:
    """Health, severity and codes of the section agree; the order of its warnings is random (G20)."""
    regions = [rebuild(reported) for reported in section["regions"].values()]
    verdict = judge_as_coder(regions, mapping_varies=section["netcheck"]["MappingVariesByDestIP"])
    assert (section["healthy"], section["severity"]) == (verdict.healthy, verdict.severity)
    assert Counter(warning["code"] for warning in section["warnings"]) == Counter(codes_of(verdict.warnings))


@pytest.mark.parametrize("reported", REGIONS.values(), ids=REGIONS)
def test_ours_over_the_same_regions(reported: dict[str, Any]) -> None:
    """Where Coder's clients passed messages the relay works, else it is down, whatever warning hides it;
    a region with relays of which none works has XDERP01, and no other has."""
    found = rebuild(reported)
    passed = {node["node"]["Name"]: node["can_exchange_messages"] for node in reported["node_reports"]}
    assert {one.name.node: relay_works(one) for one in found.relays} == {
        name: passed[name] for name in (one.name.node for one in found.relays)
    }
    dead = bool(found.relays) and not any(passed[one.name.node] for one in found.relays)
    assert dead == ("XDERP01" in our_codes(found))
