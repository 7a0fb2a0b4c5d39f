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

from exporter.demo import breakage, fault_proxy, faults
from exporter.demo.network import MESH_NODES
from exporter.demo.relay import Stall
from exporter.demo.state import Role
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
# What cannot be broken honestly on the host that is also the exporter's, and why.
NOT_SIMULATED = {
    "XEXP01": "this host would have to lose its network, and nothing that is simulated on loopback goes with it",
    "XEXP02": "the exporter would have to be starved, and the simulation lives in the same process",
}

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
        quiet: Nothing may become active meanwhile, whatever is observed.
        leaves_out: Keys of the deployment that the exporter's configuration lacks; such a scenario lasts from
            the start to the end.
        resource: What it changes that only one scenario at a time can.
        needs_ipv6: It can only be played where this host has ::1.
        needs_several_addresses: It can only be played where this host has more than 127.0.0.1.
        settings: What the exporter's configuration says besides; such a scenario lasts from the
            start to the end, since that is when a configuration is read.
        from_start: It arises only when it is there before the exporter is; one that starts later
            first shows what `later` says.
        later: A sentence for people about that; empty otherwise.
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
    leaves_out: tuple[str, ...] = ()
    resource: str = ""
    needs_ipv6: bool = False
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


def _says(**by_section: str) -> Foreseen:
    """Read `access_url="EACS04:warning XACS06:error"`, as our probes see it."""
    return _read(Witness.PROBE, by_section)


