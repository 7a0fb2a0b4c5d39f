"""Real relays, STUN servers and reverse proxies on loopback: our probes see what they are."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from exporter.clock import SystemClock
from exporter.errors import Phase, Reason
from exporter.health.derp import RegionResult, RelayResult, assess_mesh, assess_region, assess_transport
from exporter.health.direct_connections import DirectConnectionsResult, assess
from exporter.health.model import Section
from exporter.probes import derp, derp_mesh, direct_connections, stun
from exporter.probes.direct_connections import Surroundings
from exporter.targets.model import AccessURL, DirectConnectionsTarget, LossMode, StunTarget
from exporter.wire.derp_map import parse_derp_map
from exporter.wire.url import Origin
from tests.conftest import skip_or_fail
from tests.support.certificates import Authority
from tests.support.derper import Derper, run_derper
from tests.support.ports import free_port
from tests.support.relay_targets import mesh_target, name, relay_target, stun_target

NeedTool = Callable[[str], str]
CLOCK = SystemClock()
PATIENCE_SECONDS = 30.0
SHORT_SECONDS = 0.5  # a timeout that is meant to pass


async def probe(origin: Origin, **more: Any) -> RelayResult:
    return await derp.probe(relay_target(origin, **more), clock=CLOCK)


def codes(result: RelayResult) -> set[str]:
    """Return the codes of both transports, and of a region that has this relay only."""
    region = RegionResult(region_id=1, name="Region 1", node_count=1, relays=(result,))
    reports = [assess_region(region), *(assess_transport(result, seen.transport) for seen in result.transports)]
    return {finding.code for report in reports for finding in report.findings}


def up(result: RelayResult) -> list[bool]:
    return [seen.up for seen in result.transports]


# ---- the relay by itself


async def test_a_relay_that_works(need_tool: NeedTool) -> None:
    """Both transports log in, pass messages and answer pings; the keys in header and greeting agree."""
    async with run_derper(need_tool("derper"), stun=False) as relay:
        result = await probe(relay.origin, loss=LossMode(packets_per_second=50, window_seconds=0.2))
    assert ([True, True], set()) == (up(result), codes(result))
    for seen in result.transports:
        assert (2, 12, 1, False) == (
            seen.messages_sent,
            len(seen.round_trip_seconds),
            seen.relay_processes,
            seen.key_mismatch,
        )
        assert seen.ping_round_trip_seconds is not None
        assert (10, 10) == (seen.loss and seen.loss.sent, seen.loss and seen.loss.received)


async def test_a_relay_that_is_killed(need_tool: NeedTool) -> None:
    """Where it was nothing listens: the region has no relay."""
    async with run_derper(need_tool("derper"), stun=False) as relay:
        await relay.stop(signal.SIGKILL)
        result = await probe(relay.origin)
    assert [Reason.REFUSED] * 2 == [seen.failure and seen.failure.reason for seen in result.transports]
    assert {"XDERP01"} == codes(result)


async def test_a_relay_that_is_paused(need_tool: NeedTool) -> None:
    """A relay that hangs times out over both transports, in time, and works again afterwards."""
    async with run_derper(need_tool("derper"), stun=False) as relay:
        await relay.pause()
        began = CLOCK.monotonic()
        result = await probe(relay.origin, timeout_seconds=SHORT_SECONDS)
        assert SHORT_SECONDS * 5 > CLOCK.monotonic() - began
        # the kernel goes on to take connections, but nobody answers
        assert [(Reason.TIMEOUT, Phase.PROCESSING)] * 2 == [
            (seen.failure and seen.failure.reason, seen.failure and seen.failure.phase) for seen in result.transports
        ]
        assert {"XDERP01"} == codes(result)
        relay.resume()
        assert [True, True] == up(await probe(relay.origin))


async def test_tls_with_an_own_authority(need_tool: NeedTool, tmp_path: Path) -> None:
    """Over TLS both transports work, and the end of the leaf is known; the meta certificate is none."""
    authority = Authority(tmp_path)
    async with run_derper(need_tool("derper"), tls=authority, stun=False, hostname="relay.test") as relay:
        result = await probe(relay.origin, ca_file=authority.ca_file)
        unknown = await probe(relay.origin)
        # it refuses names that are not its own by an alert
        refused = await probe(Origin(scheme="https", host="other.test", port=relay.port), ca_file=authority.ca_file)
    assert ([True, True], set()) == (up(result), codes(result))
    for seen in result.transports:
        assert seen.certificate is not None
        assert seen.certificate.leaf_timestamp_seconds is not None
        assert seen.certificate.leaf_timestamp_seconds > CLOCK.now()
        # the meta certificate that it adds ends within a month, and is none of the chain
        assert (seen.certificate.chain_timestamp_seconds or CLOCK.now() + 1e9) > CLOCK.now() + 60 * 86400
        assert Phase.TLS in seen.phase_seconds
    assert {"XDERP01", "XDERP05"} == codes(unknown)
    assert {"XDERP01", "XDERP05"} == codes(refused)
    for seen in refused.transports:
        assert seen.failure is not None
        assert (Reason.TLS, Phase.TLS) == (seen.failure.reason, seen.failure.phase)
        assert "internal error" in seen.failure.message


async def test_a_wrong_host_name(need_tool: NeedTool, tmp_path: Path) -> None:
    """A relay by a name that its certificate does not bear: XDERP05; with the map's CertName it works."""
    authority = Authority(tmp_path)
    # one that goes by an address takes any name, and shows the certificate that it has
    async with run_derper(need_tool("derper"), tls=authority, stun=False, hostname="127.0.0.1") as relay:
        origin = Origin(scheme="https", host="other.test", port=relay.port)
        result = await probe(origin, ca_file=authority.ca_file)
        named = await probe(origin, ca_file=authority.ca_file, certificate_name="127.0.0.1")
    assert {"XDERP01", "XDERP05"} == codes(result)
    assert all("other.test" in (seen.failure.message if seen.failure else "") for seen in result.transports)
    assert ([True, True], set()) == (up(named), codes(named))


