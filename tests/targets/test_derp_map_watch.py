"""The DERP map as it is watched: from real websockets on loopback, the connection endpoint and files."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Self

import pytest
from aiohttp import WSMsgType, web
from structlog.testing import capture_logs

from exporter.clock import Clock, SystemClock
from exporter.errors import Phase, Reason
from exporter.health.model import Failure, OffReason
from exporter.secret import Secret
from exporter.targets.derp_map_watch import (
    CONNECTION_PATH,
    DERP_MAP_PATH,
    LASTING_SECONDS,
    MAX_MAP_BYTES,
    DerpMapWatch,
    MapState,
)
from exporter.targets.model import AccessURL, DerpMapSource, SessionToken
from exporter.wire.derp_map import DerpMap, parse_connection_info, parse_derp_map
from tests.support.certificates import Authority
from tests.support.clock import FakeClock
from tests.support.raw_http import RawServer, hang, json_response, response

DATA = Path(__file__).parents[1] / "data" / "coder"
TOKEN = Secret("abcdefghij-0123456789012345678901")
REAL_MAP = (DATA / "derp-map-socket.json").read_bytes()
REAL_CONNECTION = (DATA / "connection-member.json").read_bytes()
INTERVAL_SECONDS = 60.0


def make_map(*region_ids: int) -> bytes:
    """A map with an empty region for each id."""
    return json.dumps({"Regions": {str(each): {"RegionID": each, "Nodes": []} for each in region_ids}}).encode()


def make_connection(derp_map: bytes, *, force_websockets: bool = False, direct_disabled: bool = False) -> bytes:
    return json.dumps(
        {
            "derp_map": json.loads(derp_map),
            "derp_force_websockets": force_websockets,
            "disable_direct_connections": direct_disabled,
        }
    ).encode()


def ids(state: MapState) -> list[int]:
    assert state.derp_map is not None
    return [region.region_id for region in state.derp_map.regions]


class MapServer:
    """A server with the two endpoints; what they say may change while it runs.

    Args:
        derp_map: What the socket says first; None: the endpoint answers 503.
        connection: What the connection endpoint answers; None: 503.
    """

    def __init__(
        self, derp_map: bytes | str | None = REAL_MAP, connection: bytes | None = None, *, port: int = 0
    ) -> None:
        self.derp_map = derp_map
        self.connection = connection
        self.port = port
        self.socket_headers: list[dict[str, str]] = []
        self.connection_headers: list[dict[str, str]] = []
        self.close_codes: list[int | None] = []
        self.pongs = 0
        self._open: list[tuple[web.WebSocketResponse, web.Request]] = []
        self._happened = asyncio.Condition()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.add_routes([web.get(DERP_MAP_PATH, self._give_maps), web.get(CONNECTION_PATH, self._give_connection)])
        self._runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port)
        await site.start()
        self.port = self._runner.addresses[0][1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self.cut()
        await self._runner.cleanup()

    @property
    def open_sockets(self) -> int:
        return len(self._open)

    def cut(self) -> None:
        """Break every socket, as the end of a process does."""
        for _socket, request in self._open:
            if request.transport is not None:
                request.transport.abort()

    async def say_goodbye(self) -> None:
        """Close the one socket that is open, in good order."""
        await self._open[0][0].close(code=1001, message=b"going")

    async def push(self, message: bytes | str) -> None:
        """Say something on every socket; who comes later hears it first."""
        self.derp_map = message
        for socket, _request in self._open:
            await _send(socket, message)

    async def ping(self) -> None:
        """Ping the one socket that is open, and wait for its answer."""
        pongs = self.pongs
        await self._open[0][0].ping()
        await self.until(lambda: self.pongs > pongs)

    async def until(self, happened: Callable[[], bool]) -> None:
        """Return when something that this server sees has happened."""
        async with asyncio.timeout(10), self._happened:
            await self._happened.wait_for(happened)

    async def _note(self) -> None:
        async with self._happened:
            self._happened.notify_all()

    async def _give_maps(self, request: web.Request) -> web.StreamResponse:
        self.socket_headers.append(_lower(request))
        if self.derp_map is None:
            await self._note()
            return web.Response(status=503, text="no server here")
        socket = web.WebSocketResponse(autoping=False, compress=False)
        await socket.prepare(request)
        entry = (socket, request)
        self._open.append(entry)
        try:
            if self.derp_map:
                await _send(socket, self.derp_map)
            await self._note()
            async for message in socket:
                self.pongs += message.type is WSMsgType.PONG
                await self._note()
        finally:
            self._open.remove(entry)
            self.close_codes.append(socket.close_code)
            await self._note()
        return socket

    async def _give_connection(self, request: web.Request) -> web.Response:
        self.connection_headers.append(_lower(request))
        await self._note()
        if self.connection is None:
            return web.Response(status=503)
        return web.Response(body=self.connection, content_type="application/json")


def _lower(request: web.Request) -> dict[str, str]:
    return {name.lower(): value for name, value in request.headers.items()}


async def _send(socket: web.WebSocketResponse, message: bytes | str) -> None:
    with suppress(ConnectionError):  # who does not want it leaves
        if isinstance(message, str):
            await socket.send_str(message)
        else:
            await socket.send_bytes(message)


class PausingClock(FakeClock):
    """A clock that stands still and tells which pauses were begun."""

    def __init__(self) -> None:
        super().__init__()
        self.pauses: list[float] = []
        self._began = asyncio.Condition()

    async def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        async with self._began:
            self._began.notify_all()
        await super().sleep(seconds)

    async def until_paused(self, count: int) -> None:
        """Return when so many pauses were begun in all."""
        async with asyncio.timeout(10), self._began:
            await self._began.wait_for(lambda: len(self.pauses) >= count)


class Notices:
    """Keeps what a watch said each time that it called."""

    def __init__(self) -> None:
        self.watch: DerpMapWatch
        self.states: list[MapState] = []
        self._came = asyncio.Event()

    def __call__(self) -> None:
        self.states.append(self.watch.state)
        self._came.set()

    async def until(self, count: int) -> None:
        async with asyncio.timeout(10):
            while len(self.states) < count:
                self._came.clear()
                await self._came.wait()


def make_source(url: str = "", **more: Any) -> DerpMapSource:
    settings = {
        "access_url": AccessURL(url=url or "http://127.0.0.1:1"),
        "interval_seconds": INTERVAL_SECONDS,
        "timeout_seconds": 5.0,
    }
    return DerpMapSource(deployment="prod", **(settings | more))


def make_watch(source: DerpMapSource, clock: Clock, **more: Any) -> tuple[DerpMapWatch, Notices]:
    notices = Notices()
    notices.watch = DerpMapWatch(source, clock=clock, on_change=notices, **more)
    return notices.watch, notices


async def refresh(url: str = "", **more: Any) -> MapState:
    watch = DerpMapWatch(make_source(url, **more), clock=SystemClock())
    await watch.refresh()
    return watch.state


@asynccontextmanager
async def serving(watch: DerpMapWatch) -> AsyncIterator[None]:
    task = asyncio.create_task(watch.serve())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


# ---- once


async def test_before_any_attempt_nothing_is_known() -> None:
    """A new watch has no map, no failure, and is not off."""
    watch, _ = make_watch(make_source(), SystemClock())
    assert MapState() == watch.state


async def test_the_first_message_is_the_map() -> None:
    """One look takes the first message of the open socket, without any token, and says goodbye."""
    async with MapServer() as server:
        state = await refresh(server.url, session_token=None)
        await server.until(lambda: bool(server.close_codes))
    assert parse_derp_map(REAL_MAP) == state.derp_map
    assert ("socket", None, None, 0) == (state.source, state.failure, state.off, state.changes)
    assert (None, None) == (state.force_websockets, state.direct_disabled)
    assert state.confirmed_monotonic_seconds is not None
    assert [1001] == server.close_codes


async def test_a_text_message_is_a_map_too() -> None:
    """The form of the message is the server's choice."""
    async with MapServer(make_map(7).decode()) as server:
        assert [7] == ids(await refresh(server.url))


