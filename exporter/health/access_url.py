"""Access URL: what one run found, and what to think of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from exporter.errors import Phase, Reason
from exporter.health.model import Failure, Finding, Report, Section, Severity


class URLProblem(StrEnum):
    """Why there is nothing to connect to."""

    MISSING = "missing"
    INVALID = "invalid"


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateDates:
    """Validity of a served certificate, in seconds since 1970. Known also when verification failed."""

    not_before_timestamp_seconds: float
    not_after_timestamp_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class FamilyAttempt:
    """GET /healthz over one address family (`ipv4` or `ipv6`), on a connection of its own.

    `failure` says why no complete answer came; `status` and what follows is None without one.
    `no_route`: this host has no way to that family at all, which says nothing about the target.
    `redirect_host` is the host that `location` names, None when it is only a path.
    `body_ok`: the body is `OK`. `coder_version` is the header X-Coder-Build-Version.
    """

    family: str
    address: str
    phase_seconds: Mapping[Phase, float]
    failure: Failure | None = None
    no_route: bool = False
    status: int | None = None
    location: str | None = None
    redirect_host: str | None = None
    body_ok: bool = False
    body_excerpt: str = ""
    coder_version: str | None = None
    certificate: CertificateDates | None = None
    chain_certificate: CertificateDates | None = None

    @property
    def up(self) -> bool:
        """Whether this family works: an answer came, and it was the wanted one."""
        return self.failure is None and self.status == 200 and self.body_ok


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Who answers /api/v2/buildinfo. `access_url_host` is the host of its `dashboard_url`."""

    deployment_id: str | None
    access_url_host: str | None
    version: str | None
    workspace_proxy: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessURLResult:
    """One run.

    `tls`: the URL is https; None without a URL.
    `failure` is trouble before any connection: no URL, an invalid one, no address.
    `attempts` has one element for each address family that the name has.
    `identity` is what /api/v2/buildinfo said last; None when it never answered as Coder does.
    `says_coder`: a header or /api/v2/buildinfo says that a Coder server answers; None when
    neither could be asked.
    `expected_deployment_id` is the configured one, else the first one seen.
    `measured_timestamp_seconds` is what the certificate's dates are compared with.
    """

    host: str
    tls: bool | None = None
    url_problem: URLProblem | None = None
    failure: Failure | None = None
    attempts: tuple[FamilyAttempt, ...] = ()
    says_coder: bool | None = None
    identity: Identity | None = None
    expected_deployment_id: str | None = None
    phase_seconds: Mapping[Phase, float]
    measured_timestamp_seconds: float

    @property
    def address(self) -> str | None:
        """Who answered, for the log and people."""
        return self.best.address if self.best is not None else None

    @property
    def best(self) -> FamilyAttempt | None:
        """The attempt whose facts stand for the run."""
        return choose_best(self.attempts)


def choose_best(attempts: tuple[FamilyAttempt, ...]) -> FamilyAttempt | None:
    """Return a good attempt, else one that got a whole answer, else the one that came furthest, of those
    that this host had a route for; None when there is none. A family that was never served says less of
    an outage than the one that worked until now."""
    if len(attempts) == 1:
        return attempts[0]
    for wanted in (
        [attempt for attempt in attempts if attempt.up],
        [attempt for attempt in attempts if attempt.status is not None and attempt.failure is None],
    ):
        if wanted:
            return wanted[0]
    return max(attempts, key=_depth, default=None)


# In the order in which a run passes them.
_PHASES = tuple(Phase)


def _depth(attempt: FamilyAttempt) -> tuple[bool, int]:
    phase = None if attempt.failure is None else attempt.failure.phase
    return not attempt.no_route, -1 if phase is None else _PHASES.index(phase)


def assess(result: AccessURLResult, *, certificate_warning_seconds: float, certificate_error_seconds: float) -> Report:
    """Judge one run by Coder's rules (EACS01-04) and by what they leave out (XACS01-07).

    Source: coder-interfaces, section 2.2; contract, sections 6 and 8.
    """
    findings: list[Finding] = []
    not_judged: set[str] = set()
    failure = result.failure
    best = result.best
    if result.url_problem is URLProblem.MISSING and failure is not None:
        findings.append(_error("EACS01", failure.message))
    elif result.url_problem is URLProblem.INVALID and failure is not None:
        findings.append(_error("EACS02", failure.message))
    elif failure is not None:
        findings.append(_error("EACS03", failure.message))
    elif best is not None:
        failure = _judge_answer(result, best, findings)
        _judge_families(result, findings)
    certificates = [
        (attempt, position, dates)
        for attempt in result.attempts
        for position, dates in (("", attempt.certificate), ("chain's ", attempt.chain_certificate))
        if dates is not None
    ]
    expiry = _judge_certificates(
        certificates, result.measured_timestamp_seconds, certificate_warning_seconds, certificate_error_seconds
    )
    if expiry is not None:
        findings.append(expiry)
        if expiry.severity is Severity.ERROR and failure is None:
            failure = Failure(reason=Reason.TLS, phase=Phase.TLS, message=expiry.message)
    if not certificates and result.tls is not False:
        # nothing was served: a certificate that was about to end still is
        not_judged.add("XACS03")
    if result.says_coder is None:
        not_judged.add("XACS04")
    if result.identity is None or best is None or best.status is None or 300 <= best.status < 400:
        # a redirect is XACS02 only
        not_judged.add("XACS05")
    elif (other := _judge_identity(result, result.identity)) is not None:
        findings.append(other)
    if best is None or best.status is None:
        not_judged.add("XACS07")
    return Report(
        section=Section.ACCESS_URL,
        findings=tuple(findings),
        failure=failure,
        not_judged=frozenset(not_judged) - {finding.code for finding in findings},
    )


