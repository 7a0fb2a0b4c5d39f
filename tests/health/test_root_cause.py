"""The first broken layer: each code, how far the connection came, combinations, consequences."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.errors import Phase, Reason
from exporter.health.codes import CODES
from exporter.health.model import Section, Severity
from exporter.health.root_cause import Layer, Relies, Trouble, find_root_cause

E, W = Severity.ERROR, Severity.WARNING


def trouble(code: str, severity: Severity = E, **more: Any) -> Trouble:
    section = next(section for section, codes in CODES.items() if code in {known.value for known in codes})
    return Trouble(section=section, code=code, severity=severity, message=f"{code} was seen", **more)


def eacs03(phase: Phase | None, reason: Reason = Reason.TIMEOUT) -> Trouble:
    return trouble("EACS03", phase=phase, reason=reason)


DNS = eacs03(Phase.RESOLVE, Reason.RESOLVE)
TCP = eacs03(Phase.CONNECT, Reason.REFUSED)
TLS = eacs03(Phase.TLS, Reason.TLS)
HTTP_500 = trouble("XACS06", coder_in_trouble=True)
HTTP_404 = trouble("XACS06")
DATABASE = trouble("EDB01")
ECHO = trouble("EWS02")
REGION = trouble("XDERP01")
EMBEDDED = trouble("XDERP01", relies=Relies.CODER)
LOST = trouble("XDERP01", relies=Relies.LOST_PROXY)
NO_MAP = trouble("XDERP03")
PROXIES = trouble("XWP02")


@pytest.mark.parametrize(
    ("layer", "seen"),
    [
        (Layer.DNS, trouble("EACS01")),
        (Layer.DNS, trouble("EACS02")),
        (Layer.DNS, DNS),
        (Layer.DNS, eacs03(Phase.RESOLVE, Reason.TIMEOUT)),
        (Layer.TCP, TCP),
        (Layer.TCP, eacs03(Phase.CONNECT, Reason.TIMEOUT)),
        (Layer.TCP, eacs03(Phase.CONNECT, Reason.UNREACHABLE)),
        (Layer.TLS, TLS),
        (Layer.TLS, eacs03(Phase.TLS, Reason.TIMEOUT)),
        (Layer.HTTP, eacs03(Phase.PROCESSING)),
        (Layer.HTTP, eacs03(Phase.TRANSFER, Reason.PROTOCOL)),
        (Layer.DNS, eacs03(None, Reason.RESOLVE)),
        (Layer.TCP, eacs03(None, Reason.REFUSED)),
        (Layer.TCP, eacs03(None, Reason.UNREACHABLE)),
        (Layer.TLS, eacs03(None, Reason.TLS)),
        (Layer.HTTP, eacs03(None, Reason.STATUS)),
        (Layer.HTTP, trouble("EACS03")),
        (None, eacs03(Phase.CONNECT, Reason.INTERNAL)),  # this host has run out of sockets
        (Layer.HTTP, trouble("XACS01")),
        (Layer.HTTP, trouble("XACS02")),
        (None, trouble("XACS02", W)),
        (None, trouble("XACS03")),  # it ends soon: nothing is broken yet
        (Layer.HTTP, trouble("XACS04")),
        (Layer.HTTP, HTTP_404),
        (Layer.HTTP, HTTP_500),
        (None, trouble("EACS04", W)),
        (Layer.WEBSOCKET, trouble("EWS01", phase=Phase.CONNECT)),  # the access URL itself is fine
        (Layer.WEBSOCKET, ECHO),
        (Layer.WEBSOCKET, trouble("EWS03")),
        (Layer.WEBSOCKET, trouble("XWS01")),
        (Layer.DATABASE, DATABASE),
        (None, trouble("EDB02", W)),
        (None, trouble("XDB01", W)),
        (Layer.RELAY, REGION),
        (Layer.RELAY, EMBEDDED),
        (Layer.PROXY, LOST),
        (Layer.RELAY, NO_MAP),
        (Layer.RELAY, trouble("XDERP05")),
        (Layer.PROXY, trouble("XDERP05", relies=Relies.LOST_PROXY)),
        (None, trouble("XDERP02", W)),
        (None, trouble("ESTUN01", W)),
        (Layer.PROXY, PROXIES),
        (None, trouble("EWP02")),  # nobody knows which proxies there are, and so of none that it is down
        (None, trouble("EWP01", W)),
        (Layer.PROXY, trouble("EWP04")),
        (None, trouble("EWP04", W)),
        (None, trouble("EPD01")),
        (None, trouble("XPD02")),
        (None, trouble("XRPT03")),
        (None, trouble("XRPT07")),
        (None, Trouble(section=Section.ACCESS_URL, code="EUNKNOWN", severity=E)),
        (None, Trouble(section="healthz_of_tomorrow", code="EDB01", severity=E)),
        (None, None),
    ],
)
def test_what_one_code_breaks(layer: Layer | None, seen: Trouble | None) -> None:
    """Each code that is an error has its layer, or none; a warning never has."""
    found = find_root_cause([] if seen is None else [seen])
    assert layer == (None if found is None else found.layer)


@pytest.mark.parametrize(
    ("layer", "consequences", "seen"),
    [
        # all below the access URL hangs on it
        (
            Layer.DNS,
            (Section.WEBSOCKET, Section.DERP, Section.WORKSPACE_PROXY, Section.PROVISIONER_DAEMONS, Section.REPORT),
            [DNS, ECHO, EMBEDDED, PROXIES, trouble("XPD01", W), trouble("XRPT04", W)],
        ),
        (Layer.TCP, (Section.WEBSOCKET, Section.DERP), [TCP, ECHO, NO_MAP]),
        (Layer.TLS, (Section.DERP,), [TLS, LOST]),
        (Layer.TLS, (), [TLS, trouble("XACS03")]),
        (Layer.HTTP, (Section.PROVISIONER_DAEMONS,), [HTTP_404, trouble("EPD01")]),
        # what is as bad by itself is no consequence, nor what has another cause
        (Layer.TCP, (), [TCP, EMBEDDED, REGION]),
        (Layer.TCP, (Section.DERP,), [TCP, EMBEDDED, trouble("XSTUN01", W)]),
        (Layer.TCP, (), [TCP, trouble("EPD02", W)]),
        (Layer.TCP, (), [TCP, DATABASE]),  # no answer at all is not what a lost database looks like
        # the database is the cause of what Coder answers, and of nothing that somebody else does
        (Layer.DATABASE, (Section.ACCESS_URL,), [HTTP_500, DATABASE]),
        (Layer.HTTP, (), [HTTP_404, DATABASE]),
        (Layer.HTTP, (), [eacs03(Phase.PROCESSING), DATABASE]),
        (Layer.HTTP, (), [HTTP_500, HTTP_404, DATABASE]),
        (Layer.DATABASE, (Section.PROVISIONER_DAEMONS, Section.REPORT), [
            DATABASE, trouble("XPD01", W), trouble("XRPT04", W)]),
        (Layer.DATABASE, (Section.WORKSPACE_PROXY,), [DATABASE, trouble("EWP02")]),
        (Layer.DATABASE, (), [DATABASE, PROXIES]),
        (Layer.DATABASE, (), [DATABASE, ECHO]),
        (Layer.DATABASE, (Section.WEBSOCKET,), [DATABASE, trouble("EWS01", coder_in_trouble=True)]),
        (Layer.DATABASE, (Section.ACCESS_URL, Section.WEBSOCKET, Section.DERP), [
            DATABASE, HTTP_500, trouble("EWS01", coder_in_trouble=True), NO_MAP]),
        # and where Coder itself is lost with it, so is all that hangs on its answers
        (Layer.DATABASE, (Section.ACCESS_URL, Section.WEBSOCKET, Section.DERP), [
            DATABASE, HTTP_500, trouble("EWS01"), trouble("XWS01"), EMBEDDED]),
        (Layer.DATABASE, (Section.ACCESS_URL,), [DATABASE, HTTP_500, REGION]),
        # above it
        (Layer.WEBSOCKET, (Section.DERP,), [ECHO, EMBEDDED]),
        (Layer.WEBSOCKET, (Section.DERP, Section.PROVISIONER_DAEMONS), [ECHO, NO_MAP, trouble("EPD01")]),
        (Layer.WEBSOCKET, (), [ECHO, REGION]),
        (Layer.WEBSOCKET, (), [ECHO, PROXIES]),
        (Layer.RELAY, (), [REGION, PROXIES, LOST]),
        (Layer.PROXY, (Section.DERP,), [LOST, trouble("EWP04", W)]),
        (Layer.PROXY, (Section.DERP,), [LOST, PROXIES]),
    ],
)  # fmt: skip
def test_the_first_of_several_and_what_follows_from_it(
    layer: Layer, consequences: tuple[Section, ...], seen: list[Trouble]
) -> None:
    """In whatever order they are told, one layer is first, and sections follow by the fixed graph."""
    for order in itertools.islice(itertools.permutations(seen), 24):
        found = find_root_cause(order)
        assert found is not None
        assert (layer, consequences) == (found.layer, found.consequences)


@pytest.mark.parametrize(
    ("layer", "phase"),
    [(Layer.DNS, Phase.RESOLVE), (Layer.TCP, Phase.CONNECT), (Layer.TLS, Phase.TLS), (Layer.WEBSOCKET, Phase.TRANSFER)],
)
def test_without_the_access_url_the_websocket_tells(layer: Layer, phase: Phase) -> None:
    """Where the access URL is not probed, the websocket shows which layer below it is broken."""
    found = find_root_cause([trouble("EWS01", phase=phase, reason=Reason.TIMEOUT), NO_MAP], access_url_known=False)
    assert found is not None
    assert (layer, (Section.DERP,)) == (found.layer, found.consequences)


def test_the_sentence_tells_the_layer_and_what_was_seen() -> None:
    """A person reads what is broken, the evidence, and that there is more of it; never a page of it."""
    found = find_root_cause([REGION, REGION, REGION])
    assert found is not None
    assert "DERP relays do not work: XDERP01 was seen (and 2 more)" == found.sentence
    lost = find_root_cause([LOST, PROXIES])
    assert lost is not None
    assert "workspace proxies do not work: XWP02 was seen (and 1 more)" == lost.sentence
    long = find_root_cause([Trouble(section=Section.DATABASE, code="EDB01", severity=E, message="x" * 9999)])
    assert long is not None
    assert len(long.sentence) < 600


_ALL = [DNS, TCP, TLS, HTTP_500, HTTP_404, DATABASE, ECHO, REGION, EMBEDDED, LOST, NO_MAP, PROXIES,
        trouble("EWP04", W), trouble("XPD01", W), trouble("EPD01"), trouble("XRPT04", W)]  # fmt: skip


@given(st.lists(st.sampled_from(_ALL), max_size=8))
def test_a_layer_is_named_when_one_is_broken_and_its_own_section_is_no_consequence(seen: list[Trouble]) -> None:
    """Whatever comes together: a cause is found if any single code breaks a layer; a consequence is a
    section in trouble, and never the one that shows the cause."""
    found = find_root_cause(seen)
    assert any(find_root_cause([one]) for one in seen) == (found is not None)
    if found is None:
        return
    sections = {one.section for one in seen}
    assert set(found.consequences) <= sections
    showing = [one.section for one in seen if (own := find_root_cause([one])) and own.layer is found.layer]
    if found.layer is not Layer.PROXY:  # shown by a region of the proxy, whose section is the consequence
        assert set(showing).isdisjoint(found.consequences)
