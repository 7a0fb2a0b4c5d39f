"""DERP maps: real ones, odd ones, hostile ones."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from exporter.errors import WireError
from exporter.wire.derp_map import (
    MAX_NODES,
    MAX_PROBLEMS,
    MAX_REGIONS,
    ConnectionInfo,
    DerpMap,
    DerpMapError,
    DerpNode,
    DerpRegion,
    dump_derp_map,
    parse_connection_info,
    parse_derp_map,
)

DATA = Path(__file__).parents[1] / "data" / "coder"

EMBEDDED = DerpRegion(
    region_id=999,
    code="coder",
    name="Coder Embedded Relay",
    embedded=True,
    nodes=(DerpNode(name="999b", region_id=999, host_name="127.0.0.1", stun_port=-1, derp_port=7180, force_http=True),),
)


def recorded(name: str) -> bytes:
    return (DATA / name).read_bytes()


def node_map(**members: object) -> dict[str, Any]:
    """Return a map with one region and one node, whose members are these."""
    return {"Regions": {"1": {"Nodes": [{"Name": "1a", "HostName": "relay.test"} | members]}}}


def read_node(**members: object) -> DerpNode:
    derp_map = parse_derp_map(node_map(**members))
    assert () == derp_map.problems
    return derp_map.regions[0].nodes[0]


def test_the_map_of_a_real_server() -> None:
    """What Coder's socket sends first is one region with its embedded relay."""
    assert DerpMap(regions=(EMBEDDED,)) == parse_derp_map(recorded("derp-map-socket.json"))


def test_the_map_of_a_real_server_with_proxies_and_stun() -> None:
    """Regions come by ascending id, not as text sorts them; a node without a host has only its address."""
    derp_map = parse_derp_map(recorded("proxies-derp-map-socket.json"))
    assert [999, 1000, 10001, 10002] == [region.region_id for region in derp_map.regions]
    assert ["Coder Embedded Relay", "Coder STUN 1000", "eu", "us"] == [region.name for region in derp_map.regions]
    assert () == derp_map.problems
    embedded, stun, europe, _ = (region.nodes[0] for region in derp_map.regions)
    assert ("", "127.0.0.1", None, True) == (embedded.host_name, embedded.ipv4, embedded.ipv6, embedded.insecure)
    assert (False, True, 41380) == (stun.relay, stun.stun, stun.stun_port_number)
    assert (True, False, None, 42299) == (europe.relay, europe.stun, europe.stun_port_number, europe.relay_port)


def test_connection_info_of_a_real_server() -> None:
    """The answer for clients has the map and what the deployment wants of them."""
    assert ConnectionInfo(
        derp_map=DerpMap(regions=(EMBEDDED,)), force_websockets=False, direct_disabled=False, hostname_suffix="coder"
    ) == parse_connection_info(recorded("connection-member.json"))


def test_connection_info_that_says_little() -> None:
    """What is missing, null or of another kind is not known."""
    wanted = ConnectionInfo(derp_map=DerpMap())
    assert wanted == parse_connection_info('{"derp_map": {"Regions": null}}')
    assert wanted == parse_connection_info(
        {
            "derp_map": {"Regions": {}},
            "derp_force_websockets": "yes",
            "disable_direct_connections": None,
            "hostname_suffix": 1,
        }
    )


