"""Each bug and gap of Coder's proxyhealth ticker, and what happens here instead. The list stands
in the docstring of this package."""

from __future__ import annotations

import asyncio
import contextlib
import time
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from exporter.app import Application, running
from exporter.clock import SystemClock
from exporter.config.model import (
    Config,
    DeploymentConfig,
    DerpSectionConfig,
    DirectConnectionsSectionConfig,
    ProxyConfig,
    SectionConfig,
)
from exporter.demo import answers
from exporter.errors import ConnectError, Reason
from exporter.health.model import Section
from exporter.health.settle import Policy
from exporter.health.workspace_proxy import ListedProxy, ProxyResult, ProxyStatus, RoundResult, assess_proxy
from exporter.metrics.negotiation import Format
from exporter.net import coder_json
from exporter.probes import workspace_proxy
from exporter.probes.workspace_proxy import probe
from exporter.secret import Secret
from exporter.targets.discovery import KEPT_INTERVALS, ProxyDiscovery
from exporter.targets.model import AccessURL, WorkspaceProxiesTarget
from tests.support.clock import FakeClock
from tests.support.raw_http import Answer, RawServer, hang, json_response, response

GOOD = json_response('{"errors": null, "warnings": null}', X_Coder_Build_Version="v2.26.0")
OK = response(200, b"OK", X_Coder_Build_Version="v2.26.0")
TOKEN = Secret("abcdefghij-0123456789012345678901")


def listed(name: str, url: str, **facts: object) -> ListedProxy:
    return ListedProxy(id=f"00000000-0000-0000-0000-{abs(hash(name)) % 10**12:012d}", name=name, url=url, **facts)  # type: ignore[arg-type]


def make_target(*static: ListedProxy, url: str = "http://127.0.0.1:9", **facts: object) -> WorkspaceProxiesTarget:
    defaults: dict[str, object] = {"interval_seconds": 10.0, "timeout_seconds": 3.0, "session_token": None}
    return WorkspaceProxiesTarget(
        deployment="prod",
        section=Section.WORKSPACE_PROXY,
        access_url=AccessURL(url=url),
        static=static,
        **(defaults | facts),  # type: ignore[arg-type]
    )


async def play(target: WorkspaceProxiesTarget, discovery: ProxyDiscovery | None = None) -> RoundResult:
    clock = SystemClock()
    return await probe(
        target, discovery=discovery or ProxyDiscovery(target, clock=clock, read_tables=None), clock=clock
    )


async def play_one(answer: Answer, *, healthz: Answer = OK, timeout_seconds: float = 3.0) -> ProxyResult:
    """Return what one proxy with this report is found to be."""
    async with RawServer({"/healthz-report": answer, "/healthz": healthz}) as server:
        target = make_target(listed("eu", server.url), timeout_seconds=timeout_seconds)
        return (await play(target)).proxies[0]


def make_config(*proxies: ListedProxy, **section: float) -> Config:
    settle = Policy(raise_after=1, clear_after=1, startup_grace_seconds=0.0)
    defaults = {"interval_seconds": 30.0, "timeout_seconds": 3.0}
    return Config(
        deployments=(
            DeploymentConfig(
                name="prod",
                url="http://127.0.0.1:9",
                workspace_proxy=SectionConfig(settle=settle, **(defaults | section)),  # type: ignore[arg-type]
                derp=DerpSectionConfig(enabled=False),
                direct_connections=DirectConnectionsSectionConfig(enabled=False),
                static_proxies=tuple(ProxyConfig(id=p.id, name=p.name, url=p.url) for p in proxies),
            ),
        )
    )


def proxies_target(application: Application) -> list[WorkspaceProxiesTarget]:
    return [target for target in application.plan.targets if isinstance(target, WorkspaceProxiesTarget)]


async def check_proxies(application: Application) -> None:
    await application.check([Section.WORKSPACE_PROXY])


def scrape(application: Application, family: str) -> dict[tuple[tuple[str, str], ...], float]:
    text = b"".join(application.board.render(Format.TEXT)).decode()
    return {
        tuple(sorted(sample.labels.items())): sample.value
        for metric in text_string_to_metric_families(text)
        for sample in metric.samples
        if sample.name == family
    }


def by_label(samples: dict[tuple[tuple[str, str], ...], float], label: str) -> dict[str, float]:
    return {dict(labels)[label]: value for labels, value in samples.items()}


