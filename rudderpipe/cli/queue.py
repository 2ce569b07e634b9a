"""The command ``rudderpipe queue``, which shows and changes the data plane that the jobs are for, and the pause."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import closing

import msgspec

from rudderpipe.errors import QueueUnavailable
from rudderpipe.log_text import counted, lines, one_line
from rudderpipe.observe.pipe_queues import ANSWER_S
from rudderpipe.process.clock import Clock
from rudderpipe.queue.pause import set_all_paused
from rudderpipe.queue.queue_set import Member, QueueSet
from rudderpipe.service.signals import EXIT_FAILED, EXIT_OK, EXIT_UNAVAILABLE
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
    prefix: str


def queue(settings: Settings, *, adopt: bool, pauses: bool | None = None, as_json: bool = False) -> int:
    """Print the data plane of each queue; with ``adopt``, change it to that of these settings. Return an exit code.

    ``pauses`` True pauses every queue, and False resumes it. Raise ``QueueUnavailable`` if the only queue is away; one
    of several is named on standard error.
    """
    settings.require("redis", "data_plane_url")
    with closing(QueueSet(settings, Clock(), answer_s=ANSWER_S)) as queues:
        if pauses is not None:
            set_all_paused(queues, pauses=pauses)
        members = [each for each in queues.members() if not each.is_retired]
        changes = adopt or pauses is not None
        return max(_code(member, members, adopt=adopt, changes=changes, as_json=as_json) for member in members)


def _code(member: Member, members: Sequence[Member], *, adopt: bool, changes: bool, as_json: bool) -> int:
    """Print one queue, and return the exit code that it means. ``changes`` says whether the command changes queues."""
    try:
        return _shown(member, has_others=len(members) > 1, adopt=adopt, as_json=as_json)
    except QueueUnavailable as error:
        if len(members) == 1:
            raise
        outcome = "is left as it is" if changes else "cannot be read"
        print(f"rudderpipe: queue {member.settings.prefix} {outcome}: {error}", file=sys.stderr)
        return EXIT_UNAVAILABLE


def _shown(member: Member, *, has_others: bool, adopt: bool, as_json: bool) -> int:
    member.check()
    settings, found = member.settings, member.queue
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
            settings.prefix,
        )
        print(msgspec.json.encode(state).decode())
        return EXIT_OK if owner_now in ("", found.plane) else EXIT_FAILED
    jobs = (
        f"{counted(counts.waiting, 'job')} waiting, {counts.active:,} active, {counts.delayed:,} delayed, "
        f"{counts.failed:,} failed{', paused' if counts.paused else ''}"
    )
    owner = one_line(before) or "unknown: no version that records the data plane has added or taken a job"
    prefix = f"{settings.prefix}, " if has_others else ""
    print(lines(f"queue     {prefix}{settings.queue_name} at redis {settings.redis_place}: {jobs}\njobs for  {owner}"))
    if adopt and before != found.plane:
        found.adopt()
        print(f"from now  {found.plane}: the jobs in the queue go there")
    elif before not in ("", found.plane):
        print(f"settings  {found.plane}: use another queue_name, or --adopt to assign the queue to this data plane")
        return EXIT_FAILED
    return EXIT_OK
