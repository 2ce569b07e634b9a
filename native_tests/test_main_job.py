"""The main job with real processes: every accepted event arrives, whichever process is killed."""

from __future__ import annotations

import http.client
import json
import signal
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from native_tests.processes import Processes, is_over, wait_until
from rudderpipe import Client, QueueUnavailable, SettingsError
from rudderpipe.cli.demo import UnixConnection
from rudderpipe.testing.data_plane import Misbehaviour
from rudderpipe.testing.redis_server import RedisServer


def send(client: Client, count: int, start: int = 0) -> int:
    """Track numbered events, and return how many were accepted."""
    return sum(client.track("u", "Item Viewed", {"n": number}) for number in range(start, start + count))


def sent(processes: Processes) -> list[int]:
    """Return the numbers of the events, in the order in which the data plane got them."""
    return [event["properties"]["n"] for body in processes.plane.last_events() for event in json.loads(body)["batch"]]


def assert_account(processes: Processes, accepted: int) -> None:
    """Check that each accepted event was delivered once, and that the account agrees."""
    stats = processes.plane.stats()
    events = wait_until(lambda: (now := processes.status().events).delivered == accepted and now)
    assert (stats["events"], stats["unique_message_ids"]) == (accepted, accepted)
    assert (events.accepted, events.in_ring, events.queued, events.failed) == (accepted, 0, 0, 0)
    assert events.balanced


@pytest.fixture(name="queued")
def _queued(processes: Processes, redis_server: RedisServer) -> Processes:
    """Return the same pipe with a queue in Redis."""
    processes.explicit["redis"] = redis_server.url
    return processes


def test_direct_mode_delivers_events_in_order(processes: Processes) -> None:
    """The first event starts the flusher, which delivers by itself."""
    client = processes.client()

    assert send(client, 500) == 500
    assert client.flush(10)

    assert_account(processes, 500)
    assert sent(processes) == list(range(500))
    assert "sentAt" in json.loads(processes.plane.last_events()[0])["batch"][0]


def test_events_arrive_through_redis_in_order(queued: Processes) -> None:
    """Each event goes through ring, flusher, queue, sender and data plane. Delivered jobs leave nothing in Redis."""
    client = queued.client(redis=None)
    client.create_persistence_queue(redis=queued.explicit["redis"])

    assert send(client, 1000) == 1000
    assert client.flush(10)
    queued.delivered(1000)

    assert_account(queued, 1000)
    assert sent(queued) == list(range(1000))
    jobs = queued.status().queue
    assert jobs is not None
    assert (jobs.waiting, jobs.active, jobs.failed) == (0, 0, 0)


def test_a_pipe_leaves_nothing_behind(queued: Processes, redis_server: RedisServer) -> None:
    """No process, segment, lock file or ring in Redis stays after shutdown."""
    client = queued.client()
    send(client, 100)
    client.shutdown()
    client.shutdown()
    assert not client.track("u", "e")
    queued.delivered(100)

    wait_until(lambda: not queued.own_processes())

    assert queued.status().ring is None
    assert [path.name for path in Path(queued.explicit["runtime_dir"]).iterdir() if path.suffix != ".log"] == []
    redis: Any = redis_server.text_client()
    account = "{rudder}:rudderpipe:rudderEventsQueue:account"
    tombstones = redis.keys(f"{account}:*")
    report = "{rudder}:rudderpipe:rudderEventsQueue:senders"
    assert redis.ttl(report) <= 30  # it lapses by itself, and may be gone already
    assert set(redis.keys("*")) - {*tombstones, report} == {
        "{rudder}:rudderEventsQueue:id",
        account,
        "{rudder}:rudderpipe:rudderEventsQueue:lease:last",
        "{rudder}:rudderpipe:rudderEventsQueue:plane",
    }
    assert [set(redis.hgetall(key)) for key in tombstones] == [{"term", "added", "ended"}]
    assert all(0 < redis.ttl(key) <= 86_400 for key in tombstones)


