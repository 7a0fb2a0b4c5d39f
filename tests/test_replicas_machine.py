"""Replicas that come, go, flap and are renamed, in any order, against a model of what should be known."""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from exporter.errors import ConnectError
from exporter.health.model import Section
from exporter.health.replica import ListedReplica
from exporter.replicas import GONE_AFTER, Replicas
from exporter.secret import Secret
from exporter.targets.model import (
    AccessURL,
    AccessURLTarget,
    Replica,
    ReplicaSource,
    ReplicaTarget,
    ReportTarget,
    SessionToken,
)
from exporter.targets.replica_names import Place, name_replicas
from tests.support.clock import FakeClock
from tests.support.exploration import examples
from tests.support.raw_http import RawServer, json_response, response

SERVERS = 5
# nobody is there
ACCESS = AccessURL(url="http://127.0.0.1:1")
IDENTITIES = {
    "up": json_response(json.dumps({"version": "v2.26.0", "workspace_proxy": False, "deployment_id": "ours"})),
    "other": json_response(json.dumps({"version": "v2.26.0", "workspace_proxy": False, "deployment_id": "another"})),
    "proxy": json_response(json.dumps({"version": "v2.26.0", "workspace_proxy": True})),
    "stranger": response(404),
    "down": response(503, X_Coder_Build_Version="v2.26.0"),
}


class Known:
    """What the model knows of one place."""

    def __init__(self, name: str, *, came: int) -> None:
        self.name = name
        # looks: at how many in a row it was missing, the first of these, and the one that found it
        self.missing = self.missed = 0
        self.came = came
        self.reached = False
        self.trusted = False
        self.refused = False


