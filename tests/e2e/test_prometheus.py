"""A real Prometheus scrapes the demo."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from exporter.app import running
from exporter.config.load import load_config
from exporter.demo.scenarios.table import SCENARIOS
from exporter.demo.simulation import DEPLOYMENT, Pace, Simulation
from exporter.health import codes
from exporter.health.model import UNCODED
from exporter.web.server import DEFAULT_TELEMETRY_PATH, serve
from tests.support.ports import free_port
from tests.support.postgres import INSTALLATIONS, need_installation

# a busy machine keeps up with it too
PACE = Pace(interval_seconds=3.0, timeout_seconds=2.9)
PATIENCE_SECONDS = 120.0
# several waits, each with patience
pytestmark = pytest.mark.timeout(600)
_CONFIG = """
global: {{scrape_interval: 1s, scrape_timeout: 1s}}
scrape_configs:
  - job_name: coder-health
    static_configs: [{{targets: ["{address}"]}}]
"""


@pytest.fixture
def database() -> bool:
    """Skip where no PostgreSQL is installed: the demo is to be scraped whole."""
    need_installation(INSTALLATIONS[0])
    return True


@asynccontextmanager
async def exhibit(database: bool) -> AsyncIterator[tuple[Simulation, str]]:
    """The simulated deployment with the unchanged exporter before it, at a fast pace."""
    async with Simulation(database=database) as simulation:
        config = await asyncio.to_thread(load_config, await simulation.write_config(pace=PACE), {})
        async with (
            running(config) as application,
            serve(application.web(DEFAULT_TELEMETRY_PATH), ["127.0.0.1:0"]) as (address,),
        ):
            yield simulation, address


class Prometheus:
    """A running server, asked by PromQL."""

    def __init__(self, url: str, session: aiohttp.ClientSession) -> None:
        self._url = url
        self._session = session

    async def ask(self, query: str) -> list[dict[str, Any]]:
        async with self._session.get(f"{self._url}/api/v1/query", params={"query": query}) as answer:
            given = await answer.json()
        assert "success" == given["status"], given
        result = given["data"]["result"]
        assert isinstance(result, list)
        return result

    async def wait_until(self, query: str) -> None:
        """Return once the query has a result."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while True:
                if await self.ask(query):
                    return
                await asyncio.sleep(0.1)


async def wait_until_ready(url: str, session: aiohttp.ClientSession) -> None:
    """Return once `/-/ready` says so: Prometheus and the exporter have the same route."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            with contextlib.suppress(aiohttp.ClientConnectionError):
                async with session.get(f"{url}/-/ready") as answer:
                    if answer.status == 200:
                        return
            await asyncio.sleep(0.1)


@asynccontextmanager
async def scrape(program: str, directory: Path, address: str) -> AsyncIterator[Prometheus]:
    """Run Prometheus until the block is left."""
    file = directory / "prometheus.yml"
    await asyncio.to_thread(file.write_text, _CONFIG.format(address=address))
    own = f"127.0.0.1:{free_port()}"
    process = await asyncio.create_subprocess_exec(
        program,
        f"--config.file={file}",
        f"--storage.tsdb.path={directory / 'data'}",
        f"--web.listen-address={own}",
        "--log.level=error",
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with aiohttp.ClientSession() as session:
            await wait_until_ready(f"http://{own}", session)
            yield Prometheus(f"http://{own}", session)
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


@pytest.mark.parametrize("name", ["EDB02", "XWP02"])
async def test_a_code_goes_from_0_to_1_to_0(
    name: str, database: bool, need_tool: Callable[[str], str], tmp_path: Path
) -> None:
    """PromQL shows a settled code at 0, at 1 while the scenario lasts, and at 0 again; whatever else
    the scenario foresees becomes active too, by each witness."""
    program = need_tool("prometheus")
    series = f'coder_health_code_active{{deployment="{DEPLOYMENT}",code="{name}",witness="probe"}}'
    played = SCENARIOS[name]
    foreseen = [
        f'coder_health_code_active{{section="{section}",witness="{witness}",code="{code}"}} == 1'
        for (section, witness), observed in played.expected(database=database).items()
        for code, _severity in observed
        if code != UNCODED
    ]
    async with exhibit(database) as (simulation, address), scrape(program, tmp_path, address) as prometheus:
        await prometheus.wait_until(f"{series} == 0")
        await prometheus.wait_until("count(coder_health_probe_success == 1) >= 5")
        await simulation.apply(played)
        await prometheus.wait_until(f"{series} == 1")
        for active in foreseen:
            await prometheus.wait_until(active)
        await simulation.revert(played)
        await prometheus.wait_until(f"{series} == 0")
        (history,) = await prometheus.ask(f"{series}[5m]")
    values = [value for _time, value in history["values"]]
    changes = [value for before, value in zip([None, *values], values, strict=False) if value != before]
    assert ["0", "1", "0"] == changes


async def test_every_code_is_there_before_it_is_seen(
    database: bool, need_tool: Callable[[str], str], tmp_path: Path
) -> None:
    """A healthy deployment shows every code of its sections at 0, and each section ok, by each witness."""
    places = SCENARIOS["healthy"].expected(database=database)
    expected = {
        (str(section), str(witness), code)
        for section, witness in places
        for code in codes.section_codes(section, witness)
    }
    severity_ok = 'coder_health_section_severity{severity="ok"}'
    async with (
        exhibit(database) as (_simulation, address),
        scrape(need_tool("prometheus"), tmp_path, address) as prometheus,
    ):
        all_told = f"count(count by (section, witness) ({severity_ok} == 1)) == {len(places)}"
        await prometheus.wait_until(f"{all_told} and count({severity_ok} == 1) == count({severity_ok})")
        found = await prometheus.ask("coder_health_code_active == 0")
        up = await prometheus.ask("up")
    assert expected == {tuple(series["metric"][label] for label in ("section", "witness", "code")) for series in found}
    assert ["1"] == [series["value"][1] for series in up]


@pytest.mark.parametrize("name", ["healthy", "EACS03"])
async def test_promtool_finds_nothing_to_say(name: str, database: bool, need_tool: Callable[[str], str]) -> None:
    """`promtool check metrics` is clean, of a healthy deployment and of a broken one."""
    promtool = need_tool("promtool")
    async with exhibit(database) as (simulation, address), aiohttp.ClientSession() as session:
        await simulation.apply(SCENARIOS[name])
        await wait_until_ready(f"http://{address}", session)
        async with session.get(f"http://{address}{DEFAULT_TELEMETRY_PATH}") as answer:
            text = await answer.text()
        checked = await asyncio.to_thread(
            subprocess.run, [promtool, "check", "metrics"], input=text, capture_output=True, text=True, check=False
        )
    assert "coder_health_code_active" in text
    assert (0, "", "") == (checked.returncode, checked.stdout, checked.stderr)
