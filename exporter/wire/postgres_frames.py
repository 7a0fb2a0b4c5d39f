"""The frames of PostgreSQL's protocol, only so far as to see that they are frames.

In: what a server sends, in pieces of any size. Out: nothing, or a WireError. It stands before a
driver that loops for ever at a length of zero, waits for gigabytes at a large one, and crashes the
interpreter at messages out of turn (asyncpg 0.32).

    byte 0     type, an ASCII letter or digit
    bytes 1-4  length, big-endian, with these four bytes and without the type
    then       length - 4 bytes of content

Source: PostgreSQL manual, "Message Formats"
"""

from __future__ import annotations

from exporter.errors import WireError

# Authentication, BackendKeyData, ParameterStatus, ReadyForQuery, ErrorResponse, NoticeResponse,
# NegotiateProtocolVersion
_BEFORE_READY = frozenset(b"RKSZENv")
# No longer authentication; but replies to statements. COPY and function calls are never asked for:
# RowDescription, DataRow, CommandComplete, ParseComplete, BindComplete, CloseComplete, NoData,
# ParameterDescription, PortalSuspended, NotificationResponse
_AFTER_READY = frozenset(b"SZENTDC123ntsA")
_READY, _ROW_DESCRIPTION, _DATA_ROW = b"ZTD"
_HEADER_BYTES = 5
_MIN_LENGTH = 4
# The longest message that is asked for is a row of a table, some hundred bytes.
MAX_LENGTH = 1 << 20


class FrameGuard:
    """Follows the frames of one connection."""

    def __init__(self) -> None:
        self._header = b""
        self._content_left = 0
        self._expected = _BEFORE_READY
        self._rows_described = False

    def feed(self, data: bytes) -> None:
        """Take the next piece.

        Raises:
            WireError: It cannot be a frame, or is too long to be one that was asked for.
        """
        position = 0
        while position < len(data):
            if self._content_left:
                step = min(self._content_left, len(data) - position)
                self._content_left -= step
                position += step
                continue
            missing = _HEADER_BYTES - len(self._header)
            self._header += data[position : position + missing]
            position += missing
            if len(self._header) == _HEADER_BYTES:
                self._content_left = self._read_header(self._header) - _MIN_LENGTH
                self._header = b""

    def _read_header(self, header: bytes) -> int:
        kind, length = header[0], int.from_bytes(header[1:], "big")
        if not _MIN_LENGTH <= length <= MAX_LENGTH:
            raise WireError("what came is not a message of PostgreSQL")
        if kind not in self._expected or (kind == _DATA_ROW and not self._rows_described):
            raise WireError("a message came that is not PostgreSQL's, or not its turn")
        if kind == _READY:
            self._expected = _AFTER_READY
        elif kind == _ROW_DESCRIPTION:
            self._rows_described = True
        return length
