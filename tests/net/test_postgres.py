"""The client of PostgreSQL, against real servers, poolers and broken lines."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import time
import traceback
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import trustme

from exporter.demo.fault_proxy import BlackHole, CutAfter, Delay, FaultProxy, Refuse, Reset
from exporter.demo.postgres import PostgresServer, ShutdownMode, TLSFiles
from exporter.errors import (
    AuthError,
    ConnectError,
    DeadlineError,
    Phase,
    ProbeError,
    ProtocolError,
    Reason,
    ResolveError,
    TLSError,
)
from exporter.net.postgres import Session
from exporter.secret import Secret
from exporter.wire.postgres_url import parse_postgres_url
from tests.support.clock import FakeClock
from tests.support.postgres import (
    INSTALLATIONS,
    PATIENCE_SECONDS,
    make_session,
    name_installation,
    need_installation,
    run_server,
)


@pytest.fixture(scope="module", params=INSTALLATIONS, ids=name_installation)
def server(request: pytest.FixtureRequest) -> Iterator[PostgresServer]:
    """A running server of each installation."""
    yield from run_server(request.param)


@pytest.fixture(params=INSTALLATIONS[:1], ids=name_installation)
async def own_server(request: pytest.FixtureRequest) -> AsyncIterator[PostgresServer]:
    """A server that a test may stop."""
    async with PostgresServer(bin_directory=need_installation(request.param)) as running:
        yield running


@pytest.fixture
async def proxy(server: PostgresServer) -> AsyncIterator[FaultProxy]:
    """A line to the server that can be broken."""
    async with FaultProxy(server.host, server.port) as running:
        yield running


@contextlib.asynccontextmanager
async def _session(url: Secret, **options: Any) -> AsyncIterator[Session]:
    session = make_session(url, **options)
    try:
        yield session
    finally:
        await session.close()


async def _fail(url: Secret, *, timeout_seconds: float = PATIENCE_SECONDS) -> ProbeError:
    """Return what connecting fails with, once it was seen that no text of it has the password."""
    async with _session(url) as session:
        with pytest.raises(ProbeError) as caught:
            await session.connect(timeout_seconds=timeout_seconds)
    told = "".join(traceback.format_exception(caught.value))
    password = parse_postgres_url(url.reveal()).password
    assert url.reveal() not in told
    assert password is None or password.reveal() not in told
    return caught.value


def _wait_for_words(server: PostgresServer, words: str) -> None:
    while words not in server.read_log():
        time.sleep(0.01)


def _via(server: PostgresServer, proxy: FaultProxy, query: str = "sslmode=disable") -> Secret:
    return server.make_url(user="coder", password=server.superuser_password, port=proxy.port, query=query)


async def test_connects_pings_and_asks(server: PostgresServer) -> None:
    """A kept connection answers pings; the times of opening it are told apart by phase."""
    async with _session(server.exporter_url) as session:
        assert not session.connected
        await session.connect(timeout_seconds=PATIENCE_SECONDS)
        assert session.connected
        assert await session.ping(timeout_seconds=PATIENCE_SECONDS) > 0.0
        assert await session.ask_standby(timeout_seconds=PATIENCE_SECONDS) is False
        assert session.opened is not None
        assert {Phase.CONNECT, Phase.PROCESSING} == session.phase_seconds.keys()
        assert session.opened.connect_seconds == session.phase_seconds[Phase.CONNECT]
        assert session.opened.login_seconds == session.phase_seconds[Phase.PROCESSING]
        assert session.opened.address == f"127.0.0.1:{server.port}"
        async with server.connect() as connection:
            version = await connection.fetchval("SHOW server_version")
        assert version == session.opened.server_version
    assert not session.connected


async def test_settings_reach_the_server(server: PostgresServer) -> None:
    """Name, time limit and what the URL asks for stand on the server's side."""
    url = server.make_url(
        user="coder",
        password=server.superuser_password,
        query="search_path=elsewhere&pool_max_conns=3&options=-c%20geqo=off",
    )
    async with _session(url) as session:
        await session.connect(timeout_seconds=PATIENCE_SECONDS)
        for name, value in (
            ("application_name", "coder-health-exporter"),
            ("statement_timeout", "5s"),
            ("search_path", "elsewhere"),
            ("geqo", "off"),
        ):
            shown = await session.run(
                lambda connection, name=name: connection.fetchval(f"SHOW {name}"), timeout_seconds=PATIENCE_SECONDS
            )
            assert value == shown


