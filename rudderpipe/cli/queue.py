"""The command ``rudderpipe queue``, which shows and changes the data plane that the queue's jobs are for."""

from __future__ import annotations

from contextlib import closing

import msgspec

from rudderpipe.log_text import counted, lines, one_line
from rudderpipe.process.clock import Clock
from rudderpipe.queue.pause import set_paused
from rudderpipe.queue.queue import Queue
from rudderpipe.service.signals import EXIT_FAILED, EXIT_OK
from rudderpipe.settings import Settings


class QueueJson(msgspec.Struct, frozen=True):
    """The JSON object that ``--json`` prints, after an adoption with the new data plane."""

    queue: str
    redis: str
    waiting: int
    active: int
    delayed: int
    failed: int
    paused: bool
    data_plane: str | None
    data_plane_of_settings: str


def queue(settings: Settings, *, adopt: bool, pauses: bool | None = None, as_json: bool = False) -> int:
    """Print the data plane of the queue; with ``adopt``, change it to that of these settings. Return an exit code.

    ``pauses`` True pauses the queue, and False resumes it. Raise ``QueueUnavailable``.
    """
    settings.require("redis", "data_plane_url")
    with closing(Queue(settings, Clock())) as found:
        if pauses is not None:
            set_paused(found, pauses=pauses)
        before, counts = found.owner(), found.counts()
        if as_json:
            if adopt and before != found.plane:
                found.adopt()
            owner_now = found.plane if adopt else before
            state = QueueJson(
                settings.queue_name,
                settings.redis_place,
                counts.waiting,
                counts.active,
                counts.delayed,
                counts.failed,
                counts.paused,
                owner_now or None,
                found.plane,
            )
            print(msgspec.json.encode(state).decode())
            return EXIT_OK if owner_now in ("", found.plane) else EXIT_FAILED
        jobs = (
            f"{counted(counts.waiting, 'job')} waiting, {counts.active:,} active, {counts.delayed:,} delayed, "
            f"{counts.failed:,} failed{', paused' if counts.paused else ''}"
        )
        owner = one_line(before) or "unknown: no version that records the data plane has added or taken a job"
        print(lines(f"queue     {settings.queue_name} at redis {settings.redis_place}: {jobs}\njobs for  {owner}"))
        if adopt and before != found.plane:
            found.adopt()
            print(f"from now  {found.plane}: the jobs in the queue go there")
        elif before not in ("", found.plane):
            print(f"settings  {found.plane}: use another queue_name, or --adopt to assign the queue to this data plane")
            return EXIT_FAILED
    return EXIT_OK
