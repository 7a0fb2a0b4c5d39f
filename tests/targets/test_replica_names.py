"""What replicas are called: no two alike, in whatever order they come."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.targets.replica_names import MAX_NAME_CHARACTERS, Place, find_place, name_replicas
from exporter.wire.url import Origin


def _at(host: str, port: int = 8080) -> Place:
    return Place(host=host, port=port)


@pytest.mark.parametrize(
    ("expected", "wanted"),
    [
        ({_at("10.0.0.1"): "coderd-0"}, {_at("10.0.0.1"): "coderd-0"}),
        # without a name: where it is
        ({_at("10.0.0.1"): "10.0.0.1:8080"}, {_at("10.0.0.1"): ""}),
        ({_at("fd00::1"): "[fd00::1]:8080"}, {_at("fd00::1"): " "}),
        # one host, several processes
        (
            {_at("127.0.0.1", 3001): "vm:3001", _at("127.0.0.1", 3002): "vm:3002"},
            {_at("127.0.0.1", 3001): "vm", _at("127.0.0.1", 3002): "vm"},
        ),
        # the port does not tell those of one port apart, and leaves the third its short name
        (
            {_at("a"): "vm@a:8080", _at("b"): "vm@b:8080", _at("c", 9090): "vm:9090"},
            {_at("a"): "vm", _at("b"): "vm", _at("c", 9090): "vm"},
        ),
        # a name that another one would get
        (
            {_at("a", 1): "vm@a:1", _at("b", 2): "vm:2", _at("c", 3): "vm:1:3"},
            {_at("a", 1): "vm", _at("b", 2): "vm", _at("c", 3): "vm:1"},
        ),
        ({_at("a"): "a?b"}, {_at("a"): "a\nb"}),
        ({_at("a"): "x" * 64}, {_at("a"): "x" * 65}),
        (
            {_at("a"): f"{'x' * 57}@a:8080", _at("b"): f"{'x' * 57}@b:8080"},
            {_at("a"): "x" * 64, _at("b"): "x" * 65},
        ),
    ],
)
def test_names(expected: dict[Place, str], wanted: dict[Place, str]) -> None:
    """The wanted name, else host and port; what is alike is told apart by port, else by address."""
    assert expected == name_replicas(wanted)


@pytest.mark.parametrize(
    ("expected", "host"),
    [
        ("coder.example.com", "Coder.example.com."),
        ("10.0.0.1", "::ffff:10.0.0.1"),
        ("fd00::1", "fd00:0::1"),
    ],
)
def test_a_place_has_one_form(expected: str, host: str) -> None:
    """However it is written."""
    assert _at(expected, 80) == find_place(Origin(scheme="http", host=host, port=80))


_HOSTS = st.sampled_from(["a", "b", "10.0.0.1", "fd00::1", "vm", "x" * 70, "x" * 71])
_NAMES = st.sampled_from(["", "vm", "vm:1", "vm:2", "vm@a:1", "a:1", "x" * 64, "x" * 70, "\n", "é"])
_WANTED = st.dictionaries(st.builds(_at, _HOSTS, st.integers(1, 3)), _NAMES, max_size=12)


@given(_WANTED, st.randoms())
def test_no_two_are_alike_whatever_their_order(wanted: dict[Place, str], random: object) -> None:
    """Each has a name of its own, of bounded length, that depends on who is there and not on who was
    first."""
    names = name_replicas(wanted)
    assert wanted.keys() == names.keys()
    assert len(wanted) == len(set(names.values()))
    assert all(0 < len(name) <= MAX_NAME_CHARACTERS and name.isprintable() for name in names.values())
    items = list(wanted.items())
    random.shuffle(items)  # type: ignore[attr-defined]
    assert names == name_replicas(dict(items))


def test_who_leaves_takes_nobodys_name() -> None:
    """Who stays is called as it would be alone; those that leave are told apart as always."""
    here, old, older = (Place(host=f"10.0.0.{number}", port=8080) for number in (3, 1, 2))
    wanted = dict.fromkeys((here, old, older), "coder-0")
    names = name_replicas(wanted, leaving={old, older})
    assert "coder-0" == names[here]
    assert 3 == len(set(names.values()))
    assert {old: "coder-0"} == name_replicas({old: "coder-0"}, leaving={old})
