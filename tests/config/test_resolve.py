"""What is inherited, what keys say about one another, and the files that they name."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from pathlib import Path

import pytest
import trustme

from exporter.config.load import load_config
from exporter.config.model import Config, DatabaseConfig, ReplicaConfig, ReplicaDNSConfig
from exporter.health.settle import Policy
from exporter.secret import Secret

_HINT = "a relative path begins at the configuration's folder"
TOKEN = "0123456789-abcdefghijklmnopqrstuv"
Write = Callable[..., Path]


def _one(keys: str, head: str = "") -> str:
    return f"{head}\ndeployments:\n- {{name: a, url: 'http://h', {keys}}}\n"


def test_defaults(load: Callable[[str], Config]) -> None:
    """What nobody writes is as the models say."""
    (deployment,) = load(_one("")).deployments
    assert ("a", "http://h", None, None, None) == (
        deployment.name,
        deployment.url,
        deployment.session_token,
        deployment.database,
        deployment.ca_file,
    )
    for section in (
        deployment.access_url,
        deployment.websocket,
        deployment.database_section,
        deployment.workspace_proxy,
    ):
        assert (True, 30.0, 5.0) == (section.enabled, section.interval_seconds, section.timeout_seconds)
        assert Policy() == section.settle
    assert (14 * 86400.0, 2 * 86400.0) == (
        deployment.access_url.certificate_warning_seconds,
        deployment.access_url.certificate_error_seconds,
    )


@pytest.mark.parametrize(
    ("expected", "text"),
    [
        (["1: deployments: is missing or empty; list at least one deployment with name and url"], "deployments: []"),
        ([" deployments: is missing or empty; list at least one deployment with name and url"], "global: {}"),
        (
            [
                "2: D0.url: is missing; write the access URL, or url_file",
                "2: D0.name: is missing; it becomes the label `deployment`",
            ],
            "deployments:\n- {}",
        ),
        (
            ['3: deployments[1].name: "a" is used before, by D0.name; names are unique'],
            "deployments:\n- {name: a, url: 'http://h'}\n- {name: a, url: 'http://i'}",
        ),
        (
            ["3: D0.session_token_file: stands beside session_token; keep one of them"],
            _one(f"session_token: {TOKEN}, session_token_file: x"),
        ),
        (
            [
                f"3: D0.url_file: the file cannot be read: No such file or directory; {_HINT}",
                f"3: D0.session_token_file: the file cannot be read: No such file or directory; {_HINT}",
                f"3: D0.tls.ca_file: the file cannot be read: No such file or directory; {_HINT}",
                f"3: D0.database.url_file: the file cannot be read: No such file or directory; {_HINT}",
            ],
            "\ndeployments:\n- {name: a, url_file: gone, session_token_file: gone, tls: {ca_file: gone},"
            " database: {url_file: gone}}",
        ),
        (["3: D0.url_file: stands beside url; keep one of them"], _one("url_file: c.yaml")),
        (
            ["3: D0.database.url_file: stands beside url; keep one of them"],
            _one("database: {url: 'postgres://h/d', url_file: x}"),
        ),
        (["3: D0.database.url: is missing; write url_file or url, or remove `database`"], _one("database: {}")),
        (["3: D0.tls.ca_file: the file holds no PEM certificates that can be read"], _one("tls: {ca_file: c.yaml}")),
        (["3: D0.session_token_file: the file is not a regular file"], _one("session_token_file: .")),
        (
            [
                "3: D0.workspace_proxies.static[0].url: is missing; write the proxy's access URL",
                "3: D0.workspace_proxies.static[1].name: is missing; it becomes the label `proxy`",
            ],
            _one("workspace_proxies: {static: [{name: eu}, {url: 'http://eu'}]}"),
        ),
        (
            [
                '3: D0.workspace_proxies.static[1].name: "eu" is used before, '
                "by D0.workspace_proxies.static[0].name; names are unique"
            ],
            _one("workspace_proxies: {static: [{name: eu, url: 'http://eu'}, {name: eu, url: 'http://us'}]}"),
        ),
    ],
)  # fmt: skip
def test_what_is_missing_or_doubled(problems: Callable[[str], list[str]], expected: list[str], text: str) -> None:
    """Each is told once, at the key or at what should hold it."""
    assert expected == problems(text)


def test_static_proxies_get_a_stable_id(load: Callable[[str], Config]) -> None:
    """Without an id it is the UUID of deployment and name; with one it is that, in lower case."""
    given = "6F0C1A52-7f4e-4b53-9d0a-0c8de5f5a3b1"
    text = _one(
        "workspace_proxies: {static: [{name: eu, url: 'https://EU:443/'}, "
        f"{{name: us, url: 'http://us', id: {given}}}]}}"
    )
    eu, us = load(text).deployments[0].static_proxies
    assert (str(uuid.uuid5(uuid.NAMESPACE_URL, "a/eu")), "eu", "https://eu") == (eu.id, eu.name, eu.url)
    assert given.lower() == us.id


def test_one_proxy_id_in_two_deployments(problems: Callable[[str], list[str]]) -> None:
    """The ported families have no label deployment, so an id is unique in the whole file."""
    proxy_id = "6f0c1a52-7f4e-4b53-9d0a-0c8de5f5a3b1"
    static = f"workspace_proxies: {{static: [{{name: eu, url: 'http://eu', id: {proxy_id}}}]}}"
    told = problems(
        f"deployments:\n- {{name: a, url: 'http://h', {static}}}\n- {{name: b, url: 'http://i', {static}}}\n"
    )
    path = "deployments[1].workspace_proxies.static[0].id"
    assert [f'3: {path}: {proxy_id} is the id of two proxies, "a/eu" and "b/eu"; ids are unique'] == told


def test_secrets_from_files(load: Callable[[str], Config], write: Write) -> None:
    """A file is relative to the configuration's folder; that of the token is read again when it is used."""
    write(f"  {TOKEN}\r\n\n", "token")
    write("postgres://u:p@db/coder\n", "dsn")
    config = load(_one("session_token_file: token, database: {url_file: dsn, latency_threshold: 20ms}"))
    assert () == config.warnings
    assert (None, Path("token")) == (config.deployments[0].session_token, config.deployments[0].session_token_file)
    assert (
        DatabaseConfig(url=Secret("postgres://u:p@db/coder"), latency_threshold_seconds=0.02)
        == config.deployments[0].database
    )


