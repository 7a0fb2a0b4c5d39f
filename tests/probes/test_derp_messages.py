"""Messages through a simulated relay: repeats, strangers, duplicates, and exact counting."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, contextmanager

import pytest

from exporter.clock import SystemClock
from exporter.errors import DeadlineError, Phase, ProtocolError
from exporter.net.derp_client import DerpConnection
from exporter.net.relay import find_relay, log_in
from exporter.probes.derp_messages import Messenger, measure_loss
from exporter.targets.model import LossMode
from exporter.wire.derp_frames import Transport, encode_recv_packet
from tests.support.relay_targets import RelayServer

CLOCK = SystemClock()
Pair = tuple[DerpConnection, DerpConnection]


def soon(seconds: float = 10.0) -> float:
    return CLOCK.monotonic() + seconds


@pytest.fixture
async def server() -> AsyncIterator[RelayServer]:
    async with RelayServer() as running:
        yield running


@pytest.fixture
async def pair(server: RelayServer) -> AsyncIterator[Pair]:
    relay = await find_relay(server.origin, deadline_seconds=soon(), clock=CLOCK)
    with ExitStack() as stack:
        clients = []
        for _ in range(2):
            client = await log_in(relay, Transport.DERP, deadline_seconds=soon(60), clock=CLOCK)
            assert isinstance(client, DerpConnection)
            stack.callback(client.abort)
            clients.append(client)
        yield clients[0], clients[1]


@contextmanager
def doubling(server: RelayServer, receiver: DerpConnection) -> Iterator[None]:
    """Let everything come twice to this client."""
    client = server.relay.clients[receiver.own_key]
    send = client.send
    client.send = lambda frame: send(frame + frame)  # type: ignore[method-assign]
    yield
    client.send = send  # type: ignore[method-assign]


async def test_a_message_passes(pair: Pair) -> None:
    """A message that arrives gives its round trip, and one was sent."""
    messenger = Messenger(*pair, clock=CLOCK)
    seconds = await messenger.pass_one(soon())
    assert (1, [seconds]) == (messenger.sent, messenger.round_trip_seconds)
    assert 0 < seconds < 5


async def test_a_late_message_has_its_own_round_trip(server: RelayServer, pair: Pair) -> None:
    """A message that arrives after its repeat was sent is timed from its own send, not the last one."""
    server.relay.faults.delay_seconds = 1.21  # the relay's own timer may be early by some of a millisecond
    messenger = Messenger(*pair, clock=CLOCK)
    assert 1.2 <= await messenger.pass_one(soon())
    assert 2 == messenger.sent


async def test_nothing_arrives(server: RelayServer, pair: Pair) -> None:
    """At its deadline it gives up, and says how many messages were lost on which way."""
    server.relay.faults.drop_first = None
    for seconds, words in ((0.2, "the message through"), (2.5, "none of [23] messages through")):
        began = CLOCK.monotonic()
        with pytest.raises(DeadlineError, match=words) as raised:
            await Messenger(*pair, clock=CLOCK).pass_one(soon(seconds))
        assert Phase.TRANSFER is raised.value.phase
        assert seconds <= CLOCK.monotonic() - began < 5 * seconds


async def test_a_flood_of_others_ends_at_the_deadline(server: RelayServer, pair: Pair) -> None:
    """Packets of strangers without end neither count as ours nor keep us."""
    server.relay.faults.drop_first = None
    flooded = server.relay.clients[pair[1].own_key]
    strange = encode_recv_packet(bytes(range(32)), b"hello") * 200

    async def flood() -> None:
        while True:
            flooded.send(strange)
            await asyncio.sleep(0)

    async with asyncio.TaskGroup() as group:
        flooding = group.create_task(flood())
        with pytest.raises(DeadlineError):
            await Messenger(*pair, clock=CLOCK).pass_one(soon(0.3))
        flooding.cancel()


async def test_what_is_not_ours_is_ignored(pair: Pair) -> None:
    """Another run's message, one that is cut, a doubled one and one from another key do not count."""
    first, second = pair
    messenger, other = Messenger(first, second, clock=CLOCK), Messenger(first, second, clock=CLOCK)
    messenger.send()
    packet = await second.receive_packet(deadline_seconds=soon())
    assert other.take(packet) is None
    assert messenger.take(packet._replace(payload=packet.payload[:-1])) is None
    assert messenger.take(packet._replace(payload=packet.payload + b"\0")) is None
    assert messenger.take(packet._replace(source=second.own_key)) is None
    assert messenger.take(packet) is not None
    assert messenger.take(packet) is None
    assert (1, 0) == (len(messenger.round_trip_seconds), len(other.round_trip_seconds))


