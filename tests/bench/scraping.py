"""What the benchmark reads in a body of /metrics."""

from __future__ import annotations


def count_series(body: str) -> int:
    """Return the number of sample lines."""
    return sum(1 for line in body.splitlines() if line and not line.startswith("#"))


def count_series_sum(body: str, name: str) -> float:
    """Return the sum of all samples of a name."""
    return sum(
        float(line.rpartition(" ")[2])
        for line in body.splitlines()
        if line.startswith(name) and line[len(name) : len(name) + 1] in ("{", " ")
    )
