"""The measuring clients are tested on both event loops: they lean on the transports' behaviour."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import pytest

_ON_BOTH_LOOPS = {
    "test_resolver",
    "test_tls",
    "test_connection",
    "test_http",
    "test_websocket",
    "test_derp_client",
    "test_stun_client",
    "test_postgres_dialer",
}

LoopFactory = Callable[[], asyncio.AbstractEventLoop]


def pytest_asyncio_loop_factories(config: pytest.Config, item: pytest.Item) -> Mapping[str, LoopFactory]:
    """Run the tests of the measuring clients once on asyncio's loop and once on uvloop's."""
    factories: dict[str, LoopFactory] = {"asyncio": asyncio.new_event_loop}
    if item.path.stem in _ON_BOTH_LOOPS:
        try:
            import uvloop
        except ImportError:
            return factories
        factories["uvloop"] = uvloop.new_event_loop
    return factories
