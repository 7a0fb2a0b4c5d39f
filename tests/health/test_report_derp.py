"""Our judgement of the nodes in Coder's report: every row of derp-stun, section 9.4, and what Coder's
rules hide or exaggerate there.
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.health.coder_report import CodedMessage, ReportedNode, ReportedRegion
from exporter.health.model import Severity
from exporter.health.report_derp import CODES, OWN_CODES, judge_regions, name_region


def node(name: str, facts: str, **more: Any) -> ReportedNode:
    """`facts` as derp-stun writes them: E exchange works, W uses WebSocket, S or s STUN answers or does
    not, O STUN-only."""
    return ReportedNode(
        name=name,
        host="relay.example.com",
        can_exchange_messages="E" in facts,
        uses_websocket="W" in facts,
        stun_only="O" in facts,
        stun_enabled="S" in facts or "s" in facts,
        can_stun="S" in facts,
        **more,
    )


def region(*nodes: str | ReportedNode, **facts: Any) -> ReportedRegion:
    made = tuple(one if isinstance(one, ReportedNode) else node(f"n{number}", one) for number, one in enumerate(nodes))
    return ReportedRegion(**{"region_id": 1, "node_count": len(made), "nodes": made, **facts})


def codes(*regions: ReportedRegion) -> list[str]:
    return [finding.code for finding in judge_regions(regions).findings]


@pytest.mark.parametrize(
    ("nodes", "expected"),
    [
        (["E"], []),
        (["EW"], ["EDERP01"]),
        ([""], ["XDERP01"]),
        (["W"], ["XDERP01"]),
        (["Es"], ["ESTUN01"]),
        (["Os"], ["ESTUN01"]),
        (["OS"], []),
        (["E", ""], ["EDERP02"]),
        (["", ""], ["XDERP01"]),
        (["EW", "EW"], ["EDERP01"]),
        (["E", "EW"], ["EDERP01", "EDERP02"]),
        (["EW", "W"], ["EDERP01", "XDERP02"]),
        (["EWs"], ["EDERP01", "ESTUN01"]),
        (["", "OS"], ["XDERP01"]),
        (["W", "OS"], ["XDERP01"]),
        (["E", "", ""], ["XDERP02"]),
        (["Es", "ES"], ["XSTUN01"]),
        ([], []),
    ],
)
def test_codes_of_one_region(nodes: list[str], expected: list[str]) -> None:
    """Relays and STUN servers of a region are judged apart, by what passed and not by Coder's colours."""
    assert expected == codes(region(*nodes))


def test_relay_that_refuses_every_upgrade_is_down() -> None:
    """Coder calls it healthy with EDERP01; no message passes, so its region is an error."""
    shown = region(
        node(
            "999b",
            "W",
            healthy=False,
            severity=Severity.WARNING,
            messages=(CodedMessage(code="EDERP01", message="uses WebSockets"),),
        ),
        healthy=True,
        severity=Severity.WARNING,
    )
    verdict = judge_regions([shown])
    assert [("XDERP01", Severity.ERROR)] == [(finding.code, finding.severity) for finding in verdict.findings]
    assert "999b (relay.example.com) refuses the raw upgrade" in verdict.findings[0].message
    assert () == verdict.unnamed


def test_silent_stun_servers_across_regions() -> None:
    """One that is silent while one of another region answers is XSTUN01; all together are ESTUN01."""
    assert ["XSTUN01"] == codes(region("E"), region("Os", region_id=2), region("OS", region_id=3))
    assert ["ESTUN01"] == codes(region("E"), region("Os", region_id=2), region("Os", region_id=3))


def test_each_code_once_with_every_place() -> None:
    """A code that several regions raise is one finding that names each of them."""
    verdict = judge_regions([region("", region_id=5, name="five"), region("", region_id=6, name="six")])
    assert ["XDERP01"] == [finding.code for finding in verdict.findings]
    assert "region 5 (five)" in verdict.findings[0].message
    assert "region 6 (six)" in verdict.findings[0].message


def test_node_without_report_is_missing() -> None:
    """What a missing report could change is not judged, and Coder's error about it is named by no code."""
    verdict = judge_regions([region("E", "", node_count=3, severity=Severity.ERROR, error="missing node report")])
    assert () == verdict.findings
    assert {"EDERP02", "XDERP02", "ESTUN01", "XSTUN01"} == verdict.not_judged
    assert ("region 1: missing node report",) == verdict.unnamed


def test_node_without_report_changes_nothing_that_is_certain() -> None:
    """Two relays of four are down, whatever the missing one is: that much is said."""
    assert ["XDERP02"] == codes(region("E", "", "", node_count=4))


