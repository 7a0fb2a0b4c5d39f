"""Two witnesses in one process: Coder's own reports beside our probes, from the wire to the scrape."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from exporter import check
from exporter.app import Application
from exporter.comparing import MAX_AT_ONCE
from exporter.demo import answers, faults
from exporter.demo.state import CoderState, Role
from exporter.health.codes import section_codes
from exporter.health.model import REPORT_SECTIONS, OffReason, Section, Severity, Witness
from exporter.health.root_cause import Layer
from exporter.metrics.negotiation import Format
from exporter.snapshot import CodeChange
from tests.support.clock import ShiftedClock
from tests.support.exposition import read
from tests.support.scripted_coder import ScriptedCoder, configure, describe, warned

REPORT_PATH = "/api/v2/debug/health"
ENABLED = "coder_health_section_enabled"
OBSERVED = "coder_health_code_observed"
ACTIVE = "coder_health_code_active"


@pytest.fixture
def clock() -> ShiftedClock:
    return ShiftedClock()


@pytest.fixture
async def coder(clock: ShiftedClock) -> AsyncIterator[ScriptedCoder]:
    async with ScriptedCoder(clock) as server:
        yield server


@pytest.fixture
async def other(clock: ShiftedClock, coder: ScriptedCoder) -> AsyncIterator[ScriptedCoder]:
    """Give one more server of the same deployment."""
    async with ScriptedCoder(clock, state=coder.state) as server:
        yield server


def scrape(application: Application) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    values = read(b"".join(application.board.render(Format.TEXT)))
    return {(name, frozenset(labels)): value for (name, labels), value in values.items()}


def find(application: Application, name: str, **labels: str) -> list[float]:
    wanted = set(labels.items())
    return [value for (family, found), value in scrape(application).items() if family == name and found >= wanted]


def values(application: Application, name: str, label: str, **labels: str) -> set[str]:
    """Return the values of one label of the samples of a name that are 1."""
    wanted = set(labels.items())
    return {
        dict(found)[label]
        for (family, found), value in scrape(application).items()
        if family == name and found >= wanted and value == 1.0
    }


def severity(application: Application, section: str, replica: str = "", witness: str = "report") -> str | None:
    """Return the settled severity of a section; None when there is none."""
    labels = {"section": section, "coder_replica": replica, "witness": witness}
    (found,) = values(application, "coder_health_section_severity", "severity", **labels) or {None}
    return found


def name_replicas(**servers: ScriptedCoder) -> dict[str, Any]:
    return {"replicas": {"urls": [{"name": name, "url": server.url} for name, server in servers.items()]}}


async def test_each_replica_tells_its_own_report(
    tmp_path: Path, clock: ShiftedClock, coder: ScriptedCoder, other: ScriptedCoder
) -> None:
    """Of the two, one sees a slow database: its report raises the code at once, under its name and the
    witness `report`, and the other's does not."""
    other.told["database"] = warned("EDB02", "the median is slow")
    changes: list[CodeChange] = []
    application = await configure(tmp_path, clock, describe(coder, **name_replicas(a=coder, b=other)), changes=changes)
    await application.check()
    assert ("ok", "warning") == (severity(application, "database", "a"), severity(application, "database", "b"))
    assert {"b"} == values(application, ACTIVE, "coder_replica", code="EDB02")
    assert {"report"} == values(application, ACTIVE, "witness", code="EDB02")
    assert [1.0] == find(
        application, "coder_health_code_target", code="EDB02", target="b", coder_replica="b", severity="warning"
    )
    assert [("EDB02", True, "b reports: the median is slow")] == [
        (one.code, one.active, one.message) for one in changes
    ]
    # only the poll itself was run; and nobody polls the access URL beside its replicas
    assert [] == find(application, "coder_health_probe_runs_total", section="database")
    assert 2 == len(find(application, "coder_health_report_healthy"))
    assert [] == find(application, "coder_health_report_healthy", coder_replica="")


