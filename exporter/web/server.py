"""The HTTP server: what a scraper, a probe of an orchestrator or a person may ask for.

In: callables that give what is to be shown. Out: answers. No answer does I/O towards a target, and
none keeps the event loop for long: large bodies are joined and packed in a thread of their own.
"""

from __future__ import annotations

import asyncio
import errno
import itertools
import json
import logging
import os
import re
import socket
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, cast

from aiohttp import hdrs, web
from aiohttp.http_exceptions import HttpProcessingError

from exporter.errors import ConfigError
from exporter.health.model import Severity
from exporter.metrics.negotiation import Format, choose, wants_gzip
from exporter.web import health_json, pages
from exporter.web.views import DeploymentView

Render = Callable[[Format], Sequence[bytes]]
# Returns None when all is well, else one sentence that says what is not.
Ask = Callable[[], str | None]

DEFAULT_LISTEN_ADDRESS = ":26337"
DEFAULT_TELEMETRY_PATH = "/metrics"

# A body of more parts than this (about 100 kB) is joined and packed in the thread.
_MAX_INLINE_PARTS = 256
# Of JSON, some bytes each.
_CHUNKS_AT_ONCE = 4096
# So many deployments are looked at in one turn of the event loop: a few ms.
_VIEWS_AT_ONCE = 4
# gzip's first level packs label text to a ninth at a fifth of the cost of the default
_GZIP_LEVEL = 1
_GZIP_WINDOW_BITS = 31  # the largest window, with gzip's header. Source: zlib.h, deflateInit2

_PATH = re.compile(r"/[A-Za-z0-9._~/-]*")
_TAKEN_PATHS = frozenset({"/config", "/-/healthy", "/-/ready", "/api/v1/health"})

_HEADERS = {
    hdrs.SERVER: pages.NAME,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": (
        f"default-src 'none'; style-src '{pages.STYLE_DIGEST}'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    ),
    hdrs.CACHE_CONTROL: "no-store",
}


