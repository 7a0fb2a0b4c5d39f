"""The context that ends what takes too long."""

from __future__ import annotations

import asyncio

import pytest

from exporter.clock import SystemClock
from exporter.net.deadline import Until, until

LONG_SECONDS = 30.0


async def test_what_takes_too_long_ends_in_a_timeout() -> None:
    """The task that waited is told so, and is not cancelled by it."""
    with pytest.raises(TimeoutError):
        async with Until(0.01):
            await asyncio.sleep(LONG_SECONDS)
    task = asyncio.current_task()
    assert task is not None
    assert 0 == task.cancelling()


@pytest.mark.parametrize("seconds", [0.0, -1.0])
async def test_a_deadline_that_is_past_ends_what_waits(seconds: float) -> None:
    """There is no time left at all, not for ever."""
    with pytest.raises(TimeoutError):
        async with Until(seconds):
            await asyncio.sleep(LONG_SECONDS)


async def test_what_is_done_in_time_is_left_alone() -> None:
    """The deadline ends with the context: what comes after has no part in it."""
    loop, past = asyncio.get_running_loop(), asyncio.Event()
    async with Until(0.1):
        await asyncio.sleep(0)
    loop.call_later(0.2, past.set)
    assert await past.wait()
    task = asyncio.current_task()
    assert task is not None
    assert 0 == task.cancelling()


async def test_another_error_stays_what_it_is() -> None:
    """Only what the deadline itself did is a timeout."""
    with pytest.raises(KeyError):
        async with Until(LONG_SECONDS):
            raise KeyError("a")


async def test_an_error_on_the_way_out_is_no_timeout() -> None:
    """Who answers the deadline with an error of his own is heard."""

    async def protest() -> None:
        try:
            await asyncio.sleep(LONG_SECONDS)
        except asyncio.CancelledError:
            raise KeyError("a") from None

    with pytest.raises(KeyError):
        async with Until(0.01):
            await protest()
    task = asyncio.current_task()
    assert task is not None
    assert 0 == task.cancelling()


@pytest.mark.parametrize("seconds", [LONG_SECONDS, 0.0])
async def test_who_cancels_from_outside_goes_first(seconds: float) -> None:
    """A task that is cancelled is over, whether its deadline came at the same time or not."""
    began = asyncio.Event()

    async def wait() -> None:
        async with Until(seconds):
            began.set()
            await asyncio.sleep(LONG_SECONDS)

    task = asyncio.ensure_future(wait())
    await began.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert task.cancelled()


async def test_the_inner_of_two_deadlines_is_the_one_that_ends() -> None:
    """Of one inside another each ends its own; the outer one goes on."""
    async with Until(LONG_SECONDS):
        with pytest.raises(TimeoutError):
            async with Until(0.01):
                await asyncio.sleep(LONG_SECONDS)
        await asyncio.sleep(0)


async def test_the_outer_of_two_deadlines_ends_both() -> None:
    """The inner one takes no timeout for its own that is the outer one's."""
    told = []

    async def wait() -> None:
        try:
            async with Until(LONG_SECONDS):
                await asyncio.sleep(LONG_SECONDS)
        except TimeoutError:
            told.append("inner")

    with pytest.raises(TimeoutError):
        async with Until(0.01):
            await wait()
    assert [] == told


async def test_grace_puts_the_end_off_once() -> None:
    """Who is done within the grace is left alone; who is not ends after it."""
    async with Until(0.0, grace_seconds=LONG_SECONDS):
        await asyncio.sleep(0.02)
    with pytest.raises(TimeoutError):
        async with Until(0.01, grace_seconds=0.01):
            await asyncio.sleep(LONG_SECONDS)


async def test_a_time_of_the_clock_is_a_deadline() -> None:
    """What is past ends at once; what is far away does not."""
    clock = SystemClock()
    async with until(clock.monotonic() + LONG_SECONDS, clock):
        await asyncio.sleep(0)
    with pytest.raises(TimeoutError):
        async with until(clock.monotonic() - 1.0, clock):
            await asyncio.sleep(LONG_SECONDS)
