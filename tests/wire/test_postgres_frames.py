"""The form of PostgreSQL's messages, before a driver sees them."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.errors import WireError
from exporter.wire.postgres_frames import MAX_LENGTH, FrameGuard


def _message(kind: bytes, content: bytes = b"") -> bytes:
    return kind + (len(content) + 4).to_bytes(4, "big") + content


_LOGIN = _message(b"R", b"\0\0\0\0") + _message(b"S", b"server_version\x0015.1\0") + _message(b"Z", b"I")
_ANSWER = (
    _message(b"T", b"\0\1?column?\0" + bytes(18))
    + _message(b"D", b"\0\1\0\0\0\0011")
    + _message(b"C", b"SELECT 1\0")
    + _message(b"Z", b"I")
)


@given(st.lists(st.integers(0, len(_LOGIN + _ANSWER)), max_size=20))
def test_messages_pass_in_pieces_of_any_size(cuts: list[int]) -> None:
    """A login and an answer to a statement are fine, wherever the network cuts them."""
    stream = _LOGIN + _ANSWER * 2
    guard = FrameGuard()
    edges = sorted({0, len(stream), *cuts})
    for start, end in itertools.pairwise(edges):
        guard.feed(stream[start:end])
    # it stands between two messages: what is not one is seen at once
    with pytest.raises(WireError):
        guard.feed(b"\0\0\0\0\0")


@pytest.mark.parametrize(
    "stream",
    [
        b"\0" * 5,
        b"HTTP/1.1 400 Bad Request\r\n",
        b"SSH-2.0-OpenSSH\r\n",
        b"R\0\0\0\3",
        b"R" + (MAX_LENGTH + 1).to_bytes(4, "big"),
        b"R\xff\xff\xff\xff",
        _message(b"T"),
        _message(b"G", b"\0\0\0"),
        _LOGIN + _message(b"R", b"\0\0\0\0"),
        _LOGIN + _message(b"D", b"\0\0"),
        _LOGIN + _message(b"V", b"\0\0\0\0"),
    ],
)
def test_what_is_no_message_or_out_of_turn_is_refused(stream: bytes) -> None:
    """A length of zero, other protocols, and messages that nobody asked for."""
    with pytest.raises(WireError):
        FrameGuard().feed(stream)


def test_the_longest_message_passes() -> None:
    """The limit itself is still allowed."""
    guard = FrameGuard()
    guard.feed(b"N" + MAX_LENGTH.to_bytes(4, "big") + bytes(MAX_LENGTH - 4) + _LOGIN)
    with pytest.raises(WireError):
        guard.feed(b"\0\0\0\0\0")


@given(st.binary())
def test_any_bytes_pass_or_are_refused(data: bytes) -> None:
    """Nothing but WireError leaves, and no rubbish of a frame's length passes."""
    guard = FrameGuard()
    try:
        guard.feed(data)
    except WireError:
        return
    # what passed was the beginning of a server's first messages, or less than one header
    assert len(data) < 5 or data[:1] in {b"R", b"E", b"N", b"S", b"K", b"Z", b"v", b"A"}
