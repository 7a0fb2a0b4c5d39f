"""One replica of coderd by itself: GET /healthz at its own address, for the host of the access URL.
In: a target. Out: a `ReplicaResult`. Never judges, and never has a token.
"""

from __future__ import annotations

from exporter.clock import Clock
from exporter.errors import Phase, ProbeError, Reason, WireError
from exporter.health.model import Failure
from exporter.health.replica import ReplicaResult
from exporter.net import coder_json, http, reach
from exporter.targets.model import ReplicaTarget
from exporter.targets.url_source import read_url
from exporter.wire.url import Origin, parse_origin, read_location

PATH = "/healthz"
MAX_BODY_BYTES = 64 * 1024


async def probe(target: ReplicaTarget, *, clock: Clock) -> ReplicaResult:
    """Ask the replica within the target's timeout."""
    deadline = clock.monotonic() + target.timeout_seconds
    replica = target.replica
    try:
        via = parse_origin(replica.url)
        origin = await _find_origin(target, via)
    except WireError as error:
        message = f"the URL of the replica is invalid: {error}"
        failure = Failure(reason=Reason.RESOLVE, phase=Phase.RESOLVE, message=message)
        return ReplicaResult(name=replica.name, url=replica.url, failure=failure)
    exchange = await reach.get(
        origin,
        PATH,
        via=via,
        deadline_seconds=deadline,
        clock=clock,
        ca_file=target.ca_file,
        max_body_bytes=MAX_BODY_BYTES,
    )
    return ReplicaResult(
        name=replica.name,
        url=replica.url,
        address=exchange.address or None,
        status=exchange.status,
        coder_version=coder_json.read_version(exchange.headers) or "",
        failure=_find_failure(exchange, replica.url),
        phase_seconds=exchange.phase_seconds,
    )


async def _find_origin(target: ReplicaTarget, replica: Origin) -> Origin:
    """Return whom to ask for: the access URL, else, while nobody can tell it, the replica's own host."""
    try:
        return parse_origin(await read_url(target.access_url))
    except (ProbeError, WireError):
        return replica


def _find_failure(exchange: http.Exchange, url: str) -> Failure | None:
    asked = f"GET {PATH} of {url}"
    if exchange.error is not None:
        return Failure.of(exchange.error)
    if exchange.status != 200:
        where = ""
        if "location" in exchange.headers:
            where = f" to {read_location(exchange.headers['location'], url.partition(':')[0]).text}"
        message = f"{asked} answered status {exchange.status}{where}"
        return Failure(reason=Reason.STATUS, phase=Phase.PROCESSING, message=message)
    if exchange.body_truncated or exchange.body.strip() != b"OK":
        message = f"{asked} answered 200, but not OK: {coder_json.excerpt(exchange.body)}"
        return Failure(reason=Reason.BODY, phase=Phase.TRANSFER, message=message)
    return None
