"""Servers that send back our own session token, and passwords of theirs: no way out of this process shows them."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer

from exporter import check, log
from exporter.app import Application
from exporter.metrics.negotiation import Format
from tests.support.clock import ShiftedClock
from tests.support.exposition import read
from tests.support.raw_http import Answer, RawServer, json_response, response
from tests.support.scripted_coder import QUIET, configure

DATA = Path(__file__).parent / "data" / "coder"
TOKEN = "AbCdEfGhIj-SECRETSECRETSECRET1234"
URL = "postgres://coder:p4ssw0rd@db/coder"
ECHO = f"sent Coder-Session-Token: {TOKEN} to {URL}"
# what must not be told, in whatever case and with whatever for the hyphen
TOLD = ("secretsecret", "p4ssw0rd")
VERSION = {"X_Coder_Build_Version": f"v2.26.0+{TOKEN}"}
# without these an answer is not what it was any more
KEPT = {"time", "severity", "id", "organization_id", "last_seen_at", "relay_address", "path_app_url", "dashboard_url"}
PAGES = ["/", "/metrics", "/api/v1/health", "/config", "/-/ready", "/-/healthy"]
SECTIONS = ["access_url", "websocket", "database", "workspace_proxy", "provisioner_daemons", "report", "exporter"]


def spoil(value: Any, name: str = "") -> Any:
    """Put the secrets behind every text."""
    if isinstance(value, dict):
        return {key: spoil(inner, key) for key, inner in value.items()}
    if isinstance(value, list):
        return [spoil(inner, name) for inner in value]
    return f"{value} {ECHO}" if isinstance(value, str) and name not in KEPT else value


def recorded(name: str) -> Any:
    return json.loads((DATA / f"{name}.json").read_text())


def make_report() -> dict[str, Any]:
    report: dict[str, Any] = spoil(recorded("proxies-one-down-health"))
    for name in ("websocket", "database", "workspace_proxy", "access_url"):
        warnings = [{"code": "EUNKNOWN", "message": ECHO}, {"code": TOKEN, "message": ECHO}]
        report[name] |= {"severity": "error", "error": f"EWS01: {ECHO}", "warnings": warnings}
    foreign = {"severity": "error", "error": f"{'x' * 230} {TOKEN}", "warnings": [{"code": "EPS01", "message": ECHO}]}
    return report | {f"seen {TOKEN}": foreign, "pubsub": foreign}


class Echoes(dict[str, Answer]):
    """Answers of a server that tells everybody what it was sent: in good order, else with `status`."""

    def __init__(self) -> None:
        super().__init__({"": b""})  # an empty one would be none
        self.status = 200
        self.url = ""

    def get(self, path: str, default: Any = None) -> Any:
        path = path.partition("?")[0]
        if self.status in (301, 302):
            return response(self.status, ECHO.encode(), Location=f"/login?redirect=%2F%3Ft%3D{TOKEN}", **VERSION)
        if self.status != 200:
            return json_response(json.dumps({"message": ECHO, "detail": ECHO}), self.status, **VERSION)
        if path == "/healthz":
            return response(200, f'{{"request":"x\\n{TOKEN}\\nq","url":"{URL}"}}'.encode(), Server=TOKEN, **VERSION)
        if path in ("/api/v2/debug/ws", "/api/v2/derp-map"):
            return response(400, ECHO.encode(), Server=TOKEN)
        for wanted, value in self._list():
            if path.endswith(wanted):
                return json_response(json.dumps(value), **VERSION)
        return json_response(json.dumps({"message": f"Route not found. {ECHO}"}), 404, **VERSION)

    def _list(self) -> Iterator[tuple[str, Any]]:
        yield "/buildinfo", spoil(recorded("buildinfo")) | {"dashboard_url": self.url}
        yield "/debug/health", make_report()
        yield "/debug/health/settings", {"dismissed_healthchecks": ["DERP", f"New {TOKEN}", ECHO]}
        yield "/organizations", spoil(recorded("organizations"))
        yield "/provisionerdaemons", spoil(recorded("provisionerdaemons"))
        yield "/deployment/config", recorded("deployment-config")
        proxies = [{"id": f"1-{TOKEN}", "name": f"eu {TOKEN}", "path_app_url": f"{self.url}/x", "version": TOKEN}]
        yield "/workspaceproxies", {"regions": proxies}
        yield "/healthz-report", {"errors": [ECHO], "warnings": [ECHO]}
        yield "/keys/AbCdEfGhIj", spoil(recorded("apikey")) | {"expires_at": "2999-01-01T00:00:00Z"}
        hosts = [f"a {TOKEN}", f"b-{TOKEN}"]
        yield "/replicas", [spoil({"id": host, "hostname": host, "relay_address": self.url}) for host in hosts]


async def tell(application: Application) -> dict[str, str]:
    """Return everything that leaves this process, by where it does."""
    told = {}
    for wanted in Format:
        body = b"".join(application.board.render(wanted))
        read(body, wanted)  # what was masked clashes with nothing
        told[str(wanted)] = body.decode()
    outcomes = check.collect(application)
    told |= {wanted: check.render(outcomes, wanted) for wanted in check.FORMATS}
    sections = [f"/api/v1/health/prod/{section}" for section in [*SECTIONS, *application.mutes.since_timestamp_seconds]]
    async with TestClient(TestServer(application.web())) as client:
        for path in [*PAGES, *sections]:
            async with client.get(path) as answer:
                told[path] = await answer.text()
    return told


@pytest.mark.parametrize("status", [200, 302, 401, 403, 500])
@pytest.mark.parametrize("format", ["logfmt", "json"])
async def test_what_servers_send_back_is_told_nowhere(tmp_path: Path, status: int, format: str) -> None:
    """Neither the token nor a password: in the log, the metrics, the pages, the JSON and every form of `check`."""
    clock, echoes, lines = ShiftedClock(), Echoes(), io.StringIO()
    log.configure("debug", format, lines)
    async with RawServer(echoes) as server:
        echoes.url = server.url
        deployment = {"name": "prod", "url": server.url, "session_token": TOKEN, "sections": QUIET}
        application = await configure(tmp_path, clock, deployment)
        await application.check()
        echoes.status = status
        for _ in range(2):
            clock.ahead_seconds += 30
            await application.check()
        told = await tell(application)
        await application.close()
    assert TOKEN in {headers.get("coder-session-token") for headers in server.headers}
    for where, text in {**told, "log": lines.getvalue()}.items():
        for secret in TOLD:
            assert secret not in text.lower(), where
    if status == 200:
        wanted = (*Format, *check.FORMATS, "/", "/api/v1/health")
        assert [] == [where for where in map(str, wanted) if "secret" not in told[where]]
