"""Trust, dates and words of TLS, with certificates of every bad kind."""

from __future__ import annotations

import asyncio
import hashlib
import re
import ssl
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from exporter.clock import SystemClock
from exporter.errors import CertificateError, Phase, Reason, TLSError
from exporter.net import http, tls, websocket
from exporter.net.connection import Connection
from exporter.net.tls import load_ssl_context
from exporter.wire.url import Origin
from tests.support.certificates import Authority, serve_self_signed
from tests.support.connections import Listener, connect_to, open_connection
from tests.support.derper import run_derper
from tests.support.scripted_server import Reader, ScriptedServer, answer, hang, serve


async def open_to(server: ScriptedServer, **more: Any) -> Connection:
    connection = connect_to(server, **more)
    await open_connection(connection)
    return connection


async def open_to_fails(server: ScriptedServer, **more: Any) -> tuple[Connection, TLSError]:
    connection = connect_to(server, **more)
    with pytest.raises(TLSError) as caught:
        await open_connection(connection)
    return connection, caught.value


RELAY_CHAIN = Path(__file__).parents[1] / "data" / "derp" / "derper-main-2026-08-tls-chain.pem"
NOW = datetime.now(UTC).replace(microsecond=0)


async def test_a_trusted_certificate_gives_its_dates(tmp_path: Path) -> None:
    """The leaf's dates are those that were signed; the chain is that of the authority."""
    authority = Authority(tmp_path)
    begins, ends = NOW - timedelta(days=1), NOW + timedelta(days=9)
    server_side = authority.serve("coder.test", begins=begins, ends=ends)
    async with serve(hang(), ssl_context=server_side) as server:
        connection = await open_to(server, host="coder.test", ssl_context=await load_ssl_context(authority.ca_file))
        connection.close()
    assert connection.certificates is not None
    assert begins.timestamp() == connection.certificates.leaf.not_before_timestamp_seconds
    assert ends.timestamp() == connection.certificates.leaf.not_after_timestamp_seconds
    assert connection.certificates.chain is not None
    assert ends.timestamp() < connection.certificates.chain.not_after_timestamp_seconds


@pytest.mark.parametrize(
    ("begins_days", "ends_days", "words"),
    [(-9, -1, "has expired (ended "), (1, 9, "is not yet valid (begins ")],
    ids=["expired", "not-yet-valid"],
)
async def test_dates_are_known_though_verification_fails(
    tmp_path: Path, begins_days: int, ends_days: int, words: str
) -> None:
    """A certificate out of its time is an error in words, and its dates are there all the same."""
    authority = Authority(tmp_path)
    begins, ends = NOW + timedelta(days=begins_days), NOW + timedelta(days=ends_days)
    server_side = authority.serve("coder.test", begins=begins, ends=ends, intermediate=True)
    async with serve(hang(), ssl_context=server_side) as server:
        context = await load_ssl_context(authority.ca_file)
        connection, error = await open_to_fails(server, host="coder.test", ssl_context=context)
    wanted = begins if begins_days > 0 else ends
    assert words + wanted.strftime("%Y-%m-%d %H:%M UTC") in error.message
    assert (Reason.TLS, Phase.TLS) == (error.reason, error.phase)
    assert connection.certificates is not None
    assert begins.timestamp() == connection.certificates.leaf.not_before_timestamp_seconds
    assert ends.timestamp() == connection.certificates.leaf.not_after_timestamp_seconds
    assert connection.certificates.chain is not None
    assert Phase.TLS not in connection.phase_seconds
    assert Phase.CONNECT in connection.phase_seconds


async def test_a_wrong_host_is_told(tmp_path: Path) -> None:
    """A certificate for another name is a wrong host."""
    authority = Authority(tmp_path)
    async with serve(hang(), ssl_context=authority.serve("other.test")) as server:
        context = await load_ssl_context(authority.ca_file)
        connection, error = await open_to_fails(server, host="coder.test", ssl_context=context)
    assert "not for coder.test (wrong host); it names other.test" in error.message
    assert isinstance(error, CertificateError)
    assert connection.certificates is not None
    assert ("other.test",) == connection.certificates.names


