"""The cut-off guard: what is suspected, for how long, and what then becomes of what was seen."""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.cut_off import SUSPICION_SECONDS, CutOff, Hold, find_address, look_at
from exporter.errors import Phase, Reason
from exporter.health.access_url import AccessURLResult, FamilyAttempt, URLProblem
from exporter.health.database import DatabaseResult
from exporter.health.derp import DerpResult
from exporter.health.exporter import ExporterResult
from exporter.health.model import Failure, Finding, OffReason, Report, Section, Severity
from exporter.health.replica import ReplicaResult
from exporter.health.report import ReportResult
from exporter.health.settle import Policy
from exporter.health.stun import StunAttempt, StunResult
from exporter.health.websocket import Mode, WebSocketResult
from exporter.health.workspace_proxy import ListedProxy, ProxyResult, ProxyStatus
from exporter.net.host import HostState
from exporter.probes.exporter import HostCheck
from exporter.snapshot import Snapshot, TargetHealth
from exporter.targets.model import SectionKey, TargetKey
from tests.support.clock import FakeClock
from tests.support.relay_results import transport
from tests.support.router import run_behind_a_router

RUNS = itertools.count(1)
GONE = Failure(reason=Reason.TIMEOUT, phase=Phase.CONNECT, message="192.0.2.7:443: out of time while connecting")
NO_ROUTE = Failure(reason=Reason.UNREACHABLE, phase=Phase.CONNECT, message="this host has no way to that address")
NO_NAME_SERVER = Failure(reason=Reason.TIMEOUT, phase=Phase.RESOLVE, message="no answer from any name server")
SERVFAIL = Failure(reason=Reason.RESOLVE, phase=Phase.RESOLVE, message="the name server failed")
NXDOMAIN = Failure(reason=Reason.RESOLVE, phase=Phase.RESOLVE, message="no such name", answered=True)
REFUSED = Failure(reason=Reason.REFUSED, phase=Phase.CONNECT, message="refused")
HANGS = Failure(reason=Reason.TIMEOUT, phase=Phase.PROCESSING, message="out of time waiting for the answer")
OURS = Failure(reason=Reason.INTERNAL, phase=Phase.CONNECT, message="this host has run out of sockets")

FINE = HostState(default_route_ipv4=True, default_route_ipv6=False, interfaces_up=("eth0",))
ROUTELESS = HostState(default_route_ipv4=False, default_route_ipv6=False, interfaces_up=("eth0",))
UNPLUGGED = HostState(default_route_ipv4=False, default_route_ipv6=False, interfaces_up=())
UNKNOWN = HostState()
HERE = HostCheck(state=FINE, asked=True, resolver_answers=True)


def access_url(failure: Failure | None = None, *, looked_up: bool = False, **more: Any) -> AccessURLResult:
    """A run of the access URL: good, failed before a connection, or on one."""
    phases = {Phase.RESOLVE: 0.01} if looked_up else {}
    if failure is not None and failure.phase is Phase.RESOLVE:
        return AccessURLResult(host="c", failure=failure, phase_seconds=phases, measured_timestamp_seconds=0.0, **more)
    attempt = FamilyAttempt(
        family="ipv4",
        address="192.0.2.7",
        phase_seconds={},
        failure=failure,
        status=200 if failure is None else None,
        body_ok=failure is None,
    )
    return AccessURLResult(host="c", attempts=(attempt,), phase_seconds=phases, measured_timestamp_seconds=0.0, **more)


def make_health(
    result: object,
    *,
    name: str = "c",
    deployment: str = "prod",
    section: Section = Section.ACCESS_URL,
    duration: float = 0.1,
) -> TargetHealth:
    return TargetHealth(
        key=TargetKey(section_key=SectionKey(deployment=deployment, section=section), name=name),
        run=next(RUNS),
        interval_seconds=30.0,
        started_timestamp_seconds=0.0,
        duration_seconds=duration,
        result=result,
        report=Report(section=section),
    )


