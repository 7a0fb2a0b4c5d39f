"""Pages for people: the landing page. Views in, HTML out; everything shown is escaped.

The page loads nothing and runs nothing, so it works under a policy that allows its one style sheet
(by digest) and nothing else. Severity is always written out: colour only repeats it.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from html import escape

from exporter.health.maintenance import Maintenance
from exporter.health.model import OffReason, Section, Severity, Witness
from exporter.health.root_cause import RootCause
from exporter.web.views import CodeView, DeploymentView, Disagreement, SectionView, SkippedView, WitnessView

NAME = "coder-health-exporter"

_SECTION_NAMES: dict[str, str] = {
    Section.ACCESS_URL: "Access URL",
    Section.WEBSOCKET: "WebSocket",
    Section.DATABASE: "Database",
    Section.DERP: "DERP relays",
    Section.WORKSPACE_PROXY: "Workspace proxies",
    Section.PROVISIONER_DAEMONS: "Provisioner daemons",
    Section.DIRECT_CONNECTIONS: "Direct connections",
    Section.REPORT: "Coder's own report",
    Section.EXPORTER: "Exporter",
}

_OFF_SENTENCES = {
    OffReason.DISABLED: "Switched off in the configuration.",
    OffReason.NO_TOKEN: "Needs a session token.",
    OffReason.FORBIDDEN: "Our credentials may not see this.",
    OffReason.NOT_LICENSED: "Not in this deployment's licence.",
    OffReason.NOT_SUPPORTED: "This version of Coder does not have it.",
    OffReason.NO_DATABASE: "Needs a database URL.",
    OffReason.NOT_CONFIGURED: "Nothing is configured to be probed.",
}

_SKIPPED_SENTENCES = {
    "host_not_allowed": "Not probed, as their hosts are not in allow_hosts",
    "too_many": "Not probed, as the DERP map has too many nodes",
    "invalid": "Not probed, as their entries in the DERP map cannot be used",
}

# Of what a server says; the JSON has all of it.
_MAX_MESSAGE_CHARS = 240


@dataclass(frozen=True, slots=True, kw_only=True)
class Landing:
    """What the landing page shows at a moment."""

    version: str
    now_timestamp_seconds: float
    deployments: Iterable[DeploymentView]


def render_landing(landing: Landing, *, telemetry_path: str) -> str:
    """Return the landing page. Its links are relative, so it works below a proxy's prefix."""
    metrics = escape(telemetry_path.lstrip("/"))
    views = sorted(landing.deployments, key=lambda view: not view.name)
    deployments = "".join(_render_deployment(view, landing.now_timestamp_seconds) for view in views)
    if not views:
        deployments = '<p class="card empty">No deployment is configured.</p>\n'
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{NAME}</title>
<style>{_STYLE}</style>
</head>
<body>
<header>
<h1>{NAME} <small>{escape(landing.version)}</small></h1>
<p>Prometheus exporter for the health of Coder deployments: whether one is healthy, if not by which
health code, and since when.</p>
<nav aria-label="Endpoints"><ul>
<li><a href="{metrics}">Metrics</a></li>
<li><a href="api/v1/health">Health as JSON</a></li>
<li><a href="config">Configuration</a></li>
<li><a href="-/healthy">Healthy?</a></li>
<li><a href="-/ready">Ready?</a></li>
</ul></nav>
</header>
<main>
{deployments}</main>
<footer>As of {_time(landing.now_timestamp_seconds)}. Reload the page for newer results.</footer>
</body>
</html>
"""


# The roles say what the elements are by themselves: browsers forget it where a narrow screen gets
# the rows as blocks.
_HEAD = "".join(
    f'<th role="columnheader" scope="col">{name}</th>' for name in ("Section", "Severity", "What is wrong", "Last run")
)


def _render_deployment(view: DeploymentView, now: float) -> str:
    rows = "".join(_render_section(section, _name_section(section, view), now) for section in view.sections)
    name = escape(view.name) if view.name else "This exporter"
    return f"""<section class="card">
