"""The sender, direct mode and sync mode make the same of what a data plane says."""

from __future__ import annotations

from pathlib import Path

import pytest

from rudderpipe.delivery import outcome
from rudderpipe.delivery.outcome import STOPPED, Outcome
from rudderpipe.errors import DeliveryError
from rudderpipe.flusher.dead_letters import DeadLetters
from rudderpipe.flusher.flusher import Flusher
from rudderpipe.ring import counters
from rudderpipe.ring.ring import Ring
from rudderpipe.settings import Settings
from rudderpipe.transports.sync import SyncTransport
from tests.fake_queue import FakeQueue, FakeStore
from tests.fakes import FakeClock, direct_sink, producer_of
from tests.test_sender import BAD, BLOCKED, DOWN, OK, FakePlane, run, wired

SETTINGS = Settings(write_key="KEY", data_plane_url="http://d", max_attempts=3, flush_at=1, max_jobs_per_request=1)
EVENT = b'{"userId":"a"}'


class Mode:
    """One event of one mode, and what became of it: "delivered", or why it failed."""

    def __init__(self, name: str, ring: Ring, clock: FakeClock, directory: Path, *answers: Outcome) -> None:
        self.plane = FakePlane(*answers)
        self._clock = clock
        self._letters = DeadLetters(directory / "x.failed", 1 << 20)
        self._queue = FakeQueue(FakeStore(clock))
        if name == "sender":
            self._queue.put("a")
            self.duty = wired(self._queue, self.plane, clock, SETTINGS)
        else:
            self._ring = ring
            assert producer_of(ring, clock).append(EVENT) is None
            sink = direct_sink(ring, SETTINGS, self.plane, self._letters, clock)
            self.duty = Flusher(ring, sink, SETTINGS, clock)  # type: ignore[assignment]  # both have work and drain
        self._name = name

    def run(self, seconds: float) -> str:
        """So long; "" while the event waits."""
        run(self.duty, self._clock, seconds)
        if self._name == "sender":
            return "delivered" if self._queue.store.delivered else "".join(self._queue.reasons().values())
        delivered = counters.read(self._ring).delivered
        return "delivered" if delivered else "".join(record.reason for record in self._letters.records())


BOTH = pytest.mark.parametrize("name", ["sender", "direct"])


@BOTH
def test_attempts_are_counted_until_there_are_too_many(ring: Ring, clock: FakeClock, tmp_path: Path, name: str) -> None:
    """With the same pauses, of 2 and 4 seconds."""
    mode = Mode(name, ring, clock, tmp_path, *[DOWN] * 3)

    assert mode.run(1.5) == ""
    assert len(mode.plane.requests) == 1
    assert mode.run(4) == ""
    assert len(mode.plane.requests) == 2
    assert mode.run(4) == "status 503: down (after 3 attempts)"


@BOTH
@pytest.mark.parametrize("prevented", [BLOCKED, STOPPED])
def test_what_is_no_attempt_is_never_counted(
    ring: Ring, clock: FakeClock, tmp_path: Path, name: str, prevented: Outcome
) -> None:
    """However often it comes between two attempts; each is followed by a pause."""
    mode = Mode(name, ring, clock, tmp_path, DOWN, *[prevented] * 20, DOWN, OK)

    assert mode.run(40) == ""
    assert 10 <= len(mode.plane.requests) <= 21
    assert mode.run(30) == "delivered"


@BOTH
def test_a_refusal_fails_at_once(ring: Ring, clock: FakeClock, tmp_path: Path, name: str) -> None:
    """And is kept with its reason."""
    assert Mode(name, ring, clock, tmp_path, BAD).run(1) == "status 400: bad (after 1 attempt)"


@BOTH
def test_a_stop_that_cuts_a_request_off_ends_the_drain_and_keeps_the_event(
    ring: Ring, clock: FakeClock, tmp_path: Path, name: str
) -> None:
    """It makes no further request, and the next process delivers the event."""
    mode = Mode(name, ring, clock, tmp_path, *[STOPPED] * 9)
    mode.duty.work()
    mode.duty.drain(clock.monotonic_s() + 60)

    assert len(mode.plane.requests) == 1
    mode.plane.outcomes = []
    assert mode.run(5) == "delivered"


@pytest.mark.parametrize(
    ("answers", "reason", "waited_s"),
    [
        ([DOWN, DOWN, OK], "", 6),
        ([DOWN, DOWN, DOWN], "status 503: down (after 3 attempts)", 6),
        ([BAD], "status 400: bad (after 1 attempt)", 0),
        ([DOWN, BLOCKED], "ca_file cannot be read: Permission denied (after 1 attempt)", 2),
        ([outcome.of_answer(413, b"large")], "status 413: large (after 1 attempt)", 0),
    ],
)
def test_sync_mode_does_so_within_the_call(
    monkeypatch: pytest.MonkeyPatch, clock: FakeClock, answers: list[Outcome], reason: str, waited_s: float
) -> None:
    """Only what this host prevents fails at once, because a call cannot wait for an operator."""
    plane = FakePlane(*answers)
    monkeypatch.setattr(SyncTransport, "_new_plane", lambda _self: plane)
    transport = SyncTransport(SETTINGS, clock)
    begun_s = clock.monotonic_s()

    if reason:
        assert str(transport.put(EVENT)) == str(DeliveryError(reason))
    else:
        assert transport.put(EVENT) is None
    assert clock.monotonic_s() - begun_s == waited_s
    assert len(plane.requests) == len(answers)
