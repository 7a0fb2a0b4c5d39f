"""The true round trip: `python -m tests.bench.derp_calm_client PORT PER_SECOND FILE` checks a relay now and then.

Two blocking sockets in a process that does nothing else, with the logins of a check of its own each
time, since the first messages of fresh clients are what a check sees. Writes `[stamp, seconds]` lines,
one a message, timed from before it is written until all of it has come.
"""

from __future__ import annotations

import socket
import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from exporter.wire.derp_frames import FrameReader, FrameType, encode_send_packet
from exporter.wire.derp_handshake import ClientLogin, KeyPair

_REQUEST = b"GET /derp HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: DERP\r\n\r\n"
_MESSAGE = bytes(12)  # as long as the product's


class Client:
    """A login over a blocking socket."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._login = ClientLogin(KeyPair.generate())
        self._reader = FrameReader()
        self._frames: deque[tuple[int, bytes]] = deque()
        self.key = self._login.own_key.public_key
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.sendall(_REQUEST)
        answer = b""
        while b"\r\n\r\n" not in answer:
            answer += self._receive()
        self._frames.extend(self._reader.read(answer.partition(b"\r\n\r\n")[2]))
        connection.sendall(self._login.answer(self.wait_for(FrameType.SERVER_KEY)))
        self._login.finish(self.wait_for(FrameType.SERVER_INFO))

    def send(self, destination_key: bytes) -> float:
        """Send a message; return the time just before."""
        frame = encode_send_packet(destination_key, _MESSAGE)
        stamp = time.monotonic()
        self._connection.sendall(frame)
        return stamp

    def wait_for(self, kind: int) -> bytes:
        """Return the payload of the next frame of a kind."""
        while True:
            while self._frames:
                found, payload = self._frames.popleft()
                if found == kind:
                    return payload
            self._frames.extend(self._reader.read(self._receive()))

    def _receive(self) -> bytes:
        received = self._connection.recv(65536)
        if not received:
            raise ConnectionError("the relay has closed the connection")
        return received


@contextmanager
def log_in(port: int) -> Iterator[Client]:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        yield Client(connection)


def check(port: int) -> list[tuple[float, float]]:
    """Pass a message each way; return stamp and round trip of each, in seconds."""
    passed = []
    with log_in(port) as one, log_in(port) as other:
        for sender, receiver in ((one, other), (other, one)):
            begun = sender.send(receiver.key)
            receiver.wait_for(FrameType.RECV_PACKET)
            passed.append((begun, time.monotonic() - begun))
    return passed


def main(port: int, per_second: float, path: Path) -> None:
    due = time.monotonic()
    with path.open("w", buffering=1) as output:
        while True:
            for stamp, seconds in check(port):
                output.write(f"[{stamp}, {seconds}]\n")
            due += 1 / per_second
            time.sleep(max(0.0, due - time.monotonic()))


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]), Path(sys.argv[3]))
