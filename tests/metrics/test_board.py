"""The board: commits in, a whole body out, and nothing left of what is gone."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.errors import Phase, Reason
from exporter.health.coder_report import CoderReport
from exporter.health.direct_connections import Netcheck
from exporter.health.exporter import TokenResult
from exporter.health.model import OffReason, Section, Severity, Witness
from exporter.health.root_cause import Layer
from exporter.health.workspace_proxy import ProxyResult, ProxyStatus
from exporter.metrics import report_samples
from exporter.metrics.board import Clash
from exporter.metrics.families import FAMILIES
from exporter.metrics.negotiation import Format
from exporter.targets.model import SectionKey, TargetKey
from tests.support.exploration import examples
from tests.support.exposition import (
    START,
    World,
    access_url,
    attempt,
    daemon,
    daemons,
    database,
    dates,
    families,
    health,
    pick,
    poll,
    proxy,
    proxy_round,
    scan,
    unanswered,
    websocket,
)
from tests.support.relay_results import (
    both,
    derp,
    interface,
    loss,
    mesh,
    network,
    node,
    path,
    path_mtu,
    region,
    stun,
    stun_attempt,
)

PORTED = "coderd_proxyhealth_health_check_results"


def make_full_world() -> World:
    """Every family has a sample, and some codes are active."""
    world = World(("prod", 'te"st\\'), thresholds={"prod": 0.015})
    world.run(
        "prod",
        Section.ACCESS_URL,
        {"coder.example.com": access_url(attempt(certificate=dates(START + 9e6)), unanswered("ipv6"))},
        codes=["XACS07"],
        severity=Severity.WARNING,
        phase_seconds=dict.fromkeys(Phase, 0.002),
    )
    world.run("prod", Section.WEBSOCKET, {"coder.example.com": websocket(0.001, 0.003, 0.002)})
    world.run(
        "prod",
        Section.DATABASE,
        {"primary": database(0.001, 0.002, 0.003, 0.004, 0.005, connect_seconds=0.01, login_seconds=0.02)},
    )
    world.run(
        "prod",
        Section.WORKSPACE_PROXY,
        {
            "eu": proxy("id-eu", "eu", version="v2", warnings=("a",)),
            "us": proxy("id-us", "us", ProxyStatus.UNREACHABLE),
            "": proxy_round(list_age_seconds=0.0),
        },
    )
    world.run("prod", Section.PROVISIONER_DAEMONS, {"": daemons(daemon("v2.20.1"), daemon("v2.26.0"), stale=3)})
    world.run(
        "prod",
        Section.DERP,
        {
            **both(node(), 0.001, loss=loss(10, 9, 0.0001)),
            "1/1stun0/stun": stun(stun_attempt(0.002)),
            "1/mesh": mesh(path("1a", "1b")),
            "1": region(),
            "": derp(region()),
        },
        codes=["XDERP02"],
        severity=Severity.WARNING,
    )
    world.run(
        "prod",
        Section.DIRECT_CONNECTIONS,
        {
            "": network(
                Netcheck(stun_servers=2, stun_answers=1, mapping_varies=False),
                interface(on_the_way=True),
                path_mtu=(path_mtu(1400),),
                disabled=False,
            )
        },
    )
    for section in Section:
        world.own.set_targets(section, 1)
    world.board.show_maintenance("prod", is_open=True)
    world.run("prod", Section.REPORT, {"coder.example.com": poll()})
    world.run("prod", Section.EXPORTER, {"": TokenResult(expires_timestamp_seconds=START + 86400.0)})
    world.board.show_dismissed("prod", {"derp": START, "database": None})
    world.board.show_root_cause("prod", Layer.TLS)
    world.board.show_disagreements("prod", [(Section.DATABASE, "coderd-0", True), ("pubsub", "", False)])
    return world


def test_the_whole_text_of_a_database_that_is_slow() -> None:
    """One section, one run, one settled code: the body up to the exporter's own families."""
    world = World(sections=(Section.DATABASE,), thresholds={"prod": 0.015})
    world.run(
        "prod",
        Section.DATABASE,
        {"primary": database(0.01, 0.03, 0.02, 0.025, 0.016, connect_seconds=0.004, login_seconds=0.002)},
        codes=["EDB02"],
        severity=Severity.WARNING,
        phase_seconds={Phase.PROCESSING: 0.101},
    )
    wanted = (Path(__file__).parent / "database.prom").read_text(encoding="utf-8")
    assert wanted + world.own.render(Format.TEXT).decode() == world.body().decode()
    openmetrics = world.body(Format.OPENMETRICS).decode()
    for counter in ("coder_health_probe_runs", "coder_health_probe_failures"):
        for word in ("HELP", "TYPE"):
            wanted = wanted.replace(f"# {word} {counter}_total ", f"# {word} {counter} ")
    assert wanted + world.own.render(Format.OPENMETRICS).decode() + "# EOF\n" == openmetrics


