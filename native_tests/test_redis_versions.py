"""Behaviour that differs between versions of Redis. Each test runs on every version of this machine."""

from __future__ import annotations

import re
from typing import Any

import pytest

from native_tests.processes import Processes
from native_tests.test_queue import ALL, add, ids, queue_of
from native_tests.test_redis_forms import documented_rights
from rudderpipe.errors import QueueUnavailable
from rudderpipe.queue.failed_jobs import FailedJobs
from rudderpipe.queue.queue import Queue
from rudderpipe.testing.redis_server import RedisServer


@pytest.fixture(name="redis")
def _redis(server: RedisServer) -> Any:
    client = server.text_client()
    client.flushall()
    return client


def work(queue: Queue) -> None:
    """Let one job of each fate go through the queue."""
    add(queue, 4)
    first, second, third, fourth = queue.take(*ALL)
    assert len(queue.renew([first, second])) == 2
    assert queue.complete([first]) == 1
    assert queue.fail(second, "no")
    assert queue.put_back([third]) == 1
    failed = FailedJobs(queue)
    assert [job.id for job in failed] == ["2"]
    assert failed.retry(list(failed)) == 1
    queue.promote()
    assert queue.size_bytes() > 0
    assert queue.counts().waiting == 2
    assert queue.split(fourth)
    assert queue.recover().jobs == 2
    assert ids(queue.take(*ALL)) == ["4", "5", "3", "2"]


def test_the_documented_rights_are_enough(server: RedisServer, redis: Any) -> None:
    """Each version must accept the line of docs/settings.md, and every call must work with it."""
    redis.execute_command("ACL", "SETUSER", "pipe", "reset", "on", ">pw", *documented_rights())
    queue = queue_of(server, redis=f"unix://pipe:pw@{server.socket}")

    work(queue)

    assert queue.try_publish() == ""
    queue.close()


def test_events_travel_with_the_documented_rights(processes: Processes, server: RedisServer, redis: Any) -> None:
    """The user is new, as an operator makes it, and has these rights alone. Redis refuses nothing that matters."""
    redis.execute_command("ACL", "DELUSER", "app")
    redis.execute_command("ACL", "SETUSER", "app", "on", ">pw", *documented_rights())
    redis.execute_command("ACL", "LOG", "RESET")
    processes.explicit["redis"] = f"unix://app:pw@{server.socket}"
    checked = processes.run("-m", "rudderpipe.flusher", "--check")
    assert (checked.returncode, b"PUBLISH" in checked.stderr) == (0, False)
    client = processes.client()
    assert all(client.track("u", "e") for _ in range(30))

    assert client.flush(30, until="delivered")

    assert processes.status().events.delivered == 30
    refused = {entry["object"] for entry in redis.acl_log()}
    assert refused <= {"client|setinfo", "info", "config|get", "client", "config"}


@pytest.mark.parametrize("protocol", [2, 3])
def test_both_protocols_of_redis_work_alike(server: RedisServer, redis: Any, protocol: int) -> None:
    """``protocol`` may stand in a URL or in a mapping."""
    for place in (f"{server.url}?protocol={protocol}", {"unix_socket_path": str(server.socket), "protocol": protocol}):
        redis.flushall()
        queue = queue_of(server, redis=place)
        work(queue)
        queue.close()


def test_a_refusal_of_redis_is_one_line_without_the_script(server: RedisServer, redis: Any) -> None:
    """The digest of a script and the place in it mean nothing to an operator."""
    redis.execute_command("ACL", "SETUSER", "app", "reset", "on", ">pw", "~*", "+@all", "-lpush")
    queue = queue_of(server, redis=f"unix://app:pw@{server.socket}")
    refusals = []
    for _ in range(2):
        with pytest.raises(QueueUnavailable) as caught:
            add(queue, 1)
        assert caught.value.answered
        refusals.append(caught.value.reason)
        redis.execute_command("ACL", "SETUSER", "app", "+@all")
        redis.config_set("maxmemory", 1)
    redis.config_set("maxmemory", 0)

    denied, full = refusals
    assert "lpush" in denied or "can't run this command" in denied
    assert full.endswith("command not allowed when used memory > 'maxmemory'.")
    for text in refusals:
        assert "user_script" not in text
        assert not re.search("[0-9a-f]{40}", text)
        assert not text.startswith("-")
    queue.close()


def test_the_check_warns_of_a_redis_user_without_channels(
    processes: Processes, server: RedisServer, redis: Any
) -> None:
    """Redis 7 gives a new user no channels. Only Bull's listeners then miss something."""
    redis.execute_command("ACL", "SETUSER", "app", "reset", "resetchannels", "on", ">pw", "~{rudder}:*", "+@all")
    processes.explicit["redis"] = f"unix://app:pw@{server.socket}"

    checked = processes.run("-m", "rudderpipe.flusher", "--check")

    assert checked.returncode == 0
    assert b"because Redis refuses PUBLISH" in checked.stderr
    redis.execute_command("ACL", "SETUSER", "app", "&*")
    assert b"PUBLISH" not in processes.run("-m", "rudderpipe.flusher", "--check").stderr
