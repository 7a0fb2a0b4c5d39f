"""One question to Coder, answered by servers with everything that one may say to a token."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from email.utils import formatdate
from pathlib import Path

import pytest

from exporter.clock import Clock, SystemClock
from exporter.errors import Phase, ProbeError, Reason, WireError
from exporter.net.coder_json import TOKEN_HEADER
from exporter.probes.coder_answer import Answer, BackOff, Kind, ask, find_origin, hide, tell_no_json
from exporter.secret import Secret
from exporter.targets.model import AccessURL
from exporter.wire.url import parse_origin
from tests.support.clock import ShiftedClock
from tests.support.ports import free_port
from tests.support.raw_http import RawServer, hang, json_response, response

DATA = Path(__file__).parents[1] / "data" / "coder"
TOKEN = Secret("abcdefghij-0123456789012345678901")
PATH = "/api/v2/anything"
MAX_BODY_BYTES = 1000
VERSION = {"X_Coder_Build_Version": "v2.26.0"}


def recorded(name: str) -> str:
    return (DATA / f"{name}.json").read_text()


def say(message: str) -> str:
    return json.dumps({"message": message})


@pytest.fixture
async def server() -> AsyncIterator[RawServer]:
    async with RawServer({PATH: json_response("{}")}) as server:
        yield server


async def question(
    server: RawServer, *, clock: Clock | None = None, back_off: BackOff | None = None, seconds: float = 5.0
) -> Answer:
    clock = clock or SystemClock()
    return await ask(
        parse_origin(server.url),
        PATH,
        token=TOKEN,
        deadline_seconds=clock.monotonic() + seconds,
        clock=clock,
        ca_file=None,
        max_body_bytes=MAX_BODY_BYTES,
        back_off=back_off,
    )


def tell(answer: Answer) -> str:
    """Return the failure's sentence, which holds nothing of the token that is secret."""
    assert answer.failure is not None
    assert TOKEN.reveal()[11:] not in answer.failure.message
    return answer.failure.message


async def test_the_access_url_may_stand_in_a_file(tmp_path: Path) -> None:
    """It is read anew each time; without a good one nobody can be asked, which is told as such."""
    path = tmp_path / "url"
    path.write_text("https://coder.example.com/ignored/path\n")
    assert parse_origin("https://coder.example.com") == await find_origin(AccessURL(url_file=path))
    for text in ("", "coder.example.com", "https://"):
        path.write_text(text)
        with pytest.raises(ProbeError, match="there is no access URL to ask") as caught:
            await find_origin(AccessURL(url_file=path))
        assert (Phase.RESOLVE, Reason.RESOLVE) == (caught.value.phase, caught.value.reason)


async def test_a_good_answer(server: RawServer) -> None:
    """A 200 has a body and no failure, and the token went along in its header alone."""
    server.answers[PATH] = json_response('{"a": 1}')
    answer = await question(server)
    assert (Kind.GOOD, b'{"a": 1}', None) == (answer.kind, answer.body, answer.failure)
    assert (True, False) == (answer.asked, answer.worth_repeating)
    assert [PATH] == server.asked
    assert [(TOKEN_HEADER, TOKEN.reveal())] == [
        (name, value) for name, value in server.headers[0].items() if TOKEN.reveal() in value
    ]


