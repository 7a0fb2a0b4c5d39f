"""The benchmark works; what it measures is not judged here."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.bench.load import Quantiles
from tests.bench.programs import ROOT, BenchError, find_tool
from tests.bench.scraping import count_series, count_series_sum

_BODY = '# HELP a_total x\n# TYPE a_total counter\na_total{b="c"} 2.0\na_total{b="d"} 3.0\na_total_other 9.0\n'


@pytest.mark.timeout(300)
async def test_command_measures_every_part_and_writes_a_report(tmp_path: Path, need_tool: Callable[[str], str]) -> None:
    """With tiny numbers the one command ends well and its report has a section for each part."""
    for tool in ("nginx", "prometheus-blackbox-exporter"):
        need_tool(tool)
    path = tmp_path / "report.md"
    tiny = ["--repetitions", "1", "--seconds", "1", "--targets", "5", "--interval", "1", "--series", "500"]
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.bench",
        "--quick",
        *tiny,
        "--report",
        str(path),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await process.communicate()
    assert 0 == process.returncode, said.decode()
    headings = [line.split("(")[0].strip() for line in path.read_text().splitlines() if line.startswith("## ")]
    assert [
        "## Aims",
        "## CPU per probe",
        "## Latency and lateness with 5 targets / 1 s",
        "## A scrape",
        "## Stalls of the event loop",
        "## Memory",
    ] == headings
    assert str(tmp_path) not in path.read_text()


def test_missing_program_is_named_with_its_package() -> None:
    """A tool that is not installed ends the benchmark with its name and what to install."""
    with pytest.raises(BenchError) as caught:
        find_tool("no-such-program", "such-package")
    assert "no-such-program is not installed; on Debian: apt-get install such-package" == str(caught.value)


def test_series_are_counted_without_comments() -> None:
    """Sample lines count, comments and names that only begin alike do not."""
    assert 3 == count_series(_BODY)
    assert 5.0 == count_series_sum(_BODY, "a_total")


def test_quantiles_are_those_of_the_sorted_values() -> None:
    """Median, 99th percentile and maximum are values that were measured."""
    quantiles = Quantiles.of([float(value) for value in reversed(range(200))])
    assert (200, 100.0, 198.0, 199.0) == (quantiles.count, quantiles.p50, quantiles.p99, quantiles.max)


def test_nothing_measured_is_an_error() -> None:
    """Without a single value there is no quantile, and the message says what helps."""
    with pytest.raises(BenchError, match="give it more"):
        Quantiles.of([])
