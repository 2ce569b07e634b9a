"""Whatever happens to a sender or to Redis, at whatever moment, whatever the data plane says: nothing is lost.

Events come twice only where an answer was not seen, with the same message ids; the first time they come in order.
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
from rudderpipe.process.clock import Clock
from rudderpipe.queue import job, scripts
from rudderpipe.queue.failed_jobs import FailedJobs
from rudderpipe.queue.queue import Queue
from rudderpipe.testing.redis_server import RedisServer

EVENTS = [f"{name}{number}" for name in "abc" for number in range(4)]
"""Three jobs of four events each."""
GUILTY = "a2"


def refuses_one(request: Request) -> Step:
    """400 as long as the guilty event is in it."""
    return answer(400, b"bad event") if GUILTY in request.ids else answer()


def half_an_answer() -> Step:
    """The events are taken, and the answer ends in the middle."""
    step = raw(b"HTTP/1.1 200 OK\r\ncontent-le", end="reset")
    step.taken = True  # type: ignore[attr-defined]  # read by FaultyPlane
    return step


RESPONSES: dict[str, tuple[list[Step], str]] = {
    "200": ([answer()], "complete_jobs"),
    "503": ([answer(503, b"down", retry_after="0"), answer()], "retry_later"),
    "400": ([depends(refuses_one)], "split_job"),
    "half": ([half_an_answer(), answer()], "retry_later"),
}
"""What the data plane says to the first request and then, and the script that is called next."""
STAGES = ["before take", "after take", "request sent", "before it is written down", "after it is written down"]
UNSEEN = {"request sent", "before it is written down"}
"""Where the answer dies with the sender."""


class Delivery:
    """Three jobs in Redis, a data plane, a gate before Redis, and senders."""

    def __init__(self, server: RedisServer, directory: Path) -> None:
        self.server = server
        self.gate = Gate(server)
        self.plane = FaultyPlane()
        self._directory = directory
        self._senders: list[subprocess.Popen[bytes]] = []
        self.queue = Queue(settings_module.load({"redis": server.url}, environment={}), Clock())
        for name in scripts.NAMES:
            server.text_client().script_load(scripts.source(name))
        self.queue.add(7, [(data_of(name), 4) for name in "abc"], {}, [])

    def sender(self, redis: str | None = None, **variables: str) -> subprocess.Popen[bytes]:
        """A process that logs into a file of its own."""
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("RUDDERPIPE_")},
            "RUDDERPIPE_REDIS": redis or self.server.url,
            "RUDDERPIPE_DATA_PLANE_URL": self.plane.url,
            "RUDDERPIPE_MAX_JOBS_PER_REQUEST": "1",
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

    def said(self, number: int, what: str) -> bool:
        """Whether that sender has logged this."""
        return what in (self._directory / f"sender-{number}").read_text()

    def first_sender_at(self, stage: str, script: str) -> subprocess.Popen[bytes]:
        """A sender that is held there."""
        if stage == "request sent":
            self.plane.hold()
        else:
            before = stage.startswith("before")
            self.gate.stop("take_jobs" if stage.endswith("take") else script, before=before)
        sender = self.sender(self.gate.address)
        if stage == "request sent":
            self.plane.wait_for(lambda: self.plane.requests)
        else:
            assert self.gate.reached.wait(30), self.said(0, "")
        return sender

    def wait_for_requests(self, count: int) -> None:
        """Until so many have come."""
        self.plane.wait_for(lambda: len(self.plane.requests) == count)

    def wait_until_settled(self) -> None:
        """No job waits, is active or delayed."""

        def settled() -> bool:
            counts = self.queue.counts()
            return counts.waiting + counts.active + counts.delayed == 0

        wait_until(settled)

    def check(self, repeated: set[str]) -> None:
        """Each event is accepted or failed, in order at its first coming; only those came again."""
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
    """A job's."""
    events = (b'{"userId":"u","messageId":"%b%d"}' % (name.encode(), number) for number in range(4))
    return job.build(b",".join(events), "KEY", "t", 7)


def ids_of(data: bytes) -> list[str]:
    """The message ids in a job's data."""
    return [msgspec.json.decode(event)["messageId"] for event in job.read(data).events]


@pytest.fixture(name="line")
def _line(redis_server: RedisServer, directory: Path) -> Iterator[Delivery]:
    line = Delivery(redis_server, directory)
    yield line
    line.end()


@pytest.mark.parametrize("said", RESPONSES)
@pytest.mark.parametrize("stage", STAGES)
def test_a_sender_is_killed(line: Delivery, stage: str, said: str) -> None:
    """The next one goes on at once; what the dead one had sent to Redis and comes late changes nothing."""
    steps, script = RESPONSES[said]
    line.plane.then(*steps)
    sender = line.first_sender_at(stage, script)
    sender.kill()
    assert sender.wait() == -signal.SIGKILL
    line.plane.let_go()

    line.sender()
    line.wait_until_settled()
    line.gate.open()

    line.check(set(EVENTS[:4]) if stage in UNSEEN or said == "half" else set())


