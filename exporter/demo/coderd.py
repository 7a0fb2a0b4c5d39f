"""A simulated Coder server: the routes that the exporter uses, answered as a real one does.

Source of shapes, statuses and headers: recordings of a real server (`answers/ORIGIN.md`).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import secrets
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from aiohttp import WSCloseCode, WSMsgType, web

from exporter.clock import Clock, SystemClock
from exporter.demo import answers, faults
from exporter.demo.relay import SimulatedRelay
from exporter.demo.server import SimulatedServer
from exporter.demo.state import ORGANIZATION_ID, CoderState, Role, make_token
from exporter.health.provisioner_daemons import DEFAULT_STALE_AFTER_SECONDS
from exporter.secret import Secret
from exporter.wire.derp_map import STUN_OFF, DerpMap, DerpNode, DerpRegion, dump_derp_map

__all__ = ["DEPLOYMENT_ID", "EMBEDDED_REGION_ID", "Role", "SimulatedCoder", "make_token"]

DEPLOYMENT_ID = "887128fc-c881-4e8b-899c-6a5186d3798f"
EMBEDDED_REGION_ID = 999
# how soon a map that has changed is sent; a real server looks every 5 s
_MAP_SECONDS = 0.2
# Source: coderd/debug.go
_ECHO_PATIENCE_SECONDS = 10.0
_TOKEN_FORM = re.compile(r"[A-Za-z0-9]{10}-[A-Za-z0-9]{22}")
_KEY_ID_CHARS = 10
# what the list of provisioner daemons may be asked for. Source: coder-interfaces, section 4.1
_DAEMON_QUERY = {"limit", "ids", "tags", "status", "offline", "max_age"}
# a web application's first page; the real one is Coder's own site
_SITE = "<!doctype html><html><head><title>Coder</title></head><body><div id='root'></div></body></html>"


class SimulatedCoder(SimulatedServer):
    """A Coder server that answers at its access URL.

    Args:
        list_proxies: Gives what it knows of its workspace proxies, in the order of its answers.
        list_regions: Gives the regions of its DERP map besides that of its own relay.
        licensed: Whether its license has workspace proxies.
        clock: Where the times in its answers come from.
        state: What it knows together with other servers of the deployment; None: by itself.
        relay: Its own relay; None: one that stands alone.
        host, version, certificate, families: As of SimulatedServer.

    Attributes:
        read_report: Gives its health report, anew when it is told so; None: the recording of a healthy one.
        force_websockets: It tells clients to reach relays by WebSocket only.
        direct_disabled: It tells clients to make no direct connections, and takes STUN out of its map.
    """

    def __init__(
        self,
        *,
        list_proxies: Callable[[], Sequence[answers.ProxyFacts]] = tuple,
        list_regions: Callable[[], Sequence[DerpRegion]] = tuple,
        licensed: bool = True,
        deployment_id: str = DEPLOYMENT_ID,
        clock: Clock | None = None,
        host: str = "localhost",
        version: str = "v2.26.0",
        certificate: Path | None = None,
        families: tuple[str, ...] | None = None,
        state: CoderState | None = None,
        relay: SimulatedRelay | None = None,
    ) -> None:
        super().__init__(
            host=host, version=version, certificate=certificate, families=families, relay=relay or SimulatedRelay()
        )
        self.force_websockets = False
        self.direct_disabled = False
        self.deployment_id = deployment_id
        self.licensed = licensed
        self.state = state or CoderState()
        self.read_report: Callable[[bool], Awaitable[dict[str, Any]]] | None = None
        self.list_proxies = list_proxies
        self._list_regions = list_regions
        self._clock = clock or SystemClock()

    @property
    def tokens(self) -> dict[Role, Secret]:
        """One session token a role. They are never shown."""
        return self.state.tokens

    @property
    def access_url(self) -> str:
        """What it calls its access URL."""
        return self.url

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/healthz", self._healthz),
            web.get("/latency-check", self._latency_check),
            web.get("/api/v2/buildinfo", self._buildinfo),
            web.get("/api/v2/derp-map", self._derp_map),
            web.get("/api/v2/workspaceagents/connection", self._connection),
            web.get("/api/v2/debug/ws", self._echo),
            web.get("/api/v2/workspaceproxies", self._workspace_proxies),
            web.get("/api/v2/regions", self._regions),
            web.get("/api/v2/debug/health", self._debug_health),
            web.get("/api/v2/debug/health/settings", self._health_settings),
            web.get("/api/v2/deployment/config", self._deployment_config),
            web.get("/api/v2/users/me/keys/{id}", self._api_key),
            web.get("/api/v2/organizations", self._organizations),
            web.get("/api/v2/organizations/{id}/provisionerdaemons", self._provisioner_daemons),
            web.get("/api/v2/replicas", self._replicas),
            web.route("*", "/api/{rest:.*}", self._unknown_route),
            web.get("/{rest:.*}", self._site),
        ]

    async def _healthz(self, _request: web.Request) -> web.Response:
        answer = web.Response(text="OK")
        answer.set_cookie("csrf_token", secrets.token_urlsafe(32), httponly=True)
        return answer

    async def _latency_check(self, _request: web.Request) -> web.Response:
        return web.Response(text="OK", headers={"Access-Control-Allow-Origin": "*", "Timing-Allow-Origin": "*"})

    async def _buildinfo(self, _request: web.Request) -> web.Response:
        return web.json_response(
            answers.buildinfo(version=self.version, access_url=self.access_url, deployment_id=self.deployment_id)
        )

    async def _derp_map(self, request: web.Request) -> web.StreamResponse:
        if not faults.wants_websocket(request):
            return web.Response(
                status=426,
                text=answers.upgrade_required(),
                headers={"Upgrade": "websocket", "Connection": "Upgrade"},
            )
        socket = web.WebSocketResponse(compress=False, heartbeat=15.0)
        await socket.prepare(request)
        async with asyncio.TaskGroup() as group:
            sending = group.create_task(self._send_maps(socket))
            async for _message in socket:
                pass  # it only listens
            sending.cancel()
        return socket

    async def _send_maps(self, socket: web.WebSocketResponse) -> None:
        """Send the map, and again whenever it is another one."""
        sent = None
        with contextlib.suppress(ConnectionError):
            while True:
                derp_map = self.derp_map()
                if derp_map != sent:
                    await socket.send_bytes(json.dumps(dump_derp_map(derp_map)).encode())
                    sent = derp_map
                await asyncio.sleep(_MAP_SECONDS)

    def derp_map(self) -> DerpMap:
        """Return the map of now."""
        embedded = DerpRegion(
            region_id=EMBEDDED_REGION_ID,
            code="coder",
            name="Coder Embedded Relay",
            embedded=True,
            nodes=(
                DerpNode(
                    name=f"{EMBEDDED_REGION_ID}b",
                    region_id=EMBEDDED_REGION_ID,
                    host_name=self.host,
                    stun_port=STUN_OFF,
                    derp_port=self.port,
                    force_http=not self.url.startswith("https:"),
                ),
            ),
        )
        regions = sorted((embedded, *self._list_regions()), key=lambda region: region.region_id)
        return DerpMap(regions=tuple(map(_without_stun, regions) if self.direct_disabled else regions))

    async def _connection(self, request: web.Request) -> web.Response:
        _role, refusal = self._sign_in(request)
        if refusal is not None:
            return refusal
        return web.json_response(
            answers.recorded("connection")
            | {
                "derp_map": dump_derp_map(self.derp_map()),
                "derp_force_websockets": self.force_websockets,
                "disable_direct_connections": self.direct_disabled,
            }
        )

    async def _echo(self, request: web.Request) -> web.StreamResponse:
        role, refusal = self._sign_in(request)
        if refusal is not None:
            return refusal
        if role is not Role.OWNER:
            return web.json_response(answers.recorded("forbidden"), status=403)
        if not faults.wants_websocket(request):
            return web.Response(status=426, text=answers.upgrade_required())
        socket = web.WebSocketResponse(compress=False)
        await socket.prepare(request)
        while True:
            try:
                async with asyncio.timeout(_ECHO_PATIENCE_SECONDS):
                    message = await socket.receive()
            except TimeoutError:
                break
            if message.type is WSMsgType.TEXT:
                await socket.send_str(message.data)
            elif message.type is WSMsgType.BINARY:
                await socket.send_bytes(message.data)
            else:
                break
        await socket.close(code=WSCloseCode.GOING_AWAY)
        return socket

    async def _workspace_proxies(self, request: web.Request) -> web.Response:
        if not self.licensed:
            # the license comes before the token
            return web.json_response(answers.recorded("not-licensed"), status=403)
        _role, refusal = self._sign_in(request)
        if refusal is not None:
            return refusal
        return web.json_response(
            answers.workspace_proxies(
                self.list_proxies(),
                access_url=self.access_url,
                deployment_id=self.deployment_id,
                now=self._clock.now(),
            )
        )

    async def _regions(self, request: web.Request) -> web.Response:
        _role, refusal = self._sign_in(request)
        if refusal is not None:
            return refusal
        known = self.list_proxies() if self.licensed else ()
        return web.json_response(answers.regions(known, access_url=self.access_url, deployment_id=self.deployment_id))

    async def _debug_health(self, request: web.Request) -> web.Response:
        refusal = self._want_owner(request)
        if refusal is not None:
            return refusal
        wanted = request.query.get("format", "json") or "json"
        if wanted not in {"json", "text"}:
            return web.json_response(answers.recorded("unknown-format"), status=400)
        report = await self._report(force=request.query.get("force") == "true")
        if wanted == "text":
            return web.Response(text=_write_text(report))
        return web.json_response(report)

    async def _report(self, *, force: bool) -> dict[str, Any]:
        if self.read_report is not None:
            return await self.read_report(force)
        healthy: dict[str, Any] = answers.recorded("debug-health")
        return healthy | {"time": answers.write_time(self._clock.now()), "coder_version": self.version}

    async def _health_settings(self, request: web.Request) -> web.Response:
        refusal = self._want_owner(request)
        if refusal is not None:
            return refusal
        dismissed = {"dismissed_healthchecks": list(self.state.dismissed)}
        return web.json_response(answers.recorded("health-settings") | dismissed)

    async def _deployment_config(self, request: web.Request) -> web.Response:
        refusal = self._want_owner(request)
        if refusal is not None:
            return refusal
        return web.json_response(
            answers.deployment_config(
                access_url=self.access_url,
                refresh_seconds=self.state.refresh_seconds,
                latency_threshold_seconds=self.state.latency_threshold_seconds,
            )
        )

    async def _api_key(self, request: web.Request) -> web.Response:
        role, refusal = self._sign_in(request)
        if refusal is not None or role is None:
            return refusal or web.Response(status=500)
        wanted = request.match_info["id"]
        if wanted != self.tokens[role].reveal()[:_KEY_ID_CHARS]:
            return web.json_response(answers.recorded("not-found"), status=404)
        now = self._clock.now()
        return web.json_response(answers.api_key(self.state.key(role, now=now), id=wanted, now=now))

    async def _organizations(self, request: web.Request) -> web.Response:
        _role, refusal = self._sign_in(request)
        if refusal is not None:
            return refusal
        return web.json_response(answers.recorded("organizations"))

    async def _provisioner_daemons(self, request: web.Request) -> web.Response:
        role, refusal = self._sign_in(request)
        if refusal is not None:
            return refusal
        if role is not Role.OWNER or request.match_info["id"] not in {ORGANIZATION_ID, "coder"}:
            return web.json_response(answers.recorded("not-found"), status=404)
        if not request.query.keys() <= _DAEMON_QUERY:
            return web.json_response(answers.recorded("invalid-query"), status=400)
        now = self._clock.now()
        return web.json_response(
            [
                answers.daemon(facts, status="idle" if recent else "offline")
                for facts in self.state.daemons.values()
                if (recent := facts.age_seconds(now) <= DEFAULT_STALE_AFTER_SECONDS)
                or request.query.get("offline") == "true"
            ]
        )

    async def _replicas(self, request: web.Request) -> web.Response:
        role, refusal = self._sign_in(request)
        if refusal is not None:
            return refusal
        if role is not Role.OWNER:
            return web.json_response(answers.recorded("not-found"), status=404)
        return web.json_response(answers.replicas(self.state.replicas.values()))

    async def _unknown_route(self, _request: web.Request) -> web.Response:
        return web.json_response(answers.recorded("unknown-route"), status=404)

    async def _site(self, _request: web.Request) -> web.Response:
        return web.Response(text=_SITE, content_type="text/html")

    def _want_owner(self, request: web.Request) -> web.Response | None:
        """Return the refusal of whoever is not an owner; None for an owner."""
        role, refusal = self._sign_in(request)
        if refusal is None and role is not Role.OWNER:
            return web.json_response(answers.recorded("forbidden"), status=403)
        return refusal

    def _sign_in(self, request: web.Request) -> tuple[Role | None, web.Response | None]:
        """Return the role of the request's token, or the refusal that answers it."""
        given = _given_token(request)
        known = next((role for role in Role if given is not None and self._is_token(role, given)), None)
        if known in self.state.accepted:
            return known, None
        if given is None:
            answer = answers.recorded("signed-out")
        elif _TOKEN_FORM.fullmatch(given) is None:
            answer = answers.recorded("malformed-token")
        elif known is Role.EXPIRED:
            answer = answers.recorded("unknown-token") | {"detail": "API key has expired."}
        else:
            answer = answers.recorded("unknown-token")
        challenge = (
            'Bearer realm="coder", error="invalid_token", error_description="The access token has expired", '
            f'resource_metadata="{self.access_url}/.well-known/oauth-protected-resource"'
        )
        return None, web.json_response(answer, status=401, headers={"WWW-Authenticate": challenge})

    def _is_token(self, role: Role, given: str) -> bool:
        return secrets.compare_digest(given.encode(), self.tokens[role].reveal().encode())


def _write_text(report: dict[str, Any]) -> str:
    """Write the short form, that leaves out proxies and provisioner daemons."""
    names = ("derp", "access_url", "websocket", "database")
    lines = [f"{name}: {str(report[name].get('healthy', False)).lower()}" for name in names]
    return "\n".join([f"time: {report['time']}", f"healthy: {str(report['healthy']).lower()}", *lines]) + "\n"


def _given_token(request: web.Request) -> str | None:
    bearer = request.headers.get("Authorization", "").removeprefix("Bearer ").strip()
    return (
        request.cookies.get("coder_session_token")
        or request.query.get("coder_session_token")
        or request.headers.get("Coder-Session-Token")
        or bearer
        or None
    )


def _without_stun(region: DerpRegion) -> DerpRegion:
    """What Coder leaves of a region where direct connections are disabled: perhaps no node at all.

    Source: derp-stun, section 6.2
    """
    nodes = (replace(node, stun_port=STUN_OFF) for node in region.nodes if node.relay)
    return replace(region, nodes=tuple(nodes))
