"""The pause of a queue, which holds for every sender of it, also those of other SDKs."""

from __future__ import annotations

from rudderpipe.queue.queue import Queue


def set_paused(queue: Queue, *, pauses: bool) -> bool:
    """Pause or resume the queue. Return False if it was paused, or was not, already. Raise ``QueueUnavailable``.

    While it is paused, senders take no job, and finish those that they have. Events are still accepted and queued.
    """
    keys = queue.keys
    return bool(queue.call("set_paused", [keys.wait, keys.paused, keys.meta_paused, keys.meta], keys.base, int(pauses)))
