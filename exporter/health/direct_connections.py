"""Direct connections: what the network of this host lets through, and what to think of it.

What `coder netcheck` tells, as far as it can be told honestly without root. What is not known is
None, never False. Source: derp-stun, sections 5 and 7; contract, section 6.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from exporter.health.model import Failure, Finding, OffReason, Report, Section, Severity

# 1280 (inner packet) + 30 (WireGuard, as counted there) + 8 (UDP) + 60 (IP, the most): below it
# Coder's direct connections degrade or fail. Source: codersdk/healthsdk/interfaces.go
LOW_MTU_BYTES = 1378


@dataclass(frozen=True, slots=True, kw_only=True)
class MappedReply:
    """One STUN answer to the one socket that asked them all."""

    region_id: int
    node: str
    server_address: str
    mapped_address: str
    mapped_port: int
    round_trip_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Netcheck:
    """This host's way to the STUN servers and relays of the map.

    Args:
        udp: Any STUN answer came. None when no server was asked.
        stun_servers: How many servers were asked; `stun_answers` of them answered.
        ipv4, ipv6: A STUN answer over that family; None when no server has an address of it.
        ipv4_can_send, ipv6_can_send: The kernel took a datagram; None when none was tried.
        os_has_ipv6: A UDP socket can be bound to ::1.
        mapping_varies: The address mapping differs by destination (hard NAT); None with fewer
            than two destinations that answered.
        mapping_unstable: One destination saw two mappings.
        global_ipv4, global_ipv6: This host as servers see it, `address:port`. Personal: never a label.
        region_latency_seconds: By region id, the best of both families: the time that the relay
            takes to answer a small HTTP request on an open connection.
        preferred_region: The region of least latency, weighed by the map's scores; None: not known.
    """

    udp: bool | None = None
    stun_servers: int = 0
    stun_answers: int = 0
    ipv4: bool | None = None
    ipv6: bool | None = None
    ipv4_can_send: bool | None = None
    ipv6_can_send: bool | None = None
    os_has_ipv6: bool = False
    mapping_varies: bool | None = None
    mapping_unstable: bool = False
    global_ipv4: str | None = None
    global_ipv6: str | None = None
    replies: tuple[MappedReply, ...] = ()
    region_latency_seconds: Mapping[int, float] = field(default_factory=dict)
    region_ipv4_latency_seconds: Mapping[int, float] = field(default_factory=dict)
    region_ipv6_latency_seconds: Mapping[int, float] = field(default_factory=dict)
    preferred_region: int | None = None

    @property
    def udp_blocked(self) -> bool | None:
        """Whether of several STUN servers none answers. None when that cannot be told: a single server
        may be down, and where nothing could be sent (no address, no route) UDP is not what fails."""
        if self.stun_answers:
            return False
        sent = self.ipv4_can_send or self.ipv6_can_send
        return True if sent and self.stun_servers >= 2 else None


@dataclass(frozen=True, slots=True, kw_only=True)
class InterfaceFacts:
    """A network interface of this host that is up and has an address that is not link-local.

    `on_the_way`: the kernel uses it towards Coder, a relay or a STUN server.
    `towards`: to which of them, as `coder`, `relay` or `stun`.
    `tunnel`: by its kind, or by a configured name.
    """

    name: str
    mtu_bytes: int
    addresses: tuple[str, ...]
    tunnel: bool = False
    on_the_way: bool = False
    towards: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PathMTUFacts:
    """What size of IP packet passes to one STUN server with don't-fragment set, and is answered.

    `passed_bytes` is the largest that was answered, `failed_bytes` the smallest above it that was
    not; None: every size passed.
    """

    region_id: int
    region_name: str
    node: str
    family: str
    passed_bytes: int
    failed_bytes: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class DirectConnectionsResult:
    """One run of the section.

    Args:
        disabled: The deployment disables direct connections; None when nobody could tell.
        map_known: There is a DERP map; else nothing below was measured but interfaces.
        map_has_stun: The map names a STUN server.
        path_mtu: None when this platform cannot measure it.
        failure: Nothing at all could be measured, and why.
    """

    disabled: bool | None = None
    map_known: bool
    map_has_stun: bool = False
    netcheck: Netcheck
    interfaces: tuple[InterfaceFacts, ...] = ()
    path_mtu: tuple[PathMTUFacts, ...] | None = None
    off: OffReason | None = None
    failure: Failure | None = None


def assess(result: DirectConnectionsResult) -> Report:
    """Judge this host's network on the way to Coder, its relays and STUN servers.

    Nothing here is an error: workspaces are reached through relays all the same. What was not
    measured is not judged, so that a map that is lost for a while clears nothing.

    Source: contract, sections 6 and 8; derp-stun, sections 5.3 and 7.
    """
    if result.off is not None:
        return Report(section=Section.DIRECT_CONNECTIONS, off=result.off)
    findings: list[Finding] = []
    not_judged: set[str] = set()
    _judge_deployment(result, findings, not_judged)
    _judge_udp(result, findings, not_judged)
    _judge_way(result, findings, not_judged)
    return Report(
        section=Section.DIRECT_CONNECTIONS,
        findings=tuple(findings),
        failure=result.failure,
        not_judged=frozenset(not_judged),
    )


def coder_interface_warnings(interfaces: Iterable[InterfaceFacts]) -> tuple[Finding, ...]:
    """Return EIF01 for each interface by Coder's own rule, on the way or not: for the JSON, which
    shows what `coder netcheck` shows."""
    return tuple(
        _warning(
            "EIF01", f"interface {_tell_interface(interface)}: below {LOW_MTU_BYTES} bytes, direct connections may fail"
        )
        for interface in interfaces
        if _low(interface)
    )


def _judge_deployment(result: DirectConnectionsResult, findings: list[Finding], not_judged: set[str]) -> None:
    if result.disabled is None:
        not_judged.add("XNET01")
    elif result.disabled:
        sentence = "direct connections are disabled for the deployment: all traffic goes through relays"
        findings.append(Finding(code="XNET01", severity=Severity.OK, message=sentence))
    if not result.map_known:
        not_judged.add("XNET02")
    elif not result.map_has_stun and not result.disabled:
        # a deployment that disables direct connections takes STUN out of its map
        sentence = "the DERP map names no STUN server: peers do not learn their addresses and stay on relays"
        if result.disabled is None:
            sentence += ", unless direct connections are disabled, which only a valid session token can tell"
        findings.append(_warning("XNET02", sentence))


def _judge_udp(result: DirectConnectionsResult, findings: list[Finding], not_judged: set[str]) -> None:
    netcheck = result.netcheck
    if netcheck.udp_blocked:
        sentence = f"UDP is blocked: none of {netcheck.stun_servers} STUN servers answers this host"
        findings.append(_warning("XNET03", sentence))
        not_judged.add("XNET04")  # whatever the NAT was, nothing new is known of it
        return
    without_stun = result.map_known and not result.map_has_stun  # which is XNET02
    if netcheck.udp_blocked is None and not without_stun:
        not_judged.add("XNET03")
    if netcheck.mapping_varies is None:
        not_judged.add("XNET04")
    elif netcheck.mapping_varies:
        sentence = "this host is behind a hard NAT: its address mapping varies by destination"
        if netcheck.mapping_unstable:
            sentence += ", and changes for one destination too"
        findings.append(_warning("XNET04", sentence))


def _judge_way(result: DirectConnectionsResult, findings: list[Finding], not_judged: set[str]) -> None:
    way = [interface for interface in result.interfaces if interface.on_the_way]
    narrow = [f"interface {_tell_interface(interface)}" for interface in way if _low(interface)]
    narrow += [_tell_path(path) for path in _find_narrow_paths(result.path_mtu or ())]
    if narrow:
        sentence = f"below {LOW_MTU_BYTES} bytes direct connections degrade or fail: {_list(narrow)}"
        findings.append(_warning("EIF01", sentence))
    elif not way or not result.map_known:
        not_judged.add("EIF01")
    tunnels = [_tell_interface(interface) for interface in way if interface.tunnel]
    if tunnels:
        findings.append(_warning("XNET05", f"a VPN or tunnel interface is on the way: {_list(tunnels)}"))
    elif not way or not result.map_known:
        not_judged.add("XNET05")


_FAMILIES = {"ipv4": "IPv4", "ipv6": "IPv6"}
_MAX_LISTED = 5


def _low(interface: InterfaceFacts) -> bool:
    # some systems say 0 or less where they have no MTU
    return 0 < interface.mtu_bytes < LOW_MTU_BYTES


def _find_narrow_paths(paths: Iterable[PathMTUFacts]) -> list[PathMTUFacts]:
    """Return the paths that do not carry a packet of the wanted size. Where another server of the
    family did answer one, this host's network carries it, and the silence is the server's own. A
    path whose limit may lie on either side of the wanted size is not judged narrow."""
    known = list(paths)
    wide = {path.family for path in known if path.passed_bytes >= LOW_MTU_BYTES}
    return [
        path
        for path in known
        if path.family not in wide and path.failed_bytes is not None and path.failed_bytes <= LOW_MTU_BYTES
    ]


def _tell_interface(interface: InterfaceFacts) -> str:
    told = f"{interface.name} (MTU {interface.mtu_bytes} bytes"
    if interface.towards:
        told += f", towards {', '.join(interface.towards)}"
    return told + ")"


def _tell_path(path: PathMTUFacts) -> str:
    return (
        f"the {_FAMILIES.get(path.family, path.family)} path to STUN server {path.region_id}/{path.node[:64]} "
        f"carries packets of {path.passed_bytes} bytes, but not of {path.failed_bytes}"
    )


def _list(told: list[str]) -> str:
    more = len(told) - _MAX_LISTED
    return "; ".join(told[:_MAX_LISTED]) + (f"; and {more} more" if more > 0 else "")


def _warning(code: str, message: str) -> Finding:
    return Finding(code=code, severity=Severity.WARNING, message=message)
