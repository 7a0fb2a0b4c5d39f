"""Measure the database: five pings on a kept connection, and now and then a fresh connection.

In: a target and its session. Out: seconds, and what went wrong.
"""

from __future__ import annotations

from exporter.clock import Clock
from exporter.errors import AuthError, ConnectError, DeadlineError, ProbeError
from exporter.health.database import DatabaseResult
from exporter.health.model import Failure
from exporter.net.postgres import Session
from exporter.targets.model import DatabaseTarget

PINGS = 5  # Source: coderd/healthcheck/database.go


async def probe(target: DatabaseTarget, *, session: Session, clock: Clock) -> DatabaseResult:
    """Ping five times, one after the other, and stop at the first ping that fails.

    All pings together, with a reconnection where it is needed, have the target's timeout. What is
    left of it goes to the questions whether the server is a standby and how long a fresh connection
    takes; when these find no answer in time, the run stands without them.
    """
    deadline = clock.monotonic() + target.timeout_seconds
    pings: list[float] = []
    failure: ProbeError | None = None
    try:
        await _ping(pings, deadline, target.timeout_seconds, session=session, clock=clock)
    except ProbeError as error:
        failure = error
    standby = None
    if failure is None:
        standby, failure = await _look_around(deadline, session=session, clock=clock)
    opened = session.opened
    return DatabaseResult(
        ping_seconds=tuple(pings),
        failure=Failure.of(failure) if failure is not None else None,
        refused=isinstance(failure, AuthError),
        standby=standby,
        connect_seconds=opened.connect_seconds if opened is not None else None,
        login_seconds=opened.login_seconds if opened is not None else None,
        server_version=opened.server_version if opened is not None else None,
        address=opened.address if opened is not None else None,
        phase_seconds=dict(session.phase_seconds),
    )


async def _ping(
    pings: list[float], deadline_seconds: float, timeout_seconds: float, *, session: Session, clock: Clock
) -> None:
    kept = session.connected
    await session.connect(timeout_seconds=deadline_seconds - clock.monotonic())
    while len(pings) < PINGS:
        left = deadline_seconds - clock.monotonic()
        # A connection that broke between two runs often shows it only when it is used. Coder's pool
        # does as we do then: it takes another one.
        first_on_kept = kept and not pings
        try:
            limit = min(left, timeout_seconds / 2) if first_on_kept else left
            pings.append(await session.ping(timeout_seconds=limit))
        except (ConnectError, DeadlineError):
            if not first_on_kept:
                raise
            kept = False
            session.drop()
            await session.connect(timeout_seconds=deadline_seconds - clock.monotonic())


async def _look_around(
    deadline_seconds: float, *, session: Session, clock: Clock
) -> tuple[bool | None, AuthError | None]:
    """Return whether the server is a standby, and how it refused a fresh login, if it did."""
    standby = None
    try:
        standby = await session.ask_standby(timeout_seconds=deadline_seconds - clock.monotonic())
        if session.fresh_connection_due:
            await session.measure_fresh_connection(timeout_seconds=deadline_seconds - clock.monotonic())
    except AuthError as error:
        return standby, error
    except ProbeError:
        pass  # the pings went through, so by Coder's rule the database is there
    return standby, None
