"""A file, the environment, or both, to a Config or every problem at once; never a secret."""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from exporter.config.files import MAX_CONFIG_BYTES
from exporter.config.load import VARIABLES, load_config
from exporter.config.model import Config
from exporter.errors import ConfigError
from exporter.secret import Secret

TOKEN = "0123456789-abcdefghijklmnopqrstuv"
DSN = "postgres://u:hunter2@db.example.com/coder"


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let relative paths of the environment lead into the test's folder."""
    monkeypatch.chdir(tmp_path)


def _write(text: str | bytes, name: str = "config.yaml") -> Path:
    path = Path(name)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    path.chmod(0o600)
    return path


def _outcome(path: Path | None, environ: Mapping[str, str]) -> Config | ConfigError:
    try:
        return load_config(path, environ)
    except ConfigError as error:
        return error


def _problems(path: Path | None, environ: Mapping[str, str]) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_config(path, environ)
    return caught.value.problems


def test_every_problem_at_once() -> None:
    """Problems of the YAML, of keys, between keys and of files come together, sorted by line."""
    path = _write(
        """\
global:
  timeout: 40s
  interval: 1:30
deployments:
  - name: prod
    url: coder.example.com
    session_token_file: missing
    sesion_token: x
    name: twice
    sections:
      database: {interval: 30, enabled: yes}
      derp: {interval: 61s, timeout: 62s}
      workspaces: {}
  - name: prod
    url: https://b.example.com
    sections: {websocket: {timeout: 31s, interval: 30s}}
    database:
"""
    )
    assert [
        'config.yaml:3: global.interval: YAML reads "1:30" as the number 90, which is not a duration; '
        "write it like 30s, 5m or 1h30m",
        "config.yaml:6: deployments[0].url: the URL does not begin with http:// or https://; "
        "write it like https://coder.example.com",
        "config.yaml:7: deployments[0].session_token_file: the file cannot be read: No such file or directory; "
        "a relative path begins at the configuration's folder",
        "config.yaml:8: deployments[0].sesion_token: unknown key; did you mean session_token?",
        "config.yaml:9: deployments[0].name: stands here a second time, first in line 5; keep one of them",
        'config.yaml:11: deployments[0].sections.database.enabled: YAML 1.1 reads "yes" as true, YAML 1.2 does not; '
        "write true or false",
        'config.yaml:11: deployments[0].sections.database.interval: "30" is not a duration; '
        "write it like 30s, 5m or 1h30m",
        "config.yaml:12: deployments[0].sections.derp.timeout: 1m2s is longer than the interval 1m1s written here; "
        "at most 1m1s",
        "config.yaml:13: deployments[0].sections.workspaces: not built in this version yet; remove the key",
        'config.yaml:14: deployments[1].name: "prod" is used before, by deployments[0].name; names are unique',
        "config.yaml:16: deployments[1].sections.websocket.timeout: 31s is longer than the interval 30s written here; "
        "at most 30s",
        "config.yaml:17: deployments[1].database: has no value; give it one, or remove the key",
    ] == _problems(path, {})


@pytest.mark.parametrize(
    ("expected", "content"),
    [
        ("config.yaml: is empty; at least a list `deployments` is wanted", b""),
        ("config.yaml: is empty; at least a list `deployments` is wanted", b"# only a comment\n"),
        ("config.yaml: is not UTF-8 text (line 2)", b"a: b\nc: \xff\n"),
        ("config.yaml: is not UTF-8 text (line 1)", "a: b".encode("utf-16")),
        (f"config.yaml: is larger than {MAX_CONFIG_BYTES} bytes", b"#" * (MAX_CONFIG_BYTES + 1)),
    ],
)
def test_a_file_that_is_no_configuration(expected: str, content: bytes) -> None:
    """The file as a whole can be wrong."""
    assert [expected] == _problems(_write(content), {})


def test_a_path_that_is_no_file() -> None:
    """A missing file and a folder are told as such."""
    assert ["gone.yaml: cannot be read: No such file or directory"] == _problems(Path("gone.yaml"), {})
    assert [".: is not a regular file"] == _problems(Path(), {})


def test_a_file_with_a_byte_order_mark() -> None:
    """Editors that write one are forgiven."""
    config = load_config(_write(b"\xef\xbb\xbfdeployments: [{name: a, url: 'http://h'}]"), {})
    assert "a" == config.deployments[0].name
    assert "config.yaml" == config.source


