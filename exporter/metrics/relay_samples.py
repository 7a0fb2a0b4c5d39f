"""Facts of relays, STUN servers and this host's network as samples.

In: one result of the sections `derp` and `direct_connections`. Out: pieces of exposition text. What
several targets show together (the histogram of a region, the processes of a relay) is in
relay_series.py.

Names of regions and nodes come from a map that nobody vouches for. Two that are equal as labels
must not bring a series twice: inside one result the first one has it, between targets the board's
claims decide.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from exporter.health.derp import DerpResult, MeshResult, NodeName, TransportResult
from exporter.health.direct_connections import DirectConnectionsResult
from exporter.health.stun import StunResult
from exporter.metrics.labels import extend, sample

MESH_PATH_UP = "coder_health_derp_mesh_path_up"
_NODE_UP = "coder_health_derp_node_up"
_ROUND_TRIP = "coder_health_derp_round_trip_seconds"
_LOGIN = "coder_health_derp_login_duration_seconds"
_LOSS = "coder_health_derp_packet_loss_ratio"
_JITTER = "coder_health_derp_round_trip_jitter_seconds"
_STUN_UP = "coder_health_stun_up"
_STUN_ROUND_TRIP = "coder_health_stun_round_trip_seconds"
_CERTIFICATE = "coder_health_tls_certificate_not_after_timestamp_seconds"
_SKIPPED = "coder_health_derp_nodes_skipped"
_MTU = "coder_health_interface_mtu_bytes"
_PATH_MTU = "coder_health_path_mtu_bytes"

# What hangs on the names of a node, for the board's claims.
RELAY_FAMILIES = (_NODE_UP, _ROUND_TRIP, _LOGIN, _LOSS, _JITTER)
STUN_FAMILIES = (_STUN_UP, _STUN_ROUND_TRIP)

# Source: exporter/health/derp.py, Skipped
_SKIP_REASONS = ("host_not_allowed", "too_many", "invalid")

_Samples = Iterator[tuple[str, str]]


def name_relay(name: NodeName, transport: str, values: Mapping[str, str]) -> dict[str, str]:
    """Return a target's label values with those that name a relay and one of its transports."""
    return extend(values, derp_region=name.region_name, derp_node=name.node, transport=transport)


def render_transport(result: TransportResult, values: Mapping[str, str]) -> _Samples:
    values = name_relay(result.name, result.transport, values)
    loss = result.loss if result.loss is not None and result.loss.sent else None
    facts = {
        _NODE_UP: result.up,
        _ROUND_TRIP: result.round_trip_seconds[-1] if result.round_trip_seconds else None,
        _LOGIN: result.login_seconds,
        _LOSS: None if loss is None else loss.loss_ratio,
        _JITTER: None if loss is None else loss.jitter_seconds,
    }
    yield from _known(facts, values)
    if result.certificate is not None:
        ends = (
            ("leaf", result.certificate.leaf_timestamp_seconds),
            ("chain", result.certificate.chain_timestamp_seconds),
        )
        for position, not_after in ends:
            if not_after is not None:
                yield _CERTIFICATE, sample(_CERTIFICATE, extend(values, position=position), not_after)


def render_mesh(result: MeshResult, values: Mapping[str, str]) -> _Samples:
    """Every pair that was tried. Pairs with a relay that is down were not: it is the relay's fault."""
    values = extend(values, derp_region=result.region_name)
    return _once(
        (
            MESH_PATH_UP,
            sample(
                MESH_PATH_UP, extend(values, derp_node=path.source, peer_node=path.destination), path.failure is None
            ),
        )
        for path in result.paths
    )


def render_stun(result: StunResult, values: Mapping[str, str]) -> _Samples:
    """Each family that this host has a way to. A name that was not found tells no families apart."""
    values = extend(values, derp_region=result.region_name, derp_node=result.node)
    attempts = {attempt.family: attempt for attempt in result.attempts if not attempt.no_route}
    for family, attempt in attempts.items():
        facts = {_STUN_UP: attempt.up, _STUN_ROUND_TRIP: attempt.round_trip_seconds}
        yield from _known(facts, extend(values, family=family))


def render_derp(result: DerpResult, values: Mapping[str, str], started_timestamp_seconds: float) -> _Samples:
    """The map. Without one nothing is known of skipped nodes; its changes are counted all the same."""
    family = "coder_health_derp_map_changes_total"
    yield family, sample(family, values, result.map_changes)
    if result.map_age_seconds is None:
        return
    family = "coder_health_derp_map_last_success_timestamp_seconds"
    yield family, sample(family, values, started_timestamp_seconds - result.map_age_seconds)
    reasons = [node.reason for node in result.skipped]
    for reason in dict.fromkeys((*_SKIP_REASONS, *reasons)):
        count = reasons.count(reason) + (result.invalid_nodes if reason == "invalid" else 0)
        yield _SKIPPED, sample(_SKIPPED, extend(values, reason=reason), count)


def render_direct_connections(result: DirectConnectionsResult, values: Mapping[str, str]) -> _Samples:
    """This host's network."""
    facts = {
        "coder_health_nat_mapping_varies": result.netcheck.mapping_varies,
        "coder_health_udp_blocked": result.netcheck.udp_blocked,
        "coder_health_direct_connections_disabled": result.disabled,
    }
    yield from _known(facts, values)
    yield from _once(
        (_MTU, sample(_MTU, extend(values, interface=interface.name), interface.mtu_bytes))
        for interface in result.interfaces
        # some platforms tell a negative MTU for loopback. Source: derp-stun, section 7
        if interface.on_the_way and interface.mtu_bytes > 0
    )
    yield from _once(
        (_PATH_MTU, sample(_PATH_MTU, named, path.passed_bytes))
        for path in result.path_mtu or ()
        if path.passed_bytes > 0
        for named in (extend(values, derp_region=path.region_name, derp_node=path.node, family=path.family),)
    )


def _known(facts: Mapping[str, float | None], values: Mapping[str, str]) -> _Samples:
    for family, value in facts.items():
        if value is not None:
            yield family, sample(family, values, value)


def _once(samples: _Samples) -> _Samples:
    """Leave out series that were there before."""
    seen = set()
    for family, line in samples:
        series = line.rpartition(" ")[0]
        if series not in seen:
            seen.add(series)
            yield family, line
