"""The way to a PostgreSQL server, step by step, against servers that say what a test wants."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
import struct
from pathlib import Path
from typing import Any

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

from exporter.clock import SystemClock
from exporter.errors import ConnectError, DeadlineError, Phase, ProtocolError, Reason, ResolveError, TLSError, WireError
from exporter.net.postgres_dialer import Dialer, build_tls_context
from exporter.secret import Secret
from exporter.wire.postgres_url import Endpoint, TLSMode, TLSOptions
from tests.support.certificates import Authority
from tests.support.ports import free_port
from tests.support.scripted_server import Reader, ScriptedServer, hang, serve

# Nothing here takes this long; it only keeps a fault from hanging a test.
PATIENCE_SECONDS = 20.0
# Linux keeps at most some megabytes at either end of a connection.
MORE_THAN_SOCKETS_HOLD = 32 * 1024 * 1024
SSL_REQUEST = bytes.fromhex("0000000804d2162f")
READY = b"Z" + struct.pack("!I", 5) + b"I"


class Driver(asyncio.Protocol):
    """Stands where asyncpg's own protocol does: keeps what it is given, and refuses what it is told to."""

    def __init__(self, trouble: Exception | None = None) -> None:
        self.trouble = trouble
        self.transport: asyncio.BaseTransport | None = None
        self.given = b""
        self.heard = asyncio.Event()
        self.lost: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        if self.trouble is not None:
            raise self.trouble
        self.given += data
        self.heard.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set_result(exc)


def dialer(
    port: int,
    host: str = "127.0.0.1",
    *,
    address: str | None = None,
    context: ssl.SSLContext | None = None,
    advisory: bool = False,
    direct: bool = False,
    timeout_seconds: float = PATIENCE_SECONDS,
) -> Dialer:
    clock = SystemClock()
    return Dialer(
        Endpoint(host=host, port=port, address=address),
        clock=clock,
        deadline_seconds=clock.monotonic() + timeout_seconds,
        context=context,
        advisory=advisory,
        direct=direct,
    )


