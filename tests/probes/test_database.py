"""The database probe with its judgement, against real servers and a line that can be broken."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from dataclasses import replace

import pytest

from exporter.clock import SystemClock
from exporter.demo.fault_proxy import BlackHole, CutAfter, Delay, FaultProxy, Refuse
from exporter.demo.postgres import PostgresServer
from exporter.errors import Phase, Reason
from exporter.health.database import DatabaseResult, assess
from exporter.health.model import Section
from exporter.net.postgres import Session
from exporter.probes import database
from exporter.secret import Secret
from exporter.targets.model import DatabaseTarget
from tests.support.postgres import INSTALLATIONS, make_session, name_installation, need_installation, run_server


@pytest.fixture(scope="module", params=INSTALLATIONS, ids=name_installation)
def server(request: pytest.FixtureRequest) -> Iterator[PostgresServer]:
    """A running server of each installation."""
    yield from run_server(request.param)


@pytest.fixture
async def own_server() -> AsyncIterator[PostgresServer]:
    """A server that a test may stop."""
    async with PostgresServer(bin_directory=need_installation(INSTALLATIONS[0])) as running:
        await running.create_schema()
        await running.create_role()
        yield running


@pytest.fixture
async def proxy(server: PostgresServer) -> AsyncIterator[FaultProxy]:
    """A line to the server that can be broken."""
    async with FaultProxy(server.host, server.port) as running:
        yield running


@pytest.fixture
async def session(server: PostgresServer, proxy: FaultProxy) -> AsyncIterator[Session]:
    """A session over that line, as superuser; a fresh connection is measured in each run."""
    url = server.make_url(user="coder", password=server.superuser_password, port=proxy.port, query="sslmode=disable")
    made = make_session(url, fresh_connection_interval_seconds=0.0)
    yield made
    await made.close()


_TARGET = DatabaseTarget(
    deployment="demo",
    section=Section.DATABASE,
    interval_seconds=30.0,
    timeout_seconds=5.0,
    url=Secret("postgres://in.the.session/"),
)


async def _probe(session: Session, *, timeout_seconds: float = 5.0) -> tuple[DatabaseResult, set[str]]:
    """Return the result, and the codes that it comes to with a threshold that no loopback reaches."""
    target = replace(_TARGET, timeout_seconds=timeout_seconds)
    result = await database.probe(target, session=session, clock=SystemClock())
    return result, {finding.code for finding in assess(result, threshold_seconds=2.0).findings}


async def test_a_healthy_database(session: Session, server: PostgresServer, proxy: FaultProxy) -> None:
    """Five pings, no standby, and the times of a fresh connection; no code."""
    result, codes = await _probe(session)
    assert codes == set()
    assert len(result.ping_seconds) == 5
    assert result.failure is None
    assert result.standby is False
    assert result.connect_seconds is not None
    assert result.login_seconds is not None
    assert {Phase.CONNECT, Phase.PROCESSING} == result.phase_seconds.keys()
    assert result.address == f"127.0.0.1:{proxy.port}"
    async with server.connect() as connection:
        assert await connection.fetchval("SHOW server_version") == result.server_version


async def test_the_connection_is_kept_between_runs(session: Session, server: PostgresServer) -> None:
    """Two runs ping on the same connection, and the measured ones are gone again."""
    ours = "SELECT array_agg(pid) FROM pg_stat_activity WHERE application_name = 'coder-health-exporter'"
    await _probe(session)
    async with server.connect() as connection:
        first = await connection.fetchval(ours)
        await _probe(session)
        await connection.fetchval("SELECT pg_stat_clear_snapshot()")
        assert set(first) & set(await connection.fetchval(ours))


async def test_a_slow_line_is_edb02(session: Session, proxy: FaultProxy) -> None:
    """A delay shows in each ping and in the login, and reaches the threshold."""
    await proxy.break_with(Delay(to_server_seconds=0.1, to_client_seconds=0.1))
    result, codes = await _probe(session, timeout_seconds=20.0)
    assert codes == set()
    assert result.median_ping_seconds is not None
    assert result.median_ping_seconds >= 0.2
    assert result.login_seconds is not None
    assert result.login_seconds >= 0.4
    report = assess(result, threshold_seconds=0.1)
    assert [finding.code for finding in report.findings] == ["EDB02"]
    assert report.failure is None


async def test_a_refused_connection_is_edb01(session: Session, proxy: FaultProxy) -> None:
    """Nobody listens: no ping, and the reason refused."""
    await proxy.break_with(Refuse())
    result, codes = await _probe(session)
    assert codes == {"EDB01"}
    assert result.ping_seconds == ()
    assert result.failure is not None
    assert (result.failure.reason, result.failure.phase) == (Reason.REFUSED, Phase.CONNECT)
    assert result.standby is None


async def test_a_black_hole_is_edb01_within_the_time_limit(session: Session, proxy: FaultProxy) -> None:
    """Silence on a new connection, and on a kept one, ends with the target's timeout."""
    await proxy.break_with(BlackHole())
    clock = SystemClock()
    for _ in range(2):
        started = clock.monotonic()
        result, codes = await _probe(session, timeout_seconds=0.5)
        assert clock.monotonic() - started < 2.5
        assert codes == {"EDB01"}
        assert result.failure is not None
        assert result.failure.reason is Reason.TIMEOUT
        await proxy.heal()
        _, codes = await _probe(session)
        assert codes == set()
        await proxy.break_with(BlackHole())


