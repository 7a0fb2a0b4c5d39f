"""The relays of one deployment: the map becomes targets, their latest results become one judgement."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from pathlib import Path

from exporter.clock import SystemClock
from exporter.health.codes import section_codes
from exporter.health.model import Report, Section
from exporter.health.settle import Policy
from exporter.health.workspace_proxy import ListedProxy
from exporter.relays import Relays
from exporter.snapshot import Snapshot, TargetHealth
from exporter.targets.model import (
    AccessURL,
    DerpMapSource,
    DerpMeshTarget,
    DerpTarget,
    Replica,
    SectionKey,
    TargetKey,
)
from tests.support.relay_results import node, stun, stun_attempt, transport

KEY = SectionKey(deployment="prod", section=Section.DERP)


def make_map(*region_ids: int, host: str = "coder.example.com") -> str:
    """A relay and a STUN server in each region."""
    return json.dumps(
        {
            "Regions": {
                str(region_id): {
                    "RegionID": region_id,
                    "RegionCode": f"r{region_id}",
                    "RegionName": f"Region {region_id}",
                    "Nodes": [
                        {"Name": f"{region_id}a", "RegionID": region_id, "HostName": host, "STUNPort": -1},
                        {"Name": f"{region_id}s", "RegionID": region_id, "IPv4": "192.0.2.1", "STUNOnly": True},
                    ],
                }
                for region_id in region_ids
            }
        }
    )


class World:
    """A deployment whose map is a file, and how often its targets were told to have changed."""

    def __init__(self, folder: Path, *, url: str = "https://coder.example.com", enabled: bool = True) -> None:
        self.file = folder / "map.json"
        self.url_file = folder / "url"
        self.url_file.write_text(url)
        self.told = 0
        self.snapshot = Snapshot()
        self.snapshot.declare(KEY, section_codes(Section.DERP), Policy())
        access_url = AccessURL(url_file=self.url_file)
        times = {"interval_seconds": 60.0, "timeout_seconds": 10.0}
        self.relays = Relays(
            DerpMapSource(deployment="prod", access_url=access_url, map_file=self.file, **times),
            DerpTarget(deployment="prod", section=Section.DERP, access_url=access_url, **times),
            enabled=enabled,
            clock=SystemClock(),
            on_targets=self._tell,
        )
        self._run = 0

    def _tell(self) -> None:
        self.told += 1

    async def read(self, derp_map: str) -> None:
        await asyncio.to_thread(self.file.write_text, derp_map)
        await self.relays.watch.refresh()
        await self.relays.replan()

    def names(self) -> list[str]:
        return sorted(target.schedule_name for target in self.relays.targets)

    def commit(self, schedule_name: str, results: dict[str, object]) -> None:
        self._run += 1
        healths = [
            TargetHealth(
                key=TargetKey(section_key=KEY, name=name),
                run=self._run,
                interval_seconds=60.0,
                started_timestamp_seconds=0.0,
                duration_seconds=0.0,
                result=result,
                report=Report(section=Section.DERP),
            )
            for name, result in results.items()
        ]
        self.snapshot.commit(schedule_name, healths, now=0.0, elapsed_seconds=0.0)


def proxy(name: str, url: str, **facts: object) -> ListedProxy:
    return ListedProxy(id=name, name=name, url=url, **facts)  # type: ignore[arg-type]


def skipped(world: World) -> Iterable[tuple[str, str]]:
    return [(each.node, each.reason) for each in world.relays.gather(world.snapshot).skipped]


async def test_a_map_becomes_targets_and_a_change_is_told_once(tmp_path: Path) -> None:
    """Regions that come and go are told; a map that is the same is not."""
    world = World(tmp_path)
    await world.read(make_map(1))
    assert ["prod/derp/1/1a/relay", "prod/derp/1/1s/stun"] == world.names()
    assert 1 == world.told
    await world.read(make_map(1))
    assert 1 == world.told
    await world.read(make_map(2))
    assert ["prod/derp/2/2a/relay", "prod/derp/2/2s/stun"] == world.names()
    assert 2 == world.told


async def test_a_section_that_is_off_schedules_nothing_but_plans(tmp_path: Path) -> None:
    """Direct connections need the map's servers also when the relays are not probed."""
    world = World(tmp_path, enabled=False)
    await world.read(make_map(1))
    assert () == world.relays.targets
    assert world.relays.plan is not None
    assert ["1s"] == [target.name.node for target in world.relays.plan.stun]
    assert 0 == world.told


async def test_relays_of_workspace_proxies_are_probed_once_those_are_known(tmp_path: Path) -> None:
    """A relay elsewhere is skipped; as a proxy's that exists, runs and has DERP it is not."""
    world = World(tmp_path)
    await world.read(make_map(1, host="eu.example.com"))
    assert [("1a", "host_not_allowed")] == skipped(world)
    for refused in ({"stopped": True}, {"derp_enabled": False}):
        world.relays.set_proxies([proxy("eu", "https://eu.example.com", **refused)])
        await world.relays.replan()
        assert [("1a", "host_not_allowed")] == skipped(world)
    world.relays.set_proxies([proxy("eu", "https://eu.example.com"), proxy("new", ""), proxy("odd", "nonsense")])
    await world.relays.replan()
    assert [] == skipped(world)
    assert "prod/derp/1/1a/relay" in world.names()


