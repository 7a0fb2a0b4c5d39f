"""STUN messages: vectors, what real servers said and left unsaid, and rubbish."""

from __future__ import annotations

import contextlib
import ipaddress
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.errors import WireError
from exporter.wire.stun import (
    BindingResponse,
    IgnoredRequestError,
    MalformedError,
    NotRequestError,
    NotStunError,
    NotSuccessError,
    build_binding_request,
    build_binding_response,
    parse_binding_request,
    parse_binding_response,
)

CAPTURES = sorted((Path(__file__).parents[1] / "data" / "derp").glob("stun-*.hex"))
ID = bytes.fromhex("0102030405060708090a0b0c")
COOKIE_AND_ID = "2112a4420102030405060708090a0b0c"
REQUEST = bytes.fromhex(f"00010014{COOKIE_AND_ID}802200087461696c6e6f646580280004b32c370f")
MAPPED_V4 = "0001000800018055c0000201"  # 192.0.2.1:32853, plain
XOR_V4 = "002000080001a147e112a643"  # the same, as XOR-MAPPED-ADDRESS
NOT_ZERO = "whose first two bits are not zero as STUN's are"


def success(attributes: str) -> bytes:
    return bytes.fromhex(f"0101{len(attributes) // 2:04x}{COOKIE_AND_ID}{attributes}")


# real servers


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One request that a real server got from `address` and `port`, and its answer; None is silence."""

    file: str
    name: str
    address: str
    port: int
    request: bytes
    answer: bytes | None

    def __str__(self) -> str:
        return f"{self.file.removeprefix('stun-')}: {self.name}"


_TITLE = re.compile(r"# (?P<name>.+); (?:client address (?P<address>\S+)|local) port (?P<port>\d+)")


def read_cases(path: Path) -> Iterator[Case]:
    title: re.Match[str] | None = None
    request = b""
    for line in path.read_text(encoding="utf-8").splitlines():
        if match := _TITLE.fullmatch(line):
            title = match
        elif line.startswith("C>S"):
            request = bytes.fromhex(line.removeprefix("C>S"))
        elif title is not None:
            silent = re.fullmatch(r"# silence \(TimeoutError\)|S>C # TimeoutError", line)
            answer = None if silent else bytes.fromhex(line.removeprefix("S>C"))
            yield Case(
                file=path.stem,
                name=title["name"],
                address=title["address"] or "127.0.0.1",
                port=int(title["port"]),
                request=request,
                answer=answer,
            )
            title = None


CASES = [case for path in CAPTURES for case in read_cases(path)]
TAILSCALE_CASES = [case for case in CASES if "coturn" not in case.file]
ANSWERED_CASES = [case for case in CASES if case.answer is not None and case.request[4:8] == REQUEST[4:8]]


def test_every_capture_is_read() -> None:
    """Seven files: five of 26 cases, two of 8."""
    assert [8, 8, 26, 26, 26, 26, 26] == sorted(sum(case.file == path.stem for case in CASES) for path in CAPTURES)


@pytest.mark.parametrize("case", ANSWERED_CASES, ids=str)
def test_real_answers_tell_the_clients_own_address(case: Case) -> None:
    """What real servers answered parses to the address that the client had."""
    assert case.answer is not None
    wanted = BindingResponse(transaction_id=case.request[8:20], address=case.address, port=case.port)
    assert wanted == parse_binding_response(case.answer)


@pytest.mark.parametrize("case", TAILSCALE_CASES, ids=str)
def test_the_strict_server_answers_where_tailscales_did(case: Case) -> None:
    """It takes the requests that Tailscale's servers answered, and is silent to all others."""
    if case.answer is None:
        with pytest.raises(WireError):
            parse_binding_request(case.request)
    else:
        assert case.request[8:20] == parse_binding_request(case.request)


@pytest.mark.parametrize("case", [case for case in TAILSCALE_CASES if case.answer is not None], ids=str)
def test_our_answers_are_tailscales_byte_for_byte(case: Case) -> None:
    """The server's side writes what derper and stund wrote; derper v1.102.5 was bound to all addresses."""
    mapped = case.file == "stun-derper-v1.102.5"
    assert case.answer == build_binding_response(case.request[8:20], case.address, case.port, mapped=mapped)


def test_the_oldest_stun_is_not_ours() -> None:
    """coturn answers a request without the cookie as RFC 3489 has it, which nobody asked for."""
    (case,) = (case for case in CASES if case.answer is not None and case.request[4:8] == bytes(4))
    assert case.answer is not None
    with pytest.raises(NotStunError, match="00000000 where STUN has its magic cookie 2112a442"):
        parse_binding_response(case.answer)


