"""Every health code: value, section, severities, summary, and where it is documented.

Coder's codes keep Coder's values and meanings; ours begin with X and the section's letters. A
retired number is never used again: EWP03 was "proxy version differs from the primary's" and is
still sent by servers older than 20 March 2024 (coder/coder #12433).
"""

from __future__ import annotations

from dataclasses import dataclass

from exporter.health.model import Section, Severity, Witness, find_section

DOCS_URL = "https://coder.com/docs/admin/monitoring/health-check"
UNKNOWN = "EUNKNOWN"


@dataclass(frozen=True, slots=True, kw_only=True)
class Code:
    """A health code.

    `words` is the tail of the alert's name; `summary` a sentence for people; `severities` those
    that it can be observed with; `coder` tells Coder's own codes from ours.
    """

    value: str
    section: Section
    severities: tuple[Severity, ...]
    words: str
    summary: str

    @property
    def coder(self) -> bool:
        return self.value.startswith("E")

    @property
    def alert(self) -> str:
        return f"Coder{self.value}{self.words}"

    @property
    def alerts(self) -> dict[Severity, str]:
        """The name of the rule of each severity; they differ only where the code has several."""
        if len(self.severities) == 1:
            return {self.severities[0]: self.alert}
        return {severity: self.alert + severity.alert.capitalize() for severity in self.severities}

    def alert_severity(self, severity: Severity) -> str:
        """The label `severity` of the rule for this code, observed with `severity`.

        What tells only of the exporter's own network is looked at and calls nobody: it says little
        of the deployment, and nothing of agents and users elsewhere. Source: contract, section 8.
        """
        return Severity.OK.alert if self.value.startswith(_OWN_NETWORK) else severity.alert

    @property
    def docs_url(self) -> str:
        """Coder's page: the anchor of its own codes, the page itself for ours and for those it leaves out."""
        if self.coder and self.value not in _WITHOUT_ANCHOR:
            return f"{DOCS_URL}#{self.value.lower()}"
        return DOCS_URL


# Coder's page has no section for these. Source: coder-interfaces, section 1.
_WITHOUT_ANCHOR = frozenset({"EIF01", "EWS03"})
# Codes that begin so are about the network of the exporter's host.
_OWN_NETWORK = ("EIF", "ESTUN", "XNET")

# Codes of ours that our judgement of the DERP nodes in Coder's report may raise.
_REPORTED = frozenset({"XDERP01", "XDERP02", "XSTUN01"})

_OK, _WARNING, _ERROR = (Severity.OK,), (Severity.WARNING,), (Severity.ERROR,)
_BOTH = (Severity.WARNING, Severity.ERROR)


def _section(section: Section, *rows: tuple[str, tuple[Severity, ...], str, str]) -> tuple[Code, ...]:
    known = [
        Code(value=value, section=section, severities=severities, words=words, summary=summary)
        for value, severities, words, summary in rows
    ]
    known.append(
        Code(
            value=UNKNOWN,
            section=section,
            severities=_ERROR,
            words="SectionCrashed",
            summary="A check of this section crashed, ours or Coder's own, or a daemon shows no valid version.",
        )
    )
    return tuple(known)


