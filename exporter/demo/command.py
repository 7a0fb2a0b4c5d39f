"""The command `demo`: starts the simulated deployment, points the unchanged exporter at it by an
ordinary configuration, plays scenarios, and tells what happens.

In: parsed flags. Out: lines for people, and the exit status: 0; with `--once` 2 when the verdict
is not the foreseen one; 3 when it could not start.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import TextIO, TypeVar

from exporter import check, log, output
from exporter.app import Application, running
from exporter.clock import Clock, SystemClock
from exporter.config.durations import parse_duration
from exporter.config.load import load_config
from exporter.config.model import Config
from exporter.demo import plan, verdict
from exporter.demo.plan import Entry
from exporter.demo.scenario import HEALTHY, TOUR, Scenario
from exporter.demo.scenarios.table import SCENARIOS
from exporter.demo.simulation import DEPLOYMENT, Pace, Simulation
from exporter.errors import ConfigError, ExporterError
from exporter.health.model import Severity
from exporter.process import run_event_loop, stop_signals
from exporter.secret import mask
from exporter.snapshot import CodeChange
from exporter.web.server import DEFAULT_TELEMETRY_PATH, serve

LISTEN_ADDRESS = "127.0.0.1:26337"
# How long `--once` waits for what is foreseen. Source: contract, section 8.
ONCE_SECONDS = 60.0
_BETWEEN_ROUNDS_SECONDS = 0.1
# How long a schedule goes on between two looks at what it has found.
_MOMENT_SECONDS = 0.5
# For who watches, perhaps on a machine that has more to do: what is only slow there shows no code.
_WATCHED = Pace(interval_seconds=4.0, timeout_seconds=3.9)
_SUCCESS, _OTHER_VERDICT, _COULD_NOT_RUN = 0, 2, 3

T = TypeVar("T")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `demo`."""
    parser.add_argument(
        "--scenario",
        action="append",
        default=[],
        metavar="NAME[@START[:LENGTH]]",
        help=f"what to break: {HEALTHY}, a code such as EDB02, or {TOUR}; @30s:2m begins after "
        "30 s and lasts 2 min; may be given more than once",
    )
    parser.add_argument("--list-scenarios", action="store_true", help="list what can be broken, and exit")
    parser.add_argument(
        "--once",
        action="store_true",
        help="play each scenario once, print what was observed, exit 0 when it is what the scenario foresees, else 2",
    )
    parser.add_argument(
        "--web.listen-address",
        dest="web_listen_address",
        default=LISTEN_ADDRESS,
        metavar="HOST:PORT",
        help="where the exporter listens (default: %(default)s)",
    )
    parser.add_argument(
        "--for",
        dest="for_seconds",
        type=_duration,
        default=None,
        metavar="DURATION",
        help=f"stop after this time; with --once: give a scenario so long (default: {ONCE_SECONDS:.0f}s)",
    )
    parser.add_argument(
        "--log.level",
        dest="log_level",
        choices=tuple(log.LEVELS),
        default="error",
        help="of the exporter's log (default: %(default)s)",
    )
    parser.add_argument(
        "--log.format", dest="log_format", choices=log.FORMATS, default=None, help="of the exporter's log"
    )


def _duration(text: str) -> float:
    seconds = parse_duration(text)
    if not seconds:
        raise argparse.ArgumentTypeError(f"{text!r} is not a duration above 0; write it like 30s, 5m or 1h30m")
    return seconds


def main(args: argparse.Namespace, _parser: argparse.ArgumentParser) -> int:
    """Run the command in this process, on an event loop of its own; return the exit status."""
    return run_event_loop(run(args))


