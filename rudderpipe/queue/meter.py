"""The count of calls to Redis: how long scripts took, and what failed."""

from __future__ import annotations

import errno
import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import redis

from rudderpipe.process.clock import Clock
from rudderpipe.service.histogram import Histogram

CALL_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 5, 10)
TOGETHER = "complete_and_take"
"""The name of the round trip that runs two scripts, complete_jobs and take_jobs."""
ERRORS = ("timeout", "refused", "closed", "readonly", "loading", "oom", "moved", "auth", "other")
_BY_TYPE: tuple[tuple[type[BaseException], str], ...] = (
    (redis.AuthenticationError, "auth"),
    (redis.exceptions.NoPermissionError, "auth"),
    (redis.BusyLoadingError, "loading"),
    (redis.ReadOnlyError, "readonly"),
    (redis.exceptions.AskError, "moved"),
    (redis.exceptions.ClusterDownError, "moved"),
    (redis.TimeoutError, "timeout"),
    (TimeoutError, "timeout"),
    (ConnectionRefusedError, "refused"),
)
_BY_TEXT = (
    (re.compile(r"\bOOM\b"), "oom"),
    # Within a script, Redis puts words of its own around the error of a command.
    (re.compile(r"\b(NOAUTH|NOPERM|WRONGPASS)\b|executing the script can't|ACL failure"), "auth"),
    (re.compile(r"\bREADONLY\b"), "readonly"),
    (re.compile(r"\b(MOVED|CLUSTERDOWN)\b"), "moved"),
)


class RedisMeter:
    """The calls of one process, or of one part of it. With several queues, each is called by a thread of its own."""

    def __init__(self, scripts: Sequence[str] = ()) -> None:
        """``scripts`` are those that are shown before their first call."""
        self.calls = {name: Histogram(CALL_SECONDS) for name in scripts}
        self.errors = dict.fromkeys(ERRORS, 0)
        self._lock = threading.Lock()

    def note(self, script: str, seconds: float) -> None:
        """Count a call, whether it succeeded or not."""
        with self._lock:
            if script not in self.calls:
                self.calls = {**self.calls, script: Histogram(CALL_SECONDS)}  # replaced, because a reader may iterate
            self.calls[script].note(seconds)

    @contextmanager
    def timed(self, script: str, clock: Clock) -> Iterator[None]:
        """Count a call that takes as long as the block."""
        begun_s = clock.monotonic_s()
        try:
            yield
        finally:
            self.note(script, clock.monotonic_s() - begun_s)

    def failed(self, error: BaseException) -> None:
        """Count an error."""
        name = class_of(error)
        with self._lock:
            self.errors[name] += 1


def class_of(error: BaseException) -> str:
    """Return the class of an error of Redis or of the connection to it, one of ``ERRORS``."""
    for kind, name in _BY_TYPE:
        if isinstance(error, kind):
            return name
    text = str(error)
    if isinstance(error, redis.ResponseError):
        return next((name for pattern, name in _BY_TEXT if pattern.search(text)), "other")
    if f"Error {errno.ECONNREFUSED} " in text or "refused" in text:
        return "refused"
    return "closed" if isinstance(error, (redis.ConnectionError, OSError)) else "other"