async def test_codes_stand_before_the_first_poll(tmp_path: Path, clock: ShiftedClock, coder: ScriptedCoder) -> None:
    """While the first poll is under way, every code of every section stands at 0 and no severity at 1."""
    application = await configure(tmp_path, clock, describe(coder))
    slow = faults.Hang(path=REPORT_PATH)
    coder.break_with(slow)
    async with asyncio.TaskGroup() as group:
        group.create_task(application.check([Section.REPORT]))
        await slow.reached.wait()
        for section in REPORT_SECTIONS:
            labels = {"section": str(section), "witness": "report"}
            assert [0.0] * len(section_codes(section, Witness.REPORT)) == find(application, ACTIVE, **labels)
            assert [0.0] * 3 == find(application, "coder_health_section_severity", **labels)
            assert [1.0] == find(application, ENABLED, reason="", **labels)
        coder.heal(slow)
    assert {"ok"} == {severity(application, str(section)) for section in REPORT_SECTIONS}


async def test_a_replica_that_vanishes_takes_every_series_along(
    tmp_path: Path, clock: ShiftedClock, coder: ScriptedCoder, other: ScriptedCoder
) -> None:
    """Twice missing in the list of replicas, and nothing bears its name; what only it told of is gone whole."""
    async with ScriptedCoder(clock, state=coder.state) as front:
        coder.list_replica("coder-a", coder.url)
        coder.list_replica("coder-b", other.url)
        other.told |= {"database": warned("EDB02"), "pubsub": warned("EPS01")}
        changes: list[CodeChange] = []
        application = await configure(tmp_path, clock, describe(front), changes=changes)
        await application.check()
        assert [1.0] == find(application, ENABLED, section="pubsub", witness="report")
        assert {"coder-b"} == values(application, ACTIVE, "coder_replica", code="EPS01")
        del coder.state.replicas["coder-b"]
        await application.check()
        assert "warning" == severity(application, "database", "coder-b")
        await application.check()
        body = b"".join(application.board.render(Format.TEXT))
        assert (False, False, True) == (b"coder-b" in body, b"pubsub" in body, b"coder-a" in body)
        assert [1.0] == find(application, ENABLED, section="database", witness="report")
        assert not any(key.coder_replica == "coder-b" for key in application.snapshot.sections)
        # pods come and go: neither does what its polls kept stay
        assert ["prod/report/poll/coder-a"] == list(application._rooms.reports.remembered)
        assert {"EDB02", "EPS01"} == {one.code for one in changes if not one.active}
        # without any replica, the access URL is asked instead
        coder.state.replicas.clear()
        await application.check()
        await application.check()
        assert b"coder-a" not in b"".join(application.board.render(Format.TEXT))
        assert "ok" == severity(application, "database")


async def test_a_poll_without_a_url_is_told_apart_from_what_all_polls_say(
    tmp_path: Path, clock: ShiftedClock, coder: ScriptedCoder
) -> None:
    """While the file of the URL cannot be read the poll bears the deployment's name, and its code settles."""
    file = tmp_path / "url"
    file.write_text("")
    deployment = {key: value for key, value in describe(coder).items() if key != "url"} | {"url_file": str(file)}
    changes: list[CodeChange] = []
    application = await configure(tmp_path, clock, deployment, changes=changes)
    for _ in range(3):
        await application.check()
        clock.ahead_seconds += 120
    names = {
        (key.name, type(entry.health.result).__name__)
        for key, entry in application.snapshot.entries.items()
        if key.section_key.section is Section.REPORT
    }
    assert {("prod", "ReportResult"), ("", "ReportsResult")} == names
    polls = [one for one in changes if one.code == "XRPT04"]
    assert [("prod", True)] == [(one.key.name, one.active) for one in polls]
    file.write_text(coder.url)
    await application.check()
    assert set() == values(application, ACTIVE, "code", code="XRPT04")


async def test_sections_that_we_do_not_know_come_and_go_with_the_report(
    tmp_path: Path, clock: ShiftedClock, coder: ScriptedCoder
) -> None:
    """A newer Coder's section has its severity and codes; one that leaves the report leaves nothing, so
    that names which change each time do not add up."""
    application = await configure(tmp_path, clock, describe(coder))
    before = len(scrape(application))
    coder.told["pubsub"] = warned("EPS01")
    await application.check()
    assert ("warning", [1.0]) == (severity(application, "pubsub"), find(application, OBSERVED, section="pubsub"))
    for number in range(5):
        coder.told = {f"new{number}": {"severity": "ok", "healthy": True}}
        await application.check()
        foreign = {str(key.section) for key in application.snapshot.sections} - set(map(str, Section))
        assert ({f"new{number}"}, "ok") == (foreign, severity(application, f"new{number}"))
    coder.told = {}
    await application.check()
    body = b"".join(application.board.render(Format.TEXT))
    assert (False, False) == (b"pubsub" in body, b"new4" in body)
    assert {Section} == {type(key.section) for key in application.board.off}
    assert len(scrape(application)) > before


