"""The landing page: what the snapshot says, in words, with nothing that a browser would obey."""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.health.derp import Skipped
from exporter.health.maintenance import Maintenance
from exporter.health.model import OffReason, Section, Severity, Witness
from exporter.health.root_cause import Layer, RootCause
from exporter.health.settle import Policy
from exporter.targets.model import SectionKey
from exporter.web.pages import STYLE_DIGEST, Landing, render_landing
from exporter.web.views import (
    Background,
    CodeView,
    DeploymentView,
    Disagreement,
    Evidence,
    SectionView,
    SkippedView,
    WitnessView,
    survey,
)
from tests.support.exposition import START, World, database, websocket
from tests.support.relay_results import derp, network, region

# elements without an end tag. Source: HTML standard, void elements
_VOID = {"meta", "link", "br", "hr", "img", "input"}


class Page(HTMLParser):
    """A page taken apart; fails on elements that are not closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.links: list[str] = []
        self.rows: list[str] = []
        self.headings: list[str] = []
        self.style = ""
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert [] == self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        for name, value in attrs:
            assert not name.startswith("on")
            if name == "href":
                self.links.append(value or "")
        if tag not in _VOID:
            self._open.append(tag)
        if tag == "tr":
            self.rows.append("")
        if tag == "h2":
            self.headings.append("")

    def handle_endtag(self, tag: str) -> None:
        assert tag == self._open.pop()

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] == "style":
            self.style += data
        elif "tr" in self._open:
            self.rows[-1] += data + " "
        elif "h2" in self._open:
            self.headings[-1] += data

    @property
    def lines(self) -> list[str]:
        return [" ".join(row.split()) for row in self.rows]


def show(*deployments: DeploymentView, telemetry_path: str = "/metrics") -> Page:
    landing = Landing(version="1.2.3", now_timestamp_seconds=START, deployments=deployments)
    return Page(render_landing(landing, telemetry_path=telemetry_path))


def own(section: Section, skipped: tuple[SkippedView, ...] = (), **more: Any) -> SectionView:
    """A section as our probe alone tells it."""
    return SectionView(section=section, witnesses=(WitnessView(**more),), skipped=skipped)


@pytest.mark.parametrize(
    ("wanted", "value", "summary", "messages"),
    [
        ("EPS01 no answer from &lt;b&gt; &amp; co", "EPS01", "", ["no answer from <b> & co", "another"]),
        (f"EPS01 {'x' * 240}...", "EPS01", "", ["x" * 241]),
        ("EPS01", "EPS01", "", []),
        ("Without a code. it broke", "", "Without a code.", ["it broke"]),
        ("EDB01 The database does not answer.", "EDB01", "The database does not answer.", ["connection refused"]),
    ],
)
def test_a_code_without_words_of_ours_has_those_of_who_raised_it(
    wanted: str, value: str, summary: str, messages: list[str]
) -> None:
    """The first of them, cut and harmless."""
    code = CodeView(
        value=value,
        severity=Severity.ERROR,
        summary=summary,
        since_timestamp_seconds=START - 12,
        evidence=tuple(Evidence(target="a", severity=Severity.ERROR, message=message) for message in messages),
    )
    view = own(Section.DATABASE, severity=Severity.ERROR, codes=(code,), last_run_timestamp_seconds=START)
    page = show(DeploymentView(name="prod", sections=(view,)))
    assert f"Database error {unescape(wanted)} For 12 s" in page.lines[1]


def test_every_state_of_a_section_is_told_in_words() -> None:
    """Error with codes and since when, ok, off with its reason, and not measured yet."""
    code = CodeView(
        value="EDB01",
        severity=Severity.ERROR,
        summary="The database does not answer.",
        docs_url="https://coder.com/docs/x#edb01",
        since_timestamp_seconds=START - 3700,
    )
    page = show(
        DeploymentView(
            name="prod",
            sections=(
                own(
                    Section.DATABASE,
                    severity=Severity.ERROR,
                    codes=(code,),
                    last_run_timestamp_seconds=START - 12,
                ),
                own(Section.ACCESS_URL, severity=Severity.OK, last_run_timestamp_seconds=START),
                own(Section.WORKSPACE_PROXY, off=OffReason.NO_TOKEN),
                own(Section.WEBSOCKET),
            ),
        )
    )
    assert page.headings == ["prod error"]
    assert page.lines == [
        "Section Severity What is wrong Last run",
        "Database error EDB01 The database does not answer. For 1 h 1 min, since 2026-11-18 10:05:00 UTC . "
        "Last run 12 s ago",
        "Access URL ok Nothing. Last run 0 s ago",
        "Workspace proxies off Needs a session token. no_token Last run never",
        "WebSocket not measured Waiting for the first run. Last run never",
    ]


@pytest.mark.parametrize(
    ("wanted", "ours", "theirs"),
    [
        (
            "Database ok report: error Our own probe sees nothing wrong. Coder's report error",
            Severity.OK,
            Severity.ERROR,
        ),
        ("Database warning report: error", Severity.WARNING, Severity.ERROR),
        ("Database ok Nothing. Coder's report: ok.", Severity.OK, Severity.OK),
        ("Database error Nothing. Coder's report warning", Severity.ERROR, Severity.WARNING),
        ("Database error Coder's report error", None, Severity.ERROR),
    ],
)
def test_a_report_that_is_worse_than_our_probe_is_seen_at_a_glance(
    wanted: str, ours: Severity | None, theirs: Severity
) -> None:
    """Who runs down the column of severities finds what made the deployment bad."""
    probes = () if ours is None else (WitnessView(severity=ours, last_run_timestamp_seconds=START),)
    report = WitnessView(witness=Witness.REPORT, severity=theirs, last_run_timestamp_seconds=START)
    view = SectionView(section=Section.DATABASE, witnesses=(*probes, report))
    assert show(DeploymentView(name="prod", sections=(view,))).lines[1].startswith(wanted)


def test_links_are_relative_and_point_at_every_endpoint() -> None:
    """Below a proxy's prefix they still work."""
    assert show(telemetry_path="/a/metrics").links == ["a/metrics", "api/v1/health", "config", "-/healthy", "-/ready"]