@pytest.mark.parametrize("said", RESPONSES)
@pytest.mark.parametrize("stage", STAGES)
def test_a_sender_is_stopped_for_longer_than_its_lease(line: Delivery, stage: str, said: str) -> None:
    """Another takes over; when it wakes up it changes nothing any more, and stands by."""
    steps, script = RESPONSES[said]
    line.plane.then(*steps)
    sender = line.first_sender_at(stage, script)
    sender.send_signal(signal.SIGSTOP)
    line.plane.let_go()
    line.sender()
    line.wait_until_settled()

    sender.send_signal(signal.SIGCONT)
    line.gate.open()

    wait_until(lambda: line.said(0, "standing by"))
    line.check(set(EVENTS[:4]) if stage in UNSEEN or said == "half" else set())


@pytest.mark.parametrize("said", RESPONSES)
@pytest.mark.parametrize("stage", STAGES)
def test_redis_is_killed_and_starts_again(line: Delivery, stage: str, said: str) -> None:
    """The sender goes on where it was: what it knows is written down, not sent again."""
    steps, script = RESPONSES[said]
    line.plane.then(*steps)
    line.first_sender_at(stage, script)
    assert line.server.process is not None
    line.server.process.kill()
    line.server.process.wait()
    line.gate.open()
    line.server.start()
    line.plane.let_go()

    line.wait_until_settled()

    line.check(set(EVENTS[:4]) if said == "half" else set())


@pytest.mark.parametrize("said", RESPONSES)
def test_a_sender_is_told_to_stop_while_a_request_is_under_way(line: Delivery, said: str) -> None:
    """It waits for the answer, writes down what came of it, and the next one does not repeat it."""
    steps, script = RESPONSES[said]
    line.plane.then(*steps)
    sender = line.first_sender_at("request sent", script)
    sender.terminate()
    line.plane.let_go()
    assert sender.wait(30) == 0

    assert line.queue.counts().active == 0
    line.sender()
    line.wait_until_settled()

    line.check(set(EVENTS[:4]) if said == "half" else set())


def test_three_senders_and_one_after_the_other_is_killed(line: Delivery) -> None:
    """One works at a time; the jobs of each that dies are first in line for the next."""
    line.plane.hold()
    senders = {number: line.sender() for number in range(3)}
    for died in range(2):
        line.wait_for_requests(died + 1)
        (active,) = [number for number in senders if line.said(number, "lease taken")]
        dying = senders.pop(active)
        for number in senders:
            wait_until(partial(line.said, number, "standing by"))
        dying.kill()
    line.wait_for_requests(3)
    assert [request.ids for request in line.plane.requests] == [EVENTS[:4]] * 3
    line.plane.let_go()

    line.wait_until_settled()

    line.check(set(EVENTS[:4]))


def test_a_clean_stop_hands_over_with_jobs_in_their_order(line: Delivery) -> None:
    """A stop in a backoff does not wait for its end: the job is first in line, and the next sender sends it."""
    line.plane.then(answer(503, b"down", retry_after="300"), answer())
    sender = line.sender()
    wait_until(lambda: line.said(0, "attempt failed"))
    line.sender()
    wait_until(lambda: line.said(1, "standing by"))

    sender.terminate()
    assert sender.wait(30) == 0
    line.wait_until_settled()

    line.check(set())


def test_a_stop_is_bounded(line: Delivery) -> None:
    """A data plane that does not answer: the request is given up, the job put back, and the code is 0."""
    line.plane.hold()
    sender = line.sender(RUDDERPIPE_SHUTDOWN_TIMEOUT_S="0.5", RUDDERPIPE_TIMEOUT_S="600")
    line.plane.wait_for(lambda: line.plane.requests)

    sender.terminate()

    assert sender.wait(30) == 0
    counts = line.queue.counts()
    assert (counts.waiting, counts.active) == (3, 0)
    assert job_attempts(line) == "0"


def test_a_second_signal_leaves_at_once(line: Delivery) -> None:
    """In the middle of a request; the code says so, and the next sender goes on."""
    line.plane.hold()
    sender = line.sender(RUDDERPIPE_TIMEOUT_S="600", RUDDERPIPE_SHUTDOWN_TIMEOUT_S="600")
    line.plane.wait_for(lambda: line.plane.requests)
    sender.terminate()

    def left() -> bool:
        sender.terminate()
        return sender.poll() is not None

    wait_until(left)
    assert sender.returncode == 5
    assert line.said(0, "second SIGTERM, ending now")
    line.plane.let_go()
    line.sender()
    line.wait_until_settled()
    line.check(set(EVENTS[:4]))


def job_attempts(line: Delivery) -> str:
    """Of the first job."""
    return str(line.server.text_client().hget("{rudder}:rudderEventsQueue:1", "attemptsMade") or "0")
