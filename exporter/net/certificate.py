"""One certificate as a server shows it: from when to when, for whom, and whether it is the wanted one.

In: DER. Out: a `Certificate`, and a sentence when it does not bear the name that it should. Only for
what OpenSSL cannot be told: a name that is not the one sent as SNI, and a pin.
"""

from __future__ import annotations

import functools
import hashlib
import ipaddress
import re
from dataclasses import dataclass
from datetime import UTC, datetime

from exporter.health.access_url import CertificateDates

# A DERP map pins a leaf so: the SHA-256 of its DER. Source: tailscale derp/derphttp, CertName
PIN_PREFIX = "sha256-raw:"
_PIN = re.compile(r"[0-9a-f]{64}")

# Tailscale's relay appends a certificate to its chain whose issuer and subject is its DERP key. It
# proves nothing and is often expired. Its name is longer than X.509 allows, over which a parser of
# names stumbles. Source: tailscale derp/derpserver, MetaCert
_META_NAME = re.compile(rb"derpkey[0-9a-f]{64}")

_MAX_SHOWN_NAMES = 5
_MAX_NAME_CHARS = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """`names` and `addresses` are those of its subjectAltName, names in lower case; others do not count.

    `sha256` is that of its DER, 64 hexadecimal digits.
    """

    dates: CertificateDates
    names: tuple[str, ...]
    addresses: tuple[str, ...]
    sha256: str

    @property
    def shown_names(self) -> str:
        """What it is for, as a sentence may say it."""
        return show_names(self.names + self.addresses)

    def bears(self, name: str) -> bool:
        """Tell whether it is for a name or an IP address. Source: RFC 9525, section 6.3"""
        address = _parse_address(name)
        if address is not None:
            return address in self.addresses
        wanted = name.rstrip(".").lower()
        label, _, parent = wanted.partition(".")
        # a wildcard stands for one whole label
        return wanted in self.names or (bool(label and parent) and f"*.{parent}" in self.names)


def show_names(names: tuple[str, ...]) -> str:
    """Return names that a stranger wrote as a sentence may quote them."""
    if not names:
        return "it names nothing"
    shown = ("".join(char if char.isprintable() else "?" for char in name) for name in names[:_MAX_SHOWN_NAMES])
    listed = ", ".join(name if len(name) <= _MAX_NAME_CHARS else name[:_MAX_NAME_CHARS] + "..." for name in shown)
    more = len(names) - _MAX_SHOWN_NAMES
    return f"it names {listed}" + (f" and {more} more" if more > 0 else "")


@functools.lru_cache(maxsize=512)
def read_certificate(der: bytes) -> Certificate | None:
    """Return what a certificate says; None when it cannot be read."""
    from cryptography import x509

    try:
        certificate = x509.load_der_x509_certificate(der)
        dates = CertificateDates(
            not_before_timestamp_seconds=certificate.not_valid_before_utc.timestamp(),
            not_after_timestamp_seconds=certificate.not_valid_after_utc.timestamp(),
        )
    except (ValueError, x509.InvalidVersion):
        return None
    names: tuple[str, ...] = ()
    addresses: tuple[str, ...] = ()
    try:
        alternatives = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        names = tuple(name.rstrip(".").lower() for name in alternatives.get_values_for_type(x509.DNSName))
        addresses = tuple(str(address) for address in alternatives.get_values_for_type(x509.IPAddress))
    except (ValueError, x509.ExtensionNotFound, x509.DuplicateExtension, x509.UnsupportedGeneralNameType):
        pass  # who is not named, or unreadably, is not named
    return Certificate(dates=dates, names=names, addresses=addresses, sha256=hashlib.sha256(der).hexdigest())


def is_meta_certificate(der: bytes) -> bool:
    """Tell whether it is the one in which a relay shows its DERP key."""
    names = _META_NAME.findall(der)
    return len(names) >= 2 and len(set(names)) == 1  # issuer and subject


def find_objection(
    certificate: Certificate, *, host: str, certificate_name: str, now_timestamp_seconds: float
) -> str | None:
    """Return what is wrong with a leaf, or None.

    Args:
        host: What was dialled. A pinned leaf must name it too, unless it is an IP address.
        certificate_name: The name that it should bear, after its chain was verified; or a pin, for
            which there is no chain.
    """
    if not certificate_name.startswith(PIN_PREFIX):
        if certificate.bears(certificate_name):
            return None
        return f"the certificate is not for {certificate_name}, which it should be; {certificate.shown_names}"
    wanted = certificate_name.removeprefix(PIN_PREFIX)
    if not _PIN.fullmatch(wanted):
        return f"{PIN_PREFIX} must be followed by 64 hexadecimal digits in lower case"
    if certificate.sha256 != wanted:
        return f"the certificate is not the one that is pinned: its SHA-256 is {certificate.sha256} and not {wanted}"
    if _parse_address(host) is None and not certificate.bears(host):
        return f"the pinned certificate is not for {host} (wrong host); {certificate.shown_names}"
    if now_timestamp_seconds > certificate.dates.not_after_timestamp_seconds:
        return f"the pinned certificate has expired (ended {write_time(certificate.dates.not_after_timestamp_seconds)})"
    if now_timestamp_seconds < certificate.dates.not_before_timestamp_seconds:
        begins = write_time(certificate.dates.not_before_timestamp_seconds)
        return f"the pinned certificate is not yet valid (begins {begins})"
    return None


def write_time(timestamp_seconds: float) -> str:
    """Return a time to the minute, as messages show it."""
    return datetime.fromtimestamp(timestamp_seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")


def _parse_address(text: str) -> str | None:
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        return None
