"""Workspace proxies: the list, then every proxy side by side at /healthz-report and /healthz, each
request on a fresh connection. In: a target. Out: a `RoundResult`. Never judges.

The state machine is that of Coder's proxyhealth.go; what it gets wrong (P1-P24 in the docstring of
the tests' package) is put right here.
"""

from __future__ import annotations

import asyncio
import re
from urllib.parse import quote, urlsplit

from exporter.clock import Clock
from exporter.errors import ConnectError, Phase, ProbeError, ProtocolError, Reason, WireError
from exporter.health.model import Failure
from exporter.health.workspace_proxy import ListedProxy, ProxyResult, ProxyStatus, RoundResult
from exporter.log import get_logger
from exporter.net import coder_json, http, reach
from exporter.targets.discovery import ProxyDiscovery
from exporter.targets.model import WorkspaceProxiesTarget
from exporter.wire.url import Origin, parse_origin, read_location

MAX_BODY_BYTES = 1024 * 1024
MAX_HEALTHZ_BYTES = 1024
# Two connections each; a name server's answer needs a thread and four open files (c-ares).
MAX_AT_ONCE = 250
MAX_LOOKUPS_AT_ONCE = 32

_log = get_logger(__name__)

_HINT_CODER = "a Coder server answers, perhaps a primary instead of a workspace proxy"
_HINT_FOREIGN = "this is not a Coder workspace proxy; check its URL"


async def probe(target: WorkspaceProxiesTarget, *, discovery: ProxyDiscovery, clock: Clock) -> RoundResult:
    """Refresh the list and probe every proxy; each of both may take the target's timeout."""
    found = await discovery.refresh(clock.monotonic() + target.timeout_seconds)
    if found.off is not None:
        return RoundResult(off=found.off, phase_seconds={})
    slots = _Slots()
    probed = await asyncio.gather(
        *(_probe_proxy(proxy, target, clock, slots) for proxy in found.proxies), return_exceptions=True
    )
    return RoundResult(
        proxies=tuple(
            _excuse(proxy, outcome, clock) if isinstance(outcome, BaseException) else outcome
            for proxy, outcome in zip(found.proxies, probed, strict=True)
        ),
        list_failure=found.failure,
        list_age_seconds=found.age_seconds,
        phase_seconds={},
    )


class _Slots:
    """How much of a round may happen at once: bounded by what a process may have open, and far
    above what a deployment has, so that proxies that hang do not delay the others (P22)."""

    def __init__(self) -> None:
        self.proxies = asyncio.Semaphore(MAX_AT_ONCE)
        self.lookups = asyncio.Semaphore(MAX_LOOKUPS_AT_ONCE)


def _excuse(proxy: ListedProxy, error: BaseException, clock: Clock) -> ProxyResult:
    """A bug that shows with one proxy is that proxy's alone (P1): the others have their results."""
    if not isinstance(error, Exception):
        raise error
    _log.error("probe.broke", target=proxy.name, exc_info=error)
    sentence = f"the probe broke: {type(error).__name__}; the log has the details"
    return ProxyResult(
        proxy=proxy,
        status=ProxyStatus.UNKNOWN,
        failure=Failure(reason=Reason.INTERNAL, message=sentence),
        phase_seconds={},
        started_timestamp_seconds=clock.now(),
        duration_seconds=0.0,
    )


async def _probe_proxy(proxy: ListedProxy, target: WorkspaceProxiesTarget, clock: Clock, slots: _Slots) -> ProxyResult:
    async with slots.proxies:
        return await _probe_in_slot(proxy, target, clock, slots)


async def _probe_in_slot(
    proxy: ListedProxy, target: WorkspaceProxiesTarget, clock: Clock, slots: _Slots
) -> ProxyResult:
    started_timestamp = clock.now()
    started = clock.monotonic()
    facts = await _measure(proxy, target, started + target.timeout_seconds, clock, slots)
    return ProxyResult(
        proxy=proxy,
        status=facts.status,
        errors=facts.errors,
        warnings=facts.warnings,
        version=facts.version or proxy.version[:64],
        answered_version=facts.version,
        stopped=proxy.stopped is True,
        healthz_ok=facts.healthz_ok,
        primary_unreachable=any(_about_primary(text) for text in facts.errors if facts.reported),
        version_warnings_only=bool(facts.warnings) and all("version" in text.lower() for text in facts.warnings),
        failure=facts.failure,
        address=facts.address,
        phase_seconds=facts.phase_seconds,
        started_timestamp_seconds=started_timestamp,
        duration_seconds=clock.monotonic() - started,
    )


