"""Ways to break the simulated deployment, each as an async context manager that mends it at its end.

Nothing here touches the exporter: what breaks is a server, a port, a certificate, a row, a role or
a file that somebody else would own.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from exporter.demo import answers, fault_proxy, faults
from exporter.demo.state import ORGANIZATION_ID, KeyFacts, Role

if TYPE_CHECKING:
    from exporter.demo.simulation import Simulation

# How long a roll-out stays at each step.
ROLL_OUT_STEP_SECONDS = 0.8

Breakage = Callable[["Simulation"], AbstractAsyncContextManager[None]]


def break_coder(make: Callable[[Simulation], faults.Fault], *, cut: bool = False) -> Breakage:
    """The Coder server plays a fault.

    Args:
        cut: Connections that stand are cut, so that sockets that were opened before meet it too.
    """

    @asynccontextmanager
    async def broken(simulation: Simulation) -> AsyncIterator[None]:
        fault = make(simulation)
        simulation.coder.break_with(fault)
        if cut:
            simulation.coder.cut_connections()
        try:
            yield
        finally:
            simulation.coder.heal(fault)

    return broken


def close_coder(*families: str) -> Breakage:
    """The port of the access URL is closed, of these address families or of all."""

    @asynccontextmanager
    async def broken(simulation: Simulation) -> AsyncIterator[None]:
        simulation.coder.refuse_connections(*families)
        try:
            yield
        finally:
            await simulation.coder.accept_connections(*families)

    return broken


def show_certificate(name: str) -> Breakage:
    """The access URL shows another of the simulation's certificates."""

    @asynccontextmanager
    async def broken(simulation: Simulation) -> AsyncIterator[None]:
        await simulation.coder.show_certificate(simulation.certificates[name])
        try:
            yield
        finally:
            await simulation.coder.show_certificate(simulation.certificates["good"])

    return broken


def write_access_url(text: str) -> Breakage:
    """The file that names the access URL holds this text."""

    @asynccontextmanager
    async def broken(simulation: Simulation) -> AsyncIterator[None]:
        await asyncio.to_thread(simulation.url_file.write_text, text)
        try:
            yield
        finally:
            await asyncio.to_thread(simulation.url_file.write_text, simulation.coder.url + "\n")

    return broken


def break_proxy(name: str, make: Callable[[], faults.Fault]) -> Breakage:
    """A workspace proxy plays a fault."""

    @asynccontextmanager
    async def broken(simulation: Simulation) -> AsyncIterator[None]:
        fault = make()
        simulation.proxies[name].break_with(fault)
        try:
            yield
        finally:
            simulation.proxies[name].heal(fault)

    return broken


def close_proxy(name: str) -> Breakage:
    """The port of a workspace proxy is closed, and the tables do not know why."""

    @asynccontextmanager
    async def broken(simulation: Simulation) -> AsyncIterator[None]:
        simulation.proxies[name].refuse_connections()
        try:
            yield
        finally:
            await simulation.proxies[name].accept_connections()
            await simulation.register(name)

    return broken


def stop_proxy(name: str) -> Breakage:
    """A workspace proxy is stopped in an orderly way: its replica's row gets its end."""

    @asynccontextmanager
    async def broken(simulation: Simulation) -> AsyncIterator[None]:
        simulation.proxies[name].refuse_connections()
        await simulation.mark_stopped(name)
        try:
            yield
        finally:
            await simulation.proxies[name].accept_connections()
            await simulation.register(name)

    return broken


def create_proxy(name: str) -> Breakage:
    """A workspace proxy is created that never registers."""

    @asynccontextmanager
    async def broken(simulation: Simulation) -> AsyncIterator[None]:
        await simulation.create_proxy(name)
        try:
            yield
        finally:
            await simulation.delete_proxy(name)

    return broken


def hide_proxy_list() -> Breakage:
    """The API fails at the list of proxies, and the exporter's role may not read their table."""

    @asynccontextmanager
    async def broken(simulation: Simulation) -> AsyncIterator[None]:
        fault = faults.Answer(
            path="/api/v2/workspaceproxies",
            status=500,
            body='{"message": "Internal server error.", "detail": "fetch workspace proxies: timeout"}',
            content_type="application/json",
        )
        if simulation.has_database:
            await simulation.database.hide_table("workspace_proxies")
        simulation.coder.break_with(fault)
        simulation.coder.state.proxies_failure = "fetch workspace proxies: timeout"
        simulation.cluster.forget_reports()
        try:
            yield
        finally:
            simulation.coder.state.proxies_failure = ""
            simulation.cluster.forget_reports()
            simulation.coder.heal(fault)
            if simulation.has_database:
                await simulation.database.restore_role()

    return broken


