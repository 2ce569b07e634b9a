"""The failed sets of several queues as one."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping, Sequence

import msgspec

from rudderpipe.errors import QueueUnavailable
from rudderpipe.queue.failed_jobs import FailedJob, FailedJobs, Page, Selection, place_of


class FailedSets:
    """The failed sets of several queues. The id of a job has the prefix of its queue in front: ``rudder-2:17``.

    A queue that cannot be read is left out and named in ``away``. Only ``retry`` and ``remove`` raise
    ``QueueUnavailable``, because they are called with jobs of a queue that has just been read.
    """

    def __init__(self, sets: Mapping[str, FailedJobs], away: Mapping[str, str]) -> None:
        """Take the failed set of each queue, by its prefix, and the reasons why others cannot be read."""
        self._sets = sets
        self.away = dict(away)
        """Why a queue cannot be read, by its prefix."""

    def find(self, selection: Selection, *, newest_first: bool = False) -> Iterator[FailedJob]:
        """Yield the selected jobs of all queues, oldest first, as ``FailedJobs.find`` does."""
        each = [self._find(prefix, selection, newest_first=newest_first) for prefix in self._sets]
        return heapq.merge(*each, key=lambda job: job.failed_at_ms, reverse=newest_first)

    def _find(self, prefix: str, selection: Selection, *, newest_first: bool) -> Iterator[FailedJob]:
        if selection.ids is not None:
            ids = frozenset(self._own(selection.ids, prefix))
            if not ids:
                return
            selection = msgspec.structs.replace(selection, ids=ids)
        try:
            for job in self._sets[prefix].find(selection, newest_first=newest_first):
                yield _qualified(job, prefix)
        except QueueUnavailable as error:
            self.away[prefix] = str(error)

    def _own(self, ids: Sequence[str] | frozenset[str], prefix: str) -> list[str]:
        """Return the ids that belong to one queue, as they are there."""
        front = f"{prefix}:"
        return [each.removeprefix(front) for each in ids if each.startswith(front)]

    def page(self, selection: Selection, after: str | None, limit: int) -> Page:
        """Return some of the selected jobs, newest first, as ``FailedJobs.page`` does."""
        moment_ms, last, name = self._place(after)
        found: list[tuple[int, FailedJob]] = []
        total, is_last = 0, True
        for number, (prefix, failed) in enumerate(self._sets.items()):
            # Jobs of one moment are in the order of their queues, and then in that of their queue.
            own = None
            if after is not None:
                own = f"{moment_ms}:{name}" if number == last else f"{moment_ms + (number > last)}:"
            try:
                page = failed.page(selection, own, limit)
            except QueueUnavailable as error:
                self.away[prefix] = str(error)
                continue
            total += page.total
            is_last = is_last and page.next is None
            found += [(number, _qualified(job, prefix)) for job in page.jobs]
        found.sort(key=lambda pair: (-pair[1].failed_at_ms, pair[0]))  # stable, so the order within a queue stays
        is_last = is_last and len(found) <= limit
        shown = found[:limit]
        if is_last or not shown:
            return Page([job for _, job in shown], None, total)
        number, job = shown[-1]
        prefix = list(self._sets)[number]
        return Page(
            [job for _, job in shown], f"{job.failed_at_ms}:{number}:{job.id.removeprefix(f'{prefix}:')}", total
        )

    def _place(self, after: str | None) -> tuple[int, int, str]:
        """Return the failure time, the queue and the id in the ``next`` of a page. Raise ``ValueError`` for others."""
        if after is None:
            return 0, 0, ""
        moment_ms, rest = place_of(after)
        number, colon, name = rest.partition(b":")
        if not (colon and number.isdigit()):
            raise ValueError("it is not the end of a page")
        return moment_ms, int(number), name.decode(errors="surrogateescape")

    def retry(self, chosen: Sequence[FailedJob], *, first: bool = False, write_key: str | None = None) -> int:
        """Put jobs in line again, each in its queue, as ``FailedJobs.retry`` does."""
        done = 0
        for prefix, failed in self._sets.items():
            front = f"{prefix}:"
            own = [
                msgspec.structs.replace(job, id=job.id.removeprefix(front))
                for job in chosen
                if job.id.startswith(front)
            ]
            if own:
                done += failed.retry(own, first=first, write_key=write_key)
        return done

    def remove(self, ids: Sequence[str]) -> tuple[int, int]:
        """Delete failed jobs forever, as ``FailedJobs.remove`` does."""
        each = [failed.remove(own) for prefix, failed in self._sets.items() if (own := self._own(ids, prefix))]
        return sum(jobs for jobs, _ in each), sum(events for _, events in each)


def _qualified(job: FailedJob, prefix: str) -> FailedJob:
    return msgspec.structs.replace(job, id=f"{prefix}:{job.id}")
