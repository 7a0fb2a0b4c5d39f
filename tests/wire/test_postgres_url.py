"""Connection strings of PostgreSQL: what is read, what is refused, and that nothing leaks."""

from __future__ import annotations

from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.errors import WireError
from exporter.secret import Secret
from exporter.wire.postgres_url import Endpoint, PostgresURL, SessionAttributes, TLSMode, parse_postgres_url


def test_reads_an_ordinary_url() -> None:
    """User, password, host, port, database and TLS mode stand where everybody writes them."""
    url = parse_postgres_url("postgres://coder_exporter:s%40crt@db.example.com:5433/coder?sslmode=verify-full")
    assert (Endpoint(host="db.example.com", port=5433),) == url.endpoints
    assert url.user == "coder_exporter"
    assert Secret("s@crt") == url.password
    assert url.database == "coder"
    assert url.tls.mode is TLSMode.VERIFY_FULL
    assert url.tls.verifies


def test_defaults_are_those_of_libpq() -> None:
    """Port 5432, TLS when the server has it, and a database and user that are left to the system."""
    assert parse_postgres_url("postgresql://db.example.com") == PostgresURL(
        endpoints=(Endpoint(host="db.example.com", port=5432),)
    )


@pytest.mark.parametrize(
    ("text", "endpoints"),
    [
        ("postgres://a,b:1/x", [("a", 5432), ("b", 1)]),
        ("postgres://[::1]:7,[fe80::1%25eth0]/x", [("::1", 7), ("fe80::1%eth0", 5432)]),
        ("postgres:///x?host=/run/postgresql", [("/run/postgresql", 5432)]),
        ("postgres://%2Frun%2Fpostgresql:7/x", [("/run/postgresql", 7)]),
        ("postgres:///x?host=a,b&port=1,2", [("a", 1), ("b", 2)]),
        ("postgres:///x?host=a,b&port=9", [("a", 9), ("b", 9)]),
        ("postgres:///x?port=5433", [("", 5433)]),
        ("postgres:///", [("", 5432)]),
        ("postgres://u@/x", [("", 5432)]),
        ("postgres://wrong/x?host=right", [("right", 5432)]),
        ("host=a,b port=1,2", [("a", 1), ("b", 2)]),
        ("user=u dbname=x", [("", 5432)]),
    ],
)
def test_reads_hosts_in_every_form(text: str, endpoints: list[tuple[str, int]]) -> None:
    """Several hosts, IPv6, unix sockets, hosts in the query, and none at all."""
    assert endpoints == [(endpoint.host, endpoint.port) for endpoint in parse_postgres_url(text).endpoints]


def test_an_address_beside_the_name_is_what_is_dialled() -> None:
    """hostaddr leaves the name for the certificate."""
    endpoint = Endpoint(host="db.example.com", port=5432, address="192.0.2.1")
    assert (endpoint,) == parse_postgres_url("host=db.example.com hostaddr=192.0.2.1").endpoints


@pytest.mark.parametrize(
    ("text", "password"),
    [
        (r"host=h user=u password=simple dbname=x", "simple"),
        (r"host=h password='with space' user=u", "with space"),
        (r"host=h password='it''s' user=u", "it's"),
        (r"host=h password='it\'s' user=u", "it's"),
        (r"host=h password=back\\slash user=u", "back\\slash"),
        (r"host = h password = 'spaces around' ", "spaces around"),
        ("host=h\npassword=line\n", "line"),
        ("host=h password='' user=u", None),
        ("postgres://u:p@ss@h/x", "p@ss"),
        ("postgres://u:p+1@h/x", "p+1"),
        ("postgres://u:p:1@h/x", "p:1"),
        ("postgres://u:@h/x", None),
        ("postgres://u@h/x", None),
        ("postgres://u@h/x?password=in%20query", "in query"),
    ],
)
def test_reads_passwords_in_every_quoting(text: str, password: str | None) -> None:
    """The keyword form quotes as libpq does, the URL as Go does; an absent password is fine."""
    read = parse_postgres_url(text).password
    assert (Secret(password) if password is not None else None) == read


