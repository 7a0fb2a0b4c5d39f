"""The reading of provisioner daemons: tables that stand in a real PostgreSQL, an API that answers what a
real Coder did, and everything that can be in its place."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest

from exporter.clock import SystemClock
from exporter.demo.coderd import Role, SimulatedCoder
from exporter.demo.postgres import PostgresServer
from exporter.errors import Reason
from exporter.health.model import OffReason, Section
from exporter.health.provisioner_daemons import OrganizationDaemons, ProvisionerDaemonsResult, ServerVersion
from exporter.net.coder_daemons import DaemonTables
from exporter.net.coder_json import TOKEN_HEADER
from exporter.probes import provisioner_daemons
from exporter.probes.provisioner_daemons import probe
from exporter.secret import Secret
from exporter.targets.model import AccessURL, ProvisionerDaemonsTarget, SessionToken
from tests.support.postgres import INSTALLATIONS, make_session, run_server
from tests.support.raw_http import Answer, RawServer, hang, json_response, response

DATA = Path(__file__).parents[1] / "data" / "coder"
TOKEN = Secret("abcdefghij-0123456789012345678901")
ORGANIZATION = "c7b58c7d-e615-412e-987b-21182b096a39"
LIST = f"/api/v2/organizations/{ORGANIZATION}/provisionerdaemons"
FULL = f"{LIST}?limit=0&offline=true"
SEEN = "2026-11-21T05:18:35.176303Z"
NOW = datetime(2026, 11, 21, 5, 19, 5, tzinfo=UTC)
CODER = {"X_Coder_Build_Version": "v2.26.0", "Date": format_datetime(NOW, usegmt=True)}


def recorded(name: str, status: int = 200, **headers: str) -> bytes:
    return json_response((DATA / name).read_text(), status, **CODER | headers)


def bare(name: str, status: int) -> bytes:
    return json_response((DATA / name).read_text(), status)


def said(value: object, status: int = 200, **headers: str) -> bytes:
    return json_response(json.dumps(value), status, **CODER | headers)


def listed(name: str = "vm-0", **facts: Any) -> dict[str, Any]:
    entry = json.loads((DATA / "provisionerdaemons.json").read_text())[0]
    return {key: value for key, value in {**entry, "id": name, "name": name, **facts}.items() if value is not ...}


def answers(**more: Answer) -> dict[str, Answer]:
    """A server as it was recorded; keys are BUILD, ORGS and LIST."""
    paths = {"BUILD": "/api/v2/buildinfo", "ORGS": "/api/v2/organizations", "LIST": FULL}
    usual: dict[str, Answer] = {
        "BUILD": recorded("buildinfo.json"),
        "ORGS": recorded("organizations.json"),
        "LIST": recorded("provisionerdaemons.json"),
    }
    return {paths[key]: answer for key, answer in (usual | more).items()}


async def run(
    url: str,
    *,
    token: Secret | SessionToken | None = TOKEN,
    tables: DaemonTables | None = None,
    timeout_seconds: float = 5.0,
) -> ProvisionerDaemonsResult:
    target = ProvisionerDaemonsTarget(
        deployment="prod",
        section=Section.PROVISIONER_DAEMONS,
        interval_seconds=30.0,
        timeout_seconds=timeout_seconds,
        access_url=AccessURL(url=url),
        session_token=SessionToken(token=token) if isinstance(token, Secret) else token,
    )
    return await probe(target, tables=tables, clock=SystemClock())


async def ask(**more: Answer) -> ProvisionerDaemonsResult:
    async with RawServer(answers(**more)) as server:
        return await run(server.url)


# the API


async def test_a_recorded_list() -> None:
    """A real server's answers: the daemon, its age by the server's own clock, and what version the server has."""
    async with RawServer(answers()) as server:
        found = await run(server.url)
    assert (OrganizationDaemons(organization="coder", recent=1),) == found.organizations
    (daemon,) = found.recent
    assert ("vm-0", "v2.26.0", "1.9", "coder") == (
        daemon.name,
        daemon.version,
        daemon.api_version,
        daemon.organization,
    )
    assert {"owner": "", "scope": "organization"} == daemon.tags
    assert 29.8 == pytest.approx(daemon.age_seconds, abs=0.1)
    assert ServerVersion(version="v2.26.0", api_version="1.9") == found.server
    assert ("api", None, None, None, ()) == (found.source, found.jobs, found.failure, found.off, found.refused)
    assert {path: TOKEN.reveal() if path != "/api/v2/buildinfo" else None for path in server.asked} == {
        path: headers.get(TOKEN_HEADER) for path, headers in zip(server.asked, server.headers, strict=True)
    }


@pytest.mark.parametrize(
    ("seen", "counted"),
    [
        ("2026-11-21T05:19:05Z", (1, 0, 0)),
        ("2026-11-21T05:17:35Z", (1, 0, 0)),  # 90 s ago
        ("2026-11-21T05:17:34.999999999Z", (0, 1, 0)),
        ("2026-11-21T06:19:05+01:00", (1, 0, 0)),
        ("2026-11-21T05:19:05", (1, 0, 0)),
        ("2027-01-01T00:00:00Z", (1, 0, 0)),
        (None, (0, 0, 1)),
        ("0001-01-01T00:00:00Z", (0, 0, 1)),
    ],
)
async def test_when_a_daemon_was_seen(seen: str | None, counted: tuple[int, int, int]) -> None:
    """At most 90 s ago is recent, the future is now, never is null and Go's time that was not set."""
    found = await ask(LIST=said([listed(last_seen_at=seen)]))
    assert found.organizations is not None
    (counts,) = found.organizations
    assert counted == (counts.recent, counts.stale, counts.never)


