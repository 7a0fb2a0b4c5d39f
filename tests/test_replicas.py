"""The replicas of one deployment, on loopback: found, adopted, polled, and gone."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from exporter import log
from exporter.errors import AuthError, ConnectError, ProbeError, Reason
from exporter.health.codes import section_codes
from exporter.health.model import Failure, Report, Section
from exporter.health.replica import MAX_REPLICAS, ListedReplica, ReplicaResult, assess
from exporter.health.settle import Policy
from exporter.health.workspace_proxy import ListedProxy
from exporter.replicas import GONE_AFTER, KEPT_INTERVALS, OTHER_DEPLOYMENT, WORKSPACE_PROXY, Replicas
from exporter.secret import Secret
from exporter.snapshot import Snapshot, TargetHealth
from exporter.targets.model import (
    AccessURL,
    AccessURLTarget,
    Replica,
    ReplicaDNS,
    ReplicaSource,
    ReplicaTarget,
    ReportTarget,
    SessionToken,
    TargetKey,
)
from tests.support.clock import FakeClock
from tests.support.dns_server import SRV, Answer, serve_names
from tests.support.raw_http import Answer as HTTPAnswer
from tests.support.raw_http import RawServer, hang, json_response, response

TOKEN = SessionToken(token=Secret("abcdefghij-0123456789012345678901"))
DEPLOYMENT_ID = "c1a7e9a2-4c1f-4d0a-8b1e-2f6f0a9d5e77"
INTERVAL_SECONDS = 30.0
REFUSED = Failure(reason=Reason.REFUSED, message="refused")


def identity(*, workspace_proxy: bool = False, deployment_id: str = DEPLOYMENT_ID) -> bytes:
    """What a server says it is."""
    return json_response(
        json.dumps({"version": "v2.26.0", "workspace_proxy": workspace_proxy, "deployment_id": deployment_id})
    )


@asynccontextmanager
async def coderds(count: int, answer: bytes | None = None) -> AsyncIterator[list[RawServer]]:
    """So many servers that say who they are."""
    async with AsyncExitStack() as stack:
        answers = {"/api/v2/buildinfo": answer or identity()}
        yield [await stack.enter_async_context(RawServer(dict(answers))) for _ in range(count)]


def row(hostname: str, url: str, **more: object) -> ListedReplica:
    given: dict[str, object] = {"id": f"id-{hostname}-{url}", "hostname": hostname, "relay_address": url}
    return ListedReplica(**given | more)  # type: ignore[arg-type]


class World:
    """A deployment with a table, and what was told about its replicas."""

    def __init__(
        self,
        rows: Sequence[ListedReplica] | ProbeError | None = (),
        *,
        access_url: AccessURL | None = None,
        static: tuple[Replica, ...] = (),
        dns: ReplicaDNS | None = None,
        deployment_id: str | None = DEPLOYMENT_ID,
        nameservers: Sequence[str] = (),
        report: bool = True,
        access: bool = True,
    ) -> None:
        self.cut_off = False
        self.rows = rows
        self.clock = FakeClock()
        self.told = 0
        self.meshes: list[tuple[Replica, ...]] = []
        # nobody is there, unless a test says so
        access_url = access_url or AccessURL(url="http://127.0.0.1:1")
        self.access = AccessURLTarget(
            deployment="prod",
            section=Section.ACCESS_URL,
            interval_seconds=INTERVAL_SECONDS,
            timeout_seconds=5.0,
            access_url=access_url,
        )
        self.report = ReportTarget(
            deployment="prod",
            section=Section.REPORT,
            interval_seconds=120.0,
            timeout_seconds=80.0,
            access_url=access_url,
            session_token=TOKEN,
        )
        self.replicas = Replicas(
            ReplicaSource(
                deployment="prod",
                access_url=access_url,
                static=static,
                dns=dns,
                deployment_id=deployment_id,
                interval_seconds=INTERVAL_SECONDS,
                timeout_seconds=2.0,
            ),
            access=self.access if access else None,
            report=self.report if report else None,
            clock=self.clock,
            on_targets=self._tell,
            on_replicas=self.meshes.append,
            read_table=self._read,
            cut_off=lambda: self.cut_off,
            nameservers=nameservers,
        )

    def _tell(self) -> None:
        self.told += 1

    async def _read(self, timeout_seconds: float) -> tuple[ListedReplica, ...] | None:
        if isinstance(self.rows, ProbeError):
            raise self.rows
        return None if self.rows is None else tuple(self.rows)

    async def refresh(self, times: int = 1) -> None:
        for _ in range(times):
            await self.replicas.refresh()
            await self.clock.advance(INTERVAL_SECONDS)

    def probed(self) -> dict[str, str]:
        """Label and URL of each replica that is probed by itself."""
        return {
            target.coder_replica: target.replica.url
            for target in self.replicas.targets
            if isinstance(target, ReplicaTarget)
        }

    def polled(self) -> dict[str, str]:
        """Label and URL of each whose report is polled; both empty for the access URL."""
        return {
            target.coder_replica: "" if target.replica is None else target.replica.url
            for target in self.replicas.targets
            if isinstance(target, ReportTarget)
        }


async def test_before_the_first_look_there_is_nothing() -> None:
    """Not even the access URL's report: it would be given up at once for those of the replicas."""
    world = World(static=(Replica(name="a", url="http://127.0.0.1:1"),))
    assert () == world.replicas.targets


