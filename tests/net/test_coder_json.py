"""Coder's answers: recorded ones, and anything at all."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.demo import answers
from exporter.errors import WireError
from exporter.health.provisioner_daemons import ServerVersion
from exporter.net import coder_json
from exporter.net.coder_json import ListedDaemon, Organization

RECORDED = Path(answers.__file__).parent / "answers"


def recorded(name: str) -> bytes:
    return (RECORDED / name).read_bytes()


@pytest.mark.parametrize(
    ("name", "signed_out"),
    [
        ("signed-out.json", True),
        ("malformed-token.json", True),
        ("unknown-token.json", True),
        ("database-gone.json", False),
        ("forbidden.json", False),
        ("unknown-route.json", False),
    ],
)
def test_a_refused_token_is_told_from_coders_own_trouble(name: str, signed_out: bool) -> None:
    """Only Coder's words for signed out mean that the token is refused."""
    said = coder_json.parse_error(recorded(name))
    assert signed_out == said.signed_out
    assert (name == "unknown-route.json") == said.unknown_route
    assert "" != said.message


@pytest.mark.parametrize(
    ("message", "signed_out", "internal"),
    [
        ('User is not active (status = "suspended"). Contact an admin to reactivate your account.', True, False),
        ("Could not refresh expired OpenID Connect token. Try re-authenticating to resolve this issue.", True, False),
        ("An internal error occurred. Please try again or contact the system administrator.", False, True),
        ("Try again.", False, False),
    ],
)
def test_a_user_who_is_not_let_in_is_a_refusal(message: str, signed_out: bool, internal: bool) -> None:
    """A suspended user's token is as good as none, and so is one whose login cannot be refreshed."""
    said = coder_json.parse_error(json.dumps({"message": message}).encode())
    assert (signed_out, internal, signed_out or internal) == (said.signed_out, said.internal, said.from_coder)


@pytest.mark.parametrize(
    ("message", "from_coder"),
    [
        ("Workspace Proxy is a Premium feature. Contact sales!", True),
        ("Workspace proxies is an Enterprise feature. Contact sales!", True),
        ("Resource not found or you do not have access to this resource", True),
        ("Route not found.", True),
        ("Forbidden.", True),
        ("Resource not found.", False),
        ("Your plan has no enterprise license.", False),
        ("", False),
    ],
)
def test_coders_words_are_known_without_its_headers(message: str, from_coder: bool) -> None:
    """Something in front of it may take them away, and has other words itself."""
    assert from_coder is coder_json.parse_error(json.dumps({"message": message}).encode()).from_coder


def test_build_info_is_read() -> None:
    """The recorded answer gives deployment, version and the host of the access URL."""
    identity = coder_json.parse_build_info(recorded("buildinfo.json"))
    assert ("v2.26.0", "127.0.0.1", False) == (identity.version, identity.access_url_host, identity.workspace_proxy)
    assert identity.deployment_id is not None


def test_a_proxys_build_info_is_told() -> None:
    """A workspace proxy says that it is one, and has no deployment id."""
    identity = coder_json.parse_build_info(recorded("proxy-buildinfo.json"))
    assert identity.workspace_proxy
    assert identity.deployment_id is None


def test_the_recorded_map_and_report_are_good() -> None:
    """What a real server sends is accepted."""
    recorded_map = Path(__file__).parents[1] / "data" / "coder" / "derp-map-socket.json"
    assert 1 == coder_json.check_derp_map(recorded_map.read_bytes())
    assert 0 == coder_json.check_derp_map(b'{"Regions": null}')
    assert coder_json.ProxyReport(errors=(), warnings=()) == coder_json.parse_proxy_report(
        recorded("proxy-healthz-report.json")
    )