async def test_a_server_that_does_not_tell_the_time() -> None:
    """Then ages are by our own clock."""
    now = datetime.now(UTC).isoformat()
    answer = json_response(json.dumps([listed(last_seen_at=now)]), X_Coder_Build_Version="v2.26.0")
    for broken in ({}, {"Date": "yesterday"}):
        odd = json_response(json.dumps([listed(last_seen_at=now)]), X_Coder_Build_Version="v2.26.0", **broken)
        found = await ask(LIST=odd if broken else answer)
        assert 1 == len(found.recent)


async def test_what_an_older_server_leaves_out() -> None:
    """Missing and null members are as its tables would have them; without times liveness is not known."""
    bare = {"id": "1", "name": "old"}
    found = await ask(LIST=said([bare]))
    assert (False, ()) == (found.liveness_known, found.recent)
    nulls = listed(tags=None, provisioners=None, version=None, api_version=..., organization_id=..., key_id=...)
    (daemon,) = (await ask(LIST=said([nulls]))).recent
    assert ({}, (), "", "1.0") == (daemon.tags, daemon.provisioners, daemon.version, daemon.api_version)


async def test_no_daemons() -> None:
    """An empty list is a list."""
    found = await ask(LIST=json_response("[]", **CODER))
    assert (OrganizationDaemons(organization="coder"),) == found.organizations
    assert None is found.failure


async def test_null_is_no_list_of_daemons() -> None:
    """Whether there are daemons is not known then: a failure, not an empty deployment."""
    found = await ask(LIST=json_response("null", **CODER))
    assert None is found.organizations
    assert found.failure is not None
    assert "null instead of a list of provisioner daemons" in found.failure.message


async def test_unknown_members_and_long_lists() -> None:
    """What is new is passed over; a list of hundreds is read whole."""
    many = [listed(f"vm-{number:04}", hologram={"a": [1]}) for number in range(400)]
    found = await ask(LIST=said(many))
    assert (400, "vm-0000", "vm-0399") == (len(found.recent), found.recent[0].name, found.recent[-1].name)


@pytest.mark.parametrize("accepted", [1, 2])
async def test_parameters_that_a_server_does_not_know(accepted: int) -> None:
    """A 400 leads to fewer parameters, for all organizations at once."""
    organizations = json.loads((DATA / "organizations.json").read_text())
    second = {**organizations[0], "id": "org-2", "name": "second"}
    server_answers = answers(ORGS=said([organizations[0], second]))
    for index, query in enumerate(provisioner_daemons.QUERIES):
        taken = (
            recorded("provisionerdaemons.json") if index >= accepted else recorded("provisionerdaemons-400.json", 400)
        )
        server_answers[LIST + query] = taken
        server_answers[f"/api/v2/organizations/org-2/provisionerdaemons{query}"] = taken
    async with RawServer(server_answers) as server:
        found = await run(server.url)
    assert found.organizations is not None
    assert ["coder", "second"] == [one.organization for one in found.organizations]
    assert 1 == sum("org-2" in path for path in server.asked)


async def test_a_server_that_refuses_every_parameter() -> None:
    """A 400 to all of them is a failure."""
    async with RawServer(answers()) as server:
        for query in provisioner_daemons.QUERIES:
            server.answers[LIST + query] = recorded("provisionerdaemons-400.json", 400)
        found = await run(server.url)
    assert found.failure is not None
    assert (Reason.STATUS, True) == (found.failure.reason, "400" in found.failure.message)


