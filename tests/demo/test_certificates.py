"""Certificates of the simulation."""

from __future__ import annotations

import ssl
import stat
from collections.abc import Mapping
from pathlib import Path

import aiohttp
import pytest

from exporter.demo.certificates import Authority
from exporter.demo.coderd import SimulatedCoder


async def fetch(coder: SimulatedCoder, http: aiohttp.ClientSession, authority: Authority) -> int:
    async with http.get(f"{coder.url}/healthz", ssl=authority.trust()) as answer:
        return answer.status


async def test_a_certificate_is_exchanged_while_the_server_runs(
    authority: Authority, certificates: Mapping[str, Path], http: aiohttp.ClientSession
) -> None:
    """New connections see the other certificate, and the old one again afterwards."""
    async with SimulatedCoder(certificate=certificates["good"]) as coder:
        assert 200 == await fetch(coder, http, authority)
        await coder.show_certificate(certificates["expired"])
        with pytest.raises(aiohttp.ClientConnectorCertificateError, match="expired"):
            await fetch(coder, http, authority)
        await coder.show_certificate(certificates["good"])
        assert 200 == await fetch(coder, http, authority)


async def test_a_certificate_of_another_name_is_refused(
    authority: Authority, certificates: Mapping[str, Path], http: aiohttp.ClientSession
) -> None:
    """The names are those that were asked for and no others."""
    async with SimulatedCoder(certificate=certificates["other"]) as coder:
        with pytest.raises(aiohttp.ClientConnectorCertificateError, match=r"[Hh]ostname mismatch"):
            await fetch(coder, http, authority)


async def test_nobody_else_trusts_the_authority(certificates: Mapping[str, Path], http: aiohttp.ClientSession) -> None:
    """The system's certificates do not include it."""
    async with SimulatedCoder(certificate=certificates["good"]) as coder:
        with pytest.raises(aiohttp.ClientConnectorCertificateError):
            await http.get(f"{coder.url}/healthz", ssl=ssl.create_default_context())


def test_keys_are_private(certificates: Mapping[str, Path]) -> None:
    """Nobody else on this host may read a key."""
    assert {0o600} == {stat.S_IMODE(path.stat().st_mode) for path in certificates.values()}