def test_the_style_is_the_one_that_the_policy_allows() -> None:
    """The digest in the header is that of the element's text; nothing else is loaded or run."""
    page = show()
    digest = base64.b64encode(hashlib.sha256(page.style.encode()).digest()).decode()
    assert f"sha256-{digest}" == STYLE_DIGEST
    assert page.tags.isdisjoint({"script", "img", "link", "iframe", "form", "object"})
    assert not re.search(r"url\(|@import", page.style)


@given(st.text(), st.text(), st.text())
def test_no_text_becomes_markup(name: str, value: str, summary: str) -> None:
    """Whatever names and codes hold: the elements stay those of a harmless page."""
    code = CodeView(
        value=value or "c",
        severity=Severity.ERROR,
        summary=summary,
        docs_url='https://x/"><script>',
        since_timestamp_seconds=START,
    )
    plain = replace(code, value="c", summary="s")

    def page(code: CodeView, text: str) -> Page:
        reported = WitnessView(witness=Witness.REPORT, coder_replica=text, severity=Severity.ERROR, codes=(code,))
        view = SectionView(
            section=f"pub{text}sub",
            witnesses=(WitnessView(severity=Severity.ERROR, codes=(code,)), reported),
            dismissed=True,
            consequence=True,
            disagreements=(Disagreement(coder_replica=text, sentence=text),),
        )
        cause = RootCause(layer=Layer.HTTP, sentence=text)
        return show(DeploymentView(name=f"d{text}", sections=(view,), root_cause=cause))

    hostile = page(code, name + "<script>")
    assert page(plain, "d").tags == hostile.tags


@pytest.mark.parametrize("reason", list(OffReason))
def test_every_reason_has_a_sentence(reason: OffReason) -> None:
    """The reason as the metric has it stands beside it."""
    page = show(DeploymentView(name="d", sections=(own(Section.DATABASE, off=reason),)))
    assert re.search(rf"off [A-Z].*\. {reason.value} Last run never", page.lines[1])


@pytest.mark.parametrize(
    ("seconds", "wanted"),
    [(-5, "0 s"), (0, "0 s"), (59.9, "59 s"), (60, "1 min"), (61, "1 min 1 s"), (3600, "1 h"),
     (86400 + 7200 + 5, "1 d 2 h"), (86400 + 5, "1 d")],
)  # fmt: skip
def test_ages_are_told_in_two_units(seconds: float, wanted: str) -> None:
    """The largest unit and the next; a clock that was set back gives 0 s."""
    view = own(Section.DATABASE, severity=Severity.OK, last_run_timestamp_seconds=START - seconds)
    assert f"Database ok Nothing. Last run {wanted} ago" == show(DeploymentView(name="d", sections=(view,))).lines[1]


def test_the_survey_follows_the_snapshot() -> None:
    """Severity, active codes and the last run of what is on; the reason of what is off."""
    world = World(sections=(Section.DATABASE, Section.WEBSOCKET))
    off = SectionKey(deployment="prod", section=Section.ACCESS_URL)
    world.snapshot.declare(off, (), Policy())
    world.board.declare(off, OffReason.DISABLED)
    world.run("prod", Section.DATABASE, {"primary": database(0.1)}, codes=["EDB02"], severity=Severity.WARNING)
    world.run("prod", Section.DATABASE, {"primary": database(0.1)}, codes=["EDB02"], severity=Severity.WARNING)
    (deployment,) = survey(world.snapshot, Background(off=world.board.off))
    database_section, websocket_view, access_url_view = deployment.sections
    (database_view,) = database_section.witnesses
    assert deployment.name == "prod"
    assert database_view.severity is Severity.WARNING
    assert database_view.last_run_timestamp_seconds == START + 59.0
    assert [(code.value, code.since_timestamp_seconds) for code in database_view.codes] == [("EDB02", START + 30.0)]
    assert database_view.codes[0].summary == "The median database latency is at or above its threshold."
    assert own(Section.WEBSOCKET) == websocket_view
    assert own(Section.ACCESS_URL, off=OffReason.DISABLED) == access_url_view


