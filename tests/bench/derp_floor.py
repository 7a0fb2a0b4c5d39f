"""The least that a DERP check can cost in Python: a bare protocol, with the same crypto, that trusts whoever answers.

No deadline of its own for each step, no limits, no phases, no named errors: what the product adds to
this is what those cost. One check is two connections, two logins and a message each way.
"""

from __future__ import annotations

import asyncio
import os
import ssl
import time
from typing import cast

from nacl import bindings

_UPGRADE = b"GET /derp HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: DERP\r\n\r\n"
_INFO = b'{"version":2,"CanAckPings":false,"IsProber":true}'
_MESSAGE = b"12345678"
_DEADLINE_SECONDS = 10.0
_SERVER_KEY, _CLIENT_INFO, _SERVER_INFO, _SEND_PACKET, _RECV_PACKET = 1, 2, 3, 4, 5


class _Client(asyncio.Protocol):
    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.public_key, self._private_key = bindings.crypto_box_keypair()
        self.admitted: asyncio.Future[None] = loop.create_future()
        self.arrived: asyncio.Future[float] = loop.create_future()
        self.transport: asyncio.Transport
        self._shared_key = b""
        self._upgraded = False
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is none by its class
        self.transport.write(_UPGRADE)

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer + data
        if not self._upgraded:
            end = buffer.find(b"\r\n\r\n")
            if end < 0:
                self._buffer = buffer
                return
            self._upgraded, buffer = True, buffer[end + 4 :]
        while len(buffer) >= 5 and len(buffer) >= 5 + (length := int.from_bytes(buffer[1:5], "big")):
            self._take(buffer[0], buffer[5 : 5 + length])
            buffer = buffer[5 + length :]
        self._buffer = buffer

    def send(self, destination_key: bytes) -> float:
        payload = destination_key + _MESSAGE
        stamp = time.monotonic()
        self.transport.write(bytes([_SEND_PACKET]) + len(payload).to_bytes(4, "big") + payload)
        return stamp

    def _take(self, kind: int, payload: bytes) -> None:
        if kind == _SERVER_KEY:
            self._shared_key = bindings.crypto_box_beforenm(payload[8:40], self._private_key)
            nonce = os.urandom(24)
            answer = self.public_key + nonce + bindings.crypto_box_easy_afternm(_INFO, nonce, self._shared_key)
            self.transport.write(bytes([_CLIENT_INFO]) + len(answer).to_bytes(4, "big") + answer)
        elif kind == _SERVER_INFO:
            bindings.crypto_box_open_easy_afternm(payload[24:], payload[:24], self._shared_key)
            self.admitted.set_result(None)
        elif kind == _RECV_PACKET:
            self.arrived.set_result(time.monotonic())


async def check(port: int, context: ssl.SSLContext | None) -> list[float]:
    """Check a relay on 127.0.0.1 once; return the round trips in seconds."""
    loop = asyncio.get_running_loop()
    name = "localhost" if context is not None else None
    async with asyncio.timeout(_DEADLINE_SECONDS):
        (_, one), (_, other) = await asyncio.gather(
            loop.create_connection(_Client, "127.0.0.1", port, ssl=context, server_hostname=name),
            loop.create_connection(_Client, "127.0.0.1", port, ssl=context, server_hostname=name),
        )
        await one.admitted
        await other.admitted
        round_trips = []
        for sender, receiver in ((one, other), (other, one)):
            stamp = sender.send(receiver.public_key)
            round_trips.append(await receiver.arrived - stamp)
        one.transport.abort()
        other.transport.abort()
    return round_trips
