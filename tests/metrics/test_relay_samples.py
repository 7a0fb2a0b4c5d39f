"""Facts of relays, STUN servers and this host's network: what was measured is there, the rest absent."""

from __future__ import annotations

from typing import Any

import pytest

from exporter.health.derp import Skipped
from exporter.health.direct_connections import Netcheck
from exporter.health.model import Section
from exporter.metrics.labels import escape_target
from exporter.metrics.samples import render_facts
from tests.support.exposition import START, headed, health, pick, read
from tests.support.relay_results import (
    REFUSED,
    dead,
    derp,
    ends,
    interface,
    loss,
    mesh,
    network,
    node,
    path,
    path_mtu,
    region,
    stun,
    stun_attempt,
    transport,
)

RELAY = ("derp_region", "derp_node", "transport")
NODES = ("derp_region", "derp_node", "peer_node")
SERVER = ("derp_region", "derp_node", "family")


def facts(section: Section, result: object, name: str = "1/1a/derp", **more: Any) -> dict[Any, float]:
    """Samples of one result."""
    seen = health("prod", section, name, result)
    return read(headed(render_facts(seen, escape_target(seen.key), threshold_seconds=None, **more)))


def of_derp(result: object, name: str = "1/1a/derp") -> dict[Any, float]:
    return facts(Section.DERP, result, name)


def of_network(result: object) -> dict[Any, float]:
    return facts(Section.DIRECT_CONNECTIONS, result, "")


def names(values: dict[Any, float]) -> set[str]:
    return {name.removeprefix("coder_health_") for name, _ in values}


def test_a_relay_that_is_up_shows_its_last_round_trip_and_its_login() -> None:
    """Of several messages the last one; no loss, jitter or dates where they were not measured."""
    values = of_derp(transport(0.003, 0.001, 0.002))
    assert {("Region 1", "1a", "derp"): 1.0} == pick(values, "coder_health_derp_node_up", *RELAY)
    assert {("Region 1", "1a", "derp"): 0.002} == pick(values, "coder_health_derp_round_trip_seconds", *RELAY)
    assert {("Region 1", "1a", "derp"): 0.004} == pick(values, "coder_health_derp_login_duration_seconds", *RELAY)
    assert {"derp_node_up", "derp_round_trip_seconds", "derp_login_duration_seconds"} == names(values)


def test_a_relay_that_is_dead_is_0_and_nothing_else() -> None:
    """No message, no login: only that it is not up, under the names that it has."""
    values = of_derp(dead("websocket"))
    assert {("Region 1", "1a", "websocket"): 0.0} == pick(values, "coder_health_derp_node_up", *RELAY)
    assert {"derp_node_up"} == names(values)


def test_a_relay_that_lets_in_but_passes_nothing_shows_its_login() -> None:
    """The login was measured, the round trip was not."""
    values = of_derp(transport(failure=REFUSED))
    assert {"derp_node_up", "derp_login_duration_seconds"} == names(values)
    assert {"derp": 0.0} == pick(values, "coder_health_derp_node_up", "transport")


@pytest.mark.parametrize(
    ("stream", "wanted"),
    [
        (loss(10, 7, 0.0005), {"packet_loss_ratio": 0.3, "round_trip_jitter_seconds": 0.0005}),
        (loss(10, 0), {"packet_loss_ratio": 1.0}),
        (loss(1, 1), {"packet_loss_ratio": 0.0}),
        (loss(0, 0), {}),
        (None, {}),
    ],
)
def test_loss_is_shown_where_a_stream_was_sent(stream: Any, wanted: dict[str, float]) -> None:
    """Jitter needs two that came; a stream that never began lost nothing that is known."""
    values = of_derp(transport(0.001, loss=stream))
    shown = {
        name: value
        for family in ("packet_loss_ratio", "round_trip_jitter_seconds")
        for name, value in ((family, pick(values, f"coder_health_derp_{family}", "transport").get("derp")),)
        if value is not None
    }
    assert pytest.approx(wanted) == shown


@pytest.mark.parametrize(
    ("certificate", "wanted"),
    [
        (ends(START + 9, START + 5), {"leaf": START + 9, "chain": START + 5}),
        (ends(START - 9), {"leaf": START - 9}),
        (ends(None, START + 5), {"chain": START + 5}),
        (None, {}),
    ],
)
def test_the_certificate_of_a_relay_is_shown_also_when_it_was_refused(
    certificate: Any, wanted: dict[str, float]
) -> None:
    """Under the name of the target, as for the access URL."""
    values = of_derp(dead(certificate=certificate))
    labels = ("section", "target", "position")
    shown = pick(values, "coder_health_tls_certificate_not_after_timestamp_seconds", *labels)
    assert {("derp", "1/1a/derp", position): end for position, end in wanted.items()} == shown


def test_a_mesh_shows_every_ordered_pair_that_was_tried() -> None:
    """1 where the message arrived, 0 where not; a relay that is down has no pairs."""
    values = of_derp(mesh(path("a", "b"), path("b", "a", failed=True), unreached=("c",)), "1/mesh")
    wanted = {("Region 1", "a", "b"): 1.0, ("Region 1", "b", "a"): 0.0}
    assert wanted == pick(values, "coder_health_derp_mesh_path_up", *NODES)
    assert {"derp_mesh_path_up"} == names(values)


def test_nodes_whose_names_are_equal_once_cut_make_no_pair_twice() -> None:
    """The first pair stands."""
    long = "n" * 200
    values = of_derp(mesh(path(long + "1", "b"), path(long + "2", "b", failed=True)), "1/mesh")
    assert {("n" * 128, "b"): 1.0} == pick(values, "coder_health_derp_mesh_path_up", "derp_node", "peer_node")


