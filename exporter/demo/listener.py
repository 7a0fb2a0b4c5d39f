"""A port of loopback that can be closed, silenced and opened again while the simulation runs.

One port number for 127.0.0.1 and, where this host has it, ::1. The number stays ours while the
port is closed: a bound socket that never listens keeps the system from giving it to others, and
whoever connects is refused. A silent port is one whose queue is full and never emptied: the
system drops what comes, as a network does that has lost its way.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import ssl
import sys
from collections.abc import Callable

ADDRESSES = {"ipv4": "127.0.0.1", "ipv6": "::1"}
_KINDS = {"ipv4": socket.AF_INET, "ipv6": socket.AF_INET6}
_ATTEMPTS = 20
# Connections that fill the queue of a silent port. One would do, but where a port that was closed just
# now is not yet given back, some of them end there.
_FILLERS = 8


def have_silent_ports() -> bool:
    """Tell whether this system drops what comes to a port whose queue is full. Linux does; on others it
    was not tried."""
    return sys.platform == "linux"


def have_ipv6_loopback() -> bool:
    """Tell whether this host can listen on ::1."""
    try:
        _bind("ipv6", 0).close()
    except OSError:
        return False
    return True


class Listener:
    """Accepts connections on one port of both loopback addresses.

    Args:
        protocol_factory: What serves a connection, as asyncio's servers take it.
        tls: The context of a server; None for plain TCP.
        families: Of `ipv4` and `ipv6`; None for all that this host has.
    """

    def __init__(
        self,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        *,
        tls: ssl.SSLContext | None = None,
        families: tuple[str, ...] | None = None,
    ) -> None:
        self._protocol_factory = protocol_factory
        self._tls = tls
        self.families = families or (("ipv4", "ipv6") if have_ipv6_loopback() else ("ipv4",))
        self._reserved: list[socket.socket] = []
        self._servers: dict[str, asyncio.Server] = {}
        self._silent: dict[str, contextlib.ExitStack] = {}
        self.port = 0

    @property
    def listening(self) -> frozenset[str]:
        """The families that accept connections now."""
        return frozenset(self._servers)

    async def start(self) -> None:
        """Take a free port and listen on every family."""
        self._reserved = _reserve(self.families)
        self.port = self._reserved[0].getsockname()[1]
        for family in self.families:
            await self.open(family)

    async def open(self, family: str) -> None:
        """Listen again; does nothing where it does already."""
        if family in self._servers or family not in self.families:
            return
        self._end_silence(family)
        listening = _bind(family, self.port)
        try:
            self._servers[family] = await asyncio.get_running_loop().create_server(
                self._protocol_factory, sock=listening, ssl=self._tls, backlog=1024
            )
        except BaseException:
            listening.close()
            raise

    def close(self, family: str) -> None:
        """Refuse connections from now on. Those that stand are left alone."""
        self._end_silence(family)
        server = self._servers.pop(family, None)
        if server is not None:
            server.close()

    def silence(self, family: str) -> None:
        """Leave everybody without an answer who connects from now on. Those that stand are left alone."""
        if family in self._silent or family not in self.families:
            return
        self.close(family)
        with contextlib.ExitStack() as kept:
            swallowing = kept.enter_context(contextlib.closing(_bind(family, self.port)))
            swallowing.listen(0)
            for _ in range(_FILLERS):
                filler = kept.enter_context(contextlib.closing(socket.socket(_KINDS[family], socket.SOCK_STREAM)))
                filler.setblocking(False)
                filler.connect_ex((ADDRESSES[family], self.port))
            self._silent[family] = kept.pop_all()

    def _end_silence(self, family: str) -> None:
        silent = self._silent.pop(family, None)
        if silent is not None:
            silent.close()

    async def stop(self) -> None:
        """Close everything and give the port back."""
        for family in (*self._servers, *self._silent):
            self.close(family)
        for reserved in self._reserved:
            reserved.close()
        self._reserved = []


def _bind(family: str, port: int) -> socket.socket:
    created = socket.socket(_KINDS[family], socket.SOCK_STREAM)
    try:
        if family == "ipv6":
            created.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        # both the reservation and the listener need it to share the number
        created.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        created.setblocking(False)
        created.bind((ADDRESSES[family], port))
    except OSError:
        created.close()
        raise
    return created


def _reserve(families: tuple[str, ...]) -> list[socket.socket]:
    for _attempt in range(_ATTEMPTS):
        with contextlib.ExitStack() as taken:
            first = taken.enter_context(contextlib.closing(_bind(families[0], 0)))
            port = first.getsockname()[1]
            try:
                others = [taken.enter_context(contextlib.closing(_bind(family, port))) for family in families[1:]]
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
                continue
            taken.pop_all()
            return [first, *others]
    raise OSError(errno.EADDRINUSE, "no port is free on both 127.0.0.1 and ::1")
