"""Inside against outside: when the witnesses differ, and what a person is told."""

from __future__ import annotations

import pytest

from exporter.health.disagreement import DisagreementKind, View, find_disagreement, is_blind
from exporter.health.model import REPORT_SECTIONS, UNCODED, Section, Severity

E, W, OK = Severity.ERROR, Severity.WARNING, Severity.OK
IN_OK, IN_BAD = DisagreementKind.INSIDE_OK_OUTSIDE_BAD, DisagreementKind.INSIDE_BAD_OUTSIDE_OK


@pytest.mark.parametrize(
    ("expected", "section", "inside", "outside"),
    [
        (None, Section.ACCESS_URL, {}, {}),
        (IN_OK, Section.ACCESS_URL, {}, {"EACS03": E}),
        (IN_BAD, Section.ACCESS_URL, {"EACS03": E}, {}),
        (None, Section.ACCESS_URL, {"EACS03": E}, {"EACS03": E}),
        (None, Section.ACCESS_URL, {"EACS04": W}, {"EACS03": E}),  # two kinds of trouble agree
        # what Coder does not look at makes no difference, in either direction
        (None, Section.ACCESS_URL, {}, {"XACS02": W}),
        (IN_OK, Section.ACCESS_URL, {}, {"XACS02": E}),
        (None, Section.ACCESS_URL, {}, {"XACS03": E}),
        (IN_BAD, Section.ACCESS_URL, {"EACS03": E}, {"XACS03": W}),
        (None, Section.ACCESS_URL, {}, {"XACS05": W, "XACS07": W, "XACS08": W}),
        (IN_OK, Section.ACCESS_URL, {}, {"XACS06": E, "EACS04": W}),
        (IN_OK, Section.WEBSOCKET, {}, {"EWS01": E, "XWS01": E}),
        (IN_BAD, Section.WEBSOCKET, {"EWS02": E}, {}),
        (IN_OK, Section.DATABASE, {}, {"EDB01": E}),
        (IN_OK, Section.DATABASE, {}, {"EDB02": W}),
        (None, Section.DATABASE, {}, {"XDB02": W}),
        (IN_BAD, Section.DATABASE, {"EDB01": E}, {"XDB02": W}),
        (IN_OK, Section.DERP, {}, {"XDERP01": E}),
        (None, Section.DERP, {}, {"XDERP02": W, "XDERP03": E, "XDERP04": W, "XDERP05": E, "XSTUN01": W}),
        (None, Section.DERP, {}, {"ESTUN02": OK}),
        (None, Section.DERP, {"XDERP02": W}, {"XDERP02": W}),  # both say the same
        (IN_BAD, Section.DERP, {"XDERP02": W}, {}),
        (IN_BAD, Section.DERP, {"EDERP02": W, "XDERP02": W}, {"XDERP02": W}),
        (None, Section.WORKSPACE_PROXY, {}, {"XWP01": W, "XWP03": OK}),
        (IN_OK, Section.WORKSPACE_PROXY, {}, {"EWP04": W}),
        (IN_BAD, Section.WORKSPACE_PROXY, {"EWP04": W}, {}),
        (None, Section.PROVISIONER_DAEMONS, {}, {"XPD02": E}),
        (IN_BAD, Section.PROVISIONER_DAEMONS, {"EPD01": E}, {}),
        (IN_BAD, Section.ACCESS_URL, {UNCODED: E}, {}),  # an error without a code is one
        # what we have a code for and Coder none
        (None, Section.DERP, {UNCODED: E, "XSTUN01": W}, {"XSTUN01": W}),
        (None, Section.DERP, {UNCODED: E, "XDERP02": W}, {"XDERP02": W}),
        (None, Section.WORKSPACE_PROXY, {UNCODED: W}, {"XWP01": W}),
        (IN_BAD, Section.DERP, {UNCODED: E, "XDERP01": E}, {"XSTUN01": W}),
        (IN_BAD, Section.DERP, {UNCODED: E}, {"XDERP04": W}),
        # a proxy that was stopped on purpose is unreachable to Coder
        (None, Section.WORKSPACE_PROXY, {"EWP04": W}, {"XWP03": OK}),
        (IN_BAD, Section.WORKSPACE_PROXY, {"EWP04": W}, {"XWP01": W}),
    ],
)
def test_when_they_differ(
    expected: DisagreementKind | None, section: Section, inside: dict[str, Severity], outside: dict[str, Severity]
) -> None:
    """They differ when one is well and the other is not, by what both look at."""
    found = find_disagreement(section, inside=View(codes=inside), outside=View(codes=outside))
    assert expected == (None if found is None else found.kind)