def test_parameters_of_drivers_are_read_passed_on_or_left_alone() -> None:
    """What concerns the connection is read, the server's settings are kept, pools mean nothing here."""
    url = parse_postgres_url(
        "postgres://u@h/x?sslmode=require&sslrootcert=/ca.pem&sslcert=/c.pem&sslkey=/k.pem&sslpassword=kp"
        "&connect_timeout=7&application_name=probe&target_session_attrs=read-write&search_path=coder"
        "&TimeZone=UTC&myext.level=3&options=-c+geqo%3Doff&pool_max_conns=4&default_query_exec_mode=exec"
        "&binary_parameters=yes&channel_binding=prefer"
    )
    assert url.tls.mode is TLSMode.REQUIRE
    assert url.tls.verifies  # a root certificate makes it so
    assert (url.tls.root_certificate, url.tls.certificate, url.tls.key) == ("/ca.pem", "/c.pem", "/k.pem")
    assert Secret("kp") == url.tls.key_password
    assert url.connect_timeout_seconds == 7.0
    assert url.session_attributes is SessionAttributes.READ_WRITE
    assert url.settings == {
        "search_path": "coder",
        "TimeZone": "UTC",
        "myext.level": "3",
        "application_name": "probe",
        "options": "-c geqo=off",
    }
    assert url.ignored == ("pool_max_conns", "default_query_exec_mode", "binary_parameters", "channel_binding")


@pytest.mark.parametrize("mode", list(TLSMode))
def test_knows_every_tls_mode(mode: TLSMode) -> None:
    """All six modes of libpq are understood."""
    assert parse_postgres_url(f"postgres://h/x?sslmode={mode}").tls.mode is mode


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "neither a PostgreSQL URL nor keywords"),
        ("nonsense", "neither a PostgreSQL URL nor keywords"),
        ("mysql://u:p@h/x", "does not begin with postgres://"),
        ("postgres://u:p@h:http/x", "port of the PostgreSQL URL is not a number"),
        ("postgres://u:p@h:0/x", "port of the PostgreSQL URL is not a number"),
        ("postgres://u:p@h:65536/x", "port of the PostgreSQL URL is not a number"),
        ("postgres://u:p@[::1/x", "open bracket"),
        ("postgres://u:p@[nonsense]/x", "no IPv6 address"),
        ("postgres://u:p@a,,b/x", "one of the hosts"),
        ("postgres://u:p@h/x?sslmode=on", "sslmode of the PostgreSQL URL must be one of disable, allow"),
        ("postgres://u:p@h/x?sslmode=require&sslmode=disable", "has the parameter sslmode twice"),
        ("postgres://u:p@h/x?conect_timeout=5", "unknown parameter conect_timeout; did you mean connect_timeout?"),
        ("postgres://u:p@h/x?serch_path=a", "unknown parameter serch_path; did you mean search_path?"),
        ("postgres://u:p@h/x?SSLMODE=disable", "unknown parameter SSLMODE; did you mean sslmode?"),
        ("postgres://u:p@h/x?zzz=1", "unknown parameter zzz; remove it"),
        ("postgres://u:p@h/x?sslmode", "parameter without ="),
        ("postgres://u:p@h/x?passfile=/x", "passfile cannot be used"),
        ("postgres://u:p@h/x?service=x", "service cannot be used"),
        ("postgres://u:p@h/x?channel_binding=require", "channel_binding can only be disable or prefer"),
        ("postgres://u:p@h/x?sslrootcert=system&sslmode=require", "needs sslmode=verify-full"),
        ("postgres://u:p@h/x?sslnegotiation=direct", "needs sslmode=require or stronger"),
        ("postgres://u:p@h/x?connect_timeout=soon", "whole number of seconds"),
        ("postgres://u:p@h/x?host=a,b&port=1,2,3", "another number of ports"),
        ("postgres://u:%zz@h/x", "% that two hexadecimal digits do not follow"),
        ("postgres://u:%00@h/x", "%00"),
        ("postgres://u:%ff@h/x", "not UTF-8"),
        ("postgres://u:p@h/x y", "space or a control character"),
        ("host=h password", "a name without ="),
        ("host=h password='open", "a quote is not closed"),
        ("host=h sslmod=disable", "unknown parameter sslmod; did you mean sslmode?"),
    ],
)
def test_refuses_what_no_driver_takes(text: str, words: str) -> None:
    """Each fault is named with what to write instead, and the parameter by its name."""
    with pytest.raises(WireError) as caught:
        parse_postgres_url(text)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "postgres://u:top/zebra@h/x",
        "postgres://u:top?zebra=1@h/x",
        "postgres://u:top#zebra@h/x",
        "postgres://u:1/zebra?zebra=2@h/x",
        "postgres://u:a@b?zebra=1@h/x",
        "host=h password=top zebra=x",
        "host=h password=top zebra",
        "host=h password=it's zebra=x",
        "host=h password='top'zebra=x'",
    ],
)
def test_a_badly_quoted_password_is_not_told(text: str) -> None:
    """What looks like a host, a database or a parameter may be the rest of a password."""
    with pytest.raises(WireError) as caught:
        parse_postgres_url(text)
    assert "zebra" not in str(caught.value)


