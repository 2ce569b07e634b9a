"""Recorded calls of real Bull 4.16.5. Our scripts make each of them on the same state at the same moment."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from native_tests import traces
from native_tests.traces import Listener, Trace
from rudderpipe import settings as settings_module
from rudderpipe.process.clock import Clock
from rudderpipe.queue.active_job import ActiveJob, QueueCounts
from rudderpipe.queue.failed_jobs import FailedJob, FailedJobs
from rudderpipe.queue.keys import Keys
from rudderpipe.queue.pause import set_paused
from rudderpipe.queue.queue import Queue
from rudderpipe.testing.redis_server import RedisServer

EPOCH = 0x1111_1111_1111_4111
KEYS = Keys("{t}", "q")
DATA = '{"version":3,"eventData":"{}"}'
ALL = (1000, 1_000_000)
EVERY_MS = 600
KEEP = 1_000_000
LISTS = ("wait", "paused", "active", "delayed", "failed", "completed")
DOCUMENT = Path(__file__).parent.parent / "docs" / "queue.md"

# The first column of the document's table of differences. A trace shows each of these.
ACCOUNT = "events"
RETRY = "a retry"
LAPSED = "a lapsed lock"
VALUE = "a completed job's return value"
ATTEMPTS = "a failed job's attempts"
STACK = "a failed job's stack trace"
STALLED = "the message of a job that stalled too often"
AGAIN = "a retry of a job that has not failed"
RETRIED = "a retry of many failed jobs"
# No trace shows these differences, because they concern the time between calls, or the Node SDK.
NOT_IN_TRACES = {
    "a job's `description`",
    "a completed job",
    "the first attempt",
    "`sentAt` of an event",
    "at start, more than one active job",
    "a response of 301, 302, 303",
    "a stalled job without `opts`",
    "a delayed job with a priority",
    "a pause, and a resume",
    "an id whose key is not a hash",
}


class FixedClock(Clock):
    """A clock that stands still at the time of a trace."""

    def __init__(self) -> None:
        self.now_ms = 0

    def time_ms(self) -> int:
        return self.now_ms


class TracedQueue:
    """A queue with the name, the token and the time of the traces, together with its Redis."""

    def __init__(self, server: RedisServer) -> None:
        self._server = server
        self.client: Any = server.text_client()
        self.clock = FixedClock()
        self.queue = self.queue_of()

    def queue_of(self, **settings: Any) -> Queue:
        """Return another queue object with the same token."""
        loaded = settings_module.load(
            {"redis": self._server.url, "prefix": "t", "queue_name": "q", "keep_completed": KEEP, **settings},
            environment={},
        )
        queue = Queue(loaded, self.clock)
        queue.token = traces.TOKEN
        return queue

    def active(self, *ids: str) -> list[ActiveJob]:
        """Return jobs as a sender that has taken them knows them."""
        return [ActiveJob(name, DATA.encode(), 0, None) for name in ids]

    def keeping(self, keep: int, *ids: str) -> int:
        """Complete jobs with ``keep_completed`` set to this number."""
        queue = self.queue_of(keep_completed=keep)
        completed = queue.complete(self.active(*ids))
        queue.close()
        return completed

    def add(self) -> None:
        """Add one job of one event of a ring."""
        self.queue.add(EPOCH, [(DATA, 1)], {}, [])

    def load(self, trace: Trace) -> None:
        """Load the state before the call, for a queue whose last take found a job."""
        self.client.rpush(f"{traces.BASE}wait", "before")
        self.queue.take(1, 1)
        self.queue.complete([])  # Redis knows the script now, so that two calls in one round trip run in their order
        traces.load(self.client, trace.before)
        self.clock.now_ms = trace.now_ms

    def meanwhile(self, *command: str) -> None:
        """Run a command that the author of the trace ran, or that time ran, between the dump and the call."""
        self.client.execute_command(command[0], traces.BASE + command[1], *command[2:])

    def without_lock(self, number: str) -> int:
        """Complete a job whose lock has lapsed."""
        self.meanwhile("DEL", f"{number}:lock")
        return self.queue.complete(self.active(number))

    def under_another_lock(self, number: str) -> int:
        """Complete a job that another sender has locked."""
        self.meanwhile("SET", f"{number}:lock", "other")
        return self.queue.complete(self.active(number))

    def sweep_later(self) -> int:
        """Sweep after the mark of the last sweep has lapsed."""
        self.meanwhile("DEL", "stalled-check")
        return self.queue.sweep(EVERY_MS)

    def failed(self) -> list[str]:
        """Return the ids of the failed jobs, as an operator sees them."""
        return [job.id for job in FailedJobs(self.queue)]

    def retry(self, *ids: str) -> int:
        """Retry these jobs, with the scores that they have in the failed set."""
        scores = {
            name: int(score) for name, score in self.client.zrange(f"{traces.BASE}failed", 0, -1, withscores=True)
        }
        return FailedJobs(self.queue).retry(
            [FailedJob(name, scores.get(name, 0), "", DATA.encode(), None) for name in ids]
        )


class Replay(msgspec.Struct, frozen=True):
    """One of our calls in the place of Bull's, with its expected result and each place where Redis then differs."""

    ours: Callable[[TracedQueue], Any]
    result: Any = None
    differences: dict[str, tuple[str, Any]] = {}
    """By place, the difference's name in the document and the value that we leave there."""


