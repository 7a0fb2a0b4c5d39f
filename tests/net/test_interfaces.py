"""Interfaces of this host, and of a network of our own with a tunnel in it."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from exporter.errors import ProbeError, Reason
from exporter.net.interfaces import (
    Interface,
    RouteInterface,
    find_route_interface,
    has_usable_address,
    is_tunnel,
    read_interfaces,
)
from tests.conftest import skip_or_fail

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="the kernel's own word is Linux's")


def interface(name: str, *addresses: str) -> Interface:
    return Interface(name=name, mtu_bytes=1500, up=True, loopback=False, addresses=addresses)


async def test_the_loopback_of_this_host_is_read() -> None:
    """Every host has a loopback with 127.0.0.1; no name comes twice."""
    found = await read_interfaces()
    loopback = next(each for each in found if "127.0.0.1/8" in each.addresses)
    assert (True, True, False) == (loopback.up, loopback.loopback, loopback.tunnel)
    assert loopback.mtu_bytes >= 1280
    assert sorted({each.name for each in found}) == [each.name for each in found]


async def test_the_way_to_loopback() -> None:
    """What this host sends to itself goes over the loopback."""
    found = await read_interfaces()
    loopback = next(each for each in found if "127.0.0.1/8" in each.addresses)
    assert RouteInterface(name=loopback.name, local_address="127.0.0.1") == find_route_interface("127.0.0.1", found)
    # an IPv4 address is one, however it is written
    assert RouteInterface(name=loopback.name, local_address="127.0.0.1") == find_route_interface(
        "::ffff:127.0.0.1", found
    )


@pytest.mark.parametrize("destination", ["localhost", "127.0.0.1:80", ""])
def test_a_name_is_no_destination(destination: str) -> None:
    """Nothing is looked up here."""
    with pytest.raises(ValueError, match="does not appear to be an IPv4 or IPv6 address"):
        find_route_interface(destination, [])


def test_an_address_that_this_host_has_no_way_to() -> None:
    """A link-local address without its interface has no route."""
    assert find_route_interface("fe80::1", []) is None


@pytest.mark.parametrize(
    ("owners", "name"),
    [
        ([interface("a", "192.0.2.1/24"), interface("b", "127.0.0.1/8")], "b"),
        ([interface("a", "127.0.0.2/8"), interface("b", "127.0.0.1/32"), interface("c", "127.0.0.1/8")], "b"),
        ([interface("a", "127.0.0.2/8")], None),
        ([], None),
    ],
)
def test_without_the_kernels_word_the_owner_of_the_address_counts(
    monkeypatch: pytest.MonkeyPatch, owners: list[Interface], name: str | None
) -> None:
    """On other systems than Linux the interface is the first that has the local address."""
    monkeypatch.setattr(sys, "platform", "darwin")
    route = find_route_interface("127.0.0.1", owners)
    assert name == (route.name if route is not None else None)


@pytest.mark.parametrize(
    ("addresses", "usable"),
    [
        ([], False),
        (["169.254.3.4/16"], False),
        (["fe80::1/64"], False),
        (["224.0.0.5/32", "ff02::1/128"], False),
        (["fe80::1/64", "192.0.2.1/24"], True),
        (["127.0.0.1/8"], True),
        (["ff05::1/128"], True),
        (["fd00::1/64"], True),
    ],
)
def test_an_interface_counts_by_its_addresses(addresses: list[str], usable: bool) -> None:
    """Link-local addresses alone, also those of multicast, do not make an interface count."""
    assert usable == has_usable_address(interface("a", *addresses))


@pytest.mark.parametrize(
    ("kind", "event", "tun_flags", "tunnel"),
    [
        ("1", "INTERFACE=eth0", False, False),
        ("772", "INTERFACE=lo", False, False),
        ("1", "INTERFACE=tap0", True, True),
        ("65534", "INTERFACE=tun0", True, True),
        ("65534", "DEVTYPE=wireguard\nINTERFACE=wg0", False, True),
        ("65534", "DEVTYPE=wwan\nINTERFACE=wwan0", False, False),
        ("512", "DEVTYPE=ppp\nINTERFACE=ppp0", False, True),
        ("768", "", False, True),
        ("769", "", False, True),
        ("776", "", False, True),
        ("778", "", False, True),
        ("823", "", False, True),
        ("1", "DEVTYPE=bridge", False, False),
        ("what", "", False, False),
    ],
)
def test_a_tunnel_is_told_by_its_kind(tmp_path: Path, kind: str, event: str, tun_flags: bool, tunnel: bool) -> None:
    """What the kernel shows of an interface tells whether it carries packets inside others."""
    (tmp_path / "type").write_text(kind + "\n")
    (tmp_path / "uevent").write_text(event + "\n")
    if tun_flags:
        (tmp_path / "tun_flags").write_text("0x1001\n")
    assert tunnel == is_tunnel(tmp_path)
    assert not is_tunnel(tmp_path / "gone")


async def test_a_system_that_does_not_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trouble of this host is an error of the tree, named as such."""

    def refuse() -> dict[str, Any]:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(psutil, "net_if_stats", refuse)
    with pytest.raises(ProbeError, match="cannot be listed") as caught:
        await read_interfaces()
    assert Reason.INTERNAL is caught.value.reason


