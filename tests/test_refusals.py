"""What refused requests cost: those that search for the cause, and those that learn a size."""

from __future__ import annotations

import math
import random
from typing import cast

import msgspec
import pytest

from rudderpipe.delivery import outcome
from rudderpipe.delivery.data_plane import DataPlane
from rudderpipe.delivery.dispatcher import Batch, Decision, Dispatcher
from rudderpipe.delivery.outcome import Outcome
from rudderpipe.process.clock import Clock
from rudderpipe.settings import Settings
from tests.fakes import FakeClock


class Strict:
    """A data plane that refuses a request which holds one of the guilty, or has more bytes than ``limit_bytes``."""

    def __init__(
        self, guilty: set[int], limit_bytes: int = 1 << 30, status: int = 400, moods: random.Random | None = None
    ) -> None:
        self.guilty = guilty
        self.limit_bytes = limit_bytes
        self.status = status
        self.moods = moods
        """With these, every fifth request is answered with 503."""
        self.requests: list[list[int]] = []
        self.accepted: list[int] = []
        self.too_large = 0

    def post(self, body: bytes, _write_key: str, _timeout_s: float | None = None) -> Outcome:
        numbers = [event["n"] for event in msgspec.json.decode(body)["batch"]]
        if self.moods is not None and self.moods.random() < 0.2:
            return outcome.of_answer(503, b"busy")
        self.requests.append(numbers)
        if len(body) > self.limit_bytes:
            self.too_large += 1
            return outcome.of_answer(413, b"too large")
        if self.guilty & set(numbers):
            return outcome.of_answer(self.status, b"bad")
        self.accepted += numbers
        return outcome.of_answer(200, b"ok")


class Backlog:
    """Batches in order, and what a dispatcher's store must do with them."""

    def __init__(
        self, sizes: list[int], plane: Strict, clock: Clock, *, event_bytes: int = 20, events_a_key: int = 1 << 30
    ) -> None:
        numbers = iter(range(sum(sizes)))
        self.batches = [[self._event(next(numbers), event_bytes) for _ in range(size)] for size in sizes]
        self.failures: list[int] = []
        self.attempts = 0
        """Of the first batch."""
        self.pauses: list[float] = []
        self._events_a_key = events_a_key
        self._dispatcher = Dispatcher(cast(DataPlane, plane), Settings(), clock)

    @staticmethod
    def _event(number: int, size_bytes: int) -> bytes:
        return b'{"n":%d,"x":"%b"}' % (number, b"x" * size_bytes)

    def run(self) -> None:
        """Until every batch is settled."""
        while self.batches:
            self.attempt()

    def attempt(self) -> None:
        """Once."""
        offered = [Batch(batch, sum(map(len, batch)), self._key_of(batch)) for batch in self.batches[:50]]
        offered[0] = msgspec.structs.replace(offered[0], attempts=self.attempts)
        self._dispatcher.run(offered, self)

    def delivered(self, decision: Decision) -> None:
        del self.batches[: decision.count]
        self.attempts = 0

    def retry(self, decision: Decision) -> None:
        self.attempts = decision.attempts

    def failed(self, decision: Decision) -> None:
        assert decision.count == 1
        self.failures += [msgspec.json.decode(event)["n"] for event in self.batches.pop(0)]
        self.attempts = 0

    def split(self, decision: Decision) -> None:
        assert decision.count == 1
        middle = len(self.batches[0]) // 2
        self.batches[:1] = [self.batches[0][:middle], self.batches[0][middle:]]
        self.attempts = 0

    def fewer(self, decision: Decision) -> None:
        assert decision.count > 1

    def blocked(self, decision: Decision) -> None:
        assert decision.attempts == self.attempts
        self.pauses.append(decision.wait_s)

    stopped = blocked

    def _key_of(self, batch: list[bytes]) -> str:
        """One source's events, then another's."""
        return f"KEY{msgspec.json.decode(batch[0])['n'] // self._events_a_key}"


@pytest.mark.parametrize("place", [0, 1, 17, 24, 25, 48, 49])
def test_one_bad_batch_of_fifty_costs_a_logarithm(clock: FakeClock, place: int) -> None:
    """The others keep their order."""
    plane = Strict({place})
    line = Backlog([1] * 50, plane, clock)

    line.run()

    assert line.failures == [place]
    assert plane.accepted == [number for number in range(50) if number != place]
    assert len(plane.requests) <= 2 + math.ceil(math.log2(50)) + 3


@pytest.mark.parametrize("busy", [False, True])
@pytest.mark.parametrize("events_a_key", [1 << 30, 150])
@pytest.mark.parametrize("seed", range(30))
def test_bad_events_anywhere_cost_a_logarithm_each_and_nothing_else(
    clock: FakeClock, seed: int, events_a_key: int, busy: bool
) -> None:
    """Only they fail, order is kept, and no event is accepted twice; answers of 503 in between change nothing."""
    random_ = random.Random(seed)
    sizes = [random_.choice((1, 2, 7, 20)) for _ in range(random_.randrange(1, 120))]
    count = sum(sizes)
    guilty = set(random_.sample(range(count), min(count, random_.choice((1, 2, 5)))))
    plane = Strict(guilty, status=random_.choice((400, 422)), moods=random_ if busy else None)
    line = Backlog(sizes, plane, clock, events_a_key=events_a_key)

    line.run()

    assert line.failures == sorted(guilty)
    assert plane.accepted == [number for number in range(count) if number not in guilty]
    good = math.ceil(len(sizes) / 50) + count // events_a_key
    assert len(plane.requests) <= good + len(guilty) * (2 * math.log2(50 * 20) + 4)