def break_line(fault: fault_proxy.Fault) -> Breakage:
    """The line to PostgreSQL has a fault, for connections that stand too."""

    @asynccontextmanager
    async def broken(simulation: Simulation) -> AsyncIterator[None]:
        line = simulation.database.line
        await line.break_with(fault)
        try:
            yield
        finally:
            await line.heal()

    return broken


def change_password() -> Breakage:
    """The exporter's role gets another password, and its sessions are ended."""

    @asynccontextmanager
    async def broken(simulation: Simulation) -> AsyncIterator[None]:
        await simulation.database.lock_out()
        try:
            yield
        finally:
            await simulation.database.restore_role()

    return broken


def use_standby() -> Breakage:
    """Connections lead to a standby instead of the primary."""

    @asynccontextmanager
    async def broken(simulation: Simulation) -> AsyncIterator[None]:
        simulation.database.lead_to_standby()
        try:
            yield
        finally:
            simulation.database.lead_to_primary()

    return broken


def change_relay(name: str, **faults: Any) -> Breakage:
    """A relay plays faults of `RelayFaults`: `coder`, a proxy, or a node of the mesh."""

    @asynccontextmanager
    async def broken(simulation: Simulation) -> AsyncIterator[None]:
        relay = simulation.relay(name).relay
        before = relay.faults
        relay.faults = replace(before, **faults)
        try:
            yield
        finally:
            relay.faults = before

    return broken


def close_relay(node: str) -> Breakage:
    """The port of a relay of the mesh is closed."""

    @asynccontextmanager
    async def broken(simulation: Simulation) -> AsyncIterator[None]:
        server = simulation.network.relays[node]
        server.refuse_connections()
        try:
            yield
        finally:
            await server.accept_connections()

    return broken


def show_relay_certificate(node: str, name: str) -> Breakage:
    """A relay of the mesh shows another of the simulation's certificates."""

    @asynccontextmanager
    async def broken(simulation: Simulation) -> AsyncIterator[None]:
        server = simulation.network.relays[node]
        await server.show_certificate(simulation.certificates[name])
        try:
            yield
        finally:
            await server.show_certificate(simulation.certificates["good"])

    return broken


def change_stun(*numbers: int, **faults: Any) -> Breakage:
    """STUN servers play faults of `StunFaults`: those of these numbers, or all."""

    @asynccontextmanager
    async def broken(simulation: Simulation) -> AsyncIterator[None]:
        servers = [simulation.network.stun[number] for number in numbers or range(len(simulation.network.stun))]
        before = [server.faults for server in servers]
        for server in servers:
            server.faults = replace(server.faults, **faults)
        try:
            yield
        finally:
            for server, usual in zip(servers, before, strict=True):
                server.faults = usual

    return broken


def leave_stun_out() -> Breakage:
    """The map names no STUN server."""

    @asynccontextmanager
    async def broken(simulation: Simulation) -> AsyncIterator[None]:
        simulation.network.names_stun = False
        try:
            yield
        finally:
            simulation.network.names_stun = True

    return broken


def disable_direct_connections() -> Breakage:
    """The deployment disables direct connections."""

    @asynccontextmanager
    async def broken(simulation: Simulation) -> AsyncIterator[None]:
        simulation.coder.direct_disabled = True
        try:
            yield
        finally:
            simulation.coder.direct_disabled = False

    return broken


def force_websockets() -> Breakage:
    """The deployment forces its clients to WebSocket."""

    @asynccontextmanager
    async def broken(simulation: Simulation) -> AsyncIterator[None]:
        simulation.coder.force_websockets = True
        try:
            yield
        finally:
            simulation.coder.force_websockets = False

    return broken


def break_everywhere(make: Callable[[], faults.Fault]) -> Breakage:
    """The front and every replica play a fault: it is Coder itself that has it."""

    @asynccontextmanager
    async def broken(simulation: Simulation) -> AsyncIterator[None]:
        fault = make()
        servers = (simulation.coder, *simulation.cluster.replicas.values())
        for server in servers:
            server.break_with(fault)
        try:
            yield
        finally:
            for server in servers:
                server.heal(fault)

    return broken


def break_lines(fault: fault_proxy.Fault) -> Breakage:
    """Every line to PostgreSQL has a fault, the exporter's and that of each replica."""

    @asynccontextmanager
    async def broken(simulation: Simulation) -> AsyncIterator[None]:
        async with _faulty((simulation.database.line, *_lines(simulation)), fault, simulation):
            yield

    return broken


def break_lines_of(*names: str, fault: fault_proxy.Fault) -> Breakage:
    """The lines of these replicas to PostgreSQL have a fault."""

    @asynccontextmanager
    async def broken(simulation: Simulation) -> AsyncIterator[None]:
        async with _faulty(_lines(simulation, *names), fault, simulation):
            yield

    return broken


