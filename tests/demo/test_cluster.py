"""The replicas of the simulated deployment and its provisioner daemons, by real requests."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import pytest

from exporter.demo import fault_proxy, simulation
from exporter.demo.cluster import REPLICAS
from exporter.demo.scenarios.table import SCENARIOS
from exporter.demo.simulation import Simulation
from exporter.demo.state import Role
from exporter.net.coder_report import parse_report
from tests.support.postgres import INSTALLATIONS, need_installation

REPORT = "/api/v2/debug/health"


@pytest.fixture
async def running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Simulation]:
    """The simulation without a database, whose reports are always made anew."""
    monkeypatch.setattr(simulation, "REPORT_REFRESH_SECONDS", 0.0)
    async with Simulation(directory=tmp_path, database=False) as started:
        yield started


async def get(
    simulation: Simulation, http: aiohttp.ClientSession, url: str, role: Role = Role.OWNER
) -> tuple[int, Any, dict[str, str]]:
    """Return status, JSON and headers of an answer."""
    headers = {"Coder-Session-Token": simulation.coder.tokens[role].reveal()}
    async with http.get(url, headers=headers, ssl=simulation.trust) as answer:
        return answer.status, json.loads(await answer.text()), dict(answer.headers)


async def read_reports(simulation: Simulation, http: aiohttp.ClientSession) -> dict[str, Any]:
    """Return the report of each replica."""
    replicas = simulation.cluster.replicas.values()
    return {replica.name: (await get(simulation, http, replica.url + REPORT))[1] for replica in replicas}


async def poll(ask: Callable[[], Awaitable[int]], *, until: int) -> AsyncIterator[int]:
    """Ask again and again, until it is answered so."""
    for _ in range(600):
        answer = await ask()
        yield answer
        if answer == until:
            return
        await asyncio.sleep(0.05)


async def until(holds: Callable[[], bool]) -> None:
    """Return once it holds."""
    for _ in range(600):
        if holds():
            return
        await asyncio.sleep(0.05)
    pytest.fail("it never came to be")


def troubles(report: dict[str, Any]) -> dict[str, str]:
    """The sections that are not ok, with their severity."""
    parts = {key: part for key, part in report.items() if isinstance(part, dict)}
    return {key: part["severity"] for key, part in parts.items() if part["severity"] != "ok"}


async def test_each_replica_reports_by_itself(running: Simulation, http: aiohttp.ClientSession) -> None:
    """All is well, the access URL is the common one, and the exporter can read it."""
    reports = await read_reports(running, http)
    assert {key: {} for key in REPLICAS} == {name: troubles(report) for name, report in reports.items()}
    assert {running.coder.url} == {report["access_url"]["access_url"] for report in reports.values()}
    parsed = await parse_report(json.dumps(reports["coderd-0"]).encode())
    assert (True, "v2.26.0", 6, 3) == (parsed.healthy, parsed.version, len(parsed.sections), len(parsed.daemons or ()))
    assert {"eu": "ok", "us": "ok"} == {proxy.name: proxy.status for proxy in parsed.proxies or ()}
    assert [] == [
        node.name
        for region in parsed.regions or ()
        for node in region.nodes
        if not (node.can_stun if node.stun_only else node.can_exchange_messages)
    ]


async def test_the_front_leads_to_the_first_replica_that_is_up(
    running: Simulation, http: aiohttp.ClientSession
) -> None:
    """Its report is that of the first one, else of the next."""
    versions = []
    for number, name in enumerate(REPLICAS):
        running.cluster.replicas[name].version = f"v2.26.{number}"
    for name in REPLICAS[:2]:
        versions.append((await get(running, http, running.coder.url + REPORT))[1]["coder_version"])
        running.cluster.replicas[name].refuse_connections()
    assert ["v2.26.0", "v2.26.1"] == versions


async def test_a_report_is_kept_for_a_while(tmp_path: Path, http: aiohttp.ClientSession) -> None:
    """The same one comes again, until it is forced; those who ask at the same time share a run."""
    async with Simulation(directory=tmp_path, database=False) as started:
        started.coder.state.refresh_seconds = 600.0
        url = started.cluster.replicas["coderd-1"].url + REPORT
        asked = [asyncio.create_task(get(started, http, url)) for _ in range(3)]
        times = {(await one)[1]["time"] for one in asked}
        again = (await get(started, http, url))[1]["time"]
        forced = (await get(started, http, f"{url}?force=true"))[1]["time"]
    assert {again} == times
    assert forced > again


@pytest.mark.parametrize(
    ("role", "status", "message"),
    [
        (Role.MEMBER, 403, "Forbidden."),
        (Role.REVOKED, 401, "You are signed out"),
        (Role.EXPIRED, 401, "You are signed"),
    ],
)
@pytest.mark.parametrize("path", [REPORT, f"{REPORT}/settings", "/api/v2/deployment/config"])
async def test_only_owners_may_read_it(
    path: str, role: Role, status: int, message: str, running: Simulation, http: aiohttp.ClientSession
) -> None:
    """Everybody else is refused as recorded, with a challenge where the token is the reason."""
    given, body, headers = await get(running, http, running.cluster.replicas["coderd-0"].url + path, role)
    assert (status, True) == (given, body["message"].startswith(message))
    assert (status == 401) == ("WWW-Authenticate" in headers)


async def test_the_report_is_refused_in_other_formats(running: Simulation, http: aiohttp.ClientSession) -> None:
    """Text is short, what nobody knows is 400."""
    assert 400 == (await get(running, http, f"{running.coder.url}{REPORT}?format=yaml"))[0]
    headers = {"Coder-Session-Token": running.coder.tokens[Role.OWNER].reveal()}
    url = f"{running.coder.url}{REPORT}?format=text"
    async with http.get(url, headers=headers, ssl=running.trust) as answer:
        assert "healthy: true\nderp: true\naccess_url: true\nwebsocket: true\ndatabase: true\n" in await answer.text()


async def test_a_replica_sees_by_its_own_hairpin(running: Simulation, http: aiohttp.ClientSession) -> None:
    """One that cannot reach the access URL says so, for the websocket and the relay there too."""
    await running.apply(SCENARIOS["XRPT05"])
    broken = await read_reports(running, http)
    await running.revert(SCENARIOS["XRPT05"])
    expected = {"access_url": "error", "websocket": "error", "derp": "error"}
    assert {"coderd-0": {}, "coderd-1": expected, "coderd-2": {}} == {
        name: troubles(report) for name, report in broken.items()
    }
    assert {} == troubles((await read_reports(running, http))["coderd-1"])


async def test_past_the_front_all_is_well(running: Simulation, http: aiohttp.ClientSession) -> None:
    """What the ingress does is not seen from inside, but proxies outside suffer."""
    await running.apply(SCENARIOS["ingress"])
    reports = await read_reports(running, http)
    assert {key: {"workspace_proxy": "warning"} for key in REPLICAS} == {
        name: troubles(report) for name, report in reports.items()
    }


async def test_what_somebody_else_answers_is_seen_from_inside_too(
    running: Simulation, http: aiohttp.ClientSession
) -> None:
    """A redirect is followed no further than this host."""
    await running.apply(SCENARIOS["XWS01"])
    report = (await read_reports(running, http))["coderd-0"]
    assert {"websocket": "error"} == troubles(report)
    assert "lookup login.example.com: no such host" in report["websocket"]["error"]


async def test_an_old_report_is_told_again(running: Simulation, http: aiohttp.ClientSession) -> None:
    """Its time stands still, and it comes forced or not."""
    await running.apply(SCENARIOS["XRPT02"])
    url = running.cluster.replicas["coderd-1"].url + REPORT
    times = {(await get(running, http, url + query))[1]["time"] for query in ("", "?force=true")}
    fresh = (await get(running, http, running.coder.url + REPORT))[1]["time"]
    assert 1 == len(times)
    assert max(times) < fresh


async def test_an_outage_of_the_database_is_no_refusal(running: Simulation, http: aiohttp.ClientSession) -> None:
    """Coder's own failure bears 401 and another message."""
    for breaks in SCENARIOS["EDB01"].breaks[:1]:
        async with breaks(running):
            for url in (running.coder.url, running.cluster.replicas["coderd-2"].url):
                status, body, _headers = await get(running, http, url + REPORT)
                assert (401, True) == (status, body["message"].startswith("An internal error occurred"))


