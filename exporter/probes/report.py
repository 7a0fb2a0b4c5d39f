"""Coder's own report, as one replica gives it. In: a target. Out: a `ReportResult`. Never judges.

A replica is asked without the token who it is, each time, and gets it only at that same IP address.

It is never forced: a forced report costs Coder a whole round of its own checks. A round that is not
over after 30 s answers 503, and what was found is in the cache some seconds later.

Source: coder-interfaces, sections 2.8 and 8.2
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field, replace

from exporter.clock import Clock
from exporter.errors import ProbeError, WireError
from exporter.health.coder_report import CoderReport
from exporter.health.model import REPORT_SECTIONS, Failure, OffReason
from exporter.health.report import Refusal, ReportResult
from exporter.net import coder_json
from exporter.net.coder_report import parse_report
from exporter.probes.coder_answer import CONNECT_SECONDS, Answer, BackOff, Kind, ask, find_origin, tell_no_json
from exporter.secret import Secret
from exporter.targets.model import ReportTarget
from exporter.targets.replica_identity import StrangerError, identify
from exporter.targets.token_source import NoTokenError, read_token
from exporter.wire.url import Origin, is_address, parse_origin

REPORT_PATH = "/api/v2/debug/health"
ORGANIZATIONS_PATH = "/api/v2/organizations"
# A report of 200 regions has some MB.
MAX_BODY_BYTES = 16 << 20
MAX_ORGANIZATIONS_BYTES = 4 << 20
# Coder itself gives up after 30 s.
REQUEST_SECONDS = 40.0
# Of requests that fail without Coder being still at it.
MAX_ATTEMPTS = 2
# With less time left than this, one more request would only hide what the last one said.
MIN_REQUEST_SECONDS = 1.0
# A report that is still in the cache tells nothing after so many intervals beyond its refresh time.
HELD_INTERVALS = 3
# A report says the ids of organizations only; their names are asked for no more often than this.
ORGANIZATIONS_SECONDS = 600.0
# Clocks of one server and of its front differ by so much without anybody having set one.
CLOCK_TOLERANCE_SECONDS = 60.0


@dataclass(slots=True, kw_only=True)
class ReportMemory:
    """What is kept of a replica from one poll to the next."""

    newest_timestamp_seconds: float | None = None
    digest: int | None = None  # of the last report, when it told no time
    version: str = ""  # of Coder, by the last report that told it
    sections: frozenset[str] = frozenset()  # those that we know of all reports of that version
    shown: tuple[str, ...] = ()  # all that were shown of the last report
    read_monotonic_seconds: float | None = None
    age_seconds: float = 0.0  # of the last report, when it came
    organizations: dict[str, str] = field(default_factory=dict)
    organizations_monotonic_seconds: float | None = None
    back_off: BackOff = field(default_factory=BackOff)

    def take(self, report: CoderReport, body: bytes, now_seconds: float, clock: Clock) -> tuple[bool, float | None]:
        """Note a report that came now; return whether it is a new one, and its age.

        A report is new when its time is newer than any before. One without a time that can be read
        (missing, zero, no time at all) is new unless the last report was the same, byte by byte.

        Args:
            body: What the report was read from.
            now_seconds: The time of the answer, by the clock of the report.
        """
        self.read_monotonic_seconds = clock.monotonic()
        timestamp_seconds = report.timestamp_seconds
        before, self.digest = self.digest, hash(body) if timestamp_seconds is None else None
        if timestamp_seconds is None:
            self.age_seconds = 0.0
            return self.digest != before, None
        self.age_seconds = max(0.0, now_seconds - timestamp_seconds)
        newest = self.newest_timestamp_seconds
        # what is newer than now was told by a clock that has been set back since
        set_back = newest is not None and newest > now_seconds + CLOCK_TOLERANCE_SECONDS
        distinct = newest is None or timestamp_seconds > newest or (set_back and timestamp_seconds != newest)
        if distinct:
            self.newest_timestamp_seconds = timestamp_seconds
        return distinct, self.age_seconds

    def is_outdated(self, report: CoderReport) -> bool:
        """Return whether a newer one was seen before: another replica behind one name gave it."""
        newest, timestamp_seconds = self.newest_timestamp_seconds, report.timestamp_seconds
        return newest is not None and timestamp_seconds is not None and timestamp_seconds < newest

    def expect(self, report: CoderReport) -> tuple[str, ...]:
        """Note which sections a report has; return those that the reports before had. Another version
        of Coder may have others."""
        if report.version and report.version != self.version:
            self.version, self.sections = report.version, frozenset()
        before = self.sections
        self.sections |= {section.name for section in report.sections if section.name in REPORT_SECTIONS}
        return tuple(section.value for section in REPORT_SECTIONS if section in before)

    def held_seconds(self, clock: Clock) -> float | None:
        """Return how old the last report is by now; None when there never was one."""
        if self.read_monotonic_seconds is None:
            return None
        return self.age_seconds + clock.monotonic() - self.read_monotonic_seconds


async def probe(target: ReportTarget, *, memory: ReportMemory, clock: Clock, refresh_seconds: float) -> ReportResult:
    """Read the report, again and again while Coder is still at it, within the target's timeout.

    Args:
        memory: Of this replica; the same for each of its polls.
        refresh_seconds: For how long Coder keeps a report in its cache.
    """
    deadline = clock.monotonic() + target.timeout_seconds
    blank = ReportResult(
        name="" if target.replica is None else target.replica.name,
        refresh_seconds=refresh_seconds,
        hold_limit_seconds=refresh_seconds + HELD_INTERVALS * target.interval_seconds,
        attempts=0,
    )
    result = await _read(target, blank, memory, deadline, clock)
    return replace(result, held_seconds=memory.held_seconds(clock), organizations=dict(memory.organizations))


async def _read(
    target: ReportTarget, blank: ReportResult, memory: ReportMemory, deadline: float, clock: Clock
) -> ReportResult:
    if target.session_token is None:
        return replace(blank, off=OffReason.NO_TOKEN)
    try:
        origin = await find_origin(target.access_url)
        blank = replace(blank, name=blank.name or origin.host)
        via = None if target.replica is None else parse_origin(target.replica.url)
        blank = replace(blank, by_name=not is_address((via or origin).host))
        answer, token, attempts = await _ask_until_answered(target, origin, via, memory.back_off, deadline, clock)
    except NoTokenError as error:
        return replace(blank, off=OffReason.NO_TOKEN, failure=Failure.of(error))
    except ProbeError as error:
        return replace(blank, failure=Failure.of(error))
    except WireError as error:
        return replace(blank, failure=Failure.of(ProbeError(f"the URL of the replica is none: {error}")))
    memory.back_off.note(answer, target.interval_seconds, clock)
    result = replace(blank, status=answer.exchange.status, attempts=attempts, failure=answer.failure)
    match answer.kind:
        case Kind.GOOD:
            if via is not None:
                via = replace(via, host=answer.exchange.address)
            return await _take(result, answer, origin, via, token, target, memory, deadline, clock)
        case Kind.SIGNED_OUT:
            return replace(result, refusal=Refusal.SIGNED_OUT)
        case Kind.FORBIDDEN:
            return replace(result, refusal=Refusal.FORBIDDEN)
        case Kind.NO_ROUTE:
            return replace(result, off=OffReason.NOT_SUPPORTED, failure=None)
        case kind:
            return replace(result, internal_error=kind is Kind.INTERNAL)


async def _ask_until_answered(
    target: ReportTarget, origin: Origin, via: Origin | None, back_off: BackOff, deadline: float, clock: Clock
) -> tuple[Answer, Secret, int]:
    """Return the last answer, the token it was given to, and how many requests that took.

    Raises:
        NoTokenError: The token's file cannot be used.
        ProbeError: The replica does not say that it is one.
    """
    assert target.session_token is not None
    attempts = 0
    while True:
        # each time anew: while we wait it may be rotated, and the old one revoked
        token = await read_token(target.session_token)
        # so may an address be given to somebody else
        limited = back_off.left_seconds(clock) > 0
        at = via if via is None or limited else await _recognise(via, origin, target, deadline, clock)
        answer = await ask(
            origin,
            REPORT_PATH,
            token=token,
            deadline_seconds=min(deadline, clock.monotonic() + REQUEST_SECONDS),
            clock=clock,
            ca_file=target.ca_file,
            max_body_bytes=MAX_BODY_BYTES,
            via=at,
            back_off=back_off,
        )
        attempts += answer.asked
        left_seconds = deadline - clock.monotonic() - target.reread_after_seconds
        # Coder may be at it for long; what fails otherwise does so twice, and then that is told
        again = answer.worth_repeating and (answer.kind is Kind.PENDING or attempts < MAX_ATTEMPTS)
        if not again or left_seconds < MIN_REQUEST_SECONDS:
            break
        await clock.sleep(target.reread_after_seconds)
    if attempts > 1 and answer.failure is not None:
        answer = replace(
            answer, failure=replace(answer.failure, message=f"{answer.failure.message} ({attempts} attempts)")
        )
    return answer, token, attempts


async def _recognise(
    replica: Origin, access_origin: Origin, target: ReportTarget, deadline: float, clock: Clock
) -> Origin:
    """Return the replica at the IP address where it says that it is one of the deployment.

    Raises:
        ProbeError: It does not say so.
    """
    met = await identify(
        replica,
        access_origin,
        ca_file=target.ca_file,
        clock=clock,
        deadline_seconds=min(deadline, clock.monotonic() + CONNECT_SECONDS),
    )
    if not met.is_of(target.deployment_id):
        who = "a workspace proxy" if met.identity.workspace_proxy else "another deployment"
        raise StrangerError(f"{replica} says that it is {who}, and does not get the token")
    return replace(replica, host=met.address)


async def _take(
    result: ReportResult,
    answer: Answer,
    origin: Origin,
    via: Origin | None,
    token: Secret,
    target: ReportTarget,
    memory: ReportMemory,
    deadline: float,
    clock: Clock,
) -> ReportResult:
    now_seconds = answer.read_now(clock)
    try:
        report = await parse_report(answer.body)
    except WireError as error:
        return replace(result, failure=tell_no_json(REPORT_PATH, "health report", error, token))
    distinct, age_seconds = memory.take(report, answer.body, now_seconds, clock)
    if _lacks_names(report, memory, clock):
        await _read_organizations(origin, via, token, target, memory, deadline, clock)
    return replace(
        result,
        report=report,
        distinct=distinct,
        age_seconds=age_seconds,
        outdated=not distinct and memory.is_outdated(report),
        observation=report.timestamp_seconds if memory.digest is None else ("digest", memory.digest),
        expected=memory.expect(report),
        shown=memory.shown,
    )


def _lacks_names(report: CoderReport, memory: ReportMemory, clock: Clock) -> bool:
    ids = {daemon.organization_id for daemon in report.daemons or ()}
    asked = memory.organizations_monotonic_seconds
    due = asked is None or clock.monotonic() - asked >= ORGANIZATIONS_SECONDS
    return due and not ids - {""} <= memory.organizations.keys()


async def _read_organizations(
    origin: Origin,
    via: Origin | None,
    token: Secret,
    target: ReportTarget,
    memory: ReportMemory,
    deadline: float,
    clock: Clock,
) -> None:
    """Learn the names, if they are to be had: without them the ids do."""
    memory.organizations_monotonic_seconds = clock.monotonic()
    answer = await ask(
        origin,
        ORGANIZATIONS_PATH,
        token=token,
        deadline_seconds=min(deadline, clock.monotonic() + REQUEST_SECONDS / 4),
        clock=clock,
        ca_file=target.ca_file,
        max_body_bytes=MAX_ORGANIZATIONS_BYTES,
        via=via,
    )
    if answer.kind is not Kind.GOOD:
        return
    with contextlib.suppress(WireError):
        memory.organizations = {one.id: one.name for one in coder_json.parse_organizations(answer.body)}
