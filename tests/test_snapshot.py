"""The snapshot: rounds that are committed at once, and sums that follow by differences."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from exporter.errors import Reason
from exporter.health.model import Failure, Finding, Report, Section, Severity
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
