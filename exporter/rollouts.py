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
            if not versions:
                continue
            key = deployment if _is_of_server(health.result) else health.key
            seen = self._seen.setdefault(key, {})
            if seen.keys() == versions:
                seen |= dict.fromkeys(versions, now)
                continue
            # the latest ones stay known, however long ago: an interval or an outage is no roll-out
            latest = max(seen.values(), default=now)
            lately = {
                name: when for name, when in seen.items() if when == latest or now - when <= VERSION_MEMORY_SECONDS
            }
            for version in sorted(versions - lately.keys()) if seen else ():
                _log.info("version.changed", deployment=deployment, target=health.key.name, version=version)
                began = True
            self._seen[key] = lately | dict.fromkeys(versions, now)
        return began

    def forget(self, keys: Iterable[TargetKey]) -> None:
        """Forget targets that are gone."""
        for key in keys:
            self._seen.pop(key, None)


def _is_of_server(result: object) -> bool:
    """Whether the version that a result shows is that of coderd; else that of a proxy or of daemons."""
    return isinstance(result, AccessURLResult | ReplicaResult | ReportResult)


def _shown_versions(result: object) -> set[str]:
    """Return the versions that a result shows of what it measured; none when it shows none."""
    match result:
        case AccessURLResult(best=best) if best is not None and best.coder_version:
            return {best.coder_version}
        case ProxyResult(answered_version=version) if version:
            return {version}
        case ReplicaResult(coder_version=version) if version:
            return {version}
        case ReportResult(report=report) if report is not None and report.version:
            return {report.version}
        case ProvisionerDaemonsResult():
            return {daemon.version for daemon in result.recent}
    return set()
