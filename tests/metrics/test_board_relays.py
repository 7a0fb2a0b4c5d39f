"""The board with relays: a whole body, what is shared, what clashes, and nothing left of what is gone."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.errors import Phase, Reason
from exporter.health.derp import NodeName, Skipped
from exporter.health.direct_connections import Netcheck
from exporter.health.model import OffReason, Section, Severity
from exporter.metrics.board import Clash
from exporter.metrics.negotiation import Format
from exporter.targets.model import SectionKey, TargetKey
from tests.support.exploration import examples
from tests.support.exposition import START, World, health, pick, proxy_round, scan
from tests.support.relay_results import (
    REFUSED,
    both,
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
    relay,
    stun,
    stun_attempt,
    transport,
)

NODE_UP = "coder_health_derp_node_up"
COUNT = "coder_health_derp_round_trip_duration_seconds_count"
PROCESSES = "coder_health_derp_relay_processes"
PATH_UP = "coder_health_derp_mesh_path_up"


class Entries:
    """A world in which every target of the section derp is a schedule entry, as relays are."""

    def __init__(self, *deployments: str, sections: tuple[Section, ...] = (Section.DERP,)) -> None:
        self.world = World(deployments or ("prod",), sections=sections)
        self._runs = itertools.count(1)

    def run(
        self, entry: str, results: Mapping[str, object], *, deployment: str = "prod", complete: bool = True, **more: Any
    ) -> tuple[Clash, ...]:
        run = next(self._runs)
        healths = [health(deployment, Section.DERP, name, result, run=run, **more) for name, result in results.items()]
        commit = self.world.snapshot.commit(
            f"{deployment}/{entry}", healths, now=START, elapsed_seconds=0.0, complete=complete
        )
        return self.world.board.show(commit)

    def retire(self, entry: str, *, deployment: str = "prod") -> None:
        self.world.board.show(self.world.snapshot.retire(f"{deployment}/{entry}"))

    def pick(self, name: str, *labels: str) -> dict[Any, float]:
        return pick(self.world.read(), name, *labels)

    def left(self) -> set[str]:
        """Names of series that belong to a target, a relay or a map."""
        labels_of_sections = {"deployment", "section", "witness", "coder_replica", "code", "severity", "reason"}
        return {
            name
            for name, labels in self.world.read()
            if not name.startswith("coder_health_exporter_")
            and not (
                name.startswith(("coder_health_section_", "coder_health_code_"))
                and set(dict(labels)) <= labels_of_sections
            )
        }


def test_the_whole_text_of_a_region_with_a_relay_that_is_half_dead() -> None:
    """A relay over both transports, its STUN server, the mesh, the region, the map and the network."""
    world = World(sections=(Section.DERP, Section.DIRECT_CONNECTIONS))
    name = node("999b", "Coder Embedded Relay", 999)
    raw = transport(0.002, 0.001, name=name, certificate=ends(START + 9e6), loss=loss(20, 15, 0.0005))
    websocket = dead("websocket", name)
    half = region(relay(raw, websocket), region_id=999, name=name.region_name, node_count=2)
    world.run(
        "prod",
        Section.DERP,
        {
            "999/999b/derp": raw,
            "999/999b/websocket": websocket,
            "999/999s/stun": stun(
                stun_attempt(0.003),
                stun_attempt(None, "ipv6", failure=REFUSED),
                name="999s",
                region_name=name.region_name,
            ),
            "999/mesh": mesh(path("999b", "999c"), path("999c", "999b", failed=True), region_name=name.region_name),
            "999": half,
            "": derp(half, map_changes=2, skipped=(Skipped(region_id=1, node="1a", host="h", reason="too_many"),)),
        },
    )
    world.run(
        "prod",
        Section.DIRECT_CONNECTIONS,
        {
            "": network(
                Netcheck(udp=True, stun_servers=2, stun_answers=2, mapping_varies=True),
                interface("eth0", 1400, on_the_way=True),
                disabled=False,
                path_mtu=(path_mtu(1400, 1500, region_id=999, region_name="Coder Embedded Relay", node="999s"),),
            )
        },
        codes=["XNET04"],
        severity=Severity.WARNING,
    )
    wanted = (Path(__file__).parent / "relays.prom").read_text(encoding="utf-8")
    assert wanted + world.own.render(Format.TEXT).decode() == world.body().decode()
    assert world.read(Format.TEXT) == world.read(Format.OPENMETRICS)


def test_judging_targets_have_all_but_a_duration() -> None:
    """A judgement that stopped or failed is seen as with others; its microseconds are in no quantile."""
    entries = Entries()
    entries.run("1/1a", both(node(), 0.001))
    entries.run("derp", {"": derp(region()), "1": region()}, reason=Reason.REFUSED)
    measured = {"1/1a/derp", "1/1a/websocket"}
    assert measured == set(entries.pick("coder_health_probe_duration_seconds_count", "target"))
    for name in ("runs_total", "interval_seconds", "last_run_timestamp_seconds", "success"):
        assert measured | {"", "1"} == set(entries.pick(f"coder_health_probe_{name}", "target"))
    assert 1.0 == entries.pick("coder_health_probe_failures_total", "target", "reason")[("1", "refused")]


def test_the_round_of_another_section_keeps_its_duration() -> None:
    """The list of workspace proxies is read, which takes time."""
    world = World(sections=(Section.WORKSPACE_PROXY,))
    world.run("prod", Section.WORKSPACE_PROXY, {"": proxy_round()})
    assert {"": 1.0} == pick(world.read(), "coder_health_probe_duration_seconds_count", "target")


def test_a_relay_that_leaves_takes_its_series_along() -> None:
    """What it showed alone is gone; what it shared with the region's other relay goes on."""
    entries = Entries()
    for name in ("1a", "1b"):
        entries.run(f"1/{name}", both(node(name), 0.001), phase_seconds={Phase.CONNECT: 0.001}, codes=["XDERP05"])
    entries.retire("1/1a")
    assert b"1a" not in entries.world.body()
    assert {("1b", "derp"): 1.0, ("1b", "websocket"): 1.0} == entries.pick(NODE_UP, "derp_node", "transport")
    assert {"derp": 2.0, "websocket": 2.0} == entries.pick(COUNT, "transport")
    entries.run("1/1b", both(node("1b"), 0.001))
    assert {"derp": 3.0, "websocket": 3.0} == entries.pick(COUNT, "transport")


