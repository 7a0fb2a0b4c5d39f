"""The benchmark works; what it measures is not judged here."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from exporter.config.load import load_config
from exporter.health.model import Section
from exporter.targets.static import plan
from tests.bench.load import Quantiles
from tests.bench.programs import ROOT, BenchError, find_tool, write_config
from tests.bench.report import merge
from tests.bench.scraping import count_series, count_series_sum

_BODY = '# HELP a_total x\n# TYPE a_total counter\na_total{b="c"} 2.0\na_total{b="d"} 3.0\na_total_other 9.0\n'
_STANDING = """# Benchmark report

- of old

## Aims

| what | aim | measured | reached |
| --- | --- | --- | --- |
| a scrape | 5 ms | 3 ms | yes |

## A scrape (`scrape`)

fast
"""


async def run_benchmark(report: Path, *arguments: str, path: str | None = None) -> None:
    """Measure as little as possible; `path` replaces the directories of programs."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "tests.bench", "--quick", "--repetitions", "1", "--seconds", "1", "--report", str(report)),
        *arguments,
        cwd=ROOT,
        env=os.environ | ({} if path is None else {"PATH": path}),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await process.communicate()
    assert 0 == process.returncode, said.decode()


def read_headings(report: Path) -> list[str]:
    return [line.split("(")[0].strip() for line in report.read_text().splitlines() if line.startswith("## ")]


def test_only_the_access_url_is_measured(tmp_path: Path) -> None:
    """A section that is new is off, too: it would add to the cost, and fail against a server that has only that."""
    path = write_config(tmp_path / "config.yml", urls=["http://127.0.0.1"], interval_seconds=1.0)
    targets = plan(load_config(path, {})).targets
    assert {Section.ACCESS_URL, Section.EXPORTER} == {target.section for target in targets}


@pytest.mark.timeout(300)
async def test_command_measures_every_part_and_writes_a_report(tmp_path: Path, need_tool: Callable[[str], str]) -> None:
    """With tiny numbers the one command ends well and its report has a section for each part."""
    for tool in ("nginx", "prometheus-blackbox-exporter"):
        need_tool(tool)
    path = tmp_path / "report.md"
    tiny = ["--targets", "5", "--interval", "1", "--series", "500", "--nodes", "2"]
    await run_benchmark(path, *tiny)
    assert [
        "## Aims",
        "## CPU per probe",
        "## Latency and lateness with 5 targets / 1 s",
        "## A scrape",
        "## Stalls of the event loop",
        "## Memory",
        "## One DERP check",
        "## DERP relays in the exporter",
        "## A large health report",
    ] == read_headings(path)
    assert str(tmp_path) not in path.read_text()


@pytest.mark.timeout(120)
async def test_relays_alone_are_measured_into_a_report_that_stands(
    tmp_path: Path, need_tool: Callable[[str], str]
) -> None:
    """The part derp has a row for each kind of check and each number of nodes, and keeps other sections."""
    need_tool("derper")
    path = tmp_path / "report.md"
    path.write_text(_STANDING)
    await run_benchmark(path, "--only", "derp", "--nodes", "1", "--nodes", "3")
    text = path.read_text()
    assert ["## Aims", "## A scrape", "## One DERP check", "## DERP relays in the exporter"] == read_headings(path)
    assert text.startswith("# Benchmark report\n\n- of old\n")
    assert "| a scrape | 5 ms | 3 ms | yes |\n" in text
    assert "fast\n" in text
    # four kinds of check over two transports on two event loops, and STUN on both
    assert (8, 8, 2) == tuple(
        sum(line.startswith(f"| {kind} |") for line in text.splitlines()) for kind in ("plain HTTP", "TLS 1.3", "UDP")
    )
    assert ["| 1 / 1 s ", "| 3 / 1 s "] == [line[:10] for line in text.splitlines() if " / 1 s | " in line[:14]]


@pytest.mark.timeout(120)
async def test_missing_relay_leaves_a_reason_and_no_number(tmp_path: Path) -> None:
    """Without derper both sections say how to have it, and nothing is measured."""
    path = tmp_path / "report.md"
    await run_benchmark(path, "--only", "derp", path=str(tmp_path))
    assert ["## One DERP check", "## DERP relays in the exporter"] == read_headings(path)
    reason = "Not measured: derper is not on PATH (go install tailscale.com/cmd/derper@v1.102.5).\n"
    assert 2 == path.read_text().count(reason)


@pytest.mark.timeout(120)
async def test_large_report_is_read_in_every_way(tmp_path: Path) -> None:
    """The part report has a row for each way of reading on both event loops, and an aim."""
    path = tmp_path / "report.md"
    await run_benchmark(path, "--only", "report")
    lines = path.read_text().splitlines()
    assert ["## Aims", "## A large health report"] == read_headings(path)
    assert (7, 7) == tuple(sum(line.startswith(f"| {loop} | ") for line in lines) for loop in ("uvloop", "asyncio"))


def test_sections_and_aims_of_a_fresh_report_replace_those_that_stand() -> None:
    """A row of the same name and a section of the same kind are replaced, the rest is kept in order."""
    fresh = (
        "# Benchmark report\n\nProse.\n\n- today\n- 2 cores,\n  busy\n\n"
        "## Aims\n\n| what | aim | measured | reached |\n| --- | --- | --- | --- |\n"
        "| a scrape | 5 ms | 9 ms | **no** |\n| a relay | 1 ms | 1 ms | yes |\n\n"
        "## CPU per probe (`probe_cost`)\n\nnew\n\n## A scrape (`scrape`)\n\nslow\n"
    )
    note = "Measured apart from the rest: today; 2 cores, busy.\n\n"
    assert (
        "# Benchmark report\n\n- of old\n\n"
        "## Aims\n\n| what | aim | measured | reached |\n| --- | --- | --- | --- |\n"
        "| a scrape | 5 ms | 9 ms | **no** |\n| a relay | 1 ms | 1 ms | yes |\n\n"
        f"## CPU per probe (`probe_cost`)\n\n{note}new\n\n## A scrape (`scrape`)\n\n{note}slow\n"
    ) == merge(_STANDING, fresh)


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
