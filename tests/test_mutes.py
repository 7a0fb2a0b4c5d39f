"""Coder's mutes over time."""

from __future__ import annotations

import pytest

from exporter.errors import Reason
from exporter.health.model import REPORT_SECTIONS, Failure
from exporter.health.report import ReportsResult
from exporter.mutes import Mutes

START = 1_795_000_000.0
REFUSED = Failure(reason=Reason.AUTH, message="status 403")
LOST = Failure(reason=Reason.TIMEOUT, message="no answer")


def muted(*sections: str, failure: Failure | None = None) -> ReportsResult:
    return ReportsResult(dismissed=sections, dismissed_failure=failure)


def test_every_section_is_known_once_they_were_read() -> None:
    """Coder's six in their order, muted or not; what is new to us only while it is muted."""
    mutes = Mutes()
    assert {} == mutes.since_timestamp_seconds
    assert mutes.see("prod", muted("derp", "pubsub"), START)
    wanted: dict[str, float | None] = dict.fromkeys(map(str, REPORT_SECTIONS)) | {"derp": START, "pubsub": START}
    assert list(wanted.items()) == list(mutes.since_timestamp_seconds["prod"].items())
    assert mutes.see("prod", muted("derp"), START + 1)
    assert "pubsub" not in mutes.since_timestamp_seconds["prod"]


def test_the_age_is_that_of_the_mute() -> None:
    """It lasts as long as the section is muted; one that is muted again is young. What is as before is no news."""
    mutes = Mutes()
    seen = []
    for number, sections in enumerate([("derp",), ("derp",), ("derp", "database"), (), ("derp",)]):
        changed = mutes.see("prod", muted(*sections), START + number)
        since = mutes.since_timestamp_seconds["prod"]
        seen.append((changed, since["derp"], since["database"]))
    assert [
        (True, START, None),
        (False, START, None),
        (True, START, START + 2),
        (True, None, None),
        (True, START + 4, None),
    ] == seen


@pytest.mark.parametrize(
    ("result", "known"),
    [
        (ReportsResult(dismissed_failure=LOST), False),
        (ReportsResult(), False),
        (ReportsResult(dismissed_failure=REFUSED), False),
        (muted("derp", failure=LOST), True),
        # what the probe still holds is newer than the refusal that it tells beside it
        (muted("derp", failure=REFUSED), True),
    ],
    ids=["lost for long", "nothing to ask", "refused", "lost, but kept", "refused, but kept"],
)
def test_what_the_probe_does_not_hold_any_more_is_not_known(result: ReportsResult, known: bool) -> None:
    """One lost answer must not raise what is muted; a mute that nobody can read any more must not stay for ever."""
    mutes = Mutes()
    mutes.see("prod", muted("derp"), START)
    assert mutes.see("prod", result, START + 60) is not known
    assert known == ("prod" in mutes.since_timestamp_seconds)
    if known:
        assert START == mutes.since_timestamp_seconds["prod"]["derp"]


def test_a_refusal_from_the_start_is_no_news() -> None:
    """Nothing was known, and nothing is."""
    assert not Mutes().see("prod", ReportsResult(dismissed_failure=REFUSED), START)


def test_after_a_refusal_ages_begin_anew() -> None:
    """While nobody could look, the mute may have been lifted."""
    mutes = Mutes()
    for number, result in enumerate([muted("derp"), ReportsResult(dismissed_failure=REFUSED), muted("derp")]):
        mutes.see("prod", result, START + number)
    assert START + 2 == mutes.since_timestamp_seconds["prod"]["derp"]


def test_deployments_have_their_own() -> None:
    """What is muted or refused in the one says nothing of the other."""
    mutes = Mutes()
    mutes.see("a", muted("derp"), START)
    mutes.see("b", muted(), START)
    mutes.see("b", ReportsResult(dismissed_failure=REFUSED), START)
    assert {"a": START} == {name: since["derp"] for name, since in mutes.since_timestamp_seconds.items()}
