"""What an application learns of its events through callbacks, flush results and counts; switches; shared pipes."""

from __future__ import annotations

import asyncio
import gc
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

from native_tests.faulty_plane import FaultyPlane, answer, depends
from native_tests.processes import Processes, wait_until
from rudderpipe import Client, DeliveryError, FlushResult, FlushTimeout, RingFull
from rudderpipe.errors import EventError, SettingsError
from rudderpipe.ring import location
from rudderpipe.testing.data_plane import Misbehaviour
from rudderpipe.testing.redis_server import RedisServer
from rudderpipe.transports.callbacks import THREAD_NAME


@pytest.fixture(name="queued")
def _queued(processes: Processes, redis_server: RedisServer) -> Processes:
    processes.explicit["redis"] = f"unix://{redis_server.socket}"
    return processes


def threads() -> list[str]:
    """Return the names of our threads in this process."""
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("rudderpipe")]


# Callbacks.


def test_a_callback_is_called_once_after_the_delivery(processes: Processes) -> None:
    """Callbacks come in order, with no error and with the message, also in the form of the Node SDK's calls."""
    processes.plane.misbehaviour = Misbehaviour(delay_ms=50)
    client = processes.client(flush_at=5)
    received: list[tuple[Any, str, int]] = []

    def receive(error: Exception | None, message: dict[str, Any]) -> None:
        received.append((error, message["event"], processes.plane.stats()["events"]))

    for number in range(19):
        assert client.track("u", f"e{number}", callback=receive)
    assert client.track({"userId": "u", "event": "e19"}, receive)
    assert received == []

    assert client.flush(10)
    wait_until(lambda: len(received) == 20)

    assert [(error, event) for error, event, _ in received] == [(None, f"e{number}") for number in range(20)]
    assert all(seen > number for number, (_, _, seen) in enumerate(received))
    client.shutdown()
    assert len(received) == 20


def test_a_callback_is_called_when_its_event_is_in_redis(queued: Processes) -> None:
    """With a queue, the event depends on this host no more from that moment."""
    queued.plane.misbehaviour = Misbehaviour(status=503)
    client = queued.client()
    received: list[Any] = []

    client.track("u", "e", callback=lambda error: received.append(error))
    wait_until(lambda: received)

    assert received == [None]
    status = queued.status()
    assert (status.events.queued, status.events.in_ring) == (1, 0)


def test_only_the_failed_events_callback_gets_the_error() -> None:
    """The data plane refuses one of eight events of a batch."""
    guilty = depends(lambda request: answer(400 if any(e["event"] == "e3" for e in request.events) else 200, b"bad"))
    with FaultyPlane(guilty) as plane, _processes_for(plane) as processes:
        client = processes.client(flush_at=8, max_jobs_per_request=50)
        received: dict[str, Any] = {}
        for number in range(8):
            client.track("u", f"e{number}", callback=partial(_note, received, f"e{number}"))

        wait_until(lambda: len(received) == 8)

        assert isinstance(received.pop("e3"), DeliveryError)
        assert set(received.values()) == {None}


def _note(received: dict[str, Any], name: str, error: Exception | None) -> None:
    received[name] = error


class _processes_for:  # noqa: N801  # used as a function
    """The processes of a pipe to another data plane."""

    def __init__(self, plane: FaultyPlane) -> None:
        import tempfile

        self._directory = tempfile.TemporaryDirectory(prefix="rp-")
        self._processes = Processes(Path(self._directory.name), plane)  # type: ignore[arg-type]  # the code reads only its url

    def __enter__(self) -> Processes:
        return self._processes

    def __exit__(self, *_: object) -> None:
        self._processes.end()
        self._directory.cleanup()


def test_callbacks_of_many_threads_are_called_once_each(processes: Processes) -> None:
    """Four threads track 500 events each while the flusher drains the ring."""
    client = processes.client()
    received: dict[str, int] = {}
    lock = threading.Lock()

    def receive(_error: Exception | None, message: dict[str, Any]) -> None:
        with lock:
            received[message["event"]] = received.get(message["event"], 0) + 1

    def work(thread: int) -> None:
        for number in range(500):
            assert client.track("u", f"{thread}-{number}", callback=receive)

    workers = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert client.flush(10)
    wait_until(lambda: len(received) == 2000)

    assert set(received.values()) == {1}