@pytest.mark.parametrize(
    ("data", "words"),
    [("{}", "derp_map is missing"), ('{"derp_map": []}', "derp_map is a list"), ('{"derp_map": {}}', "Regions is")],
)
def test_connection_info_without_a_map(data: str, words: str) -> None:
    """Without a map it is of no use."""
    with pytest.raises(DerpMapError, match=words):
        parse_connection_info(data)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "it is not JSON"),
        (b"<html>", "it is not JSON: it begins with '<html>'"),
        (b'{"Regions": NaN}', "it is not JSON"),
        (b'{"Regions": {}}\xff', "it is not UTF-8"),
        ('{"Regions": {}}'.encode("utf-16"), "it is not UTF-8"),
        (b"null", "it is JSON, but missing instead of an object"),
        (b"[]", "it is JSON, but a list instead of an object"),
        (b"7", "it is JSON, but a number instead of an object"),
        (b"{}", "Regions is missing instead of an object"),
        (b'{"message": "no"}', "Regions is missing instead of an object"),
        (b'{"Regions": []}', "Regions is a list instead of an object"),
        (b'{"Regions": "x"}', "Regions is a text instead of an object"),
        (b'{"Regions": true}', "Regions is true or false instead of an object"),
        (b'{"Regions": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested too deeply"),
    ],
)
def test_what_is_no_map_is_refused_in_words(data: bytes, words: str) -> None:
    """Only what cannot be a map at all is an error, with a sentence."""
    with pytest.raises(DerpMapError) as caught:
        parse_derp_map(data)
    assert words in str(caught.value)


def test_null_and_missing_members_are_zero() -> None:
    """A map, a region and a node say no more than they must."""
    assert DerpMap() == parse_derp_map('{"Regions": null, "HomeParams": null}')
    assert (DerpRegion(region_id=7, name="region 7"),) == parse_derp_map({"Regions": {"7": {"Nodes": None}}}).regions
    nothing = dict.fromkeys(("RegionID", "CertName", "IPv4", "IPv6", "STUNPort", "STUNOnly", "DERPPort", "CanPort80"))
    assert DerpNode(name="1a", region_id=1, host_name="relay.test") == read_node(**nothing, FromTheFuture={"a": 1})


@pytest.mark.parametrize(
    ("region", "name"),
    [
        ({"RegionName": "Frankfurt", "RegionCode": "fra"}, "Frankfurt"),
        ({"RegionName": " ", "RegionCode": "fra"}, "fra"),
        ({"RegionCode": ""}, "region 1"),
        ({"RegionName": "a\nb\ud800"}, "a?b?"),
        ({"RegionName": "n" * 300}, "n" * 253),
    ],
)
def test_a_region_has_a_name_that_labels_can_bear(region: dict[str, str], name: str) -> None:
    """The name is never empty, not too long, and without what cannot be shown."""
    assert name == parse_derp_map({"Regions": {"1": region}}).regions[0].name
    name.encode()


@pytest.mark.parametrize("member", ["Avoid", "NoMeasureNoHome"])
def test_a_region_to_avoid(member: str) -> None:
    """The old and the new member both keep a region from being a home."""
    assert parse_derp_map({"Regions": {"1": {member: True}}}).regions[0].avoid


@pytest.mark.parametrize(
    ("members", "relay_port", "stun_port"),
    [
        ({}, 443, 3478),
        ({"ForceHTTP": True}, 80, 3478),
        ({"ForceHTTP": True, "DERPPort": 65535, "STUNPort": 1}, 65535, 1),
        ({"STUNPort": -1}, 443, None),
    ],
)
def test_ports_have_defaults(members: dict[str, object], relay_port: int, stun_port: int | None) -> None:
    """Zero is the default of the protocol, -1 switches STUN off."""
    node = read_node(**members)
    assert (relay_port, stun_port) == (node.relay_port, node.stun_port_number)
    assert (stun_port is not None) == node.stun


@pytest.mark.parametrize(
    ("written", "ipv4", "ipv6"),
    [
        ("", "", ""),
        ("none", None, None),
        ("192.0.2.1", "192.0.2.1", None),
        ("2001:DB8::0:1", None, "2001:db8::1"),
        ("192.0.2.01", None, None),
        ("192.0.2.1:80", None, None),
        ("fe80::1%eth0", None, None),
        ("::ffff:192.0.2.1", None, None),
        ("::FFFF:c000:201", None, None),
    ],
)
def test_a_literal_address_counts_for_its_family_only(written: str, ipv4: str | None, ipv6: str | None) -> None:
    """An address, the wish to resolve, and a family that is switched off are three things."""
    node = read_node(IPv4=written, IPv6=written)
    assert (ipv4, ipv6) == (node.ipv4, node.ipv6)


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("Relay.Test.", "relay.test."),
        ("192.0.2.1", "192.0.2.1"),
        ("2001:DB8::1", "2001:db8::1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("0:0:0:0:0:FFFF:c000:0201", "192.0.2.1"),
        ("bücher.example", "xn--bcher-kva.example"),
    ],
)
def test_a_host_is_read_as_it_goes_on_the_wire(written: str, read: str) -> None:
    """A host is a name in ASCII and lower case, or an address."""
    assert read == read_node(HostName=written).host_name


