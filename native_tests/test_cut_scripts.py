"""A script that Redis cuts between two of its writes loses no id and no event, and the next call mends what it left."""

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
from rudderpipe.queue.queue import Queue
from rudderpipe.testing.redis_server import RedisServer
from tests.queue_contract import ALL, EPOCH, add, data_of, users

SHIM = """
local real, left, refused = redis, %d, nil
local harmless = {GET = 1, EXISTS = 1, TYPE = 1, LRANGE = 1, LINDEX = 1, LLEN = 1, HGET = 1, HGETALL = 1, HSTRLEN = 1,
  HEXISTS = 1, ZCARD = 1, ZRANGE = 1, ZSCORE = 1, ZRANGEBYSCORE = 1, SMEMBERS = 1, PTTL = 1, PUBLISH = 1}
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
"""Put ahead of a script: its write number so-and-so fails, as when Redis refuses the command."""


class Scene:
    """Jobs 1 to 4 are active, 5 and 6 wait, 7 has failed, "due" is delayed and due; two events each."""

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
        """Delivered before the call that is cut."""

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


def _add(_: Scene, queue: Queue) -> None:
    queue.add(EPOCH, [(data_of(7), 2)], {1: (14, 16)}, [3], 1)


def _add_while_paused(scene: Scene, queue: Queue) -> None:
    scene.queue_server.pause()
    _add(scene, queue)


def _complete(scene: Scene, queue: Queue) -> None:
    scene.done = scene.held[:2]
    queue.complete(scene.done)


def _sweep(scene: Scene, queue: Queue) -> None:
    scene.queue_server.lapse("1", "2")
    scene.queue_server.interval_passes()
    queue.sweep()


def _retry(scene: Scene, queue: Queue, *, first: bool) -> None:
    failed = FailedJobs(queue)
    failed.retry(list(failed), first=first)
    assert scene.queue_server.view().failed == []


CALLS: dict[str, tuple[str, Callable[[Scene, Queue], object]]] = {
    "add": ("add_jobs", _add),
    "add while paused": ("add_jobs", _add_while_paused),
    "take": ("take_jobs", lambda _, queue: queue.take(*ALL)),
    "renew": ("renew_locks", lambda scene, queue: queue.renew(scene.held)),
    "retry later": ("retry_later", lambda scene, queue: queue.retry_later(scene.held)),
    "complete": ("complete_jobs", _complete),
    "complete and keep": ("complete_jobs", _complete),
    "fail": ("fail_job", lambda scene, queue: queue.fail(scene.held[0], "no")),
    "split": ("split_job", lambda scene, queue: queue.split(scene.held[1])),
    "put back": ("put_back", lambda scene, queue: queue.put_back(scene.held)),
    "recover": ("recover_active", lambda _, queue: queue.recover()),
    "sweep": ("sweep_stalled", _sweep),
    "promote": ("promote_delayed", lambda _, queue: queue.promote()),
    "retry": ("retry_failed", lambda scene, queue: _retry(scene, queue, first=False)),
    "retry first": ("retry_failed", lambda scene, queue: _retry(scene, queue, first=True)),
    "remove": ("remove_jobs", lambda _, queue: FailedJobs(queue).remove(["7"])),
}
"""What is called, and the script that is cut."""


@pytest.fixture(name="queue_server")
def _queue_server(server: RedisServer) -> Iterator[RedisQueueServer]:
    queue_server = RedisQueueServer(server)
    yield queue_server
    queue_server.close()


def expected(call: str) -> Counter[str]:
    """Each event once."""
    numbers = [number for number in range(9) if not (number == 7 and not call.startswith("add"))]
    if call == "remove":
        numbers.remove(6)
    return Counter(f"{letter}{number}" for number in numbers for letter in "ab")


def check(scene: Scene, call: str, *, repeated: bool) -> None:
    """Let a successor deliver everything: each event arrives once, and nothing is left."""
    delivered = scene.finish(without="7" if call == "remove" else "")
    wanted = expected(call)
    if not repeated:  # what a dead caller delivered may be delivered again, what it removed may stay
        delivered = Counter(set(delivered)) if scene.done else delivered
        delivered.update(wanted - delivered if call == "remove" else ())
    assert delivered == wanted
    assert scene.queue_server.view().failed == (["7"] if call == "remove" and not repeated else [])


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("repeated", [True, False], ids=["repeated", "not repeated"])
def test_a_cut_at_any_write_loses_and_doubles_nothing(
    queue_server: RedisQueueServer, monkeypatch: pytest.MonkeyPatch, call: str, repeated: bool
) -> None:
    """The call is cut at its first write, its second, and so on; then it is repeated, or its caller is dead."""
    script, action = CALLS[call]
    whole = scripts.source
    for number in range(1, 200):
        queue_server.client.flushall()
        scene = Scene(queue_server, call)

        def source(name: str, number: int = number) -> str:
            header, end, body = whole(name).partition("]]\n")
            return header + end + (SHIM % number if name == script else "") + body

        with monkeypatch.context() as patched:
            patched.setattr(scripts, "source", source)
            cut = queue_server.queue(token=scene.queue.token, **scene.options)
        try:
            action(scene, cut)
            break
        except QueueUnavailable as error:
            assert "CUT at" in error.reason  # noqa: PT017  # the loop ends with the first call that is not cut
        if repeated or call.startswith("add"):  # the next flusher adds what is in the ring
            with suppress(QueueBehind):
                action(scene, scene.queue)
        queue_server.resume()
        check(scene, call, repeated=repeated or call.startswith("add"))
    assert number > 1


WRITES = (
    *("set", "del", "hset", "hsetnx", "hdel", "hincrby", "incr", "incrby", "pexpire", "lpush", "rpush", "lpop", "rpop"),
    *("lrem", "ltrim", "linsert", "zadd", "zrem", "sadd", "srem"),
)


@pytest.mark.parametrize("call", CALLS)
def test_a_user_who_may_not_do_everything_loses_and_doubles_nothing(queue_server: RedisQueueServer, call: str) -> None:
    """Each command that writes is denied in turn; the call repeated with all rights leaves a right account."""
    _, action = CALLS[call]
    refusals = 0
    for command in WRITES:
        queue_server.client.flushall()
        scene = Scene(queue_server, call)
        queue_server.client.execute_command("ACL", "SETUSER", "app", "reset", "on", ">pw", "~*", "+@all", f"-{command}")
        bound = queue_server.queue(
            token=scene.queue.token, redis=f"unix://app:pw@{queue_server.server.socket}", **scene.options
        )
        for _ in range(2):
            try:
                action(scene, bound)
                break
            except QueueUnavailable:
                refusals += 1
            except QueueBehind:
                break
        else:
            with suppress(QueueBehind):
                action(scene, scene.queue)
        queue_server.resume()

        check(scene, call, repeated=True)

        counts = scene.queue.counts(EPOCH)
        removed = 2 if call == "remove" else 0
        added = 16 if call.startswith("add") else 14
        assert (counts.events_delivered, counts.events_removed) == (added - removed, removed), command
        assert (counts.events_queued, counts.events_failed, counts.events_elsewhere) == (0, 0, 0), command
    assert refusals


@pytest.mark.parametrize("call", CALLS)
def test_a_user_without_channels_does_everything(queue_server: RedisQueueServer, call: str) -> None:
    """Redis 7 gives a new user none; listeners hear nothing then, and that is all."""
    _, action = CALLS[call]
    scene = Scene(queue_server, call)
    queue_server.client.execute_command(
        *("ACL", "SETUSER", "app", "reset", "resetchannels", "on", ">pw", "~{rudder}:*", "+@all")
    )
    bound = queue_server.queue(
        token=scene.queue.token, redis=f"unix://app:pw@{queue_server.server.socket}", **scene.options
    )

    action(scene, bound)

    queue_server.resume()
    check(scene, call, repeated=True)


@pytest.mark.parametrize("name", scripts.NAMES)
def test_a_key_of_another_type_is_named_before_anything_is_changed(queue_server: RedisQueueServer, name: str) -> None:
    """Each key of each script in turn; what the header says is what the script looks at."""
    kinds = re.findall(r"^  KEYS\[\d+\] +(\w+) +([A-Z]+) ", scripts.source(name), re.MULTILINE)
    digest = queue_server.client.script_load(scripts.source(name))
    keys = [f"{{t}}:{key}" for key, _ in kinds]
    for key, (_, kind) in zip(keys, kinds, strict=True):
        queue_server.client.flushall()
        queue_server.client.geoadd(key, (1, 1, "x")) if kind != "ZSET" else queue_server.client.set(key, "x")

        with pytest.raises(ResponseError, match=f"WRONGTYPE {re.escape(key)} is a \\w+ and must be a {kind.lower()}"):
            queue_server.client.evalsha(digest, len(keys), *keys, *[""] * 12)

        assert queue_server.client.keys("*") == [key]
