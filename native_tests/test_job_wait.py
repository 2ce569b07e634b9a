"""The sender's wait in Redis for the next job, on every version of Redis that is on this machine."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from native_tests.processes import Processes, wait_until
from native_tests.test_queue import ALL, P, add, ids, queue_of
from native_tests.test_redis_forms import documented_rights
from rudderpipe import settings as settings_module
from rudderpipe.errors import QueueUnavailable
from rudderpipe.queue.job_wait import JobWait
from rudderpipe.testing.redis_server import RedisServer

LONG_S = 20.0


class Waiting:
    """A wait in a thread, and its result: True, False or the error."""

    def __init__(self, server: RedisServer, observer: Any, timeout_s: float = LONG_S, **settings: Any) -> None:
        loaded = settings_module.load({"redis": server.url, **settings}, environment={})
        before = blocked(observer)
        self.wait = JobWait(loaded, LONG_S)
        self.result: bool | QueueUnavailable | None = None
        self._thread = threading.Thread(target=self._run, args=(timeout_s,))
        self._thread.start()
        wait_until(lambda: self.result is not None or blocked(observer) > before)

    def _run(self, timeout_s: float) -> None:
        try:
            self.result = self.wait.wait(timeout_s)
        except QueueUnavailable as error:
            self.result = error

    def ended(self) -> bool | QueueUnavailable | None:
        """Return the result, once there is one."""
        self._thread.join(LONG_S / 2)
        return self.result


def blocked(redis: Any) -> int:
    """Return how many clients wait in Redis."""
    return int(redis.info("clients")["blocked_clients"])


@pytest.fixture(name="redis")
def _redis(server: RedisServer) -> Any:
    client = server.text_client()
    client.flushall()
    return client


WaitingOf = Callable[..., Waiting]


@pytest.fixture(name="waiting_of")
def _waiting_of(server: RedisServer, redis: Any) -> Iterator[WaitingOf]:
    made: list[Waiting] = []

    def make(**others: Any) -> Waiting:
        made.append(Waiting(server, redis, **others))
        return made[-1]

    yield make
    for waiting in made:
        waiting.wait.end()
        waiting.ended()
        waiting.wait.close()


def test_a_job_ends_every_wait_and_the_line_stays_as_it_is(server: RedisServer, waiting_of: WaitingOf) -> None:
    """Several senders may wait at one queue. One that is added alone, or before others, keeps its place."""
    waits = [waiting_of() for _ in range(3)]
    queue = queue_of(server)

    add(queue, 3)

    assert [each.ended() for each in waits] == [True] * 3
    assert waiting_of().ended() is True
    assert ids(queue.take(*ALL)) == ["1", "2", "3"]
    queue.close()


def test_a_wait_for_no_job_changes_nothing(waiting_of: WaitingOf, redis: Any) -> None:
    """Not even a key is made."""
    assert waiting_of(timeout_s=0.01).ended() is False
    assert redis.keys() == []


def test_a_stop_ends_the_wait_and_every_later_one(waiting_of: WaitingOf) -> None:
    """A signal may come at any moment."""
    waiting = waiting_of()

    waiting.wait.end()

    assert waiting.ended() is False
    assert waiting.wait.wait(LONG_S) is False


def test_a_resumed_queue_ends_the_wait(server: RedisServer, waiting_of: WaitingOf, redis: Any) -> None:
    """Bull renames the list of paused jobs."""
    queue = queue_of(server)
    redis.set(f"{P}meta-paused", 1)
    add(queue, 1)
    waiting = waiting_of()

    redis.pipeline().delete(f"{P}meta-paused").rename(f"{P}paused", f"{P}wait").execute()

    assert waiting.ended() is True
    queue.close()


def test_the_documented_rights_allow_the_wait(server: RedisServer, waiting_of: WaitingOf, redis: Any) -> None:
    """Without the right, the refusal names it and the sender looks for jobs by itself."""
    redis.execute_command("ACL", "SETUSER", "pipe", "reset", "on", ">pw", *documented_rights())
    url = f"unix://pipe:pw@{server.socket}"
    assert waiting_of(redis=url, timeout_s=0.01).ended() is False

    redis.execute_command("ACL", "SETUSER", "pipe", "-blmove")

    refused = waiting_of(redis=url).ended()
    assert isinstance(refused, QueueUnavailable)
    assert refused.answered
    assert "perm" in str(refused).lower()


def test_events_arrive_where_redis_refuses_the_wait(processes: Processes, server: RedisServer, redis: Any) -> None:
    """The sender then looks for jobs several times a second."""
    redis.execute_command("ACL", "SETUSER", "app", "reset", "on", ">pw", "~*", "&*", "+@all", "-blmove")
    processes.explicit["redis"] = f"unix://app:pw@{server.socket}"
    client = processes.client()
    assert client.track("u", "e")
    assert client.flush(30, until="delivered")

    assert client.track("u", "e")

    assert client.flush(30, until="delivered")
    redis.execute_command("ACL", "DELUSER", "app")
