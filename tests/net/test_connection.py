"""Fresh connections: phases, endings, and what a failure is called."""

from __future__ import annotations

import asyncio
import errno
import socket
from contextlib import closing
from pathlib import Path

import pytest

from exporter.clock import SystemClock
from exporter.errors import ConnectError, DeadlineError, Phase, ProbeError, ProtocolError, Reason
from exporter.net.connection import Connection, NoRouteError
from exporter.net.deadline import until
from exporter.net.tls import load_ssl_context
from exporter.wire.url import Origin
from tests.support.certificates import Authority
from tests.support.connections import Listener, connect_to, open_connection
from tests.support.scripted_server import Reader, ScriptedServer, hang, serve

CLOCK = SystemClock()


def connect_anywhere(address: str, port: int) -> Connection:
    origin = Origin(scheme="http", host="coder.test", port=port)
    return Connection(Listener(), origin=origin, address=address, clock=CLOCK, ssl_context=None)


async def echo(reader: Reader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)


async def test_a_refused_connection_is_told_as_refused() -> None:
    """A closed port is a refusal, not an unreachable host; connecting has no time then."""
    with closing(socket.socket()) as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        connection = connect_anywhere("127.0.0.1", port)
        with pytest.raises(ConnectError) as caught:
            await open_connection(connection)
    assert (Reason.REFUSED, Phase.CONNECT) == (caught.value.reason, caught.value.phase)
    assert f"127.0.0.1:{port}" in caught.value.message
    assert {} == connection.phase_seconds
    assert not isinstance(caught.value, NoRouteError)


async def test_an_address_that_this_host_has_no_way_to() -> None:
    """ENETUNREACH says that it is this host's lack; the kernel answers so for TCP to a multicast group."""
    with pytest.raises(NoRouteError) as caught:
        await open_connection(connect_anywhere("224.0.0.1", 9))
    assert (Reason.UNREACHABLE, True) == (caught.value.reason, caught.value.no_route)


@pytest.mark.parametrize(
    ("number", "wanted", "reason"),
    [
        (errno.EADDRNOTAVAIL, NoRouteError, Reason.UNREACHABLE),
        (errno.EAFNOSUPPORT, NoRouteError, Reason.UNREACHABLE),
        (errno.EHOSTUNREACH, ConnectError, Reason.UNREACHABLE),
        (errno.EACCES, ConnectError, Reason.UNREACHABLE),
        (errno.ETIMEDOUT, DeadlineError, Reason.TIMEOUT),
        (errno.EMFILE, ProbeError, Reason.INTERNAL),
    ],
)
async def test_what_the_operating_system_says_has_a_name(
    monkeypatch: pytest.MonkeyPatch, number: int, wanted: type[ProbeError], reason: Reason
) -> None:
    """Each errno of a connection attempt becomes one error of ours, with the errno in its words."""

    async def refuse(*_arguments: object) -> None:
        raise OSError(number, "whatever asyncio writes")

    loop = asyncio.get_running_loop()
    try:
        monkeypatch.setattr(loop, "create_connection", refuse)
    except AttributeError:
        pytest.skip("uvloop's loop cannot be made to fail; asyncio's loop shows the same translation")
    with pytest.raises(ProbeError) as caught:
        await open_connection(connect_anywhere("::1", 9))
    assert wanted is type(caught.value)
    assert (reason, Phase.CONNECT) == (caught.value.reason, caught.value.phase)
    assert "[::1]:9" in caught.value.message
    assert "whatever" not in caught.value.message


async def test_a_silent_address_ends_at_the_connect_deadline() -> None:
    """A connection attempt without answer ends at its own deadline, before the budget."""
    with closing(socket.socket()) as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        address = full.getsockname()
        waiting = [socket.socket() for _ in range(8)]
        try:
            for each in waiting:
                each.setblocking(False)
                each.connect_ex(address)
            connection = connect_anywhere(*address)
            started = CLOCK.monotonic()
            with pytest.raises(DeadlineError) as caught:
                async with until(started + 10, CLOCK):
                    await connection.open(connect_deadline_seconds=started + 0.3)
        finally:
            for each in waiting:
                each.close()
    assert CLOCK.monotonic() - started < 1.5
    assert (Reason.TIMEOUT, Phase.CONNECT) == (caught.value.reason, caught.value.phase)
    assert {} == connection.phase_seconds


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
async def test_bytes_go_both_ways_and_the_end_is_told_once(tmp_path: Path, tls: bool) -> None:
    """What is written comes back, also in many pieces; the peer's end is no error."""
    authority = Authority(tmp_path)
    sent = bytes(range(256)) * 2000

    async def script(reader: Reader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.readexactly(len(sent)))
        await writer.drain()

    listener = Listener()
    async with serve(script, ssl_context=authority.serve("127.0.0.1") if tls else None) as server:
        context = await load_ssl_context(authority.ca_file) if tls else None
        connection = connect_to(server, listener=listener, ssl_context=context)
        await open_connection(connection)
        assert listener.ready
        for start in range(0, len(sent), 100_000):
            connection.write(sent[start : start + 100_000])
        async with asyncio.timeout(5):
            await listener.over.wait()
        connection.close()
    assert sent == listener.heard
    assert listener.error is None
    assert ({Phase.CONNECT, Phase.TLS} if tls else set()) == connection.phase_seconds.keys()


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
async def test_reading_can_wait(tmp_path: Path, tls: bool) -> None:
    """A paused connection takes a bounded amount; after resuming everything comes."""
    authority = Authority(tmp_path)
    size = 8 << 20

    async def script(reader: Reader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"x" * size)
        await hang()(reader, writer)

    listener = Listener()
    async with serve(script, ssl_context=authority.serve("127.0.0.1") if tls else None) as server:
        context = await load_ssl_context(authority.ca_file) if tls else None
        connection = connect_to(server, listener=listener, ssl_context=context)
        await open_connection(connection)
        connection.pause_reading()
        for _ in range(200):
            await asyncio.sleep(0)
        assert len(listener.heard) <= 1 << 20
        connection.resume_reading()
        assert size == len(await listener.hear(size))
        connection.abort()


