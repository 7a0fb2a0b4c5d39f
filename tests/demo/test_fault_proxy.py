"""The TCP proxy whose line can be broken while it runs."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from exporter.demo.fault_proxy import BlackHole, CutAfter, Delay, FaultProxy, Lost, Pass, Refuse, Reset, _Connection
from exporter.demo.listener import have_silent_ports

_PATIENCE_SECONDS = 10.0


async def _serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, greeting: bytes) -> None:
    writer.write(greeting)
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()


@pytest.fixture
async def servers() -> AsyncIterator[tuple[int, int]]:
    """Two servers that greet with their number and echo what they get."""
    first = await asyncio.start_server(lambda r, w: _serve(r, w, b"1"), "127.0.0.1", 0)
    second = await asyncio.start_server(lambda r, w: _serve(r, w, b"2"), "127.0.0.1", 0)
    yield first.sockets[0].getsockname()[1], second.sockets[0].getsockname()[1]
    for server in (first, second):
        server.close()
        await server.wait_closed()


@pytest.fixture
async def proxy(servers: tuple[int, int]) -> AsyncIterator[FaultProxy]:
    """A proxy before the first server."""
    async with FaultProxy("127.0.0.1", servers[0]) as running:
        yield running


class _Client:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def ask(self, data: bytes) -> bytes:
        self.writer.write(data)
        async with asyncio.timeout(_PATIENCE_SECONDS):
            return await self.reader.readexactly(len(data))

    async def read_greeting(self) -> bytes:
        async with asyncio.timeout(_PATIENCE_SECONDS):
            return await self.reader.read(1)


Dial = Callable[[FaultProxy], Awaitable[_Client]]


@pytest.fixture
async def dial() -> AsyncIterator[Dial]:
    """Opens connections to a proxy, and drops them at the end."""
    clients = []

    async def open_client(proxy: FaultProxy) -> _Client:
        clients.append(_Client(*await asyncio.open_connection(proxy.host, proxy.port)))
        return clients[-1]

    yield open_client
    for client in clients:
        client.writer.transport.abort()
    await asyncio.sleep(0)


async def test_passes_everything_in_order(proxy: FaultProxy, dial: Dial) -> None:
    """Without a fault, more than any buffer holds comes back as it was sent."""
    client = await dial(proxy)
    assert await client.read_greeting() == b"1"
    sent = bytes(range(256)) * 8192
    assert sent == await client.ask(sent)


async def test_refuses_and_takes_back_the_same_port(proxy: FaultProxy, dial: Dial) -> None:
    """A closed listener refuses, resets what stands, and opens on its port again."""
    client = await dial(proxy)
    await client.read_greeting()
    port = proxy.port
    await proxy.break_with(Refuse())
    with pytest.raises(ConnectionRefusedError):
        await dial(proxy)
    with pytest.raises(ConnectionResetError):
        await client.ask(b"x")
    await proxy.heal()
    again = await dial(proxy)
    assert port == proxy.port
    assert await again.read_greeting() == b"1"


async def test_standing_connections_can_be_spared(proxy: FaultProxy, dial: Dial) -> None:
    """A fault for new connections only leaves the others alone."""
    client = await dial(proxy)
    await client.read_greeting()
    await proxy.break_with(Refuse(), existing=False)
    assert await client.ask(b"still here") == b"still here"


async def test_a_black_hole_accepts_and_is_silent(proxy: FaultProxy, dial: Dial) -> None:
    """New and standing connections get no byte more; what was swallowed is reset by healing."""
    standing = await dial(proxy)
    await standing.read_greeting()
    await proxy.break_with(BlackHole())
    fresh = await dial(proxy)
    for client in (standing, fresh):
        client.writer.write(b"hello")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await client.reader.read(1)
    await proxy.heal()
    for client in (standing, fresh):
        with pytest.raises(ConnectionResetError):
            async with asyncio.timeout(_PATIENCE_SECONDS):
                await client.reader.read(1)


async def test_delays_each_direction(proxy: FaultProxy, dial: Dial) -> None:
    """An answer takes at least the delay there and the delay back, also on a standing connection."""
    client = await dial(proxy)
    await client.read_greeting()
    await proxy.break_with(Delay(to_server_seconds=0.05, to_client_seconds=0.1))
    clock = asyncio.get_running_loop()
    started = clock.time()
    assert await client.ask(b"late") == b"late"
    assert clock.time() - started >= 0.15 - 0.002  # the loop's clock may round a timer


async def test_cuts_after_so_many_bytes(proxy: FaultProxy, dial: Dial) -> None:
    """The client gets exactly the bytes that are left, and then the end."""
    client = await dial(proxy)
    await client.read_greeting()
    await proxy.break_with(CutAfter(3))
    client.writer.write(b"abcdef")
    async with asyncio.timeout(_PATIENCE_SECONDS):
        assert await client.reader.read(-1) == b"abc"


async def test_resets_new_connections(proxy: FaultProxy, dial: Dial) -> None:
    """A connection that is accepted is reset before anything comes."""
    await proxy.break_with(Reset())
    client = await dial(proxy)
    with pytest.raises(ConnectionResetError):
        await client.read_greeting()


async def test_leads_to_another_server(proxy: FaultProxy, servers: tuple[int, int], dial: Dial) -> None:
    """New connections go to the new server; standing ones stay until they are reset."""
    client = await dial(proxy)
    assert await client.read_greeting() == b"1"
    proxy.retarget("127.0.0.1", servers[1])
    assert await client.ask(b"x") == b"x"
    proxy.reset_connections()
    with pytest.raises(ConnectionResetError):
        await client.ask(b"y")
    moved = await dial(proxy)
    assert await moved.read_greeting() == b"2"


async def test_a_dead_server_resets_its_clients(proxy: FaultProxy, dial: Dial) -> None:
    """When nobody listens behind the proxy, the connection does not stay open."""
    proxy.retarget("127.0.0.1", 1)
    client = await dial(proxy)
    with pytest.raises(ConnectionResetError):
        await client.read_greeting()


async def test_what_comes_late_for_a_client_who_went_is_dropped(servers: tuple[int, int]) -> None:
    """It ends that connection and is no mistake, though uvloop calls it one to write to who is gone."""
    reader, writer = await asyncio.open_connection("127.0.0.1", servers[0])
    connection = _Connection(reader, writer, Pass())
    writer.transport.abort()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    late: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
    late.put_nowait((0.0, b"late"))
    async with asyncio.timeout(_PATIENCE_SECONDS):
        await connection._write(late, writer, to_client=True)
    assert connection._over.is_set()


async def test_leaving_it_ends_every_connection(servers: tuple[int, int], dial: Dial) -> None:
    """Nothing hangs, whatever state connections are in."""
    clients = []
    async with asyncio.timeout(_PATIENCE_SECONDS):
        async with FaultProxy("127.0.0.1", servers[0]) as proxy:
            for fault in (BlackHole(), Delay(to_client_seconds=100.0), Pass()):
                await proxy.break_with(fault, existing=False)
                clients.append(await dial(proxy))
            await clients[-1].read_greeting()  # by then those before it are accepted too
            assert proxy.connections == 3
        assert proxy.connections == 0
        for client in clients:
            with contextlib.suppress(ConnectionResetError):
                assert await client.reader.read(1) == b""


@pytest.mark.skipif(not have_silent_ports(), reason="only tried on Linux")
async def test_a_lost_way_leaves_everybody_without_an_answer(proxy: FaultProxy, dial: Dial) -> None:
    """Nobody is taken any more, and a connection that stands says nothing; afterwards new ones pass."""
    standing = await dial(proxy)
    assert await standing.read_greeting() == b"1"
    await proxy.break_with(Lost())
    for trying in (standing.ask(b"x"), dial(proxy)):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await trying
    await proxy.heal()
    assert b"1" == await (await dial(proxy)).read_greeting()
