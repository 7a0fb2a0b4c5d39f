"""The list of workspace proxies, from a simulated Coder, the tables and the configuration."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from exporter.clock import SystemClock
from exporter.demo import faults
from exporter.demo.answers import ProxyFacts
from exporter.demo.coderd import Role, SimulatedCoder
from exporter.errors import AuthError, ConnectError, Reason
from exporter.health.model import OffReason, Section
from exporter.health.workspace_proxy import ListedProxy
from exporter.secret import Secret
from exporter.targets.discovery import PATH, Discovered, ProxyDiscovery, ReadTables
from exporter.targets.model import AccessURL, SessionToken, WorkspaceProxiesTarget
from tests.support.clock import ShiftedClock
from tests.support.raw_http import RawServer, hang, json_response, response

TOKEN = Secret("abcdefghij-0123456789012345678901")
STATIC = ListedProxy(id="s", name="static", url="https://static.example.com")
EU = ListedProxy(id="1", name="eu", url="https://eu.example.com", source="tables", updated_at="10:00", region_id=1)
LIST = (
    '{"regions": [{"id": "0", "name": "primary"}, {"id": "1", "name": "eu", "path_app_url": "https://eu.example.com"}]}'
)


NOT_LICENSED = json_response(
    '{"message": "Workspace Proxy is a Premium feature. Contact sales!"}', status=403, X_Coder_Build_Version="v2"
)
FORBIDDEN = json_response('{"message": "Forbidden."}', status=403, X_Coder_Build_Version="v2")
INTERNAL = json_response('{"message": "An internal error occurred."}', status=401, X_Coder_Build_Version="v2")
INTERVAL_SECONDS = 30.0


async def look(discovery: ProxyDiscovery, clock: ShiftedClock, *, later_seconds: float = 0.0) -> Discovered:
    clock.ahead_seconds += later_seconds
    return await discovery.refresh(clock.monotonic() + 5.0)


def make_discovery(
    url: str,
    clock: ShiftedClock,
    *,
    token: SessionToken | None = None,
    static: tuple[ListedProxy, ...] = (),
    read_tables: ReadTables | None = None,
) -> ProxyDiscovery:
    target = WorkspaceProxiesTarget(
        deployment="prod",
        section=Section.WORKSPACE_PROXY,
        interval_seconds=INTERVAL_SECONDS,
        timeout_seconds=5.0,
        access_url=AccessURL(url=url),
        session_token=token or SessionToken(token=TOKEN),
        static=static,
    )
    return ProxyDiscovery(target, clock=clock, read_tables=read_tables)


async def discover(
    url: str,
    *,
    token: Secret | SessionToken | None = TOKEN,
    static: tuple[ListedProxy, ...] = (),
    read_tables: ReadTables | None = None,
) -> Discovered:
    clock = SystemClock()
    target = WorkspaceProxiesTarget(
        deployment="prod",
        section=Section.WORKSPACE_PROXY,
        interval_seconds=30.0,
        timeout_seconds=5.0,
        access_url=AccessURL(url=url),
        session_token=SessionToken(token=token) if isinstance(token, Secret) else token,
        static=static,
    )
    return await ProxyDiscovery(target, clock=clock, read_tables=read_tables).refresh(clock.monotonic() + 5.0)


def tables(*proxies: ListedProxy, error: Exception | None = None) -> ReadTables:
    async def read(timeout_seconds: float) -> tuple[ListedProxy, ...]:
        if error is not None:
            raise error
        return proxies

    return read


def names(found: Discovered) -> list[str]:
    return [proxy.name for proxy in found.proxies]


async def test_the_api_lists_proxies_to_any_token() -> None:
    """A member's token is enough; the primary is left out."""
    facts = ProxyFacts(
        id="1",
        name="eu",
        url="https://eu.example.com",
        version="v2.26.0",
        region_id=1,
        created_timestamp_seconds=0.0,
        updated_timestamp_seconds=0.0,
    )
    async with SimulatedCoder(host="127.0.0.1", list_proxies=lambda: [facts]) as coder:
        found = await discover(coder.url, token=coder.tokens[Role.MEMBER])
    assert (["eu"], 0.0, None) == (names(found), found.age_seconds, found.failure)
    assert "v2.26.0" == found.proxies[0].version


