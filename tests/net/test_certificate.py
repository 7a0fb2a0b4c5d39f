"""One certificate: its dates and names, the names that it bears, and the one that does not count."""

from __future__ import annotations

import ipaddress
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from exporter.net.certificate import Certificate, find_objection, is_meta_certificate, read_certificate, show_names

RELAY_CHAIN = Path(__file__).parents[1] / "data" / "derp" / "derper-main-2026-08-tls-chain.pem"
BEGINS = datetime(2026, 1, 1, tzinfo=UTC)
ENDS = BEGINS + timedelta(days=30)


def make(*names: str, alternatives: bool = True) -> bytes:
    """Return the DER of a certificate for these names and addresses."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "common.test")])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(BEGINS)
        .not_valid_after(ENDS)
    )
    if alternatives:
        builder = builder.add_extension(x509.SubjectAlternativeName([general_name(name) for name in names]), False)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


def general_name(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        return x509.DNSName(text)


def read(*names: str) -> Certificate:
    certificate = read_certificate(make(*names))
    assert certificate is not None
    return certificate


def relay_chain() -> list[bytes]:
    blocks = RELAY_CHAIN.read_text().split("-----BEGIN CERTIFICATE-----")[1:]
    return [ssl.PEM_cert_to_DER_cert("-----BEGIN CERTIFICATE-----" + block) for block in blocks]


def test_a_certificate_is_read() -> None:
    """Dates to the second, names in lower case, addresses in their usual form; the common name is no name."""
    certificate = read("Relay.Test", "192.0.2.1", "2001:db8::1")
    assert BEGINS.timestamp() == certificate.dates.not_before_timestamp_seconds
    assert ENDS.timestamp() == certificate.dates.not_after_timestamp_seconds
    assert (("relay.test",), ("192.0.2.1", "2001:db8::1")) == (certificate.names, certificate.addresses)
    assert not certificate.bears("common.test")


def test_a_certificate_without_names() -> None:
    """One that has no subjectAltName is for nobody."""
    certificate = read_certificate(make(alternatives=False))
    assert certificate is not None
    assert "it names nothing" == certificate.shown_names
    assert not certificate.bears("common.test")


@pytest.mark.parametrize("der", [b"", b"\x30\x00", b"no certificate", make("a.test")[:-20]])
def test_what_is_no_certificate_is_none(der: bytes) -> None:
    """Bytes that are no certificate are no error."""
    assert read_certificate(der) is None


@pytest.mark.parametrize(
    ("names", "name", "bears"),
    [
        (["relay.test"], "relay.test", True),
        (["relay.test"], "RELAY.test.", True),
        (["relay.test"], "a.relay.test", False),
        (["*.relay.test"], "a.relay.test", True),
        (["*.relay.test"], "a.b.relay.test", False),
        (["*.relay.test"], "relay.test", False),
        (["*.relay.test"], ".relay.test", False),
        (["a*.relay.test"], "ab.relay.test", False),
        (["*"], "relay", False),
        (["relay.test"], "", False),
        (["192.0.2.1"], "192.0.2.1", True),
        (["192.0.2.1"], "192.0.2.2", False),
        (["2001:db8::1"], "2001:DB8:0::1", True),
        (["*.0.2.1"], "192.0.2.1", False),
        ([], "relay.test", False),
    ],
)
def test_which_names_a_certificate_bears(names: list[str], name: str, bears: bool) -> None:
    """Names are compared without case, a wildcard is one whole label, addresses are not names."""
    assert bears == read(*names).bears(name)


def test_an_objection_names_what_was_wanted() -> None:
    """The sentence has the wanted name and those of the certificate; the right name has none."""
    now = BEGINS.timestamp() + 1
    certificate = read("relay.test", "127.0.0.1")

    def object_to(name: str) -> str | None:
        return find_objection(certificate, host="relay.test", certificate_name=name, now_timestamp_seconds=now)

    assert object_to("relay.test") is None
    wanted = "the certificate is not for front.test, which it should be; it names relay.test, 127.0.0.1"
    assert wanted == object_to("front.test")
    assert object_to("") is not None


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (BEGINS.timestamp() - 1, "is not yet valid (begins 2026-01-01 00:00 UTC)"),
        (BEGINS.timestamp(), None),
        (ENDS.timestamp(), None),
        (ENDS.timestamp() + 1, "has expired (ended 2026-01-31 00:00 UTC)"),
    ],
)
def test_a_pinned_certificate_has_its_time(seconds: float, words: str | None) -> None:
    """A pin does not make up for dates."""
    certificate = read("relay.test")
    pin = f"sha256-raw:{certificate.sha256}"
    objection = find_objection(certificate, host="relay.test", certificate_name=pin, now_timestamp_seconds=seconds)
    if words is None:
        assert objection is None
    else:
        assert objection is not None
        assert words in objection


def test_a_pinned_certificate_need_not_name_an_address() -> None:
    """A name that is dialled must be in it, an address need not."""
    certificate = read("relay.test")
    pin, now = f"sha256-raw:{certificate.sha256}", BEGINS.timestamp()
    for host, objected in (("192.0.2.1", False), ("relay.test", False), ("other.test", True)):
        objection = find_objection(certificate, host=host, certificate_name=pin, now_timestamp_seconds=now)
        assert objected == (objection is not None)


def test_names_are_shown_with_care() -> None:
    """They are a stranger's words: few, short, and on one line."""
    shown = show_names(("a\nb", "c" * 200, "d", "e", "f", "g", "h"))
    assert "it names a?b, " + "c" * 100 + "..., d, e, f and 2 more" == shown


def test_the_meta_certificate_of_a_real_relay_is_known() -> None:
    """The second of the chain that Tailscale's relay serves is its key in disguise, the first is not."""
    leaf, meta = relay_chain()
    assert [False, True] == [is_meta_certificate(der) for der in (leaf, meta)]
    assert read_certificate(meta) is not None
    assert not is_meta_certificate(make("derpkey" + "0" * 50))
