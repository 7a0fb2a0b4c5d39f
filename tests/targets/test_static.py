"""From a configuration to what is probed, and what is off and why."""

from __future__ import annotations

from exporter.config.model import Config, DatabaseConfig, DeploymentConfig, ProxyConfig, SectionConfig
from exporter.health.model import OffReason, Section
from exporter.health.settle import Policy
from exporter.secret import Secret
from exporter.targets.model import DatabaseTarget, SectionKey, WorkspaceProxiesTarget
from exporter.targets.static import Plan, plan

TOKEN = Secret("abcdefghij-0123456789012345678901")
DATABASE = DatabaseConfig(url=Secret("postgres://u:p@db/coder"), latency_threshold_seconds=0.02)
PROXY = ProxyConfig(id="1", name="eu", url="https://eu.example.com")


def plan_one(**facts: object) -> Plan:
    return plan(Config(deployments=(DeploymentConfig(name="prod", url="https://c.example.com", **facts),)))  # type: ignore[arg-type]


def off(found: Plan) -> dict[Section, OffReason]:
    return {key.section: reason for key, reason in found.off.items()}


def test_each_grade_has_its_sections() -> None:
    """What is given decides what is on; the rest says what it lacks."""
    anonymous = {Section.DATABASE: OffReason.NO_DATABASE, Section.WORKSPACE_PROXY: OffReason.NO_TOKEN}
    assert anonymous == off(plan_one())
    assert {Section.DATABASE: OffReason.NO_DATABASE} == off(plan_one(session_token=TOKEN))
    assert {Section.DATABASE: OffReason.NO_DATABASE} == off(plan_one(static_proxies=(PROXY,)))
    assert {} == off(plan_one(database=DATABASE))


def test_disabled_comes_before_every_other_reason() -> None:
    """Who turned it off need not hear what else it lacks."""
    disabled = SectionConfig(enabled=False)
    found = plan_one(database_section=disabled, websocket=disabled)
    assert OffReason.DISABLED is off(found)[Section.DATABASE]
    assert {Section.ACCESS_URL} == {target.section for target in found.targets}


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
    assert (("eu",), TOKEN, DATABASE.url) == (
        tuple(proxy.name for proxy in proxies.static),
        proxies.session_token,
        proxies.database_url,
    )
    assert proxies.run_limit_seconds > proxies.timeout_seconds


def test_schedule_names_are_unique() -> None:
    """They seed the spread and key the runs."""
    names = [
        target.schedule_name
        for target in plan(
            Config(
                deployments=tuple(
                    DeploymentConfig(name=name, url="https://c.example.com", database=DATABASE) for name in ("a", "b")
                )
            )
        ).targets
    ]
    assert 8 == len(names) == len(set(names))
