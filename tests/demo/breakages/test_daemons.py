"""What happens to provisioner daemons, as the tables and the API tell it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import pytest

from exporter.demo.breakages import daemons
from exporter.demo.simulation import Simulation
from exporter.demo.state import ORGANIZATION_ID, Role
from tests.support.postgres import INSTALLATIONS, need_installation

DAEMONS = f"/api/v2/organizations/{ORGANIZATION_ID}/provisionerdaemons?limit=0&offline=true"


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Simulation]:
    """The simulation with its database."""
    need_installation(INSTALLATIONS[0])
    async with Simulation(directory=tmp_path) as started:
        yield started


@pytest.fixture
async def reader(running: Simulation) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    """A connection of the exporter's role."""
    connection = await asyncpg.connect(running.database.exporter_url.reveal())
    yield connection
    await connection.close()


async def list_daemons(simulation: Simulation, http: aiohttp.ClientSession) -> tuple[int, Any]:
    """Return status and answer of the list of daemons, asked with the Owner's token."""
    headers = {"Coder-Session-Token": simulation.coder.tokens[Role.OWNER].reveal()}
    async with http.get(simulation.coder.url + DAEMONS, headers=headers, ssl=simulation.trust) as answer:
        return answer.status, json.loads(await answer.text())


async def test_facts_of_a_daemon_are_told_by_table_and_api(
    running: Simulation, reader: asyncpg.Connection[asyncpg.Record], http: aiohttp.ClientSession
) -> None:
    """The same ones, of this daemon alone, until it is over."""

    async def read() -> list[set[str]]:
        rows = await reader.fetch("SELECT name, version FROM provisioner_daemons")
        _, listed = await list_daemons(running, http)
        found = [{row["name"]: row["version"] for row in rows}, {row["name"]: row["version"] for row in listed}]
        return [{name for name, version in versions.items() if version == "v1.0.0"} for versions in found]

    async with daemons.change_daemon("builder-1", version="v1.0.0")(running):
        assert [{"builder-1"}, {"builder-1"}] == await read()
    assert [set(), set()] == await read()


async def test_silent_daemons_stay_silent_while_the_others_beat(
    running: Simulation, reader: asyncpg.Connection[asyncpg.Record]
) -> None:
    """A beat of the cluster changes nothing for them until it is over."""

    async def count_silent() -> int:
        found = await reader.fetchval(
            "SELECT count(*) FROM provisioner_daemons WHERE last_seen_at < now() - interval '170 seconds'"
        )
        return int(found)

    everyone = len(running.cluster.daemons)
    async with daemons.silence_daemons(180.0)(running):
        await running.cluster.beat()
        assert everyone == await count_silent()
    assert 0 == await count_silent()


async def test_a_hidden_list_is_hidden_from_both_ways(
    running: Simulation, reader: asyncpg.Connection[asyncpg.Record], http: aiohttp.ClientSession
) -> None:
    """Neither the API nor the table tells; other tables do."""
    async with daemons.hide_daemon_list()(running):
        assert 500 == (await list_daemons(running, http))[0]
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await reader.fetch("SELECT name FROM provisioner_daemons")
        assert 2 == await reader.fetchval("SELECT count(name) FROM workspace_proxies")
    status, listed = await list_daemons(running, http)
    assert (200, len(running.cluster.daemons)) == (status, len(listed))
    assert len(listed) == len(await reader.fetch("SELECT name FROM provisioner_daemons"))


async def test_a_job_waits_with_its_tags(running: Simulation, reader: asyncpg.Connection[asyncpg.Record]) -> None:
    """It is there, pending for as long as was said, and is gone afterwards."""
    query = (
        "SELECT tags, extract(epoch FROM now() - created_at)::float8 AS age FROM provisioner_jobs"
        " WHERE started_at IS NULL AND completed_at IS NULL"
    )
    tags = {"owner": "", "scope": "organization", "region": "mars"}
    async with daemons.let_job_wait(tags, age_seconds=600.0)(running):
        (job,) = await reader.fetch(query)
        assert tags == json.loads(job["tags"])
        assert 600.0 <= job["age"] < 1200.0
    assert [] == await reader.fetch(query)
