"""The seal of a queue, by which one generation of queues follows another.

A sealed queue takes no more events of our flushers. A queue of the next generation is open, so that senders deliver
from it, once every queue of the generation before it is drained. All of this only ever becomes true, so it may be read
queue by queue.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:  # what shows queues is also loaded where no Redis client is needed
    from rudderpipe.queue.queue import Queue


def seal(queue: Queue, generation: int) -> None:
    """Let the queue take no more events. A second call changes nothing."""
    queue.call("seal_queue", [queue.keys.sealed, queue.keys.id], generation)


class Remains(msgspec.Struct, frozen=True):
    """How far the end of a queue is."""

    is_sealed: bool
    is_open: bool
    has_jobs: bool
    """True while jobs from before the seal are waiting, active or delayed."""


def remains(queue: Queue) -> Remains:
    """Return how far the end of a queue is."""
    keys = queue.keys
    found = queue.call("find_remains", [keys.sealed, keys.open, keys.wait, keys.paused, keys.active, keys.delayed])
    return Remains(*map(bool, found))


def is_sealed(queue: Queue) -> bool:
    """Return whether the queue takes no more events of our flushers."""
    return _exists(queue, queue.keys.sealed)


def is_open(queue: Queue) -> bool:
    """Return whether senders may deliver from the queue."""
    return _exists(queue, queue.keys.open)


def _exists(queue: Queue, key: str) -> bool:
    (found,) = queue.ask(lambda pipe: pipe.exists(key))
    return bool(found)


def open_(queue: Queue) -> None:
    """Store that senders may deliver from the queue."""
    queue.call("open_queue", [queue.keys.open], queue.clock.time_ms())
