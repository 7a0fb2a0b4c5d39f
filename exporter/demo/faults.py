"""What a simulated HTTP server does instead of its usual answer.

A fault is a small value that is handed to a server (`SimulatedServer.break_with`) and taken back
(`heal`). It looks at each request and answers it, or leaves it to the next fault and at last to
the server itself.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Protocol

from aiohttp import WSMsgType, web

from exporter.demo import answers

# set on a request by a fault: the answer does not come from Coder, so it bears no header of Coder's
FOREIGN = web.RequestKey("foreign", bool)
FOREIGN_SERVER = "nginx"
# the version that the answer's header names instead of the server's own
VERSION = web.RequestKey("version", str)
# the routes that look up no token; all others of the API do
_NEED_NO_TOKEN = {"/api/v2/buildinfo", "/api/v2/derp-map"}


class Fault(Protocol):
    """One thing that goes wrong."""

    async def answer(self, request: web.Request) -> web.StreamResponse | None:
        """Answer the request, or return None to leave it alone."""

    def lifted(self) -> None:
        """Let go of what still hangs: the fault is over."""


class _Momentary:
    """A fault that keeps nothing hanging."""

    def lifted(self) -> None:
        return


def wants_websocket(request: web.Request) -> bool:
    """Tell whether a request asks for a websocket."""
    return request.headers.get("Upgrade", "").lower() == "websocket"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer(_Momentary):
    """One path answers this.

    Args:
        path: Exact path.
        foreign: Somebody on the way answers, not Coder.
    """

    path: str
    status: int = 200
    body: str = ""
    content_type: str = "text/plain"
    location: str | None = None
    foreign: bool = False

    async def answer(self, request: web.Request) -> web.StreamResponse | None:
        if request.path != self.path:
            return None
        if self.foreign:
            request[FOREIGN] = True
        headers = {} if self.location is None else {"Location": self.location}
        if self.status in {204, 304}:
            return web.Response(status=self.status, headers=headers)
        return web.Response(status=self.status, text=self.body, content_type=self.content_type, headers=headers)


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignServer(_Momentary):
    """Some other web server answers everything. Its own health route says OK, like so many do."""

    async def answer(self, request: web.Request) -> web.StreamResponse | None:
        request[FOREIGN] = True
        if request.path == "/healthz":
            return web.Response(text="OK")
        page = "<html><head><title>404 Not Found</title></head><body><h1>404 Not Found</h1></body></html>"
        return web.Response(status=404, text=page, content_type="text/html")


@dataclass(frozen=True, slots=True, kw_only=True)
class BadGateway(_Momentary):
    """An ingress that reaches nothing behind it answers everything."""

    async def answer(self, request: web.Request) -> web.StreamResponse | None:
        request[FOREIGN] = True
        page = "<html><head><title>502 Bad Gateway</title></head><body><h1>502 Bad Gateway</h1></body></html>"
        return web.Response(status=502, text=page, content_type="text/html")


@dataclass(frozen=True, slots=True, kw_only=True)
class RefuseUpgrades(_Momentary):
    """Every websocket upgrade gets this status.

    Args:
        location: Where a redirect points to.
        foreign: Somebody on the way answers, not Coder.
    """

    status: int
    body: str = ""
    location: str | None = None
    foreign: bool = False

    async def answer(self, request: web.Request) -> web.StreamResponse | None:
        if not wants_websocket(request):
            return None
        if self.foreign:
            request[FOREIGN] = True
        headers = {} if self.location is None else {"Location": self.location}
        return web.Response(status=self.status, text=self.body, headers=headers)


@dataclass(frozen=True, slots=True, kw_only=True)
class CloseAfterUpgrade(_Momentary):
    """Every websocket opens, and its connection is cut at once."""

    async def answer(self, request: web.Request) -> web.StreamResponse | None:
        if not wants_websocket(request):
            return None
        socket = web.WebSocketResponse(compress=False, protocols=("derp",))
        await socket.prepare(request)
        if request.transport is not None:
            # closed, not aborted: a reset could overtake the 101
            request.transport.close()
        return socket


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeEchoes(_Momentary):
    """The echo socket sends back something else than it got."""

    addition: str = " (changed on the way)"

    async def answer(self, request: web.Request) -> web.StreamResponse | None:
        if request.path != "/api/v2/debug/ws" or not wants_websocket(request):
            return None
        socket = web.WebSocketResponse(compress=False)
        await socket.prepare(request)
        async for message in socket:
            if message.type is WSMsgType.TEXT:
                await socket.send_str(message.data + self.addition)
        return socket


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Hang(_Momentary):
    """One path does not answer until the fault is over.

    `reached` is set once a request hangs.
    """

    path: str
    reached: asyncio.Event = field(default_factory=asyncio.Event)
    _over: asyncio.Event = field(default_factory=asyncio.Event)

    async def answer(self, request: web.Request) -> web.StreamResponse | None:
        if request.path == self.path:
            self.reached.set()
            await self._over.wait()
        return None

    def lifted(self) -> None:
        self._over.set()


@dataclass(frozen=True, slots=True, kw_only=True)
class Slow(_Momentary):
    """One path takes its time before it answers as usual."""

    path: str
    seconds: float

    async def answer(self, request: web.Request) -> web.StreamResponse | None:
        if request.path == self.path:
            await asyncio.sleep(self.seconds)
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class DatabaseGone(_Momentary):
    """Coder has lost its database: it cannot look up a token, and says 401 about that."""

    async def answer(self, request: web.Request) -> web.StreamResponse | None:
        if request.path in _NEED_NO_TOKEN or not request.path.startswith("/api/"):
            return None
        return web.json_response(answers.recorded("database-gone"), status=401)


@dataclass(frozen=True, slots=True, kw_only=True)
class OtherDeployment(_Momentary):
    """Another Coder deployment answers: all is well with it, but it is not ours."""

    deployment_id: str
    access_url: str
    version: str

    async def answer(self, request: web.Request) -> web.StreamResponse | None:
        request[VERSION] = self.version
        if request.path != "/api/v2/buildinfo":
            return None
        return web.json_response(
            answers.buildinfo(version=self.version, access_url=self.access_url, deployment_id=self.deployment_id)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportErrors(_Momentary):
    """A workspace proxy reports trouble about itself."""

    errors: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    async def answer(self, request: web.Request) -> web.StreamResponse | None:
        if request.path != "/healthz-report":
            return None
        return web.json_response(answers.healthz_report(self.errors, self.warnings))