async def test_mutes_and_configuration_are_told(running: Simulation, http: aiohttp.ClientSession) -> None:
    """What is muted shows in the report, but for provisioner daemons, which only the settings name."""
    await running.apply(SCENARIOS["XRPT07"])
    running.coder.state.dismissed = ("Database", "ProvisionerDaemons")
    report = (await get(running, http, running.coder.url + REPORT))[1]
    settings = (await get(running, http, f"{running.coder.url}{REPORT}/settings"))[1]
    config = (await get(running, http, f"{running.coder.url}/api/v2/deployment/config"))[1]["config"]
    assert {"dismissed_healthchecks": ["Database", "ProvisionerDaemons"]} == settings
    assert (True, False) == (report["database"]["dismissed"], report["provisioner_daemons"]["dismissed"])
    assert {"refresh": 0, "threshold_database": 40_000_000} == config["healthcheck"]


async def test_an_owner_is_told_of_the_token(running: Simulation, http: aiohttp.ClientSession) -> None:
    """Of one's own alone, by the part before the dash."""
    token = running.coder.tokens[Role.OWNER].reveal()
    path = f"{running.coder.url}/api/v2/users/me/keys/"
    status, key, _headers = await get(running, http, path + token[:10])
    assert (200, token[:10], 86400, "all") == (status, key["id"], key["lifetime_seconds"], key["scope"])
    assert 404 == (await get(running, http, path + "abcdefghij"))[0]


