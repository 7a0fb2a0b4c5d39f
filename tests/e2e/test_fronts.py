"""Real reverse proxies in front of a simulated Coder: what they break, and which code says so."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from exporter.app import Application
from exporter.check import collect
from exporter.clock import SystemClock
from exporter.config.load import load_config
from exporter.demo.coderd import Role, SimulatedCoder
from exporter.health.model import Section
from tests.support.ports import free_port

NeedTool = Callable[[str], str]
PATIENCE_SECONDS = 30.0

PASS_WEBSOCKETS = "proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection upgrade;"
NGINX = """
daemon off; pid {directory}/pid; error_log stderr;
events {{ }}
http {{
  access_log off; client_body_temp_path {directory}; proxy_temp_path {directory};
  fastcgi_temp_path {directory}; uwsgi_temp_path {directory}; scgi_temp_path {directory};
  server {{ listen 127.0.0.1:{port}; {server} }}
}}
"""
HAPROXY = """
global
  maxconn 100
defaults
  mode http
  timeout connect 2s
  timeout client 5s
  timeout server 5s
frontend front
  bind 127.0.0.1:{port}
  {frontend}
  default_backend coder
backend coder
  server coder {upstream}
"""
CADDY = """
{{
  admin off
  auto_https off
  persist_config off
}}
http://127.0.0.1:{port} {{
  bind 127.0.0.1
  {site}
}}
"""


@asynccontextmanager
async def running(program: str, *arguments: str, port: int) -> AsyncIterator[None]:
    """Have a server process; it is ready when its port takes connections."""
    process = await asyncio.create_subprocess_exec(
        program, *arguments, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while True:
                assert process.returncode is None, f"{program} ended with {process.returncode}"
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                except OSError:
                    await asyncio.sleep(0.02)  # a foreign process has no other way to say that it listens
                    continue
                writer.close()
                await writer.wait_closed()
                break
        yield
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


@asynccontextmanager
async def nginx(need_tool: NeedTool, directory: Path, server: str) -> AsyncIterator[str]:
    port = free_port()
    path = directory / "nginx.conf"
    path.write_text(NGINX.format(directory=directory, port=port, server=server))
    async with running(need_tool("nginx"), "-e", "stderr", "-p", str(directory), "-c", str(path), port=port):
        yield f"http://127.0.0.1:{port}"


@pytest.fixture
async def coder() -> AsyncIterator[SimulatedCoder]:
    async with SimulatedCoder(host="127.0.0.1", licensed=False) as server:
        yield server


async def codes_at(url: str, coder: SimulatedCoder) -> set[str]:
    """Return the codes of the sections behind a front that one round observes; relays behind fronts
    are in test_relays.py."""
    environ = {
        "CODER_URL": url,
        "CODER_HEALTH_DEPLOYMENT": "prod",
        "CODER_SESSION_TOKEN": coder.tokens[Role.OWNER].reveal(),
    }
    application = Application(load_config(None, environ), clock=SystemClock())
    await application.check([Section.ACCESS_URL, Section.WEBSOCKET, Section.WORKSPACE_PROXY])
    return {
        finding.code
        for outcome in collect(application)
        for health in outcome.healths
        for finding in health.report.findings
    }


@pytest.mark.parametrize(
    ("server", "expected"),
    [
        ("location / {{ proxy_pass {url}; {websockets} }}", set()),
        # the usual mistake: nothing passes the upgrade on, and Coder says that it saw none
        ("location / {{ proxy_pass {url}; }}", {"EWS01"}),
        (
            "location / {{ proxy_pass {url}; {websockets} }} location /api/v2/debug {{ return 403; }}",
            {"EWS01", "XWS01"},
        ),
        ("location / {{ return 302 https://sso.example.org/; }}", {"XACS02", "EWS01", "XWS01", "EWP02"}),
        ("location / {{ proxy_pass http://127.0.0.1:9; }}", {"EACS04", "XACS06", "EWS01", "XWS01", "EWP02"}),
        (
            "location / {{ default_type text/html; return 200 '<html>Sign in</html>'; }}",
            {"XACS01", "XACS04", "EWS01", "XWS01", "EWP02"},
        ),
        ("location / {{ return 444; }}", {"EACS03", "EWS01", "EWP02"}),
    ],
)
async def test_behind_nginx(
    need_tool: NeedTool, tmp_path: Path, coder: SimulatedCoder, server: str, expected: set[str]
) -> None:
    """What nginx passes is healthy, and each of its ways to be in the way has its codes."""
    text = server.format(url=coder.url, websockets=PASS_WEBSOCKETS)
    async with nginx(need_tool, tmp_path, text) as url:
        assert expected == await codes_at(url, coder)


@pytest.mark.parametrize(
    ("frontend", "expected"),
    [
        ("", set()),
        (
            "http-request deny deny_status 403 if { hdr(Upgrade) -i websocket }",
            {"EWS01", "XWS01"},
        ),
        ("http-request return status 503 if { path /healthz }", {"EACS04", "XACS06"}),
        ("http-request silent-drop if { path /healthz }", {"EACS03"}),
    ],
)
async def test_behind_haproxy(
    need_tool: NeedTool, tmp_path: Path, coder: SimulatedCoder, frontend: str, expected: set[str]
) -> None:
    """The same for HAProxy."""
    port = free_port()
    path = tmp_path / "haproxy.cfg"
    path.write_text(HAPROXY.format(port=port, frontend=frontend, upstream=coder.url.removeprefix("http://")))
    async with running(need_tool("haproxy"), "-db", "-f", str(path), port=port):
        assert expected == await codes_at(f"http://127.0.0.1:{port}", coder)


@pytest.mark.parametrize(
    ("site", "expected"),
    [
        ("reverse_proxy {upstream}", set()),
        ("reverse_proxy 127.0.0.1:9", {"EACS04", "XACS06", "EWS01", "XWS01", "EWP02"}),
        ("redir https://sso.example.org/", {"XACS02", "EWS01", "XWS01", "EWP02"}),
    ],
)
async def test_behind_caddy(
    need_tool: NeedTool, tmp_path: Path, coder: SimulatedCoder, site: str, expected: set[str]
) -> None:
    """The same for Caddy."""
    port = free_port()
    path = tmp_path / "Caddyfile"
    path.write_text(CADDY.format(port=port, site=site.format(upstream=coder.url.removeprefix("http://"))))
    async with running(need_tool("caddy"), "run", "--adapter", "caddyfile", "--config", str(path), port=port):
        assert expected == await codes_at(f"http://127.0.0.1:{port}", coder)
