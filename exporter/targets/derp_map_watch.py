"""The DERP map of one deployment, watched: from Coder's open socket, which tells each change at once,
with a token from the connection endpoint too, or from a file instead.

In: where the map comes from. Out: a `MapState`, and a call whenever it is another one. The last good
map is kept, so that a source that fails hides no relay.

Source: derp-stun, section 6.3; coder-interfaces, section 5.1
"""

from __future__ import annotations

import asyncio
import errno
import os
import random
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from exporter.clock import Clock
from exporter.errors import AuthError, DeadlineError, Phase, ProbeError, ProtocolError, Reason, StatusError, WireError
from exporter.health.model import Failure, OffReason
from exporter.log import get_logger
from exporter.net import coder_json, http, reach
from exporter.net.websocket import MAX_MESSAGE_BYTES, WebSocket
from exporter.targets.model import DerpMapSource
from exporter.targets.token_source import NoTokenError, read_token
from exporter.targets.url_source import read_url
from exporter.wire.derp_map import ConnectionInfo, DerpMap, parse_connection_info, parse_derp_map
from exporter.wire.url import Origin, parse_origin

DERP_MAP_PATH = "/api/v2/derp-map"
CONNECTION_PATH = "/api/v2/workspaceagents/connection"
MAX_MAP_BYTES = MAX_MESSAGE_BYTES

FIRST_RETRY_SECONDS = 1.0
# A socket that gave its map and lived so long is opened again soon, however often it is cut; one that
# lived shorter waits as after a failure, so that nobody is hammered.
LASTING_SECONDS = 5.0
# What is longer is parsed in a thread: a map of nonsense takes its time.
_PARSE_AT_ONCE_BYTES = 1 << 16
# Coder pings its clients every 15 s: three pings that did not come. Source: derp-stun, section 6.3
SILENT_AFTER_SECONDS = 45.0

_Parsed = TypeVar("_Parsed")

# What only the connection endpoint tells.
_WISHES = "derp_force_websockets, disable_direct_connections"

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class MapState:
    """What is known of the map now.

    Args:
        derp_map: The last good one; None before the first, and after the access URL has changed.
        source: Where it came from: `socket`, `connection` or `file`; empty without one.
        confirmed_monotonic_seconds: When a source last said that it holds; a socket that stays open
            says so with each sign of life. None without a map.
        failure: Why the last attempt gave no map. None while the socket is open, or when another
            source gave one. A socket that gave its map and ended is no failure: the next attempt tells.
        off: Whoever has maps answers in good order that there is none for us, and why.
        changes: How often the map has changed; the first one is no change.
        force_websockets: The deployment forces its clients to WebSocket; None: not known.
        direct_disabled: It disables direct connections; None: not known.
        connection_failure: Why the connection endpoint, which alone tells these two, did not answer our
            token last; None when it did, and when it was not asked.
    """

    derp_map: DerpMap | None = None
    source: str = ""
    confirmed_monotonic_seconds: float | None = None
    failure: Failure | None = None
    off: OffReason | None = None
    changes: int = 0
    force_websockets: bool | None = None
    direct_disabled: bool | None = None
    connection_failure: Failure | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Outcome:
    """What the last attempt at a source came to; with neither failure nor off it was a good one.

    Args:
        refusal: With `off`: the answer that said so.
        gave_map: The socket gave its map before it ended: whether it fails the next attempt tells.
    """

    failure: Failure | None = None
    off: OffReason | None = None
    refusal: Failure | None = None
    gave_map: bool = False

    @property
    def good(self) -> bool:
        return self.failure is None and self.off is None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Offer:
    """A map that nobody needs while the socket gives one."""

    derp_map: DerpMap
    given_seconds: float


class _MovedError(Exception):
    """The access URL is another one now."""


