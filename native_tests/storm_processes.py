"""The processes of one pipe in a storm, with methods that find, kill, stop and resume them and count each death."""

from __future__ import annotations

import heapq
import itertools
import random
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import psutil

from native_tests.processes import Processes, is_over, wait_until
from native_tests.storm_producer import KINDS
from rudderpipe.service.signals import EXIT_OK, EXIT_STOPPED_NOW

ENDS = (EXIT_OK, EXIT_STOPPED_NOW, -signal.SIGKILL, -signal.SIGTERM)
"""Exit codes of our own children. The second follows a second signal, the last a signal before the handler existed."""


class Interruption(NamedTuple):
    """A kill, a stop or a request to end; ``end_s`` is when the process went on or was dead."""

    what: str
    pid: int
    start_s: float
    end_s: float


def kind_of(process: psutil.Process) -> str:
    """Return ``flusher`` (also for one that is about to start), ``sender`` or ``producer``."""
    try:
        command = " ".join(process.cmdline())
    except psutil.Error:
        command = ""
    return next((kind for kind in ("flusher", "sender") if f"rudderpipe.{kind}" in command), "producer")


def resume(process: psutil.Process) -> None:
    """Resume the process if it still exists."""
    try:
        process.resume()
    except psutil.NoSuchProcess:
        pass


class StormProcesses:
    """The producers, flushers and senders of one pipe; ``home`` is where producers leave their marks."""

    def __init__(
        self,
        processes: Processes,
        chance: random.Random,
        name: str,
        seed: int,
        *,
        senders: int,
        sender_options: tuple[str, ...] = (),
        kinds: tuple[str, ...] = KINDS,
    ) -> None:
        self.name = name
        self.deaths: Counter[str] = Counter()
        """Deaths by our SIGKILL, by kind. The exit status proves it for our own children, absence for others."""
        self.acts: Counter[str] = Counter()
        self.killed: set[int] = set()
        self.interruptions: list[Interruption] = []
        self._senders = senders
        self._sender_options = sender_options
        self._producer_kinds = kinds
        self._processes = processes
        self._chance = chance
        self._seed = seed
        self._numbers = itertools.count()
        self._turns = itertools.count()
        self._own: dict[int, subprocess.Popen[bytes]] = {}
        self._kinds: dict[int, str] = {}
        self._agenda: list[tuple[float, int, Callable[[], None]]] = []
        self.runtime_dir = Path(processes.explicit["runtime_dir"])
        self.runtime_dir.mkdir(mode=0o700, parents=True)
        self.home = self.runtime_dir.parent / "marks"
        self.home.mkdir()

    def of(self, kind: str) -> list[psutil.Process]:
        """Return the living processes of one kind, with forked producers and flushers that are about to start."""
        return [one for one in self._processes.own_processes() if kind_of(one) == kind]

    def fill(self, producers: int) -> None:
        """Start producers and senders until there are enough; forked producers are not counted."""
        living = Counter(self._kinds[pid] for pid, one in self._own.items() if one.poll() is None)
        for _ in range(producers - living["producer"]):
            name, kind = f"{self.name}{next(self._numbers)}", self._chance.choice(self._producer_kinds)
            arguments = (str(self.runtime_dir), str(self._seed), name, kind)
            self._start("producer", "-m", "native_tests.storm_producer", *arguments)
        for _ in range(self._senders - living["sender"]):
            log = self.runtime_dir / f"sender-{next(self._numbers)}.log"
            self._start("sender", "-m", "rudderpipe.sender", *self._sender_options, "--log", str(log))

    def _start(self, kind: str, *command: str) -> None:
        with (self.home / "errors").open("ab") as errors:
            process = self._processes.start(*command, stderr=errors)
        self._own[process.pid] = process
        self._kinds[process.pid] = kind
        self.acts[f"{kind}s started"] += 1

    def kill(self, process: psutil.Process, what: str, since_s: float | None = None) -> None:
        """Send SIGKILL and wait for its effect; ``since_s`` is when the process was stopped."""
        own = self._own.get(process.pid)
        start_s = since_s or time.time()
        try:
            if is_over(process):
                return
            self.killed.add(process.pid)
            process.kill()
        except psutil.NoSuchProcess:
            return
        wait_until(lambda: is_over(process))
        self.interruptions.append(Interruption(what, process.pid, start_s, time.time()))
        if own is None or own.wait() == -signal.SIGKILL:
            self.deaths[what if own or what != "producer" else "forked producer"] += 1

    def stop(self, process: psutil.Process, what: str, most_s: float = 1.0) -> None:
        """Send SIGSTOP, and SIGCONT or SIGKILL at most ``most_s`` later."""
        since_s = time.time()
        try:
            process.suspend()
        except psutil.NoSuchProcess:
            return
        self.acts[f"{what} stopped"] += 1
        if self._chance.random() < 0.4:
            self.later(most_s, lambda: self.kill(process, what, since_s))
        else:
            self.later(most_s, lambda: self._resume(process, what, since_s))

    def _resume(self, process: psutil.Process, what: str, since_s: float) -> None:
        resume(process)
        self.interruptions.append(Interruption(what, process.pid, since_s, time.time()))

    def terminate(self, process: psutil.Process, what: str) -> None:
        """Send SIGTERM, after which the process drains and ends by itself."""
        try:
            process.terminate()
        except psutil.NoSuchProcess:
            return
        self.acts[f"{what} asked to end"] += 1
        self.interruptions.append(Interruption(what, process.pid, time.time(), time.time() + 10.0))

    def end_senders(self) -> None:
        """Ask the senders to end, and wait until they have."""
        senders = [one for pid, one in self._own.items() if self._kinds[pid] == "sender" and one.poll() is None]
        for one in senders:
            one.terminate()
        for one in senders:
            one.wait(30)

    def later(self, most_s: float, thing: Callable[[], None]) -> None:
        """Schedule a call for a random moment within ``most_s``."""
        due_s = time.monotonic() + self._chance.uniform(0.01, most_s)
        heapq.heappush(self._agenda, (due_s, next(self._turns), thing))

    def do_what_is_due(self, *, everything: bool = False) -> None:
        """Make the scheduled calls that are due, or all of them."""
        while self._agenda and (everything or self._agenda[0][0] <= time.monotonic()):
            heapq.heappop(self._agenda)[2]()

    def wrong(self) -> list[str]:
        """Return wrong exit codes of our own children, and tracebacks of any process."""
        wrong = [
            f"{self._kinds[pid]} {pid} ended with {one.wait()}"
            for pid, one in self._own.items()
            if one.wait() not in ENDS
        ]
        said = (self.home / "errors").read_text() + "".join(self.logs())
        return wrong + [found[:3000] for found in said.split("Traceback")[1:]]

    def logs(self) -> list[str]:
        """Return what flushers and senders logged."""
        return [path.read_text(errors="replace") for path in sorted(self.runtime_dir.glob("*.log*"))]
