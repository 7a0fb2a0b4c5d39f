"""Is this exporter's own host cut off? Then everything fails at once, and says nothing of Coder.

In: every finished run, before it settles, and what this host says of itself (`HostCheck`). Out: how a
round is to be taken (`Hold`), and one sentence for XEXP01.

    working    --nobody answers any more-->    suspected    --the host says so-->    cut off
       ^                                           |                                    |
       |         the host is fine, or five seconds are over                             |
       +-------<-- blamed on the targets <---------+------ an answer, or the host is fine again

A target is silent when nobody answered anything: neither a refused connection, nor a status, nor a name
server that knows no such name. Nobody answers any more when one became silent and no other answered since
that run began: what answered before is not known yet, for it may not run again for minutes, and by then
much would have settled. A target by whose silence this host was suspected once is blamed, and gives rise to
no suspicion again until it answers: one that is broken in a fleet that works holds nothing up. What was
held back while it was suspected settles as if nothing had been, once the host turns out to be fine; never
once it turns out to be cut off.

Source: contract, section 8, Cut off
"""

from __future__ import annotations

import asyncio
import ipaddress
import math
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from functools import lru_cache

from exporter.clock import Clock
from exporter.errors import Phase, Reason
from exporter.health.access_url import AccessURLResult
from exporter.health.database import DatabaseResult
from exporter.health.derp import TransportResult
from exporter.health.model import Failure, OffReason
from exporter.health.replica import ReplicaResult
from exporter.health.report import ReportResult
from exporter.health.stun import StunResult
from exporter.health.websocket import WebSocketResult
from exporter.health.workspace_proxy import ProxyResult
from exporter.probes.exporter import HostCheck
from exporter.snapshot import TargetHealth
from exporter.targets.model import SectionKey, TargetKey

# How long a suspicion may hold anything back.
SUSPICION_SECONDS = 5.0
# How many addresses the kernel is asked for.
_MAX_ADDRESSES = 16


class Hold(Enum):
    """How a round is to be taken."""

    NONE = "none"
    DEFERRED = "deferred"  # it settles when the suspicion is over, or never
    FROZEN = "frozen"  # it never settles


class _State(Enum):
    WORKING = "working"
    SUSPECTED = "suspected"
    BLAMED = "blamed"  # nobody answers, and it is not this host's fault
    CUT_OFF = "cut off"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seen:
    """What the latest run of a target says of the network. `looked_up` is None when it asked for no name,
    False when nobody answered. `began_monotonic` is when the run began, of one that is silent."""

    silent: bool
    looked_up: bool | None = None
    began_monotonic: float = 0.0