def test_both_parsers_read_the_same() -> None:
    """Text and OpenMetrics hold the same series with the same values, none twice."""
    world = make_full_world()
    assert world.read(Format.TEXT) == world.read(Format.OPENMETRICS)


def test_every_family_of_the_table_can_be_shown_as_it_says() -> None:
    """Names, types, help and labels of a full body are those of the table, in its order."""
    world = make_full_world()
    shown = families(world.body(Format.OPENMETRICS), Format.OPENMETRICS)
    table = [family for family in FAMILIES if not family.own]
    assert [(family.name.removesuffix("_total"), family.kind, family.help) for family in table] == [
        (family.name, family.type, family.documentation) for family in shown[: len(table)]
    ]
    assert {family.name for family in FAMILIES if family.own} == {
        family.name + "_total" * (family.type == "counter") for family in shown[len(table) :]
    }
    by_name = {family.name.removesuffix("_total"): set(family.labels) for family in FAMILIES}
    for family in shown:
        for sample in family.samples:
            assert by_name[family.name] == set(sample.labels) - {"le"}


def test_promtool_has_nothing_to_say(need_tool: Callable[[str], str]) -> None:
    """`promtool check metrics` is clean for a full body."""
    done = subprocess.run(
        [need_tool("promtool"), "check", "metrics"],
        input=make_full_world().body(),
        capture_output=True,
        check=False,
        timeout=30,
    )
    assert (b"", 0) == (done.stdout + done.stderr, done.returncode)


def test_pings_and_rounds_live_on_between_runs() -> None:
    """Every ping and every round is counted; the rounds of all deployments in one histogram."""
    world = World(("a", "b"))
    for _ in range(2):
        world.run("a", Section.DATABASE, {"primary": database(0.001, 0.002)})
        world.run("a", Section.WORKSPACE_PROXY, {"": proxy_round()}, duration_seconds=0.2)
    world.run("b", Section.DATABASE, {"primary": database()})
    world.run("b", Section.WORKSPACE_PROXY, {"": proxy_round()}, duration_seconds=0.4)
    values = world.read()
    assert pick(values, "coder_health_database_ping_duration_seconds_count", "deployment") == {"a": 4.0, "b": 0.0}
    assert values[("coderd_proxyhealth_health_check_duration_seconds_count", ())] == 3.0
    assert values[("coderd_proxyhealth_health_check_duration_seconds_sum", ())] == pytest.approx(0.8)


def test_a_proxy_that_disappears_takes_its_series_along() -> None:
    """The next round without it leaves nothing with its name or id; the round's own counters go on."""
    world = World(sections=(Section.WORKSPACE_PROXY,))
    both = {"eu": proxy("id-eu", "eu"), "us": proxy("id-us", "us"), "": proxy_round()}
    world.run("prod", Section.WORKSPACE_PROXY, both, codes=["EWP04"])
    world.run("prod", Section.WORKSPACE_PROXY, {"eu": both["eu"], "": both[""]}, codes=["EWP04"])
    assert b'"us"' not in world.body()
    assert b"id-us" not in world.body()
    values = world.read()
    assert pick(values, PORTED, "proxy_id") == {"id-eu": 1.0}
    assert pick(values, "coder_health_probe_runs_total", "target") == {"eu": 2.0, "": 2.0}


