"""The clock of this host."""

from __future__ import annotations

import time

from exporter.clock import SystemClock


async def test_it_is_the_hosts_clock() -> None:
    """Wall time counts from 1970; the monotonic clock goes on; sleeping less than nothing is no wait."""
    clock = SystemClock()
    assert abs(clock.now() - time.time()) < 60
    before = clock.monotonic()
    await clock.sleep(-5.0)
    await clock.sleep(0.01)
    assert clock.monotonic() >= before + 0.01
