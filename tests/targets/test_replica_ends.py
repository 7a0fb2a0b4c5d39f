"""How replicas ended, by rows that are written as coderd writes them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from exporter.health.replica import ListedReplica
from exporter.targets.replica_ends import ALIVE_SECONDS, MISSED_SECONDS, Ends, find_ends

NOW = 100_000.0
DAY = 86_400.0


def row(
    name: str, host: str, *, began: float = DAY, silent: float = 0.0, stopped: bool = False, primary: bool = True
) -> ListedReplica:
    """A row of so many seconds ago: `began`, and `silent` since its last beat."""
    return ListedReplica(
        id=f"{name}@{host}-{began:g}",
        hostname=name,
        relay_address=f"http://{host}:8080",
        primary=primary and not stopped,
        running=not stopped and silent <= 15,
        stopped=stopped,
        created_timestamp_seconds=NOW - began,
        updated_timestamp_seconds=NOW - silent,
        silent_seconds=silent,
    )


def crashed(*rows: ListedReplica) -> list[str]:
    return sorted(one.partition("@")[0] for one in find_ends(rows).crashed)


ALIVE = row("alive", "10.0.0.1")


def test_a_row_that_nobody_writes_any_more_is_a_crash() -> None:
    """Until it is too old to matter; and not while a late beat may come."""
    assert ["dead"] == crashed(ALIVE, row("dead", "10.0.0.2", silent=16))
    assert ["dead"] == crashed(ALIVE, row("dead", "10.0.0.2", silent=MISSED_SECONDS))
    assert [] == crashed(ALIVE, row("dead", "10.0.0.2", silent=MISSED_SECONDS + 1))
    assert [] == crashed(ALIVE, row("late", "10.0.0.2", silent=14))


def test_who_was_stopped_is_not_missed() -> None:
    """It said so, and is no primary any more."""
    assert [] == crashed(ALIVE, row("stopped", "10.0.0.2", silent=20, stopped=True))


def test_workspace_proxies_are_not_missed() -> None:
    """They are not polled as replicas."""
    assert [] == crashed(ALIVE, row("proxy", "10.0.0.2", silent=60, primary=False))


def test_a_replica_that_is_begun_anew_elsewhere() -> None:
    """A pod that keeps its name and gets another address is one replica, however short its old one is silent."""
    old, new = row("coder-1", "10.0.0.2", silent=ALIVE_SECONDS + 1), row("coder-1", "10.0.0.3", began=4)
    assert Ends(crashed=frozenset(), succeeded=frozenset({old.id})) == find_ends([ALIVE, old, new])
    old = row("coder-1", "10.0.0.2", silent=60)
    assert Ends(crashed=frozenset(), succeeded=frozenset({old.id})) == find_ends([ALIVE, old, new])
    # and when that one crashes in its turn, it is that one
    new = row("coder-1", "10.0.0.3", began=50, silent=30)
    assert Ends(crashed=frozenset({new.id}), succeeded=frozenset({old.id})) == find_ends([ALIVE, old, new])


def test_two_of_one_host_are_two() -> None:
    """Who still writes its row is not succeeded by one of its name; nor is it by one that was there before, or
    that was only started again."""
    first, second = row("vm", "10.0.0.1", silent=2), row("vm", "10.0.0.2", began=4)
    assert Ends(crashed=frozenset(), succeeded=frozenset()) == find_ends([first, second])
    first = row("vm", "10.0.0.1", silent=60)
    second = row("vm", "10.0.0.2", began=600)
    assert Ends(crashed=frozenset({first.id}), succeeded=frozenset()) == find_ends([first, second])
    again = row("vm", "10.0.0.2", began=30)
    before = row("vm", "10.0.0.2", began=DAY, silent=40, stopped=True)
    assert Ends(crashed=frozenset({first.id}), succeeded=frozenset()) == find_ends([first, before, again])


def test_a_process_that_is_started_again_replaces_nobody_else() -> None:
    """It takes its own place."""
    dead = row("dead", "10.0.0.2", silent=60)
    assert ["dead"] == crashed(
        dead, row("alive", "10.0.0.1", silent=100, stopped=True), row("alive", "10.0.0.1", began=50)
    )


def test_a_pod_that_another_one_replaced() -> None:
    """Also where the new one came before the old one was killed; one for one."""
    dead, more = row("a-1", "10.0.0.2", silent=60), row("a-2", "10.0.0.3", silent=70)
    after, before = row("b-1", "10.0.0.4", began=20), row("b-2", "10.0.0.5", began=150)
    assert [] == crashed(ALIVE, dead, after)
    assert [] == crashed(ALIVE, dead, before)
    assert 1 == len(crashed(ALIVE, dead, more, after))
    assert [] == crashed(ALIVE, dead, more, after, before)


def test_a_roll_out_in_good_order_hides_no_crash() -> None:
    """The new ones replaced those that were stopped."""
    stopped = [row(f"a-{i}", f"10.0.1.{i}", silent=150 - 30 * i, stopped=True) for i in range(3)]
    came = [row(f"b-{i}", f"10.0.2.{i}", began=170 - 30 * i) for i in range(3)]
    dead = row("b-3", "10.0.2.3", began=300, silent=20)
    assert ["b-3"] == crashed(*stopped, *came, dead)


def test_rows_that_tell_no_times_tell_nothing() -> None:
    """As those of the API."""
    rows = [ListedReplica(id=name, hostname="vm", relay_address=f"http://{name}:1", running=False) for name in "ab"]
    assert Ends(crashed=frozenset(), succeeded=frozenset()) == find_ends(rows)
    assert [] == crashed(ALIVE, row("dead", "", silent=60))


@given(
    st.lists(
        st.builds(
            row,
            st.sampled_from(["vm", "pod-a", "pod-b", ""]),
            st.sampled_from(["10.0.0.1", "10.0.0.2", "10.0.0.3"]),
            began=st.floats(0, 2000),
            silent=st.floats(0, 2000),
            stopped=st.booleans(),
            primary=st.booleans(),
        ),
        max_size=8,
        unique_by=lambda one: one.id,
    ),
    st.randoms(),
)
def test_order_does_not_matter(rows: list[ListedReplica], random: object) -> None:
    """Nobody who runs or was stopped crashed, nobody is both, and the order of the rows says nothing."""
    ends = find_ends(rows)
    assert frozenset() == ends.crashed & ends.succeeded
    by_id = {one.id: one for one in rows}
    assert not [one for one in ends.crashed if by_id[one].running or by_id[one].stopped]
    random.shuffle(rows)  # type: ignore[attr-defined]
    assert ends == find_ends(rows)