class DerpMapWatch:
    """The map of one deployment.

    Args:
        on_change: Called when the map, or what the deployment wants of its clients, is another than
            before; also when the map is dropped. Must not raise.
        first_retry_seconds: How soon a socket that failed is opened again; from then on it takes
            longer each time, up to the source's interval.
        silent_after_seconds: A socket on which nothing came for so long is dead.
    """

    def __init__(
        self,
        source: DerpMapSource,
        *,
        clock: Clock,
        on_change: Callable[[], None] | None = None,
        first_retry_seconds: float = FIRST_RETRY_SECONDS,
        silent_after_seconds: float = SILENT_AFTER_SECONDS,
    ) -> None:
        self._source = source
        self._clock = clock
        self._on_change = on_change
        self._first_retry_seconds = first_retry_seconds
        self._silent_after_seconds = silent_after_seconds
        self._origin: Origin | None = None
        self._map: DerpMap | None = None
        self._latest: DerpMap | None = None  # outlives a change of the access URL
        self._map_source = ""
        self._confirmed_seconds: float | None = None
        self._changes = 0
        self._force_websockets: bool | None = None
        self._direct_disabled: bool | None = None
        self._live: WebSocket | None = None
        self._primary: _Outcome | None = None  # of the socket, or of the file; None: not tried yet
        self._connection: _Outcome | None = None
        self._offer: _Offer | None = None
        self._told_trouble: tuple[int | None, Reason] | None = None  # of the connection endpoint, in the log

    @property
    def state(self) -> MapState:
        """What is known now. It costs nothing."""
        outcome = self._sum_up()
        confirmed = self._confirmed_seconds
        if confirmed is not None and self._live is not None:
            confirmed = max(confirmed, self._live.heard_seconds)
        return MapState(
            derp_map=self._map,
            source=self._map_source,
            confirmed_monotonic_seconds=confirmed,
            failure=outcome.failure,
            off=outcome.off,
            changes=self._changes,
            force_websockets=self._force_websockets,
            direct_disabled=self._direct_disabled,
            connection_failure=_say_trouble(self._connection),
        )

    async def refresh(self) -> None:
        """Ask every source once, now; nothing stays open. Raises no ProbeError."""
        async with asyncio.TaskGroup() as group:
            if self._source.map_file is not None:
                group.create_task(self._read_file(self._source.map_file))
            if self._asks_coder:
                group.create_task(self._refresh_from_coder())

    async def serve(self) -> None:
        """Watch the map until cancelled; then nothing stays open."""
        async with asyncio.TaskGroup() as group:
            if self._source.map_file is not None:
                group.create_task(self._keep_reading(self._source.map_file))
            if self._asks_coder:
                group.create_task(self._keep_asking_coder())

    @property
    def _asks_coder(self) -> bool:
        return self._source.map_file is None or self._source.session_token is not None

    # the file

    async def _keep_reading(self, path: Path) -> None:
        while True:
            await self._read_file(path)
            await self._clock.sleep(self._source.interval_seconds)

    async def _read_file(self, path: Path) -> None:
        try:
            derp_map = await asyncio.to_thread(_read_map, path)
        except OSError as error:
            message = f"the file of the DERP map cannot be read: {error.strerror}"
            self._primary = _Outcome(failure=Failure(reason=Reason.RESOLVE, message=message))
        except WireError as error:
            message = f"the file of the DERP map holds none: {error}"
            self._primary = _Outcome(failure=Failure(reason=Reason.BODY, message=message))
        else:
            self._primary = _Outcome()
            self._take(derp_map, "file", self._clock.monotonic())

    # Coder

    async def _refresh_from_coder(self) -> None:
        origin = await self._find_origin()
        if origin is None:
            return
        async with asyncio.TaskGroup() as group:
            if self._source.map_file is None:
                group.create_task(self._use_socket(origin, stay=False))
            if self._source.session_token is not None:
                group.create_task(self._ask(origin))

    async def _keep_asking_coder(self) -> None:
        """Follow the access URL wherever it goes."""
        pause = self._back_off()
        while True:
            origin = await self._find_origin()
            if origin is None:
                await self._clock.sleep(pause.next_seconds())
                continue
            pause = self._back_off()
            try:
                async with asyncio.TaskGroup() as group:
                    if self._source.map_file is None:
                        group.create_task(self._keep_socket(origin))
                    if self._source.session_token is not None:
                        group.create_task(self._keep_asking(origin))
                    if self._source.access_url.url_file is not None:
                        group.create_task(self._await_move(origin))
            except* _MovedError:
                pass  # whatever was open to the old one is closed

    async def _find_origin(self) -> Origin | None:
        """Return where Coder is now; None, which is noted, when nobody can tell."""
        try:
            origin = parse_origin(await read_url(self._source.access_url))
        except (ProbeError, WireError) as error:
            message = f"there is no access URL to ask for the DERP map: {error}"
            failed = _Outcome(failure=Failure(reason=Reason.RESOLVE, phase=Phase.RESOLVE, message=message))
            if self._source.map_file is None:
                self._primary = failed
            if self._source.session_token is not None:
                self._connection = failed
            return None
        if self._origin not in (None, origin):
            self._forget()
        self._origin = origin
        return origin

    async def _await_move(self, origin: Origin) -> None:
        while True:
            await self._clock.sleep(self._source.interval_seconds)
            try:
                current = parse_origin(await read_url(self._source.access_url))
            except (ProbeError, WireError):
                continue  # half written, or taken away: what we have may go on
            if current != origin:
                raise _MovedError

    def _forget(self) -> None:
        """Drop what another deployment said."""
        self._force_websockets = self._direct_disabled = self._connection = self._offer = None
        self._told_trouble = None
        if self._source.map_file is None:
            self._map = self._confirmed_seconds = self._primary = None
            self._map_source = ""
        self._tell()

    # the socket

    async def _keep_socket(self, origin: Origin) -> None:
        """Have it open, and when it ends, open it again."""
        pause = self._back_off()
        while True:
            began_seconds = self._clock.monotonic()
            outcome = await self._use_socket(origin, stay=True)
            lived_seconds = self._clock.monotonic() - began_seconds
            if self._source.session_token is not None:
                await self._ask(origin)  # the other source, now that it is needed
            if outcome.gave_map and lived_seconds >= LASTING_SECONDS:
                pause = self._back_off()
            await self._clock.sleep(pause.next_seconds())

    async def _use_socket(self, origin: Origin, *, stay: bool) -> _Outcome:
        """Take the map that the socket gives; when `stay`, those that follow until it ends."""
        self._primary = outcome = await self._receive_maps(origin, stay=stay)
        self._consider_offer()
        return outcome

    async def _receive_maps(self, origin: Origin, *, stay: bool) -> _Outcome:
        """Return how it ended. It is anonymous: the token goes to no socket."""
        deadline = self._clock.monotonic() + self._source.timeout_seconds
        opened, _phases = await reach.open_websocket(
            origin, DERP_MAP_PATH, deadline_seconds=deadline, clock=self._clock, ca_file=self._source.ca_file
        )
        if not isinstance(opened, WebSocket):
            return _judge_refusal(opened, DERP_MAP_PATH)
        gave_map = False
        async with opened as socket:
            try:
                await self._take_message(await socket.receive(deadline_seconds=deadline))
                self._primary = _Outcome()
                gave_map = True
                if stay:
                    await self._listen(socket)
            except ProbeError as error:
                # what is no map is a failure whenever it comes
                return _Outcome(failure=Failure.of(error), gave_map=gave_map and error.reason is not Reason.BODY)
        return _Outcome()

    async def _listen(self, socket: WebSocket) -> None:
        """Take each map that comes, until the socket ends.

        Raises:
            ProbeError: Why it ended.
        """
        self._live = socket
        try:
            while True:
                await self._take_message(await self._receive(socket))
        finally:
            self._live = None
            self._confirmed_seconds = socket.heard_seconds

    async def _receive(self, socket: WebSocket) -> str | bytes:
        """Return the next message, however long it takes to come, while there are signs of life."""
        while True:
            try:
                return await socket.receive(deadline_seconds=socket.heard_seconds + self._silent_after_seconds)
            except DeadlineError:
                silent_seconds = self._clock.monotonic() - socket.heard_seconds
                if silent_seconds >= self._silent_after_seconds:
                    message = f"the websocket of the DERP map is dead: not even a ping came for {silent_seconds:.0f} s"
                    raise DeadlineError(message, phase=Phase.TRANSFER) from None

    async def _take_message(self, message: str | bytes) -> None:
        given_seconds = self._clock.monotonic()
        try:
            derp_map = await _parse(parse_derp_map, message)
        except WireError as error:
            text = f"the websocket of {DERP_MAP_PATH} gave what is no DERP map: {error}"
            raise ProtocolError(text, phase=Phase.TRANSFER, reason=Reason.BODY) from error
        self._take(derp_map, "socket", given_seconds)

    # the connection endpoint

    async def _keep_asking(self, origin: Origin) -> None:
        while True:
            await self._ask(origin)
            await self._clock.sleep(self._source.interval_seconds)

    async def _ask(self, origin: Origin) -> None:
        """Ask what Coder tells to clients. Only here the token is sent, and no redirect is followed."""
        assert self._source.session_token is not None
        try:
            token = await read_token(self._source.session_token)
        except NoTokenError as error:
            # as good as none: who gives maps to everybody gives one all the same
            self._set_connection(_Outcome(off=OffReason.NO_TOKEN, refusal=Failure.of(error)), None)
            return
        exchange = await reach.get(
            origin,
            CONNECTION_PATH,
            deadline_seconds=self._clock.monotonic() + self._source.timeout_seconds,
            clock=self._clock,
            ca_file=self._source.ca_file,
            headers={coder_json.TOKEN_HEADER: token.reveal()},
            max_body_bytes=MAX_MAP_BYTES,
        )
        if exchange.error is not None or exchange.status != 200:
            self._set_connection(_judge_refusal(exchange, CONNECTION_PATH), exchange.status)
            return
        try:
            info = await _read_connection_info(exchange)
        except ProbeError as error:
            self._set_connection(_Outcome(failure=Failure.of(error)), exchange.status)
            return
        self._set_connection(_Outcome(), exchange.status)
        self._offer = _Offer(derp_map=info.derp_map, given_seconds=self._clock.monotonic())
        wishes = (info.force_websockets, info.direct_disabled)
        if wishes != (self._force_websockets, self._direct_disabled):
            self._force_websockets, self._direct_disabled = wishes
            self._tell()
        self._consider_offer()

    def _set_connection(self, outcome: _Outcome, status: int | None) -> None:
        """Note what the endpoint answered our token, and leave a trace where that has changed:
        while the socket gives maps nothing else would show it."""
        self._connection = outcome
        trouble = _say_trouble(outcome)
        told, self._told_trouble = self._told_trouble, None if trouble is None else (status, trouble.reason)
        if told == self._told_trouble:
            return
        if trouble is None:
            _log.info("connection.answered", deployment=self._source.deployment)
            return
        _log.warning(
            "connection.refused",
            deployment=self._source.deployment,
            status=status,
            reason=trouble.reason.value,
            detail=trouble.message,
            unknown=_WISHES if self._force_websockets is None and self._direct_disabled is None else "",
            outdated="" if self._force_websockets is None and self._direct_disabled is None else _WISHES,
        )

    # what all of it means

    def _consider_offer(self) -> None:
        """Take the map of the connection endpoint while the socket, which is fresher, gives none."""
        offer = self._offer
        if self._source.map_file is not None or self._primary is None or self._primary.good or offer is None:
            return
        if self._confirmed_seconds is None or offer.given_seconds >= self._confirmed_seconds:
            self._take(offer.derp_map, "connection", offer.given_seconds)

    def _take(self, derp_map: DerpMap, source: str, given_seconds: float) -> None:
        self._map_source = source
        self._confirmed_seconds = given_seconds
        if derp_map == self._map:
            return
        if self._latest is not None and derp_map != self._latest:
            self._changes += 1
            _log.info(
                "derp_map.changed",
                deployment=self._source.deployment,
                source=source,
                regions=len(derp_map.regions),
                nodes=sum(len(region.nodes) for region in derp_map.regions),
            )
        self._map = self._latest = derp_map
        self._tell()

    def _tell(self) -> None:
        if self._on_change is not None:
            self._on_change()

    def _sum_up(self) -> _Outcome:
        """Return what the sources come to together: one that gives a map is enough."""
        primary, other = self._primary, self._connection
        if primary is None or primary.good or primary.gave_map:
            return _Outcome()
        if self._source.map_file is not None or self._source.session_token is None:
            return primary
        if other is None:
            return _Outcome(failure=primary.failure)  # whether all is off is not known yet
        if other.good:
            return _Outcome()
        if primary.off is not None and other.failure is not None:
            return other
        return primary

    def _back_off(self) -> _BackOff:
        return _BackOff(self._first_retry_seconds, self._source.interval_seconds)


