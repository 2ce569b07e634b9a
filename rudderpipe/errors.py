"""Every error that rudderpipe raises, in one tree.

A full ring is not an error, because a call returns ``False`` then. A response of the data plane is not an error either,
but an ``Outcome``. No message ever holds an event's payload, a write key or a password. The facts are attributes, and
every error can be pickled.
"""

from __future__ import annotations

from collections.abc import Sequence

from rudderpipe.log_text import counted, one_line
from rudderpipe.types import Sent

RINGS_SHOWN = 10


class RudderpipeError(Exception):
    """The base of all errors of rudderpipe."""

    sent: Sent | None = None
    """What had become of the messages when ``send_many`` raised this error; None for an error of another call."""


# Wrong settings and wrong arguments of a call.


class SettingsError(RudderpipeError):
    """A setting is unknown, of the wrong type, or out of bounds.

    ``field`` is the name of the setting, or of a command's option such as ``--first``.
    """

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(field, reason)
        self.field = one_line(field)
        self.reason = one_line(reason)

    def __str__(self) -> str:
        kind = "option" if self.field.startswith("--") else "setting"
        return f"{kind} {self.field}: {self.reason}"


class ExtraMissing(RudderpipeError):
    """A package that is installed with an extra of rudderpipe is not there; ``extra`` is the extra's name."""

    def __init__(self, extra: str, package: str) -> None:
        super().__init__(extra, package)
        self.extra = extra
        self.package = package

    def __str__(self) -> str:
        return f"{self.package} is not installed; install it with: pip install 'rudderpipe[{self.extra}]'"


class EventError(RudderpipeError):
    """A message cannot be sent; ``field`` is the argument's name or the path of the value, such as ``items[3]``."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(field, reason)
        self.field = one_line(field)
        self.reason = one_line(reason)

    def __str__(self) -> str:
        return f"{self.field}: {self.reason}"


class EventTooLarge(EventError):
    """An event's JSON is too large for any request; ``size_bytes`` is its size, or the part that was counted."""

    def __init__(self, size_bytes: int, limit_bytes: int) -> None:
        RudderpipeError.__init__(self, size_bytes, limit_bytes)
        self.field = "event"
        self.size_bytes = size_bytes
        self.limit_bytes = limit_bytes
        self.reason = f"its JSON has at least {size_bytes:,} bytes, the limit is {limit_bytes:,}"


# Files.


class IngestionError(RudderpipeError):
    """A file cannot be read, or not to its end; ``source`` is its name as given, ``reason`` says what to do.

    ``offset`` is the place of the damage in bytes of the file as it is on the disk, None if there is none.
    """

    def __init__(self, source: str, reason: str, offset: int | None = None) -> None:
        super().__init__(source, reason, offset)
        self.source = one_line(source)
        self.reason = one_line(reason)
        self.offset = offset

    def __str__(self) -> str:
        return f"{self.source}: {self.reason}"


# The ring.


class RingError(RudderpipeError):
    """The base of the errors of the ring, which is shared memory.

    Every error that a call raises with ``when_full="raise"`` is of this type, except ``EventTooLarge``.
    """


class RingUnavailable(RingError):
    """The ring cannot be created or mapped; ``name`` is its memory segment, ``reason`` says what to do."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(name, reason)
        self.name = one_line(name)
        self.reason = one_line(reason)

    def __str__(self) -> str:
        return f"ring {self.name}: {self.reason}"


_REFUSED_BECAUSE = {
    "full": "max_internal_queue_size allows no further event in the ring",
    "no_block": "the shared memory of the ring is used up",
    "busy": "the claim lock of the ring did not become free in time",
    "no_slot": "all slots of the ring are taken",
    "ring": "the ring cannot be used",
    "closed": "the call came after shutdown()",
    "dropped": "sampling or before_send left the event out",
}


class EventRefused(RingError):
    """An event was refused, although the event itself is right.

    ``reason`` is the name under which ``Client.counts`` counts the event, such as ``"busy"``. A call raises this error
    only with ``when_full="raise"`` or ``strict``. A callback gets it with every setting.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = one_line(reason)

    def __str__(self) -> str:
        because = _REFUSED_BECAUSE.get(self.reason)
        return f"{self.reason}: {because}" if because else self.reason


class RingFull(EventRefused):
    """An event was refused because the ring is full by ``max_internal_queue_size``; ``reason`` is ``"full"``."""

    def __init__(self, reason: str = "full") -> None:
        super().__init__(reason)


# The flusher and the sender.


