"""Names to addresses, asked of a scripted name server on loopback."""

from __future__ import annotations

import asyncio
import socket

import pytest

from exporter.errors import DeadlineError, Phase, Reason, ResolveError
from exporter.net.resolver import Addresses, NoSuchNameError, Service, resolve, resolve_srv
from tests.support.dns_server import SRV, TYPE_A, TYPE_AAAA, TYPE_SRV, Answer, Zone, serve_names


async def test_families_are_told_apart_in_the_order_of_the_answer() -> None:
    """A name with both records gives both families, each address once."""
    async with serve_names({"both.test": ("127.0.0.2", "::1", "127.0.0.2")}) as server:
        found = await resolve("both.test", timeout_seconds=5.0, nameservers=[server.address])
    assert Addresses(ipv4=("127.0.0.2",), ipv6=("::1",)) == found


async def test_each_lookup_asks_again() -> None:
    """Ten lookups of a name with a long time to live are ten questions for each family."""
    async with serve_names({"kept.test": ("127.0.0.2",)}) as server:
        for _ in range(10):
            await resolve("kept.test", timeout_seconds=5.0, nameservers=[server.address])
    assert 10 == server.questions.count(("kept.test", TYPE_A))
    assert 10 == server.questions.count(("kept.test", TYPE_AAAA))


async def test_a_change_is_seen_at_once() -> None:
    """After the records moved, the next lookup gives the new address."""
    async with serve_names({"moved.test": ("127.0.0.2",)}) as server:
        await resolve("moved.test", timeout_seconds=5.0, nameservers=[server.address])
        server.zone["moved.test"] = ("127.0.0.3",)
        found = await resolve("moved.test", timeout_seconds=5.0, nameservers=[server.address])
    assert ("127.0.0.3",) == found.ipv4


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (Answer.NXDOMAIN, "does not exist (NXDOMAIN)"),
        (Answer.NO_DATA, "has no IPv4 or IPv6 address"),
        (Answer.SERVFAIL, "the name server failed (SERVFAIL)"),
        (Answer.REFUSED, "refused the question (REFUSED)"),
        (Answer.FORMERR, "malformed (FORMERR)"),
        (Answer.NOTIMP, "NOTIMP"),
        (Answer.GARBAGE, "malformed answer"),
    ],
)
async def test_a_no_is_told_in_words(answer: Answer, words: str) -> None:
    """Each kind of refusal is a ResolveError that names the host and the kind."""
    async with serve_names({"no.test": answer}) as server:
        with pytest.raises(ResolveError) as caught:
            await resolve("no.test", timeout_seconds=5.0, nameservers=[server.address])
    assert words in caught.value.message
    assert "no.test" in caught.value.message
    assert (Reason.RESOLVE, Phase.RESOLVE) == (caught.value.reason, caught.value.phase)


async def test_silence_ends_at_the_time_limit() -> None:
    """A name server that never answers costs no more than the time limit."""
    loop = asyncio.get_running_loop()
    async with serve_names({"silent.test": Answer.SILENCE}) as server:
        started = loop.time()
        with pytest.raises(DeadlineError) as caught:
            await resolve("silent.test", timeout_seconds=0.3, nameservers=[server.address])
    assert loop.time() - started < 1.5
    assert (Reason.TIMEOUT, Phase.RESOLVE) == (caught.value.reason, caught.value.phase)


async def test_no_name_server_listening() -> None:
    """A refused question port is told as such."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    with pytest.raises(ResolveError, match="no name server is listening"):
        await resolve("any.test", timeout_seconds=5.0, nameservers=[f"127.0.0.1:{port}"])


async def test_cancelling_a_lookup_goes_through() -> None:
    """A lookup that is cancelled while it waits ends at once and leaves nothing behind."""
    async with serve_names({"silent.test": Answer.SILENCE}) as server:
        task = asyncio.create_task(resolve("silent.test", timeout_seconds=30.0, nameservers=[server.address]))
        await server.asked.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


@pytest.mark.parametrize(
    ("literal", "wanted"),
    [
        ("127.0.0.1", Addresses(ipv4=("127.0.0.1",))),
        ("::1", Addresses(ipv6=("::1",))),
        ("2001:db8::7", Addresses(ipv6=("2001:db8::7",))),
    ],
)
async def test_an_ip_address_asks_nobody(literal: str, wanted: Addresses) -> None:
    """An IP address is its own answer."""
    async with serve_names({}) as server:
        found = await resolve(literal, timeout_seconds=5.0, nameservers=[server.address])
    assert wanted == found
    assert [] == server.questions


async def test_the_hosts_file_counts() -> None:
    """`localhost` is known without any name server."""
    async with serve_names({}) as server:
        found = await resolve("localhost", timeout_seconds=5.0, nameservers=[server.address])
    assert "127.0.0.1" in found.ipv4
    assert [] == server.questions


@pytest.mark.parametrize("host", ["localhost.", "LOCALHOST."])
async def test_the_hosts_file_counts_for_absolute_names(host: str) -> None:
    """A dot at the end does not lead past it."""
    async with serve_names({}) as server:
        found = await resolve(host, timeout_seconds=5.0, nameservers=[server.address])
    assert "127.0.0.1" in found.ipv4
    assert [] == server.questions


@pytest.mark.parametrize("host", ["one.test.", "one."])
async def test_an_absolute_name_is_asked_as_it_is(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    """Names of one label too: this host's search domains are not tried."""
    monkeypatch.setenv("LOCALDOMAIN", "search.test")
    name = host.removesuffix(".")
    async with serve_names({name: ("192.0.2.1",)}) as server:
        found = await resolve(host, timeout_seconds=5.0, nameservers=[server.address])
        assert Addresses(ipv4=("192.0.2.1",)) == found
        with pytest.raises(ResolveError, match=r"looking up other\.:.*NXDOMAIN"):
            await resolve("other.", timeout_seconds=5.0, nameservers=[server.address])
    assert {name, "other"} == {asked for asked, _ in server.questions}


