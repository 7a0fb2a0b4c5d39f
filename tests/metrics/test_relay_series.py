"""What relays show together: it counts while any of them lives, and goes with the last."""

from __future__ import annotations

from typing import Any

import pytest

from exporter.health.derp import TransportResult
from exporter.health.model import Section
from exporter.metrics.exposition import Exposition
from exporter.metrics.families import FAMILIES
from exporter.metrics.labels import escape_target
from exporter.metrics.negotiation import Format
from exporter.metrics.relay_series import RelaySeries
from exporter.targets.model import SectionKey, TargetKey
from tests.support.exposition import Series, pick, read
from tests.support.relay_results import dead, node, transport

COUNT = "coder_health_derp_round_trip_duration_seconds_count"
SUM = "coder_health_derp_round_trip_duration_seconds_sum"
PROCESSES = "coder_health_derp_relay_processes"
REGION = ("deployment", "derp_region", "transport")
RELAY = ("deployment", "derp_region", "derp_node")


class Relays:
    """Shared series to feed by hand; targets are told apart by text."""

    def __init__(self) -> None:
        self.exposition = Exposition(FAMILIES)
        self.series = RelaySeries(self.exposition)

    def observe(
        self, target: str, result: TransportResult | None, *, deployment: str = "prod", hidden: bool = False
    ) -> None:
        key = TargetKey(section_key=SectionKey(deployment=deployment, section=Section.DERP), name=target)
        self.series.observe(target, result, escape_target(key), hidden=hidden)

    def read(self) -> dict[Series, float]:
        return read(b"".join(self.exposition.render(Format.TEXT)))

    def pick(self, name: str, *labels: str) -> dict[Any, float]:
        return pick(self.read(), name, *labels)


def test_the_messages_of_all_nodes_of_a_region_are_in_one_histogram() -> None:
    """Two nodes, two runs each: every message once, each transport and each deployment apart."""
    relays = Relays()
    for _ in range(2):
        relays.observe("a", transport(0.001, 0.002, name=node("a")))
        relays.observe("b", transport(0.004, name=node("b")))
        relays.observe("aw", transport(0.008, kind="websocket", name=node("a")))
    relays.observe("x", transport(0.016, name=node("a")), deployment="other")
    assert relays.pick(COUNT, *REGION) == {
        ("prod", "Region 1", "derp"): 6.0,
        ("prod", "Region 1", "websocket"): 2.0,
        ("other", "Region 1", "derp"): 1.0,
    }
    assert pytest.approx(0.014) == relays.pick(SUM, *REGION)[("prod", "Region 1", "derp")]
    buckets = {
        float(dict(labels)["le"]): value
        for (name, labels), value in relays.read().items()
        if name.endswith("_bucket") and {"deployment": "prod", "transport": "derp"}.items() <= dict(labels).items()
    }
    assert (2.0, 6.0) == (buckets[0.001], buckets[0.005])


def test_a_relay_that_is_dead_from_the_start_has_a_histogram_of_nothing() -> None:
    """No alert is lost to "no data"."""
    relays = Relays()
    relays.observe("a", dead())
    assert {"derp": 0.0} == relays.pick(COUNT, "transport")


def test_the_histogram_goes_with_the_last_target_of_the_transport() -> None:
    """While one node of the region is left its counts stay; the other transport is not touched."""
    relays = Relays()
    relays.observe("a", transport(0.001, name=node("a")))
    relays.observe("b", transport(0.001, name=node("b")))
    relays.observe("aw", transport(0.001, kind="websocket", name=node("a")))
    relays.series.forget("a")
    assert {"derp": 2.0, "websocket": 1.0} == relays.pick(COUNT, "transport")
    relays.series.forget("b")
    assert {"websocket": 1.0} == relays.pick(COUNT, "transport")
    relays.series.forget("aw")
    relays.series.forget("aw")
    assert {} == relays.read()


def test_a_probe_that_broke_keeps_the_histogram() -> None:
    """The relay is still a target of its region; how many processes it has was not seen."""
    relays = Relays()
    relays.observe("a", transport(0.001))
    relays.observe("a", None)
    assert {"derp": 1.0} == relays.pick(COUNT, "transport")
    assert {} == relays.pick(PROCESSES, *RELAY)


def test_a_region_that_is_renamed_takes_its_nodes_to_its_new_name() -> None:
    """The old name is gone once its last node has the new one."""
    relays = Relays()
    for target in ("a", "b"):
        relays.observe(target, transport(0.001, name=node(target)))
    relays.observe("a", transport(0.001, name=node("a", region_name="New")))
    assert {"Region 1": 2.0, "New": 1.0} == relays.pick(COUNT, "derp_region")
    relays.observe("b", transport(0.001, name=node("b", region_name="New")))
    assert {"New": 2.0} == relays.pick(COUNT, "derp_region")
    assert {("prod", "New", "a"): 1.0, ("prod", "New", "b"): 1.0} == relays.pick(PROCESSES, *RELAY)


@pytest.mark.parametrize(
    ("raw", "websocket", "wanted"), [(2, 1, 2.0), (1, 2, 1.0), (0, 2, 2.0), (2, 0, 2.0), (0, 0, None)]
)
@pytest.mark.parametrize("raw_first", [True, False])
def test_the_raw_transport_tells_the_processes_else_the_websocket(
    raw: int, websocket: int, wanted: float | None, raw_first: bool
) -> None:
    """One series a relay, whichever transport was committed first; absent when no login went through."""
    relays = Relays()
    results = {
        "raw": transport(relay_processes=raw),
        "websocket": transport(kind="websocket", relay_processes=websocket),
    }
    for target in results if raw_first else reversed(results):
        relays.observe(target, results[target])
    assert ({} if wanted is None else {("prod", "Region 1", "1a"): wanted}) == relays.pick(PROCESSES, *RELAY)
    relays.series.forget("raw")
    wanted_of_rest = {("prod", "Region 1", "1a"): float(websocket)} if websocket else {}
    assert wanted_of_rest == relays.pick(PROCESSES, *RELAY)


def test_a_hidden_node_counts_its_messages_and_shows_nothing_under_its_name() -> None:
    """The histogram has no label for the node, so it holds what is true of the region's name."""
    relays = Relays()
    relays.observe("a", transport(0.001, relay_processes=1))
    relays.observe("b", transport(0.001, relay_processes=2))
    relays.observe("b", transport(0.001, relay_processes=2), hidden=True)
    assert {("prod", "Region 1", "1a"): 1.0} == relays.pick(PROCESSES, *RELAY)
    assert {"derp": 3.0} == relays.pick(COUNT, "transport")


def test_a_node_that_bears_the_name_of_a_transport_is_no_histogram() -> None:
    """Owners of pieces are told apart whatever names a map holds."""
    relays = Relays()
    relays.observe("a", transport(0.001, name=node("derp")))
    assert {"derp": 1.0} == relays.pick(COUNT, "transport")
    assert {("prod", "Region 1", "derp"): 1.0} == relays.pick(PROCESSES, *RELAY)
