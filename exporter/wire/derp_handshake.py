"""The login of DERP: who the relay and its client are, proven by a NaCl box in each direction.

In: payloads of frames. Out: frames to send, and what the boxes held. The client's side is a small
state machine; the relay's two functions serve the demo and the tests.

    relay   ServerKey   its public key
    client  ClientInfo  its public key, and a box that only the holder of that key can have closed
    relay   ServerInfo  a box that only that relay can have closed: it knows the client now

Source: tailscale derp/derp_client.go and derp/derpserver/derpserver.go; NaCl, crypto_box
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import nacl.exceptions
from nacl import bindings

from exporter.errors import WireError
from exporter.wire import derp_frames
from exporter.wire.derp_frames import KEY_BYTES, NONCE_BYTES, PROTOCOL_VERSION, FrameType

# What we tell about ourselves. A prober only changes what the relay logs.
CLIENT_INFO = b'{"version":2,"CanAckPings":false,"IsProber":true}'
_TAG_BYTES = 16
_INT64 = 1 << 63


class WeakKeyError(WireError):
    """A public key with which no secret can be shared: all zero, or of low order."""


class BoxError(WireError):
    """A box does not open: it was closed with other keys, or changed on its way, or is no box."""


class LoginContentError(WireError):
    """A box opens, and holds something else than what it should."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyPair:
    """An X25519 key, 32 bytes each half. One is made for each connection."""

    private_key: bytes = field(repr=False)
    public_key: bytes

    @classmethod
    def generate(cls) -> KeyPair:
        public_key, private_key = bindings.crypto_box_keypair()
        return cls(private_key=private_key, public_key=public_key)

    @classmethod
    def from_private(cls, private_key: bytes) -> KeyPair:
        """Raises WireError unless the key has 32 bytes."""
        if len(private_key) != KEY_BYTES:
            raise WireError(f"a private key has {KEY_BYTES} bytes")
        return cls(private_key=private_key, public_key=bindings.crypto_scalarmult_base(private_key))


def compute_box_key(peer_public_key: bytes, private_key: bytes) -> bytes:
    """Return the key that both sides of a connection share: the expensive step, done once for both boxes.

    Raises:
        WeakKeyError: The peer's key has not 32 bytes, or is of low order.
    """
    try:
        return bindings.crypto_box_beforenm(peer_public_key, private_key)
    except (ValueError, RuntimeError, nacl.exceptions.CryptoError) as error:
        raise WeakKeyError("no secret can be shared with the peer's public key") from error


def seal(plaintext: bytes, box_key: bytes, *, nonce: bytes | None = None) -> bytes:
    """Return nonce and box. A nonce of one's own is for tests: it must never come twice."""
    if nonce is None:
        nonce = os.urandom(NONCE_BYTES)
    return nonce + bindings.crypto_box_easy_afternm(plaintext, nonce, box_key)


def open_sealed(sealed: bytes, box_key: bytes) -> bytes:
    """Return what nonce and box hold.

    Raises:
        BoxError: It does not open.
    """
    if len(sealed) < NONCE_BYTES + _TAG_BYTES:
        raise BoxError(f"the box does not open: {len(sealed)} bytes are none")
    try:
        return bindings.crypto_box_open_easy_afternm(sealed[NONCE_BYTES:], sealed[:NONCE_BYTES], box_key)
    except (ValueError, RuntimeError, nacl.exceptions.CryptoError) as error:
        raise BoxError("the box does not open: it was closed with other keys, or changed on its way") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerInfo:
    """What a relay tells at login.

    `version` is None when it tells none. The token bucket limits what a client may send, frame
    headers and keys included; None is no limit told, as with all relays known.
    """

    version: int | None = PROTOCOL_VERSION
    token_bucket_bytes_per_second: int | None = None
    token_bucket_burst_bytes: int | None = None


# What every relay known tells: as good as parsed.
_USUAL_SERVER_INFO = b'{"version":2}'
_USUAL = ServerInfo(version=2)


# ---- the client's side


