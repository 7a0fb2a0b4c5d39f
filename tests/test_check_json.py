"""The JSON that scripts rely on: its members, and that it holds all that `coder netcheck` tells."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from exporter.check_json import tell_section, tell_target
from exporter.errors import Phase, Reason
from exporter.health.derp import DerpResult, Skipped
from exporter.health.direct_connections import DirectConnectionsResult, Netcheck
from exporter.health.model import Section, Severity
from exporter.snapshot import TargetHealth
from exporter.wire.derp_map import DerpMap, parse_derp_map
from tests.support.exposition import START, health
from tests.support.relay_results import (
    REFUSED,
    dead,
    derp,
    interface,
    mesh,
    network,
    node,
    path,
    path_mtu,
    region,
    relay,
    reply,
    stun,
    stun_attempt,
    transport,
)

NETCHECK_CAPTURE = Path(__file__).parent / "data" / "coder" / "netcheck.json"

NETCHECK = Netcheck(
    udp=True,
    stun_servers=2,
    stun_answers=1,
    ipv4=True,
    ipv6=None,
    ipv4_can_send=True,
    ipv6_can_send=None,
    os_has_ipv6=True,
    mapping_varies=False,
    global_ipv4="198.51.100.3:40000",
    replies=(reply(),),
    region_latency_seconds={999: 0.0007},
    region_ipv4_latency_seconds={999: 0.0007},
    preferred_region=999,
)
NAME = node("999b", "Coder Embedded Relay", 999)
RAW = transport(0.0005, name=NAME)
WEBSOCKET = transport(0.0006, kind="websocket", name=NAME)
STUN = stun(stun_attempt(0.0007), name="1000stun0", region_name="Coder STUN 1000", region_id=1000)
REGIONS = (
    region(relay(RAW, WEBSOCKET), region_id=999, name=NAME.region_name, code="coder", embedded=True),
    region(region_id=1000, name="Coder STUN 1000", code="coder_stun_1000", node_count=1, stun=(STUN,)),
)
FOUND = derp(*REGIONS, mapping_varies=False)
NETWORK = network(
    NETCHECK,
    interface("eth0", 1300, on_the_way=True, towards=("coder", "relay")),
    interface("lo", 65536, addresses=("127.0.0.1/8", "::1/128")),
    disabled=False,
    path_mtu=(path_mtu(1300, 1400, region_id=1000, node="1000stun0"),),
)


def run(section: Section, name: str, result: object, **more: Any) -> TargetHealth:
    return health("prod", section, name, result, **more)


def of_network(result: DirectConnectionsResult | None) -> Any:
    return tell_section(Section.DIRECT_CONNECTIONS, [run(Section.DIRECT_CONNECTIONS, "", result)], None)["netcheck"]


def of_derp(result: DerpResult | None, derp_map: DerpMap | None = None) -> Any:
    return tell_section(Section.DERP, [run(Section.DERP, "1/mesh", mesh()), run(Section.DERP, "", result)], derp_map)


def test_the_netcheck_is_stable() -> None:
    """Every member under its name, with its unit; what is not measured is there as null."""
    told = of_network(NETWORK)
    (warning,) = told["interfaces"]["warnings"]
    assert "eth0" in warning.pop("message")
    assert {
        "udp": True,
        "stun_servers": 2,
        "stun_answers": 1,
        "ipv4": True,
        "ipv6": None,
        "ipv4_can_send": True,
        "ipv6_can_send": None,
        "os_has_ipv6": True,
        "icmpv4": None,
        "mapping_varies": False,
        "mapping_unstable": False,
        "hair_pinning": None,
        "upnp": None,
        "pmp": None,
        "pcp": None,
        "captive_portal": None,
        "global_ipv4": "198.51.100.3:40000",
        "global_ipv6": None,
        "replies": [
            {
                "region_id": 1,
                "node": "1stun0",
                "server_address": "192.0.2.9",
                "mapped_address": "198.51.100.3",
                "mapped_port": 40000,
                "round_trip_seconds": 0.003,
            }
        ],
        "preferred_region": 999,
        "region_latency_seconds": {"999": 0.0007},
        "region_ipv4_latency_seconds": {"999": 0.0007},
        "region_ipv6_latency_seconds": {},
        "interfaces": {
            "severity": "warning",
            "warnings": [
                {
                    "code": "EIF01",
                    "severity": "warning",
                    "docs_url": "https://coder.com/docs/admin/monitoring/health-check",
                }
            ],
            "dismissed": None,
            "interfaces": [
                {
                    "name": "eth0",
                    "mtu_bytes": 1300,
                    "addresses": ["192.0.2.2/24"],
                    "tunnel": False,
                    "on_the_way": True,
                    "towards": ["coder", "relay"],
                },
                {
                    "name": "lo",
                    "mtu_bytes": 65536,
                    "addresses": ["127.0.0.1/8", "::1/128"],
                    "tunnel": False,
                    "on_the_way": False,
                    "towards": [],
                },
            ],
        },
        "path_mtu": [
            {
                "region_id": 1000,
                "region_name": "Region 1",
                "node": "1000stun0",
                "family": "ipv4",
                "passed_bytes": 1300,
                "failed_bytes": 1400,
            }
        ],
        "direct_connections_disabled": False,
    } == told


def test_good_interfaces_warn_of_nothing() -> None:
    """No warning, severity ok; a platform that cannot measure the path says null."""
    told = of_network(network(Netcheck(), interface()))
    assert ("ok", [], None) == (told["interfaces"]["severity"], told["interfaces"]["warnings"], told["path_mtu"])


def test_without_a_result_members_are_there_as_null() -> None:
    """A script finds the member also when the probe broke, or there is no map."""
    assert of_network(None) is None
    assert {"coder": None, "map": None} == of_derp(None)


@pytest.mark.parametrize("section", [Section.ACCESS_URL, Section.WEBSOCKET, Section.DATABASE, Section.WORKSPACE_PROXY])
def test_other_sections_have_no_member_more(section: Section) -> None:
    """Only derp and direct_connections do."""
    assert {} == tell_section(section, [], None)


def test_coders_own_verdict_stands_beside_ours() -> None:
    """By region and node, with what Coder's page shows; relays' rate limits and mutes are not asked."""
    dead_relay = relay(dead(name=NAME), dead("websocket", NAME))
    found = derp(region(dead_relay, region_id=999, name=NAME.region_name), REGIONS[1], mapping_varies=True)
    coder = of_derp(found)["coder"]
    assert (False, "error", False, None) == (
        coder["healthy"],
        coder["severity"],
        coder["crashed"],
        coder["dismissed"],
    )
    assert ["ESTUN02"] == [warning["code"] for warning in coder["warnings"]]
    assert [(999, False, "error"), (1000, True, "ok")] == [
        (one["region_id"], one["healthy"], one["severity"]) for one in coder["regions"]
    ]
    assert {
        "node": "1000stun0",
        "healthy": True,
        "severity": "ok",
        "warnings": [],
        "can_exchange_messages": False,
        "uses_websocket": False,
        "stun_enabled": True,
        "can_stun": True,
        "token_bucket_bytes_per_second": None,
        "token_bucket_bytes_burst": None,
    } == coder["regions"][1]["nodes"][0]


def test_the_facts_of_the_section_do_not_repeat_its_targets() -> None:
    """What stands on its own as a target is left out; what only the section knows is there."""
    skipped = Skipped(region_id=5, node="5a", host="derp.example.net", reason="host_not_allowed")
    facts = tell_target(run(Section.DERP, "", derp(*REGIONS, skipped=(skipped,), problems=("odd",))))["facts"]
    assert {
        "region_id": 999,
        "name": "Coder Embedded Relay",
        "code": "coder",
        "embedded": True,
        "node_count": 1,
        "relays": [
            {
                "name": {"region_id": 999, "region_name": "Coder Embedded Relay", "node": "999b"},
                "listed": True,
                "expect_websocket": False,
            }
        ],
        "pending": [],
        "skipped": [],
    } == facts["regions"][0]
    assert [{"region_id": 5, "node": "5a", "host": "derp.example.net", "reason": "host_not_allowed"}] == facts[
        "skipped"
    ]
    assert ["odd"] == facts["problems"]


def test_a_target_tells_its_failure_its_codes_and_its_facts() -> None:
    """As every section's: verdict, times, phases, and the result with its units."""
    told = tell_target(
        run(
            Section.DERP,
            "999/999b/derp",
            dead(name=NAME, status=403, server="nginx"),
            codes=["EDERP01"],
            severity=Severity.WARNING,
            reason=Reason.STATUS,
            phase_seconds={Phase.CONNECT: 0.001},
        )
    )
    assert (False, "warning", {"connect": 0.001}) == (told["success"], told["severity"], told["phase_seconds"])
    assert START + 29.0 == told["started_timestamp_seconds"]
    (code,) = told["codes"]
    assert ("EDERP01", "https://coder.com/docs/admin/monitoring/health-check#ederp01") == (
        code["code"],
        code["docs_url"],
    )
    facts = told["facts"]
    assert (403, "nginx", [], None, REFUSED.message) == (
        facts["status"],
        facts["server"],
        facts["round_trip_seconds"],
        facts["login_seconds"],
        facts["failure"]["message"],
    )


