"""The configuration shown: defaults, reference, and what is in force."""

from __future__ import annotations

import re
from pathlib import Path

import trustme
import yaml

from exporter.config.decode import decode_document
from exporter.config.load import load_config
from exporter.config.model import TUNNEL_INTERFACES
from exporter.config.show import defaults_yaml, redacted, reference
from exporter.config.yaml_nodes import parse_yaml
from exporter.health.model import Section

TOKEN = "0123456789-abcdefghijklmnopqrstuv"
DSN = "postgres://u:hunter2@db.example.com/coder"


def _paths(value: object, prefix: str = "") -> set[str]:
    if isinstance(value, dict):
        return set().union(*(_paths(child, f"{prefix}.{key}" if prefix else key) for key, child in value.items()))
    if isinstance(value, list):
        return set().union(*(_paths(child, f"{prefix}[]") for child in value))
    return {prefix}


def test_defaults_load_and_give_the_defaults(tmp_path: Path) -> None:
    """The printed file is a configuration, and says nothing but what holds anyway."""
    path = tmp_path / "config.yaml"
    path.write_text(defaults_yaml())
    config = load_config(path, {})
    plain = tmp_path / "plain.yaml"
    plain.write_text("deployments: [{name: prod, url: 'https://coder.example.com'}]")
    assert load_config(plain, {}).deployments == config.deployments
    assert () == config.warnings


def test_defaults_show_every_key() -> None:
    """With the comments taken away every key of the reference stands there, with a value that is right."""
    text = re.sub(r"^( *)# (?=[a-z_]+:|- )", r"\1", defaults_yaml(), flags=re.MULTILINE)
    tree = parse_yaml(text)
    decode_document(tree)
    assert [] == tree.problems
    assert {row.key for row in reference()} == _paths(tree.value)


def test_each_default_is_told_with_its_meaning() -> None:
    """Each line of the printed file ends with what the key is for."""
    lines = defaults_yaml().splitlines()[2:]
    assert [] == [line for line in lines if not re.search(r"  # [A-Z].*\.$", line)]


def test_reference_rows_are_whole() -> None:
    """Each key has a form and a meaning, and stands there once."""
    rows = reference()
    assert [] == [row for row in rows if not row.form or not row.meaning.endswith(".")]
    assert len(rows) == len({row.key for row in rows})


def test_reference_tells_defaults_and_where_they_come_from() -> None:
    """A default is a value, or the key that it is taken from."""
    defaults = {row.key: row.default for row in reference()}
    assert "30s" == defaults["global.interval"]
    assert "global.interval" == defaults["deployments[].sections.websocket.interval"]
    assert "5s" == defaults["deployments[].sections.websocket.timeout"]
    assert "global.settle.raise" == defaults["deployments[].sections.websocket.settle.raise"]
    assert "" == defaults["deployments[].database.latency_threshold"]
    assert ("1m", "10s") == (
        defaults["deployments[].sections.derp.interval"],
        defaults["deployments[].sections.derp.timeout"],
    )
    assert "" == defaults["deployments[].sections.derp.expect_websocket"]
    assert "true" == defaults["deployments[].sections.derp.mesh"]
    assert "false" == defaults["deployments[].sections.derp.loss.enabled"]
    assert list(TUNNEL_INTERFACES) == yaml.safe_load(
        defaults["deployments[].sections.direct_connections.tunnel_interfaces[]"]
    )
    assert "" == defaults["deployments[].workspace_proxies.static[].id"]
    assert ("", "UTC") == (
        defaults["deployments[].maintenance[].start"],
        defaults["deployments[].maintenance[].timezone"],
    )


_EVERYTHING = f"""
global: {{interval: 45s, settle: {{raise: 3, clear: 4, startup_grace: 0s, version_grace: 1h30m}}}}
deployments:
  - name: "no"
    url: https://coder.example.com
    session_token: {TOKEN}
    deployment_id: c1a7e9a2-4c1f-4d0a-8b1e-2f6f0a9d5e77
    database: {{url: "{DSN}", latency_threshold: 12.5ms, fresh_connection_interval: 1m}}
    sections:
      access_url: {{interval: 10s, timeout: 1500ms, certificate_warning: 30d, certificate_error: 1d}}
      websocket: {{enabled: false, settle: {{raise: 1}}}}
      derp:
        expect_websocket: false
        mesh: false
        map: {{file: map.json}}
        allow_hosts: [Derp.example.com, "2001:db8::7"]
        loss: {{enabled: true, packets_per_second: 5, window: 2500ms}}
      direct_connections: {{tunnel_interfaces: [wg*, "*"]}}
    replicas: {{urls: ["https://10.0.0.1:8080", {{name: coderd-1, url: "https://10.0.0.2:8080"}}]}}
    workspace_proxies: {{static: [{{name: eu, url: "https://eu.example.com"}}]}}
    maintenance:
      - {{start: saturday 02:00, duration: 90m, timezone: Europe/Berlin}}
      - {{start: Mon 00:00, duration: 1h}}
      - {{start: 2999-12-05T02:00:00+01:00, duration: 7d}}
  - name: über
    url_file: url
    replicas: {{dns: _http._tcp.coder.svc, discover: false}}
    session_token_file: token
    sections: {{derp: {{interval: 1s}}, direct_connections: {{tunnel_interfaces: []}}}}
"""
MAP = """
{"Regions": {"999": {"RegionID": 999, "RegionCode": "coder", "RegionName": "Coder", "EmbeddedRelay": true, "Nodes": [
  {"Name": "999b", "RegionID": 999, "HostName": "coder.example.com", "STUNPort": -1, "DERPPort": 443}]}}}
"""


