"""Requests by name: which address is asked, and for how long."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from exporter.clock import SystemClock
from exporter.errors import Phase, Reason, ResolveError
from exporter.net import reach
from exporter.net.http import Exchange
from exporter.wire.url import Origin
from tests.support.raw_http import RawServer, response

CLOCK = SystemClock()


def origin(port: int, host: str = "localhost", scheme: str = "http") -> Origin:
    return Origin(scheme=scheme, host=host, port=port)


async def get(server: Origin, *addresses: str, seconds: float = 5.0, ca_file: Path | None = None) -> Exchange:
    return await reach.get_from(
        addresses, server, "/", deadline_seconds=CLOCK.monotonic() + seconds, clock=CLOCK, ca_file=ca_file
    )


async def test_a_literal_needs_no_lookup_and_a_name_does() -> None:
    """The time of a lookup is absent where there was none."""
    deadline = CLOCK.monotonic() + 5.0
    literal = await reach.look_up("127.0.0.1", deadline_seconds=deadline, clock=CLOCK)
    assert (("127.0.0.1",), {}) == (literal.ipv4, literal.phase_seconds)
    name = await reach.look_up("localhost", deadline_seconds=deadline, clock=CLOCK)
    assert [Phase.RESOLVE] == list(name.phase_seconds)
    with pytest.raises(ResolveError):
        await reach.look_up("nobody.invalid", deadline_seconds=deadline, clock=CLOCK)


def test_families_take_turns_and_the_number_is_bounded() -> None:
    """IPv6 first, then in turn, and no more than four in all."""
    lookup = reach.Lookup(ipv4=("a4", "b4", "c4"), ipv6=("a6", "b6", "c6"), seconds=0.1)
    assert ("a6", "a4", "b6", "b4") == lookup.all


async def test_the_next_address_is_tried_when_one_refuses() -> None:
    """Who takes no connection is passed over; who answers is asked, whatever it says."""
    async with RawServer({"/": response(503)}) as server:
        exchange = await get(origin(server.port), "127.0.0.2", "127.0.0.1")
        assert ("127.0.0.1", 503) == (exchange.address, exchange.status)
        assert 1 == server.connections


async def test_the_last_refusal_is_told() -> None:
    """When nobody takes a connection, the trouble is data."""
    async with RawServer() as server:
        port = server.port
    exchange = await get(origin(port), "127.0.0.2", "127.0.0.1")
    assert exchange.error is not None
    assert (Reason.REFUSED, "127.0.0.1") == (exchange.error.reason, exchange.address)


async def test_a_deadline_that_is_over_is_a_timeout() -> None:
    """No time left is no crash."""
    async with RawServer({"/": response(200)}) as server:
        exchange = await get(origin(server.port), "127.0.0.1", "127.0.0.1", seconds=-1.0)
        assert exchange.error is not None
        assert Reason.TIMEOUT is exchange.error.reason
        opened, phases = await reach.open_websocket(
            origin(server.port, "127.0.0.1"), "/", deadline_seconds=CLOCK.monotonic() - 1, clock=CLOCK, ca_file=None
        )
        assert isinstance(opened, Exchange)
        assert {} == phases


async def test_a_name_without_address_is_data() -> None:
    """Trouble of the lookup stands where that of a request does."""
    deadline = CLOCK.monotonic() + 5.0
    server = origin(80, "nobody.invalid")
    exchange = await reach.get(server, "/", deadline_seconds=deadline, clock=CLOCK, ca_file=None)
    opened, _ = await reach.open_websocket(server, "/", deadline_seconds=deadline, clock=CLOCK, ca_file=None)
    assert isinstance(opened, Exchange)
    for each in (exchange, opened):
        assert each.error is not None
        assert Phase.RESOLVE is each.error.phase


async def test_authorities_that_cannot_be_read_are_data(tmp_path: Path) -> None:
    """A missing file fails the request, not the program."""
    async with asyncio.timeout(10):
        exchange = await get(origin(9, scheme="https"), "127.0.0.1", ca_file=tmp_path / "gone.pem")
    assert exchange.error is not None
    assert Reason.TLS is exchange.error.reason
