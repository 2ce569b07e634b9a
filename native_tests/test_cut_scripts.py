"""A script that Redis interrupts between two writes loses nothing. The next call repairs what it left."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
from redis import ResponseError

from native_tests.redis_queue_server import RedisQueueServer
from rudderpipe.errors import QueueBehind, QueueUnavailable
from rudderpipe.queue import scripts
from rudderpipe.queue.active_job import ActiveJob
from rudderpipe.queue.failed_jobs import FailedJobs
from rudderpipe.queue.pause import set_paused
from rudderpipe.queue.queue import Queue
from rudderpipe.testing.redis_server import RedisServer
from tests.queue_contract import ALL, EPOCH, add, data_of, users

SHIM = """
local real, left, refused = redis, %d, nil
local harmless = {GET = 1, EXISTS = 1, TYPE = 1, LRANGE = 1, LINDEX = 1, LLEN = 1, HGET = 1, HGETALL = 1, HSTRLEN = 1,
  HMGET = 1, MGET = 1, HLEN = 1, HEXISTS = 1, ZCARD = 1, ZRANGE = 1, ZSCORE = 1, ZRANGEBYSCORE = 1, SMEMBERS = 1,
  PTTL = 1, PUBLISH = 1}
local redis = setmetatable({}, {__index = real})
local function cuts(command, key)
  left = left - (harmless[command] and 0 or 1)
  if left == 0 and not harmless[command] then
    refused = command .. key
  end
  return refused == command .. key
end
function redis.call(command, key, ...)
  if cuts(command, key) then
    error("CUT at " .. command)
  end
  return real.call(command, key, ...)
end
function redis.pcall(command, key, ...)
  if cuts(command, key) then
    return {err = "CUT at " .. command}
  end
  return real.pcall(command, key, ...)
end
"""
"""Lua code ahead of a script, by which the write of the given number fails as when Redis refuses the command."""


class FilledQueue:
    """A queue of jobs with two events each. 1 to 4 are active, 5 and 6 wait, 7 has failed, "due" is delayed and due."""

    def __init__(self, queue_server: RedisQueueServer, call: str) -> None:
        self.queue_server = queue_server
        self.options: dict[str, Any] = {"keep_completed": 1} if call == "complete and keep" else {}
        self.queue = queue_server.queue(**self.options)
        queue = self.queue
        add(queue, 7)
        *first, seventh = queue.take(*ALL)
        queue.fail(seventh, "no")
        queue.put_back(first)
        self.held = queue.take(4, 10_000_000)
        queue.sweep()
        queue_server.delay("due", 1, {"data": data_of(8, 0), "opts": "{}", "delay": "5"})
        self.done: list[ActiveJob] = []
        """The jobs that were delivered before the interrupted call."""

    def finish(self, *, without: str = "") -> Counter[str]:
        """Have a successor deliver everything; return how often each user's event was delivered, our own included."""
        queue_server, queue = self.queue_server, self.queue_server.queue()
        queue.promote()
        queue.recover()
        failed = FailedJobs(queue)
        failed.retry([job for job in failed if job.id != without])
        delivered = list(self.done)
        while taken := queue.take(*ALL):
            assert queue.complete(taken) == len(taken)
            delivered += taken
        view = queue_server.view()
        assert (view.line, view.active, view.delayed) == ([], [], [])
        return Counter(name for taken in delivered for name in users(taken))


def _add(_: FilledQueue, queue: Queue) -> None:
    queue.add(EPOCH, [(data_of(7), 2)], {1: (14, 16)}, [3], 1)


def _add_while_paused(filled: FilledQueue, queue: Queue) -> None:
    filled.queue_server.pause()
    _add(filled, queue)


def _complete(filled: FilledQueue, queue: Queue) -> None:
    filled.done = filled.held[:2]
    queue.complete(filled.done)


def _sweep(filled: FilledQueue, queue: Queue) -> None:
    filled.queue_server.lapse("1", "2")
    filled.queue_server.interval_passes()
    queue.sweep()


