"""What Coder says of its mutes, its settings, our token and its replicas."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.errors import WireError
from exporter.health.replica import ListedReplica
from exporter.health.report import CoderSettings
from exporter.net import coder_account
from exporter.net.coder_account import ApiKey, parse_api_key, parse_dismissed, parse_replicas, parse_settings

RECORDED = Path(__file__).parents[1] / "data" / "coder"
PARSERS: tuple[Callable[[bytes], object], ...] = (parse_dismissed, parse_settings, parse_api_key, parse_replicas)


def recorded(name: str) -> bytes:
    return (RECORDED / name).read_bytes()


def encode(value: Any) -> bytes:
    return json.dumps(value).encode()


@pytest.mark.parametrize(
    ("name", "sections"),
    [("health-settings.json", ()), ("health-settings-dismissed.json", ("derp", "provisioner_daemons"))],
)
def test_recorded_mutes_are_read(name: str, sections: tuple[str, ...]) -> None:
    """None, and two, as keys of the report."""
    assert sections == parse_dismissed(recorded(name))


@pytest.mark.parametrize(
    ("names", "sections"),
    [
        (
            ["DERP", "AccessURL", "Websocket", "Database", "WorkspaceProxy", "ProvisionerDaemons", "Pubsub"],
            (
                *("derp", "access_url", "websocket", "database", "workspace_proxy"),
                *("provisioner_daemons", "pubsub"),
            ),
        ),
        (["UsagePublishing", "AIBridge", "X2Y", "STUN"], ("usage_publishing", "ai_bridge", "x2_y", "stun")),
        (["DERP", "DERP", None, 7, "", "--"], ("derp", "unnamed")),
        (["Report", "exporter", "Workspaces", "derp"], ("coder_report", "coder_exporter", "coder_workspaces", "derp")),
        (['a"b\n{c}', "caf\u00e9", "\ud800", "2FA"], ("a_b_c", "caf", "unnamed", "section_2_fa")),
        (["x" * 500], ("x" * 64,)),
        ([f"N{'x' * number}" for number in range(100)], tuple(f"n{'x' * number}" for number in range(32))),
        ([*(f"n{number}" for number in range(100)), "DERP"], (*(f"n{number}" for number in range(32)), "derp")),
        (None, ()),
    ],
)
def test_mutes_become_keys(names: Any, sections: tuple[str, ...]) -> None:
    """Known names by the table, wherever they stand; others as keys, 32 at most, each once."""
    assert sections == parse_dismissed(encode({"dismissed_healthchecks": names}))


@pytest.mark.parametrize(
    "body", [b"{}", b'{"dismissed_healthchecks": {}}', b'{"dismissed_healthchecks": "DERP"}', b"[]"]
)
def test_other_objects_are_no_mutes(body: bytes) -> None:
    """Without the list it is another answer."""
    with pytest.raises(WireError):
        parse_dismissed(body)


def test_recorded_configuration_is_read() -> None:
    """Nanoseconds become seconds."""
    assert CoderSettings(
        refresh_seconds=600.0, latency_threshold_seconds=0.015, proxy_interval_seconds=60.0
    ) == parse_settings(recorded("deployment-config.json"))


@pytest.mark.parametrize(
    ("config", "settings"),
    [
        ({}, CoderSettings()),
        ({"healthcheck": None, "proxy_health_status_interval": None}, CoderSettings()),
        ({"healthcheck": 7, "proxy_health_status_interval": "x"}, CoderSettings()),
        ({"healthcheck": {"refresh": 0, "threshold_database": -5}}, CoderSettings()),
        (
            {"healthcheck": {"refresh": "10m0s", "threshold_database": "20ms"}},
            CoderSettings(refresh_seconds=600.0, latency_threshold_seconds=0.02),
        ),
        ({"healthcheck": {"refresh": 10**400, "threshold_database": float("nan")}}, CoderSettings()),
    ],
)
def test_durations_of_the_configuration(config: Any, settings: CoderSettings) -> None:
    """Missing, null, wrong and not positive ones are not told; texts are read as well."""
    assert settings == parse_settings(encode({"config": config, "options": [{"value": 7}] * 100}))


@pytest.mark.parametrize("body", [b"{}", b'{"config": null}', b'{"config": []}', b"7"])
def test_other_objects_are_no_configuration(body: bytes) -> None:
    """Without the object it is another answer."""
    with pytest.raises(WireError):
        parse_settings(body)


def test_recorded_token_is_read() -> None:
    """Its times, its lifetime and what it may do."""
    assert ApiKey(
        id="Yp2QpoNoSO",
        expires_timestamp_seconds=1795324720.385151,
        lifetime_seconds=86400.0,
        created_timestamp_seconds=1795238320.385157,
        last_used_timestamp_seconds=1795238320.392781,
        login_type="password",
        scope="all",
    ) == parse_api_key(recorded("apikey.json"))


@pytest.mark.parametrize(
    ("value", "key"),
    [
        ({"id": "a"}, ApiKey(id="a")),
        ({"id": "a", "expires_at": "0001-01-01T00:00:00Z", "last_used": None, "lifetime_seconds": 0}, ApiKey(id="a")),
        ({"id": "a", "expires_at": "soon", "lifetime_seconds": "7", "scope": 7, "scopes": 7}, ApiKey(id="a")),
        ({"expires_at": "2026-11-22T05:18:40Z"}, ApiKey(expires_timestamp_seconds=1795324720.0)),
        ({"id": "a", "scopes": ["coder:all", None, 7, "x"]}, ApiKey(id="a", scope="coder:all,x")),
        ({"id": "a", "scope": "all", "scopes": ["coder:all"]}, ApiKey(id="a", scope="all")),
    ],
)
def test_token_of_other_versions_is_read(value: Any, key: ApiKey) -> None:
    """Missing, zero and wrong members are not told; several scopes are joined."""
    assert key == parse_api_key(encode(value))


@pytest.mark.parametrize("body", [b"{}", b'{"id": null}', b'{"message": "Resource not found"}', b"[]"])
def test_other_objects_are_no_token(body: bytes) -> None:
    """Without an id or an end it is another answer."""
    with pytest.raises(WireError):
        parse_api_key(body)


@pytest.mark.parametrize(
    ("name", "replica"),
    [
        (
            "replicas.json",
            ListedReplica(
                id="a3439b98-dbe9-4f22-b6f6-f6733c262da5",
                hostname="vm",
                relay_address="",
                database_latency_seconds=36e-6,
                created_timestamp_seconds=1795238315.139664,
            ),
        ),
        (
            "proxies-up-replicas.json",
            ListedReplica(
                id="e24a0185-ab0e-4201-8923-8283c79fa6e3",
                hostname="vm",
                relay_address="http://127.0.0.1:42201",
                database_latency_seconds=43e-6,
                created_timestamp_seconds=1795238737.519806,
            ),
        ),
    ],
)
def test_recorded_replicas_are_read(name: str, replica: ListedReplica) -> None:
    """One primary, with and without a relay address."""
    assert (replica,) == parse_replicas(recorded(name))


@pytest.mark.parametrize(
    ("value", "replicas"),
    [
        (None, ()),
        ([], ()),
        ([None, 7, {}, {"id": ""}, {"id": 7}], ()),
        ([{"id": "a", "hostname": None, "relay_address": 7}], (ListedReplica(id="a", hostname="", relay_address=""),)),
        (
            [{"id": "a", "error": "no peers", "version": "v2.26.0", "primary": False, "database_latency": 0}],
            (ListedReplica(id="a", hostname="", relay_address="", error="no peers", version="v2.26.0", primary=False),),
        ),
    ],
)
def test_replicas_of_any_shape(value: Any, replicas: tuple[ListedReplica, ...]) -> None:
    """Entries without an id are left out, other members may be missing or wrong."""
    assert replicas == parse_replicas(encode(value))


def test_number_of_replicas_is_bounded() -> None:
    """Those beyond the bound are left out."""
    value = [{"id": str(number)} for number in range(coder_account.MAX_REPLICAS + 5)]
    assert coder_account.MAX_REPLICAS == len(parse_replicas(encode(value)))


@pytest.mark.parametrize("parse", PARSERS)
@pytest.mark.parametrize(
    "body",
    [
        b"",
        recorded("proxy-debug-health.html"),
        recorded("debug-health-403-member.json"),
        recorded("unknown-route.json"),
        recorded("apikey.json")[:-3],
        b"[" * 100_000,
        b"\xff",
    ],
    ids=["nothing", "page", "forbidden", "unknown-route", "truncated", "deep", "no-text"],
)
def test_other_answers_are_refused(parse: Callable[[bytes], object], body: bytes) -> None:
    """Errors, pages, truncated and malformed answers are a WireError to each parser."""
    with pytest.raises(WireError):
        parse(body)


_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=6)
    | st.sampled_from(["\ud800", 10**400]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
)
_ANSWERS = [
    (parse_dismissed, "health-settings-dismissed.json"),
    (parse_settings, "deployment-config.json"),
    (parse_api_key, "apikey.json"),
]


@given(st.sampled_from(_ANSWERS), st.data(), _JSON)
def test_any_value_in_place_of_any_member_is_read_or_refused(
    answer: tuple[Callable[[bytes], object], str], data: st.DataObject, by: Any
) -> None:
    """Nothing but a WireError is raised, and what comes out can be encoded."""
    parse, name = answer
    value = json.loads(recorded(name))
    holder = value["config"] if "config" in value and data.draw(st.booleans()) else value
    holder[data.draw(st.sampled_from(sorted(holder)))] = by
    with contextlib.suppress(WireError):
        told = repr(parse(encode(value))).encode()
        assert told == repr(parse(encode(value))).encode()


@given(st.sampled_from(["id", "hostname", "relay_address", "error", "version", "primary", "created_at"]), _JSON)
def test_any_value_in_a_replica_is_read(member: str, by: Any) -> None:
    """A replica is left out at most."""
    (entry,) = json.loads(recorded("replicas.json"))
    found = parse_replicas(encode([{**entry, member: by}, entry]))
    assert 1 <= len(found) <= 2
    repr(found).encode()


@given(st.sampled_from(PARSERS), st.binary(max_size=80))
def test_any_bytes_are_read_or_refused(parse: Callable[[bytes], object], data: bytes) -> None:
    """No bytes raise anything but a WireError, and the same bytes are read the same way."""
    with contextlib.suppress(WireError):
        assert repr(parse(data)) == repr(parse(data))
