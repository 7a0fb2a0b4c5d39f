"""Who answers at a replica's address, asked of servers on loopback: replicas, proxies, strangers, nobody."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from exporter.clock import SystemClock
from exporter.errors import CertificateError, ConnectError, DeadlineError, Phase, ProbeError, ProtocolError, Reason
from exporter.health.access_url import Identity
from exporter.targets.replica_identity import MAX_BODY_BYTES, PATH, Introduction, StrangerError, identify
from exporter.wire.url import Origin
from tests.support.certificates import Authority
from tests.support.ports import free_port
from tests.support.raw_http import json_response, response
from tests.support.scripted_server import answer, hang, serve

DATA = Path(__file__).parents[1] / "data" / "coder"
# Nothing here takes this long; it only keeps a fault from hanging a test.
PATIENCE_SECONDS = 20.0
ACCESS_ORIGIN = Origin(scheme="https", host="coder.example.com", port=443)
VERSION = {"X_Coder_Build_Version": "v2.26.0"}


async def ask(
    server: Origin,
    access_origin: Origin = ACCESS_ORIGIN,
    *,
    ca_file: Path | None = None,
    timeout_seconds: float = PATIENCE_SECONDS,
) -> Introduction:
    clock = SystemClock()
    return await identify(
        server, access_origin, ca_file=ca_file, clock=clock, deadline_seconds=clock.monotonic() + timeout_seconds
    )


async def refuse(sent: bytes) -> ProbeError:
    """Return what is raised when a server answers this."""
    async with serve(answer(sent)) as server:
        with pytest.raises(ProbeError) as raised:
            await ask(server.origin())
    return raised.value


# who says what


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        pytest.param(
            '{"version": "v2.26.0", "deployment_id": "ours", "workspace_proxy": false}',
            Identity(version="v2.26.0", deployment_id="ours", access_url_host=None, workspace_proxy=False),
            id="replica",
        ),
        pytest.param(
            '{"version": "v2.26.0", "workspace_proxy": true, "dashboard_url": "https://coder.example.com"}',
            Identity(version="v2.26.0", deployment_id=None, access_url_host="coder.example.com", workspace_proxy=True),
            id="proxy",
        ),
        pytest.param(
            '{"version": "v0.14.0", "external_url": "https://example.com"}',
            Identity(version="v0.14.0", deployment_id=None, access_url_host=None, workspace_proxy=False),
            id="old server",
        ),
        pytest.param(
            '{"version": "v2.26.0", "deployment_id": "", "workspace_proxy": "true"}',
            Identity(version="v2.26.0", deployment_id=None, access_url_host=None, workspace_proxy=False),
            id="says nothing",
        ),
    ],
)
async def test_an_introduction_is_what_was_said_and_where(body: str, expected: Identity) -> None:
    """The IP address stands beside it, also where a name was asked."""
    async with serve(answer(json_response(body))) as server:
        for host in ("127.0.0.1", "localhost"):
            assert Introduction(identity=expected, address="127.0.0.1") == await ask(server.origin(host))


async def test_a_real_server_introduces_itself() -> None:
    """As Coder v2.26 does."""
    body = (DATA / "buildinfo.json").read_text()
    async with serve(answer(json_response(body, **VERSION))) as server:
        met = await ask(server.origin())
    assert met.is_of("d0b40f78-f5c2-4630-8ad9-3612645e5045")
    assert ("v2.26.0", "127.0.0.1") == (met.identity.version, met.identity.access_url_host)


@pytest.mark.parametrize(
    ("told", "proxy", "asked", "expected"),
    [
        ("ours", False, "ours", True),
        ("another", False, "ours", False),
        (None, False, "ours", False),
        ("ours", False, "", False),
        (None, False, "", True),
        ("ours", True, "ours", False),
        (None, True, "", False),
    ],
    ids=["ours", "another", "no id", "one to none", "old servers", "proxy", "proxy of old servers"],
)
def test_whose_replica_it_is(told: str | None, proxy: bool, asked: str, expected: bool) -> None:
    """A replica of a deployment says its id, or as little of one as the others do; a proxy is none."""
    identity = Identity(version="v2.26.0", deployment_id=told, access_url_host=None, workspace_proxy=proxy)
    assert expected is Introduction(identity=identity, address="127.0.0.1").is_of(asked)


# how it is asked


async def test_the_question_bears_nothing_of_ours() -> None:
    """It is one request under the name of the access URL, with nothing in it that lets anybody in."""
    async with serve(answer(json_response('{"version": "v2.26.0"}'))) as server:
        await ask(server.origin())
    (head,) = server.requests
    request, *lines = head.decode().rstrip("\r\n").split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    assert f"GET {PATH} HTTP/1.1" == request
    assert ACCESS_ORIGIN.host_header == headers["host"]
    assert {"host", "user-agent", "accept", "connection"} == headers.keys()


async def test_nobody_is_followed_elsewhere() -> None:
    """Where a redirect leads, somebody else would answer for the replica."""
    async with serve(answer(json_response('{"version": "v2.26.0"}'))) as elsewhere:
        error = await refuse(response(307, Location=f"{elsewhere.origin()}{PATH}"))
    assert (StrangerError, Reason.STATUS) == (type(error), error.reason)
    assert 0 == elsewhere.connections


async def test_tls_asks_for_the_name_of_the_access_url(tmp_path: Path) -> None:
    """A replica's certificate bears it; its own address need not stand there."""
    authority = await asyncio.to_thread(Authority, tmp_path)
    context = await asyncio.to_thread(authority.serve, ACCESS_ORIGIN.host)
    async with serve(answer(json_response('{"version": "v2.26.0"}')), ssl_context=context) as server:
        met = await ask(server.origin(), ca_file=authority.ca_file)
    assert ("v2.26.0", "127.0.0.1") == (met.identity.version, met.address)


