"""An HTTP server of the simulation: a port, routes, perhaps a DERP relay, and faults that can be
played at any time."""

from __future__ import annotations

import asyncio
import ssl
from abc import ABC, abstractmethod
from collections import Counter
from pathlib import Path
from types import TracebackType
from typing import Self

from aiohttp import web
from aiohttp.typedefs import Handler

from exporter.demo import certificates, faults, relay_http
from exporter.demo.listener import ADDRESSES, Listener
from exporter.demo.relay import SimulatedRelay
from exporter.demo.relay_http import Gate

# how long a stop waits for answers under way
_SHUTDOWN_SECONDS = 0.1


class SimulatedServer(ABC):
    """Serves the routes of a subclass until it is left.

    Args:
        host: What its URL names it: a name of loopback or an address.
        version: What the header X-Coder-Build-Version says.
        certificate: PEM file with key and chain; None for plain HTTP.
        families: Of `ipv4` and `ipv6`; None for all that this host has.
        relay: Answers at /derp, before the routes; None: it has no relay.
    """

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        version: str = "v2.26.0",
        certificate: Path | None = None,
        families: tuple[str, ...] | None = None,
        relay: SimulatedRelay | None = None,
    ) -> None:
        self.host = host
        self.version = version
        self._relay = relay
        self.requests: Counter[str] = Counter()
        """Requests so far, by path."""
        self._certificate = certificate
        self._families = families
        self._tls: ssl.SSLContext | None = None
        self._faults: list[faults.Fault] = []
        self._runner: web.AppRunner | None = None
        self._listener: Listener | None = None

    @abstractmethod
    def routes(self) -> list[web.RouteDef]:
        """Return what this server answers."""

    @property
    def listener(self) -> Listener:
        if self._listener is None:
            raise RuntimeError("the simulated server is not running")
        return self._listener

    @property
    def relay(self) -> SimulatedRelay:
        if self._relay is None:
            raise RuntimeError("the simulated server has no relay")
        return self._relay

    @property
    def port(self) -> int:
        return self.listener.port

    @property
    def url(self) -> str:
        scheme = "http" if self._certificate is None else "https"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{scheme}://{host}:{self.port}"

    @property
    def broken(self) -> bool:
        """Whether it plays a fault or refuses connections."""
        return bool(self._faults) or self.listener.listening != frozenset(self.listener.families)

    async def __aenter__(self) -> Self:
        if self._certificate is not None:
            self._tls = await asyncio.to_thread(certificates.serve_with, self._certificate)
        app = web.Application(middlewares=[self._play_faults])
        if self._relay is not None:
            app.add_routes(relay_http.routes(self._relay))
        app.add_routes(self.routes())
        app.on_response_prepare.append(self._sign)
        # a client that goes away ends its handler, so that a fault that hangs keeps nothing behind
        self._runner = web.AppRunner(
            app, access_log=None, handler_cancellation=True, shutdown_timeout=_SHUTDOWN_SECONDS
        )
        await self._runner.setup()
        if self._runner.server is None:
            raise RuntimeError("the simulated server did not start")
        self._listener = Listener(self._accept, tls=self._tls, families=self._families)
        try:
            await self._listener.start()
        except BaseException:
            await self._runner.cleanup()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for fault in tuple(self._faults):
            self.heal(fault)
        await self.listener.stop()
        if self._runner is not None:
            await self._runner.cleanup()

    def _accept(self) -> asyncio.BaseProtocol:
        server = self._runner.server if self._runner is not None else None
        assert server is not None
        return server() if self._relay is None else Gate(self._relay, server)

    def break_with(self, fault: faults.Fault) -> None:
        """Play a fault from now on; the latest one is asked first."""
        self._faults.insert(0, fault)

    def heal(self, fault: faults.Fault) -> None:
        """Take a fault back; does nothing when it is not played."""
        if fault in self._faults:
            self._faults.remove(fault)
            fault.lifted()

    def refuse_connections(self, *families: str) -> None:
        """Close the port, of these families or of all, and cut what stands: the server has gone."""
        for family in families or tuple(ADDRESSES):
            self.listener.close(family)
        self.cut_connections(*families)

    def swallow_connections(self) -> None:
        """Leave everybody without an answer who connects, and cut what stands: the way here is lost."""
        for family in ADDRESSES:
            self.listener.silence(family)
        self.cut_connections()

    def cut_connections(self, *families: str) -> None:
        """End every connection, of these families or of all, without a word."""
        server = self._runner.server if self._runner is not None else None
        standing = {connection.transport for connection in server.connections} if server is not None else set()
        if self._relay is not None:
            standing |= {client.transport for client in self._relay.connected}
        for transport in standing:
            if transport is not None and (not families or _family_of(transport) in families):
                transport.abort()

    async def accept_connections(self, *families: str) -> None:
        """Open the port again, of these families or of all."""
        for family in families or self.listener.families:
            await self.listener.open(family)

    async def show_certificate(self, pem_file: Path) -> None:
        """Show another certificate to new connections."""
        if self._tls is None:
            raise RuntimeError("the simulated server speaks plain HTTP")
        await asyncio.to_thread(self._tls.load_cert_chain, pem_file)

    @web.middleware
    async def _play_faults(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        self.requests[request.path] += 1
        try:
            for fault in tuple(self._faults):
                answer = await fault.answer(request)
                if answer is not None:
                    return answer
            return await handler(request)
        except ConnectionError:
            # the client has gone meanwhile, so nobody reads this
            if request.transport is not None:
                request.transport.abort()
            return web.Response(status=500)

    async def _sign(self, request: web.Request, response: web.StreamResponse) -> None:
        if request.get(faults.FOREIGN, False):
            response.headers["Server"] = faults.FOREIGN_SERVER
            return
        # Coder names itself by its version and has no header Server
        response.headers.pop("Server", None)
        if self.bears_version(request.path):
            response.headers["X-Coder-Build-Version"] = request.get(faults.VERSION, self.version)

    def bears_version(self, path: str) -> bool:
        """Tell whether answers of this path carry the header with the version."""
        return True


def _family_of(transport: asyncio.BaseTransport) -> str:
    return "ipv6" if ":" in transport.get_extra_info("sockname")[0] else "ipv4"
