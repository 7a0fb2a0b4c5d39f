"""The snapshot: rounds that are committed at once, and sums that follow by differences."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from exporter.errors import Reason
from exporter.health.model import Failure, Finding, OffReason, Report, Section, Severity
from exporter.health.settle import Policy
from exporter.snapshot import Snapshot, TargetHealth
from exporter.targets.model import SectionKey, TargetKey

KEY = SectionKey(deployment="prod", section=Section.WORKSPACE_PROXY)
CODES = ("EWP04", "XWP02", "EUNKNOWN")
START = 1_000.0


def make_snapshot(**policy: float) -> Snapshot:
    snapshot = Snapshot()
    settle = {"raise_after": 2, "clear_after": 2, "startup_grace_seconds": 0.0} | policy
    snapshot.declare(KEY, CODES, Policy(**settle))  # type: ignore[arg-type]
    return snapshot


def make_health(name: str, *codes: str, run: int = 1, **report: object) -> TargetHealth:
    findings = tuple(Finding(code=code, severity=Severity.WARNING, message=f"{code} at {name}") for code in codes)
    failure = Failure(reason=Reason.REFUSED, message="refused") if codes else None
    return TargetHealth(
        key=TargetKey(section_key=KEY, name=name),
        run=run,
        interval_seconds=10.0,
        started_timestamp_seconds=START + run,
        duration_seconds=0.1,
        result=None,
        report=Report(section=Section.WORKSPACE_PROXY, findings=findings, failure=failure, **report),  # type: ignore[arg-type]
    )


def test_before_the_first_run_nothing_is_known() -> None:
    """A declared section has its codes and no severity."""
    rollup = make_snapshot().sections[KEY]
    assert CODES == rollup.codes
    assert rollup.measured is False


def test_a_code_settles_after_two_runs_and_tells_so_once() -> None:
    """Observed shows at once, active after two runs; the change is told once each way."""
    snapshot = make_snapshot()
    told = []
    for run, codes in enumerate((("EWP04",), ("EWP04",), ("EWP04",), (), ()), start=1):
        commit = snapshot.commit("prod/p", [make_health("eu", *codes, run=run)], now=START + run, elapsed_seconds=run)
        rollup = snapshot.sections[KEY]
        told.append((rollup.observed["EWP04"], rollup.active["EWP04"], [change.active for change in commit.changes]))
    assert [(1, 0, []), (1, 1, [True]), (1, 1, []), (0, 1, []), (0, 0, [False])] == told
    assert {} == snapshot.sections[KEY].since_timestamp_seconds


def test_a_target_that_is_gone_takes_everything_along() -> None:
    """A proxy that is not in the next round leaves no entry, no sum and no settled code."""
    snapshot = make_snapshot()
    for run in (1, 2):
        snapshot.commit(
            "prod/p",
            [make_health("eu", "EWP04", run=run), make_health("us", run=run)],
            now=START + run,
            elapsed_seconds=run,
        )
    commit = snapshot.commit("prod/p", [make_health("us", run=3)], now=START + 3, elapsed_seconds=3)
    assert (TargetKey(section_key=KEY, name="eu"),) == commit.removed
    assert ["us"] == [key.name for key in snapshot.entries]
    assert 0 == snapshot.sections[KEY].active["EWP04"]
    assert Severity.OK is snapshot.sections[KEY].settled_severity
    assert [("EWP04", False)] == [(change.code, change.active) for change in commit.changes]


def test_an_incomplete_round_keeps_what_it_does_not_name() -> None:
    """A run that broke says nothing of the proxies that it did not come to (P5)."""
    snapshot = make_snapshot()
    snapshot.commit("prod/p", [make_health("eu", "EWP04"), make_health("")], now=START, elapsed_seconds=0.0)
    commit = snapshot.commit(
        "prod/p", [make_health("", "EUNKNOWN", run=2)], now=START + 1, elapsed_seconds=1, complete=False
    )
    assert () == commit.removed
    assert {"eu", ""} == {key.name for key in snapshot.entries}
    gone = snapshot.commit("prod/p", [make_health("", run=3)], now=START + 2, elapsed_seconds=2)
    assert ["eu"] == [key.name for key in gone.removed]


def test_an_older_run_changes_nothing() -> None:
    """A slow run that ends after a newer one is dropped (P6)."""
    snapshot = make_snapshot()
    snapshot.commit("prod/p", [make_health("eu", run=7)], now=START, elapsed_seconds=0.0)
    commit = snapshot.commit("prod/p", [make_health("eu", "EWP04", run=6)], now=START + 1, elapsed_seconds=1)
    assert () == commit.entries
    assert 7 == snapshot.entries[TargetKey(section_key=KEY, name="eu")].health.run


def test_nothing_becomes_active_during_the_startup_grace() -> None:
    """Codes are observed at once, and become active with the first run after the grace."""
    snapshot = make_snapshot(startup_grace_seconds=60.0)
    for run, elapsed in enumerate((1, 30, 59, 61), start=1):
        snapshot.commit("prod/p", [make_health("eu", "EWP04", run=run)], now=START + elapsed, elapsed_seconds=elapsed)
        assert 1 == snapshot.sections[KEY].observed["EWP04"]
        assert (elapsed > 60) == (snapshot.sections[KEY].active["EWP04"] == 1)


def test_version_skew_waits_for_the_version_grace() -> None:
    """After a version change only codes that stand for versions wait."""
    snapshot = make_snapshot(version_grace_seconds=100.0, raise_after=1)
    snapshot.version_changed("prod", elapsed_seconds=0.0)
    skew = Finding(code="EWP04", severity=Severity.WARNING, message="version", skew=True)
    real = Finding(code="XWP02", severity=Severity.ERROR, message="down")
    report = Report(section=Section.WORKSPACE_PROXY, findings=(skew, real))
    for run, elapsed in ((1, 50), (2, 101)):
        health = TargetHealth(
            key=TargetKey(section_key=KEY, name="eu"),
            run=run,
            interval_seconds=10.0,
            started_timestamp_seconds=START,
            duration_seconds=0.1,
            result=None,
            report=report,
        )
        snapshot.commit("prod/p", [health], now=START + elapsed, elapsed_seconds=elapsed)
        assert 1 == snapshot.sections[KEY].active["XWP02"]
        assert (elapsed > 100) == (snapshot.sections[KEY].active["EWP04"] == 1)


def test_what_a_run_could_not_judge_stays_as_it_is() -> None:
    """An active code neither clears nor counts while runs cannot judge it."""
    snapshot = make_snapshot()
    for run in (1, 2):
        snapshot.commit("prod/p", [make_health("eu", "EWP04", run=run)], now=START + run, elapsed_seconds=run)
    for run in (3, 4, 5):
        blind = make_health("eu", run=run, not_judged=frozenset({"EWP04"}))
        snapshot.commit("prod/p", [blind], now=START + run, elapsed_seconds=run)
    assert 1 == snapshot.sections[KEY].active["EWP04"]
    assert 0 == snapshot.sections[KEY].observed["EWP04"]


def test_last_success_survives_failures() -> None:
    """The time of the last success is kept while runs fail."""
    snapshot = make_snapshot()
    snapshot.commit("prod/p", [make_health("eu", run=1)], now=START + 1, elapsed_seconds=1)
    snapshot.commit("prod/p", [make_health("eu", "EWP04", run=2)], now=START + 2, elapsed_seconds=2)
    assert START + 1 == snapshot.entries[TargetKey(section_key=KEY, name="eu")].last_success_timestamp_seconds


rounds = st.lists(
    st.dictionaries(st.sampled_from(["eu", "us", "ap"]), st.sets(st.sampled_from(CODES)), max_size=3), max_size=12
)


@given(rounds=rounds)
def test_sums_always_equal_the_entries(rounds: list[dict[str, set[str]]]) -> None:
    """After any sequence of rounds the roll-up equals what the entries add up to."""
    snapshot = make_snapshot()
    for run, targets in enumerate(rounds, start=1):
        healths = [make_health(name, *sorted(codes), run=run) for name, codes in targets.items()]
        snapshot.commit("prod/p", healths, now=START + run, elapsed_seconds=run)
        entries = list(snapshot.entries.values())
        assert set(targets) == {entry.health.key.name for entry in entries}
        rollup = snapshot.sections[KEY]
        for code in CODES:
            observed = sum(any(f.code == code for f in entry.health.report.findings) for entry in entries)
            active = sum(code in entry.active for entry in entries)
            assert (observed, active) == (rollup.observed[code], rollup.active[code])
            assert (code in rollup.since_timestamp_seconds) == (active > 0)
        worst = max((s.severity for entry in entries for s in entry.active.values()), default=Severity.OK)
        assert worst is rollup.settled_severity


def test_a_wall_clock_that_is_set_back_holds_up_nothing() -> None:
    """Graces go by the monotonic clock."""
    snapshot = make_snapshot(startup_grace_seconds=60.0)
    for run, (now, elapsed) in enumerate(((START + 50, 50.0), (START - 7200, 61.0), (START - 7190, 71.0)), start=1):
        snapshot.commit("prod/p", [make_health("eu", "EWP04", run=run)], now=now, elapsed_seconds=elapsed)
    assert 1 == snapshot.sections[KEY].active["EWP04"]


def test_an_older_round_brings_nobody_back() -> None:
    """A round that was begun before a newer one neither adds nor removes targets."""
    snapshot = make_snapshot()
    snapshot.commit("prod/p", [make_health("us", run=2)], now=START, elapsed_seconds=0.0)
    commit = snapshot.commit("prod/p", [make_health("eu", run=1)], now=START, elapsed_seconds=0.0)
    assert ((), ()) == (commit.entries, commit.removed)
    assert ["us"] == [key.name for key in snapshot.entries]


def test_a_frozen_round_shows_and_never_settles() -> None:
    """While this host is cut off what is seen is shown, and moves no code in either direction."""
    snapshot = make_snapshot()
    for run in (1, 2):
        snapshot.commit("prod/p", [make_health("eu", "EWP04", run=run)], now=START + run, elapsed_seconds=run)
    for run, codes in ((3, ()), (4, ()), (5, ("XWP02",)), (6, ("XWP02",))):
        commit = snapshot.commit(
            "prod/p", [make_health("eu", *codes, run=run)], now=START + run, elapsed_seconds=run, frozen=True
        )
        assert () == commit.changes
    rollup = snapshot.sections[KEY]
    assert (1, 0) == (rollup.active["EWP04"], rollup.active["XWP02"])
    assert (0, 1) == (rollup.observed["EWP04"], rollup.observed["XWP02"])


def test_what_was_deferred_settles_as_if_at_its_own_time() -> None:
    """A suspicion that turns out wrong holds back nothing: streaks and `since` are as without it."""
    plain, suspected = make_snapshot(), make_snapshot()
    for run, codes in enumerate((("EWP04",), ("EWP04", "XWP02"), ("XWP02",), ()), start=1):
        for snapshot, deferred in ((plain, False), (suspected, True)):
            health = make_health("eu", *codes, run=run)
            snapshot.commit("prod/p", [health], now=START + run, elapsed_seconds=run, deferred=deferred)
    assert {} == dict(next(iter(suspected.entries.values())).settled)
    commit = suspected.thaw(settles=True, now=START + 9)
    assert next(iter(plain.entries.values())).settled == next(iter(suspected.entries.values())).settled
    # EWP04 came and went while it waited
    assert [("XWP02", True)] == [(change.code, change.active) for change in commit.changes]
    assert ((KEY,), 1) == (commit.sections, suspected.sections[KEY].active["XWP02"])
    assert () == suspected.thaw(settles=True, now=START + 10).entries


def test_what_was_deferred_can_be_forgotten() -> None:
    """A suspicion that turns out right: what was seen meanwhile never counts."""
    snapshot = make_snapshot()
    snapshot.commit("prod/p", [make_health("eu", "EWP04")], now=START, elapsed_seconds=0.0, deferred=True)
    assert () == snapshot.thaw(settles=False, now=START + 1).changes
    snapshot.commit("prod/p", [make_health("eu", "EWP04", run=2)], now=START + 2, elapsed_seconds=2.0)
    assert 0 == snapshot.sections[KEY].active["EWP04"]


def test_a_round_after_deferred_ones_settles_them_first() -> None:
    """Nothing is lost when nobody ended the suspicion: the next round takes what waits along."""
    snapshot = make_snapshot()
    snapshot.commit("prod/p", [make_health("eu", "EWP04")], now=START, elapsed_seconds=0.0, deferred=True)
    snapshot.commit("prod/p", [make_health("eu", "EWP04", run=2)], now=START + 2, elapsed_seconds=2.0)
    assert 1 == snapshot.sections[KEY].active["EWP04"]


def test_a_deferred_target_that_is_gone_waits_no_more() -> None:
    """A target that leaves takes what waits along."""
    snapshot = make_snapshot()
    snapshot.commit("prod/p", [make_health("eu", "EWP04")], now=START, elapsed_seconds=0.0, deferred=True)
    snapshot.retire("prod/p")
    assert () == snapshot.thaw(settles=True, now=START + 1).entries


def observe(snapshot: Snapshot, *codes: str, run: int, **more: object) -> int:
    """Let an observation be seen; return how often EWP04 is active then."""
    held = {name: more.pop(name) for name in ("frozen", "deferred") if name in more}
    health = make_health("eu", *codes, run=run, **more)
    snapshot.commit("prod/p", [health], now=START + run, elapsed_seconds=run, **held)  # type: ignore[arg-type]
    return snapshot.sections[KEY].active["EWP04"]


def test_an_observation_counts_once() -> None:
    """What is seen again adds nothing; what is later or tells no mark does, what is outdated never."""
    snapshot = make_snapshot()
    seen = [
        observe(snapshot, "EWP04", run=run, observation=mark, counts=counts)
        for run, (mark, counts) in enumerate([(5.0, True), (5.0, True), (4.0, False), (6.0, True)], start=1)
    ]
    assert [0, 0, 0, 1] == seen


def test_what_did_not_settle_counts_when_it_is_seen_again() -> None:
    """An observation that was frozen, or deferred and forgotten, is news when it comes again."""
    snapshot = make_snapshot(raise_after=1)
    assert 0 == observe(snapshot, run=1, observation=4.0)
    assert 0 == observe(snapshot, "EWP04", run=2, observation=5.0, frozen=True)
    assert 0 == observe(snapshot, "EWP04", run=3, observation=5.0, deferred=True)
    snapshot.thaw(settles=False, now=START + 3)
    assert 1 == observe(snapshot, "EWP04", run=4, observation=5.0)


def test_what_was_thawed_has_counted() -> None:
    """An observation that was deferred and then settled adds nothing when it comes again."""
    snapshot = make_snapshot()
    observe(snapshot, "EWP04", run=1, observation=5.0, deferred=True)
    snapshot.thaw(settles=True, now=START + 1)
    assert 0 == observe(snapshot, "EWP04", run=2, observation=5.0)
    assert 1 == observe(snapshot, "EWP04", run=3, observation=6.0)


def test_an_observation_counts_again_after_another_thing_settled() -> None:
    """What was cleared since, as the right to see it was lost, is raised by the same observation."""
    snapshot = make_snapshot(raise_after=1, clear_after=1)
    assert 1 == observe(snapshot, "EWP04", run=1, observation=5.0)
    assert 0 == observe(snapshot, run=2, off=OffReason.FORBIDDEN)
    assert 1 == observe(snapshot, "EWP04", run=3, observation=5.0, counts=False)


def test_an_observation_counts_for_a_target_that_comes_back() -> None:
    """A target that left takes along what was seen of it."""
    snapshot = make_snapshot(raise_after=1)
    observe(snapshot, "EWP04", run=1, observation=5.0)
    snapshot.retire("prod/p")
    assert 1 == observe(snapshot, "EWP04", run=2, observation=5.0, counts=False)


def test_a_wall_clock_that_is_set_back_keeps_no_later_time() -> None:
    """When the section ran last and when it changed are never later than now; who leaves tells no time."""
    snapshot = make_snapshot(raise_after=1)
    rollup = snapshot.sections[KEY]
    observe(snapshot, "EWP04", run=86_400)
    health = replace(make_health("eu", "EWP04", run=86_401), started_timestamp_seconds=START + 7)
    snapshot.commit("prod/p", [health], now=START + 8, elapsed_seconds=86_401)
    assert (START + 7, START + 8) == (rollup.last_run_timestamp_seconds, rollup.settled_changed_timestamp_seconds)
    snapshot.retire("prod/p")
    assert (START + 7, START + 8) == (rollup.last_run_timestamp_seconds, rollup.settled_changed_timestamp_seconds)


def test_a_host_that_is_cut_off_shows_at_once_and_ends_at_once() -> None:
    """XEXP01 waits for no second run and no grace, while its neighbour settles as any code."""
    key = SectionKey(deployment="", section=Section.EXPORTER)
    snapshot = Snapshot()
    snapshot.declare(key, ("XEXP01", "XEXP02"), Policy())
    told = []
    both = tuple(Finding(code=code, severity=Severity.ERROR, message=code) for code in ("XEXP01", "XEXP02"))
    for run, findings in enumerate((both, ()), start=1):
        health = TargetHealth(
            key=TargetKey(section_key=key, name=""),
            run=run,
            interval_seconds=15.0,
            started_timestamp_seconds=START,
            duration_seconds=0.0,
            result=None,
            report=Report(section=Section.EXPORTER, findings=findings),
        )
        snapshot.commit("/exporter", [health], now=START + run, elapsed_seconds=run)
        told.append((snapshot.sections[key].active["XEXP01"], snapshot.sections[key].active["XEXP02"]))
    assert [(1, 0), (0, 0)] == told


def test_a_section_knows_its_targets_and_when_its_verdict_changed() -> None:
    """The roll-up keeps entries, those that raise something, the last run, and the last change."""
    snapshot = make_snapshot()
    rollup = snapshot.sections[KEY]
    assert (None, None) == (rollup.last_run_timestamp_seconds, rollup.settled_changed_timestamp_seconds)
    changed = []
    for run, codes in enumerate(((), (), ("EWP04",), ("EWP04",), ("EWP04",)), start=1):
        snapshot.commit("prod/p", [make_health("eu", *codes, run=run)], now=START + run, elapsed_seconds=run)
        changed.append(rollup.settled_changed_timestamp_seconds)
    assert [START + 1, START + 1, START + 1, START + 4, START + 4] == changed
    assert ({"eu"}, {"eu"}) == ({key.name for key in rollup.entries}, {key.name for key in rollup.raising})
    assert (START + 5, 10.0) == (rollup.last_run_timestamp_seconds, rollup.interval_seconds)
    assert {KEY: rollup} == snapshot.sections_of("prod")
    snapshot.retire("prod/p")
    assert ({}, {}) == (rollup.entries, rollup.raising)
    snapshot.forget_section(KEY)
    assert {} == snapshot.sections_of("prod")


def test_the_last_failure_is_kept_while_runs_succeed() -> None:
    """Where the latest failed run got stuck stays known until another one fails."""
    snapshot = make_snapshot()
    for run, codes in enumerate((("EWP04",), ()), start=1):
        snapshot.commit("prod/p", [make_health("eu", *codes, run=run)], now=START + run, elapsed_seconds=run)
    (entry,) = snapshot.entries.values()
    assert (None, "refused") == (entry.health.report.failure, entry.last_failure and entry.last_failure.message)


def test_what_waited_is_active_since_its_own_time() -> None:
    """A run that settles only once a suspicion is over has been active since it was made."""
    snapshot = make_snapshot(raise_after=1)
    snapshot.commit("prod/p", [make_health("eu", "EWP04")], now=START + 1, elapsed_seconds=1, deferred=True)
    assert {} == snapshot.sections[KEY].since_timestamp_seconds
    snapshot.thaw(settles=True, now=START + 4)
    (entry,) = snapshot.entries.values()
    assert START + 1 == entry.active["EWP04"].since_timestamp_seconds
    assert {"EWP04": START + 1} == snapshot.sections[KEY].since_timestamp_seconds


def test_runs_that_do_not_settle_judge_nothing() -> None:
    """What was seen while this host is cut off, or may be, is not the run that a code is active by."""
    snapshot = make_snapshot()
    steps: tuple[tuple[str, dict[str, bool]], ...] = (("settled", {}), ("frozen", {"frozen": True}))
    steps += (("deferred", {"deferred": True}),)
    told = []
    for run, (message, how) in enumerate(steps, start=1):
        health = make_health("eu", "EWP04", run=run)
        failure = Failure(reason=Reason.REFUSED, message=message)
        health = replace(health, report=replace(health.report, failure=failure))
        snapshot.commit("prod/p", [health], now=START + run, elapsed_seconds=run, **how)
        (entry,) = snapshot.entries.values()
        assert entry.judged is not None
        assert entry.last_failure is not None
        told.append((entry.judged.run, entry.last_failure.message))
    assert [(1, "settled")] * 3 == told
    snapshot.thaw(settles=True, now=START + 9)
    (entry,) = snapshot.entries.values()
    assert (3, "deferred") == (entry.judged and entry.judged.run, entry.last_failure and entry.last_failure.message)