def test_very_many_problems_end() -> None:
    """A file of another kind gives a bounded list that says how much was left out."""
    problems = _problems(_write("".join(f"key{n}: 1\n" for n in range(3000))), {})
    assert 1001 == len(problems)
    assert "and 2001 more" == problems[-1]


# the environment alone


def test_environment_alone_anonymous() -> None:
    """CODER_URL is enough; the deployment is named after its host."""
    config = load_config(None, {"CODER_URL": "https://coder.example.com:8443/", "PATH": "/bin"})
    (deployment,) = config.deployments
    assert ("coder.example.com", "https://coder.example.com:8443") == (deployment.name, deployment.url)
    assert (None, None) == (deployment.session_token, deployment.database)
    assert ((), "environment") == (config.warnings, config.source)


@pytest.mark.parametrize("token_file", [False, True])
@pytest.mark.parametrize("database_file", [False, True])
def test_environment_alone_with_everything(token_file: bool, database_file: bool) -> None:
    """Each secret comes from its variable or from the file that the twin names."""
    _write(f"{TOKEN}\n", "token")
    _write(f"{DSN}\n", "dsn")
    environ = {
        "CODER_URL": "https://coder.example.com",
        "CODER_HEALTH_DEPLOYMENT": "prod",
        **({"CODER_SESSION_TOKEN_FILE": "token"} if token_file else {"CODER_SESSION_TOKEN": TOKEN}),
        **({"CODER_PG_CONNECTION_URL_FILE": "dsn"} if database_file else {"CODER_PG_CONNECTION_URL": DSN}),
    }
    config = load_config(None, environ)
    (deployment,) = config.deployments
    expected = (None, Path("token")) if token_file else (Secret(TOKEN), None)
    assert ("prod", *expected) == (deployment.name, deployment.session_token, deployment.session_token_file)
    assert deployment.database is not None
    assert (Secret(DSN), None) == (deployment.database.url, deployment.database.latency_threshold_seconds)
    assert () == config.warnings


def test_a_long_host_still_makes_a_name() -> None:
    """A default name is cut to the length that names may have."""
    host = f"{'a' * 60}.example.com"
    assert host[:64] == load_config(None, {"CODER_URL": f"https://{host}"}).deployments[0].name


_URL_FORM = "write it like https://coder.example.com"
_NOT_SET = "CODER_URL: is not set; set it to the access URL, like https://coder.example.com"
_NOTHING = (
    "no configuration: set CODER_URL to the access URL of a Coder deployment, or name a file with --config.file "
    "(--config.print-defaults writes one)"
)


@pytest.mark.parametrize(
    ("expected", "environ"),
    [
        ([_NOTHING], {}),
        ([_NOTHING], {"CODER_URL": "", "CODER_SESSION_TOKEN": " "}),
        ([_NOT_SET], {"CODER_SESSION_TOKEN": TOKEN}),
        ([_NOT_SET], {"CODER_HEALTH_DEPLOYMENT": "prod"}),
        (
            [f"CODER_URL: the URL does not begin with http:// or https://; {_URL_FORM}"],
            {"CODER_URL": "coder.example.com"},
        ),
        (
            [f"CODER_URL: the URL holds a user name or password, which Coder does not take; {_URL_FORM}"],
            {"CODER_URL": "https://u:hunter2@coder.example.com"},
        ),
        (
            [
                "CODER_SESSION_TOKEN: is set, and CODER_SESSION_TOKEN_FILE too; unset one of them",
                "CODER_SESSION_TOKEN_FILE: is set, and CODER_SESSION_TOKEN too; unset one of them",
            ],
            {"CODER_URL": "http://h", "CODER_SESSION_TOKEN": TOKEN, "CODER_SESSION_TOKEN_FILE": "x"},
        ),
        (
            [
                "CODER_PG_CONNECTION_URL: is set, and CODER_PG_CONNECTION_URL_FILE too; unset one of them",
                "CODER_PG_CONNECTION_URL_FILE: is set, and CODER_PG_CONNECTION_URL too; unset one of them",
            ],
            {"CODER_URL": "http://h", "CODER_PG_CONNECTION_URL": DSN, "CODER_PG_CONNECTION_URL_FILE": "x"},
        ),
        (
            [
                "CODER_HEALTH_DEPLOYMENT: has 65 characters; a name has 1 to 64",
                "CODER_SESSION_TOKEN_FILE: the file cannot be read: No such file or directory",
                "CODER_PG_CONNECTION_URL_FILE: the file is not a regular file",
            ],
            {
                "CODER_URL": "http://h",
                "CODER_HEALTH_DEPLOYMENT": "x" * 65,
                "CODER_SESSION_TOKEN_FILE": "gone",
                "CODER_PG_CONNECTION_URL_FILE": ".",
            },
        ),
        (
            [
                "CODER_SESSION_TOKEN: the token holds a space, a control character or a letter beyond ASCII; "
                "write it bare",
                "CODER_PG_CONNECTION_URL: the database URL holds a space, a line break or a control character; "
                "write those as %20 and the like",
            ],
            {"CODER_URL": "http://h", "CODER_SESSION_TOKEN": "a b", "CODER_PG_CONNECTION_URL": "postgres://u:\udcff@h/d"},
        ),
    ],
)  # fmt: skip
def test_environment_alone_with_problems(expected: list[str], environ: dict[str, str]) -> None:
    """Problems are named by their variable, and all are told at once."""
    assert expected == _problems(None, environ)


