"""The simulated deployment as a whole."""

from __future__ import annotations

import asyncio
from pathlib import Path

import aiohttp
import asyncpg
import pytest

from exporter.config.load import load_config
from exporter.demo import network
from exporter.demo import simulation as simulation_module
from exporter.demo.coderd import Role
from exporter.demo.relay import RelayFaults
from exporter.demo.scenarios.table import SCENARIOS
from exporter.demo.simulation import Pace, Simulation
from exporter.demo.stun import StunFaults
from exporter.targets.model import SessionToken
from exporter.targets.token_source import read_token
from tests.support.postgres import INSTALLATIONS, need_installation


@pytest.fixture
def need_postgres() -> None:
    """Skip where no PostgreSQL is installed."""
    need_installation(INSTALLATIONS[0])


async def list_proxies(simulation: Simulation, http: aiohttp.ClientSession) -> dict[str, str]:
    """Return what the API says of each proxy's status."""
    headers = {"Coder-Session-Token": simulation.coder.tokens[Role.MEMBER].reveal()}
    url = f"{simulation.coder.url}/api/v2/workspaceproxies"
    async with http.get(url, headers=headers, ssl=simulation.trust) as answer:
        regions = (await answer.json())["regions"]
    return {region["name"]: region["status"]["status"] for region in regions}


async def test_without_a_database_all_else_is_there(tmp_path: Path, http: aiohttp.ClientSession) -> None:
    """The server, two healthy proxies, and a configuration that loads and has no database."""
    async with Simulation(directory=tmp_path, database=False) as simulation:
        assert {"primary": "ok", "eu": "ok", "us": "ok"} == await list_proxies(simulation, http)
        config = await asyncio.to_thread(load_config, await simulation.write_config(), {})
        (deployment,) = config.deployments
        token = await read_token(SessionToken(token_file=deployment.session_token_file))
    assert ("demo", None) == (deployment.name, deployment.database)
    assert token == simulation.coder.tokens[Role.OWNER]


async def test_nothing_stays_behind(tmp_path: Path) -> None:
    """Files and ports are gone after the end."""
    async with Simulation(directory=tmp_path, database=False) as simulation:
        port = simulation.coder.port
        await simulation.apply(SCENARIOS["XWP04"])
        await simulation.apply(SCENARIOS["EACS01"])
    assert [] == await asyncio.to_thread(lambda: list(tmp_path.iterdir()))
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", port)


async def test_the_pace_is_the_exporters(tmp_path: Path) -> None:
    """Intervals, timeouts and settling stand in the configuration."""
    pace = Pace(interval_seconds=1.0, timeout_seconds=0.5, raise_after=3, clear_after=1)
    async with Simulation(directory=tmp_path, database=False) as simulation:
        config = await asyncio.to_thread(load_config, await simulation.write_config(pace=pace), {})
    section = config.deployments[0].websocket
    assert (1.0, 0.5) == (section.interval_seconds, section.timeout_seconds)
    assert (3, 1, 0.0) == (
        section.settle.raise_after,
        section.settle.clear_after,
        section.settle.startup_grace_seconds,
    )


async def test_a_scenario_is_played_once_at_a_time(tmp_path: Path) -> None:
    """Applying it twice is an error, reverting it twice is not."""
    async with Simulation(directory=tmp_path, database=False) as simulation:
        await simulation.apply(SCENARIOS["EWP04"])
        assert ("EWP04",) == simulation.playing
        with pytest.raises(RuntimeError, match="played already"):
            await simulation.apply(SCENARIOS["EWP04"])
        await simulation.revert(SCENARIOS["EWP04"])
        await simulation.revert(SCENARIOS["EWP04"])
        assert () == simulation.playing


async def test_what_needs_a_database_says_so(tmp_path: Path) -> None:
    """Without one such a scenario is refused with the reason."""
    async with Simulation(directory=tmp_path, database=False) as simulation:
        assert "it needs a database" in simulation.why_not(SCENARIOS["EDB02"])
        with pytest.raises(RuntimeError, match="needs a database"):
            await simulation.apply(SCENARIOS["EDB02"])


@pytest.mark.parametrize(("name", "broken"), [("EACS01", ""), ("EACS02", "https://[not-an-address")])
async def test_the_url_file_is_broken_and_mended(name: str, broken: str, tmp_path: Path) -> None:
    """The file holds what the scenario says, and the access URL afterwards."""
    async with Simulation(directory=tmp_path, database=False) as simulation:
        texts = []
        for step in (simulation.apply, simulation.revert):
            await step(SCENARIOS[name])
            texts.append(await asyncio.to_thread(simulation.url_file.read_text))
        assert [broken, simulation.coder.url + "\n"] == texts


