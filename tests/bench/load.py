"""A thousand targets: how late runs begin, how true the reported latency is, how long the loop is busy.

The real command with an observer inside (`watched`) probes a server that answers after a known time,
while a single calm client asks the same server and a scraper comes every ten seconds.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from tests.bench import programs
from tests.bench.programs import BenchError, exporter, fetch, started, write_config
from tests.bench.scraping import count_series
from tests.bench.watched import BEAT_VARIABLE, OUTPUT_VARIABLE
from tests.support.ports import free_port

SERVER_SECONDS = 0.005
SCRAPE_SECONDS = 10.0
_CALM_PER_SECOND = 25


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantiles:
    """Of one series of measurements, in seconds."""

    count: int
    p50: float
    p99: float
    max: float

    @classmethod
    def of(cls, values: list[float]) -> Quantiles:
        if not values:
            raise BenchError("nothing was measured in the time given; give it more")
        ordered = sorted(values)
        return cls(
            count=len(ordered),
            p50=ordered[len(ordered) // 2],
            p99=ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))],
            max=ordered[-1],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What a run under load showed.

    `reported` and `true` are latencies of the same server in the same span. `busy` is CPU time of
    the event loop's thread in one go, `stalled` the wall time of the same; both None without the
    observer's beat.
    """

    targets: int
    interval_seconds: float
    series: int
    delays: Quantiles
    reported: Quantiles
    true: Quantiles
    busy: Quantiles | None
    stalled: Quantiles | None
    scrape_seconds: tuple[float, ...]
    cpu_share: float
    memory_bytes: int


def measure(directory: Path, *, targets: int, interval_seconds: float, seconds: float, beat: bool) -> Load:
    """Run the load: an interval to warm up, then so many seconds that count."""
    port = free_port()
    output, calm = directory / "watched.json", directory / "calm.jsonl"
    config = write_config(
        directory / "load.yml", urls=[f"http://127.0.0.1:{port}"] * targets, interval_seconds=interval_seconds
    )
    server = [sys.executable, "-m", "tests.bench.slow_server", str(port), str(SERVER_SECONDS)]
    client = [sys.executable, "-m", "tests.bench.calm_client", str(port), str(_CALM_PER_SECOND), str(calm)]
    environment = {OUTPUT_VARIABLE: str(output)} | ({BEAT_VARIABLE: "1"} if beat else {})
    with started(server, directory / "slow-server.log") as serving:
        serving.wait_until(lambda: programs.is_listening(port), "listening")
        with (
            started(client, directory / "calm.log"),
            exporter(
                directory, config=config, environment=environment, module=("-m", "tests.bench.watched")
            ) as program,
        ):
            time.sleep(interval_seconds + 1.0)
            begun, cpu_before = time.monotonic(), program.cpu_seconds()
            scrapes: list[float] = []
            body = b""
            while (left := begun + seconds - time.monotonic()) > 0:
                scraping = time.monotonic()
                body = fetch(program.port, "/metrics")
                scrapes.append(time.monotonic() - scraping)
                time.sleep(min(left, SCRAPE_SECONDS))
            ended = time.monotonic()
            cpu_share = (program.cpu_seconds() - cpu_before) / (ended - begun)
            memory = program.memory_bytes()
    noted = json.loads(output.read_text())

    def within(name: str, column: int) -> list[float]:
        return [line[column] for line in noted[name] if begun <= line[0] <= ended]

    true = [json.loads(line) for line in calm.read_text().splitlines() if line.endswith("]")]
    return Load(
        targets=targets,
        interval_seconds=interval_seconds,
        series=count_series(body.decode()),
        delays=Quantiles.of(within("delays", 1)),
        reported=Quantiles.of(within("latencies", 1)),
        true=Quantiles.of([latency for stamp, latency in true if begun <= stamp <= ended]),
        busy=Quantiles.of([*within("busy", 2), 0.0]) if beat else None,
        stalled=Quantiles.of([*within("busy", 1), 0.0]) if beat else None,
        scrape_seconds=tuple(scrapes),
        cpu_share=cpu_share,
        memory_bytes=memory,
    )
