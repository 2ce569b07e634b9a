"""All queues that the events of a pipe may be in, counted as one."""

from __future__ import annotations

from rudderpipe.process.clock import Clock
from rudderpipe.queue import route
from rudderpipe.queue.active_job import QueueCounts
from rudderpipe.queue.connection import ANSWER_TIMEOUT_S
from rudderpipe.queue.queue import Queue
from rudderpipe.queue.route import QueuePlace, Route
from rudderpipe.settings import Settings


class QueueSet:
    """The queue of the settings, and those of the other generations.

    The numbers of several queues are not of one moment. Every method raises ``QueueUnavailable`` if one of the queues
    cannot be read.
    """

    def __init__(self, settings: Settings, clock: Clock, *, answer_s: float = ANSWER_TIMEOUT_S) -> None:
        """Prepare the queues without connecting."""
        self._settings = settings
        self._answer_s = answer_s
        self.home = Queue(settings, clock, answer_s=answer_s)
        """The queue of generation 0, beside which the route is."""
        self.known: Route | None = None
        """The route as it was read last."""
        self._others: dict[QueuePlace, Queue] = {}

    def all(self, ring_created_ms: int | None = None) -> list[Queue]:
        """Return the queues that may hold jobs, or may have held events of a ring, the home first.

        Without a route the home is the only one.
        """
        own, known = QueuePlace(self._settings.prefix), route.read(self.home, self._settings)
        self.known = known
        generations = known.living if ring_created_ms is None else known.counted(ring_created_ms)
        places = [place for each in generations for place in each.queues]
        return [self.home, *(self.queue(place) for place in places if place != own)]

    def queue(self, place: QueuePlace) -> Queue:
        """Return one of the queues. It connects at its first call."""
        if place == QueuePlace(self._settings.prefix):
            return self.home
        if place not in self._others:
            settings = place.settings(self._settings)
            self._others[place] = Queue(settings, self.home.clock, answer_s=self._answer_s)
        return self._others[place]

    def counts(self, epoch: int | None = None, ring_created_ms: int | None = None) -> QueueCounts:
        """Return the sum of the counts of all queues; the events are those of one ring if its epoch is given."""
        return self.merged(self.counted(epoch, ring_created_ms))

    def counted(self, epoch: int | None = None, ring_created_ms: int | None = None) -> dict[Queue, QueueCounts]:
        """Return the counts of each queue, as ``counts`` does of all."""
        return {queue: queue.counts(epoch) for queue in self.all(ring_created_ms)}

    @staticmethod
    def merged(counted: dict[Queue, QueueCounts]) -> QueueCounts:
        """Return the sum of these counts."""
        return QueueCounts.merged(list(counted.values()))

    def size_bytes(self) -> int:
        """Return the memory in Redis of the jobs of all queues, as ``Queue.size_bytes`` does."""
        return sum(queue.size_bytes() for queue in self.all())

    def close(self) -> None:
        """Close the connections."""
        for queue in (self.home, *self._others.values()):
            queue.close()