async def test_the_primary_knows_its_proxies_states(tmp_path: Path, http: aiohttp.ClientSession) -> None:
    """A closed port, an error in the report and a missing registration show in the API."""
    async with Simulation(directory=tmp_path, database=False) as simulation:
        seen = {}
        for name in ("XWP02", "EWP04", "XWP01"):
            await simulation.apply(SCENARIOS[name])
            seen[name] = await list_proxies(simulation, http)
            await simulation.revert(SCENARIOS[name])
        assert {
            "XWP02": {"primary": "ok", "eu": "unreachable", "us": "unreachable"},
            "EWP04": {"primary": "ok", "eu": "unhealthy", "us": "ok"},
            "XWP01": {"primary": "ok", "eu": "ok", "us": "ok", "asia": "unregistered"},
        } == seen
        assert {"primary": "ok", "eu": "ok", "us": "ok"} == await list_proxies(simulation, http)


@pytest.mark.usefixtures("need_postgres")
class TestDatabase:
    """The database of the simulation, seen by the exporter's role."""

    async def test_the_tables_hold_the_proxies(self, tmp_path: Path) -> None:
        """Both proxies stand in the table with the URLs that they have."""
        async with Simulation(directory=tmp_path) as simulation:
            connection = await asyncpg.connect(simulation.database.exporter_url.reveal())
            rows = await connection.fetch("SELECT name, url FROM workspace_proxies ORDER BY name")
            await connection.close()
            expected = [(name, simulation.proxies[name].url) for name in ("eu", "us")]
        assert expected == [tuple(row) for row in rows]

    async def test_a_stopped_proxy_has_a_replica_with_an_end(self, tmp_path: Path) -> None:
        """Only its replica's row changes, and it is mended by a registration."""
        query = "SELECT hostname FROM replicas WHERE stopped_at IS NOT NULL"
        seen = []
        async with Simulation(directory=tmp_path) as simulation:
            connection = await asyncpg.connect(simulation.database.exporter_url.reveal())
            before = await connection.fetchval("SELECT updated_at FROM workspace_proxies WHERE name = 'eu'")
            for step in (simulation.apply, simulation.revert):
                await step(SCENARIOS["XWP03"])
                moved = before != await connection.fetchval(
                    "SELECT updated_at FROM workspace_proxies WHERE name = 'eu'"
                )
                seen.append(([row["hostname"] for row in await connection.fetch(query)], moved))
            await connection.close()
        assert [(["eu"], False), ([], True)] == seen

    async def test_the_role_is_locked_out_and_let_in_again(self, tmp_path: Path) -> None:
        """Its sessions end and its password is wrong, until the scenario is over."""
        async with Simulation(directory=tmp_path) as simulation:
            url = simulation.database.exporter_url.reveal()
            standing = await asyncpg.connect(url)
            await simulation.apply(SCENARIOS["XDB01"])
            # the library may have read the server's farewell already, or not
            with pytest.raises((asyncpg.PostgresConnectionError, asyncpg.InterfaceError)):
                await standing.fetchval("SELECT 1")
            assert standing.is_closed()
            with pytest.raises(asyncpg.InvalidPasswordError):
                await asyncpg.connect(url)
            await simulation.revert(SCENARIOS["XDB01"])
            connection = await asyncpg.connect(url)
            assert 1 == await connection.fetchval("SELECT 1")
            await connection.close()

    async def test_the_table_of_proxies_is_hidden(self, tmp_path: Path) -> None:
        """The role may not read it, until the scenario is over."""
        async with Simulation(directory=tmp_path) as simulation:
            connection = await asyncpg.connect(simulation.database.exporter_url.reveal())
            await simulation.apply(SCENARIOS["EWP01"])
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.fetchval("SELECT count(name) FROM workspace_proxies")
            await simulation.revert(SCENARIOS["EWP01"])
            assert 2 == await connection.fetchval("SELECT count(name) FROM workspace_proxies")
            await connection.close()

    async def test_a_standby_answers(self, tmp_path: Path) -> None:
        """New connections lead to a server in recovery, and to the primary afterwards."""
        recovering = []
        async with Simulation(directory=tmp_path) as simulation:
            for step in (simulation.apply, simulation.revert):
                await step(SCENARIOS["XDB02"])
                connection = await asyncpg.connect(simulation.database.exporter_url.reveal())
                recovering.append(await connection.fetchval("SELECT pg_is_in_recovery()"))
                await connection.close()
        assert [True, False] == recovering


