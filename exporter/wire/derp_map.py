"""The DERP map: the relays and STUN servers that Coder tells its clients to use.

In: JSON, or what was decoded from it, of anybody: whoever runs the server, or writes a file, decides
what stands in it. Out: a `DerpMap` of bounded size in which every name can be shown and every host
and port can be dialled. What is wrong with one node or region takes that one away and leaves a
sentence; only what is no map at all is an error.

Unknown members are ignored, a missing one and null are its zero value.
Source: tailscale tailcfg/derpmap.go; Coder's fork adds EmbeddedRelay and ForceHTTP.
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from exporter.errors import WireError
from exporter.wire.url import parse_origin

MAX_REGIONS = 512
MAX_NODES = 512  # of all regions together
# What is looked at: nonsense of a few MiB holds millions of entries, and each costs time.
_MAX_ENTRIES = 4 * MAX_NODES
MAX_NAME_CHARS = 253  # what a name in the DNS may have at most
MAX_PROBLEMS = 100

DEFAULT_STUN_PORT = 3478
STUN_OFF = -1
# What maps write where a family is not to be used; any text that is no address means the same.
_FAMILY_OFF = "none"
_MAX_REGION_ID = (1 << 63) - 1
_MAX_SCORE = 1e9  # nobody means more, and infinity and NaN are none
_MAX_EXCERPT_CHARS = 60


class DerpMapError(WireError):
    """It is no DERP map at all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DerpNode:
    """One server of a region: a relay, a STUN server, or both. Defaults are what a missing member means.

    Args:
        name: Unique in its region. Without a slash, so that it can stand in a path.
        host_name: In lower case, perhaps an IP address; empty when only addresses are given.
        cert_name: The name that its certificate bears, or a pin `sha256-raw:<hex>`; empty: `host_name`.
        ipv4, ipv6: The address of that family; empty: resolve `host_name`; None: the family is not
            to be used.
        stun_port: 0 is 3478, -1 is no STUN.
        stun_only: It is no relay.
        derp_port: 0 is the default, see `relay_port`.
        insecure: Its certificate is not to be verified (InsecureForTests).
        force_http: It speaks plain HTTP.
        stun_test_ip: Where its STUN server is instead of its own address; empty: nowhere else.
    """

    name: str
    region_id: int
    host_name: str = ""
    cert_name: str = ""
    ipv4: str | None = ""
    ipv6: str | None = ""
    stun_port: int = 0
    stun_only: bool = False
    derp_port: int = 0
    insecure: bool = False
    force_http: bool = False
    stun_test_ip: str = ""

    @property
    def relay(self) -> bool:
        return not self.stun_only

    @property
    def relay_port(self) -> int:
        """The port of the relay. Source: Coder coderd/healthcheck/derphealth/derp.go, derpURL"""
        return self.derp_port or (80 if self.force_http else 443)

    @property
    def stun(self) -> bool:
        return self.stun_port >= 0

    @property
    def stun_port_number(self) -> int | None:
        """The port of the STUN server; None without one."""
        return (self.stun_port or DEFAULT_STUN_PORT) if self.stun else None


