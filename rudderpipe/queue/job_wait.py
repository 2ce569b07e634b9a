"""The wait for a job in line, on a connection of its own."""

from __future__ import annotations

import socket
from contextlib import suppress
from typing import Any

from rudderpipe.errors import QueueUnavailable
from rudderpipe.queue.connection import Connection
from rudderpipe.queue.keys import Keys
from rudderpipe.settings import Settings

ANSWER_S = 1.0
"""How much later than asked for the answer may come."""


class JobWait:
    """A wait for the next job in line, which changes nothing in Redis.

    Any number of processes may wait at one queue. Redis wakes all of them, because each one moves the last element of
    the list to where it was (BLMOVE, Redis 6.2 and later).
    """

    def __init__(self, settings: Settings, longest_s: float) -> None:
        self._line = Keys(settings.prefix, settings.queue_name).wait
        self._connection = Connection(settings, self._line, answer_s=longest_s + ANSWER_S)
        self._socket: socket.socket | None = None
        self._is_ended = False

    def wait(self, timeout_s: float) -> bool:
        """Return True as soon as a job is in line, and False after the timeout or ``end``.

        Raise ``QueueUnavailable`` if Redis refuses the wait or cannot be reached.
        """
        try:
            return self._wait(max(timeout_s, 0.001))  # because 0 means forever
        except QueueUnavailable:
            if self._is_ended:
                return False
            raise

    def _wait(self, timeout_s: float) -> bool:
        with self._connection.client() as client:
            link: Any = client.connection
            self._socket = getattr(link, "_sock", None)  # redis-py has no public attribute for the socket
            # Order: read after the socket is stored, so that ``end`` either finds the socket or is seen here.
            if self._is_ended:
                return False
            command = ("BLMOVE", self._line, self._line, "RIGHT", "RIGHT", f"{timeout_s:.3f}")
            return client.execute_command(*command) is not None  # type: ignore[no-untyped-call]  # redis-py gives it no types

    def end(self) -> None:
        """End the wait, and every later one, from any thread."""
        self._is_ended = True
        if self._socket is not None:
            with suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()
