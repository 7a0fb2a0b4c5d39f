"""STUN binding requests and responses, as Tailscale and Coder speak them.

In: the bytes of one datagram. Out: the address that the server saw, or a WireError that says what is
wrong. Both sides are here: the client's for probing, the server's for the demo and the tests.

    bytes 0-1    type: 0001 binding request, 0101 success, 0111 error
    bytes 2-3    length of what follows the header
    bytes 4-7    magic cookie 2112a442
    bytes 8-19   transaction id
    then         attributes: type (2 bytes), length (2 bytes), value, padding to a multiple of 4

All integers are big-endian. Source: RFC 8489, sections 5 and 14; tailscale net/stun/stun.go.
"""

from __future__ import annotations

import ipaddress
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from exporter.errors import WireError

TRANSACTION_ID_BYTES = 12
REQUEST_BYTES = 40
DEFAULT_PORT = 3478

_MAGIC_COOKIE = 0x2112A442
_BINDING_REQUEST = 0x0001
_BINDING_SUCCESS = 0x0101
_BINDING_ERROR = 0x0111

# Source: IANA, STUN Attributes
_MAPPED_ADDRESS = 0x0001
_ERROR_CODE = 0x0009
_XOR_MAPPED_ADDRESS = 0x0020
_XOR_MAPPED_ADDRESS_OLD = 0x8020  # its number in drafts; some servers still send it
_SOFTWARE = 0x8022
_FINGERPRINT = 0x8028
# Assigned to nobody, and from 8000 on: a server that does not know it must ignore it.
_PROBE_PADDING = 0xFF4D

# Tailscale's server answers nobody else. Source: tailscale net/stun/stun.go
_TAILSCALE_SOFTWARE = b"tailnode"
_FINGERPRINT_XOR = 0x5354554E  # "STUN"; RFC 8489, section 14.7
_FINGERPRINT_BYTES = 8

_HEADER = struct.Struct("!HHI12s")
_ATTRIBUTE = struct.Struct("!HH")

# A datagram over IPv4 carries at most 65507 bytes; the largest that is still well-formed STUN is
# tried too, since "too long for this host" is an answer about the path.
_MAX_MESSAGE_BYTES = _HEADER.size + 0xFFFC
_MIN_PADDED_BYTES = REQUEST_BYTES + _ATTRIBUTE.size + 4

_ADDRESS_BYTES = {1: 4, 2: 16}  # by the number of the address family


class StunError(WireError):
    """A datagram that is not what was asked for.

    `transaction_id` is the one that it carries; None when it has none, being no STUN at all.
    """

    def __init__(self, message: str, *, transaction_id: bytes | None = None) -> None:
        super().__init__(message)
        self.transaction_id = transaction_id


class NotStunError(StunError):
    """It is no STUN message."""


class NotSuccessError(StunError):
    """It is STUN, and no success response to a binding request.

    `error_code` is what the server says, 300 to 699; None when it says none.
    """

    def __init__(self, message: str, *, transaction_id: bytes, error_code: int | None) -> None:
        super().__init__(message, transaction_id=transaction_id)
        self.error_code = error_code


class MalformedError(StunError):
    """It is STUN by its header, but what follows is broken or says no address."""


class NotRequestError(StunError):
    """It is STUN, and no binding request."""


