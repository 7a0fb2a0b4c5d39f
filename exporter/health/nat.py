"""The address mapping of this host, judged from what STUN servers say they see: does it vary by
destination (hard NAT)? In: replies to one socket. Out: a `Mapping`.

Coder's own check counts the replies of one server twice and says False of a single destination;
here that is not known. Source: derp-stun, sections 5.3 and 9.5.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import combinations


@dataclass(frozen=True, slots=True, kw_only=True)
class Mapping:
    """What the replies tell.

    `varies`: True when two destinations see different mappings, False when all see the same; None
    when that is not known. `unstable`: one destination saw several mappings, so the mapping
    changes by itself, which says nothing about destinations.
    """

    varies: bool | None
    unstable: bool


def judge_mapping(replies: Iterable[tuple[str, str, int]]) -> Mapping:
    """Judge replies, each as the destination's IP address, the mapped IP address and port, all to one
    socket. Replies over IPv6 never count: there is no NAT to be judged.

    Mappings of an unstable NAT are compared by what destinations have in common: two that both saw
    one mapping do not show that it depends on the destination, nor that it does not.
    """
    seen: dict[ipaddress.IPv4Address, set[tuple[ipaddress.IPv4Address, int]]] = {}
    for destination, mapped, port in replies:
        destination_ipv4, mapped_ipv4 = _read_ipv4(destination), _read_ipv4(mapped)
        if destination_ipv4 is not None and mapped_ipv4 is not None:
            seen.setdefault(destination_ipv4, set()).add((mapped_ipv4, port))
    groups = list(seen.values())
    varies: bool | None = None
    if len(groups) >= 2:
        if all(group == groups[0] for group in groups):
            varies = False
        elif any(one.isdisjoint(other) for one, other in combinations(groups, 2)):
            varies = True
    return Mapping(varies=varies, unstable=any(len(group) > 1 for group in groups))


def _read_ipv4(text: str) -> ipaddress.IPv4Address | None:
    """A server bound to all addresses may tell an IPv4 address in its IPv6 form (P9)."""
    address = ipaddress.ip_address(text)
    if isinstance(address, ipaddress.IPv6Address):
        return address.ipv4_mapped
    return address