async def test_a_wrong_address_is_told(tmp_path: Path) -> None:
    """An IP address must stand in the certificate as well."""
    authority = Authority(tmp_path)
    async with serve(hang(), ssl_context=authority.serve("127.0.0.9")) as server:
        context = await load_ssl_context(authority.ca_file)
        _, error = await open_to_fails(server, host="127.0.0.1", ssl_context=context)
    assert "not for 127.0.0.1 (wrong host)" in error.message


async def test_an_unknown_authority_is_told(tmp_path: Path) -> None:
    """A chain that ends at a stranger is an unknown authority."""
    authority = Authority(tmp_path)
    async with serve(hang(), ssl_context=authority.serve("coder.test")) as server:
        _, error = await open_to_fails(server, host="coder.test", ssl_context=await load_ssl_context())
    assert "authority" in error.message


async def test_a_self_signed_certificate_is_told(tmp_path: Path) -> None:
    """A certificate that signs itself is called so, and has dates."""
    async with serve(hang(), ssl_context=serve_self_signed("coder.test")) as server:
        connection, error = await open_to_fails(server, host="coder.test", ssl_context=await load_ssl_context())
    assert "is self-signed" in error.message
    assert connection.certificates is not None
    assert connection.certificates.chain is None


async def test_the_name_is_sent_but_an_address_is_not(tmp_path: Path) -> None:
    """SNI carries the host, without a trailing dot; for an IP address there is none."""
    authority = Authority(tmp_path)
    names: list[str | None] = []
    server_side = authority.serve("coder.test", "127.0.0.1")
    server_side.sni_callback = lambda _object, name, _context: names.append(name)
    context = await load_ssl_context(authority.ca_file)
    async with serve(hang(), ssl_context=server_side) as server:
        for host in ("coder.test", "coder.test.", "127.0.0.1"):
            (await open_to(server, host=host, ssl_context=context)).close()
    assert ["coder.test", "coder.test", None] == names


async def test_an_ipv6_address_in_the_certificate(tmp_path: Path) -> None:
    """IPv6 hosts are verified against the certificate's addresses."""
    authority = Authority(tmp_path)
    context = await load_ssl_context(authority.ca_file)
    try:
        async with serve(hang(), host="::1", ssl_context=authority.serve("::1")) as server:
            connection = await open_to(server, host="::1", ssl_context=context)
            connection.close()
    except OSError as error:
        pytest.skip(f"this host has no IPv6 loopback: {error}")
    assert connection.certificates is not None


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (b"\x15\x03\x03\x00\x02\x02\x28", "refused with the alert handshake failure"),
        (b"\x15\x03\x03\x00\x02\x02\x46", "refused with the alert protocol version"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "does the port speak plain HTTP?"),
        (b"", "the server closed the connection"),
    ],
    ids=["failure", "version", "plain", "closed"],
)
async def test_a_handshake_that_is_not_answered_by_one(said: bytes, words: str) -> None:
    """An alert is quoted, a plain port and an early end are told."""

    async def script(reader: Reader, writer: asyncio.StreamWriter) -> None:
        await reader.read(65536)
        writer.write(said)

    async with serve(script) as server:
        _, error = await open_to_fails(server, host="coder.test", ssl_context=await load_ssl_context(), scheme="https")
    assert words in error.message
    assert (Reason.TLS, Phase.TLS) == (error.reason, error.phase)
    assert not isinstance(error, CertificateError)


@pytest.mark.parametrize(("alert", "name"), [(0x50, "internal error"), (0x70, "unrecognized name")])
async def test_an_alert_that_means_a_foreign_name_is_about_the_certificate(alert: int, name: str) -> None:
    """A server without a certificate for the name says so by one of two alerts."""

    async def script(reader: Reader, writer: asyncio.StreamWriter) -> None:
        await reader.read(65536)
        writer.write(b"\x15\x03\x03\x00\x02\x02" + bytes((alert,)))

    async with serve(script) as server:
        _, error = await open_to_fails(server, host="coder.test", ssl_context=await load_ssl_context(), scheme="https")
    assert f"alert {name}: it may have no certificate for this name" in error.message
    assert isinstance(error, CertificateError)


