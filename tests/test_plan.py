"""The plan that shares the queues among managers of senders."""

from __future__ import annotations

import random
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from rudderpipe.queue.members import Member, Profile
from rudderpipe.sender.plan import plan

QUEUES = [f"rudder-{number}" for number in range(12)]


def member(name: str, weight: int = 1, without: tuple[str, ...] = (), member_ms: int = 0) -> Member:
    """Return a manager with this name."""
    return Member(name, member_ms, Profile(weight, "host", 7, without))


NAMES = st.text("0123456789abcdef", min_size=16, max_size=16)
MEMBERS = st.lists(
    st.builds(
        member,
        NAMES,
        st.integers(1, 64),
        st.lists(st.sampled_from(QUEUES), max_size=3).map(tuple),
        st.integers(0, 100),
    ),
    min_size=1,
    max_size=8,
    unique_by=lambda each: each.name,
)
SOME_QUEUES = st.lists(st.sampled_from(QUEUES), unique=True)


@given(SOME_QUEUES, MEMBERS)
def test_each_queue_has_one_manager(queues: list[str], members: list[Member]) -> None:
    """Otherwise its jobs would wait forever."""
    for found in plan(queues, members):
        assert set(found) == set(queues)
        assert set(found.values()) <= {each.name for each in members}


@given(SOME_QUEUES, MEMBERS)
def test_a_manager_gets_at_most_its_share(queues: list[str], members: list[Member]) -> None:
    """Its weight is the number of its cores."""
    total = sum(each.profile.weight for each in members)

    load = Counter(plan(queues, members).first.values())

    assert all(load[each.name] < len(queues) * each.profile.weight / total + 1 for each in members)


@given(SOME_QUEUES, MEMBERS, st.randoms(use_true_random=False))
def test_all_managers_compute_the_same(queues: list[str], members: list[Member], rng: random.Random) -> None:
    """Redis returns the list in any order, and ages differ with the moment of the answer."""
    others = [member(each.name, each.profile.weight, each.profile.without) for each in members]
    mixed = queues[:]
    rng.shuffle(others)
    rng.shuffle(mixed)

    assert plan(mixed, others) == plan(queues, members)


@given(SOME_QUEUES, MEMBERS)
def test_a_queue_goes_to_a_manager_that_can_work_on_it(queues: list[str], members: list[Member]) -> None:
    """No other queue moves for that. If no manager can, the first choice tries again."""
    found, without = plan(queues, members), {each.name: each.profile.without for each in members}

    assert found.first == plan(queues, [member(each.name, each.profile.weight) for each in members]).first
    for queue, name in found.working.items():
        can = [each for each in members if queue not in each.profile.without]
        assert queue not in without[name] or not can
        assert name == found.first[queue] or (queue in without[found.first[queue]] and can)


def test_a_manager_that_comes_or_goes_moves_about_its_share() -> None:
    """Each moved queue costs a pause. Here 64 queues are shared by 8 managers and by a ninth."""
    rng, moved = random.Random(7), Counter[str]()
    queues = [f"rudder-{number}" for number in range(64)]
    for _ in range(20):
        eight = [member(f"{rng.getrandbits(64):016x}") for _ in range(8)]
        ninth = member(f"{rng.getrandbits(64):016x}")
        before, after = plan(queues, eight).first, plan(queues, [*eight, ninth]).first
        moved["all"] += sum(before[queue] != after[queue] for queue in queues)
        moved["to the ninth"] += list(after.values()).count(ninth.name)

    assert moved["to the ninth"] / 20 >= 64 // 9 - 1
    assert moved["all"] <= 2 * moved["to the ninth"]


def test_queues_of_a_new_generation_move_few_others() -> None:
    """A queue is known by its name, which is never used twice, and not by a number."""
    rng = random.Random(7)
    members = [member(f"{rng.getrandbits(64):016x}") for _ in range(4)]
    old = [f"rudder-{number}" for number in range(16)]

    before = plan(old, members).first
    after = plan([*old, *(f"rudder-2-{number}" for number in range(16))], members).first

    assert sum(before[queue] != after[queue] for queue in old) <= 8
    assert plan((), members) == plan(old, []) == ({}, {})
