"""``rudderpipe queue``: which data plane the queue's jobs are for, and how to make it another one."""

from __future__ import annotations

from contextlib import closing

from rudderpipe.log_text import lines, one_line
from rudderpipe.process.clock import Clock
from rudderpipe.queue.queue import Queue
from rudderpipe.service.signals import EXIT_FAILED, EXIT_OK
from rudderpipe.settings import Settings


def queue(settings: Settings, *, adopt: bool) -> int:
    """Print whose the queue is; with ``adopt`` make it that of these settings. Raise ``QueueUnavailable``."""
    settings.require("redis", "data_plane_url")
    with closing(Queue(settings, Clock())) as found:
        before, counts = found.owner(), found.counts()
        jobs = (
            f"{counts.waiting:,} jobs waiting, {counts.active:,} active, {counts.delayed:,} delayed, "
            f"{counts.failed:,} failed"
        )
        owner = one_line(before) or "not known: no job was added or taken by a version that says so"
        print(lines(f"queue     {settings.queue_name} at redis {settings.redis_place}: {jobs}\njobs for  {owner}"))
        if adopt and before != found.plane:
            found.adopt()
            print(f"from now  {found.plane}: what is in the queue goes there")
        elif before not in ("", found.plane):
            print(f"settings  {found.plane}: they need another queue_name, or --adopt, which makes the queue theirs")
            return EXIT_FAILED
    return EXIT_OK