def test_when_every_entry_is_retired_nothing_is_left() -> None:
    """Relays, STUN servers, meshes, regions and the map: not one series."""
    entries = Entries()
    entries.run("1/1a", both(node(), 0.001, certificate=ends(START, START), loss=loss(4, 3, 0.1)))
    entries.run("1/1s/stun", {"1/1s/stun": stun(stun_attempt(0.001))})
    entries.run("1/mesh", {"1/mesh": mesh(path("1a", "1b"))})
    entries.run("derp", {"": derp(region()), "1": region()}, codes=["XDERP01"])
    assert {NODE_UP, COUNT, PROCESSES, PATH_UP, "coder_health_stun_up"} <= entries.left()
    for entry in ("1/1a", "1/1s/stun", "1/mesh", "derp"):
        entries.retire(entry)
    assert set() == entries.left()


def test_a_map_that_may_not_be_read_leaves_only_that_the_section_is_off() -> None:
    """The relays went with their map, and nothing of the last judgement stays."""
    entries = Entries()
    entries.run("derp", {"": derp(region()), "1": region()})
    entries.run("derp", {"": derp(source="", map_age_seconds=None, off=OffReason.FORBIDDEN)}, off=OffReason.FORBIDDEN)
    assert {"forbidden": 0.0} == entries.pick("coder_health_section_enabled", "reason")
    assert {} == entries.pick("coder_health_code_active", "code")
    assert {} == entries.pick("coder_health_derp_map_changes_total", "deployment")


def key(name: str) -> TargetKey:
    return TargetKey(section_key=SectionKey(deployment="prod", section=Section.DERP), name=name)


def test_the_same_node_in_two_regions_of_one_name_is_shown_once_and_told_once() -> None:
    """The first has the series of the names; both are probed, and both count for the region's name.
    When the first is gone the second has them."""
    entries = Entries()
    first, second = node("a", "Europe", 1), node("a", "Europe", 2)
    assert () == entries.run("1/a", both(first, 0.001))
    clashes = entries.run("2/a", {"2/a/derp": dead(name=second), "2/a/websocket": dead("websocket", second)})
    assert (
        tuple(
            Clash(label="derp_node", value="a", shown=key(f"1/a/{kind}"), hidden=key(f"2/a/{kind}"))
            for kind in ("derp", "websocket")
        )
        == clashes
    )
    assert () == entries.run("2/a", both(second, 0.002, relay_processes=2))
    assert {("Europe", "a", "derp"): 1.0, ("Europe", "a", "websocket"): 1.0} == entries.pick(
        NODE_UP, "derp_region", "derp_node", "transport"
    )
    assert {("Europe", "a"): 1.0} == entries.pick(PROCESSES, "derp_region", "derp_node")
    assert {"derp": 2.0, "websocket": 2.0} == entries.pick(COUNT, "transport")
    assert {"1/a/derp", "1/a/websocket", "2/a/derp", "2/a/websocket"} == set(
        entries.pick("coder_health_probe_success", "target")
    )
    entries.retire("1/a")
    assert () == entries.run("2/a", both(second, 0.002, relay_processes=2))
    assert {("Europe", "a"): 2.0} == entries.pick(PROCESSES, "derp_region", "derp_node")


def test_the_same_names_in_two_deployments_are_no_clash() -> None:
    """The label deployment tells them apart."""
    entries = Entries("a", "b")
    for deployment in ("a", "b"):
        assert () == entries.run("1/1a", both(node(), 0.001), deployment=deployment)
    assert {("a", "derp"), ("a", "websocket"), ("b", "derp"), ("b", "websocket")} == set(
        entries.pick(NODE_UP, "deployment", "transport")
    )


