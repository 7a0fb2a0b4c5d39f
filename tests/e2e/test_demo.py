"""The command `demo` as people run it: a process of its own, with PostgreSQL."""

from __future__ import annotations

import asyncio
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from exporter import check
from exporter.app import Application
from exporter.clock import SystemClock
from exporter.config.load import load_config
from exporter.demo import verdict
from exporter.demo.scenario import SCENARIOS, Scenario
from exporter.demo.simulation import Simulation
from tests.support.postgres import INSTALLATIONS, need_installation

COMMAND = [sys.executable, "-m", "exporter", "demo"]
# it is to stop within 2 s; tests give five times that
STOP_SECONDS = 10.0
PATIENCE_SECONDS = 60.0
ROUNDS_SECONDS = 40.0


@pytest.fixture(autouse=True)
def _need_postgres() -> None:
    """Skip where no PostgreSQL is installed: the scenarios of the database are part of this."""
    need_installation(INSTALLATIONS[0])


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty directory for temporary files that every user may enter."""
    with tempfile.TemporaryDirectory(prefix="t-", dir="/tmp") as name:
        directory = Path(name)
        directory.chmod(0o755)
        monkeypatch.setenv("TMPDIR", name)
        yield directory


@pytest.mark.parametrize("name", SCENARIOS)
def test_every_scenario_is_observed_as_foreseen(name: str) -> None:
    """`demo --once --scenario CODE` ends with 0: the exporter saw exactly what follows from the fault."""
    finished = subprocess.run(
        [*COMMAND, "--once", "--scenario", name], capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False
    )
    assert (0, "") == (finished.returncode, finished.stderr), finished.stdout


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_it_stops_in_good_order_and_leaves_nothing_behind(number: signal.Signals, temporary: Path) -> None:
    """Also while something hangs: status 0 soon after the signal, no files, no processes."""
    with subprocess.Popen(
        [*COMMAND, "--web.listen-address", "127.0.0.1:0", "--scenario", "XWP04"], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if re.search(r"XWP04  active", line):
                break
        else:
            pytest.fail("the code never became active")
        process.send_signal(number)
        asked = time.monotonic()
        assert 0 == process.wait(PATIENCE_SECONDS)
        assert STOP_SECONDS > time.monotonic() - asked
    assert [] == list(temporary.iterdir())
    assert [] == [line for line in list_processes() if str(temporary) in line]


@pytest.mark.timeout(300)
async def test_one_exporter_sees_every_scenario_come_and_go() -> None:
    """What was broken and mended leaves nothing behind in a running exporter: each scenario is
    observed as foreseen after all the others, and between them all is well."""
    wrong = []
    async with Simulation() as simulation:
        config = await asyncio.to_thread(load_config, await simulation.write_config(), {})
        application = Application(config, clock=SystemClock())
        try:
            for played in SCENARIOS.values():
                if simulation.why_not(played) or played.from_start:
                    continue
                await simulation.apply(played)
                if not await is_observed(application, played):
                    wrong.append((played.name, verdict.observe(check.collect(application))))
                await simulation.revert(played)
                if not await is_observed(application, SCENARIOS["healthy"]):
                    wrong.append((f"after {played.name}", verdict.observe(check.collect(application))))
        finally:
            await application.close()
    assert [] == wrong


async def is_observed(application: Application, played: Scenario) -> bool:
    """Run complete rounds until one shows what is foreseen; give up after some time: a busy machine
    may be slow enough for EDB02 here and there."""
    deadline = time.monotonic() + ROUNDS_SECONDS
    while time.monotonic() < deadline:
        await application.check()
        if verdict.observe(check.collect(application)) == played.expected(database=True):
            return True
        await asyncio.sleep(0.1)
    return False


def list_processes() -> list[str]:
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(file.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except OSError:
            continue
    return found
