"""Coder's own report, made by Coder's rules: compared with what a real server said."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from exporter.demo import coder_report
from exporter.demo.answers import ProxyFacts
from exporter.demo.coder_report import AccessFacts, DatabaseFacts, DerpFacts, ReportFacts, WebsocketFacts
from exporter.demo.state import DaemonFacts
from exporter.errors import Reason
from exporter.health.coder_derp import judge_as_coder
from exporter.health.derp import NodeName, RegionResult, RelayResult, TransportResult
from exporter.health.model import Failure
from exporter.health.stun import StunResult
from exporter.wire.derp_map import DerpMap, DerpNode, DerpRegion

RECORDINGS = Path(__file__).parents[1] / "data" / "coder"
NOW = 1_800_000_000.0
DAEMON = DaemonFacts(
    id="2742270f-1aad-4d7d-b264-7ce3563d6123",
    name="vm-0",
    created_timestamp_seconds=NOW - 1000,
    last_seen_timestamp_seconds=NOW - 5,
)
EMBEDDED = DerpRegion(
    region_id=999,
    code="coder",
    name="Coder Embedded Relay",
    embedded=True,
    nodes=(DerpNode(name="999b", region_id=999, host_name="127.0.0.1", stun_port=-1, derp_port=7180, force_http=True),),
)
STUN = DerpRegion(
    region_id=1000,
    code="coder_stun_1000",
    name="Coder STUN 1000",
    nodes=(DerpNode(name="1000stun0", region_id=1000, host_name="127.0.0.1", stun_port=34780, stun_only=True),),
)


def derp(
    *, raw_status: int | None = None, dead: bool = False, websocket: bool = True, stun: bool | None = None
) -> DerpFacts:
    """The embedded relay, and perhaps a STUN server that is silent."""
    name = NodeName(region_id=999, region_name="Coder Embedded Relay", node="999b")
    failure = Failure(reason=Reason.STATUS, message="no")
    transports = [transport(name, "derp", raw_status, failure if raw_status or dead else None)]
    if raw_status is not None:
        transports.append(transport(name, "websocket", None, None if websocket else failure))
    regions = [
        RegionResult(
            region_id=999,
            name="Coder Embedded Relay",
            code="coder",
            embedded=True,
            node_count=1,
            relays=(RelayResult(name=name, transports=tuple(transports)),),
        )
    ]
    mapped = [EMBEDDED]
    if stun is not None:
        server = StunResult(region_id=1000, region_name="Coder STUN 1000", node="1000stun0", host="127.0.0.1", port=1)
        regions.append(RegionResult(region_id=1000, name="Coder STUN 1000", node_count=1, stun=(server,)))
        mapped.append(STUN)
    return DerpFacts(
        derp_map=DerpMap(regions=tuple(mapped)),
        verdict=judge_as_coder(regions, mapping_varies=None),
        round_trip_seconds={} if raw_status else {(999, "999b"): 0.000413},
        errors={(1000, "1000stun0"): "i/o timeout"},
    )


def transport(name: NodeName, kind: str, status: int | None, failure: Failure | None) -> TransportResult:
    return TransportResult(
        name=name,
        transport=kind,
        phase_seconds={},
        status=status,
        failure=failure,
        started_timestamp_seconds=NOW,
        duration_seconds=0.1,
    )


FINE = ReportFacts(
    timestamp_seconds=NOW,
    version="v2.26.0",
    access_url="http://127.0.0.1:7180",
    deployment_id="d0b40f78-f5c2-4630-8ad9-3612645e5045",
    access=AccessFacts(status=200, body="OK"),
    websocket=WebsocketFacts(status=101),
    database=DatabaseFacts(ping_seconds=(0.00002, 0.00003, 0.00002, 0.00002, 0.00002)),
    latency_threshold_seconds=0.015,
    derp=derp(),
    daemons=(DAEMON,),
)
PROXY = ProxyFacts(
    id="f8fc455c-af14-42e3-baa9-c4cf7ffc94cb",
    name="eu",
    region_id=1,
    url="http://127.0.0.1:42299",
    created_timestamp_seconds=NOW,
    updated_timestamp_seconds=NOW,
)
REFUSED_DIAL = WebsocketFacts(code="EWS01", error="websocket dial: refused")

# what was recorded, and the facts of that situation
SITUATIONS = {
    "debug-health-ok": FINE,
    "trouble-EACS03": replace(FINE, access=AccessFacts(error="refused"), websocket=REFUSED_DIAL, derp=derp(dead=True)),
    "trouble-EACS04": replace(FINE, access=AccessFacts(status=500, body="oops")),
    "trouble-EDB02": replace(FINE, database=DatabaseFacts(ping_seconds=(0.016,) * 5), latency_threshold_seconds=0.015),
    "trouble-EDERP01": replace(FINE, derp=derp(raw_status=403)),
    "trouble-EPD01": replace(FINE, daemons=(replace(DAEMON, last_seen_timestamp_seconds=NOW - 180),)),
    "trouble-EPD02": replace(FINE, daemons=(replace(DAEMON, version="v2.20.1"),)),
    "trouble-EPD03": replace(FINE, daemons=(replace(DAEMON, api_version="2.0"),)),
    "trouble-EUNKNOWN-daemon": replace(FINE, daemons=(replace(DAEMON, version="banana", api_version="x"),)),
    "trouble-EWS01": replace(FINE, websocket=WebsocketFacts(status=403, code="EWS01", error="websocket dial: 403")),
    "trouble-ESTUN-silent-reread": replace(FINE, derp=derp(stun=False)),
    "trouble-relay-dead-no-upgrade": replace(
        FINE,
        derp=derp(raw_status=403, websocket=False),
        websocket=WebsocketFacts(status=403, code="EWS01", error="websocket dial: 403"),
    ),
    "trouble-dismissed-EDERP01": replace(FINE, derp=derp(raw_status=403), dismissed=("DERP", "ProvisionerDaemons")),
    "proxies-one-down-health": replace(
        FINE,
        proxies=(
            replace(PROXY, status="unhealthy", errors=("unexpected status code 500.",)),
            replace(PROXY, name="us"),
            replace(PROXY, name="never", url="", status="unregistered"),
        ),
        # of another build than its daemon, which the recording had too
        daemons=(DAEMON,),
    ),
}


def recorded(name: str) -> Any:
    return json.loads((RECORDINGS / f"{name}.json").read_text())


def tell(report: dict[str, Any]) -> dict[str, Any]:
    """What matters of a report: of each section its words, its codes and whether it is muted."""
    sections = {key: part for key, part in report.items() if isinstance(part, dict)}
    told: dict[str, Any] = {
        key: (
            part["severity"],
            part.get("healthy"),
            part.get("error", "").partition(":")[0],
            [warning["code"] for warning in part["warnings"] or []],
            part["dismissed"],
        )
        for key, part in sections.items()
    }
    return told | {"healthy": report["healthy"], "severity": report["severity"]}


def shape(value: Any) -> Any:
    """The keys and kinds of a JSON value; of a list those of its first member."""
    if isinstance(value, dict):
        return {key: shape(member) for key, member in value.items()}
    if isinstance(value, list):
        return [shape(value[0])] if value else []
    return type(value).__name__


def differences(ours: Any, theirs: Any, path: str = "") -> Iterable[str]:
    """Where our value has another shape than a recorded one."""
    if isinstance(theirs, dict) and isinstance(ours, dict):
        for key in ours.keys() ^ theirs.keys():
            yield f"{path}/{key}"
        for key in ours.keys() & theirs.keys():
            yield from differences(ours[key], theirs[key], f"{path}/{key}")
    elif isinstance(theirs, list) and isinstance(ours, list):
        if ours and theirs:
            yield from differences(ours[0], theirs[0], f"{path}[]")
    elif ours != theirs:
        yield f"{path}: {ours} instead of {theirs}"


@pytest.mark.parametrize("name", SITUATIONS)
def test_it_says_what_a_real_server_said(name: str) -> None:
    """Severities, `healthy`, codes in their order and mutes, of every section and overall."""
    assert tell(recorded(name)) == tell(coder_report.make_report(SITUATIONS[name]))


def test_it_has_the_shape_of_a_real_one() -> None:
    """The same keys with values of the same kinds, down to nodes and daemons."""
    ours = coder_report.make_report(FINE)
    # what its clients logged is left out
    theirs = recorded("debug-health-ok")
    for node in theirs["derp"]["regions"]["999"]["node_reports"]:
        node["client_logs"] = node["client_errs"] = []
    assert [] == list(differences(shape(ours), shape(theirs)))


def test_a_relay_that_refuses_everything_is_healthy_to_coder() -> None:
    """The fallback's warning takes the place of the error, as recorded."""
    part = coder_report.make_report(SITUATIONS["trouble-relay-dead-no-upgrade"])["derp"]
    node = part["regions"]["999"]["node_reports"][0]
    assert ("warning", True, "warning", False, False) == (
        part["severity"],
        part["healthy"],
        node["severity"],
        node["healthy"],
        node["can_exchange_messages"],
    )