@pytest.mark.parametrize("status", [401, 403])
async def test_a_refused_token_turns_the_sections_off_and_back_at_once(
    tmp_path: Path, clock: ShiftedClock, coder: ScriptedCoder, status: int
) -> None:
    """Signed out or no Owner's any more: XRPT01, six sections off, and no error anywhere; and with the
    right back, all is as before, but that XRPT01 wants two good polls to be over."""
    changes: list[CodeChange] = []
    application = await configure(tmp_path, clock, describe(coder, **name_replicas(a=coder)), changes=changes)
    tokens = dict(coder.tokens)
    coder.told["database"] = warned("EDB02")
    await application.check()
    assert {"EDB02"} == values(application, OBSERVED, "code")
    for _ in range(2):
        if status == 401:
            coder.state.accepted.discard(Role.OWNER)
        else:
            coder.tokens.update({Role.OWNER: tokens[Role.MEMBER], Role.MEMBER: tokens[Role.OWNER]})
        await application.check()
        assert {"XRPT01"} == values(application, OBSERVED, "code") == values(application, ACTIVE, "code")
        assert f"status {status}" in "".join(one.message for one in changes if one.code == "XRPT01")
        for section in REPORT_SECTIONS:
            labels = {"section": str(section), "witness": "report"}
            assert [0.0] == find(application, ENABLED, reason="forbidden", **labels)
            assert [] == find(application, ACTIVE, **labels) + find(application, OBSERVED, **labels)
            assert [] == find(application, "coder_health_section_severity", **labels)
        assert [] == find(application, "coder_health_report_healthy")
        assert {0.0} == set(find(application, "coder_health_section_observed_severity", severity="error"))
        coder.state.accepted.add(Role.OWNER)
        coder.tokens.update(tokens)
        clock.ahead_seconds += 30
        await application.check()
        assert {"EDB02"} == values(application, OBSERVED, "code")
        await application.check()
        assert {"EDB02"} == values(application, OBSERVED, "code") == values(application, ACTIVE, "code")
        assert [1.0] * 6 == find(application, ENABLED, witness="report")
        assert {"warning"} == {severity(application, "database", "a")}


@pytest.mark.parametrize("content", ["", "two words", None])
async def test_a_token_file_without_a_token_turns_off_what_needs_one(
    tmp_path: Path, clock: ShiftedClock, coder: ScriptedCoder, content: str | None
) -> None:
    """At once and with one reason, whatever is wrong with the file: nothing of it is an outage; the mutes are not
    known. With a token again all is back at once."""
    path = tmp_path / "token"
    path.write_text(coder.tokens[Role.OWNER].reveal())
    deployment = describe(coder, session_token_file=str(path))
    del deployment["session_token"]
    changes: list[CodeChange] = []
    application = await configure(tmp_path, clock, deployment, changes=changes)
    coder.state.dismissed = ("DERP",)
    off_before = None
    for _ in range(2):
        path.write_text(coder.tokens[Role.OWNER].reveal())
        clock.ahead_seconds += 30
        await application.check()
        off = {key: reason for key, reason in application.board.off.items() if reason is not None}
        assert off_before in (None, off)
        off_before = off
        assert [1.0] * 6 == find(application, ENABLED, witness="report")
        assert {"derp"} == values(application, "coder_health_section_dismissed", "section")
        path.unlink() if content is None else path.write_text(content)
        clock.ahead_seconds += 30
        await application.check()
        gone = {key for key, reason in application.board.off.items() if reason is OffReason.NO_TOKEN}
        told = {(str(key.section), str(key.witness)) for key in gone}
        wanted = {(str(section), "report") for section in REPORT_SECTIONS}
        assert (
            wanted | {(name, "probe") for name in ("report", "workspace_proxy", "provisioner_daemons", "exporter")}
            == told
        )
        assert [] == find(application, "coder_health_section_dismissed")
        assert {0.0} == set(find(application, "coder_health_section_observed_severity", severity="error"))
        assert not {"XRPT01", "XRPT04", "XPD01", "EWP02"} & values(application, OBSERVED, "code")
    assert not {"XRPT01", "XRPT04", "XPD01", "EWP02"} & {one.code for one in changes}


