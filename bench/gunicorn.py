"""What one ``track()`` costs in a web worker: requests a second, and the workers' CPU for one request.

Each candidate has a gunicorn of its own, with preloaded sync workers that respond to each request with two bytes. They
are loaded in turn, by wrk where it is installed, else by a small process of ours. The workers' CPU is counted until
the events have arrived at a local data plane, because the other SDKs send them in the worker. Everything runs on this
machine: the load, the workers, flusher, Redis, sender and data plane.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import psutil

import rudderpipe
from bench import peers, report
from bench.forked import at_once
from bench.plane import Plane, wait_for
from bench.report import Result, Rig
from bench.servers import Servers, run_s, servers

CONNECTIONS = 8
REQUEST = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
ALONE = ("without an SDK", "rudderpipe, direct", "rudderpipe, Redis")
PEERS = {"rudder-sdk-python": "rudder_sdk_python", "segment-analytics-python": "segment_analytics_python"}

Application = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


def application(name: str) -> Application:
    """Return the WSGI application of a candidate; gunicorn calls this before it forks the workers."""
    headers, body = [("Content-Length", "2")], [b"ok"]
    call = _call_of(name)

    def respond(_environment: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if call is not None:
            call()
        start_response("200 OK", headers)
        return body

    return respond


def _call_of(name: str) -> peers.Call | None:
    if name == ALONE[0]:
        return None
    if name in ALONE:
        client = rudderpipe.Client()
        return lambda: client.track("123456", "Item Viewed", peers.PROPERTIES)
    peers.quiet()
    made: list[peers.Call] = []

    def call() -> None:
        if not made:  # at a worker's first request, because a thread that sends does not outlive a fork
            made.append(getattr(peers, PEERS[name])(os.environ["RUDDERPIPE_DATA_PLANE_URL"])[0])
        made[0]()

    return call


class Round(NamedTuple):
    """One candidate's figures of one round."""

    requests_per_s: float
    cpu_us: float
    """CPU of the workers for one request."""


class Server:
    """A gunicorn with the application of one candidate."""

    def __init__(self, name: str, found: Servers, workers: int) -> None:
        self.name = name
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port: int = probe.getsockname()[1]
        self._process = found.start(
            name,
            *(sys.executable, "-m", "gunicorn", "--preload", "--workers", str(workers), "--log-level", "warning"),
            *("--bind", f"127.0.0.1:{self.port}", f'bench.gunicorn:application("{name}")'),
            RUDDERPIPE_WHEN_FULL="drop",
        )
        deadline_s = time.monotonic() + 20
        while len(self._workers()) < workers or not self._responds():
            if time.monotonic() > deadline_s:
                raise SystemExit(f"gunicorn did not start: {name}")
            time.sleep(0.05)

    def _workers(self) -> list[int]:
        return [child.pid for child in psutil.Process(self._process.pid).children()]

    def _responds(self) -> bool:
        try:
            return request(self.port)
        except OSError:
            return False

    def measure(self, load: Callable[[int, float], tuple[int, float]], seconds: float, plane: Plane) -> Round:
        """Load the server, and wait until all of its events have arrived."""
        plane.stats(reset=True)
        workers = self._workers()
        before_s = sum(map(run_s, workers))
        requests, elapsed_s = load(self.port, seconds)
        if self.name != ALONE[0]:
            for _ in wait_for(plane, requests, timeout_s=60):
                pass
        used_s = sum(map(run_s, workers)) - before_s
        if workers != self._workers():
            raise SystemExit(f"a worker ended: {self.name}")
        return Round(requests / elapsed_s, used_s / requests * 1e6)


