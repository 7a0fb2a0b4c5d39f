"""The boards: the rules of Grafana's dashboard-linter and of mixtool, re-created, and metrics that exist.

Source of the rules: field.md, section 3g. The schema itself is checked by hand (grafana/README.md).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from exporter.health.codes import CODES
from exporter.health.model import Section, Severity
from exporter.health.workspace_proxy import ProxyStatus
from exporter.metrics.families import FAMILIES
from tests.support import promql

GRAFANA = Path(__file__).parents[2] / "grafana"
FILES = sorted(GRAFANA.glob("*.json"))
BOARDS = {path.stem: json.loads(path.read_text()) for path in FILES}
FIRST = "coder-health"
NETWORKING = "coder-health-networking"
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
RUNBOOKS = "https://github.com/coder-health-exporter/coder-health-exporter/blob/main/alerts/runbooks/"
DOCS = "https://coder.com/docs/admin/monitoring/health-check"
CODE_VALUES = {code.value for codes in CODES.values() for code in codes}
# those of Grafana's list of units that these boards use
UNITS = {"s", "none", "short", "dtdurations", "percentunit"}
WIDTH = 24

Board = dict[str, Any]
Panel = dict[str, Any]
PANELS: list[tuple[str, Panel]] = [
    (name, panel) for name, board in BOARDS.items() for panel in board["panels"] if panel["type"] != "row"
]
each_board = pytest.mark.parametrize("board", BOARDS.values(), ids=BOARDS)
each_panel = pytest.mark.parametrize(
    "panel", [panel for _, panel in PANELS], ids=[f"{name}: {panel['title']}" for name, panel in PANELS]
)


def named(title: str, board: str = FIRST) -> Panel:
    (found,) = (panel for name, panel in PANELS if (name, panel["title"]) == (board, title))
    return found


def variables(board: Board) -> dict[str, dict[str, Any]]:
    return {variable["name"]: variable for variable in board["templating"]["list"]}


def expressions() -> Iterator[tuple[str, str]]:
    """Everything on the boards that asks Prometheus: title and PromQL."""
    for name, panel in PANELS:
        for target in panel["targets"]:
            yield f"{name}: {panel['title']}", target["expr"]
    for name, board in BOARDS.items():
        for annotation in board["annotations"]["list"]:
            yield f"{name}: {annotation['name']}", annotation["target"]["expr"]


each_expression = pytest.mark.parametrize(
    "expression", [expr for _, expr in expressions()], ids=[title for title, _ in expressions()]
)


# the board


def test_the_boards_are_those_that_alerts_and_boards_link() -> None:
    """The uid is the name of the file, and with the title it makes the address."""
    assert {FIRST: (FIRST, "Coder health"), NETWORKING: (NETWORKING, "DERP and networking")} == {
        name: (board["uid"], board["title"]) for name, board in BOARDS.items()
    }


@each_board
def test_a_board_can_be_found_and_is_not_edited_in_place(board: Board) -> None:
    """Description, tags and refresh are set; the file is the source."""
    assert re.fullmatch(r"[A-Z].+\.", board["description"])
    assert {"coder", "coder-health"} <= set(board["tags"])
    assert board["editable"] is False
    assert board["refresh"] in ("30s", "1m")
    assert "id" not in board


@each_board
def test_boards_are_linked_by_tag_with_time_and_variables(board: Board) -> None:
    """Who goes on to another board about Coder keeps the hour and the deployment."""
    (boards,) = (link for link in board["links"] if link["type"] == "dashboards")
    assert (["coder"], True, True) == (boards["tags"], boards["keepTime"], boards["includeVars"])


@pytest.mark.parametrize(("here", "there"), [(FIRST, NETWORKING), (NETWORKING, FIRST)])
def test_each_board_links_the_other(here: str, there: str) -> None:
    """One click, in the same tab, with the hour and the deployment."""
    slug = BOARDS[there]["title"].lower().replace(" ", "-")
    (link,) = (link for link in BOARDS[here]["links"] if link["url"].startswith("/d/"))
    assert f"/d/{there}/{slug}" == link["url"]
    assert (BOARDS[there]["title"], True, True, False) == (
        link["title"],
        link["keepTime"],
        link["includeVars"],
        link["targetBlank"],
    )


@each_board
def test_the_data_source_is_a_variable(board: Board) -> None:
    """Rule template-datasource: named and labelled as the linter wants it, of kind Prometheus."""
    variable = variables(board)["datasource"]
    assert ("datasource", "Data source", "prometheus") == (variable["type"], variable["label"], variable["query"])


@each_board
@pytest.mark.parametrize("name", ["job", "instance", "deployment"])
def test_job_instance_and_deployment_are_variables(board: Board, name: str) -> None:
    """Rules template-job and template-instance: a query, several values, all of them as `.+`, by time range."""
    variable = variables(board)[name]
    assert "query" == variable["type"]
    assert DATASOURCE == variable["datasource"]
    assert name.capitalize() == variable["label"]
    assert (True, True, ".+") == (variable["multi"], variable["includeAll"], variable["allValue"])
    assert 2 == variable["refresh"]


@each_board
def test_variables_narrow_one_another_and_ask_for_what_exists(board: Board) -> None:
    """Rule template-label-promql: label_values of a selector that parses."""
    known = promql.series_labels()
    for name in ("job", "instance", "deployment"):
        match = re.fullmatch(r"label_values\((.+), (\w+)\)", variables(board)[name]["query"]["query"])
        assert match is not None
        assert name == match[2]
        assert [] == promql.problems(match[1])
        (selector,) = promql.selectors(promql.parse(match[1]))
        assert match[2] in known[selector.metric]


# panels


@each_board
def test_panels_have_ids_of_their_own(board: Board) -> None:
    """An id twice would make a link to a panel lead to another."""
    panels = board["panels"]
    assert len(panels) == len({panel["id"] for panel in panels})
    assert len(panels) == len({(panel["type"] == "row", panel["title"]) for panel in panels})


@each_board
def test_panels_lie_side_by_side(board: Board) -> None:
    """Nothing overlaps and nothing leaves the 24 columns."""
    boxes = [(panel["title"], panel["gridPos"]) for panel in board["panels"]]
    for title, box in boxes:
        assert box["x"] + box["w"] <= WIDTH, title
    for (title, a), (other, b) in combinations(boxes, 2):
        beside = a["x"] + a["w"] <= b["x"] or b["x"] + b["w"] <= a["x"]
        above = a["y"] + a["h"] <= b["y"] or b["y"] + b["h"] <= a["y"]
        assert beside or above, (title, other)


@each_panel
def test_a_panel_has_title_description_target_and_the_variable_data_source(panel: Panel) -> None:
    """Rules panel-title-description, panel-no-targets and panel-datasource."""
    assert panel["title"]
    assert re.fullmatch(r"[A-Z].+\.", panel["description"], re.DOTALL)
    assert panel["targets"]
    assert DATASOURCE == panel["datasource"]
    assert [DATASOURCE] * len(panel["targets"]) == [target["datasource"] for target in panel["targets"]]
    assert len(panel["targets"]) == len({target["refId"] for target in panel["targets"]})


@each_panel
def test_a_panel_has_a_unit_or_words_for_its_values(panel: Panel) -> None:
    """Rule panel-units: a known unit, or value mappings."""
    defaults = panel["fieldConfig"]["defaults"]
    assert defaults.get("unit") in UNITS or ("unit" not in defaults and defaults["mappings"])


@each_panel
def test_a_series_is_named_by_its_labels(panel: Panel) -> None:
    """Every label in a legend is one that the query leaves."""
    known = promql.series_labels()
    for target in panel["targets"]:
        labels = {label for s in promql.selectors(promql.parse(target["expr"])) for label in known[s.metric]}
        assert set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])) <= labels
        assert target["instant"] is not target["range"]


# queries


@each_expression
def test_queries_ask_for_what_exists(expression: str) -> None:
    """Rule target-promql; every metric, label and label value is in the families and closed sets."""
    assert [] == promql.problems(expression)


@each_expression
def test_every_selector_has_the_variables(expression: str) -> None:
    """Rules target-job and target-instance; and the deployment, wherever the family has that label, or none of them."""
    known = promql.series_labels()
    expression = expression.replace('deployment=~"$deployment|"', 'deployment=~"$deployment"')
    for selector in promql.selectors(promql.parse(expression)):
        matchers = {label: (str(operator), value) for label, operator, value in selector.matchers}
        for label in ("job", "instance", "deployment"):
            if label in known[selector.metric]:
                assert (str(promql.MatchOp.Re), f"${label}") == matchers[label], selector.metric


@each_expression
def test_counters_are_rates_over_the_interval_of_the_scrape(expression: str) -> None:
    """Rules target-rate-interval and target-counter-agg: counters and buckets only within rate or increase."""
    for ranged in re.findall(r"\b(?:rate|irate|increase)\([^[]+\[([^\]]+)\]", expression):
        assert "$__rate_interval" == ranged
    for selector in promql.selectors(promql.parse(expression)):
        if selector.metric.endswith(("_total", "_bucket", "_sum", "_count")):
            assert {"rate", "irate", "increase"} & set(selector.calls), selector.metric
            assert selector.ranged


# words and colours


@pytest.mark.parametrize("board", BOARDS)
def test_codes_link_their_runbook_and_coders_documentation(board: str) -> None:
    """The table of what is wrong leads from every code to its anchor, in small letters as the pages have it."""
    overrides = {
        rule["matcher"]["options"]: rule
        for rule in named("What is wrong now, and since when", board)["fieldConfig"]["overrides"]
    }
    properties = {name: {one["id"]: one["value"] for one in rule["properties"]} for name, rule in overrides.items()}
    assert [
        RUNBOOKS + "${__data.fields.page}.md#${__data.fields.anchor.text}",
        DOCS + "#${__data.fields.anchor.text}",
    ] == [link["url"] for link in properties["code"]["links"]]
    (mapping,) = properties["anchor"]["mappings"]
    assert {value: value.lower() for value in CODE_VALUES} == {
        value: result["text"] for value, result in mapping["options"].items()
    }
    assert properties["anchor"]["custom.hidden"]
    assert properties["anchor"]["custom.hideFrom.viz"]


@pytest.mark.parametrize(
    "title",
    [
        "Overall state",
        "Settled severity of each section",
        "Observed severity of each section",
        "Both witnesses, side by side",
        "Worst section, by replica",
    ],
)
def test_severities_have_their_words(title: str) -> None:
    """0, 1 and 2 are the ranks of the severities."""
    (mapping,) = named(title)["fieldConfig"]["defaults"]["mappings"]
    words = {int(rank): result["text"] for rank, result in mapping["options"].items()}
    assert {int(severity): severity.label for severity in Severity} == words


def test_what_is_not_known_is_neither_good_nor_bad() -> None:
    """Words in the place of a number that is missing have no colour; only that nothing is broken is good news."""
    bases = {
        panel["title"]: panel["fieldConfig"]["defaults"]["thresholds"]["steps"][0]["color"]
        for _, panel in PANELS
        if panel["type"] == "stat" and "thresholds" in panel["fieldConfig"]["defaults"]
    }
    assert "green" == bases.pop("First broken layer")
    assert 12 == len(bases)
    assert {"text"} == set(bases.values())


def test_errors_stand_before_warnings() -> None:
    """In the table of what is wrong, and within a severity the newest comes first."""
    ordered = [
        (by["displayName"], by["desc"]) for by in named("What is wrong now, and since when")["options"]["sortBy"]
    ]
    assert [("Severity", False), ("For", False)] == ordered
    assert ["error", "ok", "warning"] == sorted(severity.label for severity in Severity)


@pytest.mark.parametrize("board", BOARDS)
def test_every_severity_has_a_colour_in_the_table(board: str) -> None:
    """What is only shown is not alarming, what is wrong is."""
    overrides = named("What is wrong now, and since when", board)["fieldConfig"]["overrides"]
    (rule,) = (rule for rule in overrides if rule["matcher"]["options"] == "severity")
    (mappings,) = (one["value"] for one in rule["properties"] if one["id"] == "mappings")
    assert {severity.label for severity in Severity} == set(mappings[0]["options"])


@pytest.mark.parametrize(
    "panel", [panel for _, panel in PANELS if panel["type"] == "table"], ids=lambda panel: panel["title"]
)
def test_the_columns_of_a_table_fit_into_it(panel: Panel) -> None:
    """On a screen of 1440 pixels, with a hundred for a column without a width; what does not fit is scrolled away."""
    shown = [
        {one["id"]: one["value"] for one in override["properties"]} for override in panel["fieldConfig"]["overrides"]
    ]
    widths = [one.get("custom.width", 100) for one in shown if "custom.hidden" not in one]
    assert sum(widths) <= panel["gridPos"]["w"] / WIDTH * 1440 - 20


@each_panel
def test_an_empty_cell_has_words_of_its_own(panel: Panel) -> None:
    """What a panel says when it has no rows is no word for a label that a row has not: of a code that stands for the
    whole section, Grafana would write "nothing is wrong" beside the error."""
    overrides = {
        override["matcher"]["options"]: {one["id"] for one in override["properties"]}
        for override in panel["fieldConfig"]["overrides"]
    }
    relays = panel["title"] == "Certificates of relays"  # which has a target in each row
    for label in {"target", "coder_replica", "version"} & set(overrides) - ({"target"} if relays else set()):
        assert {"noValue", "custom.hidden"} & overrides[label], label


def test_what_is_wrong_with_the_exporter_is_seen_at_once() -> None:
    """Its codes are of no deployment and stand among the others all the same; a host that is cut off stands on top."""
    (target,) = named("What is wrong now, and since when")["targets"]
    for selector in promql.selectors(promql.parse(target["expr"])):
        assert ("deployment", "$deployment|") in {(label, value) for label, _, value in selector.matchers}
    assert 0 == named("Host of the exporter")["gridPos"]["y"]


@each_panel
def test_a_panel_without_rows_does_not_say_that_all_is_well(panel: Panel) -> None:
    """An exporter that is gone leaves the same emptiness as one that finds nothing."""
    words = panel["fieldConfig"]["defaults"].get("noValue", "not known")
    assert re.search(r"known|measured|told|no probe", words), words


def test_every_status_of_a_proxy_has_its_words() -> None:
    """The values of Coder's own metric and the statuses of ours."""
    (mapping,) = named("Status of each workspace proxy")["fieldConfig"]["defaults"]["mappings"]
    words = {int(value): result["text"] for value, result in mapping["options"].items()}
    assert {status.gauge_value: str(status) for status in ProxyStatus} == words


