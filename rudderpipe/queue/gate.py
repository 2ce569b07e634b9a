"""The gate before the queues of a later generation, so that a user's events are delivered in order over generations."""

from __future__ import annotations

from collections.abc import Callable

from rudderpipe.queue import seal
from rudderpipe.queue.queue import Queue
from rudderpipe.queue.route import QueuePlace, Route

ALL_RULES = frozenset(("parents", "transitive"))


def is_open(
    queue_of: Callable[[QueuePlace], Queue],
    route: Route,
    number: int,
    place: QueuePlace,
    rules: frozenset[str] = ALL_RULES,
) -> bool:
    """Return whether a sender may deliver from a queue of generation ``number``. Raise ``QueueUnavailable``.

    It may once every queue of the generation before is sealed, drained and open itself. The queue remembers that it is
    open. ``rules`` are all in use, except in tests that show what each of them is for.
    """
    if number == 0 or "parents" not in rules:
        return True
    queue = queue_of(place)
    if seal.remains(queue).is_open:
        return True
    parents = route.generations[number - 1]
    for parent in () if parents.retired_ms else parents.queues:
        found = seal.remains(queue_of(parent))
        if not found.is_sealed or found.has_jobs:
            return False
        if number > 1 and not found.is_open and "transitive" in rules:
            return False
    seal.open_(queue)
    return True