def write_token(path: Path) -> None:
    path.write_text(TOKEN)
    path.chmod(0o600)


def test_what_is_in_force_is_shown_without_secrets(tmp_path: Path) -> None:
    """/config tells everything but secrets, inherited values filled in."""
    (tmp_path / "url").touch()
    write_token(tmp_path / "token")
    (tmp_path / "map.json").write_text(MAP)
    (tmp_path / "config.yaml").write_text(_EVERYTHING)
    config = load_config(tmp_path / "config.yaml", {})
    text = redacted(config)
    assert TOKEN not in text
    assert "hunter2" not in text
    shown = yaml.safe_load(text)["deployments"]
    assert ["no", "über"] == [deployment["name"] for deployment in shown]
    assert ("<secret>", "<secret>") == (shown[0]["session_token"], shown[0]["database"]["url"])
    assert (False, str(tmp_path / "token")) == ("session_token" in shown[1], shown[1]["session_token_file"])
    assert {
        "enabled": True,
        "interval": "10s",
        "timeout": "1s500ms",
        "certificate_warning": "30d",
        "certificate_error": "1d",
        "settle": {"raise": 3, "clear": 4, "startup_grace": "0s", "version_grace": "1h30m"},
    } == shown[0]["sections"]["access_url"]
    assert {
        "enabled": True,
        "interval": "1m",
        "timeout": "10s",
        "expect_websocket": False,
        "mesh": False,
        "map": {"file": str(tmp_path / "map.json")},
        "allow_hosts": ["derp.example.com", "2001:db8::7"],
        "loss": {"enabled": True, "packets_per_second": 5, "window": "2s500ms"},
        "settle": {"raise": 3, "clear": 4, "startup_grace": "0s", "version_grace": "1h30m"},
    } == shown[0]["sections"]["derp"]
    assert ["wg*", "*"] == shown[0]["sections"]["direct_connections"]["tunnel_interfaces"]
    assert "1m30s" == shown[0]["sections"]["provisioner_daemons"]["stale_after"]
    assert {
        "urls": [
            {"name": "10.0.0.1:8080", "url": "https://10.0.0.1:8080"},
            {"name": "coderd-1", "url": "https://10.0.0.2:8080"},
        ],
        "discover": True,
    } == shown[0]["replicas"]
    assert [
        {"start": "Sat 02:00", "duration": "1h30m", "timezone": "Europe/Berlin"},
        {"start": "Mon 00:00", "duration": "1h", "timezone": "UTC"},
        {"start": "2999-12-05T02:00:00+01:00", "duration": "7d"},
    ] == shown[0]["maintenance"]
    assert {
        "dns": "_http._tcp.coder.svc",
        "scheme": "http",
        "discover": False,
    } == shown[1]["replicas"]
    assert "maintenance" not in shown[1]
    assert [section.value for section in Section if section is not Section.EXPORTER] == list(shown[1]["sections"])
    assert not {"expect_websocket", "map"} & shown[1]["sections"]["derp"].keys()


def test_what_is_shown_is_a_configuration_again(tmp_path: Path) -> None:
    """With the secrets put back, what is shown loads and gives the same."""
    (tmp_path / "url").touch()
    write_token(tmp_path / "token")
    (tmp_path / "map.json").write_text(MAP)
    path = tmp_path / "config.yaml"
    path.write_text(_EVERYTHING)
    config = load_config(path, {})
    text = redacted(config).replace("session_token: <secret>", f"session_token: {TOKEN}")
    path.write_text(text.replace("url: <secret>", f"url: '{DSN}'"))
    assert config.deployments == load_config(path, {}).deployments


def test_certificates_are_shown_by_their_path(tmp_path: Path) -> None:
    """A file of certificates is no secret."""
    (tmp_path / "ca.pem").write_bytes(trustme.CA().cert_pem.bytes())
    (tmp_path / "config.yaml").write_text("deployments: [{name: a, url: 'https://h', tls: {ca_file: ca.pem}}]")
    (shown,) = yaml.safe_load(redacted(load_config(tmp_path / "config.yaml", {})))["deployments"]
    assert {"ca_file": str(tmp_path / "ca.pem")} == shown["tls"]


def test_the_reference_address_is_shown_where_it_is_set(tmp_path: Path) -> None:
    """What is global and no default of a section stands apart, and loads again."""
    path = tmp_path / "config.yaml"
    path.write_text("global: {reference: 'GW.example.com:443'}\ndeployments: [{name: a, url: 'https://h'}]")
    config = load_config(path, {})
    assert "gw.example.com:443" == config.reference
    path.write_text(redacted(config))
    assert config.reference == load_config(path, {}).reference
    path.write_text("deployments: [{name: a, url: 'https://h'}]")
    assert "global" not in yaml.safe_load(redacted(load_config(path, {})))