CODES: dict[Section, tuple[Code, ...]] = {
    Section.ACCESS_URL: _section(
        Section.ACCESS_URL,
        ("EACS01", _ERROR, "AccessURLNotSet", "No access URL is configured."),
        ("EACS02", _ERROR, "AccessURLInvalid", "The access URL cannot be parsed."),
        ("EACS03", _ERROR, "AccessURLUnreachable", "The access URL cannot be reached."),
        ("EACS04", _WARNING, "AccessURLStatusWrong", "The access URL answers with a status other than 200."),
        ("XACS01", _ERROR, "HealthzBodyWrong", "The health endpoint answers 200 but not with OK."),
        ("XACS02", _BOTH, "AccessURLRedirects", "The access URL answers with a redirect."),
        ("XACS03", _BOTH, "CertificateExpires", "The certificate of the access URL expires soon or has expired."),
        ("XACS04", _ERROR, "NotACoderServer", "What answers at the access URL is not a Coder server."),
        ("XACS05", _WARNING, "OtherDeployment", "Another deployment answers, or its access URL is another host."),
        ("XACS06", _ERROR, "AccessURLFails", "The access URL answers with a server or client error."),
        ("XACS07", _WARNING, "AddressFamilyDown", "One of the two address families of the access URL fails."),
        ("XACS08", _WARNING, "ReplicaDown", "A replica of coderd fails while others answer."),
    ),
    Section.WEBSOCKET: _section(
        Section.WEBSOCKET,
        ("EWS01", _ERROR, "WebsocketDialFailed", "A websocket to the access URL cannot be opened."),
        ("EWS02", _ERROR, "WebsocketEchoFailed", "A websocket opens, but messages do not pass."),
        ("EWS03", _ERROR, "WebsocketEchoWrong", "A websocket message comes back changed."),
        ("XWS01", _ERROR, "UpgradeIntercepted", "An intermediary answers the websocket upgrade instead of Coder."),
    ),
    Section.DATABASE: _section(
        Section.DATABASE,
        ("EDB01", _ERROR, "DatabasePingFailed", "The database does not answer."),
        ("EDB02", _WARNING, "DatabaseLatencyHigh", "The median database latency is at or above its threshold."),
        ("XDB01", _WARNING, "DatabaseRefusesUs", "The database answers but refuses the exporter's role."),
        ("XDB02", _WARNING, "DatabaseIsStandby", "The database that answers is a standby."),
    ),
    Section.DERP: _section(
        Section.DERP,
        ("EDERP01", _WARNING, "RelayUsesWebsocket", "A DERP relay works only by its WebSocket fallback."),
        ("EDERP02", _WARNING, "RegionOneNodeUnhealthy", "One node of a DERP region is unhealthy, the region works."),
        ("ESTUN01", _WARNING, "NoSTUNServerAnswers", "No STUN server of the DERP map answers."),
        ("ESTUN02", _OK, "MappingVaries", "The address mapping of this host varies by destination."),
        ("XDERP01", _ERROR, "RegionDown", "A DERP region has no working relay."),
        ("XDERP02", _WARNING, "RelayDown", "DERP relays are down while their region still works."),
        ("XDERP03", _ERROR, "NoDERPMap", "No DERP map is to be had."),
        ("XDERP04", _WARNING, "RelayMeshBroken", "Relays of a DERP region do not reach one another."),
        ("XDERP05", _ERROR, "RelayCertificateWrong", "A DERP relay shows a wrong TLS name or certificate."),
        ("XSTUN01", _WARNING, "STUNServerSilent", "One STUN server of several does not answer."),
    ),
    Section.WORKSPACE_PROXY: _section(
        Section.WORKSPACE_PROXY,
        ("EWP01", _WARNING, "ProxyRefreshFailed", "The list of workspace proxies could not be refreshed."),
        ("EWP02", _ERROR, "ProxyListFailed", "The list of workspace proxies cannot be read."),
        ("EWP04", _WARNING, "ProxyUnhealthy", "A workspace proxy is unhealthy, unreachable, or warns."),
        ("XWP01", _WARNING, "ProxyNeverRegistered", "A workspace proxy was created but never registered."),
        ("XWP02", _ERROR, "AllProxiesDown", "Every workspace proxy is down."),
        ("XWP03", _OK, "ProxyStopped", "A workspace proxy was stopped on purpose."),
        ("XWP04", _WARNING, "ProxyPrimarySlow", "A workspace proxy is fine, but its primary is slow or unreachable."),
    ),
    Section.PROVISIONER_DAEMONS: _section(
        Section.PROVISIONER_DAEMONS,
        ("EPD01", _ERROR, "NoProvisionerDaemons", "No provisioner daemon was seen lately."),
        ("EPD02", _WARNING, "DaemonVersionsDiffer", "Provisioner daemons have another version than the server."),
        ("EPD03", _WARNING, "DaemonAPIMajorDiffers", "Provisioner daemons have another major version of the API."),
        ("XPD01", _WARNING, "DaemonListFailed", "The list of provisioner daemons cannot be read."),
        ("XPD02", _ERROR, "JobsWaitUnmatched", "Jobs wait that no provisioner daemon takes."),
    ),
    Section.DIRECT_CONNECTIONS: _section(
        Section.DIRECT_CONNECTIONS,
        ("EIF01", _WARNING, "MTULowOnTheWay", "The MTU on the way to Coder, a relay or a STUN server is low."),
        ("XNET01", _OK, "DirectConnectionsDisabled", "Direct connections are disabled for the deployment."),
        ("XNET02", _WARNING, "STUNMissingInMap", "The DERP map names no STUN server."),
        ("XNET03", _WARNING, "UDPBlocked", "UDP is blocked, as of several STUN servers none answers."),
        ("XNET04", _WARNING, "HardNATFromHere", "This host is behind a hard NAT."),
        ("XNET05", _WARNING, "TunnelOnTheWay", "A VPN or tunnel interface is on the way."),
    ),
    Section.REPORT: _section(
        Section.REPORT,
        ("XRPT01", _WARNING, "ReportRefused", "Coder refuses its health report to our token."),
        ("XRPT02", _WARNING, "ReportStale", "Coder's health report is older than it may be."),
        ("XRPT03", _ERROR, "ReportSectionCrashed", "A section of Coder's health report crashed or has no severity."),
        ("XRPT04", _WARNING, "ReportFails", "Coder's health report is not to be had."),
        ("XRPT05", _WARNING, "ReplicasDisagree", "Replicas of coderd disagree about a section, one sees an error."),
        ("XRPT06", _WARNING, "RolloutStuck", "A roll-out is stuck, versions differ for longer than the grace."),
        ("XRPT07", _ERROR, "ReportErrorUncoded", "Coder's health report has an error that no code names."),
    ),
    Section.EXPORTER: _section(
        Section.EXPORTER,
        ("XEXP01", _ERROR, "ExporterCutOff", "The exporter's host is cut off, everything fails at once."),
        ("XEXP02", _WARNING, "ProbingFallsBehind", "The exporter does not keep up with its schedule."),
        ("XEXP03", _WARNING, "TokenExpires", "The session token of the exporter expires soon."),
    ),
}  # fmt: skip


def section_codes(section: Section | str, witness: Witness = Witness.PROBE) -> tuple[str, ...]:
    """Return the values of all codes that a witness may raise in a section, EUNKNOWN last; none for a
    section that we do not know."""
    section = find_section(section)
    known = CODES[section] if isinstance(section, Section) else ()
    return tuple(code.value for code in known if witness is Witness.PROBE or code.value in _REPORTED or code.coder)


def find(value: str) -> Code | None:
    """Return the code of that value in any letter case, or None. EUNKNOWN is found once."""
    wanted = value.upper()
    for codes in CODES.values():
        for code in codes:
            if code.value == wanted:
                return code
    return None
