"""Where the replicas of one deployment are: a written list, DNS, else Coder's table or API.

In: the sources. Out: a `Sighting` for each look at all of them. What was seen before, and what became of
it, is not known here: see exporter/replicas.py.

Only the access URL is ever asked with the token here, and of addresses that may be those of workspace
proxies it is said so: they are no replicas, and nobody may send them a token.

Source: coder-interfaces, sections 4.2, 4.5, 5.1 and 7; contract, section 8, Values
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace

from exporter.clock import Clock
from exporter.errors import AuthError, ProbeError, ProtocolError, Reason, StatusError, WireError
from exporter.health.model import Failure
from exporter.health.replica import MAX_REPLICAS, ListedReplica
from exporter.health.workspace_proxy import ListedProxy
from exporter.net import coder_json, http, reach, resolver
from exporter.net.coder_account import parse_replicas
from exporter.targets.model import Replica, ReplicaDNS, ReplicaSource
from exporter.targets.replica_ends import MISSED_SECONDS, Ends, find_ends
from exporter.targets.replica_names import Place, find_place, normalise_host
from exporter.targets.token_source import read_token
from exporter.targets.url_source import read_url
from exporter.wire.url import Origin, parse_origin

API_PATH = "/api/v2/replicas"
MAX_BODY_BYTES = 1 << 20
# A crashed replica is missed for at least so many looks.
MISSED_INTERVALS = 5
# How many names of replicas are looked up at a time.
_LOOKUPS_AT_ONCE = 10

# Reads the table within so many seconds; None where the server has none.
ReadTable = Callable[[float], Awaitable[tuple[ListedReplica, ...] | None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """What a source says is a replica.

    Args:
        origin: Where it answers.
        name: What it should be called: the hostname of its row, else its configured or its service's
            name; empty for none.
        hostname: That of its row; empty without one.
        configured: Somebody wrote it down, or the DNS name that led to it.
        written: Somebody wrote its own URL down.
        row: Its row, when it is known.
        proxy: It is the address of a workspace proxy.
    """

    origin: Origin
    name: str = ""
    hostname: str = ""
    configured: bool = False
    written: bool = False
    row: ListedReplica | None = None
    proxy: bool = False

    @property
    def place(self) -> Place:
        return find_place(self.origin)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sighting:
    """One look at the sources.

    Args:
        access_origin: Where Coder is; None when its URL cannot be read.
        candidates: The replicas there are, each place once, by place; None when nobody could tell.
        source: Who told of them: `urls`, `dns`, `table` or `api`; empty for nobody.
        failure: Why nobody could tell, or why their names could not be asked.
        left_out: How many more there are than are returned.
        held: Rows by the places that they tell, of replicas that are missed when a source does not list
            them: they run by their row, or crashed and were not replaced. None when rows could not be read.
        succeeded: Places of replicas that were begun anew at another place.
    """

    access_origin: Origin | None
    candidates: tuple[Candidate, ...] | None
    source: str = ""
    failure: Failure | None = None
    left_out: int = 0
    held: Mapping[Place, ListedReplica] | None = None
    succeeded: frozenset[Place] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Listing:
    """What table or API say; `rows` is None when they say nothing now. Without a failure there is nothing
    to ask, or we may not ask: that will not pass."""

    rows: tuple[ListedReplica, ...] | None = None
    source: str = ""
    failure: Failure | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    """What was written down, with the IP addresses that its host has now."""

    origin: Origin
    name: str = ""
    addresses: frozenset[str] = field(default_factory=frozenset)


class ReplicaWatch:
    """The sources of one deployment.

    Args:
        read_table: None without a database.
        nameservers: Ask these instead of those of this host.
    """

    def __init__(
        self, source: ReplicaSource, *, clock: Clock, read_table: ReadTable | None, nameservers: Sequence[str] = ()
    ) -> None:
        self._source = source
        self._clock = clock
        self._read_table = read_table
        self._nameservers = nameservers
        self._rows: tuple[ListedReplica, ...] = ()
        self._proxies: frozenset[Place] = frozenset()
        self._access_origin: Origin | None = None

    def set_proxies(self, proxies: Iterable[ListedProxy]) -> None:
        """Take the deployment's workspace proxies, which are no replicas."""
        self._proxies = frozenset(find_place(origin) for origin in _origins(proxies))

    async def look(self) -> Sighting:
        """Ask every source once. Raises no ProbeError."""
        access_origin = await self._find_access_origin()
        if access_origin is not None:
            if self._access_origin not in (None, access_origin):
                self._rows = ()  # another deployment's
            self._access_origin = access_origin
        async with asyncio.TaskGroup() as group:
            listing_task = group.create_task(self._list_rows(access_origin))
            found_task = group.create_task(self._find_configured())
        listing, found = listing_task.result(), found_task.result()
        if listing.rows is not None:
            self._rows = listing.rows
        if isinstance(found, Failure):
            return Sighting(access_origin=access_origin, candidates=None, source="dns", failure=found)
        missed_seconds = max(MISSED_SECONDS, MISSED_INTERVALS * self._source.interval_seconds)
        rows = _Rows(self._rows, find_ends(self._rows, missed_seconds=missed_seconds))
        if found is not None:
            source = "dns" if self._source.dns is not None else "urls"
            written = self._source.dns is None
            candidates = [replace(rows.recognise(one), written=written) for one in _without_twins(found, rows)]
        elif listing.rows is None and listing.failure is not None:
            return Sighting(access_origin=access_origin, candidates=None, failure=listing.failure)
        else:
            source = listing.source
            candidates = list(rows.running(access_origin)) if listing.rows is not None else []
        sighting = self._sum_up(candidates, access_origin, source, listing.failure)
        if listing.rows is None:
            return sighting
        return replace(sighting, held=rows.held(), succeeded=rows.succeeded())

    def _sum_up(
        self, candidates: list[Candidate], access_origin: Origin | None, source: str, failure: Failure | None
    ) -> Sighting:
        by_place = {one.place: replace(one, proxy=one.proxy or one.place in self._proxies) for one in candidates}
        # by name: who is left out must not depend on who came first
        ordered = sorted(by_place.values(), key=lambda one: (one.name, one.place))
        kept = sorted(ordered[:MAX_REPLICAS], key=lambda one: one.place)
        return Sighting(
            access_origin=access_origin,
            candidates=tuple(kept),
            source=source,
            failure=failure,
            left_out=len(ordered) - len(kept),
        )

    async def _find_access_origin(self) -> Origin | None:
        try:
            return parse_origin(await read_url(self._source.access_url))
        except (ProbeError, WireError):
            return None  # which the section access_url tells

    # what is written down

    async def _find_configured(self) -> tuple[_Found, ...] | Failure | None:
        """Return what the list or DNS give; None when there is neither."""
        source = self._source
        try:
            if source.dns is not None:
                return await self._look_up(source.dns)
            if source.static:
                return await self._with_addresses(_read_list(source.static))
        except ProbeError as error:
            return Failure.of(error)
        return None

    async def _look_up(self, dns: ReplicaDNS) -> tuple[_Found, ...]:
        """Return what DNS says; nothing is an answer, too.

        Raises:
            ProbeError: There was no answer.
        """
        timeout = self._source.timeout_seconds
        try:
            if dns.port is None:
                services = await resolver.resolve_srv(dns.name, timeout_seconds=timeout, nameservers=self._nameservers)
                return await self._with_addresses(_read_services(dns, services))
            addresses = await resolver.resolve(dns.name, timeout_seconds=timeout, nameservers=self._nameservers)
        except resolver.NoSuchNameError:
            return ()
        return tuple(
            _Found(
                origin=Origin(scheme=dns.scheme, host=address, port=dns.port),
                addresses=frozenset({normalise_host(address)}),
            )
            for address in (*addresses.ipv4, *addresses.ipv6)
        )

    async def _with_addresses(self, found: Iterable[_Found]) -> tuple[_Found, ...]:
        """Add the addresses by which rows know them; what cannot be looked up stays without."""
        slots = asyncio.Semaphore(_LOOKUPS_AT_ONCE)
        deadline = self._clock.monotonic() + self._source.timeout_seconds

        async def complete(one: _Found) -> _Found:
            addresses: list[str] = []
            async with slots:
                with suppress(ProbeError):
                    answer = await resolver.resolve(
                        one.origin.host,
                        timeout_seconds=max(0.0, deadline - self._clock.monotonic()),
                        nameservers=self._nameservers,
                    )
                    addresses = [*answer.ipv4, *answer.ipv6]
            return replace(one, addresses=frozenset(map(normalise_host, addresses)))

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(complete(one)) for one in found]
        return tuple(task.result() for task in tasks)

    # table and API

    async def _list_rows(self, access_origin: Origin | None) -> _Listing:
        """Return the rows, from the table where it can be read, which tells more, else from the API."""
        if not self._source.discover:
            return _Listing()
        failure = None
        if self._read_table is not None:
            try:
                rows = await self._read_table(self._source.timeout_seconds)
                if rows is not None:
                    return _Listing(rows=rows, source="table")
            except AuthError:
                pass  # it is our role that lacks the right
            except ProbeError as error:
                failure = Failure.of(error)
        if self._source.session_token is None:
            return _Listing(failure=failure)
        try:
            rows = await self._ask_api(access_origin)
        except ProbeError as error:
            return _Listing(failure=failure or Failure.of(error))
        if rows is None:
            return _Listing(failure=failure)
        return _Listing(rows=rows, source="api")

    async def _ask_api(self, access_origin: Origin | None) -> tuple[ListedReplica, ...] | None:
        """Return what the API lists; None where it answers in good order that there is nothing for us.

        Raises:
            ProbeError: It did not answer, or is in trouble itself.
        """
        if access_origin is None:
            raise ProbeError("there is no access URL to ask for the replicas", reason=Reason.RESOLVE)
        assert self._source.session_token is not None
        token = await read_token(self._source.session_token)
        exchange = await reach.get(
            access_origin,
            API_PATH,
            deadline_seconds=self._clock.monotonic() + self._source.timeout_seconds,
            clock=self._clock,
            ca_file=self._source.ca_file,
            headers={coder_json.TOKEN_HEADER: token.reveal()},
            max_body_bytes=MAX_BODY_BYTES,
        )
        if exchange.error is not None:
            raise exchange.error
        return _read_answer(exchange)


