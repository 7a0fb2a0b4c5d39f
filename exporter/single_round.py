"""One round now: each target once, in an order in which nobody waits for news that come later.

In: what is planned and watched. Out: every target's run is over. Those that judge what others found
come after them; the rest runs side by side.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Coroutine, Iterable, Mapping
from dataclasses import dataclass

from exporter.health.model import Section
from exporter.relays import Relays
from exporter.replicas import Replicas
from exporter.snapshot import Snapshot
from exporter.targets.model import (
    DerpTarget,
    DirectConnectionsTarget,
    ExporterTarget,
    ReportsTarget,
    Target,
    WorkspaceProxiesTarget,
)

# How many relays and STUN servers are asked at a time.
MAX_RELAYS_AT_ONCE = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class SingleRound:
    """What a round needs.

    Args:
        targets: What the configuration asks for.
        relays: By deployment.
        replicas: By deployment.
        run: Runs a target and takes in what it found.
        list_proxies: Reads only the list, where the proxies themselves are not asked for.
        reschedule: Takes up the replicas that were found.
    """

    targets: Collection[Target]
    relays: Mapping[str, Relays]
    replicas: Mapping[str, Replicas]
    snapshot: Snapshot
    run: Callable[[Target], Coroutine[object, object, None]]
    list_proxies: Callable[[WorkspaceProxiesTarget], Coroutine[object, object, None]]
    reschedule: Callable[[], None]

    async def run_sections(self, sections: Collection[Section]) -> None:
        """Run each target of these sections once."""
        wanted = [target for target in self.targets if target.section in sections]
        last = [target for target in wanted if isinstance(target, ReportsTarget | ExporterTarget)]
        relayed = [target for target in wanted if isinstance(target, DerpTarget | DirectConnectionsTarget)]
        proxies = [target for target in wanted if isinstance(target, WorkspaceProxiesTarget)]
        later = (*last, *relayed, *proxies)
        replicas = [
            one for one in self.replicas.values() if Section.REPORT in sections or Section.ACCESS_URL in sections
        ]
        async with asyncio.TaskGroup() as group:
            group.create_task(self._run_replicas(replicas, sections))
            group.create_task(self._run_relays(relayed, proxies))
            group.create_task(self._run_all(target for target in wanted if target not in later))
        await self._run_all(
            target for one in replicas for target in one.overlooked(self.snapshot) if target.section in sections
        )
        await self._run_all(last)  # they tell what all the others found

    async def _run_relays(
        self, relayed: Collection[DerpTarget | DirectConnectionsTarget], proxies: Collection[WorkspaceProxiesTarget]
    ) -> None:
        """Run relays and what judges them, once the workspace proxies are known: those bring relays, too."""
        mapped = sorted({target.deployment for target in relayed})
        relays = [self.relays[deployment] for deployment in mapped]
        unlisted = [
            target
            for target in self.targets
            if isinstance(target, WorkspaceProxiesTarget) and target.deployment in mapped and target not in proxies
        ]
        judging = [target for target in relayed if isinstance(target, DerpTarget)]
        await _together(
            *(one.watch.refresh() for one in relays),
            *(self.run(target) for target in proxies),
            *(self.list_proxies(target) for target in unlisted),
        )
        await _together(*(one.replan() for one in relays))
        # relays in turn: what all do at once is slower for each, and would be measured
        slots = asyncio.Semaphore(MAX_RELAYS_AT_ONCE)
        await _together(
            *(self._run_in(slots, target) for one in relays for target in one.targets if judging),
            *(self.run(target) for target in relayed if isinstance(target, DirectConnectionsTarget)),
        )
        await self._run_all(target for one in relays for target in one.overlooked(self.snapshot))
        await self._run_all(judging)

    async def _run_replicas(self, replicas: Collection[Replicas], sections: Collection[Section]) -> None:
        await _together(*(one.refresh() for one in replicas))
        self.reschedule()
        await self._run_all(target for one in replicas for target in one.targets if target.section in sections)

    async def _run_all(self, targets: Iterable[Target]) -> None:
        await _together(*(self.run(target) for target in targets))

    async def _run_in(self, slots: asyncio.Semaphore, target: Target) -> None:
        async with slots:
            await self.run(target)


async def _together(*work: Coroutine[object, object, None]) -> None:
    async with asyncio.TaskGroup() as group:
        for one in work:
            group.create_task(one)
