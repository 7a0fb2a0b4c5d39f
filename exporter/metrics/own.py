"""The exporter's own work: counters and histograms about the prober, kept by prometheus_client.

They are on a registry of our own, never the global one; names, labels and help come from the table.
"""

from __future__ import annotations

import platform
from typing import TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.validation import enable_legacy_validation

from exporter.clock import Clock
from exporter.health.model import Section
from exporter.metrics.families import BUCKETS_SECONDS, BY_NAME
from exporter.metrics.negotiation import Format

LAG_INTERVAL_SECONDS = 0.5

_END = b"# EOF\n"

_Metric = TypeVar("_Metric", Counter, Gauge)


class OwnMetrics:
    """Families about the exporter itself.

    Args:
        version, revision: Of this exporter; the revision is empty when it is not known.
        config_timestamp_seconds: When the configuration was read: without one nothing starts.
    """

    def __init__(self, *, version: str, revision: str = "", config_timestamp_seconds: float) -> None:
        # Both are switches for the whole process. `_created` would be a series beside each of ours
        # that the table does not know; with legacy names a typo fails here and not at a scrape.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        enable_legacy_validation()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        self._tick_delay = self._histogram("coder_health_exporter_tick_delay_seconds")
        self._tick_delays: dict[Section, Histogram] = {}
        self._ticks_skipped = self._declare(Counter, "coder_health_exporter_ticks_skipped_total")
        self._lag = self._histogram("coder_health_exporter_event_loop_lag_seconds")
        self._targets = self._declare(Gauge, "coder_health_exporter_targets")
        self._reloaded = self._declare(Gauge, "coder_health_exporter_config_last_reload_successful")
        self._reloaded_timestamp = self._declare(
            Gauge, "coder_health_exporter_config_last_reload_success_timestamp_seconds"
        )
        self._cut_off = self._declare(Gauge, "coder_health_exporter_cut_off")
        build_info = self._declare(Gauge, "coder_health_exporter_build_info")
        build_info.labels(version=version, revision=revision, pythonversion=platform.python_version()).set(1)
        self.config_reloaded(config_timestamp_seconds)

    def config_reloaded(self, timestamp_seconds: float) -> None:
        self._reloaded.set(1)
        self._reloaded_timestamp.set(timestamp_seconds)

    def config_reload_failed(self) -> None:
        """The configuration could not be read; the one before stays in force."""
        self._reloaded.set(0)

    def set_targets(self, section: Section, count: int) -> None:
        """Show a section with so many entries in the schedule, and its tick series from 0 on."""
        self._targets.labels(section).set(count)
        self._tick_delay.labels(section)
        self._ticks_skipped.labels(section)

    def set_cut_off(self, cut_off: bool) -> None:
        self._cut_off.set(cut_off)

    def tick_delayed(self, section: Section, delay_seconds: float) -> None:
        # kept by section: each run would pay for finding it
        delays = self._tick_delays.get(section)
        if delays is None:
            delays = self._tick_delays[section] = self._tick_delay.labels(section)
        delays.observe(delay_seconds)

    def ticks_skipped(self, section: Section, count: int = 1) -> None:
        self._ticks_skipped.labels(section).inc(count)

    async def watch_event_loop(self, clock: Clock) -> None:
        """Measure for ever how late the event loop wakes a sleeper. Ends by being cancelled."""
        while True:
            begun = clock.monotonic()
            await clock.sleep(LAG_INTERVAL_SECONDS)
            self._lag.observe(max(0.0, clock.monotonic() - begun - LAG_INTERVAL_SECONDS))

    def render(self, wanted: Format) -> bytes:
        """Return all samples, without an end mark."""
        if wanted is Format.OPENMETRICS:
            body: bytes = generate_openmetrics(self.registry)  # type: ignore[no-untyped-call]
            return body.removesuffix(_END)
        return generate_latest(self.registry)

    def _declare(self, kind: type[_Metric], name: str) -> _Metric:
        family = BY_NAME[name]
        return kind(name, family.help, family.labels, registry=self.registry)

    def _histogram(self, name: str) -> Histogram:
        family = BY_NAME[name]
        return Histogram(name, family.help, family.labels, registry=self.registry, buckets=BUCKETS_SECONDS)
