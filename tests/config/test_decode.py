"""From the tree to the document: structure, and each kind of value."""

from __future__ import annotations

import pytest

from exporter.config.decode import decode_document
from exporter.config.document import Document
from exporter.config.yaml_nodes import parse_yaml
from exporter.secret import Secret

_DURATION = "write it like 30s, 5m or 1h30m"
_URL = "write it like https://coder.example.com"
_KNOWN = (
    "name, url, url_file, session_token, session_token_file, deployment_id, tls, database, sections, workspace_proxies"
)


def _decode(text: str) -> tuple[Document, list[str]]:
    tree = parse_yaml(text)
    document = decode_document(tree)
    return document, [problem.render("f.yaml") for problem in tree.problems]


def test_a_whole_file_decodes() -> None:
    """Every kind of key becomes its value; what was left out is None."""
    document, problems = _decode(
        """
global: {interval: 1m, settle: {raise: 3, startup_grace: 0s}}
deployments:
  - name: prod
    url: https://coder.example.com
    session_token: "s3cret"
    deployment_id: 6F0C1A52-7f4e-4b53-9d0a-0c8de5f5a3b1
    database: {url_file: pg-url, latency_threshold: 10ms}
    sections: {access_url: {enabled: false, certificate_error: 1d}}
    workspace_proxies: {static: [{name: eu, url: "http://eu"}]}
"""
    )
    assert [] == problems
    assert document.global_ is not None
    assert document.global_.settle is not None
    assert (60.0, None, 3, None, 0.0) == (
        document.global_.interval,
        document.global_.timeout,
        document.global_.settle.raise_,
        document.global_.settle.clear,
        document.global_.settle.startup_grace,
    )
    assert document.deployments is not None
    (deployment,) = document.deployments
    assert Secret("s3cret") == deployment.session_token
    assert "s3cret" not in repr(document)
    assert "6f0c1a52-7f4e-4b53-9d0a-0c8de5f5a3b1" == deployment.deployment_id
    assert deployment.sections is not None
    assert deployment.sections.access_url is not None
    assert deployment.sections.access_url.enabled is False
    assert deployment.sections.websocket is None


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ("f.yaml:1: is a list; a mapping with the key `deployments` is wanted", "[]"),
        ("f.yaml:1: is a text; a mapping with the key `deployments` is wanted", "deployments"),
        ("f.yaml:1: is a scalar; a mapping with the key `deployments` is wanted", "no"),
        ("f.yaml:1: deployments: is a mapping; a list is wanted", "deployments: {name: a}"),
        ("f.yaml:1: deployments: is a text; a list is wanted", "deployments: a"),
        ("f.yaml:2: deployments[0]: is a text; a mapping is wanted", "deployments:\n- a"),
        ("f.yaml:1: global: is a boolean; a mapping is wanted", "global: true"),
        ("f.yaml:1: global: is a scalar; a mapping is wanted", "global: yes"),
        ("f.yaml:1: globl: unknown key; did you mean global?", "globl: {}"),
        ("f.yaml:1: other: unknown key; known here: global, deployments", "other: {}"),
        ("f.yaml:1: global.setle: unknown key; did you mean settle?", "global: {setle: 1}"),
        (
            "f.yaml:1: deployments[0].session-token-file: unknown key; did you mean session_token_file?",
            "deployments: [{session-token-file: x}]",
        ),
        (f"f.yaml:1: deployments[0].token: unknown key; known here: {_KNOWN}", "deployments: [{token: x}]"),
        (
            "f.yaml:1: global.settle.after: unknown key; known here: raise, clear, startup_grace, version_grace",
            "global: {settle: {after: 1m}}",
        ),
        ("f.yaml:1: global.reference: not built in this version yet; remove the key", "global: {reference: x}"),
        *(
            (
                f"f.yaml:1: deployments[0].{key}: not built in this version yet; remove the key",
                f"deployments: [{{{key}: {{}}}}]",
            )
            for key in ("replicas", "maintenance")
        ),
        *(
            (
                f"f.yaml:1: deployments[0].sections.{key}: not built in this version yet; remove the key",
                f"deployments: [{{sections: {{{key}: {{}}}}}}]",
            )
            for key in ("derp", "provisioner_daemons", "report", "workspaces", "direct_connections")
        ),
    ],
)
def test_structure(message: str, text: str) -> None:
    """Wrong types and keys that do not exist are told with line and path."""
    assert [message] == _decode(text)[1]


@pytest.mark.parametrize(
    ("what", "value"),
    [
        (f'"30" is not a duration; {_DURATION}', "30"),
        (f'"30" is not a duration; {_DURATION}', '"30"'),
        (f'"-30s" is not a duration; {_DURATION}', "-30s"),
        (f'"true" is not a duration; {_DURATION}', "true"),
        (f"this text is not a duration; {_DURATION}", "0123456789-abcdefghijklmnopqrstuv"),
        (f'YAML reads "1:30" as the number 90, which is not a duration; {_DURATION}', "1:30"),
        (f'YAML reads ".inf" as a number, which is not a duration; {_DURATION}', ".inf"),
        (f"is a list, not a duration; {_DURATION}", "[30s]"),
        ('"0s" is no time at all; a duration above 0s is wanted', "0s"),
        ('"999ms" is too short; at least 1s', "999ms"),
        ('"367d" is too long; at most 366d', "367d"),
        ('"999999999999d" is too long; at most 366d', "999999999999d"),
    ],
)
def test_an_interval(what: str, value: str) -> None:
    """Each way to get a duration wrong tells the wanted form."""
    assert [f"f.yaml:1: global.interval: {what}"] == _decode(f"global: {{interval: {value}}}")[1]


