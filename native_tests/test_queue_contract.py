"""The queue's contract over a real Redis, where the failed set can be tried too."""

from __future__ import annotations

import inspect
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from native_tests.redis_stand import RedisStand
from rudderpipe.cli.redis_server import RedisServer
from rudderpipe.queue import scripts
from rudderpipe.queue.failed import FailedJobs, Selection
from rudderpipe.queue.queue import Queue
from rudderpipe.queue.scripts import Call, Scripts
from tests.queue_contract import ALL, EPOCH, QueueContract, View, add, ids


@pytest.fixture(name="server", scope="module")
def _server() -> Iterator[RedisServer]:
    with tempfile.TemporaryDirectory(prefix="rp-") as directory, RedisServer(Path(directory)) as server:
        yield server


@pytest.fixture(name="stand")
def _stand(server: RedisServer) -> Iterator[RedisStand]:
    stand = RedisStand(server)
    yield stand
    stand.close()


class TestQueue(QueueContract):
    """All of it."""


def fail(stand: RedisStand, queue: Queue, count: int) -> None:
    """Jobs 1, 2, ... that failed one second after the other."""
    add(queue, count)
    for taken in queue.take(*ALL):
        stand.clock.now_s += 1
        assert queue.fail(taken, f"status 40{taken.id}")


class TestFailedJobs:
    """What people and bounds do to the failed set."""

    def test_failed_jobs_are_found_oldest_first(self, stand: RedisStand) -> None:
        """By id, time and a part of the reason; with what they hold."""
        queue = stand.queue()
        fail(stand, queue, 4)
        now_ms = stand.clock.time_ms()
        failed = FailedJobs(queue)

        assert [(job.id, job.reason, job.events) for job in failed][:2] == [
            ("1", "status 401", 2),
            ("2", "status 402", 2),
        ]
        assert [job.failed_at_ms for job in failed] == [now_ms - 3000, now_ms - 2000, now_ms - 1000, now_ms]
        assert [job.id for job in failed.find(Selection(ids=frozenset({"4", "2", "9"})))] == ["2", "4"]
        assert [job.id for job in failed.find(Selection(since_ms=now_ms - 1000))] == ["3", "4"]
        assert [job.id for job in failed.find(Selection(reason="STATUS 403"))] == ["3"]
        assert [job.id for job in failed.find(Selection(ids=frozenset({"1"}), reason="403"))] == []

    @pytest.mark.parametrize(("first", "line"), [(False, ["5", "1", "2", "3"]), (True, ["1", "2", "3", "5"])])
    @pytest.mark.parametrize("paused", [False, True])
    def test_retried_jobs_wait_in_their_order(
        self, stand: RedisStand, first: bool, line: list[str], paused: bool
    ) -> None:
        """Behind or ahead of what waits; once, with no attempt counted, and their events queued."""
        queue = stand.queue()
        fail(stand, queue, 4)
        add(queue, 1, 4)
        if paused:
            stand.pause()
        chosen = list(FailedJobs(queue))

        assert FailedJobs(queue).retry(chosen[:3], first=first) == 3
        assert FailedJobs(queue).retry(chosen[:3], first=first) == 0

        assert stand.view() == View(line=line, failed=["4"])
        counts = queue.counts(EPOCH)
        assert (counts.events_queued, counts.events_failed) == (8, 2)
        assert "failedReason" not in stand.fields("1")
        if paused:
            stand.resume()
        taken = queue.take(*ALL)
        assert ids(taken) == line
        assert queue.complete(taken) == 4
        assert queue.counts(EPOCH).events_delivered == 8

    def test_a_failed_job_that_somebody_locked_is_left_alone(self, stand: RedisStand) -> None:
        """By a retry and by a removal."""
        queue = stand.queue()
        fail(stand, queue, 1)
        stand.client.set("{rudder}:rudderEventsQueue:1:lock", "somebody")

        assert FailedJobs(queue).retry(list(FailedJobs(queue))) == 0
        assert FailedJobs(queue).remove(["1"]) == (0, 0)

        assert stand.view().failed == ["1"]

    def test_removed_events_are_counted_as_removed(self, stand: RedisStand) -> None:
        """A job that waits again, or is gone, is not removed."""
        queue = stand.queue()
        fail(stand, queue, 3)
        FailedJobs(queue).retry(list(FailedJobs(queue))[:1])

        assert FailedJobs(queue).remove(["1", "2", "9"]) == (1, 2)
        assert FailedJobs(queue).remove(["2"]) == (0, 0)

        assert stand.view() == View(line=["1"], failed=["3"])
        assert stand.fields("2") == {}
        for epoch in (EPOCH, None):
            counts = queue.counts(epoch)
            assert (counts.events_queued, counts.events_failed, counts.events_removed) == (2, 2, 2)

    def test_the_oldest_failed_jobs_go_first(self, stand: RedisStand) -> None:
        """Those that are more than so many, and those that are older than so long."""
        queue = stand.queue()
        fail(stand, queue, 5)

        assert FailedJobs(queue).trim(None, None) == (0, 0)
        assert FailedJobs(queue).trim(5, 100) == (0, 0)
        assert FailedJobs(queue).trim(4, None) == (1, 2)
        assert stand.view().failed == ["2", "3", "4", "5"]
        assert FailedJobs(queue).trim(None, 2.0) == (2, 4)
        assert stand.view().failed == ["4", "5"]
        assert FailedJobs(queue).trim(1, 0.5) == (1, 2)
        assert queue.counts().events_removed == 8


def test_redis_takes_every_script(server: RedisServer) -> None:
    """Each is Lua that parses, with what it includes."""
    for name in scripts.NAMES:
        assert server.text_client().script_load(scripts.source(name))


def test_the_contract_calls_every_script(server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A script that no promise is tried of would be found by its users."""
    called: set[str] = set()
    call = Scripts.call
    together = Scripts.call_together

    def noted(self: Scripts, client: Redis, name: str, keys: list[str], *arguments: str | bytes | int) -> Any:
        called.add(name)
        return call(self, client, name, keys, *arguments)

    def noted_together(self: Scripts, client: Redis, *calls: Call) -> list[Any]:
        called.update(name for name, _, _ in calls)
        return together(self, client, *calls)

    monkeypatch.setattr(Scripts, "call", noted)
    monkeypatch.setattr(Scripts, "call_together", noted_together)
    for promises in (TestQueue(), TestFailedJobs()):
        for name in dir(promises):
            test = getattr(promises, name)
            if name.startswith("test_") and list(inspect.signature(test).parameters) == ["stand"]:
                stand = RedisStand(server)
                test(stand)
                stand.close()
    assert called == set(scripts.NAMES)
