"""Who answers: when it is asked, and what is remembered."""

from __future__ import annotations

import pytest

from exporter.errors import Phase
from exporter.health.access_url import FamilyAttempt
from exporter.health.model import Section
from exporter.probes.identity import INTERVAL_SECONDS, PATH, RETRY_SECONDS, IdentityMemory
from exporter.targets.model import AccessURL, AccessURLTarget
from exporter.wire.url import parse_origin
from tests.support.clock import FakeClock
from tests.support.raw_http import RawServer, json_response, response

GOOD = json_response('{"version": "v2.26.0", "dashboard_url": "http://127.0.0.1", "deployment_id": "d0b4"}')


async def learn(memory: IdentityMemory, server: RawServer, clock: FakeClock, version: str | None = "v2.26.0") -> None:
    """Play one run whose /healthz was answered with this version."""
    origin = parse_origin(server.url)
    target = AccessURLTarget(
        deployment="prod",
        section=Section.ACCESS_URL,
        interval_seconds=30.0,
        timeout_seconds=5.0,
        access_url=AccessURL(url=server.url),
    )
    answer = FamilyAttempt(
        family="ipv4", address="127.0.0.1", phase_seconds={Phase.CONNECT: 0.001}, status=200, coder_version=version
    )
    memory.begin(origin)
    await memory.learn(answer, origin, target, deadline_seconds=clock.monotonic() + 5.0, clock=clock)


async def test_it_is_asked_at_its_pace_and_when_the_version_changes() -> None:
    """Once a while for the same version, at once for another one."""
    clock, memory = FakeClock(), IdentityMemory()
    async with RawServer({PATH: GOOD}) as server:
        await learn(memory, server, clock)
        await clock.advance(INTERVAL_SECONDS - 1)
        await learn(memory, server, clock)
        assert 1 == server.asked.count(PATH)
        await clock.advance(1)
        await learn(memory, server, clock)
        assert 2 == server.asked.count(PATH)
        await learn(memory, server, clock, "v2.27.0")
        assert 3 == server.asked.count(PATH)
    assert ("d0b4", True) == (memory.first_deployment_id, memory.says_coder)


async def test_it_is_asked_each_time_while_nothing_says_coder() -> None:
    """Without the header only build info can tell."""
    clock, memory = FakeClock(), IdentityMemory()
    async with RawServer({PATH: response(404, b"no such page")}) as server:
        for _ in range(3):
            await learn(memory, server, clock, None)
        assert 3 == server.asked.count(PATH)
    assert (None, False) == (memory.identity, memory.says_coder)


@pytest.mark.parametrize("answer", [response(503), response(429)])
async def test_a_server_in_trouble_is_asked_again_later(answer: bytes) -> None:
    """No answer in good order settles nothing, keeps what was known, and is not asked for at once."""
    clock, memory = FakeClock(), IdentityMemory()
    async with RawServer({PATH: GOOD}) as server:
        await learn(memory, server, clock)
        server.answers[PATH] = answer
        await clock.advance(INTERVAL_SECONDS)
        for _ in range(3):
            await learn(memory, server, clock)
        assert 2 == server.asked.count(PATH)
        assert memory.says_coder is None
        assert memory.identity is not None
        server.answers[PATH] = GOOD
        await clock.advance(RETRY_SECONDS)
        await learn(memory, server, clock)
    assert memory.says_coder is True
