"""This host's network interfaces, and the one that the kernel uses towards an address.

In: nothing, or an IP address. Out: `Interface` values, a `RouteInterface`. Nothing is sent to
anybody.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import psutil

from exporter.errors import ProbeError, Reason
from exporter.net.netlink import find_out_interface

# What the kernel calls the kind of an interface that carries packets inside others: no link layer
# (tun, WireGuard, IPsec), PPP, IP in IP, IPv6 in IPv6, IPv6 in IPv4, GRE over IPv4 and over IPv6.
# Source: Linux, include/uapi/linux/if_arp.h, ARPHRD_*
_TUNNEL_TYPES = {65534, 512, 768, 769, 776, 778, 823}
# A modem has no link layer either. Source: Linux, drivers/net/usb/qmi_wwan.c
_NO_TUNNEL_KINDS = {"wwan"}
_SYSFS = Path("/sys/class/net")
_LINK_LOCAL_MULTICAST = ipaddress.IPv4Network("224.0.0.0/24")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

# Any port: connecting a datagram socket only asks for the route.
_ANY_PORT = 9


@dataclass(frozen=True, slots=True, kw_only=True)
class Interface:
    """A network interface.

    Args:
        mtu_bytes: Of the packets that it carries; below 1 where the system does not say.
        up: It is switched on, whether or not a cable is in.
        tunnel: By the kernel's word for its kind; False where that is not to be had (not Linux).
        addresses: As `address/prefix length`.
    """

    name: str
    mtu_bytes: int
    up: bool
    loopback: bool
    tunnel: bool = False
    addresses: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteInterface:
    """The interface towards an address, and the address of this host that the other side would see
    if nothing on the way changed it."""

    name: str
    local_address: str


async def read_interfaces() -> tuple[Interface, ...]:
    """Return all interfaces of this host (of its network namespace) by name. Read in a thread.

    Raises:
        ProbeError: The system does not tell.
    """
    try:
        return await asyncio.to_thread(_read_interfaces)
    except (OSError, psutil.Error) as error:
        raise ProbeError(f"this host's interfaces cannot be listed: {error}", reason=Reason.INTERNAL) from error


def has_usable_address(interface: Interface) -> bool:
    """Tell whether it has an address that is not link-local: those without do not count for MTU.

    Source: Coder codersdk/healthsdk/interfaces.go
    """
    addresses = (ipaddress.ip_interface(text).ip for text in interface.addresses)
    return any(not (address.is_link_local or _is_link_local_multicast(address)) for address in addresses)


def find_route_interface(destination: str, interfaces: Iterable[Interface]) -> RouteInterface | None:
    """Return the interface by which the kernel sends to an IP address; None without a route.

    Linux tells it. Elsewhere it is the interface that owns the local address: the first one, when
    several do. Sends nothing, waits for nothing.

    Args:
        destination: Without a zone.
        interfaces: What `read_interfaces` returned.

    Raises:
        ValueError: The destination is no IP address.
    """
    address = _unmap(ipaddress.ip_address(destination))
    local_address = find_local_address(address)
    if local_address is None:
        return None
    name = find_out_interface(address) or _find_owner(local_address, interfaces)
    return None if name is None else RouteInterface(name=name, local_address=local_address)


def find_local_address(address: Address) -> str | None:
    """Return what the kernel would send from; None without a route. A datagram socket asks for the
    route when it is connected: nothing is sent."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as asking:
            asking.setblocking(False)
            asking.connect((str(address), _ANY_PORT))
            return str(ipaddress.ip_address(asking.getsockname()[0].partition("%")[0]))
    except OSError:
        return None


def _find_owner(local_address: str, interfaces: Iterable[Interface]) -> str | None:
    wanted = ipaddress.ip_address(local_address)
    owners = (
        interface.name
        for interface in interfaces
        if any(ipaddress.ip_interface(text).ip == wanted for text in interface.addresses)
    )
    return next(owners, None)


def _unmap(address: Address) -> Address:
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def _is_link_local_multicast(address: Address) -> bool:
    if isinstance(address, ipaddress.IPv4Address):
        return address in _LINK_LOCAL_MULTICAST
    return address.is_multicast and address.packed[1] & 0x0F == 2  # the scope; RFC 4291, section 2.7


# all interfaces


def _read_interfaces() -> tuple[Interface, ...]:
    addresses = psutil.net_if_addrs()
    return tuple(
        Interface(
            name=name,
            mtu_bytes=stats.mtu,
            # its `isup` is about the cable, too: what is switched on is up all the same
            up="up" in flags if (flags := stats.flags.split(",")) != [""] else stats.isup,
            loopback="loopback" in flags,
            tunnel=sys.platform == "linux" and is_tunnel(_SYSFS / name),
            addresses=tuple(
                _write_address(entry.address, entry.netmask)
                for entry in addresses.get(name, ())
                if entry.family in (socket.AF_INET, socket.AF_INET6)
            ),
        )
        for name, stats in sorted(psutil.net_if_stats().items())
    )


def _write_address(text: str, netmask: str | None) -> str:
    address = ipaddress.ip_address(text.partition("%")[0])
    return f"{address}/{_count_prefix(netmask, address.max_prefixlen)}"


def _count_prefix(netmask: str | None, longest: int) -> int:
    """Return the prefix length of a mask; a whole address where there is none (point to point)."""
    if not netmask:
        return longest
    return int(ipaddress.ip_address(netmask)).bit_count()


def is_tunnel(entry: Path) -> bool:
    """Tell what kind an interface is by what the kernel shows of it. Gone meanwhile: no tunnel."""
    try:
        if (entry / "tun_flags").exists():  # tun and tap
            return True
        kind = int((entry / "type").read_text())
        event = (entry / "uevent").read_text().splitlines()
    except (OSError, ValueError):
        return False
    named = {line.removeprefix("DEVTYPE=") for line in event if line.startswith("DEVTYPE=")}
    return kind in _TUNNEL_TYPES and not named & _NO_TUNNEL_KINDS