async def test_the_map_has_everything_and_only_proxies_that_are_well(tmp_path: Path) -> None:
    """The relay of a proxy that is not well leaves the map, as in Coder, and comes back."""
    async with Simulation(directory=tmp_path, database=False) as simulation:
        seen = {}
        for name in ("EWP04", "XWP02", "XNET02"):
            await simulation.apply(SCENARIOS[name])
            seen[name] = [region.region_id for region in simulation.coder.derp_map().regions]
            await simulation.revert(SCENARIOS[name])
        stun = [1000 + number for number in range(len(simulation.network.stun))]
        assert {"EWP04": [1, 999, *stun, 10002], "XWP02": [1, 999, *stun], "XNET02": [1, 999, 10001, 10002]} == seen
        regions = simulation.coder.derp_map().regions
    assert [1, 999, *stun, 10001, 10002] == [region.region_id for region in regions]
    assert ["Demo Mesh", "Coder Embedded Relay", "Coder STUN 1000"] == [region.name for region in regions[:3]]
    assert [["1a", "1b", "1c"], ["999b"], ["1000stun0"]] == [
        [node.name for node in region.nodes] for region in regions[:3]
    ]
    assert [("eu", "coder_eu", "10001a"), ("us", "coder_us", "10002a")] == [
        (region.name, region.code, region.nodes[0].name) for region in regions[-2:]
    ]


async def test_faults_of_relays_and_stun_servers_are_taken_back(tmp_path: Path) -> None:
    """After every scenario all relays and STUN servers are as they were."""
    async with Simulation(directory=tmp_path, database=False) as simulation:
        for played in SCENARIOS.values():
            if not simulation.why_not(played):
                await simulation.apply(played)
                await simulation.revert(played)
        relays = ("coder", "eu", "us", "1a", "1b", "1c")
        assert [RelayFaults()] * 6 == [simulation.relay(name).relay.faults for name in relays]
        assert [] == [server for server in simulation.network.stun if server.faults != StunFaults()]
        assert [] == [name for name in relays if simulation.relay(name).broken]
        assert simulation.network.names_stun
        assert (False, False) == (simulation.coder.force_websockets, simulation.coder.direct_disabled)


async def test_settings_stand_in_the_configuration(tmp_path: Path) -> None:
    """What a scenario wants of the configuration is beside the rest of its section."""
    settings = SCENARIOS["XNET05"].settings
    async with Simulation(directory=tmp_path, database=False) as simulation:
        config = await asyncio.to_thread(load_config, await simulation.write_config(settings=settings), {})
    section = config.deployments[0].direct_connections
    assert (("lo*",), 2.0, 1.5) == (section.tunnel_interfaces, section.interval_seconds, section.timeout_seconds)


async def test_the_reference_address_stands_in_the_configuration(tmp_path: Path) -> None:
    """It is one of the simulation's own, and somebody takes connections there."""
    async with Simulation(directory=tmp_path, database=False) as simulation:
        config = await asyncio.to_thread(load_config, await simulation.write_config(), {})
        assert simulation.network.reference_address == config.reference
        _reader, writer = await asyncio.open_connection("127.0.0.1", simulation.network.reference.port)
        writer.transport.abort()


async def test_where_no_port_can_be_silent_the_scenario_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Systems on which this was never tried do not play it."""
    monkeypatch.setattr(simulation_module, "have_silent_ports", lambda: False)
    async with Simulation(directory=tmp_path, database=False) as simulation:
        assert "only tried on Linux" in simulation.why_not(SCENARIOS["XEXP01"])
        assert "" == simulation.why_not(SCENARIOS["EACS03"])


async def test_a_host_with_one_address_has_its_stun_servers_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then mappings cannot be compared, and the scenarios that need it say so."""
    monkeypatch.setattr(network, "have_several_addresses", lambda: False)
    monkeypatch.setattr(simulation_module, "have_several_addresses", lambda: False)
    async with Simulation(directory=tmp_path, database=False) as simulation:
        assert ["127.0.0.1"] * 3 == [server.address for server in simulation.network.stun[:3]]
        assert "this host has only the first" in simulation.why_not(SCENARIOS["XNET04"])
        assert "" == simulation.why_not(SCENARIOS["XNET03"])