@pytest.mark.parametrize(
    ("what", "value"),
    [
        ('YAML reads "014" as the number 12; write a whole number from 1 to 100 in plain digits', "014"),
        ('YAML reads "2.0" as a number; write a whole number from 1 to 100 in plain digits', "2.0"),
        ("is a text; write a whole number from 1 to 100, without quotes", '"2"'),
        ("is true; write a whole number from 1 to 100, without quotes", "true"),
        ("is a mapping; write a whole number from 1 to 100, without quotes", "{}"),
        ('"0" is out of range; write a whole number from 1 to 100', "0"),
        ('"101" is out of range; write a whole number from 1 to 100', "101"),
        ('"-1" is out of range; write a whole number from 1 to 100', "-1"),
    ],
)
def test_a_count(what: str, value: str) -> None:
    """A count is a whole number in its range, without quotes."""
    assert [f"f.yaml:1: global.settle.raise: {what}"] == _decode(f"global: {{settle: {{raise: {value}}}}}")[1]


@pytest.mark.parametrize(
    ("what", "value"),
    [
        ('YAML 1.1 reads "no" as false, YAML 1.2 does not; write true or false', "no"),
        ('YAML 1.1 reads "On" as true, YAML 1.2 does not; write true or false', "On"),
        ("is a text; write true or false, without quotes", '"true"'),
        ("is a number; write true or false, without quotes", "1"),
    ],
)
def test_a_boolean(what: str, value: str) -> None:
    """Only true and false are booleans."""
    text = f"deployments: [{{sections: {{websocket: {{enabled: {value}}}}}}}]"
    assert [f"f.yaml:1: deployments[0].sections.websocket.enabled: {what}"] == _decode(text)[1]


@pytest.mark.parametrize(
    ("what", "key", "value"),
    [
        ("YAML reads no as false; put it in quotes", "name", "no"),
        ("YAML reads 014 as the number 12; put it in quotes", "name", "014"),
        ("YAML reads 2024-01-01 as a date; put it in quotes", "name", "2024-01-01"),
        ("YAML reads this value as a number; put it in quotes", "name", "7"),
        ("YAML reads this value as true; put it in quotes", "name", "true"),
        ("YAML reads this value as a number; put it in quotes", "name", "1234567890123456789012345678901"),
        ("YAML does not read this value as a text; put it in quotes", "session_token", "1_234"),
        ("YAML reads this value as a number; put it in quotes", "session_token", "1234"),
        ("is a mapping; a text is wanted", "session_token", "{secret: hunter2}"),
        ("is a list; a text is wanted", "url", "[x]"),
        ("is empty; give it a value, or remove the key", "name", '""'),
        ("is empty; give it a value, or remove the key", "session_token", '" "'),
        ("has 65 characters; a name has 1 to 64", "name", "x" * 65),
        ("begins or ends with a blank; remove it", "name", '" a"'),
        ("holds a control character; a printable text is wanted", "name", '"a\\nb"'),
        ("holds a control character; a printable text is wanted", "url_file", '"a\\0b"'),
        (f"the URL does not begin with http:// or https://; {_URL}", "url", "coder.example.com"),
        (f"the URL holds a user name or password, which Coder does not take; {_URL}", "url", "https://u:hunter2@c"),
        ("is not a UUID; write it like 6f0c1a52-7f4e-4b53-9d0a-0c8de5f5a3b1", "deployment_id", "6f0c"),
        (
            "is not a UUID; write it like 6f0c1a52-7f4e-4b53-9d0a-0c8de5f5a3b1",
            "deployment_id",
            "6f0c1a527f4e4b539d0a0c8de5f5a3b1",
        ),
    ],
)
def test_a_text(what: str, key: str, value: str) -> None:
    """Texts that YAML takes for something else, and texts of a wrong form, are told without a secret."""
    assert [f"f.yaml:2: deployments[0].{key}: {what}"] == _decode(f"deployments:\n- {key}: {value}")[1]


@pytest.mark.parametrize(
    ("what", "value"),
    [
        ('"0.5ms" is too short; at least 1ms, since Coder compares whole milliseconds', "0.5ms"),
        ('"0s" is no time at all; a duration above 0s is wanted', "0s"),
    ],
)
def test_a_latency_threshold(what: str, value: str) -> None:
    """Below a millisecond Coder would fall back to its default, so nothing below is taken."""
    text = f"deployments: [{{database: {{latency_threshold: {value}}}}}]"
    assert [f"f.yaml:1: deployments[0].database.latency_threshold: {what}"] == _decode(text)[1]


def test_what_is_right_is_kept_beside_what_is_wrong() -> None:
    """Later checks see the rest of a broken file, and know what was broken."""
    tree = parse_yaml("global: {interval: 5, timeout: 5s}\ndeployments: [{name: a, x: 1}, 7, {name: b}]\n")
    document = decode_document(tree)
    assert document.global_ is not None
    assert 5.0 == document.global_.timeout
    assert ["a", None, "b"] == [deployment.name for deployment in document.deployments or []]
    assert {("global", "interval"), ("deployments", 0, "x"), ("deployments", 1)} == tree.broken


def test_a_problem_of_the_yaml_is_not_told_twice() -> None:
    """A list item without value is one problem."""
    assert ["f.yaml:2: deployments[0]: has no value; give it one, or remove the key"] == _decode("deployments:\n-\n")[1]