async def test_a_deployment_without_a_licence_has_no_proxies_to_page_for(
    tmp_path: Path, clock: ShiftedClock, coder: ScriptedCoder
) -> None:
    """Once it has said so the section stays off while Coder cannot answer, for as long as that lasts."""
    application = await configure(tmp_path, clock, describe(coder))
    proxies = {"section": "workspace_proxy", "witness": "probe"}
    await application.check()
    assert [0.0] == find(application, ENABLED, reason="not_licensed", **proxies)
    coder.break_with(faults.DatabaseGone())
    for _ in range(8):
        clock.ahead_seconds += 60
        await application.check()
        assert [0.0] == find(application, ENABLED, reason="not_licensed", **proxies)
        assert set() == values(application, "coder_health_root_cause", "layer", layer="proxy")
    assert not {"EWP01", "EWP02"} & values(application, OBSERVED, "code")


async def test_coder_without_its_database_is_no_refusal(
    tmp_path: Path, clock: ShiftedClock, coder: ScriptedCoder
) -> None:
    """Its 401 that says that it failed itself is XRPT04, and leaves the sections as they are."""
    coder.told["database"] = warned("EDB02")
    application = await configure(tmp_path, clock, describe(coder))
    await application.check()
    before = {section: severity(application, section) for section in REPORT_SECTIONS}
    coder.break_with(faults.DatabaseGone())
    clock.ahead_seconds += 30
    await application.check()
    assert {"XRPT04"} == values(application, OBSERVED, "code", section="report")
    assert before == {section: severity(application, section) for section in REPORT_SECTIONS}
    assert {"EDB02"} == values(application, ACTIVE, "code", section="database", witness="report")
    assert [1.0] * 6 == find(application, ENABLED, witness="report")
    assert [1.0] == find(application, "coder_health_report_healthy")


async def test_the_same_report_twice_counts_once(tmp_path: Path, clock: ShiftedClock, coder: ScriptedCoder) -> None:
    """Where two reports are wanted, one out of the cache is none of them; its codes are observed all the same."""
    sections = {"report": {"settle": {"raise": 2}}}
    application = await configure(tmp_path, clock, describe(coder, sections=sections))
    coder.told["database"] = warned("EDB02")
    seen = []
    for is_new in (True, False, False, True):
        clock.ahead_seconds += 30
        if is_new:
            coder.made_timestamp_seconds = clock.now()
        await application.check([Section.REPORT])
        seen.append((find(application, OBSERVED, code="EDB02"), find(application, ACTIVE, code="EDB02")))
    assert [([1.0], [0.0])] * 3 + [([1.0], [1.0])] == seen


async def test_a_report_raises_again_what_a_lost_right_cleared(
    tmp_path: Path, clock: ShiftedClock, coder: ScriptedCoder
) -> None:
    """The right to read the report is lost for a while, and what it told is over; with the right the same
    report is news again."""
    application = await configure(tmp_path, clock, describe(coder))
    coder.told["database"] = warned("EDB02")
    coder.made_timestamp_seconds = clock.now()
    active = []
    fault = faults.Answer(path=REPORT_PATH, status=403, body='{"message": "Forbidden."}')
    for is_refused in (False, True, True, False, False):
        clock.ahead_seconds += 120
        coder.heal(fault)
        if is_refused:
            coder.break_with(fault)
        await application.check([Section.REPORT])
        active.append(find(application, ACTIVE, code="EDB02") == [1.0])
    assert [True, False, True, True] == [active[0], *active[2:]]


async def test_many_deployments_are_compared_in_turn(tmp_path: Path, clock: ShiftedClock, coder: ScriptedCoder) -> None:
    """A look at the host compares a few deployments at once, and the others in the turns after it."""
    names = [f"d{number}" for number in range(MAX_AT_ONCE + 2)]
    application = await configure(tmp_path, clock, *(describe(coder, name) for name in names))
    await application.check([Section.EXPORTER])
    assert names[:MAX_AT_ONCE] == list(application.comparing.root_causes)
    async with asyncio.TaskGroup() as group:
        rest = group.create_task(application.comparing.serve())
        for _ in range(10):
            await asyncio.sleep(0)
        rest.cancel()
    assert names == list(application.comparing.root_causes)
    assert application.comparing.idle