def test_a_refused_events_callback_gets_the_reason(processes: Processes, caplog: pytest.LogCaptureFixture) -> None:
    """One event meets a full ring, and another call is wrong. Neither call raises."""
    client = processes.client(max_internal_queue_size=1, autostart=False)
    received: list[Exception | None] = []

    assert client.track("u", "first")
    assert not client.track("u", "second", callback=lambda error: received.append(error))
    assert not client.track("", "third", callback=lambda error: received.append(error))
    wait_until(lambda: len(received) == 2)

    assert isinstance(received[0], RingFull)
    assert isinstance(received[1], EventError)
    assert client.counts() == {"accepted": 1, "full": 1, "invalid": 1}
    assert "user_id: is missing or blank" in caplog.text


def test_an_exception_of_a_callback_is_logged(processes: Processes, caplog: pytest.LogCaptureFixture) -> None:
    """The next callback is called. The log names the callback and the error's type, and not the error's text."""
    client = processes.client(flush_at=1)
    received: list[Any] = []

    def broken(_error: Exception | None) -> None:
        raise RuntimeError("s3cret")

    client.track("u", "a", callback=broken)
    client.track("u", "b", callback=lambda *all_: received.append(all_[0]))
    wait_until(lambda: received)

    assert received == [None]
    assert "broken raised RuntimeError" in caplog.text
    assert "s3cret" not in caplog.text


def test_a_callback_may_track_flush_exit_and_shut_down(processes: Processes) -> None:
    """A shutdown within a callback cannot wait for callbacks."""
    client = processes.client(flush_at=1)
    received: list[str] = []

    def last(_error: Exception | None) -> None:
        received.append("last")
        client.shutdown()
        received.append("shut")

    def first(_error: Exception | None) -> None:
        client.flush(5)
        client.track("u", "b", callback=lambda _error: sys.exit(1))
        client.track("u", "c", callback=last)
        received.append("first")

    started_s = time.monotonic()
    client.track("u", "a", callback=first)
    wait_until(lambda: "shut" in received)

    assert received == ["first", "last", "shut"]
    assert time.monotonic() - started_s < 8  # shutdown_timeout_s is 10
    assert not client.track("u", "late")
    processes.delivered(3)


CHILD = """
import os, sys, threading, rudderpipe
client = rudderpipe.Client()
assert [t.name for t in threading.enumerate()] == ["MainThread"]
def receive(error, message):
    os.write(1, b"%d %s %s\\n" % (os.getpid(), message["event"].encode(), str(error).encode()))
client.track("u", "parent", callback=receive)
{between}
if os.fork() == 0:
    client.track("u", "child", callback=receive)
    client.shutdown()
    os._exit(0)
os.wait()
client.shutdown()
"""


@pytest.mark.parametrize("between", ["", "client.flush(10)"])
def test_a_forked_child_calls_only_its_own_callbacks(processes: Processes, between: str) -> None:
    """The parent calls its callbacks once, although the fork happened while they waited."""
    child = processes.run("-W", "ignore", "-c", CHILD.format(between=between))

    assert child.returncode == 0, child.stderr
    lines = [line.split() for line in child.stdout.decode().splitlines()]
    assert sorted((event, error) for _, event, error in lines) == [("child", "None"), ("parent", "None")]
    assert len({pid for pid, _, _ in lines}) == 2


def test_only_a_callback_starts_a_thread(processes: Processes) -> None:
    """One thread serves all callbacks."""
    program = """
import threading, rudderpipe
def names():
    return [thread.name for thread in threading.enumerate()]
client = rudderpipe.Client()
client.track("u", "e"); client.flush(5); client.flush(5, until="delivered")
before, received = names(), []
for _ in range(5):
    client.track("u", "e", callback=received.append)
    client.flush(received.append)
after = names()
client.shutdown()
print(before, after, received)
"""
    printed = processes.run("-c", program).stdout.decode()

    assert printed == f"['MainThread'] ['MainThread', '{THREAD_NAME}'] {[None] * 10}\n"


# Flush results.


