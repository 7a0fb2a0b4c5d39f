"""The true latency: `python -m tests.bench.calm_client PORT PER_SECOND FILE` asks one after the other.

A blocking socket and a clock around it, in a process that does nothing else: from before the
connection is asked for until the last byte has come. Writes `[stamp, seconds]` lines as it goes.
"""

from __future__ import annotations

import socket
import sys
import time
from pathlib import Path

_REQUEST = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"


def ask(port: int) -> float:
    """Return how long one request on a fresh connection took, in seconds."""
    begun = time.monotonic()
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(_REQUEST)
        answer = connection.recv(4096)
        while not answer.endswith(b"\r\n\r\nOK"):
            received = connection.recv(4096)
            if not received:
                raise ConnectionError("the answer was cut")
            answer += received
        return time.monotonic() - begun


def main(port: int, per_second: float, path: Path) -> None:
    due = time.monotonic()
    with path.open("w", buffering=1) as output:
        while True:
            output.write(f"[{time.monotonic()}, {ask(port)}]\n")
            due += 1 / per_second
            time.sleep(max(0.0, due - time.monotonic()))


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]), Path(sys.argv[3]))
