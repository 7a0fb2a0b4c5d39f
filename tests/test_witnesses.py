"""Both witnesses gathered from a snapshot: views, comparisons, versions, and the first broken layer."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest

from exporter.errors import Phase, Reason
from exporter.health.access_url import AccessURLResult, FamilyAttempt, Identity
from exporter.health.coder_report import CoderReport, ReportedSection
from exporter.health.derp import DerpResult, RegionResult
from exporter.health.disagreement import DisagreementKind
from exporter.health.model import (
    REPORT_SECTIONS,
    UNCODED,
    Failure,
    Finding,
    OffReason,
    Report,
    Section,
    Severity,
    Witness,
)
from exporter.health.replica import ReplicaResult
from exporter.health.report import Refusal, ReplicaView, ReportResult, ReportsResult
from exporter.health.root_cause import Layer
from exporter.health.settle import Policy
from exporter.health.workspace_proxy import ListedProxy, ProxyResult, ProxyStatus
from exporter.snapshot import Snapshot, TargetHealth
from exporter.targets.model import SectionKey, TargetKey
from exporter.witnesses import (
    SkewWatch,
    compare,
    complete,
    find_root_cause,
    gather_skew,
    gather_versions,
    gather_views,
)

E, W, OK = Severity.ERROR, Severity.WARNING, Severity.OK
START = 10_000.0
POLLS = 120.0  # interval of the report
RUNS = itertools.count(1)


def key(
    section: Section | str, witness: Witness = Witness.PROBE, replica: str = "", deployment: str = "prod"
) -> SectionKey:
    return SectionKey(deployment=deployment, section=section, witness=witness, coder_replica=replica)


class World:
    """A snapshot of a deployment where each witness can be told what to see. Probes settle with the second
    run and reports with the first."""

    def __init__(self, *replicas: str) -> None:
        self.snapshot = Snapshot()
        self.replicas = replicas or ("",)
        for section in Section:
            self._declare(key(section), 2)
        for replica in self.replicas:
            self._declare(key(Section.REPORT, replica=replica), 1)
            for name in REPORT_SECTIONS:
                self._declare(key(name, Witness.REPORT, replica), 1)

    def _declare(self, section_key: SectionKey, raise_after: int) -> None:
        policy = Policy(raise_after=raise_after, clear_after=2, startup_grace_seconds=0.0)
        self.snapshot.declare(section_key, (), policy)

    def see(
        self,
        section_key: SectionKey,
        *codes: tuple[str, Severity],
        now: float = START,
        name: str = "c",
        result: object = None,
        failure: Failure | None = None,
        runs: int = 2,
        interval: float = 30.0,
        skew: bool = False,
        off: OffReason | None = None,
    ) -> None:
        """Let a target be run, so often that what is seen has settled."""
        if failure is None and any(severity is E for _, severity in codes):
            failure = Failure(reason=Reason.TIMEOUT, message="failed")
        findings = tuple(
            Finding(code=code, severity=severity, message=f"{code} was seen", skew=skew) for code, severity in codes
        )
        for run in range(runs):
            health = TargetHealth(
                key=TargetKey(section_key=section_key, name=name),
                run=next(RUNS),
                interval_seconds=interval,
                started_timestamp_seconds=now - (runs - 1 - run),
                duration_seconds=0.0,
                result=result,
                report=Report(section=section_key.section, findings=findings, failure=failure, off=off),
            )
            self.snapshot.commit(f"{section_key}/{name}", [health], now=now, elapsed_seconds=1e6)

    def poll(self, replica: str = "", *, now: float, age: float | None = 10.0, **more: Any) -> None:
        """Let a report be polled that is so old."""
        known: dict[str, Any] = {
            "report": CoderReport(timestamp_seconds=None if age is None else now - age, version="v2.30.0"),
            "age_seconds": age,
            "held_seconds": age or 0.0,
        }
        result = ReportResult(name=replica or "c", **(known | more))
        self.see(
            key(Section.REPORT, replica=replica), now=now, name=replica or "c", result=result, runs=1, interval=POLLS
        )

    def report(self, replica: str = "", *, now: float, age: float | None = 10.0, **sections: Any) -> None:
        """Let a replica report its sections: those that are named with codes, the rest well."""
        self.poll(replica, now=now, age=age)
        for section in REPORT_SECTIONS:
            codes = sections.get(section.value, ())
            result = ReportedSection(name=section.value, severity=OK)
            self.see(key(section, Witness.REPORT, replica), *codes, now=now, name=replica or "c", result=result, runs=1)

    def compare(self, now: float, **more: Any) -> dict[tuple[str, str], DisagreementKind | None]:
        return {(one.section.value, one.coder_replica): one.kind for one in compare(self.snapshot, "prod", now, **more)}

    def find_layer(self) -> Layer | None:
        cause = find_root_cause(self.snapshot, "prod")
        return None if cause is None else cause.layer


def access_url(status: int | None = None, version: str = "v2.30.0", failure: Failure | None = None) -> AccessURLResult:
    attempt = FamilyAttempt(
        family="ipv4",
        address="192.0.2.7",
        phase_seconds={},
        failure=failure,
        status=status,
        body_ok=status == 200,
        coder_version=version or None,
    )
    return AccessURLResult(host="c", attempts=(attempt,), phase_seconds={}, measured_timestamp_seconds=START)


# comparisons


def test_what_can_be_compared() -> None:
    """Each section with both witnesses, and each replica by itself; what is not measured is absent."""
    world = World("a", "b")
    for section in (Section.ACCESS_URL, Section.DATABASE):
        world.see(key(section), now=START)
    world.report("a", now=START + 20)
    world.report("b", now=START + 20, database=[("EDB01", E)])
    assert {
        ("access_url", "a"): None,
        ("access_url", "b"): None,
        ("database", "a"): None,
        ("database", "b"): DisagreementKind.INSIDE_BAD_OUTSIDE_OK,
    } == world.compare(START + 20)
    (odd,) = (one for one in compare(world.snapshot, "prod", START + 20) if one.differs)
    assert "replica b" in odd.sentence
    assert "the other replicas are fine" in odd.sentence


def test_outside_bad_inside_ok() -> None:
    """What only we see is told, once our verdict and the report after it are settled."""
    world = World()
    world.report(now=START)
    world.see(key(Section.WEBSOCKET), ("EWS01", E), now=START + 5, runs=1)
    assert {} == world.compare(START + 5)  # observed, not settled
    world.see(key(Section.WEBSOCKET), ("EWS01", E), now=START + 35, runs=1)
    assert {} == world.compare(START + 35)  # the report is from before
    world.report(now=START + 120, age=10.0)
    assert {("websocket", ""): DisagreementKind.INSIDE_OK_OUTSIDE_BAD} == world.compare(START + 120)


def test_a_report_from_before_the_change_is_not_compared() -> None:
    """A report out of Coder's cache, made before our verdict changed, says nothing about now."""
    world = World()
    world.see(key(Section.DATABASE), now=START)
    world.see(key(Section.DATABASE), now=START + 299, runs=1)
    world.report(now=START + 300, age=299.0)
    assert {("database", ""): None} == world.compare(START + 300)
    world.report(now=START + 300, age=301.0)
    assert {} == world.compare(START + 300)


