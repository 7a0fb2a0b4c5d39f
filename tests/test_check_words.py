"""What was found, in a few words."""

from __future__ import annotations

from typing import Any

import pytest

from exporter.check_words import MAX_NOTES, describe, note
from exporter.health.coder_report import CoderReport, ReportedSection
from exporter.health.derp import Skipped
from exporter.health.direct_connections import Netcheck
from exporter.health.exporter import ExporterResult, TokenResult
from exporter.health.model import Severity
from exporter.health.provisioner_daemons import ProvisionerDaemonsResult, WaitingJobs
from exporter.health.replica import ReplicaResult
from exporter.health.report import ReplicaView, ReportResult, ReportsResult
from tests.support.exposition import (
    access_url,
    attempt,
    daemon,
    daemons,
    database,
    poll,
    proxy,
    proxy_round,
    websocket,
)
from tests.support.relay_results import (
    REFUSED,
    dead,
    derp,
    interface,
    loss,
    mesh,
    network,
    path,
    path_mtu,
    region,
    relay,
    stun,
    stun_attempt,
    transport,
)


@pytest.mark.parametrize(
    ("result", "wanted"),
    [
        (None, ""),
        (access_url(attempt()), "200 from 192.0.2.1 in 0.0 ms, Coder v2.24.1+abc"),
        (websocket(0.001, 0.003, address="192.0.2.1"), "2 messages echoed by 192.0.2.1, the slowest in 3.0 ms"),
        (database(0.1, 0.2, 0.3, 0.4, 0.5), "median of five pings 300.0 ms"),
        (database(0.1), "not pinged"),
        (proxy("i", address="192.0.2.1", version="v2"), "ok from 192.0.2.1, version v2"),
        (proxy_round(), "no workspace proxies"),
        (
            daemons(daemon("v2.26.0"), daemon("v2.26.1"), stale=1, jobs=()),
            "2 of 3 provisioner daemons seen lately, version v2.26.0, v2.26.1, 0 jobs waiting, from the tables",
        ),
        (
            daemons(
                *(daemon(f"v2.{minor}.0") for minor in range(5)),
                jobs=(WaitingJobs(organization_id="1", organization="a", tags={}, count=1, oldest_seconds=1.0),),
            ),
            "5 of 5 provisioner daemons seen lately, version v2.0.0, v2.1.0, v2.2.0 and 2 more, 1 job waiting, "
            "from the tables",
        ),
        (daemons(daemon(), source="api"), "1 of 1 provisioner daemon seen lately, version v2.26.0, from the API"),
        (
            daemons(never=2, liveness_known=False),
            "2 provisioner daemons, of which this server does not say when it saw them, "
            "waiting jobs cannot be read, from the tables",
        ),
        (ProvisionerDaemonsResult(), "no list"),
        (transport(0.003, 0.001), "Region 1: round trip 1.0 ms, login 4.0 ms, 192.0.2.7"),
        (
            transport(0.001, relay_processes=2, loss=loss(20, 19), health_problem="too busy"),
            "Region 1: round trip 1.0 ms, login 4.0 ms, 192.0.2.7, 2 processes behind the name, "
            "1 of 20 messages lost, the relay says: too busy",
        ),
        (
            dead("websocket"),
            "Region 1: not up, which no client needs now: connecting to 192.0.2.7 port 443: refused",
        ),
        (
            stun(stun_attempt(0.01), stun_attempt(None, "ipv6", failure=REFUSED)),
            "Region 1: STUN stun.example.com:3478, ipv4 10.0 ms, ipv6 no answer",
        ),
        (stun(), "Region 1: STUN stun.example.com:3478, no address to ask"),
        (mesh(), "Region 1: 0 of 0 paths between relays pass"),
        (mesh(path("a", "b", failed=True)), "Region 1: 0 of 1 paths between relays pass"),
        (
            region(relay(transport(0.001), dead("websocket")), pending=("1b",), skipped=("1c",)),
            "Region 1: 1 of 1 relays work, no result yet: 1b, not probed: 1c",
        ),
        (derp(source="", map_age_seconds=None), "no DERP map"),
        (
            derp(region(pending=("1a",)), region(stun=(stun(),)), stun_pending=("2/2s",)),
            "map of 2 regions from the socket, 1 relay and 2 STUN servers probed",
        ),
        (network(map_known=False), "no DERP map"),
        (network(disabled=True), "direct connections disabled"),
        (
            network(
                Netcheck(
                    stun_servers=2, ipv4_can_send=True, preferred_region=999, region_latency_seconds={999: 0.0007}
                ),
                interface("eth0", 1400, on_the_way=True),
                interface("docker0"),
                path_mtu=(path_mtu(1400), path_mtu(1280, 1400), path_mtu(0, 576)),
            ),
            "UDP is blocked (0 of 2 STUN servers answered), kind of NAT not known, eth0 MTU 1400, "
            "packets of 1280 bytes pass, nearest region 999 in 0.7 ms",
        ),
        (
            network(Netcheck(stun_servers=1, preferred_region=1), path_mtu=(path_mtu(0, 576),)),
            "UDP not known (0 of 1 STUN servers answered), kind of NAT not known, nearest region 1",
        ),
        (
            network(Netcheck(stun_servers=1, stun_answers=1, mapping_varies=False)),
            "UDP passes (1 of 1 STUN servers answered), no hard NAT",
        ),
        (
            ReplicaResult(name="coderd-0", address="192.0.2.3", status=200, coder_version="v2.26.0"),
            "200 from 192.0.2.3, Coder v2.26.0",
        ),
        (ReplicaResult(name="coderd-0", address="192.0.2.3", status=200), "200 from 192.0.2.3"),
        (poll(age_seconds=30.4), "report of Coder v2.26.0, 30s old"),
        (poll(report=CoderReport(), age_seconds=None), "report"),
        (poll(report=None), "no report"),
        (ReportedSection(name="derp", severity=Severity.OK, severity_text="ok"), "Coder says ok"),
        (
            ReportedSection(name="derp", severity=Severity.OK, severity_text="ok", dismissed=True),
            "Coder says ok, muted",
        ),
        (ReportedSection(name="derp", severity=None), "Coder says nothing"),
        (ReportsResult(), "mutes not known"),
        (ReportsResult(dismissed=()), "muted in Coder: nothing"),
        (ReportsResult(dismissed=("derp", "pubsub")), "muted in Coder: derp, pubsub"),
        (
            ReportsResult(dismissed=(), views=tuple(ReplicaView(coder_replica=one, severities={}) for one in "ab")),
            "2 reports, muted in Coder: nothing",
        ),
        (TokenResult(), "when the token expires is not known"),
        (TokenResult(remaining_seconds=5400.2), "the token expires in 1h30m"),
        (TokenResult(remaining_seconds=-1.0), "the token expires in 0s"),
        (ExporterResult(failing=1, targets=7), "1 of 7 targets fail"),
    ],
)
def test_each_result_has_its_words(result: Any, wanted: str) -> None:
    """What is asked first stands in a line; what was not measured is not mentioned."""
    assert wanted == describe(result)


