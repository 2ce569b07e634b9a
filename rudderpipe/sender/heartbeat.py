"""The thread that renews the lease and the locks while the sender waits for a response. It has its own connection."""

from __future__ import annotations

import threading
from collections.abc import Callable

from rudderpipe import log_text
from rudderpipe.errors import LeaseLost, QueueUnavailable
from rudderpipe.process.clock import Clock, Every
from rudderpipe.process.log_limit import RARELY_S, ThrottledLog
from rudderpipe.queue.queue import LOCK_MS, Queue
from rudderpipe.sender.state import SenderState
from rudderpipe.settings import Settings

TICK_S = 0.5
LOOK_S = 4.0
logger = log_text.logger("rudderpipe.sender")


class LockRenewer:
    """An optimization only: every script checks the lease and the lock again."""

    def __init__(
        self,
        queue: Queue,
        state: SenderState,
        settings: Settings,
        clock: Clock,
        on_tick: Callable[[], None] = lambda: None,
    ) -> None:
        """``queue`` locks jobs with the sender's token. ``on_tick`` is called about twice a second."""
        self._queue = queue
        self._state = state
        self._clock = clock
        self._on_tick = on_tick
        self._log = ThrottledLog(logger, clock, RARELY_S)
        shortest_ms = LOCK_MS if settings.is_multi_processor else min(LOCK_MS, settings.lease_ms)
        self._renewing = Every(min(LOOK_S, shortest_ms / 1000 / 3))
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="rudderpipe-keeper", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def _run(self) -> None:
        while not self._ended.wait(TICK_S):
            try:
                self.work()
            except Exception as error:  # noqa: BLE001  # an error of this host must not end the lease
                self._log.error(type(error).__name__, "cannot renew the lease and the locks of jobs, trying again")
            self._on_tick()

    def work(self) -> None:
        """Renew the lease and the locks if they are due. Tests call it without the thread."""
        state, now_s = self._state, self._clock.monotonic_s()
        if not self._renewing.is_due(now_s):
            return
        try:
            if state.state == "active" and (state.fencing_token or state.held):
                self._queue.fencing_token, self._queue.token = state.fencing_token, state.token or self._queue.token
                self._queue.renew(state.held)
            counts = self._queue.counts()
            held = len(state.held)
            stranded = self._queue.stranded() if counts.active > held else 0
        except LeaseLost:
            state.lost = self._queue.fencing_token
        except QueueUnavailable:  # the sender's own thread logs it
            state.waiting_jobs = None
        else:
            state.waiting_jobs, state.paused = counts.waiting + held + stranded, counts.paused
            state.redis_seen_at_s = self._clock.monotonic_s()
            if stranded:
                state.stranded_at_s = state.redis_seen_at_s
        state.progress.looked(state.health(now_s))

    def stop(self) -> None:
        """Stop the thread and close its connection."""
        self._ended.set()
        if self._thread.ident is not None:
            self._thread.join(timeout=TICK_S)
        if not self._thread.is_alive():  # a thread that still waits for Redis ends with the process
            self._queue.close()
