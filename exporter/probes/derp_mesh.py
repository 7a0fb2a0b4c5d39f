"""The mesh of a region: a client at each relay, and a message over each ordered pair.

In: the relays of a region. Out: a `MeshResult`. Never judges. One login a relay, not one a pair; the
messages of all pairs are under way at once, so that a region of ten costs ten logins and ninety
small messages an interval, and a mesh that is cut takes no longer than one pair that is.

Source: derp-stun, section 8.3
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import ExitStack
from itertools import permutations

from exporter.clock import Clock
from exporter.errors import DeadlineError, ProbeError
from exporter.health.derp import MeshPath, MeshResult
from exporter.health.model import Failure
from exporter.net.derp_client import DerpConnection
from exporter.net.relay import find_relay, log_in
from exporter.probes.derp_messages import RESEND_SECONDS, Messenger
from exporter.targets.model import DerpMeshTarget, MeshNode
from exporter.wire.derp_frames import Transport

# A path that works answers in a round trip; the mesh learns a new client within a moment.
PATH_SECONDS = 3.0


async def probe(target: DerpMeshTarget, *, clock: Clock) -> MeshResult:
    """Try every ordered pair, within the target's timeout in all."""
    began = clock.monotonic()
    deadline = began + target.timeout_seconds
    # a dead relay must not eat the time of the pairs
    login_deadline = began + target.timeout_seconds / 2
    with ExitStack() as stack:
        async with asyncio.TaskGroup() as group:
            logins = [group.create_task(_log_in(node, target, stack, login_deadline, clock)) for node in target.nodes]
        opened = {node.name: login.result() for node, login in zip(target.nodes, logins, strict=True)}
        clients = {name: client for name, client in opened.items() if client is not None}
        paths = await _try_paths(clients, min(deadline, clock.monotonic() + PATH_SECONDS), clock)
        # a relay that let us in and then cut us off is down, too
        lost = {name for name, client in opened.items() if client is None or client.error is not None}
    return MeshResult(
        region_id=target.region_id,
        region_name=target.region_name,
        paths=tuple(path for path in paths if lost.isdisjoint((path.source, path.destination))),
        unreached=tuple(name for name in opened if name in lost),
    )


async def _log_in(
    node: MeshNode, target: DerpMeshTarget, stack: ExitStack, deadline: float, clock: Clock
) -> DerpConnection | None:
    endpoint = node.endpoint
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
    except ProbeError:
        return None  # which the relay's own target tells
    for transport in Transport:
        # a relay that is reached by WebSocket only still has its place in the mesh
        opened = await log_in(relay, transport, deadline_seconds=deadline, clock=clock)
        if isinstance(opened, DerpConnection):
            # at once: what another login raises must leave no socket behind
            stack.callback(opened.abort)
            return opened
    return None


async def _try_paths(clients: Mapping[str, DerpConnection], deadline: float, clock: Clock) -> list[MeshPath]:
    async with asyncio.TaskGroup() as group:
        listening = {
            destination: group.create_task(_Ear(destination, clients, clock).listen(deadline))
            for destination in clients
        }
    return [listening[destination].result()[source] for source, destination in permutations(clients, 2)]


class _Ear:
    """One client, to which all the others send."""

    def __init__(self, destination: str, clients: Mapping[str, DerpConnection], clock: Clock) -> None:
        self._destination = destination
        self._receiver = clients[destination]
        self._messengers = {
            source: Messenger(client, self._receiver, clock=clock)
            for source, client in clients.items()
            if source != destination
        }
        self._sources = {client.own_key: source for source, client in clients.items() if source != destination}
        self._paths: dict[str, MeshPath] = {}
        self._clock = clock

    async def listen(self, deadline: float) -> dict[str, MeshPath]:
        """Return the path from each of the others."""
        try:
            await self._hear_all(deadline)
        except DeadlineError:
            pass
        except ProbeError as error:
            self._fail_rest(error)
        self._fail_rest(None)
        return self._paths

    async def _hear_all(self, deadline: float) -> None:
        """Raises DeadlineError when the time is over, ProtocolError when the receiver is cut off."""
        while len(self._paths) < len(self._messengers):
            self._send_rest()
            resend = self._clock.monotonic() + RESEND_SECONDS
            try:
                while len(self._paths) < len(self._messengers):
                    packet = await self._receiver.receive_packet(deadline_seconds=min(deadline, resend))
                    source = self._sources.get(packet.source)
                    seconds = self._messengers[source].take(packet) if source is not None else None
                    if source is not None and seconds is not None:
                        self._paths.setdefault(source, self._path(source, seconds))
                    elif self._clock.monotonic() >= deadline:
                        return  # a flood of what is not ours must not keep us
            except DeadlineError:
                if self._clock.monotonic() >= deadline:
                    raise

    def _send_rest(self) -> None:
        for source, messenger in self._messengers.items():
            if source not in self._paths:
                try:
                    messenger.send()
                except ProbeError as error:
                    self._paths[source] = self._path(source, None, error)

    def _fail_rest(self, error: ProbeError | None) -> None:
        for source, messenger in self._messengers.items():
            if source not in self._paths:
                self._paths[source] = self._path(source, None, error or messenger.describe_loss())

    def _path(self, source: str, seconds: float | None, error: ProbeError | None = None) -> MeshPath:
        return MeshPath(
            source=source,
            destination=self._destination,
            round_trip_seconds=seconds,
            failure=None if error is None else Failure.of(error),
        )