def _retry(filled: FilledQueue, queue: Queue, *, first: bool) -> None:
    failed = FailedJobs(queue)
    failed.retry(list(failed), first=first)
    assert filled.queue_server.view().failed == []


def _resume(filled: FilledQueue, queue: Queue) -> None:
    filled.queue_server.pause()
    set_paused(queue, pauses=False)


CALLS: dict[str, tuple[str, Callable[[FilledQueue, Queue], object]]] = {
    "add": ("add_jobs", _add),
    "add while paused": ("add_jobs", _add_while_paused),
    "take": ("take_jobs", lambda _, queue: queue.take(*ALL)),
    "renew": ("renew_locks", lambda filled, queue: queue.renew(filled.held)),
    "retry later": ("retry_later", lambda filled, queue: queue.retry_later(filled.held)),
    "complete": ("complete_jobs", _complete),
    "complete and keep": ("complete_jobs", _complete),
    "fail": ("fail_job", lambda filled, queue: queue.fail(filled.held[0], "no")),
    "split": ("split_job", lambda filled, queue: queue.split(filled.held[1])),
    "put back": ("put_back", lambda filled, queue: queue.put_back(filled.held)),
    "recover": ("recover_active", lambda _, queue: queue.recover()),
    "sweep": ("sweep_stalled", _sweep),
    "promote": ("promote_delayed", lambda _, queue: queue.promote()),
    "retry": ("retry_failed", lambda filled, queue: _retry(filled, queue, first=False)),
    "retry first": ("retry_failed", lambda filled, queue: _retry(filled, queue, first=True)),
    "pause": ("set_paused", lambda _, queue: set_paused(queue, pauses=True)),
    "resume": ("set_paused", _resume),
    "remove": ("remove_jobs", lambda _, queue: FailedJobs(queue).remove(["7"])),
}
"""By name, the script that is interrupted and the call that runs it."""


@pytest.fixture(name="queue_server")
def _queue_server(server: RedisServer) -> Iterator[RedisQueueServer]:
    queue_server = RedisQueueServer(server)
    yield queue_server
    queue_server.close()


def expected(call: str) -> Counter[str]:
    """Return the count of deliveries that each user's event must have."""
    numbers = [number for number in range(9) if not (number == 7 and not call.startswith("add"))]
    if call == "remove":
        numbers.remove(6)
    return Counter(f"{letter}{number}" for number in numbers for letter in "ab")


def check(filled: FilledQueue, call: str, *, repeated: bool) -> None:
    """Let a successor deliver everything, and check that each event arrives once and nothing is left."""
    delivered = filled.finish(without="7" if call == "remove" else "")
    wanted = expected(call)
    if not repeated:  # a successor may deliver or keep what the dead caller had finished
        delivered = Counter(set(delivered)) if filled.done else delivered
        delivered.update(wanted - delivered if call == "remove" else ())
    assert delivered == wanted
    assert filled.queue_server.view().failed == (["7"] if call == "remove" and not repeated else [])


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("repeated", [True, False], ids=["repeated", "not repeated"])
def test_a_script_interrupted_at_any_write_loses_and_doubles_nothing(
    queue_server: RedisQueueServer, monkeypatch: pytest.MonkeyPatch, call: str, repeated: bool
) -> None:
    """The first write fails, then the second, and so on. Afterwards the call is repeated, or its caller is dead."""
    script, action = CALLS[call]
    original = scripts.source
    for number in range(1, 200):
        queue_server.client.flushall()
        filled = FilledQueue(queue_server, call)

        def source(name: str, number: int = number) -> str:
            header, end, body = original(name).partition("]]\n")
            return header + end + (SHIM % number if name == script else "") + body

        with monkeypatch.context() as patched:
            patched.setattr(scripts, "source", source)
            interrupted = queue_server.queue(token=filled.queue.token, **filled.options)
        try:
            action(filled, interrupted)
            break
        except QueueUnavailable as error:
            assert "CUT at" in error.reason  # noqa: PT017  # the loop ends with the first call that is not interrupted
        if repeated or call.startswith("add"):  # the next flusher adds what is in the ring
            with suppress(QueueBehind):
                action(filled, filled.queue)
        queue_server.resume()
        check(filled, call, repeated=repeated or call.startswith("add"))
    assert number > 1