async def test_a_map_of_nearly_four_mebibytes_is_taken() -> None:
    """The cap is far above what a real map needs, and holds for the whole way to it."""
    members = {str(number): {"Nodes": [], "RegionName": "x" * 8100} for number in range(1, 501)}
    data = json.dumps({"Regions": members}).encode()
    assert MAX_MAP_BYTES - 300_000 < len(data) < MAX_MAP_BYTES
    async with MapServer(data) as server:
        assert 500 == len(ids(await refresh(server.url)))


async def test_over_tls(tmp_path: Path) -> None:
    """The CA file counts for the socket and for the connection endpoint."""
    authority = Authority(tmp_path)
    answers = {CONNECTION_PATH: json_response(make_connection(make_map(7), force_websockets=True).decode())}
    async with RawServer(answers, ssl_context=authority.serve("127.0.0.1")) as server:
        state = await refresh(server.url, session_token=SessionToken(token=TOKEN), ca_file=authority.ca_file)
        untrusted = await refresh(server.url)
    assert ([7], "connection", True) == (ids(state), state.source, state.force_websockets)
    assert untrusted.failure is not None
    assert (Reason.TLS, Phase.TLS) == (untrusted.failure.reason, untrusted.failure.phase)


async def test_the_token_goes_to_the_connection_endpoint_only() -> None:
    """The socket stays anonymous; what the deployment wants of its clients is told to a member."""
    async with MapServer(connection=REAL_CONNECTION) as server:
        state = await refresh(server.url, session_token=SessionToken(token=TOKEN))
    assert ("socket", False, False) == (state.source, state.force_websockets, state.direct_disabled)
    assert [TOKEN.reveal()] == [headers["coder-session-token"] for headers in server.connection_headers]
    assert 1 == len(server.socket_headers)
    assert TOKEN.reveal() not in str(server.socket_headers)


async def test_no_redirect_carries_the_token_away() -> None:
    """Where an answer points to is never asked."""
    async with RawServer({"/": response(200)}) as thief, RawServer() as server:
        server.answers[CONNECTION_PATH] = response(302, Location=thief.url)
        server.answers[DERP_MAP_PATH] = response(302, Location=thief.url)
        state = await refresh(server.url, session_token=SessionToken(token=TOKEN))
        assert 0 == thief.connections
        headers = dict(zip(server.asked, server.headers, strict=True))
    assert TOKEN.reveal() not in str(headers[DERP_MAP_PATH])
    assert state.failure is not None
    assert Reason.STATUS is state.failure.reason


SIGNED_OUT = json_response('{"message": "You are signed out or your session has expired. Please sign in."}', status=401)
INTERNAL = json_response('{"message": "An internal error occurred. Please try again."}', status=401)
FORBIDDEN = json_response('{"message": "Forbidden."}', status=403)
UNKNOWN_ROUTE = json_response('{"message": "Route not found."}', status=404)