async def test_the_list_of_daemons_is_for_owners(running: Simulation, http: aiohttp.ClientSession) -> None:
    """Those that are offline are left out unless asked for; what cannot be asked for is 400."""
    url = f"{running.coder.url}/api/v2/organizations/coder/provisionerdaemons"
    await running.apply(SCENARIOS["EPD01"])
    names = {
        query: [daemon["name"] for daemon in (await get(running, http, url + query))[1]]
        for query in ("?limit=0", "?limit=0&offline=true")
    }
    assert {"?limit=0": [], "?limit=0&offline=true": ["builder-0", "builder-1", "builder-eu"]} == names
    assert 404 == (await get(running, http, url, Role.MEMBER))[0]
    assert 400 == (await get(running, http, f"{url}?nonsense=1"))[0]


async def test_the_api_lists_the_replicas(running: Simulation, http: aiohttp.ClientSession) -> None:
    """By name, with where they are; for owners only."""
    url = f"{running.coder.url}/api/v2/replicas"
    listed = (await get(running, http, url))[1]
    expected = [(name, replica.url) for name, replica in running.cluster.replicas.items()]
    assert expected == [(one["hostname"], one["relay_address"]) for one in listed]
    assert 404 == (await get(running, http, url, Role.MEMBER))[0]


async def test_a_rollout_goes_step_by_step_and_back(running: Simulation, http: aiohttp.ClientSession) -> None:
    """It ends by itself with everything of the new version; mended, all is of the old one again."""
    seen = []
    for step in (running.apply, running.revert):
        await step(SCENARIOS["rollout"])
        await until(lambda: not running.telling)
        reports = await read_reports(running, http)
        seen.append(
            (
                {report["coder_version"] for report in reports.values()},
                {proxy.version for proxy in running.proxies.values()},
                {daemon.version for daemon in running.cluster.daemons.values()},
                [troubles(report) for report in reports.values()],
            )
        )
    assert [({version}, {version}, {version}, [{}] * 3) for version in ("v2.27.0", "v2.26.0")] == seen


async def test_the_exporters_token_file_is_rewritten(running: Simulation) -> None:
    """It holds the member's token while the scenario is played, and the owner's afterwards."""
    held = []
    for step in (running.apply, running.revert):
        await step(SCENARIOS["member"])
        held.append((await asyncio.to_thread(running.token_file.read_text)).strip())
    assert [running.coder.tokens[role].reveal() for role in (Role.MEMBER, Role.OWNER)] == held