def test_warnings_name_the_variable() -> None:
    """What should be mended is found by the variable, too."""
    _write(TOKEN, "token").chmod(0o644)
    config = load_config(None, {"CODER_URL": "http://h/x", "CODER_SESSION_TOKEN_FILE": "token"})
    assert (
        "CODER_URL: has a path, query or fragment, which is dropped: only scheme, host and port count",
        "CODER_SESSION_TOKEN_FILE: token can be read by others (mode 0644); chmod it 600",
    ) == config.warnings


# a file and the environment


def test_environment_completes_a_single_deployment() -> None:
    """What the file leaves out comes from the environment; the file's own keys stand."""
    path = _write("deployments: [{sections: {websocket: {enabled: false}}, database: {latency_threshold: 10ms}}]")
    environ = {
        "CODER_HEALTH_DEPLOYMENT": "prod",
        "CODER_URL": "https://coder.example.com",
        "CODER_SESSION_TOKEN": TOKEN,
        "CODER_PG_CONNECTION_URL": DSN,
    }
    (deployment,) = load_config(path, environ).deployments
    assert ("prod", "https://coder.example.com", Secret(TOKEN), False) == (
        deployment.name,
        deployment.url,
        deployment.session_token,
        deployment.websocket.enabled,
    )
    assert deployment.database is not None
    assert (Secret(DSN), 0.01) == (deployment.database.url, deployment.database.latency_threshold_seconds)


def test_paths_of_the_environment_are_relative_to_the_working_directory() -> None:
    """Only paths in the file are relative to the file."""
    Path("sub").mkdir()
    _write(TOKEN, "token")
    path = _write("deployments: [{name: a, url: 'http://h'}]", "sub/config.yaml")
    (deployment,) = load_config(path, {"CODER_SESSION_TOKEN_FILE": "token"}).deployments
    assert Path("token") == deployment.session_token_file


def test_secrets_of_the_environment_are_not_the_files() -> None:
    """The mode of the file is no matter for a secret that does not stand in it."""
    path = _write("deployments: [{name: a, url: 'http://h'}]")
    path.chmod(0o644)
    assert () == load_config(path, {"CODER_SESSION_TOKEN": TOKEN}).warnings


@pytest.mark.parametrize(
    ("variable", "clash", "keys"),
    [
        ("CODER_URL", "url", "name: a, url: 'http://h'"),
        ("CODER_URL", "url_file", "name: a, url_file: config.yaml"),
        ("CODER_HEALTH_DEPLOYMENT", "name", "name: a, url: 'http://h'"),
        ("CODER_SESSION_TOKEN", "session_token", f"name: a, url: 'http://h', session_token: {TOKEN}"),
        ("CODER_SESSION_TOKEN", "session_token_file", "name: a, url: 'http://h', session_token_file: token"),
        ("CODER_SESSION_TOKEN_FILE", "session_token", f"name: a, url: 'http://h', session_token: {TOKEN}"),
        ("CODER_PG_CONNECTION_URL", "database.url", f"name: a, url: 'http://h', database: {{url: '{DSN}'}}"),
        ("CODER_PG_CONNECTION_URL_FILE", "database.url", f"name: a, url: 'http://h', database: {{url: '{DSN}'}}"),
        ("CODER_PG_CONNECTION_URL", "database.url_file", "name: a, url: 'http://h', database: {url_file: dsn}"),
    ],
)
def test_environment_and_file_clash(variable: str, clash: str, keys: str) -> None:
    """What both give is an error that names both, whatever the values."""
    _write(TOKEN, "token")
    _write(DSN, "dsn")
    path = _write(f"deployments:\n  - {{{keys}}}\n")
    assert [
        f"{variable}: clashes with deployments[0].{clash} (config.yaml:2); unset the variable, or remove the key"
    ] == _problems(path, {variable: "https://x"})


