"""The rules: one for every code and severity, on metrics that exist, with runbook, docs and tests.

The example configuration of Alertmanager is tried on a real one.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml

from exporter.config.model import DEFAULT_INTERVAL_SECONDS, REPORT_RAISE_AFTER, SECTION_INTERVAL_SECONDS
from exporter.health.codes import CODES, Code, section_codes
from exporter.health.model import REPORT_SECTIONS, Section, Severity, Witness
from exporter.health.report import DEFAULT_REFRESH_SECONDS
from exporter.health.root_cause import Layer
from exporter.health.settle import Policy
from tests.support import promql
from tests.support.ports import free_port

ROOT = Path(__file__).parents[2]
ALERTS = ROOT / "alerts"
ALERTMANAGER = ALERTS / "alertmanager.yml"
FILES = sorted(ALERTS.glob("*.yaml"))
TESTS = sorted((ALERTS / "tests").glob("*.yaml"))

RUNBOOKS = "https://github.com/coder-health-exporter/coder-health-exporter/blob/main/alerts/runbooks/"
BOARDS = "http://localhost:3000/d/"
FIRST_BOARD = "coder-health/coder-health"
NETWORKING_BOARD = "coder-health-networking/derp-and-networking"
ALERT_NAME = re.compile(r"^([A-Z]+[a-z0-9]+)+$")
ALERT_SEVERITIES = {"critical", "warning", "info"}
MAINTENANCE = "unless on (deployment) coder_health_maintenance == 1"
DISMISSED = "unless on (deployment, section) coder_health_section_dismissed == 1"
ROOT_CAUSE = "CoderFirstBrokenLayer"
# What fails when a layer that others depend on is broken, and what an old report may go on to tell of it.
BEHIND = set(REPORT_SECTIONS) - {Section.DATABASE}
NO_OLD_REPORT = """unless on (deployment, witness) label_replace(
    max_over_time(coder_health_root_cause{layer=~"dns|tcp|tls|http|websocket|database"}[30m]) == 1,
    "witness", "report", "", ""
  )"""
# What another alert tells already, of the same replica.
TOLD_ALREADY = {
    "XRPT04": """unless on (job, instance, deployment, coder_replica)
    coder_health_code_active{code="XACS08",coder_replica!=""} == 1""",
}
WITHOUT_CODE = {
    "CoderExporterGone",
    "CoderDeploymentVanished",
    "CoderProberStalled",
    "CoderExporterConfigReloadFailed",
    "CoderForeignCodeCritical",
    "CoderForeignCodeWarning",
    ROOT_CAUSE,
    "CoderWitnessesDisagree",
    "CoderMutedSectionFails",
    "CoderSectionMutedLong",
}
# about this exporter and its host, and so about no deployment
OF_NO_DEPLOYMENT = {"XEXP01", "XEXP02"}
# of a Coder that is newer than these rules
FOREIGN = {"section is never 'pubsub'", "code is never 'EPS01'", "code is never 'EPS02'"}

Rule = dict[str, Any]


def groups() -> dict[str, list[Rule]]:
    found: dict[str, list[Rule]] = {}
    for path in FILES:
        for group in yaml.safe_load(path.read_text())["groups"]:
            assert path.stem == group["name"]
            found[group["name"]] = group["rules"]
    return found


RULES = [rule for rules in groups().values() for rule in rules]
BY_ALERT = {rule["alert"]: rule for rule in RULES}
CODED = {rule["alert"]: rule for rule in RULES if "code" in rule["labels"]}
# EUNKNOWN stands in every section, its rule only once
EXPECTED = {
    alert: (code, severity) for codes in CODES.values() for code in codes for severity, alert in code.alerts.items()
}
one_rule_each = pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
one_code_each = pytest.mark.parametrize(("alert", "expected"), EXPECTED.items(), ids=EXPECTED)


def seconds(duration: str) -> float:
    match = re.fullmatch(r"(\d+)(s|m|h)", duration)
    assert match is not None
    return float(match[1]) * {"s": 1, "m": 60, "h": 3600}[match[2]]


def settles_seconds(rule: Rule) -> float:
    """How long a fault is seen before its alert fires: the runs that settle the code, and the rule's own wait."""
    section = rule["labels"].get("section")
    interval = DEFAULT_INTERVAL_SECONDS
    if section in set(Section):
        interval = SECTION_INTERVAL_SECONDS.get(Section(section), DEFAULT_INTERVAL_SECONDS)
    runs = REPORT_RAISE_AFTER if section == Section.REPORT else Policy().raise_after
    return runs * interval + seconds(rule["for"])


def template_queries(rule: Rule) -> Iterator[str]:
    """PromQL in the templates of the annotations, with a variable in the place of each %q."""
    for text in rule["annotations"].values():
        for query in re.findall(r"printf `([^`]*)`", text):
            yield query.replace("%q", '"$x"')