async def dial(dialing: Dialer, trouble: Exception | None = None) -> Driver:
    """Open a connection as asyncpg does, which names host and port anew."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        transport, driver = await dialing.create_connection(lambda: Driver(trouble), "ignored", 1)
    assert isinstance(driver, Driver)
    assert transport is driver.transport
    return driver


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def trusting(authority: Authority, **options: Any) -> ssl.SSLContext:
    return build_tls_context(
        TLSOptions(**{"mode": TLSMode.VERIFY_FULL, "root_certificate": str(authority.ca_file)} | options)
    )


# the way


async def test_an_address_is_dialled_without_asking_anybody() -> None:
    """What is behind and what is under way is told, and the address as it stands."""
    async with serve(hang(READY)) as server:
        dialing = dialer(server.port)
        assert (Phase.RESOLVE, None) == (dialing.phase, dialing.address)
        driver = await dial(dialing)
        await driver.heard.wait()
        assert READY == driver.given
        assert (Phase.PROCESSING, {Phase.CONNECT}) == (dialing.phase, set(dialing.phase_seconds))
        assert f"127.0.0.1:{server.port}" == dialing.address
        dialing.abort()


async def test_a_name_is_looked_up() -> None:
    """Which is a phase of its own; of its addresses the first that answers is taken."""
    async with serve(hang()) as server:
        dialing = dialer(server.port, "localhost")
        await dial(dialing)
        assert {Phase.RESOLVE, Phase.CONNECT} == set(dialing.phase_seconds)
        assert f"127.0.0.1:{server.port}" == dialing.address
        dialing.abort()


async def test_ipv6() -> None:
    """Its address stands in brackets."""
    async with serve(hang(), host="::1") as server:
        dialing = dialer(server.port, "::1")
        await dial(dialing)
        assert f"[::1]:{server.port}" == dialing.address
        dialing.abort()


async def test_a_written_address_stands_for_the_name() -> None:
    """The name may not even exist."""
    async with serve(hang()) as server:
        dialing = dialer(server.port, "nowhere.invalid", address="127.0.0.1")
        await dial(dialing)
        assert {Phase.CONNECT} == set(dialing.phase_seconds)
        dialing.abort()


async def test_a_unix_socket(tmp_path: Path) -> None:
    """There is no TLS on it, and no name to look up; what comes is guarded as elsewhere."""
    path = str(tmp_path / ".s.PGSQL.5432")

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(READY)
        await reader.read()
        writer.close()

    async with await asyncio.start_unix_server(talk, path):
        dialing = dialer(5432, str(tmp_path))
        assert Phase.CONNECT is dialing.phase
        transport, driver = await dialing.create_unix_connection(Driver, path)
        assert transport is driver.transport
        await driver.heard.wait()
        assert (path, Phase.PROCESSING, {Phase.CONNECT}) == (
            dialing.address,
            dialing.phase,
            set(dialing.phase_seconds),
        )
        dialing.abort()
        await driver.lost


async def test_everything_else_is_the_loops() -> None:
    """asyncpg uses more of its event loop than what opens connections."""
    loop = asyncio.get_running_loop()
    dialing = dialer(1)
    assert dialing.create_future().get_loop() is loop
    assert loop.time() <= dialing.time() <= loop.time()


# nobody there


async def test_nobody_listens() -> None:
    """Refused, and said of which server, once."""
    port = free_port()
    dialing = dialer(port)
    with pytest.raises(
        ConnectError, match=f"^connecting to PostgreSQL at 127.0.0.1:{port}: connection refused$"
    ) as caught:
        await dial(dialing)
    assert (Reason.REFUSED, Phase.CONNECT) == (caught.value.reason, caught.value.phase)
    assert (None, {}) == (dialing.address, dialing.phase_seconds)


async def test_the_last_address_of_a_name_is_told() -> None:
    """A name alone would not say which one was tried."""
    port = free_port()
    with pytest.raises(ConnectError, match=rf"at localhost:{port} \(127\.0\.0\.1:{port}\): connection refused"):
        await dial(dialer(port, "localhost"))


async def test_a_name_that_does_not_exist() -> None:
    """It breaks while it is looked up."""
    dialing = dialer(5432, "nowhere.invalid")
    with pytest.raises(ResolveError):
        await dial(dialing)
    assert Phase.RESOLVE is dialing.phase


async def test_a_line_that_drops_everything() -> None:
    """The time limit is that of the whole way, and told as one of connecting."""
    with contextlib.ExitStack() as stack:
        full = stack.enter_context(socket.socket())
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        # whoever comes after these is not answered at all
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(full.getsockname())
        dialing = dialer(full.getsockname()[1], timeout_seconds=0.3)
        with pytest.raises(DeadlineError, match="no answer within") as caught:
            await dial(dialing)
    assert (Reason.TIMEOUT, Phase.CONNECT) == (caught.value.reason, caught.value.phase)


# asking for TLS


def answering(answer: bytes) -> Any:
    """A script that keeps the first eight bytes it is sent, and answers them."""

    async def script(reader: Reader, writer: asyncio.StreamWriter) -> None:
        requests.append(await reader.readexactly(len(SSL_REQUEST)))
        writer.write(answer)
        await writer.drain()
        if answer:
            while await reader.read(65536):
                pass

    requests: list[bytes] = []
    script.requests = requests  # type: ignore[attr-defined]
    return script


async def test_a_server_without_tls(authority: Authority) -> None:
    """Whoever only prefers it goes on without, and the question counts as part of the way."""
    script = answering(b"N")
    context = await asyncio.to_thread(trusting, authority)
    async with serve(script) as server:
        dialing = dialer(server.port, context=context, advisory=True)
        await dial(dialing)
        assert {Phase.CONNECT} == set(dialing.phase_seconds)
        dialing.abort()
        with pytest.raises(TLSError, match="the server has no TLS") as caught:
            await dial(dialer(server.port, context=context))
    assert Phase.TLS is caught.value.phase
    assert [SSL_REQUEST] * 2 == script.requests


@pytest.mark.parametrize(
    ("kind", "answer"),
    [
        pytest.param(ConnectError, b"", id="closed"),
        pytest.param(ProtocolError, b"E\0\0\0\x20SFATAL", id="error"),
        pytest.param(ProtocolError, b"HTTP/1.1 400 Bad Request\r\n", id="HTTP"),
        pytest.param(ProtocolError, b"\0", id="zero"),
    ],
)
@pytest.mark.parametrize("advisory", [False, True])
async def test_an_answer_that_is_none(
    authority: Authority, kind: type[Exception], answer: bytes, advisory: bool
) -> None:
    """Nothing is read of what comes in the clear, and nobody is spoken to without TLS for it."""
    context = await asyncio.to_thread(trusting, authority)
    async with serve(answering(answer)) as server:
        with pytest.raises(kind, match=f"asking PostgreSQL at 127.0.0.1:{server.port} for TLS") as caught:
            await dial(dialer(server.port, context=context, advisory=advisory))
        await server.script_done.wait()
    assert kind is type(caught.value)


async def test_a_question_that_is_given_up_leaves_no_connection(authority: Authority) -> None:
    """The server sees its end at once."""
    context = await asyncio.to_thread(trusting, authority)
    asked = asyncio.Event()

    async def script(reader: Reader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(len(SSL_REQUEST))
        asked.set()
        assert b"" == await reader.read(1)

    async with serve(script) as server, asyncio.timeout(PATIENCE_SECONDS):
        dialing = asyncio.ensure_future(dial(dialer(server.port, context=context)))
        await asked.wait()
        dialing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await dialing
        await server.script_done.wait()


def speaking_tls(context: ssl.SSLContext, *, direct: bool, smuggled: bytes = b"") -> Any:
    """A script that speaks TLS, asked for in the clear or at once, and then is ready."""

    async def script(reader: Reader, writer: asyncio.StreamWriter) -> None:
        if not direct:
            assert SSL_REQUEST == await reader.readexactly(len(SSL_REQUEST))
            writer.write(b"S" + smuggled)
            await writer.start_tls(context)
        writer.write(READY)
        await writer.drain()
        while await reader.read(65536):
            pass

    return script


@contextlib.asynccontextmanager
async def tls_server(authority: Authority, *, direct: bool, smuggled: bytes = b"") -> Any:
    context = await asyncio.to_thread(authority.serve, "db.example.com")
    context.set_alpn_protocols(["postgresql"])
    script = speaking_tls(context, direct=direct, smuggled=smuggled)
    async with serve(script, ssl_context=context if direct else None) as server:
        yield server


@pytest.mark.parametrize("direct", [False, True])
async def test_tls(authority: Authority, direct: bool) -> None:
    """By the name of the URL, wherever it is dialled; newer servers want to be told the protocol."""
    client = await asyncio.to_thread(trusting, authority)
    async with tls_server(authority, direct=direct) as server:
        dialing = dialer(server.port, "db.example.com", address="127.0.0.1", context=client, direct=direct)
        driver = await dial(dialing)
        await driver.heard.wait()
        assert READY == driver.given
        assert driver.transport is not None
        assert "postgresql" == driver.transport.get_extra_info("ssl_object").selected_alpn_protocol()
        assert (Phase.PROCESSING, {Phase.CONNECT, Phase.TLS}) == (dialing.phase, set(dialing.phase_seconds))
        dialing.abort()
        await driver.lost


async def test_a_certificate_for_another_name(authority: Authority) -> None:
    """The handshake fails while TLS is under way."""
    client = await asyncio.to_thread(trusting, authority)
    async with tls_server(authority, direct=False) as server:
        dialing = dialer(server.port, context=client)
        with pytest.raises(ssl.SSLCertVerificationError):
            await dial(dialing)
    assert (Phase.TLS, {Phase.CONNECT}) == (dialing.phase, set(dialing.phase_seconds))


async def test_nothing_is_smuggled_in_before_tls(authority: Authority) -> None:
    """What comes in the clear behind the answer is never taken for what was encrypted."""
    client = await asyncio.to_thread(trusting, authority)
    async with tls_server(authority, direct=False, smuggled=READY) as server:
        dialing = dialer(server.port, "db.example.com", address="127.0.0.1", context=client)
        with pytest.raises(ssl.SSLError):
            await dial(dialing)


# what comes over it


async def _lose(server: ScriptedServer, trouble: Exception | None = None) -> tuple[Driver, Exception | None]:
    driver = await dial(dialer(server.port), trouble)
    async with asyncio.timeout(PATIENCE_SECONDS):
        return driver, await driver.lost


@pytest.mark.parametrize("sent", [b"HTTP/1.1 400 Bad Request", b"R\0\0\0\0", b"R\xff\xff\xff\xff", b"D\0\0\0\x06\0\0"])
async def test_what_is_no_message_never_reaches_the_driver(sent: bytes) -> None:
    """The connection ends at once, and says why."""
    async with serve(hang(sent)) as server:
        driver, why = await _lose(server)
    assert b"" == driver.given
    assert isinstance(why, WireError)


@pytest.mark.parametrize("trouble", [IndexError("x"), struct.error("x"), AttributeError("x"), RuntimeError("x")])
async def test_what_the_driver_stumbles_over_ends_the_connection(trouble: Exception) -> None:
    """Well-formed messages may make no sense; nothing after them counts."""
    async with serve(hang(READY + READY)) as server:
        driver, why = await _lose(server, trouble)
    assert b"" == driver.given
    assert isinstance(why, WireError)
    assert "out of turn" in str(why)


async def test_the_end_of_a_connection_reaches_the_driver() -> None:
    """Also one that nobody is to blame for."""

    async def leave(reader: Reader, writer: asyncio.StreamWriter) -> None:
        writer.write(READY)

    async with serve(leave) as server:
        driver, why = await _lose(server)
    assert (READY, None) == (driver.given, why)


async def test_a_connection_is_dropped_at_once() -> None:
    """The driver and the server see it, however much was still to be sent: the rest of it never is."""
    received_bytes = 0
    dropped = asyncio.Event()

    async def listen(reader: Reader, writer: asyncio.StreamWriter) -> None:
        nonlocal received_bytes
        await dropped.wait()
        while piece := await reader.read(65536):
            received_bytes += len(piece)

    async with serve(listen) as server:
        dialing = dialer(server.port)
        driver = await dial(dialing)
        transport: Any = driver.transport
        transport.write(bytes(MORE_THAN_SOCKETS_HOLD))
        assert transport.get_write_buffer_size() > 0
        dialing.abort()
        async with asyncio.timeout(PATIENCE_SECONDS):
            why = await driver.lost
            dropped.set()
            await server.script_done.wait()
        dialing.abort()
    assert why is None
    assert received_bytes < MORE_THAN_SOCKETS_HOLD


async def test_dropping_what_was_never_opened() -> None:
    """There is nothing to drop."""
    dialing = dialer(1)
    dialing.abort()
    assert dialing.address is None


# contexts


@pytest.mark.parametrize(
    ("mode", "root", "verify_mode", "check_hostname"),
    [
        (TLSMode.PREFER, False, ssl.CERT_NONE, False),
        (TLSMode.REQUIRE, False, ssl.CERT_NONE, False),
        (TLSMode.REQUIRE, True, ssl.CERT_REQUIRED, False),
        (TLSMode.VERIFY_CA, True, ssl.CERT_REQUIRED, False),
        (TLSMode.VERIFY_FULL, True, ssl.CERT_REQUIRED, True),
    ],
)
def test_what_a_mode_checks(
    authority: Authority, mode: TLSMode, root: bool, verify_mode: ssl.VerifyMode, check_hostname: bool
) -> None:
    """As libpq does; a root certificate makes `require` check it."""
    context = build_tls_context(TLSOptions(mode=mode, root_certificate=str(authority.ca_file) if root else None))
    assert (verify_mode, check_hostname) == (context.verify_mode, context.check_hostname)


@pytest.mark.parametrize("root", [None, "system"])
def test_the_systems_certificates_stand_in(
    authority: Authority, root: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a root certificate, and where it is asked for."""
    monkeypatch.setenv(ssl.get_default_verify_paths().openssl_cafile_env, str(authority.ca_file))
    context = build_tls_context(TLSOptions(mode=TLSMode.VERIFY_FULL, root_certificate=root))
    expected = ssl.create_default_context(cafile=str(authority.ca_file)).get_ca_certs()
    assert expected[0] in context.get_ca_certs()


