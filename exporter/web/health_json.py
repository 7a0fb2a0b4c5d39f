"""The JSON of `/api/v1/health`: views in, JSON's own types out.

Versioned: a member that changes its meaning or goes away makes another version; new members may come at
any time. Times are seconds since 1970. What is not known is null.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from exporter.health.codes import DOCS_URL
from exporter.health.model import Severity
from exporter.web.views import CodeView, DeploymentView, SectionView, WitnessView

VERSION = 1


def tell_health(deployments: Iterable[DeploymentView], *, exporter_version: str, now: float) -> dict[str, Any]:
    """Return everything: deployments, their sections, what each witness says of them, and this
    exporter."""
    views = tuple(deployments)
    own = next((view for view in views if not view.name), None)
    return {
        "version": VERSION,
        "timestamp_seconds": now,
        "severity": _label(max((view.severity for view in views if view.severity is not None), default=None)),
        "deployments": [_tell_deployment(view) for view in views if view.name],
        "exporter": {
            "version": exporter_version,
            "sections": [] if own is None else [_tell_section(section) for section in own.sections],
        },
    }


def tell_section(view: SectionView, deployment: str) -> dict[str, Any]:
    """Return one section alone; `severity` is null when it is off or not yet measured."""
    verdict = view.verdict
    told = _tell_section(view)
    return {
        "version": VERSION,
        "deployment": deployment,
        "section": str(view.section),
        "severity": None if verdict is None else _label(verdict.severity),
        "witness": None if verdict is None else str(verdict.witness),
        "coder_replica": None if verdict is None else verdict.coder_replica,
        "codes": [] if verdict is None else [_tell_code(code) for code in verdict.active_codes],
        **{name: value for name, value in told.items() if name not in ("section", "severity")},
    }


def _tell_deployment(view: DeploymentView) -> dict[str, Any]:
    cause = view.root_cause
    return {
        "name": view.name,
        "severity": _label(view.severity),
        "maintenance": {
            "open": view.maintenance.open,
            "next_change_timestamp_seconds": view.maintenance.next_change_timestamp_seconds,
        },
        "root_cause": None
        if cause is None
        else {
            "layer": str(cause.layer),
            "text": cause.sentence,
            "consequences": [str(section) for section in cause.consequences],
        },
        "sections": [_tell_section(section) for section in view.sections],
    }


def _tell_section(view: SectionView) -> dict[str, Any]:
    verdict = view.verdict
    return {
        "section": str(view.section),
        "severity": None if verdict is None else _label(verdict.severity),
        "dismissed": view.dismissed,
        "dismissed_since_timestamp_seconds": view.dismissed_since_timestamp_seconds,
        "consequence": view.consequence,
        "disagreements": [{"coder_replica": one.coder_replica, "text": one.sentence} for one in view.disagreements],
        "skipped": [{"reason": one.reason, "nodes": list(one.nodes), "count": one.count} for one in view.skipped],
        "witnesses": [_tell_witness(one) for one in view.witnesses],
    }


def _tell_witness(view: WitnessView) -> dict[str, Any]:
    return {
        "witness": str(view.witness),
        "coder_replica": view.coder_replica,
        "enabled": view.off is None,
        "reason": "" if view.off is None else str(view.off),
        "severity": _label(view.severity),
        "observed_severity": _label(view.observed_severity),
        "last_run_timestamp_seconds": view.last_run_timestamp_seconds,
        "codes": [_tell_code(code) for code in view.codes],
    }


def _tell_code(view: CodeView) -> dict[str, Any]:
    return {
        "code": view.value,
        "severity": view.severity.label,
        "active": view.active,
        "observed": view.observed,
        "since_timestamp_seconds": view.since_timestamp_seconds,
        "summary": view.summary,
        "docs_url": view.docs_url or DOCS_URL,
        "targets": view.target_count,
        "evidence": [
            {"target": one.target, "severity": one.severity.label, "message": one.message} for one in view.evidence
        ],
    }


def _label(severity: Severity | None) -> str | None:
    return None if severity is None else severity.label
