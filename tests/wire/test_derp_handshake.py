"""DERP's login: the specified boxes, those of real relays and clients, and what is none."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nacl import bindings

from exporter.errors import WireError
from exporter.wire import derp_frames
from exporter.wire.derp_frames import FROM_CLIENT, FROM_SERVER, FrameReader, FrameType, GreetingError, ShortFrameError
from exporter.wire.derp_handshake import (
    CLIENT_INFO,
    BoxError,
    ClientInfo,
    ClientLogin,
    KeyPair,
    LoginContentError,
    ServerInfo,
    WeakKeyError,
    compute_box_key,
    open_client_info,
    open_sealed,
    seal,
    seal_server_info,
)
from tests.support.captures import DATA, Capture, cut_derp_pieces, read_capture

SERVER = KeyPair.from_private(bytes.fromhex("000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e5f"))
A = KeyPair.from_private(bytes.fromhex("202122232425262728292a2b2c2d2e2f303132333435363738393a3b3c3d3e7f"))
BOX_KEY = bytes.fromhex("429b61f5d96e37268dfc5114849d599c9ceabffdb68c1f52cd0499af30f5b377")
NONCE_OF_A = bytes(range(0xA0, 0xB8))
NONCE_OF_SERVER = bytes(range(0xC0, 0xD8))

SERVER_KEY = bytes.fromhex("44455250f09f9491") + SERVER.public_key
PLAIN_INFO = b'{"version":2,"CanAckPings":false}'
CLIENT_INFO_FRAMES = {
    PLAIN_INFO: (
        "0200000069358072d6365880d1aeea329adf9121383851ed21a28e3b75e965d0d2cd166254a0a1a2a3a4a5a6a7a8a9aaabacadaeafb0b1"
        "b2b3b4b5b6b7ebfa79102073c5ab291bd6743cbcddfd7290998345c4f87919ad718cb15f3acbc7681a0deb13a91b1cc6e59d4572164f05"
    ),
    CLIENT_INFO: (
        "0200000079358072d6365880d1aeea329adf9121383851ed21a28e3b75e965d0d2cd166254a0a1a2a3a4a5a6a7a8a9aaabacadaeafb0b1"
        "b2b3b4b5b6b7cfb42485ad099733cf2d54f5e67281747290998345c4f87919ad718cb15f3acbc7681a0deb13a91b1cc6e59d4572164f54"
        "4b71ef043ced3825324bc33335fbe184"
    ),
}
SERVER_INFO_FRAME = (
    "0300000035c0c1c2c3c4c5c6c7c8c9cacbcccdcecfd0d1d2d3d4d5d6d7"
    "2a89115f509c63c25c2e0364c0785f651383647884a485efd35195b60a"
)


def greeted(own_key: KeyPair = A) -> ClientLogin:
    login = ClientLogin(own_key)
    login.answer(SERVER_KEY)
    return login


def close_client_info(plaintext: bytes, own_key: KeyPair = A) -> bytes:
    return own_key.public_key + seal(plaintext, compute_box_key(SERVER.public_key, own_key.private_key))


# ---- the specified bytes


def test_keys_are_those_of_the_specification() -> None:
    """Public keys follow from private ones, and both sides compute the same key for their boxes."""
    assert "8f40c5adb68f25624ae5b214ea767a6ec94d829d3d7b5e1ad1ba6f3e2138285f" == SERVER.public_key.hex()
    assert "358072d6365880d1aeea329adf9121383851ed21a28e3b75e965d0d2cd166254" == A.public_key.hex()
    assert BOX_KEY == compute_box_key(SERVER.public_key, A.private_key)
    assert BOX_KEY == compute_box_key(A.public_key, SERVER.private_key)


def test_a_made_key_is_fresh_and_a_pair() -> None:
    """No two are the same, and the halves belong together; the private one is not shown."""
    one, other = KeyPair.generate(), KeyPair.generate()
    assert one.private_key != other.private_key
    assert one == KeyPair.from_private(one.private_key)
    assert one.private_key.hex() not in repr(one)
    assert repr(one.private_key) not in repr(one)
    with pytest.raises(WireError, match="32 bytes"):
        KeyPair.from_private(one.private_key[:31])


@pytest.mark.parametrize("info", CLIENT_INFO_FRAMES)
def test_the_client_answers_byte_for_byte(info: bytes) -> None:
    """The ClientInfo is that of the specification, and the relay reads from it who logs in."""
    login = ClientLogin(A)
    frame = login.answer(SERVER_KEY, info=info, nonce=NONCE_OF_A)
    assert CLIENT_INFO_FRAMES[info] == frame.hex()
    assert SERVER.public_key == login.server_key
    assert not login.complete
    assert ClientInfo(
        public_key=A.public_key,
        box_key=BOX_KEY,
        version=2,
        can_ack_pings=False,
        is_prober=info == CLIENT_INFO,
        mesh_key=None,
    ) == open_client_info(frame[5:], SERVER)


def test_we_say_that_we_are_a_prober() -> None:
    """What is sent without further words, and with a nonce that never comes twice."""
    assert {"version": 2, "CanAckPings": False, "IsProber": True} == json.loads(CLIENT_INFO)
    frames = {ClientLogin(A).answer(SERVER_KEY) for _ in range(3)}
    assert 3 == len(frames)
    assert {True} == {open_client_info(frame[5:], SERVER).is_prober for frame in frames}


def test_the_relays_answer_completes_the_login() -> None:
    """The ServerInfo is that of the specification, and opens."""
    frame = seal_server_info(BOX_KEY, nonce=NONCE_OF_SERVER)
    assert SERVER_INFO_FRAME == frame.hex()
    login = greeted()
    assert ServerInfo(version=2) == login.finish(frame[5:])
    assert login.complete
    assert ServerInfo(version=2) == login.server_info


# ---- what a ServerInfo may say


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            b'{"version":2,"TokenBucketBytesPerSecond":100000,"TokenBucketBytesBurst":70000}',
            ServerInfo(token_bucket_bytes_per_second=100000, token_bucket_burst_bytes=70000),
        ),
        (b'{"version":2,"TokenBucketBytesPerSecond":0,"TokenBucketBytesBurst":-1}', ServerInfo()),
        (b'{ "VERSION" : 3, "tokenbucketbytesburst": 5 }', ServerInfo(version=3, token_bucket_burst_bytes=5)),
        (b'{"version":null,"more":{"version":[1]}}', ServerInfo(version=None)),
        (b"{}", ServerInfo(version=None)),
        (b"null", ServerInfo(version=None)),
    ],
)
def test_a_server_info_is_read_as_go_reads_it(text: bytes, expected: ServerInfo) -> None:
    """Names in any case, other members, null and nothing; a limit of zero is none."""
    assert expected == greeted().finish(seal(text, BOX_KEY))


NO_SERVER_INFO = [
    b"",
    b"no JSON",
    b'{"version":2}{"version":2}',
    b"[]",
    b'"2"',
    b'{"version":"2"}',
    b'{"version":2.0}',
    b'{"version":true}',
    b'{"version":9223372036854775808}',
    b'{"version":' + b"1" * 5000 + b"}",
    b'{"TokenBucketBytesBurst":"many"}',
    b"\xff\xfe",
    b"[" * 100_000,
]


@pytest.mark.parametrize("text", NO_SERVER_INFO, ids=lambda text: repr(text[:30]))
def test_a_box_that_holds_no_server_info_is_refused(text: bytes) -> None:
    """No JSON, two, another kind, numbers that are none or too large, and a nest without end."""
    login = greeted()
    with pytest.raises(LoginContentError):
        login.finish(seal(text, BOX_KEY))
    assert not login.complete


def test_what_the_relay_tells_survives_the_way() -> None:
    """A token bucket that a relay seals is what the client reads."""
    info = ServerInfo(version=2, token_bucket_bytes_per_second=65568, token_bucket_burst_bytes=131072)
    assert info == greeted().finish(seal_server_info(BOX_KEY, info)[5:])


# ---- boxes that do not open


@pytest.mark.parametrize("index", [0, 23, 24, 40, -1])
def test_a_changed_box_does_not_open(index: int) -> None:
    """One flipped bit anywhere, in nonce, tag or content."""
    sealed = bytearray(bytes.fromhex(SERVER_INFO_FRAME)[5:])
    sealed[index] ^= 1
    with pytest.raises(BoxError, match="does not open"):
        greeted().finish(bytes(sealed))


@pytest.mark.parametrize("length", [0, 1, 23, 24, 39])
def test_too_few_bytes_are_no_box(length: int) -> None:
    """Less than a nonce and a tag."""
    with pytest.raises(BoxError, match=f"{length} bytes are none"):
        greeted().finish(bytes(length))
    with pytest.raises(BoxError):
        open_client_info(A.public_key + bytes(length), SERVER)


def test_the_faults_of_a_relay_can_be_played() -> None:
    """A corrupt box and one that is closed with another relay's key do not open; what is no JSON is told as such."""
    with pytest.raises(BoxError):
        greeted().finish(seal_server_info(BOX_KEY, corrupt=True)[5:])
    other = compute_box_key(A.public_key, KeyPair.generate().private_key)
    with pytest.raises(BoxError):
        greeted().finish(seal_server_info(other)[5:])
    with pytest.raises(LoginContentError):
        greeted().finish(seal_server_info(BOX_KEY, b"oops")[5:])


