"""The HTTP server: a real one on loopback, asked by a real client, and by clients that misbehave."""

from __future__ import annotations

import asyncio
import gzip
import logging
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from exporter.errors import ConfigError
from exporter.metrics.negotiation import Format
from exporter.web.pages import STYLE_DIGEST, Landing
from exporter.web.server import Health, Limits, create_app, parse_listen_address, serve
from tests.support.ports import free_port

NOW = 1_795_000_000.0
LANDING = Landing(version="1.2.3", now_timestamp_seconds=NOW, deployments=())


def make_app(**more: Any) -> web.Application:
    callables: dict[str, Any] = {
        "render": lambda wanted: [b"# TYPE x gauge\n", b"x 1.0\n", wanted.name.encode()],
        "healthy": lambda: None,
        "ready": lambda: None,
        "config_text": lambda: "session_token: <secret>\n",
        "landing": lambda: LANDING,
        "health": lambda deployment: Health(version="1.2.3", now_timestamp_seconds=NOW, deployments=()),
    }
    return create_app(**(callables | more))


@asynccontextmanager
async def serving(limits: Limits | None = None, **more: Any) -> AsyncIterator[tuple[aiohttp.ClientSession, str]]:
    """A running server: a client that neither packs nor negotiates by itself, and the server's URL."""
    async with AsyncExitStack() as stack:
        addresses = await stack.enter_async_context(serve(make_app(**more), ["127.0.0.1:0"], limits=limits or Limits()))
        session = await stack.enter_async_context(
            aiohttp.ClientSession(auto_decompress=False, skip_auto_headers=("Accept", "Accept-Encoding"))
        )
        yield session, f"http://{addresses[0]}"


