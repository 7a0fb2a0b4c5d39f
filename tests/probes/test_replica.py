"""One replica at its own address, asked for the access URL's host."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from exporter.clock import SystemClock
from exporter.errors import Phase, Reason
from exporter.health.model import Section
from exporter.health.replica import ReplicaResult
from exporter.probes.replica import probe
from exporter.targets.model import AccessURL, Replica, ReplicaTarget
from tests.support.certificates import Authority
from tests.support.raw_http import Answer, RawServer, hang, response

OK = response(200, b"OK\n", X_Coder_Build_Version="v2.26.0")


async def ask(
    url: str,
    *,
    access: AccessURL | None = None,
    ca_file: Path | None = None,
    timeout_seconds: float = 5.0,
) -> ReplicaResult:
    target = ReplicaTarget(
        deployment="prod",
        section=Section.ACCESS_URL,
        coder_replica="coderd-0",
        interval_seconds=30.0,
        timeout_seconds=timeout_seconds,
        access_url=access or AccessURL(url="http://coder.example.com"),
        ca_file=ca_file,
        replica=Replica(name="coderd-0", url=url),
    )
    return await probe(target, clock=SystemClock())


async def test_a_replica_that_answers() -> None:
    """It is asked under the access URL's host, without any token, and tells its version."""
    async with RawServer({"/healthz": OK}) as server:
        result = await ask(server.url)
    assert ("coderd-0", server.url, "127.0.0.1", 200) == (result.name, result.url, result.address, result.status)
    assert ("v2.26.0", None, False) == (result.coder_version, result.failure, result.others_answer)
    assert {Phase.CONNECT, Phase.PROCESSING, Phase.TRANSFER} == set(result.phase_seconds)
    (headers,) = server.headers
    assert "coder.example.com" == headers["host"]
    assert not {"coder-session-token", "cookie", "authorization"} & headers.keys()


async def test_tls_is_verified_for_the_access_urls_name(tmp_path: Path) -> None:
    """A certificate that names the access URL is right at a replica's address; that of the address is
    not."""
    authority = Authority(tmp_path)
    access = AccessURL(url="https://coder.example.com")
    async with RawServer({"/healthz": OK}, ssl_context=authority.serve("coder.example.com")) as server:
        right = await ask(server.url, access=access, ca_file=authority.ca_file)
    async with RawServer({"/healthz": OK}, ssl_context=authority.serve("127.0.0.1")) as server:
        wrong = await ask(server.url, access=access, ca_file=authority.ca_file)
    assert right.up
    assert wrong.failure is not None
    assert Reason.TLS == wrong.failure.reason


async def test_plain_http_behind_https() -> None:
    """A replica is spoken to in its own scheme, whatever the access URL's is."""
    async with RawServer({"/healthz": OK}) as server:
        result = await ask(server.url, access=AccessURL(url="https://coder.example.com:8443"))
    assert result.up
    assert "coder.example.com:8443" == server.headers[0]["host"]


@pytest.mark.parametrize(
    ("words", "reason", "answer"),
    [
        ("answered status 503", Reason.STATUS, response(503, b"no")),
        (
            "answered status 307 to https://sign.in/x",
            Reason.STATUS,
            response(307, Location="https://sign.in/x?token=t"),
        ),
        ("answered 200, but not OK: '<html>'", Reason.BODY, response(200, b"<html>")),
        ("not OK", Reason.BODY, response(200, b"OK" + b" " * 70000)),
        ("not OK", Reason.BODY, response(200)),
    ],
)
async def test_an_answer_that_says_no(words: str, reason: Reason, answer: Answer) -> None:
    """Each kind names the replica's URL."""
    async with RawServer({"/healthz": answer}) as server:
        result = await ask(server.url)
    assert result.failure is not None
    assert reason == result.failure.reason
    assert words in result.failure.message
    assert f"GET /healthz of {server.url}" in result.failure.message
    assert "token" not in result.failure.message
    assert result.status is not None


async def test_a_replica_that_is_silent() -> None:
    """It costs no more than the timeout."""
    async with RawServer({"/healthz": hang}) as server:
        result = await ask(server.url, timeout_seconds=0.2)
    assert result.failure is not None
    assert (Reason.TIMEOUT, None) == (result.failure.reason, result.status)


async def test_nobody_listens() -> None:
    """A refused connection is a failure without an answer."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        result = await ask(f"http://127.0.0.1:{unused.getsockname()[1]}")
    assert result.failure is not None
    assert (Reason.REFUSED, None, "127.0.0.1") == (result.failure.reason, result.status, result.address)


async def test_without_an_access_url(tmp_path: Path) -> None:
    """While nobody can tell the access URL, the replica is asked under its own host."""
    async with RawServer({"/healthz": OK}) as server:
        result = await ask(server.url, access=AccessURL(url_file=tmp_path / "gone"))
    assert result.up
    assert f"127.0.0.1:{server.port}" == server.headers[0]["host"]


async def test_a_url_that_is_none() -> None:
    """What the configuration refuses is a failure and no crash."""
    result = await ask("10.0.0.1:8080")
    assert result.failure is not None
    assert Reason.RESOLVE == result.failure.reason
