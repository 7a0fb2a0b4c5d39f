"""What is done to the database."""

from __future__ import annotations

from pathlib import Path

import asyncpg
import pytest

from exporter.demo.breakages import database
from exporter.demo.simulation import Simulation
from tests.support.postgres import INSTALLATIONS, need_installation


async def test_a_locked_table_keeps_its_readers_waiting(tmp_path: Path) -> None:
    """The exporter's role gets nothing out of it until the lock is gone; other tables are read as ever."""
    need_installation(INSTALLATIONS[0])
    async with Simulation(directory=tmp_path) as simulation:
        reader = await asyncpg.connect(simulation.database.exporter_url.reveal())
        async with database.lock_table("organizations")(simulation):
            with pytest.raises(asyncpg.QueryCanceledError):
                await reader.execute("SET statement_timeout = '100ms'; SELECT count(name) FROM organizations")
            assert 2 == await reader.fetchval("SELECT count(name) FROM workspace_proxies")
        assert 1 == await reader.fetchval("SELECT count(name) FROM organizations")
        await reader.close()