def break_hairpins(fault: fault_proxy.Fault, *names: str) -> Breakage:
    """The way from these replicas to the access URL has a fault, or that of all."""

    @asynccontextmanager
    async def broken(simulation: Simulation) -> AsyncIterator[None]:
        async with _faulty(_hairpins(simulation, *names), fault, simulation):
            yield

    return broken


def lead_hairpins_past_front() -> Breakage:
    """The name of the access URL leads each replica to the first one's own port, past the front."""

    @asynccontextmanager
    async def broken(simulation: Simulation) -> AsyncIterator[None]:
        hairpins = _hairpins(simulation)
        first = next(iter(simulation.cluster.replicas.values()))
        for hairpin in hairpins:
            hairpin.retarget("127.0.0.1", first.port)
        simulation.cluster.forget_reports()
        try:
            yield
        finally:
            for hairpin in hairpins:
                hairpin.retarget("127.0.0.1", simulation.coder.port)
            simulation.cluster.forget_reports()

    return broken


def close_replica(name: str) -> Breakage:
    """The port of a replica is closed; it goes on beating in the table."""

    @asynccontextmanager
    async def broken(simulation: Simulation) -> AsyncIterator[None]:
        replica = simulation.cluster.replicas[name]
        replica.refuse_connections()
        try:
            yield
        finally:
            await replica.accept_connections()

    return broken


def change_daemon(name: str, **facts: Any) -> Breakage:
    """A provisioner daemon has other facts, as its row tells them."""

    @asynccontextmanager
    async def broken(simulation: Simulation) -> AsyncIterator[None]:
        cluster = simulation.cluster
        usual = {fact: getattr(cluster.daemons[name], fact) for fact in facts}
        await cluster.change_daemon(name, **facts)
        try:
            yield
        finally:
            await cluster.change_daemon(name, **usual)

    return broken


def silence_daemons(age_seconds: float = 180.0) -> Breakage:
    """No provisioner daemon has shown a sign of life for so long."""

    @asynccontextmanager
    async def broken(simulation: Simulation) -> AsyncIterator[None]:
        cluster = simulation.cluster
        cluster.held |= cluster.daemons.keys()
        for name in tuple(cluster.daemons):
            await cluster.change_daemon(name, last_seen_timestamp_seconds=simulation.now() - age_seconds)
        try:
            yield
        finally:
            cluster.held.clear()
            await cluster.beat()

    return broken


def hide_daemon_list() -> Breakage:
    """The API fails at the list of provisioner daemons, and the exporter's role may not read their table."""

    @asynccontextmanager
    async def broken(simulation: Simulation) -> AsyncIterator[None]:
        fault = faults.Answer(
            path=f"/api/v2/organizations/{ORGANIZATION_ID}/provisionerdaemons",
            status=500,
            body='{"message": "Internal error fetching provisioner daemons.", "detail": "timeout"}',
            content_type="application/json",
        )
        if simulation.has_database:
            await simulation.database.hide_table("provisioner_daemons")
        simulation.coder.break_with(fault)
        try:
            yield
        finally:
            simulation.coder.heal(fault)
            if simulation.has_database:
                await simulation.database.restore_role()

    return broken


def let_job_wait(tags: Mapping[str, str], age_seconds: float = 600.0) -> Breakage:
    """A workspace build waits for a provisioner daemon with these tags."""

    @asynccontextmanager
    async def broken(simulation: Simulation) -> AsyncIterator[None]:
        job_id = await simulation.database.add_waiting_job(tags=tags, age_seconds=age_seconds)
        try:
            yield
        finally:
            await simulation.database.delete_job(job_id)

    return broken


def revoke_token() -> Breakage:
    """The owner's token is revoked."""

    @asynccontextmanager
    async def broken(simulation: Simulation) -> AsyncIterator[None]:
        simulation.coder.state.accepted.discard(Role.OWNER)
        try:
            yield
        finally:
            simulation.coder.state.accepted.add(Role.OWNER)

    return broken


def change_token(role: Role) -> Breakage:
    """The exporter's file holds the token of another role."""

    @asynccontextmanager
    async def broken(simulation: Simulation) -> AsyncIterator[None]:
        await simulation.give_token(role)
        try:
            yield
        finally:
            await simulation.give_token(Role.OWNER)

    return broken


def let_token_end(in_seconds: float) -> Breakage:
    """The owner's token ends so soon, and its use has not moved that for a day."""

    @asynccontextmanager
    async def broken(simulation: Simulation) -> AsyncIterator[None]:
        keys = simulation.coder.state.keys
        lifetime_seconds = 7 * 86400.0
        ends = simulation.now() + in_seconds
        keys[Role.OWNER] = KeyFacts(
            created_timestamp_seconds=ends - lifetime_seconds,
            expires_timestamp_seconds=ends,
            lifetime_seconds=lifetime_seconds,
        )
        try:
            yield
        finally:
            del keys[Role.OWNER]

    return broken


