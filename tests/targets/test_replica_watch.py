"""Where replicas are: a list, DNS, table and API, each scripted."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from exporter.clock import SystemClock
from exporter.errors import AuthError, ConnectError, ProbeError, Reason
from exporter.health.replica import MAX_REPLICAS, ListedReplica
from exporter.health.workspace_proxy import ListedProxy
from exporter.secret import Secret
from exporter.targets.model import AccessURL, Replica, ReplicaDNS, ReplicaSource, SessionToken
from exporter.targets.replica_watch import API_PATH, Candidate, ReplicaWatch, Sighting
from tests.support.dns_server import SRV, Answer, serve_names
from tests.support.raw_http import Answer as HTTPAnswer
from tests.support.raw_http import RawServer, hang, json_response, response

_DATA = Path(__file__).parents[1] / "data" / "coder"
TOKEN = SessionToken(token=Secret("abcdefghij-0123456789012345678901"))
Rows = tuple[ListedReplica, ...] | None | ProbeError


def read_answer(name: str) -> str:
    return (_DATA / name).read_text()


def row(hostname: str, address: str, **more: object) -> ListedReplica:
    given: dict[str, object] = {"id": f"id-{hostname}", "hostname": hostname, "relay_address": address}
    return ListedReplica(**given | more)  # type: ignore[arg-type]


class Table:
    """The table as it is just now, or why it cannot be read."""

    def __init__(self, rows: Rows) -> None:
        self.rows = rows
        self.reads = 0

    async def read(self, timeout_seconds: float) -> tuple[ListedReplica, ...] | None:
        self.reads += 1
        if isinstance(self.rows, ProbeError):
            raise self.rows
        return self.rows


def watch(
    table: Table | None = None,
    *,
    access: str = "http://coder.example.com",
    token: SessionToken | None = None,
    static: tuple[Replica, ...] = (),
    dns: ReplicaDNS | None = None,
    discover: bool = True,
    nameservers: Sequence[str] = (),
    timeout_seconds: float = 5.0,
) -> ReplicaWatch:
    source = ReplicaSource(
        deployment="prod",
        access_url=AccessURL(url=access),
        session_token=token,
        static=static,
        dns=dns,
        discover=discover,
        interval_seconds=30.0,
        timeout_seconds=timeout_seconds,
    )
    read = None if table is None else table.read
    return ReplicaWatch(source, clock=SystemClock(), read_table=read, nameservers=nameservers)


def names(sighting: Sighting) -> dict[str, str] | None:
    """Each place with the name that is wanted for it."""
    if sighting.candidates is None:
        return None
    return {str(one.origin): one.name for one in sighting.candidates}


# the table


async def test_running_primaries_of_the_table() -> None:
    """Those of coderd that run and have a relay address; rows of proxies never, and none without an
    address of its own."""
    table = Table(
        (
            row("coderd-1", "http://10.0.0.2:8080"),
            row("coderd-0", "https://10.0.0.1:8443/"),
            row("proxy", "http://10.0.0.3:3001", primary=False),
            row("stopped", "http://10.0.0.4:8080", running=False),
            row("alone", ""),
            row("nonsense", "10.0.0.5:8080"),
            row("balanced-0", "http://CODER.example.com:80/"),
            row("balanced-1", "http://coder.example.com"),
        )
    )
    sighting = await watch(table).look()
    assert {"https://10.0.0.1:8443": "coderd-0", "http://10.0.0.2:8080": "coderd-1"} == names(sighting)
    assert ("table", None, 0) == (sighting.source, sighting.failure, sighting.left_out)
    assert sighting.candidates is not None
    assert {(False, False)} == {(one.configured, one.proxy) for one in sighting.candidates}


async def test_the_access_url_as_an_address() -> None:
    """It is one replica's own when others have others; the only replica needs none."""
    rows = (row("coderd-0", "http://coder.example.com"), row("coderd-1", "http://10.0.0.2:8080"))
    found = {"http://coder.example.com": "coderd-0", "http://10.0.0.2:8080": "coderd-1"}
    assert found == names(await watch(Table(rows)).look())
    assert {} == names(await watch(Table(rows[:1])).look())


