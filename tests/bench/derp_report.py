"""The report's part about DERP: measurements in, Markdown out."""

from __future__ import annotations

from collections.abc import Sequence

from tests.bench.derp_checks import CLIENTS, FLOOR, RAW, STUN, WHOLE
from tests.bench.derp_cost import PACE_PER_SECOND, CheckCost, DerpCosts
from tests.bench.derp_load import SCRAPE_SECONDS, DerpLoad
from tests.bench.derp_programs import VERSION
from tests.bench.load import Quantiles
from tests.bench.markdown import ms, prose, signed, table

# Source: the aims of the benchmark, as the issue that asked for it names them.
AIM_CPU_SECONDS = {"http": 0.00045, "https": 0.0018}
AIM_ROUND_TRIP_SECONDS = 0.0001
AIM_NODES = 500

_KINDS = {
    FLOOR: "bare protocol (the floor)",
    CLIENTS: "our client",
    RAW: "our probe, raw transport",
    WHOLE: "our probe, both transports",
    STUN: "STUN, one family",
}
_SCHEMES = {"http": "plain HTTP", "https": "TLS 1.3"}


def list_aims(costs: DerpCosts | None, loads: Sequence[DerpLoad]) -> list[tuple[str, str, str, bool]]:
    """Return the aims with what was reached, as rows of the report's first table."""
    rows = []
    for scheme, aim in AIM_CPU_SECONDS.items():
        for kind in (CLIENTS, RAW):
            cost = None if costs is None else costs.find(kind, scheme, "uvloop")
            if cost is not None:
                what = f"CPU of a DERP check, {_SCHEMES[scheme]}, {_KINDS[kind]}"
                rows.append((what, ms(aim), ms(cost.cpu), cost.cpu <= aim))
    for load in loads:
        if load.nodes == AIM_NODES and "derp" in load.shown:
            off = load.shown["derp"].p50 - load.true.p50
            what = f"DERP round trip off the true one, p50, {load.nodes} nodes / {load.interval_seconds:.0f} s"
            rows.append((what, ms(AIM_ROUND_TRIP_SECONDS), signed(off), abs(off) <= AIM_ROUND_TRIP_SECONDS))
    return rows


def write_costs(costs: DerpCosts | None) -> list[str]:
    if costs is None:
        return []
    return [
        "## One DERP check (`derp_cost`)",
        "",
        *(_write_costs(costs) if not costs.missing else _miss(costs.missing)),
    ]


def _write_costs(costs: DerpCosts) -> list[str]:
    return [
        *prose(
            f"""
            Against Tailscale's derper {VERSION} on loopback, one check after the other in a process of its own, of
            which CPU is user plus system time. A check is two connections, two logins, a message each way, and the
            close; the probe adds the lookup, a ping, the certificate's dates and the result, and the whole probe does
            it over WebSocket as well, 0.1 s later at most. The bare protocol does the same with the same crypto and
            nothing else, to tell what this machine gives in the same seconds: `of the floor` is the figure that other
            work on the machine changes least.
            """
        ),
        *table(
            ("transport", "event loop", "what", "CPU", "of the floor", "time p50 / p99", "round trip p50 / p99"),
            [_row(cost, costs) for cost in sorted(costs.checks, key=_rank)],
        ),
        *_write_reference(costs),
    ]


def _rank(cost: CheckCost) -> tuple[bool, bool, int]:
    return cost.scheme == "https", cost.event_loop == "asyncio", list(_KINDS).index(cost.kind)


def _row(cost: CheckCost, costs: DerpCosts) -> tuple[str, ...]:
    floor = costs.find(FLOOR, cost.scheme, cost.event_loop)
    share = "" if floor is None or cost.kind in (FLOOR, STUN) else f"{cost.cpu / floor.cpu:.2f}"
    transport = "UDP" if cost.kind == STUN else _SCHEMES[cost.scheme]
    return transport, cost.event_loop, _KINDS[cost.kind], ms(cost.cpu), share, _pair(cost.took), _pair(cost.round_trip)


def _write_reference(costs: DerpCosts) -> list[str]:
    if costs.reference is None:
        return _miss(f"the reference, Tailscale's derpprobe: {costs.no_reference}")
    reference = costs.reference
    ratios = [ours / theirs for ours, theirs in zip(reference.ours, reference.derpprobe, strict=True)]
    rows = [
        (ms(ours), ms(theirs), f"{ratio:.2f}")
        for ours, theirs, ratio in zip(reference.ours, reference.derpprobe, ratios, strict=True)
    ]
    return [
        *prose(
            f"""
            Beside Tailscale's own prober, derpprobe {VERSION} (Go), over TLS 1.3, both at the same time and
            {PACE_PER_SECOND} checks a second: our client on uvloop, and derpprobe's whole process. Its check is two
            connections and two logins as well, but passes one message instead of two, and its fast start spares it an
            answer of the relay. Over plain HTTP it is not measured: it refuses a relay without TLS.
            """
        ),
        *table(("our client", "derpprobe", "ratio"), rows),
    ]


def write_loads(loads: Sequence[DerpLoad], missing: str) -> list[str]:
    if not loads and not missing:
        return []
    heading = ["## DERP relays in the exporter (`derp_load`)", ""]
    if missing:
        return [*heading, *_miss(missing)]
    rows = [
        (
            f"{load.nodes} / {load.interval_seconds:.0f} s",
            str(load.checks),
            ms(load.cpu),
            f"{load.cpu_share:.1%}",
            _pair(load.took),
            _pair(load.true),
            *(_pair(load.shown.get(transport)) for transport in ("derp", "websocket")),
            _off(load),
        )
        for load in loads
    ]
    return [
        *heading,
        *prose(
            f"""
            The real command with a static map over plain HTTP, whose nodes all are one derper, with a scrape every
            {SCRAPE_SECONDS:.0f} s at least. CPU is that of the whole process for each run of a node: both transports,
            its STUN server, judgement, series and scrapes. The round trips are `coder_health_derp_round_trip_seconds`
            of all nodes; the true ones are those of a single calm client, a process of its own with blocking sockets,
            which logs in twice and passes a message each way through the same relay in the same span.
            """
        ),
        *table(
            (
                "nodes / interval",
                "runs",
                "CPU a run",
                "CPU of a core",
                "one transport's check p50 / p99",
                "true round trip p50 / p99",
                "shown, raw",
                "shown, WebSocket",
                "raw off the true one, p50 / p99",
            ),
            rows,
        ),
    ]


def _off(load: DerpLoad) -> str:
    raw = load.shown.get("derp")
    return "" if raw is None else f"{signed(raw.p50 - load.true.p50)} / {signed(raw.p99 - load.true.p99)}"


def _pair(quantiles: Quantiles | None) -> str:
    return "" if quantiles is None else f"{ms(quantiles.p50)} / {ms(quantiles.p99)}"


def _miss(reason: str) -> list[str]:
    return [f"Not measured: {reason}.", ""]
