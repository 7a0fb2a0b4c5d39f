"""Coder's report polled from servers that answer everything that one may."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest

from exporter.clock import Clock, SystemClock
from exporter.errors import Phase, Reason
from exporter.health.model import OffReason, Section
from exporter.health.report import Refusal, ReportResult, assess
from exporter.net import resolver
from exporter.probes.report import ORGANIZATIONS_PATH, REPORT_PATH, ReportMemory, probe
from exporter.secret import Secret
from exporter.targets.model import AccessURL, Replica, ReportTarget, SessionToken
from exporter.targets.replica_identity import PATH as IDENTITY_PATH
from tests.support.certificates import Authority
from tests.support.clock import ShiftedClock
from tests.support.raw_http import Answer, RawServer, hang, json_response, response

DATA = Path(__file__).parents[1] / "data" / "coder"
TOKEN = Secret("abcdefghij-0123456789012345678901")
NEW_TOKEN = Secret("zyxwvutsrq-1098765432109876543210")
DEPLOYMENT_ID = "c1a7e9a2-4c1f-4d0a-8b1e-2f6f0a9d5e77"
# of an old server, which tells no id
IDENTITY = json_response('{"version": "v2.26.0"}')
IDENTITY_OF_OURS = json_response(json.dumps({"version": "v2.26.0", "deployment_id": DEPLOYMENT_ID}))
VERSION = {"X_Coder_Build_Version": "v2.26.0"}
SIGNED_OUT = (DATA / "debug-health-401-unknown-token.json").read_text()
FORBIDDEN = (DATA / "debug-health-403-member.json").read_text()
INTERNAL = (DATA / "trouble-db-cut.json").read_text()
IN_PROGRESS = (DATA / "trouble-ESTUN-silent-503.json").read_text()
UNKNOWN_ROUTE = (DATA / "unknown-route.json").read_text()
OK = (DATA / "debug-health-ok.json").read_text()


def report(seconds: float = 0.0, *, age_seconds: float = 30.0, **headers: str) -> bytes:
    """Return the report of a healthy server, made so many seconds later than the recorded one."""
    document: dict[str, Any] = json.loads(OK)
    document["time"] = f"2026-11-21T05:18:{seconds:09.6f}Z"
    made = 1795238280.0 + seconds
    return json_response(
        json.dumps(document), **({"Date": formatdate(made + age_seconds, usegmt=True)} | VERSION | headers)
    )


def make_target(url: str, **facts: Any) -> ReportTarget:
    defaults: dict[str, Any] = {
        "access_url": AccessURL(url=url),
        "interval_seconds": 120.0,
        "timeout_seconds": 20.0,
        "session_token": SessionToken(token=TOKEN),
        "reread_after_seconds": 0.01,
    }
    return ReportTarget(deployment="prod", section=Section.REPORT, **(defaults | facts))


async def poll(
    target: ReportTarget, memory: ReportMemory | None = None, clock: Clock | None = None, refresh_seconds: float = 600.0
) -> ReportResult:
    return await probe(
        target, memory=memory or ReportMemory(), clock=clock or SystemClock(), refresh_seconds=refresh_seconds
    )


def tell(result: ReportResult) -> str:
    """Return the failure's sentence, which no answer may make say the token."""
    assert result.failure is not None
    assert TOKEN.reveal()[11:] not in result.failure.message
    return result.failure.message


