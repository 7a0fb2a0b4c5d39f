"""What /metrics shows of provisioner daemons."""

from __future__ import annotations

from typing import Any

from exporter.errors import Reason
from exporter.health.model import Failure, OffReason, Report, Section
from exporter.health.provisioner_daemons import OrganizationDaemons, ProvisionerDaemonsResult, assess
from exporter.metrics.samples import MAX_ORGANIZATIONS, MAX_VERSIONS
from tests.support.exposition import World, daemon, daemons, pick

COUNTS = "coder_health_provisioner_daemons"
MISMATCHES = "coder_health_provisioner_daemon_version_mismatches"


def show(result: ProvisionerDaemonsResult) -> dict[Any, float]:
    world = World(sections=(Section.PROVISIONER_DAEMONS,))
    world.run("prod", Section.PROVISIONER_DAEMONS, {"": result})
    return world.read()


def test_counts_by_organization_and_status() -> None:
    """Every status of every organization that is known has a sample, also where it is 0."""
    counts = (
        OrganizationDaemons(organization="apart"),
        OrganizationDaemons(organization="coder", recent=2, stale=3, never=1),
    )
    assert {
        ("apart", "probe", "recent"): 0.0,
        ("apart", "probe", "stale"): 0.0,
        ("apart", "probe", "never"): 0.0,
        ("coder", "probe", "recent"): 2.0,
        ("coder", "probe", "stale"): 3.0,
        ("coder", "probe", "never"): 1.0,
    } == pick(show(daemons(organizations=counts)), COUNTS, "organization", "witness", "status")


def test_organizations_of_one_name_are_one() -> None:
    """A deleted one may have left its name to another: their daemons are added up, and no series is there twice."""
    counts = (OrganizationDaemons(organization="coder", recent=1), OrganizationDaemons(organization="coder", recent=2))
    found = pick(show(daemons(organizations=counts)), COUNTS, "organization", "status")
    assert 3.0 == found["coder", "recent"]


def test_versions_that_differ() -> None:
    """Recent daemons by organization and version; those that match, and those that show none, are left out."""
    result = daemons(
        daemon("v2.20.1"), daemon("v2.20.1"), daemon("v2.20.1", "apart"), daemon("v2.26.9"), daemon("banana")
    )
    assert {("coder", "v2.20.1"): 2.0, ("apart", "v2.20.1"): 1.0} == pick(
        show(result), MISMATCHES, "organization", "version"
    )


def test_what_is_not_known_is_absent() -> None:
    """No list, no liveness, no version of the server: no sample of it, never 0."""
    broken = ProvisionerDaemonsResult(failure=Failure(reason=Reason.TIMEOUT, message="no answer"))
    assert {} == pick(show(broken), COUNTS, "organization") | pick(show(broken), MISMATCHES, "organization")
    assert {} == pick(show(daemons(never=2, liveness_known=False)), COUNTS, "organization")
    assert {} == pick(show(daemons(daemon("v2.20.1"), server=None)), MISMATCHES, "organization")


def test_labels_are_bounded() -> None:
    """Organizations and versions come from people: only so many have series, and long ones are cut."""
    counts = tuple(OrganizationDaemons(organization=f"org-{number:04}") for number in range(MAX_ORGANIZATIONS + 5))
    many = [daemon(f"v1.{number}.0") for number in range(MAX_VERSIONS + 5)]
    values = show(daemons(*many, daemon("v3.0.0-" + "x" * 100), organizations=counts))
    assert 3 * MAX_ORGANIZATIONS == len(pick(values, COUNTS, "organization", "status"))
    versions = pick(values, MISMATCHES, "version")
    assert (MAX_VERSIONS, True) == (len(versions), all(len(version) <= 64 for version in versions))


def test_a_section_that_is_off_shows_nothing_but_why() -> None:
    """After a list that was read, a refusal takes the counts along."""
    world = World(sections=(Section.PROVISIONER_DAEMONS,))
    world.run("prod", Section.PROVISIONER_DAEMONS, {"": daemons(daemon())})
    refused = ProvisionerDaemonsResult(off=OffReason.FORBIDDEN)
    assert Report(section=Section.PROVISIONER_DAEMONS, off=OffReason.FORBIDDEN) == assess(refused)
    world.run("prod", Section.PROVISIONER_DAEMONS, {"": refused}, off=OffReason.FORBIDDEN)
    values = world.read()
    assert {} == pick(values, COUNTS, "organization")
    assert {"forbidden": 0.0} == pick(values, "coder_health_section_enabled", "reason")