@pytest.mark.parametrize(
    ("answer", "off"),
    [
        (SIGNED_OUT, OffReason.FORBIDDEN),
        (FORBIDDEN, OffReason.FORBIDDEN),
        (response(403, b"not from here"), OffReason.FORBIDDEN),
        (UNKNOWN_ROUTE, OffReason.NOT_SUPPORTED),
        (
            json_response('{"message": "Nothing here."}', status=404, X_Coder_Build_Version="v2"),
            OffReason.NOT_SUPPORTED,
        ),
    ],
)
async def test_a_socket_that_is_refused_in_good_order_is_off(answer: bytes, off: OffReason) -> None:
    """A refusal, or a server that does not know the path, is no failure where there is no other source."""
    async with RawServer({DERP_MAP_PATH: answer}) as server:
        state = await refresh(server.url)
    assert MapState(off=off) == state


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (INTERNAL, Reason.AUTH),
        (response(404, b"<html>no such page</html>"), Reason.STATUS),
        (json_response('{"message": "Not Found"}', status=404), Reason.STATUS),
        (response(200, b"<html>Sign in</html>"), Reason.STATUS),
        (response(302, Location="/login"), Reason.STATUS),
        (response(426, b"Upgrade Required"), Reason.STATUS),
        (response(503), Reason.STATUS),
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", Reason.PROTOCOL),
        (b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: chat\r\nConnection: Upgrade\r\n\r\n", Reason.PROTOCOL),
        (b"", Reason.PROTOCOL),
    ],
)
async def test_an_answer_that_is_no_socket_is_a_failure(answer: bytes, reason: Reason) -> None:
    """Coder's own trouble, intermediaries and strangers are failures, and never off."""
    async with RawServer({DERP_MAP_PATH: answer}) as server:
        state = await refresh(server.url)
    assert state.failure is not None
    assert (reason, None, None, "") == (state.failure.reason, state.off, state.derp_map, state.source)
    assert state.confirmed_monotonic_seconds is None


async def test_a_status_is_told_with_what_was_said() -> None:
    """The failure names path, status and Coder's words."""
    async with RawServer({DERP_MAP_PATH: INTERNAL}) as server:
        state = await refresh(server.url)
    assert state.failure is not None
    assert (
        "GET /api/v2/derp-map answered status 401: An internal error occurred. Please try again."
        == state.failure.message
    )


async def test_nobody_there_and_nobody_answering() -> None:
    """A closed port is refused; silence is a timeout, before the upgrade and after it."""
    async with RawServer({DERP_MAP_PATH: hang}) as server, MapServer("") as speechless:
        states = [
            await refresh("http://127.0.0.1:1"),
            await refresh(server.url, timeout_seconds=1.0),
            await refresh(speechless.url, timeout_seconds=1.0),
        ]
    failures = [state.failure for state in states if state.failure is not None]
    assert [
        (Reason.REFUSED, Phase.CONNECT),
        (Reason.TIMEOUT, Phase.PROCESSING),
        (Reason.TIMEOUT, Phase.TRANSFER),
    ] == [(failure.reason, failure.phase) for failure in failures]


@pytest.mark.parametrize(
    ("message", "reason", "words"),
    [
        (b"hello", Reason.BODY, "no DERP map: it is not JSON"),
        (b"{}", Reason.BODY, "no DERP map: Regions is missing"),
        (b"\xff\xfe", Reason.BODY, "no DERP map: it is not UTF-8"),
        (b"[" * 100_000, Reason.BODY, "no DERP map"),
        (b" " * (MAX_MAP_BYTES + 1), Reason.PROTOCOL, "above 4194304 bytes"),
    ],
)
async def test_a_message_that_is_no_map_is_a_failure(message: bytes, reason: Reason, words: str) -> None:
    """Rubbish and what is far too long end the socket, with a failure that says so."""
    async with MapServer(message) as server:
        state = await refresh(server.url)
        await server.until(lambda: bool(server.close_codes))
    assert state.failure is not None
    assert (reason, Phase.TRANSFER, None) == (state.failure.reason, state.failure.phase, state.derp_map)
    assert words in state.failure.message


@pytest.mark.parametrize(
    ("socket", "connection", "off", "reason"),
    [
        (FORBIDDEN, SIGNED_OUT, OffReason.FORBIDDEN, None),
        (UNKNOWN_ROUTE, UNKNOWN_ROUTE, OffReason.NOT_SUPPORTED, None),
        (FORBIDDEN, INTERNAL, None, Reason.AUTH),
        (FORBIDDEN, response(502), None, Reason.STATUS),
        (FORBIDDEN, json_response("{}"), None, Reason.BODY),
        (FORBIDDEN, json_response("x" * (MAX_MAP_BYTES + 1)), None, Reason.PROTOCOL),
        (response(200, b"page"), FORBIDDEN, None, Reason.STATUS),
        (b"", response(500), None, Reason.PROTOCOL),
    ],
)
async def test_two_sources_without_a_map(
    socket: bytes, connection: bytes, off: OffReason | None, reason: Reason | None
) -> None:
    """Off is only what both refuse in good order; else the one that is in trouble is told."""
    async with RawServer({DERP_MAP_PATH: socket, CONNECTION_PATH: connection}) as server:
        state = await refresh(server.url, session_token=SessionToken(token=TOKEN))
    assert (off, reason) == (state.off, None if state.failure is None else state.failure.reason)
    assert state.derp_map is None


