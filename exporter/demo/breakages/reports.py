"""Coder's own reports, and the mutes that stand in its settings."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from exporter.demo import answers, faults
from exporter.demo.breakages.front import break_everywhere
from exporter.demo.scenario import Breakage

if TYPE_CHECKING:
    from exporter.demo.simulation import Simulation


def serve_old_report(name: str, *, age_seconds: float) -> Breakage:
    """A replica answers with a report that is so old."""

    @asynccontextmanager
    async def broken(simulation: Simulation) -> AsyncIterator[None]:
        replica = simulation.cluster.replicas[name]
        old = answers.write_time(simulation.now() - age_seconds)
        replica.frozen = await replica.report() | {"time": old}
        try:
            yield
        finally:
            replica.frozen = None

    return broken


def crash_check(section: str) -> Breakage:
    """The check of a section crashes in every replica's report."""

    @asynccontextmanager
    async def broken(simulation: Simulation) -> AsyncIterator[None]:
        replicas = simulation.cluster.replicas.values()
        for replica in replicas:
            replica.panicking.add(section)
        simulation.cluster.forget_reports()
        try:
            yield
        finally:
            for replica in replicas:
                replica.panicking.discard(section)
            simulation.cluster.forget_reports()

    return broken


def never_report() -> Breakage:
    """Every request of the report gets 503: the run is not over yet."""
    return break_everywhere(
        lambda: faults.Answer(
            path="/api/v2/debug/health",
            status=503,
            body=json.dumps(answers.recorded("report-in-progress")),
            content_type="application/json",
        )
    )


def fail_daemon_check(words: str) -> Breakage:
    """Coder cannot read its provisioner daemons for its report."""

    @asynccontextmanager
    async def broken(simulation: Simulation) -> AsyncIterator[None]:
        simulation.coder.state.daemons_failure = words
        simulation.cluster.forget_reports()
        try:
            yield
        finally:
            simulation.coder.state.daemons_failure = ""
            simulation.cluster.forget_reports()

    return broken


def mute(*names: str) -> Breakage:
    """These sections are muted in Coder, by the names of its settings."""

    @asynccontextmanager
    async def broken(simulation: Simulation) -> AsyncIterator[None]:
        state = simulation.coder.state
        before, state.dismissed = state.dismissed, names
        simulation.cluster.forget_reports()
        try:
            yield
        finally:
            state.dismissed = before
            simulation.cluster.forget_reports()

    return broken
