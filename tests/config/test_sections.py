"""What the sections of a deployment inherit, and what their own keys say about one another."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from exporter.config.load import load_config
from exporter.config.model import (
    Config,
    DerpSectionConfig,
    DirectConnectionsSectionConfig,
    LossConfig,
    ProvisionerDaemonsSectionConfig,
)
from exporter.health.settle import Policy

MAP = """
{"Regions": {"999": {"RegionID": 999, "RegionCode": "coder", "RegionName": "Coder", "EmbeddedRelay": true, "Nodes": [
  {"Name": "999b", "RegionID": 999, "HostName": "coder.example.com", "STUNPort": -1, "DERPPort": 443}]}}}
"""
Write = Callable[..., Path]


def _one(keys: str, head: str = "") -> str:
    return f"{head}\ndeployments:\n- {{name: a, url: 'http://h', {keys}}}\n"


@pytest.mark.parametrize(
    ("interval", "timeout", "head", "section"),
    [
        (30.0, 5.0, "", ""),
        (30.0, 5.0, "global: {timeout: 20s}", ""),
        (2.0, 1.8, "global: {interval: 2s}", ""),
        (3.0, 2.7, "", "interval: 3s"),
        (3.0, 2.5, "", "interval: 3s, timeout: 2.5s"),
        (30.0, 30.0, "", "timeout: 30s"),
        (60.0, 45.0, "global: {interval: 1m}", "timeout: 45s"),
        (10.0, 5.0, "global: {interval: 2s}", "interval: 10s"),
    ],
)
def test_intervals_and_timeouts_are_inherited(
    load: Callable[[str], Config], interval: float, timeout: float, head: str, section: str
) -> None:
    """Section key, then section default, then global; only a default gives way to a shorter interval."""
    (deployment,) = load(_one(f"sections: {{database: {{{section}}}}}", head)).deployments
    assert (interval, timeout) == (
        deployment.database_section.interval_seconds,
        deployment.database_section.timeout_seconds,
    )


@pytest.mark.parametrize(
    ("expected", "head", "section"),
    [
        ("1: global.timeout: 31s is longer than the interval 30s that is the default; at most 30s",
         "global: {timeout: 31s}", ""),
        ("1: global.timeout: 6s is longer than the interval 5s of global.interval; at most 5s",
         "global: {timeout: 6s, interval: 5s}", ""),
        ("3: D0.sections.websocket.timeout: 31s is longer than the interval 30s that is the default; at most 30s",
         "", "timeout: 31s"),
        ("3: D0.sections.websocket.timeout: 7s is longer than the interval 5s of global.interval; at most 5s",
         "global: {interval: 5s}", "timeout: 7s"),
        ("3: D0.sections.websocket.timeout: 7s is longer than the interval 2s written here; at most 2s",
         "global: {interval: 10s}", "timeout: 7s, interval: 2s"),
    ],
)  # fmt: skip
def test_a_timeout_above_its_interval_is_refused(
    problems: Callable[[str], list[str]], expected: str, head: str, section: str
) -> None:
    """The interval that counts is named."""
    assert [expected] == problems(_one(f"sections: {{websocket: {{{section}}}}}", head))


def test_a_broken_interval_is_the_only_problem(problems: Callable[[str], list[str]]) -> None:
    """No timeout is compared with an interval that cannot be read."""
    told = problems(_one("sections: {websocket: {timeout: 1h, interval: x}}", "global: {timeout: 1h, interval: y}"))
    assert ["1: global.interval", "3: D0.sections.websocket.interval"] == [": ".join(t.split(": ")[:2]) for t in told]


def test_settle_keys_are_inherited_one_by_one(load: Callable[[str], Config]) -> None:
    """A section overrides single keys; the rest is global's, then the default's."""
    text = _one(
        "sections: {websocket: {settle: {raise: 5, version_grace: 0s}}}", "global: {settle: {raise: 3, clear: 4}}"
    )
    (deployment,) = load(text).deployments
    assert Policy(raise_after=3, clear_after=4) == deployment.access_url.settle
    assert Policy(raise_after=5, clear_after=4, version_grace_seconds=0.0) == deployment.websocket.settle


@pytest.mark.parametrize(
    ("expected", "keys"),
    [
        ("certificate_error: an error from 20d on would come before the warning from 14d on",
         "certificate_error: 20d"),
        ("certificate_warning: an error from 2d on would come before the warning from 1d on",
         "certificate_warning: 1d"),
        ("certificate_error: an error from 3d on would come before the warning from 1d on",
         "certificate_warning: 1d, certificate_error: 3d"),
    ],
)  # fmt: skip
def test_certificate_limits(problems: Callable[[str], list[str]], expected: str, keys: str) -> None:
    """The error never comes before the warning; equal is fine."""
    told = problems(_one(f"sections: {{access_url: {{{keys}}}}}"))
    assert [f"3: D0.sections.access_url.{expected}; certificate_error is the shorter one"] == told


@pytest.mark.parametrize("section", ["derp", "direct_connections"])
@pytest.mark.parametrize(
    ("interval", "timeout", "head", "keys"),
    [
        (60.0, 10.0, "", ""),
        (60.0, 10.0, "global: {interval: 5s, timeout: 4s}", ""),
        (60.0, 10.0, "global: {interval: 5m, timeout: 2m}", ""),
        (8.0, 7.2, "", "interval: 8s"),
        (60.0, 60.0, "global: {interval: 5s}", "timeout: 1m"),
    ],
)
def test_a_sections_own_interval_comes_before_that_of_global(
    load: Callable[[str], Config], section: str, interval: float, timeout: float, head: str, keys: str
) -> None:
    """What asks more of others than of Coder keeps its own pace."""
    (deployment,) = load(_one(f"sections: {{{section}: {{{keys}}}}}", head)).deployments
    config = getattr(deployment, section)
    assert (interval, timeout) == (config.interval_seconds, config.timeout_seconds)


@pytest.mark.parametrize("section", ["derp", "direct_connections"])
def test_a_timeout_above_a_sections_own_interval(problems: Callable[[str], list[str]], section: str) -> None:
    """The default that counts is the section's own."""
    told = problems(_one(f"sections: {{{section}: {{timeout: 61s}}}}", "global: {interval: 2m}"))
    what = "1m1s is longer than the interval 1m that is the default; at most 1m"
    assert [f"3: D0.sections.{section}.timeout: {what}"] == told


