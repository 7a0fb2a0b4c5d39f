"""The report: measurements in, Markdown out. Every aim stands beside what was reached.

A report of some parts alone can be merged into one that stands: its sections and aims take the
place of those that were there.
"""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from statistics import median

from exporter import __version__
from tests.bench import derp_report, report_hold
from tests.bench.derp_cost import DerpCosts
from tests.bench.derp_load import DerpLoad
from tests.bench.load import SERVER_SECONDS, Load
from tests.bench.markdown import mb, ms, prose, signed, table
from tests.bench.memory import Memory, StartCost
from tests.bench.probe_cost import ProbeCost
from tests.bench.programs import BenchError, find_tool
from tests.bench.report_hold import ReportHolds
from tests.bench.scrape import ScrapeCost

# Source: the aims of the benchmark, as the issue that asked for it names them.
AIM_PROBE_RATIO = 0.5
AIM_LATENCY_SECONDS = 0.0003
AIM_SCRAPE_SECONDS = 0.005
AIM_SCRAPE_SERIES = 10_000
AIM_LATENESS_SECONDS = 0.050
AIM_MEMORY_BYTES = 70e6
AIM_HELD_SECONDS = 0.010

_AIMS = "Aims"
# what each section is about: its heading up to a bracket or the circumstances
_ORDER = (
    _AIMS,
    "CPU per probe",
    "Latency and lateness",
    "A scrape",
    "Stalls of the event loop",
    "Memory",
    "One DERP check",
    "DERP relays in the exporter",
    "A large health report",
)
_PACKAGES = ("uvloop", "httptools", "aiohttp", "prometheus-client", "cryptography")


@dataclass(slots=True, kw_only=True)
class Measured:
    """What a run of the benchmark found; what was left out is empty or None."""

    settings: str
    probes: list[ProbeCost] = field(default_factory=list)
    loads: list[Load] = field(default_factory=list)
    stalls: list[Load] = field(default_factory=list)
    scrapes: list[ScrapeCost] = field(default_factory=list)
    memory: list[Memory] = field(default_factory=list)
    start: StartCost | None = None
    derp: DerpCosts | None = None
    derp_loads: list[DerpLoad] = field(default_factory=list)
    report_holds: ReportHolds | None = None


def write(measured: Measured, now: datetime) -> str:
    """Return the report."""
    parts = [
        "# Benchmark report",
        "",
        *prose(
            """
            Written by `python -m tests.bench`; do not edit. How each figure is measured stands in the module named
            beside it. One machine, one run, everything on loopback and side by side: read ratios, not single times.
            """
        ),
        *_describe_machine(measured, now),
        *_write_aims(measured),
        *_write_probes(measured.probes),
        *_write_latency(measured.loads),
        *_write_scrapes(measured.scrapes),
        *_write_stalls(measured.stalls),
        *_write_memory(measured),
        *derp_report.write_costs(measured.derp),
        *derp_report.write_loads(measured.derp_loads, "" if measured.derp is None else measured.derp.missing),
        *_write_report_holds(measured.report_holds),
    ]
    return "\n".join(parts).rstrip() + "\n"


def merge(standing: str, fresh: str) -> str:
    """Return a standing report with the sections and aims of a fresh one.

    Each section that was measured apart says so. What only the standing report has is kept.
    """
    head, before = _split(standing)
    fresh_head, after = _split(fresh)
    machine = " ".join(fresh_head.partition("\n- ")[2].partition("\n\n")[0].replace("\n- ", "; ").split())
    sections = dict(before)
    for key, section in after.items():
        if key == _AIMS and key in before:
            sections[key] = _merge_aims(before[key], section)
            continue
        heading, _, text = section.partition("\n\n")
        note = "" if key == _AIMS else "\n".join(prose(f"Measured apart from the rest: {machine}.")) + "\n"
        sections[key] = f"{heading}\n\n{note}{text}"
    ordered = sorted(sections, key=_rank)
    return "\n".join([head, *(sections[key] for key in ordered)]).rstrip() + "\n"


def _split(text: str) -> tuple[str, Mapping[str, str]]:
    """Return what stands before the first section, and each section by what it is about."""
    head, *sections = text.rstrip().split("\n## ")
    named = {section.partition("\n")[0].partition(" (")[0].partition(" with ")[0]: section for section in sections}
    return head.rstrip() + "\n", {name: f"## {section.rstrip()}\n" for name, section in named.items()}


def _rank(name: str) -> int:
    return _ORDER.index(name) if name in _ORDER else len(_ORDER)


def _merge_aims(standing: str, fresh: str) -> str:
    """Return the table of aims, in which a fresh row replaces the one of the same name."""
    lines = standing.rstrip().splitlines()
    rows = {line.split(" | ")[0]: number for number, line in enumerate(lines)}
    for line in fresh.rstrip().splitlines()[4:]:
        name = line.split(" | ")[0]
        if name in rows:
            lines[rows[name]] = line
        else:
            lines.append(line)
    return "\n".join(lines) + "\n"