# ---- behind reverse proxies

NGINX = """
daemon off; pid {directory}/pid; error_log stderr;
events {{ }}
http {{
  access_log off; client_body_temp_path {directory}; proxy_temp_path {directory};
  fastcgi_temp_path {directory}; uwsgi_temp_path {directory}; scgi_temp_path {directory};
  map $http_upgrade $only_websocket {{ default ''; websocket websocket; }}
  map $http_upgrade $connection_upgrade {{ default upgrade; '' close; }}
  server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass http://127.0.0.1:{upstream}; {rules} }} }}
}}
"""
HAPROXY = """
global
  maxconn 100
  # connections in turn: several threads give them out in any order
  nbthread 1
defaults
  mode {mode}
  timeout connect 2s
  timeout client 30s
  timeout server 30s
  timeout tunnel 1m
frontend front
  bind 127.0.0.1:{port}
  default_backend relay
backend relay
  balance roundrobin
  {servers}
"""
CADDY = """
{{
  admin off
  auto_https off
  persist_config off
}}
http://127.0.0.1:{port} {{
  bind 127.0.0.1
  reverse_proxy 127.0.0.1:{upstream}
}}
"""


@asynccontextmanager
async def running(
    program: str, *arguments: str, port: int | None = None, stdout: int = asyncio.subprocess.DEVNULL
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Have a server process; with a port it is ready when that takes connections."""
    process = await asyncio.create_subprocess_exec(
        program, *arguments, stdout=stdout, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while port is not None:
                assert process.returncode is None, f"{program} ended with {process.returncode}"
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                except OSError:
                    await asyncio.sleep(0.02)  # a foreign process has no other way to say that it listens
                    continue
                writer.close()
                await writer.wait_closed()
                break
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()
        if process.stdout is not None:
            await process.stdout.read()  # so that its pipe is closed


@asynccontextmanager
async def nginx(need_tool: NeedTool, directory: Path, upstream: int, rules: str) -> AsyncIterator[Origin]:
    port = free_port()
    path = directory / "nginx.conf"
    path.write_text(NGINX.format(directory=directory, port=port, upstream=upstream, rules=rules))
    async with running(need_tool("nginx"), "-e", "stderr", "-p", str(directory), "-c", str(path), port=port):
        yield Origin(scheme="http", host="127.0.0.1", port=port)


@asynccontextmanager
async def haproxy(
    need_tool: NeedTool, directory: Path, *relays: Derper, mode: str = "http", scheme: str = "http"
) -> AsyncIterator[Origin]:
    port = free_port()
    path = directory / "haproxy.cfg"
    servers = "\n  ".join(f"server relay{relay.port} 127.0.0.1:{relay.port}" for relay in relays)
    path.write_text(HAPROXY.format(port=port, mode=mode, servers=servers))
    async with running(need_tool("haproxy"), "-db", "-f", str(path), port=port):
        yield Origin(scheme=scheme, host="localhost", port=port)


@pytest.mark.parametrize(
    ("rules", "works", "status", "expected"),
    [
        # all that a client needs is passed on
        (
            "proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade; "
            "proxy_set_header Connection $connection_upgrade;",
            [True, True],
            None,
            set(),
        ),
        # only WebSockets are: clients work, by their fallback
        (
            "proxy_http_version 1.1; proxy_set_header Upgrade $only_websocket; "
            "proxy_set_header Connection $connection_upgrade;",
            [False, True],
            426,
            {"EDERP01"},
        ),
        # nothing is
        ("", [False, False], 426, {"XDERP01"}),
        # a page or a login instead of the relay, at which clients do not fall back
        ("if ($http_upgrade = DERP) { return 302 https://sso.example.org/; }", [False, False], 302, {"XDERP01"}),
    ],
)
async def test_behind_nginx(
    need_tool: NeedTool, tmp_path: Path, rules: str, works: list[bool], status: int | None, expected: set[str]
) -> None:
    """What passes each kind of upgrade is healthy; what passes WebSockets only is EDERP01."""
    async with (
        run_derper(need_tool("derper"), stun=False) as relay,
        nginx(need_tool, tmp_path, relay.port, rules) as origin,
    ):
        result = await probe(origin)
    assert (works, status, expected) == (up(result), result.transports[0].status, codes(result))
    if status is not None:
        assert (result.transports[0].server or "").startswith("nginx")


async def test_behind_haproxy(need_tool: NeedTool, tmp_path: Path) -> None:
    """HAProxy as it comes passes both transports."""
    async with run_derper(need_tool("derper"), stun=False) as relay, haproxy(need_tool, tmp_path, relay) as origin:
        result = await probe(origin)
    assert ([True, True], set()) == (up(result), codes(result))


async def test_behind_caddy(need_tool: NeedTool, tmp_path: Path) -> None:
    """So does Caddy."""
    port = free_port()
    async with run_derper(need_tool("derper"), stun=False) as relay:
        path = tmp_path / "Caddyfile"
        path.write_text(CADDY.format(port=port, upstream=relay.port))
        async with running(need_tool("caddy"), "run", "--adapter", "caddyfile", "--config", str(path), port=port):
            result = await probe(Origin(scheme="http", host="127.0.0.1", port=port))
    assert ([True, True], set()) == (up(result), codes(result))


# ---- several relays


class Forwarder:
    """A port that is known before what it leads to."""

    def __init__(self) -> None:
        self.port = 0
        self.destination: int | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: list[asyncio.StreamWriter] = []

    async def __aenter__(self) -> Forwarder:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for writer in self._writers:
            writer.transport.abort()
        await asyncio.sleep(0)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        if self.destination is None:
            writer.close()
            return
        other_reader, other_writer = await asyncio.open_connection("127.0.0.1", self.destination)
        self._writers.append(other_writer)
        for source, sink in ((reader, other_writer), (other_reader, writer)):
            task = asyncio.get_running_loop().create_task(_pump(source, sink))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    try:
        while data := await source.read(65536):
            sink.write(data)
    except ConnectionError:
        pass
    sink.close()


@asynccontextmanager
async def two_relays(
    need_tool: NeedTool, authority: Authority, *, meshed: bool
) -> AsyncIterator[tuple[Derper, Derper]]:
    """Two relays of one region over TLS, of which each watches the other when they are meshed."""
    tool = need_tool("derper")
    key = secrets.token_hex(32) if meshed else None
    async with AsyncExitStack() as stack:
        way = await stack.enter_async_context(Forwarder())

        async def start(port: int) -> Derper:
            arguments = ("-mesh-with", f"localhost:{port}") if meshed else ()
            return await stack.enter_async_context(
                run_derper(tool, tls=authority, stun=False, mesh_key=key, arguments=arguments)
            )

        one = await start(way.port)
        other = await start(one.port)
        way.destination = other.port
        yield one, other


async def test_relays_of_a_mesh(need_tool: NeedTool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once two real relays watch one another every way works, also behind one name."""
    authority = Authority(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.ca_file))  # what Go's programs trust
    async with two_relays(need_tool, authority, meshed=True) as relays:
        target = mesh_target(*(relay.origin for relay in relays), ca_file=authority.ca_file)
        async with asyncio.timeout(PATIENCE_SECONDS):
            # a relay that did not find the other one at once tries again within seconds
            while assess_mesh(result := await derp_mesh.probe(target, clock=CLOCK)).findings:
                pass
        assert (2, (), set()) == (
            len(result.paths),
            result.unreached,
            {finding.code for finding in assess_mesh(result).findings},
        )
        async with haproxy(need_tool, tmp_path, *relays, mode="tcp", scheme="https") as origin:
            behind = await probe(origin, ca_file=authority.ca_file)
    assert ([True, True], [2, 2]) == (up(behind), [seen.relay_processes for seen in behind.transports])


