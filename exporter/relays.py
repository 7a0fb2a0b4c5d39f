"""The relays and STUN servers of one deployment: the map watched, targets made of it, and their
latest results gathered for the judgement of regions and of the section.

In: where the map comes from, the known workspace proxies, the entries of the snapshot. Out: the
targets to be in the schedule now, and a `DerpResult`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import replace

from exporter.clock import Clock
from exporter.errors import ProbeError, Reason, WireError
from exporter.health.derp import DerpResult, MeshResult, RegionResult, RelayResult, Skipped, TransportResult
from exporter.health.direct_connections import DirectConnectionsResult
from exporter.health.model import Failure, OffReason, Section
from exporter.health.stun import StunResult
from exporter.health.workspace_proxy import ListedProxy
from exporter.log import get_logger
from exporter.snapshot import Snapshot
from exporter.targets.derp_map_watch import DerpMapWatch, MapState
from exporter.targets.derp_plan import DerpPlan, plan_derp
from exporter.targets.model import (
    DerpMapSource,
    DerpMeshTarget,
    DerpRelayTarget,
    DerpTarget,
    Replica,
    SectionKey,
    StunTarget,
    Target,
    TargetKey,
)
from exporter.targets.url_source import read_url
from exporter.wire.derp_frames import Transport
from exporter.wire.url import Origin, parse_origin

_log = get_logger(__name__)

_REFUSED = {
    OffReason.FORBIDDEN: "the DERP map is refused",
    OffReason.NOT_SUPPORTED: "this server does not give out its DERP map",
}


class Relays:
    """The relays of one deployment.

    Args:
        target: The section `derp`, also when it is not probed.
        enabled: Whether it is.
        proxies: The workspace proxies that are known from the start.
        lists_proxies: More of them will be told once their list was read.
        on_targets: Called when the targets to be scheduled are others than before.
    """

    def __init__(
        self,
        source: DerpMapSource,
        target: DerpTarget,
        *,
        enabled: bool,
        clock: Clock,
        on_targets: Callable[[], None],
        proxies: Iterable[ListedProxy] = (),
        lists_proxies: bool = False,
    ) -> None:
        self._target = target
        self.enabled = enabled
        self._clock = clock
        self._on_targets = on_targets
        self._changed = asyncio.Event()
        self._proxies = tuple(proxies)
        self._awaits_proxies = lists_proxies
        self._plan: DerpPlan | None = None
        self._access_origin: Origin | None = None
        self._answers: dict[tuple[int, str], bool] = {}
        self._skipped: set[Skipped] = set()
        self.watch = DerpMapWatch(source, clock=clock, on_change=self._changed.set)

    @property
    def state(self) -> MapState:
        return self.watch.state

    @property
    def access_origin(self) -> Origin | None:
        """Where Coder is, as its URL said last; None when it never could be read."""
        return self._access_origin

    @property
    def plan(self) -> DerpPlan | None:
        """What the map asks for; None before there was a map."""
        return self._plan

    @property
    def targets(self) -> tuple[Target, ...]:
        """What is to be in the schedule for the section now."""
        if self._plan is None or not self.enabled:
            return ()
        return (*self._plan.relays, *self._plan.stun, *self._plan.meshes)

    async def serve(self) -> None:
        """Watch the map and keep the plan up to date until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.watch.serve())
            while True:
                await self._changed.wait()
                self._changed.clear()
                await self.replan()

    def set_proxies(self, proxies: Iterable[ListedProxy]) -> None:
        """Take the deployment's workspace proxies, whose relays may be probed, for the next plan."""
        listed = tuple(proxies)
        if listed != self._proxies or self._awaits_proxies:
            self._proxies = listed
            self._awaits_proxies = False
            self._changed.set()

    def set_replicas(self, replicas: Iterable[Replica]) -> None:
        """Take the replicas of coderd, whose relays form a mesh, for the next plan."""
        known = tuple(replicas)
        if known != self._target.replicas:
            self._target = replace(self._target, replicas=known)
            self._changed.set()

    def overlooked(self, snapshot: Snapshot) -> tuple[Target, ...]:
        """Return the silent STUN servers that were judged before another one had answered."""
        latest = _Latest(snapshot, self._target.section_key)
        servers = self._plan.stun if self._plan is not None and self.enabled else ()
        return tuple(
            server
            for server in servers
            if (result := latest.stun(server)) is not None
            and not result.up
            and not result.others_answer
            and any(self._answers.values())
        )

    def see_others(self, result: StunResult) -> StunResult:
        """Note a STUN result, and add whether another server of the deployment answered last."""
        node = (result.region_id, result.node)
        self._answers[node] = result.up
        return replace(result, others_answer=any(up for other, up in self._answers.items() if other != node))

    async def replan(self) -> None:
        """Make the plan anew, from what is known now."""
        # a URL that cannot be read for a while is told by the section access_url
        with suppress(ProbeError, WireError):
            self._access_origin = parse_origin(await read_url(self._target.access_url))
        state = self.state
        before = self.targets
        if state.derp_map is None:
            self._plan = None
            if before:
                self._on_targets()
            return
        self._plan = plan_derp(
            state.derp_map,
            self._target,
            access_origin=self._access_origin,
            proxies=dict(_origins(self._proxies)),
            before=self._plan,
            force_websockets=state.force_websockets,
        )
        # before the list of proxies is there, nobody knows whose relay it is
        skipped = set() if self._awaits_proxies else set(self._plan.skipped)
        for node in self._plan.skipped:
            if node in skipped - self._skipped:
                _log.warning(
                    "relay.skipped",
                    deployment=self._target.deployment,
                    derp_region=node.region_id,
                    derp_node=node.node,
                    host=node.host,
                    reason=node.reason,
                )
        self._skipped = skipped
        servers = {(target.name.region_id, target.name.node) for target in self._plan.stun}
        self._answers = {node: up for node, up in self._answers.items() if node in servers}
        if self.targets != before:
            self._on_targets()

    def gather(self, snapshot: Snapshot) -> DerpResult:
        """Return the section on the latest results of its targets."""
        state = self.state
        off, failure = state.off, state.failure
        if off is not None and state.derp_map is not None:
            # a map that was had is still good: who is refused now may be let in again
            failure = failure or Failure(reason=Reason.AUTH, message=_REFUSED.get(off, str(off)))
            off = None
        age = None
        if state.confirmed_monotonic_seconds is not None:
            age = max(0.0, self._clock.monotonic() - state.confirmed_monotonic_seconds)
        plan = self._plan
        entries = _Latest(snapshot, self._target.section_key)
        return DerpResult(
            source=state.source,
            map_failure=failure,
            map_age_seconds=age,
            map_changes=state.changes,
            off=off,
            regions=() if plan is None else tuple(_regions(plan, entries)),
            skipped=() if plan is None else plan.skipped,
            invalid_nodes=0 if state.derp_map is None else state.derp_map.dropped_nodes,
            problems=() if state.derp_map is None else state.derp_map.problems,
            stun_pending=() if plan is None else tuple(entries.pending_stun(plan.stun)),
            mapping_varies=_mapping_varies(snapshot, self._target.deployment),
        )


