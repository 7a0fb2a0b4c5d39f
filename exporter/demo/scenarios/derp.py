"""Scenarios of relays and STUN servers."""

from __future__ import annotations

from exporter.demo import faults
from exporter.demo.breakages import front, relays, stun
from exporter.demo.scenario import Scenario, says, says_inside

SCENARIOS = (
    Scenario(
        name="EDERP01",
        words="Somebody on the way to Coder refuses the raw upgrade of its relay with 426; WebSocket passes.",
        breaks=(relays.change_relay("coder", raw_status=426, foreign=True),),
        foreseen=says(derp="EDERP01:warning"),
        without_database=says(derp="EDERP01:warning"),
        resource="the relays",
        inside=says_inside(derp="EDERP01:warning"),
    ),
    Scenario(
        name="EDERP02",
        words="One of three relays of a region is gone.",
        breaks=(relays.close_relay("1c"),),
        foreseen=says(derp="EDERP02:warning"),
        without_database=says(derp="EDERP02:warning"),
        resource="the relays",
        inside=says_inside(derp="EDERP02:warning"),
    ),
    Scenario(
        name="XDERP01",
        words="The relay of the proxy us, the only one of its region, answers 502 to every upgrade.",
        breaks=(relays.change_relay("us", raw_status=502, websocket_status=502, foreign=True),),
        foreseen=says(derp="XDERP01:error"),
        without_database=says(derp="XDERP01:error"),
        resource="the relays",
        inside=says_inside(derp="XDERP01:error"),
    ),
    Scenario(
        name="XDERP02",
        words="Two of three relays of a region are gone.",
        breaks=(relays.close_relay("1b"), relays.close_relay("1c")),
        foreseen=says(derp="XDERP02:warning"),
        without_database=says(derp="XDERP02:warning"),
        resource="the relays",
        inside=says_inside(derp=":error XDERP02:warning"),
    ),
    Scenario(
        name="XDERP03",
        words="Coder answers 500 wherever it should give its DERP map. The last map goes on being used.",
        breaks=(
            front.break_coder(lambda _: faults.Answer(path="/api/v2/derp-map", status=500), cut=True),
            front.break_coder(lambda _: faults.Answer(path="/api/v2/workspaceagents/connection", status=500)),
        ),
        foreseen=says(derp="XDERP03:error"),
        without_database=says(derp="XDERP03:error"),
    ),
    Scenario(
        name="XDERP04",
        words="One relay of a region passes nothing on to the others, and gets nothing from them.",
        breaks=(relays.change_relay("1b", mesh_cut=True),),
        foreseen=says(derp="XDERP04:warning"),
        without_database=says(derp="XDERP04:warning"),
        resource="the relays",
    ),
    Scenario(
        name="XDERP05",
        words="One of three relays of a region shows a certificate for another name.",
        breaks=(relays.show_relay_certificate("1b", "other-name"),),
        foreseen=says(derp="XDERP05:error EDERP02:warning"),
        without_database=says(derp="XDERP05:error EDERP02:warning"),
        resource="the relays",
        inside=says_inside(derp="EDERP02:warning"),
    ),
    Scenario(
        name="ESTUN01",
        words="No STUN server answers any more: all at once, so it is UDP that is blocked.",
        breaks=(stun.change_stun(silent=True),),
        foreseen=says(derp="ESTUN01:warning", direct_connections="XNET03:warning"),
        without_database=says(derp="ESTUN01:warning", direct_connections="XNET03:warning"),
        resource="the STUN servers",
        inside=says_inside(derp=":error ESTUN01:warning"),
    ),
    Scenario(
        name="ESTUN02",
        words="STUN servers see this host at different ports: its address mapping varies by destination.",
        breaks=(stun.change_stun(1, port_offset=1), stun.change_stun(2, port_offset=2)),
        foreseen=says(derp="ESTUN02:ok", direct_connections="XNET04:warning"),
        without_database=says(derp="ESTUN02:ok", direct_connections="XNET04:warning"),
        resource="the STUN servers",
        needs_several_addresses=True,
        inside=says_inside(derp="ESTUN02:ok"),
    ),
    Scenario(
        name="XSTUN01",
        words="One of several STUN servers is silent.",
        breaks=(stun.change_stun(0, silent=True),),
        foreseen=says(derp="XSTUN01:warning"),
        without_database=says(derp="XSTUN01:warning"),
        resource="the STUN servers",
        inside=says_inside(derp=":error XSTUN01:warning"),
    ),
)
