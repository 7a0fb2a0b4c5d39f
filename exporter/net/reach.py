"""Requests to a server by its name: a fresh lookup, then its addresses one after the other.

In: an origin and a deadline. Out: what `net.http` and `net.websocket` give, with the time of the
lookup. Probes that tell address families apart do this themselves.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from exporter.clock import Clock
from exporter.errors import ConnectError, DeadlineError, Phase, ProbeError, TLSError
from exporter.net import http, resolver, websocket
from exporter.net.tls import load_ssl_context
from exporter.wire.url import Origin

# A name with many dead addresses must not eat the whole budget.
MAX_ADDRESSES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Lookup:
    """Addresses by family. `seconds` is None for an address that needed no lookup."""

    ipv4: tuple[str, ...]
    ipv6: tuple[str, ...]
    seconds: float | None

    @property
    def phase_seconds(self) -> dict[Phase, float]:
        return {} if self.seconds is None else {Phase.RESOLVE: self.seconds}

    @property
    def all(self) -> tuple[str, ...]:
        """IPv6 first, as RFC 6724 has it, the families in turn."""
        mixed = [
            address
            for index in range(max(len(self.ipv4), len(self.ipv6)))
            for family in (self.ipv6, self.ipv4)
            for address in family[index : index + 1]
        ]
        return tuple(mixed[:MAX_ADDRESSES])


async def look_up(host: str, *, deadline_seconds: float, clock: Clock) -> Lookup:
    """Return the addresses of a host, asked afresh.

    Raises:
        ResolveError: It has none.
        DeadlineError: Nobody answered in time.
    """
    started = clock.monotonic()
    addresses = await resolver.resolve(host, timeout_seconds=max(0.0, deadline_seconds - started))
    literal = host in addresses.ipv4 or host in addresses.ipv6
    seconds = None if literal else clock.monotonic() - started
    return Lookup(ipv4=addresses.ipv4, ipv6=addresses.ipv6, seconds=seconds)


async def get(
    origin: Origin,
    path: str,
    *,
    deadline_seconds: float,
    clock: Clock,
    ca_file: Path | None,
    headers: Mapping[str, str] | None = None,
    max_body_bytes: int = http.MAX_BODY_BYTES,
    via: Origin | None = None,
    connect_deadline_seconds: float | None = None,
) -> http.Exchange:
    """GET from the first address that takes a connection. Trouble is in the exchange's `error`.

    Args:
        connect_deadline_seconds: Until when somebody has to have taken the connection, where an answer
            may take much longer than that; None for the whole deadline.
        via: Whom to look up and to connect to instead, one replica of the origin's servers, in its own
            scheme and on its own port. The Host header and the name in TLS stay those of the origin.
    """
    try:
        until = deadline_seconds if connect_deadline_seconds is None else connect_deadline_seconds
        lookup = await look_up((via or origin).host, deadline_seconds=min(until, deadline_seconds), clock=clock)
    except ProbeError as error:
        return http.Exchange(address="", phase_seconds={}, error=error)
    exchange = await get_from(
        lookup.all,
        origin,
        path,
        deadline_seconds=deadline_seconds,
        clock=clock,
        ca_file=ca_file,
        headers=headers,
        max_body_bytes=max_body_bytes,
        via=via,
        connect_deadline_seconds=connect_deadline_seconds,
    )
    return replace(exchange, phase_seconds=lookup.phase_seconds | dict(exchange.phase_seconds))


async def get_from(
    addresses: tuple[str, ...],
    origin: Origin,
    path: str,
    *,
    deadline_seconds: float,
    clock: Clock,
    ca_file: Path | None,
    headers: Mapping[str, str] | None = None,
    max_body_bytes: int = http.MAX_BODY_BYTES,
    verify: bool = True,
    certificate_name: str | None = None,
    via: Origin | None = None,
    connect_deadline_seconds: float | None = None,
) -> http.Exchange:
    """GET from the first of these addresses that takes a connection; at least one is needed.

    Args:
        ca_file: PEM file trusted besides the system's authorities, for https.
        verify, certificate_name: As of `tls.load_ssl_context`.
        via: As of `get`: whose addresses these are, with its scheme and port.
        connect_deadline_seconds: As of `get`.
    """
    until = deadline_seconds if connect_deadline_seconds is None else connect_deadline_seconds
    context = None
    # the host is what TLS asks for and verifies; where to connect is the address
    server = origin if via is None else Origin(scheme=via.scheme, host=origin.host, port=via.port)
    try:
        if server.tls:
            context = await load_ssl_context(ca_file, verify=verify, certificate_name=certificate_name)
    except TLSError as error:
        return http.Exchange(address=addresses[0], phase_seconds={}, error=error)
    for index, address in enumerate(addresses):
        exchange = await http.get(
            server,
            path,
            address=address,
            deadline_seconds=deadline_seconds,
            connect_deadline_seconds=share(len(addresses) - index, min(until, deadline_seconds), clock)
            or connect_deadline_seconds,
            clock=clock,
            ssl_context=context,
            headers=headers,
            max_body_bytes=max_body_bytes,
            certificate_name=certificate_name,
            host_header=origin.host_header,
        )
        if not is_unconnected(exchange):
            break
    return exchange


async def open_websocket(
    origin: Origin,
    path: str,
    *,
    deadline_seconds: float,
    clock: Clock,
    ca_file: Path | None,
    headers: Mapping[str, str] | None = None,
) -> tuple[websocket.WebSocket | http.Exchange, Mapping[Phase, float]]:
    """Open a websocket to the first address that takes a connection.

    Returns the socket, or the exchange that was no upgrade; and the phases, the lookup's with them.
    """
    try:
        lookup = await look_up(origin.host, deadline_seconds=deadline_seconds, clock=clock)
        context = await load_ssl_context(ca_file) if origin.tls else None
    except ProbeError as error:
        return http.Exchange(address="", phase_seconds={}, error=error), {}
    for index, address in enumerate(lookup.all):
        opened = await websocket.open_websocket(
            origin,
            path,
            address=address,
            deadline_seconds=deadline_seconds,
            connect_deadline_seconds=share(len(lookup.all) - index, deadline_seconds, clock),
            clock=clock,
            ssl_context=context,
            headers=headers,
        )
        if isinstance(opened, websocket.WebSocket) or not is_unconnected(opened):
            break
    return opened, lookup.phase_seconds | dict(opened.phase_seconds)


def share(left: int, deadline_seconds: float, clock: Clock) -> float | None:
    """Return until when one of so many addresses may try to connect: its share of what is left.
    None for the last one, which has no end of its own."""
    if left == 1:
        return None
    now = clock.monotonic()
    return now + (deadline_seconds - now) / left


def is_unconnected(exchange: http.Exchange) -> bool:
    error = exchange.error
    return isinstance(error, ConnectError) or (isinstance(error, DeadlineError) and error.phase is Phase.CONNECT)
