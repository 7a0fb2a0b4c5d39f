"""The sections of a deployment: what they inherit, and what their own keys say about one another.

In: the keys of one section and those of `global`. Out: the section's frozen values.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from exporter.config import files, model
from exporter.config.document import (
    AccessURLKeys,
    DerpKeys,
    DerpMap,
    DirectConnectionsKeys,
    Global,
    Loss,
    ProvisionerDaemonsKeys,
    SectionKeys,
    Settle,
)
from exporter.config.durations import format_duration
from exporter.config.notes import Notes
from exporter.config.problems import KeyPath, escape
from exporter.config.values import MIN_LOSS_WINDOW_SECONDS
from exporter.errors import WireError
from exporter.health.model import Section
from exporter.health.settle import Policy
from exporter.wire.derp_map import parse_derp_map

_SectionConfig = TypeVar("_SectionConfig", bound=model.SectionConfig)


@dataclass(frozen=True, slots=True)
class _Interval:
    """`origin`: words that say who wrote it; None when what was written cannot be read."""

    seconds: float
    origin: str | None

    def __str__(self) -> str:
        return f"{format_duration(self.seconds)} {self.origin}"


def given(**values: Any) -> dict[str, Any]:
    """Keep what was written; the rest keeps the default beside its field in model.py."""
    return {name: value for name, value in values.items() if value is not None}


class SectionResolver:
    """Fills in and checks the sections of every deployment of a document."""

    def __init__(self, notes: Notes, keys: Global) -> None:
        self._notes = notes
        self._global = keys

    def check_global(self) -> None:
        """Refuse a timeout of `global` that is above its interval."""
        timeout = self._global.timeout
        if timeout is not None:
            self._check_timeout(("global", "timeout"), timeout, self._global_interval())

    def resolve(
        self,
        path: KeyPath,
        section: Section,
        keys: SectionKeys | None,
        kind: type[_SectionConfig] = model.SectionConfig,  # type: ignore[assignment]
        *,
        on_this_host: bool = False,
    ) -> _SectionConfig:
        """Return a section of the deployment at that path.

        Args:
            on_this_host: Its Coder is no server in use, which the report may not burden.
        """
        keys = keys or SectionKeys()
        path = (*path, "sections", section.value)
        interval = self._interval(path, section, keys.interval)
        own_settle = (Settle.model_validate({"raise": model.REPORT_RAISE_AFTER}),) if section is Section.REPORT else ()
        if section is Section.REPORT and not on_this_host:
            self._check_report_interval(path, keys.interval)
        return kind(
            **given(enabled=keys.enabled),
            interval_seconds=interval.seconds,
            timeout_seconds=self._timeout(path, section, keys.timeout, interval),
            settle=_merge_settle(self._global.settle, *own_settle, keys.settle),
            **self._own(path, keys, interval),
        )

    def _own(self, path: KeyPath, keys: SectionKeys, interval: _Interval) -> dict[str, Any]:
        """Return what only this section has."""
        match keys:
            case AccessURLKeys():
                return self._certificate_limits(path, keys)
            case DerpKeys():
                return self._derp(path, keys, interval)
            case ProvisionerDaemonsKeys(stale_after=float(seconds)):
                return {"stale_after_seconds": seconds}
            case DirectConnectionsKeys(tunnel_interfaces=list(patterns)):
                return {"tunnel_interfaces": tuple(patterns)}
            case _:
                return {}

    # intervals and timeouts

    def _check_report_interval(self, path: KeyPath, interval: float | None) -> None:
        least = model.MIN_REPORT_INTERVAL_SECONDS
        if interval is not None and interval < least:
            text = f"{format_duration(interval)} is too often: each report may cost Coder a round of checks; "
            self._notes.refuse((*path, "interval"), f"{text}at least {format_duration(least)}")

    def _check_timeout(self, path: KeyPath, timeout: float, interval: _Interval) -> None:
        if timeout > interval.seconds and interval.origin is not None:
            limit = format_duration(interval.seconds)
            text = f"{format_duration(timeout)} is longer than the interval {interval}; at most {limit}"
            self._notes.refuse(path, text)

    def _global_interval(self) -> _Interval:
        if self._global.interval is not None:
            return _Interval(self._global.interval, "of global.interval")
        broken = self._notes.broken_within(("global",), "interval")
        return _Interval(model.DEFAULT_INTERVAL_SECONDS, None if broken else "that is the default")

    def _interval(self, path: KeyPath, section: Section, written: float | None) -> _Interval:
        """Return section key, else section default, else global."""
        if written is not None:
            return _Interval(written, "written here")
        default = model.SECTION_INTERVAL_SECONDS.get(section)
        inherited = self._global_interval() if default is None else _Interval(default, "that is the default")
        return _Interval(inherited.seconds, None) if self._notes.broken((*path, "interval")) else inherited

    def _timeout(self, path: KeyPath, section: Section, written: float | None, interval: _Interval) -> float:
        """Return section key, else section default, else global; what nobody wrote gives way to the interval."""
        if written is None:
            default = model.SECTION_TIMEOUT_SECONDS.get(section, self._global.timeout or model.DEFAULT_TIMEOUT_SECONDS)
            # a run that hangs should be over before its next tick
            return min(default, 0.9 * interval.seconds)
        self._check_timeout((*path, "timeout"), written, interval)
        return written

    # access_url

    def _certificate_limits(self, path: KeyPath, keys: AccessURLKeys) -> dict[str, Any]:
        limits = given(
            certificate_warning_seconds=keys.certificate_warning, certificate_error_seconds=keys.certificate_error
        )
        resolved = model.AccessURLSectionConfig(**limits)
        warning, error = resolved.certificate_warning_seconds, resolved.certificate_error_seconds
        if error > warning and not self._notes.broken_within(path, "certificate_warning", "certificate_error"):
            key = "certificate_error" if keys.certificate_error is not None else "certificate_warning"
            text = f"an error from {format_duration(error)} on would come before the warning from "
            self._notes.refuse(
                (*path, key), f"{text}{format_duration(warning)} on; certificate_error is the shorter one"
            )
        return limits

    # derp

    def _derp(self, path: KeyPath, keys: DerpKeys, interval: _Interval) -> dict[str, Any]:
        return given(
            expect_websocket=keys.expect_websocket,
            mesh=keys.mesh,
            map_file=self._map_file((*path, "map"), keys.map),
            allow_hosts=None if keys.allow_hosts is None else tuple(keys.allow_hosts),
            loss=self._loss((*path, "loss"), keys.loss or Loss(), interval),
        )

    def _map_file(self, path: KeyPath, keys: DerpMap | None) -> Path | None:
        if keys is None:
            return None
        path = (*path, "file")
        if keys.file is None:
            if not self._notes.broken(path):
                self._notes.refuse(path, "is missing; name the file of the DERP map, or remove `map`")
            return None
        read = partial(files.read_small_file, max_bytes=files.MAX_MAP_BYTES)
        located, content = self._notes.read_file(path, keys.file, read)
        if content is not None:
            self._check_map(path, content.text)
        return located

    def _check_map(self, path: KeyPath, text: str) -> None:
        try:
            # by itself first: the parser quotes what is no JSON, and that may be a secret's file
            json.loads(text)
        except RecursionError:
            pass  # which the parser tells
        except ValueError as error:
            line = f" (line {error.lineno})" if isinstance(error, json.JSONDecodeError) else ""
            self._notes.refuse(path, f"the file is not JSON{line}")
            return
        try:
            problems = parse_derp_map(text).problems
        except WireError as error:
            self._notes.refuse(path, f"the file is no DERP map: {escape(str(error))}")
            return
        if problems:
            more = f", and {len(problems) - 1} more" if len(problems) > 1 else ""
            self._notes.warn(path, f"a part of the DERP map cannot be used: {escape(problems[0])}{more}")

    def _loss(self, path: KeyPath, keys: Loss, interval: _Interval) -> model.LossConfig:
        loss = model.LossConfig(
            **given(enabled=keys.enabled, packets_per_second=keys.packets_per_second, window_seconds=keys.window)
        )
        if not loss.enabled or interval.origin is None:
            return loss
        # a run is not over before its window is
        limit = interval.seconds / 2
        if limit < MIN_LOSS_WINDOW_SECONDS:
            least = format_duration(2 * MIN_LOSS_WINDOW_SECONDS)
            self._notes.refuse((*path, "enabled"), f"needs an interval of at least {least}; it is {interval}")
        elif keys.window is None:
            return replace(loss, window_seconds=min(loss.window_seconds, limit))
        elif keys.window > limit:
            text = f"{format_duration(keys.window)} is longer than half of the interval {interval}"
            self._notes.refuse((*path, "window"), f"{text}; at most {format_duration(limit)}")
        return loss


def _merge_settle(*layers: Settle | None) -> Policy:
    """Lay single keys over the defaults, the last layer on top."""
    merged: dict[str, Any] = {}
    for keys in layers:
        if keys is not None:
            merged |= given(
                raise_after=keys.raise_,
                clear_after=keys.clear,
                startup_grace_seconds=keys.startup_grace,
                version_grace_seconds=keys.version_grace,
            )
    return Policy(**merged)