async def test_a_certificate_for_another_name(tmp_path: Path) -> None:
    """Who cannot show ours is not even asked, and has not said who it is."""
    authority = await asyncio.to_thread(Authority, tmp_path)
    context = await asyncio.to_thread(authority.serve, "other.example.com", "127.0.0.1")
    async with serve(answer(json_response('{"version": "v2.26.0"}')), ssl_context=context) as server:
        with pytest.raises(CertificateError):
            await ask(server.origin(), ca_file=authority.ca_file)
    assert [] == server.requests


# who is somebody else, and who only cannot say


@pytest.mark.parametrize(
    ("sent", "reason", "message"),
    [
        pytest.param(response(404, b"not found"), Reason.STATUS, "answered status 404", id="404"),
        pytest.param(response(404, **VERSION), Reason.STATUS, "answered status 404", id="coder's 404"),
        pytest.param(response(401, **VERSION), Reason.STATUS, "answered status 401", id="coder's 401"),
        pytest.param(response(503, b"no healthy upstream"), Reason.STATUS, "answered status 503", id="503"),
        pytest.param(response(429), Reason.STATUS, "answered status 429", id="429"),
        pytest.param(response(204, **VERSION), Reason.STATUS, "answered status 204", id="204"),
        pytest.param(response(200, b"<html>"), Reason.BODY, "the body is not JSON", id="page"),
        pytest.param(response(200), Reason.BODY, "the body is not JSON", id="nothing"),
        pytest.param(json_response("[]", **VERSION), Reason.BODY, "a list instead of an object", id="list"),
        pytest.param(json_response('{"status": "ok"}'), Reason.BODY, "without a version", id="other json"),
        pytest.param(json_response('{"version": 2}'), Reason.BODY, "without a version", id="number"),
        pytest.param(
            json_response('{"version": "v2.26.0", "x": "' + "x" * MAX_BODY_BYTES + '"}'),
            Reason.BODY,
            "the body is not JSON",
            id="too long",
        ),
        pytest.param(b"SSH-2.0-OpenSSH_9.2\r\n", Reason.PROTOCOL, "SSH-2.0", id="not http"),
        pytest.param(b"", Reason.PROTOCOL, "closed the connection without an answer", id="hangs up"),
    ],
)
async def test_an_answer_that_is_not_coders(sent: bytes, reason: Reason, message: str) -> None:
    """Somebody else has the address, whatever that is; the reason says what came."""
    error = await refuse(sent)
    assert (StrangerError, reason) == (type(error), error.reason)
    assert message in error.message


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        pytest.param(response(500, **VERSION), 500, id="500"),
        pytest.param(response(503, **VERSION), 503, id="503"),
        pytest.param(response(429, **VERSION), 429, id="429"),
        pytest.param(
            json_response('{"message": "An internal error occurred. Please try again."}', 500), 500, id="by its words"
        ),
    ],
)
async def test_coder_in_trouble_is_nobody_else(sent: bytes, status: int) -> None:
    """Its header or its words show that it is Coder; who exactly, it cannot say now."""
    error = await refuse(sent)
    assert (ProbeError, Reason.STATUS) == (type(error), error.reason)
    assert f"answered status {status}" in error.message


async def test_an_answer_that_breaks_off() -> None:
    """What was lost on the way may have been Coder's."""
    whole = json_response('{"version": "v2.26.0"}')
    error = await refuse(whole[:-1])
    assert (ProtocolError, Phase.TRANSFER) == (type(error), error.phase)


async def test_nobody_is_no_stranger() -> None:
    """A port where nobody listens tells nothing of who was there."""
    with pytest.raises(ConnectError) as raised:
        await ask(Origin(scheme="http", host="127.0.0.1", port=free_port()))
    assert Reason.REFUSED is raised.value.reason


async def test_silence_is_no_stranger() -> None:
    """Who takes the connection and says nothing may be a replica that hangs."""
    async with serve(hang()) as server:
        with pytest.raises(DeadlineError):
            await ask(server.origin(), timeout_seconds=0.2)
        await server.script_done.wait()
    assert 1 == server.connections
