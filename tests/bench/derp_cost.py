"""CPU and time of one complete DERP check, and of a STUN request, against Tailscale's derper on loopback.

Ours in a process of its own (`derp_checks`), one check after the other: the client alone, the probe's
raw transport, the whole probe with both transports, and as the floor of this machine a bare protocol.
Tailscale's own prober is measured beside ours at the same time and pace: two connections and two
logins too, over TLS only (it refuses a relay without), with a message one way instead of both, and
with its fast start, which spares it an answer.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median

from tests.bench.derp_checks import CLIENTS, FLOOR, RAW, STUN, WHOLE, Order
from tests.bench.derp_programs import MissingError, Relay, derper, derpprobe, measure_cpu_seconds
from tests.bench.load import Quantiles
from tests.bench.probe_cost import EventLoop
from tests.bench.programs import ROOT, BenchError, Program, started
from tests.support.certificates import Authority

_EVENT_LOOPS: tuple[EventLoop, ...] = ("uvloop", "asyncio")
_KINDS = [FLOOR, CLIENTS, RAW, WHOLE]
_SPARE_SECONDS = 30.0
PACE_PER_SECOND = 40


@dataclass(slots=True, kw_only=True)
class CheckCost:
    """What one kind of check took; `cpu_seconds` has a value a repetition, the others one a check or message."""

    kind: str
    scheme: str
    event_loop: EventLoop
    cpu_seconds: list[float] = field(default_factory=list)
    durations: list[float] = field(default_factory=list)
    round_trips: list[float] = field(default_factory=list)

    @property
    def cpu(self) -> float:
        return median(self.cpu_seconds)

    @property
    def took(self) -> Quantiles:
        return Quantiles.of(self.durations)

    @property
    def round_trip(self) -> Quantiles:
        return Quantiles.of(self.round_trips)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """CPU seconds a check of ours (client alone, uvloop, TLS) and of derpprobe, pair by pair."""

    ours: tuple[float, ...]
    derpprobe: tuple[float, ...]

    @property
    def ratio(self) -> float:
        return median(ours / theirs for ours, theirs in zip(self.ours, self.derpprobe, strict=True))


@dataclass(slots=True, kw_only=True)
class DerpCosts:
    """All of it. `missing` says why nothing was measured, `no_reference` why derpprobe was not."""

    checks: list[CheckCost] = field(default_factory=list)
    reference: Reference | None = None
    missing: str = ""
    no_reference: str = ""

    def find(self, kind: str, scheme: str, event_loop: EventLoop) -> CheckCost | None:
        """Return one of them."""
        wanted = (kind, scheme, event_loop)
        return next((cost for cost in self.checks if wanted == (cost.kind, cost.scheme, cost.event_loop)), None)


def measure(directory: Path, authority: Authority, *, seconds: float, repetitions: int) -> DerpCosts:
    """Measure every kind over plain HTTP and TLS 1.3 on both event loops, so many spans each."""
    costs: dict[tuple[str, str, EventLoop], CheckCost] = {}
    with ExitStack() as stack:
        try:
            plain = stack.enter_context(derper(directory))
            secure = stack.enter_context(derper(directory, authority=authority))
        except MissingError as error:
            return DerpCosts(missing=str(error))
        for _ in range(repetitions):
            for scheme, relay, ca_file in (("http", plain, None), ("https", secure, authority.ca_file)):
                kinds = [*_KINDS, STUN] if ca_file is None else _KINDS
                for event_loop in _EVENT_LOOPS:
                    order = _order(kinds, relay, ca_file, seconds=seconds)
                    for kind, taken in _run_checks(order, event_loop).items():
                        key = (kind, scheme, event_loop)
                        cost = costs.setdefault(key, CheckCost(kind=kind, scheme=scheme, event_loop=event_loop))
                        cost.cpu_seconds.append(taken["cpu_seconds"] / len(taken["durations"]))
                        cost.durations += taken["durations"]
                        cost.round_trips += taken["round_trips"]
        found = DerpCosts(checks=list(costs.values()))
        try:
            found.reference = _measure_reference(
                directory, secure, authority.ca_file, seconds=seconds, repetitions=repetitions
            )
        except MissingError as error:
            found.no_reference = str(error)
    return found


def _order(kinds: list[str], relay: Relay, ca_file: Path | None, *, seconds: float, per_second: float = 0.0) -> Order:
    return Order(
        kinds=kinds,
        port=relay.port,
        stun_port=relay.stun_port,
        ca_file=None if ca_file is None else str(ca_file),
        per_second=per_second,
        seconds=seconds,
    )


def _command(order: Order) -> list[str]:
    return [sys.executable, "-m", "tests.bench.derp_checks", json.dumps(asdict(order))]


def _run_checks(order: Order, event_loop: EventLoop) -> dict[str, dict[str, object]]:
    done = subprocess.run(
        _command(order),
        cwd=ROOT,
        env=os.environ | {"CODER_HEALTH_EVENT_LOOP": event_loop},
        capture_output=True,
        text=True,
        timeout=order.seconds + _SPARE_SECONDS,
        check=False,
    )
    if done.returncode != 0:
        raise BenchError(f"the checks of a relay failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout)


def _measure_reference(directory: Path, relay: Relay, ca_file: Path, *, seconds: float, repetitions: int) -> Reference:
    """Run both at the same pace in the same span."""
    pairs = []
    with derpprobe(directory, relay, ca_file=ca_file, per_second=PACE_PER_SECOND) as prober:
        for number in range(repetitions):
            order = _order([CLIENTS], relay, ca_file, seconds=seconds, per_second=PACE_PER_SECOND)
            log = directory / f"paced-{number}.json"
            environment = {"CODER_HEALTH_EVENT_LOOP": "uvloop"}
            count, cpu = prober.count(), measure_cpu_seconds(prober.program)
            with started(_command(order), log, environment=environment) as ours:
                _wait_for_end(ours, seconds + _SPARE_SECONDS)
            checks, spent = prober.count() - count, measure_cpu_seconds(prober.program) - cpu
            taken = json.loads(log.read_text())[CLIENTS]
            pairs.append((taken["cpu_seconds"] / len(taken["durations"]), spent / checks))
    return Reference(ours=tuple(pair[0] for pair in pairs), derpprobe=tuple(pair[1] for pair in pairs))


def _wait_for_end(program: Program, seconds: float) -> None:
    end = time.monotonic() + seconds
    while program.process.poll() is None:
        if time.monotonic() > end:
            raise BenchError("the checks of a relay took too long")
        time.sleep(0.05)
    if program.process.returncode != 0:
        raise BenchError(f"the checks of a relay failed:\n{program.log.read_text(errors='replace')[-2000:]}")
