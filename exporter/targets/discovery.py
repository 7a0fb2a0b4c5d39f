"""Workspace proxies found at run time: from the API, the tables, and those that are configured.

In: a target and a deadline. Out: the list, with what is known of each proxy. The last good list is
kept for a while, so that a failed refresh hides no proxy.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

from exporter.clock import Clock
from exporter.errors import AuthError, ProbeError, ProtocolError, Reason, StatusError, WireError
from exporter.health.model import Failure, OffReason
from exporter.health.workspace_proxy import ListedProxy
from exporter.net import coder_json, http, reach
from exporter.net.tls import load_ssl_context
from exporter.targets.model import WorkspaceProxiesTarget
from exporter.targets.url_source import read_url
from exporter.wire.url import parse_origin

PATH = "/api/v2/workspaceproxies"
MAX_BODY_BYTES = 4 * 1024 * 1024
# A list that could not be refreshed for so many intervals says nothing any more (P17).
KEPT_INTERVALS = 5

ReadTables = Callable[[float], Awaitable[tuple[ListedProxy, ...]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Discovered:
    """The proxies to probe. `age_seconds` is None when no list was ever read, or when it is too old.

    `failure`: a source failed this time. `off`: no source can ever give a list, and why.
    """

    proxies: tuple[ListedProxy, ...]
    age_seconds: float | None = None
    failure: Failure | None = None
    off: OffReason | None = None


class _SourceOff(Exception):
    """A source that answers in good order that there is nothing to read."""

    def __init__(self, reason: OffReason) -> None:
        super().__init__(reason)
        self.reason = reason


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
        self._read_monotonic_seconds: float | None = None
        self._stopped: dict[str, str] = {}

    async def refresh(self, deadline_seconds: float) -> Discovered:
        """Return the proxies, from fresh lists where they can be had. Raises no ProbeError."""
        target = self._target
        if target.session_token is None and self._read_tables is None:
            return Discovered(proxies=target.static, age_seconds=0.0)
        lists: list[tuple[ListedProxy, ...]] = []
        off: OffReason | None = None
        failures: list[Failure] = []
        tables: tuple[ListedProxy, ...] = ()
        if target.session_token is not None:
            try:
                lists.append(await self._read_api(target.session_token.reveal(), deadline_seconds))
            except _SourceOff as answer:
                off = answer.reason
            except ProbeError as error:
                failures.append(Failure.of(error))
        if self._read_tables is not None:
            try:
                tables = await self._read_tables(deadline_seconds - self._clock.monotonic())
                lists.append(tables)
            except AuthError:
                # it is our role that lacks the right, which is no outage of Coder's
                off = off or OffReason.FORBIDDEN
            except ProbeError as error:
                failures.append(Failure.of(error))
        now = self._clock.monotonic()
        if lists:
            self._kept = self._remember_stopped(_merge(lists[0], tables))
            self._read_monotonic_seconds = now
            # one of two sources is enough; what the other one failed of stands in its own section
            return Discovered(proxies=_with_static(target.static, self._kept), age_seconds=0.0)
        if not failures:
            self._kept, self._read_monotonic_seconds = (), None
            return Discovered(proxies=target.static, age_seconds=0.0, off=None if target.static else off)
        age = None if self._read_monotonic_seconds is None else now - self._read_monotonic_seconds
        if age is not None and age > KEPT_INTERVALS * target.interval_seconds:
            self._kept, self._read_monotonic_seconds, age = (), None, None
        return Discovered(proxies=_with_static(target.static, self._kept), age_seconds=age, failure=failures[0])

    async def _read_api(self, token: str, deadline_seconds: float) -> tuple[ListedProxy, ...]:
        target = self._target
        try:
            origin = parse_origin(await read_url(target.access_url))
        except WireError as error:
            raise ProbeError(f"there is no access URL to ask: {error}", reason=Reason.RESOLVE) from error
        exchange = await reach.get(
            origin,
            PATH,
            deadline_seconds=deadline_seconds,
            clock=self._clock,
            ssl_context=await load_ssl_context(target.ca_file) if origin.tls else None,
            headers={coder_json.TOKEN_HEADER: token},
            max_body_bytes=MAX_BODY_BYTES,
        )
        if exchange.error is not None:
            raise exchange.error
        return _read_answer(exchange)

    def _remember_stopped(self, proxies: tuple[ListedProxy, ...]) -> tuple[ListedProxy, ...]:
        """Rows of stopped replicas vanish within 30 minutes: a proxy that was seen stopped stays so
        until it registers again, which moves its `updated_at`."""
        for proxy in proxies:
            if proxy.stopped:
                self._stopped[proxy.id] = proxy.updated_at
            elif proxy.stopped is False or self._stopped.get(proxy.id) != proxy.updated_at:
                self._stopped.pop(proxy.id, None)
        for gone in self._stopped.keys() - {proxy.id for proxy in proxies}:
            del self._stopped[gone]
        return tuple(replace(proxy, stopped=True) if proxy.id in self._stopped else proxy for proxy in proxies)


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
    from_coder = coder_json.BUILD_VERSION_HEADER in exchange.headers
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


def _merge(listed: tuple[ListedProxy, ...], tables: tuple[ListedProxy, ...]) -> tuple[ListedProxy, ...]:
    """Add what only the tables know. Their `updated_at` moves with every registration and is
    compared with itself, so it always comes from there when it can."""
    known = {proxy.id: proxy for proxy in tables}
    return tuple(
        replace(proxy, stopped=row.stopped, region_id=row.region_id, updated_at=row.updated_at)
        if (row := known.get(proxy.id)) is not None
        else proxy
        for proxy in listed
    )


def _with_static(static: tuple[ListedProxy, ...], found: tuple[ListedProxy, ...]) -> tuple[ListedProxy, ...]:
    """Put configured proxies first; one that was also found is probed once, as configured."""
    ids = {proxy.id for proxy in static}
    names = {proxy.name for proxy in static}
    return static + tuple(proxy for proxy in found if proxy.id not in ids and proxy.name not in names)
