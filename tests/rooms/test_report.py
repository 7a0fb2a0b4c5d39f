"""The room of the report: what it remembers between polls."""

from __future__ import annotations

import pytest

from exporter.clock import SystemClock
from exporter.health.coder_report import CoderReport, ReportedSection
from exporter.health.model import Section, Severity
from exporter.health.report import ReportResult
from exporter.rooms.report import ReportRoom, is_complete
from exporter.secret import Secret
from exporter.snapshot import Snapshot
from exporter.targets.model import AccessURL, ReportTarget, SessionToken

TARGET = ReportTarget(
    deployment="prod",
    section=Section.REPORT,
    interval_seconds=120.0,
    timeout_seconds=80.0,
    access_url=AccessURL(url="https://a.example.com"),
    session_token=SessionToken(token=Secret("abcdefghij-0123456789012345678901")),
)


@pytest.fixture
def room() -> ReportRoom:
    return ReportRoom({}, snapshot=Snapshot(), clock=SystemClock())


def test_sections_that_were_shown_stay(room: ReportRoom) -> None:
    """Which foreign sections are shown does not change with every report: the room remembers them."""
    memory = room.remember_polls(TARGET)
    told = CoderReport(sections=(ReportedSection(name="pubsub", severity=Severity.OK),))
    room.judge(TARGET, ReportResult(name="coder", report=told))
    assert "pubsub" in memory.shown
    room.judge(TARGET, ReportResult(name="coder"))
    assert "pubsub" in memory.shown


def test_a_replica_that_left_leaves_nothing(room: ReportRoom) -> None:
    """One that comes back under its name begins anew."""
    before = room.remember_polls(TARGET)
    assert {TARGET.schedule_name} == room.remembered
    room.forget(TARGET.schedule_name)
    assert not room.remembered
    assert before is not room.remember_polls(TARGET)


def test_a_poll_that_failed_leaves_what_the_one_before_said() -> None:
    """Without a report only one that is too old takes the sections along."""
    assert not is_complete(ReportResult(name="coder", held_seconds=60.0))
    assert is_complete(ReportResult(name="coder", held_seconds=3600.0))
    assert is_complete(ReportResult(name="coder", report=CoderReport(sections=())))