def test_every_code_and_severity_has_one_rule_and_no_rule_has_no_code() -> None:
    """Rules and codes are the same set, beside the rules about the exporter and about both witnesses."""
    assert len(RULES) == len(BY_ALERT)
    assert set(EXPECTED) | WITHOUT_CODE == set(BY_ALERT)
    assert set(EXPECTED) == set(CODED)


@one_code_each
def test_labels_and_annotations_are_those_of_the_code(alert: str, expected: tuple[Code, Severity]) -> None:
    """Severity, code and links follow from the code; the section of EUNKNOWN is the series' own."""
    code, severity = expected
    rule = BY_ALERT[alert]
    page = "exporter" if code.value == "EUNKNOWN" else code.section
    assert rule in groups()[page]
    assert code.alert_severity(severity) == rule["labels"]["severity"]
    assert code.value == rule["labels"]["code"]
    assert (None if code.value == "EUNKNOWN" else code.section) == rule["labels"].get("section")
    assert code.summary == rule["annotations"]["summary"]
    assert code.docs_url == rule["annotations"]["docs_url"]
    assert f"{RUNBOOKS}{page}.md#{code.value.lower()}" == rule["annotations"]["runbook_url"]


@one_code_each
def test_a_rule_asks_for_the_settled_code(alert: str, expected: tuple[Code, Severity]) -> None:
    """One severity: the code. Several: the targets that raise it with this one. Quiet as the contract says.

    Whoever says so, and of however many replicas: it is one alert.
    """
    code, severity = expected
    if len(code.severities) == 1:
        raised = f'coder_health_code_active{{code="{code.value}"}}'
        if code.section in BEHIND and code.value in section_codes(code.section, Witness.REPORT):
            raised = f"\n  {raised}\n  {NO_OLD_REPORT}\n"
        if code.value in TOLD_ALREADY:
            raised = f"\n  {raised}\n  {TOLD_ALREADY[code.value]}\n"
        first = f"max without (witness, coder_replica) ({raised}) == 1"
    else:
        raised = f'coder_health_code_target{{code="{code.value}",severity="{severity.label}"}}'
        first = f"max without (witness, coder_replica, target) ({raised}) == 1"
    maintenance = [] if code.value in OF_NO_DEPLOYMENT else [MAINTENANCE]
    dismissed = [] if severity is Severity.ERROR or code.value in OF_NO_DEPLOYMENT else [DISMISSED]
    assert "\n".join([first, *maintenance, *dismissed]) == BY_ALERT[alert]["expr"]


@one_code_each
def test_a_description_says_who_and_since_when(alert: str, expected: tuple[Code, Severity]) -> None:
    """Deployment, every witness and replica, and the moment are in every description of a code."""
    description = BY_ALERT[alert]["annotations"]["description"]
    where = "instance" if expected[0].value in OF_NO_DEPLOYMENT else "deployment"
    assert f"{{{{ $labels.{where} }}}}" in description
    assert ".Labels.witness" in description
    assert ".Labels.coder_replica" in description
    assert f'range printf `coder_health_code_since_timestamp_seconds{{code="{expected[0].value}"' in description


def test_no_description_asks_for_a_label_that_its_alert_has_not() -> None:
    """Who says so and for which target is asked of Prometheus; the alert bears neither."""
    for rule in CODED.values():
        for label in ("witness", "coder_replica", "target"):
            assert f"$labels.{label}" not in rule["annotations"]["description"], rule["alert"]


@pytest.mark.parametrize(("alert", "severity"), [("Critical", Severity.ERROR), ("Warning", Severity.WARNING)])
def test_codes_that_no_rule_knows_alert_by_their_severity(alert: str, severity: Severity) -> None:
    """A newer Coder's codes are data of its report: all but those that have a rule."""
    (selector,) = (
        one
        for one in promql.selectors(promql.parse(BY_ALERT[f"CoderForeignCode{alert}"]["expr"]))
        if one.metric == "coder_health_code_target"
    )
    matchers = {label: value for label, _, value in selector.matchers}
    assert {"witness": Witness.REPORT, "severity": severity.label, "code": matchers["code"]} == matchers
    assert {code for section in CODES for code in section_codes(section, Witness.REPORT)} == set(
        matchers["code"].split("|")
    )


def test_reports_of_an_outage_are_left_out_until_newer_ones_have_settled() -> None:
    """What a report told is over after so many distinct ones that do not; each is made late and polled late."""
    lag = Policy().clear_after * (DEFAULT_REFRESH_SECONDS + SECTION_INTERVAL_SECONDS[Section.REPORT])
    (window,) = re.findall(r"\[(\w+)\]", NO_OLD_REPORT)
    assert lag < seconds(window)


