"""The store of failed jobs of a pipe, whichever mode it is in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from typing import Protocol

from rudderpipe.observe.dead_letter_jobs import DeadLetterJobs
from rudderpipe.process.clock import Clock
from rudderpipe.queue.failed_jobs import FailedJob, FailedJobs, Page, Selection
from rudderpipe.queue.failed_sets import FailedSets
from rudderpipe.queue.queue_set import QueueSet
from rudderpipe.settings import Settings


class FailedStore(Protocol):
    """The store of failed jobs: the failed sets of the queues, or the dead letters of direct mode."""

    @property
    def away(self) -> Mapping[str, str]:
        """Why queues could not be read and are left out, by their prefixes, as far as they were asked."""

    def find(self, selection: Selection, *, newest_first: bool = False) -> Iterator[FailedJob]:
        """Yield the selected jobs, oldest first, without jobs that fail meanwhile."""

    def page(self, selection: Selection, after: str | None, limit: int) -> Page:
        """Return the next ``limit`` of the selected jobs after the ``next`` of a page, newest first."""

    def retry(self, chosen: Sequence[FailedJob], *, first: bool = False, write_key: str | None = None) -> int:
        """Make at most ``AT_ONCE`` jobs wait again, in this order and with this key. Return how many wait again."""

    def remove(self, ids: Sequence[str]) -> tuple[int, int]:
        """Delete at most 1,000 jobs permanently. Return the number of deleted jobs and of their events."""


@contextmanager
def failed_jobs(settings: Settings, patience_s: float | None = None) -> Iterator[FailedStore]:
    """Yield the store of failed jobs of the pipe that these settings name.

    ``patience_s`` is how long a call waits for Redis, or for room in the ring.
    """
    if settings.redis is None:
        with closing(DeadLetterJobs(settings, Clock(), patience_s or float("inf"))) as letters:
            yield letters
        return
    with closing(QueueSet(settings, Clock(), answer_s=patience_s)) as queues:
        members = queues.members()
        if len(members) == 1:
            yield FailedJobs(queues.home)
        else:
            away = {each.settings.prefix: str(each.trouble) for each in members if each.trouble is not None}
            yield FailedSets(
                {each.settings.prefix: FailedJobs(each.queue) for each in members if each.trouble is None}, away
            )
