"""Lanes over real processes: the order of each user's events, while lanes are delayed and fail, and senders die."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, cast
from zlib import decompress

import msgspec
import pytest

from native_tests.processes import wait_until
from rudderpipe import settings as settings_module
from rudderpipe.cli import status
from rudderpipe.flusher import lanes
from rudderpipe.observe import snapshot
from rudderpipe.process.clock import Clock
from rudderpipe.queue import job
from rudderpipe.queue.queue import NewJob, Queue
from rudderpipe.testing.redis_server import RedisServer

USERS = [f"user{number}" for number in range(40)]
EVENTS = 2000


class UnevenPlane:
    """A data plane that delays and fails each user's requests differently, and keeps the order of what it took."""

    def __init__(self) -> None:
        self.taken: list[tuple[str, int]] = []
        self.under_way = self.most_under_way = 0
        self.held = threading.Event()
        self.held.set()
        self._lock = threading.Lock()
        self._dice = random.Random(7)
        plane = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = decompress(self.rfile.read(int(self.headers["content-length"])), 31)
                with suppress(OSError):  # the sender may have been killed
                    self.send_response(plane.take(msgspec.json.decode(body)["batch"]))
                    self.send_header("content-length", "0")
                    self.send_header("retry-after", "0")
                    self.end_headers()

            def log_message(self, *_arguments: Any) -> None:
                """Log nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def take(self, batch: list[dict[str, Any]]) -> int:
        """Wait as long as the first user's name asks for, and take the events, or fail now and then."""
        with self._lock:
            self.under_way += 1
            self.most_under_way = max(self.under_way, self.most_under_way)
        self.held.wait(60)
        threading.Event().wait((hash_of(batch[0]["userId"]) % 8) / 100)
        with self._lock:
            self.under_way -= 1
            if self._dice.random() < 0.02:
                return 503
            self.taken += [(event["userId"], event["properties"]["n"]) for event in batch]
            return 200

    def first_copies(self) -> list[tuple[str, int]]:
        """Return the events in the order in which they were first taken."""
        return list(dict.fromkeys(self.taken))

    def close(self) -> None:
        self.held.set()
        self._server.shutdown()
        self._server.server_close()


def hash_of(user: str) -> int:
    """Return a number that differs between users, and not between runs."""
    return sum(user.encode())


class LaneSenders:
    """A queue with events of many users, and senders before the data plane."""

    def __init__(self, server: RedisServer, directory: Path) -> None:
        self.plane = UnevenPlane()
        self.server = server
        self._directory = directory
        self.settings = settings_module.load(
            {"redis": server.url, "write_key": "KEY", "data_plane_url": self.plane.url}, environment={}
        )
        self.queue = Queue(self.settings, Clock())
        self._processes: list[subprocess.Popen[bytes]] = []
        self.events: list[tuple[str, int]] = []
        self._dice = random.Random(3)

    def add(self, count: int, number_of_lanes: int) -> None:
        """Add so many events in jobs of these lanes, or in jobs without a lane."""
        events = [(self._dice.choice(USERS), len(self.events) + number) for number in range(count)]
        self.events += events
        texts = [b'{"userId":"%b","properties":{"n":%d}}' % (user.encode(), n) for user, n in events]
        jobs: list[NewJob] = []
        if number_of_lanes == 1:
            for start in range(0, count, 5):
                part = texts[start : start + 5]
                jobs.append((job.build(b",".join(part), "KEY", "t", 7), len(part)))
        else:
            for each in lanes.parts_of(list(map(msgspec.Raw, texts)), number_of_lanes, 5, 100_000):
                data = job.build(b",".join(each.events), "KEY", "t", 7)
                jobs.append((data, len(each.events), f"{each.lane}/{number_of_lanes}"))
        self.queue.add(7, jobs, {}, [])

    def sender(self, number_of_lanes: int) -> subprocess.Popen[bytes]:
        """Start a sender."""
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("RUDDERPIPE_")},
            "RUDDERPIPE_REDIS": self.server.url,
            "RUDDERPIPE_DATA_PLANE_URL": self.plane.url,
            "RUDDERPIPE_LANES": str(number_of_lanes),
            "RUDDERPIPE_MAX_JOBS_PER_REQUEST": "5",
            "RUDDERPIPE_LEASE_MS": "2000",
        }
        with (self._directory / "log").open("ab") as log:
            command = [sys.executable, "-m", "rudderpipe.sender", "--verbose"]
            self._processes.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log))
        return self._processes[-1]

    def wait_until_settled(self) -> None:
        """Wait until no job waits or is active."""

        def left() -> int:
            counts = self.queue.counts()
            return counts.waiting + counts.active

        wait_until(lambda: not left(), 120, lambda: (left(), (self._directory / "log").read_text()[-3000:]))

    def check(self) -> None:
        """Check that every event arrived, and that the first copies of each user's events are in order."""
        found = self.plane.first_copies()
        assert sorted(found) == sorted(self.events)
        for user in USERS:
            numbers = [n for each, n in found if each == user]
            assert numbers == sorted(numbers)

    def end(self) -> None:
        for process in self._processes:
            process.kill()
            process.wait()
        self.queue.close()
        self.plane.close()