@pytest.mark.parametrize("reason", ["host_not_allowed", "too_many", "invalid", "something_new"])
def test_a_skipped_relay_says_why(reason: str) -> None:
    """Every reason has words, an unknown one stands for itself."""
    skipped = Skipped(region_id=2, node="2a", host="derp.example.net", reason=reason)
    ((target, kind, sentence),) = note(derp(skipped=(skipped,)), judged=True)
    assert ("2/2a", "skipped") == (target, kind)
    assert sentence.startswith("relay derp.example.net is not probed: ")
    assert (reason == "something_new") == sentence.endswith(reason)


def test_many_notes_are_cut_and_counted() -> None:
    """A map of hundreds of foreign relays does not bury the rest of the table."""
    skipped = tuple(Skipped(region_id=1, node=str(number), host="h", reason="too_many") for number in range(300))
    notes = list(note(derp(skipped=skipped), judged=False))
    assert MAX_NOTES + 1 == len(notes)
    assert ("", "note", f"and {300 - MAX_NOTES} more, which the JSON has") == notes[-1]


def test_results_of_other_sections_have_no_notes() -> None:
    """Notes are for what findings do not tell; a network without findings is described already."""
    for result in (None, database(0.1), transport(0.001), network(), poll(), ReportsResult(), TokenResult()):
        assert [] == list(note(result, judged=False))


def test_hidden_organizations_are_noted_and_findings_do_not_hide_the_facts() -> None:
    """Who may not see everything is told so; where findings took the place of the facts, these follow."""
    result = daemons(daemon(), refused=("secret", "other"), source="api")
    hidden = ("", "note", "not visible to our token: organization secret, other")
    assert [hidden] == list(note(result, judged=False))
    assert [hidden, ("", "note", describe(result))] == list(note(result, judged=True))
    assert [] == list(note(ProvisionerDaemonsResult(), judged=True))


@pytest.mark.parametrize(
    ("report", "expected"),
    [
        (CoderReport(dropped=1), [("", "note", "left out of Coder's report, since it cannot be read: 1 part")]),
        (CoderReport(dropped=7), [("", "note", "left out of Coder's report, since it cannot be read: 7 parts")]),
        (CoderReport(), []),
        (None, []),
    ],
)
def test_what_was_left_out_of_a_report_is_noted(
    report: CoderReport | None, expected: list[tuple[str, str, str]]
) -> None:
    """What could not be read of a report was not judged either."""
    assert expected == list(note(ReportResult(name="coder-0", report=report), judged=False))