# Each member of what `coder netcheck` prints, with where ours stands. `*` is any region, node or
# entry of a list. Below `derp` and `direct_connections` paths begin at the section; TARGET is the
# target's object.
PARITY = {
    "derp.severity": "derp.coder.severity",
    "derp.warnings": "derp.coder.warnings",
    "derp.dismissed": "derp.coder.dismissed",
    "derp.healthy": "derp.coder.healthy",
    "derp.regions.*.healthy": "derp.coder.regions.*.healthy",
    "derp.regions.*.severity": "derp.coder.regions.*.severity",
    "derp.regions.*.warnings": "derp.coder.regions.*.warnings",
    "derp.regions.*.region.EmbeddedRelay": "derp.map.regions.*.embedded",
    "derp.regions.*.region.RegionID": "derp.map.regions.*.region_id",
    "derp.regions.*.region.RegionCode": "derp.map.regions.*.code",
    "derp.regions.*.region.RegionName": "derp.map.regions.*.name",
    "derp.regions.*.region.Nodes.*.Name": "derp.map.regions.*.nodes.*.name",
    "derp.regions.*.region.Nodes.*.RegionID": "derp.map.regions.*.nodes.*.region_id",
    "derp.regions.*.region.Nodes.*.HostName": "derp.map.regions.*.nodes.*.host_name",
    "derp.regions.*.region.Nodes.*.IPv4": "derp.map.regions.*.nodes.*.ipv4",
    "derp.regions.*.region.Nodes.*.STUNPort": "derp.map.regions.*.nodes.*.stun_port",
    "derp.regions.*.region.Nodes.*.STUNOnly": "derp.map.regions.*.nodes.*.stun_only",
    "derp.regions.*.region.Nodes.*.DERPPort": "derp.map.regions.*.nodes.*.derp_port",
    "derp.regions.*.region.Nodes.*.InsecureForTests": "derp.map.regions.*.nodes.*.insecure",
    "derp.regions.*.region.Nodes.*.ForceHTTP": "derp.map.regions.*.nodes.*.force_http",
    "derp.regions.*.node_reports.*.healthy": "derp.coder.regions.*.nodes.*.healthy",
    "derp.regions.*.node_reports.*.severity": "derp.coder.regions.*.nodes.*.severity",
    "derp.regions.*.node_reports.*.warnings": "derp.coder.regions.*.nodes.*.warnings",
    "derp.regions.*.node_reports.*.node.Name": "derp.coder.regions.*.nodes.*.node",
    "derp.regions.*.node_reports.*.node.RegionID": "derp.coder.regions.*.region_id",
    "derp.regions.*.node_reports.*.node.HostName": "derp.map.regions.*.nodes.*.host_name",
    "derp.regions.*.node_reports.*.node.IPv4": "derp.map.regions.*.nodes.*.ipv4",
    "derp.regions.*.node_reports.*.node.STUNPort": "derp.map.regions.*.nodes.*.stun_port",
    "derp.regions.*.node_reports.*.node.STUNOnly": "derp.map.regions.*.nodes.*.stun_only",
    "derp.regions.*.node_reports.*.node.DERPPort": "derp.map.regions.*.nodes.*.derp_port",
    "derp.regions.*.node_reports.*.node.InsecureForTests": "derp.map.regions.*.nodes.*.insecure",
    "derp.regions.*.node_reports.*.node.ForceHTTP": "derp.map.regions.*.nodes.*.force_http",
    "derp.regions.*.node_reports.*.node_info.TokenBucketBytesPerSecond": (
        "derp.coder.regions.*.nodes.*.token_bucket_bytes_per_second"
    ),
    "derp.regions.*.node_reports.*.node_info.TokenBucketBytesBurst": (
        "derp.coder.regions.*.nodes.*.token_bucket_bytes_burst"
    ),
    "derp.regions.*.node_reports.*.can_exchange_messages": "derp.coder.regions.*.nodes.*.can_exchange_messages",
    "derp.regions.*.node_reports.*.round_trip_ping": "TARGET.facts.round_trip_seconds",
    "derp.regions.*.node_reports.*.round_trip_ping_ms": "TARGET.facts.round_trip_seconds",
    "derp.regions.*.node_reports.*.uses_websocket": "derp.coder.regions.*.nodes.*.uses_websocket",
    # their log says the URL, the status and what was tried: ours are fields
    "derp.regions.*.node_reports.*.client_logs": "TARGET.facts.status",
    "derp.regions.*.node_reports.*.client_errs": "TARGET.facts.failure",
    "derp.regions.*.node_reports.*.stun.Enabled": "derp.coder.regions.*.nodes.*.stun_enabled",
    "derp.regions.*.node_reports.*.stun.CanSTUN": "derp.coder.regions.*.nodes.*.can_stun",
    "derp.regions.*.node_reports.*.stun.Error": "STUN TARGET.facts.failure",
    "derp.netcheck.UDP": "direct_connections.netcheck.udp",
    "derp.netcheck.IPv6": "direct_connections.netcheck.ipv6",
    "derp.netcheck.IPv4": "direct_connections.netcheck.ipv4",
    "derp.netcheck.IPv6CanSend": "direct_connections.netcheck.ipv6_can_send",
    "derp.netcheck.IPv4CanSend": "direct_connections.netcheck.ipv4_can_send",
    "derp.netcheck.OSHasIPv6": "direct_connections.netcheck.os_has_ipv6",
    "derp.netcheck.ICMPv4": "direct_connections.netcheck.icmpv4",
    "derp.netcheck.MappingVariesByDestIP": "direct_connections.netcheck.mapping_varies",
    "derp.netcheck.HairPinning": "direct_connections.netcheck.hair_pinning",
    "derp.netcheck.UPnP": "direct_connections.netcheck.upnp",
    "derp.netcheck.PMP": "direct_connections.netcheck.pmp",
    "derp.netcheck.PCP": "direct_connections.netcheck.pcp",
    "derp.netcheck.PreferredDERP": "direct_connections.netcheck.preferred_region",
    "derp.netcheck.RegionLatency": "direct_connections.netcheck.region_latency_seconds",
    "derp.netcheck.RegionV4Latency": "direct_connections.netcheck.region_ipv4_latency_seconds",
    "derp.netcheck.RegionV6Latency": "direct_connections.netcheck.region_ipv6_latency_seconds",
    "derp.netcheck.GlobalV4": "direct_connections.netcheck.global_ipv4",
    "derp.netcheck.GlobalV6": "direct_connections.netcheck.global_ipv6",
    "derp.netcheck.CaptivePortal": "direct_connections.netcheck.captive_portal",
    # who answered, with which address and when, is what their log is read for
    "derp.netcheck_logs": "direct_connections.netcheck.replies",
    "interfaces.severity": "direct_connections.netcheck.interfaces.severity",
    "interfaces.warnings": "direct_connections.netcheck.interfaces.warnings",
    "interfaces.dismissed": "direct_connections.netcheck.interfaces.dismissed",
    "interfaces.interfaces.*.name": "direct_connections.netcheck.interfaces.interfaces.*.name",
    "interfaces.interfaces.*.mtu": "direct_connections.netcheck.interfaces.interfaces.*.mtu_bytes",
    "interfaces.interfaces.*.addresses": "direct_connections.netcheck.interfaces.interfaces.*.addresses",
}
# Maps by region id, lists of values: one member, whatever they hold.
WHOLE = {"RegionLatency", "RegionV4Latency", "RegionV6Latency"}


