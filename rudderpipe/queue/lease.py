"""The lease, which makes one process the only sender of a queue across all hosts."""

from __future__ import annotations

from collections.abc import Callable

from rudderpipe.queue.queue import Queue


class Lease:
    """One process's view of the lease. Only the thread that works on the queue may use it.

    Each taken lease is stored as ``Queue.fencing_token``. When a sender dies, another sender takes over as soon as the
    lease expires, or at once if ``is_dead`` returns True for its holder. A sender that was away for longer
    than ``lease_ms`` keeps its lease if no other process has had the lease since.

    The holder's name in Redis begins with a token that changes with each unbroken period of holding. So a process that
    lost an answer can find out whether another process has had the lease in the meantime.
    """

    def __init__(self, queue: Queue, lease_ms: int, holder: str, is_dead: Callable[[str], bool]) -> None:
        """Start without the lease; ``holder`` identifies this process to operators and to ``is_dead`` elsewhere."""
        self._queue = queue
        self._lease_ms = lease_ms
        self._token = queue.token
        self._holder = holder
        self._tenures = 0
        self._is_dead = is_dead
        self.held = False
        self.kept = False
        """True if no other process has had the lease since this process had it before."""
        self.others = ""
        """The lease of the other sender while this process does not have it; else ""."""
        self.lapses_in_ms = 0
        """The milliseconds until the lease expires unless its holder renews it."""
        self.others_live = False
        """True if the other sender has renewed its lease between our last two calls."""

    @property
    def number(self) -> int:
        """The number of our current or last lease; 0 when this process never had one."""
        return int(self._queue.fencing_token.partition(" ")[0] or 0)

    def take(self, above: int = 0) -> bool:
        """Take or renew the lease; return True if this process has it now. Raise ``QueueUnavailable``.

        The new lease has a number higher than ``above``. A call under that number may still be under way, and Redis
        refuses the call from then on.
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
            self._queue.fencing_token = value.decode()
            self.kept = bool(kept)
            self._tenures += not kept
        else:
            self.others = value.decode(errors="replace")
            self.others_live = self.others == before and lapses_in_ms > was_to_lapse_in_ms
        return self.held

    def _name(self, tenure: int) -> str:
        return f"{self._token}.{tenure} {self._holder}"

    def lost(self) -> None:
        """Record that a script returned that the lease is lost."""
        self.held = False

    def release(self) -> None:
        """Give the lease up, so that another sender can take it at once. Raise ``QueueUnavailable``."""
        if self.held:
            self._queue.call("release_lease", [self._queue.keys.lease], self._queue.fencing_token)
            self.held = False