def test_a_server_info_before_the_greeting_is_an_error() -> None:
    """Without the relay's key nothing can be opened."""
    with pytest.raises(WireError, match="before the ServerKey"):
        ClientLogin(A).finish(bytes.fromhex(SERVER_INFO_FRAME)[5:])


@pytest.mark.parametrize("key", [bytes(32), b"\1" + bytes(31), b"\xec" + b"\xff" * 30 + b"\x7f"])
def test_a_key_of_low_order_is_refused(key: bytes) -> None:
    """All zero, one, and minus one: no secret comes of them, on either side."""
    with pytest.raises(WeakKeyError):
        ClientLogin(A).answer(SERVER_KEY[:8] + key)
    with pytest.raises(WeakKeyError):
        open_client_info(key + bytes(60), SERVER)


def test_a_wrong_greeting_gives_no_answer() -> None:
    """Nothing is sent to who is no relay."""
    with pytest.raises(GreetingError):
        ClientLogin(A).answer(bytes(8) + SERVER.public_key)


# ---- the relay's side


@pytest.mark.parametrize(
    ("text", "version"),
    [(b'{"version":1}', 1), (b'{"Version":-3}', -3), (b"{}", None), (b"null", None), (b'{"version":null}', None)],
)
def test_the_relay_judges_no_version(text: bytes, version: int | None) -> None:
    """Any whole number, none, and null log in."""
    assert version == open_client_info(close_client_info(text), SERVER).version


