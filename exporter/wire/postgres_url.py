"""Connection strings of PostgreSQL: text in, where and how to connect out.

Both forms that libpq and the Go drivers read: a URL and a list of keywords. Where they differ, the
reading is the one that works with Coder (a Go program): the last `@` before the path ends the
password, and `+` in the query is a space.

Read from the string alone: `PGPASSWORD`, `~/.pgpass`, `pg_service.conf` and their like are never
looked at, so what is configured is what is used. Login works by password (SCRAM, MD5, clear text),
by client certificate, and where the server asks for none (trust, peer).
"""

from __future__ import annotations

import difflib
import ipaddress
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeVar
from urllib.parse import quote

from exporter.errors import WireError
from exporter.secret import Secret
from exporter.wire.postgres_settings import RUNTIME_SETTINGS

DEFAULT_PORT = 5432
SCHEMES = ("postgres", "postgresql")
_WANTED = "write it like postgres://USER:PASSWORD@db.example.com:5432/coder?sslmode=verify-full"
_ENCODE = "percent-encode special characters in user and password (@ is %40, / is %2F, # is %23, ? is %3F)"


T = TypeVar("T")


class TLSMode(StrEnum):
    """`sslmode`. Source: PostgreSQL manual, libpq, "Protection Provided in Different Modes"."""

    DISABLE = "disable"
    ALLOW = "allow"  # without TLS; with it when the server refuses that
    PREFER = "prefer"  # with TLS when the server has it; nothing is verified
    REQUIRE = "require"  # TLS; nothing is verified, unless a root certificate is given
    VERIFY_CA = "verify-ca"
    VERIFY_FULL = "verify-full"


