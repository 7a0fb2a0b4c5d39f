"""A pytest plugin: run asynchronous tests on uvloop, as the exporter itself does where it can.

Without it they run on asyncio's own loop, whose debug mode finds more. In use with
`python -m pytest -p tests.support.event_loop`.

uvloop does not let a signal's exception out while a loop waits, so a test that hangs is ended by a
thread, which ends the process: pytest-xdist names the test and goes on with a new one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import pytest
import uvloop


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    config.option.timeout_method = "thread"


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"uvloop": uvloop.new_event_loop}