def test_the_survey_shows_what_a_run_found_to_be_off() -> None:
    """Off, although its codes were active before."""
    world = World(sections=(Section.WEBSOCKET,))
    world.run("prod", Section.WEBSOCKET, {"x": websocket()}, codes=["EWS01"])
    world.run("prod", Section.WEBSOCKET, {"x": websocket()}, off=OffReason.FORBIDDEN)
    (deployment,) = survey(world.snapshot, Background(off=world.board.off))
    (view,) = deployment.sections[0].witnesses
    assert (OffReason.FORBIDDEN, None, ()) == (view.off, view.severity, view.codes)


def test_relays_that_are_not_probed_are_named_with_the_reason() -> None:
    """The first few by name and host, the rest counted, one sentence a reason, beside the verdict."""
    skipped = (
        SkippedView(reason="host_not_allowed", nodes=("1/1a (a.example)", "1/1b (b.example)"), count=7),
        SkippedView(reason="invalid", nodes=("2/2a",), count=1),
    )
    view = own(Section.DERP, skipped, severity=Severity.OK, last_run_timestamp_seconds=START)
    assert (
        "DERP relays ok Nothing. Not probed, as their hosts are not in allow_hosts: 1/1a (a.example), 1/1b (b.example) "
        "and 5 more. host_not_allowed Not probed, as their entries in the DERP map cannot be used: 2/2a. invalid "
        "Last run 0 s ago"
    ) == show(DeploymentView(name="d", sections=(view,))).lines[1]


@pytest.mark.parametrize("section", list(Section))
def test_every_section_has_a_name(section: Section) -> None:
    """In words, not as the label has it."""
    view = own(section, severity=Severity.OK, last_run_timestamp_seconds=START)
    assert re.fullmatch(
        r"[A-Z][A-Za-z' ]+ ok Nothing\. Last run 0 s ago", show(DeploymentView(name="d", sections=(view,))).lines[1]
    )


@given(st.text(), st.text(), st.text())
def test_no_name_of_a_map_becomes_markup(node: str, host: str, reason: str) -> None:
    """Whatever a map holds: the page stays whole and harmless."""
    world = World(sections=(Section.DERP,))
    nodes = (Skipped(region_id=1, node=node + "<script>", host=host + "<img>", reason=reason),)
    world.run("prod", Section.DERP, {"": derp(skipped=nodes)})
    page = show(*survey(world.snapshot, Background(off=world.board.off)))
    assert {"script", "img"}.isdisjoint(page.tags)
    assert "<script>" in page.lines[1]


def test_the_survey_groups_what_is_skipped_by_its_reason() -> None:
    """At most five of a reason by name; a section that is off says nothing of relays."""
    world = World(sections=(Section.DERP, Section.DIRECT_CONNECTIONS))
    skipped = (
        *(Skipped(region_id=1, node=str(number), host="h.example", reason="too_many") for number in range(7)),
        Skipped(region_id=2, node="2a", host="", reason="invalid"),
    )
    world.run("prod", Section.DERP, {"1": region(), "": derp(skipped=skipped)})
    world.run("prod", Section.DIRECT_CONNECTIONS, {"": network()})
    (deployment,) = survey(world.snapshot, Background(off=world.board.off))
    derp_view, network_view = deployment.sections
    assert (
        SkippedView(reason="invalid", nodes=("2/2a",), count=1),
        SkippedView(reason="too_many", nodes=tuple(f"1/{number} (h.example)" for number in range(5)), count=7),
    ) == derp_view.skipped
    assert () == network_view.skipped
    world.run("prod", Section.DERP, {"": derp(skipped=skipped)}, off=OffReason.FORBIDDEN)
    (deployment,) = survey(world.snapshot, Background(off=world.board.off))
    assert () == deployment.sections[0].skipped


@pytest.mark.parametrize(
    ("said", "change"),
    [
        (
            "A maintenance window is open until 2026-11-18 12:06:40 UTC: no rule alerts for this deployment.",
            START + 3600,
        ),
        ("A maintenance window is open: no rule alerts for this deployment.", None),
    ],
)
def test_a_maintenance_window_that_is_open_is_told(said: str, change: float | None) -> None:
    """With its end, where that is known; a window that is only awaited is no news."""
    view = DeploymentView(name="d", sections=(own(Section.DATABASE),))
    opened = Maintenance(open=True, next_change_timestamp_seconds=change)
    awaited = Maintenance(open=False, next_change_timestamp_seconds=change)
    pages = [
        render_landing(
            Landing(version="1", now_timestamp_seconds=START, deployments=(replace(view, maintenance=maintenance),)),
            telemetry_path="/metrics",
        )
        for maintenance in (opened, awaited)
    ]
    assert [True, False] == [said in re.sub(r"<[^>]+>", "", page) for page in pages]
    assert [1, 0] == [page.count('<p class="maintenance">') for page in pages]
