"""CPU of one probe: ours against blackbox's, both as real processes, at once, on the same nginx.

Ours is the whole way: ticker, probe, judgement, snapshot, metrics, and a scrape every ten seconds.
Blackbox's is its module http_2xx, asked over kept connections by a client that is not counted. Both
make a fresh connection for each probe, verify the certificate, and are paced alike. The kernel's
user and system time of the process, divided by the probes done in the same span, is the figure.

They run at the same time, since what a machine gives changes from one minute to the next: absolute
figures differ by half from run to run, the ratio of a pair hardly does.
"""

from __future__ import annotations

import math
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

EventLoop = Literal["uvloop", "asyncio"]
_EVENT_LOOPS: tuple[EventLoop, ...] = ("uvloop", "asyncio")


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeCost:
    """CPU seconds a probe, one value a repetition, of ours on an event loop and of blackbox beside it."""

    event_loop: EventLoop
    scheme: str
    host: str
    ours: tuple[float, ...]
    blackbox: tuple[float, ...]

    @property
    def ratios(self) -> list[float]:
        """Ours in parts of blackbox's, pair by pair."""
        # in a span shorter than the kernel's tick of 10 ms nothing may have been counted
        return [ours / theirs if theirs else math.inf for ours, theirs in zip(self.ours, self.blackbox, strict=True)]

    @property
    def ratio(self) -> float:
        return median(self.ratios)


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
    """Measure both event loops against blackbox, so many spans each."""
    config = write_config(
        directory / "probe-cost.yml", urls=[url] * probes_per_second, interval_seconds=1.0, ca_file=ca_file
    )
    scheme, _, rest = url.partition("://")
    costs = []
    for event_loop in _EVENT_LOOPS:
        pairs: list[tuple[float, float]] = []
        with (
            exporter(directory, config=config, environment={"CODER_HEALTH_EVENT_LOOP": event_loop}) as ours,
            blackbox(directory, ca_file=ca_file) as theirs,
            _asking(theirs, url, probes_per_second) as asked,
        ):
            time.sleep(warm_up_seconds)
            pairs += [_measure_pair(ours, _Runs(ours), theirs, asked, seconds) for _ in range(repetitions)]
        costs.append(
            ProbeCost(
                event_loop=event_loop,
                scheme=scheme,
                host=rest.rpartition(":")[0],
                ours=tuple(pair[0] for pair in pairs),
                blackbox=tuple(pair[1] for pair in pairs),
            )
        )
    return costs


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


def _measure_pair(ours: Program, runs: _Runs, theirs: Program, asked: _Asked, seconds: float) -> tuple[float, float]:
    """Return the CPU seconds a probe of each, over the same span."""
    runs_before, asked_before = runs.count(), asked.count()
    begun, ours_before, theirs_before = time.monotonic(), ours.cpu_seconds(), theirs.cpu_seconds()
    while (left := begun + seconds - time.monotonic()) > 0:
        time.sleep(min(left, SCRAPE_SECONDS))
        own_probes, their_probes = runs.count() - runs_before, asked.count() - asked_before
    ours_spent, theirs_spent = ours.cpu_seconds() - ours_before, theirs.cpu_seconds() - theirs_before
    if min(own_probes, their_probes) <= 0:
        raise BenchError(f"no probe was made within {seconds:.0f} s")
    return ours_spent / own_probes, theirs_spent / their_probes


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
