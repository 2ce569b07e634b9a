"""A write key or a password of Redis that changes while the processes run."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest

from native_tests.processes import Processes, wait_until
from rudderpipe.queue import job
from rudderpipe.testing import data_plane
from rudderpipe.testing.redis_server import RedisServer
from tests.test_secret_files import written

P = "{rudder}:rudderEventsQueue:"


@pytest.fixture(name="key")
def _key(processes: Processes, directory: Path) -> Path:
    del processes.explicit["write_key"]
    path = written(directory / "key", b"FIRST\n")
    processes.explicit |= {"write_key_file": str(path), "flush_interval_ms": 0}
    return path


def test_the_flusher_stamps_the_new_key(processes: Processes, redis_server: RedisServer, key: Path) -> None:
    """Without a restart. Jobs that are in the queue keep theirs."""
    processes.explicit |= {"redis": redis_server.url, "autostart": "flusher"}
    redis = redis_server.client()
    client = processes.client()

    def has_jobs(count: int) -> bool:
        return redis.llen(f"{P}wait") == count

    for number, secret in enumerate(("FIRST", "SECOND")):
        written(key, f"{secret}\n".encode())
        assert client.track("u", secret)
        wait_until(partial(has_jobs, number + 1))

    data: list[Any] = [redis.hget(f"{P}{number}", "data") for number in (1, 2)]
    keys = [job.read(each).write_key for each in data]

    assert keys == ["FIRST", "SECOND"]


def test_direct_mode_sends_the_new_key(processes: Processes, key: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the next request."""
    keys: list[str] = []
    handler = data_plane._Handler  # noqa: SLF001  # the data plane does not keep the keys that it is given
    found = handler._write_key  # noqa: SLF001  # as above

    def write_key(self: Any) -> str:
        keys.append(found(self))
        return keys[-1]

    monkeypatch.setattr(handler, "_write_key", write_key)
    client = processes.client()
    assert client.track("u", "e")
    processes.delivered(1)
    written(key, b"SECOND")
    assert client.track("u", "e")
    processes.delivered(2)

    assert keys == ["FIRST", "SECOND"]


def test_a_new_password_of_redis(processes: Processes, redis_server: RedisServer, directory: Path) -> None:
    """Flusher and sender take it at their next connection. Nothing is lost in between."""
    redis = redis_server.text_client()
    redis.config_set("requirepass", "pa55word-1")
    password = written(directory / "password", b"pa55word-1\n")
    processes.explicit |= {"redis": redis_server.url, "redis_password_file": str(password), "flush_interval_ms": 0}
    client = processes.client()
    assert client.track("u", "e")
    processes.delivered(1)

    redis.execute_command("AUTH", "pa55word-1")
    redis.config_set("requirepass", "pa55word-2")
    redis.client_kill_filter(_type="normal", skipme=True)
    assert client.track("u", "e")
    wait_until(lambda: "password is missing or was refused" in processes.log())
    written(password, b"pa55word-2\n")

    assert processes.delivered(2)
    assert "pa55word" not in processes.log()