class ProcessNotStarted(RudderpipeError):
    """This process cannot start a flusher or a sender; ``reason`` says what to do."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = one_line(reason)

    def __str__(self) -> str:
        return self.reason


# The data plane.


class DeliveryError(RudderpipeError):
    """Events will not be delivered; ``reason`` says why, if this process knows it.

    ``status`` is that of the data plane's response, 0 if there was none.
    """

    def __init__(self, reason: str, status: int = 0) -> None:
        super().__init__(reason, status)
        self.reason = one_line(reason)
        self.status = status

    def __str__(self) -> str:
        return f"the event was not delivered: {self.reason}"


class FlushTimeout(RudderpipeError):
    """A flush took longer than ``timeout_s``; ``pending`` events were still under way."""

    def __init__(self, timeout_s: float, pending: int) -> None:
        super().__init__(timeout_s, pending)
        self.timeout_s = timeout_s
        self.pending = pending

    def __str__(self) -> str:
        return f"{counted(self.pending, 'event')} still under way after {self.timeout_s:g} s"


# The queue.


class QueueError(RudderpipeError):
    """The base of the errors of the Redis queue."""


class QueueUnavailable(QueueError):
    """Redis does not respond, or refuses; ``address`` contains no password.

    ``answered`` is True when Redis refused the call, or when nothing was sent. Otherwise Redis may have executed the
    call, or may still execute it minutes later.
    """

    def __init__(self, address: str, reason: str, answered: bool = False) -> None:
        super().__init__(address, reason, answered)
        self.address = one_line(address)
        self.reason = one_line(reason)
        self.answered = answered

    def __str__(self) -> str:
        return f"redis at {self.address}: {self.reason}"


class AnotherDataPlane(QueueUnavailable):
    """The queue has jobs for another data plane, ``owner``; nothing was changed."""

    def __init__(self, address: str, queue_name: str, owner: str) -> None:
        owner = one_line(owner, 200)
        reason = (
            f"the queue {queue_name} has jobs for the data plane {owner}; use another queue_name, or assign the queue "
            "to the configured data plane with `rudderpipe queue --adopt`"
        )
        super().__init__(address, reason, answered=True)
        self.args = (address, queue_name, owner)
        self.queue_name = queue_name
        self.owner = owner


class QueueFull(QueueUnavailable):
    """The jobs in Redis and the batch to add exceed ``max_queue_bytes``; the batch is added once there is room."""

    def __init__(self, address: str, size_bytes: int, limit_bytes: int) -> None:
        reason = f"no room for another batch, jobs_bytes={size_bytes} max_queue_bytes={limit_bytes}"
        super().__init__(address, reason, answered=True)
        self.args = (address, size_bytes, limit_bytes)
        self.size_bytes = size_bytes
        self.limit_bytes = limit_bytes


class NotReplicated(QueueUnavailable):
    """Redis has the last events, but only ``found`` of the ``wanted`` replicas have them (``redis_replicas``)."""

    def __init__(self, address: str, found: int, wanted: int) -> None:
        reason = f"replicas do not have the last events, found={found} redis_replicas={wanted}"
        super().__init__(address, reason, answered=True)
        self.args = (address, found, wanted)
        self.found = found
        self.wanted = wanted


class LeaseLost(QueueError):
    """Another sender may own the queue now; nothing was changed."""

    def __str__(self) -> str:
        return "the lease has expired, or another sender holds it"


class QueueBehind(QueueError):
    """Redis already has events that this flusher was about to add; ``read`` maps each block to its offset in Redis."""

    def __init__(self, read: dict[int, int]) -> None:
        super().__init__(read)
        self.read = read

    def __str__(self) -> str:
        return f"Redis has recorded later offsets than this flusher knew, blocks={len(self.read)}"


class QueueSealed(QueueError):
    """The queue takes no more events, because a later generation of queues has taken its place."""

    def __init__(self, queue_name: str, generation: int) -> None:
        super().__init__(queue_name, generation)
        self.queue_name = queue_name
        self.generation = generation

    def __str__(self) -> str:
        return f"the queue {self.queue_name} of generation {self.generation} is sealed"


class OlderFlushers(QueueError):
    """Flushers of an older version may serve ``rings`` of this queue; nothing was changed."""

    def __init__(self, rings: Sequence[str]) -> None:
        super().__init__(rings)
        self.rings = [one_line(ring) for ring in rings]

    def __str__(self) -> str:
        shown = ", ".join(self.rings[:RINGS_SHOWN]) + (", ..." if len(self.rings) > RINGS_SHOWN else "")
        return (
            f"nothing was changed, because flushers of an older version may serve {counted(len(self.rings), 'ring')}, "
            f"and they do not see that a queue is sealed: {shown}"
        )


class JobUnreadable(QueueError):
    """A job's data has another form than a RudderStack SDK writes; the failed set shows ``reason``."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = one_line(reason)

    def __str__(self) -> str:
        return self.reason
