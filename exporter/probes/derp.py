"""One DERP relay: over each transport two clients log in and pass a message each way.

In: a relay of the map. Out: a `RelayResult`. Never judges. Both transports are probed always, so
that a relay that works only by the WebSocket fallback is seen without luck.

Source: derp-stun, sections 3.1 and 3.6
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import ExitStack

from exporter.clock import Clock
from exporter.errors import CertificateError, Phase, ProbeError, Reason
from exporter.health.derp import CertificateEnds, PacketLoss, RelayResult, TransportResult
from exporter.health.model import Failure
from exporter.net.derp_client import DerpConnection
from exporter.net.http import Exchange, HTTP2Error
from exporter.net.relay import Relay, find_relay, log_in
from exporter.probes.derp_messages import Messenger, measure_loss
from exporter.targets.model import DerpRelayTarget
from exporter.wire.derp_frames import Transport
from exporter.wire.url import read_location

# The WebSocket follows when the raw transport is done, or after so long at most: what the one works
# on the event loop would stand in the other's round trips, where these are so short that it shows.
HEAD_START_SECONDS = 0.1
_MAX_SERVER_CHARS = 80
# what the relay does for us besides is measured when there is time, and never fails a check
_PING_SECONDS = 1.0
_WANTED = {Transport.DERP: "Upgrade: DERP", Transport.WEBSOCKET: "a WebSocket upgrade"}


async def probe(target: DerpRelayTarget, *, clock: Clock) -> RelayResult:
    """Check a relay over both transports, within the target's timeout."""
    began = clock.monotonic()
    deadline = began + target.timeout_seconds
    endpoint = target.endpoint
    try:
        relay = await find_relay(
            endpoint.origin,
            address=endpoint.address,
            certificate_name=endpoint.certificate_name,
            insecure=endpoint.insecure,
            ca_file=target.ca_file,
            deadline_seconds=deadline,
            clock=clock,
        )
    except ProbeError as error:
        spent = clock.monotonic() - began
        transports = tuple(
            TransportResult(
                name=target.name,
                transport=transport.value,
                phase_seconds={},
                failure=Failure.of(error),
                started_timestamp_seconds=clock.now() - spent,
                duration_seconds=spent,
            )
            for transport in Transport
        )
    else:
        async with asyncio.TaskGroup() as group:
            raw = group.create_task(_Check(target, relay, Transport.DERP, clock).run(deadline))
            await asyncio.wait([raw], timeout=HEAD_START_SECONDS)
            websocket = await _Check(target, relay, Transport.WEBSOCKET, clock).run(deadline)
        transports = (raw.result(), websocket)
    return RelayResult(
        name=target.name, listed=target.listed, expect_websocket=target.expect_websocket, transports=transports
    )


