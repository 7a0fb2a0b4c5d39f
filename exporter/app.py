"""Composition root: builds everything from a configuration, binds the rooms together, starts and
stops in order.

config -> targets -> ticker -> probe -> report -> snapshot -> metrics -> HTTP
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from exporter import __version__
from exporter.clock import Clock, SystemClock
from exporter.config.load import redacted
from exporter.config.model import Config
from exporter.errors import ExporterError
from exporter.health import access_url, codes, database, websocket, workspace_proxy
from exporter.health.access_url import AccessURLResult
from exporter.health.database import DatabaseResult
from exporter.health.model import Section
from exporter.health.websocket import WebSocketResult
from exporter.health.workspace_proxy import ProxyResult, RoundResult
from exporter.log import get_logger
from exporter.metrics.board import Board
from exporter.metrics.own import OwnMetrics
from exporter.net.coder_tables import CoderTables
from exporter.net.postgres import Session
from exporter.probes import access_url as access_url_probe
from exporter.probes import database as database_probe
from exporter.probes import websocket as websocket_probe
from exporter.probes import workspace_proxy as workspace_proxy_probe
from exporter.probes.identity import IdentityMemory
from exporter.runner import Judgement, Room, Round, Runner
from exporter.secret import Secret
from exporter.snapshot import CodeChange, Snapshot
from exporter.targets.discovery import ProxyDiscovery, ReadTables
from exporter.targets.model import (
    AccessURLTarget,
    DatabaseTarget,
    HTTPTarget,
    Target,
    TargetKey,
    WebSocketTarget,
    WorkspaceProxiesTarget,
)
from exporter.targets.static import plan
from exporter.ticker import Ticker
from exporter.web.pages import Landing, survey
from exporter.web.server import DEFAULT_TELEMETRY_PATH, create_app
from exporter.wire.postgres_url import parse_postgres_url

# `/-/ready` waits for the first run of every target that runs at least this often, and no longer
# than so long. Source: contract, section 8.
READY_INTERVAL_SECONDS = 300.0
READY_AFTER_SECONDS = 60.0
# `/-/healthy` fails when a tick is so late, or a run so far beyond its limit.
STALLED_AFTER_SECONDS = 30.0

# A version that was not seen for so long is a new one when it comes.
VERSION_MEMORY_SECONDS = 600.0
# The label `target` of the database. Source: contract, section 5.
DATABASE_TARGET = "primary"

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
        self._sessions: dict[str, Session] = {}
        self._discoveries: dict[str, ProxyDiscovery] = {}
        self._memories: dict[str, IdentityMemory] = {}
        self._versions: dict[TargetKey, dict[str, float]] = {}
        self._waiting: set[str] = {
            target.schedule_name for target in self.plan.targets if target.interval_seconds <= READY_INTERVAL_SECONDS
        }
        self.snapshot = Snapshot()
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
        self.runner = Runner(rooms=self._rooms(), clock=clock)
        self.ticker: Ticker[Round] = Ticker(run=self.runner.run, observer=self, clock=clock)

    async def serve(self) -> None:
        """Probe on schedule until cancelled."""
        for section in Section:
            self.own.set_targets(section, sum(target.section is section for target in self.plan.targets))
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self.ticker.serve(self.plan.targets))
                group.create_task(self.own.watch_event_loop(self.clock))
        finally:
            await self.close()

    async def check(self, targets: Iterable[Target] | None = None) -> None:
        """Run each of these targets (all by default) once, now and side by side."""
        async with asyncio.TaskGroup() as group:
            for target in self.plan.targets if targets is None else targets:
                group.create_task(self._check(target))

    async def close(self) -> None:
        """Give back what runs kept open, side by side: each may take its time to say goodbye."""
        sessions = list(self._sessions.values())
        self._sessions.clear()
        async with asyncio.TaskGroup() as group:
            for session in sessions:
                group.create_task(session.close())

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
                deployments=survey(self.snapshot, self.board.off),
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
        for entry in commit.entries if self._logs_runs else ():
            health = entry.health
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

    async def _check(self, target: Target) -> None:
        self.run_finished(target, await self.runner.run(target))

    def _note_versions(self, target: Target, outcome: Round) -> None:
        """A server or proxy that shows a version which was not seen lately is rolling out.

        Replicas of two versions behind one name show theirs in turn: that is one roll-out, not a
        new one each time, else skew that lasts would wait for ever.
        """
        now = self.clock.monotonic()
        for health in outcome.healths:
            version = None
            if isinstance(health.result, AccessURLResult) and health.result.best is not None:
                version = health.result.best.coder_version
            elif isinstance(health.result, ProxyResult):
                version = health.result.answered_version
            if not version:
                continue
            seen = self._versions.setdefault(health.key, {})
            if len(seen) == 1 and version in seen:
                seen[version] = now
                continue
            # the latest one stays known, however long ago: an interval or an outage is no roll-out
            latest = max(seen, key=seen.__getitem__, default=None)
            lately = {
                name: when for name, when in seen.items() if name == latest or now - when <= VERSION_MEMORY_SECONDS
            }
            if seen and version not in lately:
                _log.info("version.changed", deployment=target.deployment, target=health.key.name, version=version)
                self.snapshot.version_changed(target.deployment, elapsed_seconds=now - self._started)
            self._versions[health.key] = lately | {version: now}

    # the table: section -> probe, assess

    def _rooms(self) -> Mapping[Section, Room]:
        return {
            Section.ACCESS_URL: Room(probe=self._probe_access_url, judge=_judge_access_url, name=self._host),
            Section.WEBSOCKET: Room(
                probe=partial(websocket_probe.probe, clock=self.clock),
                judge=_judge_websocket,
                name=self._host,
            ),
            Section.DATABASE: Room(
                probe=self._probe_database, judge=_judge_database, name=lambda target: DATABASE_TARGET
            ),
            Section.WORKSPACE_PROXY: Room(
                probe=self._probe_workspace_proxies, judge=_judge_workspace_proxies, name=lambda target: ""
            ),
        }

    def _probe_access_url(self, target: AccessURLTarget) -> Awaitable[AccessURLResult]:
        memory = self._memories.setdefault(target.schedule_name, IdentityMemory())
        return access_url_probe.probe(target, clock=self.clock, memory=memory)

    def _probe_database(self, target: DatabaseTarget) -> Awaitable[DatabaseResult]:
        session = self._session(
            target, target.url, fresh_connection_interval_seconds=target.fresh_connection_interval_seconds
        )
        return database_probe.probe(target, session=session, clock=self.clock)

    def _probe_workspace_proxies(self, target: WorkspaceProxiesTarget) -> Awaitable[RoundResult]:
        discovery = self._discoveries.get(target.schedule_name)
        if discovery is None:
            discovery = ProxyDiscovery(target, clock=self.clock, read_tables=self._tables_of(target))
            self._discoveries[target.schedule_name] = discovery
        return workspace_proxy_probe.probe(target, discovery=discovery, clock=self.clock)

    def _tables_of(self, target: WorkspaceProxiesTarget) -> ReadTables | None:
        if target.database_url is None:
            return None
        tables = CoderTables(self._session(target, target.database_url))
        return lambda timeout_seconds: tables.read_workspace_proxies(timeout_seconds=timeout_seconds)

    def _session(self, target: Target, url: Secret, **options: float) -> Session:
        """Return the kept connection of a schedule entry. Each has its own: two conversations on
        one would wait for each other, and be measured."""
        session = self._sessions.get(target.schedule_name)
        if session is None:
            session = Session(
                parse_postgres_url(url.reveal()), clock=self.clock, timeout_seconds=target.timeout_seconds, **options
            )
            self._sessions[target.schedule_name] = session
        return session

    def _host(self, target: HTTPTarget) -> str:
        """Return the label `target` when a run broke before it could tell: that of the run before."""
        for key in self.snapshot.entries:
            if key.section_key == target.section_key:
                return key.name
        return ""


def _judge_access_url(target: AccessURLTarget, result: AccessURLResult) -> Sequence[Judgement]:
    report = access_url.assess(
        result,
        certificate_warning_seconds=target.certificate_warning_seconds,
        certificate_error_seconds=target.certificate_error_seconds,
    )
    return (Judgement(name=result.host, report=report, result=result, phase_seconds=result.phase_seconds),)


def _judge_websocket(target: WebSocketTarget, result: WebSocketResult) -> Sequence[Judgement]:
    report = websocket.assess(result)
    return (Judgement(name=result.host, report=report, result=result, phase_seconds=result.phase_seconds),)


def _judge_database(target: DatabaseTarget, result: DatabaseResult) -> Sequence[Judgement]:
    report = database.assess(result, threshold_seconds=target.latency_threshold_seconds)
    return (Judgement(name=DATABASE_TARGET, report=report, result=result, phase_seconds=result.phase_seconds),)


def _judge_workspace_proxies(target: WorkspaceProxiesTarget, result: RoundResult) -> Sequence[Judgement]:
    """The round itself, under an empty name, and each proxy under its own."""
    own = Judgement(name="", report=workspace_proxy.assess_round(result), result=result)
    return (
        own,
        *(
            Judgement(
                name=proxy.proxy.name,
                report=workspace_proxy.assess_proxy(proxy),
                result=proxy,
                phase_seconds=proxy.phase_seconds,
                started_timestamp_seconds=proxy.started_timestamp_seconds,
                duration_seconds=proxy.duration_seconds,
            )
            for proxy in result.proxies
        ),
    )


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
