"""The settle machine under arbitrary runs: what it promises, whatever came before."""

from __future__ import annotations

import hypothesis
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from exporter.health.model import Finding, Severity
from exporter.health.settle import INITIAL, Policy, Settled, advance
from tests.support.exploration import examples

_SEVERITIES = st.sampled_from([Severity.WARNING, Severity.ERROR])


class SettleMachine(RuleBasedStateMachine):
    """Runs of one target and one code. The model counts runs in a row by itself."""

    @initialize(raise_after=st.integers(1, 5), clear_after=st.integers(1, 5))
    def begin(self, raise_after: int, clear_after: int) -> None:
        self.policy = Policy(raise_after=raise_after, clear_after=clear_after)
        self.state: Settled = INITIAL
        self.now = 100.0
        self.bad_in_a_row = 0  # that counted
        self.good_in_a_row = 0
        self.since: float | None = None
        self.latest: Finding | None = None

    def run(self, finding: Finding | None, *, held: bool = False, counts: bool = True) -> Settled:
        before = self.state
        self.now += 1.0
        self.state = advance(before, finding, policy=self.policy, now=self.now, held=held, counts=counts)
        if finding is not None:
            self.latest = finding
        if counts:
            self.bad_in_a_row = 0 if finding is None else self.bad_in_a_row + 1
            self.good_in_a_row = self.good_in_a_row + 1 if finding is None else 0
        if not before.active and self.state.active:
            self.since = self.now
        elif not self.state.active:
            self.since = None
        return before

    @rule(severity=_SEVERITIES)
    def observe(self, severity: Severity) -> None:
        """A bad run: active once enough came in a row, and never taken away by it."""
        before = self.run(Finding(code="EDB02", severity=severity, message=f"{severity.label} at {self.now}"))
        assert not before.active or self.state.active
        if self.bad_in_a_row >= self.policy.raise_after:
            assert self.state.active

    @rule()
    def miss(self) -> None:
        """A good run: over once enough came in a row, and it never makes anything active."""
        before = self.run(None)
        assert before.active or not self.state.active
        if self.good_in_a_row >= self.policy.clear_after:
            assert INITIAL == self.state

    @rule(severity=_SEVERITIES)
    def observe_in_a_grace(self, severity: Severity) -> None:
        """While a grace is open nothing becomes active, and nothing is over either."""
        before = self.run(Finding(code="EDB02", severity=severity, message="held"), held=True)
        assert before.active == self.state.active

    @rule(observed=st.booleans(), times=st.integers(1, 6))
    def say_again(self, observed: bool, times: int) -> None:
        """What says the same again adds nothing, however often."""
        counted = self.state.streak
        for _ in range(times):
            before = self.run(self.latest if observed else None, counts=False, held=True)
            assert before.active == self.state.active
        if self.state.active:
            assert counted == self.state.streak

    @rule(severity=_SEVERITIES)
    def fail_for_long(self, severity: Severity) -> None:
        """An outage longer than raise x interval is always settled."""
        for _ in range(self.policy.raise_after):
            self.run(Finding(code="EDB02", severity=severity, message="down"))
        assert (True, severity, "down") == (self.state.active, self.state.severity, self.state.message)

    @rule()
    def work_for_long(self) -> None:
        """Health longer than clear x interval ends it."""
        for _ in range(self.policy.clear_after):
            self.run(None)
        assert INITIAL == self.state

    @rule(severity=_SEVERITIES)
    def lose_one(self, severity: Severity) -> None:
        """One lost probe between good ones never settles (raise 2 and more); one good one never clears."""
        for _ in range(self.policy.clear_after):
            self.run(None)
        self.run(Finding(code="EDB02", severity=severity, message="lost"))
        assert self.state.active is (self.policy.raise_after == 1)
        for _ in range(self.policy.raise_after):
            self.run(Finding(code="EDB02", severity=severity, message="down"))
        self.run(None)
        assert self.state.active is (self.policy.clear_after > 1)

    @rule(severity=_SEVERITIES, held=st.integers(1, 6), again=st.booleans())
    def outlive_a_grace(self, severity: Severity, held: int, again: bool) -> None:
        """What lasted through a grace is active with the first run after it, if it was long enough; also
        when that run only says the same again."""
        for _ in range(self.policy.clear_after):
            self.run(None)
        finding = Finding(code="EDB02", severity=severity, message="down")
        for _ in range(held):
            self.run(finding, held=True)
            assert not self.state.active
        self.run(finding, counts=not again)
        assert self.state.active is (held + (0 if again else 1) >= self.policy.raise_after)

    @invariant()
    def since_is_there_exactly_while_active(self) -> None:
        if hasattr(self, "state"):
            assert self.since == self.state.since_timestamp_seconds
            assert self.state.active is (self.state.since_timestamp_seconds is not None)
            assert self.since is None or self.since <= self.now

    @invariant()
    def streaks_are_bounded_by_what_was_counted(self) -> None:
        if hasattr(self, "state"):
            assert 0 <= self.state.streak <= max(self.bad_in_a_row, self.good_in_a_row)


TestSettleMachine = SettleMachine.TestCase
TestSettleMachine.settings = hypothesis.settings(max_examples=examples(150), stateful_step_count=40)
