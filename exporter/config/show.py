"""The configuration shown: every key with its default, the reference, and what is in force.

The first two are made from the models of the file (document.py), so they cannot drift from it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml

from exporter.config.decode import keys_of
from exporter.config.document import Document, Key, Keys
from exporter.config.durations import format_duration
from exporter.config.model import (
    AccessURLSectionConfig,
    Config,
    DeploymentConfig,
    DerpSectionConfig,
    DirectConnectionsSectionConfig,
    ProvisionerDaemonsSectionConfig,
    SectionConfig,
)
from exporter.config.windows import format_start
from exporter.health.maintenance import WeeklyWindow, Window
from exporter.health.settle import Policy

_MEANING_COLUMN = 56
# Without these a deployment is no deployment: they stand in the defaults as values to be replaced.
_REPLACE = (("deployments", "name"), ("deployments", "url"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One key of the reference. `default` is empty when there is none."""

    key: str
    form: str
    default: str
    meaning: str


def reference() -> list[Row]:
    """Return every key that takes a value, in the order of the file."""
    return list(_rows(Document, "", inherited=""))


def defaults_yaml() -> str:
    """Write a configuration file with every key: what has a default with it, the rest as a comment."""
    lines = [
        "# Every key of the configuration, with its default. Keys behind a # have none, or take it from",
        "# elsewhere; their values are examples. Durations are written 500ms, 30s, 5m, 1h30m or 2d.",
        *_lines(Document, (), indent="", comment=False),
    ]
    return "\n".join(lines) + "\n"


def redacted(config: Config) -> str:
    """Write the configuration in force as YAML, in the form of the file, each secret as `<secret>`."""
    shown: dict[str, Any] = {} if config.reference is None else {"global": {"reference": config.reference}}
    shown["deployments"] = [_show_deployment(deployment) for deployment in config.deployments]
    return yaml.safe_dump(shown, sort_keys=False, allow_unicode=True, width=120)


def _key(model: type[Keys], name: str) -> Key:
    fields = {field.alias or field_name: field for field_name, field in model.model_fields.items()}
    return next(part for part in fields[name].metadata if isinstance(part, Key))


def _rows(model: type[Keys], prefix: str, *, inherited: str) -> Iterator[Row]:
    for name, (inner, is_list) in keys_of(model).items():
        key = _key(model, name)
        path = f"{prefix}{name}{'[]' if is_list else ''}"
        if inner is not None:
            yield from _rows(inner, f"{path}.", inherited=f"global.{name}." if key.inherited else "")
        else:
            default = f"{inherited}{name}" if inherited and not key.own else key.default
            yield Row(key=path, form=key.form, default=default, meaning=key.meaning)


def _lines(model: type[Keys], path: tuple[str, ...], *, indent: str, comment: bool) -> Iterator[str]:
    """Write the keys of one mapping. `path` has no list indexes; a list shows one item."""
    for name, (inner, is_list) in keys_of(model).items():
        key = _key(model, name)
        if inner is None:
            silent = comment or (bool(key.example) and (*path, name) not in _REPLACE)
            yield _line(indent, f"{name}: {key.example or key.default}", key.meaning, comment=silent)
        else:
            silent = comment or key.optional
            yield _line(indent, f"{name}:", key.meaning, comment=silent)
            below = _lines(inner, (*path, name), indent=indent + ("    " if is_list else "  "), comment=silent)
            yield from _as_item(below) if is_list else below


def _as_item(lines: Iterator[str]) -> Iterator[str]:
    """Put the dash of a list before the first line; everything stays in its column."""
    first = next(lines)
    commented = first.lstrip().startswith("# ")
    yield re.sub(r"^( *)  (# )?", r"\1# - " if commented else r"\1- ", first, count=1)
    yield from lines


def _line(indent: str, text: str, meaning: str, *, comment: bool) -> str:
    line = f"{indent}{text}"
    if comment:
        bare = line.lstrip(" ")
        line = f"{line[: len(line) - len(bare)]}# {bare}"
    return f"{line.ljust(_MEANING_COLUMN)}  # {meaning}"


