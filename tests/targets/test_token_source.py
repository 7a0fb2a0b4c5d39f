"""The session token where it is used: written, or from a file that changes under us."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from exporter.errors import ProbeError, Reason
from exporter.secret import Secret
from exporter.targets.model import SessionToken
from exporter.targets.token_source import read_token

TOKEN = "abcdefghij-0123456789012345678901"
BAD = "holds no token: there is a space, a control character or a letter beyond ASCII in it"


async def refuse(path: Path) -> str:
    with pytest.raises(ProbeError) as caught:
        await read_token(SessionToken(token_file=path))
    assert Reason.AUTH is caught.value.reason
    return caught.value.message


async def test_a_written_token_is_itself() -> None:
    """Nothing is read."""
    assert Secret(TOKEN) == await read_token(SessionToken(token=Secret(TOKEN)))


async def test_a_file_is_read_at_each_use(tmp_path: Path) -> None:
    """A rotated token is the token; blanks around it, and a byte order mark, are none of it."""
    path = tmp_path / "token"
    for content in (TOKEN, f"\ufeff  {TOKEN[::-1]}\r\n\n"):
        path.write_text(content, encoding="utf-8")
        assert Secret(content.strip("\ufeff \r\n")) == await read_token(SessionToken(token_file=path))


@pytest.mark.parametrize(
    ("expected", "content"),
    [
        ("is empty", b""),
        ("is empty", b" \n"),
        (BAD, b"hunter2 hunter3"),
        (BAD, b"hunter2\nhunter3\n"),
        (BAD, b"hunter2\0"),
        (BAD, "hunter2é".encode()),
        ("is not UTF-8 text (line 1)", b"hunter2\xff"),
        ("is larger than 65536 bytes", b"x" * 65537),
    ],
)
async def test_what_is_wrong_is_told_without_the_content(tmp_path: Path, expected: str, content: bytes) -> None:
    """Never quoted, however wrong it is."""
    path = tmp_path / "token"
    path.write_bytes(content)
    assert f"the file of the session token {expected}" == await refuse(path)


async def test_a_file_that_is_gone_or_none(tmp_path: Path) -> None:
    """Gone, a directory, or a pipe that nobody writes to: told at once, and without its path."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    async with asyncio.timeout(10):
        assert "the file of the session token cannot be read: No such file or directory" == await refuse(
            tmp_path / "gone"
        )
        for path in (tmp_path, pipe):
            assert "the file of the session token is not a regular file" == await refuse(path)


@pytest.mark.parametrize("leave_it_empty", [False, True])
async def test_a_file_that_is_being_replaced_is_waited_for(tmp_path: Path, leave_it_empty: bool) -> None:
    """Who removes or empties it and then writes it again is not caught in between."""
    path = tmp_path / "token"
    if leave_it_empty:
        path.touch()
    async with asyncio.TaskGroup() as group:
        task = group.create_task(read_token(SessionToken(token_file=path)))
        await asyncio.sleep(0)
        path.write_text(TOKEN)
    assert Secret(TOKEN) == task.result()