async def test_without_replicas_the_access_url_is_polled() -> None:
    """There is one report, of whoever answers there."""
    world = World(None)
    await world.refresh()
    assert (world.report,) == world.replicas.targets
    assert (1, [()]) == (world.told, world.meshes)
    await world.refresh()
    assert (1, [()]) == (world.told, world.meshes)


async def test_replicas_of_the_table_are_adopted_once_they_answer() -> None:
    """Each by itself and with its report, under its hostname; from where they are out of reach, none is
    probed, and the report comes through the access URL."""
    async with coderds(2) as (first, second):
        world = World([row("coderd-0", first.url), row("coderd-1", second.url)])
        second.answers["/api/v2/buildinfo"] = response(503)
        await world.refresh()
        assert {"coderd-0": first.url} == world.probed() == world.polled()
        second.answers["/api/v2/buildinfo"] = identity()
        await world.refresh()
        assert {"coderd-0": first.url, "coderd-1": second.url} == world.probed() == world.polled()
        assert (2, 2) == (world.told, len(world.meshes))
        assert (Replica(name="coderd-0", url=first.url), Replica(name="coderd-1", url=second.url)) == world.meshes[-1]
        # who has answered once stays
        first.answers["/api/v2/buildinfo"] = hang
        await world.refresh()
        assert 2 == len(world.polled())
    world = World([row("coderd-0", first.url)])
    await world.refresh()
    assert ({}, {"": ""}) == (world.probed(), world.polled())
    assert [("coderd-0", False)] == [(one.name, one.adopted) for one in world.replicas.known]


async def test_targets_are_made_like_those_of_the_access_url() -> None:
    """With the section's times; the token only for the report."""
    async with coderds(1) as (server,):
        world = World([row("coderd-0", server.url)])
        await world.refresh()
    replica = Replica(name="coderd-0", url=server.url)
    probe, report = world.replicas.targets
    assert (
        ReplicaTarget(
            deployment="prod",
            section=Section.ACCESS_URL,
            coder_replica="coderd-0",
            interval_seconds=INTERVAL_SECONDS,
            timeout_seconds=5.0,
            access_url=world.access.access_url,
            session_token=None,
            replica=replica,
        )
        == probe
    )
    assert replace(world.report, coder_replica="coderd-0", replica=replica, deployment_id=DEPLOYMENT_ID) == report


async def test_sections_that_are_off() -> None:
    """Their targets are missing, the others are there."""
    async with coderds(1) as (server,):
        for access, report in ((True, False), (False, True)):
            world = World([row("coderd-0", server.url)], access=access, report=report)
            await world.refresh()
            assert (access, report) == (bool(world.probed()), bool(world.polled()))


async def test_no_token_in_any_question() -> None:
    """Who a replica is, is asked without the token and under the access URL's name."""
    async with coderds(1) as (server,):
        await World([row("coderd-0", server.url)]).refresh()
    (headers,) = server.headers
    assert "127.0.0.1:1" == headers["host"]
    assert not {"coder-session-token", "cookie", "authorization"} & headers.keys()


async def test_configured_replicas_are_probed_at_once() -> None:
    """Also one that never answered, for it should; its report is not asked for before it said who it is."""
    async with coderds(1) as (server,):
        static = (Replica(name="a", url=server.url), Replica(name="b", url="http://127.0.0.1:1"))
        world = World(None, static=static)
        await world.refresh()
    assert ({"a": server.url, "b": "http://127.0.0.1:1"}, {"a": server.url}) == (world.probed(), world.polled())


# who is no replica