class IgnoredRequestError(StunError):
    """It is a binding request that Tailscale's server leaves without an answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BindingResponse:
    """What a server saw: from where the request came. An IPv4 address is told as IPv4, however it
    was written."""

    transaction_id: bytes
    address: str
    port: int


# the client's side


def build_binding_request(transaction_id: bytes, *, size_bytes: int | None = None) -> bytes:
    """Return the request that Coder's and Tailscale's clients send, the only form that every server answers.

    Args:
        size_bytes: Length of the whole message, a multiple of 4 from 48 on, to see whether a packet
            of that size passes; None for the usual 40 bytes.
    """
    attributes = _build_attribute(_SOFTWARE, _TAILSCALE_SOFTWARE)
    if size_bytes is not None:
        if size_bytes % 4 or not _MIN_PADDED_BYTES <= size_bytes <= _MAX_MESSAGE_BYTES:
            limits = f"from {_MIN_PADDED_BYTES} to {_MAX_MESSAGE_BYTES}"
            raise ValueError(f"a padded request has a multiple of 4 bytes, {limits}, and not {size_bytes}")
        attributes += _build_attribute(_PROBE_PADDING, bytes(size_bytes - REQUEST_BYTES - _ATTRIBUTE.size))
    message = _build_message(_BINDING_REQUEST, transaction_id, attributes, more_bytes=_FINGERPRINT_BYTES)
    return message + _build_attribute(_FINGERPRINT, _compute_fingerprint(message).to_bytes(4, "big"))


def parse_binding_response(data: bytes) -> BindingResponse:
    """Return what a success response says.

    As lenient as Tailscale's client: bytes behind the message, unknown attributes and the
    FINGERPRINT are not looked at. XOR-MAPPED-ADDRESS goes before MAPPED-ADDRESS, the last of each
    counts.

    Raises:
        NotStunError, NotSuccessError, MalformedError
    """
    kind, length, transaction_id = _parse_header(data)
    if kind != _BINDING_SUCCESS:
        raise _describe_no_success(data, kind, length, transaction_id)
    plain: tuple[str, int] | None = None
    xored: tuple[str, int] | None = None
    for attribute, value in _walk_attributes(data, length, transaction_id):
        if attribute in (_XOR_MAPPED_ADDRESS, _XOR_MAPPED_ADDRESS_OLD):
            xored = _parse_address(value, transaction_id, name="XOR-MAPPED-ADDRESS", xored=True)
        elif attribute == _MAPPED_ADDRESS:
            plain = _parse_address(value, transaction_id, name="MAPPED-ADDRESS", xored=False)
    mapped = xored or plain
    if mapped is None:
        raise MalformedError("the success response says no mapped address", transaction_id=transaction_id)
    return BindingResponse(transaction_id=transaction_id, address=mapped[0], port=mapped[1])


# the server's side


def parse_binding_request(data: bytes, *, strict: bool = True) -> bytes:
    """Return the transaction id of a binding request that is to be answered.

    Args:
        strict: Only what Tailscale's server answers: a SOFTWARE that is exactly `tailnode`, and as
            the last attribute a right FINGERPRINT; else any binding request.

    Raises:
        NotStunError, NotRequestError, MalformedError
        IgnoredRequestError: Only when strict.
    """
    kind, length, transaction_id = _parse_header(data)
    if kind != _BINDING_REQUEST:
        raise NotRequestError(
            f"the message has type {kind:04x}, which is no binding request", transaction_id=transaction_id
        )
    attributes = list(_walk_attributes(data, length, transaction_id))
    if strict:
        problem = _find_what_tailscale_ignores(data, length, attributes)
        if problem is not None:
            raise IgnoredRequestError(problem, transaction_id=transaction_id)
    return transaction_id


def build_binding_response(transaction_id: bytes, address: str, port: int, *, mapped: bool = False) -> bytes:
    """Return the success response that Tailscale's server sends: one XOR-MAPPED-ADDRESS.

    Args:
        mapped: Tell an IPv4 address as IPv4-mapped IPv6, as servers do that are bound to all addresses.
    """
    if not 0 <= port <= 0xFFFF:
        raise ValueError(f"a port is from 0 to 65535, and not {port}")
    packed = ipaddress.ip_address(address).packed
    if mapped and len(packed) == 4:
        packed = bytes(10) + b"\xff\xff" + packed
    family = 1 if len(packed) == 4 else 2
    value = struct.pack("!BBH", 0, family, port ^ (_MAGIC_COOKIE >> 16)) + _xor(packed, transaction_id)
    return _build_message(_BINDING_SUCCESS, transaction_id, _build_attribute(_XOR_MAPPED_ADDRESS, value))


# both sides


def _build_message(kind: int, transaction_id: bytes, attributes: bytes, *, more_bytes: int = 0) -> bytes:
    if len(transaction_id) != TRANSACTION_ID_BYTES:
        raise ValueError(f"a transaction id has {TRANSACTION_ID_BYTES} bytes, and not {len(transaction_id)}")
    return _HEADER.pack(kind, len(attributes) + more_bytes, _MAGIC_COOKIE, transaction_id) + attributes


def _build_attribute(kind: int, value: bytes) -> bytes:
    return _ATTRIBUTE.pack(kind, len(value)) + value + bytes(-len(value) % 4)


def _parse_header(data: bytes) -> tuple[int, int, bytes]:
    """Return type, length and transaction id."""
    if len(data) < _HEADER.size:
        raise NotStunError(f"{len(data)} bytes are no STUN message, whose header alone has {_HEADER.size}")
    kind, length, cookie, transaction_id = _HEADER.unpack_from(data)
    if kind & 0xC000:
        raise NotStunError(f"the message begins with {kind:04x}, whose first two bits are not zero as STUN's are")
    if cookie != _MAGIC_COOKIE:
        raise NotStunError(f"the message has {cookie:08x} where STUN has its magic cookie {_MAGIC_COOKIE:08x}")
    return kind, length, transaction_id


def _walk_attributes(data: bytes, length: int, transaction_id: bytes) -> Iterator[tuple[int, bytes]]:
    position, end = _HEADER.size, _HEADER.size + length
    if end > len(data):
        have = len(data) - _HEADER.size
        raise MalformedError(
            f"the message says that {length} bytes follow its header, but there are {have}",
            transaction_id=transaction_id,
        )
    while position < end:
        if end - position < _ATTRIBUTE.size:
            raise MalformedError(
                f"{end - position} bytes at the end are too few for an attribute", transaction_id=transaction_id
            )
        kind, value_bytes = _ATTRIBUTE.unpack_from(data, position)
        position += _ATTRIBUTE.size
        padded_bytes = value_bytes + -value_bytes % 4
        if padded_bytes > end - position:
            raise MalformedError(
                f"attribute {kind:04x} needs {padded_bytes} bytes with its padding, but {end - position} are left",
                transaction_id=transaction_id,
            )
        yield kind, data[position : position + value_bytes]
        position += padded_bytes


def _parse_address(value: bytes, transaction_id: bytes, *, name: str, xored: bool) -> tuple[str, int]:
    """Bytes: 0, family, port (2), address. More than that is not looked at. Source: RFC 8489, section 14.1."""
    if len(value) < 4:
        raise MalformedError(f"{name} has {len(value)} bytes, which is too short", transaction_id=transaction_id)
    family, port = value[1], int.from_bytes(value[2:4], "big")
    wanted = _ADDRESS_BYTES.get(family)
    if wanted is None:
        raise MalformedError(f"{name} has the unknown address family {family:02x}", transaction_id=transaction_id)
    packed = value[4 : 4 + wanted]
    if len(packed) < wanted:
        raise MalformedError(
            f"{name} has {len(packed)} bytes of an IPv{4 if wanted == 4 else 6} address, which has {wanted}",
            transaction_id=transaction_id,
        )
    if xored:
        port ^= _MAGIC_COOKIE >> 16
        packed = _xor(packed, transaction_id)
    address = ipaddress.ip_address(packed)
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return str(address), port


def _xor(packed: bytes, transaction_id: bytes) -> bytes:
    mask = _MAGIC_COOKIE.to_bytes(4, "big") + transaction_id
    return bytes(a ^ b for a, b in zip(packed, mask, strict=False))  # an IPv4 address takes the cookie alone


def _compute_fingerprint(message: bytes) -> int:
    return zlib.crc32(message) ^ _FINGERPRINT_XOR


def _describe_no_success(data: bytes, kind: int, length: int, transaction_id: bytes) -> NotSuccessError:
    code = _find_error_code(data, length, transaction_id) if kind == _BINDING_ERROR else None
    if kind != _BINDING_ERROR:
        sentence = f"the message has type {kind:04x}, which is no success response"
    elif code is None:
        sentence = "the server answered with an error response without an error code"
    else:
        sentence = f"the server answered with an error response, code {code}"
    return NotSuccessError(sentence, transaction_id=transaction_id, error_code=code)


def _find_error_code(data: bytes, length: int, transaction_id: bytes) -> int | None:
    """Bytes: 0, 0, hundreds (3 bits), the rest, a phrase. Source: RFC 8489, section 14.8."""
    try:
        for attribute, value in _walk_attributes(data, length, transaction_id):
            if attribute == _ERROR_CODE and len(value) >= 4:
                hundreds, rest = value[2] & 0x07, value[3]
                return hundreds * 100 + rest if 3 <= hundreds <= 6 and rest < 100 else None
    except MalformedError:
        pass  # that it is an error response is the greater news
    return None


def _find_what_tailscale_ignores(data: bytes, length: int, attributes: list[tuple[int, bytes]]) -> str | None:
    """Return why Tailscale's server would stay silent; None when it answers. Seen with derper and stund."""
    if len(data) != _HEADER.size + length:
        return f"{len(data) - _HEADER.size - length} bytes follow the message"
    if (_SOFTWARE, _TAILSCALE_SOFTWARE) not in attributes:
        return "no SOFTWARE attribute says tailnode"
    last, value = attributes[-1]
    if last != _FINGERPRINT or len(value) != 4:
        return "the last attribute is no FINGERPRINT of 4 bytes"
    if int.from_bytes(value, "big") != _compute_fingerprint(data[:-_FINGERPRINT_BYTES]):
        return "the FINGERPRINT is wrong"
    return None