class ClientLogin:
    """One login: `answer` the ServerKey, then `finish` with the ServerInfo.

    `server_key` is None before the first, `server_info` before the second; a later ServerInfo
    replaces it.
    """

    __slots__ = ("_box_key", "own_key", "server_info", "server_key")

    def __init__(self, own_key: KeyPair) -> None:
        self.own_key = own_key
        self.server_key: bytes | None = None
        self.server_info: ServerInfo | None = None
        self._box_key = b""

    @property
    def complete(self) -> bool:
        """The relay has shown that it knows us: what is sent to us is not lost for being early."""
        return self.server_info is not None

    def answer(self, payload: bytes, *, info: bytes = CLIENT_INFO, nonce: bytes | None = None) -> bytes:
        """Take a ServerKey, return the ClientInfo frame to send.

        Raises:
            GreetingError: It is none.
            WeakKeyError: The relay's key is of no use.
        """
        server_key = derp_frames.parse_server_key(payload)
        self._box_key = compute_box_key(server_key, self.own_key.private_key)
        self.server_key = server_key
        return derp_frames.encode_frame(
            FrameType.CLIENT_INFO, self.own_key.public_key + seal(info, self._box_key, nonce=nonce)
        )

    def finish(self, payload: bytes) -> ServerInfo:
        """Take a ServerInfo.

        Raises:
            WireError: It came before the ServerKey.
            BoxError: It does not open.
            LoginContentError: It holds no ServerInfo.
        """
        if self.server_key is None:
            raise WireError("a ServerInfo came before the ServerKey")
        plaintext = open_sealed(payload, self._box_key)
        if plaintext == _USUAL_SERVER_INFO:
            self.server_info = _USUAL
            return _USUAL
        members = _read_members(plaintext, "ServerInfo")
        self.server_info = ServerInfo(
            version=_read_integer(members, "version"),
            token_bucket_bytes_per_second=_read_positive(members, "TokenBucketBytesPerSecond"),
            token_bucket_burst_bytes=_read_positive(members, "TokenBucketBytesBurst"),
        )
        return self.server_info


# ---- the relay's side


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientInfo:
    """Who logs in. `box_key` is the one for the answer; `version` is None when it tells none."""

    public_key: bytes
    box_key: bytes = field(repr=False)
    version: int | None
    can_ack_pings: bool
    is_prober: bool
    mesh_key: str | None = field(repr=False)


def open_client_info(payload: bytes, server_key: KeyPair) -> ClientInfo:
    """Read a client's ClientInfo. As with real relays its version is not judged.

    Raises:
        ShortFrameError: It is too short for a key.
        WeakKeyError: The client's key is of no use.
        BoxError: It does not open: the client has not that key, or means another relay.
        LoginContentError: It holds no ClientInfo.
    """
    public_key, sealed = derp_frames.parse_packet(payload)
    box_key = compute_box_key(public_key, server_key.private_key)
    members = _read_members(open_sealed(sealed, box_key), "ClientInfo")
    return ClientInfo(
        public_key=public_key,
        box_key=box_key,
        version=_read_integer(members, "version"),
        can_ack_pings=bool(_read(members, "CanAckPings", bool)),
        is_prober=bool(_read(members, "IsProber", bool)),
        mesh_key=_read(members, "meshKey", str),
    )


def seal_server_info(
    box_key: bytes, info: ServerInfo | bytes | None = None, *, corrupt: bool = False, nonce: bytes | None = None
) -> bytes:
    """Return the ServerInfo frame.

    Args:
        box_key: The client's `ClientInfo.box_key`; that of another relay's key is a fault to play.
        info: What to tell, as bytes also what is none; None is what real relays tell.
        corrupt: Change the last byte, so that the box does not open.
    """
    plaintext = info if isinstance(info, bytes) else _encode_server_info(info or ServerInfo())
    sealed = seal(plaintext, box_key, nonce=nonce)
    if corrupt:
        sealed = sealed[:-1] + bytes((sealed[-1] ^ 0xFF,))
    return derp_frames.encode_frame(FrameType.SERVER_INFO, sealed)


def _encode_server_info(info: ServerInfo) -> bytes:
    members = {
        "version": info.version,
        "TokenBucketBytesPerSecond": info.token_bucket_bytes_per_second,
        "TokenBucketBytesBurst": info.token_bucket_burst_bytes,
    }
    told = {name: value for name, value in members.items() if value is not None}
    return json.dumps(told, separators=(",", ":")).encode()


# ---- JSON as Go reads it: names in any case, null is absent, other members are ignored


def _read_members(text: bytes, what: str) -> Mapping[str, Any]:
    try:
        value = json.loads(text.decode())
    except (ValueError, RecursionError) as error:
        raise LoginContentError(f"the box of the {what} holds no JSON") from error
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise LoginContentError(f"the box of the {what} holds JSON that is no object")
    return {name.casefold(): member for name, member in value.items()}


def _read(members: Mapping[str, Any], name: str, kind: type) -> Any:
    value = members.get(name.casefold())
    if value is not None and type(value) is not kind:
        raise LoginContentError(f"the login's {name} is not of type {kind.__name__}")
    return value


def _read_integer(members: Mapping[str, Any], name: str) -> int | None:
    value: int | None = _read(members, name, int)
    if value is not None and not -_INT64 <= value < _INT64:
        raise LoginContentError(f"the login's {name} is out of range")
    return value


def _read_positive(members: Mapping[str, Any], name: str) -> int | None:
    value = _read_integer(members, name)
    return value if value is not None and value > 0 else None
