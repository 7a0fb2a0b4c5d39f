"""The room of relays: each kind of target gets its judgement."""

from __future__ import annotations

from typing import Any

import pytest

from exporter.clock import SystemClock
from exporter.health.derp import DerpResult, RelayResult
from exporter.health.model import Section
from exporter.rooms.derp import DerpRoom, name_derp
from exporter.snapshot import Snapshot
from exporter.targets.model import (
    AccessURL,
    DerpMeshTarget,
    DerpRelayTarget,
    DerpTarget,
    RelayEndpoint,
    StunTarget,
    Target,
)
from exporter.wire.url import parse_origin
from tests.support.relay_results import dead, derp, mesh, node, path, region, relay, stun, stun_attempt, transport

TIMES: dict[str, Any] = {
    "deployment": "prod",
    "section": Section.DERP,
    "interval_seconds": 60.0,
    "timeout_seconds": 10.0,
}
RELAY = DerpRelayTarget(name=node(), endpoint=RelayEndpoint(origin=parse_origin("https://a.example.com")), **TIMES)
STUN = StunTarget(name=node(), host="a.example.com", port=3478, **TIMES)
MESH = DerpMeshTarget(region_id=1, region_name="Region 1", nodes=(), **TIMES)
SECTION = DerpTarget(access_url=AccessURL(url="https://a.example.com"), **TIMES)


@pytest.fixture
def room() -> DerpRoom:
    return DerpRoom({}, snapshot=Snapshot(), clock=SystemClock())


@pytest.mark.parametrize(
    ("target", "result", "names"),
    [
        (RELAY, relay(transport(0.1), dead("websocket")), ["1/1a/derp", "1/1a/websocket"]),
        (STUN, stun(stun_attempt(0.1)), ["1/1a/stun"]),
        (MESH, mesh(path("a", "b")), ["1/mesh"]),
        (SECTION, derp(), [""]),
        (SECTION, derp(region(relay(transport(0.1))), region(region_id=2)), ["", "1"]),
        (SECTION, derp(region(region_id=2, pending=("2a",))), ["", "2"]),
    ],
    ids=["relay", "stun", "mesh", "no regions", "a region without relays", "a region that waits"],
)
def test_the_targets_of_derp_are_judged_under_their_names(
    room: DerpRoom, target: Target, result: object, names: list[str]
) -> None:
    """A relay by its transports, a region by its id when it has relays, the section under no name."""
    judgements = room.judge(target, result)
    assert names == [judgement.name for judgement in judgements]
    assert {Section.DERP} == {judgement.report.section for judgement in judgements}


@pytest.mark.parametrize(
    ("target", "name"), [(RELAY, "1/1a/derp"), (STUN, "1/1a/stun"), (MESH, "1/mesh"), (SECTION, "")]
)
def test_a_run_that_breaks_has_the_name_of_its_target(target: Target, name: str) -> None:
    """What the probe could not tell is told by the table."""
    assert name == name_derp(target)


def test_a_result_of_an_unknown_kind_is_a_bug_that_shows(room: DerpRoom) -> None:
    """It must not pass as a run without findings."""
    with pytest.raises(TypeError, match="no judgement of a str"):
        room.judge(RELAY, "nonsense")


def test_a_transport_has_its_own_times(room: DerpRoom) -> None:
    """Both are probed side by side, so the run's time is none of them."""
    result = relay(transport(0.1, duration_seconds=0.25), transport(0.1, kind="websocket", duration_seconds=0.5))
    assert isinstance(result, RelayResult)
    judgements = room.judge(RELAY, result)
    assert [0.25, 0.5] == [judgement.duration_seconds for judgement in judgements]


def test_the_section_shows_its_regions_whole(room: DerpRoom) -> None:
    """A region's entry holds the latest results that its verdict stands on."""
    result = derp(region(relay(transport(0.1))))
    assert isinstance(result, DerpResult)
    judgements = room.judge(SECTION, result)
    assert (result, *result.regions) == tuple(judgement.result for judgement in judgements)
