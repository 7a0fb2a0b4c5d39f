"""Coder's health report: every recorded one, variants by hand, and any JSON in place of any member."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.errors import WireError
from exporter.health.coder_report import (
    CodedMessage,
    CoderReport,
    ReportedAccessURL,
    ReportedDaemon,
    ReportedDatabase,
    ReportedNode,
    ReportedProxy,
    ReportedRegion,
    ReportedSection,
)
from exporter.health.model import REPORT_SECTIONS, Severity
from exporter.net import coder_members, coder_report
from exporter.net.coder_report import parse_report, read_report
from tests.support.coder_reports import MADE_AT_SECONDS, make_report

RECORDED = Path(__file__).parents[1] / "data" / "coder"
OK, WARNING, ERROR = Severity.OK, Severity.WARNING, Severity.ERROR
ORDER = ("derp", "access_url", "websocket", "database", "workspace_proxy", "provisioner_daemons")
WEBSOCKET_HINT = 'Node uses WebSockets because the "Upgrade: DERP" header may be blocked on the load balancer.'
# What a proxy that shuts down answers, as Coder tells it.
SHUT = (
    'unexpected status code 500. \nEncountered error, send a request to "{}/healthz-report" from the Coderd'
    " environment to debug this issue.\nError: decode body: json: cannot unmarshal string into Go value of type"
    " codersdk.Response"
)
EU = SHUT.format("http://127.0.0.1:42299")
US = SHUT.format("http://127.0.0.1:40631")


def read(body: bytes) -> CoderReport:
    steps = read_report(body)
    while True:
        try:
            next(steps)
        except StopIteration as done:
            return done.value


def read_value(value: Any) -> CoderReport:
    return read(json.dumps(value).encode())


def read_section(name: str, **members: Any) -> ReportedSection:
    section = read_value({name: {"severity": "ok", **members}}).section(name)
    assert section is not None
    return section


def say(code: str, message: str) -> CodedMessage:
    return CodedMessage(code=code, message=message)


def describe_section(
    name: str,
    severity: Severity = OK,
    *messages: CodedMessage,
    error: str | None = None,
    healthy: bool | None = True,
    dismissed: bool = False,
) -> ReportedSection:
    return ReportedSection(
        name=name,
        severity=severity,
        severity_text=severity.label,
        healthy=None if name == "provisioner_daemons" else healthy,
        dismissed=dismissed,
        error=error,
        messages=messages,
    )


def embed(
    severity: Severity = OK,
    *messages: CodedMessage,
    round_trip_seconds: float | None = None,
    uses_websocket: bool = False,
    healthy: bool = True,
    host: str = "127.0.0.1",
    node_healthy: bool | None = None,
) -> ReportedRegion:
    """The region of the relay inside coderd."""
    node = ReportedNode(
        name="999b",
        host=host,
        healthy=healthy if node_healthy is None else node_healthy,
        severity=severity,
        messages=messages,
        can_exchange_messages=round_trip_seconds is not None,
        uses_websocket=uses_websocket,
        round_trip_seconds=round_trip_seconds,
    )
    return ReportedRegion(
        region_id=999,
        name="Coder Embedded Relay",
        code="coder",
        embedded=True,
        node_count=1,
        healthy=healthy,
        severity=severity,
        messages=messages,
        nodes=(node,),
    )


def relay_of_proxy(region_id: int, name: str, round_trip_seconds: float) -> ReportedRegion:
    node = ReportedNode(
        name=f"{region_id}a",
        host="127.0.0.1",
        healthy=True,
        severity=OK,
        can_exchange_messages=True,
        round_trip_seconds=round_trip_seconds,
    )
    return ReportedRegion(
        region_id=region_id,
        name=name,
        code=f"coder_{name}",
        node_count=1,
        healthy=True,
        severity=OK,
        nodes=(node,),
    )


def stun_region(error: str | None = None) -> ReportedRegion:
    severity, up = (OK, True) if error is None else (ERROR, False)
    node = ReportedNode(
        name="1000stun0",
        host="127.0.0.1",
        healthy=up,
        severity=severity,
        stun_only=True,
        stun_enabled=True,
        can_stun=up,
        stun_error=error,
    )
    return ReportedRegion(
        region_id=1000,
        name="Coder STUN 1000",
        code="coder_stun_1000",
        node_count=1,
        healthy=up,
        severity=severity,
        nodes=(node,),
    )


def daemon(*messages: CodedMessage, version: str = "v2.26.0", api_version: str = "1.9") -> ReportedDaemon:
    return ReportedDaemon(
        id="2742270f-1aad-4d7d-b264-7ce3563d6123",
        name="vm-0",
        organization_id="c7b58c7d-e615-412e-987b-21182b096a39",
        version=version,
        api_version=api_version,
        messages=messages,
    )


def expect(
    seconds: float,
    latency_seconds: float,
    region: ReportedRegion,
    *sections: ReportedSection,
    healthy: bool = True,
    severity: Severity = OK,
    port: int = 7190,
    status: int | None = 200,
    daemons: tuple[ReportedDaemon, ...] | None = None,
    regions: tuple[ReportedRegion, ...] = (),
) -> CoderReport:
    """A report of the plain deployment, in which everything but what is named is well."""
    told = {section.name: section for section in sections}
    return CoderReport(
        timestamp_seconds=seconds,
        healthy=healthy,
        severity=severity,
        version="v2.26.0",
        sections=tuple(told.get(name, describe_section(name)) for name in ORDER),
        access_url=ReportedAccessURL(
            access_url=f"http://127.0.0.1:{port}", reachable=status is not None, status_code=status
        ),
        database=ReportedDatabase(reachable=True, latency_seconds=latency_seconds, threshold_seconds=0.015),
        proxies=(),
        daemons=(daemon(),) if daemons is None else daemons,
        regions=(region, *regions),
    )


def expect_proxies(
    seconds: float,
    latency_seconds: float,
    regions: tuple[ReportedRegion, ...],
    errors: dict[str, str],
) -> CoderReport:
    """A report of the deployment with workspace proxies, one of which never registered."""
    ids = {
        "eu": "f8fc455c-af14-42e3-baa9-c4cf7ffc94cb",
        "us": "3dcec2fc-811e-47fd-b8d3-fc2a38e62451",
        "never": "65aa9f32-2c49-4b00-83ce-425efa24a344",
    }
    proxies = tuple(
        ReportedProxy(
            id=ids[name],
            name=name,
            status="unregistered" if name == "never" else "unhealthy" if name in errors else "ok",
            version="" if name == "never" else "v0.0.0-devel",
            errors=(errors[name],) if name in errors else (),
            warnings=(),
        )
        for name in ids
    )
    messages = tuple(say("EWP04", f"{name}: {error}") for name, error in errors.items())
    section = describe_section("workspace_proxy", WARNING, *messages)
    return CoderReport(
        timestamp_seconds=seconds,
        healthy=True,
        severity=WARNING,
        version="v0.0.0-devel",
        sections=tuple(section if name == section.name else describe_section(name) for name in ORDER),
        access_url=ReportedAccessURL(access_url="http://127.0.0.1:42201", reachable=True, status_code=200),
        database=ReportedDatabase(reachable=True, latency_seconds=latency_seconds, threshold_seconds=0.015),
        proxies=proxies,
        daemons=(
            ReportedDaemon(
                id="0f725c1f-10de-45b1-9857-b5c06d066ef0",
                name="test-daemon",
                organization_id="941b6d87-31dd-47cb-9fc0-0a6f67e32242",
                version="v0.0.0-devel",
                api_version="1.9",
            ),
        ),
        regions=regions,
    )


HINT = say("EDERP01", WEBSOCKET_HINT)
STATUS = say("EACS04", "/healthz did not return 200 OK")
DEAD = embed(ERROR, healthy=False)
DERP_DOWN = describe_section("derp", ERROR, healthy=False)


def fail(name: str, code: str, text: str) -> ReportedSection:
    """A section that ends with a coded error."""
    return describe_section(name, ERROR, say(code, text), error=f"{code}: {text}", healthy=False)


def fail_dial(text: str) -> ReportedSection:
    return fail("websocket", "EWS01", f"websocket dial: failed to WebSocket dial: {text}")


def fail_upgrade(status: int) -> ReportedSection:
    return fail_dial(f"expected handshake response status code 101 but got {status}")


REFUSED = 'Get "http://127.0.0.1:7999{}": dial tcp 127.0.0.1:7999: connect: connection refused'
NO_HOST = 'Get "https://sso.example.com/login": dial tcp: lookup sso.example.com on 192.0.2.53:53: no such host'
NO_STUN = "probe stun: timeout reading from 127.0.0.1: read udp [::]:57878: i/o timeout"

REPORTS = {
    "debug-health-ok": expect(1795238320.530417, 22.664e-6, embed(round_trip_seconds=413.049e-6), port=7180),
    "debug-health-force": expect(1795238320.539356, 23.896e-6, embed(round_trip_seconds=222.885e-6), port=7180),
    "trouble-baseline": expect(1795238405.080574, 2.033825e-3, embed(round_trip_seconds=376.955e-6)),
    "trouble-EACS03": expect(
        1795238509.06873,
        465.738e-6,
        DEAD,
        DERP_DOWN,
        fail("access_url", "EACS03", f"get healthz endpoint: {REFUSED.format('/healthz')}"),
        fail_dial(f"failed to send handshake request: {REFUSED.format('/api/v2/debug/ws')}"),
        healthy=False,
        severity=ERROR,
        port=7999,
        status=None,
    ),
    "trouble-EACS04": expect(
        1795238405.415766,
        1.36694e-3,
        embed(round_trip_seconds=525.598e-6),
        describe_section("access_url", WARNING, STATUS, healthy=False),
        healthy=False,
        severity=WARNING,
        status=503,
    ),
    "trouble-EDB02": expect(
        1795238405.357886,
        22.021577e-3,
        embed(round_trip_seconds=246.266e-6),
        describe_section("database", WARNING, say("EDB02", "median database ping above threshold")),
        severity=WARNING,
    ),
    "trouble-EDERP01": expect(
        1795238405.44405,
        749.284e-6,
        embed(WARNING, HINT, round_trip_seconds=736.645e-6, uses_websocket=True),
        describe_section("derp", WARNING, HINT),
        severity=WARNING,
    ),
    "trouble-EPD01": expect(
        1795238405.624841,
        2.071503e-3,
        embed(round_trip_seconds=632.188e-6),
        describe_section("provisioner_daemons", ERROR, say("EPD01", "No active provisioner daemons found!")),
        healthy=False,
        severity=ERROR,
        daemons=(),
    ),
    "trouble-EPD02": expect(
        1795238405.533827,
        1.553059e-3,
        embed(round_trip_seconds=387.592e-6),
        describe_section(
            "provisioner_daemons", WARNING, say("EPD02", "Some provisioner daemons report mismatched versions.")
        ),
        severity=WARNING,
        daemons=(daemon(say("EPD02", 'Mismatched version "v2.20.1"'), version="v2.20.1"),),
    ),
    "trouble-EPD03": expect(
        1795238405.561004,
        1.277256e-3,
        embed(round_trip_seconds=557.606e-6),
        describe_section(
            "provisioner_daemons",
            WARNING,
            say("EPD03", "Some provisioner daemons report deprecated major API versions. Consider upgrading!"),
        ),
        severity=WARNING,
        daemons=(daemon(say("EPD03", "Deprecated major API version 1."), api_version="2.0"),),
    ),
    "trouble-EUNKNOWN-daemon": expect(
        1795238405.589271,
        1.487581e-3,
        embed(round_trip_seconds=713.44e-6),
        describe_section(
            "provisioner_daemons",
            ERROR,
            say("EUNKNOWN", "Some provisioner daemons report invalid version information."),
            say("EUNKNOWN", "Some provisioner daemons report invalid API version information."),
        ),
        healthy=False,
        severity=ERROR,
        daemons=(
            daemon(
                say("EUNKNOWN", 'Invalid version "banana"'),
                say("EUNKNOWN", "Invalid API version: invalid version string: x"),
                version="banana",
                api_version="x",
            ),
        ),
    ),
    "trouble-ESTUN-silent-reread": expect(
        1795238471.390993,
        1.638918e-3,
        embed(round_trip_seconds=2.022995e-3),
        describe_section("derp", ERROR, say("ESTUN01", "No STUN servers are available."), healthy=False),
        healthy=False,
        severity=ERROR,
        regions=(stun_region(NO_STUN),),
    ),
    "trouble-EWS01": expect(
        1795238405.428553,
        975.213e-6,
        embed(round_trip_seconds=701.446e-6),
        fail_upgrade(403),
        healthy=False,
        severity=ERROR,
    ),
    "trouble-dismissed-EDERP01": expect(
        1795238405.668379,
        1.638188e-3,
        embed(WARNING, HINT, round_trip_seconds=1.245288e-3, uses_websocket=True),
        describe_section("derp", WARNING, HINT, dismissed=True),
        severity=WARNING,
    ),
    "trouble-front-500": expect(
        1795238405.369523,
        796.43e-6,
        DEAD,
        DERP_DOWN,
        describe_section("access_url", WARNING, STATUS, healthy=False),
        fail_upgrade(500),
        healthy=False,
        severity=ERROR,
        status=500,
    ),
    "trouble-front-login-page": expect(
        1795238405.381029, 608.593e-6, DEAD, DERP_DOWN, fail_upgrade(200), healthy=False, severity=ERROR
    ),
    "trouble-front-redirect": expect(
        1795238405.399755,
        1.391111e-3,
        DEAD,
        DERP_DOWN,
        fail("access_url", "EACS03", f"get healthz endpoint: {NO_HOST}"),
        fail_dial(f"failed to send handshake request: {NO_HOST}"),
        healthy=False,
        severity=ERROR,
        status=None,
    ),
    "trouble-relay-dead-no-upgrade": expect(
        1795238405.457281,
        1.468327e-3,
        embed(WARNING, HINT, uses_websocket=True, node_healthy=False),
        describe_section("derp", WARNING, HINT),
        fail_upgrade(403),
        healthy=False,
        severity=ERROR,
    ),
    "proxies-up-health": expect_proxies(
        1795238770.944401,
        26.339e-6,
        (
            embed(round_trip_seconds=818.728e-6, host=""),
            stun_region(),
            relay_of_proxy(10001, "eu", 592.339e-6),
            relay_of_proxy(10002, "us", 402.293e-6),
        ),
        {},
    ),
    "proxies-one-down-health": expect_proxies(
        1795238773.995219,
        762.794e-6,
        (embed(round_trip_seconds=247.211e-6, host=""), stun_region(), relay_of_proxy(10002, "us", 219.619e-6)),
        {"eu": EU},
    ),
    "proxies-all-down-health": expect_proxies(
        1795238777.011013,
        20.781e-6,
        (embed(round_trip_seconds=309.959e-6, host=""), stun_region()),
        {"eu": EU, "us": US},
    ),
}


def round_seconds(value: Any) -> Any:
    """The same facts with their seconds to the microsecond of a time and the picosecond of a span."""
    if isinstance(value, float):
        return round(value, 6 if value > 1e6 else 12)
    if isinstance(value, tuple):
        return tuple(round_seconds(entry) for entry in value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: round_seconds(getattr(value, field.name)) for field in dataclasses.fields(value)}
    return value


@pytest.mark.parametrize("name", REPORTS)
async def test_recorded_report_tells_its_facts(name: str) -> None:
    """Each report of a real server is read to the last fact."""
    report = await parse_report((RECORDED / f"{name}.json").read_bytes())
    assert round_seconds(REPORTS[name]) == round_seconds(report)


def test_every_recorded_report_is_expected() -> None:
    """No recording of a report is left without its facts."""
    recorded = {
        path.stem
        for pattern in ("debug-health-*.json", "trouble-*.json", "proxies-*-health.json")
        for path in RECORDED.glob(pattern)
        if {"derp", "database"} <= json.loads(path.read_bytes()).keys()
    }
    assert REPORTS.keys() == recorded


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("proxy-debug-health.html", "not JSON: it begins with '<!doctype html>"),
        ("debug-health-text.txt", "not JSON: it begins with 'time: 2026"),
        ("replicas.json", "not an object"),
        *((f"debug-health-{rest}.json", "without a section") for rest in ("400", "401", "403-member")),
        *((f"debug-health-401-{rest}-token.json", "without a section") for rest in ("bad", "unknown")),
        *((f"trouble-{rest}.json", "without a section") for rest in ("db-cut", "ESTUN-refused", "ESTUN-silent-503")),
        *((f"{rest}.json", "without a section") for rest in ("deployment-config", "apikey", "health-settings")),
    ],
)
async def test_other_recorded_answers_are_no_report(name: str, words: str) -> None:
    """Errors, pages and answers of other routes are refused with a sentence."""
    with pytest.raises(WireError, match=words):
        await parse_report((RECORDED / name).read_bytes())


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "it begins with nothing"),
        (b"  \n<html>\n<b>Sign in</b>", "it begins with '<html> <b>Sign in</b>'"),
        (b"[]", "not an object"),
        (b'"x"', "not an object"),
        (b"null", "it begins with 'null'"),
        (b"{}", "without a section"),
        (b'{"derp": {"accepts": 7}}', "without a section"),
        (b'{"derp": 7}', "without a section"),
        (b"\x1f\x8b\x08", "not JSON"),
    ],
)
async def test_what_is_no_report_is_refused(body: bytes, words: str) -> None:
    """Nothing, a page, other JSON and compressed bytes are refused with a sentence."""
    with pytest.raises(WireError, match=words):
        await parse_report(body)


async def test_truncated_report_is_refused() -> None:
    """A report that ends before its end is none."""
    body = (RECORDED / "trouble-EDERP01.json").read_bytes().rstrip()
    for length in (*range(0, len(body), 17), *range(len(body) - 60, len(body))):
        with pytest.raises(WireError):
            await parse_report(body[:length])


@pytest.mark.parametrize(
    ("text", "messages"),
    [
        ("EACS03: no answer", [say("EACS03", "no answer")]),
        ("EUNKNOWN: panic: x\ngoroutine 1\n\tmain.go:7", [say("EUNKNOWN", "panic: x\ngoroutine 1\n\tmain.go:7")]),
        (
            "EWP04: eu: one\ntwo: three\n\nEWP04: us: four\nEWP09: five",
            [say("EWP04", "eu: one\ntwo: three"), say("EWP04", "us: four"), say("EWP09", "five")],
        ),
        ("before\nEWP04: eu: one", [say("EWP04", "eu: one")]),
        ("EACS03: ERROR: no\nERROR: more\nEOF: end", [say("EACS03", "ERROR: no\nERROR: more\nEOF: end")]),
        ("ENEW: new\nENEW2: newer", [say("ENEW", "new"), say("ENEW2", "newer")]),
        ("no code", []),
        ("EACS03 no colon", []),
        ("xEACS03: no", []),
        ("eacs03: no", []),
        ("XACS01: ours", []),
        ("", []),
    ],
)
def test_coded_lines_of_an_error_are_messages(text: str, messages: list[CodedMessage]) -> None:
    """A line that begins with a code begins a message, other lines belong to it; what has none is only the error."""
    section = read_section("workspace_proxy", error=text)
    assert messages == list(section.messages)
    assert (text or None) == section.error


@pytest.mark.parametrize(
    ("error", "text", "codes", "dropped"),
    [
        ({"code": "EDB01", "message": "no ping"}, "EDB01: no ping", ["EDB01"], 1),
        ({"message": "no ping"}, "no ping", [], 1),
        ({"Op": "dial", "code": 7}, "an error that is no text", [], 1),
        ({}, "an error that is no text", [], 1),
        (["EDB01: one", {"code": "EDB09", "message": "two"}, None], "EDB01: one\nEDB09: two", ["EDB01", "EDB09"], 1),
        (7, "an error that is no text", [], 1),
        (True, "an error that is no text", [], 1),
        (["EDB01: one"] * 1000, "\n".join(["EDB01: one"] * 100), ["EDB01"] * 100, 1),
        ("", None, [], 0),
        (None, None, [], 0),
        (False, None, [], 1),
        ([], None, [], 1),
        (0, None, [], 1),
    ],
)
def test_an_error_of_another_shape_is_an_error(error: Any, text: str | None, codes: list[str], dropped: int) -> None:
    """Coder leaves the member out where all is well: whatever else stands there is one, of a section, of a
    region and of a node."""
    node = {"error": error, "node": {"Name": "1a"}}
    region = {"error": error, "region": {"RegionID": 1}, "node_reports": [node]}
    report = read_value({"derp": {"severity": "", "error": error, "regions": {"1": region}}})
    section = report.section("derp")
    assert section is not None
    assert report.regions is not None
    assert (text, text, text) == (section.error, report.regions[0].error, report.regions[0].nodes[0].error)
    assert codes == [message.code for message in section.messages]
    assert 3 * dropped == report.dropped


@pytest.mark.parametrize(
    ("warnings", "messages"),
    [
        ([{"code": "EDERP02", "message": "one\ntwo"}], [say("EDERP02", "one\ntwo")]),
        ([{"code": "", "message": "plain"}], [say("", "plain")]),
        ([{"message": "plain"}], [say("", "plain")]),
        ([{"code": "ENEW99", "message": None}], [say("ENEW99", "")]),
        (["plain", "two\nlines"], [say("", "plain"), say("", "two\nlines")]),
        (["EWP04: eu: x\ny", "z"], [say("EWP04", "eu: x\ny"), say("", "z")]),
        ([None, {"code": "EDB02", "message": "slow"}], [say("EDB02", "slow")]),
        ([], []),
        (None, []),
    ],
)
def test_warnings_are_messages(warnings: Any, messages: list[CodedMessage]) -> None:
    """Objects of today, and the plain texts of servers before the end of 2023."""
    assert messages == list(read_section("database", warnings=warnings).messages)


def test_messages_of_warnings_stand_before_those_of_the_error() -> None:
    """A code may stand in several, in this order."""
    section = read_section("derp", warnings=[{"code": "EDERP01", "message": "a"}], error="EDERP01: b")
    assert (say("EDERP01", "a"), say("EDERP01", "b")) == section.messages


@pytest.mark.parametrize(
    ("word", "severity", "text"),
    [
        ("ok", OK, "ok"),
        ("warning", WARNING, "warning"),
        ("error", ERROR, "error"),
        ("", None, ""),
        (None, None, ""),
        ("ERROR", None, "ERROR"),
        ("critical", None, "critical"),
        ("x" * 1000, None, "x" * 64),
    ],
)
def test_severity_is_one_of_three_words(word: Any, severity: Severity | None, text: str) -> None:
    """An empty one, none, and one that we do not know are None, with the word beside it."""
    section = read_section("database", severity=word)
    assert (severity, text) == (section.severity, section.severity_text)


def test_crashed_section_is_there_with_its_error_alone() -> None:
    """A panic leaves a section with an error and an empty severity."""
    report = read_value({"derp": {"error": "EUNKNOWN: crashed", "severity": "", "warnings": None, "regions": None}})
    assert (
        ReportedSection(name="derp", severity=None, error="EUNKNOWN: crashed", messages=(say("EUNKNOWN", "crashed"),)),
    ) == report.sections
    assert report.regions is None
    assert 0 == report.dropped


def test_unknown_section_passes_through() -> None:
    """A section of a newer Coder is told by what all have, in the order of the report."""
    report = read_value(
        {
            "usage_publishing": {"severity": "error", "error": "EUP01: no", "dismissed": True, "last": {"x": 1}},
            "pubsub": {"severity": "ok", "warnings": [], "connected": None},
            "failing_sections": ["derp"],
            "provisioner_daemons": {"severity": "ok"},
            "something": {"else": 1},
        }
    )
    assert (
        ReportedSection(
            name="usage_publishing",
            severity=ERROR,
            severity_text="error",
            dismissed=True,
            error="EUP01: no",
            messages=(say("EUP01", "no"),),
        ),
        ReportedSection(name="pubsub", severity=OK, severity_text="ok"),
        ReportedSection(name="provisioner_daemons", severity=OK, severity_text="ok"),
    ) == report.sections
    assert 0 == report.dropped


@pytest.mark.parametrize(
    ("value", "instead", "dropped"),
    [
        (None, "null", 0),
        ("x", "a text", 1),
        ([1], "a list", 1),
        (7, "a number", 1),
        (True, "a boolean", 1),
        ({}, "an empty object", 1),
    ],
)
def test_what_stands_in_place_of_a_section_is_told(value: Any, instead: str, dropped: int) -> None:
    """A section that we know and that is none is not the same as a missing one."""
    report = read_value({"derp": {"severity": "ok"}, "database": value})
    assert ReportedSection(name="database", severity=None, instead=instead) == report.section("database")
    assert (None, dropped) == (report.database, report.dropped)
    assert None is report.section("websocket")


def test_names_of_unknown_sections_are_fit_for_a_label() -> None:
    """Coder's keys pass, others become such keys; ours and those of Coder's that we know stay alone."""
    names = {
        "usage_publishing": "usage_publishing",
        "UsagePublishing2": "usage_publishing2",
        "a b\n{": "a_b",
        "9lives": "section_9lives",
        "\u6570\u636e": "unnamed",
        "report": "coder_report",
        "Exporter": "coder_exporter",
        "workspaces": "coder_workspaces",
        "DERP": "coder_derp",
    }
    report = read_value({name: {"severity": "ok"} for name in (*names, "derp")})
    assert [*names.values(), "derp"] == [section.name for section in report.sections]


@pytest.mark.parametrize(
    ("first", "second", "severity", "healthy", "error"),
    [
        ({"severity": "ok"}, {"severity": "error"}, ERROR, None, None),
        ({"severity": "warning", "healthy": True}, {"severity": "ok", "healthy": False}, WARNING, False, None),
        ({"severity": "", "error": "a"}, {"severity": "ok", "error": "b"}, ERROR, None, "a\nb"),
        ({"severity": "", "healthy": False}, {"severity": "ok", "healthy": True}, ERROR, False, None),
        ({"severity": "", "healthy": True}, {"healthy": True}, None, True, None),
    ],
)
def test_unknown_sections_of_one_name_are_joined(
    first: Any, second: Any, severity: Severity | None, healthy: bool | None, error: str | None
) -> None:
    """What two sections say under one key is no better than the worse of them."""
    for one, other in ((first, second), (second, first)):
        (section,) = read_value({"a-b": one | {"warnings": ["x"]}, "a.b": other | {"warnings": ["y"]}}).sections
        assert ("a_b", severity, healthy) == (section.name, section.severity, section.healthy)
        assert {*(error or "").split("\n")} == {*(section.error or "").split("\n")}
        assert {"x", "y"} == {message.message for message in section.messages}


def test_trouble_is_not_left_out_for_what_is_well() -> None:
    """Of too many sections those that we know and those in trouble stay, wherever they stand."""
    well = {f"s{number}": {"severity": "ok"} for number in range(2000)}
    members = {**dict(list(well.items())[:500]), "bad": {"severity": "error"}, "weak": {"severity": "warning"}, **well}
    report = read_value({**members, "database": {"severity": "error"}})
    assert {"bad", "weak", "database"} <= {section.name for section in report.sections}
    assert coder_report.MAX_SECTIONS == len(report.sections)


def test_report_of_the_middle_of_2023_is_read() -> None:
    """No severities, plain warnings, pings in nanoseconds, a STUN server at the relay, three sections fewer."""
    report = read_value(
        {
            "time": "2023-07-12T10:00:00Z",
            "healthy": False,
            "failing_sections": ["access_url"],
            "access_url": {"healthy": False, "reachable": False, "status_code": 0, "error": "get: refused"},
            "database": {"healthy": True, "reachable": True, "latency": 2500000, "error": None},
            "derp": {
                "healthy": True,
                "regions": {
                    "1": {
                        "healthy": True,
                        "region": {"RegionID": 1, "RegionName": "Home", "Nodes": [{"Name": "1a"}, {"Name": "1b"}]},
                        "node_reports": [
                            {
                                "healthy": True,
                                "node": {"Name": "1a", "HostName": "coder.example.com"},
                                "can_exchange_messages": True,
                                "round_trip_ping": 7670000,
                                "stun": {"Enabled": True, "CanSTUN": True, "Error": None},
                                "error": None,
                            }
                        ],
                        "error": None,
                    }
                },
                "netcheck": None,
            },
            "coder_version": "v0.26.1",
        }
    )
    assert (False, None, "v0.26.1", 0) == (report.healthy, report.severity, report.version, report.dropped)
    assert [
        ("access_url", None, False, "get: refused"),
        ("database", None, True, None),
        ("derp", None, True, None),
    ] == [(section.name, section.severity, section.healthy, section.error) for section in report.sections]
    assert ReportedDatabase(reachable=True, latency_seconds=0.0025) == report.database
    assert (None, None) == (report.proxies, report.daemons)
    assert (
        ReportedRegion(
            region_id=1,
            name="Home",
            node_count=2,
            healthy=True,
            nodes=(
                ReportedNode(
                    name="1a",
                    host="coder.example.com",
                    healthy=True,
                    can_exchange_messages=True,
                    round_trip_seconds=0.00767,
                    stun_enabled=True,
                    can_stun=True,
                ),
            ),
        ),
    ) == report.regions


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("2026-11-21T05:18:40.530417029Z", 1795238320.530417),
        ("2026-11-21T01:48:40-03:30", 1795238320.0),
        ("0001-01-01T00:00:00Z", None),
        ("", None),
        (None, None),
    ],
)
def test_time_of_the_report(text: str | None, seconds: float | None) -> None:
    """Nanoseconds and zones; a zero time, an empty one and none are not told."""
    report = read_value({"time": text, "derp": {"severity": "ok"}})
    assert (seconds, 0) == (report.timestamp_seconds, report.dropped)


@pytest.mark.parametrize(
    ("members", "latency_seconds"),
    [
        ({"reachable": True, "latency": "1.5ms", "latency_ms": 1}, 0.0015),
        ({"reachable": True, "latency": "413.5\u03bcs", "latency_ms": 0}, 413.5e-6),
        ({"reachable": True, "latency_ms": 22}, 0.022),
        ({"reachable": True, "latency": "soon", "latency_ms": 22}, 0.022),
        ({"latency": "2ms"}, 0.002),
        ({"reachable": False, "latency": "0s", "latency_ms": 0}, None),
        ({"reachable": True}, None),
        ({"reachable": True, "latency": "-2ms"}, None),
        ({"reachable": True, "latency_ms": -2}, None),
        ({"reachable": True, "latency": "24h"}, 86400.0),
        ({"reachable": True, "latency": "25h"}, None),
    ],
)
def test_latency_of_the_database(members: dict[str, Any], latency_seconds: float | None) -> None:
    """The text comes before the truncated milliseconds; failed pings have none."""
    report = read_value({"database": {"severity": "ok", **members}})
    assert report.database is not None
    assert pytest.approx(latency_seconds) == report.database.latency_seconds


@pytest.mark.parametrize(
    ("milliseconds", "seconds"), [(15, 0.015), (0, 0.0), (-1, None), (1e300, None), (86_400_001, None), (None, None)]
)
def test_threshold_of_the_database(milliseconds: float | None, seconds: float | None) -> None:
    """One that nobody can mean is left out."""
    report = read_value({"database": {"severity": "ok", "threshold_ms": milliseconds}})
    assert report.database is not None
    assert seconds == report.database.threshold_seconds


@pytest.mark.parametrize(
    ("members", "seconds"),
    [
        ({"can_exchange_messages": True, "round_trip_ping": "7.67ms", "round_trip_ping_ms": 7}, 0.00767),
        ({"can_exchange_messages": True, "round_trip_ping": 7670000}, 0.00767),
        ({"can_exchange_messages": True, "round_trip_ping_ms": 7}, 0.007),
        ({"can_exchange_messages": True, "round_trip_ping": "0s", "round_trip_ping_ms": 0}, None),
        ({"can_exchange_messages": True, "round_trip_ping": ""}, None),
        ({"can_exchange_messages": False, "round_trip_ping": "7ms"}, None),
        ({"round_trip_ping": "7ms"}, None),
        ({"can_exchange_messages": True, "round_trip_ping": "-7ms"}, None),
        ({"can_exchange_messages": True, "round_trip_ping": "25h"}, None),
    ],
)
def test_round_trip_of_a_node(members: dict[str, Any], seconds: float | None) -> None:
    """Text, nanoseconds or milliseconds; none where no message was exchanged."""
    region = {"node_reports": [{"node": {"Name": "a"}, **members}]}
    report = read_value({"derp": {"severity": "ok", "regions": {"7": region}}})
    assert report.regions is not None
    assert pytest.approx(seconds) == report.regions[0].nodes[0].round_trip_seconds


def test_regions_are_known_by_their_key_when_they_crashed() -> None:
    """Without a map entry the key is the id, regions stand by id, and a null one is none."""
    regions = {
        "1000": {"severity": "error", "error": "panic", "region": None, "node_reports": None},
        "999": {"severity": "ok", "region": {"RegionID": 999, "EmbeddedRelay": True}},
        "998": None,
    }
    report = read_value({"derp": {"severity": "error", "regions": regions}})
    assert (
        ReportedRegion(region_id=999, embedded=True, severity=OK),
        ReportedRegion(region_id=1000, severity=ERROR, error="panic"),
    ) == report.regions
    assert 0 == report.dropped


def test_nodes_without_a_name_are_told_when_they_are_in_trouble() -> None:
    """What is in trouble is not left out for want of a name."""
    nodes = [{"node": None}, {"severity": "ok"}, {"severity": "error"}, {"node": None, "error": "panic"}]
    report = read_value({"derp": {"severity": "ok", "regions": {"1": {"node_reports": nodes}}}})
    assert report.regions is not None
    assert (
        ReportedNode(name="unnamed", severity=ERROR),
        ReportedNode(name="unnamed", error="panic"),
    ) == report.regions[0].nodes
    assert 4 == report.dropped


@pytest.mark.parametrize(
    ("value", "dropped"),
    [
        ({"derp": {"severity": "ok"}, "database": 7}, 1),
        ({"derp": {"severity": "ok"}, "database": None}, 0),
        ({"derp": {"severity": 7, "healthy": "yes", "warnings": {}, "error": [], "dismissed": 1, "regions": []}}, 6),
        ({"derp": {"warnings": [1, [], None, {"code": 1, "message": 2}]}}, 4),
        ({"derp": {"severity": "ok", "regions": {"x": {}, "1": 7, "-1": {}, "\u0662": {}, "2": {"region": 7}}}}, 5),
        ({"derp": {"severity": "ok", "regions": {"1": {"node_reports": [7, None, {}, {"node": {"Name": ""}}]}}}}, 3),
        ({"access_url": {"severity": "ok", "reachable": "x", "status_code": 200.5, "access_url": 1}}, 3),
        ({"access_url": {"severity": "ok", "status_code": 1 << 64}}, 1),
        ({"access_url": {"severity": "ok", "status_code": float("nan")}}, 0),
        ({"database": {"severity": "ok", "latency": "x", "latency_ms": "1", "threshold_ms": True}}, 3),
        ({"database": {"severity": "ok", "latency": 10**400}}, 1),
        ({"workspace_proxy": {"severity": "ok", "workspace_proxies": []}}, 1),
        ({"workspace_proxy": {"severity": "ok", "workspace_proxies": {"regions": [7, {}, {"id": "a", "name": 1}]}}}, 4),
        ({"provisioner_daemons": {"severity": "ok", "items": [7, {}, {"provisioner_daemon": 7}]}}, 4),
        ({"derp": {"severity": "ok"}, "time": "yesterday", "healthy": 0, "coder_version": 2}, 3),
    ],
)
def test_members_of_another_shape_are_left_out_and_counted(value: Any, dropped: int) -> None:
    """What cannot be read is dropped, null and missing members are not."""
    assert dropped == read_value(value).dropped


def test_proxies_are_told_without_the_primary_and_deleted_ones() -> None:
    """A proxy without a report has no warnings to tell, and a status that we do not know is unknown."""
    regions = [
        {"id": "1", "name": "primary", "status": {"status": "ok"}},
        {"id": "2", "name": "gone", "deleted": True},
        {"id": "3", "name": "eu", "status": {"status": "ok", "report": {"errors": None, "warnings": ["old", None]}}},
        {"id": "4", "name": "us", "status": {"status": "sleeping", "report": None}, "version": "v2.0.0"},
        {"id": "5", "name": "ap", "status": None},
    ]
    report = read_value({"workspace_proxy": {"severity": "ok", "workspace_proxies": {"regions": regions}}})
    assert (
        ReportedProxy(id="3", name="eu", status="ok", warnings=("old",)),
        ReportedProxy(id="4", name="us", status="unknown", version="v2.0.0"),
        ReportedProxy(id="5", name="ap", status="unknown"),
    ) == report.proxies
    assert 0 == report.dropped


@pytest.mark.parametrize(("told", "known"), [([], ()), (None, None)])
def test_an_empty_list_is_not_the_same_as_none(told: Any, known: Any) -> None:
    """Null lists are not known, empty ones are empty."""
    report = read_value(
        {
            "derp": {"severity": "ok", "regions": None if told is None else {}},
            "workspace_proxy": {"severity": "ok", "workspace_proxies": {"regions": told}},
            "provisioner_daemons": {"severity": "ok", "items": told},
        }
    )
    assert (known, known, known) == (report.regions, report.proxies, report.daemons)


def test_texts_are_cut_and_can_be_encoded() -> None:
    """Long texts, codes and names are cut, and lone surrogates are replaced wherever they stand."""
    long, most = "x" * 5000, coder_members.MAX_TEXT_CHARS
    section = {"severity": "error", "error": "EX1: " + long, "warnings": [{"code": long, "message": long}]}
    report = read_value(
        {long: section, "s\ud800": {"error": "EX1: \udfff", "warnings": ["\ud800"]}, "coder_version": long}
    )
    first, second = report.sections
    assert (64, 64) == (len(first.name), len(report.version))
    assert (say("x" * 64, long[:most] + "..."), say("EX1", long[:most] + "...")) == first.messages
    assert ("EX1: " + long)[:most] + "..." == first.error
    assert ("s", "EX1: \ufffd", (say("", "\ufffd"), say("EX1", "\ufffd"))) == (
        second.name,
        second.error,
        second.messages,
    )


def test_counts_are_bounded() -> None:
    """More than the bound is dropped and counted: messages, sections, regions, nodes, proxies, daemons."""
    node = {"node": {"Name": "a"}, "warnings": [{"code": "E1", "message": "m"}] * 200}
    value = {
        "derp": {
            "severity": "ok",
            "regions": {
                str(number): {"node_reports": [{"node": {"Name": "a"}}] * 3 if number > 1 else [node]}
                for number in range(1, 1001)
            },
            "warnings": ["w"] * (coder_report.MAX_MESSAGES + 5),
            "error": "EX1: m\n" * (coder_report.MAX_MESSAGES + 5),
        },
        "workspace_proxy": {
            "severity": "ok",
            "workspace_proxies": {"regions": [{"id": "1", "name": "n"}] * (coder_report.MAX_PROXIES + 5)},
        },
        "provisioner_daemons": {
            "severity": "ok",
            "items": [{"provisioner_daemon": {"id": "1", "name": "n"}}] * (coder_report.MAX_DAEMONS + 5),
        },
        **{f"s{number}": {"severity": "ok"} for number in range(100)},
    }
    report = read_value(value)
    derp = report.section("derp")
    assert derp is not None
    assert 2 * coder_report.MAX_MESSAGES == len(derp.messages)
    assert coder_report.MAX_SECTIONS == len(report.sections)
    assert report.regions is not None
    assert coder_report.MAX_REGIONS == len(report.regions)
    assert 100 == len(report.regions[0].nodes[0].messages)
    assert (coder_report.MAX_PROXIES, coder_report.MAX_DAEMONS) == (
        len(report.proxies or ()),
        len(report.daemons or ()),
    )
    # of messages twice 5 and once 100, of sections 39, of regions 488, of proxies and daemons 5
    assert 10 + 100 + 39 + 488 + 10 == report.dropped


def test_nodes_are_bounded_over_all_regions() -> None:
    """Nodes beyond the bound of the report are dropped, though each region has few."""
    regions = {str(number): {"node_reports": [{"node": {"Name": "a"}}] * 100} for number in range(1, 31)}
    report = read_value({"derp": {"severity": "ok", "regions": regions}})
    assert coder_report.MAX_NODES == sum(len(region.nodes) for region in report.regions or ())
    assert 3000 - coder_report.MAX_NODES == report.dropped


async def test_others_have_their_turn_while_a_report_is_read() -> None:
    """A body of many slices gives way about once a slice."""
    body = make_report(regions=50, nodes=3, daemons=100, log_lines=24)
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async with asyncio.TaskGroup() as group:
        counting = group.create_task(count())
        report = await parse_report(body)
        counting.cancel()
    assert len(body) // (32 * 1024) < turns
    assert (MADE_AT_SECONDS, OK, 0) == (report.timestamp_seconds, report.severity, report.dropped)
    assert report.regions is not None
    assert [3] * 50 == [len(region.nodes) for region in report.regions]
    assert 100 == len(report.daemons or ())


async def test_reading_can_be_given_up() -> None:
    """A deadline ends it, however long the body is."""
    body = make_report(regions=200, nodes=3, log_lines=24)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await parse_report(body)


_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=6)
    | st.sampled_from(["ok", "", "1ms", "-1s", "0001-01-01T00:00:00Z", "EX1: x", "\ud800", 10**400, "x" * 3000]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.text(max_size=3) | st.sampled_from(["severity", "code", "node", "region"]), inner, max_size=3
        )
    ),
)
_WHOLE = json.loads((RECORDED / "proxies-one-down-health.json").read_bytes())


def find_members(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, entry in entries:
        yield (*path, key)
        yield from find_members(entry, (*path, key))


def replace(value: Any, path: tuple[Any, ...], by: Any) -> Any:
    if not path:
        return by
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = replace(value[path[0]], path[1:], by)
    return copy


@given(st.sampled_from([*find_members(_WHOLE)]), _JSON)
def test_any_value_in_place_of_any_member_is_read(path: tuple[Any, ...], by: Any) -> None:
    """Nothing but a WireError is raised, the other sections stay, and what comes out can be encoded."""
    report = read_value(replace(_WHOLE, path, by))
    others = {section.value for section in REPORT_SECTIONS} - {path[0]}
    assert others <= {section.name for section in report.sections}
    repr(report).encode()


@given(_JSON)
def test_any_json_is_read_or_refused(value: Any) -> None:
    """Any JSON value as the whole body, or as any section, gives a report or a WireError."""
    for whole in (value, *({section.value: value} for section in REPORT_SECTIONS)):
        with contextlib.suppress(WireError):
            report = read_value(whole)
            repr(report).encode()
            assert len(report.sections) == len({section.name for section in report.sections})


@given(st.binary(max_size=80))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    """No bytes raise anything but a WireError."""
    for body in (data, b'{"derp":{"severity":"ok","error":"' + data + b'"}}'):
        with contextlib.suppress(WireError):
            assert isinstance(read(body), CoderReport)
