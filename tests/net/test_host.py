"""This host as the kernel knows it: tables as they are shown, and a network of our own that loses its way."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from exporter.net import host
from exporter.net.host import HostState, has_route, parse_ipv4_routes, parse_ipv6_routes, read_host_state
from tests.conftest import skip_or_fail

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="network namespaces are Linux's")

_HEAD = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n"
_ANY6 = "0" * 32
_NO_ROUTE6 = f"{_ANY6} 00 {_ANY6} 00 {_ANY6} ffffffff 00000001 00000000 00200200       lo\n"


@pytest.mark.parametrize(
    ("expected", "table"),
    [
        (True, _HEAD + "eth0\t00000000\t010011AC\t0003\t0\t0\t0\t00000000\t0\t0\t0\n"),
        (True, _HEAD + "eth0\t0000FEA9\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0\n"
                       "wg0\t00000000\t00000000\t0001\t0\t0\t0\t00000000\t0\t0\t0\n"),
        (False, _HEAD + "eth0\t0000FEA9\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0\n"),
        (False, _HEAD + "*\t00000000\t00000000\t0201\t0\t0\t0\t00000000\t0\t0\t0\n"),  # unreachable default
        (False, _HEAD + "eth0\t00000000\t00000000\t0003\t0\t0\t0\t000000FF\t0\t0\t0\n"),  # 0.0.0.0/8
        (False, _HEAD + "eth0\t00000000\t010011AC\t0002\t0\t0\t0\t00000000\t0\t0\t0\n"),  # not up
        (False, _HEAD + "eth0\t00000000\t010011AC\tzzzz\t0\t0\t0\t00000000\t0\t0\t0\n"),
        (False, _HEAD + "eth0\t00000000\n"),
        (False, _HEAD),
        (False, ""),
    ],
)  # fmt: skip
def test_a_table_of_ipv4_routes(expected: bool, table: str) -> None:
    """A default route leads on, for all addresses, and is up."""
    assert expected is parse_ipv4_routes(table)


@pytest.mark.parametrize(
    ("expected", "table"),
    [
        (True, f"{_ANY6} 00 {_ANY6} 00 fe80{'0' * 27}1 00000400 00000002 00000000 00450003     eth0\n{_NO_ROUTE6}"),
        (False, _NO_ROUTE6),  # what every host has
        (False, f"fd00{'0' * 28} 40 {_ANY6} 00 {_ANY6} 00000100 00000001 00000000 00000001     eth0\n"),
        (False, "nonsense\n"),
        (False, ""),
    ],
)  # fmt: skip
def test_a_table_of_ipv6_routes(expected: bool, table: str) -> None:
    """The entry that rejects everything is no default route."""
    assert expected is parse_ipv6_routes(table)


def test_an_address_that_is_this_host_has_a_route() -> None:
    """Loopback needs no network; what is no address has no route."""
    assert (True, False) == (has_route("127.0.0.1"), has_route("coder.example.com"))


async def test_what_is_not_asked_is_not_known() -> None:
    """Without addresses nothing is known of routes to them; one that has a route is enough."""
    assert (await read_host_state()).routed is None
    assert (await read_host_state(["nonsense", "127.0.0.1"])).routed is True


async def test_elsewhere_routes_are_not_known(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """On macOS and in sandboxes without these tables nothing is claimed; a kernel without IPv6 has no
    default route for it."""
    monkeypatch.setattr("exporter.net.host.sys.platform", "darwin")
    elsewhere = await read_host_state()
    assert (None, None) == (elsewhere.default_route_ipv4, elsewhere.default_route_ipv6)
    monkeypatch.setattr("exporter.net.host.sys.platform", "linux")
    monkeypatch.setattr(host, "_IPV4_ROUTES", tmp_path / "route")
    sandbox = await read_host_state()
    assert (None, None) == (sandbox.default_route_ipv4, sandbox.default_route_ipv6)
    (tmp_path / "route").write_text(_HEAD)
    monkeypatch.setattr(host, "_IPV6_ROUTES", tmp_path / "ipv6_route")
    old = await read_host_state()
    assert (False, False) == (old.default_route_ipv4, old.default_route_ipv6)


_LOOK = """
import asyncio, dataclasses, json, subprocess, sys
from exporter.net.host import read_host_state
ADDRESSES = ["203.0.113.9"]
def look():
    return dataclasses.asdict(asyncio.run(read_host_state(ADDRESSES)))
states = {"bare": look()}
for name, commands in json.loads(sys.argv[1]):
    for command in commands:
        subprocess.run(command.split(), check=True)
    states[name] = look()
print(json.dumps(states))
"""
_STEPS = (
    ("linked", ("ip link set lo up", "ip link add near type veth peer name far", "ip link set near up",
                "ip link set far up", "ip address add 192.0.2.1/24 dev near")),
    ("routed", ("ip route add default via 192.0.2.254",)),
    ("lost", ("ip route del default",)),
    ("rejected", ("ip route add unreachable default",)),
    ("specific", ("ip route add 203.0.113.0/24 via 192.0.2.254",)),
    ("IPv6", ("ip -6 address add fd00:1::1/64 dev near nodad", "ip -6 route add default via fd00:1::fe")),
    ("down", ("ip link set near down", "ip link set far down")),
)  # fmt: skip


@linux_only
async def test_a_host_that_loses_its_way(need_tool: Callable[[str], str]) -> None:
    """In a network namespace: no interface, no default route, one that comes and goes, one that rejects, and
    a way of its own to what is asked for."""
    unshare, ip = need_tool("unshare"), need_tool("ip")
    process = await asyncio.create_subprocess_exec(
        *(unshare, "--map-root-user", "--net", sys.executable, "-c", _LOOK, json.dumps(_STEPS)),
        env=os.environ | {"PATH": f"{Path(ip).parent}:{os.environ['PATH']}"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    stdout, stderr = await process.communicate()
    if not stdout:
        assert b"Traceback" not in stderr, stderr.decode(errors="replace")
        skip_or_fail(f"no network namespace to be had here: {stderr.decode(errors='replace').strip()[-200:]}")
    states = {name: HostState(**(state | {"interfaces_up": tuple(state["interfaces_up"])}))
              for name, state in json.loads(stdout).items()}  # fmt: skip
    up = ("far", "near")

    def expect(ipv4: bool, ipv6: bool, interfaces: tuple[str, ...], routed: bool) -> HostState:
        return HostState(default_route_ipv4=ipv4, default_route_ipv6=ipv6, interfaces_up=interfaces, routed=routed)

    assert {
        "bare": expect(False, False, (), False),
        "linked": expect(False, False, up, False),
        "routed": expect(True, False, up, True),
        "lost": expect(False, False, up, False),
        "rejected": expect(False, False, up, False),
        "specific": expect(False, False, up, True),
        "IPv6": expect(False, True, up, True),
        "down": expect(False, False, (), False),
    } == states
