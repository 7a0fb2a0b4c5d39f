"""Websocket: what one run found, and what to think of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from exporter.errors import Phase, Reason
from exporter.health.model import Failure, Finding, OffReason, Report, Section, Severity


class Mode(StrEnum):
    """How the websocket was tried."""

    ECHO = "echo"  # /api/v2/debug/ws, three text frames there and back; needs an Owner's token
    DERP_MAP = "derp_map"  # /api/v2/derp-map, one message with a map; open to everybody


@dataclass(frozen=True, slots=True, kw_only=True)
class WebSocketResult:
    """One run. `mode` is the socket that was judged in the end.

    `status` is that of the answer to the upgrade (101 when it was accepted), None without one.
    `from_coder`: that answer was Coder's own, by its header or its words; `internal_error`: it says
    that Coder itself is in trouble. `upgraded`: status 101 and valid.
    `echo_mismatch`: what came back instead of what was sent; None when nothing differed.
    `echo_fallback`: why the echo was not used although a token is there; None when it was used or
    there is no token. `forbidden`: no token, and the open socket answered 401 or 403.
    """

    host: str
    mode: Mode
    upgraded: bool = False
    status: int | None = None
    location: str | None = None
    server: str | None = None
    from_coder: bool = False
    internal_error: bool = False
    body_excerpt: str = ""
    echo_round_trip_seconds: tuple[float, ...] = ()
    echo_mismatch: str | None = None
    echo_fallback: str | None = None
    forbidden: bool = False
    failure: Failure | None = None
    address: str | None = None
    phase_seconds: Mapping[Phase, float]


def assess(result: WebSocketResult) -> Report:
    """Judge one run by Coder's rules (EWS01-03), and say who answered instead of Coder (XWS01).

    Source: coder-interfaces, section 2.4; contract, sections 6 and 8.
    """
    if result.forbidden:
        return Report(section=Section.WEBSOCKET, off=OffReason.FORBIDDEN)
    if not result.upgraded:
        return _report(_refusals(result), result.failure or _refused(result))
    if result.echo_mismatch is not None:
        sentence = f"an echoed message came back changed: {result.echo_mismatch}"
        return _report([_error("EWS03", sentence)], Failure(reason=Reason.BODY, phase=Phase.TRANSFER, message=sentence))
    if result.failure is not None:
        # without an echo there is nothing to write: the map that never came is the message lost
        return _report([_error("EWS02", result.failure.message)], result.failure)
    return Report(section=Section.WEBSOCKET)


def _refusals(result: WebSocketResult) -> list[Finding]:
    if result.failure is not None:
        return [_error("EWS01", result.failure.message)]
    sentence = _refused(result).message
    if result.from_coder and result.status in (400, 426):
        # Coder's answer to a request without an upgrade, which is not what was sent
        sentence += ": Coder saw no upgrade, so something on the way takes it out of the request"
    findings = [_error("EWS01", sentence)]
    if not result.from_coder:
        who = f" ({result.server})" if result.server else ""
        goal = f", Location {result.location}" if result.location else ""
        findings.append(
            _error(
                "XWS01", f"an intermediary{who} answered the upgrade with status {result.status}{goal} instead of Coder"
            )
        )
    return findings


def _refused(result: WebSocketResult) -> Failure:
    return Failure(
        reason=Reason.STATUS,
        phase=Phase.PROCESSING,
        message=f"the websocket upgrade was answered with status {result.status} instead of 101",
    )


def _report(findings: list[Finding], failure: Failure) -> Report:
    return Report(section=Section.WEBSOCKET, findings=tuple(findings), failure=failure)


def _error(code: str, message: str) -> Finding:
    return Finding(code=code, severity=Severity.ERROR, message=message)