async def test_p01_a_bad_url_is_its_proxys_own_trouble() -> None:
    """A proxy whose URL cannot be parsed is unhealthy; the others are probed."""
    async with RawServer({"/healthz-report": GOOD, "/healthz": OK}) as server:
        found = await play(make_target(listed("bad", "http://[::1"), listed("eu", server.url)))
    assert [ProxyStatus.UNHEALTHY, ProxyStatus.OK] == [proxy.status for proxy in found.proxies]
    assert "invalid" in found.proxies[0].errors[0]


async def test_p01_a_bug_that_shows_with_one_proxy_is_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy whose probe breaks is EUNKNOWN, and the others have their results."""
    measure = workspace_proxy._measure

    async def broken(proxy: ListedProxy, *args: object) -> object:
        if proxy.name == "bad":
            raise LookupError("a bug")
        return await measure(proxy, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(workspace_proxy, "_measure", broken)
    async with RawServer({"/healthz-report": GOOD, "/healthz": OK}) as server:
        found = await play(make_target(listed("bad", server.url), listed("eu", server.url)))
    assert [ProxyStatus.UNKNOWN, ProxyStatus.OK] == [proxy.status for proxy in found.proxies]
    assert ["EUNKNOWN"] == [finding.code for finding in assess_proxy(found.proxies[0]).findings]


@pytest.mark.parametrize("url", ["http://", "ftp://eu", "http://eu:99999", "\x00", "http://u:p@eu", "http://e u", "//"])
async def test_p02_every_proxy_has_a_result(url: str) -> None:
    """Whatever stands in the URL column, there is a verdict and no crash."""
    (proxy,) = (await play(make_target(listed("odd", url)))).proxies
    assert ProxyStatus.UNHEALTHY is proxy.status
    assert "u:p" not in proxy.errors[0]


async def test_p03_a_round_that_breaks_publishes_nothing_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a bug in the middle of a round the proxies of the round before stand as they were."""
    async with RawServer({"/healthz-report": GOOD, "/healthz": OK}) as server:
        application = Application(make_config(listed("eu", server.url)), clock=SystemClock())
        await check_proxies(application)
        before = scrape(application, "coderd_proxyhealth_health_check_results")

        async def broken(*args: object, **kwargs: object) -> None:
            raise LookupError("a bug")

        monkeypatch.setattr(ProxyDiscovery, "refresh", broken)
        await check_proxies(application)
        assert [1.0] == list(before.values())
        assert before == scrape(application, "coderd_proxyhealth_health_check_results")
        observed = scrape(application, "coder_health_code_observed")
        own = {labels: value for labels, value in observed.items() if ("section", "workspace_proxy") in labels}
        assert 1.0 == by_label(own, "code")["EUNKNOWN"]
        monkeypatch.undo()
        await check_proxies(application)
        assert 0.0 == by_label(scrape(application, "coder_health_code_observed"), "code")["EUNKNOWN"]


async def test_p04_forced_runs_are_one_run() -> None:
    """Two forced rounds at a time ask every proxy once."""
    gate = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await gate.wait()
        writer.write(GOOD)

    async with (
        RawServer({"/healthz-report": answer, "/healthz": OK}) as server,
        running(make_config(listed("eu", server.url), interval_seconds=3600.0)) as application,
    ):
        (target,) = proxies_target(application)
        one = asyncio.ensure_future(application.ticker.force(target.schedule_name))
        two = asyncio.ensure_future(application.ticker.force(target.schedule_name))
        await server.wait_until_asked("/healthz-report")
        gate.set()
        assert await one is await two
        assert 1 == server.asked.count("/healthz-report")


async def test_p05_a_cancelled_run_publishes_nothing() -> None:
    """A caller that gives up makes no proxy unreachable."""
    async with RawServer({"/healthz-report": GOOD, "/healthz": OK}) as server:
        application = Application(make_config(listed("eu", server.url)), clock=SystemClock())
        await check_proxies(application)
        before = scrape(application, "coderd_proxyhealth_health_check_results")
        server.answers["/healthz-report"] = hang
        run = asyncio.ensure_future(check_proxies(application))
        await server.wait_until_asked("/healthz-report", 2)
        run.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await run
        assert before == scrape(application, "coderd_proxyhealth_health_check_results")


