"""Recorded answers, made to fit a simulation."""

from __future__ import annotations

from pathlib import Path

import pytest

from exporter.demo import answers

RECORDINGS = Path(__file__).parents[1] / "data" / "coder"

EU = answers.ProxyFacts(
    id="f8fc455c-af14-42e3-baa9-c4cf7ffc94cb",
    name="eu",
    region_id=1,
    url="https://127.0.0.1:1",
    version="v2.26.0",
    created_timestamp_seconds=1_700_000_000.25,
    updated_timestamp_seconds=1_700_000_015.0,
)


def test_a_recording_is_given_as_a_copy() -> None:
    """Changing an answer does not change the next one."""
    answers.recorded("buildinfo")["version"] = "changed"
    assert answers.recorded("buildinfo")["version"] == "v2.26.0"


def test_build_info_names_this_deployment() -> None:
    """Version, access URL and id are the simulation's, all else is as recorded."""
    recorded = answers.recorded("buildinfo")
    given = answers.buildinfo(version="v2.30.1", access_url="https://localhost:1", deployment_id="an-id")
    assert (
        recorded
        | {
            "version": "v2.30.1",
            "dashboard_url": "https://localhost:1",
            "deployment_id": "an-id",
        }
        == given
    )


def test_the_primary_comes_first_and_keeps_the_recorded_shape() -> None:
    """The list has the primary in front and each proxy has the keys of the recorded ones."""
    recorded = answers.recorded("workspaceproxies")["regions"]
    given = answers.workspace_proxies([EU], access_url="https://localhost:1", deployment_id="an-id", now=1.0)["regions"]
    assert ["primary", "eu"] == [region["name"] for region in given]
    assert [set(recorded[0]), set(recorded[2])] == [set(region) for region in given]
    assert ("an-id", "https://localhost:1") == (given[0]["id"], given[0]["path_app_url"])


def test_times_are_written_as_coder_writes_them() -> None:
    """Times are RFC 3339 in UTC."""
    listed = answers.workspace_proxies([EU], access_url="", deployment_id="", now=1.0)["regions"][1]
    assert "2023-11-14T22:13:20.250000Z" == listed["created_at"]
    assert "1970-01-01T00:00:01.000000Z" == listed["status"]["checked_at"]


def test_a_proxy_that_never_registered_has_no_url() -> None:
    """It is listed like the recorded one that never registered."""
    recorded = next(region for region in answers.recorded("workspaceproxies")["regions"] if region["name"] == "never")
    facts = answers.ProxyFacts(
        id=recorded["id"],
        name="never",
        region_id=3,
        status="unregistered",
        created_timestamp_seconds=1.0,
        updated_timestamp_seconds=1.0,
    )
    given = answers.workspace_proxies([facts], access_url="", deployment_id="", now=1.0)["regions"][1]
    times = {key: given[key] for key in ("created_at", "updated_at")}
    status = given["status"] | {"checked_at": recorded["status"]["checked_at"]}
    assert recorded | times == given | {"status": status}


@pytest.mark.parametrize(
    ("errors", "expected"), [([], None), (["broken"], ["broken"])], ids=["an empty list is null", "a list stays"]
)
def test_a_report_writes_empty_lists_as_null(errors: list[str], expected: list[str] | None) -> None:
    """Coder writes null where there is nothing."""
    assert {"errors": expected, "warnings": None} == answers.healthz_report(errors, [])


def test_the_answer_to_a_plain_get_of_the_map_is_the_recorded_text() -> None:
    """The text is the one that a real server gave, up to white space."""
    assert (RECORDINGS / "derp-map-plain-get.txt").read_text().split() == answers.upgrade_required().split()
