"""The websocket's probe, against a simulated Coder and servers that misbehave."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from exporter.clock import SystemClock
from exporter.demo import faults
from exporter.demo.coderd import Role, SimulatedCoder
from exporter.errors import Phase, Reason
from exporter.health.model import Section
from exporter.health.websocket import Mode, WebSocketResult, assess
from exporter.probes.websocket import DERP_MAP_PATH, ECHO_PATH, probe
from exporter.secret import Secret
from exporter.targets.model import AccessURL, SessionToken, WebSocketTarget
from tests.support.raw_http import RawServer, hang, json_response, response


@pytest.fixture
async def coder() -> AsyncIterator[SimulatedCoder]:
    async with SimulatedCoder(host="127.0.0.1") as server:
        yield server


async def run(url: str, token: Secret | SessionToken | None = None, *, timeout_seconds: float = 5.0) -> WebSocketResult:
    target = WebSocketTarget(
        deployment="prod",
        section=Section.WEBSOCKET,
        interval_seconds=30.0,
        timeout_seconds=timeout_seconds,
        access_url=AccessURL(url=url),
        session_token=SessionToken(token=token) if isinstance(token, Secret) else token,
    )
    return await probe(target, clock=SystemClock())


def seen(result: WebSocketResult) -> set[str]:
    return {finding.code for finding in assess(result).findings}


async def test_an_owner_gets_three_echoes(coder: SimulatedCoder) -> None:
    """With an Owner's token three messages go there and back, each with its own time."""
    result = await run(coder.url, coder.tokens[Role.OWNER])
    assert (Mode.ECHO, True, 101, set()) == (result.mode, result.upgraded, result.status, seen(result))
    assert 3 == len(result.echo_round_trip_seconds)
    assert {Phase.CONNECT, Phase.PROCESSING, Phase.TRANSFER} <= set(result.phase_seconds)
    assert 0 == coder.requests[DERP_MAP_PATH]


@pytest.mark.parametrize(
    ("role", "why"), [(Role.MEMBER, "not an Owner's"), (Role.REVOKED, "the token is refused"), (None, None)]
)
async def test_lesser_tokens_use_the_open_socket(coder: SimulatedCoder, role: Role | None, why: str | None) -> None:
    """A member, a refused token and nobody at all receive the DERP map instead, without a code."""
    result = await run(coder.url, coder.tokens[role] if role else None)
    assert (Mode.DERP_MAP, True, set()) == (result.mode, result.upgraded, seen(result))
    assert (why is None) == (result.echo_fallback is None)
    assert why is None or why in (result.echo_fallback or "")


async def test_coders_own_trouble_is_no_refused_token(coder: SimulatedCoder) -> None:
    """A 401 since Coder's database is gone falls back to the open socket, and says why."""
    coder.break_with(faults.DatabaseGone())
    result = await run(coder.url, coder.tokens[Role.OWNER])
    assert "Coder cannot check the token" == result.echo_fallback
    assert set() == seen(result)


async def test_who_asks_too_often_uses_the_open_socket() -> None:
    """A 429 of Coder's says nothing of websockets; that of something in front is an answer like any other."""
    limited = json_response('{"message": "You have been rate limited."}', status=429, X_Coder_Build_Version="v2")
    async with RawServer({ECHO_PATH: limited, DERP_MAP_PATH: response(500)}) as server:
        result = await run(server.url, Secret("abcdefghij-0123456789012345678901"))
        assert [ECHO_PATH, DERP_MAP_PATH] == server.asked
        assert "Coder limits our rate" == result.echo_fallback
        server.answers[ECHO_PATH] = response(429)
        assert {"EWS01", "XWS01"} == seen(await run(server.url, Secret("abcdefghij-0123456789012345678901")))
        assert [ECHO_PATH, DERP_MAP_PATH, ECHO_PATH] == server.asked


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (faults.RefuseUpgrades(status=500), {"EWS01"}),
        (faults.RefuseUpgrades(status=502, foreign=True), {"EWS01", "XWS01"}),
        (faults.RefuseUpgrades(status=302, location="/login", foreign=True), {"EWS01", "XWS01"}),
        (faults.CloseAfterUpgrade(), {"EWS02"}),
        (faults.ChangeEchoes(), {"EWS03"}),
    ],
)
async def test_faults_have_their_codes(coder: SimulatedCoder, fault: faults.Fault, expected: set[str]) -> None:
    """Refusals, intermediaries, cut sockets and changed messages are told apart."""
    coder.break_with(fault)
    assert expected == seen(await run(coder.url, coder.tokens[Role.OWNER]))