def _show_deployment(deployment: DeploymentConfig) -> dict[str, Any]:
    shown: dict[str, Any] = {"name": deployment.name}
    if deployment.url is not None:
        shown["url"] = deployment.url
    if deployment.url_file is not None:
        shown["url_file"] = str(deployment.url_file)
    if deployment.session_token is not None:
        shown["session_token"] = str(deployment.session_token)
    if deployment.session_token_file is not None:
        shown["session_token_file"] = str(deployment.session_token_file)
    if deployment.deployment_id is not None:
        shown["deployment_id"] = deployment.deployment_id
    if deployment.ca_file is not None:
        shown["tls"] = {"ca_file": str(deployment.ca_file)}
    if deployment.database is not None:
        shown["database"] = {
            "url": str(deployment.database.url),
            "fresh_connection_interval": format_duration(deployment.database.fresh_connection_interval_seconds),
        }
        if deployment.database.latency_threshold_seconds is not None:
            threshold = format_duration(deployment.database.latency_threshold_seconds)
            shown["database"]["latency_threshold"] = threshold
    shown["replicas"] = _show_replicas(deployment)
    shown["sections"] = {
        "access_url": _show_section(deployment.access_url),
        "websocket": _show_section(deployment.websocket),
        "database": _show_section(deployment.database_section),
        "derp": _show_section(deployment.derp),
        "workspace_proxy": _show_section(deployment.workspace_proxy),
        "provisioner_daemons": _show_section(deployment.provisioner_daemons),
        "direct_connections": _show_section(deployment.direct_connections),
        "report": _show_section(deployment.report),
    }
    if deployment.static_proxies:
        proxies = [{"name": proxy.name, "url": proxy.url, "id": proxy.id} for proxy in deployment.static_proxies]
        shown["workspace_proxies"] = {"static": proxies}
    if deployment.maintenance:
        shown["maintenance"] = [_show_window(window) for window in deployment.maintenance]
    return shown


def _show_replicas(deployment: DeploymentConfig) -> dict[str, Any]:
    shown: dict[str, Any] = {}
    dns = deployment.replica_dns
    if dns is not None:
        shown["dns"] = dns.name
        if dns.port is not None:
            shown["port"] = dns.port
        shown["scheme"] = dns.scheme
    if deployment.replicas:
        shown["urls"] = [{"name": replica.name, "url": replica.url} for replica in deployment.replicas]
    return shown | {"discover": deployment.discover_replicas}


def _show_window(window: Window) -> dict[str, Any]:
    shown = {"start": format_start(window), "duration": format_duration(window.duration_seconds)}
    return shown | ({"timezone": str(window.zone)} if isinstance(window, WeeklyWindow) else {})


def _show_section(section: SectionConfig) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "enabled": section.enabled,
        "interval": format_duration(section.interval_seconds),
        "timeout": format_duration(section.timeout_seconds),
    }
    return shown | _show_own(section) | {"settle": _show_settle(section.settle)}


def _show_own(section: SectionConfig) -> dict[str, Any]:
    """Show what only this section has."""
    match section:
        case AccessURLSectionConfig():
            return {
                "certificate_warning": format_duration(section.certificate_warning_seconds),
                "certificate_error": format_duration(section.certificate_error_seconds),
            }
        case DerpSectionConfig():
            return _show_derp(section)
        case ProvisionerDaemonsSectionConfig():
            return {"stale_after": format_duration(section.stale_after_seconds)}
        case DirectConnectionsSectionConfig():
            return {"tunnel_interfaces": list(section.tunnel_interfaces)}
        case _:
            return {}


def _show_derp(section: DerpSectionConfig) -> dict[str, Any]:
    shown: dict[str, Any] = {}
    if section.expect_websocket is not None:
        shown["expect_websocket"] = section.expect_websocket
    shown["mesh"] = section.mesh
    if section.map_file is not None:
        shown["map"] = {"file": str(section.map_file)}
    shown["allow_hosts"] = list(section.allow_hosts)
    shown["loss"] = {
        "enabled": section.loss.enabled,
        "packets_per_second": section.loss.packets_per_second,
        "window": format_duration(section.loss.window_seconds),
    }
    return shown


def _show_settle(policy: Policy) -> dict[str, Any]:
    return {
        "raise": policy.raise_after,
        "clear": policy.clear_after,
        "startup_grace": format_duration(policy.startup_grace_seconds),
        "version_grace": format_duration(policy.version_grace_seconds),
    }