async def test_an_access_url_that_cannot_be_read_for_a_while_drops_no_relay(tmp_path: Path) -> None:
    """The last good one goes on to tell which relays are Coder's; none at all allows none."""
    world = World(tmp_path)
    await world.read(make_map(1))
    before = world.names()
    for text in ("", "https://[nonsense"):
        await asyncio.to_thread(world.url_file.write_text, text)
        await world.relays.replan()
        assert before == world.names()
    await asyncio.to_thread(world.url_file.unlink)
    await world.relays.replan()
    assert before == world.names()
    other = World(tmp_path, url="")
    await other.read(make_map(1))
    assert ["prod/derp/1/1s/stun"] == other.names()


async def test_results_are_gathered_by_region_and_what_is_missing_is_pending(tmp_path: Path) -> None:
    """A relay counts once both transports have a result, a STUN server once it has one."""
    world = World(tmp_path)
    await world.read(make_map(1))
    result = world.relays.gather(world.snapshot)
    (region,) = result.regions
    assert ((), ("1a",), ("1/1s",)) == (region.relays, region.pending, result.stun_pending)
    name = node("1a")
    world.commit("a", {"1/1a/derp": transport(name=name)})
    assert ("1a",) == world.relays.gather(world.snapshot).regions[0].pending
    world.commit("a", {"1/1a/derp": transport(name=name), "1/1a/websocket": transport(name=name, kind="websocket")})
    world.commit("s", {"1/1s/stun": stun(stun_attempt(0.1), name="1s")})
    result = world.relays.gather(world.snapshot)
    (region,) = result.regions
    assert ((), ()) == (region.pending, result.stun_pending)
    assert ["derp", "websocket"] == [each.transport for each in region.relays[0].transports]
    assert ["1s"] == [each.node for each in region.stun]
    assert 2 == region.node_count


async def test_a_map_that_cannot_be_read_is_a_failure_and_the_earlier_one_stays(tmp_path: Path) -> None:
    """What was known goes on being probed; the failure is for the section to judge."""
    world = World(tmp_path)
    await world.read(make_map(1))
    before = world.names()
    await world.read("no map")
    result = world.relays.gather(world.snapshot)
    assert result.map_failure is not None
    assert "file" == result.source
    assert before == world.names()
    assert 1 == len(result.regions)


async def test_a_silent_stun_server_knows_whether_another_one_answers(tmp_path: Path) -> None:
    """One server alone has no others; its own answer before does not count."""
    world = World(tmp_path)
    await world.read(make_map(1, 2))
    silent = stun(stun_attempt(None), name="1s")
    assert not world.relays.see_others(stun(stun_attempt(0.1), name="1s")).others_answer
    assert not world.relays.see_others(silent).others_answer
    world.relays.see_others(stun(stun_attempt(0.1), name="2s", region_id=2))
    assert world.relays.see_others(silent).others_answer
    await world.read(make_map(1))
    assert not world.relays.see_others(silent).others_answer


async def test_serving_plans_anew_when_the_map_or_the_proxies_change(tmp_path: Path) -> None:
    """Nobody has to ask: what changes is taken up at once."""
    world = World(tmp_path)
    await asyncio.to_thread(world.file.write_text, make_map(1, host="eu.example.com"))
    changed = asyncio.Event()
    world.relays._on_targets = changed.set
    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        serving = group.create_task(world.relays.serve())
        await changed.wait()
        assert ["prod/derp/1/1s/stun"] == world.names()
        changed.clear()
        world.relays.set_proxies([proxy("eu", "https://eu.example.com")])
        await changed.wait()
        assert ["prod/derp/1/1a/relay", "prod/derp/1/1s/stun"] == world.names()
        serving.cancel()


async def test_replicas_that_are_found_form_the_mesh(tmp_path: Path) -> None:
    """Those of now, in the region of coderd's own relay; the same ones again change nothing."""
    world = World(tmp_path)
    derp_map = json.loads(make_map(1))
    derp_map["Regions"]["1"]["EmbeddedRelay"] = True
    await world.read(json.dumps(derp_map))
    assert "prod/derp/1/mesh" not in world.names()
    replicas = [Replica(name=f"coderd-{index}", url=f"http://10.0.0.{index}:8080") for index in range(3)]
    world.relays.set_replicas(replicas)
    await world.relays.replan()
    (mesh,) = (target for target in world.relays.targets if isinstance(target, DerpMeshTarget))
    assert ["coderd-0", "coderd-1", "coderd-2"] == [node.name for node in mesh.nodes]
    told = world.told
    world.relays.set_replicas(list(replicas))
    await world.relays.replan()
    assert told == world.told
    world.relays.set_replicas(replicas[:1])
    await world.relays.replan()
    assert "prod/derp/1/mesh" not in world.names()