async def test_a_refused_socket_is_not_off_before_the_other_source_has_answered() -> None:
    """While the connection endpoint may still give a map, nobody can say that there is none for us."""
    async with RawServer({DERP_MAP_PATH: FORBIDDEN, CONNECTION_PATH: hang}) as server:
        watch, _ = make_watch(make_source(server.url, session_token=SessionToken(token=TOKEN)), PausingClock())
        async with serving(watch), asyncio.timeout(10):
            # it asks anew when the socket has been refused
            await server.wait_until_asked(CONNECTION_PATH, 2)
            assert MapState() == watch.state


@pytest.mark.parametrize("socket", [FORBIDDEN, UNKNOWN_ROUTE, INTERNAL, response(426), b""])
async def test_the_connection_endpoint_steps_in(socket: bytes) -> None:
    """Without a socket a member's map is as good as any: no failure, not off."""
    answers = {DERP_MAP_PATH: socket, CONNECTION_PATH: json_response(REAL_CONNECTION.decode())}
    async with RawServer(answers) as server:
        state = await refresh(server.url, session_token=SessionToken(token=TOKEN))
    assert parse_derp_map(REAL_MAP) == state.derp_map
    assert ("connection", None, None, False) == (state.source, state.failure, state.off, state.force_websockets)


@pytest.mark.parametrize("connection", [None, b"{}", b'{"derp_map": 3}'])
async def test_a_socket_that_works_is_enough(connection: bytes | None) -> None:
    """What the connection endpoint fails of is no failure of the map."""
    async with MapServer(connection=connection) as server:
        state = await refresh(server.url, session_token=SessionToken(token=TOKEN))
    assert ("socket", None, None, None) == (state.source, state.failure, state.off, state.force_websockets)
    assert state.connection_failure is not None


async def test_a_map_is_kept_when_its_source_fails() -> None:
    """The last good map stays, with when it was confirmed; the failure says why it is old."""
    clock = PausingClock()
    async with MapServer() as server:
        watch, notices = make_watch(make_source(server.url), clock)
        await watch.refresh()
        good = watch.state
        await clock.advance(10.0)
        server.derp_map = None
        await watch.refresh()
        kept = watch.state
    assert (good.derp_map, "socket", 0.0) == (kept.derp_map, kept.source, kept.confirmed_monotonic_seconds)
    assert kept.failure is not None
    assert Reason.STATUS is kept.failure.reason
    assert 1 == len(notices.states)


async def test_a_change_between_two_looks_is_counted() -> None:
    """Another value is a change, other bytes of the same value are none."""
    async with MapServer(make_map(7, 8)) as server:
        watch, notices = make_watch(make_source(server.url), SystemClock())
        for derp_map in (make_map(7, 8), make_map(8, 7), make_map(9)):
            server.derp_map = derp_map
            await watch.refresh()
        assert ([9], 1) == (ids(watch.state), watch.state.changes)
    assert [[7, 8], [9]] == [ids(state) for state in notices.states]


# ---- files


def write(path: Path, data: bytes | None) -> None:
    """Replace a file, or take it away."""
    if data is None:
        path.unlink()
    else:
        path.write_bytes(data)


@pytest.fixture
def map_file(tmp_path: Path) -> Path:
    path = tmp_path / "map.json"
    path.write_bytes(make_map(7))
    return path


async def test_a_file_takes_the_place_of_the_server(map_file: Path) -> None:
    """With a map of our own nobody is asked."""
    async with RawServer() as server:
        state = await refresh(server.url, map_file=map_file)
        assert 0 == server.connections
    assert ([7], "file", None, None) == (ids(state), state.source, state.failure, state.off)


async def test_a_file_and_a_token(map_file: Path) -> None:
    """The map is the file's; what is wanted of clients is still the server's to say, if it can."""
    async with MapServer(connection=make_connection(make_map(8), direct_disabled=True)) as server:
        state = await refresh(server.url, map_file=map_file, session_token=SessionToken(token=TOKEN))
        assert ([7], "file", False, True) == (
            ids(state),
            state.source,
            state.force_websockets,
            state.direct_disabled,
        )
        assert [] == server.socket_headers
        server.connection = None
        state = await refresh(server.url, map_file=map_file, session_token=SessionToken(token=TOKEN))
        assert ([7], None, None) == (ids(state), state.failure, state.off)


@pytest.mark.parametrize("what", ["missing", "directory", "rubbish", "too long"])
async def test_a_file_without_a_map(tmp_path: Path, what: str) -> None:
    """Each way in which a file gives no map is a failure without its path."""
    path = tmp_path / "map.json"
    if what == "directory":
        path.mkdir()
    elif what != "missing":
        path.write_bytes(b"Regions:" if what == "rubbish" else b" " * (MAX_MAP_BYTES + 1))
    state = await refresh(map_file=path, session_token=None)
    assert state.failure is not None
    assert (Reason.BODY if path.is_file() else Reason.RESOLVE) is state.failure.reason
    assert str(tmp_path) not in state.failure.message
    assert None is state.off