def test_derp_and_direct_connections_by_default(load: Callable[[str], Config]) -> None:
    """What nobody writes is as the models say."""
    (deployment,) = load(_one("")).deployments
    assert DerpSectionConfig(interval_seconds=60.0) == deployment.derp
    assert DirectConnectionsSectionConfig(interval_seconds=60.0) == deployment.direct_connections
    assert (None, True, None, (), LossConfig()) == (
        deployment.derp.expect_websocket,
        deployment.derp.mesh,
        deployment.derp.map_file,
        deployment.derp.allow_hosts,
        deployment.derp.loss,
    )
    assert "wg*" in deployment.direct_connections.tunnel_interfaces


def test_provisioner_daemons(load: Callable[[str], Config]) -> None:
    """Coder's 90 s by default; what is written arrives, and the rest is inherited."""
    (deployment,) = load(_one("", "global: {interval: 20s, timeout: 7s}")).deployments
    assert (
        ProvisionerDaemonsSectionConfig(interval_seconds=20.0, timeout_seconds=7.0, stale_after_seconds=90.0)
        == deployment.provisioner_daemons
    )
    (deployment,) = load(_one("sections: {provisioner_daemons: {stale_after: 2m30s, enabled: false}}")).deployments
    assert (150.0, False, 30.0) == (
        deployment.provisioner_daemons.stale_after_seconds,
        deployment.provisioner_daemons.enabled,
        deployment.provisioner_daemons.interval_seconds,
    )


