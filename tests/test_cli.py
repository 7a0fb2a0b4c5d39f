"""The command line, as a user runs it: real processes, exit codes, what stands on which stream."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from exporter import __version__
from exporter.cli import main
from tests.support.ports import free_port

CLEAN = {
    name: value for name, value in os.environ.items() if not name.startswith(("CODER_URL", "CODER_SESSION", "CODER_PG"))
}
SECRET = "Zq7hT2mLx9-s3cretS3cretS3cret22"


class Hanging:
    """A server that takes connections and never answers; `accepted` is set with the first one."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._connections: list[socket.socket] = []
        self.accepted = threading.Event()
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        try:
            while True:
                self._connections.append(self._listener.accept()[0])
                self.accepted.set()
        except OSError:
            return

    def close(self) -> None:
        self._listener.close()
        for connection in self._connections:
            connection.close()


@pytest.fixture
def hanging() -> Iterator[Hanging]:
    server = Hanging()
    yield server
    server.close()


def run(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "exporter", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        env=CLEAN | environ,
        check=False,
    )


class Serving:
    """The exporter as a process of its own, from its first log line on."""

    def __init__(self, *arguments: str, **environ: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "exporter", "--log.format", "json", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=CLEAN | environ,
        )
        assert self.process.stderr is not None
        self.lines: list[str] = []
        self.started: dict[str, object] = {}
        for line in self.process.stderr:
            self.lines.append(line)
            if '"server.started"' in line:
                self.started = json.loads(line)
                break

    @property
    def url(self) -> str:
        addresses = self.started["addresses"]
        assert isinstance(addresses, list)
        return f"http://{addresses[0]}"

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        out, err = self.process.communicate(timeout=10)
        self.lines += [*err.splitlines(), *out.splitlines()]
        return self.process.returncode

    def __enter__(self) -> Serving:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()


def get(url: str, **headers: str) -> str:
    request = urllib.request.Request(url, headers={name.replace("_", "-"): value for name, value in headers.items()})
    with urllib.request.urlopen(request, timeout=10) as answer:
        return str(answer.read().decode())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_serving_and_stopping(number: signal.Signals, hanging: Hanging) -> None:
    """The exporter serves, and ends with 0 on either signal, also while its targets hang."""
    with Serving("--web.listen-address", "127.0.0.1:0", CODER_URL=f"http://127.0.0.1:{hanging.port}") as exporter:
        metrics = get(f"{exporter.url}/metrics")
        assert 'coder_health_code_active{deployment="127.0.0.1",section="access_url",code="EACS01"' in metrics
        assert "# EOF" in get(f"{exporter.url}/metrics", Accept="application/openmetrics-text; version=1.0.0")
        assert get(f"{exporter.url}/-/healthy")
        assert "coder-health-exporter" in get(exporter.url)
        assert 0 == exporter.stop(number)


def test_no_secret_is_ever_shown(hanging: Hanging, tmp_path: Path) -> None:
    """Neither the debug log, nor any page, nor a failed login shows a token or a password."""
    port = free_port()
    environ = {
        "CODER_URL": f"http://127.0.0.1:{hanging.port}",
        "CODER_SESSION_TOKEN": SECRET,
        "CODER_PG_CONNECTION_URL": f"postgres://coder:{SECRET}@127.0.0.1:{port}/coder?connect_timeout=1",
    }
    # Coder may take 80 s for its report, and this one would
    path = tmp_path / "config.yaml"
    path.write_text("deployments: [{name: prod, sections: {report: {timeout: 2s}}}]")
    checked = run("check", "--log.level", "debug", "--config.file", str(path), **environ)
    assert 2 == checked.returncode
    shown = [checked.stdout, checked.stderr]
    with Serving("--web.listen-address", "127.0.0.1:0", "--log.level", "debug", **environ) as exporter:
        shown += [get(f"{exporter.url}{path}") for path in ("/", "/config", "/metrics")]
        assert "<secret>" in shown[-2]
        hanging.accepted.wait(60)
        exporter.stop()
        shown += exporter.lines
    assert "access_url" in shown[0]
    assert not any(SECRET in text or "s3cretS3cret" in text for text in shown)