async def test_a_host_that_no_certificate_can_name() -> None:
    """A host that TLS cannot carry is an error before any connection."""
    async with serve(hang()) as server:
        host = ".coder.test"
        _, error = await open_to_fails(server, host=host, ssl_context=await load_ssl_context(), scheme="https")
        assert 0 == server.connections
    assert "cannot be a name in a certificate" in error.message


async def test_the_context_is_shared(tmp_path: Path) -> None:
    """Many that ask at once, and later ones, get the same context; other files get another."""
    authority = Authority(tmp_path)
    contexts = await asyncio.gather(*[load_ssl_context(authority.ca_file) for _ in range(20)])
    assert 1 == len({id(context) for context in contexts})
    assert contexts[0] is not await load_ssl_context()


class LaterClock:
    """A clock that can be put forward."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds

    def now(self) -> float:
        return self.seconds

    def monotonic(self) -> float:
        return self.seconds

    async def sleep(self, seconds: float) -> None:
        raise AssertionError("nothing here sleeps")


async def test_a_rotated_file_is_read_again(tmp_path: Path) -> None:
    """A context is kept for a while, then the file is read anew."""
    authority, clock = Authority(tmp_path), LaterClock()
    first = await load_ssl_context(authority.ca_file, clock=clock)
    Authority(tmp_path)
    clock.seconds = tls.REFRESH_SECONDS - 1
    assert first is await load_ssl_context(authority.ca_file, clock=clock)
    clock.seconds = tls.REFRESH_SECONDS + 1
    assert first is not await load_ssl_context(authority.ca_file, clock=clock)


@pytest.mark.parametrize(
    ("content", "words"), [(None, "cannot be read"), ("no certificate at all", "holds no usable PEM certificate")]
)
async def test_a_useless_file_is_told(tmp_path: Path, content: str | None, words: str) -> None:
    """A file that is missing or holds no certificate is named."""
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_text(content)
    with pytest.raises(TLSError, match=words) as caught:
        await load_ssl_context(path)
    assert str(path) in caught.value.message


async def test_an_old_authority_without_new_extensions_is_trusted(tmp_path: Path) -> None:
    """The strictness that newer Pythons add is off, as Coder's own clients have none."""
    context = await load_ssl_context()
    assert 0 == context.verify_flags & ssl.VERIFY_X509_STRICT
    assert context.check_hostname
    assert ssl.CERT_REQUIRED is context.verify_mode


# names other than the one sent, pins, and no verification at all


async def open_for(
    server: ScriptedServer, host: str, certificate_name: str | None, *, ca_file: Path | None = None, verify: bool = True
) -> Connection:
    """Open with a context that was loaded for the name, as callers do."""
    context = await load_ssl_context(ca_file, verify=verify, certificate_name=certificate_name)
    return await open_to(server, host=host, ssl_context=context, certificate_name=certificate_name)


async def pin_of(server: ScriptedServer) -> str:
    """Return the pin of what a server shows, read with no code of ours."""
    pem = await asyncio.to_thread(ssl.get_server_certificate, (server.address, server.port))
    return "sha256-raw:" + hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem)).hexdigest()


async def test_another_name_is_verified_than_is_sent(tmp_path: Path) -> None:
    """The host goes into SNI, the certificate must bear the other name; bytes pass."""
    authority = Authority(tmp_path)
    server_side = authority.serve("front.test")
    names: list[str | None] = []
    server_side.sni_callback = lambda _object, name, _context: names.append(name)
    async with serve(hang(b"hello"), ssl_context=server_side) as server:
        connection = await open_for(server, "relay.test", "front.test", ca_file=authority.ca_file)
        assert isinstance(connection.receiver, Listener)
        assert b"hello" == await connection.receiver.hear(5)
        connection.close()
    assert ["relay.test"] == names
    assert Phase.TLS in connection.phase_seconds
    assert connection.certificates is not None
    assert ("front.test",) == connection.certificates.names
    assert connection.certificates.chain is not None