@pytest.mark.parametrize(
    ("refused", "answer"),
    [
        (WORKSPACE_PROXY, identity(workspace_proxy=True, deployment_id="")),
        (OTHER_DEPLOYMENT, identity(deployment_id="another")),
    ],
)
@pytest.mark.parametrize("configured", [True, False])
async def test_others_never_get_the_token(refused: str, answer: bytes, configured: bool) -> None:
    """A proxy or another deployment at a replica's address is never polled, however it was found, and only
    probed where somebody wrote its URL down; when the address is a replica's again, it is."""
    async with coderds(1, answer) as (server,):
        static = (Replica(name="a", url=server.url),) if configured else ()
        world = World([row("a", server.url)], static=static, deployment_id=DEPLOYMENT_ID)
        await world.refresh()
        probed = {"a": server.url} if configured else {}
        assert (probed, {"": ""}, ()) == (world.probed(), world.polled(), world.replicas.replicas)
        assert [refused] == [one.refused for one in world.replicas.known]
        server.answers["/api/v2/buildinfo"] = identity()
        await world.refresh()
        assert {"a": server.url} == world.probed() == world.polled()
        server.answers["/api/v2/buildinfo"] = answer
        await world.refresh()
        assert (probed, {"": ""}) == (world.probed(), world.polled())


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (identity(workspace_proxy=True, deployment_id=""), "a workspace proxy"),
        (identity(deployment_id="another"), "of another deployment"),
    ],
)
async def test_a_written_url_at_which_somebody_else_answers_is_a_failure(answer: bytes, words: str) -> None:
    """However well it answers, and under the name that was written; its version is none of ours. One that
    does not answer fails by that."""
    async with coderds(1) as (server,):
        world = World(static=(Replica(name="a", url=server.url),))
        world.replicas.set_access_url_answers(True)
        await world.refresh()
        well = ReplicaResult(name="a", url=server.url, status=200, coder_version="v2.26.0")
        assert () == assess(world.replicas.see(well)).findings
        server.answers["/api/v2/buildinfo"] = answer
        await world.refresh()
        seen = world.replicas.see(well)
        [finding] = assess(seen).findings
        assert ("XACS08", True, "") == (finding.code, f"says that it is {words}" in finding.message, seen.coder_version)
        assert REFUSED == world.replicas.see(replace(well, failure=REFUSED)).failure


async def test_another_deployment_is_known_by_the_access_url() -> None:
    """Its answer tells which deployment this is; a server that says nothing of it is not believed. While a
    replica says another, it is asked again, once a look."""
    async with coderds(4) as (access, own, other, silent):
        other.answers["/api/v2/buildinfo"] = identity(deployment_id="another")
        silent.answers["/api/v2/buildinfo"] = identity(deployment_id="")
        rows = [row("own", own.url), row("other", other.url), row("silent", silent.url)]
        world = World(rows, access_url=AccessURL(url=access.url), deployment_id=None)
        await world.refresh(3)
        assert {"own": own.url} == world.polled()
        assert {"own": own.url, "silent": silent.url} == world.probed()
        assert 3 == len(access.asked)
        world.rows = [row("own", own.url)]
        await world.refresh(GONE_AFTER)
        asked = len(access.asked)
        await world.refresh(3)
        assert asked == len(access.asked)
        assert not [headers for headers in access.headers if "coder-session-token" in headers]


@pytest.mark.parametrize("silence", [response(502), json_response("{}"), response(404), identity(workspace_proxy=True)])
@pytest.mark.parametrize("configured", [True, False])
async def test_nobody_is_trusted_while_the_deployment_is_not_known(configured: bool, silence: bytes) -> None:
    """While the access URL does not tell its id any server may be at an address: the report comes through the
    access URL, until it does."""
    async with coderds(3) as (access, own, other):
        access.answers["/api/v2/buildinfo"] = silence
        other.answers["/api/v2/buildinfo"] = identity(deployment_id="another")
        static = (Replica(name="own", url=own.url), Replica(name="other", url=other.url)) if configured else ()
        rows = [row("own", own.url), row("other", other.url)]
        world = World(rows, static=static, access_url=AccessURL(url=access.url), deployment_id=None)
        await world.refresh(2)
        assert ({"": ""}, {"own", "other"}) == (world.polled(), set(world.probed()))
        access.answers["/api/v2/buildinfo"] = identity()
        await world.refresh()
        probed = {"own": own.url} | ({"other": other.url} if configured else {})
        assert ({"own": own.url}, probed) == (world.polled(), world.probed())
        # what is known stays known
        access.answers["/api/v2/buildinfo"] = silence
        await world.refresh()
        assert {"own": own.url} == world.polled()


async def test_old_servers_tell_no_id() -> None:
    """Those of one deployment say no more at the access URL than by themselves; after an upgrade they do."""
    async with coderds(3, identity(deployment_id="")) as (access, own, other):
        other.answers["/api/v2/buildinfo"] = identity(deployment_id="another")
        rows = [row("own", own.url), row("other", other.url)]
        world = World(rows, access_url=AccessURL(url=access.url), deployment_id=None)
        await world.refresh()
        assert {"own": own.url} == world.polled()
        access.answers["/api/v2/buildinfo"] = own.answers["/api/v2/buildinfo"] = identity()
        await world.refresh()
        assert {"own": own.url} == world.polled()
        assert {DEPLOYMENT_ID} == {one.deployment_id for one in world.replicas.targets if isinstance(one, ReportTarget)}


