"""The judgement of address mappings, as tables."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.health.nat import Mapping, judge_mapping

Reply = tuple[str, str, int]

D1, D2, D3 = "198.51.100.1", "198.51.100.2", "198.51.100.3"
E = ("203.0.113.7", 40001)
F = ("203.0.113.7", 40002)  # another port is another mapping
G = ("203.0.113.8", 40001)  # and so is another address


def told(*pairs: tuple[str, tuple[str, int]]) -> list[Reply]:
    return [(destination, *mapped) for destination, mapped in pairs]


@pytest.mark.parametrize(
    ("replies", "varies", "unstable"),
    [
        # derp-stun, section 9.5
        (told((D1, E)), None, False),
        (told((D1, E), (D1, E)), None, False),
        (told((D1, E), (D2, E)), False, False),
        (told((D1, E), (D2, F)), True, False),
        (told((D1, E), (D2, F), (D3, E)), True, False),
        (told((D1, E), (D1, F)), None, True),
        # beyond it
        ([], None, False),
        (told((D1, E), (D2, G)), True, False),
        (told((D1, E), (D2, E), (D3, E)), False, False),
        (told((D1, E), (D1, F), (D2, E)), None, True),
        (told((D1, E), (D1, F), (D2, F), (D2, E)), False, True),
        (told((D1, E), (D1, F), (D2, G)), True, True),
        (told((D1, E), (D1, F), (D2, E), (D3, G)), True, True),
    ],
)
def test_mappings_by_destination(replies: list[Reply], varies: bool | None, unstable: bool) -> None:
    """Destinations are compared with each other; what changes at one destination is told apart."""
    assert Mapping(varies=varies, unstable=unstable) == judge_mapping(replies)


@pytest.mark.parametrize(
    "other",
    [
        ("2001:db8::1", "2001:db8::7", 40009),
        ("2001:db8::1", "203.0.113.7", 40009),
        (D2, "2001:db8::7", 40009),
    ],
)
def test_ipv6_never_counts(other: Reply) -> None:
    """A reply over IPv6, or one that tells an IPv6 address, is no destination and no mapping."""
    assert Mapping(varies=None, unstable=False) == judge_mapping([*told((D1, E)), other])


def test_ipv4_in_its_ipv6_form_is_ipv4() -> None:
    """A server bound to all addresses tells `::ffff:...`, which is the same mapping."""
    replies = [(D1, *E), (f"::ffff:{D2}", f"::ffff:{E[0]}", E[1])]
    assert Mapping(varies=False, unstable=False) == judge_mapping(replies)


_REPLIES = st.lists(
    st.tuples(st.sampled_from([D1, D2, D3]), st.sampled_from([E[0], G[0]]), st.integers(40001, 40002)), max_size=8
)


@given(_REPLIES, st.randoms())
def test_order_and_repetition_change_nothing(replies: list[Reply], order: random.Random) -> None:
    """The verdict depends on what was seen where, neither on when nor on how often."""
    shuffled = replies * 2
    order.shuffle(shuffled)
    assert judge_mapping(replies) == judge_mapping(shuffled)


@given(_REPLIES)
def test_what_is_needed_for_a_verdict(replies: list[Reply]) -> None:
    """Nothing is said of less than two destinations, and one that is seen alike by all never varies."""
    judged = judge_mapping(replies)
    if len({destination for destination, *_ in replies}) < 2:
        assert judged.varies is None
    if len({tuple(mapped) for _, *mapped in replies}) < 2:
        assert not judged.varies
        assert not judged.unstable