def test_every_section_has_a_place_on_the_board() -> None:
    """Somebody who was paged for a section finds a row about it."""
    titles = {
        Section.ACCESS_URL: "Access URL",
        Section.WEBSOCKET: "Websocket",
        Section.DATABASE: "Database",
        Section.DERP: "DERP relays and STUN servers",
        Section.WORKSPACE_PROXY: "Workspace proxies",
        Section.PROVISIONER_DAEMONS: "Provisioner daemons",
        Section.DIRECT_CONNECTIONS: "Direct connections",
        Section.REPORT: "Coder's own report",
        Section.EXPORTER: "The exporter itself",
    }
    rows = [panel["title"] for panel in BOARDS[FIRST]["panels"] if panel["type"] == "row"]
    assert ["Two witnesses", "Replicas", *(titles[section] for section in Section)] == rows


def test_every_family_of_the_two_witnesses_is_on_the_first_board() -> None:
    """Report, replicas, mutes, root cause, token and cut-off can be looked at."""
    asked = {
        selector.metric
        for title, expression in expressions()
        if title.startswith(f"{FIRST}: ")
        for selector in promql.selectors(promql.parse(expression))
    }
    about = re.compile("coder_health_(report|witness|root|exporter_token|exporter_cut|section_dismissed)")
    families = {family.name for family in FAMILIES if about.match(family.name)}
    assert {"coder_health_section_dismissed", "coder_health_report_healthy", "coder_health_root_cause"} < families
    assert set() == families - asked


