"""Pages for people: the landing page. Views in, HTML out; everything shown is escaped.

The page loads nothing and runs nothing, so it works under a policy that allows its one style sheet
(by digest) and nothing else. Severity is always written out: colour only repeats it.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from html import escape
from types import MappingProxyType

from exporter.health.codes import CODES, Code
from exporter.health.derp import DerpResult, Skipped
from exporter.health.maintenance import CLOSED, Maintenance
from exporter.health.model import OffReason, Section, Severity, Witness
from exporter.snapshot import SectionRollup, Snapshot
from exporter.targets.model import SectionKey

NAME = "coder-health-exporter"

_SECTION_NAMES = {
    Section.ACCESS_URL: "Access URL",
    Section.WEBSOCKET: "WebSocket",
    Section.DATABASE: "Database",
    Section.DERP: "DERP relays",
    Section.WORKSPACE_PROXY: "Workspace proxies",
    Section.PROVISIONER_DAEMONS: "Provisioner daemons",
    Section.DIRECT_CONNECTIONS: "Direct connections",
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

# More nodes that are skipped for one reason are only counted.
_MAX_SKIPPED = 5

_SKIPPED_SENTENCES = {
    "host_not_allowed": "Not probed, as their hosts are not in allow_hosts",
    "too_many": "Not probed, as the DERP map has too many nodes",
    "invalid": "Not probed, as their entries in the DERP map cannot be used",
}

_CODES: dict[tuple[Section, str], Code] = {
    (section, code.value): code for section, codes in CODES.items() for code in codes
}


@dataclass(frozen=True, slots=True, kw_only=True)
class CodeView:
    """An active code. `summary` is empty for one that the table does not know."""

    value: str
    summary: str
    docs_url: str
    since_timestamp_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SkippedView:
    """Nodes of the DERP map that are not probed for one reason, as `REGION/NODE (host)`. `count` is
    that of all, `nodes` has the first of them."""

    reason: str
    nodes: tuple[str, ...]
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SectionView:
    """A section of a deployment. `severity` is the settled one, None before the first run;
    `last_run_timestamp_seconds` is when the latest run of any of its targets began."""

    section: Section
    off: OffReason | None = None
    severity: Severity | None = None
    codes: tuple[CodeView, ...] = ()
    skipped: tuple[SkippedView, ...] = ()
    last_run_timestamp_seconds: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeploymentView:
    name: str
    sections: tuple[SectionView, ...]
    maintenance: Maintenance = CLOSED


@dataclass(frozen=True, slots=True, kw_only=True)
class Landing:
    """What the landing page shows at a moment."""

    version: str
    now_timestamp_seconds: float
    deployments: tuple[DeploymentView, ...]


def survey(
    snapshot: Snapshot,
    off: Mapping[SectionKey, OffReason | None],
    maintenance: Mapping[str, Maintenance] = MappingProxyType({}),
) -> tuple[DeploymentView, ...]:
    """Return what the snapshot says of every declared section that we probe ourselves.

    Args:
        off: Every declared section, in the order shown; why it is off, None when it is on.
        maintenance: Of deployments that have windows.
    """
    last_runs: dict[SectionKey, float] = {}
    skipped: dict[SectionKey, tuple[SkippedView, ...]] = {}
    for key, entry in snapshot.entries.items():
        started = entry.health.started_timestamp_seconds
        last_runs[key.section_key] = max(started, last_runs.get(key.section_key, started))
        if isinstance(entry.health.result, DerpResult):
            skipped[key.section_key] = _group(entry.health.result.skipped)
    deployments: dict[str, list[SectionView]] = {}
    for section_key, reason in off.items():
        if section_key.witness is Witness.PROBE and not section_key.coder_replica:
            views = deployments.setdefault(section_key.deployment, [])
            rollup = snapshot.sections.get(section_key)
            view = _view(section_key.section, reason, rollup, last_runs.get(section_key))
            views.append(replace(view, skipped=skipped.get(section_key, ()) if reason is None else ()))
    return tuple(
        DeploymentView(name=name, sections=tuple(views), maintenance=maintenance.get(name, CLOSED))
        for name, views in deployments.items()
    )


def _view(section: Section, off: OffReason | None, rollup: SectionRollup | None, last_run: float | None) -> SectionView:
    if off is not None or rollup is None or not rollup.measured:
        return SectionView(section=section, off=off, last_run_timestamp_seconds=last_run)
    return SectionView(
        section=section,
        severity=rollup.settled_severity,
        codes=tuple(_code(section, code, since) for code, since in sorted(rollup.since_timestamp_seconds.items())),
        last_run_timestamp_seconds=last_run,
    )


def _group(skipped: Iterable[Skipped]) -> tuple[SkippedView, ...]:
    nodes: dict[str, list[str]] = {}
    for node in skipped:
        host = f" ({node.host})" if node.host else ""
        nodes.setdefault(node.reason, []).append(f"{node.region_id}/{node.node}{host}")
    return tuple(
        SkippedView(reason=reason, nodes=tuple(names[:_MAX_SKIPPED]), count=len(names))
        for reason, names in sorted(nodes.items())
    )


def _code(section: Section, value: str, since: float) -> CodeView:
    code = _CODES.get((section, value))
    return CodeView(
        value=value,
        summary=code.summary if code is not None else "",
        docs_url=code.docs_url if code is not None else "",
        since_timestamp_seconds=since,
    )


def render_landing(landing: Landing, *, telemetry_path: str) -> str:
    """Return the landing page. Its links are relative, so it works below a proxy's prefix."""
    metrics = escape(telemetry_path.lstrip("/"))
    deployments = "".join(_render_deployment(view, landing.now_timestamp_seconds) for view in landing.deployments)
    if not landing.deployments:
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
    rows = "".join(_render_section(section, now) for section in view.sections)
    known = [section.severity for section in view.sections if section.severity is not None]
    return f"""<section class="card">
<h2>{escape(view.name)} {_badge(max(known, default=None))}</h2>
{_render_maintenance(view.maintenance)}<table role="table">
<thead role="rowgroup"><tr role="row">{_HEAD}</tr></thead>
<tbody role="rowgroup">
{rows}</tbody>
</table>
</section>
"""


