"""The dispatcher, which makes one attempt at a time, decides what happens to the batches, and tells their store."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, Protocol, TypeVar

import msgspec
from msgspec import Raw

from rudderpipe.delivery import request
from rudderpipe.delivery.data_plane import DataPlane
from rudderpipe.delivery.outcome import BLOCKED_S, Outcome, before_retry_s, of_obstacle
from rudderpipe.delivery.request_size import RequestSize
from rudderpipe.process.clock import Clock, iso_ms
from rudderpipe.process.handlers import let_through
from rudderpipe.settings import Settings

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
Kind = Literal["delivered", "retry", "blocked", "stopped", "failed", "split", "fewer"]
TOO_LARGE = 413
MAY_BE_ONE_EVENT = (400, TOO_LARGE, 422)
"""The statuses of a refusal that a single event of many may have caused."""
TOO_LARGE_S = 60.0
"""How long later requests stay below a size that was too large, before a larger one is tried again."""


class Batch(msgspec.Struct, frozen=True):
    """A batch to deliver; ``attempts`` is the number of attempts made so far."""

    events: Sequence[bytes | Raw]
    size_bytes: int
    write_key: str
    timeout_s: float | None = None
    attempts: int = 0


class Decision(msgspec.Struct, frozen=True):
    """The decision about the first ``count`` batches after one attempt. ``Store`` has a method for each kind.

    ``attempts`` includes the attempt just made, unless it does not count.
    """

    kind: Kind
    count: int
    attempts: int
    outcome: Outcome
    wait_s: float = 0.0
    events: int = 0
    """How many events the request had; 0 if none was sent, because an earlier refusal decided."""
    seconds: float = 0.0
    """How long the request took."""

    @property
    def reason(self) -> str:
        """The reason for the failed set: the status, the text of the server and the number of attempts."""
        return f"{self.outcome.reason} (after {self.attempts} attempt{'s' if self.attempts != 1 else ''})"

    def tell(self, store: Store[T]) -> T:
        """Call the store's method for this kind of decision. Return what it returns, and raise what it raises."""
        methods: dict[Kind, Callable[[Decision], T]] = {
            "delivered": store.delivered,
            "retry": store.retry,
            "blocked": store.blocked,
            "stopped": store.stopped,
            "failed": store.failed,
            "split": store.split,
            "fewer": store.fewer,
        }
        return methods[self.kind](self)


class Store(Protocol[T_co]):
    """The place that batches come from and that learns what becomes of them: the queue, the ring, or a call.

    One method is called after each attempt. It concerns the first ``decision.count`` of the batches that were given to
    the attempt.
    """

    def delivered(self, decision: Decision) -> T_co:
        """Record that the batches are done."""

    def retry(self, decision: Decision) -> T_co:
        """Count an attempt of each batch, and offer the same batches again after ``wait_s``."""

    def blocked(self, decision: Decision) -> T_co:
        """Offer the same batches again after ``wait_s``. This host prevented the attempt, so it is not counted."""

    def stopped(self, decision: Decision) -> T_co:
        """Offer nothing for ``wait_s``. The stop of this process cut the request off, so it is no attempt."""

    def failed(self, decision: Decision) -> T_co:
        """Record that the first batch has failed and is never offered again."""

    def split(self, decision: Decision) -> T_co:
        """Offer the two halves of the first batch instead of it. It has two events or more."""

    def fewer(self, decision: Decision) -> T_co:
        """Offer the same batches again at once. Nothing is decided, and the next request has fewer of them."""


