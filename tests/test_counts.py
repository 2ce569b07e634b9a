"""What flusher and sender count for their metrics."""

from __future__ import annotations

from pathlib import Path

import pytest
import redis

from rudderpipe.delivery import outcome
from rudderpipe.delivery.attempts import CLASSES, DECISIONS, UNREADABLE, class_of
from rudderpipe.delivery.outcome import Outcome
from rudderpipe.flusher.counts import FlusherCounts
from rudderpipe.flusher.flusher import Flusher
from rudderpipe.observe.metrics import of_counts, table
from rudderpipe.observe.metrics.values import Values, buckets
from rudderpipe.process.clock import iso_ms
from rudderpipe.queue import job, meter
from rudderpipe.queue.meter import RedisMeter
from rudderpipe.sender.counts import SenderCounts, seconds_of
from rudderpipe.sender.state import SenderState
from rudderpipe.service.histogram import Histogram, merged
from rudderpipe.settings import Settings
from tests.fake_queue import FakeQueue, FakeStore
from tests.fakes import FakeClock, FakeSink, producer_of, ring_of, settings_of
from tests.test_sender import BAD, BLOCKED, DOWN, OK, FakePlane, job_of, run, wired


def counted(values: Values) -> dict[str, float]:
    """Return each number that is not 0 by name and labels; of a histogram how many values it has."""
    found: dict[str, float] = {}
    for metric, each in values.known():
        for labels, value in each:
            number = value.values if isinstance(value, Histogram) else value
            if number:
                found[" ".join((metric.name.removeprefix("rudderpipe_"), *labels[1:]))] = number
    return found


def test_a_sender_counts_requests_by_what_followed_and_why(clock: FakeClock) -> None:
    """A retry, a refused request of two jobs, a split job whose one event fails, and an obstacle."""
    queue, state = FakeQueue(FakeStore(clock)), SenderState(clock.monotonic_s(), 120)
    plane = FakePlane(DOWN, BLOCKED, BAD, BAD, OK, BAD)
    queue.put("1", job_of("u", "v"))
    queue.put("2", job_of("w"))
    sender = wired(queue, plane, clock, Settings(max_jobs_per_request=2), state=state)

    run(sender, clock, 10)

    counts = state.counts
    assert plane.requests == [["u", "v", "w"], ["u", "v", "w"], ["u", "v", "w"], ["u", "v"], ["u"], ["v"], ["w"]]
    assert counted(of_counts.of_attempts(counts.attempts, [], "q")) == {
        "attempts_total retry http_5xx": 1,
        "attempts_total blocked host": 1,
        "attempts_total fewer http_400": 1,
        "attempts_total split http_400": 1,
        "attempts_total delivered http_2xx": 2,
        "attempts_total failed http_400": 1,
        "attempt_seconds": 7,
        "request_events": 7,
        "delivered_events_total": 2,
        "failed_events_total http_400": 1,
        "splits_total": 1,
    }
    assert counts.attempts.request_events.total == 3 + 3 + 3 + 2 + 1 + 1 + 1


def test_a_split_without_a_request_is_no_attempt(clock: FakeClock) -> None:
    """A refusal that is known already decides it."""
    queue, state = FakeQueue(FakeStore(clock)), SenderState(clock.monotonic_s(), 120)
    plane = FakePlane(*[BAD] * 3, OK, BAD)
    queue.put("1", job_of("u", "v", "w", "x"))

    run(wired(queue, plane, clock, Settings(), state=state), clock, 3)

    counts = state.counts.attempts
    assert sum(counts.decisions.values()) == counts.seconds.values == len(plane.requests)
    assert counts.delivered_events + sum(counts.failed_events.values()) == 4


