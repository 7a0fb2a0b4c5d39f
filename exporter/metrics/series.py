"""What lives on between runs: counters and histograms.

In: each finished run of a target. Out: pieces of exposition text. They count from the target's
first run on and vanish with it. The text around the values is made once for all targets; a run
fills in its numbers, and the target's labels, which are rendered once.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from functools import cache

from exporter.errors import Phase, Reason
from exporter.metrics.families import BUCKETS_SECONDS
from exporter.metrics.labels import label_text, number
from exporter.snapshot import Entry

# Stands for the labels in a text that is the same for all targets. No value holds it: control
# characters are written as escapes.
_LABELS = "\0"

_BOUNDS = (*(number(bound) for bound in BUCKETS_SECONDS), "+Inf")


@cache
def _histogram_text(family: str, *, labelled: bool) -> str:
    comma = f"{_LABELS}," if labelled else ""
    braces = f"{{{_LABELS}}}" if labelled else ""
    buckets = "".join(f'{family}_bucket{{{comma}le="{bound}"}} %s\n' for bound in _BOUNDS)
    return f"{buckets}{family}_count{braces} %s\n{family}_sum{braces} %s\n"


class Histogram:
    """A classic histogram of seconds with the ported buckets.

    Args:
        family: Its name.
        labels: Label text without braces; empty for none.
    """

    __slots__ = ("_counts", "_labels", "_sum", "_text")

    def __init__(self, family: str, labels: str = "") -> None:
        self._text = _histogram_text(family, labelled=bool(labels))
        self._labels = labels
        self._counts = [0] * len(_BOUNDS)
        self._sum = 0.0

    def observe(self, seconds: float) -> None:
        """Count one observation: in the bucket whose bound it does not exceed. Negative ones are
        what a clock that is not monotonic brings, and would make the sum fall: they count as 0."""
        seconds = max(0.0, seconds)
        self._counts[bisect_left(BUCKETS_SECONDS, seconds)] += 1
        self._sum += seconds

    def render(self) -> str:
        total = 0
        text = number(total)
        values = []
        for count in self._counts:
            if count:
                total += count
                text = number(total)
            values.append(text)
        return (self._text % (*values, text, number(self._sum))).replace(_LABELS, self._labels)


_SUCCESS = "coder_health_probe_success"
_RUNS = "coder_health_probe_runs_total"
_FAILURES = "coder_health_probe_failures_total"
_DURATION = "coder_health_probe_duration_seconds"
_PHASE = "coder_health_probe_phase_duration_seconds"
_LAST_RUN = "coder_health_probe_last_run_timestamp_seconds"
_LAST_SUCCESS = "coder_health_probe_last_success_timestamp_seconds"
_INTERVAL = "coder_health_probe_interval_seconds"

_TRUTHS = (number(False), number(True))
_FAILURES_TEXT = "".join(f'{_FAILURES}{{{_LABELS},reason="{reason}"}} %s\n' for reason in Reason)


@cache
def _phases_text(*phases: Phase) -> str:
    return "".join(f'{_PHASE}{{{_LABELS},phase="{phase}"}} %s\n' for phase in phases)


class TargetSeries:
    """What every target has, whatever its section: success, runs, failures, durations, freshness.

    Args:
        values: The escaped values of the target's labels.
        timed: Its runs take time that says something. One that only judges what others measured
            has all the rest, so that a judgement that failed or stopped is seen as with others;
            but its microseconds would drag down every quantile over its section.
    """

    __slots__ = ("_duration", "_failures", "_failures_piece", "_labels", "_runs")

    def __init__(self, values: Mapping[str, str], *, timed: bool = True) -> None:
        self._labels = label_text(_SUCCESS, values)
        self._runs = 0
        self._failures = dict.fromkeys(Reason, 0)
        self._failures_piece = self._render_failures()
        self._duration = Histogram(_DURATION, self._labels) if timed else None

    def observe(self, entry: Entry) -> dict[str, str]:
        """Count a finished run; return the pieces of the target by family."""
        health = entry.health
        failure = health.report.failure
        self._runs += 1
        if failure is not None:
            self._failures[failure.reason] += 1
            self._failures_piece = self._render_failures()
        started = number(health.started_timestamp_seconds)
        pieces = {
            _SUCCESS: self._line(_SUCCESS, _TRUTHS[failure is None]),
            _RUNS: self._line(_RUNS, number(self._runs)),
            _FAILURES: self._failures_piece,
            _LAST_RUN: self._line(_LAST_RUN, started),
            _INTERVAL: self._line(_INTERVAL, number(health.interval_seconds)),
        }
        if self._duration is not None:
            self._duration.observe(health.duration_seconds)
            pieces[_DURATION] = self._duration.render()
        if health.phase_seconds:
            phases = [phase for phase in Phase if phase in health.phase_seconds]
            values = tuple([number(health.phase_seconds[phase]) for phase in phases])
            pieces[_PHASE] = (_phases_text(*phases) % values).replace(_LABELS, self._labels)
        success = entry.last_success_timestamp_seconds
        if success is not None:
            # most often this very run, and such a number takes as long as ten others
            text = started if success == health.started_timestamp_seconds else number(success)
            pieces[_LAST_SUCCESS] = self._line(_LAST_SUCCESS, text)
        return pieces

    def _render_failures(self) -> str:
        return (_FAILURES_TEXT % tuple(map(number, self._failures.values()))).replace(_LABELS, self._labels)

    def _line(self, family: str, value: str) -> str:
        return f"{family}{{{self._labels}}} {value}\n"
