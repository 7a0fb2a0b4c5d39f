"""The simulated Coder server answers as the recorded one did."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import aiohttp
import pytest

from exporter.demo import answers, coderd
from exporter.demo.certificates import Authority
from exporter.demo.coderd import Role, SimulatedCoder
from exporter.wire.derp_map import DerpNode, DerpRegion, dump_derp_map, parse_connection_info, parse_derp_map

SIGNED_OUT_ROUTES = [
    "/api/v2/debug/ws",
    "/api/v2/workspaceproxies",
    "/api/v2/regions",
    "/api/v2/workspaceagents/connection",
]
RECORDINGS = Path(__file__).parents[1] / "data" / "coder"
STUN_REGION = DerpRegion(
    region_id=1000,
    code="coder_stun_1000",
    name="Coder STUN 1000",
    nodes=(DerpNode(name="1000stun0", region_id=1000, host_name="127.0.0.1", stun_port=3478, stun_only=True),),
)


@pytest.fixture
async def coder() -> AsyncIterator[SimulatedCoder]:
    """A healthy server without TLS."""
    async with SimulatedCoder() as running:
        yield running


def token(coder: SimulatedCoder, role: Role) -> dict[str, str]:
    return {"Coder-Session-Token": coder.tokens[role].reveal()}


async def test_healthz_says_ok(coder: SimulatedCoder, http: aiohttp.ClientSession) -> None:
    """The health route answers OK as text, with the version, a cookie and no header Server."""
    async with http.get(f"{coder.url}/healthz") as answer:
        assert (200, "OK", "text/plain") == (answer.status, await answer.text(), answer.content_type)
        assert "v2.26.0" == answer.headers["X-Coder-Build-Version"]
        assert "csrf_token" in answer.cookies
        assert "Server" not in answer.headers


async def test_it_names_itself(coder: SimulatedCoder, http: aiohttp.ClientSession) -> None:
    """The build information bears its version, access URL and id."""
    async with http.get(f"{coder.url}/api/v2/buildinfo") as answer:
        given = await answer.json()
    assert ("v2.26.0", coder.url, coderd.DEPLOYMENT_ID) == (
        given["version"],
        given["dashboard_url"],
        given["deployment_id"],
    )


async def test_an_unknown_route_is_a_404_in_json(coder: SimulatedCoder, http: aiohttp.ClientSession) -> None:
    """An API route that does not exist answers as recorded."""
    async with http.get(f"{coder.url}/api/v2/does-not-exist") as answer:
        assert (404, {"message": "Route not found."}) == (answer.status, await answer.json())
        assert "X-Coder-Build-Version" in answer.headers


async def test_a_primary_answers_a_proxys_route_with_its_site(
    coder: SimulatedCoder, http: aiohttp.ClientSession
) -> None:
    """/healthz-report of a primary is 200 HTML with the header of a Coder server."""
    async with http.get(f"{coder.url}/healthz-report") as answer:
        assert (200, "text/html") == (answer.status, answer.content_type)
        assert "X-Coder-Build-Version" in answer.headers


async def test_the_map_comes_at_once_as_one_binary_message(coder: SimulatedCoder, http: aiohttp.ClientSession) -> None:
    """The open socket needs no token and sends the map without being asked."""
    async with http.ws_connect(f"{coder.url}/api/v2/derp-map") as socket:
        message = await socket.receive()
    assert aiohttp.WSMsgType.BINARY is message.type
    assert "999" in json.loads(message.data)["Regions"]


async def test_the_map_names_this_server_as_its_relay(coder: SimulatedCoder) -> None:
    """The embedded relay is where the server listens, written as a real server writes it."""
    (region,) = dump_derp_map(coder.derp_map())["Regions"].values()
    recorded = json.loads((RECORDINGS / "connection-member.json").read_text())["derp_map"]["Regions"]["999"]
    recorded["Nodes"][0] |= {"HostName": "localhost", "DERPPort": coder.port}
    assert recorded == region


async def test_a_map_that_changes_is_sent_at_once(http: aiohttp.ClientSession) -> None:
    """Whoever listens gets the new map on the same socket, and nothing while it stays the same."""
    regions: list[DerpRegion] = []
    async with (
        SimulatedCoder(list_regions=lambda: regions) as coder,
        http.ws_connect(f"{coder.url}/api/v2/derp-map") as socket,
        asyncio.timeout(10),
    ):
        maps = [parse_derp_map(await socket.receive_bytes())]
        regions.append(STUN_REGION)
        maps.append(parse_derp_map(await socket.receive_bytes()))
        coder.direct_disabled = True
        maps.append(parse_derp_map(await socket.receive_bytes()))
    assert [[999], [999, 1000], [999, 1000]] == [[region.region_id for region in known.regions] for known in maps]
    assert [1, 0] == [len(known.regions[-1].nodes) for known in maps[1:]]


async def test_any_user_is_told_how_to_reach_workspaces(coder: SimulatedCoder, http: aiohttp.ClientSession) -> None:
    """The map, and what the deployment wants of clients."""
    told = []
    for forced in (False, True):
        coder.force_websockets = coder.direct_disabled = forced
        url = f"{coder.url}/api/v2/workspaceagents/connection"
        async with http.get(url, headers=token(coder, Role.MEMBER)) as answer:
            told.append(parse_connection_info(await answer.read()))
    assert [(False, False, "coder"), (True, True, "coder")] == [
        (info.force_websockets, info.direct_disabled, info.hostname_suffix) for info in told
    ]
    assert coder.derp_map() == told[0].derp_map


async def test_a_closed_port_cuts_what_stands(coder: SimulatedCoder, http: aiohttp.ClientSession) -> None:
    """A server that has gone keeps no socket open."""
    async with http.ws_connect(f"{coder.url}/api/v2/derp-map") as socket:
        await socket.receive_bytes()
        coder.refuse_connections()
        assert (await socket.receive()).type in {aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSED}


async def test_a_plain_get_of_the_map_wants_an_upgrade(coder: SimulatedCoder, http: aiohttp.ClientSession) -> None:
    """Without an upgrade the answer is 426, as recorded."""
    async with http.get(f"{coder.url}/api/v2/derp-map") as answer:
        assert (426, answers.upgrade_required()) == (answer.status, await answer.text())
        assert ("websocket", "Upgrade") == (answer.headers["Upgrade"], answer.headers["Connection"])


async def test_an_owner_gets_echoes_and_1001(coder: SimulatedCoder, http: aiohttp.ClientSession) -> None:
    """Text comes back as text; the server goes away with 1001 when nobody speaks any more."""
    headers = token(coder, Role.OWNER)
    async with http.ws_connect(f"{coder.url}/api/v2/debug/ws", headers=headers) as socket:
        for text in ("0", "1", "2"):
            await socket.send_str(text)
            assert text == await socket.receive_str()


async def test_a_silent_echo_socket_is_closed_with_1001(
    coder: SimulatedCoder, http: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server waits only so long for a message."""
    monkeypatch.setattr(coderd, "_ECHO_PATIENCE_SECONDS", 0.01)
    headers = token(coder, Role.OWNER)
    async with http.ws_connect(f"{coder.url}/api/v2/debug/ws", headers=headers) as socket:
        message = await socket.receive()
        assert (aiohttp.WSMsgType.CLOSE, 1001) == (message.type, message.data)