class _Facts:
    """What is found out of one proxy on the way."""

    def __init__(self, status: ProxyStatus, errors: tuple[str, ...] = (), failure: Failure | None = None) -> None:
        self.status = status
        self.errors = errors
        self.failure = failure
        self.warnings: tuple[str, ...] = ()
        self.reported = False
        self.version = ""
        self.healthz_ok: bool | None = None
        self.address: str | None = None
        self.phase_seconds: dict[Phase, float] = {}


async def _measure(
    proxy: ListedProxy, target: WorkspaceProxiesTarget, deadline: float, clock: Clock, slots: _Slots
) -> _Facts:
    if not proxy.url:
        return _Facts(ProxyStatus.UNREGISTERED)
    try:
        origin = parse_origin(proxy.url)
        base = quote(urlsplit(proxy.url).path.removesuffix("/"), safe="/%:@!$&'()*+,;=~")
    except WireError as error:
        return _unhealthy(Reason.PROTOCOL, f"the URL of the workspace proxy is invalid: {error}")
    try:
        async with slots.lookups:
            lookup = await reach.look_up(origin.host, deadline_seconds=deadline, clock=clock)
    except ProbeError as error:
        return _unreachable(error)

    async def get(path: str, max_body_bytes: int) -> http.Exchange:
        return await reach.get_from(
            lookup.all,
            origin,
            base + path,
            deadline_seconds=deadline,
            clock=clock,
            ca_file=target.ca_file,
            max_body_bytes=max_body_bytes,
        )

    async with asyncio.TaskGroup() as group:
        report_task = group.create_task(get("/healthz-report", MAX_BODY_BYTES))
        healthz_task = group.create_task(get("/healthz", MAX_HEALTHZ_BYTES))
    report, healthz = report_task.result(), healthz_task.result()
    facts = _read_report(report, origin)
    facts.address = report.address
    facts.phase_seconds = lookup.phase_seconds | dict(report.phase_seconds)
    facts.version = coder_json.read_version(report.headers) or ""
    facts.healthz_ok = healthz.error is None and healthz.status == 200 and healthz.body.strip() == b"OK"
    return facts


def _read_report(exchange: http.Exchange, origin: Origin) -> _Facts:
    error = exchange.error
    status = exchange.status
    if status is None or (error is not None and error.reason is Reason.TIMEOUT):
        # time runs out also while the body is read: that is no wrong server (P9)
        return _unreachable(error or ConnectError(f"{origin} did not answer"))
    if error is not None:
        return _unhealthy(error.reason, f"the report of the workspace proxy broke off: {error.message}")
    if 300 <= status < 400:
        goal = "nowhere"
        if "location" in exchange.headers:
            goal = read_location(exchange.headers["location"], origin.scheme).text
        return _unhealthy(Reason.STATUS, f"the report answered status {status}, a redirect to {goal} (not followed)")
    if status != 200:
        said = coder_json.parse_error(exchange.body)
        texts = [text for text in (said.message, said.detail) if text]
        detail = ": " + ": ".join(texts) if texts else f"; the body is {coder_json.excerpt(exchange.body)}"
        return _unhealthy(Reason.STATUS, f"the report answered status {status}{detail}")
    hint = _HINT_CODER if coder_json.BUILD_VERSION_HEADER in exchange.headers else _HINT_FOREIGN
    media_type = exchange.headers.get("content-type", "").split(";")[0].strip().lower()
    if media_type != "application/json":
        return _unhealthy(Reason.BODY, f"the report has content type {media_type[:80] or 'none'!r}: {hint}")
    if exchange.body_truncated:
        return _unhealthy(Reason.BODY, f"the report is longer than {MAX_BODY_BYTES} bytes: {hint}")
    try:
        report = coder_json.parse_proxy_report(exchange.body)
    except WireError as wrong:
        return _unhealthy(Reason.BODY, f"the report cannot be read: {wrong}: {hint}")
    facts = _Facts(ProxyStatus.UNHEALTHY if report.errors else ProxyStatus.OK, report.errors)
    facts.warnings = report.warnings
    facts.reported = True
    if report.errors:
        sentence = "the workspace proxy reports errors: " + "; ".join(report.errors[:3])
        facts.failure = Failure(reason=Reason.BODY, phase=Phase.TRANSFER, message=sentence)
    return facts


def _unreachable(error: ProbeError) -> _Facts:
    return _Facts(ProxyStatus.UNREACHABLE, (f"the request failed: {error.message}",), Failure.of(error))


def _unhealthy(reason: Reason, message: str) -> _Facts:
    return _Facts(ProxyStatus.UNHEALTHY, (message,), Failure.of(ProtocolError(message, reason=reason)))


# A proxy words it freely; what is sure is that it names the primary or what it asks it for.
_PRIMARY = re.compile(r"build ?info|primary", re.IGNORECASE)


def _about_primary(text: str) -> bool:
    return _PRIMARY.search(text) is not None and "itself" not in text.lower()
