"""Roll-outs: a server, workspace proxy or provisioner daemon that shows a version which was not seen lately.

In: the finished runs of a target. Out: whether a roll-out began, during which codes about versions wait.
"""

from __future__ import annotations

from collections.abc import Iterable

from exporter.clock import Clock
from exporter.health.access_url import AccessURLResult
from exporter.health.provisioner_daemons import ProvisionerDaemonsResult
from exporter.health.replica import ReplicaResult
from exporter.health.report import ReportResult
from exporter.health.workspace_proxy import ProxyResult
from exporter.log import get_logger
from exporter.snapshot import TargetHealth
from exporter.targets.model import TargetKey

# A version that was not seen for so long is a new one when it comes.
VERSION_MEMORY_SECONDS = 600.0

_log = get_logger(__name__)


class RolloutWatch:
    """The versions that are known.

    All replicas of a server are one, however they were asked: the first new one of a roll-out is another
    target, too. Each shows its version in turn: that is one roll-out, not a new one each time, else skew
    that lasts would wait for ever. The first version of anything is no roll-out.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        # when each version was seen last: of a deployment's servers together, else of one target
        self._seen: dict[TargetKey | str, dict[str, float]] = {}

    def see(self, deployment: str, healths: Iterable[TargetHealth]) -> bool:
        """Note what the targets of a round show; return whether one of their versions is new."""
        now = self._clock.monotonic()
        began = False
        for health in healths:
            versions = _shown_versions(health.result)
            server = _server_version(health.result)
            if versions:
                began |= self._note(health.key, versions, deployment, health.key.name, now)
            if server:
                began |= self._note(deployment, {server}, deployment, health.key.name, now)
        return began

    def _note(self, key: TargetKey | str, versions: set[str], deployment: str, target: str, now: float) -> bool:
        seen = self._seen.setdefault(key, {})
        if seen.keys() == versions:
            seen |= dict.fromkeys(versions, now)
            return False
        # the latest ones stay known, however long ago: an interval or an outage is no roll-out
        latest = max(seen.values(), default=now)
        lately = {name: when for name, when in seen.items() if when == latest or now - when <= VERSION_MEMORY_SECONDS}
        new = sorted(versions - lately.keys()) if seen else []
        for version in new:
            _log.info("version.changed", deployment=deployment, target=target, version=version)
        self._seen[key] = lately | dict.fromkeys(versions, now)
        return bool(new)

    def forget(self, keys: Iterable[TargetKey]) -> None:
        """Forget targets that are gone."""
        for key in keys:
            self._seen.pop(key, None)


def _server_version(result: object) -> str:
    """Return the version of coderd that a result shows; empty when it shows none. Who compares with it must not
    be the first to see a new one."""
    match result:
        case AccessURLResult(best=best) if best is not None:
            return best.coder_version or ""
        case ReplicaResult():
            return result.coder_version
        case ReportResult(report=report) if report is not None:
            return report.version
        case ProvisionerDaemonsResult(server=server) if server is not None:
            return server.version
    return ""


def _shown_versions(result: object) -> set[str]:
    """Return the versions that a result shows of a proxy or of daemons; none when it shows none."""
    match result:
        case ProxyResult(answered_version=version) if version:
            return {version}
        case ProvisionerDaemonsResult():
            return {daemon.version for daemon in result.recent}
    return set()
