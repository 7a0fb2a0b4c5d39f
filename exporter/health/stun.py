"""STUN servers of a DERP map: what one probe of one server found, and what to think of it."""

from __future__ import annotations

from dataclasses import dataclass

from exporter.errors import Phase, Reason
from exporter.health.model import Failure, Finding, Report, Section, Severity


@dataclass(frozen=True, slots=True, kw_only=True)
class StunAttempt:
    """One address family of one server.

    `no_route`: this host has no way to the family at all, which says nothing about the server.
    `attempts` counts requests, the answered one included.
    """

    family: str
    address: str
    round_trip_seconds: float | None = None
    attempts: int = 0
    mapped_address: str | None = None
    mapped_port: int | None = None
    no_route: bool = False
    failure: Failure | None = None

    @property
    def up(self) -> bool:
        return self.round_trip_seconds is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class StunResult:
    """One STUN server: each address family apart.

    `failure` is that of the lookup, else of the attempts when none was answered.
    `others_answer`: the last run of another STUN server of this deployment was answered. `by_name`: it
    has no address but what its name is looked up to.
    """

    region_id: int
    region_name: str
    node: str
    host: str
    port: int
    attempts: tuple[StunAttempt, ...] = ()
    failure: Failure | None = None
    others_answer: bool = False
    by_name: bool = False

    @property
    def up(self) -> bool:
        return any(attempt.up for attempt in self.attempts)

    @property
    def no_route(self) -> bool:
        """Whether this host has a way to none of the server's addresses, or the map switches both
        families off: nothing is known of the server."""
        if not self.attempts:
            return self.failure is None
        return all(attempt.no_route for attempt in self.attempts)


def assess_stun(result: StunResult) -> Report:
    """Judge one STUN server, target `REGION/NODE/stun`: XSTUN01 when it is silent while another
    answers. When none answers that is ESTUN01, said once for the section. One family that answers
    is enough: the other is seen in `coder_health_stun_up`.

    A server that is silent has failed, as its node has by Coder's rule, while XSTUN01 is a warning
    about the section (G3, G4). Source: contract, sections 6 and 8, derp.
    """
    if result.up:
        return Report(section=Section.DERP)
    if result.no_route:
        return Report(section=Section.DERP, not_judged=frozenset({"XSTUN01"}))
    failures = [attempt.failure for attempt in result.attempts if attempt.failure is not None and not attempt.no_route]
    silent = Failure(reason=Reason.TIMEOUT, phase=Phase.PROCESSING, message="no answer")
    failure = result.failure or (failures[0] if failures else silent)
    findings: tuple[Finding, ...] = ()
    if result.others_answer:
        sentence = f"STUN server {result.host}:{result.port} does not answer while others do: {failure.message}"
        findings = (Finding(code="XSTUN01", severity=Severity.WARNING, message=_cut(sentence)),)
    return Report(section=Section.DERP, findings=findings, failure=failure)


def _cut(sentence: str, max_chars: int = 1000) -> str:
    return sentence if len(sentence) <= max_chars else sentence[:max_chars] + "..."