@pytest.mark.parametrize(
    ("answer", "off"),
    [
        (
            json_response(
                '{"message": "Workspace Proxy is a Premium feature. Contact sales!"}',
                status=403,
                X_Coder_Build_Version="v2",
            ),
            OffReason.NOT_LICENSED,
        ),
        (json_response('{"message": "Forbidden."}', status=403, X_Coder_Build_Version="v2"), OffReason.FORBIDDEN),
        (
            json_response('{"message": "Route not found."}', status=404, X_Coder_Build_Version="v2"),
            OffReason.NOT_SUPPORTED,
        ),
        (
            json_response(
                '{"message": "You are signed out or your session has expired."}', status=401, X_Coder_Build_Version="v2"
            ),
            OffReason.FORBIDDEN,
        ),
        # a front took Coder's headers away
        (
            json_response('{"message": "Workspace Proxy is a Premium feature. Contact sales!"}', status=403),
            OffReason.NOT_LICENSED,
        ),
        (json_response('{"message": "Forbidden."}', status=403), OffReason.FORBIDDEN),
        (json_response('{"message": "Route not found."}', status=404), OffReason.NOT_SUPPORTED),
        (
            json_response('{"message": "You are signed out or your session has expired."}', status=401),
            OffReason.FORBIDDEN,
        ),
        (json_response('{"message": "User is not active (status = \\"suspended\\")."}', 401), OffReason.FORBIDDEN),
    ],
)
async def test_no_proxies_to_read_is_no_failure(answer: bytes, off: OffReason) -> None:
    """A server in good order that has no list for us turns the section off, unless there are others."""
    async with RawServer({PATH: answer}) as server:
        assert off is (await discover(server.url)).off
        with_static = await discover(server.url, static=(STATIC,))
        assert (["static"], None, None) == (names(with_static), with_static.off, with_static.failure)
        with_tables = await discover(server.url, read_tables=tables(EU))
        assert (["eu"], None, None) == (names(with_tables), with_tables.off, with_tables.failure)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (
            json_response('{"message": "An internal error occurred."}', status=401, X_Coder_Build_Version="v2"),
            Reason.AUTH,
        ),
        (response(403, b"denied by the firewall"), Reason.AUTH),
        (response(404, b"no such page"), Reason.STATUS),
        (response(302, Location="/login"), Reason.STATUS),
        (response(503), Reason.STATUS),
        (json_response("{}"), Reason.PROTOCOL),
        (response(200, b"<html>Sign in</html>"), Reason.PROTOCOL),
    ],
)
async def test_an_answer_that_is_no_list_is_a_failure(answer: bytes, reason: Reason) -> None:
    """Coder's own trouble, intermediaries and rubbish are failures of the list, not an empty list."""
    async with RawServer({PATH: answer}) as server:
        found = await discover(server.url)
    assert found.failure is not None
    assert (reason, None, None) == (found.failure.reason, found.age_seconds, found.off)


async def test_the_token_is_not_carried_to_where_a_redirect_points() -> None:
    """No redirect is followed, so nobody else sees the token."""
    async with RawServer({"/": response(200)}) as thief, RawServer() as server:
        server.answers[PATH] = response(302, Location=thief.url)
        await discover(server.url)
        assert 0 == thief.connections
    assert TOKEN.reveal() == server.headers[0]["coder-session-token"]


async def test_one_source_is_enough() -> None:
    """The tables stand in when the API fails, and the other way round."""
    async with RawServer({PATH: response(503)}) as server:
        found = await discover(server.url, read_tables=tables(EU))
    assert (["eu"], None) == (names(found), found.failure)
    async with RawServer({PATH: json_response(LIST)}) as server:
        found = await discover(server.url, read_tables=tables(error=ConnectError("the database is gone")))
    assert (["eu"], None) == (names(found), found.failure)


async def test_the_tables_add_what_the_api_does_not_tell() -> None:
    """Whether a proxy was stopped comes from the tables only."""
    stopped = ListedProxy(id="1", name="eu", url="x", stopped=True, updated_at="10:00", region_id=7, source="tables")
    async with RawServer({PATH: json_response(LIST)}) as server:
        (proxy,) = (await discover(server.url, read_tables=tables(stopped))).proxies
    assert (True, 7, "https://eu.example.com", "api") == (proxy.stopped, proxy.region_id, proxy.url, proxy.source)


async def test_a_role_that_may_not_read_is_no_outage() -> None:
    """Missing grants turn the section off; they are not Coder's failure."""
    found = await discover("http://127.0.0.1:9", token=None, read_tables=tables(error=AuthError("permission denied")))
    assert (OffReason.FORBIDDEN, None) == (found.off, found.failure)