def test_relative_paths_are_relative_to_the_file(write: Write, tmp_path: Path) -> None:
    """Not to the working directory."""
    (tmp_path / "sub").mkdir()
    write(TOKEN, "sub/token")
    write("", "sub/url")
    path = write("deployments: [{name: a, url_file: url, session_token_file: token}]", "sub/c.yaml")
    (deployment,) = load_config(path, {}).deployments
    assert (Path("sub/token"), Path("sub/url")) == (deployment.session_token_file, deployment.url_file)


@pytest.mark.parametrize("content", ["", "nonsense", "https://h"])
def test_the_content_of_url_file_is_not_judged(load: Callable[[str], Config], write: Write, content: str) -> None:
    """Empty or nonsense is a health code at run time, not an error of the configuration."""
    write(content, "url")
    (deployment,) = load("deployments: [{name: a, url_file: url}]").deployments
    assert (None, Path("url")) == (deployment.url, deployment.url_file)


@pytest.mark.parametrize(
    ("expected", "content"),
    [
        ("the file is empty", ""),
        ("the file is empty", " \n"),
        ("the token holds a space, a control character or a letter beyond ASCII; write it bare", "hunter2 hunter3"),
        ("the token holds a space, a control character or a letter beyond ASCII; write it bare", "hunter2\nhunter3"),
        ("the token holds a space, a control character or a letter beyond ASCII; write it bare", "hunter2\0"),
        ("the token holds a space, a control character or a letter beyond ASCII; write it bare", "hunter2é"),
        ("the file is larger than 65536 bytes", "x" * 65537),
    ],
)
def test_a_token_file_that_cannot_be_used(
    problems: Callable[[str], list[str]], write: Write, expected: str, content: str
) -> None:
    """What is wrong is told without the content."""
    write(content, "token")
    assert [f"3: D0.session_token_file: {expected}"] == problems(_one("session_token_file: token"))


