"""The simulated workspace proxy answers as the recorded one did."""

from __future__ import annotations

from collections.abc import AsyncIterator

import aiohttp
import pytest

from exporter.demo import answers
from exporter.demo.coderd import SimulatedCoder
from exporter.demo.proxies import SimulatedProxy


@pytest.fixture
async def coder() -> AsyncIterator[SimulatedCoder]:
    """A primary."""
    async with SimulatedCoder() as running:
        yield running


@pytest.fixture
async def proxy(coder: SimulatedCoder) -> AsyncIterator[SimulatedProxy]:
    """A proxy of that primary."""
    async with SimulatedProxy(name="eu", id="an-id", region_id=1, primary_url=coder.url) as running:
        yield running


async def get_report(proxy: SimulatedProxy, http: aiohttp.ClientSession) -> dict[str, object]:
    async with http.get(f"{proxy.url}/healthz-report") as answer:
        assert (200, "application/json") == (answer.status, answer.content_type)
        report = await answer.json()
    assert isinstance(report, dict)
    return report


async def test_a_healthy_proxy_reports_nothing(proxy: SimulatedProxy, http: aiohttp.ClientSession) -> None:
    """Its report is the recorded one."""
    assert answers.recorded("proxy-healthz-report") == await get_report(proxy, http)


async def test_it_asks_its_primary(proxy: SimulatedProxy, coder: SimulatedCoder, http: aiohttp.ClientSession) -> None:
    """A primary that refuses connections is an error in the report, and only while it does."""
    coder.refuse_connections()
    broken = await get_report(proxy, http)
    await coder.accept_connections()
    mended = await get_report(proxy, http)
    assert isinstance(broken["errors"], list)
    assert "the build information of the primary cannot be read" in broken["errors"][0]
    assert mended["errors"] is None


async def test_another_minor_version_is_a_warning(coder: SimulatedCoder, http: aiohttp.ClientSession) -> None:
    """Major and minor differ: a warning; a developer's build matches everything."""
    reports = {}
    for version in ("v2.25.9", "v2.26.7", "v0.0.0-devel"):
        async with SimulatedProxy(name="eu", id="an-id", region_id=1, primary_url=coder.url, version=version) as proxy:
            reports[version] = (await get_report(proxy, http))["warnings"]
    assert {
        "v2.25.9": ["version v2.25.9 differs from the primary's v2.26.0"],
        "v2.26.7": None,
        "v0.0.0-devel": None,
    } == reports


async def test_a_proxy_of_a_proxy_reports_that(proxy: SimulatedProxy, http: aiohttp.ClientSession) -> None:
    """A proxy that was given a proxy's URL as its primary's says so."""
    async with SimulatedProxy(name="us", id="b", region_id=2, primary_url=proxy.url) as second:
        report = await get_report(second, http)
    assert ["the configured primary is itself a workspace proxy"] == report["errors"]


async def test_a_stopping_proxy_answers_a_string_with_500(proxy: SimulatedProxy, http: aiohttp.ClientSession) -> None:
    """While it shuts down its report is the recorded string, and /healthz is still fine."""
    proxy.shutting_down = True
    async with http.get(f"{proxy.url}/healthz-report") as answer:
        assert (500, "workspace proxy in middle of shutting down") == (answer.status, await answer.json())
    async with http.get(f"{proxy.url}/healthz") as answer:
        assert (200, "OK") == (answer.status, await answer.text())


async def test_its_build_info_is_a_proxys(
    proxy: SimulatedProxy, coder: SimulatedCoder, http: aiohttp.ClientSession
) -> None:
    """It names its primary, and no deployment."""
    async with http.get(f"{proxy.url}/api/v2/buildinfo") as answer:
        given = await answer.json()
    assert (True, coder.url, "") == (given["workspace_proxy"], given["dashboard_url"], given["deployment_id"])


async def test_other_paths_are_a_page_with_400(proxy: SimulatedProxy, http: aiohttp.ClientSession) -> None:
    """What a proxy does not know is 400 HTML."""
    async with http.get(f"{proxy.url}/api/v2/debug/health") as answer:
        assert (400, "text/html") == (answer.status, answer.content_type)
        assert "X-Coder-Build-Version" in answer.headers


async def test_the_latency_check_bears_no_version(proxy: SimulatedProxy, http: aiohttp.ClientSession) -> None:
    """As recorded, this one route of a proxy has no header with the version."""
    async with http.get(f"{proxy.url}/latency-check") as answer:
        assert (200, "OK") == (answer.status, await answer.text())
        assert "X-Coder-Build-Version" not in answer.headers
