"""What a sender says of its attempts, in a real Redis, and as the flow shows it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from native_tests.processes import Processes, wait_until
from rudderpipe.delivery import outcome
from rudderpipe.delivery.dispatcher import Decision
from rudderpipe.observe import flow
from rudderpipe.process import identity
from rudderpipe.queue import sender_report
from rudderpipe.queue.meter import RedisMeter
from rudderpipe.queue.queue import Queue
from rudderpipe.queue.sender_report import LAPSE_MS, SenderReport
from rudderpipe.sender.reporting import LONGEST_S, REFUSED_S, SHORTEST_S, Reporting
from rudderpipe.sender.state import SenderState
from rudderpipe.settings import Settings
from rudderpipe.testing.data_plane import Misbehaviour
from rudderpipe.testing.redis_server import RedisServer
from tests.fakes import FakeClock

REPORT = SenderReport(0, 0, 0.0, 0, {"delivered": 1}, {"http_2xx": 1}, [(1.0, 1), (None, 1)], "http_2xx", "")


@pytest.fixture(name="meter")
def _meter() -> RedisMeter:
    return RedisMeter()


@pytest.fixture(name="clock")
def _clock() -> FakeClock:
    return FakeClock()


@pytest.fixture(name="queue")
def _queue(redis_server: RedisServer, directory: Path, clock: FakeClock, meter: RedisMeter) -> Iterator[Queue]:
    queue = Queue(Settings(redis=redis_server.url, runtime_dir=str(directory)), clock, meter=meter)
    yield queue
    queue.close()


@pytest.fixture(name="state")
def _state(clock: FakeClock) -> SenderState:
    state = SenderState(clock.monotonic_s(), 60)
    state.state, state.waiting_jobs = "active", 0
    return state


def write(queue: Queue, host: str, written_ms: int, last_class: str = "http_2xx") -> None:
    """Write a report of this moment."""
    report = msgspec.structs.replace(REPORT, written_ms=written_ms, last_class=last_class)
    sender_report.write(queue, host, 7, report)


def hosts(queue: Queue) -> list[str]:
    """Return the hosts of the reports that are shown."""
    return [each.host for each in sender_report.read(queue)]


def test_reports_of_several_senders(queue: Queue, clock: FakeClock, redis_server: RedisServer) -> None:
    """The latest is first. All lapse by themselves; that of a sender that ended is removed by another one."""
    client = redis_server.client()
    write(queue, "web-1", clock.time_ms())
    clock.now_s += 1
    write(queue, "web-2", clock.time_ms())

    assert hosts(queue) == ["web-2", "web-1"]
    assert 0 < client.pttl(queue.keys.senders) <= LAPSE_MS
    clock.now_s += 2 * LAPSE_MS / 1000
    assert hosts(queue) == ["web-2"]
    write(queue, "web-2", clock.time_ms())
    assert client.hkeys(queue.keys.senders) == [b"web-2 7"]


def test_a_late_report_does_not_replace_a_later_one(queue: Queue, clock: FakeClock) -> None:
    """A call may be executed long after its sender gave it up."""
    write(queue, "web-1", clock.time_ms(), "http_5xx")
    write(queue, "web-1", clock.time_ms() - 5000)

    (found,) = sender_report.read(queue)
    assert found.report.last_class == "http_5xx"


def test_a_report_in_another_form_is_not_shown(queue: Queue, clock: FakeClock, redis_server: RedisServer) -> None:
    """Of a version that writes more or less, or of another program."""
    now = clock.time_ms()
    for name, value in (("web-3 7", f"{now} {{}}"), ("web-4 x", f"{now} {{}}"), ("web-5", "?"), (b"\xff 1", b"\xff")):
        redis_server.client().hset(queue.keys.senders, name, value)
    write(queue, "web-1", now)

    assert hosts(queue) == ["web-1"]


def test_a_report_is_written_when_something_changed(
    queue: Queue, clock: FakeClock, state: SenderState, meter: RedisMeter
) -> None:
    """At most every 2 s; without a change only so often that it does not lapse; not while it stands by."""
    reporting = Reporting(queue, state, clock)

    def calls() -> int:
        reporting.work()
        return meter.calls["report_sender"].values if meter.calls else 0

    assert calls() == 1
    clock.now_s += SHORTEST_S
    assert calls() == 1  # nothing has changed
    clock.now_s += LONGEST_S - SHORTEST_S
    assert calls() == 2
    decision = Decision("retry", 1, 1, outcome.of_answer(503, b"try later"), 4.0, events=20, seconds=0.2)
    state.counts.attempts.note(decision)
    assert calls() == 2  # it is too early
    clock.now_s += SHORTEST_S
    state.backoff_until_s = clock.now_s + 4
    assert calls() == 3
    (found,) = sender_report.read(queue)
    host, pid, _ = identity.address().split(" ")
    assert (found.host, found.pid) == (host, int(pid))
    report = found.report
    assert (report.written_ms, report.started_ms) == (clock.time_ms(), clock.time_ms() - 12_000)
    assert (report.attempts["retry"], report.attempts["delivered"], report.classes) == (1, 0, {"http_5xx": 1})
    assert (report.last_class, report.last_reason, report.retry_in_s) == ("http_5xx", "status 503: try later", 4.0)
    assert [total for bound, total in report.attempt_s_buckets if bound in (0.1, 0.25, None)] == [0, 1, 1]
    clock.now_s += SHORTEST_S
    assert calls() == 3  # a pause that passes is no change
    state.state = "standby"
    clock.now_s += LONGEST_S
    assert calls() == 3
    state.state, state.waiting_jobs = "active", None
    assert calls() == 3  # redis is away


def test_a_sender_that_may_not_report(
    queue: Queue, clock: FakeClock, state: SenderState, meter: RedisMeter, redis_server: RedisServer
) -> None:
    """It is no error, and is seldom asked again."""
    reporting = Reporting(queue, state, clock)
    redis: Any = redis_server.text_client()
    redis.execute_command("ACL", "SETUSER", "default", "-pexpire")
    reporting.work()
    refused = meter.calls["report_sender"].values
    clock.now_s += REFUSED_S - 1
    reporting.work()
    assert meter.calls["report_sender"].values == refused
    redis.execute_command("ACL", "SETUSER", "default", "+pexpire", "-hgetall")
    assert sender_report.read(queue) == []
    redis.execute_command("ACL", "SETUSER", "default", "+hgetall")
    clock.now_s += 1
    reporting.work()

    assert len(sender_report.read(queue)) == 1


def test_a_senders_process_reports(processes: Processes, redis_server: RedisServer) -> None:
    """Its attempts reach any program that may read the queue, and so does the end of the trouble."""
    processes.explicit["redis"] = redis_server.url
    processes.plane.misbehaviour = Misbehaviour(503)
    client = processes.client()
    assert client.track("u", "e")

    def shown() -> SenderReport | None:
        sender = flow.of(processes.status(), processes.settings).sender
        return sender.report if sender is not None else None

    def codes() -> list[str]:
        return [each.code for each in flow.of(processes.status(), processes.settings).findings]

    report: SenderReport = wait_until(lambda: (found := shown()) and found.attempts["retry"] and found)
    assert (report.last_class, report.last_reason.startswith("status 503")) == ("http_5xx", True)
    assert (report.delivered_events, "retrying" in codes()) == (0, True)
    processes.plane.misbehaviour = Misbehaviour()
    wait_until(lambda: (found := shown()) and found.delivered_events == 1)
    assert codes() == []