def _reports(**by_section: str) -> Foreseen:
    """The same as Coder's report says it; `:error` is trouble without a code."""
    return _read(Witness.REPORT, by_section)


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
        foreseen=_says(
            access_url="EACS01:error", websocket="EWS01:error", derp="XDERP03:error", report="XRPT04:warning"
        ),
        without_database=_says(
            access_url="EACS01:error",
            websocket="EWS01:error",
            derp="XDERP03:error",
            workspace_proxy="EWP01:warning",
            provisioner_daemons="XPD01:warning",
            report="XRPT04:warning",
        ),
        fading=ALL_REPORTED,
        resource="the file of the access URL",
    ),
    Scenario(
        name="EACS02",
        words="The file that names the access URL is filled with nonsense.",
        breaks=(breakage.write_access_url("https://[not-an-address"),),
        foreseen=_says(
            access_url="EACS02:error", websocket="EWS01:error", derp="XDERP03:error", report="XRPT04:warning"
        ),
        without_database=_says(
            access_url="EACS02:error",
            websocket="EWS01:error",
            derp="XDERP03:error",
            workspace_proxy="EWP01:warning",
            provisioner_daemons="XPD01:warning",
            report="XRPT04:warning",
        ),
        fading=ALL_REPORTED,
        resource="the file of the access URL",
    ),
    Scenario(
        name="EACS03",
        words="The port of the access URL is closed: no relay inside Coder and no DERP map any more, and the proxies "
        "say that they cannot ask their primary.",
        breaks=(breakage.close_coder(),),
        foreseen=_says(
            access_url="EACS03:error",
            websocket="EWS01:error",
            derp="XDERP01:error XDERP03:error",
            workspace_proxy=_PROXIES_WITHOUT_PRIMARY,
        ),
        without_database=_says(
            access_url="EACS03:error",
            websocket="EWS01:error",
            derp="XDERP01:error XDERP03:error",
            workspace_proxy=f"EWP01:warning {_PROXIES_WITHOUT_PRIMARY}",
            provisioner_daemons="XPD01:warning",
        ),
        resource="the port of the access URL",
        inside=_reports(
            access_url="EACS03:error", websocket="EWS01:error", derp="XDERP01:error", workspace_proxy="EWP04:warning"
        ),
    ),
    Scenario(
        name="EACS04",
        words="/healthz answers 204: neither 200 nor an error.",
        breaks=(breakage.break_coder(lambda _: faults.Answer(path="/healthz", status=204)),),
        foreseen=_says(access_url="EACS04:warning"),
        without_database=_says(access_url="EACS04:warning"),
        inside=_reports(access_url="EACS04:warning"),
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
        breaks=(breakage.break_coder(lambda _: faults.ForeignServer(), cut=True),),
        foreseen=_says(
            access_url="XACS04:error",
            websocket="EWS01:error XWS01:error",
            derp="XDERP01:error XDERP03:error",
            workspace_proxy=_PROXIES_WITHOUT_PRIMARY,
        ),
        without_database=_says(
            access_url="XACS04:error",
            websocket="EWS01:error XWS01:error",
            derp="XDERP01:error XDERP03:error",
            workspace_proxy=f"EWP01:warning {_PROXIES_WITHOUT_PRIMARY}",
            provisioner_daemons="XPD01:warning",
        ),
        inside=_reports(websocket="EWS01:error", derp="EDERP01:warning XDERP01:error", workspace_proxy="EWP04:warning"),
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
        inside=_reports(access_url="EACS04:warning"),
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
            breakage.break_coder(
                lambda _: faults.RefuseUpgrades(status=500, body="the websocket was not accepted"), cut=True
            ),
        ),
        foreseen=_says(websocket="EWS01:error"),
        without_database=_says(websocket="EWS01:error"),
        inside=_reports(websocket="EWS01:error"),
    ),
    Scenario(
        name="XWS01",
        words="Somebody on the way redirects websocket upgrades to a sign-in page.",
        breaks=(
            breakage.break_coder(
                lambda _: faults.RefuseUpgrades(status=302, location="https://login.example.com/", foreign=True),
                cut=True,
            ),
        ),
        foreseen=_says(websocket="EWS01:error XWS01:error"),
        without_database=_says(websocket="EWS01:error XWS01:error"),
        inside=_reports(websocket="EWS01:error"),
    ),
    Scenario(
        name="EWS02",
        words="Websockets open, and their connection is cut at once.",
        breaks=(breakage.break_coder(lambda _: faults.CloseAfterUpgrade(), cut=True),),
        foreseen=_says(websocket="EWS02:error"),
        without_database=_says(websocket="EWS02:error"),
        inside=_reports(websocket="EWS02:error"),
    ),
    Scenario(
        name="EWS03",
        words="Messages come back changed.",
        breaks=(breakage.break_coder(lambda _: faults.ChangeEchoes()),),
        foreseen=_says(websocket="EWS03:error"),
        without_database=_says(websocket="EWS03:error"),
        inside=_reports(websocket="EWS03:error"),
    ),
    # database
    Scenario(
        name="EDB01",
        words="PostgreSQL is gone: connections are cut and refused. Coder cannot look up tokens any more.",
        breaks=(breakage.break_everywhere(lambda: faults.DatabaseGone()), breakage.break_lines(fault_proxy.Refuse())),
        foreseen=_says(
            database="EDB01:error",
            workspace_proxy="EWP01:warning",
            provisioner_daemons="XPD01:warning",
            report="XRPT04:warning",
        ),
        without_database=None,
        fading=ALL_REPORTED,
        resource="the way to the database",
    ),
    Scenario(
        name="EDB02",
        words="Every way to PostgreSQL becomes 60 ms longer, from here and from each replica.",
        breaks=(breakage.break_lines(fault_proxy.Delay(to_client_seconds=0.06)),),
        foreseen=_says(database="EDB02:warning"),
        without_database=None,
        resource="the way to the database",
        inside=_reports(database="EDB02:warning"),
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
        inside=_reports(workspace_proxy="EWP01:warning"),
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
        inside=_reports(workspace_proxy="EWP01:warning"),
    ),
    Scenario(
        name="EWP04",
        words="The proxy eu reports an error about itself, so Coder takes its relay out of the DERP map.",
        breaks=(breakage.break_proxy("eu", lambda: faults.ReportErrors(errors=("the relay mesh is broken",))),),
        foreseen=_says(workspace_proxy="EWP04:warning", derp="XDERP01:error"),
        without_database=_says(workspace_proxy="EWP04:warning", derp="XDERP01:error"),
        inside=_reports(workspace_proxy="EWP04:warning"),
    ),
    Scenario(
        name="XWP01",
        words="A proxy was created in Coder and has never registered.",
        breaks=(breakage.create_proxy("asia"),),
        foreseen=_says(workspace_proxy="XWP01:warning"),
        without_database=_says(workspace_proxy="XWP01:warning"),
        inside=_reports(workspace_proxy=":warning"),
    ),
    Scenario(
        name="XWP02",
        words="The ports of both proxies are closed, and with them their relays.",
        breaks=(breakage.close_proxy("eu"), breakage.close_proxy("us")),
        foreseen=_says(workspace_proxy="EWP04:warning XWP02:error", derp="XDERP01:error"),
        without_database=_says(workspace_proxy="EWP04:warning XWP02:error", derp="XDERP01:error"),
        resource="the ports of the proxies",
        inside=_reports(workspace_proxy="EWP04:warning"),
    ),
    Scenario(
        name="XWP03",
        words="The proxy eu is stopped in an orderly way: its replica's row says so.",
        breaks=(breakage.stop_proxy("eu"),),
        foreseen=_says(workspace_proxy="XWP03:ok"),
        without_database=None,
        resource="the ports of the proxies",
        inside=_reports(workspace_proxy="EWP04:warning"),
    ),
    Scenario(
        name="XWP04",
        words="The proxy eu is fine, but the answer of its primary never reaches it, so its report hangs and "
        "its relay is taken out of the DERP map.",
        breaks=(breakage.break_proxy("eu", lambda: faults.Hang(path="/healthz-report")),),
        foreseen=_says(workspace_proxy="EWP04:warning XWP04:warning", derp="XDERP01:error"),
        without_database=_says(workspace_proxy="EWP04:warning XWP04:warning", derp="XDERP01:error"),
        inside=_reports(workspace_proxy="EWP04:warning"),
    ),
    # relays
    Scenario(
        name="EDERP01",
        words="Somebody on the way to Coder refuses the raw upgrade of its relay with 426; WebSocket passes.",
        breaks=(breakage.change_relay("coder", raw_status=426, foreign=True),),
        foreseen=_says(derp="EDERP01:warning"),
        without_database=_says(derp="EDERP01:warning"),
        resource="the relays",
        inside=_reports(derp="EDERP01:warning"),
    ),
    Scenario(
        name="EDERP02",
        words="One of three relays of a region is gone.",
        breaks=(breakage.close_relay("1c"),),
        foreseen=_says(derp="EDERP02:warning"),
        without_database=_says(derp="EDERP02:warning"),
        resource="the relays",
        inside=_reports(derp="EDERP02:warning"),
    ),
    Scenario(
        name="XDERP01",
        words="The relay of the proxy us, the only one of its region, answers 502 to every upgrade.",
        breaks=(breakage.change_relay("us", raw_status=502, websocket_status=502, foreign=True),),
        foreseen=_says(derp="XDERP01:error"),
        without_database=_says(derp="XDERP01:error"),
        resource="the relays",
        inside=_reports(derp="XDERP01:error"),
    ),
    Scenario(
        name="XDERP02",
        words="Two of three relays of a region are gone.",
        breaks=(breakage.close_relay("1b"), breakage.close_relay("1c")),
        foreseen=_says(derp="XDERP02:warning"),
        without_database=_says(derp="XDERP02:warning"),
        resource="the relays",
        inside=_reports(derp=":error XDERP02:warning"),
    ),
    Scenario(
        name="XDERP03",
        words="Coder answers 500 wherever it should give its DERP map. The last map goes on being used.",
        breaks=(
            breakage.break_coder(lambda _: faults.Answer(path="/api/v2/derp-map", status=500), cut=True),
            breakage.break_coder(lambda _: faults.Answer(path="/api/v2/workspaceagents/connection", status=500)),
        ),
        foreseen=_says(derp="XDERP03:error"),
        without_database=_says(derp="XDERP03:error"),
    ),
    Scenario(
        name="XDERP04",
        words="One relay of a region passes nothing on to the others, and gets nothing from them.",
        breaks=(breakage.change_relay("1b", mesh_cut=True),),
        foreseen=_says(derp="XDERP04:warning"),
        without_database=_says(derp="XDERP04:warning"),
        resource="the relays",
    ),
    Scenario(
        name="XDERP05",
        words="One of three relays of a region shows a certificate for another name.",
        breaks=(breakage.show_relay_certificate("1b", "other-name"),),
        foreseen=_says(derp="XDERP05:error EDERP02:warning"),
        without_database=_says(derp="XDERP05:error EDERP02:warning"),
        resource="the relays",
        inside=_reports(derp="EDERP02:warning"),
    ),
    # STUN, and the network of this host
    Scenario(
        name="ESTUN01",
        words="No STUN server answers any more: all at once, so it is UDP that is blocked.",
        breaks=(breakage.change_stun(silent=True),),
        foreseen=_says(derp="ESTUN01:warning", direct_connections="XNET03:warning"),
        without_database=_says(derp="ESTUN01:warning", direct_connections="XNET03:warning"),
        resource="the STUN servers",
        inside=_reports(derp=":error ESTUN01:warning"),
    ),
    Scenario(
        name="ESTUN02",
        words="STUN servers see this host at different ports: its address mapping varies by destination.",
        breaks=(breakage.change_stun(1, port_offset=1), breakage.change_stun(2, port_offset=2)),
        foreseen=_says(derp="ESTUN02:ok", direct_connections="XNET04:warning"),
        without_database=_says(derp="ESTUN02:ok", direct_connections="XNET04:warning"),
        resource="the STUN servers",
        needs_several_addresses=True,
        inside=_reports(derp="ESTUN02:ok"),
    ),
    Scenario(
        name="XSTUN01",
        words="One of several STUN servers is silent.",
        breaks=(breakage.change_stun(0, silent=True),),
        foreseen=_says(derp="XSTUN01:warning"),
        without_database=_says(derp="XSTUN01:warning"),
        resource="the STUN servers",
        inside=_reports(derp=":error XSTUN01:warning"),
    ),
    Scenario(
        name="XNET01",
        words="The deployment disables direct connections, and Coder takes STUN out of its map. Regions without any "
        "node are left, and with them the check of Coder's report crashes.",
        breaks=(breakage.disable_direct_connections(),),
        foreseen=_says(direct_connections="XNET01:ok", report="XRPT03:error"),
        without_database=_says(direct_connections="XNET01:ok", report="XRPT03:error"),
        resource="the STUN servers",
        inside=_reports(derp="EUNKNOWN:error"),
    ),
    Scenario(
        name="XNET02",
        words="The map names no STUN server, though direct connections are wanted.",
        breaks=(breakage.leave_stun_out(),),
        foreseen=_says(direct_connections="XNET02:warning"),
        without_database=_says(direct_connections="XNET02:warning"),
        resource="the STUN servers",
    ),
    Scenario(
        name="XNET03",
        words="UDP is blocked on the way: nothing comes back from any STUN server.",
        breaks=(breakage.change_stun(silent=True),),
        foreseen=_says(derp="ESTUN01:warning", direct_connections="XNET03:warning"),
        without_database=_says(derp="ESTUN01:warning", direct_connections="XNET03:warning"),
        resource="the STUN servers",
        inside=_reports(derp=":error ESTUN01:warning"),
    ),
    Scenario(
        name="XNET04",
        words="This host is behind a hard NAT: each STUN server sees another port.",
        breaks=tuple(breakage.change_stun(number, port_offset=number) for number in range(3)),
        foreseen=_says(derp="ESTUN02:ok", direct_connections="XNET04:warning"),
        without_database=_says(derp="ESTUN02:ok", direct_connections="XNET04:warning"),
        resource="the STUN servers",
        needs_several_addresses=True,
        inside=_reports(derp="ESTUN02:ok"),
    ),
    Scenario(
        name="XNET05",
        words="The exporter's configuration calls the loopback interface a tunnel, and it is on the way.",
        settings={"direct_connections": {"tunnel_interfaces": ["lo*"]}},
        foreseen=_says(direct_connections="XNET05:warning"),
        without_database=_says(direct_connections="XNET05:warning"),
        from_start=True,
    ),
    Scenario(
        name="EIF01",
        words="On the way to the STUN servers packets above 1300 bytes get lost.",
        breaks=(breakage.change_stun(largest_bytes=1300),),
        foreseen=_says(direct_connections="EIF01:warning"),
        without_database=_says(direct_connections="EIF01:warning"),
        resource="the STUN servers",
    ),
    # replicas
    Scenario(
        name="XACS08",
        words="The port of the replica coderd-2 is closed; the access URL and the others answer.",
        breaks=(breakage.close_replica("coderd-2"),),
        foreseen=_says(access_url="XACS08:warning", report="XRPT04:warning"),
        without_database=_says(access_url="XACS08:warning", report="XRPT04:warning"),
        resource="the replicas",
    ),
    # provisioner daemons
    Scenario(
        name="EPD01",
        words="No provisioner daemon has been seen for three minutes.",
        breaks=(breakage.silence_daemons(),),
        foreseen=_says(provisioner_daemons="EPD01:error"),
        without_database=_says(provisioner_daemons="EPD01:error"),
        inside=_reports(provisioner_daemons="EPD01:error"),
        resource="the provisioner daemons",
    ),
    Scenario(
        name="EPD02",
        words="One provisioner daemon is of an older minor version.",
        breaks=(breakage.change_daemon("builder-1", version="v2.20.1"),),
        foreseen=_says(provisioner_daemons="EPD02:warning"),
        without_database=_says(provisioner_daemons="EPD02:warning"),
        inside=_reports(provisioner_daemons="EPD02:warning"),
        resource="the provisioner daemons",
    ),
    Scenario(
        name="EPD03",
        words="One provisioner daemon speaks another major version of the API.",
        breaks=(breakage.change_daemon("builder-1", api_version="2.0"),),
        foreseen=_says(provisioner_daemons="EPD03:warning"),
        without_database=_says(provisioner_daemons="EPD03:warning"),
        inside=_reports(provisioner_daemons="EPD03:warning"),
        resource="the provisioner daemons",
    ),
    Scenario(
        name="EUNKNOWN",
        words="One provisioner daemon shows no valid version.",
        breaks=(breakage.change_daemon("builder-1", version="banana"),),
        foreseen=_says(provisioner_daemons="EUNKNOWN:error"),
        without_database=_says(provisioner_daemons="EUNKNOWN:error"),
        inside=_reports(provisioner_daemons="EUNKNOWN:error"),
        resource="the provisioner daemons",
    ),
    Scenario(
        name="XPD01",
        words="The list of provisioner daemons can be read neither from the API nor from the tables. Coder itself "
        "still can.",
        breaks=(breakage.hide_daemon_list(),),
        foreseen=_says(provisioner_daemons="XPD01:warning"),
        without_database=_says(provisioner_daemons="XPD01:warning"),
        resource="the rights of the exporter's role",
    ),
    Scenario(
        name="XPD02",
        words="A workspace build waits for a provisioner daemon with the tag gpu, and there is none. Coder's report "
        "does not look at jobs.",
        breaks=(breakage.let_job_wait({"scope": "organization", "owner": "", "gpu": "yes"}),),
        foreseen=_says(provisioner_daemons="XPD02:error"),
        without_database=None,
        resource="the provisioner daemons",
    ),
    # Coder's own report
    Scenario(
        name="XRPT01",
        words="The exporter's session token is revoked: its grade falls, and no outage is told.",
        breaks=(breakage.revoke_token(),),
        foreseen=_says(report="XRPT01:warning"),
        without_database=_says(report="XRPT01:warning", workspace_proxy="EWP01:warning"),
        off=ALL_REPORTED,
        off_without_database=frozenset({probed(Section.PROVISIONER_DAEMONS)}),
        resource="the exporter's token",
    ),
    Scenario(
        name="XRPT02",
        words="The replica coderd-1 goes on answering with a report of an hour ago.",
        breaks=(breakage.serve_old_report("coderd-1", age_seconds=3600.0),),
        foreseen=_says(report="XRPT02:warning"),
        without_database=_says(report="XRPT02:warning"),
        resource="the reports",
    ),
    Scenario(
        name="XRPT03",
        words="A check of Coder's report crashes. Coder itself counts that as ok.",
        breaks=(breakage.crash_check("websocket"),),
        foreseen=_says(report="XRPT03:error"),
        without_database=_says(report="XRPT03:error"),
        inside=_reports(websocket="EUNKNOWN:error"),
        resource="the reports",
    ),
    Scenario(
        name="XRPT04",
        words="Coder never gets done with its report: it answers 503 for ever.",
        fading=ALL_REPORTED,
        breaks=(breakage.never_report(),),
        foreseen=_says(report="XRPT04:warning"),
        without_database=_says(report="XRPT04:warning"),
        resource="the reports",
    ),
    Scenario(
        name="XRPT05",
        words="The replica coderd-1 cannot reach the access URL from where it stands; the others can.",
        breaks=(breakage.break_hairpins(fault_proxy.Refuse(), "coderd-1"),),
        foreseen=_says(report="XRPT05:warning"),
        without_database=_says(report="XRPT05:warning"),
        inside=_reports(access_url="EACS03:error", websocket="EWS01:error", derp="XDERP01:error"),
        resource="the way from the replicas to the access URL",
    ),
    Scenario(
        name="XRPT06",
        words="A roll-out gets stuck: the replica coderd-2 has a new minor version, and the others never follow.",
        breaks=(breakage.roll_out_stuck("coderd-2", version="v2.27.0"),),
        foreseen=_says(report="XRPT06:warning"),
        without_database=_says(report="XRPT06:warning"),
        inside=_reports(provisioner_daemons="EPD02:warning"),
        resource="the provisioner daemons",
    ),
    Scenario(
        name="XRPT07",
        words="Coder cannot read its own table of provisioner daemons: its report has an error without a code.",
        breaks=(breakage.fail_daemon_check("sql: connection is already closed"),),
        foreseen=_says(report="XRPT07:error"),
        without_database=_says(report="XRPT07:error"),
        inside=_reports(provisioner_daemons=":error"),
        resource="the reports",
    ),
    # the exporter's token
    Scenario(
        name="XEXP03",
        words="The exporter's session token ends in an hour, and its use does not move that.",
        breaks=(breakage.let_token_end(3600.0),),
        foreseen=_says(exporter="XEXP03:warning"),
        without_database=_says(exporter="XEXP03:warning"),
        resource="the exporter's token",
    ),
    # stories
    Scenario(
        name="silent-relay",
        words="The relay of the proxy us accepts every upgrade, and then says nothing.",
        breaks=(breakage.change_relay("us", stall=Stall.AFTER_UPGRADE),),
        foreseen=_says(derp="XDERP01:error"),
        without_database=_says(derp="XDERP01:error"),
        resource="the relays",
        inside=_reports(derp="XDERP01:error"),
    ),
    Scenario(
        name="half-dead-region",
        words="Of three relays of a region one loses every message, and one works by WebSocket only.",
        breaks=(
            breakage.change_relay("1b", drop_first=None),
            breakage.change_relay("1c", raw_status=403, foreign=True),
        ),
        foreseen=_says(derp="EDERP01:warning XDERP02:warning XDERP04:warning"),
        without_database=_says(derp="EDERP01:warning XDERP02:warning XDERP04:warning"),
        resource="the relays",
        inside=_reports(derp=":error EDERP01:warning XDERP02:warning"),
    ),
    Scenario(
        name="slow-relay",
        words="Each message through the relay of the proxy eu takes 200 ms longer: no code, but the round trip tells.",
        breaks=(breakage.change_relay("eu", delay_seconds=0.2),),
        resource="the relays",
    ),
    Scenario(
        name="websocket-only-fleet",
        words="The deployment forces clients to WebSocket, and every relay refuses the raw upgrade: as it should be.",
        breaks=(
            breakage.force_websockets(),
            *(breakage.change_relay(name, raw_status=403, foreign=True) for name in ("coder", "eu", "us", *MESH_NODES)),
        ),
        resource="the relays",
        inside=_reports(derp="EDERP01:warning"),
    ),
    Scenario(
        name="stun-ipv6-only",
        words="STUN passes over IPv6, and every IPv4 server is silent.",
        breaks=(breakage.change_stun(0, 1, 2, silent=True),),
        foreseen=_says(derp="XSTUN01:warning"),
        without_database=_says(derp="XSTUN01:warning"),
        resource="the STUN servers",
        needs_ipv6=True,
        inside=_reports(derp=":error XSTUN01:warning"),
    ),
    # two witnesses
    Scenario(
        name="hairpin",
        words="No replica reaches the access URL from inside, while it is fine from outside: no way back through "
        "the router.",
        breaks=(breakage.break_hairpins(fault_proxy.Refuse()),),
        inside=_reports(access_url="EACS03:error", websocket="EWS01:error", derp="XDERP01:error"),
        resource="the way from the replicas to the access URL",
    ),
    Scenario(
        name="ingress",
        words="The ingress answers 502 to everybody outside. Inside, the name of the access URL leads past it to "
        "Coder.",
        breaks=(
            breakage.lead_hairpins_past_front(),
            breakage.break_coder(lambda _: faults.BadGateway(), cut=True),
        ),
        foreseen=_says(
            access_url="EACS04:warning XACS06:error",
            websocket="EWS01:error XWS01:error",
            derp="XDERP01:error XDERP03:error",
            workspace_proxy=_PROXIES_WITHOUT_PRIMARY,
        ),
        without_database=_says(
            access_url="EACS04:warning XACS06:error",
            websocket="EWS01:error XWS01:error",
            derp="XDERP01:error XDERP03:error",
            workspace_proxy=f"EWP01:warning {_PROXIES_WITHOUT_PRIMARY}",
            provisioner_daemons="XPD01:warning",
        ),
        inside=_reports(workspace_proxy="EWP04:warning"),
        resource="the way from the replicas to the access URL",
    ),
    Scenario(
        name="stale-connection",
        words="The replica coderd-1 holds on to a connection to PostgreSQL that has become 60 ms longer; every other "
        "one is fast.",
        breaks=(breakage.break_lines_of("coderd-1", fault=fault_proxy.Delay(to_client_seconds=0.06)),),
        inside=_reports(database="EDB02:warning"),
        without_database=None,
        resource="the way to the database",
    ),
    Scenario(
        name="rollout",
        words="A new minor version is rolled out: replica by replica, then the proxies, then the provisioner daemons. "
        "Nothing becomes active.",
        breaks=(breakage.roll_out("v2.27.0"),),
        ends=True,
        quiet=True,
        resource="the provisioner daemons",
    ),
    Scenario(
        name="muted",
        words="Somebody has muted Database and ProvisionerDaemons in Coder, and every way to PostgreSQL is 60 ms "
        "longer: the code stands, its warning keeps quiet.",
        breaks=(
            breakage.mute("Database", "ProvisionerDaemons"),
            breakage.break_lines(fault_proxy.Delay(to_client_seconds=0.06)),
        ),
        foreseen=_says(database="EDB02:warning"),
        without_database=None,
        inside=_reports(database="EDB02:warning"),
        resource="the way to the database",
    ),
    Scenario(
        name="member",
        words="The token in the exporter's file is replaced by one of an ordinary member.",
        breaks=(breakage.change_token(Role.MEMBER),),
        foreseen=_says(report="XRPT01:warning"),
        without_database=_says(report="XRPT01:warning"),
        off=ALL_REPORTED,
        off_without_database=frozenset({probed(Section.PROVISIONER_DAEMONS)}),
        resource="the exporter's token",
    ),
    Scenario(
        name="expired",
        words="The token in the exporter's file is replaced by one that has expired.",
        breaks=(breakage.change_token(Role.EXPIRED),),
        foreseen=_says(report="XRPT01:warning"),
        without_database=_says(report="XRPT01:warning", workspace_proxy="EWP01:warning"),
        off=ALL_REPORTED,
        off_without_database=frozenset({probed(Section.PROVISIONER_DAEMONS)}),
        resource="the exporter's token",
    ),
    Scenario(
        name="anonymous",
        words="The exporter's configuration has no token and no database: what is left is seen from outside.",
        leaves_out=("session_token_file", "database"),
        off=ALL_REPORTED
        | {
            probed(Section.DATABASE),
            probed(Section.WORKSPACE_PROXY),
            probed(Section.PROVISIONER_DAEMONS),
            probed(Section.REPORT),
        },
        from_start=True,
    ),
)

SCENARIOS: Mapping[str, Scenario] = {scenario.name: scenario for scenario in _SCENARIOS}


def find(name: str) -> Scenario | None:
    """Return the scenario of that name in any letter case, or None."""
    wanted = name.casefold()
    return next((scenario for scenario in _SCENARIOS if scenario.name.casefold() == wanted), None)
