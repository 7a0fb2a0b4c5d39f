"""The frames of DERP, the protocol of Tailscale's relays, in both directions.

In: what a peer sends, in pieces of any size. Out: frames, values read from their payloads, and the
bytes of frames to send. Frames are plain tuples of type and payload, since every message of every
check passes here.

    byte 0     type
    bytes 1-4  length of the payload, big-endian
    then       the payload

Source: tailscale derp/derp.go, protocol version 2
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from typing import NamedTuple

from exporter.errors import WireError

PROTOCOL_VERSION = 2
MAGIC = bytes.fromhex("44455250f09f9491")  # "DERP" and a key, U+1F511
KEY_BYTES = 32
NONCE_BYTES = 24
PING_BYTES = 8
MAX_FRAME_BYTES = 1 << 20
MAX_PACKET_BYTES = 65536
# A longer message makes Tailscale's relay close with 1009. Source: derpserver/websocket.go
MAX_WEBSOCKET_MESSAGE_BYTES = 32768

_HEADER = struct.Struct(">BI")
_HEADER_BYTES = 5


class Transport(StrEnum):
    """What carries the frames: the closed set of the label `transport`."""

    DERP = "derp"  # HTTP/1.1 upgrade to DERP, then frames
    WEBSOCKET = "websocket"  # binary messages of the subprotocol derp, concatenated


class FrameType(IntEnum):
    """S>C and C>S tell who sends it. Numbers in brackets are bytes."""

    SERVER_KEY = 0x01  # S>C, first: magic[8] key[32], more is ignored
    CLIENT_INFO = 0x02  # C>S, first: key[32] nonce[24] box of JSON
    SERVER_INFO = 0x03  # S>C: nonce[24] box of JSON
    SEND_PACKET = 0x04  # C>S: destination key[32] data[0..65536]
    RECV_PACKET = 0x05  # S>C: source key[32] data
    KEEP_ALIVE = 0x06  # S>C: nothing
    NOTE_PREFERRED = 0x07  # C>S: 01 this is my home relay, else 00
    PEER_GONE = 0x08  # S>C: key[32] reason[1], absent is 00
    PEER_PRESENT = 0x09  # S>C, mesh: key[32], then perhaps IP[16] port[2] flags[1]
    FORWARD_PACKET = 0x0A  # C>S, mesh: source key[32] destination key[32] data
    WATCH_CONNS = 0x10  # C>S, mesh: nothing
    CLOSE_PEER = 0x11  # C>S, mesh: key[32]
    PING = 0x12  # both: data[8], a server takes 8..1000
    PONG = 0x13  # both: the first 8 bytes of the ping
    HEALTH = 0x14  # S>C: text of the problem, empty when it is over
    RESTARTING = 0x15  # S>C: reconnect in milliseconds[4], try for milliseconds[4]


_RECV_PACKET = int(FrameType.RECV_PACKET)


class GoneReason(IntEnum):
    """Why a peer is gone. A reason that is not here stays a number."""

    DISCONNECTED = 0x00
    NOT_HERE = 0x01


class GreetingError(WireError):
    """The first frame is not the one with which DERP begins."""


class NotDerpError(GreetingError):
    """What came is of another protocol, HTTP for instance."""


class FrameLengthError(WireError):
    """A frame is longer than its type, or any, may be, or too short where that is an offence."""


class FloodError(WireError):
    """More frames without a packet have come than the reader's owner allowed."""


class ShortFrameError(WireError):
    """A payload is too short to be read. Clients drop such a frame; servers close."""


# ---- reading


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameLimits:
    """What one side accepts: lengths are those of payloads, (least, most), both included.

    Frames of types that `known` lacks are skipped without being kept; `most_unknown_bytes` is
    their limit, None for none at all.
    """

    first: FrameType
    first_bytes: tuple[int, int]
    known: Mapping[int, tuple[int, int]] = field(repr=False)
    most_unknown_bytes: int | None