def test_what_is_refused_whatever_it_holds_is_soon_sent_batch_by_batch(clock: FakeClock) -> None:
    """A wrong write key: a search for a cause in each batch would cost a logarithm each."""
    plane = Strict(set(range(200)), status=401)
    line = Backlog([1] * 200, plane, clock)

    line.run()

    assert line.failures == list(range(200))
    assert len(plane.requests) <= 200 + 40


def test_a_limit_of_size_is_learnt_from_its_refusals(clock: FakeClock) -> None:
    """Behind 5 kB, 120 batches of twice that: a handful of refusals, not one for each batch."""
    plane = Strict(set(), limit_bytes=5_000)
    line = Backlog([20] * 120, plane, clock, event_bytes=400)

    line.run()

    assert line.failures == []
    assert plane.accepted == list(range(2400))
    assert plane.too_large <= 10


def test_a_size_that_was_refused_is_tried_again_after_a_minute(clock: FakeClock) -> None:
    """The limit may be gone; until then requests stay below half of it."""
    plane = Strict(set(), limit_bytes=5_000)
    first, second, third = (Backlog([1] * 50, plane, clock, event_bytes=400) for _ in range(3))
    dispatcher = first._dispatcher
    second._dispatcher = third._dispatcher = dispatcher
    first.run()
    plane.limit_bytes = 1 << 30
    clock.now_s += 50
    plane.requests.clear()
    second.run()
    assert max(map(len, plane.requests)) <= 12
    clock.now_s += 20
    plane.requests.clear()
    third.run()
    assert len(plane.requests) == 1


def test_one_event_that_is_too_large_fails_alone(clock: FakeClock) -> None:
    """Its size bounds nothing that is smaller."""
    plane = Strict(set(), limit_bytes=50_000)
    line = Backlog([1] * 3, plane, clock)
    line.batches[1] = [Backlog._event(1, 60_000)]

    line.run()

    assert line.failures == [1]
    assert plane.accepted == [0, 2]


def test_an_event_that_is_refused_for_its_size_alone_bounds_nothing(clock: FakeClock) -> None:
    """However small it is: a batch behind it is not taken apart for it."""
    plane = Strict(set(), limit_bytes=10)
    line = Backlog([1, 20, 20], plane, clock)
    behind, line.batches[1:] = line.batches[1:], []
    line.attempt()
    assert line.failures == [0]
    line.batches = behind
    plane.limit_bytes = 1 << 30

    line.run()

    assert len(plane.requests) == 2


def test_refusals_that_go_on_do_not_keep_a_bound_alive(clock: FakeClock) -> None:
    """A minute after the first one the full size is tried again."""
    plane = Strict(set(), limit_bytes=5_000)
    dispatcher = Dispatcher(cast(DataPlane, plane), Settings(), clock)

    def send() -> None:
        line = Backlog([1] * 50, plane, clock, event_bytes=400)
        line._dispatcher = dispatcher
        line.run()

    send()
    clock.now_s += 40
    plane.limit_bytes = 1_000
    send()
    clock.now_s += 30
    plane.limit_bytes = 1 << 30
    plane.requests.clear()
    send()
    assert len(plane.requests) == 1


@pytest.mark.parametrize("why", ["no memory", "another error", "an obstacle", "a stop"])
def test_what_this_host_prevents_or_cuts_off_is_no_attempt(clock: FakeClock, why: str) -> None:
    """The same events are tried again after a pause, as often as it takes, and then have all their attempts."""

    class Prevented(Strict):
        def post(self, body: bytes, write_key: str, timeout_s: float | None = None) -> Outcome:
            if why == "no memory":
                raise MemoryError
            if why == "another error":
                raise RuntimeError
            return outcome.of_obstacle("no descriptor") if why == "an obstacle" else outcome.STOPPED

    line = Backlog([1] * 2, Prevented(set()), clock)
    for _ in range(20):
        line.attempt()

    assert len(line.pauses) == 20
    assert min(line.pauses) > 0
    assert (len(line.batches), line.failures) == (2, [])


def test_an_attempt_without_success_is_counted_until_there_are_too_many(clock: FakeClock) -> None:
    """Then the first batch alone fails, although the two shared their requests."""

    class Down(Strict):
        def post(self, body: bytes, write_key: str, timeout_s: float | None = None) -> Outcome:
            return outcome.of_failure("no connection")

    line = Backlog([1] * 2, Down(set()), clock)
    counted = []
    while not line.failures:
        line.attempt()
        counted.append(line.attempts)

    assert counted == [*range(1, 10), 0]
    assert (len(line.batches), line.failures) == (1, [0])


def test_a_search_that_turns_out_wrong_fails_nothing(clock: FakeClock) -> None:
    """A refusal that is not repeated: every event arrives, none fails without having been refused alone."""

    class Moody(Strict):
        def post(self, body: bytes, write_key: str, timeout_s: float | None = None) -> Outcome:
            self.guilty = {3} if not self.requests else set()
            return super().post(body, write_key, timeout_s)

    plane = Moody(set())
    line = Backlog([4] * 10, plane, clock)

    line.run()

    assert line.failures == []
    assert plane.accepted == list(range(40))
