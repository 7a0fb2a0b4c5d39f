"""TLS as a client sees it: whom we trust, what the peer shows, and what went wrong, in words.

In: a file of authorities, an `ssl.SSLObject`, an `ssl.SSLError`. Out: a context that many
connections share, the validity of the served certificates, one sentence.
"""

from __future__ import annotations

import asyncio
import ssl
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from exporter.clock import Clock, SystemClock
from exporter.errors import CertificateError, Phase, TLSError
from exporter.health.access_url import CertificateDates
from exporter.net import certificate
from exporter.net.certificate import PIN_PREFIX, is_meta_certificate, read_certificate, write_time

# How long a loaded file of authorities is good: they are rotated under a running process.
REFRESH_SECONDS = 600.0
_SYSTEM_CLOCK = SystemClock()

# What `verify_code` means. Source: OpenSSL, include/openssl/x509_vfy.h, X509_V_ERR_*.
_NOT_YET_VALID = 9
_EXPIRED = 10
_SELF_SIGNED_LEAF = 18
_SELF_SIGNED_IN_CHAIN = 19
_NO_LOCAL_ISSUER = 20
_NO_INTERMEDIATE = 21
_REVOKED = 23
_INVALID_PURPOSE = 26
_HOSTNAME_MISMATCH = 62
_IP_ADDRESS_MISMATCH = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerCertificates:
    """Validity of what the peer showed, and the `names` and addresses that its leaf is for.

    `chain` is the earliest-ending of the rest: of the verified chain when verification passed (a
    served cross-signed root that nobody needs does not count), else of what was served. None when
    there is no rest. A DERP relay's meta certificate never counts.
    """

    leaf: CertificateDates
    chain: CertificateDates | None = None
    names: tuple[str, ...] = ()


class _Wanted(NamedTuple):
    """Which context: whose authorities, and how much OpenSSL verifies with it."""

    ca_file: Path | None
    chain: bool
    name: bool


@dataclass(frozen=True, slots=True)
class _Loaded:
    context: ssl.SSLContext
    loaded_seconds: float


_loaded: dict[_Wanted, _Loaded] = {}
_loading = threading.Lock()


async def load_ssl_context(
    ca_file: Path | None = None,
    *,
    verify: bool = True,
    certificate_name: str | None = None,
    clock: Clock = _SYSTEM_CLOCK,
) -> ssl.SSLContext:
    """Return the context that all connections with these authorities share.

    It is read in a thread, and again when it is older than `REFRESH_SECONDS`.

    Args:
        ca_file: PEM file trusted besides the system's authorities.
        verify: False takes any certificate.
        certificate_name: What the connection is given as such: the context then leaves the name to
            it, and for a pin the chain too.

    Raises:
        TLSError: The file cannot be read or holds no certificate.
    """
    chain = verify and not (certificate_name is not None and certificate_name.startswith(PIN_PREFIX))
    wanted = _Wanted(ca_file=ca_file if chain else None, chain=chain, name=chain and certificate_name is None)
    known = _loaded.get(wanted)
    if known is not None and clock.monotonic() - known.loaded_seconds < REFRESH_SECONDS:
        return known.context
    return await asyncio.to_thread(_load, wanted, clock)


def _load(wanted: _Wanted, clock: Clock) -> ssl.SSLContext:
    # the first round of many targets arrives here at once: one loads, the others wait for it
    with _loading:
        known = _loaded.get(wanted)
        if known is not None and clock.monotonic() - known.loaded_seconds < REFRESH_SECONDS:
            return known.context
        try:
            context = _build(wanted)
        except TLSError:
            if known is None:
                raise
            # the file is being replaced, or is gone: what was good goes on, and is tried again soon
            context = known.context
        _loaded[wanted] = _Loaded(context, clock.monotonic())
        return context


def _build(wanted: _Wanted) -> ssl.SSLContext:
    # takes some 100 ms the first time, so it is not left to the first certificate on the event loop
    import cryptography.x509  # noqa: F401

    if wanted.chain:
        context = _build_verifying(wanted.ca_file)
        context.check_hostname = wanted.name
    else:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["http/1.1"])
    return context


def _build_verifying(ca_file: Path | None) -> ssl.SSLContext:
    context = ssl.create_default_context()
    # Python 3.13 began to refuse authorities without the newest extensions. Coder's own clients,
    # written in Go, take them: refusing would be a false alarm.
    context.verify_flags &= ~getattr(ssl, "VERIFY_X509_STRICT", 0)
    if ca_file is not None:
        try:
            context.load_verify_locations(cafile=ca_file)
        except ssl.SSLError as error:
            raise TLSError(f"the CA file {ca_file} holds no usable PEM certificate") from error
        except OSError as error:
            raise TLSError(f"the CA file {ca_file} cannot be read: {error.strerror}") from error
    return context


def read_peer_certificates(tls: ssl.SSLObject, *, verified: bool) -> PeerCertificates | None:
    """Return the validity of the peer's certificates, also after verification failed.

    None when the peer showed none, or when this Python does not give them away.
    """
    listed = _list_chain(tls, "get_verified_chain") if verified else []
    if len(listed) < 2:
        listed = _list_chain(tls, "get_unverified_chain") or listed
    if not listed:
        leaf_only = tls.getpeercert(binary_form=True) if verified else None
        listed = [leaf_only] if leaf_only else []
    leaf = read_certificate(listed[0]) if listed else None
    if leaf is None:
        return None
    rest = [read for der in listed[1:] if not is_meta_certificate(der) and (read := read_certificate(der)) is not None]
    chain = min((read.dates for read in rest), key=lambda dates: dates.not_after_timestamp_seconds, default=None)
    return PeerCertificates(leaf=leaf.dates, chain=chain, names=leaf.names + leaf.addresses)


