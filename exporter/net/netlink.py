"""Linux's own word on which way a packet would go: one question over netlink.

In: an IP address. Out: the name of an interface. The kernel answers while it is asked, so nothing
waits. All numbers are in the host's byte order, addresses in the network's.

    question  header (16 bytes) RTM_GETROUTE, route (12 bytes), attribute RTA_DST: the address
    answer    header RTM_NEWROUTE, route, attributes, one of them RTA_OIF: number of the interface;
              or header NLMSG_ERROR

Source: rtnetlink(7), netlink(7); Linux, include/uapi/linux/rtnetlink.h
"""

from __future__ import annotations

import ipaddress
import socket
import struct
import sys
from collections.abc import Iterator

_HEADER = struct.Struct("=IHHII")  # length of the whole, type, flags, sequence, port id
_ROUTE = struct.Struct("=BBBBBBBBI")  # family, bits of destination and source, and more that is zero
_ATTRIBUTE = struct.Struct("=HH")  # length with this header, type
_INDEX = struct.Struct("=I")

_NLM_F_REQUEST = 1
_RTM_NEWROUTE = 24
_RTM_GETROUTE = 26
_RTA_DST = 1
_RTA_OIF = 4
_MAX_ANSWER_BYTES = 8192


def find_out_interface(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> str | None:
    """Return the interface of the route to an address, also where the local address of that route is
    another interface's (one on lo, or of an unnumbered tunnel).

    None when nobody tells: no route, not Linux, or a sandbox that answers no such question.
    """
    if sys.platform != "linux":
        return None
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as kernel:
            kernel.setblocking(False)
            kernel.sendto(build_route_question(address), (0, 0))
            index = parse_route_answer(kernel.recv(_MAX_ANSWER_BYTES))
        return None if index is None else socket.if_indextoname(index)
    except OSError:
        return None


def build_route_question(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bytes:
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    body = _ROUTE.pack(family, address.max_prefixlen, 0, 0, 0, 0, 0, 0, 0)
    body += _ATTRIBUTE.pack(_ATTRIBUTE.size + len(address.packed), _RTA_DST) + address.packed
    return _HEADER.pack(_HEADER.size + len(body), _RTM_GETROUTE, _NLM_F_REQUEST, 1, 0) + body


def parse_route_answer(data: bytes) -> int | None:
    """Return the number of the interface; None when the answer names none."""
    if len(data) < _HEADER.size + _ROUTE.size:
        return None
    length, kind, _flags, _sequence, _port = _HEADER.unpack_from(data)
    if kind != _RTM_NEWROUTE:
        return None
    for attribute, value in _walk_attributes(data[_HEADER.size + _ROUTE.size : length]):
        if attribute == _RTA_OIF and len(value) == _INDEX.size:
            return int(_INDEX.unpack(value)[0])
    return None


def _walk_attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    position = 0
    while position + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, position)
        if length < _ATTRIBUTE.size:
            return
        yield kind, data[position + _ATTRIBUTE.size : position + length]
        position += (length + 3) & ~3
