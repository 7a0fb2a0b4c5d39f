"""Scenarios that are named after what happens, not after a code."""

from __future__ import annotations

from exporter.demo import fault_proxy, faults
from exporter.demo.breakages import database, front, relays, replicas, reports, rollout, stun, token
from exporter.demo.network import MESH_NODES
from exporter.demo.relay import Stall
from exporter.demo.scenario import ALL_REPORTED, PROXIES_WITHOUT_PRIMARY, Scenario, probed, says, says_inside
from exporter.demo.state import Role
from exporter.health.model import Section

SCENARIOS = (
    Scenario(
        name="silent-relay",
        words="The relay of the proxy us accepts every upgrade, and then says nothing.",
        breaks=(relays.change_relay("us", stall=Stall.AFTER_UPGRADE),),
        foreseen=says(derp="XDERP01:error"),
        without_database=says(derp="XDERP01:error"),
        resource="the relays",
        inside=says_inside(derp="XDERP01:error"),
    ),
    Scenario(
        name="half-dead-region",
        words="Of three relays of a region one loses every message, and one works by WebSocket only.",
        breaks=(
            relays.change_relay("1b", drop_first=None),
            relays.change_relay("1c", raw_status=403, foreign=True),
        ),
        foreseen=says(derp="EDERP01:warning XDERP02:warning XDERP04:warning"),
        without_database=says(derp="EDERP01:warning XDERP02:warning XDERP04:warning"),
        resource="the relays",
        inside=says_inside(derp=":error EDERP01:warning XDERP02:warning"),
    ),
    Scenario(
        name="slow-relay",
        words="Each message through the relay of the proxy eu takes 200 ms longer: no code, but the round trip tells.",
        breaks=(relays.change_relay("eu", delay_seconds=0.2),),
        resource="the relays",
    ),
    Scenario(
        name="websocket-only-fleet",
        words="The deployment forces clients to WebSocket, and every relay refuses the raw upgrade: as it should be.",
        breaks=(
            relays.force_websockets(),
            *(relays.change_relay(name, raw_status=403, foreign=True) for name in ("coder", "eu", "us", *MESH_NODES)),
        ),
        resource="the relays",
        inside=says_inside(derp="EDERP01:warning"),
    ),
    Scenario(
        name="stun-ipv6-only",
        words="STUN passes over IPv6, and every IPv4 server is silent.",
        breaks=(stun.change_stun(0, 1, 2, silent=True),),
        foreseen=says(derp="XSTUN01:warning"),
        without_database=says(derp="XSTUN01:warning"),
        resource="the STUN servers",
        needs_ipv6=True,
        inside=says_inside(derp=":error XSTUN01:warning"),
    ),
    Scenario(
        name="hairpin",
        words="No replica reaches the access URL from inside, while it is fine from outside: no way back through "
        "the router.",
        breaks=(replicas.break_hairpins(fault_proxy.Refuse()),),
        inside=says_inside(access_url="EACS03:error", websocket="EWS01:error", derp="XDERP01:error"),
        resource="the way from the replicas to the access URL",
    ),
    Scenario(
        name="ingress",
        words="The ingress answers 502 to everybody outside. Inside, the name of the access URL leads past it to "
        "Coder.",
        breaks=(
            replicas.lead_hairpins_past_front(),
            front.break_coder(lambda _: faults.BadGateway(), cut=True),
        ),
        foreseen=says(
            access_url="EACS04:warning XACS06:error",
            websocket="EWS01:error XWS01:error",
            derp="XDERP01:error XDERP03:error",
            workspace_proxy=PROXIES_WITHOUT_PRIMARY,
        ),
        without_database=says(
            access_url="EACS04:warning XACS06:error",
            websocket="EWS01:error XWS01:error",
            derp="XDERP01:error XDERP03:error",
            workspace_proxy=f"EWP01:warning {PROXIES_WITHOUT_PRIMARY}",
            provisioner_daemons="XPD01:warning",
        ),
        inside=says_inside(workspace_proxy="EWP04:warning"),
        resource="the way from the replicas to the access URL",
    ),
    Scenario(
        name="stale-connection",
        words="The replica coderd-1 holds on to a connection to PostgreSQL that has become 60 ms longer; every other "
        "one is fast.",
        breaks=(database.break_lines_of("coderd-1", fault=fault_proxy.Delay(to_client_seconds=0.06)),),
        inside=says_inside(database="EDB02:warning"),
        without_database=None,
        resource="the way to the database",
    ),
    Scenario(
        name="rollout",
        words="A new minor version is rolled out: replica by replica, then the proxies, then the provisioner daemons. "
        "Nothing becomes active.",
        breaks=(rollout.roll_out("v2.27.0"),),
        ends=True,
        quiet=True,
        resource="the provisioner daemons",
    ),
    Scenario(
        name="muted",
        words="Somebody has muted Database and ProvisionerDaemons in Coder, and every way to PostgreSQL is 60 ms "
        "longer: the code stands, its warning keeps quiet.",
        breaks=(
            reports.mute("Database", "ProvisionerDaemons"),
            database.break_lines(fault_proxy.Delay(to_client_seconds=0.06)),
        ),
        foreseen=says(database="EDB02:warning"),
        without_database=None,
        inside=says_inside(database="EDB02:warning"),
        resource="the way to the database",
    ),
    Scenario(
        name="member",
        words="The token in the exporter's file is replaced by one of an ordinary member.",
        breaks=(token.change_token(Role.MEMBER),),
        foreseen=says(report="XRPT01:warning"),
        without_database=says(report="XRPT01:warning"),
        off=ALL_REPORTED,
        off_without_database=frozenset({probed(Section.PROVISIONER_DAEMONS)}),
        resource="the exporter's token",
    ),
    Scenario(
        name="expired",
        words="The token in the exporter's file is replaced by one that has expired.",
        breaks=(token.change_token(Role.EXPIRED),),
        foreseen=says(report="XRPT01:warning"),
        without_database=says(report="XRPT01:warning", workspace_proxy="EWP01:warning"),
        off=ALL_REPORTED,
        off_without_database=frozenset({probed(Section.PROVISIONER_DAEMONS)}),
        resource="the exporter's token",
    ),
    Scenario(
        name="anonymous",
        words="The exporter's configuration has no token and no database: what is left is seen from outside.",
        leaves_out=("session_token_file", "database"),
        off=ALL_REPORTED
        | {
            probed(Section.DATABASE),
            probed(Section.WORKSPACE_PROXY),
            probed(Section.PROVISIONER_DAEMONS),
            probed(Section.REPORT),
        },
        from_start=True,
    ),
)