# vectors


def test_the_request_is_tailscales() -> None:
    """The 40 bytes that every Tailscale server answers."""
    assert REQUEST == build_binding_request(ID)
    assert ID == parse_binding_request(REQUEST)


@pytest.mark.parametrize(
    ("attributes", "address"),
    [
        (XOR_V4, "192.0.2.1"),
        ("002000140002a1470113a9fa0102030405060708090a0b0d", "2001:db8::1"),
        ("002000140002a1472112a442010203040506f8f7c90a090d", "192.0.2.1"),  # ::ffff:192.0.2.1
        ("8020" + XOR_V4[4:], "192.0.2.1"),
        (MAPPED_V4, "192.0.2.1"),
        ("00010008000103e8c6336407" + XOR_V4, "192.0.2.1"),
        (XOR_V4 + "00010008000103e8c6336407", "192.0.2.1"),
        ("00010008000103e8c6336407" + MAPPED_V4, "192.0.2.1"),  # the last of a kind
        ("002000080001a147e712c445" + "8020" + XOR_V4[4:], "192.0.2.1"),  # both numbers are one kind
        (XOR_V4 + "7fff0003abcdef00", "192.0.2.1"),  # unknown, with padding
        ("0020000cff01a147e112a643deadbeef", "192.0.2.1"),  # the first byte and what is too much
        ("00010014000280550000000000000000" + "0000ffffc0000201", "192.0.2.1"),
    ],
)
def test_every_form_of_the_address(attributes: str, address: str) -> None:
    """Each form that servers send gives the same: IPv4 as IPv4, XOR before plain, the last wins."""
    wanted = BindingResponse(transaction_id=ID, address=address, port=32853)
    assert wanted == parse_binding_response(success(attributes))


def test_the_sample_of_rfc_5769() -> None:
    """Section 2.2: SOFTWARE of odd length, MESSAGE-INTEGRITY and FINGERPRINT beside the address."""
    sample = bytes.fromhex(
        "0101003c2112a442b7e7a701bc34d686fa87dfae"
        "8022000b7465737420766563746f7220"
        "002000080001a147e112a643"
        "000800142b91f599fd9e90c38c7489f92af9ba53f06be7d7"
        "80280004c07d4c96"
    )
    wanted = BindingResponse(transaction_id=sample[8:20], address="192.0.2.1", port=32853)
    assert wanted == parse_binding_response(sample)


def test_bytes_behind_a_response_are_not_looked_at() -> None:
    """As Tailscale's client has it."""
    assert "192.0.2.1" == parse_binding_response(success(XOR_V4) + b"more").address


# the client's refusals


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"", "0 bytes are no STUN message, whose header alone has 20"),
        (success(XOR_V4)[:19], "19 bytes are no STUN message, whose header alone has 20"),
        (
            b"\x41" + success(XOR_V4)[1:],
            "the message begins with 4101, whose first two bits are not zero as STUN's are",
        ),
        (
            b"\x81" + success(XOR_V4)[1:],
            "the message begins with 8101, whose first two bits are not zero as STUN's are",
        ),
        (
            success(XOR_V4)[:7] + b"\x43" + success(XOR_V4)[8:],
            "the message has 2112a443 where STUN has its magic cookie 2112a442",
        ),
    ],
)
def test_what_is_no_stun(data: bytes, sentence: str) -> None:
    """Too short, the wrong first bits, the wrong cookie: both sides say so, and there is no transaction id."""
    for parse in (parse_binding_response, parse_binding_request):
        with pytest.raises(NotStunError) as caught:
            parse(data)
        assert (sentence, None) == (str(caught.value), caught.value.transaction_id)


