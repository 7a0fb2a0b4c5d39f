"""Read PromQL as a tree, and say what in it does not exist in this exporter.

In: an expression of a rule, a board or a template. Out: its selectors, or sentences about metrics,
labels and label values that no family and no closed set knows.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import promql_parser
from promql_parser import (
    AggregateExpr,
    BinaryExpr,
    Call,
    Expr,
    MatchOp,
    MatrixSelector,
    NumberLiteral,
    ParenExpr,
    StringLiteral,
    SubqueryExpr,
    UnaryExpr,
    VectorSelector,
)

from exporter.errors import Phase, Reason
from exporter.health.codes import CODES
from exporter.health.model import OffReason, Section, Severity, Witness
from exporter.health.provisioner_daemons import DaemonStatus
from exporter.health.root_cause import Layer
from exporter.health.workspace_proxy import ProxyStatus
from exporter.metrics.families import FAMILIES

# what Prometheus itself adds
_SCRAPED = frozenset({"job", "instance"})
_OF_PROMETHEUS: Mapping[str, frozenset[str]] = {"up": _SCRAPED}

CLOSED_SETS: Mapping[str, frozenset[str]] = {
    "section": frozenset(Section),
    "code": frozenset(code.value for codes in CODES.values() for code in codes),
    "witness": frozenset(Witness),
    "layer": frozenset(Layer),
    "severity": frozenset(severity.label for severity in Severity),
    "reason": frozenset(Reason) | frozenset(OffReason) | {""},
    "phase": frozenset(Phase),
    "family": frozenset({"ipv4", "ipv6"}),
    "position": frozenset({"leaf", "chain"}),
    "status": frozenset(ProxyStatus) | frozenset(DaemonStatus),
}

_DURATIONS = re.compile(r"\$(?:__rate_interval|__interval|__range|\{__rate_interval\}|\{__interval\}|\{__range\})")


@dataclass(frozen=True, slots=True)
class Selector:
    """A metric that is asked for. `calls`: the functions around it, outermost first."""

    metric: str
    matchers: tuple[tuple[str, MatchOp, str], ...]
    calls: tuple[str, ...]
    ranged: bool


def series_labels() -> dict[str, frozenset[str]]:
    """Return every series name that can be asked for, with its labels."""
    known = dict(_OF_PROMETHEUS)
    for family in FAMILIES:
        labels = frozenset(family.labels) | _SCRAPED
        if family.kind == "histogram":
            known[f"{family.name}_bucket"] = labels | {"le"}
            known[f"{family.name}_sum"] = labels
            known[f"{family.name}_count"] = labels
        else:
            known[family.name] = labels
    return known


def parse(expression: str) -> Expr:
    """Parse an expression in which Grafana's durations may still stand."""
    return promql_parser.parse(_DURATIONS.sub("5m", expression))


def selectors(tree: Expr, calls: tuple[str, ...] = ()) -> Iterator[Selector]:
    """Yield every selector of an expression."""
    if isinstance(tree, VectorSelector):
        yield _selector(tree, calls, ranged=False)
    elif isinstance(tree, MatrixSelector):
        yield _selector(tree.vector_selector, calls, ranged=True)
    elif isinstance(tree, Call):
        for argument in tree.args:
            yield from selectors(argument, (*calls, tree.func.name))
    else:
        for child in _children(tree):
            yield from selectors(child, calls)


def problems(expression: str) -> list[str]:
    """Return what an expression asks for that does not exist."""
    tree = parse(expression)
    found: list[str] = []
    known = series_labels()
    for selector in selectors(tree):
        labels = known.get(selector.metric)
        if labels is None:
            found.append(f"no family is called {selector.metric!r}")
            continue
        for label, operator, value in selector.matchers:
            if label not in labels:
                found.append(f"{selector.metric} has no label {label!r}")
            elif "$" not in value:
                found += [
                    f"{label} is never {one!r}"
                    for one in ([value] if operator in (MatchOp.Equal, MatchOp.NotEqual) else value.split("|"))
                    if label in CLOSED_SETS and one not in CLOSED_SETS[label]
                ]
    found += _grouping_problems(tree, known)
    return found


def dropped_labels(tree: Expr) -> set[str]:
    """Return those of `job` and `instance` that an aggregation in the expression takes away."""
    lost: set[str] = set()
    if isinstance(tree, AggregateExpr):
        modifier = tree.modifier
        named = set(modifier.labels) if modifier is not None else set()
        by = modifier is None or str(modifier.type).endswith("By")
        lost |= (_SCRAPED - named) if by else (_SCRAPED & named)
    for child in _children(tree):
        lost |= dropped_labels(child)
    return lost


def _selector(tree: VectorSelector, calls: tuple[str, ...], *, ranged: bool) -> Selector:
    matchers = tuple((matcher.name, matcher.op, matcher.value) for matcher in tree.matchers.matchers)
    return Selector(tree.name or "", matchers, calls, ranged)


def _children(tree: Expr) -> list[Expr]:
    if isinstance(tree, BinaryExpr):
        return [tree.lhs, tree.rhs]
    if isinstance(tree, AggregateExpr):
        return [tree.expr] + ([tree.param] if tree.param is not None else [])
    if isinstance(tree, Call):
        return list(tree.args)
    if isinstance(tree, (ParenExpr, UnaryExpr, SubqueryExpr)):
        return [tree.expr]
    assert isinstance(tree, (VectorSelector, MatrixSelector, NumberLiteral, StringLiteral)), type(tree)
    return []


def _grouping_problems(tree: Expr, known: Mapping[str, frozenset[str]]) -> list[str]:
    """Labels of by, without, on and group_left must be labels of something below them."""
    below = set(_made_labels(tree))
    for selector in selectors(tree):
        below |= known.get(selector.metric, frozenset())
    found = [f"nothing below has the label {label!r}" for label in _grouping_labels(tree) if label not in below]
    for child in _children(tree):
        found += _grouping_problems(child, known)
    return found


def _grouping_labels(tree: Expr) -> list[str]:
    if isinstance(tree, AggregateExpr) and tree.modifier is not None:
        return list(tree.modifier.labels)
    if isinstance(tree, BinaryExpr) and tree.modifier is not None:
        matching = tree.modifier.matching
        return list(tree.modifier.group_labels or ()) + (list(matching.labels) if matching is not None else [])
    return []


def _made_labels(tree: Expr) -> Iterator[str]:
    if isinstance(tree, Call) and tree.func.name in ("label_replace", "label_join"):
        target = tree.args[1]
        assert isinstance(target, StringLiteral)
        yield target.val
    for child in _children(tree):
        yield from _made_labels(child)
