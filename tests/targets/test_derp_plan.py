"""What is made of a DERP map: relays, STUN servers and meshes, and what is skipped."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.health.derp import NodeName, Skipped
from exporter.health.model import Section
from exporter.secret import Secret
from exporter.targets.derp_plan import MAX_MESH_NODES, DerpPlan, PlannedRegion, plan_derp
from exporter.targets.model import (
    AccessURL,
    DerpMeshTarget,
    DerpRelayTarget,
    DerpTarget,
    LossMode,
    MeshNode,
    RelayEndpoint,
    Replica,
    SessionToken,
    StunTarget,
)
from exporter.wire.derp_map import MAX_NODES, DerpMap, DerpNode, DerpRegion, parse_derp_map
from exporter.wire.url import Origin, parse_origin

DATA = Path(__file__).parents[1] / "data" / "coder"
TOKEN = Secret("abcdefghij-0123456789012345678901")
CODER = parse_origin("https://coder.example.com")
EU = parse_origin("https://eu.example.com")
TARGET = DerpTarget(
    deployment="prod",
    section=Section.DERP,
    interval_seconds=60.0,
    timeout_seconds=10.0,
    access_url=AccessURL(url=str(CODER)),
    session_token=SessionToken(token=TOKEN),
    ca_file=Path("ca.pem"),
)


def region(*nodes: DerpNode, region_id: int = 1, **more: Any) -> DerpRegion:
    settings = {"name": f"Region {region_id}", "code": f"r{region_id}"} | more
    return DerpRegion(
        region_id=region_id, nodes=tuple(replace(node, region_id=region_id) for node in nodes), **settings
    )


def node(name: str = "1a", host: str = "coder.example.com", **more: Any) -> DerpNode:
    return DerpNode(**({"name": name, "region_id": 1, "host_name": host, "stun_port": -1} | more))


def plan(
    *regions: DerpRegion,
    target: DerpTarget = TARGET,
    access_origin: Origin | None = CODER,
    proxies: Mapping[str, Origin] | None = None,
    before: DerpPlan | None = None,
    force_websockets: bool | None = None,
) -> DerpPlan:
    return plan_derp(
        DerpMap(regions=regions),
        target,
        access_origin=access_origin,
        proxies=proxies or {},
        before=before,
        force_websockets=force_websockets,
    )


def origins(planned: DerpPlan) -> list[str]:
    return [str(relay.endpoint.origin) for relay in planned.relays]


def names(planned: DerpPlan) -> list[str]:
    return [relay.name.target for relay in planned.relays]


# ---- relays


def test_a_relay_has_all_that_its_probe_needs() -> None:
    """The whole target of one relay, as the map and the configuration say."""
    loss = LossMode(packets_per_second=2.0, window_seconds=10.0)
    listed = node(derp_port=8443, cert_name="relay.example.com", insecure=True)
    planned = plan(region(listed), target=replace(TARGET, loss=loss))
    assert (
        DerpRelayTarget(
            deployment="prod",
            section=Section.DERP,
            interval_seconds=60.0,
            timeout_seconds=10.0,
            name=NodeName(region_id=1, region_name="Region 1", node="1a"),
            endpoint=RelayEndpoint(
                origin=Origin(scheme="https", host="coder.example.com", port=8443),
                certificate_name="relay.example.com",
                insecure=True,
            ),
            ca_file=Path("ca.pem"),
            loss=loss,
        ),
    ) == planned.relays
    assert (PlannedRegion(region_id=1, name="Region 1", code="r1", embedded=False, node_count=1),) == planned.regions
    assert ((), (), ()) == (planned.stun, planned.meshes, planned.skipped)


def test_the_map_of_a_real_deployment() -> None:
    """Embedded relay, two proxies and a STUN server of a recorded map: all are probed, none is skipped."""
    planned = plan_derp(
        parse_derp_map((DATA / "proxies-derp-map-socket.json").read_bytes()),
        TARGET,
        access_origin=CODER,
        proxies={"eu": parse_origin("http://127.0.0.1:42299"), "us": parse_origin("http://127.0.0.1:40631")},
        before=None,
        force_websockets=False,
    )
    assert ["999/999b", "10001/10001a", "10002/10002a"] == names(planned)
    assert ["https://coder.example.com", "http://127.0.0.1:42299", "http://127.0.0.1:40631"] == origins(planned)
    assert [("127.0.0.1", 41380)] == [(server.host, server.port) for server in planned.stun]
    assert [999, 1000, 10001, 10002] == [each.region_id for each in planned.regions]
    assert ((), ()) == (planned.skipped, planned.meshes)


@pytest.mark.parametrize(
    ("settings", "origin"),
    [
        ({}, "https://coder.example.com"),
        ({"derp_port": 8443}, "https://coder.example.com:8443"),
        ({"force_http": True}, "http://coder.example.com"),
        ({"force_http": True, "derp_port": 443}, "http://coder.example.com:443"),
        ({"force_http": True, "derp_port": 3000}, "http://coder.example.com:3000"),
    ],
)
def test_where_a_relay_is(settings: dict[str, Any], origin: str) -> None:
    """Scheme by ForceHTTP, port by DERPPort or the scheme's own."""
    assert [origin] == origins(plan(region(node(**settings))))


