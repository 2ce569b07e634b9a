"""Nothing is lost, whatever happens to a sender or to Redis, in each moment and for each response of the data plane.

Events come twice only where a response was not seen, with the same message ids. Their first copies come in order.
All of it holds for a sender with one lane and for one with several. The jobs are of one lane then.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import msgspec
import pytest

from native_tests.faulty_plane import FaultyPlane, Request, Step, answer, depends, raw
from native_tests.gate import Gate
from native_tests.processes import wait_until
from rudderpipe import settings as settings_module
from rudderpipe.flusher import lanes
from rudderpipe.process.clock import Clock
from rudderpipe.queue import job, scripts
from rudderpipe.queue.failed_jobs import FailedJobs
from rudderpipe.queue.queue import NewJob, Queue
from rudderpipe.testing.redis_server import RedisServer

EVENTS = [f"{name}{number}" for name in "abc" for number in range(4)]
"""The message ids of three jobs with four events each."""
GUILTY = "a2"


def refuses_one(request: Request) -> Step:
    """Return a 400 as long as the guilty event is in the request."""
    return answer(400, b"bad event") if GUILTY in request.ids else answer()


def half_a_response() -> Step:
    """Return a step that takes the events and breaks off within the response."""
    step = raw(b"HTTP/1.1 200 OK\r\ncontent-le", end="reset")
    step.taken = True  # type: ignore[attr-defined]  # read by FaultyPlane
    return step


RESPONSES: dict[str, tuple[list[Step], str]] = {
    "200": ([answer()], "complete_jobs"),
    "503": ([answer(503, b"down", retry_after="0"), answer()], "retry_later"),
    "400": ([depends(refuses_one)], "split_job"),
    "half": ([half_a_response(), answer()], "retry_later"),
}
"""The data plane's steps, and the script that the sender calls next."""
STAGES = ["before take", "after take", "request sent", "before it is written down", "after it is written down"]
UNSEEN = {"request sent", "before it is written down"}
"""The stages in which the response is lost with the sender."""


class Delivery:
    """Three jobs in Redis, a data plane, a gate before Redis, and senders."""

    def __init__(self, server: RedisServer, directory: Path, count: int) -> None:
        self.server = server
        self._lanes = count
        self.gate = Gate(server)
        self.plane = FaultyPlane()
        self._directory = directory
        self._senders: list[subprocess.Popen[bytes]] = []
        self.queue = Queue(settings_module.load({"redis": server.url}, environment={}), Clock())
        for name in scripts.NAMES:
            server.text_client().script_load(scripts.source(name))
        lane = f"{lanes.lane_of(lanes.user_of('u'), count)}/{count}"
        jobs: list[NewJob] = [(data_of(name), 4) if count == 1 else (data_of(name), 4, lane) for name in "abc"]
        self.queue.add(7, jobs, {}, [])

    def sender(self, redis: str | None = None, **variables: str) -> subprocess.Popen[bytes]:
        """Start a sender's process, which logs into a file of its own."""
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("RUDDERPIPE_")},
            "RUDDERPIPE_REDIS": redis or self.server.url,
            "RUDDERPIPE_DATA_PLANE_URL": self.plane.url,
            "RUDDERPIPE_MAX_JOBS_PER_REQUEST": "1",
            "RUDDERPIPE_LANES": str(self._lanes),
            "RUDDERPIPE_LEASE_MS": "1000",
            **variables,
        }
        with (self._directory / f"sender-{len(self._senders)}").open("wb") as log:
            self._senders.append(
                subprocess.Popen(
                    [sys.executable, "-m", "rudderpipe.sender", "--verbose"], env=environment, stderr=log, stdout=log
                )
            )
        return self._senders[-1]

    def logged(self, number: int, what: str) -> bool:
        """Return True if the sender of that number has logged this text."""
        return what in (self._directory / f"sender-{number}").read_text()

    def first_sender_at(self, stage: str, script: str) -> subprocess.Popen[bytes]:
        """Start a sender that is held at that stage."""
        if stage == "request sent":
            self.plane.hold()
        else:
            before = stage.startswith("before")
            self.gate.stop("take_jobs" if stage.endswith("take") else script, before=before)
        sender = self.sender(self.gate.address)
        if stage == "request sent":
            self.plane.wait_for(lambda: self.plane.requests)
        else:
            assert self.gate.reached.wait(30), self.logged(0, "")
        return sender

    def wait_for_requests(self, count: int) -> None:
        """Wait until so many requests have come."""
        self.plane.wait_for(lambda: len(self.plane.requests) == count)

    def wait_until_settled(self) -> None:
        """Wait until no job waits, is active or delayed."""

        def settled() -> bool:
            counts = self.queue.counts()
            return counts.waiting + counts.active + counts.delayed == 0

        wait_until(settled)

    def check(self, repeated: set[str]) -> None:
        """Check that all events were accepted or failed, first copies in order, and only ``repeated`` came twice."""
        failed = [event_id for found in FailedJobs(self.queue) for event_id in ids_of(found.data)]
        accepted = self.plane.accepted
        assert sorted({*accepted, *failed}) == EVENTS
        assert not {*accepted} & {*failed}
        assert list(dict.fromkeys(accepted)) == [event for event in EVENTS if event not in failed]
        assert {event for event in accepted if accepted.count(event) > 1} <= repeated
        assert set(failed) <= {GUILTY}
        assert self.queue.counts(7).events_queued == 0
        assert self.queue.counts(7).events_delivered == len(EVENTS) - len(failed)

    def end(self) -> None:
        for sender in self._senders:
            sender.kill()
            sender.wait()
        self.queue.close()
        self.gate.close()
        self.plane.__exit__(None, None, None)


