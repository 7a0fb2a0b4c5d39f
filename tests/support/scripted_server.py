"""A TCP or TLS server on loopback whose every move is scripted, well-behaved or hostile."""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

from exporter.wire.url import Origin


class Reader:
    """What the client sends; the heads of its requests are kept for the test to look at."""

    def __init__(self, reader: asyncio.StreamReader, requests: list[bytes]) -> None:
        self._reader = reader
        self._requests = requests
        self.read = reader.read
        self.readexactly = reader.readexactly

    async def read_request(self) -> bytes:
        head = await self._reader.readuntil(b"\r\n\r\n")
        self._requests.append(head)
        return head


Script = Callable[[Reader, asyncio.StreamWriter], Awaitable[None]]


class ScriptedServer:
    """`requests` has the head of each request that a script read with `read_request`."""

    def __init__(self, host: str, tls: bool) -> None:
        self.address = host
        self.port = 0
        self.tls = tls
        self.connections = 0
        self.requests: list[bytes] = []
        self.script_done = asyncio.Event()

    def origin(self, host: str | None = None) -> Origin:
        return Origin(scheme="https" if self.tls else "http", host=host or self.address, port=self.port)


@asynccontextmanager
async def serve(
    script: Script, *, host: str = "127.0.0.1", ssl_context: ssl.SSLContext | None = None
) -> AsyncIterator[ScriptedServer]:
    """Run `script` for each connection on a free port; its connections end with the context.

    A script that the client leaves ends quietly; any other error of a script is raised at the end.
    """
    state = ScriptedServer(host, ssl_context is not None)
    tasks: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    async def run(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with suppress(ConnectionError, ssl.SSLError, asyncio.IncompleteReadError):
                await script(Reader(reader, state.requests), writer)
        finally:
            state.script_done.set()
            writer.close()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        state.connections += 1
        tasks[asyncio.get_running_loop().create_task(run(reader, writer))] = writer

    server = await asyncio.start_server(accept, host, 0, ssl=ssl_context)
    state.port = server.sockets[0].getsockname()[1]
    try:
        yield state
    finally:
        await _settle()  # a connection may have been accepted just now: it would be lost, not closed
        server.close()
        for task, writer in tasks.items():
            task.cancel()
            with suppress(AttributeError):  # one over TLS that was closed twice bears none in Python 3.11.2
                writer.transport.abort()
        ends = await asyncio.gather(*tasks, return_exceptions=True)
        await _settle()
    for end in ends:
        if isinstance(end, Exception):
            raise end


async def _settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


def answer(*pieces: bytes) -> Script:
    """Return a script that reads a request, writes the pieces and closes."""

    async def script(reader: Reader, writer: asyncio.StreamWriter) -> None:
        await reader.read_request()
        for piece in pieces:
            writer.write(piece)
            await writer.drain()

    return script


def flood(*beginning: bytes, repeat: bytes) -> Script:
    """Return a script that reads a request and then writes without end."""

    async def script(reader: Reader, writer: asyncio.StreamWriter) -> None:
        await reader.read_request()
        for piece in beginning:
            writer.write(piece)
        while True:
            writer.write(repeat)
            await writer.drain()
            await asyncio.sleep(0)

    return script


def dribble(*beginning: bytes, drop: bytes = b"x", pause_seconds: float = 0.02) -> Script:
    """Return a script that reads a request and then writes a little now and then, for ever."""

    async def script(reader: Reader, writer: asyncio.StreamWriter) -> None:
        await reader.read_request()
        for piece in beginning:
            writer.write(piece)
        while True:
            writer.write(drop)
            await writer.drain()
            await asyncio.sleep(pause_seconds)

    return script


def hang(*beginning: bytes) -> Script:
    """Return a script that writes something, or nothing, and then is silent until the client goes."""

    async def script(reader: Reader, writer: asyncio.StreamWriter) -> None:
        for piece in beginning:
            writer.write(piece)
        while await reader.read(65536):
            pass

    return script


def reset(*beginning: bytes) -> Script:
    """Return a script that reads a request, writes the beginning of an answer and sends RST."""

    async def script(reader: Reader, writer: asyncio.StreamWriter) -> None:
        await reader.read_request()
        for piece in beginning:
            writer.write(piece)
        await writer.drain()
        # the client must have read what was written, else the RST overtakes it
        await asyncio.sleep(0.05)
        sock = writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()

    return script
