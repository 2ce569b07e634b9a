"""What each queue must get of the events that the flusher has read."""

from __future__ import annotations

from collections import defaultdict

import msgspec
from hypothesis import example, given
from hypothesis import strategies as st
from msgspec import Raw

from rudderpipe.flusher import lanes
from rudderpipe.flusher.window import Window
from rudderpipe.ring.consumer import Batch, OffsetRange

USERS = st.lists(st.integers(0, 9), min_size=1, max_size=40)
TENURE = 5
"""Events of a tenure."""
OFFSETS = st.lists(st.dictionaries(st.integers(1, 3), st.integers(0, 20)), min_size=1, max_size=4)


def window_of(users: list[int], queues: int, size: int, former: list[list[dict[int, int]]]) -> Window:
    """Return a window with these users' events, in batches of ``size`` over several tenures."""
    window = Window(queues, former, {})
    events = [Raw(b'{"userId":"u%d","n":%d}' % (user, number)) for number, user in enumerate(users)]
    for start in range(0, len(events), size):
        part = events[start : start + size]
        ranges: list[OffsetRange] = []
        for number in range(start, start + len(part)):
            tenure, offset = number // TENURE + 1, number % TENURE
            if ranges and ranges[-1].sequence == tenure:
                ranges[-1] = OffsetRange(tenure, ranges[-1].start, offset + 1)
            else:
                ranges.append(OffsetRange(tenure, offset, offset + 1))
        window.add(Batch(b",".join(part), len(part), tuple(ranges)), part)
    return window


@example([0] * 8, 1, 2, [{}], [{2: 2}], 1, 1)  # a batch of two tenures, and more of the second one is known
@given(USERS, st.integers(1, 4), st.integers(1, 7), OFFSETS, OFFSETS, st.integers(1, 9), st.integers(1, 200))
def test_each_event_is_planned_for_one_queue_once(
    users: list[int],
    queues: int,
    size: int,
    past: list[dict[int, int]],
    known: list[dict[int, int]],
    at_once: int,
    max_bytes: int,
) -> None:
    """Except what an earlier generation has, and what the queue itself is known to have."""
    window = window_of(users, queues, size, [past])
    planned: dict[int, list[int]] = defaultdict(list)
    for queue in range(queues):
        offsets = dict(known[queue % len(known)])
        begin = 0
        while begin < window.end:
            plan = window.plan(queue, begin, offsets, at_once, max_bytes)
            assert plan.end > begin
            numbers = [msgspec.json.decode(event)["n"] for event in plan.events]
            is_within = len(numbers) <= at_once and len(b"".join(plan.events)) <= max_bytes
            assert is_within or numbers[0] // size == numbers[-1] // size
            assert plan.users == [lanes.user_of(f"u{users[number]}") for number in numbers]
            for tenure, offset in (divmod(number + TENURE, TENURE) for number in numbers):
                start, end = plan.marks[tenure]
                assert start == offsets.get(tenure, 0) <= offset < end
            planned[queue] += numbers
            offsets.update((tenure, end) for tenure, (_, end) in plan.marks.items())
            begin = plan.end

    for queue in range(queues):
        expected = []
        for number, user in enumerate(users):
            hashed, tenure, offset = lanes.user_of(f"u{user}"), number // TENURE + 1, number % TENURE
            is_past = offset < past[hashed % len(past)].get(tenure, 0)
            is_known = offset < known[queue % len(known)].get(tenure, 0)
            if hashed % queues == queue and not is_past and not is_known:
                expected.append(number)
        assert planned[queue] == expected


def test_a_window_knows_its_batches_again() -> None:
    """The flusher may have begun to read the ring anew. Then nothing of the window can be used."""
    window = window_of([1, 2, 3, 4], 2, 2, [])
    first, second = (entry.batch for entry in window.entries)
    more = Batch(b"{}", 1, (OffsetRange(2, 0, 1),))
    copied = msgspec.structs.replace(first)

    assert window.begins([first, second])
    assert window.begins([first, second, more])
    assert not window.begins([copied, second])
    assert not window.begins([first])
    window.leave(1)
    assert (window.first, window.end) == (1, 2)
    assert window.begins([second, more])
    assert not window.begins([first, second])
