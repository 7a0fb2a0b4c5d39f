"""CPU of one probe: ours against blackbox's, both as real processes, on the same nginx.

Ours is the whole way: ticker, probe, judgement, snapshot, metrics, and a scrape every ten seconds.
Blackbox's is its module http_2xx, asked over kept connections by a client that is not counted. Both
make a fresh connection for each probe, verify the certificate, and are paced alike. The kernel's
user and system time of the process, divided by the probes done in the same span, is the figure.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from statistics import median
from typing import Literal
from urllib.parse import quote

from tests.bench.programs import BenchError, Program, blackbox, exporter, fetch, write_config
from tests.bench.scraping import count_series_sum

SCRAPE_SECONDS = 10.0
_CLIENTS = 8

Who = Literal["uvloop", "asyncio", "blackbox"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeCost:
    """CPU seconds a probe, one value a repetition."""

    who: Who
    scheme: str
    host: str
    cpu_seconds: tuple[float, ...]

    @property
    def median_seconds(self) -> float:
        return median(self.cpu_seconds)


def measure(
    directory: Path,
    *,
    url: str,
    ca_file: Path,
    probes_per_second: int,
    seconds: float,
    warm_up_seconds: float,
    repetitions: int,
) -> list[ProbeCost]:
    """Measure all three in turn, so many times."""
    seen: dict[Who, list[float]] = {"uvloop": [], "asyncio": [], "blackbox": []}
    config = write_config(
        directory / "probe-cost.yml", urls=[url] * probes_per_second, interval_seconds=1.0, ca_file=ca_file
    )
    for _ in range(repetitions):
        for who, figures in seen.items():
            if who == "blackbox":
                with blackbox(directory, ca_file=ca_file) as program, _asking(program, url, probes_per_second) as done:
                    time.sleep(warm_up_seconds)
                    figures.append(_cost(program, done, seconds))
            else:
                with exporter(directory, config=config, environment={"CODER_HEALTH_EVENT_LOOP": who}) as program:
                    time.sleep(warm_up_seconds)
                    figures.append(_cost(program, _Runs(program), seconds))
    scheme, _, rest = url.partition("://")
    return [
        ProbeCost(who=who, scheme=scheme, host=rest.rpartition(":")[0], cpu_seconds=tuple(figures))
        for who, figures in seen.items()
    ]


class _Runs:
    """Counts our own runs, as /metrics does."""

    def __init__(self, program: Program) -> None:
        self._program = program

    def count(self) -> int:
        body = fetch(self._program.port, "/metrics").decode()
        if count_series_sum(body, "coder_health_probe_failures_total"):
            raise BenchError("a probe of ours failed: what was measured would be another thing")
        return int(count_series_sum(body, "coder_health_probe_runs_total"))


class _Asked:
    """Counts the answers of blackbox."""

    def __init__(self) -> None:
        self.answers = 0
        self.trouble = ""

    def count(self) -> int:
        if self.trouble:
            raise BenchError(self.trouble)
        return self.answers


def _cost(program: Program, done: _Runs | _Asked, seconds: float) -> float:
    probes_before = done.count()
    begun, before = time.monotonic(), program.cpu_seconds()
    while (left := begun + seconds - time.monotonic()) > 0:
        time.sleep(min(left, SCRAPE_SECONDS))
        probes = done.count() - probes_before
    spent = program.cpu_seconds() - before
    if probes <= 0:
        raise BenchError(f"{program.name} made no probe within {seconds:.0f} s")
    return spent / probes


@contextmanager
def _asking(program: Program, url: str, per_second: int) -> Iterator[_Asked]:
    """Have blackbox asked at an even pace by a few threads with kept connections."""
    asked, stop, lock = _Asked(), threading.Event(), threading.Lock()
    begun = time.monotonic()

    def ask(number: int) -> None:
        connection = HTTPConnection("127.0.0.1", program.port, timeout=10)
        turn = number
        while not stop.wait(max(0.0, begun + turn / per_second - time.monotonic())):
            connection.request("GET", f"/probe?module=http_2xx&target={quote(url + '/healthz', safe='')}")
            answer = connection.getresponse().read()
            with lock:
                asked.answers += 1
                if b"\nprobe_success 1\n" not in answer:
                    asked.trouble = "a probe of blackbox failed: what was measured would be another thing"
            turn += _CLIENTS
        connection.close()

    threads = [threading.Thread(target=ask, args=(number,), daemon=True) for number in range(_CLIENTS)]
    for thread in threads:
        thread.start()
    try:
        yield asked
    finally:
        stop.set()
        for thread in threads:
            thread.join()
