"""The first broken layer of a deployment, and what is only its consequence. Pure.

In: the settled codes of a deployment's sections, as our own probes raise them (`Trouble`). Out: one
`RootCause`, or None while no layer is broken.

    dns -> tcp -> tls -> http -> websocket -> relay       one needs what stands left of it
                 database -> http (its answers), and all that needs a login
                         http -> proxy -> relays of that proxy

Source: contract, sections 5 and 8; field, section 6, idea 4
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from exporter.errors import Phase, Reason
from exporter.health.model import Section, Severity


class Layer(StrEnum):
    """Layers by which a deployment works, as the label `layer` names them."""

    DNS = "dns"
    TCP = "tcp"
    TLS = "tls"
    HTTP = "http"
    WEBSOCKET = "websocket"
    RELAY = "relay"
    DATABASE = "database"
    PROXY = "proxy"


@dataclass(frozen=True, slots=True, kw_only=True)
class RootCause:
    """The first broken layer.

    `sentence` says for people what is broken and by what that is seen. `consequences` are the sections
    whose trouble follows from it.
    """

    layer: Layer
    sentence: str
    consequences: tuple[Section, ...] = ()


class Relies(StrEnum):
    """What else a DERP region stands on."""

    CODER = "coder"  # the relay that is part of coderd
    LOST_PROXY = "lost_proxy"  # a relay of a workspace proxy that is itself down


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    """One settled code of one target.

    Args:
        phase, reason: Where and why the latest run that failed did; None when none did.
        coder_in_trouble: Coder itself answered, and said that it is in trouble: a 5xx, or its words.
        relies: Only of DERP regions; None for one that stands by itself.
    """

    section: Section | str
    code: str
    severity: Severity
    message: str = ""
    phase: Phase | None = None
    reason: Reason | None = None
    coder_in_trouble: bool = False
    relies: Relies | None = None


def find_root_cause(troubles: Iterable[Trouble], *, access_url_known: bool = True) -> RootCause | None:
    """Return the first broken layer; None while nothing is broken, or what is belongs to no layer.

    Only errors break a layer; warnings may still be consequences. A certificate that ends soon breaks
    nothing yet, and what says that a probe of ours broke (EUNKNOWN) tells of no layer.

    Args:
        access_url_known: The access URL is probed; else the websocket tells of the layers below it.
    """
    every = [trouble for trouble in troubles if trouble.severity >= Severity.WARNING]
    broken: dict[Layer, list[Trouble]] = {}
    for trouble in every:
        layer = _break(trouble, access_url_known=access_url_known)
        if layer is not None:
            broken.setdefault(layer, []).append(trouble)
    layer = _choose(broken)
    if layer is None:
        return None
    seen = broken[layer]
    # what a lost database does to Coder's answers goes on from there
    through = (Layer.DATABASE, Layer.HTTP) if layer is Layer.DATABASE and Layer.HTTP in broken else (layer,)
    return RootCause(layer=layer, sentence=_tell(layer, seen), consequences=tuple(_follow(through, seen, every)))


# which layer a code breaks

_HTTP_CODES = frozenset({"XACS01", "XACS02", "XACS04", "XACS06"})
_WEBSOCKET_CODES = frozenset({"EWS01", "EWS02", "EWS03", "XWS01"})
_RELAY_CODES = frozenset({"XDERP01", "XDERP03", "XDERP05"})
# A list that cannot be read (EWP01, EWP02) tells of no proxy: it may only follow from something else.
_PROXY_CODES = frozenset({"EWP04", "XWP02"})
_PHASES = {Phase.RESOLVE: Layer.DNS, Phase.CONNECT: Layer.TCP, Phase.TLS: Layer.TLS}
_REASONS = {
    Reason.RESOLVE: Layer.DNS,
    Reason.REFUSED: Layer.TCP,
    Reason.UNREACHABLE: Layer.TCP,
    Reason.TLS: Layer.TLS,
}
# Where both fail, the one on the left is the cause. A database that is lost breaks what Coder answers.
_ORDER = (Layer.DNS, Layer.TCP, Layer.TLS, Layer.DATABASE, Layer.HTTP, Layer.WEBSOCKET, Layer.RELAY, Layer.PROXY)


def _break(trouble: Trouble, *, access_url_known: bool) -> Layer | None:
    if trouble.severity < Severity.ERROR:
        return None
    match trouble.section:
        case Section.ACCESS_URL:
            if trouble.code in ("EACS01", "EACS02"):
                return Layer.DNS  # there is no name to ask for
            if trouble.code == "EACS03":
                return _find_depth(trouble)
            return Layer.HTTP if trouble.code in _HTTP_CODES else None
        case Section.WEBSOCKET if trouble.code in _WEBSOCKET_CODES:
            depth = None if access_url_known else _find_depth(trouble)
            return depth if depth in _PHASES.values() else Layer.WEBSOCKET
        case Section.DATABASE if trouble.code == "EDB01":
            return Layer.DATABASE
        case Section.DERP if trouble.code in _RELAY_CODES:
            return Layer.PROXY if trouble.relies is Relies.LOST_PROXY else Layer.RELAY
        case Section.WORKSPACE_PROXY if trouble.code in _PROXY_CODES:
            return Layer.PROXY
    return None


def _find_depth(trouble: Trouble) -> Layer | None:
    """How far the connection came. This host's own failure (no more sockets) tells of no layer."""
    if trouble.reason is Reason.INTERNAL:
        return None
    if trouble.phase is not None:
        return _PHASES.get(trouble.phase, Layer.HTTP)
    return Layer.HTTP if trouble.reason is None else _REASONS.get(trouble.reason, Layer.HTTP)