def find_objection(
    tls: ssl.SSLObject, *, peer: str, host: str, certificate_name: str, clock: Clock
) -> CertificateError | None:
    """Look, after a handshake, for what the context left to us: a name other than the one sent, or a pin.

    Args:
        peer: Who was spoken to, address and port.
        host: What was sent as the server's name.
        certificate_name: The name that the certificate should bear, or a pin `sha256-raw:<hex>`.
    """
    der = tls.getpeercert(binary_form=True)
    leaf = read_certificate(der) if der else None
    if leaf is None:
        objection: str | None = "the certificate cannot be read"
    else:
        objection = certificate.find_objection(
            leaf, host=host, certificate_name=certificate_name, now_timestamp_seconds=clock.now()
        )
    return None if objection is None else CertificateError(_write(peer, host, objection), phase=Phase.TLS)


def _list_chain(tls: ssl.SSLObject, method: str) -> list[bytes]:
    """Return certificates in DER. Public from Python 3.13, before only on the C object inside."""
    public = getattr(tls, method, None)
    private = getattr(getattr(tls, "_sslobj", None), method, None)
    listing = public or private
    if listing is None:
        return []
    try:
        chain: list[Any] = listing() or []
    except (ValueError, ssl.SSLError):
        return []
    # in the C object they are `_ssl.Certificate`; 2 is `_ssl.ENCODING_DER`
    return [item if isinstance(item, bytes) else item.public_bytes(2) for item in chain]


def translate(error: ssl.SSLError, *, peer: str, host: str, certificates: PeerCertificates | None) -> TLSError:
    """Put trouble of a handshake into one sentence.

    Args:
        peer: Who was spoken to, address and port.
        host: The name that the certificate should have.
    """
    if isinstance(error, ssl.SSLCertVerificationError):
        detail = _describe_certificate_error(error, host, certificates)
        return CertificateError(_write(peer, host, detail), phase=Phase.TLS)
    kind = CertificateError if (error.reason or "").endswith(_ALERTS_ABOUT_NAMES) else TLSError
    return kind(_write(peer, host, _describe_handshake_error(error)), phase=Phase.TLS)


def _write(peer: str, host: str, detail: str) -> str:
    return f"TLS handshake with {peer} for {host}: {detail}"


def _describe_certificate_error(
    error: ssl.SSLCertVerificationError, host: str, certificates: PeerCertificates | None
) -> str:
    code = error.verify_code
    if code == _EXPIRED:
        return "the certificate has expired" + _say_ended(certificates)
    if code == _NOT_YET_VALID:
        begin = certificates.leaf.not_before_timestamp_seconds if certificates is not None else None
        return "the certificate is not yet valid" + (f" (begins {write_time(begin)})" if begin is not None else "")
    if code in (_HOSTNAME_MISMATCH, _IP_ADDRESS_MISMATCH):
        named = f"; {certificate.show_names(certificates.names)}" if certificates is not None else ""
        return f"the certificate is not for {host} (wrong host){named}"
    if code == _SELF_SIGNED_LEAF:
        return "the certificate is self-signed"
    if code == _SELF_SIGNED_IN_CHAIN:
        return "unknown authority: the chain ends at a root that this host does not trust"
    if code == _NO_LOCAL_ISSUER:
        return "unknown authority: the issuer of the certificate is not trusted by this host"
    if code == _NO_INTERMEDIATE:
        return "the certificate chain is incomplete, or its authority is unknown to this host"
    if code == _REVOKED:
        return "the certificate is revoked"
    if code == _INVALID_PURPOSE:
        return "the certificate is not meant for a server"
    return f"the certificate cannot be verified: {error.verify_message}"


def _say_ended(certificates: PeerCertificates | None) -> str:
    if certificates is None:
        return ""
    dates = [certificates.leaf, *([certificates.chain] if certificates.chain is not None else [])]
    return f" (ended {write_time(min(read.not_after_timestamp_seconds for read in dates))})"


_NOT_TLS = {
    "WRONG_VERSION_NUMBER",
    "HTTP_REQUEST",
    "UNKNOWN_PROTOCOL",
    "PACKET_LENGTH_TOO_LONG",
    "RECORD_LAYER_FAILURE",
}


# How servers say that they have no certificate for the name they are asked for: as RFC 6066 has it,
# and as Go's do that have one name (Tailscale's relay). Source: derp-stun, section 1.5
_ALERTS_ABOUT_NAMES = ("_UNRECOGNIZED_NAME", "_ALERT_INTERNAL_ERROR")


def _describe_handshake_error(error: ssl.SSLError) -> str:
    reason = error.reason or "an unknown error"
    if reason.endswith(_ALERTS_ABOUT_NAMES):
        alert = " ".join(reason.lower().split("_")[-2:])
        return f"the server refused with the alert {alert}: it may have no certificate for this name"
    if reason in _NOT_TLS:
        return "the answer is not TLS; does the port speak plain HTTP?"
    if "_ALERT_" in reason:
        return f"the server refused with the alert {reason.split('_ALERT_', 1)[1].lower().replace('_', ' ')}"
    return f"it failed: {reason.lower().replace('_', ' ')}"
