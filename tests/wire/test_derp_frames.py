"""DERP's frames: the specified bytes, what real relays and clients sent, and anything at all."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.errors import WireError
from exporter.wire import derp_frames
from exporter.wire.derp_frames import (
    FROM_CLIENT,
    FROM_SERVER,
    MAX_FRAME_BYTES,
    FloodError,
    FrameLengthError,
    FrameLimits,
    FrameReader,
    FrameType,
    GoneReason,
    GreetingError,
    NotDerpError,
    PeerGone,
    PeerPresent,
    Restarting,
    ShortFrameError,
)
from tests.support.captures import DATA, Capture, cut_derp_pieces, read_capture

SERVER = bytes.fromhex("8f40c5adb68f25624ae5b214ea767a6ec94d829d3d7b5e1ad1ba6f3e2138285f")
A = bytes.fromhex("358072d6365880d1aeea329adf9121383851ed21a28e3b75e965d0d2cd166254")
B = bytes.fromhex("79a631eede1bf9c98f12032cdeadd0e7a079398fc786b88cc846ec89af85a51a")

SERVER_KEY = bytes.fromhex("010000002844455250f09f9491") + SERVER


def read_all(pieces: Iterable[bytes], limits: FrameLimits = FROM_SERVER) -> list[tuple[int, bytes]]:
    reader = FrameReader(limits)
    return [frame for piece in pieces for frame in reader.read(piece)]


def read_after_greeting(*pieces: bytes) -> list[tuple[int, bytes]]:
    return read_all([SERVER_KEY, *pieces])[1:]


def one_by_one(data: bytes) -> Iterator[bytes]:
    return (data[index : index + 1] for index in range(len(data)))


# ---- the specified bytes

VECTORS = [
    (derp_frames.encode_server_key(SERVER), SERVER_KEY.hex()),
    (derp_frames.encode_send_packet(A, b"\0"), f"0400000021{A.hex()}00"),
    (derp_frames.encode_recv_packet(B, b"\0"), f"0500000021{B.hex()}00"),
    (derp_frames.encode_keep_alive(), "0600000000"),
    (derp_frames.encode_note_preferred(True), "070000000101"),
    (derp_frames.encode_note_preferred(False), "070000000100"),
    (derp_frames.encode_peer_gone(B, GoneReason.NOT_HERE), f"0800000021{B.hex()}01"),
    (derp_frames.encode_peer_present(B), f"0900000020{B.hex()}"),
    (
        derp_frames.encode_peer_present(B, ip=bytes(10) + b"\xff\xff\x7f\0\0\1", port=39530, flags=2),
        f"0900000033{B.hex()}00000000000000000000ffff7f0000019a6a02",
    ),
    (derp_frames.encode_forward_packet(A, B, b"hi"), f"0a00000042{A.hex()}{B.hex()}6869"),
    (derp_frames.encode_watch_conns(), "1000000000"),
    (derp_frames.encode_close_peer(A), f"1100000020{A.hex()}"),
    (derp_frames.encode_ping(bytes(range(1, 9))), "12000000080102030405060708"),
    (derp_frames.encode_pong(bytes(range(1, 9)) + b"more"), "13000000080102030405060708"),
    (derp_frames.encode_health("dup"), "1400000003647570"),
    (derp_frames.encode_restarting(reconnect_seconds=1.5, try_for_seconds=5), "1500000008000005dc00001388"),
]


@pytest.mark.parametrize(("frame", "expected"), VECTORS)
def test_frames_are_written_byte_for_byte(frame: bytes, expected: str) -> None:
    """Each frame is that of the specification."""
    assert expected == frame.hex()


@pytest.mark.parametrize("split", [lambda data: [data], one_by_one])
def test_frames_of_a_server_are_read_wherever_they_are_cut(split: Callable[[bytes], Iterable[bytes]]) -> None:
    """All in one piece, or byte by byte: the same frames."""
    frames = [
        (FrameType.RECV_PACKET, B + b"\0"),
        (FrameType.KEEP_ALIVE, b""),
        (FrameType.PEER_GONE, B + b"\1"),
        (FrameType.PONG, bytes(8)),
        (FrameType.HEALTH, b"dup"),
    ]
    stream = SERVER_KEY + b"".join(derp_frames.encode_frame(*frame) for frame in frames)
    assert [(FrameType.SERVER_KEY, SERVER_KEY[5:]), *frames] == read_all(split(stream))


def test_payloads_are_read() -> None:
    """Each payload gives what was written into it."""
    assert SERVER == derp_frames.parse_server_key(SERVER_KEY[5:])
    assert SERVER == derp_frames.parse_server_key(SERVER_KEY[5:] + b"what is more is ignored")
    assert (B, b"\0") == derp_frames.parse_packet(B + b"\0")
    assert (B, b"") == derp_frames.parse_packet(B)
    assert (A, B, b"hi") == derp_frames.parse_forward_packet(A + B + b"hi")
    assert PeerGone(B, GoneReason.NOT_HERE) == derp_frames.parse_peer_gone(B + b"\1")
    assert PeerGone(B, GoneReason.DISCONNECTED) == derp_frames.parse_peer_gone(B)
    assert PeerGone(B, 7) == derp_frames.parse_peer_gone(B + b"\7")
    assert PeerPresent(B, None, None, None) == derp_frames.parse_peer_present(B)
    assert PeerPresent(B, bytes(16), 1, None) == derp_frames.parse_peer_present(B + bytes(17) + b"\1")
    assert PeerPresent(B, bytes(16), 1, 4) == derp_frames.parse_peer_present(B + bytes(17) + b"\1\4")
    assert bytes(range(8)) == derp_frames.parse_ping(bytes(range(8)) + b"more")
    assert "dup" == derp_frames.parse_health(b"dup")
    assert "\ufffd" == derp_frames.parse_health(b"\xff")
    assert Restarting(1.5, 5.0) == derp_frames.parse_restarting(bytes.fromhex("000005dc00001388") + b"more")


# ---- what is refused


@pytest.mark.parametrize(
    ("parse", "least"),
    [
        (derp_frames.parse_packet, 32),
        (derp_frames.parse_forward_packet, 64),
        (derp_frames.parse_peer_gone, 32),
        (derp_frames.parse_peer_present, 32),
        (derp_frames.parse_ping, 8),
        (derp_frames.parse_restarting, 8),
    ],
)
def test_a_payload_that_is_too_short_is_named_so(parse: Callable[[bytes], object], least: int) -> None:
    """One byte less than the least is an error by which a client knows what it may drop."""
    assert parse(bytes(least))
    with pytest.raises(ShortFrameError):
        parse(bytes(least - 1))


@pytest.mark.parametrize(
    ("greeting", "error", "message"),
    [
        (derp_frames.encode_frame(1, SERVER_KEY[5:44]), GreetingError, "ServerKey with 39 bytes, not 40 to 1024"),
        (derp_frames.encode_frame(1, bytes(1025)), GreetingError, "ServerKey with 1025 bytes"),
        (derp_frames.encode_frame(3, bytes(53)), GreetingError, "ServerInfo where ServerKey should be"),
        (derp_frames.encode_frame(0x42, bytes(40)), GreetingError, "a frame of type 66 where ServerKey should be"),
        (b"HTTP/1.1 400 Bad Request\r\n", NotDerpError, "not DERP: HTTP where a ServerKey frame should be"),
        (bytes.fromhex("485454502f"), NotDerpError, "HTTP"),
        (b"SSH-2.0-OpenSSH", NotDerpError, "not DERP: it begins with b'SSH-2'"),
        (b"\1\xff\xff\xff\xff", NotDerpError, "not DERP"),
    ],
)
def test_another_greeting_is_refused(greeting: bytes, error: type[WireError], message: str) -> None:
    """A wrong length, another type or another protocol, known from the header alone."""
    for pieces in ([greeting], one_by_one(greeting[:5])):
        with pytest.raises(error, match=message):
            read_all(pieces)


def test_a_greeting_of_the_least_and_the_greatest_length_is_taken() -> None:
    """40 and 1024 bytes are within the limits."""
    for length in (40, 1024):
        assert [(1, bytes(length))] == read_all([derp_frames.encode_frame(1, bytes(length))])


@pytest.mark.parametrize("payload", [bytes.fromhex("4445525000000000") + SERVER, SERVER_KEY[5:44], b""])
def test_a_greeting_without_magic_or_key_is_refused(payload: bytes) -> None:
    """The right length does not make it DERP."""
    with pytest.raises(GreetingError, match="invalid greeting"):
        derp_frames.parse_server_key(payload)


@pytest.mark.parametrize("kind", [*(kind for kind in FrameType if kind in FROM_SERVER.known), 0x42])
def test_a_client_takes_no_frame_beyond_the_cap(kind: int) -> None:
    """The greatest length passes, one byte more is refused before any of its payload has come."""
    greatest = MAX_FRAME_BYTES + (24 if kind == FrameType.SERVER_INFO else 0)
    seen = read_after_greeting(bytes((kind,)) + greatest.to_bytes(4, "big"), bytes(greatest), b"\6\0\0\0\0")
    assert ([greatest] if kind in FROM_SERVER.known else []) + [0] == [len(payload) for _, payload in seen]
    with pytest.raises(FrameLengthError, match=f"{greatest + 1} bytes"):
        read_after_greeting(bytes((kind,)) + (greatest + 1).to_bytes(4, "big"))


@pytest.mark.parametrize(
    ("kind", "least", "most"),
    [
        (FrameType.SEND_PACKET, 32, 32 + 65536),
        (FrameType.FORWARD_PACKET, 64, 64 + 65536),
        (FrameType.NOTE_PREFERRED, 1, 1),
        (FrameType.CLOSE_PEER, 32, 32),
        (FrameType.WATCH_CONNS, 0, 0),
        (FrameType.PING, 8, 1000),
    ],
)
def test_a_server_takes_only_lengths_that_its_frames_have(kind: FrameType, least: int, most: int) -> None:
    """Both ends of the range pass, what is beyond is refused."""
    login = derp_frames.encode_frame(FrameType.CLIENT_INFO, bytes(56))
    for length in {least, most}:
        frames = read_all([login, derp_frames.encode_frame(kind, bytes(length))], FROM_CLIENT)
        assert [56, length] == [len(payload) for _, payload in frames]
    for length in {most + 1, max(0, least - 1)} - {least}:
        with pytest.raises(FrameLengthError):
            read_all([login, bytes((kind,)) + length.to_bytes(4, "big")], FROM_CLIENT)


@pytest.mark.parametrize("length", [55, (256 << 10) + 1])
def test_a_server_takes_no_login_that_is_too_short_or_too_long(length: int) -> None:
    """56 bytes to 256 KiB, as real relays do."""
    with pytest.raises(GreetingError):
        read_all([b"\2" + length.to_bytes(4, "big")], FROM_CLIENT)


def test_what_a_server_does_not_know_it_skips_without_end() -> None:
    """A frame of the greatest length there is, of a type that only servers send, costs nothing."""
    reader = FrameReader(FROM_CLIENT)
    assert 1 == len(list(reader.read(derp_frames.encode_frame(FrameType.CLIENT_INFO, bytes(56)))))
    assert [] == list(reader.read(b"\5\xff\xff\xff\xff"))
    for _ in range(20):
        assert [] == list(reader.read(bytes(1 << 20)))
    assert reader.within_frame


def test_unknown_frames_are_skipped() -> None:
    """A type of the future, and one that only clients send, come between two frames; nothing is lost."""
    unknown = derp_frames.encode_frame(0x42, b"future") + derp_frames.encode_frame(FrameType.SEND_PACKET, bytes(40))
    ping = derp_frames.encode_ping(bytes(8))
    stream = unknown + ping + unknown + ping
    assert [(FrameType.PING, bytes(8))] * 2 == read_after_greeting(stream)
    assert [(FrameType.PING, bytes(8))] * 2 == read_after_greeting(*one_by_one(stream))


@pytest.mark.parametrize(
    "frame",
    [
        derp_frames.encode_keep_alive(),
        derp_frames.encode_frame(0x63),
        derp_frames.encode_frame(FrameType.RECV_PACKET, bytes(31)),
    ],
)
def test_frames_without_a_packet_are_counted_where_a_limit_is_set(frame: bytes) -> None:
    """Known, unknown and cut ones use up what is spare, packets do not; setting it anew goes on."""
    packet = derp_frames.encode_recv_packet(A, b"")
    reader = FrameReader()
    list(reader.read(SERVER_KEY))
    reader.spare_frames = 3
    list(reader.read(frame + packet * 10 + frame + frame))
    assert 0 == reader.spare_frames
    reader.spare_frames = 1
    assert FrameType.RECV_PACKET == list(reader.read(frame + packet))[-1][0]
    with pytest.raises(FloodError, match="no packet"):
        list(reader.read(frame))
    with pytest.raises(FloodError):
        list(reader.read(packet))


def test_frames_before_an_offence_are_given_and_it_stays_one() -> None:
    """A reader that has met an offence yields what came before it, and raises again ever after."""
    reader = FrameReader()
    frames = reader.read(SERVER_KEY + b"\6\0\0\0\0" + b"\6\xff\xff\xff\xff")
    assert [FrameType.SERVER_KEY, FrameType.KEEP_ALIVE] == [next(frames)[0], next(frames)[0]]
    with pytest.raises(FrameLengthError):
        next(frames)
    with pytest.raises(FrameLengthError):
        list(reader.read(b"\6\0\0\0\0"))


def test_it_is_known_whether_a_frame_is_complete() -> None:
    """After a part of a header, of a payload or of what is skipped, a frame is not complete."""
    reader = FrameReader()
    for data, within in [
        (SERVER_KEY, False),
        (b"\6\0", True),
        (b"\0\0\0", False),
        (b"\x42\0\0\0\2x", True),
        (b"x", False),
    ]:
        list(reader.read(data))
        assert within == reader.within_frame


def test_packets_that_relays_would_refuse_are_not_written() -> None:
    """65536 bytes may be sent, one more not; a key has 32 bytes."""
    assert 5 + 32 + 65536 == len(derp_frames.encode_send_packet(A, bytes(65536)))
    for encode in (derp_frames.encode_send_packet, derp_frames.encode_recv_packet):
        with pytest.raises(WireError, match="65537 bytes"):
            encode(A, bytes(65537))
        with pytest.raises(WireError, match="a key has 32 bytes"):
            encode(A[:31], b"")


# ---- what real relays and clients sent

_LOGIN = "CLIENT_INFO"
_GREETING = "SERVER_KEY"
_ADMITTED = f"{_GREETING} SERVER_INFO"
_EXCHANGE = {
    "A": (f"{_LOGIN} SEND_PACKET PING NOTE_PREFERRED PING", f"{_ADMITTED} RECV_PACKET PONG PONG"),
    "B": (f"{_LOGIN} SEND_PACKET SEND_PACKET", f"{_ADMITTED} RECV_PACKET PEER_GONE"),
}
_ONE_MESSAGE = (f"{_LOGIN}", f"{_ADMITTED} RECV_PACKET"), (f"{_LOGIN} SEND_PACKET", f"{_ADMITTED}")
_MESH = f"{_ADMITTED} PEER_PRESENT PEER_PRESENT PEER_PRESENT PEER_GONE PEER_GONE"

# By the end of the file's name: each connection's frames, the client's and the server's.
SITUATIONS = {
    r"derper-v1\.102\.5-(derp|websocket)-exchange": {
        "A": (f"{_LOGIN} PING SEND_PACKET", f"{_ADMITTED} RECV_PACKET PONG"),
        "B": (f"{_LOGIN} SEND_PACKET", f"{_ADMITTED} RECV_PACKET PEER_GONE"),
    },
    r".*-exchange": _EXCHANGE,
    r".*-(bad-box|bad-json|refused-client)": {"A": (_LOGIN, _GREETING)},
    r".*-version-[13]": {"A": (_LOGIN, _ADMITTED)},
    r".*-login-timeout": {"A": ("", _GREETING)},
    r".*-peer-not-here": {"A": (f"{_LOGIN} SEND_PACKET SEND_PACKET SEND_PACKET", f"{_ADMITTED} PEER_GONE")},
    r"coder-.*-keepalive": {"A": (_LOGIN, f"{_ADMITTED} KEEP_ALIVE KEEP_ALIVE")},
    r".*-keepalive": {"A": (_LOGIN, f"{_ADMITTED} KEEP_ALIVE KEEP_ALIVE KEEP_ALIVE KEEP_ALIVE")},
    r".*-watchconns-refused": {"A": (f"{_LOGIN} WATCH_CONNS", _ADMITTED)},
    r"coder-.*-websocket-relay-stops": {"B": (f"{_LOGIN} SEND_PACKET", f"{_ADMITTED} RECV_PACKET PEER_GONE")},
    r".*-websocket-relay-stops": {"B": (f"{_LOGIN} SEND_PACKET", f"{_ADMITTED} RECV_PACKET")},
    r".*-relay-stops": {"A": (f"{_LOGIN} SEND_PACKET", f"{_ADMITTED} RECV_PACKET")},
    r".*-fast-start": {"A": (f"{_LOGIN} PING", f"{_ADMITTED} PONG")},
    r".*-mesh-watch": {
        "M": (f"{_LOGIN} WATCH_CONNS FORWARD_PACKET CLOSE_PEER", _MESH),
        "A": (_LOGIN, f"{_ADMITTED} RECV_PACKET"),
        "B": (_LOGIN, _ADMITTED),
    },
    r".*-mesh-pair": {
        "A": (f"{_LOGIN} SEND_PACKET", f"{_ADMITTED} RECV_PACKET RECV_PACKET"),
        "B": (f"{_LOGIN} SEND_PACKET SEND_PACKET", f"{_ADMITTED} RECV_PACKET PEER_GONE"),
    },
    r".*-oversized-packet": {"A": (f"{_LOGIN} !", _ADMITTED)},
    r"client-coder-v2\.26-check-derp": {"C": _ONE_MESSAGE[0], "D": ("", ""), "E": _ONE_MESSAGE[1]},
    r"client-coder-v2\.26-check-websocket": {
        "E": ("", ""),
        "F": ("", ""),
        "G": _ONE_MESSAGE[0],
        "H": ("", ""),
        "I": _ONE_MESSAGE[1],
    },
    r"client-coder-v2\.26-server-tailnet-login": {"A": (f"{_LOGIN} NOTE_PREFERRED", _ADMITTED)},
    r"client-tailscale-main-2026-08-check-derp": {"D": _ONE_MESSAGE[0], "E": _ONE_MESSAGE[1]},
}

CAPTURES = [read_capture(path) for path in sorted((DATA / "derp").glob("*.hex")) if not path.name.startswith("stun-")]


def name_frames(pieces: Iterable[bytes], limits: FrameLimits) -> str:
    """Return the names of the frames; a `!` for an offence, which is the end."""
    names = []
    reader = FrameReader(limits)
    try:
        for piece in pieces:
            for kind, _ in reader.read(piece):
                names.append(FrameType(kind).name)
    except WireError:
        names.append("!")
    else:
        assert not reader.within_frame
    return " ".join(names)


@pytest.mark.parametrize("capture", CAPTURES, ids=lambda capture: capture.name)
def test_captures_hold_the_frames_of_their_situation(capture: Capture) -> None:
    """Real traffic is read, in the pieces in which it came and byte by byte."""
    expected = next(frames for name, frames in SITUATIONS.items() if re.fullmatch(name, capture.name))
    assert set(expected) == set(capture.connections) - {"U"}
    for connection, sides in expected.items():
        for from_client, limits, names in zip((True, False), (FROM_CLIENT, FROM_SERVER), sides, strict=True):
            pieces = cut_derp_pieces(capture, connection, from_client=from_client)
            assert names == name_frames(pieces, limits)
            assert names == name_frames(one_by_one(b"".join(pieces)), limits)


def test_all_captures_are_there() -> None:
    """No situation is without a capture, so that none is tested on nothing."""
    found = {name for name in SITUATIONS for capture in CAPTURES if re.fullmatch(name, capture.name)}
    assert set(SITUATIONS) == found


def test_peers_of_a_mesh_are_told_in_both_forms() -> None:
    """Tailscale's relay tells addresses and flags, Coder's fork keys alone."""
    present = {}
    for capture in CAPTURES:
        if capture.name.endswith("mesh-watch"):
            frames = read_all(cut_derp_pieces(capture, "M", from_client=False))
            present[capture.name.partition("-derp-")[0]] = [
                derp_frames.parse_peer_present(payload) for kind, payload in frames if kind == FrameType.PEER_PRESENT
            ]
    long, short = present["derper-main-2026-08"], present["fork-derper-2026-05"]
    assert [2, 4, 1] == [peer.flags for peer in long]  # the watcher itself, a prober, a client
    assert {bytes(10) + b"\xff\xff\x7f\0\0\1"} == {peer.ip for peer in long}
    assert [None] * 3 == [peer.flags for peer in short]
    assert [A, B] == [peer.key for peer in long[1:]] == [peer.key for peer in short[1:]]


# ---- anything

_LIMITS = st.sampled_from([FROM_SERVER, FROM_CLIENT])
# mostly headers with small lengths, so that a stream gets beyond its first frame
_FRAMES = st.lists(
    st.builds(
        lambda kind, length, payload: bytes((kind,)) + length.to_bytes(4, "big") + payload,
        st.integers(0, 0x18),
        st.integers(0, 70) | st.integers(0, 2**32 - 1),
        st.binary(max_size=70),
    ),
    max_size=8,
)


@given(_LIMITS, st.booleans(), _FRAMES | st.lists(st.binary(), max_size=8))
def test_any_bytes_are_frames_or_an_error(limits: FrameLimits, greeted: bool, pieces: list[bytes]) -> None:
    """Whatever comes, in whatever pieces: the same frames as in one piece, or the same WireError."""
    if greeted:
        first = SERVER_KEY if limits is FROM_SERVER else derp_frames.encode_frame(FrameType.CLIENT_INFO, bytes(56))
        pieces = [first, *pieces]

    def observe(split: Iterable[bytes]) -> tuple[list[tuple[int, bytes]], str | None]:
        reader, frames = FrameReader(limits), []
        try:
            for piece in split:
                for frame in reader.read(piece):
                    frames.append(frame)  # noqa: PERF402
        except WireError as error:
            return frames, str(error)
        return frames, None

    stream = b"".join(pieces)
    whole = observe([stream])
    assert whole == observe(pieces)
    assert whole == observe(one_by_one(stream))


@given(st.binary(max_size=120))
def test_any_payload_is_a_value_or_an_error(payload: bytes) -> None:
    """No parser fails in another way."""
    for parse in (
        derp_frames.parse_server_key,
        derp_frames.parse_packet,
        derp_frames.parse_forward_packet,
        derp_frames.parse_peer_gone,
        derp_frames.parse_peer_present,
        derp_frames.parse_ping,
        derp_frames.parse_health,
        derp_frames.parse_restarting,
    ):
        try:
            assert parse(payload) is not None
        except WireError:
            continue