def test_the_relay_reads_all_members() -> None:
    """Mesh key, prober and the rest; the mesh key is not shown."""
    text = b'{"version":2,"CanAckPings":true,"ISPROBER":true,"meshKey":"6d657368","AppName":"x"}'
    info = open_client_info(close_client_info(text), SERVER)
    assert (True, True, "6d657368") == (info.can_ack_pings, info.is_prober, info.mesh_key)
    assert "6d657368" not in repr(info)
    assert BOX_KEY.hex() not in repr(info)


@pytest.mark.parametrize("text", [*NO_SERVER_INFO[:5], b'{"version":"2"}', b'{"IsProber":1}', b'{"meshKey":1}'])
def test_the_relay_refuses_what_is_no_client_info(text: bytes) -> None:
    """A wrong type, an array, an empty box, a second document."""
    with pytest.raises(LoginContentError):
        open_client_info(close_client_info(text), SERVER)


def test_the_relay_refuses_who_has_not_the_key() -> None:
    """A box that another key closed does not prove the claimed one."""
    stolen = A.public_key + close_client_info(PLAIN_INFO, KeyPair.generate())[32:]
    with pytest.raises(BoxError):
        open_client_info(stolen, SERVER)
    with pytest.raises(ShortFrameError):
        open_client_info(A.public_key[:31], SERVER)


# ---- real relays and clients

CAPTURES = [read_capture(path) for path in sorted((DATA / "derp").glob("*.hex")) if not path.name.startswith("stun-")]
_VERSIONS = {"version-1": 1, "version-3": 3}


def find_frames(capture: Capture, connection: str, kind: FrameType) -> list[bytes]:
    """Return the payloads of one type, which one side only sends."""
    from_client = kind is FrameType.CLIENT_INFO
    reader = FrameReader(FROM_CLIENT if from_client else FROM_SERVER)
    payloads = []
    for piece in cut_derp_pieces(capture, connection, from_client=from_client):
        if not piece.startswith(b"\x04\0\1\0\x21"):  # a packet that is too long, after the login
            payloads += [payload for found, payload in reader.read(piece) if found == kind]
    return payloads


def logins() -> Iterator[tuple[Capture, str]]:
    for capture in CAPTURES:
        for connection in capture.connections:
            if connection != "U" and find_frames(capture, connection, FrameType.SERVER_KEY):
                yield capture, connection


LOGINS = list(logins())


