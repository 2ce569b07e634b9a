"""The lease: who is the one sender of a queue, on whichever host."""

from __future__ import annotations

from collections.abc import Callable

from rudderpipe.queue.queue import Queue


class Lease:
    """What one process knows of it; ``Queue.fence`` is kept in step. Only for the thread that works on the queue.

    A sender that dies is followed when its lease lapses, or at once when ``is_dead`` says so of its holder; one that
    was away for longer than ``lease_ms`` goes on with its lease when nobody has had one since.

    The holder's name in Redis begins with a token for each unbroken tenure. So a process that lost the answer to its
    question finds out whether another one has had the lease meanwhile.
    """

    def __init__(self, queue: Queue, lease_ms: int, holder: str, is_dead: Callable[[str], bool]) -> None:
        """``holder`` says who we are, to people and to ``is_dead`` of other processes."""
        self._queue = queue
        self._lease_ms = lease_ms
        self._token = queue.token
        self._holder = holder
        self._tenures = 0
        self._is_dead = is_dead
        self.held = False
        self.kept = False
        """No other process has had the lease since it was ours before."""
        self.others = ""
        """Who has it, while we have not."""
        self.lapses_in_ms = 0
        """When theirs does, unless they renew it."""
        self.others_live = False
        """They have renewed it between our last two looks."""

    @property
    def number(self) -> int:
        """Of the lease we have, or had last; 0 when there was none."""
        return int(self._queue.fence.partition(" ")[0] or 0)

    def take(self, above: int = 0) -> bool:
        """Have it, or know who has. Raises ``QueueUnavailable``.

        With a number higher than ``above``: a call under that number may still be under way, and is refused from then
        on.
        """
        if not self._ask("", above):
            _, _, holder = self.others.partition(" ")
            if self._is_dead(holder.partition(" ")[2]):
                self._ask(self.others, above)
        return self.held

    def _ask(self, dead: str, above: int) -> bool:
        keys, before, was_to_lapse_in_ms = self._queue.keys, self.others, self.lapses_in_ms
        ours, value, lapses_in_ms, kept = self._queue.call(
            "take_lease",
            [keys.lease, keys.last_lease],
            self._name(self._tenures),
            self._name(self._tenures + 1),
            self._lease_ms,
            dead,
            above,
        )
        self.held = bool(ours)
        self.others, self.lapses_in_ms = "", lapses_in_ms
        if ours:
            self._queue.fence = value.decode()
            self.kept = bool(kept)
            self._tenures += not kept
        else:
            self.others = value.decode(errors="replace")
            self.others_live = self.others == before and lapses_in_ms > was_to_lapse_in_ms
        return self.held

    def _name(self, tenure: int) -> str:
        return f"{self._token}.{tenure} {self._holder}"

    def lost(self) -> None:
        """A script has said so."""
        self.held = False

    def release(self) -> None:
        """Another may have it at once. Raises ``QueueUnavailable``."""
        if self.held:
            self._queue.call("release_lease", [self._queue.keys.lease], self._queue.fence)
            self.held = False