def test_a_flush_result_counts_delivered_and_failed_events(processes: Processes) -> None:
    """In direct mode the flusher knows both. A second flush counts nothing again."""
    client = processes.client(flush_at=100)
    for number in range(10):
        client.track("u", f"e{number}")
    assert client.flush(10) == FlushResult(delivered=10)
    processes.plane.misbehaviour = Misbehaviour(status=401)
    for number in range(3):
        client.track("u", f"f{number}")

    assert client.flush(10, until="delivered") == FlushResult(
        failed=3, reason="status 401: simulated failure (after 1 attempt)"
    )
    assert client.flush(10) == FlushResult()


def test_flush_until_delivered_waits_for_the_sender(queued: Processes) -> None:
    """A flush without ``until`` ends when the events are in Redis."""
    queued.plane.misbehaviour = Misbehaviour(status=503, times=2)
    client = queued.client(flush_at=5)
    for number in range(20):
        client.track("u", f"e{number}")

    assert client.flush(10) == FlushResult(queued=20)
    assert client.flush(0.01, until="delivered").complete is False
    result = client.flush(20, until="delivered")

    assert result.complete
    assert (result.pending, result.queued, result.failed) == (0, 0, 0)
    assert queued.plane.stats()["unique_message_ids"] == 20
    queued.plane.misbehaviour = Misbehaviour(status=401)
    for number in range(7):
        client.track("u", f"f{number}")
    assert client.flush(20, until="delivered") == FlushResult(
        failed=7, reason="status 401: simulated failure (after 1 attempt)"
    )


def test_an_incomplete_flush_counts_pending_events(processes: Processes) -> None:
    """The data plane is away, so no event leaves the ring within the flush's time."""
    processes.plane.misbehaviour = Misbehaviour(status=503)
    client = processes.client()
    for number in range(5):
        client.track("u", f"e{number}")
    started_s = time.monotonic()

    result = client.flush(0.3)

    assert not result
    assert msgspec.structs.replace(result, reason="") == FlushResult(pending=5, complete=False)
    assert time.monotonic() - started_s < 5
    received: list[Any] = []
    client.flush(0.1, callback=lambda error, result: received.append((error, result)))
    wait_until(lambda: received)
    (error, result) = received[0]
    assert isinstance(error, FlushTimeout)
    assert (error.pending, result.pending) == (5, 5)


def test_aflush_lets_other_tasks_run(processes: Processes) -> None:
    """The result is that of ``flush``."""
    processes.plane.misbehaviour = Misbehaviour(delay_ms=200)
    client = processes.client()
    client.track("u", "e")
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            ticks += 1
            await asyncio.sleep(0.01)

    async def main() -> FlushResult:
        task = asyncio.create_task(tick())
        try:
            return await client.aflush(10)
        finally:
            task.cancel()

    assert asyncio.run(main()) == FlushResult(delivered=1)
    assert ticks >= 5


def test_a_flush_without_events_makes_no_ring(processes: Processes) -> None:
    """It starts no process either."""
    client = processes.client()
    assert client.flush(1) == FlushResult()
    client.shutdown()

    assert processes.status().ring is None
    assert processes.own_processes() == []
    with pytest.raises(SettingsError, match="until"):
        client.flush(1, until="sent")  # type: ignore[arg-type]  # the wrong value of the test


EXITS = {
    "nothing at all": "",
    "atexit": "import atexit; atexit.register(client.shutdown)",
    "atexit with a callback": "import atexit\n"
    "atexit.register(lambda: client.track('u', 'x', callback=lambda error: None))",
    "a signal handler": "import os, signal\n"
    "signal.signal(signal.SIGTERM, lambda *_: (client.track('u', 'last'), client.shutdown()))\n"
    "os.kill(os.getpid(), signal.SIGTERM)",
    "with": "client.__enter__(); client.__exit__(None, None, None); client.shutdown()",
    "a thread that goes on": "import threading\n"
    "threading.Thread(target=lambda: [client.track('u', 't') for _ in range(9)], daemon=True).start()\n"
    "client.shutdown()",
    "a kill": "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
    "a destructor": "import sys\n"
    "sys.modules['keep'] = type('K', (), {'__del__': lambda self: client.track('u', 'd')})()",
}