class SessionAttributes(StrEnum):
    """`target_session_attrs`: which of several hosts will do."""

    ANY = "any"
    READ_WRITE = "read-write"
    READ_ONLY = "read-only"
    PRIMARY = "primary"
    STANDBY = "standby"
    PREFER_STANDBY = "prefer-standby"


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """One server. `host` is a name, an address, the directory of a unix socket, or empty when none
    is given. `address` is dialled instead of the name when it is there (`hostaddr`)."""

    host: str
    port: int
    address: str | None = None

    @property
    def is_socket(self) -> bool:
        return self.host.startswith("/") and self.address is None

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}/.s.PGSQL.{self.port}" if self.is_socket else f"{host or 'default'}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class TLSOptions:
    """How to speak TLS. Files are None when not given; `root_certificate` may be `system`.

    `direct`: TLS from the first byte (`sslnegotiation=direct`). Versions like `TLSv1.2`.
    """

    mode: TLSMode = TLSMode.PREFER
    root_certificate: str | None = None
    certificate: str | None = None
    key: str | None = None
    key_password: Secret | None = None
    revocation_list: str | None = None
    minimum_version: str | None = None
    maximum_version: str | None = None
    direct: bool = False

    @property
    def verifies(self) -> bool:
        """Whether the server's certificate is checked. A root certificate makes `require` check it
        too, as libpq and the Go drivers do."""
        return self.mode in (TLSMode.VERIFY_CA, TLSMode.VERIFY_FULL) or (
            self.mode is TLSMode.REQUIRE and self.root_certificate is not None
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PostgresURL:
    """A connection string, read.

    `user` is None for the name of the operating system's user, `database` None for the same name as
    the user's, `password` None for none. `settings` are run-time settings for the server.
    `connect_timeout_seconds` is for each host; None: no limit of its own. `ignored` names the
    parameters that were understood but mean nothing here (connection pools, caches).
    """

    endpoints: tuple[Endpoint, ...]
    user: str | None = None
    password: Secret | None = None
    database: str | None = None
    tls: TLSOptions = field(default_factory=TLSOptions)
    settings: Mapping[str, str] = field(default_factory=dict, repr=False)  # an extension's may be secret
    connect_timeout_seconds: float | None = None
    session_attributes: SessionAttributes = SessionAttributes.ANY
    ignored: tuple[str, ...] = ()

    def redacted(self) -> str:
        """Return a URL for people: the password and whatever may hold a secret as `<secret>`."""
        user = quote(self.user, safe="") if self.user is not None else ""
        password = ":<secret>" if self.password is not None else ""
        at = "@" if user or password else ""
        sockets = [endpoint for endpoint in self.endpoints if endpoint.host.startswith("/")]
        query: dict[str, str] = {}
        if sockets:
            where = ""
            query["host"] = ",".join(endpoint.host for endpoint in self.endpoints)
            query["port"] = ",".join(str(endpoint.port) for endpoint in self.endpoints)
        else:
            where = ",".join(
                f"{f'[{endpoint.host}]' if ':' in endpoint.host else endpoint.host}:{endpoint.port}"
                for endpoint in self.endpoints
            )
            if not self.endpoints[0].host:
                where = ""
                query["port"] = str(self.endpoints[0].port)
        query["sslmode"] = self.tls.mode
        for name, value in (
            ("sslrootcert", self.tls.root_certificate),
            ("sslcert", self.tls.certificate),
            ("sslkey", self.tls.key),
            ("sslpassword", self.tls.key_password),
        ):
            if value is not None:
                query[name] = str(value)
        query |= {
            # an extension's setting and the command line may hold anything
            name: "<secret>" if "." in name or name == "options" else value
            for name, value in self.settings.items()
        }
        database = f"/{quote(self.database, safe='')}" if self.database is not None else "/"
        rest = "&".join(f"{name}={quote(value, safe='/<>,:')}" for name, value in query.items())
        return f"postgres://{user}{password}{at}{where}{database}?{rest}"


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Parameters that are read here. `dbname` is libpq's word, `database` the Go drivers'.
_READ = _words(
    "host hostaddr port user password dbname database sslmode sslrootcert sslcert sslkey sslpassword sslcrl "
    "ssl_min_protocol_version ssl_max_protocol_version sslnegotiation connect_timeout application_name "
    "fallback_application_name options target_session_attrs"
)
# Understood, without meaning for a single connection of this driver.
# Source: libpq's "Parameter Key Words"; pgx ParseConfig and pgxpool ParseConfig; lib/pq's settings.
_IGNORED = _words(
    "pool_max_conns pool_min_conns pool_min_idle_conns pool_max_conn_lifetime pool_max_conn_lifetime_jitter "
    "pool_max_conn_idle_time pool_health_check_period default_query_exec_mode statement_cache_capacity "
    "statement_cache_mode description_cache_capacity prefer_simple_protocol min_read_buffer_size "
    "binary_parameters disable_prepared_binary_result keepalives keepalives_idle keepalives_interval "
    "keepalives_count tcp_user_timeout sslsni sslcompression sslcertmode load_balance_hosts client_encoding "
    "gssdelegation krbsrvname krbspn gsslib"
)
# Harmless with these values, a promise that the driver cannot keep with others.
_HARMLESS_VALUES = {
    "channel_binding": ("disable", "prefer"),
    "gssencmode": ("disable", "prefer"),
    "sslinline": ("false",),
}
_NOT_SUPPORTED = {
    "passfile": "password files are not read; put the password into the URL and the URL into a file (url_file)",
    "service": "service files are not read; write the parameters into the URL",
    "servicefile": "service files are not read; write the parameters into the URL",
    "requirepeer": "it is not supported here",
    "require_auth": "it is not supported here",
    "sslcrldir": "it is not supported here; use sslcrl",
    "replication": "a health exporter takes no part in replication",
}
_SECRETS = frozenset({"password", "sslpassword"})
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}(\.[A-Za-z_][A-Za-z0-9_$]{0,62})?\Z")
_TLS_VERSIONS = ("TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3")


def parse_postgres_url(text: str) -> PostgresURL:
    """Read a connection string.

    Raises:
        WireError: With what is wrong and the wanted form. The text is never quoted, and a name from
            it only where it cannot be a piece of the password.
    """
    if "\0" in text or any(0xD800 <= ord(char) <= 0xDFFF for char in text):
        raise WireError(f"the PostgreSQL URL holds a character that no URL may hold; {_WANTED}")
    scheme, separator, rest = text.strip().partition("://")
    if separator and scheme.lower() in SCHEMES:
        return _build(*_read_url(rest))
    if separator and "=" not in scheme:
        raise WireError(f"the PostgreSQL URL does not begin with postgres:// or postgresql://; {_WANTED}")
    if "=" not in text:
        raise WireError(f"this is neither a PostgreSQL URL nor keywords like host=...; {_WANTED}")
    return _build(*_read_keywords(text))


