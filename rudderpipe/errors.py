"""Every error that rudderpipe raises, in one tree.

A full ring is not an error (a call answers ``False``), nor is what the data plane said (an ``Outcome``). No message
ever holds an event's payload, a write key or a password; the facts are attributes, and every error pickles.
"""

from __future__ import annotations

from rudderpipe.log_text import one_line


class RudderpipeError(Exception):
    """The base of all errors of rudderpipe."""


# What the caller wrote.


class SettingsError(RudderpipeError):
    """A setting is unknown, of the wrong type, or out of bounds; ``field`` names it."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(field, reason)
        self.field = one_line(field)
        self.reason = one_line(reason)

    def __str__(self) -> str:
        return f"setting {self.field}: {self.reason}"


class EventError(RudderpipeError):
    """A call's message cannot be sent; ``field`` is the argument or the path of the value, such as ``items[3]``."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(field, reason)
        self.field = one_line(field)
        self.reason = one_line(reason)

    def __str__(self) -> str:
        return f"{self.field}: {self.reason}"


class EventTooLarge(EventError):
    """An event's JSON is larger than any request could carry; ``size_bytes`` is the size, or what was counted of it."""

    def __init__(self, size_bytes: int, limit_bytes: int) -> None:
        RudderpipeError.__init__(self, size_bytes, limit_bytes)
        self.field = "event"
        self.size_bytes = size_bytes
        self.limit_bytes = limit_bytes
        self.reason = f"its JSON has at least {size_bytes:,} bytes, the limit is {limit_bytes:,}"


# The ring.


class RingError(RudderpipeError):
    """The base of the errors of the shared memory."""


class RingUnavailable(RingError):
    """The ring cannot be made or mapped; ``name`` is its segment, ``reason`` says what to do."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(name, reason)
        self.name = one_line(name)
        self.reason = one_line(reason)

    def __str__(self) -> str:
        return f"ring {self.name}: {self.reason}"


class RingFull(RingError):
    """An event was refused; ``reason`` is the counter it was counted under.

    Raised with ``when_full="raise"`` or ``strict``; a callback gets it in any case.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = one_line(reason)

    def __str__(self) -> str:
        return f"the event was refused: {self.reason}"


# Our processes.


class ProcessNotStarted(RudderpipeError):
    """A process of ours cannot be started from here; ``reason`` says what to do."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = one_line(reason)

    def __str__(self) -> str:
        return self.reason


# The data plane.


class DeliveryError(RudderpipeError):
    """An event will not be delivered; ``reason`` says why, as far as it is known here."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = one_line(reason)

    def __str__(self) -> str:
        return f"the event was not delivered: {self.reason}"


class FlushTimeout(RudderpipeError):
    """A flush took longer than it was given; ``pending`` events were still under way."""

    def __init__(self, timeout_s: float, pending: int) -> None:
        super().__init__(timeout_s, pending)
        self.timeout_s = timeout_s
        self.pending = pending

    def __str__(self) -> str:
        return f"{self.pending:,} events were still under way after {self.timeout_s:g} s"


# The queue.


class QueueError(RudderpipeError):
    """The base of the errors of the Redis queue."""


class QueueUnavailable(QueueError):
    """Redis does not answer or refuses; ``address`` has no password in it.

    ``answered`` is True when Redis refused, or when nothing was sent. Else Redis may have executed the call, or may
    still do so minutes later.
    """

    def __init__(self, address: str, reason: str, answered: bool = False) -> None:
        super().__init__(address, reason, answered)
        self.address = one_line(address)
        self.reason = one_line(reason)
        self.answered = answered

    def __str__(self) -> str:
        return f"redis at {self.address}: {self.reason}"


class AnotherDataPlane(QueueUnavailable):
    """The queue has jobs for the data plane ``owner``, which is not ours; nothing was changed."""

    def __init__(self, address: str, queue_name: str, owner: str) -> None:
        owner = one_line(owner, 200)
        reason = (
            f"the queue {queue_name} has jobs for the data plane {owner}: give this one another queue_name, or make "
            "the queue its own with `rudderpipe queue --adopt`"
        )
        super().__init__(address, reason, answered=True)
        self.args = (address, queue_name, owner)
        self.queue_name = queue_name
        self.owner = owner


class QueueFull(QueueUnavailable):
    """The jobs in Redis take more than ``max_queue_bytes`` with what is to be added; it is added once there is room."""

    def __init__(self, address: str, size_bytes: int, limit_bytes: int) -> None:
        reason = f"its jobs take {size_bytes:,} bytes, max_queue_bytes is {limit_bytes:,}"
        super().__init__(address, reason, answered=True)
        self.args = (address, size_bytes, limit_bytes)
        self.size_bytes = size_bytes
        self.limit_bytes = limit_bytes


class LeaseLost(QueueError):
    """Another sender may have the queue; nothing was changed."""

    def __str__(self) -> str:
        return "the lease has lapsed, or another sender has it"


class QueueBehind(QueueError):
    """Redis holds events of the ring that this flusher thought were still to be added; ``read`` says how far."""

    def __init__(self, read: dict[int, int]) -> None:
        super().__init__(read)
        self.read = read

    def __str__(self) -> str:
        return f"{len(self.read)} blocks were read further than known"


class JobUnreadable(QueueError):
    """A job's data is not what a RudderStack SDK writes; ``reason`` is what the failed set will show."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = one_line(reason)

    def __str__(self) -> str:
        return self.reason