async def test_relays_without_a_mesh(need_tool: NeedTool, tmp_path: Path) -> None:
    """Two real relays that do not watch one another: XDERP04, and behind one name nothing arrives."""
    authority = Authority(tmp_path)
    async with two_relays(need_tool, authority, meshed=False) as relays:
        target = mesh_target(*(relay.origin for relay in relays), ca_file=authority.ca_file)
        result = await derp_mesh.probe(target, clock=CLOCK)
        assert ["XDERP04"] == [finding.code for finding in assess_mesh(result).findings]
        assert (2, ()) == (len(result.paths), result.unreached)
        async with haproxy(need_tool, tmp_path, *relays, mode="tcp", scheme="https") as origin:
            behind = await probe(origin, ca_file=authority.ca_file, timeout_seconds=2.0)
    for seen in behind.transports:
        assert (Reason.TIMEOUT, 2) == (seen.failure and seen.failure.reason, seen.relay_processes)
    assert {"XDERP01"} == codes(behind)


# ---- STUN and this host's network


async def look(*servers: StunTarget, timeout_seconds: float = 10.0) -> DirectConnectionsResult:
    target = DirectConnectionsTarget(
        deployment="prod",
        section=Section.DIRECT_CONNECTIONS,
        interval_seconds=60.0,
        timeout_seconds=timeout_seconds,
        access_url=AccessURL(url="http://127.0.0.1"),
    )
    around = Surroundings(
        derp_map=parse_derp_map(b'{"Regions": {}}'),
        disabled=False,
        off=None,
        access_origin=None,
        relays=(),
        stun=servers,
    )
    return await direct_connections.probe(target, surroundings=around, clock=CLOCK)