async def test_two_rows_of_one_address() -> None:
    """The one that runs, and of those the newest: a replica that crashed leaves its row for a moment."""
    old = row("old", "http://10.0.0.1:8080", created_timestamp_seconds=1.0)
    new = row("new", "http://10.0.0.1:8080", created_timestamp_seconds=2.0)
    dead = row("dead", "http://10.0.0.1:8080", created_timestamp_seconds=3.0, running=False)
    for rows in ((old, new, dead), (dead, new, old)):
        assert {"http://10.0.0.1:8080": "new"} == names(await watch(Table(rows)).look())


async def test_who_is_held_is_told_by_place() -> None:
    """Who runs, or crashed; neither who was stopped, nor a proxy, nor one that is elsewhere now."""

    def aged(name: str, url: str, silent_seconds: float, began: float = 1.0, **more: object) -> ListedReplica:
        times = {"created_timestamp_seconds": began, "updated_timestamp_seconds": 1e6 - silent_seconds}
        given = {"silent_seconds": silent_seconds, "running": silent_seconds <= 15, **times}
        return row(name, url, **given | more)

    rows = (
        aged("runs", "http://10.0.0.1:8080", 1),
        aged("crashed", "http://10.0.0.2:8080", 100),
        aged("stopped", "http://10.0.0.3:8080", 100, stopped=True, primary=False),
        aged("proxy", "http://10.0.0.4:8080", 100, primary=False),
        aged("long-ago", "http://10.0.0.5:8080", 601),
        aged("moved", "http://10.0.0.6:8080", 100),
        aged("moved", "http://10.0.0.7:8080", 1, began=1e6 - 50, id="moved-there"),
    )
    sighting = await watch(Table(rows)).look()
    assert {"10.0.0.1:8080": "runs", "10.0.0.2:8080": "crashed", "10.0.0.7:8080": "moved"} == {
        str(place): found.hostname for place, found in sighting.held.items()
    }
    assert ["10.0.0.6:8080"] == [str(place) for place in sighting.succeeded]
    assert {"http://10.0.0.1:8080": "runs", "http://10.0.0.7:8080": "moved"} == names(sighting)


async def test_nobody_is_held_by_rows_of_before() -> None:
    """Neither when the table fails nor when we may not read it any more; whom it did hold is not known then."""
    table = Table((row("runs", "http://10.0.0.1:8080"),))
    looking = watch(table)
    assert 1 == len((await looking.look()).held)
    for table.rows in (ConnectError("gone"), AuthError("denied"), None):
        assert (await looking.look()).held is None


async def test_a_proxy_hides_no_coderd_of_the_same_address() -> None:
    """Which of them answers there is told by who is asked; a coderd that was stopped hides no proxy."""
    coderd = row("coderd-0", "http://10.0.0.1:8080", created_timestamp_seconds=1.0)
    proxy = row("proxy", "http://10.0.0.1:8080", primary=False, created_timestamp_seconds=2.0)
    gone = row("coderd-0", "http://10.0.0.1:8080", created_timestamp_seconds=3.0, running=False)
    for rows in ((coderd, proxy), (proxy, coderd)):
        assert {"http://10.0.0.1:8080": "coderd-0"} == names(await watch(Table(rows)).look())
    assert {} == names(await watch(Table((gone, proxy))).look())


async def test_no_table_and_no_token() -> None:
    """There is nobody to ask: there are none, and that is no failure."""
    for table in (None, Table(None), Table(AuthError("no"))):
        assert (
            Sighting(access_origin=(await watch().look()).access_origin, candidates=(), source="")
            == await watch(table).look()
        )


async def test_a_table_that_fails() -> None:
    """Nobody can tell."""
    sighting = await watch(Table(ConnectError("gone"))).look()
    assert sighting.candidates is None
    assert sighting.failure is not None
    assert "gone" == sighting.failure.message


async def test_discovery_can_be_switched_off() -> None:
    """Neither the table nor the API is asked, not even for names."""
    table = Table((row("coderd-0", "http://10.0.0.1:8080"),))
    assert {} == names(await watch(table, token=TOKEN, discover=False).look())
    static = (Replica(name="written", url="http://10.0.0.1:8080"),)
    assert {"http://10.0.0.1:8080": "written"} == names(await watch(table, static=static, discover=False).look())
    assert 0 == table.reads