def data_of(name: str) -> str:
    """Return a job's data."""
    events = (b'{"userId":"u","messageId":"%b%d"}' % (name.encode(), number) for number in range(4))
    return job.build(b",".join(events), "KEY", "t", 7)


def ids_of(data: bytes) -> list[str]:
    """Return the message ids in a job's data."""
    return [msgspec.json.decode(event)["messageId"] for event in job.read(data).events]


@pytest.fixture(name="delivery", params=[1, 4], ids=["one lane", "lanes"])
def _line(redis_server: RedisServer, directory: Path, request: pytest.FixtureRequest) -> Iterator[Delivery]:
    delivery = Delivery(redis_server, directory, request.param)
    yield delivery
    delivery.end()


@pytest.mark.parametrize("response", RESPONSES)
@pytest.mark.parametrize("stage", STAGES)
def test_a_killed_sender_loses_nothing_at_any_stage(delivery: Delivery, stage: str, response: str) -> None:
    """The next sender goes on at once. A late call of the dead sender changes nothing."""
    steps, script = RESPONSES[response]
    delivery.plane.then(*steps)
    sender = delivery.first_sender_at(stage, script)
    sender.kill()
    assert sender.wait() == -signal.SIGKILL
    delivery.plane.let_go()

    delivery.sender()
    delivery.wait_until_settled()
    delivery.gate.open()

    delivery.check(set(EVENTS[:4]) if stage in UNSEEN or response == "half" else set())


@pytest.mark.parametrize("response", RESPONSES)
@pytest.mark.parametrize("stage", STAGES)
def test_a_sender_stopped_beyond_its_lease_changes_nothing(delivery: Delivery, stage: str, response: str) -> None:
    """Another sender takes the lease. The first one stands by when it runs again."""
    steps, script = RESPONSES[response]
    delivery.plane.then(*steps)
    sender = delivery.first_sender_at(stage, script)
    sender.send_signal(signal.SIGSTOP)
    delivery.plane.let_go()
    delivery.sender()
    delivery.wait_until_settled()

    sender.send_signal(signal.SIGCONT)
    delivery.gate.open()

    wait_until(lambda: delivery.logged(0, "standing by"))
    delivery.check(set(EVENTS[:4]) if stage in UNSEEN or response == "half" else set())