@pytest.mark.parametrize("path", SIGNED_OUT_ROUTES)
async def test_without_a_token_it_is_signed_out(path: str, coder: SimulatedCoder, http: aiohttp.ClientSession) -> None:
    """A route that needs a token answers 401 as recorded, with the challenge."""
    async with http.get(coder.url + path) as answer:
        assert (401, answers.recorded("signed-out")) == (answer.status, await answer.json())
        assert answer.headers["WWW-Authenticate"].startswith('Bearer realm="coder", error="invalid_token"')


@pytest.mark.parametrize(
    ("given", "recorded"),
    [("nonsense", "malformed-token"), ("A" * 10 + "-" + "b" * 22, "unknown-token")],
)
async def test_a_wrong_token_is_refused(
    given: str, recorded: str, coder: SimulatedCoder, http: aiohttp.ClientSession
) -> None:
    """A malformed and an unknown token are told apart as recorded."""
    async with http.get(f"{coder.url}/api/v2/regions", headers={"Coder-Session-Token": given}) as answer:
        assert (401, answers.recorded(recorded)) == (answer.status, await answer.json())


async def test_a_revoked_token_is_unknown(coder: SimulatedCoder, http: aiohttp.ClientSession) -> None:
    """A token in the right form that was revoked is refused like an unknown one."""
    async with http.get(f"{coder.url}/api/v2/regions", headers=token(coder, Role.REVOKED)) as answer:
        assert (401, answers.recorded("unknown-token")) == (answer.status, await answer.json())


