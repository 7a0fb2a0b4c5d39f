"""Trust, dates and words of TLS, with certificates of every bad kind."""

from __future__ import annotations

import asyncio
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from exporter.errors import Phase, Reason, TLSError
from exporter.net import tls
from exporter.net.connection import Connection
from exporter.net.tls import load_ssl_context
from tests.support.certificates import Authority, serve_self_signed
from tests.support.connections import connect_to, open_connection
from tests.support.scripted_server import Reader, ScriptedServer, hang, serve


async def open_to(server: ScriptedServer, **more: Any) -> Connection:
    connection = connect_to(server, **more)
    await open_connection(connection)
    return connection


async def open_to_fails(server: ScriptedServer, **more: Any) -> tuple[Connection, TLSError]:
    connection = connect_to(server, **more)
    with pytest.raises(TLSError) as caught:
        await open_connection(connection)
    return connection, caught.value


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
    assert "not for coder.test (wrong host)" in error.message
    assert connection.certificates is not None


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

    def __init__(self) -> None:
        self.seconds = 0.0

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