async def test_an_intermediarys_answer_is_kept() -> None:
    """Status, Location and Server of who answered instead of Coder are facts."""
    answer = response(302, Location="https://sso.example.org/", Server="nginx/1.22")
    async with RawServer({DERP_MAP_PATH: answer}) as server:
        result = await run(server.url)
    assert (302, "https://sso.example.org/", "nginx/1.22", False) == (
        result.status,
        result.location,
        result.server,
        result.from_coder,
    )


@pytest.mark.parametrize("status", [401, 403])
async def test_a_socket_that_needs_a_login_is_forbidden(status: int) -> None:
    """Without a token a refusal by Coder is no outage."""
    answer = json_response('{"message": "no"}', status=status, X_Coder_Build_Version="v3")
    async with RawServer({DERP_MAP_PATH: answer}) as server:
        assert (await run(server.url)).forbidden
        assert not (await run(server.url, Secret("abcdefghij-0123456789012345678901"))).forbidden


async def test_the_token_goes_to_the_echo_only() -> None:
    """The open socket is asked without a token."""
    async with RawServer({ECHO_PATH: response(404, X_Coder_Build_Version="v2")}) as server:
        await run(server.url, Secret("abcdefghij-0123456789012345678901"))
    assert [ECHO_PATH, DERP_MAP_PATH] == server.asked
    assert [True, False] == ["coder-session-token" in headers for headers in server.headers]


async def test_a_silent_server_is_a_timeout() -> None:
    """An upgrade that is never answered is EWS01 within the timeout."""
    async with RawServer({DERP_MAP_PATH: hang}) as server:
        result = await run(server.url, timeout_seconds=0.3)
    assert result.failure is not None
    assert (Reason.TIMEOUT, {"EWS01"}) == (result.failure.reason, seen(result))


async def test_a_101_that_is_no_websocket_is_refused() -> None:
    """A wrong accept key is a broken server, not a working websocket."""
    answer = b"HTTP/1.1 101 Hm\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: nonsense\r\n\r\n"
    async with RawServer({DERP_MAP_PATH: answer}) as server:
        result = await run(server.url)
    assert {"EWS01"} == seen(result)
    assert result.failure is not None
    assert Reason.PROTOCOL is result.failure.reason


async def test_nobody_listening_is_ews01() -> None:
    """A closed port and a URL that is missing have the same code."""
    async with RawServer() as server:
        url = server.url
    assert {"EWS01"} == seen(await run(url))
    assert {"EWS01"} == seen(await run(""))


@pytest.mark.parametrize("message", ["[]", '{"regions": {}}', '{"Regions": 1}', "Sign in", b"\xff"])
async def test_a_map_that_is_none_is_told(message: str | bytes) -> None:
    """The first message must be a DERP map; another one is EWS02, with what came."""

    async def serve(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        await (socket.send_str(message) if isinstance(message, str) else socket.send_bytes(message))
        await socket.receive()
        return socket

    application = web.Application()
    application.router.add_get(DERP_MAP_PATH, serve)
    async with TestServer(application, host="127.0.0.1") as server:
        result = await run(str(server.make_url("/")))
    assert {"EWS02"} == seen(result)
    assert result.failure is not None
    assert "no DERP map" in result.failure.message


async def test_a_token_file_may_change_under_us(coder: SimulatedCoder, tmp_path: Path) -> None:
    """What is no good is as good as no token, says so, and is no outage; a rotated one is used at once."""
    path = tmp_path / "token"
    token = SessionToken(token_file=path)
    for text, mode, why in (
        (coder.tokens[Role.MEMBER].reveal(), Mode.DERP_MAP, "the token is not an Owner's"),
        (coder.tokens[Role.OWNER].reveal(), Mode.ECHO, None),
        ("", Mode.DERP_MAP, "the file of the session token is empty"),
        ("hunter 2", Mode.DERP_MAP, "the file of the session token holds no token"),
        (coder.tokens[Role.OWNER].reveal(), Mode.ECHO, None),
    ):
        path.write_text(text)
        result = await run(coder.url, token)
        assert (mode, True, set()) == (result.mode, result.upgraded, seen(result))
        assert result.echo_fallback is None if why is None else why in (result.echo_fallback or "")
    path.unlink()
    answer = json_response('{"message": "no"}', status=403, X_Coder_Build_Version="v3")
    async with RawServer({DERP_MAP_PATH: answer}) as server:
        result = await run(server.url, token)
        assert ([DERP_MAP_PATH], True) == (server.asked, result.forbidden)
    assert "No such file" in (result.echo_fallback or "")