async def test_a_deployment_that_was_set_up_anew() -> None:
    """With another id at the same access URL its replicas are replicas still; who is of the old one is not, and
    who is silent has to say it first."""
    async with coderds(4) as (access, first, second, third):
        rows = [row("a", first.url), row("b", second.url), row("c", third.url)]
        world = World(rows, access_url=AccessURL(url=access.url), deployment_id=None)
        await world.refresh()
        assert {"a", "b", "c"} == set(world.polled())
        for server in (access, first):
            server.answers["/api/v2/buildinfo"] = identity(deployment_id="new")
        third.answers["/api/v2/buildinfo"] = response(503, X_Coder_Build_Version="v2.26.0")
        await world.refresh()
        assert {"a": first.url} == world.polled()
        assert {first.url: "", second.url: OTHER_DEPLOYMENT, third.url: ""} == {
            one.url: one.refused for one in world.replicas.known
        }
        # what is written down stands
        world = World(rows, access_url=AccessURL(url=access.url))
        await world.refresh(2)
        assert {"b": second.url} == world.polled()


@pytest.mark.parametrize(
    ("answer", "trusted"),
    [
        (response(404, b"not found"), False),
        (b"", False),
        (response(503, X_Coder_Build_Version="v2.26.0"), True),
        (hang, True),
    ],
    ids=["404", "hangs up", "coder's 503", "silence"],
)
async def test_an_address_that_is_given_to_somebody_else(answer: HTTPAnswer, trusted: bool) -> None:
    """Any answer that is not Coder's ends the trust at once; that nobody answers, or Coder cannot, does not.
    The replica itself is missed all the same."""
    async with coderds(1) as (server,):
        world = World([row("a", server.url)])
        await world.refresh()
        assert {"a": server.url} == world.polled()
        server.answers["/api/v2/buildinfo"] = answer
        await world.refresh()
        assert ({"a": server.url} if trusted else {"": ""}) == world.polled()
        assert {"a": server.url} == world.probed()
    # nobody there at all changes nothing
    await world.refresh()
    assert trusted == ("a" in world.polled())


async def test_proxies_by_their_rows_and_urls() -> None:
    """What the table or the list of proxies calls a proxy's address is not even asked who it is, whatever
    is written down."""
    async with coderds(2) as (first, second):
        static = (Replica(name="a", url=first.url), Replica(name="b", url=second.url))
        world = World([row("vm", first.url, primary=False)], static=static)
        world.replicas.set_proxies([ListedProxy(id="1", name="eu", url=second.url)])
        await world.refresh(2)
        assert ({}, {"": ""}) == (world.probed(), world.polled())
        assert [WORKSPACE_PROXY] * 2 == [one.refused for one in world.replicas.known]
        assert [] == first.asked + second.asked


async def test_a_proxys_row_takes_nobodys_name() -> None:
    """On one host both have the same hostname; the replica keeps it."""
    async with coderds(2) as (coderd, proxy):
        static = (Replica(name="a", url=coderd.url), Replica(name="b", url=proxy.url))
        world = World([row("vm", coderd.url), row("vm", proxy.url, primary=False)], static=static)
        await world.refresh()
        assert {"vm": coderd.url} == world.probed()


# who is gone


async def test_one_lost_list_drops_nobody() -> None:
    """A replica leaves when it was missing twice in a row; the mesh and the schedule are told."""
    async with coderds(2) as (first, second):
        world = World([row("coderd-0", first.url), row("coderd-1", second.url)])
        await world.refresh()
        both = world.rows
        for _ in range(3):
            world.rows = [row("coderd-0", first.url)]
            await world.refresh()
            assert 2 == len(world.probed())
            world.rows = both
            await world.refresh()
        world.rows = [row("coderd-0", first.url)]
        await world.refresh(GONE_AFTER)
        assert {"coderd-0": first.url} == world.probed() == world.polled()
        assert (Replica(name="coderd-0", url=first.url),) == world.meshes[-1]
        world.rows = []
        await world.refresh(GONE_AFTER)
        assert ({}, {"": ""}) == (world.probed(), world.polled())
        # who comes back is asked anew who it is
        second.answers["/api/v2/buildinfo"] = identity(workspace_proxy=True)
        world.rows = both
        await world.refresh()
        assert {"coderd-0": first.url} == world.polled()


async def test_a_table_that_fails_drops_nobody_who_answers() -> None:
    """For as long as it lasts; who does not answer is gone some intervals later: the address may be
    somebody else's."""
    async with coderds(2) as (first, second):
        world = World([row("coderd-0", first.url), row("coderd-1", second.url)])
        await world.refresh()
        world.replicas.see(ReplicaResult(name="coderd-0"))
        world.replicas.see(ReplicaResult(name="coderd-1", failure=REFUSED))
        world.rows = ConnectError("gone")
        await world.refresh(KEPT_INTERVALS + 1)
        assert 2 == len(world.probed())
        await world.refresh(GONE_AFTER)
        assert {"coderd-0": first.url} == world.probed()


