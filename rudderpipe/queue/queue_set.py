"""All queues that the events of a pipe may be in, counted as one."""

from __future__ import annotations

from typing import NamedTuple

from rudderpipe.errors import QueueUnavailable
from rudderpipe.process.clock import Clock
from rudderpipe.queue import route
from rudderpipe.queue.active_job import QueueCounts
from rudderpipe.queue.queue import Queue
from rudderpipe.queue.route import Generation, QueuePlace, Route
from rudderpipe.settings import Settings


class Member(NamedTuple):
    """One of the queues, with its generation."""

    queue: Queue
    settings: Settings
    """The settings with which a process uses this queue alone."""
    generation: int
    is_current: bool
    """True if new events go to its generation."""
    is_retired: bool
    trouble: QueueUnavailable | None
    """Why its server could not be read when the route was asked for; None if it was not asked, or responded."""

    def check(self) -> None:
        """Raise ``trouble``, if there is any, so that a server that is away is not waited for again."""
        if self.trouble is not None:
            raise self.trouble


class QueueSet:
    """The queue of the settings, and those of the other generations.

    The numbers of several queues are not of one moment. Every method raises ``QueueUnavailable`` if one of the queues
    cannot be read, except that the route may be the last known one.
    """

    def __init__(self, settings: Settings, clock: Clock, *, answer_s: float | None = None) -> None:
        """Prepare the queues without connecting."""
        self.settings = settings
        self._answer_s = answer_s
        self.home = Queue(settings, clock, answer_s=answer_s)
        """The queue of generation 0, beside which the route is."""
        self._trouble: QueueUnavailable | None = None
        """Why the home could not be read when the route was asked for last."""
        self._known: Route | None = None
        """The route as it was read last."""
        self._others: dict[QueuePlace, Queue] = {}

    def route(self) -> Route:
        """Return the route; while the home is away the one that was read last, or that the settings would make."""
        try:
            self._known, self._trouble = route.read(self.home, self.settings), None
        except QueueUnavailable as error:
            self._trouble = error
            known = self._known or route.expected(self.settings)
            if known is None or error.reason in (route.UNREADABLE, route.UNLISTED):
                raise
            return known
        return self._known

    def members(self, ring_created_ms: int | None = None) -> list[Member]:
        """Return the queues that may hold jobs, or may have held events of a ring, the home first.

        Without a route the home is the only one. It is returned also when it is retired.
        """
        known = self.route()
        wanted = known.living if ring_created_ms is None else known.counted(ring_created_ms)
        numbers = {0, *(each.number for each in wanted)}
        return [
            self._member(each, place, is_current=each is known.current)
            for each in known.generations
            if each.number in numbers
            for place in each.queues
        ]

    def _member(self, generation: Generation, place: QueuePlace, *, is_current: bool) -> Member:
        queue = self.queue(place)
        is_there = queue.place == self.home.place and not self.settings.redis_address.cluster_nodes
        return Member(
            queue,
            place.settings(self.settings),
            generation.number,
            is_current=is_current,
            is_retired=bool(generation.retired_ms),
            trouble=self._trouble if queue is self.home or is_there else None,
        )

    def all(self, ring_created_ms: int | None = None) -> list[Queue]:
        """Return the queues of ``members``."""
        return [each.queue for each in self.members(ring_created_ms)]

    def queue(self, place: QueuePlace) -> Queue:
        """Return one of the queues. It connects at its first call."""
        if place == QueuePlace(self.settings.prefix):
            return self.home
        if place not in self._others:
            settings = place.settings(self.settings)
            self._others[place] = Queue(settings, self.home.clock, answer_s=self._answer_s)
        return self._others[place]

    def counts(self, epoch: int | None = None, ring_created_ms: int | None = None) -> QueueCounts:
        """Return the sum of the counts of all queues; the events are those of one ring if its epoch is given."""
        return QueueCounts.merged([queue.counts(epoch) for queue in self.all(ring_created_ms)])

    def close(self) -> None:
        """Close the connections."""
        for queue in (self.home, *self._others.values()):
            queue.close()
