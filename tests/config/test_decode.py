"""From the tree to the document: structure, and each kind of value."""

from __future__ import annotations

import pytest

from exporter.config.decode import decode_document
from exporter.config.document import Document
from exporter.config.yaml_nodes import parse_yaml
from exporter.secret import Secret

_KNOWN = (
    "name, url, url_file, session_token, session_token_file, deployment_id, tls, database, replicas, sections, "
    "workspace_proxies, maintenance"
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
        ("f.yaml:1: deployments[0].maintenance: is a mapping; a list is wanted", "deployments: [{maintenance: {}}]"),
        (
            "f.yaml:1: deployments[0].replicas.name: unknown key; known here: dns, port, scheme, urls, discover",
            "deployments: [{replicas: {name: x}}]",
        ),
        ("f.yaml:1: deployments[0].replicas.urls: is a text; a list is wanted", "deployments: [{replicas: {urls: x}}]"),
        (
            "f.yaml:1: deployments[0].sections.derp.map: is a text; a mapping is wanted",
            "deployments: [{sections: {derp: {map: derp-map.json}}}]",
        ),
        (
            "f.yaml:1: deployments[0].sections.derp.los: unknown key; did you mean loss?",
            "deployments: [{sections: {derp: {los: {}}}}]",
        ),
        (
            "f.yaml:1: deployments[0].sections.derp.map.url: unknown key; known here: file",
            "deployments: [{sections: {derp: {map: {url: x}}}}]",
        ),
        *(
            (
                f"f.yaml:1: deployments[0].sections.{key}: not built in this version yet; remove the key",
                f"deployments: [{{sections: {{{key}: {{}}}}}}]",
            )
            for key in ("workspaces",)
        ),
    ],
)
def test_structure(message: str, text: str) -> None:
    """Wrong types and keys that do not exist are told with line and path."""
    assert [message] == _decode(text)[1]


def test_what_is_right_is_kept_beside_what_is_wrong() -> None:
    """Later checks see the rest of a broken file, and know what was broken."""
    tree = parse_yaml("global: {interval: 5, timeout: 5s}\ndeployments: [{name: a, x: 1}, 7, {name: b}]\n")
    document = decode_document(tree)
    assert document.global_ is not None
    assert 5.0 == document.global_.timeout
    assert ["a", None, "b"] == [deployment.name for deployment in document.deployments or []]
    assert {("global", "interval"), ("deployments", 0, "x"), ("deployments", 1)} == tree.broken


def test_wrong_items_of_a_list_of_texts_go_and_the_rest_stays() -> None:
    """Each wrong item is told once, with its own number, and none keeps the others from being read."""
    tree = parse_yaml(
        "deployments:\n- sections:\n    derp:\n      allow_hosts:\n"
        "      - a.example.com\n      - 5\n      - b.example.com\n      -\n      - {}\n      - [c]\n"
    )
    document = decode_document(tree)
    where = "deployments[0].sections.derp.allow_hosts"
    assert [
        f"f.yaml:8: {where}[3]: has no value; give it one, or remove the key",
        f"f.yaml:6: {where}[1]: YAML reads this value as a number; put it in quotes",
        f"f.yaml:9: {where}[4]: is a mapping; a text is wanted",
        f"f.yaml:10: {where}[5]: is a list; a text is wanted",
    ] == [problem.render("f.yaml") for problem in tree.problems]
    assert document.deployments is not None
    assert document.deployments[0].sections is not None
    assert document.deployments[0].sections.derp is not None
    assert ["a.example.com", "b.example.com"] == document.deployments[0].sections.derp.allow_hosts


def test_a_problem_of_the_yaml_is_not_told_twice() -> None:
    """A list item without value is one problem."""
    assert ["f.yaml:2: deployments[0]: has no value; give it one, or remove the key"] == _decode("deployments:\n-\n")[1]
