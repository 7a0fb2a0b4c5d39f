"""The access URL's probe, against real servers."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from exporter.clock import SystemClock
from exporter.errors import Phase, Reason
from exporter.health.access_url import AccessURLResult, URLProblem
from exporter.health.model import Section
from exporter.probes import identity
from exporter.probes.access_url import probe
from exporter.probes.identity import IdentityMemory
from exporter.targets.model import AccessURL, AccessURLTarget
from tests.support.clock import FakeClock
from tests.support.raw_http import RawServer, hang, json_response, response

BUILD_INFO = json_response('{"version": "v2.26.0", "dashboard_url": "http://127.0.0.1:7180", "deployment_id": "d0b4"}')
OK = response(200, b"OK", X_Coder_Build_Version="v2.26.0")


def make_target(
    url: str | None = None, *, timeout_seconds: float = 5.0, url_file: Path | None = None
) -> AccessURLTarget:
    return AccessURLTarget(
        deployment="prod",
        section=Section.ACCESS_URL,
        interval_seconds=30.0,
        timeout_seconds=timeout_seconds,
        access_url=AccessURL(url=url, url_file=url_file),
    )


async def run(target: AccessURLTarget, memory: IdentityMemory | None = None) -> AccessURLResult:
    return await probe(target, clock=SystemClock(), memory=memory or IdentityMemory())


async def test_a_healthy_server_is_measured() -> None:
    """Status, body, version, address and phases of a good answer are facts; so is who answered."""
    async with RawServer({"/healthz": OK, "/api/v2/buildinfo": BUILD_INFO}) as server:
        result = await run(make_target(server.url))
    (attempt,) = result.attempts
    assert ("ipv4", "127.0.0.1", 200, True, "v2.26.0") == (
        attempt.family, attempt.address, attempt.status, attempt.body_ok, attempt.coder_version,
    )  # fmt: skip
    assert {Phase.CONNECT, Phase.PROCESSING, Phase.TRANSFER} == set(result.phase_seconds)
    assert result.identity is not None
    assert ("d0b4", "127.0.0.1", True) == (
        result.identity.deployment_id, result.identity.access_url_host, result.says_coder,
    )  # fmt: skip
    assert "d0b4" == result.expected_deployment_id


async def test_every_run_has_its_own_connection_and_build_info_is_asked_seldom() -> None:
    """Three runs are three connections for /healthz, and one for the build info."""
    memory = IdentityMemory()
    async with RawServer({"/healthz": OK, "/api/v2/buildinfo": BUILD_INFO}) as server:
        for _ in range(3):
            await run(make_target(server.url), memory)
        assert 4 == server.connections
        assert 1 == server.asked.count("/api/v2/buildinfo")
        server.answers["/healthz"] = response(200, b"OK", X_Coder_Build_Version="v2.27.0")
        await run(make_target(server.url), memory)
        assert 2 == server.asked.count("/api/v2/buildinfo")


async def test_build_info_is_asked_again_after_a_while() -> None:
    """The identity is looked at again at its own pace."""
    clock, memory = FakeClock(), IdentityMemory()
    async with RawServer({"/healthz": OK, "/api/v2/buildinfo": BUILD_INFO}) as server:
        for _ in range(3):
            await probe(make_target(server.url), clock=clock, memory=memory)
            await clock.advance(identity.INTERVAL_SECONDS / 2)
        assert 2 == server.asked.count("/api/v2/buildinfo")


@pytest.mark.parametrize(
    ("location", "shown", "host"),
    [
        ("/login", "/login", None),
        ("https://SSO.example.org/x?token=secret", "https://sso.example.org/x", "sso.example.org"),
    ],
)
async def test_no_redirect_is_followed(location: str, shown: str, host: str | None) -> None:
    """A redirect is told, with the host that it names, and its target is not asked."""
    async with RawServer({"/healthz": response(302, Location=location), "/login": OK}) as server:
        (attempt,) = (await run(make_target(server.url))).attempts
    assert (302, shown, host) == (attempt.status, attempt.location, attempt.redirect_host)
    assert "/login" not in server.asked


async def test_a_closed_port_is_refused() -> None:
    """Nobody listens: the failure says so, and to whom."""
    async with RawServer() as server:
        url = server.url
    result = await run(make_target(url))
    assert result.attempts[0].failure is not None
    assert (Reason.REFUSED, Phase.CONNECT) == (result.attempts[0].failure.reason, result.attempts[0].failure.phase)
    assert "127.0.0.1" in result.attempts[0].failure.message


async def test_a_silent_server_is_a_timeout_in_processing() -> None:
    """The connection stands and no answer comes."""
    async with RawServer({"/healthz": hang}) as server:
        result = await run(make_target(server.url, timeout_seconds=0.3))
    failure = result.attempts[0].failure
    assert failure is not None
    assert (Reason.TIMEOUT, Phase.PROCESSING) == (failure.reason, failure.phase)


async def test_an_endless_body_is_cut_and_is_not_ok() -> None:
    """A body without end gives a verdict, in bounded memory."""

    async def pour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nX-Coder-Build-Version: v2\r\n\r\nOK")
        for _ in range(10_000):
            writer.write(b"x" * 65536)
            await writer.drain()

    async with RawServer({"/healthz": pour, "/api/v2/buildinfo": BUILD_INFO}) as server:
        result = await run(make_target(server.url))
    assert (200, False, None) == (
        result.attempts[0].status, result.attempts[0].body_ok, result.attempts[0].failure,
    )  # fmt: skip


async def test_a_foreign_server_says_no_coder() -> None:
    """A web server that answers 200 to everything is told from Coder."""
    page = response(200, b"<html>Welcome to nginx!</html>", Content_Type="text/html")
    async with RawServer({"/healthz": page, "/api/v2/buildinfo": page}) as server:
        result = await run(make_target(server.url))
    assert result.says_coder is False
    assert result.identity is None


@pytest.mark.parametrize("broken", [response(502, b"bad gateway"), response(429, b"slow down"), b"nonsense\r\n\r\n"])
async def test_a_server_in_trouble_settles_nothing_about_who_it_is(broken: bytes) -> None:
    """When build info fails, nobody claims that it is not Coder."""
    async with RawServer({"/healthz": response(200, b"OK"), "/api/v2/buildinfo": broken}) as server:
        result = await run(make_target(server.url))
    assert result.says_coder is None


async def test_the_url_file_is_read_before_each_run(tmp_path: Path) -> None:
    """An empty file, nonsense and a good URL follow each other without a restart."""
    path = tmp_path / "url"
    target = make_target(url_file=path)
    path.write_text("")
    assert URLProblem.MISSING is (await run(target)).url_problem
    path.write_text("coder.example.com\n")
    result = await run(target)
    assert URLProblem.INVALID is result.url_problem
    assert result.failure is not None
    assert "http://" in result.failure.message
    async with RawServer({"/healthz": OK}) as server:
        path.write_text(f"  {server.url}\n")
        assert (await run(target)).url_problem is None
    path.unlink()
    assert URLProblem.MISSING is (await run(target)).url_problem


async def test_a_name_without_address_is_a_resolve_failure() -> None:
    """The run ends before any connection."""
    result = await run(make_target("http://nobody.invalid", timeout_seconds=2.0))
    assert result.failure is not None
    assert result.failure.phase is Phase.RESOLVE
    assert () == result.attempts


async def test_localhost_is_probed_in_both_families() -> None:
    """A name with both kinds of address has one attempt each; one that refuses is told apart."""
    async with RawServer({"/healthz": OK, "/api/v2/buildinfo": BUILD_INFO}) as server:
        result = await run(make_target(f"http://localhost:{server.port}"))
    assert {"ipv4", "ipv6"} >= {attempt.family for attempt in result.attempts}
    assert Phase.RESOLVE in result.phase_seconds
    assert result.best is not None
    assert "ipv4" == result.best.family


async def test_a_build_info_that_hangs_is_not_asked_with_every_run() -> None:
    """What was measured is measured: one run waits for half its time, the next ones do not ask."""
    memory = IdentityMemory()
    async with RawServer({"/healthz": OK, "/api/v2/buildinfo": hang}) as server:
        target = make_target(server.url, timeout_seconds=2.0)
        for _ in range(3):
            result = await probe(target, clock=SystemClock(), memory=memory)
            assert result.attempts[0].up
        assert 1 == server.asked.count("/api/v2/buildinfo")
    assert result.identity is None


async def test_what_was_known_of_another_server_is_forgotten() -> None:
    """A new access URL, and an answer that is no build info any more, end what was known."""
    memory = IdentityMemory()
    async with (
        RawServer({"/healthz": OK, "/api/v2/buildinfo": BUILD_INFO}) as old,
        RawServer({"/healthz": OK, "/api/v2/buildinfo": json_response("{}", X_Coder_Build_Version="v2.26.0")}) as new,
    ):
        assert "d0b4" == (await run(make_target(old.url), memory)).expected_deployment_id
        result = await run(make_target(new.url), memory)
        assert (None, None, True) == (result.identity, result.expected_deployment_id, result.says_coder)
        old.answers["/api/v2/buildinfo"] = BUILD_INFO
        assert (await run(make_target(old.url), memory)).identity is not None
        old.answers |= {"/healthz": response(200, b"OK"), "/api/v2/buildinfo": response(404, b"no such page")}
        result = await run(make_target(old.url), memory)
    assert (None, False) == (result.identity, result.says_coder)


async def test_a_missing_ca_file_is_a_tls_failure(tmp_path: Path) -> None:
    """A file of authorities that is gone fails the run; it is no bug of ours."""
    target = replace(make_target("https://127.0.0.1:9"), ca_file=tmp_path / "gone.pem")
    result = await run(target)
    assert result.attempts[0].failure is not None
    assert Reason.TLS is result.attempts[0].failure.reason
