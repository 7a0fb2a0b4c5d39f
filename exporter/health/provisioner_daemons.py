"""Provisioner daemons: who builds workspaces, what versions they have, and which jobs wait for one.

In: the rows of one reading, from the tables or the API. Out: Coder's codes by Coder's rules, and what
these leave uncoded. Pure.

Source of the rules: coder-interfaces, sections 2.7 and 4.5
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from exporter.errors import Reason
from exporter.health import codes
from exporter.health.model import Failure, Finding, OffReason, Report, Section, Severity

# One heartbeat and a half: one beat may be late. Source: coder/coder #15643.
DEFAULT_STALE_AFTER_SECONDS = 90.0
# So many that were seen lately are told of: twenty times the largest deployment that Coder's documents describe.
MAX_RECENT = 5000

# What a local development build of Coder calls itself: it matches every version.
_DEVELOPMENT = "v0.0.0"
# Tags that are set when nobody sets any. Source: provisionersdk/provisionertags.go.
_UNTAGGED: Mapping[str, str] = {"scope": "organization", "owner": ""}

_NUMBER = r"(?:0|[1-9][0-9]*)"
# an identifier of digits alone has no leading zero; one with a letter or a hyphen may have any
_PRERELEASE = rf"(?:{_NUMBER}|[0-9]*[A-Za-z-][0-9A-Za-z-]*)"
_BUILD = r"[0-9A-Za-z-]+"
# Source: golang.org/x/mod/semver, which wants a v and lets minor and patch be left out.
_SEMVER = re.compile(
    rf"v(?P<major>{_NUMBER})(?:\.(?P<minor>{_NUMBER})"
    rf"(?:\.{_NUMBER}(?:-{_PRERELEASE}(?:\.{_PRERELEASE})*)?(?:\+{_BUILD}(?:\.{_BUILD})*)?)?)?"
)
_API_VERSION = re.compile(r"(?P<major>[+-]?[0-9]+)\.(?P<minor>[+-]?[0-9]+)")
_INT64 = range(-(2**63), 2**63)
# No sentence lists more than so many things.
_LISTED = 5
# Names in `hidden`.
_VERSION, _API = "version", "api_version"


class DaemonStatus(StrEnum):
    """Whether a daemon was seen lately: label `status`."""

    RECENT = "recent"
    STALE = "stale"
    NEVER = "never"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerVersion:
    """What the server says of itself. `api_version` is that of the provisioner API; None when the
    server is too old to tell."""

    version: str
    api_version: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ProvisionerDaemon:
    """A daemon that was seen within the stale interval.

    `organization` is the organization's name, or its id where names cannot be read. `provisioners` is
    empty when it is not known which it runs.
    """

    id: str
    name: str
    organization_id: str
    organization: str
    version: str
    api_version: str
    tags: Mapping[str, str] = field(default_factory=dict)
    provisioners: tuple[str, ...] = ()
    age_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class OrganizationDaemons:
    """How many daemons an organization has, by when they were last seen."""

    organization: str
    recent: int = 0
    stale: int = 0
    never: int = 0

    @property
    def total(self) -> int:
        return self.recent + self.stale + self.never

    def count(self, status: DaemonStatus) -> int:
        counts: dict[DaemonStatus, int] = {
            DaemonStatus.RECENT: self.recent,
            DaemonStatus.STALE: self.stale,
            DaemonStatus.NEVER: self.never,
        }
        return counts[status]


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitingJobs:
    """Jobs that nobody has begun, of one organization, one kind and one set of tags.

    `provisioner` is None when the kind cannot be read.
    """

    organization_id: str
    organization: str
    tags: Mapping[str, str]
    provisioner: str | None = None
    count: int
    oldest_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ProvisionerDaemonsResult:
    """One reading of a deployment's daemons.

    Args:
        organizations: Counts, by name; None when nothing could be read.
        recent: Those that were seen within the stale interval, by organization and name.
        liveness_known: False on servers that do not write down when a daemon was seen (before
            December 2023); then all count as `never`, which means nothing.
        jobs: Waiting ones; None when they cannot be read.
        cut: There are more recent daemons than `recent` holds.
        hidden: What of a daemon our role may not read; what stands there instead says nothing.
        refused: Organizations whose daemons our token may not see.
        server: None when it did not tell its version.
        source: `tables` or `api`.
        failure: Why the list, or a part of it, could not be read.
        off: Nothing can be read here, and why.
    """

    organizations: tuple[OrganizationDaemons, ...] | None = None
    recent: tuple[ProvisionerDaemon, ...] = ()
    stale_after_seconds: float = DEFAULT_STALE_AFTER_SECONDS
    liveness_known: bool = True
    jobs: tuple[WaitingJobs, ...] | None = None
    cut: bool = False
    hidden: frozenset[str] = frozenset()
    refused: tuple[str, ...] = ()
    server: ServerVersion | None = None
    source: str = ""
    failure: Failure | None = None
    off: OffReason | None = None

    @property
    def total(self) -> int:
        """How many daemons there are at all, as far as is known."""
        return sum(one.total for one in self.organizations or ())


def assess(result: ProvisionerDaemonsResult) -> Report:
    """Judge one reading: EPD01 to EPD03 and EUNKNOWN by Coder's rules, XPD01 and XPD02 by ours."""
    section = Section.PROVISIONER_DAEMONS
    if result.off is not None:
        return Report(section=section, off=result.off)
    findings: list[Finding] = []
    if result.failure is not None:
        sentence = f"the list of provisioner daemons cannot be read: {result.failure.message}"
        findings.append(Finding(code="XPD01", severity=Severity.WARNING, message=sentence))
    if result.organizations is None:
        return Report(
            section=section,
            findings=tuple(findings),
            not_judged=frozenset(codes.section_codes(section)) - {"XPD01"},
        )
    judged = (
        (_knows_absence(result), "EPD01", _judge_absence(result)),
        (_server_known(result), "EPD02", _judge_versions(result)),
        (_api_known(result), "EPD03", _judge_api_versions(result)),
        (_validity_known(result), codes.UNKNOWN, _judge_validity(result)),
        (result.jobs is not None and not result.cut, "XPD02", _judge_jobs(result)),
    )
    # what is seen in a part of the list is there; that it is not seen there says nothing
    partial = result.failure is not None
    not_judged = {code for known, code, finding in judged if not known or (partial and finding is None)}
    if result.cut:
        not_judged |= {"EPD02", "EPD03", codes.UNKNOWN} - {finding.code for *_, finding in judged if finding}
    findings += [finding for known, _, finding in judged if known and finding is not None]
    worst = next((finding for finding in findings if finding.severity is Severity.ERROR), None)
    return Report(
        section=section,
        findings=tuple(findings),
        failure=None if worst is None else Failure(reason=Reason.STATUS, message=worst.message),
        not_judged=frozenset(not_judged),
    )


