"""The number of times that a reader of the main paths must go from one file of the package to another."""

from __future__ import annotations

import os
import socket
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import rudderpipe
from rudderpipe.client import Client
from rudderpipe.delivery import connection
from rudderpipe.delivery.data_plane import DataPlane
from rudderpipe.delivery.dispatcher import Dispatcher
from rudderpipe.flusher import dead_letters
from rudderpipe.flusher.flusher import Flusher
from rudderpipe.process.clock import Clock
from rudderpipe.queue import job
from rudderpipe.queue.connection import Connection
from rudderpipe.queue.lease import Lease
from rudderpipe.queue.queue import Queue
from rudderpipe.ring import location, memory
from rudderpipe.ring.ring import Ring
from rudderpipe.sender.sender import Sender
from rudderpipe.settings import Settings
from tests.fakes import direct_sink, producer_of, settings_of

PACKAGE = str(Path(rudderpipe.__file__).parent) + os.sep
RESPONSE = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


def jumps(call: Callable[[], object]) -> Counter[str]:
    """Count the calls from one file of the package into another that ``call`` makes in this thread, by their names."""
    found: Counter[str] = Counter()

    def note(frame: FrameType, event: str, _argument: object) -> None:
        caller = frame.f_back
        if event != "call" or caller is None:
            return
        there, here = frame.f_code, caller.f_code
        is_ours = all(code.co_filename.startswith(PACKAGE) for code in (there, here))
        if there.co_filename != here.co_filename and is_ours:
            place, target = (f"{code.co_filename.removeprefix(PACKAGE)}:{code.co_name}" for code in (here, there))
            found[f"{place} > {target}"] += 1

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        call()
    finally:
        sys.setprofile(before)
    return found


class ScriptedRedis:
    """A client of Redis, and its connection, that answers scripts from a list; it knows no other keys."""

    def __init__(self, *answers: Any) -> None:
        self.connection = self
        self.answers = list(answers)

    def can_read(self) -> bool:
        return False

    def send_packed_command(self, _command: list[bytes]) -> None:
        """Ignore the command, because the answers are scripted."""

    def read_response(self) -> Any:
        return self.answers.pop(0)

    @contextmanager
    def pipeline(self, **_options: bool) -> Iterator[ScriptedRedis]:
        self._asked: list[str] = []
        yield self

    def get(self, _key: str) -> None:
        self._asked.append("get")

    def info(self, _section: str) -> None:
        self._asked.append("info")

    def llen(self, _key: str) -> None:
        self._asked.append("count")

    zcard = llen

    def execute(self, *, raise_on_error: bool) -> list[Any]:
        empty: dict[str, Any] = {"get": None, "info": {}, "count": 0}
        return [empty[name] for name in self._asked]

    def close(self) -> None:
        """Do nothing, because nothing is open."""


@pytest.fixture(name="settings")
def _settings(tmp_path: Path) -> Settings:
    where = {"write_key": "KEY", "data_plane_url": "http://127.0.0.1:9", "redis": "redis://127.0.0.1:9"}
    return settings_of(tmp_path, **where, max_jobs_per_request=1, flush_at=20)


@pytest.fixture(name="plane")
def _plane(monkeypatch: pytest.MonkeyPatch, settings: Settings) -> Iterator[DataPlane]:
    """Yield a real data plane's client, with a server at the other end of a pair of sockets."""
    threads: list[threading.Thread] = []

    def dial(*_arguments: object) -> socket.socket:
        ours, theirs = socket.socketpair()
        threads.append(threading.Thread(target=respond, args=(theirs,)))
        threads[-1].start()
        return ours

    monkeypatch.setattr(connection, "dial", dial)
    plane = DataPlane(settings)
    yield plane
    plane.close()
    for thread in threads:
        thread.join()


def respond(server: socket.socket) -> None:
    """Respond to each request, which comes in one piece, until the connection is closed."""
    with server:
        while server.recv(1 << 16):
            server.sendall(RESPONSE)


def taken(name: bytes) -> list[Any]:
    """Return what ``take_jobs`` returns for one job of two events."""
    data = job.build(b'{"userId":"a"},{"userId":"b"}', "KEY", "t", 7).encode()
    return [[name, [b"data", data, b"attemptsMade", b"0"]]]


def test_a_cycle_of_the_sender_stays_in_few_files(
    monkeypatch: pytest.MonkeyPatch, settings: Settings, plane: DataPlane
) -> None:
    """The cycle completes one job, and takes and delivers the next one."""
    lease, recovered, promoted = [1, b"1 me", 10_000, 0], [0, 0], [0, -1]
    redis = ScriptedRedis(lease, recovered, promoted, taken(b"1"), [1], taken(b"2"), [1], [])
    monkeypatch.setattr(Connection, "_find", lambda _self: redis)
    clock = Clock()
    queue = Queue(settings, clock)
    lease_of_ours = Lease(queue, settings.lease_ms, "me 1 0", lambda _holder: False)
    sender = Sender(queue, [Dispatcher(plane, settings, clock)], lease_of_ours, settings, clock)
    written = [sender.work()]

    found = jumps(lambda: written.append(sender.work()))

    written.append(sender.work())
    assert written == [0, 1, 1]
    assert found.total() <= 53, found


def test_a_cycle_of_the_flusher_in_direct_mode_stays_in_few_files(
    ring: Ring, settings: Settings, plane: DataPlane
) -> None:
    """The cycle delivers one batch."""
    clock = Clock()
    producer = producer_of(ring, clock)
    sink = direct_sink(ring, settings, plane, dead_letters.of(settings), clock)
    flusher = Flusher(ring, sink, settings, clock)
    moved: list[int] = []
    for _ in range(2):
        for _ in range(settings.flush_at):
            assert producer.append(b'{"userId":"a"}') is None
        found = jumps(lambda: moved.append(flusher.work()))

    assert moved == [settings.flush_at] * 2
    assert found.total() <= 80, found


@pytest.fixture(name="client")
def _client(tmp_path: Path) -> Iterator[Client]:
    """Yield a client whose ring has no flusher."""
    settings = settings_of(tmp_path, write_key="KEY", data_plane_url="http://127.0.0.1:9", autostart=False)
    yield Client(settings=settings)
    memory.remove(location.own(settings).segment)


def test_the_first_events_of_a_client_stay_in_few_files(client: Client) -> None:
    """The first event makes the ring and takes a slot; the second one takes credits for more; the third one nothing."""
    accepted: list[bool] = []

    first, second, third = (jumps(lambda: accepted.append(client.track("u", "e", {"a": 1}))) for _ in range(3))

    assert accepted == [True] * 3
    assert first.total() <= 80, first
    assert second.total() <= 11, second
    assert third.total() <= 2, third


def test_a_message_on_the_slow_path_stays_in_few_files(client: Client) -> None:
    """Its arguments become fields, which are checked, completed and encoded."""
    for _ in range(2):
        assert client.track("u", "e")

    found = jumps(lambda: client.page("u", "category", "name", {"a": 1}))

    assert found.total() <= 9, found
