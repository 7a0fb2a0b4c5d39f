"""Access URL: GET /healthz on fresh connections, one for each address family, and now and then
/api/v2/buildinfo to learn who answers. In: a target. Out: an `AccessURLResult`. Never judges.
"""

from __future__ import annotations

import asyncio

from exporter.clock import Clock
from exporter.errors import Phase, ProbeError, Reason, WireError
from exporter.health.access_url import AccessURLResult, FamilyAttempt, URLProblem, choose_best
from exporter.health.model import Failure
from exporter.net import coder_json, reach
from exporter.probes.identity import IdentityMemory
from exporter.targets.model import AccessURLTarget
from exporter.targets.url_source import read_url
from exporter.wire.url import Origin, parse_origin, read_location

# `OK` is two bytes; a login page is a few thousand. What is beyond is not looked at.
MAX_BODY_BYTES = 64 * 1024


async def probe(target: AccessURLTarget, *, clock: Clock, memory: IdentityMemory) -> AccessURLResult:
    """Probe the access URL within the target's timeout."""
    deadline = clock.monotonic() + target.timeout_seconds
    expected = target.deployment_id or memory.first_deployment_id
    try:
        text = await read_url(target.access_url)
    except ProbeError as error:
        return _nowhere(URLProblem.MISSING, error.message, clock, expected)
    if not text:
        return _nowhere(URLProblem.MISSING, "no access URL is configured: its file is empty", clock, expected)
    try:
        origin = parse_origin(text)
    except WireError as error:
        return _nowhere(URLProblem.INVALID, f"the access URL is invalid: {error}", clock, expected)
    memory.begin(origin)
    expected = target.deployment_id or memory.first_deployment_id
    try:
        lookup = await reach.look_up(origin.host, deadline_seconds=deadline, clock=clock)
    except ProbeError as error:
        return AccessURLResult(
            host=origin.host,
            tls=origin.tls,
            failure=Failure.of(error),
            identity=memory.identity,
            expected_deployment_id=expected,
            phase_seconds={},
            measured_timestamp_seconds=clock.now(),
        )
    families = [(family, found) for family, found in (("ipv6", lookup.ipv6), ("ipv4", lookup.ipv4)) if found]
    if len(families) == 1:
        # most often so, and a task of its own would cost a third of the attempt
        attempts: tuple[FamilyAttempt, ...] = (await _attempt(*families[0], origin, target, deadline, clock),)
    else:
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(_attempt(family, addresses, origin, target, deadline, clock))
                for family, addresses in families
            ]
        attempts = tuple(task.result() for task in tasks)
    measured_timestamp = clock.now()
    best = choose_best(attempts)
    if best is not None and best.status is not None:
        await memory.learn(best, origin, target, deadline_seconds=deadline, clock=clock)
    phases = lookup.phase_seconds | dict(best.phase_seconds if best is not None else {})
    return AccessURLResult(
        host=origin.host,
        tls=origin.tls,
        attempts=attempts,
        says_coder=True if best is not None and best.coder_version else memory.says_coder,
        identity=memory.identity,
        expected_deployment_id=target.deployment_id or memory.first_deployment_id,
        phase_seconds=phases,
        measured_timestamp_seconds=measured_timestamp,
    )


async def _attempt(
    family: str,
    addresses: tuple[str, ...],
    origin: Origin,
    target: AccessURLTarget,
    deadline: float,
    clock: Clock,
) -> FamilyAttempt:
    exchange = await reach.get_from(
        addresses[: reach.MAX_ADDRESSES],
        origin,
        "/healthz",
        deadline_seconds=deadline,
        clock=clock,
        ca_file=target.ca_file,
        max_body_bytes=MAX_BODY_BYTES,
    )
    certificates = exchange.certificates
    error = exchange.error
    location = None
    if "location" in exchange.headers:
        location = read_location(exchange.headers["location"], origin.scheme)
    return FamilyAttempt(
        family=family,
        address=exchange.address,
        phase_seconds=exchange.phase_seconds,
        failure=None if error is None else Failure.of(error),
        no_route=exchange.no_route,
        status=exchange.status,
        location=location.text if location is not None else None,
        redirect_host=location.host if location is not None else None,
        body_ok=not exchange.body_truncated and exchange.body.strip() == b"OK",
        body_excerpt="" if exchange.body.strip() == b"OK" else coder_json.excerpt(exchange.body),
        coder_version=coder_json.read_version(exchange.headers),
        certificate=certificates.leaf if certificates is not None else None,
        chain_certificate=certificates.chain if certificates is not None else None,
    )


def _nowhere(problem: URLProblem, message: str, clock: Clock, expected: str | None) -> AccessURLResult:
    return AccessURLResult(
        host="",
        url_problem=problem,
        failure=Failure(reason=Reason.RESOLVE, phase=Phase.RESOLVE, message=message),
        expected_deployment_id=expected,
        phase_seconds={},
        measured_timestamp_seconds=clock.now(),
    )