class _Check:
    """One transport of a relay that was looked up."""

    def __init__(self, target: DerpRelayTarget, relay: Relay, transport: Transport, clock: Clock) -> None:
        self._target = target
        self._relay = relay
        self._transport = transport
        self._clock = clock
        self._began_seconds = clock.monotonic()
        # the lookup was done for it, too
        self._spent_seconds = relay.lookup.seconds or 0.0
        self._started_timestamp_seconds = clock.now() - self._spent_seconds

    async def run(self, deadline: float) -> TransportResult:
        with ExitStack() as stack:
            async with asyncio.TaskGroup() as group:
                # both begin in one pass of the event loop
                logins = [group.create_task(self._log_in(stack, deadline)) for _ in range(2)]
            one, two = (login.result() for login in logins)
            if not isinstance(one, DerpConnection):
                return self._describe_refusal(one)
            if not isinstance(two, DerpConnection):
                return self._describe_refusal(two)
            return await self._pass_messages(one, two, deadline)

    async def _log_in(self, stack: ExitStack, deadline: float) -> DerpConnection | Exchange:
        opened = await log_in(self._relay, self._transport, deadline_seconds=deadline, clock=self._clock)
        if isinstance(opened, DerpConnection):
            # from here on, whatever becomes of the other one; a relay knows no goodbye
            stack.callback(opened.abort)
        return opened

    def _describe_refusal(self, exchange: Exchange) -> TransportResult:
        """Tell who answered instead of the relay. An upgrade that was accepted (101) has no status
        here, since what failed came after it."""
        error = exchange.error
        refused = exchange.status is not None and exchange.status != 101
        if refused or error is None:
            # a refusal is told by its status, whatever became of its body
            failure = Failure(
                reason=Reason.STATUS,
                phase=Phase.PROCESSING,
                message=f"{self._relay.origin}/derp answered status {exchange.status} to {_WANTED[self._transport]}",
            )
        else:
            failure = Failure.of(error)
        location = exchange.headers.get("location") if refused else None
        server = exchange.headers.get("server") if refused else None
        phases = self._add_lookup(exchange.phase_seconds)
        if not refused and failure.phase is not None:
            phases.pop(failure.phase, None)
        return TransportResult(
            name=self._target.name,
            transport=self._transport.value,
            address=exchange.address or None,
            phase_seconds=phases,
            status=exchange.status if refused else None,
            location=None if location is None else read_location(location, self._relay.origin.scheme).text,
            server=None if server is None else server[:_MAX_SERVER_CHARS],
            http2=isinstance(error, HTTP2Error),
            certificate=_read_ends(exchange),
            certificate_refused=isinstance(error, CertificateError),
            failure=failure,
            started_timestamp_seconds=self._started_timestamp_seconds,
            duration_seconds=self._measure_duration(),
        )

    async def _pass_messages(self, first: DerpConnection, second: DerpConnection, deadline: float) -> TransportResult:
        clock = self._clock
        messengers = [Messenger(first, second, clock=clock), Messenger(second, first, clock=clock)]
        phases = self._add_lookup(first.phase_seconds)
        phases.pop(Phase.TRANSFER, None)  # it goes on with the login and what comes over it
        sent = 0
        ping: float | None = None
        loss: PacketLoss | None = None
        failure: Failure | None = None
        try:
            began = clock.monotonic()
            for messenger in messengers:
                await messenger.pass_one(deadline)
            phases[Phase.TRANSFER] = first.login_seconds + clock.monotonic() - began
            ping = await _ping(first, min(deadline, clock.monotonic() + _PING_SECONDS))
            sent = sum(messenger.sent for messenger in messengers)
            if self._target.loss is not None:
                messengers.append(Messenger(first, second, clock=clock))
                loss = await measure_loss(
                    messengers[-1],
                    self._target.loss,
                    deadline_seconds=deadline + self._target.loss.window_seconds,
                    clock=clock,
                )
        except ProbeError as error:
            failure = Failure.of(error)
        return TransportResult(
            name=self._target.name,
            transport=self._transport.value,
            address=first.address,
            phase_seconds=phases,
            certificate=_read_ends(first.exchange),
            login_seconds=max(first.login_seconds, second.login_seconds),
            round_trip_seconds=tuple(seconds for messenger in messengers for seconds in messenger.round_trip_seconds),
            ping_round_trip_seconds=ping,
            messages_sent=sent or sum(messenger.sent for messenger in messengers),
            relay_processes=1 if first.server_key == second.server_key else 2,
            key_mismatch=_differs(first) or _differs(second),
            health_problem=first.health or second.health,
            loss=loss,
            failure=failure,
            started_timestamp_seconds=self._started_timestamp_seconds,
            duration_seconds=self._measure_duration(),
        )

    def _add_lookup(self, phase_seconds: Mapping[Phase, float]) -> dict[Phase, float]:
        return {**self._relay.phase_seconds, **phase_seconds}

    def _measure_duration(self) -> float:
        return self._spent_seconds + self._clock.monotonic() - self._began_seconds


async def _ping(client: DerpConnection, deadline: float) -> float | None:
    try:
        return await client.ping(deadline_seconds=deadline)
    except ProbeError:
        return None


def _differs(client: DerpConnection) -> bool:
    """Whether the key in the answer's header is another one than that in the greeting."""
    return client.header_key is not None and client.header_key != client.server_key


def _read_ends(exchange: Exchange) -> CertificateEnds | None:
    certificates = exchange.certificates
    if certificates is None:
        return None
    chain = certificates.chain
    return CertificateEnds(
        leaf_timestamp_seconds=certificates.leaf.not_after_timestamp_seconds,
        chain_timestamp_seconds=None if chain is None else chain.not_after_timestamp_seconds,
    )
