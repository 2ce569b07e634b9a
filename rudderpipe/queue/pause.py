"""The pause of a queue, which holds for every sender of it, also those of other SDKs."""

from __future__ import annotations

from rudderpipe.errors import QueueUnavailable
from rudderpipe.queue.queue import Queue
from rudderpipe.queue.queue_set import QueueSet


def set_paused(queue: Queue, *, pauses: bool) -> bool:
    """Pause or resume the queue. Return False if it was paused, or was not, already. Raise ``QueueUnavailable``.

    While it is paused, senders take no job, and finish those that they have. Events are still accepted and queued.
    """
    keys = queue.keys
    return bool(queue.call("set_paused", [keys.wait, keys.paused, keys.meta_paused, keys.meta], keys.base, int(pauses)))


def set_all_paused(queues: QueueSet, *, pauses: bool) -> dict[str, str]:
    """Pause or resume every queue. Return the queues that could not be, by prefix, with the reason.

    Raise ``QueueUnavailable`` if that is all of them.
    """
    away: dict[str, str] = {}
    members = queues.members()
    for member in members:
        try:
            member.check()
            set_paused(member.queue, pauses=pauses)
        except QueueUnavailable as error:
            away[member.settings.prefix] = str(error)
            if len(away) == len(members):
                raise
    return away
