"""Requests by name: which address is asked, and for how long."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from exporter.clock import SystemClock
from exporter.errors import CertificateError, Phase, Reason, ResolveError
from exporter.net import reach
from exporter.net.http import Exchange
from exporter.wire.url import Origin
from tests.support.certificates import Authority
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


async def test_a_replica_is_asked_for_the_access_url() -> None:
    """On its own host and port, with its own scheme; the Host header is that of the access URL."""
    async with RawServer({"/": response(200)}) as server:
        for access_url in (origin(443, "coder.invalid", "https"), origin(8443, "coder.invalid")):
            exchange = await reach.get(
                access_url,
                "/",
                deadline_seconds=CLOCK.monotonic() + 5.0,
                clock=CLOCK,
                ca_file=None,
                via=origin(server.port, "127.0.0.1"),
            )
            assert (200, "127.0.0.1") == (exchange.status, exchange.address)
        assert ["coder.invalid", "coder.invalid:8443"] == [headers["host"] for headers in server.headers]


@pytest.mark.parametrize(("named", "good"), [("coder.invalid", True), ("replica.invalid", False)])
async def test_a_replica_shows_the_certificate_of_the_access_url(tmp_path: Path, named: str, good: bool) -> None:
    """TLS asks for the access URL's name and verifies it, wherever it connects to; also where that is plain."""
    authority = Authority(tmp_path)
    context = authority.serve(named)
    asked: list[str | None] = []
    context.sni_callback = lambda _socket, name, _context: asked.append(name)
    async with RawServer({"/": response(200)}, ssl_context=context) as server:
        for scheme in ("https", "http"):
            exchange = await reach.get(
                origin(80, "coder.invalid", scheme),
                "/",
                deadline_seconds=CLOCK.monotonic() + 5.0,
                clock=CLOCK,
                ca_file=authority.ca_file,
                via=origin(server.port, "127.0.0.1", "https"),
            )
            assert (200 if good else None) == exchange.status
            assert good != isinstance(exchange.error, CertificateError)
    assert ["coder.invalid", "coder.invalid"] == asked


async def test_a_replica_by_its_name() -> None:
    """Its name is looked up, not that of the access URL; what has none is told."""
    async with RawServer({"/": response(200)}) as server:
        for host, status in (("localhost", 200), ("replica.invalid", None)):
            exchange = await reach.get(
                origin(80, "coder.invalid"),
                "/",
                deadline_seconds=CLOCK.monotonic() + 5.0,
                clock=CLOCK,
                ca_file=None,
                via=origin(server.port, host),
            )
            assert status == exchange.status
        assert isinstance(exchange.error, ResolveError)
        assert "replica.invalid" in exchange.error.message