def _describe_machine(measured: Measured, now: datetime) -> list[str]:
    load = "/".join(f"{value:.1f}" for value in os.getloadavg())
    packages = ", ".join(f"{name} {metadata.version(name)}" for name in _PACKAGES)
    return [
        f"- {now.astimezone(UTC):%Y-%m-%d %H:%M} UTC; {measured.settings}",
        f"- {os.cpu_count()} cores ({platform.machine()}, {platform.system()}), shared with other work, load average",
        f"  {load} over 1/5/15 minutes at the end; figures are medians of the repetitions",
        f"- coder-health-exporter {__version__}, Python {platform.python_version()}, {packages}",
        f"- prometheus-blackbox-exporter {_blackbox_version()} (Debian's), module `http_2xx`",
        "",
    ]


def _blackbox_version() -> str:
    try:
        tool = find_tool("prometheus-blackbox-exporter", "prometheus-blackbox-exporter")
    except BenchError:
        return "not installed"
    said = subprocess.run([tool, "--version"], capture_output=True, text=True, check=True)
    words = (said.stdout or said.stderr).split()
    return words[words.index("version") + 1] if "version" in words else "of unknown version"


def _write_aims(measured: Measured) -> list[str]:
    rows: list[tuple[str, str, str, bool]] = []
    for scheme, what in (("http", "CPU per probe, of blackbox's"), ("https", "the same over TLS")):
        rows += [
            (what, f"<= {AIM_PROBE_RATIO}", f"{cost.ratio:.2f}", cost.ratio <= AIM_PROBE_RATIO)
            for cost in measured.probes
            if (cost.scheme, cost.host, cost.event_loop) == (scheme, "127.0.0.1", "uvloop")
        ]
    for load in measured.loads[:1]:
        off = median(abs(each.reported.p50 - each.true.p50) for each in measured.loads)
        late = median(each.delays.p99 for each in measured.loads)
        where = f"{load.targets} targets / {load.interval_seconds:.0f} s"
        rows.append(
            (
                f"reported latency off the true one, p50, {where}",
                ms(AIM_LATENCY_SECONDS),
                ms(off),
                off <= AIM_LATENCY_SECONDS,
            )
        )
        rows.append(
            (f"lateness of ticks, p99, {where}", ms(AIM_LATENESS_SECONDS), ms(late), late <= AIM_LATENESS_SECONDS)
        )
    for cost in measured.scrapes:
        if AIM_SCRAPE_SERIES <= cost.series < 2 * AIM_SCRAPE_SERIES:
            worst = max(cost.render + cost.pack, cost.http, cost.http_packed)
            rows.append(
                (
                    f"scrape of {cost.series} series, packed and through HTTP",
                    ms(AIM_SCRAPE_SECONDS),
                    ms(worst),
                    worst <= AIM_SCRAPE_SECONDS,
                )
            )
    for memory in measured.memory[:1]:
        size = memory.median_bytes
        rows.append((f"memory, {memory.what}", mb(AIM_MEMORY_BYTES), mb(size), size <= AIM_MEMORY_BYTES))
    rows += derp_report.list_aims(measured.derp, measured.derp_loads)
    if measured.report_holds is not None:
        for way, done in ((report_hold.OURS, "read"), (report_hold.JUDGED_IN_THREAD, "judged")):
            held = measured.report_holds.find(way, "uvloop").held_cpu.max
            size = mb(measured.report_holds.body_bytes)
            what = f"event loop held while a health report of {size} is {done}, longest, CPU"
            rows.append((what, ms(AIM_HELD_SECONDS), ms(held), held <= AIM_HELD_SECONDS))
    if not rows:
        return []
    return [
        "## Aims",
        "",
        *table(
            ("what", "aim", "measured", "reached"),
            [(what, aim, found, "yes" if good else "**no**") for what, aim, found, good in rows],
        ),
    ]


def _write_probes(probes: Sequence[ProbeCost]) -> list[str]:
    if not probes:
        return []
    rows = [
        (
            f"{cost.scheme}, {cost.host}",
            cost.event_loop,
            f"{median(cost.ours) * 1e6:.0f} us",
            f"{median(cost.blackbox) * 1e6:.0f} us",
            f"{cost.ratio:.2f} ({min(cost.ratios):.2f} - {max(cost.ratios):.2f})",
        )
        for cost in probes
    ]
    return [
        "## CPU per probe (`probe_cost`)",
        "",
        *prose(
            """
            User and system time of the whole process by the kernel's count, divided by the probes done: a fresh
            connection each, nginx answering `/healthz`, both at the same time and the same even pace. Ours holds
            everything: tick, probe, judgement, snapshot, rendered series, a scrape every 10 s, and
            `/api/v2/buildinfo` once a minute for each target (most of them before the span that counts).
            `localhost` is a name: ours asks for its addresses anew each time and probes each address family that it
            finds, blackbox one of them.
            """
        ),
        *table(("target", "our event loop", "ours", "blackbox", "ratio (range)"), rows),
    ]