@pytest.mark.parametrize("way", EXITS)
def test_no_way_to_end_a_process_loses_an_accepted_event(processes: Processes, way: str) -> None:
    """The process ends at once in each of these ways, and prints nothing."""
    program = (
        f"import rudderpipe; client = rudderpipe.Client()\nfor n in range(30): client.track('u', str(n))\n{EXITS[way]}"
    )
    child = processes.run("-c", program)

    # Python 3.12 starts no thread while it ends. The event arrives, and the log says that no callback will be called.
    assert child.stderr == b"" or (way == "atexit with a callback" and b"no callback will be called" in child.stderr)
    assert child.returncode == (-signal.SIGKILL if way == "a kill" else 0)
    processes.delivered(30)
    wait_until(lambda: not processes.own_processes())


# Switches.


def test_a_disabled_client_checks_events_and_calls_back(processes: Processes) -> None:
    """Nothing is started. A wrong call is still reported."""
    client = processes.client(enable=False)
    received: list[Any] = []

    assert client.track("u", "e", callback=lambda error, message: received.append((error, message["event"])))
    assert not client.track("u", "")
    wait_until(lambda: received)

    assert received == [(None, "e")]
    assert client.counts() == {"accepted": 1, "invalid": 1}
    assert client.flush() == FlushResult()
    assert not Path(processes.explicit["runtime_dir"]).exists()


def test_a_preview_is_the_message_that_arrives(processes: Processes) -> None:
    """Only the ``sentAt`` of the sender is not in it. The preview makes no ring."""
    client = processes.client(
        flush_at=1, before_send=lambda message: {**message, "extra": 1}, context={"app": {"v": 2}}
    )
    arguments: dict[str, Any] = {"user_id": "u", "event": "e", "properties": {"n": 1}, "message_id": "m"}

    message = client.preview("track", **arguments)
    assert message is not None
    assert processes.status().ring is None
    assert client.track(**arguments)
    wait_until(processes.plane.last_events)

    (sent,) = json.loads(processes.plane.last_events()[0])["batch"]
    own = ("originalTimestamp", "sentAt")
    assert {name: value for name, value in sent.items() if name not in own} == {
        name: value for name, value in message.items() if name not in own
    }


def test_strict_raises_for_a_refused_event(processes: Processes) -> None:
    """A wrong call, a value that JSON cannot hold and a full ring raise."""
    client = processes.client(strict=True, max_internal_queue_size=1, autostart=False)
    with pytest.raises(EventError, match="user_id"):
        client.track("", "e")
    with pytest.raises(EventError, match=r"properties\.a\[0\]: is of type object"):
        client.track("u", "e", {"a": [object()]})
    assert client.track("u", "e")
    with pytest.raises(RingFull):
        client.track("u", "e")


def test_sync_mode_delivers_within_the_call() -> None:
    """The call retries as the sender does, and starts no process.

    A failed delivery returns False, or raises with ``strict``.
    """
    with FaultyPlane(answer(503, retry_after="1"), answer()) as plane:
        client = Client("KEY", plane.url, sync_mode=True)
        assert client.track("u", "e")
        assert [len(request.events) for request in plane.requests] == [1, 1]
        assert len({request.ids[0] for request in plane.requests}) == 1
        plane.then(answer(401, b"no such source"))
        received: list[Any] = []
        assert not client.track("u", "e", callback=lambda error: received.append(error))
        wait_until(lambda: received)
        assert "401" in str(received[0])
        assert client.counts() == {"accepted": 1, "failed": 1}
        strict = Client("KEY", plane.url, sync_mode=True, strict=True)
        with pytest.raises(DeliveryError, match="401"):
            strict.track("u", "e")
        for each in (client, strict):
            each.shutdown()


def test_sync_mode_opens_a_connection_of_its_own_after_a_fork() -> None:
    """Parent and child track in turn, and each uses the connection that it opened."""
    with FaultyPlane(answer()) as plane:
        program = f"""
import os, rudderpipe
client = rudderpipe.Client("KEY", {plane.url!r}, sync_mode=True)
assert client.track("u", "parent")
if os.fork() == 0:
    assert client.track("u", "child")
    os._exit(0)
assert os.wait()[1] == 0
assert client.track("u", "parent")
"""
        subprocess.run([sys.executable, "-W", "ignore", "-c", program], check=True, timeout=30)

        assert [request.events[0]["event"] for request in plane.requests] == ["parent", "child", "parent"]
        first, second, third = (request.connection for request in plane.requests)
        assert first == third != second