async def test_a_server_without_a_list_of_organizations() -> None:
    """An older one lists those of the token's user."""
    async with RawServer(answers(ORGS=recorded("unknown-route.json", 404))) as server:
        server.answers["/api/v2/users/me/organizations"] = recorded("organizations.json")
        found = await run(server.url)
    assert 1 == len(found.recent)


# rights


@pytest.mark.parametrize(
    ("more", "off"),
    [
        ({"LIST": recorded("provisionerdaemons-404-member.json", 404)}, OffReason.FORBIDDEN),
        ({"LIST": recorded("unknown-route.json", 404)}, OffReason.NOT_SUPPORTED),
        ({"LIST": recorded("workspaceproxies-member.json", 403)}, OffReason.NOT_LICENSED),
        ({"LIST": said({"message": "Forbidden."}, 403)}, OffReason.FORBIDDEN),
        ({"ORGS": recorded("debug-health-401.json", 401)}, OffReason.FORBIDDEN),
        ({"ORGS": said([])}, OffReason.FORBIDDEN),
        ({"ORGS": recorded("unknown-route.json", 404)}, OffReason.NOT_SUPPORTED),
        # a front took Coder's headers away
        ({"LIST": bare("provisionerdaemons-404-member.json", 404)}, OffReason.FORBIDDEN),
        ({"LIST": bare("unknown-route.json", 404)}, OffReason.NOT_SUPPORTED),
        ({"LIST": bare("workspaceproxies-member.json", 403)}, OffReason.NOT_LICENSED),
        ({"ORGS": bare("debug-health-401.json", 401)}, OffReason.FORBIDDEN),
    ],
)
async def test_no_right_is_no_failure(more: dict[str, Answer], off: OffReason) -> None:
    """Coder says in good order that this is not for us: the section is off, and why."""
    async with RawServer(answers(**more)) as server:
        server.answers["/api/v2/users/me/organizations"] = recorded("unknown-route.json", 404)
        found = await run(server.url)
    assert (off, None) == (found.off, found.failure)


async def test_the_simulated_server_has_nobody() -> None:
    """Its one organization has no daemons until somebody brings them."""
    async with SimulatedCoder(host="127.0.0.1") as coder:
        found = await run(coder.url, token=coder.tokens[Role.OWNER])
        assert (None, None, ()) == (found.off, found.failure, found.recent)
        assert ["coder"] == [one.organization for one in found.organizations or ()]
        assert found.server is not None
        assert coder.version == found.server.version


async def test_organizations_that_are_hidden() -> None:
    """An organization's administrator sees its daemons; of the others it is told that they are hidden."""
    organizations = json.loads((DATA / "organizations.json").read_text())
    secret = {**organizations[0], "id": "org-2", "name": "secret"}
    async with RawServer(answers(ORGS=said([secret, organizations[0]]))) as server:
        hidden = f"/api/v2/organizations/org-2/provisionerdaemons{provisioner_daemons.QUERIES[0]}"
        server.answers[hidden] = recorded("provisionerdaemons-404-member.json", 404)
        found = await run(server.url)
    assert (1, ("secret",), None, None) == (len(found.recent), found.refused, found.off, found.failure)


# trouble


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (recorded("trouble-db-cut.json", 401), Reason.STATUS),  # Coder's own failure, no lost token
        (said({"message": "too many"}, 429), Reason.STATUS),
        (said({"message": "down"}, 503), Reason.STATUS),
        (response(404, b"nginx"), Reason.STATUS),
        (response(403, b"a front"), Reason.AUTH),
        (response(302, Location="https://login.example.com"), Reason.STATUS),
        (response(200, b"<!doctype html><title>Sign in</title>"), Reason.PROTOCOL),
        (json_response('[{"id": "1", "na', **CODER), Reason.PROTOCOL),
        (json_response('{"daemons": []}', **CODER), Reason.PROTOCOL),
        (json_response("[1]", **CODER), Reason.PROTOCOL),
        (said([{"name": "no id"}]), Reason.PROTOCOL),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n[", Reason.PROTOCOL),
        (b"", Reason.PROTOCOL),
    ],
)
@pytest.mark.parametrize("what", ["ORGS", "LIST"])
async def test_an_answer_that_is_no_list_is_a_failure(what: str, answer: bytes, reason: Reason) -> None:
    """Whatever comes instead of the lists is told as data, and nothing is known of daemons."""
    found = await ask(**{what: answer})
    assert found.failure is not None
    assert (reason, None, None) == (found.failure.reason, found.organizations, found.off)