def test_where_a_stun_server_is_instead() -> None:
    """An IPv4-mapped address is the IPv4 address that the kernel would use."""
    assert "2001:db8::1" == read_node(STUNTestIP="2001:DB8::1").stun_test_ip
    assert "192.0.2.1" == read_node(STUNTestIP="::ffff:192.0.2.1").stun_test_ip


def test_the_certificate_of_a_node() -> None:
    """A name, a pin, and the wish not to verify are kept as they are."""
    pin = "sha256-raw:" + "ab" * 32
    assert "front.test" == read_node(CertName="front.test").cert_name
    assert pin == read_node(CertName=pin, InsecureForTests=False).cert_name
    assert read_node(InsecureForTests=True).insecure


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ({"Name": None}, "it has no name"),
        ({"Name": "a" * 254}, "cannot be a name"),
        ({"Name": "a\nb"}, "'a?b' cannot be a name"),
        ({"Name": "a/b"}, "'a/b' cannot be a name"),
        ({"Name": 5}, "Name is a number instead of a text"),
        ({"HostName": ""}, "'1a' has neither a host nor an address"),
        ({"HostName": "", "IPv4": "none"}, "has neither a host nor an address"),
        ({"HostName": "a.test/derp"}, "HostName 'a.test/derp' is neither a name nor an address"),
        ({"HostName": "a.test:443"}, "is neither a name nor an address"),
        ({"HostName": "[::1]"}, "is neither a name nor an address"),
        ({"HostName": "fe80::1%eth0"}, "is neither a name nor an address"),
        ({"HostName": "user@a.test"}, "is neither a name nor an address"),
        ({"HostName": "a.test\r\nX: y"}, "HostName 'a.test??X: y' is neither"),
        ({"HostName": "h" * 254}, "...' is neither a name nor an address"),
        ({"CertName": "a\x00"}, "CertName 'a?' cannot be a name"),
        ({"CertName": "c" * 254}, "cannot be a name"),
        ({"DERPPort": 65536}, "DERPPort '65536' is no port"),
        ({"DERPPort": -1}, "DERPPort '-1' is no port"),
        ({"STUNPort": -2}, "STUNPort '-2' is no port"),
        ({"STUNPort": 10**4000}, "STUNPort far too great is no port"),
        ({"STUNPort": 3478.0}, "STUNPort is a number instead of a whole number"),
        ({"STUNPort": True}, "STUNPort is true or false instead of a whole number"),
        ({"STUNOnly": 1}, "STUNOnly is a number instead of true or false"),
        ({"STUNTestIP": "relay.test"}, "STUNTestIP 'relay.test' is no address"),
        ({"STUNTestIP": "fe80::1%eth0"}, "STUNTestIP 'fe80::1%eth0' is no address"),
        ({"HostName": "", "IPv6": "::ffff:192.0.2.1"}, "has neither a host nor an address"),
    ],
)
def test_a_bad_node_is_left_out_with_a_sentence(members: dict[str, object], words: str) -> None:
    """What is wrong with one node costs that node only."""
    derp_map = node_map(**members)
    derp_map["Regions"]["1"]["Nodes"].append({"Name": "1b", "IPv4": "192.0.2.1"})
    read = parse_derp_map(json.dumps(derp_map))
    assert ["1b"] == [node.name for node in read.regions[0].nodes]
    assert 1 == read.dropped_nodes
    assert 1 == len(read.problems)
    assert read.problems[0].startswith("region 1: node 1: ")
    assert words in read.problems[0]