def _read_url(rest: str) -> tuple[dict[str, str], bool]:
    """Return the parameters, and whether names among them may be shown in an error."""
    if any(ord(char) <= 32 or ord(char) == 127 for char in rest):
        raise WireError(f"the PostgreSQL URL holds a space or a control character; {_ENCODE}")
    if "#" in rest:
        raise WireError(f"the PostgreSQL URL holds a #; {_ENCODE}")
    before, _, query = rest.partition("?")
    authority, _, database = before.partition("/")
    if "@" in database:
        raise WireError(f"the PostgreSQL URL holds an @ after the first /; {_ENCODE}")
    userinfo, at, hostspec = authority.rpartition("@")
    if not at and "@" in query:
        raise WireError(f"the PostgreSQL URL holds an @ after the first ?; {_ENCODE}")
    parameters: dict[str, str] = {}
    if at:
        user, colon, password = userinfo.partition(":")
        if user:
            parameters["user"] = _decode(user)
        if colon:
            parameters["password"] = _decode(password)
    if hostspec:
        parameters["host"], parameters["port"] = _split_hostspec(hostspec)
    if database:
        parameters["dbname"] = _decode(database)
    # what follows an unencoded ? in a password looks like a query, so its names are not shown
    speakable = "@" not in query
    seen: set[str] = set()
    for part in filter(None, query.split("&")):
        name, equals, value = part.partition("=")
        name = _decode(name)
        if not equals:
            raise WireError(f"the PostgreSQL URL has a parameter without =; {_WANTED}")
        if name in seen:
            raise WireError(f"the PostgreSQL URL has {_mention(name, speakable)} twice; remove one")
        seen.add(name)
        parameters[name] = _decode(value.replace("+", " "))
    return parameters, speakable


def _split_hostspec(hostspec: str) -> tuple[str, str]:
    """Split `a:1,[::1]:2,c` into a list of hosts and a list of ports."""
    hosts, ports = [], []
    for one in hostspec.split(","):
        if one.startswith("["):
            host, bracket, port = one[1:].partition("]")
            if not bracket or (port and not port.startswith(":")):
                raise WireError(f"the host of the PostgreSQL URL has an open bracket; {_WANTED}")
            try:
                ipaddress.IPv6Address(_decode(host))
            except ValueError:
                raise WireError(f"the host in brackets of the PostgreSQL URL is no IPv6 address; {_WANTED}") from None
            port = port[1:]
        else:
            host, _, port = one.partition(":")
        hosts.append(_decode(host))
        ports.append(port)
    return ",".join(hosts), ",".join(ports)


def _decode(text: str) -> str:
    """Undo percent encoding, strictly."""
    if "%" not in text:
        return text
    if re.search(r"%(?![0-9A-Fa-f]{2})", text):
        raise WireError(f"the PostgreSQL URL has a % that two hexadecimal digits do not follow; {_ENCODE}, % is %25")
    raw = re.sub(rb"%([0-9A-Fa-f]{2})", lambda match: bytes([int(match[1], 16)]), text.encode())
    if b"\0" in raw:
        raise WireError("the PostgreSQL URL holds %00, which no value may hold")
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise WireError("the PostgreSQL URL holds percent-encoded bytes that are not UTF-8") from None


_KEYWORD = re.compile(r"\s*([^\s=']+)\s*=\s*")
_UNQUOTED = re.compile(r"(?:\\.|[^\s\\'])*", re.DOTALL)
# a doubled quote is no quoting of libpq, but it could mean nothing else
_QUOTED = re.compile(r"'((?:\\.|''|[^\\'])*)'(?=\s|\Z)", re.DOTALL)


