"""Every health code: its alert names, its severities, where it is documented."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from exporter.health.codes import CODES, UNKNOWN, Code, find, section_codes
from exporter.health.model import Section, Severity

# Source: mixtool, lint of alert names; contract, section 7.
ALERT_NAME = re.compile(r"^([A-Z]+[a-z0-9]+)+$")
LONGEST_ALERT_NAME = 40
LETTERS = {
    Section.ACCESS_URL: "ACS",
    Section.WEBSOCKET: "WS",
    Section.DATABASE: "DB",
    Section.DERP: "(DERP|STUN)",
    Section.WORKSPACE_PROXY: "WP",
    Section.PROVISIONER_DAEMONS: "PD",
    Section.DIRECT_CONNECTIONS: "(NET|IF)",
    Section.REPORT: "RPT",
    Section.EXPORTER: "EXP",
}
# Coder's page has no anchor for these. Source: coder-interfaces, section 1.
WITHOUT_DOCS_ANCHOR = {"EIF01", "EWS03"}

ALL = [code for codes in CODES.values() for code in codes]
KNOWN = [code for code in ALL if code.value != UNKNOWN]


@pytest.mark.parametrize("code", ALL, ids=lambda code: f"{code.section}-{code.value}")
def test_alert_names_are_as_the_linters_of_mixins_want_them(code: Code) -> None:
    """Every alert name is CamelCase that ends in a small letter, begins with Coder and the code, and has 40 letters."""
    for name in code.alerts.values():
        assert ALERT_NAME.match(name)
        assert len(name) <= LONGEST_ALERT_NAME
        assert name.startswith(f"Coder{code.value}")


def test_alert_names_are_unique() -> None:
    """No two codes or severities share an alert; EUNKNOWN is one alert for all sections."""
    names = Counter(name for code in KNOWN for name in code.alerts.values())
    assert {1} == set(names.values())
    assert 1 == len({code.alert for code in ALL if code.value == UNKNOWN})


def test_a_code_with_two_severities_has_an_alert_for_each() -> None:
    """The severity ends the name only where there are several."""
    redirect = find("XACS02")
    assert redirect is not None
    assert {
        Severity.WARNING: "CoderXACS02AccessURLRedirectsWarning",
        Severity.ERROR: "CoderXACS02AccessURLRedirectsCritical",
    } == redirect.alerts


@pytest.mark.parametrize("value", ["EIF01", "ESTUN01", "ESTUN02", "XNET01", "XNET02", "XNET03", "XNET04", "XNET05"])
def test_what_tells_of_the_exporters_own_network_alerts_as_info(value: str) -> None:
    """It says little of the deployment and nothing of users elsewhere. Source: contract, section 8."""
    code = find(value)
    assert code is not None
    assert ["info"] == [code.alert_severity(severity) for severity in code.severities]


def test_every_other_code_alerts_as_severe_as_it_is() -> None:
    """Errors page, warnings make a ticket, what is ok is looked at; the servers of a map are not our network."""
    others = [code for code in ALL if not re.match("EIF|ESTUN|XNET", code.value)]
    assert "XSTUN01" in [code.value for code in others]
    for code in others:
        assert [severity.alert for severity in code.severities] == [
            code.alert_severity(severity) for severity in code.severities
        ]


def test_values_are_unique_and_carry_the_letters_of_their_section() -> None:
    """Coder's codes begin with E, ours with X, and both go on with the letters of the section."""
    assert len(KNOWN) == len({code.value for code in KNOWN})
    for code in KNOWN:
        assert re.fullmatch(rf"[EX]{LETTERS[code.section]}\d\d", code.value)


def test_the_retired_number_is_not_used_again() -> None:
    """EWP03 is still sent by old servers, so nothing new may be called so."""
    assert find("EWP03") is None


@pytest.mark.parametrize("section", Section)
def test_every_section_ends_with_eunknown(section: Section) -> None:
    """A run that crashes has a code in every section."""
    assert UNKNOWN == section_codes(section)[-1]


@pytest.mark.parametrize("code", ALL, ids=lambda code: f"{code.section}-{code.value}")
def test_docs_lead_to_the_anchor_of_coders_own_codes(code: Code) -> None:
    """Coder's codes link their own anchor, ours and those that Coder left out link the page."""
    page = "https://coder.com/docs/admin/monitoring/health-check"
    has_anchor = code.value.startswith("E") and code.value not in WITHOUT_DOCS_ANCHOR
    assert (f"{page}#{code.value.lower()}" if has_anchor else page) == code.docs_url


@pytest.mark.parametrize("code", ALL, ids=lambda code: f"{code.section}-{code.value}")
def test_summaries_are_sentences(code: Code) -> None:
    """A summary begins with a capital, ends with a full stop and holds no template."""
    assert re.fullmatch(r"[A-Z][^{}:]+\.", code.summary)