@pytest.mark.parametrize(
    ("key", "region", "words"),
    [
        ("0", {}, "region '0': the key is no number above zero"),
        ("-1", {}, "region '-1': the key is no number above zero"),
        ("eu", {}, "region 'eu': the key is no number above zero"),
        ("\u0667", {}, "region '\u0667': the key is no number above zero"),
        ("9" * 5000, {}, "the key is no number above zero"),
        ("007", {}, "region '007': the map has two regions with this id"),
        ("8", None, "region 8: it is missing instead of an object"),
        ("8", {"Nodes": {}}, "region 8: Nodes is an object instead of a list"),
        ("8", {"RegionID": "8"}, "region 8: RegionID is a text instead of a whole number"),
        ("8", {"RegionName": 8}, "region 8: RegionName is a number instead of a text"),
        ("8", {"EmbeddedRelay": "no"}, "region 8: EmbeddedRelay is a text instead of true or false"),
    ],
)
def test_a_bad_region_is_left_out_with_a_sentence(key: str, region: Any, words: str) -> None:
    """What is wrong with one region costs that region only, and its nodes are counted."""
    if isinstance(region, dict) and "Nodes" not in region:
        region["Nodes"] = [{}, {}]
    read = parse_derp_map(json.dumps({"Regions": {"7": {"RegionCode": "good"}, key: region}}))
    assert [7] == [good.region_id for good in read.regions]
    assert 1 == len(read.problems)
    assert words in read.problems[0]
    assert read.dropped_nodes == (2 if isinstance(region, dict) and isinstance(region["Nodes"], list) else 0)


def test_a_null_node_is_left_out() -> None:
    """A list may hold what is no node."""
    read = parse_derp_map({"Regions": {"1": {"Nodes": [None, "x"]}}})
    assert ((), 2) == (read.regions[0].nodes, read.dropped_nodes)
    assert "region 1: node 2: it is a text instead of an object" == read.problems[1]


def test_ids_that_disagree_are_set_right() -> None:
    """The region's key counts, and each disagreement is told."""
    read = parse_derp_map({"Regions": {"1": {"RegionID": 2, "Nodes": [{"Name": "a", "HostName": "a", "RegionID": 3}]}}})
    assert [1, 1] == [read.regions[0].region_id, read.regions[0].nodes[0].region_id]
    assert 0 == read.dropped_nodes
    assert (
        "region 1: its RegionID is '2'; the key counts",
        "region 1: node 1: its RegionID is '3'; that of its region counts",
    ) == read.problems


def test_the_second_node_of_a_name_is_left_out() -> None:
    """Inside one region the first one has the name; another region may use it too."""
    node = {"Name": "a", "HostName": "a.test"}
    read = parse_derp_map({"Regions": {"10": {"Nodes": [node]}, "9": {"Nodes": [node, node]}}})
    assert [(9, ["a"]), (10, ["a"])] == [(each.region_id, [node.name for node in each.nodes]) for each in read.regions]
    assert ("region 9: node 2: the region has two nodes with the name 'a'",) == read.problems
    assert 1 == read.dropped_nodes


def test_a_map_that_is_too_large_is_cut() -> None:
    """No more than the cap of nodes and regions is kept; the problems told are few."""
    nodes = [{"Name": f"n{index}", "HostName": "a.test"} for index in range(MAX_NODES + 200)]
    read = parse_derp_map({"Regions": {"1": {"Nodes": nodes}}})
    assert (MAX_NODES, 200) == (len(read.regions[0].nodes), read.dropped_nodes)
    assert MAX_PROBLEMS + 1 == len(read.problems)
    assert "and 100 more problems" == read.problems[-1]
    read = parse_derp_map({"Regions": {str(index): {"Nodes": [{}]} for index in range(MAX_REGIONS + 10, 0, -1)}})
    assert list(range(1, MAX_REGIONS + 1)) == [region.region_id for region in read.regions]
    assert MAX_REGIONS + 10 == read.dropped_nodes