@pytest.mark.parametrize(
    ("access", "relay"),
    [
        ("https://coder.example.com", "https://coder.example.com"),
        ("https://coder.example.com:8443", "https://coder.example.com:8443"),
        ("http://coder.example.com", "http://coder.example.com"),
        ("http://[2001:db8::1]:3000", "http://[2001:db8::1]:3000"),
    ],
)
def test_the_embedded_relay_is_where_we_reach_coder(access: str, relay: str) -> None:
    """Host, port and TLS of the access URL replace the map's, as Coder's clients do."""
    listed = node(host="inside.cluster.local", derp_port=7180, force_http=access.startswith("https"))
    planned = plan(region(listed, embedded=True), access_origin=parse_origin(access))
    assert [relay] == origins(planned)
    assert (True, ()) == (planned.regions[0].embedded, planned.skipped)


def test_only_relays_of_the_embedded_region_move() -> None:
    """A STUN-only node stays where it is, and nothing moves while nobody knows where Coder is."""
    stun = node("1s", "stun.example.com", stun_only=True, stun_port=0)
    embedded = region(node(host="inside.cluster.local"), stun, embedded=True)
    assert ["stun.example.com"] == [server.host for server in plan(embedded).stun]
    lost = plan(embedded, access_origin=None)
    assert ((), ["1a"]) == (lost.relays, [skipped.node for skipped in lost.skipped])


@pytest.mark.parametrize(
    ("wanted", "told", "expected"),
    [
        (None, None, False),
        (None, False, False),
        (None, True, True),
        (True, False, True),
        (False, True, False),
        (True, None, True),
    ],
)
def test_whether_websocket_is_expected(wanted: bool | None, told: bool | None, expected: bool) -> None:
    """The configuration's word, else the server's, else no."""
    planned = plan(region(node()), target=replace(TARGET, expect_websocket=wanted), force_websockets=told)
    assert [expected] == [relay.expect_websocket for relay in planned.relays]


# ---- which hosts


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        ("coder.example.com", True),
        ("CODER.example.com.", True),
        ("eu.example.com", True),
        ("relay.partner.net", True),
        ("10.0.0.7", True),
        ("2001:db8::7", True),
        ("2001:0DB8:0:0::7", True),
        ("::ffff:10.0.0.7", True),
        ("derp1.tailscale.com", False),
        ("sub.coder.example.com", False),
        ("example.com", False),
        ("coder.example.com.evil.net", False),
        ("10.0.0.8", False),
        ("169.254.169.254", False),
        ("metadata.google.internal", False),
        ("fd00:ec2::254", False),
        ("localhost", False),
        ("127.0.0.1", False),
        ("0xa9fea9fe", False),
    ],
)
def test_relays_of_strangers_are_not_probed(host: str, allowed: bool) -> None:
    """Only hosts of the deployment, and those that were allowed, whatever the spelling."""
    target = replace(TARGET, allow_hosts=("Relay.Partner.NET.", "10.0.0.7", "[2001:db8::7]"))
    planned = plan(region(node(host=host)), target=target, proxies={"eu": EU})
    skipped = () if allowed else (Skipped(region_id=1, node="1a", host=host, reason="host_not_allowed"),)
    assert (int(allowed), skipped) == (len(planned.relays), planned.skipped)
    assert 1 == planned.regions[0].node_count


