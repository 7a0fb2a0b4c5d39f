"""Scenarios of the network of the exporter's host."""

from __future__ import annotations

from exporter.demo.breakages import stun
from exporter.demo.scenario import Scenario, says, says_inside

SCENARIOS = (
    Scenario(
        name="XNET01",
        words="The deployment disables direct connections, and Coder takes STUN out of its map. Regions without any "
        "node are left, and with them the check of Coder's report crashes.",
        breaks=(stun.disable_direct_connections(),),
        foreseen=says(direct_connections="XNET01:ok", report="XRPT03:error"),
        without_database=says(direct_connections="XNET01:ok", report="XRPT03:error"),
        resource="the STUN servers",
        inside=says_inside(derp="EUNKNOWN:error"),
    ),
    Scenario(
        name="XNET02",
        words="The map names no STUN server, though direct connections are wanted.",
        breaks=(stun.leave_stun_out(),),
        foreseen=says(direct_connections="XNET02:warning"),
        without_database=says(direct_connections="XNET02:warning"),
        resource="the STUN servers",
    ),
    Scenario(
        name="XNET03",
        words="UDP is blocked on the way: nothing comes back from any STUN server.",
        breaks=(stun.change_stun(silent=True),),
        foreseen=says(derp="ESTUN01:warning", direct_connections="XNET03:warning"),
        without_database=says(derp="ESTUN01:warning", direct_connections="XNET03:warning"),
        resource="the STUN servers",
        inside=says_inside(derp=":error ESTUN01:warning"),
    ),
    Scenario(
        name="XNET04",
        words="This host is behind a hard NAT: each STUN server sees another port.",
        breaks=tuple(stun.change_stun(number, port_offset=number) for number in range(3)),
        foreseen=says(derp="ESTUN02:ok", direct_connections="XNET04:warning"),
        without_database=says(derp="ESTUN02:ok", direct_connections="XNET04:warning"),
        resource="the STUN servers",
        needs_several_addresses=True,
        inside=says_inside(derp="ESTUN02:ok"),
    ),
    Scenario(
        name="XNET05",
        words="The exporter's configuration calls the loopback interface a tunnel, and it is on the way.",
        settings={"direct_connections": {"tunnel_interfaces": ["lo*"]}},
        foreseen=says(direct_connections="XNET05:warning"),
        without_database=says(direct_connections="XNET05:warning"),
        from_start=True,
    ),
    Scenario(
        name="EIF01",
        words="On the way to the STUN servers packets above 1300 bytes get lost.",
        breaks=(stun.change_stun(largest_bytes=1300),),
        foreseen=says(direct_connections="EIF01:warning"),
        without_database=says(direct_connections="EIF01:warning"),
        resource="the STUN servers",
    ),
)
