"""The judgement of this host's network, as tables."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.errors import Reason
from exporter.health import codes
from exporter.health.direct_connections import (
    LOW_MTU_BYTES,
    DirectConnectionsResult,
    InterfaceFacts,
    Netcheck,
    PathMTUFacts,
    assess,
    coder_interface_warnings,
)
from exporter.health.model import Failure, OffReason, Report, Section, Severity

EASY = Netcheck(udp=True, stun_servers=3, stun_answers=3, ipv4_can_send=True, mapping_varies=False)
HARD = replace(EASY, mapping_varies=True)
BLOCKED = replace(EASY, udp=False, stun_answers=0, mapping_varies=None)
NOT_ASKED = Netcheck()
WAY = ("EIF01", "XNET05")


def interface(mtu_bytes: int = 1500, name: str = "eth0", **facts: Any) -> InterfaceFacts:
    facts = {"on_the_way": True, "towards": ("coder", "stun")} | facts
    return InterfaceFacts(name=name, mtu_bytes=mtu_bytes, addresses=("192.0.2.5/24",), **facts)


def path(passed_bytes: int, failed_bytes: int | None, family: str = "ipv4", node: str = "a") -> PathMTUFacts:
    return PathMTUFacts(
        region_id=1,
        region_name="Region 1",
        node=node,
        family=family,
        passed_bytes=passed_bytes,
        failed_bytes=failed_bytes,
    )


def result(**facts: Any) -> DirectConnectionsResult:
    facts = {
        "disabled": False,
        "map_known": True,
        "map_has_stun": True,
        "netcheck": EASY,
        "interfaces": (interface(),),
    } | facts
    return DirectConnectionsResult(**facts)


def seen(report: Report) -> dict[str, str]:
    return {finding.code: finding.severity.label for finding in report.findings}


@pytest.mark.parametrize(
    ("facts", "expected", "not_judged"),
    [
        ({}, {}, ()),
        ({"disabled": True}, {"XNET01": "ok"}, ()),
        ({"disabled": None}, {}, ("XNET01",)),
        # the map: STUN leaves it when direct connections are disabled
        ({"map_has_stun": False, "netcheck": NOT_ASKED}, {"XNET02": "warning"}, ("XNET04",)),
        (
            {"map_has_stun": False, "netcheck": NOT_ASKED, "disabled": None},
            {"XNET02": "warning"},
            ("XNET01", "XNET04"),
        ),
        ({"map_has_stun": False, "netcheck": NOT_ASKED, "disabled": True}, {"XNET01": "ok"}, ("XNET04",)),
        ({"map_known": False, "map_has_stun": False, "netcheck": NOT_ASKED}, {}, ("XNET02", "XNET03", "XNET04", *WAY)),
        # UDP
        ({"netcheck": BLOCKED}, {"XNET03": "warning"}, ("XNET04",)),
        ({"netcheck": replace(BLOCKED, mapping_varies=True)}, {"XNET03": "warning"}, ("XNET04",)),
        ({"netcheck": replace(BLOCKED, stun_servers=2)}, {"XNET03": "warning"}, ("XNET04",)),
        ({"netcheck": replace(BLOCKED, stun_servers=1)}, {}, ("XNET03", "XNET04")),
        ({"netcheck": replace(BLOCKED, ipv4_can_send=False)}, {}, ("XNET03", "XNET04")),
        ({"netcheck": replace(BLOCKED, ipv4_can_send=None)}, {}, ("XNET03", "XNET04")),
        ({"netcheck": replace(BLOCKED, ipv4_can_send=False, ipv6_can_send=True)}, {"XNET03": "warning"}, ("XNET04",)),
        ({"netcheck": replace(EASY, stun_answers=1, mapping_varies=None)}, {}, ("XNET04",)),
        # NAT
        ({"netcheck": HARD}, {"XNET04": "warning"}, ()),
        ({"netcheck": replace(EASY, mapping_unstable=True)}, {}, ()),
        # the way
        ({"interfaces": (interface(tunnel=True),)}, {"XNET05": "warning"}, ()),
        ({"interfaces": (interface(1280, tunnel=True),)}, {"EIF01": "warning", "XNET05": "warning"}, ()),
        ({"interfaces": (interface(), interface(1280, "wg0", tunnel=True, on_the_way=False))}, {}, ()),
        ({"interfaces": ()}, {}, WAY),
        ({"interfaces": (interface(on_the_way=False),)}, {}, WAY),
        (
            {"interfaces": (interface(1280, tunnel=True),), "map_known": False},
            {"EIF01": "warning", "XNET05": "warning"},
            ("XNET02",),
        ),
    ],
)
def test_the_network_of_this_host(facts: dict[str, Any], expected: dict[str, str], not_judged: tuple[str, ...]) -> None:
    """Each fact has its code, a consequence is said once, and what was not measured is not judged."""
    report = assess(result(**facts))
    assert expected == seen(report)
    assert frozenset(not_judged) == report.not_judged
    assert report.failure is None


@pytest.mark.parametrize(
    ("mtu_bytes", "low"),
    [(-1, False), (0, False), (1, True), (1280, True), (1377, True), (1378, False), (1379, False), (65536, False)],
)
def test_mtu_of_an_interface(mtu_bytes: int, low: bool) -> None:
    """EIF01 begins one byte below 1378; an MTU that the system does not tell is not low."""
    assert low == ("EIF01" in seen(assess(result(interfaces=(interface(mtu_bytes),)))))
    assert low == bool(coder_interface_warnings([interface(mtu_bytes, on_the_way=False)]))


@pytest.mark.parametrize(
    ("paths", "low"),
    [
        (None, False),
        ((), False),
        ((path(1500, None),), False),
        ((path(1280, None),), False),  # nothing larger was tried
        ((path(1280, 1376),), True),
        ((path(1280, LOW_MTU_BYTES),), True),
        ((path(1376, 1380),), False),  # the limit may be 1379
        ((path(LOW_MTU_BYTES, 1500),), False),
        ((path(1280, 1376), path(1280, 1376, node="b")), True),
        ((path(1280, 1376), path(1500, None, node="b")), False),
        ((path(1280, 1376), path(LOW_MTU_BYTES, 1500, node="b")), False),
        ((path(1280, 1376, "ipv6"), path(1500, None)), True),
    ],
)
def test_mtu_of_the_path(paths: tuple[PathMTUFacts, ...] | None, low: bool) -> None:
    """A path that does not carry 1378 bytes is low, unless another server of its family shows that
    this host's network does carry them."""
    assert low == ("EIF01" in seen(assess(result(path_mtu=paths))))