def _added(queued: str) -> dict[str, tuple[str, Any]]:
    """Return the differences of every add, which come from the keys of ours that hold the account."""
    counts = {"queued": queued, "added": queued}
    return {
        KEYS.account: (ACCOUNT, counts),
        KEYS.ring(EPOCH): (ACCOUNT, {"term": "0", **counts}),
        KEYS.added: (ACCOUNT, {f"{EPOCH:016x}": queued}),
    }


def _value(number: str, *then: tuple[str, str]) -> dict[str, tuple[str, Any]]:
    """Return the differences of every completion, which has no return value."""
    return {"published": (VALUE, [("completed", f'{{"jobId":"{number}","val":"null"}}'), *then])}


REPLAYED = {
    "01-add-fifo": Replay(TracedQueue.add, differences=_added("1")),
    "02-add-fifo-second": Replay(TracedQueue.add, differences=_added("1")),
    "05-take-blocking": Replay(lambda traced: _ids(traced.queue.take(1, 1)), ["3"]),
    "06-extend-lock": Replay(lambda traced: len(traced.queue.renew(traced.active("3"))), 1),
    "10-complete-and-fetch-next": Replay(
        lambda traced: _first_and_ids(traced.queue.complete_and_take(traced.active("3"), 1, 1)),
        (1, ["1"]),
        _value("3", (f"active@{traces.TOKEN}", "1")) | {"3 returnvalue": (VALUE, "null")},
    ),
    "11-complete-no-fetch": Replay(lambda traced: traced.keeping(KEEP, "1"), 1, _value("1")),
    "12-take-nonblocking": Replay(lambda traced: _ids(traced.queue.take(1, 1)), ["2"]),
    "13-fail-no-retry": Replay(
        lambda traced: traced.queue.fail(traced.active("2")[0], "boom"),
        True,
        {"2 attemptsMade": (ATTEMPTS, "0"), "2 stacktrace": (STACK, '["boom"]')},
    ),
    "14-take-nonblocking-empty": Replay(lambda traced: _ids(traced.queue.take(*ALL)), []),
    "15-getFailed": Replay(TracedQueue.failed, ["2"]),
    "16-retry-one": Replay(lambda traced: traced.retry("2"), 1, {"2 attemptsMade": (ATTEMPTS, "0")}),
    "17-retry-one-again-error": Replay(lambda traced: traced.retry("2"), 0, {"2 retriedOn": (AGAIN, "1795428129096")}),
    "18-retry-all": Replay(
        lambda traced: FailedJobs(traced.queue).retry(list(FailedJobs(traced.queue))),
        3,
        {f"{number} attemptsMade": (ATTEMPTS, "0") for number in (1, 2, 3)}
        | {f"{number} retriedOn": (RETRIED, "1795428129325") for number in (1, 2, 3)}
        | {"published": (RETRIED, [(f"waiting@{traces.TOKEN}", number) for number in "213"])},
    ),
    "19-retry-all-paused": Replay(
        lambda traced: FailedJobs(traced.queue).retry(list(FailedJobs(traced.queue))),
        2,
        {f"{number} attemptsMade": (ATTEMPTS, "0") for number in (1, 2)}
        | {f"{number} retriedOn": (RETRIED, "1795428129453") for number in (1, 2)}
        | {"published": (RETRIED, [(f"waiting@{traces.TOKEN}", number) for number in "12"])},
    ),
    "20-fail-with-immediate-retry": Replay(
        lambda traced: len(traced.queue.retry_later(traced.active("1"))),
        1,
        {
            "1 failedReason": (RETRY, None),
            "1 stacktrace": (RETRY, None),
            "1:lock": (RETRY, traces.TOKEN),
            "active": (RETRY, ["1"]),
            "wait": (RETRY, ["2"]),
        },
    ),
    "21-fail-with-backoff": Replay(
        lambda traced: len(traced.queue.retry_later(traced.active("1"))),
        1,
        {
            "1 failedReason": (RETRY, None),
            "1 stacktrace": (RETRY, None),
            "1:lock": (RETRY, traces.TOKEN),
            "active": (RETRY, ["1"]),
            "delayed": (RETRY, None),
            "published": (RETRY, []),
        },
    ),
    "24-delayed-becomes-due": Replay(lambda traced: traced.queue.promote(), -1),
    "30-complete-removeOnComplete-true": Replay(lambda traced: traced.keeping(0, "1"), 1, _value("1")),
    "31-complete-removeOnComplete-1": Replay(
        lambda traced: traced.keeping(1, "3"), 1, _value("3") | {"3 returnvalue": (VALUE, "null")}
    ),
    "33-complete-lost-lock": Replay(
        lambda traced: traced.without_lock("1"),
        1,
        {
            "1 finishedOn": (LAPSED, "1795428131387"),
            "1 returnvalue": (LAPSED, "null"),
            "active": (LAPSED, None),
            "completed": (LAPSED, [("1", 1795428131387)]),
            "published": (LAPSED, [("completed", '{"jobId":"1","val":"null"}')]),
        },
    ),
    "34-complete-foreign-lock": Replay(lambda traced: traced.under_another_lock("1"), 0),
    "35-stalled-first-check": Replay(lambda traced: traced.queue.sweep(EVERY_MS), 0),
    "36-stalled-too-soon": Replay(lambda traced: traced.queue.sweep(EVERY_MS), 0),
    "37-stalled-second-check": Replay(lambda traced: traced.queue.sweep(EVERY_MS), 1),
    "38-stalled-over-limit": Replay(
        TracedQueue.sweep_later,
        0,
        {"published": (STALLED, [("failed", '{"jobId":"1","val":"job stalled more than maxStalledCount"}')])},
    ),
    "39-stalled-locked-is-kept": Replay(TracedQueue.sweep_later, 0),
    "40-pause": Replay(lambda traced: set_paused(traced.queue, pauses=True), result=True),
    "44-resume": Replay(lambda traced: set_paused(traced.queue, pauses=False), result=True),
    "45-pause-empty": Replay(lambda traced: set_paused(traced.queue, pauses=True), result=True),
    "41-add-while-paused": Replay(TracedQueue.add, differences=_added("1")),
    "47-remove-active-error": Replay(lambda traced: FailedJobs(traced.queue).remove(["1"]), (0, 0)),
    "50-clean-failed-limit": Replay(lambda traced: FailedJobs(traced.queue).trim(1, None), (1, 0)),
}
COUNTED = {"04-getJobCounts", "42-getJobCounts-paused", "43-isPaused", "55-getJobCounts-all-absent"}
NOT_OURS = {
    "03-add-lifo": "our retries keep their job, so nothing is added to the front",
    "07-progress": "a job of ours is delivered in one request, so it has no progress",
    "08-log": "a reason stands in the failed job, so we write no rows",
    "09-update-data": "data are written once, except for the attempts in a failed job",
    "22-promote": "operators promote one job with Bull's tools; we move the jobs that are due",
    "23-add-delayed": "we delay no job, because a retry waits in its sender",
    "25-moveToDelayed": "we delay no job, because a retry waits in its sender",
    "26-add-priority": "events go in order, so our jobs have no priority",
    "27-add-custom-id": "our jobs are numbered by the counter, and the ring's offsets keep them from being doubled",
    "28-add-custom-id-duplicate": "our jobs are numbered by the counter",
    "29-addBulk": "add_jobs adds many in one step, and none of them to the front as this call does",
    "32-complete-removeOnComplete-age": "we bound completed jobs by number alone",
    "46-remove-waiting": "we delete failed jobs only, because waiting jobs must be delivered",
    "48-removeJobs-pattern": "we delete failed jobs only, because waiting jobs must be delivered",
    "49-clean-completed": "keep_completed bounds completed jobs with each completion",
    "51-clean-wait": "we delete failed jobs only, because waiting jobs must be delivered",
    "52-empty": "we delete failed jobs only, because waiting jobs must be delivered",
    "53-obliterate-active-error": "operators delete a whole queue with Bull's tools",
    "54-obliterate-force": "operators delete a whole queue with Bull's tools",
}


