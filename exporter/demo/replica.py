"""One replica of coderd in the simulation: a port of its own, a relay in the mesh of all replicas, its own
database line and hairpin, and its own health report, made when it is asked for and then kept for a while.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from exporter.clock import Clock
from exporter.demo.coder_report import ReportFacts, make_report, panic
from exporter.demo.coderd import EMBEDDED_REGION_ID, SimulatedCoder
from exporter.demo.inside import Inside
from exporter.demo.relay import SimulatedRelay
from exporter.demo.replica_database import ReplicaDatabase
from exporter.demo.state import ReplicaFacts, Role
from exporter.wire.derp_map import DerpMap


class SimulatedReplica(SimulatedCoder):
    """A replica behind the front of the access URL.

    Args:
        front: What answers at the access URL.
        name: Its hostname.
        mesh: The relays that its own forms a mesh with.

    Attributes:
        frozen: A report that it answers with, however old; None: what it finds out.
        panicking: Sections whose check crashes.
    """

    def __init__(
        self,
        front: SimulatedCoder,
        *,
        name: str,
        id: str,
        clock: Clock,
        mesh: list[SimulatedRelay],
        inside: Inside,
        database: ReplicaDatabase | None,
        certificate: Path | None,
    ) -> None:
        super().__init__(
            list_proxies=front.list_proxies,
            deployment_id=front.deployment_id,
            licensed=front.licensed,
            clock=clock,
            host="127.0.0.1",
            version=front.version,
            certificate=certificate,
            families=("ipv4",),
            state=front.state,
            relay=SimulatedRelay(mesh=mesh),
        )
        self.name = name
        self.id = id
        self.inside = inside
        self.database = database
        self.frozen: dict[str, Any] | None = None
        self.panicking: set[str] = set()
        self._front = front
        self._created_timestamp_seconds = clock.now()
        self._lock = asyncio.Lock()
        self._latest: dict[str, Any] | None = None
        self._made_monotonic_seconds = 0.0
        self.read_report = self.report

    @property
    def access_url(self) -> str:
        return self._front.url

    @property
    def facts(self) -> ReplicaFacts:
        """Its row in the table `replicas`."""
        return ReplicaFacts(
            id=self.id,
            name=self.name,
            relay_address=self.url,
            version=self.version,
            created_timestamp_seconds=self._created_timestamp_seconds,
            database_latency_seconds=self.database.latency_seconds if self.database is not None else 0.0,
        )

    def derp_map(self) -> DerpMap:
        return self._front.derp_map()

    async def beat(self) -> None:
        """Show that it is alive, as a replica does every 5 s."""
        self.state.replicas[self.name] = self.facts
        if self.database is not None:
            await self.database.write_replica(self.facts, region_id=EMBEDDED_REGION_ID)

    async def report(self, force: bool = False) -> dict[str, Any]:
        """Return the report: from the cache as long as it is young enough, else of a run that all who
        wait share."""
        if self.frozen is not None:
            return self.frozen
        asked = self._clock.monotonic()
        async with self._lock:
            made = self._made_monotonic_seconds
            fresh = made >= asked or (not force and self._clock.monotonic() - made < self.state.refresh_seconds)
            if self._latest is None or not fresh:
                self._latest = await self._find_out()
                self._made_monotonic_seconds = self._clock.monotonic()
            return self._latest

    def forget_report(self) -> None:
        """Make the next report anew."""
        self._latest = None

    async def _find_out(self) -> dict[str, Any]:
        inside, state = self.inside, self.state
        # one thing after the other, since what is slow here is to be the line and not this process
        database = await inside.ping_database()
        async with asyncio.TaskGroup() as group:
            access = group.create_task(inside.ask_access_url())
            # Coder uses the token of whoever asks; here that is an owner's, or there is no report
            websocket = group.create_task(inside.try_websocket(state.tokens[Role.OWNER].reveal()))
        derp, proxies = await inside.look_around()
        report = make_report(
            ReportFacts(
                timestamp_seconds=self._clock.now(),
                version=self.version,
                access_url=self.access_url,
                deployment_id=self.deployment_id,
                access=access.result(),
                websocket=websocket.result(),
                database=database,
                latency_threshold_seconds=state.latency_threshold_seconds,
                derp=derp,
                proxies=proxies,
                proxies_failure=state.proxies_failure,
                daemons=tuple(state.daemons.values()),
                daemons_failure=state.daemons_failure,
                dismissed=state.dismissed,
            )
        )
        for section in self.panicking:
            report = panic(report, section)
        return report
