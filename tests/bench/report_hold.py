"""How long the event loop is held while a large health report of Coder's is read and judged.

On a loop with a sleeper of 1 ms, as in the observer of a load, the same report is read in several
ways: by the library on the loop, by the library in a thread, by our reader in a thread, and as the
exporter does. Held is the longest time in which the sleeper did not come round: CPU time of the loop's
thread, which is its own work and does not see who waits for the interpreter, and wall time, less what
the sleeper sleeps, which on a machine with other work shows that work, too. Hence nothing at all is
measured beside them, as the floor.
"""

from __future__ import annotations

import asyncio
import gc
import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from statistics import median

import uvloop

from exporter.health.report import ReportResult, assess
from exporter.net.coder_report import parse_report, read_report
from tests.bench.load import Quantiles
from tests.support.coder_reports import make_report

NOTHING = "nothing (the floor)"
LIBRARY = "json.loads on the loop"
LIBRARY_THREAD = "json.loads in a thread"
OURS_THREAD = "our reader in a thread"
OURS = "ours, as in operation"
JUDGED = "judged on the loop, all in trouble"
JUDGED_IN_THREAD = "the same, as in operation"

REGIONS, NODES_A_REGION, DAEMONS, LOG_LINES = 200, 3, 240, 24
_BEAT_SECONDS = 0.001
_FLOOR_SECONDS = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """One way on one event loop: how long it took, and how long it held the loop at most, in seconds
    of wall time and of CPU."""

    event_loop: str
    way: str
    took: Quantiles
    held: Quantiles
    held_cpu: Quantiles


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportHolds:
    """All ways, with a report of so many bytes. `cpu` is what reading it takes in ours and in the
    library's way, in seconds."""

    body_bytes: int
    cpu: float
    library_cpu: float
    holds: tuple[Hold, ...]

    def find(self, way: str, event_loop: str) -> Hold:
        return next(hold for hold in self.holds if (hold.way, hold.event_loop) == (way, event_loop))


def measure(*, repetitions: int) -> ReportHolds:
    """Measure every way so often on both event loops, in turns."""
    body = make_report(regions=REGIONS, nodes=NODES_A_REGION, daemons=DAEMONS, log_lines=LOG_LINES)
    ways = _list_ways(body)
    runners = {"uvloop": uvloop.run, "asyncio": asyncio.run}
    found: dict[tuple[str, str], list[tuple[float, float, float]]] = {}
    gc.collect()
    gc.freeze()  # as the command does
    try:
        for _ in range(repetitions):
            for event_loop, run in runners.items():
                for way, read in ways.items():
                    found.setdefault((event_loop, way), []).append(run(_watch(read)))
    finally:
        gc.unfreeze()
    return ReportHolds(
        body_bytes=len(body),
        cpu=_measure_cpu(lambda: _drain(body), repetitions),
        library_cpu=_measure_cpu(lambda: json.loads(body), repetitions),
        holds=tuple(
            Hold(
                event_loop=event_loop,
                way=way,
                took=Quantiles.of([took for took, _, _ in runs]),
                held=Quantiles.of([held for _, held, _ in runs]),
                held_cpu=Quantiles.of([cpu for _, _, cpu in runs]),
            )
            for (event_loop, way), runs in found.items()
        ),
    )


def _list_ways(body: bytes) -> dict[str, Callable[[], Awaitable[object]]]:
    broken = make_report(regions=REGIONS, nodes=NODES_A_REGION, daemons=DAEMONS, log_lines=0, broken=True)
    result = ReportResult(name="coder.example.com", report=asyncio.run(parse_report(broken)))

    async def load() -> object:
        return json.loads(body)

    def judge() -> object:
        return assess(result)

    async def judge_at_once() -> object:
        return judge()

    return {
        NOTHING: lambda: asyncio.sleep(_FLOOR_SECONDS),
        LIBRARY: load,
        LIBRARY_THREAD: lambda: asyncio.to_thread(json.loads, body),
        OURS_THREAD: lambda: asyncio.to_thread(_drain, body),
        OURS: lambda: parse_report(body),
        JUDGED: judge_at_once,
        JUDGED_IN_THREAD: lambda: asyncio.to_thread(judge),
    }


async def _watch(read: Callable[[], Awaitable[object]]) -> tuple[float, float, float]:
    """Return how long it took, and the longest time in which the sleeper did not come round, in wall
    and in CPU time."""
    gaps: list[float] = []
    gaps_cpu: list[float] = []

    async def beat() -> None:
        before, before_cpu = time.perf_counter(), time.thread_time()
        while True:
            await asyncio.sleep(_BEAT_SECONDS)
            now, now_cpu = time.perf_counter(), time.thread_time()
            gaps.append(now - before - _BEAT_SECONDS)
            gaps_cpu.append(now_cpu - before_cpu)
            before, before_cpu = now, now_cpu

    async with asyncio.TaskGroup() as group:
        beating = group.create_task(beat())
        await asyncio.to_thread(int)  # the threads' pool stands before it counts
        await asyncio.sleep(5 * _BEAT_SECONDS)
        gaps.clear()
        gaps_cpu.clear()
        begun = time.perf_counter()
        await read()
        took = time.perf_counter() - begun
        await asyncio.sleep(3 * _BEAT_SECONDS)
        beating.cancel()
    return took, max(gaps), max(gaps_cpu)


def _drain(body: bytes) -> None:
    for _ in read_report(body):
        pass


def _measure_cpu(work: Callable[[], object], repetitions: int) -> float:
    spent = []
    for _ in range(repetitions):
        begun = time.thread_time()
        work()
        spent.append(time.thread_time() - begun)
    return median(spent)