async def connect(url: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, _, port = url.removeprefix("http://").rpartition(":")
    return await asyncio.open_connection(host.strip("[]"), int(port))


async def test_metrics_are_text_unless_asked_otherwise() -> None:
    """Without an Accept header the parts are joined as text 0.0.4, not packed."""
    async with serving() as (session, url), session.get(f"{url}/metrics") as answer:
        assert await answer.read() == b"# TYPE x gauge\nx 1.0\nTEXT"
        assert answer.status == 200
        assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
        assert answer.headers["Vary"] == "Accept, Accept-Encoding"
        assert "Content-Encoding" not in answer.headers


async def test_metrics_are_negotiated_and_packed() -> None:
    """OpenMetrics and gzip when both are asked for."""
    headers = {"Accept": "application/openmetrics-text;version=1.0.0,text/plain;q=0.5", "Accept-Encoding": "gzip"}
    async with serving() as (session, url), session.get(f"{url}/metrics", headers=headers) as answer:
        assert gzip.decompress(await answer.read()) == b"# TYPE x gauge\nx 1.0\nOPENMETRICS"
        assert answer.headers["Content-Type"] == "application/openmetrics-text; version=1.0.0; charset=utf-8"
        assert answer.headers["Content-Encoding"] == "gzip"


async def test_several_accept_headers_are_one_list() -> None:
    """The second header counts as much as the first."""
    headers = [("Accept", "text/plain;q=0.1"), ("Accept", "application/openmetrics-text")]
    async with serving() as (session, url), session.get(f"{url}/metrics", headers=headers) as answer:
        assert (await answer.read()).endswith(b"OPENMETRICS")


@pytest.mark.parametrize("accept", ["application/openmetrics-text;version=abc", "text/plain;version=x", "\xff;=,q"])
async def test_a_nonsense_accept_header_gets_text(accept: str) -> None:
    """What breaks other exporters is answered with text here."""
    async with serving() as (_, url):
        reader, writer = await connect(url)
        writer.write(f"GET /metrics HTTP/1.1\r\nHost: x\r\nAccept: {accept}\r\nConnection: close\r\n\r\n".encode())
        answer = await reader.read()
        writer.close()
        assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
        assert answer.endswith(b"x 1.0\nTEXT")


@pytest.mark.parametrize("encoding", ["gzip", "identity"])
async def test_large_bodies_are_the_same_from_the_thread(encoding: str) -> None:
    """A body of many parts is packed aside; every part is there, in order."""
    parts = [f'x{{n="{n}"}} 1.0\n'.encode() for n in range(20_000)]
    async with serving(render=lambda _: parts) as (session, url):
        answers = await asyncio.gather(
            *(session.get(f"{url}/metrics", headers={"Accept-Encoding": encoding}) for _ in range(4))
        )
        for answer in answers:
            body = await answer.read()
            assert b"".join(parts) == (gzip.decompress(body) if encoding == "gzip" else body)


async def test_a_head_request_gets_the_headers_only() -> None:
    """HEAD on every page: the length of what GET would send, and nothing of it."""
    async with serving() as (session, url):
        for path in ("/", "/metrics", "/config", "/-/healthy", "/-/ready"):
            async with session.get(url + path) as full, session.head(url + path) as head:
                assert await head.read() == b""
                assert head.status == 200
                assert head.headers["Content-Length"] == str(len(await full.read()))


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH"])
async def test_other_methods_are_refused(method: str) -> None:
    """405, and what is allowed."""
    async with serving() as (session, url):
        for path in ("/", "/metrics", "/config", "/-/healthy"):
            async with session.request(method, url + path, data=b"x") as answer:
                assert answer.status == 405
                assert answer.headers["Allow"] == "GET,HEAD"


async def test_an_unknown_path_is_a_short_404() -> None:
    """No page, no echo of the path."""
    async with serving() as (session, url), session.get(f"{url}/<script>alert(1)</script>") as answer:
        assert answer.status == 404
        assert await answer.text() == "404: Not Found"


async def test_health_and_readiness_say_why() -> None:
    """200 while all is well, 503 with the sentence while it is not."""
    trouble: dict[str, str | None] = {"healthy": None, "ready": "waiting for prod/database"}
    async with serving(healthy=lambda: trouble["healthy"], ready=lambda: trouble["ready"]) as (session, url):
        seen = []
        for _ in range(2):
            for path in ("/-/healthy", "/-/ready"):
                async with session.get(url + path) as answer:
                    seen.append((answer.status, await answer.text()))
            trouble = {"healthy": "no run for 90 s", "ready": None}
    assert seen == [
        (200, "healthy\n"),
        (503, "waiting for prod/database\n"),
        (503, "no run for 90 s\n"),
        (200, "ready\n"),
    ]


async def test_pages_carry_headers_that_allow_nothing_more_than_they_need() -> None:
    """Also on errors; the server's software is not told."""
    async with serving() as (session, url):
        for path in ("/", "/metrics", "/config", "/nothing"):
            async with session.get(url + path) as answer:
                assert answer.headers["X-Content-Type-Options"] == "nosniff"
                assert answer.headers["X-Frame-Options"] == "DENY"
                assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
                assert f"'{STYLE_DIGEST}'" in answer.headers["Content-Security-Policy"]
                assert answer.headers["Server"] == "coder-health-exporter"
                assert answer.headers["Cache-Control"] == "no-store"


async def test_the_configuration_and_the_landing_page_are_shown() -> None:
    """YAML as it was handed in; HTML with a link to the telemetry path."""
    async with serving(telemetry_path="/internal/metrics") as (session, url):
        async with session.get(f"{url}/config") as answer:
            assert answer.headers["Content-Type"] == "text/yaml; charset=utf-8"
            assert await answer.text() == "session_token: <secret>\n"
        async with session.get(f"{url}/") as answer:
            assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
            assert 'href="internal/metrics"' in await answer.text()
        async with session.get(f"{url}/internal/metrics") as answer:
            assert answer.status == 200
        async with session.get(f"{url}/metrics") as answer:
            assert answer.status == 404


async def test_text_that_utf_8_cannot_hold_is_shown_all_the_same() -> None:
    """Half a surrogate pair in a name breaks no page."""
    async with serving(config_text=lambda: "name: \ud800\n", healthy=lambda: "\ud800") as (session, url):
        async with session.get(f"{url}/config") as answer:
            assert (answer.status, await answer.text()) == (200, "name: ?\n")
        async with session.get(f"{url}/-/healthy") as answer:
            assert (answer.status, await answer.text()) == (503, "?\n")


async def test_metrics_may_stand_at_the_root() -> None:
    """Then there is no landing page."""
    async with serving(telemetry_path="/") as (session, url), session.get(f"{url}/") as answer:
        assert (await answer.read()).endswith(b"TEXT")


@pytest.mark.parametrize("path", ["", "metrics", "/config", "/-/ready", "/{x}", "/a b", "/a?b", "/ä"])
def test_a_telemetry_path_that_cannot_be_is_refused(path: str) -> None:
    """The flag is named, with the wanted form."""
    with pytest.raises(ConfigError, match=r"--web\.telemetry-path: .* write a path like /metrics"):
        make_app(telemetry_path=path)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (":26337", ("", 26337)),
        ("127.0.0.1:0", ("127.0.0.1", 0)),
        ("[::1]:9", ("::1", 9)),
        ("localhost:65535", ("localhost", 65535)),
    ],
)
def test_listen_addresses_are_read(text: str, wanted: tuple[str, int]) -> None:
    """Every form of `host:port`."""
    assert wanted == parse_listen_address(text)


