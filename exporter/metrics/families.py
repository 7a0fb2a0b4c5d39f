"""Every family that this exporter shows: name, type, help, labels.

Rendering, tests, the README's table, rules and boards all go by this table. Two families keep the
names of Coder's own proxyhealth ticker, so that alerts written for it go on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

# Buckets of the ported histogram, used for all of ours. Source: proxyhealth.go.
BUCKETS_SECONDS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0)

Kind = Literal["gauge", "counter", "histogram"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """A metric family. `name` of a counter carries its `_total`; `labels` in the order shown."""

    name: str
    kind: Kind
    labels: tuple[str, ...]
    help: str
    own: bool = False  # about the exporter itself: kept by prometheus_client


_TARGET = ("deployment", "section", "target")
_SECTION = ("deployment", "section", "witness", "coder_replica")
_CODE = ("deployment", "section", "code", "witness", "coder_replica")
_RELAY = ("deployment", "derp_region", "derp_node", "transport")
_STUN = ("deployment", "derp_region", "derp_node", "family")
_PROXY = ("deployment", "proxy_id", "witness", "coder_replica")


def _gauge(name: str, labels: tuple[str, ...], help_: str, *, own: bool = False) -> Family:
    return Family(name=name, kind="gauge", labels=labels, help=help_, own=own)


def _counter(name: str, labels: tuple[str, ...], help_: str, *, own: bool = False) -> Family:
    return Family(name=name, kind="counter", labels=labels, help=help_, own=own)


def _histogram(name: str, labels: tuple[str, ...], help_: str, *, own: bool = False) -> Family:
    return Family(name=name, kind="histogram", labels=labels, help=help_, own=own)


FAMILIES: tuple[Family, ...] = (
    # what pages, and what really was seen
    _gauge("coder_health_section_severity", (*_SECTION, "severity"),
           "1 for the settled severity of a section: ok, warning or error. None is 1 before the first run."),
    _gauge("coder_health_section_observed_severity", (*_SECTION, "severity"),
           "1 for the severity of a section as the last runs saw it: ok, warning or error."),
    _gauge("coder_health_code_active", _CODE, "1 while a health code is active, that is settled."),
    _gauge("coder_health_code_observed", _CODE, "1 when the last run of a target observed a health code."),
    _gauge("coder_health_code_since_timestamp_seconds", _CODE,
           "When an active health code became active. Absent while it is not."),
    _gauge("coder_health_code_target", (*_CODE, "target", "severity"),
           "1 for each target that raises an active health code. Absent otherwise."),
    _gauge("coder_health_section_enabled", ("deployment", "section", "witness", "reason"),
           "1 when a section is probed, 0 with the reason when it is not."),
    _gauge("coder_health_section_dismissed", ("deployment", "section"),
           "1 when a section is muted in Coder: its warnings are quiet, its errors are not."),
    _gauge("coder_health_section_dismissed_since_timestamp_seconds", ("deployment", "section"),
           "Since when a section has been seen muted in Coder. Absent while it is not."),
    _gauge("coder_health_witness_disagreement", ("deployment", "section", "coder_replica"),
           "1 when our probe and Coder's report differ, both settled and fresh. Absent when one of them is not."),
    _gauge("coder_health_root_cause", ("deployment", "layer"),
           "1 for the first broken layer: dns, tcp, tls, http, websocket, relay, database or proxy."),
    _gauge("coder_health_maintenance", ("deployment",),
           "1 while a maintenance window of a deployment is open: no rule alerts for it."),
    # every probe
    _gauge("coder_health_probe_success", _TARGET, "1 when the last run of a target had no error. "
           "A workspace proxy that is down has one, though EWP04 only warns."),
    _counter("coder_health_probe_runs_total", _TARGET, "Finished runs of a target."),
    _counter("coder_health_probe_failures_total", (*_TARGET, "reason"), "Failed runs of a target, by reason."),
    _histogram("coder_health_probe_duration_seconds", _TARGET, "Duration of whole runs of a target. "
           "One that only judges what others measured has none."),
    _gauge("coder_health_probe_phase_duration_seconds", (*_TARGET, "phase"),
           "Duration of the phases of the last run. A phase that was not reached is absent."),
    _gauge("coder_health_probe_last_run_timestamp_seconds", _TARGET, "When the last finished run of a target began."),
    _gauge("coder_health_probe_last_success_timestamp_seconds", _TARGET,
           "When the last successful run of a target began."),
    _gauge("coder_health_probe_interval_seconds", ("deployment", "section", "target"),
           "Interval of the schedule. A last run older than three of these means a stalled prober."),
    # access URL
    _gauge("coder_health_access_url_status_code", ("deployment", "coder_replica"),
           "Last HTTP status of /healthz at the access URL."),
    _gauge("coder_health_access_url_family_up", ("deployment", "family"),
           "1 when the access URL answers over an address family, where its name has both."),
    _gauge("coder_health_tls_certificate_not_after_timestamp_seconds", (*_TARGET, "position"),
           "When the served certificate ends: the leaf's, and the earliest of the rest of the chain. "
           "Also shown when verification failed."),
    _gauge("coder_health_build_info", ("deployment", "coder_replica", "version"),
           "1 with the version of the Coder server that answered."),
    # websocket
    _gauge("coder_health_websocket_round_trip_seconds", ("deployment", "coder_replica"),
           "Median round trip of the echoed messages of the last run."),
    # database
    _gauge("coder_health_database_latency_median_seconds", ("deployment", "witness", "coder_replica"),
           "Median of the five pings of the last run, not truncated."),
    _gauge("coder_health_database_latency_threshold_seconds", ("deployment", "witness", "coder_replica"),
           "Median latency from which EDB02 is raised."),
    _histogram("coder_health_database_ping_duration_seconds", ("deployment",), "Duration of every ping."),
    _gauge("coder_health_database_connect_duration_seconds", ("deployment",),
           "Time of the last fresh connection to the database until it could log in, TLS included."),
    _gauge("coder_health_database_login_duration_seconds", ("deployment",),
           "Time of the login on the last fresh connection to the database."),
    # DERP and STUN
    _gauge("coder_health_derp_node_up", _RELAY,
           "1 when messages passed through a DERP relay in the last run, by transport."),
    _gauge("coder_health_derp_round_trip_seconds", _RELAY,
           "Last message through a DERP relay: from this host to the relay and back."),
    _histogram("coder_health_derp_round_trip_duration_seconds", ("deployment", "derp_region", "transport"),
               "Round trip of every message through the relays of a region."),
    _gauge("coder_health_derp_login_duration_seconds", _RELAY,
           "From the accepted upgrade until the relay has confirmed the login, in the last run."),
    _gauge("coder_health_derp_relay_processes", ("deployment", "derp_region", "derp_node"),
           "Distinct relay processes that answered one check: 2 means replicas behind one name."),
    _gauge("coder_health_derp_mesh_path_up", ("deployment", "derp_region", "derp_node", "peer_node"),
           "1 when a message passed from a client of one relay to a client of another of its region."),
    _gauge("coder_health_derp_packet_loss_ratio", _RELAY,
           "Messages lost in the stream of the last run, 0 to 1. Only where the loss mode is on."),
    _gauge("coder_health_derp_round_trip_jitter_seconds", _RELAY,
           "Mean difference of successive round trips in the stream of the last run."),
    _gauge("coder_health_derp_map_last_success_timestamp_seconds", ("deployment",),
           "When the DERP map in use was last confirmed by its source."),
    _counter("coder_health_derp_map_changes_total", ("deployment",), "Changes of the DERP map that were seen."),
    _gauge("coder_health_derp_nodes_skipped", ("deployment", "reason"),
           "Nodes of the DERP map that are not probed: host_not_allowed, too_many or invalid."),
    _gauge("coder_health_stun_up", _STUN, "1 when a STUN server answered in the last run, by address family."),
    _gauge("coder_health_stun_round_trip_seconds", _STUN, "Round trip of the answered STUN request of the last run."),
    # this host's network
    _gauge("coder_health_nat_mapping_varies", ("deployment",),
           "1 when the address mapping of this host differs by destination (hard NAT). Absent when not known."),
    _gauge("coder_health_udp_blocked", ("deployment",),
           "1 when of several STUN servers none answers. Absent when not known."),
    _gauge("coder_health_interface_mtu_bytes", ("deployment", "interface"),
           "MTU of the interfaces on the way to Coder, its relays and STUN servers."),
    _gauge("coder_health_path_mtu_bytes", _STUN,
           "Largest IP packet that passed to a STUN server with don't-fragment set, of the sizes tried."),
    _gauge("coder_health_direct_connections_disabled", ("deployment",),
           "1 when the deployment disables direct connections. Absent when not known."),
    # workspace proxies
    _gauge("coderd_proxyhealth_health_check_results", ("proxy_id",),
           "Health of a workspace proxy: 1 ok, 0 unregistered, -1 unhealthy, -2 unreachable, -3 unknown."),
    _histogram("coderd_proxyhealth_health_check_duration_seconds", (),
               "Duration of a run over all workspace proxies of a deployment."),
    _gauge("coder_health_workspace_proxy_info", ("deployment", "proxy_id", "proxy", "version"),
           "1 with the name and version of a workspace proxy."),
    _gauge("coder_health_workspace_proxy_status", (*_PROXY, "status"),
           "1 for the status of a workspace proxy: ok, unregistered, unhealthy, unreachable or unknown."),
    _gauge("coder_health_workspace_proxy_warnings", _PROXY, "Warnings in the last report of a workspace proxy."),
    _gauge("coder_health_workspace_proxy_list_last_success_timestamp_seconds", ("deployment",),
           "When the list of workspace proxies was last read. It stays in use for five intervals."),
    # provisioner daemons
    _gauge("coder_health_provisioner_daemons", ("deployment", "organization", "witness", "status"),
           "Provisioner daemons of an organization by when they were last seen: recent, stale or never."),
    _gauge("coder_health_provisioner_daemon_version_mismatches", ("deployment", "organization", "witness", "version"),
           "Recent provisioner daemons with another version than the server, by their version (EPD02)."),
    # Coder's own report
    _gauge("coder_health_report_timestamp_seconds", ("deployment", "coder_replica"),
           "When Coder's health report was made, by its own clock."),
    _gauge("coder_health_report_age_seconds", ("deployment", "coder_replica"),
           "How old Coder's health report was when it was last polled; it comes from a cache."),
    _gauge("coder_health_report_healthy", ("deployment", "coder_replica"),
           "Coder's own overall verdict: 1 healthy, 0 not."),
    # the exporter itself
    _gauge("coder_health_exporter_token_expiry_timestamp_seconds", ("deployment",),
           "When the configured session token expires, where Coder tells."),
    _gauge("coder_health_exporter_cut_off", (),
           "1 when no target answers any more and this host itself says that it is cut off.", own=True),
    _gauge("coder_health_exporter_build_info", ("version", "revision", "pythonversion"),
           "1 with the version of this exporter.", own=True),
    _gauge("coder_health_exporter_config_last_reload_successful", (),
           "1 when the configuration was last read without error.", own=True),
    _gauge("coder_health_exporter_config_last_reload_success_timestamp_seconds", (),
           "When the configuration was last read without error.", own=True),
    _histogram("coder_health_exporter_tick_delay_seconds", ("section",),
               "How late runs began after their tick.", own=True),
    _counter("coder_health_exporter_ticks_skipped_total", ("section",),
             "Ticks skipped since the run before was not over.", own=True),
    _histogram("coder_health_exporter_event_loop_lag_seconds", (),
               "How late the event loop wakes a sleeper.", own=True),
    _gauge("coder_health_exporter_targets", ("section",), "Entries in the schedule.", own=True),
)  # fmt: skip

BY_NAME: dict[str, Family] = {family.name: family for family in FAMILIES}
