"""Checks of one relay, one after the other: `python -m tests.bench.derp_checks '{...}'`, on the event loop
that CODER_HEALTH_EVENT_LOOP names.

A process of its own, so that its CPU time is that of the checks. The kinds take turns in short
batches, so that what the machine does meanwhile meets all of them alike. Writes JSON: what each kind
took. The argument is an `Order` as JSON.
"""

from __future__ import annotations

import asyncio
import gc
import json
import ssl
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from exporter.clock import SystemClock
from exporter.health.derp import NodeName, TransportResult
from exporter.health.model import Failure, Section
from exporter.net.derp_client import DerpConnection, open_derp
from exporter.net.relay import find_relay
from exporter.net.tls import load_ssl_context
from exporter.probes import derp, stun
from exporter.process import run_event_loop
from exporter.targets.model import DerpRelayTarget, RelayEndpoint, StunTarget
from exporter.wire.derp_frames import Transport
from exporter.wire.url import Origin
from tests.bench import derp_floor

# What is checked, by name; the report says what each one holds.
CLIENTS, RAW, WHOLE, FLOOR, STUN = "clients", "raw", "whole", "floor", "stun"
_BATCH = 20
# not counted: the first ones after a turn of others find cold caches
_WARM_UP = 3
_TIMEOUT_SECONDS = 10.0
_CLOCK = SystemClock()

Check = Callable[[], Awaitable[list[float]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What to do. `per_second` 0 is: at once when the one before is done. `ca_file` None is plain HTTP."""

    kinds: list[str]
    port: int
    stun_port: int = 0
    ca_file: str | None = None
    per_second: float = 0.0
    seconds: float


@dataclass(slots=True, kw_only=True)
class Taken:
    """Of one kind: CPU seconds in all, and of each check its seconds and its round trips."""

    cpu_seconds: float = 0.0
    durations: list[float] = field(default_factory=list)
    round_trips: list[float] = field(default_factory=list)


async def run(order: Order) -> dict[str, Taken]:
    """Do the checks for so long."""
    checks = await _prepare(order)
    for check in checks.values():
        for _ in range(_BATCH):
            await check()
    gc.collect()
    gc.freeze()  # as the product does after its start
    taken = {kind: Taken() for kind in checks}
    begun = due = time.monotonic()
    while time.monotonic() < begun + order.seconds:
        for kind, check in checks.items():
            for _ in range(_WARM_UP if len(checks) > 1 else 0):
                await check()
            cpu = time.process_time()
            for _ in range(_BATCH):
                if order.per_second:
                    due += 1 / order.per_second
                    await asyncio.sleep(max(0.0, due - time.monotonic()))
                started = time.monotonic()
                round_trips = await check()
                taken[kind].durations.append(time.monotonic() - started)
                taken[kind].round_trips += round_trips
            taken[kind].cpu_seconds += time.process_time() - cpu
    return taken


async def _prepare(order: Order) -> dict[str, Check]:
    ca_file = None if order.ca_file is None else Path(order.ca_file)
    context = None if ca_file is None else await load_ssl_context(ca_file)
    origin = Origin(scheme="http" if context is None else "https", host="localhost", port=order.port)
    name = NodeName(region_id=1, region_name="loopback", node="1a")
    times = {"interval_seconds": 60.0, "timeout_seconds": _TIMEOUT_SECONDS}
    relay = DerpRelayTarget(
        deployment="bench",
        section=Section.DERP,
        name=name,
        endpoint=RelayEndpoint(origin=origin, address="127.0.0.1"),
        ca_file=ca_file,
        **times,
    )
    server = StunTarget(
        deployment="bench",
        section=Section.DERP,
        name=name,
        host="localhost",
        port=order.stun_port,
        ipv4="127.0.0.1",
        ipv6="",
        **times,
    )
    known: dict[str, Check] = {
        CLIENTS: lambda: _check_with_clients(origin, context),
        RAW: lambda: _check_raw(relay),
        WHOLE: lambda: _check_whole(relay),
        FLOOR: lambda: derp_floor.check(order.port, context),
        STUN: lambda: _check_stun(server),
    }
    return {kind: known[kind] for kind in order.kinds}


async def _check_with_clients(origin: Origin, context: ssl.SSLContext | None) -> list[float]:
    """The product's client alone: two connections, two logins, one message each way, close."""

    async def log_in() -> DerpConnection:
        opened = await open_derp(
            origin,
            address="127.0.0.1",
            transport=Transport.DERP,
            deadline_seconds=_CLOCK.monotonic() + _TIMEOUT_SECONDS,
            clock=_CLOCK,
            ssl_context=context,
        )
        if not isinstance(opened, DerpConnection):
            raise SystemExit(f"the relay did not let us in: {opened}")
        return opened

    async with asyncio.TaskGroup() as group:
        # both in one pass of the event loop, which then tells the kernel of both at once
        logins = [group.create_task(log_in()) for _ in range(2)]
    one, other = (login.result() for login in logins)
    round_trips = []
    for sender, receiver in ((one, other), (other, one)):
        sent_seconds = sender.send(receiver.own_key, b"12345678")
        packet = await receiver.receive_packet()
        round_trips.append(packet.received_seconds - sent_seconds)
    one.abort()
    other.abort()
    return round_trips


async def _check_raw(target: DerpRelayTarget) -> list[float]:
    """The probe, of which only the raw transport is run."""
    deadline = _CLOCK.monotonic() + _TIMEOUT_SECONDS
    relay = await find_relay(
        target.endpoint.origin,
        address=target.endpoint.address,
        ca_file=target.ca_file,
        deadline_seconds=deadline,
        clock=_CLOCK,
    )
    return _read(await derp._Check(target, relay, Transport.DERP, _CLOCK).run(deadline))


async def _check_whole(target: DerpRelayTarget) -> list[float]:
    result = await derp.probe(target, clock=_CLOCK)
    return [seconds for transport in result.transports for seconds in _read(transport)]


def _read(result: TransportResult) -> list[float]:
    _require(result.failure)
    return list(result.round_trip_seconds)


async def _check_stun(target: StunTarget) -> list[float]:
    result = await stun.probe(target, clock=_CLOCK)
    _require(result.failure)
    return [attempt.round_trip_seconds for attempt in result.attempts if attempt.round_trip_seconds is not None]


def _require(failure: Failure | None) -> None:
    if failure is not None:
        raise SystemExit(f"a check failed, what was measured would be another thing: {failure.message}")


async def _main() -> int:
    taken = await run(Order(**json.loads(sys.argv[1])))
    print(json.dumps({kind: asdict(one) for kind, one in taken.items()}))
    return 0


if __name__ == "__main__":
    sys.exit(run_event_loop(_main()))