@pytest.mark.parametrize(
    ("capture", "connection"), LOGINS, ids=[f"{capture.name}-{connection}" for capture, connection in LOGINS]
)
def test_real_logins_are_understood_from_both_sides(capture: Capture, connection: str) -> None:
    """Boxes open with the keys of the capture, and our own client would have sent the same bytes."""
    (greeting,) = find_frames(capture, connection, FrameType.SERVER_KEY)
    sent = find_frames(capture, connection, FrameType.CLIENT_INFO)
    answers = find_frames(capture, connection, FrameType.SERVER_INFO)
    server_private = capture.private_keys.get("server", capture.private_keys.get(f"relay of {connection}"))
    client_private = capture.private_keys.get(f"client {connection}")
    server = KeyPair.from_private(server_private) if server_private is not None else None
    if server is not None:
        assert server.public_key == derp_frames.parse_server_key(greeting)
    if capture.name.endswith("login-timeout"):
        assert ([], []) == (sent, answers)
        return
    (info,) = sent
    refused = capture.name.rpartition("derp-")[2] in ("bad-box", "bad-json") or capture.name.endswith("bad-box")

    if server is not None and refused:
        with pytest.raises(LoginContentError if capture.name.endswith("bad-json") else BoxError):
            open_client_info(info, server)
        assert [] == answers
    elif server is not None:
        client = open_client_info(info, server)
        assert _VERSIONS.get(capture.name[-9:], 2) == client.version
        assert (capture.name.endswith("mesh-watch") and connection == "M") == (client.mesh_key is not None)
        for answer in answers:
            assert b'{"version":2}' == open_sealed(answer, client.box_key)

    if client_private is not None and not capture.name.endswith("bad-box"):
        own_key = KeyPair.from_private(client_private)
        login = ClientLogin(own_key)
        box_key = compute_box_key(derp_frames.parse_server_key(greeting), client_private)
        plaintext = open_sealed(info[32:], box_key)
        assert info == login.answer(greeting, info=plaintext, nonce=info[32:56])[5:]
        for answer in answers:
            assert ServerInfo(version=2) == login.finish(answer)
    assert server is not None or client_private is not None
    closed_by_relay = refused or capture.name.endswith("refused-client")
    assert (0 if closed_by_relay else 1) == len(answers)


def test_logins_of_every_relay_and_client_were_seen() -> None:
    """The captures give logins of each relay, each transport, and of clients that are not ours."""
    names = {capture.name for capture, _ in LOGINS}
    for beginning in (
        "coder-v2.26-embedded-derp",
        "coder-v2.26-embedded-websocket",
        "coder-v2.26-embedded-tls-websocket",
        "derper-main-2026-08-tls-derp",
        "derper-v1.102.5-websocket",
        "fork-derper-2026-05-tls-derp",
        "client-coder-v2.26-check-websocket",
        "client-coder-v2.26-server",
        "client-tailscale",
    ):
        assert any(name.startswith(beginning) for name in names), beginning


# ---- anything


@given(st.binary(max_size=200))
def test_any_bytes_are_a_login_or_an_error(payload: bytes) -> None:
    """Whatever a relay or a client sends, it is read or refused by name."""
    for attempt in (
        lambda: ClientLogin(A).answer(payload),
        lambda: ClientLogin(A).answer(SERVER_KEY[:8] + payload),
        lambda: greeted().finish(payload),
        lambda: open_client_info(payload, SERVER),
    ):
        try:
            assert attempt()
        except WireError:
            continue


_JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists)


@given(
    st.binary(max_size=200)
    | _JSON.map(lambda value: json.dumps({"version": value, "CanAckPings": value, "meshKey": value}).encode())
)
def test_any_content_of_a_box_is_read_or_refused(plaintext: bytes) -> None:
    """A peer that has the keys and seals nonsense is refused by name, on both sides."""
    for attempt in (
        lambda: greeted().finish(seal(plaintext, BOX_KEY)),
        lambda: open_client_info(close_client_info(plaintext), SERVER),
    ):
        try:
            assert attempt()
        except WireError:
            continue


@given(st.binary(max_size=300), st.binary(min_size=24, max_size=24))
def test_boxes_are_those_of_nacl(plaintext: bytes, nonce: bytes) -> None:
    """What we seal is what NaCl's plain crypto_box gives, and it opens again."""
    sealed = seal(plaintext, BOX_KEY, nonce=nonce)
    assert nonce + bindings.crypto_box(plaintext, nonce, SERVER.public_key, A.private_key) == sealed
    assert plaintext == open_sealed(sealed, BOX_KEY)
