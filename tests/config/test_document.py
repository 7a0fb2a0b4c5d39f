"""The keys of the file: those that the contract shows are there, and at every place no others."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from exporter.config.load import load_config
from exporter.config.model import Config
from exporter.health.maintenance import WeeklyWindow

# The example of the contract, section 3, without what is not built.
_EXAMPLE = """
global: {interval: 30s, timeout: 10s, settle: {raise: 2, clear: 2, startup_grace: 1m, version_grace: 5m}}
deployments:
  - name: prod
    url: https://coder.example.com
    session_token_file: coder-token
    database: {url_file: pg-url, latency_threshold: 15ms}
    replicas: {dns: coder-headless.coder.svc, port: 8080}
    sections:
      derp:
        {interval: 1m, expect_websocket: false, mesh: true, map: {file: derp-map.json}, allow_hosts: [derp.example.com]}
      provisioner_daemons: {stale_after: 90s}
    workspace_proxies:
      {static: [{name: eu, url: "https://eu.coder.example.com", id: 6f0c1a52-7f4e-4b53-9d0a-0c8de5f5a3b1}]}
    maintenance: [{start: "Sat 02:00", duration: 2h, timezone: Europe/Berlin}]
"""
_MAP = """
{"Regions": {"1": {"RegionID": 1, "RegionCode": "a", "RegionName": "A", "Nodes": [
  {"Name": "1a", "RegionID": 1, "HostName": "derp.example.com"}]}}}
"""


def test_the_example_of_the_contract_loads(tmp_path: Path) -> None:
    """What the product's description shows can be written so, and means what it says there."""
    for name, content in (
        ("coder-token", "abcdefghij-0123456789012345678901"),
        ("pg-url", "postgres://health@db.example.com/coder"),
        ("derp-map.json", _MAP),
        ("config.yaml", _EXAMPLE),
    ):
        (tmp_path / name).write_text(content)
        (tmp_path / name).chmod(0o600)
    config = load_config(tmp_path / "config.yaml", {})
    assert () == config.warnings
    (deployment,) = config.deployments
    assert deployment.database is not None
    assert deployment.replica_dns is not None
    assert (0.015, "coder-headless.coder.svc", 8080) == (
        deployment.database.latency_threshold_seconds,
        deployment.replica_dns.name,
        deployment.replica_dns.port,
    )
    assert (60.0, False, ("derp.example.com",)) == (
        deployment.derp.interval_seconds,
        deployment.derp.expect_websocket,
        deployment.derp.allow_hosts,
    )
    (window,) = deployment.maintenance
    assert isinstance(window, WeeklyWindow)
    assert (5, 2, 0, 7200.0) == (window.weekday, window.hour, window.minute, window.duration_seconds)


@pytest.mark.parametrize(
    "path",
    [
        "",
        "global",
        "global.settle",
        "deployments[0]",
        "deployments[0].tls",
        "deployments[0].database",
        "deployments[0].replicas",
        "deployments[0].replicas.urls[0]",
        "deployments[0].sections",
        "deployments[0].sections.access_url",
        "deployments[0].sections.access_url.settle",
        "deployments[0].sections.websocket",
        "deployments[0].sections.database",
        "deployments[0].sections.derp",
        "deployments[0].sections.derp.map",
        "deployments[0].sections.derp.loss",
        "deployments[0].sections.workspace_proxy",
        "deployments[0].sections.provisioner_daemons",
        "deployments[0].sections.direct_connections",
        "deployments[0].sections.report",
        "deployments[0].sections.report.settle",
        "deployments[0].workspace_proxies",
        "deployments[0].workspace_proxies.static[0]",
        "deployments[0].maintenance[0]",
    ],
)
def test_a_key_that_is_none_is_refused_at_every_place(problems: Callable[[str], list[str]], path: str) -> None:
    """With its own path, so that a misspelt key never does nothing in silence."""
    text = "{nonsense_key: 1}"
    for part in reversed(path.split(".") if path else []):
        name = part.removesuffix("[0]")
        text = f"{{{name}: [{text}]}}" if part != name else f"{{{name}: {text}}}"
    wanted = f"{path}.nonsense_key".removeprefix(".").replace("deployments[0]", "D0")
    assert [problem for problem in problems(text) if f" {wanted}: " in problem and "key" in problem]


@pytest.mark.parametrize("name", ["workspaces"])
def test_a_key_of_another_version_is_refused_by_name(problems: Callable[[str], list[str]], name: str) -> None:
    """What is promised and not built yet is no typo, and the problem says so."""
    (problem,) = problems(f"deployments: [{{name: a, url: 'http://h', sections: {{{name}: {{enabled: true}}}}}}]")
    assert f"D0.sections.{name}: not built in this version yet" in problem


def test_settle_of_a_section_takes_its_own_keys(load: Callable[[str], Config]) -> None:
    """Each of the four, for this section alone."""
    settle = "{raise: 5, clear: 4, startup_grace: 0s, version_grace: 1m}"
    (deployment,) = load(
        f"deployments: [{{name: a, url: 'http://h', sections: {{websocket: {{settle: {settle}}}}}}}]"
    ).deployments
    policy = deployment.websocket.settle
    assert (5, 4, 0.0, 60.0) == (
        policy.raise_after,
        policy.clear_after,
        policy.startup_grace_seconds,
        policy.version_grace_seconds,
    )
    assert 2 == deployment.access_url.settle.raise_after
