"""What replicas of coderd are called: the label `coder_replica`. Pure.

In: where each replica answers, and the name it should bear. Out: a name for each, no two alike. The same
replicas have the same names in whatever order they come, and after a restart of the exporter: nothing
here remembers who was first.

Source: contract, section 8, Values
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from exporter.secret import mask
from exporter.wire.url import Origin

MAX_NAME_CHARACTERS = 64
_DIGEST_CHARACTERS = 8
_STEPS = 4  # of telling two apart, the last of which tells all apart


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Place:
    """Where a replica answers, in the form in which places are compared."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def find_place(origin: Origin) -> Place:
    """Return the place of an origin; an IPv4 address within IPv6 is that address."""
    return Place(host=normalise_host(origin.host), port=origin.port)


def normalise_host(host: str) -> str:
    """Return a host as it is compared."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host.lower().removesuffix(".")
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)


def clean_name(text: str) -> str:
    """Return what of a name can be a label; empty when nothing can."""
    shown = "".join(char if char.isprintable() else "?" for char in mask(text.strip()))
    return shown[:MAX_NAME_CHARACTERS].strip()


def name_replicas(wanted: Mapping[Place, str], *, leaving: Collection[Place] = ()) -> dict[Place, str]:
    """Return a name for each replica: the wanted one, else host and port.

    Those that want the same one bear their port behind it, or their address where the port does not tell
    them apart either; but those that are `leaving` take it from nobody who stays.
    """
    steps = dict.fromkeys(wanted, 0)
    while True:
        names = {place: _write(place, clean_name(name), steps[place]) for place, name in wanted.items()}
        counts = Counter(names.values())
        staying = Counter(name for place, name in names.items() if place not in leaving)
        alike = [
            place
            for place, name in names.items()
            if (counts if place in leaving else staying)[name] > 1 and steps[place] < _STEPS - 1
        ]
        if not alike:
            return names
        for place in alike:
            steps[place] += 1


def _write(place: Place, name: str, step: int) -> str:
    digest = hashlib.sha256(str(place).encode()).hexdigest()[:_DIGEST_CHARACTERS]
    ending = ("", f":{place.port}" if name else "", f"@{place}" if name else "", f"~{digest}")[step]
    if len(ending) >= MAX_NAME_CHARACTERS:
        ending = f"~{digest}"
    return f"{(name or str(place))[: MAX_NAME_CHARACTERS - len(ending)]}{ending}"