def test_an_address_of_the_map_leads_nowhere() -> None:
    """Under an allowed name the map's own addresses are not used: the name is looked up."""
    planned = plan(region(node(ipv4="169.254.169.254", ipv6="fd00:ec2::254")))
    assert (None, "coder.example.com") == (
        planned.relays[0].endpoint.address,
        planned.relays[0].endpoint.origin.host,
    )


@pytest.mark.parametrize(
    ("settings", "host"),
    [
        ({"ipv4": "10.0.0.7"}, "10.0.0.7"),
        ({"ipv4": "10.0.0.7", "ipv6": "2001:db8::7"}, "10.0.0.7"),
        ({"ipv4": None, "ipv6": "2001:db8::7"}, "2001:db8::7"),
    ],
)
def test_a_relay_without_a_name_is_known_by_its_address(settings: dict[str, Any], host: str) -> None:
    """Such an address needs to be allowed as any host."""
    nameless = region(node(host="", **settings))
    assert [("host_not_allowed", host)] == [(each.reason, each.host) for each in plan(nameless).skipped]
    allowed = plan(nameless, target=replace(TARGET, allow_hosts=(host,)))
    assert [host] == [relay.endpoint.origin.host for relay in allowed.relays]


def test_a_relay_without_name_and_address_is_invalid() -> None:
    """There is nothing to connect to; its STUN server may be elsewhere all the same."""
    planned = plan(region(node(host="", ipv4=None, ipv6=None, stun_port=0, stun_test_ip="192.0.2.7")))
    assert (Skipped(region_id=1, node="1a", host="", reason="invalid"),) == planned.skipped
    assert [("192.0.2.7", "192.0.2.7", "")] == [(each.host, each.ipv4, each.ipv6) for each in planned.stun]


def test_a_hostile_map_gets_nothing() -> None:
    """Third parties, metadata services and this host itself: nothing of it is probed but STUN, and no
    target holds the token."""
    hosts = ["169.254.169.254", "localhost", "bank.example.org", "coder.example.com@evil.net", "metadata"]
    nodes = [node(f"1{index}", host, stun_port=0, insecure=True) for index, host in enumerate(hosts)]
    planned = plan(region(*nodes), region(node("2a", "127.0.0.1", force_http=True, derp_port=22), region_id=2))
    assert ((), ()) == (planned.relays, planned.meshes)
    assert [*hosts, "127.0.0.1"] == [skipped.host for skipped in planned.skipped]
    assert {"host_not_allowed"} == {skipped.reason for skipped in planned.skipped}
    assert hosts == [server.host for server in planned.stun]
    assert not [each for each in planned.stun if hasattr(each, "session_token")]


def test_no_target_of_a_plan_can_hold_the_token() -> None:
    """Relays, STUN servers and meshes have no place for it."""
    planned = plan(region(node(stun_port=0), node("1b", stun_port=0)))
    everything = (*planned.relays, *planned.stun, *planned.meshes)
    assert {DerpRelayTarget, StunTarget, DerpMeshTarget} == {type(each) for each in everything}
    assert not [each for each in everything if hasattr(each, "session_token")]


def test_more_nodes_than_a_map_may_have_are_left_out() -> None:
    """The cap counts what is probed; what is beyond it is told."""
    strangers = [node(f"s{index}", "derp.example.net") for index in range(5)]
    ours = [node(f"o{index}") for index in range(MAX_NODES + 2)]
    planned = plan(region(*strangers, *ours), target=replace(TARGET, mesh=False))
    assert MAX_NODES == len(planned.relays)
    assert [("too_many", f"o{MAX_NODES}"), ("too_many", f"o{MAX_NODES + 1}")] == [
        (each.reason, each.node) for each in planned.skipped[5:]
    ]


# ---- STUN