def members_of(value: Any, at: str = "") -> set[str]:
    """Paths to everything that is no object and no list of objects."""
    if isinstance(value, dict) and at.rpartition(".")[2] not in WHOLE:
        below = ((("*" if key.isdigit() else key), member) for key, member in value.items())
        return {leaf for key, member in below for leaf in members_of(member, f"{at}.{key}".lstrip("."))}
    if isinstance(value, list) and value and all(isinstance(one, dict) for one in value):
        return {leaf for one in value for leaf in members_of(one, f"{at}.*")}
    return {at}


def find(document: Any, wanted: str) -> list[Any]:
    """Everything at a path; a member that is missing is an error."""
    found = [document]
    for step in wanted.split("."):
        found = [one for value in found for one in value] if step == "*" else [value[step] for value in found]
    return found


def test_every_member_of_a_real_netcheck_has_its_place() -> None:
    """What the real CLI printed, member by member: the list above names each, and ours is there."""
    printed = json.loads(NETCHECK_CAPTURE.read_text(encoding="utf-8"))
    assert set(PARITY) == members_of(printed)
    regions = {key: value["region"] for key, value in printed["derp"]["regions"].items()}
    document = {
        "derp": of_derp(FOUND, parse_derp_map({"Regions": regions})),
        "direct_connections": tell_section(
            Section.DIRECT_CONNECTIONS, [run(Section.DIRECT_CONNECTIONS, "", NETWORK)], None
        ),
        "TARGET": tell_target(run(Section.DERP, "999/999b/derp", RAW)),
        "STUN TARGET": tell_target(run(Section.DERP, "1000/1000stun0/stun", STUN)),
    }
    document = json.loads(json.dumps(document, allow_nan=False))
    for ours in PARITY.values():
        assert find(document, ours)


