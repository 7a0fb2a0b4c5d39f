"""Memory of the real process, and what its start costs.

The resident set some seconds after the first runs and scrapes, as the kernel counts it.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from exporter.demo.coderd import SimulatedCoder
from exporter.demo.simulation import Simulation
from tests.bench.programs import ROOT, BenchError, exporter, fetch, write_config


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Resident set in bytes of one kind of configuration, one value a repetition."""

    what: str
    resident_bytes: tuple[int, ...]

    @property
    def median_bytes(self) -> float:
        return median(self.resident_bytes)


@dataclass(frozen=True, slots=True, kw_only=True)
class StartCost:
    """CPU seconds of `--version` and of an empty Python, medians."""

    version_seconds: float
    python_seconds: float


def measure(directory: Path, *, url: str, targets: int, seconds: float, repetitions: int) -> list[Memory]:
    """Measure three configurations: anonymous, everything, and many targets.

    Args:
        url: Of a plain HTTP server, for the many.
        seconds: How long each runs before it is looked at.
    """
    many = write_config(directory / "many.yml", urls=[url] * targets, interval_seconds=10.0)
    measured = []
    with _deployment() as (anonymous_url, whole_config):
        kinds = {
            "one deployment, anonymous, http": (None, {"CODER_URL": anonymous_url}),
            "one deployment, TLS, owner token, database, two proxies": (whole_config, {}),
            f"{targets} targets, http": (many, {}),
        }
        for what, (config, environment) in kinds.items():
            figures = []
            for _ in range(repetitions):
                with exporter(directory, config=config, environment=environment) as program:
                    end = time.monotonic() + (max(seconds, 12.0) if config is many and seconds > 5 else seconds)
                    while time.monotonic() < end:
                        body = fetch(program.port, "/metrics", {"Accept-Encoding": "gzip"})
                        time.sleep(min(2.0, seconds / 2))
                    figures.append(program.memory_bytes())
                    if not body:
                        raise BenchError("/metrics was empty")
            measured.append(Memory(what=what, resident_bytes=tuple(figures)))
    return measured


def measure_start(*, repetitions: int) -> StartCost:
    """Measure what the imports cost."""
    return StartCost(
        version_seconds=median(_cpu(["-m", "exporter", "--version"]) for _ in range(repetitions)),
        python_seconds=median(_cpu(["-c", "pass"]) for _ in range(repetitions)),
    )


def _cpu(arguments: list[str]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *arguments], check=True, cwd=ROOT, stdout=subprocess.DEVNULL, env=dict(os.environ))
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


@contextmanager
def _deployment() -> Iterator[tuple[str, Path]]:
    """Have the demo's servers in a thread: a plain Coder server's URL, and a configuration with all."""
    ready = threading.Event()
    made: list[tuple[str, Path]] = []
    trouble: list[BaseException] = []
    stop: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    async def run() -> None:
        stopped = asyncio.Event()
        stop.append((asyncio.get_running_loop(), stopped))
        async with SimulatedCoder() as plain, Simulation() as simulation:
            config = await simulation.write_config()
            made.append((plain.url, config))
            ready.set()
            await stopped.wait()

    def serve() -> None:
        try:
            asyncio.run(run())
        except BaseException as error:  # told to whoever waits
            trouble.append(error)
            ready.set()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        ready.wait(60)
        if not made:
            raise BenchError(f"the simulated deployment did not start: {json.dumps(repr(trouble))}")
        yield made[0]
    finally:
        for loop, stopped in stop:
            if not loop.is_closed():
                loop.call_soon_threadsafe(stopped.set)
        thread.join()