def is_valid_version(version: str) -> bool:
    """Whether Coder takes a daemon's version for one.

    Source: golang.org/x/mod/semver, IsValid.
    """
    return _SEMVER.fullmatch(version) is not None


def versions_match(one: str, other: str) -> bool:
    """Whether Coder calls two versions the same: major and minor, or either is a development build.

    Source: buildinfo/buildinfo.go, VersionsMatch.
    """
    return _DEVELOPMENT in one or _DEVELOPMENT in other or _major_minor(one) == _major_minor(other)


def parse_api_major(version: str) -> int | None:
    """Return the major of an API version, None when Coder cannot read it.

    Source: apiversion/apiversion.go; the numbers are those of strconv.Atoi.
    """
    match = _API_VERSION.fullmatch(version)
    # longer texts are no numbers of 64 bits unless they begin with zeros, which nobody writes
    if match is None or len(version) > 64:
        return None
    major, minor = int(match["major"]), int(match["minor"])
    return major if major in _INT64 and minor in _INT64 else None


def tags_match(daemon_tags: Mapping[str, str], job_tags: Mapping[str, str]) -> bool:
    """Whether a daemon with these tags takes jobs with those: all of the job's must be the daemon's
    too; but a job without tags of its own only goes to a daemon without any.

    Source: coderd/database, function provisioner_tagset_contains, as AcquireProvisionerJob asks it.
    """
    if job_tags == _UNTAGGED:
        return daemon_tags == _UNTAGGED
    return job_tags.items() <= daemon_tags.items()


def takes(daemon: ProvisionerDaemon, jobs: WaitingJobs) -> bool:
    """Whether a daemon may take these jobs: its organization, its kinds, its tags.

    Source: coderd/database/queries/provisionerjobs.sql, AcquireProvisionerJob.
    """
    kind_fits = jobs.provisioner is None or not daemon.provisioners or jobs.provisioner in daemon.provisioners
    return daemon.organization_id == jobs.organization_id and kind_fits and tags_match(daemon.tags, jobs.tags)


def find_mismatches(result: ProvisionerDaemonsResult) -> tuple[ProvisionerDaemon, ...]:
    """Return the recent daemons that EPD02 is about; none when the server's version is not known."""
    server = result.server
    if server is None:
        return ()
    return tuple(
        daemon
        for daemon in result.recent
        if is_valid_version(daemon.version) and not versions_match(server.version, daemon.version)
    )


def find_unmatched(result: ProvisionerDaemonsResult) -> tuple[WaitingJobs, ...]:
    """Return the waiting jobs that no recent daemon takes."""
    return tuple(jobs for jobs in result.jobs or () if not any(takes(daemon, jobs) for daemon in result.recent))


def _major_minor(version: str) -> tuple[str, str] | None:
    match = _SEMVER.fullmatch(version)
    return None if match is None else (match["major"], match["minor"] or "0")


def _knows_absence(result: ProvisionerDaemonsResult) -> bool:
    """Whether it can be told that no daemon is there: all that are were seen, and when."""
    if result.recent:
        return True
    complete = not result.refused and result.failure is None
    return complete and (result.liveness_known or result.total == 0)


