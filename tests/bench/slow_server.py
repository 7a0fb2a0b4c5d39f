"""An HTTP server that answers after a known time: `python -m tests.bench.slow_server PORT SECONDS`.

Blocking threads, since their sleep is some 0.1 ms exact where an event loop's timer is 1 ms.
"""

from __future__ import annotations

import json
import socket
import sys
import threading
import time

from tests.bench.programs import BUILD_INFO, VERSION

_THREADS = 24


def answer_for_ever(listener: socket.socket, delay_seconds: float) -> None:
    """Answer one connection after the other, each so long after it was taken."""
    info = json.dumps(BUILD_INFO).encode()
    while True:
        connection, _ = listener.accept()
        due = time.monotonic() + delay_seconds
        with connection:
            request = b""
            while b"\r\n\r\n" not in request:
                received = connection.recv(4096)
                if not received:
                    break
                request += received
            body = info if b"buildinfo" in request else b"OK"
            time.sleep(max(0.0, due - time.monotonic()))
            head = f"HTTP/1.1 200 OK\r\nX-Coder-Build-Version: {VERSION}\r\nContent-Length: {len(body)}\r\n\r\n"
            try:
                connection.sendall(head.encode() + body)
            except OSError:
                continue


def main(port: int, delay_seconds: float) -> None:
    with socket.create_server(("127.0.0.1", port), backlog=4096) as listener:
        threads = [threading.Thread(target=answer_for_ever, args=(listener, delay_seconds)) for _ in range(_THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


if __name__ == "__main__":
    # the default action of SIGTERM ends it
    main(int(sys.argv[1]), float(sys.argv[2]))
