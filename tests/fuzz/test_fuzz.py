"""The fuzzer over each parser, briefly; `python -m tests.fuzz` goes on for as long as one likes."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

RUNS = 20_000
HARNESSES = (
    "stun-response",
    "stun-request",
    "stun-request-lax",
    "derp-from-relay",
    "derp-from-client",
    "derp-login-content",
    "derp-map",
    "connection-info",
    "url",
    "workspace-proxies",
    "proxy-report",
    "error-body",
    "health-report",
    "json-slices",
    "account",
)
_ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module", autouse=True)
def _atheris() -> None:
    if importlib.util.find_spec("atheris") is None:
        reason = "the fuzzer atheris has no wheel for this Python or platform"
        if os.environ.get("CODER_HEALTH_EXPORTER_FORBID_SKIPS"):
            pytest.fail(reason)
        pytest.skip(reason)


def _fuzz(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tests.fuzz", *arguments],
        cwd=_ROOT,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )


@pytest.mark.parametrize("harness", HARNESSES)
def test_any_bytes_give_a_value_or_a_wire_error(harness: str, tmp_path: Path) -> None:
    """Bytes made up by coverage make no parser raise anything but a WireError."""
    done = _fuzz(harness, f"-runs={RUNS}", f"-artifact_prefix={tmp_path}/")
    assert 0 == done.returncode, done.stderr[-3000:]
    runs = re.search(r"Done (\d+) runs", done.stderr)
    assert runs is not None
    assert int(runs[1]) >= RUNS


def test_each_harness_is_run() -> None:
    """The list above is that of the harnesses."""
    assert "\n".join(HARNESSES) == _fuzz("--list").stdout.strip()