def _server_known(result: ProvisionerDaemonsResult) -> bool:
    return not result.recent or (result.server is not None and _VERSION not in result.hidden)


def _api_known(result: ProvisionerDaemonsResult) -> bool:
    return not result.recent or (_server_major(result) is not None and _API not in result.hidden)


def _validity_known(result: ProvisionerDaemonsResult) -> bool:
    """Either of both versions may be the invalid one."""
    return not result.recent or result.hidden.isdisjoint((_VERSION, _API)) or _judge_validity(result) is not None


def _server_major(result: ProvisionerDaemonsResult) -> int | None:
    server = result.server
    return None if server is None or server.api_version is None else parse_api_major(server.api_version)


def _judge_absence(result: ProvisionerDaemonsResult) -> Finding | None:
    if result.recent:
        return None
    seconds = f"{result.stale_after_seconds:g} s"
    if result.total == 0:
        sentence = "there are no provisioner daemons at all"
    else:
        never = sum(one.never for one in result.organizations or ())
        stale = result.total - never
        parts = [f"{stale} not for more than {seconds}"] if stale else []
        parts += [f"{never} never"] if never else []
        sentence = f"no provisioner daemon was seen lately: of {result.total} known, {', '.join(parts)}"
    return Finding(code="EPD01", severity=Severity.ERROR, message=sentence)


def _judge_versions(result: ProvisionerDaemonsResult) -> Finding | None:
    differing = find_mismatches(result)
    if not differing or result.server is None:
        return None
    sentence = (
        f"{_of_recent(differing, result)} another version than the server's {result.server.version}: "
        f"{_tally(daemon.version for daemon in differing)}"
    )
    return Finding(code="EPD02", severity=Severity.WARNING, message=sentence, skew=True)


def _judge_api_versions(result: ProvisionerDaemonsResult) -> Finding | None:
    server_major = _server_major(result)
    if server_major is None:
        return None
    differing = [daemon for daemon in result.recent if parse_api_major(daemon.api_version) not in (None, server_major)]
    if not differing:
        return None
    sentence = (
        f"{_of_recent(differing, result)} another major version of the API than the server's {server_major}: "
        f"{_tally(daemon.api_version for daemon in differing)}"
    )
    return Finding(code="EPD03", severity=Severity.WARNING, message=sentence, skew=True)


def _judge_validity(result: ProvisionerDaemonsResult) -> Finding | None:
    """A version that is none is an error of Coder's too, under its code for what has none."""
    versions = [daemon for daemon in result.recent if not is_valid_version(daemon.version)]
    api_versions = [daemon for daemon in result.recent if parse_api_major(daemon.api_version) is None]
    parts = []
    if versions and _VERSION not in result.hidden:
        parts.append(f"{_of_recent(versions, result)} an invalid version: {_tally(repr(d.version) for d in versions)}")
    if api_versions and _API not in result.hidden:
        tally = _tally(repr(daemon.api_version) for daemon in api_versions)
        parts.append(f"{_of_recent(api_versions, result)} an invalid API version: {tally}")
    if not parts:
        return None
    return Finding(code=codes.UNKNOWN, severity=Severity.ERROR, message="; ".join(parts))


def _judge_jobs(result: ProvisionerDaemonsResult) -> Finding | None:
    unmatched = find_unmatched(result)
    if not unmatched:
        return None
    waiting = sum(jobs.count for jobs in unmatched)
    oldest = max(jobs.oldest_seconds for jobs in unmatched)
    sentence = (
        f"{waiting} waiting, the oldest for {oldest:.0f} s, of provisioner jobs that no recent daemon takes: "
        f"{_list(map(_tell_jobs, unmatched))}"
    )
    return Finding(code="XPD02", severity=Severity.ERROR, message=sentence)


def _tell_jobs(jobs: WaitingJobs) -> str:
    tags = " ".join(f"{name}={value}" for name, value in sorted(jobs.tags.items())[:_LISTED])
    kind = f" for {jobs.provisioner}" if jobs.provisioner else ""
    return f"{jobs.count} of organization {jobs.organization}{kind} with tags {_cut(tags) or '(none)'}"


def _of_recent(daemons: Iterable[ProvisionerDaemon], result: ProvisionerDaemonsResult) -> str:
    count, total = sum(1 for _ in daemons), len(result.recent)
    return f"{count} of {total} recent provisioner daemon{'' if total == 1 else 's'} {'has' if count == 1 else 'have'}"


def _tally(texts: Iterable[str]) -> str:
    """Say each text with how often it came, the most frequent first."""
    counts = sorted(Counter(texts).items(), key=lambda item: (-item[1], item[0]))
    return _list(f"{_cut(text)} ({count})" for text, count in counts)


def _list(texts: Iterable[str]) -> str:
    every = list(texts)
    more = f", and {len(every) - _LISTED} more" if len(every) > _LISTED else ""
    return ", ".join(every[:_LISTED]) + more


def _cut(text: str, max_chars: int = 200) -> str:
    return text if len(text) <= max_chars else text[:max_chars] + "..."
