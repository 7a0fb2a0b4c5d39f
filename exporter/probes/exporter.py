"""This exporter's host: its routes and interfaces, and when everything fails also its resolver and the
reference address. In: a target. Out: a `HostCheck`. Never judges.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from exporter.clock import Clock
from exporter.errors import DeadlineError, Phase, ProbeError, Reason, ResolveError
from exporter.health.model import Failure
from exporter.net import reach, resolver
from exporter.net.connection import Connection, describe_timeout
from exporter.net.deadline import until
from exporter.net.host import HostState, read_host_state
from exporter.targets.model import ExporterTarget
from exporter.wire.url import parse_origin

# Both are asked at the same time, and the suspicion that waits for them ends after five seconds.
ASK_SECONDS = 3.0
# Every resolver answers this at once, or at all: with NXDOMAIN. Source: RFC 6761, section 6.4
CONTROL_NAME = "coder-health-exporter.invalid."


@dataclass(frozen=True, slots=True, kw_only=True)
class HostCheck:
    """What this host says of itself.

    Args:
        asked: The network was asked, too; else only the kernel was.
        reference: The configured address; None when there is none.
        reference_asked: It was asked; only then `reference_failure` None means that it answered. A
            connection that is refused is an answer.
        resolver_answers: A resolver answered a name of our own, be it with no; None when none was asked.
    """

    state: HostState
    asked: bool = False
    reference: str | None = None
    reference_asked: bool = False
    reference_failure: Failure | None = None
    resolver_answers: bool | None = None


async def probe(
    target: ExporterTarget,
    *,
    clock: Clock,
    suspects: bool = False,
    addresses: Iterable[str] = (),
    nameservers: Sequence[str] = (),
) -> HostCheck:
    """Look at this host; the network is asked only while everything fails.

    Args:
        suspects: Everything fails: ask the resolver, and the reference address.
        addresses: Of targets, whose routes the kernel is asked for.
        nameservers: Ask these instead of this host's: `address` or `address:port`.
    """
    state = await read_host_state(addresses)
    if not suspects:
        return HostCheck(state=state, reference=target.reference)
    deadline = clock.monotonic() + min(ASK_SECONDS, target.timeout_seconds)
    async with asyncio.TaskGroup() as group:
        answering = group.create_task(_ask_resolver(deadline, clock, nameservers))
        reaching = None
        if target.reference is not None:
            reaching = group.create_task(_reach(target.reference, deadline, clock))
    return HostCheck(
        state=state,
        asked=True,
        reference=target.reference,
        reference_asked=reaching is not None,
        reference_failure=None if reaching is None else reaching.result(),
        resolver_answers=answering.result(),
    )


async def _ask_resolver(deadline: float, clock: Clock, nameservers: Sequence[str]) -> bool | None:
    """Whether any answer comes, be it no. A resolver that cannot be started says nothing."""
    try:
        await resolver.resolve(
            CONTROL_NAME, timeout_seconds=max(0.0, deadline - clock.monotonic()), nameservers=nameservers
        )
    except DeadlineError:
        return False
    except ResolveError:
        return True
    except ProbeError:
        return None
    return True


async def _reach(reference: str, deadline: float, clock: Clock) -> Failure | None:
    """Connect and hang up. None when somebody took the connection, or refused it."""
    origin = parse_origin(f"http://{reference}")
    failure = None
    try:
        lookup = await reach.look_up(origin.host, deadline_seconds=deadline, clock=clock)
        for index, address in enumerate(lookup.all):
            failure = None
            connection = Connection(_Silent(), origin=origin, address=address, clock=clock, ssl_context=None)
            own = reach.share(len(lookup.all) - index, deadline, clock)
            try:
                async with until(deadline if own is None else own, clock):
                    await connection.open()
            except TimeoutError:
                failure = Failure.of(describe_timeout(Phase.CONNECT, connection.peer))
            except ProbeError as error:
                failure = Failure.of(error)
            finally:
                connection.abort()
            if failure is None or failure.reason is Reason.REFUSED:
                return None
    except ProbeError as error:
        failure = Failure.of(error)
    return failure


class _Silent:
    """Who wants to hear nothing."""

    def connected(self, connection: Connection) -> None:
        pass

    def bytes_received(self, data: bytes) -> None:
        pass

    def ended(self, error: ProbeError | None) -> None:
        pass
