"""The replicas of coderd of one deployment: found, adopted, polled, and forgotten when they are gone.

In: where replicas are found, and what was seen of them. Out: the targets to be in the schedule now.

Before anything with a token is sent to a replica it was asked without one who it is: neither a workspace
proxy nor another deployment ever gets it, and nobody while it is not known which deployment this is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from exporter.clock import Clock
from exporter.errors import Phase, ProbeError, Reason, WireError
from exporter.health.model import Failure, Section
from exporter.health.replica import MAX_REPLICAS, ListedReplica, ReplicaResult
from exporter.health.workspace_proxy import ListedProxy
from exporter.log import get_logger
from exporter.snapshot import Snapshot
from exporter.targets.model import (
    HTTPTarget,
    Replica,
    ReplicaSource,
    ReplicaTarget,
    ReportTarget,
    Target,
    TargetKey,
)
from exporter.targets.replica_identity import Introduction, StrangerError, identify
from exporter.targets.replica_names import Place, find_place, name_replicas
from exporter.targets.replica_watch import (
    Candidate,
    ReadTable,
    ReplicaWatch,
    Sighting,
)
from exporter.wire.url import Origin, parse_origin

# Who is missing in so many lists in a row is gone.
GONE_AFTER = 2
# While the sources have been silent for longer, a replica that nobody configured and that does not
# answer is taken for gone, too: addresses of pods are given to others.
KEPT_INTERVALS = 5
# How many replicas are asked at a time who they are.
_ASKED_AT_ONCE = 10

WORKSPACE_PROXY = "workspace_proxy"
OTHER_DEPLOYMENT = "other_deployment"
_WHO = {WORKSPACE_PROXY: "a workspace proxy", OTHER_DEPLOYMENT: "of another deployment"}

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownReplica:
    """A replica as it is known now.

    Args:
        name: The label `coder_replica`.
        url: Where it answers.
        adopted: It is probed. One that was found in the table or the API is not, until it has answered
            us once as Coder does: from here it may be out of reach.
        trusted: It has said that it is one of this deployment, and is asked for its report.
        refused: Why it will never be: `workspace_proxy` or `other_deployment`; empty else.
        misplaced: It is refused, and probed all the same, as a failure: its URL was written down.
        row: What Coder lists of it; None where that is not known.
    """

    name: str
    url: str
    adopted: bool
    trusted: bool
    refused: str = ""
    misplaced: bool = False
    row: ListedReplica | None = None


@dataclass(slots=True, kw_only=True)
class _Entry:
    """What is remembered of one place. `name` outlives the row that told it: a replica that dies stops to
    write its row, and must not be called otherwise just then. `came` is the look at which it was found,
    `missed` the first of those in a row at which it was missing; `reached` that it answered as Coder; `held`
    that its row tells that it is there, or should be."""

    candidate: Candidate
    name: str
    came: int
    missed: int = 0
    missing: int = 0
    reached: bool = False
    held: bool = False
    trusted: bool = False
    refused: str = ""

    @property
    def adopted(self) -> bool:
        return not self.refused and (self.candidate.configured or self.reached)

    @property
    def misplaced(self) -> bool:
        """Its URL was written down, and somebody else answers there. That must be seen, or whoever wrote it
        sees nothing at all; that proxies have that address is known without asking there."""
        return bool(self.refused) and self.candidate.written and not self.candidate.proxy

    @property
    def stopped(self) -> bool:
        """Its row says that it does not run any more, and is not missed."""
        return self.candidate.row is not None and not self.candidate.row.running and not self.held

    @property
    def row_place(self) -> Place | None:
        """Where its row says that it is, which need not be where it was found."""
        row = self.candidate.row
        with suppress(WireError):
            return None if row is None else find_place(parse_origin(row.relay_address))
        return None

    def take(self, candidate: Candidate) -> None:
        if candidate.hostname or not self.candidate.hostname:
            self.name = candidate.name
        else:
            candidate = replace(candidate, hostname=self.candidate.hostname)
        self.candidate = candidate
        self.missing = 0


class Replicas:
    """The replicas of one deployment. Before the first refresh there are none.

    Args:
        access: How a replica is probed by itself: the target of the section `access_url`; None while the
            section is off.
        report: How its report is polled: the target for the access URL, which is scheduled itself
            while no replica can be asked; None while the section is off.
        read_table: Reads the table; None without a database.
        cut_off: Says whether this host is cut off, or suspected to be: then silence tells of nobody.
        on_targets: Called when the targets to be scheduled are others than before.
        on_replicas: Called with the adopted replicas after the first refresh, and when they are others
            than before.
        nameservers: Ask these instead of those of this host.
    """

    def __init__(
        self,
        source: ReplicaSource,
        *,
        access: HTTPTarget | None,
        report: ReportTarget | None,
        clock: Clock,
        on_targets: Callable[[], None],
        on_replicas: Callable[[tuple[Replica, ...]], None] | None = None,
        read_table: ReadTable | None = None,
        cut_off: Callable[[], bool] = lambda: False,
        nameservers: Sequence[str] = (),
    ) -> None:
        self._source = source
        self._cut_off = cut_off
        self._access = access
        self._report = report
        self._clock = clock
        self._on_targets = on_targets
        self._on_replicas = on_replicas
        self._watch = ReplicaWatch(source, clock=clock, read_table=read_table, nameservers=nameservers)
        self._entries: dict[Place, _Entry] = {}
        # what others see; a refresh in the middle of its work shows nothing of it
        self._known: tuple[KnownReplica, ...] = ()
        self._names: dict[Place, str] = {}
        self._missing: frozenset[str] = frozenset()
        self._looks = 0
        self._refreshed = False
        self._access_origin: Origin | None = None
        # None while nobody told it; empty where the servers tell none
        self._deployment_id = source.deployment_id
        self._silent_since_seconds: float | None = None
        self._answers: dict[str, bool] = {}
        self._access_url_answers = False
        self._told_failure: Reason | None = None
        self._told_left_out = 0

    @property
    def replicas(self) -> tuple[Replica, ...]:
        """The adopted replicas, by name."""
        return tuple(Replica(name=replica.name, url=replica.url) for replica in self._known if replica.adopted)

    @property
    def targets(self) -> tuple[Target, ...]:
        """What is to be in the schedule now: each adopted or misplaced replica by itself, and the report of
        each that is trusted, or of the access URL."""
        probes: tuple[Target, ...] = ()
        if self._access is not None:
            asked = (one for one in self._known if one.adopted or one.misplaced)
            probes = tuple(_make_probe(self._access, Replica(name=one.name, url=one.url)) for one in asked)
        return (*probes, *self._report_targets())

    @property
    def known(self) -> tuple[KnownReplica, ...]:
        """Every replica that was found, also those that are not asked, by name."""
        return self._known

    def set_proxies(self, proxies: Iterable[ListedProxy]) -> None:
        """Take the deployment's workspace proxies, whose addresses are no replicas', for the next refresh."""
        self._watch.set_proxies(proxies)

    def set_access_url_answers(self, answers: bool) -> None:
        """Note whether the access URL answered when it was asked last."""
        self._access_url_answers = answers

    def see(self, result: ReplicaResult) -> ReplicaResult:
        """Note what a replica answered, and add whether another one, or the access URL, did last. Whoever
        answers well in its place is none."""
        misplaced = next((one for one in self._known if one.name == result.name and one.misplaced), None)
        if misplaced is not None and result.up:
            message = f"{misplaced.url} says that it is {_WHO[misplaced.refused]}"
            failure = Failure(reason=Reason.PROTOCOL, phase=Phase.PROCESSING, message=message)
            result = replace(result, failure=failure, coder_version="")
        self._answers[result.name] = result.up
        return replace(result, others_answer=self._others_answer(result.name))

    def overlooked(self, snapshot: Snapshot) -> tuple[Target, ...]:
        """Return the replicas that failed and were judged before another one had answered."""
        targets = [target for target in self.targets if isinstance(target, ReplicaTarget)]
        found = []
        for target in targets:
            entry = snapshot.entries.get(TargetKey(section_key=target.section_key, name=target.replica.name))
            result = None if entry is None else entry.health.result
            if isinstance(result, ReplicaResult) and not result.up and not result.others_answer:
                found.append(target)
        return tuple(target for target in found if self._others_answer(target.replica.name))

    async def serve(self) -> None:
        """Keep the replicas up to date until cancelled."""
        while True:
            await self.refresh()
            await self._clock.sleep(self._source.interval_seconds)

    async def refresh(self) -> None:
        """Look at the sources once, and ask each replica who it is. Raises no ProbeError."""
        before, replicas_before, first = self.targets, self.replicas, not self._refreshed
        self._looks += 1
        sighting = await self._watch.look()
        self._tell_trouble(sighting)
        if sighting.access_origin is not None:
            if self._access_origin not in (None, sighting.access_origin):
                self._entries.clear()  # another deployment's
                self._deployment_id = self._source.deployment_id
            self._access_origin = sighting.access_origin
        if sighting.candidates is not None:
            self._silent_since_seconds = None
            self._take(sighting.candidates, sighting)
        else:
            self._take_silence()
        await self._identify_all()
        self._show()
        self._log_changes(replicas_before)
        # who takes up the targets may want to tell apart what is no relay any more: replicas first
        if (first or self.replicas != replicas_before) and self._on_replicas is not None:
            self._on_replicas(self.replicas)
        if self.targets != before:
            self._on_targets()

    # what is known

    def _report_targets(self) -> tuple[Target, ...]:
        report = self._report
        if report is None or not self._refreshed:
            return ()
        targets = tuple(
            replace(
                report,
                coder_replica=replica.name,
                replica=Replica(name=replica.name, url=replica.url),
                deployment_id=self._deployment_id,
            )
            for replica in self._known
            if replica.trusted and self._deployment_id is not None
        )
        return targets or (report,)

    def _others_answer(self, name: str) -> bool:
        """Whether a failure of this replica is its own. Who is on its way out of its source, as in a roll-out,
        is not missed."""
        if name in self._missing:
            return False
        return self._access_url_answers or any(up for other, up in self._answers.items() if other != name)

    def _show(self) -> None:
        """Let others see what this refresh came to."""
        # who is no replica takes nobody's name away
        here = {place: entry for place, entry in self._entries.items() if not entry.refused or entry.misplaced}
        names = name_replicas(
            {place: entry.name for place, entry in here.items()},
            leaving={place for place, entry in here.items() if entry.stopped},
        )
        self._missing = frozenset(names[place] for place, entry in here.items() if entry.missing)
        self._names = {place: names.get(place, str(place)) for place in self._entries}
        self._answers = {name: up for name, up in self._answers.items() if name in names.values()}
        self._known = tuple(
            KnownReplica(
                name=name,
                url=str(entry.candidate.origin),
                adopted=entry.adopted,
                trusted=entry.trusted,
                refused=entry.refused,
                misplaced=entry.misplaced,
                row=entry.candidate.row,
            )
            for name, place in sorted((name, place) for place, name in self._names.items())
            for entry in (self._entries[place],)
        )
        self._refreshed = True

    # what is seen

    def _take(self, candidates: Sequence[Candidate], sighting: Sighting) -> None:
        seen = set()
        for candidate in candidates:
            place = candidate.place
            seen.add(place)
            entry = self._entries.get(place)
            if entry is None:
                entry = self._entries[place] = _Entry(candidate=candidate, name=candidate.name, came=self._looks)
            entry.take(candidate)
            if candidate.proxy:
                entry.refused, entry.trusted = WORKSPACE_PROXY, False
        listed = frozenset(seen)
        if sighting.held is not None:
            seen |= self._hold(sighting.held, listed)
        for place in sighting.succeeded.intersection(self._entries) - seen:
            del self._entries[place]
        self._miss(place for place in self._entries if place not in seen)
        self._drop_predecessors()
        if len(self._entries) > MAX_REPLICAS:
            # who is missing makes room for who is there, of which there are never more
            for place in [place for place, entry in self._entries.items() if entry.missing or place not in listed]:
                del self._entries[place]

    def _hold(self, held: Mapping[Place, ListedReplica], listed: Collection[Place]) -> set[Place]:
        """Keep who crashed, or hangs and is out of DNS for that: it must be seen to fail. Who is missing with
        its row is called as before until it is gone."""
        kept = set()
        for place, entry in self._entries.items():
            row = held.get(entry.row_place) if entry.row_place is not None else None
            if row is not None or place in listed:
                entry.held = row is not None
            if row is not None and place not in listed and entry.adopted:
                entry.take(replace(entry.candidate, row=row))
                kept.add(place)
        return kept

    def _take_silence(self) -> None:
        if self._cut_off():
            self._silent_since_seconds = None
            return
        now = self._clock.monotonic()
        if self._silent_since_seconds is None:
            self._silent_since_seconds = now
        if now - self._silent_since_seconds > KEPT_INTERVALS * self._source.interval_seconds:
            self._miss(
                place
                for place, entry in self._entries.items()
                if not entry.candidate.configured and not self._answers.get(self._names.get(place, ""), False)
            )

    def _miss(self, places: Iterable[Place]) -> None:
        for place in list(places):
            entry = self._entries[place]
            entry.missed = entry.missed if entry.missing else self._looks
            entry.missing += 1
            if entry.missing >= GONE_AFTER:
                del self._entries[place]

    def _drop_predecessors(self) -> None:
        """Forget who is missing since another one of its name came: that is the same replica at a new address."""
        came = {
            entry.name: entry.came
            for entry in self._entries.values()
            if entry.name and not (entry.missing or entry.refused)
        }
        for place, entry in list(self._entries.items()):
            if entry.missing and came.get(entry.name, 0) >= entry.missed:
                del self._entries[place]

    async def _identify_all(self) -> None:
        """Ask each replica anew: an address may be somebody else's since."""
        access_origin = self._access_origin
        if access_origin is None or not self._entries:
            return
        slots = asyncio.Semaphore(_ASKED_AT_ONCE)
        answers: list[tuple[_Entry, Introduction | ProbeError]] = []

        async def ask(entry: _Entry) -> None:
            async with slots:
                answers.append((entry, await self._ask_identity(entry.candidate.origin, access_origin)))

        async with asyncio.TaskGroup() as group:
            for entry in self._entries.values():
                if not entry.candidate.proxy:
                    group.create_task(ask(entry))
        await self._find_deployment_id(access_origin, [answer for _, answer in answers])
        for entry, answer in answers:
            self._judge_identity(entry, answer)

    async def _find_deployment_id(self, access_origin: Origin, answers: Sequence[Introduction | ProbeError]) -> None:
        """Ask the access URL which deployment this is, while that is not known, and when a replica tells
        another one: it may have been set up anew. What the configuration says stands."""
        known = self._deployment_id
        if self._source.deployment_id is not None or (known is not None and not _contradicts(answers, known)):
            return
        # an address like 127.0.0.1 means another server here than where it was written down
        answer = await self._ask_identity(access_origin, access_origin)
        if isinstance(answer, ProbeError) or answer.identity.workspace_proxy:
            return
        self._deployment_id = answer.identity.deployment_id or ""
        if known is not None and self._deployment_id != known:
            _log.warning("replicas.deployment_changed", deployment=self._source.deployment)
            for entry in self._entries.values():
                entry.trusted = False

    def _judge_identity(self, entry: _Entry, answer: Introduction | ProbeError) -> None:
        if isinstance(answer, StrangerError):
            # the address is somebody else's now; its own probe tells what is there
            entry.trusted = False
            return
        if isinstance(answer, ProbeError):
            return  # whom it was before it may still be, and its own probe tells what is wrong
        before, identity, known = entry.refused, answer.identity, self._deployment_id
        if identity.workspace_proxy:
            entry.refused = WORKSPACE_PROXY
        elif known is not None and identity.deployment_id not in (None, known):
            entry.refused = OTHER_DEPLOYMENT
        else:
            entry.refused, entry.reached = "", True
        entry.trusted = not entry.refused and known is not None and answer.is_of(known)
        if entry.refused and entry.refused != before:
            _log.warning(
                "replica.refused",
                deployment=self._source.deployment,
                url=str(entry.candidate.origin),
                reason=entry.refused,
            )

    async def _ask_identity(self, server: Origin, access_origin: Origin) -> Introduction | ProbeError:
        deadline = self._clock.monotonic() + self._source.timeout_seconds
        try:
            return await identify(
                server, access_origin, ca_file=self._source.ca_file, clock=self._clock, deadline_seconds=deadline
            )
        except ProbeError as error:
            return error.with_traceback(None)

    # what is logged

    def _log_changes(self, before: Sequence[Replica]) -> None:
        after = self.replicas
        for replica in after:
            if replica not in before:
                _log.info(
                    "replica.found", deployment=self._source.deployment, coder_replica=replica.name, url=replica.url
                )
        for replica in before:
            if replica not in after:
                _log.info(
                    "replica.left", deployment=self._source.deployment, coder_replica=replica.name, url=replica.url
                )

    def _tell_trouble(self, sighting: Sighting) -> None:
        """Leave a trace where a source fails, once for each kind of trouble."""
        failure = sighting.failure
        told, self._told_failure = self._told_failure, None if failure is None else failure.reason
        if failure is not None and told != failure.reason:
            _log.warning(
                "replicas.source_failed",
                deployment=self._source.deployment,
                source=sighting.source,
                reason=failure.reason.value,
                detail=failure.message,
            )
        if sighting.left_out and not self._told_left_out:
            _log.warning(
                "replicas.cut",
                deployment=self._source.deployment,
                listed=MAX_REPLICAS + sighting.left_out,
                polled=MAX_REPLICAS,
            )
        self._told_left_out = sighting.left_out


def _contradicts(answers: Iterable[Introduction | ProbeError], deployment_id: str) -> bool:
    """Say whether some coderd tells another deployment than this."""
    return any(
        isinstance(answer, Introduction)
        and not answer.identity.workspace_proxy
        and answer.identity.deployment_id not in (None, deployment_id)
        for answer in answers
    )


def _make_probe(access: HTTPTarget, replica: Replica) -> ReplicaTarget:
    return ReplicaTarget(
        deployment=access.deployment,
        section=Section.ACCESS_URL,
        coder_replica=replica.name,
        interval_seconds=access.interval_seconds,
        timeout_seconds=access.timeout_seconds,
        access_url=access.access_url,
        ca_file=access.ca_file,
        replica=replica,
    )
