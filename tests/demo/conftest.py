"""Fixtures of the demo's tests."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping
from datetime import timedelta
from pathlib import Path

import aiohttp
import pytest

from exporter.demo.certificates import Authority

HOSTS = ("localhost", "127.0.0.1", "::1")


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """A certificate authority of its own."""
    return Authority(tmp_path, now=time.time())


@pytest.fixture
def certificates(authority: Authority) -> Mapping[str, Path]:
    """Some certificates of that authority, with their keys."""
    return {
        "good": authority.issue("good", hosts=HOSTS),
        "expired": authority.issue("expired", hosts=HOSTS, ends_in=-timedelta(days=1)),
        "other": authority.issue("other", hosts=("coder.example.com",)),
    }


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    """A client that opens a connection for each request."""
    connector = aiohttp.TCPConnector(force_close=True, resolver=aiohttp.ThreadedResolver())
    async with aiohttp.ClientSession(connector=connector) as session:
        yield session
