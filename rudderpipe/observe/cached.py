"""A value that takes long to read, such as what Redis says. It is read on a thread of its own and kept for a while."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from rudderpipe.process.clock import Clock

T = TypeVar("T")
PATIENCE_S = 0.5
"""How long a scrape waits for a value. A Redis that does not respond takes longer than a scrape may."""


class Cached(Generic[T]):
    """The last value that ``read`` returned. Any thread may call ``get``, and at most one ``read`` runs at a time.

    ``read`` must not raise.
    """

    def __init__(self, read: Callable[[], T], kept_s: float, clock: Clock, patience_s: float) -> None:
        self._read = read
        self._kept_s = kept_s
        self._clock = clock
        self._patience_s = patience_s
        self._lock = threading.Lock()
        self._value: T | None = None
        self._read_at_s = float("-inf")
        self._reading: threading.Event | None = None
        """It is set when the present ``read`` ends; None while there is none."""

    def get(self) -> T | None:
        """Return a value that is at most ``kept_s`` old; None if there is none within ``patience_s``."""
        with self._lock:
            if self._is_fresh():
                return self._value
            reading = self._reading or self._begin()
        reading.wait(self._patience_s)
        with self._lock:
            return self._value if self._is_fresh() else None

    def _is_fresh(self) -> bool:
        return self._clock.monotonic_s() - self._read_at_s < self._kept_s

    def _begin(self) -> threading.Event:
        reading = self._reading = threading.Event()
        try:
            threading.Thread(target=self._run, args=(reading,), name="rudderpipe-observe", daemon=True).start()
        except RuntimeError:  # this host has no thread left; the next caller tries again
            self._reading = None
            reading.set()
        return reading

    def _run(self, reading: threading.Event) -> None:
        value = self._read()
        with self._lock:
            self._value, self._read_at_s, self._reading = value, self._clock.monotonic_s(), None
        reading.set()
