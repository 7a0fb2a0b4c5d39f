"""YAML read strictly, with lines."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.config.yaml_nodes import MAX_DEPTH, MAX_VALUES, Ambiguous, Tree, parse_yaml


def _problems(text: str) -> list[str]:
    return [problem.render("f.yaml") for problem in parse_yaml(text).problems]


def test_values_and_lines() -> None:
    """Mappings, lists and the plain scalars that all YAML versions agree on come with their lines."""
    tree = parse_yaml("a: 1\nb:\n  - x\n  - true\nc: {d: '1', e: \"no\"}\n")
    assert {"a": 1, "b": ["x", True], "c": {"d": "1", "e": "no"}} == tree.value
    assert {
        ("a",): 1, ("b",): 2, ("b", 0): 3, ("b", 1): 4, ("c",): 5, ("c", "d"): 5, ("c", "e"): 5,
    } == tree.lines  # fmt: skip
    assert [] == tree.problems


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        ("no", "false"),
        ("Off", "false"),
        ("YES", "true"),
        ("on", "true"),
        ("014", "the number 12"),
        ("0x1F", "the number 31"),
        ("0b11", "the number 3"),
        ("1:30", "the number 90"),
        ("1_000", "the number 1000"),
        ("+5", "the number 5"),
        ("0b_", "a number"),
        ("1" * 19, "a number"),
        ("1.5", "a number"),
        (".inf", "a number"),
        (".nan", "a number"),
        ("190:20:30.15", "a number"),
        ("2024-01-01", "a date"),
        ("2024-01-01 10:00:00", "a date"),
    ],
)
def test_what_yaml_versions_read_differently_is_ambiguous(text: str, meaning: str) -> None:
    """A plain scalar that is no text to YAML 1.1 is neither read as that nor as text."""
    assert {"k": Ambiguous(text, meaning)} == parse_yaml(f"k: {text}\n").value


@pytest.mark.parametrize("text", ["'no'", '"014"', "!!str 1:30", "! 2024-01-01", "|-\n  on"])
def test_quoted_is_text(text: str) -> None:
    """Quotes, a block scalar or the tag of strings make a text of anything."""
    value = parse_yaml(f"k: {text}\n").value
    assert isinstance(value, dict)
    assert isinstance(value["k"], str)


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ("f.yaml:3: b.x: stands here a second time, first in line 2; keep one of them", "b:\n  x: 1\n  x: 2\n"),
        ("f.yaml:1: b: stands here a second time, first in line 1; keep one of them", "{b: 1, b: 2}\n"),
        ("f.yaml:2: b: has no value; give it one, or remove the key", "a: 1\nb:\n"),
        ("f.yaml:1: b[1]: has no value; give it one, or remove the key", "b: [1, ~]\n"),
        ("f.yaml:1: has a key that is a list or a mapping; a key is a plain word", "? [a]\n: 1\n"),
        ("f.yaml:1: b: has a YAML tag (!); remove it", "b: !!python/name:os.system x\n"),
        ("f.yaml:1: b: has a YAML tag (!); remove it", "b: !x {c: 1}\n"),
        ("f.yaml:2: b: merges (<<) something that is not a mapping", "b:\n  <<: 5\n"),
        ("f.yaml:2: a second YAML document begins here; only one is taken", "a: 1\n---\nb: 1\n"),
        ("f.yaml:1: an alias (*) without an anchor (&) that is complete before it", "a: *b\n"),
        ("f.yaml:1: an alias (*) without an anchor (&) that is complete before it", "a: &b [*b]\n"),
        (f"f.yaml:1: nested deeper than {MAX_DEPTH} levels", "[" * 40),
        (f"f.yaml:1: nested deeper than {MAX_DEPTH} levels", "[" * 500_000),
        ("f.yaml: is empty; at least a list `deployments` is wanted", ""),
        ("f.yaml: is empty; at least a list `deployments` is wanted", "# nothing\n---\n"),
        ("f.yaml:2: not valid YAML: a control character; remove it", "a: 1\nb: \x01\n"),
        ("f.yaml:1: not valid YAML: found character that cannot start any token", "a: @b\n"),
        ("f.yaml:1: not valid YAML: mapping values are not allowed in this context", "a: b: c\n"),
        ("f.yaml:2: not valid YAML: found character that cannot start any token", "a:\n\tb: 1\n"),
        (
            "f.yaml:4: not valid YAML: found unexpected end of stream, "
            "while scanning a quoted scalar that begins in line 1",
            "a: 'b\n\n\n",
        ),
        (
            "f.yaml:2: not valid YAML: did not find expected ',' or ']', "
            "while parsing a flow sequence that begins in line 1",
            "a: [1\n",
        ),
    ],
)
def test_problems_have_their_line(message: str, text: str) -> None:
    """Each problem of the form is told with its line, and once."""
    assert [message] == _problems(text)


def test_aliases_and_merges() -> None:
    """Aliases repeat a value; `<<` merges a mapping, and a key that is written wins."""
    tree = parse_yaml("a: &x {p: 1, q: 2}\nb: *x\nc:\n  <<: *x\n  q: 3\nd:\n  <<: [*x, {r: 4, q: 5}]\n")
    expected = {"a": {"p": 1, "q": 2}, "b": {"p": 1, "q": 2}, "c": {"q": 3, "p": 1}, "d": {"p": 1, "q": 2, "r": 4}}
    assert expected == tree.value
    assert 1 == tree.lines[("c", "p")]


@pytest.mark.parametrize("form", ["[{}]", "{{b: {}}}", "{{<<: {}}}"])
def test_aliases_nested_beyond_the_depth_are_refused(form: str) -> None:
    """Depth that only aliases or merges make is bounded, too."""
    lines = ["a0: &a0 {x: y}"] + [f"a{n}: &a{n} {form.format(f'*a{n - 1}')}" for n in range(1, 5000)]
    problems = _problems("\n".join(lines))
    assert 1 == len(problems)
    assert problems[0].endswith(f"nested deeper than {MAX_DEPTH} levels")


@pytest.mark.parametrize(
    "text",
    [
        "\n".join(
            ["a0: &a0 [x,x,x,x,x,x,x,x,x,x]"] + [f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
        ),
        "\n".join(["a0: &a0 {b: 1}"] + [f"a{n}: &a{n} {{<<: [*a{n - 1}, *a{n - 1}]}}" for n in range(1, 24)]),
    ],
    ids=["laughs", "merges"],
)
def test_aliases_cannot_make_a_small_file_large(text: str) -> None:
    """A file whose aliases multiply is refused instead of being written out."""
    problems = _problems(text)
    assert 1 == len(problems)
    assert problems[0].endswith(f"holds more than {MAX_VALUES} values, with its aliases written out")


def test_what_is_wrong_is_left_out_of_the_value() -> None:
    """The rest of the tree stands, and the paths of the holes are known."""
    tree = parse_yaml("a: 1\nb:\nc: [1, ~]\n")
    assert {"a": 1, "c": [1, None]} == tree.value
    assert {("b",), ("c", 1)} == tree.broken


@given(
    st.text() | st.text(alphabet="ab01:-[]{}&*!<?|>'\"#%@`,. \n\t~\\x") | st.binary().map(lambda b: b.decode("latin-1"))
)
def test_any_text_gives_a_tree(text: str) -> None:
    """No text makes the reader fail; without a value there is a problem."""
    tree = parse_yaml(text.encode("utf-8", "replace").decode())
    assert isinstance(tree, Tree)
    assert tree.value is not None or tree.problems