async def test_a_file_is_read_again(map_file: Path) -> None:
    """Each interval the file may have become another map, or unreadable, which keeps the last one."""
    clock = PausingClock()
    watch, notices = make_watch(make_source(map_file=map_file), clock)
    async with serving(watch):
        await clock.until_paused(1)
        write(map_file, make_map(7, 8))
        await clock.advance(INTERVAL_SECONDS)
        await clock.until_paused(2)
        changed = watch.state
        write(map_file, None)
        await clock.advance(INTERVAL_SECONDS)
        await clock.until_paused(3)
        kept = watch.state
        write(map_file, make_map(7, 8))
        await clock.advance(INTERVAL_SECONDS)
        await clock.until_paused(4)
        again = watch.state
    assert ([7, 8], 1, None, INTERVAL_SECONDS) == (
        ids(changed),
        changed.changes,
        changed.failure,
        changed.confirmed_monotonic_seconds,
    )
    assert kept.failure is not None
    assert ([7, 8], "file", Reason.RESOLVE, INTERVAL_SECONDS) == (
        ids(kept),
        kept.source,
        kept.failure.reason,
        kept.confirmed_monotonic_seconds,
    )
    assert (None, 1, 3 * INTERVAL_SECONDS) == (again.failure, again.changes, again.confirmed_monotonic_seconds)
    assert [[7], [7, 8]] == [ids(state) for state in notices.states]


# ---- a socket that stays open


async def test_a_pushed_map_is_seen_at_once() -> None:
    """Each message is the map from then on; the same value again is no change."""
    async with MapServer(make_map(7, 8)) as server:
        watch, notices = make_watch(make_source(server.url), PausingClock())
        async with serving(watch):
            await notices.until(1)
            await server.push(make_map(8, 7))
            await server.push(make_map(7))
            await notices.until(2)
            state = watch.state
        await server.until(lambda: server.open_sockets == 0)
    assert ([7], 1, None) == (ids(state), state.changes, state.failure)
    assert 2 == len(notices.states)
    assert 1 == len(server.socket_headers)


async def test_a_server_that_dies_and_comes_back() -> None:
    """The map is kept with its failure; retries come with growing pauses; then all is well again."""
    clock = PausingClock()
    async with MapServer(make_map(7)) as server:
        watch, notices = make_watch(make_source(server.url), clock)
        async with serving(watch):
            await notices.until(1)
            server.derp_map = None
            server.cut()
            for attempt in range(1, 9):
                await clock.until_paused(attempt)
                dead = watch.state
                # that it ended is no failure yet: the first attempt that gives no map is
                assert (attempt > 1) == (dead.failure is not None)
                assert ([7], "socket", None, 0.0) == (
                    ids(dead),
                    dead.source,
                    dead.off,
                    dead.confirmed_monotonic_seconds,
                )
                server.derp_map = make_map(7, 8) if attempt == 8 else None
                await clock.advance(clock.pauses[-1])
            await notices.until(2)
            back = watch.state
    assert (None, 1, [7, 8]) == (back.failure, back.changes, ids(back))
    assert 9 == len(server.socket_headers)
    least = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0]
    assert [(floor, True) for floor in least] == [
        (floor, floor <= pause <= min(1.5 * floor, 60.0)) for floor, pause in zip(least, clock.pauses, strict=True)
    ]


async def test_a_socket_that_lasted_is_opened_again_soon() -> None:
    """Pauses grow only while sockets do not last."""
    clock = PausingClock()
    async with MapServer(make_map(7)) as server:
        watch, notices = make_watch(make_source(server.url), clock, silent_after_seconds=1e6)
        async with serving(watch):
            for attempt in range(1, 4):
                await server.until(lambda: server.open_sockets == 1)
                await notices.until(1)
                server.cut()
                await server.until(lambda: server.open_sockets == 0)
                await clock.until_paused(attempt)
                await clock.advance(clock.pauses[-1])
            await server.until(lambda: server.open_sockets == 1)
            await server.push(make_map(8))
            await notices.until(2)
            await clock.advance(2 * INTERVAL_SECONDS)
            server.cut()
            await clock.until_paused(4)
    assert clock.pauses[2] >= 4.0
    assert clock.pauses[3] <= 1.5


async def test_a_socket_that_is_cut_regularly_is_no_failure() -> None:
    """Where something limits how long a socket lives, each gives the map again: soon, and nobody sees a failure."""
    clock = PausingClock()
    async with MapServer(make_map(7)) as server:
        watch, notices = make_watch(make_source(server.url), clock, silent_after_seconds=1e6)
        states = []
        async with serving(watch):
            await notices.until(1)
            for attempt in range(1, 7):
                await server.until(lambda: server.open_sockets == 1)
                await server.ping()
                await clock.advance(30.0)
                server.cut()
                await clock.until_paused(attempt)
                states.append(watch.state)
                await clock.advance(clock.pauses[-1])
    assert [(None, None, [7])] * 6 == [(state.failure, state.off, ids(state)) for state in states]
    assert all(1.0 <= pause <= 1.5 for pause in clock.pauses)


async def test_a_server_that_ends_each_socket_at_once_is_not_hammered() -> None:
    """It gives its map and so does not fail, but is asked more and more seldom."""
    clock = PausingClock()
    async with MapServer(make_map(7)) as server:
        watch, notices = make_watch(make_source(server.url), clock, silent_after_seconds=1e6)
        async with serving(watch):
            await notices.until(1)
            for attempt in range(1, 8):
                await server.until(lambda: server.open_sockets == 1)
                await server.ping()
                await clock.advance(LASTING_SECONDS / 2)
                server.cut()
                await clock.until_paused(attempt)
                assert None is watch.state.failure
                await clock.advance(clock.pauses[-1])
    assert [True] * 7 == [pause >= floor for pause, floor in zip(clock.pauses, (1, 2, 4, 8, 16, 32, 60), strict=True)]


