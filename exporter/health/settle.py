"""From observed to settled: a code counts once it was seen often enough in a row, and is over
once it was missed often enough in a row. One small state machine for one code of one target.

Raw series are never delayed by it; what pages is what has settled.
"""

from __future__ import annotations

from dataclasses import dataclass

from exporter.health.model import Finding, Severity


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """How many observations in a row move a code, and how long it may not become active at all."""

    raise_after: int = 2
    clear_after: int = 2
    startup_grace_seconds: float = 60.0
    version_grace_seconds: float = 300.0


# That this host is cut off shows at once and is over at once: until then nothing else settles.
AT_ONCE_CODES = frozenset({"XEXP01"})
AT_ONCE = Policy(raise_after=1, clear_after=1, startup_grace_seconds=0.0, version_grace_seconds=0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """State of one code of one target.

    `streak` counts observations in a row that speak against `active`. `since_timestamp_seconds`
    is None while the code is not active.
    """

    active: bool = False
    streak: int = 0
    since_timestamp_seconds: float | None = None
    severity: Severity = Severity.OK
    message: str = ""


INITIAL = Settled()


def advance(
    state: Settled, finding: Finding | None, *, policy: Policy, now: float, held: bool, counts: bool = True
) -> Settled:
    """Return the state after one more run.

    Args:
        finding: The code as this run observed it; None when it did not.
        now: When the run was, in seconds since 1970.
        held: A grace is open: nothing may become active. The observations still count, so a code
            that outlives the grace becomes active with the first run after it.
        counts: False: the same observation as in the run before, which adds nothing to a streak.
    """
    step = 1 if counts else 0
    if finding is None:
        if not state.active:
            return INITIAL if counts else state
        streak = state.streak + step
        if streak >= policy.clear_after:
            return INITIAL
        return Settled(
            active=True,
            streak=streak,
            since_timestamp_seconds=state.since_timestamp_seconds,
            severity=state.severity,
            message=state.message,
        )
    if state.active:
        return Settled(
            active=True,
            streak=0 if counts else state.streak,
            since_timestamp_seconds=state.since_timestamp_seconds,
            severity=finding.severity,
            message=finding.message,
        )
    streak = state.streak + step
    active = streak >= policy.raise_after and not held
    return Settled(
        active=active,
        streak=0 if active else streak,
        since_timestamp_seconds=now if active else None,
        severity=finding.severity,
        message=finding.message,
    )