class _BackOff:
    """Pauses that grow, with jitter: a server that comes back is not met by all its clients at once."""

    def __init__(self, first_seconds: float, longest_seconds: float) -> None:
        self._least_seconds = first_seconds
        self._longest_seconds = longest_seconds

    def next_seconds(self) -> float:
        seconds = min(self._longest_seconds, self._least_seconds * random.uniform(1.0, 1.5))
        self._least_seconds = min(self._longest_seconds, 2 * self._least_seconds)
        return seconds


def _judge_refusal(exchange: http.Exchange, path: str) -> _Outcome:
    """Return what an answer without a map means. Source: coder-interfaces, section 2.8."""
    status = exchange.status
    if exchange.error is not None and status in (None, 101, 200):
        return _Outcome(failure=Failure.of(exchange.error))
    # Coder's own words are few; what is long is somebody's page
    said = coder_json.parse_error(exchange.body if len(exchange.body) <= _PARSE_AT_ONCE_BYTES else b"")
    detail = f": {said.message}" if said.message else ""
    kind = AuthError if status in (401, 403) else StatusError
    failure = Failure.of(kind(f"GET {path} answered status {status}{detail}", phase=Phase.PROCESSING))
    # its own trouble is no refusal: it cannot tell who is asking
    if status in (401, 403) and not said.internal:
        return _Outcome(off=OffReason.FORBIDDEN, refusal=failure)
    from_coder = said.unknown_route or (said.message != "" and coder_json.BUILD_VERSION_HEADER in exchange.headers)
    if status == 404 and from_coder:
        return _Outcome(off=OffReason.NOT_SUPPORTED, refusal=failure)
    return _Outcome(failure=failure)


