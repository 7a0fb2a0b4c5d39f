"""The recorder: a finished round comes into snapshot, metrics and log, whole or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import structlog

from exporter.cut_off import CutOff
from exporter.declared import Declared
from exporter.health.model import OffReason, Section, Severity, Witness
from exporter.recorder import Recorder
from exporter.runner import Round
from exporter.snapshot import CodeChange
from exporter.targets.model import AccessURL, AccessURLTarget, SectionKey
from tests.support.clock import FakeClock
from tests.support.exposition import AT_ONCE, START, World, access_url, attempt, health, pick

KEY = SectionKey(deployment="prod", section=Section.ACCESS_URL)
TARGET = AccessURLTarget(
    deployment="prod",
    section=Section.ACCESS_URL,
    interval_seconds=30.0,
    timeout_seconds=5.0,
    access_url=AccessURL(url="https://coder.example.com"),
)


class Recording:
    """A recorder, its parts, and what it told."""

    def __init__(self) -> None:
        self.clock = FakeClock(now=START)
        self.world = World(deployments=())
        self.changes: list[CodeChange] = []
        parts: dict[str, Any] = {"snapshot": self.world.snapshot, "board": self.world.board}
        self.recorder = Recorder(
            cut_off=CutOff(clock=self.clock, on_verdict=lambda settles: self.recorder.thaw(settles)),
            declared=Declared({KEY: AT_ONCE}, off={}, report_policies={}, **parts),
            clock=self.clock,
            on_change=self.changes.append,
            **parts,
        )
        self._runs = 0

    def take(self, *codes: str, result: object | None = None, **more: Any) -> None:
        self._runs += 1
        told = health("prod", Section.ACCESS_URL, "coder.example.com", result, run=self._runs, codes=codes, **more)
        self.recorder.take(TARGET, Round(healths=(told,)))

    def active(self) -> set[str]:
        shown = pick(self.world.read(), "coder_health_code_active", "code")
        return {code for code, value in shown.items() if value}


@pytest.fixture
def recording() -> Recording:
    return Recording()


@pytest.fixture
def lines() -> Iterator[list[Any]]:
    with structlog.testing.capture_logs() as captured:
        yield captured


def test_a_code_is_shown_logged_and_told_once(recording: Recording, lines: list[Any]) -> None:
    """When it comes and when it goes, not each time it is seen."""
    recording.take("EACS03")
    assert {"EACS03"} == recording.active()
    recording.take("EACS03")
    recording.take()
    assert set() == recording.active()
    assert [("EACS03", True), ("EACS03", False)] == [(one.code, one.active) for one in recording.changes]
    told = [(line["event"], line["log_level"], line["code"]) for line in lines if "code" in line]
    assert [("code.activated", "warning", "EACS03"), ("code.cleared", "info", "EACS03")] == told


def test_what_is_only_shown_is_no_warning(recording: Recording, lines: list[Any]) -> None:
    """A code of severity ok stands in the log as information."""
    recording.take("XWP03", severity=Severity.OK)
    assert [("code.activated", "info")] == [(line["event"], line["log_level"]) for line in lines if "code" in line]


def test_a_section_that_goes_off_stands_in_the_log(recording: Recording, lines: list[Any]) -> None:
    """With its reason, once; and once when it is back."""
    for off in (OffReason.FORBIDDEN, OffReason.FORBIDDEN, None, None):
        recording.take(off=off)
    told = [
        (line["event"], line["log_level"], line["reason"]) for line in lines if line["event"].startswith("section.")
    ]
    assert [("section.disabled", "warning", "forbidden"), ("section.enabled", "info", "")] == told


def test_a_section_of_a_report_that_goes_off_is_told_from_ours(recording: Recording, lines: list[Any]) -> None:
    """By its witness, and by the replica whose report it is: our own probe of that section goes on."""
    key = KEY._replace(witness=Witness.REPORT, coder_replica="coderd-0")
    recording.world.snapshot.declare(key, (), AT_ONCE)
    told = health("prod", Section.ACCESS_URL, "coderd-0", off=OffReason.FORBIDDEN)
    told = replace(told, key=told.key._replace(section_key=key))
    recording.recorder.take(TARGET, Round(healths=(told,)))
    [line] = [line for line in lines if line["event"] == "section.disabled"]
    assert ("access_url", "report", "coderd-0") == (line["section"], line["witness"], line["coder_replica"])


async def test_a_new_version_lets_skew_wait(recording: Recording) -> None:
    """The first version seen is none; another one is noted with its time."""
    recording.take(result=access_url(attempt(coder_version="v2.24.1")))
    await recording.clock.advance(60.0)
    assert 60.0 == recording.recorder.elapsed_seconds
    assert {} == recording.world.snapshot._version_changed
    recording.take(result=access_url(attempt(coder_version="v2.25.0")))
    assert {"prod": 60.0} == recording.world.snapshot._version_changed


def test_a_schedule_entry_that_is_gone_leaves_no_series(recording: Recording) -> None:
    """Its code is over, and told so."""
    recording.take("EACS03")
    recording.recorder.retire(TARGET.schedule_name)
    assert {} == recording.world.snapshot.entries
    assert set() == recording.active()
    assert [True, False] == [change.active for change in recording.changes]
