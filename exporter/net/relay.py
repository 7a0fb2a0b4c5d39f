"""A DERP relay by its name: one lookup, then as many clients as are wanted.

In: an origin and how it is verified. Out: clients that are logged in, or the exchange that tells
why not. The clients of one check go to the same lookup, so its time is told once.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from exporter.clock import Clock
from exporter.errors import Phase
from exporter.net import reach
from exporter.net.derp_client import DerpConnection, open_derp
from exporter.net.http import Exchange
from exporter.net.reach import Lookup
from exporter.net.tls import load_ssl_context
from exporter.wire.derp_frames import Transport
from exporter.wire.url import Origin


@dataclass(frozen=True, slots=True, kw_only=True)
class Relay:
    """A relay that was looked up.

    Args:
        certificate_name: What its certificate must bear when it is not the host's name, or a pin
            (`sha256-raw:<hex>`); None: the host's name.
        ssl_context: Loaded for that name; None for plain HTTP.
    """

    origin: Origin
    lookup: Lookup
    certificate_name: str | None
    ssl_context: ssl.SSLContext | None

    @property
    def phase_seconds(self) -> Mapping[Phase, float]:
        """Of the lookup."""
        return self.lookup.phase_seconds


async def find_relay(
    origin: Origin,
    *,
    address: str | None = None,
    lookup: Lookup | None = None,
    certificate_name: str | None = None,
    insecure: bool = False,
    ca_file: Path | None = None,
    deadline_seconds: float,
    clock: Clock,
) -> Relay:
    """Look a relay up.

    Args:
        address: An IP address, or another name to look up.
        lookup: One that was done already, of the address or the origin's host.
        insecure: Do not verify its certificate, as the map says.

    Raises:
        ResolveError, DeadlineError: It has no address, or nobody said so in time.
        TLSError: The `ca_file` cannot be read.
    """
    certificate_name = None if insecure else certificate_name
    context = None
    if origin.tls:
        context = await load_ssl_context(ca_file, verify=not insecure, certificate_name=certificate_name)
    if lookup is None:
        lookup = await reach.look_up(address or origin.host, deadline_seconds=deadline_seconds, clock=clock)
    return Relay(
        origin=origin,
        lookup=lookup,
        certificate_name=certificate_name if origin.tls else None,
        ssl_context=context,
    )


async def log_in(
    relay: Relay, transport: Transport, *, deadline_seconds: float, clock: Clock
) -> DerpConnection | Exchange:
    """Log in with a fresh key at the first address that takes a connection. Raises no ProbeError."""
    addresses = relay.lookup.all
    for index, address in enumerate(addresses):
        opened = await open_derp(
            relay.origin,
            address=address,
            transport=transport,
            deadline_seconds=deadline_seconds,
            connect_deadline_seconds=reach.share(len(addresses) - index, deadline_seconds, clock),
            clock=clock,
            ssl_context=relay.ssl_context,
            certificate_name=relay.certificate_name,
        )
        if isinstance(opened, DerpConnection) or not reach.is_unconnected(opened):
            break
    return opened