@pytest.mark.parametrize(
    ("settings", "host", "port", "ipv4", "ipv6"),
    [
        ({"stun_port": 0}, "stun.example.net", 3478, None, None),
        ({"stun_port": 19302}, "stun.example.net", 19302, None, None),
        ({"stun_port": 0, "ipv4": "192.0.2.7"}, "stun.example.net", 3478, "192.0.2.7", None),
        ({"stun_port": 0, "ipv4": "192.0.2.7", "ipv6": None}, "stun.example.net", 3478, "192.0.2.7", ""),
        ({"stun_port": 0, "ipv4": None}, "stun.example.net", 3478, "", None),
        ({"stun_port": 0, "ipv4": None, "ipv6": None}, "stun.example.net", 3478, "", ""),
        ({"stun_port": 0, "host_name": "", "ipv6": "2001:db8::7"}, "2001:db8::7", 3478, "", "2001:db8::7"),
        ({"stun_port": 0, "stun_test_ip": "192.0.2.9"}, "stun.example.net", 3478, "192.0.2.9", ""),
        ({"stun_port": 0, "stun_test_ip": "2001:db8::9"}, "stun.example.net", 3478, "", "2001:db8::9"),
        (
            {"stun_port": 0, "stun_test_ip": "192.0.2.9", "ipv4": "192.0.2.7", "ipv6": "2001:db8::7"},
            "stun.example.net",
            3478,
            "192.0.2.9",
            "",
        ),
    ],
)
def test_where_a_stun_server_is_asked(
    settings: dict[str, Any], host: str, port: int, ipv4: str | None, ipv6: str | None
) -> None:
    """Its test address, else the map's address, else a lookup; a family that is off stays off."""
    planned = plan(region(node("1s", **{"host_name": "stun.example.net", "stun_only": True} | settings), code="x"))
    assert (
        StunTarget(
            deployment="prod",
            section=Section.DERP,
            interval_seconds=60.0,
            timeout_seconds=5.0,
            name=NodeName(region_id=1, region_name="Region 1", node="1s"),
            host=host,
            port=port,
            ipv4=ipv4,
            ipv6=ipv6,
        ),
    ) == planned.stun
    assert ((), ()) == (planned.relays, planned.skipped)


def test_a_short_timeout_holds_for_stun_too() -> None:
    """Five seconds are the most, not the least."""
    stun = region(node(stun_port=0))
    assert [5.0, 2.0] == [
        plan(stun, target=replace(TARGET, timeout_seconds=seconds)).stun[0].timeout_seconds for seconds in (5.5, 2.0)
    ]


def test_a_stranger_is_asked_by_stun_only() -> None:
    """A node that is both is skipped as a relay and still has its STUN server."""
    planned = plan(region(node(host="derp1.tailscale.com", stun_port=0)))
    assert ((), ["1a"], ["1a"]) == (
        planned.relays,
        [server.name.node for server in planned.stun],
        [skipped.node for skipped in planned.skipped],
    )


# ---- meshes


@pytest.mark.parametrize(
    ("nodes", "mesh", "meshed"), [(1, True, 0), (2, True, 2), (2, False, 0), (10, True, 10), (12, True, 10)]
)
def test_relays_of_a_region_are_a_mesh(nodes: int, mesh: bool, meshed: int) -> None:
    """Two or more relays, the first ten of them, unless it is switched off."""
    relays = [node(f"1{index}") for index in range(nodes)]
    planned = plan(region(*relays), target=replace(TARGET, mesh=mesh))
    found = [each.name for mesh_target in planned.meshes for each in mesh_target.nodes]
    assert [f"1{index}" for index in range(meshed)] == found
    assert nodes == len(planned.relays)


def test_a_mesh_has_all_that_its_probe_needs() -> None:
    """The whole target; strangers and STUN-only nodes are no part of it."""
    planned = plan(
        region(
            node("1a"),
            node("1s", stun_only=True, stun_port=0),
            node("1x", "derp.example.net"),
            node("1b", derp_port=8443, cert_name="b.example.com"),
        )
    )
    assert (
        DerpMeshTarget(
            deployment="prod",
            section=Section.DERP,
            interval_seconds=60.0,
            timeout_seconds=10.0,
            region_id=1,
            region_name="Region 1",
            nodes=(
                MeshNode(name="1a", endpoint=planned.relays[0].endpoint),
                MeshNode(name="1b", endpoint=planned.relays[1].endpoint),
            ),
            ca_file=Path("ca.pem"),
        ),
    ) == planned.meshes


