"""The interface of a transport, which takes a client's events, and the transports without a ring."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

import msgspec

from rudderpipe import log_text
from rudderpipe.errors import RudderpipeError
from rudderpipe.process.clock import Clock
from rudderpipe.process.log_limit import ThrottledLog
from rudderpipe.transports.callbacks import Callback, callbacks
from rudderpipe.transports.flush import Done, Flush, Until

logger = log_text.logger()


Encoded = bytes | bytearray


class FastPath(NamedTuple):
    """The functions with which a caller that has an event's JSON skips ``put``."""

    append: Callable[[Encoded], str | None]
    """Appends an event; returns None, or the reason if the event was not taken."""
    append_chunk: Callable[[Sequence[Encoded]], tuple[int, str | None]]
    """Appends the first of several events; returns how many, and the reason if there were none."""
    refusal: Callable[[str, Encoded], RudderpipeError | None]
    """Is called with that reason and the event; returns what ``put`` would."""


class Transport(Protocol):
    """The destination of a client's encoded events."""

    def put(
        self, data: Encoded, callback: Callback | None = None, on_error: Callback | None = None
    ) -> RudderpipeError | None:
        """Take an event; return None, or the error if it was refused and counted.

        ``callback(error, message)`` is called when the event is done with, and ``on_error(error, messages)`` if it
        failed, once for all events that failed together.
        """

    def fast_path(self) -> FastPath | None:
        """Return the functions with which a plain call skips the slow path; None if there is no fast path."""

    def refuse(self, reason: str, error: Exception | None, callback: Callback | None = None) -> None:
        """Count an event that is refused without ``put``."""

    def counts(self) -> Mapping[str, int]:
        """Return the number of this process's events: ``accepted``, and refused by reason."""

    def warm_up(self) -> None:
        """Prepare now what the first event would otherwise have to wait for."""

    def flush(self, until: Until = "queued") -> Flush:
        """Begin to flush."""

    def shut(self, user: object = None) -> None:
        """Release everything, unless another user than ``user`` shares it; later events are not taken then."""


class LocalTransport:
    """The common part of the transports that have no ring to count in."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._log = ThrottledLog(logger, Clock())

    def fast_path(self) -> FastPath | None:
        """Return None: there is no fast path."""
        return None

    def refuse(self, reason: str, error: Exception | None, callback: Callback | None = None) -> None:
        """Count the event; log ``error``, unless it is None because no line is needed."""
        self._counts[reason] += 1
        if error is not None:
            self._log.warning(reason, "event refused: %s", error)
        if callback is not None:
            callbacks.call(callback, error, {})

    def counts(self) -> Mapping[str, int]:
        """Return the counts since the client was created."""
        return dict(self._counts)

    def warm_up(self) -> None:
        """Do nothing."""

    def flush(self, until: Until = "queued") -> Flush:  # noqa: ARG002  # no event is under way
        """Return a complete flush, because no event is kept."""
        return Done()

    def shut(self, user: object = None) -> None:
        """Do nothing, because there is nothing to release."""


class NullTransport(LocalTransport):
    """The transport for ``enable=False``: every event is checked and counted, and none is sent."""

    def put(self, data: Encoded, callback: Callback | None = None, on_error: Callback | None = None) -> None:  # noqa: ARG002  # no event fails here
        """Count the event, and call its callback as for an event that has arrived."""
        self._counts["accepted"] += 1
        if callback is not None:
            callbacks.call(callback, None, msgspec.json.decode(data))
