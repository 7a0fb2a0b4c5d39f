"""What is written for people and pipes: a reader who went away is no trouble, a full disk is."""

from __future__ import annotations

import io
import os
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from exporter import output
from exporter.output import OutputError


def test_what_is_written_is_there_at_once(tmp_path: Path) -> None:
    """Nothing waits in a buffer."""
    with (tmp_path / "out").open("w") as out:
        output.write("a line\n", out)
        assert "a line\n" == (tmp_path / "out").read_text()


def test_a_reader_who_went_away_is_no_trouble() -> None:
    """This line goes nowhere, and those after it."""
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "w") as out:
        with pytest.raises(BrokenPipeError):
            os.write(writing, b"x")
        output.write("a line\n", out)
        output.write("another\n", out)
        assert os.path.samestat(os.stat(os.devnull), os.fstat(out.fileno()))


def test_a_full_disk_is_an_error() -> None:
    """With its reason; what is left in the buffer makes no second one at the end."""
    with Path("/dev/full").open("w") as out, pytest.raises(OutputError, match="cannot be written: No space left"):
        output.write("a line\n", out)


def test_standard_output_is_the_default(capsys: pytest.CaptureFixture[str]) -> None:
    """And standard error is for what is told beside it."""
    output.write("said")
    output.tell("told")
    assert ("said", "told\n") == tuple(capsys.readouterr())


def test_nobody_can_be_told_and_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where standard error is full, the verdict is the same."""
    with Path("/dev/full").open("wb", buffering=0) as raw:
        full = io.TextIOWrapper(raw, write_through=True)
        monkeypatch.setattr("sys.stderr", full)
        output.tell("told")
        with pytest.raises(OSError, match="No space left"):
            full.write("x")
        with suppress(OSError):
            full.detach()


def test_a_closed_output_is_no_trouble(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python has none then."""
    monkeypatch.setattr("sys.stdout", None)
    output.write("said")
    assert sys.stdout is None
