"""All other checks, so that one command is all: formatting, lint, types, layers, and the way CI runs them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CI = (ROOT / ".ci" / "run").read_text()
SECONDS = 300.0
CHECKS = {
    "ruff check": [sys.executable, "-m", "ruff", "check", "--no-cache", "."],
    "ruff format": [sys.executable, "-m", "ruff", "format", "--no-cache", "--check", "."],
    "mypy": [sys.executable, "-m", "mypy", "--no-error-summary"],
    "import-linter": [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"],
}
# The Debian package of each program that a test asks for; `derper` is Go's, and installed by itself.
PACKAGES = {
    "amtool": "prometheus-alertmanager",
    "bash": "bash",
    "caddy": "caddy",
    "haproxy": "haproxy",
    "ip": "iproute2",
    "nginx": "nginx-light",
    "pgbouncer": "pgbouncer",
    "prometheus": "prometheus",
    "prometheus-alertmanager": "prometheus-alertmanager",
    "prometheus-blackbox-exporter": "prometheus-blackbox-exporter",
    "promtool": "prometheus",
    "psql": "postgresql",
    "systemd-analyze": "systemd",
    "turnserver": "coturn",
    "unshare": "util-linux",
}
NEEDED = re.compile(r'need_tool\("([a-z-]+)"')


@pytest.mark.timeout(SECONDS)
@pytest.mark.parametrize("name", CHECKS)
def test_the_check_finds_nothing(name: str) -> None:
    """Each is the tool's own command with the settings of pyproject.toml."""
    done = subprocess.run(CHECKS[name], cwd=ROOT, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert 0 == done.returncode, done.stdout + done.stderr


def test_ci_installs_every_program_that_tests_ask_for() -> None:
    """Where skips are forbidden, a missing program fails the run."""
    asked = {name for path in (ROOT / "tests").rglob("*.py") for name in NEEDED.findall(path.read_text())}
    listed = CI.partition("packages=(")[2].partition("\n)")[0].splitlines()
    installed = {line.split()[0] for line in listed if line.strip()}
    assert len(asked) > 5
    assert {PACKAGES[name] for name in asked - {"derper"}} <= installed
    assert "go install tailscale.com/cmd/derper@" in CI


def test_ci_runs_the_second_command_of_the_readme() -> None:
    """It is taken out of the README, so the two cannot drift; skips are forbidden before it runs."""
    assert CI.index("export CODER_HEALTH_EXPORTER_FORBID_SKIPS=1") < CI.index('exec bash -c "$command" </dev/null')
    assert CI.rstrip().endswith('exec bash -c "$command" </dev/null')
    assert "set -euo pipefail" in CI
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111


def test_ci_names_folders_of_tests_that_exist() -> None:
    """The shorter run on the other event loop runs something."""
    named = re.findall(r"\btests/[\w./-]+", CI.partition("-p tests.support.event_loop")[2])
    assert len(named) > 3
    assert [] == [path for path in named if not (ROOT / path).exists()]