class Guard:
    """A guard with a clock that stands still, and the verdicts it gave."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.verdicts: list[bool] = []
        self.cut_off = CutOff(clock=self.clock, on_verdict=self.verdicts.append)

    def note(self, *results: object, **more: Any) -> Hold:
        return self.cut_off.note([make_health(result, **more) for result in results])


def proxy(failure: Failure | None, **more: Any) -> ProxyResult:
    known: dict[str, Any] = {
        "proxy": ListedProxy(id="1", name="eu", url="https://eu.example.com"),
        "status": ProxyStatus.OK if failure is None else ProxyStatus.UNREACHABLE,
        "failure": failure,
        "address": "192.0.2.8",
        "phase_seconds": {},
        "started_timestamp_seconds": 0.0,
        "duration_seconds": 0.1,
    }
    return ProxyResult(**(known | more))


def websocket(failure: Failure | None, **more: Any) -> WebSocketResult:
    return WebSocketResult(host="c", mode=Mode.DERP_MAP, failure=failure, phase_seconds={}, **more)


def stun(*attempts: StunAttempt, failure: Failure | None = None, by_name: bool = False) -> StunResult:
    known: dict[str, Any] = {"region_id": 1, "region_name": "r", "node": "1a", "host": "s", "port": 3478}
    return StunResult(attempts=attempts, failure=failure, by_name=by_name, **known)


def asked(failure: Failure | None = None, **more: Any) -> StunAttempt:
    return StunAttempt(family="ipv4", address="192.0.2.9", failure=failure, **more)


@pytest.mark.parametrize(
    ("silent", "result"),
    [
        (False, access_url()),
        (True, access_url(GONE)),
        (True, access_url(NO_ROUTE)),
        (True, access_url(NO_NAME_SERVER)),
        (True, access_url(SERVFAIL)),  # a resolver on this host says so, too, when it is cut off
        (False, access_url(NXDOMAIN)),
        (False, access_url(REFUSED)),
        (False, access_url(HANGS)),  # a connection stood
        (False, access_url(Failure(reason=Reason.TLS, phase=Phase.TLS, message="wrong name"))),
        (None, access_url(OURS)),
        (None, access_url(SERVFAIL, url_problem=URLProblem.INVALID)),
        (False, websocket(None, upgraded=True)),
        (False, websocket(None, status=502)),
        (True, websocket(GONE)),
        (True, websocket(NO_NAME_SERVER)),
        (False, websocket(HANGS)),
        (False, DatabaseResult(ping_seconds=(0.001,) * 5, phase_seconds={})),
        (False, DatabaseResult(refused=True, failure=HANGS, phase_seconds={})),
        (True, DatabaseResult(failure=HANGS, phase_seconds={})),  # on a connection that was kept
        (False, DatabaseResult(failure=HANGS, phase_seconds={Phase.CONNECT: 0.001})),
        (True, DatabaseResult(failure=GONE, phase_seconds={})),
        (False, transport(0.01)),
        (True, transport(failure=GONE)),
        (False, transport(failure=GONE, status=403)),
        (False, stun(asked(round_trip_seconds=0.01))),
        (True, stun(asked(HANGS), failure=HANGS)),
        (True, stun(asked(NO_ROUTE, no_route=True))),
        (True, stun(failure=NO_NAME_SERVER)),
        (None, stun()),
        (False, proxy(None)),
        (True, proxy(GONE)),
        (False, proxy(HANGS, healthz_ok=True)),
        (None, proxy(None, address=None, status=ProxyStatus.UNREGISTERED)),
        (False, ReplicaResult(name="a", status=200)),
        (True, ReplicaResult(name="a", failure=GONE)),
        (False, ReportResult(name="a", status=503, failure=HANGS)),
        (True, ReportResult(name="a", failure=NO_NAME_SERVER)),
        (False, ReportResult(name="a", status=404, off=OffReason.NOT_SUPPORTED)),
        (None, ReportResult(name="a", off=OffReason.NO_TOKEN, attempts=0)),
        (None, ReportResult(name="a", status=429, failure=HANGS, attempts=0)),  # not asked again so soon
        (None, DerpResult()),
        (None, ExporterResult()),
        (None, None),
    ],
)
def test_what_a_run_says_of_the_network(silent: bool | None, result: object) -> None:
    """Silent is who got no answer from anybody; who only judges, or failed by itself, says nothing."""
    seen = look_at(result)
    assert silent is (None if seen is None else seen.silent)


@pytest.mark.parametrize(
    ("address", "result"),
    [
        ("192.0.2.7", access_url(GONE)),
        (None, access_url(NO_NAME_SERVER)),
        ("192.0.2.9", stun(asked())),
        ("192.0.2.8", proxy(GONE)),
        ("2001:db8::7", transport(address="2001:db8::7")),
        (None, transport(address="/run/socket")),
        (None, DerpResult()),
    ],
)
def test_where_a_target_was_asked(address: str | None, result: object) -> None:
    """The address of each result is kept for its route, where there was one."""
    assert address == find_address(result)


@pytest.mark.parametrize(
    ("words", "failure", "check"),
    [
        ("no network interface is up", GONE, HostCheck(asked=True, state=UNPLUGGED)),
        ("there is no default route", NO_ROUTE, HostCheck(asked=True, state=ROUTELESS)),
        ("there is no default route", NO_NAME_SERVER, HostCheck(asked=True, state=ROUTELESS, resolver_answers=True)),
        ("every name lookup times out", NO_NAME_SERVER, HostCheck(asked=True, state=FINE, resolver_answers=False)),
        (
            "the reference address r:1 fails, too",
            GONE,
            HostCheck(asked=True, state=FINE, reference="r:1", reference_asked=True, reference_failure=GONE),
        ),
        # the host is fine
        ("", GONE, HERE),
        ("", GONE, HostCheck(asked=True, state=UNKNOWN)),
        ("", NO_NAME_SERVER, HERE),  # another name is answered: theirs is lost, not our resolver
        ("", GONE, HostCheck(asked=True, state=FINE, resolver_answers=False)),  # nobody had to ask for a name
        ("", GONE, HostCheck(asked=True, state=FINE, reference="r:1", reference_asked=True)),
        ("", GONE, HostCheck(asked=True, state=ROUTELESS, reference="r:1", reference_asked=True)),
        ("", GONE, HostCheck(asked=True, state=HostState(
            default_route_ipv4=False, default_route_ipv6=True, interfaces_up=("eth0",)))),
        # a way of its own leads there
        ("", GONE, HostCheck(asked=True, state=HostState(
            default_route_ipv4=False, default_route_ipv6=False, interfaces_up=("eth0",), routed=True))),
        ("", GONE, HostCheck(asked=True, state=HostState(
            default_route_ipv4=False, default_route_ipv6=False, interfaces_up=(), routed=True))),
    ],
)  # fmt: skip
def test_by_what_this_host_shows_it(words: str, failure: Failure, check: HostCheck) -> None:
    """All targets are silent; whether this host is cut off is only what it says itself."""
    guard = Guard()
    assert Hold.DEFERRED is guard.note(access_url(failure))
    sentence = guard.cut_off.judge(check)
    assert (words in sentence, bool(words)) == (True, bool(sentence))
    assert ([not words], bool(words)) == (guard.verdicts, guard.cut_off.is_cut_off)
    assert (Hold.FROZEN if words else Hold.NONE) is guard.note(access_url(failure))


def test_a_lookup_that_was_answered_clears_the_resolver() -> None:
    """Every lookup must have timed out: one that was answered shows a resolver that works."""
    guard = Guard()
    guard.note(access_url(NO_NAME_SERVER))
    guard.note(access_url(GONE, looked_up=True), name="d")
    assert "" == guard.cut_off.judge(HostCheck(asked=True, state=FINE, resolver_answers=False))


@pytest.mark.parametrize("answer", [None, REFUSED, NXDOMAIN, HANGS])
def test_one_answer_clears_this_host(answer: Failure | None) -> None:
    """While anybody answers anything, also no, nothing is held and nothing is looked for."""
    guard = Guard()
    assert Hold.NONE is guard.note(access_url(answer), name="answers")
    assert Hold.NONE is guard.note(access_url(GONE), name="silent")
    assert ((1, 2), False) == ((guard.cut_off.failing, guard.cut_off.targets), guard.cut_off.suspects)
    assert "" == guard.cut_off.judge(HostCheck(asked=True, state=UNPLUGGED))
    assert [] == guard.verdicts


def test_never_by_one_deployment_of_two() -> None:
    """All of one deployment is silent, the other answers: that is an outage."""
    guard = Guard()
    guard.note(access_url(), deployment="stage")
    assert Hold.NONE is guard.note(access_url(GONE), deployment="prod")
    assert Hold.DEFERRED is guard.note(access_url(GONE), deployment="stage")


async def test_a_suspicion_is_over_after_its_time() -> None:
    """Nobody looks at this host: what was held back settles all the same, within the bound."""
    guard = Guard()
    assert Hold.DEFERRED is guard.note(access_url(GONE))
    await guard.clock.advance(SUSPICION_SECONDS - 0.1)
    assert (True, Hold.DEFERRED) == (guard.cut_off.holds, guard.note(access_url(GONE)))
    await guard.clock.advance(0.2)
    assert guard.cut_off.holds is False
    assert (Hold.NONE, [True]) == (guard.note(access_url(GONE)), guard.verdicts)


async def test_an_outage_is_suspected_once() -> None:
    """After this host was found fine, an outage that lasts is held back no more, until somebody answers."""
    guard = Guard()
    guard.note(access_url(GONE))
    guard.cut_off.judge(HERE)
    for _ in range(5):
        await guard.clock.advance(30.0)
        assert Hold.NONE is guard.note(access_url(GONE))
        assert "" == guard.cut_off.judge(HERE)
    assert [True] == guard.verdicts
    guard.note(access_url())
    assert Hold.DEFERRED is guard.note(access_url(GONE))


def test_a_host_that_is_cut_off_later_is_seen() -> None:
    """First an outage, then this host loses its way: from then on nothing settles."""
    guard = Guard()
    guard.note(access_url(GONE))
    guard.cut_off.judge(HERE)
    assert guard.cut_off.judge(HostCheck(asked=True, state=ROUTELESS))
    assert (Hold.FROZEN, [True]) == (guard.note(access_url(GONE)), guard.verdicts)


@pytest.mark.parametrize(
    ("result", "waits"),
    [
        (ReportResult(name="c", status=200, by_name=True), False),
        (ReportResult(name="c", status=200), True),
        (ReplicaResult(name="c", status=200, phase_seconds={Phase.RESOLVE: 0.001}), False),
        (ReplicaResult(name="c", status=200), True),
        (stun(asked(round_trip_seconds=0.01), by_name=True), False),
        (stun(asked(round_trip_seconds=0.01)), True),
    ],
)
async def test_only_who_needs_no_name_speaks_for_this_host_while_lookups_are_lost(result: object, waits: bool) -> None:
    """What runs seldom answered before name servers fell silent. By an address it may answer still; by a name it
    will not."""
    guard = Guard()
    guard.note(result, name="seldom")
    guard.note(access_url())
    await guard.clock.advance(30.0)
    assert Hold.DEFERRED is guard.note(access_url(NO_NAME_SERVER))
    sign = guard.cut_off.judge(HostCheck(asked=True, state=FINE, resolver_answers=False))
    assert waits is (sign == "")


async def test_what_answered_before_is_not_known_yet() -> None:
    """A target that runs seldom answered before the others became silent: nobody waits for it to be silent,
    too, and the first of them already settles nothing."""
    guard = Guard()
    guard.note(ReportResult(name="c", status=200), section=Section.REPORT)
    guard.note(access_url())
    await guard.clock.advance(30.0)
    assert Hold.DEFERRED is guard.note(access_url(GONE))
    assert (1, 2) == (guard.cut_off.failing, guard.cut_off.targets)
    assert guard.cut_off.judge(HostCheck(asked=True, state=ROUTELESS))
    await guard.clock.advance(30.0)
    assert Hold.FROZEN is guard.note(access_url(GONE))
    assert [False] == guard.verdicts
    assert Hold.NONE is guard.note(ReportResult(name="c", status=200), section=Section.REPORT, duration=0.0)
    assert guard.cut_off.is_cut_off is False


async def test_a_sign_that_was_there_before_is_believed() -> None:
    """This host was looked at when its way was lost and nobody had noticed yet: that speaks for the sign."""
    guard = Guard()
    guard.note(access_url())
    guard.note(access_url(), name="d")
    await guard.clock.advance(15.0)
    assert "" == guard.cut_off.judge(HostCheck(state=ROUTELESS))
    await guard.clock.advance(15.0)
    assert Hold.DEFERRED is guard.note(access_url(GONE))
    assert guard.cut_off.judge(HostCheck(asked=True, state=ROUTELESS))


async def test_a_sign_that_answers_disprove_needs_all_targets() -> None:
    """A host that lives without a default route: one silent target is no reason to suspect it, all are."""
    guard = Guard()
    guard.cut_off.judge(HostCheck(state=ROUTELESS))
    await guard.clock.advance(15.0)
    guard.note(access_url())
    guard.note(access_url(), name="d")
    guard.cut_off.judge(HostCheck(state=ROUTELESS))
    await guard.clock.advance(15.0)
    assert Hold.NONE is guard.note(access_url(GONE))
    assert "" == guard.cut_off.judge(HostCheck(asked=True, state=ROUTELESS))
    assert Hold.DEFERRED is guard.note(access_url(GONE), name="d")


async def test_one_broken_target_of_a_fleet_is_suspected_once() -> None:
    """Its silence has this host looked at once; then it settles like any, while the others answer in
    between, until it answered itself."""
    guard = Guard()
    guard.note(access_url(), name="works")
    await guard.clock.advance(15.0)
    assert Hold.DEFERRED is guard.note(access_url(GONE), name="broken")
    guard.cut_off.judge(HERE)
    for _ in range(3):
        await guard.clock.advance(15.0)
        assert Hold.NONE is guard.note(access_url(), name="works")
        await guard.clock.advance(15.0)
        assert Hold.NONE is guard.note(access_url(GONE), name="broken")
        assert guard.cut_off.suspects is False
    assert [True] == guard.verdicts
    guard.note(access_url(), name="broken")
    await guard.clock.advance(15.0)
    assert Hold.DEFERRED is guard.note(access_url(GONE), name="broken")


async def test_an_answer_during_the_run_clears_this_host() -> None:
    """Somebody answered while the silent one was still waited for: nothing is suspected. The answer of a run
    that began before counts only by its end when it was good."""
    guard = Guard()
    await guard.clock.advance(30.0)
    guard.note(access_url(), name="works")
    await guard.clock.advance(5.0)
    assert Hold.NONE is guard.note(access_url(GONE), name="silent", duration=10.0)
    hung = make_health(websocket(HANGS), section=Section.WEBSOCKET, duration=4.0)
    guard.cut_off.note([replace(hung, report=Report(section=Section.WEBSOCKET, failure=HANGS))])
    assert Hold.DEFERRED is guard.note(access_url(GONE), name="other", duration=3.0)


async def test_many_that_break_have_this_host_looked_at_seldom() -> None:
    """One suspicion follows another no sooner than after its own time."""
    guard = Guard()
    for second in range(10):
        await guard.clock.advance(1.0)
        guard.note(access_url(), name="works", duration=0.0)
        await guard.clock.advance(0.1)
        guard.note(access_url(GONE), name=str(second), duration=0.0)
        guard.cut_off.judge(HERE)
    assert [True, True] == guard.verdicts


async def test_names_are_lost_only_when_nobody_does_without() -> None:
    """The resolver is gone, but a target that is reached by its address answered last: this host is no worse
    than it was."""
    guard = Guard()
    lost = HostCheck(asked=True, state=FINE, resolver_answers=False)
    guard.note(access_url(), name="address")
    guard.note(access_url(looked_up=True), name="name")
    await guard.clock.advance(30.0)
    guard.note(access_url(NO_NAME_SERVER), name="name")
    assert "" == guard.cut_off.judge(lost)
    guard.note(access_url(looked_up=True), name="address")
    guard.note(access_url(looked_up=True), name="name")
    await guard.clock.advance(30.0)
    guard.note(access_url(NO_NAME_SERVER), name="name")
    assert "every name lookup times out" == guard.cut_off.judge(lost)


async def test_an_answer_ends_it_at_once() -> None:
    """The first answer after a cut-off counts; what began before does not."""
    guard = Guard()
    guard.note(access_url(GONE))
    guard.note(access_url(GONE), name="d")
    guard.cut_off.judge(HostCheck(asked=True, state=ROUTELESS))
    await guard.clock.advance(60.0)
    assert Hold.NONE is guard.note(access_url(), duration=0.0)
    assert guard.cut_off.is_cut_off is False
    await guard.clock.advance(1.0)
    assert Hold.FROZEN is guard.note(access_url(GONE), name="d", duration=5.0)
    await guard.clock.advance(30.0)
    assert Hold.NONE is guard.note(access_url(GONE), name="d", duration=5.0)


async def test_a_host_that_is_fine_again_waits_for_new_runs() -> None:
    """The way is back before anything ran again: what ran then is forgotten, what runs now counts."""
    guard = Guard()
    relay = {"section": Section.DERP, "name": "1/a/derp"}
    guard.note(access_url(GONE))
    guard.note(transport(failure=GONE), **relay)
    guard.cut_off.judge(HostCheck(asked=True, state=ROUTELESS))
    await guard.clock.advance(60.0)
    assert "" == guard.cut_off.judge(HERE)
    await guard.clock.advance(1.0)
    # a judgement of what relays were then
    assert Hold.FROZEN is guard.note(DerpResult(), section=Section.DERP, name="", duration=0.0)
    assert Hold.NONE is guard.note(transport(failure=GONE), **relay)
    assert Hold.NONE is guard.note(DerpResult(), section=Section.DERP, name="", duration=0.0)


async def test_a_clock_that_is_set_back_holds_up_nothing() -> None:
    """What began during a cut-off is known by the monotonic clock."""
    guard = Guard()
    guard.note(access_url(GONE))
    guard.cut_off.judge(HostCheck(asked=True, state=ROUTELESS))
    guard.note(access_url(), duration=0.0)
    guard.clock.jump_wall_clock(-86400.0)
    await guard.clock.advance(10.0)
    assert Hold.NONE is guard.note(access_url())


def test_a_target_that_leaves_is_not_waited_for() -> None:
    """When the only one that answers leaves, all others are silent; when all leave, nothing is suspected."""
    guard = Guard()
    guard.note(access_url(GONE), name="silent")
    guard.cut_off.judge(HERE)
    guard.note(access_url(), name="answers")
    section = SectionKey(deployment="prod", section=Section.ACCESS_URL)
    guard.cut_off.forget([TargetKey(section_key=section, name="answers")])
    assert (True, True) == (guard.cut_off.suspects, guard.cut_off.holds)
    guard.cut_off.forget([TargetKey(section_key=section, name="silent")])
    assert (0, False, False, ()) == (
        guard.cut_off.targets, guard.cut_off.suspects, guard.cut_off.holds, guard.cut_off.addresses
    )  # fmt: skip


def test_what_is_about_this_exporter_is_never_held() -> None:
    """XEXP01 itself must show while everything else stands still; a token of a deployment does not."""
    guard = Guard()
    guard.note(access_url(GONE))
    own = {"section": Section.EXPORTER, "name": ""}
    assert Hold.NONE is guard.note(ExporterResult(), deployment="", **own)
    assert Hold.DEFERRED is guard.note(object(), deployment="prod", **own)


def test_addresses_outlive_a_name_that_is_lost() -> None:
    """Where a target was last reached is still known when its name cannot be looked up."""
    guard = Guard()
    guard.note(access_url())
    guard.note(access_url(NO_NAME_SERVER))
    assert ("192.0.2.7",) == guard.cut_off.addresses


def test_a_look_from_before_the_suspicion_ends_none() -> None:
    """A look that was under way when the suspicion came has not asked the network: without a sign of the
    kernel's it decides nothing."""
    guard = Guard()
    guard.note(access_url(GONE))
    assert ("", []) == (guard.cut_off.judge(HostCheck(state=FINE)), guard.verdicts)
    assert guard.cut_off.holds is True
    assert (True, [False]) == (bool(guard.cut_off.judge(HostCheck(state=ROUTELESS))), guard.verdicts)


