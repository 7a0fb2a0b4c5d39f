"""Workspace proxies found at run time: from the API, the tables, and those that are configured.

In: a target and a deadline. Out: the list, with what is known of each proxy. The last good list is
kept for a while, so that a failed refresh hides no proxy. That there are none, or that there is no list
for us, is knowledge, too: it stays until another answer comes, since whoever cannot answer now says
nothing against it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

from exporter.clock import Clock
from exporter.errors import AuthError, ProbeError, ProtocolError, Reason, StatusError, WireError
from exporter.health.model import Failure, OffReason
from exporter.health.workspace_proxy import ListedProxy
from exporter.log import get_logger
from exporter.net import coder_json, http, reach
from exporter.targets.model import WorkspaceProxiesTarget
from exporter.targets.token_source import NoTokenError, read_token
from exporter.targets.url_source import read_url
from exporter.wire.url import parse_origin

PATH = "/api/v2/workspaceproxies"
MAX_BODY_BYTES = 4 * 1024 * 1024
# A list that could not be refreshed for so many intervals says nothing any more (P17).
KEPT_INTERVALS = 5
# More are not probed, and the log says so.
MAX_PROXIES = 500

# What the server is, whoever asks: that holds also while another source fails.
_OF_THE_SERVER = (OffReason.NOT_LICENSED, OffReason.NOT_SUPPORTED)

REFUSED = "the list is refused: the token or the role lacks the right"

_log = get_logger(__name__)

ReadTables = Callable[[float], Awaitable[tuple[ListedProxy, ...]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Discovered:
    """The proxies to probe. `age_seconds` is that of the list that was read, None without one (or
    with one that is too old); configured proxies need none.

    `failure`: a source failed this time. `off`: no source can ever give a list, and why; told now, or
    the last thing that was told before sources failed.
    """

    proxies: tuple[ListedProxy, ...]
    age_seconds: float | None = None
    failure: Failure | None = None
    off: OffReason | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answer:
    """What one source gave; all None when there is no such source."""

    proxies: tuple[ListedProxy, ...] | None = None
    off: OffReason | None = None
    why: str = ""
    failure: Failure | None = None


class _SourceOff(Exception):
    """A source that answers in good order that there is nothing to read.

    `why` says it where an earlier list goes on without being refreshed.
    """

    def __init__(self, reason: OffReason, why: str = REFUSED) -> None:
        super().__init__(reason)
        self.reason = reason
        self.why = why


class ProxyDiscovery:
    """The list of one deployment's workspace proxies.

    Args:
        read_tables: Reads the tables within so many seconds; None without a database.
    """

    def __init__(self, target: WorkspaceProxiesTarget, *, clock: Clock, read_tables: ReadTables | None) -> None:
        self._target = target
        self._clock = clock
        self._read_tables = read_tables
        self._kept: tuple[ListedProxy, ...] = ()
        self._listed: tuple[ListedProxy, ...] = ()
        self._read_monotonic_seconds: float | None = None
        self._told_off: OffReason | None = None
        self._stopped: dict[str, str] = {}

    @property
    def known(self) -> tuple[ListedProxy, ...]:
        """The proxies of the last list that was read, however long ago, and those that are configured:
        which proxies there are is no state that grows old."""
        return _with_static(self._target.static, self._listed)

    async def refresh(self, deadline_seconds: float) -> Discovered:
        """Return the proxies, from fresh lists where they can be had. Raises no ProbeError."""
        target = self._target
        if target.session_token is None and self._read_tables is None:
            return Discovered(proxies=target.static)
        # side by side: an API that hangs must not eat the time of the tables
        async with asyncio.TaskGroup() as group:
            asked = [
                group.create_task(self._ask(self._read_api(deadline_seconds))),
                group.create_task(self._ask(self._read_database(deadline_seconds))),
            ]
        api, tables = (task.result() for task in asked)
        now = self._clock.monotonic()
        if api.proxies is not None or tables.proxies is not None:
            self._remember_stopped(tables.proxies or ())
            listed = tables.proxies or () if api.proxies is None else api.proxies
            if len(listed) > MAX_PROXIES:
                _log.warning("proxies.cut", deployment=target.deployment, listed=len(listed), probed=MAX_PROXIES)
            self._kept = self._listed = self._complete(listed[:MAX_PROXIES], tables.proxies or ())
            self._read_monotonic_seconds = now
            self._told_off = None
            # one of two sources is enough; what the other one failed of stands in its own section
            return Discovered(proxies=_with_static(target.static, self._kept), age_seconds=0.0)
        off = api.off or tables.off
        failure = api.failure or tables.failure
        age = None if self._read_monotonic_seconds is None else now - self._read_monotonic_seconds
        gone = off in _OF_THE_SERVER and failure is None
        old = age is not None and age > KEPT_INTERVALS * target.interval_seconds
        # that there were none is no state that grows old, while nobody says anything else
        old = old and (bool(self._kept) or off is not None)
        if gone or old:
            self._kept, self._read_monotonic_seconds, age = (), None, None
        if gone:
            self._listed = ()
        if failure is None and off in (OffReason.FORBIDDEN, OffReason.NO_TOKEN) and age is not None:
            # what was read is still good: a login that is refused now may be a passing trouble
            failure = Failure(reason=Reason.AUTH, message=api.why or tables.why)
        if age is None and off is not None and (failure is None or off in _OF_THE_SERVER):
            # of a token that cannot be read now, the server has said nothing
            self._told_off = self._told_off if off is OffReason.NO_TOKEN else off
        else:
            off = self._told_off
        if failure is None or (age is None and off is not None):
            return Discovered(proxies=target.static, off=None if target.static else off)
        return Discovered(proxies=_with_static(target.static, self._kept), age_seconds=age, failure=failure)

    async def _ask(self, reading: Awaitable[tuple[ListedProxy, ...] | None]) -> _Answer:
        try:
            return _Answer(proxies=await reading)
        except _SourceOff as answer:
            return _Answer(off=answer.reason, why=answer.why)
        except ProbeError as error:
            return _Answer(failure=Failure.of(error))

    async def _read_database(self, deadline_seconds: float) -> tuple[ListedProxy, ...] | None:
        if self._read_tables is None:
            return None
        try:
            return await self._read_tables(deadline_seconds - self._clock.monotonic())
        except AuthError as error:
            # it is our role that lacks the right, which is no outage of Coder's
            raise _SourceOff(OffReason.FORBIDDEN) from error

    async def _read_api(self, deadline_seconds: float) -> tuple[ListedProxy, ...] | None:
        target = self._target
        if target.session_token is None:
            return None
        try:
            origin = parse_origin(await read_url(target.access_url))
        except WireError as error:
            raise ProbeError(f"there is no access URL to ask: {error}", reason=Reason.RESOLVE) from error
        try:
            token = await read_token(target.session_token)
        except NoTokenError as error:
            # as good as none: no outage of Coder's, nor of its proxies
            raise _SourceOff(OffReason.NO_TOKEN, error.message) from error
        exchange = await reach.get(
            origin,
            PATH,
            deadline_seconds=deadline_seconds,
            clock=self._clock,
            ca_file=target.ca_file,
            headers={coder_json.TOKEN_HEADER: token.reveal()},
            max_body_bytes=MAX_BODY_BYTES,
        )
        if exchange.error is not None:
            raise exchange.error
        return _read_answer(exchange)

    def _remember_stopped(self, rows: tuple[ListedProxy, ...]) -> None:
        """Rows of stopped replicas vanish within 30 minutes: a proxy that was seen stopped stays so
        until it registers again, which moves the `updated_at` of its row."""
        for row in rows:
            if row.stopped:
                self._stopped[row.id] = row.updated_at
            elif row.stopped is False or self._stopped.get(row.id) != row.updated_at:
                self._stopped.pop(row.id, None)

    def _complete(self, listed: tuple[ListedProxy, ...], rows: tuple[ListedProxy, ...]) -> tuple[ListedProxy, ...]:
        """Add what only the tables know, now or from before."""
        known = {row.id: row for row in rows}
        for gone in self._stopped.keys() - {proxy.id for proxy in listed}:
            del self._stopped[gone]
        return tuple(
            replace(
                proxy,
                stopped=True if proxy.id in self._stopped else (row.stopped if row is not None else None),
                region_id=row.region_id if row is not None else proxy.region_id,
            )
            for proxy in listed
            for row in (known.get(proxy.id),)
        )


def _read_answer(exchange: http.Exchange) -> tuple[ListedProxy, ...]:
    """Source: coder-interfaces, section 4.1."""
    status = exchange.status
    if status == 200:
        if exchange.body_truncated:
            raise ProtocolError(f"GET {PATH} answered more than {MAX_BODY_BYTES} bytes")
        try:
            return coder_json.parse_workspace_proxies(exchange.body)
        except WireError as error:
            raise ProtocolError(f"GET {PATH} answered no list of proxies: {error}") from error
    said = coder_json.parse_error(exchange.body)
    # a front may take its headers away
    from_coder = said.from_coder or coder_json.BUILD_VERSION_HEADER in exchange.headers
    if from_coder and status == 403:
        licensed = not any(word in said.message.lower() for word in ("premium", "enterprise", "license"))
        raise _SourceOff(OffReason.FORBIDDEN if licensed else OffReason.NOT_LICENSED)
    if from_coder and status == 404:
        raise _SourceOff(OffReason.NOT_SUPPORTED)
    if from_coder and status == 401 and said.signed_out:
        raise _SourceOff(OffReason.FORBIDDEN)
    kind = AuthError if status in (401, 403) else StatusError
    detail = f": {said.message}" if said.message else ""
    raise kind(f"GET {PATH} answered status {status}{detail}")


def _with_static(static: tuple[ListedProxy, ...], found: tuple[ListedProxy, ...]) -> tuple[ListedProxy, ...]:
    """Put configured proxies first; one that was also found is probed once, as configured.

    Names are unique in Coder. Where a list has one twice all the same, each but the first bears its
    id too, so that none hides another one.
    """
    configured = {proxy.name for proxy in static}
    ids = {proxy.id for proxy in static}
    names = set(configured)
    told_apart = []
    for proxy in found:
        if proxy.id in ids or proxy.name in configured:
            continue
        ids.add(proxy.id)
        name = proxy.name if proxy.name not in names else f"{proxy.name} ({proxy.id})"
        names.add(name)
        told_apart.append(replace(proxy, name=name))
    return (*static, *told_apart)