async def test_p06_an_older_run_does_not_overwrite_a_newer_one() -> None:
    """A round that was begun earlier and ends later is dropped."""
    async with RawServer({"/healthz-report": GOOD, "/healthz": OK}) as server:
        application = Application(make_config(listed("eu", server.url)), clock=SystemClock())
        (target,) = proxies_target(application)
        older = await application.runner.run(target)
        server.answers["/healthz-report"] = response(500)
        newer = await application.runner.run(target)
        application.run_finished(target, newer)
        application.run_finished(target, older)
        assert [-1.0] == list(scrape(application, "coderd_proxyhealth_health_check_results").values())


@pytest.mark.parametrize(
    "answer",
    [
        json_response("{}"),
        json_response("null"),
        json_response("[]"),
        json_response('{"healthy": true}'),
        json_response('{"errors": "none"}'),
        json_response('{"errors": [1]}'),
        json_response('{"errors": null} trailing'),
        response(200, b'{"errors": null}', Content_Type="text/html"),
        response(200, b'{"errors": null}'),
        json_response("[" * 100_000),
        json_response("\ud83d".encode("utf-16", "surrogatepass").decode("latin-1")),
    ],
)
async def test_p07_only_a_report_is_healthy(answer: bytes) -> None:
    """Another content type, another shape and rubbish are unhealthy, with a hint at what answers."""
    proxy = await play_one(answer)
    assert ProxyStatus.UNHEALTHY is proxy.status
    assert "not a Coder workspace proxy" in proxy.errors[0]
    assert proxy.failure is not None
    assert Reason.BODY is proxy.failure.reason


async def test_p08_a_report_that_cannot_be_read_leaves_nothing() -> None:
    """Warnings of a report with broken errors are not kept."""
    proxy = await play_one(json_response('{"warnings": ["version differs"], "errors": {}}'))
    assert () == proxy.warnings