def _judge_answer(result: AccessURLResult, best: FamilyAttempt, findings: list[Finding]) -> Failure | None:
    if best.failure is not None:
        findings.append(_error("EACS03", best.failure.message))
        return best.failure
    status = best.status
    if status is None:
        return None
    if 300 <= status < 400 and best.location:
        return _judge_redirect(result, best, findings)
    if status != 200:
        sentence = f"GET /healthz answered status {status}"
        findings.append(Finding(code="EACS04", severity=Severity.WARNING, message=sentence))
        if status >= 400:
            kind = "a server error" if status >= 500 else "a client error"
            findings.append(_error("XACS06", f"{sentence}, {kind}{_said(best)}"))
            return Failure(reason=Reason.STATUS, phase=Phase.PROCESSING, message=sentence)
        return None
    failure = None
    if not best.body_ok:
        sentence = f"GET /healthz answered 200, but not with OK{_said(best)}"
        findings.append(_error("XACS01", sentence))
        failure = Failure(reason=Reason.BODY, phase=Phase.TRANSFER, message=sentence)
    if result.says_coder is False:
        sentence = "nothing in the answers says that this is a Coder server: no build version, no build info"
        findings.append(_error("XACS04", sentence))
        failure = failure or Failure(reason=Reason.BODY, phase=Phase.TRANSFER, message=sentence)
    return failure


def _judge_redirect(result: AccessURLResult, best: FamilyAttempt, findings: list[Finding]) -> Failure | None:
    sentence = f"GET /healthz answered status {best.status}, a redirect to {best.location}"
    if best.redirect_host is None or _bare(best.redirect_host) == _bare(result.host):
        findings.append(Finding(code="XACS02", severity=Severity.WARNING, message=sentence))
        return None
    sentence += ", another host"
    findings.append(_error("XACS02", sentence))
    return Failure(reason=Reason.STATUS, phase=Phase.PROCESSING, message=sentence)


def _judge_families(result: AccessURLResult, findings: list[Finding]) -> None:
    """One of two families fails. One that this host has no route to says nothing of the target."""
    reachable = [attempt for attempt in result.attempts if not attempt.no_route]
    bad = [attempt for attempt in reachable if not attempt.up]
    if len(reachable) == 2 and len(bad) == 1:
        lost = bad[0]
        why = lost.failure.message if lost.failure is not None else f"it answered status {lost.status}{_said(lost)}"
        name = {"ipv4": "IPv4", "ipv6": "IPv6"}[lost.family]
        findings.append(
            Finding(
                code="XACS07", severity=Severity.WARNING, message=f"{name} fails while the other family works: {why}"
            )
        )


def _judge_certificates(
    certificates: list[tuple[FamilyAttempt, str, CertificateDates]], now: float, warning: float, error: float
) -> Finding | None:
    """Short-lived certificates are renewed late: a third of the lifetime warns, a tenth is an error."""
    worst: Finding | None = None
    for _, position, dates in certificates:
        lifetime = dates.not_after_timestamp_seconds - dates.not_before_timestamp_seconds
        left = dates.not_after_timestamp_seconds - now
        if left <= min(error, lifetime / 10):
            severity = Severity.ERROR
        elif left <= min(warning, lifetime / 3):
            severity = Severity.WARNING
        else:
            continue
        sentence = f"the {position}certificate " + (
            f"expires in {_span(left)}" if left > 0 else f"expired {_span(-left)} ago"
        )
        if worst is None or severity > worst.severity:
            worst = Finding(code="XACS03", severity=severity, message=sentence)
    return worst


def _judge_identity(result: AccessURLResult, identity: Identity) -> Finding | None:
    sentence = None
    if identity.workspace_proxy:
        sentence = "a workspace proxy answers instead of the primary"
        if identity.access_url_host is not None:
            sentence += f", which is at {identity.access_url_host}"
    elif (
        identity.deployment_id is not None
        and result.expected_deployment_id is not None
        and identity.deployment_id != result.expected_deployment_id
    ):
        sentence = f"deployment {identity.deployment_id} answers instead of deployment {result.expected_deployment_id}"
    elif identity.access_url_host is not None and _bare(identity.access_url_host) != _bare(result.host):
        sentence = f"the server says that its access URL is at {identity.access_url_host}"
    return None if sentence is None else Finding(code="XACS05", severity=Severity.WARNING, message=sentence)


def _bare(host: str) -> str:
    """A name with the dot of the root is the same name."""
    return host.lower().rstrip(".")


def _error(code: str, message: str) -> Finding:
    return Finding(code=code, severity=Severity.ERROR, message=message)


def _said(attempt: FamilyAttempt) -> str:
    return f"; the body is {attempt.body_excerpt}" if attempt.body_excerpt else ""


def _span(seconds: float) -> str:
    days = seconds / 86400
    return f"{days:.1f} days" if days >= 2 else f"{seconds / 3600:.1f} hours"
