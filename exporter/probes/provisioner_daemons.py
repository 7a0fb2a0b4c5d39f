"""Read provisioner daemons: from the tables, and where these cannot be read from the API; beside it
what version the server has. In: a target. Out: a `ProvisionerDaemonsResult`. Never judges.

Source: coder-interfaces, sections 4.1 to 4.4
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING
from urllib.parse import quote

from exporter.clock import Clock
from exporter.errors import AuthError, ConnectError, ProbeError, ProtocolError, Reason, StatusError, WireError
from exporter.health.model import Failure, OffReason
from exporter.health.provisioner_daemons import (
    MAX_RECENT,
    OrganizationDaemons,
    ProvisionerDaemon,
    ProvisionerDaemonsResult,
    ServerVersion,
)
from exporter.net import coder_json, http, reach
from exporter.net.coder_json import ListedDaemon, Organization
from exporter.secret import Secret
from exporter.targets.model import ProvisionerDaemonsTarget
from exporter.targets.token_source import NoTokenError, read_token
from exporter.targets.url_source import read_url
from exporter.wire.url import Origin, parse_origin

if TYPE_CHECKING:  # its driver is loaded only where there is a database
    from exporter.net.coder_daemons import DaemonTables

BUILD_INFO_PATH = "/api/v2/buildinfo"
# Old servers only list the organizations of a user.
ORGANIZATION_PATHS = ("/api/v2/organizations", "/api/v2/users/me/organizations")
# All of them, also who is away. Older servers know fewer parameters and refuse the rest with 400; what
# they leave out is then not asked for: they hide nobody who is away.
QUERIES = ("?limit=0&offline=true", "?limit=0", "")
MAX_ORGANIZATIONS = 100
MAX_AT_ONCE = 4
# A daemon has less than a kilobyte, and is listed for a week after it was last seen.
MAX_BODY_BYTES = 8 * 1024 * 1024
# Longer ones are read in a thread, so that no other run waits.
_LONG_BODY_BYTES = 64 * 1024


class _Off(Exception):
    """The server answers in good order that there is nothing to read."""

    def __init__(self, reason: OffReason) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    """The daemons of one organization; or why there are none to read, or what went wrong."""

    counts: OrganizationDaemons | None = None
    recent: tuple[ProvisionerDaemon, ...] = ()
    liveness_known: bool = True
    off: OffReason | None = None
    failure: ProbeError | None = None


async def probe(
    target: ProvisionerDaemonsTarget, *, tables: DaemonTables | None, clock: Clock
) -> ProvisionerDaemonsResult:
    """Read the list, and side by side the server's version.

    Each of the two sources of the list may take the target's timeout. One of them is enough: what the
    other one failed of stands in its own section.
    """
    deadline = clock.monotonic() + target.timeout_seconds
    async with asyncio.TaskGroup() as group:
        asked = group.create_task(_ask_server(target, deadline, clock))
        read = group.create_task(_read_tables(target, tables))
    server, found = asked.result(), read.result()
    if found is None or found.organizations is None:
        by_api = await _read_api(target, clock)
        found = by_api if found is None else _choose(found, by_api)
    if found is None:
        found = ProvisionerDaemonsResult(off=OffReason.NO_TOKEN)
    return replace(found, server=server, stale_after_seconds=target.stale_after_seconds)


def _choose(tables: ProvisionerDaemonsResult, api: ProvisionerDaemonsResult | None) -> ProvisionerDaemonsResult:
    """Return what to go by when the tables gave no list: a list, else a failure, which may pass, else
    a right that is missing, which can be given."""
    if api is None or api.organizations is not None:
        return api or tables
    for one in (tables, api):
        if one.failure is not None:
            return one
    return tables if tables.off is OffReason.FORBIDDEN else api


async def _ask_server(target: ProvisionerDaemonsTarget, deadline_seconds: float, clock: Clock) -> ServerVersion | None:
    """Return what version the server has; None when it does not answer, which other sections tell."""
    try:
        origin = parse_origin(await read_url(target.access_url))
    except (WireError, ProbeError):
        return None
    exchange = await reach.get(
        origin,
        BUILD_INFO_PATH,
        deadline_seconds=deadline_seconds,
        clock=clock,
        ca_file=target.ca_file,
        max_body_bytes=64 * 1024,
    )
    if exchange.error is None and exchange.status == 200:
        try:
            return coder_json.parse_server_version(exchange.body)
        except WireError:
            pass  # perhaps a login page: the header may still say it
    version = coder_json.read_version(exchange.headers)
    return None if not version else ServerVersion(version=version)


async def _read_tables(
    target: ProvisionerDaemonsTarget, tables: DaemonTables | None
) -> ProvisionerDaemonsResult | None:
    if tables is None:
        return None
    try:
        listed = await tables.read(
            stale_after_seconds=target.stale_after_seconds, timeout_seconds=target.timeout_seconds
        )
    except ProbeError as error:
        if isinstance(error, AuthError) and error.reason is Reason.AUTH:
            # it is our role that lacks the right, which is no outage of Coder's
            return ProvisionerDaemonsResult(source="tables", off=OffReason.FORBIDDEN)
        return ProvisionerDaemonsResult(source="tables", failure=Failure.of(error))
    if listed is None:
        return ProvisionerDaemonsResult(source="tables", off=OffReason.NOT_SUPPORTED)
    return ProvisionerDaemonsResult(
        organizations=listed.organizations,
        recent=listed.recent,
        liveness_known=listed.liveness_known,
        jobs=listed.jobs,
        cut=listed.cut,
        hidden=listed.hidden,
        source="tables",
    )


async def _read_api(target: ProvisionerDaemonsTarget, clock: Clock) -> ProvisionerDaemonsResult | None:
    if target.session_token is None:
        return None
    try:
        origin = parse_origin(await read_url(target.access_url))
        token = await read_token(target.session_token)
        reader = _ApiReader(target, origin, token, clock)
        return await reader.read()
    except WireError as error:
        failure = Failure(reason=Reason.RESOLVE, message=f"there is no access URL to ask: {error}")
    except NoTokenError:
        # as good as none: no outage of Coder's
        return ProvisionerDaemonsResult(source="api", off=OffReason.NO_TOKEN)
    except ProbeError as error:
        failure = Failure.of(error)
    except _Off as answer:
        return ProvisionerDaemonsResult(source="api", off=answer.reason)
    return ProvisionerDaemonsResult(source="api", failure=failure)


class _ApiReader:
    """One reading through the API."""

    def __init__(self, target: ProvisionerDaemonsTarget, origin: Origin, token: Secret, clock: Clock) -> None:
        self._target = target
        self._origin = origin
        self._token = token
        self._clock = clock
        self._deadline = clock.monotonic() + target.timeout_seconds
        self._slots = asyncio.Semaphore(MAX_AT_ONCE)
        # the first that the server takes is good for every organization
        self._query = 0

    async def read(self) -> ProvisionerDaemonsResult:
        """Return the daemons of every organization that the token may see.

        Raises:
            ProbeError: There is no list of organizations to be had, or none of their daemons.
            _Off: Nothing is to be read here.
        """
        organizations = await self._read_organizations()
        # the first one alone: it finds out which parameters this server knows
        parts = [await self._read_part(one) for one in organizations[:1]]
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._read_part(one)) for one in organizations[1:MAX_ORGANIZATIONS]]
        parts += [task.result() for task in tasks]
        return self._join(organizations, parts)

    def _join(self, organizations: Sequence[Organization], parts: Sequence[_Part]) -> ProvisionerDaemonsResult:
        failure = next((part.failure for part in parts if part.failure is not None), None)
        counts = tuple(part.counts for part in parts if part.counts is not None)
        if not counts and failure is not None:
            raise failure
        if not counts:
            # also without any organization: every deployment has one, so it is hidden from us
            reasons = [part.off for part in parts if part.off is not None]
            raise _Off(next((one for one in reasons if one is not OffReason.FORBIDDEN), OffReason.FORBIDDEN))
        refused = [one.name for one, part in zip(organizations, parts, strict=False) if part.off is not None]
        recent = [daemon for part in parts for daemon in part.recent]
        return ProvisionerDaemonsResult(
            organizations=tuple(sorted(counts, key=lambda one: one.organization)),
            recent=tuple(recent[:MAX_RECENT]),
            liveness_known=all(part.liveness_known for part in parts),
            cut=len(recent) > MAX_RECENT,
            # those that are too many are as good as refused: nothing is known of them
            refused=(*refused, *(one.name for one in organizations[MAX_ORGANIZATIONS:])),
            source="api",
            failure=None if failure is None else Failure.of(failure),
        )

    async def _read_organizations(self) -> tuple[Organization, ...]:
        for path in ORGANIZATION_PATHS[:-1]:
            exchange = await self._get(path)
            if exchange.status != 404:
                return _parse_organizations(exchange, path)
        path = ORGANIZATION_PATHS[-1]
        return _parse_organizations(await self._get(path), path)

    async def _read_part(self, organization: Organization) -> _Part:
        try:
            async with self._slots:
                exchange, path = await self._ask_daemons(organization)
            return await self._parse_part(exchange, path, organization)
        except _Off as answer:
            return _Part(off=answer.reason)
        except ProbeError as error:
            return _Part(failure=error)

    async def _ask_daemons(self, organization: Organization) -> tuple[http.Exchange, str]:
        path = f"/api/v2/organizations/{quote(organization.id, safe='')}/provisionerdaemons"
        while True:
            exchange = await self._get(path + QUERIES[self._query])
            if exchange.status != 400 or self._query == len(QUERIES) - 1:
                return exchange, path
            self._query += 1

    async def _parse_part(self, exchange: http.Exchange, path: str, organization: Organization) -> _Part:
        body = _read_answer(exchange, path)
        try:
            if len(body) > _LONG_BODY_BYTES:
                daemons = await asyncio.to_thread(coder_json.parse_provisioner_daemons, body)
            else:
                daemons = coder_json.parse_provisioner_daemons(body)
        except WireError as error:
            raise ProtocolError(f"GET {path} answered no list of provisioner daemons: {error}") from error
        # by the server's clock where it tells: ours may be another one
        now = coder_json.read_date(exchange.headers) or self._clock.now()
        return _sort_out(daemons, organization, now, self._target.stale_after_seconds)

    async def _get(self, path: str) -> http.Exchange:
        exchange = await reach.get(
            self._origin,
            path,
            deadline_seconds=self._deadline,
            clock=self._clock,
            ca_file=self._target.ca_file,
            headers={coder_json.TOKEN_HEADER: self._token.reveal()},
            max_body_bytes=MAX_BODY_BYTES,
        )
        if exchange.error is not None:
            raise exchange.error
        return exchange


def _sort_out(
    daemons: Sequence[ListedDaemon], organization: Organization, now: float, stale_after_seconds: float
) -> _Part:
    """Tell who was seen lately. Who was seen in the future, by another clock, was seen now."""
    recent, stale, never = [], 0, 0
    for daemon in daemons:
        if daemon.last_seen_timestamp_seconds is None:
            never += 1
            continue
        age_seconds = max(0.0, now - daemon.last_seen_timestamp_seconds)
        if age_seconds > stale_after_seconds:
            stale += 1
            continue
        recent.append(
            ProvisionerDaemon(
                id=daemon.id,
                name=daemon.name,
                organization_id=organization.id,
                organization=organization.name,
                version=daemon.version,
                api_version=daemon.api_version,
                tags=daemon.tags,
                provisioners=daemon.provisioners,
                age_seconds=age_seconds,
            )
        )
    return _Part(
        counts=OrganizationDaemons(organization=organization.name, recent=len(recent), stale=stale, never=never),
        recent=tuple(sorted(recent, key=lambda daemon: (daemon.name, daemon.id))),
        liveness_known=all(daemon.liveness_known for daemon in daemons),
    )


def _parse_organizations(exchange: http.Exchange, path: str) -> tuple[Organization, ...]:
    body = _read_answer(exchange, path)
    try:
        return coder_json.parse_organizations(body)
    except WireError as error:
        raise ProtocolError(f"GET {path} answered no list of organizations: {error}") from error


def _read_answer(exchange: http.Exchange, path: str) -> bytes:
    """Return the body of an answer in good order.

    Raises:
        _Off: Coder says that this is not for us: no right, no licence, or too old a server.
        ProbeError: Anything else.
    """
    status = exchange.status
    if status == 200:
        if exchange.body_truncated:
            raise ProtocolError(f"GET {path} answered more than {MAX_BODY_BYTES} bytes")
        return exchange.body
    said = coder_json.parse_error(exchange.body)
    if said.from_coder or coder_json.BUILD_VERSION_HEADER in exchange.headers:  # which a front may take away
        if status == 403:
            unlicensed = any(word in said.message.lower() for word in ("premium", "enterprise", "license"))
            raise _Off(OffReason.NOT_LICENSED if unlicensed else OffReason.FORBIDDEN)
        if status == 404:
            raise _Off(OffReason.NOT_SUPPORTED if said.unknown_route else OffReason.FORBIDDEN)
        if status == 401 and said.signed_out:
            raise _Off(OffReason.FORBIDDEN)
    kind = AuthError if status == 403 or said.signed_out else StatusError
    if status is None:
        raise ConnectError(f"GET {path} was not answered")
    detail = f": {said.message}" if said.message else ""
    raise kind(f"GET {path} answered status {status}{detail}")