def _choose(broken: dict[Layer, list[Trouble]]) -> Layer | None:
    order: Sequence[Layer] = _ORDER
    if not all(trouble.coder_in_trouble for trouble in broken.get(Layer.HTTP, ())):
        # a page of somebody else, or silence: that is not what a lost database looks like
        order = [layer for layer in _ORDER if layer is not Layer.DATABASE]
        order.insert(order.index(Layer.HTTP) + 1, Layer.DATABASE)
    return next((layer for layer in order if layer in broken), None)


# what follows from what

_BELOW_HTTP = frozenset({Layer.DNS, Layer.TCP, Layer.TLS, Layer.HTTP})
# What clients, daemons and proxies of Coder cannot do while it is not reached.
_NEED_CODER: Mapping[Section | str, frozenset[str]] = {
    Section.WEBSOCKET: _WEBSOCKET_CODES,
    Section.WORKSPACE_PROXY: frozenset({"EWP01", "EWP02", "EWP04", "XWP02", "XWP04"}),
    Section.PROVISIONER_DAEMONS: frozenset({"EPD01", "XPD01", "XPD02"}),
    Section.REPORT: frozenset({"XRPT02", "XRPT04"}),
}
# What Coder cannot answer without its database.
_NEED_DATABASE: Mapping[Section | str, frozenset[str]] = {
    Section.WORKSPACE_PROXY: frozenset({"EWP01", "EWP02", "XWP04"}),
    Section.PROVISIONER_DAEMONS: frozenset({"EPD01", "XPD01", "XPD02"}),
    Section.DERP: frozenset({"XDERP03"}),
    Section.REPORT: frozenset({"XRPT02", "XRPT04"}),
}
# Daemons keep a websocket open.
_NEED_WEBSOCKET: Mapping[Section | str, frozenset[str]] = {
    Section.PROVISIONER_DAEMONS: frozenset({"EPD01", "XPD02"}),
}


def _follows(layer: Layer, trouble: Trouble) -> bool:
    section, code = trouble.section, trouble.code
    if layer in _BELOW_HTTP:
        if section == Section.DERP:
            return code == "XDERP03" or trouble.relies is not None
        return code in _NEED_CODER.get(section, ())
    if layer is Layer.DATABASE:
        if section in (Section.ACCESS_URL, Section.WEBSOCKET):
            return trouble.coder_in_trouble
        return code in _NEED_DATABASE.get(section, ())
    if layer is Layer.WEBSOCKET:
        if section == Section.DERP:
            return code == "XDERP03" or trouble.relies is Relies.CODER
        return code in _NEED_WEBSOCKET.get(section, ())
    return layer is Layer.PROXY and section == Section.DERP and trouble.relies is Relies.LOST_PROXY


_SOURCE = {
    Layer.DATABASE: Section.DATABASE,
    Layer.WEBSOCKET: Section.WEBSOCKET,
    Layer.RELAY: Section.DERP,
    Layer.PROXY: Section.WORKSPACE_PROXY,
}


def _follow(layers: tuple[Layer, ...], seen: list[Trouble], every: list[Trouble]) -> Iterable[Section]:
    """Sections all of whose worst trouble follows from one of these layers, the first broken one before the
    others: a section that is as bad by itself is no consequence."""
    layer = layers[0]
    shown_by = {trouble.section for trouble in seen if trouble.section in _SOURCE.values() or layer in _BELOW_HTTP}
    source = _SOURCE.get(layer)
    for section in Section:
        if section is source or (source is None and section in shown_by):
            continue
        own = [trouble for trouble in every if trouble.section == section]
        worst = max((trouble.severity for trouble in own), default=None)
        worst_own = [trouble for trouble in own if trouble.severity is worst]
        if own and all(any(_follows(one, trouble) for one in layers) for trouble in worst_own):
            yield section


# for people

_WORDS = {
    Layer.DNS: "the access URL's name leads nowhere",
    Layer.TCP: "no connection to the access URL can be opened",
    Layer.TLS: "the TLS handshake with the access URL fails",
    Layer.HTTP: "Coder does not answer as it should at the access URL",
    Layer.WEBSOCKET: "the access URL answers, but websockets do not pass",
    Layer.RELAY: "DERP relays do not work",
    Layer.DATABASE: "Coder's database does not answer",
    Layer.PROXY: "workspace proxies do not work",
}
_MAX_CHARS = 500


def _tell(layer: Layer, seen: list[Trouble]) -> str:
    source = _SOURCE.get(layer)
    first = next((trouble for trouble in seen if trouble.section == source), seen[0])
    more = f" (and {len(seen) - 1} more)" if len(seen) > 1 else ""
    said = first.message if len(first.message) <= _MAX_CHARS else first.message[:_MAX_CHARS] + "..."
    return f"{_WORDS[layer]}: {said}{more}" if said else f"{_WORDS[layer]}{more}"
