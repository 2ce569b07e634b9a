"""The change of the number of queues while events flow.

Each step may be cut off at any moment and made again: the route is changed by compare and set, and a seal and a
retirement are for good. The flushers do by themselves what is between the steps.
"""

from __future__ import annotations

from contextlib import suppress

import msgspec

from rudderpipe.errors import OlderFlushers, QueueUnavailable
from rudderpipe.queue import gate, pause, rings, route, seal
from rudderpipe.queue.queue import Queue
from rudderpipe.queue.queue_set import QueueSet
from rudderpipe.queue.route import Generation, QueuePlace, Route
from rudderpipe.settings import Settings


class Remainder(msgspec.Struct, frozen=True):
    """What is left of a generation that is past."""

    generation: int
    queues: int
    jobs: int
    """Jobs that wait, are active or delayed, in all its queues."""
    failed: int
    """Failed jobs. They must be retried or deleted first, because no sender serves a retired queue."""
    rings: dict[str, str]
    """The host of each ring whose flusher still needs to know what the queues have. It forgets that seconds later."""
    is_drained: bool
    """True if nothing is left, so that the generation may be retired."""


def usable(queues: QueueSet, settings: Settings, known: Route) -> list[Queue]:
    """Return every queue in use, and one on each server that may get one."""
    places = [place for each in known.living for place in each.queues]
    places += [QueuePlace(settings.prefix, number) for number in range(len(settings.redis_servers))]
    return [queues.queue(place) for place in dict.fromkeys(places)]


def check_writes(queue: Queue) -> None:
    """Raise ``QueueUnavailable`` if Redis cannot be reached or refuses writes, as a replica or a full server does."""
    queue.ask(lambda pipe: pipe.set(queue.keys.check, "", px=1))


def begin(queues: QueueSet, settings: Settings, count: int, *, force: bool = False) -> Route:
    """Let the route have ``count`` queues. Return the route, which is the known one if it has as many already.

    If all earlier queues are paused, the new ones are paused too. If the queues in use or the new ones are sealed,
    Redis has forgotten the route that it had, and more generations are needed.

    Raise ``QueueUnavailable``, and change nothing, if a queue or server cannot be reached, or refuses writes and so a
    seal. Raise ``OlderFlushers``, and change nothing, if a flusher may go on adding to the first queue because it does
    not see the seal; ``force`` ignores them.
    """
    known = route.read(queues.home, settings)
    if len(known.current.queues) == count and not _is_any_sealed(queues, known.current):
        return known
    for queue in usable(queues, settings, known):
        check_writes(queue)
    if not force and (older := rings.older(queues.home)):
        raise OlderFlushers([f"{each.epoch} (silent for {each.silent_s / 3600:.1f} h)" for each in older])
    wanted = route.with_queues(queues.home, settings, known, count)
    while _is_any_sealed(queues, wanted.current):
        wanted = route.with_queues(queues.home, settings, wanted, count)
    is_paused = all(queues.queue(place).counts().paused for place in known.current.queues)
    for place in wanted.current.queues:  # resumed, too, because a command that was killed may have paused it
        pause.set_paused(queues.queue(place), pauses=is_paused)
    return route.store(queues.home, settings, known, wanted)


def _is_any_sealed(queues: QueueSet, generation: Generation) -> bool:
    """Return whether a queue of the generation that answers is sealed."""
    for place in generation.queues:
        with suppress(QueueUnavailable):
            if seal.is_sealed(queues.queue(place)):
                return True
    return False


def seal_past(queues: QueueSet, known: Route) -> None:
    """Seal every queue of the generations before the last. Raise ``QueueUnavailable`` for the first that is away."""
    for generation in known.living[:-1]:
        for place in generation.queues:
            seal.seal(queues.queue(place), generation.number)


def remainder(queues: QueueSet, known: Route, generation: Generation, *, force: bool = False) -> Remainder:
    """Return what is left of a generation. Raise ``QueueUnavailable``.

    With ``force``, a ring that no flusher serves is not waited for.
    """
    own = [queues.queue(place) for place in generation.queues]
    counts = [queue.counts() for queue in own]
    jobs = sum(each.waiting + each.active + each.delayed for each in counts)
    # Order: seals and jobs before the rings' offsets, because no offset comes to a sealed queue.
    states = [seal.remains(queue) for queue in own]
    is_over = all(each.is_sealed and not each.has_jobs for each in states)
    is_open = all(gate.is_open(queues.queue, known, generation.number, place) for place in generation.queues)
    failed = sum(each.failed for each in counts)
    known_rings = [ring for queue in own for ring in rings.fenced(queue)] if is_over else []
    longest_s = rings.SILENT_S if force else float("inf")
    needed = {ring.epoch: ring.host for ring in known_rings if ring.has_offsets and ring.silent_s < longest_s}
    is_drained = is_open and is_over and not needed and not failed
    return Remainder(generation.number, len(own), jobs, failed, needed, is_drained)


def retire(queues: QueueSet, settings: Settings, known: Route, *, force: bool = False) -> Route:
    """Retire the generations that are drained, the oldest first. Return the route. Raise ``QueueUnavailable``.

    If Redis has forgotten the known route, it is stored again. ``force`` is that of ``remainder``.
    """
    found = route.read(queues.home, settings)
    if known.is_ahead_of(found):
        known = route.store_again(queues.home, settings, found, known)
    for generation in known.living[:-1]:
        if not remainder(queues, known, generation, force=force).is_drained:
            break
        known = route.store(
            queues.home, settings, known, known.with_retired(generation.number, queues.home.clock.time_ms())
        )
    return known
