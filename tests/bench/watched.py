"""`coder-health-exporter` itself, with an observer inside: the same command, flags and signals.

It notes how late each run began and what latency each reported, how long each check of a relay took
and, when asked to, how long the event loop was busy in one go. When it ends it writes that to the
file that WATCHED_FILE names.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from pathlib import Path

from exporter import app, cli
from exporter.health.derp import TransportResult
from exporter.runner import Round
from exporter.targets.model import Target

OUTPUT_VARIABLE = "WATCHED_FILE"
BEAT_VARIABLE = "WATCHED_BEAT"
_BEAT_SECONDS = 0.001

delays: list[tuple[float, float]] = []
latencies: list[tuple[float, float]] = []
busy: list[tuple[float, float, float]] = []
relays: list[tuple[float, bool, float]] = []


class WatchedApplication(app.Application):
    """The application, which notes what the ticker tells it. Stamps are `time.monotonic()`."""

    async def serve(self) -> None:
        async with asyncio.TaskGroup() as group:
            if os.environ.get(BEAT_VARIABLE):
                group.create_task(_beat())
            await super().serve()

    def run_started(self, target: Target, delay_seconds: float) -> None:
        delays.append((time.monotonic(), delay_seconds))
        super().run_started(target, delay_seconds)

    def run_finished(self, target: Target, outcome: Round) -> None:
        super().run_finished(target, outcome)
        stamp = time.monotonic()
        latencies.extend(
            (stamp, sum(health.phase_seconds.values())) for health in outcome.healths if health.report.failure is None
        )
        relays.extend(
            (stamp, health.result.up, health.result.duration_seconds)
            for health in outcome.healths
            if isinstance(health.result, TransportResult)
        )


async def _beat() -> None:
    """Note the passes of the event loop that took longer than a beat.

    CPU time of the thread tells our own work from the time in which this machine ran others.
    """
    wall, cpu = time.monotonic(), time.thread_time()
    while True:
        await asyncio.sleep(_BEAT_SECONDS)
        wall_now, cpu_now = time.monotonic(), time.thread_time()
        if wall_now - wall > 2 * _BEAT_SECONDS:
            busy.append((wall_now, wall_now - wall - _BEAT_SECONDS, cpu_now - cpu))
        wall, cpu = wall_now, cpu_now


if __name__ == "__main__":
    app.Application = WatchedApplication  # type: ignore[misc]
    code = cli.main()
    noted = {"delays": delays, "latencies": latencies, "busy": busy, "relays": relays}
    Path(os.environ[OUTPUT_VARIABLE]).write_text(json.dumps(noted))
    sys.exit(code)