def found(result: DirectConnectionsResult) -> set[str]:
    return {finding.code for finding in assess(result).findings}


@asynccontextmanager
async def coturn(need_tool: NeedTool, directory: Path, address: str) -> AsyncIterator[int]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as reserved:
        reserved.bind((address, 0))
        port = int(reserved.getsockname()[1])
    async with running(
        need_tool("turnserver"),
        *("-n", "--stun-only", "--listening-ip", address, "--listening-port", str(port)),
        *("--no-tls", "--no-dtls", "--no-tcp", "--no-cli", "--log-file", "/dev/null"),
        *("--pidfile", str(directory / "pid"), "--db", str(directory / "db")),
    ):
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not (await stun.probe(stun_target(address, port, timeout_seconds=0.2), clock=CLOCK)).up:
                pass  # refused, or not answered, until it listens
        yield port


async def test_two_kinds_of_stun_servers_agree(need_tool: NeedTool, tmp_path: Path) -> None:
    """derper and coturn see the same address and port of one socket, and take packets of every size."""
    async with run_derper(need_tool("derper")) as relay, coturn(need_tool, tmp_path, "127.0.0.2") as port:
        assert relay.stun_port is not None
        servers = (
            stun_target("127.0.0.1", relay.stun_port, name=name("1stun0", 1)),
            stun_target("127.0.0.2", port, name=name("2stun0", 2)),
        )
        for server in servers:
            (attempt,) = (await stun.probe(server, clock=CLOCK)).attempts
            assert (True, 1) == (attempt.up, attempt.attempts)
            # from 127.0.0.1 to an own address the kernel sends from 127.0.0.1
            assert "127.0.0.1" == attempt.mapped_address or server.host == attempt.mapped_address
        result = await look(*servers)
    netcheck = result.netcheck
    assert (True, 2, 2) == (netcheck.udp, netcheck.stun_servers, netcheck.stun_answers)
    assert 1 == len({reply.mapped_port for reply in netcheck.replies})
    assert result.path_mtu is not None
    assert [(1500, None)] * 2 == [(path.passed_bytes, path.failed_bytes) for path in result.path_mtu]
    # an unbound socket has another address towards 127.0.0.2 only where the kernel says so
    assert (len({reply.mapped_address for reply in netcheck.replies}) > 1) == netcheck.mapping_varies


async def test_stun_of_a_paused_relay(need_tool: NeedTool) -> None:
    """A server that hangs is silent, one that is gone refuses."""
    async with run_derper(need_tool("derper")) as relay:
        assert relay.stun_port is not None
        target = stun_target("127.0.0.1", relay.stun_port, timeout_seconds=SHORT_SECONDS)
        await relay.pause()
        silent = await stun.probe(target, clock=CLOCK)
        await relay.stop(signal.SIGKILL)
        gone = await stun.probe(target, clock=CLOCK)
    assert [Reason.TIMEOUT, Reason.REFUSED] == [result.failure and result.failure.reason for result in (silent, gone)]


