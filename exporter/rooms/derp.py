"""The room of relays and STUN servers, and that of this host's network, which is seen on the way to them.

In: targets of `derp` and `direct_connections`. Out: what a run says of each transport, mesh, region and
of the section.
"""

from __future__ import annotations

from collections.abc import Awaitable, Mapping, Sequence

from exporter.clock import Clock
from exporter.health import derp, direct_connections, stun
from exporter.health.derp import DerpResult, MeshResult, RelayResult
from exporter.health.direct_connections import DirectConnectionsResult
from exporter.health.stun import StunResult
from exporter.probes import derp as derp_probe
from exporter.probes import derp_mesh as derp_mesh_probe
from exporter.probes import direct_connections as direct_connections_probe
from exporter.probes import stun as stun_probe
from exporter.relays import Relays
from exporter.runner import Judgement
from exporter.snapshot import Snapshot
from exporter.targets.model import DerpMeshTarget, DerpRelayTarget, DirectConnectionsTarget, StunTarget, Target
from exporter.wire.derp_frames import Transport


class DerpRoom:
    """Both sections, by the DERP map of each deployment.

    Args:
        relays: By deployment, where its DERP map is watched.
    """

    def __init__(self, relays: Mapping[str, Relays], *, snapshot: Snapshot, clock: Clock) -> None:
        self._relays = relays
        self._snapshot = snapshot
        self._clock = clock

    async def probe(self, target: Target) -> object:
        """The kinds of targets of the section: relays, STUN servers, meshes, and their judgement."""
        match target:
            case DerpRelayTarget():
                return await derp_probe.probe(target, clock=self._clock)
            case StunTarget():
                result = await stun_probe.probe(target, clock=self._clock)
                return self._relays[target.deployment].see_others(result)
            case DerpMeshTarget():
                return await derp_mesh_probe.probe(target, clock=self._clock)
            case _:
                relays = self._relays[target.deployment]
                await relays.replan()
                return relays.gather(self._snapshot)

    def judge(self, target: Target, result: object) -> Sequence[Judgement]:
        match result:
            case RelayResult():
                return tuple(
                    Judgement(
                        name=f"{result.name.target}/{transport.transport}",
                        report=derp.assess_transport(result, transport.transport),
                        result=transport,
                        phase_seconds=transport.phase_seconds,
                        started_timestamp_seconds=transport.started_timestamp_seconds,
                        duration_seconds=transport.duration_seconds,
                    )
                    for transport in result.transports
                )
            case StunResult():
                return (Judgement(name=name_derp(target), report=stun.assess_stun(result), result=result),)
            case MeshResult():
                return (Judgement(name=name_derp(target), report=derp.assess_mesh(result), result=result),)
            case DerpResult():
                regions = (
                    Judgement(name=str(region.region_id), report=derp.assess_region(region), result=region)
                    for region in result.regions
                    if region.relays or region.pending
                )
                return (Judgement(name="", report=derp.assess_section(result), result=result), *regions)
            case _:
                raise TypeError(f"no judgement of a {type(result).__name__}")

    def probe_direct_connections(self, target: DirectConnectionsTarget) -> Awaitable[DirectConnectionsResult]:
        relays = self._relays[target.deployment]
        plan = relays.plan
        surroundings = direct_connections_probe.Surroundings(
            derp_map=relays.state.derp_map,
            disabled=relays.state.direct_disabled,
            off=relays.state.off if relays.state.derp_map is None else None,
            access_origin=relays.access_origin,
            relays=() if plan is None else plan.relays,
            stun=() if plan is None else plan.stun,
        )
        return direct_connections_probe.probe(target, surroundings=surroundings, clock=self._clock)


def name_derp(target: Target) -> str:
    """Return the label `target` of what the section schedules; a relay has one for each transport."""
    match target:
        case DerpRelayTarget():
            return f"{target.name.target}/{Transport.DERP}"
        case StunTarget():
            return f"{target.name.target}/stun"
        case DerpMeshTarget():
            return f"{target.region_id}/mesh"
        case _:
            return ""


def judge_direct_connections(_target: DirectConnectionsTarget, result: DirectConnectionsResult) -> Sequence[Judgement]:
    return (Judgement(name="", report=direct_connections.assess(result), result=result),)