async def test_connects_through_a_unix_socket(server: PostgresServer) -> None:
    """A directory as host is a socket's."""
    secret = server.superuser_password.reveal()
    url = Secret(f"host={server.directory} port={server.port} user=coder password={secret} dbname=coder")
    async with _session(url) as session:
        await session.connect(timeout_seconds=PATIENCE_SECONDS)
        assert await session.ping(timeout_seconds=PATIENCE_SECONDS) > 0.0
        assert session.opened is not None
        assert session.opened.address == f"{server.directory}/.s.PGSQL.{server.port}"


async def test_no_password_is_taken_from_the_environment(
    server: PostgresServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What the URL does not hold is not there."""
    monkeypatch.setenv("PGPASSWORD", server.superuser_password.reveal())
    monkeypatch.setenv("PGPASSFILE", str(tmp_path / "pgpass"))
    monkeypatch.setenv("PGHOST", "elsewhere.invalid")
    error = await _fail(server.make_url(user="coder", password=None))
    assert isinstance(error, AuthError)


@pytest.mark.parametrize(
    ("user", "password", "database", "words"),
    [
        ("coder_exporter", "qxzzqx-wrong", "coder", "28P01"),
        ("nobody_here", "qxzzqx-wrong", "coder", "28P01"),
        ("coder", None, "no_such_database", "3D000"),
    ],
)
async def test_a_refused_login_is_told_apart(
    server: PostgresServer, user: str, password: str | None, database: str, words: str
) -> None:
    """Wrong password, unknown role and unknown database are answers, not outages."""
    secret = Secret(password) if password is not None else server.superuser_password
    error = await _fail(server.make_url(user=user, password=secret, database=database))
    assert isinstance(error, AuthError)
    assert error.phase is Phase.PROCESSING
    assert words in error.message


@pytest.mark.parametrize(
    ("statement", "undo"),
    [
        ("ALTER ROLE coder_exporter CONNECTION LIMIT 0", "ALTER ROLE coder_exporter CONNECTION LIMIT 5"),
        ("ALTER ROLE coder_exporter NOLOGIN", "ALTER ROLE coder_exporter LOGIN"),
        ("REVOKE CONNECT ON DATABASE coder FROM public, coder_exporter", "GRANT CONNECT ON DATABASE coder TO public"),
        ("ALTER DATABASE coder CONNECTION LIMIT 0", "ALTER DATABASE coder CONNECTION LIMIT -1"),
    ],
)
async def test_limits_of_our_role_are_refusals(server: PostgresServer, statement: str, undo: str) -> None:
    """A connection limit of the role or the database, and a missing right, say no to us alone."""
    async with server.connect(database="postgres") as connection:
        await connection.execute(statement)
        try:
            error = await _fail(server.exporter_url)
        finally:
            await connection.execute(undo)
    assert isinstance(error, AuthError)


async def test_a_full_server_is_no_refusal_of_our_role(own_server: PostgresServer) -> None:
    """Too many clients at all: the server has trouble, whoever asks."""
    await own_server.stop()
    own_server._settings |= {"max_connections": "3", "superuser_reserved_connections": "1"}
    await own_server.start()
    await own_server.create_schema()
    await own_server.create_role()
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(3):
            await stack.enter_async_context(own_server.connect())
        error = await _fail(own_server.exporter_url)
    assert isinstance(error, ConnectError)
    assert error.reason is Reason.REFUSED
    assert "53300" in error.message


async def test_pg_hba_turns_us_away(own_server: PostgresServer) -> None:
    """No line of pg_hba.conf for us is a refusal."""
    (own_server.directory / "data" / "pg_hba.conf").write_text("local all all scram-sha-256\n")
    await own_server.stop()
    await own_server.start()
    error = await _fail(own_server.url)
    assert isinstance(error, AuthError)
    assert "28000" in error.message


async def test_a_stopped_server_refuses(own_server: PostgresServer) -> None:
    """Nobody listens: the reason is refused, and the phase connect."""
    await own_server.stop()
    error = await _fail(own_server.url)
    assert isinstance(error, ConnectError)
    assert (error.reason, error.phase) == (Reason.REFUSED, Phase.CONNECT)
    assert f"127.0.0.1:{own_server.port}" in error.message


async def test_a_server_shutting_down_is_no_refusal_of_our_role(own_server: PostgresServer) -> None:
    """57P03 concerns everybody."""
    async with own_server.connect():  # a smart stop waits for it
        stopping = asyncio.ensure_future(own_server.stop(ShutdownMode.SMART))
        await asyncio.to_thread(_wait_for_words, own_server, "smart shutdown")
        error = await _fail(own_server.url)
    await stopping
    assert isinstance(error, ConnectError)
    assert error.reason is Reason.REFUSED
    assert "57P03" in error.message


async def test_a_name_that_does_not_exist() -> None:
    """A host without an address is a matter of name resolution."""
    error = await _fail(Secret("postgres://u:qxzzqx@no-such-host.invalid/coder"), timeout_seconds=5.0)
    assert isinstance(error, ResolveError | DeadlineError)
    assert error.phase is Phase.RESOLVE


@pytest.mark.parametrize("query", ["sslmode=disable", "sslmode=prefer"])
async def test_a_black_hole_takes_its_time_limit(server: PostgresServer, proxy: FaultProxy, query: str) -> None:
    """Accepted and never answered: the deadline names the phase that was waited in."""
    await proxy.break_with(BlackHole())
    error = await _fail(_via(server, proxy, query), timeout_seconds=0.2)
    assert isinstance(error, DeadlineError)
    assert (Phase.TLS if "prefer" in query else Phase.PROCESSING) is error.phase


async def test_a_transaction_on_a_line_that_falls_silent_takes_its_time_limit(
    server: PostgresServer, proxy: FaultProxy
) -> None:
    """Its end has to be told to the server, and nobody waits for the answer to that."""
    async with _session(_via(server, proxy)) as session:
        await session.connect(timeout_seconds=PATIENCE_SECONDS)

        async def converse(connection: asyncpg.Connection) -> None:
            async with connection.transaction(isolation="repeatable_read", readonly=True):
                await proxy.break_with(BlackHole())
                await connection.fetchval("SELECT 1")

        async with asyncio.timeout(PATIENCE_SECONDS):
            with pytest.raises(DeadlineError) as caught:
                await session.run(converse, timeout_seconds=0.2)
        assert Phase.PROCESSING is caught.value.phase
        assert not session.connected


@pytest.mark.parametrize("byte_count", [1, 5, 20, 100])
async def test_a_line_that_is_cut_during_login(server: PostgresServer, proxy: FaultProxy, byte_count: int) -> None:
    """Wherever the login breaks off, it is a lost connection."""
    await proxy.break_with(CutAfter(byte_count))
    error = await _fail(_via(server, proxy))
    assert isinstance(error, ConnectError)
    assert error.reason is Reason.UNREACHABLE


async def test_a_reset_connection(server: PostgresServer, proxy: FaultProxy) -> None:
    """A reset in the place of an answer is a lost connection."""
    await proxy.break_with(Reset())
    error = await _fail(_via(server, proxy))
    assert isinstance(error, ConnectError)


async def test_login_and_connect_are_timed_apart(server: PostgresServer, proxy: FaultProxy) -> None:
    """A slow line shows in the login, which goes back and forth, and not in the TCP connection."""
    await proxy.break_with(Delay(to_client_seconds=0.2))
    async with _session(_via(server, proxy)) as session:
        await session.connect(timeout_seconds=PATIENCE_SECONDS)
        assert session.opened is not None
        assert session.opened.login_seconds >= 0.4
        assert session.opened.connect_seconds < session.opened.login_seconds


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"\0" * 64,
        b"R\0\0\0\x04",
        b"\xff" * 64,
        b"N",
        b"S",
        b"E",
    ],
)
@pytest.mark.parametrize("query", ["sslmode=disable", "sslmode=prefer", "sslmode=require"])
async def test_a_server_that_is_no_postgresql(answer: bytes, query: str) -> None:
    """Any bytes end in one of our errors, in time."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(answer)
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as imposter:
        port = imposter.sockets[0].getsockname()[1]
        error = await _fail(Secret(f"postgres://u:qxzzqx@127.0.0.1:{port}/coder?{query}"), timeout_seconds=2.0)
    assert isinstance(error, ConnectError | ProtocolError | TLSError | DeadlineError)


async def test_a_password_that_the_server_repeats_is_not_told() -> None:
    """A hostile server that asks for the password in clear text and quotes it gives nothing away."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1000)
        writer.write(b"R" + (8).to_bytes(4, "big") + (3).to_bytes(4, "big"))  # clear-text password, please
        password = (await reader.read(1000))[5:-1]
        fields = b"SFATAL\0C28P01\0Mno such password: " + password + b"\0\0"
        writer.write(b"E" + (len(fields) + 4).to_bytes(4, "big") + fields)
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as hostile:
        port = hostile.sockets[0].getsockname()[1]
        error = await _fail(Secret(f"postgres://u:qxzzqx@127.0.0.1:{port}/coder?sslmode=disable"))
    assert isinstance(error, AuthError)
    assert "no such password: <secret>" in error.message


async def test_a_ping_without_an_answer(server: PostgresServer, proxy: FaultProxy) -> None:
    """A kept connection that falls silent is dropped after the time limit, and opened anew later."""
    async with _session(_via(server, proxy)) as session:
        await session.connect(timeout_seconds=PATIENCE_SECONDS)
        await proxy.break_with(BlackHole())
        with pytest.raises(DeadlineError) as caught:
            await session.ping(timeout_seconds=0.2)
        assert caught.value.phase is Phase.PROCESSING
        assert not session.connected
        await proxy.heal()
        await session.connect(timeout_seconds=PATIENCE_SECONDS)
        assert await session.ping(timeout_seconds=PATIENCE_SECONDS) > 0.0


async def test_a_cancelled_ping_drops_the_connection(server: PostgresServer, proxy: FaultProxy) -> None:
    """Cancellation goes through, and no second connection is opened to cancel a statement."""
    async with _session(_via(server, proxy)) as session:
        await session.connect(timeout_seconds=PATIENCE_SECONDS)
        await proxy.break_with(BlackHole())
        pinging = asyncio.ensure_future(session.ping(timeout_seconds=PATIENCE_SECONDS))
        await asyncio.sleep(0)
        pinging.cancel()
        with pytest.raises(asyncio.CancelledError):
            await pinging
        assert not session.connected
        assert proxy.connections <= 1


async def test_the_servers_own_time_limit(server: PostgresServer) -> None:
    """A statement that the server stops is a deadline, and the connection goes on."""
    url = server.make_url(user="coder", password=server.superuser_password, query="statement_timeout=50")
    async with _session(url) as session:
        await session.connect(timeout_seconds=PATIENCE_SECONDS)
        with pytest.raises(DeadlineError):
            await session.run(
                lambda connection: connection.execute("SELECT pg_sleep(20)"), timeout_seconds=PATIENCE_SECONDS
            )
        assert session.connected


async def test_fresh_connections_have_a_slower_pace(server: PostgresServer) -> None:
    """A measured connection is due once an interval, by the monotonic clock; the kept one counts."""
    clock = FakeClock()
    session = Session(
        parse_postgres_url(server.exporter_url.reveal()), clock=clock, fresh_connection_interval_seconds=300.0
    )
    assert session.fresh_connection_due
    await session.connect(timeout_seconds=PATIENCE_SECONDS)
    assert not session.fresh_connection_due
    await clock.advance(299.0)
    assert not session.fresh_connection_due
    await clock.advance(1.0)
    assert session.fresh_connection_due
    kept = session.opened
    await session.measure_fresh_connection(timeout_seconds=PATIENCE_SECONDS)
    assert not session.fresh_connection_due
    assert session.opened is not kept
    assert session.connected
    await session.close()


async def test_no_connection_is_left_open(server: PostgresServer) -> None:
    """After measuring and closing, the server counts none of ours."""
    async with _session(server.exporter_url) as session:
        await session.connect(timeout_seconds=PATIENCE_SECONDS)
        await session.measure_fresh_connection(timeout_seconds=PATIENCE_SECONDS)
    ours = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'coder_exporter'"
    async with server.connect() as connection, asyncio.timeout(PATIENCE_SECONDS):
        while await connection.fetchval(ours):
            await connection.fetchval("SELECT pg_stat_clear_snapshot()")
    log = await asyncio.to_thread(server.read_log)
    assert "incomplete startup packet" not in log


async def test_the_next_host_stands_in(own_server: PostgresServer) -> None:
    """A dead host is passed over; with all dead, each one's trouble is told."""
    secret = own_server.superuser_password.reveal()
    where = f"127.0.0.1:1,127.0.0.1:{own_server.port}"
    async with _session(Secret(f"postgres://coder:{secret}@{where}/coder?sslmode=disable")) as session:
        await session.connect(timeout_seconds=PATIENCE_SECONDS)
        assert session.opened is not None
        assert session.opened.endpoint.port == own_server.port
    await own_server.stop()
    error = await _fail(Secret(f"postgres://coder:{secret}@{where}/coder"))
    assert isinstance(error, ConnectError)
    assert "127.0.0.1:1:" in error.message
    assert f"127.0.0.1:{own_server.port}:" in error.message


@pytest.mark.parametrize(
    ("wanted", "standby"),
    [("primary", False), ("read-write", False), ("standby", True), ("read-only", True), ("prefer-standby", True)],
)
async def test_the_host_that_the_url_asks_for(own_server: PostgresServer, wanted: str, standby: bool) -> None:
    """target_session_attrs picks the primary or the standby, also for a role that only reads."""
    await own_server.create_schema()
    await own_server.create_role()
    async with own_server.start_standby() as second:
        read = parse_postgres_url(own_server.exporter_url.reveal())
        assert read.password is not None
        for ports in ((own_server.port, second.port), (second.port, own_server.port)):
            hosts = ",".join(f"127.0.0.1:{port}" for port in ports)
            url = f"postgres://{read.user}:{read.password.reveal()}@{hosts}/coder?target_session_attrs={wanted}"
            async with _session(Secret(url)) as session:
                await session.connect(timeout_seconds=PATIENCE_SECONDS)
                assert await session.ask_standby(timeout_seconds=PATIENCE_SECONDS) is standby
    only = own_server.make_url(
        user="coder", password=own_server.superuser_password, query="target_session_attrs=standby"
    )
    error = await _fail(only)
    assert isinstance(error, ConnectError)
    assert "it is the primary, the URL asks for standby" in error.message


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    """Who signs the server's certificate."""
    return trustme.CA()


@pytest.fixture(params=INSTALLATIONS, ids=name_installation)
async def tls_server(
    request: pytest.FixtureRequest, authority: trustme.CA, tmp_path: Path
) -> AsyncIterator[PostgresServer]:
    """A server that speaks TLS with a certificate for 127.0.0.1, and takes only TLS for one role."""
    issued = authority.issue_cert("127.0.0.1")
    files = TLSFiles(
        certificate=tmp_path / "server.pem", key=tmp_path / "server.key", client_authority=tmp_path / "ca.pem"
    )
    issued.cert_chain_pems[0].write_to_path(str(files.certificate))
    issued.private_key_pem.write_to_path(str(files.key))
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    trustme.CA().cert_pem.write_to_path(str(tmp_path / "other.pem"))
    hba = (
        "hostssl all by_certificate 127.0.0.1/32 cert",
        "hostssl all only_tls 127.0.0.1/32 scram-sha-256",
        "hostnossl all only_plain 127.0.0.1/32 scram-sha-256",
        "host all coder 127.0.0.1/32 scram-sha-256",
    )
    async with PostgresServer(bin_directory=need_installation(request.param), tls=files, hba=hba) as running:
        for role in ("by_certificate", "only_tls", "only_plain"):
            await running.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'qxzzqx'")
        yield running


async def test_tls_modes(tls_server: PostgresServer, authority: trustme.CA, tmp_path: Path) -> None:
    """Each mode verifies as much as libpq's, and connects with or without TLS as the server wants."""
    good, other = f"sslrootcert={tmp_path}/ca.pem", f"sslrootcert={tmp_path}/other.pem"
    password = Secret("qxzzqx")
    for user, query, expected in (
        ("only_tls", "sslmode=prefer", True),
        ("only_tls", "sslmode=allow", True),
        ("only_tls", "sslmode=require", True),
        ("only_tls", f"sslmode=require&{good}", True),
        ("only_tls", f"sslmode=require&{other}", TLSError),
        ("only_tls", f"sslmode=verify-ca&{good}", True),
        ("only_tls", f"sslmode=verify-full&{good}", True),
        ("only_tls", f"sslmode=verify-full&{other}", TLSError),
        ("only_tls", "sslmode=verify-full", TLSError),  # the system does not know the authority
        ("only_tls", f"sslmode=verify-full&sslrootcert={tmp_path}/missing.pem", TLSError),
        ("only_tls", "sslmode=disable", AuthError),
        ("only_plain", "sslmode=disable", False),
        ("only_plain", "sslmode=allow", False),
        ("only_plain", "sslmode=prefer", False),
        ("only_plain", "sslmode=require", AuthError),
    ):
        url = tls_server.make_url(user=user, password=password, query=query)
        if isinstance(expected, bool):
            async with _session(url) as session:
                await session.connect(timeout_seconds=PATIENCE_SECONDS)
                assert session.opened is not None
                assert expected is (Phase.TLS in session.opened.phase_seconds), query
        else:
            error = await _fail(url)
            assert expected is type(error), query


async def test_a_certificate_for_another_name(tls_server: PostgresServer, tmp_path: Path) -> None:
    """verify-full compares the name, verify-ca does not."""
    for mode, accepted in (("verify-ca", True), ("verify-full", False)):
        query = f"host=localhost&hostaddr=127.0.0.1&sslmode={mode}&sslrootcert={tmp_path}/ca.pem"
        url = tls_server.make_url(user="only_tls", password=Secret("qxzzqx"), query=query)
        if accepted:
            async with _session(url) as session:
                await session.connect(timeout_seconds=PATIENCE_SECONDS)
        else:
            error = await _fail(url)
            assert isinstance(error, TLSError)
            assert "the certificate is not accepted" in error.message
            assert error.phase is Phase.TLS


async def test_login_by_certificate(tls_server: PostgresServer, authority: trustme.CA, tmp_path: Path) -> None:
    """A client certificate stands in for the password; without one the server refuses us."""
    issued = authority.issue_cert(common_name="by_certificate")
    issued.cert_chain_pems[0].write_to_path(str(tmp_path / "client.pem"))
    issued.private_key_pem.write_to_path(str(tmp_path / "client.key"))
    query = f"sslmode=verify-full&sslrootcert={tmp_path}/ca.pem"
    with_files = f"{query}&sslcert={tmp_path}/client.pem&sslkey={tmp_path}/client.key"
    async with _session(tls_server.make_url(user="by_certificate", password=None, query=with_files)) as session:
        await session.connect(timeout_seconds=PATIENCE_SECONDS)
        assert await session.ping(timeout_seconds=PATIENCE_SECONDS) > 0.0
    error = await _fail(tls_server.make_url(user="by_certificate", password=None, query=query))
    assert isinstance(error, AuthError)


async def test_a_server_without_tls(server: PostgresServer) -> None:
    """prefer goes on without, require does not."""
    for mode in ("prefer", "allow"):
        url = server.make_url(user="coder", password=server.superuser_password, query=f"sslmode={mode}")
        async with _session(url) as session:
            await session.connect(timeout_seconds=PATIENCE_SECONDS)
            assert Phase.TLS not in session.phase_seconds
    error = await _fail(server.make_url(user="coder", password=server.superuser_password, query="sslmode=require"))
    assert isinstance(error, TLSError)
    assert "the server has no TLS" in error.message


@pytest.fixture
async def pooler(
    server: PostgresServer, need_tool: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[int]:
    """pgbouncer in transaction mode with a single connection to the server; gives its port."""
    program = need_tool("pgbouncer")
    directory = server.directory / f"pgbouncer-{os.urandom(4).hex()}"
    user = {"user": 65534, "group": 65534, "extra_groups": []} if os.geteuid() == 0 else {}
    port, process = await asyncio.to_thread(_start_pooler, program, server, directory, user)
    try:
        yield port
    finally:
        process.terminate()
        await asyncio.to_thread(process.wait)


def _start_pooler(
    program: str, server: PostgresServer, directory: Path, user: dict[str, Any]
) -> tuple[int, subprocess.Popen[bytes]]:
    from exporter.demo.postgres import _pick_port

    directory.mkdir()
    port = _pick_port()
    read = parse_postgres_url(server.exporter_url.reveal())
    assert read.password is not None
    (directory / "users.txt").write_text(f'"coder_exporter" "{read.password.reveal()}"\n')
    (directory / "pgbouncer.ini").write_text(
        f"[databases]\ncoder = host=127.0.0.1 port={server.port} dbname=coder\n"
        f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = scram-sha-256\n"
        f"auth_file = {directory}/users.txt\n"
        f"pool_mode = transaction\ndefault_pool_size = 1\nlogfile = {directory}/log\n"
    )
    if user:
        for path in (directory, *directory.iterdir()):
            os.chown(path, 65534, 65534)
    process = subprocess.Popen(
        [program, str(directory / "pgbouncer.ini")],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        **user,
    )
    log = directory / "log"
    while process.poll() is None and not (log.exists() and "process up" in log.read_text()):
        pass
    return port, process


async def test_works_through_pgbouncer(server: PostgresServer, pooler: int) -> None:
    """Settings that the pooler refuses are left out from then on; conversations stay in one piece."""
    read = parse_postgres_url(server.exporter_url.reveal())
    url = server.make_url(user="coder_exporter", password=read.password, port=pooler)

    async def talk(connection: Any) -> list[int]:
        async with connection.transaction(readonly=True):
            return [await connection.fetchval("SELECT $1::int", number) for number in range(3)]

    async with _session(url) as session, _session(url) as other:
        for each in (session, other):
            await each.connect(timeout_seconds=PATIENCE_SECONDS)
        for each in (session, other, session):
            assert await each.ping(timeout_seconds=PATIENCE_SECONDS) > 0.0
            assert await each.ask_standby(timeout_seconds=PATIENCE_SECONDS) is False
            assert [0, 1, 2] == await each.run(talk, timeout_seconds=PATIENCE_SECONDS)
        session.drop()
        await session.connect(timeout_seconds=PATIENCE_SECONDS)
    (directory,) = (
        path.parent
        for path in server.directory.glob("pgbouncer-*/pgbouncer.ini")
        if f"listen_port = {pooler}\n" in path.read_text()
    )
    log = (directory / "log").read_text()
    assert log.count("closing because: unsupported startup parameter") == 2  # once a session, not once a connection


@pytest.mark.parametrize(
    ("user", "database"), [("coder_exporter", "coder"), ("nobody_here", "coder"), ("coder_exporter", "nowhere")]
)
async def test_a_pooler_that_refuses_us(server: PostgresServer, pooler: int, user: str, database: str) -> None:
    """pgbouncer's own refusals are told apart from outages."""
    error = await _fail(server.make_url(user=user, password=Secret("qxzzqx"), database=database, port=pooler))
    assert isinstance(error, AuthError)


async def test_a_refusing_line(server: PostgresServer, proxy: FaultProxy) -> None:
    """A fresh connection that fails leaves what was measured before."""
    async with _session(_via(server, proxy)) as session:
        await session.connect(timeout_seconds=PATIENCE_SECONDS)
        before = session.opened
        await proxy.break_with(Refuse(), existing=False)
        with pytest.raises(ConnectError):
            await session.measure_fresh_connection(timeout_seconds=PATIENCE_SECONDS)
        assert before is session.opened
        assert await session.ping(timeout_seconds=PATIENCE_SECONDS) > 0.0
