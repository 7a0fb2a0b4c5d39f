"""A TCP proxy on loopback whose line can be broken while it runs.

In: where the real server is, and the fault of the moment. Out: a port. Faults are small values; one
replaces the other, for new connections and, unless told otherwise, for those that stand.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from dataclasses import dataclass
from typing import Self

from exporter.demo.listener import Listener

_CHUNK_BYTES = 65536
# What may be under way in one direction of a connection while it is delayed.
_MAX_CHUNKS = 64
# For a peer that does not read what it is sent.
_GOODBYE_SECONDS = 0.5
_FAMILY = "ipv4"


@dataclass(frozen=True, slots=True)
class Pass:
    """No fault."""


@dataclass(frozen=True, slots=True)
class Refuse:
    """Nobody listens: connections are refused."""


@dataclass(frozen=True, slots=True)
class BlackHole:
    """Connections are accepted, and nothing ever comes out of them."""


@dataclass(frozen=True, slots=True)
class Lost:
    """The way is lost: whoever connects is not even accepted, and what stands goes silent."""


@dataclass(frozen=True, slots=True)
class Reset:
    """Connections are accepted and reset at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Delay:
    """Every byte arrives so much later, in each direction. Nothing gets lost or out of order."""

    to_server_seconds: float = 0.0
    to_client_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class CutAfter:
    """The connection is closed after so many bytes from the server, counted from now on."""

    byte_count: int


Fault = Pass | Refuse | BlackHole | Lost | Reset | Delay | CutAfter


class FaultProxy:
    """Passes connections on to `host:port`, as far as the fault of the moment lets it.

    The port is kept while connections are refused. Enter it as a context.
    """

    def __init__(self, host: str, port: int) -> None:
        self._upstream = (host, port)
        self._fault: Fault = Pass()
        self._connections: set[_Connection] = set()
        self._handlers: set[asyncio.Task[object]] = set()
        self._listener = Listener(self._make_protocol, families=(_FAMILY,))
        self.host = "127.0.0.1"

    async def __aenter__(self) -> Self:
        await self._listener.start()
        return self

    async def __aexit__(self, *_exception: object) -> None:
        await self._listener.stop()
        self.reset_connections()
        # not cancelled: asyncio's streams log a handler that was
        await asyncio.gather(*self._handlers)

    @property
    def port(self) -> int:
        return self._listener.port

    @property
    def fault(self) -> Fault:
        return self._fault

    @property
    def connections(self) -> int:
        """How many connections of clients stand now."""
        return len(self._connections)

    async def break_with(self, fault: Fault, *, existing: bool = True) -> None:
        """Put a fault on the line, instead of the one before.

        Args:
            existing: Connections that stand are hit too. They are reset by faults under which they
                could not have come to be.
        """
        self._fault = fault
        if isinstance(fault, Refuse):
            self._listener.close(_FAMILY)
        elif isinstance(fault, Lost):
            self._listener.silence(_FAMILY)
        else:
            await self._listener.open(_FAMILY)
        for connection in tuple(self._connections):
            if existing:
                connection.meet(fault)

    async def heal(self) -> None:
        """Take the fault away."""
        await self.break_with(Pass())

    def retarget(self, host: str, port: int) -> None:
        """Pass new connections on to another server. `reset_connections` moves the others."""
        self._upstream = (host, port)

    def reset_connections(self) -> None:
        """Reset every connection that stands."""
        for connection in tuple(self._connections):
            connection.reset()

    def _make_protocol(self) -> asyncio.StreamReaderProtocol:
        return asyncio.StreamReaderProtocol(asyncio.StreamReader(), self._handle)

    async def _handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        handler = asyncio.current_task()
        if handler is None:
            return
        connection = _Connection(reader, writer, self._fault)
        self._handlers.add(handler)
        self._connections.add(connection)
        try:
            await connection.run(*self._upstream)
        finally:
            self._connections.discard(connection)
            self._handlers.discard(handler)