def test_missing_report_leaves_silence_of_stun_open() -> None:
    """While the report of a node is missing, it may be the STUN server that answers."""
    verdict = judge_regions([region("Os"), region(region_id=2, node_count=1)])
    assert {"ESTUN01", "XSTUN01"} <= verdict.not_judged
    assert () == verdict.findings
    verdict = judge_regions([region("OS"), region(region_id=2, node_count=1)])
    assert "XSTUN01" in verdict.not_judged
    assert "ESTUN01" not in verdict.not_judged


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (region(node("a", "", severity=Severity.ERROR), severity=Severity.ERROR), ()),
        (region(node("a", "Es", severity=Severity.ERROR), severity=Severity.ERROR), ()),
        (
            region(node("a", "E", severity=Severity.ERROR), severity=Severity.ERROR),
            ("a (relay.example.com) of region 1: error without a reason",),
        ),
        (
            region(node("a", "E", severity=Severity.ERROR, error="boom"), severity=Severity.ERROR),
            ("a (relay.example.com) of region 1: boom",),
        ),
        (
            region(node("a", "", severity=Severity.ERROR), node_count=2, severity=Severity.ERROR),
            ("a (relay.example.com) of region 1: no message passes",),
        ),
        (
            region(node("a", "Es", severity=Severity.ERROR), node_count=2, severity=Severity.ERROR),
            ("a (relay.example.com) of region 1: STUN: no answer",),
        ),
        (region("E", severity=Severity.ERROR), ("region 1: error without a reason",)),
        (region("E", severity=Severity.ERROR, messages=(CodedMessage(code="EDERP09", message="new"),)), ()),
        (region("E", severity=Severity.WARNING), ()),
    ],
)
def test_errors_that_no_code_names(shown: ReportedRegion, expected: tuple[str, ...]) -> None:
    """An error of a region or a node is unnamed unless one of our codes or of Coder's tells of it."""
    assert expected == judge_regions([shown]).unnamed


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ({"region_id": 10002, "code": "coder_us", "name": "US"}, "region 10002 (workspace proxy us)"),
        ({"region_id": 1000, "code": "coder_stun_1000", "name": "Coder STUN 1000"}, "region 1000 (Coder STUN 1000)"),
        ({"region_id": 999, "code": "coder_x", "name": "Embedded", "embedded": True}, "region 999 (Embedded)"),
        ({"region_id": 7}, "region 7"),
    ],
)
def test_names_of_regions(facts: dict[str, Any], expected: str) -> None:
    """A region of a workspace proxy is called by the proxy."""
    assert expected == name_region(ReportedRegion(**facts))


TEXTS = st.text(max_size=12)
SEVERITIES = st.none() | st.sampled_from(Severity)
MESSAGES = st.lists(
    st.builds(CodedMessage, code=st.sampled_from(["", "EDERP01", "ESTUN01"]), message=TEXTS), max_size=2
)
NODES = st.builds(
    ReportedNode,
    name=TEXTS,
    host=TEXTS,
    healthy=st.none() | st.booleans(),
    severity=SEVERITIES,
    error=st.none() | TEXTS,
    messages=MESSAGES.map(tuple),
    stun_only=st.booleans(),
    can_exchange_messages=st.booleans(),
    uses_websocket=st.booleans(),
    stun_enabled=st.booleans(),
    can_stun=st.booleans(),
)
REGIONS = st.builds(
    ReportedRegion,
    region_id=st.integers(-2, 10),
    name=TEXTS,
    code=TEXTS,
    embedded=st.booleans(),
    node_count=st.integers(-1, 10**12),
    severity=SEVERITIES,
    error=st.none() | TEXTS,
    messages=MESSAGES.map(tuple),
    nodes=st.lists(NODES, max_size=4).map(tuple),
)


@given(st.lists(REGIONS, max_size=4))
def test_any_regions_are_judged(regions: list[ReportedRegion]) -> None:
    """Whatever a report tells of its nodes: each code at most once, only ours and those of Coder's that are
    about nodes, and nothing is both found and not judged."""
    verdict = judge_regions(regions)
    found = [finding.code for finding in verdict.findings]
    assert sorted(set(found)) == found
    assert CODES.issuperset(found)
    assert OWN_CODES < CODES
    assert verdict.not_judged.isdisjoint(found)
    assert all(len(finding.message) <= 1003 for finding in verdict.findings)


@given(st.lists(REGIONS, max_size=4))
def test_stun_makes_no_relay_bad(regions: list[ReportedRegion]) -> None:
    """The codes about relays are the same whether STUN servers answer or not."""

    def about_relays(answers: bool) -> list[str]:
        changed = [
            ReportedRegion(
                region_id=one.region_id,
                node_count=one.node_count,
                nodes=tuple(
                    ReportedNode(
                        name=item.name,
                        stun_only=item.stun_only,
                        can_exchange_messages=item.can_exchange_messages,
                        uses_websocket=item.uses_websocket,
                        stun_enabled=item.stun_enabled,
                        can_stun=answers,
                    )
                    for item in one.nodes
                ),
            )
            for one in regions
        ]
        return [code for code in codes(*changed) if "DERP" in code]

    assert about_relays(True) == about_relays(False)
