"""Many relays in the real exporter: CPU a node, how long a check takes, and how true its round trips are.

The real command with an observer inside (`watched`) reads a static map, whose nodes have names of
their own and all are one relay. A single calm client (`derp_calm_client`) passes messages through
the same relay in the same span, and a scraper comes every ten seconds.
"""

from __future__ import annotations

import json
import re
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from tests.bench.derp_programs import Relay, derper, make_map, measure_cpu_seconds
from tests.bench.load import Quantiles
from tests.bench.programs import BenchError, exporter, fetch, started
from tests.bench.scraping import count_series
from tests.bench.watched import OUTPUT_VARIABLE

SCRAPE_SECONDS = 10.0
# as many as 500 nodes once a minute
CHECKS_PER_SECOND = 500 / 60
_CALM_PER_SECOND = 5
_NODES_A_REGION = 10
_SETTLE_SECONDS = 2.0
_ROUND_TRIP = re.compile(r'^coder_health_derp_round_trip_seconds\{.*transport="(\w+)".*\} (\S+)$', re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class DerpLoad:
    """What a run with so many nodes showed; times in seconds.

    `shown` are the round trips as /metrics had them, by transport, `true` those of the calm client.
    `took` is a check of one transport. `cpu` is of the whole process, per node and run of both
    transports and its STUN server.
    """

    nodes: int
    interval_seconds: float
    series: int
    checks: int
    cpu: float
    cpu_share: float
    took: Quantiles
    shown: dict[str, Quantiles]
    true: Quantiles


def choose_interval(nodes: int) -> float:
    """Return the interval in seconds at which so many nodes are as busy as 500 are with one of a minute."""
    return max(1.0, nodes / CHECKS_PER_SECOND)


def measure(directory: Path, *, nodes: int, seconds: float) -> DerpLoad:
    """Run the load for so long, and long enough that every node has had its turn.

    Raises:
        MissingError: There is no relay to be had.
    """
    interval_seconds = choose_interval(nodes)
    seconds = max(seconds, interval_seconds + 2.0)
    output, calm = directory / "watched-derp.json", directory / "calm-derp.jsonl"
    with derper(directory) as relay:
        config = _write_config(directory, relay, nodes=nodes, interval_seconds=interval_seconds)
        client = [sys.executable, "-m", "tests.bench.derp_calm_client", str(relay.port), str(_CALM_PER_SECOND)]
        with (
            started([*client, str(calm)], directory / "calm-derp.log"),
            exporter(
                directory,
                config=config,
                environment={OUTPUT_VARIABLE: str(output)},
                module=("-m", "tests.bench.watched"),
            ) as program,
        ):
            time.sleep(_SETTLE_SECONDS)
            begun, cpu_before = time.monotonic(), measure_cpu_seconds(program)
            shown: dict[str, list[float]] = {}
            pause = min(SCRAPE_SECONDS, interval_seconds)
            while (left := begun + seconds - time.monotonic()) > 0:
                time.sleep(min(left, pause))
                body = fetch(program.port, "/metrics").decode()
                # each node once an interval
                if interval_seconds <= SCRAPE_SECONDS or left <= pause:
                    for transport, value in _ROUND_TRIP.findall(body):
                        shown.setdefault(transport, []).append(float(value))
            ended = time.monotonic()
            spent = measure_cpu_seconds(program) - cpu_before
    noted = json.loads(output.read_text())["relays"]
    took = [took for stamp, _, took in noted if begun <= stamp <= ended]
    if any(not up for stamp, up, _ in noted if begun <= stamp <= ended):
        raise BenchError("a check of a relay failed: what was measured would be another thing")
    true = [json.loads(line) for line in calm.read_text().splitlines() if line.endswith("]")]
    checks = len(took) // 2
    return DerpLoad(
        nodes=nodes,
        interval_seconds=interval_seconds,
        series=count_series(body),
        checks=checks,
        cpu=spent / max(1, checks),
        cpu_share=spent / (ended - begun),
        took=Quantiles.of(took),
        shown={transport: Quantiles.of(values) for transport, values in shown.items()},
        true=Quantiles.of([seconds for stamp, seconds in true if begun <= stamp <= ended]),
    )


def _write_config(directory: Path, relay: Relay, *, nodes: int, interval_seconds: float) -> Path:
    names = [f"n{number}" for number in range(nodes)]
    regions = [names[start : start + _NODES_A_REGION] for start in range(0, nodes, _NODES_A_REGION)]
    derp_map = directory / "derp-map.json"
    derp_map.write_text(json.dumps(make_map(regions, relay, tls=False)))
    interval = f"{round(interval_seconds * 1000)}ms"
    others = ("access_url", "websocket", "database", "workspace_proxy", "provisioner_daemons", "direct_connections")
    sections: dict[str, object] = {section: {"enabled": False} for section in others}
    sections["derp"] = {
        "interval": interval,
        "timeout": "1s" if interval_seconds <= 10 else "10s",
        "map": {"file": str(derp_map)},
        "allow_hosts": ["127.0.0.1"],
        # the pairs of a region are one relay here: there is no mesh to be seen
        "mesh": False,
    }
    # nobody answers there, and nobody is asked
    deployment = {"name": "bench", "url": "http://127.0.0.1:9", "sections": sections}
    path = directory / "derp-load.yml"
    path.write_text(json.dumps({"deployments": [deployment]}))
    return path