async def test_a_host_that_is_cut_off_drops_nobody() -> None:
    """That nobody answers then is no fault of theirs; silence counts from the end of it on."""
    async with coderds(1) as (server,):
        world = World([row("coderd-0", server.url)])
        await world.refresh()
        world.replicas.see(ReplicaResult(name="coderd-0", failure=REFUSED))
        world.rows, world.cut_off = ConnectError("gone"), True
        await world.refresh(2 * KEPT_INTERVALS + GONE_AFTER)
        assert {"coderd-0": server.url} == world.probed()
        world.cut_off = False
        await world.refresh(KEPT_INTERVALS + 1)
        assert {"coderd-0": server.url} == world.probed()
        await world.refresh(GONE_AFTER)
        assert {} == world.probed()


async def test_configured_replicas_outlive_a_name_server() -> None:
    """Names that cannot be looked up now are not gone, however long it takes; names without addresses
    are."""
    async with coderds(1) as (server,), serve_names({"coder.test": ("127.0.0.1",)}) as name_server:
        dns = ReplicaDNS(name="coder.test", port=server.port)
        world = World(None, dns=dns, nameservers=[name_server.address])
        await world.refresh()
        name = f"127.0.0.1:{server.port}"
        assert {name: server.url} == world.probed()
        name_server.zone["coder.test"] = Answer.SERVFAIL
        await world.refresh(KEPT_INTERVALS + GONE_AFTER + 1)
        assert {name: server.url} == world.probed()
        name_server.zone["coder.test"] = Answer.NXDOMAIN
        await world.refresh(GONE_AFTER)
        assert {} == world.probed()


async def test_services_on_one_host() -> None:
    """SRV tells the ports; what bears one name is told apart by them."""
    name = "_http._tcp.coder.test"
    async with coderds(2) as servers, serve_names({}) as name_server:
        name_server.zone[name] = tuple(SRV(host="localhost", port=server.port) for server in servers)
        world = World(None, dns=ReplicaDNS(name=name, port=None), nameservers=[name_server.address])
        await world.refresh()
        expected = {f"localhost:{server.port}": f"http://localhost:{server.port}" for server in servers}
        assert expected == world.probed() == world.polled()
        name_server.zone[name] = Answer.NO_DATA
        await world.refresh(GONE_AFTER)
        assert ({}, {"": ""}) == (world.probed(), world.polled())


async def test_both_address_families() -> None:
    """A replica at an IPv6 address is polled there."""
    async with coderds(1) as (server,), serve_names({"coder.test": ("127.0.0.1", "::1")}) as name_server:
        second = await asyncio.start_server(server._accept, "::1", server.port)
        async with second:
            dns = ReplicaDNS(name="coder.test", port=server.port)
            world = World(None, dns=dns, nameservers=[name_server.address])
            await world.refresh()
        name = f"[::1]:{server.port}"
        assert {f"127.0.0.1:{server.port}": server.url, name: f"http://{name}"} == world.polled()


async def test_a_right_that_is_lost_ends_discovery() -> None:
    """A table that may not be read any more says that there is nothing for us."""
    async with coderds(1) as (server,):
        world = World([row("coderd-0", server.url)])
        await world.refresh()
        world.rows = AuthError("permission denied")
        await world.refresh(GONE_AFTER)
        assert {"": ""} == world.polled()


async def test_another_access_url_is_another_deployment(tmp_path: Path) -> None:
    """Nobody of the deployment before stays, not even for one look."""
    file = tmp_path / "url"
    file.write_text("http://127.0.0.1:1")
    async with coderds(2) as (first, second):
        world = World([row("coderd-0", first.url)], access_url=AccessURL(url_file=file))
        await world.refresh()
        file.write_text("http://127.0.0.1:2")
        world.rows = [row("coderd-9", second.url)]
        await world.refresh()
        assert {"coderd-9": second.url} == world.probed()
        file.unlink()
        await world.refresh()
        assert {"coderd-9": second.url} == world.probed()


async def test_a_replica_that_is_called_otherwise_now() -> None:
    """A new process at an address has a hostname of its own; its row going leaves the name."""
    async with coderds(1) as (server,):
        static = (Replica(name="written", url=server.url),)
        world = World([row("pod-a", server.url)], static=static)
        await world.refresh()
        assert ["pod-a"] == list(world.probed())
        world.rows = []
        await world.refresh(3)
        assert ["pod-a"] == list(world.probed())
        world.rows = [row("pod-b", server.url)]
        await world.refresh()
        assert ["pod-b"] == list(world.probed()) == list(world.polled())


