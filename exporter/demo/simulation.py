"""The simulated deployment: an access URL with TLS, three replicas of coderd behind it, provisioner
daemons, two workspace proxies, relays, STUN servers, and a PostgreSQL server behind faulty lines; all on
loopback, all in this process or below it.

Out: an ordinary configuration file for the exporter, and scenarios that can be played and taken
back at any time. When it is left, nothing of it stays behind.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Collection, Coroutine, Iterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Self

import yaml

from exporter.clock import Clock, SystemClock
from exporter.demo import answers
from exporter.demo.certificates import Authority
from exporter.demo.cluster import Cluster
from exporter.demo.coderd import EMBEDDED_REGION_ID, SimulatedCoder
from exporter.demo.database import ProxyRow, SimulatedDatabase, why_no_database
from exporter.demo.inside import Surroundings
from exporter.demo.listener import have_ipv6_loopback, have_silent_ports
from exporter.demo.network import Network, have_several_addresses, proxy_region
from exporter.demo.proxies import SimulatedProxy
from exporter.demo.relay import SimulatedRelay
from exporter.demo.scenario import SECTIONS, Scenario, Settings
from exporter.demo.server import SimulatedServer
from exporter.demo.state import Role
from exporter.health.model import Section
from exporter.wire.derp_map import DerpRegion

DEPLOYMENT = "demo"
_HOSTS = ("localhost", "127.0.0.1", "::1")
_PROXY_IDS = {
    # as they were recorded
    "eu": "f8fc455c-af14-42e3-baa9-c4cf7ffc94cb",
    "us": "3dcec2fc-811e-47fd-b8d3-fc2a38e62451",
    "asia": "65aa9f32-2c49-4b00-83ce-425efa24a344",
}
# Proxies register again this often. Source: coder-interfaces, section 3.5.
_REGISTRATION_SECONDS = 15.0
# How old a report out of a replica's cache may be here; Coder's default is 10 min.
REPORT_REFRESH_SECONDS = 4.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How fast the exporter goes in the demo: seconds, and runs in a row."""

    interval_seconds: float = 2.0
    timeout_seconds: float = 1.5
    raise_after: int = 2
    clear_after: int = 2
    latency_threshold_seconds: float = 0.04
    version_grace_seconds: float = 10.0

    @property
    def report_interval_seconds(self) -> float:
        """A report takes Coder a while."""
        return 2 * self.interval_seconds

    @property
    def report_timeout_seconds(self) -> float:
        return 2 * self.timeout_seconds