@pytest.mark.parametrize("text", ["", "26337", "localhost", "::1:9", "[::1]", "[::1:9", "x:65536", "x:-1", "x:", "x:²"])
def test_other_listen_addresses_are_refused(text: str) -> None:
    """The flag, the text and the wanted form are named."""
    with pytest.raises(ConfigError, match=r"--web\.listen-address: .* write it like :26337"):
        parse_listen_address(text)


def has_ipv6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


async def test_every_form_of_address_is_bound_and_reported() -> None:
    """Each can be asked at the address that was reported; `:port` answers over both families."""
    forms = ["127.0.0.1:0", ":0", "localhost:0"] + ["[::1]:0"] * has_ipv6()
    async with serve(make_app(), forms) as addresses, aiohttp.ClientSession() as session:
        assert addresses[0].startswith("127.0.0.1:")
        hosts = [address.replace("[::]:", "127.0.0.1:").replace("0.0.0.0:", "127.0.0.1:") for address in addresses]
        if has_ipv6():
            assert addresses[-1].startswith("[::1]:")
            hosts += [address.replace("[::]:", "[::1]:") for address in addresses if address.startswith("[::]:")]
        assert all(not host.endswith(":0") for host in hosts)
        for host in hosts:
            async with session.get(f"http://{host}/-/healthy") as answer:
                assert answer.status == 200


async def test_addresses_that_cannot_be_bound_are_all_named() -> None:
    """A port in use, a host of somebody else, nonsense: one error with three sentences, nothing left open."""
    free = free_port()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        in_use = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(ConfigError) as caught:
            async with serve(make_app(), [f"127.0.0.1:{free}", in_use, "192.0.2.1:0", "nonsense"]):
                pass
        assert [
            f"--web.listen-address: cannot listen on {in_use}: address already in use",
            "--web.listen-address: cannot listen on 192.0.2.1:0: cannot assign requested address",
        ] == caught.value.problems[:2]
        assert len(caught.value.problems) == 3
        socket.create_server(("127.0.0.1", free)).close()