def create_app(
    *,
    render: Render,
    healthy: Ask,
    ready: Ask,
    config_text: Callable[[], str],
    landing: Callable[[], pages.Landing],
    health: Callable[[str | None], Health],
    telemetry_path: str = DEFAULT_TELEMETRY_PATH,
) -> web.Application:
    """Build the application.

    Args:
        render: The parts of the exposition in a format.
        healthy: What `/-/healthy` says: that the probing loop stands still.
        ready: What `/-/ready` says: what is being waited for.
        config_text: The configuration as YAML, already without secrets.
        health: What `/api/v1/health` tells, of one deployment when it is named.

    Raises:
        ConfigError: `telemetry_path` is no path, or that of another page. `/` is allowed: then
            there is no landing page.
    """
    if not _PATH.fullmatch(telemetry_path) or telemetry_path in _TAKEN_PATHS:
        raise ConfigError(
            [
                f"--web.telemetry-path: {telemetry_path!r} cannot be used; write a path like /metrics, of letters, "
                f"digits and -._~/ and other than {', '.join(sorted(_TAKEN_PATHS))}"
            ]
        )

    async def show_metrics(request: web.Request) -> web.Response:
        wanted = choose(_header(request, hdrs.ACCEPT))
        packed = wants_gzip(_header(request, hdrs.ACCEPT_ENCODING))
        # taken here, on the event loop: no commit comes between two parts
        parts = render(wanted)
        if len(parts) > _MAX_INLINE_PARTS:
            pool = request.app[_POOL]
            body = await asyncio.get_running_loop().run_in_executor(pool, _pack, parts, packed)
        else:
            body = _pack(parts, packed)
        headers = {hdrs.CONTENT_TYPE: wanted.content_type, hdrs.VARY: "Accept, Accept-Encoding"}
        if packed:
            headers[hdrs.CONTENT_ENCODING] = "gzip"
        return web.Response(body=body, headers=headers)

    async def show_landing(request: web.Request) -> web.Response:
        shown = landing()
        shown = replace(shown, deployments=await _collect(shown.deployments))
        render_page = partial(pages.render_landing, shown, telemetry_path=telemetry_path)
        page = await asyncio.get_running_loop().run_in_executor(request.app[_POOL], render_page)
        return _text(page, "text/html")

    async def show_config(_: web.Request) -> web.Response:
        return _text(config_text(), "text/yaml")

    async def show_health(request: web.Request) -> web.Response:
        now = health(None)
        now = replace(now, deployments=await _collect(now.deployments))
        # taken on the event loop; what is written of it may be long
        body = await asyncio.get_running_loop().run_in_executor(request.app[_POOL], _dump, now.tell_all)
        return web.Response(body=body, content_type="application/json", charset="utf-8")

    async def show_section(request: web.Request) -> web.Response:
        deployment, section = request.match_info["deployment"], request.match_info["section"]
        found = health(deployment).find(deployment, section)
        if found is None:
            answer = {"error": f"there is no section {section!r} of a deployment {deployment!r}; see /api/v1/health"}
            return web.Response(body=_dump(lambda: answer), status=404, content_type="application/json")
        bad = found["severity"] == Severity.ERROR.label
        return web.Response(body=_dump(lambda: found), status=503 if bad else 200, content_type="application/json")

    app = web.Application(middlewares=[_note_request])
    app.cleanup_ctx.append(_keep_pool)
    app.on_response_prepare.append(_set_headers)
    app.router.add_get(telemetry_path, show_metrics)
    if telemetry_path != "/":
        app.router.add_get("/", show_landing)
    app.router.add_get("/config", show_config)
    app.router.add_get("/api/v1/health", show_health)
    # with a pattern of its own: aiohttp's leaves out braces, which a name may have
    app.router.add_get("/api/v1/health/{deployment:[^/]+}/{section:[^/]+}", show_section)
    app.router.add_get("/-/healthy", _answer(healthy, "healthy"))
    app.router.add_get("/-/ready", _answer(ready, "ready"))
    return app


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """What is known at a moment, for scripts."""

    version: str
    now_timestamp_seconds: float
    deployments: Iterable[DeploymentView]

    def tell_all(self) -> dict[str, Any]:
        return health_json.tell_health(self.deployments, exporter_version=self.version, now=self.now_timestamp_seconds)

    def find(self, deployment: str, section: str) -> dict[str, Any] | None:
        """Return one section; None when there is none of that name."""
        for view in self.deployments:
            for one in view.sections if view.name == deployment else ():
                if one.section == section:
                    return health_json.tell_section(one, deployment)
        return None


async def _collect(views: Iterable[DeploymentView]) -> tuple[DeploymentView, ...]:
    """Take what is shown, each deployment at one moment; with many of them others have their turn in between."""
    taken: list[DeploymentView] = []
    for view in views:
        taken.append(view)
        if len(taken) % _VIEWS_AT_ONCE == 0:
            await asyncio.sleep(0)
    return tuple(taken)


def _dump(tell: Callable[[], dict[str, Any]]) -> bytes:
    # a name may hold half a surrogate pair: escaped, it is JSON all the same
    chunks = json.JSONEncoder(indent=2, allow_nan=False).iterencode(tell())
    parts = []
    # in slices, as one long join would keep the interpreter's lock
    while some := "".join(itertools.islice(chunks, _CHUNKS_AT_ONCE)):
        parts.append(some.encode())
    return b"".join((*parts, b"\n"))


def _answer(ask: Ask, good: str) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def answer(_: web.Request) -> web.Response:
        trouble = ask()
        return _text(f"{trouble or good}\n", "text/plain", status=503 if trouble else 200)

    return answer


def _text(text: str, content_type: str, *, status: int = 200) -> web.Response:
    # a name may hold half a surrogate pair, which YAML and JSON can write and UTF-8 cannot
    body = text.encode(errors="replace")
    return web.Response(body=body, status=status, content_type=content_type, charset="utf-8")


def _header(request: web.Request, name: str) -> str | None:
    """Return a header's value; several of the same name are one list. Source: RFC 9110, section 5.3."""
    values = request.headers.getall(name, [])
    return ", ".join(values) if values else None


def _pack(parts: Sequence[bytes], packed: bool) -> bytes:
    if not packed:
        return b"".join(parts)
    packer = zlib.compressobj(_GZIP_LEVEL, zlib.DEFLATED, _GZIP_WINDOW_BITS)
    # in slices: a join keeps the interpreter's lock, and with it the event loop, for its whole length
    steps = range(0, len(parts), _MAX_INLINE_PARTS)
    body = [packer.compress(b"".join(parts[start : start + _MAX_INLINE_PARTS])) for start in steps]
    return b"".join((*body, packer.flush()))