@pytest.mark.parametrize(
    "odd", [{"last_seen_at": "soon"}, {"last_seen_at": 5}, {"tags": {"size": 5}}, {"provisioners": "terraform"}]
)
async def test_a_daemon_of_another_shape_is_a_failure(odd: dict[str, Any]) -> None:
    """It is not passed over: then the others would be judged as if they were all."""
    found = await ask(LIST=said([listed(), listed("odd", **odd)]))
    assert found.failure is not None
    assert (Reason.PROTOCOL, None) == (found.failure.reason, found.organizations)


async def test_a_list_that_is_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """More bytes than are read is a failure, never half a list."""
    monkeypatch.setattr(provisioner_daemons, "MAX_BODY_BYTES", 100)
    found = await ask()
    assert found.failure is not None
    assert "more than 100 bytes" in found.failure.message


async def test_one_organization_that_fails() -> None:
    """What the others have is known, and that something is missing."""
    organizations = json.loads((DATA / "organizations.json").read_text())
    second = {**organizations[0], "id": "org/2", "name": "second"}
    async with RawServer(answers(ORGS=said([organizations[0], second]))) as server:
        server.answers[f"/api/v2/organizations/org%2F2/provisionerdaemons{provisioner_daemons.QUERIES[0]}"] = said(
            {"message": "down"}, 503
        )
        found = await run(server.url)
    assert found.failure is not None
    assert (1, "down" in found.failure.message) == (len(found.recent), True)


async def test_more_organizations_than_are_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of those that are left out nothing is known, and that is told."""
    monkeypatch.setattr(provisioner_daemons, "MAX_ORGANIZATIONS", 1)
    organizations = json.loads((DATA / "organizations.json").read_text())
    second = {**organizations[0], "id": "org-2", "name": "second"}
    found = await ask(ORGS=said([organizations[0], second]))
    assert (("second",), 1) == (found.refused, len(found.recent))


@pytest.mark.parametrize(
    ("build", "expected"),
    [
        (recorded("buildinfo.json"), ServerVersion(version="v2.26.0", api_version="1.9")),
        (said({"version": "v2.5.0"}), ServerVersion(version="v2.5.0")),
        (said({"version": "v2.5.0", "provisioner_api_version": None}), ServerVersion(version="v2.5.0")),
        (response(200, b"<html>", X_Coder_Build_Version="v2.6.0"), ServerVersion(version="v2.6.0")),
        (response(503, b"", X_Coder_Build_Version="v2.6.0"), ServerVersion(version="v2.6.0")),
        (response(200, b"<html>"), None),
        (response(500), None),
    ],
)
async def test_what_version_the_server_has(build: bytes, expected: ServerVersion | None) -> None:
    """Build info, else the header of whatever answers; a server that does not tell costs only that."""
    found = await ask(BUILD=build)
    assert (expected, 1) == (found.server, len(found.recent))


async def test_a_server_that_hangs() -> None:
    """The target's timeout ends it, with the reason."""
    async with RawServer(answers(ORGS=hang, BUILD=hang)) as server:
        found = await run(server.url, timeout_seconds=0.3)
    assert found.failure is not None
    assert (Reason.TIMEOUT, None) == (found.failure.reason, found.server)


@pytest.mark.parametrize("url", ["", "ftp://x"])
async def test_no_access_url(url: str) -> None:
    """Without an address there is nobody to ask."""
    found = await run(url)
    assert found.failure is not None
    assert (Reason.RESOLVE, None) == (found.failure.reason, found.server)


# the tables


@pytest.fixture(scope="module")
def running() -> Iterator[PostgresServer]:
    """A running server; all installations are tried in tests/net."""
    yield from run_server(INSTALLATIONS[0])


@pytest.fixture
async def server(running: PostgresServer) -> PostgresServer:
    """That server with fresh tables and one daemon."""
    await running.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    await running.create_schema()
    await running.create_role()
    await running.execute(
        "INSERT INTO provisioner_daemons (id, name, provisioners, tags, last_seen_at, version, organization_id, key_id)"
        " VALUES (gen_random_uuid(), 'of-the-tables', '{terraform}', '{}', now(), 'v2.26.0',"
        f" '{ORGANIZATION}', gen_random_uuid())"
    )
    return running


@pytest.fixture
async def tables(server: PostgresServer) -> AsyncIterator[DaemonTables]:
    """Reads with the exporter's role."""
    made = DaemonTables(make_session(server.exporter_url))
    yield made
    await made.close()