def test_the_cap_of_nodes_is_that_of_all_regions() -> None:
    """The same names in many regions do not get around it."""
    nodes = [{"Name": f"n{index}", "HostName": "a.test"} for index in range(MAX_NODES - 10)]
    read = parse_derp_map({"Regions": {"1": {"Nodes": nodes}, "2": {"Nodes": nodes}}})
    assert [MAX_NODES - 10, 10] == [len(region.nodes) for region in read.regions]
    assert MAX_NODES - 20 == read.dropped_nodes


@pytest.mark.parametrize("entry", [1, {}, {"Name": "a", "HostName": "a.test"}])
def test_nonsense_without_end_is_not_read_to_its_end(entry: Any) -> None:
    """Far beyond the caps nothing is looked at any more: it is counted, and told once."""
    read = parse_derp_map(json.dumps({"Regions": {"1": {"Nodes": [entry] * 100_000}, "2": {"Nodes": [entry] * 1000}}}))
    kept = sum(len(region.nodes) for region in read.regions)
    assert kept <= 1
    assert 101_000 - kept == read.dropped_nodes
    assert 1 == sum("the rest is not read" in problem for problem in read.problems)
    # what was looked at, one by one: told in words, or in the number of those that are not
    assert "and " + str(4 * MAX_NODES - kept + 1 - MAX_PROBLEMS) + " more problems" == read.problems[-1]


@pytest.mark.parametrize(("prefix", "kept"), [("", MAX_REGIONS), ("x", 0)])
def test_regions_without_end_are_not_read_to_their_end(prefix: str, kept: int) -> None:
    """The nodes of those that were not looked at count as left out."""
    regions = {f"{prefix}{number}": {"Nodes": [1, 2]} for number in range(1, 20_001)}
    read = parse_derp_map(json.dumps({"Regions": regions}))
    assert (kept, 40_000) == (len(read.regions), read.dropped_nodes)
    told = [problem for problem in read.problems if "the map has 20000 regions" in problem]
    assert 1 == len(told)
    assert len(read.problems) == MAX_PROBLEMS + 1


def test_scores_without_end_are_not_read_to_their_end() -> None:
    """Those that come first count."""
    scores = {str(number): 2.0 for number in range(1, 20_001)}
    read = parse_derp_map({"Regions": {"1": {}, "20000": {}}, "HomeParams": {"RegionScore": scores}})
    assert {1: 2.0} == read.region_scores
    assert 1 == len(read.problems)


@pytest.mark.parametrize(
    ("scores", "read", "problems"),
    [
        ({"1": 0.5, "2": 3}, {1: 0.5, 2: 3.0}, 0),
        ({"1": 0, "2": -1}, {}, 0),
        ({"9": 2, "x": 2}, {}, 0),
        ({"1": "2", "2": True}, {}, 2),
        ({"1": float("inf"), "2": float("nan")}, {}, 2),
        ({"1": 10**400}, {}, 1),
        ([], {}, 1),
        (None, {}, 0),
    ],
)
def test_scores_are_those_that_clients_use(scores: Any, read: dict[int, float], problems: int) -> None:
    """Scores of regions of the map, above zero; others are ignored, and told when they are no numbers."""
    derp_map = parse_derp_map({"Regions": {"1": {}, "2": {}}, "HomeParams": {"RegionScore": scores}})
    assert read == derp_map.region_scores
    assert problems == len(derp_map.problems)


def test_a_map_is_written_as_coder_writes_it() -> None:
    """Reading and writing a real map gives the same JSON, zero members left out as there."""
    written = recorded("derp-map-socket.json")
    assert json.loads(written) == dump_derp_map(parse_derp_map(written))