async def test_both_sources_down_is_a_failure() -> None:
    """Without any list there is no age, and the proxies are those that are configured."""
    async with SimulatedCoder(host="127.0.0.1") as coder:
        coder.break_with(faults.DatabaseGone())
        found = await discover(
            coder.url,
            token=coder.tokens[Role.OWNER],
            static=(STATIC,),
            read_tables=tables(error=ConnectError("the database is gone")),
        )
    assert (["static"], None) == (names(found), found.age_seconds)
    assert found.failure is not None


async def test_a_configured_proxy_is_probed_once() -> None:
    """A proxy that is configured and found, by id or by name, is taken as configured."""
    same_id = ListedProxy(id="1", name="europe", url="https://here.example.com")
    async with RawServer({PATH: json_response(LIST)}) as server:
        found = await discover(server.url, static=(same_id,))
        assert ["europe"] == names(found)
        same_name = ListedProxy(id="2", name="eu", url="https://here.example.com")
        assert ["https://here.example.com"] == [
            proxy.url for proxy in (await discover(server.url, static=(same_name,))).proxies
        ]


async def test_an_api_that_hangs_does_not_eat_the_time_of_the_tables() -> None:
    """Both sources are asked side by side."""
    async with RawServer({PATH: hang}) as server:
        clock = SystemClock()
        target = WorkspaceProxiesTarget(
            deployment="prod",
            section=Section.WORKSPACE_PROXY,
            interval_seconds=30.0,
            timeout_seconds=2.0,
            access_url=AccessURL(url=server.url),
            session_token=SessionToken(token=TOKEN),
        )
        left = []

        async def read(timeout_seconds: float) -> tuple[ListedProxy, ...]:
            left.append(timeout_seconds)
            return (EU,)

        discovery = ProxyDiscovery(target, clock=clock, read_tables=read)
        found = await discovery.refresh(clock.monotonic() + 2.0)
    assert (["eu"], None) == (names(found), found.failure)
    assert left[0] > 1.0


async def test_names_that_stand_twice_are_told_apart() -> None:
    """No proxy hides another one of the same name; one id is one proxy."""
    entries = [{"id": "1", "name": "eu"}, {"id": "2", "name": "eu"}, {"id": "1", "name": "again"}]
    async with RawServer({PATH: json_response(json.dumps({"regions": entries}))}) as server:
        assert ["eu", "eu (2)"] == names(await discover(server.url))


async def test_configured_proxies_need_no_list() -> None:
    """Where nothing lists proxies, no list has an age."""
    found = await discover("http://127.0.0.1:9", token=None, static=(STATIC,))
    assert (["static"], None, None) == (names(found), found.age_seconds, found.failure)


async def test_a_token_file_may_change_under_us(tmp_path: Path) -> None:
    """A rotated token is used at once; one that is no good turns the section off, unless there are others."""
    path = tmp_path / "token"
    token = SessionToken(token_file=path)
    async with RawServer({PATH: json_response(LIST)}) as server:
        for text in (TOKEN.reveal(), TOKEN.reveal()[::-1]):
            path.write_text(text)
            assert ["eu"] == names(await discover(server.url, token=token))
            assert text == server.headers[-1]["coder-session-token"]
        for text in ("", "hunter 2"):
            path.write_text(text)
            found = await discover(server.url, token=token)
            assert (OffReason.NO_TOKEN, None) == (found.off, found.failure)
            with_static = await discover(server.url, token=token, static=(STATIC,))
            assert (["static"], None, None) == (names(with_static), with_static.off, with_static.failure)
            with_tables = await discover(server.url, token=token, read_tables=tables(EU))
            assert (["eu"], None, None) == (names(with_tables), with_tables.off, with_tables.failure)
        assert 2 == len(server.asked)


async def test_a_list_goes_on_while_the_token_file_is_no_good(tmp_path: Path) -> None:
    """And says what it is: the file, not the right."""
    path = tmp_path / "token"
    path.write_text(TOKEN.reveal())
    clock = SystemClock()
    async with RawServer({PATH: json_response(LIST)}) as server:
        target = WorkspaceProxiesTarget(
            deployment="prod",
            section=Section.WORKSPACE_PROXY,
            interval_seconds=30.0,
            timeout_seconds=5.0,
            access_url=AccessURL(url=server.url),
            session_token=SessionToken(token_file=path),
        )
        discovery = ProxyDiscovery(target, clock=clock, read_tables=None)
        await discovery.refresh(clock.monotonic() + 5.0)
        path.unlink()
        found = await discovery.refresh(clock.monotonic() + 5.0)
    assert (["eu"], None) == (names(found), found.off)
    assert found.failure is not None
    assert Reason.AUTH is found.failure.reason
    assert "the file of the session token cannot be read: No such file or directory" == found.failure.message


