"""A clock that stands still until it is told to go on."""

from __future__ import annotations

import asyncio
import heapq
import itertools

from exporter.clock import SystemClock


class FakeClock:
    """Sleepers wake in the order of their time, each after everything before it has settled."""

    def __init__(self, *, now: float = 1_795_000_000.0) -> None:
        self._elapsed = 0.0
        self._epoch = now
        self._order = itertools.count()
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []

    def now(self) -> float:
        return self._epoch + self._elapsed

    def monotonic(self) -> float:
        return self._elapsed

    async def sleep(self, seconds: float) -> None:
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        future = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._elapsed + seconds, next(self._order), future))
        await future

    async def settle(self) -> None:
        """Let every task that can go on do so."""
        for _ in range(20):
            await asyncio.sleep(0)

    async def advance(self, seconds: float) -> None:
        """Let time pass; sleepers on the way wake at their own time."""
        await self.settle()
        end = self._elapsed + seconds
        while self._sleepers and self._sleepers[0][0] <= end:
            due, _, future = heapq.heappop(self._sleepers)
            self._elapsed = max(self._elapsed, due)
            if not future.done():
                future.set_result(None)
            await self.settle()
        self._elapsed = end
        await self.settle()

    def jump_wall_clock(self, seconds: float) -> None:
        """Set the wall clock, as an administrator or NTP would; the monotonic clock does not see it."""
        self._epoch += seconds


class ShiftedClock(SystemClock):
    """The clock of this host, ahead by as much as a test likes; sleeping ends at once and is counted."""

    def __init__(self) -> None:
        self.ahead_seconds = 0.0
        self.slept: list[float] = []

    def now(self) -> float:  # type: ignore[override]
        return SystemClock.now() + self.ahead_seconds

    def monotonic(self) -> float:  # type: ignore[override]
        return SystemClock.monotonic() + self.ahead_seconds

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.ahead_seconds += seconds
        await asyncio.sleep(0)
