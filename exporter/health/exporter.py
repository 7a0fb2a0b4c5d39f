"""The exporter itself: is its host cut off, does it keep up, how long is its token good.

In: what the host and the schedule show (`ExporterResult`), what Coder says of our token
(`TokenResult`). Out: XEXP01 to XEXP03. Pure.

Source: contract, sections 6 and 8
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from exporter.errors import Reason
from exporter.health.model import Failure, Finding, OffReason, Report, Section, Severity

# A token is about to expire within this time, or within so much of its lifetime, and when its end has
# stood still for so long in use: Coder moves it at most once an hour. Source: contract, section 8, Tokens
TOKEN_WARNING_SECONDS = 86400.0
TOKEN_WARNING_SHARE = 0.25
TOKEN_UNMOVED_SECONDS = 7200.0
# A sentence names so many slow targets.
_MAX_NAMES = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class ExporterResult:
    """This exporter at a moment.

    Args:
        cut_off: Every target fails, and what the host itself says so by; empty when it is not cut off.
        failing: How many targets fail of `targets` that measure something on the network.
        ticks_skipped: Since the last look, as the run before was not over.
        overdue_seconds: How much later than its interval allows the latest run is; 0 when none is.
        slow: Targets, by their names in the schedule, whose runs take longer than their interval again and again.
    """

    cut_off: str = ""
    failing: int = 0
    targets: int = 0
    ticks_skipped: int = 0
    overdue_seconds: float = 0.0
    slow: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenResult:
    """Our session token, as Coder tells it.

    Args:
        expires_timestamp_seconds: None when Coder does not say.
        lifetime_seconds: None when it does not say.
        remaining_seconds: Until it expires, by Coder's clock where its answer tells the time; None when
            it is not known.
        unmoved_seconds: For how long `expires_at` has stood still while the token was in use.
        failure: Why it is not known; None when it is.
        refused: Coder answers that the token is not (or no longer) good.
        off: There is no token to tell of: its file has none.
    """

    expires_timestamp_seconds: float | None = None
    lifetime_seconds: float | None = None
    remaining_seconds: float | None = None
    unmoved_seconds: float = 0.0
    scope: str = ""
    failure: Failure | None = None
    refused: bool = False
    off: OffReason | None = None


def assess_exporter(result: ExporterResult) -> Report:
    """Judge this exporter: XEXP01 while its host is cut off, XEXP02 while it does not keep its schedule."""
    findings = []
    failure = None
    if result.cut_off:
        targets = "the only target fails" if result.targets == 1 else f"all {result.targets} targets fail"
        if result.failing < result.targets:
            targets = f"no target answers any more ({result.failing} of {result.targets} asked by now)"
        sentence = f"this exporter's host is cut off: {targets}, and {result.cut_off}"
        findings.append(Finding(code="XEXP01", severity=Severity.ERROR, message=sentence))
        failure = Failure(reason=Reason.UNREACHABLE, message=sentence)
    behind = []
    if result.ticks_skipped:
        skipped = "a tick was" if result.ticks_skipped == 1 else f"{result.ticks_skipped} ticks were"
        behind.append(f"{skipped} skipped since the last look, as runs before were not over")
    if result.overdue_seconds > 0:
        behind.append(f"a run is {result.overdue_seconds:.1f} s later than its interval allows")
    if result.slow:
        rest = f" and {len(result.slow) - _MAX_NAMES} more" if len(result.slow) > _MAX_NAMES else ""
        behind.append(f"runs of {', '.join(result.slow[:_MAX_NAMES])}{rest} take longer than their interval")
    if behind:
        sentence = f"probing falls behind its schedule: {'; '.join(behind)}"
        findings.append(Finding(code="XEXP02", severity=Severity.WARNING, message=sentence))
    return Report(section=Section.EXPORTER, findings=tuple(findings), failure=failure)


def assess_token(result: TokenResult) -> Report:
    """Judge how long our token is good: XEXP03. A refused one raises nothing here: XRPT01 tells."""
    if result.off is not None:
        return Report(section=Section.EXPORTER, off=result.off)
    expires, remaining = result.expires_timestamp_seconds, result.remaining_seconds
    if result.refused:
        return Report(section=Section.EXPORTER, failure=result.failure)
    if result.failure is not None:
        return Report(section=Section.EXPORTER, failure=result.failure, not_judged=frozenset({"XEXP03"}))
    limit = TOKEN_WARNING_SECONDS
    if result.lifetime_seconds is not None:
        limit = min(limit, TOKEN_WARNING_SHARE * result.lifetime_seconds)
    if expires is None or remaining is None or remaining > limit or result.unmoved_seconds < TOKEN_UNMOVED_SECONDS:
        return Report(section=Section.EXPORTER)
    message = (
        f"our session token expires {_tell_remaining(remaining)}{_tell_date(expires)}, and "
        f"{result.unmoved_seconds / 3600:.1f} hours of use have not moved its end; make another one in time"
    )
    finding = Finding(code="XEXP03", severity=Severity.WARNING, message=message)
    return Report(section=Section.EXPORTER, findings=(finding,))


def _tell_remaining(seconds: float) -> str:
    if seconds <= 0:
        return "now"
    return f"in {seconds / 3600:.1f} hours" if seconds >= 7200 else f"in {seconds / 60:.0f} minutes"


def _tell_date(timestamp_seconds: float) -> str:
    """Write when that is; nothing where no calendar reaches."""
    try:
        return f" ({datetime.fromtimestamp(timestamp_seconds, UTC):%Y-%m-%d %H:%M} UTC)"
    except (OverflowError, ValueError, OSError):
        return ""