async def run(
    args: argparse.Namespace, *, out: TextIO | None = None, errors: TextIO | None = None, pace: Pace | None = None
) -> int:
    """Run the command until it is over, interrupted (SIGINT, SIGTERM) or out of time.

    Args:
        args: With what `add_arguments` adds.
        out: Where the lines go; None: standard output.
        errors: Where the exporter's log goes, and why it did not start; None: standard error.
        pace: None for a quick one with `--once`, and a patient one for people who watch.
    """
    lines = _Lines(sys.stdout if out is None else out)
    problems = _Lines(sys.stderr if errors is None else errors)
    if args.list_scenarios:
        lines.write(*_list_scenarios())
        return _SUCCESS
    log.configure(args.log_level, args.log_format, errors)
    status = _COULD_NOT_RUN
    try:
        entries = plan.parse_plan(args.scenario or [HEALTHY])
        if args.once:
            _refuse_times(args.scenario)
        status = await _run(args, entries, pace, lines)
    except* _Interrupted:
        problems.write("demo: stopped before it was done")
    except* (OSError, ExporterError) as group:
        for error in _leaves(group):
            said = error.problems if isinstance(error, ConfigError) else [f"could not start: {error}"]
            problems.write(*(f"demo: {mask(problem)}" for problem in said))
    return status


class _Interrupted(Exception):
    """A signal came before there was a verdict."""


async def _run(args: argparse.Namespace, entries: Sequence[Entry], pace: Pace | None, lines: _Lines) -> int:
    touring = any(text.partition("@")[0].casefold() == TOUR for text in args.scenario)
    async with stop_signals() as stop, Simulation() as simulation:
        lines.write(*_describe(simulation))
        possible = []
        for entry in entries:
            reason = simulation.why_not(entry.scenario)
            if not reason:
                possible.append(entry)
            elif touring:
                lines.write(f"{entry.scenario.name} is left out: {reason}")
            else:
                raise ConfigError([f"{entry.scenario.name} cannot be played: {reason}"])
        if args.once:
            patience = args.for_seconds or ONCE_SECONDS
            wrong = await _run_until(stop, _judge_all(simulation, pace, possible, patience, lines))
            if wrong is None:
                raise _Interrupted
            return _OTHER_VERDICT if wrong else _SUCCESS
        config = await _configure(simulation, pace or _WATCHED, [entry.scenario for entry in possible])
        await _serve(simulation, config, possible, args, stop, lines)
    return _SUCCESS


async def _configure(simulation: Simulation, pace: Pace | None, played: Iterable[Scenario]) -> Config:
    """Write the configuration of the exporter and read it as the exporter does."""
    settings: dict[str, dict[str, object]] = {}
    leaves_out: set[str] = set()
    for known in played:
        leaves_out |= set(known.leaves_out)
        for section, keys in known.settings.items():
            settings.setdefault(section, {}).update(keys)
    path = await simulation.write_config(pace=pace, settings=settings, leaves_out=leaves_out)
    return await asyncio.to_thread(load_config, path, {})


def _refuse_times(texts: Iterable[str]) -> None:
    """With --once each scenario is played by itself: there is no time line."""
    problems = [
        f"scenario {text!r}: --once plays each scenario by itself, so it has no start and no length"
        for text in texts
        if "@" in text
    ]
    if problems:
        raise ConfigError(problems)


# --once


async def _judge_all(
    simulation: Simulation, pace: Pace | None, entries: Sequence[Entry], patience_seconds: float, lines: _Lines
) -> list[str]:
    """Play one scenario after the other; return the names of those that were not as foreseen."""
    wrong = []
    for entry in entries:
        lines.write("", f"{entry.scenario.name}: {entry.scenario.words}")
        config = await _configure(simulation, pace or _WATCHED, [entry.scenario])
        if not await _judge(simulation, config, entry.scenario, patience_seconds, lines):
            wrong.append(entry.scenario.name)
    if wrong:
        lines.write("", f"not as foreseen: {', '.join(wrong)}")
    return wrong