async def test_what_others_do_goes_on_while_a_great_map_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Maps above 64 KiB are parsed off the loop, from the socket and from the connection endpoint; small ones on it."""
    threads: list[bool] = []

    def note_thread(parse: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def noting(data: Any) -> Any:
            threads.append(threading.current_thread() is threading.main_thread())
            return parse(data)

        return noting

    for parse in (parse_derp_map, parse_connection_info):
        monkeypatch.setattr(f"exporter.targets.derp_map_watch.{parse.__name__}", note_thread(parse))
    great = json.dumps({"Regions": {"7": {"Nodes": [1] * 100_000}}}).encode()
    for derp_map, on_loop in ((great, False), (make_map(7), True)):
        threads.clear()
        async with MapServer(derp_map, make_connection(derp_map)) as server:
            assert [7] == ids(await refresh(server.url, session_token=SessionToken(token=TOKEN)))
        assert [on_loop, on_loop] == threads


async def test_a_goodbye_is_a_failure_when_nobody_comes_after() -> None:
    """A server that shuts down in good order has given its map; whether another one does is told by the next try."""
    clock = PausingClock()
    async with MapServer(make_map(7)) as server:
        watch, notices = make_watch(make_source(server.url), clock)
        async with serving(watch):
            await notices.until(1)
            server.derp_map = None
            await server.say_goodbye()
            await clock.until_paused(1)
            left = watch.state
            await clock.advance(clock.pauses[-1])
            await clock.until_paused(2)
            gone = watch.state
            server.derp_map = make_map(7)
            await clock.advance(clock.pauses[-1])
            await server.until(lambda: server.open_sockets == 1)
            await server.push(make_map(8))
            await notices.until(2)
    assert (None, [7]) == (left.failure, ids(left))
    assert gone.failure is not None
    assert (Reason.STATUS, [7]) == (gone.failure.reason, ids(gone))
    assert (None, [8]) == (watch.state.failure, ids(watch.state))


async def test_silence_ends_a_socket() -> None:
    """A socket on which not even a ping comes is given up and opened anew; one that is mute then is a failure."""
    clock = PausingClock()
    async with MapServer(make_map(7)) as server:
        source = make_source(server.url, timeout_seconds=1.0)
        watch, notices = make_watch(source, clock, silent_after_seconds=0.1)
        async with serving(watch):
            await notices.until(1)
            server.derp_map = ""
            await clock.advance(0.1)
            await clock.until_paused(1)
            left = watch.state
            await server.until(lambda: server.open_sockets == 0)
            await clock.advance(clock.pauses[-1])
            await clock.until_paused(2)
            dead = watch.state
    assert (None, [7]) == (left.failure, ids(left))
    assert dead.failure is not None
    assert (Reason.TIMEOUT, Phase.TRANSFER, [7]) == (dead.failure.reason, dead.failure.phase, ids(dead))
    assert 2 == len(server.socket_headers)


async def test_pings_keep_a_socket_alive_and_confirm_the_map() -> None:
    """Any sign of life counts: a server without news is not dead, and its map is not old."""
    clock = PausingClock()
    async with MapServer(make_map(7)) as server:
        watch, notices = make_watch(make_source(server.url), clock, silent_after_seconds=0.1)
        async with serving(watch):
            await notices.until(1)
            for _ in range(4):
                await clock.advance(0.0625)
                await server.ping()
            alive = watch.state
            await server.push(make_map(8))
            await notices.until(2)
    assert (0.25, None) == (alive.confirmed_monotonic_seconds, alive.failure)
    assert 1 == len(server.socket_headers)
    assert [] == clock.pauses


@pytest.mark.parametrize(
    ("message", "attempts", "reason"), [(b"{}", 1, Reason.BODY), (b" " * (MAX_MAP_BYTES + 1), 2, Reason.PROTOCOL)]
)
async def test_rubbish_later_on_ends_the_socket_and_keeps_the_map(
    message: bytes, attempts: int, reason: Reason
) -> None:
    """A message that is no map is a failure at once, one that is too long when the next socket gives it too."""
    clock = PausingClock()
    async with MapServer(make_map(7)) as server:
        watch, notices = make_watch(make_source(server.url), clock)
        async with serving(watch):
            await notices.until(1)
            await server.push(message)
            await clock.until_paused(1)
            for attempt in range(2, attempts + 1):
                assert watch.state.failure is None
                await clock.advance(clock.pauses[-1])
                await clock.until_paused(attempt)
            bad = watch.state
            await server.until(lambda: server.open_sockets == 0)
            server.derp_map = make_map(8)
            await clock.advance(clock.pauses[-1])
            await notices.until(2)
    assert bad.failure is not None
    assert (reason, [7], 0) == (bad.failure.reason, ids(bad), bad.changes)
    assert (None, [8]) == (watch.state.failure, ids(watch.state))


async def test_cancelling_closes_the_socket() -> None:
    """Nothing stays open when the watch ends."""
    async with MapServer(make_map(7)) as server:
        watch, notices = make_watch(make_source(server.url), PausingClock())
        async with serving(watch):
            await notices.until(1)
            assert 1 == server.open_sockets
        await server.until(lambda: server.open_sockets == 0)
    assert [7] == ids(watch.state)


async def test_cancelling_amid_the_handshake_closes_the_connection() -> None:
    """A server that does not answer the upgrade is left at once."""
    left = asyncio.Event()

    async def wait(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        left.set()

    async with RawServer({DERP_MAP_PATH: wait}) as server:
        watch, _ = make_watch(make_source(server.url), PausingClock())
        async with serving(watch):
            await server.wait_until_asked(DERP_MAP_PATH)
        async with asyncio.timeout(10):
            assert await left.wait()


async def test_what_clients_shall_do_is_asked_each_interval() -> None:
    """A change of it is told at once, and is no change of the map."""
    clock = PausingClock()
    async with MapServer(make_map(7), make_connection(make_map(7))) as server:
        watch, notices = make_watch(
            make_source(server.url, session_token=SessionToken(token=TOKEN)), clock, silent_after_seconds=1e6
        )
        async with serving(watch):
            await notices.until(2)
            await clock.until_paused(1)
            before = watch.state
            server.connection = make_connection(make_map(8), force_websockets=True)
            await clock.advance(INTERVAL_SECONDS)
            await notices.until(3)
            after = watch.state
            server.connection = None
            await clock.until_paused(2)
            await clock.advance(INTERVAL_SECONDS)
            await clock.until_paused(3)
    assert (False, True) == (before.force_websockets, after.force_websockets)
    assert ([7], "socket", 0) == (ids(after), after.source, after.changes)
    assert (True, None) == (watch.state.force_websockets, watch.state.failure)
    assert 3 == len(server.connection_headers)


@pytest.mark.parametrize(
    ("answer", "status", "reason", "words"),
    [
        (SIGNED_OUT, 401, Reason.AUTH, "You are signed out"),
        (FORBIDDEN, 403, Reason.AUTH, "status 403: Forbidden."),
        (INTERNAL, 401, Reason.AUTH, "An internal error occurred"),
        (UNKNOWN_ROUTE, 404, Reason.STATUS, "Route not found."),
        (response(502, b"x" * 100_000), 502, Reason.STATUS, "GET /api/v2/workspaceagents/connection answered"),
        (json_response("{}"), 200, Reason.BODY, "no DERP map"),
        (b"", None, Reason.PROTOCOL, ""),
    ],
)
async def test_a_token_that_is_refused_leaves_a_trace(
    answer: bytes, status: int | None, reason: Reason, words: str
) -> None:
    """The map is none the worse, so the log says it: once, what is not known of it, and when it works again."""
    good = json_response(make_connection(make_map(7), force_websockets=True).decode())
    async with RawServer({CONNECTION_PATH: answer}) as raw:
        raw.answers[DERP_MAP_PATH] = FORBIDDEN
        watch, _ = make_watch(make_source(raw.url, session_token=SessionToken(token=TOKEN)), SystemClock())
        with capture_logs() as lines:
            await watch.refresh()
            await watch.refresh()
            refused = watch.state.connection_failure
            raw.answers[CONNECTION_PATH] = good
            await watch.refresh()
            await watch.refresh()
            answered = watch.state.connection_failure
            raw.answers[CONNECTION_PATH] = answer
            await watch.refresh()
    assert isinstance(refused, Failure)
    assert (reason, None) == (refused.reason, answered)
    assert words in refused.message
    wishes = "derp_force_websockets, disable_direct_connections"
    assert [
        ("connection.refused", "warning", status, reason.value, wishes, ""),
        ("connection.answered", "info", None, None, None, None),
        ("connection.refused", "warning", status, reason.value, "", wishes),
    ] == [
        (
            line["event"],
            line["log_level"],
            *(line.get(key) for key in ("status", "reason", "unknown", "outdated")),
        )
        for line in lines
    ]
    assert TOKEN.reveal() not in str(lines)


async def test_a_token_file_may_change_under_us(tmp_path: Path) -> None:
    """A rotated token is used at once; one that is no good is told, and as good as none for the map."""
    path = tmp_path / "token"
    path.write_text(TOKEN.reveal())
    async with MapServer(make_map(7), make_connection(make_map(7), force_websockets=True)) as server:
        watch, _ = make_watch(make_source(server.url, session_token=SessionToken(token_file=path)), SystemClock())
        for text in (TOKEN.reveal(), "zyxwvutsrq-1098765432109876543210", "", "hunter 2"):
            path.write_text(text)
            await watch.refresh()
            assert ([7], None, None) == (ids(watch.state), watch.state.failure, watch.state.off)
        trouble = watch.state.connection_failure
        assert isinstance(trouble, Failure)
        assert (Reason.AUTH, True) == (trouble.reason, "holds no token" in trouble.message)
        path.unlink()
        server.derp_map = None
        await watch.refresh()
        assert watch.state.failure is not None
        assert "the file of the session token" not in watch.state.failure.message
        path.write_text(TOKEN.reveal())
        await watch.refresh()
        assert ([7], None, None) == (ids(watch.state), watch.state.failure, watch.state.connection_failure)
    tokens = [headers["coder-session-token"] for headers in server.connection_headers]
    assert [TOKEN.reveal(), "zyxwvutsrq-1098765432109876543210", TOKEN.reveal()] == tokens


async def test_a_token_file_that_is_no_good_makes_no_outage_of_a_closed_socket(tmp_path: Path) -> None:
    """Where the socket is not for strangers the section is off, as without any token."""
    async with RawServer({DERP_MAP_PATH: FORBIDDEN}) as server:
        state = await refresh(server.url, session_token=SessionToken(token_file=tmp_path / "gone"))
    assert (OffReason.FORBIDDEN, None) == (state.off, state.failure)
    assert state.connection_failure is not None


async def test_the_connection_endpoint_serves_while_the_socket_does_not() -> None:
    """Its map is taken when the socket ends, and the socket's again when it is back."""
    clock = PausingClock()
    async with MapServer(make_map(7), make_connection(make_map(7))) as server:
        watch, notices = make_watch(make_source(server.url, session_token=SessionToken(token=TOKEN)), clock)
        async with serving(watch):
            await notices.until(2)
            await clock.until_paused(1)
            server.derp_map, server.connection = None, make_connection(make_map(7, 8))
            server.cut()
            await clock.until_paused(2)
            stepped_in = watch.state
            server.derp_map = make_map(9)
            await clock.advance(clock.pauses[-1])
            await notices.until(4)
            back = watch.state
    assert ([7, 8], "connection", None, 1) == (
        ids(stepped_in),
        stepped_in.source,
        stepped_in.failure,
        stepped_in.changes,
    )
    assert ([9], "socket", None, 2) == (ids(back), back.source, back.failure, back.changes)