@pytest.mark.parametrize("variable", list(VARIABLES))
def test_environment_cannot_complete_several_deployments(variable: str) -> None:
    """Which one would be meant?"""
    path = _write("deployments: [{name: a, url: 'http://h'}, {name: b, url: 'http://i'}]")
    assert [
        f"{variable}: is set, but config.yaml lists 2 deployments, and the environment can complete only a single one; "
        "unset the variable"
    ] == _problems(path, {variable: "https://x"})


def test_problems_of_both_are_told_together() -> None:
    """Of the file with its line, of the environment with its variable."""
    assert [
        "CODER_SESSION_TOKEN_FILE: the file cannot be read: No such file or directory",
        "config.yaml:1: deployments[0].x: unknown key; known here: name, url, url_file, session_token, "
        "session_token_file, deployment_id, tls, database, replicas, sections, workspace_proxies, maintenance",
    ] == sorted(
        _problems(_write("deployments: [{name: a, url: 'http://h', x: 1}]"), {"CODER_SESSION_TOKEN_FILE": "gone"})
    )


@pytest.mark.parametrize("text", ["deployments: 5", "deployments: [5]", "[]", "global: {}", "a: [", ""])
def test_a_broken_file_with_the_environment(text: str) -> None:
    """A file that has no deployment to complete is told as what it is."""
    problems = _problems(_write(text), {"CODER_URL": "http://h"})
    assert 1 == len(problems)
    assert problems[0].startswith("config.yaml")


def test_a_broken_database_with_the_environment() -> None:
    """What cannot be completed is told as what it is, without a follow-up."""
    path = _write("deployments: [{name: a, url: 'http://h', database: 5}]")
    assert ["config.yaml:1: deployments[0].database: is a number; a mapping is wanted"] == _problems(
        path, {"CODER_PG_CONNECTION_URL": DSN}
    )


# secrets

_PLANTED = (
    "S3cretT0ke-n0123456789abcdefghijk",
    "S3cretT0ken0123456789",
    "postgres://u:S3cretT0k@db/coder",
    "S3cretT0k x",
)


def _placements(secret: str) -> Iterator[str]:
    """Put a secret at every place where somebody may put it by mistake."""
    head = "deployments:\n- name: a\n  url: http://h\n"
    quoted = "'" + secret + "'"
    for key in ("session_token", "session_token_file", "deployment_id", "url_file", "tls", "sections", "other"):
        yield f"{head}  {key}: {quoted}\n"
        yield f"{head}  {key}: {secret}\n"
        yield f"{head}  {key}: [{quoted}]\n"
        yield f"{head}  {key}: {{{quoted}: 1}}\n"
        yield f"{head}  {key}: *{secret}\n"
        yield f"{head}  {key}: !{secret} x\n"
        yield f"{head}  {key}: {quoted} {secret}\n"
        yield f"{head}  {key}: '{secret}\n"
        yield f'{head}  {key}: "\\z{secret}"\n'
        yield f"{head}  {key}:{secret}\n"
    for key in ("url", "url_file", "latency_threshold", "x"):
        yield f"{head}  database: {{{key}: {quoted}}}\n"
    yield f"{head}  database: {quoted}\n"
    yield f"{head}  {quoted}: 1\n  {quoted}: 2\n"
    yield f"{head}  session_token: {quoted}\n  session_token: {quoted}\n"
    yield f"{head}  workspace_proxies: {{static: [{{name: x, url: {quoted}}}, {quoted}, {{id: {quoted}}}]}}\n"
    for key in ("dns", "port", "scheme", "discover"):
        yield f"{head}  replicas: {{{key}: {quoted}}}\n"
    yield f"{head}  replicas: {{urls: [{quoted}, {{name: x, url: {quoted}}}, [{quoted}], {{{quoted}: 1}}]}}\n"
    for value in (quoted, f"[{quoted}]", f"{{file: {quoted}, window: {quoted}}}"):
        for key in ("map", "allow_hosts", "loss", "expect_websocket"):
            yield f"{head}  sections: {{derp: {{{key}: {value}}}}}\n"
    yield f"{head}  sections: {{direct_connections: {{tunnel_interfaces: {quoted}}}}}\n"
    yield f"deployments: [{{name: a, url: 'http://u:{secret}@h'}}]"
    yield f"deployments: {quoted}"
    yield quoted
    yield f"{quoted}: 1"
    yield f"global: {{interval: {quoted}, timeout: {quoted}, settle: {{raise: {quoted}, startup_grace: {quoted}}}}}"


