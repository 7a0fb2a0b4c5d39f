"""This host as the kernel knows it: default routes, interfaces, and whether an address has a route.

In: nothing, or an address. Out: `HostState`. Nothing is sent to anybody. What the system does not tell
is None, never False.

Source: Linux, net/ipv4/fib_trie.c (fib_route_seq_show), net/ipv6/route.c (rt6_info_route)
"""

from __future__ import annotations

import asyncio
import ipaddress
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from exporter.errors import ProbeError
from exporter.net.interfaces import find_local_address, read_interfaces

_IPV4_ROUTES = Path("/proc/net/route")
_IPV6_ROUTES = Path("/proc/net/ipv6_route")
# Source: Linux, include/uapi/linux/route.h
_RTF_UP = 0x0001
_RTF_REJECT = 0x0200


@dataclass(frozen=True, slots=True, kw_only=True)
class HostState:
    """This host's network at a moment.

    Args:
        default_route_ipv4, default_route_ipv6: The main table has a default route that is up; None where
            the system does not tell.
        interfaces_up: Names of interfaces that are switched on, besides loopback; None when not known.
        routed: The kernel has a route to one of the addresses that it was asked for; None when it was
            asked for none.
    """

    default_route_ipv4: bool | None = None
    default_route_ipv6: bool | None = None
    interfaces_up: tuple[str, ...] | None = None
    routed: bool | None = None


async def read_host_state(addresses: Iterable[str] = ()) -> HostState:
    """Return the state of this host (of its network namespace). Never raises.

    Args:
        addresses: IP addresses whose routes are asked for, for hosts that need no default route.
    """
    asked = tuple(addresses)
    try:
        up = tuple(each.name for each in await read_interfaces() if each.up and not each.loopback)
    except ProbeError:
        up = None
    ipv4, ipv6 = await asyncio.to_thread(_read_default_routes)
    return HostState(
        default_route_ipv4=ipv4,
        default_route_ipv6=ipv6,
        interfaces_up=up,
        routed=any(has_route(address) for address in asked) if asked else None,
    )


def has_route(address: str) -> bool:
    """Whether the kernel would send to an IP address. Sends nothing, waits for nothing."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    return find_local_address(parsed) is not None


def parse_ipv4_routes(text: str) -> bool:
    """Tell whether a table as /proc/net/route shows it has a default route.

    A line: interface, destination, gateway, flags, references, use, metric, mask, ...; numbers in
    hexadecimal digits.
    """
    for line in text.splitlines()[1:]:
        fields = line.split()
        if len(fields) >= 8 and _is_zero(fields[1]) and _is_zero(fields[7]) and _leads_on(fields[3]):
            return True
    return False


def parse_ipv6_routes(text: str) -> bool:
    """Tell whether a table as /proc/net/ipv6_route shows it has a default route.

    A line: destination, its prefix length, source, its prefix length, next hop, metric, references,
    use, flags, interface; numbers in hexadecimal digits.
    """
    for line in text.splitlines():
        fields = line.split()
        if len(fields) == 10 and _is_zero(fields[0]) and _is_zero(fields[1]) and _leads_on(fields[8]):
            return True
    return False


def _is_zero(digits: str) -> bool:
    return not digits.strip("0")


def _leads_on(flags: str) -> bool:
    try:
        number = int(flags, 16)
    except ValueError:
        return False
    return bool(number & _RTF_UP) and not number & _RTF_REJECT


def _read_default_routes() -> tuple[bool | None, bool | None]:
    if sys.platform != "linux":
        return None, None
    try:
        ipv4 = parse_ipv4_routes(_IPV4_ROUTES.read_text())
    except OSError:
        return None, None
    try:
        return ipv4, parse_ipv6_routes(_IPV6_ROUTES.read_text())
    except OSError:
        return ipv4, False  # a kernel without IPv6 has no such file
