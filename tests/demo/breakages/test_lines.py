"""Several lines that are broken at once."""

from __future__ import annotations

from pathlib import Path

import aiohttp
import pytest

from exporter.demo import fault_proxy
from exporter.demo.breakages.lines import faulty_lines
from exporter.demo.simulation import Simulation
from exporter.demo.state import Role

REPORT = "/api/v2/debug/health"


async def test_every_line_has_the_fault_and_reports_are_made_anew(tmp_path: Path, http: aiohttp.ClientSession) -> None:
    """Replicas whose way to the access URL is closed say so at once, and the next report is good again, also
    when something went wrong in between."""
    async with Simulation(directory=tmp_path, database=False) as simulation:
        simulation.coder.state.refresh_seconds = 600.0
        replicas = simulation.cluster.replicas

        async def read_severities() -> list[str]:
            found = []
            headers = {"Coder-Session-Token": simulation.coder.tokens[Role.OWNER].reveal()}
            for replica in replicas.values():
                async with http.get(replica.url + REPORT, headers=headers, ssl=simulation.trust) as answer:
                    found.append((await answer.json())["access_url"]["severity"])
            return found

        assert ["ok"] * 3 == await read_severities()
        hairpins = [replica.inside.hairpin for replica in list(replicas.values())[:2]]

        async def go_wrong() -> None:
            async with faulty_lines(hairpins, fault_proxy.Refuse(), simulation):
                assert ["error", "error", "ok"] == await read_severities()
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await go_wrong()
        assert ["ok"] * 3 == await read_severities()
