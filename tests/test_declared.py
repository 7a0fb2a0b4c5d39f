"""Sections that are known: planned ones for good, found ones as long as somebody tells of them."""

from __future__ import annotations

import pytest

from exporter.declared import Declared
from exporter.health import codes
from exporter.health.model import REPORT_SECTIONS, OffReason, Section, Witness
from exporter.targets.model import AccessURL, ReportTarget, SectionKey, SessionToken
from tests.support.exposition import AT_ONCE, World, pick

PLANNED = SectionKey(deployment="prod", section=Section.ACCESS_URL)
POLL = ReportTarget(
    deployment="prod",
    section=Section.REPORT,
    interval_seconds=120.0,
    timeout_seconds=80.0,
    access_url=AccessURL(url="https://a.example.com"),
    session_token=SessionToken(),
    coder_replica="coder-a",
)
DATABASE = SectionKey(
    deployment="prod", section=Section.DATABASE, witness=Witness.REPORT, coder_replica=POLL.coder_replica
)
FOREIGN = DATABASE._replace(section="pubsub")


@pytest.fixture
def world() -> World:
    return World(deployments=())


@pytest.fixture
def declared(world: World) -> Declared:
    return Declared(
        {PLANNED: AT_ONCE},
        off={PLANNED: OffReason.DISABLED},
        report_policies={"prod": AT_ONCE},
        snapshot=world.snapshot,
        board=world.board,
    )


def shown_replicas(world: World) -> set[str]:
    series = pick(world.read(), "coder_health_code_active", "section", "code", "coder_replica")
    return {replica for _, _, replica in series}


def test_what_is_planned_is_known_from_the_start(world: World, declared: Declared) -> None:
    """With the reason why it is off, and for good."""
    assert {PLANNED: OffReason.DISABLED} == world.board.off
    declared.add(PLANNED, "prod/access_url")
    declared.remove_target("prod/access_url")
    assert {PLANNED} == world.snapshot.sections.keys()


def test_a_replica_brings_the_sections_of_its_report(world: World, declared: Declared) -> None:
    """All their codes are there at 0 before its first report, and leave with it."""
    declared.add_target(POLL)
    told = {key.section for key in world.snapshot.sections if key.coder_replica == "coder-a"}
    assert {*REPORT_SECTIONS, Section.REPORT} == told
    active = pick(world.read(), "coder_health_code_active", "section", "code", "coder_replica")
    assert {0.0} == set(active.values())
    wanted = set(codes.section_codes(Section.DATABASE, Witness.REPORT))
    assert wanted == {code for section, code, replica in active if (section, replica) == ("database", "coder-a")}
    declared.remove_target(POLL.schedule_name)
    assert {PLANNED} == world.snapshot.sections.keys()
    assert set() == shown_replicas(world)


def test_a_section_stays_while_one_of_two_tells_of_it(world: World, declared: Declared) -> None:
    """It leaves with the last one."""
    declared.add(DATABASE, "one")
    declared.add(DATABASE, "two")
    declared.remove_target("one")
    assert DATABASE in world.snapshot.sections
    declared.remove_target("two")
    assert DATABASE not in world.snapshot.sections


def test_a_foreign_section_leaves_with_the_report_that_told_of_it(world: World, declared: Declared) -> None:
    """One of ours stays although it has nothing to tell yet."""
    for key in (DATABASE, FOREIGN):
        declared.add(key, POLL.schedule_name)
    world.tell(FOREIGN)
    declared.forget_unreported([DATABASE, FOREIGN])
    assert {PLANNED, DATABASE, FOREIGN} == world.snapshot.sections.keys()
    world.board.show(world.snapshot.retire(str(FOREIGN)))
    declared.forget_unreported([DATABASE, FOREIGN])
    assert {PLANNED, DATABASE} == world.snapshot.sections.keys()
    # and it may come back
    declared.add(FOREIGN, POLL.schedule_name)
    assert FOREIGN in world.snapshot.sections