@pytest.mark.parametrize(
    ("access", "url", "endpoint"),
    [
        (
            "https://coder.example.com",
            "https://10.0.0.1:8443",
            RelayEndpoint(origin=parse_origin("https://coder.example.com:8443"), address="10.0.0.1"),
        ),
        (
            "https://coder.example.com",
            "https://[2001:db8::1]",
            RelayEndpoint(origin=parse_origin("https://coder.example.com"), address="2001:db8::1"),
        ),
        (
            "https://coder.example.com",
            "https://coder-1.local",
            RelayEndpoint(origin=parse_origin("https://coder.example.com"), address="coder-1.local"),
        ),
        (
            "https://coder.example.com",
            "https://coder.example.com:9443",
            RelayEndpoint(origin=parse_origin("https://coder.example.com:9443")),
        ),
        (
            "https://coder.example.com",
            "http://10.0.0.1:3000",
            RelayEndpoint(origin=parse_origin("http://10.0.0.1:3000")),
        ),
        (
            "http://coder.example.com",
            "https://10.0.0.1:8443",
            RelayEndpoint(origin=parse_origin("https://10.0.0.1:8443")),
        ),
        (None, "https://coder-1.local", RelayEndpoint(origin=parse_origin("https://coder-1.local"))),
    ],
)
def test_replicas_are_verified_by_the_access_url(access: str | None, url: str, endpoint: RelayEndpoint) -> None:
    """Over TLS a replica shows the certificate of the access URL; without it there is none to verify."""
    target = replace(TARGET, replicas=(Replica(name="a", url=url), Replica(name="b", url="http://10.0.0.2:3000")))
    origin = None if access is None else parse_origin(access)
    embedded = region(node(host="coder.example.com"), embedded=True, region_id=999)
    allowed = replace(target, allow_hosts=("coder.example.com",))
    planned = plan(embedded, target=allowed, access_origin=origin)
    assert [MeshNode(name="a", endpoint=endpoint)] == [each.nodes[0] for each in planned.meshes]
    assert ["a", "b"] == [each.name for each in planned.meshes[0].nodes]
    assert (999, "Region 999") == (planned.meshes[0].region_id, planned.meshes[0].region_name)


def test_replicas_take_the_place_of_the_embedded_relay_only() -> None:
    """Other regions have their own mesh; one replica is none; ten are the most; one region has them,
    though a map may call many embedded."""
    replicas = (
        Replica(name="unusable", url="10.0.0.0:3000"),
        *(Replica(name=f"r{index}", url=f"http://10.0.0.{index}:3000") for index in range(1, 13)),
    )
    embedded = region(node("999b"), region_id=999, embedded=True)
    another = region(node("998b"), region_id=998, embedded=True)
    other = region(node("1a"), node("1b"))

    def meshed(count: int, **more: Any) -> dict[int, int]:
        target = replace(TARGET, replicas=replicas[: count + 1], **more)
        return {each.region_id: len(each.nodes) for each in plan(other, another, embedded, target=target).meshes}

    assert {1: 2} == meshed(1)
    assert {1: 2, 998: 2} == meshed(2)
    assert {1: 2, 998: MAX_MESH_NODES} == meshed(12)
    assert {} == meshed(12, mesh=False)


def test_replicas_without_an_embedded_relay_are_no_mesh() -> None:
    """Where coderd's own relay is switched off, replicas have none."""
    replicas = (Replica(name="a", url="http://10.0.0.1"), Replica(name="b", url="http://10.0.0.2"))
    stun = node("1s", "stun.example.net", stun_only=True, stun_port=0)
    assert () == plan(region(stun, embedded=True), target=replace(TARGET, replicas=replicas)).meshes
    assert () == plan(region(embedded=True), target=replace(TARGET, replicas=replicas)).meshes


# ---- maps that change

EU_REGION = region(node("2a", "eu.example.com"), region_id=2, name="eu", code="coder_eu")
CODER_REGION = region(node(), embedded=True)


