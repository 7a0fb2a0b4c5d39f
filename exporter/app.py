"""Composition root: builds everything from a configuration, binds the rooms together, starts and
stops in order.

config -> targets -> ticker -> probe -> report -> snapshot -> metrics -> HTTP
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Mapping
from contextlib import asynccontextmanager
from typing import Any

from exporter import __version__
from exporter.clock import Clock, SystemClock
from exporter.config.load import redacted
from exporter.config.model import Config
from exporter.errors import ExporterError
from exporter.health import codes
from exporter.health.access_url import AccessURLResult
from exporter.health.maintenance import Maintenance
from exporter.health.model import Section
from exporter.health.provisioner_daemons import ProvisionerDaemonsResult
from exporter.health.workspace_proxy import ProxyResult
from exporter.log import get_logger
from exporter.maintenance import MaintenanceWatch
from exporter.metrics.board import Board
from exporter.metrics.own import OwnMetrics
from exporter.relays import Relays
from exporter.rooms import Rooms
from exporter.runner import Round, Runner
from exporter.snapshot import CodeChange, Commit, Snapshot
from exporter.targets.model import (
    DatabaseTarget,
    DerpTarget,
    DirectConnectionsTarget,
    Target,
    TargetKey,
    WorkspaceProxiesTarget,
)
from exporter.targets.static import plan
from exporter.ticker import Ticker
from exporter.web.pages import Landing, survey
from exporter.web.server import DEFAULT_TELEMETRY_PATH, create_app
from exporter.wire.derp_map import DerpMap

# `/-/ready` waits for the first run of every target that runs at least this often, and no longer
# than so long. Source: contract, section 8.
READY_INTERVAL_SECONDS = 300.0
READY_AFTER_SECONDS = 60.0
# `/-/healthy` fails when a tick is so late, or a run so far beyond its limit.
STALLED_AFTER_SECONDS = 30.0

# A version that was not seen for so long is a new one when it comes.
VERSION_MEMORY_SECONDS = 600.0
# How many relays and STUN servers one `check` asks at a time.
MAX_RELAYS_AT_ONCE = 20

_log = get_logger(__name__)

OnChange = Callable[[CodeChange], None]


class Application:
    """The exporter without its HTTP server: schedule, probes, snapshot and metrics.

    Use `running` to have one that runs.
    """

    def __init__(self, config: Config, *, clock: Clock, on_change: OnChange | None = None) -> None:
        self.config = config
        self.plan = plan(config)
        self.clock = clock
        self._on_change = on_change
        # asked once: most exporters do not log their runs, and each run would pay for the question
        self._logs_runs: bool = _log.is_enabled_for(logging.DEBUG)
        self._started_timestamp = clock.now()
        self._started = clock.monotonic()
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
        self._versions: dict[TargetKey, dict[str, float]] = {}
        self._waiting: set[str] = {
            target.schedule_name for target in self.plan.targets if target.interval_seconds <= READY_INTERVAL_SECONDS
        }
        self.snapshot = Snapshot()
        self._rooms = Rooms(relays=self._relays, snapshot=self.snapshot, clock=clock)
        self.own = OwnMetrics(version=__version__, config_timestamp_seconds=self._started_timestamp)
        self.board = Board(
            snapshot=self.snapshot,
            own=self.own,
            thresholds={
                target.deployment: target.latency_threshold_seconds
                for target in self.plan.targets
                if isinstance(target, DatabaseTarget)
            },
        )
        for key, policy in self.plan.policies.items():
            self.snapshot.declare(key, codes.section_codes(key.section), policy)
            self.board.declare_section(key.deployment, key.section, self.plan.off.get(key))
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
        found = (target for relays in self._relays.values() for target in relays.targets)
        return (*self.plan.targets, *found)

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
                for relays in self._relays.values():
                    group.create_task(relays.serve())
        finally:
            await self.close()

    async def check(self, sections: Collection[Section] = ()) -> None:
        """Run each target of these sections (all by default) once and now. Those that judge what
        others found come after them; the rest runs side by side."""
        wanted = [target for target in self.plan.targets if not sections or target.section in sections]
        judging = [target for target in wanted if isinstance(target, DerpTarget)]
        mapped = {target.deployment for target in wanted if isinstance(target, DerpTarget | DirectConnectionsTarget)}
        lists = [
            target
            for target in self.plan.targets
            if isinstance(target, WorkspaceProxiesTarget) and target.deployment in mapped
        ]
        relays = [self._relays[deployment] for deployment in sorted(mapped)]
        async with asyncio.TaskGroup() as group:
            for target in wanted:
                if not isinstance(target, DerpTarget | DirectConnectionsTarget | WorkspaceProxiesTarget):
                    group.create_task(self._check(target))
            # the relays of workspace proxies are known by the list of those
            await _together(
                *(one.watch.refresh() for one in relays),
                *(self._check(target) for target in wanted if isinstance(target, WorkspaceProxiesTarget)),
                *(self._list_proxies(target) for target in lists if target not in wanted),
            )
            await _together(*(one.replan() for one in relays))
            # relays in turn: what all do at once is slower for each, and would be measured
            slots = asyncio.Semaphore(MAX_RELAYS_AT_ONCE)
            await _together(
                *(self._check_in(slots, target) for one in relays for target in one.targets if judging),
                *(self._check(target) for target in wanted if isinstance(target, DirectConnectionsTarget)),
            )
            await _together(*(self._check(target) for one in relays for target in one.overlooked(self.snapshot)))
            await _together(*(self._check(target) for target in judging))

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
                deployments=survey(self.snapshot, self.board.off, self.maintenance),
            ),
            telemetry_path=telemetry_path,
        )

    def healthy(self) -> str | None:
        """Return why the probing loop has stalled; None while it has not."""
        overdue = self.ticker.overdue_seconds()
        if overdue <= STALLED_AFTER_SECONDS:
            return None
        return f"the probing loop has stalled: a run is {overdue:.0f} s late"

    def ready(self) -> str | None:
        """Return what the first round still waits for; None when it is over."""
        if not self._waiting or self.clock.monotonic() - self._started >= READY_AFTER_SECONDS:
            return None
        return "waiting for the first run of " + ", ".join(sorted(self._waiting)[:10])

    # what the ticker tells

    def run_started(self, target: Target, delay_seconds: float) -> None:
        self.own.tick_delayed(target.section, delay_seconds)

    def ticks_skipped(self, target: Target, count: int) -> None:
        self.own.ticks_skipped(target.section, count)

    def run_finished(self, target: Target, outcome: Round) -> None:
        """Take a finished round into the snapshot, the metrics and the log."""
        self._waiting.discard(target.schedule_name)
        self._note_versions(target, outcome)
        commit = self.snapshot.commit(
            target.schedule_name,
            outcome.healths,
            now=self.clock.now(),
            elapsed_seconds=self.clock.monotonic() - self._started,
            complete=outcome.complete,
        )
        self._show(commit)
        if isinstance(target, WorkspaceProxiesTarget):
            self._tell_relays(target)
        for health in outcome.healths if self._logs_runs else ():
            _log.debug(
                "run.finished",
                deployment=target.deployment,
                section=str(target.section),
                target=health.key.name,
                severity=health.report.severity.label,
                codes=[finding.code for finding in health.report.findings],
                duration_seconds=round(health.duration_seconds, 6),
                address=getattr(health.result, "address", None),
            )

    def _show(self, commit: Commit) -> None:
        """Take what a commit changed into the metrics and the log."""
        for key in commit.removed:
            self._versions.pop(key, None)
        before = {key: self.board.off.get(key) for key in commit.sections}
        for clash in self.board.show(commit):
            _log.error(
                "series.clashed",
                label=clash.label,
                value=clash.value,
                **{
                    f"{role}_{name}": value
                    for role, key in (("shown", clash.shown), ("hidden", clash.hidden))
                    for name, value in (("deployment", key.section_key.deployment), ("target", key.name))
                },
            )
        for section_key, reason in before.items():
            now_off = self.board.off.get(section_key)
            if now_off is not reason:
                # nobody is paged for a missing right, so it must at least stand in the log
                log = _log.info if now_off is None else _log.warning
                log(
                    "section.enabled" if now_off is None else "section.disabled",
                    deployment=section_key.deployment,
                    section=str(section_key.section),
                    reason=str(now_off or ""),
                )
        for change in commit.changes:
            log = _log.warning if change.active and change.severity > 0 else _log.info
            log(
                "code.activated" if change.active else "code.cleared",
                deployment=change.key.section_key.deployment,
                section=str(change.key.section_key.section),
                target=change.key.name,
                code=change.code,
                severity=change.severity.label,
                reason=change.message,
            )
            if self._on_change is not None:
                self._on_change(change)

    def _show_maintenance(self, deployment: str, maintenance: Maintenance) -> None:
        self.board.show_maintenance(deployment, is_open=maintenance.open)

    async def _check(self, target: Target) -> None:
        self.run_finished(target, await self.runner.run(target))

    async def _check_in(self, slots: asyncio.Semaphore, target: Target) -> None:
        async with slots:
            await self._check(target)

    async def _list_proxies(self, target: WorkspaceProxiesTarget) -> None:
        """Read only the list, where the proxies themselves are not asked for."""
        await self._rooms.discovery(target).refresh(self.clock.monotonic() + target.timeout_seconds)
        self._tell_relays(target)

    def _tell_relays(self, target: WorkspaceProxiesTarget) -> None:
        relays = self._relays.get(target.deployment)
        if relays is not None:
            relays.set_proxies(self._rooms.discovery(target).known)

    def _reschedule(self) -> None:
        """Take up the targets that are there now; those that left take their series along."""
        found = {target.schedule_name: target for relays in self._relays.values() for target in relays.targets}
        for name in self._scheduled.keys() - found.keys():
            self._show(self.snapshot.retire(name))
        self._scheduled = found
        if self.ticker.serving.is_set():
            self.ticker.set_targets(self.targets)
            self._count_targets()

    def _count_targets(self) -> None:
        counts = Counter(target.section for target in self.targets)
        for section in Section:
            self.own.set_targets(section, counts[section])

    def _note_versions(self, target: Target, outcome: Round) -> None:
        """A server, proxy or provisioner daemon that shows a version which was not seen lately is rolling out.

        Replicas of two versions behind one name show theirs in turn: that is one roll-out, not a
        new one each time, else skew that lasts would wait for ever.
        """
        now = self.clock.monotonic()
        for health in outcome.healths:
            versions = _shown_versions(health.result)
            if not versions:
                continue
            seen = self._versions.setdefault(health.key, {})
            if seen.keys() == versions:
                seen |= dict.fromkeys(versions, now)
                continue
            # the latest ones stay known, however long ago: an interval or an outage is no roll-out
            latest = max(seen.values(), default=now)
            lately = {
                name: when for name, when in seen.items() if when == latest or now - when <= VERSION_MEMORY_SECONDS
            }
            for version in sorted(versions - lately.keys()) if seen else ():
                _log.info("version.changed", deployment=target.deployment, target=health.key.name, version=version)
                self.snapshot.version_changed(target.deployment, elapsed_seconds=now - self._started)
            self._versions[health.key] = lately | dict.fromkeys(versions, now)


def _shown_versions(result: object) -> set[str]:
    """Return the versions that a result shows of what it measured; none when it shows none."""
    match result:
        case AccessURLResult(best=best) if best is not None and best.coder_version:
            return {best.coder_version}
        case ProxyResult(answered_version=version) if version:
            return {version}
        case ProvisionerDaemonsResult():
            return {daemon.version for daemon in result.recent}
    return set()


async def _together(*work: Coroutine[object, object, None]) -> None:
    async with asyncio.TaskGroup() as group:
        for one in work:
            group.create_task(one)


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