class Dispatcher:
    """The dispatcher: sends batches in order, several in one request, and decides about each batch separately.

    A refused request is bisected. The next request has half of its batches, then half of the batches that must contain
    the cause, down to one batch, so that n batches cost log2(n) requests. Later batches share smaller requests, which
    grow again with each success. After a request that was too large, the requests of the next minute stay smaller.
    ``size`` bounds every request.
    """

    def __init__(self, plane: DataPlane, settings: Settings, clock: Clock) -> None:
        self._plane = plane
        self._settings = settings
        self._clock = clock
        self.size = RequestSize(settings, clock)
        self._at_most = settings.max_jobs_per_request
        """The number of batches that may share a request now."""
        self._suspects = 0
        """The number of first batches that contain the cause of the last refusal; 0 when there is none."""
        self._refusal: Outcome | None = None
        """The outcome that made the suspects suspicious."""
        self._too_large: Outcome | None = None
        """The outcome of the last request that was too large; None before the first."""
        self._too_large_bytes = 0
        """The smallest size that was too large, until the moment ``_too_large_until_s``."""
        self._too_large_until_s = 0.0

    def forget(self) -> None:
        """Forget the suspects, because the next attempt has other batches."""
        self._suspects = 0

    def run(
        self, batches: Sequence[Batch], store: Store[T], note: Callable[[Decision], object] = lambda _decision: None
    ) -> T:
        """Make one attempt with the first of these batches (at least one), and tell their store the decision.

        ``note`` is called with the decision before.
        """
        # Order: the outcome is learned first, because the store may call ``forget`` (tests/test_sender_trouble.py).
        decision = self.attempt(batches)
        note(decision)
        return decision.tell(store)

    def attempt(self, batches: Sequence[Batch]) -> Decision:
        """Send one request with the first of these batches (at least one), and return the decision about them.

        No request is sent when an earlier refusal shows that the first batch must be split. Any thread may call this,
        because it changes only this dispatcher and its data plane, as long as no other method is called meanwhile.
        """
        first = batches[0]
        known = self._known_refusal(first)
        if known is not None:
            self._suspects = 2 if known.status != TOO_LARGE else 0
            return Decision("split", 1, first.attempts, known)
        group = self._group(batches)
        begun_s = self._clock.monotonic_s()
        try:
            body = request.body([batch.events for batch in group], iso_ms(self._clock.time_ms()))
            outcome = self._plane.post(body, first.write_key, first.timeout_s)
        except MemoryError:
            outcome = of_obstacle("no memory is left for a request")
        except Exception as error:  # noqa: BLE001  # events that are JSON can be posted, so they are not the cause
            let_through(error)
            outcome = of_obstacle(f"the request cannot be made: {type(error).__name__}")
        took_s = self._clock.monotonic_s() - begun_s
        self.size.learn(outcome, took_s, first.timeout_s)
        decision = self._judge(group, outcome, first.attempts + 1)
        events = sum(len(batch.events) for batch in group)
        decision = msgspec.structs.replace(decision, events=events, seconds=took_s)
        self._learn(group, decision)
        return decision

    def _judge(self, group: Sequence[Batch], outcome: Outcome, attempts: int) -> Decision:
        if outcome.kind == "delivered":
            return Decision("delivered", len(group), attempts, outcome)
        if outcome.kind in ("blocked", "stopped"):
            return Decision(outcome.kind, len(group), attempts - 1, outcome, BLOCKED_S)
        if outcome.kind == "retry":
            if attempts >= self._settings.max_attempts:
                return Decision("failed", 1, attempts, outcome)
            return Decision("retry", len(group), attempts, outcome, before_retry_s(attempts, outcome.retry_after_s))
        if len(group) > 1:
            return Decision("fewer", len(group), attempts, outcome)
        if outcome.status in MAY_BE_ONE_EVENT and len(group[0].events) > 1:
            return Decision("split", 1, attempts, outcome)
        return Decision("failed", 1, attempts, outcome)

    def _learn(self, group: Sequence[Batch], decision: Decision) -> None:
        """Remember what the outcome says about the batches that follow."""
        count, outcome = len(group), decision.outcome
        if outcome.kind == "delivered":
            if self._suspects:
                self._suspects = max(0, self._suspects - count)
            elif count >= min(self._at_most, self.size.batches):
                self._at_most = min(self._settings.max_jobs_per_request, 2 * self._at_most)
        elif outcome.kind == "refused" and outcome.status == TOO_LARGE:
            self._suspects = 0
            if decision.kind != "failed":  # the size of a single event says nothing about batches
                self._bound(outcome, sum(batch.size_bytes for batch in group))
        elif outcome.kind == "refused":
            if count > 1 and not self._suspects:
                self._at_most = max(1, count // 2)
            self._refusal = outcome
            self._suspects = {"fewer": count, "split": 2}.get(decision.kind, 0)
        elif decision.kind == "failed":
            self._suspects = 0  # the attempts are used up, and it is unknown whether this batch was the cause

    def _bound(self, outcome: Outcome, size_bytes: int) -> None:
        """Keep requests below a size that was too large, until a minute after the first such response."""
        if not self._is_bounded():
            self._too_large_bytes = size_bytes
            self._too_large_until_s = self._clock.monotonic_s() + TOO_LARGE_S
        self._too_large = outcome
        self._too_large_bytes = min(self._too_large_bytes, size_bytes)

    def _known_refusal(self, first: Batch) -> Outcome | None:
        """Return the outcome that the first batch would surely have, if the batch can be split; else None."""
        if len(first.events) < 2:
            return None
        if self._is_bounded() and first.size_bytes >= self._too_large_bytes:
            return self._too_large
        refusal = self._refusal
        if self._suspects == 1 and refusal is not None and refusal.status in MAY_BE_ONE_EVENT:
            return refusal  # the other batches of the refused request have been delivered
        return None

    def _is_bounded(self) -> bool:
        return self._too_large is not None and self._clock.monotonic_s() < self._too_large_until_s

    def _group(self, batches: Sequence[Batch]) -> Sequence[Batch]:
        """Return the first batches that may share a request: same write key and timeout, few and small enough."""
        first = batches[0]
        together, size_bytes = 1, _body_bytes(first)
        at_most = (self._suspects + 1) // 2 if self._suspects else min(self._at_most, self.size.batches)
        max_bytes = self.size.bytes
        if self._is_bounded():
            max_bytes = min(max_bytes, self._too_large_bytes // 2)
        for batch in batches[1:at_most]:
            size_bytes += _body_bytes(batch)
            if size_bytes > max_bytes:
                break
            if (batch.write_key, batch.timeout_s) != (first.write_key, first.timeout_s):
                break
            together += 1
        return batches[:together]


def _body_bytes(batch: Batch) -> int:
    """Return how much of a request's body a batch may take, with what the attempt adds to each event."""
    return batch.size_bytes + request.SENT_AT_BYTES * len(batch.events)