def test_a_killed_sender_loses_nothing(queued: Processes) -> None:
    """The flusher starts another sender, which goes on with the active jobs of the dead one."""
    client = queued.client()
    queued.plane.misbehaviour = Misbehaviour(delay_ms=20)
    send(client, 200)
    queued.delivered(60)
    dead = queued.sender()
    dead.kill()
    wait_until(partial(is_over, dead))
    send(client, 200, 200)

    queued.delivered(400)

    wait_until(lambda: not queued.status().events.queued)
    stats = queued.plane.stats()
    assert stats["unique_message_ids"] == 400
    assert stats["duplicates"] <= 20  # the one request whose response was lost
    assert list(dict.fromkeys(sent(queued))) == list(range(400))
    assert queued.sender().pid != dead.pid


def test_a_killed_flusher_loses_nothing(queued: Processes) -> None:
    """The next event starts another flusher, and no event comes into Redis twice."""
    client = queued.client()
    for round_number in range(5):
        send(client, 300, round_number * 300)
        flusher = queued.flusher()
        flusher.kill()
        wait_until(partial(is_over, flusher))
        wait_until(lambda: client.flush(0.5))

    queued.delivered(1500)

    assert_account(queued, 1500)


def test_a_killed_producers_events_arrive(queued: Processes) -> None:
    """An accepted event must not depend on the process that tracked it."""
    code = (
        "import os, signal, rudderpipe\n"
        "client = rudderpipe.Client()\n"
        "print(sum(client.track('u', 'e', {'n': n}) for n in range(777)), flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    process = queued.start("-c", code, stdout=-1)

    assert process.stdout is not None
    assert int(process.stdout.readline()) == 777
    assert process.wait(10) == -signal.SIGKILL
    queued.delivered(777)
    wait_until(lambda: not queued.own_processes())
    assert queued.plane.stats()["events"] == 777


def test_the_ring_keeps_events_while_redis_is_away(queued: Processes, redis_server: RedisServer) -> None:
    """Events above the cap are refused and counted. All accepted events arrive when Redis is back."""
    client = queued.client(max_internal_queue_size=1000)
    send(client, 50)
    queued.delivered(50)
    redis_server.kill()

    accepted = send(client, 1500, 50)
    assert accepted == 1000
    assert not client.flush(0.2)
    redis_server.start()

    queued.delivered(1050)
    assert_account(queued, 1050)
    assert sent(queued) == list(range(1050))
    assert queued.status().events.refused == {"full": 500}
    assert "events stay in the ring" in queued.log()


def test_jobs_are_retried_in_order_while_the_data_plane_fails(queued: Processes) -> None:
    """The data plane responds with 503 twice, and the first job must not be overtaken."""
    queued.plane.misbehaviour = Misbehaviour(503, times=2)
    client = queued.client()
    send(client, 100)

    queued.delivered(100)

    assert_account(queued, 100)
    assert sent(queued) == list(range(100))
    assert queued.plane.stats()["refused"] == 2
    assert "attempt failed" in queued.log()
    assert "status 503: simulated failure" in queued.log()


@pytest.mark.parametrize("direct", [True, False])
def test_a_refused_batch_fails_with_its_reason(
    processes: Processes, redis_server: RedisServer, *, direct: bool
) -> None:
    """The other batches go on.

    The failed batch is in the failed set of Redis or among the dead letters, and can be retried.
    """
    if not direct:
        processes.explicit["redis"] = redis_server.url
    processes.plane.misbehaviour = Misbehaviour(401, times=1)
    client = processes.client()
    send(client, 40)
    processes.delivered(20)

    events = wait_until(lambda: (now := processes.status().events).failed and now.delivered and now)
    assert (events.accepted, events.delivered, events.failed) == (40, 20, 20)
    assert events.balanced
    assert "status 401: simulated failure" in processes.log()
    if direct:
        assert processes.run("-m", "rudderpipe", "failed", "retry", "--all").returncode == 0
        processes.delivered(40)
    else:
        redis = redis_server.text_client()
        failed = redis.zrange("{rudder}:rudderEventsQueue:failed", 0, -1)
        fields = redis.hgetall(f"{{rudder}}:rudderEventsQueue:{failed[0]}")
        assert fields["failedReason"].startswith("status 401: simulated failure")
        assert fields["attemptsMade"] == "0"


def test_an_application_starts_while_redis_is_away(
    queued: Processes, redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    """One warning says so, a callback gets the error, and the events arrive once Redis is back. With ``strict`` the
    error is raised."""
    redis_server.kill()
    url = queued.explicit["redis"]
    with pytest.raises(QueueUnavailable):
        queued.client(redis=None, strict=True).create_persistence_queue(redis=url)
    client = queued.client(redis=None)

    client.create_persistence_queue(redis=url)

    (line,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert line.startswith("the queue cannot be used now, events wait in the ring until it can: redis at /")
    errors: list[Exception | None] = []
    client.create_persistence_queue(redis=url, callback=errors.append)
    wait_until(lambda: errors)
    assert isinstance(errors.pop(), QueueUnavailable)
    assert send(client, 30) == 30
    redis_server.start()
    queued.delivered(30)
    assert_account(queued, 30)


def test_the_error_of_a_wrong_redis_password_hides_the_password(queued: Processes, redis_server: RedisServer) -> None:
    """The error names Redis and the reason."""
    redis_server.client().config_set("requirepass", "right")
    client = queued.client(redis=None, strict=True)

    with pytest.raises(QueueUnavailable) as caught:
        client.create_persistence_queue(redis={"unix_socket_path": str(redis_server.socket), "password": "wr0ng"})

    assert "wr0ng" not in str(caught.value)
    assert str(redis_server.socket) in str(caught.value)


def test_a_queue_without_a_redis_setting_raises(processes: Processes) -> None:
    """The error names the missing setting."""
    with pytest.raises(SettingsError, match="redis"):
        processes.client().create_persistence_queue()


def test_an_operators_processes_deliver_and_drain(queued: Processes, directory: Path) -> None:
    """Their settings come from variables and a TOML file.

    No process starts automatically. After SIGTERM they drain and exit with 0.
    """
    queued.explicit |= {"autostart": False, "data_plane_id": "one"}
    config = directory / "rudderpipe.toml"
    config.write_text("\n".join(f"{name} = {json.dumps(value)}" for name, value in queued.explicit.items()))
    client = queued.client()
    assert send(client, 100) == 100
    assert queued.own_processes() == []

    flusher = queued.start("-m", "rudderpipe.flusher")
    kept, queued.explicit = queued.explicit, {**queued.explicit, "data_plane_url": "http://127.0.0.1:1"}
    sender = queued.start("-m", "rudderpipe.sender", "--config", str(config), "--verbose")
    queued.explicit = kept

    wait_until(lambda: (now := queued.status()).queue and now.queue.active == 1 and now.queue.waiting == 4)
    sender.terminate()
    assert sender.wait(10) == 0
    jobs = queued.status().queue
    assert jobs is not None
    assert (jobs.active, jobs.waiting) == (0, 5)
    sender = queued.start("-m", "rudderpipe.sender")
    queued.delivered(100)
    assert client.flush(5)
    for process in (sender, flusher):
        process.terminate()
        assert process.wait(10) == 0
    assert_account(queued, 100)


def test_no_command_line_shows_a_secret(queued: Processes) -> None:
    """Autostarted processes get the write key and the URL of Redis on standard input."""
    client = queued.client(write_key="S3CR3T")
    queued.explicit["write_key"] = "S3CR3T"
    send(client, 10)
    queued.delivered(10)

    lines = [" ".join(process.cmdline()) for process in (queued.flusher(), queued.sender())]

    assert all("rudderpipe" in line for line in lines)
    assert not any("S3CR3T" in line or "redis.sock" in line for line in lines)
    assert "S3CR3T" not in queued.log()


def test_a_forked_child_can_track_with_its_parents_client(processes: Processes) -> None:
    """Parent, children and grandchild use a client that was made before the fork.

    The flusher is no child of the application.
    """
    code = (
        "import os, rudderpipe\n"
        "client = rudderpipe.Client()\n"
        "client.track('u', 'e', {'n': -1})\n"
        "os.fork(), os.fork()\n"
        "for n in range(250): assert client.track('u', 'e', {'n': n})\n"
        "try:\n"
        "    while True: assert os.wait()[1] == 0\n"
        "except ChildProcessError: pass\n"
    )
    done = processes.run("-c", code)
    assert done.returncode == 0, done.stderr

    processes.delivered(1001)

    wait_until(lambda: not processes.own_processes())
    assert processes.plane.stats()["events"] == 1001


def test_events_of_every_preloaded_gunicorn_worker_arrive(processes: Processes, directory: Path) -> None:
    """The master makes the client before the fork. ``max_requests`` replaces workers while they serve."""
    app = directory / "app.py"
    app.write_text(
        "import itertools, os, rudderpipe\n"
        "client = rudderpipe.Client()\n"
        "def application(environ, start_response):\n"
        "    ok = client.track('u', 'e', {'path': environ['PATH_INFO'], 'pid': os.getpid()})\n"
        "    start_response('200 OK', [('content-length', '1')])\n"
        "    return [b'1' if ok else b'0']\n"
    )
    path = directory / "app.sock"
    command = ["-m", "gunicorn", "--preload", "--workers", "3", "--max-requests", "20", "--bind", f"unix:{path}"]
    processes.start(*command, "--log-level", "critical", "--chdir", str(directory), "app:application")
    wait_until(path.exists)

    accepted = broken = 0
    for number in range(200):
        connection = UnixConnection(path)
        try:
            connection.request("GET", f"/{number}")
            accepted += int(connection.getresponse().read())
        except (OSError, http.client.HTTPException):
            broken += 1  # gunicorn was replacing the worker
        finally:
            connection.close()

    assert accepted >= 190
    processes.delivered(accepted)
    pids = {event["properties"]["pid"] for body in processes.plane.last_events() for event in json.loads(body)["batch"]}
    assert len(pids) > 3
    assert processes.plane.stats()["duplicates"] == 0


def test_a_sender_delivers_after_the_end_of_its_flusher(queued: Processes) -> None:
    """The flusher of a short script may end before the sender that it started is ready."""
    queued.explicit["autostart"] = "flusher"
    client = queued.client()
    send(client, 100)
    client.shutdown()
    wait_until(lambda: not queued.own_processes())
    assert queued.plane.stats()["events"] == 0
    queued.explicit["linger_s"] = 0.0

    sender = queued.start("-m", "rudderpipe.sender", "--parent", "999999999")

    queued.delivered(100)
    assert sender.wait(10) == 0


def test_tracking_starts_no_thread_and_opens_no_socket(processes: Processes) -> None:
    """A call loads neither the Redis client nor HTTP. It changes no signal handler and no logger of the application."""
    code = (
        "import logging, signal, sys, threading, os\n"
        "before = [signal.getsignal(n) for n in (1, 2, 15, 17)]\n"
        "import rudderpipe\n"
        "client = rudderpipe.Client()\n"
        "assert client.track('u', 'e')\n"
        "assert [m for m in ('redis', 'urllib3', 'http.client', 'asyncio', 'ssl') if m in sys.modules] == []\n"
        "assert threading.active_count() == 1\n"
        "assert before == [signal.getsignal(n) for n in (1, 2, 15, 17)]\n"
        "assert not logging.getLogger().handlers and not logging.getLogger('rudderpipe').handlers\n"
        "fds = [f'/proc/self/fd/{n}' for n in os.listdir('/proc/self/fd')]\n"
        "links = [os.readlink(fd) for fd in fds if os.path.lexists(fd)]\n"
        "assert not [link for link in links if link.startswith('socket:')]\n"
        "client.shutdown()\n"
    )

    done = processes.run("-c", code)

    assert done.returncode == 0, done.stderr
    assert done.stderr == b""


def test_the_import_loads_no_heavy_module(processes: Processes) -> None:
    """Every process of an application pays for the import. It costs less than 12 MB of memory."""
    heavy = (
        "redis",
        "urllib3",
        "http",
        "ssl",
        "socket",
        "asyncio",
        "multiprocessing",
        "psutil",
        "subprocess",
        "hashlib",
    )
    code = (
        "import sys\n"
        "def kilobytes():\n"
        "    return int(next(l for l in open('/proc/self/status') if l.startswith('VmRSS')).split()[1])\n"
        "before = kilobytes() if sys.platform == 'linux' else 0\n"
        "import rudderpipe\n"
        "print(kilobytes() - before if before else 0)\n"
        f"print([name for name in {heavy} if name in sys.modules])\n"
    )

    grown, loaded = processes.run("-c", code).stdout.decode().splitlines()

    assert loaded == "[]"
    assert int(grown) < 12_000