class Simulation:
    """Everything that the demo starts.

    Args:
        directory: For its files, which it removes at the end; None for a private one of its own.
        database: False leaves PostgreSQL out.
        clock: Where times come from.
    """

    def __init__(self, *, directory: Path | None = None, database: bool = True, clock: Clock | None = None) -> None:
        self._parent = directory
        self._clock = clock or SystemClock()
        self._stack = AsyncExitStack()
        self._playing: dict[str, AsyncExitStack] = {}
        self._rows: dict[str, ProxyRow] = {}
        self._database: SimulatedDatabase | None = None
        self._coder: SimulatedCoder | None = None
        self._network: Network | None = None
        self._cluster: Cluster | None = None
        self._group: asyncio.TaskGroup | None = None
        self._stories: set[asyncio.Task[None]] = set()
        self.without_database = "" if database else "it was left out"
        """Why there is no database; empty when there is one."""
        self.certificates: Mapping[str, Path] = {}
        self.proxies: dict[str, SimulatedProxy] = {}

    @property
    def coder(self) -> SimulatedCoder:
        if self._coder is None:
            raise RuntimeError("the simulation is not running")
        return self._coder

    @property
    def cluster(self) -> Cluster:
        if self._cluster is None:
            raise RuntimeError("the simulation is not running")
        return self._cluster

    @property
    def network(self) -> Network:
        if self._network is None:
            raise RuntimeError("the simulation is not running")
        return self._network

    def relay(self, name: str) -> SimulatedServer:
        """Return the server of a relay: `coder`, that of a proxy, or a node of the mesh."""
        return {"coder": self.coder, **self.proxies, **self.network.relays}[name]

    @property
    def database(self) -> SimulatedDatabase:
        if self._database is None:
            raise RuntimeError(f"the simulation has no database: {self.without_database}")
        return self._database

    @property
    def has_database(self) -> bool:
        return not self.without_database

    @property
    def playing(self) -> tuple[str, ...]:
        """The scenarios that are played now, the oldest first."""
        return tuple(self._playing)

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            await self._start(stack)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def _start(self, stack: AsyncExitStack) -> None:
        self.directory = await asyncio.to_thread(_make_directory, self._parent)
        stack.push_async_callback(asyncio.to_thread, shutil.rmtree, self.directory, ignore_errors=True)
        authority = await asyncio.to_thread(Authority, self.directory, now=self._clock.now())
        self.ca_file = authority.ca_file
        self.certificates = await asyncio.to_thread(_issue_certificates, authority)
        self.trust = await asyncio.to_thread(authority.trust)
        self._network = await stack.enter_async_context(Network(certificate=self.certificates["good"]))
        mesh: list[SimulatedRelay] = []
        self._coder = await stack.enter_async_context(
            SimulatedCoder(
                list_proxies=self._list_proxies,
                list_regions=self._list_regions,
                certificate=self.certificates["good"],
                clock=self._clock,
                relay=SimulatedRelay(mesh=mesh),
            )
        )
        self.coder.state.refresh_seconds = REPORT_REFRESH_SECONDS
        for number, name in enumerate(("eu", "us"), start=1):
            self.proxies[name] = await stack.enter_async_context(
                SimulatedProxy(
                    name=name,
                    id=_PROXY_IDS[name],
                    region_id=number,
                    primary_url=self.coder.url,
                    trust=self.trust,
                    certificate=self.certificates["good"],
                )
            )
        self.without_database = self.without_database or await asyncio.to_thread(why_no_database)
        if self.has_database:
            self._database = await stack.enter_async_context(SimulatedDatabase())
        for name in self.proxies:
            await self.create_proxy(name)
            await self.register(name)
        await asyncio.to_thread(self._write_secrets)
        self._cluster = await stack.enter_async_context(
            Cluster(
                self.coder,
                surroundings=Surroundings(
                    read_map=self.coder.derp_map,
                    list_proxies=self._list_proxies,
                    trust=self.trust,
                    ca_file=self.ca_file,
                    clock=self._clock,
                    good_for_seconds=lambda: self.coder.state.refresh_seconds,
                ),
                mesh=mesh,
                database=self._database,
                certificate=self.certificates["good"],
                trust=self.trust,
                clock=self._clock,
            )
        )
        group = await stack.enter_async_context(asyncio.TaskGroup())
        self._group = group
        for beating in (self._keep_registering(), self.cluster.keep_beating()):
            stack.callback(group.create_task(beating).cancel)
        stack.push_async_callback(self._revert_all)

    @property
    def token_file(self) -> Path:
        """The file that holds the exporter's session token; written anew at any time."""
        return self.directory / "session-token"

    async def give_token(self, role: Role) -> None:
        """Put the token of a role into the exporter's file."""
        await asyncio.to_thread(_write_secret, self.token_file, self.coder.tokens[role].reveal())

    @property
    def url_file(self) -> Path:
        """The file that names the access URL."""
        return self.directory / "access-url"

    async def write_config(
        self,
        directory: Path | None = None,
        *,
        pace: Pace | None = None,
        settings: Settings | None = None,
        leaves_out: Collection[str] = (),
    ) -> Path:
        """Write an ordinary configuration of the exporter for this deployment and return its path.

        Args:
            directory: None for the simulation's own.
            pace: None for one that shows changes within some seconds.
            settings: Further keys, by section.
            leaves_out: Keys of the deployment that are to be missing.
        """
        path = (directory or self.directory) / "exporter.yml"
        text = yaml.safe_dump(self._describe(pace or Pace(), settings or {}, leaves_out), sort_keys=False)
        await asyncio.to_thread(path.write_text, text)
        return path

    def _describe(self, pace: Pace, settings: Settings, leaves_out: Collection[str]) -> dict[str, object]:
        interval = f"{round(pace.interval_seconds * 1000)}ms"
        timeout = f"{round(pace.timeout_seconds * 1000)}ms"
        sections = [
            str(section)
            for section in SECTIONS
            # which has no keys of its own
            if section is not Section.EXPORTER and (self.has_database or section is not Section.DATABASE)
        ]
        deployment: dict[str, object] = {
            "name": DEPLOYMENT,
            "url_file": str(self.url_file),
            "session_token_file": str(self.token_file),
            "deployment_id": self.coder.deployment_id,
            "tls": {"ca_file": str(self.ca_file)},
        }
        if self.has_database:
            deployment["database"] = {
                "url_file": str(self.directory / "database-url"),
                "latency_threshold": f"{round(pace.latency_threshold_seconds * 1000)}ms",
            }
        deployment["replicas"] = {
            "urls": [{"name": name, "url": replica.url} for name, replica in self.cluster.replicas.items()]
        }
        keys: dict[str, object] = {
            section: {"interval": interval, "timeout": timeout, **settings.get(section, {})} for section in sections
        }
        deployment["sections"] = keys | {
            "report": {
                "interval": f"{round(pace.report_interval_seconds * 1000)}ms",
                "timeout": f"{round(pace.report_timeout_seconds * 1000)}ms",
                **settings.get("report", {}),
            }
        }
        return {
            "global": {
                "interval": interval,
                "timeout": timeout,
                "reference": self.network.reference_address,
                "settle": {
                    "raise": pace.raise_after,
                    "clear": pace.clear_after,
                    "startup_grace": "0s",
                    "version_grace": f"{round(pace.version_grace_seconds * 1000)}ms",
                },
            },
            "deployments": [{key: value for key, value in deployment.items() if key not in leaves_out}],
        }

    def now(self) -> float:
        """Return seconds since 1970."""
        return self._clock.now()

    def tell(self, story: Coroutine[object, object, None]) -> asyncio.Task[None]:
        """Let a story go on in the background; it is to be cancelled by who began it."""
        if self._group is None:
            raise RuntimeError("the simulation is not running")
        task = self._group.create_task(story)
        self._stories.add(task)
        task.add_done_callback(self._stories.discard)
        return task

    @property
    def telling(self) -> bool:
        """Whether a story that ends by itself has not come to its end."""
        return bool(self._stories)

    async def apply(self, scenario: Scenario) -> None:
        """Break what the scenario breaks.

        Raises:
            RuntimeError: It is played already, or cannot be played here (`why_not`).
        """
        reason = "it is played already" if scenario.name in self._playing else self.why_not(scenario)
        if reason:
            raise RuntimeError(f"{scenario.name} cannot be played: {reason}")
        self._playing[scenario.name] = await scenario.play(self)
        # who breaks something wants to see it
        self.cluster.forget_reports()

    async def revert(self, scenario: Scenario) -> None:
        """Mend what the scenario broke; does nothing when it is not played."""
        played = self._playing.pop(scenario.name, None)
        if played is not None:
            await played.aclose()
            self.cluster.forget_reports()

    def why_not(self, scenario: Scenario) -> str:
        """Return why a scenario cannot be played on this host; empty when it can."""
        if scenario.without_database is None and not self.has_database:
            return f"it needs a database, and there is none: {self.without_database}"
        if scenario.needs_ipv6 and not have_ipv6_loopback():
            return "it needs the loopback address ::1, which this host does not have"
        if scenario.needs_silent_ports and not have_silent_ports():
            return "it needs ports that swallow what comes, and how to have them was only tried on Linux"
        if scenario.needs_several_addresses and not have_several_addresses():
            return "it needs STUN servers on 127.0.0.1, 127.0.0.2 and 127.0.0.3, and this host has only the first"
        return ""

    async def create_proxy(self, name: str) -> None:
        """Create a workspace proxy in Coder's tables: it has no URL before it registers."""
        now = self._clock.now()
        number = len(self._rows) + 1
        self._rows[name] = ProxyRow(
            id=_PROXY_IDS[name],
            name=name,
            region_id=number,
            created_timestamp_seconds=now,
            updated_timestamp_seconds=now,
        )
        await self._write(name)

    async def register(self, name: str) -> None:
        """Let a proxy register with its primary, as it does at its start and every 15 s."""
        proxy = self.proxies[name]
        self._rows[name] = self._rows[name].registered(
            url=proxy.url, version=proxy.version, timestamp_seconds=self._clock.now()
        )
        await self._write(name)

    async def mark_stopped(self, name: str) -> None:
        """Let a proxy sign off: its replica's row gets its end."""
        self._rows[name] = self._rows[name].stopped()
        if self._database is not None:
            await self._database.stop_proxy(self._rows[name])

    async def delete_proxy(self, name: str) -> None:
        """Take a workspace proxy out of Coder's tables."""
        row = self._rows.pop(name)
        if self._database is not None:
            await self._database.delete_proxy(row)

    async def _write(self, name: str) -> None:
        if self._database is not None:
            await self._database.write_proxy(self._rows[name])

    async def _keep_registering(self) -> None:
        while True:
            await self._clock.sleep(_REGISTRATION_SECONDS)
            for name, proxy in self.proxies.items():
                if proxy.listener.listening and not proxy.shutting_down:
                    await self.register(name)

    async def _revert_all(self) -> None:
        while self._playing:
            _name, played = self._playing.popitem()
            await played.aclose()

    def _list_proxies(self) -> list[answers.ProxyFacts]:
        return [
            answers.ProxyFacts(
                id=row.id,
                name=row.name,
                region_id=row.region_id,
                url=row.url,
                version=row.version,
                status=self._status(row),
                created_timestamp_seconds=row.created_timestamp_seconds,
                updated_timestamp_seconds=row.updated_timestamp_seconds,
            )
            for row in self._rows.values()
        ]

    def _list_regions(self) -> list[DerpRegion]:
        """What is in the DERP map: of proxies only those that are well."""
        regions = list(self.network.regions())
        # that of Coder's own relay may be the highest one
        highest = max(EMBEDDED_REGION_ID, *(region.region_id for region in regions))
        well = (row.name for row in self._rows.values() if self._status(row) == "ok" and row.running is not False)
        return regions + [proxy_region(self.proxies[name], highest_region_id=highest) for name in well]

    def _status(self, row: ProxyRow) -> str:
        """What Coder's own ticker would have found out."""
        if not row.url:
            return "unregistered"
        proxy = self.proxies[row.name]
        if not proxy.listener.listening:
            return "unreachable"
        return "unhealthy" if proxy.broken else "ok"

    def _write_secrets(self) -> None:
        self.url_file.write_text(self.coder.url + "\n")
        for name, secret in self._secrets():
            _write_secret(self.directory / name, secret)

    def _secrets(self) -> Iterator[tuple[str, str]]:
        yield self.token_file.name, self.coder.tokens[Role.OWNER].reveal()
        if self._database is not None:
            yield "database-url", self._database.exporter_url.reveal()


def _make_directory(parent: Path | None) -> Path:
    return Path(tempfile.mkdtemp(prefix="coder-health-exporter-demo-", dir=parent))


def _write_secret(path: Path, secret: str) -> None:
    path.touch(mode=0o600)
    path.write_text(secret + "\n")


def _issue_certificates(authority: Authority) -> dict[str, Path]:
    return {
        "good": authority.issue("good", hosts=_HOSTS),
        "expiring": authority.issue("expiring", hosts=_HOSTS, ends_in=timedelta(days=1)),
        "expired": authority.issue("expired", hosts=_HOSTS, ends_in=-timedelta(days=1)),
        "other-name": authority.issue("other-name", hosts=("coder.example.com",)),
    }