class _Rows:
    """Rows by the place at which a replica answers."""

    def __init__(self, rows: Iterable[ListedReplica], ends: Ends) -> None:
        self._ends = ends
        self._by_place: dict[Place, tuple[Origin, ListedReplica]] = {}
        self._primaries: Counter[Place] = Counter()  # that run
        # of one place the one that runs, a coderd before a proxy, and the newest: the old one crashed just now
        for row in sorted(rows, key=lambda row: (row.running, row.primary, row.created_timestamp_seconds, row.id)):
            with suppress(WireError):
                origin = parse_origin(row.relay_address)
                self._by_place[find_place(origin)] = origin, row
                self._primaries.update([find_place(origin)] if row.running and row.primary else [])

    def find(self, found: _Found) -> ListedReplica | None:
        """Return the row of what was written down, by what it is called there or by its address."""
        port = found.origin.port
        for host in (normalise_host(found.origin.host), *sorted(found.addresses)):
            known = self._by_place.get(Place(host=host, port=port))
            if known is not None:
                return known[1]
        return None

    def recognise(self, found: _Found) -> Candidate:
        row = self.find(found)
        hostname = row.hostname if row is not None else ""
        return Candidate(
            origin=found.origin,
            name=hostname or found.name,
            hostname=hostname,
            configured=True,
            row=row,
            # who was stopped says that it is no primary, whatever it was
            proxy=row is not None and row.running and not row.primary,
        )

    def running(self, access_origin: Origin | None) -> Iterator[Candidate]:
        """The replicas of coderd that run and have an address of their own."""
        access_place = None if access_origin is None else find_place(access_origin)
        # where several give the access URL for their own it leads to any of them; and the only one there is
        # needs no address of its own
        owned = access_place is not None and self._primaries[access_place] == 1 and len(self._primaries) > 1
        for place, (origin, row) in self._by_place.items():
            here = row.running and row.primary and row.id not in self._ends.succeeded
            if here and (place != access_place or owned):
                yield Candidate(origin=origin, name=row.hostname, hostname=row.hostname, row=row)

    def held(self) -> dict[Place, ListedReplica]:
        """The rows of coderd that tell of a replica which is there, or should be."""
        return {
            place: row
            for place, (_, row) in self._by_place.items()
            if row.primary and row.id not in self._ends.succeeded and (row.running or row.id in self._ends.crashed)
        }

    def succeeded(self) -> frozenset[Place]:
        """The places of replicas that are elsewhere now."""
        return frozenset(place for place, (_, row) in self._by_place.items() if row.id in self._ends.succeeded)