class CutOff:
    """Counts targets that are silent, and keeps what was found out of this host.

    Args:
        on_verdict: Called when a suspicion is over: with True when what was held back settles now, with
            False when it never does.
    """

    def __init__(self, *, clock: Clock, on_verdict: Callable[[bool], None] = lambda settles: None) -> None:
        self._clock = clock
        self._on_verdict = on_verdict
        self._seen: dict[TargetKey, _Seen] = {}
        self._addresses: dict[TargetKey, str] = {}
        self._silent: dict[TargetKey, _Seen] = {}
        # silent since a run that began after the last answer, and not blamed for it before
        self._news: dict[TargetKey, float] = {}
        self._blamed: set[TargetKey] = set()
        self._answered_monotonic = -math.inf
        self._sign_monotonic: float | None = None  # since when this host has shown a sign at each look
        self._cleared_monotonic = -math.inf
        self._state = _State.WORKING
        self._suspected_monotonic = 0.0
        self._ended_monotonic: float | None = None
        self._look_wanted = asyncio.Event()
        # targets that have not run again since this host was cut off
        self._stale: dict[SectionKey, set[TargetKey]] = {}

    @property
    def targets(self) -> int:
        """How many targets measure something on the network."""
        return len(self._seen)

    @property
    def failing(self) -> int:
        """How many of them are silent."""
        return len(self._silent)

    @property
    def suspects(self) -> bool:
        """Whether nobody answers any more, as far as is known by now."""
        return self._all_silent or (bool(self._news) and not self._sign_is_doubtful)

    @property
    def _sign_is_doubtful(self) -> bool:
        """Whether somebody answered though this host shows a sign: then only all together count."""
        return self._sign_monotonic is not None and self._answered_monotonic > self._sign_monotonic

    @property
    def _all_silent(self) -> bool:
        return 0 < len(self._silent) == len(self._seen)

    @property
    def is_cut_off(self) -> bool:
        return self._state is _State.CUT_OFF

    @property
    def holds(self) -> bool:
        """Whether nothing may settle now. A suspicion holds nothing for longer than SUSPICION_SECONDS."""
        if self._state is _State.SUSPECTED:
            return self._clock.monotonic() - self._suspected_monotonic < SUSPICION_SECONDS
        return self._state is _State.CUT_OFF

    @property
    def addresses(self) -> tuple[str, ...]:
        """Where targets were reached last, a few of them: the kernel is asked for their routes."""
        return tuple(dict.fromkeys(self._addresses.values()))[:_MAX_ADDRESSES]

    def note(self, healths: Sequence[TargetHealth]) -> Hold:
        """Take a finished round, before it is committed, and return how it is to be taken. What is about
        this exporter itself is never held."""
        if all(not health.key.section_key.deployment for health in healths):
            return Hold.NONE
        measured = False
        spent = max(health.duration_seconds for health in healths)
        began = self._clock.monotonic() - spent
        for health in healths:
            seen = look_at(health.result)
            if seen is not None:
                measured = True
                if seen.silent:
                    seen = replace(seen, began_monotonic=began)
            self._replace(health.key, seen)
            if seen is not None and not seen.silent:
                # of a run that failed later nobody knows when the answer was
                self._hear(began if health.report.failure is not None else began + health.duration_seconds)
            address = find_address(health.result)
            if address is not None:
                self._addresses[health.key] = address
        self._move()
        hold = self._hold()
        if hold is Hold.NONE and self._is_of_the_past(healths, measured=measured):
            return Hold.FROZEN
        return hold

    def forget(self, keys: Iterable[TargetKey]) -> None:
        """Leave out targets that are gone."""
        for key in keys:
            self._replace(key, None)
            self._blamed.discard(key)
            self._addresses.pop(key, None)
        self._move()

    def judge(self, check: HostCheck) -> str:
        """Say by what this host shows that it is cut off; empty when it is not. Ends a suspicion, unless
        this host was looked at before there was one, and so without asking the network."""
        sign = self._find_sign(check)
        if not sign:
            self._sign_monotonic = None
        elif self._sign_monotonic is None:
            self._sign_monotonic = self._clock.monotonic()
        if not self.suspects:
            return ""
        if sign:
            was_suspected = self._state is _State.SUSPECTED
            self._state = _State.CUT_OFF
            if was_suspected:
                self._on_verdict(False)
        elif check.asked and self._state is _State.CUT_OFF:
            self._end_cut_off(_State.BLAMED)
        elif check.asked and self._state is _State.SUSPECTED:
            self._clear()
        return sign

    async def serve(self, look: Callable[[], Awaitable[object]]) -> None:
        """Look at this host as soon as it is suspected, and when somebody answers again, until cancelled.

        Args:
            look: Has this host looked at and `judge` called; it may fail by KeyError when nobody looks.
        """
        while True:
            await self._look_wanted.wait()
            self._look_wanted.clear()
            try:
                async with asyncio.timeout(SUSPICION_SECONDS):
                    await look()
                    if self._state is _State.SUSPECTED:
                        await look()  # the first one may have been under way already
            except (TimeoutError, KeyError):
                pass
            if self._state is _State.SUSPECTED:
                self._clear()

    # states

    def _hold(self) -> Hold:
        if self._state is _State.CUT_OFF:
            return Hold.FROZEN
        if self._state is _State.SUSPECTED:
            if self._clock.monotonic() - self._suspected_monotonic < SUSPICION_SECONDS:
                return Hold.DEFERRED
            self._clear()
        return Hold.NONE

    def _hear(self, monotonic_seconds: float) -> None:
        """Take an answer: whoever was silent since before is so by himself."""
        self._answered_monotonic = max(self._answered_monotonic, monotonic_seconds)
        over = [key for key, began in self._news.items() if began <= self._answered_monotonic]
        for key in over:
            del self._news[key]
        if self._state in (_State.SUSPECTED, _State.CUT_OFF):
            self._blamed.update(over)

    def _move(self) -> None:
        if self.suspects:
            if self._may_suspect():
                self._state = _State.SUSPECTED
                self._suspected_monotonic = self._clock.monotonic()
                self._look_wanted.set()
            return
        if self._state is _State.CUT_OFF:
            self._end_cut_off(_State.WORKING)
            self._look_wanted.set()  # so that XEXP01 is over at once, too
        elif self._state is _State.SUSPECTED:
            self._clear()
        self._state = _State.WORKING

    def _may_suspect(self) -> bool:
        if self._state is _State.WORKING and self._all_silent:
            return True
        if self._state not in (_State.WORKING, _State.BLAMED) or not self._news:
            return False
        # many that break one after another have this host looked at again and again, but not all the time
        return self._clock.monotonic() - self._cleared_monotonic >= SUSPICION_SECONDS

    def _blame(self) -> None:
        self._blamed.update(self._silent)
        self._news.clear()

    def _clear(self) -> None:
        self._state = _State.BLAMED
        self._cleared_monotonic = self._clock.monotonic()
        self._blame()
        self._look_wanted.clear()
        self._on_verdict(True)

    def _end_cut_off(self, state: _State) -> None:
        self._state = state
        self._ended_monotonic = self._clock.monotonic()
        self._blame()
        self._stale = {}
        for key in self._silent:
            self._stale.setdefault(key.section_key, set()).add(key)

    def _is_of_the_past(self, healths: Sequence[TargetHealth], *, measured: bool) -> bool:
        """Whether a round still tells of the time when this host was cut off: it began then, or it judges
        results of then."""
        if self._ended_monotonic is None:
            return False
        if not measured and any(health.key.section_key in self._stale for health in healths):
            return True
        spent = max((health.duration_seconds for health in healths), default=0.0)
        return self._clock.monotonic() - spent < self._ended_monotonic

    def _replace(self, key: TargetKey, seen: _Seen | None) -> None:
        for known in (self._seen, self._silent, self._news):
            known.pop(key, None)
        if seen is not None:
            self._seen[key] = seen
            if not seen.silent:
                self._blamed.discard(key)
            else:
                self._silent[key] = seen
                if key not in self._blamed and seen.began_monotonic > self._answered_monotonic:
                    self._news[key] = seen.began_monotonic
        stale = self._stale.get(key.section_key)
        if stale is not None:
            stale.discard(key)
            if not stale:
                del self._stale[key.section_key]

    # signs

    def _find_sign(self, check: HostCheck) -> str:
        state = check.state
        reached = check.reference_asked and check.reference_failure is None
        # the kernel would send to a target, or the reference answers: then no route is missing
        if not state.routed and not reached:
            if state.interfaces_up == ():
                return "no network interface is up besides loopback"
            if state.default_route_ipv4 is False and state.default_route_ipv6 is False:
                return "there is no default route, neither for IPv4 nor for IPv6"
        if check.reference_asked and check.reference_failure is not None:
            return f"the reference address {check.reference} fails, too: {check.reference_failure.message}"
        if check.resolver_answers is False and self._loses_names():
            return "every name lookup times out"
        return ""

    def _loses_names(self) -> bool:
        """Whether every lookup since the last answer is lost, and nobody does without: who needs no name
        and answered last may do so still."""
        lookups = {one.looked_up for one in self._silent.values() if one.began_monotonic > self._answered_monotonic}
        if self._all_silent:
            lookups = {one.looked_up for one in self._silent.values()}
        elif any(one.looked_up is None and not one.silent for one in self._seen.values()):
            return False
        return False in lookups and True not in lookups