@pytest.fixture(name="deep_stack")
def _deep_stack() -> Iterator[None]:
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(10_000)
    yield
    sys.setrecursionlimit(before)


@pytest.mark.usefixtures("deep_stack")  # the data plane in this process must read the events too
def test_every_accepted_event_can_be_delivered_however_deep(processes: Processes) -> None:
    """Values with 200 containers within each other are accepted and arrive, and values with 201 are refused.

    The depth of the caller's stack makes no difference.
    """
    program = """
import rudderpipe
client = rudderpipe.Client()

def track(containers):
    value = []
    for _ in range(containers - 2):
        value = [value]
    accepted = client.track("u", "e", {"deep": value})
    assert client.track("u", "neighbour", {"a": 1})
    return accepted

def deeper(frames):
    return deeper(frames - 1) if frames else (track(200), track(201))

print(*map(track, range(190, 211)), *deeper(700))
client.shutdown()
"""
    results = processes.run("-c", program).stdout.split()

    assert results == [b"True"] * 11 + [b"False"] * 10 + [b"True", b"False"]
    processes.delivered(12 + 23)
    assert processes.status().events.corrupt == 0


def test_a_signal_handler_can_deliver_within_a_sync_call() -> None:
    """The handler's request goes over a connection of its own while the outer request is under way."""
    with FaultyPlane() as plane:
        plane.hold()
        program = f"""
import os, signal, rudderpipe
client = rudderpipe.Client("KEY", {plane.url!r}, sync_mode=True)
signal.signal(signal.SIGUSR1, lambda *_: print(client.track("u", "inner"), flush=True))
print(client.track("u", "outer"), flush=True)
print(client.track("u", "after"), flush=True)
"""
        process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
        plane.wait_for(lambda: len(plane.requests) == 1)
        process.send_signal(signal.SIGUSR1)
        plane.wait_for(lambda: len(plane.requests) == 2)
        plane.let_go()
        printed, _ = process.communicate(timeout=30)

        assert printed.split() == [b"True"] * 3
        outer, inner, after = plane.requests
        assert [each.events[0]["event"] for each in (outer, inner, after)] == ["outer", "inner", "after"]
        assert outer.connection == after.connection != inner.connection


def test_callbacks_keep_no_ring_in_memory(processes: Processes) -> None:
    """The mapping of the ring goes when the callbacks have been called and the client is gone."""
    client = processes.client(flush_at=1)
    received: list[Any] = []

    def receive(error: Exception | None, *, _of: Client = client) -> None:
        received.append(error)

    client.track("u", "e", callback=receive)
    wait_until(lambda: received)
    client._intake.leave()  # noqa: SLF001  # shutdown() would wake the thread again
    name = location.own(client.settings).segment
    processes._clients.clear()  # noqa: SLF001  # no other reference may keep the client
    del client, receive

    wait_until(lambda: _unmapped(name), 5)


def _unmapped(name: str) -> bool:
    gc.collect()
    return not [each for each in psutil.Process().memory_maps(grouped=False) if name in each.path]


# Several clients.


def test_clients_with_the_same_settings_share_a_pipe(processes: Processes) -> None:
    """They use one slot of one ring, and each is shut down by itself."""
    first, second = processes.client(), processes.client()
    assert first.track("u", "a")
    assert second.track("u", "b")
    ring = processes.status().ring
    assert ring is not None
    assert len(ring.producers) == 1

    first.shutdown()

    assert not first.track("u", "late")
    assert second.track("u", "c")
    assert second.flush(10)
    processes.delivered(3)


def test_different_settings_for_one_write_key_give_a_warning(
    processes: Processes, caplog: pytest.LogCaptureFixture
) -> None:
    """The warning comes once and names the settings that differ, and no secret."""
    _first, _second = processes.client(flush_at=5), processes.client(flush_at=6, gzip=False)

    assert "differ in gzip, flush_at" in caplog.text
    assert "WRITE_KEY" not in caplog.text