async def test_it_stops_in_time_although_clients_hang() -> None:
    """An idle connection, half a request, an answer that nobody reads: all are cut, within a second
    (asked with fivefold slack)."""
    body = [b"x" * 65536] * 512
    loop = asyncio.get_running_loop()
    async with AsyncExitStack() as stack:
        session, url = await stack.enter_async_context(serving(render=lambda _: body))
        async with session.get(f"{url}/-/healthy") as answer:
            assert answer.status == 200
        half, half_writer = await connect(url)
        half_writer.write(b"GET /metrics HTTP/1.1\r\nHost: x\r\n")
        deaf, deaf_writer = await connect(url)
        deaf_writer.write(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
        assert await deaf.readexactly(8) == b"HTTP/1.1"
        begun = loop.time()
    assert loop.time() - begun < 5.0
    with suppress(ConnectionResetError):
        assert await half.read() == b""
    received = 0
    with suppress(ConnectionResetError):
        while data := await deaf.read(1 << 20):
            received += len(data)
    assert received < 512 * 65536
    half_writer.close()
    deaf_writer.close()
    with pytest.raises(OSError, match=r"[Cc]onnect.* (failed|refused)"):
        await connect(url)


async def test_a_client_that_never_finishes_its_header_is_cut_off() -> None:
    """It may drip bytes as it likes: after the time for the first request it is gone."""
    async with serving(Limits(first_request_seconds=0.2)) as (_, url):
        reader, writer = await connect(url)
        writer.write(b"GET /metrics HTTP/1.1\r\n")
        with suppress(ConnectionError):
            while not reader.at_eof():
                writer.write(b"X: y\r\n")
                await writer.drain()
                with suppress(TimeoutError):
                    async with asyncio.timeout(0.05):
                        assert await reader.read(1) == b""
        writer.close()


async def test_a_connection_that_has_asked_is_kept() -> None:
    """The time for the first request no longer counts once it has come."""
    async with serving(Limits(first_request_seconds=0.5)) as (_, url):
        reader, writer = await connect(url)
        for _ in range(2):
            writer.write(b"HEAD /-/healthy HTTP/1.1\r\nHost: x\r\n\r\n")
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 OK")
            # one that comes after it and says nothing is cut off before it
            silent_reader, silent_writer = await connect(url)
            with suppress(ConnectionResetError):
                assert await silent_reader.read() == b""
            silent_writer.close()
        writer.close()


async def test_a_client_that_does_not_read_its_answer_is_cut_off() -> None:
    """The answer's time is up, also while the server waits for room to write."""
    body = [b"x" * 65536] * 512
    loop = asyncio.get_running_loop()
    async with serving(
        Limits(first_request_seconds=60.0, idle_seconds=0.1, answer_seconds=0.2), render=lambda _: body
    ) as (_, url):
        host, port = url.removeprefix("http://").split(":")
        with socket.socket() as deaf:
            deaf.setblocking(False)
            await loop.sock_connect(deaf, (host, int(port)))
            await loop.sock_sendall(deaf, b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")

            async def write_until_cut() -> None:
                while True:
                    await loop.sock_sendall(deaf, b"\r\n")
                    await asyncio.sleep(0.02)

            with pytest.raises(ConnectionError):
                await write_until_cut()


async def test_silent_connections_make_room_for_those_that_ask() -> None:
    """Beyond the limit the oldest that never asked goes; one that has asked stays."""
    async with serving(Limits(connections=3)) as (session, url):
        async with session.get(f"{url}/-/healthy") as answer:
            kept = answer.connection
        silent = [await connect(url) for _ in range(5)]
        assert await silent[0][0].read() == b""
        assert await silent[2][0].read() == b""
        async with session.get(f"{url}/-/healthy") as answer:
            assert answer.status == 200
        assert kept is None or not kept.closed
        silent[4][1].write(b"GET /-/healthy HTTP/1.1\r\nHost: x\r\n\r\n")
        assert await silent[4][0].readexactly(15) == b"HTTP/1.1 200 OK"
        for _, writer in silent:
            writer.close()


async def test_when_every_connection_has_asked_a_newcomer_has_to_go() -> None:
    """The limit holds."""
    async with serving(Limits(connections=1)) as (session, url):
        async with session.get(f"{url}/-/healthy"):
            pass
        reader, writer = await connect(url)
        with suppress(ConnectionResetError):
            assert await reader.read() == b""
        writer.close()


@pytest.mark.parametrize(
    "nonsense", [b"\x16\x03\x01\x02\x00\x01\x00\n\n", b"GET / HTTP/1.1\r\nX: " + b"a" * 10_000 + b"\r\n\r\n"]
)
async def test_what_is_no_http_gets_a_400_and_no_traceback(nonsense: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """Bytes of another protocol and endless headers end in an answer; the log stays quiet."""
    async with serving() as (_, url):
        with caplog.at_level(logging.INFO):
            reader, writer = await connect(url)
            writer.write(nonsense)
            assert (await reader.read()).startswith(b"HTTP/1.0 400 Bad Request")
            writer.close()
    assert [record.getMessage() for record in caplog.records if record.name.startswith("exporter")] == []


async def test_a_page_that_breaks_is_logged_and_tells_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """500 without a word of the error; the log has it."""

    def broken() -> str:
        raise ValueError("the secret reason")

    async with serving(config_text=broken) as (session, url), session.get(f"{url}/config") as answer:
        assert answer.status == 500
        assert "secret reason" not in await answer.text()
    assert "the secret reason" in caplog.text


async def test_a_commit_between_two_parts_cannot_be_seen() -> None:
    """What is rendered is taken at once: parts that change afterwards do not change the answer."""
    state = {"value": 0}

    def render(_: Format) -> list[bytes]:
        state["value"] += 1
        return [f"x{n} {state['value']}\n".encode() for n in range(1000)]

    async with serving(render=render) as (session, url):
        answers = await asyncio.gather(*(session.get(f"{url}/metrics") for _ in range(5)))
        for answer in answers:
            assert len({line.split()[1] for line in (await answer.text()).splitlines()}) == 1


async def test_it_serves_on_uvloop() -> None:
    """The same protocol on the loop that is used where it exists."""
    uvloop = pytest.importorskip("uvloop")

    async def ask() -> int:
        async with serving() as (session, url), session.get(f"{url}/metrics") as answer:
            return answer.status

    def run(new_loop: Callable[[], asyncio.AbstractEventLoop]) -> int:
        with asyncio.Runner(loop_factory=new_loop) as runner:
            return runner.run(ask())

    assert await asyncio.to_thread(run, uvloop.new_event_loop) == 200
