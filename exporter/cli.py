"""The command line: flags in, exit code out. The only place that prints.

Exit codes. serve: 0 stopped on purpose, 1 bad configuration or no socket. check: 0 ok, 1 warning,
2 error, 3 could not run. demo: 0, with --once 2 for another verdict than foreseen, 3 could not run.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import io
import os
import platform
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from exporter import __version__, output
from exporter.app import Application, running
from exporter.clock import SystemClock
from exporter.config.load import defaults_yaml, load_config
from exporter.config.model import Config
from exporter.errors import ConfigError, ExporterError
from exporter.explain import explain
from exporter.health.model import Section
from exporter.log import FORMATS, LEVELS, configure, get_logger
from exporter.output import OutputError
from exporter.process import run_event_loop, stop_signals
from exporter.web.server import DEFAULT_LISTEN_ADDRESS, DEFAULT_TELEMETRY_PATH, serve

PROG = "coder-health-exporter"
EXIT_CONFIG = 1
EXIT_COULD_NOT_RUN = 3

# So long after its start `check` says what it waits for, and then again and again.
WAITING_AFTER_SECONDS = 5.0
WAITING_AGAIN_SECONDS = 20.0

# Flags that other versions have: refused by name, so that nobody looks for a typo.
_NOT_BUILT = (
    "--web.config.file",
    "--web.external-url",
    "--web.route-prefix",
    "--web.systemd-socket",
    "--shard.index",
    "--shard.count",
)

_log = get_logger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; return its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    _fill_standard_streams()
    if isinstance(sys.stdout, io.TextIOWrapper):
        # a terminal that knows fewer letters must not turn a verdict into a crash
        sys.stdout.reconfigure(errors="backslashreplace")
    command, rest = (arguments[0], arguments[1:]) if arguments[:1] and arguments[0] in _COMMANDS else ("", arguments)
    try:
        return _COMMANDS[command](rest)
    except KeyboardInterrupt:
        return 130
    except OutputError as error:
        # of check and demo not 1, which would be a warning about Coder
        output.tell(f"{PROG}: {error}")
        return EXIT_COULD_NOT_RUN if command else EXIT_CONFIG


def _fill_standard_streams() -> None:
    """Open those that whoever started this has closed, as `2>&-` does: else the first sockets take their
    numbers, which no event loop bears."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free, which is this one
    if sys.stderr is None:
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115


class _Parser(argparse.ArgumentParser):
    """Usage errors end with the exit code of the command, and say where help is."""

    def __init__(self, *, exit_code: int, **kwargs: Any) -> None:
        super().__init__(allow_abbrev=False, **kwargs)
        self._exit_code = exit_code

    def error(self, message: str) -> NoReturn:
        self.exit(self._exit_code, f"{self.prog}: {message}; see {self.prog} --help\n")

    def parse(self, arguments: Sequence[str]) -> argparse.Namespace:
        for argument in arguments:
            if argument.split("=")[0] in _NOT_BUILT:
                self.error(f"{argument.split('=')[0]} is not built in this version yet")
        return self.parse_args(arguments)