def test_messages_say_what_was_seen() -> None:
    """A person reads which interface and path it is, and where they lead."""
    found = assess(result(interfaces=(interface(1280, "wg0", tunnel=True),), path_mtu=(path(1280, 1376),)))
    messages = {finding.code: finding.message for finding in found.findings}
    assert (
        "below 1378 bytes direct connections degrade or fail: interface wg0 (MTU 1280 bytes, towards coder, stun); "
        "the IPv4 path to STUN server 1/a carries packets of 1280 bytes, but not of 1376"
    ) == messages["EIF01"]
    assert "a VPN or tunnel interface is on the way: wg0 (MTU 1280 bytes, towards coder, stun)" == messages["XNET05"]


def test_a_map_without_stun_may_be_meant() -> None:
    """Where nobody could tell whether direct connections are disabled, XNET02 says so."""
    netcheck = {"map_has_stun": False, "netcheck": NOT_ASKED}
    messages = [assess(result(**netcheck, disabled=disabled)).findings[0].message for disabled in (None, False)]
    assert [True, False] == ["only a valid session token can tell" in message for message in messages]


def test_an_unstable_mapping_is_told_with_a_hard_nat() -> None:
    """Both are said in one sentence, since both are of the same NAT."""
    messages = [
        assess(result(netcheck=replace(HARD, mapping_unstable=unstable))).findings[0].message
        for unstable in (True, False)
    ]
    assert [True, False] == ["changes for one destination too" in message for message in messages]


def test_the_list_of_interfaces_is_bounded() -> None:
    """A host with hundreds of narrow interfaces on the way has one short message."""
    many = tuple(interface(1280, f"veth{number}") for number in range(300))
    (finding,) = assess(result(interfaces=many)).findings
    assert finding.message.endswith("and 295 more")
    assert len(finding.message) < 1000


def test_coders_own_rule_looks_at_every_interface() -> None:
    """For the JSON, EIF01 stands on each low interface, on the way or not, in their order."""
    kept = [interface(1280, "docker0", on_the_way=False, towards=()), interface(), interface(576, "wg0")]
    warnings = coder_interface_warnings(kept)
    assert ["EIF01", "EIF01"] == [warning.code for warning in warnings]
    assert ["docker0" in warnings[0].message, "wg0" in warnings[1].message] == [True, True]
    assert () == coder_interface_warnings([])


def test_off_says_nothing_else() -> None:
    """A map that is refused switches the section off."""
    report = assess(result(off=OffReason.FORBIDDEN, netcheck=HARD))
    assert Report(section=Section.DIRECT_CONNECTIONS, off=OffReason.FORBIDDEN) == report


def test_a_run_that_measured_nothing_has_failed() -> None:
    """Its failure is passed on, and only what it could see is judged."""
    failure = Failure(reason=Reason.INTERNAL, message="no sockets")
    report = assess(result(map_known=False, disabled=None, netcheck=NOT_ASKED, interfaces=(), failure=failure))
    assert failure == report.failure
    assert {"XNET01", "XNET02", "XNET03", "XNET04", *WAY} == report.not_judged


_OPTIONAL = st.sampled_from([None, False, True])


@given(
    st.builds(
        DirectConnectionsResult,
        disabled=_OPTIONAL,
        map_known=st.booleans(),
        map_has_stun=st.booleans(),
        netcheck=st.builds(
            Netcheck,
            stun_servers=st.integers(0, 3),
            stun_answers=st.integers(0, 3),
            ipv4_can_send=_OPTIONAL,
            ipv6_can_send=_OPTIONAL,
            mapping_varies=_OPTIONAL,
            mapping_unstable=st.booleans(),
            replies=st.just(()),
        ),
        interfaces=st.lists(
            st.builds(interface, st.integers(-1, 1500), tunnel=st.booleans(), on_the_way=st.booleans()), max_size=3
        ).map(tuple),
        path_mtu=st.none(),
        off=st.none(),
        failure=st.none(),
    )
)
def test_every_code_is_used_as_the_table_of_codes_says(found: DirectConnectionsResult) -> None:
    """Severities are those of the table, no code is both observed and not judged, nothing is an error."""
    report = assess(found)
    for finding in report.findings:
        code = codes.find(finding.code)
        assert code is not None
        assert Section.DIRECT_CONNECTIONS is code.section
        assert finding.severity in code.severities
    observed = [finding.code for finding in report.findings]
    assert len(observed) == len(set(observed))
    assert report.not_judged.isdisjoint(observed)
    assert report.severity < Severity.ERROR
    assert not {"XNET03", "XNET04"} <= set(observed)
