"""The start of a pipe's flusher if none runs, and the application's log line if a started flusher does not serve."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import msgspec

from rudderpipe import log_text
from rudderpipe.errors import ProcessNotStarted
from rudderpipe.process import runtime_dir, spawn, start_lock
from rudderpipe.process.clock import Clock
from rudderpipe.process.log_limit import ThrottledLog
from rudderpipe.ring import flusher_lock
from rudderpipe.ring import layout as at
from rudderpipe.ring.ring import Ring
from rudderpipe.settings import Settings

RETRY_S = 1.0
"""Time that this process waits after the system refused a start."""
TOLD_AFTER_S = 1.0
"""Time between the end of a started flusher and the log line about it.

A flusher that serves another ring of the pipe takes a new ring within this time; then the second flusher ended only
because the first one serves the pipe already.
"""
TAIL_BYTES = 4096

logger = log_text.logger()


class _Begun(NamedTuple):
    """A flusher that this process started, and that this process has not seen serving yet."""

    ring: Ring
    term: int
    start_file: Path
    log: Path
    log_bytes: int


class Autostart:
    """The starter of flushers: at most one flusher of a pipe is starting on this host, however long its start takes.

    It belongs to one process, because it knows the flushers that this process has started.
    """

    def __init__(self, settings: Settings, clock: Clock, log: ThrottledLog) -> None:
        self._settings = settings
        self._clock = clock
        self._log = log
        self._begun: _Begun | None = None
        self._ended_s: float | None = None
        self._not_before_s = float("-inf")
        self._hopeless: ProcessNotStarted | None = None

    def look(self, ring: Ring, *, sure: bool = False) -> None:
        """Start a flusher if none runs and this process may start one; ``sure`` is that of ``flusher_lock.is_kept``."""
        spawn.reap()
        if self._begun is not None:
            self._see_begun(self._begun, ring)
        if self._begun is not None:
            return
        if not self._settings.autostart or self._clock.monotonic_s() < self._not_before_s:
            return
        if flusher_lock.may_start(ring, self._clock, sure=sure):
            self._start(ring)

    def prevented(self, ring: Ring) -> ProcessNotStarted | None:
        """Return the error if this process can never start a flusher and no flusher serves the ring; else None."""
        if self._hopeless is not None and flusher_lock.is_kept(ring, self._clock, sure=True):
            return None
        return self._hopeless

    def _start(self, ring: Ring) -> None:
        try:
            log, start_file = runtime_dir.log_file(self._settings), start_lock.file_of(self._settings)
            claim = start_lock.take(start_file)
            if claim is None:
                return
            begun = _Begun(ring, ring.words[at.H_TERM], start_file, log, log.stat().st_size if log.exists() else 0)
            try:
                payload = msgspec.json.encode(self._settings)
                arguments = ("--lingers", "--claim", str(claim), "--log", str(log))
                spawn.start_detached("rudderpipe.flusher", payload, *arguments, log=log, keep=(claim,))
            except BaseException:
                start_lock.end(start_file, claim)
                raise
            os.close(claim)
            self._begun, self._ended_s = begun, None
        except ProcessNotStarted as error:
            flusher_lock.start_failed(ring)
            self._not_before_s, self._hopeless = float("inf"), error
            logger.error("no flusher runs, and autostart cannot work here: %s", error)
        except Exception as error:  # noqa: BLE001  # gevent's Popen raises errors of its own in some threads
            flusher_lock.start_failed(ring)
            self._not_before_s = self._clock.monotonic_s() + RETRY_S
            self._log.warning("start", "the flusher cannot be started: %s", error)

    def _see_begun(self, begun: _Begun, ring: Ring) -> None:
        if start_lock.is_taken(begun.start_file):
            return
        # The ring may have been removed since then, and its flusher may serve another ring instead.
        if begun.ring.words[at.H_TERM] != begun.term or flusher_lock.is_kept(ring, self._clock, sure=True):
            self._begun = self._ended_s = None
            return
        now_s = self._clock.monotonic_s()
        self._ended_s = now_s if self._ended_s is None else self._ended_s
        if now_s - self._ended_s >= TOLD_AFTER_S:
            self._begun = self._ended_s = None
            said = _last_line(begun.log, begun.log_bytes) or "it logged nothing"
            logger.error("the flusher that was started has ended: %s log=%s", said, begun.log)


def _last_line(path: Path, after_bytes: int) -> str:
    """Return the last line that was appended to a process's log, made safe for one line of another log."""
    try:
        with path.open("rb") as log:
            log.seek(after_bytes)
            text = log.read()[-TAIL_BYTES:].decode("utf-8", "replace")
    except OSError:
        return ""
    lines = text.split("\n")
    last = next((line for line in reversed(lines) if line.strip()), "")
    return log_text.one_line(last)
