"""One STUN server of the map: a binding request over each address family that it has.

In: a STUN target. Out: a `StunResult`. Never judges. The families are told apart: a server that is
dead over one of them is seen.
"""

from __future__ import annotations

import asyncio
from typing import Literal

from exporter.clock import Clock
from exporter.errors import ProbeError
from exporter.health.model import Failure
from exporter.health.stun import StunAttempt, StunResult
from exporter.net import reach, stun_client
from exporter.net.connection import NoRouteError
from exporter.net.reach import Lookup
from exporter.targets.model import StunTarget
from exporter.wire.url import is_address

Family = Literal["ipv4", "ipv6"]


async def probe(target: StunTarget, *, clock: Clock) -> StunResult:
    """Ask a server over each family, side by side, within the target's timeout."""
    deadline = clock.monotonic() + target.timeout_seconds
    failure = None
    addresses: dict[Family, str] = {}
    try:
        addresses = await find_addresses(target, deadline_seconds=deadline, clock=clock)
    except ProbeError as error:
        failure = Failure.of(error)
    async with asyncio.TaskGroup() as group:
        asked = [
            group.create_task(_ask(family, address, target.port, deadline, clock))
            for family, address in addresses.items()
        ]
    attempts = tuple(task.result() for task in asked)
    if failure is None and not any(attempt.up for attempt in attempts):
        failure = next((attempt.failure for attempt in attempts if attempt.failure and not attempt.no_route), None)
    return StunResult(
        region_id=target.name.region_id,
        region_name=target.name.region_name,
        node=target.name.node,
        host=target.host,
        port=target.port,
        attempts=attempts,
        failure=failure,
        by_name=not is_address(target.host) and not choose_addresses(target, None),
    )


async def find_addresses(target: StunTarget, *, deadline_seconds: float, clock: Clock) -> dict[Family, str]:
    """Return one address of each family that the server has and the map does not switch off.

    Raises:
        ResolveError, DeadlineError: It has none, or nobody said so in time.
    """
    if not needs_lookup(target):
        return choose_addresses(target, None)
    try:
        lookup = await reach.look_up(target.host, deadline_seconds=deadline_seconds, clock=clock)
    except ProbeError:
        found = choose_addresses(target, None)
        if not found:
            raise
        return found
    return choose_addresses(target, lookup)


def needs_lookup(target: StunTarget) -> bool:
    """Tell whether the map leaves the address of a family to the name."""
    return target.ipv4 is None or target.ipv6 is None


def choose_addresses(target: StunTarget, lookup: Lookup | None) -> dict[Family, str]:
    """Return the same from a lookup of the server's host; None when there is none."""
    looked_up: dict[Family, tuple[str, ...]] = {}
    if lookup is not None:
        looked_up = {"ipv4": lookup.ipv4, "ipv6": lookup.ipv6}
    written: dict[Family, str | None] = {"ipv4": target.ipv4, "ipv6": target.ipv6}
    chosen = {
        family: next(iter(looked_up.get(family, ())), "") if text is None else text for family, text in written.items()
    }
    return {family: address for family, address in chosen.items() if address}


async def _ask(family: Family, address: str, port: int, deadline: float, clock: Clock) -> StunAttempt:
    try:
        answer = await stun_client.ask(address, port, deadline_seconds=deadline, clock=clock)
    except NoRouteError as error:
        return StunAttempt(family=family, address=address, no_route=True, failure=Failure.of(error))
    except ProbeError as error:
        return StunAttempt(family=family, address=address, failure=Failure.of(error))
    return StunAttempt(
        family=family,
        address=address,
        round_trip_seconds=answer.round_trip_seconds,
        attempts=answer.attempts,
        mapped_address=answer.mapped_address,
        mapped_port=answer.mapped_port,
    )