# A server's frames, as clients take them. Too short ones are dropped where they are parsed.
# ServerInfo has its box's nonce on top. Source: tailscale derp/derp_client.go
FROM_SERVER = FrameLimits(
    first=FrameType.SERVER_KEY,
    first_bytes=(len(MAGIC) + KEY_BYTES, 1024),
    known={
        FrameType.SERVER_INFO: (0, NONCE_BYTES + MAX_FRAME_BYTES),
        FrameType.RECV_PACKET: (0, MAX_FRAME_BYTES),
        FrameType.KEEP_ALIVE: (0, MAX_FRAME_BYTES),
        FrameType.PEER_GONE: (0, MAX_FRAME_BYTES),
        FrameType.PEER_PRESENT: (0, MAX_FRAME_BYTES),
        FrameType.PING: (0, MAX_FRAME_BYTES),
        FrameType.PONG: (0, MAX_FRAME_BYTES),
        FrameType.HEALTH: (0, MAX_FRAME_BYTES),
        FrameType.RESTARTING: (0, MAX_FRAME_BYTES),
    },
    most_unknown_bytes=MAX_FRAME_BYTES,
)

# A client's frames, as servers take them; they close at any other length. Types that only servers
# send are skipped like unknown ones, and so is a Pong. Source: tailscale derp/derpserver/derpserver.go
FROM_CLIENT = FrameLimits(
    first=FrameType.CLIENT_INFO,
    first_bytes=(KEY_BYTES + NONCE_BYTES, 256 << 10),
    known={
        FrameType.SEND_PACKET: (KEY_BYTES, KEY_BYTES + MAX_PACKET_BYTES),
        FrameType.NOTE_PREFERRED: (1, 1),
        FrameType.FORWARD_PACKET: (2 * KEY_BYTES, 2 * KEY_BYTES + MAX_PACKET_BYTES),
        FrameType.WATCH_CONNS: (0, 0),
        FrameType.CLOSE_PEER: (KEY_BYTES, KEY_BYTES),
        FrameType.PING: (PING_BYTES, 1000),
    },
    most_unknown_bytes=None,
)