async def test_a_relay_that_goes_is_told(server: RelayServer, pair: Pair) -> None:
    """When the relay cuts us off, waiting ends at once with what happened."""
    server.relay.faults.drop_first = None
    messenger = Messenger(*pair, clock=CLOCK)
    async with asyncio.TaskGroup() as group:
        passing = group.create_task(_fail(messenger))
        await asyncio.sleep(0)
        for client in tuple(server.relay.clients.values()):
            client.hang_up()
    assert "closed the connection" in passing.result()
    with pytest.raises(ProtocolError):
        messenger.send()
    assert 1 == messenger.sent


async def _fail(messenger: Messenger) -> str:
    with pytest.raises(ProtocolError) as raised:
        await messenger.pass_one(soon(60))
    return raised.value.message


async def test_a_stream_counts_what_arrives(server: RelayServer, pair: Pair) -> None:
    """Of ten messages of which three are lost seven arrive, however often each of them comes."""
    server.relay.faults.drop_first = 3
    with doubling(server, pair[1]):
        loss = await measure_loss(
            Messenger(*pair, clock=CLOCK),
            LossMode(packets_per_second=100, window_seconds=0.1),
            deadline_seconds=soon(),
            clock=CLOCK,
        )
    assert loss is not None
    assert (10, 7) == (loss.sent, loss.received)
    assert 0.3 == pytest.approx(loss.loss_ratio)
    assert loss.jitter_seconds is not None


async def test_late_messages_of_a_stream_count(server: RelayServer, pair: Pair) -> None:
    """What arrives after the last send, but in time, is not lost."""
    server.relay.faults.delay_seconds = 0.3
    loss = await measure_loss(
        Messenger(*pair, clock=CLOCK),
        LossMode(packets_per_second=50, window_seconds=0.1),
        deadline_seconds=soon(),
        clock=CLOCK,
    )
    assert loss is not None
    assert (5, 5) == (loss.sent, loss.received)


async def test_too_late_is_lost(server: RelayServer, pair: Pair) -> None:
    """What has not arrived a second after the last send is lost, and without two there is no jitter."""
    server.relay.faults.delay_seconds = 5.0
    loss = await measure_loss(
        Messenger(*pair, clock=CLOCK),
        LossMode(packets_per_second=50, window_seconds=0.1),
        deadline_seconds=soon(),
        clock=CLOCK,
    )
    assert loss is not None
    assert (5, 0, None) == (loss.sent, loss.received, loss.jitter_seconds)


@pytest.mark.parametrize(("seconds", "sent"), [(0.5, None), (1.25, 3)])
async def test_a_stream_ends_in_time(pair: Pair, seconds: float, sent: int | None) -> None:
    """A stream sends nothing that would have no time to arrive; without any there is no loss to tell."""
    began = CLOCK.monotonic()
    loss = await measure_loss(
        Messenger(*pair, clock=CLOCK),
        LossMode(packets_per_second=10, window_seconds=60),
        deadline_seconds=soon(seconds),
        clock=CLOCK,
    )
    assert 5 * seconds > CLOCK.monotonic() - began
    if sent is None:
        assert loss is None
    else:
        assert loss is not None
        assert 1 <= loss.sent <= sent
        assert loss.sent == loss.received
