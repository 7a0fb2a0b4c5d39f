"""The list of workspace proxies, from a simulated Coder, the tables and the configuration."""

from __future__ import annotations

import json

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
from exporter.targets.model import AccessURL, WorkspaceProxiesTarget
from tests.support.raw_http import RawServer, hang, json_response, response

TOKEN = Secret("abcdefghij-0123456789012345678901")
STATIC = ListedProxy(id="s", name="static", url="https://static.example.com")
EU = ListedProxy(id="1", name="eu", url="https://eu.example.com", source="tables", updated_at="10:00", region_id=1)
LIST = (
    '{"regions": [{"id": "0", "name": "primary"}, {"id": "1", "name": "eu", "path_app_url": "https://eu.example.com"}]}'
)


async def discover(
    url: str,
    *,
    token: Secret | None = TOKEN,
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
        session_token=token,
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
            timeout_seconds=0.5,
            access_url=AccessURL(url=server.url),
            session_token=TOKEN,
        )
        left = []

        async def read(timeout_seconds: float) -> tuple[ListedProxy, ...]:
            left.append(timeout_seconds)
            return (EU,)

        discovery = ProxyDiscovery(target, clock=clock, read_tables=read)
        found = await discovery.refresh(clock.monotonic() + 0.5)
    assert (["eu"], None) == (names(found), found.failure)
    assert left[0] > 0.4


async def test_names_that_stand_twice_are_told_apart() -> None:
    """No proxy hides another one of the same name; one id is one proxy."""
    entries = [{"id": "1", "name": "eu"}, {"id": "2", "name": "eu"}, {"id": "1", "name": "again"}]
    async with RawServer({PATH: json_response(json.dumps({"regions": entries}))}) as server:
        assert ["eu", "eu (2)"] == names(await discover(server.url))


async def test_configured_proxies_need_no_list() -> None:
    """Where nothing lists proxies, no list has an age."""
    found = await discover("http://127.0.0.1:9", token=None, static=(STATIC,))
    assert (["static"], None, None) == (names(found), found.age_seconds, found.failure)
