"""What Coder says beside its reports, from servers that answer everything that one may."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from exporter.clock import Clock, SystemClock
from exporter.errors import Reason
from exporter.health.model import Failure, OffReason, Section
from exporter.health.report import CoderSettings, ReportsResult, assess_reports
from exporter.mutes import Mutes
from exporter.probes.reports import CONFIG_PATH, SETTINGS_PATH, ReportsMemory, probe
from exporter.secret import Secret
from exporter.targets.model import AccessURL, ReportsTarget, SessionToken
from tests.support.clock import ShiftedClock
from tests.support.raw_http import RawServer, json_response, response

DATA = Path(__file__).parents[1] / "data" / "coder"
TOKEN = Secret("abcdefghij-0123456789012345678901")
VERSION = {"X_Coder_Build_Version": "v2.26.0"}
MUTED = json_response((DATA / "health-settings-dismissed.json").read_text(), **VERSION)
CONFIG = json_response((DATA / "deployment-config.json").read_text(), **VERSION)
SETTINGS = CoderSettings(refresh_seconds=600.0, latency_threshold_seconds=0.015, proxy_interval_seconds=60.0)
SIGNED_OUT = json_response((DATA / "debug-health-401-unknown-token.json").read_text(), 401, **VERSION)
FORBIDDEN = json_response((DATA / "debug-health-403-member.json").read_text(), 403, **VERSION)
INTERNAL = json_response((DATA / "trouble-db-cut.json").read_text(), 401, **VERSION)
UNKNOWN_ROUTE = json_response((DATA / "unknown-route.json").read_text(), 404, **VERSION)


@pytest.fixture
async def server() -> AsyncIterator[RawServer]:
    async with RawServer({SETTINGS_PATH: MUTED, CONFIG_PATH: CONFIG}) as server:
        yield server


async def run(url: str, memory: ReportsMemory | None = None, clock: Clock | None = None, **facts: Any) -> ReportsResult:
    defaults: dict[str, Any] = {"access_url": AccessURL(url=url), "session_token": SessionToken(token=TOKEN)}
    target = ReportsTarget(
        deployment="prod", section=Section.REPORT, interval_seconds=120.0, timeout_seconds=5.0, **(defaults | facts)
    )
    return await probe(target, memory=memory or ReportsMemory(), clock=clock or SystemClock())


def tell(failure: Failure | None) -> str:
    assert failure is not None
    assert TOKEN.reveal()[11:] not in failure.message
    return failure.message


async def test_mutes_and_settings(server: RawServer) -> None:
    """Both with the token; what all reports say together is for others to gather."""
    result = await run(server.url)
    assert ReportsResult(dismissed=("derp", "provisioner_daemons"), settings=SETTINGS) == result
    assert {SETTINGS_PATH: TOKEN.reveal(), CONFIG_PATH: TOKEN.reveal()} == {
        path: headers["coder-session-token"] for path, headers in zip(server.asked, server.headers, strict=True)
    }


async def test_the_configuration_is_asked_for_seldom(server: RawServer) -> None:
    """Every ten minutes, and at each run after a failure; the mutes at each run."""
    clock, memory = ShiftedClock(), ReportsMemory()
    asked = []
    for index in range(12):
        server.answers[CONFIG_PATH] = response(500) if index in (5, 6) else CONFIG
        result = await run(server.url, memory, clock)
        assert SETTINGS == result.settings
        assert (index in (5, 6)) == (result.settings_failure is not None)
        asked.append(server.asked.count(CONFIG_PATH))
        clock.ahead_seconds += 120.5
    assert [1, 1, 1, 1, 1, 2, 3, 4, 4, 4, 4, 4] == asked
    assert 12 == server.asked.count(SETTINGS_PATH)


@pytest.mark.parametrize(
    ("answer", "reason", "message"),
    [
        (INTERNAL, Reason.STATUS, "Coder cannot look the token up"),
        (response(401, b"<html>"), Reason.STATUS, "something in front of it refuses us"),
        (response(403, b"<html>"), Reason.STATUS, "something in front of it refuses us"),
        (response(404, b"<html>"), Reason.STATUS, "answered status 404"),
        (response(503), Reason.STATUS, "answered status 503"),
        (response(302, Location="/login"), Reason.STATUS, "a redirect to /login, which is not followed"),
        (response(200, b"<html>"), Reason.BODY, "answered status 200, but no "),
        (json_response('{"dismissed_healthchecks": 1, "config": 2}'), Reason.BODY, "answered status 200, but no "),
        (json_response("[]"), Reason.BODY, "answered status 200, but no "),
        (response(429, b"slow down"), Reason.STATUS, "answered status 429"),
        (b"", Reason.PROTOCOL, "closed"),
    ],
)
async def test_each_fails_by_itself(server: RawServer, answer: bytes, reason: Reason, message: str) -> None:
    """What was read goes on for three intervals, and beyond them nothing is known."""
    for path in (SETTINGS_PATH, CONFIG_PATH):
        other = CONFIG_PATH if path == SETTINGS_PATH else SETTINGS_PATH
        good = server.answers[path]
        clock, memory = ShiftedClock(), ReportsMemory()
        await run(server.url, memory, clock)
        clock.ahead_seconds += 601.0 if path == CONFIG_PATH else 0.0
        server.answers[path] = answer
        result = await run(server.url, memory, clock)
        failures = {SETTINGS_PATH: result.dismissed_failure, CONFIG_PATH: result.settings_failure}
        assert failures[other] is None
        assert message in tell(failures[path])
        failure = failures[path]
        assert failure is not None
        assert reason is failure.reason
        assert (("derp", "provisioner_daemons"), SETTINGS) == (result.dismissed, result.settings)
        clock.ahead_seconds += 361.0
        result = await run(server.url, memory, clock)
        assert (path == SETTINGS_PATH, path == CONFIG_PATH) == (result.dismissed is None, result.settings is None)
        server.answers[path] = good
        clock.ahead_seconds += 1000.0
        result = await run(server.url, memory, clock)
        assert ReportsResult(dismissed=("derp", "provisioner_daemons"), settings=SETTINGS) == result


@pytest.mark.parametrize("answer", [SIGNED_OUT, FORBIDDEN])
async def test_a_refused_token_knows_nothing(server: RawServer, answer: bytes) -> None:
    """At once, and all again when it is good: each grade shows what it may see."""
    memory = ReportsMemory()
    await run(server.url, memory)
    memory.settings.read_monotonic_seconds = -1000.0
    server.answers = {SETTINGS_PATH: answer, CONFIG_PATH: answer}
    for _ in range(2):
        result = await run(server.url, memory)
        assert (None, None) == (result.dismissed, result.settings)
        for failure in (result.dismissed_failure, result.settings_failure):
            assert "answered status 40" in tell(failure)
            assert failure is not None
            assert Reason.AUTH is failure.reason
    server.answers = {SETTINGS_PATH: MUTED, CONFIG_PATH: CONFIG}
    expected = ReportsResult(dismissed=("derp", "provisioner_daemons"), settings=SETTINGS)
    assert expected == await run(server.url, memory)


async def test_an_old_server_has_neither(server: RawServer) -> None:
    """Which is an answer in good order."""
    server.answers = {SETTINGS_PATH: UNKNOWN_ROUTE, CONFIG_PATH: UNKNOWN_ROUTE}
    assert ReportsResult() == await run(server.url)


async def test_a_long_configuration(server: RawServer) -> None:
    """The descriptions of hundreds of options come along, and mean nothing here."""
    document = json.loads((DATA / "deployment-config.json").read_text())
    document["options"] = [{"description": "x" * 1000}] * 1000
    server.answers[CONFIG_PATH] = json_response(json.dumps(document), **VERSION)
    assert SETTINGS == (await run(server.url)).settings


async def test_without_a_token_nothing_is_asked(server: RawServer) -> None:
    """There is nothing to ask with."""
    assert ReportsResult() == await run(server.url, session_token=None)
    assert [] == server.asked


async def test_a_token_file_that_is_no_good(server: RawServer, tmp_path: Path) -> None:
    """Is as good as none: nobody is asked, and what the earlier token showed is dropped; a new one is used at once."""
    path = tmp_path / "token"
    path.write_text(TOKEN.reveal())
    clock, memory = ShiftedClock(), ReportsMemory()
    token = SessionToken(token_file=path)
    await run(server.url, memory, clock, session_token=token)
    path.write_text("")
    result = await run(server.url, memory, clock, session_token=token)
    assert (OffReason.NO_TOKEN, None, None) == (result.off, result.dismissed, result.settings)
    assert {"the file of the session token is empty"} == {tell(result.dismissed_failure), tell(result.settings_failure)}
    assert OffReason.NO_TOKEN is assess_reports(result).off
    mutes = Mutes()
    mutes.see("prod", ReportsResult(dismissed=("derp",)), clock.now())
    assert mutes.see("prod", result, clock.now())
    assert {} == mutes.since_timestamp_seconds
    assert 2 == len(server.asked)
    path.write_text(TOKEN.reveal()[::-1].replace("-", "x"))
    result = await run(server.url, memory, clock, session_token=token)
    assert (None, SETTINGS) == (result.off, result.settings)
    assert TOKEN.reveal()[::-1].replace("-", "x") == server.headers[-1]["coder-session-token"]


async def test_without_an_access_url_both_fail(tmp_path: Path) -> None:
    """It may be mended while the exporter runs."""
    result = await run("", access_url=AccessURL(url_file=tmp_path / "url"))
    assert "there is no access URL to ask" in tell(result.dismissed_failure)
    assert result.settings_failure == result.dismissed_failure
