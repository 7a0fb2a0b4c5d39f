"""A Coder whose health report says what a test wants, and a configuration that asks it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from email.utils import formatdate
from pathlib import Path
from typing import Any

import yaml
from aiohttp import web

from exporter.app import Application
from exporter.config.load import load_config
from exporter.demo import answers
from exporter.demo.coderd import SimulatedCoder
from exporter.demo.state import DaemonFacts, ReplicaFacts, Role
from exporter.snapshot import CodeChange
from tests.support.clock import ShiftedClock

# what has nothing to do with reports and takes its time
QUIET = {"derp": {"enabled": False}, "direct_connections": {"enabled": False}}


class ScriptedCoder(SimulatedCoder):
    """Goes by the test's clock, also in what its answers say of the time. It has a provisioner daemon that
    is always there.

    Attributes:
        told: Members of sections of its report that are other than in a healthy one, by section; with a
            section that the recording lacks, it has one more.
        made_timestamp_seconds: When its report was made; None: just now.
    """

    def __init__(self, clock: ShiftedClock, **more: Any) -> None:
        super().__init__(**{"host": "127.0.0.1", "families": ("ipv4",), "clock": clock, "licensed": False} | more)
        self.told: dict[str, dict[str, Any]] = {}
        self.made_timestamp_seconds: float | None = None
        self.read_report = self._make_report

    async def _make_report(self, force: bool) -> dict[str, Any]:
        assert not force, "a report is never forced"
        report: dict[str, Any] = answers.recorded("debug-health")
        made = self._clock.now() if self.made_timestamp_seconds is None else self.made_timestamp_seconds
        report |= {"time": answers.write_time(made), "coder_version": self.version}
        for section, members in self.told.items():
            report[section] = report.get(section, {}) | members
        return report

    async def _debug_health(self, request: web.Request) -> web.Response:
        answer = await super()._debug_health(request)
        answer.headers["Date"] = formatdate(self._clock.now(), usegmt=True)
        return answer

    async def _provisioner_daemons(self, request: web.Request) -> web.Response:
        now = self._clock.now()
        self.state.daemons["builder"] = DaemonFacts(
            id="1", name="builder", created_timestamp_seconds=now, last_seen_timestamp_seconds=now
        )
        return await super()._provisioner_daemons(request)

    def list_replica(self, name: str, url: str) -> None:
        """Let /api/v2/replicas list one more."""
        self.state.replicas[name] = ReplicaFacts(
            id=name, name=name, relay_address=url, version=self.version, created_timestamp_seconds=self._clock.now()
        )


def warned(code: str, message: str = "it was seen") -> dict[str, Any]:
    """Return the members of a section that warns by one code."""
    return {"severity": "warning", "healthy": True, "warnings": [{"code": code, "message": message}]}


def describe(coder: SimulatedCoder, name: str = "prod", **keys: Any) -> dict[str, Any]:
    """Return a deployment of the configuration, with an Owner's token. `keys` replace others; those of
    sections are beside QUIET."""
    given = {"name": name, "url": coder.url, "session_token": coder.tokens[Role.OWNER].reveal(), **keys}
    return given | {"sections": QUIET | keys.get("sections", {})}


async def configure(
    directory: Path,
    clock: ShiftedClock,
    *deployments: Mapping[str, Any],
    changes: list[CodeChange] | None = None,
    started: bool = True,
) -> Application:
    """Return an exporter of these deployments.

    Args:
        started: It was started long ago, so that its start-up grace is over.
    """
    path = directory / "config.yaml"
    await asyncio.to_thread(path.write_text, yaml.safe_dump({"deployments": list(deployments)}))
    config = await asyncio.to_thread(load_config, path, {})
    application = Application(config, clock=clock, on_change=None if changes is None else changes.append)  # type: ignore[arg-type]
    if started:
        clock.ahead_seconds += 3600
    return application
