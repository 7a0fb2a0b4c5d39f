"""Names to addresses, asked anew each time. In: a host name; out: its addresses by family.

c-ares keeps answers in a cache that cannot be turned off, so a kept resolver would measure
nothing: each lookup has a resolver of its own.
"""

from __future__ import annotations

import asyncio
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
    return ResolveError(f"looking up {host}: {detail}", phase=Phase.RESOLVE)


def _sort_by_family(host: str, found: pycares.AddrInfoResult) -> Addresses:
    by_family: dict[int, dict[str, None]] = {socket.AF_INET: {}, socket.AF_INET6: {}}
    for node in found.nodes:
        address = node.addr[0]
        text = address.decode("ascii") if isinstance(address, bytes) else str(address)
        by_family.setdefault(node.family, {})[text] = None
    addresses = Addresses(ipv4=tuple(by_family[socket.AF_INET]), ipv6=tuple(by_family[socket.AF_INET6]))
    if not (addresses.ipv4 or addresses.ipv6):
        raise ResolveError(f"looking up {host}: {_ANSWERS[pycares.errno.ARES_ENODATA]}", phase=Phase.RESOLVE)
    return addresses