@pytest.mark.parametrize(("there", "later"), [(True, 89.0), (False, 91.0)])
def test_a_probe_that_is_late_is_not_compared(there: bool, later: float) -> None:
    """Three intervals after its last run a probe tells of a past time."""
    world = World()
    world.see(key(Section.DATABASE), now=START)
    world.report(now=START + later)
    assert there is bool(world.compare(START + later))


@pytest.mark.parametrize(("there", "back"), [(True, 0.0), (True, 30.0), (False, 200.0), (False, 86_400.0)])
def test_a_clock_that_is_set_back_keeps_nothing_fresh(there: bool, back: float) -> None:
    """What ran before the clock was set back tells of a past time; a small step is none."""
    world = World()
    world.see(key(Section.DATABASE), now=START)
    world.report(now=START + 60)
    assert there is (("database", "") in world.compare(START + 60 - back))


@pytest.mark.parametrize(("there", "later"), [(True, 940.0), (False, 960.0)])
def test_a_report_that_is_old_is_not_compared(there: bool, later: float) -> None:
    """A report counts for its refresh time and three intervals; so long its replica has a view, too."""
    world = World()
    world.see(key(Section.DATABASE), now=START - 20)
    world.report(now=START, age=10.0)
    world.see(key(Section.DATABASE), now=START + later, runs=1)
    assert (there, there) == (
        bool(world.compare(START + later)),
        bool(gather_views(world.snapshot, "prod", START + later)),
    )