@pytest.mark.parametrize("failure", [INTERNAL, response(503), response(404, b"no such page"), b""])
@pytest.mark.parametrize(("told", "off"), [(NOT_LICENSED, OffReason.NOT_LICENSED), (FORBIDDEN, OffReason.FORBIDDEN)])
async def test_what_was_told_stays_while_nobody_can_be_asked(told: bytes, off: OffReason, failure: bytes) -> None:
    """That there is no list for us is knowledge, which an outage says nothing against, however long it lasts;
    a list that comes at last is another answer."""
    clock = ShiftedClock()
    async with RawServer({PATH: told}) as server:
        discovery = make_discovery(server.url, clock)
        with_static = make_discovery(server.url, clock, static=(STATIC,))
        assert off is (await look(discovery, clock)).off
        await look(with_static, clock)
        server.answers[PATH] = failure
        for later_seconds in (INTERVAL_SECONDS, 5 * INTERVAL_SECONDS, 100 * INTERVAL_SECONDS):
            found = await look(discovery, clock, later_seconds=later_seconds)
            assert (off, None, None) == (found.off, found.failure, found.age_seconds)
            found = await look(with_static, clock)
            assert (["static"], None, None) == (names(found), found.off, found.failure)
        server.answers[PATH] = json_response(LIST)
        assert ["eu"] == names(await look(discovery, clock))
        server.answers[PATH] = failure
        found = await look(discovery, clock, later_seconds=6 * INTERVAL_SECONDS)
        assert (None, None) == (found.off, found.age_seconds)
        assert found.failure is not None


async def test_that_there_are_none_does_not_grow_old() -> None:
    """An empty list has no states that are dropped: it is told that it could not be refreshed, and no more. One
    with proxies is dropped after five intervals."""
    clock = ShiftedClock()
    async with RawServer({PATH: json_response('{"regions": [{"id": "0", "name": "primary"}]}')}) as server:
        discovery = make_discovery(server.url, clock)
        await look(discovery, clock)
        server.answers[PATH] = INTERNAL
        found = await look(discovery, clock, later_seconds=100 * INTERVAL_SECONDS)
        assert ((), None) == (found.proxies, found.off)
        assert found.failure is not None
        assert found.age_seconds is not None
        # a right that is missing is another answer
        server.answers[PATH] = FORBIDDEN
        assert OffReason.FORBIDDEN is (await look(discovery, clock)).off


async def test_a_server_without_a_licence_has_none_whatever_its_tables_do() -> None:
    """A database that is gone is no trouble of proxies that nobody may have."""
    clock = ShiftedClock()
    gone = tables(error=ConnectError("the database is gone"))
    async with RawServer({PATH: NOT_LICENSED}) as server:
        found = await look(make_discovery(server.url, clock, read_tables=gone), clock)
        assert (OffReason.NOT_LICENSED, None) == (found.off, found.failure)
        # a token that may not read it says nothing of what there is
        server.answers[PATH] = FORBIDDEN
        found = await look(make_discovery(server.url, clock, read_tables=gone), clock)
        assert (None, True) == (found.off, found.failure is not None)


async def test_a_token_that_is_gone_tells_nothing_of_the_server(tmp_path: Path) -> None:
    """It turns the section off; once it is back, what the server said before holds again."""
    path, clock = tmp_path / "token", ShiftedClock()
    path.write_text(TOKEN.reveal())
    async with RawServer({PATH: NOT_LICENSED}) as server:
        fresh, known = (make_discovery(server.url, clock, token=SessionToken(token_file=path)) for _ in range(2))
        await look(known, clock)
        path.write_text("")
        assert [OffReason.NO_TOKEN] * 2 == [(await look(one, clock)).off for one in (fresh, known)]
        path.write_text(TOKEN.reveal())
        server.answers[PATH] = INTERNAL
        assert [None, OffReason.NOT_LICENSED] == [(await look(one, clock)).off for one in (fresh, known)]
