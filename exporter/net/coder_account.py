"""What Coder says beside its health report that bears on it: mutes, settings, our own token, replicas.

In: bodies of answers. Out: frozen values. As tolerant as `coder_report.py`; what is no such answer at
all is a WireError.

Source: coder-interfaces, sections 1 (Dismissed), 2.10 and 5.1
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from exporter.errors import WireError
from exporter.health.model import Section
from exporter.health.replica import ListedReplica
from exporter.health.report import CoderSettings
from exporter.net.coder_json import excerpt
from exporter.net.coder_members import MAX_NAME_CHARS, Members, Object, make_key
from exporter.wire.json_slices import read_json

MAX_REPLICAS = 500
# Of names that we do not know; ours are few, wherever they stand among the first so many.
MAX_FOREIGN_DISMISSED = 32
MAX_DISMISSED = 1000
_MAX_SCOPES = 64

_DISMISSED = "dismissed_healthchecks"
# The names of the settings. Source: coder-interfaces, section 1, Dismissed
_SECTIONS = {
    "DERP": Section.DERP.value,
    "AccessURL": Section.ACCESS_URL.value,
    "Websocket": Section.WEBSOCKET.value,
    "Database": Section.DATABASE.value,
    "WorkspaceProxy": Section.WORKSPACE_PROXY.value,
    "ProvisionerDaemons": Section.PROVISIONER_DAEMONS.value,
    "Pubsub": "pubsub",
}
# Hundreds of KiB: the description of every option.
_LEFT_OUT = frozenset({"options"})


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKey:
    """A session token as Coder keeps it. Times are by the replica's clock; None: it does not say.

    `scope` is `all` for a token that may do all that its user may; several are joined by commas.
    """

    id: str = ""
    expires_timestamp_seconds: float | None = None
    lifetime_seconds: float | None = None
    created_timestamp_seconds: float | None = None
    last_used_timestamp_seconds: float | None = None
    login_type: str = ""
    scope: str = ""


def parse_dismissed(body: bytes) -> tuple[str, ...]:
    """Return the sections that are muted in Coder, as keys of its report; names that we do not know
    as `make_key` writes them, the first 32. In the order of the settings, each once.

    Raises:
        WireError: Not the settings: an object with a list of names, or null.
    """
    settings = _read_object(body)
    if not isinstance(settings.get(_DISMISSED, ""), list | None):
        raise WireError("the body is a JSON object without a list of dismissed sections")
    names = Members().texts(settings, _DISMISSED, most=MAX_DISMISSED) or ()
    sections = dict.fromkeys(_SECTIONS.get(name) or make_key(name) for name in names if name)
    foreign = [section for section in sections if section not in _SECTIONS.values()]
    left_out = frozenset(foreign[MAX_FOREIGN_DISMISSED:])
    return tuple(section for section in sections if section not in left_out)


def parse_settings(body: bytes) -> CoderSettings:
    """Return what the deployment configuration says; a duration that is not above zero says nothing.

    Raises:
        WireError: Not the configuration: an object with an object `config`.
    """
    config = _read_object(body).get("config")
    if not isinstance(config, dict):
        raise WireError("the body is a JSON object without the configuration")
    members = Members()
    healthcheck = members.object(config, "healthcheck") or {}
    return CoderSettings(
        refresh_seconds=_above_zero(members.duration(healthcheck, "refresh")),
        latency_threshold_seconds=_above_zero(members.duration(healthcheck, "threshold_database")),
        proxy_interval_seconds=_above_zero(members.duration(config, "proxy_health_status_interval")),
    )


def parse_api_key(body: bytes) -> ApiKey:
    """Return what Coder says of a session token.

    Raises:
        WireError: Not a token: an object with an id or a time when it expires.
    """
    value = _read_object(body)
    if not isinstance(value.get("id"), str) and not isinstance(value.get("expires_at"), str):
        raise WireError("the body is a JSON object without a session token")
    members = Members()
    return ApiKey(
        id=members.name(value, "id"),
        expires_timestamp_seconds=members.time(value, "expires_at"),
        lifetime_seconds=_above_zero(members.number(value, "lifetime_seconds")),
        created_timestamp_seconds=members.time(value, "created_at"),
        last_used_timestamp_seconds=members.time(value, "last_used"),
        login_type=members.name(value, "login_type"),
        scope=_read_scope(members, value),
    )


def parse_replicas(body: bytes) -> tuple[ListedReplica, ...]:
    """Return the replicas of coderd that `/api/v2/replicas` lists, all of them primaries and without a
    version; entries without an id are left out.

    Raises:
        WireError: Not a list, or null.
    """
    value = _read(body)
    if not isinstance(value, list | None):
        raise WireError("the body is JSON, but not a list of replicas")
    members = Members()
    entries: Sequence[Object] = members.objects({"replicas": value}, "replicas", most=MAX_REPLICAS) or ()
    replicas = (
        ListedReplica(
            id=members.name(entry, "id"),
            hostname=members.text(entry, "hostname"),
            relay_address=members.text(entry, "relay_address"),
            primary=members.flag(entry, "primary") is not False,
            error=members.text(entry, "error"),
            version=members.name(entry, "version"),
            database_latency_seconds=_read_microseconds(members, entry, "database_latency"),
            created_timestamp_seconds=members.time(entry, "created_at") or 0.0,
        )
        for entry in entries
    )
    return tuple(replica for replica in replicas if replica.id)


def _read_microseconds(members: Members, value: Object, member: str) -> float | None:
    """A replica that has not pinged yet, or that was stopped, says 0."""
    microseconds = _above_zero(members.number(value, member))
    return None if microseconds is None else microseconds / 1e6


def _read_scope(members: Members, value: Object) -> str:
    """Newer servers have several scopes, and keep the single one for older clients."""
    scopes = members.texts(value, "scopes", most=_MAX_SCOPES)
    return members.name(value, "scope") or ",".join(scopes or ())[:MAX_NAME_CHARS]


def _read(body: bytes) -> Any:
    if body[:256].removeprefix(b"\xef\xbb\xbf").lstrip()[:1] in (b"", b"<"):
        raise WireError(f"the body is not JSON: it begins with {excerpt(body)}")
    return read_json(body, leave_out=_LEFT_OUT)


def _read_object(body: bytes) -> Object:
    value = _read(body)
    if not isinstance(value, dict):
        raise WireError("the body is JSON, but not an object")
    return value


def _above_zero(seconds: float | None) -> float | None:
    return seconds if seconds is not None and seconds > 0 else None
