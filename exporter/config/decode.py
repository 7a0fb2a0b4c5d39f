"""From the tree to the document: everything that pydantic minds, as sentences with lines.

What is wrong is cut out of the tree and the rest decoded again, so that later checks see all that is
right, and every problem is told at once.
"""

from __future__ import annotations

import difflib
import types
from collections.abc import Mapping
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import ValidationError

from exporter.config.document import Document, Keys
from exporter.config.problems import KeyPath, Problem, format_key
from exporter.config.values import PROBLEM
from exporter.config.yaml_nodes import Ambiguous, Tree

MAX_DESCRIBED = 1000
_KINDS = {str: "a text", bool: "a boolean", int: "a number", list: "a list", dict: "a mapping", Ambiguous: "a scalar"}


def decode_document(tree: Tree) -> Document:
    """Return what can be decoded; what cannot is added to the problems and broken paths of the tree."""
    root = _without_holes(tree.value)
    if not isinstance(root, dict):
        if tree.value is not None:
            text = f"is {_KINDS.get(type(tree.value), 'a scalar')}; a mapping with the key `deployments` is wanted"
            tree.problems.append(Problem(line=1, text=text))
        tree.broken.add(())
        return Document()
    while True:
        try:
            return Document.model_validate(root)
        except ValidationError as error:
            details = error.errors(include_input=False, include_url=False, include_context=True)
        for detail in details:
            path: KeyPath = detail["loc"]
            if path not in tree.broken:
                # looking for near misses is not worth it in a file that is something else altogether
                unknown = "unknown key" if len(tree.problems) >= MAX_DESCRIBED else None
                text = _describe(detail["type"], detail.get("ctx", {}), path, root, unknown)
                tree.problems.append(Problem(path=path, line=find_line(tree.lines, path), text=text))
                tree.broken.add(path)
        for detail in reversed(details):
            _cut_out(root, detail["loc"])


def find_line(lines: Mapping[KeyPath, int], path: KeyPath) -> int | None:
    """Return the line of a path, or of the nearest thing around it that has one."""
    while path and path not in lines:
        path = path[:-1]
    return lines.get(path)


def keys_of(model: type[Keys]) -> dict[str, tuple[type[Keys] | None, bool]]:
    """Return the keys of a mapping as written in the file, each with the model of what is below it
    (None for a scalar) and whether that is a list."""
    return {field.alias or name: below(field.annotation) for name, field in model.model_fields.items()}


def below(annotation: Any) -> tuple[type[Keys] | None, bool]:
    """Return the model that a key's type leads to, if any, and whether through a list."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return below(get_args(annotation)[0])
    if origin in (types.UnionType, Union):
        return below(next(part for part in get_args(annotation) if part is not type(None)))
    if origin is list:
        return below(get_args(annotation)[0])[0], True
    if isinstance(annotation, type) and issubclass(annotation, Keys):
        return annotation, False
    return None, False


def _without_holes(value: object) -> object:
    """Copy the tree; an item of a list that is broken already becomes an empty mapping."""
    if isinstance(value, dict):
        return {key: _without_holes(child) for key, child in value.items()}
    if isinstance(value, list):
        return [{} if child is None else _without_holes(child) for child in value]
    return value


def _describe(kind: str, context: Mapping[str, Any], path: KeyPath, root: object, unknown: str | None) -> str:
    if kind == PROBLEM:
        return str(context["text"])
    if kind == "extra_forbidden":
        return unknown or _describe_unknown(path)
    found = _KINDS.get(type(_find(root, path)), "a scalar")
    return f"is {found}; a {'list' if kind == 'list_type' else 'mapping'} is wanted"


def _describe_unknown(path: KeyPath) -> str:
    key = str(path[-1])
    model: type[Keys] = Document
    for step in path[:-1]:
        if isinstance(step, str):
            model = keys_of(model)[step][0] or model
    if key in model.not_built:
        return "not built in this version yet; remove the key"
    known = list(keys_of(model))
    near = difflib.get_close_matches(key[:64].lower().replace("-", "_"), known, n=1, cutoff=0.7)
    if near:
        return f"unknown key; did you mean {near[0]}?"
    return f"unknown key; known here: {', '.join(format_key(name) for name in known)}"


def _find(value: object, path: KeyPath) -> object:
    for step in path:
        value = value[step]  # type: ignore[index]
    return value


def _cut_out(root: object, path: KeyPath) -> None:
    """Remove a value. In a list an empty mapping takes its place, so that what comes after keeps its
    number; where not even that can stand, in a list of texts, it goes. Later items are cut out first."""
    parent: Any = _find(root, path[:-1])
    if isinstance(parent, dict):
        parent.pop(path[-1], None)
    elif parent[path[-1]] == {}:
        del parent[path[-1]]
    else:
        parent[path[-1]] = {}
