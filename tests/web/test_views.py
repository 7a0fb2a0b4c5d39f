"""The views: what every witness says of a section, joined from the snapshot and what is known beside it."""

from __future__ import annotations

from dataclasses import replace

from exporter.health.model import UNCODED, OffReason, Section, Severity, Witness
from exporter.health.root_cause import Layer, RootCause
from exporter.targets.model import SectionKey
from exporter.web.views import MAX_EVIDENCE, Background, DeploymentView, Disagreement, SectionView, survey
from tests.support.exposition import AT_ONCE, START, World, database, health


def reported(section: Section | str = Section.DATABASE, replica: str = "") -> SectionKey:
    return SectionKey(deployment="prod", section=section, witness=Witness.REPORT, coder_replica=replica)


def look(world: World, **more: object) -> DeploymentView:
    (deployment,) = survey(world.snapshot, Background(off=world.board.off, **more))  # type: ignore[arg-type]
    return deployment


def section(view: DeploymentView, name: str) -> SectionView:
    return next(one for one in view.sections if one.section == name)


def test_witnesses_of_a_section_stand_together_the_probe_first() -> None:
    """Whatever the order in which they were declared."""
    world = World(sections=())
    for key in (reported(replica="b"), reported(replica="a"), SectionKey(deployment="prod", section=Section.DATABASE)):
        world.declare(key)
    found = section(look(world), Section.DATABASE)
    assert [(Witness.PROBE, ""), (Witness.REPORT, "a"), (Witness.REPORT, "b")] == [
        (one.witness, one.coder_replica) for one in found.witnesses
    ]


def test_our_probe_is_believed_where_it_says_something() -> None:
    """Else the worst report; nobody where nothing was measured."""
    world = World(sections=(Section.DATABASE,))
    world.declare(reported(replica="a"))
    world.declare(reported(replica="b"))
    assert section(look(world), Section.DATABASE).verdict is None
    world.tell(reported(replica="a"), codes=[])
    world.tell(reported(replica="b"), codes=["EDB02"], severity=Severity.WARNING)
    verdict = section(look(world), Section.DATABASE).verdict
    assert verdict is not None
    assert (Witness.REPORT, "b", Severity.WARNING) == (verdict.witness, verdict.coder_replica, verdict.severity)
    world.run("prod", Section.DATABASE, {"primary": database(0.1)})
    verdict = section(look(world), Section.DATABASE).verdict
    assert verdict is not None
    assert (Witness.PROBE, Severity.OK) == (verdict.witness, verdict.severity)


def test_how_reports_are_to_be_had_is_the_worst_of_all_replicas() -> None:
    """Through the access URL nobody polls them then: a report that crashed at each replica is no "ok"."""
    world = World(sections=(Section.REPORT,))
    polls = [SectionKey(deployment="prod", section=Section.REPORT, coder_replica=replica) for replica in ("a", "b")]
    for key in polls:
        world.declare(key)
    assert section(look(world), Section.REPORT).verdict is None
    world.tell(SectionKey(deployment="prod", section=Section.REPORT), codes=[])
    world.tell(polls[0], codes=["XRPT04"], severity=Severity.WARNING)
    world.tell(polls[1], codes=["XRPT03"])
    verdict = section(look(world), Section.REPORT).verdict
    assert verdict is not None
    assert ("b", Severity.ERROR) == (verdict.coder_replica, verdict.severity)


def test_an_active_code_has_the_severity_that_has_settled() -> None:
    """Another target that was seen worse only now does not make it worse before it settles."""
    world = World(sections=(Section.WORKSPACE_PROXY,), policy=replace(AT_ONCE, raise_after=2))
    for _ in range(2):
        world.run("prod", Section.WORKSPACE_PROXY, {"a": None}, codes=["EWP04"], severity=Severity.WARNING)
    other = health("prod", Section.WORKSPACE_PROXY, "b", codes=["EWP04"])
    world.snapshot.commit("prod/other", [other], now=START + 90.0, elapsed_seconds=90.0)
    (code,) = section(look(world), Section.WORKSPACE_PROXY).witnesses[0].codes
    assert (True, Severity.WARNING, 2) == (code.active, code.severity, code.target_count)
    assert Severity.ERROR is code.evidence[0].severity