def test_what_did_not_change_is_equal() -> None:
    """A new map leaves the targets of other nodes as they were, so they keep their rhythm."""
    stun = region(node("3s", "stun.example.net", stun_only=True, stun_port=0), region_id=3)
    mesh = region(node("4a"), node("4b"), region_id=4)
    before = plan(CODER_REGION, stun, mesh)
    after = plan(CODER_REGION, EU_REGION, stun, mesh, proxies={"eu": EU}, before=before)
    assert set(before.relays) < set(after.relays)
    assert (before.stun, before.meshes) == (after.stun, after.meshes)
    assert after == plan(CODER_REGION, EU_REGION, stun, mesh, proxies={"eu": EU}, before=after)


def test_a_proxys_relay_stays_when_it_leaves_the_map() -> None:
    """Coder drops the relay of a proxy that is unwell: it is kept, with its region, while the proxy exists."""
    proxies = {"eu": EU}
    before = plan(CODER_REGION, EU_REGION, proxies=proxies)
    gone = plan(CODER_REGION, proxies=proxies, before=before, force_websockets=True)
    assert {"1/1a": True, "2/2a": False} == {relay.name.target: relay.listed for relay in gone.relays}
    assert replace(before.relays[1], listed=False, expect_websocket=True) == gone.relays[1]
    assert before.regions == gone.regions
    still = plan(CODER_REGION, proxies=proxies, before=gone, force_websockets=True)
    assert gone == still
    back = plan(CODER_REGION, EU_REGION, proxies=proxies, before=still)
    assert before == back


@pytest.mark.parametrize(
    "proxies",
    [{}, {"us": parse_origin("https://us.example.com")}, {"eu": parse_origin("https://eu2.example.com")}],
)
def test_a_relay_goes_with_its_proxy(proxies: dict[str, Origin]) -> None:
    """Deleted, stopped, moved to another host: nobody expects its relay any more."""
    before = plan(CODER_REGION, EU_REGION, proxies={"eu": EU})
    gone = plan(CODER_REGION, proxies=proxies, before=before)
    assert (["1/1a"], [1]) == (names(gone), [each.region_id for each in gone.regions])


def test_other_relays_go_when_they_leave_the_map() -> None:
    """What is no proxy's goes at once: the embedded relay, an allowed host, a STUN server."""
    allowed = region(node("3a", "relay.partner.net", stun_port=0), region_id=3)
    target = replace(TARGET, allow_hosts=("relay.partner.net",))
    before = plan(CODER_REGION, allowed, target=target, proxies={"eu": EU})
    assert DerpPlan() == plan(target=target, proxies={"eu": EU}, before=before)


def test_a_proxy_whose_relay_has_a_new_number_is_not_probed_twice() -> None:
    """Regions of proxies are numbered anew when others come: the old number is not kept."""
    before = plan(EU_REGION, proxies={"eu": EU})
    moved = region(node("20002a", "eu.example.com"), region_id=20002)
    after = plan(moved, proxies={"eu": EU}, before=before)
    assert (["20002/20002a"], [20002]) == (names(after), [each.region_id for each in after.regions])


def test_a_name_that_was_given_away_is_not_kept() -> None:
    """Another relay under the number of the one that left takes its place, be it a stranger."""
    proxies = {"eu": EU, "us": parse_origin("https://us.example.com")}
    before = plan(EU_REGION, proxies=proxies)
    assert () == plan(region(node("2a", "eu.example.net"), region_id=2), proxies=proxies, before=before).relays
    after = plan(region(node("2a", "us.example.com"), region_id=2), proxies=proxies, before=before)
    assert [("2/2a", "us.example.com", True)] == [
        (relay.name.target, relay.endpoint.origin.host, relay.listed) for relay in after.relays
    ]


def test_proxies_on_one_host_are_told_apart_by_port() -> None:
    """Where host names are shared, with each other or with Coder, the port says whose relay it is."""
    proxies = {
        "eu": parse_origin("https://coder.example.com:1001"),
        "us": parse_origin("https://coder.example.com:1002"),
    }
    eu = region(node("2a", derp_port=1001), region_id=2)
    us = region(node("3a", derp_port=1002), region_id=3)
    other = region(node("4a", derp_port=1003), region_id=4)
    before = plan(CODER_REGION, eu, us, other, proxies=proxies)
    after = plan(us, proxies=proxies, before=before)
    assert {"3/3a": True, "2/2a": False} == {relay.name.target: relay.listed for relay in after.relays}