@pytest.mark.parametrize(
    ("kind", "section", "word"),
    [
        (IN_OK, Section.ACCESS_URL, "ingress"),
        (IN_OK, Section.WEBSOCKET, "upgrade"),
        (IN_OK, Section.DATABASE, "firewall"),
        (IN_OK, Section.DERP, "UDP"),
        (IN_OK, Section.WORKSPACE_PROXY, "ingress"),
        (IN_OK, Section.PROVISIONER_DAEMONS, "stale interval"),
        (IN_BAD, Section.ACCESS_URL, "hairpin"),
        (IN_BAD, Section.WEBSOCKET, "hairpin"),
        (IN_BAD, Section.DATABASE, "stale connection"),
        (IN_BAD, Section.DERP, "hairpin"),
        (IN_BAD, Section.WORKSPACE_PROXY, "coder/coder #29045"),
        (IN_BAD, Section.PROVISIONER_DAEMONS, "stale interval"),
    ],
)
def test_what_it_usually_means(kind: DisagreementKind, section: Section, word: str) -> None:
    """Each section has its own usual meaning, in each direction."""
    bad, good = View(codes={"EXX01": E}), View(codes={})
    inside, outside = (good, bad) if kind is IN_OK else (bad, good)
    found = find_disagreement(section, inside=inside, outside=outside)
    assert found is not None
    assert kind is found.kind
    assert word in found.sentence


def test_every_section_of_the_report_has_words_of_its_own() -> None:
    """No section is told by the general words."""
    bad, good = View(codes={"EXX01": E}), View(codes={})
    for one, other in ((bad, good), (good, bad)):
        told = [find_disagreement(section, inside=one, outside=other) for section in (*REPORT_SECTIONS, "other")]
        assert len(told) == len({found.sentence for found in told if found is not None})


def test_the_sentence_names_who_says_what() -> None:
    """A person reads whose report it is, both verdicts with their codes, and how old the report is."""
    found = find_disagreement(
        Section.WEBSOCKET,
        inside=View(codes={}),
        outside=View(codes={"XWS01": E, "EWS01": E, "XACS03": W}),
        coder_replica="coderd-1",
        report_age_seconds=480.4,
    )
    assert found is not None
    assert found.sentence.startswith(
        "Coder's report (replica coderd-1) says ok, but our probe says error (EWS01, XWS01): usually "
    )
    assert found.sentence.endswith("; the report comes from Coder's cache and is 480 s old")


def test_one_replica_alone_has_trouble_of_its_own() -> None:
    """When the other replicas are fine, the odd one's own network is the first guess."""
    found = find_disagreement(
        Section.ACCESS_URL, inside=View(codes={UNCODED: E}), outside=View(codes={}), coder_replica="b", alone=True
    )
    assert found is not None
    assert "error (without a code), but our probe is fine: usually the other replicas are fine" in found.sentence
    assert "own network" in found.sentence
    assert "cache" not in found.sentence


@pytest.mark.parametrize(
    ("blind", "section", "code"),
    [
        (True, Section.ACCESS_URL, "EUNKNOWN"),
        (False, Section.PROVISIONER_DAEMONS, "EUNKNOWN"),  # by Coder's own rule: an invalid version
        (True, Section.PROVISIONER_DAEMONS, "XPD01"),
        (True, Section.DATABASE, "XDB01"),
        (False, Section.DATABASE, "EDB01"),
        (True, Section.WORKSPACE_PROXY, "EWP01"),
        (True, Section.WORKSPACE_PROXY, "EWP02"),
        (False, Section.WORKSPACE_PROXY, "EWP04"),
    ],
)
def test_a_probe_that_could_not_look_is_blind(blind: bool, section: Section, code: str) -> None:
    """A probe that broke, was refused or has no list cannot be compared."""
    assert blind is is_blind(section, View(codes={code: W}))