def test_a_bare_string_is_the_message() -> None:
    """A proxy that shuts down answers with a JSON string."""
    said = coder_json.parse_error(recorded("proxy-stopped-healthz-report.json"))
    assert "workspace proxy in middle of shutting down" == said.message


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "not JSON: it begins with nothing"),
        (b"<html>\n<b>Sign in</b>", "not JSON: it begins with '<html> <b>Sign in</b>'"),
        (b"\xff\xfe\x00", "not UTF-8"),
        (b"[]", "a list instead of an object"),
        (b"null", "null instead of an object"),
        (b"true", "a boolean instead of an object"),
        (b"[" * 200_000, "nested too deeply"),
    ],
)
def test_what_is_no_object_is_told(body: bytes, words: str) -> None:
    """The message says what came instead."""
    with pytest.raises(WireError, match=words.replace("[", r"\[")):
        coder_json.decode_object(body)


@pytest.mark.parametrize(
    "body",
    [b"{}", b'{"regions": {}}', b'{"regions": [1]}', b'{"regions": [{}]}', b'{"regions": [{"id": 1, "name": "x"}]}'],
)
def test_a_list_of_another_shape_is_refused(body: bytes) -> None:
    """Proxies are read from a list of objects with id and name only."""
    with pytest.raises(WireError):
        coder_json.parse_workspace_proxies(body)


@pytest.mark.parametrize("members", [{}, {"version": None, "api_version": None, "tags": None, "provisioners": None}])
def test_a_daemon_that_says_little(members: dict[str, None]) -> None:
    """What a server does not say, or calls null, is as its tables would have it."""
    daemon = {"id": "1", "name": "vm-0", "last_seen_at": None} | members
    (listed,) = coder_json.parse_provisioner_daemons(json.dumps([daemon]).encode())
    assert ("", "1.0", {}, (), None) == (
        listed.version,
        listed.api_version,
        listed.tags,
        listed.provisioners,
        listed.last_seen_timestamp_seconds,
    )


def test_long_texts_are_cut() -> None:
    """What a server says is kept in bounded length."""
    report = coder_json.parse_proxy_report(json.dumps({"errors": ["x" * 10_000] * 2000}).encode())
    assert (1000, 503) == (len(report.errors), len(report.errors[0]))


@given(
    body=st.binary(max_size=200)
    | st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: (
            st.lists(inner)
            | st.dictionaries(
                st.sampled_from(["errors", "warnings", "regions", "Regions", "version", "id", "name", "message"]), inner
            )
        ),
    ).map(lambda value: json.dumps(value).encode())
)
def test_any_bytes_give_a_value_or_a_wire_error(body: bytes) -> None:
    """No parser raises anything else, and `parse_error` nothing at all."""
    coder_json.parse_error(body)
    assert coder_json.excerpt(body).isprintable()
    for parse in (
        coder_json.parse_build_info,
        coder_json.check_derp_map,
        coder_json.parse_workspace_proxies,
        coder_json.parse_proxy_report,
    ):
        with contextlib.suppress(WireError):
            assert parse(body) is not None


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda v: (
            st.lists(v)
            | st.dictionaries(
                st.sampled_from(["id", "name", "version", "tags", "provisioners", "last_seen_at", "api_version"])
                | st.text(),
                v,
            )
        ),
    )
)
def test_any_json_is_a_list_of_daemons_or_a_wire_error(value: object) -> None:
    """Whatever a server sends instead, nothing else is raised."""
    for body in (json.dumps([value, value]).encode(), json.dumps(value).encode()):
        with contextlib.suppress(WireError):
            assert all(isinstance(one, ListedDaemon) for one in coder_json.parse_provisioner_daemons(body))
        with contextlib.suppress(WireError):
            assert all(isinstance(one, Organization) for one in coder_json.parse_organizations(body))
        with contextlib.suppress(WireError):
            assert isinstance(coder_json.parse_server_version(body), ServerVersion)


@pytest.mark.parametrize(
    ("date", "expected"),
    [("Sat, 21 Nov 2026 05:18:35 GMT", 1795238315.0), ("yesterday", None), ("", None), (None, None)],
)
def test_the_date_of_an_answer(date: str | None, expected: float | None) -> None:
    """Seconds since 1970, or None when it does not tell."""
    assert expected == coder_json.read_date({} if date is None else {"date": date})
