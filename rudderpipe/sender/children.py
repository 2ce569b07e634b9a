"""The senders that a manager has started, one for each queue."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterable

from rudderpipe import log_text
from rudderpipe.errors import ProcessNotStarted
from rudderpipe.process.clock import Clock
from rudderpipe.process.log_limit import RARELY_S, ThrottledLog
from rudderpipe.queue.route import QueuePlace

RESTART_MIN_S, RESTART_MAX_S = 1.0, 30.0
"""The pause before a sender that ended is started again. It doubles while the sender ends soon after each start."""
STABLE_S = 60.0
"""A sender that has run for so long works. Earlier ends count no more."""
FAILURES = 3
"""After so many ends in a row the sender counts as failing, so that another manager works on its queue."""
SILENT_S = 30.0
"""A sender that writes no line for so long is stalled or stopped. It is killed, and another one started."""
AWAKE_S = 1.0
"""How much of the time between two looks counts at most, because the manager may have been stopped with its senders."""
STARTS = 4
"""How many senders may be at their start. Hundreds at once would be silent for so long that they are killed."""
READ_BYTES = 1 << 16
logger = log_text.logger("rudderpipe.sender")


class _Child:
    """The sender of one queue: the process, or when the next one may be started."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[bytes] | None = None
        self.is_wanted = True
        self.is_asked_to_end = False
        self.started_s = 0.0
        self.failures = 0
        self.not_before_s = float("-inf")
        self.silent_s = 0.0
        """How long it has written nothing."""
        self.line = b""
        """The last line that it has written."""
        self._begun = b""

    def begin(self, process: subprocess.Popen[bytes], now_s: float) -> None:
        """Note a process that was started now."""
        self.process, self.started_s, self.silent_s = process, now_s, 0.0
        self.line = self._begun = b""
        if process.stdout is not None:
            os.set_blocking(process.stdout.fileno(), False)

    def hear(self, since_s: float) -> None:
        """Read, without a wait, what the sender has written in so many seconds."""
        assert self.process is not None
        self.silent_s += since_s
        if self.process.stdout is None:
            return
        try:
            read = os.read(self.process.stdout.fileno(), READ_BYTES)
        except BlockingIOError:
            return
        if read:
            self.silent_s = 0.0
            *lines, self._begun = (self._begun + read).split(b"\n")
            self.line = lines[-1] if lines else self.line

    def end(self) -> None:
        """Note that the process has ended."""
        assert self.process is not None
        if self.process.stdout is not None:
            self.process.stdout.close()
        self.process, self.line = None, b""


class Children:
    """A sender for each wanted queue. One that ends is started again, unless ``is_last`` returns True."""

    def __init__(
        self,
        start: Callable[[QueuePlace], subprocess.Popen[bytes]],
        clock: Clock,
        is_last: Callable[[], bool] = lambda: False,
    ) -> None:
        """``start`` starts a sender of one queue. It may raise ``ProcessNotStarted`` and ``OSError``."""
        self._start = start
        self._clock = clock
        self._is_last = is_last
        self._log = ThrottledLog(logger, clock, RARELY_S)
        self._looked_s = clock.monotonic_s()
        self._all: dict[QueuePlace, _Child] = {}
        self.done: set[QueuePlace] = set()
        """The queues whose sender has ended for good."""

    @property
    def places(self) -> set[QueuePlace]:
        """The queues with a sender, or with one that will be started again."""
        return {place for place, child in self._all.items() if child.is_wanted}

    @property
    def failing(self) -> set[QueuePlace]:
        """The queues whose sender ends again and again."""
        return {place for place, child in self._all.items() if child.failures >= FAILURES}

    @property
    def running(self) -> set[QueuePlace]:
        """The queues whose sender runs."""
        return {place for place, child in self._all.items() if child.process is not None}

    @property
    def lines(self) -> list[bytes]:
        """The last line of each sender that has written one. Any thread may read it."""
        return [child.line for child in tuple(self._all.values()) if child.line]

    def want(self, places: Iterable[QueuePlace]) -> None:
        """Have a sender for each of these queues, and ask all others to end."""
        wanted = set(places)
        for place in wanted - set(self._all):
            self._all[place] = _Child()
        for place, child in self._all.items():
            child.is_wanted = place in wanted
            if not child.is_wanted:
                _ask_to_end(child)

    def look(self) -> None:
        """Notice which senders have ended, and start those that are due. Never wait."""
        now_s = self._clock.monotonic_s()
        since_s, self._looked_s = min(AWAKE_S, now_s - self._looked_s), now_s
        starting = sum(child.process is not None and not child.line for child in self._all.values())
        for place, child in list(self._all.items()):
            if child.process is not None and child.process.poll() is not None:
                self._ended(place, child, child.process.returncode, now_s)
            if child.process is not None:
                child.hear(since_s)
                if child.silent_s >= SILENT_S:
                    logger.error("the sender of a queue is silent, killing it queue=%s", place.prefix)
                    child.process.kill()
                    child.silent_s = 0.0
                if now_s - child.started_s >= STABLE_S:
                    child.failures = 0
            elif not child.is_wanted or place in self.done:
                del self._all[place]
            elif now_s >= child.not_before_s and starting < STARTS:
                starting += 1
                self._start_one(place, child, now_s)
        if os.getpid() == 1:
            self._collect_orphans()

    def _ended(self, place: QueuePlace, child: _Child, code: int, now_s: float) -> None:
        child.end()
        if child.is_asked_to_end:
            logger.info("the sender of a queue has ended queue=%s exit_code=%d", place.prefix, code)
        elif self._is_last():
            self.done.add(place)
        else:
            said = "the sender of a queue ended, starting another, jobs stay in redis queue=%s exit_code=%d"
            self._log.warning(f"ended {place.prefix}", said, place.prefix, code)
            self._failed(child, now_s)

    def _failed(self, child: _Child, now_s: float) -> None:
        child.failures += 1
        child.not_before_s = now_s + min(RESTART_MAX_S, RESTART_MIN_S * 2 ** min(10, child.failures - 1))

    def _start_one(self, place: QueuePlace, child: _Child, now_s: float) -> None:
        child.is_asked_to_end = False
        try:
            child.begin(self._start(place), now_s)
        except (OSError, ProcessNotStarted) as error:
            said = "the sender of a queue cannot be started, jobs wait in redis, trying again queue=%s error=%s"
            self._log.error(f"start {place.prefix}", said, place.prefix, error)
            self._failed(child, now_s)

    def _collect_orphans(self) -> None:
        """Collect the ended processes that have become children of process 1, but not the senders."""
        own = {child.process.pid for child in self._all.values() if child.process is not None}
        while True:
            try:
                ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if ended is None or ended.si_pid in own:  # the next look collects it
                return
            os.waitpid(ended.si_pid, 0)

    def kill(self) -> None:
        """Kill the senders that still run, and collect them. Their jobs are recovered by the next senders."""
        for place, child in self._all.items():
            if child.process is not None:
                logger.warning("the sender of a queue did not end in time, killing it queue=%s", place.prefix)
                child.process.kill()
                child.process.wait()
                child.end()


def _ask_to_end(child: _Child) -> None:
    if child.process is not None and not child.is_asked_to_end:
        child.is_asked_to_end = True
        child.process.terminate()
