"""Fixtures for all tests."""

from __future__ import annotations

import io
import itertools
import linecache
import logging
import os
import shutil
import sys
import traceback
from collections.abc import Callable, Iterator
from types import FrameType

import pytest
from blockbuster import BlockBuster

from exporter import log
from tests.support import exploration

FORBID_SKIPS = "CODER_HEALTH_EXPORTER_FORBID_SKIPS"
_DEBUG_FRAMES = 4
_EXTRA_DIRECTORIES = "/usr/sbin:/usr/local/sbin:/sbin"

exploration.load(reproducible=bool(os.environ.get(FORBID_SKIPS)))


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


@pytest.fixture(autouse=True, scope="session")
def _affordable_debug_mode() -> Iterator[None]:
    """Keep asyncio's debug mode, which all tests run in, from taking most of the time and memory.

    It notes a stack with every future and callback: the innermost frames tell where one was made, and
    no source file changes while the tests run. Tracebacks of exceptions stay whole. It also logs each
    connection, and what is logged is kept until the test ends: as text, not with all its sockets.
    """

    def say_at_once(record: logging.LogRecord) -> bool:
        record.msg, record.args = record.getMessage(), ()
        return True

    walk = traceback.walk_stack

    def walk_some(frame: FrameType | None) -> Iterator[tuple[FrameType, int]]:
        return itertools.islice(walk(sys._getframe(1) if frame is None else frame), _DEBUG_FRAMES)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(traceback, "walk_stack", walk_some)
        patch.setattr(linecache, "checkcache", lambda filename=None: None)
        logger = logging.getLogger("asyncio")
        logger.addFilter(say_at_once)
        yield
        logger.removeFilter(say_at_once)


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


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """How many processes run the tests: the whole suite is shared out, chosen tests run in this one.

    One process a processor: half of the time tests wait, but with more of them those that compute a lot
    would outlast their patience, and real programs theirs.
    """
    if os.environ.get("PYTEST_XDIST_AUTO_NUM_WORKERS"):
        return None  # the plugin's own way to choose
    if config.args_source is not pytest.Config.ArgsSource.TESTPATHS or config.option.keyword:
        return 0
    return min(os.cpu_count() or 1, 8)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the tests that may take long: the first process runs one after the other, while the
    rest of its share is left to those that are ready before."""
    items.sort(key=_allowed_seconds, reverse=True)


def _allowed_seconds(item: pytest.Item) -> float:
    marker = item.get_closest_marker("timeout")
    return float(marker.args[0]) if marker is not None and marker.args else 0.0
