"""A simulated workspace proxy: its health routes and its relay, answered as a real one does.

Like a real one it asks its primary for the build information before it reports about itself.
"""

from __future__ import annotations

import ssl
from pathlib import Path

import aiohttp
from aiohttp import web

from exporter.demo import answers
from exporter.demo.relay import SimulatedRelay
from exporter.demo.server import SimulatedServer

# a real proxy answers any other path with a page of its own and this status
_UNKNOWN_PATH_STATUS = 400
_PAGE = "<!doctype html><html><head><title>Head to the Dashboard</title></head><body>{}</body></html>"


class SimulatedProxy(SimulatedServer):
    """A workspace proxy that reports about itself.

    Args:
        name: As its primary lists it.
        id: UUID, as its primary lists it.
        region_id: Coder's small number of it, unique in a deployment.
        primary_url: The access URL of its deployment.
        trust: What it trusts when it talks to its primary; None for plain HTTP.
        host, version, certificate, families: As of SimulatedServer.
    """

    def __init__(
        self,
        *,
        name: str,
        id: str,
        region_id: int,
        primary_url: str,
        trust: ssl.SSLContext | None = None,
        host: str = "127.0.0.1",
        version: str = "v2.26.0",
        certificate: Path | None = None,
        families: tuple[str, ...] | None = ("ipv4",),
    ) -> None:
        super().__init__(host=host, version=version, certificate=certificate, families=families, relay=SimulatedRelay())
        self.name = name
        self.id = id
        self.region_id = region_id
        self.primary_url = primary_url
        self.shutting_down = False
        """While True it answers its report route as a real proxy does that is being stopped."""
        self._trust = trust

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/healthz", self._healthz),
            web.get("/healthz-report", self._healthz_report),
            web.get("/latency-check", self._healthz),
            web.get("/api/v2/buildinfo", self._buildinfo),
            web.route("*", "/{rest:.*}", self._unknown_path),
        ]

    def bears_version(self, path: str) -> bool:
        return path != "/latency-check"

    async def _healthz(self, _request: web.Request) -> web.Response:
        return web.Response(text="OK")

    async def _healthz_report(self, _request: web.Request) -> web.Response:
        if self.shutting_down:
            return web.json_response(answers.recorded("proxy-stopped-healthz-report"), status=500)
        errors, warnings = await self._ask_primary()
        return web.json_response(answers.healthz_report(errors, warnings))

    async def _buildinfo(self, _request: web.Request) -> web.Response:
        return web.json_response(answers.proxy_buildinfo(version=self.version, primary_url=self.primary_url))

    async def _unknown_path(self, _request: web.Request) -> web.Response:
        text = _PAGE.format("This is a workspace proxy.")
        return web.Response(status=_UNKNOWN_PATH_STATUS, text=text, content_type="text/html")

    async def _ask_primary(self) -> tuple[list[str], list[str]]:
        """Return what is wrong with its primary: errors and warnings.

        Like a real proxy's, this request has no time limit of its own.
        """
        try:
            async with (
                aiohttp.ClientSession(
                    connector=aiohttp.TCPConnector(force_close=True, resolver=aiohttp.ThreadedResolver()),
                    timeout=aiohttp.ClientTimeout(total=None),
                ) as session,
                session.get(
                    f"{self.primary_url}/api/v2/buildinfo",
                    ssl=self._trust if self._trust is not None else True,
                    allow_redirects=False,
                ) as response,
            ):
                build = await response.json(content_type="application/json")
        except (aiohttp.ClientError, ValueError) as error:
            return [f"the build information of the primary cannot be read: {_say(error)}"], []
        if not isinstance(build, dict):
            return ["the build information of the primary is not an object"], []
        if build.get("workspace_proxy"):
            return ["the configured primary is itself a workspace proxy"], []
        if not _versions_match(self.version, str(build.get("version", ""))):
            return [], [f"version {self.version} differs from the primary's {build.get('version')}"]
        return [], []


def _say(error: Exception) -> str:
    if isinstance(error, aiohttp.ClientConnectorError):
        return f"no connection to {error.host}:{error.port}"
    if isinstance(error, aiohttp.ContentTypeError):
        return f"it answered status {error.status} and no JSON"
    return str(error)


def _versions_match(ours: str, primarys: str) -> bool:
    """Compare major and minor; builds of developers match all. Source: coder-interfaces, 4.5."""
    if "v0.0.0" in ours or "v0.0.0" in primarys:
        return True
    return ours.split(".")[:2] == primarys.split(".")[:2]