_POOL = web.AppKey("pool", ThreadPoolExecutor)


async def _keep_pool(app: web.Application) -> AsyncIterator[None]:
    """One thread: scrapes wait for one another and not for the pool that resolves names."""
    app[_POOL] = pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="scrape")
    yield
    pool.shutdown(wait=False, cancel_futures=True)


async def _set_headers(_: web.Request, response: web.StreamResponse) -> None:
    response.headers.update(_HEADERS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a connection may take.

    aiohttp bounds how long a connection may be idle, but neither how many there are, nor how long
    a client may take for the header of its first request, nor how long for reading an answer.

    Args:
        connections: More than this are not kept: the oldest that has not asked for anything goes.
        first_request_seconds: Until the header of the first request has to be complete.
        idle_seconds: Between two requests. Longer than the usual scrape intervals.
        answer_seconds: From the header of a request until its answer has to be read. Longer than
            `idle_seconds`: the same timer bounds both.
    """

    connections: int = 256
    first_request_seconds: float = 10.0
    idle_seconds: float = 130.0
    answer_seconds: float = 150.0


class _Guard:
    """Open connections, each with the moment at which it is cut off unless it asks again."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._loop = asyncio.get_running_loop()
        self._timers: dict[asyncio.Transport, asyncio.TimerHandle] = {}
        self._silent: dict[asyncio.Transport, None] = {}  # in the order in which they came

    def opened(self, transport: asyncio.Transport) -> None:
        if len(self._timers) >= self._limits.connections:
            # one that says nothing makes room for the newcomer; when all have asked, it has to go
            oldest = next(iter(self._silent), transport)
            oldest.abort()
            self.closed(oldest)
            if oldest is transport:
                return
        self._silent[transport] = None
        self._arm(transport, self._limits.first_request_seconds)

    def asked(self, transport: asyncio.Transport) -> None:
        if transport in self._timers:
            self._silent.pop(transport, None)
            self._arm(transport, self._limits.answer_seconds)

    def closed(self, transport: asyncio.Transport) -> None:
        self._silent.pop(transport, None)
        timer = self._timers.pop(transport, None)
        if timer is not None:
            timer.cancel()

    def abort_all(self) -> None:
        for transport in list(self._timers):
            transport.abort()
            self.closed(transport)

    def _arm(self, transport: asyncio.Transport, seconds: float) -> None:
        timer = self._timers.get(transport)
        if timer is not None:
            timer.cancel()
        self._timers[transport] = self._loop.call_later(seconds, transport.abort)


_GUARD = web.AppKey("guard", _Guard)


@web.middleware
async def _note_request(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    guard = request.config_dict.get(_GUARD)
    if guard is not None and request.transport is not None:
        guard.asked(request.transport)
    return await handler(request)


class _Guarded(asyncio.Protocol):
    """A connection of aiohttp that tells the guard when it comes and goes."""

    __slots__ = ("_guard", "_inner", "_transport")

    _transport: asyncio.Transport

    def __init__(self, inner: web.RequestHandler, guard: _Guard) -> None:
        self._inner = inner
        self._guard = guard

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # a cast, since uvloop's transports only look like asyncio's
        self._transport = cast(asyncio.Transport, transport)
        self._inner.connection_made(transport)
        self._guard.opened(self._transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._guard.closed(self._transport)
        self._inner.connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._inner.data_received(data)

    def eof_received(self) -> None:
        self._inner.eof_received()

    def pause_writing(self) -> None:
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        self._inner.resume_writing()


class _Log(logging.LoggerAdapter[logging.Logger]):
    """aiohttp's log: what is no HTTP is the sender's trouble and not worth a traceback."""

    def exception(self, msg: object, *args: object, **more: Any) -> None:
        error = more.get("exc_info")
        if isinstance(error, HttpProcessingError):
            self.debug("web.request_malformed: %s", type(error).__name__)
        else:
            super().exception(msg, *args, **more)


@asynccontextmanager
async def serve(
    app: web.Application,
    listen_addresses: Sequence[str],
    *,
    limits: Limits = Limits(),
    stop_seconds: float = 0.8,
) -> AsyncIterator[tuple[str, ...]]:
    """Serve the application; yield the addresses that are bound, as `host:port`.

    On leaving, requests that are going get half of `stop_seconds` to end; then every connection is
    cut, also that of a client that does not read.

    Args:
        listen_addresses: Each `host:port`, `[IPv6]:port` or `:port` (every address of this host);
            port 0 is any free one. A host name is bound at each of its addresses.

    Raises:
        ConfigError: Addresses that cannot be understood or bound, all at once.
    """
    guard = _Guard(limits)
    app[_GUARD] = guard
    with ExitStack() as stack:
        sockets = [stack.enter_context(sock) for sock in await _bind(listen_addresses)]
        runner = web.AppRunner(
            app,
            access_log=None,
            logger=_Log(logging.getLogger(__name__), {}),
            keepalive_timeout=limits.idle_seconds,
            lingering_time=1.0,  # for the rest of a body that no answer of ours needs
            auto_decompress=False,
            # aiohttp waits this long twice: for the request that is going, then for its cancellation
            shutdown_timeout=stop_seconds / 4,
        )
        await runner.setup()
        servers: list[asyncio.Server] = []
        try:
            handlers = runner.server
            assert handlers is not None
            loop = asyncio.get_running_loop()

            def accept() -> _Guarded:
                handler = handlers()
                handler.debug = False  # else a loop in debug mode shows tracebacks to the client
                return _Guarded(handler, guard)

            for sock in sockets:
                server = await loop.create_server(accept, sock=sock)
                servers.append(server)
            yield tuple(_name(sock) for sock in sockets)
        finally:
            for server in servers:
                server.close()
            await runner.cleanup()
            guard.abort_all()


async def _bind(listen_addresses: Sequence[str]) -> list[socket.socket]:
    sockets: list[socket.socket] = []
    problems = []
    for text in listen_addresses:
        try:
            host, port = parse_listen_address(text)
            sockets += await _listen(host, port)
        except ConfigError as error:
            problems += error.problems
        except OSError as error:
            problems.append(f"--web.listen-address: cannot listen on {text}: {_reason(error)}")
    if problems:
        for sock in sockets:
            sock.close()
        raise ConfigError(problems)
    return sockets


def _reason(error: OSError) -> str:
    """Return why without the address, which the socket module adds to its texts."""
    if error.errno is None or isinstance(error, socket.gaierror):
        text = error.strerror or str(error)
    else:
        text = os.strerror(error.errno)
    return text[:1].lower() + text[1:]


def parse_listen_address(text: str) -> tuple[str, int]:
    """Return host and port of a listen address; the host is empty for every address of this host.

    Raises:
        ConfigError: It is none.
    """
    host, colon, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    sound = colon and port.isascii() and port.isdigit() and int(port) < 65536
    if not sound or (":" in host and not bracketed) or ("[" in host) != bracketed:
        raise ConfigError(
            [
                f"--web.listen-address: {text!r} cannot be understood; write it like :26337, 127.0.0.1:26337 "
                "or [::1]:26337"
            ]
        )
    return (host[1:-1] if bracketed else host), int(port)


async def _listen(host: str, port: int) -> list[socket.socket]:
    if not host:
        return [_listen_everywhere(port)]
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    sockets: list[socket.socket] = []
    try:
        for family, address in dict.fromkeys((info[0], info[4]) for info in found):
            # a free port is chosen once
            chosen = (address[0], sockets[0].getsockname()[1] if sockets else port, *address[2:])
            sockets.append(socket.create_server(chosen, family=family))
    except OSError:
        for sock in sockets:
            sock.close()
        raise
    return sockets


def _listen_everywhere(port: int) -> socket.socket:
    """Listen on every address: one socket for IPv6 and IPv4, for IPv4 alone where there is no IPv6."""
    if socket.has_dualstack_ipv6():
        try:
            return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
        except OSError as error:
            # a kernel may know IPv6 and still have no address of it
            if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                raise
    return socket.create_server(("", port))


def _name(sock: socket.socket) -> str:
    host, port = sock.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
