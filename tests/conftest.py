"""Fixtures for all tests."""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Callable, Iterator

import pytest
from blockbuster import BlockBuster

from exporter import log

FORBID_SKIPS = "CODER_HEALTH_EXPORTER_FORBID_SKIPS"
_EXTRA_DIRECTORIES = "/usr/sbin:/usr/local/sbin:/sbin"


def skip_or_fail(reason: str) -> None:
    """Skip the test with its reason; where skips are forbidden (CI), fail it."""
    if os.environ.get(FORBID_SKIPS):
        pytest.fail(f"{reason}; skips are forbidden by {FORBID_SKIPS}")
    pytest.skip(reason)


@pytest.fixture
def need_tool() -> Callable[[str], str]:
    """Give the path of an external program, or skip the test with the reason."""

    def find(name: str) -> str:
        path = shutil.which(name) or shutil.which(name, path=_EXTRA_DIRECTORIES)
        if path is None:
            skip_or_fail(f"the program {name} is not installed")
        assert path is not None
        return path

    return find


@pytest.fixture(autouse=True)
def _quiet_log() -> None:
    """Log as the exporter does: structlog's own default shows local variables where rich is installed."""
    log.configure("debug", "logfmt", io.StringIO())


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep this machine's own Coder settings out of the tests."""
    for name in list(os.environ):
        if name.startswith(("CODER_URL", "CODER_SESSION", "CODER_PG", "CODER_HEALTH_DEPLOYMENT")):
            monkeypatch.delenv(name)


@pytest.fixture(autouse=True)
def _blocking_call_guard() -> Iterator[None]:
    """Fail when code of the exporter blocks the event loop."""
    guard = BlockBuster(scanned_modules=["exporter"])
    # writing a traceback reads source files: rare, small, and only when a bug shows
    for name in ("os.stat", "io.BufferedReader.read", "io.TextIOWrapper.read"):
        if name in guard.functions:
            guard.functions[name].can_block_in("/linecache.py", {"checkcache", "updatecache"})
    guard.activate()
    try:
        yield
    finally:
        guard.deactivate()