async def test_closing_says_goodbye_and_nothing_is_told_after(tmp_path: Path) -> None:
    """After close the server hears the end, and the receiver nothing more."""
    authority = Authority(tmp_path)
    listener = Listener()
    async with serve(echo, ssl_context=authority.serve("127.0.0.1")) as server:
        context = await load_ssl_context(authority.ca_file)
        connection = connect_to(server, listener=listener, ssl_context=context)
        await open_connection(connection)
        connection.write(b"last words")
        connection.close()
        connection.close()
        connection.write(b"never sent")
        async with asyncio.timeout(5):
            await server.script_done.wait()
    assert b"" == listener.heard
    assert not listener.over.is_set()


async def test_a_peer_that_takes_nothing_does_not_hold_the_socket() -> None:
    """Closing with unsent bytes drops them instead of waiting for ever."""
    released = asyncio.Event()

    async def script(reader: Reader, writer: asyncio.StreamWriter) -> None:
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        await released.wait()
        writer.transport.resume_reading()  # type: ignore[attr-defined]
        while await reader.read(65536):
            pass

    async with serve(script) as server:
        connection = connect_to(server)
        await open_connection(connection)
        while connection.write_buffer_bytes == 0:
            connection.write(b"x" * (1 << 20))
        connection.close()
        released.set()
        async with asyncio.timeout(5):
            await server.script_done.wait()
        assert 0 == connection.write_buffer_bytes


async def test_a_broken_connection_is_told_with_what_was_being_done() -> None:
    """RST is an error that names the peer and the phase."""

    async def script(reader: Reader, writer: asyncio.StreamWriter) -> None:
        sock = writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        await reader.readexactly(1)
        writer.transport.abort()

    listener = Listener()
    async with serve(script) as server:
        connection = connect_to(server, listener=listener)
        await open_connection(connection)
        connection.begin(Phase.PROCESSING)
        connection.write(b"x")
        async with asyncio.timeout(5):
            await listener.over.wait()
        connection.abort()
    assert isinstance(listener.error, ProtocolError)
    assert Phase.PROCESSING is listener.error.phase
    assert "ECONNRESET" in listener.error.message
    assert "waiting for the answer" in listener.error.message


async def _open_in_vain(server: ScriptedServer) -> Connection:
    connection = connect_to(server, scheme="https", ssl_context=await load_ssl_context())
    with pytest.raises(TimeoutError):
        await open_connection(connection, seconds=0.3)
    return connection


async def test_a_handshake_without_answer_stays_in_its_phase() -> None:
    """A server that accepts and is silent leaves the connection in the TLS phase, closed."""
    async with serve(hang()) as server:
        connection = await _open_in_vain(server)
        async with asyncio.timeout(5):
            await server.script_done.wait()
    assert Phase.TLS is connection.phase
    assert {Phase.CONNECT} == connection.phase_seconds.keys()


async def test_cancelling_the_handshake_closes_the_socket() -> None:
    """A cancelled opening goes at once, and the server sees it."""
    accepted = asyncio.Event()

    async def script(reader: Reader, writer: asyncio.StreamWriter) -> None:
        accepted.set()
        await hang()(reader, writer)

    async with serve(script) as server:
        connection = connect_to(server, scheme="https", ssl_context=await load_ssl_context())
        task = asyncio.create_task(open_connection(connection))
        await accepted.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        async with asyncio.timeout(5):
            await server.script_done.wait()


async def test_https_without_a_context_is_a_mistake_of_the_caller() -> None:
    """TLS never goes without verification by accident."""
    with pytest.raises(ValueError, match="needs an SSL context"):
        Connection(
            Listener(),
            origin=Origin(scheme="https", host="coder.test", port=443),
            address="127.0.0.1",
            clock=CLOCK,
            ssl_context=None,
        )