@pytest.mark.parametrize("value", ["0s", "-1s", "90", "soon"])
def test_a_stale_interval_that_is_none(problems: Callable[[str], list[str]], value: str) -> None:
    """It is a duration, and not zero."""
    (told,) = problems(_one(f"sections: {{provisioner_daemons: {{stale_after: {value}}}}}"))
    assert told.startswith("3: D0.sections.provisioner_daemons.stale_after: ")


def test_every_key_of_derp(load: Callable[[str], Config], write: Write) -> None:
    """Each arrives, and those left out of `loss` keep their default."""
    write(MAP, "map.json")
    keys = (
        "enabled: false, interval: 2m, timeout: 3s, expect_websocket: false, mesh: false, map: {file: map.json}, "
        "allow_hosts: [Derp.example.com, 192.0.2.7], loss: {enabled: true, packets_per_second: 5}, settle: {raise: 4}"
    )
    assert (
        DerpSectionConfig(
            enabled=False,
            interval_seconds=120.0,
            timeout_seconds=3.0,
            settle=Policy(raise_after=4),
            expect_websocket=False,
            mesh=False,
            map_file=Path("map.json"),
            allow_hosts=("derp.example.com", "192.0.2.7"),
            loss=LossConfig(enabled=True, packets_per_second=5, window_seconds=10.0),
        )
        == load(_one(f"sections: {{derp: {{{keys}}}}}")).deployments[0].derp
    )


@pytest.mark.parametrize(("patterns", "written"), [((), "[]"), (("wg*", "corp0"), "[wg*, corp0, wg*]")])
def test_tunnel_interfaces(load: Callable[[str], Config], patterns: tuple[str, ...], written: str) -> None:
    """What is written stands instead of the default, also when it is nothing."""
    (deployment,) = load(_one(f"sections: {{direct_connections: {{tunnel_interfaces: {written}}}}}")).deployments
    assert patterns == deployment.direct_connections.tunnel_interfaces


def test_a_map_file_is_relative_to_the_configuration(write: Write, tmp_path: Path) -> None:
    """Not to the working directory."""
    (tmp_path / "sub").mkdir()
    write(MAP, "sub/map.json")
    path = write(_one("sections: {derp: {map: {file: map.json}}}"), "sub/c.yaml")
    assert Path("sub/map.json") == load_config(path, {}).deployments[0].derp.map_file


@pytest.mark.parametrize(
    ("expected", "keys"),
    [
        ("map.file: is missing; name the file of the DERP map, or remove `map`", "map: {}"),
        (
            "map.file: the file cannot be read: No such file or directory; "
            "a relative path begins at the configuration's folder",
            "map: {file: gone.json}",
        ),
        ("map.file: the file is not a regular file", "map: {file: .}"),
        ("map.file: the file is larger than 1048576 bytes", "map: {file: long.json}"),
        ("map.file: the file is not UTF-8 text (line 1)", "map: {file: latin.json}"),
    ],
)
def test_a_map_file_that_cannot_be_read(
    problems: Callable[[str], list[str]], write: Write, expected: str, keys: str
) -> None:
    """What is wrong with the file is told at the key that names it."""
    write(" " * (2**20 + 1), "long.json")
    Path("latin.json").write_bytes(b'{"Regions": "\xff"}')
    assert [f"3: D0.sections.derp.{expected}"] == problems(_one(f"sections: {{derp: {{{keys}}}}}"))


@pytest.mark.parametrize(
    ("expected", "content"),
    [
        ("the file is not JSON (line 1)", ""),
        ("the file is not JSON (line 1)", "hunter2"),
        ("the file is not JSON (line 2)", '{"Regions":\nhunter2}'),
        ("the file is not JSON", f'{{"Regions": {"1" * 5000}}}'),
    ],
)
def test_a_map_file_that_is_not_json(
    problems: Callable[[str], list[str]], write: Write, expected: str, content: str
) -> None:
    """The line is told, and none of the content: it may be a secret's file, by mistake."""
    write(content, "map.json")
    told = problems(_one("sections: {derp: {map: {file: map.json}}}"))
    assert [f"3: D0.sections.derp.map.file: {expected}"] == told