def test_a_poll_that_fails_leaves_the_report_in_hand() -> None:
    """One lost poll takes no view away; a refusal takes it at once."""
    world = World()
    world.see(key(Section.DATABASE), now=START - 20)
    world.report(now=START, age=10.0)
    world.see(key(Section.DATABASE), now=START + 120, runs=1)
    lost = {"report": None, "failure": Failure(reason=Reason.TIMEOUT, message="silent")}
    world.poll(now=START + 120, age=None, **lost, held_seconds=130.0)
    assert {("database", ""): None} == world.compare(START + 120)
    world.poll(now=START + 120, age=None, **lost, held_seconds=130.0, refusal=Refusal.FORBIDDEN)
    assert ({}, ()) == (world.compare(START + 120), gather_views(world.snapshot, "prod", START + 120))


def test_a_report_without_a_time_may_be_as_old_as_the_cache() -> None:
    """Nobody knows how old it is: it is compared once our verdict is older than any report can be."""
    world = World()
    world.see(key(Section.DATABASE), now=START)
    for later, expected in ((590.0, {}), (610.0, {("database", ""): None})):
        world.see(key(Section.DATABASE), now=START + later, runs=1)
        world.report(now=START + later, age=None)
        assert expected == world.compare(START + later)


@pytest.mark.parametrize("code", ["EUNKNOWN", "XDB01"])
def test_a_blind_probe_is_not_compared(code: str) -> None:
    """A probe that broke, or is refused, has seen nothing that could differ."""
    world = World()
    world.see(key(Section.DATABASE), (code, W), now=START)
    world.report(now=START + 10, age=1.0, database=[("EDB01", E)])
    assert {} == world.compare(START + 10)


@pytest.mark.parametrize("side", [Witness.PROBE, Witness.REPORT])
def test_a_section_that_is_off_is_not_compared(side: Witness) -> None:
    """What is off is not well: it is unknown."""
    world = World()
    world.see(key(Section.WEBSOCKET), now=START)
    world.report(now=START + 10, age=1.0)
    world.see(key(Section.WEBSOCKET, side), now=START + 10, off=OffReason.FORBIDDEN, runs=1)
    assert {} == world.compare(START + 10)


def test_a_single_round_is_compared_as_it_was_seen() -> None:
    """Without settling, as in a check, what the last runs observed is compared."""
    world = World()
    world.see(key(Section.WEBSOCKET), ("EWS01", E), now=START, runs=1)
    world.report(now=START, age=60.0, websocket=[("XACS02", OK)])
    assert {("websocket", ""): DisagreementKind.INSIDE_OK_OUTSIDE_BAD} == world.compare(START, settled=False)
    assert {} == world.compare(START)


# views, versions, skew


