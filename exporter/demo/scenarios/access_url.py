"""Scenarios of the access URL: its address, its certificate, who answers there, and the replicas behind it."""

from __future__ import annotations

from exporter.demo import faults
from exporter.demo.breakages import front, replicas
from exporter.demo.scenario import ALL_REPORTED, PROXIES_WITHOUT_PRIMARY, Scenario, says, says_inside

_LOGIN_PAGE = "<!doctype html><html><head><title>Sign in</title></head><body><form></form></body></html>"

SCENARIOS = (
    Scenario(
        name="EACS01",
        words="The file that names the access URL is emptied.",
        breaks=(front.write_access_url(""),),
        foreseen=says(
            access_url="EACS01:error", websocket="EWS01:error", derp="XDERP03:error", report="XRPT04:warning"
        ),
        without_database=says(
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
        breaks=(front.write_access_url("https://[not-an-address"),),
        foreseen=says(
            access_url="EACS02:error", websocket="EWS01:error", derp="XDERP03:error", report="XRPT04:warning"
        ),
        without_database=says(
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
        breaks=(front.close_coder(),),
        foreseen=says(
            access_url="EACS03:error",
            websocket="EWS01:error",
            derp="XDERP01:error XDERP03:error",
            workspace_proxy=PROXIES_WITHOUT_PRIMARY,
        ),
        without_database=says(
            access_url="EACS03:error",
            websocket="EWS01:error",
            derp="XDERP01:error XDERP03:error",
            workspace_proxy=f"EWP01:warning {PROXIES_WITHOUT_PRIMARY}",
            provisioner_daemons="XPD01:warning",
        ),
        resource="the port of the access URL",
        inside=says_inside(
            access_url="EACS03:error", websocket="EWS01:error", derp="XDERP01:error", workspace_proxy="EWP04:warning"
        ),
    ),
    Scenario(
        name="EACS04",
        words="/healthz answers 204: neither 200 nor an error.",
        breaks=(front.break_coder(lambda _: faults.Answer(path="/healthz", status=204)),),
        foreseen=says(access_url="EACS04:warning"),
        without_database=says(access_url="EACS04:warning"),
        inside=says_inside(access_url="EACS04:warning"),
    ),
    Scenario(
        name="XACS01",
        words="Somebody on the way answers /healthz with a sign-in page and status 200.",
        breaks=(
            front.break_coder(
                lambda _: faults.Answer(path="/healthz", body=_LOGIN_PAGE, content_type="text/html", foreign=True)
            ),
        ),
        foreseen=says(access_url="XACS01:error"),
        without_database=says(access_url="XACS01:error"),
    ),
    Scenario(
        name="XACS02",
        words="/healthz answers with a redirect to another path of the same host.",
        breaks=(front.break_coder(lambda _: faults.Answer(path="/healthz", status=307, location="/login")),),
        foreseen=says(access_url="XACS02:warning"),
        without_database=says(access_url="XACS02:warning"),
    ),
    Scenario(
        name="XACS03",
        words="The certificate of the access URL ends in one day.",
        breaks=(front.show_certificate("expiring"),),
        foreseen=says(access_url="XACS03:error"),
        without_database=says(access_url="XACS03:error"),
        resource="the certificate of the access URL",
    ),
    Scenario(
        name="XACS04",
        words="Another web server answers at the access URL. Its health route says OK; nothing else is Coder's.",
        breaks=(front.break_coder(lambda _: faults.ForeignServer(), cut=True),),
        foreseen=says(
            access_url="XACS04:error",
            websocket="EWS01:error XWS01:error",
            derp="XDERP01:error XDERP03:error",
            workspace_proxy=PROXIES_WITHOUT_PRIMARY,
        ),
        without_database=says(
            access_url="XACS04:error",
            websocket="EWS01:error XWS01:error",
            derp="XDERP01:error XDERP03:error",
            workspace_proxy=f"EWP01:warning {PROXIES_WITHOUT_PRIMARY}",
            provisioner_daemons="XPD01:warning",
        ),
        inside=says_inside(
            websocket="EWS01:error", derp="EDERP01:warning XDERP01:error", workspace_proxy="EWP04:warning"
        ),
    ),
    Scenario(
        name="XACS05",
        words="Another Coder deployment answers at the access URL.",
        breaks=(
            front.break_coder(
                lambda simulation: faults.OtherDeployment(
                    deployment_id="5d3fd2b6-9a1e-4c57-8a56-0f4e3d2c1b0a",
                    access_url=simulation.coder.url,
                    # the same minor version, so that the proxies see no skew
                    version="v2.26.3",
                )
            ),
        ),
        foreseen=says(access_url="XACS05:warning"),
        without_database=says(access_url="XACS05:warning"),
    ),
    Scenario(
        name="XACS06",
        words="/healthz answers 503.",
        breaks=(front.break_coder(lambda _: faults.Answer(path="/healthz", status=503, body="unavailable")),),
        foreseen=says(access_url="EACS04:warning XACS06:error"),
        without_database=says(access_url="EACS04:warning XACS06:error"),
        inside=says_inside(access_url="EACS04:warning"),
    ),
    Scenario(
        name="XACS07",
        words="The access URL's name has an IPv4 and an IPv6 address; the port is closed on ::1 only.",
        breaks=(front.close_coder("ipv6"),),
        foreseen=says(access_url="XACS07:warning"),
        without_database=says(access_url="XACS07:warning"),
        resource="the port of the access URL",
        needs_ipv6=True,
    ),
    Scenario(
        name="XACS08",
        words="The port of the replica coderd-2 is closed; the access URL and the others answer.",
        breaks=(replicas.close_replica("coderd-2"),),
        foreseen=says(access_url="XACS08:warning", report="XRPT04:warning"),
        without_database=says(access_url="XACS08:warning", report="XRPT04:warning"),
        resource="the replicas",
    ),
)