def test_versions() -> None:
    """Those of the URL are the bounds."""
    context = build_tls_context(TLSOptions(minimum_version="TLSv1.3"))
    assert ssl.TLSVersion.TLSv1_3 is context.minimum_version
    context = build_tls_context(TLSOptions(maximum_version="TLSv1.2"))
    assert ssl.TLSVersion.TLSv1_2 is context.maximum_version


@pytest.mark.parametrize("name", ["root_certificate", "certificate", "revocation_list"])
@pytest.mark.parametrize(("content", "said"), [(None, os.strerror(2)), ("no certificate", "reading")])
def test_a_file_that_is_no_use(tmp_path: Path, name: str, content: str | None, said: str) -> None:
    """The parameter of the URL is named, and the file."""
    path = tmp_path / "file.pem"
    if content is not None:
        path.write_text(content)
    with pytest.raises(TLSError, match=said) as caught:
        build_tls_context(TLSOptions(**{"mode": TLSMode.VERIFY_FULL, name: str(path)}))  # type: ignore[arg-type]
    parameter = {"root_certificate": "sslrootcert", "certificate": "sslcert", "revocation_list": "sslcrl"}[name]
    assert caught.value.message.startswith(f"reading {parameter} {path}: ")
    assert Phase.TLS is caught.value.phase


