"""Tokens that come, go and are refused, replicas and reports that change, in any order: what is shown after
each round is consistent, whatever was there before."""

from __future__ import annotations

import asyncio
import io
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from exporter import check, log
from exporter.app import Application
from exporter.demo import faults
from exporter.demo.state import Role, make_token
from exporter.health.model import REPORT_SECTIONS, Section
from exporter.metrics.negotiation import Format
from tests.support.clock import ShiftedClock
from tests.support.exploration import examples
from tests.support.exposition import Series, pick, read
from tests.support.scripted_coder import ScriptedCoder, configure, describe, warned

REPLICAS = ("coderd-0", "coderd-1")
ENABLED = "coder_health_section_enabled"
OBSERVED = "coder_health_code_observed"
# what a section has while it is on
OF_SECTIONS = (
    "coder_health_section_severity",
    "coder_health_section_observed_severity",
    "coder_health_code_active",
    OBSERVED,
    "coder_health_code_since_timestamp_seconds",
    "coder_health_code_target",
)
COUNTERS = ("_total", "_count", "_bucket")
# contents of the token's file that Coder answers with no
REFUSED = {"expired", "revoked", "member", "old"}
TOLD = [{}, {"database": warned("EDB02")}, {"pubsub": warned("EPS01")}, {"new": {"error": "it broke"}}]


