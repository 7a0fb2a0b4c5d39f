"""What Coder says beside its reports: what is muted, and how it is configured. In: a target. Out: a
`ReportsResult` without what the reports themselves tell together, which is gathered elsewhere.

Source: coder-interfaces, sections 2.10 and 5.1
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from exporter.clock import Clock
from exporter.errors import ProbeError, WireError
from exporter.health.model import Failure, OffReason
from exporter.health.report import CoderSettings, ReportsResult
from exporter.net.coder_account import parse_dismissed, parse_settings
from exporter.probes.coder_answer import BackOff, Kind, ask, find_origin, tell_no_json
from exporter.secret import Secret
from exporter.targets.model import ReportsTarget
from exporter.targets.token_source import NoTokenError, read_token
from exporter.wire.url import Origin

SETTINGS_PATH = "/api/v2/debug/health/settings"
CONFIG_PATH = "/api/v2/deployment/config"
# The configuration changes only when Coder starts anew.
CONFIG_SECONDS = 600.0
# It bears the description of every option: half a MB.
MAX_BODY_BYTES = 8 << 20
# What was read goes on for so many intervals while it cannot be read again: else one lost answer would
# raise every alert that is muted.
KEPT_INTERVALS = 3
# Longer ones are read in a thread, so that no other run waits.
_LONG_BODY_BYTES = 64 << 10

_Value = TypeVar("_Value")


@dataclass(slots=True, kw_only=True)
class Kept(Generic[_Value]):
    """What one question was answered last. `value` is None when nothing is known."""

    value: _Value | None = None
    read_monotonic_seconds: float | None = None
    failure: Failure | None = None
    back_off: BackOff = field(default_factory=BackOff)

    def put(self, value: _Value | None, clock: Clock) -> None:
        """Note an answer in good order; None: there is nothing to know here."""
        self.value, self.failure = value, None
        self.read_monotonic_seconds = clock.monotonic()

    def fail(self, failure: Failure | None, *, kept_seconds: float, clock: Clock) -> None:
        """Note a failure; what is older than so many seconds is forgotten."""
        self.failure = failure
        read = self.read_monotonic_seconds
        if read is None or clock.monotonic() - read > kept_seconds:
            self.value = self.read_monotonic_seconds = None

    def is_good(self, limit_seconds: float, clock: Clock) -> bool:
        """Say whether it was answered, and not longer ago than this."""
        read = self.read_monotonic_seconds
        return self.failure is None and read is not None and clock.monotonic() - read < limit_seconds


@dataclass(slots=True, kw_only=True)
class ReportsMemory:
    """What is kept from one run to the next."""

    dismissed: Kept[tuple[str, ...]] = field(default_factory=Kept)
    settings: Kept[CoderSettings] = field(default_factory=Kept)


async def probe(target: ReportsTarget, *, memory: ReportsMemory, clock: Clock) -> ReportsResult:
    """Read the mutes, and now and then the configuration, side by side within the target's timeout.

    Each fails by itself, and what was read of it before goes on for a while.
    """
    deadline = clock.monotonic() + target.timeout_seconds
    kept_seconds = KEPT_INTERVALS * target.interval_seconds
    if target.session_token is None:
        return ReportsResult()
    off = None
    try:
        token = await read_token(target.session_token)
        origin = await find_origin(target.access_url)
    except NoTokenError as error:
        # with the token goes what it showed, as when it is refused
        for kept in (memory.dismissed, memory.settings):
            kept.fail(Failure.of(error), kept_seconds=-1.0, clock=clock)
        off = OffReason.NO_TOKEN
    except ProbeError as error:
        memory.dismissed.fail(Failure.of(error), kept_seconds=kept_seconds, clock=clock)
        memory.settings.fail(Failure.of(error), kept_seconds=CONFIG_SECONDS + kept_seconds, clock=clock)
    else:
        reader = _Reader(target, origin, token, deadline, clock)
        async with asyncio.TaskGroup() as group:
            what = "settings of the health page"
            group.create_task(reader.read(SETTINGS_PATH, what, parse_dismissed, memory.dismissed, kept_seconds))
            if not memory.settings.is_good(CONFIG_SECONDS, clock):
                limit, what = CONFIG_SECONDS + kept_seconds, "configuration of a deployment"
                group.create_task(reader.read(CONFIG_PATH, what, parse_settings, memory.settings, limit))
    return ReportsResult(
        off=off,
        dismissed=memory.dismissed.value,
        dismissed_failure=memory.dismissed.failure,
        settings=memory.settings.value,
        settings_failure=memory.settings.failure,
    )


class _Reader:
    """One run: where and how all is asked."""

    def __init__(self, target: ReportsTarget, origin: Origin, token: Secret, deadline: float, clock: Clock) -> None:
        self._target = target
        self._origin = origin
        self._token = token
        self._deadline = deadline
        self._clock = clock

    async def read(
        self,
        path: str,
        what: str,
        parse: Callable[[bytes], _Value],
        kept: Kept[_Value],
        kept_seconds: float,
    ) -> None:
        """Ask, and note what came of it."""
        answer = await ask(
            self._origin,
            path,
            token=self._token,
            deadline_seconds=self._deadline,
            clock=self._clock,
            ca_file=self._target.ca_file,
            max_body_bytes=MAX_BODY_BYTES,
            back_off=kept.back_off,
        )
        kept.back_off.note(answer, self._target.interval_seconds, self._clock)
        match answer.kind:
            case Kind.GOOD:
                try:
                    if len(answer.body) > _LONG_BODY_BYTES:
                        value = await asyncio.to_thread(parse, answer.body)
                    else:
                        value = parse(answer.body)
                except WireError as error:
                    failure = tell_no_json(path, what, error, self._token)
                    kept.fail(failure, kept_seconds=kept_seconds, clock=self._clock)
                else:
                    kept.put(value, self._clock)
            case Kind.NO_ROUTE:
                # an old server has no such thing, which is an answer
                kept.put(None, self._clock)
            case Kind.SIGNED_OUT | Kind.FORBIDDEN:
                # with another grade begins another knowledge: what the old one showed is not ours to tell
                kept.fail(answer.failure, kept_seconds=-1.0, clock=self._clock)
            case _:
                kept.fail(answer.failure, kept_seconds=kept_seconds, clock=self._clock)
