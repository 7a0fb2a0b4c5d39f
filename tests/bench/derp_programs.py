"""Relays that a benchmark starts on loopback, and Tailscale's own prober: `derper` and `derpprobe`.

Both are installed by name with Go (`go install tailscale.com/cmd/...`). Who has them not learns so
from `find_program`, and the report says it.
"""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.bench.programs import BenchError, Program, fetch, is_listening, started
from tests.support.certificates import Authority
from tests.support.ports import free_port

VERSION = "v1.102.5"
HOST = "localhost"
_STUN_LINE = re.compile(r"STUN server listening on .*:(\d+)$", re.MULTILINE)
_ATTEMPTS = re.compile(r'^derpprobe_attempts_total\{class="derp_mesh".*status="(ok|fail)"\} (\S+)$', re.MULTILINE)
_PROBE_INTERVAL_SECONDS = 1.0


class MissingError(BenchError):
    """A program is not installed; the message says which one, and how to have it."""


def find_program(name: str) -> str:
    """Return the path of one of Tailscale's programs.

    Raises:
        MissingError: It is not installed.
    """
    path = shutil.which(name)
    if path is None:
        raise MissingError(f"{name} is not on PATH (go install tailscale.com/cmd/{name}@{VERSION})")
    return path


def measure_cpu_seconds(program: Program) -> float:
    """Return user plus system time of a process, to the nanosecond where /proc has ticks of 10 ms."""
    # Source: clock_gettime(2) and the kernel's posix-timers.h: a clock id made of a process id
    return time.clock_gettime((~program.pid << 3) | 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Relay:
    """A derper that runs."""

    program: Program
    port: int
    stun_port: int


@contextmanager
def derper(directory: Path, *, authority: Authority | None = None) -> Iterator[Relay]:
    """Have a relay with its STUN server on 127.0.0.1.

    Args:
        authority: Who signs its certificate for `localhost`; None is plain HTTP.
    """
    tool = find_program("derper")
    own = directory / ("derper-plain" if authority is None else "derper-tls")
    own.mkdir(exist_ok=True)
    port, log = free_port(), own / "derper.log"
    command = [tool, "-c", str(own / "derper.json"), "-a", f"127.0.0.1:{port}", "-http-port", "-1"]
    command += ["-hostname", HOST, "-stun-port", "0"]
    if authority is not None:
        authority.write_server_files(own / f"{HOST}.crt", HOST)
        (own / f"{HOST}.key").write_bytes((own / f"{HOST}.crt").read_bytes())
        command += ["-certmode", "manual", "-certdir", str(own)]
    with started(command, log) as program:

        def find_stun_port() -> int:
            said = _STUN_LINE.search(log.read_text(errors="replace"))
            return int(said[1]) if said else 0

        program.wait_until(lambda: is_listening(port) and find_stun_port() > 0, "listening")
        yield Relay(program=program, port=port, stun_port=find_stun_port())


class Prober:
    """Tailscale's derpprobe at work."""

    def __init__(self, program: Program) -> None:
        self.program = program

    def count(self) -> int:
        """Return how many checks it has done.

        Raises:
            BenchError: One of them failed.
        """
        counts = {"ok": 0, "fail": 0}
        for status, count in _ATTEMPTS.findall(fetch(self.program.port, "/debug/varz").decode()):
            counts[status] += int(float(count))
        if counts["fail"]:
            raise BenchError("a check of derpprobe failed: what was measured would be another thing")
        return counts["ok"]


@contextmanager
def derpprobe(directory: Path, relay: Relay, *, ca_file: Path, per_second: int) -> Iterator[Prober]:
    """Have derpprobe check a relay so often, through as many nodes, each once a second, spread by chance."""
    tool = find_program("derpprobe")
    path = directory / "derpprobe-map.json"
    nodes = [f"n{number}" for number in range(per_second)]
    path.write_text(json.dumps(make_map([[node] for node in nodes], relay, tls=True)))
    port, log = free_port(), directory / "derpprobe.log"
    command = [tool, "-derp-map", f"file://{path}", "-listen", f"127.0.0.1:{port}", "-interval", "2s"]
    command += ["-mesh-interval", f"{_PROBE_INTERVAL_SECONDS:.0f}s", "-tls-interval", "0", "-stun-interval", "0"]
    with started(command, log, environment={"SSL_CERT_FILE": str(ca_file)}) as program:
        program.port = port
        prober = Prober(program)
        # its intervals begin at a random moment: the first of all nodes are over then
        program.wait_until(lambda: is_listening(port) and prober.count() >= 2 * per_second, "probing")
        yield prober


def make_map(regions: Sequence[Sequence[str]], relay: Relay, *, tls: bool) -> dict[str, object]:
    """Return a DERP map whose nodes, region by region, all are one relay."""
    return {
        "Regions": {
            str(number): {
                "RegionID": number,
                "RegionCode": f"r{number}",
                "RegionName": f"Region {number}",
                "Nodes": [
                    {
                        "Name": node,
                        "RegionID": number,
                        "HostName": HOST if tls else "127.0.0.1",
                        "IPv4": "127.0.0.1",
                        "IPv6": "none",
                        "DERPPort": relay.port,
                        "STUNPort": relay.stun_port,
                        "ForceHTTP": not tls,
                    }
                    for node in nodes
                ],
            }
            for number, nodes in enumerate(regions, start=1)
        }
    }
