"""Trouble from a job, the queue, a response or the host. The sender goes on, and loses or doubles no event."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import Any, cast

import pytest

from rudderpipe.delivery import outcome
from rudderpipe.delivery.outcome import Outcome
from rudderpipe.errors import QueueUnavailable
from rudderpipe.queue import job
from rudderpipe.queue.active_job import ActiveJob
from rudderpipe.queue.queue import Queue
from rudderpipe.sender.heartbeat import LockRenewer
from rudderpipe.sender.state import SenderState
from rudderpipe.settings import Settings
from tests.fake_queue import FakeQueue, FakeStore
from tests.fakes import FakeClock
from tests.test_sender import BAD, DOWN, OK, FakePlane, run, sender_of, wired

BOTH = pytest.mark.parametrize("several", [False, True], ids=["one sender", "several senders"])


@pytest.fixture(name="queue")
def _queue(clock: FakeClock) -> FakeQueue:
    return FakeQueue(FakeStore(clock))


def node_data(batch: str, **others: Any) -> bytes:
    """Return a job's data as the Node SDK writes it, around a batch in JSON."""
    request = {"auth": {"username": "KEY"}, "headers": {}, "data": {"batch": "@"}}
    inner = json.dumps({"jobId": "x", "request": request, "attempts": 0, **others}).replace('"@"', batch)
    return json.dumps({"version": 3, "eventData": inner}).encode()


class AnyPlane(FakePlane):
    """A data plane that records each batch, and refuses bodies that hold a given text. A body must be JSON."""

    def __init__(self, status: int = 200, guilty: str = "") -> None:
        super().__init__()
        self.status = status
        self.guilty = guilty
        self.batches: list[list[Any]] = []

    def post(self, body: bytes, write_key: str, timeout_s: float | None = None) -> Outcome:
        batch = json.loads(body.decode())["batch"]
        if self.guilty and self.guilty in json.dumps(batch):
            return outcome.of_answer(self.status, b"bad")
        self.batches.append(batch)
        return OK


@pytest.mark.parametrize("status", [400, 413])
def test_a_refused_job_with_half_a_surrogate_pair_is_split(queue: FakeQueue, clock: FakeClock, status: int) -> None:
    """A readable job can be written again. The server gets a replacement character, and the next job is delivered."""
    queue.put("half", node_data('[{"userId":"a","t":"half \\ud83d"},{"userId":"guilty"},{"userId":"c"}]'))
    queue.put("next")
    plane = AnyPlane(status, "guilty")

    run(sender_of(queue, cast(FakePlane, plane), clock), clock, 5)

    assert [[event["userId"] for event in batch] for batch in plane.batches] == [["a"], ["c"], ["next"]]
    assert plane.batches[0][0]["t"] == "half \ufffd"
    assert len(queue.store.failed) == 1
    assert queue.store.active == []


@pytest.mark.parametrize("event", ["{}", "{ }", "7", '"x"', '""', "null", "[]", '["a"]', "true", '{"a":1} '])
def test_an_event_of_any_type_keeps_its_request_valid(queue: FakeQueue, clock: FakeClock, event: str) -> None:
    """An event that cannot hold a ``sentAt`` is sent as it is, and the other events have theirs."""
    queue.put("odd", node_data(f'[{{"userId":"a"}},{event},{{"userId":"b"}}]'))
    plane = AnyPlane()

    run(sender_of(queue, cast(FakePlane, plane), clock), clock, 1)

    ((first, odd, last),) = plane.batches
    assert first["sentAt"] == last["sentAt"]
    assert odd == (json.loads(event) | {"sentAt": first["sentAt"]} if event.startswith("{") else json.loads(event))


@pytest.mark.parametrize(
    "others",
    [{"attempts": 10**400}, {"attempts": [9]}, {"attempts": -3}, {"jobId": 10**400}, {"description": {"a": 1}}],
    ids=["huge attempts", "a list of attempts", "negative attempts", "huge id", "odd description"],
)
@pytest.mark.parametrize(
    "timeout", [10**400, 1e308, -1, True, 0.001, "5s"], ids=["huge", "large", "negative", "true", "tiny", "text"]
)
def test_invalid_numbers_in_a_job_do_not_stop_the_sender(
    queue: FakeQueue, clock: FakeClock, others: dict[str, Any], timeout: Any
) -> None:
    """The job is split like any other, and the next one is delivered."""
    data = json.loads(node_data('[{"userId":"a"},{"userId":"guilty"}]', **others))
    inner = json.loads(data["eventData"])
    inner["request"]["timeout"] = timeout
    queue.put("odd", json.dumps(data | {"eventData": json.dumps(inner)}).encode())
    queue.put("next")
    plane = AnyPlane(400, "guilty")

    run(sender_of(queue, cast(FakePlane, plane), clock), clock, 5)

    assert [[event["userId"] for event in batch] for batch in plane.batches] == [["a"], ["next"]]
    assert len(queue.store.failed) == 1
    assert (queue.store.line, queue.store.active) == ([], [])


