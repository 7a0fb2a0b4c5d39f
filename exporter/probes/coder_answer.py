"""One question to Coder with our session token, and what its answer means for who asked.

In: where to ask, a path, a token. Out: an `Answer`: the body, or why there is none, told apart by who
said no: Coder about this token, Coder about itself, or something in front of it. No redirect is
followed, so the token goes to nobody else, and no text that is told ever holds it.

Source: coder-interfaces, sections 2.8, 5.1 and 9
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from exporter.clock import Clock
from exporter.errors import DeadlineError, Phase, ProbeError, Reason, WireError
from exporter.health.model import Failure
from exporter.net import coder_json, http, reach
from exporter.net.coder_json import BUILD_VERSION_HEADER, TOKEN_HEADER, ErrorBody
from exporter.secret import Secret
from exporter.targets.model import AccessURL
from exporter.targets.url_source import read_url
from exporter.wire.url import Origin, parse_origin, read_location

# Coder's own refusals are short; what is long is somebody's page.
_MAX_REFUSAL_BYTES = 1 << 16
# Coder's words for a report that is still being made. Servers before April 2025 say them with 404.
_IN_PROGRESS = "in progress"
# Of a token: its id, which is no secret, the hyphen, and the first letter of what is one.
_TELLING_CHARS = 12
_MAX_MESSAGE_CHARS = 200
# An answer may take long; whoever has not taken the connection by then takes none.
CONNECT_SECONDS = 10.0


class Kind(StrEnum):
    """What an answer means."""

    GOOD = "good"
    SIGNED_OUT = "signed_out"  # the token is none, expired or revoked, or its user is not let in
    FORBIDDEN = "forbidden"  # the token lacks the right
    NO_ROUTE = "no_route"  # this server is too old for the question
    MISSING = "missing"  # Coder knows no such thing, or does not show it to this token
    PENDING = "pending"  # Coder is still at it
    INTERNAL = "internal"  # Coder itself is in trouble
    LIMITED = "limited"  # we ask too often
    FAILED = "failed"  # anything else: the network, or something in front of Coder


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What came of one question.

    Args:
        failure: None only when `kind` is GOOD.
        worth_repeating: Who took the question may answer it some seconds later.
        asked: A request was made.
    """

    kind: Kind
    exchange: http.Exchange
    failure: Failure | None = None
    worth_repeating: bool = False
    asked: bool = True

    @property
    def body(self) -> bytes:
        return self.exchange.body

    def read_now(self, clock: Clock) -> float:
        """Return when this was answered, in seconds since 1970: by the server's own clock where it says,
        since only that one is comparable with times in the body. A cache on the way tells how old its
        copy has become."""
        date = coder_json.read_date(self.exchange.headers)
        if date is None:
            return clock.now()
        age = self.exchange.headers.get("age", "")
        return date + (int(age) if age.isascii() and age.isdigit() and len(age) < 9 else 0)


class BackOff:
    """Memory of answers with 429: who is told so asks less often, each time in a row longer."""

    def __init__(self) -> None:
        self._times = 0
        self._until_seconds: float | None = None

    def left_seconds(self, clock: Clock) -> float:
        """Return for how long nothing should be asked yet; 0 when it may."""
        return 0.0 if self._until_seconds is None else max(0.0, self._until_seconds - clock.monotonic())

    def note(self, answer: Answer, interval_seconds: float, clock: Clock) -> None:
        """Take in an answer: with 429 the next one, three, then seven runs are left out."""
        if not answer.asked:
            return
        if answer.kind is not Kind.LIMITED:
            self._times = 0
            return
        self._times = min(3, self._times + 1)
        seconds = (2**self._times - 0.5) * interval_seconds
        told = answer.exchange.headers.get("retry-after", "")
        if told.isascii() and told.isdigit() and len(told) < 9:
            seconds = max(seconds, min(float(told), 8 * interval_seconds))
        self._until_seconds = clock.monotonic() + seconds


async def find_origin(access_url: AccessURL) -> Origin:
    """Return where Coder is now.

    Raises:
        ProbeError: Nobody can tell.
    """
    try:
        return parse_origin(await read_url(access_url))
    except (WireError, ProbeError) as error:
        raise ProbeError(
            f"there is no access URL to ask: {error}", phase=Phase.RESOLVE, reason=Reason.RESOLVE
        ) from error


async def ask(
    origin: Origin,
    path: str,
    *,
    token: Secret,
    deadline_seconds: float,
    clock: Clock,
    ca_file: Path | None,
    max_body_bytes: int,
    via: Origin | None = None,
    back_off: BackOff | None = None,
) -> Answer:
    """Ask once. Trouble is in the answer's `failure`.

    Args:
        via: The replica to ask, as of `reach.get`.
        back_off: While it says so, nothing is asked at all.
    """
    left_seconds = 0.0 if back_off is None else back_off.left_seconds(clock)
    if left_seconds > 0:
        text = f"GET {path} is not asked for another {left_seconds:.0f} s: Coder limited our rate (status 429)"
        blank = http.Exchange(address="", phase_seconds={}, status=429)
        return Answer(
            kind=Kind.LIMITED, exchange=blank, failure=Failure(reason=Reason.STATUS, message=text), asked=False
        )
    exchange = await reach.get(
        origin,
        path,
        deadline_seconds=deadline_seconds,
        connect_deadline_seconds=min(deadline_seconds, clock.monotonic() + CONNECT_SECONDS),
        clock=clock,
        ca_file=ca_file,
        headers={TOKEN_HEADER: token.reveal()},
        max_body_bytes=max_body_bytes,
        via=via,
    )
    kind, failure, worth_repeating = _judge(exchange, path, origin, via, max_body_bytes)
    if failure is not None:
        failure = Failure(reason=failure.reason, phase=failure.phase, message=hide(failure.message, token))
    return Answer(kind=kind, exchange=exchange, failure=failure, worth_repeating=worth_repeating)