class ReplicasMachine(RuleBasedStateMachine):
    """`listed` are the rows that are written, by server, and `crashed` those that nobody writes any more;
    `written` are the servers of a written list, if there is one."""

    indexes = st.integers(0, SERVERS - 1)
    hostnames = st.sampled_from(["pod-a", "pod-b", "vm"])

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.stack = AsyncExitStack()
        self.servers: list[RawServer] = []
        self.states = ["up"] * SERVERS
        self.listed: dict[int, str] = {}
        self.crashed: dict[int, str] = {}
        self.table_fails = False
        self.known: dict[int, Known] = {}
        self.expected_replicas: list[tuple[Replica, ...]] = []
        self.told_replicas: list[tuple[Replica, ...]] = []
        self.looks = 0

    def teardown(self) -> None:
        self.runner.run(self.stack.aclose())
        self.runner.close()

    @initialize(written=st.sets(indexes, max_size=3))
    def start(self, written: set[int]) -> None:
        async def serve() -> None:
            for _ in range(SERVERS):
                self.servers.append(await self.stack.enter_async_context(RawServer()))

        self.runner.run(serve())
        for index in range(SERVERS):
            self.answer(index, "up")
        self.written = {index: f"written-{index}" for index in sorted(written)}
        self.replicas = self.make(self.told_replicas)

    def make(self, told: list[tuple[Replica, ...]]) -> Replicas:
        times = {"interval_seconds": 30.0, "timeout_seconds": 5.0}
        return Replicas(
            ReplicaSource(
                deployment="prod",
                access_url=ACCESS,
                deployment_id="ours",
                static=tuple(Replica(name=name, url=self.servers[at].url) for at, name in self.written.items()),
                **times,
            ),
            access=AccessURLTarget(deployment="prod", section=Section.ACCESS_URL, access_url=ACCESS, **times),
            report=ReportTarget(
                deployment="prod",
                section=Section.REPORT,
                access_url=ACCESS,
                session_token=SessionToken(token=Secret("abcdefghij-0123456789012345678901")),
                **times,
            ),
            clock=FakeClock(),
            on_targets=lambda: None,
            on_replicas=told.append,
            read_table=self.read_table,
        )

    async def read_table(self, timeout_seconds: float) -> tuple[ListedReplica, ...]:
        if self.table_fails:
            raise ConnectError("gone")
        rows = [
            ListedReplica(id=str(index), hostname=hostname, relay_address=self.servers[index].url)
            for index, hostname in self.listed.items()
        ]
        rows += [
            ListedReplica(
                id=f"crashed-{index}",
                hostname=hostname,
                relay_address=self.servers[index].url,
                running=False,
                silent_seconds=60.0,
                updated_timestamp_seconds=1000.0,
            )
            for index, hostname in self.crashed.items()
        ]
        # whoever wrote last comes last: the order of rows means nothing
        return tuple(rows)

    # the world

    @rule(index=indexes, hostname=hostnames)
    def list_replica(self, index: int, hostname: str) -> None:
        """A replica comes, or is another process now; it goes to the end of the table."""
        self.unlist_replica(index)
        self.listed[index] = hostname

    @rule(index=indexes)
    def unlist_replica(self, index: int) -> None:
        """It was stopped, or its row was cleaned up."""
        self.listed.pop(index, None)
        self.crashed.pop(index, None)

    @rule(index=indexes)
    def crash(self, index: int) -> None:
        """It leaves its row."""
        if index in self.listed:
            self.crashed[index] = self.listed.pop(index)

    @rule(index=indexes, state=st.sampled_from(sorted(IDENTITIES)))
    def answer(self, index: int, state: str) -> None:
        """What a server says when it is asked who it is."""
        self.states[index] = state
        self.servers[index].answers["/api/v2/buildinfo"] = IDENTITIES[state]

    @rule(fails=st.booleans())
    def break_or_mend_the_table(self, fails: bool) -> None:
        self.table_fails = fails

    @rule()
    def refresh(self) -> None:
        self.runner.run(self.replicas.refresh())
        self.looks += 1
        self.follow()

    @precondition(lambda self: self.looks)
    @rule()
    def lose_one_look(self) -> None:
        """Every row vanishes for one look, and is back: nobody leaves who was there."""
        self.table_fails = False
        self.refresh()
        here = {self.servers[index].url for index in {**self.listed, **self.written}}
        before = here & set(self.probed(self.replicas).values())
        rows, self.listed = self.listed, {}
        self.refresh()
        self.listed = rows
        assert before <= set(self.probed(self.replicas).values())
        self.refresh()
        assert before <= set(self.probed(self.replicas).values())

    @precondition(lambda self: self.looks)
    @rule()
    def restart_the_exporter(self) -> None:
        """Another exporter that starts now calls the same replicas the same."""
        # who crashed before an exporter could reach it is nobody that it knows
        if self.table_fails or self.crashed or any(known.missing for known in self.known.values()):
            return
        self.refresh()
        other = self.make([])
        self.runner.run(other.refresh())
        labels = {replica.url: replica.name for replica in self.replicas.known if not replica.refused}
        for replica in other.known:
            at = next(index for index, server in enumerate(self.servers) if server.url == replica.url)
            if not replica.refused and at in self.listed and not self.remembers():
                assert labels[replica.url] == replica.name

    # the model

    def follow(self) -> None:
        """Do to the model what a look should do."""
        present = dict(self.written) if self.written else dict(self.listed)
        if self.written or not self.table_fails:
            for index, name in present.items():
                known = self.known.setdefault(index, Known(name, came=self.looks))
                known.missing = 0
            for index in self.known.keys() - present.keys():
                known = self.known[index]
                if index in self.crashed and known.reached and not known.refused:
                    known.missing = 0
                    continue
                known.missed = known.missed if known.missing else self.looks
                known.missing += 1
            self.known = {index: known for index, known in self.known.items() if known.missing < GONE_AFTER}
        for index, known in self.known.items():
            if not self.table_fails and index in self.listed:
                known.name = self.listed[index]
            if not self.table_fails and index in self.crashed and self.written:
                known.name = self.crashed[index]
        if self.written or not self.table_fails:
            self.known = {index: known for index, known in self.known.items() if not self.was_succeeded(known)}
        for index, known in self.known.items():
            if self.states[index] in ("up", "other", "proxy"):
                known.refused = self.states[index] != "up"
                known.reached |= not known.refused
            if self.states[index] != "down":
                known.trusted = self.states[index] == "up"

    def was_succeeded(self, missing: Known) -> bool:
        """Whether one of the same name came when it vanished, or since: the same replica at a new address."""
        return missing.missing > 0 and any(
            known.name == missing.name and known.came >= missing.missed
            for known in self.known.values()
            if not (known.missing or known.refused)
        )

    def remembers(self) -> bool:
        """Whether something is known that another exporter could not learn now: a name of a row that is not
        there any more, or that who is silent now was a proxy."""
        written = self.written.values()
        return any(
            (index not in self.listed and known.name not in written)
            or (known.refused and self.states[index] in ("down", "stranger"))
            for index, known in self.known.items()
        )

    def names(self) -> dict[int, str]:
        places = {
            Place(host="127.0.0.1", port=self.servers[index].port): index
            for index, known in self.known.items()
            if not known.refused or index in self.written
        }
        names = name_replicas({place: self.known[index].name for place, index in places.items()})
        return {places[place]: name for place, name in names.items()}

    @staticmethod
    def probed(replicas: Replicas) -> dict[str, str]:
        targets = [target for target in replicas.targets if isinstance(target, ReplicaTarget)]
        found = {target.coder_replica: target.replica.url for target in targets}
        assert len(targets) == len(found), "two of one name"
        assert all(target.session_token is None for target in targets)
        return found

    @invariant()
    def shows_what_the_model_knows(self) -> None:
        """Each adopted replica by its label, and whoever answers at a URL that was written down; the report of
        each that is trusted, which is never a proxy."""
        if not self.looks:
            return
        names = self.names()
        adopted = {names[at]: self.servers[at].url for at in names if self.written or self.known[at].reached}
        assert adopted == self.probed(self.replicas)
        reports = [target for target in self.replicas.targets if isinstance(target, ReportTarget)]
        polled = {target.coder_replica: target.replica.url for target in reports if target.replica is not None}
        trusted = {names[at]: self.servers[at].url for at in names if self.known[at].trusted}
        assert trusted == polled
        assert len(reports) == (len(trusted) or 1)

    @invariant()
    def tells_each_change(self) -> None:
        """Who was told of the replicas last knows those of now."""
        if self.looks:
            assert self.replicas.replicas == self.told_replicas[-1]
            assert all(one != other for one, other in zip(self.told_replicas, self.told_replicas[1:], strict=False))


TestReplicas = ReplicasMachine.TestCase
TestReplicas.settings = settings(max_examples=examples(50), stateful_step_count=25)