def test_a_wrong_write_key_does_not_delay_another_one(queued: Processes) -> None:
    """Two write keys share one queue. The events of the refused key fail, and the others arrive."""
    with FaultyPlane(depends(lambda request: answer(401 if _key(request) == "WRONG" else 200))) as plane:
        del queued.explicit["pipe"]
        queued.explicit |= {"data_plane_url": plane.url, "flush_at": 1}
        right, wrong = queued.client(write_key="RIGHT"), queued.client(write_key="WRONG")
        assert right.settings.pipe_name != wrong.settings.pipe_name
        for number in range(5):
            assert wrong.track("u", f"w{number}")
            assert right.track("u", f"r{number}")

        assert right.flush(20, until="delivered") == FlushResult(delivered=5)
        assert wrong.flush(20, until="delivered") == FlushResult(failed=5, reason="status 401: ok (after 1 attempt)")


def _key(request: Any) -> str:
    import base64

    return base64.b64decode(request.headers["authorization"].removeprefix("Basic ")).decode().rstrip(":")


def test_on_error_gets_the_failed_messages(processes: Processes) -> None:
    """In direct mode a process gets its own failed messages."""
    processes.plane.misbehaviour = Misbehaviour(status=401)
    received: list[Any] = []
    client = processes.client(on_error=lambda error, messages: received.append((error, messages)))
    client.track("u", "e", {"n": 1})

    wait_until(lambda: received)

    assert isinstance(received[0][0], DeliveryError)
    assert received[0][1][0]["properties"] == {"n": 1}


def test_a_request_context_belongs_to_its_task(processes: Processes) -> None:
    """Several tasks run at once, each with a context of its own. Later events have none of it."""
    from rudderpipe import request_context

    client = processes.client(context={"app": {"name": "shop"}, "ip": "0.0.0.0"})

    async def answer_request(number: int) -> None:
        with request_context({"ip": f"10.0.0.{number}"}):
            await asyncio.sleep(0)
            client.track("u", f"e{number}", context={"page": {"path": f"/{number}"}})

    async def main() -> None:
        await asyncio.gather(*(answer_request(number) for number in range(3)))

    asyncio.run(main())
    client.track("u", "e3")
    assert client.flush(10)

    events = [event for body in processes.plane.last_events() for event in json.loads(body)["batch"]]
    context = {event["event"]: event["context"] for event in events}
    assert {name: each["ip"] for name, each in context.items()} == {
        "e0": "10.0.0.0",
        "e1": "10.0.0.1",
        "e2": "10.0.0.2",
        "e3": "0.0.0.0",
    }
    assert context["e1"]["page"] == {"path": "/1"}
    assert all(each["app"] == {"name": "shop"} and each["library"]["name"] == "rudderpipe" for each in context.values())


def test_sigkill_in_the_middle_of_callbacks_loses_no_event(processes: Processes) -> None:
    """A callback needs the process, and an accepted event does not."""
    program = """
import os, signal, rudderpipe
client = rudderpipe.Client()
for number in range(100):
    assert client.track("u", str(number), callback=lambda error: None)
os.kill(os.getpid(), signal.SIGKILL)
"""
    assert processes.run("-c", program).returncode == -signal.SIGKILL
    processes.delivered(100)


# Traces.


def test_a_process_without_opentelemetry_imports_nothing_for_it() -> None:
    """A call asks only whether OpenTelemetry is loaded."""
    program = """if True:
        import sys
        from rudderpipe import Client

        ours = Client("KEY", "http://127.0.0.1:9", enable=False, trace_context=True)
        before = {*sys.modules}
        assert ours.track("u", "e")
        assert {*sys.modules} == before
        assert not [name for name in before if "opentelemetry" in name]
    """
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


@pytest.mark.parametrize("sync_mode", [False, True])
def test_the_data_plane_gets_the_ids_of_the_current_span(processes: Processes, *, sync_mode: bool) -> None:
    """They arrive within the call, and through ring and flusher."""
    client = processes.client(trace_context=True, sync_mode=sync_mode)
    with TracerProvider().get_tracer("tests").start_as_current_span("request") as span:
        assert client.track("u", "e")
    assert client.flush(10)

    (sent,) = json.loads(processes.plane.last_events()[0])["batch"]
    found = span.get_span_context()
    assert sent["context"]["traceId"] == trace.format_trace_id(found.trace_id)
    assert sent["context"]["spanId"] == trace.format_span_id(found.span_id)
