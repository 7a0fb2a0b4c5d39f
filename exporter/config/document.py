"""The keys of the configuration file: names, forms, defaults and meanings, as pydantic models.

In: the tree of yaml_nodes. Out: `Document`, where a key that was left out is None. What is inherited
and what keys say about one another is settled in resolve.py. The reference (show.py) is made from
these models too; the defaults come from model.py, so neither can drift.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, NoReturn

from pydantic import BaseModel, ConfigDict, Field, PlainValidator
from pydantic_core import PydanticCustomError

from exporter.config import model
from exporter.config.durations import MAX_SECONDS, WANTED, format_duration, parse_duration
from exporter.config.problems import quote
from exporter.config.yaml_nodes import Ambiguous
from exporter.errors import WireError
from exporter.health.model import Section
from exporter.health.settle import Policy
from exporter.secret import Secret
from exporter.wire.url import parse_origin

PROBLEM = "exporter_problem"
MAX_NAME_CHARACTERS = 64
MIN_INTERVAL_SECONDS = 1.0
# Coder truncates its threshold to whole milliseconds, and takes 0 for "not set": its default of 15 ms.
# Source: coder-interfaces, section 1, threshold.
MIN_LATENCY_THRESHOLD_SECONDS = 0.001
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """What a person should know of a key.

    `default` is written as in the file; empty when there is none. `inherited`: the default is not a
    value but the words that tell where it comes from. `example` is written, as a comment, where no
    default can. `optional`: a mapping that means something by being there.
    """

    meaning: str
    form: str = ""
    default: str = ""
    inherited: bool = False
    example: str = ""
    optional: bool = False


def _refuse(text: str) -> NoReturn:
    raise PydanticCustomError(PROBLEM, "{text}", {"text": text})


def _kind(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return {int: "a number", str: "a text", list: "a list", dict: "a mapping"}.get(type(value), "something else")


def _read_text(value: object, *, secret: bool = False) -> str:
    if isinstance(value, str):
        if not value.strip():
            _refuse("is empty; give it a value, or remove the key")
        return value
    if isinstance(value, Ambiguous):
        if secret:
            _refuse("YAML does not read this value as a text; put it in quotes")
        shown = "this value" if len(value.text) > 20 else value.text
        _refuse(f"YAML reads {shown} as {value.meaning}; put it in quotes")
    if isinstance(value, bool | int):
        _refuse(f"YAML reads this value as {_kind(value)}; put it in quotes")
    _refuse(f"is {_kind(value)}; a text is wanted")


def _read_printable(value: object) -> str:
    text = _read_text(value)
    if not text.isprintable():
        _refuse("holds a control character; a printable text is wanted")
    return text


def read_name(value: object) -> str:
    """Return the name of a deployment or proxy: it becomes a label, a part of URLs and log lines."""
    text = _read_printable(value)
    if len(text) > MAX_NAME_CHARACTERS:
        _refuse(f"has {len(text)} characters; a name has 1 to {MAX_NAME_CHARACTERS}")
    if text != text.strip():
        _refuse("begins or ends with a blank; remove it")
    return text


def _read_path(value: object) -> Path:
    return Path(_read_printable(value))


def _read_secret(value: object) -> Secret:
    return Secret(_read_text(value, secret=True))


def _read_url(value: object) -> str:
    text = _read_text(value, secret=True)
    try:
        parse_origin(text)
    except WireError as error:
        problem = str(error)
    else:
        return text
    _refuse(problem)


def _read_uuid(value: object) -> str:
    text = _read_text(value)
    if not _UUID.fullmatch(text):
        _refuse("is not a UUID; write it like 6f0c1a52-7f4e-4b53-9d0a-0c8de5f5a3b1")
    return text.lower()


def _read_boolean(value: object) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, Ambiguous):
        _refuse(f"YAML 1.1 reads {quote(value.text)} as {value.meaning}, YAML 1.2 does not; write true or false")
    _refuse(f"is {_kind(value)}; write true or false, without quotes")


def _read_count(value: object) -> int:
    wanted = "write a whole number from 1 to 100"
    if isinstance(value, Ambiguous):
        _refuse(f"YAML reads {quote(value.text)} as {value.meaning}; {wanted} in plain digits")
    if isinstance(value, bool) or not isinstance(value, int):
        _refuse(f"is {_kind(value)}; {wanted}, without quotes")
    if not 1 <= value <= 100:
        _refuse(f"{quote(str(value))} is out of range; {wanted}")
    return value


def _read_duration(value: object) -> float:
    if isinstance(value, Ambiguous):
        _refuse(f"YAML reads {quote(value.text)} as {value.meaning}, which is not a duration; {WANTED}")
    if isinstance(value, list | dict):
        _refuse(f"is {_kind(value)}, not a duration; {WANTED}")
    text = ("true" if value else "false") if isinstance(value, bool) else str(value)
    seconds = parse_duration(text)
    if seconds is None:
        _refuse(f"{quote(text)} is not a duration; {WANTED}")
    if seconds > MAX_SECONDS:
        _refuse(f"{quote(text)} is too long; at most {format_duration(MAX_SECONDS)}")
    return seconds


def _read_positive_duration(value: object) -> float:
    seconds = _read_duration(value)
    if seconds <= 0:
        _refuse(f"{quote(str(value))} is no time at all; a duration above 0s is wanted")
    return seconds


def _read_interval(value: object) -> float:
    seconds = _read_positive_duration(value)
    if seconds < MIN_INTERVAL_SECONDS:
        _refuse(f"{quote(str(value))} is too short; at least {format_duration(MIN_INTERVAL_SECONDS)}")
    return seconds


def _read_latency_threshold(value: object) -> float:
    seconds = _read_positive_duration(value)
    if seconds < MIN_LATENCY_THRESHOLD_SECONDS:
        _refuse(f"{quote(str(value))} is too short; at least 1ms, since Coder compares whole milliseconds")
    return seconds


Boolean = Annotated[bool, PlainValidator(_read_boolean)]
Count = Annotated[int, PlainValidator(_read_count)]
Grace = Annotated[float, PlainValidator(_read_duration)]
Duration = Annotated[float, PlainValidator(_read_positive_duration)]
Interval = Annotated[float, PlainValidator(_read_interval)]
LatencyThreshold = Annotated[float, PlainValidator(_read_latency_threshold)]
Name = Annotated[str, PlainValidator(read_name)]
URL = Annotated[str, PlainValidator(_read_url)]
UUIDText = Annotated[str, PlainValidator(_read_uuid)]
FilePath = Annotated[Path, PlainValidator(_read_path)]
SecretText = Annotated[Secret, PlainValidator(_read_secret)]

_DURATION, _COUNT, _BOOLEAN, _PATH = "duration", "number, 1 to 100", "true or false", "path"
_POLICY = Policy()


def _timeout(section: Section | None = None) -> Key:
    seconds = model.DEFAULT_TIMEOUT_SECONDS if section is None else model.SECTION_TIMEOUT_SECONDS[section]
    default = format_duration(seconds)
    # only an example in a file of defaults: what is written does not give way to a shorter interval
    return Key(
        meaning="Deadline of one run; when left out, a shorter interval lowers it.",
        form=_DURATION,
        default=default,
        example=default,
    )


class Keys(BaseModel):
    """A mapping of the file. `not_built` are keys that are promised but not there yet."""

    model_config = ConfigDict(
        strict=True,
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
        allow_inf_nan=False,
        arbitrary_types_allowed=True,
    )
    not_built: ClassVar[frozenset[str]] = frozenset()


class Settle(Keys):
    raise_: Annotated[
        Count | None,
        Key(
            meaning="A code becomes active after so many runs in a row that observed it.",
            form=_COUNT,
            default=str(_POLICY.raise_after),
        ),
    ] = Field(default=None, alias="raise")
    clear: Annotated[
        Count | None,
        Key(
            meaning="A code is over after so many runs in a row that did not observe it.",
            form=_COUNT,
            default=str(_POLICY.clear_after),
        ),
    ] = None
    startup_grace: Annotated[
        Grace | None,
        Key(
            meaning="So long after the exporter's start no code becomes active; 0s for none.",
            form=_DURATION,
            default=format_duration(_POLICY.startup_grace_seconds),
        ),
    ] = None
    version_grace: Annotated[
        Grace | None,
        Key(
            meaning="So long after a version change codes about differing versions wait; 0s for none.",
            form=_DURATION,
            default=format_duration(_POLICY.version_grace_seconds),
        ),
    ] = None


class Global(Keys):
    not_built = frozenset({"reference"})

    interval: Annotated[
        Interval | None,
        Key(
            meaning="Time between the starts of two runs of a target; at least 1s.",
            form=_DURATION,
            default=format_duration(model.DEFAULT_INTERVAL_SECONDS),
        ),
    ] = None
    timeout: Annotated[
        Duration | None,
        Key(
            meaning="Deadline of one run in sections without a default of their own; at most the interval.",
            form=_DURATION,
            default=format_duration(model.DEFAULT_TIMEOUT_SECONDS),
        ),
    ] = None
    settle: Annotated[Settle | None, Key(meaning="When an observed code becomes active, and when it is over.")] = None


class SectionKeys(Keys):
    enabled: Annotated[Boolean | None, Key(meaning="Whether the section is probed.", form=_BOOLEAN, default="true")] = (
        None
    )
    interval: Annotated[
        Interval | None,
        Key(
            meaning="Time between the starts of two runs.",
            form=_DURATION,
            default="global.interval",
            inherited=True,
            example=format_duration(model.DEFAULT_INTERVAL_SECONDS),
        ),
    ] = None
    timeout: Annotated[Duration | None, _timeout()] = None
    settle: Annotated[
        Settle | None, Key(meaning="Single keys of global.settle, for this section.", inherited=True, optional=True)
    ] = None


_CERTIFICATES = model.AccessURLSectionConfig()


class AccessURLKeys(SectionKeys):
    timeout: Annotated[Duration | None, _timeout(Section.ACCESS_URL)] = None
    certificate_warning: Annotated[
        Duration | None,
        Key(
            meaning="XACS03 warns so long before the certificate ends, at most a third of its lifetime.",
            form=_DURATION,
            default=format_duration(_CERTIFICATES.certificate_warning_seconds),
        ),
    ] = None
    certificate_error: Annotated[
        Duration | None,
        Key(
            meaning="XACS03 is an error so long before the end, at most a tenth of its lifetime.",
            form=_DURATION,
            default=format_duration(_CERTIFICATES.certificate_error_seconds),
        ),
    ] = None


class WebSocketKeys(SectionKeys):
    timeout: Annotated[Duration | None, _timeout(Section.WEBSOCKET)] = None


class DatabaseSectionKeys(SectionKeys):
    timeout: Annotated[Duration | None, _timeout(Section.DATABASE)] = None


class WorkspaceProxyKeys(SectionKeys):
    timeout: Annotated[Duration | None, _timeout(Section.WORKSPACE_PROXY)] = None


class Sections(Keys):
    not_built = frozenset({"derp", "provisioner_daemons", "report", "workspaces", "direct_connections"})

    access_url: Annotated[AccessURLKeys | None, Key(meaning="GET /healthz and /api/v2/buildinfo.")] = None
    websocket: Annotated[WebSocketKeys | None, Key(meaning="A websocket through the access URL.")] = None
    database: Annotated[DatabaseSectionKeys | None, Key(meaning="Pings of Coder's database; needs `database`.")] = None
    workspace_proxy: Annotated[WorkspaceProxyKeys | None, Key(meaning="Every workspace proxy, in one round.")] = None


class TLS(Keys):
    ca_file: Annotated[
        FilePath | None,
        Key(
            meaning="PEM certificates that are trusted besides the system's.",
            form=_PATH,
            example="/etc/ssl/private-ca.pem",
        ),
    ] = None


_DATABASE = {name: field.default for name, field in model.DatabaseConfig.__dataclass_fields__.items()}


class Database(Keys):
    url: Annotated[
        SecretText | None,
        Key(
            meaning="What CODER_PG_CONNECTION_URL holds, for a read-only role; better in url_file.",
            form="URL, secret",
            example='"postgres://health@db.example.com/coder"',
        ),
    ] = None
    url_file: Annotated[
        FilePath | None,
        Key(meaning="A file that holds the URL; instead of url.", form=_PATH, example="/run/secrets/pg-url"),
    ] = None
    latency_threshold: Annotated[
        LatencyThreshold | None,
        Key(
            meaning="EDB02 is raised from this median latency on, in whole milliseconds.",
            form=_DURATION,
            default=format_duration(_DATABASE["latency_threshold_seconds"]),
        ),
    ] = None
    fresh_connection_interval: Annotated[
        Interval | None,
        Key(
            meaning="How often a new connection is opened just to measure connect and login.",
            form=_DURATION,
            default=format_duration(_DATABASE["fresh_connection_interval_seconds"]),
        ),
    ] = None


class StaticProxy(Keys):
    name: Annotated[
        Name | None, Key(meaning="Label of the proxy, unique in its deployment; required.", form="text", example="eu")
    ] = None
    url: Annotated[
        URL | None,
        Key(meaning="Access URL of the proxy; required.", form="URL", example="https://eu.coder.example.com"),
    ] = None
    id: Annotated[
        UUIDText | None,
        Key(
            meaning="Label proxy_id; when left out, made from deployment and name.",
            form="UUID",
            example="6f0c1a52-7f4e-4b53-9d0a-0c8de5f5a3b1",
        ),
    ] = None


class WorkspaceProxies(Keys):
    static: Annotated[
        list[StaticProxy] | None, Key(meaning="Proxies that are probed beside those of Coder's own list.")
    ] = None


class Deployment(Keys):
    not_built = frozenset({"replicas", "maintenance"})

    name: Annotated[
        Name | None,
        Key(meaning="Label deployment, unique, at most 64 characters; required.", form="text", example="prod"),
    ] = None
    url: Annotated[
        URL | None,
        Key(meaning="The access URL; it or url_file is required.", form="URL", example="https://coder.example.com"),
    ] = None
    url_file: Annotated[
        FilePath | None,
        Key(meaning="A file that holds the access URL, read again before each run.", form=_PATH, example="access-url"),
    ] = None
    session_token: Annotated[
        SecretText | None,
        Key(
            meaning="Coder session token; better in session_token_file.",
            form="text, secret",
            example='"<token>"',
        ),
    ] = None
    session_token_file: Annotated[
        FilePath | None,
        Key(
            meaning="A file that holds the token; instead of session_token.",
            form=_PATH,
            example="/run/secrets/coder-token",
        ),
    ] = None
    deployment_id: Annotated[
        UUIDText | None,
        Key(
            meaning="The deployment that must answer (XACS05); when left out, the first one seen.",
            form="UUID",
            example="c1a7e9a2-4c1f-4d0a-8b1e-2f6f0a9d5e77",
        ),
    ] = None
    tls: Annotated[TLS | None, Key(meaning="How servers are verified.", optional=True)] = None
    database: Annotated[
        Database | None, Key(meaning="Coder's PostgreSQL; without it the section database is off.", optional=True)
    ] = None
    sections: Annotated[Sections | None, Key(meaning="What is probed, and how.")] = None
    workspace_proxies: Annotated[
        WorkspaceProxies | None, Key(meaning="Workspace proxies that you name yourself.", optional=True)
    ] = None


class Document(Keys):
    global_: Annotated[Global | None, Key(meaning="What holds for every deployment and section.")] = Field(
        default=None, alias="global"
    )
    deployments: Annotated[list[Deployment] | None, Key(meaning="The Coder deployments; at least one.")] = None
