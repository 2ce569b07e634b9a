"""Where a client's events go: the pipe, or one of the places for those who want something else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import msgspec

from rudderpipe import log_text
from rudderpipe.process.clock import Clock
from rudderpipe.process.log_limit import ThrottledLog
from rudderpipe.transports.callbacks import Callback, callbacks
from rudderpipe.transports.flush import Done, Flush, Until

logger = log_text.logger()


Encoded = bytes | bytearray
FastPath = tuple[Callable[[Encoded], str | None], Callable[[str, Encoded], bool]]
"""Appends an event, or says why not; and what is answered then."""


class Transport(Protocol):
    """Takes encoded events."""

    def put(self, data: bytes, callback: Callback | None = None) -> Any:
        """Take an event; False when it is refused. Raises only where the settings ask for that."""

    def fast_path(self) -> FastPath | None:
        """What plain calls are spared the rest by; None where there is no such way."""

    def refuse(self, reason: str, error: Exception | None, callback: Callback | None = None) -> bool:
        """Count an event that never was one; False."""

    def counts(self) -> Mapping[str, int]:
        """Events of this process: ``accepted``, and refused by reason."""

    def warm_up(self) -> None:
        """Have what the first event would have to wait for."""

    def flush(self, until: Until = "queued") -> Flush:
        """Begin to flush."""

    def shut(self) -> None:
        """Take no more."""


class LocalTransport:
    """What transports have in common that have no ring to count in."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._log = ThrottledLog(logger, Clock())

    def fast_path(self) -> FastPath | None:
        """None."""
        return None

    def refuse(self, reason: str, error: Exception | None, callback: Callback | None = None) -> bool:
        """Count it; log why, unless that was the application's own wish."""
        self._counts[reason] += 1
        if error is not None:
            self._log.warning(reason, f"event refused: {error}")
        if callback is not None:
            callbacks.call(callback, error, {})
        return False

    def counts(self) -> Mapping[str, int]:
        """Since the client was made."""
        return dict(self._counts)

    def warm_up(self) -> None:
        """Nothing."""

    def flush(self, until: Until = "queued") -> Flush:  # noqa: ARG002  # nothing is under way
        """Nothing is kept."""
        return Done()

    def shut(self) -> None:
        """Nothing to give back."""


class NullTransport(LocalTransport):
    """``enable=False`` and ``dry_run``: everything is checked and counted, nothing is sent."""

    def __init__(self, *, shows: bool) -> None:
        super().__init__()
        self._shows = shows

    def put(self, data: bytes, callback: Callback | None = None) -> Any:
        """True; with ``dry_run`` the message."""
        self._counts["accepted"] += 1
        if not self._shows and callback is None:
            return True
        message: dict[str, Any] = msgspec.json.decode(data)
        if callback is not None:
            callbacks.call(callback, None, message)
        return message if self._shows else True