def serve_old_report(name: str, *, age_seconds: float) -> Breakage:
    """A replica answers with a report that is so old."""

    @asynccontextmanager
    async def broken(simulation: Simulation) -> AsyncIterator[None]:
        replica = simulation.cluster.replicas[name]
        old = answers.write_time(simulation.now() - age_seconds)
        replica.frozen = await replica.report() | {"time": old}
        try:
            yield
        finally:
            replica.frozen = None

    return broken


def crash_check(section: str) -> Breakage:
    """The check of a section crashes in every replica's report."""

    @asynccontextmanager
    async def broken(simulation: Simulation) -> AsyncIterator[None]:
        replicas = simulation.cluster.replicas.values()
        for replica in replicas:
            replica.panicking.add(section)
        simulation.cluster.forget_reports()
        try:
            yield
        finally:
            for replica in replicas:
                replica.panicking.discard(section)
            simulation.cluster.forget_reports()

    return broken


def never_report() -> Breakage:
    """Every request of the report gets 503: the run is not over yet."""
    return break_everywhere(
        lambda: faults.Answer(
            path="/api/v2/debug/health",
            status=503,
            body=json.dumps(answers.recorded("report-in-progress")),
            content_type="application/json",
        )
    )


def fail_daemon_check(words: str) -> Breakage:
    """Coder cannot read its provisioner daemons for its report."""

    @asynccontextmanager
    async def broken(simulation: Simulation) -> AsyncIterator[None]:
        simulation.coder.state.daemons_failure = words
        simulation.cluster.forget_reports()
        try:
            yield
        finally:
            simulation.coder.state.daemons_failure = ""
            simulation.cluster.forget_reports()

    return broken


def mute(*names: str) -> Breakage:
    """These sections are muted in Coder, by the names of its settings."""

    @asynccontextmanager
    async def broken(simulation: Simulation) -> AsyncIterator[None]:
        state = simulation.coder.state
        before, state.dismissed = state.dismissed, names
        simulation.cluster.forget_reports()
        try:
            yield
        finally:
            state.dismissed = before
            simulation.cluster.forget_reports()

    return broken


def roll_out_stuck(name: str, *, version: str) -> Breakage:
    """One replica has another version than the rest."""

    @asynccontextmanager
    async def broken(simulation: Simulation) -> AsyncIterator[None]:
        usual = simulation.cluster.replicas[name].version
        await simulation.cluster.change_version(name, version)
        try:
            yield
        finally:
            await simulation.cluster.change_version(name, usual)

    return broken


def roll_out(version: str) -> Breakage:
    """A version is rolled out step by step, in the background."""

    @asynccontextmanager
    async def broken(simulation: Simulation) -> AsyncIterator[None]:
        usual = simulation.coder.version
        rolling = simulation.tell(_roll_out(simulation, version))
        try:
            yield
        finally:
            rolling.cancel()
            await asyncio.wait({rolling})
            async for _ in _change_versions(simulation, usual):
                pass

    return broken


async def _roll_out(simulation: Simulation, version: str) -> None:
    async for _ in _change_versions(simulation, version):
        await asyncio.sleep(ROLL_OUT_STEP_SECONDS)


async def _change_versions(simulation: Simulation, version: str) -> AsyncIterator[None]:
    cluster = simulation.cluster
    for name in cluster.replicas:
        await cluster.change_version(name, version)
        yield
    for name, proxy in simulation.proxies.items():
        proxy.version = version
        await simulation.register(name)
    yield
    for name in tuple(cluster.daemons):
        await cluster.change_daemon(name, version=version)
    cluster.forget_reports()
    yield


def _lines(simulation: Simulation, *names: str) -> tuple[fault_proxy.FaultProxy, ...]:
    replicas = simulation.cluster.replicas
    databases = (replicas[name].database for name in names or replicas)
    return tuple(database.line for database in databases if database is not None)


def _hairpins(simulation: Simulation, *names: str) -> tuple[fault_proxy.FaultProxy, ...]:
    replicas = simulation.cluster.replicas
    return tuple(replicas[name].inside.hairpin for name in names or replicas)


@asynccontextmanager
async def _faulty(
    lines: Sequence[fault_proxy.FaultProxy], fault: fault_proxy.Fault, simulation: Simulation
) -> AsyncIterator[None]:
    for line in lines:
        await line.break_with(fault)
    simulation.cluster.forget_reports()
    try:
        yield
    finally:
        for line in lines:
            await line.heal()
        simulation.cluster.forget_reports()