def test_both_witnesses_stand_side_by_side() -> None:
    """Lines of one section follow one another: the label that is first by name begins with deployment and section."""
    (target,) = named("Both witnesses, side by side")["targets"]
    assert '"a", "/", "deployment", "section", "witness", "coder_replica")' in target["expr"]
    assert "a" < min({label for family in FAMILIES for label in family.labels})


def test_every_family_of_relays_and_networks_is_on_the_networking_board() -> None:
    """What is measured can be looked at."""
    asked = {
        selector.metric.removesuffix("_bucket")
        for title, expression in expressions()
        if title.startswith(f"{NETWORKING}: ")
        for selector in promql.selectors(promql.parse(expression))
    }
    about = re.compile("coder_health_(derp|stun|nat|udp|interface|path|direct)_")
    families = {family.name for family in FAMILIES if about.match(family.name)}
    assert 18 == len(families)
    assert set() == families - asked


def test_the_networking_board_tells_of_its_two_sections_alone() -> None:
    """Codes of other sections have the first board."""
    for title in ("What is wrong now, and since when", "Active codes"):
        for target in named(title, NETWORKING)["targets"]:
            for selector in promql.selectors(promql.parse(target["expr"])):
                sections = [value for label, _, value in selector.matchers if label == "section"]
                assert [f"{Section.DERP}|{Section.DIRECT_CONNECTIONS}"] == sections
