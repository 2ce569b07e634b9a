"""Helpers for tests of foreign hosts: programs that note each call, and a check that every accepted event arrived."""

from __future__ import annotations

import http.client
import json
import signal
import subprocess
import sys
import threading
from collections import Counter, defaultdict
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from native_tests.processes import Processes, wait_until
from rudderpipe.cli.demo import UnixConnection

# Notes the result of each call with one write. The file is opened once, and forked children inherit it. O_APPEND keeps
# the lines of many processes whole. Nothing here takes a lock, so it can be called from anywhere.
TALLY = """
import itertools, os, pathlib

numbers = itertools.count()
notes = os.open(pathlib.Path(__file__).with_name("notes"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

def track(client, count, where, between=None):
    accepted = 0
    for _ in range(count):
        n = next(numbers)
        was_accepted = client.track("u", "e", {"pid": os.getpid(), "n": n, "where": where})
        os.write(notes, b"%d %d %d\\n" % (os.getpid(), n, was_accepted))
        accepted += was_accepted
        if between is not None:
            between()
    return accepted
"""

# One WSGI application for all servers. Its client is made and used in the process that loads it, and in each worker.
APP = """
import itertools, threading
import rudderpipe, tally

client = rudderpipe.Client()
tally.track(client, 30, "import")
requests = itertools.count()

def application(environ, start_response):
    tally.track(client, 10, "request %d" % next(requests))
    start_response("200 OK", [("content-length", "2")])
    return [b"ok"]
"""

PATIENCE_S = 80.0
"""A program that takes longer hangs, also on a busy machine. The deadlines within the programs are shorter."""


class Event(NamedTuple):
    """The origin of an event: its process, its number in that process, and the place in the program."""

    pid: int
    n: int
    where: str