@pytest.mark.parametrize(
    "content", ["postgres://u:hunter2@db/coder?x=\ty", "postgres://u:hunter2 @db/coder", "host=db\npassword=hunter2"]
)
def test_a_database_url_with_blanks(problems: Callable[[str], list[str]], write: Write, content: str) -> None:
    """A URL holds no blanks, and neither form a control character."""
    write(content, "dsn")
    what = "the database URL holds a space, a line break or a control character; write those as %20 and the like"
    assert [f"3: D0.database.url_file: {what}"] == problems(_one("database: {url_file: dsn}"))


def test_a_database_url_that_cannot_be_parsed(problems: Callable[[str], list[str]], write: Write) -> None:
    """The reader's own sentence is told, at the key."""
    write("postgres://u:hunter2@db/coder?no_such_parameter=1", "dsn")
    (told,) = problems(_one("database: {url_file: dsn}"))
    assert told.startswith("3: D0.database.url_file: ")
    assert "no_such_parameter" in told
    assert "hunter2" not in told


def test_parameters_that_mean_nothing_here(load: Callable[[str], Config]) -> None:
    """Parameters of connection pools are warned of by name."""
    config = load(_one("database: {url: 'postgres://u:hunter2@db/coder?pool_max_conns=5'}"))
    what = "the database URL has parameters that mean nothing here: pool_max_conns"
    assert (f"c.yaml:3: deployments[0].database.url: {what}",) == config.warnings


def test_keyword_form_of_the_database_url(load: Callable[[str], Config]) -> None:
    """The keyword form has spaces between its words."""
    (deployment,) = load(_one("database: {url: 'host=db user=u password=x://p'}")).deployments
    assert deployment.database is not None
    assert Secret("host=db user=u password=x://p") == deployment.database.url


def test_certificates(load: Callable[[str], Config], write: Write) -> None:
    """A PEM file with certificates is taken."""
    write(trustme.CA().cert_pem.bytes().decode(), "ca.pem")
    assert Path("ca.pem") == load(_one("tls: {ca_file: ca.pem}")).deployments[0].ca_file


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644])
def test_files_that_others_can_read_are_warned_of(write: Write, mode: int) -> None:
    """A secret that group or world can read works, and should be mended."""
    write(TOKEN, "token", mode)
    write("postgres://u:p@db/coder", "dsn", mode)
    path = write(_one("session_token_file: token, database: {url_file: dsn}"), mode=mode)
    assert (
        f"c.yaml:3: deployments[0].session_token_file: token can be read by others (mode {mode:04o}); chmod it 600",
        f"c.yaml:3: deployments[0].database.url_file: dsn can be read by others (mode {mode:04o}); chmod it 600",
    ) == load_config(path, {}).warnings


def test_inline_secrets_in_a_file_that_others_can_read(write: Write) -> None:
    """Secrets in the configuration itself are warned of, too; without any, its mode does not matter."""
    path = write(_one(f"session_token: {TOKEN}, database: {{url: 'postgres://u:p@db/coder'}}"), mode=0o644)
    what = "is a secret in a file that others can read (mode 0644); chmod it 600, or use"
    assert (
        f"c.yaml:3: deployments[0].session_token: {what} session_token_file",
        f"c.yaml:3: deployments[0].database.url: {what} url_file",
    ) == load_config(path, {}).warnings
    assert () == load_config(write(_one(""), mode=0o644), {}).warnings