async def test_the_echo_is_for_owners_only(coder: SimulatedCoder, http: aiohttp.ClientSession) -> None:
    """A member's token is forbidden there, and good enough for the list of proxies."""
    headers = token(coder, Role.MEMBER)
    async with http.get(f"{coder.url}/api/v2/debug/ws", headers=headers) as answer:
        assert (403, answers.recorded("forbidden")) == (answer.status, await answer.json())
        assert "WWW-Authenticate" not in answer.headers
    async with http.get(f"{coder.url}/api/v2/workspaceproxies", headers=headers) as answer:
        assert 200 == answer.status


async def test_a_license_comes_before_a_token(coder: SimulatedCoder, http: aiohttp.ClientSession) -> None:
    """Without a license the list answers 403 as recorded, also without a token."""
    coder.licensed = False
    async with http.get(f"{coder.url}/api/v2/workspaceproxies") as answer:
        assert (403, answers.recorded("not-licensed")) == (answer.status, await answer.json())


async def test_without_a_license_the_primary_is_the_only_region(http: aiohttp.ClientSession) -> None:
    """The regions need no license, and then only the primary is there."""
    facts = answers.ProxyFacts(
        id="x", name="eu", region_id=1, url="u", created_timestamp_seconds=0.0, updated_timestamp_seconds=0.0
    )
    async with SimulatedCoder(list_proxies=lambda: (facts,)) as coder:
        names = {}
        for licensed in (True, False):
            coder.licensed = licensed
            async with http.get(f"{coder.url}/api/v2/regions", headers=token(coder, Role.MEMBER)) as answer:
                names[licensed] = [region["name"] for region in (await answer.json())["regions"]]
    assert {True: ["primary", "eu"], False: ["primary"]} == names


def test_tokens_have_coders_form_and_do_not_show() -> None:
    """10 characters, a dash, 22 characters, new ones each time, hidden in a repr."""
    first, second = coderd.make_token(), coderd.make_token()
    assert re.fullmatch(r"[A-Za-z0-9]{10}-[A-Za-z0-9]{22}", first.reveal()) is not None
    assert first != second
    assert first.reveal() not in repr(first)


async def test_it_speaks_tls(
    authority: Authority, certificates: Mapping[str, Path], http: aiohttp.ClientSession
) -> None:
    """With a certificate its URL is https and its authority is enough to trust it."""
    async with (
        SimulatedCoder(certificate=certificates["good"]) as coder,
        http.get(f"{coder.url}/healthz", ssl=authority.trust()) as answer,
    ):
        assert coder.url.startswith("https://localhost:")
        assert 200 == answer.status


async def test_requests_are_counted(coder: SimulatedCoder, http: aiohttp.ClientSession) -> None:
    """Tests can see what was asked for."""
    for _ in range(2):
        async with http.get(f"{coder.url}/healthz"):
            pass
    assert 2 == coder.requests["/healthz"]
