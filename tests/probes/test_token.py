"""How long our token is good, from servers that answer everything that one may."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from exporter.clock import Clock, SystemClock
from exporter.errors import Reason
from exporter.health.exporter import TokenResult, assess_token
from exporter.health.model import OffReason, Section
from exporter.probes.token import KEYS_PATH, TokenMemory, probe
from exporter.secret import Secret
from exporter.targets.model import AccessURL, SessionToken, TokenTarget
from tests.support.clock import ShiftedClock
from tests.support.raw_http import RawServer, json_response, response

DATA = Path(__file__).parents[1] / "data" / "coder"
TOKEN = Secret("Yp2QpoNoSO-0123456789012345678901")
PATH = f"{KEYS_PATH}/Yp2QpoNoSO"
VERSION = {"X_Coder_Build_Version": "v2.26.0"}
DATE = {"Date": "Sun, 22 Nov 2026 04:18:40 GMT"}
KEY = (DATA / "apikey.json").read_text()
SIGNED_OUT = json_response((DATA / "debug-health-401-unknown-token.json").read_text(), 401, **VERSION)
INTERNAL = json_response((DATA / "trouble-db-cut.json").read_text(), 401, **VERSION)
FORBIDDEN = json_response((DATA / "debug-health-403-member.json").read_text(), 403, **VERSION)
MISSING = json_response('{"message": "Resource not found or you do not have access to this resource"}', 404, **VERSION)


def key(**facts: object) -> bytes:
    return json_response(json.dumps(json.loads(KEY) | facts), **VERSION, **DATE)


@pytest.fixture
async def server() -> AsyncIterator[RawServer]:
    async with RawServer({PATH: key()}) as server:
        yield server


async def run(url: str, memory: TokenMemory | None = None, clock: Clock | None = None, **facts: Any) -> TokenResult:
    defaults: dict[str, Any] = {"access_url": AccessURL(url=url), "session_token": SessionToken(token=TOKEN)}
    target = TokenTarget(
        deployment="prod", section=Section.EXPORTER, interval_seconds=60.0, timeout_seconds=5.0, **(defaults | facts)
    )
    return await probe(target, memory=memory or TokenMemory(), clock=clock or SystemClock())


def seen(result: TokenResult) -> list[str]:
    return [finding.code for finding in assess_token(result).findings]


async def test_what_coder_knows_of_our_token(server: RawServer) -> None:
    """Asked by its id alone; what is left of it is by the clock of the answer."""
    result = await run(server.url)
    assert result.remaining_seconds == pytest.approx(3600.385, abs=0.01)
    assert result.expires_timestamp_seconds == pytest.approx(1795324720.385, abs=0.01)
    assert (86400.0, 0.0, "all", None, False) == (
        result.lifetime_seconds,
        result.unmoved_seconds,
        result.scope,
        result.failure,
        result.refused,
    )
    assert ([PATH], TOKEN.reveal()) == (server.asked, server.headers[0]["coder-session-token"])


async def test_an_end_that_stands_still_for_two_hours_of_use(server: RawServer) -> None:
    """Raises XEXP03; one that moves, as session tokens do, begins anew."""
    clock, memory = ShiftedClock(), TokenMemory()
    for _ in range(120):
        assert [] == seen(await run(server.url, memory, clock))
        clock.ahead_seconds += 60.0
    assert ["XEXP03"] == seen(await run(server.url, memory, clock))
    server.answers[PATH] = key(expires_at="2026-11-22T05:20:00Z")
    result = await run(server.url, memory, clock)
    assert (0.0, []) == (result.unmoved_seconds, seen(result))


async def test_the_key_itself_tells_that_its_end_stands_still(server: RawServer) -> None:
    """Its last use is hours later than the one that set its end: known at once, also after a restart."""
    server.answers[PATH] = key(last_used="2026-11-21T09:18:40Z")
    result = await run(server.url)
    assert 4 * 3600 == pytest.approx(result.unmoved_seconds, abs=1)


async def test_time_without_use_does_not_count(server: RawServer) -> None:
    """What nobody reads cannot move; a short gap is none."""
    clock, memory = ShiftedClock(), TokenMemory()
    for wait_seconds, unmoved_seconds in ((0.0, 0), (170.0, 170), (190.0, 0), (60.0, 60), (60.0, 120)):
        clock.ahead_seconds += wait_seconds
        result = await run(server.url, memory, clock)
        assert unmoved_seconds == pytest.approx(result.unmoved_seconds, abs=9)


async def test_another_token_begins_anew(server: RawServer, tmp_path: Path) -> None:
    """A rotated file is asked about by its own id, and its predecessor's time is not its own."""
    path = tmp_path / "token"
    path.write_text(TOKEN.reveal())
    clock, memory = ShiftedClock(), TokenMemory()
    server.answers[f"{KEYS_PATH}/abcdefghij"] = key(id="abcdefghij")
    for text, unmoved_seconds in ((TOKEN.reveal(), 0), (TOKEN.reveal(), 60), ("abcdefghij-" + "0" * 22, 0)):
        path.write_text(text)
        result = await run(server.url, memory, clock, session_token=SessionToken(token_file=path))
        assert unmoved_seconds == pytest.approx(result.unmoved_seconds, abs=9)
        assert text == server.headers[-1]["coder-session-token"]
        clock.ahead_seconds += 60.0


