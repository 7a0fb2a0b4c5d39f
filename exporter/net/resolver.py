"""Names to addresses, asked anew each time. In: a host name; out: its addresses by family. And the names
of services to those who offer them (SRV).

c-ares keeps answers in a cache that cannot be turned off, so a kept resolver would measure
nothing: each lookup has a resolver of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import ipaddress
import socket
from collections.abc import Sequence
from dataclasses import dataclass

import aiodns
import pycares

from exporter.errors import DeadlineError, Phase, ProbeError, Reason, ResolveError

# What the answer was, in words. Source: c-ares, include/ares.h, ares_status_t.
_ANSWERS = {
    pycares.errno.ARES_ENODATA: "the name exists but has no IPv4 or IPv6 address",
    pycares.errno.ARES_EFORMERR: "the name server called the question malformed (FORMERR)",
    pycares.errno.ARES_ESERVFAIL: "the name server failed (SERVFAIL)",
    pycares.errno.ARES_ENOTFOUND: "the name does not exist (NXDOMAIN)",
    pycares.errno.ARES_ENOTIMP: "the name server does not do such questions (NOTIMP)",
    pycares.errno.ARES_EREFUSED: "the name server refused the question (REFUSED)",
    pycares.errno.ARES_EBADNAME: "it is not a valid name",
    pycares.errno.ARES_EBADRESP: "the name server sent a malformed answer",
    26: "no name server is configured on this host",  # ARES_ENOSERVER, not named by pycares
    pycares.errno.ARES_ECONNREFUSED: "no name server is listening (connection refused)",
}


# c-ares has EDNS on unless it is given flags
_ABSOLUTE = pycares.ARES_FLAG_NOSEARCH | pycares.ARES_FLAG_EDNS


# The server has told that there is nothing, which is not the same as no answer.
_NOTHING = (pycares.errno.ARES_ENODATA, pycares.errno.ARES_ENOTFOUND)


class NoSuchNameError(ResolveError):
    """The answer came in good order: the name does not exist, or has no such records."""

    answered = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Addresses:
    """What a name resolved to, in the order of the resolver. At least one of both is not empty."""

    ipv4: tuple[str, ...] = ()
    ipv6: tuple[str, ...] = ()


async def resolve(host: str, *, timeout_seconds: float, nameservers: Sequence[str] = ()) -> Addresses:
    """Look up a name with this host's resolver configuration and its hosts file.

    An IP address, without brackets, is its own answer and asks nobody. A name with a dot at its end
    is absolute: it is looked up as it is, without this host's search domains.

    Args:
        nameservers: Ask these instead: `address` or `address:port`.

    Raises:
        ResolveError: The answer was no, told in words.
        DeadlineError: No answer in time, from our own time limit or the resolver's.
    """
    literal = _parse_literal(host)
    if literal is not None:
        return literal
    # c-ares looks for the name in the hosts file as it is written, where no name ends with a dot
    name = host if host.endswith("..") else host.removesuffix(".") or host
    flags = None if name == host else _ABSOLUTE
    try:
        resolver = aiodns.DNSResolver(nameservers=nameservers or None, flags=flags)
    except pycares.AresError as error:
        message = f"looking up {host}: this host cannot start a resolver: {error}"
        raise ProbeError(message, phase=Phase.RESOLVE, reason=Reason.INTERNAL) from error
    try:
        async with asyncio.timeout(timeout_seconds):
            found = await resolver.getaddrinfo(name, type=socket.SOCK_STREAM)
    except TimeoutError as error:
        message = f"looking up {host}: no answer from a name server within {timeout_seconds:.3g} s"
        raise DeadlineError(message, phase=Phase.RESOLVE) from error
    except aiodns.error.DNSError as error:
        raise _translate(host, error) from error
    finally:
        await resolver.close()
    return _sort_by_family(host, found)


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Service:
    """Who offers a service: a host name without a dot at its end, in lower case, and a port."""

    host: str
    port: int


async def resolve_srv(name: str, *, timeout_seconds: float, nameservers: Sequence[str] = ()) -> tuple[Service, ...]:
    """Look up who offers a service, like `_http._tcp.coder.example.com`, with this host's resolver
    configuration; each once, by name and port, whatever their priority. Not empty.

    A name with a dot at its end is absolute: this host's search domains are not tried.

    Args:
        nameservers: Ask these instead: `address` or `address:port`.

    Raises:
        NoSuchNameError: There is no such service, or it is decidedly not offered.
        ResolveError: The answer was no for another reason, told in words.
        DeadlineError: No answer in time, from our own time limit or the resolver's.

    Source: RFC 2782
    """
    loop = asyncio.get_running_loop()
    answered: asyncio.Future[pycares.DNSResult] = loop.create_future()

    def take(result: pycares.DNSResult | None, code: int | None) -> None:
        if answered.done():
            return  # cancelled, or late
        if code is not None:
            answered.set_exception(aiodns.error.DNSError(code, pycares.errno.strerror(code)))
        elif result is not None:
            answered.set_result(result)

    def hear(result: pycares.DNSResult | None, code: int | None) -> None:
        # in the resolver's own thread; after the loop has ended nobody waits for it
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(take, result, code)

    bare = name.removesuffix(".")
    flags = None if bare == name else _ABSOLUTE
    channel = None
    try:
        # aiodns has no lookups of records that honour the search domains
        channel = pycares.Channel(flags=flags, servers=list(nameservers) or None)
        async with asyncio.timeout(timeout_seconds):
            channel.search(bare, pycares.QUERY_TYPE_SRV, callback=hear)
            found = await answered
    except TimeoutError as error:
        message = f"looking up {name}: no answer from a name server within {timeout_seconds:.3g} s"
        raise DeadlineError(message, phase=Phase.RESOLVE) from error
    except pycares.AresError as error:
        if channel is not None:
            raise _translate(name, aiodns.error.DNSError(*error.args)) from error
        message = f"looking up {name}: this host cannot start a resolver: {error}"
        raise ProbeError(message, phase=Phase.RESOLVE, reason=Reason.INTERNAL) from error
    except aiodns.error.DNSError as error:
        if error.args and error.args[0] == pycares.errno.ARES_ENODATA:
            raise _nobody(name) from error
        raise _translate(name, error) from error
    finally:
        if channel is not None:
            channel.close()
    records = [record.data for record in found.answer if isinstance(record.data, pycares.SRVRecordData)]
    services = {Service(host=data.target.rstrip(".").lower(), port=data.port) for data in records}
    offered = tuple(sorted(service for service in services if service.host and service.port))
    if not offered:
        raise _nobody(name)
    return offered


def _nobody(name: str) -> NoSuchNameError:
    return NoSuchNameError(f"looking up {name}: nobody offers this service", phase=Phase.RESOLVE)


@functools.lru_cache(maxsize=4096)
def _parse_literal(host: str) -> Addresses | None:
    # most names hold a letter that no IPv4 address has, so the common case needs no exception
    if ":" not in host and not host.replace(".", "").isdigit():
        return None
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    return Addresses(ipv4=(host,)) if address.version == 4 else Addresses(ipv6=(host,))


def _translate(host: str, error: aiodns.error.DNSError) -> ProbeError:
    code = error.args[0] if error.args else None
    if code == pycares.errno.ARES_ETIMEOUT:
        return DeadlineError(f"looking up {host}: no answer from any name server", phase=Phase.RESOLVE)
    answer = _ANSWERS.get(code) if isinstance(code, int) else None
    detail = answer or f"the resolver failed: {error.args[1] if len(error.args) > 1 else error}"
    kind = NoSuchNameError if code in _NOTHING else ResolveError
    return kind(f"looking up {host}: {detail}", phase=Phase.RESOLVE)


def _sort_by_family(host: str, found: pycares.AddrInfoResult) -> Addresses:
    by_family: dict[int, dict[str, None]] = {socket.AF_INET: {}, socket.AF_INET6: {}}
    for node in found.nodes:
        address = node.addr[0]
        text = address.decode("ascii") if isinstance(address, bytes) else str(address)
        by_family.setdefault(node.family, {})[text] = None
    addresses = Addresses(ipv4=tuple(by_family[socket.AF_INET]), ipv6=tuple(by_family[socket.AF_INET6]))
    if not (addresses.ipv4 or addresses.ipv6):
        raise NoSuchNameError(f"looking up {host}: {_ANSWERS[pycares.errno.ARES_ENODATA]}", phase=Phase.RESOLVE)
    return addresses
