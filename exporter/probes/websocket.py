"""Websocket: the echo of /api/v2/debug/ws with an Owner's token, else the first message of the
open /api/v2/derp-map. In: a target. Out: a `WebSocketResult`. Never judges.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from exporter.clock import Clock
from exporter.errors import Phase, ProbeError, ProtocolError, Reason, WireError
from exporter.health.model import Failure
from exporter.health.websocket import Mode, WebSocketResult
from exporter.net import coder_json, reach
from exporter.net.coder_json import BUILD_VERSION_HEADER, TOKEN_HEADER
from exporter.net.websocket import WebSocket
from exporter.targets.model import WebSocketTarget
from exporter.targets.token_source import NoTokenError, read_token
from exporter.targets.url_source import read_url
from exporter.wire.url import Origin, parse_origin, read_location

ECHO_PATH = "/api/v2/debug/ws"
DERP_MAP_PATH = "/api/v2/derp-map"
ECHO_MESSAGES = ("0", "1", "2")  # Source: coderd/healthcheck/websocket.go


async def probe(target: WebSocketTarget, *, clock: Clock) -> WebSocketResult:
    """Open a websocket and pass messages over it, within the target's timeout in all.

    A fallback has a timeout of its own, since what was slow before it says nothing of websockets.
    """
    try:
        origin = parse_origin(await read_url(target.access_url))
    except (ProbeError, WireError) as error:
        failure = Failure(
            reason=Reason.RESOLVE, phase=Phase.RESOLVE, message=f"there is no access URL to connect to: {error}"
        )
        return WebSocketResult(host="", mode=Mode.DERP_MAP, failure=failure, phase_seconds={})
    anonymous, fallback = target.session_token is None, None
    if target.session_token is not None:
        try:
            token = await read_token(target.session_token)
        except NoTokenError as error:
            # what is left to do is what can be done without a token
            anonymous, fallback = True, error.message
        else:
            result = await _try(Mode.ECHO, origin, {TOKEN_HEADER: token.reveal()}, target, clock)
            fallback = _why_not_echo(result)
            if fallback is None:
                return result
    result = await _try(Mode.DERP_MAP, origin, {}, target, clock)
    return replace(
        result,
        echo_fallback=fallback,
        forbidden=anonymous and result.status in (401, 403) and not result.internal_error,
    )


def _why_not_echo(result: WebSocketResult) -> str | None:
    """Return why the echo says nothing of websockets, None when it does: Coder itself answered, and
    only the token did not suffice, or was used too often."""
    if not result.from_coder or result.status not in (401, 403, 404, 429):
        return None
    if result.status == 429:
        return "Coder limits our rate"
    if result.status == 401:
        return "Coder cannot check the token" if result.internal_error else "the token is refused"
    return "the token is not an Owner's" if result.status == 403 else "this server has no echo"


async def _try(
    mode: Mode,
    origin: Origin,
    headers: Mapping[str, str],
    target: WebSocketTarget,
    clock: Clock,
) -> WebSocketResult:
    blank = WebSocketResult(host=origin.host, mode=mode, phase_seconds={})
    path = ECHO_PATH if mode is Mode.ECHO else DERP_MAP_PATH
    deadline = clock.monotonic() + target.timeout_seconds
    opened, phases = await reach.open_websocket(
        origin, path, deadline_seconds=deadline, clock=clock, ca_file=target.ca_file, headers=headers
    )
    blank = replace(blank, address=opened.address or None, phase_seconds=phases)
    if not isinstance(opened, WebSocket):
        said = coder_json.parse_error(opened.body)
        return replace(
            blank,
            status=opened.status,
            location=read_location(opened.headers["location"], origin.scheme).text
            if "location" in opened.headers
            else None,
            server=opened.headers["server"][:80] if "server" in opened.headers else None,
            from_coder=BUILD_VERSION_HEADER in opened.headers or said.from_coder,
            body_excerpt=coder_json.excerpt(opened.body) if opened.status is not None else "",
            internal_error=said.internal,
            # a refusal is told by its status; anything else by what went wrong
            failure=Failure.of(opened.error) if opened.error is not None and opened.status in (None, 101) else None,
        )
    upgraded = replace(blank, upgraded=True, status=101, from_coder=True)
    async with opened as socket:
        started = clock.monotonic()
        try:
            if mode is Mode.ECHO:
                upgraded = await _echo(upgraded, socket, clock)
            else:
                await _receive_map(socket)
        except ProbeError as error:
            return replace(upgraded, failure=Failure.of(error))
        spent = {Phase.TRANSFER: clock.monotonic() - started}
    return replace(upgraded, phase_seconds=dict(phases) | spent)


async def _echo(result: WebSocketResult, socket: WebSocket, clock: Clock) -> WebSocketResult:
    """Send each message and wait for it to come back unchanged, as text, before the next."""
    round_trips = []
    for message in ECHO_MESSAGES:
        sent = clock.monotonic()
        await socket.send_text(message)
        answer = await socket.receive()
        round_trips.append(clock.monotonic() - sent)
        if answer != message:
            kind = "text" if isinstance(answer, str) else "binary"
            body = answer.encode() if isinstance(answer, str) else answer
            return replace(
                result,
                echo_mismatch=f"sent the text {message!r}, {kind} {coder_json.excerpt(body)} came back",
                echo_round_trip_seconds=tuple(round_trips),
            )
    return replace(result, echo_round_trip_seconds=tuple(round_trips))


async def _receive_map(socket: WebSocket) -> None:
    message = await socket.receive()
    try:
        coder_json.check_derp_map(message)
    except WireError as error:
        raise ProtocolError(f"the websocket's first message is no DERP map: {error}", phase=Phase.TRANSFER) from error
