"""A DERP relay of the simulation: its clients, what passes between them, and its faults.

In: bytes of clients, over whatever carries them. Out: frames. Relays of one mesh know one
another's clients. `relay_http` lets it answer on an HTTP server, raw and by WebSocket.

Source: derp-stun, sections 2.2 to 2.4
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from exporter.errors import WireError
from exporter.wire import derp_frames
from exporter.wire.derp_frames import FROM_CLIENT, FrameReader, FrameType, GoneReason
from exporter.wire.derp_handshake import ClientInfo, KeyPair, ServerInfo, open_client_info, seal_server_info

LOGIN_SECONDS = 10.0
# a keep-alive comes every so often, and up to so much later, always the same on one connection
KEEP_ALIVE_SECONDS = 60.0
KEEP_ALIVE_SPREAD_SECONDS = 5.0
# what a message looks like that tells peers how to meet. Source: derp-stun, section 2.3
_DISCO_MAGIC = bytes.fromhex("5453f09f92ac")
_DISCO_LEAST_BYTES = 62
_WRONG_MAGIC = b"DERP\x00\x00\x00\x00"


class Stall(StrEnum):
    """Where a relay falls silent."""

    BEFORE_ANSWER = "before the answer to the upgrade"
    AFTER_UPGRADE = "after the upgrade was accepted"
    AFTER_GREETING = "after its greeting"
    AFTER_LOGIN = "after the client's login"


@dataclass(slots=True, kw_only=True)
class RelayFaults:
    """What goes wrong at a relay; changed at any time, for connections and messages from then on.

    Args:
        raw_status: What raw upgrades are answered with instead of 101; `websocket_status` likewise.
        location: Where such an answer points to.
        page: The body of such an answer.
        foreign: Somebody on the way gives that answer, not the relay.
        stall: Where it falls silent.
        wrong_magic: Its greeting is not DERP's.
        header_key: The key in the answer's header is another one than that in the greeting.
        corrupt_login: Its answer to the login does not open.
        refuse_clients: It hangs up on every login.
        drop_first: So many messages of each client are lost; None: every one.
        delay_seconds: Each message takes so much longer.
        foreign_source: Messages come from another key than their sender's.
        cut_within_frame: It hangs up in the middle of the first message's frame.
        huge_frame: It announces a frame of 4 GiB instead of its greeting.
        mesh_cut: What its clients send to clients of other relays is lost.
        token_bucket: It tells clients a rate limit.
        piece_bytes: It cuts what it sends by WebSocket into messages of so many bytes.
    """

    raw_status: int | None = None
    websocket_status: int | None = None
    location: str | None = None
    page: str = ""
    foreign: bool = False
    stall: Stall | None = None
    wrong_magic: bool = False
    header_key: bool = False
    corrupt_login: bool = False
    refuse_clients: bool = False
    drop_first: int | None = 0
    delay_seconds: float = 0.0
    foreign_source: bool = False
    cut_within_frame: bool = False
    huge_frame: bool = False
    mesh_cut: bool = False
    token_bucket: bool = False
    piece_bytes: int | None = None


class SimulatedRelay:
    """One process of a relay: one key, and the clients that are logged in.

    Args:
        mesh: The relays that it forms a mesh with; it adds itself. None: it stands alone.

    Attributes:
        faults: What goes wrong now; replaced or changed at any time.
        connected: Every connection that was accepted and is not over.
        clients: Of them those that are logged in, by their key.
        logins: So far.
    """

    def __init__(self, *, mesh: list[SimulatedRelay] | None = None, key: KeyPair | None = None) -> None:
        self.key = key or KeyPair.generate()
        self.faults = RelayFaults()
        self.connected: set[RelayClient] = set()
        self.clients: dict[bytes, RelayClient] = {}
        self.logins = 0
        self._mesh = mesh if mesh is not None else []
        self._mesh.append(self)

    @property
    def header_key(self) -> bytes:
        """What the answer to an upgrade says."""
        return KeyPair.generate().public_key if self.faults.header_key else self.key.public_key

    def find(self, key: bytes) -> tuple[RelayClient, SimulatedRelay] | None:
        """Return the client of that key and where it is: here, else one hop away."""
        for relay in (self, *(other for other in self._mesh if other is not self)):
            client = relay.clients.get(key)
            if client is not None:
                return client, relay
        return None


class RelayClient:
    """One connection of a client.

    Args:
        write: Sends bytes to it.
        close: Hangs up.
        transport: What carries it, when it is a connection of its own.
    """

    def __init__(
        self,
        relay: SimulatedRelay,
        *,
        write: Callable[[bytes], None],
        close: Callable[[], None],
        transport: asyncio.Transport | None = None,
    ) -> None:
        self.transport = transport
        self._relay = relay
        self._write = write
        self._close = close
        self._reader = FrameReader(FROM_CLIENT)
        self._info: ClientInfo | None = None
        self._told: set[bytes] = set()  # whom it has sent to: they are told when it goes
        self._dropped = 0
        self._over = False
        self._loop = asyncio.get_running_loop()
        self._timers: list[asyncio.TimerHandle] = []
        self._pause_seconds = KEEP_ALIVE_SECONDS + KEEP_ALIVE_SPREAD_SECONDS * secrets.randbelow(1000) / 1000

    def begin(self) -> bytes:
        """Return the greeting, to be sent at once: the upgrade was accepted."""
        self._relay.connected.add(self)
        self._call_later(LOGIN_SECONDS, self._give_up_login)
        faults = self._relay.faults
        if faults.stall is Stall.AFTER_UPGRADE:
            return b""
        if faults.huge_frame:
            return bytes((FrameType.SERVER_KEY, 0xFF, 0xFF, 0xFF, 0xFF))
        magic = _WRONG_MAGIC if faults.wrong_magic else derp_frames.MAGIC
        return derp_frames.encode_server_key(self._relay.key.public_key, magic=magic)

    def bytes_received(self, data: bytes) -> None:
        """Work on what the client sent; hang up on what a real relay hangs up on."""
        if self._over:
            return
        try:
            for kind, payload in self._reader.read(data):
                if self._over:
                    return
                if self._info is None:
                    self._log_in(payload)
                else:
                    self._take(kind, payload)
        except WireError:
            self.hang_up()

    def ended(self) -> None:
        """The connection is over."""
        self._over = True
        self._relay.connected.discard(self)
        for timer in self._timers:
            timer.cancel()
        self._timers.clear()
        if self._info is None or self._relay.clients.get(self._info.public_key) is not self:
            return
        del self._relay.clients[self._info.public_key]
        gone = derp_frames.encode_peer_gone(self._info.public_key)
        for key in self._told:
            found = self._relay.find(key)
            if found is not None:
                found[0].send(gone)

    def hang_up(self) -> None:
        """End the connection without a word, as real relays do."""
        if not self._over:
            self.ended()
            self._close()

    def send(self, frame: bytes) -> None:
        if not self._over:
            self._write(frame)

    def _give_up_login(self) -> None:
        if self._info is None:
            self.hang_up()

    def _log_in(self, payload: bytes) -> None:
        faults = self._relay.faults
        if faults.stall in (Stall.AFTER_UPGRADE, Stall.AFTER_GREETING):
            return
        info = open_client_info(payload, self._relay.key)
        if faults.refuse_clients:
            self.hang_up()
            return
        self._info = info
        self._relay.logins += 1
        # first known, then told: what is sent to it from now on arrives
        self._relay.clients[info.public_key] = self
        if faults.stall is Stall.AFTER_LOGIN:
            return
        bucket = ServerInfo(token_bucket_bytes_per_second=65536, token_bucket_burst_bytes=131072)
        self.send(seal_server_info(info.box_key, bucket if faults.token_bucket else None, corrupt=faults.corrupt_login))
        self._call_later(self._pause_seconds, self._keep_alive)

    def _keep_alive(self) -> None:
        self.send(derp_frames.encode_keep_alive())
        self._call_later(self._pause_seconds, self._keep_alive)

    def _call_later(self, seconds: float, call: Callable[..., None], *arguments: object) -> None:
        """Call it, unless the connection is over by then."""
        self._timers = [timer for timer in self._timers if timer.when() > self._loop.time()]
        self._timers.append(self._loop.call_later(seconds, call, *arguments))

    def _take(self, kind: int, payload: bytes) -> None:
        match kind:
            case FrameType.SEND_PACKET:
                packet = derp_frames.parse_packet(payload)
                self._pass_on(packet[0], bytes(packet[1]))
            case FrameType.PING:
                self.send(derp_frames.encode_pong(derp_frames.parse_ping(payload)))
            case FrameType.FORWARD_PACKET | FrameType.WATCH_CONNS | FrameType.CLOSE_PEER:
                self.hang_up()  # only relays of a mesh may
            case _:
                pass

    def _pass_on(self, destination: bytes, data: bytes) -> None:
        faults = self._relay.faults
        if faults.drop_first is None or self._dropped < faults.drop_first:
            self._dropped += 1
            return
        found = self._relay.find(destination)
        if found is None:
            if data.startswith(_DISCO_MAGIC) and len(data) >= _DISCO_LEAST_BYTES:
                self.send(derp_frames.encode_peer_gone(destination, GoneReason.NOT_HERE))
            return
        client, relay = found
        if relay is not self._relay and (faults.mesh_cut or relay.faults.mesh_cut):
            return
        assert self._info is not None
        self._told.add(destination)
        source = KeyPair.generate().public_key if faults.foreign_source else self._info.public_key
        frame = derp_frames.encode_recv_packet(source, data)
        if faults.cut_within_frame:
            client.send(frame[: len(frame) // 2])
            client.hang_up()
        elif faults.delay_seconds:
            self._call_later(faults.delay_seconds, client.send, frame)
        else:
            client.send(frame)
