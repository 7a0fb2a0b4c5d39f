"""`python -m exporter.demo`."""

from __future__ import annotations

import sys

import pytest

from exporter.demo import __main__ as program
from exporter.demo import scenario


def test_it_is_the_command_by_itself(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """It takes the command's flags and ends with its status."""
    monkeypatch.setattr(sys, "argv", ["demo", "--list-scenarios"])
    assert 0 == program.main()
    assert scenario.TOUR in capsys.readouterr().out


def test_a_usage_error_is_status_3(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """As with the command: what was wrong, and where help is."""
    monkeypatch.setattr(sys, "argv", ["demo", "--nonsense"])
    with pytest.raises(SystemExit) as ended:
        program.main()
    assert 3 == ended.value.code
    assert "unrecognized arguments: --nonsense; see python -m exporter.demo --help" in capsys.readouterr().err
