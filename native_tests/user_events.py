"""Events of several users in turn, each with its number, so that loss, repetition and order can be told."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from rudderpipe.client import Client

USERS = 60


class UserEvents:
    """The events that a test sends with one client."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.sent = 0
        self._turn = threading.Lock()

    def send(self, count: int) -> None:
        """Send events of all users in turn, also from several threads at once."""
        for _ in range(count):
            with self._turn:
                assert self.client.track(f"u{self.sent % USERS}", "e", {"n": self.sent})
                self.sent += 1

    @contextmanager
    def sending(self) -> Iterator[None]:
        """Let a thread send events meanwhile."""
        ends = threading.Event()

        def send() -> None:
            while not ends.wait(0.02):
                self.send(4)

        thread = threading.Thread(target=send)
        thread.start()
        try:
            yield
        finally:
            ends.set()
            thread.join()

    def by_user(self) -> dict[str, list[int]]:
        """Return the numbers of each user's events, in order."""
        return {f"u{user}": list(range(user, self.sent, USERS)) for user in range(USERS)}