def tell_no_json(path: str, what: str, error: WireError, token: Secret) -> Failure:
    """Return the failure of an answer with 200 that is not what was asked for."""
    return Failure(
        reason=Reason.BODY,
        phase=Phase.TRANSFER,
        message=hide(f"GET {path} answered status 200, but no {what}: {error}", token),
    )


def hide(text: str, token: Secret) -> str:
    """Return a text without the token, which somebody may have sent back to us; cut there, since what
    follows may be the rest of it."""
    before, found, _ = text.partition(token.reveal()[:_TELLING_CHARS])
    return f"{before}{token}" if found else text


def _judge(
    exchange: http.Exchange, path: str, origin: Origin, via: Origin | None, max_body_bytes: int
) -> tuple[Kind, Failure | None, bool]:
    status, error = exchange.status, exchange.error
    if error is not None and (status is None or 200 <= status < 300):
        # a front that gives up closes the connection, or is silent: it took the question all the same
        taken = error.phase in (Phase.PROCESSING, Phase.TRANSFER)
        return Kind.FAILED, Failure.of(error), taken and (status is None or isinstance(error, DeadlineError))
    said = coder_json.parse_error(exchange.body if len(exchange.body) <= _MAX_REFUSAL_BYTES else b"")
    if status == 200:
        if exchange.body_truncated:
            text = f"GET {path} answered more than {max_body_bytes} bytes"
            return Kind.FAILED, Failure(reason=Reason.BODY, phase=Phase.TRANSFER, message=text), False
        return Kind.GOOD, None, False
    kind = _sort_out(status, said, BUILD_VERSION_HEADER in exchange.headers)
    worth_repeating = kind is Kind.PENDING or (status is not None and status >= 500)
    reason = Reason.AUTH if kind in (Kind.SIGNED_OUT, Kind.FORBIDDEN) else Reason.STATUS
    text = f"GET {path} answered status {status}{_describe(exchange, said)}{_advise(exchange, kind, origin, via)}"
    return kind, Failure(reason=reason, phase=Phase.PROCESSING, message=text), worth_repeating


def _sort_out(status: int | None, said: ErrorBody, signed: bool) -> Kind:
    """Return what a status that says no means. `signed`: the answer bears the header of Coder's own."""
    from_coder = signed or said.from_coder
    match status:
        case 401 if said.signed_out:
            return Kind.SIGNED_OUT
        case 403 if said.message.startswith("Forbidden.") or (signed and said.message):
            return Kind.FORBIDDEN
        case 404 if said.unknown_route:
            return Kind.NO_ROUTE
        case 404 | 503 if _IN_PROGRESS in said.message.lower():
            return Kind.PENDING
        case 404 if from_coder and said.message:
            return Kind.MISSING
        case 429:
            return Kind.LIMITED
    if said.internal or (status is not None and status >= 500 and from_coder):
        return Kind.INTERNAL
    return Kind.FAILED


def _describe(exchange: http.Exchange, said: ErrorBody) -> str:
    if said.message:
        text = "".join(char if char.isprintable() else " " for char in said.message)
        return f": {text[:_MAX_MESSAGE_CHARS]}"
    if not exchange.body:
        return ""
    return f", and a body that begins with {coder_json.excerpt(exchange.body)}"


def _advise(exchange: http.Exchange, kind: Kind, origin: Origin, via: Origin | None) -> str:
    """Say what it means where the status alone does not."""
    status, signed = exchange.status, BUILD_VERSION_HEADER in exchange.headers
    if status is not None and 300 <= status < 400:
        return _advise_on_redirect(exchange, origin, via)
    if kind is Kind.INTERNAL and status == 401:
        return "; Coder cannot look the token up, most often since its database is gone"
    if kind is Kind.FAILED and status in (401, 403) and not signed:
        return "; these are not Coder's words: something in front of it refuses us"
    if status == 400 and signed and exchange.headers.get("content-type", "").startswith("text/html"):
        return "; a workspace proxy answers so: the URL must be that of coderd"
    return ""


def _advise_on_redirect(exchange: http.Exchange, origin: Origin, via: Origin | None) -> str:
    told = exchange.headers.get("location")
    server = origin if via is None else via
    where = f", a redirect to {read_location(told, server.scheme).text or 'nowhere'}" if told is not None else ""
    if via is not None and origin.tls and not via.tls:
        return (
            f"{where}; with --redirect-to-access-url a replica answers so to plain HTTP: "
            "give its URL with https, or switch that off"
        )
    if via is not None:
        return f"{where}; with --redirect-to-access-url a replica answers so when its access URL is not {origin}"
    return f"{where}, which is not followed with the token: write the URL where it ends, or let /api pass in front"
