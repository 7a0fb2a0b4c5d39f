"""Who answers at the address of a replica: asked without any token, before one is sent there.

In: an address. Out: who it says it is, and at which IP address. Somebody else who answers is told apart
from nobody who does.

Source: coder-interfaces, sections 3 and 5.1
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from exporter.clock import Clock
from exporter.errors import ProbeError, ProtocolError, Reason, WireError
from exporter.health.access_url import Identity
from exporter.net import coder_json, http, reach
from exporter.net.coder_json import BUILD_VERSION_HEADER
from exporter.wire.url import Origin

PATH = "/api/v2/buildinfo"
MAX_BODY_BYTES = 64 * 1024


class StrangerError(ProbeError):
    """Somebody answered who is no server of Coder's, or none that we know."""

    reason = Reason.PROTOCOL


@dataclass(frozen=True, slots=True, kw_only=True)
class Introduction:
    """Who somebody says it is. `address` is the IP address at which it did."""

    identity: Identity
    address: str

    def is_of(self, deployment_id: str) -> bool:
        """Say whether this is coderd of a deployment; an empty id is that of servers which tell none."""
        return not self.identity.workspace_proxy and (self.identity.deployment_id or "") == deployment_id


async def identify(
    server: Origin, access_origin: Origin, *, ca_file: Path | None, clock: Clock, deadline_seconds: float
) -> Introduction:
    """Ask a server who it is, under the name of the access URL.

    Raises:
        StrangerError: An answer came, and not from Coder.
        ProbeError: Nobody answered, or Coder is in trouble.
    """
    exchange = await reach.get(
        access_origin,
        PATH,
        via=server,
        deadline_seconds=deadline_seconds,
        clock=clock,
        ca_file=ca_file,
        max_body_bytes=MAX_BODY_BYTES,
    )
    asked = f"GET {PATH} of {server}"
    if exchange.status is None:
        assert exchange.error is not None
        if isinstance(exchange.error, ProtocolError):
            raise StrangerError(exchange.error.message, phase=exchange.error.phase)
        raise exchange.error
    if exchange.status != 200:
        kind = ProbeError if _is_trouble(exchange) else StrangerError
        raise kind(f"{asked} answered status {exchange.status}", reason=Reason.STATUS)
    if exchange.error is not None:
        raise exchange.error
    try:
        identity = coder_json.parse_build_info(exchange.body)
    except WireError as error:
        raise StrangerError(f"{asked} answered: {error}", reason=Reason.BODY) from error
    return Introduction(identity=identity, address=exchange.address)


def _is_trouble(exchange: http.Exchange) -> bool:
    """Say whether Coder itself cannot answer now: by its header, or by its words."""
    status = exchange.status or 0
    signed = BUILD_VERSION_HEADER in exchange.headers or coder_json.parse_error(exchange.body).from_coder
    return signed and (status >= 500 or status == 429)
