"""This process: its event loop, and the signals that end it."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any

MAX_OPEN_FILES = 65536
EVENT_LOOP_VARIABLE = "CODER_HEALTH_EVENT_LOOP"


def run_event_loop(main_coroutine: Coroutine[Any, Any, int]) -> int:
    """Run on uvloop where it is installed, else on asyncio's own loop.

    The environment variable CODER_HEALTH_EVENT_LOOP=asyncio chooses the latter.
    """
    _allow_open_files()
    factory = None
    if os.environ.get(EVENT_LOOP_VARIABLE, "uvloop") == "uvloop":
        with suppress(ImportError):
            import uvloop

            factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(main_coroutine)


def _allow_open_files() -> None:
    """Raise the soft limit of open files to the hard one, as Go programs do: hundreds of probes at a
    time have a socket each."""
    with suppress(ImportError, ValueError, OSError):
        import resource

        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = MAX_OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, MAX_OPEN_FILES)
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


@asynccontextmanager
async def stop_signals() -> AsyncIterator[asyncio.Event]:
    """Give an event that Ctrl-C and SIGTERM set."""
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    signals = (signal.SIGINT, signal.SIGTERM)
    for number in signals:
        loop.add_signal_handler(number, stopped.set)
    try:
        yield stopped
    finally:
        for number in signals:
            loop.remove_signal_handler(number)