@pytest.mark.parametrize("response", RESPONSES)
@pytest.mark.parametrize("stage", STAGES)
def test_a_restart_of_redis_loses_nothing_at_any_stage(delivery: Delivery, stage: str, response: str) -> None:
    """The sender writes down what it knows, and sends nothing again."""
    steps, script = RESPONSES[response]
    delivery.plane.then(*steps)
    delivery.first_sender_at(stage, script)
    assert delivery.server.process is not None
    delivery.server.process.kill()
    delivery.server.process.wait()
    delivery.gate.open()
    delivery.server.start()
    delivery.plane.let_go()

    delivery.wait_until_settled()

    delivery.check(set(EVENTS[:4]) if response == "half" else set())


@pytest.mark.parametrize("response", RESPONSES)
def test_a_sender_that_must_stop_waits_for_the_response(delivery: Delivery, response: str) -> None:
    """It writes the outcome down, so the next sender does not repeat the request."""
    steps, script = RESPONSES[response]
    delivery.plane.then(*steps)
    sender = delivery.first_sender_at("request sent", script)
    sender.terminate()
    delivery.plane.let_go()
    assert sender.wait(30) == 0

    assert delivery.queue.counts().active == 0
    delivery.sender()
    delivery.wait_until_settled()

    delivery.check(set(EVENTS[:4]) if response == "half" else set())


def test_a_dead_senders_jobs_are_first_in_line_for_the_next_sender(delivery: Delivery) -> None:
    """Two of three senders are killed, one after the other. One sender works at a time."""
    delivery.plane.hold()
    senders = {number: delivery.sender() for number in range(3)}
    for died in range(2):
        delivery.wait_for_requests(died + 1)
        (active,) = [number for number in senders if delivery.logged(number, "lease taken")]
        dying = senders.pop(active)
        for number in senders:
            wait_until(partial(delivery.logged, number, "standing by"))
        dying.kill()
    delivery.wait_for_requests(3)
    assert [request.ids for request in delivery.plane.requests] == [EVENTS[:4]] * 3
    delivery.plane.let_go()

    delivery.wait_until_settled()

    delivery.check(set(EVENTS[:4]))


def test_a_stop_in_a_backoff_keeps_the_order_of_the_jobs(delivery: Delivery) -> None:
    """The stop does not wait for the end of the backoff. The job is first in line, and the next sender sends it."""
    delivery.plane.then(answer(503, b"down", retry_after="300"), answer())
    sender = delivery.sender()
    wait_until(lambda: delivery.logged(0, "attempt failed"))
    delivery.sender()
    wait_until(lambda: delivery.logged(1, "standing by"))

    sender.terminate()
    assert sender.wait(30) == 0
    delivery.wait_until_settled()

    delivery.check(set())


def test_a_senders_stop_is_bounded(delivery: Delivery) -> None:
    """The data plane does not respond. The sender gives the request up, puts the job back and exits with 0."""
    delivery.plane.hold()
    sender = delivery.sender(RUDDERPIPE_SHUTDOWN_TIMEOUT_S="0.5", RUDDERPIPE_TIMEOUT_S="600")
    delivery.plane.wait_for(lambda: delivery.plane.requests)

    sender.terminate()

    assert sender.wait(30) == 0
    counts = delivery.queue.counts()
    assert (counts.waiting, counts.active) == (3, 0)
    assert job_attempts(delivery) == "0"


def test_a_second_signal_ends_a_sender_at_once(delivery: Delivery) -> None:
    """The sender ends in the middle of a request with an exit code of its own, and the next sender goes on."""
    delivery.plane.hold()
    sender = delivery.sender(RUDDERPIPE_TIMEOUT_S="600", RUDDERPIPE_SHUTDOWN_TIMEOUT_S="600")
    delivery.plane.wait_for(lambda: delivery.plane.requests)
    sender.terminate()

    def left() -> bool:
        sender.terminate()
        return sender.poll() is not None

    wait_until(left)
    assert sender.returncode == 5
    assert delivery.logged(0, "second SIGTERM, ending now")
    delivery.plane.let_go()
    delivery.sender()
    delivery.wait_until_settled()
    delivery.check(set(EVENTS[:4]))


def job_attempts(delivery: Delivery) -> str:
    """Return the number of attempts of the first job."""
    return str(delivery.server.text_client().hget("{rudder}:rudderEventsQueue:1", "attemptsMade") or "0")
