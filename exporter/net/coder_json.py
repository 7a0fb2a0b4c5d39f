"""Coder's JSON answers: bytes in, frozen values out. Tolerant of what is missing or new, never of
what is not JSON or of another shape."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from exporter.errors import WireError
from exporter.health.access_url import Identity
from exporter.health.provisioner_daemons import ServerVersion
from exporter.health.workspace_proxy import ListedProxy
from exporter.secret import mask
from exporter.wire.url import parse_origin

# Lower-case names of Coder's own headers.
BUILD_VERSION_HEADER = "x-coder-build-version"
TOKEN_HEADER = "coder-session-token"

# Coder's own words when it does not let anybody in: nobody is signed in, the user is suspended, or the
# login behind the session is over. Any other 401 is a trouble of Coder's: its database.
# Source: data of a real server (debug-health-401*.json against trouble-db-cut.json); coderd/httpmw/apikey.go
_INTERNAL = "An internal error occurred"
_SIGNED_OUT = ("you are signed out or your session has expired", "user is not active", "could not refresh expired")
# Its words for a path that this version does not have. Source: the same data (unknown-route.json).
_UNKNOWN_ROUTE = "Route not found."
# Its words for who may not do something, may not see it, or has no licence for it. Source: the same data
# (debug-health-403-member.json, provisionerdaemons-404-member.json, workspaceproxies-member.json).
_FORBIDDEN = "Forbidden."
_HIDDEN = "Resource not found or you do not have access"
_UNLICENSED = re.compile(r" is an? (?:Premium|Enterprise) feature\b")
_MAX_TEXTS = 1000
_MAX_NAME_LENGTH = 64
_MAX_TEXT_LENGTH = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorBody:
    """The JSON that Coder sends with a status that says no. `message` is empty when it is not one."""

    message: str = ""
    detail: str = ""

    @property
    def from_coder(self) -> bool:
        """Whether these are words of Coder's, also where a front took its headers away."""
        return (
            self.signed_out
            or self.message.startswith((_FORBIDDEN, _HIDDEN, _INTERNAL, _UNKNOWN_ROUTE))
            or _UNLICENSED.search(self.message) is not None
        )

    @property
    def internal(self) -> bool:
        """Coder itself is in trouble: its database, most often."""
        return self.message.startswith(_INTERNAL)

    @property
    def signed_out(self) -> bool:
        """Whoever the token belongs to, or belonged to, is not let in with it."""
        return self.message.lower().startswith(_SIGNED_OUT)

    @property
    def unknown_route(self) -> bool:
        """Coder is too old for what was asked."""
        return self.message.startswith(_UNKNOWN_ROUTE)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxyReport:
    """What a workspace proxy says of itself at /healthz-report."""

    errors: tuple[str, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Organization:
    """An organization as the API lists it."""

    id: str
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedDaemon:
    """A provisioner daemon as the API lists it.

    `last_seen_timestamp_seconds` is None when it was never seen; `liveness_known` is False when the
    server does not say.
    """

    id: str
    name: str
    version: str
    api_version: str
    tags: Mapping[str, str] = field(default_factory=dict)
    provisioners: tuple[str, ...] = ()
    last_seen_timestamp_seconds: float | None = None
    liveness_known: bool = True


def read_version(headers: Mapping[str, str]) -> str | None:
    """Return the build version that an answer of Coder's bears, cut at 64 characters."""
    version = headers.get(BUILD_VERSION_HEADER)
    return None if version is None else version[:64]


def read_date(headers: Mapping[str, str]) -> float | None:
    """Return when an answer was made by its server's clock, in seconds since 1970, to the second.
    None when it does not say."""
    try:
        return parsedate_to_datetime(headers["date"]).timestamp()
    except (KeyError, ValueError, OverflowError):
        return None


def decode(body: bytes) -> Any:
    """Return the JSON value.

    Raises:
        WireError: Not UTF-8, not JSON, or nested too deeply.
    """
    try:
        return json.loads(body)
    except UnicodeDecodeError:
        raise WireError("the body is not UTF-8") from None
    except ValueError:
        raise WireError(f"the body is not JSON: it begins with {excerpt(body)}") from None
    except RecursionError:
        raise WireError("the body is JSON that is nested too deeply") from None


def decode_object(body: bytes) -> dict[str, Any]:
    """Return the JSON object.

    Raises:
        WireError: As `decode`, or another JSON value than an object.
    """
    value = decode(body)
    if not isinstance(value, dict):
        raise WireError(f"the body is JSON, but {_kind(value)} instead of an object")
    return value


def parse_error(body: bytes) -> ErrorBody:
    """Return what Coder said; a bare JSON string counts as the message (P23). Never raises."""
    try:
        value = decode(body)
    except WireError:
        return ErrorBody()
    if isinstance(value, str):
        return ErrorBody(message=_cut(value))
    if isinstance(value, dict):
        return ErrorBody(message=_text(value.get("message")), detail=_text(value.get("detail")))
    return ErrorBody()


def parse_build_info(body: bytes) -> Identity:
    """Return who answers /api/v2/buildinfo.

    Raises:
        WireError: Not what Coder answers there: an object with a `version`.
    """
    value = decode_object(body)
    version = _text(value.get("version"))
    if not version:
        raise WireError("the body is a JSON object without a version")
    try:
        access_url_host = parse_origin(_text(value.get("dashboard_url"))).host
    except WireError:
        access_url_host = None
    return Identity(
        deployment_id=_text(value.get("deployment_id")) or None,
        access_url_host=access_url_host,
        version=version,
        workspace_proxy=value.get("workspace_proxy") is True,
    )


def check_derp_map(message: str | bytes) -> int:
    """Return the number of regions of a DERP map.

    Raises:
        WireError: Not a DERP map: an object whose `Regions` is an object or null.
    """
    value = decode_object(message.encode() if isinstance(message, str) else message)
    regions = value.get("Regions")
    if "Regions" not in value or not (regions is None or isinstance(regions, dict)):
        raise WireError("the message is a JSON object without DERP regions")
    return len(regions or ())


def parse_workspace_proxies(body: bytes) -> tuple[ListedProxy, ...]:
    """Return the proxies of /api/v2/workspaceproxies without the primary, which Coder makes up and
    always calls ok (P18), and without deleted ones.

    Raises:
        WireError: Another shape than `{"regions": [...]}`, or an entry without id or name.
    """
    value = decode_object(body)
    regions = value.get("regions")
    if regions is None and "regions" in value:
        return ()
    if not isinstance(regions, list):
        raise WireError("the body is a JSON object without a list of regions")
    return tuple(proxy for entry in regions for proxy in (_listed_proxy(entry),) if proxy is not None)


def parse_server_version(body: bytes) -> ServerVersion:
    """Return which versions the server says it has, at /api/v2/buildinfo.

    Raises:
        WireError: Not what Coder answers there: an object with a `version`.
    """
    value = decode_object(body)
    version = _text(value.get("version"))
    if not version:
        raise WireError("the body is a JSON object without a version")
    return ServerVersion(
        version=version[:_MAX_NAME_LENGTH],
        api_version=_text(value.get("provisioner_api_version"))[:_MAX_NAME_LENGTH] or None,
    )


def parse_organizations(body: bytes) -> tuple[Organization, ...]:
    """Return the organizations of /api/v2/organizations.

    Raises:
        WireError: Not a list of objects with id and name.
    """
    organizations = []
    for entry in _entries(body, "organizations"):
        organization = Organization(id=_text(entry.get("id")), name=_text(entry.get("name")))
        if not organization.id or not organization.name:
            raise WireError("the list of organizations holds an entry without id or name")
        organizations.append(organization)
    return tuple(organizations)


def parse_provisioner_daemons(body: bytes) -> tuple[ListedDaemon, ...]:
    """Return the daemons of an organization. What an older server does not say is as its tables
    would have it.

    Raises:
        WireError: Not a list of objects with id and name, or a time that is none. Null is no list: Coder
            writes an empty one where there are no daemons, and that is an outage.
    """
    daemons = _entries(body, "provisioner daemons", null_is_empty=False)
    return tuple(_listed_daemon(entry) for entry in daemons)


def read_tags(value: object) -> Mapping[str, str]:
    """Return the tags of a daemon or a job; none for null.

    Raises:
        WireError: Not an object of texts.
    """
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(tag, str) for tag in value.values()):
        raise WireError("the tags are not an object of strings")
    return value