async def _judge(
    simulation: Simulation, config: Config, played: Scenario, patience_seconds: float, lines: _Lines
) -> bool:
    """Play one scenario before a fresh exporter; tell whether it observes exactly what is foreseen."""
    clock = SystemClock()
    changes: list[CodeChange] = []
    database = simulation.has_database
    deadline = clock.monotonic() + patience_seconds
    async with _observing(config, played, changes, clock) as (application, look):
        if not played.from_start:
            await _look_until(application, SCENARIOS[HEALTHY], deadline, clock, look, database=database)
        changes.clear()
        await simulation.apply(played)
        try:
            while simulation.telling and clock.monotonic() < deadline:
                await look()
                await clock.sleep(_BETWEEN_ROUNDS_SECONDS)
            good = await _look_until(application, played, deadline, clock, look, database=database)
        finally:
            await simulation.revert(played)
        outcomes = check.collect(application)
        seen = played.complete(verdict.observe(outcomes), database=database)
        lines.write(
            check.render(outcomes, "table").rstrip(), *verdict.compare(seen, played.expected(database=database))
        )
        active = [change for change in changes if change.active and change.severity > Severity.OK]
        loud = [change for change in active if played.quiet and change.code != played.name]
        lines.write(*(f"  became active, though it may not: {_tell(change)}" for change in loud))
    return good and not loud


@contextlib.asynccontextmanager
async def _observing(
    config: Config, played: Scenario, changes: list[CodeChange], clock: Clock
) -> AsyncIterator[tuple[Application, Callable[[], Awaitable[None]]]]:
    """Have a fresh exporter, and what makes it look once more: a complete round, or, where a scenario shows
    only so, a moment of the schedule that it keeps."""
    if played.on_schedule:
        async with running(config, clock=clock, on_change=changes.append) as application:
            yield application, lambda: clock.sleep(_MOMENT_SECONDS)
        return
    application = Application(config, clock=clock, on_change=changes.append)
    try:
        yield application, application.check
    finally:
        await application.close()


async def _look_until(
    application: Application,
    played: Scenario,
    deadline: float,
    clock: Clock,
    look: Callable[[], Awaitable[None]],
    *,
    database: bool,
) -> bool:
    """Look until what is foreseen is seen at one look, or time is over."""
    while True:
        await look()
        if is_as_foreseen(application, played, database=database):
            return True
        if clock.monotonic() >= deadline:
            return False
        await clock.sleep(_BETWEEN_ROUNDS_SECONDS)


def is_as_foreseen(application: Application, played: Scenario, *, database: bool) -> bool:
    """Tell whether the last runs show exactly what a scenario foresees."""
    seen = verdict.observe(check.collect(application))
    return played.complete(seen, database=database) == played.expected(database=database)


# until it is stopped


async def _serve(
    simulation: Simulation,
    config: Config,
    entries: Sequence[Entry],
    args: argparse.Namespace,
    stop: asyncio.Event,
    lines: _Lines,
) -> None:
    clock = SystemClock()
    moments = plan.timeline(entries)
    # only what needs it is broken before the exporter comes: what nobody has seen well cannot be missed
    first = [moment for moment in moments if moment.begins and moment.at_seconds == 0.0 and moment.scenario.from_start]
    for moment in first:
        await simulation.apply(moment.scenario)
    async with (
        running(config, on_change=lambda change: lines.write(_tell(change))) as application,
        serve(application.web(DEFAULT_TELEMETRY_PATH), [args.web_listen_address]) as addresses,
    ):
        lines.write(*_where_to_look(addresses), "")
        for moment in first:
            lines.write(*_announce(moment, simulation))
        rest = [moment for moment in moments if moment not in first]
        playing = _play(simulation, application, rest, clock, lines)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(args.for_seconds):
                await _run_until(stop, playing)


async def _play(
    simulation: Simulation,
    application: Application,
    moments: Sequence[plan.Moment],
    clock: Clock,
    lines: _Lines,
) -> None:
    """Go along the time line, once the exporter has seen everything, then wait for ever."""
    started = clock.monotonic()
    while application.ready() is not None or application.derp_map(DEPLOYMENT) is None:
        await clock.sleep(_BETWEEN_ROUNDS_SECONDS)
    for moment in moments:
        await clock.sleep(started + moment.at_seconds - clock.monotonic())
        await (simulation.apply if moment.begins else simulation.revert)(moment.scenario)
        lines.write(*_announce(moment, simulation))
    await asyncio.Event().wait()