def test_check_tells_by_its_exit_code(hanging: Hanging) -> None:
    """An outage is 2 with a table, and bad usage or configuration is 3 with a sentence."""
    down = run("check", CODER_URL=f"http://127.0.0.1:{free_port()}")
    assert (2, "") == (down.returncode, down.stderr)
    assert "EACS03" in down.stdout
    only = run("check", "websocket", "--output", "json", CODER_URL=f"http://127.0.0.1:{free_port()}")
    assert 2 == only.returncode
    (deployment,) = json.loads(only.stdout)["deployments"]
    assert ["websocket"] == [section["section"] for section in deployment["sections"]]
    for arguments, environ, words in (
        (["check"], {}, "CODER_URL"),
        (["check", "databse"], {"CODER_URL": "http://x"}, "there is no section 'databse'"),
        (["check", "--output", "xml"], {"CODER_URL": "http://x"}, "invalid choice"),
        (["check"], {"CODER_URL": "coder.example.com"}, "http://"),
        (["check", "--config.file", "/nowhere.yaml"], {}, "/nowhere.yaml"),
    ):
        wrong = run(*arguments, **environ)
        assert (3, "") == (wrong.returncode, wrong.stdout)
        assert words in wrong.stderr
        assert "Traceback" not in wrong.stderr


def test_check_of_nothing_is_no_good_news(tmp_path: Path) -> None:
    """When everything asked for is off, the exit code is 3; doubtful secrets are told."""
    said = run("check", "database", CODER_URL="http://127.0.0.1:9")
    assert 3 == said.returncode
    assert "needs a database URL" in said.stdout
    assert "nothing was probed" in said.stderr
    token = tmp_path / "token"
    token.write_text(SECRET)
    token.chmod(0o644)
    said = run("check", "access_url", CODER_URL="http://127.0.0.1:9", CODER_SESSION_TOKEN_FILE=str(token))
    assert 2 == said.returncode
    assert "warning: " in said.stderr
    assert SECRET not in said.stderr


def test_serve_refuses_what_is_wrong(tmp_path: Path) -> None:
    """Bad configuration, a taken port and flags that are not built end with 1 and a sentence."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        for arguments, environ, words in (
            ([], {}, "CODER_URL"),
            ([], {"CODER_URL": f"http://u:{SECRET}@h"}, "user name or password"),
            (["--web.listen-address", address], {"CODER_URL": "http://127.0.0.1:9"}, address),
            (["--web.config.file", "web.yml"], {}, "--web.config.file is not built in this version yet"),
            (["--shard.index=1"], {}, "--shard.index is not built in this version yet"),
            (["--web.listen-adress", address], {}, "unrecognized arguments"),
            (["serve"], {}, "unrecognized arguments"),
        ):
            wrong = run(*arguments, **environ)
            assert (1, "") == (wrong.returncode, wrong.stdout)
            assert words in wrong.stderr
            assert SECRET not in wrong.stderr
            assert "Traceback" not in wrong.stderr


def test_config_check_tells_every_problem_at_once(tmp_path: Path) -> None:
    """A good file is called good; a bad one is told with line and key path, all problems at once."""
    good, bad = tmp_path / "good.yaml", tmp_path / "bad.yaml"
    good.write_text("deployments:\n- name: prod\n  url: https://coder.example.com\n")
    bad.write_text("global: {intervall: 30s}\ndeployments:\n- name: prod\n  url: coder.example.com\n")
    said = run("--config.check", "--config.file", str(good))
    assert (0, "") == (said.returncode, said.stderr)
    assert "good, 1 deployment" in said.stdout
    said = run("--config.check", "--config.file", str(bad))
    assert 1 == said.returncode
    assert f"{bad}:1: global.intervall" in said.stderr
    assert f"{bad}:4: deployments[0].url" in said.stderr


def test_the_printed_defaults_load(tmp_path: Path) -> None:
    """What --config.print-defaults prints is a configuration."""
    path = tmp_path / "config.yaml"
    path.write_text(run("--config.print-defaults").stdout)
    said = run("--config.check", "--config.file", str(path))
    assert (0, "") == (said.returncode, said.stderr)


def test_version_help_and_explain(capsys: pytest.CaptureFixture[str]) -> None:
    """Help names the commands; explain prints a code's text, and says what is near an unknown one."""
    assert __version__ in run("--version").stdout
    text = run("--help").stdout
    for words in ("check", "demo", "explain", "--config.file", "--web.listen-address", "CODER_PG_CONNECTION_URL"):
        assert words in text
    assert 0 == main(["explain", "edb02"])
    assert "EDB02" in capsys.readouterr().out
    assert 3 == main(["explain", "EDB99"])
    assert "EDB" in capsys.readouterr().err


def test_a_reader_that_goes_away_is_no_crash() -> None:
    """`explain CODE | head -1` ends quietly, and `check | true` with the code of its verdict."""
    for command, code in (("explain EDB02 | head -1", 0), ("check | true", 2)):
        said = subprocess.run(
            ["bash", "-c", f"set -o pipefail; {sys.executable} -m exporter {command}"],
            capture_output=True,
            text=True,
            check=False,
            env=CLEAN | {"CODER_URL": f"http://127.0.0.1:{free_port()}", "PYTHONUNBUFFERED": "1"},
        )
        assert (code, "") == (said.returncode, said.stderr)