@pytest.fixture
def locked(tmp_path: Path) -> tuple[Path, Path]:
    """A certificate and its key, which has a password."""
    issued = trustme.CA().issue_cert("client.example.com")
    certificate, key = tmp_path / "client.pem", tmp_path / "client.key"
    certificate.write_bytes(issued.cert_chain_pems[0].bytes())
    private = serialization.load_pem_private_key(issued.private_key_pem.bytes(), None)
    key.write_bytes(
        private.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"qxzzqx-right"),
        )
    )
    return certificate, key


def test_a_key_with_a_password(locked: tuple[Path, Path]) -> None:
    """A wrong one or none is an error that does not repeat it, and nobody is asked on the terminal."""
    options = {"mode": TLSMode.REQUIRE, "certificate": str(locked[0]), "key": str(locked[1])}
    build_tls_context(TLSOptions(**options, key_password=Secret("qxzzqx-right")))  # type: ignore[arg-type]
    for password in (Secret("qxzzqx-wrong"), None):
        with pytest.raises(TLSError, match=r"^reading sslcert ") as caught:
            build_tls_context(TLSOptions(**options, key_password=password))  # type: ignore[arg-type]
        assert "qxzzqx" not in caught.value.message


def test_a_revocation_list(tmp_path: Path) -> None:
    """It is looked at for the server's own certificate."""
    authority = trustme.CA()
    root, crl = tmp_path / "root.pem", tmp_path / "list.pem"
    authority.cert_pem.write_to_path(str(root))
    certificate = x509.load_pem_x509_certificate(authority.cert_pem.bytes())
    key = serialization.load_pem_private_key(authority.private_key_pem.bytes(), None)
    empty = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(certificate.subject)
        .last_update(certificate.not_valid_before_utc)
        .next_update(certificate.not_valid_after_utc)
        .sign(key, hashes.SHA256())  # type: ignore[arg-type]
    )
    crl.write_bytes(empty.public_bytes(serialization.Encoding.PEM))
    context = build_tls_context(
        TLSOptions(mode=TLSMode.VERIFY_FULL, root_certificate=str(root), revocation_list=str(crl))
    )
    assert context.verify_flags & ssl.VERIFY_CRL_CHECK_LEAF
    assert 1 == context.cert_store_stats()["crl"]