async def test_the_hosts_own_name_does_not_do_for_another(tmp_path: Path) -> None:
    """A certificate for the host is refused when another name is wanted; both are told."""
    authority = Authority(tmp_path)
    listener = Listener()
    async with serve(hang(b"hello"), ssl_context=authority.serve("relay.test", "127.0.0.1")) as server:
        context = await load_ssl_context(authority.ca_file, certificate_name="front.test")
        connection, error = await open_to_fails(
            server, host="relay.test", ssl_context=context, certificate_name="front.test", listener=listener
        )
    assert "is not for front.test, which it should be; it names relay.test, 127.0.0.1" in error.message
    assert isinstance(error, CertificateError)
    assert (Reason.TLS, Phase.TLS) == (error.reason, error.phase)
    assert Phase.TLS not in connection.phase_seconds
    assert connection.certificates is not None
    assert (False, b"") == (listener.ready, bytes(listener.heard))


async def test_another_name_does_not_do_without_its_authority(tmp_path: Path) -> None:
    """The chain is verified as ever when the name is ours to verify."""
    authority = Authority(tmp_path)
    async with serve(hang(), ssl_context=authority.serve("front.test")) as server:
        context = await load_ssl_context(certificate_name="front.test")
        _, error = await open_to_fails(server, host="relay.test", ssl_context=context, certificate_name="front.test")
    assert "authority" in error.message
    assert isinstance(error, CertificateError)


async def test_an_expired_certificate_does_not_do_for_another_name(tmp_path: Path) -> None:
    """Dates are verified as ever when the name is ours to verify."""
    authority = Authority(tmp_path)
    server_side = authority.serve("front.test", begins=NOW - timedelta(days=9), ends=NOW - timedelta(days=1))
    async with serve(hang(), ssl_context=server_side) as server:
        context = await load_ssl_context(authority.ca_file, certificate_name="front.test")
        _, error = await open_to_fails(server, host="relay.test", ssl_context=context, certificate_name="front.test")
    assert "has expired" in error.message


async def test_a_pinned_certificate_needs_no_authority() -> None:
    """A self-signed certificate passes by its pin, and by no other."""
    async with serve(hang(), ssl_context=serve_self_signed("relay.test")) as server:
        pin = await pin_of(server)
        connection = await open_for(server, "relay.test", pin)
        connection.close()
        assert connection.certificates is not None
        wrong = "sha256-raw:" + "0" * 64
        with pytest.raises(CertificateError, match="is not the one that is pinned: its SHA-256 is "):
            await open_for(server, "relay.test", wrong)
        with pytest.raises(CertificateError, match=r"pinned certificate is not for coder\.test \(wrong host\)"):
            await open_for(server, "coder.test", pin)
        with pytest.raises(CertificateError, match="must be followed by 64 hexadecimal digits"):
            await open_for(server, "relay.test", pin.upper().replace("SHA256-RAW", "sha256-raw"))


async def test_a_real_relay_is_reached_by_the_pin_that_it_prints(
    need_tool: Callable[[str], str], tmp_path: Path
) -> None:
    """Tailscale's relay with an IP address for a name prints its pin; its meta certificate does not count."""
    tool = need_tool("derper")
    arguments = ["-certmode", "manual", "-certdir", str(tmp_path)]
    async with run_derper(tool, hostname="127.0.0.1", stun=False, arguments=arguments) as relay:
        printed = re.search(r"sha256-raw:[0-9a-f]{64}", "\n".join(relay.log))
        assert printed is not None
        connection = Connection(
            Listener(),
            origin=Origin(scheme="https", host="127.0.0.1", port=relay.port),
            address="127.0.0.1",
            clock=LaterClock(datetime.now(UTC).timestamp()),
            ssl_context=await load_ssl_context(certificate_name=printed[0]),
            certificate_name=printed[0],
        )
        await open_connection(connection)
        connection.close()
    assert connection.certificates is not None
    assert ("127.0.0.1",) == connection.certificates.names
    assert connection.certificates.chain is None