async def test_it_is_looked_at_as_soon_as_it_is_suspected() -> None:
    """A suspicion has this host looked at, and ends with what was found; a look that hangs, or that
    nobody takes, ends it within the bound."""
    guard = Guard()
    looks = 0

    async def look() -> None:
        nonlocal looks
        looks += 1
        if looks == 1:
            guard.cut_off.judge(HostCheck(asked=True, state=ROUTELESS))
        elif looks == 3:
            raise KeyError("nobody is in the schedule")

    async with asyncio.TaskGroup() as group:
        serving = group.create_task(guard.cut_off.serve(look))
        guard.note(access_url(GONE))
        await guard.clock.settle()
        assert ([False], 1) == (guard.verdicts, looks)
        guard.note(access_url())  # it is over: that shows at once, too
        await guard.clock.settle()
        assert 2 == looks
        guard.note(access_url(GONE))
        await guard.clock.settle()
        assert ([False, True], 3) == (guard.verdicts, looks)
        serving.cancel()


async def test_a_look_that_hangs_holds_nothing_for_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a look at this host waits for: in the end what was held back settles."""
    monkeypatch.setattr("exporter.cut_off.SUSPICION_SECONDS", 0.05)
    over: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
    cut_off = CutOff(clock=FakeClock(), on_verdict=over.set_result)
    async with asyncio.TaskGroup() as group:
        serving = group.create_task(cut_off.serve(asyncio.Event().wait))
        assert Hold.DEFERRED is cut_off.note([make_health(access_url(GONE))])
        assert await over is True
        assert cut_off.holds is False
        serving.cancel()


@given(
    st.lists(
        st.tuples(st.sampled_from("abc"), st.sampled_from([None, GONE, REFUSED, NO_NAME_SERVER, OURS, "gone"])),
        max_size=40,
    )
)
def test_counts_follow_by_differences(steps: list[tuple[str, Any]]) -> None:
    """Whatever comes and goes: the counts are those of the latest runs, and only silence of all is suspected."""
    guard = Guard()
    latest: dict[str, bool | None] = {}
    for name, step in steps:
        if step == "gone":
            latest.pop(name, None)
            section = SectionKey(deployment="prod", section=Section.ACCESS_URL)
            guard.cut_off.forget([TargetKey(section_key=section, name=name)])
        else:
            hold = guard.note(access_url(step), name=name)
            latest[name] = None if step is OURS else step in (GONE, NO_NAME_SERVER)
            assert (hold is Hold.NONE) is not guard.cut_off.holds
        known = [silent for silent in latest.values() if silent is not None]
        assert (len(known), sum(known)) == (guard.cut_off.targets, guard.cut_off.failing)
        assert (bool(known) and all(known)) is guard.cut_off.suspects is guard.cut_off.holds


@given(
    runs=st.lists(st.tuples(st.sampled_from(["a", "b"]), st.sampled_from([None, GONE, REFUSED])), max_size=30),
    looked_at_after=st.integers(0, 3),
    raise_after=st.integers(1, 3),
)
def test_on_a_host_that_is_fine_nothing_is_lost(
    runs: list[tuple[str, Failure | None]], looked_at_after: int, raise_after: int
) -> None:
    """Whatever is suspected while this host is fine: once it was looked at, all codes are as they would be
    if nobody had suspected anything, with the same beginning."""
    snapshots = []
    for guarded in (True, False):
        clock, snapshot = FakeClock(), Snapshot()
        section_key = SectionKey(deployment="prod", section=Section.ACCESS_URL)
        snapshot.declare(section_key, (), Policy(raise_after=raise_after, startup_grace_seconds=0.0))

        def thaw(settles: bool, snapshot: Snapshot = snapshot) -> None:
            snapshot.thaw(settles=settles, now=0.0)

        cut_off = CutOff(clock=clock, on_verdict=thaw)
        waiting = 0
        for run, (name, failure) in enumerate(runs, start=1):
            findings = () if failure is None else (Finding(code="EACS03", severity=Severity.ERROR, message="x"),)
            health = TargetHealth(
                key=TargetKey(section_key=section_key, name=name),
                run=run,
                interval_seconds=1.0,
                started_timestamp_seconds=0.0,
                duration_seconds=0.0,
                result=access_url(failure),
                report=Report(section=Section.ACCESS_URL, findings=findings, failure=failure),
            )
            hold = cut_off.note([health]) if guarded else Hold.NONE
            snapshot.commit(name, [health], now=run, elapsed_seconds=run, deferred=hold is Hold.DEFERRED)
            waiting = waiting + 1 if hold is Hold.DEFERRED else 0
            if waiting > looked_at_after:
                cut_off.judge(HERE)
        cut_off.judge(HERE)
        snapshots.append({key: entry.settled for key, entry in snapshot.entries.items()})
    assert snapshots[0] == snapshots[1]


# behind a router, with real probes

_LOOK = """
import asyncio, json, os, subprocess
from exporter.clock import SystemClock
from exporter.cut_off import CutOff, Hold
from exporter.health.access_url import assess
from exporter.health.exporter import ExporterResult, assess_exporter
from exporter.health.model import Section
from exporter.health.settle import Policy
from exporter.probes import access_url, exporter
from exporter.probes.identity import IdentityMemory
from exporter.snapshot import Snapshot, TargetHealth
from exporter.targets.model import AccessURL, AccessURLTarget, ExporterTarget, TargetKey

