"""What a real Coder server answered, made to fit the simulated one.

In: recordings below `answers/` (their origin: `answers/ORIGIN.md`). Out: JSON values with the
addresses, ids, times and versions of this simulation. Recordings are read once, at import.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import resources
from typing import Any

from exporter.demo.state import DaemonFacts, KeyFacts, ReplicaFacts

_RECORDED: dict[str, Any] = {
    entry.name.removesuffix(".json"): json.loads(entry.read_text(encoding="utf-8"))
    for entry in resources.files("exporter.demo").joinpath("answers").iterdir()
    if entry.name.endswith(".json")
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxyFacts:
    """A workspace proxy as its primary knows it.

    `url` is empty for one that never registered. `status` is a word of Coder's: ok, unregistered,
    unhealthy or unreachable. Times are seconds since 1970.
    """

    id: str
    name: str
    region_id: int
    url: str = ""
    version: str = ""
    status: str = "ok"
    errors: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    created_timestamp_seconds: float
    updated_timestamp_seconds: float


def recorded(name: str) -> Any:
    """Return a recording as it is, as a copy of its own."""
    return copy.deepcopy(_RECORDED[name])


def buildinfo(*, version: str, access_url: str, deployment_id: str) -> Any:
    return recorded("buildinfo") | {"version": version, "dashboard_url": access_url, "deployment_id": deployment_id}


def proxy_buildinfo(*, version: str, primary_url: str) -> Any:
    return recorded("proxy-buildinfo") | {"version": version, "dashboard_url": primary_url}


def healthz_report(errors: Sequence[str], warnings: Sequence[str]) -> Any:
    """Return a proxy's report; Coder writes an empty list as null."""
    return recorded("proxy-healthz-report") | {"errors": list(errors) or None, "warnings": list(warnings) or None}


def workspace_proxies(proxies: Sequence[ProxyFacts], *, access_url: str, deployment_id: str, now: float) -> Any:
    """Return the list of /api/v2/workspaceproxies: the synthetic primary first, as Coder sorts it."""
    answer = recorded("workspaceproxies")
    primary = answer["regions"][0] | {
        "id": deployment_id,
        "path_app_url": access_url,
        "created_at": write_time(now),
        "updated_at": write_time(now),
    }
    primary["status"]["checked_at"] = write_time(now)
    patterns = {region["status"]["status"]: region for region in answer["regions"][1:]}
    answer["regions"] = [primary, *(_proxy(facts, patterns, now) for facts in proxies)]
    return answer


def regions(proxies: Sequence[ProxyFacts], *, access_url: str, deployment_id: str) -> Any:
    answer = recorded("regions")
    primary, pattern = answer["regions"][0], answer["regions"][-1]
    answer["regions"] = [primary | {"id": deployment_id, "path_app_url": access_url}]
    answer["regions"] += [
        pattern | {"id": facts.id, "name": facts.name, "healthy": facts.status == "ok", "path_app_url": facts.url}
        for facts in proxies
    ]
    return answer


def api_key(facts: KeyFacts, *, id: str, now: float) -> Any:
    """Return what /api/v2/users/me/keys/{id} says of a token's key."""
    return recorded("api-key") | {
        "id": id,
        "last_used": write_time(now),
        "expires_at": write_time(facts.expires_timestamp_seconds),
        "created_at": write_time(facts.created_timestamp_seconds),
        "updated_at": write_time(facts.created_timestamp_seconds),
        "lifetime_seconds": round(facts.lifetime_seconds),
    }


def deployment_config(*, access_url: str, refresh_seconds: float, latency_threshold_seconds: float) -> Any:
    """Return the answer of /api/v2/deployment/config; durations are nanoseconds."""
    answer = recorded("deployment-config")
    answer["config"] |= {
        "access_url": access_url,
        "healthcheck": {
            "refresh": round(refresh_seconds * 1e9),
            "threshold_database": round(latency_threshold_seconds * 1e9),
        },
    }
    return answer


def daemon(facts: DaemonFacts, *, status: str | None) -> Any:
    """Return a provisioner daemon: with its `status` as the list has it, None as the report has it."""
    seen = facts.last_seen_timestamp_seconds
    return recorded("provisionerdaemons")[0] | {
        "id": facts.id,
        "created_at": write_time(facts.created_timestamp_seconds),
        "last_seen_at": None if seen is None else write_time(seen),
        "name": facts.name,
        "version": facts.version,
        "api_version": facts.api_version,
        "tags": dict(facts.tags),
        "key_name": None if status is None else "built-in",
        "status": status,
    }


def replicas(known: Iterable[ReplicaFacts]) -> Any:
    """Return the answer of /api/v2/replicas; latencies are microseconds."""
    pattern = recorded("replicas")[0]
    return [
        pattern
        | {
            "id": facts.id,
            "hostname": facts.name,
            "created_at": write_time(facts.created_timestamp_seconds),
            "relay_address": facts.relay_address,
            "database_latency": round(facts.database_latency_seconds * 1e6),
        }
        for facts in known
    ]


def upgrade_required() -> str:
    """Return the text that answers a GET of the DERP map without an upgrade."""
    answer = recorded("upgrade-required")
    violation = answer["detail"].partition(": ")[2]
    return f"{violation}\n{json.dumps(answer, separators=(',', ':'))}\n"


def _proxy(facts: ProxyFacts, patterns: dict[str, Any], now: float) -> Any:
    answer = copy.deepcopy(patterns["ok" if facts.url else "unregistered"])
    answer |= {
        "id": facts.id,
        "name": facts.name,
        "path_app_url": facts.url,
        "healthy": facts.status == "ok",
        "version": facts.version,
        "created_at": write_time(facts.created_timestamp_seconds),
        "updated_at": write_time(facts.updated_timestamp_seconds),
    }
    answer["status"] = {
        "status": facts.status,
        "report": {"errors": list(facts.errors), "warnings": list(facts.warnings)},
        "checked_at": write_time(now),
    }
    return answer


def write_time(timestamp_seconds: float) -> str:
    """Write a time as Coder does."""
    return datetime.fromtimestamp(timestamp_seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
