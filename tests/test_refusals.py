"""The number of requests that refusals cost: in the search for a bad event, and in learning a limit of size."""

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


class StrictPlane:
    """A data plane that refuses a request with a bad event, or with more than ``limit_bytes``."""

    def __init__(
        self, bad: set[int], limit_bytes: int = 1 << 30, status: int = 400, busy: random.Random | None = None
    ) -> None:
        self.bad = bad
        self.limit_bytes = limit_bytes
        self.status = status
        self.busy = busy
        """If set, about every fifth request gets the status 503."""
        self.requests: list[list[int]] = []
        self.accepted: list[int] = []
        self.too_large = 0

    def post(self, body: bytes, _write_key: str, _timeout_s: float | None = None) -> Outcome:
        numbers = [event["n"] for event in msgspec.json.decode(body)["batch"]]
        if self.busy is not None and self.busy.random() < 0.2:
            return outcome.of_answer(503, b"busy")
        self.requests.append(numbers)
        if len(body) > self.limit_bytes:
            self.too_large += 1
            return outcome.of_answer(413, b"too large")
        if self.bad & set(numbers):
            return outcome.of_answer(self.status, b"bad")
        self.accepted += numbers
        return outcome.of_answer(200, b"ok")


class Backlog:
    """Batches in order, and a store that does what the dispatcher decides."""

    def __init__(
        self, sizes: list[int], plane: StrictPlane, clock: Clock, *, event_bytes: int = 20, events_a_key: int = 1 << 30
    ) -> None:
        numbers = iter(range(sum(sizes)))
        self.batches = [[self._event(next(numbers), event_bytes) for _ in range(size)] for size in sizes]
        self.failures: list[int] = []
        self.attempts = 0
        """The counted attempts of the first batch."""
        self.pauses: list[float] = []
        self._events_a_key = events_a_key
        self._dispatcher = Dispatcher(cast(DataPlane, plane), Settings(), clock)

    @staticmethod
    def _event(number: int, size_bytes: int) -> bytes:
        return b'{"n":%d,"x":"%b"}' % (number, b"x" * size_bytes)

    def run(self) -> None:
        """Attempt until every batch is settled."""
        while self.batches:
            self.attempt()

    def attempt(self) -> None:
        """Make one attempt."""
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
        """Return the write key of a batch: the first events are of one source, the next ones of another."""
        return f"KEY{msgspec.json.decode(batch[0])['n'] // self._events_a_key}"


@pytest.mark.parametrize("bad_number", [0, 1, 17, 24, 25, 48, 49])
def test_one_bad_batch_of_fifty_costs_a_logarithm_of_requests(clock: FakeClock, bad_number: int) -> None:
    """The dispatcher halves the request to find the batch. The other batches keep their order."""
    plane = StrictPlane({bad_number})
    backlog = Backlog([1] * 50, plane, clock)

    backlog.run()

    assert backlog.failures == [bad_number]
    assert plane.accepted == [number for number in range(50) if number != bad_number]
    assert len(plane.requests) <= 2 + math.ceil(math.log2(50)) + 3


@pytest.mark.parametrize("busy", [False, True])
@pytest.mark.parametrize("events_a_key", [1 << 30, 150])
@pytest.mark.parametrize("seed", range(30))
def test_each_bad_event_costs_a_logarithm_of_requests(
    clock: FakeClock, seed: int, events_a_key: int, busy: bool
) -> None:
    """Only bad events fail, in order, and no event is accepted twice. Statuses of 503 change nothing."""
    random_ = random.Random(seed)
    sizes = [random_.choice((1, 2, 7, 20)) for _ in range(random_.randrange(1, 120))]
    count = sum(sizes)
    bad = set(random_.sample(range(count), min(count, random_.choice((1, 2, 5)))))
    plane = StrictPlane(bad, status=random_.choice((400, 422)), busy=random_ if busy else None)
    backlog = Backlog(sizes, plane, clock, events_a_key=events_a_key)

    backlog.run()

    assert backlog.failures == sorted(bad)
    assert plane.accepted == [number for number in range(count) if number not in bad]
    good = math.ceil(len(sizes) / 50) + count // events_a_key
    assert len(plane.requests) <= good + len(bad) * (2 * math.log2(50 * 20) + 4)