def request(port: int) -> bool:
    """Make one request on a connection of its own, as sync workers keep none open; return whether it was responded."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as sock:
        sock.sendall(REQUEST)
        answer = b""
        while more := sock.recv(4096):
            answer += more
    return answer.startswith(b"HTTP/1.1 200") and answer.endswith(b"ok")


def load_by_wrk(port: int, seconds: float) -> tuple[int, float]:
    """Return the requests that wrk made, and the seconds that they took."""
    command = ["wrk", "-t", "1", "-c", str(CONNECTIONS), "-d", f"{seconds:g}", f"http://127.0.0.1:{port}/"]
    shown = subprocess.run(command, capture_output=True, check=True, text=True).stdout
    found = re.search(r"(\d+) requests in ([\d.]+)s", shown)
    if found is None or "Non-2xx" in shown:
        raise SystemExit(f"wrk could not be used:\n{shown}")
    return int(found[1]), float(found[2])


def load_by_us(port: int, seconds: float) -> tuple[int, float]:
    """Return the requests that a process of ours made, and the seconds that they took."""
    (counted,) = at_once(1, lambda _: _requests(port, seconds))
    return int(counted[0]), counted[1]


def _requests(port: int, seconds: float) -> tuple[float, float]:
    counts = [0] * CONNECTIONS
    start_s = time.monotonic()

    def ask(number: int) -> None:
        while time.monotonic() < start_s + seconds:
            counts[number] += request(port)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(CONNECTIONS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts), time.monotonic() - start_s


@contextlib.contextmanager
def running(names: Iterable[str], workers: int, plane: Plane) -> Iterator[list[Server]]:
    """Yield a gunicorn for each candidate, with the processes that it needs."""
    with servers(plane.url) as queued:
        direct = Servers(queued.directory, plane.url, queued.server)
        del direct.environment["RUDDERPIPE_REDIS"]
        try:
            queued.program("flusher")
            queued.program("sender")
            direct.program("flusher")
            yield [Server(name, queued if name == ALONE[2] else direct, workers) for name in names]
        finally:
            direct.end()


def results(rounds: int, seconds: float, workers: int, *, alone: bool) -> Iterator[Result]:
    load, by = (load_by_wrk, "wrk") if shutil.which("wrk") else (load_by_us, "a process of ours, as there is no wrk")
    found: dict[str, list[Round]] = {}
    with Plane() as plane, running(ALONE if alone else (*ALONE, *PEERS), workers, plane) as all_of:
        for server in all_of:
            server.measure(load, 1, plane)  # the first requests of each worker are not counted
        for _ in range(rounds):
            for server in all_of:
                found.setdefault(server.name, []).append(server.measure(load, seconds, plane))
    rig = Rig(seconds=seconds, redis=report.WITHOUT_AOF, note=f"{workers} preloaded sync workers, load by {by}")
    rates = {name: [each.requests_per_s for each in done] for name, done in found.items()}
    yield Result("gunicorn", "requests a second", "req/s", rates, rig, higher_is_better=True)
    cpu = {name: [each.cpu_us for each in done] for name, done in found.items()}
    yield Result("gunicorn_cpu", "CPU of the workers for one request", "us", cpu, rig)
    bare = found.pop(ALONE[0])
    share = {
        name: [each.requests_per_s / without.requests_per_s * 100 for each, without in zip(done, bare, strict=True)]
        for name, done in found.items()
    }
    title = "requests a second, in percent of those without an SDK in the same round"
    yield Result("gunicorn_share", title, "%", share, rig, higher_is_better=True, compared=False)
    added = {
        name: [each.cpu_us - without.cpu_us for each, without in zip(done, bare, strict=True)]
        for name, done in found.items()
    }
    yield Result("gunicorn_added", "CPU of the workers that one track() adds to a request", "us", added, rig)


def main() -> None:
    parser = report.options(__doc__, rounds=9)
    parser.add_argument("--seconds", type=float, default=2, help="of load on each candidate in a round")
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--alone", action="store_true", help="only rudderpipe")
    arguments = parser.parse_args()
    report.publish(
        results(arguments.rounds, arguments.seconds, arguments.workers, alone=arguments.alone), arguments.results
    )


if __name__ == "__main__":
    main()
