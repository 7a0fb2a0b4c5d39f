"""A small name server on loopback: what it is asked is counted, what it answers is scripted."""

from __future__ import annotations

import asyncio
import ipaddress
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import IntEnum

TYPE_A = 1
TYPE_AAAA = 28
TYPE_SRV = 33


class Answer(IntEnum):
    """What is said instead of records. Positive values are response codes of RFC 1035, 4.1.1."""

    SILENCE = -2
    GARBAGE = -1
    NO_DATA = 0
    FORMERR = 1
    SERVFAIL = 2
    NXDOMAIN = 3
    NOTIMP = 4
    REFUSED = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class SRV:
    """Who offers a service. An empty `host` is the root: nobody does."""

    host: str
    port: int
    priority: int = 0


Zone = dict[str, tuple[str | SRV, ...] | Answer]


class NameServer(asyncio.DatagramProtocol):
    """Answers A, AAAA and SRV from `zone`; a name that is not there does not exist.

    `questions` has one (name, type) for each packet that came; `asked` is set by the first.
    """

    def __init__(self, zone: Zone) -> None:
        self.zone = zone
        self.questions: list[tuple[str, int]] = []
        self.asked = asyncio.Event()
        self.address = ""

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]
        self._transport = transport
        host, port = transport.get_extra_info("sockname")
        self.address = f"{host}:{port}"

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        name, question_end = _read_name(data, 12)
        (question_type,) = struct.unpack_from("!H", data, question_end)
        self.questions.append((name, question_type))
        self.asked.set()
        answer = self.zone.get(name, Answer.NXDOMAIN)
        if answer is Answer.SILENCE:
            return
        if answer is Answer.GARBAGE:
            self._transport.sendto(data[:2] + b"\x80\x00\xff", addr)
            return
        self._transport.sendto(_build_answer(data[: question_end + 4], question_type, answer), addr)


def _read_name(data: bytes, position: int) -> tuple[str, int]:
    labels = []
    while (length := data[position]) != 0:
        labels.append(data[position + 1 : position + 1 + length].decode("ascii").lower())
        position += 1 + length
    return ".".join(labels), position + 1


def _build_answer(question: bytes, question_type: int, answer: tuple[str | SRV, ...] | Answer) -> bytes:
    rcode = int(answer) if isinstance(answer, Answer) else 0
    entries = () if isinstance(answer, Answer) else answer
    records = b""
    count = 0
    for entry in entries:
        record_type, data = _build_data(entry)
        if record_type != question_type:
            continue
        # a pointer to the name in the question, a long time to live so that caches would show
        records += struct.pack("!HHHIH", 0xC00C, record_type, 1, 3600, len(data)) + data
        count += 1
    header = question[:2] + struct.pack("!HHHHH", 0x8580 | rcode, 1, count, 0, 0)
    return header + question[12:] + records


def _build_data(entry: str | SRV) -> tuple[int, bytes]:
    if isinstance(entry, SRV):
        labels = b"".join(bytes([len(label)]) + label.encode() for label in entry.host.split(".") if label)
        return TYPE_SRV, struct.pack("!HHH", entry.priority, 1, entry.port) + labels + b"\0"
    address = ipaddress.ip_address(entry)
    return (TYPE_A if address.version == 4 else TYPE_AAAA), address.packed


@asynccontextmanager
async def serve_names(zone: Zone) -> AsyncIterator[NameServer]:
    """Run a name server on a free port of 127.0.0.1."""
    loop = asyncio.get_running_loop()
    transport, server = await loop.create_datagram_endpoint(lambda: NameServer(zone), local_addr=("127.0.0.1", 0))
    try:
        yield server
    finally:
        transport.close()