def test_codes_come_with_their_evidence_the_worst_first() -> None:
    """Each target with its own sentence; more than enough of them are only counted."""
    world = World(sections=(Section.WORKSPACE_PROXY,))
    names = {f"proxy-{number:02}": None for number in range(MAX_EVIDENCE + 5)}
    world.run("prod", Section.WORKSPACE_PROXY, names, codes=["EWP04", "XWP01"], severity=Severity.WARNING)
    codes = section(look(world), Section.WORKSPACE_PROXY).witnesses[0].codes
    assert ["EWP04", "XWP01"] == [code.value for code in codes]
    assert (MAX_EVIDENCE, MAX_EVIDENCE + 5) == (len(codes[0].evidence), codes[0].target_count)
    assert ("proxy-00", "EWP04 was seen") == (codes[0].evidence[0].target, codes[0].evidence[0].message)
    assert all(code.active and code.since_timestamp_seconds == START + 30.0 for code in codes)


def test_trouble_without_a_code_is_told_all_the_same() -> None:
    """Coder's report may say error and name nothing."""
    world = World(sections=())
    world.declare(reported())
    world.tell(reported(), codes=[UNCODED])
    (code,) = section(look(world), Section.DATABASE).witnesses[0].codes
    assert (UNCODED, Severity.ERROR, "Coder's report tells trouble without a code.") == (
        code.value,
        code.severity,
        code.summary,
    )


def test_what_is_known_beside_the_snapshot_is_joined() -> None:
    """Mutes, disagreements, and that a section only follows from the root cause."""
    world = World(sections=(Section.WEBSOCKET, Section.DATABASE))
    cause = RootCause(layer=Layer.TLS, sentence="the certificate has ended", consequences=(Section.WEBSOCKET,))
    differs = Disagreement(coder_replica="a", sentence="the report says error")
    view = look(
        world,
        root_causes={"prod": cause},
        dismissed={"prod": {"database": START, "websocket": None}},
        disagreements={"prod": {"database": (differs,)}},
    )
    websocket, database_view = view.sections
    assert cause == view.root_cause
    assert (True, False, None) == (
        websocket.consequence,
        websocket.dismissed,
        websocket.dismissed_since_timestamp_seconds,
    )
    assert (False, True, START, (differs,)) == (
        database_view.consequence,
        database_view.dismissed,
        database_view.dismissed_since_timestamp_seconds,
        database_view.disagreements,
    )


def test_what_is_not_known_of_mutes_is_not_guessed() -> None:
    """Without an Owner's token nobody knows."""
    world = World(sections=(Section.DATABASE,))
    assert None is section(look(world), Section.DATABASE).dismissed


def test_a_deployment_is_as_bad_as_the_worst_that_anybody_says() -> None:
    """None before the first run, and of what is off."""
    world = World(sections=(Section.DATABASE,))
    world.declare(reported("pubsub"))
    world.board.declare(SectionKey(deployment="prod", section=Section.WEBSOCKET), OffReason.DISABLED)
    assert None is look(world).severity
    world.run("prod", Section.DATABASE, {"primary": database(0.1)})
    assert Severity.OK is look(world).severity
    world.tell(reported("pubsub"), codes=["EUNKNOWN"], severity=Severity.WARNING)
    assert Severity.WARNING is look(world).severity


def test_one_deployment_can_be_asked_for() -> None:
    """Of the others nothing is gone through."""
    world = World(("prod", "test"), sections=(Section.DATABASE,))
    assert ["test"] == [view.name for view in survey(world.snapshot, Background(off=world.board.off), only="test")]
    assert () == survey(world.snapshot, Background(off=world.board.off), only="nobody")