@pytest.mark.parametrize("error", [FileNotFoundError(2, "No such file"), MemoryError(), RuntimeError("?")], ids=repr)
def test_an_exception_of_the_host_fails_no_job(
    queue: FakeQueue, clock: FakeClock, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    """A thousand jobs wait until the repair, and then all are delivered in order."""
    names = [str(number) for number in range(1000, 2000)]
    for name in names:
        queue.put(name)

    class Broken(FakePlane):
        repaired = False

        def post(self, body: bytes, write_key: str, timeout_s: float | None = None) -> Outcome:
            if not self.repaired:
                raise error
            return super().post(body, write_key, timeout_s)

    plane = Broken()
    sender = sender_of(queue, plane, clock, max_jobs_per_request=50, max_attempts=2)
    run(sender, clock, 130)
    assert not queue.store.failed
    assert 2 <= len([record for record in caplog.records if record.levelno >= logging.WARNING]) <= 3

    plane.repaired = True
    run(sender, clock, 10)

    assert queue.store.delivered == names
    assert not queue.store.failed
    assert queue.store.leaseholder().startswith("1 ")


@BOTH
def test_a_lack_of_memory_during_a_take_loses_no_job(
    queue: FakeQueue, clock: FakeClock, monkeypatch: pytest.MonkeyPatch, several: bool
) -> None:
    """The jobs are put back and taken one by one, until a take works again."""
    for name in "abc":
        queue.put(name)
    room = 1
    usual, take = job.read, queue.take

    def read(data: bytes) -> job.Job:
        nonlocal room
        room -= 1
        if room < 0:
            raise MemoryError
        return usual(data)

    def taking(max_jobs: int, max_bytes: int) -> list[ActiveJob]:
        nonlocal room
        room = 1 if clock.now_s < 1002 else 1000
        return cast("list[ActiveJob]", take(max_jobs, max_bytes))

    monkeypatch.setattr(job, "read", read)
    monkeypatch.setattr(queue, "take", taking)
    plane = FakePlane()
    sender = sender_of(queue, plane, clock, is_multi_processor=several, max_jobs_per_request=2)

    run(sender, clock, 1)
    assert plane.requests[0] == ["a"]
    run(sender, clock, 5)

    assert [name for request in plane.requests for name in request] == ["a", "b", "c"]
    assert (queue.store.delivered, queue.store.active) == (["a", "b", "c"], [])


def test_a_failed_promotion_does_not_hold_up_waiting_jobs(queue: FakeQueue, clock: FakeClock) -> None:
    """``delayed`` may have another type than Bull's."""

    def refuse() -> int:
        raise QueueUnavailable("here", "WRONGTYPE", answered=True)

    queue.promote = refuse  # type: ignore[method-assign]  # raises as Redis would
    queue.put("a")
    plane = FakePlane()

    run(sender_of(queue, plane, clock), clock, 1)

    assert plane.requests == [["a"]]


# Jobs that no longer belong to the sender.


def after_an_outage(
    queue: FakeQueue, clock: FakeClock, meanwhile: Callable[[FakeStore], object], settings: Settings, kept: bool
) -> FakePlane:
    """Run a sender through a 503 that outlasts its checks, while ``meanwhile`` changes the store."""
    plane = FakePlane(DOWN, DOWN, DOWN)
    for name in "abcde":
        queue.put(name)
    state = SenderState(clock.monotonic_s(), 120)
    renewer_queue = FakeQueue(queue.store)
    renewer_queue.token = queue.token
    renewer = LockRenewer(cast(Queue, renewer_queue), state, settings, clock)
    sender = wired(queue, plane, clock, settings, state=state)
    run(sender, clock, 1)
    meanwhile(queue.store)
    for _ in range(600):
        sender.work()
        if kept:
            renewer.work()
        clock.now_s += 0.1
    return plane


def delete_b(store: FakeStore) -> None:
    """Delete job b as a tool does."""
    store.active.remove("b")
    store.delete("b")
    store.unlock("b")


def lock_b(store: FakeStore) -> None:
    """Lock job b as another worker does that dies afterwards."""
    store.lock("b", "another")


def restore(store: FakeStore) -> None:
    """Restore a snapshot in which c, d and e were active without locks, and a and b did not exist."""
    store.line, store.active = [], ["c", "d", "e"]
    for name in "ab":
        store.delete(name)
        store.unlock(name)
    for name in "cde":
        store.unlock(name)


@pytest.mark.parametrize(
    ("meanwhile", "kept", "delivered"),
    [
        *((delete_b, kept, "acde") for kept in (False, True)),
        *((restore, kept, "cde") for kept in (False, True)),
        (lock_b, True, "acdeb"),
    ],
)
def test_a_lost_job_does_not_harm_the_senders_other_jobs(
    queue: FakeQueue,
    clock: FakeClock,
    caplog: pytest.LogCaptureFixture,
    meanwhile: Callable[[FakeStore], object],
    kept: bool,
    delivered: str,
) -> None:
    """A tool deletes a job, another worker locks a job and dies, or Redis comes back with an old snapshot."""
    after_an_outage(queue, clock, meanwhile, Settings(max_jobs_per_request=3), kept)

    assert queue.store.delivered == list(delivered)
    assert (queue.store.active, queue.store.line) == ([], [])
    recovered = 0 if meanwhile is delete_b else 2 if meanwhile is restore else 1
    lines = [record.getMessage() for record in caplog.records if "recovered" in record.getMessage()]
    assert [line for line in lines if f"jobs={recovered} " not in line] == []
    assert bool(lines) is bool(recovered)


def test_a_sender_that_lost_its_jobs_recovers_stranded_ones(queue: FakeQueue, clock: FakeClock) -> None:
    """No heartbeat sees them here, and the lease holds all the time."""
    settings = Settings(max_jobs_per_request=3, lease_ms=300_000)
    after_an_outage(queue, clock, restore, settings, kept=False)

    assert queue.store.delivered == list("cde")


def test_a_redis_that_refuses_to_count_attempts_does_not_change_the_retries(
    queue: FakeQueue, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sender counts for itself first. Otherwise it would send the same job many times a second, forever."""

    def refuse(_tried: object) -> list[ActiveJob]:
        raise QueueUnavailable("here", "OOM", answered=True)

    monkeypatch.setattr(queue, "retry_later", refuse)
    plane = FakePlane(*[DOWN] * 9)
    queue.put("a")
    sender = sender_of(queue, plane, clock, max_attempts=3)

    run(sender, clock, 5)
    assert len(plane.requests) == 2
    run(sender, clock, 5)
    assert queue.reasons() == {"a": "status 503: down (after 3 attempts)"}


@pytest.mark.parametrize(("meanwhile", "delivered"), [(delete_b, "acde"), (lock_b, "acdeb")], ids=["a", "b"])
def test_a_lost_job_does_not_harm_other_jobs_with_several_senders(
    queue: FakeQueue, clock: FakeClock, meanwhile: Callable[[FakeStore], object], delivered: str
) -> None:
    """The sweep finds the job that another worker locked and left."""
    after_an_outage(queue, clock, meanwhile, Settings(max_jobs_per_request=3, is_multi_processor=True), kept=True)
    sender = sender_of(queue, FakePlane(), clock, is_multi_processor=True)
    run(sender, clock, 90)

    assert sorted(queue.store.delivered) == sorted(delivered)
    assert (queue.store.active, queue.store.line) == ([], [])


def test_a_refused_job_that_cannot_be_rewritten_fails_alone(
    queue: FakeQueue, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The job fails with both reasons, and no later job is taken for the cause."""

    def broken(_inner: Any) -> Any:
        raise RecursionError

    for name, users in (("many", "ab"), ("next", "cd"), ("last", "ef")):
        queue.put(name, node_data(f'[{{"userId":"{users[0]}"}},{{"userId":"{users[1]}"}}]'))
    monkeypatch.setattr(job, "_decode_events", broken)
    plane = FakePlane(BAD)

    run(sender_of(queue, plane, clock), clock, 1)

    assert plane.requests == [["a", "b"], ["c", "d"], ["e", "f"]]
    assert queue.reasons() == {"many": "status 400: bad; the job's data cannot be read: RecursionError"}
