"""The metrics in processes of their own, with a real Redis."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from native_tests.faulty_plane import FaultyPlane
from native_tests.processes import Processes
from native_tests.test_admin import scraped
from native_tests.test_sender_process import Senders, admin_of
from rudderpipe.delivery.attempts import class_of
from rudderpipe.delivery.data_plane import DataPlane
from rudderpipe.errors import QueueUnavailable
from rudderpipe.process.clock import Clock
from rudderpipe.queue.meter import RedisMeter
from rudderpipe.queue.queue import Queue
from rudderpipe.settings import Settings
from rudderpipe.testing.redis_server import RedisServer
from tests.fakes import settings_of


def test_nothing_is_written_where_an_application_keeps_its_metrics(tmp_path: Path) -> None:
    """prometheus-client writes files of its own there for each metric that it counts itself."""
    settings = settings_of(tmp_path)
    folder = tmp_path / "multiproc"
    folder.mkdir()
    program = (
        "from rudderpipe.observe import metrics\nfrom rudderpipe.settings import Settings\n"
        f"print(len(metrics.text(Settings(pipe={settings.pipe!r}, runtime_dir={settings.runtime_dir!r})).content))\n"
        f"metrics.collector()"
    )
    variables = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(folder)}

    done = subprocess.run([sys.executable, "-c", program], env=variables, capture_output=True, text=True, check=True)

    assert int(done.stdout) > 1000
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("name", ["PROMETHEUS_MULTIPROC_DIR", "prometheus_multiproc_dir"])
def test_our_processes_do_not_inherit_where_an_application_keeps_its_metrics(
    processes: Processes, redis_server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """The files of an autostarted process would stay in the application's sums when the process has ended."""
    folder = tmp_path / "multiproc"
    folder.mkdir()
    monkeypatch.setenv(name, str(folder))
    processes.explicit["redis"] = redis_server.url
    client = processes.client()

    assert client.track("u", "e")
    assert client.flush(10, until="delivered")

    for process in (processes.flusher(), processes.sender()):
        assert name not in process.environ()
        assert "PATH" in process.environ()
    assert list(folder.iterdir()) == []


@pytest.fixture(name="senders")
def _senders(redis_server: RedisServer, directory: Path) -> Iterator[Senders]:
    with FaultyPlane() as plane:
        senders = Senders(redis_server, plane, directory)
        yield senders
        senders.end()


def test_a_sender_shows_what_it_delivered(senders: Senders) -> None:
    """With the queue as it is, and no ring, which the flusher of its host shows."""
    senders.sender("--admin", "127.0.0.1:0")
    url = admin_of(senders)
    senders.add("m", "n")
    senders.plane.wait_for(lambda: len(senders.plane.accepted) == 2)

    found = scraped(url)

    assert found["delivered_events_total"] == 2
    assert found["attempts_total http_2xx delivered"] == found["attempt_seconds_count"] >= 1
    assert found["request_bytes_total plain"] > found["request_bytes_total sent"] > 100
    assert (found["sender_lease_held"], found["redis_up"], found["queue_lease_number"]) == (1, 1, 1)
    assert found["redis_call_seconds_count take_jobs"] >= 1
    assert "ring_events" not in found
    assert "delivery_age_seconds_count" in found


def test_why_there_was_no_response() -> None:
    """Each cause has a class: an operator does something else for each."""
    with socket.create_server(("127.0.0.1", 0)) as silent, socket.create_server(("127.0.0.1", 0)) as closed:
        free = closed.getsockname()[1]
        closed.close()
        quiet = f"127.0.0.1:{silent.getsockname()[1]}"
        found = {
            url: class_of(DataPlane(Settings(data_plane_url=url, timeout_s=0.2, connect_timeout_s=1)).post(b"{}", "K"))
            for url in (f"http://127.0.0.1:{free}", f"http://{quiet}", f"https://{quiet}", "http://none.invalid")
        }
    assert list(found.values()) == ["connect", "timeout", "timeout", "dns"]


def test_errors_of_redis_are_counted(redis_server: RedisServer) -> None:
    """Each by its class, and each call by its time."""
    counts = RedisMeter()
    settings = Settings(redis=redis_server.url)
    queue = Queue(settings, Clock(), answer_s=0.2, meter=counts)
    queue.counts()
    redis: Any = redis_server.text_client()
    redis.execute_command("ACL", "SETUSER", "default", "-hset", "-hmset")
    with suppress(QueueUnavailable):
        queue.add(7, [("{}", 1)], {1: (0, 1)}, [])
    pid = redis_server.client().info()["process_id"]
    os.kill(pid, signal.SIGSTOP)
    with suppress(QueueUnavailable):
        queue.counts()
    os.kill(pid, signal.SIGCONT)
    redis_server.kill()
    with suppress(QueueUnavailable):
        queue.counts()
    queue.close()

    assert {name: count for name, count in counts.errors.items() if count} == {"auth": 1, "timeout": 1, "refused": 1}
    assert {name: histogram.values for name, histogram in counts.calls.items()} == {"count_jobs": 1, "add_jobs": 1}