def _ids(taken: list[ActiveJob]) -> list[str]:
    return [job.id for job in taken]


def _first_and_ids(result: tuple[int, list[ActiveJob]]) -> tuple[int, list[str]]:
    return result[0], _ids(result[1])


@pytest.fixture(name="server", scope="module")
def _server() -> Iterator[RedisServer]:
    with tempfile.TemporaryDirectory(prefix="rp-") as directory, RedisServer(Path(directory)) as server:
        yield server


@pytest.fixture(name="traced")
def _traced(server: RedisServer) -> Iterator[TracedQueue]:
    traced = TracedQueue(server)
    yield traced
    traced.queue.close()
    traced.client.close()


def test_every_trace_is_replayed_counted_or_excluded() -> None:
    """A call of Bull that we do not replay must have a reason, and no call may stand in two lists."""
    ours = [*REPLAYED, *COUNTED, *NOT_OURS]

    assert sorted(ours) == traces.names()
    assert len(ours) == 55


def test_every_difference_is_in_the_document() -> None:
    """The table in docs/queue.md names every difference that the traces show and those that no trace can show."""
    _, section = DOCUMENT.read_text().split("\n## Unlike Bull")
    rows = [line for line in section.split("\n## ")[0].splitlines() if line.startswith("| ")]
    documented = [row.split(" | ")[0].removeprefix("| ") for row in rows[2:]]
    shown = {name for replay in REPLAYED.values() for name, _ in replay.differences.values()}

    assert sorted(documented) == sorted(shown | NOT_IN_TRACES)
    assert not shown & NOT_IN_TRACES


