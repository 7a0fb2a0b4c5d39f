"""The kinds of values in the configuration file: what a scalar may be, and what is wrong when it is not.

In: a scalar, list or mapping of yaml_nodes. Out: the value as it is held, or a problem that reads on
after the key path, tells the wanted form and quotes nothing that may be a secret.
"""

from __future__ import annotations

import re
from datetime import datetime, tzinfo
from pathlib import Path
from typing import Annotated, NoReturn

from pydantic import AfterValidator, PlainValidator
from pydantic_core import PydanticCustomError

from exporter.config.durations import MAX_SECONDS, WANTED, format_duration, parse_duration
from exporter.config.problems import quote
from exporter.config.windows import WANTED as START_WANTED
from exporter.config.windows import WeeklyStart, WindowError, load_zone, parse_start
from exporter.config.yaml_nodes import Ambiguous
from exporter.errors import WireError
from exporter.health.maintenance import MAX_WINDOW_SECONDS
from exporter.secret import Secret
from exporter.wire.url import is_address, parse_origin

PROBLEM = "exporter_problem"
MAX_NAME_CHARACTERS = 64
MIN_INTERVAL_SECONDS = 1.0
# Coder truncates its threshold to whole milliseconds, and takes 0 for "not set": its default of 15 ms.
# Source: coder-interfaces, section 1, threshold.
MIN_LATENCY_THRESHOLD_SECONDS = 0.001
MAX_PACKETS_PER_SECOND = 5
MIN_LOSS_WINDOW_SECONDS = 1.0
MAX_LOSS_WINDOW_SECONDS = 30.0
MAX_LISTED = 100
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", re.IGNORECASE)
_PORT = re.compile(r":[0-9]*$")
_NUMBER_AT_END = re.compile(r"(?:^|\.)[0-9]+\.?$")  # no domain ends so: an address that is none
_NO_HOST = re.compile(r"[?#@:]")
_HOST_WANTED = "write the host alone, like derp.example.com"
_HOST_AND_PORT = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[^\s:?#@\[\]]+):[0-9]+")
_REFERENCE_WANTED = "write host and port, like 192.0.2.1:443 or [2001:db8::1]:443"
_DNS_WANTED = "write the name alone, like coder-headless.coder.svc"


def refuse(text: str) -> NoReturn:
    """Raise what pydantic takes for a problem of this value; the text reads on after the key path."""
    raise PydanticCustomError(PROBLEM, "{text}", {"text": text})


def name_kind(value: object) -> str:
    """Say what a value of the file is, as a person would."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return {int: "a number", str: "a text", list: "a list", dict: "a mapping"}.get(type(value), "something else")


def _read_text(value: object, *, secret: bool = False) -> str:
    if isinstance(value, str):
        if not value.strip():
            refuse("is empty; give it a value, or remove the key")
        return value
    if isinstance(value, Ambiguous):
        if secret:
            refuse("YAML does not read this value as a text; put it in quotes")
        shown = "this value" if len(value.text) > 20 else value.text
        refuse(f"YAML reads {shown} as {value.meaning}; put it in quotes")
    if isinstance(value, bool | int):
        refuse(f"YAML reads this value as {name_kind(value)}; put it in quotes")
    refuse(f"is {name_kind(value)}; a text is wanted")


def _read_printable(value: object) -> str:
    text = _read_text(value)
    if not text.isprintable():
        refuse("holds a control character; a printable text is wanted")
    return text


def read_name(value: object) -> str:
    """Return the name of a deployment or proxy: it becomes a label, a part of URLs and log lines."""
    text = _read_printable(value)
    if len(text) > MAX_NAME_CHARACTERS:
        refuse(f"has {len(text)} characters; a name has 1 to {MAX_NAME_CHARACTERS}")
    if text != text.strip():
        refuse("begins or ends with a blank; remove it")
    return text


def _read_path(value: object) -> Path:
    return Path(_read_printable(value))


def _read_secret(value: object) -> Secret:
    return Secret(_read_text(value, secret=True))


def read_url(value: object) -> str:
    """Return the URL of an HTTP server as it is written, once it is known to be one."""
    text = _read_text(value, secret=True)
    try:
        parse_origin(text)
    except WireError as error:
        problem = str(error)
    else:
        return text
    refuse(problem)


def _read_uuid(value: object) -> str:
    text = _read_text(value)
    if not _UUID.fullmatch(text):
        refuse("is not a UUID; write it like 6f0c1a52-7f4e-4b53-9d0a-0c8de5f5a3b1")
    return text.lower()


def _read_boolean(value: object) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, Ambiguous):
        refuse(f"YAML 1.1 reads {quote(value.text)} as {value.meaning}, YAML 1.2 does not; write true or false")
    refuse(f"is {name_kind(value)}; write true or false, without quotes")


def _read_whole_number(value: object, least: int, most: int) -> int:
    wanted = f"write a whole number from {least} to {most}"
    if isinstance(value, Ambiguous):
        refuse(f"YAML reads {quote(value.text)} as {value.meaning}; {wanted} in plain digits")
    if isinstance(value, bool) or not isinstance(value, int):
        refuse(f"is {name_kind(value)}; {wanted}, without quotes")
    if not least <= value <= most:
        refuse(f"{quote(str(value))} is out of range; {wanted}")
    return value


def _read_count(value: object) -> int:
    return _read_whole_number(value, 1, 100)


def _read_packet_rate(value: object) -> int:
    return _read_whole_number(value, 1, MAX_PACKETS_PER_SECOND)


def _read_port(value: object) -> int:
    return _read_whole_number(value, 1, 65535)


def _read_scheme(value: object) -> str:
    text = _read_text(value).lower()
    if text not in ("http", "https"):
        refuse(f"{quote(text)} is no scheme; write http or https")
    return text


def _read_dns_name(value: object) -> str:
    """Return a name to look up as it is: a dot at its end means that it is absolute."""
    text = _read_text(value)
    for what, found in (
        ("a scheme", "://" in text),
        ("a wildcard", "*" in text),
        ("a slash", "/" in text),
        ("a port", _PORT.search(text) and not is_address(text)),
    ):
        if found:
            refuse(f"holds {what}; {_DNS_WANTED}")
    if is_address(text.strip("[]")):
        refuse("is an IP address; list the URLs of replicas in urls")
    try:
        if not _NUMBER_AT_END.search(text) and not _NO_HOST.search(text):
            return parse_origin(f"https://{text}").host
    except WireError:
        pass  # told below, without the words about URLs
    refuse("is not a name that can be looked up; write it like coder-headless.coder.svc")


def _read_duration(value: object) -> float:
    if isinstance(value, Ambiguous):
        refuse(f"YAML reads {quote(value.text)} as {value.meaning}, which is not a duration; {WANTED}")
    if isinstance(value, list | dict):
        refuse(f"is {name_kind(value)}, not a duration; {WANTED}")
    text = ("true" if value else "false") if isinstance(value, bool) else str(value)
    seconds = parse_duration(text)
    if seconds is None:
        refuse(f"{quote(text)} is not a duration; {WANTED}")
    if seconds > MAX_SECONDS:
        refuse(f"{quote(text)} is too long; at most {format_duration(MAX_SECONDS)}")
    return seconds


def _read_positive_duration(value: object) -> float:
    seconds = _read_duration(value)
    if seconds <= 0:
        refuse(f"{quote(str(value))} is no time at all; a duration above 0s is wanted")
    return seconds


def _read_interval(value: object) -> float:
    return _read_duration_within(value, MIN_INTERVAL_SECONDS, MAX_SECONDS)


def _read_loss_window(value: object) -> float:
    return _read_duration_within(value, MIN_LOSS_WINDOW_SECONDS, MAX_LOSS_WINDOW_SECONDS)


def _read_window_duration(value: object) -> float:
    return _read_duration_within(value, 0.0, MAX_WINDOW_SECONDS)


def _read_window_start(value: object) -> WeeklyStart | datetime:
    # a date without quotes is one to YAML too, and means the same
    text = value.text if isinstance(value, Ambiguous) else value
    if not isinstance(text, str):
        refuse(f"is {name_kind(value)}; {START_WANTED}")
    try:
        return parse_start(_read_text(text))
    except WindowError as error:
        problem = str(error)
    refuse(problem)


def _read_zone(value: object) -> tzinfo:
    text = _read_text(value)
    try:
        return load_zone(text)
    except WindowError as error:
        problem = str(error)
    refuse(problem)


def _read_duration_within(value: object, least_seconds: float, most_seconds: float) -> float:
    seconds = _read_positive_duration(value)
    if seconds < least_seconds:
        refuse(f"{quote(str(value))} is too short; at least {format_duration(least_seconds)}")
    if seconds > most_seconds:
        refuse(f"{quote(str(value))} is too long; at most {format_duration(most_seconds)}")
    return seconds


def _read_latency_threshold(value: object) -> float:
    seconds = _read_positive_duration(value)
    if seconds < MIN_LATENCY_THRESHOLD_SECONDS:
        refuse(f"{quote(str(value))} is too short; at least 1ms, since Coder compares whole milliseconds")
    return seconds


def _read_host(value: object) -> str:
    """Return a host name or an IP address, in the form in which hosts are compared."""
    text = _read_text(value)
    if "://" in text:
        refuse(f"holds a scheme; {_HOST_WANTED}")
    if "*" in text:
        refuse("holds a wildcard; list each host by its own name")
    if "/" in text:
        refuse(f"holds a slash; {_HOST_WANTED}")
    if text.startswith("[") and text.endswith("]"):
        refuse("holds brackets; write an IPv6 address without them")
    if _PORT.search(text) and not is_address(text):
        refuse(f"holds a port; {_HOST_WANTED}")
    try:
        if is_address(text):
            return parse_origin(f"https://[{text}]" if ":" in text else f"https://{text}").host
        if not _NUMBER_AT_END.search(text) and not _NO_HOST.search(text):
            return parse_origin(f"https://{text}").host.removesuffix(".")
    except WireError:
        pass  # told below, without the words about URLs
    refuse("is not a host name or an IP address; write it like derp.example.com or 192.0.2.7")


def _read_reference(value: object) -> str:
    """Return an address with its port, as it is connected to."""
    text = _read_text(value)
    if "://" in text or "/" in text:
        refuse(f"holds a scheme or a slash; {_REFERENCE_WANTED}")
    if not _HOST_AND_PORT.fullmatch(text):
        refuse(f"has no port; {_REFERENCE_WANTED}" if ":" not in text else f"is malformed; {_REFERENCE_WANTED}")
    host = text.rpartition(":")[0]
    if _NUMBER_AT_END.search(host) and not is_address(host):
        refuse(f"is malformed; {_REFERENCE_WANTED}")
    try:
        origin = parse_origin(f"http://{text}")
    except WireError:
        pass  # told below, without the words about URLs
    else:
        return f"[{origin.host}]:{origin.port}" if ":" in origin.host else f"{origin.host}:{origin.port}"
    refuse(f"is malformed; {_REFERENCE_WANTED}")


def _read_interface_pattern(value: object) -> str:
    text = _read_printable(value)
    if " " in text or "/" in text:
        refuse("holds a blank or a slash, which no interface's name has")
    if len(text) > MAX_NAME_CHARACTERS:
        refuse(f"has {len(text)} characters; at most {MAX_NAME_CHARACTERS}")
    return text


def _read_distinct(items: list[str]) -> list[str]:
    if len(items) > MAX_LISTED:
        refuse(f"lists {len(items)}; at most {MAX_LISTED}")
    return list(dict.fromkeys(items))


Boolean = Annotated[bool, PlainValidator(_read_boolean)]
Count = Annotated[int, PlainValidator(_read_count)]
PacketRate = Annotated[int, PlainValidator(_read_packet_rate)]
Port = Annotated[int, PlainValidator(_read_port)]
Scheme = Annotated[str, PlainValidator(_read_scheme)]
DNSName = Annotated[str, PlainValidator(_read_dns_name)]
Grace = Annotated[float, PlainValidator(_read_duration)]
Duration = Annotated[float, PlainValidator(_read_positive_duration)]
Interval = Annotated[float, PlainValidator(_read_interval)]
LossWindow = Annotated[float, PlainValidator(_read_loss_window)]
WindowDuration = Annotated[float, PlainValidator(_read_window_duration)]
WindowStart = Annotated[WeeklyStart | datetime, PlainValidator(_read_window_start)]
TimeZone = Annotated[tzinfo, PlainValidator(_read_zone)]
LatencyThreshold = Annotated[float, PlainValidator(_read_latency_threshold)]
Name = Annotated[str, PlainValidator(read_name)]
URL = Annotated[str, PlainValidator(read_url)]
UUIDText = Annotated[str, PlainValidator(_read_uuid)]
Reference = Annotated[str, PlainValidator(_read_reference)]
FilePath = Annotated[Path, PlainValidator(_read_path)]
SecretText = Annotated[Secret, PlainValidator(_read_secret)]
# lists of texts: the same twice counts once
Hosts = Annotated[list[Annotated[str, PlainValidator(_read_host)]], AfterValidator(_read_distinct)]
InterfacePatterns = Annotated[
    list[Annotated[str, PlainValidator(_read_interface_pattern)]], AfterValidator(_read_distinct)
]