@pytest.mark.parametrize(
    ("answer", "kind", "again"),
    [
        pytest.param(json_response(recorded("debug-health-401"), 401, **VERSION), Kind.SIGNED_OUT, False, id="none"),
        pytest.param(json_response(recorded("debug-health-401-bad-token"), 401), Kind.SIGNED_OUT, False, id="bad"),
        pytest.param(
            json_response(recorded("debug-health-401-unknown-token"), 401, **VERSION),
            Kind.SIGNED_OUT,
            False,
            id="revoked",
        ),
        pytest.param(
            json_response(say('User is not active (status = "suspended").'), 401, **VERSION),
            Kind.SIGNED_OUT,
            False,
            id="suspended",
        ),
        pytest.param(json_response(recorded("trouble-db-cut"), 401, **VERSION), Kind.INTERNAL, False, id="database"),
        pytest.param(json_response(say("Try again."), 401, **VERSION), Kind.FAILED, False, id="other-401"),
        pytest.param(response(401, b"<html>sign in"), Kind.FAILED, False, id="page-401"),
        pytest.param(
            json_response(recorded("debug-health-403-member"), 403, **VERSION), Kind.FORBIDDEN, False, id="member"
        ),
        pytest.param(json_response(recorded("debug-health-403-member"), 403), Kind.FORBIDDEN, False, id="member-bare"),
        pytest.param(json_response(say("No audience."), 403, **VERSION), Kind.FORBIDDEN, False, id="coders-403"),
        pytest.param(json_response(say("No audience."), 403), Kind.FAILED, False, id="fronts-403"),
        pytest.param(response(403, b"blocked", **VERSION), Kind.FAILED, False, id="wordless-403"),
        pytest.param(json_response(recorded("unknown-route"), 404), Kind.NO_ROUTE, False, id="old-server"),
        pytest.param(json_response(say("Resource not found."), 404, **VERSION), Kind.MISSING, False, id="missing"),
        pytest.param(json_response(say("Resource not found."), 404), Kind.FAILED, False, id="fronts-404"),
        pytest.param(response(404, b"nothing here", **VERSION), Kind.FAILED, False, id="wordless-404"),
        pytest.param(json_response(say("It is in progress."), 404), Kind.PENDING, True, id="pending-404"),
        pytest.param(
            json_response(recorded("trouble-ESTUN-silent-503"), 503, **VERSION), Kind.PENDING, True, id="pending-503"
        ),
        pytest.param(response(429), Kind.LIMITED, False, id="limited"),
        pytest.param(json_response(say("No report."), 500, **VERSION), Kind.INTERNAL, True, id="coders-500"),
        pytest.param(json_response(say("No report."), 500), Kind.FAILED, True, id="fronts-500"),
        pytest.param(response(502, b"bad gateway"), Kind.FAILED, True, id="502"),
        pytest.param(response(503, b"maintenance"), Kind.FAILED, True, id="503"),
        pytest.param(response(302, Location="https://sso.example.com/"), Kind.FAILED, False, id="redirect"),
        pytest.param(response(204), Kind.FAILED, False, id="204"),
        pytest.param(response(206, b"{}"), Kind.FAILED, False, id="206"),
        pytest.param(b"SSH-2.0-OpenSSH\r\n", Kind.FAILED, True, id="not-http"),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\nConnection: close\r\n\r\n{}", Kind.FAILED, False, id="cut-off"
        ),
    ],
)
async def test_who_said_no(server: RawServer, answer: bytes, kind: Kind, again: bool) -> None:
    """Coder about the token, Coder about itself, or something in front; 5xx and silence may pass."""
    server.answers[PATH] = answer
    told = await question(server)
    assert (kind, again, True) == (told.kind, told.worth_repeating, told.asked)
    assert told.failure is not None
    assert (Reason.AUTH is told.failure.reason) == (kind in (Kind.SIGNED_OUT, Kind.FORBIDDEN))
    assert "" != tell(told)
    assert [PATH] == server.asked


@pytest.mark.parametrize(
    ("answer", "words", "not_said"),
    [
        (json_response(recorded("trouble-db-cut"), 401, **VERSION), "cannot look the token up", "in front of it"),
        (json_response(say("Try again."), 401, **VERSION), "status 401: Try again.", "in front of it"),
        (response(403, b"blocked"), "something in front of it refuses us", "workspace proxy"),
        (response(400, b"<html>", Content_Type="text/html", **VERSION), "that of coderd", "in front of it"),
        (response(307, Location="/login"), "which is not followed with the token", "in front of it"),
        (response(418, b"a\x1b[31m\nb"), "begins with 'a [31m b'", "\x1b"),
        (json_response(say("one\n\x07two " + 500 * "x"), 418), "status 418: one  two xxx", 250 * "x"),
    ],
)
async def test_what_it_means_is_told(server: RawServer, answer: bytes, words: str, not_said: str) -> None:
    """Where the status alone does not say it, and in one short line without control characters."""
    server.answers[PATH] = answer
    sentence = tell(await question(server))
    assert words in sentence
    assert not_said not in sentence


