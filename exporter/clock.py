"""Time, as something that is handed in: wall clock, monotonic clock and sleeping."""

from __future__ import annotations

import asyncio
import time
from typing import Protocol


class Clock(Protocol):
    """Where time comes from. Tests bring their own."""

    def now(self) -> float:
        """Return the wall clock in seconds since 1970: for stamps, never for durations."""

    def monotonic(self) -> float:
        """Return seconds from an arbitrary start that never jump: for durations and schedules."""

    async def sleep(self, seconds: float) -> None:
        """Return after so many seconds of the monotonic clock; at once when not positive."""


class SystemClock:
    """The clock of this host."""

    # class attributes instead of methods: one call less where every probe stamps its phases
    now = staticmethod(time.time)
    monotonic = staticmethod(time.monotonic)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(max(0.0, seconds))