def test_a_schedule_entry_that_is_retired_leaves_its_section_measured_by_others() -> None:
    """Retiring removes the target; the codes of its section stay at 0."""
    world = World(sections=(Section.DATABASE,))
    world.run("prod", Section.DATABASE, {"primary": database(0.1)}, codes=["EDB01"])
    world.retire("prod", Section.DATABASE)
    values = world.read()
    assert pick(values, "coder_health_probe_runs_total", "target") == {}
    assert pick(values, "coder_health_database_ping_duration_seconds_count", "deployment") == {}
    assert pick(values, "coder_health_code_active", "code")["EDB01"] == 0.0


def test_a_section_that_is_off_shows_only_that() -> None:
    """A declared reason: no code, no severity, no target."""
    world = World(())
    world.board.declare(SectionKey(deployment="prod", section=Section.DATABASE), OffReason.NO_DATABASE)
    shown = {name for name, _ in world.read() if not name.startswith("coder_health_exporter_")}
    assert shown == {"coder_health_section_enabled"}
    assert pick(world.read(), "coder_health_section_enabled", "section", "reason") == {("database", "no_database"): 0.0}


def test_a_run_may_find_its_section_off_and_a_later_one_on_again() -> None:
    """While the last run says off, codes, severities and the target are gone; then they are back."""
    world = World(sections=(Section.WEBSOCKET,))
    host = "coder.example.com"
    world.run("prod", Section.WEBSOCKET, {host: websocket(0.1)}, codes=["EWS01"])
    world.run("prod", Section.WEBSOCKET, {host: websocket(forbidden=True)}, off=OffReason.FORBIDDEN)
    shown = {name for name, _ in world.read() if not name.startswith("coder_health_exporter_")}
    assert shown == {"coder_health_section_enabled"}
    assert pick(world.read(), "coder_health_section_enabled", "reason") == {"forbidden": 0.0}
    key = SectionKey(deployment="prod", section=Section.WEBSOCKET)
    assert {key: OffReason.FORBIDDEN} == world.board.off
    world.run("prod", Section.WEBSOCKET, {host: websocket(0.1)})
    values = world.read()
    assert pick(values, "coder_health_section_enabled", "reason") == {"": 1.0}
    assert pick(values, "coder_health_section_severity", "severity")["ok"] == 1.0
    assert pick(values, "coder_health_probe_success", "target") == {host: 1.0}


def proxy_key(deployment: str, name: str) -> TargetKey:
    return TargetKey(section_key=SectionKey(deployment=deployment, section=Section.WORKSPACE_PROXY), name=name)


def test_the_same_proxy_id_in_two_deployments_is_shown_once_and_told_once() -> None:
    """The first wins the ported gauge, the second keeps its own families; when the first is gone
    the second has it."""
    world = World(("a", "b"), sections=(Section.WORKSPACE_PROXY,))
    ours, theirs = {"eu": proxy("same", "eu")}, {"us": proxy("same", "us", ProxyStatus.UNREACHABLE)}
    clash = Clash(label="proxy_id", value="same", shown=proxy_key("a", "eu"), hidden=proxy_key("b", "us"))
    assert world.run("a", Section.WORKSPACE_PROXY, ours) == ()
    assert (clash,) == world.run("b", Section.WORKSPACE_PROXY, theirs)
    assert world.run("b", Section.WORKSPACE_PROXY, theirs) == ()
    assert world.run("a", Section.WORKSPACE_PROXY, ours) == ()
    values = world.read()
    assert pick(values, PORTED, "proxy_id") == {"same": 1.0}
    assert pick(values, "coder_health_workspace_proxy_info", "deployment") == {"a": 1.0, "b": 1.0}
    world.retire("a", Section.WORKSPACE_PROXY)
    assert world.run("b", Section.WORKSPACE_PROXY, theirs) == ()
    assert pick(world.read(), PORTED, "proxy_id") == {"same": -2.0}
    world.run("a", Section.WORKSPACE_PROXY, {})
    (again,) = world.run("a", Section.WORKSPACE_PROXY, ours)
    assert again.shown == proxy_key("b", "us")