def test_a_region_without_nodes_makes_the_section_panic() -> None:
    """It says so, has no severity, and the whole report stays ok."""
    facts = DerpFacts(
        derp_map=DerpMap(regions=(replace(STUN, nodes=()),)),
        verdict=judge_as_coder([RegionResult(region_id=1000, name="x", node_count=0)], mapping_varies=None),
    )
    report = coder_report.make_report(replace(FINE, derp=facts))
    assert ("", None, True, "ok") == (
        report["derp"]["severity"],
        report["derp"]["regions"],
        report["healthy"],
        report["severity"],
    )
    assert report["derp"]["error"].startswith("EUNKNOWN: derp report panic")


def test_a_check_that_crashes_no_longer_counts() -> None:
    """The error of a section is gone with its severity."""
    report = coder_report.make_report(SITUATIONS["trouble-EWS01"])
    told = coder_report.panic(report, "websocket")
    assert ("error", "ok", "") == (report["severity"], told["severity"], told["websocket"]["severity"])


def test_a_database_that_does_not_answer_is_an_error() -> None:
    """EDB01 stands in the error, and there is no latency."""
    part = coder_report.make_report(replace(FINE, database=DatabaseFacts(error="refused")))["database"]
    assert ("error", False, False, 0) == (part["severity"], part["healthy"], part["reachable"], part["latency_ms"])
    assert "EDB01: ping database: refused" == part["error"]


def test_lists_that_cannot_be_read() -> None:
    """Of proxies it is a warning with EWP01, of daemons an error without any code."""
    report = coder_report.make_report(replace(FINE, proxies_failure="timeout", daemons_failure="timeout"))
    proxies, daemons = report["workspace_proxy"], report["provisioner_daemons"]
    assert ("warning", ["EWP01"], None) == (
        proxies["severity"],
        [warning["code"] for warning in proxies["warnings"]],
        proxies["workspace_proxies"]["regions"],
    )
    assert ("error", [], "error fetching provisioner daemons: timeout") == (
        daemons["severity"],
        daemons["warnings"],
        daemons["error"],
    )


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0.0, "0s"),
        (0.000022664, "22.664µs"),
        (0.00767, "7.67ms"),
        (1.5, "1.5s"),
        (2.0, "2s"),
        (5e-8, "50ns"),
        (0.001, "1ms"),
    ],
)
def test_durations_are_gos(seconds: float, expected: str) -> None:
    """The largest unit below, without zeros at the end."""
    assert expected == coder_report.write_go_duration(seconds)