# ---- networks of our own, where that is permitted

STUN_SERVER = """
import asyncio, sys
from exporter.demo.stun import SimulatedStun

async def main():
    async with SimulatedStun(sys.argv[1]) as server:
        print(server.port, flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


async def ip(program: str, *arguments: str) -> bool:
    """Run the program `ip`; tell whether it did as told."""
    process = await asyncio.create_subprocess_exec(
        program, *arguments, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL
    )
    return await process.wait() == 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Cable:
    """Two ends of a virtual cable: ours, and one in another network namespace with a STUN server."""

    interface: str
    server: StunTarget


@asynccontextmanager
async def cable(need_tool: NeedTool, *, mtu_bytes: int, far_mtu_bytes: int) -> AsyncIterator[Cable]:
    program = need_tool("ip")
    tag = f"{os.getpid() % 100000}"
    namespace, near, far = f"chx{tag}", f"chn{tag}", f"chf{tag}"
    if sys.platform != "linux" or os.geteuid() != 0 or not await ip(program, "netns", "add", namespace):
        skip_or_fail("network namespaces are not permitted here")
    try:
        if not await ip(program, "link", "add", near, "type", "veth", "peer", "name", far, "netns", namespace):
            skip_or_fail("virtual network interfaces are not permitted here")
        inside = (program, "-n", namespace)
        for command in (
            (program, "address", "add", "198.18.71.1/30", "dev", near),
            (program, "link", "set", near, "mtu", str(mtu_bytes), "up"),
            (*inside, "address", "add", "198.18.71.2/30", "dev", far),
            (*inside, "link", "set", far, "mtu", str(far_mtu_bytes), "up"),
        ):
            assert await ip(*command), command
        arguments = ("netns", "exec", namespace, sys.executable, "-c", STUN_SERVER, "198.18.71.2")
        async with running(program, *arguments, stdout=asyncio.subprocess.PIPE) as process:
            assert process.stdout is not None
            async with asyncio.timeout(PATIENCE_SECONDS):
                port = int(await process.stdout.readline())
            yield Cable(interface=near, server=stun_target("198.18.71.2", port))
    finally:
        await ip(program, "link", "delete", near)
        await ip(program, "netns", "delete", namespace)


async def test_a_narrow_interface_on_the_way(need_tool: NeedTool) -> None:
    """An interface of 1280 bytes towards a STUN server raises EIF01: by its MTU, and by what passes."""
    async with cable(need_tool, mtu_bytes=1280, far_mtu_bytes=1280) as narrow:
        result = await look(narrow.server, timeout_seconds=3.0)
    (way,) = (interface for interface in result.interfaces if interface.on_the_way)
    assert (narrow.interface, 1280, ("stun",)) == (way.name, way.mtu_bytes, way.towards)
    assert result.path_mtu is not None
    assert [(1280, 1376)] == [(path.passed_bytes, path.failed_bytes) for path in result.path_mtu]
    assert {"EIF01"} == found(result)


async def test_a_narrow_path_behind_a_wide_interface(need_tool: NeedTool) -> None:
    """What no interface of ours shows is found by what size passes."""
    async with cable(need_tool, mtu_bytes=1500, far_mtu_bytes=1280) as narrow:
        result = await look(narrow.server, timeout_seconds=3.0)
    (way,) = (interface for interface in result.interfaces if interface.on_the_way)
    assert (narrow.interface, 1500) == (way.name, way.mtu_bytes)
    assert result.path_mtu is not None
    assert [(1280, 1376)] == [(path.passed_bytes, path.failed_bytes) for path in result.path_mtu]
    assert {"EIF01"} == found(result)


async def test_a_tunnel_on_the_way(need_tool: NeedTool) -> None:
    """A tun interface towards a STUN server is a tunnel on the way: XNET05."""
    program = need_tool("ip")
    interface = f"cht{os.getpid() % 100000}"
    if os.geteuid() != 0 or not await ip(program, "tuntap", "add", "dev", interface, "mode", "tun"):
        skip_or_fail("tun interfaces are not permitted here")
    try:
        assert await ip(program, "address", "add", "198.18.72.1/30", "dev", interface)
        assert await ip(program, "link", "set", interface, "up")
        result = await look(stun_target("198.18.72.2", 3478), timeout_seconds=SHORT_SECONDS)
    finally:
        await ip(program, "tuntap", "delete", "dev", interface, "mode", "tun")
    (way,) = (interface for interface in result.interfaces if interface.on_the_way)
    assert (interface, True, ("stun",)) == (way.name, way.tunnel, way.towards)
    assert {"XNET05"} == found(result)
