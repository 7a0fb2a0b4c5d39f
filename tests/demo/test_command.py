"""The command `demo`: what it prints, when it ends and with which status."""

from __future__ import annotations

import argparse
import io
import os
import re
import signal
import socket
from collections.abc import Iterator

import pytest

from exporter import log
from exporter.demo import command, scenario, simulation
from exporter.demo.scenarios import table
from exporter.demo.scenarios.table import SCENARIOS
from exporter.demo.simulation import Pace

# with debug mode a round takes a third of a second, on a machine that has nothing else to do
FAST = Pace(interval_seconds=2.0, timeout_seconds=1.9)
# nobody waits for the interval of single rounds, but what is kept for some of them, such as a list of proxies, is
# to be there still when a busy machine has made a good round
ROUNDS = Pace(interval_seconds=10.0, timeout_seconds=1.9)
# what takes a second or two there may take long on a busy one
PATIENCE = ("--for", "100s")
pytestmark = pytest.mark.timeout(300)


def parse(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    command.add_arguments(parser)
    return parser.parse_args(["--web.listen-address", "127.0.0.1:0", *arguments])


async def run(*arguments: str, pace: Pace = FAST) -> tuple[int, str]:
    """Return the status and all that was said."""
    out = io.StringIO()
    return await command.run(parse(*arguments), out=out, errors=out, pace=pace), out.getvalue()


@pytest.fixture(autouse=True)
def _quiet_log() -> Iterator[None]:
    """Whatever the command sets, the log is quiet afterwards."""
    yield
    log.configure("debug", "logfmt", io.StringIO())


@pytest.fixture
def without_database(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host on which no PostgreSQL is installed."""
    monkeypatch.setattr(simulation, "why_no_database", lambda: "no PostgreSQL is installed")


@pytest.fixture
def kept_signals() -> Iterator[None]:
    """Whatever a test does to them, signals are handled as before afterwards."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


class Interrupting(io.StringIO):
    """Sends a signal to this process once a line was written that holds some words."""

    def __init__(self, words: str, number: int) -> None:
        super().__init__()
        self._words = words
        self._number = number

    def write(self, text: str) -> int:
        if self._words in text:
            os.kill(os.getpid(), self._number)
        return super().write(text)


async def test_scenarios_are_listed_with_what_they_foresee() -> None:
    """Every name stands there with its words, and the tour."""
    status, text = await run("--list-scenarios")
    assert 0 == status
    names = [*SCENARIOS, scenario.TOUR]
    assert names == re.findall(r"^(\S+)", text, re.MULTILINE)
    assert "database, in Coder's report: EDB02 (warning)" in text
    assert "database: EDB02 (warning)" in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--scenario", "nonsense"], "there is no scenario 'nonsense'"),
        (["--scenario", "EWP04@x"], "its start 'x' is not a duration"),
        (["--once", "--scenario", "EWP04@1s"], "it has no start and no length"),
    ],
)
async def test_a_plan_that_is_wrong_starts_nothing(arguments: list[str], words: str) -> None:
    """Status 3, and the reason."""
    status, text = await run(*arguments)
    assert 3 == status
    assert words in text


def test_a_time_that_is_wrong_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    """--for wants a duration above 0."""
    with pytest.raises(SystemExit):
        parse("--for", "0s")
    assert "write it like 30s, 5m or 1h30m" in capsys.readouterr().err


@pytest.mark.usefixtures("without_database")
async def test_without_a_database_it_runs_and_says_so() -> None:
    """The section is off, the rest is judged."""
    status, text = await run("--once", *PATIENCE)
    assert 0 == status
    assert "none: no PostgreSQL is installed; the section database is off" in text
    assert "as foreseen: ok" in text


@pytest.mark.usefixtures("without_database")
async def test_it_says_what_was_started() -> None:
    """Relays and STUN servers too, with where they are."""
    _status, text = await run("--once")
    assert re.search(r"^  DERP relays       /derp on the access URL, proxy eu, proxy us$", text, re.MULTILINE)
    assert ["1a", "1b", "1c"] == re.findall(
        r"^  DERP relay        https://localhost:\d+  \((1.), one of a mesh\)$", text, re.MULTILINE
    )
    assert 3 <= len(re.findall(r"^  STUN server       (?:127\.0\.0\.[123]|\[::1\]):\d+$", text, re.MULTILINE))


@pytest.mark.usefixtures("without_database", "kept_signals")
async def test_a_scenario_of_the_configuration_lasts_all_the_time() -> None:
    """Its code becomes active without anything being broken."""
    out = Interrupting("XNET05  active", signal.SIGTERM)
    assert 0 == await command.run(parse("--scenario", "XNET05"), out=out, errors=out, pace=FAST)
    assert "direct_connections  XNET05  active (warning)" in out.getvalue()


