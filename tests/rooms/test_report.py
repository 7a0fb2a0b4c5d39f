"""The room of the report: what it remembers between polls."""

from __future__ import annotations

from dataclasses import replace

import pytest

from exporter.clock import SystemClock
from exporter.health.coder_report import CoderReport, ReportedSection
from exporter.health.model import REPORT_SECTIONS, OffReason, Section, Severity
from exporter.health.report import ReportResult
from exporter.health.report_whole import MAX_FOREIGN_SECTIONS
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


def test_replicas_share_the_bounds_of_what_we_do_not_know(room: ReportRoom) -> None:
    """So many foreign sections a deployment: each replica leaves out what the others leave no room for, until they
    show less, or are gone."""
    one, other, apart = (
        replace(TARGET, deployment=deployment, coder_replica=replica)
        for deployment, replica in (("prod", "a"), ("prod", "b"), ("stage", "a"))
    )

    def judge(target: ReportTarget, *names: str, **more: OffReason) -> set[str]:
        sections = tuple(ReportedSection(name=name, severity=Severity.OK) for name in names)
        told = None if more else CoderReport(sections=sections)
        judged = room.judge(target, ReportResult(name=target.coder_replica, report=told, **more))
        keys = [one.section_key for one in judged if one.section_key is not None]
        return {str(key.section) for key in keys if key.section not in REPORT_SECTIONS}

    many = [f"new{number}" for number in range(MAX_FOREIGN_SECTIONS)]
    assert set(many) == judge(one, "derp", *many)
    assert {"new0"} == judge(other, "another", "new0")
    assert {"another"} == judge(apart, "another")
    assert {"new1"} == judge(one, "new1")
    assert {"another", "new0"} == judge(other, "another", "new0")
    judge(other, off=OffReason.NO_TOKEN)
    assert set(many) == judge(one, *many)
    room.forget(one.schedule_name)
    assert {"another"} == judge(other, "another")


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
