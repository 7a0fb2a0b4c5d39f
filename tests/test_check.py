"""The forms in which one round is told."""

from __future__ import annotations

import asyncio
import json
import re
from dataclasses import replace
from typing import Any
from xml.etree import ElementTree

import pytest

from exporter import check
from exporter.app import Application
from exporter.check import SectionOutcome, collect, describe_waiting, render, worst
from exporter.clock import SystemClock
from exporter.config.load import load_config
from exporter.demo.coderd import Role, SimulatedCoder, make_token
from exporter.demo.state import DaemonFacts
from exporter.errors import Reason
from exporter.health.derp import Skipped
from exporter.health.direct_connections import Netcheck
from exporter.health.model import UNCODED, Finding, OffReason, Report, Section, Severity, Witness
from exporter.targets.model import SectionKey
from exporter.wire.derp_map import parse_derp_map
from tests.support.exposition import health
from tests.support.raw_http import RawServer, hang, response
from tests.support.relay_results import (
    dead,
    derp,
    interface,
    mesh,
    network,
    node,
    path,
    region,
    relay,
    stun,
    stun_attempt,
    transport,
)


def key(section: Section, **more: Any) -> SectionKey:
    return SectionKey(deployment="prod", section=section, **more)


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
    assert {"error", "warnin", "off", "ok", "note"} >= {line[start : start + 6].strip() for line in lines[1:]}
    text = "\n".join(lines)
    for words in ("XACS06", "EACS04", "status 503", "upstream is gone", "needs a database URL"):
        assert words in text
    assert Severity.ERROR is worst(outcomes)


async def test_json_is_versioned_and_whole() -> None:
    """Every section stands in it: codes with messages and links, facts with units, what is off and why."""
    async with SimulatedCoder(host="127.0.0.1", licensed=False) as coder:
        token = coder.tokens[Role.OWNER].reveal()
        now = SystemClock.now()
        coder.state.daemons["builder"] = DaemonFacts(
            id="1", name="builder", created_timestamp_seconds=now, last_seen_timestamp_seconds=now
        )
        outcomes = await outcomes_of(coder.url, CODER_SESSION_TOKEN=token)
    text = render(outcomes, "json")
    assert token not in text
    document = json.loads(text)
    # its map names no STUN server, which is all that there is to say
    assert (1, "warning") == (document["version"], document["severity"])
    assert {"XNET02"} == {
        code["code"]
        for section in document["deployments"][0]["sections"]
        for target in section["targets"]
        for code in target["codes"]
    }
    (deployment,) = document["deployments"]
    sections = {section["section"]: section for section in deployment["sections"] if section["witness"] == "probe"}
    assert set(Section) == set(sections)
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
    outcome = SectionOutcome(key=key(Section.DATABASE), off=reason, healths=())
    row = render([outcome], "table").splitlines()[1]
    assert row.startswith("prod")
    assert len(check._OFF[reason]) > 5
    assert row.endswith(check._OFF[reason])


def relays_outcome() -> SectionOutcome:
    """A region with one of two relays down, its mesh and STUN server, and a relay that is skipped."""
    up, down = node("1a"), node("1b")
    relays = (
        relay(transport(0.0012, name=up), transport(0.002, kind="websocket", name=up)),
        relay(dead(name=down), dead("websocket", down)),
    )
    one = region(*relays, node_count=4)
    skipped = (
        Skipped(region_id=2, node="2a", host="derp.example.net", reason="host_not_allowed"),
        Skipped(region_id=2, node="2b", host="", reason="invalid"),
    )
    return SectionOutcome(
        key=key(Section.DERP),
        off=None,
        healths=(
            health("prod", Section.DERP, "", derp(one, skipped=skipped, problems=("region 3 has no nodes",))),
            health("prod", Section.DERP, "1", one, codes=["EDERP02"], severity=Severity.WARNING),
            health("prod", Section.DERP, "1/1a/derp", relays[0].transports[0]),
            health("prod", Section.DERP, "1/1b/derp", relays[1].transports[0], reason=Reason.REFUSED),
            health(
                "prod", Section.DERP, "1/1s/stun", stun(stun_attempt(0.003), stun_attempt(None, "ipv6", no_route=True))
            ),
            health("prod", Section.DERP, "1/mesh", mesh(path("1a", "1c"), path("1c", "1a"), unreached=("1b",))),
        ),
        derp_map=parse_derp_map({"Regions": {"1": {"RegionID": 1, "RegionName": "Region 1", "Nodes": []}}}),
    )


def network_outcome(**more: Any) -> SectionOutcome:
    found = network(
        Netcheck(stun_servers=2, stun_answers=1, mapping_varies=True),
        interface("wg0", 1420, on_the_way=True, tunnel=True, towards=("coder", "relay")),
        interface("docker0"),
    )
    return SectionOutcome(
        key=key(Section.DIRECT_CONNECTIONS),
        off=None,
        healths=(health("prod", Section.DIRECT_CONNECTIONS, "", found, **more),),
    )


def cells(outcome: SectionOutcome) -> list[list[str]]:
    """Rows of the table below its head, without deployment and section."""
    return [re.split(r"\s{2,}", line)[2:] for line in render([outcome], "table").splitlines()[1:]]


