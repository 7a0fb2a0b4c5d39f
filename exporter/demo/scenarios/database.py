"""Scenarios of Coder's database."""

from __future__ import annotations

from exporter.demo import fault_proxy, faults
from exporter.demo.breakages import database, front
from exporter.demo.scenario import ALL_REPORTED, Scenario, says, says_inside

SCENARIOS = (
    Scenario(
        name="EDB01",
        words="PostgreSQL is gone: connections are cut and refused. Coder cannot look up tokens any more.",
        breaks=(front.break_everywhere(lambda: faults.DatabaseGone()), database.break_lines(fault_proxy.Refuse())),
        foreseen=says(
            database="EDB01:error",
            workspace_proxy="EWP01:warning",
            provisioner_daemons="XPD01:warning",
            report="XRPT04:warning",
        ),
        without_database=None,
        fading=ALL_REPORTED,
        resource="the way to the database",
    ),
    Scenario(
        name="EDB02",
        words="Every way to PostgreSQL becomes 60 ms longer, from here and from each replica.",
        breaks=(database.break_lines(fault_proxy.Delay(to_client_seconds=0.06)),),
        foreseen=says(database="EDB02:warning"),
        without_database=None,
        resource="the way to the database",
        inside=says_inside(database="EDB02:warning"),
    ),
    Scenario(
        name="XDB01",
        words="The password of the exporter's role is changed. The list of proxies still comes from the API.",
        breaks=(database.change_password(),),
        foreseen=says(database="XDB01:warning"),
        without_database=None,
        resource="the rights of the exporter's role",
    ),
    Scenario(
        name="XDB02",
        words="A standby answers instead of the primary.",
        breaks=(database.use_standby(),),
        foreseen=says(database="XDB02:warning"),
        without_database=None,
        resource="the way to the database",
    ),
)