def test_a_relay_may_leave_a_region_that_stays() -> None:
    """It is kept in its region, under the name that the region has now, and is no part of a mesh."""
    proxies = {"eu": EU, "us": parse_origin("https://us.example.com")}
    us = node("2b", "us.example.com")
    before = plan(region(node("2a", "eu.example.com"), us, region_id=2), proxies=proxies)
    after = plan(region(us, region_id=2, name="Europe"), proxies=proxies, before=before)
    assert [("2b", True, "Europe"), ("2a", False, "Europe")] == [
        (relay.name.node, relay.listed, relay.name.region_name) for relay in after.relays
    ]
    assert ((1, 0), 1) == ((len(before.meshes), len(after.meshes)), after.regions[0].node_count)


def test_the_cap_holds_with_kept_relays_too() -> None:
    """A map that is full leaves no room for relays that left it."""
    before = plan(EU_REGION, proxies={"eu": EU})
    full = region(*(node(f"1{index}") for index in range(MAX_NODES)), region_id=1)
    after = plan(full, proxies={"eu": EU}, before=before)
    assert MAX_NODES == len(after.relays)
    assert (Skipped(region_id=2, node="2a", host="eu.example.com", reason="too_many"),) == after.skipped
    assert [1] == [each.region_id for each in after.regions]


HOSTS = st.sampled_from(["coder.example.com", "eu.example.com", "evil.example.net", "10.0.0.1", ""])
NODES = st.builds(
    DerpNode,
    name=st.sampled_from(["a", "b", "c", "d"]),
    region_id=st.just(1),
    host_name=HOSTS,
    ipv4=st.sampled_from(["", None, "192.0.2.1"]),
    ipv6=st.sampled_from(["", None, "2001:db8::1"]),
    stun_port=st.sampled_from([-1, 0, 3479]),
    stun_only=st.booleans(),
    derp_port=st.sampled_from([0, 8443]),
)
REGIONS = st.lists(
    st.builds(
        DerpRegion,
        region_id=st.integers(1, 3),
        name=st.just("r"),
        embedded=st.booleans(),
        nodes=st.lists(NODES, max_size=4, unique_by=lambda each: each.name).map(tuple),
    ),
    max_size=4,
    unique_by=lambda each: each.region_id,
).map(lambda regions: tuple(sorted(regions, key=lambda each: each.region_id)))


def test_a_doubled_name_counts_once() -> None:
    """Names are unique in maps that were read; of others the first counts."""
    planned = plan(region(node("1a", "evil.example.net"), node("1a"), node("1b"), node("1b", derp_port=8443)))
    assert (["1/1b"], ["1a"], 4) == (
        names(planned),
        [each.node for each in planned.skipped],
        planned.regions[0].node_count,
    )


@given(maps=st.lists(REGIONS, min_size=2, max_size=4), with_proxy=st.lists(st.booleans(), min_size=4, max_size=4))
def test_any_sequence_of_maps_gives_sound_plans(maps: list[tuple[DerpRegion, ...]], with_proxy: list[bool]) -> None:
    """Names are unique, only allowed hosts are relays, each target has its region, and planning the
    same again changes nothing."""
    before = None
    for regions, exists in zip(maps, with_proxy, strict=False):
        proxies = {"eu": EU} if exists else {}
        planned = plan(*regions, proxies=proxies, before=before)
        everything = [target.schedule_name for target in (*planned.relays, *planned.stun, *planned.meshes)]
        assert len(everything) == len(set(everything))
        assert {relay.endpoint.origin.host for relay in planned.relays} <= {CODER.host, *([EU.host] if exists else [])}
        known = [each.region_id for each in planned.regions]
        assert sorted(set(known)) == known
        assert {target.name.region_id for target in (*planned.relays, *planned.stun)} <= set(known)
        assert not {(each.region_id, each.node) for each in planned.skipped} & {
            (relay.name.region_id, relay.name.node) for relay in planned.relays
        }
        assert planned == plan(*regions, proxies=proxies, before=planned)
        before = planned
