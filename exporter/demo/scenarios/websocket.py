"""Scenarios of websockets to the access URL."""

from __future__ import annotations

from exporter.demo import faults
from exporter.demo.breakages import front
from exporter.demo.scenario import Scenario, says, says_inside

SCENARIOS = (
    Scenario(
        name="EWS01",
        words="Coder answers every websocket upgrade with 500.",
        breaks=(
            front.break_coder(
                lambda _: faults.RefuseUpgrades(status=500, body="the websocket was not accepted"), cut=True
            ),
        ),
        foreseen=says(websocket="EWS01:error"),
        without_database=says(websocket="EWS01:error"),
        inside=says_inside(websocket="EWS01:error"),
    ),
    Scenario(
        name="XWS01",
        words="Somebody on the way redirects websocket upgrades to a sign-in page.",
        breaks=(
            front.break_coder(
                lambda _: faults.RefuseUpgrades(status=302, location="https://login.example.com/", foreign=True),
                cut=True,
            ),
        ),
        foreseen=says(websocket="EWS01:error XWS01:error"),
        without_database=says(websocket="EWS01:error XWS01:error"),
        inside=says_inside(websocket="EWS01:error"),
    ),
    Scenario(
        name="EWS02",
        words="Websockets open, and their connection is cut at once.",
        breaks=(front.break_coder(lambda _: faults.CloseAfterUpgrade(), cut=True),),
        foreseen=says(websocket="EWS02:error"),
        without_database=says(websocket="EWS02:error"),
        inside=says_inside(websocket="EWS02:error"),
    ),
    Scenario(
        name="EWS03",
        words="Messages come back changed.",
        breaks=(front.break_coder(lambda _: faults.ChangeEchoes()),),
        foreseen=says(websocket="EWS03:error"),
        without_database=says(websocket="EWS03:error"),
        inside=says_inside(websocket="EWS03:error"),
    ),
)
