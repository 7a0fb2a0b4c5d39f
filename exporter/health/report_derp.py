"""Our judgement of the DERP nodes of Coder's report: the regions as a replica saw them in, codes out.

What the replica measured becomes the types of `derp.py` and `stun.py`, and is judged by the same rules
as what we measure. So a relay that refuses every upgrade, which Coder shows as healthy by its WebSocket
fallback, is down; and a STUN server that is silent makes no relay bad. Pure.

Source: derp-stun, sections 3.1 to 3.6 and 9.4; contract, section 8, derp
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass

from exporter.errors import Reason
from exporter.health.coder_report import ReportedNode, ReportedRegion
from exporter.health.derp import (
    RAW,
    WEBSOCKET,
    DerpResult,
    NodeName,
    RegionResult,
    RelayResult,
    RelayState,
    TransportResult,
    assess_region,
    assess_section,
    judge_relay,
)
from exporter.health.model import Failure, Finding, Severity
from exporter.health.report_words import MAX_NAME_CHARS, cut, list_few
from exporter.health.stun import StunAttempt, StunResult, assess_stun

# What this judgement may raise, and what of it Coder never says. XDERP03 to XDERP05 need what no report tells.
CODES = frozenset({"EDERP01", "EDERP02", "ESTUN01", "XDERP01", "XDERP02", "XSTUN01"})
OWN_CODES = frozenset({"XDERP01", "XDERP02", "XSTUN01"})

_SEVERITIES = {code: Severity.ERROR if code == "XDERP01" else Severity.WARNING for code in CODES}
# Regions of workspace proxies have this code, and those of Coder's default STUN servers a similar one.
_PROXY_REGION = re.compile(r"coder_(?!stun_[0-9]+$)(?P<proxy>.+)")
_SILENT = Failure(reason=Reason.TIMEOUT, message="no answer")


@dataclass(frozen=True, slots=True, kw_only=True)
class RegionsVerdict:
    """What we think of all regions.

    `unnamed`: regions and nodes that are an error to Coder, of which neither a code of Coder's nor one
    of these findings tells; one sentence each.
    """

    findings: tuple[Finding, ...] = ()
    not_judged: frozenset[str] = frozenset()
    unnamed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Judged:
    """One region: its relays and STUN servers by node, the code that stands for its relays, and the
    codes that nobody can tell while reports of nodes are missing."""

    reported: ReportedRegion
    result: RegionResult
    relays: tuple[tuple[ReportedNode, RelayState], ...]
    code: str | None
    not_judged: frozenset[str]


def judge_regions(regions: Sequence[ReportedRegion], *, said: Set[str] = frozenset()) -> RegionsVerdict:
    """Judge every region of a report, each code once with all regions and nodes that raise it.

    Args:
        said: The codes that the section itself bears.
    """
    stun_answers = any(node.stun_enabled and node.can_stun for region in regions for node in region.nodes)
    # a report may have hundreds of regions, and hardly ever is one of them not well
    judged = [_judge_region(region, stun_answers=stun_answers) for region in regions if not _is_plainly_well(region)]
    told: defaultdict[str, list[str]] = defaultdict(list)
    for one in judged:
        _tell_region(one, told)
    not_judged = {code for one in judged for code in one.not_judged}
    if any(one.result.pending for one in judged):  # of STUN servers, too
        not_judged |= {"XSTUN01"} if stun_answers else {"ESTUN01", "XSTUN01"}
    stun_code = _choose_stun_code([one.result for one in judged], stun_answers=stun_answers)
    if stun_code is not None:
        told[stun_code] = [
            f"{_name_node(node)} of {name_region(one.reported)}: {node.stun_error or 'no answer'}"
            for one in judged
            for node in one.reported.nodes
            if _is_silent(node)
        ]
    findings = tuple(
        Finding(code=code, severity=_SEVERITIES[code], message=cut(_INTRODUCTIONS[code] + list_few(places)))
        for code, places in sorted(told.items())
    )
    stun_named = stun_code is not None or "ESTUN01" in said
    return RegionsVerdict(
        findings=findings,
        not_judged=frozenset(not_judged).intersection(CODES).difference(told),
        unnamed=tuple(sentence for one in judged for sentence in _find_unnamed(one, stun_named=stun_named)),
    )


def name_region(region: ReportedRegion) -> str:
    """Return how sentences call a region: its number, and whose it is."""
    proxy = None if region.embedded else _PROXY_REGION.fullmatch(region.code)
    if proxy is not None:
        return f"region {region.region_id} (workspace proxy {cut(proxy['proxy'], MAX_NAME_CHARS)})"
    name = cut(region.name or region.code, MAX_NAME_CHARS)
    return f"region {region.region_id} ({name})" if name else f"region {region.region_id}"


_INTRODUCTIONS = {
    "EDERP01": "relays work only by their WebSocket fallback, the raw upgrade is refused: ",
    "EDERP02": "one relay of a region is not well while the region works: ",
    "ESTUN01": "no STUN server answers: ",
    "XDERP01": "no working relay in ",
    "XDERP02": "relays are down while their region still works: ",
    "XSTUN01": "STUN servers are silent while others answer: ",
}


def _is_plainly_well(region: ReportedRegion) -> bool:
    """Whether there is nothing to judge: everything answers, every report is there, Coder calls nothing
    an error."""
    if region.error is not None or region.severity is Severity.ERROR or region.node_count > len(region.nodes):
        return False
    return not any(
        node.error is not None
        or node.severity is Severity.ERROR
        or _is_silent(node)
        or (not node.stun_only and (node.uses_websocket or not node.can_exchange_messages))
        for node in region.nodes
    )


def _judge_region(region: ReportedRegion, *, stun_answers: bool) -> _Judged:
    result = _convert_region(region, stun_answers=stun_answers)
    relays = [node for node in region.nodes if not node.stun_only]
    report = assess_region(result)
    return _Judged(
        reported=region,
        result=result,
        relays=tuple((node, judge_relay(relay)) for node, relay in zip(relays, result.relays, strict=True)),
        code=report.findings[0].code if report.findings else None,
        not_judged=report.not_judged,
    )


def _tell_region(judged: _Judged, told: defaultdict[str, list[str]]) -> None:
    where = name_region(judged.reported)
    bad = [(node, state) for node, state in judged.relays if state is not RelayState.WORKS]
    told_nodes = [f"{_name_node(node)} {_tell_state(node, state)}" for node, state in bad]
    if judged.code is not None:
        told[judged.code].append(f"{where}: {list_few(told_nodes)}")
    fallen_back = [_name_node(node) for node, state in bad if state is RelayState.WEBSOCKET_ONLY]
    if fallen_back:
        told["EDERP01"].append(f"{where}: {list_few(fallen_back)}")


def _choose_stun_code(regions: Sequence[RegionResult], *, stun_answers: bool) -> str | None:
    """Return the one code that tells of silent STUN servers: that none answers, or that some do not."""
    missing = ("missing",) if any(region.pending for region in regions) else ()
    section = assess_section(DerpResult(regions=tuple(regions), map_age_seconds=0.0, stun_pending=missing))
    if not stun_answers and any(finding.code == "ESTUN01" for finding in section.findings):
        return "ESTUN01"
    reports = (assess_stun(server) for region in regions for server in region.stun)
    return next((finding.code for report in reports for finding in report.findings), None)


def _find_unnamed(judged: _Judged, *, stun_named: bool) -> Iterable[str]:
    """Return what Coder calls an error here without anybody naming it. A text that comes without a
    code names nothing: it says that a check crashed."""
    region = judged.reported
    where = name_region(region)
    told = 0
    named = judged.code is not None or any(message.code for message in region.messages)
    states = dict(judged.relays)
    for node in region.nodes:
        down = judged.code is not None and states.get(node) is RelayState.DOWN
        coded = any(message.code for message in (*region.messages, *node.messages))
        node_named = down or coded or (stun_named and _is_silent(node))
        named = named or node_named
        if node.error is not None or (node.severity is Severity.ERROR and not node_named):
            told += 1
            yield f"{_name_node(node)} of {where}: {node.error or _tell_trouble(node)}"
    if region.error is not None:
        yield f"{where}: {region.error}"
    elif region.severity is Severity.ERROR and not named and not told:
        yield f"{where}: error without a reason"


def _convert_region(region: ReportedRegion, *, stun_answers: bool) -> RegionResult:
    """A node without a report is pending: it may be a relay, and nobody knows how it is. More than two
    of them change nothing."""
    missing = max(region.node_count - len(region.nodes), 0)
    return RegionResult(
        region_id=region.region_id,
        name=region.name,
        code=region.code,
        embedded=region.embedded,
        node_count=max(region.node_count, len(region.nodes)),
        relays=tuple(_convert_relay(region, node) for node in region.nodes if not node.stun_only),
        stun=tuple(
            _convert_stun(region, node, others_answer=stun_answers) for node in region.nodes if node.stun_enabled
        ),
        pending=("missing",) * min(missing, 2),
    )


def _convert_relay(region: ReportedRegion, node: ReportedNode) -> RelayResult:
    """Coder's client tries the raw upgrade, and WebSocket once that was refused. By what it was refused
    is not told; HTTP/2 stands for it, since both are judged the same."""
    exchanges, fell_back = node.can_exchange_messages, node.uses_websocket
    name = NodeName(region_id=region.region_id, region_name=region.name, node=node.name)
    transports = [_convert_transport(name, RAW, up=exchanges and not fell_back, refused=fell_back)]
    if fell_back:
        transports.append(_convert_transport(name, WEBSOCKET, up=exchanges))
    return RelayResult(name=name, transports=tuple(transports))


def _convert_transport(name: NodeName, transport: str, *, up: bool, refused: bool = False) -> TransportResult:
    return TransportResult(
        name=name,
        transport=transport,
        phase_seconds={},
        http2=refused,
        failure=None if up else _SILENT,
        started_timestamp_seconds=0.0,
        duration_seconds=0.0,
    )


def _convert_stun(region: ReportedRegion, node: ReportedNode, *, others_answer: bool) -> StunResult:
    """Coder throws the latency away; that there was an answer is all that is judged."""
    attempt = StunAttempt(
        family="",
        address="",
        round_trip_seconds=0.0 if node.can_stun else None,
        failure=None if node.can_stun else _SILENT,
    )
    return StunResult(
        region_id=region.region_id,
        region_name=region.name,
        node=node.name,
        host=node.host,
        port=0,
        attempts=(attempt,),
        others_answer=others_answer,
    )


def _is_silent(node: ReportedNode) -> bool:
    return node.stun_enabled and not node.can_stun


def _name_node(node: ReportedNode) -> str:
    name = cut(node.name, MAX_NAME_CHARS)
    return f"{name} ({cut(node.host, MAX_NAME_CHARS)})" if node.host else name


def _tell_state(node: ReportedNode, state: RelayState) -> str:
    if state is RelayState.WEBSOCKET_ONLY:
        return "works only by WebSocket"
    if node.uses_websocket:
        return "refuses the raw upgrade, and by WebSocket no message passes either"
    return "lets no message pass"


def _tell_trouble(node: ReportedNode) -> str:
    if _is_silent(node):
        return f"STUN: {node.stun_error or 'no answer'}"
    if node.stun_only or node.can_exchange_messages:
        return "error without a reason"
    return "no message passes"