@pytest.mark.usefixtures("without_database")
async def test_a_scenario_that_needs_a_database_cannot_start_without_one() -> None:
    """Status 3, and the reason."""
    status, text = await run("--once", "--scenario", "EDB02")
    assert 3 == status
    assert "EDB02 cannot be played: it needs a database" in text


@pytest.mark.usefixtures("without_database")
@pytest.mark.parametrize("name", [known.name for known in SCENARIOS.values() if known.without_database is not None])
async def test_every_other_scenario_is_as_foreseen_without_one(name: str) -> None:
    """What follows from a missing database belongs to what is foreseen."""
    pace = FAST if SCENARIOS[name].on_schedule else ROUNDS
    status, text = await run("--once", *PATIENCE, "--scenario", name, pace=pace)
    assert (0, "") == (status, "" if status == 0 else text)


@pytest.mark.usefixtures("without_database")
async def test_another_verdict_is_status_2(monkeypatch: pytest.MonkeyPatch) -> None:
    """What differs is named."""
    foreseen = SCENARIOS["EWS01"].foreseen
    wrong = {**SCENARIOS, "healthy": scenario.Scenario(name="healthy", words="", without_database=foreseen)}
    monkeypatch.setattr(table, "SCENARIOS", wrong)
    monkeypatch.setattr(command, "SCENARIOS", wrong)
    status, text = await run("--once", "--for", "100ms", "--scenario", "healthy")
    assert 2 == status
    assert "websocket: - instead of EWS01 (error)" in text


@pytest.mark.usefixtures("without_database")
async def test_what_may_not_become_active_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """A scenario that is to be quiet is another verdict once another code than its own becomes active."""
    loud = scenario.Scenario(
        name="loud",
        words="",
        breaks=SCENARIOS["EWS02"].breaks,
        without_database=SCENARIOS["EWS02"].without_database,
        inside=SCENARIOS["EWS02"].inside,
        quiet=True,
    )
    monkeypatch.setattr(table, "find", lambda _name: loud)
    # active at once
    pace = Pace(interval_seconds=2.0, timeout_seconds=1.9, raise_after=1)
    out = io.StringIO()
    assert 2 == await command.run(parse("--once", "--scenario", "loud"), out=out, errors=out, pace=pace)
    assert "became active, though it may not" in out.getvalue()
    assert "EWS02" in out.getvalue()


@pytest.mark.usefixtures("without_database", "kept_signals")
async def test_it_tells_each_change() -> None:
    """A scenario on the time line begins and ends, and so do its codes."""
    out = Interrupting("EWS02  over", signal.SIGTERM)
    assert 0 == await command.run(parse("--scenario", "EWS02@500ms:15s"), out=out, errors=out, pace=FAST)
    text = out.getvalue()
    assert re.search(r"exporter on http://127\.0\.0\.1:\d+/", text) is not None
    told = re.findall(r"-- EWS02:|EWS02  active|-- EWS02 is over|EWS02  over", text)
    # also a probe that a busy machine lets wait has this code, so it may come and go meanwhile
    assert ["-- EWS02:", "EWS02  active", "-- EWS02 is over", "EWS02  over"] == list(dict.fromkeys(told))


@pytest.mark.usefixtures("without_database")
async def test_it_runs_for_a_time() -> None:
    """Nobody stops it, and it ends with status 0."""
    status, text = await run("--for", "500ms")
    assert 0 == status
    assert "exporter on http://127.0.0.1:" in text


@pytest.mark.usefixtures("without_database", "kept_signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
async def test_a_signal_ends_it(number: signal.Signals) -> None:
    """Ctrl-C and SIGTERM end it in good order, with status 0."""
    out = Interrupting("expect websocket", number)
    assert 0 == await command.run(parse("--scenario", "EWS02"), out=out, errors=out)


@pytest.mark.usefixtures("without_database", "kept_signals")
async def test_a_signal_ends_one_round_too() -> None:
    """Before there is a verdict the status is 3."""
    out = Interrupting("XWP04:", signal.SIGTERM)
    assert 3 == await command.run(parse("--once", "--scenario", "XWP04"), out=out, errors=out)
    assert "stopped before it was done" in out.getvalue()


@pytest.mark.usefixtures("without_database")
async def test_a_port_that_is_taken_is_said() -> None:
    """Status 3, and which address."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        status, text = await run("--web.listen-address", address)
    assert 3 == status
    assert f"cannot listen on {address}" in text


@pytest.mark.usefixtures("without_database")
async def test_no_secret_is_printed() -> None:
    """Nothing that it prints has the form of a token."""
    status, text = await run("--once", *PATIENCE, "--scenario", "EACS03", "--scenario", "EWP02")
    assert 0 == status
    assert re.search(r"[A-Za-z0-9]{10}-[A-Za-z0-9]{22}", text) is None