@pytest.mark.parametrize("content", ["[]", "null", "5", "{}", '{"Regions": 5}', "[" * 9999, '{"Regions": NaN}'])
def test_a_map_file_that_is_no_map(problems: Callable[[str], list[str]], write: Write, content: str) -> None:
    """The parser's own sentence is told, on one line."""
    write(content, "map.json")
    (told,) = problems(_one("sections: {derp: {map: {file: map.json}}}"))
    assert told.startswith("3: D0.sections.derp.map.file: the file is no DERP map: ")
    assert told.isprintable()


def test_a_map_file_of_the_largest_size(load: Callable[[str], Config], write: Write) -> None:
    """A mebibyte is taken, as from the server."""
    write(MAP.ljust(2**20), "map.json")
    assert () == load(_one("sections: {derp: {map: {file: map.json}}}")).warnings


@pytest.mark.parametrize(("more", "regions"), [("", '"1": 7'), (", and 1 more", '"1": 7, "2": 8')])
def test_a_map_file_that_is_broken_in_parts(
    load: Callable[[str], Config], write: Write, more: str, regions: str
) -> None:
    """The rest is taken, since the map is judged at run time; what is lost is told."""
    write(f'{{"Regions": {{{regions}}}}}', "map.json")
    config = load(_one("sections: {derp: {map: {file: map.json}}}"))
    assert Path("map.json") == config.deployments[0].derp.map_file
    (warning,) = config.warnings
    begin = "c.yaml:3: deployments[0].sections.derp.map.file: a part of the DERP map cannot be used: region 1: "
    assert warning.startswith(begin)
    assert (" more" in warning, True) == (bool(more), warning.endswith(more))


@pytest.mark.parametrize(
    ("window_seconds", "keys"),
    [
        (10.0, ""),
        (10.0, "interval: 20s"),
        (7.5, "interval: 15s"),
        (1.0, "interval: 2s"),
        (30.0, "loss: {enabled: true, window: 30s}"),
        (7.5, "interval: 15s, loss: {enabled: true, window: 7.5s}"),
        (30.0, "interval: 15s, loss: {enabled: false, window: 30s}"),
        (10.0, "interval: 1s, loss: {enabled: false}"),
    ],
)
def test_a_loss_window_fits_into_its_interval(load: Callable[[str], Config], window_seconds: float, keys: str) -> None:
    """A default gives way to a short interval; while the mode is off nothing need fit."""
    both = keys if "loss" in keys else f"{keys}{', ' if keys else ''}loss: {{enabled: true}}"
    (deployment,) = load(_one(f"sections: {{derp: {{{both}}}}}")).deployments
    assert window_seconds == deployment.derp.loss.window_seconds


@pytest.mark.parametrize(
    ("expected", "keys"),
    [
        (
            "window: 7s501ms is longer than half of the interval 15s written here; at most 7s500ms",
            "interval: 15s, loss: {enabled: true, window: 7501ms}",
        ),
        (
            "enabled: needs an interval of at least 2s; it is 1s999ms written here",
            "interval: 1999ms, loss: {enabled: true}",
        ),
        (
            "enabled: needs an interval of at least 2s; it is 1s written here",
            "interval: 1s, loss: {enabled: true, window: 1s}",
        ),
    ],
)
def test_a_loss_window_that_does_not_fit(problems: Callable[[str], list[str]], expected: str, keys: str) -> None:
    """The key that must change is named, and the interval that counts."""
    assert [f"3: D0.sections.derp.loss.{expected}"] == problems(_one(f"sections: {{derp: {{{keys}}}}}"))


def test_a_broken_interval_hides_the_loss_window(problems: Callable[[str], list[str]]) -> None:
    """Nothing is compared with an interval that cannot be read."""
    (told,) = problems(_one("sections: {derp: {interval: x, loss: {enabled: true, window: 30s}}}"))
    assert told.startswith("3: D0.sections.derp.interval: ")