class _Connection:
    """One client and, as far as the fault lets it, its connection to the server."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, fault: Fault) -> None:
        self._client = (reader, writer)
        self._server: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._fault = fault
        self._left_bytes = fault.byte_count if isinstance(fault, CutAfter) else 0
        self._over = asyncio.Event()
        self._swallowed = False

    def meet(self, fault: Fault) -> None:
        # what a black hole has swallowed cannot be made up for
        if self._swallowed or isinstance(fault, Refuse | Reset):
            self.reset()
        self._fault = fault
        self._left_bytes = fault.byte_count if isinstance(fault, CutAfter) else 0

    def reset(self) -> None:
        """End the connection with a reset in the place of a goodbye."""
        # None on uvloop once the connection is closing by itself
        sock = self._client[1].get_extra_info("socket")
        with contextlib.suppress(OSError):
            # linger on, for no time: closing then sends a reset. Source: socket(7), SO_LINGER
            if sock is not None:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._client[1].transport.abort()
        self._over.set()

    async def run(self, host: str, port: int) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._serve(host, port, group))
                await self._over.wait()
                raise _Over
        except* (_Over, OSError):
            pass
        finally:
            writers = [self._client[1]] if self._server is None else [self._client[1], self._server[1]]
            try:
                async with asyncio.timeout(_GOODBYE_SECONDS):
                    for writer in writers:
                        # not aborted: that would throw away what is still to be sent
                        writer.close()
                        with contextlib.suppress(OSError):
                            await writer.wait_closed()
            except TimeoutError:
                pass
            finally:
                for writer in writers:
                    writer.transport.abort()

    async def _serve(self, host: str, port: int, group: asyncio.TaskGroup) -> None:
        if isinstance(self._fault, Reset):
            self.reset()
            return
        if isinstance(self._fault, BlackHole):
            self._swallowed = True
            return
        try:
            self._server = await asyncio.open_connection(host, port)
        except OSError:
            self.reset()
            return
        for source, sink, to_client in (
            (self._client[0], self._server[1], False),
            (self._server[0], self._client[1], True),
        ):
            queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_MAX_CHUNKS)
            group.create_task(self._read(source, queue, to_client=to_client))
            group.create_task(self._write(queue, sink, to_client=to_client))

    async def _read(
        self, source: asyncio.StreamReader, queue: asyncio.Queue[tuple[float, bytes]], *, to_client: bool
    ) -> None:
        clock = asyncio.get_running_loop()
        while True:
            data = await source.read(_CHUNK_BYTES)
            delay_seconds = 0.0
            if isinstance(self._fault, Delay):
                delay_seconds = self._fault.to_client_seconds if to_client else self._fault.to_server_seconds
            await queue.put((clock.time() + delay_seconds, data))
            if not data:
                return

    async def _write(
        self, queue: asyncio.Queue[tuple[float, bytes]], sink: asyncio.StreamWriter, *, to_client: bool
    ) -> None:
        clock = asyncio.get_running_loop()
        while True:
            due, data = await queue.get()
            wait_seconds = due - clock.time()
            if wait_seconds > 0:
                await asyncio.sleep(wait_seconds)
            if isinstance(self._fault, BlackHole | Lost):
                self._swallowed = True
                continue
            if not data:
                # one side has nothing more to say: the databases behind this never go on alone
                self._over.set()
                return
            if to_client and isinstance(self._fault, CutAfter):
                data = data[: self._left_bytes]
                self._left_bytes -= len(data)
            if sink.is_closing():
                # the other side went in the meantime: uvloop calls it a mistake to write to it
                self._over.set()
                return
            sink.write(data)
            await sink.drain()
            if to_client and isinstance(self._fault, CutAfter) and self._left_bytes <= 0:
                self._over.set()
                return


class _Over(Exception):
    """The connection has ended, one way or another."""