class _Latest:
    """The latest results of a deployment's relays, by target."""

    def __init__(self, snapshot: Snapshot, section_key: SectionKey) -> None:
        self._entries = snapshot.entries
        self._section_key = section_key

    def result(self, name: str) -> object | None:
        """Return the last result; None when there is none yet, or the probe broke."""
        entry = self._entries.get(TargetKey(section_key=self._section_key, name=name))
        return None if entry is None else entry.health.result

    def relay(self, target: DerpRelayTarget) -> RelayResult | None:
        """Return both transports as one; None while one of them has no result."""
        results = [self.result(f"{target.name.target}/{transport}") for transport in Transport]
        transports = tuple(result for result in results if isinstance(result, TransportResult))
        if len(transports) < len(results):
            return None
        return RelayResult(
            name=target.name,
            listed=target.listed,
            expect_websocket=target.expect_websocket,
            transports=transports,
        )

    def stun(self, target: StunTarget) -> StunResult | None:
        result = self.result(f"{target.name.target}/stun")
        return result if isinstance(result, StunResult) else None

    def mesh(self, target: DerpMeshTarget) -> MeshResult | None:
        result = self.result(f"{target.region_id}/mesh")
        return result if isinstance(result, MeshResult) else None

    def pending_stun(self, targets: Iterable[StunTarget]) -> Iterator[str]:
        return (target.name.target for target in targets if self.stun(target) is None)


def _regions(plan: DerpPlan, latest: _Latest) -> Iterator[RegionResult]:
    relays: dict[int, dict[str, RelayResult | None]] = {}
    for relay in plan.relays:
        relays.setdefault(relay.name.region_id, {})[relay.name.node] = latest.relay(relay)
    stun: dict[int, list[StunResult]] = {}
    for server in plan.stun:
        if (answer := latest.stun(server)) is not None:
            stun.setdefault(server.name.region_id, []).append(answer)
    skipped: dict[int, list[str]] = {}
    for node in plan.skipped:
        skipped.setdefault(node.region_id, []).append(node.node)
    meshes = {target.region_id: latest.mesh(target) for target in plan.meshes}
    for region in plan.regions:
        of_region = relays.get(region.region_id, {})
        yield RegionResult(
            region_id=region.region_id,
            name=region.name,
            code=region.code,
            embedded=region.embedded,
            node_count=region.node_count,
            relays=tuple(result for result in of_region.values() if result is not None),
            stun=tuple(stun.get(region.region_id, ())),
            mesh=meshes.get(region.region_id),
            skipped=tuple(skipped.get(region.region_id, ())),
            pending=tuple(node for node, result in of_region.items() if result is None),
        )


def _origins(proxies: Iterable[ListedProxy]) -> Iterator[tuple[str, Origin]]:
    """The proxies that may have a relay, with where they are."""
    for proxy in proxies:
        if not proxy.url or proxy.stopped or proxy.derp_enabled is False:
            continue
        try:
            yield proxy.name, parse_origin(proxy.url)
        except WireError:
            continue  # which the section workspace_proxy says


def _mapping_varies(snapshot: Snapshot, deployment: str) -> bool | None:
    key = SectionKey(deployment=deployment, section=Section.DIRECT_CONNECTIONS)
    entry = snapshot.entries.get(TargetKey(section_key=key, name=""))
    result = None if entry is None else entry.health.result
    return result.netcheck.mapping_varies if isinstance(result, DirectConnectionsResult) else None
