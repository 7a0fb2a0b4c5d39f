"""What is in force where the file says nothing: the defaults that the contract promises."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from exporter.config.model import Config, SectionConfig
from exporter.health.settle import Policy

_BARE = "deployments:\n- {name: prod, url: 'https://coder.example.com'}\n"
_SETTLE = Policy(raise_after=2, clear_after=2, startup_grace_seconds=60.0, version_grace_seconds=300.0)


@pytest.mark.parametrize(
    ("section", "interval_seconds", "timeout_seconds"),
    [
        ("access_url", 30.0, 5.0),
        ("websocket", 30.0, 5.0),
        ("database_section", 30.0, 5.0),
        ("workspace_proxy", 30.0, 5.0),
        ("provisioner_daemons", 30.0, 10.0),
        ("derp", 60.0, 10.0),
        ("direct_connections", 60.0, 10.0),
    ],
)
def test_a_section_without_keys(
    load: Callable[[str], Config], section: str, interval_seconds: float, timeout_seconds: float
) -> None:
    """It is on, at Coder's own time limits, and settles after two runs either way."""
    config: SectionConfig = getattr(load(_BARE).deployments[0], section)
    assert (True, interval_seconds, timeout_seconds, _SETTLE) == (
        config.enabled,
        config.interval_seconds,
        config.timeout_seconds,
        config.settle,
    )


def test_the_report_without_keys(load: Callable[[str], Config]) -> None:
    """Every two minutes, with the time that Coder may take for one; a report counts at once."""
    report = load(_BARE).deployments[0].report
    assert (True, 120.0, 80.0) == (report.enabled, report.interval_seconds, report.timeout_seconds)
    assert (1, 2, 60.0, 300.0) == (
        report.settle.raise_after,
        report.settle.clear_after,
        report.settle.startup_grace_seconds,
        report.settle.version_grace_seconds,
    )


def test_thresholds_without_keys(load: Callable[[str], Config]) -> None:
    """Certificates by days, daemons by Coder's rule, relays meshed and without a stream of messages."""
    (deployment,) = load(_BARE).deployments
    assert (14 * 86400.0, 2 * 86400.0) == (
        deployment.access_url.certificate_warning_seconds,
        deployment.access_url.certificate_error_seconds,
    )
    assert 90.0 == deployment.provisioner_daemons.stale_after_seconds
    assert (None, True, False) == (deployment.derp.expect_websocket, deployment.derp.mesh, deployment.derp.loss.enabled)


def test_a_deployment_of_which_only_the_url_is_known(load: Callable[[str], Config]) -> None:
    """Nothing is assumed that was not given: no token, database, replica, proxy or maintenance window."""
    config = load(_BARE)
    (deployment,) = config.deployments
    assert (None, None, None, None) == (
        deployment.session_token,
        deployment.session_token_file,
        deployment.database,
        deployment.replica_dns,
    )
    assert ((), (), ()) == (deployment.replicas, deployment.static_proxies, deployment.maintenance)
    assert (None, (), True) == (config.reference, config.warnings, deployment.discover_replicas)
