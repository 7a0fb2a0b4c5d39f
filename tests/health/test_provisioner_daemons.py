"""The judgement of provisioner daemons: version rules, tags, codes, as tables."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.errors import Reason
from exporter.health.codes import section_codes
from exporter.health.model import Failure, OffReason, Report, Section, Severity
from exporter.health.provisioner_daemons import (
    DaemonStatus,
    OrganizationDaemons,
    ProvisionerDaemon,
    ProvisionerDaemonsResult,
    ServerVersion,
    WaitingJobs,
    assess,
    find_mismatches,
    is_valid_version,
    parse_api_major,
    tags_match,
    takes,
    versions_match,
)

DATA = Path(__file__).parents[1] / "data" / "coder"
UNTAGGED = {"scope": "organization", "owner": ""}
BIG = UNTAGGED | {"size": "big"}
SERVER = ServerVersion(version="v2.26.0", api_version="1.9")
BROKEN = Failure(reason=Reason.TIMEOUT, message="no answer in time")


def daemon(version: str = "v2.26.0", api_version: str = "1.9", **facts: Any) -> ProvisionerDaemon:
    given: dict[str, Any] = {
        "id": "1",
        "name": "vm-0",
        "organization_id": "org-1",
        "organization": "coder",
        "tags": UNTAGGED,
        "provisioners": ("terraform",),
        "age_seconds": 3.0,
    }
    return ProvisionerDaemon(version=version, api_version=api_version, **given | facts)


def jobs(tags: dict[str, str] | None = None, **facts: Any) -> WaitingJobs:
    given: dict[str, Any] = {
        "organization_id": "org-1",
        "organization": "coder",
        "provisioner": "terraform",
        "count": 1,
        "oldest_seconds": 42.0,
    }
    return WaitingJobs(tags=UNTAGGED if tags is None else tags, **given | facts)


def reading(*recent: ProvisionerDaemon, stale: int = 0, never: int = 0, **facts: Any) -> ProvisionerDaemonsResult:
    given: dict[str, Any] = {
        "organizations": (OrganizationDaemons(organization="coder", recent=len(recent), stale=stale, never=never),),
        "server": SERVER,
        "jobs": (),
        "source": "tables",
    }
    return ProvisionerDaemonsResult(recent=recent, **given | facts)


def seen(report: Report) -> dict[str, str]:
    return {finding.code: finding.severity.label for finding in report.findings}


def message(report: Report, code: str) -> str:
    (found,) = (finding.message for finding in report.findings if finding.code == code)
    return found


# versions


@pytest.mark.parametrize(
    "version",
    [
        *("v2.26.0", "v2", "v2.26", "v0.0.0", "v0.0.0-devel+abc", "v2.26.0-devel+abc", "v1.2.3-rc.1", "v10.20.30"),
        *("v1.2.3-0", "v1.2.3-0a", "v1.2.3-a-b.1.x", "v1.2.3+001", "v1.2.3-rc+a.b-c", "v1.2.3--", "v1.2.3-01a"),
    ],
)
def test_versions_that_coder_takes(version: str) -> None:
    """A v, numbers without leading zeros, minor and patch may be missing; prerelease and build after three."""
    assert is_valid_version(version)


@pytest.mark.parametrize(
    "version",
    [
        *("", "banana", "2.26.0", "V2.26.0", "v", "v2.", "v2.26.", "v02.26.0", "v2.026.0", "v2.26.00", "v2.26.0.1"),
        *("v2-rc", "v2.26-rc", "v2+a", "v2.26+a", "v1.2.3-", "v1.2.3+", "v1.2.3-01", "v1.2.3-a..b", "v1.2.3-a+"),
        *(
            "v1.2.3+a..b",
            "v1.2.3-a_b",
            "v1.2.3 ",
            " v1.2.3",
            "v1.2.3\n",
            "v\u0662.26.0",
            "v2.26.0-\u00e9",
            "v-1.2.3",
            "v1.2.3+a+b",
        ),
    ],
)
def test_versions_that_coder_calls_invalid(version: str) -> None:
    """Everything else, also the empty one and digits of other scripts."""
    assert not is_valid_version(version)


@given(st.integers(0, 10**9), st.integers(0, 10**9), st.integers(0, 10**9), st.integers(0, 10**9), st.booleans())
def test_only_major_and_minor_are_compared(major: int, minor: int, patch: int, other: int, prerelease: bool) -> None:
    """Patch and prerelease make no difference; a minor that is left out is 0; both ways are the same."""
    tail = "-rc.1+build" if prerelease else ""
    # v0.0.0 would match everything
    one, two = f"v{major + 1}.{minor}.{patch}", f"v{major + 1}.{minor}.{other}{tail}"
    assert versions_match(one, two)
    assert versions_match(two, one)
    assert (minor == 0) is versions_match(one, f"v{major + 1}")
    assert not versions_match(one, f"v{major + 2}.{minor}.{patch}")
    assert not versions_match(one, f"v{major + 1}.{minor + 1}.{patch}")


@given(st.text(), st.text(alphabet="v0123456789.-+ab", max_size=20))
def test_a_development_build_matches_everything(text: str, version: str) -> None:
    """Wherever it stands in either; no text at all breaks the rules."""
    for other in (text, version):
        assert versions_match("v0.0.0-devel+abc", other)
        assert versions_match(other, f"x{'v0.0.0'}")
        assert versions_match(other, other)
        assert is_valid_version(other) in (True, False)


@given(st.text(alphabet="v0123456789.-+ab", max_size=20))
def test_a_valid_version_stays_valid_with_another_build(version: str) -> None:
    """Of three numbers, with a build or without; and none is valid without its v."""
    if is_valid_version(version) and version.split("+")[0].split("-")[0].count(".") == 2:
        assert is_valid_version(version.split("+")[0] + "+build.007")
    assert not is_valid_version(version.lstrip("v"))


@pytest.mark.parametrize(
    ("version", "major"),
    [
        *(("1.0", 1), ("1.9", 1), ("2.0", 2), ("+1.9", 1), ("-1.9", -1), ("01.09", 1), ("1.-9", 1)),
        *(("9223372036854775807.0", 2**63 - 1), ("9223372036854775808.0", None), ("1.9223372036854775808", None)),
        *(("", None), ("x", None), ("1", None), ("v1.0", None), ("1.2.3", None), ("1.", None), (".1", None)),
        *(("1. 0", None), ("1.0\n", None), ("1.0x", None), ("\u0661.0", None), ("1_0.0", None), ("0x1.0", None)),
        ("1" * 5000 + ".0", None),
    ],
)
def test_api_versions(version: str, major: int | None) -> None:
    """Two numbers of 64 bits with a point between them, each with a sign or without."""
    assert major == parse_api_major(version)


@given(st.integers(-(2**63), 2**63 - 1), st.integers(-(2**63), 2**63 - 1))
def test_every_pair_of_numbers_is_an_api_version(major: int, minor: int) -> None:
    """What Go prints, it reads."""
    assert major == parse_api_major(f"{major}.{minor}")


# tags


@pytest.mark.parametrize(
    ("daemon_tags", "job_tags", "expected"),
    [
        (UNTAGGED, UNTAGGED, True),
        (BIG, UNTAGGED, False),  # who has tags only takes jobs that want some
        (BIG, BIG, True),
        (UNTAGGED, BIG, False),
        (BIG | {"zone": "eu"}, BIG, True),
        (BIG, BIG | {"size": "small"}, False),
        ({"scope": "user", "owner": "u1"}, UNTAGGED, False),
        ({"scope": "user", "owner": "u1"}, {"scope": "user", "owner": "u1"}, True),
        ({"scope": "user", "owner": "u1"}, {"scope": "user", "owner": "u2"}, False),
        (UNTAGGED, {"scope": "organization"}, True),  # not the exact case: any that has it
        (BIG, {}, True),
        ({}, UNTAGGED, False),
    ],
)
def test_tags(daemon_tags: dict[str, str], job_tags: dict[str, str], expected: bool) -> None:
    """A daemon takes jobs whose tags it has; jobs without tags of their own need one without tags."""
    assert expected is tags_match(daemon_tags, job_tags)


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ({}, True),
        ({"organization_id": "org-2"}, False),
        ({"provisioner": "echo"}, False),
        ({"provisioner": None}, True),
        ({"tags": BIG}, False),
    ],
)
def test_a_daemon_takes_what_it_can_build(facts: dict[str, Any], expected: bool) -> None:
    """Of its organization, of its kinds, with its tags; a kind that cannot be read may be any."""
    assert expected is takes(daemon(), replace(jobs(), **facts))


# codes


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        (reading(daemon()), {}),
        (reading(daemon(), stale=7, never=2), {}),
        (reading(), {"EPD01": "error"}),
        (reading(stale=1), {"EPD01": "error"}),
        (reading(daemon("v2.20.1")), {"EPD02": "warning"}),
        (reading(daemon("v2.27.0"), daemon()), {"EPD02": "warning"}),
        (reading(daemon("v2.26.9-devel+abc")), {}),
        (reading(daemon("v0.0.0-devel")), {}),
        (reading(daemon(), server=ServerVersion(version="v0.0.0-devel", api_version="1.9")), {}),
        (reading(daemon(), server=ServerVersion(version="custom", api_version="1.9")), {"EPD02": "warning"}),
        (reading(daemon(api_version="2.0")), {"EPD03": "warning"}),
        (reading(daemon(api_version="0.9")), {"EPD03": "warning"}),
        (reading(daemon(api_version="1.99")), {}),
        (reading(daemon("banana", "x")), {"EUNKNOWN": "error"}),
        (reading(daemon("banana")), {"EUNKNOWN": "error"}),
        (reading(daemon("banana", "2.0")), {"EUNKNOWN": "error", "EPD03": "warning"}),
        (reading(daemon("", "")), {"EUNKNOWN": "error"}),
        (reading(daemon("v2.20.1", "x")), {"EUNKNOWN": "error", "EPD02": "warning"}),
        (reading(daemon(), jobs=(jobs(),)), {}),
        (reading(daemon(), jobs=(jobs(), jobs(BIG))), {"XPD02": "error"}),
        (reading(jobs=(jobs(),)), {"EPD01": "error", "XPD02": "error"}),
        (reading(daemon(), jobs=None), {}),
        (reading(daemon(), cut=True, jobs=(jobs(BIG),)), {}),
        (ProvisionerDaemonsResult(failure=BROKEN), {"XPD01": "warning"}),
        (reading(daemon("v2.20.1"), failure=BROKEN), {"XPD01": "warning", "EPD02": "warning"}),
        (reading(failure=BROKEN), {"XPD01": "warning"}),
    ],
)
def test_codes(result: ProvisionerDaemonsResult, expected: dict[str, str]) -> None:
    """Each code with its severity; only an error of the verdict is a failed run."""
    report = assess(result)
    assert expected == seen(report)
    assert ("error" in expected.values()) is (report.failure is not None)


@pytest.mark.parametrize("code", ["EPD01", "EPD02", "EPD03", "EUNKNOWN-daemon"])
def test_the_verdict_of_a_real_server(code: str) -> None:
    """On the daemons that a real server saw we say what it said: the codes, and the severity."""
    recorded = json.loads((DATA / f"trouble-{code}-section.json").read_text())
    section, now = recorded["provisioner_daemons"], datetime.fromisoformat(recorded["time"]).timestamp()
    recent = tuple(
        daemon(
            one["version"],
            one["api_version"],
            age_seconds=now - datetime.fromisoformat(one["last_seen_at"]).timestamp(),
        )
        for one in (item["provisioner_daemon"] for item in section["items"])
    )
    server = ServerVersion(version=recorded["coder_version"], api_version="1.9")
    report = assess(reading(*recent, stale=1 - len(recent), server=server))
    assert {warning["code"] for warning in section["warnings"]} == set(seen(report))
    assert section["severity"] == report.severity.label


def test_only_skew_waits_for_the_version_grace() -> None:
    """EPD02 and EPD03 are about versions that differ; an invalid one never becomes right by waiting."""
    report = assess(reading(daemon("v2.20.1", "2.0"), daemon("banana", "x"), jobs=(jobs(BIG),)))
    assert {"EPD02": True, "EPD03": True, "EUNKNOWN": False, "XPD02": False} == {
        finding.code: finding.skew for finding in report.findings
    }


def test_none_at_all_and_all_stale_are_told_apart() -> None:
    """Nobody ever came, everybody left, somebody never came: three different faults."""
    assert "there are no provisioner daemons at all" == message(assess(reading()), "EPD01")
    assert "no provisioner daemon was seen lately: of 3 known, 2 not for more than 90 s, 1 never" == message(
        assess(reading(stale=2, never=1)), "EPD01"
    )
    assert "no provisioner daemon was seen lately: of 1 known, 1 never" == message(assess(reading(never=1)), "EPD01")


def test_messages_say_who_differs_and_from_what() -> None:
    """The server's version and the daemons', counted; what is long or many is cut."""
    many = [daemon(f"v2.{minor}.0", "2.0") for minor in (20, 20, 21, 22, 23, 24, 25)]
    report = assess(reading(*many, daemon("b" * 300), daemon(api_version="x"), jobs=(jobs(BIG, count=3), jobs(BIG))))
    assert (
        "7 of 9 recent provisioner daemons have another version than the server's v2.26.0: "
        "v2.20.0 (2), v2.21.0 (1), v2.22.0 (1), v2.23.0 (1), v2.24.0 (1), and 1 more"
    ) == message(report, "EPD02")
    assert (
        "7 of 9 recent provisioner daemons have another major version of the API than the server's 1: 2.0 (7)"
    ) == message(report, "EPD03")
    assert "1 of 9 recent provisioner daemons has an invalid API version: 'x' (1)" in message(report, "EUNKNOWN")
    assert len(message(report, "EUNKNOWN")) < 500
    assert (
        "4 waiting, the oldest for 42 s, of provisioner jobs that no recent daemon takes: "
        "3 of organization coder for terraform with tags owner= scope=organization size=big, "
        "1 of organization coder for terraform with tags owner= scope=organization size=big"
    ) == message(report, "XPD02")


# what is not known


@pytest.mark.parametrize(
    ("result", "not_judged"),
    [
        (reading(daemon()), set()),
        (reading(), set()),
        (reading(daemon(), server=None), {"EPD02", "EPD03"}),
        (reading(server=None), set()),  # nobody there who could differ
        (reading(daemon(), server=ServerVersion(version="v2.5.0")), {"EPD03"}),
        (reading(daemon(), server=ServerVersion(version="v2.5.0", api_version="odd")), {"EPD03"}),
        (reading(daemon(), jobs=None), {"XPD02"}),
        (reading(daemon(), cut=True), {"EPD02", "EPD03", "EUNKNOWN", "XPD02"}),
        (reading(daemon(version="odd"), cut=True), {"EPD02", "EPD03", "XPD02"}),
        (reading(daemon(version=""), hidden=frozenset({"version"})), {"EPD02", "EUNKNOWN"}),
        (reading(daemon(api_version="2.0"), hidden=frozenset({"api_version"})), {"EPD03", "EUNKNOWN"}),
        (reading(daemon(version="odd"), hidden=frozenset({"api_version"})), {"EPD03"}),
        (reading(daemon(), hidden=frozenset({"tags", "provisioners"})), set()),
        (reading(never=2, liveness_known=False), {"EPD01"}),
        (reading(refused=("other",)), {"EPD01"}),
        (reading(daemon(), refused=("other",)), set()),
        (ProvisionerDaemonsResult(failure=BROKEN), set(section_codes(Section.PROVISIONER_DAEMONS)) - {"XPD01"}),
        (reading(failure=BROKEN), {"EPD01", "EPD02", "EPD03", "EUNKNOWN", "XPD02"}),
        (reading(daemon(), failure=BROKEN), {"EPD01", "EPD02", "EPD03", "EUNKNOWN", "XPD02"}),
    ],
)
def test_what_is_not_known_is_not_judged(result: ProvisionerDaemonsResult, not_judged: set[str]) -> None:
    """Settling leaves these codes as they are, and none of them is observed."""
    report = assess(result)
    assert not_judged == report.not_judged
    assert set() == not_judged & set(seen(report))


def test_an_old_server_with_no_daemon_at_all_has_none() -> None:
    """Where nobody knows when a daemon was seen, an empty table still says it all."""
    assert {"EPD01": "error"} == seen(assess(reading(liveness_known=False)))


def test_what_cannot_be_read_here_is_off() -> None:
    """No code, no failure: the section says why it is off."""
    expected = Report(section=Section.PROVISIONER_DAEMONS, off=OffReason.FORBIDDEN)
    assert expected == assess(ProvisionerDaemonsResult(off=OffReason.FORBIDDEN))


def test_mismatches_are_those_of_epd02() -> None:
    """An invalid version is another matter, and without the server's none can be told."""
    old, bad, fine = daemon("v2.20.1"), daemon("banana"), daemon()
    assert (old,) == find_mismatches(reading(old, bad, fine))
    assert () == find_mismatches(reading(old, bad, fine, server=None))


def test_counts_by_status() -> None:
    """Every status has its count."""
    counts = OrganizationDaemons(organization="coder", recent=1, stale=2, never=3)
    assert ([1, 2, 3], 6) == ([counts.count(status) for status in DaemonStatus], counts.total)


def test_the_worst_finding_is_the_verdict() -> None:
    """A warning beside an error does not hide it."""
    report = assess(reading(daemon("v2.20.1"), daemon("banana")))
    assert Severity.ERROR is report.severity
    assert report.failure is not None
    assert "banana" in report.failure.message