async def test_no_socket_is_left_open() -> None:
    """Looking for a way, found or not, leaves no file descriptor behind."""
    found = await read_interfaces()
    # which, not how many: a resolver of an earlier test may be closed by its thread meanwhile
    before = set(os.listdir("/dev/fd"))
    for destination in ("127.0.0.1", "::1", "fe80::1") * 10:
        find_route_interface(destination, found)
    assert set() == set(os.listdir("/dev/fd")) - before


# a network of our own

_BUILD = """
set -e
mount -t sysfs sysfs /sys
ip link set lo up
ip address add 198.51.100.7/32 dev lo
ip tuntap add dev chx-vpn mode tun
ip address add 198.51.100.2/32 dev chx-vpn
ip -6 address add fd00:1::2/128 dev chx-vpn nodad
ip link set chx-vpn mtu 1280 up
ip route add 203.0.113.0/24 dev chx-vpn
ip -6 route add fd00:2::/64 dev chx-vpn
ip tuntap add dev chx-tap mode tap
ip address add 198.51.100.2/32 dev chx-tap
ip link add chx-veth type veth peer name chx-peer
ip address add 192.0.2.1/24 dev chx-veth
ip link set chx-veth up
ip link set chx-peer up
ip route add 203.0.113.128/25 dev chx-veth src 198.51.100.7
"""
_SHOW = """
import asyncio, dataclasses, json
from exporter.net.interfaces import find_route_interface, read_interfaces
found = asyncio.run(read_interfaces())
ways = {}
for destination in ("203.0.113.9", "fd00:2::9", "203.0.113.200", "192.0.2.9", "233.252.0.1", "2001:db8::1"):
    route = find_route_interface(destination, found)
    ways[destination] = None if route is None else [route.name, route.local_address]
print(json.dumps([[dataclasses.asdict(each) for each in found], ways]))
"""


@linux_only
async def test_a_tunnel_on_the_way_is_seen(need_tool: Callable[[str], str]) -> None:
    """In a network namespace the tunnel is read with its MTU, and what goes over it is told: over IPv4,
    over IPv6, with an address that two interfaces have, and with one that is the loopback's."""
    unshare, ip = need_tool("unshare"), need_tool("ip")
    script = f'{_BUILD}exec {sys.executable} -c "$SHOW"\n'
    process = await asyncio.create_subprocess_exec(
        *(unshare, "--map-root-user", "--net", "--mount", "sh", "-c", script),
        env=os.environ | {"SHOW": _SHOW, "PATH": f"{Path(ip).parent}:{os.environ['PATH']}"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    stdout, stderr = await process.communicate()
    if not stdout:
        assert b"Traceback" not in stderr
        skip_or_fail(f"no network namespace to be had here: {stderr.decode(errors='replace').strip()[-200:]}")
    shown, ways = json.loads(stdout)
    by_name = {each.pop("name"): each for each in shown}
    vpn, tap, veth = by_name["chx-vpn"], by_name["chx-tap"], by_name["chx-veth"]
    assert (1280, True, True, False) == (vpn["mtu_bytes"], vpn["up"], vpn["tunnel"], vpn["loopback"])
    assert {"198.51.100.2/32", "fd00:1::2/128"} <= set(vpn["addresses"])
    assert (False, True) == (tap["up"], tap["tunnel"])
    assert (1500, True, False) == (veth["mtu_bytes"], veth["up"], veth["tunnel"])
    assert ["127.0.0.1/8", "198.51.100.7/32"] == [text for text in by_name["lo"]["addresses"] if ":" not in text]
    assert {
        "203.0.113.9": ["chx-vpn", "198.51.100.2"],
        "fd00:2::9": ["chx-vpn", "fd00:1::2"],
        "203.0.113.200": ["chx-veth", "198.51.100.7"],
        "192.0.2.9": ["chx-veth", "192.0.2.1"],
        "233.252.0.1": None,
        "2001:db8::1": None,
    } == ways
