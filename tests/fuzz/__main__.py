"""Feed a parser bytes that a coverage-guided fuzzer (atheris) makes up: any bytes give a value or a
WireError, everything else is a crash.

    python -m tests.fuzz derp-map -runs=100000          # options are libFuzzer's
    python -m tests.fuzz --list

The corpus begins with what real servers sent (tests/data), where there is some.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["exporter"]):
    from exporter.errors import WireError
    from exporter.net import coder_account, coder_json, coder_report
    from exporter.wire import derp_frames, derp_handshake, derp_map, json_slices, stun, url

_HEX = re.compile(r"(?:[0-9a-f]{2}){20,}")
_DATA = Path(__file__).parents[1] / "data"
# the vectors' keys (derp-stun, section 9.1): so that captured boxes open
_SERVER = derp_handshake.KeyPair.from_private(
    bytes.fromhex("000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e5f")
)
_CLIENT = derp_handshake.KeyPair.from_private(
    bytes.fromhex("202122232425262728292a2b2c2d2e2f303132333435363738393a3b3c3d3e7f")
)
_INFO_PARSERS = {
    derp_frames.FrameType.RECV_PACKET: derp_frames.parse_packet,
    derp_frames.FrameType.PEER_GONE: derp_frames.parse_peer_gone,
    derp_frames.FrameType.PEER_PRESENT: derp_frames.parse_peer_present,
    derp_frames.FrameType.PING: derp_frames.parse_ping,
    derp_frames.FrameType.PONG: derp_frames.parse_ping,
    derp_frames.FrameType.HEALTH: derp_frames.parse_health,
    derp_frames.FrameType.RESTARTING: derp_frames.parse_restarting,
}


def _read_frames(data: bytes, limits: derp_frames.FrameLimits) -> Iterator[tuple[int, bytes]]:
    """The first byte says how large the pieces are in which the rest arrives."""
    reader = derp_frames.FrameReader(limits)
    size = max(1, data[0]) if data else 1
    for start in range(1, len(data), size):
        yield from reader.read(data[start : start + size])


def from_relay(data: bytes) -> None:
    login = derp_handshake.ClientLogin(_CLIENT)
    for kind, payload in _read_frames(data, derp_frames.FROM_SERVER):
        if kind == derp_frames.FrameType.SERVER_KEY:
            login.answer(payload)
        elif kind == derp_frames.FrameType.SERVER_INFO and not login.complete:
            login.finish(payload)
        elif kind in _INFO_PARSERS:
            with contextlib.suppress(derp_frames.ShortFrameError):
                _INFO_PARSERS[derp_frames.FrameType(kind)](payload)


def from_client(data: bytes) -> None:
    for kind, payload in _read_frames(data, derp_frames.FROM_CLIENT):
        if kind == derp_frames.FrameType.CLIENT_INFO:
            derp_handshake.open_client_info(payload, _SERVER)
        elif kind == derp_frames.FrameType.SEND_PACKET:
            derp_frames.parse_packet(payload)
        elif kind == derp_frames.FrameType.FORWARD_PACKET:
            derp_frames.parse_forward_packet(payload)


def login_content(data: bytes) -> None:
    """What is in a box that opens."""
    box_key = derp_handshake.compute_box_key(_SERVER.public_key, _CLIENT.private_key)
    sealed = derp_handshake.seal(data, box_key, nonce=bytes(24))
    derp_handshake.open_client_info(_CLIENT.public_key + sealed, _SERVER)


def url_text(data: bytes) -> None:
    url.parse_origin(data.decode("utf-8", "replace"))


def health_report(data: bytes) -> None:
    for _ in coder_report.read_report(data):
        pass


def short_slices(data: bytes) -> None:
    """The first byte says how short the slices are, so that a short text is walked, not decoded whole."""
    size = 8 + (data[0] if data else 0)
    for _ in json_slices.read_slices(data[1:], leave_out=frozenset({"client_logs"}), slice_bytes=size):
        pass


def account(data: bytes) -> None:
    for parse in (
        coder_account.parse_dismissed,
        coder_account.parse_settings,
        coder_account.parse_api_key,
        coder_account.parse_replicas,
    ):
        with contextlib.suppress(WireError):
            parse(data)


HARNESSES: dict[str, Callable[[bytes], object]] = {
    "stun-response": stun.parse_binding_response,
    "stun-request": stun.parse_binding_request,
    "stun-request-lax": lambda data: stun.parse_binding_request(data, strict=False),
    "derp-from-relay": from_relay,
    "derp-from-client": from_client,
    "derp-login-content": login_content,
    "derp-map": derp_map.parse_derp_map,
    "connection-info": derp_map.parse_connection_info,
    "url": url_text,
    "workspace-proxies": coder_json.parse_workspace_proxies,
    "proxy-report": coder_json.parse_proxy_report,
    "error-body": coder_json.parse_error,
    "health-report": health_report,
    "json-slices": short_slices,
    "account": account,
}


_JSON_HARNESSES = frozenset(
    {
        "account",
        "connection-info",
        "derp-map",
        "error-body",
        "health-report",
        "json-slices",
        "proxy-report",
        "workspace-proxies",
    }
)


def _seeds(name: str) -> Iterator[bytes]:
    """What real servers sent, where this parser would have got it."""
    if name.startswith("stun"):
        for path in sorted((_DATA / "derp").glob("stun-*.hex")):
            for word in path.read_text().split():
                if _HEX.fullmatch(word):
                    yield bytes.fromhex(word)
    elif name.startswith("derp-from"):
        wanted = "S>C" if name == "derp-from-relay" else "C>S"
        for path in sorted((_DATA / "derp").glob("*.hex")):
            pieces = [line.split() for line in path.read_text().splitlines() if line and not line.startswith("#")]
            flows: dict[str, bytes] = {}
            for piece in pieces:
                if len(piece) == 3 and piece[1] == wanted:
                    flows[piece[0]] = flows.get(piece[0], b"") + bytes.fromhex(piece[2])
            yield from (b"\xff" + flow for flow in flows.values() if len(flow) < 8192)
    elif name in _JSON_HARNESSES:
        for path in sorted((_DATA / "coder").glob("*.json")):
            if path.stat().st_size < 65536:
                yield path.read_bytes()


def main() -> None:
    if sys.argv[1:2] == ["--list"]:
        print("\n".join(HARNESSES))
        return
    name = sys.argv.pop(1) if len(sys.argv) > 1 else ""
    if name not in HARNESSES:
        sys.exit(
            f"usage: python -m tests.fuzz HARNESS [options of libFuzzer]; HARNESS is one of {', '.join(HARNESSES)}"
        )
    parse = HARNESSES[name]

    def one_input(data: bytes) -> None:
        with contextlib.suppress(WireError):
            parse(data)

    with tempfile.TemporaryDirectory() as folder:
        for number, seed in enumerate(_seeds(name)):
            (Path(folder) / f"seed-{number}").write_bytes(seed)
        # the fuzzer ends its process without a word to Python, and the folder must go
        child = os.fork()
        if child == 0:
            atheris.Setup([sys.argv[0], *sys.argv[1:], folder], one_input)
            atheris.Fuzz()
        _, status = os.waitpid(child, 0)
    sys.exit(os.waitstatus_to_exitcode(status))


if __name__ == "__main__":
    main()
