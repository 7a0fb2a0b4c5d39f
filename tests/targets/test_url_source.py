"""The access URL's text."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from exporter.errors import ProbeError, Reason
from exporter.targets.model import AccessURL
from exporter.targets.url_source import read_url


async def test_a_written_url_is_taken_as_it_is() -> None:
    """Nothing is read."""
    assert "https://c.example.com" == await read_url(AccessURL(url="https://c.example.com"))


async def test_a_file_is_read_anew_each_time(tmp_path: Path) -> None:
    """White space around it does not count, and its length is bounded."""
    path = tmp_path / "url"
    for written, expected in (("", ""), (" https://a \n", "https://a"), ("x" * 10_000, "x" * 4096), ("\xff", "\xff")):
        path.write_text(written)
        assert expected == await read_url(AccessURL(url_file=path))
    path.write_bytes(b"\xff\xfe")
    assert "\ufffd\ufffd" == await read_url(AccessURL(url_file=path))


@pytest.mark.parametrize("kind", ["missing", "directory", "pipe"])
async def test_what_is_no_file_is_told_and_does_not_hang(tmp_path: Path, kind: str) -> None:
    """Neither a missing file, nor a directory, nor a pipe that nobody writes to holds up a run."""
    path = tmp_path / "url"
    if kind == "directory":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    with pytest.raises(ProbeError, match="the file of the access URL cannot be read") as caught:
        await read_url(AccessURL(url_file=path))
    assert Reason.RESOLVE is caught.value.reason