async def test_a_kept_connection_that_broke_between_two_runs_is_replaced(session: Session, proxy: FaultProxy) -> None:
    """The line was reset while nobody looked, and answers again: no failure."""
    await _probe(session)
    proxy.reset_connections()
    result, codes = await _probe(session)
    assert codes == set()
    assert len(result.ping_seconds) == 5


async def test_a_backend_that_was_terminated_between_two_runs_is_replaced(server: PostgresServer) -> None:
    """The server says goodbye, which may be read before the end of the connection is seen."""
    session = make_session(server.exporter_url)
    for _ in range(5):
        _, codes = await _probe(session)
        assert codes == set()
        await server.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'coder_exporter'")
    await session.close()


async def test_a_kept_connection_that_fell_silent_is_replaced(session: Session, proxy: FaultProxy) -> None:
    """A firewall forgot the connection: half of the time limit is given to it, the rest to a new one."""
    await _probe(session)
    await proxy.break_with(BlackHole())
    await proxy.break_with(Delay(), existing=False)
    result, codes = await _probe(session, timeout_seconds=2.0)
    assert codes == set()
    assert len(result.ping_seconds) == 5


async def test_a_restart_between_two_runs_is_no_failure(own_server: PostgresServer) -> None:
    """PostgreSQL went and came back: the run after it is fine."""
    session = make_session(own_server.exporter_url)
    await _probe(session)
    await own_server.stop()
    await own_server.start()
    _, codes = await _probe(session)
    assert codes == set()
    await own_server.stop()
    result, codes = await _probe(session)
    assert codes == {"EDB01"}
    assert result.failure is not None
    assert result.failure.reason is Reason.REFUSED
    await session.close()


@pytest.mark.parametrize("pings", [1, 4])
async def test_a_line_cut_in_the_run_is_edb01(session: Session, proxy: FaultProxy, pings: int) -> None:
    """The first ping that fails ends the run, and those before it are kept."""
    await _probe(session)
    one_answer = len(b"T....\0\1?column?\0") + 18 + len(b"D....\0\1....1") + len(b"C....SELECT 1\0") + len(b"Z....I")
    await proxy.break_with(CutAfter(one_answer * pings))
    result, codes = await _probe(session)
    assert codes == {"EDB01"}
    assert len(result.ping_seconds) == pings
    assert result.failure is not None
    assert result.failure.reason is Reason.UNREACHABLE
    assert result.median_ping_seconds is None


@pytest.mark.parametrize("user", ["coder_exporter", "nobody_here"])
async def test_a_refused_role_is_xdb01(server: PostgresServer, user: str) -> None:
    """A wrong password or role is our trouble, not Coder's: no EDB01, no failure of the probe."""
    session = make_session(server.make_url(user=user, password=Secret("qxzzqx")))
    result, codes = await _probe(session)
    assert codes == {"XDB01"}
    assert result.refused
    assert assess(result, threshold_seconds=0.015).failure is None


async def test_a_role_refused_on_the_fresh_connection_is_xdb01(server: PostgresServer) -> None:
    """The kept connection goes on, so the pings are judged; the next login would fail."""
    session = make_session(server.exporter_url, fresh_connection_interval_seconds=0.0)
    await _probe(session)
    await server.execute("ALTER ROLE coder_exporter NOLOGIN")
    try:
        result, codes = await _probe(session)
    finally:
        await server.execute("ALTER ROLE coder_exporter LOGIN")
    assert codes == {"XDB01"}
    assert len(result.ping_seconds) == 5
    assert result.standby is False
    await session.close()


async def test_a_fresh_connection_that_fails_otherwise_is_no_failure(session: Session, proxy: FaultProxy) -> None:
    """The pings went through; the last measured times stay."""
    before, _ = await _probe(session)
    await proxy.break_with(Refuse(), existing=False)
    result, codes = await _probe(session)
    assert codes == set()
    assert before.connect_seconds == result.connect_seconds


async def test_a_standby_is_xdb02(own_server: PostgresServer) -> None:
    """A server in recovery answers pings, and is named as what it is."""
    async with own_server.start_standby() as standby:
        session = make_session(standby.exporter_url)
        result, codes = await _probe(session)
        await session.close()
    assert codes == {"XDB02"}
    assert result.standby is True