@dataclass(frozen=True, slots=True, kw_only=True)
class DerpRegion:
    """Servers near to one another, in the order in which clients try them.

    Args:
        region_id: Above zero.
        name: Fit to be shown and never empty: RegionName, else RegionCode, else `region <id>`.
            Two regions may bear the same one.
        embedded: Its relay is the one inside coderd.
        avoid: Clients do not make it their home.
    """

    region_id: int
    code: str = ""
    name: str
    embedded: bool = False
    avoid: bool = False
    nodes: tuple[DerpNode, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class DerpMap:
    """The map.

    Args:
        regions: By ascending id.
        region_scores: Factor on a region's latency when clients choose their home, by region id;
            a missing one is 1.0.
        problems: A sentence for each thing that was left out or set right.
        dropped_nodes: Nodes that were left out.
    """

    regions: tuple[DerpRegion, ...] = ()
    region_scores: Mapping[int, float] = field(default_factory=dict)
    problems: tuple[str, ...] = ()
    dropped_nodes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionInfo:
    """What Coder tells to those who want to reach workspaces: the map, and what the deployment
    wants of its clients. None: it does not say."""

    derp_map: DerpMap
    force_websockets: bool | None = None
    direct_disabled: bool | None = None
    hostname_suffix: str | None = None


def parse_derp_map(data: bytes | str | Mapping[str, Any]) -> DerpMap:
    """Return the map.

    Args:
        data: JSON, or an object that was decoded from it. How long it may be is the caller's matter.

    Raises:
        DerpMapError: No JSON object with `Regions`, which is an object or null.
    """
    return _Reader().read_map(_decode_object(data))


def parse_connection_info(data: bytes | str | Mapping[str, Any]) -> ConnectionInfo:
    """Return what `/api/v2/workspaceagents/connection` answers.

    Raises:
        DerpMapError: No JSON object with a DERP map in `derp_map`.
    """
    value = _decode_object(data)
    derp_map = value.get("derp_map")
    if not isinstance(derp_map, Mapping):
        raise DerpMapError(f"derp_map is {_say_kind(derp_map)} instead of an object")
    suffix = value.get("hostname_suffix")
    return ConnectionInfo(
        derp_map=parse_derp_map(derp_map),
        force_websockets=_flag_or_none(value.get("derp_force_websockets")),
        direct_disabled=_flag_or_none(value.get("disable_direct_connections")),
        hostname_suffix=_make_showable(suffix) if isinstance(suffix, str) else None,
    )


def dump_derp_map(derp_map: DerpMap) -> dict[str, Any]:
    """Return the map as Coder writes it, fit for `json.dumps`: members that are zero are left out
    where Go's tags say so. Reading it again gives the same map."""
    dumped: dict[str, Any] = {
        "Regions": {str(region.region_id): _dump_region(region) for region in derp_map.regions},
    }
    if derp_map.region_scores:
        scores = {str(region_id): score for region_id, score in derp_map.region_scores.items()}
        dumped = {"HomeParams": {"RegionScore": scores}} | dumped
    return dumped


def _dump_region(region: DerpRegion) -> dict[str, Any]:
    return {
        "EmbeddedRelay": region.embedded,
        "RegionID": region.region_id,
        "RegionCode": region.code,
        "RegionName": region.name,
        **({"Avoid": True} if region.avoid else {}),
        "Nodes": [_dump_node(node) for node in region.nodes],
    }


def _dump_node(node: DerpNode) -> dict[str, Any]:
    optional = {
        "CertName": node.cert_name,
        "IPv4": _FAMILY_OFF if node.ipv4 is None else node.ipv4,
        "IPv6": _FAMILY_OFF if node.ipv6 is None else node.ipv6,
        "STUNPort": node.stun_port,
        "STUNOnly": node.stun_only,
        "DERPPort": node.derp_port,
        "InsecureForTests": node.insecure,
        "ForceHTTP": node.force_http,
        "STUNTestIP": node.stun_test_ip,
    }
    return {
        "Name": node.name,
        "RegionID": node.region_id,
        "HostName": node.host_name,
        **{member: value for member, value in optional.items() if value},
    }


# reading


class _UnusableError(Exception):
    """A node or a region has to be left out; the text says why."""


class _Reader:
    """Reads one map: what is counted over all its regions is here."""

    def __init__(self) -> None:
        self._problems: list[str] = []
        self._unsaid_problems = 0
        self._nodes = 0
        self._entries_left = _MAX_ENTRIES
        self._dropped_nodes = 0
        self._told_of_rest = False

    def read_map(self, value: Mapping[str, Any]) -> DerpMap:
        entries = value.get("Regions")
        # as Go writes it, the member is always there: somebody else's object is no empty map
        if "Regions" not in value or not (entries is None or isinstance(entries, Mapping)):
            raise DerpMapError(f"Regions is {_say_kind(entries)} instead of an object")
        regions: list[DerpRegion] = []
        for region_id, entry in self._order(entries or {}):
            if len(regions) == MAX_REGIONS:
                self._leave_out(f"region {region_id}: the map has more than {MAX_REGIONS} regions", entry)
                continue
            try:
                regions.append(self._read_region(region_id, entry))
            except _UnusableError as error:
                self._leave_out(f"region {region_id}: {error}", entry)
        scores = self._read_scores(value.get("HomeParams"), {region.region_id for region in regions})
        if self._unsaid_problems:
            self._problems.append(f"and {self._unsaid_problems} more problems")
        return DerpMap(
            regions=tuple(regions),
            region_scores=scores,
            problems=tuple(self._problems),
            dropped_nodes=self._dropped_nodes,
        )

    def _order(self, entries: Mapping[Any, Any]) -> list[tuple[int, Any]]:
        """Return the regions by ascending id; those without a usable or with a doubled one are gone."""
        by_id: dict[int, Any] = {}
        if len(entries) > _MAX_ENTRIES:
            self._note(f"the map has {len(entries)} regions: those after the first {_MAX_ENTRIES} are not read")
            self._dropped_nodes += sum(map(_count_nodes, islice(entries.values(), _MAX_ENTRIES, None)))
        for key, entry in islice(entries.items(), _MAX_ENTRIES):
            region_id = _read_region_key(key)
            if region_id is None:
                self._leave_out(f"region {_quote(key)}: the key is no number above zero", entry)
            elif region_id in by_id:
                self._leave_out(f"region {_quote(key)}: the map has two regions with this id", entry)
            else:
                by_id[region_id] = entry
        return sorted(by_id.items(), key=lambda item: item[0])

    def _read_region(self, region_id: int, entry: Any) -> DerpRegion:
        region = _require_object(entry)
        own_id = _read_number(region, "RegionID")
        if own_id not in (0, region_id):
            self._note(f"region {region_id}: its RegionID is {_quote(own_id)}; the key counts")
        code = _make_showable(_read_text(region, "RegionCode"))
        name = _make_showable(_read_text(region, "RegionName"))
        embedded = _read_flag(region, "EmbeddedRelay")
        avoid = _read_flag(region, "Avoid") or _read_flag(region, "NoMeasureNoHome")
        nodes = region.get("Nodes")
        if not (nodes is None or isinstance(nodes, list | tuple)):
            raise _UnusableError(f"Nodes is {_say_kind(nodes)} instead of a list")
        return DerpRegion(
            region_id=region_id,
            code=code,
            name=name or code or f"region {region_id}",
            embedded=embedded,
            avoid=avoid,
            nodes=tuple(self._read_nodes(region_id, nodes or ())),
        )

    def _read_nodes(self, region_id: int, entries: list[Any] | tuple[Any, ...]) -> list[DerpNode]:
        nodes: list[DerpNode] = []
        names: set[str] = set()
        wanted = min(len(entries), self._entries_left)
        self._entries_left -= wanted
        if wanted < len(entries):
            self._dropped_nodes += len(entries) - wanted
            if not self._told_of_rest:
                self._told_of_rest = True
                self._note(f"region {region_id}: the map lists more than {_MAX_ENTRIES} nodes; the rest is not read")
        for index, entry in enumerate(entries[:wanted]):
            where = f"region {region_id}: node {index + 1}"
            try:
                if self._nodes == MAX_NODES:
                    raise _UnusableError(f"the map has more than {MAX_NODES} nodes")
                node = self._read_node(region_id, where, entry, names)
                names.add(node.name)
                nodes.append(node)
                self._nodes += 1
            except _UnusableError as error:
                self._dropped_nodes += 1
                self._note(f"{where}: {error}")
        return nodes

    def _read_node(self, region_id: int, where: str, entry: Any, taken: set[str]) -> DerpNode:
        value = _require_object(entry)
        name = _read_name(value)
        if name in taken:
            raise _UnusableError(f"the region has two nodes with the name {_quote(name)}")
        own_id = _read_number(value, "RegionID")
        host_name = _read_host(value)
        ipv4, ipv6 = _read_family(value, "IPv4"), _read_family(value, "IPv6")
        if not host_name:
            # nothing to resolve
            ipv4, ipv6 = ipv4 or None, ipv6 or None
        stun_test_ip = _read_text(value, "STUNTestIP")
        if not (host_name or ipv4 or ipv6 or stun_test_ip):
            raise _UnusableError(f"{_quote(name)} has neither a host nor an address")
        node = DerpNode(
            name=name,
            region_id=region_id,
            host_name=host_name,
            cert_name=_read_certificate_name(value),
            ipv4=ipv4,
            ipv6=ipv6,
            stun_port=_read_port(value, "STUNPort", least=STUN_OFF),
            stun_only=_read_flag(value, "STUNOnly"),
            derp_port=_read_port(value, "DERPPort", least=0),
            insecure=_read_flag(value, "InsecureForTests"),
            force_http=_read_flag(value, "ForceHTTP"),
            stun_test_ip=_read_test_address(stun_test_ip),
        )
        if own_id not in (0, region_id):
            self._note(f"{where}: its RegionID is {_quote(own_id)}; that of its region counts")
        return node

    def _read_scores(self, home: Any, region_ids: set[int]) -> dict[int, float]:
        """Return the scores of these regions. Those that are not above zero are ignored, as clients do."""
        scores = home.get("RegionScore") if isinstance(home, Mapping) else None
        if not isinstance(scores, Mapping):
            if home is not None and scores is not None:
                self._note(f"HomeParams: RegionScore is {_say_kind(scores)} instead of an object")
            return {}
        known: dict[int, float] = {}
        if len(scores) > _MAX_ENTRIES:
            self._note(f"HomeParams: RegionScore has {len(scores)} scores: only the first {_MAX_ENTRIES} are read")
        for key, score in islice(scores.items(), _MAX_ENTRIES):
            region_id = _read_region_key(key)
            if region_id is None or region_id not in region_ids:
                continue
            if isinstance(score, bool) or not isinstance(score, int | float) or not abs(score) < _MAX_SCORE:
                self._note(f"HomeParams: the score of region {region_id} is no number that clients can use")
            elif score > 0:
                known[region_id] = float(score)
        return dict(sorted(known.items()))

    def _leave_out(self, problem: str, region: Any) -> None:
        self._dropped_nodes += _count_nodes(region)
        self._note(problem)

    def _note(self, problem: str) -> None:
        if len(self._problems) < MAX_PROBLEMS:
            self._problems.append(problem)
        else:
            self._unsaid_problems += 1


def _count_nodes(region: Any) -> int:
    nodes = region.get("Nodes") if isinstance(region, Mapping) else None
    return len(nodes) if isinstance(nodes, list | tuple) else 0


def _decode_object(data: bytes | str | Mapping[str, Any]) -> Mapping[str, Any]:
    if isinstance(data, Mapping):
        return data
    try:
        text = data if isinstance(data, str) else data.decode()
        value = json.loads(text, parse_constant=_refuse_constant)
    except UnicodeDecodeError:
        raise DerpMapError("it is not UTF-8") from None
    except ValueError:
        raise DerpMapError(f"it is not JSON: it begins with {_quote(text)}") from None
    except RecursionError:
        raise DerpMapError("it is JSON that is nested too deeply") from None
    if not isinstance(value, dict):
        raise DerpMapError(f"it is JSON, but {_say_kind(value)} instead of an object")
    return value


def _refuse_constant(text: str) -> None:
    raise ValueError(f"{text} is no JSON")  # Python would take NaN and Infinity


def _read_region_key(key: Any) -> int | None:
    """Return the id of a region, which is a key in JSON and so a text; None when it is none."""
    if isinstance(key, str) and key.isascii() and key.isdigit() and len(key) <= 19:
        key = int(key)
    if isinstance(key, bool) or not isinstance(key, int) or not 0 < key <= _MAX_REGION_ID:
        return None
    return key


def _read_name(node: Mapping[str, Any]) -> str:
    name = _read_text(node, "Name")
    if not name:
        raise _UnusableError("it has no name")
    if len(name) > MAX_NAME_CHARS or not name.isprintable() or "/" in name:
        raise _UnusableError(f"{_quote(name)} cannot be a name")
    return name


def _read_host(node: Mapping[str, Any]) -> str:
    """Return a host that can stand in a URL, or nothing."""
    text = _read_text(node, "HostName")
    if not text:
        return ""
    address = _parse_address(text)
    if address is not None:
        return address
    try:
        if len(text) > MAX_NAME_CHARS or any(char in "/?#:[]\\" for char in text):
            raise WireError("a part of a URL that is no host")
        return parse_origin(f"https://{text}").host
    except WireError:
        raise _UnusableError(f"HostName {_quote(text)} is neither a name nor an address") from None


def _read_family(node: Mapping[str, Any], member: str) -> str | None:
    text = _read_text(node, member)
    if not text:
        return ""
    address = _parse_address(text)
    wants_ipv6 = member == "IPv6"
    # written as one family and meant as the other (IPv4-mapped) is neither
    if address is None or (":" in text) != wants_ipv6 or (":" in address) != wants_ipv6:
        return None
    return address


def _read_test_address(text: str) -> str:
    address = _parse_address(text) if text else ""
    if address is None:
        raise _UnusableError(f"STUNTestIP {_quote(text)} is no address")
    return address


def _read_certificate_name(node: Mapping[str, Any]) -> str:
    text = _read_text(node, "CertName")
    if len(text) > MAX_NAME_CHARS or not text.isprintable():
        raise _UnusableError(f"CertName {_quote(text)} cannot be a name")
    return text


def _read_port(node: Mapping[str, Any], member: str, *, least: int) -> int:
    number = _read_number(node, member)
    if not least <= number <= 0xFFFF:
        raise _UnusableError(f"{member} {_quote(number)} is no port")
    return number


def _parse_address(text: str) -> str | None:
    """Return an IP address in its usual form; None when it is none, or bears a zone, which means
    something on one host only. An IPv4-mapped one is the IPv4 address that the kernel would use."""
    if len(text) > MAX_NAME_CHARS or "%" in text:
        return None
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)