clock = SystemClock()
target = AccessURLTarget(deployment="prod", section=Section.ACCESS_URL, interval_seconds=1.0, timeout_seconds=0.5,
                         access_url=AccessURL(url="http://203.0.113.9:8080"))
own = ExporterTarget(deployment="", section=Section.EXPORTER, interval_seconds=1.0, timeout_seconds=0.5)
snapshot, memory, run = Snapshot(), IdentityMemory(), 0
for one in (target, own):
    snapshot.declare(one.section_key, (), Policy(startup_grace_seconds=0.0))
verdicts = []
def take(settles):
    verdicts.append(settles)
    snapshot.thaw(settles=settles, now=clock.now())
guard = CutOff(clock=clock, on_verdict=take)

def commit(one, name, result, report):
    global run
    run += 1
    health = TargetHealth(key=TargetKey(section_key=one.section_key, name=name), run=run, interval_seconds=1.0,
                          started_timestamp_seconds=clock.now(), duration_seconds=0.0, result=result, report=report)
    hold = guard.note([health])
    snapshot.commit(one.schedule_name, [health], now=clock.now(), elapsed_seconds=clock.monotonic(),
                    frozen=hold is Hold.FROZEN, deferred=hold is Hold.DEFERRED)
    return hold.value

async def measure():
    result = await access_url.probe(target, clock=clock, memory=memory)
    report = assess(result, certificate_warning_seconds=0.0, certificate_error_seconds=0.0)
    return commit(target, "c", result, report)