def test_the_same_proxy_id_twice_in_a_deployment_is_shown_once() -> None:
    """A list that repeats an id gives one info, one stateset, one gauge; both targets are probed."""
    world = World(sections=(Section.WORKSPACE_PROXY,))
    clashes = world.run("prod", Section.WORKSPACE_PROXY, {"one": proxy("same", "one"), "two": proxy("same", "two")})
    assert {clash.hidden.name for clash in clashes} == {"two"}
    values = world.read()
    assert pick(values, "coder_health_workspace_proxy_info", "proxy") == {"one": 1.0}
    assert pick(values, "coder_health_probe_success", "target") == {"one": 1.0, "two": 1.0}


def test_names_that_are_equal_once_they_are_cut_are_shown_once() -> None:
    """Two targets whose names differ only beyond what a label holds do not make a series twice."""
    world = World(sections=(Section.WORKSPACE_PROXY,))
    names = ["x" * 200 + "1", "x" * 200 + "2"]
    clashes = world.run("prod", Section.WORKSPACE_PROXY, {name: proxy(name[-1], name) for name in names})
    assert [(clash.label, clash.hidden.name) for clash in clashes] == [("target", names[1])]
    assert pick(world.read(), "coder_health_probe_success", "target") == {"x" * 128: 1.0}


_NAMES = st.sampled_from(["eu", "us", "ap", "\ud800", "x" * 130, "x" * 131])
_ROUNDS = st.dictionaries(_NAMES, st.tuples(st.sampled_from(["1", "2", "3"]), st.sampled_from(ProxyStatus)), max_size=4)
_STEPS = st.lists(
    st.tuples(
        st.sampled_from(["a", "b"]),
        _ROUNDS,
        st.none() | st.just(OffReason.FORBIDDEN),
        st.lists(st.sampled_from(["EWP04", "XWP02"]), unique=True),
        st.none() | st.sampled_from(Reason),
    ),
    min_size=1,
    max_size=12,
)


@settings(max_examples=examples(100))
@given(_STEPS)
def test_any_sequence_leaves_exactly_the_series_of_the_live_targets(
    steps: list[tuple[str, dict[str, tuple[str, ProxyStatus]], OffReason | None, list[str], Reason | None]],
) -> None:
    """Whatever rounds come: no series twice, one of each live target, none of the others, both
    formats agree, and what counts never falls while its target lives."""
    world = World(("a", "b"), sections=(Section.WORKSPACE_PROXY,))
    before: dict[tuple[str, str], float] = {}
    before_live: dict[tuple[str, str], set[str]] = {}
    for deployment, round_, off, codes, reason in steps:
        results = {name: proxy(id_, name, status) for name, (id_, status) in round_.items()}
        world.run(deployment, Section.WORKSPACE_PROXY, results, off=off, codes=codes, reason=reason)
        values = scan(world.body())
        entries = [entry.health for entry in world.snapshot.entries.values() if entry.health.report.off is None]
        live: dict[tuple[str, str], set[str]] = {}
        for one in entries:
            label = (one.key.section_key.deployment, shown_name(one.key.name))
            live.setdefault(label, set()).add(one.key.name)
        runs = pick(values, "coder_health_probe_runs_total", "deployment", "target")
        assert live.keys() == runs.keys()
        # a label that another target took over counts from that target's own beginning
        same = [label for label in live if live[label] == before_live.get(label)]
        assert all(runs[label] >= before[label] for label in same)
        assert {target[1] for target in pick(values, "coder_health_code_target", "code", "target", "deployment")} <= {
            target for _, target in live
        }
        ids = {result.proxy.id for result in (one.result for one in entries) if isinstance(result, ProxyResult)}
        assert set(pick(values, PORTED, "proxy_id")) <= ids
        assert values == scan(world.body(Format.OPENMETRICS))
        before, before_live = runs, live
    for deployment in ("a", "b"):
        world.retire(deployment, Section.WORKSPACE_PROXY)
    left = {name for name, labels in scan(world.body()) if "target" in dict(labels) or "proxy_id" in dict(labels)}
    assert left == set()


