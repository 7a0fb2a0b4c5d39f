"""The whole exporter on a host that loses its default route."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable

import pytest

from tests.support.router import LOSE_ROUTE, RESTORE_ROUTE, SERVER_URL, run_behind_a_router

_SCRIPT = f"""
import asyncio, io, json, subprocess, tempfile
from pathlib import Path
from exporter import log
from exporter.app import running
from exporter.config.load import load_config

CONFIG = '''
global: {{interval: 1s, timeout: 500ms, settle: {{startup_grace: 0s}}}}
deployments:
  - name: prod
    url: {SERVER_URL}
    sections:
      access_url: {{timeout: 500ms}}
      websocket: {{enabled: false}}
      derp: {{enabled: false}}
      direct_connections: {{enabled: false}}
      workspace_proxy: {{enabled: false}}
'''

async def main():
    log.configure("error", "logfmt", io.StringIO())
    path = Path(tempfile.mkdtemp()) / "config.yaml"
    path.write_text(CONFIG)
    changes, changed = [], asyncio.Event()
    def note(change):
        changes.append([change.code, change.active])
        changed.set()
    async with running(load_config(path, {{}}), on_change=note) as application:
        async def see(runs):
            def latest():
                return [e.health.run for key, e in application.snapshot.entries.items() if key.section_key.deployment]
            for _ in range(runs):
                before = latest()
                while latest() == before:
                    await asyncio.sleep(0.02)
        async def switch(command):
            changed.clear()
            subprocess.run(command.split(), check=True)
            await changed.wait()
            await see(3)
        await see(2)
        await switch("{LOSE_ROUTE}")
        await switch("{RESTORE_ROUTE}")
    print(json.dumps(changes))
asyncio.run(main())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="network namespaces are Linux's")
async def test_only_the_cut_off_settles(need_tool: Callable[[str], str]) -> None:
    """While the route is gone the only deployment fails run after run: XEXP01 is all that becomes active,
    and it is over once the route is back."""
    changes = json.loads(await run_behind_a_router(_SCRIPT, need_tool))
    assert [["XEXP01", True], ["XEXP01", False]] == changes