async def test_a_new_replica_of_another_version_is_a_roll_out(
    tmp_path: Path, clock: ShiftedClock, coder: ScriptedCoder, other: ScriptedCoder
) -> None:
    """A new pod is a new target, and its first version is not that of the deployment: the version grace is
    open. The start of this exporter and a new pod of the same version are none."""
    other.version = coder.version
    application = await configure(tmp_path, clock, describe(coder, **name_replicas(a=coder)))
    await application.check([Section.REPORT])
    assert {} == application.snapshot._version_changed
    more = await configure(tmp_path, clock, describe(coder, **name_replicas(a=coder, b=other)))
    (probes,) = (more._replicas["prod"],)
    application._replicas["prod"] = probes
    await application.check([Section.REPORT])
    assert {} == application.snapshot._version_changed
    other.version = "v2.99.0"
    await application.check([Section.REPORT])
    assert ["prod"] == list(application.snapshot._version_changed)


async def test_a_grace_that_ends_activates_what_a_cached_report_tells(
    tmp_path: Path, clock: ShiftedClock, coder: ScriptedCoder
) -> None:
    """What the only report told during the start-up grace is active after it, though it comes from the cache."""
    application = await configure(tmp_path, clock, describe(coder), started=False)
    coder.told["database"] = warned("EDB02")
    coder.made_timestamp_seconds = clock.now()
    await application.check([Section.REPORT])
    assert ([1.0], [0.0]) == (find(application, OBSERVED, code="EDB02"), find(application, ACTIVE, code="EDB02"))
    clock.ahead_seconds += 61
    await application.check([Section.REPORT])
    assert [1.0] == find(application, ACTIVE, code="EDB02")


async def test_facts_are_held_while_polls_fail_and_no_longer(
    tmp_path: Path, clock: ShiftedClock, coder: ScriptedCoder
) -> None:
    """As long as Coder might have kept the report itself, and three polls more: then nothing of it is left."""
    facts = ("report_healthy", "report_timestamp_seconds", "database_latency_median_seconds", "provisioner_daemons")
    coder.told["pubsub"] = warned("EPS01")
    application = await configure(tmp_path, clock, describe(coder, sections={"report": {"interval": "60s"}}))

    def count() -> list[int]:
        labels = [{} if name.startswith("report") else {"witness": "report"} for name in facts]
        return [
            len(find(application, f"coder_health_{name}", **more)) for name, more in zip(facts, labels, strict=True)
        ]

    await application.check()
    assert [1, 1, 1, 1] == count()
    made = find(application, "coder_health_report_timestamp_seconds")
    gone = faults.Answer(path=REPORT_PATH, status=500, body='{"message": "An internal server error occurred."}')
    coder.break_with(gone)
    clock.ahead_seconds += 700
    await application.check()
    assert (made, [1, 1, 1, 1]) == (find(application, "coder_health_report_timestamp_seconds"), count())
    assert ("ok", "warning") == (severity(application, "database"), severity(application, "pubsub"))
    clock.ahead_seconds += 100
    await application.check()
    assert [0, 0, 0, 0] == count()
    assert {None} == {severity(application, section) for section in (*REPORT_SECTIONS, "pubsub")}
    # that nobody knows is not that all is well, and no reason to be off
    assert [1.0] * 6 == find(application, ENABLED, witness="report")
    assert {0.0} == set(find(application, ACTIVE, witness="report"))
    coder.heal(gone)
    await application.check()
    assert [1, 1, 1, 1] == count()