def test_a_stop_is_no_attempt_and_an_unreadable_job_has_a_class_of_its_own(clock: FakeClock) -> None:
    """Neither is the data plane's doing."""
    queue, state = FakeQueue(FakeStore(clock)), SenderState(clock.monotonic_s(), 120)
    plane = FakePlane(outcome.STOPPED)
    queue.put("1", job_of("u"))
    queue.put("2", b"not a job")

    run(wired(queue, plane, clock, Settings(), state=state), clock, 5)

    assert sum(state.counts.attempts.decisions.values()) == len(plane.requests) - 1
    assert len(queue.store.failed) == 1
    assert state.counts.attempts.failed_events[UNREADABLE] == 1  # it is not known how many events it had


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        *((outcome.of_answer(status, b""), f"http_{status}") for status in (400, 401, 404, 413, 429)),
        (outcome.of_answer(204, b""), "http_2xx"),
        (outcome.of_refusal(302, ""), "http_3xx"),
        (outcome.of_answer(403, b""), "http_4xx"),
        (outcome.of_answer(503, b""), "http_5xx"),
        (outcome.of_failure("", "dns"), "dns"),
        (outcome.of_failure(""), "broken"),
        (outcome.of_obstacle(""), "host"),
        (Outcome("refused", 999, ""), "broken"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_every_outcome_has_a_class(found: Outcome, expected: str) -> None:
    """A closed set, so that each is a series from the start."""
    assert class_of(found) == expected in CLASSES


def test_every_series_of_an_attempt_is_there_from_the_start(clock: FakeClock) -> None:
    """So the first failure is an increase."""
    counts = SenderCounts()
    values = of_counts.of_attempts(counts.attempts, [], "q")
    values.add(of_counts.of_sender(SenderState(clock.monotonic_s(), 120), {}, clock.monotonic_s(), "q"))

    found = {metric.name: each for metric, each in values.known()}

    assert len(found["rudderpipe_attempts_total"]) == len(DECISIONS) * len(CLASSES)
    assert len(found["rudderpipe_failed_events_total"]) == len(CLASSES) + 1
    assert len(found["rudderpipe_redis_errors_total"]) == len(meter.ERRORS)
    scripts = {labels[1] for labels, _ in found["rudderpipe_redis_call_seconds"]}
    assert {"take_jobs", "renew_locks"} <= scripts <= {*(name for name in scripts), meter.TOGETHER}


def test_the_age_of_a_delivered_job_is_that_of_its_own_moment(clock: FakeClock) -> None:
    """The moment when the flusher made it; a job of another program may have none."""
    queue, state = FakeQueue(FakeStore(clock)), SenderState(clock.monotonic_s(), 120)
    made = iso_ms(clock.time_ms() - 2000)
    for number, text in enumerate((made, "long ago")):
        queue.put(str(number), job.build(b'{"userId":"u"}', "KEY", text, 7).encode())

    run(wired(queue, FakePlane(), clock, Settings(), state=state), clock, 0.5)

    assert state.counts.age.values == 1
    assert state.counts.age.total == pytest.approx(2, abs=0.5)
    assert job.read(job.build(b"{}", "KEY", made, 7).encode()).made_at == made
    foreign = job.build(b"{}", "KEY", made, 7).replace("node-", "of another program ")
    assert job.read(foreign.encode()).made_at == made
    assert seconds_of("1970-01-01T00:00:01.500Z") == 1.5


def test_a_flusher_counts_the_batches_that_left_the_ring(tmp_path: Path, clock: FakeClock) -> None:
    """Not those that it must offer again."""
    counts, sink = FlusherCounts(), FakeSink()
    with ring_of(tmp_path, clock) as ring:
        producer = producer_of(ring, clock)
        for _ in range(7):
            producer.append(b'"event"')
        settings = settings_of(tmp_path, flush_at=5, flush_interval_ms=0)
        flusher = Flusher(ring, sink, settings, clock, counts=counts)
        sink.trouble = MemoryError()
        flusher.work()
        assert counts.batch_events.values == 0
        sink.trouble = None
        clock.now_s += 10
        flusher.work()

    assert (counts.batch_events.values, counts.batch_events.total) == (2, 7)
    assert counts.bytes == sum(len(",".join(batch)) for batch in sink.batches)
    assert dict(buckets(counts.batch_events))["2.0"] == 1


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (redis.TimeoutError("Timeout reading from socket"), "timeout"),
        (redis.ConnectionError("Error 111 connecting to h:1. Connection refused."), "refused"),
        (redis.ConnectionError("Connection closed by server."), "closed"),
        (ConnectionResetError(104, "Connection reset by peer"), "closed"),
        (redis.BusyLoadingError("Redis is loading the dataset in memory"), "loading"),
        (redis.ReadOnlyError("You can't write against a read only replica."), "readonly"),
        (redis.ResponseError("OOM command not allowed when used memory > 'maxmemory'."), "oom"),
        (redis.ResponseError("Error running script: @user_script:7: OOM command not allowed"), "oom"),
        (redis.AuthenticationError("WRONGPASS invalid username-password pair"), "auth"),
        (redis.ResponseError("NOPERM this user has no permissions to run the 'x' command"), "auth"),
        (redis.exceptions.MovedError("1 127.0.0.1:1"), "moved"),
        (redis.ResponseError("WRONGTYPE Operation against a key"), "other"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_every_error_of_redis_has_a_class(error: Exception, expected: str) -> None:
    """A closed set."""
    counts = RedisMeter()

    counts.failed(error)

    assert {name for name, count in counts.errors.items() if count} == {expected}


def test_a_call_is_timed_also_when_it_fails(clock: FakeClock) -> None:
    """The slowest calls are those that fail."""
    counts = RedisMeter(["take_jobs"])

    def fails() -> None:
        with counts.timed("end_ring", clock):
            clock.now_s += 3
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fails()

    assert (counts.calls["end_ring"].total, counts.calls["take_jobs"].values) == (3, 0)


def test_a_histogram_counts_up_to_and_including_each_bound() -> None:
    """As Prometheus defines its buckets, which are sums."""
    first, second = Histogram((1, 2.5)), Histogram((1, 2.5))
    for value in (0, 1, 1.5, 3):
        first.note(value)
    second.note(2.5)

    assert buckets(merged([first, second])) == [("1.0", 2), ("2.5", 4), ("+Inf", 5)]
    assert merged([first, second]).total == 8
    assert {metric.kind for metric in table.METRICS if metric.bounds} == {"histogram"}
