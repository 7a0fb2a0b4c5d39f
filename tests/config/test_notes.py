"""What is noted as wrong, and where it stands."""

from __future__ import annotations

from pathlib import Path

import pytest

from exporter.config.notes import Notes, Origin, show_name
from exporter.config.problems import Problem


def _read(path: Path) -> str:
    return path.read_text()


def test_problems_have_the_line_of_their_key_or_of_what_holds_it() -> None:
    """A key that is missing has no line of its own."""
    notes = Notes(Origin(lines={("a",): 3, ("a", "b"): 4}, broken=set()))
    notes.refuse(("a", "b"), "is wrong")
    notes.refuse(("a", "c"), "is missing")
    notes.warn(("x",), "is odd")
    assert [
        Problem(path=("a", "b"), line=4, text="is wrong"),
        Problem(path=("a", "c"), line=3, text="is missing"),
    ] == notes.problems
    assert [Problem(path=("x",), line=None, text="is odd")] == notes.warnings


def test_the_second_use_of_a_name_is_refused() -> None:
    """Among things of the same kind; the first is named."""
    notes = Notes(Origin(lines={}, broken=set()))
    notes.check_first_use(("a",), "proxy", "eu")
    notes.check_first_use(("b",), "replica", "eu")
    assert [] == notes.problems
    notes.check_first_use(("c",), "proxy", "eu")
    assert [Problem(path=("c",), text='"eu" is used before, by a; names are unique')] == notes.problems
    assert ("a",) == notes.find_first_use(("d",), "proxy", "eu")


@pytest.mark.parametrize(
    ("alone", "variables", "expected"),
    [(False, {}, "sub/f"), (True, {}, "f"), (False, {("k",): "NAME"}, "f")],
)
def test_where_a_relative_path_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, alone: bool, variables: dict[tuple[str], str], expected: str
) -> None:
    """In the file at the file's folder, in the environment at the working directory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sub").mkdir()
    (tmp_path / expected).write_text("here")
    notes = Notes(Origin(lines={}, broken=set(), folder=Path("sub"), alone=alone, variables=dict(variables)))
    assert (Path(expected), "here") == notes.read_file(("k",), Path("f"), _read)
    assert [] == notes.problems


def test_a_name_is_shown_on_one_line() -> None:
    """Whatever stands in it."""
    assert '"a\\nb"' == show_name("a\nb")
