"""The benchmark: `python -m tests.bench` measures and writes tests/bench/REPORT.md.

Nothing here is asserted: times depend on the machine, and a test of them would fail by chance. It
needs Debian's nginx and prometheus-blackbox-exporter, the demo's PostgreSQL, and Linux. The part
`derp` needs Tailscale's derper, and derpprobe as its reference; what is missing is not measured, and
the report says so. With `--only` the other sections of a report that stands are kept.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from tests.bench import derp_cost, derp_load, load, memory, probe_cost, programs, report, report_hold, scrape
from tests.bench.programs import BenchError
from tests.support.certificates import Authority

PARTS = ("probes", "load", "scrape", "stalls", "memory", "derp", "report")
_WITH_NGINX = {"probes", "memory"}
REPORT = Path(__file__).with_name("REPORT.md")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How much is measured; times in seconds."""

    parts: tuple[str, ...]
    repetitions: int
    window_seconds: float
    load_seconds: float
    load_repetitions: int
    probes_per_second: int
    targets: int
    interval_seconds: float
    stall_targets: int
    series: tuple[int, ...]
    nodes: tuple[int, ...]

    def __str__(self) -> str:
        return (
            f"{self.repetitions} repetitions of {self.window_seconds:.0f} s at {self.probes_per_second} probes/s; "
            f"load {self.load_repetitions} x {self.load_seconds:.0f} s"
        )


def main() -> int:
    """Run the benchmark; return the exit code."""
    options = _parse()
    settings = _settle(options)
    directory = Path(tempfile.mkdtemp(prefix="coder-health-exporter-bench-"))
    try:
        for tool in ("nginx", "prometheus-blackbox-exporter") if _WITH_NGINX.intersection(settings.parts) else ():
            programs.find_tool(tool, tool)
        measured = _measure(settings, directory)
    except BenchError as error:
        print(f"tests.bench: {error}", file=sys.stderr)
        return 1
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    text = report.write(measured, datetime.now(UTC))
    if options.only and options.report.exists():
        text = report.merge(options.report.read_text(), text)
    options.report.write_text(text)
    print(text)
    return 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a minute instead of a quarter of an hour; rough")
    parser.add_argument("--only", action="append", choices=PARTS, help="measure this part only; may be repeated")
    parser.add_argument("--repetitions", type=int, help="how often each figure is measured")
    parser.add_argument("--seconds", type=float, help="length of each span that counts")
    parser.add_argument("--targets", type=int, help="targets of the load (default 1000)")
    parser.add_argument("--interval", type=float, help="seconds between two runs of a target of the load (default 10)")
    parser.add_argument("--series", type=int, action="append", help="series of a scrape; may be repeated")
    parser.add_argument("--nodes", type=int, action="append", help="relays of a load; may be repeated")
    parser.add_argument(
        "--report", type=Path, default=REPORT, help="where the report goes (default: beside this module)"
    )
    return parser.parse_args()


def _settle(options: argparse.Namespace) -> Settings:
    quick = options.quick
    targets = options.targets or 1000
    return Settings(
        parts=tuple(options.only or PARTS),
        repetitions=options.repetitions or (1 if quick else 3),
        window_seconds=options.seconds or (4.0 if quick else 10.0),
        load_seconds=options.seconds or (10.0 if quick else 60.0),
        load_repetitions=1 if quick else (options.repetitions or 3),
        probes_per_second=min(100, targets),
        targets=targets,
        interval_seconds=options.interval or 10.0,
        # a target of the access URL has some 68 series
        stall_targets=max(targets, targets * 3 // 2),
        series=tuple(options.series or (1_000, 10_000, 100_000)),
        # 500 take more than a minute, since that is their interval
        nodes=tuple(options.nodes or ((1, 50) if quick else (1, 50, 500))),
    )


def _measure(settings: Settings, directory: Path) -> report.Measured:
    measured = report.Measured(settings=str(settings))
    authority = Authority(directory)
    if "scrape" in settings.parts:
        for series in settings.series:
            _say(f"scrape of {series} series")
            measured.scrapes.append(scrape.measure(series=series, repetitions=3 * settings.repetitions))
    if _WITH_NGINX.intersection(settings.parts):
        _measure_with_nginx(settings, directory, authority, measured)
    if "load" in settings.parts:
        for number in range(settings.load_repetitions):
            _say(f"load, run {number + 1}")
            measured.loads.append(_load(settings, directory, settings.targets, beat=False))
    if "stalls" in settings.parts:
        for number in range(settings.load_repetitions):
            _say(f"stalls, run {number + 1}")
            measured.stalls.append(_load(settings, directory, settings.stall_targets, beat=True))
    if "derp" in settings.parts:
        _measure_derp(settings, directory, authority, measured)
    if "report" in settings.parts:
        _say("a large health report")
        measured.report_holds = report_hold.measure(repetitions=7 * settings.repetitions)
    return measured


def _measure_with_nginx(settings: Settings, directory: Path, authority: Authority, measured: report.Measured) -> None:
    certificate = directory / "server.pem"
    authority.write_server_files(certificate, "127.0.0.1", "localhost")
    with programs.nginx(directory, certificate=certificate) as (_, plain, secure):
        if "probes" in settings.parts:
            for url in (f"http://127.0.0.1:{plain}", f"https://127.0.0.1:{secure}", f"http://localhost:{plain}"):
                _say(f"CPU per probe of {url.rpartition(':')[0]}")
                measured.probes += probe_cost.measure(
                    directory,
                    url=url,
                    ca_file=authority.ca_file,
                    probes_per_second=settings.probes_per_second,
                    seconds=settings.window_seconds,
                    warm_up_seconds=min(2.5, settings.window_seconds),
                    repetitions=settings.repetitions,
                )
        if "memory" in settings.parts:
            _say("memory")
            measured.memory += memory.measure(
                directory,
                url=f"http://127.0.0.1:{plain}",
                targets=settings.targets,
                seconds=min(10.0, settings.window_seconds),
                repetitions=min(3, settings.repetitions),
            )
            measured.start = memory.measure_start(repetitions=2 * settings.repetitions + 1)


def _measure_derp(settings: Settings, directory: Path, authority: Authority, measured: report.Measured) -> None:
    _say("CPU of a DERP check")
    seconds = settings.window_seconds
    measured.derp = derp_cost.measure(directory, authority, seconds=seconds, repetitions=settings.repetitions)
    for nodes in () if measured.derp.missing else settings.nodes:
        _say(f"{nodes} DERP relays")
        measured.derp_loads.append(derp_load.measure(directory, nodes=nodes, seconds=seconds))


def _load(settings: Settings, directory: Path, targets: int, *, beat: bool) -> load.Load:
    return load.measure(
        directory,
        targets=targets,
        interval_seconds=settings.interval_seconds,
        seconds=settings.load_seconds / 2 if beat else settings.load_seconds,
        beat=beat,
    )


def _say(what: str) -> None:
    print(f"measuring: {what}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
