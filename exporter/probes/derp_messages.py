"""Messages from one client of a relay to another: numbered, and each timed from its own send.

In: two clients that are logged in, perhaps at different relays of a region. Out: round trips, and
what was lost.
"""

from __future__ import annotations

import os
from itertools import pairwise
from statistics import fmean

from exporter.clock import Clock
from exporter.errors import DeadlineError, Phase
from exporter.health.derp import PacketLoss
from exporter.net.derp_client import DerpConnection, Packet
from exporter.targets.model import LossMode

# A message that has not arrived after so long is sent again, under a new number.
RESEND_SECONDS = 1.0
# What is later than this after the last message of a stream counts as lost.
LATE_SECONDS = 1.0
_RUN_ID_BYTES = 8
_NUMBER_BYTES = 4


class Messenger:
    """One direction. What is not ours, and what came twice, is ignored: a relay may be shared."""

    def __init__(self, sender: DerpConnection, receiver: DerpConnection, *, clock: Clock) -> None:
        self._sender = sender
        self._receiver = receiver
        self._run_id = os.urandom(_RUN_ID_BYTES)  # tells these messages from all others
        self._clock = clock
        self._underway: dict[int, float] = {}
        self.sent = 0
        self.round_trip_seconds: list[float] = []

    async def pass_one(self, deadline_seconds: float) -> float:
        """Send until one message arrives; return its round trip.

        Raises:
            DeadlineError: None did in time.
            ProtocolError: The relay cut one of the clients off.
        """
        while True:
            self.send()
            resend_seconds = self._clock.monotonic() + RESEND_SECONDS
            seconds = await self.receive(min(deadline_seconds, resend_seconds))
            if seconds is not None:
                return seconds
            if self._clock.monotonic() >= deadline_seconds:
                raise self.describe_loss()

    def send(self) -> None:
        """Send the next message.

        Raises:
            ProtocolError: The relay has cut the sender off, or takes no bytes.
        """
        number = self.sent + 1
        payload = self._run_id + number.to_bytes(_NUMBER_BYTES, "big")
        self._underway[number] = self._sender.send(self._receiver.own_key, payload)
        self.sent = number

    async def receive(self, deadline_seconds: float) -> float | None:
        """Return the round trip of the next message of ours that arrives; None when none does.

        Raises:
            ProtocolError: The relay has cut the receiver off.
        """
        while True:
            try:
                packet = await self._receiver.receive_packet(deadline_seconds=deadline_seconds)
            except DeadlineError:
                # timers of an event loop are as coarse as a millisecond: one that comes early is not yet
                # the deadline, and who took it for that would send once more
                if self._clock.monotonic() < deadline_seconds:
                    continue
                return None
            seconds = self.take(packet)
            if seconds is not None:
                return seconds
            # a flood of what is not ours must not keep us
            if self._clock.monotonic() >= deadline_seconds:
                return None

    def take(self, packet: Packet) -> float | None:
        """Return the round trip of a packet that is one of these messages and arrives for the first time."""
        if packet.source != self._sender.own_key or packet.payload[:_RUN_ID_BYTES] != self._run_id:
            return None
        if len(packet.payload) != _RUN_ID_BYTES + _NUMBER_BYTES:
            return None
        sent_seconds = self._underway.pop(int.from_bytes(packet.payload[_RUN_ID_BYTES:], "big"), None)
        if sent_seconds is None:
            return None
        seconds = packet.received_seconds - sent_seconds
        self.round_trip_seconds.append(seconds)
        return seconds

    def describe_loss(self) -> DeadlineError:
        """Say that nothing of what was sent has arrived."""
        source, destination = self._sender.peer, self._receiver.peer
        way = f"through {source}" if source == destination else f"from {source} to {destination}"
        sent = "the message" if self.sent == 1 else f"none of {self.sent} messages"
        arrived = "did not arrive" if self.sent == 1 else "arrived"
        return DeadlineError(f"both clients are logged in, but {sent} {way} {arrived}", phase=Phase.TRANSFER)


async def measure_loss(
    messenger: Messenger, mode: LossMode, *, deadline_seconds: float, clock: Clock
) -> PacketLoss | None:
    """Send a stream of messages at a low rate, and see what arrives.

    The stream ends early where the last messages would have no time to arrive.

    Args:
        messenger: A fresh one, so that nothing but the stream counts.

    Returns:
        None when there was no time for a single message.

    Raises:
        ProtocolError: The relay cut one of the clients off.
    """
    round_trips: list[float] = []
    start_seconds = clock.monotonic()
    count = max(2, round(mode.packets_per_second * mode.window_seconds))
    for number in range(count):
        if clock.monotonic() + LATE_SECONDS > deadline_seconds:
            break
        messenger.send()
        if number == count - 1:
            break
        pause_seconds = start_seconds + (number + 1) / mode.packets_per_second
        while (seconds := await messenger.receive(pause_seconds)) is not None:
            round_trips.append(seconds)
    late_seconds = min(deadline_seconds, clock.monotonic() + LATE_SECONDS)
    while len(round_trips) < messenger.sent:
        seconds = await messenger.receive(late_seconds)
        if seconds is None:
            break
        round_trips.append(seconds)
    if messenger.sent == 0:
        return None
    differences = [abs(later - earlier) for earlier, later in pairwise(round_trips)]
    return PacketLoss(
        sent=messenger.sent,
        received=len(round_trips),
        jitter_seconds=fmean(differences) if differences else None,
    )