@pytest.mark.parametrize("host", ["two..dots.test", "two.dots..", "x" * 64 + ".test"])
async def test_an_impossible_name_is_a_resolve_error(host: str) -> None:
    """A name that DNS cannot carry is refused without a question."""
    async with serve_names({}) as server:
        with pytest.raises(ResolveError):
            await resolve(host, timeout_seconds=5.0, nameservers=[server.address])
    assert [] == server.questions


# services


async def test_services_are_found_with_their_ports() -> None:
    """Each of those who offer a service once, whatever its priority; names in lower case."""
    zone: Zone = {
        "_http._tcp.coder.test": (
            SRV(host="Coder-1.coder.test", port=8080, priority=5),
            SRV(host="coder-0.coder.test", port=8080),
            SRV(host="coder-0.coder.test", port=8081),
            SRV(host="coder-0.coder.test", port=8080, priority=9),
        )
    }
    async with serve_names(zone) as server:
        found = await resolve_srv("_http._tcp.coder.test", timeout_seconds=5.0, nameservers=[server.address])
    assert (
        Service(host="coder-0.coder.test", port=8080),
        Service(host="coder-0.coder.test", port=8081),
        Service(host="coder-1.coder.test", port=8080),
    ) == found
    assert [("_http._tcp.coder.test", TYPE_SRV)] == server.questions


async def test_each_lookup_of_a_service_asks_again() -> None:
    """What changes is seen at once."""
    async with serve_names({"_s._tcp.test": (SRV(host="a.test", port=1),)}) as server:
        await resolve_srv("_s._tcp.test", timeout_seconds=5.0, nameservers=[server.address])
        server.zone["_s._tcp.test"] = (SRV(host="b.test", port=1),)
        (found,) = await resolve_srv("_s._tcp.test", timeout_seconds=5.0, nameservers=[server.address])
    assert "b.test" == found.host


async def test_search_domains_count_for_services(monkeypatch: pytest.MonkeyPatch) -> None:
    """A service is found within this host's search domains, unless its name ends with a dot."""
    monkeypatch.setenv("LOCALDOMAIN", "search.test")
    async with serve_names({"_s._tcp.coder.search.test": (SRV(host="a.test", port=1),)}) as server:
        (found,) = await resolve_srv("_s._tcp.coder", timeout_seconds=5.0, nameservers=[server.address])
        assert Service(host="a.test", port=1) == found
        with pytest.raises(NoSuchNameError):
            await resolve_srv("_s._tcp.coder.", timeout_seconds=5.0, nameservers=[server.address])


@pytest.mark.parametrize(
    ("answer", "words", "nothing"),
    [
        (Answer.NXDOMAIN, "does not exist (NXDOMAIN)", True),
        (Answer.NO_DATA, "nobody offers this service", True),
        (("127.0.0.1",), "nobody offers this service", True),
        ((SRV(host="", port=0),), "nobody offers this service", True),
        (Answer.SERVFAIL, "the name server failed (SERVFAIL)", False),
        (Answer.REFUSED, "refused the question (REFUSED)", False),
        (Answer.GARBAGE, "malformed answer", False),
    ],
)
async def test_no_service_is_told_apart_from_no_answer(
    answer: tuple[str | SRV, ...] | Answer, words: str, nothing: bool
) -> None:
    """A name server that says that there is nothing is another thing than one that fails."""
    async with serve_names({"_s._tcp.test": answer}) as server:
        with pytest.raises(ResolveError) as caught:
            await resolve_srv("_s._tcp.test", timeout_seconds=5.0, nameservers=[server.address])
    assert words in caught.value.message
    assert nothing is isinstance(caught.value, NoSuchNameError)


async def test_silence_about_a_service_ends_at_the_time_limit() -> None:
    """As for addresses."""
    async with serve_names({"_s._tcp.test": Answer.SILENCE}) as server:
        with pytest.raises(DeadlineError):
            await resolve_srv("_s._tcp.test", timeout_seconds=0.2, nameservers=[server.address])


@pytest.mark.parametrize("name", ["_s..test", f"_{'x' * 64}.test"])
async def test_an_impossible_service_is_a_resolve_error(name: str) -> None:
    """A name that DNS cannot carry is refused without a question."""
    async with serve_names({}) as server:
        with pytest.raises(ResolveError):
            await resolve_srv(name, timeout_seconds=5.0, nameservers=[server.address])
    assert [] == server.questions


@pytest.mark.parametrize(
    ("answer", "nothing"), [(Answer.NXDOMAIN, True), (Answer.NO_DATA, True), (Answer.SERVFAIL, False)]
)
async def test_no_address_is_told_apart_from_no_answer(answer: Answer, nothing: bool) -> None:
    """As for services."""
    async with serve_names({"no.test": answer}) as server:
        with pytest.raises(ResolveError) as caught:
            await resolve("no.test", timeout_seconds=5.0, nameservers=[server.address])
    assert nothing is isinstance(caught.value, NoSuchNameError)
