"""An HTTP server that answers exactly the bytes it was told to, and notes what it was asked."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Awaitable, Callable
from typing import Self

# Of replicas and proxies in tests/data/coder, as far as a system may give them to a server: who is told that a
# replica listens there would take this server, which plays the access URL, for it.
_RECORDED_PORTS = frozenset({37315, 40631, 42201, 42299, 43662, 49012, 50378, 51230, 55434, 57878})

Answer = bytes | Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def response(status: int = 200, body: bytes = b"", **headers: str) -> bytes:
    """Return a whole answer; header names are written with underscores for hyphens."""
    lines = [f"HTTP/1.1 {status} Whatever", f"Content-Length: {len(body)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def json_response(text: str, status: int = 200, **headers: str) -> bytes:
    return response(status, text.encode(), **({"Content_Type": "application/json; charset=utf-8"} | headers))


async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Never answer; end when the other side does."""
    await reader.read()


class RawServer:
    """Answers by path; a path that is not known gets 404. `answers` may change while it runs."""

    def __init__(self, answers: dict[str, Answer] | None = None, *, ssl_context: ssl.SSLContext | None = None) -> None:
        self.answers: dict[str, Answer] = answers or {}
        self.asked: list[str] = []
        self.headers: list[dict[str, str]] = []
        self.connections = 0
        self.port = 0
        self._heard = asyncio.Condition()
        self._ssl_context = ssl_context
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        return f"http{'s' if self._ssl_context else ''}://127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        await self._listen()
        while self.port in _RECORDED_PORTS:
            assert self._server is not None
            self._server.close()
            await self._listen()
        return self

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, ssl=self._ssl_context)
        self.port = self._server.sockets[0].getsockname()[1]

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        # a connection that was just accepted gets its task some turns of the loop later; a server
        # that closes in between loses it (asyncio of Python 3.11)
        for _ in range(10):
            await asyncio.sleep(0)
        self._server.close()
        while self._tasks:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    async def wait_until_asked(self, path: str, count: int = 1) -> None:
        """Return when a path was asked for so many times in all."""
        async with self._heard:
            await self._heard.wait_for(lambda: self.asked.count(path) >= count)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            request, *lines = head.split("\r\n")
            path = request.split(" ")[1]
            self.asked.append(path)
            self.headers.append({k.lower(): v for k, _, v in (line.partition(": ") for line in lines if line)})
            async with self._heard:
                self._heard.notify_all()
            answer = self.answers.get(path, response(404))
            if isinstance(answer, bytes):
                writer.write(answer)
                await writer.drain()
            else:
                await answer(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        except asyncio.CancelledError:
            return  # the server ends: a task that ends cancelled would be logged as an error
        finally:
            self._tasks.discard(task)
            writer.close()
            with contextlib.suppress(ConnectionError, ssl.SSLError):
                await writer.wait_closed()