@pytest.mark.parametrize(
    ("kind", "attributes", "code", "sentence"),
    [
        ("0111", "0009000400000500", 500, "the server answered with an error response, code 500"),
        ("0111", "8022000161000000" + "0009000a0000041456d06e6b6e6f0000", 420, "code 420"),
        ("0111", "", None, "the server answered with an error response without an error code"),
        ("0111", "00090003000005ff", None, "without an error code"),  # too short
        ("0111", "0009000400000200", None, "without an error code"),  # 200 is none
        ("0111", "0009000400000364", None, "without an error code"),  # 3 hundred and 100
        ("0111", "0009000800000500", None, "without an error code"),  # longer than the message
        ("0001", "", None, "the message has type 0001, which is no success response"),
        ("0011", "", None, "the message has type 0011, which is no success response"),
        ("0103", XOR_V4, None, "the message has type 0103, which is no success response"),
        ("0102", "0009000400000500", None, "the message has type 0102, which is no success response"),
    ],
)
def test_what_is_no_success(kind: str, attributes: str, code: int | None, sentence: str) -> None:
    """Error responses keep their code, and other messages are named; the transaction id is kept."""
    data = bytes.fromhex(kind + f"{len(attributes) // 2:04x}" + COOKIE_AND_ID + attributes)
    with pytest.raises(NotSuccessError, match=re.escape(sentence) + "$") as caught:
        parse_binding_response(data)
    assert (code, ID) == (caught.value.error_code, caught.value.transaction_id)


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (
            bytes.fromhex(f"01010010{COOKIE_AND_ID}{XOR_V4}"),
            "the message says that 16 bytes follow its header, but there are 12",
        ),
        (
            success("802200056162636465"),
            "attribute 8022 needs 8 bytes with its padding, but 5 are left",
        ),
        (success(XOR_V4 + "8022"), "2 bytes at the end are too few for an attribute"),
        (success("002000080003a147e112a643"), "XOR-MAPPED-ADDRESS has the unknown address family 03"),
        (success("000100080000a147e112a643"), "MAPPED-ADDRESS has the unknown address family 00"),
        (success("002000030001a100"), "XOR-MAPPED-ADDRESS has 3 bytes, which is too short"),
        (success("0001000600018055c0000000"), "MAPPED-ADDRESS has 2 bytes of an IPv4 address, which has 4"),
        (success("002000080002a147e112a643"), "XOR-MAPPED-ADDRESS has 4 bytes of an IPv6 address, which has 16"),
        (success("00010004000180550020" + XOR_V4[4:]), "MAPPED-ADDRESS has 0 bytes of an IPv4 address, which has 4"),
        (success(""), "the success response says no mapped address"),
        (success("8022000161000000"), "the success response says no mapped address"),
    ],
)
def test_what_is_malformed(data: bytes, sentence: str) -> None:
    """Each broken length, a family that nobody knows, and no address at all; the transaction id is kept."""
    with pytest.raises(MalformedError) as caught:
        parse_binding_response(data)
    assert (sentence, ID) == (str(caught.value), caught.value.transaction_id)


# the server's refusals


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (REQUEST.replace(b"tailnode", b"tailnodf"), "no SOFTWARE attribute says tailnode"),
        (REQUEST[:-1] + b"\x0e", "the FINGERPRINT is wrong"),
        (REQUEST[:20] + REQUEST[32:] + REQUEST[20:32], "the last attribute is no FINGERPRINT of 4 bytes"),
        (REQUEST[:3] + b"\x18" + REQUEST[4:] + b"\x80\x28\x00\x00", "the last attribute is no FINGERPRINT of 4 bytes"),
        (REQUEST + b"abcd", "4 bytes follow the message"),
        (REQUEST[:2] + b"\0\0" + REQUEST[4:20], "no SOFTWARE attribute says tailnode"),
    ],
)
def test_what_only_the_strict_server_ignores(data: bytes, sentence: str) -> None:
    """Requests that are not exactly Tailscale's are ignored with a reason, or answered by the lax server."""
    with pytest.raises(IgnoredRequestError) as caught:
        parse_binding_request(data)
    assert (sentence, ID) == (str(caught.value), caught.value.transaction_id)
    assert ID == parse_binding_request(data, strict=False)


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("kind", ["0011", "0101", "0111", "0003", "3fff"])
def test_what_is_no_binding_request(kind: str, strict: bool) -> None:
    """Indications, responses and other methods are no requests, for the lax server either."""
    with pytest.raises(NotRequestError, match=f"has type {kind}, which is no binding request"):
        parse_binding_request(bytes.fromhex(kind) + REQUEST[2:], strict=strict)


@pytest.mark.parametrize("strict", [True, False])
def test_a_request_that_is_cut_off_is_malformed(strict: bool) -> None:
    """The length of the header counts for servers too."""
    with pytest.raises(MalformedError, match="says that 20 bytes follow its header, but there are 19"):
        parse_binding_request(REQUEST[:-1], strict=strict)


# building


