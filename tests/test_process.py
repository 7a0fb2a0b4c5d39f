"""The process: its event loop, its limits, and the signals that end it."""

from __future__ import annotations

import asyncio
import os
import resource
import signal

import pytest

from exporter.process import EVENT_LOOP_VARIABLE, run_event_loop, stop_signals


async def _name_loop() -> int:
    return int(type(asyncio.get_running_loop()).__module__.startswith("uvloop"))


@pytest.mark.parametrize(("wanted", "expected"), [("uvloop", 1), ("asyncio", 0), (None, 1)])
def test_the_event_loop_is_chosen(monkeypatch: pytest.MonkeyPatch, wanted: str | None, expected: int) -> None:
    """uvloop by default where it is installed; the variable chooses asyncio's own."""
    pytest.importorskip("uvloop")
    if wanted is None:
        monkeypatch.delenv(EVENT_LOOP_VARIABLE, raising=False)
    else:
        monkeypatch.setenv(EVENT_LOOP_VARIABLE, wanted)
    assert expected == run_event_loop(_name_loop())


def test_open_files_are_allowed_up_to_the_hard_limit() -> None:
    """Hundreds of probes at a time do not run out of files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(256, hard), hard))
    try:
        run_event_loop(_name_loop())
        assert min(65536, hard) == resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_signals_set_the_event_and_are_given_back(number: signal.Signals) -> None:
    """Either signal ends a wait; afterwards they mean what they meant before."""
    before = signal.getsignal(number)
    async with stop_signals() as stopped, asyncio.timeout(10):
        os.kill(os.getpid(), number)
        await stopped.wait()
    assert stopped.is_set()
    assert before == signal.getsignal(number) or signal.getsignal(number) in (
        signal.SIG_DFL,
        signal.default_int_handler,
    )