async def test_too_many_are_cut_by_name() -> None:
    """Who is left out does not depend on the order of the rows."""
    rows = tuple(row(f"coderd-{number:03}", f"http://10.0.0.1:{9000 - number}") for number in range(MAX_REPLICAS + 7))
    sightings = [await watch(Table(some)).look() for some in (rows, rows[::-1])]
    assert [7, 7] == [sighting.left_out for sighting in sightings]
    assert sightings[0].candidates == sightings[1].candidates
    found = names(sightings[0])
    assert found is not None
    assert {f"coderd-{number:03}" for number in range(MAX_REPLICAS)} == set(found.values())


# the API


async def test_the_api_is_asked_with_the_token_where_there_is_no_table() -> None:
    """As a real server answered; only the access URL sees the token."""
    async with RawServer({API_PATH: json_response(read_answer("proxies-up-replicas.json"))}) as server:
        for table in (None, Table(None), Table(AuthError("no"))):
            sighting = await watch(table, access=server.url, token=TOKEN).look()
            assert ({"http://127.0.0.1:42201": "vm"}, "api") == (names(sighting), sighting.source)
    assert "abcdefghij-0123456789012345678901" == server.headers[0]["coder-session-token"]


async def test_the_api_is_not_asked_while_the_table_tells() -> None:
    """The table tells more."""
    async with RawServer({}) as server:
        await watch(Table(()), access=server.url, token=TOKEN).look()
    assert [] == server.asked


async def test_the_api_stands_in_for_a_table_that_fails() -> None:
    """One of two sources is enough."""
    async with RawServer({API_PATH: json_response(read_answer("proxies-up-replicas.json"))}) as server:
        sighting = await watch(Table(ConnectError("gone")), access=server.url, token=TOKEN).look()
    assert ({"http://127.0.0.1:42201": "vm"}, None) == (names(sighting), sighting.failure)


_VERSION = {"X_Coder_Build_Version": "v2.26.0"}


@pytest.mark.parametrize(
    "answer",
    [
        json_response(read_answer("provisionerdaemons-404-member.json"), status=404, **_VERSION),
        json_response(read_answer("unknown-route.json"), status=404),
        # a front took Coder's headers away
        json_response(read_answer("provisionerdaemons-404-member.json"), status=404),
        json_response('{"message": "High Availability is a Premium feature."}', status=403),
        json_response('{"message": "High Availability is a Premium feature."}', status=403, **_VERSION),
        json_response(read_answer("debug-health-401-unknown-token.json"), status=401, **_VERSION),
        json_response("[]"),
        json_response("null"),
    ],
)
async def test_an_api_that_lists_nothing_for_us(answer: HTTPAnswer) -> None:
    """A member's token, an old server, no license, a lost token, an empty list: there are none, for now."""
    async with RawServer({API_PATH: answer}) as server:
        sighting = await watch(access=server.url, token=TOKEN).look()
    assert ({}, None) == (names(sighting), sighting.failure)


@pytest.mark.parametrize(
    ("reason", "answer"),
    [
        (Reason.STATUS, response(404, b"<html>")),
        (Reason.STATUS, response(500)),
        (Reason.STATUS, response(302, Location="https://sign.in")),
        (Reason.STATUS, response(429)),
        (Reason.AUTH, json_response(read_answer("trouble-db-cut.json"), status=401, **_VERSION)),
        (Reason.AUTH, response(403, b"<html>")),
        (Reason.PROTOCOL, json_response("{}")),
        (Reason.PROTOCOL, response(200, b"<html>")),
        (Reason.PROTOCOL, response(200, b"[" + b" " * (1 << 20) + b"]")),
        (Reason.TIMEOUT, hang),
    ],
)
async def test_an_api_that_fails(reason: Reason, answer: HTTPAnswer) -> None:
    """What Coder did not say in good order tells nothing; its database being gone is no lost token."""
    async with RawServer({API_PATH: answer}) as server:
        seconds = 0.5 if reason is Reason.TIMEOUT else 10.0
        sighting = await watch(access=server.url, token=TOKEN, timeout_seconds=seconds).look()
    assert sighting.candidates is None
    assert sighting.failure is not None
    assert reason == sighting.failure.reason


async def test_a_token_that_cannot_be_read(tmp_path: Path) -> None:
    """It is a failure like others, and nobody is asked without it."""
    async with RawServer({}) as server:
        sighting = await watch(access=server.url, token=SessionToken(token_file=tmp_path / "gone")).look()
    assert sighting.candidates is None
    assert [] == server.asked


# the list