def parse_proxy_report(body: bytes) -> ProxyReport:
    """Return a proxy's report. At least one of both keys must be there, each null or a list of
    strings (P7), so that `{}` or somebody else's JSON is no healthy proxy.

    Raises:
        WireError: Anything else.
    """
    value = decode_object(body)
    if "errors" not in value and "warnings" not in value:
        raise WireError("the body is a JSON object without errors and warnings")
    return ProxyReport(errors=_texts(value, "errors"), warnings=_texts(value, "warnings"))


def excerpt(body: bytes, length: int = 80) -> str:
    """Return the beginning of a body, fit for a message: one line, no control characters."""
    text = body[: length * 4].decode("utf-8", "replace")
    text = mask(" ".join("".join(char if char.isprintable() else " " for char in text).split()))
    if not text:
        return "nothing" if not body else "no readable text"
    return repr(text if len(text) <= length else text[:length] + "...")


def _listed_proxy(entry: object) -> ListedProxy | None:
    if not isinstance(entry, dict):
        raise WireError(f"the list of regions holds {_kind(entry)} instead of an object")
    proxy_id, name = _text(entry.get("id")), _text(entry.get("name"))
    if not proxy_id or not name:
        raise WireError("the list of regions holds an entry without id or name")
    if name == "primary" or entry.get("deleted") is True:
        return None
    return ListedProxy(
        id=proxy_id[:_MAX_NAME_LENGTH],
        name=name[:_MAX_NAME_LENGTH],
        url=_text(entry.get("path_app_url")),
        version=_text(entry.get("version"))[:64],
        updated_at=_text(entry.get("updated_at")),
        derp_enabled=enabled if isinstance(enabled := entry.get("derp_enabled"), bool) else None,
        source="api",
    )


