"""Scenarios of Coder's own report: how it is to be had, and what stands in it."""

from __future__ import annotations

from exporter.demo import fault_proxy
from exporter.demo.breakages import replicas, reports, rollout, token
from exporter.demo.scenario import ALL_REPORTED, Scenario, probed, says, says_inside
from exporter.health.model import Section

SCENARIOS = (
    Scenario(
        name="XRPT01",
        words="The exporter's session token is revoked: its grade falls, and no outage is told.",
        breaks=(token.revoke_token(),),
        foreseen=says(report="XRPT01:warning"),
        without_database=says(report="XRPT01:warning", workspace_proxy="EWP01:warning"),
        off=ALL_REPORTED,
        off_without_database=frozenset({probed(Section.PROVISIONER_DAEMONS)}),
        resource="the exporter's token",
    ),
    Scenario(
        name="XRPT02",
        words="The replica coderd-1 goes on answering with a report of an hour ago.",
        breaks=(reports.serve_old_report("coderd-1", age_seconds=3600.0),),
        foreseen=says(report="XRPT02:warning"),
        without_database=says(report="XRPT02:warning"),
        resource="the reports",
    ),
    Scenario(
        name="XRPT03",
        words="A check of Coder's report crashes. Coder itself counts that as ok.",
        breaks=(reports.crash_check("websocket"),),
        foreseen=says(report="XRPT03:error"),
        without_database=says(report="XRPT03:error"),
        inside=says_inside(websocket="EUNKNOWN:error"),
        resource="the reports",
    ),
    Scenario(
        name="XRPT04",
        words="Coder never gets done with its report: it answers 503 for ever.",
        fading=ALL_REPORTED,
        breaks=(reports.never_report(),),
        foreseen=says(report="XRPT04:warning"),
        without_database=says(report="XRPT04:warning"),
        resource="the reports",
    ),
    Scenario(
        name="XRPT05",
        words="The replica coderd-1 cannot reach the access URL from where it stands; the others can.",
        breaks=(replicas.break_hairpins(fault_proxy.Refuse(), "coderd-1"),),
        foreseen=says(report="XRPT05:warning"),
        without_database=says(report="XRPT05:warning"),
        inside=says_inside(access_url="EACS03:error", websocket="EWS01:error", derp="XDERP01:error"),
        resource="the way from the replicas to the access URL",
    ),
    Scenario(
        name="XRPT06",
        words="A roll-out gets stuck: the replica coderd-2 has a new minor version, and the others never follow.",
        breaks=(rollout.roll_out_stuck("coderd-2", version="v2.27.0"),),
        foreseen=says(report="XRPT06:warning"),
        without_database=says(report="XRPT06:warning"),
        inside=says_inside(provisioner_daemons="EPD02:warning"),
        resource="the provisioner daemons",
    ),
    Scenario(
        name="XRPT07",
        words="Coder cannot read its own table of provisioner daemons: its report has an error without a code.",
        breaks=(reports.fail_daemon_check("sql: connection is already closed"),),
        foreseen=says(report="XRPT07:error"),
        without_database=says(report="XRPT07:error"),
        inside=says_inside(provisioner_daemons=":error"),
        resource="the reports",
    ),
)