async def test_a_refused_token_raises_nothing_here(server: RawServer) -> None:
    """The report tells, in its own section."""
    server.answers[PATH] = SIGNED_OUT
    result = await run(server.url)
    assert (True, []) == (result.refused, seen(result))
    assert result.failure is not None
    assert Reason.AUTH is result.failure.reason


@pytest.mark.parametrize("answer", [FORBIDDEN, MISSING, json_response('{"message": "Route not found."}', 404)])
async def test_what_is_not_shown_is_not_known(server: RawServer, answer: bytes) -> None:
    """Which is no failure of anybody."""
    server.answers[PATH] = answer
    assert TokenResult() == await run(server.url)


@pytest.mark.parametrize(
    ("answer", "reason", "message"),
    [
        (INTERNAL, Reason.STATUS, "Coder cannot look the token up"),
        (response(401, b"sign in"), Reason.STATUS, "something in front of it refuses us"),
        (response(404, b"<html>"), Reason.STATUS, "answered status 404"),
        (response(307, Location="https://x.invalid/"), Reason.STATUS, "a redirect to https://x.invalid/"),
        (response(503), Reason.STATUS, "answered status 503"),
        (response(200, b"<html>"), Reason.BODY, "but no session token"),
        (json_response("{}"), Reason.BODY, "but no session token"),
        (response(200, b"x" * 70000), Reason.BODY, "answered more than 65536 bytes"),
        (response(429), Reason.STATUS, "answered status 429"),
    ],
)
async def test_what_else_may_come_is_a_failure(server: RawServer, answer: bytes, reason: Reason, message: str) -> None:
    """Never a refusal; whether the token expires is not judged then."""
    server.answers[PATH] = answer
    result = await run(server.url)
    assert result.failure is not None
    assert (reason, False) == (result.failure.reason, result.refused)
    assert message in result.failure.message
    assert TOKEN.reveal()[11:] not in result.failure.message
    assert frozenset({"XEXP03"}) == assess_token(result).not_judged


async def test_who_limits_our_rate_is_asked_less(server: RawServer) -> None:
    """The next run is left out."""
    clock, memory = ShiftedClock(), TokenMemory()
    server.answers[PATH] = response(429)
    for _ in range(3):
        await run(server.url, memory, clock)
        clock.ahead_seconds += 60.0
    assert 2 == len(server.asked)


@pytest.mark.parametrize("token", ["hunter2", "hunter2hunter2", "-0123456789012345678901", "abcdefgh/j-0123", "abc"])
async def test_no_part_of_a_token_of_another_form_goes_into_a_path(server: RawServer, token: str) -> None:
    """Nobody knows which part of it is a secret."""
    assert TokenResult() == await run(server.url, session_token=SessionToken(token=Secret(token)))
    assert [] == server.asked


async def test_without_a_token_nothing_is_asked(server: RawServer) -> None:
    """There is nothing to ask with."""
    assert TokenResult() == await run(server.url, session_token=None)
    assert [] == server.asked


async def test_files_that_cannot_be_used_are_failures(server: RawServer, tmp_path: Path) -> None:
    """That of the token, and that of the access URL."""
    token = await run(server.url, session_token=SessionToken(token_file=tmp_path / "gone"))
    url = await run(server.url, access_url=AccessURL(url_file=tmp_path / "gone"))
    assert (OffReason.NO_TOKEN, OffReason.NO_TOKEN, None) == (token.off, assess_token(token).off, url.off)
    assert [Reason.AUTH, Reason.RESOLVE] == [each.failure.reason for each in (token, url) if each.failure is not None]
    assert [] == server.asked
