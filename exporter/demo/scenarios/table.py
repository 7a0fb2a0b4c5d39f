"""The table of all scenarios, in the order in which they are listed and played."""

from __future__ import annotations

from collections.abc import Mapping

from exporter.demo.scenario import HEALTHY, Scenario
from exporter.demo.scenarios import (
    access_url,
    database,
    derp,
    direct_connections,
    exporter,
    provisioner_daemons,
    report,
    stories,
    websocket,
    workspace_proxy,
)

SCENARIOS: Mapping[str, Scenario] = {
    scenario.name: scenario
    for scenario in (
        Scenario(name=HEALTHY, words="Nothing is broken."),
        *access_url.SCENARIOS,
        *websocket.SCENARIOS,
        *database.SCENARIOS,
        *workspace_proxy.SCENARIOS,
        *derp.SCENARIOS,
        *direct_connections.SCENARIOS,
        *provisioner_daemons.SCENARIOS,
        *report.SCENARIOS,
        *exporter.SCENARIOS,
        *stories.SCENARIOS,
    )
}


def find(name: str) -> Scenario | None:
    """Return the scenario of that name in any letter case, or None."""
    wanted = name.casefold()
    return next((scenario for scenario in SCENARIOS.values() if scenario.name.casefold() == wanted), None)
