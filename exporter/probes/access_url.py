"""Access URL: GET /healthz on fresh connections, one for each address family, and now and then
/api/v2/buildinfo to learn who answers. In: a target. Out: an `AccessURLResult`. Never judges.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from exporter.clock import Clock
from exporter.errors import Phase, ProbeError, Reason, WireError
from exporter.health.access_url import AccessURLResult, FamilyAttempt, Identity, URLProblem
from exporter.health.model import Failure
from exporter.net import coder_json, http, reach
from exporter.net.tls import load_ssl_context
from exporter.targets.model import AccessURLTarget
from exporter.targets.url_source import read_url
from exporter.wire.url import Origin, parse_origin

# Who answers hardly changes, and each request costs a connection: a new look at this pace is
# enough, and at once when the version changes or the answers look foreign.
IDENTITY_INTERVAL_SECONDS = 300.0
# `OK` is two bytes; a login page is a few thousand. What is beyond is not looked at.
MAX_BODY_BYTES = 64 * 1024


@dataclass(slots=True)
class IdentityMemory:
    """What one target's runs remember of who answered."""

    identity: Identity | None = None
    says_coder: bool | None = None
    asked_monotonic_seconds: float | None = None
    asked_version: str | None = None
    first_deployment_id: str | None = None


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
    try:
        lookup = await reach.look_up(origin.host, deadline_seconds=deadline, clock=clock)
    except ProbeError as error:
        return AccessURLResult(
            host=origin.host,
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
    result = AccessURLResult(
        host=origin.host, attempts=attempts, phase_seconds={}, measured_timestamp_seconds=clock.now()
    )
    best = result.best
    if best is not None and best.status is not None:
        await _learn_identity(best, origin, target, deadline, clock, memory)
    phases = lookup.phase_seconds | dict(best.phase_seconds if best is not None else {})
    return AccessURLResult(
        host=origin.host,
        attempts=attempts,
        says_coder=True if best is not None and best.coder_version else memory.says_coder,
        identity=memory.identity,
        expected_deployment_id=target.deployment_id or memory.first_deployment_id,
        phase_seconds=phases,
        measured_timestamp_seconds=result.measured_timestamp_seconds,
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
        ssl_context=await load_ssl_context(target.ca_file) if origin.tls else None,
        max_body_bytes=MAX_BODY_BYTES,
    )
    certificates = exchange.certificates
    error = exchange.error
    return FamilyAttempt(
        family=family,
        address=exchange.address,
        phase_seconds=exchange.phase_seconds,
        failure=None if error is None else Failure.of(error),
        no_route=exchange.no_route,
        status=exchange.status,
        location=exchange.headers.get("location"),
        redirect_host=_host_of(exchange.headers.get("location", ""), origin),
        body_ok=not exchange.body_truncated and exchange.body.strip() == b"OK",
        body_excerpt="" if exchange.body.strip() == b"OK" else coder_json.excerpt(exchange.body),
        coder_version=exchange.headers.get(coder_json.BUILD_VERSION_HEADER),
        certificate=certificates.leaf if certificates is not None else None,
        chain_certificate=certificates.chain if certificates is not None else None,
    )


def _host_of(location: str, origin: Origin) -> str | None:
    """Return the host that a Location names, in lower case; None for a path on the same server."""
    if not location:
        return None
    try:
        return parse_origin(f"{origin.scheme}:{location}" if location.startswith("//") else location).host
    except WireError:
        return None


async def _learn_identity(
    best: FamilyAttempt,
    origin: Origin,
    target: AccessURLTarget,
    deadline: float,
    clock: Clock,
    memory: IdentityMemory,
) -> None:
    """Ask /api/v2/buildinfo when it is due, and remember what it says.

    An answer that is not Coder's settles that too; no answer at all settles nothing.
    """
    foreign = best.coder_version is None
    due = (
        memory.asked_monotonic_seconds is None
        or clock.monotonic() - memory.asked_monotonic_seconds >= IDENTITY_INTERVAL_SECONDS
        or best.coder_version != memory.asked_version
        or foreign
    )
    if not due:
        return
    exchange = await http.get(
        origin,
        "/api/v2/buildinfo",
        address=best.address,
        deadline_seconds=deadline,
        clock=clock,
        ssl_context=await load_ssl_context(target.ca_file) if origin.tls else None,
        max_body_bytes=MAX_BODY_BYTES,
    )
    memory.says_coder = None
    if exchange.error is not None or exchange.status is None:
        return
    try:
        if exchange.status != 200:
            raise WireError("not an answer of build info")
        identity = coder_json.parse_build_info(exchange.body)
    except WireError:
        # a server in trouble may refuse this too: only an answer in good order says "not Coder"
        if exchange.status < 500 and exchange.status != 429:
            memory.says_coder = coder_json.BUILD_VERSION_HEADER in exchange.headers
        return
    memory.says_coder = True
    memory.identity = identity
    memory.asked_monotonic_seconds = clock.monotonic()
    memory.asked_version = best.coder_version
    if memory.first_deployment_id is None:
        memory.first_deployment_id = identity.deployment_id


def _nowhere(problem: URLProblem, message: str, clock: Clock, expected: str | None) -> AccessURLResult:
    return AccessURLResult(
        host="",
        url_problem=problem,
        failure=Failure(reason=Reason.RESOLVE, phase=Phase.RESOLVE, message=message),
        expected_deployment_id=expected,
        phase_seconds={},
        measured_timestamp_seconds=clock.now(),
    )