async def test_a_written_list_is_named_by_its_rows() -> None:
    """By host and port, by the address that a host name has; who has no row keeps the configured name."""
    static = (
        Replica(name="a", url="http://10.0.0.1:8080"),
        Replica(name="b", url="https://localhost:8443"),
        Replica(name="c", url="http://Coderd-2:8080"),
        Replica(name="d", url="http://10.0.0.1:9090"),
    )
    table = Table(
        (
            row("coderd-0", "http://10.0.0.1:8080"),
            row("coderd-1", "http://127.0.0.1:8443"),
            row("coderd-2", "http://coderd-2:8080"),
            row("elsewhere", "http://10.0.0.9:8080"),
        )
    )
    async with serve_names({"coderd-2": Answer.NXDOMAIN}) as server:
        sighting = await watch(table, static=static, nameservers=[server.address]).look()
    assert {
        "http://10.0.0.1:8080": "coderd-0",
        "http://10.0.0.1:9090": "d",
        "https://localhost:8443": "coderd-1",
        "http://coderd-2:8080": "coderd-2",
    } == names(sighting)
    assert ("urls", True) == (sighting.source, all(one.configured for one in sighting.candidates or ()))


async def test_a_written_list_needs_no_rows() -> None:
    """While the table fails the list stands, and it is told why names are missing; later rows are kept."""
    table = Table(ConnectError("gone"))
    watching = watch(table, static=(Replica(name="a", url="http://10.0.0.1:8080"),))
    sighting = await watching.look()
    assert {"http://10.0.0.1:8080": "a"} == names(sighting)
    assert sighting.failure is not None
    table.rows = (row("coderd-0", "http://10.0.0.1:8080"),)
    assert {"http://10.0.0.1:8080": "coderd-0"} == names(await watching.look())
    table.rows = ConnectError("gone again")
    assert {"http://10.0.0.1:8080": "coderd-0"} == names(await watching.look())


async def test_a_dead_replica_keeps_its_name() -> None:
    """The row of a replica that died is there for half an hour, and names what is written down; what was
    stopped says that it is no primary, and is no proxy for that."""
    table = Table((row("coderd-0", "http://10.0.0.1:8080", running=False, primary=False),))
    sighting = await watch(table, static=(Replica(name="a", url="http://10.0.0.1:8080"),)).look()
    assert sighting.candidates is not None
    assert [("coderd-0", False)] == [(one.name, one.proxy) for one in sighting.candidates]


async def test_addresses_of_proxies_are_told() -> None:
    """By the rows of running proxies, and by the URLs of the list of proxies."""
    urls = ("http://10.0.0.1:3001", "https://eu.example.com", "http://10.0.0.3:8080")
    table = Table((row("proxy", "http://10.0.0.1:3001", primary=False),))
    static = tuple(Replica(name=url, url=url) for url in urls)
    async with serve_names({}) as server:
        watching = watch(table, static=static, nameservers=[server.address])
        watching.set_proxies(
            [
                ListedProxy(id="1", name="eu", url="https://EU.example.com/path"),
                ListedProxy(id="2", name="never registered", url=""),
            ]
        )
        sighting = await watching.look()
    assert sighting.candidates is not None
    assert {urls[0]: True, urls[1]: True, urls[2]: False} == {str(one.origin): one.proxy for one in sighting.candidates}


# DNS


DNS = ReplicaDNS(name="coder.test", port=8080)


async def test_dns_gives_addresses_of_both_families() -> None:
    """Each is a replica, in the scheme that was written; it is asked anew each time."""
    async with serve_names({"coder.test": ("10.0.0.2", "10.0.0.1", "fd00::1")}) as server:
        watching = watch(dns=DNS, nameservers=[server.address])
        sighting = await watching.look()
        assert {"http://10.0.0.1:8080": "", "http://10.0.0.2:8080": "", "http://[fd00::1]:8080": ""} == names(sighting)
        assert ("dns", True) == (sighting.source, all(one.configured for one in sighting.candidates or ()))
        server.zone["coder.test"] = ("10.0.0.3",)
        assert {"http://10.0.0.3:8080": ""} == names(await watching.look())


