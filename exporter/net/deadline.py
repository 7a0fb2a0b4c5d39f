"""Until when something may take. In: seconds, or a time of the clock. Out: a context that ends what takes longer."""

from __future__ import annotations

import asyncio
from types import TracebackType

from exporter.clock import Clock


class Until:
    """A context that raises TimeoutError when so many seconds are over, just as `asyncio.timeout` does, for a
    third of its cost: every run has two of them, and it hardly ever comes to that.

    Args:
        grace_seconds: Its end is put off once, by so much from when the event loop gets to it: who stood still
            together with the event loop has that time left.
    """

    __slots__ = ("_cancelling", "_expired", "_grace_seconds", "_seconds", "_task", "_timer")

    def __init__(self, seconds: float, *, grace_seconds: float = 0.0) -> None:
        self._seconds = seconds
        self._grace_seconds = grace_seconds
        self._expired = False

    async def __aenter__(self) -> None:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a deadline needs a task")
        self._task: asyncio.Task[object] = task
        self._cancelling = task.cancelling()
        self._timer = self._call(self._seconds)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._timer.cancel()
        # whoever cancels from outside goes first
        if self._expired and self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise TimeoutError from error

    def _call(self, seconds: float) -> asyncio.Handle:
        loop = self._task.get_loop()
        return loop.call_later(seconds, self._expire) if seconds > 0 else loop.call_soon(self._expire)

    def _expire(self) -> None:
        if self._grace_seconds > 0:
            self._timer = self._call(self._grace_seconds)
            self._grace_seconds = 0.0
        else:
            self._expired = True
            self._task.cancel()


def until(deadline_seconds: float, clock: Clock) -> Until:
    """Return a context that raises TimeoutError at a time of the clock's monotonic seconds."""
    return Until(deadline_seconds - clock.monotonic())