<h2>{name} {_badge(view.severity)}</h2>
{_render_maintenance(view.maintenance)}{_render_root_cause(view.root_cause)}<table role="table">
<thead role="rowgroup"><tr role="row">{_HEAD}</tr></thead>
<tbody role="rowgroup">
{rows}</tbody>
</table>
</section>
"""


def _render_root_cause(cause: RootCause | None) -> str:
    if cause is None:
        return ""
    return f'<p class="cause">First broken layer: <code>{escape(cause.layer)}</code>. {escape(cause.sentence)}</p>\n'


def _render_maintenance(maintenance: Maintenance) -> str:
    if not maintenance.open:
        return ""
    until = maintenance.next_change_timestamp_seconds
    said = "" if until is None else f" until {_time(until)}"
    return f'<p class="maintenance">A maintenance window is open{said}: no rule alerts for this deployment.</p>\n'


def _name_section(section: SectionView, view: DeploymentView) -> str:
    if section.section == Section.EXPORTER and view.name:
        return "Session token"  # all that this section tells of one deployment
    return _SECTION_NAMES.get(section.section, section.section)


def _render_section(view: SectionView, name: str, now: float) -> str:
    own = view.own
    verdict = view.verdict
    if verdict is None and own is not None and own.off is not None:
        badge = '<span class="badge off">off</span>'
    else:
        badge = _badge(None if verdict is None else verdict.severity)
    worse = _find_worse_report(view)
    if worse is not None:
        badge += f' <span class="badge {worse.label}">report: {worse.label}</span>'
    said = _render_own(own, now, contradicted=worse is not None) if own is not None else ""
    said += "".join(
        _render_replica(one, now) for one in view.witnesses if one.witness is Witness.PROBE and one is not own
    )
    said += _render_reports([one for one in view.witnesses if one.witness is Witness.REPORT], now)
    said += _render_disagreements(view.disagreements)
    if view.consequence:
        said += '<div class="quiet note">A consequence of the first broken layer.</div>'
    if view.dismissed:
        since = view.dismissed_since_timestamp_seconds
        age = "" if since is None else f" for {_age(since, now)} or longer"
        said += f'<div class="quiet note">Muted in Coder{age}: its warnings are quiet, its errors are not.</div>'
    said += "".join(map(_render_skipped, view.skipped))
    runs = [one.last_run_timestamp_seconds for one in view.witnesses if one.last_run_timestamp_seconds is not None]
    last_run = _age(max(runs), now) + " ago" if runs else "never"
    return (
        f'<tr role="row"><th role="rowheader" scope="row">{escape(name)}</th>'
        f'<td role="cell">{badge}</td><td role="cell">{said}</td>'
        f'<td role="cell" class="age"><span class="narrow">Last run </span>{last_run}</td></tr>\n'
    )


def _find_worse_report(view: SectionView) -> Severity | None:
    """Return the worst that Coder's reports say of a section, where that is worse than the verdict; else None."""
    if view.verdict is None or view.verdict.severity is None:
        return None
    reported = [one.severity for one in view.witnesses if one.witness is Witness.REPORT and one.severity is not None]
    worst = max(reported, default=Severity.OK)
    return worst if worst > view.verdict.severity else None


def _render_own(view: WitnessView, now: float, *, contradicted: bool) -> str:
    if view.off is not None:
        return f'<span class="quiet">{escape(_OFF_SENTENCES[view.off])}</span> <code>{escape(view.off)}</code>'
    if view.severity is None:
        return '<span class="quiet">Waiting for the first run.</span>'
    return _render_codes(view, now) or ("Our own probe sees nothing wrong." if contradicted else "Nothing.")


def _render_codes(view: WitnessView, now: float) -> str:
    codes = "".join(_render_code(code, now) for code in view.active_codes)
    return f"<ul>{codes}</ul>" if codes else ""


def _render_replica(view: WitnessView, now: float) -> str:
    """What our probe says of one replica; nothing when that is fine."""
    codes = _render_codes(view, now)
    return f'<div class="said">{escape(view.coder_replica)}:{codes}</div>' if codes else ""


