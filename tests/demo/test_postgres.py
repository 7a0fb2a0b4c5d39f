"""The private PostgreSQL of demo and tests."""

from __future__ import annotations

import asyncio
import csv
import os
import shutil
import socket
import ssl
import tempfile
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest
import trustme

from exporter.demo import postgres
from exporter.demo.postgres import PostgresServer, ShutdownMode, TLSFiles
from exporter.errors import ExporterError
from tests.support.postgres import INSTALLATIONS, PATIENCE_SECONDS, name_installation, need_installation, run_server

_COLUMNS = Path(__file__).parents[1] / "data" / "coder" / "columns.csv"


@pytest.fixture(params=INSTALLATIONS, ids=name_installation)
def bin_directory(request: pytest.FixtureRequest) -> Path:
    """Each installation in turn."""
    return need_installation(request.param)


@pytest.fixture(scope="module", params=INSTALLATIONS, ids=name_installation)
def server(request: pytest.FixtureRequest) -> Iterator[PostgresServer]:
    """A running server of each installation, with the tables."""
    yield from run_server(request.param)


@pytest.fixture
def temporary(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty directory for temporary files that every user may enter."""
    directory = Path(tempfile.mkdtemp(prefix="t-", dir="/tmp"))
    directory.chmod(0o755)
    monkeypatch.setattr(tempfile, "tempdir", str(directory))
    yield directory
    shutil.rmtree(directory)


def _files_in(directory: Path) -> list[Path]:
    return list(directory.iterdir())


def _processes_of(directory: Path) -> list[str]:
    found = []
    for command_line in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            text = command_line.read_bytes().decode(errors="replace")
        except OSError:
            continue
        if str(directory) in text:
            found.append(text)
    return found


async def test_leaves_nothing_behind(bin_directory: Path, temporary: Path) -> None:
    """After the context neither a process nor a file is left."""
    async with PostgresServer(bin_directory=bin_directory) as server:
        assert server.running
        assert temporary == server.directory.parent
        async with server.connect() as connection:
            assert await connection.fetchval("SELECT current_user") == "coder"
        assert _processes_of(temporary)
    assert not server.running
    assert [] == _files_in(temporary)
    assert [] == _processes_of(temporary)


@pytest.mark.parametrize("steps", [1, 5, 20, 60])
async def test_leaves_nothing_behind_when_cancelled(bin_directory: Path, temporary: Path, steps: int) -> None:
    """A start that is cancelled at any moment cleans up before it gives in."""
    server = PostgresServer(bin_directory=bin_directory)
    starting = asyncio.ensure_future(server.__aenter__())
    for _ in range(steps):
        await asyncio.sleep(0.005)  # not to wait for anything: to cancel at different moments
    starting.cancel()
    try:
        await starting
    except asyncio.CancelledError:
        pass
    else:
        await server.__aexit__()  # it was quicker
    assert [] == _files_in(temporary)
    assert [] == _processes_of(temporary)


@pytest.mark.parametrize("mode", [ShutdownMode.FAST, ShutdownMode.IMMEDIATE, ShutdownMode.KILLED, ShutdownMode.SMART])
async def test_stops_and_starts_again_on_its_port(bin_directory: Path, mode: ShutdownMode) -> None:
    """What was written outlives a restart, and clients find the server where it was."""
    async with PostgresServer(bin_directory=bin_directory) as server, asyncio.timeout(PATIENCE_SECONDS):
        port = server.port
        await server.execute("CREATE TABLE kept (id integer)")
        await server.execute("CHECKPOINT")
        await server.stop(mode)
        assert not server.running
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(server.host, port)
        await server.start()
        assert port == server.port
        async with server.connect() as connection:
            assert await connection.fetchval("SELECT count(*) FROM kept") == 0


async def test_runs_a_standby_beside_it(bin_directory: Path) -> None:
    """The second server is in recovery and has the same data and roles; the first goes on."""
    async with PostgresServer(bin_directory=bin_directory) as server:
        await server.create_schema()
        async with server.start_standby() as standby:
            for each, in_recovery in ((server, False), (standby, True)):
                async with each.connect() as connection:
                    assert await connection.fetchval("SELECT pg_is_in_recovery()") is in_recovery
                    assert await connection.fetchval("SELECT count(*) FROM organizations") == 1
        assert not standby.running
        assert server.running


async def test_speaks_tls(bin_directory: Path, tmp_path: Path) -> None:
    """With a certificate and key it takes verified TLS connections."""
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    certificate, key = tmp_path / "server.pem", tmp_path / "server.key"
    issued.cert_chain_pems[0].write_to_path(str(certificate))
    issued.private_key_pem.write_to_path(str(key))
    context = ssl.create_default_context()
    authority.configure_trust(context)
    tls = TLSFiles(certificate=certificate, key=key)
    async with PostgresServer(bin_directory=bin_directory, tls=tls) as server:
        connection = await asyncpg.connect(server.url.reveal(), ssl=context)
        assert await connection.fetchval("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()") is True
        connection.terminate()


# the system's package is spread over several places and runs only from there
@pytest.mark.parametrize(
    "bin_directory", [path for path in INSTALLATIONS if name_installation(path) == "wheel"], ids=name_installation
)
@pytest.mark.skipif(os.geteuid() != 0, reason="only root has directories that it may enter and the server may not")
async def test_root_copies_programs_that_others_cannot_reach(bin_directory: Path, tmp_path: Path) -> None:
    """An installation below a directory of root's runs from a copy that goes with the server."""
    hidden = tmp_path / "hidden"
    shutil.copytree(bin_directory.parent, hidden / "installation", symlinks=True)
    hidden.chmod(0o700)
    async with PostgresServer(bin_directory=hidden / "installation" / "bin") as server:
        assert (server.directory / "server" / "bin" / "postgres").is_file()
        async with server.connect() as connection:
            assert await connection.fetchval("SELECT 1") == 1


async def test_takes_another_port_when_its_choice_is_gone(bin_directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A port that somebody else took in the meantime is not insisted on."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        first, pick = [taken.getsockname()[1]], postgres._pick_port
        monkeypatch.setattr(postgres, "_pick_port", lambda: first.pop() if first else pick())
        async with PostgresServer(bin_directory=bin_directory) as server:
            assert taken.getsockname()[1] != server.port


async def test_says_what_to_install(tmp_path: Path) -> None:
    """Without programs the error names the extra and the system's package."""
    with pytest.raises(ExporterError, match=r"coder-health-exporter\[demo\]"):
        async with PostgresServer(bin_directory=tmp_path):
            pass


async def test_says_what_the_server_said(bin_directory: Path, temporary: Path) -> None:
    """A server that does not start is quoted, and nothing of it stays."""
    with pytest.raises(ExporterError, match="no_such_setting"):
        async with PostgresServer(bin_directory=bin_directory, settings={"no_such_setting": "1"}):
            pass
    assert [] == _files_in(temporary)


async def test_has_the_columns_of_coders_tables(server: PostgresServer) -> None:
    """Names, types and nullability are those of a real server's schema."""
    async with server.connect() as connection:
        rows = await connection.fetch(
            "SELECT table_name, column_name, data_type, is_nullable FROM information_schema.columns"
            " WHERE table_schema = 'public'"
        )
    with _COLUMNS.open(newline="") as file:
        expected = {tuple(row.values()) for row in csv.DictReader(file)}
    assert expected == {tuple(row) for row in rows}


async def test_writes_rows_as_coder_does(server: PostgresServer) -> None:
    """Registering again moves updated_at; a replica is stopped and runs again."""
    proxy = {"id": "65aa9f32-2c49-4b00-83ce-425efa24a344", "name": "rows", "region_id": 77}
    await server.put_workspace_proxy(url="", **proxy)
    async with server.connect() as connection:
        before = await connection.fetchrow("SELECT url, updated_at FROM workspace_proxies WHERE name = 'rows'")
        await server.put_workspace_proxy(url="http://127.0.0.1:1", **proxy)
        after = await connection.fetchrow("SELECT url, updated_at FROM workspace_proxies WHERE name = 'rows'")
        assert (before["url"], after["url"]) == ("", "http://127.0.0.1:1")
        assert after["updated_at"] > before["updated_at"]
        replica = {"id": "a2a38fe4-24a9-41e1-9227-1edea33174eb", "region_id": 10077, "primary": False}
        for stopped in (True, False):
            await server.put_replica(stopped=stopped, **replica)
            row = await connection.fetchrow("SELECT stopped_at FROM replicas WHERE region_id = 10077")
            assert stopped is (row["stopped_at"] is not None)
        await connection.execute("DELETE FROM replicas; DELETE FROM workspace_proxies")