def test_the_table_of_relays_says_what_is_asked_at_night() -> None:
    """Which region and node, over which transport, how fast; what is not probed and why."""
    map_row, problem, two_a, two_b, region_row, up, down, stun_row, mesh_row = cells(relays_outcome())
    assert [
        "-",
        "ok",
        "-",
        "map of 1 region from the socket, 2 relays and 0 STUN servers probed, 2 nodes skipped",
    ] == map_row
    assert ["-", "note", "-", "DERP map: region 3 has no nodes"] == problem
    assert ["2/2a", "skipped", "-"] == two_a[:3]
    assert "derp.example.net" in two_a[3]
    assert "sections.derp.allow_hosts" in two_a[3]
    assert ["2/2b", "skipped", "-", "relay (no host) is not probed: its entry in the map cannot be used"] == two_b
    assert ["1", "warning", "EDERP02", "EDERP02 was seen"] == region_row
    assert ["1/1a/derp", "ok", "-", "Region 1: round trip 1.2 ms, login 4.0 ms, 192.0.2.7"] == up
    assert ["1/1b/derp", "failed", "-", "it failed"] == down
    assert ["1/1s/stun", "ok", "-", "Region 1: STUN stun.example.com:3478, ipv4 3.0 ms, ipv6 no route"] == stun_row
    assert [
        "1/mesh",
        "ok",
        "-",
        "Region 1: 2 of 2 paths between relays pass, the slowest in 2.0 ms, not reached: 1b",
    ] == mesh_row


def test_the_network_is_told_in_a_row_also_beside_findings() -> None:
    """UDP, NAT and the interfaces on the way; an interface that is not on it is left to the JSON."""
    sentence = "UDP passes (1 of 2 STUN servers answered), hard NAT, wg0 (tunnel) MTU 1420 towards coder, relay"
    assert [["-", "ok", "-", sentence]] == cells(network_outcome())
    assert [["-", "warning", "XNET05", "XNET05 was seen"], ["-", "note", "-", sentence]] == cells(
        network_outcome(codes=["XNET05"], severity=Severity.WARNING)
    )


def test_json_has_the_members_of_relays_and_of_the_network() -> None:
    """Coder's own verdict and the map beside the targets of derp, the netcheck beside the network."""
    document = json.loads(render([relays_outcome(), network_outcome()], "json"))
    derp_section, network_section = document["deployments"][0]["sections"]
    assert ["", "1", "1/1a/derp", "1/1b/derp", "1/1s/stun", "1/mesh"] == [
        target["target"] for target in derp_section["targets"]
    ]
    assert ("warning", "Region 1") == (derp_section["coder"]["severity"], derp_section["map"]["regions"][0]["name"])
    assert True is network_section["netcheck"]["mapping_varies"]
    assert {
        "section", "witness", "coder_replica", "enabled", "reason", "severity", "targets", "disagreement", "netcheck"
    } == set(network_section)  # fmt: skip


def test_junit_tells_what_bears_no_code_and_where_the_witnesses_differ() -> None:
    """A failure has a type all the same, and its message begins with words; the difference stands beside."""
    finding = Finding(code=UNCODED, severity=Severity.ERROR, message="prod reports: it is \x1b[31mbad")
    told = health("prod", Section.DATABASE, "coder.example.com")
    told = replace(told, report=Report(section=Section.DATABASE, findings=(finding,)))
    outcome = SectionOutcome(
        key=key(Section.DATABASE, witness=Witness.REPORT), off=None, healths=(told,), disagreement="they \x07differ"
    )
    (suite,) = ElementTree.fromstring(render([outcome], "junit"))
    failure = suite.find("testcase/failure")
    assert failure is not None
    assert ("uncoded", "prod reports: it is \ufffd[31mbad") == (failure.get("type"), failure.get("message"))
    assert "error: prod reports: it is \ufffd[31mbad" == failure.text
    assert "they \ufffddiffer" == suite.findtext("system-out")


def test_junit_has_a_case_for_each_target_of_the_relays() -> None:
    """Regions, transports, STUN servers, meshes and the map; what has a code fails."""
    root = ElementTree.fromstring(render([relays_outcome()], "junit"))
    (suite,) = root
    assert ["-", "1", "1/1a/derp", "1/1b/derp", "1/1s/stun", "1/mesh"] == [case.get("name") for case in suite]
    assert ["1"] == [case.get("name") for case in suite if case.find("failure") is not None]


def test_names_from_a_map_stay_on_their_line() -> None:
    """Skipped nodes, hosts and problems of a hostile map send nothing to the terminal."""
    hostile = "a\x1b[31m\nSECOND"
    skipped = tuple(Skipped(region_id=1, node=hostile, host=hostile, reason=hostile) for _ in range(2))
    outcome = SectionOutcome(
        key=key(Section.DERP),
        off=None,
        healths=(health("prod", Section.DERP, "", derp(skipped=skipped, problems=(hostile,))),),
    )
    text = render([outcome], "table")
    assert "\x1b" not in text
    assert 5 == len(text.splitlines())


async def test_what_is_waited_for_can_be_told() -> None:
    """Sections whose targets are under way, those that may take longest first, and for how long at most."""
    async with RawServer({"/healthz": hang, "/api/v2/debug/health": hang}) as server:
        environ = {
            "CODER_URL": server.url,
            "CODER_HEALTH_DEPLOYMENT": "prod",
            "CODER_SESSION_TOKEN": make_token().reveal(),
        }
        application = Application(load_config(None, environ), clock=SystemClock())
        assert "" == describe_waiting(application)
        async with asyncio.TaskGroup() as group:
            checking = group.create_task(application.check([Section.ACCESS_URL, Section.REPORT]))
            await server.wait_until_asked("/healthz")
            await server.wait_until_asked("/api/v2/debug/health")
            said = describe_waiting(application)
            checking.cancel()
        await application.close()
    assert re.fullmatch(r"waiting for prod/report, prod/access_url, for 1m(20|1?[0-9])s at most", said)
    assert "" == describe_waiting(application)