def _render_reports(views: list[WitnessView], now: float) -> str:
    """What Coder's reports say: those that tell trouble one by one, the rest together."""
    told = [view for view in views if view.severity is not None]
    bad = [view for view in told if view.severity is not Severity.OK]
    lines = [
        f'<div class="said">Coder\'s report{_of_replica(view)} {_badge(view.severity)}{_render_codes(view, now)}</div>'
        for view in bad
    ]
    fine = len(told) - len(bad)
    if fine:
        who = "Coder's report" if len(told) == 1 else f"{fine} of {len(told)} of Coder's reports"
        lines.append(f'<div class="quiet said">{who}: ok.</div>')
    return "".join(lines)


def _render_disagreements(disagreements: tuple[Disagreement, ...]) -> str:
    """The first in full: replicas mostly see the same, and the JSON has them all."""
    if not disagreements:
        return ""
    others = [one.coder_replica for one in disagreements[1:]]
    more = f" So it is with {escape(', '.join(others))}." if others else ""
    return f'<div class="note">{escape(disagreements[0].sentence)}.{more}</div>'


def _of_replica(view: WitnessView) -> str:
    return f" of {escape(view.coder_replica)}" if view.coder_replica else ""


def _render_code(view: CodeView, now: float) -> str:
    code = f"<code>{escape(view.value)}</code> " if view.value else ""
    if view.value and view.docs_url:
        code = f'<a href="{escape(view.docs_url)}" rel="noreferrer"><code>{escape(view.value)}</code></a> '
    since = ""
    if view.since_timestamp_seconds is not None:
        age = _age(view.since_timestamp_seconds, now)
        since = f' <span class="quiet since">For {age}, since {_time(view.since_timestamp_seconds)}.</span>'
    return f"<li>{code}{escape(_describe_code(view))}{since}</li>"


def _describe_code(view: CodeView) -> str:
    """Where no words of ours tell what a code means, those of who raised it do."""
    if (view.summary and view.value) or not view.evidence:
        return view.summary
    said = view.evidence[0].message
    said = said if len(said) <= _MAX_MESSAGE_CHARS else said[:_MAX_MESSAGE_CHARS] + "..."
    return f"{view.summary} {said}" if view.summary else said


def _render_skipped(view: SkippedView) -> str:
    names = ", ".join(map(escape, view.nodes))
    rest = f" and {view.count - len(view.nodes)} more" if view.count > len(view.nodes) else ""
    sentence = escape(_SKIPPED_SENTENCES.get(view.reason, "Not probed"))
    return f'<div class="quiet skipped">{sentence}: {names}{rest}. <code>{escape(view.reason)}</code></div>'


def _badge(severity: Severity | None) -> str:
    word = "not measured" if severity is None else severity.label
    kind = "off" if severity is None else severity.label
    return f'<span class="badge {kind}">{word}</span>'


def _time(timestamp_seconds: float) -> str:
    moment = datetime.fromtimestamp(timestamp_seconds, UTC)
    return f'<time datetime="{moment.isoformat(timespec="seconds")}">{moment:%Y-%m-%d %H:%M:%S} UTC</time>'


def _age(timestamp_seconds: float, now: float) -> str:
    """Return how long ago in the two largest units. A clock that was set back gives 0 s."""
    seconds = max(0, int(now - timestamp_seconds))
    units = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))
    for index, (unit, size) in enumerate(units):
        if seconds >= size:
            text = f"{seconds // size} {unit}"
            if index + 1 < len(units):
                next_unit, next_size = units[index + 1]
                rest = seconds % size // next_size
                text += f" {rest} {next_unit}" if rest else ""
            return text
    return "0 s"