def test_with_a_wrong_write_key_batches_soon_travel_alone(clock: FakeClock) -> None:
    """Every request is refused. A search in each of them would cost a logarithm of requests for each batch."""
    plane = StrictPlane(set(range(200)), status=401)
    backlog = Backlog([1] * 200, plane, clock)

    backlog.run()

    assert backlog.failures == list(range(200))
    assert len(plane.requests) <= 200 + 40


def test_a_limit_of_size_is_learnt_from_few_refusals(clock: FakeClock) -> None:
    """The limit is 5 kB, and each of the 120 batches has about twice that."""
    plane = StrictPlane(set(), limit_bytes=5_000)
    backlog = Backlog([20] * 120, plane, clock, event_bytes=400)

    backlog.run()

    assert backlog.failures == []
    assert plane.accepted == list(range(2400))
    assert plane.too_large <= 10


def test_a_refused_size_is_tried_again_after_a_minute(clock: FakeClock) -> None:
    """The limit may be gone. Until then, requests stay below half of the refused size."""
    plane = StrictPlane(set(), limit_bytes=5_000)
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


def test_an_event_that_is_too_large_fails_alone(clock: FakeClock) -> None:
    """The refusal of a large event does not bound smaller requests."""
    plane = StrictPlane(set(), limit_bytes=50_000)
    backlog = Backlog([1] * 3, plane, clock)
    backlog.batches[1] = [Backlog._event(1, 60_000)]

    backlog.run()

    assert backlog.failures == [1]
    assert plane.accepted == [0, 2]


def test_the_refused_size_of_a_single_event_bounds_nothing(clock: FakeClock) -> None:
    """The event is small. Later batches are not split because of its refusal."""
    plane = StrictPlane(set(), limit_bytes=10)
    backlog = Backlog([1, 20, 20], plane, clock)
    behind, backlog.batches[1:] = backlog.batches[1:], []
    backlog.attempt()
    assert backlog.failures == [0]
    backlog.batches = behind
    plane.limit_bytes = 1 << 30

    backlog.run()

    assert len(plane.requests) == 2


def test_later_refusals_do_not_prolong_a_bound_of_size(clock: FakeClock) -> None:
    """The full size is tried again a minute after the first refusal."""
    plane = StrictPlane(set(), limit_bytes=5_000)
    dispatcher = Dispatcher(cast(DataPlane, plane), Settings(), clock)

    def send() -> None:
        backlog = Backlog([1] * 50, plane, clock, event_bytes=400)
        backlog._dispatcher = dispatcher
        backlog.run()

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
def test_an_attempt_that_this_host_prevents_is_not_counted(clock: FakeClock, why: str) -> None:
    """The same events are tried again after a pause, without a limit. A stopped attempt is not counted either."""

    class PreventedPlane(StrictPlane):
        def post(self, body: bytes, write_key: str, timeout_s: float | None = None) -> Outcome:
            if why == "no memory":
                raise MemoryError
            if why == "another error":
                raise RuntimeError
            return outcome.of_obstacle("no descriptor") if why == "an obstacle" else outcome.STOPPED

    backlog = Backlog([1] * 2, PreventedPlane(set()), clock)
    for _ in range(20):
        backlog.attempt()

    assert len(backlog.pauses) == 20
    assert min(backlog.pauses) > 0
    assert (len(backlog.batches), backlog.failures) == (2, [])


def test_the_first_batch_fails_after_ten_attempts(clock: FakeClock) -> None:
    """Two batches shared the requests, but only the first one fails."""

    class DownPlane(StrictPlane):
        def post(self, body: bytes, write_key: str, timeout_s: float | None = None) -> Outcome:
            return outcome.of_failure("no connection")

    backlog = Backlog([1] * 2, DownPlane(set()), clock)
    counted = []
    while not backlog.failures:
        backlog.attempt()
        counted.append(backlog.attempts)

    assert counted == [*range(1, 10), 0]
    assert (len(backlog.batches), backlog.failures) == (1, [0])


def test_a_refusal_that_is_not_repeated_fails_no_event(clock: FakeClock) -> None:
    """An event fails only if it was refused alone."""

    class OnceRefusingPlane(StrictPlane):
        def post(self, body: bytes, write_key: str, timeout_s: float | None = None) -> Outcome:
            self.bad = {3} if not self.requests else set()
            return super().post(body, write_key, timeout_s)

    plane = OnceRefusingPlane(set())
    backlog = Backlog([4] * 10, plane, clock)

    backlog.run()

    assert backlog.failures == []
    assert plane.accepted == list(range(40))
