"""Words of a verdict: severity, section, failure, finding, report."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum

from exporter.errors import Phase, ProbeError, Reason


class Severity(IntEnum):
    """How bad; the rank makes the worst a comparison. Source: coderd/healthcheck/health/model.go."""

    OK = 0
    WARNING = 1
    ERROR = 2

    @property
    def label(self) -> str:
        return self.name.lower()

    @property
    def alert(self) -> str:
        """The severity of an alert. Source: contract, section 8, Alerts."""
        return {"OK": "info", "WARNING": "warning", "ERROR": "critical"}[self.name]


class Section(StrEnum):
    """Parts of a deployment's health; values are the keys of Coder's report. Ours are
    `direct_connections`, what the network of this host lets through; `report`, how Coder's own report
    is to be had; and `exporter`, which tells of this exporter itself.

    A newer Coder may report more sections: a section may be any other text, too.
    """

    ACCESS_URL = "access_url"
    WEBSOCKET = "websocket"
    DATABASE = "database"
    DERP = "derp"
    WORKSPACE_PROXY = "workspace_proxy"
    PROVISIONER_DAEMONS = "provisioner_daemons"
    DIRECT_CONNECTIONS = "direct_connections"
    REPORT = "report"
    EXPORTER = "exporter"


# Those of Coder's report, in its order of importance; what comes first breaks the rest.
REPORT_SECTIONS = (
    Section.ACCESS_URL,
    Section.WEBSOCKET,
    Section.DATABASE,
    Section.DERP,
    Section.WORKSPACE_PROXY,
    Section.PROVISIONER_DAEMONS,
)


def find_section(name: str) -> Section | str:
    """Return the section of that name; the name itself for one that we do not know."""
    return Section(name) if name in tuple(Section) else name


class Witness(StrEnum):
    """Who says so: we measured it, or Coder's own report does."""

    PROBE = "probe"
    REPORT = "report"


class OffReason(StrEnum):
    """Why a section is not probed: the closed set of `coder_health_section_enabled{reason}`."""

    DISABLED = "disabled"
    NO_TOKEN = "no_token"
    FORBIDDEN = "forbidden"
    NOT_LICENSED = "not_licensed"
    NOT_SUPPORTED = "not_supported"
    NO_DATABASE = "no_database"
    NOT_CONFIGURED = "not_configured"


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Trouble that a probe met, as data.

    `message` says what was being done, to whom, and what came; it never holds a secret.
    `phase` is None when the trouble belongs to no phase. `answered`: a name server said in good order
    that there is nothing by that name, so the network works.
    """

    reason: Reason
    phase: Phase | None = None
    message: str
    answered: bool = field(default=False, compare=False)

    @classmethod
    def of(cls, error: ProbeError) -> Failure:
        return cls(reason=error.reason, phase=error.phase, message=error.message, answered=error.answered)


UNCODED = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One code that is observed now, with the sentence that says what was seen.

    `code` is UNCODED for trouble that Coder's report tells without any: it counts for the severity
    of the section and settles as a code does, but no series of codes shows it.
    `skew`: the code stands only for versions that differ, so it waits for the version grace.
    """

    code: str
    severity: Severity
    message: str
    skew: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What we think of one result.

    Args:
        section: The section that the target belongs to.
        findings: Every code observed; at most one a code.
        failure: What the run failed of; None when it did not. It feeds `probe_success` and the
            failure counter. It may stand without a finding of severity error: a workspace proxy
            that is down has failed, while EWP04 is a warning about the section.
        not_judged: Codes that this run could not judge, since it never came so far. Settling
            leaves them as they are.
        off: The run learned that it has nothing to do here, and why: the section is shown as off
            until a later run learns otherwise.
        observation: What tells this observation from others: the time of a report of Coder's, or a digest
            of one that tells none. The same one may come again and again, out of Coder's cache, and
            counts once: streaks stay, and only a grace that has ended may change a state. None: each
            run is one of its own.
        counts: False when a later observation was seen before this one: it is no news, unless nothing
            has settled yet.
    """

    section: Section | str
    findings: tuple[Finding, ...] = ()
    failure: Failure | None = None
    not_judged: frozenset[str] = frozenset()
    off: OffReason | None = None
    observation: Hashable | None = None
    counts: bool = True

    @property
    def severity(self) -> Severity:
        """The worst of the findings."""
        return max((finding.severity for finding in self.findings), default=Severity.OK)
