"""Coder's health report: JSON of `/api/v2/debug/health` in, a `CoderReport` out.

Versions of three years are read, and what none of them has written cannot hurt: null and missing
members are the same, entries of another shape are left out and counted, sections and codes that we do
not know pass through (sections by names that are fit for a label), counts and lengths are bounded.
Reports have several MB where there are many relays, so they are read in slices, with everybody else's
turn in between.

Source: coder-interfaces, sections 1, 2.9 and 4.1
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Generator, Iterable, Mapping, Sequence
from typing import Any

from exporter.errors import WireError
from exporter.health.coder_report import (
    CodedMessage,
    CoderReport,
    ReportedAccessURL,
    ReportedDaemon,
    ReportedDatabase,
    ReportedNode,
    ReportedProxy,
    ReportedRegion,
    ReportedSection,
)
from exporter.health.model import REPORT_SECTIONS, Section, Severity
from exporter.net.coder_json import excerpt
from exporter.net.coder_members import Members, Object, cut_text, make_key
from exporter.wire.derp_map import MAX_NAME_CHARS as MAX_DERP_NAME_CHARS
from exporter.wire.json_slices import read_slices

MAX_SECTIONS = 64
_MAX_MEMBERS = 1000  # of the report, that are looked at
MAX_MESSAGES = 1000  # of a section; a hundred of a region, a node or a daemon
MAX_REGIONS = 512
MAX_NODES = 2048  # of all regions together
MAX_PROXIES = 1000
MAX_DAEMONS = 5000  # as in coder_daemons.py
_MAX_ITEM_MESSAGES = 100
_MAX_WORD_CHARS = 64
_MAX_SECONDS = 86400.0  # of a latency, a round trip, a threshold

# Most of a report: what Coder's DERP client said on its way, and what we measure ourselves.
_LEFT_OUT = frozenset(
    {
        "client_errs",
        "client_logs",
        "current_job",
        "healthz_response",
        "netcheck",
        "netcheck_logs",
        "node_info",
        "previous_job",
        "tags",
    }
)
_KNOWN = frozenset(section.value for section in REPORT_SECTIONS)
# What makes an object a section, of any version.
_SECTION_MEMBERS = frozenset({"severity", "healthy", "warnings", "dismissed", "error"})
# A line of an error that begins with a code; a newer Coder may have others. PostgreSQL and Go begin
# lines with two words that look like codes and are none.
_CODED_LINE = re.compile(r"(?!ERROR:|EOF:)(E[A-Z]+[0-9]*): ")
_OK = Severity.OK.label
_SEVERITIES = {severity.label: severity for severity in Severity}
_PROXY_STATUSES = frozenset({"ok", "unregistered", "unhealthy", "unreachable", "unknown"})
_PRIMARY = "primary"
_NAMELESS = "unnamed"  # a node of which nothing is told but that it is in trouble

ReportSteps = Generator[None, None, CoderReport]


async def parse_report(body: bytes) -> CoderReport:
    """Return what a report says. Others have their turn after each slice of the body.

    Raises:
        WireError: No JSON, another value than an object, or an object without any section.
    """
    steps = read_report(body)
    while True:
        try:
            next(steps)
        except StopIteration as done:
            report: CoderReport = done.value
            return report
        await asyncio.sleep(0)


def read_report(body: bytes) -> ReportSteps:
    """Read a report as `parse_report` does, as a generator that pauses after each slice."""
    value = yield from read_slices(_check_beginning(body), leave_out=_LEFT_OUT)
    return (yield from _Reading(value).read())


def _check_beginning(body: bytes) -> bytes:
    """Say it in plain words when it is a page, or nothing at all."""
    beginning = body[:256].removeprefix(b"\xef\xbb\xbf").lstrip()
    if not beginning.startswith(b"{"):
        if beginning[:1] in b'["' and beginning:
            raise WireError("the body is JSON, but not an object")
        raise WireError(f"the body is not JSON: it begins with {excerpt(body)}")
    return body


class _Reading:
    """One report that is being read, and what was left out of it."""

    def __init__(self, value: Object) -> None:
        self._value = value
        self._members = Members()
        self._nodes_left = MAX_NODES

    def read(self) -> ReportSteps:
        value, members = self._value, self._members
        sections = self._read_sections()
        regions = yield from self._read_regions(self._find(Section.DERP))
        daemons = yield from self._read_daemons(self._find(Section.PROVISIONER_DAEMONS))
        proxies = yield from self._read_proxies(self._find(Section.WORKSPACE_PROXY))
        return CoderReport(
            timestamp_seconds=members.time(value, "time"),
            healthy=members.flag(value, "healthy"),
            severity=self._read_severity(value)[0],
            version=members.name(value, "coder_version"),
            sections=sections,
            access_url=self._read_access_url(self._find(Section.ACCESS_URL)),
            database=self._read_database(self._find(Section.DATABASE)),
            proxies=proxies,
            daemons=daemons,
            regions=regions,
            dropped=members.dropped,
        )

    def _find(self, section: Section) -> Object | None:
        found = self._value.get(section.value)
        return found if found and isinstance(found, dict) else None

    def _read_sections(self) -> tuple[ReportedSection, ...]:
        """Return those that we know wherever they stand, and of the others those in trouble first: not
        one of them is left out for one that is well."""
        first = dict(self._members.limit(self._value.items(), most=_MAX_MEMBERS))
        members = first | {name: self._value[name] for name in sorted(_KNOWN & self._value.keys())}
        if not any(map(_is_section, members.values())):
            raise WireError("the body is a JSON object without a section of a health report")
        others = [name for name, value in members.items() if name not in _KNOWN and _is_section(value)]
        others.sort(key=lambda name: _rank(members[name]))
        most = MAX_SECTIONS - len(_KNOWN & members.keys())
        wanted = _KNOWN.union(self._members.limit(others, most=most))
        found: dict[str, ReportedSection] = {}
        for name, value in members.items():
            if name in wanted:
                section = self._read_known(name, value) if name in _KNOWN else self._read_other(name, value)
                before = found.get(section.name)
                found[section.name] = section if before is None else _join(before, section)
        return tuple(found.values())

    def _read_other(self, name: str, value: Object) -> ReportedSection:
        key = make_key(name)
        return self._read_section(f"coder_{key}" if key in _KNOWN else key, value)

    def _read_known(self, name: str, value: Any) -> ReportedSection:
        if isinstance(value, dict) and value:
            return self._read_section(name, value)
        if value is not None:
            self._members.drop()
        return ReportedSection(name=name, severity=None, instead=_tell_kind(value))

    def _read_section(self, name: str, value: Object) -> ReportedSection:
        severity, word = self._read_severity(value)
        messages = self._read_messages(value, most=MAX_MESSAGES)
        error = _find_error(value)
        coded = (message for message in self._limit(_split_lines(error), MAX_MESSAGES) if message.code)
        return ReportedSection(
            name=name,
            severity=severity,
            severity_text=word,
            healthy=self._members.flag(value, "healthy"),
            dismissed=self._members.flag(value, "dismissed") is True,
            error=self._read_error(value),
            messages=(*messages, *coded),
        )

    def _read_error(self, value: Object) -> str | None:
        if not isinstance(value.get("error"), str | None):
            self._members.drop()
        return cut_text(_find_error(value)) or None

    def _read_severity(self, value: Object) -> tuple[Severity | None, str]:
        word = self._members.text(value, "severity")[:_MAX_WORD_CHARS]
        return _SEVERITIES.get(word), word

    def _read_messages(self, value: Object, *, most: int = _MAX_ITEM_MESSAGES) -> tuple[CodedMessage, ...]:
        """Return the warnings: objects, or texts of servers before 30 November 2023."""
        messages: list[CodedMessage] = []
        for entry in self._members.entries(value, "warnings", most=most) or ():
            if isinstance(entry, str):
                messages += _split_lines(entry)
            elif isinstance(entry, dict):
                code = self._members.text(entry, "code")[:_MAX_WORD_CHARS]
                messages.append(CodedMessage(code=code, message=self._members.text(entry, "message")))
            else:
                self._members.drop()
        return tuple(self._limit(messages, most))

    def _limit(self, messages: Sequence[CodedMessage], most: int) -> Sequence[CodedMessage]:
        return self._members.limit(messages, most=most)

    def _read_access_url(self, section: Object | None) -> ReportedAccessURL | None:
        if section is None:
            return None
        return ReportedAccessURL(
            access_url=self._members.text(section, "access_url"),
            reachable=self._members.flag(section, "reachable"),
            status_code=self._members.whole(section, "status_code") or None,
        )

    def _read_database(self, section: Object | None) -> ReportedDatabase | None:
        if section is None:
            return None
        reachable = self._members.flag(section, "reachable")
        latency_seconds = self._members.duration(section, "latency")
        truncated = self._members.number(section, "latency_ms")
        if latency_seconds is None and truncated is not None:
            latency_seconds = truncated / 1e3
        threshold = self._members.number(section, "threshold_ms")
        return ReportedDatabase(
            reachable=reachable,
            latency_seconds=None if reachable is False else self._check_seconds(latency_seconds),
            threshold_seconds=None if threshold is None else self._check_seconds(threshold / 1e3),
        )

    def _read_proxies(self, section: Object | None) -> Generator[None, None, tuple[ReportedProxy, ...] | None]:
        holder = None if section is None else self._members.object(section, "workspace_proxies")
        entries = None if holder is None else self._members.objects(holder, "regions", most=MAX_PROXIES)
        if entries is None:
            return None
        proxies = []
        for entry in entries:
            yield
            proxy = self._read_proxy(entry)
            if proxy is not None:
                proxies.append(proxy)
        return tuple(proxies)

    def _read_proxy(self, entry: Object) -> ReportedProxy | None:
        """Return a proxy; None for the primary, which is none, for a deleted one, and for one without a name."""
        proxy_id, name = self._members.name(entry, "id"), self._members.name(entry, "name")
        if name == _PRIMARY or entry.get("deleted") is True:
            return None
        if not proxy_id or not name:
            self._members.drop()
            return None
        status = self._members.object(entry, "status") or {}
        word = self._members.text(status, "status")
        report = self._members.object(status, "report")
        most = _MAX_ITEM_MESSAGES
        return ReportedProxy(
            id=proxy_id,
            name=name,
            status=word if word in _PROXY_STATUSES else "unknown",
            version=self._members.name(entry, "version"),
            errors=() if report is None else self._members.texts(report, "errors", most=most) or (),
            warnings=None if report is None else self._members.texts(report, "warnings", most=most) or (),
        )

    def _read_daemons(self, section: Object | None) -> Generator[None, None, tuple[ReportedDaemon, ...] | None]:
        entries = None if section is None else self._members.objects(section, "items", most=MAX_DAEMONS)
        if entries is None:
            return None
        daemons = []
        for number, entry in enumerate(entries):
            if number % 32 == 0:
                yield
            daemon = self._read_daemon(entry)
            if daemon is not None:
                daemons.append(daemon)
        return tuple(daemons)

    def _read_daemon(self, entry: Object) -> ReportedDaemon | None:
        value = self._members.object(entry, "provisioner_daemon") or {}
        daemon_id, name = self._members.name(value, "id"), self._members.name(value, "name")
        if not daemon_id or not name:
            self._members.drop()
            return None
        return ReportedDaemon(
            id=daemon_id,
            name=name,
            organization_id=self._members.name(value, "organization_id"),
            version=self._members.name(value, "version"),
            api_version=self._members.name(value, "api_version"),
            messages=self._read_messages(entry),
        )

    def _read_regions(self, section: Object | None) -> Generator[None, None, tuple[ReportedRegion, ...] | None]:
        entries = None if section is None else self._members.object(section, "regions")
        if entries is None:
            return None
        regions = []
        for key, entry in self._members.limit(entries.items(), most=MAX_REGIONS):
            yield
            region = self._read_region(key, entry)
            if region is not None:
                regions.append(region)
        return tuple(sorted(regions, key=lambda region: region.region_id))

    def _read_region(self, key: str, entry: Any) -> ReportedRegion | None:
        if entry is None:
            return None
        value: Mapping[str, Any] = entry if isinstance(entry, dict) else {}
        region = self._members.object(value, "region") or {}
        region_id = self._members.whole(region, "RegionID") or _read_id(key)
        if region_id is None or not isinstance(entry, dict):
            self._members.drop()
            return None
        return ReportedRegion(
            region_id=region_id,
            name=self._members.text(region, "RegionName")[:MAX_DERP_NAME_CHARS],
            code=self._members.text(region, "RegionCode")[:MAX_DERP_NAME_CHARS],
            embedded=self._members.flag(region, "EmbeddedRelay") is True,
            node_count=len(self._members.entries(region, "Nodes", most=MAX_NODES) or ()),
            healthy=self._members.flag(value, "healthy"),
            severity=self._read_severity(value)[0],
            error=self._read_error(value),
            messages=self._read_messages(value),
            nodes=tuple(self._read_nodes(value)),
        )

    def _read_nodes(self, region: Object) -> Iterable[ReportedNode]:
        reports = self._members.objects(region, "node_reports", most=self._nodes_left) or ()
        self._nodes_left -= len(reports)
        nodes = (self._read_node(report) for report in reports)
        return [node for node in nodes if node is not None]

    def _read_node(self, value: Object) -> ReportedNode | None:
        node = self._members.object(value, "node") or {}
        name = self._members.text(node, "Name")[:MAX_DERP_NAME_CHARS]
        severity, error = self._read_severity(value)[0], self._read_error(value)
        if not name:
            self._members.drop()
            if error is None and severity is not Severity.ERROR:
                return None
            name = _NAMELESS
        exchanges = self._members.flag(value, "can_exchange_messages") is True
        stun = self._members.object(value, "stun") or {}
        return ReportedNode(
            name=name,
            host=self._members.text(node, "HostName")[:MAX_DERP_NAME_CHARS],
            healthy=self._members.flag(value, "healthy"),
            severity=severity,
            error=error,
            messages=self._read_messages(value),
            stun_only=self._members.flag(node, "STUNOnly") is True,
            can_exchange_messages=exchanges,
            uses_websocket=self._members.flag(value, "uses_websocket") is True,
            round_trip_seconds=self._read_round_trip(value) if exchanges else None,
            stun_enabled=self._members.flag(stun, "Enabled") is True,
            can_stun=self._members.flag(stun, "CanSTUN") is True,
            stun_error=self._members.text(stun, "Error") or None,
        )

    def _read_round_trip(self, value: Object) -> float | None:
        seconds = self._members.duration(value, "round_trip_ping")
        if seconds is None:
            truncated = self._members.number(value, "round_trip_ping_ms")
            seconds = None if truncated is None else truncated / 1e3
        return self._check_seconds(seconds) or None

    def _check_seconds(self, seconds: float | None) -> float | None:
        """Leave out what nothing that answers can take, or what nobody can mean."""
        if seconds is None or 0 <= seconds <= _MAX_SECONDS:
            return seconds
        self._members.drop()
        return None


def _is_section(value: Any) -> bool:
    return isinstance(value, dict) and not _SECTION_MEMBERS.isdisjoint(value)


def _rank(section: Object) -> int:
    """Return how early a section comes that we do not know: the lower, the worse it looks."""
    severity, error = section.get("severity"), _find_error(section)
    if not error and severity in (_OK, None) and section.get("healthy") is not False:
        return 2
    return 1 if not error and severity == Severity.WARNING.label else 0


def _tell_kind(value: Any) -> str:
    if isinstance(value, dict):
        return "an empty object"
    kinds: Mapping[type, str] = {bool: "a boolean", str: "a text", list: "a list"}
    return "null" if value is None else kinds.get(type(value), "a number")


def _find_error(value: Object) -> str:
    """Return the text of an error, empty where there is none. Coder leaves the member out when all is
    well, so whatever else stands there is an error, too."""
    error = value.get("error")
    if isinstance(error, str):
        return error
    if not error and not isinstance(error, dict):
        return ""
    parts = error[:_MAX_ITEM_MESSAGES] if isinstance(error, list) else [error]
    return "\n".join(filter(None, map(_tell_error, parts))) or "an error that is no text"


def _tell_error(part: Any) -> str:
    """Return the text of a part; what has a code and a message is written as Coder writes it in one."""
    if isinstance(part, dict):
        texts = (part.get("code"), part.get("message"))
        return ": ".join(text for text in texts if isinstance(text, str) and text)
    return part if isinstance(part, str) else ""


def _join(first: ReportedSection, second: ReportedSection) -> ReportedSection:
    """Return two sections of one name as one, which is no better than any of them."""
    both = (first, second)
    errors = [section.error for section in both if section.error]
    unwell = any(section.severity is None and (section.error or section.healthy is False) for section in both)
    said = [section.severity for section in both if section.severity is not None]
    severity = Severity.ERROR if unwell else max(said, default=None)
    healthy = [section.healthy for section in both]
    return ReportedSection(
        name=first.name,
        severity=severity,
        severity_text=first.severity_text if severity is None else severity.label,
        healthy=False if False in healthy else None if None in healthy else True,
        dismissed=first.dismissed and second.dismissed,
        error=cut_text("\n".join(errors)) or None,
        messages=(*first.messages, *second.messages)[: 2 * MAX_MESSAGES],
    )


def _split_lines(text: str) -> list[CodedMessage]:
    """Split a text where a line begins with a code; lines without one belong to what goes before."""
    code = ""
    lines: list[str] = []
    messages: list[CodedMessage] = []

    def end() -> None:
        message = cut_text("\n".join(lines).rstrip())
        if code or message:
            messages.append(CodedMessage(code=code, message=message))

    for line in text.split("\n"):
        match = _CODED_LINE.match(line)
        if match is not None:
            end()
            code, lines = match[1][:_MAX_WORD_CHARS], [line[match.end() :]]
        else:
            lines.append(line)
    end()
    return messages


def _read_id(key: str) -> int | None:
    return int(key) if key.isascii() and key.isdigit() and len(key) < 20 else None