@pytest.mark.parametrize(
    "answer",
    [
        response(500, f"no such key: {TOKEN.reveal()}".encode()),
        json_response(say(f"no such key: {TOKEN.reveal()}"), 500),
        response(302, Location=f"https://sso.example.com/?token={TOKEN.reveal()}"),
        response(500, TOKEN.reveal()[:15].encode()),
    ],
)
async def test_a_token_that_is_sent_back_is_not_told(server: RawServer, answer: bytes) -> None:
    """Not even a part of it: at most its id and the first letter of what is secret."""
    server.answers[PATH] = answer
    assert TOKEN.reveal()[:13] not in tell(await question(server))


async def test_long_bodies(server: RawServer) -> None:
    """The cap is what may come, more is a failure; a page as long as that is not taken for words of Coder's."""
    server.answers[PATH] = response(200, MAX_BODY_BYTES * b"x")
    assert Kind.GOOD is (await question(server)).kind
    server.answers[PATH] = response(200, (MAX_BODY_BYTES + 1) * b"x")
    answer = await question(server)
    assert (Kind.FAILED, f"GET {PATH} answered more than 1000 bytes") == (answer.kind, tell(answer))


async def test_silence_and_nobody(server: RawServer) -> None:
    """Whoever took the question may answer the next one; where nobody listens there is no use in asking again."""
    server.answers[PATH] = hang
    answer = await question(server, seconds=0.2)
    assert (Kind.FAILED, True) == (answer.kind, answer.worth_repeating)
    assert answer.failure is not None
    assert Reason.TIMEOUT is answer.failure.reason
    clock = SystemClock()
    answer = await ask(
        parse_origin(f"http://127.0.0.1:{free_port()}"),
        PATH,
        token=TOKEN,
        deadline_seconds=clock.monotonic() + 5.0,
        clock=clock,
        ca_file=None,
        max_body_bytes=MAX_BODY_BYTES,
    )
    assert (Kind.FAILED, False) == (answer.kind, answer.worth_repeating)
    assert answer.failure is not None
    assert Reason.REFUSED is answer.failure.reason


@pytest.mark.parametrize(
    ("headers", "later_seconds"),
    [
        ({}, 0.0),
        ({"Age": "0"}, 0.0),
        ({"Age": "90"}, 90.0),
        ({"Age": "-90"}, 0.0),
        ({"Age": "1.5"}, 0.0),
        ({"Age": "999999999"}, 0.0),
        ({"Age": "\u00b2"}, 0.0),
    ],
)
async def test_the_time_of_an_answer(server: RawServer, headers: dict[str, str], later_seconds: float) -> None:
    """By its own clock, later by as much as a cache on the way kept it."""
    server.answers[PATH] = response(200, b"{}", Date=formatdate(1_000_000_000, usegmt=True), **headers)
    assert 1_000_000_000.0 + later_seconds == (await question(server)).read_now(SystemClock())


@pytest.mark.parametrize("date", [{}, {"Date": "yesterday"}, {"Date": ""}, {"Date": "Sat, 99 Nov 2026 99:99:99 GMT"}])
async def test_an_answer_that_tells_no_time(server: RawServer, date: dict[str, str]) -> None:
    """Then our own clock has to do."""
    clock = ShiftedClock()
    clock.ahead_seconds = 1e6
    server.answers[PATH] = response(200, b"{}", **date)
    answer = await question(server, clock=clock)
    assert pytest.approx(clock.now(), abs=60.0) == answer.read_now(clock)


async def test_who_limits_our_rate_is_left_alone(server: RawServer) -> None:
    """After a 429 one run is left out, then three, then seven; nothing is sent meanwhile, and any other
    answer ends it."""
    clock, back_off = ShiftedClock(), BackOff()
    server.answers[PATH] = response(429)
    runs = []
    for _ in range(20):
        answer = await question(server, clock=clock, back_off=back_off)
        back_off.note(answer, 60.0, clock)
        runs.append(answer.asked)
        assert Kind.LIMITED is answer.kind
        clock.ahead_seconds += 60.0
    assert [0, 2, 6, 14] == [number for number, asked in enumerate(runs) if asked]
    assert 4 == len(server.asked)
    server.answers[PATH] = response(500)
    clock.ahead_seconds += 600.0
    back_off.note(await question(server, clock=clock, back_off=back_off), 60.0, clock)
    server.answers[PATH] = response(429)
    back_off.note(await question(server, clock=clock, back_off=back_off), 60.0, clock)
    assert pytest.approx(90.0, abs=30.0) == back_off.left_seconds(clock)


