"""Maintenance windows in operation: when one opens or closes, by time alone, somebody is told.

In: the windows of each deployment and the clock. Out: a call for each deployment that changed, and a
line in the log.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime

from exporter.clock import Clock
from exporter.health.maintenance import CLOSED, Maintenance, Window, judge
from exporter.log import get_logger

# A change that is foreseen is met on time. A wall clock that was set, or a host that slept, is
# noticed after so long.
LOOK_AGAIN_SECONDS = 15.0

_log = get_logger(__name__)


class MaintenanceWatch:
    """Which deployments are in maintenance now.

    Args:
        windows: By deployment; each has an entry, also without windows.
        on_change: Called with the deployment when a window opened, or the last open one closed.
    """

    def __init__(
        self,
        windows: Mapping[str, Iterable[Window]],
        *,
        clock: Clock,
        on_change: Callable[[str, Maintenance], None],
    ) -> None:
        self._windows = {name: tuple(listed) for name, listed in windows.items() if listed}
        self._clock = clock
        self._on_change = on_change
        now = clock.now()
        self._now: dict[str, Maintenance] = dict.fromkeys(windows, CLOSED)
        self._now |= {name: judge(listed, now) for name, listed in self._windows.items()}

    @property
    def now(self) -> Mapping[str, Maintenance]:
        """What holds for each deployment, as last looked at."""
        return self._now

    async def serve(self) -> None:
        """Look whenever something is due to change, until cancelled; at once over when nothing ever is."""
        for deployment, maintenance in self._now.items():
            if maintenance.open:
                _tell(deployment, maintenance)
        while self._windows:
            self.look()
            await self._clock.sleep(self._pause_seconds())

    def look(self) -> None:
        """Judge every window now; tell what changed."""
        now = self._clock.now()
        for deployment, windows in self._windows.items():
            before, maintenance = self._now[deployment], judge(windows, now)
            self._now[deployment] = maintenance
            if maintenance.open is not before.open:
                _tell(deployment, maintenance)
                self._on_change(deployment, maintenance)

    def _pause_seconds(self) -> float:
        now = self._clock.now()
        changes = (self._now[deployment].next_change_timestamp_seconds for deployment in self._windows)
        return min([LOOK_AGAIN_SECONDS, *(change - now for change in changes if change is not None)])


def _tell(deployment: str, maintenance: Maintenance) -> None:
    change = maintenance.next_change_timestamp_seconds
    until = {} if change is None else {"until": datetime.fromtimestamp(change, UTC).isoformat(timespec="seconds")}
    if maintenance.open:
        _log.info("maintenance.opened", deployment=deployment, **until)
    else:
        _log.info("maintenance.closed", deployment=deployment)
