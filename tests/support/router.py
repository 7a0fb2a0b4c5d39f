"""A network of our own: this host, and a router that is a server, to which only a default route leads."""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from tests.conftest import skip_or_fail

# Where /healthz answers with OK behind the router.
SERVER_URL = "http://203.0.113.9:8080"
LOSE_ROUTE = "ip route del default"
RESTORE_ROUTE = "ip route add default via 192.0.2.254"

_BUILD = """
set -e
unshare --net sleep 60 & router=$!
while [ "$(readlink /proc/self/ns/net)" = "$(readlink /proc/$router/ns/net)" ]; do sleep 0.01; done
on_router() { nsenter --target $router --net "$@"; }
ip link set lo up
on_router ip link set lo up
ip link add near type veth peer name far netns $router
ip address add 192.0.2.1/24 dev near
ip link set near up
on_router ip address add 192.0.2.254/24 dev far
on_router ip link set far up
on_router ip address add 203.0.113.9/32 dev lo
ip route add default via 192.0.2.254
mkfifo "$DIRECTORY/ready"
on_router "$PYTHON" -c "$SERVE" > "$DIRECTORY/ready" &
read -r _ < "$DIRECTORY/ready"
ROUTER=$router "$PYTHON" -c "$LOOK"
"""
_SERVE = """
import asyncio
async def answer(reader, writer):
    await reader.readuntil(b"\\r\\n\\r\\n")
    writer.write(b"HTTP/1.1 200 OK\\r\\nX-Coder-Build-Version: v2.30.0\\r\\nContent-Length: 2\\r\\n\\r\\nOK")
    await writer.drain()
    writer.close()
async def main():
    server = await asyncio.start_server(answer, "203.0.113.9", 8080)
    print("ready", flush=True)
    await server.serve_forever()
asyncio.run(main())
"""


async def run_behind_a_router(script: str, need_tool: Callable[[str], str]) -> bytes:
    """Run a Python script there, and return what it printed; skip the test where no network can be made."""
    unshare, ip = need_tool("unshare"), need_tool("ip")
    # the first process of a process namespace takes all others with it when it ends
    namespaces = ("--map-root-user", "--net", "--pid", "--fork", "--kill-child", "--mount-proc")
    with tempfile.TemporaryDirectory() as directory:
        process = await asyncio.create_subprocess_exec(
            *(unshare, *namespaces, "sh", "-c", _BUILD),
            env=os.environ
            | {
                "SERVE": _SERVE,
                "LOOK": script,
                "PYTHON": sys.executable,
                "DIRECTORY": directory,
                "PATH": f"{Path(ip).parent}:{os.environ['PATH']}",
            },
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            async with asyncio.timeout(60):
                stdout, stderr = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
    if not stdout:
        assert b"Traceback" not in stderr, stderr.decode(errors="replace")
        skip_or_fail(f"no network namespace to be had here: {stderr.decode(errors='replace').strip()[-200:]}")
    return stdout
