"""The exporter's own families: named by the table, there from the start."""

from __future__ import annotations

import asyncio
import platform

from exporter.health.model import Section
from exporter.metrics.families import FAMILIES
from exporter.metrics.negotiation import Format
from exporter.metrics.own import LAG_INTERVAL_SECONDS, OwnMetrics
from tests.support.clock import FakeClock
from tests.support.exposition import families, pick, read


def make_own() -> OwnMetrics:
    return OwnMetrics(version="1.2.3", revision="abc", config_timestamp_seconds=7.0)


def test_build_and_configuration_are_shown_from_the_start() -> None:
    """Version, revision and Python; the configuration that it started with counts as read."""
    values = read(make_own().render(Format.TEXT))
    assert pick(values, "coder_health_exporter_build_info", "version", "revision", "pythonversion") == {
        ("1.2.3", "abc", platform.python_version()): 1.0
    }
    assert values[("coder_health_exporter_config_last_reload_successful", ())] == 1.0
    assert values[("coder_health_exporter_config_last_reload_success_timestamp_seconds", ())] == 7.0


def test_a_failed_reload_keeps_the_time_of_the_last_good_one() -> None:
    """The flag falls, the time stays."""
    own = make_own()
    own.config_reload_failed()
    values = read(own.render(Format.TEXT))
    assert values[("coder_health_exporter_config_last_reload_successful", ())] == 0.0
    assert values[("coder_health_exporter_config_last_reload_success_timestamp_seconds", ())] == 7.0
    own.config_reloaded(9.0)
    values = read(own.render(Format.TEXT))
    assert values[("coder_health_exporter_config_last_reload_successful", ())] == 1.0
    assert values[("coder_health_exporter_config_last_reload_success_timestamp_seconds", ())] == 9.0


def test_ticks_are_counted_by_section_from_zero() -> None:
    """A section in the schedule has its series before anything was late or skipped."""
    own = make_own()
    own.set_targets(Section.DATABASE, 3)
    own.set_targets(Section.WEBSOCKET, 1)
    own.tick_delayed(Section.DATABASE, 0.02)
    own.ticks_skipped(Section.DATABASE, 2)
    values = read(own.render(Format.TEXT))
    assert pick(values, "coder_health_exporter_targets", "section") == {"database": 3.0, "websocket": 1.0}
    assert pick(values, "coder_health_exporter_ticks_skipped_total", "section") == {"database": 2.0, "websocket": 0.0}
    assert pick(values, "coder_health_exporter_tick_delay_seconds_count", "section") == {
        "database": 1.0,
        "websocket": 0.0,
    }


async def test_the_event_loop_is_watched() -> None:
    """Each wake-up that is late is observed with how late it was."""
    own = make_own()
    clock = FakeClock()
    watch = asyncio.create_task(own.watch_event_loop(clock))
    await clock.advance(LAG_INTERVAL_SECONDS * 3)
    watch.cancel()
    await asyncio.gather(watch, return_exceptions=True)
    values = read(own.render(Format.TEXT))
    assert values[("coder_health_exporter_event_loop_lag_seconds_count", ())] == 3.0
    assert values[("coder_health_exporter_event_loop_lag_seconds_sum", ())] == 0.0


async def test_a_late_wake_up_counts_as_lag() -> None:
    """What a sleeper sleeps longer than asked is the lag."""

    class LateClock(FakeClock):
        async def sleep(self, seconds: float) -> None:
            await super().sleep(seconds + 0.25)

    own = make_own()
    clock = LateClock()
    watch = asyncio.create_task(own.watch_event_loop(clock))
    await clock.advance(LAG_INTERVAL_SECONDS + 0.25)
    watch.cancel()
    await asyncio.gather(watch, return_exceptions=True)
    assert read(own.render(Format.TEXT))[("coder_health_exporter_event_loop_lag_seconds_sum", ())] == 0.25


def test_both_formats_hold_the_families_of_the_table_and_no_others() -> None:
    """Names, types and help are those of the table; there is no `_created` and no end mark."""
    own = make_own()
    for section in Section:
        own.set_targets(section, 1)
    wanted = {(family.name.removesuffix("_total"), family.kind, family.help) for family in FAMILIES if family.own}
    for wanted_format, end in ((Format.TEXT, b""), (Format.OPENMETRICS, b"# EOF\n")):
        body = own.render(wanted_format)
        assert b"_created" not in body
        assert b"# EOF" not in body
        assert wanted == {
            (family.name, family.type, family.documentation) for family in families(body + end, wanted_format)
        }
