"""This host looked at: its resolver and the reference address, asked for real."""

from __future__ import annotations

import asyncio
import socket

import pytest

from exporter.clock import SystemClock
from exporter.errors import Phase, Reason
from exporter.health.model import Section
from exporter.probes.exporter import CONTROL_NAME, probe
from exporter.targets.model import ExporterTarget
from tests.support.dns_server import Answer, serve_names

CLOCK = SystemClock()


def make_target(reference: str | None = None, timeout_seconds: float = 3.0) -> ExporterTarget:
    return ExporterTarget(
        deployment="",
        section=Section.EXPORTER,
        interval_seconds=15.0,
        timeout_seconds=timeout_seconds,
        reference=reference,
    )


async def test_while_something_works_nobody_is_asked() -> None:
    """The reference and the resolver are for the time when everything fails."""
    async with serve_names({}) as server:
        check = await probe(make_target("127.0.0.1:9"), clock=CLOCK, nameservers=[server.address])
        assert [] == server.questions
    assert (False, False, None) == (check.asked, check.reference_asked, check.resolver_answers)
    assert "127.0.0.1:9" == check.reference


@pytest.mark.parametrize(
    ("expected", "answer"),
    [
        (True, Answer.NXDOMAIN),
        (True, Answer.NO_DATA),
        (True, Answer.SERVFAIL),
        (True, Answer.REFUSED),
        (False, Answer.SILENCE),
    ],
)
async def test_a_resolver(expected: bool, answer: Answer) -> None:
    """Any answer shows that the resolver is there, also no; only silence shows that it is not."""
    async with serve_names({CONTROL_NAME.removesuffix("."): answer}) as server:
        target = make_target(timeout_seconds=10.0 if expected else 0.5)
        check = await probe(target, clock=CLOCK, suspects=True, nameservers=[server.address])
        assert server.questions
    assert expected is check.resolver_answers
    assert (None, False) == (check.reference, check.reference_asked)


async def test_a_reference_that_takes_the_connection() -> None:
    """A connection is enough; nothing is said on it."""
    heard: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            heard.set_result(await reader.read())
        except ConnectionError:
            heard.set_result(b"")
        writer.close()

    server = await asyncio.start_server(listen, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        async with serve_names({}) as names:
            check = await probe(
                make_target(f"127.0.0.1:{port}"), clock=CLOCK, suspects=True, nameservers=[names.address]
            )
        assert b"" == await heard
    assert (True, None) == (check.reference_asked, check.reference_failure)


async def test_a_reference_that_refuses_has_answered() -> None:
    """Who refuses a connection is there."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # nobody listens
        async with serve_names({}) as names:
            check = await probe(
                make_target(f"127.0.0.1:{closed.getsockname()[1]}"),
                clock=CLOCK,
                suspects=True,
                nameservers=[names.address],
            )
    assert (True, None) == (check.reference_asked, check.reference_failure)


async def test_a_reference_that_is_silent() -> None:
    """Nothing comes back: the reference fails, in bounded time."""
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        waiting = [socket.socket() for _ in range(4)]
        try:
            for one in waiting:  # the queue is full: the kernel lets further ones wait
                one.setblocking(False)
                one.connect_ex(full.getsockname())
            async with serve_names({}) as names:
                check = await probe(
                    make_target(f"127.0.0.1:{full.getsockname()[1]}", timeout_seconds=0.5),
                    clock=CLOCK,
                    suspects=True,
                    nameservers=[names.address],
                )
        finally:
            for one in waiting:
                one.close()
    assert check.reference_failure is not None
    assert (Reason.TIMEOUT, Phase.CONNECT) == (check.reference_failure.reason, check.reference_failure.phase)


async def test_a_reference_by_a_name_that_nobody_knows() -> None:
    """A name that cannot be looked up cannot be reached."""
    async with serve_names({}) as names:
        check = await probe(
            make_target("reference.invalid:443"), clock=CLOCK, suspects=True, nameservers=[names.address]
        )
    assert check.reference_failure is not None
    assert Phase.RESOLVE is check.reference_failure.phase


async def test_routes_are_asked_for() -> None:
    """The kernel is asked for the addresses of targets, at each look."""
    assert (await probe(make_target(), clock=CLOCK, addresses=["127.0.0.1"])).state.routed is True
    assert (await probe(make_target(), clock=CLOCK)).state.routed is None