def test_a_token_of_another_form_is_only_warned_of(load: Callable[[str], Config]) -> None:
    """Coder may change its form, so a token is never refused for it."""
    config = load(_one("session_token: hunter2"))
    assert Secret("hunter2") == config.deployments[0].session_token
    what = "the token does not look like one of Coder's: 10 characters, a hyphen, 22 characters"
    assert (f"c.yaml:3: deployments[0].session_token: {what}",) == config.warnings


def test_a_url_is_its_origin(load: Callable[[str], Config]) -> None:
    """Path and query are dropped, with a warning that does not show them; a slash alone is nothing."""
    config = load(
        "deployments:\n- {name: a, url: 'HTTPS://Coder.Example.com:443/x?token=hunter2'}\n- {name: b, url: 'http://h/'}"
    )
    assert ["https://coder.example.com", "http://h"] == [deployment.url for deployment in config.deployments]
    what = "has a path, query or fragment, which is dropped: only scheme, host and port count"
    assert (f"c.yaml:2: deployments[0].url: {what}",) == config.warnings


def test_a_broken_static_proxy_is_one_problem(problems: Callable[[str], list[str]]) -> None:
    """An item that is no mapping has no follow-up, nor has a proxy of a deployment without name."""
    told = problems("deployments:\n- {url: 'http://h', workspace_proxies: {static: [5, {name: eu, url: 'http://eu'}]}}")
    assert [
        "2: D0.workspace_proxies.static[0]: is a number; a mapping is wanted",
        "2: D0.name: is missing; it becomes the label `deployment`",
    ] == told


def test_replicas(load: Callable[[str], Config]) -> None:
    """A URL stands alone or with a name; without one it is called by host and port."""
    urls = "['https://10.0.0.1:8080', 'HTTP://Coderd-1/', 'https://[::1]', {name: coderd-3, url: 'https://h3:1'}]"
    config = load(_one(f"replicas: {{urls: {urls}}}"))
    assert (
        ReplicaConfig(name="10.0.0.1:8080", url="https://10.0.0.1:8080"),
        ReplicaConfig(name="coderd-1:80", url="http://coderd-1"),
        ReplicaConfig(name="[::1]:443", url="https://[::1]"),
        ReplicaConfig(name="coderd-3", url="https://h3:1"),
    ) == config.deployments[0].replicas
    assert () == config.warnings


def test_no_replicas(load: Callable[[str], Config]) -> None:
    """An empty list is one."""
    assert () == load(_one("replicas: {urls: []}")).deployments[0].replicas


def test_a_long_name_of_a_replica_is_cut(load: Callable[[str], Config]) -> None:
    """A label has its bound, and the name of the pod stands first."""
    host = f"coder-7d9f8b6c5-abcde.{'x' * 60}.svc"
    (replica,) = load(_one(f"replicas: {{urls: ['http://{host}:8080']}}")).deployments[0].replicas
    assert (host[:64], f"http://{host}:8080") == (replica.name, replica.url)


