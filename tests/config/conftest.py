"""A configuration from its text: written into the test's own folder, loaded, or its problems told."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from exporter.config.load import load_config
from exporter.config.model import Config
from exporter.errors import ConfigError

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Write a file into the working directory of the test, for its owner only."""
    monkeypatch.chdir(tmp_path)

    def write(text: str, name: str = "c.yaml", mode: int = 0o600) -> Path:
        path = Path(name)
        path.write_text(text)
        path.chmod(mode)
        return path

    return write


@pytest.fixture
def load(write: Write) -> Callable[[str], Config]:
    """Load a configuration from its text."""
    return lambda text: load_config(write(text), {})


@pytest.fixture
def problems(load: Callable[[str], Config]) -> Callable[[str], list[str]]:
    """Give the problems of a configuration, without the part that is always the same."""

    def give(text: str) -> list[str]:
        with pytest.raises(ConfigError) as caught:
            load(text)
        return [problem.replace("deployments[0]", "D0").removeprefix("c.yaml:") for problem in caught.value.problems]

    return give