def test_each_replica_has_its_view() -> None:
    """The settled severity of every section that a replica reports, also of one that we do not know."""
    world = World("b", "a")
    foreign = key("healthz_of_tomorrow", Witness.REPORT, "a")
    world.snapshot.declare(foreign, (), Policy(raise_after=1, startup_grace_seconds=0.0))
    world.report("a", now=START, database=[(UNCODED, E)])
    world.see(foreign, ("EXX01", W), now=START, name="a", runs=1)
    world.report("b", now=START, derp=[("EDERP01", W)])
    world.see(key(Section.ACCESS_URL), ("EACS03", E), now=START)  # what we see is no replica's view
    well = dict.fromkeys((section.value for section in REPORT_SECTIONS), OK)
    assert (
        ReplicaView(coder_replica="a", severities=well | {"database": E, "healthz_of_tomorrow": W}),
        ReplicaView(coder_replica="b", severities=well | {"derp": W}),
    ) == gather_views(world.snapshot, "prod", START)
    assert () == gather_views(world.snapshot, "stage", START)


def test_versions_by_replica() -> None:
    """What a replica itself answers comes before what its report says; the access URL has its host."""
    world = World("a", "b")
    world.poll("a", now=START)
    world.poll("b", now=START)
    for replica, version in (("a", "v2.31.1"), ("b", "")):
        world.snapshot.declare(key(Section.ACCESS_URL, replica=replica), (), Policy())
        answer = ReplicaResult(name=replica, status=200, coder_version=version)
        world.see(key(Section.ACCESS_URL, replica=replica), name=replica, result=answer)
    world.see(key(Section.ACCESS_URL), result=access_url(200, version="v2.31.0"))
    assert {"a": "v2.31.1", "b": "v2.30.0", "c": "v2.31.0"} == gather_versions(world.snapshot, "prod")
    silent = AccessURLResult(
        host="c",
        identity=Identity(deployment_id=None, access_url_host=None, version="v2.29.0", workspace_proxy=False),
        phase_seconds={},
        measured_timestamp_seconds=START,
    )
    world.see(key(Section.ACCESS_URL), result=silent)
    assert "v2.29.0" == gather_versions(world.snapshot, "prod")["c"]


def test_skew_of_any_witness() -> None:
    """Replicas of several versions first, then what is observed now, worst first, each once."""
    world = World("a", "b")
    assert () == gather_skew(world.snapshot, "prod")
    world.see(key(Section.WORKSPACE_PROXY), ("EWP04", W), name="eu", skew=True, runs=1)
    world.see(key(Section.WORKSPACE_PROXY), ("XWP02", E), name="us", runs=1)
    world.see(key(Section.PROVISIONER_DAEMONS, Witness.REPORT, "a"), ("EPD03", E), name="a", skew=True, runs=1)
    world.poll("a", now=START)
    world.poll("b", now=START, report=CoderReport(version="v2.31.0"))
    assert (
        "replicas of coderd have different versions: a v2.30.0, b v2.31.0",
        "the report of replica a says: EPD03 was seen",
        "EWP04 was seen",
    ) == gather_skew(world.snapshot, "prod")
    world.poll("b", now=START, report=CoderReport(version="v2.30.9"))  # a patch is no other version to Coder
    assert 2 == len(gather_skew(world.snapshot, "prod"))


def test_since_when_there_is_skew() -> None:
    """One look without it is a reading that was missed; two are the end. Deployments are told apart."""
    watch = SkewWatch()
    looks = [(0.0, True), (60.0, True), (120.0, False), (180.0, True), (240.0, False), (300.0, False), (360.0, True)]
    told = [watch.see("prod", skew=skew, monotonic_seconds=now) for now, skew in looks]
    assert [0.0, 60.0, None, 180.0, None, None, 0.0] == told
    assert 0.0 == watch.see("stage", skew=True, monotonic_seconds=999.0)