def shown_name(name: str) -> str:
    """The label of a target's name in this module."""
    return "\\\\ud800" if name == "\ud800" else name[:128]


def test_maintenance_is_told_for_each_deployment() -> None:
    """One sample a deployment, which follows the windows; odd names are escaped."""
    world = World(("prod", 'te"st\\'))
    for is_open in (False, True, False):
        world.board.show_maintenance("prod", is_open=is_open)
        world.board.show_maintenance('te"st\\', is_open=False)
        assert {"prod": float(is_open), 'te"st\\': 0.0} == pick(world.read(), "coder_health_maintenance", "deployment")


# two witnesses


ENABLED = "coder_health_section_enabled"
RUNS = "coder_health_probe_runs_total"


def told_by(replica: str, section: Section | str = Section.DATABASE, deployment: str = "prod") -> SectionKey:
    return SectionKey(deployment=deployment, section=section, witness=Witness.REPORT, coder_replica=replica)


def poll_of(replica: str) -> SectionKey:
    return SectionKey(deployment="prod", section=Section.REPORT, coder_replica=replica)


def shown_families(world: World, replica: str) -> set[str]:
    return {name for name, labels in world.read() if dict(labels).get("coder_replica") == replica}


def test_a_poll_that_fails_leaves_what_the_report_before_said() -> None:
    """Its facts stay as long as they are held to be good, with the time that tells their age; then they go,
    and only the poll itself is shown."""
    world = World(())
    world.declare(poll_of("a"))
    world.tell(poll_of("a"), name="a", result=poll())
    whole = {series: value for series, value in world.read().items() if series[0] in report_samples.FAMILIES}
    failed = poll(report=None, age_seconds=None, held_seconds=700.0)
    for _ in range(2):
        world.tell(poll_of("a"), name="a", result=failed, reason=Reason.TIMEOUT, codes=["XRPT04"])
        values = world.read()
        assert whole == {series: value for series, value in values.items() if series[0] in report_samples.FAMILIES}
        assert {"a": 0.0} == pick(values, "coder_health_probe_success", "target")
    assert {"a": 3.0} == pick(world.read(), RUNS, "target")
    assert {"XRPT04": 1.0} == pick(world.read(), "coder_health_code_target", "code")
    world.tell(poll_of("a"), name="a", result=replace(failed, held_seconds=1e6), reason=Reason.TIMEOUT)
    assert not report_samples.FAMILIES & {name for name, _ in world.read()}
    assert {"a": 4.0} == pick(world.read(), RUNS, "target")
    # what has gone does not come back with the next failure
    world.tell(poll_of("a"), name="a", result=failed, reason=Reason.TIMEOUT)
    assert not report_samples.FAMILIES & {name for name, _ in world.read()}


def test_a_report_takes_the_place_of_the_one_before_whole() -> None:
    """What it leaves out is not held from there."""
    world = World(())
    world.declare(poll_of("a"))
    world.tell(poll_of("a"), name="a", result=poll())
    world.tell(poll_of("a"), name="a", result=poll(report=CoderReport(healthy=False), age_seconds=None))
    assert {"a": 0.0} == pick(world.read(), "coder_health_report_healthy", "coder_replica")
    assert {"coder_health_report_healthy"} == report_samples.FAMILIES & {name for name, _ in world.read()}