async def test_dns_is_named_by_rows() -> None:
    """By the relay address; what has no row has no name."""
    table = Table((row("coderd-0", "http://10.0.0.1:8080"), row("other", "http://10.0.0.2:9999")))
    async with serve_names({"coder.test": ("10.0.0.1", "10.0.0.2")}) as server:
        sighting = await watch(table, dns=DNS, nameservers=[server.address]).look()
    assert {"http://10.0.0.1:8080": "coderd-0", "http://10.0.0.2:8080": ""} == names(sighting)


@pytest.mark.parametrize("relay", ["http://10.0.0.1:8080", "http://[fd00::1]:8080"])
async def test_two_addresses_of_one_replica(relay: str) -> None:
    """Where rows tell which family replicas are known by, the other one is left out."""
    table = Table((row("coderd-0", relay),))
    async with serve_names({"coder.test": ("10.0.0.1", "10.0.0.2", "fd00::1", "fd00::2")}) as server:
        found = names(await watch(table, dns=DNS, nameservers=[server.address]).look())
    assert found is not None
    assert 2 == len(found)
    assert "coderd-0" == found[relay]


async def test_services_tell_their_ports() -> None:
    """Called by the name of the service's host, or by that of the row which its address leads to."""
    zone = {
        "_http._tcp.coder.test": (
            SRV(host="coderd-0.coder.test", port=8080),
            SRV(host="coderd-1.coder.test", port=8081),
            SRV(host="bad host.test", port=1),
        ),
        "coderd-0.coder.test": ("10.0.0.1", "fd00::1"),
    }
    table = Table((row("pod", "http://[fd00::1]:8080"),))
    dns = ReplicaDNS(name="_http._tcp.coder.test", port=None, scheme="https")
    async with serve_names(zone) as server:  # type: ignore[arg-type]
        sighting = await watch(table, dns=dns, nameservers=[server.address]).look()
    assert {
        "https://coderd-0.coder.test:8080": "pod",
        "https://coderd-1.coder.test:8081": "coderd-1.coder.test",
    } == names(sighting)


@pytest.mark.parametrize("dns", [DNS, ReplicaDNS(name="_http._tcp.coder.test", port=None)])
@pytest.mark.parametrize("answer", [Answer.NXDOMAIN, Answer.NO_DATA])
async def test_dns_that_says_there_is_nothing(dns: ReplicaDNS, answer: Answer) -> None:
    """There are none; the table is no other source."""
    table = Table((row("coderd-0", "http://10.0.0.1:8080"),))
    async with serve_names({dns.name: answer}) as server:
        sighting = await watch(table, dns=dns, nameservers=[server.address]).look()
    assert ((), "dns", None) == (sighting.candidates, sighting.source, sighting.failure)


@pytest.mark.parametrize("dns", [DNS, ReplicaDNS(name="_http._tcp.coder.test", port=None)])
@pytest.mark.parametrize(("reason", "answer"), [(Reason.RESOLVE, Answer.SERVFAIL), (Reason.TIMEOUT, Answer.SILENCE)])
async def test_dns_that_fails(dns: ReplicaDNS, reason: Reason, answer: Answer) -> None:
    """Nobody can tell."""
    async with serve_names({dns.name: answer}) as server:
        seconds = 0.3 if reason is Reason.TIMEOUT else 10.0
        sighting = await watch(dns=dns, nameservers=[server.address], timeout_seconds=seconds).look()
    assert (None, "dns") == (sighting.candidates, sighting.source)
    assert sighting.failure is not None
    assert reason == sighting.failure.reason


async def test_another_access_url_brings_other_rows(tmp_path: Path) -> None:
    """Rows of the deployment before name nobody of the next one."""
    file = tmp_path / "url"
    file.write_text("http://a.example.com")
    table = Table((row("coderd-0", "http://10.0.0.1:8080"),))
    source = ReplicaSource(
        deployment="prod",
        access_url=AccessURL(url_file=file),
        static=(Replica(name="written", url="http://10.0.0.1:8080"),),
        interval_seconds=30.0,
        timeout_seconds=5.0,
    )
    watching = ReplicaWatch(source, clock=SystemClock(), read_table=table.read)
    assert {"http://10.0.0.1:8080": "coderd-0"} == names(await watching.look())
    table.rows = ConnectError("gone")
    file.write_text("http://b.example.com")
    assert {"http://10.0.0.1:8080": "written"} == names(await watching.look())
    file.unlink()
    sighting = await watching.look()
    assert sighting.access_origin is None
    assert [Candidate] == [type(one) for one in sighting.candidates or ()]