@pytest.fixture(name="senders")
def _senders(redis_server: RedisServer, directory: Path) -> Iterator[LaneSenders]:
    senders = LaneSenders(redis_server, directory)
    yield senders
    senders.end()


def test_each_users_events_arrive_in_order(senders: LaneSenders) -> None:
    """Each lane has a request under way, some lanes are slower, and requests fail. No event comes twice."""
    senders.add(EVENTS, 8)
    senders.sender(8)

    senders.wait_until_settled()

    senders.check()
    assert senders.plane.most_under_way > 4
    assert len(senders.plane.taken) == EVENTS


def test_jobs_without_a_lane_and_of_other_lanes_keep_the_order(senders: LaneSenders) -> None:
    """The number of lanes changes in the middle, and a Node SDK adds jobs. Barriers come in their place."""
    for number_of_lanes in (8, 1, 8, 4, 8):
        senders.add(EVENTS // 5, number_of_lanes)
    first = senders.sender(8)
    wait_until(lambda: len(senders.plane.taken) > EVENTS // 4)
    first.terminate()
    assert first.wait(30) == 0
    senders.sender(4)

    senders.wait_until_settled()

    senders.check()
    assert len(senders.plane.taken) == EVENTS
    whole = EVENTS // 5
    place = {event: number // whole for number, event in enumerate(senders.events)}
    order = [place[event] for event in senders.plane.first_copies()]
    assert order == sorted(order)


@pytest.mark.parametrize("number", range(3))
def test_a_killed_sender_loses_nothing_and_keeps_the_order(senders: LaneSenders, number: int) -> None:
    """The requests of several lanes are under way at its death. Only their events may come twice."""
    senders.add(EVENTS, 8)
    for death in range(1, 4):
        sender = senders.sender(8)
        wait_until(lambda death=death: len(senders.plane.taken) > death * (number + 1) * EVENTS // 20)  # type: ignore[misc]  # mypy knows no type for the default
        sender.kill()
        assert sender.wait() == -signal.SIGKILL
    senders.sender(8)

    senders.wait_until_settled()

    senders.check()
    assert len(senders.plane.taken) - EVENTS <= 3 * 8 * 5 * 5


def test_a_stop_waits_for_the_requests_of_all_lanes(senders: LaneSenders) -> None:
    """Their results are written down, so that nothing comes twice."""
    senders.add(EVENTS, 8)
    senders.plane.held.clear()
    sender = senders.sender(8)
    wait_until(lambda: senders.plane.under_way == 8)
    sender.terminate()
    senders.plane.held.set()
    assert sender.wait(30) == 0

    assert senders.queue.counts().active == 0
    senders.sender(8)
    senders.wait_until_settled()
    senders.check()
    assert len(senders.plane.taken) == EVENTS


def test_status_shows_the_lanes(senders: LaneSenders) -> None:
    """Operators see which lanes are behind, and that jobs without a lane wait for them."""
    senders.add(100, 2)
    senders.add(10, 1)
    senders.plane.held.clear()
    senders.sender(2)
    wait_until(lambda: senders.plane.under_way == 2)
    wait_until(lambda: senders.queue.counts().waiting == 0)
    client = cast(Any, senders.server.text_client())
    oldest = client.lindex(senders.queue.keys.active, -1)
    client.hset(senders.queue.keys.base + oldest, "attemptsMade", 1)

    found = snapshot.take(senders.settings)

    assert found.queue is not None
    assert {each.lane for each in found.queue.lanes} == {"0/2", "1/2", ""}
    assert sum(each.active for each in found.queue.lanes) == found.queue.active
    assert sum(each.retrying for each in found.queue.lanes) == 1
    (shown,) = [line for line in status.lines_of(found, senders.settings, []) if line.startswith("lanes")]
    assert "no lane: 2 active" in shown
    assert "(1 tried again)" in shown
    assert any("without a lane wait" in line for line in status.lines_of(found, senders.settings, []))