# ---- an access URL that moves


async def test_a_new_url_is_a_new_map(tmp_path: Path) -> None:
    """The old socket is closed and the old map dropped, with what its deployment wanted."""
    clock = PausingClock()
    url_file = tmp_path / "url"
    async with (
        MapServer(make_map(7), make_connection(make_map(7), force_websockets=True)) as old,
        MapServer(make_map(8)) as new,
    ):
        url_file.write_text(old.url)
        source = make_source(access_url=AccessURL(url_file=url_file), session_token=SessionToken(token=TOKEN))
        watch, notices = make_watch(source, clock, silent_after_seconds=1e6)
        async with serving(watch):
            await notices.until(2)
            await clock.until_paused(2)  # the connection endpoint and the file have been looked at
            url_file.write_text(f"{old.url}/somewhere")
            await clock.advance(INTERVAL_SECONDS)
            await clock.until_paused(4)
            assert ([7], True) == (ids(watch.state), watch.state.force_websockets)
            url_file.write_text(new.url)
            await clock.advance(INTERVAL_SECONDS)
            await notices.until(4)
            await old.until(lambda: old.open_sockets == 0)
    dropped, moved = notices.states[2:]
    assert MapState() == dropped
    assert ([8], 1, "socket", None) == (ids(moved), moved.changes, moved.source, moved.force_websockets)
    assert 1 == len(old.socket_headers)