async def test_the_tables_come_first(tables: DaemonTables) -> None:
    """They tell the jobs, too, and the API is only asked for the version."""
    async with RawServer(answers()) as api:
        found = await run(api.url, tables=tables)
    assert (["of-the-tables"], (), "tables") == ([one.name for one in found.recent], found.jobs, found.source)
    assert (["/api/v2/buildinfo"], "v2.26.0") == (api.asked, found.server and found.server.version)


async def test_the_tables_need_no_token(tables: DaemonTables) -> None:
    """Nor an access URL that answers: then only versions cannot be compared."""
    found = await run("", token=None, tables=tables)
    assert (1, None, None) == (len(found.recent), found.server, found.failure)


@pytest.mark.parametrize(
    ("statement", "alone"),
    [
        ("DROP TABLE provisioner_daemons", OffReason.NOT_SUPPORTED),
        ("REVOKE SELECT (id) ON provisioner_daemons FROM coder_exporter", OffReason.FORBIDDEN),
        ("DROP SCHEMA public CASCADE; CREATE SCHEMA public", OffReason.FORBIDDEN),
    ],
)
async def test_tables_that_cannot_be_read(
    server: PostgresServer, tables: DaemonTables, statement: str, alone: OffReason
) -> None:
    """The API takes their place; without it the section is off, and why."""
    await server.execute(statement)
    async with RawServer(answers()) as api:
        assert ["vm-0"] == [daemon.name for daemon in (await run(api.url, tables=tables)).recent]
        assert alone is (await run(api.url, token=None, tables=tables)).off
        api.answers |= answers(ORGS=recorded("unknown-route.json", 404))
        api.answers["/api/v2/users/me/organizations"] = recorded("unknown-route.json", 404)
        assert alone is (await run(api.url, tables=tables)).off
        api.answers |= answers(LIST=said({"message": "down"}, 503))
        found = await run(api.url, tables=tables)
    assert (None, Reason.STATUS) == (found.off, found.failure and found.failure.reason)


async def test_a_role_that_has_too_many_connections(server: PostgresServer, tables: DaemonTables) -> None:
    """No right is missing: that passes, and is a failure while it lasts."""
    async with server.connect(database="postgres") as connection:
        await connection.execute("ALTER ROLE coder_exporter CONNECTION LIMIT 0")
        try:
            found = await run("", token=None, tables=tables)
        finally:
            await connection.execute("ALTER ROLE coder_exporter CONNECTION LIMIT 5")
    assert (None, Reason.REFUSED) == (found.off, found.failure and found.failure.reason)


async def test_a_database_that_is_gone(server: PostgresServer, tables: DaemonTables) -> None:
    """The API is enough; without one it is a failure, and what the API refuses changes nothing."""
    await run("", token=None, tables=tables)
    await server.stop()
    try:
        async with RawServer(answers()) as api:
            assert ["vm-0"] == [daemon.name for daemon in (await run(api.url, tables=tables)).recent]
            alone = await run(api.url, token=None, tables=tables)
            api.answers |= answers(LIST=recorded("provisionerdaemons-404-member.json", 404))
            refused = await run(api.url, tables=tables)
    finally:
        await server.start()
    for found in (alone, refused):
        assert (None, None, "tables") == (found.off, found.organizations, found.source)
        assert found.failure is not None


async def test_neither_source() -> None:
    """Nothing was given to read by."""
    assert OffReason.NO_TOKEN is (await run("", token=None)).off


async def test_a_token_file_may_change_under_us(tmp_path: Path) -> None:
    """A rotated token is used at once; one that is no good is as good as none."""
    path = tmp_path / "token"
    token = SessionToken(token_file=path)
    async with RawServer(answers()) as server:
        for text in (TOKEN.reveal(), TOKEN.reveal()[::-1]):
            path.write_text(text)
            assert (await run(server.url, token=token)).organizations
            sent = {headers.get(TOKEN_HEADER) for headers in server.headers[-3:]}
            assert {text, None} == sent
        asked = len(server.headers)
        for text in ("", "hunter 2"):
            path.write_text(text)
            found = await run(server.url, token=token)
            assert (None, OffReason.NO_TOKEN, None) == (found.organizations, found.off, found.failure)
        path.unlink()
        assert OffReason.NO_TOKEN is (await run(server.url, token=token)).off
        assert [None] * 3 == [headers.get(TOKEN_HEADER) for headers in server.headers[asked:]]
        path.write_text(TOKEN.reveal())
        assert (await run(server.url, token=token)).organizations