def _read_keywords(text: str) -> tuple[dict[str, str], bool]:
    """Read `name=value` pairs as libpq does: quotes around values, backslash escapes."""
    parameters: dict[str, str] = {}
    position, end, speakable = 0, len(text.rstrip()), True
    while position < end:
        match = _KEYWORD.match(text, position)
        if match is None:
            raise WireError(
                "the PostgreSQL keywords cannot be read: a name without =; put values that hold spaces into 'quotes'"
            )
        name, position = match[1], match.end()
        if text.startswith("'", position):
            quoted = _QUOTED.match(text, position)
            if quoted is None:
                raise WireError("the PostgreSQL keywords cannot be read: a quote is not closed; write \\' inside one")
            value, position = quoted[1].replace("''", "'"), quoted.end()
        else:
            unquoted = _UNQUOTED.match(text, position)
            value = unquoted[0] if unquoted is not None else ""
            position += len(value)
            if position < end and not text[position].isspace():
                raise WireError("the PostgreSQL keywords cannot be read: a quote or backslash stands inside a value")
            # the rest of a password with a space in it looks like another keyword
            speakable = speakable and name not in _SECRETS
        if name in parameters:
            raise WireError(f"the PostgreSQL keywords have {_mention(name, speakable)} twice; remove one")
        parameters[name] = re.sub(r"\\(.)", r"\1", value, flags=re.DOTALL)
    return parameters, speakable


def _mention(name: str, speakable: bool) -> str:
    known = name in _READ or name in _IGNORED or name in RUNTIME_SETTINGS
    return f"the parameter {name}" if known or (speakable and _NAME.match(name)) else "a parameter"