def _require_object(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise _UnusableError(f"it is {_say_kind(value)} instead of an object")
    return value


def _read_text(value: Mapping[str, Any], member: str) -> str:
    found = value.get(member)
    if found is None:
        return ""
    if not isinstance(found, str):
        raise _UnusableError(f"{member} is {_say_kind(found)} instead of a text")
    return found


def _read_number(value: Mapping[str, Any], member: str) -> int:
    found = value.get(member)
    if found is None:
        return 0
    if isinstance(found, bool) or not isinstance(found, int):
        raise _UnusableError(f"{member} is {_say_kind(found)} instead of a whole number")
    return found


def _read_flag(value: Mapping[str, Any], member: str) -> bool:
    found = value.get(member)
    if not (found is None or isinstance(found, bool)):
        raise _UnusableError(f"{member} is {_say_kind(found)} instead of true or false")
    return found is True


def _flag_or_none(value: Any) -> bool | None:
    return value if isinstance(value, bool) else None


def _make_showable(text: str) -> str:
    """Return a text that labels and pages can bear."""
    return "".join(char if char.isprintable() else "?" for char in text[:MAX_NAME_CHARS]).strip()


def _quote(value: Any) -> str:
    """Return a value as a sentence of ours may quote it: short, on one line."""
    if isinstance(value, int) and not -_MAX_REGION_ID < value < _MAX_REGION_ID:
        return "far too great"  # and too long to be written
    text = value if isinstance(value, str) else str(value)
    short = _make_showable(text[: _MAX_EXCERPT_CHARS + 1])
    return repr(short if len(text) <= _MAX_EXCERPT_CHARS else short[:_MAX_EXCERPT_CHARS] + "...")


def _say_kind(value: Any) -> str:
    if value is None:
        return "missing"
    kinds: dict[type, str] = {
        bool: "true or false",
        int: "a number",
        float: "a number",
        str: "a text",
        list: "a list",
        tuple: "a list",
    }
    return kinds.get(type(value), "an object")