_STYLE = """
:root { color-scheme: light dark; --text: #1d232b; --quiet: #5a6472; --page: #f5f6f8; --card: #fff; --line: #dfe3e8;
  --link: #0b57c2; --ok: #10683a; --ok-bg: #dff3e6; --warning: #7a4b00; --warning-bg: #fdecc8;
  --error: #a11320; --error-bg: #fbdcdf; --off: #4a5563; --off-bg: #e6e9ed; }
@media (prefers-color-scheme: dark) {
  :root { --text: #e4e8ee; --quiet: #a3adba; --page: #12161c; --card: #1b2129; --line: #303945;
    --link: #8ab6ff; --ok: #86dda9; --ok-bg: #153a26; --warning: #f5c469; --warning-bg: #45310a;
    --error: #ff9da5; --error-bg: #4d1820; --off: #b6bfca; --off-bg: #2b333d; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 62rem; padding: 2rem 1.25rem 3rem; background: var(--page); color: var(--text);
  font: 1rem/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", sans-serif; }
h1 { font-size: 1.6rem; margin: 0 0 .25rem; line-height: 1.25; }
h1 small { font-size: .95rem; font-weight: 400; color: var(--quiet); }
h2 { font-size: 1.15rem; margin: 0 0 .75rem; display: flex; flex-wrap: wrap; gap: .6rem; align-items: center;
  overflow-wrap: anywhere; }
header p { margin: 0 0 1rem; max-width: 44rem; color: var(--quiet); }
nav ul { list-style: none; margin: 0 0 1.75rem; padding: 0; display: flex; flex-wrap: wrap; gap: .6rem; }
nav a { display: block; padding: .35rem .85rem; border: 1px solid var(--line); border-radius: .5rem;
  background: var(--card); text-decoration: none; }
nav a:hover { border-color: var(--link); }
a { color: var(--link); }
a:focus-visible { outline: 3px solid var(--link); outline-offset: 2px; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: .75rem; padding: 1.1rem 1.25rem;
  margin: 0 0 1.25rem; overflow-x: auto; }
table { width: 100%; border-collapse: collapse; }
th, td { text-align: left; vertical-align: top; padding: .5rem .75rem .5rem 0; border-top: 1px solid var(--line); }
thead th { border-top: 0; padding-top: 0; font-size: .8rem; font-weight: 600; color: var(--quiet); }
tbody th { font-weight: 600; white-space: nowrap; }
td ul { margin: 0; padding: 0; list-style: none; }
td li + li { margin-top: .4rem; }
.badge { display: inline-block; padding: .05rem .6rem; border-radius: 1rem; font-size: .82rem; font-weight: 600;
  white-space: nowrap; }
.ok { color: var(--ok); background: var(--ok-bg); }
.warning { color: var(--warning); background: var(--warning-bg); }
.error { color: var(--error); background: var(--error-bg); }
.off { color: var(--off); background: var(--off-bg); }
.quiet, .age { color: var(--quiet); }
.age { white-space: nowrap; padding-right: 0; }
.since { display: block; font-size: .88rem; }
.skipped { margin-top: .4rem; font-size: .88rem; overflow-wrap: anywhere; }
.maintenance, .cause { margin: 0 0 .75rem; font-weight: 600; }
.said, .note { margin-top: .4rem; overflow-wrap: anywhere; }
.note { font-size: .88rem; }
.narrow { display: none; }
th:nth-child(1) { width: 11.5rem; }
th:nth-child(2) { width: 8.5rem; }
th:nth-child(4) { width: 9rem; }
code { font: .9em/1.4 ui-monospace, "SFMono-Regular", Menlo, Consolas, "Liberation Mono", monospace; }
footer { color: var(--quiet); font-size: .85rem; }
@media (max-width: 44rem) {
  body { padding: 1.25rem 1rem 2rem; }
  thead { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
  table, tbody { display: block; }
  tbody tr { display: flex; flex-wrap: wrap; justify-content: space-between; align-items: center; gap: .15rem .75rem;
    padding: .6rem 0; border-top: 1px solid var(--line); }
  tbody th, tbody td { padding: 0; border: 0; width: auto; }
  tbody td:nth-child(n+3) { flex-basis: 100%; }
  .age { font-size: .88rem; }
  .narrow { display: inline; }
}
"""

STYLE_DIGEST = "sha256-" + base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