def _render_maintenance(maintenance: Maintenance) -> str:
    if not maintenance.open:
        return ""
    until = maintenance.next_change_timestamp_seconds
    said = "" if until is None else f" until {_time(until)}"
    return f'<p class="maintenance">A maintenance window is open{said}: no rule alerts for this deployment.</p>\n'


def _render_section(view: SectionView, now: float) -> str:
    if view.off is not None:
        badge = '<span class="badge off">off</span>'
        said = f'<span class="quiet">{escape(_OFF_SENTENCES[view.off])}</span> <code>{escape(view.off)}</code>'
    elif view.severity is None:
        badge = _badge(None)
        said = '<span class="quiet">Waiting for the first run.</span>'
    else:
        badge = _badge(view.severity)
        said = f"<ul>{''.join(_render_code(code, now) for code in view.codes)}</ul>" if view.codes else "Nothing."
    said += "".join(map(_render_skipped, view.skipped))
    last_run = "never"
    if view.last_run_timestamp_seconds is not None:
        last_run = _age(view.last_run_timestamp_seconds, now) + " ago"
    return (
        f'<tr role="row"><th role="rowheader" scope="row">{_SECTION_NAMES[view.section]}</th>'
        f'<td role="cell">{badge}</td><td role="cell">{said}</td>'
        f'<td role="cell" class="age"><span class="narrow">Last run </span>{last_run}</td></tr>\n'
    )


def _render_code(view: CodeView, now: float) -> str:
    code = f"<code>{escape(view.value)}</code>"
    if view.docs_url:
        code = f'<a href="{escape(view.docs_url)}" rel="noreferrer">{code}</a>'
    summary = f" {escape(view.summary)}" if view.summary else ""
    age = _age(view.since_timestamp_seconds, now)
    since = f"For {age}, since {_time(view.since_timestamp_seconds)}."
    return f'<li>{code}{summary} <span class="quiet since">{since}</span></li>'


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
.maintenance { margin: 0 0 .75rem; font-weight: 600; }
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