def _say_trouble(outcome: _Outcome | None) -> Failure | None:
    return None if outcome is None else outcome.failure or outcome.refusal


async def _parse(parse: Callable[[bytes | str], _Parsed], data: bytes | str) -> _Parsed:
    """Return what `parse` makes of it, without holding up everything else.

    Raises:
        WireError: As `parse`.
    """
    return parse(data) if len(data) <= _PARSE_AT_ONCE_BYTES else await asyncio.to_thread(parse, data)


async def _read_connection_info(exchange: http.Exchange) -> ConnectionInfo:
    if exchange.body_truncated:
        raise ProtocolError(f"GET {CONNECTION_PATH} answered more than {MAX_MAP_BYTES} bytes", phase=Phase.TRANSFER)
    try:
        return await _parse(parse_connection_info, exchange.body)
    except WireError as error:
        text = f"GET {CONNECTION_PATH} answered no DERP map: {error}"
        raise ProtocolError(text, phase=Phase.TRANSFER, reason=Reason.BODY) from error


def _read_map(path: Path) -> DerpMap:
    """Return the map in a file. Blocks.

    Raises:
        OSError: It cannot be read.
        WireError: It holds no map.
    """
    # without waiting: a pipe that nobody writes to would hold a thread, and with it our end
    file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file")
        with os.fdopen(file, "rb", closefd=False) as stream:
            data = stream.read(MAX_MAP_BYTES + 1)
    finally:
        os.close(file)
    if len(data) > MAX_MAP_BYTES:
        raise WireError(f"it is longer than {MAX_MAP_BYTES} bytes")
    return parse_derp_map(data)
