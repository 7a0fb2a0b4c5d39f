"""Reader of the captures in tests/data: what real relays, clients and STUN servers wrote, read by read.

In: a `.hex` file. Out: its header comments, its private keys, and the reads and writes in order.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

DATA = Path(__file__).parents[1] / "data"

_LINE = re.compile(r"(?:(?P<connection>[A-Z]) )?(?P<direction>C>S|S>C) (?P<data>(?:[0-9a-f]{2})+)")
_PRIVATE_KEY = re.compile(r"(?P<whose>server|(?:client|relay of) [A-Z]): private key (?P<key>[0-9a-f]{64})")
_CONNECTION_COMMENT = re.compile(r"# (?P<connection>[A-Z]): ")


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """One read or write. `connection` is a letter, empty in captures of datagrams."""

    connection: str
    from_client: bool
    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Capture:
    """One file. `pieces` holds comments (str, with their `#`) at their place in time.

    `private_keys` has 32 bytes by `server`, `client A`, `relay of A`, ... as the header names them.
    """

    name: str
    pieces: tuple[Piece | str, ...]
    private_keys: dict[str, bytes]

    @property
    def connections(self) -> list[str]:
        """The letters, in order of appearance."""
        return list(dict.fromkeys(piece.connection for piece in self.pieces if isinstance(piece, Piece)))

    def sent(self, connection: str, *, from_client: bool) -> list[bytes]:
        """Return what one side of a connection wrote, in the pieces in which it was read."""
        return [
            piece.data
            for piece in self.pieces
            if isinstance(piece, Piece) and piece.connection == connection and piece.from_client == from_client
        ]

    def endings(self, connection: str) -> list[str]:
        """Return the comments about a connection, without what names it: how it ended."""
        comments = [piece for piece in self.pieces if isinstance(piece, str)]
        matches = [(_CONNECTION_COMMENT.match(comment), comment) for comment in comments]
        return [text[match.end() :].strip() for match, text in matches if match and match["connection"] == connection]


def read_capture(path: Path) -> Capture:
    """Return one file's content.

    Raises:
        ValueError: A line is neither a comment nor a piece.
    """
    pieces: list[Piece | str] = []
    keys: dict[str, bytes] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            pieces.append(line)
            keys |= {match["whose"]: bytes.fromhex(match["key"]) for match in _PRIVATE_KEY.finditer(line)}
            continue
        match = _LINE.fullmatch(line)
        if match is None:
            raise ValueError(f"{path.name}: {line[:60]!r} is not a line of a capture")
        data = bytes.fromhex(match["data"])
        pieces.append(Piece(connection=match["connection"] or "", from_client=match["direction"] == "C>S", data=data))
    return Capture(name=path.stem, pieces=tuple(pieces), private_keys=keys)


def cut_derp_pieces(capture: Capture, connection: str, *, from_client: bool) -> list[bytes]:
    """Return what of one direction is DERP, read by read: without HTTP heads and websocket framing."""
    pieces = capture.sent(connection, from_client=from_client)
    if not pieces or not pieces[0].startswith((b"GET ", b"HTTP/")):
        return pieces
    head, _, rest = pieces[0].partition(b"\r\n\r\n")
    if head.startswith(b"HTTP/") and not head.startswith(b"HTTP/1.1 101"):
        return []
    pieces = [rest, *pieces[1:]]
    opening = b"".join(capture.sent(connection, from_client=True))
    if b"sec-websocket-key" in opening.partition(b"\r\n\r\n")[0].lower():
        pieces = [_unframe(piece) for piece in pieces]
    return [piece for piece in pieces if piece]


def _unframe(data: bytes) -> bytes:
    """Return the payloads of the whole binary messages in a piece; each has less than 126 bytes."""
    payloads = []
    while data:
        opcode, masked, length = data[0] & 0x0F, data[1] & 0x80, data[1] & 0x7F
        start = 6 if masked else 2
        mask = data[2:start] or b"\0"
        payload = bytes(byte ^ mask[index % len(mask)] for index, byte in enumerate(data[start : start + length]))
        if opcode == 2:
            payloads.append(payload)
        data = data[start + length :]
    return b"".join(payloads)
