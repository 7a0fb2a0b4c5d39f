"""The simulated STUN server, asked by our own client and with what real clients sent."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from exporter.clock import SystemClock
from exporter.demo.network import have_several_addresses
from exporter.demo.stun import SimulatedStun
from exporter.errors import ConnectError, DeadlineError, ProtocolError
from exporter.net import stun_client
from exporter.wire.stun import build_binding_request
from tests.support.captures import DATA

CLOCK = SystemClock()
PATIENCE_SECONDS = 5.0


async def ask(server: SimulatedStun, seconds: float = PATIENCE_SECONDS) -> stun_client.StunAnswer:
    return await stun_client.ask(server.address, server.port, deadline_seconds=CLOCK.monotonic() + seconds, clock=CLOCK)


async def test_it_tells_clients_their_address() -> None:
    """The first request is answered, with the address that it came from."""
    async with SimulatedStun() as server:
        answer = await ask(server)
        assert ("127.0.0.1", 1, 1) == (answer.mapped_address, answer.attempts, server.requests)


async def test_it_may_show_another_port() -> None:
    """As a hard NAT does: two servers see one socket at different ports."""
    async with SimulatedStun() as one, SimulatedStun() as other:
        other.faults.port_offset = 7
        answers = await stun_client.ask_from_one_socket(
            [(one.address, one.port), (other.address, other.port)],
            family="ipv4",
            deadline_seconds=CLOCK.monotonic() + PATIENCE_SECONDS,
            clock=CLOCK,
        )
    ports = {reply.server_port: reply.mapped_port for reply in answers.replies}
    assert 7 == (ports[other.port] - ports[one.port]) % 65536


async def test_it_may_be_silent() -> None:
    """Requests arrive, and nothing comes back."""
    async with SimulatedStun() as server:
        server.faults.silent = True
        with pytest.raises(DeadlineError, match="no answer"):
            await ask(server, 0.1)
        assert 0 < server.requests


async def test_it_may_miss_the_first_request() -> None:
    """The repeat is answered."""
    async with SimulatedStun() as server:
        server.faults.ignore_next = 1
        assert 2 == (await ask(server)).attempts


@pytest.mark.parametrize(("fault", "words"), [("garbage", "STUN"), ("error", "500|error|success")])
async def test_it_may_answer_something_else(fault: str, words: str) -> None:
    """What is no STUN and what is an error are told apart by the client."""
    async with SimulatedStun() as server:
        setattr(server.faults, fault, True)
        with pytest.raises(ProtocolError, match=words):
            await ask(server, 0.2)


async def test_long_packets_may_get_lost() -> None:
    """What passes is seen by the client: whole IP packets count."""
    async with SimulatedStun() as server:
        server.faults.largest_bytes = 1300
        found = await stun_client.measure_path_mtu(
            server.address,
            server.port,
            sizes_bytes=(1280, 1300, 1304, 1500),
            deadline_seconds=CLOCK.monotonic() + 1.5,
            clock=CLOCK,
        )
    if found is None:
        pytest.skip("this platform cannot set don't-fragment")
    assert (1300, 1304) == (found.passed_bytes, found.failed_bytes)


async def test_a_closed_port_refuses_and_opens_again() -> None:
    """The number stays the same."""
    async with SimulatedStun() as server:
        port = server.port
        server.close()
        await server.closed()
        with pytest.raises(ConnectError, match="refused"):
            await ask(server)
        await server.open()
        await server.open()
        assert port == server.port
        assert 1 == (await ask(server)).attempts


async def test_every_address_of_loopback_has_its_own() -> None:
    """Where the host has them, servers on 127.0.0.1 and 127.0.0.2 see the same socket."""
    if not have_several_addresses():
        pytest.skip("this host has only 127.0.0.1")
    async with SimulatedStun() as one, SimulatedStun("127.0.0.2") as other:
        answers = await stun_client.ask_from_one_socket(
            [(one.address, one.port), (other.address, other.port)],
            family="ipv4",
            deadline_seconds=CLOCK.monotonic() + PATIENCE_SECONDS,
            clock=CLOCK,
        )
    assert 1 == len({(reply.mapped_address, reply.mapped_port) for reply in answers.replies})
    assert f"127.0.0.2:{other.port}" == other.host_and_port


class Asker(asyncio.DatagramProtocol):
    """Keeps what comes."""

    def __init__(self) -> None:
        self.received: asyncio.Queue[bytes] = asyncio.Queue()

    def datagram_received(self, data: bytes, addr: object) -> None:
        self.received.put_nowait(data)


async def test_it_answers_what_tailscales_answers() -> None:
    """Requests of a capture that were answered are answered, those that met silence meet it."""
    lines = (DATA / "derp" / "stun-derper-main-2026-08.hex").read_text().splitlines()
    requests = [bytes.fromhex(line.removeprefix("C>S")) for line in lines if line.startswith("C>S")]
    answered = [line for line in lines if line.startswith("S>C")]
    last_id = b"the last one"
    async with SimulatedStun() as server:
        transport, asker = await asyncio.get_running_loop().create_datagram_endpoint(
            Asker, remote_addr=(server.address, server.port)
        )
        with contextlib.closing(transport):
            for request in [*requests, build_binding_request(last_id)]:
                transport.sendto(request)
            received: list[bytes] = []
            async with asyncio.timeout(PATIENCE_SECONDS):
                while not received or received[-1] != last_id:
                    received.append((await asker.received.get())[8:20])
    assert 5 < len(requests) > len(answered)
    assert len(answered) + 1 == len(received)
