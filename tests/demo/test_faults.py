"""Faults that a simulated server plays."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import aiohttp
import pytest

from exporter.demo import answers, faults
from exporter.demo.coderd import Role, SimulatedCoder


@pytest.fixture
async def coder() -> AsyncIterator[SimulatedCoder]:
    """A server to break."""
    async with SimulatedCoder() as running:
        yield running


def echo(coder: SimulatedCoder, http: aiohttp.ClientSession) -> aiohttp.client._BaseRequestContextManager:  # type: ignore[type-arg]
    headers = {"Coder-Session-Token": coder.tokens[Role.OWNER].reveal()}
    return http.ws_connect(f"{coder.url}/api/v2/debug/ws", headers=headers)


async def test_a_fault_is_played_until_it_is_healed(coder: SimulatedCoder, http: aiohttp.ClientSession) -> None:
    """One path answers otherwise, and as before afterwards."""
    statuses = []
    fault = faults.Answer(path="/healthz", status=503, body="no")
    for step in (lambda: coder.break_with(fault), lambda: coder.heal(fault)):
        step()
        async with http.get(f"{coder.url}/healthz") as answer:
            statuses.append((answer.status, await answer.text()))
    assert [(503, "no"), (200, "OK")] == statuses


async def test_the_latest_fault_is_asked_first(coder: SimulatedCoder, http: aiohttp.ClientSession) -> None:
    """Of two faults on a path the later one shows."""
    coder.break_with(faults.Answer(path="/healthz", status=500))
    coder.break_with(faults.Answer(path="/healthz", status=418))
    async with http.get(f"{coder.url}/healthz") as answer:
        assert 418 == answer.status


async def test_a_redirect_says_where_to(coder: SimulatedCoder, http: aiohttp.ClientSession) -> None:
    """Status and Location are as they were asked for."""
    coder.break_with(faults.Answer(path="/healthz", status=307, location="/login"))
    async with http.get(f"{coder.url}/healthz", allow_redirects=False) as answer:
        assert (307, "/login") == (answer.status, answer.headers["Location"])


async def test_a_foreign_answer_has_no_header_of_coders(coder: SimulatedCoder, http: aiohttp.ClientSession) -> None:
    """Who answers on the way does not know Coder's version."""
    coder.break_with(faults.ForeignServer())
    async with http.get(f"{coder.url}/healthz") as health, http.get(f"{coder.url}/api/v2/buildinfo") as build:
        assert (200, "OK", "nginx") == (health.status, await health.text(), health.headers["Server"])
        assert (404, "text/html") == (build.status, build.content_type)
        assert not {"X-Coder-Build-Version"} & (set(health.headers) | set(build.headers))


@pytest.mark.parametrize("foreign", [False, True], ids=["coder", "somebody on the way"])
async def test_refused_upgrades_leave_plain_requests_alone(
    foreign: bool, coder: SimulatedCoder, http: aiohttp.ClientSession
) -> None:
    """Only websockets are refused, with or without Coder's header."""
    coder.break_with(faults.RefuseUpgrades(status=502, foreign=foreign))
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        await http.ws_connect(f"{coder.url}/api/v2/derp-map")
    assert 502 == refused.value.status
    assert refused.value.headers is not None
    assert foreign == ("X-Coder-Build-Version" not in refused.value.headers)
    async with http.get(f"{coder.url}/healthz") as answer:
        assert 200 == answer.status


async def test_a_socket_is_cut_after_its_upgrade(coder: SimulatedCoder, http: aiohttp.ClientSession) -> None:
    """The upgrade is accepted, and nothing comes after it."""
    coder.break_with(faults.CloseAfterUpgrade())
    async with echo(coder, http) as socket:
        message = await socket.receive()
    assert message.type in {aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.ERROR}


async def test_echoes_come_back_changed(coder: SimulatedCoder, http: aiohttp.ClientSession) -> None:
    """What comes back is not what was sent."""
    coder.break_with(faults.ChangeEchoes(addition="!"))
    async with echo(coder, http) as socket:
        await socket.send_str("0")
        assert "0!" == await socket.receive_str()


async def test_a_path_hangs_until_the_fault_is_over(coder: SimulatedCoder, http: aiohttp.ClientSession) -> None:
    """Healing lets go of what hangs; other paths go on meanwhile."""
    fault = faults.Hang(path="/healthz")
    coder.break_with(fault)

    async def ask() -> int:
        async with http.get(f"{coder.url}/healthz") as answer:
            return answer.status

    async with asyncio.TaskGroup() as group:
        hanging = group.create_task(ask())
        await fault.reached.wait()
        async with http.get(f"{coder.url}/latency-check") as answer:
            assert 200 == answer.status
        assert not hanging.done()
        coder.heal(fault)
    assert 200 == hanging.result()


async def test_a_hanging_path_does_not_hold_up_the_stop(http: aiohttp.ClientSession) -> None:
    """Leaving the server ends what hangs in it."""
    fault = faults.Hang(path="/healthz")

    async def ask(url: str) -> str:
        try:
            async with http.get(url) as answer:
                return str(answer.status)
        except aiohttp.ClientError:
            return "cut"

    async with asyncio.TaskGroup() as group, SimulatedCoder() as coder:
        coder.break_with(fault)
        hanging = group.create_task(ask(f"{coder.url}/healthz"))
        await fault.reached.wait()
    assert hanging.result() in {"200", "cut"}


async def test_without_its_database_coder_cannot_check_tokens(
    coder: SimulatedCoder, http: aiohttp.ClientSession
) -> None:
    """A good token gets the recorded 401 about an internal error; what needs no token goes on."""
    coder.break_with(faults.DatabaseGone())
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        await echo(coder, http)
    assert 401 == refused.value.status
    headers = {"Coder-Session-Token": coder.tokens[Role.OWNER].reveal()}
    async with http.get(f"{coder.url}/api/v2/workspaceproxies", headers=headers) as answer:
        assert (401, answers.recorded("database-gone")) == (answer.status, await answer.json())
    async with http.get(f"{coder.url}/healthz") as answer:
        assert 200 == answer.status


async def test_another_deployment_has_an_id_and_a_version_of_its_own(
    coder: SimulatedCoder, http: aiohttp.ClientSession
) -> None:
    """Every answer bears the other version, and the build information the other id."""
    coder.break_with(faults.OtherDeployment(deployment_id="other", access_url=coder.url, version="v2.26.3"))
    async with http.get(f"{coder.url}/healthz") as health, http.get(f"{coder.url}/api/v2/buildinfo") as build:
        given = await build.json()
        assert ["v2.26.3"] * 2 == [answer.headers["X-Coder-Build-Version"] for answer in (health, build)]
    assert ("other", "v2.26.3") == (given["deployment_id"], given["version"])


async def test_a_slow_path_answers_as_usual_after_its_time(coder: SimulatedCoder, http: aiohttp.ClientSession) -> None:
    """It is late by that time at least; others are not."""
    coder.break_with(faults.Slow(path="/healthz", seconds=0.2))
    loop = asyncio.get_running_loop()
    asked = loop.time()
    async with http.get(f"{coder.url}/healthz") as answer:
        assert (200, "OK") == (answer.status, await answer.text())
    assert loop.time() - asked >= 0.2