async def test_a_url_that_cannot_be_read_is_a_failure(tmp_path: Path) -> None:
    """A missing, empty or malformed URL is tried again with pauses until it is there."""
    clock = PausingClock()
    url_file = tmp_path / "url"
    source = make_source(access_url=AccessURL(url_file=url_file), session_token=SessionToken(token=TOKEN))
    async with MapServer(make_map(7), make_connection(make_map(7))) as server:
        watch, notices = make_watch(source, clock)
        async with serving(watch):
            for count, text in enumerate(("", "coder.example.com", server.url), start=1):
                await clock.until_paused(count)
                state = watch.state
                assert state.failure is not None
                assert (Reason.RESOLVE, Phase.RESOLVE) == (state.failure.reason, state.failure.phase)
                url_file.write_text(text)
                await clock.advance(clock.pauses[-1])
            await notices.until(2)
            assert ([7], None) == (ids(watch.state), watch.state.failure)


@pytest.mark.parametrize("token", [None, SessionToken(token=TOKEN)])
async def test_one_look_without_a_url(tmp_path: Path, token: SessionToken | None) -> None:
    """Where nobody can tell where Coder is, one look ends with the failure that says so."""
    state = await refresh(access_url=AccessURL(url_file=tmp_path / "url"), session_token=token)
    assert state.failure is not None
    assert (Reason.RESOLVE, Phase.RESOLVE, None) == (state.failure.reason, state.failure.phase, state.off)
    assert "there is no access URL to ask for the DERP map" in state.failure.message


async def test_a_url_that_vanishes_leaves_the_socket_alone(tmp_path: Path) -> None:
    """A file that is being replaced is no new URL."""
    clock = PausingClock()
    url_file = tmp_path / "url"
    async with MapServer(make_map(7)) as server:
        url_file.write_text(server.url)
        source = make_source(access_url=AccessURL(url_file=url_file))
        watch, notices = make_watch(source, clock, silent_after_seconds=1e6)
        async with serving(watch):
            await notices.until(1)
            for count, text in enumerate((None, b"", b"half://"), start=1):
                await clock.until_paused(count)
                write(url_file, text)
                await clock.advance(INTERVAL_SECONDS)
            await clock.until_paused(4)
            assert 1 == server.open_sockets
            await server.push(make_map(8))
            await notices.until(2)
    assert (None, [8], 1) == (watch.state.failure, ids(watch.state), len(server.socket_headers))


async def test_a_file_survives_a_new_url(map_file: Path, tmp_path: Path) -> None:
    """The map of a file does not depend on where Coder is; what Coder wants of clients does."""
    clock = PausingClock()
    url_file = tmp_path / "url"
    async with MapServer(connection=make_connection(make_map(8), force_websockets=True)) as server:
        url_file.write_text(server.url)
        source = make_source(
            access_url=AccessURL(url_file=url_file), map_file=map_file, session_token=SessionToken(token=TOKEN)
        )
        watch, notices = make_watch(source, clock)
        async with serving(watch):
            await notices.until(2)
            await clock.until_paused(3)
            url_file.write_text("http://127.0.0.1:1")
            await clock.advance(INTERVAL_SECONDS)
            await notices.until(3)
            state = watch.state
    assert ([7], "file", None, None) == (ids(state), state.source, state.failure, state.force_websockets)


def test_a_state_without_a_map_is_a_value() -> None:
    """Two states that say the same are equal."""
    assert MapState(derp_map=DerpMap()) == MapState(derp_map=DerpMap())
