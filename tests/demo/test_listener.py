"""A port that is closed and opened again."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from typing import cast

import pytest

from exporter.demo.listener import ADDRESSES, Listener, have_ipv6_loopback, have_silent_ports


class Greet(asyncio.Protocol):
    """Says one byte and goes."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # a cast, since uvloop's transports only look like asyncio's
        greeted = cast(asyncio.Transport, transport)
        greeted.write(b"!")
        greeted.close()


@pytest.fixture
async def listener() -> AsyncIterator[Listener]:
    """A listener on every family of this host."""
    made = Listener(Greet)
    await made.start()
    yield made
    await made.stop()


async def reaches(listener: Listener, family: str) -> bool:
    try:
        reader, writer = await asyncio.open_connection(ADDRESSES[family], listener.port)
    except ConnectionRefusedError:
        return False
    greeting = await reader.read()
    writer.close()
    await writer.wait_closed()
    return greeting == b"!"


async def test_every_family_listens_on_one_port(listener: Listener) -> None:
    """The same number answers on 127.0.0.1 and, where it exists, ::1."""
    wanted = ("ipv4", "ipv6") if have_ipv6_loopback() else ("ipv4",)
    assert wanted == listener.families
    assert [True] * len(wanted) == [await reaches(listener, family) for family in wanted]


async def test_a_closed_port_refuses_and_opens_again(listener: Listener) -> None:
    """Closed means refused; the number stays the same."""
    port = listener.port
    listener.close("ipv4")
    assert not await reaches(listener, "ipv4")
    await listener.open("ipv4")
    assert await reaches(listener, "ipv4")
    assert port == listener.port


async def test_families_are_closed_apart(listener: Listener) -> None:
    """One family refuses while the other answers."""
    listener.close("ipv6")
    assert frozenset({"ipv4"}) == listener.listening
    assert await reaches(listener, "ipv4")


async def test_nobody_else_gets_a_closed_port(listener: Listener) -> None:
    """While it is closed the number is still taken."""
    listener.close("ipv4")
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as other, pytest.raises(OSError, match="in use"):
        other.bind((ADDRESSES["ipv4"], listener.port))


@pytest.mark.skipif(not have_silent_ports(), reason="only tried on Linux")
async def test_a_silent_port_answers_nobody_and_opens_again(listener: Listener) -> None:
    """Who connects is neither taken nor refused, however often he tries; afterwards it is as before."""
    for family in listener.families:
        listener.silence(family)
        listener.silence(family)
        for _ in range(3):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await reaches(listener, family)
        assert family not in listener.listening
        await listener.open(family)
        assert await reaches(listener, family)


@pytest.mark.skipif(not have_silent_ports(), reason="only tried on Linux")
async def test_a_silent_port_can_be_closed(listener: Listener) -> None:
    """Then it refuses, as a closed one does."""
    listener.silence("ipv4")
    listener.close("ipv4")
    assert not await reaches(listener, "ipv4")


async def test_a_stopped_listener_gives_the_port_back() -> None:
    """After the stop the number can be bound again."""
    listener = Listener(Greet, families=("ipv4",))
    await listener.start()
    port = listener.port
    await listener.stop()
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind((ADDRESSES["ipv4"], port))
        assert port == other.getsockname()[1]
