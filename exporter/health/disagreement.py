"""Our probe from outside and Coder's report from inside: do they differ, and what that usually means.

In: the settled codes of one section as each witness tells them (`View`). Out: a `Disagreement`, or
None. Whether both are measured, fresh and settled is the caller's to know. Pure.

Source: field, section 6, idea 2; coder-interfaces, sections 2 and 8.2
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from exporter.health import codes
from exporter.health.model import UNCODED, Section, Severity


class DisagreementKind(StrEnum):
    """Who sees trouble and who does not."""

    INSIDE_OK_OUTSIDE_BAD = "inside_ok_outside_bad"
    INSIDE_BAD_OUTSIDE_OK = "inside_bad_outside_ok"


@dataclass(frozen=True, slots=True, kw_only=True)
class Disagreement:
    """`sentence` says for people what each sees, and what that usually means."""

    kind: DisagreementKind
    sentence: str


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """What one witness has settled of a section: the worst severity of each active code. UNCODED
    is among them where Coder's report tells trouble without a code."""

    codes: Mapping[str, Severity]

    @property
    def severity(self) -> Severity:
        return max(self.codes.values(), default=Severity.OK)


# What only our probe looks at: Coder's report cannot know.
_ONLY_OURS = frozenset({
    "XACS03", "XACS05", "XACS07", "XACS08", "XDB01", "XDB02", "XWP01", "XWP03", "XPD01", "XPD02",
    "XDERP02", "XDERP03", "XDERP04", "XDERP05", "XSTUN01",
})  # fmt: skip
# What Coder says where we have these: a STUN server or several relays that are down make its section an error without
# a code, a proxy that never registered a warning without one, and one that was stopped on purpose is unreachable to it.
_CODERS_WORD: Mapping[str, frozenset[str]] = {
    "XSTUN01": frozenset({UNCODED}),
    "XDERP02": frozenset({UNCODED}),
    "XWP01": frozenset({UNCODED}),
    "XWP03": frozenset({UNCODED, "EWP04"}),
}
# With these our probe has seen nothing that could be compared: it was refused, or has no list.
_BLIND: Mapping[Section | str, frozenset[str]] = {
    Section.DATABASE: frozenset({"XDB01"}),
    Section.WORKSPACE_PROXY: frozenset({"EWP01", "EWP02"}),
    Section.PROVISIONER_DAEMONS: frozenset({"XPD01"}),
}


def is_blind(section: Section | str, outside: View) -> bool:
    """Whether our probe could not look: it broke, or what it asks refuses it."""
    blind = _BLIND.get(section, frozenset())
    if section != Section.PROVISIONER_DAEMONS:
        blind |= {codes.UNKNOWN}  # a bug of ours; only of daemons does Coder's rule use this code, too
    return not blind.isdisjoint(outside.codes)


def find_disagreement(
    section: Section | str,
    *,
    inside: View,
    outside: View,
    coder_replica: str = "",
    alone: bool = False,
    report_age_seconds: float | None = None,
) -> Disagreement | None:
    """Return how the witnesses differ: one is well and the other is not. Two kinds of trouble agree.

    Args:
        coder_replica: Whose report it is; empty when it came through the access URL.
        alone: Other replicas report the section, and all of them are well.
        report_age_seconds: How old the report is now; None when it is not known.
    """
    ours = View(codes={code: severity for code, severity in outside.codes.items() if _counts(code, severity)})
    same = set(outside.codes).union(*(_CODERS_WORD.get(code, ()) for code in outside.codes))
    theirs = View(codes={code: severity for code, severity in inside.codes.items() if code not in same})
    if ours.severity is not Severity.OK and inside.severity is Severity.OK:
        kind = DisagreementKind.INSIDE_OK_OUTSIDE_BAD
        seen = f"{_who(coder_replica)} says ok, but our probe says {_show(ours)}"
        means = _INGRESS.get(section, _INGRESS_ELSE)
    elif theirs.severity is not Severity.OK and ours.severity is Severity.OK:
        kind = DisagreementKind.INSIDE_BAD_OUTSIDE_OK
        seen = f"{_who(coder_replica)} says {_show(theirs)}, but our probe is fine"
        means = _INSIDE.get(section, _INSIDE_ELSE)
        if alone:
            means = f"the other replicas are fine, so it is this one's own network or name resolution; else {means}"
    else:
        return None
    return Disagreement(kind=kind, sentence=f"{seen}: usually {means}{_tell_age(report_age_seconds)}")


def _counts(code: str, severity: Severity) -> bool:
    """A redirect on the same host is nothing to Coder, which follows it."""
    return code not in _ONLY_OURS and not (code == "XACS02" and severity is Severity.WARNING)


# for people

_INGRESS: Mapping[Section | str, str] = {
    Section.ACCESS_URL: "what stands in front of Coder: the ingress or load balancer, public DNS, a certificate or a "
    "firewall; Coder reaches its own address by another way",
    Section.WEBSOCKET: "an ingress, proxy or firewall in front of Coder that lets requests pass but no websocket "
    "upgrade",
    Section.DATABASE: "the way from this exporter to the database: a firewall, pg_hba.conf, a pooler or the "
    "database's limit of connections; Coder's own connections work, or are still kept open",
    Section.DERP: "the network between users and the relays: the ingress in front of the embedded relay, a firewall, "
    "or UDP that is blocked from this host",
    Section.WORKSPACE_PROXY: "the ingress, DNS or certificate in front of the workspace proxy, which Coder reaches by "
    "another way; or Coder's list of proxies is from a cache",
    Section.PROVISIONER_DAEMONS: "a different reading of the same rows: another stale interval, or daemons that left "
    "since the report was made",
}
_INGRESS_ELSE = "what stands between this exporter and Coder"
_INSIDE: Mapping[Section | str, str] = {
    Section.ACCESS_URL: "a hairpin: from inside its own network Coder cannot reach its access URL (NAT, split DNS, a "
    "firewall, or an authority it does not trust); users outside are not affected",
    Section.WEBSOCKET: "a hairpin: from inside its own network Coder cannot open a websocket to its access URL; users "
    "outside are not affected",
    Section.DATABASE: "this coderd's own way to the database: its pool is used up, or it holds a stale connection to "
    "an address that has moved",
    Section.DERP: "a hairpin or an outgoing firewall of Coder's own network towards the relays; clients outside are "
    "not affected",
    Section.WORKSPACE_PROXY: "a stale connection: Coder goes on using one to an address that has moved (coder/coder "
    "#29045), until coderd is restarted; or a hairpin",
    Section.PROVISIONER_DAEMONS: "a different reading of the same rows: another stale interval, or daemons that came "
    "since the report was made",
}
_INSIDE_ELSE = "Coder's own network"
# Below this an age explains nothing.
_OLD_SECONDS = 60.0


def _who(coder_replica: str) -> str:
    return f"Coder's report (replica {coder_replica})" if coder_replica else "Coder's report"


def _show(view: View) -> str:
    worst = view.severity
    named = sorted(code for code, severity in view.codes.items() if severity is worst and code)
    return f"{worst.label} ({', '.join(named)})" if named else f"{worst.label} (without a code)"


def _tell_age(seconds: float | None) -> str:
    if seconds is None or seconds < _OLD_SECONDS:
        return ""
    return f"; the report comes from Coder's cache and is {seconds:.0f} s old"