def test_daemons_are_told_by_one_replica_and_nobody_clashes() -> None:
    """All replicas read the same table: the first tells of the daemons, the second of the rest, and takes
    over when the first is gone."""
    world = World(())
    for name, organization in (("a", "first"), ("b", "second")):
        world.declare(poll_of(name))
        run = len(world.snapshot.entries) + 1
        health_ = replace(
            health("prod", Section.REPORT, name, poll(organizations={"o1": organization}), run=run),
            key=TargetKey(section_key=poll_of(name), name=name),
        )
        commit = world.snapshot.commit(f"prod/report/{name}", [health_], now=START, elapsed_seconds=100.0)
        assert () == world.board.show(commit)
    daemons_ = "coder_health_provisioner_daemons"
    assert {"first": 2.0} == pick(world.read(), daemons_, "organization")
    assert {"a": 1.0, "b": 1.0} == pick(world.read(), "coder_health_report_healthy", "coder_replica")
    world.board.show(world.snapshot.retire("prod/report/a"))
    world.tell(poll_of("b"), name="b", result=poll(organizations={"o1": "second"}))
    assert {"second": 2.0} == pick(world.read(), daemons_, "organization")


def test_a_report_has_no_run_of_the_sections_that_it_tells_of() -> None:
    """Durations, successes and counts are the poll's; the section has its verdict, and what raises it."""
    world = World(())
    world.declare(told_by("a"))
    world.tell(told_by("a"), name="a", codes=["EDB02"], severity=Severity.WARNING)
    assert {("a", "a", "EDB02"): 1.0} == pick(
        world.read(), "coder_health_code_target", "coder_replica", "target", "code"
    )
    assert not any(name.startswith("coder_health_probe_") for name, _ in world.read())


def test_two_witnesses_and_two_replicas_of_one_name_are_apart() -> None:
    """The same target of the same section as our probe, and as each replica, tells of it."""
    world = World(sections=(Section.DATABASE,))
    world.run("prod", Section.DATABASE, {"same": database(0.1)}, codes=["EDB02"], severity=Severity.WARNING)
    for replica in ("", "a", "b"):
        world.declare(told_by(replica))
        world.tell(told_by(replica), name="same", codes=["EDB02"], severity=Severity.WARNING)
    labels = ("witness", "coder_replica", "target")
    wanted = {("probe", "", "same"), ("report", "", "same"), ("report", "a", "same"), ("report", "b", "same")}
    assert wanted == set(pick(world.read(), "coder_health_code_target", *labels))


def test_a_section_is_on_when_it_is_for_any_replica() -> None:
    """One series for all of them: off only when every replica's is, and gone with the last one."""
    world = World(())
    seen = []

    def look() -> None:
        seen.append(pick(world.read(), ENABLED, "witness", "reason"))

    for replica in ("a", "b"):
        world.declare(told_by(replica))
    look()
    world.tell(told_by("a"), off=OffReason.FORBIDDEN)
    look()
    assert "a" not in {dict(labels).get("coder_replica") for _, labels in world.read()}
    world.tell(told_by("b"), off=OffReason.NOT_SUPPORTED)
    look()
    world.board.forget_section(told_by("a"))
    look()
    world.tell(told_by("b"))
    look()
    world.board.forget_section(told_by("b"))
    look()
    on = {("report", ""): 1.0}
    off = [{("report", OffReason.FORBIDDEN.value): 0.0}, {("report", OffReason.NOT_SUPPORTED.value): 0.0}]
    assert [on, on, *off, on, {}] == seen


