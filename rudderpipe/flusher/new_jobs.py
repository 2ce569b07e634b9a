"""The jobs that the flusher makes of events."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Raw

from rudderpipe.flusher import lanes
from rudderpipe.queue import job
from rudderpipe.queue.queue import NewJob
from rudderpipe.settings import Settings


def jobs_of(
    events: Sequence[Raw], settings: Settings, sent_at: str, epoch: int, users: Sequence[int] | None = None
) -> list[NewJob]:
    """Return jobs of at most ``flush_at`` events each, with lanes one or more for each lane.

    ``epoch`` is that of the events' ring. ``users`` are the hashes of the events' users, if they are known.
    """
    count, key = settings.lanes_in_use, settings.current_write_key
    max_bytes = min(settings.max_batch_bytes, settings.lane_bytes)
    jobs: list[NewJob] = []
    for part in lanes.parts_of(events, count, settings.flush_at, max_bytes, users):
        text = job.build(b",".join(part.events), key, sent_at, epoch)
        jobs.append((text, len(part.events)) if count == 1 else (text, len(part.events), f"{part.lane}/{count}"))
    return jobs
