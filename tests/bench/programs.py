"""Programs that a benchmark starts, all on loopback: whom it measures, and who answers.

In: what to start. Out: running processes with their CPU time and memory, as the kernel counts
them. Every process is ended by its own id when its context is left.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path

from exporter.health.model import Section
from tests.support.ports import free_port

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS = 60.0
STOP_SECONDS = 10.0
_EXTRA_DIRECTORIES = "/usr/sbin:/usr/local/sbin:/sbin"
_TICKS = os.sysconf("SC_CLK_TCK")

VERSION = "v2.26.0"
BUILD_INFO = {
    "version": VERSION,
    "dashboard_url": "http://127.0.0.1",
    "deployment_id": "887128fc-c881-4e8b-899c-6a5186d3798f",
}


class BenchError(Exception):
    """The benchmark cannot go on; the message says what is missing or what went wrong."""


def find_tool(name: str, package: str) -> str:
    """Return the path of an external program.

    Raises:
        BenchError: It is not installed.
    """
    path = shutil.which(name) or shutil.which(name, path=_EXTRA_DIRECTORIES)
    if path is None:
        raise BenchError(f"{name} is not installed; on Debian: apt-get install {package}")
    return path


class Program:
    """A running process."""

    def __init__(self, process: subprocess.Popen[str], log: Path) -> None:
        self.process = process
        self.pid = process.pid
        self.log = log
        self.port = 0

    def cpu_seconds(self) -> float:
        """Return user plus system time of all its threads so far."""
        # the name, in parentheses, may hold spaces. Source: proc_pid_stat(5), fields 14 and 15
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS

    def memory_bytes(self) -> int:
        """Return its resident set."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
        raise BenchError(f"{self.name} has no resident set: it is over")

    @property
    def name(self) -> str:
        return Path(str(self.process.args[0] if isinstance(self.process.args, list) else self.process.args)).name

    def wait_until(self, ready: Callable[[], bool], what: str) -> None:
        """Wait until it is ready.

        Raises:
            BenchError: It ended before, or took too long; with the end of what it wrote.
        """
        end = time.monotonic() + START_SECONDS
        while not ready():
            if self.process.poll() is not None or time.monotonic() > end:
                said = self.log.read_text(errors="replace")[-2000:]
                raise BenchError(f"{self.name} was not {what}; it wrote:\n{said}")
            time.sleep(0.02)


@contextmanager
def started(command: Sequence[str], log: Path, *, environment: Mapping[str, str] | None = None) -> Iterator[Program]:
    """Have a program that writes into a file and reads nothing."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("CODER_")}
    with log.open("w") as output:
        process = subprocess.Popen(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=ROOT,
            env=kept | dict(environment or {}),
            text=True,
        )
    try:
        yield Program(process, log)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def is_listening(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


def fetch(port: int, path: str, headers: Mapping[str, str] | None = None) -> bytes:
    """GET a path of 127.0.0.1 and return the body.

    Raises:
        BenchError: The status is not 200.
    """
    connection = HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("GET", path, headers=dict(headers or {}))
        answer = connection.getresponse()
        body = answer.read()
    finally:
        connection.close()
    if answer.status != 200:
        raise BenchError(f"GET {path} answered {answer.status}: {body[:200]!r}")
    return body


@contextmanager
def nginx(directory: Path, *, certificate: Path) -> Iterator[tuple[Program, int, int]]:
    """Have Debian's nginx that answers like Coder's /healthz; with its plain and its TLS port.

    Args:
        certificate: PEM file with a certificate for 127.0.0.1 and its key.
    """
    plain, secure = free_port(), free_port()
    info = json.dumps(BUILD_INFO)
    temporary = "\n".join(
        f"{name}_temp_path {directory}/{name};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    config = directory / "nginx.conf"
    config.write_text(
        f"""
        daemon off; master_process off; worker_processes 1; pid {directory}/nginx.pid; error_log {directory}/error.log;
        events {{ worker_connections 4096; }}
        http {{
            access_log off; default_type text/plain; keepalive_timeout 30s;
            {temporary}
            server {{
                listen 127.0.0.1:{plain} backlog=4096;
                listen 127.0.0.1:{secure} ssl backlog=4096;
                ssl_certificate {certificate}; ssl_certificate_key {certificate}; ssl_session_cache off;
                ssl_session_tickets off;
                add_header X-Coder-Build-Version {VERSION};
                location = /healthz {{ return 200 "OK"; }}
                location = /api/v2/buildinfo {{ return 200 '{info}'; }}
            }}
        }}
        """
    )
    command = [find_tool("nginx", "nginx"), "-c", str(config), "-p", str(directory), "-e", f"{directory}/error.log"]
    with started(command, directory / "nginx.log") as program:
        program.wait_until(lambda: is_listening(plain) and is_listening(secure), "listening")
        yield program, plain, secure


@contextmanager
def blackbox(directory: Path, *, ca_file: Path) -> Iterator[Program]:
    """Have Debian's blackbox exporter with its module http_2xx, which trusts one more authority."""
    config = directory / "blackbox.yml"
    config.write_text(
        json.dumps(
            {
                "modules": {
                    "http_2xx": {"prober": "http", "timeout": "5s", "http": {"tls_config": {"ca_file": str(ca_file)}}}
                }
            }
        )
    )
    port = free_port()
    command = [
        find_tool("prometheus-blackbox-exporter", "prometheus-blackbox-exporter"),
        f"--config.file={config}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--log.level=warn",
    ]
    with started(command, directory / "blackbox.log") as program:
        program.wait_until(lambda: is_listening(port), "listening")
        program.port = port
        yield program


@contextmanager
def exporter(
    directory: Path,
    *,
    config: Path | None = None,
    environment: Mapping[str, str] | None = None,
    module: Sequence[str] = ("-m", "exporter"),
) -> Iterator[Program]:
    """Have the real `coder-health-exporter`, on a free port.

    Args:
        config: Its configuration file; None for the environment alone.
        module: How Python starts it.
    """
    command = [sys.executable, *module, "--web.listen-address", "127.0.0.1:0", "--log.format", "json"]
    if config is not None:
        command += ["--config.file", str(config)]
    log = directory / "exporter.log"
    with started(command, log, environment=environment) as program:
        program.wait_until(lambda: "server.started" in log.read_text(errors="replace"), "serving")
        line = next(line for line in log.read_text(errors="replace").splitlines() if "server.started" in line)
        program.port = int(json.loads(line)["addresses"][0].rpartition(":")[2])
        yield program


def write_config(path: Path, *, urls: Sequence[str], interval_seconds: float, ca_file: Path | None = None) -> Path:
    """Write a configuration with one deployment a URL, of which only the access URL is probed."""
    others = set(Section) - {Section.ACCESS_URL, Section.EXPORTER}
    off = {section.value: {"enabled": False} for section in sorted(others)}
    trust = {} if ca_file is None else {"tls": {"ca_file": str(ca_file)}}
    interval = f"{round(interval_seconds * 1000)}ms"
    deployments = [
        {"name": f"deployment-{number:05}", "url": url, **trust, "sections": off} for number, url in enumerate(urls)
    ]
    # JSON is YAML
    path.write_text(json.dumps({"global": {"interval": interval, "timeout": interval}, "deployments": deployments}))
    return path