def test_a_result_is_completed() -> None:
    """What one probe cannot know is filled in, the rest stays."""
    world = World("a", "b")
    world.report("a", now=START)
    world.poll("b", now=START, report=CoderReport(version="v2.31.0"))
    watch = SkewWatch()
    for monotonic in (5.0, 65.0):
        result = complete(
            ReportsResult(dismissed=("derp",)),
            world.snapshot,
            "prod",
            watch=watch,
            skew_limit_seconds=42.0,
            now=START,
            monotonic_seconds=monotonic,
        )
    assert (("derp",), ["a"], {"a": "v2.30.0", "b": "v2.31.0"}, 60.0, 42.0) == (
        result.dismissed,
        [view.coder_replica for view in result.views],
        result.versions,
        result.skew_seconds,
        result.skew_limit_seconds,
    )


# the first broken layer


def test_nothing_is_broken_before_it_has_settled() -> None:
    """One lost probe names no layer, and warnings never do."""
    world = World()
    lost = Failure(reason=Reason.REFUSED, phase=Phase.CONNECT, message="refused")
    assert world.find_layer() is None
    world.see(key(Section.ACCESS_URL), ("EACS03", E), failure=lost, runs=1)
    world.see(key(Section.DATABASE), ("EDB02", W))
    assert world.find_layer() is None
    world.see(key(Section.ACCESS_URL), ("EACS03", E), failure=lost, runs=1)
    assert Layer.TCP is world.find_layer()


@pytest.mark.parametrize(
    ("layer", "phase"),
    [(Layer.DNS, Phase.RESOLVE), (Layer.TCP, Phase.CONNECT), (Layer.TLS, Phase.TLS), (Layer.HTTP, Phase.TRANSFER)],
)
def test_the_phase_of_the_last_failure_tells_the_layer(layer: Layer, phase: Phase) -> None:
    """Also while a good run has been seen that does not clear it yet."""
    world = World()
    failure = Failure(reason=Reason.TIMEOUT, phase=phase, message="out of time")
    world.see(key(Section.ACCESS_URL), ("EACS03", E), failure=failure)
    assert layer is world.find_layer()
    world.see(key(Section.ACCESS_URL), runs=1)
    assert layer is world.find_layer()
    world.see(key(Section.ACCESS_URL), runs=1)
    assert world.find_layer() is None


def test_what_is_seen_while_this_host_is_cut_off_moves_no_layer() -> None:
    """An outage of before stays what it was: a lost route of our own is no trouble of the access URL's."""
    world = World()
    answered = Failure(reason=Reason.STATUS, phase=Phase.PROCESSING, message="status 503")
    world.see(key(Section.DATABASE), ("EDB01", E))
    world.see(key(Section.ACCESS_URL), ("XACS06", E), failure=answered, result=access_url(503))
    assert Layer.DATABASE is world.find_layer()
    (entry,) = world.snapshot.sections[key(Section.ACCESS_URL)].entries.values()
    unrouted = Failure(reason=Reason.UNREACHABLE, phase=Phase.CONNECT, message="no route")
    report = Report(
        section=Section.ACCESS_URL,
        findings=(Finding(code="EACS03", severity=E, message="no route"),),
        failure=unrouted,
    )
    health = replace(entry.health, run=next(RUNS), result=None, report=report)
    world.snapshot.commit(f"{key(Section.ACCESS_URL)}/c", [health], now=START, elapsed_seconds=1e6, frozen=True)
    assert Layer.DATABASE is world.find_layer()


def test_replicas_and_reports_break_no_layer() -> None:
    """What one replica shows, or Coder's report says, is no layer of the deployment."""
    world = World("a")
    world.snapshot.declare(key(Section.ACCESS_URL, replica="a"), (), Policy(startup_grace_seconds=0.0))
    world.see(key(Section.ACCESS_URL, replica="a"), ("XACS06", E))
    world.report("a", now=START, database=[("EDB01", E)])
    assert world.find_layer() is None


