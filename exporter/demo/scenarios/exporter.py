"""Scenarios of the exporter itself."""

from __future__ import annotations

from exporter.demo import faults
from exporter.demo.breakages import database, front, host, token
from exporter.demo.scenario import ALL_REPORTED, Scenario, says

SCENARIOS = (
    Scenario(
        name="XEXP01",
        words="The exporter's host loses its network: nobody answers any more, the reference address neither. Nothing "
        "else becomes active.",
        breaks=(host.lose_network(),),
        foreseen=says(
            access_url="EACS03:error",
            websocket="EWS01:error",
            database="EDB01:error",
            derp="XDERP01:error XDERP03:error ESTUN01:warning",
            workspace_proxy="EWP02:error",
            provisioner_daemons="XPD01:warning",
            direct_connections="XNET03:warning",
            report="XRPT04:warning",
            exporter="XEXP01:error",
        ),
        without_database=says(
            access_url="EACS03:error",
            websocket="EWS01:error",
            derp="XDERP01:error XDERP03:error ESTUN01:warning",
            workspace_proxy="EWP02:error",
            provisioner_daemons="XPD01:warning",
            direct_connections="XNET03:warning",
            report="XRPT04:warning",
            exporter="XEXP01:error",
        ),
        fading=ALL_REPORTED,
        # in single rounds nobody looks at the host before all else has failed
        on_schedule=True,
        quiet=True,
        resource="the network of the exporter's host",
        needs_silent_ports=True,
    ),
    Scenario(
        name="XEXP02",
        words="A migration keeps the table of organizations locked, and the API is slow: each run over the provisioner "
        "daemons waits for both and is longer than its interval.",
        breaks=(
            database.lock_table("organizations"),
            front.break_coder(lambda _: faults.Slow(path="/api/v2/organizations", seconds=1.0)),
        ),
        foreseen=says(exporter="XEXP02:warning"),
        without_database=None,
        on_schedule=True,
        # the exporter looks at its schedule every 15 s, and believes the fourth look
        lasts_seconds=75.0,
        resource="the provisioner daemons",
    ),
    Scenario(
        name="XEXP03",
        words="The exporter's session token ends in an hour, and its use does not move that.",
        breaks=(token.let_token_end(3600.0),),
        foreseen=says(exporter="XEXP03:warning"),
        without_database=says(exporter="XEXP03:warning"),
        resource="the exporter's token",
    ),
)