async def test_a_pod_that_restarts_elsewhere_keeps_its_name() -> None:
    """The row of before stopped or went, the new one has its hostname: the label is the same at each look."""
    async with coderds(2) as (first, second):
        for gone in ([], [row("coder-0", first.url, running=False)]):
            world = World([row("coder-0", first.url)])
            await world.refresh()
            world.rows = [*gone, row("coder-0", second.url)]
            for _ in range(3):
                await world.refresh()
                assert {"coder-0": second.url} == world.probed() == world.polled()


def silent_row(hostname: str, url: str, silent_seconds: float, **more: object) -> ListedReplica:
    """A row that was last written so long ago, of a replica that is a day old."""
    times = {"created_timestamp_seconds": 1e9 - 86400, "updated_timestamp_seconds": 1e9 - silent_seconds}
    return row(hostname, url, silent_seconds=silent_seconds, running=silent_seconds <= 15, **times | more)


async def test_a_replica_that_crashed_is_missed() -> None:
    """Nobody writes its row any more, which does not say that it was stopped: it stays, fails and is told, under
    its name, until the row is too old."""
    async with coderds(2) as (first, second):
        alive = silent_row("vm", first.url, 1)
        world = World([alive, silent_row("vm", second.url, 1)])
        await world.refresh()
        named = {f"vm:{first.port}": first.url, f"vm:{second.port}": second.url}
        second.answers["/api/v2/buildinfo"] = response(503, X_Coder_Build_Version="v2.26.0")
        for silent_seconds in (20, 60, 300, 590):
            world.rows = [alive, silent_row("vm", second.url, silent_seconds)]
            await world.refresh()
            assert named == world.probed() == world.polled()
            world.replicas.see(ReplicaResult(name=f"vm:{first.port}"))
            seen = world.replicas.see(ReplicaResult(name=f"vm:{second.port}", failure=REFUSED))
            assert ["XACS08"] == [finding.code for finding in assess(seen).findings]
        world.rows = [alive, silent_row("vm", second.url, 601)]
        await world.refresh(GONE_AFTER)
        assert {"vm": first.url} == world.probed()


@pytest.mark.parametrize(
    "ended",
    [
        pytest.param([{"stopped": True, "primary": False, "silent_seconds": 20}], id="stopped"),
        pytest.param([], id="cleaned up"),
    ],
)
async def test_a_replica_that_was_scaled_down_is_not_missed(ended: list[dict[str, float]]) -> None:
    """A row that says that it was stopped, or that is gone, leaves as soon as it was seen twice."""
    async with coderds(2) as (first, second):
        alive = silent_row("pod-a", first.url, 1)
        world = World([alive, silent_row("pod-b", second.url, 1)])
        await world.refresh()
        world.rows = [alive, *(silent_row("pod-b", second.url, **facts) for facts in ended)]
        await world.refresh()
        seen = world.replicas.see(ReplicaResult(name="pod-b", failure=REFUSED))
        assert () == assess(seen).findings
        await world.refresh(GONE_AFTER - 1)
        assert {"pod-a": first.url} == world.probed()


async def test_a_replica_that_crashed_before_it_answered_is_nobody() -> None:
    """From here it may be out of reach."""
    async with coderds(1) as (server,):
        world = World([silent_row("pod-a", server.url, 20)])
        await world.refresh(2)
        assert {} == world.probed()


async def test_a_replica_that_comes_back_from_a_crash_is_the_same() -> None:
    """Its new row takes over, at its address as elsewhere."""
    async with coderds(3) as (first, second, third):
        alive, before = silent_row("pod-a", first.url, 1), silent_row("pod-b", second.url, 1)
        world = World([alive, before])
        await world.refresh()
        dead = silent_row("pod-b", second.url, 60)
        for url in (second.url, third.url):
            world.rows = [alive, dead]
            await world.refresh()
            assert {"pod-a", "pod-b"} == set(world.probed())
            world.rows = [alive, dead, silent_row("pod-b", url, 1, created_timestamp_seconds=1e9 - 30, id=f"new-{url}")]
            await world.refresh()
            assert {"pod-a": first.url, "pod-b": url} == world.probed()


async def test_a_pod_that_left_dns_is_missed_while_its_row_tells_so() -> None:
    """Who does not answer is not ready, and not in DNS; the row tells whether it hangs, crashed or was stopped."""
    async with coderds(1) as (server,):
        zone: dict[str, tuple[str | SRV, ...] | Answer] = {"coderd.test": ("127.0.0.1",)}
        async with serve_names(zone) as names:
            dns = ReplicaDNS(name="coderd.test", port=server.port)
            world = World([silent_row("pod-a", server.url, 1)], dns=dns, nameservers=[names.address])
            await world.refresh()
            assert {"pod-a": server.url} == world.probed()
            names.zone["coderd.test"] = Answer.NXDOMAIN
            for silent_seconds in (1, 1, 1, 30, 60, 120):
                world.rows = [silent_row("pod-a", server.url, silent_seconds)]
                await world.refresh()
                assert {"pod-a": server.url} == world.probed()
            world.rows = [silent_row("pod-a", server.url, 120, stopped=True)]
            await world.refresh(GONE_AFTER)
            assert {} == world.probed()