def test_consequences_end_before_what_mutes_them() -> None:
    """They settle after their cause, and are kept as well; muted no more, they would page when all is over."""
    kept = seconds(BY_ALERT[ROOT_CAUSE]["keep_firing_for"])
    consequences = [target for source, target in muting_pairs() if source["alert"] == ROOT_CAUSE]
    assert consequences
    for rule in consequences:
        section = rule["labels"].get("section")
        interval = SECTION_INTERVAL_SECONDS.get(section, DEFAULT_INTERVAL_SECONDS)
        assert Policy().clear_after * interval + seconds(rule["keep_firing_for"]) < kept, rule["alert"]


@one_rule_each
def test_names_and_annotations_are_as_mixins_have_them(rule: Rule) -> None:
    """Names of at most 40 letters, a summary that is a plain sentence, a description that is templated."""
    assert ALERT_NAME.match(rule["alert"])
    assert len(rule["alert"]) <= 40
    assert rule["alert"].startswith("Coder")
    assert rule["labels"]["severity"] in ALERT_SEVERITIES
    assert re.fullmatch(r"[A-Z][^{}]+\.", rule["annotations"]["summary"])
    assert "{{" in rule["annotations"]["description"]
    assert {"summary", "description", "runbook_url", "dashboard_url"} <= set(rule["annotations"])


@one_rule_each
def test_layers_are_those_of_the_root_cause(rule: Rule) -> None:
    """The label layer is one of the closed set, or absent where a rule has more than one layer or none."""
    assert rule["labels"].get("layer", "dns") in set(Layer)


@one_rule_each
def test_links_lead_to_anchors_that_exist(rule: Rule) -> None:
    """The runbook's page and anchor are in this tree, and the board is the one about the section."""
    page, _, anchor = rule["annotations"]["runbook_url"].removeprefix(RUNBOOKS).partition("#")
    assert f'<a id="{anchor}"></a>' in (ALERTS / "runbooks" / page).read_text()
    networking = rule["labels"].get("section") in (Section.DERP, Section.DIRECT_CONNECTIONS)
    board = NETWORKING_BOARD if networking else FIRST_BOARD
    assert BOARDS + board == rule["annotations"]["dashboard_url"].split("?")[0]
    if (
        "deployment" in rule["annotations"]["description"]
        and "$labels.deployment" in rule["annotations"]["description"]
    ):
        assert "?var-deployment={{ $labels.deployment | urlquery }}" in rule["annotations"]["dashboard_url"]


@one_rule_each
def test_rules_ask_for_what_exists(rule: Rule) -> None:
    """Every metric, label and label value of expression and templates is in the families and closed sets."""
    for expression in (rule["expr"], *template_queries(rule)):
        assert [] == promql.problems(expression), expression


@one_rule_each
def test_no_rule_drops_where_it_was_scraped(rule: Rule) -> None:
    """Inhibition by job and instance works only when no aggregation takes them away."""
    assert set() == promql.dropped_labels(promql.parse(rule["expr"]))


@one_rule_each
def test_a_restart_of_the_exporter_resolves_nothing(rule: Rule) -> None:
    """Alerts are kept for the start-up grace, the runs that settle a code, and a minute."""
    policy = Policy()
    settling = settles_seconds(rule) - seconds(rule["for"])
    assert seconds(rule["keep_firing_for"]) >= policy.startup_grace_seconds + settling + 60
    assert seconds(rule["for"]) >= 60


def test_a_page_about_relays_outlasts_the_least_that_a_code_is_active() -> None:
    """A code that was raised stays for the judgements that clear it; a rule that waits no longer would page for it."""
    least = Policy().clear_after * SECTION_INTERVAL_SECONDS[Section.DERP]
    pages = [rule for rule in groups()[Section.DERP] if rule["labels"]["severity"] == "critical"]
    assert ["XDERP01", "XDERP03", "XDERP05"] == [rule["labels"]["code"] for rule in pages]
    assert [] == [rule["alert"] for rule in pages if seconds(rule["for"]) <= least]


def test_causes_come_before_their_consequences() -> None:
    """What the access URL's errors mute waits longer than they do, so that it is muted from the start."""
    causes = [seconds(rule["for"]) for rule in groups()["access_url"] if rule["labels"]["severity"] == "critical"]
    causes.append(seconds(BY_ALERT[ROOT_CAUSE]["for"]))
    layers = ("websocket", "relay", "proxy")
    consequences = [seconds(rule["for"]) for rule in RULES if rule["labels"].get("layer") in layers]
    assert max(causes) < min(consequences)


def test_who_mutes_fires_no_later_than_who_is_muted() -> None:
    """A consequence that fires first would page before its cause is there to mute it."""
    pairs = [(source, target) for source, target in muting_pairs() if source["alert"] != "CoderExporterGone"]
    assert pairs
    for source, target in pairs:
        assert settles_seconds(source) <= settles_seconds(target), (source["alert"], target["alert"])


