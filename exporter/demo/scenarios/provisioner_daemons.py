"""Scenarios of the provisioner daemons and the jobs that wait for them."""

from __future__ import annotations

from exporter.demo.breakages import daemons
from exporter.demo.scenario import Scenario, says, says_inside

SCENARIOS = (
    Scenario(
        name="EPD01",
        words="No provisioner daemon has been seen for three minutes.",
        breaks=(daemons.silence_daemons(),),
        foreseen=says(provisioner_daemons="EPD01:error"),
        without_database=says(provisioner_daemons="EPD01:error"),
        inside=says_inside(provisioner_daemons="EPD01:error"),
        resource="the provisioner daemons",
    ),
    Scenario(
        name="EPD02",
        words="One provisioner daemon is of an older minor version.",
        breaks=(daemons.change_daemon("builder-1", version="v2.20.1"),),
        foreseen=says(provisioner_daemons="EPD02:warning"),
        without_database=says(provisioner_daemons="EPD02:warning"),
        inside=says_inside(provisioner_daemons="EPD02:warning"),
        later="When that outlives the version grace, XRPT06 tells of a roll-out that is stuck.",
        resource="the provisioner daemons",
    ),
    Scenario(
        name="EPD03",
        words="One provisioner daemon speaks another major version of the API.",
        breaks=(daemons.change_daemon("builder-1", api_version="2.0"),),
        foreseen=says(provisioner_daemons="EPD03:warning"),
        without_database=says(provisioner_daemons="EPD03:warning"),
        inside=says_inside(provisioner_daemons="EPD03:warning"),
        later="When that outlives the version grace, XRPT06 tells of a roll-out that is stuck.",
        resource="the provisioner daemons",
    ),
    Scenario(
        name="EUNKNOWN",
        words="One provisioner daemon shows no valid version.",
        breaks=(daemons.change_daemon("builder-1", version="banana"),),
        foreseen=says(provisioner_daemons="EUNKNOWN:error"),
        without_database=says(provisioner_daemons="EUNKNOWN:error"),
        inside=says_inside(provisioner_daemons="EUNKNOWN:error"),
        resource="the provisioner daemons",
    ),
    Scenario(
        name="XPD01",
        words="The list of provisioner daemons can be read neither from the API nor from the tables. Coder itself "
        "still can.",
        breaks=(daemons.hide_daemon_list(),),
        foreseen=says(provisioner_daemons="XPD01:warning"),
        without_database=says(provisioner_daemons="XPD01:warning"),
        resource="the rights of the exporter's role",
    ),
    Scenario(
        name="XPD02",
        words="A workspace build waits for a provisioner daemon with the tag gpu, and there is none. Coder's report "
        "does not look at jobs.",
        breaks=(daemons.let_job_wait({"scope": "organization", "owner": "", "gpu": "yes"}),),
        foreseen=says(provisioner_daemons="XPD02:error"),
        without_database=None,
        resource="the provisioner daemons",
    ),
)
