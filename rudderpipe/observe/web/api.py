"""What the page shows of a pipe, as JSON."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from typing import Any

import msgspec

from rudderpipe.observe.doctor import run
from rudderpipe.observe.doctor.examination import Examination
from rudderpipe.observe.flow import Watch
from rudderpipe.observe.reader import Reader
from rudderpipe.observe.secrets_in_text import without_secrets
from rudderpipe.observe.web.history import INTERVAL_S, History
from rudderpipe.observe.web.request import Refused
from rudderpipe.process import fork, identity
from rudderpipe.process.clock import Clock
from rudderpipe.queue import pause
from rudderpipe.queue.queue_set import QueueSet
from rudderpipe.settings import Settings

FLOW_KEPT_S = 0.2
"""How long a flow is shown again, so that many visitors cost as much as one."""
DOCTOR_KEPT_S = 10.0
ANSWER_S = 3.0
SLOW_CALLS = 6
"""Calls that may wait for Redis at once: fewer than the server's threads, so that the flow is always served."""


class _Own:
    """What one process keeps between requests."""

    def __init__(self, settings: Settings, reader: Reader) -> None:
        self.watch = Watch(settings, reader)
        self.history = History()
        self.slow = threading.BoundedSemaphore(SLOW_CALLS)
        self.reading = threading.Lock()
        self.flow: dict[str, Any] = {}
        self.tag = ""
        self.examining = threading.Lock()
        self.examined: tuple[float, dict[str, object]] | None = None


class Api:
    """The state of one pipe. Any thread may call every method; a forked process has memory of its own.

    Every method raises ``RudderpipeError`` or ``OSError`` if what it returns cannot be read.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._reader = Reader(settings)
        self._clock = Clock()
        self._own = fork.Local(lambda: _Own(settings, self._reader))

    @contextmanager
    def slow_call(self) -> Iterator[None]:
        """Allow a call that may wait long. Raise ``Refused`` if too many are under way."""
        slow = self._own.value.slow
        if not slow.acquire(blocking=False):
            raise Refused(503, "The page is busy with other requests; try again.", Retry_After="2")
        try:
            yield
        finally:
            slow.release()

    def flow(self) -> tuple[dict[str, Any], str]:
        """Return the flow, and a tag that changes when anything but its time has changed."""
        own = self._own.value
        with own.reading:
            if not own.flow or self._clock.monotonic_s() - own.flow["taken_at_s"] > FLOW_KEPT_S:
                own.flow = msgspec.to_builtins(own.watch.read())
                report = (own.flow["sender"] or {}).get("report")
                if report is not None:  # the data plane's response may repeat what was sent
                    report["last_reason"] = without_secrets(report["last_reason"], self.settings)
                own.tag = _tag(own.flow)
                own.history.note(own.flow)
            return own.flow, own.tag

    def history(self) -> dict[str, Any]:
        """Return the totals of the last hour."""
        return {"interval_s": INTERVAL_S, "points": self._own.value.history.points()}

    def producers(self) -> dict[str, Any]:
        """Return the processes that send events."""
        rings = self._reader.read().snapshot.rings
        return {
            "producers": [
                {
                    "slot": each.slot,
                    "pid": each.pid,
                    "interpreter": ring.interpreter,
                    "up_s": identity.age_s(each.pid),
                    "accepted": each.accepted,
                    "in_ring": each.in_ring,
                    "refused": each.refused,
                }
                for ring in rings
                for each in ring.counters.producers
                if each.pid > 0
            ]
        }

    def doctor(self) -> dict[str, object]:
        """Return the findings of the doctor, which examines at most once in ``DOCTOR_KEPT_S``.

        Raise ``Refused`` while another request has the pipe examined.
        """
        own = self._own.value
        if not own.examining.acquire(blocking=False):
            raise Refused(503, "An examination is under way; ask again in a few seconds.", Retry_After="3")
        try:
            if own.examined is None or self._clock.monotonic_s() - own.examined[0] > DOCTOR_KEPT_S:
                found = run.as_json(list(run.run(Examination(self.settings))))
                own.examined = (self._clock.monotonic_s(), found)
            return own.examined[1]
        finally:
            own.examining.release()

    def set_paused(self, *, pauses: bool) -> None:
        """Pause or resume every queue. Raise ``Refused`` in direct mode, and if a queue cannot be reached."""
        if self.settings.redis is None:
            raise Refused(400, "Without a queue there is nothing to pause.")
        with closing(QueueSet(self.settings, self._clock, answer_s=ANSWER_S)) as queues:
            away = pause.set_all_paused(queues, pauses=pauses)
        if away:
            said = "; ".join(f"{prefix}: {reason}" for prefix, reason in away.items())
            raise Refused(503, f"{'Paused' if pauses else 'Resumed'} without the queues that are away: {said}")


def _tag(flow: Mapping[str, Any]) -> str:
    """Return a digest of a flow without what changes from moment to moment although nothing happens."""
    steady: dict[str, Any] = {**flow, "taken_at_ms": 0, "taken_at_s": 0}
    for name, moving in (("ring", ("heartbeat_age_s",)), ("sender", ("lapses_in_s",))):
        if steady[name] is not None:
            steady[name] = {key: value for key, value in steady[name].items() if key not in moving}
    return hashlib.sha256(msgspec.json.encode(_rounded(steady))).hexdigest()[:20]


def _rounded(value: Any) -> Any:
    """Return a value with its ages in whole seconds, as a person reads them."""
    if isinstance(value, dict):
        return {key: int(each) if _is_age(key, each) else _rounded(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_rounded(each) for each in value]
    return value


def _is_age(key: str, value: Any) -> bool:
    return isinstance(value, float) and key.endswith("_s")
