"""The whole way through the house in one process: configuration in, scrape out."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from exporter import check
from exporter.app import Application, running
from exporter.clock import SystemClock
from exporter.config.load import load_config
from exporter.demo import faults
from exporter.demo.coderd import Role, SimulatedCoder
from exporter.health.codes import section_codes
from exporter.health.model import REPORT_SECTIONS, Section
from exporter.metrics.negotiation import Format
from exporter.snapshot import CodeChange
from exporter.targets.static import EXPORTER_SCHEDULE_NAME
from tests.support.clock import FakeClock
from tests.support.raw_http import RawServer, hang, json_response, response


@pytest.fixture
async def coder() -> AsyncIterator[SimulatedCoder]:
    async with SimulatedCoder(host="127.0.0.1", licensed=False) as server:
        yield server


def make_application(
    url: str, *, settings: str = "", clock: object = None, changes: list[CodeChange] | None = None, **environ: str
) -> Application:
    config = load_config(None, {"CODER_URL": url, "CODER_HEALTH_DEPLOYMENT": "prod"} | environ)
    return Application(
        config,
        clock=clock or SystemClock(),  # type: ignore[arg-type]
        on_change=changes.append if changes is not None else None,
    )


def scrape(application: Application) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    text = b"".join(application.board.render(Format.TEXT)).decode()
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def find(application: Application, name: str, **labels: str) -> list[float]:
    return [
        value
        for (family, found), value in scrape(application).items()
        if family == name and found >= set(labels.items())
    ]


async def test_before_the_first_run_codes_are_there_and_facts_are_not(coder: SimulatedCoder) -> None:
    """Every code of every section that is on stands at 0, no severity at 1, and nothing is made up."""
    application = make_application(coder.url)
    for section in (Section.ACCESS_URL, Section.WEBSOCKET):
        assert len(section_codes(section)) == len(find(application, "coder_health_code_active", section=section))
    assert {0.0} == set(find(application, "coder_health_code_active"))
    assert {0.0} == set(find(application, "coder_health_section_severity"))
    assert [] == find(application, "coder_health_probe_success")
    assert [] == find(application, "coder_health_access_url_status_code")


async def test_grades_tell_what_is_off_and_why(coder: SimulatedCoder) -> None:
    """Without token and database three sections are off, with their reasons, and have no codes."""
    application = make_application(coder.url)
    enabled = {
        (dict(labels)["section"], dict(labels)["reason"]): value
        for (name, labels), value in scrape(application).items()
        if name == "coder_health_section_enabled"
        and (dict(labels)["deployment"], dict(labels)["witness"]) == ("prod", "probe")
    }
    assert {
        ("access_url", ""): 1.0,
        ("websocket", ""): 1.0,
        ("derp", ""): 1.0,
        ("direct_connections", ""): 1.0,
        ("database", "no_database"): 0.0,
        ("workspace_proxy", "no_token"): 0.0,
        ("provisioner_daemons", "no_token"): 0.0,
        ("report", "no_token"): 0.0,
        ("exporter", "no_token"): 0.0,
    } == enabled
    assert [0.0] * len(REPORT_SECTIONS) == find(
        application, "coder_health_section_enabled", witness="report", reason="no_token"
    )
    assert [] == find(application, "coder_health_code_active", section="database")


async def test_what_a_run_learns_turns_a_section_off_and_on_again(coder: SimulatedCoder) -> None:
    """A deployment without the license has no proxy section; with it, the codes are there."""
    application = make_application(coder.url, CODER_SESSION_TOKEN=coder.tokens[Role.MEMBER].reveal())
    await application.check()
    assert [0.0] == find(application, "coder_health_section_enabled", section="workspace_proxy", reason="not_licensed")
    assert [] == find(application, "coder_health_code_active", section="workspace_proxy")
    coder.licensed = True
    await application.check()
    assert [1.0] == find(application, "coder_health_section_enabled", section="workspace_proxy", witness="probe")
    assert {0.0} == set(find(application, "coder_health_code_active", section="workspace_proxy", witness="probe"))


async def test_a_fault_goes_from_the_wire_to_the_scrape_and_back(coder: SimulatedCoder) -> None:
    """A 503 is observed at once, active after two runs, and gone after two good ones; its target is named."""
    clock, changes = FakeClock(), []
    application = make_application(coder.url, clock=clock, changes=changes)
    await clock.advance(3600)  # the start-up grace is over
    fault = faults.Answer(path="/healthz", status=503)
    seen = []
    coder.break_with(fault)
    for run in range(4):
        if run == 2:
            coder.heal(fault)
        await application.check()
        seen.append(
            tuple(find(application, f"coder_health_code_{kind}", code="XACS06")[0] for kind in ("observed", "active"))
        )
    assert [(1.0, 0.0), (1.0, 1.0), (0.0, 1.0), (0.0, 0.0)] == seen
    assert [("XACS06", True), ("XACS06", False)] == [(c.code, c.active) for c in changes if c.code == "XACS06"]
    assert [200.0] == find(application, "coder_health_access_url_status_code")
    assert [] == find(application, "coder_health_code_target", section="access_url")
    assert [2.0] == find(application, "coder_health_probe_failures_total", section="access_url", reason="status")


async def test_the_deployments_of_one_process_do_not_touch_each_other(tmp_path: Path, coder: SimulatedCoder) -> None:
    """One deployment without a URL has its codes; the other one is healthy."""
    (tmp_path / "url").write_text("")
    (tmp_path / "config.yaml").write_text(
        f"deployments:\n- {{name: good, url: '{coder.url}'}}\n- {{name: bad, url_file: url}}\n"
    )
    config = await asyncio.to_thread(load_config, tmp_path / "config.yaml", {})
    application = Application(config, clock=SystemClock())
    await application.check()
    assert [1.0] == find(application, "coder_health_code_observed", deployment="bad", code="EACS01")
    assert [0.0] == find(application, "coder_health_code_observed", deployment="good", code="EACS01")
    assert [1.0] == find(application, "coder_health_probe_success", deployment="good", section="access_url")
    (tmp_path / "url").write_text(coder.url)
    await application.check()
    assert [0.0] == find(application, "coder_health_code_observed", deployment="bad", code="EACS01")
    assert [1.0] == find(application, "coder_health_probe_success", deployment="bad", section="access_url")


async def test_a_new_version_is_a_roll_out_but_the_start_is_none(coder: SimulatedCoder) -> None:
    """The first version seen changes nothing; another one opens the version grace."""
    application = make_application(coder.url)
    await application.check()
    assert {} == application.snapshot._version_changed
    coder.version = "v2.27.0"
    await application.check()
    assert ["prod"] == list(application.snapshot._version_changed)


async def test_replicas_of_two_versions_are_one_roll_out(coder: SimulatedCoder) -> None:
    """Versions that show in turn open the version grace once, so skew that lasts is told."""
    clock = FakeClock()
    application = make_application(coder.url, clock=clock)
    opened = []
    for version in ("v2.26.0", "v2.27.0") * 3:
        coder.version = version
        await application.check()
        opened.append(application.snapshot._version_changed.get("prod"))
        await clock.advance(30)
    assert opened[0] is None
    assert 1 == len(set(opened[1:]))
    await clock.advance(3600)
    coder.version = "v2.26.0"
    await application.check()
    assert opened[1] != application.snapshot._version_changed["prod"]


async def test_daemons_that_are_upgraded_are_a_roll_out() -> None:
    """Versions that were there from the start are none; one that joins them opens the version grace, once."""
    listed = "/api/v2/organizations/1/provisionerdaemons?limit=0&offline=true"

    def answer(*versions: str) -> bytes:
        entries = [{"id": one, "name": one, "version": one, "last_seen_at": "2100-01-01T00:00:00Z"} for one in versions]
        return json_response(json.dumps(entries))

    clock, changes = FakeClock(), list[CodeChange]()
    async with RawServer({"/api/v2/organizations": json_response('[{"id": "1", "name": "coder"}]')}) as server:
        server.answers["/api/v2/buildinfo"] = json_response('{"version": "v2.26.0"}')
        server.answers[listed] = answer("v2.26.0", "v2.26.1")
        application = make_application(
            server.url, clock=clock, changes=changes, CODER_SESSION_TOKEN="abcdefghij-0123456789012345678901"
        )
        await clock.advance(3600)
        opened = []
        for versions in (("v2.26.0", "v2.26.1"), ("v2.26.0", "v2.27.0"), ("v2.27.0",), ("v2.26.0", "v2.27.0")):
            server.answers[listed] = answer(*versions)
            await application.check([Section.PROVISIONER_DAEMONS])
            opened.append(application.snapshot._version_changed.get("prod"))
            await clock.advance(30)
        assert ([None, opened[1]], 1) == (opened[:2], len(set(opened[1:])))
        assert [1.0] == find(application, "coder_health_code_observed", code="EPD02")
        assert [] == [change for change in changes if change.code == "EPD02"]
        await clock.advance(300)
        await application.check([Section.PROVISIONER_DAEMONS])
    assert [("EPD02", True)] == [(change.code, change.active) for change in changes]


async def test_hanging_targets_do_not_hold_up_a_stop() -> None:
    """Leaving `running` ends within the promise of two seconds, with fivefold slack, whatever hangs."""
    async with RawServer({"/healthz": hang, "/api/v2/derp-map": hang}) as server:
        config = load_config(None, {"CODER_URL": server.url, "CODER_HEALTH_DEPLOYMENT": "prod"})
        async with asyncio.timeout(10):
            async with running(config) as application:
                names = list(application.ticker.targets)
                runs = [asyncio.ensure_future(application.ticker.force(name)) for name in names]
                await server.wait_until_asked("/healthz")
            outcomes = await asyncio.gather(*runs, return_exceptions=True)
    # who waits for a run that is given up is told that its target is gone; the relays have no map to wait for
    kinds = {name: type(outcome) for name, outcome in zip(names, outcomes, strict=True)}
    assert {KeyError} == {kind for name, kind in kinds.items() if name.endswith(("/access_url", "/websocket"))}


async def test_ready_waits_for_the_first_round_and_no_longer_than_a_minute() -> None:
    """Until every target had its first run, or a minute went by, the exporter is not ready."""
    clock = FakeClock()
    async with RawServer({"/healthz": response(200, b"OK")}) as server:
        application = make_application(server.url, clock=clock)
        assert "prod/access_url" in (application.ready() or "")
        await application.check()
        assert application.ready() is None
        late = make_application(server.url, clock=clock)
        await clock.advance(60)
        assert late.ready() is None


async def test_a_healthy_loop_is_healthy(coder: SimulatedCoder) -> None:
    """Nothing is overdue when nothing is scheduled yet."""
    assert make_application(coder.url).healthy() is None


async def test_an_outage_outlives_one_reading_of_an_empty_file(tmp_path: Path, coder: SimulatedCoder) -> None:
    """A `url_file` that is empty for one run renames no target, so nothing that is active is lost."""
    path = tmp_path / "url"
    path.write_text(coder.url)
    (tmp_path / "config.yaml").write_text("deployments: [{name: prod, url_file: url}]\n")
    config = await asyncio.to_thread(load_config, tmp_path / "config.yaml", {})
    clock = FakeClock()
    application = Application(config, clock=clock)
    await clock.advance(3600)
    coder.break_with(faults.Answer(path="/healthz", status=503))
    for text in (coder.url, coder.url, "", coder.url):
        path.write_text(text)
        await application.check()
    assert [1.0] == find(application, "coder_health_code_active", code="XACS06")
    assert [4.0] == find(application, "coder_health_probe_runs_total", section="access_url", target="127.0.0.1")
    assert [] == find(application, "coder_health_probe_runs_total", section="access_url", target="")


async def test_what_a_redirect_carries_is_not_shown(coder: SimulatedCoder) -> None:
    """Passwords and tokens in a Location stand in no form of `check`."""
    location = "https://svc:hunter2@idp.example.org/cb?access_token=s3cret"
    coder.break_with(faults.Answer(path="/healthz", status=302, location=location))
    application = make_application(coder.url)
    await application.check()
    shown = "".join(check.render(check.collect(application), form) for form in check.FORMATS)
    assert "idp.example.org/cb" in shown
    assert "XACS02" in shown
    assert "hunter2" not in shown
    assert "s3cret" not in shown


@pytest.mark.parametrize("interval_minutes", [1, 60])
async def test_a_long_interval_is_no_roll_out(coder: SimulatedCoder, interval_minutes: int) -> None:
    """The same version after any while is the same version."""
    clock = FakeClock()
    application = make_application(coder.url, clock=clock)
    for _ in range(3):
        await application.check()
        await clock.advance(interval_minutes * 60)
    assert {} == application.snapshot._version_changed


async def test_a_target_that_is_slow_again_and_again_is_told(coder: SimulatedCoder) -> None:
    """However seldom its ticks are skipped: XEXP02 names it at each look, until a run of it is in time."""
    config = load_config(None, {"CODER_URL": coder.url, "CODER_HEALTH_DEPLOYMENT": "prod"})
    seen = []
    async with running(config) as application:
        slow = next(one for one in application.ticker.targets.values() if one.section is Section.WEBSOCKET)

        async def look() -> list[str]:
            (health,) = (await application.ticker.force(EXPORTER_SCHEDULE_NAME)).healths
            return [finding.message for finding in health.report.findings]

        for _ in range(2):
            application.run_started(slow, 0.0)
            application.ticks_skipped(slow, 1)
            seen += [await look(), await look()]
        application.run_started(slow, 0.0)
        application.run_started(slow, 0.0)
        seen.append(await look())
    told = ["probing falls behind its schedule: runs of prod/websocket take longer than their interval"]
    assert [[], [], told, told, []] == seen