async def test_mutes_are_shown_with_their_age_until_nobody_knows(
    tmp_path: Path, clock: ShiftedClock, coder: ScriptedCoder
) -> None:
    """Muted sections at 1 since they were first seen so; after a refusal there is no such series."""
    application = await configure(tmp_path, clock, describe(coder))
    coder.state.dismissed = ("DERP", "SomethingNew")
    await application.check()
    assert {"derp", "something_new"} == values(application, "coder_health_section_dismissed", "section")
    assert len(REPORT_SECTIONS) + 1 == len(find(application, "coder_health_section_dismissed"))
    (since,) = find(application, "coder_health_section_dismissed_since_timestamp_seconds", section="derp")
    coder.state.dismissed = ("DERP", "Database")
    clock.ahead_seconds += 120
    await application.check()
    assert [since] == find(application, "coder_health_section_dismissed_since_timestamp_seconds", section="derp")
    (later,) = find(application, "coder_health_section_dismissed_since_timestamp_seconds", section="database")
    assert 120 <= later - since
    coder.state.accepted.clear()
    await application.check()
    assert [] == find(application, "coder_health_section_dismissed")
    assert [] == find(application, "coder_health_section_dismissed_since_timestamp_seconds")


@pytest.mark.parametrize(
    ("written", "learned", "wanted"),
    [
        (None, 0.25, [0.015, 0.25]),
        ("40ms", 0.25, [0.04, 0.04]),
        # what the verdict goes by: whole milliseconds, and the default for less than one
        (None, 0.0209, [0.015, 0.02]),
        (None, 0.0005, [0.015, 0.015]),
    ],
)
async def test_the_threshold_is_the_written_one_else_coders(
    tmp_path: Path, clock: ShiftedClock, coder: ScriptedCoder, written: str | None, learned: float, wanted: list[float]
) -> None:
    """What Coder's configuration says is in force from the next run on; the file's own goes before it."""
    coder.state.latency_threshold_seconds = learned
    # nobody is there
    database = {"url": "postgres://health@127.0.0.1:1/coder"} | ({"latency_threshold": written} if written else {})
    application = await configure(tmp_path, clock, describe(coder, database=database))
    seen = []
    for _ in wanted:
        await application.check()
        seen += find(application, "coder_health_database_latency_threshold_seconds", witness="probe")
    await application.close()
    assert wanted == seen


async def test_the_root_cause_is_one_layer(tmp_path: Path, clock: ShiftedClock, coder: ScriptedCoder) -> None:
    """Once it has settled that Coder does not answer, the layer http is at 1 and no other; then none again."""
    application = await configure(tmp_path, clock, describe(coder))
    fault = faults.Answer(path="/healthz", status=503)
    seen = []
    for run in range(6):
        if run == 1:
            coder.break_with(fault)
        elif run == 3:
            coder.heal(fault)
        clock.ahead_seconds += 30
        await application.check()
        assert len(Layer) == len(find(application, "coder_health_root_cause", deployment="prod"))
        seen.append(values(application, "coder_health_root_cause", "layer"))
    assert [set(), set(), {"http"}, {"http"}, set(), set()] == seen


async def test_witnesses_that_differ_are_shown(
    tmp_path: Path, clock: ShiftedClock, coder: ScriptedCoder, other: ScriptedCoder
) -> None:
    """From outside the access URL fails and both replicas call it well: they differ, until they agree."""
    # the replica that is asked by itself answers, and so does the other
    front = ScriptedCoder(clock, state=coder.state)
    async with front:
        application = await configure(tmp_path, clock, describe(front, **name_replicas(a=coder, b=other)))
        await application.check()
        assert set() == values(application, "coder_health_witness_disagreement", "section")
        front.break_with(faults.Answer(path="/healthz", status=503))
        for _ in range(3):
            clock.ahead_seconds += 30
            await application.check()
        labels = {"deployment": "prod", "section": "access_url"}
        assert [1.0, 1.0] == find(application, "coder_health_witness_disagreement", **labels)
        assert {"access_url"} == values(application, "coder_health_witness_disagreement", "section")
        other.told["access_url"] = {"severity": "error", "healthy": False, "error": "EACS03: get: refused"}
        clock.ahead_seconds += 30
        await application.check()
        assert {"a"} == values(application, "coder_health_witness_disagreement", "coder_replica")
        (outcome,) = (one for one in check.collect(application) if one.disagreement)
        assert ("access_url", "a") == (outcome.section, outcome.key.coder_replica)
        assert "ingress" in outcome.disagreement