async def test_a_table_that_fails_holds_nobody() -> None:
    """Who left DNS while nobody can read the rows is gone: they tell of a past time."""
    async with coderds(1) as (server,), serve_names({"coderd.test": ("127.0.0.1",)}) as names:
        dns = ReplicaDNS(name="coderd.test", port=server.port)
        world = World([silent_row("pod-a", server.url, 1)], dns=dns, nameservers=[names.address])
        await world.refresh()
        names.zone["coderd.test"] = Answer.NXDOMAIN
        world.rows = ConnectError("gone")
        await world.refresh(GONE_AFTER)
        assert {} == world.probed()


async def test_an_address_with_a_stopped_row_gives_its_name_to_one_that_runs() -> None:
    """Also where it is written down, and so stays."""
    async with coderds(2) as (first, second):
        static = (Replica(name="a", url=first.url), Replica(name="b", url=second.url))
        world = World([row("coder-0", first.url, running=False), row("coder-0", second.url)], static=static)
        await world.refresh()
        assert {"coder-0": second.url, f"coder-0:{first.port}": first.url} == world.probed()


async def test_a_table_that_fails_renames_nobody() -> None:
    """One of two on a host crashed; while the rows cannot be read, both are called as before."""
    async with coderds(2) as (first, second):
        static = (Replica(name="a", url=first.url), Replica(name="b", url=second.url))
        world = World([silent_row("vm", first.url, 60), silent_row("vm", second.url, 1)], static=static)
        await world.refresh()
        named = {f"vm:{first.port}": first.url, f"vm:{second.port}": second.url}
        assert named == world.probed()
        world.rows = ConnectError("gone")
        await world.refresh(3)
        assert named == world.probed()


async def test_a_crashed_replica_whose_row_is_lost_once_renames_nobody() -> None:
    """The other one of its host gets the name for itself when it is gone."""
    async with coderds(2) as (first, second):
        alive, crashed = silent_row("vm", first.url, 1), silent_row("vm", second.url, 60)
        world = World([alive, silent_row("vm", second.url, 1)])
        await world.refresh()
        named = {f"vm:{first.port}": first.url, f"vm:{second.port}": second.url}
        for rows in ([alive, crashed], [alive], [alive, crashed], [alive]):
            world.rows = rows
            await world.refresh()
            assert named == world.probed()
        await world.refresh()
        assert {"vm": first.url} == world.probed()


async def test_one_of_two_on_a_host_that_is_lost_once_renames_nobody() -> None:
    """The other one was there before, and is called as it was."""
    async with coderds(2) as servers:
        rows = [row("vm", server.url) for server in servers]
        world = World(rows)
        await world.refresh()
        for world.rows in (rows[:1], rows):
            await world.refresh()
            assert {f"vm:{server.port}" for server in servers} == set(world.probed())


async def test_one_hostname_for_two() -> None:
    """Told apart by their ports, in whatever order they come."""
    async with coderds(2) as servers:
        rows = [row("vm", server.url) for server in servers]
        for order in (rows, rows[::-1]):
            world = World(order)
            await world.refresh()
            assert {f"vm:{server.port}": server.url for server in servers} == world.probed()


async def test_no_more_than_fifty() -> None:
    """Whoever else is listed is left out, and who is missing makes room."""

    def rows(first: int) -> list[ListedReplica]:
        return [row(f"c{n:03}", f"http://127.0.0.1:{n + 1}") for n in range(first, first + MAX_REPLICAS + 5)]

    world = World(rows(0))
    await world.refresh()
    assert MAX_REPLICAS == len(world.replicas.known)
    world.rows = rows(100)
    await world.refresh()
    assert [f"c{n:03}" for n in range(100, 100 + MAX_REPLICAS)] == [one.name for one in world.replicas.known]


# who answers


def result(name: str, *, up: bool) -> ReplicaResult:
    return ReplicaResult(name=name, failure=None if up else REFUSED)


async def test_others_answer() -> None:
    """Another replica, or the access URL; not the replica itself, and not one that is gone."""
    async with coderds(2) as (first, second):
        world = World([row("a", first.url), row("b", second.url)])
        await world.refresh()
        see = world.replicas.see
        assert not see(result("a", up=True)).others_answer
        assert see(result("b", up=False)).others_answer
        assert not see(result("a", up=False)).others_answer
        world.replicas.set_access_url_answers(True)
        assert see(result("a", up=False)).others_answer
        world.replicas.set_access_url_answers(False)
        see(result("a", up=True))
        world.rows = [row("b", second.url)]
        await world.refresh(GONE_AFTER)
        assert not see(result("b", up=False)).others_answer