class Hosts:
    """Programs that note each call of ``track``, and the comparison of the notes with what the data plane got."""

    def __init__(self, processes: Processes, directory: Path) -> None:
        self.processes = processes
        self.directory = directory
        # Few and large requests, so that the data plane keeps all of them. The ring must still exist at the end.
        processes.explicit |= {"flush_at": 10_000, "max_batch_bytes": 3_000_000, "max_request_bytes": 3_000_000}
        processes.explicit |= {"linger_s": 60.0, "max_internal_queue_size": 60_000}
        self.write("tally", TALLY)

    def write(self, module: str, text: str) -> str:
        """Write a module that programs in the directory can import, and return its path."""
        path = self.directory / f"{module}.py"
        path.write_text(text)
        return str(path)

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Start a host, which the fixture kills at the end; pytest shows its output when the test fails."""
        return self.processes.start(*arguments, cwd=self.directory)

    def run(self, text: str, *arguments: str) -> None:
        """Run a program to its end; kill it and fail the test if it hangs."""
        process = self.start("-X", "faulthandler", "-W", "ignore", self.write("program", text), *arguments)
        try:
            code = process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGABRT)  # faulthandler prints where the program hangs
            raise AssertionError(f"it hangs; exit code {process.wait()}") from None
        assert code == 0

    def serve(self, socket: Path, processes: int, clients: int = 4, requests: int = 25) -> int:
        """Send requests to a listening server from several clients until so many processes have tracked.

        Return the number of requests with a response.
        """
        wait_until(lambda: _listens(socket))
        answered = self._ask(socket, clients, requests)
        while len({pid for pid, _ in self.noted()[0]}) < processes:
            answered += self._ask(socket, clients, requests)
        return answered

    def _ask(self, socket: Path, clients: int, requests: int) -> int:
        answered: list[bytes] = []

        def ask() -> None:
            for _ in range(requests):
                connection = UnixConnection(socket)
                try:
                    connection.request("GET", "/")
                    answered.append(connection.getresponse().read())
                except (OSError, http.client.HTTPException):
                    pass  # the server was replacing its worker; what the worker noted must arrive nevertheless
                finally:
                    connection.close()

        threads = [threading.Thread(target=ask) for _ in range(clients)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return answered.count(b"ok")

    def noted(self) -> tuple[set[tuple[int, int]], int]:
        """Return (pid, n) of the accepted calls, and the number of refused ones."""
        lines = [tuple(map(int, line.split())) for line in (self.directory / "notes").read_bytes().splitlines()]
        accepted = [(pid, n) for pid, n, is_accepted in lines if is_accepted]
        assert len(set(accepted)) == len(accepted), "the program numbered two calls alike"
        return set(accepted), len(lines) - len(accepted)

    def events(self) -> list[Event]:
        """Return what the data plane got, in its order."""
        stats = self.processes.plane.stats()
        bodies = self.processes.plane.last_events()
        assert len(bodies) == stats["requests"], "the data plane has forgotten requests: make them fewer"
        properties = [event["properties"] for body in bodies for event in json.loads(body)["batch"]]
        return [Event(found["pid"], found["n"], found["where"]) for found in properties]

    def _counted(self) -> tuple[set[tuple[int, int]], int, list[Event], dict[str, Any]]:
        """Return the accepted calls, the refused ones, the events and the counts of the data plane.

        An ending worker may still track, so they are read again until they agree, and as they are after a while.
        """
        seen: list[tuple[set[tuple[int, int]], int, list[Event], dict[str, Any]]] = []

        def agrees() -> bool:
            with suppress(AssertionError):  # a request came in between
                seen[:] = [(*self.noted(), self.events(), self.processes.plane.stats())]
                accepted, _, events, stats = seen[0]
                arrived = {(event.pid, event.n) for event in events}
                return accepted == arrived and bool(stats["unique_message_ids"] == len(accepted))
            return False

        with suppress(AssertionError):  # the caller says what differs
            wait_until(agrees)
        return seen[0]

    def assert_all_arrived(self, *, refused: bool = False, ordered: bool = True) -> list[Event]:
        """Check that each accepted call arrived once and no other did, and that the ring's account agrees.

        With ``ordered``, the events of one place in one process arrived in the order of its calls.
        """
        wait_until(lambda: not (now := self.processes.status().events).in_ring and now.delivered == now.accepted)
        accepted, refusals, events, stats = self._counted()
        arrived = Counter((event.pid, event.n) for event in events)
        missing, strange = accepted - set(arrived), set(arrived) - accepted
        assert not missing, f"{len(missing)} of {len(accepted)} lost: {sorted(missing)[:5]}"
        assert not strange, f"{len(strange)} arrived without an accepted call: {sorted(strange)[:5]}"
        assert max(arrived.values()) == 1, [key for key, count in arrived.items() if count > 1][:5]
        assert (stats["unique_message_ids"], stats["duplicates"]) == (len(accepted), 0)
        account = self.processes.status().events
        if account.accepted != len(accepted) or account.in_ring:  # an ending worker may have tracked more since
            wait_until(
                lambda: (now := self.processes.status().events).delivered == now.accepted == len(self.noted()[0]),
                describe=lambda: (self.processes.status(), len(self.noted()[0])),
            )
            account = self.processes.status().events
        assert account.failed == 0
        assert account.balanced
        assert sum(account.refused.values()) == refusals, account.refused
        assert refused or not refusals, account.refused
        if ordered:
            places: defaultdict[tuple[int, str], list[int]] = defaultdict(list)
            for event in events:
                places[event.pid, event.where].append(event.n)
            assert [place for place, numbers in places.items() if numbers != sorted(numbers)] == []
        return events


def script(name: str) -> str:
    """Return the path of a console script of the Python that runs the tests."""
    return str(Path(sys.executable).with_name(name))


def _listens(socket: Path) -> Any:
    connection = UnixConnection(socket)
    try:
        connection.connect()
    except OSError:
        return False
    finally:
        connection.close()
    return True


def status_of(listening: Path) -> int:
    """Return the status of the response to one request."""
    connection = UnixConnection(listening)
    try:
        connection.request("GET", "/")
        return connection.getresponse().status
    finally:
        connection.close()


def responds(listening: Path) -> bool:
    """Return True if the server responds to a request."""
    try:
        return status_of(listening) > 0
    except (OSError, http.client.HTTPException):
        return False
