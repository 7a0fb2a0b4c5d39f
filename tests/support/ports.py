"""Ports for programs that have to be told theirs, and addresses where nobody listens."""

from __future__ import annotations

import random
import socket

# Below what Linux gives for port 0 and to connections (32768 and up), so that no test that runs at the
# same time is given this port by the kernel.
_PORTS = range(10_000, 26_000)
# not the one that is seeded alike in every process that runs tests
_RANDOM = random.SystemRandom()


def free_port() -> int:
    """Return a port of 127.0.0.1 on which nobody listens."""
    while True:
        port = _RANDOM.choice(_PORTS)
        with socket.socket() as sock:
            try:
                sock.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