@pytest.mark.parametrize(
    ("expected", "keys"),
    [
        ("urls: is missing; write dns, or list the URLs of the replicas, or remove `replicas`", "{}"),
        ("urls: lists 51; at most 50", f"{{urls: [{', '.join(f'http://h{n}' for n in range(51))}]}}"),
        ("dns: stands beside urls; keep one of them", "{dns: h.svc, port: 8080, urls: ['http://h']}"),
        ("port: is missing; write the port on which each replica answers, like 8080", "{dns: h.svc}"),
        ("port: means nothing without dns; remove it", "{port: 8080, urls: ['http://h']}"),
        ("scheme: means nothing without dns; remove it", "{scheme: http, discover: true}"),
        (
            "port: stands beside a dns that is asked for SRV, which tells it; remove it",
            "{dns: _http._tcp.h.svc, port: 8080}",
        ),
        ("urls[1].url: is missing; write the replica's own URL", "{urls: ['http://h', {name: x}]}"),
        (
            'urls[1].name: "x" is used before, by D0.replicas.urls[0].name; names are unique',
            "{urls: [{name: x, url: 'http://h'}, {name: x, url: 'http://i'}]}",
        ),
        (
            'urls[1].name: "h:80" is used before, by D0.replicas.urls[0]; names are unique',
            "{urls: ['http://h', {name: 'h:80', url: 'http://i'}]}",
        ),
        (
            "urls[1]: has the same URL as D0.replicas.urls[0]; list each replica once",
            "{urls: [{name: x, url: 'http://h'}, 'http://H:80/']}",
        ),
        (
            "urls[0].url: the URL does not begin with http:// or https://; write it like https://coder.example.com",
            "{urls: [{name: x, url: h}]}",
        ),
        ("urls[0].name: has 65 characters; a name has 1 to 64", f"{{urls: [{{name: {'x' * 65}, url: 'http://h'}}]}}"),
    ],
)
def test_replicas_that_are_wrong(problems: Callable[[str], list[str]], expected: str, keys: str) -> None:
    """Each problem is told once, at the key that must change."""
    assert [f"3: D0.replicas.{expected}"] == problems(_one(f"replicas: {keys}"))


@pytest.mark.parametrize(
    ("expected", "keys"),
    [
        (
            ReplicaDNSConfig(name="coder-headless.coder.svc", port=8080, scheme="http"),
            "{dns: Coder-Headless.coder.svc, port: 8080}",
        ),
        # what a port is most often used for is not guessed from
        (ReplicaDNSConfig(name="h", port=443, scheme="http"), "{dns: h, port: 443}"),
        (ReplicaDNSConfig(name="h.svc.", port=8443, scheme="https"), "{dns: h.svc., port: 8443, scheme: HTTPS}"),
        (ReplicaDNSConfig(name="_http._tcp.h.svc", port=None, scheme="http"), "{dns: _http._tcp.h.svc}"),
        (None, "{discover: false}"),
    ],
)
def test_replicas_by_dns(load: Callable[[str], Config], expected: ReplicaDNSConfig | None, keys: str) -> None:
    """A name and a port, plain HTTP unless told otherwise; a service tells its ports itself."""
    deployment = load(_one(f"replicas: {keys}")).deployments[0]
    assert (expected, ()) == (deployment.replica_dns, deployment.replicas)


def test_replicas_are_discovered_unless_told_otherwise(load: Callable[[str], Config]) -> None:
    """Beside a list and DNS too, for their names."""
    written = [load(_one(keys)).deployments[0].discover_replicas for keys in ("", "replicas: {dns: h, port: 1}")]
    assert [True, True] == written
    off = load(_one("replicas: {urls: ['http://h'], discover: false}")).deployments[0]
    assert (False, 1) == (off.discover_replicas, len(off.replicas))


def test_a_replica_of_two_deployments(load: Callable[[str], Config]) -> None:
    """Names and URLs are unique in a deployment, not among them."""
    replicas = "replicas: {urls: ['http://r']}"
    config = load(
        f"deployments:\n- {{name: a, url: 'http://h', {replicas}}}\n- {{name: b, url: 'http://i', {replicas}}}\n"
    )
    assert ["r:80", "r:80"] == [deployment.replicas[0].name for deployment in config.deployments]


def test_a_replicas_url_is_its_origin(load: Callable[[str], Config]) -> None:
    """What stands behind host and port is dropped, with a warning."""
    config = load(_one("replicas: {urls: ['http://r/derp']}"))
    assert "http://r" == config.deployments[0].replicas[0].url
    what = "has a path, query or fragment, which is dropped: only scheme, host and port count"
    assert (f"c.yaml:3: deployments[0].replicas.urls[0]: {what}",) == config.warnings