@pytest.mark.parametrize(("layer", "status"), [(Layer.DATABASE, 503), (Layer.HTTP, 404)])
def test_a_lost_database_is_what_coder_answers_with(layer: Layer, status: int) -> None:
    """A 5xx beside a database that is gone follows from it; a 404 does not."""
    world = World()
    world.see(key(Section.DATABASE), ("EDB01", E))
    world.see(key(Section.ACCESS_URL), ("XACS06", E), ("EACS04", W), result=access_url(status))
    cause = find_root_cause(world.snapshot, "prod")
    assert cause is not None
    assert layer is cause.layer
    assert ((Section.ACCESS_URL,) if layer is Layer.DATABASE else ()) == cause.consequences
    world.see(key(Section.ACCESS_URL), result=access_url(200), runs=1)  # one good answer in between
    assert Layer.DATABASE is world.find_layer()


def proxy(name: str, status: ProxyStatus) -> ProxyResult:
    return ProxyResult(
        proxy=ListedProxy(id=name, name=name, url=f"https://{name}.example.com"),
        status=status,
        phase_seconds={},
        started_timestamp_seconds=START,
        duration_seconds=0.1,
    )


@pytest.mark.parametrize(
    ("layer", "region", "status"),
    [
        (Layer.PROXY, RegionResult(region_id=10001, name="EU", code="coder_eu", node_count=1), ProxyStatus.UNREACHABLE),
        (Layer.RELAY, RegionResult(region_id=10001, name="EU", code="coder_eu", node_count=1), ProxyStatus.OK),
        (Layer.RELAY, RegionResult(region_id=10002, name="US", code="coder_us", node_count=1), ProxyStatus.UNREACHABLE),
        (Layer.RELAY, RegionResult(region_id=999, name="Coder", embedded=True, node_count=1), ProxyStatus.UNREACHABLE),
    ],
)
def test_a_region_of_a_lost_proxy_follows_from_it(layer: Layer, region: RegionResult, status: ProxyStatus) -> None:
    """The relay of a proxy that is itself down is no fault of the relays."""
    world = World()
    world.see(key(Section.DERP), name="", result=DerpResult(regions=(region,)))
    world.see(key(Section.DERP), ("XDERP01", E), name=str(region.region_id), result=region)
    world.see(key(Section.WORKSPACE_PROXY), ("EWP04", W), name="EU", result=proxy("EU", status))
    assert layer is world.find_layer()


def test_the_embedded_relay_hangs_on_coder() -> None:
    """While Coder is not reached, its own relay and the map are consequences."""
    world = World()
    region = RegionResult(region_id=999, name="Coder", embedded=True, node_count=1)
    world.see(key(Section.DERP), name="", result=DerpResult(regions=(region,)))
    world.see(key(Section.DERP), ("XDERP01", E), name="999", result=region)
    world.see(key(Section.ACCESS_URL), ("XACS06", E), result=access_url(502))
    cause = find_root_cause(world.snapshot, "prod")
    assert cause is not None
    assert (Layer.HTTP, (Section.DERP,)) == (cause.layer, cause.consequences)


def test_without_the_access_url_the_websocket_tells() -> None:
    """Where the access URL is off, the websocket shows the layer below it."""
    world = World()
    lost = Failure(reason=Reason.RESOLVE, phase=Phase.RESOLVE, message="no such name")
    world.see(key(Section.WEBSOCKET), ("EWS01", E), failure=lost)
    assert Layer.DNS is world.find_layer()
    world.see(key(Section.ACCESS_URL), runs=1)
    assert Layer.WEBSOCKET is world.find_layer()


def test_another_deployment_is_not_looked_at() -> None:
    """Each deployment has its own first broken layer."""
    world = World()
    other = key(Section.DATABASE, deployment="stage")
    world.snapshot.declare(other, (), Policy(startup_grace_seconds=0.0))
    world.see(other, ("EDB01", E))
    assert (None, Layer.DATABASE) == (
        world.find_layer(),
        (cause := find_root_cause(world.snapshot, "stage")) and cause.layer,
    )