def _serve(arguments: Sequence[str]) -> int:
    parser = _Parser(
        prog=PROG,
        exit_code=EXIT_CONFIG,
        description="Prometheus exporter for the health of Coder deployments.",
        epilog=(
            "commands:\n"
            f"  {PROG} check      probe once now and print a table; exit 0 ok, 1 warning, 2 error, 3 could not run\n"
            f"  {PROG} demo       a simulated deployment, and this exporter pointed at it\n"
            f"  {PROG} explain    what a health code means, what causes it, what to do\n"
            "\n"
            "environment, enough without any file: CODER_URL, CODER_SESSION_TOKEN(_FILE),\n"
            "CODER_PG_CONNECTION_URL(_FILE), CODER_HEALTH_DEPLOYMENT"
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_config_flags(parser)
    parser.add_argument(
        "--config.check",
        dest="config_check",
        action="store_true",
        help="validate the configuration, say what is wrong with it, and exit 0 or 1",
    )
    parser.add_argument(
        "--config.print-defaults",
        dest="print_defaults",
        action="store_true",
        help="print a commented configuration with every default, and exit",
    )
    parser.add_argument(
        "--web.listen-address",
        dest="listen_addresses",
        action="append",
        metavar="ADDRESS",
        help=f"host:port to listen on; may be repeated (default {DEFAULT_LISTEN_ADDRESS})",
    )
    parser.add_argument(
        "--web.telemetry-path",
        dest="telemetry_path",
        default=DEFAULT_TELEMETRY_PATH,
        metavar="PATH",
        help="path of the metrics (default %(default)s)",
    )
    _add_log_flags(parser)
    parser.add_argument("--version", action="version", version=_version_text())
    options = parser.parse(arguments)
    if options.print_defaults:
        output.write(defaults_yaml())
        return 0
    try:
        config = load_config(options.config_file, os.environ)
    except ConfigError as error:
        return _say(error, EXIT_CONFIG)
    if options.config_check:
        for warning in config.warnings:
            output.tell(f"warning: {warning}")
        output.write(f"{config.source}: good, {_count(len(config.deployments), 'deployment')}\n")
        return 0
    configure(options.log_level, options.log_format)
    addresses = options.listen_addresses or [DEFAULT_LISTEN_ADDRESS]
    try:
        return run_event_loop(_serve_forever(config, addresses, options.telemetry_path))
    except ExporterError as error:
        return _say(error, EXIT_CONFIG)


async def _serve_forever(config: Config, addresses: Sequence[str], telemetry_path: str) -> int:
    for warning in config.warnings:
        _log.warning("config.doubtful", detail=warning)
    async with (
        stop_signals() as stopped,
        running(config) as application,
        serve(application.web(telemetry_path), addresses) as bound,
    ):
        _log.info(
            "server.started",
            version=__version__,
            addresses=list(bound),
            deployments=[deployment.name for deployment in config.deployments],
            targets=len(application.plan.targets),
            event_loop=type(asyncio.get_running_loop()).__module__.split(".")[0],
        )
        # what was built for good need not be looked at again by each collection
        gc.collect()
        gc.freeze()
        await stopped.wait()
        _log.info("server.stopping")
    return 0


def _check(arguments: Sequence[str]) -> int:
    # only here and below: its tables and formats would cost the server a megabyte
    from exporter import check

    parser = _Parser(
        prog=f"{PROG} check",
        exit_code=EXIT_COULD_NOT_RUN,
        description="Probe once now and print what was seen. Exit 0 ok, 1 warning, 2 error, 3 could not run.",
    )
    parser.add_argument("sections", nargs="*", metavar="SECTION", help="only these: " + ", ".join(Section))
    parser.add_argument(
        "--output", choices=check.FORMATS, default="table", help="form of the output (default %(default)s)"
    )
    _add_config_flags(parser)
    _add_log_flags(parser, level="error")
    options = parser.parse(arguments)
    unknown = [name for name in options.sections if name not in tuple(Section)]
    if unknown:
        parser.error(f"there is no section {unknown[0]!r}; sections are {', '.join(Section)}")
    try:
        config = load_config(options.config_file, os.environ)
    except ConfigError as error:
        return _say(error, EXIT_COULD_NOT_RUN)
    for warning in config.warnings:
        output.tell(f"warning: {warning}")
    configure(options.log_level, options.log_format)
    return run_event_loop(_check_once(config, options.sections, options.output))


async def _check_once(config: Config, sections: Sequence[str], form: str) -> int:
    from exporter import check

    application = Application(config, clock=SystemClock())
    async with stop_signals() as stopped, asyncio.TaskGroup() as group:
        checking = group.create_task(_check_and_close(application, sections))
        stopping = group.create_task(stopped.wait())
        telling = group.create_task(_tell_waiting(application))
        await asyncio.wait([checking, stopping], return_when=asyncio.FIRST_COMPLETED)
        interrupted = not checking.done()
        for task in (checking, stopping, telling):
            task.cancel()
    if interrupted:
        output.tell(f"{PROG} check: stopped before it was done")
        return EXIT_COULD_NOT_RUN
    outcomes = [
        outcome
        for outcome in check.collect(application)
        if not sections or (Section.REPORT if outcome.reported else outcome.section) in sections
    ]
    output.write(check.render(outcomes, form))
    if all(outcome.off is not None for outcome in outcomes):
        output.tell(f"{PROG} check: nothing was probed")
        return EXIT_COULD_NOT_RUN
    return int(check.worst(outcomes))


async def _tell_waiting(application: Application) -> None:
    """Say on standard error what takes long: a server that is silent has up to 80 s for its report."""
    from exporter import check

    pause_seconds = WAITING_AFTER_SECONDS
    while True:
        await application.clock.sleep(pause_seconds)
        waiting = check.describe_waiting(application)
        if waiting:
            output.tell(f"{PROG} check: {waiting}")
        # while lists are read no target is under way yet
        pause_seconds = WAITING_AGAIN_SECONDS if waiting else 1.0


async def _check_and_close(application: Application, sections: Sequence[str]) -> None:
    try:
        await application.check([Section(name) for name in sections])
    finally:
        await application.close()


def _demo(arguments: Sequence[str]) -> int:
    # only here: its servers and certificates would cost every other command 10 MB and a tenth of a second
    from exporter.demo import command as demo_command

    parser = _Parser(
        prog=f"{PROG} demo",
        exit_code=EXIT_COULD_NOT_RUN,
        description="A simulated Coder deployment with real protocols, and this exporter pointed at it.",
    )
    demo_command.add_arguments(parser)
    options = parser.parse(arguments)
    try:
        return run_event_loop(demo_command.run(options))
    except ExporterError as error:
        return _say(error, EXIT_COULD_NOT_RUN)


def _explain(arguments: Sequence[str]) -> int:
    parser = _Parser(
        prog=f"{PROG} explain",
        exit_code=EXIT_COULD_NOT_RUN,
        description="Say what a health code means, what causes it, and what to do.",
    )
    parser.add_argument("code", metavar="CODE", help="such as EDB02")
    options = parser.parse(arguments)
    try:
        text = explain(options.code)
    except ExporterError as error:
        return _say(error, EXIT_COULD_NOT_RUN)
    output.write(f"{text}\n")
    return 0


_COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {
    "": _serve,
    "check": _check,
    "demo": _demo,
    "explain": _explain,
}


def _add_config_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config.file",
        dest="config_file",
        type=Path,
        metavar="FILE",
        help="YAML configuration; the environment alone is enough for one deployment",
    )


def _add_log_flags(parser: argparse.ArgumentParser, *, level: str = "info") -> None:
    parser.add_argument("--log.level", dest="log_level", choices=LEVELS, default=level, help="default %(default)s")
    parser.add_argument(
        "--log.format", dest="log_format", choices=FORMATS, help="default: console on a terminal, else logfmt"
    )


def _version_text() -> str:
    return f"{PROG} {__version__} (Python {platform.python_version()})"


def _say(error: ExporterError, exit_code: int) -> int:
    output.tell(str(error))
    return exit_code


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
