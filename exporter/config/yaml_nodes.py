"""YAML, strictly: text in, plain values with their lines out.

PyYAML follows YAML 1.1, where `no` is false, `014` is 12 and `1:30` is 90, and takes doubled keys.
So only its event stream is used here, and scalars are read by the narrow rules that YAML 1.1 and
1.2 share; what they read differently becomes `Ambiguous`, which no key accepts, save one that wants
a date. Events also carry no recursion: depth and the growth by aliases are bounded here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml
from yaml.resolver import Resolver

from exporter.config.problems import KeyPath, Problem

MAX_DEPTH = 32
# What a file of the largest size may grow to by aliases ("billion laughs").
MAX_VALUES = 200_000

_LOADER: type[Any] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_RESOLVER = Resolver()
_PLAIN_INTEGER = re.compile(r"-?(?:0|[1-9][0-9]{0,17})")
_TAG = "tag:yaml.org,2002:"
_QUOTED = re.compile(r"'([^']*)'")


@dataclass(frozen=True, slots=True)
class Ambiguous:
    """A scalar without quotes that is not text to YAML 1.1. `meaning` is what it is instead."""

    text: str
    meaning: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Tree:
    """Mappings as dict, sequences as list, scalars as str, int, bool or Ambiguous.

    `value` is None when the text is no YAML. `lines` has the line of each key and item, from 1.
    `broken`: paths that are in the text but not in `value`, since something is wrong with them.
    """

    value: object
    lines: dict[KeyPath, int] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    broken: set[KeyPath] = field(default_factory=set)


def parse_yaml(text: str) -> Tree:
    """Return the values of one YAML document; what is wrong stands in `problems`."""
    try:
        root = _compose(text)
    except yaml.MarkedYAMLError as error:
        problem = _syntax_problem(error)
    except yaml.YAMLError as error:
        line = text.encode()[: getattr(error, "position", 0)].count(b"\n") + 1
        problem = Problem(line=line, text="not valid YAML: a control character; remove it")
    except _Refused as error:
        problem = error.problem
    else:
        return _Builder().build_tree(root)
    return Tree(value=None, problems=[problem])


class _Refused(Exception):
    def __init__(self, line: int, text: str) -> None:
        super().__init__(text)
        self.problem = Problem(line=line, text=text)


@dataclass(slots=True)
class _Scalar:
    text: str
    line: int
    plain: bool
    tag: str | None


@dataclass(slots=True)
class _Collection:
    """A mapping (children: key, value, key, value, ...) or a sequence."""

    mapping: bool
    line: int
    tag: str | None
    anchor: str | None
    children: list[_Scalar | _Collection] = field(default_factory=list)


_Node = _Scalar | _Collection


def _syntax_problem(error: yaml.MarkedYAMLError) -> Problem:
    # The text of the error would quote the line, and with it perhaps a secret.
    mark = error.problem_mark or error.context_mark
    problem = _QUOTED.sub(_hide_quoted, error.problem or "not understood")
    begin = error.context_mark
    if mark is not None and begin is not None and begin.line != mark.line:
        problem += f", {error.context} that begins in line {begin.line + 1}"
    return Problem(line=mark.line + 1 if mark is not None else None, text=f"not valid YAML: {problem}")


def _hide_quoted(match: re.Match[str]) -> str:
    return match[0] if len(match[1]) <= 1 else "something"


def _compose(text: str) -> _Node | None:
    root: _Node | None = None
    documents = 0
    open_nodes: list[_Collection] = []
    anchors: dict[str, _Node] = {}
    for event in yaml.parse(text, Loader=_LOADER):
        line = event.start_mark.line + 1 if event.start_mark is not None else 1
        node: _Node
        if isinstance(event, yaml.DocumentStartEvent):
            documents += 1
            if documents > 1:
                raise _Refused(line, "a second YAML document begins here; only one is taken")
            continue
        if isinstance(event, (yaml.MappingStartEvent, yaml.SequenceStartEvent)):
            mapping = isinstance(event, yaml.MappingStartEvent)
            open_nodes.append(_Collection(mapping=mapping, line=line, tag=event.tag, anchor=event.anchor))
            if len(open_nodes) > MAX_DEPTH:
                raise _Refused(line, f"nested deeper than {MAX_DEPTH} levels")
            continue
        if isinstance(event, yaml.ScalarEvent):
            node = _Scalar(text=event.value, line=line, plain=event.implicit[0] and event.tag is None, tag=event.tag)
            if event.anchor is not None:
                anchors[event.anchor] = node
        elif isinstance(event, yaml.AliasEvent):
            known = anchors.get(str(event.anchor))
            if known is None:
                raise _Refused(line, "an alias (*) without an anchor (&) that is complete before it")
            node = known
        elif isinstance(event, (yaml.MappingEndEvent, yaml.SequenceEndEvent)):
            node = open_nodes.pop()
            if node.anchor is not None:
                anchors[node.anchor] = node
        else:
            continue
        if open_nodes:
            open_nodes[-1].children.append(node)
        else:
            root = node
    return root


class _Builder:
    def __init__(self) -> None:
        self._tree = Tree(value=None)
        self._values = 0

    def build_tree(self, root: _Node | None) -> Tree:
        if root is None or (isinstance(root, _Scalar) and _is_null(root)):
            return Tree(value=None, problems=[Problem(text="is empty; at least a list `deployments` is wanted")])
        tree = self._tree
        try:
            value = self._build(root, ())
        except _Refused as error:
            return Tree(value=None, problems=[error.problem])
        return Tree(value=value, lines=tree.lines, problems=tree.problems, broken=tree.broken)

    def _build(self, node: _Node, path: KeyPath) -> object:
        self._count(node)
        if len(path) > MAX_DEPTH:
            raise _Refused(node.line, f"nested deeper than {MAX_DEPTH} levels")
        if node.tag not in (None, "!", f"{_TAG}str", f"{_TAG}map", f"{_TAG}seq"):
            self._refuse(path, node.line, "has a YAML tag (!); remove it")
            return None
        if isinstance(node, _Scalar):
            if _is_null(node):
                self._refuse(path, node.line, "has no value; give it one, or remove the key")
                return None
            return _read_plain(node.text) if node.plain else node.text
        if not node.mapping:
            return self._build_sequence(node, path)
        return self._build_mapping(node, path)

    def _count(self, node: _Node) -> None:
        self._values += 1
        if self._values > MAX_VALUES:
            raise _Refused(node.line, f"holds more than {MAX_VALUES} values, with its aliases written out")

    def _build_sequence(self, node: _Collection, path: KeyPath) -> list[object]:
        for index, child in enumerate(node.children):
            self._tree.lines.setdefault((*path, index), child.line)
        return [self._build(child, (*path, index)) for index, child in enumerate(node.children)]

    def _build_mapping(self, node: _Collection, path: KeyPath) -> dict[str, object]:
        values: dict[str, object] = {}
        first_lines: dict[str, int] = {}
        for key, child in self._own_entries(node, path):
            if key.text in first_lines:
                text = f"stands here a second time, first in line {first_lines[key.text]}; keep one of them"
                self._tree.problems.append(Problem(path=(*path, key.text), line=key.line, text=text))
                continue
            first_lines[key.text] = key.line
            self._add(values, (*path, key.text), key.line, child)
        for key, child in self._merged_entries(node, path):
            if key.text not in first_lines:
                first_lines[key.text] = key.line
                self._add(values, (*path, key.text), key.line, child)
        return values

    def _add(self, values: dict[str, object], path: KeyPath, line: int, child: _Node) -> None:
        self._tree.lines[path] = line
        value = self._build(child, path)
        if path not in self._tree.broken:
            values[str(path[-1])] = value

    def _own_entries(self, node: _Collection, path: KeyPath) -> Iterator[tuple[_Scalar, _Node]]:
        for key, child in _pairs(node):
            if isinstance(key, _Collection):
                text = "has a key that is a list or a mapping; a key is a plain word"
                self._tree.problems.append(Problem(path=path, line=key.line, text=text))
            elif not _is_merge(key):
                yield key, child

    def _merged_entries(self, node: _Collection, path: KeyPath, depth: int = 1) -> Iterator[tuple[_Scalar, _Node]]:
        if len(path) + depth > MAX_DEPTH:
            raise _Refused(node.line, f"nested deeper than {MAX_DEPTH} levels")
        for key, child in _pairs(node):
            if not (isinstance(key, _Scalar) and _is_merge(key)):
                continue
            sources = child.children if isinstance(child, _Collection) and not child.mapping else [child]
            for source in sources:
                self._count(source)
                if isinstance(source, _Collection) and source.mapping:
                    yield from self._own_entries(source, path)
                    yield from self._merged_entries(source, path, depth + 1)
                else:
                    text = "merges (<<) something that is not a mapping"
                    self._tree.problems.append(Problem(path=path, line=key.line, text=text))

    def _refuse(self, path: KeyPath, line: int, text: str) -> None:
        self._tree.broken.add(path)
        self._tree.problems.append(Problem(path=path, line=self._tree.lines.get(path, line), text=text))


def _pairs(node: _Collection) -> Iterator[tuple[_Node, _Node]]:
    yield from zip(node.children[::2], node.children[1::2], strict=True)


def _is_merge(key: _Scalar) -> bool:
    return key.plain and key.text == "<<"


def _is_null(node: _Scalar) -> bool:
    return node.plain and node.text in ("", "~", "null", "Null", "NULL")


def _read_plain(text: str) -> object:
    kind = _RESOLVER.resolve(yaml.ScalarNode, text, (True, False)).removeprefix(_TAG)  # type: ignore[no-untyped-call]
    if kind == "bool":
        if text.lower() in ("true", "false"):
            return text.lower() == "true"
        return Ambiguous(text, "true" if text.lower() in ("yes", "on") else "false")
    if kind == "int":
        return int(text) if _PLAIN_INTEGER.fullmatch(text) else Ambiguous(text, _number_meaning(text))
    if kind == "float":
        return Ambiguous(text, "a number")
    if kind == "timestamp":
        return Ambiguous(text, "a date")
    return text


def _number_meaning(text: str) -> str:
    """Say which number YAML 1.1 makes of `014`, `0x10`, `1_000` or `1:30`."""
    if len(text) > 12:
        return "a number"
    node = yaml.ScalarNode(f"{_TAG}int", text)
    try:
        return f"the number {yaml.SafeLoader('').construct_yaml_int(node)}"
    except ValueError:
        return "a number"