class PostgresURLError(WireError):
    """Everything that is wrong with the parameters, a sentence each."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = tuple(problems)


def _build(parameters: dict[str, str], speakable: bool) -> PostgresURL:
    if "dbname" in parameters and "database" in parameters:
        del parameters["dbname"]
    problems: list[str] = []

    def attempt(build: Callable[[], T], otherwise: T) -> T:
        """Go on after a problem, so that all are told at once."""
        try:
            return build()
        except WireError as error:
            problems.append(str(error))
            return otherwise

    settings, ignored = _sort_parameters(parameters, speakable, problems)
    password = parameters.get("password")
    url = PostgresURL(
        endpoints=attempt(lambda: _build_endpoints(parameters), ()),
        user=parameters.get("user") or None,
        password=Secret(password) if password else None,
        database=parameters.get("database") or parameters.get("dbname") or None,
        tls=attempt(lambda: _build_tls(parameters), TLSOptions()),
        settings=settings,
        connect_timeout_seconds=attempt(lambda: _parse_connect_timeout(parameters.get("connect_timeout")), None),
        session_attributes=attempt(
            lambda: SessionAttributes(
                _choose(parameters, "target_session_attrs", tuple(SessionAttributes), SessionAttributes.ANY)
            ),
            SessionAttributes.ANY,
        ),
        ignored=tuple(ignored),
    )
    if problems:
        raise PostgresURLError(problems)
    return url


def _sort_parameters(
    parameters: Mapping[str, str], speakable: bool, problems: list[str]
) -> tuple[dict[str, str], list[str]]:
    """Return run-time settings for the server, and the names of what means nothing here."""
    settings: dict[str, str] = {}
    ignored = []
    for name, value in parameters.items():
        if name in _READ:
            continue
        if name in _IGNORED or value in _HARMLESS_VALUES.get(name, ()):
            ignored.append(name)
        elif name in _HARMLESS_VALUES:
            problems.append(f"the parameter {name} can only be {' or '.join(_HARMLESS_VALUES[name])} here")
        elif name in _NOT_SUPPORTED:
            problems.append(f"the parameter {name} cannot be used: {_NOT_SUPPORTED[name]}")
        elif name.lower() in RUNTIME_SETTINGS or ("." in name and speakable and _NAME.match(name)):
            settings[name] = value
        else:
            problems.append(_unknown(name, speakable))
    for name in ("application_name", "fallback_application_name"):
        if parameters.get(name):
            settings.setdefault("application_name", parameters[name])
    if parameters.get("options"):
        settings["options"] = parameters["options"]
    return settings, ignored


def _unknown(name: str, speakable: bool) -> str:
    if not speakable or not _NAME.match(name):
        return f"the PostgreSQL URL has an unknown parameter; {_ENCODE}"
    candidates = sorted(_READ | _IGNORED | RUNTIME_SETTINGS)
    near = difflib.get_close_matches(name.lower(), candidates, n=1, cutoff=0.7)
    hint = f"; did you mean {near[0]}?" if near else "; remove it"
    return f"the PostgreSQL URL has the unknown parameter {name}{hint}"


def _build_endpoints(parameters: Mapping[str, str]) -> tuple[Endpoint, ...]:
    addresses = parameters["hostaddr"].split(",") if parameters.get("hostaddr") else []
    hosts = parameters["host"].split(",") if parameters.get("host") else list(addresses) or [""]
    if addresses and len(addresses) != len(hosts):
        raise WireError("hostaddr and host of the PostgreSQL URL name different numbers of servers")
    ports = parameters.get("port", "").split(",")
    if len(ports) == 1:
        ports *= len(hosts)
    if len(ports) != len(hosts):
        raise WireError("the PostgreSQL URL names another number of ports than of hosts")
    for address in addresses:
        try:
            ipaddress.ip_address(address)
        except ValueError:
            raise WireError("hostaddr of the PostgreSQL URL is not an IP address") from None
    if len(hosts) > 1 and "" in hosts:
        raise WireError(f"one of the hosts of the PostgreSQL URL is empty; {_WANTED}")
    return tuple(
        Endpoint(host=_check_host(host), port=_parse_port(port), address=addresses[index] if addresses else None)
        for index, (host, port) in enumerate(zip(hosts, ports, strict=True))
    )


def _check_host(host: str) -> str:
    if host.startswith("/"):
        return host.rstrip("/") or "/"
    if ":" in host:
        try:
            ipaddress.IPv6Address(host)
        except ValueError:
            raise WireError(f"the host of the PostgreSQL URL is malformed; {_WANTED}") from None
        return host
    if host.startswith("@"):
        raise WireError("abstract unix sockets are not supported; give the directory of an ordinary one")
    if len(host) > 253 or not all(char.isalnum() or char in "-._" for char in host):
        raise WireError(f"the host of the PostgreSQL URL is malformed; {_WANTED}")
    return host.lower()


def _parse_port(text: str) -> int:
    if not text:
        return DEFAULT_PORT
    if not (text.isascii() and text.isdigit() and len(text) <= 5 and 0 < int(text) < 65536):
        raise WireError(f"the port of the PostgreSQL URL is not a number from 1 to 65535; {_WANTED}")
    return int(text)


def _parse_connect_timeout(text: str | None) -> float | None:
    if not text:
        return None
    if not re.fullmatch(r"\s*[+-]?[0-9]{1,6}\s*", text, re.ASCII):
        raise WireError("connect_timeout of the PostgreSQL URL is not a whole number of seconds")
    seconds = int(text)
    return float(seconds) if seconds > 0 else None


def _choose(parameters: Mapping[str, str], name: str, choices: tuple[str, ...], default: str) -> str:
    value = parameters.get(name) or default
    if value not in choices:
        raise WireError(f"{name} of the PostgreSQL URL must be one of {', '.join(choices)}")
    return value


def _build_tls(parameters: Mapping[str, str]) -> TLSOptions:
    root = parameters.get("sslrootcert") or None
    default = TLSMode.VERIFY_FULL if root == "system" else TLSMode.PREFER
    mode = TLSMode(_choose(parameters, "sslmode", tuple(TLSMode), default))
    if root == "system" and mode is not TLSMode.VERIFY_FULL:
        raise WireError("sslrootcert=system of the PostgreSQL URL needs sslmode=verify-full")
    direct = _choose(parameters, "sslnegotiation", ("postgres", "direct"), "postgres") == "direct"
    if direct and mode in (TLSMode.DISABLE, TLSMode.ALLOW, TLSMode.PREFER):
        raise WireError("sslnegotiation=direct of the PostgreSQL URL needs sslmode=require or stronger")
    key_password = parameters.get("sslpassword")
    return TLSOptions(
        mode=mode,
        root_certificate=root,
        certificate=parameters.get("sslcert") or None,
        key=parameters.get("sslkey") or None,
        key_password=Secret(key_password) if key_password else None,
        revocation_list=parameters.get("sslcrl") or None,
        minimum_version=_parse_tls_version(parameters, "ssl_min_protocol_version"),
        maximum_version=_parse_tls_version(parameters, "ssl_max_protocol_version"),
        direct=direct,
    )


def _parse_tls_version(parameters: Mapping[str, str], name: str) -> str | None:
    # nothing older is spoken any more: as a minimum it means "anything", as a maximum "nothing"
    choices = _TLS_VERSIONS if name == "ssl_min_protocol_version" else _TLS_VERSIONS[2:]
    return _choose(parameters, name, choices, choices[0]) if parameters.get(name) else None
