"""URLs of HTTP servers: text in, origin out."""

from __future__ import annotations

import functools
import ipaddress
import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from exporter.errors import WireError

DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Scheme, host and port of a URL. `host` is in lower case, an IPv6 address without brackets."""

    scheme: str
    host: str
    port: int

    @property
    def tls(self) -> bool:
        return self.scheme == "https"

    @property
    def host_header(self) -> str:
        """What the Host header says: the port only when it is not the scheme's own."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"

    def __str__(self) -> str:
        return f"{self.scheme}://{self.host_header}"


# each run asks again, nearly always for the same text; what is refused is not kept
@functools.lru_cache(maxsize=4096)
def parse_origin(text: str) -> Origin:
    """Return the origin of an http or https URL; path and query are dropped, as Coder does.

    Raises:
        WireError: With what is wrong and the wanted form; the text itself is never quoted, since
            it may hold a password.
    """
    if any(ord(char) <= 32 or ord(char) == 127 for char in text):
        raise _refuse("the URL holds a space or a control character")
    match = _BEGINNING.match(text)
    if match is None:
        raise _refuse("the URL does not begin with http:// or https://")
    scheme, authority = match["scheme"].lower(), match["authority"]
    if "@" in authority:
        raise _refuse("the URL holds a user name or password, which Coder does not take")
    if authority.startswith("["):
        host, bracket, rest = authority[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise _refuse(_BAD_HOST)
        return Origin(scheme=scheme, host=_parse_ipv6(host), port=_parse_port(rest[1:], scheme))
    host, _, port = authority.partition(":")
    if ":" in port:
        raise _refuse(_BAD_HOST)  # an IPv6 address without brackets
    if not host:
        raise _refuse("the URL has no host")
    return Origin(scheme=scheme, host=_parse_name(host), port=_parse_port(port, scheme))


# By hand, since urllib's idea of a well-formed host differs from one Python to the next.
_BEGINNING = re.compile(r"(?P<scheme>https?)://(?P<authority>[^/?#]*)", re.IGNORECASE)
_NAME = re.compile(r"[A-Za-z0-9._-]+")
_WANTED = "write it like https://coder.example.com"
_BAD_HOST = "the URL cannot be parsed: its host is malformed"


def _refuse(what: str) -> WireError:
    return WireError(f"{what}; {_WANTED}")


def _parse_port(text: str, scheme: str) -> int:
    if not text:
        return DEFAULT_PORTS[scheme]
    if not (text.isascii() and text.isdigit() and len(text) <= 5 and 1 <= int(text) <= 65535):
        raise _refuse("the URL cannot be parsed: its port is not a number from 1 to 65535")
    return int(text)


def _parse_ipv6(text: str) -> str:
    try:
        address = ipaddress.IPv6Address(text)
    except ValueError:
        raise _refuse(_BAD_HOST) from None
    if address.scope_id is not None:
        raise _refuse(_BAD_HOST)  # a zone means something on one host only
    return str(address)


def _parse_name(text: str) -> str:
    try:
        host = (text if text.isascii() else text.encode("idna").decode("ascii")).lower()
    except UnicodeError:
        raise _refuse(_BAD_HOST) from None
    bare = host.removesuffix(".")
    if not _NAME.fullmatch(bare) or len(bare) > 253 or not all(0 < len(label) <= 63 for label in bare.split(".")):
        raise _refuse(_BAD_HOST)
    return host


def is_address(host: str) -> bool:
    """Say whether a host is an IP address, and no name that has to be looked up."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


@dataclass(frozen=True, slots=True, kw_only=True)
class Location:
    """Where a redirect goes, fit to be shown: without user, password, query and fragment, which may
    hold secrets. `host` is None for a path on the same server, and empty when nobody can tell."""

    text: str
    host: str | None


def read_location(location: str, scheme: str, *, max_chars: int = 200) -> Location:
    """Return what a Location header means, seen from a URL of that scheme. Never raises."""
    absolute = re.match(r"[A-Za-z][A-Za-z0-9+.-]*:", location)
    if absolute is None and not re.match(r"[/\\]{2}", location):
        return Location(text=_show(re.split("[?#]", location)[0], max_chars), host=None)
    try:
        origin = parse_origin(location if absolute is not None else f"{scheme}:{location}")
    except WireError:
        # browsers make something of most of these: what, is not ours to guess
        return Location(text=_show(re.split("[?#]", location)[0].rpartition("@")[2], max_chars), host="")
    path = urlsplit(location).path if absolute is not None or location.startswith("//") else ""
    return Location(text=_show(f"{origin}{path}", max_chars), host=origin.host)


def _show(text: str, max_chars: int) -> str:
    text = "".join(char if char.isprintable() else "?" for char in text)
    return text if len(text) <= max_chars else text[:max_chars] + "..."
