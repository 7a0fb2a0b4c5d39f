"""The README: its two commands, its tables, its flags, its examples."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from exporter.config.load import VARIABLES, load_config, reference
from exporter.demo.command import LISTEN_ADDRESS
from exporter.health.codes import CODES
from exporter.health.model import Section
from exporter.metrics.families import FAMILIES
from exporter.process import EVENT_LOOP_VARIABLE
from exporter.web.server import DEFAULT_LISTEN_ADDRESS, DEFAULT_TELEMETRY_PATH
from tests.support import readme_tables

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
FENCE = re.compile(r"^```(?P<language>\S*)\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL)
BLOCKS = [(match["language"], match["body"]) for match in FENCE.finditer(README)]
SHELL = [body for language, body in BLOCKS if language in {"sh", "bash", "console", "shell"}]
FLAG_ROW = re.compile(r"^\| `(?P<flag>--[a-z.-]+)[^|]*\| (?P<commands>[^|]+) \|", re.MULTILINE)
COMMANDS = {"serve": [], "check": ["check"], "demo": ["demo"], "explain": ["explain"]}
SECONDS = 60.0


def show_help(command: str) -> str:
    return subprocess.run(
        [sys.executable, "-m", "exporter", *COMMANDS[command], "--help"],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=True,
    ).stdout


@pytest.mark.parametrize("name", readme_tables.TABLES)
def test_the_tables_are_those_of_the_code(name: str) -> None:
    """`python -m tests.support.readme_tables` writes them anew."""
    assert readme_tables.find_table(README, name).endswith(f"-->\n{readme_tables.TABLES[name]()}")


def test_the_reference_leaves_no_key_out() -> None:
    """SECTION stands for a section's key only where all sections have it alike, save for rows of their own."""
    table = readme_tables.find_table(README, "configuration")
    for row in reference():
        wide = re.sub(rf"\.sections\.({'|'.join(Section)})\.", ".sections.SECTION.", row.key)
        assert f"| `{row.key}` |" in table or f"| `{wide}` |" in table


@pytest.mark.parametrize("number", [0, 1])
def test_the_two_commands_are_one_line_each(number: int) -> None:
    """Somebody copies one line; a machine that follows this page takes the first two shell blocks."""
    assert 1 == len(SHELL[number].splitlines())
    assert [] == [word for word in shlex.split(SHELL[number]) if "://" in word]


@pytest.mark.parametrize(
    ("number", "pins", "last"),
    [
        (0, "constraints.txt", ".venv/bin/coder-health-exporter demo"),
        (1, "tests/constraints.txt", ".venv/bin/python -m pytest"),
    ],
)
def test_the_two_commands_install_only_what_is_pinned(number: int, pins: str, last: str) -> None:
    """Every file is checked against a hash; the project itself is built by what was pinned."""
    steps = SHELL[number].strip().split(" && ")
    assert last == steps[-1]
    assert f"install --require-hashes -r {pins}" in steps[1]
    assert "install --no-deps --no-build-isolation " in steps[2]
    assert 4 == len(steps)


@pytest.mark.parametrize("command", COMMANDS)
def test_the_flags_are_those_of_the_commands(command: str) -> None:
    """Every flag has its row, and no row is about a flag that does not exist."""
    rows = {row["flag"]: row["commands"].split(", ") for row in FLAG_ROW.finditer(README)}
    assert set(
        re.findall(r"--[a-z][a-z.-]*", show_help(command).partition("options:")[2].partition("commands:")[0])
    ) == {flag for flag, commands in rows.items() if command in commands or commands == ["all"]}


def test_the_environment_is_the_one_that_is_read() -> None:
    """Every variable has its place in the table."""
    table = README.partition("### Environment")[2].partition("###")[0]
    assert {*VARIABLES, EVENT_LOOP_VARIABLE} == set(re.findall(r"`(CODER_[A-Z_]+)`", table))


def test_addresses_and_paths_are_the_defaults() -> None:
    """Who copies an address from this page reaches the exporter."""
    assert f"`{DEFAULT_LISTEN_ADDRESS}`; demo: `{LISTEN_ADDRESS}`" in README
    assert f"http://{LISTEN_ADDRESS}{DEFAULT_TELEMETRY_PATH}" in README
    assert set(re.findall(r":(\d{5})\b", README)) == {LISTEN_ADDRESS.rpartition(":")[2]}


def test_the_example_configuration_is_good(tmp_path: Path) -> None:
    """The file in the README passes, once its secrets are where it says."""
    (example,) = (body for language, body in BLOCKS if language == "yaml" and "deployments:" in body)
    secrets = {"coder-token": "abcdefghij-0123456789abcdefghijkl", "pg-url": "postgres://u:p@db.example.com/coder"}
    for name, text in secrets.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o600)
    file = tmp_path / "coder-health.yaml"
    file.write_text(example.replace("/run/secrets/", ""))
    config = load_config(file, {})
    assert ("prod", "staging") == tuple(deployment.name for deployment in config.deployments)
    assert () == config.warnings


def test_the_other_examples_are_yaml() -> None:
    """The scrape configuration can be copied as it stands."""
    (example,) = (body for language, body in BLOCKS if language == "yaml" and "scrape_configs:" in body)
    assert {"scrape_configs", "rule_files"} == set(yaml.safe_load(example))


def test_every_file_that_is_named_exists() -> None:
    """No link and no path leads nowhere."""
    linked = re.findall(r"\]\((?!https?:)([^)#]+)\)", README)
    named = re.findall(r"`((?:deploy|grafana|alerts|tests|\.ci)/[^`]*)`", README)
    assert [] == [path for path in [*linked, *named] if not (ROOT / path).exists()]
    assert len(named) > 4


def test_the_changelog_names_what_operators_rely_on() -> None:
    """Every family, code, flag and variable of this version was announced."""
    text = (ROOT / "CHANGELOG.md").read_text()
    names = [family.name for family in FAMILIES] + [code.value for codes in CODES.values() for code in codes]
    flags = {row["flag"] for row in FLAG_ROW.finditer(README)} - {"--help"}
    assert [] == [name for name in [*names, *flags, *VARIABLES, EVENT_LOOP_VARIABLE] if name not in text]