class TestDatabase:
    """What stands in the tables, seen by the exporter's role."""

    @pytest.fixture
    async def started(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Simulation]:
        need_installation(INSTALLATIONS[0])
        monkeypatch.setattr(simulation, "REPORT_REFRESH_SECONDS", 0.0)
        async with Simulation(directory=tmp_path) as started:
            yield started

    async def test_the_replicas_have_rows_that_beat(self, started: Simulation) -> None:
        """Each is a primary with its address, and is updated again."""
        query = 'SELECT hostname, relay_address, version, updated_at FROM replicas WHERE "primary" ORDER BY hostname'
        connection = await asyncpg.connect(started.database.exporter_url.reveal())
        first = await connection.fetch(query)
        await started.cluster.beat()
        second = await connection.fetch(query)
        await connection.close()
        expected = [(name, replica.url, "v2.26.0") for name, replica in started.cluster.replicas.items()]
        assert expected == [tuple(row)[:3] for row in first]
        assert [True] * 3 == [new["updated_at"] > old["updated_at"] for old, new in zip(first, second, strict=True)]

    async def test_daemons_beat_unless_they_are_silent(self, started: Simulation) -> None:
        """None was seen lately while they are, and all are afterwards."""
        query = "SELECT count(*) FROM provisioner_daemons WHERE last_seen_at > now() - interval '90 seconds'"
        recent = []
        connection = await asyncpg.connect(started.database.exporter_url.reveal())
        for step in (started.apply, started.revert):
            await step(SCENARIOS["EPD01"])
            await started.cluster.beat()
            recent.append(await connection.fetchval(query))
        await connection.close()
        assert [0, 3] == recent

    async def test_one_line_can_be_slow_by_itself(self, started: Simulation, http: aiohttp.ClientSession) -> None:
        """Only the replica behind it says so."""
        await started.apply(SCENARIOS["stale-connection"])
        reports = await read_reports(started, http)
        slow = {name for name, report in reports.items() if report["database"]["latency_ms"] >= 25}
        assert {"coderd-1"} == slow
        assert "warning" == reports["coderd-1"]["database"]["severity"]

    async def test_a_replica_without_its_line_has_no_database(
        self, started: Simulation, http: aiohttp.ClientSession
    ) -> None:
        """It reports EDB01, and is well again once the line is."""
        replica = started.cluster.replicas["coderd-2"]
        assert replica.database is not None
        await replica.database.line.break_with(fault_proxy.Refuse())
        broken = (await get(started, http, replica.url + REPORT))[1]["database"]
        await replica.database.line.heal()
        assert broken["error"].startswith("EDB01: ping database: ")
        assert (await get(started, http, replica.url + REPORT))[1]["database"]["reachable"]

    async def test_a_standby_follows(self, started: Simulation) -> None:
        """What was written after its start stands there too."""
        await started.cluster.change_daemon("builder-0", version="v2.20.1")
        await started.apply(SCENARIOS["XDB02"])
        connection = await asyncpg.connect(started.database.exporter_url.reveal())
        assert await connection.fetchval("SELECT pg_is_in_recovery()")
        query = "SELECT count(*) FROM provisioner_daemons WHERE version = 'v2.20.1'"
        counts = [count async for count in poll(lambda: connection.fetchval(query), until=1)]
        await connection.close()
        assert 1 == counts[-1]

    async def test_a_job_waits_until_it_is_mended(self, started: Simulation) -> None:
        """It stands in the queue with its tags."""
        query = "SELECT tags::text FROM provisioner_jobs WHERE job_status = 'pending'"
        connection = await asyncpg.connect(started.database.exporter_url.reveal())
        waiting = []
        for step in (started.apply, started.revert):
            await step(SCENARIOS["XPD02"])
            waiting.append([json.loads(row["tags"]).get("gpu") for row in await connection.fetch(query)])
        await connection.close()
        assert [["yes"], []] == waiting