def test_a_crash_in_coders_report_is_one_page() -> None:
    """Both codes of it settle with the same report and wait as long, so Alertmanager tells them together."""
    crash, section = BY_ALERT["CoderXRPT03ReportSectionCrashed"], BY_ALERT["CoderEUNKNOWNSectionCrashed"]
    assert crash["for"] == section["for"]
    assert crash["keep_firing_for"] == section["keep_firing_for"]


def test_what_tells_of_the_exporters_own_network_is_info_at_most() -> None:
    """Nobody is called at night since the exporter stands behind a NAT. Source: contract, section 8."""
    about_this_host = [rule for rule in RULES if re.match("XNET|ESTUN|EIF", rule["labels"].get("code", ""))]
    assert 8 == len(about_this_host)
    assert {"info"} == {rule["labels"]["severity"] for rule in about_this_host}


@pytest.mark.parametrize("code", ["EDERP01", "EDERP02", "ESTUN02"])
def test_what_still_works_is_no_page(code: str) -> None:
    """A fallback, one node of several and a hard NAT never page alone. Source: contract, section 7."""
    (rule,) = (rule for rule in RULES if rule["labels"].get("code") == code)
    assert "critical" != rule["labels"]["severity"]


def test_no_group_is_too_large() -> None:
    """At most 20 rules a group, named like its section. Source: mixtool."""
    assert sorted(CODES) == sorted(groups())
    assert max(len(rules) for rules in groups().values()) <= 20


# promtool


def test_promtool_accepts_the_rules(need_tool: Callable[[str], str]) -> None:
    """All rules parse, and the linter has nothing to say."""
    command = [need_tool("promtool"), "check", "rules", "--lint=all", "--lint-fatal", *map(str, FILES)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert 0 == done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_rules_fire_and_end_as_they_should(path: Path, need_tool: Callable[[str], str]) -> None:
    """The unit tests of a file of rules pass."""
    command = [need_tool("promtool"), "test", "rules", str(ALERTS / "tests" / path.name)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ALERTS / "tests")
    assert 0 == done.returncode, done.stdout + done.stderr


def test_every_rule_has_a_unit_test_that_fires_and_two_that_do_not() -> None:
    """Each alert is expected somewhere, and somewhere not: before it is time, and after it is over."""
    fires: dict[str, int] = dict.fromkeys(BY_ALERT, 0)
    silent: dict[str, int] = dict.fromkeys(BY_ALERT, 0)
    for path in TESTS:
        for test in yaml.safe_load(path.read_text())["tests"]:
            for case in test.get("alert_rule_test", ()):
                (fires if case["exp_alerts"] else silent)[case["alertname"]] += 1
    assert [] == [name for name, count in fires.items() if count < 1]
    assert [] == [name for name, count in silent.items() if count < 2]


@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.stem)
def test_unit_tests_use_series_that_exist(path: Path) -> None:
    """A rule is not proven by a series that the exporter never shows."""
    for test in yaml.safe_load(path.read_text())["tests"]:
        for series in test["input_series"]:
            if 'job="node"' not in series["series"]:
                assert set() == set(promql.problems(series["series"])) - FOREIGN, series["series"]


# Alertmanager


