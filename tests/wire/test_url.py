"""Origins: what is taken, what is refused and in which words."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.errors import WireError
from exporter.wire.url import Location, Origin, is_address, parse_origin, read_location


@pytest.mark.parametrize(
    ("host", "named"), [("coder.example.com", True), ("localhost", True), ("127.0.0.1", False), ("2001:db8::1", False)]
)
def test_a_name_is_told_from_an_address(host: str, named: bool) -> None:
    """A name has to be looked up."""
    assert named is not is_address(host)


@pytest.mark.parametrize(
    ("text", "wanted", "written"),
    [
        ("https://coder.example.com", Origin(scheme="https", host="coder.example.com", port=443), None),
        ("http://coder.example.com", Origin(scheme="http", host="coder.example.com", port=80), None),
        ("https://coder.example.com:443/", Origin(scheme="https", host="coder.example.com", port=443), None),
        ("HTTPS://Coder.Example.COM", Origin(scheme="https", host="coder.example.com", port=443), None),
        ("http://localhost:3000/base?a=b#c", Origin(scheme="http", host="localhost", port=3000), None),
        ("http://127.0.0.1:8080", Origin(scheme="http", host="127.0.0.1", port=8080), None),
        ("http://[::1]:8080/x", Origin(scheme="http", host="::1", port=8080), "http://[::1]:8080"),
        ("https://[2001:DB8:0::1]", Origin(scheme="https", host="2001:db8::1", port=443), "https://[2001:db8::1]"),
        ("https://coder_1.svc.", Origin(scheme="https", host="coder_1.svc.", port=443), None),
        ("https://bücher.example", Origin(scheme="https", host="xn--bcher-kva.example", port=443), None),
        ("http://a:80?x", Origin(scheme="http", host="a", port=80), "http://a"),
        ("https://a:65535", Origin(scheme="https", host="a", port=65535), "https://a:65535"),
        ("https://coder.example.com:", Origin(scheme="https", host="coder.example.com", port=443), None),
    ],
)
def test_an_origin_is_read_and_written(text: str, wanted: Origin, written: str | None) -> None:
    """Scheme, host and port are read, the rest is dropped, and the origin reads itself back."""
    origin = parse_origin(text)
    assert wanted == origin
    assert origin == parse_origin(str(origin))
    if written is not None:
        assert written == str(origin)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "does not begin with http:// or https://"),
        ("coder.example.com", "does not begin with http:// or https://"),
        ("coder.example.com:443", "does not begin with http:// or https://"),
        ("//coder.example.com", "does not begin with http:// or https://"),
        ("https:coder.example.com", "does not begin with http:// or https://"),
        ("https:/coder.example.com", "does not begin with http:// or https://"),
        ("ftp://coder.example.com", "does not begin with http:// or https://"),
        ("https://", "has no host"),
        ("https:///path", "has no host"),
        ("https://:443", "has no host"),
        ("https://?a", "has no host"),
        ("https://user:hunter2@coder.example.com", "user name or password"),
        ("https://hunter2@coder.example.com", "user name or password"),
        ("https://@coder.example.com", "user name or password"),
        ("https://coder.example.com:0", "port is not a number from 1 to 65535"),
        ("https://coder.example.com:65536", "port is not a number from 1 to 65535"),
        ("https://coder.example.com:http", "port is not a number from 1 to 65535"),
        ("https://coder.example.com:-1", "port is not a number from 1 to 65535"),
        ("https://coder.example.com:+80", "port is not a number from 1 to 65535"),
        ("https://coder.example.com:8_0", "port is not a number from 1 to 65535"),
        ("https://[::1", "malformed"),
        ("https://::1", "malformed"),
        ("https://[::1]x", "malformed"),
        ("https://[fe80::1%25eth0]", "malformed"),
        ("https://[fe80::1%eth0]", "malformed"),
        ("https://[v1.x]", "malformed"),
        ("https://a..b", "malformed"),
        ("https://.a", "malformed"),
        ("https://.", "malformed"),
        ("https://" + "a" * 64 + ".example", "malformed"),
        ("https://" + "a." * 127 + "aa", "malformed"),
        ("https://a$b", "malformed"),
        ("https://a,b", "malformed"),
        ("https://a\\b", "malformed"),
        ("https://%61", "malformed"),
        ("https://coder.example.com ", "space or a control character"),
        ("https://coder example.com", "space or a control character"),
        ("https://coder.example.com\n", "space or a control character"),
        ("https://coder\x00.example.com", "space or a control character"),
        ("https://a\u3000b", "malformed"),
        ("https://a\uff0fb", "malformed"),
        ("https://a\u200bb", None),
    ],
)
def test_what_is_no_origin_is_refused_in_words(text: str, words: str | None) -> None:
    """Each mistake has its sentence with the wanted form, and the text itself is not quoted."""
    if words is None:
        # a zero-width space vanishes by the rules of international names
        assert "ab" == parse_origin(text).host
        return
    with pytest.raises(WireError) as caught:
        parse_origin(text)
    assert words in str(caught.value)
    assert "write it like https://coder.example.com" in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_the_host_header_has_the_port_only_when_it_is_not_the_schemes_own() -> None:
    """Port 443 belongs to https alone."""
    assert "a" == parse_origin("https://a:443").host_header
    assert "a:443" == parse_origin("http://a:443").host_header
    assert "[::1]:1" == parse_origin("http://[::1]:1").host_header


def test_only_https_is_tls() -> None:
    """The scheme decides about TLS, not the port."""
    assert parse_origin("https://a:80").tls
    assert not parse_origin("http://a:443").tls


@given(st.text() | st.text(alphabet="htps:/[]@.%0123456789abé_-", max_size=30).map("https://".__add__))
def test_any_text_is_an_origin_or_a_wire_error(text: str) -> None:
    """Whatever is written either gives an origin that HTTP can carry or a WireError."""
    try:
        origin = parse_origin(text)
    except WireError:
        return
    assert origin.scheme in ("http", "https")
    assert 1 <= origin.port <= 65535
    assert origin.host.isascii()
    assert origin.host.isprintable()
    assert not set(origin.host) & set(" /?#@[]")
    assert origin == parse_origin(str(origin))


@pytest.mark.parametrize(
    ("location", "text", "host"),
    [
        ("/login", "/login", None),
        ("login?next=//evil.example.org", "login", None),
        ("https://SSO.example.org/x?token=1#y", "https://sso.example.org/x", "sso.example.org"),
        ("//sso.example.org:8443/x", "https://sso.example.org:8443/x", "sso.example.org"),
        ("https://svc:hunter2@idp.example.org/cb?access_token=2", "idp.example.org/cb", ""),
        ("https://[bad", "https://[bad", ""),
        ("https:/evil", "https:/evil", ""),
        ("\\\\evil", "\\\\evil", ""),
        ("javascript:alert(1)", "javascript:alert(1)", ""),
        ("/a\x1b[31m\n", "/a?[31m?", None),
        ("/" + "x" * 1000, "/" + "x" * 199 + "...", None),
    ],
)
def test_a_location_is_shown_without_secrets(location: str, text: str, host: str | None) -> None:
    """User, password, query and fragment go; a host that nobody can tell is another host."""
    assert Location(text=text, host=host) == read_location(location, "https")


@given(location=st.text(max_size=80))
def test_any_location_is_read(location: str) -> None:
    """Nothing that a server sends makes reading it fail, or long."""
    assert len(read_location(location, "https").text) <= 203