class FrameReader:
    """Cuts the bytes of one direction of one connection into frames.

    A frame's length is judged when its header is there, before anything is kept for its payload.

    Attributes:
        spare_frames: How many frames may still come that are no packet of a relay, those included
            that are skipped; the owner sets it, again and again where a connection lives long.
            None, as at first, is no limit.
    """

    __slots__ = ("_broken", "_buffer", "_first", "_limits", "_missing_bytes", "_skip_bytes", "spare_frames")

    def __init__(self, limits: FrameLimits = FROM_SERVER) -> None:
        self._limits = limits
        self._first = True
        self._buffer = bytearray()
        self._missing_bytes = 0  # of the frame that the buffer begins, as far as its header tells
        self._skip_bytes = 0
        self._broken: WireError | None = None
        self.spare_frames: int | None = None

    @property
    def within_frame(self) -> bool:
        """A frame has begun and is not complete."""
        return bool(self._buffer) or self._skip_bytes > 0

    def read(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """Yield type and payload of each known frame that is complete with these bytes.

        Must be iterated to its end, or the rest is lost. Frames before an error are yielded first.

        Raises:
            GreetingError: The first frame is another one, or of a length that it cannot have.
            FrameLengthError: A frame has a length that its type must not have.
            FloodError: `spare_frames` are used up.
        """
        if self._broken is not None:
            raise self._broken
        position = 0
        if self._skip_bytes:
            position = min(self._skip_bytes, len(data))
            self._skip_bytes -= position
        elif self._buffer:
            self._buffer += data
            self._missing_bytes -= len(data)
            if self._missing_bytes > 0:
                return
            data = bytes(self._buffer)
            self._buffer.clear()
        end = len(data)
        known = self._limits.known
        while position < end:
            start = position + _HEADER_BYTES
            if start > end:
                self._keep(data, position, start)
                return
            kind, length = _HEADER.unpack_from(data, position)
            if self._first:
                self._check_first(kind, length, data[position:start])
            elif (limit := known.get(kind)) is None:
                self._check_unknown(kind, length)
                if self.spare_frames is not None:
                    self._count_spare_frame()
                position = min(start + length, end)
                self._skip_bytes = start + length - position
                continue
            elif not limit[0] <= length <= limit[1]:
                raise self._break(FrameLengthError(f"{_name(kind)} with {length} bytes, not {limit[0]} to {limit[1]}"))
            position_after = start + length
            if position_after > end:
                self._keep(data, position, position_after)
                return
            self._first = False
            position = position_after
            if self.spare_frames is not None and (kind != _RECV_PACKET or length < KEY_BYTES):
                self._count_spare_frame()
            yield kind, data[start:position]

    def _keep(self, data: bytes, start: int, wanted_end: int) -> None:
        self._buffer += data[start:] if start else data
        self._missing_bytes = wanted_end - len(data)

    def _check_first(self, kind: int, length: int, header: bytes) -> None:
        least, most = self._limits.first_bytes
        if kind == self._limits.first and least <= length <= most:
            return
        name = _name(self._limits.first)
        if header[:4] == b"HTTP":
            raise self._break(NotDerpError(f"not DERP: HTTP where a {name} frame should be"))
        if length > MAX_FRAME_BYTES:
            raise self._break(NotDerpError(f"not DERP: it begins with {header!r} instead of a {name} frame"))
        if kind != self._limits.first:
            raise self._break(GreetingError(f"invalid greeting: {_name(kind)} where {name} should be"))
        raise self._break(GreetingError(f"invalid greeting: {name} with {length} bytes, not {least} to {most}"))

    def _count_spare_frame(self) -> None:
        assert self.spare_frames is not None
        if self.spare_frames <= 0:
            raise self._break(FloodError("too many frames that carry no packet"))
        self.spare_frames -= 1

    def _check_unknown(self, kind: int, length: int) -> None:
        most = self._limits.most_unknown_bytes
        if most is not None and length > most:
            raise self._break(FrameLengthError(f"{_name(kind)} with {length} bytes, more than {most}"))

    def _break(self, error: WireError) -> WireError:
        self._broken = error
        return error


def _name(kind: int) -> str:
    try:
        return FrameType(kind).name.title().replace("_", "")
    except ValueError:
        return f"a frame of type {kind}"


# ---- payloads: each of these raises ShortFrameError when it is too short


class PeerGone(NamedTuple):
    key: bytes
    reason: int


class Restarting(NamedTuple):
    """What a relay advises that is about to restart."""

    reconnect_seconds: float
    try_for_seconds: float


class PeerPresent(NamedTuple):
    """A client that came; the rest is None where the relay does not tell (Coder's fork).

    `ip` is an IPv6 address, of an IPv4 client the mapped one. Flags: 1 regular, 2 mesh, 4 prober,
    8 not ideal.
    """

    key: bytes
    ip: bytes | None
    port: int | None
    flags: int | None


def parse_server_key(payload: bytes) -> bytes:
    """Return the relay's public key.

    Raises:
        GreetingError: The magic is wrong, or it is too short.
    """
    if payload[: len(MAGIC)] != MAGIC:
        raise GreetingError(f"invalid greeting: ServerKey begins with {payload[:8].hex()}, not {MAGIC.hex()}")
    key = payload[len(MAGIC) : len(MAGIC) + KEY_BYTES]
    if len(key) < KEY_BYTES:
        raise GreetingError("invalid greeting: ServerKey without a whole key")
    return key


def parse_packet(payload: bytes) -> tuple[bytes, bytes]:
    """Return key and data: the source's of a RecvPacket, the destination's of a SendPacket."""
    if len(payload) < KEY_BYTES:
        raise ShortFrameError("a packet without a whole key")
    return payload[:KEY_BYTES], payload[KEY_BYTES:]


def parse_forward_packet(payload: bytes) -> tuple[bytes, bytes, bytes]:
    """Return source key, destination key and data."""
    if len(payload) < 2 * KEY_BYTES:
        raise ShortFrameError("a ForwardPacket without two whole keys")
    return payload[:KEY_BYTES], payload[KEY_BYTES : 2 * KEY_BYTES], payload[2 * KEY_BYTES :]


def parse_peer_gone(payload: bytes) -> PeerGone:
    if len(payload) < KEY_BYTES:
        raise ShortFrameError("a PeerGone without a whole key")
    reason = payload[KEY_BYTES] if len(payload) > KEY_BYTES else GoneReason.DISCONNECTED
    return PeerGone(payload[:KEY_BYTES], int(reason))


def parse_peer_present(payload: bytes) -> PeerPresent:
    if len(payload) < KEY_BYTES:
        raise ShortFrameError("a PeerPresent without a whole key")
    key, rest = payload[:KEY_BYTES], payload[KEY_BYTES:]
    if len(rest) < 18:
        return PeerPresent(key, None, None, None)
    flags = rest[18] if len(rest) > 18 else None
    return PeerPresent(key, rest[:16], int.from_bytes(rest[16:18], "big"), flags)


def parse_ping(payload: bytes) -> bytes:
    """Return the 8 bytes that a Ping or Pong carries."""
    if len(payload) < PING_BYTES:
        raise ShortFrameError("a Ping or Pong with less than 8 bytes")
    return payload[:PING_BYTES]


def parse_health(payload: bytes) -> str:
    """Return the problem that the relay tells, empty when it has none any more."""
    return payload.decode("utf-8", "replace")


def parse_restarting(payload: bytes) -> Restarting:
    if len(payload) < 8:
        raise ShortFrameError("a Restarting with less than 8 bytes")
    return Restarting(int.from_bytes(payload[:4], "big") / 1000, int.from_bytes(payload[4:8], "big") / 1000)


# ---- writing


def encode_frame(kind: int, payload: bytes = b"") -> bytes:
    """Return a frame of any type, also of one that there is not."""
    return bytes((kind,)) + len(payload).to_bytes(4, "big") + payload


def encode_server_key(public_key: bytes, *, magic: bytes = MAGIC) -> bytes:
    return encode_frame(FrameType.SERVER_KEY, magic + public_key)


def encode_send_packet(destination_key: bytes, data: bytes) -> bytes:
    """Return a client's packet.

    Raises:
        WireError: The key has not 32 bytes, or the data more than 65536: relays close at that.
    """
    _check_packet(data, destination_key)
    return b"\x04" + (KEY_BYTES + len(data)).to_bytes(4, "big") + destination_key + data


def encode_recv_packet(source_key: bytes, data: bytes) -> bytes:
    """Return a relay's packet. Raises like `encode_send_packet`."""
    _check_packet(data, source_key)
    return b"\x05" + (KEY_BYTES + len(data)).to_bytes(4, "big") + source_key + data


def encode_forward_packet(source_key: bytes, destination_key: bytes, data: bytes) -> bytes:
    """Return a packet from relay to relay. Raises like `encode_send_packet`."""
    _check_packet(data, source_key, destination_key)
    return encode_frame(FrameType.FORWARD_PACKET, source_key + destination_key + data)


def encode_keep_alive() -> bytes:
    return encode_frame(FrameType.KEEP_ALIVE)


def encode_note_preferred(preferred: bool) -> bytes:
    return encode_frame(FrameType.NOTE_PREFERRED, b"\x01" if preferred else b"\x00")


def encode_peer_gone(key: bytes, reason: int = GoneReason.DISCONNECTED) -> bytes:
    return encode_frame(FrameType.PEER_GONE, key + bytes((reason,)))


def encode_peer_present(key: bytes, *, ip: bytes | None = None, port: int = 0, flags: int = 1) -> bytes:
    """Return a notice for mesh peers; `ip` in 16 bytes, None for the short form of Coder's fork."""
    endpoint = b"" if ip is None else ip + port.to_bytes(2, "big") + bytes((flags,))
    return encode_frame(FrameType.PEER_PRESENT, key + endpoint)


def encode_watch_conns() -> bytes:
    return encode_frame(FrameType.WATCH_CONNS)


def encode_close_peer(key: bytes) -> bytes:
    return encode_frame(FrameType.CLOSE_PEER, key)


def encode_ping(data: bytes) -> bytes:
    """Return a Ping of 8 bytes."""
    return encode_frame(FrameType.PING, parse_ping(data))


def encode_pong(data: bytes) -> bytes:
    """Return the Pong to the first 8 bytes of a Ping's payload."""
    return encode_frame(FrameType.PONG, parse_ping(data))


def encode_health(problem: str) -> bytes:
    return encode_frame(FrameType.HEALTH, problem.encode())


def encode_restarting(*, reconnect_seconds: float, try_for_seconds: float) -> bytes:
    milliseconds = [round(seconds * 1000).to_bytes(4, "big") for seconds in (reconnect_seconds, try_for_seconds)]
    return encode_frame(FrameType.RESTARTING, b"".join(milliseconds))


def _check_packet(data: bytes, *keys: bytes) -> None:
    if any(len(key) != KEY_BYTES for key in keys):
        raise WireError(f"a key has {KEY_BYTES} bytes")
    if len(data) > MAX_PACKET_BYTES:
        raise WireError(f"a packet of {len(data)} bytes: relays close above {MAX_PACKET_BYTES}")
