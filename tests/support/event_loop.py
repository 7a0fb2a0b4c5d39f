"""A pytest plugin: run asynchronous tests on uvloop, as the exporter itself does where it can.

Without it they run on asyncio's own loop, whose debug mode finds more. In use with
`python -m pytest -p tests.support.event_loop`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import uvloop


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"uvloop": uvloop.new_event_loop}
