"""What all servers of the simulated deployment know alike: tokens, settings, provisioner daemons, replicas.

It stands for what Coder keeps in its database and its configuration. Changed at any time, by the
simulation and by what breaks it.
"""

from __future__ import annotations

import secrets
import string
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from exporter.secret import Secret

ORGANIZATION_ID = "c7b58c7d-e615-412e-987b-21182b096a39"
# Source: coder-interfaces, section 4.2
BUILT_IN_KEY_ID = "00000000-0000-0000-0000-000000000001"
_DAY_SECONDS = 86400.0


class Role(StrEnum):
    """Whom a token belongs to. `expired` and `revoked` were an owner's."""

    OWNER = "owner"
    MEMBER = "member"
    EXPIRED = "expired"
    REVOKED = "revoked"


def make_token() -> Secret:
    """Return a new session token in Coder's form: 10 characters, a dash, 22 characters."""
    letters = string.ascii_letters + string.digits
    head, tail = ("".join(secrets.choice(letters) for _ in range(length)) for length in (10, 22))
    return Secret(f"{head}-{tail}")


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyFacts:
    """An API key as Coder keeps it. Times are seconds since 1970."""

    created_timestamp_seconds: float
    expires_timestamp_seconds: float
    lifetime_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class DaemonFacts:
    """A provisioner daemon's row. `last_seen_timestamp_seconds` is None before it was ever seen."""

    id: str
    name: str
    version: str = "v2.26.0"
    api_version: str = "1.9"
    tags: Mapping[str, str] = field(default_factory=lambda: {"owner": "", "scope": "organization"})
    created_timestamp_seconds: float
    last_seen_timestamp_seconds: float | None

    def age_seconds(self, now: float) -> float:
        """Return how long ago it was seen; infinite when it never was."""
        seen = self.last_seen_timestamp_seconds
        return float("inf") if seen is None else now - seen


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaFacts:
    """A replica's row. `database_latency_seconds` is what it measured last."""

    id: str
    name: str
    relay_address: str
    version: str
    created_timestamp_seconds: float
    database_latency_seconds: float = 0.0


@dataclass(slots=True, kw_only=True)
class CoderState:
    """Shared by the front and the replicas.

    Attributes:
        tokens: One session token a role. They are never shown.
        accepted: The roles whose tokens are good now.
        keys: What Coder keeps of a token; a role without one has a key of a day that slides.
        dismissed: Sections that are muted, by the names of Coder's settings (`ProvisionerDaemons`).
        refresh_seconds: How old a report out of the cache may be (`healthcheck.refresh`).
        latency_threshold_seconds: `healthcheck.threshold_database`.
        daemons: Provisioner daemons by name.
        daemons_failure: What Coder meets when it reads its daemons for its report; empty: nothing.
        proxies_failure: The same of its workspace proxies.
        replicas: The replicas of coderd, by name.
    """

    tokens: dict[Role, Secret] = field(default_factory=lambda: {role: make_token() for role in Role})
    accepted: set[Role] = field(default_factory=lambda: {Role.OWNER, Role.MEMBER})
    keys: dict[Role, KeyFacts] = field(default_factory=dict)
    dismissed: tuple[str, ...] = ()
    refresh_seconds: float = 600.0
    latency_threshold_seconds: float = 0.04
    daemons: dict[str, DaemonFacts] = field(default_factory=dict)
    daemons_failure: str = ""
    proxies_failure: str = ""
    replicas: dict[str, ReplicaFacts] = field(default_factory=dict)

    def key(self, role: Role, *, now: float) -> KeyFacts:
        """Return the key of a role's token. One that slides ends a day after its last use."""
        sliding = KeyFacts(
            created_timestamp_seconds=now - 2 * _DAY_SECONDS,
            expires_timestamp_seconds=now + _DAY_SECONDS,
            lifetime_seconds=_DAY_SECONDS,
        )
        return self.keys.get(role, sliding)