@pytest.mark.parametrize("name", REPLAYED)
def test_our_scripts_leave_the_same_state_as_bulls(traced: TracedQueue, name: str) -> None:
    """Redis holds and publishes the same. Each listed difference must really occur."""
    trace, replay = traces.read(name), REPLAYED[name]
    traced.load(trace)
    listener = Listener(traced.client)

    result = replay.ours(traced)

    heard = listener.heard()
    found = traces.compare(trace.after, traces.dump(traced.client))
    if heard != [(channel.removeprefix(traces.BASE), message) for channel, message in trace.pubsub]:
        found["published"] = heard
    assert result == replay.result
    assert found == {place: ours for place, (_, ours) in replay.differences.items()}


@pytest.mark.parametrize("name", traces.names())
def test_every_state_of_bull_is_counted_correctly(traced: TracedQueue, name: str) -> None:
    """Bull and its tools may leave any of these states, and a count must not change them."""
    trace = traces.read(name)
    for state in (trace.before, trace.after):
        traces.load(traced.client, state)

        counts = traced.queue.counts()

        def size(*keys: str, state: traces.State = state) -> int:
            return sum(len(state[key].value) for key in keys if key in state)

        assert counts.waiting == size("wait", "paused")
        assert counts.active == size("active")
        assert (counts.delayed, counts.failed, counts.completed) == (size("delayed"), size("failed"), size("completed"))
        assert counts.paused == ("meta-paused" in state)
        assert traces.compare(state, traces.dump(traced.client)) == {}
        assert (traced.queue.size_bytes() > 0) == any(size(key) for key in LISTS)


@pytest.mark.parametrize("name", sorted(COUNTED))
def test_our_counts_are_equal_to_those_that_bull_returned(traced: TracedQueue, name: str) -> None:
    """Bull counts the waiting jobs of a paused queue separately."""
    trace = traces.read(name)
    traces.load(traced.client, trace.before)

    counts = traced.queue.counts()

    assert trace.returned == (counts.paused if name == "43-isPaused" else _as_bull_counts(counts))


def _as_bull_counts(counts: QueueCounts) -> dict[str, int]:
    return {
        "waiting": 0 if counts.paused else counts.waiting,
        "paused": counts.waiting if counts.paused else 0,
        **{name: getattr(counts, name) for name in ("active", "completed", "failed", "delayed")},
    }


def test_a_new_job_does_not_inherit_the_failures_of_an_obliterated_one(traced: TracedQueue) -> None:
    """The ids begin at 1 again after ``obliterate``, so a new job has the id of an old failed one."""
    traced.client.hset(KEYS.failed_events, "1", f"{EPOCH:016x}:5")
    trace = traces.read("54-obliterate-force")
    kept = traces.dump(traced.client)
    traces.load(traced.client, trace.after | kept)

    traced.add()
    traced.queue.take(*ALL)

    assert traced.queue.counts().events_queued == 1
    assert traced.queue.counts().events_failed == 0
