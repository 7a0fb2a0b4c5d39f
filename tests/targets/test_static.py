"""From a configuration to what is probed, and what is off and why."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from exporter.config.model import (
    Config,
    DatabaseConfig,
    DeploymentConfig,
    DerpSectionConfig,
    DirectConnectionsSectionConfig,
    LossConfig,
    ProvisionerDaemonsSectionConfig,
    ProxyConfig,
    ReplicaConfig,
    SectionConfig,
)
from exporter.health.model import REPORT_SECTIONS, OffReason, Section, Witness
from exporter.health.settle import Policy
from exporter.secret import Secret
from exporter.targets.model import (
    AccessURL,
    DatabaseTarget,
    DerpMapSource,
    DerpTarget,
    DirectConnectionsTarget,
    HTTPTarget,
    LossMode,
    ProvisionerDaemonsTarget,
    Replica,
    SectionKey,
    SessionToken,
    WorkspaceProxiesTarget,
)
from exporter.targets.static import Plan, plan

TOKEN = Secret("abcdefghij-0123456789012345678901")
DATABASE = DatabaseConfig(url=Secret("postgres://u:p@db/coder"), latency_threshold_seconds=0.02)
PROXY = ProxyConfig(id="1", name="eu", url="https://eu.example.com")


def plan_one(**facts: object) -> Plan:
    return plan(Config(deployments=(DeploymentConfig(name="prod", url="https://c.example.com", **facts),)))  # type: ignore[arg-type]


def off(found: Plan, witness: Witness = Witness.PROBE) -> dict[Section | str, OffReason]:
    return {key.section: reason for key, reason in found.off.items() if key.witness is witness}


def test_each_grade_has_its_sections() -> None:
    """What is given decides what is on; the rest says what it lacks."""
    no_database = {Section.DATABASE: OffReason.NO_DATABASE}
    coders_own = {Section.REPORT: OffReason.NO_TOKEN, Section.EXPORTER: OffReason.NO_TOKEN}
    daemons = {Section.PROVISIONER_DAEMONS: OffReason.NO_TOKEN}
    proxies = {Section.WORKSPACE_PROXY: OffReason.NO_TOKEN}
    assert no_database | coders_own | daemons | proxies == off(plan_one())
    for token in ({"session_token": TOKEN}, {"session_token_file": Path("token")}):
        assert no_database == off(plan_one(**token))
        assert {} == off(plan_one(**token), Witness.REPORT)
    assert no_database | coders_own | daemons == off(plan_one(static_proxies=(PROXY,)))
    assert coders_own == off(plan_one(database=DATABASE))
    assert dict.fromkeys(REPORT_SECTIONS, OffReason.NO_TOKEN) == off(plan_one(), Witness.REPORT)


def test_a_token_is_used_from_where_it_stands() -> None:
    """Written, or in a file that is read again at each use; relays never get it."""
    for facts, source in (
        ({"session_token": TOKEN}, SessionToken(token=TOKEN)),
        ({"session_token_file": Path("token")}, SessionToken(token_file=Path("token"))),
        ({}, None),
    ):
        found = plan_one(database=DATABASE, **facts)
        given = {target.section: target.session_token for target in found.targets if isinstance(target, HTTPTarget)}
        for section in (Section.ACCESS_URL, Section.DERP, Section.DIRECT_CONNECTIONS):
            assert given.pop(section) is None
        expected = {Section.WEBSOCKET, Section.WORKSPACE_PROXY, Section.PROVISIONER_DAEMONS}
        expected |= {Section.REPORT, Section.EXPORTER} if source is not None else set()
        assert dict.fromkeys(expected, source) == given
        assert source == found.map_sources["prod"].session_token
        assert {source} - {None} == {report.session_token for report in found.reports.values()}


def test_disabled_comes_before_every_other_reason() -> None:
    """Who turned it off need not hear what else it lacks."""
    disabled = SectionConfig(enabled=False)
    found = plan_one(database_section=disabled, websocket=disabled)
    assert OffReason.DISABLED is off(found)[Section.DATABASE]
    assert [Section.ACCESS_URL, Section.DERP, Section.DIRECT_CONNECTIONS, Section.EXPORTER] == [
        target.section for target in found.targets
    ]


def test_targets_carry_what_was_configured() -> None:
    """Intervals, timeouts, thresholds, secrets and settling arrive where they are used."""
    section = SectionConfig(interval_seconds=7.0, timeout_seconds=3.0, settle=Policy(raise_after=5))
    found = plan_one(database=DATABASE, database_section=section, session_token=TOKEN, static_proxies=(PROXY,))
    (database,) = (target for target in found.targets if isinstance(target, DatabaseTarget))
    assert (7.0, 3.0, 0.02, 3.0) == (
        database.interval_seconds,
        database.timeout_seconds,
        database.latency_threshold_seconds,
        database.run_limit_seconds,
    )
    assert 5 == found.policies[SectionKey(deployment="prod", section=Section.DATABASE)].raise_after
    (proxies,) = (target for target in found.targets if isinstance(target, WorkspaceProxiesTarget))
    assert (("eu",), SessionToken(token=TOKEN), DATABASE.url) == (
        tuple(proxy.name for proxy in proxies.static),
        proxies.session_token,
        proxies.database_url,
    )
    assert proxies.run_limit_seconds > proxies.timeout_seconds


def test_provisioner_daemons_carry_what_was_configured() -> None:
    """Both sources, each with its own time, and who counts as gone."""
    config = ProvisionerDaemonsSectionConfig(interval_seconds=7.0, timeout_seconds=3.0, stale_after_seconds=150.0)
    found = plan_one(database=DATABASE, provisioner_daemons=config, session_token=TOKEN, ca_file=Path("ca.pem")).targets
    (target,) = (target for target in found if isinstance(target, ProvisionerDaemonsTarget))
    assert (7.0, 3.0, 150.0, 6.0) == (
        target.interval_seconds,
        target.timeout_seconds,
        target.stale_after_seconds,
        target.run_limit_seconds,
    )
    assert (SessionToken(token=TOKEN), DATABASE.url, Path("ca.pem"), HERE) == (
        target.session_token,
        target.database_url,
        target.ca_file,
        target.access_url,
    )


def test_sections_come_in_their_order() -> None:
    """Everything that is shown follows one order."""
    found = plan_one(database=DATABASE, session_token=TOKEN)
    # the token is the deployment's, and the rest of the exporter nobody's
    expected = [*Section, Section.EXPORTER]
    assert expected == [target.section for target in found.targets] == [key.section for key in found.policies]


DERP = DerpSectionConfig(
    interval_seconds=60.0,
    timeout_seconds=4.0,
    settle=Policy(clear_after=7),
    expect_websocket=True,
    mesh=False,
    map_file=Path("map.json"),
    allow_hosts=("derp.example.com",),
    loss=LossConfig(enabled=True, packets_per_second=3, window_seconds=20.0),
)
NETWORK = DirectConnectionsSectionConfig(interval_seconds=90.0, timeout_seconds=6.0, tunnel_interfaces=("corp*",))
HERE = AccessURL(url="https://c.example.com")


def test_derp_carries_what_was_configured() -> None:
    """Everything but the token, which no relay may see."""
    found = plan_one(
        derp=DERP,
        session_token=TOKEN,
        ca_file=Path("ca.pem"),
        replicas=(ReplicaConfig(name="coderd-0", url="https://10.0.0.1:8080"),),
    )
    expected = DerpTarget(
        deployment="prod",
        section=Section.DERP,
        interval_seconds=60.0,
        timeout_seconds=4.0,
        access_url=HERE,
        session_token=None,
        ca_file=Path("ca.pem"),
        allow_hosts=("derp.example.com",),
        expect_websocket=True,
        mesh=False,
        loss=LossMode(packets_per_second=3, window_seconds=20.0),
        replicas=(Replica(name="coderd-0", url="https://10.0.0.1:8080"),),
    )
    assert [expected] == [target for target in found.targets if isinstance(target, DerpTarget)]
    assert 7 == found.policies[SectionKey(deployment="prod", section=Section.DERP)].clear_after


def test_loss_is_off_unless_it_is_enabled() -> None:
    """Rate and window alone send nothing."""
    found = plan_one(derp=DerpSectionConfig(loss=LossConfig(packets_per_second=5, window_seconds=30.0)))
    assert found.derp_targets["prod"].loss is None


def test_direct_connections_carries_what_was_configured() -> None:
    """Its own pace, and the names of tunnels."""
    found = plan_one(direct_connections=NETWORK, session_token=TOKEN, ca_file=Path("ca.pem"))
    expected = DirectConnectionsTarget(
        deployment="prod",
        section=Section.DIRECT_CONNECTIONS,
        interval_seconds=90.0,
        timeout_seconds=6.0,
        access_url=HERE,
        session_token=None,
        ca_file=Path("ca.pem"),
        tunnel_interfaces=("corp*",),
    )
    assert [expected] == [target for target in found.targets if isinstance(target, DirectConnectionsTarget)]


def test_the_map_is_had_for_either_section() -> None:
    """At the pace of `derp`, and without it at that of `direct_connections`; the file counts for both."""
    source = DerpMapSource(
        deployment="prod",
        access_url=HERE,
        session_token=SessionToken(token=TOKEN),
        ca_file=Path("ca.pem"),
        map_file=Path("map.json"),
        interval_seconds=60.0,
        timeout_seconds=4.0,
    )
    no_derp = replace(DERP, enabled=False)
    no_network = replace(NETWORK, enabled=False)
    sources = [
        plan_one(derp=derp, direct_connections=network, session_token=TOKEN, ca_file=Path("ca.pem")).map_sources
        for derp, network in ((DERP, NETWORK), (DERP, no_network), (no_derp, NETWORK), (no_derp, no_network))
    ]
    paced = replace(source, interval_seconds=90.0, timeout_seconds=6.0)
    assert [{"prod": source}, {"prod": source}, {"prod": paced}, {}] == sources


def test_derp_that_is_off_still_says_what_it_would_look_at() -> None:
    """The other section asks the map's servers, too; the schedule does not have the target."""
    found = plan_one(derp=replace(DERP, enabled=False), direct_connections=replace(NETWORK, enabled=False))
    assert [] == [target for target in found.targets if target.section in (Section.DERP, Section.DIRECT_CONNECTIONS)]
    assert OffReason.DISABLED is off(found)[Section.DERP]
    assert OffReason.DISABLED is off(found)[Section.DIRECT_CONNECTIONS]
    assert ("derp.example.com",) == found.derp_targets["prod"].allow_hosts


def test_derp_that_is_on_is_one_and_the_same_target() -> None:
    """What is in the schedule is what the relays are derived from."""
    found = plan_one()
    assert any(found.derp_targets["prod"] is target for target in found.targets)


def test_schedule_names_are_unique() -> None:
    """They seed the spread and key the runs."""
    names = [
        target.schedule_name
        for target in plan(
            Config(
                deployments=tuple(
                    DeploymentConfig(name=name, url="https://c.example.com", database=DATABASE, session_token=TOKEN)
                    for name in ("a", "b")
                )
            )
        ).targets
    ]
    assert 2 * 9 + 1 == len(names) == len(set(names))