async def test_a_replica_that_fails_alone_is_named(
    tmp_path: Path, clock: ShiftedClock, coder: ScriptedCoder, other: ScriptedCoder
) -> None:
    """While others answer, whoever does not has XACS08, from the first run on; when nobody does, the
    access URL says it."""
    application = await configure(tmp_path, clock, describe(coder, **name_replicas(a=coder, b=other)))
    other.break_with(faults.Answer(path="/healthz", status=503))
    await application.check([Section.ACCESS_URL])
    assert {"b"} == values(application, OBSERVED, "coder_replica", code="XACS08")
    (finding,) = (
        finding
        for entry in application.snapshot.entries.values()
        for finding in entry.health.report.findings
        if finding.code == "XACS08"
    )
    assert "the replica b" in finding.message
    assert "while others answer" in finding.message
    assert [0.0] == find(application, "coder_health_probe_success", section="access_url", target="b")
    coder.break_with(faults.Answer(path="/healthz", status=503))
    for _ in range(2):  # the second run knows what the first one saw of the others
        await application.check([Section.ACCESS_URL])
    assert set() == values(application, OBSERVED, "coder_replica", code="XACS08")
    assert {""} == values(application, OBSERVED, "coder_replica", code="XACS06")


async def test_a_replica_that_fails_first_is_judged_again_once_others_answered(
    tmp_path: Path, clock: ShiftedClock, coder: ScriptedCoder, other: ScriptedCoder
) -> None:
    """In a single round nobody has answered yet when it fails: it must not go unnamed for that."""
    application = await configure(tmp_path, clock, describe(coder, **name_replicas(b=other)))
    slow = faults.Hang(path="/healthz")
    coder.break_with(slow)
    other.break_with(faults.Answer(path="/healthz", status=503))
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        group.create_task(application.check([Section.ACCESS_URL]))
        await slow.reached.wait()
        # nobody tells of a run that raises nothing
        while not find(application, "coder_health_probe_success", section="access_url", target="b"):  # noqa: ASYNC110
            await asyncio.sleep(0)
        assert set() == values(application, OBSERVED, "code")
        coder.heal(slow)
    assert {"b"} == values(application, OBSERVED, "coder_replica", code="XACS08")


async def outcomes_of_two_replicas(
    tmp_path: Path, clock: ShiftedClock, coder: ScriptedCoder, other: ScriptedCoder
) -> tuple[check.SectionOutcome, ...]:
    other.told |= {"database": warned("EDB02"), "pubsub": {"severity": "warning", "healthy": True}}
    application = await configure(tmp_path, clock, describe(coder, **name_replicas(a=coder, b=other)))
    await application.check()
    await application.close()
    return check.collect(application)


async def test_check_tells_both_witnesses_in_order(
    tmp_path: Path, clock: ShiftedClock, coder: ScriptedCoder, other: ScriptedCoder
) -> None:
    """What our probes see of the deployment first, then one replica after the other, first itself and then
    its report; this exporter last."""
    outcomes = await outcomes_of_two_replicas(tmp_path, clock, coder, other)
    keys = [(one.deployment, str(one.section), str(one.key.witness), one.key.coder_replica) for one in outcomes]
    ours = [("prod", str(section), "probe", "") for section in Section]
    reports = {
        name: [
            *(("prod", str(section), "report", name) for section in REPORT_SECTIONS),
            ("prod", "report", "probe", name),
        ]
        for name in "ab"
    }
    foreign = ("prod", "pubsub", "report", "b")
    themselves = [("prod", "access_url", "probe", name) for name in "ab"]
    assert [*ours, *themselves, *reports["a"], *reports["b"], foreign, ("", "exporter", "probe", "")] == keys
    assert {Severity.WARNING} == {one.severity for one in outcomes if one.reported and one.healths[0].report.findings}
    table = check.render(outcomes, "table")
    assert "database (report b)" in table
    assert "access_url (b)" in table
    assert not any("exporter" in line for line in table.splitlines() if line.startswith("prod") and " off " in line)
    assert "-" == table.splitlines()[-1].split()[0]


