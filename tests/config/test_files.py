"""Small files, read with a bound."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import pytest

from exporter.config.files import Unreadable, check_readable, open_to_others, read_small_file, show_path


def _reason(path: Path, max_bytes: int = 100) -> str:
    with pytest.raises(Unreadable) as caught:
        read_small_file(path, max_bytes)
    return str(caught.value)


def test_text_and_mode(tmp_path: Path) -> None:
    """The text comes without a byte order mark, and with the file's mode."""
    path = tmp_path / "file"
    path.write_bytes(b"\xef\xbb\xbfh\xc3\xa9\n")
    path.chmod(0o640)
    file = read_small_file(path, 100)
    assert "hé\n" == file.text
    assert 0o640 == file.mode


@pytest.mark.parametrize(
    ("expected", "mode"),
    [(False, 0o600), (False, 0o400), (True, 0o640), (True, 0o604), (True, 0o644), (False, 0)],
)
def test_open_to_others(expected: bool, mode: int) -> None:
    """Any right of group or world counts."""
    assert expected is open_to_others(mode)


def test_what_cannot_be_read(tmp_path: Path) -> None:
    """Each reason has its sentence, and a named pipe does not block."""
    assert "cannot be read: No such file or directory" == _reason(tmp_path / "no")
    assert "is not a regular file" == _reason(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    assert "is not a regular file" == _reason(tmp_path / "pipe")
    assert "is not a regular file" == _reason(Path("/dev/zero"))
    (tmp_path / "large").write_bytes(b"x" * 101)
    assert "is larger than 100 bytes" == _reason(tmp_path / "large")
    (tmp_path / "latin").write_bytes(b"a\nb\n\xe4")
    assert "is not UTF-8 text (line 3)" == _reason(tmp_path / "latin")


@pytest.mark.skipif(not Path("/dev/fd").is_dir(), reason="this system does not tell what is open")
def test_nothing_stays_open(tmp_path: Path) -> None:
    """Whatever the path leads to, also a directory, which container engines put where a file is missing."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").write_bytes(b"x")
    # which, not how many: a resolver of an earlier test may be closed by its thread meanwhile
    before = set(os.listdir("/dev/fd"))
    for path in (tmp_path, tmp_path / "pipe", tmp_path / "file", tmp_path / "no") * 10:
        with suppress(Unreadable):
            read_small_file(path, 100)
    assert set() == set(os.listdir("/dev/fd")) - before


def test_a_file_at_its_bound_is_read(tmp_path: Path) -> None:
    """The bound itself is allowed."""
    (tmp_path / "file").write_bytes(b"x" * 100)
    assert 100 == len(read_small_file(tmp_path / "file", 100).text)


def test_a_path_is_shown_on_one_line_and_masked() -> None:
    """Neither a line break nor what looks like a token gets through a path."""
    assert "/nowhere/a\\nb/<secret>" == show_path(Path("/nowhere/a\nb/0123456789-abcdefghijklmnopqrstuv"))


def test_no_permission(tmp_path: Path) -> None:
    """A file that may not be read says so."""
    (tmp_path / "file").touch(mode=0)
    user = os.geteuid()
    if user == 0:  # root may read everything
        os.seteuid(65534)
    try:
        reason = _reason(tmp_path / "file")
    finally:
        os.seteuid(user)
    assert "cannot be read: Permission denied" == reason


def test_check_readable_takes_any_content(tmp_path: Path) -> None:
    """Content is not judged, not even its encoding."""
    (tmp_path / "file").write_bytes(b"\xff")
    check_readable(tmp_path / "file")
    with pytest.raises(Unreadable):
        check_readable(tmp_path / "no")