def test_check_says_what_it_waits_for_beside_its_output(hanging: Hanging, tmp_path: Path) -> None:
    """A server that is silent is waited for, which stands on standard error; the JSON is what it was."""
    path = tmp_path / "config.yaml"
    path.write_text(
        f"deployments:\n- name: prod\n  url: http://127.0.0.1:{hanging.port}\n"
        "  sections: {access_url: {interval: 2s, timeout: 1s}}\n"
    )
    script = (
        "from exporter import cli\n"
        "cli.WAITING_AFTER_SECONDS = 0.2\n"
        f"raise SystemExit(cli.main(['check', 'access_url', '--output', 'json', '--config.file', {str(path)!r}]))"
    )
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, env=CLEAN)
    assert (2, "error") == (said.returncode, json.loads(said.stdout)["severity"])
    assert "coder-health-exporter check: waiting for prod/access_url, for 1s at most\n" == said.stderr


@pytest.mark.parametrize(
    ("streams", "code", "shows"),
    [("2>&-", 2, True), (">&-", 2, False), ("<&- >&- 2>&-", 2, False), (">/dev/full", 3, False)],
)
def test_streams_that_are_closed_or_full_make_no_verdict_of_their_own(
    tmp_path: Path, streams: str, code: int, shows: bool
) -> None:
    """An outage is 2 whoever listens, and what cannot be written is 3: never 1, which would be a warning."""
    output = tmp_path / "output"
    said = subprocess.run(
        ["bash", "-c", f"{sys.executable} -m exporter check access_url --output json > {output} {streams}"],
        capture_output=True,
        text=True,
        check=False,
        env=CLEAN | {"CODER_URL": f"http://127.0.0.1:{free_port()}"},
    )
    assert code == said.returncode
    assert shows is bool(output.read_text())
    assert ("cannot be written" in said.stderr) is (code == 3)
    assert "Traceback" not in said.stderr


@pytest.mark.parametrize(
    ("command", "code"),
    [("explain EDB02", 3), ("demo --list-scenarios", 3), ("--config.print-defaults", 1), ("check access_url", 3)],
)
def test_a_full_disk_is_told(command: str, code: int) -> None:
    """One line, and no exit code that means something else."""
    said = subprocess.run(
        ["bash", "-c", f"{sys.executable} -m exporter {command} > /dev/full"],
        capture_output=True,
        text=True,
        check=False,
        env=CLEAN | {"CODER_URL": f"http://127.0.0.1:{free_port()}"},
    )
    assert code == said.returncode
    (line,) = said.stderr.splitlines()
    assert line.endswith("the output cannot be written: No space left on device")


@pytest.mark.parametrize("command", ["explain EDB02", "demo --list-scenarios", "--config.print-defaults"])
def test_a_reader_who_goes_away_is_no_trouble(command: str) -> None:
    """As `| head` does."""
    said = subprocess.run(
        ["bash", "-c", f"exec 3> >(exec true); wait $!; {sys.executable} -m exporter {command} >&3"],
        capture_output=True,
        text=True,
        check=False,
        env=CLEAN,
    )
    assert (0, "") == (said.returncode, said.stderr)


def test_a_terminal_with_few_letters_changes_no_verdict() -> None:
    """A name that the terminal cannot show is escaped; the exit code stays that of the verdict."""
    said = run(
        "check",
        CODER_URL=f"http://127.0.0.1:{free_port()}",
        CODER_HEALTH_DEPLOYMENT="d\u00e9\u2192",
        PYTHONIOENCODING="ascii",
    )
    assert (2, "") == (said.returncode, said.stderr)
    assert "d\\xe9\\u2192" in said.stdout


def test_the_server_loads_nothing_that_it_does_not_use() -> None:
    """Demo, tables of check and the driver of PostgreSQL cost megabytes; a configuration with a database loads
    the driver before anything runs."""
    script = (
        "import sys; from exporter import cli; from exporter.app import Application\n"
        "from exporter.clock import SystemClock; from exporter.config.load import load_config\n"
        "def loaded(): return sorted({'asyncpg', 'exporter.check', 'exporter.demo'} & set(sys.modules))\n"
        "url = {'CODER_URL': 'http://127.0.0.1:1'}\n"
        "Application(load_config(None, url), clock=SystemClock()); print(loaded())\n"
        "url['CODER_PG_CONNECTION_URL'] = 'postgres://coder@127.0.0.1:1/coder'\n"
        "Application(load_config(None, url), clock=SystemClock()); print(loaded())\n"
    )
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, env=CLEAN)
    assert "" == said.stderr
    assert ["[]", "['asyncpg']"] == said.stdout.splitlines()
