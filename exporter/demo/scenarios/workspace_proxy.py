"""Scenarios of the workspace proxies and their list."""

from __future__ import annotations

from exporter.demo import faults
from exporter.demo.breakages import proxies
from exporter.demo.scenario import Scenario, says, says_inside

SCENARIOS = (
    Scenario(
        name="EWP01",
        words="The list of workspace proxies can be read neither from the API nor from the tables any more.",
        breaks=(proxies.hide_proxy_list(),),
        foreseen=says(workspace_proxy="EWP01:warning"),
        without_database=says(workspace_proxy="EWP01:warning"),
        resource="the rights of the exporter's role",
        inside=says_inside(workspace_proxy="EWP01:warning"),
    ),
    Scenario(
        name="EWP02",
        words="The list of workspace proxies could never be read.",
        breaks=(proxies.hide_proxy_list(),),
        foreseen=says(workspace_proxy="EWP02:error"),
        without_database=says(workspace_proxy="EWP02:error"),
        resource="the rights of the exporter's role",
        from_start=True,
        later="While an earlier list is at hand it is EWP01 that shows.",
        inside=says_inside(workspace_proxy="EWP01:warning"),
    ),
    Scenario(
        name="EWP04",
        words="The proxy eu reports an error about itself, so Coder takes its relay out of the DERP map.",
        breaks=(proxies.break_proxy("eu", lambda: faults.ReportErrors(errors=("the relay mesh is broken",))),),
        foreseen=says(workspace_proxy="EWP04:warning", derp="XDERP01:error"),
        without_database=says(workspace_proxy="EWP04:warning", derp="XDERP01:error"),
        inside=says_inside(workspace_proxy="EWP04:warning"),
    ),
    Scenario(
        name="XWP01",
        words="A proxy was created in Coder and has never registered.",
        breaks=(proxies.create_proxy("asia"),),
        foreseen=says(workspace_proxy="XWP01:warning"),
        without_database=says(workspace_proxy="XWP01:warning"),
        inside=says_inside(workspace_proxy=":warning"),
    ),
    Scenario(
        name="XWP02",
        words="The ports of both proxies are closed, and with them their relays.",
        breaks=(proxies.close_proxy("eu"), proxies.close_proxy("us")),
        foreseen=says(workspace_proxy="EWP04:warning XWP02:error", derp="XDERP01:error"),
        without_database=says(workspace_proxy="EWP04:warning XWP02:error", derp="XDERP01:error"),
        resource="the ports of the proxies",
        inside=says_inside(workspace_proxy="EWP04:warning"),
    ),
    Scenario(
        name="XWP03",
        words="The proxy eu is stopped in an orderly way: its replica's row says so.",
        breaks=(proxies.stop_proxy("eu"),),
        foreseen=says(workspace_proxy="XWP03:ok"),
        without_database=None,
        resource="the ports of the proxies",
        inside=says_inside(workspace_proxy="EWP04:warning"),
    ),
    Scenario(
        name="XWP04",
        words="The proxy eu is fine, but the answer of its primary never reaches it, so its report hangs and "
        "its relay is taken out of the DERP map.",
        breaks=(proxies.break_proxy("eu", lambda: faults.Hang(path="/healthz-report")),),
        foreseen=says(workspace_proxy="EWP04:warning XWP04:warning", derp="XDERP01:error"),
        without_database=says(workspace_proxy="EWP04:warning XWP04:warning", derp="XDERP01:error"),
        inside=says_inside(workspace_proxy="EWP04:warning"),
    ),
)
