"""One attempt at a time to deliver what is first in line, and what is to become of it then."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec
from msgspec import Raw

from rudderpipe.clock import Clock, iso_ms
from rudderpipe.delivery import request
from rudderpipe.delivery.backoff import BLOCKED_S, before_retry_s
from rudderpipe.delivery.outcome import Outcome, of_obstacle
from rudderpipe.delivery.post import DataPlane
from rudderpipe.settings import Settings

MAY_BE_ONE_EVENT = (400, 413)
"""A refusal that a single event of many may have caused."""


class Parcel(msgspec.Struct, frozen=True):
    """A batch on its way; ``attempts`` are those made so far."""

    events: Sequence[bytes | Raw]
    size_bytes: int
    write_key: str
    timeout_s: float | None = None
    attempts: int = 0


class Verdict(msgspec.Struct, frozen=True):
    """What became of the first ``count`` parcels.

    ``delivered``; ``retry``: the same again after ``wait_s``; ``blocked``: likewise, but no attempt was made and none
    is to be counted, as this host prevents it; ``failed``: never again (``count`` is 1); ``split``: the halves of the
    first are to be tried apart; ``alone``: nothing is settled, they are sent one by one from now on.
    ``attempts`` includes the one just made.
    """

    kind: Literal["delivered", "retry", "blocked", "failed", "split", "alone"]
    count: int
    attempts: int
    outcome: Outcome
    wait_s: float = 0.0

    @property
    def reason(self) -> str:
        """Status, what the server said, and the attempts made: what the failed set shows."""
        return f"{self.outcome.reason} (after {self.attempts} attempt{'s' if self.attempts != 1 else ''})"


class Courier:
    """Sends parcels in order, several in one request; each is settled as itself."""

    def __init__(self, plane: DataPlane, settings: Settings, clock: Clock) -> None:
        self._plane = plane
        self._settings = settings
        self._clock = clock
        self._alone = 0
        """How many of the parcels are sent one by one, as a request that they shared was refused."""

    def forget(self) -> None:
        """The parcels of the next attempt are others."""
        self._alone = 0

    def attempt(self, parcels: Sequence[Parcel]) -> Verdict:
        """One request with the first of these (at least one)."""
        group = self._group(parcels)
        first = group[0]
        try:
            events = [event for parcel in group for event in parcel.events]
            body = request.body(events, iso_ms(self._clock.time_ms()))
            outcome = self._plane.post(body, first.write_key, first.timeout_s)
        except MemoryError:
            outcome = of_obstacle("no memory is left for a request")
        except Exception as error:  # noqa: BLE001  # events that are JSON can be posted: it is not their doing
            outcome = of_obstacle(f"a request cannot be made: {type(error).__name__}")
        verdict = self._judge(group, outcome, first.attempts + 1)
        if verdict.kind in ("delivered", "failed"):
            self._alone = max(0, self._alone - verdict.count)
        elif verdict.kind == "split":
            self._alone = max(1, self._alone) + 1
        elif verdict.kind == "alone":
            self._alone = len(group)
        return verdict

    def _judge(self, group: Sequence[Parcel], outcome: Outcome, attempts: int) -> Verdict:
        if outcome.kind == "delivered":
            return Verdict("delivered", len(group), attempts, outcome)
        if outcome.kind == "blocked":
            return Verdict("blocked", len(group), attempts - 1, outcome, BLOCKED_S)
        if outcome.kind == "retry":
            if attempts >= self._settings.max_attempts:
                return Verdict("failed", 1, attempts, outcome)
            return Verdict("retry", len(group), attempts, outcome, before_retry_s(attempts, outcome.retry_after_s))
        if len(group) > 1:
            return Verdict("alone", len(group), attempts, outcome)
        if outcome.status in MAY_BE_ONE_EVENT and len(group[0].events) > 1:
            return Verdict("split", 1, attempts, outcome)
        return Verdict("failed", 1, attempts, outcome)

    def _group(self, parcels: Sequence[Parcel]) -> Sequence[Parcel]:
        """The first that may travel together: one write key, one timeout, and small enough."""
        first = parcels[0]
        together, size_bytes = 1, first.size_bytes
        if not self._alone:
            for parcel in parcels[1 : self._settings.max_jobs_per_request]:
                size_bytes += parcel.size_bytes
                if size_bytes > self._settings.max_request_bytes:
                    break
                if (parcel.write_key, parcel.timeout_s) != (first.write_key, first.timeout_s):
                    break
                together += 1
        return parcels[:together]
