"""Tailscale's own DERP relay, with its STUN server, on loopback: `async with run_derper(tool) as relay`."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from exporter.wire.url import Origin
from tests.support.certificates import Authority
from tests.support.ports import free_port

PATIENCE_SECONDS = 20.0
_STUN_LINE = re.compile(r"STUN server listening on .*:(\d+)$")


class Derper:
    """A relay that runs. `stun_port` is None without STUN; `log` has its lines so far."""

    def __init__(self, *, port: int, process: asyncio.subprocess.Process, tls: bool, hostname: str) -> None:
        self.port = port
        self.process = process
        self.stun_port: int | None = None
        self.log: list[str] = []
        self.origin = Origin(scheme="https" if tls else "http", host=hostname, port=port)

    async def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Send a signal that ends it, and wait for the end. SIGKILL ends a paused one too."""
        with suppress(ProcessLookupError):
            self.process.send_signal(number)
        async with asyncio.timeout(PATIENCE_SECONDS):
            await self.process.wait()

    async def pause(self) -> None:
        """Stop it without closing anything: the kernel goes on to accept connections."""
        self.process.send_signal(signal.SIGSTOP)
        # all of its threads take a moment to stop; the event is left to whoever waits for its end
        await asyncio.to_thread(os.waitid, os.P_PID, self.process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def resume(self) -> None:
        self.process.send_signal(signal.SIGCONT)


@asynccontextmanager
async def run_derper(
    tool: str,
    *,
    tls: Authority | None = None,
    stun: bool = True,
    hostname: str = "localhost",
    private_key: bytes | None = None,
    mesh_key: str | None = None,
    arguments: Sequence[str] = (),
) -> AsyncIterator[Derper]:
    """Run a relay on 127.0.0.1 until the context ends.

    Args:
        tool: Path of the program, from `need_tool("derper")`.
        tls: Who signs its certificate; None is plain HTTP.
        hostname: The name in its certificate and in `Derper.origin`.
        private_key: Its DERP key; None lets it make one.
        mesh_key: 64 hex digits that admit clients as mesh peers.
        arguments: More flags.
    """
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        if private_key is not None:
            (directory / "derper.json").write_text(json.dumps({"PrivateKey": f"privkey:{private_key.hex()}"}))
        flags = ["-http-port", "-1", "-hostname", hostname, *arguments]
        if tls is not None:
            tls.write_server_files(directory / f"{hostname}.crt", hostname)
            (directory / f"{hostname}.key").write_bytes((directory / f"{hostname}.crt").read_bytes())
            flags += ["-certmode", "manual", "-certdir", name]
        if mesh_key is not None:
            (directory / "mesh").write_text(mesh_key)
            flags += ["-mesh-psk-file", str(directory / "mesh")]
        flags += ["-stun-port", "0"] if stun else ["-stun=false"]
        relay, draining = await _start(tool, directory, flags, tls=tls is not None, hostname=hostname, stun=stun)
        try:
            yield relay
        finally:
            await relay.stop(signal.SIGKILL)
            await draining


async def _start(
    tool: str, directory: Path, flags: Sequence[str], *, tls: bool, hostname: str, stun: bool
) -> tuple[Derper, asyncio.Task[None]]:
    """Start it on a free port; another one when somebody else was quicker."""
    for _ in range(5):
        port = free_port()
        process = await asyncio.create_subprocess_exec(
            tool,
            *("-c", str(directory / "derper.json"), "-a", f"127.0.0.1:{port}", *flags),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        relay = Derper(port=port, process=process, tls=tls, hostname=hostname)
        draining = asyncio.get_running_loop().create_task(_drain(relay))
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                if await _wait_until_up(relay, stun=stun):
                    return relay, draining
        except BaseException:
            await relay.stop(signal.SIGKILL)
            await draining
            raise
        await draining
        if not any("address already in use" in line for line in relay.log):
            break
    raise RuntimeError("derper did not start:\n" + "\n".join(relay.log))


async def _drain(relay: Derper) -> None:
    assert relay.process.stderr is not None
    async for line in relay.process.stderr:
        text = line.decode(errors="replace").rstrip()
        relay.log.append(text)
        if match := _STUN_LINE.search(text):
            relay.stun_port = int(match[1])


async def _wait_until_up(relay: Derper, *, stun: bool) -> bool:
    """Tell whether it came up; False when it ended instead."""
    while relay.process.returncode is None:
        with suppress(OSError):
            _, writer = await asyncio.open_connection("127.0.0.1", relay.port)
            writer.close()
            if relay.stun_port is not None or not stun:
                return True
        await asyncio.sleep(0.01)
    return False
