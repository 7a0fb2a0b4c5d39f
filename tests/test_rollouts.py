"""Roll-outs: what is a new version, and what only looks like one."""

from __future__ import annotations

import pytest

from exporter.health.provisioner_daemons import ServerVersion
from exporter.health.replica import ReplicaResult
from exporter.health.workspace_proxy import ProxyStatus
from exporter.rollouts import VERSION_MEMORY_SECONDS, RolloutWatch
from exporter.snapshot import TargetHealth
from tests.support.clock import FakeClock
from tests.support.exposition import access_url, attempt, daemon, daemons, health, poll, proxy


def server(version: str, deployment: str = "prod") -> TargetHealth:
    return health(deployment, "access_url", "coder.example.com", access_url(attempt(coder_version=version)))


def replica(version: str, name: str = "a") -> TargetHealth:
    return health("prod", "access_url", name, ReplicaResult(name=name, coder_version=version))


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def watch(clock: FakeClock) -> RolloutWatch:
    return RolloutWatch(clock)


def test_the_first_version_is_no_roll_out_and_another_one_is(watch: RolloutWatch) -> None:
    """An exporter that starts has seen nothing change."""
    assert [False, False, True, False] == [
        watch.see("prod", [server(version)]) for version in ("v2.1.0", "v2.1.0", "v2.2.0", "v2.2.0")
    ]


def test_a_new_replica_with_a_new_version_is_one(watch: RolloutWatch) -> None:
    """A pod that was never seen is of the same server; so is what a report says of its replica."""
    assert not watch.see("prod", [server("v2.1.0")])
    assert not watch.see("prod", [replica("v2.1.0")])
    assert watch.see("prod", [replica("v2.2.0", "b")])
    assert watch.see("prod", [health("prod", "report", "c", poll())])


def test_a_server_that_daemons_are_compared_with_is_one(watch: RolloutWatch) -> None:
    """It may be the first to show the new version, or the only one: the access URL is asked seldom, or not at
    all."""
    before, after = (daemons(server=ServerVersion(version=version)) for version in ("v2.1.0", "v2.2.0"))
    assert not watch.see("prod", [health("prod", "provisioner_daemons", "", before)])
    assert not watch.see("prod", [server("v2.1.0")])
    assert watch.see("prod", [health("prod", "provisioner_daemons", "", after)])
    assert not watch.see("prod", [server("v2.2.0")])


def test_versions_in_turn_are_one_roll_out(watch: RolloutWatch) -> None:
    """Behind one name replicas of both answer as they like."""
    seen = [watch.see("prod", [server(version)]) for version in ("v2.1.0", "v2.2.0", "v2.1.0", "v2.2.0", "v2.1.0")]
    assert [False, True, False, False, False] == seen


async def test_a_version_that_was_forgotten_is_new_again(watch: RolloutWatch, clock: FakeClock) -> None:
    """A roll-back is one, too; what was seen last stays known through any outage."""
    for version in ("v2.1.0", "v2.2.0"):
        watch.see("prod", [server(version)])
    await clock.advance(VERSION_MEMORY_SECONDS + 1.0)
    assert not watch.see("prod", [server("v2.2.0")])
    assert watch.see("prod", [server("v2.1.0")])


def test_deployments_and_targets_do_not_touch_each_other(watch: RolloutWatch) -> None:
    """A proxy's version is its own, and so are those of daemons."""
    results = {
        "proxy": (proxy("1", status=ProxyStatus.OK, answered_version="v2.1.0"), "workspace_proxy"),
        "daemons": (daemons(daemon("v2.0.0"), daemon("v1.9.0"), server=None), "provisioner_daemons"),
        "other": (access_url(attempt(coder_version="v2.3.0")), "access_url"),
    }
    for name, (result, section) in results.items():
        deployment = "staging" if name == "other" else "prod"
        assert not watch.see(deployment, [health(deployment, section, name, result)])
    assert not watch.see("prod", [server("v2.2.0")])
    newer = proxy("1", status=ProxyStatus.OK, answered_version="v2.2.0")
    assert watch.see("prod", [health("prod", "workspace_proxy", "proxy", newer)])


def test_what_is_forgotten_begins_anew(watch: RolloutWatch) -> None:
    """A proxy that left and comes back has no history."""
    old = health("prod", "workspace_proxy", "eu", proxy("1", answered_version="v2.1.0"))
    new = health("prod", "workspace_proxy", "eu", proxy("1", answered_version="v2.2.0"))
    watch.see("prod", [old])
    watch.forget([old.key])
    assert not watch.see("prod", [new])
    assert watch.see("prod", [old])