def test_a_section_that_is_forgotten_leaves_nothing() -> None:
    """Neither codes nor severities nor why it is off; what others tell of the same section stays."""
    world = World(sections=(Section.DATABASE,))
    for replica in ("a", "b"):
        world.declare(told_by(replica, "pubsub"))
        world.tell(told_by(replica, "pubsub"), name=replica, codes=["EPS01"])
    for replica in ("a", "b"):
        assert shown_families(world, replica)
        world.board.show(world.snapshot.retire(str(told_by(replica, "pubsub"))))
        world.board.forget_section(told_by(replica, "pubsub"))
        world.snapshot.forget_section(told_by(replica, "pubsub"))
        assert set() == shown_families(world, replica)
    assert {"database"} == {dict(labels)["section"] for name, labels in world.read() if name == ENABLED}
    assert {SectionKey(deployment="prod", section=Section.DATABASE)} == set(world.board.off)
    # whoever comes back begins anew
    world.declare(told_by("a", "pubsub"))
    assert {0.0} == set(
        pick(world.read(), "coder_health_section_severity", "section", "coder_replica", "severity").values()
    )


def test_codes_that_a_server_makes_up_do_not_add_up() -> None:
    """Each is shown while it is seen, and is not even remembered once it is over."""
    world = World(())
    key = told_by("a", "pubsub")
    world.declare(key)
    for number in range(50):
        world.tell(key, codes=[f"EPS{number:02}"])
        assert {f"EPS{number:02}": 1.0} == pick(world.read(), "coder_health_code_active", "code")
    rollup = world.snapshot.sections[key]
    assert ({"EPS49"}, {"EPS49"}) == (set(rollup.observed), set(rollup.active))
    assert 1 == len(world.board._sections[key]._code_labels)


@pytest.mark.parametrize("settles", [True, False])
def test_a_run_that_waits_is_shown_and_counted_once(settles: bool) -> None:
    """While this host is suspected, what was seen shows at once and counts, and no code is active; what
    settles of it later, if anything, counts nothing again."""
    world = World(sections=(Section.DATABASE,))
    one = health("prod", Section.DATABASE, "primary", database(0.1, 0.2), codes=["EDB01"], reason=Reason.TIMEOUT)
    world.board.show(world.snapshot.commit("x", [one], now=START, elapsed_seconds=100.0, deferred=True))
    counted = (RUNS, "coder_health_probe_failures_total", "coder_health_database_ping_duration_seconds_count")

    def count() -> dict[str, float]:
        return {name: sum(value for (family, _), value in world.read().items() if family == name) for name in counted}

    def active() -> tuple[float, float, set[str]]:
        values = world.read()
        codes = (pick(values, f"coder_health_code_{kind}", "code")["EDB01"] for kind in ("observed", "active"))
        return (*codes, set(pick(values, "coder_health_code_target", "code")))  # type: ignore[return-value]

    before = count()
    assert [1.0, 1.0, 2.0] == list(before.values())
    assert (1.0, 0.0, set()) == active()
    world.board.show(world.snapshot.thaw(settles=settles, now=START + 3.0))
    assert before == count()
    assert ((1.0, 1.0, {"EDB01"}) if settles else (1.0, 0.0, set())) == active()
    # and nobody owes anything any more
    assert () == world.snapshot.thaw(settles=True, now=START + 4.0).entries


def test_what_settles_late_of_a_target_that_is_not_shown_shows_nothing() -> None:
    """A section that was found off while its run waited has no series to change."""
    world = World(sections=(Section.DATABASE,))
    one = health("prod", Section.DATABASE, "primary", database(0.1), off=OffReason.FORBIDDEN)
    world.board.show(world.snapshot.commit("x", [one], now=START, elapsed_seconds=100.0, deferred=True))
    before = world.read()
    world.board.show(world.snapshot.thaw(settles=True, now=START + 3.0))
    assert before == world.read()
    assert {("database", "forbidden"): 0.0} == pick(before, ENABLED, "section", "reason")