@pytest.mark.parametrize(
    ("told", "seconds"),
    [("5", 90.0), ("300", 300.0), ("86400", 480.0), ("-1", 90.0), ("soon", 90.0), ("9" * 40, 90.0), ("\u00b2", 90.0)],
)
async def test_how_long_to_wait_may_be_told(server: RawServer, told: str, seconds: float) -> None:
    """Retry-After makes it longer, up to eight intervals, and never shorter."""
    clock, back_off = ShiftedClock(), BackOff()
    server.answers[PATH] = response(429, Retry_After=told)
    back_off.note(await question(server, clock=clock, back_off=back_off), 60.0, clock)
    assert pytest.approx(seconds, abs=20.0) == back_off.left_seconds(clock)
    answer = await question(server, clock=clock, back_off=back_off)
    assert (False, 1) == (answer.asked, len(server.asked))
    assert "is not asked for another" in tell(answer)


async def test_a_replica_is_asked_in_the_name_of_the_access_url(server: RawServer) -> None:
    """The connection goes to the replica, the Host header stays."""
    clock = SystemClock()
    answer = await ask(
        parse_origin("http://coder.invalid"),
        PATH,
        token=TOKEN,
        deadline_seconds=clock.monotonic() + 5.0,
        clock=clock,
        ca_file=None,
        max_body_bytes=MAX_BODY_BYTES,
        via=parse_origin(server.url),
    )
    assert (Kind.GOOD, "coder.invalid") == (answer.kind, server.headers[0]["host"])


async def test_a_replica_that_redirects_is_told_what_to_do(server: RawServer) -> None:
    """By plain HTTP it may want its URL with https; else its access URL is another one."""
    clock = SystemClock()
    server.answers[PATH] = response(307, Location="https://coder.invalid/")
    for access_url, words in (
        ("https://coder.invalid", "give its URL with https"),
        ("http://coder.invalid", "when its access URL is not http://coder.invalid"),
    ):
        answer = await ask(
            parse_origin(access_url),
            PATH,
            token=TOKEN,
            deadline_seconds=clock.monotonic() + 5.0,
            clock=clock,
            ca_file=None,
            max_body_bytes=MAX_BODY_BYTES,
            via=parse_origin(server.url),
        )
        assert Kind.FAILED is answer.kind
        assert words in tell(answer)


async def test_asking_can_be_given_up(server: RawServer) -> None:
    """A question that is cancelled ends at once and leaves nothing behind."""
    server.answers[PATH] = hang
    async with asyncio.timeout(20.0):
        asking = asyncio.ensure_future(question(server, seconds=20.0))
        await server.wait_until_asked(PATH)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking


def test_a_body_that_is_not_what_was_asked_for() -> None:
    """The failure names path, thing and trouble, and not the token."""
    error = WireError(f"the body is not JSON: it begins with {TOKEN.reveal()}")
    failure = tell_no_json(PATH, "health report", error, TOKEN)
    assert (Reason.BODY, Phase.TRANSFER) == (failure.reason, failure.phase)
    assert f"GET {PATH} answered status 200, but no health report: the body is not JSON" in failure.message
    assert TOKEN.reveal()[11:] not in failure.message


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("nothing of it", "nothing of it"),
        ("its id abcdefghij alone", "its id abcdefghij alone"),
        (f"it is {TOKEN.reveal()} indeed", "it is <secret>"),
        ("a part: abcdefghij-012", "a part: <secret>"),
    ],
)
def test_a_token_is_hidden(text: str, expected: str) -> None:
    """With all that follows, since that may be the rest of it."""
    assert expected == hide(text, TOKEN)
