"""The JSON of /api/v1/health, asked for over HTTP: what is known, for scripts and load balancers."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import quote

import pytest
from yarl import URL

from exporter.health.maintenance import Maintenance
from exporter.health.model import OffReason, Section, Severity, Witness
from exporter.health.root_cause import Layer, RootCause
from exporter.web.server import Health
from exporter.web.views import (
    CodeView,
    DeploymentView,
    Disagreement,
    Evidence,
    SectionView,
    SkippedView,
    WitnessView,
)
from tests.web.test_server import NOW, serving

CODE = CodeView(
    value="EDB02",
    severity=Severity.WARNING,
    summary="slow",
    docs_url="https://coder.com/docs/x#edb02",
    since_timestamp_seconds=NOW - 60.0,
    evidence=(Evidence(target="primary", severity=Severity.WARNING, message="20 ms"),),
    target_count=1,
)
OBSERVED = CodeView(value="XDB02", severity=Severity.WARNING)


def section(name: Section | str, *witnesses: WitnessView, **more: Any) -> SectionView:
    return SectionView(section=name, witnesses=witnesses or (WitnessView(),), **more)


PROD = DeploymentView(
    name="prod",
    maintenance=Maintenance(open=True, next_change_timestamp_seconds=NOW + 9.0),
    root_cause=RootCause(layer=Layer.DATABASE, sentence="no database", consequences=(Section.WEBSOCKET,)),
    sections=(
        section(
            Section.DATABASE,
            WitnessView(
                severity=Severity.WARNING,
                observed_severity=Severity.WARNING,
                codes=(CODE, OBSERVED),
                last_run_timestamp_seconds=NOW - 5.0,
            ),
            WitnessView(witness=Witness.REPORT, coder_replica="a", severity=Severity.OK, observed_severity=Severity.OK),
            dismissed=True,
            dismissed_since_timestamp_seconds=NOW - 999.0,
            disagreements=(Disagreement(coder_replica="a", sentence="they differ"),),
        ),
        section(Section.WEBSOCKET, WitnessView(severity=Severity.ERROR), consequence=True),
        section(Section.DERP, skipped=(SkippedView(reason="too_many", nodes=("1/1a",), count=3),)),
        section(Section.WORKSPACE_PROXY, WitnessView(off=OffReason.NO_TOKEN)),
        section(Section.ACCESS_URL, WitnessView(severity=Severity.OK)),
        section(
            Section.PROVISIONER_DAEMONS,
            WitnessView(off=OffReason.NO_DATABASE),
            WitnessView(witness=Witness.REPORT, coder_replica="a", severity=Severity.ERROR),
        ),
        section("pubsub", WitnessView(witness=Witness.REPORT, severity=Severity.OK)),
    ),
)
EXPORTER = DeploymentView(name="", sections=(section(Section.EXPORTER, WitnessView(severity=Severity.OK)),))


@asynccontextmanager
async def asking(*deployments: DeploymentView) -> AsyncIterator[Any]:
    """A function that GETs a path below /api/v1/health: status, and the body as JSON."""

    def health(only: str | None) -> Health:
        chosen = tuple(view for view in deployments if only is None or view.name == only)
        return Health(version="1.2.3", now_timestamp_seconds=NOW, deployments=chosen)

    async with serving(health=health) as (client, url):

        async def ask(path: str) -> tuple[int, Any]:
            async with client.get(URL(f"{url}/api/v1/health{path}", encoded=True)) as answer:
                assert "application/json" == answer.content_type
                return answer.status, json.loads(await answer.read())

        yield ask


async def test_everything_is_told_in_a_versioned_form() -> None:
    """Deployments, sections, both witnesses, codes since when with their evidence, what is off and why."""
    async with asking(PROD, EXPORTER) as ask:
        status, told = await ask("")
    assert (200, 1, NOW, "error") == (status, told["version"], told["timestamp_seconds"], told["severity"])
    (prod,) = told["deployments"]
    assert ("prod", "error") == (prod["name"], prod["severity"])
    assert {"open": True, "next_change_timestamp_seconds": NOW + 9.0} == prod["maintenance"]
    assert {"layer": "database", "text": "no database", "consequences": ["websocket"]} == prod["root_cause"]
    by_name = {one["section"]: one for one in prod["sections"]}
    assert {
        "section": "database",
        "severity": "warning",
        "dismissed": True,
        "dismissed_since_timestamp_seconds": NOW - 999.0,
        "consequence": False,
        "disagreements": [{"coder_replica": "a", "text": "they differ"}],
        "skipped": [],
        "witnesses": [
            {
                "witness": "probe",
                "coder_replica": "",
                "enabled": True,
                "reason": "",
                "severity": "warning",
                "observed_severity": "warning",
                "last_run_timestamp_seconds": NOW - 5.0,
                "codes": [
                    {
                        "code": "EDB02",
                        "severity": "warning",
                        "active": True,
                        "observed": True,
                        "since_timestamp_seconds": NOW - 60.0,
                        "summary": "slow",
                        "docs_url": "https://coder.com/docs/x#edb02",
                        "targets": 1,
                        "evidence": [{"target": "primary", "severity": "warning", "message": "20 ms"}],
                    },
                    {
                        "code": "XDB02",
                        "severity": "warning",
                        "active": False,
                        "observed": True,
                        "since_timestamp_seconds": None,
                        "summary": "",
                        "docs_url": "https://coder.com/docs/admin/monitoring/health-check",
                        "targets": 0,
                        "evidence": [],
                    },
                ],
            },
            {
                "witness": "report",
                "coder_replica": "a",
                "enabled": True,
                "reason": "",
                "severity": "ok",
                "observed_severity": "ok",
                "last_run_timestamp_seconds": None,
                "codes": [],
            },
        ],
    } == by_name["database"]
    assert [{"reason": "too_many", "nodes": ["1/1a"], "count": 3}] == by_name["derp"]["skipped"]
    off = by_name["workspace_proxy"]["witnesses"][0]
    assert (False, "no_token", None) == (off["enabled"], off["reason"], off["severity"])
    assert by_name["websocket"]["consequence"] is True
    assert ["exporter"] == [one["section"] for one in told["exporter"]["sections"]]
    assert "1.2.3" == told["exporter"]["version"]


@pytest.mark.parametrize(
    ("name", "status", "severity", "witness"),
    [
        ("access_url", 200, "ok", "probe"),
        ("database", 200, "warning", "probe"),
        ("websocket", 503, "error", "probe"),
        ("provisioner_daemons", 503, "error", "report"),
        ("pubsub", 200, "ok", "report"),
        ("workspace_proxy", 200, None, None),
        ("derp", 200, None, None),
    ],
)
async def test_a_section_alone_says_by_its_status_whether_it_is_in_error(
    name: str, status: int, severity: str | None, witness: str | None
) -> None:
    """What is off, or not measured yet, is no error; where the probe says nothing, the report is believed."""
    async with asking(PROD) as ask:
        got, told = await ask(f"/prod/{name}")
    assert (status, severity, witness, "prod", name) == (
        got,
        told["severity"],
        told["witness"],
        told["deployment"],
        told["section"],
    )


async def test_only_active_codes_are_the_verdict_of_a_section() -> None:
    """What was only observed stands with its witness."""
    async with asking(PROD) as ask:
        _, told = await ask("/prod/database")
    assert ["EDB02"] == [code["code"] for code in told["codes"]]
    assert ["EDB02", "XDB02"] == [code["code"] for code in told["witnesses"][0]["codes"]]


@pytest.mark.parametrize("path", ["/prod/nonsense", "/nobody/database", "/prod/exporter", "/%00/%F0%9F%92%A9"])
async def test_an_unknown_name_is_not_found(path: str) -> None:
    """With words that say where the names stand."""
    async with asking(PROD) as ask:
        status, told = await ask(path)
    assert (404, True) == (status, told["error"].endswith("see /api/v1/health"))


async def test_a_name_with_a_slash_can_be_asked_for() -> None:
    """Written as the URL has it."""
    async with asking(DeploymentView(name="a/b c", sections=(section(Section.DATABASE),))) as ask:
        status, told = await ask("/a%2Fb%20c/database")
    assert (200, "a/b c") == (status, told["deployment"])


@pytest.mark.parametrize(
    "name", ["{x}", "a%2Fb", "a?b#c", "a+b;c=1", '"q"\\', "\N{SNOWMAN} \N{LATIN SMALL LETTER U WITH DIAERESIS}", ".."]
)
async def test_any_name_can_be_asked_for(name: str) -> None:
    """A deployment may be called anything that can be printed; the URL has it percent-encoded."""
    path = f"/{quote(name, safe='').replace('.', '%2E')}/{quote('new{section}', safe='')}"
    async with asking(DeploymentView(name=name, sections=(section("new{section}"),))) as ask:
        status, told = await ask(path)
    assert (200, name, "new{section}") == (status, told["deployment"], told["section"])


async def test_half_a_surrogate_pair_does_not_break_the_answer() -> None:
    """A server's text may hold what UTF-8 cannot."""
    view = DeploymentView(name="\ud800", sections=(section("\ud801"),))
    async with asking(view) as ask:
        status, told = await ask("")
    assert (200, "\ud800") == (status, told["deployments"][0]["name"])
