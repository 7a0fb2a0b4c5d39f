"""The texts of the health codes: complete, well formed, and the same in the runbooks."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from exporter.explain import sections
from exporter.health.codes import CODES, Code
from exporter.metrics.families import BY_NAME
from tests.support import promql

ROOT = Path(__file__).parents[2]
TEXTS = ROOT / "exporter" / "health" / "texts"
RUNBOOKS = ROOT / "alerts" / "runbooks"
FILES = sorted(TEXTS.glob("*.md"))
CODE_ROWS = {code.value: code for codes in CODES.values() for code in codes}

PARTS = ["What it means", "How it is judged", "Usual causes", "What to do", "If it is left", "See also"]
WIDEST_LINE = 110
HEADING = re.compile(r'<a id="(?P<anchor>[^"]+)"></a>\n\n## (?P<key>\w+) - (?P<title>.+)\n')
FENCE = re.compile(r"^ *```(?P<language>\w*)\n(?P<body>.*?)^ *```$", re.MULTILINE | re.DOTALL)


def test_there_is_a_text_for_every_section() -> None:
    """Files are named like sections."""
    assert sorted(CODES) == [path.stem for path in FILES]


def test_every_code_has_exactly_one_text() -> None:
    """No code is without words, and no words are about a code that does not exist."""
    assert set(CODE_ROWS) == set(sections())
    headings = [match["key"] for path in FILES for match in HEADING.finditer(path.read_text())]
    assert len(headings) == len(set(headings))
    assert set(CODE_ROWS) == {key for key in headings if not key.startswith("Coder")}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_anchors_are_the_key_in_small_letters(path: Path) -> None:
    """Every second-level heading carries the anchor that alerts and boards link."""
    text = path.read_text()
    found = list(HEADING.finditer(text))
    assert [match["key"].lower() for match in found] == [match["anchor"] for match in found]
    assert len(found) == len(re.findall(r"^## ", text, re.MULTILINE)) == text.count("<a id=")


@pytest.mark.parametrize("code", CODE_ROWS.values(), ids=CODE_ROWS)
def test_a_text_stands_in_the_file_of_its_section(code: Code) -> None:
    """The runbook link of an alert is made of section and code; EUNKNOWN belongs to none."""
    name = "exporter" if code.value == "EUNKNOWN" else code.section
    assert f"\n## {code.value} - " in (TEXTS / f"{name}.md").read_text()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_text_has_all_its_parts_in_order(path: Path) -> None:
    """Who reads at night finds the same parts in the same order each time."""
    for body in HEADING.split(path.read_text())[4::4]:
        assert PARTS == re.findall(r"^### (.+)$", body, re.MULTILINE)


@pytest.mark.parametrize("code", CODE_ROWS.values(), ids=CODE_ROWS)
def test_a_text_names_its_alerts_and_its_severities(code: Code) -> None:
    """The way back from the text to the rule."""
    text = sections()[code.value]
    for severity, alert in code.alerts.items():
        assert f"`{alert}`" in text
        assert severity.label in text.split("### What it means")[0].lower()


@pytest.mark.parametrize("code", CODE_ROWS.values(), ids=CODE_ROWS)
def test_texts_of_coders_codes_link_coders_page(code: Code) -> None:
    """The documentation of Coder is one click away."""
    if code.coder:
        assert code.docs_url in sections()[code.value]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_texts_fit_a_terminal_and_close_what_they_open(path: Path) -> None:
    """Lines are not wrapped by us, so they are short; code spans end on their line."""
    text = path.read_text()
    assert 0 == len(re.findall(r"^ *```", text, re.MULTILINE)) % 2
    for line in FENCE.sub("", text).splitlines():
        assert 0 == line.count("`") % 2, line
    for line in text.splitlines():
        assert len(line) <= WIDEST_LINE or "http" in line, line
    assert "\t" not in text


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_queries_in_texts_ask_for_what_exists(path: Path) -> None:
    """A reader can paste every PromQL line; metrics in running text exist as well."""
    text = path.read_text()
    for match in FENCE.finditer(text):
        if match["language"] == "promql":
            for query in match["body"].split("\n"):
                assert not query.strip() or [] == promql.problems(query), query
    for name in re.findall(r"\bcoder(?:d_proxyhealth|_health)_\w+", text):
        assert name in promql.series_labels() or name in BY_NAME, name


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_commands_in_texts_are_valid_shell(path: Path, need_tool: Callable[[str], str]) -> None:
    """Every block of commands parses, so that nothing breaks on being pasted."""
    bash = need_tool("bash")
    for match in FENCE.finditer(path.read_text()):
        if match["language"] == "sh":
            done = subprocess.run([bash, "-n"], input=match["body"], capture_output=True, text=True, check=False)
            assert (0, "") == (done.returncode, done.stderr), match["body"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_runbooks_are_copies_of_the_texts(path: Path) -> None:
    """One source: after a change run `cp exporter/health/texts/*.md alerts/runbooks/`."""
    assert path.read_bytes() == (RUNBOOKS / path.name).read_bytes()


def test_there_is_no_other_runbook() -> None:
    """A page whose text was removed does not stay behind."""
    assert [path.name for path in FILES] == sorted(path.name for path in RUNBOOKS.iterdir())
