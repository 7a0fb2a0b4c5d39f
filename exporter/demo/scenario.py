"""Scenarios: what can be broken in the simulated deployment, and what a right exporter says then.

Each one breaks something real (`breaks`, async context managers over the simulation) and names,
for each section and each witness, exactly the codes with their severities that are observed while it is
broken. From these follow the verdict and the exit status of `demo --once`.

What Coder's own report says (`inside`) is told of all replicas together: a code stands there when one of
them reports it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from exporter.health import codes
from exporter.health.model import REPORT_SECTIONS, UNCODED, Section, Severity, Witness

if TYPE_CHECKING:
    from exporter.demo.simulation import Simulation

Observed = frozenset[tuple[str, Severity]]
# a section as one witness tells it
Place = tuple[str, Witness]
Foreseen = Mapping[Place, Observed]
Breakage = Callable[["Simulation"], AbstractAsyncContextManager[None]]
# keys of the exporter's configuration, by section
Settings = Mapping[str, Mapping[str, object]]

# Every section that is probed here, as the configuration names them. All but `exporter` have keys there.
SECTIONS = tuple(Section)

HEALTHY = "healthy"
TOUR = "tour"


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """One thing that breaks.

    Args:
        name: `healthy`, a code, or the name of a story.
        words: A sentence for people: what breaks.
        foreseen: Codes with severities by section as the exporter's own probes see them; a section that is
            left out has none.
        without_database: The same where no database runs. None: it cannot be played then.
        inside: The same as Coder's own report says it, with a database and without.
        off: What is not there at all then: sections by witness.
        off_without_database: What besides where no database runs.
        fading: What may be gone: an earlier report is told by for a while, and then no more.
        ends: It comes to an end by itself, and what is foreseen is what is seen after that.
        quiet: Nothing may become active meanwhile but what it is named after, whatever is observed.
        on_schedule: It shows only where targets are probed again and again, and not in single rounds.
        lasts_seconds: How long its code takes to become active, where that is longer than usual; in the tour
            it is given so long.
        leaves_out: Keys of the deployment that the exporter's configuration lacks; such a scenario lasts from
            the start to the end.
        resource: What it changes that only one scenario at a time can.
        needs_ipv6: It can only be played where this host has ::1.
        needs_silent_ports: It can only be played where a port can swallow what comes to it.
        needs_several_addresses: It can only be played where this host has more than 127.0.0.1.
        settings: What the exporter's configuration says besides; such a scenario lasts from the
            start to the end, since that is when a configuration is read.
        from_start: It arises only when it is there before the exporter is; one that starts later
            first shows what `later` says.
        later: A sentence for people about what shows later, or when it starts later; mostly empty.
    """

    name: str
    words: str
    breaks: tuple[Breakage, ...] = ()
    foreseen: Foreseen = field(default_factory=dict)
    without_database: Foreseen | None = field(default_factory=dict)
    inside: Foreseen = field(default_factory=dict)
    off: frozenset[Place] = frozenset()
    off_without_database: frozenset[Place] = frozenset()
    fading: frozenset[Place] = frozenset()
    ends: bool = False
    quiet: bool = False
    on_schedule: bool = False
    lasts_seconds: float = 0.0
    leaves_out: tuple[str, ...] = ()
    resource: str = ""
    needs_ipv6: bool = False
    needs_silent_ports: bool = False
    needs_several_addresses: bool = False
    settings: Settings = field(default_factory=dict)
    from_start: bool = False
    later: str = ""

    @property
    def summary(self) -> str:
        """The sentence of the code that this scenario is about; empty for `healthy`."""
        code = codes.find(self.name)
        return code.summary if code is not None else ""

    def expected(self, *, database: bool) -> Foreseen:
        """Return what is foreseen, for every section that is on, by witness."""
        foreseen = {**(self.foreseen if database else self.without_database or {}), **self.inside}
        return {
            place: foreseen.get(place, frozenset())
            for place in PLACES
            if place not in self.off
            and (database or place not in {probed(Section.DATABASE), *self.off_without_database})
        }

    def complete(self, seen: Foreseen, *, database: bool) -> Foreseen:
        """Return what was seen, with what may be gone by now as if it were still there."""
        expected = self.expected(database=database)
        return {place: expected[place] for place in self.fading if place in expected} | dict(seen)

    @property
    def of_configuration(self) -> bool:
        """Whether it is a matter of what the exporter's configuration says."""
        return bool(self.settings or self.leaves_out)

    async def play(self, simulation: Simulation) -> AsyncExitStack:
        """Break it. Closing what is returned mends it."""
        async with AsyncExitStack() as stack:
            for broken in self.breaks:
                await stack.enter_async_context(broken(simulation))
            return stack.pop_all()


def probed(section: str) -> Place:
    """Return the place of a section as our own probes see it."""
    return (section, Witness.PROBE)


def reported(section: str) -> Place:
    """Return the place of a section as Coder's report tells it."""
    return (section, Witness.REPORT)


PLACES = (*map(probed, SECTIONS), *map(reported, REPORT_SECTIONS))
ALL_REPORTED = frozenset(map(reported, REPORT_SECTIONS))


def worst(foreseen: Foreseen) -> Severity:
    """Return the severity of a deployment that shows these codes."""
    return max((severity for observed in foreseen.values() for _code, severity in observed), default=Severity.OK)


def _read(witness: Witness, by_section: Mapping[str, str]) -> Foreseen:
    return {
        (Section(section), witness): frozenset(
            (code or UNCODED, Severity[severity.upper()])
            for code, _, severity in (word.partition(":") for word in words.split())
        )
        for section, words in by_section.items()
    }


def says(**by_section: str) -> Foreseen:
    """Read `access_url="EACS04:warning XACS06:error"`, as our probes see it."""
    return _read(Witness.PROBE, by_section)


def says_inside(**by_section: str) -> Foreseen:
    """The same as Coder's report says it; `:error` is trouble without a code."""
    return _read(Witness.REPORT, by_section)


# a proxy that cannot ask its primary says so in its report, and then no proxy is fine
PROXIES_WITHOUT_PRIMARY = "EWP04:warning XWP04:warning XWP02:error"
