"""Bodies of /metrics read back by prometheus_client's parsers, and a board to feed by hand."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from prometheus_client import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from exporter.errors import Phase, Reason
from exporter.health import codes
from exporter.health.access_url import AccessURLResult, CertificateDates, FamilyAttempt, Identity
from exporter.health.coder_report import CoderReport, ReportedDaemon, ReportedDatabase, ReportedProxy
from exporter.health.database import DatabaseResult
from exporter.health.model import Failure, Finding, OffReason, Report, Section, Severity
from exporter.health.provisioner_daemons import (
    OrganizationDaemons,
    ProvisionerDaemon,
    ProvisionerDaemonsResult,
    ServerVersion,
)
from exporter.health.report import ReportResult
from exporter.health.settle import Policy
from exporter.health.websocket import Mode, WebSocketResult
from exporter.health.workspace_proxy import ListedProxy, ProxyResult, ProxyStatus, RoundResult
from exporter.metrics.board import Board, Clash
from exporter.metrics.exposition import Exposition
from exporter.metrics.families import FAMILIES
from exporter.metrics.negotiation import Format
from exporter.metrics.own import OwnMetrics
from exporter.snapshot import Snapshot, TargetHealth
from exporter.targets.model import SectionKey, TargetKey

# name of the sample and its labels, sorted
Series = tuple[str, tuple[tuple[str, str], ...]]

_LABEL = re.compile(r'([a-z_]+)="((?:[^"\\]|\\.)*)"')

START = 1_795_000_000.0
AT_ONCE = Policy(raise_after=1, clear_after=1, startup_grace_seconds=0.0)


def families(body: bytes, wanted: Format = Format.TEXT) -> list[Metric]:
    """Parse a body as the format says."""
    parse = parse_text if wanted is Format.TEXT else parse_openmetrics
    return list(parse(body.decode()))


def read(body: bytes, wanted: Format = Format.TEXT) -> dict[Series, float]:
    """Return every series with its value.

    Raises:
        AssertionError: A series, or a family, is there twice.
    """
    values: dict[Series, float] = {}
    names = set()
    for family in families(body, wanted):
        assert family.name not in names, f"family {family.name} is there twice"
        names.add(family.name)
        for sample in family.samples:
            series = (sample.name, tuple(sorted(sample.labels.items())))
            assert series not in values, f"series {series} is there twice"
            values[series] = sample.value
    return values


def scan(body: bytes) -> dict[Series, float]:
    """Return every series with its value, as `read` does, without a grammar: for many bodies.

    Raises:
        AssertionError: A series is there twice.
    """
    values: dict[Series, float] = {}
    for line in body.decode().splitlines():
        if not line.startswith("#"):
            name, _, value = line.rpartition(" ")
            series = (name.partition("{")[0], tuple(sorted(_LABEL.findall(name))))
            assert series not in values, f"series {series} is there twice"
            values[series] = float(value)
    return values


def headed(pieces: Mapping[str, str]) -> bytes:
    """Return pieces by family as a body."""
    exposition = Exposition(FAMILIES)
    exposition.replace("test", pieces)
    return b"".join(exposition.render(Format.TEXT))


def pick(values: Mapping[Series, float], name: str, *labels: str) -> dict[Any, float]:
    """Return the values of one sample name, by the values of some of its labels."""
    found: dict[Any, float] = {}
    for (sample, pairs), value in values.items():
        if sample == name:
            by_label = dict(pairs)
            key = tuple(by_label[label] for label in labels)
            assert (key[0] if len(key) == 1 else key) not in found, f"{labels} do not tell the samples of {name} apart"
            found[key[0] if len(key) == 1 else key] = value
    return found


class World:
    """A snapshot and its board."""

    def __init__(
        self,
        deployments: Iterable[str] = ("prod",),
        *,
        sections: Iterable[Section] = tuple(Section),
        policy: Policy = AT_ONCE,
        thresholds: Mapping[str, float] | None = None,
    ) -> None:
        self.snapshot = Snapshot()
        self.own = OwnMetrics(version="1.2.3", revision="abc", config_timestamp_seconds=START)
        self.board = Board(snapshot=self.snapshot, own=self.own, thresholds=thresholds or {})
        self._policy = policy
        self._runs = itertools.count(1)
        for deployment in deployments:
            for section in sections:
                self.declare(SectionKey(deployment=deployment, section=section))

    def declare(self, key: SectionKey) -> None:
        self.snapshot.declare(key, codes.section_codes(key.section, key.witness), self._policy)
        self.board.declare(key)

    def tell(self, key: SectionKey, *, name: str = "x", **more: Any) -> None:
        """Commit what one witness says of a section. `more` as `health`."""
        run = next(self._runs)
        told = replace(
            health(key.deployment, key.section, name, run=run, **more), key=TargetKey(section_key=key, name=name)
        )
        self.board.show(self.snapshot.commit(str(key), [told], now=START + run * 30.0, elapsed_seconds=run * 30.0))

    def run(self, deployment: str, section: Section, results: Mapping[str, object], **more: Any) -> tuple[Clash, ...]:
        """Commit a round of a section: one result a target. `more` as `health`."""
        run = next(self._runs)
        healths = [health(deployment, section, name, result, run=run, **more) for name, result in results.items()]
        return self.board.show(
            self.snapshot.commit(f"{deployment}/{section}", healths, now=START + run * 30.0, elapsed_seconds=run * 30.0)
        )

    def retire(self, deployment: str, section: Section) -> None:
        self.board.show(self.snapshot.retire(f"{deployment}/{section}"))

    def body(self, wanted: Format = Format.TEXT) -> bytes:
        return b"".join(self.board.render(wanted))

    def read(self, wanted: Format = Format.TEXT) -> dict[Series, float]:
        return read(self.body(wanted), wanted)


def health(
    deployment: str,
    section: Section | str,
    name: str,
    result: object | None = None,
    *,
    run: int = 1,
    codes: Iterable[str] = (),
    severity: Severity = Severity.ERROR,
    reason: Reason | None = None,
    off: OffReason | None = None,
    duration_seconds: float = 0.25,
    phase_seconds: Mapping[Phase, float] | None = None,
) -> TargetHealth:
    """A finished run that observed codes of one severity, and failed for a reason."""
    return TargetHealth(
        key=TargetKey(section_key=SectionKey(deployment=deployment, section=section), name=name),
        run=run,
        interval_seconds=30.0,
        started_timestamp_seconds=START + run * 30.0 - 1.0,
        duration_seconds=duration_seconds,
        result=result,
        report=Report(
            section=section,
            findings=tuple(Finding(code=code, severity=severity, message=f"{code} was seen") for code in codes),
            failure=None if reason is None else Failure(reason=reason, message="it failed"),
            off=off,
        ),
        phase_seconds=phase_seconds or {},
    )


def attempt(family: str = "ipv4", **more: Any) -> FamilyAttempt:
    """One that went well, save for what is said."""
    good: dict[str, Any] = {"status": 200, "body_ok": True, "coder_version": "v2.24.1+abc"}
    return FamilyAttempt(family=family, address="192.0.2.1", phase_seconds={}, **(good | more))


def unanswered(family: str = "ipv4", **more: Any) -> FamilyAttempt:
    failure = Failure(reason=Reason.REFUSED, message="refused")
    return FamilyAttempt(family=family, address="192.0.2.1", phase_seconds={}, failure=failure, **more)


def access_url(*attempts: FamilyAttempt, identity: Identity | None = None) -> AccessURLResult:
    return AccessURLResult(
        host="coder.example.com",
        attempts=attempts,
        identity=identity,
        phase_seconds={},
        measured_timestamp_seconds=START,
    )


def dates(not_after: float) -> CertificateDates:
    return CertificateDates(not_before_timestamp_seconds=START - 86400, not_after_timestamp_seconds=not_after)


def websocket(*round_trips: float, **more: Any) -> WebSocketResult:
    return WebSocketResult(
        host="coder.example.com", mode=Mode.ECHO, echo_round_trip_seconds=round_trips, phase_seconds={}, **more
    )


def database(*pings: float, **more: Any) -> DatabaseResult:
    return DatabaseResult(ping_seconds=pings, phase_seconds={}, **more)


def proxy(id_: str, name: str = "eu", status: ProxyStatus = ProxyStatus.OK, **more: Any) -> ProxyResult:
    return ProxyResult(
        proxy=ListedProxy(id=id_, name=name, url="https://eu.example.com"),
        status=status,
        phase_seconds={},
        started_timestamp_seconds=START,
        duration_seconds=0.1,
        **more,
    )


def proxy_round(**more: Any) -> RoundResult:
    return RoundResult(phase_seconds={}, **more)


def daemon(version: str = "v2.26.0", organization: str = "coder", **more: Any) -> ProvisionerDaemon:
    given: dict[str, Any] = {"id": "1", "name": "vm-0", "organization_id": organization, "api_version": "1.9"}
    return ProvisionerDaemon(version=version, organization=organization, age_seconds=1.0, **given | more)


def daemons(*recent: ProvisionerDaemon, stale: int = 0, never: int = 0, **more: Any) -> ProvisionerDaemonsResult:
    counts = OrganizationDaemons(organization="coder", recent=len(recent), stale=stale, never=never)
    given: dict[str, Any] = {"organizations": (counts,), "server": ServerVersion(version="v2.26.0"), "source": "tables"}
    return ProvisionerDaemonsResult(recent=recent, **given | more)


def poll(**more: Any) -> ReportResult:
    """A poll that brought a report with one of everything that is measured."""
    report = CoderReport(
        timestamp_seconds=START - 30.0,
        healthy=True,
        version="v2.26.0",
        database=ReportedDatabase(reachable=True, latency_seconds=0.0123, threshold_seconds=0.015),
        proxies=(ReportedProxy(id="p1", name="eu", status="ok", warnings=("slow",)),),
        daemons=(
            ReportedDaemon(id="1", name="a", organization_id="o1", version="v2.26.1", api_version="1.9"),
            ReportedDaemon(id="2", name="b", organization_id="o1", version="v2.25.0", api_version="1.9"),
        ),
    )
    given: dict[str, Any] = {"name": "coder.example.com", "report": report, "age_seconds": 30.0, "held_seconds": 30.0}
    return ReportResult(**given | {"organizations": {"o1": "coder"}} | more)