WRITES = (
    *("set", "del", "hset", "hsetnx", "hdel", "hincrby", "incr", "incrby", "pexpire", "lpush", "rpush", "lpop", "rpop"),
    *("lrem", "ltrim", "linsert", "zadd", "zrem", "sadd", "srem", "rename"),
)


@pytest.mark.parametrize("call", CALLS)
def test_a_redis_user_without_one_command_loses_and_doubles_nothing(queue_server: RedisQueueServer, call: str) -> None:
    """Redis denies each writing command in turn. The same call by a user with all rights then leaves correct counts."""
    _, action = CALLS[call]
    refusals = 0
    for command in WRITES:
        queue_server.client.flushall()
        filled = FilledQueue(queue_server, call)
        queue_server.client.execute_command("ACL", "SETUSER", "app", "reset", "on", ">pw", "~*", "+@all", f"-{command}")
        bound = queue_server.queue(
            token=filled.queue.token, redis=f"unix://app:pw@{queue_server.server.socket}", **filled.options
        )
        for _ in range(2):
            try:
                action(filled, bound)
                break
            except QueueUnavailable:
                refusals += 1
            except QueueBehind:
                break
        else:
            with suppress(QueueBehind):
                action(filled, filled.queue)
        queue_server.resume()

        check(filled, call, repeated=True)

        counts = filled.queue.counts(EPOCH)
        removed = 2 if call == "remove" else 0
        added = 16 if call.startswith("add") else 14
        assert (counts.events_delivered, counts.events_removed) == (added - removed, removed), command
        assert (counts.events_queued, counts.events_failed, counts.events_elsewhere) == (0, 0, 0), command
    assert refusals


@pytest.mark.parametrize("call", CALLS)
def test_a_redis_user_without_channels_can_run_every_script(queue_server: RedisQueueServer, call: str) -> None:
    """Redis 7 gives a new user no channels, so a script must not depend on its messages."""
    _, action = CALLS[call]
    filled = FilledQueue(queue_server, call)
    queue_server.client.execute_command(
        *("ACL", "SETUSER", "app", "reset", "resetchannels", "on", ">pw", "~{rudder}:*", "+@all")
    )
    bound = queue_server.queue(
        token=filled.queue.token, redis=f"unix://app:pw@{queue_server.server.socket}", **filled.options
    )

    action(filled, bound)

    queue_server.resume()
    check(filled, call, repeated=True)


@pytest.mark.parametrize("name", scripts.NAMES)
def test_a_script_names_a_key_of_another_type_before_it_changes_anything(
    queue_server: RedisQueueServer, name: str
) -> None:
    """The script's header lists its keys, so the test damages each of them in turn."""
    kinds = re.findall(r"^  KEYS\[\d+\] +(\w+) +([A-Z]+) ", scripts.source(name), re.MULTILINE)
    digest = queue_server.client.script_load(scripts.source(name))
    keys = [f"{{t}}:{key}" for key, _ in kinds]
    for key, (_, kind) in zip(keys, kinds, strict=True):
        queue_server.client.flushall()
        queue_server.client.geoadd(key, (1, 1, "x")) if kind != "ZSET" else queue_server.client.set(key, "x")

        with pytest.raises(ResponseError, match=f"WRONGTYPE {re.escape(key)} is a \\w+ and must be a {kind.lower()}"):
            queue_server.client.evalsha(digest, len(keys), *keys, *[""] * 12)

        assert queue_server.client.keys("*") == [key]