async def _run_until(stop: asyncio.Event, work: Coroutine[object, object, T]) -> T | None:
    """Return what the work returns; None when the event is set before, which cancels it."""
    async with asyncio.TaskGroup() as group:
        working = group.create_task(work)
        waiting = group.create_task(stop.wait())
        await asyncio.wait({working, waiting}, return_when=asyncio.FIRST_COMPLETED)
        working.cancel()
        waiting.cancel()
    return None if working.cancelled() else working.result()


def _leaves(error: BaseException) -> Iterator[BaseException]:
    """Return what task groups have wrapped."""
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error


class _Lines:
    """Lines for people, each out at once."""

    def __init__(self, out: TextIO) -> None:
        self._out = out

    def write(self, *lines: str) -> None:
        output.write("".join(f"{line}\n" for line in lines), self._out)


def _list_scenarios() -> Iterable[str]:
    width = max(map(len, SCENARIOS))
    for known in SCENARIOS.values():
        yield f"{known.name.ljust(width)}  {known.words} {known.later}".rstrip()
        for place, observed in {**known.foreseen, **known.inside}.items():
            yield f"{' ' * width}    {verdict.write_place(place)}: {verdict.write_codes(observed)}"
    yield f"{TOUR.ljust(width)}  Walks through all of them, one after the other."


def _describe(simulation: Simulation) -> Iterable[str]:
    coder = simulation.coder
    yield f"simulated deployment {DEPLOYMENT!r} (Coder {coder.version}) in {simulation.directory}"
    yield f"  access URL        {coder.url}  (certificate by {simulation.ca_file})"
    for name, replica in simulation.cluster.replicas.items():
        yield f"  replica           {replica.url}  ({name}, with a health report of its own)"
    yield f"  provisioners      {', '.join(simulation.cluster.daemons)}"
    for name, proxy in simulation.proxies.items():
        yield f"  workspace proxy   {proxy.url}  ({name})"
    network = simulation.network
    embedded = ["the access URL", *(f"proxy {name}" for name in simulation.proxies)]
    yield f"  DERP relays       /derp on {', '.join(embedded)}"
    for name, relay in network.relays.items():
        yield f"  DERP relay        {relay.url}  ({name}, one of a mesh)"
    for server in network.stun:
        yield f"  STUN server       {server.host_and_port}"
    yield f"  reference         {network.reference_address}  (answers as long as the exporter's host has a network)"
    if simulation.has_database:
        yield f"  PostgreSQL        {simulation.database.address}  (behind a line that can be broken)"
    else:
        yield f"  PostgreSQL        none: {simulation.without_database}; the section database is off"


def _where_to_look(addresses: Sequence[str]) -> Iterable[str]:
    for address in addresses:
        yield f"exporter on http://{address}/"
    base = f"http://{addresses[0]}"
    yield rf"  curl -s {base}/metrics | grep -E '^coder_health_(section_severity|code_active).* 1(\.0)?$'"
    yield f"  curl -s {base}/-/ready"
    yield f"  curl -s {base}/config"


def _announce(moment: plan.Moment, simulation: Simulation) -> Iterable[str]:
    played = moment.scenario
    if not moment.begins:
        yield f"{_now()}  -- {played.name} is over"
        return
    yield f"{_now()}  -- {played.name}: {played.words} {played.later}".rstrip()
    for place, observed in played.expected(database=simulation.has_database).items():
        if observed:
            yield f"{' ' * 8}     expect {verdict.write_place(place)}: {verdict.write_codes(observed)}"


def _tell(change: CodeChange) -> str:
    key = change.key.section_key
    state = f"active ({change.severity.label})" if change.active else "over"
    target = f" [{change.key.name}]" if change.key.name else ""
    sentence = change.message if change.active else f"was: {change.message}"
    return f"{_now()}  {key.deployment}  {key.section}  {change.code}  {state}  {sentence}{target}"


def _now() -> str:
    return datetime.fromtimestamp(SystemClock.now(), UTC).astimezone().strftime("%H:%M:%S")
