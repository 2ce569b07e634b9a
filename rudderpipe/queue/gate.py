"""The gate before the queues of a later generation, so that a user's events are delivered in order over generations."""

from __future__ import annotations

from collections.abc import Callable

from rudderpipe.queue import seal
from rudderpipe.queue.queue import Queue
from rudderpipe.queue.route import Generation, QueuePlace, Route

ALL_RULES = frozenset(("parents", "transitive"))


def is_open(
    queue_of: Callable[[QueuePlace], Queue],
    route: Route,
    number: int,
    place: QueuePlace,
    rules: frozenset[str] = ALL_RULES,
) -> bool:
    """Return whether a sender may deliver from a queue of generation ``number``. Raise ``QueueUnavailable``.

    It may once the generation before is drained. The queue remembers that it is open. ``rules`` are all in use, except
    in tests that show what each of them is for.
    """
    if number == 0 or "parents" not in rules:
        return True
    queue = queue_of(place)
    if seal.is_open(queue):
        return True
    if not is_drained(queue_of, route.generations[number - 1], rules):
        return False
    seal.open_(queue)
    return True


def is_drained(
    queue_of: Callable[[QueuePlace], Queue], generation: Generation, rules: frozenset[str] = ALL_RULES
) -> bool:
    """Return whether every queue of a generation that is past is sealed, drained and open itself.

    A queue whose seal Redis has forgotten is sealed again. Raise ``QueueUnavailable``.
    """
    for place in () if generation.retired_ms else generation.queues:
        queue = queue_of(place)
        found = seal.remains(queue)
        if not found.is_sealed:
            seal.seal(queue, generation.number)
            found = seal.remains(queue)
        if found.has_jobs or (generation.number and not found.is_open and "transitive" in rules):
            return False
    return True