async def test_p09_time_that_runs_out_in_the_body_is_a_timeout() -> None:
    """A report that begins and never ends makes the proxy unreachable, for time, not a wrong server."""

    async def begin(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{")
        await reader.read()

    proxy = await play_one(begin, timeout_seconds=0.4)
    assert ProxyStatus.UNREACHABLE is proxy.status
    assert proxy.failure is not None
    assert Reason.TIMEOUT is proxy.failure.reason
    assert "check its URL" not in proxy.errors[0]


async def test_p10_redirects_are_not_followed() -> None:
    """A redirect is unhealthy, and says where it wanted us to go."""
    proxy = await play_one(response(302, Location="https://sso.example.org/login"))
    assert ProxyStatus.UNHEALTHY is proxy.status
    assert "https://sso.example.org/login" in proxy.errors[0]


async def test_p11_every_round_has_fresh_connections() -> None:
    """Two rounds of two requests are four connections."""
    async with RawServer({"/healthz-report": GOOD, "/healthz": OK}) as server:
        target = make_target(listed("eu", server.url))
        for _ in range(2):
            assert ProxyStatus.OK is (await play(target)).proxies[0].status
        assert 4 == server.connections


async def test_p12_a_body_without_end_is_cut() -> None:
    """An endless report gives a verdict without being read to its end."""

    async def pour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n{"errors": ["')
        while True:
            writer.write(b"x" * 65536)
            await writer.drain()

    proxy = await play_one(pour)
    assert ProxyStatus.UNHEALTHY is proxy.status
    assert "longer than" in proxy.errors[0]
    assert len(proxy.errors[0]) < 1000


async def test_p13_each_proxy_has_its_own_stamp_and_a_monotonic_duration() -> None:
    """A slow proxy's duration is its own, and a clock set back in the meantime does not show in it."""

    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.3)
        writer.write(GOOD)

    class JumpingClock(SystemClock):
        """The wall clock runs backwards."""

        def now(self) -> float:  # type: ignore[override]
            return -time.monotonic()

    async with (
        RawServer({"/healthz-report": slow, "/healthz": OK}) as slow_server,
        RawServer({"/healthz-report": GOOD, "/healthz": OK}) as fast_server,
    ):
        target = make_target(listed("slow", slow_server.url), listed("fast", fast_server.url))
        clock = JumpingClock()
        found = await probe(target, discovery=ProxyDiscovery(target, clock=clock, read_tables=None), clock=clock)
    durations = {proxy.proxy.name: proxy.duration_seconds for proxy in found.proxies}
    assert durations["slow"] >= 0.3 > durations["fast"] > 0
    assert 2 == len({proxy.started_timestamp_seconds for proxy in found.proxies})


async def test_p14_failures_are_counted_by_reason_and_the_last_success_is_kept() -> None:
    """A refused proxy counts under its reason; its last success stays what it was."""
    server = RawServer({"/healthz-report": GOOD, "/healthz": OK})
    async with server:
        application = Application(make_config(listed("eu", server.url)), clock=SystemClock())
        await check_proxies(application)
    last_success = by_label(scrape(application, "coder_health_probe_last_success_timestamp_seconds"), "target")["eu"]
    await check_proxies(application)
    failures = {
        dict(labels)["reason"]: value
        for labels, value in scrape(application, "coder_health_probe_failures_total").items()
        if dict(labels)["target"] == "eu"
    }
    assert {str(reason) for reason in Reason} == set(failures)
    assert {"refused"} == {reason for reason, value in failures.items() if value}
    assert (
        last_success
        == by_label(scrape(application, "coder_health_probe_last_success_timestamp_seconds"), "target")["eu"]
    )
    assert 0.0 == by_label(scrape(application, "coder_health_probe_success"), "target")["eu"]


async def test_p15_the_whole_round_is_observed() -> None:
    """The ported histogram has one observation a round, and it is as long as the slowest proxy."""

    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.2)
        writer.write(GOOD)

    async with RawServer({"/healthz-report": slow, "/healthz": OK}) as server:
        application = Application(make_config(listed("eu", server.url), listed("us", server.url)), clock=SystemClock())
        await check_proxies(application)
    assert [1.0] == list(scrape(application, "coderd_proxyhealth_health_check_duration_seconds_count").values())
    assert next(iter(scrape(application, "coderd_proxyhealth_health_check_duration_seconds_sum").values())) >= 0.2


async def test_p16_names_versions_and_warnings_are_shown() -> None:
    """An info series joins names to ids; warnings and the status have series of their own."""
    report = json_response('{"errors": [], "warnings": ["version differs", "mesh"]}', X_Coder_Build_Version="v2.25.1")
    async with RawServer({"/healthz-report": report, "/healthz": OK}) as server:
        proxy = listed("eu", server.url)
        application = Application(make_config(proxy), clock=SystemClock())
        await check_proxies(application)
    (info,) = scrape(application, "coder_health_workspace_proxy_info")
    assert {"deployment": "prod", "proxy_id": proxy.id, "proxy": "eu", "version": "v2.25.1"} == dict(info)
    assert [2.0] == list(scrape(application, "coder_health_workspace_proxy_warnings").values())
    status = by_label(scrape(application, "coder_health_workspace_proxy_status"), "status")
    assert {"ok": 1.0, "unregistered": 0.0, "unhealthy": 0.0, "unreachable": 0.0, "unknown": 0.0} == status


async def test_p17_a_list_that_fails_is_kept_for_a_while_and_shows_its_age() -> None:
    """The list of before is used and grows old; after five intervals it is gone."""
    clock = FakeClock()
    rows: list[tuple[ListedProxy, ...] | None] = [(listed("eu", ""),)]

    async def read_tables(timeout_seconds: float) -> tuple[ListedProxy, ...]:
        if rows[0] is None:
            raise ConnectError("the database is gone")
        return rows[0]

    target = make_target(interval_seconds=10.0)
    discovery = ProxyDiscovery(target, clock=clock, read_tables=read_tables)
    assert 0.0 == (await discovery.refresh(1.0)).age_seconds
    rows[0] = None
    await clock.advance(KEPT_INTERVALS * 10.0)
    kept = await discovery.refresh(clock.monotonic() + 1.0)
    assert (["eu"], 50.0) == ([proxy.name for proxy in kept.proxies], kept.age_seconds)
    assert kept.failure is not None
    await clock.advance(1.0)
    gone = await discovery.refresh(clock.monotonic() + 1.0)
    assert ((), None) == (gone.proxies, gone.age_seconds)


def test_p18_the_primary_is_no_proxy() -> None:
    """What Coder makes up for itself is left out, and so are deleted proxies."""
    body = (Path(__file__).parents[1] / "data/coder/proxies-one-down-workspaceproxies.json").read_bytes()
    assert ["never", "eu", "us"] == [proxy.name for proxy in coder_json.parse_workspace_proxies(body)]


async def test_p19_a_proxy_that_was_stopped_is_told_from_one_that_broke() -> None:
    """Stopped rows make it XWP03, also after the rows are gone, until it registers again."""
    clock = FakeClock()
    row = listed("eu", "http://127.0.0.1:9", stopped=True, updated_at="10:00", source="tables")
    rows = [row]

    gone = [False]

    async def read_tables(timeout_seconds: float) -> tuple[ListedProxy, ...]:
        if gone[0]:
            raise ConnectError("the database is gone")
        return tuple(rows)

    target = make_target(timeout_seconds=1.0)
    discovery = ProxyDiscovery(target, clock=clock, read_tables=read_tables)

    async def codes() -> list[str]:
        found = await probe(target, discovery=discovery, clock=SystemClock())
        return [finding.code for finding in assess_proxy(found.proxies[0]).findings]

    assert ["XWP03"] == await codes()
    rows[0] = listed("eu", "http://127.0.0.1:9", stopped=None, updated_at="10:00", source="tables")
    assert ["XWP03"] == await codes()
    gone[0] = True  # a run without the tables forgets nothing
    assert ["XWP03"] == await codes()
    gone[0] = False
    assert ["XWP03"] == await codes()
    rows[0] = listed("eu", "http://127.0.0.1:9", stopped=None, updated_at="10:45", source="tables")
    assert ["EWP04"] == await codes()


async def test_p20_a_proxy_that_never_registered_has_words() -> None:
    """Without a URL nothing is asked, and XWP01 says what is the matter."""
    (proxy,) = (await play(make_target(listed("never", "")))).proxies
    assert ProxyStatus.UNREGISTERED is proxy.status
    report = assess_proxy(proxy)
    assert ["XWP01"] == [finding.code for finding in report.findings]
    assert "never registered" in report.findings[0].message


async def test_p21_a_slow_primary_is_told_from_a_dead_proxy() -> None:
    """The proxy's own health answers while its report hangs: XWP04 beside the parity of EWP04."""
    proxy = await play_one(hang, timeout_seconds=0.4)
    assert (ProxyStatus.UNREACHABLE, True) == (proxy.status, proxy.healthz_ok)
    assert {"EWP04", "XWP04"} == {finding.code for finding in assess_proxy(proxy).findings}
    dead = await play_one(hang, healthz=hang, timeout_seconds=0.4)
    assert {"EWP04"} == {finding.code for finding in assess_proxy(dead).findings}


async def test_p22_sixty_dead_proxies_take_no_longer_than_one() -> None:
    """All proxies hang; a good one beside them is measured, and the round ends with their timeout."""
    async with (
        RawServer({"/healthz-report": hang, "/healthz": hang}) as dead,
        RawServer({"/healthz-report": GOOD, "/healthz": OK}) as good,
    ):
        proxies = [listed(f"dead-{n}", dead.url) for n in range(60)]
        started = time.monotonic()
        found = await play(make_target(*proxies, listed("good", good.url), timeout_seconds=3.0))
        # fivefold slack; five at a time would take thirty-six seconds
        assert time.monotonic() - started < 15.0
    assert ProxyStatus.OK is found.proxies[-1].status
    assert {Reason.TIMEOUT} == {proxy.failure.reason for proxy in found.proxies[:-1] if proxy.failure is not None}


async def test_p23_a_json_string_is_the_message() -> None:
    """A proxy that is shutting down answers 500 with a string, which stands in the finding."""
    body = (Path(answers.__file__).parent / "answers/proxy-stopped-healthz-report.json").read_text()
    proxy = await play_one(json_response(body, status=500))
    assert ProxyStatus.UNHEALTHY is proxy.status
    assert "workspace proxy in middle of shutting down" in proxy.errors[0]


async def test_p24_no_entry_is_no_data() -> None:
    """Before its first round a proxy has no series at all, not one that says unknown."""
    application = Application(make_config(listed("eu", "http://127.0.0.1:9")), clock=SystemClock())
    assert {} == scrape(application, "coderd_proxyhealth_health_check_results")
    assert {} == scrape(application, "coder_health_workspace_proxy_status")
    assert 0.0 == by_label(scrape(application, "coder_health_code_active"), "code")["EWP04"]