def test_what_settles_late_of_a_target_that_has_no_series_shows_none_twice() -> None:
    """Of two whose names are equal once they are cut, only the first is shown, also when both settle later."""
    world = World(sections=(Section.WORKSPACE_PROXY,))
    found = [
        health("prod", Section.WORKSPACE_PROXY, name, proxy(name[-1], name), codes=["EWP04"])
        for name in ("x" * 200 + "1", "x" * 200 + "2")
    ]
    world.board.show(world.snapshot.commit("x", found, now=START, elapsed_seconds=100.0, deferred=True))
    world.board.show(world.snapshot.thaw(settles=True, now=START + 3.0))
    assert {"x" * 128: 1.0} == pick(world.read(), "coder_health_code_target", "target")


def test_a_frozen_run_is_counted_and_raises_nothing() -> None:
    """What is active stays so, and what is seen now adds nothing to it."""
    world = World(sections=(Section.DATABASE,))
    for run, codes in enumerate([["EDB02"], ["EDB01"], ["EDB01"]], start=1):
        one = health("prod", Section.DATABASE, "primary", database(0.1), run=run, codes=codes)
        world.board.show(
            world.snapshot.commit("x", [one], now=START + run, elapsed_seconds=100.0 + run, frozen=run > 1)
        )
    values = world.read()
    assert {"EDB02"} == {code for code, value in pick(values, "coder_health_code_active", "code").items() if value}
    assert {"EDB01"} == {code for code, value in pick(values, "coder_health_code_observed", "code").items() if value}
    assert {"primary": 3.0} == pick(values, RUNS, "target")


def test_the_threshold_in_force_is_for_results_from_now_on() -> None:
    """What was shown before it changed is not shown anew."""
    world = World(sections=(Section.DATABASE,), thresholds={"prod": 0.015})
    family = "coder_health_database_latency_threshold_seconds"
    seen = []
    for _ in range(2):
        world.run("prod", Section.DATABASE, {"primary": database(0.1)})
        seen.append(pick(world.read(), family, "deployment")["prod"])
        world.board.set_threshold("prod", 0.25)
        seen.append(pick(world.read(), family, "deployment")["prod"])
    assert [0.015, 0.015, 0.25, 0.25] == seen


def test_mutes_that_nobody_knows_have_no_series() -> None:
    """At 1 with their age, at 0 without one; and none at all once that is not known any more."""
    world = World(())
    world.board.show_dismissed("prod", {"derp": START, "database": None})
    family = "coder_health_section_dismissed"
    assert {"derp": 1.0, "database": 0.0} == pick(world.read(), family, "section")
    assert {"derp": START} == pick(world.read(), f"{family}_since_timestamp_seconds", "section")
    world.board.show_dismissed("prod", {})
    assert {} == pick(world.read(), family, "section") | pick(
        world.read(), f"{family}_since_timestamp_seconds", "section"
    )


def test_one_layer_at_most_is_the_root_cause() -> None:
    """Each layer has its sample, and the broken one follows."""
    world = World(())
    for broken in (None, Layer.DNS, Layer.PROXY, None):
        world.board.show_root_cause("prod", broken)
        found = pick(world.read(), "coder_health_root_cause", "layer")
        assert (set(map(str, Layer)), {broken} - {None}) == (set(found), {name for name in found if found[name]})


def test_what_cannot_be_compared_has_no_sample() -> None:
    """0 where both agree, 1 where they differ; what is left out the next time is gone."""
    world = World(())
    family = "coder_health_witness_disagreement"
    world.board.show_disagreements("prod", [(Section.DATABASE, "a", True), ("pubsub", "", False)])
    assert {("database", "a"): 1.0, ("pubsub", ""): 0.0} == pick(world.read(), family, "section", "coder_replica")
    world.board.show_disagreements("prod", [(Section.DATABASE, "a", False)])
    assert {("database", "a"): 0.0} == pick(world.read(), family, "section", "coder_replica")
    world.board.show_disagreements("prod", [])
    assert {} == pick(world.read(), family, "section", "coder_replica")