def test_the_same_network_reads_the_same_in_both() -> None:
    """Of what the real CLI found, ours says the same where it says anything."""
    printed = json.loads(NETCHECK_CAPTURE.read_text(encoding="utf-8"))["derp"]
    told = of_network(NETWORK)
    for theirs, ours in (
        ("UDP", "udp"),
        ("IPv4", "ipv4"),
        ("OSHasIPv6", "os_has_ipv6"),
        ("MappingVariesByDestIP", "mapping_varies"),
        ("PreferredDERP", "preferred_region"),
    ):
        assert printed["netcheck"][theirs] == told[ours]
    coder = of_derp(FOUND)["coder"]
    assert (printed["healthy"], printed["severity"], printed["warnings"]) == (
        coder["healthy"],
        coder["severity"],
        coder["warnings"],
    )
    for one in coder["regions"]:
        theirs = printed["regions"][str(one["region_id"])]
        assert (theirs["healthy"], theirs["severity"]) == (one["healthy"], one["severity"])
        (their_node,), (our_node,) = theirs["node_reports"], one["nodes"]
        for member in ("healthy", "severity", "can_exchange_messages", "uses_websocket"):
            assert their_node[member] == our_node[member]
        assert (their_node["stun"]["Enabled"], their_node["stun"]["CanSTUN"]) == (
            our_node["stun_enabled"],
            our_node["can_stun"],
        )


def test_a_mesh_tells_each_path() -> None:
    """Source, destination, round trip or failure."""
    facts = tell_target(run(Section.DERP, "1/mesh", mesh(path("a", "b"), path("b", "a", failed=True))))["facts"]
    assert [("a", "b", 0.002, None), ("b", "a", None, "timeout")] == [
        (
            one["source"],
            one["destination"],
            one["round_trip_seconds"],
            None if one["failure"] is None else one["failure"]["reason"],
        )
        for one in facts["paths"]
    ]