async def test_the_meta_certificate_of_a_relay_is_no_part_of_the_chain(tmp_path: Path) -> None:
    """What a relay appends to say its key has an end too, which is nobody's trouble."""
    path = tmp_path / "served.pem"
    Authority(tmp_path).write_server_files(path, "relay.test")
    with path.open("a") as file:
        file.write("-----BEGIN" + RELAY_CHAIN.read_text().split("-----BEGIN")[2])
    server_side = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_side.load_cert_chain(path)
    async with serve(hang(), ssl_context=server_side) as server:
        unknown, _ = await open_to_fails(server, host="relay.test", ssl_context=await load_ssl_context())
        unverified = await open_for(server, "relay.test", None, verify=False)
        unverified.close()
    for connection in (unknown, unverified):
        assert connection.certificates is not None
        assert connection.certificates.chain is None


async def test_without_verification_any_certificate_passes() -> None:
    """A stranger's certificate for another name passes, and its dates are told."""
    async with serve(hang(), ssl_context=serve_self_signed("other.test")) as server:
        connection = await open_for(server, "coder.test", None, verify=False)
        connection.close()
    assert connection.certificates is not None
    assert ("other.test",) == connection.certificates.names
    assert Phase.TLS in connection.phase_seconds


async def test_without_verification_no_file_is_read(tmp_path: Path) -> None:
    """A missing CA file is no trouble to who verifies nothing, nor to who pins."""
    missing = tmp_path / "missing.pem"
    unverified = await load_ssl_context(missing, verify=False)
    assert (ssl.CERT_NONE, False) == (unverified.verify_mode, unverified.check_hostname)
    assert unverified is await load_ssl_context(missing, certificate_name="sha256-raw:" + "0" * 64)


async def test_contexts_that_verify_differently_are_not_mixed_up(tmp_path: Path) -> None:
    """With one CA file there is one context that verifies the name and one that leaves it to us."""
    authority = Authority(tmp_path)
    named = await load_ssl_context(authority.ca_file)
    other = await load_ssl_context(authority.ca_file, certificate_name="front.test")
    assert named is not other
    assert other is await load_ssl_context(authority.ca_file, certificate_name="another.test")
    assert (ssl.CERT_REQUIRED, False) == (other.verify_mode, other.check_hostname)


@pytest.mark.parametrize(("loaded_for", "given"), [("front.test", None), (None, "front.test")])
async def test_a_name_that_nobody_would_verify_is_a_bug(loaded_for: str | None, given: str | None) -> None:
    """A context and a connection that do not agree who verifies the name are refused."""
    context = await load_ssl_context(certificate_name=loaded_for)
    async with serve(hang()) as server:
        with pytest.raises(ValueError, match="was not loaded for this certificate name"):
            connect_to(server, scheme="https", ssl_context=context, certificate_name=given)


async def test_requests_carry_the_name_to_the_handshake(tmp_path: Path) -> None:
    """A GET, an upgrade and a websocket each verify the name that they are given, and the request's host
    stays the origin's."""
    authority = Authority(tmp_path)
    clock = SystemClock()
    refusal = answer(b"HTTP/1.1 426 Upgrade Required\r\nContent-Length: 0\r\n\r\n")
    async with serve(refusal, ssl_context=authority.serve("front.test")) as server:
        for name, status in (("front.test", 426), ("other.test", None)):
            more: dict[str, Any] = {
                "address": server.address,
                "deadline_seconds": clock.monotonic() + 10,
                "clock": clock,
                "ssl_context": await load_ssl_context(authority.ca_file, certificate_name=name),
                "certificate_name": name,
            }
            origin = server.origin("relay.test")
            exchanges = [
                await http.get(origin, "/", **more),
                await http.upgrade(origin, "/", headers={"Upgrade": "DERP"}, **more),
                await websocket.open_websocket(origin, "/", **more),
            ]
            for exchange in exchanges:
                assert isinstance(exchange, http.Exchange)
                assert status == exchange.status
                assert (status is None) == isinstance(exchange.error, CertificateError)
    assert 3 == len(server.requests)
    assert all(b"\r\nHost: relay.test:" in request for request in server.requests)
