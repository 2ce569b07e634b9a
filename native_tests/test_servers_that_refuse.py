"""Redis servers of a list that can be read and refuse writes: a replica, a full memory, a missing password."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from native_tests.processes import Processes
from native_tests.test_queue import KEYS
from rudderpipe.testing.redis_server import RedisServer
from rudderpipe.transports import queue_check

REFUSALS = {
    "a replica": ("REPLICAOF 127.0.0.1 1", "You can't write against a read only replica."),
    "a full memory": ("CONFIG SET maxmemory 1000", "command not allowed when used memory > 'maxmemory'."),
    "a password": ("CONFIG SET requirepass secret", "user or password"),
}


@pytest.fixture(name="second")
def _second(directory: Path, processes: Processes, redis_server: RedisServer) -> Iterator[RedisServer]:
    """Return the second server of a list that the settings of the processes have."""
    place = directory / "second"
    place.mkdir()
    with RedisServer(place) as server:
        processes.explicit |= {"redis": f"{redis_server.url} {server.url}", "autostart": False}
        yield server


@pytest.mark.parametrize("refusal", REFUSALS)
def test_check_and_scale_find_a_server_that_takes_no_events(
    processes: Processes, redis_server: RedisServer, second: RedisServer, refusal: str
) -> None:
    """With such a server a change could not seal its queue, and no event would leave a ring until it can."""
    command, reason = REFUSALS[refusal]
    second.text_client().execute_command(*command.split())

    checked = processes.run("-m", "rudderpipe.flusher", "--check")
    scaled = processes.run("-m", "rudderpipe", "scale", "--queues", "2", "--timeout", "0")

    assert checked.returncode == scaled.returncode == 4
    for ended in (checked, scaled):
        assert f"redis at {second.socket}/0: {reason}" in ended.stderr.decode()
    assert not redis_server.client().exists(KEYS.route)


def test_the_check_names_each_server_that_takes_no_events(
    processes: Processes, redis_server: RedisServer, second: RedisServer
) -> None:
    """The application's process gets the last of them."""
    for server in (redis_server, second):
        server.text_client().execute_command("REPLICAOF", "127.0.0.1", "1")

    lines = processes.run("-m", "rudderpipe.flusher", "--check").stderr.decode().splitlines()

    assert [line.partition(": ")[0] for line in lines] == [
        f"redis at {server.socket}/0" for server in (redis_server, second)
    ]
    error = queue_check.trouble(processes.settings)
    assert error is not None
    assert (error.address, str(error)) == (f"{second.socket}/0", lines[-1])
