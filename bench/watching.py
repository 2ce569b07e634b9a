"""The cost of watching a pipe: the CPU of ``rudderpipe top``, and the rate while the flusher's metrics are read.

``top`` runs in a terminal while events come at a fixed rate. The metrics are read once a second while events come as
fast as there is room for them.
"""

from __future__ import annotations

import contextlib
import os
import pty
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from functools import partial

from bench import report
from bench.end_to_end import OURS, measured
from bench.plane import Plane
from bench.report import Result, Rig
from bench.scale import PACED
from bench.servers import run_s, servers

RATE = 5_000
WATCHED = {"nothing happens": (1, 0), "1 queue": (1, RATE), "4 queues": (4, RATE)}
"""The queues, and the events a second."""


def refresh_ms(plane: Plane, queues: int, rate: int, seconds: int) -> float:
    """Return the CPU of one refresh of ``top``, which it makes once a second."""
    with servers(plane.url) as found:
        found.environment["RUDDERPIPE_QUEUES"] = str(queues)
        found.program("flusher")
        found.start("senders", sys.executable, "-m", "rudderpipe.sender", "--all")
        found.await_start()
        if rate:
            events = str(rate * (seconds + 5))
            found.producer("producer", sys.executable, "-c", PACED, events, str(rate))
        outside, inside = pty.openpty()
        command = (sys.executable, "-m", "rudderpipe", "top")
        variables = {**found.environment, "TERM": "xterm-256color"}
        with subprocess.Popen(command, env=variables, stdin=inside, stdout=inside, stderr=inside) as top:
            os.close(inside)
            threading.Thread(target=_discard, args=(outside,), daemon=True).start()
            time.sleep(3)
            before_s = run_s(top.pid)
            time.sleep(seconds)
            used_s = run_s(top.pid) - before_s
            top.terminate()
    return used_s / seconds * 1000


def _discard(descriptor: int) -> None:
    with contextlib.suppress(OSError):  # the terminal's other end was closed
        while os.read(descriptor, 1 << 16):
            pass


def rate_while_read(plane: Plane, events: int, *, reads: bool) -> float:
    """Return the delivered events a second."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    with servers(plane.url) as found:
        found.start("flusher", sys.executable, "-m", "rudderpipe.flusher", "--admin", address)
        found.program("sender")
        found.await_start()
        plane.stats(reset=True)
        ended = threading.Event()
        reader = threading.Thread(target=_read, args=(f"http://{address}/metrics", ended))
        if reads:
            reader.start()
        found.producer("producer", sys.executable, "-c", OURS, str(events))
        try:
            return measured(plane, found, events)[0]
        finally:
            ended.set()
            if reads:
                reader.join()


def _read(url: str, ended: threading.Event) -> None:
    while True:
        with urllib.request.urlopen(url) as answer:
            answer.read()
        if ended.wait(1.0):
            return


def results(rounds: int, seconds: int, events: int) -> Iterator[Result]:
    with Plane() as plane:
        watched = {name: partial(refresh_ms, plane, *how, seconds) for name, how in WATCHED.items()}
        rig = Rig(seconds=seconds, redis=report.WITHOUT_AOF, note=f"{RATE:,} events/s, except where nothing happens")
        title = "CPU of one refresh of rudderpipe top"
        yield Result("watching_top", title, "ms", report.in_turn(rounds, watched), rig, compared=False)
        ways = {
            "without": partial(rate_while_read, plane, events, reads=False),
            "read once a second": partial(rate_while_read, plane, events, reads=True),
        }
        rates = report.in_turn(rounds, ways)
    rig = Rig(events=events, redis=report.WITHOUT_AOF, note="1 producer, one queue")
    title = "delivered events a second while /metrics of the flusher is read"
    yield Result("watching_metrics", title, "events/s", rates, rig, higher_is_better=True)


def main() -> None:
    parser = report.options(__doc__, rounds=5)
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--events", type=int, default=400_000)
    arguments = parser.parse_args()
    report.publish(results(arguments.rounds, arguments.seconds, arguments.events), arguments.results)


if __name__ == "__main__":
    main()