async def test_who_is_on_its_way_out_is_not_missed() -> None:
    """In a roll-out a replica leaves its source as it ends; its failures are judged again once it is back."""
    async with coderds(2) as (first, second):
        rows = [row("a", first.url), row("b", second.url)]
        world = World(rows)
        await world.refresh()
        world.replicas.see(result("a", up=True))
        assert world.replicas.see(result("b", up=False)).others_answer
        for world.rows, judged in ((rows[:1], False), (rows, True)):
            await world.refresh()
            assert "b" in world.probed()
            assert judged == world.replicas.see(result("b", up=False)).others_answer


async def test_those_judged_too_early_are_named() -> None:
    """A replica that failed before any other had answered is to be looked at again."""
    async with coderds(2) as (first, second):
        world = World([row("a", first.url), row("b", second.url)])
        await world.refresh()
        snapshot = Snapshot()
        early, late = (target for target in world.replicas.targets if isinstance(target, ReplicaTarget))
        seen = world.replicas.see(result("a", up=False))
        snapshot.declare(early.section_key, section_codes(Section.ACCESS_URL), Policy())
        snapshot.commit(
            early.schedule_name,
            (
                TargetHealth(
                    key=TargetKey(section_key=early.section_key, name="a"),
                    run=1,
                    interval_seconds=30.0,
                    started_timestamp_seconds=0.0,
                    duration_seconds=0.1,
                    result=seen,
                    report=Report(section=Section.ACCESS_URL, failure=REFUSED),
                    phase_seconds={},
                ),
            ),
            now=0.0,
            elapsed_seconds=100.0,
            complete=True,
        )
        assert () == world.replicas.overlooked(snapshot)
        world.replicas.see(result(late.coder_replica, up=True))
        assert (early,) == world.replicas.overlooked(snapshot)


# the rhythm


async def test_serves_until_cancelled() -> None:
    """It looks at once, and then once an interval."""
    world = World(None)
    reads: list[float] = []

    async def read(timeout_seconds: float) -> None:
        reads.append(world.clock.monotonic())

    replicas = Replicas(
        ReplicaSource(
            deployment="prod",
            access_url=AccessURL(url="http://127.0.0.1:1"),
            interval_seconds=INTERVAL_SECONDS,
            timeout_seconds=2.0,
        ),
        access=world.access,
        report=world.report,
        clock=world.clock,
        on_targets=lambda: None,
        read_table=read,
    )
    async with asyncio.TaskGroup() as group:
        task = group.create_task(replicas.serve())
        await world.clock.advance(2.5 * INTERVAL_SECONDS)
        task.cancel()
    assert [0.0, INTERVAL_SECONDS, 2 * INTERVAL_SECONDS] == reads


async def test_a_refresh_in_the_middle_shows_nothing_of_it() -> None:
    """Who asks for the targets meanwhile gets those of before, whole."""
    async with coderds(2) as (first, second):
        world = World([row("a", first.url)])
        await world.refresh()
        before = world.replicas.targets
        release = asyncio.Event()

        async def wait(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await release.wait()
            writer.write(identity())
            await writer.drain()

        second.answers["/api/v2/buildinfo"] = wait
        world.rows = [row("b", second.url)]
        await world.refresh()
        async with asyncio.TaskGroup() as group:
            group.create_task(world.replicas.refresh())
            await second.wait_until_asked("/api/v2/buildinfo", 2)
            assert before == world.replicas.targets
            release.set()
        assert {"b": second.url} == world.probed()


async def test_changes_stand_in_the_log() -> None:
    """Who comes and goes, and a source that fails, once; never a token."""
    stream = io.StringIO()
    log.configure("info", "logfmt", stream)
    async with coderds(1) as (server,):
        world = World([row("coderd-0", server.url)])
        await world.refresh(2)
        assert [f"msg=replica.found deployment=prod coder_replica=coderd-0 url={server.url}"] == _events(stream)
        world.rows = ConnectError("gone")
        await world.refresh(2)
        (event,) = _events(stream)
        assert event.startswith("msg=replicas.source_failed deployment=prod")
        world.rows = []
        await world.refresh(3)
        assert [f"msg=replica.left deployment=prod coder_replica=coderd-0 url={server.url}"] == _events(stream)


def _events(stream: io.StringIO) -> list[str]:
    """Give what was logged since the last time."""
    text = stream.getvalue()
    stream.seek(0)
    stream.truncate()
    return ["msg=" + line.partition("msg=")[2] for line in text.splitlines() if " msg=replica" in line]
