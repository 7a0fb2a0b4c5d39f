"""The command `demo` as people run it: a process of its own, with PostgreSQL."""

from __future__ import annotations

import asyncio
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from exporter import check
from exporter.app import Application
from exporter.clock import SystemClock
from exporter.config.load import load_config
from exporter.demo import verdict
from exporter.demo.command import is_as_foreseen
from exporter.demo.scenario import Place, Scenario
from exporter.demo.scenarios.table import SCENARIOS
from exporter.demo.simulation import Pace, Simulation
from exporter.health.model import Severity
from tests.support.postgres import INSTALLATIONS, need_installation

COMMAND = [sys.executable, "-m", "exporter", "demo"]
# it is to stop within 2 s; tests give five times that
STOP_SECONDS = 10.0
# what takes some seconds may take long on a busy machine
PATIENCE_SECONDS = 200.0
ROUNDS_SECONDS = 60.0
# a report of Coder's waits for what is silent, and a busy machine has to make three of them in this time
PACE = Pace(interval_seconds=4.0, timeout_seconds=3.9)


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


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", SCENARIOS)
def test_every_scenario_is_observed_as_foreseen(name: str) -> None:
    """`demo --once --scenario CODE` ends with 0: the exporter saw exactly what follows from the fault."""
    finished = subprocess.run(
        [*COMMAND, "--once", "--for", "100s", "--scenario", name],
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
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


def pick_scenarios() -> list[Scenario]:
    """Return every story, and of the codes enough that each section is as bad as it gets by each witness. Each of
    the others is played too, before an exporter of its own."""
    picked = [known for known in SCENARIOS.values() if known.name.islower() and is_played_in_rounds(known)]
    shown = show(picked)
    for known in SCENARIOS.values():
        if not show([known]) <= shown and known not in picked and is_played_in_rounds(known):
            picked.append(known)
            shown |= show([known])
    return picked


def is_played_in_rounds(known: Scenario) -> bool:
    """Whether it can come and go while one exporter looks round after round."""
    return bool(known.breaks) and not (known.from_start or known.of_configuration or known.on_schedule)


def show(played: Iterable[Scenario]) -> set[tuple[Place, Severity]]:
    """Return how bad each section is, as each witness tells it."""
    foreseen = [item for known in played for item in known.expected(database=True).items()]
    return {(place, severity) for place, observed in foreseen for _code, severity in observed}


def test_each_section_is_in_trouble_by_each_witness() -> None:
    """Those that are picked show all that any scenario shows in single rounds, and they are far fewer."""
    picked = pick_scenarios()
    assert show(known for known in SCENARIOS.values() if not known.on_schedule) == show(picked)
    assert len(picked) < len(SCENARIOS) / 2


@pytest.mark.timeout(900)
async def test_one_exporter_sees_scenarios_come_and_go() -> None:
    """What was broken and mended leaves nothing behind in a running exporter: each scenario is
    observed as foreseen after all the others, and between them all is well."""
    wrong = []
    async with Simulation() as simulation:
        config = await asyncio.to_thread(load_config, await simulation.write_config(pace=PACE), {})
        application = Application(config, clock=SystemClock())
        try:
            for played in pick_scenarios():
                if simulation.why_not(played):
                    continue
                await simulation.apply(played)
                if not await is_observed(simulation, application, played):
                    wrong.append((played.name, verdict.observe(check.collect(application))))
                await simulation.revert(played)
                if not await is_observed(simulation, application, SCENARIOS["healthy"]):
                    wrong.append((f"after {played.name}", verdict.observe(check.collect(application))))
        finally:
            await application.close()
    assert [] == [name for name, _seen in wrong], wrong


async def is_observed(simulation: Simulation, application: Application, played: Scenario) -> bool:
    """Run complete rounds until one shows what is foreseen; give up after some time: a busy machine
    may be slow enough for EDB02 here and there."""
    deadline = time.monotonic() + ROUNDS_SECONDS
    while time.monotonic() < deadline:
        await application.check()
        if not simulation.telling and is_as_foreseen(application, played, database=True):
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
