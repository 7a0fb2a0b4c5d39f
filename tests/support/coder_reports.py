"""Health reports of Coder's, made up: the shape of its report with as many relays as one likes.

The same arguments give the same bytes. Nothing in them is a recording; those are in tests/data.
"""

from __future__ import annotations

import json
import random
from typing import Any

MADE_AT = "2026-11-21T05:18:40.530417029Z"
MADE_AT_SECONDS = 1795238320.530417
_WORDS = ("dialing", "resolved", "handshake", "frame", "peer", "relay", "upgrade", "retry", "µs", '"quoted"', "é", "日")


def make_report(
    *, regions: int = 1, nodes: int = 1, daemons: int = 1, log_lines: int = 0, seed: int = 1, broken: bool = False
) -> bytes:
    """Return a report in which everything is well, in the indentation that Coder has.

    Args:
        broken: Every relay is down instead, and every daemon has another version.
        nodes: In each region.
        log_lines: What the client of each node said on its way, twice.
    """
    chance = random.Random(seed)
    report: dict[str, Any] = {
        "time": MADE_AT,
        "healthy": True,
        "severity": "ok",
        "derp": _make_section(
            regions={str(1000 + n): _make_region(1000 + n, nodes, log_lines, chance) for n in range(regions)},
            netcheck={"UDP": True, "RegionLatency": {str(1000 + n): 243465 + n for n in range(regions)}},
            netcheck_logs=[_say(chance) for _ in range(log_lines)],
        ),
        "access_url": _make_section(
            access_url="https://coder.example.com", reachable=True, status_code=200, healthz_response="OK"
        ),
        "websocket": _make_section(body="", code=101),
        "database": _make_section(reachable=True, latency="2.5ms", latency_ms=2, threshold_ms=15),
        "workspace_proxy": _make_section(workspace_proxies={"regions": []}),
        "provisioner_daemons": _make_section(items=[_make_daemon(number) for number in range(daemons)]),
        "coder_version": "v2.26.0",
    }
    if broken:
        _break(report)
    return json.dumps(report, indent=1, ensure_ascii=False).encode()


def _break(report: dict[str, Any]) -> None:
    bad = {"healthy": False, "severity": "error"}
    report |= bad
    report["derp"] |= bad
    for region in report["derp"]["regions"].values():
        region |= bad
        for node in region["node_reports"]:
            node |= bad | {"can_exchange_messages": False, "error": f"dial {node['node']['HostName']}: timeout"}
    for number, item in enumerate(report["provisioner_daemons"]["items"]):
        item["warnings"] = [{"code": "EPD02", "message": f"Mismatched version of daemon-{number}"}]


def _make_section(**members: Any) -> dict[str, Any]:
    return {"severity": "ok", "warnings": [], "dismissed": False, "healthy": True, **members}


def _make_region(region_id: int, nodes: int, log_lines: int, chance: random.Random) -> dict[str, Any]:
    described = [_describe_node(region_id, number) for number in range(nodes)]
    return {
        "healthy": True,
        "severity": "ok",
        "warnings": [],
        "region": {
            "EmbeddedRelay": False,
            "RegionID": region_id,
            "RegionCode": f"r{region_id}",
            "RegionName": f"Region {region_id}",
            "Nodes": described,
        },
        "node_reports": [_make_node(node, log_lines, chance) for node in described],
    }


def _describe_node(region_id: int, number: int) -> dict[str, Any]:
    name = f"{region_id}{chr(ord('a') + number % 26)}{number}"
    return {"Name": name, "RegionID": region_id, "HostName": f"{name}.example.com", "STUNPort": 3478}


def _make_node(node: dict[str, Any], log_lines: int, chance: random.Random) -> dict[str, Any]:
    return {
        "healthy": True,
        "severity": "ok",
        "warnings": [],
        "node": node,
        "node_info": {"TokenBucketBytesPerSecond": 0, "TokenBucketBytesBurst": 0},
        "can_exchange_messages": True,
        "round_trip_ping": "1.5ms",
        "round_trip_ping_ms": 1,
        "uses_websocket": False,
        "client_logs": [[_say(chance) for _ in range(log_lines)] for _ in range(2)],
        "client_errs": [[], []],
        "stun": {"Enabled": True, "CanSTUN": True, "Error": None},
    }


def _make_daemon(number: int) -> dict[str, Any]:
    return {
        "provisioner_daemon": {
            "id": f"00000000-0000-4000-8000-{number:012}",
            "organization_id": "00000000-0000-4000-9000-000000000000",
            "last_seen_at": MADE_AT,
            "name": f"daemon-{number}",
            "version": "v2.26.0",
            "api_version": "1.9",
            "tags": {"owner": "", "scope": "organization"},
        },
        "warnings": [],
    }


def _say(chance: random.Random) -> str:
    return " ".join(chance.choices(_WORDS, k=12))
