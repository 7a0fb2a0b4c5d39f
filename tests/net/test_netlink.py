"""The kernel's word on routes: what is asked, what is read, and what is not understood."""

from __future__ import annotations

import ipaddress
import struct
import sys

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from exporter.net.netlink import build_route_question, find_out_interface, parse_route_answer


def build_answer(*attributes: tuple[int, bytes], kind: int = 24) -> bytes:
    body = bytes(12)
    for number, value in attributes:
        body += struct.pack("=HH", 4 + len(value), number) + value + bytes(-len(value) % 4)
    return struct.pack("=IHHII", 16 + len(body), kind, 0, 1, 0) + body


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's own word is Linux's")
@pytest.mark.parametrize("address", ["127.0.0.1", "127.1.2.3"])
def test_the_kernel_knows_the_way_to_loopback(address: str) -> None:
    """Asking the real kernel for a loopback address gives lo."""
    assert "lo" == find_out_interface(ipaddress.ip_address(address))


def test_other_systems_do_not_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no such interface nobody is asked."""
    monkeypatch.setattr(sys, "platform", "darwin")
    assert find_out_interface(ipaddress.ip_address("127.0.0.1")) is None


@pytest.mark.parametrize(("address", "bits", "bytes_"), [("192.0.2.1", 32, 36), ("2001:db8::1", 128, 48)])
def test_a_question_has_its_length_and_the_address(address: str, bits: int, bytes_: int) -> None:
    """Header, route and one attribute, whose last bytes are the address."""
    parsed = ipaddress.ip_address(address)
    question = build_route_question(parsed)
    assert (bytes_, bytes_) == (len(question), struct.unpack_from("=I", question)[0])
    assert bits == question[17]
    assert question.endswith(parsed.packed)


@pytest.mark.parametrize(
    ("answer", "index"),
    [
        (build_answer((4, struct.pack("=I", 7))), 7),
        (build_answer((1, b"\x7f\0\0\1"), (15, b"x"), (4, struct.pack("=I", 258))), 258),
        (build_answer((1, b"\x7f\0\0\1")), None),
        (build_answer((4, b"\1\0")), None),
        (build_answer((4, struct.pack("=I", 7)), kind=2), None),
        (build_answer((4, struct.pack("=I", 7)))[:-1], None),
        (build_answer() + struct.pack("=HH", 0, 4), None),
        (b"", None),
    ],
)
def test_an_answer_is_read(answer: bytes, index: int | None) -> None:
    """The number of the interface is found behind other attributes; an error has none."""
    assert index == parse_route_answer(answer)


@given(data=st.binary(max_size=200))
@example(data=struct.pack("=IHHII", 200, 24, 0, 1, 0) + bytes(12) + struct.pack("=HH", 0, 4))
def test_any_answer_ends(data: bytes) -> None:
    """Whatever comes is read to its end, and gives a number or nothing."""
    index = parse_route_answer(data)
    assert index is None or index >= 0