# what a result says of the network

_ANSWERED = {looked_up: _Seen(silent=False, looked_up=looked_up) for looked_up in (None, True, False)}

# Of these somebody has answered.
_CONNECTED = frozenset({Phase.TLS, Phase.PROCESSING, Phase.TRANSFER})
_ANSWERS = frozenset({Reason.REFUSED, Reason.TLS, Reason.PROTOCOL, Reason.STATUS, Reason.BODY, Reason.AUTH})


def look_at(result: object) -> _Seen | None:
    """Return what a result says of the network; None when it says nothing: it only judges what others
    measured, or this exporter itself failed."""
    match result:
        case AccessURLResult(url_problem=None):
            return _look_at_access_url(result)
        case WebSocketResult():
            return _look(result.failure, result.phase_seconds, answered=result.upgraded or result.status is not None)
        case DatabaseResult():
            # a ping on a connection that is kept may be lost, too
            connected = Phase.CONNECT in result.phase_seconds
            answered = result.refused or bool(result.ping_seconds)
            return _look(result.failure, result.phase_seconds, answered=answered or connected, connects=False)
        case TransportResult():
            return _look(result.failure, result.phase_seconds, answered=result.status is not None)
        case StunResult(failure=None, attempts=()):
            return None  # the map switches it off
        case StunResult(no_route=True):
            return _Seen(silent=True)
        case StunResult():
            return _look(result.failure, _looked_up(result.by_name), answered=result.up, connects=False)
        case ProxyResult(address=None, failure=None):
            return None  # it was not asked
        case ProxyResult():
            return _look(result.failure, result.phase_seconds, answered=result.healthz_ok is True)
        case ReplicaResult():
            return _look(result.failure, result.phase_seconds, answered=result.status is not None)
        case ReportResult(off=OffReason.NO_TOKEN) | ReportResult(attempts=0, status=int()):
            return None  # nobody was asked: there is no token, or Coder told us to wait
        case ReportResult():
            return _look(result.failure, _looked_up(result.by_name), answered=result.status is not None)
    return None


