"""The table of rooms: every section has one, and each kind of target gets its judgement."""

from __future__ import annotations

from typing import Any

import pytest

from exporter.clock import SystemClock
from exporter.health.coder_report import CoderReport, ReportedSection
from exporter.health.derp import DerpResult, RelayResult
from exporter.health.exporter import ExporterResult
from exporter.health.model import Section, Severity
from exporter.health.report import ReportResult
from exporter.rooms import Rooms
from exporter.secret import Secret
from exporter.snapshot import Snapshot
from exporter.targets.model import (
    AccessURL,
    DerpMeshTarget,
    DerpRelayTarget,
    DerpTarget,
    ExporterTarget,
    RelayEndpoint,
    ReportTarget,
    SessionToken,
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
def rooms() -> Rooms:
    async def look_at_host(_target: ExporterTarget) -> ExporterResult:
        return ExporterResult()

    return Rooms(relays={}, replicas={}, look_at_host=look_at_host, snapshot=Snapshot(), clock=SystemClock())


def test_every_section_has_a_room(rooms: Rooms) -> None:
    """A section without one could be planned, but not run."""
    assert set(Section) == set(rooms.table())


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
    rooms: Rooms, target: Target, result: object, names: list[str]
) -> None:
    """A relay by its transports, a region by its id when it has relays, the section under no name."""
    judgements = rooms.table()[Section.DERP].judge(target, result)
    assert names == [judgement.name for judgement in judgements]
    assert {Section.DERP} == {judgement.report.section for judgement in judgements}


@pytest.mark.parametrize(
    ("target", "name"), [(RELAY, "1/1a/derp"), (STUN, "1/1a/stun"), (MESH, "1/mesh"), (SECTION, "")]
)
def test_a_run_that_breaks_has_the_name_of_its_target(rooms: Rooms, target: Target, name: str) -> None:
    """What the probe could not tell is told by the table."""
    assert name == rooms.table()[Section.DERP].name(target)


def test_a_result_of_an_unknown_kind_is_a_bug_that_shows(rooms: Rooms) -> None:
    """It must not pass as a run without findings."""
    with pytest.raises(TypeError, match="no judgement of a str"):
        rooms.table()[Section.DERP].judge(RELAY, "nonsense")


def test_a_transport_has_its_own_times(rooms: Rooms) -> None:
    """Both are probed side by side, so the run's time is none of them."""
    result = relay(transport(0.1, duration_seconds=0.25), transport(0.1, kind="websocket", duration_seconds=0.5))
    assert isinstance(result, RelayResult)
    judgements = rooms.table()[Section.DERP].judge(RELAY, result)
    assert [0.25, 0.5] == [judgement.duration_seconds for judgement in judgements]


def test_the_section_shows_its_regions_whole(rooms: Rooms) -> None:
    """A region's entry holds the latest results that its verdict stands on."""
    result = derp(region(relay(transport(0.1))))
    assert isinstance(result, DerpResult)
    judgements = rooms.table()[Section.DERP].judge(SECTION, result)
    assert (result, *result.regions) == tuple(judgement.result for judgement in judgements)


def test_sections_that_were_shown_stay(rooms: Rooms) -> None:
    """Which foreign sections are shown does not change with every report: the room remembers them."""
    target = ReportTarget(
        access_url=AccessURL(url="https://a.example.com"),
        session_token=SessionToken(token=Secret("abcdefghij-0123456789012345678901")),
        **(TIMES | {"section": Section.REPORT}),
    )
    memory = rooms.remember_polls(target)
    result = ReportResult(
        name="coder",
        report=CoderReport(sections=(ReportedSection(name="pubsub", severity=Severity.OK),)),
    )
    judge = rooms.table()[Section.REPORT].judge
    judge(target, result)
    assert "pubsub" in memory.shown
    judge(target, ReportResult(name="coder"))
    assert "pubsub" in memory.shown
