"""Relays by name: one lookup, the first address that takes a connection, and how they are verified."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from exporter.clock import SystemClock
from exporter.errors import CertificateError, ConnectError, Phase, ResolveError, TLSError
from exporter.net.derp_client import DerpConnection
from exporter.net.http import Exchange
from exporter.net.reach import Lookup
from exporter.net.relay import Relay, find_relay, log_in
from exporter.wire.derp_frames import Transport
from exporter.wire.url import Origin
from tests.support.certificates import Authority
from tests.support.relay_targets import RelayServer
from tests.support.scripted_server import answer, serve

CLOCK = SystemClock()


def soon(seconds: float = 30.0) -> float:
    return CLOCK.monotonic() + seconds


@pytest.fixture
async def server() -> AsyncIterator[RelayServer]:
    async with RelayServer() as running:
        yield running


async def enter(relay: Relay, transport: Transport = Transport.DERP) -> DerpConnection | Exchange:
    """Log in, and leave at once."""
    opened = await log_in(relay, transport, deadline_seconds=soon(), clock=CLOCK)
    if isinstance(opened, DerpConnection):
        opened.abort()
    return opened


@pytest.mark.parametrize("transport", list(Transport))
async def test_a_name_is_looked_up_and_its_time_told(server: RelayServer, transport: Transport) -> None:
    """A relay by name has the time of its lookup, and lets us in over each transport."""
    origin = Origin(scheme="http", host="localhost", port=server.port)
    relay = await find_relay(origin, deadline_seconds=soon(), clock=CLOCK)
    assert {Phase.RESOLVE} == set(relay.phase_seconds)
    opened = await enter(relay, transport)
    assert isinstance(opened, DerpConnection)
    assert f"127.0.0.1:{server.port}" == opened.peer


async def test_an_address_needs_no_lookup(server: RelayServer) -> None:
    """An address of the map replaces the lookup of a name that has none."""
    origin = Origin(scheme="http", host="relay.invalid", port=server.port)
    relay = await find_relay(origin, address="127.0.0.1", deadline_seconds=soon(), clock=CLOCK)
    assert ({}, None) == (relay.phase_seconds, relay.ssl_context)
    assert isinstance(await enter(relay), DerpConnection)
    with pytest.raises(ResolveError):
        await find_relay(origin, deadline_seconds=soon(), clock=CLOCK)


async def test_a_lookup_is_taken_as_it_is(server: RelayServer) -> None:
    """A lookup that was done already is not done again."""
    lookup = Lookup(ipv4=("127.0.0.1",), ipv6=(), seconds=0.25)
    origin = Origin(scheme="http", host="relay.invalid", port=server.port)
    relay = await find_relay(origin, lookup=lookup, deadline_seconds=soon(), clock=CLOCK)
    assert {Phase.RESOLVE: 0.25} == relay.phase_seconds
    assert isinstance(await enter(relay), DerpConnection)


async def test_the_next_address_is_tried(server: RelayServer) -> None:
    """An address on which nothing listens is passed over; the last one's trouble is what is told."""
    lookup = Lookup(ipv4=("127.0.0.9", "127.0.0.1"), ipv6=(), seconds=None)
    relay = await find_relay(server.origin, lookup=lookup, deadline_seconds=soon(), clock=CLOCK)
    opened = await enter(relay)
    assert isinstance(opened, DerpConnection)
    assert "127.0.0.1" == opened.address
    refused = await enter(replace(relay, lookup=Lookup(ipv4=("127.0.0.9", "127.0.0.8"), ipv6=(), seconds=None)))
    assert isinstance(refused, Exchange)
    assert isinstance(refused.error, ConnectError)
    assert "127.0.0.8" == refused.address


async def test_a_refusal_is_not_asked_elsewhere() -> None:
    """An address that answers is the relay: its refusal ends the attempt."""
    async with serve(answer(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")) as server:
        lookup = Lookup(ipv4=("127.0.0.1", "127.0.0.9"), ipv6=(), seconds=None)
        relay = await find_relay(server.origin(), lookup=lookup, deadline_seconds=soon(), clock=CLOCK)
        refused = await enter(relay)
    assert isinstance(refused, Exchange)
    assert (403, "127.0.0.1", None) == (refused.status, refused.address, refused.error)


@pytest.mark.parametrize("transport", list(Transport))
async def test_how_a_relay_is_verified(tmp_path: Path, transport: Transport) -> None:
    """By its host's name, by another name, by a pin, or not at all."""
    authority = Authority(tmp_path)
    authority.write_server_files(tmp_path / "relay.pem", "relay.test")
    async with RelayServer(certificate=tmp_path / "relay.pem") as server:

        async def enter_as(host: str, *, name: str | None = None, insecure: bool = False) -> DerpConnection | Exchange:
            relay = await find_relay(
                Origin(scheme="https", host=host, port=server.port),
                address="127.0.0.1",
                certificate_name=name,
                insecure=insecure,
                ca_file=authority.ca_file,
                deadline_seconds=soon(),
                clock=CLOCK,
            )
            return await enter(relay, transport)

        good = [
            await enter_as("relay.test"),
            await enter_as("other.test", name="relay.test"),
            await enter_as("other.test", insecure=True),
            # insecure is stronger than a name
            await enter_as("other.test", name="third.test", insecure=True),
        ]
        bad = [
            await enter_as("other.test"),
            await enter_as("relay.test", name="third.test"),
            await enter_as("relay.test", name=f"sha256-raw:{'0' * 64}"),
        ]
    assert [DerpConnection] * 4 == [type(opened) for opened in good]
    assert [CertificateError] * 3 == [type(opened.error) for opened in bad]


async def test_a_name_for_the_certificate_without_tls(server: RelayServer) -> None:
    """Over plain HTTP there is no certificate that could bear a name."""
    relay = await find_relay(server.origin, certificate_name="relay.test", deadline_seconds=soon(), clock=CLOCK)
    assert (None, None) == (relay.certificate_name, relay.ssl_context)
    assert isinstance(await enter(relay), DerpConnection)


async def test_a_file_of_authorities_that_is_none(tmp_path: Path) -> None:
    """It is told before anybody is asked; a relay that is not verified does not need it."""
    origin = Origin(scheme="https", host="127.0.0.1", port=443)
    missing = tmp_path / "none.pem"
    with pytest.raises(TLSError, match="cannot be read"):
        await find_relay(origin, ca_file=missing, deadline_seconds=soon(), clock=CLOCK)
    relay = await find_relay(origin, ca_file=missing, insecure=True, deadline_seconds=soon(), clock=CLOCK)
    assert relay.ssl_context is not None
    assert ssl.CERT_NONE is relay.ssl_context.verify_mode