def test_a_full_map_survives_writing_and_reading() -> None:
    """Every member that we know is written, and read back."""
    node = DerpNode(
        name="1a",
        region_id=1,
        host_name="relay.test",
        cert_name="front.test",
        ipv4="192.0.2.1",
        ipv6=None,
        stun_port=-1,
        derp_port=8443,
        insecure=True,
        force_http=True,
        stun_test_ip="192.0.2.2",
    )
    region = DerpRegion(region_id=1, code="a", name="A", embedded=True, avoid=True, nodes=(node,))
    derp_map = DerpMap(regions=(region,), region_scores={1: 0.5})
    dumped = dump_derp_map(derp_map)
    assert {"1": 0.5} == dumped["HomeParams"]["RegionScore"]
    assert "none" == dumped["Regions"]["1"]["Nodes"][0]["IPv6"]
    assert derp_map == parse_derp_map(json.dumps(dumped))


MEMBERS = [
    "Regions", "HomeParams", "RegionScore", "RegionID", "RegionCode", "RegionName", "Nodes", "EmbeddedRelay", "Avoid",
    "Name", "HostName", "CertName", "IPv4", "IPv6", "STUNPort", "STUNOnly", "DERPPort", "ForceHTTP", "STUNTestIP",
    "derp_map", "derp_force_websockets", "hostname_suffix", "1", "999",
]  # fmt: skip
TEXTS = st.sampled_from(["relay.test", "192.0.2.1", "::1", "none", "1a", "sha256-raw:00"]) | st.text(max_size=20)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(MEMBERS) | TEXTS, inner, max_size=8),
    max_leaves=30,
)
NODES = st.dictionaries(st.sampled_from(MEMBERS[9:19]), VALUES, max_size=10) | st.fixed_dictionaries(
    {"Name": TEXTS, "HostName": TEXTS}, optional={"IPv4": TEXTS, "IPv6": TEXTS, "STUNPort": st.integers(-2, 70000)}
)
MAPS = st.fixed_dictionaries(
    {
        "Regions": st.dictionaries(
            st.integers(-1, 9).map(str) | TEXTS,
            st.fixed_dictionaries({"Nodes": st.lists(NODES, max_size=6)}, optional={"RegionName": TEXTS}) | VALUES,
            max_size=5,
        )
    },
    optional={"HomeParams": VALUES},
)


@given(data=st.binary() | st.text())
@example(data=b'{"Regions": {"1": {"Nodes": [{"Name": "\\ud800", "HostName": "a"}]}}}')
def test_any_bytes_are_a_map_or_a_wire_error(data: bytes | str) -> None:
    """Whatever comes gives a map or a WireError, and nothing else."""
    for parse in (parse_derp_map, parse_connection_info):
        with suppress(WireError):
            parse(data)


@given(value=MAPS | VALUES)
def test_any_json_is_a_map_that_can_be_used_or_a_wire_error(value: Any) -> None:
    """What is read from any JSON keeps its promises, and survives writing and reading."""
    try:
        derp_map = parse_derp_map(value if isinstance(value, dict) else json.dumps(value))
    except WireError:
        return
    assert all(problem.isprintable() for problem in derp_map.problems)
    assert [region.region_id for region in derp_map.regions] == sorted({r.region_id for r in derp_map.regions})
    nodes = [node for region in derp_map.regions for node in region.nodes]
    assert len(nodes) == len({(node.region_id, node.name) for node in nodes})
    for region in derp_map.regions:
        assert region.region_id > 0
        assert region.name
        assert region.name.isprintable()
    for node in nodes:
        assert 0 < node.relay_port <= 65535
        assert node.stun_port_number is None or 0 < node.stun_port_number <= 65535
        assert node.host_name.isascii()
        assert node.host_name.isprintable()
        assert node.host_name or node.ipv4 or node.ipv6 or node.stun_test_ip
    again = parse_derp_map(json.dumps(dump_derp_map(derp_map)))
    assert (derp_map.regions, derp_map.region_scores) == (again.regions, again.region_scores)
    assert () == again.problems