@given(st.binary(min_size=12, max_size=12), st.integers(12, 16388).map(lambda quarter: quarter * 4))
def test_padded_requests_have_their_size_and_are_answered(transaction_id: bytes, size_bytes: int) -> None:
    """A request of any size is exactly so long and still what Tailscale's servers answer."""
    request = build_binding_request(transaction_id, size_bytes=size_bytes)
    assert size_bytes == len(request)
    assert transaction_id == parse_binding_request(request)


def test_the_padding_may_be_ignored_by_every_server() -> None:
    """It stands between SOFTWARE and FINGERPRINT, in an attribute that a server need not know."""
    request = build_binding_request(ID, size_bytes=48)
    assert REQUEST[20:32] == request[20:32]
    assert request[32] & 0x80
    assert bytes.fromhex("80280004") == request[-8:-4]


@pytest.mark.parametrize("size_bytes", [-4, 0, 40, 44, 50, 65556])
def test_impossible_sizes_are_refused(size_bytes: int) -> None:
    """Too short for the padding, no multiple of 4, longer than a STUN message can say."""
    with pytest.raises(ValueError, match=f"from 48 to 65552, and not {size_bytes}"):
        build_binding_request(ID, size_bytes=size_bytes)


def test_impossible_values_are_refused() -> None:
    """A transaction id has 12 bytes, a port 16 bits, and a name is no address."""
    with pytest.raises(ValueError, match="has 12 bytes, and not 11"):
        build_binding_request(ID[:-1])
    with pytest.raises(ValueError, match="has 12 bytes, and not 16"):
        build_binding_response(bytes(16), "192.0.2.1", 1)
    with pytest.raises(ValueError, match="from 0 to 65535, and not 65536"):
        build_binding_response(ID, "192.0.2.1", 65536)
    with pytest.raises(ValueError, match="does not appear to be an IPv4 or IPv6 address"):
        build_binding_response(ID, "stun.test", 1)


def test_only_ipv4_is_told_as_mapped() -> None:
    """The two forms of section 9.3; an IPv6 address has but one."""
    assert success(XOR_V4) == build_binding_response(ID, "192.0.2.1", 32853)
    assert success("002000140002a1472112a442010203040506f8f7c90a090d") == build_binding_response(
        ID, "192.0.2.1", 32853, mapped=True
    )
    wanted = success("002000140002a1470113a9fa0102030405060708090a0b0d")
    assert wanted == build_binding_response(ID, "2001:db8::1", 32853)
    assert wanted == build_binding_response(ID, "2001:db8::1", 32853, mapped=True)


@given(st.binary(min_size=12, max_size=12), st.ip_addresses(), st.integers(0, 65535), st.booleans())
def test_responses_survive_the_round_trip(
    transaction_id: bytes, address: ipaddress.IPv4Address | ipaddress.IPv6Address, port: int, mapped: bool
) -> None:
    """What a server tells is what the client reads, mapped or not."""
    told = build_binding_response(transaction_id, str(address), port, mapped=mapped)
    unmapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    wanted = BindingResponse(transaction_id=transaction_id, address=str(unmapped or address), port=port)
    assert wanted == parse_binding_response(told)


# rubbish

ATTRIBUTE = st.tuples(
    st.sampled_from([0x0001, 0x0009, 0x0020, 0x8020, 0x8022, 0x8028, 0x1234]),
    st.integers(0, 24),
    st.binary(max_size=24),
).map(lambda parts: parts[0].to_bytes(2, "big") + parts[1].to_bytes(2, "big") + parts[2])
NEARLY_STUN = st.builds(
    lambda kind, attributes, slip: (
        kind + max(0, len(attributes) + slip).to_bytes(2, "big") + bytes.fromhex(COOKIE_AND_ID) + attributes
    ),
    st.sampled_from([b"\x00\x01", b"\x01\x01", b"\x01\x11", b"\x3f\xff"]),
    st.lists(ATTRIBUTE, max_size=6).map(b"".join),
    st.integers(-4, 4),
)


@given(st.one_of(st.binary(max_size=200), NEARLY_STUN))
def test_any_bytes_are_a_value_or_a_wire_error(data: bytes) -> None:
    """Nothing but WireError leaves, and what is taken is an address as `ipaddress` writes it."""
    for strict in (True, False):
        with contextlib.suppress(WireError):
            assert data[8:20] == parse_binding_request(data, strict=strict)
    try:
        response = parse_binding_response(data)
    except WireError:
        return
    assert str(ipaddress.ip_address(response.address)) == response.address
    assert 0 <= response.port <= 65535
    assert data[8:20] == response.transaction_id