@pytest.mark.parametrize(
    ("attempts", "up", "round_trips"),
    [
        ((stun_attempt(0.01), stun_attempt(0.02, "ipv6")), {"ipv4": 1.0, "ipv6": 1.0}, {"ipv4": 0.01, "ipv6": 0.02}),
        ((stun_attempt(0.01), stun_attempt(None, "ipv6", failure=REFUSED)), {"ipv4": 1.0, "ipv6": 0.0}, {"ipv4": 0.01}),
        ((stun_attempt(0.01), stun_attempt(None, "ipv6", no_route=True)), {"ipv4": 1.0}, {"ipv4": 0.01}),
        ((), {}, {}),
    ],
)
def test_a_stun_server_shows_each_family_that_there_is_a_way_to(
    attempts: tuple[Any, ...], up: dict[str, float], round_trips: dict[str, float]
) -> None:
    """No route says nothing about the server; a name that was not found tells no families apart."""
    values = of_derp(stun(*attempts), "1/1stun0/stun")
    assert {("Region 1", "1stun0", family): value for family, value in up.items()} == pick(
        values, "coder_health_stun_up", *SERVER
    )
    assert round_trips == pick(values, "coder_health_stun_round_trip_seconds", "family")


def test_the_map_shows_when_it_was_confirmed_its_changes_and_what_is_skipped() -> None:
    """Each reason has a sample, with 0 where nothing is skipped for it."""
    skipped = [Skipped(region_id=2, node=f"2{end}", host="h.example", reason="host_not_allowed") for end in "ab"]
    skipped.append(Skipped(region_id=3, node="3a", host="", reason="invalid"))
    values = of_derp(derp(map_age_seconds=12.0, map_changes=3, skipped=tuple(skipped)), "")
    assert {"host_not_allowed": 2.0, "too_many": 0.0, "invalid": 1.0} == pick(
        values, "coder_health_derp_nodes_skipped", "reason"
    )
    # the run of `health` began 29 s after START
    assert {"prod": START + 29 - 12} == pick(
        values, "coder_health_derp_map_last_success_timestamp_seconds", "deployment"
    )
    assert {"prod": 3.0} == pick(values, "coder_health_derp_map_changes_total", "deployment")


def test_without_a_map_only_its_changes_are_known() -> None:
    """Nobody knows how many nodes would be skipped."""
    assert {"derp_map_changes_total"} == names(of_derp(derp(source="", map_age_seconds=None, map_failure=REFUSED), ""))


def test_a_region_has_no_facts_of_its_own() -> None:
    """What it judges was shown by its relays."""
    assert {} == of_derp(region(), "1")


@pytest.mark.parametrize(
    ("netcheck", "wanted"),
    [
        (Netcheck(), {}),
        (Netcheck(stun_servers=1, ipv4_can_send=True), {}),
        (Netcheck(stun_servers=1, stun_answers=1, ipv4_can_send=True), {"prod": 0.0}),
        (Netcheck(stun_servers=2, ipv4_can_send=True), {"prod": 1.0}),
        (Netcheck(stun_servers=2, ipv4_can_send=False), {}),
        (Netcheck(stun_servers=5, stun_answers=1, ipv4_can_send=True), {"prod": 0.0}),
    ],
)
def test_udp_is_blocked_only_when_several_are_silent(netcheck: Netcheck, wanted: dict[str, float]) -> None:
    """One that is silent may be down itself; one that answers has shown that UDP passes."""
    assert wanted == pick(of_network(network(netcheck)), "coder_health_udp_blocked", "deployment")


@pytest.mark.parametrize("known", [None, False, True])
def test_what_is_not_known_of_the_network_is_absent(known: bool | None) -> None:
    """Absent is not 0: for the mapping and for what the deployment disables."""
    values = of_network(network(Netcheck(mapping_varies=known), disabled=known))
    wanted = {} if known is None else {"prod": float(known)}
    for name in ("coder_health_nat_mapping_varies", "coder_health_direct_connections_disabled"):
        assert wanted == pick(values, name, "deployment")


def test_only_interfaces_on_the_way_show_their_mtu() -> None:
    """Others stand in JSON; an MTU that a platform does not know is absent."""
    interfaces = (
        interface("eth0", 1500, on_the_way=True),
        interface("docker0", 1400),
        interface("lo", -1, on_the_way=True),
    )
    values = of_network(network(Netcheck(), *interfaces))
    assert {"eth0": 1500.0} == pick(values, "coder_health_interface_mtu_bytes", "interface")


def test_the_path_mtu_bears_the_name_of_its_region() -> None:
    """A path that nothing passed has no sample; nor has the same server twice."""
    paths = (
        path_mtu(1400, 1500),
        path_mtu(1280, family="ipv6"),
        path_mtu(1200),
        path_mtu(0, 576, node="1stun1"),
    )
    values = of_network(network(path_mtu=paths))
    wanted = {("Region 1", "1stun0", "ipv4"): 1400.0, ("Region 1", "1stun0", "ipv6"): 1280.0}
    assert wanted == pick(values, "coder_health_path_mtu_bytes", *SERVER)


def test_a_network_of_which_nothing_is_known_shows_nothing() -> None:
    """No map, no servers, a platform that cannot measure."""
    assert {} == of_network(network(map_known=False, failure=REFUSED))


def test_names_from_the_map_are_tamed() -> None:
    """What a terminal would obey is shown as text, and nothing leaves its quotes."""
    hostile = node('a"b\x1b[31m', region_name="R\n" + "x" * 300)
    (labels,) = pick(of_derp(transport(0.001, name=hostile)), "coder_health_derp_node_up", *RELAY)
    assert ("R\n" + "x" * 126, 'a"b\\x1b[31m', "derp") == labels