def _without_twins(found: Sequence[_Found], rows: _Rows) -> Iterator[_Found]:
    """Leave out the second address of replicas that have one of each family, where rows tell: then those of
    one family alone are known. Without rows two addresses are two replicas."""
    literal = {one: ":" in one.origin.host for one in found if not one.name}
    known = {ipv6 for one, ipv6 in literal.items() if rows.find(one) is not None}
    for one in found:
        if one not in literal or len(known) != 1 or literal[one] in known:
            yield one


def _read_list(static: Iterable[Replica]) -> Iterator[_Found]:
    for replica in static:
        with suppress(WireError):  # which the configuration refuses
            yield _Found(origin=parse_origin(replica.url), name=replica.name)


def _read_services(dns: ReplicaDNS, services: Iterable[resolver.Service]) -> Iterator[_Found]:
    for service in services:
        with suppress(WireError):  # a name that no server can have
            origin = parse_origin(f"{dns.scheme}://{service.host}:{service.port}")
            yield _Found(origin=origin, name=service.host)


def _read_answer(exchange: http.Exchange) -> tuple[ListedReplica, ...] | None:
    """Source: coder-interfaces, section 5.1."""
    status = exchange.status
    if status == 200:
        if exchange.body_truncated:
            raise ProtocolError(f"GET {API_PATH} answered more than {MAX_BODY_BYTES} bytes")
        try:
            return parse_replicas(exchange.body)
        except WireError as error:
            raise ProtocolError(f"GET {API_PATH} answered no list of replicas: {error}") from error
    said = coder_json.parse_error(exchange.body)
    from_coder = said.from_coder or coder_json.BUILD_VERSION_HEADER in exchange.headers
    # not licensed, not an Owner's token, or signed out
    if from_coder and (status in (403, 404) or (status == 401 and said.signed_out)):
        return None
    kind = AuthError if status in (401, 403) else StatusError
    detail = f": {said.message}" if said.message else ""
    raise kind(f"GET {API_PATH} answered status {status}{detail}")


def _origins(proxies: Iterable[ListedProxy]) -> Iterator[Origin]:
    for proxy in proxies:
        with suppress(WireError):
            yield parse_origin(proxy.url)