def _entries(body: bytes, what: str, *, null_is_empty: bool = True) -> list[dict[str, Any]]:
    value = decode(body)
    if value is None and null_is_empty:
        return []
    if not isinstance(value, list):
        raise WireError(f"the body is JSON, but {_kind(value)} instead of a list of {what}")
    for entry in value:
        if not isinstance(entry, dict):
            raise WireError(f"the list of {what} holds {_kind(entry)} instead of an object")
    return value


def _listed_daemon(entry: dict[str, Any]) -> ListedDaemon:
    daemon_id, name = _text(entry.get("id")), _text(entry.get("name"))
    if not daemon_id or not name:
        raise WireError("the list of provisioner daemons holds an entry without id or name")
    provisioners = entry.get("provisioners") or []
    if not isinstance(provisioners, list):
        raise WireError("the provisioners of a provisioner daemon are not a list")
    return ListedDaemon(
        id=daemon_id[:_MAX_NAME_LENGTH],
        name=name[:_MAX_NAME_LENGTH],
        version=_text(entry.get("version"))[:_MAX_NAME_LENGTH],
        api_version=("1.0" if (api := entry.get("api_version")) is None else _text(api))[:_MAX_NAME_LENGTH],
        tags=read_tags(entry.get("tags")),
        provisioners=tuple(_text(kind) for kind in provisioners),
        last_seen_timestamp_seconds=_read_time(entry.get("last_seen_at")),
        liveness_known="last_seen_at" in entry,
    )


def _read_time(value: object) -> float | None:
    """Return seconds since 1970; None for null, and for Go's time that was never set."""
    if value is None:
        return None
    try:
        moment = datetime.fromisoformat(value if isinstance(value, str) else "")
    except ValueError:
        raise WireError("the time when a provisioner daemon was last seen is no time") from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return None if moment.year <= 1 else moment.timestamp()


def _texts(value: dict[str, Any], key: str) -> tuple[str, ...]:
    entries = value.get(key)
    if entries is None:
        return ()
    if not isinstance(entries, list) or not all(isinstance(entry, str) for entry in entries):
        raise WireError(f"{key} of the report is not a list of strings")
    return tuple(_cut(entry) for entry in entries[:_MAX_TEXTS])


def _text(value: object) -> str:
    return _cut(value) if isinstance(value, str) else ""


def _cut(text: str) -> str:
    text = mask(text)  # before it is cut, since half a secret is no longer known as one
    return text if len(text) <= _MAX_TEXT_LENGTH else text[:_MAX_TEXT_LENGTH] + "..."


def _kind(value: object) -> str:
    if value is None:
        return "null"
    names: dict[type, str] = {bool: "a boolean", int: "a number", float: "a number", str: "a string", list: "a list"}
    return names.get(type(value), "an object")