def _write_latency(loads: Sequence[Load]) -> list[str]:
    if not loads:
        return []
    rows = [
        (
            str(number),
            str(load.reported.count),
            f"{ms(load.reported.p50)} / {ms(load.true.p50)}",
            f"{ms(load.reported.p99)} / {ms(load.true.p99)}",
            f"{signed(load.reported.p50 - load.true.p50)} / {signed(load.reported.p99 - load.true.p99)}",
            f"{ms(load.delays.p50)} / {ms(load.delays.p99)} / {ms(load.delays.max)}",
            f"{load.cpu_share:.0%}",
        )
        for number, load in enumerate(loads, start=1)
    ]
    load = loads[0]
    return [
        f"## Latency and lateness with {load.targets} targets / {load.interval_seconds:.0f} s (`load`)",
        "",
        *prose(
            f"""
            The real command probes a server that answers after {SERVER_SECONDS * 1000:.0f} ms; it reports the sum of
            its phases. The true latency is what a single calm client, a process of its own with a blocking socket,
            sees of the same server in the same span. A scraper comes every 10 s. The difference is that of the
            quantiles.
            """
        ),
        *table(
            (
                "run",
                "probes",
                "p50 reported / true",
                "p99 reported / true",
                "difference p50 / p99",
                "ticks late p50 / p99 / max",
                "CPU of a core",
            ),
            rows,
        ),
    ]


def _write_scrapes(scrapes: Sequence[ScrapeCost]) -> list[str]:
    if not scrapes:
        return []
    rows = [
        (
            str(cost.series),
            f"{ms(cost.render)} ({cost.body_bytes / 1000:.0f} kB)",
            f"{ms(cost.pack)} ({cost.packed_bytes / 1000:.0f} kB)",
            f"{ms(cost.http)} / {ms(cost.http_packed)}",
            ms(cost.client_library),
            f"1 : {1 / cost.ratio:.0f}",
            f"{cost.run * 1e6:.0f} us",
        )
        for cost in scrapes
    ]
    return [
        "## A scrape (`scrape`)",
        "",
        *prose(
            """
            Our board against prometheus_client's `generate_latest`, given the very same series as ready families. CPU
            time of the thread; through the real HTTP server wall time of a whole request. Rendering is paid in runs,
            so the last column stands beside it: snapshot and series of one finished run.
            """
        ),
        *table(
            (
                "series",
                "ours",
                "gzip, level 1",
                "HTTP plain / gzip",
                "prometheus_client",
                "ours : theirs",
                "added to a run",
            ),
            rows,
        ),
    ]


def _write_stalls(stalls: Sequence[Load]) -> list[str]:
    rows = [
        (str(load.targets), str(load.series), ms(load.busy.max), ms(load.stalled.max), ms(max(load.scrape_seconds)))
        for load in stalls
        if load.busy is not None and load.stalled is not None
    ]
    if not rows:
        return []
    return [
        "## Stalls of the event loop (`load`, with the observer's beat)",
        "",
        *prose(
            """
            The longest time in which the loop did not come round to a sleeper of 1 ms, while all targets run and a
            scraper comes every 10 s: CPU time of its thread, which is our own work, and wall time, in which others had
            the core too.
            """
        ),
        *table(("targets", "series", "longest, CPU", "longest, wall", "slowest scrape, wall"), rows),
    ]


def _write_memory(measured: Measured) -> list[str]:
    lines: list[str] = []
    if measured.memory:
        lines += [
            "## Memory (`memory`)",
            "",
            "Resident set of the real process after its first runs and scrapes.",
            "",
            *table(
                ("configuration", "median", "range"),
                [
                    (
                        memory.what,
                        mb(memory.median_bytes),
                        f"{mb(min(memory.resident_bytes))} - {mb(max(memory.resident_bytes))}",
                    )
                    for memory in measured.memory
                ],
            ),
        ]
    if measured.start is not None:
        start = measured.start
        lines += [
            f"`coder-health-exporter --version` takes {ms(start.version_seconds)} of CPU, an empty Python "
            f"{ms(start.python_seconds)}.",
            "",
        ]
    return lines


def _write_report_holds(holds: ReportHolds | None) -> list[str]:
    if holds is None:
        return []
    return [
        "## A large health report (`report_hold`)",
        "",
        *prose(
            f"""
            A report of Coder's with {report_hold.REGIONS} regions of {report_hold.NODES_A_REGION} nodes and the logs
            of their clients, {mb(holds.body_bytes)}, read {holds.holds[0].held.count} times in each way. Held is the
            longest time of a reading in which the loop did not come round to a sleeper of 1 ms: CPU time of its
            thread, and wall time, in which it waits for the interpreter's lock and others had the core too. CPU of
            the whole reading: ours {ms(holds.cpu)}, into facts, `json.loads` alone {ms(holds.library_cpu)}.
            """
        ),
        *table(
            ("event loop", "way", "took p50", "held, CPU, p50 / max", "held, wall, p50 / max"),
            [
                (
                    hold.event_loop,
                    hold.way,
                    ms(hold.took.p50),
                    f"{ms(hold.held_cpu.p50)} / {ms(hold.held_cpu.max)}",
                    f"{ms(hold.held.p50)} / {ms(hold.held.max)}",
                )
                for hold in holds.holds
            ],
        ),
    ]