async def look():
    check = await exporter.probe(own, clock=clock, suspects=guard.suspects, addresses=guard.addresses)
    result = ExporterResult(cut_off=guard.judge(check), failing=guard.failing, targets=guard.targets)
    commit(own, "", result, assess_exporter(result))
    return result.cut_off

def active():
    return sorted(code for entry in snapshot.entries.values() for code in entry.active)

async def main():
    told = {}
    async def step(name, *commands, runs=2):
        for command in commands:
            subprocess.run(command.split(), check=True)
        verdicts.clear()
        holds, signs = [], []
        for _ in range(runs):
            holds.append(await measure())
            signs.append(await look())
        told[name] = [holds, signs, list(verdicts), active()]
    await step("works")
    await step("cut off", "ip route del default", runs=3)
    await step("back", "ip route add default via 192.0.2.254")
    enter = "nsenter --target " + os.environ["ROUTER"] + " --net "
    gone = ("ip address del 203.0.113.9/32 dev lo", "ip route add blackhole 203.0.113.9/32")
    await step("outage", *(enter + command for command in gone))
    await step("cut off, too", "ip route del default")
    print(json.dumps(told))
asyncio.run(main())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="network namespaces are Linux's")
async def test_a_default_route_that_comes_and_goes(need_tool: Callable[[str], str]) -> None:
    """With real probes in a real network: without its default route this host is cut off and nothing but
    XEXP01 settles; with it, a real outage settles with its second run, as if nobody had suspected anything."""
    sign = "there is no default route, neither for IPv4 nor for IPv6"
    assert {
        "works": [["none", "none"], ["", ""], [], []],
        "cut off": [["deferred", "frozen", "frozen"], [sign] * 3, [False], ["XEXP01"]],
        "back": [["none", "none"], ["", ""], [], []],
        "outage": [["deferred", "none"], ["", ""], [True], ["EACS03"]],
        "cut off, too": [["none", "frozen"], [sign, sign], [], ["EACS03", "XEXP01"]],
    } == json.loads(await run_behind_a_router(_LOOK, need_tool))