def _all_texts(outcome: Config | ConfigError) -> str:
    """Give everything that can be shown of a configuration, or of an exception and all that is chained to it."""
    if isinstance(outcome, Config):
        return repr(outcome)
    seen: list[BaseException] = []
    waiting: list[BaseException | None] = [outcome]
    while waiting:
        current = waiting.pop()
        if current is not None and current not in seen:
            seen.append(current)
            waiting += [current.__cause__, current.__context__]
    texts = [f"{current!r} {current} {current.args!r} {vars(current)!r}" for current in seen]
    return "\n".join([*texts, "".join(traceback.format_exception(outcome))])


@pytest.mark.parametrize("secret", _PLANTED)
def test_no_problem_shows_a_secret(secret: str) -> None:
    """Wherever a secret stands by mistake, no message, repr, chained error or traceback holds it."""
    outcomes = {text: _outcome(_write(text), {}) for text in _placements(secret)}
    assert [] == [text for text, outcome in outcomes.items() if "S3cretT0k" in _all_texts(outcome)]
    assert len([outcome for outcome in outcomes.values() if isinstance(outcome, ConfigError)]) > 50


@pytest.mark.parametrize("secret", _PLANTED)
@pytest.mark.parametrize("variable", ["CODER_URL", "CODER_SESSION_TOKEN", "CODER_PG_CONNECTION_URL"])
def test_no_problem_shows_a_secret_of_the_environment(variable: str, secret: str) -> None:
    """The same for variables, right or wrong."""
    assert "S3cretT0k" not in _all_texts(_outcome(None, {"CODER_URL": "http://h", variable: secret}))


# anything

_SCALARS = (
    "no",
    "30s",
    "014",
    "1:30",
    "~",
    "''",
    "'a b'",
    "http://h",
    "5",
    "true",
    "*a",
    "&a x",
    "!t",
    "[",
    "config.yaml",
)
_KEYS = """
global deployments interval timeout settle raise name url url_file session_token session_token_file sections websocket
access_url database certificate_error tls ca_file workspace_proxies static id << derp mesh map file allow_hosts loss
window packets_per_second direct_connections tunnel_interfaces replicas urls dns port scheme discover enabled
"""
_YAML = st.recursive(
    st.sampled_from(_SCALARS),
    lambda inner: (
        st.lists(inner, max_size=3).map(lambda items: f"[{', '.join(items)}]")
        | st.dictionaries(st.sampled_from(_KEYS.split()), inner, max_size=5).map(
            lambda items: "{" + ", ".join(f"{key}: {value}" for key, value in items.items()) + "}"
        )
    ),
    max_leaves=20,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    content=st.binary()
    | st.text().map(lambda text: text.encode("utf-8", "surrogatepass"))
    | _YAML.map(str.encode)
    | _YAML.map(lambda text: f"deployments: [{{name: a, url: 'http://h', sections: {text}}}]".encode()),
    environ=st.dictionaries(st.sampled_from(list(VARIABLES)), st.text(max_size=80), max_size=3),
)
def test_anything_gives_a_config_or_a_config_error(content: bytes, environ: dict[str, str]) -> None:
    """No file and no environment makes another exception, and every problem is one line."""
    for path in (_write(content), None):
        outcome = _outcome(path, environ)
        problems = outcome.problems if isinstance(outcome, ConfigError) else []
        assert isinstance(outcome, Config) or problems
        assert [] == [problem for problem in problems if not problem.isprintable()]
