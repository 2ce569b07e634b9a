"""Asks for the status again and again while the storm blows, and remembers what the answers were."""

from __future__ import annotations

import threading
import traceback
from collections import Counter

from native_tests.world import World
from rudderpipe import QueueUnavailable, RingUnavailable
from rudderpipe.cli.status import Status

EVERY_S = 0.1


class Watch:
    """A thread of its own, as an answer may take seconds: whoever holds the claim lock may be stopped."""

    def __init__(self, world: World) -> None:
        self.answers: Counter[str] = Counter()
        self.trouble: list[str] = []
        self.flusher_pid = 0
        self._world = world
        self._wrong = threading.Event()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def pause(self, seconds: float) -> None:
        """Wait so long, or until something is wrong."""
        self._wrong.wait(seconds)

    def end(self) -> None:
        """Ask no more."""
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.wait(EVERY_S):
            try:
                self._note(self._world.status())
            except QueueUnavailable:
                self.answers["redis away"] += 1
            except RingUnavailable:
                self.answers["ring busy"] += 1
            except Exception:  # noqa: BLE001  # whatever it is, it is told at the end
                self._tell(traceback.format_exc())

    def _note(self, status: Status) -> None:
        ring = status.ring
        if ring is None:
            self.answers["no ring"] += 1
            return
        self.flusher_pid = ring.flusher_pid
        if ring.corrupt:
            self._tell(f"{ring.corrupt} events are corrupt")
        self.answers["balanced" if status.events.balanced else "unbalanced"] += 1
        if not status.events.balanced:
            self._tell(f"the account does not balance: {status}")

    def _tell(self, what: str) -> None:
        if what not in self.trouble:
            self.trouble.append(what)
        self._wrong.set()

    def last_word(self) -> list[str]:
        """What is wrong with the status of a pipe that is at rest."""
        status = self._world.status()
        if status.ring is None or (status.events.balanced and not status.events.in_ring):
            return []
        return [f"the account of a pipe at rest does not balance: {status.events}"]
