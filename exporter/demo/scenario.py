"""Scenarios: what can be broken in the simulated deployment, and what a right exporter says then.

Each one breaks something real (`breaks`, async context managers over the simulation) and names,
for each section, exactly the codes with their severities that are observed while it is broken.
From these follow the verdict and the exit status of `demo --once`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from exporter.demo import breakage, fault_proxy, faults
from exporter.health import codes
from exporter.health.model import Section, Severity

if TYPE_CHECKING:
    from exporter.demo.simulation import Simulation

Observed = frozenset[tuple[str, Severity]]
Foreseen = Mapping[Section, Observed]
Breakage = Callable[["Simulation"], AbstractAsyncContextManager[None]]

HEALTHY = "healthy"
TOUR = "tour"


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """One thing that breaks.

    Args:
        name: `healthy` or a code.
        words: A sentence for people: what breaks.
        foreseen: Codes with severities by section; a section that is left out has none.
        without_database: The same where no database runs. None: it cannot be played then.
        resource: What it changes that only one scenario at a time can.
        needs_ipv6: It can only be played where this host has ::1.
        from_start: It arises only when it is there before the exporter is; one that starts later
            first shows what `later` says.
        later: A sentence for people about that; empty otherwise.
    """

    name: str
    words: str
    breaks: tuple[Breakage, ...] = ()
    foreseen: Foreseen = field(default_factory=dict)
    without_database: Foreseen | None = field(default_factory=dict)
    resource: str = ""
    needs_ipv6: bool = False
    from_start: bool = False
    later: str = ""

    @property
    def summary(self) -> str:
        """The sentence of the code that this scenario is about; empty for `healthy`."""
        code = codes.find(self.name)
        return code.summary if code is not None else ""

    def expected(self, *, database: bool) -> Foreseen:
        """Return what is foreseen, for every section that is on."""
        foreseen = self.foreseen if database else self.without_database or {}
        return {
            section: foreseen.get(section, frozenset())
            for section in Section
            if database or section is not Section.DATABASE
        }

    async def play(self, simulation: Simulation) -> AsyncExitStack:
        """Break it. Closing what is returned mends it."""
        async with AsyncExitStack() as stack:
            for broken in self.breaks:
                await stack.enter_async_context(broken(simulation))
            return stack.pop_all()


def worst(foreseen: Foreseen) -> Severity:
    """Return the severity of a deployment that shows these codes."""
    return max((severity for observed in foreseen.values() for _code, severity in observed), default=Severity.OK)


def _says(**by_section: str) -> Foreseen:
    """Read `access_url="EACS04:warning XACS06:error"`."""
    return {
        Section(section): frozenset(
            (code, Severity[severity.upper()]) for code, _, severity in (word.partition(":") for word in words.split())
        )
        for section, words in by_section.items()
    }


_LOGIN_PAGE = "<!doctype html><html><head><title>Sign in</title></head><body><form></form></body></html>"
# a proxy that cannot ask its primary says so in its report, and then no proxy is fine
_PROXIES_WITHOUT_PRIMARY = "EWP04:warning XWP04:warning XWP02:error"

_SCENARIOS = (
    Scenario(name=HEALTHY, words="Nothing is broken."),
    # access URL
    Scenario(
        name="EACS01",
        words="The file that names the access URL is emptied.",
        breaks=(breakage.write_access_url(""),),
        foreseen=_says(access_url="EACS01:error", websocket="EWS01:error"),
        without_database=_says(access_url="EACS01:error", websocket="EWS01:error", workspace_proxy="EWP01:warning"),
        resource="the file of the access URL",
    ),
    Scenario(
        name="EACS02",
        words="The file that names the access URL is filled with nonsense.",
        breaks=(breakage.write_access_url("https://[not-an-address"),),
        foreseen=_says(access_url="EACS02:error", websocket="EWS01:error"),
        without_database=_says(access_url="EACS02:error", websocket="EWS01:error", workspace_proxy="EWP01:warning"),
        resource="the file of the access URL",
    ),
    Scenario(
        name="EACS03",
        words="The port of the access URL is closed. The proxies cannot ask their primary any more and say so.",
        breaks=(breakage.close_coder(),),
        foreseen=_says(access_url="EACS03:error", websocket="EWS01:error", workspace_proxy=_PROXIES_WITHOUT_PRIMARY),
        without_database=_says(
            access_url="EACS03:error",
            websocket="EWS01:error",
            workspace_proxy=f"EWP01:warning {_PROXIES_WITHOUT_PRIMARY}",
        ),
        resource="the port of the access URL",
    ),
    Scenario(
        name="EACS04",
        words="/healthz answers 204: neither 200 nor an error.",
        breaks=(breakage.break_coder(lambda _: faults.Answer(path="/healthz", status=204)),),
        foreseen=_says(access_url="EACS04:warning"),
        without_database=_says(access_url="EACS04:warning"),
    ),
    Scenario(
        name="XACS01",
        words="Somebody on the way answers /healthz with a sign-in page and status 200.",
        breaks=(
            breakage.break_coder(
                lambda _: faults.Answer(path="/healthz", body=_LOGIN_PAGE, content_type="text/html", foreign=True)
            ),
        ),
        foreseen=_says(access_url="XACS01:error"),
        without_database=_says(access_url="XACS01:error"),
    ),
    Scenario(
        name="XACS02",
        words="/healthz answers with a redirect to another path of the same host.",
        breaks=(breakage.break_coder(lambda _: faults.Answer(path="/healthz", status=307, location="/login")),),
        foreseen=_says(access_url="XACS02:warning"),
        without_database=_says(access_url="XACS02:warning"),
    ),
    Scenario(
        name="XACS03",
        words="The certificate of the access URL ends in one day.",
        breaks=(breakage.show_certificate("expiring"),),
        foreseen=_says(access_url="XACS03:error"),
        without_database=_says(access_url="XACS03:error"),
        resource="the certificate of the access URL",
    ),
    Scenario(
        name="XACS04",
        words="Another web server answers at the access URL. Its health route says OK; nothing else is Coder's.",
        breaks=(breakage.break_coder(lambda _: faults.ForeignServer()),),
        foreseen=_says(
            access_url="XACS04:error",
            websocket="EWS01:error XWS01:error",
            workspace_proxy=_PROXIES_WITHOUT_PRIMARY,
        ),
        without_database=_says(
            access_url="XACS04:error",
            websocket="EWS01:error XWS01:error",
            workspace_proxy=f"EWP01:warning {_PROXIES_WITHOUT_PRIMARY}",
        ),
    ),
    Scenario(
        name="XACS05",
        words="Another Coder deployment answers at the access URL.",
        breaks=(
            breakage.break_coder(
                lambda simulation: faults.OtherDeployment(
                    deployment_id="5d3fd2b6-9a1e-4c57-8a56-0f4e3d2c1b0a",
                    access_url=simulation.coder.url,
                    # the same minor version, so that the proxies see no skew
                    version="v2.26.3",
                )
            ),
        ),
        foreseen=_says(access_url="XACS05:warning"),
        without_database=_says(access_url="XACS05:warning"),
    ),
    Scenario(
        name="XACS06",
        words="/healthz answers 503.",
        breaks=(breakage.break_coder(lambda _: faults.Answer(path="/healthz", status=503, body="unavailable")),),
        foreseen=_says(access_url="EACS04:warning XACS06:error"),
        without_database=_says(access_url="EACS04:warning XACS06:error"),
    ),
    Scenario(
        name="XACS07",
        words="The access URL's name has an IPv4 and an IPv6 address; the port is closed on ::1 only.",
        breaks=(breakage.close_coder("ipv6"),),
        foreseen=_says(access_url="XACS07:warning"),
        without_database=_says(access_url="XACS07:warning"),
        resource="the port of the access URL",
        needs_ipv6=True,
    ),
    # websocket
    Scenario(
        name="EWS01",
        words="Coder answers every websocket upgrade with 500.",
        breaks=(
            breakage.break_coder(lambda _: faults.RefuseUpgrades(status=500, body="the websocket was not accepted")),
        ),
        foreseen=_says(websocket="EWS01:error"),
        without_database=_says(websocket="EWS01:error"),
    ),
    Scenario(
        name="XWS01",
        words="Somebody on the way redirects websocket upgrades to a sign-in page.",
        breaks=(
            breakage.break_coder(
                lambda _: faults.RefuseUpgrades(status=302, location="https://login.example.com/", foreign=True)
            ),
        ),
        foreseen=_says(websocket="EWS01:error XWS01:error"),
        without_database=_says(websocket="EWS01:error XWS01:error"),
    ),
    Scenario(
        name="EWS02",
        words="Websockets open, and their connection is cut at once.",
        breaks=(breakage.break_coder(lambda _: faults.CloseAfterUpgrade()),),
        foreseen=_says(websocket="EWS02:error"),
        without_database=_says(websocket="EWS02:error"),
    ),
    Scenario(
        name="EWS03",
        words="Messages come back changed.",
        breaks=(breakage.break_coder(lambda _: faults.ChangeEchoes()),),
        foreseen=_says(websocket="EWS03:error"),
        without_database=_says(websocket="EWS03:error"),
    ),
    # database
    Scenario(
        name="EDB01",
        words="PostgreSQL is gone: connections are cut and refused. Coder cannot look up tokens any more.",
        breaks=(breakage.break_coder(lambda _: faults.DatabaseGone()), breakage.break_line(fault_proxy.Refuse())),
        foreseen=_says(database="EDB01:error", workspace_proxy="EWP01:warning"),
        without_database=None,
        resource="the way to the database",
    ),
    Scenario(
        name="EDB02",
        words="The way to PostgreSQL becomes 25 ms longer.",
        breaks=(breakage.break_line(fault_proxy.Delay(to_client_seconds=0.025)),),
        foreseen=_says(database="EDB02:warning"),
        without_database=None,
        resource="the way to the database",
    ),
    Scenario(
        name="XDB01",
        words="The password of the exporter's role is changed. The list of proxies still comes from the API.",
        breaks=(breakage.change_password(),),
        foreseen=_says(database="XDB01:warning"),
        without_database=None,
        resource="the rights of the exporter's role",
    ),
    Scenario(
        name="XDB02",
        words="A standby answers instead of the primary.",
        breaks=(breakage.use_standby(),),
        foreseen=_says(database="XDB02:warning"),
        without_database=None,
        resource="the way to the database",
    ),
    # workspace proxies
    Scenario(
        name="EWP01",
        words="The list of workspace proxies can be read neither from the API nor from the tables any more.",
        breaks=(breakage.hide_proxy_list(),),
        foreseen=_says(workspace_proxy="EWP01:warning"),
        without_database=_says(workspace_proxy="EWP01:warning"),
        resource="the rights of the exporter's role",
    ),
    Scenario(
        name="EWP02",
        words="The list of workspace proxies could never be read.",
        breaks=(breakage.hide_proxy_list(),),
        foreseen=_says(workspace_proxy="EWP02:error"),
        without_database=_says(workspace_proxy="EWP02:error"),
        resource="the rights of the exporter's role",
        from_start=True,
        later="While an earlier list is at hand it is EWP01 that shows.",
    ),
    Scenario(
        name="EWP04",
        words="The proxy eu reports an error about itself.",
        breaks=(breakage.break_proxy("eu", lambda: faults.ReportErrors(errors=("the relay mesh is broken",))),),
        foreseen=_says(workspace_proxy="EWP04:warning"),
        without_database=_says(workspace_proxy="EWP04:warning"),
    ),
    Scenario(
        name="XWP01",
        words="A proxy was created in Coder and has never registered.",
        breaks=(breakage.create_proxy("asia"),),
        foreseen=_says(workspace_proxy="XWP01:warning"),
        without_database=_says(workspace_proxy="XWP01:warning"),
    ),
    Scenario(
        name="XWP02",
        words="The ports of both proxies are closed.",
        breaks=(breakage.close_proxy("eu"), breakage.close_proxy("us")),
        foreseen=_says(workspace_proxy="EWP04:warning XWP02:error"),
        without_database=_says(workspace_proxy="EWP04:warning XWP02:error"),
        resource="the ports of the proxies",
    ),
    Scenario(
        name="XWP03",
        words="The proxy eu is stopped in an orderly way: its replica's row says so.",
        breaks=(breakage.stop_proxy("eu"),),
        foreseen=_says(workspace_proxy="XWP03:ok"),
        without_database=None,
        resource="the ports of the proxies",
    ),
    Scenario(
        name="XWP04",
        words="The proxy eu is fine, but the answer of its primary never reaches it, so its report hangs.",
        breaks=(breakage.break_proxy("eu", lambda: faults.Hang(path="/healthz-report")),),
        foreseen=_says(workspace_proxy="EWP04:warning XWP04:warning"),
        without_database=_says(workspace_proxy="EWP04:warning XWP04:warning"),
    ),
)

SCENARIOS: Mapping[str, Scenario] = {scenario.name: scenario for scenario in _SCENARIOS}


def find(name: str) -> Scenario | None:
    """Return the scenario of that name in any letter case, or None."""
    wanted = name.casefold()
    return next((scenario for scenario in _SCENARIOS if scenario.name.casefold() == wanted), None)
