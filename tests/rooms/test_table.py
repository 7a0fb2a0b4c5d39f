"""The table of rooms: every section has one."""

from __future__ import annotations

import pytest

from exporter.clock import SystemClock
from exporter.health.exporter import ExporterResult
from exporter.health.model import Section
from exporter.rooms.table import Rooms
from exporter.snapshot import Snapshot
from exporter.targets.model import (
    ExporterTarget,
)


@pytest.fixture
def rooms() -> Rooms:
    async def look_at_host(_target: ExporterTarget) -> ExporterResult:
        return ExporterResult()

    return Rooms(relays={}, replicas={}, look_at_host=look_at_host, snapshot=Snapshot(), clock=SystemClock())


def test_every_section_has_a_room(rooms: Rooms) -> None:
    """A section without one could be planned, but not run."""
    assert set(Section) == set(rooms.table())