def find_address(result: object) -> str | None:
    """Return the IP address that a target was asked at; None when there was none."""
    address = getattr(result, "address", None)
    if isinstance(result, AccessURLResult) and result.attempts and not address:
        address = result.attempts[0].address
    if isinstance(result, StunResult) and result.attempts:
        address = result.attempts[0].address
    if not isinstance(address, str):
        return None
    return _read_address(address)


@lru_cache(maxsize=4096)
def _read_address(address: str) -> str | None:
    """Each run of each target has one, mostly that of the run before."""
    text = address.removeprefix("[").partition("]")[0] if address.startswith("[") else address
    try:
        return str(ipaddress.ip_address(text.partition("%")[0]))
    except ValueError:
        return None


def _look_at_access_url(result: AccessURLResult) -> _Seen | None:
    if result.failure is not None:
        return _look(result.failure, result.phase_seconds)
    known = None
    for attempt in result.attempts:
        # one lookup for all of them
        seen = _look(attempt.failure, result.phase_seconds, answered=attempt.status is not None)
        if seen is not None and not seen.silent:
            return seen
        known = known or seen
    return known


def _looked_up(by_name: bool) -> Mapping[Phase, float]:
    return {Phase.RESOLVE: 0.0} if by_name else {}


def _look(
    failure: Failure | None, phases: Mapping[Phase, float], *, answered: bool = False, connects: bool = True
) -> _Seen | None:
    """`connects`: each run opens a TCP connection, so a failure of a later phase shows that one stood."""
    looked_up = True if Phase.RESOLVE in phases else None
    if failure is None:
        return _ANSWERED[looked_up]
    if failure.phase is Phase.RESOLVE:
        looked_up = failure.reason is not Reason.TIMEOUT
    answered = answered or failure.answered or failure.reason in _ANSWERS
    if answered or (connects and failure.phase in _CONNECTED):
        return _ANSWERED[looked_up]
    return None if failure.reason is Reason.INTERNAL else _Seen(silent=True, looked_up=looked_up)
