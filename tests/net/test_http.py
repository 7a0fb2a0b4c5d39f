"""GET and upgrade against good and hostile servers, on both event loops."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from exporter import __version__
from exporter.clock import SystemClock
from exporter.errors import DeadlineError, Phase, ProbeError, ProtocolError, Reason
from exporter.net import http
from exporter.net.http import Exchange, HTTP2Error, Upgraded
from exporter.net.tls import load_ssl_context
from exporter.wire.url import Origin
from tests.support.certificates import Authority
from tests.support.connections import Listener
from tests.support.ports import free_port
from tests.support.scripted_server import (
    Reader,
    Script,
    ScriptedServer,
    answer,
    dribble,
    flood,
    hang,
    reset,
    serve,
)

CLOCK = SystemClock()
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nOK"


async def get(server: ScriptedServer, path: str = "/healthz", *, seconds: float = 10.0, **more: Any) -> Exchange:
    return await http.get(
        more.pop("origin", server.origin()),
        path,
        address=server.address,
        deadline_seconds=CLOCK.monotonic() + seconds,
        clock=CLOCK,
        ssl_context=more.pop("ssl_context", None),
        **more,
    )


async def get_from(script: Script, **more: Any) -> Exchange:
    async with serve(script) as server:
        return await get(server, **more)


# ---- good answers


async def test_a_plain_answer_has_status_headers_body_and_phases() -> None:
    """A good answer gives everything that was on the wire, and the time of each phase but TLS."""
    said = b"HTTP/1.1 200 OK\r\nX-Coder-Build-Version: v2.26.0\r\nContent-Length: 2\r\n\r\nOK"
    exchange = await get_from(answer(said))
    assert exchange.error is None
    assert (200, b"OK", False) == (exchange.status, exchange.body, exchange.body_truncated)
    assert {"x-coder-build-version": "v2.26.0", "content-length": "2"} == exchange.headers
    assert {Phase.CONNECT, Phase.PROCESSING, Phase.TRANSFER} == exchange.phase_seconds.keys()
    assert all(0 <= seconds < 10 for seconds in exchange.phase_seconds.values())
    assert "127.0.0.1" == exchange.address
    assert exchange.certificates is None


async def test_the_request_says_who_asks_and_wants_one_plain_answer() -> None:
    """Host, User-Agent and the given headers are sent; no compression, no further request."""
    async with serve(answer(OK)) as server:
        await get(server, "/a?b=c", headers={"Coder-Session-Token": "secret"}, origin=server.origin("coder.test"))
    lines = server.requests[0].decode().split("\r\n")
    assert "GET /a?b=c HTTP/1.1" == lines[0]
    assert {
        f"Host: coder.test:{server.port}",
        f"User-Agent: coder-health-exporter/{__version__}",
        "Accept: */*",
        "Connection: close",
        "Coder-Session-Token: secret",
        "",
    } == set(lines[1:])


@pytest.mark.parametrize(
    "pieces",
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", b"he", b"llo"),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            b"2\r\nhe\r\n3;a=b\r\nl",
            b"lo\r\n0\r\nX-T: 1\r\n\r\n",
        ),
        (b"HTTP/1.1 200 OK\r\n\r\n", b"hel", b"lo"),
        (b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n\r\nhello",),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\nhello"),
        (b"HTTP/1.1 200 \r\nContent-Length: 5\r\n\r\nhello and more that nobody asked for",),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: x\r\n\r\nhello",),
    ],
    ids=["length", "chunked", "until-close", "http10", "interim", "too-much", "odd-coding"],
)
async def test_each_way_to_frame_a_body(pieces: tuple[bytes, ...]) -> None:
    """By length, in chunks, until the connection closes: the body is the same."""
    exchange = await get_from(answer(*pieces))
    assert exchange.error is None
    assert (200, b"hello", False) == (exchange.status, exchange.body, exchange.body_truncated)
    assert "link" not in exchange.headers
    assert "x-t" not in exchange.headers


@pytest.mark.parametrize("status", [204, 304])
async def test_an_answer_without_body_does_not_wait_for_one(status: int) -> None:
    """204 and 304 are complete with their headers, also on a connection that stays open."""

    async def script(reader: Reader, writer: asyncio.StreamWriter) -> None:
        await reader.read_request()
        writer.write(f"HTTP/1.1 {status} Fine\r\nX-A: b\r\n\r\n".encode())
        await hang()(reader, writer)

    exchange = await get_from(script)
    assert (status, b"", None) == (exchange.status, exchange.body, exchange.error)


async def test_repeated_headers_first_wins_all_stay() -> None:
    """The mapping has the first value; every value can be had."""
    exchange = await get_from(answer(b"HTTP/1.1 200 OK\r\nVia: a\r\nVIA: b\r\nContent-Length: 0\r\n\r\n"))
    assert "a" == exchange.headers["via"]
    assert ("a", "b") == exchange.header_values("via")


async def test_a_redirect_is_an_answer() -> None:
    """A redirect is reported, not followed."""
    async with serve(answer(b"HTTP/1.1 302 Found\r\nLocation: /login\r\nContent-Length: 0\r\n\r\n")) as server:
        exchange = await get(server)
    assert (302, "/login") == (exchange.status, exchange.headers["location"])
    assert 1 == server.connections


async def test_each_request_has_a_connection_of_its_own() -> None:
    """Two requests are two connections, even where the server would keep one open."""

    async def script(reader: Reader, writer: asyncio.StreamWriter) -> None:
        await reader.read_request()
        writer.write(OK)
        await hang()(reader, writer)

    async with serve(script) as server:
        assert b"OK" == (await get(server)).body
        assert b"OK" == (await get(server)).body
        assert 2 == server.connections


async def test_ipv6_loopback() -> None:
    """An IPv6 address is connected to and shown without brackets."""
    try:
        async with serve(answer(OK), host="::1") as server:
            exchange = await get(server)
    except OSError as error:
        pytest.skip(f"this host has no IPv6 loopback: {error}")
    assert (200, "::1", None) == (exchange.status, exchange.address, exchange.error)
    assert f"Host: [::1]:{server.port}".encode() in server.requests[0]


# ---- bodies without measure


async def test_an_endless_body_is_cut_without_error() -> None:
    """Reading stops at the cap; that is no error."""
    exchange = await get_from(flood(b"HTTP/1.1 200 OK\r\n\r\n", repeat=b"x" * 65536), max_body_bytes=100_000)
    assert exchange.error is None
    assert (200, 100_000, True) == (exchange.status, len(exchange.body), exchange.body_truncated)


@pytest.mark.parametrize(("cap", "cut"), [(4, True), (5, False), (6, False)])
async def test_the_cap_itself_still_fits(cap: int, cut: bool) -> None:
    """A body of exactly the cap is whole, one byte more is cut."""
    exchange = await get_from(answer(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"), max_body_bytes=cap)
    assert (b"hello"[:cap], cut, None) == (exchange.body, exchange.body_truncated, exchange.error)


async def test_a_gzip_bomb_stays_small() -> None:
    """A compressed body is neither asked for nor unpacked."""
    bomb = gzip.compress(b"\0" * 5_000_000)
    head = f"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: {len(bomb)}\r\n\r\n".encode()
    async with serve(answer(head, bomb)) as server:
        exchange = await get(server)
    assert bomb == exchange.body
    assert b"accept-encoding" not in server.requests[0].lower()


async def test_a_foreign_content_type_is_a_fact_not_an_error() -> None:
    """Any content type, also a senseless one, comes through."""
    exchange = await get_from(answer(b"HTTP/1.1 200 OK\r\nContent-Type: \xff/;;\r\nContent-Length: 2\r\n\r\n\xff\xfe"))
    assert ("ÿ/;;", b"\xff\xfe", None) == (exchange.headers["content-type"], exchange.body, exchange.error)


# ---- answers that break the rules


@pytest.mark.parametrize(
    ("script", "words"),
    [
        (answer(b"SSH-2.0-OpenSSH_9.2p1 Debian-2+deb12u3 and a very long comment indeed\r\n"), "not an HTTP answer"),
        (answer(b"\x00\x01\x02\x03"), "not an HTTP answer"),
        (answer(b"HTTP/1.1 abc\r\n\r\n"), "not an HTTP answer"),
        (answer(b"HTTP/1.1 200 OK\r\nA\x00B: c\r\n\r\n"), "not an HTTP answer"),
        (answer(b"HTTP/1.1 200 OK\r\nA: b\x01\r\n\r\n"), "not an HTTP answer"),
        (answer(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab"), "not an HTTP answer"),
        (answer(b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n"), "not an HTTP answer"),
        (answer(), "without an answer"),
        (answer(b"HTTP/1.1 200 OK\r\nConte"), "within the headers"),
        (answer(b"HTTP/1.1 100 Continue\r\n\r\n"), "within the headers"),
        (flood(b"HTTP/1.1 200 OK\r\nA: ", repeat=b"x" * 8192), "64 KiB"),
        (flood(b"HTTP/1.1 200 OK\r\n", repeat=b"A: b\r\n" * 100), "128 headers"),
        (flood(b"HTTP/1.1 200 ", repeat=b"x" * 8192), "64 KiB"),
        (flood(repeat=b"HTTP/1.1 100 Continue\r\n\r\n" * 100), "64 KiB"),
        (answer(b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 129 + b"Content-Length: 0\r\n\r\n"), "128 headers"),
        (answer(b"HTTP/1.1 200 OK\r\nA: " + b"x" * 65536 + b"\r\nContent-Length: 0\r\n\r\n"), "64 KiB"),
    ],
    ids=range(16),
)
async def test_no_answer_in_these_bytes(script: Script, words: str) -> None:
    """Garbage, endless headers and early ends are protocol errors in words."""
    exchange = await get_from(script)
    assert isinstance(exchange.error, ProtocolError)
    assert words in exchange.error.message
    assert len(exchange.error.message) < 250
    assert Reason.PROTOCOL is exchange.error.reason
    assert Phase.TRANSFER not in exchange.phase_seconds
    assert Phase.CONNECT in exchange.phase_seconds
    assert len(exchange.header_list) <= 129


@pytest.mark.parametrize(
    ("script", "words"),
    [
        (answer(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello"), "within the body"),
        (answer(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"), "within the body"),
        (answer(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nzz\r\n"), "malformed body"),
        (reset(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello"), "broke the connection"),
        (
            flood(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nA: ", repeat=b"x" * 8192),
            "more framing than body",
        ),
        (
            flood(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n5;", repeat=b"x" * 8192),
            "more framing than body",
        ),
    ],
    ids=["short", "unended", "bad-chunk", "reset", "endless-trailer", "endless-extension"],
)
async def test_trouble_in_the_body_keeps_what_was_there(script: Script, words: str) -> None:
    """Status, headers and the body so far stay when only the body failed."""
    exchange = await get_from(script)
    assert isinstance(exchange.error, ProtocolError)
    assert words in exchange.error.message
    assert Phase.TRANSFER is exchange.error.phase
    assert (200, b"hello") == (exchange.status, exchange.body)
    assert exchange.headers
    assert Phase.TRANSFER not in exchange.phase_seconds


async def test_more_chunks_than_body_is_an_end() -> None:
    """A body in chunks of one byte with long extensions ends by the amount on the wire."""
    piece = b"1;" + b"x" * 1000 + b"\r\na\r\n"
    exchange = await get_from(
        flood(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", repeat=piece * 10), max_body_bytes=1000
    )
    assert isinstance(exchange.error, ProtocolError)
    assert "more framing than body" in exchange.error.message


async def test_a_reset_before_the_answer() -> None:
    """RST instead of an answer is a protocol error while waiting for it."""
    exchange = await get_from(reset())
    assert isinstance(exchange.error, ProtocolError)
    assert "ECONNRESET" in exchange.error.message
    assert Phase.PROCESSING is exchange.error.phase
    assert exchange.status is None


async def test_an_excerpt_is_short_and_from_the_beginning() -> None:
    """A message quotes the first bytes only, so nothing that a server echoes later gets into it."""
    exchange = await get_from(answer(b"garbage " * 5 + b"Coder-Session-Token: secret\r\n\r\n"))
    assert exchange.error is not None
    assert "garbage" in exchange.error.message
    assert "secret" not in exchange.error.message


async def test_switching_protocols_unasked_is_an_error() -> None:
    """A 101 that nobody asked for is a protocol error with its status."""
    exchange = await get_from(answer(b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n"))
    assert isinstance(exchange.error, ProtocolError)
    assert 101 == exchange.status


async def test_an_offer_to_upgrade_is_an_ordinary_answer() -> None:
    """Upgrade headers on another status than 101 change nothing."""
    said = b"HTTP/1.1 426 Upgrade Required\r\nUpgrade: x\r\nConnection: Upgrade\r\nContent-Length: 2\r\n\r\nno"
    exchange = await get_from(answer(said))
    assert (426, b"no", None) == (exchange.status, exchange.body, exchange.error)


async def test_a_half_closed_server_is_heard_to_the_end() -> None:
    """A server that closes only its own side has said everything."""

    async def script(reader: Reader, writer: asyncio.StreamWriter) -> None:
        await reader.read_request()
        writer.write(b"HTTP/1.1 200 OK\r\n\r\nhello")
        writer.write_eof()
        await hang()(reader, writer)

    exchange = await get_from(script)
    assert (200, b"hello", None) == (exchange.status, exchange.body, exchange.error)


@pytest.mark.parametrize("value", ["a\r\nX-Evil: 1", "a\nb", "a\0b", "snow ☃"])
async def test_a_header_that_cannot_be_sent_is_not_sent(value: str) -> None:
    """A header that would smuggle in another one ends before any connection, and is not quoted."""
    async with serve(answer(OK)) as server:
        exchange = await get(server, headers={"Coder-Session-Token": value})
        assert 0 == server.connections
    assert type(exchange.error) is ProbeError
    assert Reason.INTERNAL is exchange.error.reason
    assert value not in exchange.error.message
    assert {} == exchange.phase_seconds


async def test_a_path_that_cannot_be_sent_is_not_sent() -> None:
    """A path with a space or a line break ends before any connection."""
    async with serve(answer(OK)) as server:
        exchange = await get(server, "/a HTTP/1.1\r\nX: y")
        assert 0 == server.connections
    assert type(exchange.error) is ProbeError


# ---- time


@pytest.mark.parametrize(
    ("script", "phase", "status"),
    [
        (hang(), Phase.PROCESSING, None),
        (dribble(b"HTTP/1.1 200 OK\r\nA: "), Phase.TRANSFER, None),
        (dribble(b"HTTP/1.1 200 OK\r\n\r\n"), Phase.TRANSFER, 200),
        (dribble(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;"), Phase.TRANSFER, 200),
        (dribble(drop=b"HTTP/1.1 100 Continue\r\n\r\n"), Phase.TRANSFER, None),
    ],
    ids=["silence", "headers", "body", "extension", "interim"],
)
async def test_the_deadline_holds_against_dribbling(script: Script, phase: Phase, status: int | None) -> None:
    """A peer that is silent, or sends a byte now and then for ever, costs no more than the budget."""
    started = CLOCK.monotonic()
    exchange = await get_from(script, seconds=0.4)
    assert CLOCK.monotonic() - started < 2.0
    assert isinstance(exchange.error, DeadlineError)
    assert (Reason.TIMEOUT, phase, status) == (exchange.error.reason, exchange.error.phase, exchange.status)
    assert phase not in exchange.phase_seconds
    assert exchange.error.__traceback__ is None


async def test_a_deadline_that_is_over_already() -> None:
    """Without any time left the answer is a deadline error, not an exception."""
    exchange = await get_from(answer(OK), seconds=-1.0)
    assert isinstance(exchange.error, DeadlineError)


async def test_cancelling_closes_the_socket() -> None:
    """A request that is cancelled while it waits goes, and the server sees it."""
    asked = asyncio.Event()

    async def script(reader: Reader, writer: asyncio.StreamWriter) -> None:
        await reader.read_request()
        asked.set()
        await hang()(reader, writer)

    async with serve(script) as server:
        task = asyncio.create_task(get(server))
        await asked.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        async with asyncio.timeout(5):
            await server.script_done.wait()


# ---- upgrade


async def ask_upgrade(server: ScriptedServer, *, seconds: float = 10.0) -> Upgraded | Exchange:
    return await http.upgrade(
        server.origin(),
        "/derp",
        address=server.address,
        deadline_seconds=CLOCK.monotonic() + seconds,
        clock=CLOCK,
        ssl_context=None,
        headers={"Upgrade": "DERP"},
    )


SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: DERP\r\nConnection: Upgrade\r\nDerp-Version: 2\r\n\r\n"


async def test_bytes_after_the_switch_are_not_lost() -> None:
    """What came with the 101, and what comes later, reaches who is handed the connection."""

    async def script(reader: Reader, writer: asyncio.StreamWriter) -> None:
        await reader.read_request()
        writer.write(SWITCH + b"first")
        writer.write(b" said: " + await reader.readexactly(5))

    async with serve(script) as server:
        upgraded = await ask_upgrade(server)
        assert isinstance(upgraded, Upgraded)
        assert (101, "2") == (upgraded.exchange.status, upgraded.exchange.headers["derp-version"])
        assert upgraded.leftover.startswith(b"first")
        listener = Listener()
        upgraded.hand_over(listener)
        upgraded.connection.write(b"hello")
        async with asyncio.timeout(5):
            await listener.over.wait()
        upgraded.connection.close()
    assert b"first said: hello" == listener.heard
    assert listener.error is None
    assert b"Upgrade: DERP\r\n" in server.requests[0]
    assert b"Connection: Upgrade\r\n" in server.requests[0]


async def test_a_flood_after_the_switch_waits_at_the_server() -> None:
    """Before the connection is handed over no more than a few buffers are taken from the peer."""
    async with serve(flood(SWITCH, repeat=b"x" * 65536)) as server:
        upgraded = await ask_upgrade(server)
        assert isinstance(upgraded, Upgraded)
        for _ in range(200):
            await asyncio.sleep(0)
        assert len(upgraded.leftover) <= 1 << 20
        upgraded.connection.abort()


async def test_a_refused_upgrade_is_an_exchange() -> None:
    """A refusal has status, headers and at most 4 KiB of its body."""
    said = b"HTTP/1.1 426 Upgrade Required\r\nServer: nginx\r\nContent-Length: 9000\r\n\r\n" + b"n" * 9000
    async with serve(answer(said)) as server:
        refused = await ask_upgrade(server)
    assert isinstance(refused, Exchange)
    assert (426, "nginx", 4096, None) == (refused.status, refused.headers["server"], len(refused.body), refused.error)


async def test_an_upgrade_that_hangs_is_an_exchange_with_a_deadline_error() -> None:
    """Silence instead of a switch costs the budget and no more."""
    async with serve(hang()) as server:
        refused = await ask_upgrade(server, seconds=0.3)
    assert isinstance(refused, Exchange)
    assert isinstance(refused.error, DeadlineError)


# ---- TLS, and the wrong scheme


async def test_https_has_a_phase_of_its_own_and_the_dates_of_the_certificate(tmp_path: Path) -> None:
    """Over TLS the handshake has its own time and the served certificate is told."""
    authority = Authority(tmp_path)
    context = await load_ssl_context(authority.ca_file)
    async with serve(answer(OK), ssl_context=authority.serve("coder.test")) as server:
        exchange = await get(server, origin=server.origin("coder.test"), ssl_context=context)
    assert (200, b"OK", None) == (exchange.status, exchange.body, exchange.error)
    assert [Phase.CONNECT, Phase.TLS, Phase.PROCESSING, Phase.TRANSFER] == list(exchange.phase_seconds)
    assert exchange.certificates is not None


async def test_an_endless_body_over_tls_is_cut(tmp_path: Path) -> None:
    """The cap holds over TLS too."""
    authority = Authority(tmp_path)
    context = await load_ssl_context(authority.ca_file)
    script = flood(b"HTTP/1.1 200 OK\r\n\r\n", repeat=b"x" * 65536)
    async with serve(script, ssl_context=authority.serve("127.0.0.1")) as server:
        exchange = await get(server, ssl_context=context, max_body_bytes=100_000)
    assert (100_000, True, None) == (len(exchange.body), exchange.body_truncated, exchange.error)


async def test_a_body_that_ends_with_the_connection_over_tls(tmp_path: Path) -> None:
    """The end of the TLS connection ends a body without length."""
    authority = Authority(tmp_path)
    context = await load_ssl_context(authority.ca_file)
    script = answer(b"HTTP/1.1 200 OK\r\n\r\n", b"hello")
    async with serve(script, ssl_context=authority.serve("127.0.0.1")) as server:
        exchange = await get(server, ssl_context=context)
    assert (b"hello", None) == (exchange.body, exchange.error)


async def test_http_to_a_tls_port_is_told(tmp_path: Path) -> None:
    """A TLS alert instead of an answer asks whether the scheme is right."""
    exchange = await get_from(answer(b"\x15\x03\x03\x00\x02\x02\x46"))
    assert isinstance(exchange.error, ProtocolError)
    assert "answered with TLS" in exchange.error.message


async def test_through_nginx(need_tool: Callable[[str], str], tmp_path: Path) -> None:
    """Through a real nginx over TLS: a good answer, and an upgrade that it strips."""
    nginx = need_tool("nginx")
    authority = Authority(tmp_path)
    authority.write_server_files(tmp_path / "server.pem", "127.0.0.1")
    port = free_port()
    async with serve(answer(b"HTTP/1.1 426 Upgrade Required\r\nContent-Length: 2\r\n\r\nno")) as backend:
        configuration = tmp_path / "nginx.conf"
        temporary = "".join(
            f"{name}_temp_path {tmp_path}/{name};\n" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        configuration.write_text(f"""
            daemon off; master_process off; pid {tmp_path}/pid; error_log {tmp_path}/errors;
            events {{}}
            http {{
              access_log off; {temporary}
              server {{
                listen 127.0.0.1:{port} ssl; ssl_certificate {tmp_path}/server.pem;
                ssl_certificate_key {tmp_path}/server.pem;
                location /healthz {{ return 200 OK; }}
                location /derp {{ proxy_pass http://127.0.0.1:{backend.port}; }}
              }}
            }}""")
        process = await asyncio.create_subprocess_exec(nginx, "-e", tmp_path / "errors", "-c", configuration)
        try:
            context = await load_ssl_context(authority.ca_file)
            arguments: dict[str, Any] = {"address": "127.0.0.1", "clock": CLOCK, "ssl_context": context}
            origin = Origin(scheme="https", host="127.0.0.1", port=port)
            until = CLOCK.monotonic() + 10
            while CLOCK.monotonic() < until:
                exchange = await http.get(origin, "/healthz", deadline_seconds=until, **arguments)
                if exchange.status is not None:
                    break
                await asyncio.sleep(0.02)
            assert (200, b"OK", None) == (exchange.status, exchange.body, exchange.error)
            assert exchange.headers["server"].startswith("nginx")
            refused = await http.upgrade(
                origin, "/derp", deadline_seconds=until, headers={"Upgrade": "DERP"}, **arguments
            )
            assert isinstance(refused, Exchange)
            assert (426, b"no") == (refused.status, refused.body)
        finally:
            process.terminate()
            await process.wait()
    assert b"upgrade" not in backend.requests[0].lower()


# ---- HTTP/2

SETTINGS = bytes.fromhex("000012040000000000000300000064000400ffffff000500ffffff")


@pytest.mark.parametrize(
    "said", [SETTINGS, bytes.fromhex("000000040000000000"), SETTINGS + b"\0\0\x08\x07" + bytes(13)]
)
async def test_http2_is_named(said: bytes) -> None:
    """A server that speaks HTTP/2 unasked begins with its SETTINGS, and is told from nonsense."""
    exchange = await get_from(answer(said))
    assert isinstance(exchange.error, HTTP2Error)
    assert (Reason.PROTOCOL, Phase.PROCESSING) == (exchange.error.reason, exchange.error.phase)
    assert "HTTP/2" in exchange.error.message


@pytest.mark.parametrize(
    "said",
    [
        bytes.fromhex("000005040000000000") + bytes(5),  # no SETTINGS has that length
        bytes.fromhex("000000040000000001"),  # nor another stream
        bytes.fromhex("000000040100000000"),  # an acknowledgement is not the first
        bytes.fromhex("00000004000000"),
    ],
)
async def test_what_only_resembles_http2_is_nonsense(said: bytes) -> None:
    """Other bytes that no HTTP answer begins with are no HTTP/2."""
    exchange = await get_from(answer(said))
    assert isinstance(exchange.error, ProtocolError)
    assert not isinstance(exchange.error, HTTP2Error)