def test_stun_servers_and_meshes_of_the_same_names_are_shown_once() -> None:
    """The second is hidden and told; a relay and a STUN server of one name are two things."""
    entries = Entries()
    assert () == entries.run("1/a", both(node("a"), 0.001))
    assert () == entries.run("1/a/stun", {"1/a/stun": stun(stun_attempt(0.001), name="a")})
    (clash,) = entries.run("2/a/stun", {"2/a/stun": stun(stun_attempt(0.001), name="a", region_id=2)})
    assert ("derp_node", "1/a/stun", "2/a/stun") == (clash.label, clash.shown.name, clash.hidden.name)
    assert () == entries.run("1/mesh", {"1/mesh": mesh(path("a", "b"))})
    (clash,) = entries.run("2/mesh", {"2/mesh": mesh(path("a", "b", failed=True), region_id=2)})
    assert ("derp_region", "Region 1", "2/mesh") == (clash.label, clash.value, clash.hidden.name)
    assert {("a", "b"): 1.0} == entries.pick(PATH_UP, "derp_node", "peer_node")


def test_a_relay_whose_probe_broke_keeps_its_place() -> None:
    """Its facts are gone, its counters and the region's histogram go on."""
    entries = Entries()
    entries.run("1/1a", both(node(), 0.001))
    entries.run("1/1a", {"1/1a/derp": None}, complete=False, reason=Reason.INTERNAL)
    assert {"websocket": 1.0} == entries.pick(NODE_UP, "transport")
    assert {"derp": 1.0, "websocket": 1.0} == entries.pick(COUNT, "transport")
    assert {"1/1a/derp": 2.0, "1/1a/websocket": 1.0} == entries.pick("coder_health_probe_runs_total", "target")


_REGIONS = st.sampled_from(["R", "S", "x" * 130, "x" * 131])
_NODES = st.sampled_from(["a", "derp", "\ud800", "x" * 130, "x" * 131])
_IDS = st.sampled_from([1, 2])
_TIMES = st.lists(st.sampled_from([0.001, 0.3, 40.0]), max_size=2)
_KINDS = st.sampled_from(["retire", "relay", "broken", "stun", "mesh", "judge"])
_STEPS = st.lists(st.tuples(_KINDS, _IDS, _REGIONS, _NODES, st.integers(0, 2), _TIMES), max_size=12)


@settings(max_examples=examples(150))
@given(_STEPS)
def test_any_sequence_shows_no_series_twice_and_leaves_nothing(
    steps: list[tuple[str, int, str, str, int, list[float]]],
) -> None:
    """Whatever names a map brings and in whatever order relays come and go: no series twice, both
    formats agree, a histogram never falls while it is there, and in the end nothing is left."""
    entries = Entries()
    live: set[str] = set()
    before: dict[Any, float] = {}
    for kind, region_id, region_name, name, processes, seconds in steps:
        known = NodeName(region_id=region_id, region_name=region_name, node=name)
        entry = f"{region_id}/{name}"
        if kind == "retire":
            entries.retire(entry)
        elif kind == "relay":
            entries.run(entry, both(known, *seconds, relay_processes=processes))
        elif kind == "broken":
            entries.run(entry, {f"{entry}/derp": None}, complete=False, reason=Reason.INTERNAL)
        elif kind == "stun":
            entry += "/stun"
            families = [stun_attempt(0.1), stun_attempt(None, "ipv6")][:processes]
            entries.run(entry, {entry: stun(*families, name=name, region_name=region_name)})
        elif kind == "mesh":
            entry = f"{region_id}/mesh"
            pairs = (path(name, "b"), path("x" * 131, "b"), path("b", name))
            entries.run(entry, {entry: mesh(*pairs, region_name=region_name, region_id=region_id)})
        else:
            entry = "derp"
            entries.run(entry, {"": derp(), str(region_id): region(region_id=region_id, name=region_name)})
        live = live - {entry} if kind == "retire" else live | {entry}
        values = scan(entries.world.body())
        assert values == scan(entries.world.body(Format.OPENMETRICS))
        counts = pick(values, COUNT, "derp_region", "transport")
        relays = {k for k in entries.world.snapshot.entries if k.name.endswith(("/derp", "/websocket"))}
        assert len(counts) <= len(relays)
        if kind != "retire":
            assert all(counts[labels] >= before[labels] for labels in counts.keys() & before.keys())
        before = counts
    for entry in live:
        entries.retire(entry)
    assert set() == entries.left()


@pytest.mark.parametrize("wanted", list(Format))
def test_a_scrape_of_many_relays_only_joins(wanted: Format) -> None:
    """Rendering twice gives the same pieces, not equal ones: nothing is made for a scrape."""
    entries = Entries()
    for number in range(50):
        entries.run(f"1/{number}", both(node(str(number)), 0.001))
    board = entries.world.board
    once, again = board.render(wanted), board.render(wanted)
    own = 2 if wanted is Format.OPENMETRICS else 1
    assert all(piece is other for piece, other in zip(once[:-own], again[:-own], strict=True))