def in_turn(*answers: bytes) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Any]:
    """Give one answer after the other; the last one for ever."""
    left = list(answers)

    async def script(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(left.pop(0) if len(left) > 1 else left[0])
        await writer.drain()

    return script


@pytest.fixture
async def server() -> AsyncIterator[RawServer]:
    async with RawServer({REPORT_PATH: report(), ORGANIZATIONS_PATH: json_response("[]")}) as server:
        yield server


async def test_who_needs_a_name_is_told_from_who_has_an_address(server: RawServer) -> None:
    """When name servers fall silent the first one is lost, too; of a replica its own address counts."""
    by_name = server.url.replace("127.0.0.1", "localhost")
    replica = Replica(name="a", url=server.url)
    targets = (make_target(by_name), make_target(server.url), make_target(by_name, replica=replica))
    assert [True, False, False] == [(await poll(target)).by_name for target in targets]


async def test_a_report_is_read(server: RawServer) -> None:
    """Unforced, with the token; its age is by the clock of who sent it, names of organizations come along."""
    server.answers[ORGANIZATIONS_PATH] = json_response((DATA / "organizations.json").read_text())
    result = await poll(make_target(server.url), refresh_seconds=300.0)
    assert ("127.0.0.1", 200, None, True, 1) == (
        result.name,
        result.status,
        result.failure,
        result.distinct,
        result.attempts,
    )
    assert result.report is not None
    assert ("v2.26.0", True) == (result.report.version, result.report.healthy)
    assert 30.0 == result.age_seconds
    assert (300.0, 660.0) == (result.refresh_seconds, result.hold_limit_seconds)
    assert result.held_seconds is not None
    assert 30.0 <= result.held_seconds < 60.0
    assert not result.expired
    assert [REPORT_PATH, ORGANIZATIONS_PATH] == server.asked
    assert {TOKEN.reveal()} == {headers["coder-session-token"] for headers in server.headers}
    daemons = result.report.daemons or ()
    assert ["coder"] == [result.organizations[daemon.organization_id] for daemon in daemons]


async def test_names_of_organizations_are_asked_for_seldom(server: RawServer) -> None:
    """Once in ten minutes while a name is lacking, and never once all are known."""
    clock, memory, target = ShiftedClock(), ReportMemory(), make_target(server.url)
    for wait_seconds, asked in ((0.0, 1), (300.0, 1), (301.0, 2)):
        clock.ahead_seconds += wait_seconds
        assert {} == (await poll(target, memory, clock)).organizations
        assert asked == server.asked.count(ORGANIZATIONS_PATH)
    server.answers[ORGANIZATIONS_PATH] = response(200, b"<html>")
    clock.ahead_seconds += 601.0
    assert {} == (await poll(target, memory, clock)).organizations
    server.answers[ORGANIZATIONS_PATH] = json_response((DATA / "organizations.json").read_text())
    clock.ahead_seconds += 601.0
    assert ["coder"] == list((await poll(target, memory, clock)).organizations.values())
    clock.ahead_seconds += 601.0
    await poll(target, memory, clock)
    assert 4 == server.asked.count(ORGANIZATIONS_PATH)


@pytest.mark.parametrize(
    "pending",
    [
        json_response(IN_PROGRESS, 503, **VERSION),
        json_response(IN_PROGRESS, 404, **VERSION),
        json_response('{"message": "Healthcheck is in progress."}', 503),
    ],
)
async def test_who_is_still_at_it_is_asked_again(server: RawServer, pending: bytes) -> None:
    """A round that takes longer than Coder waits is no failure yet."""
    server.answers[REPORT_PATH] = in_turn(pending, pending, report())
    result = await poll(make_target(server.url, reread_after_seconds=4.0), clock=(clock := ShiftedClock()))
    assert (200, 3, None) == (result.status, result.attempts, result.failure)
    assert [4.0, 4.0] == clock.slept
    assert not [path for path in server.asked if "force" in path]


@pytest.mark.parametrize(
    "broken",
    [
        response(502, b"<html>bad gateway"),
        response(503),
        response(504),
        json_response('{"message": "No report."}', 500, **VERSION),
        b"",
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n",
    ],
)
async def test_who_gave_up_on_coder_is_asked_once_more(server: RawServer, broken: bytes) -> None:
    """A front that waits for less long than the round takes; what fails twice has failed."""
    for answers, attempts, good in (((broken, report()), 2, True), ((broken, broken, report()), 2, False)):
        server.answers[REPORT_PATH] = in_turn(*answers)
        result = await poll(make_target(server.url, reread_after_seconds=4.0), clock=(clock := ShiftedClock()))
        assert (attempts, good, [4.0]) == (result.attempts, result.failure is None, clock.slept)


async def test_asking_again_ends_with_the_timeout(server: RawServer) -> None:
    """What was said last is told, and how often it was asked."""
    server.answers[REPORT_PATH] = json_response(IN_PROGRESS, 503, **VERSION)
    target = make_target(server.url, reread_after_seconds=4.0)
    result = await poll(target, clock=(clock := ShiftedClock()))
    assert (503, 5, [4.0] * 4) == (result.status, result.attempts, clock.slept)
    assert "answered status 503: Healthcheck is in progress and did not complete in time" in tell(result)
    assert tell(result).endswith("(5 attempts)")
    assert (None, False, True) == (result.refusal, result.internal_error, result.expired)


async def test_silence_uses_its_share_of_the_time(server: RawServer) -> None:
    """A request that is never answered ends, and with it the poll."""
    server.answers[REPORT_PATH] = hang
    async with asyncio.timeout(20):
        result = await poll(make_target(server.url, timeout_seconds=0.3))
    assert result.failure is not None
    assert (Reason.TIMEOUT, Phase.PROCESSING, None) == (result.failure.reason, result.failure.phase, result.status)


async def test_a_closed_port_is_not_asked_again() -> None:
    """Who takes no connection is not at it."""
    async with RawServer() as server:
        url = server.url
    result = await poll(make_target(url), clock=(clock := ShiftedClock()))
    assert result.failure is not None
    assert (Reason.REFUSED, []) == (result.failure.reason, clock.slept)


@pytest.mark.parametrize(
    ("answer", "refusal"),
    [
        (json_response(SIGNED_OUT, 401, **VERSION), Refusal.SIGNED_OUT),
        (json_response(SIGNED_OUT, 401), Refusal.SIGNED_OUT),
        (json_response(FORBIDDEN, 403, **VERSION), Refusal.FORBIDDEN),
        (json_response(FORBIDDEN, 403), Refusal.FORBIDDEN),
        (json_response('{"message": "Token audience validation failed"}', 403, **VERSION), Refusal.FORBIDDEN),
        (json_response('{"message": "User is not active (status = \\"suspended\\")."}', 401), Refusal.SIGNED_OUT),
    ],
)
async def test_only_coder_refuses(server: RawServer, answer: bytes, refusal: Refusal) -> None:
    """Its own words do, also when a front took its headers away; what was held is told no more."""
    memory = ReportMemory()
    await poll(make_target(server.url), memory)
    server.answers[REPORT_PATH] = answer
    result = await poll(make_target(server.url), memory)
    assert (refusal, True, False) == (result.refusal, result.expired, result.internal_error)
    assert result.failure is not None
    assert Reason.AUTH is result.failure.reason
    server.answers[REPORT_PATH] = report(1.0)
    assert (None, None) == ((back := await poll(make_target(server.url), memory)).refusal, back.failure)


@pytest.mark.parametrize(
    ("answer", "internal", "message"),
    [
        (json_response(INTERNAL, 401, **VERSION), True, "Coder cannot look the token up"),
        (json_response(INTERNAL, 401), True, "An internal error occurred"),
        (response(401, b"<html>sign in"), False, "something in front of it refuses us"),
        (json_response('{"error": "unauthorized"}', 401), False, "something in front of it refuses us"),
        (json_response('{"message": "Try again."}', 401, **VERSION), False, "answered status 401: Try again."),
        (response(403, b"blocked by policy"), False, "begins with 'blocked by policy'"),
        (json_response('{"message": "Blocked."}', 403), False, "something in front of it refuses us"),
        (response(404, b"nothing here"), False, "answered status 404, and a body"),
        (json_response('{"message": "Hm."}', 404, **VERSION), False, "answered status 404: Hm."),
        (response(400, b"<html>", Content_Type="text/html; charset=utf-8", **VERSION), False, "a workspace proxy"),
        (json_response((DATA / "debug-health-400.json").read_text(), 400, **VERSION), False, "Invalid format option"),
        (response(302, Location="https://sso.example.com/login?x=1"), False, "redirect to https://sso.example.com/lo"),
        (response(204), False, "answered status 204"),
        (response(200, b"<html>welcome"), False, "no health report: the body is"),
        (response(200), False, "no health report: the body is"),
        (json_response("{}"), False, "no health report: the body is"),
        (json_response("[]"), False, "no health report: the body is"),
        (json_response("null"), False, "no health report: the body is"),
        (json_response(OK[: len(OK) // 2]), False, "no health report: the body is"),
        (response(429, b'{"message": "Too many."}', **VERSION), False, "answered status 429: Too many."),
        (b"SSH-2.0-OpenSSH\r\n", False, "HTTP"),
    ],
)
async def test_what_else_may_come_is_a_failure(server: RawServer, answer: bytes, internal: bool, message: str) -> None:
    """In the middle of operation: never a refusal, and what was read before goes on for its time."""
    clock, memory, target = ShiftedClock(), ReportMemory(), make_target(server.url, timeout_seconds=3.0)
    await poll(target, memory, clock)
    server.answers[REPORT_PATH] = answer
    result = await poll(target, memory, clock)
    assert (None, None, None, internal) == (result.refusal, result.off, result.report, result.internal_error)
    assert message in tell(result)
    assert not result.expired
    clock.ahead_seconds += 600.0 + 3 * 120.0
    assert (await poll(target, memory, clock)).expired


async def test_trouble_of_coders_own(server: RawServer) -> None:
    """A 5xx with Coder's mark is its own, without it that of something in front."""
    for answer, internal in (
        (json_response('{"message": "No report."}', 500, **VERSION), True),
        (json_response('{"message": "No report."}', 500), False),
        (json_response(INTERNAL, 500), True),
    ):
        server.answers[REPORT_PATH] = answer
        assert internal is (await poll(make_target(server.url, timeout_seconds=1.0))).internal_error


async def test_an_old_server_has_no_report(server: RawServer) -> None:
    """That is an answer in good order, not a failure."""
    server.answers[REPORT_PATH] = json_response(UNKNOWN_ROUTE, 404, **VERSION)
    result = await poll(make_target(server.url))
    assert (OffReason.NOT_SUPPORTED, None, True) == (result.off, result.failure, result.expired)


async def test_without_a_token_nothing_is_asked(server: RawServer) -> None:
    """There is nothing to ask with."""
    result = await poll(make_target(server.url, session_token=None))
    assert (OffReason.NO_TOKEN, 0, []) == (result.off, result.attempts, server.asked)


async def test_the_token_goes_to_nobody_else(server: RawServer) -> None:
    """A redirect is told, with what to do about it, and never followed."""
    async with RawServer() as other:
        server.answers[REPORT_PATH] = response(307, Location=f"{other.url}/steal")
        result = await poll(make_target(server.url))
        assert (0, []) == (other.connections, other.asked)
    assert f"a redirect to {other.url}/steal, which is not followed with the token: write the URL" in tell(result)
    assert (307, 1) == (result.status, result.attempts)


@pytest.mark.parametrize(
    "answer",
    [
        response(418, f"you sent {TOKEN.reveal()}, did you?".encode()),
        json_response(json.dumps({"message": f"your token {TOKEN.reveal()} is bad"}), 401, **VERSION),
        response(200, f"x{TOKEN.reveal()}".encode()),
        response(200, b"a" * 60 + TOKEN.reveal().encode()),
        response(302, Location=f"/?{TOKEN.reveal()}"),
        response(302, Location=f"/{TOKEN.reveal()}"),
    ],
)
async def test_the_token_is_not_told(server: RawServer, answer: bytes) -> None:
    """Also when somebody sends it back, whole or so that only its beginning would be shown."""
    server.answers[REPORT_PATH] = answer
    assert TOKEN.reveal()[:12] not in tell(await poll(make_target(server.url)))


@pytest.mark.parametrize(
    ("access_url", "replica_tls", "message"),
    [
        ("https://coder.invalid", False, "--redirect-to-access-url a replica answers so to plain HTTP: give its URL"),
        ("https://coder.invalid", True, "answers so when its access URL is not https://coder.invalid"),
        ("http://coder.invalid", False, "answers so when its access URL is not http://coder.invalid"),
    ],
)
async def test_a_replica_that_redirects(tmp_path: Path, access_url: str, replica_tls: bool, message: str) -> None:
    """What to do depends on how it was asked."""
    authority = Authority(tmp_path)
    context = authority.serve("coder.invalid") if replica_tls else None
    answers: dict[str, Answer] = {IDENTITY_PATH: IDENTITY, REPORT_PATH: response(307, Location="https://x.invalid/")}
    async with RawServer(answers, ssl_context=context) as server:
        replica = Replica(name="coderd-0", url=server.url)
        result = await poll(make_target(access_url, replica=replica, ca_file=authority.ca_file))
    assert "a redirect to https://x.invalid/" in tell(result)
    assert message in tell(result)


async def test_a_replica_is_polled_for_the_access_url(tmp_path: Path) -> None:
    """At its own host and port, with Host, SNI and certificate of the access URL; also for names."""
    authority = Authority(tmp_path)
    context = authority.serve("coder.invalid")
    asked: list[str | None] = []
    context.sni_callback = lambda _socket, name, _context: asked.append(name)
    answers: dict[str, Answer] = {
        IDENTITY_PATH: IDENTITY,
        REPORT_PATH: report(),
        ORGANIZATIONS_PATH: json_response("[]"),
    }
    async with RawServer(answers, ssl_context=context) as server:
        replica = Replica(name="coderd-0", url=server.url)
        target = make_target("https://coder.invalid:8443", replica=replica, ca_file=authority.ca_file)
        result = await poll(target)
        assert ("coderd-0", 200, None) == (result.name, result.status, result.failure)
        assert [IDENTITY_PATH, REPORT_PATH, ORGANIZATIONS_PATH] == server.asked
        assert {"coder.invalid:8443"} == {headers["host"] for headers in server.headers}
        assert [False, True, True] == ["coder-session-token" in headers for headers in server.headers]
    assert ["coder.invalid"] * 3 == asked


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (json_response('{"version": "v2.26.0", "deployment_id": "another"}'), "says that it is another deployment"),
        (json_response('{"version": "v2.26.0"}'), "says that it is another deployment"),
        (json_response('{"version": "v2.26.0", "workspace_proxy": true}'), "says that it is a workspace proxy"),
        (response(404, b"not found"), "answered status 404"),
        (response(503, b"no healthy upstream"), "answered status 503"),
        (json_response(INTERNAL, 500, **VERSION), "answered status 500"),
        (response(200, b"<html>"), "answered: the body"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "SSH-2.0"),
    ],
    ids=["another", "no id", "proxy", "404", "503", "in trouble", "page", "not http"],
)
async def test_a_stranger_at_a_replicas_address_gets_no_token(server: RawServer, answer: bytes, message: str) -> None:
    """Addresses of pods are given to others: each time before it gets the token, a replica says who it is."""
    server.answers[IDENTITY_PATH] = answer
    replica = Replica(name="coderd-0", url=server.url)
    result = await poll(make_target("http://coder.invalid", replica=replica, deployment_id=DEPLOYMENT_ID))
    assert message in tell(result)
    assert [IDENTITY_PATH] == server.asked
    assert "coder-session-token" not in server.headers[0]
    server.answers[IDENTITY_PATH] = IDENTITY_OF_OURS
    result = await poll(make_target("http://coder.invalid", replica=replica, deployment_id=DEPLOYMENT_ID))
    assert (200, None) == (result.status, result.failure)


async def test_who_is_given_the_address_between_two_attempts(server: RawServer) -> None:
    """The second request asks anew who is there, and the token goes to no stranger."""
    server.answers[IDENTITY_PATH] = in_turn(IDENTITY_OF_OURS, response(404))
    server.answers[REPORT_PATH] = json_response(IN_PROGRESS, 503, **VERSION)
    replica = Replica(name="coderd-0", url=server.url)
    result = await poll(make_target("http://coder.invalid", replica=replica, deployment_id=DEPLOYMENT_ID))
    assert "answered status 404" in tell(result)
    assert [IDENTITY_PATH, REPORT_PATH, IDENTITY_PATH] == server.asked


async def test_the_token_goes_to_the_address_that_was_asked(server: RawServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that leads elsewhere a moment later leads the token nowhere: it is looked up once for each attempt."""
    lookups: list[str] = []
    resolve = resolver.resolve

    async def note(host: str, **more: Any) -> resolver.Addresses:
        lookups.append(host)
        # the second time it leads to nobody
        return await resolve("127.0.0.1" if lookups.count(host) == 1 else "127.0.0.99", **more)

    server.answers[IDENTITY_PATH] = IDENTITY_OF_OURS
    server.answers[ORGANIZATIONS_PATH] = json_response((DATA / "organizations.json").read_text())
    monkeypatch.setattr(
        resolver, "resolve", lambda host, **more: note(host, **more) if "." not in host else resolve(host, **more)
    )
    replica = Replica(name="coderd-0", url=f"http://pod:{server.port}")
    result = await poll(make_target("http://coder.invalid", replica=replica, deployment_id=DEPLOYMENT_ID))
    assert (200, None, ["pod"]) == (result.status, result.failure, lookups)
    assert [IDENTITY_PATH, REPORT_PATH, ORGANIZATIONS_PATH] == server.asked


async def test_a_replica_without_a_url(server: RawServer) -> None:
    """What cannot be asked is a failure under its own name."""
    result = await poll(make_target(server.url, replica=Replica(name="coderd-0", url="nonsense")))
    assert ("coderd-0", []) == (result.name, server.asked)
    assert "the URL of the replica is none" in tell(result)


async def test_without_an_access_url_nobody_is_asked(tmp_path: Path) -> None:
    """It may be mended while the exporter runs."""
    result = await poll(make_target("", access_url=AccessURL(url_file=tmp_path / "url")))
    assert ("", 0) == (result.name, result.attempts)
    assert result.failure is not None
    assert (Reason.RESOLVE, Phase.RESOLVE) == (result.failure.reason, result.failure.phase)
    assert "there is no access URL to ask" in tell(result)


async def test_a_report_from_the_cache_is_not_a_new_one(server: RawServer) -> None:
    """Only a newer time is; and one that is older comes from a replica's cache behind the same URL."""
    memory, target = ReportMemory(), make_target(server.url)
    for seconds, distinct in ((10.0, True), (10.0, False), (20.0, True), (15.0, False), (20.5, True)):
        server.answers[REPORT_PATH] = report(seconds)
        assert distinct is (await poll(target, memory)).distinct


async def test_a_clock_that_was_set_back_hides_no_report(server: RawServer) -> None:
    """A time out of the future is forgotten once the server's clock is right again."""
    memory, target = ReportMemory(), make_target(server.url)
    for seconds, age_seconds, distinct in (
        (59.0, 0.0, True),
        (59.0, -100.0, False),
        (1.0, 5.0, False),
        (2.0, -30.0, True),
        (2.0, 1.0, False),
    ):
        server.answers[REPORT_PATH] = report(seconds, age_seconds=age_seconds)
        assert distinct is (await poll(target, memory)).distinct


@pytest.mark.parametrize("time", [None, "0001-01-01T00:00:00Z", "yesterday"])
async def test_a_report_without_a_time_is_new_when_it_is_another(server: RawServer, time: str | None) -> None:
    """Nobody can tell how old it is: the same text again is no news, whatever else is; it is held from when
    it was read."""
    document = json.loads(OK)
    memory, clock = ReportMemory(), ShiftedClock()
    for version, distinct in (("v2.26.0", True), ("v2.26.0", False), ("v2.26.1", True), ("v2.26.0", True)):
        document |= {"time": time, "coder_version": version}
        server.answers[REPORT_PATH] = json_response(json.dumps(document), **VERSION)
        result = await poll(make_target(server.url), memory, clock)
        assert (distinct, None) == (result.distinct, result.age_seconds)
        assert result.held_seconds is not None
        assert result.held_seconds < 30.0
        clock.ahead_seconds += 5000.0


async def test_a_report_without_a_time_after_one_with_a_time_is_new(server: RawServer) -> None:
    """Only the last report is compared with."""
    memory, target = ReportMemory(), make_target(server.url)
    untimed = json_response(json.dumps(json.loads(OK) | {"time": None}), **VERSION)
    for answer, distinct in ((untimed, True), (report(1.0), True), (untimed, True), (untimed, False)):
        server.answers[REPORT_PATH] = answer
        assert distinct is (await poll(target, memory)).distinct


async def test_sections_of_earlier_reports_are_remembered(server: RawServer) -> None:
    """Each replica of a version has the same sections in every report; another version may have others."""
    memory, target = ReportMemory(), make_target(server.url)
    first = ("access_url", "database")
    for version, sections, expected in (
        ("v2.26.0", ("database",), ()),
        ("v2.26.0", first, ("database",)),
        ("v2.26.0", ("derp", "pubsub"), first),
        ("", ("derp",), ("access_url", "database", "derp")),
        ("v2.27.0", ("derp",), ()),
        ("v2.27.0", first, ("derp",)),
    ):
        document = {"coder_version": version, **{name: {"severity": "ok"} for name in sections}}
        server.answers[REPORT_PATH] = json_response(json.dumps(document), **VERSION)
        assert expected == (await poll(target, memory)).expected


@pytest.mark.parametrize(
    ("headers", "age_seconds"),
    [
        ({}, 100.0),
        ({"Age": "70"}, 170.0),
        ({"Age": "soon"}, 100.0),
        ({"Date": formatdate(1795238280.0 - 5, usegmt=True)}, 0.0),
    ],
)
async def test_age_is_by_the_clock_of_the_answer(
    server: RawServer, headers: dict[str, str], age_seconds: float
) -> None:
    """A cache on the way adds what it says; nothing is older than not at all."""
    server.answers[REPORT_PATH] = report(0.0, age_seconds=100.0, **headers)
    assert age_seconds == (await poll(make_target(server.url))).age_seconds


async def test_age_without_a_date_is_by_our_clock(server: RawServer) -> None:
    """There is no other."""
    server.answers[REPORT_PATH] = json_response(OK, **VERSION)
    made = (await poll(make_target(server.url), clock=(clock := ShiftedClock()))).report
    assert made is not None
    assert made.timestamp_seconds is not None
    clock.ahead_seconds += made.timestamp_seconds + 77.0 - clock.now()
    result = await poll(make_target(server.url), clock=clock)
    assert result.age_seconds is not None
    assert 77.0 <= result.age_seconds < 100.0


async def test_a_rotated_token_is_used_at_once(server: RawServer, tmp_path: Path) -> None:
    """Also between two attempts of one poll; a file that is no good is as good as none, and asks nobody."""
    path = tmp_path / "token"
    path.write_text(TOKEN.reveal())
    pending = in_turn(json_response(IN_PROGRESS, 503), report())

    async def rotate(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        path.write_text(NEW_TOKEN.reveal())
        await pending(reader, writer)

    server.answers[REPORT_PATH] = rotate
    target = make_target(server.url, session_token=SessionToken(token_file=path))
    assert 200 == (await poll(target)).status
    tokens = [TOKEN.reveal(), NEW_TOKEN.reveal(), NEW_TOKEN.reveal()]
    assert tokens == [headers["coder-session-token"] for headers in server.headers]
    for content, message in (("", "is empty"), ("hunter 2", "holds no token")):
        path.write_text(content)
        result = await poll(target)
        assert f"the file of the session token {message}" in tell(result)
        assert result.failure is not None
        assert (Reason.AUTH, 0, None) == (result.failure.reason, result.attempts, result.refusal)
        assert (OffReason.NO_TOKEN, "127.0.0.1", True) == (result.off, result.name, result.expired)
        verdict = assess(result)
        assert {OffReason.NO_TOKEN} == {one.off for one in (verdict.poll, *verdict.sections.values())}
        assert 6 == len(verdict.sections)
    path.unlink()
    assert "No such file" in tell(await poll(target))
    assert len(tokens) == len(server.asked)
    path.write_text(TOKEN.reveal())
    assert 200 == (await poll(target)).status


async def test_who_limits_our_rate_is_asked_less(server: RawServer) -> None:
    """One run is left out, then three, then seven; and none once Coder answers again."""
    clock, memory, target = ShiftedClock(), ReportMemory(), make_target(server.url)
    server.answers[REPORT_PATH] = response(429, b'{"message": "Slow down."}', **VERSION)
    asked = []
    for _ in range(15):
        result = await poll(target, memory, clock)
        asked.append(result.attempts)
        assert (429, None) == (result.status, result.refusal)
        assert "status 429" in tell(result)
        clock.ahead_seconds += target.interval_seconds
    assert [1, 0, 1, 0, 0, 0, 1, *([0] * 7), 1] == asked
    clock.ahead_seconds += 8 * target.interval_seconds
    server.answers[REPORT_PATH] = report()
    assert [1, 1] == [(await poll(target, memory, clock)).attempts for _ in range(2)]


async def test_how_long_to_wait_may_be_told(server: RawServer) -> None:
    """Up to a bound: a header must not silence a witness for ever."""
    for told, runs in (("300", 3), ("999999", 8), ("99999999999999", 2), ("Sat, 21 Nov 2026 05:18:44 GMT", 2)):
        clock, memory, target = ShiftedClock(), ReportMemory(), make_target(server.url)
        server.answers[REPORT_PATH] = response(429, Retry_After=told)
        await poll(target, memory, clock)
        left_out = 0
        while not (await poll(target, memory, clock)).attempts:
            clock.ahead_seconds += target.interval_seconds
            left_out += 1
        assert runs == left_out


@pytest.mark.parametrize("beyond", [False, True])
async def test_a_body_beyond_the_cap(server: RawServer, beyond: bool) -> None:
    """Is not read to its end; one right below it is read."""
    document = json.loads(OK)
    lines = document["derp"]["netcheck_logs"] = ["x" * 4000] * ((16 << 20) // 4004 - 5)
    room = (16 << 20) - len(json.dumps(document))
    lines[-1] += "x" * (room + beyond)
    server.answers[REPORT_PATH] = response(200, json.dumps(document).encode())
    result = await poll(make_target(server.url))
    assert beyond == (result.report is None)
    if beyond:
        assert f"answered more than {16 << 20} bytes" in tell(result)