def test_amtool_accepts_the_example(need_tool: Callable[[str], str]) -> None:
    """The example configuration is valid as it stands."""
    command = [need_tool("amtool"), "check-config", str(ALERTMANAGER)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert 0 == done.returncode, done.stdout + done.stderr


@one_rule_each
def test_alerts_go_where_their_severity_says(rule: Rule, need_tool: Callable[[str], str]) -> None:
    """Critical pages, warning makes a ticket, info goes nowhere."""
    receiver = {"critical": "pager", "warning": "tickets", "info": "nobody"}[rule["labels"]["severity"]]
    labels = [f"{name}={value}" for name, value in rule["labels"].items()]
    command = [need_tool("amtool"), "config", "routes", "test", f"--config.file={ALERTMANAGER}"]
    command += [f"--verify.receivers={receiver}", *labels, f"alertname={rule['alert']}", "deployment=prod"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert 0 == done.returncode, done.stdout + done.stderr


def test_the_example_holds_no_secret() -> None:
    """Receivers are addresses of this host, without a password or a token."""
    receivers = yaml.safe_load(ALERTMANAGER.read_text())["receivers"]
    urls = [hook["url"] for receiver in receivers for hook in receiver.get("webhook_configs", ())]
    assert [] == [url for url in urls if not url.startswith("http://127.0.0.1:") or "@" in url]


def test_no_alert_is_cause_and_consequence_of_the_same_pair() -> None:
    """An alert that matched both sides of a rule would mute its own kind."""
    for number, inhibition in enumerate(yaml.safe_load(ALERTMANAGER.read_text())["inhibit_rules"]):
        for rule in RULES:
            for labels in alerts_of(rule):
                both = [_matches(inhibition[side], labels) for side in ("source_matchers", "target_matchers")]
                assert not all(both), (number, rule["alert"])


def test_every_side_of_every_pair_is_an_alert_that_exists() -> None:
    """A pair whose cause or consequence was renamed would silently mute nobody."""
    for number, inhibition in enumerate(yaml.safe_load(ALERTMANAGER.read_text())["inhibit_rules"]):
        for side in ("source_matchers", "target_matchers"):
            hits = [labels for rule in RULES for labels in alerts_of(rule) if _matches(inhibition[side], labels)]
            assert hits, (number, side)


def test_what_one_replica_sees_mutes_nobody_elsewhere() -> None:
    """Who keeps the label coder_replica in rules of his own has no cause of a single replica; of a deployment they are
    matched within one, of an exporter within one scrape."""
    for inhibition in yaml.safe_load(ALERTMANAGER.read_text())["inhibit_rules"]:
        equal = inhibition["equal"]
        if "deployment" in equal:
            assert 'deployment!=""' in inhibition["source_matchers"]
            assert 'coder_replica=""' in inhibition["source_matchers"] or "coder_replica" in equal
        else:
            assert ["job", "instance"] == equal
            assert 'instance!=""' in inhibition["source_matchers"]


SERIES = {"job": "coder-health", "instance": "exporter:26337", "deployment": "prod"}


def alerts_of(rule: Rule) -> Iterator[dict[str, str]]:
    """Labels of the alerts of a rule, one for each value of a label that comes from the series."""
    labels = {**SERIES, **rule["labels"], "alertname": rule["alert"]}
    if rule["alert"] == ROOT_CAUSE:
        yield from ({**labels, "layer": layer} for layer in Layer)
    elif "section" not in labels:
        yield from ({**labels, "section": section} for section in Section)
    else:
        yield labels


def muting_pairs() -> Iterator[tuple[Rule, Rule]]:
    """Every two rules of which the one mutes the other."""
    for inhibition in yaml.safe_load(ALERTMANAGER.read_text())["inhibit_rules"]:
        sources, targets = (
            [rule for rule in RULES if any(_matches(inhibition[side], labels) for labels in alerts_of(rule))]
            for side in ("source_matchers", "target_matchers")
        )
        for source in sources:
            for target in targets:
                if all(source["labels"].get(name) == target["labels"].get(name) for name in inhibition["equal"]):
                    yield source, target


def _matches(matchers: list[str], labels: dict[str, str]) -> bool:
    for matcher in matchers:
        parsed = re.fullmatch(r'(\w+)(=~|!=|!~|=)"(.*)"', matcher)
        assert parsed is not None, matcher
        name, operator, wanted = parsed.groups()
        value = labels.get(name, "")
        equal = re.fullmatch(wanted, value) is not None if "~" in operator else wanted == value
        if equal is operator.startswith("!"):
            return False
    return True


class Alertmanager:
    """A running Alertmanager: post alerts, read who is muted."""

    def __init__(self, base: str, session: aiohttp.ClientSession) -> None:
        self._base = base
        self._session = session

    async def post(self, *alerts: dict[str, str]) -> None:
        """Let alerts fire, as Prometheus would. The labels of a rule are filled in by its name.

        A pair that is known to work comes last: once it mutes, everything before has been taken in.
        """
        await self._post(*alerts)
        await self._post(
            {"alertname": "CoderXWP02AllProxiesDown", "deployment": "last"},
            {"alertname": "CoderEWP04ProxyUnhealthy", "deployment": "last"},
        )

    async def _post(self, *alerts: dict[str, str]) -> None:
        now = datetime.now(UTC).isoformat()
        body = [
            {"labels": {**SERIES, **BY_ALERT[alert["alertname"]]["labels"], **alert}, "startsAt": now}
            for alert in alerts
        ]
        async with self._session.post(f"{self._base}/api/v2/alerts", json=body) as answer:
            assert 200 == answer.status, await answer.text()

    async def muted(self) -> dict[tuple[str, str], bool]:
        """Return for each (alertname, deployment) whether it is muted by another alert."""
        async with asyncio.timeout(20):
            while True:
                async with self._session.get(f"{self._base}/api/v2/alerts") as answer:
                    alerts = await answer.json()
                states = {
                    (alert["labels"]["alertname"], alert["labels"].get("deployment", "")): (
                        alert["status"]["state"] == "suppressed" and bool(alert["status"]["inhibitedBy"])
                    )
                    for alert in alerts
                }
                if states.get(("CoderEWP04ProxyUnhealthy", "last")):
                    return {key: muted for key, muted in states.items() if key[1] != "last"}
                await asyncio.sleep(0.05)


@pytest.fixture
async def alertmanager(need_tool: Callable[[str], str], tmp_path: Path) -> AsyncIterator[Alertmanager]:
    program = need_tool("prometheus-alertmanager")
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        program,
        f"--config.file={ALERTMANAGER}",
        f"--storage.path={tmp_path}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--cluster.listen-address=",
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with aiohttp.ClientSession() as session:
            base = f"http://127.0.0.1:{port}"
            async with asyncio.timeout(20):
                while True:
                    with contextlib.suppress(aiohttp.ClientError):
                        async with session.get(f"{base}/-/ready") as answer:
                            if answer.status == 200:
                                break
                    assert process.returncode is None
                    await asyncio.sleep(0.05)
            yield Alertmanager(base, session)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await process.wait()


async def test_access_url_down_mutes_its_consequences(alertmanager: Alertmanager) -> None:
    """Websocket, proxies and report of the same deployment are silent; its database and other deployments are not."""
    await alertmanager.post(
        {"alertname": "CoderEACS03AccessURLUnreachable"},
        {"alertname": ROOT_CAUSE, "layer": "tcp"},
        {"alertname": "CoderXRPT04ReportFails"},
        {"alertname": "CoderEWS01WebsocketDialFailed"},
        {"alertname": "CoderXWP02AllProxiesDown"},
        {"alertname": "CoderEDB01DatabasePingFailed"},
        {"alertname": "CoderEWS01WebsocketDialFailed", "deployment": "test"},
    )
    assert {
        ("CoderEACS03AccessURLUnreachable", "prod"): False,
        (ROOT_CAUSE, "prod"): False,
        ("CoderXRPT04ReportFails", "prod"): True,
        ("CoderEWS01WebsocketDialFailed", "prod"): True,
        ("CoderXWP02AllProxiesDown", "prod"): True,
        ("CoderEDB01DatabasePingFailed", "prod"): False,
        ("CoderEWS01WebsocketDialFailed", "test"): False,
    } == await alertmanager.muted()


async def test_what_only_a_replica_sees_mutes_nobody(alertmanager: Alertmanager) -> None:
    """An access URL that is down from inside makes no first broken layer; a certificate about to expire breaks
    nothing yet."""
    await alertmanager.post(
        {"alertname": "CoderEACS03AccessURLUnreachable"},
        {"alertname": "CoderXACS03CertificateExpiresCritical"},
        {"alertname": "CoderEWS01WebsocketDialFailed"},
    )
    assert {
        ("CoderEACS03AccessURLUnreachable", "prod"): False,
        ("CoderXACS03CertificateExpiresCritical", "prod"): False,
        ("CoderEWS01WebsocketDialFailed", "prod"): False,
    } == await alertmanager.muted()


async def test_relays_are_silent_while_the_access_url_is_down(alertmanager: Alertmanager) -> None:
    """Map, embedded relay and its certificate are consequences; the exporter's own network is not."""
    await alertmanager.post(
        {"alertname": "CoderEACS03AccessURLUnreachable"},
        {"alertname": ROOT_CAUSE, "layer": "tls"},
        {"alertname": "CoderXDERP01RegionDown"},
        {"alertname": "CoderXDERP03NoDERPMap"},
        {"alertname": "CoderXDERP05RelayCertificateWrong"},
        {"alertname": "CoderEDERP01RelayUsesWebsocket"},
        {"alertname": "CoderXNET03UDPBlocked"},
        {"alertname": "CoderXDERP01RegionDown", "deployment": "test"},
    )
    assert {
        ("CoderEACS03AccessURLUnreachable", "prod"): False,
        (ROOT_CAUSE, "prod"): False,
        ("CoderXDERP01RegionDown", "prod"): True,
        ("CoderXDERP03NoDERPMap", "prod"): True,
        ("CoderXDERP05RelayCertificateWrong", "prod"): True,
        ("CoderEDERP01RelayUsesWebsocket", "prod"): True,
        ("CoderXNET03UDPBlocked", "prod"): False,
        ("CoderXDERP01RegionDown", "test"): False,
    } == await alertmanager.muted()


async def test_a_region_that_is_down_is_one_page(alertmanager: Alertmanager) -> None:
    """The certificate that took it down and its relays are not told again; fallback and mesh are other faults."""
    await alertmanager.post(
        {"alertname": "CoderXDERP01RegionDown"},
        {"alertname": "CoderXDERP05RelayCertificateWrong"},
        {"alertname": "CoderXDERP02RelayDown"},
        {"alertname": "CoderEDERP02RegionOneNodeUnhealthy"},
        {"alertname": "CoderEDERP01RelayUsesWebsocket"},
        {"alertname": "CoderXDERP05RelayCertificateWrong", "deployment": "test"},
    )
    assert {
        ("CoderXDERP01RegionDown", "prod"): False,
        ("CoderXDERP05RelayCertificateWrong", "prod"): True,
        ("CoderXDERP02RelayDown", "prod"): True,
        ("CoderEDERP02RegionOneNodeUnhealthy", "prod"): True,
        ("CoderEDERP01RelayUsesWebsocket", "prod"): False,
        ("CoderXDERP05RelayCertificateWrong", "test"): False,
    } == await alertmanager.muted()


async def test_a_front_without_upgrades_is_one_page(alertmanager: Alertmanager) -> None:
    """Without websockets there is no map and no relay behind that front."""
    await alertmanager.post(
        {"alertname": "CoderEWS01WebsocketDialFailed"},
        {"alertname": ROOT_CAUSE, "layer": "websocket"},
        {"alertname": "CoderXDERP01RegionDown"},
        {"alertname": "CoderXDERP03NoDERPMap"},
    )
    assert {
        ("CoderEWS01WebsocketDialFailed", "prod"): False,
        (ROOT_CAUSE, "prod"): False,
        ("CoderXDERP01RegionDown", "prod"): True,
        ("CoderXDERP03NoDERPMap", "prod"): True,
    } == await alertmanager.muted()


async def test_the_exporters_own_network_is_told_once(alertmanager: Alertmanager) -> None:
    """Ours says more than Coder's code beside it; a silent server of a map is told all the same."""
    await alertmanager.post(
        {"alertname": "CoderXNET03UDPBlocked"},
        {"alertname": "CoderESTUN01NoSTUNServerAnswers"},
        {"alertname": "CoderXNET04HardNATFromHere"},
        {"alertname": "CoderESTUN02MappingVaries"},
        {"alertname": "CoderXSTUN01STUNServerSilent"},
    )
    assert {
        ("CoderXNET03UDPBlocked", "prod"): False,
        ("CoderESTUN01NoSTUNServerAnswers", "prod"): True,
        ("CoderXNET04HardNATFromHere", "prod"): False,
        ("CoderESTUN02MappingVaries", "prod"): True,
        ("CoderXSTUN01STUNServerSilent", "prod"): False,
    } == await alertmanager.muted()


async def test_exporter_gone_mutes_what_it_said_last(alertmanager: Alertmanager) -> None:
    """Alerts of the same job and instance are silent; those of a second exporter are not."""
    await alertmanager.post(
        {"alertname": "CoderExporterGone", "deployment": ""},
        {"alertname": "CoderEDB01DatabasePingFailed"},
        {"alertname": "CoderEUNKNOWNSectionCrashed", "section": "database"},
        {"alertname": "CoderEDB02DatabaseLatencyHigh", "deployment": "test", "instance": "second:26337"},
    )
    assert {
        ("CoderExporterGone", ""): False,
        ("CoderEDB01DatabasePingFailed", "prod"): True,
        ("CoderEUNKNOWNSectionCrashed", "prod"): True,
        ("CoderEDB02DatabaseLatencyHigh", "test"): False,
    } == await alertmanager.muted()


async def test_a_database_that_is_gone_is_one_page(alertmanager: Alertmanager) -> None:
    """Coder knows no token without it, so its report and its lists fail; its access URL is another matter."""
    await alertmanager.post(
        {"alertname": "CoderEDB01DatabasePingFailed"},
        {"alertname": ROOT_CAUSE, "layer": "database"},
        {"alertname": "CoderEWP02ProxyListFailed"},
        {"alertname": "CoderXPD01DaemonListFailed"},
        {"alertname": "CoderXRPT01ReportRefused"},
        {"alertname": "CoderXRPT04ReportFails"},
        {"alertname": "CoderXACS06AccessURLFails"},
        {"alertname": "CoderXRPT04ReportFails", "deployment": "test"},
    )
    assert {
        ("CoderEDB01DatabasePingFailed", "prod"): False,
        (ROOT_CAUSE, "prod"): False,
        ("CoderEWP02ProxyListFailed", "prod"): True,
        ("CoderXPD01DaemonListFailed", "prod"): True,
        ("CoderXRPT01ReportRefused", "prod"): True,
        ("CoderXRPT04ReportFails", "prod"): True,
        ("CoderXACS06AccessURLFails", "prod"): False,
        ("CoderXRPT04ReportFails", "test"): False,
    } == await alertmanager.muted()


async def test_witnesses_that_differ_about_the_front_do_so_once(alertmanager: Alertmanager) -> None:
    """While the front is broken they differ about all behind it, too."""
    await alertmanager.post(
        {"alertname": ROOT_CAUSE, "layer": "http"},
        {"alertname": "CoderWitnessesDisagree", "section": "access_url"},
        {"alertname": "CoderWitnessesDisagree", "section": "websocket", "deployment": "other"},
        {"alertname": ROOT_CAUSE, "layer": "http", "deployment": "other"},
    )
    assert {
        (ROOT_CAUSE, "prod"): False,
        (ROOT_CAUSE, "other"): False,
        ("CoderWitnessesDisagree", "prod"): False,
        ("CoderWitnessesDisagree", "other"): True,
    } == await alertmanager.muted()


async def test_relays_of_proxies_that_are_down_are_no_disagreement(alertmanager: Alertmanager) -> None:
    """Coder forgets them, so its report is well; about other sections the witnesses may differ as ever."""
    await alertmanager.post(
        {"alertname": "CoderXWP02AllProxiesDown"},
        {"alertname": "CoderWitnessesDisagree", "section": "derp"},
        {"alertname": "CoderXWP02AllProxiesDown", "deployment": "other"},
        {"alertname": "CoderWitnessesDisagree", "section": "database", "deployment": "other"},
        {"alertname": ROOT_CAUSE, "layer": "proxy", "deployment": "one"},
        {"alertname": "CoderXDERP01RegionDown", "deployment": "one"},
        {"alertname": "CoderWitnessesDisagree", "section": "derp", "deployment": "one"},
        {"alertname": ROOT_CAUSE, "layer": "relay", "deployment": "relay"},
        {"alertname": "CoderWitnessesDisagree", "section": "derp", "deployment": "relay"},
    )
    assert {
        ("CoderXWP02AllProxiesDown", "prod"): False,
        ("CoderXWP02AllProxiesDown", "other"): False,
        ("CoderWitnessesDisagree", "prod"): True,
        ("CoderWitnessesDisagree", "other"): False,
        (ROOT_CAUSE, "one"): False,
        ("CoderXDERP01RegionDown", "one"): False,
        ("CoderWitnessesDisagree", "one"): True,
        (ROOT_CAUSE, "relay"): False,
        ("CoderWitnessesDisagree", "relay"): False,
    } == await alertmanager.muted()


async def test_a_stuck_rollout_is_no_disagreement_about_daemons(alertmanager: Alertmanager) -> None:
    """Each version compares them with itself; about other sections the witnesses may differ as ever."""
    await alertmanager.post(
        {"alertname": "CoderXRPT06RolloutStuck"},
        {"alertname": "CoderWitnessesDisagree", "section": "provisioner_daemons"},
        {"alertname": "CoderXRPT06RolloutStuck", "deployment": "other"},
        {"alertname": "CoderWitnessesDisagree", "section": "database", "deployment": "other"},
    )
    assert {
        ("CoderXRPT06RolloutStuck", "prod"): False,
        ("CoderXRPT06RolloutStuck", "other"): False,
        ("CoderWitnessesDisagree", "prod"): True,
        ("CoderWitnessesDisagree", "other"): False,
    } == await alertmanager.muted()


async def test_a_check_that_crashed_is_no_disagreement(alertmanager: Alertmanager) -> None:
    """Of the section whose check crashed; about other sections the witnesses may differ as ever."""
    await alertmanager.post(
        {"alertname": "CoderEUNKNOWNSectionCrashed", "section": "websocket"},
        {"alertname": "CoderWitnessesDisagree", "section": "websocket"},
        {"alertname": "CoderEUNKNOWNSectionCrashed", "section": "websocket", "deployment": "other"},
        {"alertname": "CoderWitnessesDisagree", "section": "database", "deployment": "other"},
    )
    assert {
        ("CoderEUNKNOWNSectionCrashed", "prod"): False,
        ("CoderEUNKNOWNSectionCrashed", "other"): False,
        ("CoderWitnessesDisagree", "prod"): True,
        ("CoderWitnessesDisagree", "other"): False,
    } == await alertmanager.muted()


async def test_a_host_that_is_cut_off_mutes_all_that_it_says(alertmanager: Alertmanager) -> None:
    """Of every deployment and itself; another exporter, on another host, still tells."""
    await alertmanager.post(
        {"alertname": "CoderXEXP01ExporterCutOff", "deployment": ""},
        {"alertname": "CoderXEXP02ProbingFallsBehind", "deployment": ""},
        {"alertname": "CoderEACS03AccessURLUnreachable"},
        {"alertname": "CoderEDB01DatabasePingFailed", "deployment": "test"},
        {"alertname": "CoderEACS03AccessURLUnreachable", "deployment": "far", "instance": "second:26337"},
    )
    assert {
        ("CoderXEXP01ExporterCutOff", ""): False,
        ("CoderXEXP02ProbingFallsBehind", ""): True,
        ("CoderEACS03AccessURLUnreachable", "prod"): True,
        ("CoderEDB01DatabasePingFailed", "test"): True,
        ("CoderEACS03AccessURLUnreachable", "far"): False,
    } == await alertmanager.muted()


async def test_the_worse_severity_of_a_code_mutes_the_lesser(alertmanager: Alertmanager) -> None:
    """The same code only; another code's warning goes through."""
    await alertmanager.post(
        {"alertname": "CoderXACS03CertificateExpiresCritical"},
        {"alertname": "CoderXACS03CertificateExpiresWarning"},
        {"alertname": "CoderXACS07AddressFamilyDown"},
    )
    assert {
        ("CoderXACS03CertificateExpiresCritical", "prod"): False,
        ("CoderXACS03CertificateExpiresWarning", "prod"): True,
        ("CoderXACS07AddressFamilyDown", "prod"): False,
    } == await alertmanager.muted()