async def test_the_json_of_check_names_the_witness(
    tmp_path: Path, clock: ShiftedClock, coder: ScriptedCoder, other: ScriptedCoder
) -> None:
    """Each section bears witness, replica and disagreement; this exporter stands beside the deployments."""
    document = json.loads(check.render(await outcomes_of_two_replicas(tmp_path, clock, coder, other), "json"))
    assert ["exporter"] == [section["section"] for section in document["exporter"]["sections"]]
    (deployment,) = document["deployments"]
    assert {True} == {
        {"witness", "coder_replica", "disagreement"} <= section.keys() for section in deployment["sections"]
    }
    reported = {
        (section["section"], section["coder_replica"]): section
        for section in deployment["sections"]
        if section["witness"] == "report"
    }
    assert 2 * len(REPORT_SECTIONS) + 1 == len(reported)
    told = reported["database", "b"]
    assert ("warning", ["EDB02"]) == (told["severity"], [code["code"] for code in told["targets"][0]["codes"]])
    assert "" == told["disagreement"]
    assert "coder" not in reported["derp", "a"], "what only our probe measures"
    uncoded = reported["pubsub", "b"]["targets"][0]["codes"]
    assert [("", "warning")] == [(code["code"], code["severity"]) for code in uncoded]


async def test_junit_names_the_witness(
    tmp_path: Path, clock: ShiftedClock, coder: ScriptedCoder, other: ScriptedCoder
) -> None:
    """A suite for each section and witness, none of one name with another."""
    root = ElementTree.fromstring(check.render(await outcomes_of_two_replicas(tmp_path, clock, coder, other), "junit"))
    suites = {suite.get("name"): suite for suite in root}
    assert len(root) == len(suites)
    assert {"prod/database (report a)", "prod/database (report b)", "prod/access_url (b)", "/exporter"} <= set(suites)
    failure = suites["prod/database (report b)"].find("testcase/failure")
    assert failure is not None
    assert "EDB02" == failure.get("type")
    assert "0" == suites["prod/database (report a)"].get("failures")


async def test_deployments_share_no_witness(tmp_path: Path, clock: ShiftedClock) -> None:
    """Two deployments with replicas of one name: what is refused, muted, broken or told by the one is not
    the other's."""
    async with AsyncExitStack() as stack:
        good, bad = [
            await stack.enter_async_context(ScriptedCoder(clock, state=CoderState(), deployment_id=id_))
            for id_ in ("887128fc-c881-4e8b-899c-6a5186d3798f", "f2fe1a08-6f0c-4c71-8e71-2d3bd37ae2c8")
        ]
        deployments = [
            describe(coder, name, **name_replicas(a=coder)) for name, coder in (("good", good), ("bad", bad))
        ]
        application = await configure(tmp_path, clock, *deployments)
        bad.told |= {"database": warned("EDB02"), "pubsub": warned("EPS01")}
        bad.state.dismissed = ("Database",)
        await application.check()
        assert {"bad"} == values(application, OBSERVED, "deployment")
        assert {"bad"} == values(application, "coder_health_section_dismissed", "deployment")
        assert {"bad"} == values(application, ENABLED, "deployment", section="pubsub")
        bad.state.accepted.clear()
        bad.break_with(faults.Answer(path="/healthz", status=503))
        for _ in range(2):
            clock.ahead_seconds += 30
            await application.check()
        assert {"bad"} == values(application, "coder_health_root_cause", "deployment")
        assert [1.0] * 6 == find(application, ENABLED, deployment="good", witness="report")
        assert [0.0] * 6 == find(application, ENABLED, deployment="bad", witness="report")
        assert set() == values(application, OBSERVED, "code", deployment="good")
        assert 6 == len(find(application, "coder_health_section_dismissed", deployment="good"))
        assert [] == find(application, "coder_health_section_dismissed", deployment="bad")
        await application.close()


async def test_a_server_without_the_route_has_no_report(
    tmp_path: Path, clock: ShiftedClock, coder: ScriptedCoder
) -> None:
    """An old Coder: the section `report` and all six are off as not supported, and nothing is wrong."""
    body = json.dumps(answers.recorded("unknown-route"))
    coder.break_with(faults.Answer(path=REPORT_PATH, status=404, body=body, content_type="application/json"))
    application = await configure(tmp_path, clock, describe(coder))
    await application.check()
    assert [0.0] * 6 == find(application, ENABLED, witness="report", reason="not_supported")
    assert [0.0] == find(application, ENABLED, section="report", reason="not_supported")
    assert [] == find(application, ACTIVE, section="report")
    assert set() == values(application, OBSERVED, "code")
