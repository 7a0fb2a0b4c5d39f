"""The forms in which one round is told."""

from __future__ import annotations

import json
from xml.etree import ElementTree

import pytest

from exporter import check
from exporter.app import Application
from exporter.check import SectionOutcome, collect, render, worst
from exporter.clock import SystemClock
from exporter.config.load import load_config
from exporter.demo.coderd import Role, SimulatedCoder
from exporter.health.model import OffReason, Section, Severity
from tests.support.raw_http import RawServer, response


async def outcomes_of(url: str, **environ: str) -> tuple[SectionOutcome, ...]:
    config = load_config(None, {"CODER_URL": url, "CODER_HEALTH_DEPLOYMENT": "prod"} | environ)
    application = Application(config, clock=SystemClock())
    await application.check()
    await application.close()
    return collect(application)


async def test_a_table_is_aligned_and_tells_codes_and_reasons() -> None:
    """Columns begin at the same place in every row; what is off says why."""
    async with RawServer({"/healthz": response(503, b"upstream is gone")}) as server:
        outcomes = await outcomes_of(server.url)
    lines = render(outcomes, "table").splitlines()
    start = lines[0].index("SEVERITY")
    assert {"error", "warnin", "off"} >= {line[start : start + 6].strip() for line in lines[1:]}
    text = "\n".join(lines)
    for words in ("XACS06", "EACS04", "status 503", "upstream is gone", "needs a database URL"):
        assert words in text
    assert Severity.ERROR is worst(outcomes)


async def test_json_is_versioned_and_whole() -> None:
    """Every section stands in it: codes with messages and links, facts with units, what is off and why."""
    async with SimulatedCoder(host="127.0.0.1", licensed=False) as coder:
        token = coder.tokens[Role.OWNER].reveal()
        outcomes = await outcomes_of(coder.url, CODER_SESSION_TOKEN=token)
    text = render(outcomes, "json")
    assert token not in text
    document = json.loads(text)
    assert (1, "ok") == (document["version"], document["severity"])
    (deployment,) = document["deployments"]
    sections = {section["section"]: section for section in deployment["sections"]}
    assert {"access_url", "websocket", "database", "workspace_proxy"} == set(sections)
    assert ("not_licensed", None, []) == (
        sections["workspace_proxy"]["reason"],
        sections["workspace_proxy"]["severity"],
        sections["workspace_proxy"]["targets"],
    )
    (target,) = sections["access_url"]["targets"]
    assert (True, [], 200) == (target["success"], target["codes"], target["facts"]["attempts"][0]["status"])
    assert {"connect", "processing", "transfer"} <= set(target["phase_seconds"])
    (websocket,) = sections["websocket"]["targets"]
    assert 3 == len(websocket["facts"]["echo_round_trip_seconds"])


async def test_junit_counts_what_failed_and_what_was_skipped() -> None:
    """A CI system sees a failure a bad target and a skip a section that is off."""
    async with RawServer({"/healthz": response(503)}) as server:
        root = ElementTree.fromstring(render(await outcomes_of(server.url), "junit"))
    suites = {suite.get("name"): suite for suite in root}
    assert ("1", "1") == (suites["prod/access_url"].get("tests"), suites["prod/access_url"].get("failures"))
    assert "1" == suites["prod/database"].get("skipped")
    failure = suites["prod/access_url"].find("testcase/failure")
    assert failure is not None
    assert "XACS06" == failure.get("type")


@pytest.mark.parametrize(
    "answer",
    [
        response(500, b"a\x1b[31mred\x07\nSECOND LINE"),
        response(200, b"OK", X_Coder_Build_Version="v2\x9b31m" + "x" * 3000),
    ],
)
async def test_what_servers_say_stays_on_its_line(answer: bytes) -> None:
    """Control characters and line breaks from a server reach neither the terminal nor the next row."""
    async with RawServer({"/healthz": answer}) as server:
        text = render(await outcomes_of(server.url), "table")
    assert "\x1b" not in text
    assert "\x9b" not in text
    assert max(len(line) for line in text.splitlines()) < 600
    assert not any(line.startswith("SECOND") for line in text.splitlines())


@pytest.mark.parametrize("reason", OffReason)
def test_every_reason_to_be_off_has_words(reason: OffReason) -> None:
    """No reason is left without a sentence."""
    outcome = SectionOutcome(deployment="prod", section=Section.DATABASE, off=reason, healths=())
    row = render([outcome], "table").splitlines()[1]
    assert row.startswith("prod")
    assert len(check._OFF[reason]) > 5
    assert row.endswith(check._OFF[reason])