class GradesMachine(RuleBasedStateMachine):
    """A deployment behind a front, with replicas that its API lists. After each change there is a round."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.stack = AsyncExitStack()
        self.clock = ShiftedClock()
        self.log = io.StringIO()
        log.configure("debug", "logfmt", self.log)
        self.token = "good"
        self.ever_refused = False
        self.database_gone: faults.DatabaseGone | None = None
        self.before: dict[Series, float] = {}
        self.secrets: set[str] = set()

    def teardown(self) -> None:
        self.runner.run(self.stack.aclose())
        self.runner.close()

    @initialize(listed=st.sets(st.sampled_from(REPLICAS)))
    def start(self, listed: set[str]) -> None:
        self.runner.run(self.serve(Path(self.stack.enter_context(tempfile.TemporaryDirectory()))))
        for name in listed:
            self.front.list_replica(name, self.servers[name].url)
        self.look()

    async def serve(self, directory: Path) -> None:
        self.front = await self.stack.enter_async_context(ScriptedCoder(self.clock))
        self.state = self.front.state
        self.servers = {
            name: await self.stack.enter_async_context(ScriptedCoder(self.clock, state=self.state)) for name in REPLICAS
        }
        self.file = directory / "token"
        self.write(Role.OWNER)
        keys = describe(self.front, session_token_file=str(self.file))
        del keys["session_token"]
        self.application: Application = await configure(directory, self.clock, keys)
        self.stack.push_async_callback(self.application.close)

    def write(self, role: Role) -> None:
        self.secrets |= {token.reveal() for token in self.state.tokens.values()}
        self.file.write_text(self.state.tokens[role].reveal())

    # the world

    @rule(role=st.sampled_from(Role))
    def use_a_token(self, role: Role) -> None:
        """Somebody puts another token into the file."""
        self.write(role)
        self.token = "good" if role is Role.OWNER else role.value
        self.look()

    @rule(told_us=st.booleans())
    def rotate_the_token(self, told_us: bool) -> None:
        """The old one is revoked; the file has the new one at once, or has it not."""
        self.state.tokens[Role.OWNER] = make_token()
        self.secrets.add(self.state.tokens[Role.OWNER].reveal())
        if told_us:
            self.write(Role.OWNER)
        if told_us or self.token == "good":
            self.token = "good" if told_us else "old"
        self.look()

    @rule(content=st.sampled_from(["", "two words", None]))
    def spoil_the_file(self, content: str | None) -> None:
        """It is empty, holds something else, or is gone."""
        if content is None:
            self.file.unlink(missing_ok=True)
        else:
            self.file.write_text(content)
        self.token = "spoilt"
        self.look()

    @rule()
    def lose_or_find_the_database(self) -> None:
        """Coder answers 401 to everybody, since it cannot look a token up; or it can again."""
        servers = (self.front, *self.servers.values())
        fault, self.database_gone = self.database_gone, None
        if fault is None:
            self.database_gone = faults.DatabaseGone()
        for server in servers:
            if fault is None:
                assert self.database_gone is not None
                server.break_with(self.database_gone)
            else:
                server.heal(fault)
        self.look()

    @rule(name=st.sampled_from(REPLICAS))
    def list_or_unlist_a_replica(self, name: str) -> None:
        if self.state.replicas.pop(name, None) is None:
            self.front.list_replica(name, self.servers[name].url)
        self.look()

    @rule()
    def lose_all_replicas(self) -> None:
        """Who is missing in two lists leaves nothing; the lists are there for an Owner only."""
        self.state.replicas.clear()
        self.look()
        self.look()
        if self.token == "good" and self.database_gone is None:
            assert {""} == {dict(labels).get("coder_replica", "") for _, labels in self.before}

    @rule(name=st.sampled_from([*REPLICAS, "front"]), told=st.sampled_from(TOLD))
    def tell_something_else(self, name: str, told: dict[str, dict[str, object]]) -> None:
        self.servers.get(name, self.front).told = told
        self.look()

    @rule(seconds=st.sampled_from([0, 130, 2000]))
    def wait(self, seconds: float) -> None:
        self.clock.ahead_seconds += seconds
        self.look()

    # what is shown

    def look(self) -> None:
        """Run one round, and look at all that is shown of it."""
        self.clock.ahead_seconds += 30
        self.runner.run(self.application.check())
        self.ever_refused = self.ever_refused or (self.token in REFUSED and self.database_gone is None)
        body = b"".join(self.application.board.render(Format.TEXT)).decode()
        values = read(body.encode())  # no series is there twice
        self.compare_switches(values)
        self.compare_replicas(values)
        self.compare_refusals(values)
        for series in values.keys() & self.before.keys():
            assert not series[0].endswith(COUNTERS) or values[series] >= self.before[series], f"{series} fell"
        self.before = values
        table = check.render(check.collect(self.application), "table")
        for word in ("probe.broke", "series.clashed", *self.secrets):
            assert word not in self.log.getvalue() + body + table

    def compare_switches(self, values: dict[Series, float]) -> None:
        """A section that is off is nothing else, and on when any replica tells of it."""
        enabled = pick(values, ENABLED, "deployment", "section", "witness")
        on: dict[tuple[str, str, str], bool] = {}
        for key, off in self.application.board.off.items():
            of_section = (key.deployment, str(key.section), str(key.witness))
            on[of_section] = on.get(of_section, False) or off is None
        assert {of_section: float(is_on) for of_section, is_on in on.items()} == enabled
        shown = {
            (labels["deployment"], labels["section"], labels["witness"], labels["coder_replica"])
            for name, pairs in values
            if name in OF_SECTIONS
            for labels in (dict(pairs),)
        }
        assert shown == {
            (key.deployment, str(key.section), str(key.witness), key.coder_replica)
            for key, off in self.application.board.off.items()
            if off is None
        }

    def compare_replicas(self, values: dict[Series, float]) -> None:
        """Only replicas that are asked have series, and sections that we do not know only what tells of them."""
        asked = {target.coder_replica for target in self.application.targets}
        assert {dict(labels).get("coder_replica", "") for _, labels in values} <= asked
        sections = self.application.snapshot.sections
        assert sections.keys() == self.application.board.off.keys()
        assert all(rollup.entries for key, rollup in sections.items() if not isinstance(key.section, Section))

    def compare_refusals(self, values: dict[Series, float]) -> None:
        """Only Coder's own refusal is one; all else leaves the grade as it was."""
        refused = self.token in REFUSED and self.database_gone is None
        found = {code for code, value in self.codes(values, OBSERVED) if value}
        assert refused == ("XRPT01" in found)
        assert self.ever_refused or ("XRPT01", 1.0) not in self.codes(values, "coder_health_code_active")
        told = [dict(labels) for name, labels in values if name == ENABLED]
        reasons = {one["reason"] for one in told if one["witness"] == "report" and one["section"] in REPORT_SECTIONS}
        if refused:
            assert {"forbidden"} == reasons
        elif self.token == "spoilt":
            assert {"no_token"} == reasons
            assert not found & {"XRPT01", "XRPT04", "XPD01"}
        elif self.token == "good" and self.database_gone is None:
            assert {""} == reasons
            assert not found & {"XRPT01", "XRPT04"}
        else:
            assert "XRPT04" in found

    @staticmethod
    def codes(values: dict[Series, float], family: str) -> set[tuple[str, float]]:
        return {(dict(labels)["code"], value) for (name, labels), value in values.items() if name == family}


TestGrades = GradesMachine.TestCase
TestGrades.settings = settings(max_examples=examples(10), stateful_step_count=10)