def test_the_redacted_form_shows_all_but_secrets() -> None:
    """Where and how, but neither the password nor what an option may hold."""
    url = parse_postgres_url(
        "postgres://me:zebra@[::1]:5433/coder?sslmode=verify-ca&sslpassword=zebra&my.token=zebra&options=-c+a.b%3Dzebra"
        "&search_path=coder"
    )
    assert url.redacted() == (
        "postgres://me:<secret>@[::1]:5433/coder?sslmode=verify-ca&sslpassword=<secret>&my.token=<secret>"
        "&search_path=coder&options=<secret>"
    )
    assert "zebra" not in repr(url)


_OF_A_URL = st.text(alphabet="postgres:/@?&=#%'\\,[]. \n0aé\0", max_size=60)


@given(st.one_of(st.text(), _OF_A_URL, _OF_A_URL.map("postgres://".__add__), _OF_A_URL.map("host=h ".__add__)))
def test_any_text_gives_a_value_or_a_wire_error(text: str) -> None:
    """Nothing but WireError leaves, and what is read can be shown."""
    read = _read(text)
    if isinstance(read, PostgresURL):
        assert read.endpoints
        assert read.redacted().startswith("postgres://")
    else:
        assert str(read)


def _read(text: str) -> PostgresURL | WireError:
    try:
        return parse_postgres_url(text)
    except WireError as error:
        return error


# letters that no message of ours holds in such a row
_SECRETS = st.text(alphabet="qxzQXZ7", min_size=6, max_size=12)
_NOISE = st.text(alphabet="abc/@?&=#%' ", max_size=6)


@given(secret=_SECRETS, before=_NOISE, after=_NOISE, tail=_OF_A_URL)
def test_a_password_is_never_told(secret: str, before: str, after: str, tail: str) -> None:
    """Whatever else is wrong with a string, its password stays out of errors, logs and reprs."""
    password = f"{before}{secret}{after}"
    quoted = password.replace("'", r"\'")
    for text in (
        f"postgres://user:{quote(password, safe='')}@host{tail}",
        f"postgres://user:{secret}@host{tail}",
        f"host=h password='{quoted}' {tail}",
        f"password={secret} {tail}",
        f"postgres://host/db?password={quote(password, safe='')}&{tail}",
    ):
        read = _read(text)
        assert secret not in repr(read)
        assert secret not in (read.redacted() if isinstance(read, PostgresURL) else str(read))
