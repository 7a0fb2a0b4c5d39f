"""Composition root: builds everything from a configuration, binds the rooms together, starts and
stops in order.

config -> targets -> ticker -> probe -> report -> snapshot -> metrics -> HTTP
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Collection, Iterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from exporter import __version__
from exporter.clock import Clock, SystemClock
from exporter.comparing import Comparing
from exporter.config.load import redacted
from exporter.config.model import Config
from exporter.cut_off import CutOff
from exporter.declared import Declared
from exporter.errors import ExporterError
from exporter.health.exporter import ExporterResult
from exporter.health.maintenance import Maintenance
from exporter.health.model import Section
from exporter.health.report import ReportsResult
from exporter.host_watch import HostWatch
from exporter.maintenance import MaintenanceWatch
from exporter.metrics.board import Board
from exporter.metrics.own import OwnMetrics
from exporter.mutes import Mutes
from exporter.recorder import OnChange, Recorder
from exporter.relays import Relays
from exporter.replicas import Replicas
from exporter.rooms.table import Rooms
from exporter.runner import Round, Runner
from exporter.single_round import SingleRound
from exporter.snapshot import Commit, Snapshot
from exporter.targets.model import (
    AccessURLTarget,
    DatabaseTarget,
    ExporterTarget,
    SectionKey,
    Target,
    WorkspaceProxiesTarget,
)
from exporter.targets.static import EXPORTER_SCHEDULE_NAME, plan
from exporter.ticker import Ticker
from exporter.web.pages import Landing
from exporter.web.server import DEFAULT_TELEMETRY_PATH, Health, create_app
from exporter.web.views import Background, Disagreement, survey_in_turn
from exporter.wire.derp_map import DerpMap

# `/-/ready` waits for the first run of every target that runs at least this often, and no longer
# than so long. Source: contract, section 8.
READY_INTERVAL_SECONDS = 300.0
READY_AFTER_SECONDS = 60.0
# `/-/healthy` fails when a tick is so late, or a run so far beyond its limit.
STALLED_AFTER_SECONDS = 30.0


class Application:
    """The exporter without its HTTP server: schedule, probes, snapshot and metrics.

    Use `running` to have one that runs.
    """

    def __init__(self, config: Config, *, clock: Clock, on_change: OnChange | None = None) -> None:
        self.config = config
        self.plan = plan(config)
        self.clock = clock
        listing = {target.deployment for target in self.plan.targets if isinstance(target, WorkspaceProxiesTarget)}
        self._relays = {
            source.deployment: Relays(
                source,
                self.plan.derp_targets[source.deployment],
                enabled=any(self.plan.derp_targets[source.deployment] is target for target in self.plan.targets),
                clock=clock,
                on_targets=self._reschedule,
                proxies=self.plan.static_proxies.get(source.deployment, ()),
                lists_proxies=source.deployment in listing,
            )
            for source in self.plan.map_sources.values()
        }
        self._scheduled: dict[str, Target] = {}
        self._asked: dict[str, tuple[Target, float]] = {}
        self._cut_off = CutOff(clock=clock, on_verdict=lambda settles: self._recorder.thaw(settles))
        self._host = HostWatch(
            self._cut_off,
            behind_seconds=lambda: self.ticker.behind_seconds(),
            scheduled=lambda: self.ticker.targets,
            clock=clock,
        )
        self.mutes = Mutes()
        self._waiting: set[str] = {
            target.schedule_name for target in self.plan.targets if target.interval_seconds <= READY_INTERVAL_SECONDS
        }
        self.snapshot = Snapshot()
        self._replicas: dict[str, Replicas] = {}
        self._rooms = Rooms(
            relays=self._relays,
            replicas=self._replicas,
            look_at_host=self._look_at_host,
            snapshot=self.snapshot,
            clock=clock,
            has_database=bool(self.plan.databases),
        )
        self.own = OwnMetrics(version=__version__, config_timestamp_seconds=clock.now())
        self.board = Board(
            snapshot=self.snapshot,
            own=self.own,
            thresholds={
                target.deployment: self._rooms.latency_threshold_seconds(target)
                for target in self.plan.targets
                if isinstance(target, DatabaseTarget)
            },
        )
        self._declared = Declared(
            self.plan.policies,
            off=self.plan.off,
            report_policies=self.plan.report_policies,
            snapshot=self.snapshot,
            board=self.board,
        )
        self._recorder = Recorder(
            snapshot=self.snapshot,
            board=self.board,
            cut_off=self._cut_off,
            declared=self._declared,
            clock=clock,
            on_change=on_change,
        )
        self.comparing = Comparing(
            [deployment.name for deployment in config.deployments],
            snapshot=self.snapshot,
            board=self.board,
            clock=clock,
        )
        for name in [deployment.name for deployment in config.deployments]:
            if name in self.plan.replica_sources:
                self._replicas[name] = self._make_replicas(name)
        self._maintenance = MaintenanceWatch(
            {deployment.name: deployment.maintenance for deployment in config.deployments},
            clock=clock,
            on_change=self._show_maintenance,
        )
        for deployment, maintenance in self.maintenance.items():
            self._show_maintenance(deployment, maintenance)
        self.runner = Runner(rooms=self._rooms.table(), clock=clock)
        self.ticker: Ticker[Round] = Ticker(run=self.runner.run, observer=self, clock=clock)

    @property
    def targets(self) -> tuple[Target, ...]:
        """Everything that is to be probed now: what the configuration asks for, and what was found."""
        return (*self.plan.targets, *self._found_targets)

    @property
    def _found_targets(self) -> Iterator[Target]:
        for relays in self._relays.values():
            yield from relays.targets
        for replicas in self._replicas.values():
            yield from replicas.targets

    @property
    def maintenance(self) -> Mapping[str, Maintenance]:
        """Whether a maintenance window is open now, for each deployment."""
        return self._maintenance.now

    def derp_map(self, deployment: str) -> DerpMap | None:
        """Return the DERP map of a deployment that is in use now."""
        relays = self._relays.get(deployment)
        return None if relays is None else relays.state.derp_map

    async def serve(self) -> None:
        """Probe on schedule until cancelled."""
        self._count_targets()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self.ticker.serve(self.plan.targets))
                group.create_task(self.own.watch_event_loop(self.clock))
                group.create_task(self._maintenance.serve())
                group.create_task(self.comparing.serve())
                group.create_task(self._cut_off.serve(lambda: self.ticker.force(EXPORTER_SCHEDULE_NAME)))
                for relays in self._relays.values():
                    group.create_task(relays.serve())
                for replicas in self._replicas.values():
                    group.create_task(replicas.serve())
        finally:
            await self.close()

    async def check(self, sections: Collection[Section] = ()) -> None:
        """Run each target of these sections (all by default) once and now."""
        once = SingleRound(
            targets=self.plan.targets,
            relays=self._relays,
            replicas=self._replicas,
            snapshot=self.snapshot,
            run=self._run,
            list_proxies=self._list_proxies,
            reschedule=self._reschedule,
        )
        await once.run_sections(sections or tuple(Section))

    @property
    def awaited_seconds(self) -> dict[SectionKey, float]:
        """What `check` waits for: the sections of targets under way, and in how many seconds the time of
        the last of them is up."""
        now = self.clock.monotonic()
        awaited: dict[SectionKey, float] = {}
        for target, until in self._asked.values():
            key = SectionKey(deployment=target.deployment, section=target.section)
            awaited[key] = max(0.0, until - now, awaited.get(key, 0.0))
        return awaited

    async def close(self) -> None:
        """Give back what runs kept open."""
        await self._rooms.close()

    def web(self, telemetry_path: str = DEFAULT_TELEMETRY_PATH) -> Any:
        """Return the HTTP application that shows this exporter."""
        shown = redacted(self.config)
        return create_app(
            render=self.board.render,
            healthy=self.healthy,
            ready=self.ready,
            config_text=lambda: shown,
            landing=lambda: Landing(
                version=__version__,
                now_timestamp_seconds=self.clock.now(),
                deployments=survey_in_turn(self.snapshot, self._background()),
            ),
            health=lambda deployment: Health(
                version=__version__,
                now_timestamp_seconds=self.clock.now(),
                deployments=survey_in_turn(self.snapshot, self._background(deployment), only=deployment),
            ),
            telemetry_path=telemetry_path,
        )

    def _background(self, only: str | None = None) -> Background:
        disagreements: dict[str, dict[str, tuple[Disagreement, ...]]] = {}
        comparisons = self.comparing.comparisons
        wanted = comparisons if only is None else {only: comparisons.get(only, ())}
        for deployment, compared in wanted.items():
            for one in compared:
                if one.differs:
                    by_section = disagreements.setdefault(deployment, {})
                    said = Disagreement(coder_replica=one.coder_replica, sentence=one.sentence)
                    by_section[one.section] = (*by_section.get(one.section, ()), said)
        return Background(
            off=self.board.off,
            maintenance=self.maintenance,
            root_causes=self.comparing.root_causes,
            dismissed=self.mutes.since_timestamp_seconds,
            disagreements=disagreements,
        )

    def healthy(self) -> str | None:
        """Return why the probing loop has stalled; None while it has not."""
        overdue = self.ticker.overdue_seconds()
        if overdue <= STALLED_AFTER_SECONDS:
            return None
        return f"the probing loop has stalled: a run is {overdue:.0f} s late"

    def ready(self) -> str | None:
        """Return what the first round still waits for; None when it is over."""
        if not self._waiting or self._recorder.elapsed_seconds >= READY_AFTER_SECONDS:
            return None
        return "waiting for the first run of " + ", ".join(sorted(self._waiting)[:10])

    # what the ticker tells

    def run_started(self, target: Target, delay_seconds: float) -> None:
        self.own.tick_delayed(target.section, delay_seconds)
        self._host.run_started(target)

    def ticks_skipped(self, target: Target, count: int) -> None:
        self.own.ticks_skipped(target.section, count)
        self._host.ticks_skipped(target, count)

    def run_finished(self, target: Target, outcome: Round) -> None:
        """Take in a finished round, and tell those who go by it."""
        self._waiting.discard(target.schedule_name)
        commit = self._recorder.take(target, outcome)
        if isinstance(target, WorkspaceProxiesTarget):
            self._tell_relays(target)
        self._take_reports(target, outcome)
        self._compare(target, commit)

    def _take_reports(self, target: Target, outcome: Round) -> None:
        """Learn what Coder says beside its reports: mutes, and its configuration."""
        for health in outcome.healths:
            result = health.result
            if not isinstance(result, ReportsResult):
                continue
            if self.mutes.see(target.deployment, result, self.clock.now()):
                self.board.show_dismissed(
                    target.deployment, self.mutes.since_timestamp_seconds.get(target.deployment, {})
                )
            if result.settings is not None:
                self._rooms.settings[target.deployment] = result.settings
                for database in self.plan.targets:
                    if isinstance(database, DatabaseTarget) and database.deployment == target.deployment:
                        self.board.set_threshold(target.deployment, self._rooms.latency_threshold_seconds(database))

    def _compare(self, target: Target, commit: Commit) -> None:
        """Look at the deployment that something has changed about; at all whenever this host is looked at."""
        if isinstance(target, ExporterTarget):
            self.comparing.look_at_all()
        elif (commit.changes or target.section is Section.REPORT) and target.deployment:
            self.comparing.look_at(target.deployment)

    async def _look_at_host(self, target: ExporterTarget) -> ExporterResult:
        result = await self._host.look(target)
        self.own.set_cut_off(bool(result.cut_off))
        return result

    def _show_maintenance(self, deployment: str, maintenance: Maintenance) -> None:
        self.board.show_maintenance(deployment, is_open=maintenance.open)

    async def _run(self, target: Target) -> None:
        self._asked[target.schedule_name] = target, self.clock.monotonic() + target.run_limit_seconds
        try:
            outcome = await self.runner.run(target)
        finally:
            del self._asked[target.schedule_name]
        self.run_finished(target, outcome)

    async def _list_proxies(self, target: WorkspaceProxiesTarget) -> None:
        """Read only the list, where the proxies themselves are not asked for."""
        await self._rooms.discovery(target).refresh(self.clock.monotonic() + target.timeout_seconds)
        self._tell_relays(target)

    def _tell_relays(self, target: WorkspaceProxiesTarget) -> None:
        known = self._rooms.discovery(target).known
        for watcher in (self._relays.get(target.deployment), self._replicas.get(target.deployment)):
            if watcher is not None:
                watcher.set_proxies(known)

    def _reschedule(self) -> None:
        """Take up the targets that are there now; those that left take their series along."""
        found = {target.schedule_name: target for target in self._found_targets}
        for target in found.values():
            self._declared.add_target(target)
        for name in self._scheduled.keys() - found.keys():
            self._recorder.retire(name)
            self._rooms.forget(name)
        self._scheduled = found
        if self.ticker.serving.is_set():
            self.ticker.set_targets(self.targets)
            self._count_targets()

    def _make_replicas(self, deployment: str) -> Replicas:
        access = next(
            (one for one in self.plan.targets if isinstance(one, AccessURLTarget) and one.deployment == deployment),
            None,
        )
        database = self.plan.databases.get(deployment)
        relays = self._relays.get(deployment)
        return Replicas(
            self.plan.replica_sources[deployment],
            access=access,
            report=self.plan.reports.get(deployment),
            clock=self.clock,
            on_targets=self._reschedule,
            on_replicas=None if relays is None else relays.set_replicas,
            read_table=None if database is None else self._rooms.databases.read_replicas(deployment, database),
            cut_off=lambda: self._cut_off.holds,
        )

    def _count_targets(self) -> None:
        counts = Counter(target.section for target in self.targets)
        for section in Section:
            self.own.set_targets(section, counts[section])


@asynccontextmanager
async def running(
    config: Config, *, clock: Clock | None = None, on_change: OnChange | None = None
) -> AsyncIterator[Application]:
    """Have an application that probes on schedule in the background."""
    application = Application(config, clock=clock or SystemClock(), on_change=on_change)
    trouble: ExporterError | None = None
    async with asyncio.TaskGroup() as group:
        serving = group.create_task(application.serve())
        try:
            await application.ticker.serving.wait()
            yield application
        except ExporterError as error:
            # what the caller ran into is no matter of the group's: it leaves as it came
            trouble = error
        finally:
            serving.cancel()
    if trouble is not None:
        raise trouble
