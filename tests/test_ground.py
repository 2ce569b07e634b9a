"""Forks, timers, throttled logs, the loop and errors."""

from __future__ import annotations

import logging
import pickle

import pytest

from rudderpipe import errors
from rudderpipe.process import fork
from rudderpipe.process.clock import Every, iso_ms
from rudderpipe.process.log_limit import RARELY_S, REASONS, ThrottledLog
from rudderpipe.service.loop import run
from rudderpipe.service.signals import StopFlag
from tests.fakes import FakeClock


class Owner:
    def __init__(self) -> None:
        self.forgot = 0

    def forget(self) -> None:
        self.forgot += 1


def test_a_forked_child_forgets_its_parents_state_once() -> None:
    """``renew`` calls ``forget`` of every owner. Afterwards the state belongs to the child."""
    owner = Owner()
    fork.forget_in_children(owner)

    fork.PAGE[0] = 0
    fork.renew()
    fork.renew()

    assert owner.forgot == 1
    assert fork.PAGE[0]


def test_a_forked_child_makes_its_own_value() -> None:
    """The child's first use makes the value, without a call of ``renew``. The child never sees the parent's value."""
    local = fork.Local(list[str])
    local.value.append("the parent's")
    fork.PAGE[0] = 0

    assert local.value == []
    local.value = ["the child's"]
    assert local.value == ["the child's"]


def test_the_pid_shows_a_fork_where_the_kernel_does_not() -> None:
    """The stand-in for the kernel's page reads as 0 in a process with another pid."""
    pids = iter([1, 1, 2, 2, 2])
    page = fork.PidPage(lambda: next(pids))

    page[0] = 1
    assert page[0]
    assert not page[0]
    page[0] = 1
    assert page[0]


def test_a_timer_is_due_at_once_and_then_once_in_an_interval() -> None:
    """After a long pause the timer is due once, not once for each missed interval."""
    every = Every(2.0)

    assert [every.is_due(now_s) for now_s in (0.0, 1.9, 2.0, 2.1, 99.0, 99.0, 101.0)] == [
        *(True, False, True, False),
        *(True, False, True),
    ]


def test_a_timer_can_be_restarted_made_due_and_given_another_interval() -> None:
    """The interval counts from the moment when the timer was last due or restarted."""
    every = Every(2.0)

    every.restart(10.0)
    assert not every.is_due(11.0)
    every.seconds = 0.5
    assert every.is_due(11.0)
    assert not every.is_due(11.4)
    every.at_once()
    assert every.is_due(11.4)


def test_a_throttled_log_writes_one_line_a_second_for_each_reason(caplog: pytest.LogCaptureFixture) -> None:
    """The line holds the number of entries since the last line."""
    clock = FakeClock()
    log = ThrottledLog(logging.getLogger("rudderpipe.test"), clock)

    for _ in range(100):
        log.warning("full", "events refused")
    log.warning("busy", "events refused")
    clock.now_s += 1
    log.warning("full", "events refused")

    assert [record.getMessage() for record in caplog.records] == [
        "events refused reason=full count=1",
        "events refused reason=busy count=1",
        "events refused reason=full count=100",
    ]


def test_the_end_of_a_condition_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """Only if its beginning was. A condition that comes back is logged again within a second, not after a minute."""
    caplog.set_level(logging.INFO)
    clock = FakeClock()
    log = ThrottledLog(logging.getLogger("rudderpipe.test"), clock, RARELY_S)

    def seconds(conditions: str) -> None:
        for condition in conditions:
            if condition == "-":
                log.warning("queue", "away")
            else:
                log.over("queue", "there again")
            clock.now_s += 0.4

    seconds("++---++-+-+------+")
    clock.now_s += 600
    seconds("+")

    assert [record.getMessage() for record in caplog.records] == [
        "away reason=queue count=1",
        "there again reason=queue count=2",
        "away reason=queue count=2",
        "there again reason=queue count=0",
        "away reason=queue count=3",
        "there again reason=queue count=3",
    ]


def test_a_throttled_log_does_not_grow_with_its_reasons(caplog: pytest.LogCaptureFixture) -> None:
    """With too many reasons the log forgets them all, and the counts that it logs add up all the same."""
    log = ThrottledLog(logging.getLogger("rudderpipe.test"), FakeClock())

    for number in range(10 * REASONS):
        for _ in range(3):
            log.warning(f"reason {number}", "refused")

    assert len(log._lines.value) <= REASONS
    log.say_rest()
    log.say_rest()
    assert len(caplog.records) == 2 * 10 * REASONS
    assert sum(int(record.getMessage().rpartition("count=")[2]) for record in caplog.records) == 3 * 10 * REASONS


class Counting:
    def __init__(self, stop: StopFlag) -> None:
        self.stop, self.calls = stop, list[str]()

    def work(self) -> int:
        self.calls.append("work")
        if len(self.calls) == 3:
            self.stop.raised = True
        return 0

    def finished(self) -> bool:
        return False

    def drain(self, deadline_s: float) -> None:
        self.calls.append(f"drain {deadline_s:.0f}")

    def close(self) -> None:
        self.calls.append("close")


def test_the_loop_drains_and_closes_a_stopped_program() -> None:
    """The loop works until the stop flag is raised. The program then drains with the time that is left, and closes."""
    stop, clock = StopFlag(), FakeClock()
    program = Counting(stop)

    run(program, stop, clock, shutdown_timeout_s=10)

    assert program.calls == ["work", "work", "work", "drain 1010", "close"]


@pytest.mark.parametrize(
    "error",
    [
        errors.SettingsError("flush_at", "is wrong"),
        errors.EventError("event", "is missing"),
        errors.EventTooLarge(5, 4),
        errors.IngestionError("a.ndjson.gz", "reason", 7),
        errors.RingUnavailable("name", "reason"),
        errors.EventRefused("busy"),
        errors.RingFull(),
        errors.QueueUnavailable("place", "reason"),
        errors.QueueBehind({1: 2}),
        errors.NotReplicated("redis", 0, 1),
        errors.JobUnreadable("reason"),
    ],
)
def test_every_error_pickles_and_is_a_rudderpipe_error(error: errors.RudderpipeError) -> None:
    """An error keeps its type, text and attributes when it is sent to another process."""
    again = pickle.loads(pickle.dumps(error))

    assert isinstance(again, errors.RudderpipeError)
    assert (type(again), str(again), vars(again)) == (type(error), str(error), vars(error))


def test_times_have_the_form_of_the_node_sdk() -> None:
    """A time has milliseconds and a Z."""
    assert iso_ms(1_795_428_148_159) == "2026-11-23T10:02:28.159Z"
