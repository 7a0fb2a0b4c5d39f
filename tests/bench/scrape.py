"""A scrape: our board against prometheus_client's encoder, on the same series.

The board is filled as it is in life, by commits of finished runs. prometheus_client is given the
very same series, read back from our body, as metric families that are ready to be encoded: it pays
for nothing but its text. Both are CPU time of the one thread that does it. Through HTTP it is wall
time of a whole request to the real server, over a kept connection.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from statistics import median

from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from exporter.errors import Phase
from exporter.health.model import Section
from exporter.metrics.board import Board
from exporter.metrics.negotiation import Format
from exporter.web.pages import Landing
from exporter.web.server import Health, create_app, serve
from tests.bench.programs import BenchError
from tests.bench.scraping import count_series
from tests.support.exposition import START, World, access_url, attempt, dates

# so many a target of the access URL with TLS has
_SERIES_A_DEPLOYMENT = 68
_PHASE_SECONDS = {
    Phase.RESOLVE: 0.000312,
    Phase.CONNECT: 0.000113,
    Phase.TLS: 0.002214,
    Phase.PROCESSING: 0.004102,
    Phase.TRANSFER: 0.000034,
}
_DATES = dates(START + 1e7)
_RESULT = access_url(attempt(certificate=_DATES, chain_certificate=_DATES))
_GZIP_LEVEL = 1  # that of exporter.web.server


@dataclass(frozen=True, slots=True, kw_only=True)
class ScrapeCost:
    """Medians in seconds of one scrape of so many series. `run` is what rendering adds to one run."""

    series: int
    body_bytes: int
    packed_bytes: int
    run: float
    render: float
    pack: float
    client_library: float
    http: float
    http_packed: float

    @property
    def ratio(self) -> float:
        """Our encoder's time in parts of prometheus_client's."""
        return self.render / self.client_library


def measure(*, series: int, repetitions: int) -> ScrapeCost:
    """Measure with at least so many series."""
    world, render_runs = _fill(series)
    board = world.board
    run_seconds = median(render_runs(10) for _ in range(repetitions))
    body = b"".join(board.render(Format.TEXT))
    registry = _registry(body)
    render = _median_cpu(lambda: b"".join(board.render(Format.TEXT)), repetitions)
    pack = _median_cpu(lambda: zlib.compress(body, _GZIP_LEVEL, 31), repetitions)
    library = _median_cpu(lambda: generate_latest(registry), max(3, repetitions // 3))
    with _serving(board) as port:
        plain = _median_request(port, {}, repetitions, len(body))
        packed = _median_request(port, {"Accept-Encoding": "gzip"}, repetitions, 0)
    return ScrapeCost(
        series=count_series(body.decode()),
        body_bytes=len(body),
        packed_bytes=len(zlib.compress(body, _GZIP_LEVEL, 31)),
        run=run_seconds,
        render=render,
        pack=pack,
        client_library=library,
        http=plain,
        http_packed=packed,
    )


def _fill(series: int) -> tuple[World, Callable[[int], float]]:
    """Return a board with so many series, and what renders that many runs and tells the time of one."""
    names = [f"deployment-{number:05}" for number in range(-(-series // _SERIES_A_DEPLOYMENT))]
    world = World(names, sections=[Section.ACCESS_URL])
    numbers = itertools.count()

    def run(name: str) -> None:
        # each run has other values, as in life
        jitter = next(numbers) * 1e-7
        phases = {phase: seconds + jitter for phase, seconds in _PHASE_SECONDS.items()}
        world.run(name, Section.ACCESS_URL, {"coder.example.com": _RESULT}, phase_seconds=phases)

    def render_runs(count: int) -> float:
        turn = list(itertools.islice(itertools.cycle(names), count))
        begun = time.thread_time()
        for name in turn:
            run(name)
        return (time.thread_time() - begun) / count

    for name in names:
        run(name)
    return world, render_runs


class _Ready(Collector):
    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


def _registry(body: bytes) -> CollectorRegistry:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Ready(list(text_string_to_metric_families(body.decode()))))
    return registry


def _median_cpu(work: Callable[[], object], repetitions: int) -> float:
    figures = []
    for _ in range(repetitions):
        begun = time.thread_time()
        work()
        figures.append(time.thread_time() - begun)
    return median(figures)


@contextmanager
def _serving(board: Board) -> Iterator[int]:
    """Have the real HTTP server show the board, on an event loop in a thread of its own."""
    application = create_app(
        render=board.render,
        healthy=lambda: None,
        ready=lambda: None,
        config_text=lambda: "",
        landing=lambda: Landing(version="0", now_timestamp_seconds=START, deployments=()),
        health=lambda deployment: Health(version="0", now_timestamp_seconds=START, deployments=()),
    )
    ports: list[int] = []
    ready = threading.Event()
    loop: asyncio.AbstractEventLoop | None = None
    stop: asyncio.Event | None = None

    async def run() -> None:
        nonlocal loop, stop
        loop, stop = asyncio.get_running_loop(), asyncio.Event()
        async with serve(application, ["127.0.0.1:0"]) as bound:
            ports.append(int(bound[0].rpartition(":")[2]))
            ready.set()
            await stop.wait()

    thread = threading.Thread(target=asyncio.run, args=(run(),))
    thread.start()
    try:
        if not ready.wait(10):
            raise BenchError("the HTTP server did not start")
        yield ports[0]
    finally:
        if loop is not None and stop is not None:
            loop.call_soon_threadsafe(stop.set)
        thread.join()


def _median_request(port: int, headers: dict[str, str], repetitions: int, at_least: int) -> float:
    figures = []
    connection = HTTPConnection("127.0.0.1", port, timeout=60)
    for _ in range(repetitions + 1):
        begun = time.monotonic()
        connection.request("GET", "/metrics", headers=headers)
        answer = connection.getresponse()
        body = answer.read()
        figures.append(time.monotonic() - begun)
        if answer.status != 200 or len(body) < at_least:
            raise BenchError(f"/metrics answered {answer.status} with {len(body)} bytes")
    connection.close()
    return median(figures[1:])
